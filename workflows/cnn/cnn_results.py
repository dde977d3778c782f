"""The results of trained networks and of their kernels: files of them, a table and a figure. It needs no torch."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cntk_pipeline.plots.style import COLOURS, MARKERS, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"flatten": "V", "gap": "GAP"}
"""The paper's names of the poolings."""

MOMENTUM = 0.9
BATCH = 50


@dataclass(frozen=True)
class Task:
    """The images, and the layers of the networks: the first columns of all files.

    Attributes
    ----------
    trained_ends : bool
        Whether the first convolution and the last layer are trained with global pooling too; without it, as in the
        paper, they are not.
    """

    images: str
    pixels: int
    train: int
    test: int
    depth: int
    trained_ends: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Study(Task):
    """What is compared: a task, and how networks are trained."""

    epochs: int


@dataclass(frozen=True)
class Kernel(Task):
    """The result of a kernel with a ridge: a line of ``kernels.csv``.

    Attributes
    ----------
    ridge : float
        By leave-one-out, relative to the mean of the kernel's diagonal.
    train_error : float
        Squared error on the training images with this ridge, as a share of the error of no training.
    seconds : float
        Of the processor, for kernel and solve.
    """

    pooling: str
    accuracy: float
    ridge: float
    train_error: float
    seconds: float


@dataclass(frozen=True)
class Flow(Task):
    """The gradient flow of a kernel at one time: a line of ``flows.csv``.

    Attributes
    ----------
    time : float
        In largest stable steps of gradient descent; inf is the end of training, where there is no ridge.
    train_error : float
        Squared error on the training images, as a share of the error of no training.
    """

    pooling: str
    time: float
    accuracy: float
    train_error: float


