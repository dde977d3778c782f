"""The workflow of small tables: its kernels by another formula, its figures by hand, and the script itself."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.scripts import load_script

from cntk_pipeline import kernel_matrices

FOLDER = Path(__file__).parents[2] / "workflows"
SCRIPT = FOLDER / "uci" / "uci.py"
RESULTS = FOLDER / "uci" / "uci90.csv"


@pytest.fixture(scope="module")
def uci() -> ModuleType:
    return load_script(SCRIPT)


def kernel_by_angles(x: np.ndarray, depth: int, fixed: int) -> np.ndarray:
    """Evaluate the NTK with the first layers fixed, by the angles of Arora et al. 2020, section 2.

    With weights of variance 1 / width, a ReLU layer halves variances: the factor 1 / (2 pi).
    """
    covariance = x @ x.T / x.shape[1]
    tangent = np.zeros_like(covariance)
    for layer in range(depth):
        if layer:
            norms = np.sqrt(np.diag(covariance))
            cosine = np.clip(covariance / np.outer(norms, norms), -1, 1)
            angle = np.pi - np.arccos(cosine)
            covariance = np.outer(norms, norms) * (cosine * angle + np.sqrt(1 - cosine**2)) / (2 * np.pi)
            tangent = tangent * angle / (2 * np.pi)
        if layer >= fixed:
            tangent = tangent + covariance
    return tangent


def test_kernels_are_those_of_the_paper(uci: ModuleType) -> None:
    x = np.random.default_rng(0).standard_normal((6, 4))
    found = kernel_matrices(uci.networks(), x, dtype="float64")[:, 0]
    expected = [kernel_by_angles(x, depth, fixed) for depth in range(1, 6) for fixed in range(depth)]
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_the_comparison_is_that_of_its_definition(uci: ModuleType) -> None:
    found = uci.summarise({"a": np.array([0.8, 0.9, 0.5]), "b": np.array([0.8, 0.6, 1.0])})
    assert (found["a"].rank, found["b"].rank) == pytest.approx((1.5, 1.5))  # equal once, then each ahead once
    assert (found["a"].p90, found["b"].p90) == pytest.approx((2 / 3, 2 / 3))
    assert found["a"].pma == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["b"].pma_deviation == pytest.approx(np.std([1, 2 / 3, 1]))
    assert found["b"].accuracy == pytest.approx(0.8)


def test_tables_with_folds_are_read(uci: ModuleType, tmp_path: Path) -> None:
    folds = {f"small/fold{k}_{part}": np.arange(k, k + 3) for k in range(4) for part in ("train", "test")}
    splits = {"small/train": np.arange(4), "small/valid": np.arange(4, 8)}
    np.savez(tmp_path / "tables.npz", **{"small/x": np.eye(8), "small/y": np.arange(8) % 2}, **splits, **folds)
    (table,) = uci.read_tables(tmp_path / "tables.npz")
    assert (table.name, table.choice[1].tolist(), table.folds[3][1].tolist()) == ("small", [4, 5, 6, 7], [3, 4, 5])


def test_the_script_compares_all_methods_on_scikit_learn_s_tables_and_goes_on_after_a_stop(
    uci: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.csv"
    arguments = [str(SCRIPT), "--most-rows", "160", "--out", str(out)]
    said = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=280, check=True).stdout
    assert "1 tables, 1 of them in" in said
    header, row = out.read_text().splitlines()
    assert header == 'table,rows,features,seconds,"NTK, SVM","NTK, ridge","RBF, SVM",random forest'
    name, *values = row.split(",")
    assert (name, values[:2]) == ("iris", ["150", "4"])
    assert all(float(score) > 0.85 for score in values[3:])
    monkeypatch.setattr(sys, "argv", arguments)
    other = uci.Scored(3, 2, 1.0, dict.fromkeys(uci.METHODS, 1.0))
    uci.write_scores(out, uci.read_scores(out) | {"other": other})
    before = out.read_text()
    uci.main()
    again = capsys.readouterr().out
    assert "1 tables, 0 of them in" in again
    assert said.splitlines()[-4:] == again.splitlines()[-4:]
    assert out.read_text() == before
    uci.write_scores(out, {"iris": other})
    with pytest.raises(SystemExit, match="iris is of another size there; give another file"):
        uci.main()
    out.write_text("name,score\n")
    with pytest.raises(SystemExit, match="expected the columns table, rows, features, seconds, NTK, SVM"):
        uci.main()
    assert out.read_text() == "name,score\n"


def test_the_figures_of_the_pages_are_those_of_the_file_of_scores(uci: ModuleType) -> None:
    scores = uci.read_scores(RESULTS)
    assert len(scores) == 90
    page = (SCRIPT.parent / "README.md").read_text()
    for method, row in uci.summarise(uci.accuracies_of(scores)).items():
        pma = f"{row.pma:.2%} +- {100 * row.pma_deviation:.2f}"
        line = f"| {method} | {row.accuracy:.2%} | {row.rank:.2f} | {row.p90:.1%} | {row.p95:.1%} | {pma} |"
        assert line in page
        assert f"{row.accuracy:.2%}" in (FOLDER.parent / "docs" / "measured.md").read_text()
