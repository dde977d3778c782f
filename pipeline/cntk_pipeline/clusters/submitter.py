"""What it takes to hand a driver to a cluster, find it again, and end it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.resources import BatchJob
from cntk_pipeline.rundir.submissions import Submission
from cntk_pipeline.storage import LocalPath, StorePath

State = Literal["queued", "running", "gone", "unknown"]
"""What a cluster says of a submission; "unknown" where this machine cannot ask it."""

Cause = Literal["limit", "elsewhere", "withdrawn"]
"""Why a job has to stop: its time limit is near, another job comes first or the like, or somebody has ended it."""


@dataclass(frozen=True)
class Standing:
    """How a submission is.

    Attributes
    ----------
    state : in one word.
    words : what else the cluster says, for people: why it waits, where it runs, how it ended; empty for nothing.
    timing : what of that changes all the time: how much is left, or when it is expected to begin.
    """

    state: State
    words: str = ""
    timing: str = ""


@dataclass(frozen=True)
class Succession:
    """What is said where a job ends before its run is complete, in a cluster that lets another job follow.

    Attributes
    ----------
    follows : there is a next job.
    withdrawn : there is none, since somebody has ended this one.
    no_progress : there is none, since this one finished no tile; with the remedies.
    """

    follows: str
    withdrawn: str
    no_progress: str


class Submitter(ABC):
    """Hands drivers to one kind of cluster.

    Attributes
    ----------
    drives_itself : whether drivers run on the cluster, not in a terminal. Then ``cntk resume`` hands a run over again
        that was handed over before.
    """

    drives_itself: bool = False

    @abstractmethod
    def check(self, config: RunConfig) -> None:
        """Refuse, before anything is written, what this cluster could not run.

        Raises
        ------
        ConfigError
            If a value of ``[cluster]`` means nothing here.
        SubmissionFailed
            If this machine has no way to the cluster.
        """

    def check_place(self, place: StorePath, config: RunConfig) -> None:  # noqa: B027 - where one machine sees it, all do
        """Refuse, before anything is written, a run directory that the driver would not see.

        Raises
        ------
        ConfigError, SubmissionFailed
            If it would not, with the places that it would.
        """

    @abstractmethod
    def submit(self, place: StorePath, config: RunConfig, told: str) -> str:
        """Hand over a driver of a run directory; return what the cluster calls it.

        Parameters
        ----------
        place : the run directory.
        config : its workflow.
        told : the digest of what the driver may follow of the run directory: `clusters.trust`.

        Raises
        ------
        SubmissionFailed
            If the cluster refuses it, in the cluster's own words.
        """

    @abstractmethod
    def state(self, submission: Submission) -> State:
        """Ask the cluster how a submission is; "unknown" where its job is none that this kind of cluster has."""

    def standing(self, submission: Submission) -> Standing:
        """Ask the cluster how a submission is, and for what else it says."""
        return Standing(self.state(submission))

    @abstractmethod
    def withdraw(self, submission: Submission, *, now: bool) -> bool:
        """End a submission that has not begun to run, or any with ``now``; tell whether the cluster took that.

        One that runs is left to drain by itself: it polls the run directory.
        """

    def current_job(self) -> BatchJob | None:
        """Name the batch job of this kind that this process is of; None outside of one."""
        return None

    def succession(self, config: ClusterConfig) -> Succession | None:
        """Say how a job that ends too early is followed by another one; None where none follows."""
        return None

    def cause(self, config: RunConfig) -> Cause:
        """Inside a job that is to stop: find out why; "limit" where nothing is known."""
        return "limit"

    def go_on(self, place: StorePath, config: RunConfig, told: str) -> str | None:
        """Inside a job that ends too early: see to another one, and return what it is called.

        None where this kind of job never ends by itself.
        """
        return None


def log_folder(place: StorePath) -> Path:
    """Return the folder for what a driver prints: in the run directory, or here where that is a bucket."""
    folder = Path(place / "log") if isinstance(place, LocalPath) else Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def driver_command(place: str) -> list[str]:
    """List the words that make Python drive a run directory; options may follow.

    With -P, nothing in the current directory takes the place of a module, whatever it is called.
    """
    return ["-P", "-m", "cntk_pipeline.cli", "drive", place]


def is_driver(command: Sequence[str], place: str) -> bool:
    """Tell whether a process with this command line drives a run directory."""
    words = driver_command(place)
    return any(list(command[start : start + len(words)]) == words for start in range(1, 3))