@dataclass(frozen=True)
class Trial(Study):
    """A network to be trained; of a trial for the choice of a step, ``part`` is "validation" instead of "test"."""

    pooling: str
    width: int
    seed: int
    share: float
    part: str

    @property
    def time(self) -> float:
        """The time of training in largest steps: momentum sums up steps, which fall to 0 along a line."""
        return self.share * self.epochs * -(-self.train // BATCH) / (1 - MOMENTUM) / 2


@dataclass(frozen=True)
class Result:
    """What a network reached, in a line of ``networks.csv`` behind its `Trial`.

    Attributes
    ----------
    train_error : float
        Squared error on the images that it was trained on, as a share of the error of no training.
    seconds : float
        Of the processor, for training.
    """

    accuracy: float
    train_accuracy: float
    train_error: float
    seconds: float


Done = dict[Trial, Result]


SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The steps to choose from, as shares of the largest stable step of the infinitely wide network without momentum."""

FIRST_SHARES = SHARES[3:6]
"""Those that are tried in any case."""


def next_share(done: Done, study: Study, pooling: str) -> float | None:
    """Return the next step to try: the first ones, then the neighbours of the best one; None where all are tried."""
    tried = _tried(done, study, pooling)
    wanted = FIRST_SHARES
    if set(wanted) <= set(tried):
        place = SHARES.index(choose(done, study, pooling))
        wanted = SHARES[max(place - 1, 0) : place + 2]
    return next((share for share in wanted if share not in tried), None)


def choose(done: Done, study: Study, pooling: str) -> float:
    """Return the share of the stable step with the best accuracy on validation images; the smaller one of equals.

    Training that diverged is worse than any other: its outputs are nan, which `argmax` takes for the first class.
    """
    found = {
        share: result.accuracy if np.isfinite(result.train_error) else -1.0
        for share, result in _tried(done, study, pooling).items()
    }
    return max(sorted(found), key=lambda share: found[share])


def _tried(done: Done, study: Study, pooling: str) -> dict[float, Result]:
    return {
        trial.share: result
        for trial, result in done.items()
        if trial.part == "validation" and trial.pooling == pooling and is_of(trial, study)
    }


def is_of(row: Task, study: Study) -> bool:
    """Say whether a line belongs to a study: a file may hold several."""
    return all(getattr(row, name) == value for name, value in vars(study).items() if hasattr(row, name))


def name_of(study: Study) -> str:
    """Name the files of a study."""
    named = [value for name, value in vars(study).items() if name != "trained_ends"]
    return "-".join(str(value) for value in named + ["trained-ends"] * study.trained_ends)


def read_kernels(folder: Path) -> list[Kernel]:
    """Read the kernels of a folder; none where there is no file, or one of an earlier version, without ridges."""
    return [_parse(Kernel, row) for row in _read(folder / "kernels.csv") if "ridge" in row]


def read_flows(folder: Path) -> list[Flow]:
    """Read the flows of a folder; none where there is no file, or one of an earlier version, without their end."""
    return [_parse(Flow, row) for row in _read(folder / "flows.csv") if "trained_ends" in row]


def read_networks(folder: Path) -> Done:
    """Read the networks of a folder; none where there is no file."""
    return {_parse(Trial, row): _parse(Result, row) for row in _read(folder / "networks.csv")}


def write_kernels(folder: Path, kernels: list[Kernel], flows: list[Flow]) -> None:
    """Write the kernels of a folder and their flows."""
    _write(folder / "flows.csv", [vars(flow) for flow in flows])
    _write(folder / "kernels.csv", [vars(kernel) for kernel in kernels])


def write_networks(folder: Path, done: Done) -> None:
    """Write the networks of a folder."""
    _write(folder / "networks.csv", [vars(trial) | vars(result) for trial, result in done.items()])


def _parse(kind: type, row: dict[str, str]) -> Any:
    kinds = {each.name: each.type for each in fields(kind) if each.name in row}
    return kind(**{name: row[name] == "True" if of is bool else of(row[name]) for name, of in kinds.items()})


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")  # a file that is half written must not take the place of one that is whole
    with whole.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    whole.replace(path)


@dataclass(frozen=True)
class Mean:
    """Networks of one width: means over seeds, the time of training, and how far accuracies deviate.

    The standard deviation of one network is nan: it is not known.
    """

    width: int
    count: int
    time: float
    accuracy: float
    deviation: float
    train_error: float
    seconds: float


def means(done: Done, study: Study, pooling: str) -> list[Mean]:
    """Average the tested networks of each width over their seeds, those of the step that is chosen."""
    found: dict[int, list[tuple[Trial, Result]]] = {}
    tested = [each for each in done if each.part == "test" and each.pooling == pooling and is_of(each, study)]
    share = choose(done, study, pooling) if tested else None
    for trial in tested:
        if trial.share == share:
            result = done[trial]
            found.setdefault(trial.width, []).append((trial, result))
    return [
        Mean(
            width,
            len(networks),
            networks[0][0].time,
            float(np.mean([result.accuracy for _, result in networks])),
            float(np.std([result.accuracy for _, result in networks], ddof=1)) if len(networks) > 1 else np.nan,
            float(np.mean([result.train_error for _, result in networks])),
            float(np.mean([result.seconds for _, result in networks])),
        )
        for width, networks in sorted(found.items())
    ]


def stopped(flows: list[Flow], time: float) -> tuple[float, float]:
    """Read accuracy and training error of a kernel at a time off its flow, along lines over the logarithm of time."""
    times = np.log([flow.time for flow in flows])
    accuracy = np.interp(np.log(time), times, [flow.accuracy for flow in flows])
    return float(accuracy), float(np.interp(np.log(time), times, [flow.train_error for flow in flows]))


def lines(kernels: list[Kernel], flows: list[Flow], done: Done, study: Study) -> Iterator[str]:
    """Write the comparison as a table.

    Behind "+-" stands the standard deviation of the accuracy over seeds; "error left" is the squared error on the
    training images. A kernel has three lines: its gradient flow at the networks' time of training and at its end, and
    the ridge that leave-one-out has chosen.
    """
    yield f"{'':<9} {'width':>8} {'seeds':>5} {'accuracy':>15} {'error left':>10} {'seconds':>8}"
    for kernel in (each for each in kernels if is_of(each, study)):
        name, found = NAMES[kernel.pooling], means(done, study, kernel.pooling)
        for mean in found:
            accuracy = f"{mean.accuracy:.1%}" + (f" +- {100 * mean.deviation:.1f}" if mean.count > 1 else "")
            error = f"{mean.train_error:.1%}"
            yield f"{'CNN-' + name:<9} {mean.width:>8} {mean.count:>5} {accuracy:>15} {error:>10} {mean.seconds:>8.1f}"
        own = [flow for flow in flows if is_of(flow, study) and flow.pooling == kernel.pooling]
        stops = [(*stopped(own, found[0].time), "stopped like the networks")] if found else []
        end = own[-1]
        for reached, left, how in [*stops, (end.accuracy, end.train_error, "at the end of training")]:
            yield f"{'CNTK-' + name:<9} {'infinite':>8} {'':>5} {reached:>15.1%} {left:>10.1%} {'':>8}  {how}"
        row = f"{'CNTK-' + name:<9} {'infinite':>8} {'':>5} {kernel.accuracy:>15.1%} {kernel.train_error:>10.1%}"
        yield f"{row} {kernel.seconds:>8.1f}  ridge {kernel.ridge:.0e}"


def draw(kernels: list[Kernel], flows: list[Flow], done: Done, study: Study) -> "Figure":
    """Draw accuracy over width, accuracy over the time of training, and processor seconds over width.

    Networks are points, kernels are lines: dotted ones at the end of training, dashed ones with the ridge that
    leave-one-out has chosen. Bars are standard deviations over seeds.
    """
    with styled():
        figure = new_figure(11.0, 3.8)
        left, middle, right = figure.subplots(1, 3)
        for number, kernel in enumerate(each for each in kernels if is_of(each, study)):
            name, colour, marker = NAMES[kernel.pooling], COLOURS[number], MARKERS[number]
            found = means(done, study, kernel.pooling)
            widths, accuracies = [mean.width for mean in found], [100 * mean.accuracy for mean in found]
            bars = [100 * mean.deviation for mean in found]
            left.errorbar(widths, accuracies, bars, color=colour, marker=marker, capsize=3, label=f"CNN-{name}")
            own = [flow for flow in flows if is_of(flow, study) and flow.pooling == kernel.pooling]
            middle.plot([flow.time for flow in own], [100 * flow.accuracy for flow in own], color=colour)
            middle.plot([mean.time for mean in found], accuracies, color=colour, marker=marker, linestyle="")
            for axes in (left, middle):
                axes.axhline(100 * own[-1].accuracy, color=colour, linestyle=":", label=f"CNTK-{name}, at the end")
                axes.axhline(100 * kernel.accuracy, color=colour, linestyle="--", label=f"CNTK-{name}, ridge")
            right.plot(widths, [mean.seconds for mean in found], color=colour, marker=marker)
            right.axhline(kernel.seconds, color=colour, linestyle="--")
        all_widths = sorted({mean.width for pooling in NAMES for mean in means(done, study, pooling)})
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set(xlabel="width", xticks=all_widths, xticklabels=all_widths)
            axes.minorticks_off()
        left.set_ylabel("test accuracy (%)")
        left.legend()
        middle.set_xscale("log")
        middle.set(xlabel="time of training (largest steps)", ylabel="test accuracy (%)")
        right.set_yscale("log", base=2)
        right.yaxis.set_major_formatter("{x:g}")
        right.set_ylabel("processor seconds")
        return figure
