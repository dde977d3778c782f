"""The runs below a folder, each in a few words: read from small records alone, so that hundreds take a moment."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import PipelineError, RunNotFound
from cntk_pipeline.inference import asked_of
from cntk_pipeline.models import Json
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import METRICS, requested_solves, solve_name
from cntk_pipeline.storage import LocalPath, StorePath, open_path
from cntk_pipeline.workflow.wanted import find_wanted

DEEPEST = 4
"""Levels of folders that are searched below the given one."""

RunState = Literal["running", "complete", "incomplete", "damaged"]


@dataclass(frozen=True)
class ListedRun:
    """A run directory in a row of a list.

    Attributes
    ----------
    path : of the run directory.
    state : "running" while a driver is at work, "complete" where every result is there, "incomplete" otherwise;
        "damaged" where a record cannot be read, which `cntk inspect` names. No tile is looked at.
    readouts : number of kernels.
    accuracy, r2 : of the best system that is solved, r2 of a regression; None where there is none.
    bytes : of all its files.
    created : time of its creation, as ISO 8601; empty for a damaged run.
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


def list_runs(folder: str) -> list[ListedRun]:
    """Describe the runs below a folder, in the order of their names.

    Raises
    ------
    RunNotFound
        If there is no folder.
    """
    place = open_path(folder)
    if not place.exists():
        raise RunNotFound(f"there is no folder {folder}: give the folder that holds your run directories")
    return [_describe(path) for path in _find(place, DEEPEST)]


def _find(folder: StorePath, levels: int) -> Iterator[StorePath]:
    if isinstance(folder, LocalPath) and (folder.is_symlink() or not folder.is_dir()):
        return  # a link may lead to where the search has been
    if (folder / "run.json").is_file():
        yield folder
    elif levels:
        for child in folder.children():
            if not child.name.startswith("."):
                yield from _find(child, levels - 1)


def _describe(path: StorePath) -> ListedRun:
    size = sum(file.bytes for file in path.listing().values())
    try:
        run = RunDirectory(path)
        state, accuracy, r2 = _results(run)
        return ListedRun(str(path), state, len(run.specification.readouts), accuracy, r2, size, run.provenance.created)
    except PipelineError:
        return ListedRun(str(path), "damaged", 0, None, None, size, "")


def _results(run: RunDirectory) -> tuple[RunState, float | None, float | None]:
    """Read the state of a run, and its best accuracy and R2 so far."""
    is_held = lease.holder(run.lease_path) is not None
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
