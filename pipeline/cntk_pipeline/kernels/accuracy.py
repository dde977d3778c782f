"""How near to each other two images may be before a dtype no longer tells them apart well enough.

A covariance is rounded, and so the correlation of two positions is off by some ``eps``. What this costs depends on how
steep the slopes of the duals are there: near correlation 1 the slope of ReLU is infinitely steep, and the slope of Erf
as steep as the variance is large. An error also grows from layer to layer where a network drives images apart, and
weighs more where biases drive them together. With ``u = 1 - |cos|`` of the two images, an image's variances tell all of
this:

* ``q``: how far apart positions are behind a layer, 1 - rho, from u to at most 1; a bias makes it smaller, an
  activation larger or smaller.
* ``r``: the error of a correlation, in roundings; it changes as q does, and every operation adds its own, of any sign,
  so that squares add up. Positions
  that are apart do not go on growing apart: r does not exceed what it would be without growth, over the smallest q.
* the error of the kernel: over all activations, the sum of r times the relative steepness of the slope at q.

The kernel's error falls with u; `Accuracy.limits` says for an image from which u on it is small enough. Where no window
mixes positions, vectors above all, no average takes the roundings out, and float32 is not taken at all.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from cntk_pipeline.errors import NotAccurate, NotFinite
from cntk_pipeline.kernels.program import Array, Code, Operation, Program, Stage
from cntk_pipeline.kernels.tables import Statistics
from cntk_pipeline.layers import Abs, ClosedForm, LeakyRelu, Maxout, Pointwise, Relu, Series
from cntk_pipeline.layers.pointwise import STEPS_PER_OCTAVE, variance_steps
from cntk_pipeline.layers.rectifiers import AbsDifference

ROUNDING = 1 / 6
"""The error of a correlation that an operation adds, in units of ``eps``, averaged over the positions of an image.

