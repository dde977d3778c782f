"""The keys of hosts that are reached by ssh, and their extra."""

from pydantic import Field

from cntk_pipeline.clusters.extras import Extra
from cntk_pipeline.clusters.options import ClusterOptions
from cntk_pipeline.config.section import Place

EXTRA = Extra("ssh", ("asyncssh",))


class SshOptions(ClusterOptions):
    """The keys of ``kind = "ssh"``.

    Attributes
    ----------
    hosts : list of str
        The hosts of the workers; the first one runs the scheduler.
    interface : str, optional
        The network interface by which hosts reach one another ("ib0").
    python : str, optional
        The Python on the hosts that has this package; by default the path of this one. ``~`` is the home of this user
        on this machine.
    """

    hosts: list[str] = Field(default=[])
    interface: str | None = None
    python: Place | None = None
