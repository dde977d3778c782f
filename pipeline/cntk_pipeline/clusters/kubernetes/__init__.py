"""Workers and drivers as pods."""