Measured over CNTK-V and -GAP of depths 3, 11 and 21 with images at ``u`` from 1e-6 to 0.1: `benchmarks/accuracy.py`.
"""

LARGEST_ERROR = 7e-6
"""Of a kernel, relative to its largest entry, beyond which a pair counts as too near; 1e-5 is what is promised."""

_EPS_64 = float(np.finfo(np.float64).eps)

_OCTAVES = 1.5
_GRID = 2.0 ** (-_OCTAVES * np.arange(30))
"""Values of u, from images that have nothing in common to those that hardly differ in float64."""


@cache
def _sensitivity(function: Pointwise, step: int) -> Array:
    """Evaluate how a function hands on a small deviation of the correlation from 1, and how steep its slope is there.

    Parameters
    ----------
    step : int
        Of the variance before the function; see `variance_steps`. Beyond what a series takes, it is the largest that it
        takes.

    Returns
    -------
    array, (1 + grid,)
        The deviation of the correlation behind over that before, and for each distance from 1 the derivative of the
        slope by the correlation, over the slope at 1. What overflows is refused elsewhere, and 0 here.
    """
    variance = np.array(2.0 ** (step / STEPS_PER_OCTAVE))
    near = 1 - np.concatenate([[0], _GRID[-1:], _GRID / 2, 2 * _GRID])
    with np.errstate(over="ignore", invalid="ignore"):
        if isinstance(function, ClosedForm):
            *known, _ = function.statistics(variance, function.constants)
            values, slopes = function.dual(variance * near, known, known, function.constants)
        elif isinstance(function, Series):
            scale, series = _expand_at_most(function, step)
            powers = np.arange(function.terms)[:, None]
            values = np.sum(series**2 * near**powers, 0)
            slopes = np.sum((powers * series**2)[1:] * near ** powers[:-1], 0) * scale**2
        else:
            raise TypeError(f"{function} is neither a closed form nor a series")
        growth = (values[0] - values[1]) / _GRID[-1] / values[0] if values[0] > 0 else 0.0
        inner, outer = np.split(slopes[2:], 2)
        steepness = np.abs(inner - outer) / (1.5 * _GRID) / slopes[0] if slopes[0] > 0 else np.zeros(len(_GRID))
    return np.nan_to_num(np.array([growth, *steepness]), posinf=0.0)


def _expand_at_most(function: Series, step: int) -> tuple[Array, Array]:
    """Expand a series at a step of the variance, or at the next lower one that it takes.

    A step here may be larger than that of any image, of which a series refuses those that it does not take: it is
    doubled in `Accuracy.are_all_accurate`, and a variance that went through float32 may lie above its own step. Where
    a series takes none at all, no image is left, and it counts as 0.
    """
    for lower in range(step, int(variance_steps(np.zeros(()))) - 1, -1):
        with suppress(NotAccurate):
            return function.expand(np.array([2.0 ** (lower / STEPS_PER_OCTAVE)]))
    return np.ones(1), np.zeros((function.terms, 1))


@dataclass(frozen=True)
class _Deviations:
    """What is known of a register.

    Attributes
    ----------
    variance : array, (n,)
        Its mean.
    distance : array, (grid, n)
        ``q``.
    nearest : array, (grid, n)
        The smallest q so far.
    error : array, (n,)
        ``r`` in units of ``eps``.
    steady : array, (n,)
        The same without growth.
    lost : array, (grid, n)
        The error of the NTK so far, in the same units.
    mixed : bool
        Whether a window has averaged over positions.
    flat : bool
        Whether equal positions alone meet.
    masked : bool
        Whether a sample with itself is more than two equal images.
    """

    variance: Array
    distance: Array
    nearest: Array
    error: Array
    steady: Array
    lost: Array
    mixed: bool = False
    flat: bool = True
    masked: bool = False

    def scaled(self, growth: Array | float, variance: Array, lost: Array | float = 0.0) -> "_Deviations":
        """Hand on by an operation that adds a rounding of its own, and may lose something of the kernel."""
        distance = np.minimum(self.distance * growth, 1)
        with np.errstate(over="ignore"):  # an infinite error is one that no limit allows
            error = np.hypot(self.error * growth, ROUNDING)
        return _Deviations(
            variance,
            distance,
            np.minimum(self.nearest, distance),
            error,
            np.hypot(self.steady * np.minimum(growth, 1), ROUNDING),
            self.lost + lost,
            self.mixed,
            self.flat,
            self.masked,
        )


class Accuracy:
    """Says for images how near to them others may be.

    Parameters
    ----------
    program : Program
        What is computed.
    layout : mapping of int to Statistics
        Where the statistics of an operation lie, by its index.
    eps : float
        Rounding of the dtype of the planes.

    Attributes
    ----------
    flat : bool array, (readouts,)
        Whether equal positions alone meet in a read-out.
    masked : bool array, (readouts,)
        Whether a `Dropout` lies before a read-out.
    """

    def __init__(self, program: Program, layout: dict[int, Statistics], eps: float) -> None:
        self._program = program
        self._layout = layout
        self._eps = eps
        operations = [op for stage in program.stages for op in stage.operations]
        functions = [place for k, place in sorted(layout.items()) if operations[k].function is not None]
        self._rows = np.array([(place.start, place.start + place.area) for place in functions]).reshape(-1, 2)
        self._coarse: dict[bytes, bool] = {}
        # Without biases, rectifiers treat all images alike; what a difference, a product or earlier steps leave depends
        # on the image.
        homogeneous = (Relu, LeakyRelu, Abs, Maxout, type(None))
        is_constant = all(
            op.bias == 0
            and isinstance(op.function, homogeneous)
            and op.code not in (Code.MULTIPLY, Code.EMBED, Code.RECUR)
            for op in operations
        )
        found, _, ends = self._walk(np.ones((3, len(functions), 1)))
        self.flat, self.masked = (np.array([getattr(end, name) for end in ends]) for name in ("flat", "masked"))
        self._constant = found if is_constant else None

    def limits(self, statistics: Array) -> Array:
        """Evaluate from which ``1 - |cos|`` on pairs with an image are accurate.

        Parameters
        ----------
        statistics : array, (statistics, n)
            Of n images.

        Returns
        -------
        float64 array, (readouts, n)
            0 where all pairs are, infinity where none is. Those of a read-out do not depend on which others there are.
        """
        if self._constant is not None:
            return np.repeat(self._constant, statistics.shape[1], axis=1)
        return self._walk(self._variances(statistics))[0]

    def are_all_accurate(self, statistics: Array) -> bool:
        """Tell at little cost, for float64, whether no limit can be above 0; False where it takes a closer look."""
        if self._constant is not None:
            return not self._constant.any()
        smallest = np.array([statistics[start:stop].min() for start, stop in self._rows], np.float64)
        steps = variance_steps(2 * _variance(smallest))
        key = steps.tobytes()
        if key not in self._coarse:
            variances = 2.0 ** (steps / STEPS_PER_OCTAVE)
            self._coarse[key] = self._walk(np.tile(variances[None, :, None], (3, 1, 1)))[0].any() == 0
        return self._coarse[key]

    def explain(self, statistics: Array) -> str:
        """Name the layer that makes an image, ``(statistics,)``, the least accurate, and its variance there.

        Raises
        ------
        NotFinite
            If the network has no activation: then its own factors overflow.
        """
        variances = self._variances(statistics[:, None])
        _, shares, _ = self._walk(variances)
        if not shares:
            raise NotFinite(
                "covariances in the network are beyond the range of float64, or so are the images: scale the images, "
                "or take w_std nearer to 1"
            )
        worst = int(np.argmax([share.max() for _, share in shares]))
        return f"{shares[worst][0]} at a variance of {variances[:, worst, 0].max():.3g}"

    def _variances(self, statistics: Array) -> Array:
        """Read off the smallest, the typical and the largest variance before each function, (3, functions, n)."""
        found = np.zeros((3, len(self._rows), statistics.shape[1]))
        for k, (start, stop) in enumerate(self._rows):
            inverse = statistics[start:stop]
            found[:, k] = inverse.max(0), inverse.mean(0), inverse.min(0)
        return _variance(found)

    @np.errstate(over="ignore", invalid="ignore")  # networks that overflow are refused, by their values
    def _walk(self, variances: Array) -> tuple[Array, list[tuple[Pointwise, Array]], list[_Deviations]]:
        """Follow the deviations of images through the program.

        Parameters
        ----------
        variances : array, (3, functions, n)
            See `_variances`.

        Returns
        -------
        limits : array, (readouts, n)
        shares : list of (Pointwise, array)
            Of the functions in the error, (grid, n) each.
        ends : list of _Deviations
            What each read-out reads.
        """
        count = variances.shape[2]
        limits = np.zeros((self._program.readout_count, count))
        apart = np.tile(_GRID[:, None], count)
        rounded = np.full(count, ROUNDING)
        start = _Deviations(np.ones(count), apart, apart, rounded, rounded, np.zeros(apart.shape))
        ends = [start] * len(limits)
        slots: dict[tuple[bool, int], _Deviations] = {}
        shares: list[tuple[Pointwise, Array]] = []
        for stage in self._program.stages:
            registers: dict[int, _Deviations] = {}
            for op in stage.operations:
                found = registers.get(op.source, start)
                is_sum = op.code in (Code.LOAD_SUM, Code.REDUCE)
                if op.code in (Code.LOAD, Code.LOAD_SUM):
                    found = slots.get((is_sum, op.slot), start)
                elif op.code in (Code.POOL, Code.REDUCE, Code.ATTEND):
                    before = slots.get((False, op.other), start) if op.code is Code.ATTEND else found
                    flat, masked = before.flat and _is_trace(op, stage), before.masked or found.masked
                    slots[is_sum, op.slot] = replace(before, flat=flat, masked=masked)
                elif op.code is Code.ADD:
                    found = _add(found, registers.get(op.other, start))
                elif op.code is Code.MULTIPLY:
                    found = _multiply(found, registers.get(op.other, start))
                elif op.code is Code.EMBED:  # as a bias: equal positions have more in common
                    found = found.scaled(_share(found.variance, op.scale), found.variance + op.scale)
                elif op.code is Code.WEIGH and op.function is None:
                    linear = op.scale * op.window[0] * op.window[1] * found.variance
                    found = found.scaled(_share(linear, op.bias), linear + op.bias)
                elif op.code is Code.WEIGH and op.function is not None:
                    found, share = _follow(op, op.function, found, variances[:, len(shares)])
                    shares.append((op.function, share))
                elif op.code is Code.RECUR and op.function is not None:
                    found, share = _recur(op, op.function, found, variances[:, len(shares)])
                    shares.append((op.function, share))
                elif op.code is Code.OUTPUT:
                    limits[op.slot], ends[op.slot] = self._limits_of(found, op.tangent), found
                if op.mixes:
                    found = replace(found, mixed=True)
                if op.code is Code.MASK:
                    found = replace(found, masked=True)
                if op.target >= 0:
                    registers[op.target] = found
        return limits, shares, ends

    def _limits_of(self, found: _Deviations, tangent: bool) -> Array:
        """Evaluate from which u on what is read out is accurate, (n,); slopes matter to the NTK alone."""
        if self._eps > _EPS_64 and not found.mixed:
            return np.full(found.variance.shape, np.inf)
        lost = found.lost if tangent else 0.0
        exceeded = ~((lost + _capped(found)) * self._eps <= LARGEST_ERROR)
        # The largest u whose error is too large; everything nearer is too near as well.
        first = np.argmax(exceeded, axis=0)
        return np.where(exceeded.any(0), np.where(first == 0, np.inf, _GRID[first - 1]), 0)


def _follow(op: Operation, function: Pointwise, before: _Deviations, variances: Array) -> tuple[_Deviations, Array]:
    """Follow weights and the function behind them; return the function's share of the error besides."""
    typical = variances[1]
    ratio = _cancelled(before, typical) if isinstance(function, AbsDifference) else np.ones(typical.shape)
    before = replace(before, error=before.error * ratio, steady=before.steady * ratio)
    weighted = before.scaled(_share(np.maximum(typical - op.bias, 0), op.bias), typical)
    steps, inverse = np.unique(variance_steps(variances), return_inverse=True)
    kind = Abs() if isinstance(function, AbsDifference) else function
    known = np.array([_sensitivity(kind, int(step)) for step in steps])[inverse.reshape(variances.shape)].max(0)
    # The steepness at the distance behind the weights, by the next smaller value of the grid.
    nearest = np.ceil(-np.log2(np.maximum(weighted.distance, _GRID[-1])) / _OCTAVES).astype(int)
    # Of a tangent, a difference leaves about as much as of a deviation.
    share = np.take_along_axis(known[:, 1:].T, nearest, 0) * _capped(weighted) / np.sqrt(ratio)
    return weighted.scaled(known[:, 0], typical, share), share


