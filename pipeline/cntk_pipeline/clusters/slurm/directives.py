"""The options of jobs, as lines of a batch script: of a driver with its workers, and of one worker alone.

Everything is checked here, before SLURM is asked: a value begins no new line, and no option of the submission's own is
overridden.
"""

import os
import re
import shlex
import sys
from pathlib import Path

from cntk_pipeline.clusters.base import BESIDE_WORKER_BYTES
from cntk_pipeline.clusters.slurm.options import SlurmOptions
from cntk_pipeline.config import ClusterConfig, RunConfig, memory_limit_bytes
from cntk_pipeline.errors import ConfigError

WORKER_LOG = "slurm-{job}.log"
"""Name of the file with the output of a worker's job."""

_TIME = re.compile(r"(?P<days>[0-9]{1,9})-(?P<hours>[0-9]{1,9})(:(?P<minutes>[0-9]{1,9})(:(?P<seconds>[0-9]{1,9}))?)?")
_NAMES = re.compile(r"[A-Za-z0-9_.,+-]+")

_OURS = (
    *("array", "wrap", "wait", "parsable", "test-only", "signal", "output", "error", "open-mode", "no-requeue"),
    *("requeue", "ntasks", "cpus-per-task", "clusters"),
)
"""Options that the submission itself sets, or that would make the job something else than a driver of this cluster. A
job of another cluster (``--clusters``) could not be found again by its number."""

_LETTERS = {
    "a": "array",
    "W": "wait",
    "o": "output",
    "e": "error",
    "n": "ntasks",
    "c": "cpus-per-task",
    "M": "clusters",
}
"""One-letter forms of these options."""

_LETTERS_WITHOUT_VALUE = "hHkQsvVIO"
"""Letters that another letter may follow in the same word."""


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


def driver_options(logs: Path, config: RunConfig) -> list[list[str]]:
    """List the options of a job of a driver and its workers, each as a list of words."""
    cluster, asked = config.cluster, SlurmOptions.of(config.cluster)
    if cluster.workers is None:
        raise ConfigError('a "slurm" job needs cluster.workers: how many workers it asks for, in all')
    folder = log_place("the run directory", str(logs))
    options = [
        f"--job-name=cntk-{config.name}",
        f"--output={folder}/slurm-%j.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:TERM@{drain_before_limit(cluster)}",
        f"--ntasks={cluster.workers}",
        f"--cpus-per-task={cluster.threads_per_worker}",
        *_card_options(cluster.workers, cluster.gpus_per_node),
    ]
    limit = memory_limit(cluster)
    if limit is not None:
        megabytes = -(-(limit + BESIDE_WORKER_BYTES) // 2**20)
        options.append(f"--mem-per-cpu={-(-megabytes // cluster.threads_per_worker)}M")
    return [[option] for option in options] + _asked_for(asked)


def worker_options(config: ClusterConfig, limit: int, logs: Path) -> list[list[str]]:
    """List the options of a job of one worker, each as a list of words.

    Parameters
    ----------
    config : ClusterConfig
        The ``[cluster]`` table.
    limit : int
        Memory of the worker, in bytes.
    logs : Path
        Folder for the output of the job, which all nodes see: SLURM ends a job without a word whose output it cannot
        open on the job's node.
    """
    asked = SlurmOptions.of(config)
    folder = log_place("the home folder", str(logs))
    options = [
        "--job-name=cntk-worker",
        f"--output={folder}/{WORKER_LOG.format(job='%j')}",
        "--ntasks=1",
        f"--cpus-per-task={config.threads_per_worker}",
        f"--mem={-(-(limit + BESIDE_WORKER_BYTES) // 2**20)}M",
        *(["--gres=gpu:1"] if config.gpus_per_node else []),
    ]
    return [[option] for option in options] + _asked_for(asked)


def require_jobs_of_workers(config: ClusterConfig) -> tuple[int, int]:
    """Return how many jobs of one worker a table asks for at most, and the memory of the worker in bytes.

    Raises
    ------
    ConfigError
        If one of both is not given, SLURM would refuse a value, or a variable hands the jobs to another cluster.
    """
    for name in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS"):
        if os.environ.get(name):
            raise ConfigError(
                f"the variable {name} = {os.environ[name]!r} hands the jobs of workers to another cluster, and their "
                "numbers, which alone are kept, do not find them there: unset it, and start from a machine of that "
                "cluster"
            )
    limit = memory_limit(config)
    if config.workers is None or limit is None:
        raise ConfigError('a "slurm" cluster needs cluster.workers and cluster.memory_limit: each job asks for that')
    worker_options(config, limit, Path("/"))
    options = SlurmOptions.of(config)
    one_line("cluster.python", options.python or sys.executable)
    for line in options.setup:
        one_line("cluster.setup", line)
    if options.interface is not None:
        one_line("cluster.interface", options.interface)
    return config.workers, limit


def _asked_for(asked: SlurmOptions) -> list[list[str]]:
    """List the options that the user gave."""
    options = []
    for name, value in (("partition", asked.partition), ("account", asked.account)):
        if value is not None:
            if not _NAMES.fullmatch(value):
                raise ConfigError(f"cluster.{name} must be a name that SLURM knows, got {value!r}")
            options.append(f"--{name}={value}")
    if asked.time_limit is not None:
        time_limit_seconds(asked.time_limit)
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
        words = shlex.split(one_line("cluster.batch_options", text))
    except ValueError as error:
        raise ConfigError(f"cluster.batch_options: {text!r} cannot be read: {error}") from error
    if not words or not words[0].startswith("-"):
        raise ConfigError(f'cluster.batch_options takes options of sbatch ("--constraint=avx512"), got {text!r}')
    for word in words:
        ours = _ours(word) if word.startswith("-") else None
        if ours is not None:
            name = word.partition("=")[0]
            if ours == "clusters":
                raise ConfigError(
                    f"cluster.batch_options: {name} hands the job to another cluster, and its number, which alone is "
                    "kept, does not find it there: leave it out, and submit from a machine of that cluster"
                )
            raise ConfigError(f"cluster.batch_options: {name} is set by the submission itself; leave it out")
    return words


def _ours(word: str) -> str | None:
    """Return which of these options sbatch would read a word as: it accepts short forms, and letters in a row."""
    if word.startswith("--"):
        name = word[2:].partition("=")[0]
        return next((ours for ours in _OURS if ours.startswith(name)), None)
    for letter in word[1:]:
        if letter not in _LETTERS_WITHOUT_VALUE:  # the rest is its value
            return _LETTERS.get(letter)
    return None


def drain_before_limit(cluster: ClusterConfig) -> int:
    """Return the seconds before the time limit at which SLURM's signal is to come.

    Raises
    ------
    ConfigError
        If the time limit is none, or leaves no time besides.
    """
    asked = SlurmOptions.of(cluster)
    drain = max(1, round(asked.drain_seconds))
    # Zero is no limit, as SLURM reads it.
    if asked.time_limit is not None and 0 < time_limit_seconds(asked.time_limit) <= drain:
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


def log_place(what: str, folder: str) -> str:
    """Write a folder for SLURM's option ``--output``: there ``%`` begins a symbol, and a backslash ends all symbols."""
    if "\\" in folder:
        raise ConfigError(
            f"{what} must have no backslash in its name, got {folder!r}: SLURM takes it away in the name of a log"
        )
    return one_line(what, folder).replace("%", "%%")


def one_line(what: str, text: str) -> str:
    """Refuse a text that would begin a new line in the script."""
    if not text.isprintable():
        raise ConfigError(f"{what} must be one line of printable characters, got {text!r}")
    return text
