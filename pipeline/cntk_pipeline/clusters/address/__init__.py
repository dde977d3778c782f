"""A Dask scheduler that somebody else runs, and the access to it."""