def _recur(op: Operation, function: Pointwise, before: _Deviations, variances: Array) -> tuple[_Deviations, Array]:
    """Follow all steps of a recurrent layer: a step has a share of what the one before hands on, and of its input."""
    inputs = replace(before, variance=op.scale * before.variance)
    found, share = _follow(op, function, inputs, variances)
    total = share
    for _ in range(1, op.grid.width):
        handed = replace(found, variance=op.recurrence * found.variance)
        found, share = _follow(op, function, _add(inputs, handed), variances)
        total = total + share
    return found, total


def _variance(inverse: Array) -> Array:
    """Undo what statistics make of a variance; 0 stays 0."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(inverse > 0, 1 / np.square(inverse), 0)


def _is_trace(op: Operation, stage: Stage) -> bool:
    """Tell whether an operation between stages sums over equal positions alone."""
    if op.weights is None:
        return False
    used = [np.flatnonzero(weights.any(axis=1)) for weights in op.weights]
    zero = [0 if stage.circular else size - 1 for size in (op.grid.height, op.grid.width)]
    return all(len(offsets) == 1 and offsets[0] == at for offsets, at in zip(used, zero, strict=True))


def _cancelled(before: _Deviations, variance: Array) -> Array:
    """Divide a variance by that of its differences: relative to these, errors are larger by as much."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(variance > 0, np.maximum(before.variance / variance, 1), 1)


