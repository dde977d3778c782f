"""A driver as one batch job of SLURM, which holds the scheduler and the workers too.

The job may be requeued: after a lost node SLURM starts it anew, and with ``cluster.resubmit`` the driver itself
requeues it at the time limit. Only the script goes through a shell, and its values are quoted.
"""

import contextlib
import os
import re
import shlex
import sys
from pathlib import Path

from cntk_pipeline.clusters.slurm.asking import ask
from cntk_pipeline.clusters.slurm.directives import (
    drain_before_limit,
    driver_options,
    log_place,
    one_line,
    time_limit_seconds,
)
from cntk_pipeline.clusters.slurm.options import SlurmOptions
from cntk_pipeline.clusters.slurm.states import QUEUE_FORMAT, find_fields, read_account, read_queue
from cntk_pipeline.clusters.submitter import (
    Cause,
    JobStatus,
    State,
    Submitter,
    Succession,
    driver_command,
    log_folder,
)
from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.errors import ConfigError, SubmissionFailed
from cntk_pipeline.resources import BatchJob
from cntk_pipeline.rundir.submissions import Submission
from cntk_pipeline.storage import LocalPath, StorePath

EARLY_SECONDS = 90.0
"""Margin for SLURM's signal, which comes up to a minute early."""

_JOB = re.compile(r"[1-9][0-9]{0,18}")
"""Number of a job in SLURM."""

_SUBMITTED = re.compile(rf"^({_JOB.pattern})(?:;\S*)?\s*$", re.MULTILINE)
"""Line of ``sbatch --parsable``: a number, and perhaps the name of a cluster. A site may print a banner above it."""

_SUCCESSION = Succession(
    follows="it goes on in the next job (cluster.resubmit)",
    withdrawn="its job was ended from outside (scancel), so no other one follows",
    no_progress=(
        "no tile was finished in this whole job, so no other one follows: give it more time (cluster.time_limit), "
        "less to drain (cluster.drain_seconds), or smaller tiles (kernel.tile)"
    ),
)


class SlurmSubmitter(Submitter):
    """A submitter that calls ``sbatch``, ``squeue``, ``scancel`` and ``scontrol``."""

    drives_itself = True

    def check(self, config: RunConfig) -> None:
        script("s3://bucket/run", Path("/"), config, "")
        ask(["sbatch", "--version"])

    def check_place(self, place: StorePath, config: RunConfig) -> None:
        if isinstance(place, LocalPath):
            log_place("the run directory", str(place.absolute()))
        else:
            one_line("the run directory", str(place.absolute()))
            log_place("the current directory, which has the output of the job,", os.getcwd())

    def submit(self, place: StorePath, config: RunConfig, told: str) -> str:
        said = ask(["sbatch", "--parsable"], script(str(place), log_folder(place), config, told))
        numbers = _SUBMITTED.findall(said)
        if not numbers:
            raise SubmissionFailed(
                f"sbatch named no job, it said {said[-400:]!r}: if `squeue --me` shows one named cntk-{config.name}, "
                "end it by scancel"
            )
        return str(numbers[-1])

    def state(self, submission: Submission) -> State:
        return self.standing(submission).state

    def standing(self, submission: Submission) -> JobStatus:
        return job_status(submission.job)

    def current_job(self) -> BatchJob | None:
        job = os.environ.get("SLURM_JOB_ID")
        return None if job is None else BatchJob(job, restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0))

    def succession(self, config: ClusterConfig) -> Succession | None:
        return _SUCCESSION if SlurmOptions.of(config).resubmit else None

    def cause(self, config: RunConfig) -> Cause:
        job = os.environ.get("SLURM_JOB_ID", "")
        try:
            said = ask(["squeue", "--noheader", f"--jobs={job}", "--format=%T|%M|%l"], patient=False)
            fields = find_fields(said, 3)
            if fields is None:
                return "limit"
            state, spent, limit = fields
            left = time_limit_seconds(limit) - time_limit_seconds(spent)
        except (SubmissionFailed, ConfigError, ValueError):
            return "limit"
        if state != "RUNNING":  # SLURM ends the job already; after a lost node SLURM itself starts it anew
            return "limit" if left <= 0 else "withdrawn"
        return "limit" if left <= drain_before_limit(config.cluster) + EARLY_SECONDS else "elsewhere"

    def withdraw(self, submission: Submission, *, now: bool) -> bool:
        job = submission.job
        if not _JOB.fullmatch(job):
            return False
        # The filter is the controller's own, so a job that begins right now is not killed.
        ask(["scancel", *([] if now else ["--state=PENDING"]), "--", job])
        return now or self.state(submission) == "gone"

    def go_on(self, place: StorePath, config: RunConfig, told: str) -> str | None:
        job = os.environ.get("SLURM_JOB_ID")
        if job is None:
            return None
        try:
            ask(["scontrol", "requeue", job])
        except SubmissionFailed:
            # Some sites forbid requeueing, and allow sbatch where jobs run.
            return self.submit(place, config, told)
        return job


def job_status(job: str) -> JobStatus:
    """Ask SLURM for the state of a job, by its number."""
    if not _JOB.fullmatch(job):
        return JobStatus("unknown", "is no job of SLURM")
    queue = ["squeue", "--noheader", "--states=all", f"--jobs={job}"]
    try:
        said = ask([*queue, f"--format={QUEUE_FORMAT}"], patient=False)
    except SubmissionFailed as error:
        if "Invalid job id" not in str(error):
            return JobStatus("unknown")
        said = ""
    if "|" in said:  # a site may print a banner
        return read_queue(said, job)
    # The controller forgets jobs some minutes after they end; many sites keep accounts.
    account = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State"]
    with contextlib.suppress(SubmissionFailed):
        lines = [line for line in ask(account, patient=False).splitlines() if line.strip()]  # below a site's banner
        kept = read_account(lines[-1] if lines else "", job)
        if kept is not None:
            return kept
    return JobStatus("gone", "SLURM does not know it any more")


def script(directory: str, logs: Path, config: RunConfig, told: str) -> str:
    """Write the batch script of a run.

    Parameters
    ----------
    directory : str
        Of the run, valid for a job on any node.
    logs : Path
        Folder for the output of the job.
    config : RunConfig
        Its workflow.
    told : str
        The digest of the settings that its driver may follow.

    Raises
    ------
    ConfigError
        If SLURM would refuse a value of ``[cluster]``.
    """
    import jinja2

    options = SlurmOptions.of(config.cluster)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # shell, not HTML; the values are quoted one by one
    )
    environment.filters["quote"] = shlex.quote
    environment.filters["join"] = shlex.join
    return environment.get_template("slurm.sh.j2").render(
        options=[shlex.join(words) for words in driver_options(logs, config)],
        setup=[one_line("cluster.setup", line) for line in options.setup],
        python=one_line("cluster.python", options.python or sys.executable),
        driver=[*driver_command(one_line("the run directory", directory)), "--told", told],
    )
