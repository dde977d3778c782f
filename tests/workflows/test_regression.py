"""The workflow of regression: what its figures are, and that each method beats the mean."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import norm
from support.scripts import load_script

SCRIPT = Path(__file__).parents[2] / "workflows" / "regression" / "regression.py"


@pytest.fixture(scope="module")
def regression() -> ModuleType:
    return load_script(SCRIPT)


def test_figures_of_a_method_that_knows_the_noise(regression: ModuleType) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 2))
    y = x[:, 0] + 0.5 * rng.standard_normal(2000)

    def know(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Features are standardised by rows of training, which changes them by a few percent.
        return new[:, 0], np.full(len(new), 0.5)

    found = regression.score(know, x, y)
    assert found.r2 == pytest.approx(1 - 0.25 / 1.25, abs=0.02)
    assert found.inside == pytest.approx(0.95, abs=0.01)
    assert found.log_loss == pytest.approx(norm(scale=0.5).entropy(), abs=0.02)


def test_the_script_compares_all_methods_on_all_tables() -> None:
    said = subprocess.run(
        [sys.executable, str(SCRIPT), "--rows", "120"], capture_output=True, text=True, timeout=280, check=True
    ).stdout
    rows = re.findall(r"(?m)^(\S.{11}) (\S.{13}) +([\d.-]+) +([\d.-]+) +([\d.]+)%", said)
    assert len(rows) == 12
    for table, method, r2, loss, inside in rows:
        assert float(r2) > 0.2, (table, method)
        assert float(loss) < norm.entropy(), (table, method)  # less than where only mean and deviation are known
        assert float(inside) > 80, (table, method)
