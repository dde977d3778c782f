"""A driver as one batch job of SLURM, which holds the scheduler and the workers too.

The job may be requeued: after a lost node SLURM starts it anew, and with ``cluster.resubmit`` the driver itself
requeues it at the time limit. Only the script goes through a shell, and its values are quoted.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cntk_pipeline.clusters.slurm.options import BESIDE_WORKER_BYTES, SlurmOptions
from cntk_pipeline.clusters.slurm.states import QUEUE_FORMAT, read_account, read_queue
from cntk_pipeline.clusters.submitter import (
    Cause,
    JobStatus,
    State,
    Submitter,
    Succession,
    driver_command,
    log_folder,
)
from cntk_pipeline.config import ClusterConfig, RunConfig, memory_limit_bytes
from cntk_pipeline.errors import ConfigError, SubmissionFailed
from cntk_pipeline.resources import BatchJob
from cntk_pipeline.rundir.submissions import Submission
from cntk_pipeline.storage import LocalPath, StorePath

EARLY_SECONDS = 90.0
"""Margin for SLURM's signal, which comes up to a minute early."""

ASK_SECONDS = 30.0
"""Time that SLURM's commands may take: a busy controller answers late."""

_TIME = re.compile(r"(?P<days>[0-9]{1,9})-(?P<hours>[0-9]{1,9})(:(?P<minutes>[0-9]{1,9})(:(?P<seconds>[0-9]{1,9}))?)?")
_NAMES = re.compile(r"[A-Za-z0-9_.,+-]+")
_JOB = re.compile(r"[1-9][0-9]{0,18}")
"""Number of a job in SLURM."""

_OURS = (
    *("array", "wrap", "wait", "parsable", "test-only", "signal", "output", "error", "open-mode", "no-requeue"),
    *("requeue", "ntasks", "cpus-per-task"),
)
"""Options that the submission itself sets, or that would make the job something else than a driver."""

_OUR_LETTERS, _LETTERS_WITHOUT_VALUE = "aWoenc", "hHkQsvVIO"
"""One-letter forms of these options; and letters that another letter may follow in the same word."""

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
        _ask(["sbatch", "--version"])

    def check_place(self, place: StorePath, config: RunConfig) -> None:
        _one_line("the run directory", str(place.absolute()))
        if not isinstance(place, LocalPath):
            _one_line("the current directory, which has the output of the job,", os.getcwd())

    def submit(self, place: StorePath, config: RunConfig, told: str) -> str:
        said = _ask(["sbatch", "--parsable"], script(str(place), log_folder(place), config, told))
        return said.strip().partition(";")[0]  # a cluster's name may follow

    def state(self, submission: Submission) -> State:
        return self.standing(submission).state

    def standing(self, submission: Submission) -> JobStatus:
        job = submission.job
        if not _JOB.fullmatch(job):
            return JobStatus("unknown", "is no job of SLURM")
        queue = ["squeue", "--noheader", "--states=all", f"--jobs={job}"]
        try:
            said = _ask([*queue, f"--format={QUEUE_FORMAT}"], patient=False)
        except SubmissionFailed as error:
            if "Invalid job id" not in str(error):
                return JobStatus("unknown")
            said = ""
        if said.strip():
            return read_queue(said.splitlines()[0], job)
        # The controller forgets jobs some minutes after they end; many sites keep accounts.
        account = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State"]
        with contextlib.suppress(SubmissionFailed):
            kept = read_account(_ask(account, patient=False).partition("\n")[0], job)
            if kept is not None:
                return kept
        return JobStatus("gone", "SLURM does not know it any more")

    def current_job(self) -> BatchJob | None:
        job = os.environ.get("SLURM_JOB_ID")
        return None if job is None else BatchJob(job, restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0))

    def succession(self, config: ClusterConfig) -> Succession | None:
        return _SUCCESSION if SlurmOptions.of(config).resubmit else None

    def cause(self, config: RunConfig) -> Cause:
        job = os.environ.get("SLURM_JOB_ID", "")
        try:
            said = _ask(["squeue", "--noheader", f"--jobs={job}", "--format=%T|%M|%l"], patient=False)
            state, spent, limit = said.strip().split("|")
            left = time_limit_seconds(limit) - time_limit_seconds(spent)
        except (SubmissionFailed, ConfigError, ValueError):
            return "limit"
        if state != "RUNNING":  # SLURM ends the job already; after a lost node SLURM itself starts it anew
            return "limit" if left <= 0 else "withdrawn"
        return "limit" if left <= _drain_seconds(config.cluster) + EARLY_SECONDS else "elsewhere"

    def withdraw(self, submission: Submission, *, now: bool) -> bool:
        job = submission.job
        if not _JOB.fullmatch(job):
            return False
        # The filter is the controller's own, so a job that begins right now is not killed.
        _ask(["scancel", *([] if now else ["--state=PENDING"]), "--", job])
        return now or self.state(submission) == "gone"

    def go_on(self, place: StorePath, config: RunConfig, told: str) -> str | None:
        job = os.environ.get("SLURM_JOB_ID")
        if job is None:
            return None
        try:
            _ask(["scontrol", "requeue", job])
        except SubmissionFailed:
            # Some sites forbid requeueing, and allow sbatch where jobs run.
            return self.submit(place, config, told)
        return job


