"""The keys of an existing Dask scheduler."""

from cntk_pipeline.clusters.options import Address, ClusterOptions
from cntk_pipeline.config.section import Place


class AddressOptions(ClusterOptions):
    """The keys of ``kind = "address"``.

    Attributes
    ----------
    address : str, optional
        The address of the scheduler; give it or ``scheduler_file``.
    scheduler_file : str, optional
        The file in which the scheduler wrote its address.
    tls_ca_file : str, optional
        A PEM file of the authority that signed the scheduler's certificate.
    tls_cert : str, optional
        A PEM file of a client's certificate.
    tls_key : str, optional
        A PEM file of that certificate's key.
    """

    address: Address | None = None
    scheduler_file: Place | None = None
    tls_ca_file: Place | None = None
    tls_cert: Place | None = None
    tls_key: Place | None = None
