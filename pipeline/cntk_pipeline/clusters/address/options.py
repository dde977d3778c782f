"""The keys of an existing Dask scheduler."""

from cntk_pipeline.clusters.options import Address, ClusterOptions
from cntk_pipeline.config.section import Place


class AddressOptions(ClusterOptions):
    """The keys of ``kind = "address"``.

    Attributes
    ----------
    address, scheduler_file : of the scheduler; one of both.
    tls_ca_file, tls_cert, tls_key : by which it is reached, in PEM.
    """

    address: Address | None = None
    scheduler_file: Place | None = None
    tls_ca_file: Place | None = None
    tls_cert: Place | None = None
    tls_key: Place | None = None
