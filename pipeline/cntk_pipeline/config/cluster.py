"""The table that says where tiles are computed."""

import math
from typing import Annotated, Any

from dask.utils import parse_bytes
from pydantic import AfterValidator, Field, model_validator

from cntk_pipeline.config.listening import read_listener
from cntk_pipeline.config.section import OpenSection

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


EARLIER_DEFAULTS: dict[str, Any] = {
    "hosts": [],
    "batch_options": [],
    "setup": [],
    "drain_seconds": 120.0,
    "resubmit": False,
    "service_account": "cntk-driver",
    "secret": "cntk-s3",
}
"""What the first versions wrote into run directories for keys of a kind that nobody had given; null for the others."""


class ClusterConfig(OpenSection):
    """``[cluster]``: where tiles are computed. No number in the results depends on it.

    The keys of every kind are these. Those of one kind are in ``options``, and the kind reads them: `clusters.table`.

    Attributes
    ----------
    kind : a name of `clusters.CLUSTERS`.
    workers : processes, in all; None is one for every ``threads_per_worker`` cores that this process may use, or
        all that the batch job or the hosts have.
    minimum_workers : scale between so many and ``workers`` while kernel tiles are computed; None keeps ``workers``.
    threads_per_worker : tiles a process computes at once.
    memory_limit : of one worker, as Dask writes it: bytes ("4GiB"), a share of the machine's (0.5), or "auto".
    tls : encrypt everything between processes, with certificates of the cluster's own.
    dashboard : where Dask's dashboard listens; anything but the loopback is warned of.
    metrics : where the driver itself serves Prometheus metrics, "HOST:PORT"; docs/observability.md says who needs it.
    """

    kind: str = "local"
    workers: int | None = Field(default=None, ge=1, le=MOST_WORKERS)
    minimum_workers: int | None = Field(default=None, ge=1, le=MOST_WORKERS)
    threads_per_worker: int = Field(default=1, ge=1, le=MOST_THREADS)
    memory_limit: Annotated[str | float, AfterValidator(read_memory_limit)] = "auto"
    tls: bool = True
    dashboard: Annotated[str, AfterValidator(_read_dashboard)] = "127.0.0.1:0"
    metrics: Annotated[str, AfterValidator(_read_metrics)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_nobody_gave(cls, table: Any) -> Any:
        """Leave out what the first versions filled in; a null for a key of a kind, which TOML cannot hold, tells."""
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
