"""The figure of the eigenvalues, against NumPy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.figures import TRAIN, dense, drawn, pictures, run_of
from support.problems import stopped

from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.plots import Accuracy, Spectrum, spectrum
from cntk_pipeline.plots.displays import spectrum as module

RIDGES = [0.0, 1e-3, 0.5]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    sections = {"solve": {"ridges": RIDGES}, "inference": {"spectrum": 4}}
    return run_of(tmp_path_factory.mktemp("spectrum"), pictures(), **sections)


def eigenvalues_of(run: OpenRun) -> np.ndarray:
    return np.linalg.eigvalsh(dense(run, "depth2-ntk"))[::-1]


def dimension(eigenvalues: np.ndarray, ridge: float) -> float:
    return float(np.sum(eigenvalues / (eigenvalues + ridge)))


def test_all_eigenvalues_and_the_effective_dimension_are_those_of_numpy(run: OpenRun) -> None:
    display, expected = Spectrum.from_run(run), eigenvalues_of(run)
    np.testing.assert_allclose(display.eigenvalues, expected, rtol=1e-9)
    assert display.is_whole
    assert display.trace == pytest.approx(np.trace(dense(run, "depth2-ntk")))
    for each, ridge in zip(display.dimensions, RIDGES, strict=True):
        assert each.ridge == ridge
        assert each.absolute_ridge == pytest.approx(ridge * expected.mean())
        assert each.low == each.high == pytest.approx(dimension(expected, each.absolute_ridge))
    assert [row[0] for row in display.tables()[1].rows] == ["0", "0.001", "0.5"]


def test_a_ridge_that_is_no_number_is_refused(run: OpenRun) -> None:
    with pytest.raises(ConfigError, match="ridge must be a number, or be left out, got 'auto'"):
        Spectrum.from_run(run, ridge="auto")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"one of the numbers in solve\.ridges, or be left out, got 'auto'"):
        Accuracy.from_run(run, ridge="auto")  # type: ignore[arg-type]


def test_eigenvalues_are_drawn_with_the_ridges(run: OpenRun) -> None:
    display = Spectrum.from_run(run)
    (axes,) = drawn(display).axes
    curve, *ridges = axes.lines
    np.testing.assert_array_equal(curve.get_xdata(), np.arange(1, TRAIN + 1))
    assert curve.get_linestyle() == "-"
    assert [line.get_ydata()[0] for line in ridges] == [each.absolute_ridge for each in display.dimensions[1:]]
    assert [text.get_text() for text in axes.texts] == ["ridge 0.001", "ridge 0.5"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("position, the largest first", "eigenvalue")
    assert len(spectrum(run, ridge=0.5).axes[0].lines) == 2


def test_both_ends_bound_the_dimension(run: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DENSE_IMAGES", TRAIN - 1)
    display, expected = Spectrum.from_run(run), eigenvalues_of(run)
    assert not display.is_whole
    assert display.positions.tolist() == [1, 2, 3, 4, TRAIN - 3, TRAIN - 2, TRAIN - 1, TRAIN]
    np.testing.assert_allclose(display.eigenvalues, expected[display.positions - 1], rtol=1e-9)
    for each in display.dimensions:
        true = dimension(expected, each.absolute_ridge)
        assert each.low - 1e-9 <= true <= each.high + 1e-9
    assert display.dimensions[2].low < display.dimensions[2].high
    assert display.tables()[1].rows[2][2].startswith("between ")
    largest = run.spectrum("depth2-ntk", 0.5).summary
    assert display.residuals[0] == largest.largest_residuals[0]
    assert display.tables()[0].rows[1] == ("largest", f"{expected[0]:.6g} ± {largest.largest_residuals[0]:.0e}")
    (axes,) = drawn(display).axes
    assert (axes.lines[0].get_linestyle(), axes.get_ylabel()) == ("None", "eigenvalue, at both ends")


def test_bounds_are_reached_by_equal_and_by_extreme_eigenvalues() -> None:
    """Of three unknown eigenvalues between 1 and 4 with the sum 6, equal ones are 2, extreme ones 4, 1 and 1."""
    display = Spectrum("a", 5, np.array([1, 5]), np.array([4.0, 1.0]), np.zeros(2), 11.0, ())
    known = 4 / 5 + 1 / 2
    assert display.dimension(1.0) == pytest.approx((known + 4 / 5 + 1 / 2 + 1 / 2, known + 3 * 2 / 3))


def test_all_ends_are_all_eigenvalues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, pictures(), inference={"spectrum": 30})
    monkeypatch.setattr(module, "DENSE_IMAGES", 0)
    display = Spectrum.from_run(run)
    assert display.is_whole
    np.testing.assert_allclose(display.eigenvalues, eigenvalues_of(run), rtol=1e-9)


def test_the_chosen_ridge_is_marked(tmp_path: Path) -> None:
    run = run_of(tmp_path, pictures(), solve={"ridges": "auto"})
    display = Spectrum.from_run(run)
    assert [each.ridge for each in display.dimensions if each.chosen] == [run.system().ridge]
    assert [text.get_text() for text in drawn(display).axes[0].texts if "chosen" in text.get_text()] == [
        f"ridge {run.system().ridge:g}, chosen"
    ]


def test_a_unit_diagonal_is_that_of_the_solve(tmp_path: Path) -> None:
    run = run_of(tmp_path, pictures(), solve={"unit_diagonal": True})
    kernel = dense(run, "depth2-ntk")
    scale = 1 / np.sqrt(np.diagonal(kernel))
    expected = np.linalg.eigvalsh(kernel * np.outer(scale, scale))[::-1]
    np.testing.assert_allclose(Spectrum.from_run(run).eigenvalues, expected, rtol=1e-9)
    assert Spectrum.from_run(run).dimensions[0].absolute_ridge == pytest.approx(1e-2)


def test_eigenvalues_that_are_not_positive_are_counted_and_not_drawn() -> None:
    display = Spectrum("a", 3, np.arange(1, 4), np.array([2.0, 1.0, -0.1]), np.zeros(3), 2.9, ())
    (line,) = drawn(display).axes[0].lines
    assert list(line.get_ydata()) == [2.0, 1.0]
    assert display.tables()[0].rows[-1] == ("not above zero", "1")
    assert display.dimension(0.0) == (2.0, 2.0)
    assert display.dimension(1.0)[0] == pytest.approx(2 / 3 + 1 / 2)


def test_a_larger_kernel_needs_the_result_of_inference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, pictures())
    with pytest.raises(ConfigError, match=r"has 41 training images: all eigenvalues are computed for at most 2,048"):
        Spectrum.from_run(run, limit_bytes=9 * (16 * 16 * 8 + 4) - 1)
    assert Spectrum.from_run(run, limit_bytes=9 * (16 * 16 * 8 + 4)).is_whole
    monkeypatch.setattr(module, "DENSE_IMAGES", 40)
    with pytest.raises(ConfigError, match=r"Write spectrum = true under \[inference\] and run the workflow again"):
        Spectrum.from_run(run)


def test_an_unfinished_run_says_so(small_config: Callable[..., RunConfig]) -> None:
    unfinished = stopped(small_config(), 2)
    with pytest.raises(NotComputed, match=r'kernel\("depth3-flatten-ntk", "train"\) is not computed yet, 2 of 6 tiles'):
        Spectrum.from_run(unfinished)
