"""The ``[cluster]`` table, for the place where tiles are computed."""

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from cntk_pipeline.config.listening import read_listener
from cntk_pipeline.config.section import OpenSection

SMALLEST_MEMORY_BYTES = 100 * 10**6
"""Smallest memory of a worker; its process takes twice as much with its libraries alone."""

MOST_WORKERS = 100_000
"""Largest number of workers: no cluster has more, so a larger one is a typing error."""

MOST_THREADS = 1024
"""Largest number of threads of a worker; no machine has so many cores."""

MOST_GPUS = 1024
"""Largest number of graphics cards of a machine; none has so many, parts of cards included."""


def parse_bytes(value: str | float) -> int:
    """Read a number of bytes as Dask writes it ("4GiB").

    Raises
    ------
    ValueError
        If it is none.
    """
    from dask.utils import parse_bytes as parse  # most tables have none, and Dask is slow to import

    if isinstance(value, str) and not re.search("[0-9]", value):  # Dask reads one byte, or one unit
        raise ValueError(f"no number of bytes: {value!r}")
    return int(parse(value))


def read_memory_limit(value: str | float) -> str | float:
    """Return the memory of a worker as given, after a check that it is valid for Dask.

    Raises
    ------
    ValueError
        If it is neither "auto", nor a share of the machine's memory, nor bytes that are enough for a worker.
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


def memory_limit_bytes(limit: str | float) -> int | None:
    """Return the memory of a worker, as `read_memory_limit` takes it, in bytes; None where it is a share or "auto"."""
    if limit == "auto" or (not isinstance(limit, str) and limit <= 1):
        return None
    return parse_bytes(limit)


def _read_metrics(text: str) -> str:
    read_listener(text)
    return text


def _read_dashboard(text: str) -> str:
    read_listener(f"0.0.0.0{text}" if text.startswith(":") else text)  # without a host, Dask listens on all addresses
    return text


EARLIER_DEFAULTS: dict[str, Any] = {
    "hosts": [],
    "batch_options": [],
    "setup": [],
    "drain_seconds": 120.0,
    "resubmit": False,
    "service_account": "cntk-driver",
    "secret": "cntk-s3",
}
"""Values that the first versions wrote into run directories for keys of a kind that were not given; others are null."""


class ClusterConfig(OpenSection):
    """``[cluster]``: where tiles are computed. No number in the results depends on it, beyond rounding.

    These keys are common to all kinds. Further keys belong to one kind.

    Attributes
    ----------
    kind : str
        The place where tiles are computed, by name; docs/operating.md compares the kinds.
    workers : int, optional
        Number of processes in all; by default one for every ``threads_per_worker`` cores that this process may use, or
        that the batch job or the hosts have.
    minimum_workers : int, optional
        Smallest number of workers while kernel tiles are computed; by default ``workers``.
    threads_per_worker : int
        Number of tiles that a process computes at once.
    gpus_per_node : int, optional
        Number of graphics cards of a machine, for kernels of ``engine = "cuda"``: each worker has a card of its own,
        and a machine at most so many workers. docs/gpu.md says what each kind does.
    memory_limit : str or float
        Memory of one worker. Bytes ("4GiB") are valid for all kinds; ``cntk plan`` says how many are needed. "slurm"
        takes no share, and "kubernetes" needs bytes. Others also take a share of the machine's memory (0.5). "auto"
        gives a worker the share of the machine's memory that its threads are of the cores; with "slurm" it is the
        default of the site.
    tls : bool
        Encrypt everything between processes, with certificates of the cluster's own.
    dashboard : str
        Address of Dask's dashboard; any but the loopback gives a warning.
    metrics : str, optional
        Address at which the driver itself serves Prometheus metrics, "HOST:PORT"; see docs/observability.md.
    """

    kind: str = "local"
    workers: int | None = Field(default=None, ge=1, le=MOST_WORKERS)
    minimum_workers: int | None = Field(default=None, ge=1, le=MOST_WORKERS)
    threads_per_worker: int = Field(default=1, ge=1, le=MOST_THREADS)
    gpus_per_node: int | None = Field(default=None, ge=1, le=MOST_GPUS)
    memory_limit: Annotated[str | float, AfterValidator(read_memory_limit)] = "auto"
    tls: bool = True
    dashboard: Annotated[str, AfterValidator(_read_dashboard)] = "127.0.0.1:0"
    metrics: Annotated[str, AfterValidator(_read_metrics)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_nobody_gave(cls, table: Any) -> Any:
        """Remove values that the first versions filled in; their sign is a null for a key of a kind, not in TOML."""
        if not isinstance(table, dict):
            return table
        of_kinds = {key: value for key, value in table.items() if key not in cls.model_fields}
        if None not in of_kinds.values():
            return table
        given = {
            key: value
            for key, value in of_kinds.items()
            if value is not None and not (key in EARLIER_DEFAULTS and value == EARLIER_DEFAULTS[key])
        }
        return {key: value for key, value in table.items() if key in cls.model_fields} | given
