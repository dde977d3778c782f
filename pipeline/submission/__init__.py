"""Drivers that run elsewhere: hand one over, look after it, ask it to stop.

``SUBMITTERS`` is the door of this room: for each kind of cluster what hands a driver to it.
"""

from pipeline.submission.base import Standing, Submission, Submitter
from pipeline.submission.clusters import find_cluster
from pipeline.submission.kubernetes import KubernetesSubmitter
from pipeline.submission.local import LocalSubmitter
from pipeline.submission.records import (
    Ending,
    add_submission,
    clear_earlier,
    clear_ending,
    obeying_requests,
    read_ending,
    request_stop,
    stop_requested,
    submissions,
    write_ending,
)
from pipeline.submission.slurm import SlurmSubmitter
from pipeline.submission.ssh import SshSubmitter

SUBMITTERS: dict[str, Submitter] = {
    "serial": LocalSubmitter(),
    "local": LocalSubmitter(),
    "address": LocalSubmitter(),
    "ssh": SshSubmitter(),
    "slurm": SlurmSubmitter(),
    "kubernetes": KubernetesSubmitter(),
}

__all__ = [
    "SUBMITTERS",
    "Ending",
    "Standing",
    "Submission",
    "Submitter",
    "add_submission",
    "clear_earlier",
    "clear_ending",
    "find_cluster",
    "obeying_requests",
    "read_ending",
    "request_stop",
    "stop_requested",
    "submissions",
    "write_ending",
]
