"""Workers and drivers on this machine."""
