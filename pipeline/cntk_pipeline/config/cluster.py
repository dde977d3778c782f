"""The table that says where tiles are computed."""

import math
from typing import Annotated

from dask.utils import parse_bytes
from pydantic import AfterValidator, Field

from cntk_pipeline.config.listening import read_address, read_listener
from cntk_pipeline.config.section import Place, Section

SMALLEST_MEMORY_BYTES = 100 * 10**6
"""A worker's process that has loaded its libraries takes twice as much."""

MOST_WORKERS = 100_000
"""More than any cluster has: a slip of the hand, which would start as many processes."""

MOST_THREADS = 1024
"""Of a worker; no machine has so many cores."""


def read_memory_limit(value: str | float) -> str | float:
    """Return the memory of a worker as it was given, once it means something to Dask.

    Raises
    ------
    ValueError
        If it is neither "auto", nor a share of the machine's memory, nor bytes that a worker can live in.
    """
    if value == "auto" or (not isinstance(value, str) and 0 < value <= 1):
        return value
    try:
        size = parse_bytes(value) if isinstance(value, str) else value
        if math.isfinite(size) and size >= SMALLEST_MEMORY_BYTES:
            return value
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f'expected bytes ("4GiB"), at least {SMALLEST_MEMORY_BYTES // 10**6} MB, a share of the machine\'s memory '
        f'(0.5), or "auto", got {value!r}'
    )


def _read_metrics(text: str) -> str:
    read_listener(text)
    return text


def _read_dashboard(text: str) -> str:
    read_listener(f"0.0.0.0{text}" if text.startswith(":") else text)  # without a host, Dask listens on all addresses
    return text


class ClusterConfig(Section):
    """``[cluster]``: where tiles are computed. No number in the results depends on it.

    Attributes
    ----------
    kind : "local" worker processes, "serial" in one process, the "address" of a Dask scheduler, "slurm", "ssh" or
        "kubernetes".
    workers : processes, in all; None is one for every ``threads_per_worker`` cores that this process may use, or
        all that the batch job or the hosts have.
    minimum_workers : scale between so many and ``workers`` while kernel tiles are computed; None keeps ``workers``.
    threads_per_worker : tiles a process computes at once.
    memory_limit : of one worker, as Dask writes it: bytes ("4GiB"), a share of the machine's (0.5), or "auto".
    tls : encrypt everything between processes, with certificates of the cluster's own.
    tls_ca_file, tls_cert, tls_key : of an existing scheduler, in PEM.
    dashboard : where Dask's dashboard listens; anything but the loopback is warned of.
    metrics : where the driver itself serves Prometheus metrics, "HOST:PORT"; docs/observability.md says who needs it.
    address, scheduler_file : of an existing scheduler.
    interface : the network interface by which hosts reach one another ("ib0").
    hosts : of "ssh"; the first one runs the scheduler.
    python : the Python that has this package on the hosts; None is the path of this one.
    partition, account, time_limit : of a "slurm" job; the time as SLURM writes it ("1-00:00:00").
    batch_options : further lines of the batch job, each an option as sbatch takes it ("--constraint=avx512").
    setup : shell lines that run first in the batch job ("module load python").
    drain_seconds : before the time limit, for tiles in flight to finish; no further one is begun then.
    resubmit : let a job that met its time limit go on in the next one, until the run is complete.
    image, namespace, volume_claim : of "kubernetes": the container image, and the claim that holds the run directory.
    service_account, secret : of "kubernetes": what its driver may do, and a Secret whose entries all pods have as
        environment variables, such as the credentials of a bucket; deploy/kubernetes has both.
    """

    kind: str = "local"
    workers: int | None = Field(default=None, ge=1, le=MOST_WORKERS)
    minimum_workers: int | None = Field(default=None, ge=1, le=MOST_WORKERS)
    threads_per_worker: int = Field(default=1, ge=1, le=MOST_THREADS)
    memory_limit: Annotated[str | float, AfterValidator(read_memory_limit)] = "auto"
    tls: bool = True
    tls_ca_file: Place | None = None
    tls_cert: Place | None = None
    tls_key: Place | None = None
    dashboard: Annotated[str, AfterValidator(_read_dashboard)] = "127.0.0.1:0"
    metrics: Annotated[str, AfterValidator(_read_metrics)] | None = None
    address: Annotated[str, AfterValidator(read_address)] | None = None
    scheduler_file: Place | None = None
    interface: str | None = None
    hosts: list[str] = Field(default=[])
    python: str | None = None
    partition: str | None = None
    account: str | None = None
    time_limit: str | None = None
    batch_options: list[str] = Field(default=[])
    setup: list[str] = Field(default=[])
    drain_seconds: float = Field(default=120.0, ge=0)
    resubmit: bool = False
    image: str | None = None
    namespace: str | None = None
    volume_claim: str | None = None
    service_account: str = "cntk-driver"
    secret: str = "cntk-s3"

    @property
    def idle_options(self) -> list[str]:
        """Names of the options that were given, and that this kind of cluster does not look at."""
        return [name for name in self.model_fields_set if self.kind not in _KINDS_OF.get(name, (self.kind,))]


_KINDS_OF = {"address": ("address", "kubernetes"), "interface": ("ssh", "slurm"), "python": ("ssh", "slurm")} | {
    name: (kind,)
    for kind, names in {
        "address": ("scheduler_file", "tls_ca_file", "tls_cert", "tls_key"),
        "ssh": ("hosts",),
        "slurm": ("partition", "account", "time_limit", "batch_options", "setup", "drain_seconds", "resubmit"),
        "kubernetes": ("image", "namespace", "volume_claim", "service_account", "secret"),
    }.items()
    for name in names
}
"""Which kinds of cluster look at an option; all may at those that are not here."""
