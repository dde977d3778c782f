"""Runs tiles on workers until all are done or cannot be."""