def _share(linear: Array, bias: float) -> Array:
    """Return the share of a variance that does not come from the bias."""
    total = linear + bias
    return np.where(total > 0, linear / np.where(total > 0, total, 1), 1.0)


def _add(first: _Deviations, second: _Deviations) -> _Deviations:
    total = first.variance + second.variance
    share = np.where(total > 0, first.variance / np.where(total > 0, total, 1), 0.5)

    def mix(a: Array, b: Array) -> Array:
        return np.asarray(share * a + (1 - share) * b)

    return _Deviations(
        total,
        mix(first.distance, second.distance),
        mix(first.nearest, second.nearest),
        np.hypot(mix(first.error, second.error), ROUNDING),
        np.hypot(mix(first.steady, second.steady), ROUNDING),
        np.maximum(first.lost, second.lost),
        first.mixed or second.mixed,
        first.flat and second.flat,
        first.masked or second.masked,
    )


def _multiply(first: _Deviations, second: _Deviations) -> _Deviations:
    """Follow a product: correlations are multiplied, so that distances and errors add up."""
    return _Deviations(
        first.variance * second.variance,
        np.minimum(first.distance + second.distance, 1),
        np.minimum(first.nearest + second.nearest, 1),
        np.hypot(first.error + second.error, ROUNDING),
        np.hypot(first.steady + second.steady, ROUNDING),
        np.maximum(first.lost, second.lost),
        first.mixed or second.mixed,
        first.flat and second.flat,
        first.masked or second.masked,
    )


def _capped(found: _Deviations) -> Array:
    """Evaluate the error of a correlation for every u of the grid, (grid, n)."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.minimum(found.error, found.steady / found.nearest)
