"""The runs below a folder, each in a few words: read from small records alone, so that hundreds take a moment."""

import errno
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import PipelineError, RunNotFound
from cntk_pipeline.inference import asked_of
from cntk_pipeline.models import Json
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory, holds_run
from cntk_pipeline.solvers import METRICS, requested_solves, solve_name
from cntk_pipeline.storage import LocalPath, StorePath, open_path
from cntk_pipeline.storage.retries import PASSING, patiently
from cntk_pipeline.workflow.wanted import find_wanted

DEEPEST = 4
"""Levels of folders that are searched below the given one."""

RunState = Literal["running", "complete", "incomplete", "damaged"]


@dataclass(frozen=True)
class ListedRun:
    """A run directory in a row of a list.

    Attributes
    ----------
    path : str
        Of the run directory.
    state : {"running", "complete", "incomplete", "damaged"}
        "running" while a driver is at work, "complete" where every result is there, "incomplete" otherwise; "damaged"
        where a record cannot be read, which `cntk inspect` names. No tile is looked at.
    readouts : int
        Number of kernels.
    accuracy, r2 : float or None
        Of the best system that is solved, r2 of a regression; None where there is none.
    bytes : int
        Of all its files.
    created : str
        Time of its creation, as ISO 8601; empty for a damaged run.
    """

    path: str
    state: RunState
    readouts: int
    accuracy: float | None
    r2: float | None
    bytes: int
    created: str

    def to_json(self) -> Json:
        """Return the fields as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Listing:
    """The runs below a folder.

    Attributes
    ----------
    runs : tuple of ListedRun
        In the order of their names.
    closed : tuple of str
        Folders that cannot be read: those of others, or of a file server that is gone. No run in them is listed.
    """

    runs: tuple[ListedRun, ...]
    closed: tuple[str, ...]


def list_runs(folder: str) -> Listing:
    """Describe the runs below a folder, which may be a link.

    Raises
    ------
    RunNotFound
        If there is no folder.
    StoreError
        If this folder itself cannot be read.
    """
    place = open_path(folder)
    if not (patiently(place.is_dir, place, ()) if isinstance(place, LocalPath) else place.exists()):
        raise RunNotFound(f"there is no folder {folder}: give the folder that holds your run directories")
    closed: list[str] = []
    runs = tuple(_describe(path) for path in _find(place, DEEPEST, closed))
    return Listing(runs, tuple(closed))


def _find(folder: StorePath, levels: int, closed: list[str]) -> Iterator[StorePath]:
    """Find the run directories in a folder and below; folders that cannot be read are added to ``closed``."""
    if holds_run(folder):
        yield folder
    elif levels:
        for child in folder.children():
            if child.name.startswith("."):
                continue
            try:
                # A link is not followed: it may lead to where the search has been.
                if not isinstance(child, LocalPath) or stat.S_ISDIR(child.lstat().st_mode):
                    yield from _find(child, levels - 1, closed)
            except FileNotFoundError:  # deleted meanwhile
                continue
            except OSError as error:
                # A folder of another user, or a file server that is gone; a bucket is wholly there or not.
                if error.errno not in (errno.EACCES, errno.EPERM, *(PASSING if isinstance(child, LocalPath) else ())):
                    raise
                closed.append(str(child))


def _describe(path: StorePath) -> ListedRun:
    size = 0
    try:
        size = sum(file.bytes for file in path.listing().values())
        run = RunDirectory(path)
        state, accuracy, r2 = _results(run)
        return ListedRun(str(path), state, len(run.specification.readouts), accuracy, r2, size, run.provenance.created)
    except PipelineError:
        return ListedRun(str(path), "damaged", 0, None, None, size, "")


def _results(run: RunDirectory) -> tuple[RunState, float | None, float | None]:
    """Read the state of a run, and its best accuracy and R2 so far."""
    is_held = lease.holder(run.lease_path, watch=False) is not None
    try:
        config = run.workflow()
    except RunNotFound:  # its driver stopped before it wrote one
        return "running" if is_held else "incomplete", None, None
    names = [solve_name(specification) for specification in requested_solves(run, config)]
    results = [run.read_record(f"solve/{name}/metrics.json", METRICS) for name in names]
    solved = [result for result in results if result is not None]
    accuracy = max((result.accuracy for result in solved if result.accuracy is not None), default=None)
    r2 = max((result.r2 for result in solved if result.r2 is not None), default=None)
    is_complete = bool(results) and None not in results and _is_inferred(run, config)
    state: RunState = "running" if is_held else "complete" if is_complete else "incomplete"
    return state, accuracy, r2


def _is_inferred(run: RunDirectory, config: RunConfig) -> bool:
    if not asked_of(config.inference):
        return True
    products = [product for product in find_wanted(run, config).products if product.summarise is not None]
    return all(product.read(run) is not None for product in products)
