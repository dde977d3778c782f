"""One regression: a read-out's kernel plus a ridge, and the places of its results."""

import errno
import math
from dataclasses import dataclass, field

import numpy as np
from pydantic import with_config

from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import CorruptTile, NotPositiveDefinite, StoreError
from cntk_pipeline.gram.forecast import KernelSize
from cntk_pipeline.gram.tiles import compute_train_pairs, compute_train_tile
from cntk_pipeline.models import STRICT, Fraction, Json, TaskName, require_one_length
from cntk_pipeline.regression.arguments import AUTO_RIDGES, MEASURED_RIDGES
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Place
from cntk_pipeline.rundir.specification import BESIDE_THE_RESULT, DataSpecification, Specification, fingerprint
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.tiling import Cut, KeptTiles, Tile

TARGETS = "one-hot minus 1 / classes"
"""Arora et al. 2019 encode ten classes as 0.9 and -0.1."""

CENTRED_TARGETS = "targets minus their training mean"
"""The targets of a regression, and of a classification with several classes an image."""


def targets_of(data: DataSpecification) -> str:
    """Name the targets of a solve, as its record does."""
    return TARGETS if data.task == "classification" else CENTRED_TARGETS


def unit_scale(variance: Array) -> Array:
    """Return the factors that make variances one, ``(m,)``; zero for a variance of zero."""
    return np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1)), 0.0)


def ridge_candidates(task: TaskName) -> tuple[float, ...]:
    """Return the ridges among which "auto" chooses, relative to trace(K) / n: a decade apart, the largest first."""
    return MEASURED_RIDGES if task == "regression" else AUTO_RIDGES


@with_config(STRICT)
@dataclass(frozen=True)
class RidgeChoice:
    """The choice of a ridge for one read-out: the record ridge_path.json.

    Attributes
    ----------
    ridges, absolute_ridges : tuple of float
        The candidates, relative to trace(K) / n and in absolute terms.
    squared_error, accuracy : tuple of (float or None)
        Of leave-one-out with each candidate; None where the kernel is not positive definite with it. An accuracy is
        also None where there is one class only, and in a regression. All are None in a choice by evidence.
    chosen : float
        The candidate with the smallest error, or the largest evidence.
    r2 : tuple of (float or None), optional
        Of leave-one-out with each candidate, in a regression.
    log_evidence : tuple of (float or None), optional
        Of each candidate, with the best factor of the kernel, in a choice by evidence; None where the kernel is not
        positive definite with it.
    """

    ridges: tuple[float, ...]
    absolute_ridges: tuple[float, ...]
    squared_error: tuple[float | None, ...]
    accuracy: tuple[Fraction | None, ...]
    chosen: float
    r2: tuple[float | None, ...] | None = None
    log_evidence: tuple[float | None, ...] | None = None

    def __post_init__(self) -> None:
        measures = self.squared_error, self.accuracy, self.r2, self.log_evidence
        require_one_length(self.ridges, self.absolute_ridges, *measures)
        losses = self.losses
        if not losses or self.chosen != self.ridges[losses.index(min(losses))]:
            measure = "smallest error" if self.log_evidence is None else "largest evidence"
            raise ValueError(f"{self.chosen!r} is not the ridge of the {measure}")

    @property
    def losses(self) -> list[float]:
        """What is smallest for the chosen candidate; infinite where the kernel is not positive definite."""
        if self.log_evidence is not None:
            return [math.inf if value is None else -value for value in self.log_evidence]
        return [math.inf if error is None else error for error in self.squared_error]


RIDGE_CHOICE: Record[RidgeChoice] = Record(RidgeChoice, "delete it, then `cntk resume` chooses again")


def read_choice(run: RunDirectory, selection: Json) -> RidgeChoice | None:
    """Read the ridge choice of a selection; None where it is not made."""
    return run.read_record(f"solve/{solve_name(selection)}/ridge_path.json", RIDGE_CHOICE)


