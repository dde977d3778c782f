"""The place and state of a run's driver, from the run directory and from the cluster that it was handed to."""

from dataclasses import asdict, dataclass

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.submitter import JobStatus, State, Submitter
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.submissions import Ending, Submission, read_ending, stop_requested, submissions


@dataclass(frozen=True)
class Whereabouts:
    """The place and state of a run's driver, as far as the run directory and the cluster know them.

    Attributes
    ----------
    submission : Submission or None
        The last one, or None.
    state : {"queued", "running", "gone", "unknown"}
        Its state in the cluster: "queued", "running", "gone", or "unknown" where this host cannot ask the cluster.
    words, timing : str
        Further information of the cluster, for people; see `JobStatus`.
    ending : Ending or None
        How the last submitted driver ended, or None.
    stop_requested : bool
        Whether it was asked to drain.
    """

    submission: Submission | None
    state: State
    words: str
    timing: str
    ending: Ending | None
    stop_requested: bool

    @property
    def awaited(self) -> bool:
        """Whether the cluster has a driver, or will have one."""
        return self.state in ("queued", "running")

    def to_json(self) -> Json:
        """Return the fields as plain values."""
        return asdict(self)


def whereabouts(run: RunDirectory) -> Whereabouts:
    """Find out where the driver of a run is; submissions of other users or of another run are not asked about."""
    last = next(reversed(submissions(run)), None)
    found = JobStatus("gone")
    if last is not None and not last.is_mine:
        found = JobStatus("unknown", "was not submitted by you for this run directory, so it is not asked about")
    elif last is not None:
        submitter = submitter_of(last)
        found = JobStatus("unknown") if submitter is None else submitter.standing(last)
    return Whereabouts(last, found.state, found.words, found.timing, read_ending(run), stop_requested(run))


def submitter_of(submission: Submission) -> Submitter | None:
    """Return the submitter that handed a driver over; None where this version has no cluster of that kind."""
    kind = CLUSTERS.get(submission.kind)
    return None if kind is None else kind.submitter
