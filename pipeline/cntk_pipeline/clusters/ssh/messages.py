"""What the driver of an "ssh" cluster says to a host, and what the host says back, each in one line of JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from distributed.security import Security
from pydantic import with_config

from cntk_pipeline.clusters.dask.certificates import security_of
from cntk_pipeline.models import STRICT
from cntk_pipeline.storage.records import Record

_SAME_VERSION = "install the version of the driver on the hosts"

BEAT_SECONDS = 10.0
"""How often the driver sends an empty line, to be known to be there."""


@with_config(STRICT)
@dataclass(frozen=True)
class Order:
    """What the driver wants of a host.

    Attributes
    ----------
    settings : Dask's configuration.
    pem : authority, certificate and key as PEM text; empty for a cluster without encryption.
    name : of the host in the driver's words; its workers' names begin with it.
    interface : network interface by which the hosts reach one another; None is where ssh came in.
    dashboard : where the scheduler's dashboard listens.
    scheduler : address to join with workers; None asks for the scheduler.
    workers : how many; None is one for every ``threads`` cores.
    threads, memory_limit : of each worker.
    """

    settings: dict[str, Any]
    pem: tuple[str, ...]
    name: str
    interface: str | None
    dashboard: str
    scheduler: str | None
    workers: int | None
    threads: int
    memory_limit: str | float

    def line(self) -> str:
        """Write it as one line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, line: bytes) -> "Order":
        """Read it from that line."""
        return _ORDER.parse(line, "the order of the driver")

    @property
    def security(self) -> Security | None:
        """What it says of certificates, for Dask."""
        return security_of(*self.pem) if self.pem else None

    @property
    def protocol(self) -> str:
        """How its servers listen."""
        return "tls://" if self.pem else "tcp://"


@with_config(STRICT)
@dataclass(frozen=True)
class Announcement:
    """What a host says once its servers listen.

    Attributes
    ----------
    address : of the scheduler, or the one that workers listen on.
    workers : how many.
    """

    address: str
    workers: int


_ORDER: Record[Order] = Record(Order, _SAME_VERSION)
ANNOUNCEMENT: Record[Announcement] = Record(Announcement, _SAME_VERSION)