def script(directory: str, logs: Path, config: RunConfig, told: str) -> str:
    """Write the batch script of a run.

    Parameters
    ----------
    directory : of the run, valid for a job on any node.
    logs : folder for the output of the job.
    config : its workflow.
    told : the digest of the settings that its driver may follow.

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
        options=[shlex.join(words) for words in _options(logs, config)],
        setup=[_one_line("cluster.setup", line) for line in options.setup],
        python=_one_line("cluster.python", options.python or sys.executable),
        driver=[*driver_command(_one_line("the run directory", directory)), "--told", told],
    )


def time_limit_seconds(text: str) -> float:
    """Read a time limit as SLURM writes it.

    Raises
    ------
    ConfigError
        If SLURM would refuse it.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return float("inf")
    with_days = _TIME.fullmatch(text)
    if with_days is not None:
        days, hours, minutes, seconds = (int(with_days[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    parts = text.split(":")
    if len(parts) > 3 or not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise ConfigError(
            f"cluster.time_limit must be as SLURM writes it, got {text!r}: minutes, minutes:seconds, "
            'hours:minutes:seconds, days-hours, days-hours:minutes or days-hours:minutes:seconds, as in "1-12:00:00"'
        )
    numbers = [int(part) for part in parts]
    match numbers:
        case [minutes]:
            return minutes * 60
        case [minutes, seconds]:
            return minutes * 60 + seconds
    return (numbers[0] * 60 + numbers[1]) * 60 + numbers[2]


def _options(logs: Path, config: RunConfig) -> list[list[str]]:
    """List the options of the job, each as a list of words."""
    cluster, asked = config.cluster, SlurmOptions.of(config.cluster)
    if cluster.workers is None:
        raise ConfigError('a "slurm" job needs cluster.workers: how many workers it asks for, in all')
    folder = _one_line("the run directory", str(logs)).replace("%", "%%")
    options = [
        f"--job-name=cntk-{config.name}",
        f"--output={folder}/slurm-%j.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:TERM@{_drain_seconds(cluster)}",
        f"--ntasks={cluster.workers}",
        f"--cpus-per-task={cluster.threads_per_worker}",
        *_card_options(cluster.workers, cluster.gpus_per_node),
    ]
    limit = memory_limit(cluster)
    if limit is not None:
        megabytes = -(-(limit + BESIDE_WORKER_BYTES) // 2**20)
        options.append(f"--mem-per-cpu={-(-megabytes // cluster.threads_per_worker)}M")
    for name, value in (("partition", asked.partition), ("account", asked.account)):
        if value is not None:
            if not _NAMES.fullmatch(value):
                raise ConfigError(f"cluster.{name} must be a name that SLURM knows, got {value!r}")
            options.append(f"--{name}={value}")
    if asked.time_limit is not None:
        options.append(f"--time={asked.time_limit}")
    return [[option] for option in options] + [_batch_option(option) for option in asked.batch_options]


def _card_options(workers: int, gpus_per_node: int | None) -> list[str]:
    """List the options that give each worker a card: as few nodes as possible, and on each as many tasks as cards."""
    if gpus_per_node is None:
        return []
    each = min(workers, gpus_per_node)
    return [f"--nodes={-(-workers // each)}", f"--ntasks-per-node={each}", f"--gres=gpu:{each}"]


def _batch_option(text: str) -> list[str]:
    try:
        words = shlex.split(_one_line("cluster.batch_options", text))
    except ValueError as error:
        raise ConfigError(f"cluster.batch_options: {text!r} cannot be read: {error}") from error
    if not words or not words[0].startswith("-"):
        raise ConfigError(f'cluster.batch_options takes options of sbatch ("--constraint=avx512"), got {text!r}')
    for word in words:
        if word.startswith("-") and _is_ours(word):
            name = word.partition("=")[0]
            raise ConfigError(f"cluster.batch_options: {name} is set by the submission itself; leave it out")
    return words


def _is_ours(word: str) -> bool:
    """Tell whether sbatch would read a word as one of these options: it accepts short forms, and letters in a row."""
    if word.startswith("--"):
        name = word[2:].partition("=")[0]
        return any(ours.startswith(name) for ours in _OURS)
    for letter in word[1:]:
        if letter in _OUR_LETTERS:
            return True
        if letter not in _LETTERS_WITHOUT_VALUE:  # the rest is its value
            break
    return False


def _drain_seconds(cluster: ClusterConfig) -> int:
    asked = SlurmOptions.of(cluster)
    drain = max(1, round(asked.drain_seconds))
    if asked.time_limit is not None and time_limit_seconds(asked.time_limit) <= drain:
        raise ConfigError(
            f"a job of cluster.time_limit = {asked.time_limit!r} has no time besides draining: "
            f"cluster.drain_seconds = {drain} must be much less"
        )
    if drain > 65535:
        raise ConfigError(f"cluster.drain_seconds must be at most 65535 for SLURM, got {drain}")
    return drain


def memory_limit(cluster: ClusterConfig) -> int | None:
    """Return a worker's memory in bytes; None where the cluster's default decides."""
    limit = memory_limit_bytes(cluster.memory_limit)
    if limit is None and cluster.memory_limit != "auto":
        raise ConfigError(
            f'cluster.memory_limit of a "slurm" job must be bytes ("4GiB") or "auto", got {cluster.memory_limit}'
        )
    return limit


def _one_line(what: str, text: str) -> str:
    """Refuse a text that would begin a new line in the script."""
    if not text.isprintable():
        raise ConfigError(f"{what} must be one line of printable characters, got {text!r}")
    return text


def _ask(command: Sequence[str], text: str | None = None, *, patient: bool = True) -> str:
    """Run one of SLURM's commands with ``text`` as its input; return its output.

    Raises
    ------
    SubmissionFailed
        If there is no such command, or it fails, with its own message.
    """
    # Inside a job the options of that job would become those of another.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SBATCH_")) or name in ("SLURM_CONF", "SLURM_JWT")
    }
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS if patient else ASK_SECONDS / 3,
            env=environment,
            check=False,
        )
    except FileNotFoundError as error:
        raise SubmissionFailed(
            f"there is no {command[0]} here: submit from a machine of the SLURM cluster, such as its login node"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SubmissionFailed(
            f"{command[0]} did not answer within {ASK_SECONDS:.0f} s: is SLURM's controller up? Try again"
        ) from error
    if done.returncode != 0:
        raise SubmissionFailed(f"{command[0]} refused: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
