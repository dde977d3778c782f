"""The workflow of time series: the archive's files, dynamic time warping by its definition, and scores of a set."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.scripts import load_script

SCRIPT = Path(__file__).parents[2] / "workflows" / "ucr" / "ucr.py"


@pytest.fixture(scope="module")
def ucr() -> ModuleType:
    return load_script(SCRIPT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a set of ramps up and down, as the archive has it, in both of its formats."""
    rng = np.random.default_rng(0)
    (tmp_path / "Ramps").mkdir()
    for part, count in (("TRAIN", 10), ("TEST", 6)):
        labels = 1 + np.arange(count) % 2
        series = np.linspace(-1, 1, 12) * (2 * labels - 3)[:, None] + rng.normal(0, 0.1, (count, 12))
        rows = ["\t".join(map(str, [label, *values])) for label, values in zip(labels, series.tolist(), strict=True)]
        (tmp_path / "Ramps" / f"Ramps_{part}.tsv").write_text("\n".join(rows) + "\n")
        rows = [f"{','.join(map(str, values))}:{label}" for label, values in zip(labels, series.tolist(), strict=True)]
        head = "#Ramps\n@problemName Ramps\n@data\n"
        (tmp_path / f"Again_{part}.ts").write_text(head + "\n".join(rows) + "\n")
    return tmp_path


def test_both_formats_of_the_archive_are_read(ucr: ModuleType, folder: Path) -> None:
    one, other = (ucr.read_series(folder, name) for name in ("Ramps", "Again"))
    assert (one.x_train.shape, one.x_test.shape, one.y_test.tolist()) == ((10, 12, 1), (6, 12, 1), [1, 2, 1, 2, 1, 2])
    np.testing.assert_array_equal(one.x_train, other.x_train)
    np.testing.assert_array_equal(one.y_train, other.y_train)
    np.testing.assert_allclose([one.x_test.mean(1), one.x_test.std(1)], [np.zeros((6, 1)), np.ones((6, 1))], atol=1e-12)
    with pytest.raises(SystemExit, match=r"expected Lost_TRAIN\.tsv or \.ts, got no such file; see workflows/ucr"):
        ucr.read_series(folder, "Lost")
    (folder / "Gaps_TRAIN.tsv").write_text("1\t2.0\tNaN\t3.0\n")
    with pytest.raises(SystemExit, match="expected series without gaps, got missing values; leave Gaps out"):
        ucr.read_series(folder, "Gaps")


def test_series_of_unequal_lengths_and_several_channels_are_read(ucr: ModuleType, tmp_path: Path) -> None:
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"Short_{part}.tsv").write_text("1\t2.0\t4.0\t6.0\n2\t1.0\t3.0\tNaN\n")
        (tmp_path / f"Two_{part}.ts").write_text("@data\n1,2,3:4,4,7:1\n2,2:0,5:2\n")
    short = ucr.read_series(tmp_path, "Short")
    np.testing.assert_allclose(short.x_train[:, :, 0], [[-(1.5**0.5), 0, 1.5**0.5], [-1, 1, np.nan]], atol=1e-7)
    two = ucr.read_series(tmp_path, "Two")
    assert (two.x_test.shape, two.y_test.tolist()) == ((2, 3, 2), [1, 2])
    # Of each channel over all present steps.
    np.testing.assert_allclose(np.nanmean(two.x_train, (0, 1)), 0, atol=1e-7)
    np.testing.assert_allclose(np.nanstd(two.x_train, (0, 1)), 1, rtol=1e-6)
    np.testing.assert_allclose(two.x_train[1, :, 1], [-4 / 5.2**0.5, 1 / 5.2**0.5, np.nan], rtol=1e-6)


def test_warping_takes_the_best_alignment(ucr: ModuleType) -> None:
    x, z = np.random.default_rng(1).standard_normal((2, 5, 2))

    def least(i: int, j: int) -> float:
        """Try every way that ends at a pair of steps."""
        before = [least(*k) for k in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if min(k) >= 0]
        return float(np.sum((x[i] - z[j]) ** 2)) + (min(before) if before else 0)

    assert ucr.warping_distance(x, z) == pytest.approx(least(4, 4))
    assert ucr.warping_distance(x, np.repeat(x, 2, axis=0)) == 0


@pytest.mark.slow
def test_all_methods_tell_ramps_apart(ucr: ModuleType, folder: Path) -> None:
    found = ucr.score(ucr.read_series(folder, "Ramps"))
    assert list(found) == ["last state", "equal times", "all times", "1-NN-DTW"]
    assert all(accuracy == 1 for accuracy, _ in found.values())
    assert "ridge" in found["last state"][1]
