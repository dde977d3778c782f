"""The kind "ssh": workers on hosts that are reached by ssh."""

from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.clusters.ssh.executor import open_ssh
from cntk_pipeline.clusters.ssh.options import EXTRA, SshOptions
from cntk_pipeline.clusters.ssh.submitter import SshSubmitter

SSH = Cluster(
    open_ssh,
    deed="log in on hosts as you, and start processes there",
    options=SshOptions,
    submitter=SshSubmitter(),
    extra=EXTRA,
)
