"""The states of SLURM's jobs in plain words: why a job waits, where it runs, how it ended, and what to do next."""

from cntk_pipeline.clusters.submitter import JobStatus, State

QUEUE_FORMAT = "%T|%N|%L|%S|%r"
"""Format of ``squeue``: state, nodes, time left, start and reason; a reason may hold any text."""

_RUNNING = {
    "RUNNING": "runs",
    "COMPLETING": "is ending",
    "CONFIGURING": "waits for its nodes to be made ready",
    "SUSPENDED": "is suspended",
    "STOPPED": "is stopped",
    "SIGNALING": "is being signalled",
    "STAGE_OUT": "is staging files out",
}
_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}

_ENDINGS = {
    "COMPLETED": "has ended",
    "FAILED": "has stopped or failed: slurm-{job}.log says why",
    "CANCELLED": "was cancelled",
    "TIMEOUT": "was killed at its time limit before it had drained: more cluster.drain_seconds lets tiles finish",
    "OUT_OF_MEMORY": "was killed for using more memory than it had asked for: raise cluster.memory_limit",
    "NODE_FAIL": "lost a node and was not started again",
    "BOOT_FAIL": "found nodes that did not start",
    "PREEMPTED": "had to give way to another job",
    "DEADLINE": "could not end before its deadline",
}

_NO_LOG, _CANNOT_WRITE_LOG = (
    "RaisedSignal:53",
    (
        "could not write its log slurm-{job}.log: its node does not see that folder (the run directory; of a run in a "
        "bucket, the folder that it was submitted from)"
    ),
)
"""SLURM's reason for the end of a job whose output it could not open, and its words."""

_SAY_NOTHING = {"None", "NonZeroExitCode", "TimeLimit", "OutOfMemory"}
"""Reasons of an end that add nothing to the name of the state."""

_REASONS = {
    "None": "SLURM has not looked at it yet",
    "Resources": "nodes are busy",
    "Priority": "jobs of higher priority come first",
    "BeginTime": "its time has not come yet, which after a restart takes up to two minutes",
    "DependencyNeverSatisfied": "the job that it waits for has failed: cntk cancel",
    "Dependency": "another job has to end first",
    "Licenses": "licences are in use",
    "Reservation": "its reservation has not begun",
    "JobHeldUser": "it is held: scontrol release {job}",
    "JobHeldAdmin": "an administrator holds it",
    "JobLaunchFailure": "it could not be started",
    "launch failed requeued held": "it could not be started and is held: scontrol release {job}",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives: cntk cancel, fewer cluster.workers",
    "PartitionTimeLimit": "it asks for more time than its partition gives: cntk cancel, less cluster.time_limit",
    "BadConstraints": "no node is as cluster.batch_options asks",
    "ReqNodeNotAvail": "nodes that it needs are down or reserved",
    "Nodes required for job are DOWN": "nodes that it needs are down or reserved",
    "Assoc": "a limit of its account is reached",
    "QOS": "a limit of its quality of service is reached",
    "MaxCpuPerAccount": "a limit of its account is reached",
}
"""The meaning of reasons, by their beginnings."""


def find_fields(said: str, count: int) -> list[str] | None:
    """Find the first line of ``squeue`` with so many fields; others, as of a site's banner, are passed over."""
    lines = (line.strip().split("|", count - 1) for line in said.splitlines())
    return next((fields for fields in lines if len(fields) == count), None)


def read_queue(said: str, job: str) -> JobStatus:
    """Read the answer of ``squeue`` in `QUEUE_FORMAT`."""
    fields = find_fields(said, 5)
    if fields is None:
        return JobStatus("unknown")
    state, nodes, left, start, reason = fields
    where = f" on {nodes}" if nodes else ""
    if state in _QUEUED:
        expected = "" if start in ("N/A", "") else f"expected to begin at {start}"
        return JobStatus("queued", f"waits: {_explained(reason, job)} ({reason})", expected)
    if state in _RUNNING:
        bounded = left[:1].isdigit() and state != "COMPLETING"
        return JobStatus("running", _RUNNING[state] + where, f"{left} left" if bounded else "")
    why = "" if reason in _SAY_NOTHING else f", {reason}"
    if state == "FAILED" and reason.startswith(_NO_LOG):
        end = f"{state}{why}{where}"
        return JobStatus("gone", f"{_CANNOT_WRITE_LOG.format(job=job)} ({end})", end=end)
    return ended(state, job, why + where)


def read_account(line: str, job: str) -> JobStatus | None:
    """Read a line of ``sacct --parsable2 --format=State``; None where it is empty."""
    state = line.strip().partition(" ")[0]  # "CANCELLED by 1000"
    if not state:
        return None
    going: State | None = "queued" if state in _QUEUED else "running" if state in _RUNNING else None
    return ended(state, job) if going is None else JobStatus(going)


def ended(state: str, job: str, more: str = "") -> JobStatus:
    """Describe how a job ended."""
    words = _ENDINGS.get(state, "has ended").format(job=job)
    return JobStatus("gone", f"{words} ({state}{more})", end=f"{state}{more}")


def _explained(reason: str, job: str) -> str:
    known = (text for name, text in _REASONS.items() if reason.startswith(name))
    return next(known, "SLURM says why").format(job=job)
