"""Counts the iterations of conjugate gradients with the diagonal and either sketch of the kernel, on digits.

Run: ``python benchmarks/preconditioners.py``. It measures no time. A Gaussian sketch is a pass over the kernel; columns
of the kernel cost ``n rank`` pairs; the diagonal costs nothing.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from cntk_pipeline import kernel_matrix
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.layers.presets import PRESETS
from cntk_pipeline.solvers.iteration import advance, begin
from cntk_pipeline.solvers.preconditioners import apply_low_rank, drawn_columns, low_rank, random_rows

COUNT, DEPTH, TOLERANCE, MOST = 1500, 6, 1e-10, 1000
RANKS, RIDGES, POOLINGS = (64, 256, 512), (1e-2, 1e-4, 1e-6), ("flatten", "gap")


def sketched(kernel: np.ndarray, rank: int, by_columns: bool) -> tuple[np.ndarray, np.ndarray]:
    """Approximate a kernel as the solver does."""
    if by_columns:
        columns = drawn_columns(len(kernel), rank)
        return low_rank(kernel[:, columns], kernel[np.ix_(columns, columns)])
    omega = random_rows(0, len(kernel), rank, len(kernel))
    return low_rank(kernel @ omega, omega.T @ kernel @ omega)


def preconditioner(kernel: np.ndarray, ridge: float, rank: int, by_columns: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Make the map of residuals as the solver does; rank 0 is the diagonal."""
    if not rank:
        scales = kernel.diagonal()[:, None] + ridge
        return lambda residual: residual / scales
    basis, eigenvalues = sketched(kernel, rank, by_columns)
    eigenvalues = eigenvalues + ridge
    return partial(apply_low_rank, basis, eigenvalues[-1] / eigenvalues)


def iterations(kernel: np.ndarray, targets: np.ndarray, ridge: float, rank: int, by_columns: bool) -> int:
    """Count the passes until the true residual of every class is small enough."""
    precondition = preconditioner(kernel, ridge, rank, by_columns)
    state, passes = begin(targets, precondition), 0
    while not (passes and state.checked and np.all(state.true <= TOLERANCE)) and passes < MOST:
        product = kernel @ state.direction + ridge * state.direction
        state, passes = advance(state, product, targets, precondition, TOLERANCE), passes + 1
    return passes


def main() -> None:
    """Print the passes for networks, ranks and ridges."""
    digits = load_digits()
    images = digits.images[:COUNT, :, :, None]
    images = (images - images.mean()) / images.std()
    targets = one_hot_targets(digits.target[:COUNT], 10)
    sketches = (f"{name} {rank}" for rank in RANKS for name in ("gaussian", "columns"))
    table = Table("pooling", "ridge", "diagonal", *sketches)
    for pooling in POOLINGS:
        kernel = kernel_matrix(PRESETS["cntk"].build(DEPTH, pooling=pooling), images, n_jobs=1).astype(float)
        unit = np.trace(kernel) / COUNT
        for ridge in RIDGES:
            ways = [(0, False), *((rank, by_columns) for rank in RANKS for by_columns in (False, True))]
            counts = [iterations(kernel, targets, ridge * unit, *way) for way in ways]
            table.add_row(pooling, f"{ridge:g}", *map(str, counts))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
