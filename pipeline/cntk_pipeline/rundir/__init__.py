"""A run directory: its files, its finished tiles, and the origin of its settings."""
