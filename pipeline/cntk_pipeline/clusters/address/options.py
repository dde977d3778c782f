"""The keys of an existing Dask scheduler."""

from cntk_pipeline.clusters.options import Address, ClusterOptions
from cntk_pipeline.config.section import Place


class AddressOptions(ClusterOptions):
    """The keys of ``kind = "address"``.

    Attributes
    ----------
    address, scheduler_file : of the scheduler; one of the two.
    tls_ca_file, tls_cert, tls_key : PEM files of a client's certificates.
    """

    address: Address | None = None
    scheduler_file: Place | None = None
    tls_ca_file: Place | None = None
    tls_cert: Place | None = None
    tls_key: Place | None = None
