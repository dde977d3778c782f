"""Leave-one-out over the ridges, and beside the scores of the test images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.inference import Shown, asked_of
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout, find_readout
from cntk_pipeline.opened.tiles import next_step
from cntk_pipeline.plots.base import Display, counted
from cntk_pipeline.plots.drawing import DRAWN, legend_below, legend_inches, log_places, tick_log
from cntk_pipeline.plots.records import wanted_solves
from cntk_pipeline.plots.scores import ACCURACY, score_heights, score_name, score_text
from cntk_pipeline.plots.style import COLOURS, INK, MARKERS
from cntk_pipeline.solvers import METRICS, RidgeChoice, read_choice
from cntk_pipeline.solvers.scores import main_score
from cntk_pipeline.workflow.wanted import WantedSolve, find_wanted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SQUARED_ERROR = "squared error"

Places = dict[float, float]
"""The places of ridges on a logarithmic axis."""


@dataclass(frozen=True)
class ReadoutPath:
    """Leave-one-out of a read-out over several ridges.

    Attributes
    ----------
    readout : str
        Its name.
    ridges : tuple of float
        Rising, as the workflow gives them.
    squared_errors : tuple of (float or None)
        Mean squared leave-one-out errors; None where the kernel is not positive definite with the ridge.
    scores : tuple of (float or None)
        Accuracy or R2 of leave-one-out; None also where the data have none.
    chosen : float or None
        The ridge of the smallest error where the workflow leaves the choice to leave-one-out; otherwise None.
    """

    readout: str
    ridges: tuple[float, ...]
    squared_errors: tuple[float | None, ...]
    scores: tuple[float | None, ...]
    chosen: float | None


@dataclass(frozen=True)
class LeftOut:
    """Leave-one-out of a system, beside the test images.

    Attributes
    ----------
    system : str
        Its name.
    squared_error : float
        Of leave-one-out on the training images.
    score : float or None
        Likewise; None where the data have none.
    test_squared_error, test_score : float or None
        Of the test images; None where it is not solved yet, or their labels are not known.
    """

    system: str
    squared_error: float
    score: float | None
    test_squared_error: float | None
    test_score: float | None


@dataclass(frozen=True)
class RidgePath(Display):
    """Leave-one-out of all read-outs over their ridges.

    Attributes
    ----------
    score : str
        "accuracy" or "R2".
    ridge_mode : str
        "relative" to trace(K)/n, or "absolute".
    paths : tuple of ReadoutPath
        Of the read-outs with several ridges.
    systems : tuple of LeftOut
        All systems with leave-one-out.
    """

    score: str
    ridge_mode: str
    paths: tuple[ReadoutPath, ...]
    systems: tuple[LeftOut, ...]

    key = "ridge_path"
    title = "Leave-one-out"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read leave-one-out of a run; see `Display.from_run`."""
        workflow = run.directory.workflow()
        is_compared = workflow.solve.ridges == "auto" and workflow.solve.choose_by != "evidence"
        if not is_compared and "leave_one_out" not in asked_of(workflow.inference):
            raise ConfigError(
                f'{run.path} was not asked for leave-one-out: write ridges = "auto" under [solve], or leave_one_out = '
                "true under [inference], and run the workflow again; what is computed is kept"
            )
        choices = _choices(run, readout)
        systems = tuple(_left_out(run, wanted_solves(run, readout, ridge), choices))
        paths = [_chosen_path(*item) for item in choices.items()] or _listed_paths(run, readout)
        if not systems and not paths:
            raise NotComputed(f"{run.path}: leave-one-out is not computed yet. {next_step(run.directory)}")
        return cls(score_name(run), workflow.solve.ridge_mode, tuple(paths), systems)

    @property
    def drawn(self) -> tuple[ReadoutPath, ...]:
        """The paths in the figure: the ones with the smallest errors."""
        best = sorted(self.paths, key=_smallest)[:DRAWN]
        return tuple(path for path in self.paths if path in best)

    @property
    def alt(self) -> str:
        if not self.paths:
            best = min(self.systems, key=lambda system: system.squared_error)
            return (
                f"Leave-one-out of {counted(len(self.systems), 'system')} beside the test images. The smallest squared "
                f"error is {best.squared_error:.4g}, of {best.system}."
            )
        path = min(self.paths, key=_smallest)
        least = path.squared_errors.index(_smallest(path))
        return (
            f"Leave-one-out over the ridge, of {counted(len(self.paths), 'read-out')}. The smallest squared error is "
            f"{_smallest(path):.4g}, of {path.readout} with a ridge of {path.ridges[least]:g} ({self.ridge_mode})."
        )

    @property
    def height(self) -> float:
        if not self.paths:
            return 1.3 + 0.3 * len(self.systems)
        return (4.8 if self._has_scores else 3.0) + legend_inches(len(self.drawn) + 1)

    @property
    def _has_scores(self) -> bool:
        return any(score is not None for path in self.paths for score in path.scores)

    def draw(self, figure: "Figure") -> None:
        if not self.paths:
            self._draw_systems(figure)
            return
        panels = figure.subplots(2 if self._has_scores else 1, sharex=True, squeeze=False)[:, 0]
        places = log_places([ridge for path in self.drawn for ridge in path.ridges])
        for axes, name in zip(panels, (SQUARED_ERROR, self.score), strict=False):
            axes.set_xscale("log")
            axes.set_ylabel(_axis_label(name))
            heights = [
                score_heights(name, path.squared_errors if name == SQUARED_ERROR else path.scores)
                for path in self.drawn
            ]
            for path, values, colour, marker in zip(self.drawn, heights, COLOURS, MARKERS, strict=False):
                across = [places[ridge] for ridge in path.ridges]
                axes.plot(across, values, color=colour, marker=marker, label=path.readout)
            _draw_chosen(axes, self.drawn, heights, places)
        if all(error is None or error > 0 for path in self.drawn for error in path.squared_errors):
            panels[0].set_yscale("log")
            tick_log(panels[0].yaxis)
        tick_log(panels[-1].xaxis, places)
        relative = self.ridge_mode == "relative"
        panels[-1].set_xlabel("ridge, relative to trace(K)/n" if relative else "ridge, absolute")
        legend_below(figure)

    def _draw_systems(self, figure: "Figure") -> None:
        """Draw the scores of each system in a row, or their squared errors where they have no score."""
        axes, rows = figure.add_subplot(), range(len(self.systems))
        scored = all(system.score is not None for system in self.systems)
        name = self.score if scored else SQUARED_ERROR
        left = score_heights(name, [each.score if scored else each.squared_error for each in self.systems])
        test = score_heights(name, [each.test_score if scored else each.test_squared_error for each in self.systems])
        axes.plot(left, rows, color=COLOURS[0], marker=MARKERS[0], linestyle="none", label="leave-one-out")
        axes.plot(test, rows, color=COLOURS[1], marker=MARKERS[1], linestyle="none", label="test images")
        axes.set_yticks(rows, [system.system for system in self.systems])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(_axis_label(name))
        legend_below(figure)

    def tables(self) -> tuple[Shown, ...]:
        errors = any(each.test_squared_error is not None for each in self.systems)
        systems = [
            (
                each.system,
                score_text(self.score, each.score),
                score_text(self.score, each.test_score),
                f"{each.squared_error:.4g}",
                *([_error_text(each.test_squared_error)] if errors else []),
            )
            for each in self.systems
        ]
        paths = [
            (
                path.readout,
                f"{ridge:g}",
                _error_text(error, "not positive definite"),
                "" if error is None else score_text(self.score, score),
                "chosen" if ridge == path.chosen else "",
            )
            for path in self.paths
            for ridge, error, score in zip(path.ridges, path.squared_errors, path.scores, strict=True)
        ]
        columns = [self.score, f"{self.score}, test images", "squared error"]
        columns += ["squared error, test images"] if errors else []
        ridge = "ridge" if self.ridge_mode == "absolute" else "relative ridge"
        names = (ridge, "squared error", self.score, "choice")
        found = [
            Shown("leave-one-out beside the test images", tuple(columns), tuple(systems)),
            Shown("leave-one-out over the ridge", names, tuple(paths), "read-out"),
        ]
        return tuple(table for table in found if table.rows)


