"""Centres by randomly pivoted Cholesky: the kernel's own columns say which samples stand for all others.

A sample is drawn with a probability proportional to what the centres before it leave of its variance, the residual
``d_i = K_ii - |b_i|^2`` with the features b of the centres. The sum of all d, divided by trace(K), is the relative
trace error of the approximation ``B B^T``. Only the columns of the centres are computed. (Chen, Epperly, Tropp and
Webber, arXiv:2207.06503.)

Columns are computed in blocks. A block is drawn by rejection: samples are proposed by the residuals before the block,
and each proposal is accepted with the probability that its residual by now, in the block, is of its residual before.
Accepted samples are distributed as if drawn one after another. (Epperly, Tropp and Webber 2024, arXiv:2410.03969.)
Proposals are `PROPOSALS` times as many as a block has columns. Where they do not fill it, the rest is
drawn among them, with the same ratio as weight: a block is short only where nothing is left to draw. That rest has
another distribution, which shows where one sample outweighs the others. It must stay: a run that is resumed draws the
same pivots.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.inputs import is_whole_number, short_repr
from cntk_pipeline.regression.arguments import as_finite, as_real, is_one_number
from cntk_pipeline.tiling import block_width

PROPOSALS = 2
"""Proposals for each column of a block. One worker computes the kernel between them, which grows with the square."""

Array = np.ndarray
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Block:
    """The centres of a block of columns.

    Attributes
    ----------
    rows : int64 array, (w,)
        The samples, in the order in which they were drawn; fewer than asked for only where nothing is left.
    factor : float64 array, (w, w)
        The lower triangular factor of their residual kernel.
    """

    rows: Rows
    factor: Array


def smallest_residual(count: int, dtype: str) -> float:
    """Return the share of a sample's variance below which its residual is rounding, for kernels of a dtype.

    Parameters
    ----------
    count : int
        Of the centres at most: a factor of so many columns rounds in proportion.
    """
    return float(max(4 * count * np.finfo(np.float64).eps, 32 * np.finfo(dtype).eps))


def draw_block(
    residual: Array, smallest: Array, width: int, seed: tuple[int, int], residual_kernel: Callable[[Rows], Array]
) -> Block:
    """Draw the centres of a block.

    Parameters
    ----------
    residual : float64 array, (n,)
        What the centres before this block leave of each sample's variance; 0 for the centres themselves.
    smallest : float64 array, (n,)
        Residuals up to these are rounding, and are not drawn.
    width : int
        Of the block.
    seed : (int, int)
        Of the run and of the block, from 0 to 2**32 - 1: the same numbers on each machine.
    residual_kernel : callable
        Evaluates ``K - B B^T`` between some samples, (k, k), from centres before this block.
    """
    # RandomState, since NumPy promises the same numbers in all future versions.
    random = np.random.RandomState(list(seed))
    left, block = np.where(residual > smallest, residual, 0.0), Block(np.zeros(0, np.int64), np.zeros((0, 0)))
    while len(block.rows) < width and left.any():
        proposed = _propose(left, PROPOSALS * width, random)
        others = np.unique(proposed)  # `left` is zero for samples of the block
        rows = np.concatenate([block.rows, others])
        block = _choose(
            rows, len(block.rows), np.searchsorted(others, proposed), width, residual_kernel(rows), residual[rows],
            smallest[rows], random,
        )  # fmt: skip
        left[rows] = 0.0  # what is not chosen of a block that is not full has nothing left
    return block


def _propose(weights: Array, count: int, random: np.random.RandomState) -> Rows:
    """Draw samples with replacement, by their weights."""
    sums = np.cumsum(weights)
    found = np.searchsorted(sums, random.random_sample(count) * sums[-1], side="right")
    return np.minimum(found, np.flatnonzero(weights)[-1]).astype(np.int64)


def _choose(
    rows: Rows,
    taken: int,
    proposed: Rows,
    width: int,
    kernel: Array,
    before: Array,
    smallest: Array,
    random: np.random.RandomState,
) -> Block:
    """Choose the samples of a block.

    The first ``taken`` rows are chosen already; ``proposed`` are candidates, numbered after them.
    """
    left, columns = np.diagonal(kernel).astype(np.float64), np.zeros((len(rows), width))
    chosen: list[int] = []

    def take(k: int) -> None:
        done = len(chosen)
        column = (kernel[:, k] - columns[:, :done] @ columns[k, :done]) / np.sqrt(left[k])
        columns[:, done] = column
        left[:] -= np.square(column)
        left[k] = 0.0
        chosen.append(k)

    for k in range(taken):
        take(k)
    for k in proposed + taken:
        if len(chosen) < width and left[k] > smallest[k] and random.random_sample() * before[k] < left[k]:
            take(int(k))
    while len(chosen) < width and (weights := np.where(left > smallest, left / np.maximum(before, left), 0.0)).any():
        take(int(_propose(weights, 1, random)[0]))
    # Entries above the diagonal are rounding, but for those of samples that were taken later: these are zero.
    return Block(rows[chosen], np.tril(columns[chosen, : len(chosen)]))


def features_of(columns: Array, factors: Iterator[tuple[Array, Array]]) -> Array:
    """Evaluate the features of some samples, ``K(x, centres) L^-T``, a block of centres at a time.

    Parameters
    ----------
    columns : float64 array, (k, m)
        The kernel of the samples and the centres. It is overwritten by the features, and returned.
    factors : iterator of (array, array)
        For each block the rows of L before its diagonal, (w, begin), and the factor of the block, (w, w).
    """
    import scipy.linalg

    for rows, corner in factors:
        begin, end = rows.shape[1], rows.shape[1] + len(rows)
        columns[:, begin:end] -= columns[:, :begin] @ rows.T
        columns[:, begin:end] = scipy.linalg.solve_triangular(
            corner, columns[:, begin:end].T, lower=True, check_finite=False
        ).T
    return columns


@dataclass(frozen=True, eq=False)
class ChosenCentres:
    """The centres of a kernel, as randomly pivoted Cholesky has drawn them.

    Attributes
    ----------
    rows : int64 array, (m,)
        The samples, in the order in which they were drawn.
    columns : array, (n, m)
        The kernel of all samples and the centres.
    trace_errors : tuple of float
        The relative trace error before the first block, which is 1, and after each block.
    """

    rows: Rows
    columns: Array
    trace_errors: tuple[float, ...]


def choose_centres(
    diagonal: npt.ArrayLike,
    kernel: Callable[[Rows, Rows], npt.ArrayLike],
    count: int,
    *,
    seed: int = 0,
    tolerance: float = 0.0,
    width: int | None = None,
) -> ChosenCentres:
    """Choose centres by randomly pivoted Cholesky, from the columns of the kernel that it draws.

    Parameters
    ----------
    diagonal : array, (n,)
        The kernel of each sample with itself.
    kernel : callable
        Evaluates the kernel of some samples (rows) and others (columns), given by their numbers.
    count : int
        Of the centres at most. Fewer are drawn where the kernel has a smaller rank, up to rounding.
    seed : int
        Of the draws.
    tolerance : float
        Relative trace error from which on no further block is drawn.
    width : int, optional
        Columns of a block; `block_width` by default.

    Raises
    ------
    ConfigError, NotFinite
        If the diagonal is no row of finite real numbers, or a number is out of its range.
    NotPositiveDefinite
        If the kernel is zero everywhere.

    Examples
    --------
    A kernel of rank 2 has two centres:

    >>> import numpy as np
    >>> x = np.array([[1.0, 0], [0, 2], [1, 1], [3, 1]])
    >>> found = choose_centres((x * x).sum(1), lambda rows, columns: x[rows] @ x[columns].T, 4)
    >>> len(found.rows), found.trace_errors[-1] < 1e-12
    (2, True)
    """
    first = as_real(diagonal, "diagonal")
    variance = as_finite(first, "diagonal")
    if variance.ndim != 1:
        raise ConfigError(f"diagonal must be (n,), the kernel of each sample with itself, got shape {variance.shape}")
    for name, number, least in (("count", count, 1), ("width", 1 if width is None else width, 1), ("seed", seed, 0)):
        if not is_whole_number(number) or not least <= number < 2**32:
            raise ConfigError(f"{name} must be a whole number from {least} to 2**32 - 1, got {short_repr(number)}")
    if not is_one_number(tolerance) or not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance must be a number from 0, and below 1, got {short_repr(tolerance)}")
    if not variance.sum() > 0:
        raise NotPositiveDefinite("the kernel is zero everywhere: its network trains no layer, or all samples are zero")
    dtype = first.dtype.name if first.dtype.kind == "f" else "float64"
    smallest, size, every = smallest_residual(count, dtype) * variance, len(variance), np.arange(len(variance))
    step = width or block_width(count)
    rows, columns, features = np.zeros(0, np.int64), np.zeros((size, 0), dtype), np.zeros((size, 0))
    residual, errors = variance.copy(), [1.0]
    while len(rows) < count and errors[-1] > tolerance:

        def residual_kernel(some: Rows, known: Array = features) -> Array:
            return np.asarray(kernel(some, some), np.float64) - known[some] @ known[some].T

        block = draw_block(residual, smallest, min(step, count - len(rows)), (seed, len(errors) - 1), residual_kernel)
        if not len(block.rows):
            break
        new = np.asarray(kernel(every, block.rows))
        wide = np.concatenate([features, new.astype(np.float64)], axis=1)
        features = features_of(wide, iter([(features[block.rows], block.factor)]))
        rows, columns = np.concatenate([rows, block.rows]), np.concatenate([columns, new.astype(dtype)], axis=1)
        residual = residual_of(variance, features, rows, every)
        errors.append(float(residual.sum() / variance.sum()))
    return ChosenCentres(rows, columns, tuple(errors))


def residual_of(variance: Array, features: Array, centres: Rows, samples: Rows) -> Array:
    """Evaluate what the centres leave of the variance of some samples, ``(k,)``, from the samples' features (k, m).

    Rounding never makes it negative, and it is 0 for a centre.
    """
    residual = np.maximum(variance - np.einsum("ij,ij->i", features, features), 0.0)
    residual[np.isin(samples, centres)] = 0.0
    return residual
