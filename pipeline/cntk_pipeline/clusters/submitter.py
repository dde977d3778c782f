"""The interface of a submitter, which hands a driver to a cluster, finds it again, and ends it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.resources import BatchJob
from cntk_pipeline.rundir.submissions import Submission
from cntk_pipeline.storage import LocalPath, StorePath

State = Literal["queued", "running", "gone", "unknown"]
"""The state of a submission in its cluster; "unknown" where this machine cannot ask the cluster."""

Cause = Literal["limit", "elsewhere", "withdrawn"]
"""The cause for a job to stop: its time limit is near, another job comes first or the like, or somebody ended it."""


@dataclass(frozen=True)
class JobStatus:
    """The state of a submission with details.

    Attributes
    ----------
    state : {"queued", "running", "gone", "unknown"}
        In one word.
    words : str
        Details for people: why it waits, where it runs, how it ended; may be empty.
    timing : str
        Details that change all the time: the time left, or the expected start.
    end : str
        How it ended, in the batch system's own words and without a remedy; may be empty.
    """

    state: State
    words: str = ""
    timing: str = ""
    end: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class Succession:
    """Messages for a job that ends before its run is complete, in a cluster that lets another job follow.

    Attributes
    ----------
    follows : str
        Says that there is a next job.
    withdrawn : str
        Says that there is no next job, since somebody has ended this one.
    no_progress : str
        Says that there is no next job, since this one finished no tile; with the remedies.
    """

    follows: str
    withdrawn: str
    no_progress: str


class Submitter(ABC):
    """A submitter of drivers to one kind of cluster.

    Attributes
    ----------
    drives_itself : bool
        Whether drivers run on the cluster, not in a terminal. Then ``cntk resume`` submits a run again if it was
        submitted before.
    """

    drives_itself: bool = False

    @abstractmethod
    def check(self, config: RunConfig) -> None:
        """Refuse, before anything is written, a workflow that this cluster could not run.

        Raises
        ------
        ConfigError
            If a value of ``[cluster]`` is invalid here.
        SubmissionFailed
            If this machine has no way to the cluster.
        """

    def check_place(self, place: StorePath, config: RunConfig) -> None:  # noqa: B027 - where one machine sees it, all do
        """Refuse, before anything is written, a run directory that the driver would not see.

        Raises
        ------
        ConfigError, SubmissionFailed
            If the driver would not see it, with the places that it would.
        """

    @abstractmethod
    def submit(self, place: StorePath, config: RunConfig, told: str) -> str:
        """Hand over a driver of a run directory; return its name in the cluster.

        Parameters
        ----------
        place : StorePath
            The run directory.
        config : RunConfig
            Its workflow.
        told : str
            The digest of the settings in the run directory that the driver may follow: `clusters.trust`.

        Raises
        ------
        SubmissionFailed
            If the cluster refuses it, in the cluster's own words.
        """

    @abstractmethod
    def state(self, submission: Submission) -> State:
        """Ask the cluster for the state of a submission; "unknown" where its job is not of this kind of cluster."""

    def standing(self, submission: Submission) -> JobStatus:
        """Ask the cluster for the state of a submission and its details."""
        return JobStatus(self.state(submission))

    @abstractmethod
    def withdraw(self, submission: Submission, *, now: bool) -> bool:
        """End a submission that has not begun to run, or any with ``now``; tell whether the cluster accepted it.

        A running driver drains by itself: it polls the run directory.
        """

    def current_job(self) -> BatchJob | None:
        """Return the batch job of this kind that this process belongs to; None outside of one."""
        return None

    def succession(self, config: ClusterConfig) -> Succession | None:
        """Return the messages for a job that another one may follow; None where none follows."""
        return None

    def cause(self, config: RunConfig) -> Cause:
        """Find why the job around this process has to stop; "limit" where nothing is known."""
        return "limit"

    def go_on(self, place: StorePath, config: RunConfig, told: str) -> str | None:
        """Arrange the job that follows the job around this process, and return its name.

        None where this kind of job never ends by itself.
        """
        return None


def log_folder(place: StorePath) -> Path:
    """Return the folder for the output of a driver: in the run directory, or here where that is a bucket."""
    folder = Path(place / "log") if isinstance(place, LocalPath) else Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def driver_command(place: str) -> list[str]:
    """Return the command by which Python drives a run directory; options may follow.

    With -P, no file in the current directory can take the place of a module.
    """
    return ["-P", "-m", "cntk_pipeline.cli", "drive", place]


def is_driver(command: Sequence[str], place: str) -> bool:
    """Tell whether a process with this command line drives a run directory."""
    words = driver_command(place)
    return any(list(command[start : start + len(words)]) == words for start in range(1, 3))
