"""The ends of a stored kernel's spectrum, and the smallest ridge with which it can be factored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy
from pydantic import AfterValidator, with_config

from cntk_pipeline.inference.base import AGAIN, LAST, Asked, Found, Product, Result, Shown
from cntk_pipeline.models import STRICT, Json, require_one_length
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.solvers import System, SystemSize
from cntk_pipeline.solvers.systems import round_up
from cntk_pipeline.solvers.work import Work, float64, open_work
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array, ArraySpec, TiledArray
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task

DENSE_SAMPLES = 4096
"""Up to so many samples all eigenvalues are computed in memory: 134 MB and a few seconds. Beyond, Lanczos is used."""

LANCZOS_STEPS = 96
"""Number of passes over the kernel. Each reads every tile once, n^2 / 2 numbers from the disk."""

ROUNDING = 4.0
"""Units in the last place of the trace by which factoring in float64 may move an eigenvalue."""


@with_config(STRICT)
@dataclass(frozen=True)
class SpectrumRecord:
    """Eigenvalues at both ends of a kernel, with bounds of their errors; see `rounding_of`.

    Attributes
    ----------
    largest, largest_residuals : tuple of float
        Falling, and the bound of each.
    smallest, smallest_residuals : tuple of float
        Rising, and the bound of each.
    maximal_learning_rate : float or None
        Of gradient descent; None where the largest eigenvalue is not above 0.
    """

    largest: tuple[float, ...]
    largest_residuals: tuple[float, ...]
    smallest: tuple[float, ...]
    smallest_residuals: tuple[float, ...]
    maximal_learning_rate: float | None

    def __post_init__(self) -> None:
        require_one_length(self.largest, self.largest_residuals, self.smallest, self.smallest_residuals)
        if not self.largest:
            raise ValueError("it names no eigenvalue")


_RECORD: Record[SpectrumRecord] = Record(SpectrumRecord, AGAIN)


def spectrum_product(run: RunDirectory, system: System, count: int, order: int) -> Product:
    """Describe the ``count`` largest and ``count`` smallest eigenvalues of the kernel, without its ridge."""
    stage, train = Stage("spectrum", str(count), system.fingerprint), run.specification.data.train
    shape = (2, 2 * min(count, train))
    array = ArraySpec("eigenvalues", shape, shape, "float64", ("value_and_residual", "end"))
    job = Job(Task(stage, 0, 0), SPECTRUM, train, (order, LAST, 0))

    def summarise(run: RunDirectory) -> Json:
        values, residuals = run.inferred(stage.solve, stage.name, "eigenvalues").read(0, 0)
        ends = shape[1] // 2
        classes = len(run.specification.data.classes)
        return {
            "largest": values[:ends].tolist(),
            "largest_residuals": residuals[:ends].tolist(),
            "smallest": values[ends:].tolist(),
            "smallest_residuals": residuals[ends:].tolist(),
            "maximal_learning_rate": 2 * train * classes / values[0] if values[0] > 0 else None,
        }

    return Product(stage, SPECTRUM, (array,), (job,), _RECORD, summarise, label=system.label)


def find_ends(run_path: str, task: Task) -> Receipt:
    """Compute eigenvalues: the largest ones, falling, then the smallest ones, rising; below them, their bounds."""
    work = open_work(run_path, task)
    n = work.cut.count
    ends = _ends(work.run, task).shape[1] // 2
    if n <= DENSE_SAMPLES:
        values, residuals = eigenvalues(work.kernel.train((0, n), (0, n)))
    else:
        values, residuals = lanczos(lambda vector: multiply(work, vector), n, max(LANCZOS_STEPS, 4 * ends))
    order = [*range(len(values) - 1, len(values) - 1 - ends, -1), *range(ends)]
    return work.write(SPECTRUM, np.stack([values[order], residuals[order]]))


def _ends(run: RunDirectory, task: Task) -> TiledArray:
    return run.inferred(task.stage.solve, task.stage.name, "eigenvalues")


def _places(run: RunDirectory, task: Task) -> list[Place]:
    return [(_ends(run, task), (0, 0))]


SPECTRUM = Owner("spectrum", find_ends, _places)


def multiply(work: Work, vector: Array) -> Array:
    """Multiply the kernel by a vector ``(n,)``: one pass over the tiles on and below its diagonal.

    Tiles stay mapped from one pass to the next as far as there is room. For a unit diagonal, the vector and the product
    are scaled, not the tiles.
    """
    cut, stored = work.run.train_cut, work.run.kernel(work.system.readout, "train")
    scale = work.kernel.scale("train", (0, cut.count))
    places = [(row, col) for row in range(cut.pieces) for col in range(row + 1)]
    scaled, product = scale * vector, np.zeros_like(vector)
    tiles = work.ahead(lambda place: float64(stored.read_mapped(*place)), places)
    for (row, col), tile in zip(places, tiles, strict=True):
        above, left = slice(*cut.bounds(row)), slice(*cut.bounds(col))
        product[above] += tile @ scaled[left]
        if row > col:
            product[left] += scaled[above] @ tile
    return scale * product


def eigenvalues(matrix: Array) -> tuple[Array, Array]:
    """Compute all eigenvalues of a matrix ``(n, n)``, rising, and the bound of the error of each, ``(n,)``."""
    values = scipy.linalg.eigvalsh(matrix, check_finite=False)
    return values, np.full(len(values), rounding_of(values, len(values)))


def lanczos(product: Callable[[Array], Array], n: int, steps: int) -> tuple[Array, Array]:
    """Find eigenvalues at both ends in a fixed number of products (Golub and Van Loan 2013, section 10.1).

    ARPACK restarts until it has converged, or gives nothing. Here a product reads the whole kernel from the disk, and
    an eigenvalue with an error bound is worth more than a converged one after a day. All vectors are kept, ``8 n
    steps`` bytes, and each is orthogonalised against all others, twice. A vector reaches one copy of each eigenvalue;
    where there are no more, another one is drawn, orthogonal to all before.

    Returns
    -------
    values : array
        ``min(steps, n)`` Ritz values, rising.
    residuals : array
        Of each value; an eigenvalue lies within this distance of it.
    """
    basis = np.empty((min(steps, n), n))
    rng = np.random.default_rng(0)  # the same answer every time
    vector = rng.standard_normal(n)
    vector /= np.linalg.norm(vector)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(len(basis)):
        basis[step] = vector
        vector = product(vector)
        diagonal.append(float(basis[step] @ vector))
        for _ in range(2):
            vector -= basis[: step + 1].T @ (basis[: step + 1] @ vector)
        beside.append(float(np.linalg.norm(vector)))
        if step + 1 < len(basis) and beside[-1] <= np.finfo(np.float64).eps * max(map(abs, diagonal)):
            # The space is exhausted, its values are exact. A vector beside it finds the other copies of eigenvalues:
            # without them, the ends of a kernel of low rank would have too few values.
            beside[-1] = 0.0
            vector = rng.standard_normal(n)
            for _ in range(2):
                vector -= basis[: step + 1].T @ (basis[: step + 1] @ vector)
            vector /= np.linalg.norm(vector)
        elif beside[-1] > 0:
            vector /= beside[-1]
    values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside[:-1])
    return values, np.abs(beside[-1] * vectors[-1]) + rounding_of(values, n)


def rounding_of(values: Array, n: int) -> float:
    """Bound the rounding of eigenvalues in float64: n units in the last place of the largest one.

    The bound of LAPACK has a factor that grows modestly with n (Anderson et al. 1999, section 4.7). Errors of up to 21
    units were seen with n = 512, so that a factor of 1 is too small.

    Parameters
    ----------
    values : array
        Eigenvalues, the largest among them.
    n : int
        Samples of the kernel.
    """
    return float(n * np.finfo(np.float64).eps * np.abs(values).max())


def remedy(ends: SpectrumRecord, mean_diagonal: float, n: int) -> str:
    """Write the smallest sufficient ridge for a kernel with these ends as text."""
    smallest, residual = ends.smallest[0], ends.smallest_residuals[0]
    rounding = ROUNDING * np.finfo(np.float64).eps * n * mean_diagonal
    ridge = max(residual - smallest, 0.0) + rounding
    absolute, relative = round_up(ridge), round_up(ridge / mean_diagonal)
    return (
        f"The smallest eigenvalue of the kernel is {smallest:.2e}, known to {residual:.0e}: take a ridge of at least "
        f"{absolute:.1e} absolute, {relative:.1e} relative to trace(K)/n. The kernel is kept"
    )


DEFAULT_EIGENVALUES = 10


def _at_least_one(value: bool | int) -> bool | int:
    if not isinstance(value, bool) and value < 1:
        raise ValueError(f"expected true, false, or a count of at least 1, got {value}")
    return value


class SpectrumResult(Result):
    """Eigenvalues at both ends of the kernel, a count of each; ``true`` is 10."""

    key = "spectrum"
    option = Annotated[bool | int, AfterValidator(_at_least_one)]
    owner = SPECTRUM
    record = _RECORD

    def of_system(self, run: RunDirectory, system: System, value: bool | int, order: int) -> list[Product]:
        count = DEFAULT_EIGENVALUES if isinstance(value, bool) else value
        return [spectrum_product(run, system, count, order)]

    def forecast(self, asked: Asked, size: SystemSize) -> list[StageForecast]:
        dense = size.train <= DENSE_SAMPLES
        operations = 9.0 * size.train**3 if dense else 2.0 * LANCZOS_STEPS * size.train**2
        return [StageForecast(self.key, 1, 0, operations / size.product_rate)]

    def show(self, found: Found) -> Shown:
        rows = []
        for name, record in found:
            rate = record.maximal_learning_rate
            ends = (record.largest, record.largest_residuals), (record.smallest, record.smallest_residuals)
            shown = [f"{values[0]:.4g} +- {residuals[0]:.0e}" for values, residuals in ends]
            rows.append((name, *shown, "none" if rate is None else f"{rate:.4g}"))
        return Shown("eigenvalues of the kernel", ("largest", "smallest", "maximal learning rate"), tuple(rows))