@dataclass(frozen=True)
class Method:
    """The method by which a system is solved.

    Attributes
    ----------
    solver : str
        A name in `SOLVERS`.
    options : Json
        Of that solver, which has its own model of them; a default may be left out.
    """

    solver: str = "cholesky"
    options: Json = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """``(K + ridge I) alpha = Y`` for one read-out.

    Attributes
    ----------
    readout : str
        Name of the kernel.
    ridge, ridge_mode
        As the user gave them: "relative" to trace(K) / n, or "absolute".
    absolute_ridge : float
        The value added to the diagonal.
    tile : int
        Samples along the edge of a tile of the factor, or of a block of conjugate gradients.
    fingerprint : str
        16 hexadecimal digits; names the directory of the solve.
    method : Method
        The solver and its options.
    unit_diagonal : bool
        Whether the kernel is normalised to ``K_ij / sqrt(K_ii K_jj)`` when it is read.
    """

    readout: str
    ridge: float
    ridge_mode: str
    absolute_ridge: float
    tile: int
    fingerprint: str
    method: Method = field(default_factory=Method)
    unit_diagonal: bool = False

    @property
    def label(self) -> str:
        """Name the system for people."""
        return label_of(self.readout, self.ridge, self.ridge_mode)


def label_of(readout: str, ridge: float, ridge_mode: str) -> str:
    """Name a system for people, by its read-out and its ridge as the workflow gives it."""
    return f"{readout}, ridge {ridge:g} ({ridge_mode})"


Bounds = tuple[int, int]
"""The first sample of a range and one past its last."""


def kept_tiles(specification: Specification, kernel_bytes: int | None) -> KeptTiles | None:
    """Choose the tiles of K(train, train) that are stored, of all read-outs alike; None where all are.

    Parameters
    ----------
    kernel_bytes : int or None
        Room for them, as `solve.kernel_bytes` says; None for any.
    """
    data, readouts = specification.data, len(specification.readouts)
    size = KernelSize(
        data.train, data.test, specification.tile, specification.dtype, readouts, kernel_bytes=kernel_bytes
    )
    return size.kept