def _smallest(path: ReadoutPath) -> float:
    return min(error for error in path.squared_errors if error is not None)


def _draw_chosen(
    axes: "Axes", paths: Sequence[ReadoutPath], heights: Sequence[Sequence[float]], places: Places
) -> None:
    """Draw a ring around the chosen ridge of each path."""
    rings = [
        (places[path.chosen], values[path.ridges.index(path.chosen)])
        for path, values in zip(paths, heights, strict=True)
        if path.chosen is not None
    ]
    if rings:
        axes.plot(
            *zip(*rings, strict=True),
            color=INK, marker="o", markersize=10, markerfacecolor="none", linestyle="none", label="chosen ridge",
        )  # fmt: skip


def _error_text(error: float | None, none: str = "none") -> str:
    return none if error is None else f"{error:.4g}"


def _axis_label(name: str) -> str:
    return "accuracy (%)" if name == ACCURACY else name


def _choices(run: OpenRun, readout: AskedReadout) -> dict[str, RidgeChoice]:
    """Read the choices of a ridge that are made, by read-out."""
    name = None if readout is None else find_readout(run.directory, readout)
    selections = find_wanted(run.directory, run.directory.workflow()).selections
    made = {each["readout"]: read_choice(run.directory, each) for each in selections if name in (None, each["readout"])}
    return {readout: choice for readout, choice in made.items() if choice is not None and choice.log_evidence is None}


