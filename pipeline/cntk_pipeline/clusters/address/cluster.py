"""The kind "address": a Dask scheduler that somebody else runs."""

from cntk_pipeline.clusters.address.executor import open_address
from cntk_pipeline.clusters.address.options import AddressOptions
from cntk_pipeline.clusters.cluster import Cluster

ADDRESS = Cluster(
    open_address, deed="connect to a Dask scheduler, which can run any code as you", options=AddressOptions
)
