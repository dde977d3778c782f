"""Workers and drivers on hosts over ssh."""
