"""The assignment of the driver of an "ssh" cluster to a host, and the host's answer, each in one line of JSON."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import with_config

from cntk_pipeline.models import STRICT
from cntk_pipeline.storage.records import Record

if TYPE_CHECKING:  # a submission speaks with a host too, and needs no Dask
    from distributed.security import Security

_SAME_VERSION = "install the version of the driver on the hosts"

BEAT_SECONDS = 10.0
"""Interval of the driver's empty lines, its signs of life."""


@with_config(STRICT)
@dataclass(frozen=True)
class Assignment:
    """The assignment of the driver to a host.

    Attributes
    ----------
    settings : mapping of str to object
        Dask's configuration.
    pem : tuple of str
        Authority, certificate and key as PEM text; empty for a cluster without encryption.
    name : str
        Of the host for the driver; its workers' names begin with it.
    interface : str or None
        Network interface by which the hosts reach one another; None is the interface of the ssh connection.
    dashboard : str
        Address of the scheduler's dashboard.
    scheduler : str or None
        Address to join with workers; None asks for the scheduler.
    workers : int or None
        Number of workers; None is one for every ``threads`` cores.
    threads, memory_limit
        Of each worker.
    gpus : int, optional
        Number of the host's graphics cards, of which each worker has one; None where workers need none.
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
    gpus: int | None = None

    def line(self) -> str:
        """Write the assignment as one line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, line: bytes) -> "Assignment":
        """Read an assignment from its line."""
        return _ASSIGNMENT.parse(line, "the assignment of the driver")

    @property
    def security(self) -> "Security | None":
        """Return the certificates of the assignment, for Dask; None without encryption."""
        from cntk_pipeline.clusters.dask.certificates import security_of

        return security_of(*self.pem) if self.pem else None

    @property
    def protocol(self) -> str:
        """The protocol of its servers."""
        return "tls://" if self.pem else "tcp://"


@with_config(STRICT)
@dataclass(frozen=True)
class Announcement:
    """The answer of a host once its servers listen.

    Attributes
    ----------
    address : str
        Of the scheduler, or of the workers.
    workers : int
        Number of workers.
    """

    address: str
    workers: int


_ASSIGNMENT: Record[Assignment] = Record(Assignment, _SAME_VERSION)
ANNOUNCEMENT: Record[Announcement] = Record(Announcement, _SAME_VERSION)
