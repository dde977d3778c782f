"""Drivers that run elsewhere: hand one over, look after it, ask it to stop.

``SUBMITTERS`` is the door of this room: for each kind of cluster what hands a driver to it.
"""

from cntk_pipeline.clusters.kubernetes.submitter import KubernetesSubmitter
from cntk_pipeline.clusters.local.submitter import LocalSubmitter
from cntk_pipeline.clusters.slurm.submitter import SlurmSubmitter
from cntk_pipeline.clusters.ssh.submitter import SshSubmitter
from cntk_pipeline.clusters.submitter import Standing, Submitter
from cntk_pipeline.config.cluster_files import find_cluster
from cntk_pipeline.rundir.submissions import (
    Ending,
    Submission,
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
