"""What the tests of the solvers share: one small system, kernels of a given spectrum, the dense solution."""

import numpy as np
import pytest

from cntk_pipeline.clusters.serial import SerialExecutor
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.workflow.report import SolveReport
from support.problems import receive, whole_matrix

ONE = {"readouts": {"depths": [3], "poolings": ["gap"], "kinds": ["ntk"]}, "kernel": {"tile": 16, "dtype": "float64"}}
"""Sections of the small problem that leave one system, in float64."""


def split_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split the tiles of factors, however small, as a run on two slots splits large ones."""
    monkeypatch.setattr("cntk_pipeline.solvers.cholesky.SMALLEST_SPLIT_TILE", 1)
    monkeypatch.setattr(SerialExecutor, "slots", 2)


def plant(run: RunDirectory, eigenvalues: np.ndarray) -> np.ndarray:
    """Put a kernel of a given spectrum in place of the one that was computed; returns it as it is stored."""
    rng = np.random.default_rng(11)
    basis, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))
    matrix = (basis * eigenvalues) @ basis.T
    return plant_matrix(run, (matrix + matrix.T) / 2)


def plant_matrix(run: RunDirectory, matrix: np.ndarray) -> np.ndarray:
    """Put a symmetric matrix in place of the kernel that was computed; returns it as it is stored."""
    name = run.specification.readouts[0].name
    kernel, variances = run.kernel(name, "train"), run.kernel(name, "train_variance")
    cut = kernel.cut(0)
    for row in range(cut.pieces):
        mine = slice(*cut.bounds(row))
        variances.write((row,), np.diagonal(matrix)[mine])
        for col in range(row + 1):
            kernel.write((row, col), matrix[mine, slice(*cut.bounds(col))])
    receive(run, *(Task(Stage("train"), row, col) for row in range(cut.pieces) for col in range(row + 1)))
    return whole_matrix(run, name, "train").astype(float)


def require_dense_solution(run: RunDirectory, solve: SolveReport, bound: float = 1e-7) -> None:
    kernel = whole_matrix(run, solve.readout, "train").astype(float)
    targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), len(run.specification.data.classes))
    alpha = np.linalg.solve(kernel + (solve.absolute_ridge or 0) * np.eye(len(kernel)), targets)
    found = run.solved(solve.name, "coefficients").read(0, 0)
    np.testing.assert_allclose(found, alpha, rtol=0, atol=bound * np.abs(alpha).max())
    mean = run.solved(solve.name, "mean").read_region((0, 11), (0, targets.shape[1]))
    test = whole_matrix(run, solve.readout, "test").astype(float)
    np.testing.assert_allclose(mean, test @ alpha, rtol=0, atol=bound * np.abs(test @ alpha).max())
    assert solve.relative_residual is not None
    assert solve.relative_residual <= 1e-10