def _chosen_path(readout: str, choice: RidgeChoice) -> ReadoutPath:
    scores = choice.accuracy if choice.r2 is None else choice.r2
    return ReadoutPath(readout, choice.ridges[::-1], choice.squared_error[::-1], scores[::-1], choice.chosen)


def _listed_paths(run: OpenRun, readout: AskedReadout) -> list[ReadoutPath]:
    """Make the paths of read-outs with several ridges from the leave-one-out of their systems."""
    by_readout: dict[str, list[tuple[float, Any]]] = {}
    for solve in wanted_solves(run, readout, None):
        if (record := _record(run, solve)) is not None:
            by_readout.setdefault(solve.system.readout, []).append((solve.system.ridge, record))
    return [
        ReadoutPath(
            name,
            tuple(ridge for ridge, _ in several),
            tuple(record.squared_error for _, record in several),
            tuple(main_score(record) for _, record in several),
            None,
        )
        for name, found in by_readout.items()
        if len(several := sorted(found, key=lambda pair: pair[0])) > 1
    ]


def _record(run: OpenRun, solve: WantedSolve) -> Any:
    """Read the leave-one-out of a system; None where it was not asked for, or is not computed yet."""
    mine = [product for product in solve.products if product.stage.kind == "leave_one_out"]
    return mine[0].read(run.directory) if mine else None


def _left_out(run: OpenRun, solves: Sequence[WantedSolve], choices: dict[str, RidgeChoice]) -> Iterator[LeftOut]:
    """Put leave-one-out of each system, from its own record or from the choice of its ridge, beside its test scores."""
    for solve in solves:
        record, choice = _record(run, solve), choices.get(solve.system.readout)
        tested = run.directory.read_record(f"solve/{solve.name}/metrics.json", METRICS)
        test = (None, None) if tested is None else (tested.squared_error, main_score(tested))
        if record is not None:
            yield LeftOut(solve.system.label, record.squared_error, main_score(record), *test)
        elif choice is not None:
            path = _chosen_path(solve.system.readout, choice)
            at = path.ridges.index(choice.chosen)
            error = path.squared_errors[at]
            assert error is not None  # `RidgeChoice` holds that the smallest error is that of the chosen ridge
            yield LeftOut(solve.system.label, error, path.scores[at], *test)
