"""The common parts of all clusters of Dask workers."""