@dataclass(frozen=True)
class SystemKernel:
    """A read-out's kernel as a system reads it: any rectangle, float64, normalised where the system asks for it.

    The stored kernel stays as it is. With a unit diagonal, an image whose variance is zero (all black, not
    standardised) keeps its row of zeros. Where a part of K(train, train) is stored, `train_tile` and `train_columns`
    compute the rest, with the same bits; nothing else can read it then.

    Parameters
    ----------
    run, system
        The system of the kernel.
    """

    run: RunDirectory
    system: System

    def train(self, rows: Bounds, cols: Bounds) -> Array:
        """Read a rectangle of K(train, train), whose columns may be those of centres.

        Entries above the diagonal come from their mirror images, where only tiles below it are stored.
        """
        return self._read("train", rows, cols)

    def centres(self) -> Array:
        """Read the kernel of the images of all columns with each other."""
        every, rows = (0, self.run.column_cut.count), self.run.column_rows
        if rows is None:
            return self.train(every, every)
        found, cut = np.empty((len(rows), len(rows))), self.run.train_cut
        for piece in np.unique(rows // cut.size).tolist():
            begin, end = cut.bounds(piece)
            inside = (rows >= begin) & (rows < end)
            found[inside] = self.train((begin, end), every)[rows[inside] - begin]
        return found

    def test(self, rows: Bounds, cols: Bounds) -> Array:
        """Read a rectangle of K(test, train): test images are rows."""
        return self._read("test", rows, cols)

    def test_test(self, rows: Bounds, cols: Bounds) -> Array:
        """Read a rectangle of K(test, test), which exists only where a covariance was asked for."""
        return self._read("test_test", rows, cols)

    def train_tile(self, row: int, col: int) -> Array:
        """Read one tile of K(train, train), read-only; above the diagonal, the mirror image of a stored tile.

        For readers that stream the whole kernel again and again: tiles stay mapped as far as there is room.
        """
        if row < col:
            return self.train_tile(col, row).T
        cut = self.run.train_cut
        if self._is_kept(row, col):
            tile = self.run.kernel(self.system.readout, "train").read_mapped(row, col)
        else:
            tile = compute_train_tile(self.run, self.system.readout, Tile(row, col))
        return self._normalised(tile.astype(np.float64, copy=False), "train", cut.bounds(row), cut.bounds(col))

    @property
    def kept(self) -> KeptTiles | None:
        """The tiles of K(train, train) that are stored, while the solve computes the others; None where all are."""
        return kept_tiles(self.run.specification, self.system.method.options.get("kernel_bytes"))

    def _is_kept(self, row: int, col: int) -> bool:
        kept = self.kept
        return kept is None or Tile(row, col) in kept

    def train_columns(self, piece: int, columns: Array) -> Array:
        """Return the columns of some training images for one piece of the rows of K(train, train), ``(rows, m)``.

        Parameters
        ----------
        piece : int
            Of the rows, counted in tiles.
        columns : array
            Numbers of the images, rising, ``(m,)``.
        """
        cut = self.run.train_cut
        rows, pieces = np.arange(*cut.bounds(piece)), columns // cut.size
        found = np.empty((len(rows), len(columns)))
        is_stored = np.array([self._is_kept(piece, col) for col in pieces.tolist()], bool)
        for col in np.unique(pieces[is_stored]).tolist():
            here = pieces == col
            found[:, here] = self.train_tile(piece, col)[:, columns[here] - col * cut.size]
        # The later image is on the left, and its factor comes first: so have the stored tiles their bits.
        before, behind = ~is_stored & (pieces < piece), ~is_stored & (pieces > piece)
        if before.any():
            found[:, before] = self._computed_pairs(rows, columns[before])
        if behind.any():
            found[:, behind] = self._computed_pairs(columns[behind], rows).T
        return found

    def _computed_pairs(self, later: Array, earlier: Array) -> Array:
        block = compute_train_pairs(self.run, self.system.readout, later, earlier).astype(np.float64, copy=False)
        if not self.system.unit_diagonal:
            return block
        scale = self.scale("train", (0, self.run.train_cut.count))
        return block * scale[later][:, None] * scale[earlier]

    def variance(self, part: str, rows: Bounds) -> Array:
        """Read K(x, x) of some images, ``(m,)``; ``part`` is "train" or "test"."""
        variance = self._stored_variance(part, rows)
        return (variance > 0).astype(np.float64) if self.system.unit_diagonal else variance

    def scale(self, part: str, rows: Bounds) -> Array:
        """Return the factors for the rows of some images, and for their columns, ``(m,)``."""
        if not self.system.unit_diagonal:
            return np.ones(rows[1] - rows[0])
        return unit_scale(self._stored_variance(part, rows))

    def column_scale(self, cols: Bounds) -> Array:
        """Return the factors for some columns of K(train, train) and K(test, train), ``(m,)``, as `scale` does."""
        rows = self.run.column_rows
        if rows is None or not self.system.unit_diagonal:
            return self.scale("train", cols)
        return unit_scale(self._stored_variance("train", (0, self.run.train_cut.count))[rows[slice(*cols)]])

    def mean_diagonal(self) -> float:
        """Evaluate trace(K) / n, the unit of a relative ridge."""
        cut = self.run.train_cut
        return sum(float(self.variance("train", cut.bounds(piece)).sum()) for piece in range(cut.pieces)) / cut.count

    def _read(self, part: str, rows: Bounds, cols: Bounds) -> Array:
        if self.run.specification.has_pivots and not self.run.has_all_pivots:
            raise CorruptTile(f"{self.run.pivots_path}: a chunk of the pivots is damaged, or gone")
        symmetric = part == "test_test" or (part == "train" and not self.run.specification.has_pivots)
        block = self.run.kernel(self.system.readout, part).read_region(rows, cols, symmetric=symmetric)
        return self._normalised(block.astype(np.float64, copy=False), part, rows, cols)

    def _normalised(self, block: Array, part: str, rows: Bounds, cols: Bounds) -> Array:
        if not self.system.unit_diagonal:
            return block
        left = self.scale("train" if part == "train" else "test", rows)
        right = self.scale("test", cols) if part == "test_test" else self.column_scale(cols)
        return block * left[:, None] * right

    def _stored_variance(self, part: str, rows: Bounds) -> Array:
        return self.run.kernel(self.system.readout, f"{part}_variance").read_region(rows).astype(np.float64)


def with_ridge(selection: Json, ridge: float) -> Json:
    """Make the specification of the system with one of the candidate ridges of a selection."""
    return {key: value for key, value in selection.items() if key not in ("candidates", "choose_by")} | {"ridge": ridge}


def solve_name(specification: Json) -> str:
    """Name a solve by 16 hexadecimal digits of its specification's fingerprint."""
    return fingerprint(specification)[:16]


def planned_system(specification: Json, method: Method) -> System:
    """Describe a system whose ridge is not known in absolute terms yet: enough to list its tasks."""
    return _system(specification, float("nan"), solve_name(specification), method)


def open_system(run: RunDirectory, solve: str) -> System:
    """Read a system back from its directory; `StoreError` where it is gone."""
    record = run.solve_record(solve)
    if record is None:
        raise StoreError(errno.ENOENT, f"{run.solve_path(solve)} is gone: bring the run directory back, then resume")
    said = dict(record.get("method", {}))
    beside = {key: record[key] for key in BESIDE_THE_RESULT if key in record}
    method = Method(said.pop("solver", "cholesky"), said | beside)
    return _system(record, record["absolute_ridge"], solve, method)


def _system(record: Json, absolute_ridge: float, solve: str, method: Method) -> System:
    return System(
        record["readout"],
        record["ridge"],
        record["ridge_mode"],
        absolute_ridge,
        record["tile"],
        solve,
        method,
        record.get("unit_diagonal", False),
    )


def not_positive_definite(kernel: SystemKernel, found: str, row: int, pivot: float) -> NotPositiveDefinite:
    """Make the error of a solver; the driver adds the sufficient ridge, which depends on eigenvalues.

    Parameters
    ----------
    kernel : SystemKernel
        Of the system.
    found : str
        The finding of the solver, in words.
    row : int
        Of the training set; -1 where the finding belongs to no row.
    pivot : float
        The value that should have been positive.
    """
    label = kernel.system.label
    if kernel.mean_diagonal() == 0:
        reason = "the kernel is zero everywhere: its network trains no layer, or all images are black"
        return NotPositiveDefinite(f"{label}: {reason}", row, 0.0)
    return NotPositiveDefinite(f"{label}: the kernel plus ridge is not positive definite: {found}", row, pivot)


def round_up(value: float) -> float:
    """Round up to two digits: a ridge named in an error must be sufficient."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def read_targets(run: RunDirectory, rows: Bounds) -> Array:
    """Return the targets of some training samples as the solve meets them, ``(samples, classes)`` float64.

    In a classification they are `TARGETS`; otherwise the targets of the data set minus their training mean.
    """
    labels = run.labels("train", slice(*rows))
    assert labels is not None
    if run.specification.data.task == "classification":
        return one_hot_targets(labels, len(run.specification.data.classes))
    return labels - run.inputs("target_mean")[:]


def with_target_mean(run: RunDirectory, outputs: Array) -> Array:
    """Turn outputs of the solved system, ``(..., classes)``, into predictions: add the training mean of the targets."""
    if run.specification.data.task == "classification":
        return outputs
    return outputs + run.inputs("target_mean")[:]


def coefficients_task(solve: str) -> Task:
    """Name the last task of every solve, which writes its coefficients."""
    return Task(Stage("coefficients", solve=solve), 0, 0)


def coefficients_places(run: RunDirectory, task: Task) -> list[Place]:
    """Name the one chunk that holds the coefficients of a solve."""
    return [(run.solved(task.stage.solve, "coefficients"), (0, 0))]


def factor_cut(run: RunDirectory, system: System) -> Cut:
    """Return how the training samples are cut into tiles of the factor."""
    return Cut(run.specification.data.train, system.tile)
