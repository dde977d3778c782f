"""The ensemble of networks in training: its score and its variance over the time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from cntk_pipeline.errors import NotComputed
from cntk_pipeline.inference import Shown
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.results import require_key
from cntk_pipeline.opened.systems import AskedReadout, find_readout
from cntk_pipeline.opened.tiles import next_step
from cntk_pipeline.plots.base import Display, counted
from cntk_pipeline.plots.drawing import DRAWN, legend_below, legend_inches, log_places, number_text, tick_log
from cntk_pipeline.plots.scores import score_heights, score_label, score_name, score_text
from cntk_pipeline.plots.style import COLOURS, MARKERS
from cntk_pipeline.solvers.scores import main_score, scores_of
from cntk_pipeline.workflow.wanted import find_wanted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 30.0
"""Ratio of variances above which their axis is logarithmic."""


@dataclass(frozen=True)
class Ensemble:
    """The ensemble of a network at some times of training.

    Attributes
    ----------
    network : str
        Its name.
    times : tuple of str
        Of gradient flow with learning rate 1, rising; "inf" is the end.
    scores : tuple of (float or None)
        Accuracy, or R2 of a regression, on the test images; None without labels, and of a single class.
    variances : tuple of float
        Mean variance of the outputs for a test image, over random initial weights.
    """

    network: str
    times: tuple[str, ...]
    scores: tuple[float | None, ...]
    variances: tuple[float, ...]


@dataclass(frozen=True)
class Training(Display):
    """The training of the ensembles of all networks. Ridges play no part in it.

    Attributes
    ----------
    score : str
        "accuracy" or "R2".
    ensembles : tuple of Ensemble
        One for each network.
    """

    score: str
    ensembles: tuple[Ensemble, ...]

    key = "training"
    title = "Training over time"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read the ensembles of a run, or that of the network of a read-out; see `Display.from_run`."""
        require_key(run.directory, "ensemble")
        name = None if readout is None else find_readout(run.directory, readout)
        ensembles = []
        for product in find_wanted(run.directory, run.directory.workflow()).run_products:
            said = product.specification or {}
            if product.stage.kind == "ensemble" and name in (None, said["readout"], said["nngp"]):
                record = product.read(run.directory)
                ensembles += [] if record is None else [_ensemble(product.label, record)]
        if not ensembles:
            raise NotComputed(f"{run.path}: inference.ensemble is not computed yet. {next_step(run.directory)}")
        return cls(score_name(run), tuple(ensembles))

    @property
    def _has_scores(self) -> bool:
        return any(score is not None for ensemble in self.ensembles for score in ensemble.scores)

    @property
    def alt(self) -> str:
        times = self.ensembles[0].times
        text = (
            f"The training of the ensembles of {counted(len(self.ensembles), 'network')}, from "
            f"{_time_text(times[0])} to {_time_text(times[-1])}."
        )
        for each in self.ensembles[:DRAWN]:
            scores = [score_text(self.score, score) for score in (each.scores[0], each.scores[-1])]
            told = f"{self.score} {scores[0]} to {scores[1]}, " if self._has_scores else ""
            text += f" {each.network}: {told}mean variance {each.variances[0]:.3g} to {each.variances[-1]:.3g}."
        return text

    @property
    def height(self) -> float:
        return (4.8 if self._has_scores else 3.0) + legend_inches(min(DRAWN, len(self.ensembles)))

    def draw(self, figure: "Figure") -> None:
        panels = figure.subplots(2 if self._has_scores else 1, sharex=True, squeeze=False)[:, 0]
        places = log_places([float(time) for each in self.ensembles for time in each.times])
        panels[0].set_xscale("log")
        for position, each in enumerate(self.ensembles[:DRAWN]):
            colour, marker = COLOURS[position], MARKERS[position]
            across = [places[float(time)] for time in each.times]
            panels[-1].plot(across, each.variances, color=colour, marker=marker, label=each.network)
            if self._has_scores:
                heights = score_heights(self.score, each.scores)
                panels[0].plot(across, heights, color=colour, marker=marker, label=each.network)
        _scale_variances(panels[-1], [variance for each in self.ensembles[:DRAWN] for variance in each.variances])
        panels[-1].set_ylabel("mean variance")
        if self._has_scores:
            panels[0].set_ylabel(score_label(self.score))
        panels[-1].set_xlabel("time of gradient flow with learning rate 1")
        tick_log(panels[-1].xaxis, places)
        legend_below(figure)

    def tables(self) -> tuple[Shown, ...]:
        rows = [
            (
                each.network,
                "end" if time == "inf" else f"{float(time):g}",
                score_text(self.score, score),
                f"{variance:.4g}",
            )
            for each in self.ensembles
            for time, score, variance in zip(each.times, each.scores, each.variances, strict=True)
        ]
        columns = ("time", self.score, "mean variance")
        return (Shown("the ensembles in training", columns, tuple(rows), first="network"),)


def _time_text(time: str) -> str:
    return "the end" if time == "inf" else f"time {number_text(float(time))}"


def _scale_variances(axes: "Axes", variances: Sequence[float]) -> None:
    """Let the axis of variances begin at 0, or be logarithmic where they differ much and all are positive."""
    if min(variances) > 0 and max(variances) > WIDE * min(variances):
        axes.set_yscale("log")
        tick_log(axes.yaxis)
    else:
        axes.set_ylim(bottom=min(0.0, *variances))


def _ensemble(network: str, record: Any) -> Ensemble:
    """Sort a record by time: a workflow may name its times in any order."""
    scores = [main_score(each) for each in scores_of(record, len(record.times))]
    order = sorted(range(len(record.times)), key=lambda k: float(record.times[k]))
    return Ensemble(
        network,
        tuple(record.times[k] for k in order),
        tuple(scores[k] for k in order),
        tuple(record.mean_variance[k] for k in order),
    )
