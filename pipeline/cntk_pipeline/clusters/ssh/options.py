"""The keys of hosts that are reached by ssh, and what has to be installed for them."""

from pydantic import Field

from cntk_pipeline.clusters.extras import Extra
from cntk_pipeline.clusters.options import ClusterOptions

EXTRA = Extra("ssh", ("asyncssh",))


class SshOptions(ClusterOptions):
    """The keys of ``kind = "ssh"``.

    Attributes
    ----------
    hosts : where workers run; the first one runs the scheduler.
    interface : the network interface by which hosts reach one another ("ib0").
    python : the Python that has this package on the hosts; None is the path of this one.
    """

    hosts: list[str] = Field(default=[])
    interface: str | None = None
    python: str | None = None
