"""A Dask scheduler that somebody else runs, and who may reach it."""
