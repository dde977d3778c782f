"""What every cluster of Dask workers needs."""
