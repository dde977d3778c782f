"""A run directory: what lies in it, what of that is done, and whose word counts."""
