from collections.abc import Callable

import numpy as np
import pytest
from problems import Recorder, whole_matrix

from pipeline.datasets import one_hot_targets
from pipeline.report import make_report
from pipeline.store import RunDirectory

Run = Callable[..., RunDirectory]


@pytest.mark.parametrize("tile", ["auto", 16, 32])
@pytest.mark.parametrize("rank", [0, 5, 30])
def test_the_streamed_solve_equals_the_dense_one(run_small: Run, tile: str | int, rank: int) -> None:
    run = run_small(solve={"solver": "cg", "ridges": [1e-2], "tile": tile, "rank": rank})
    report = make_report(run)
    assert len(report.solves) == 4
    for solve in report.solves:
        kernel = whole_matrix(run, solve.readout, "train").astype(float) + (solve.absolute_ridge or 0) * np.eye(37)
        targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), 3)
        alpha = np.linalg.solve(kernel, targets)
        found = run.solved(solve.name, "coefficients").read(0, 0)
        np.testing.assert_allclose(found, alpha, rtol=0, atol=1e-7 * np.abs(alpha).max())
        assert solve.relative_residual is not None
        assert solve.relative_residual <= 1e-10
        print(tile, rank, solve.readout, solve.iterations, solve.relative_residual)
    assert report.complete
