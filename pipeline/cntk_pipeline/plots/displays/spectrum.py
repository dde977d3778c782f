"""The eigenvalues of the kernel of the training images, and the effective dimension with each ridge."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.gram.tiles import kernel_group
from cntk_pipeline.inference import Shown, asked_of
from cntk_pipeline.inference.spectrum import eigenvalues
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.opened.tiles import Stored
from cntk_pipeline.plots.base import Display, counted
from cntk_pipeline.plots.drawing import tick_log
from cntk_pipeline.plots.records import readout_of_kernel, records_of, require_whole_kernel
from cntk_pipeline.plots.style import COLOURS, INK, MARKERS, MUTED
from cntk_pipeline.regression.arguments import is_one_number
from cntk_pipeline.solvers import read_choice
from cntk_pipeline.solvers.systems import ridge_candidates, unit_scale
from cntk_pipeline.storage.tiled_array import Array
from cntk_pipeline.workflow.wanted import find_wanted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE_IMAGES, LIMIT_BYTES = 2048, 64 * 2**20
"""Number of training images, and bytes of tiles, up to which all eigenvalues are computed from the stored kernel."""


@dataclass(frozen=True)
class Dimension:
    """The effective dimension with a ridge: the sum of ``lambda / (lambda + ridge)`` over all eigenvalues.

    Attributes
    ----------
    ridge : float
        As the workflow gives it.
    absolute_ridge : float
        The number that is added to the diagonal.
    low, high : float
        Bounds; equal where all eigenvalues are known.
    chosen : bool
        Whether leave-one-out has chosen the ridge.
    """

    ridge: float
    absolute_ridge: float
    low: float
    high: float
    chosen: bool


@dataclass(frozen=True)
class Spectrum(Display):
    """The eigenvalues of the kernel of a read-out, without a ridge.

    Attributes
    ----------
    readout : str
        Its name.
    train : int
        Number of training images, and of eigenvalues.
    positions : int64 array, (k,)
        From 1 for the largest to ``train``; all, or those at both ends.
    eigenvalues : float64 array, (k,)
        Falling.
    residuals : float64 array, (k,)
        An eigenvalue of the kernel lies within this distance of each.
    trace : float
        Sum of all eigenvalues.
    dimensions : tuple of Dimension
        One for each ridge of the workflow.
    """

    readout: str
    train: int
    positions: Array
    eigenvalues: Array
    residuals: Array
    trace: float
    dimensions: tuple[Dimension, ...]

    key = "spectrum"
    title = "Eigenvalues"

    @classmethod
    def from_run(
        cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None, limit_bytes: int = LIMIT_BYTES
    ) -> Self:
        """Read the eigenvalues of a kernel, by default of the best read-out; see `Display.from_run`.

        All are computed from the stored kernel of at most `DENSE_IMAGES` images. Of a larger one both ends are read,
        where the workflow asks for ``inference.spectrum``.

        Parameters
        ----------
        limit_bytes : int
            Largest number of bytes of tiles that are read.
        """
        require_whole_kernel(run)
        name, train = readout_of_kernel(run, readout), run.directory.train_cut.count
        kernel = Stored.of(kernel_group(run.directory), f"{name}/train")
        if train <= DENSE_IMAGES and kernel.read_bytes <= limit_bytes:
            found = _whole(run, name)
        elif "spectrum" in asked_of(run.directory.workflow().inference):
            found = _ends(run, name)
        else:
            raise ConfigError(
                f"{run.path} has {train:,} training images: all eigenvalues are computed for at most "
                f"{DENSE_IMAGES:,} images and {limit_bytes:,} bytes of tiles. Write spectrum = true under [inference] "
                "and run the workflow again, for those at both ends; what is computed is kept"
            )
        known = cls(name, train, *found, dimensions=())
        return replace(known, dimensions=tuple(known._measured(run, ridge)))

    @property
    def is_whole(self) -> bool:
        """Whether all eigenvalues are known."""
        return len(self.eigenvalues) == self.train

    def dimension(self, ridge: float) -> tuple[float, float]:
        """Bound the sum of ``lambda / (lambda + ridge)`` for an absolute ridge.

        Of eigenvalues that are not known, the number, the sum, the largest and the smallest possible value are known.
        The term is concave in lambda: the sum is largest where all are equal, and smallest where they are at the ends.
        Eigenvalues below zero, which are rounding, count as zero.
        """
        known = np.maximum(self.eigenvalues, 0.0)
        found, rest = float(_term(known, ridge).sum()), self.train - len(known)
        if not rest:
            return found, found
        gap = int(np.argmax(np.diff(self.positions))) if len(known) > 1 else 0
        high, low = known[gap], known[gap + 1]
        mean = float(np.clip((self.trace - known.sum()) / rest, low, high))
        share = (mean - low) / (high - low) if high > low else 0.0
        least = share * _term(high, ridge) + (1 - share) * _term(low, ridge)
        return found + rest * float(least), found + rest * float(_term(np.asarray(mean), ridge))

    def _measured(self, run: OpenRun, ridge: float | None) -> Iterator[Dimension]:
        """Evaluate the effective dimension with each ridge of the workflow, or with one of them."""
        directory = run.directory
        solve = directory.workflow().solve
        choices = [
            read_choice(directory, selection)
            for selection in find_wanted(directory, directory.workflow()).selections
            if selection["readout"] == self.readout
        ]
        chosen = next((choice.chosen for choice in choices if choice is not None), None)
        if ridge is not None and not is_one_number(ridge):
            raise ConfigError(f"ridge must be a number, or be left out, got {short_repr(ridge)}")
        listed = ridge_candidates(directory.specification.data.task) if solve.ridges == "auto" else solve.ridges
        for each in listed if ridge is None else [ridge]:
            absolute = each * self.trace / self.train if solve.ridge_mode == "relative" else each
            yield Dimension(each, absolute, *self.dimension(absolute), each == chosen)

    @property
    def alt(self) -> str:
        which = "All" if self.is_whole else f"The {len(self.eigenvalues):,} outermost of"
        text = (
            f"{which} {counted(self.train, 'eigenvalue')} of the kernel {self.readout}, from "
            f"{self.eigenvalues[0]:.3g} down to {self.eigenvalues[-1]:.3g}."
        )
        for each in self.dimensions[:1]:
            text += f" With the ridge {each.ridge:g} the effective dimension is {_span(each)}."
        return text

    def draw(self, figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.loglog()
        positive = self.eigenvalues > 0
        axes.plot(
            self.positions[positive], self.eigenvalues[positive],
            color=COLOURS[0], marker="" if self.is_whole and self.train > 20 else MARKERS[0],
            linestyle="-" if self.is_whole else "none",
        )  # fmt: skip
        for each in self.dimensions:
            if each.absolute_ridge > 0:
                colour = COLOURS[1] if each.chosen else MUTED
                axes.axhline(each.absolute_ridge, color=colour, linestyle="--", linewidth=1.0)
                axes.annotate(
                    f"ridge {each.ridge:g}{', chosen' if each.chosen else ''}", (0.01, each.absolute_ridge),
                    xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
                    color=INK, fontsize="small",
                )  # fmt: skip
        tick_log(axes.xaxis)
        tick_log(axes.yaxis)
        axes.set_xlabel("position, the largest first")
        axes.set_ylabel("eigenvalue" if self.is_whole else "eigenvalue, at both ends")

    def tables(self) -> tuple[Shown, ...]:
        rows = [
            (f"{each.ridge:g}", f"{each.absolute_ridge:.4g}", _span(each), "chosen" if each.chosen else "")
            for each in self.dimensions
        ]
        below = int(np.count_nonzero(self.eigenvalues <= 0))
        facts = [
            ("number", f"{self.train:,}"),
            ("largest", f"{self.eigenvalues[0]:.6g} ± {self.residuals[0]:.0e}"),
            ("smallest", f"{self.eigenvalues[-1]:.6g} ± {self.residuals[-1]:.0e}"),
            ("sum", f"{self.trace:.6g}"),
            ("not above zero", f"{below:,}" if self.is_whole else f"{below:,} of those that are known"),
        ]
        title = "eigenvalues of the kernel, all" if self.is_whole else "eigenvalues of the kernel, at both ends"
        dimensions = Shown(
            f"effective dimension, of {self.train:,} at most",
            ("absolute", "effective dimension", "choice"),
            tuple(rows),
            "ridge",
        )
        return Shown(title, ("value",), tuple(facts), first="eigenvalues"), dimensions


def _term(eigenvalues: Array, ridge: float) -> Array:
    """Return ``lambda / (lambda + ridge)``; 0 where both are 0."""
    total = eigenvalues + ridge
    return np.divide(eigenvalues, total, out=np.zeros_like(total), where=total > 0)


def _span(each: Dimension) -> str:
    """Write an effective dimension, or its bounds."""
    low, high = f"{each.low:.4g}", f"{each.high:.4g}"
    return low if low == high else f"between {low} and {high}"


def _whole(run: OpenRun, readout: str) -> tuple[Array, Array, Array, float]:
    """Compute all eigenvalues: positions, values, residuals and the trace."""
    kernel = _kernel(run, readout)
    values, bounds = eigenvalues(kernel)
    return np.arange(1, len(values) + 1), values[::-1], bounds[::-1], float(np.trace(kernel))


def _ends(run: OpenRun, readout: str) -> tuple[Array, Array, Array, float]:
    """Read the eigenvalues at both ends: positions, values, residuals and the trace."""
    (_, record), *_ = records_of(run, "spectrum", readout, None)
    variances = np.asarray(run.kernel(readout, "train_variance", missing="raise"), np.float64)
    if run.directory.workflow().solve.unit_diagonal:
        variances = (variances > 0).astype(np.float64)
    train = len(variances)
    first = min(len(record.largest), train // 2)
    last = min(len(record.smallest), train - first)
    values, residuals = (
        np.array([*high[:first], *low[:last][::-1]])
        for high, low in ((record.largest, record.smallest), (record.largest_residuals, record.smallest_residuals))
    )
    positions = np.array([*range(1, first + 1), *range(train - last + 1, train + 1)])
    return positions, values, residuals, float(variances.sum())


def _kernel(run: OpenRun, readout: str) -> Array:
    """Read the kernel of all training images as the solve meets it, ``(n, n)`` float64."""
    kernel = np.asarray(run.kernel(readout, missing="raise"), np.float64)
    if run.directory.workflow().solve.unit_diagonal:
        scale = unit_scale(np.diagonal(kernel))
        kernel *= scale[:, None] * scale
    return kernel
