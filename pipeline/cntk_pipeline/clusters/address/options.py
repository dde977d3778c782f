"""The keys of an existing Dask scheduler."""

from cntk_pipeline.clusters.options import Address, ClusterOptions
from cntk_pipeline.config.section import Place


class AddressOptions(ClusterOptions):
    """The keys of ``kind = "address"``.

    Attributes
    ----------
    address : the address of the scheduler; give it or ``scheduler_file``.
    scheduler_file : the file in which the scheduler wrote its address.
    tls_ca_file : a PEM file of the authority that signed the scheduler's certificate.
    tls_cert : a PEM file of a client's certificate.
    tls_key : a PEM file of that certificate's key.
    """

    address: Address | None = None
    scheduler_file: Place | None = None
    tls_ca_file: Place | None = None
    tls_cert: Place | None = None
    tls_key: Place | None = None
