"""A float32 kernel of 750 images under a small ridge: solved to its residual, or told which ridge is enough."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from support.problems import Recorder

from cntk_pipeline.config import parse_config
from cntk_pipeline.errors import NotPositiveDefinite
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import SolveReport, make_report

pytestmark = pytest.mark.slow

TRAIN, TEST = 750, 50
RIDGE = 1e-6


def shifted_digits(rng: np.random.Generator) -> np.ndarray:
    """Make digits: 400 of them, and the same moved by one pixel."""
    images = load_digits().images[: (TRAIN + TEST) // 2, ..., None]
    return np.concatenate([images, np.roll(images, 1, axis=2)])


def nearly_equal_digits(rng: np.random.Generator) -> np.ndarray:
    """Make digits of 30: all others differ from one of them by noise of a 100,000th of a grey level."""
    images = load_digits().images[np.arange(TRAIN + TEST) % 30, :, :, None]
    return images + 1e-5 * rng.standard_normal(images.shape)


def solve(path: Path, ridge: float) -> SolveReport:
    config = parse_config(
        {
            "data": {"source": "npz", "path": str(path / "digits.npz")},
            "network": {"preset": "cntk"},
            "readouts": {"depths": [3], "poolings": ["gap"]},
            "kernel": {"tile": 128, "dtype": "float32"},
            "solve": {"ridges": [ridge], "ridge_mode": "relative"},
            "cluster": {"kind": "local", "workers": 2},
            "store": {"path": str(path / "run")},
        },
        "test",
    )
    report = make_report(runs.start(config, Recorder(), threading.Event()))
    return next(solve for solve in report.solves if solve.ridge == ridge)


@pytest.mark.parametrize(("make", "passes"), [(shifted_digits, True), (nearly_equal_digits, False)])
def test_a_gap_kernel_of_750_images_solves_with_a_millionth_of_its_diagonal_or_says_why_not(
    tmp_path: Path, make: Callable[[np.random.Generator], np.ndarray], passes: bool
) -> None:
    images, target = make(np.random.default_rng(0)).astype(np.float32), load_digits().target
    labels = target[np.arange(TRAIN + TEST) % ((TRAIN + TEST) // 2 if passes else 30)]
    np.savez(
        tmp_path / "digits.npz",
        x_train=images[:TRAIN],
        y_train=labels[:TRAIN],
        x_test=images[TRAIN:],
        y_test=labels[TRAIN : TRAIN + TEST],
    )
    ridge = RIDGE
    if not passes:
        with pytest.raises(NotPositiveDefinite, match=r"depth3-gap-ntk.*pivot .* at training row \d+") as caught:
            solve(tmp_path, RIDGE)
        print(caught.value)
        ridge = float(re.search(r"([\d.e+-]+) relative to trace", str(caught.value))[1])
    solved = solve(tmp_path, ridge)
    assert solved.relative_residual < 1e-9
