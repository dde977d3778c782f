"""The evidence of the systems of a run, against dense NumPy and scikit-learn."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel
from support.problems import TRAIN, Recorder, flip_bit, whole_matrix
from support.systems import plant_matrix

import cntk_pipeline
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.inference.evidence import EvidenceRecord
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.deviations import deviation_factors
from cntk_pipeline.regression.likelihood import Evidence
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

ONE = {"poolings": ["gap"], "kinds": ["nngp"]}
ASKED = {"evidence": True}


class Fixed(Kernel):
    """A kernel matrix that is given, as a kernel of scikit-learn: its samples are numbers of rows."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    def __call__(self, X: np.ndarray, Y: np.ndarray | None = None, eval_gradient: bool = False) -> np.ndarray:
        return self.matrix[np.ix_(X[:, 0].astype(int), (X if Y is None else Y)[:, 0].astype(int))]

    def diag(self, X: np.ndarray) -> np.ndarray:
        return np.diagonal(self.matrix)[X[:, 0].astype(int)]

    def is_stationary(self) -> bool:
        return False


def by_scikit_learn(kernel: np.ndarray, y: np.ndarray, noise: float) -> float:
    process = GaussianProcessRegressor(Fixed(kernel), alpha=noise, optimizer=None)
    return float(process.fit(np.arange(len(kernel))[:, None], y).log_marginal_likelihood_value_)


def system_of(run: RunDirectory, number: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """Read kernel, targets and absolute ridge of a system, in memory."""
    solve = make_report(run).solves[number]
    labels = np.asarray(run.inputs("train_labels")[:])
    assert solve.absolute_ridge is not None
    return whole_matrix(run, solve.readout, "train").astype(float), one_hot_targets(labels, 3), solve.absolute_ridge


@pytest.mark.parametrize("tile", [16, 48])
def test_the_evidence_is_the_log_marginal_likelihood_of_scikit_learn(run_small: Run, tile: int) -> None:
    run = run_small(solve={"tile": tile, "ridges": [1e-2, 1.0]}, inference=ASKED, kernel={"tile": 8})
    opened = OpenRun(run)
    for number, solve in enumerate(make_report(run).solves):
        kernel, targets, ridge = system_of(run, number)
        record = opened.evidence(solve.readout, solve.ridge).summary
        (scale,) = record.scales
        assert record.log_evidence == pytest.approx(by_scikit_learn(kernel, targets, ridge), rel=1e-10)
        best = by_scikit_learn(scale * kernel, targets, scale * ridge)
        assert record.best_log_evidence == pytest.approx(best, rel=1e-10)
        assert best > by_scikit_learn(1.01 * scale * kernel, targets, 1.01 * scale * ridge)
        slogdet = np.linalg.slogdet(kernel + ridge * np.eye(TRAIN))
        assert record.log_determinant == pytest.approx(slogdet[1], rel=1e-11)
        assert float(deviation_factors(run, opened.system(solve.readout, solve.ridge))) == scale


def test_the_centres_have_the_evidence_of_their_own_kernel(run_small: Run) -> None:
    centres = 9
    solve = {"solver": "centres", "centres": centres, "tile": 16}
    run = run_small(readouts=ONE, solve=solve, inference=ASKED, kernel={"dtype": "float64", "tile": 8})
    record = OpenRun(run).evidence().summary
    name = run.specification.readouts[0].name
    columns = run.kernel(name, "train").read_region((0, TRAIN), (0, centres), symmetric=True)
    kernel = columns @ np.linalg.solve(columns[:centres], columns.T)
    targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), 3)
    ridge = make_report(run).solves[0].absolute_ridge
    assert ridge is not None
    kernel = (kernel + kernel.T) / 2
    assert record.log_evidence == pytest.approx(by_scikit_learn(kernel, targets, ridge), rel=1e-10)
    (scale,) = record.scales
    assert record.best_log_evidence == pytest.approx(by_scikit_learn(scale * kernel, targets, scale * ridge), rel=1e-10)


def numbers(constant: float) -> dict[str, np.ndarray]:
    """Draw vectors with two targets that vary, of unequal scales, and one that does not."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4))
    y = np.stack([x @ [1.0, 2.0, 0.0, 0.5], 100 * x[:, 0] ** 2, np.full(30, constant)], 1)
    return {"x_train": x[:20], "y_train": y[:20], "x_test": x[20:], "y_test": y[20:]}


def run_numbers(path: Path, data: dict[str, np.ndarray], **solve: Any) -> OpenRun:
    return cntk_pipeline.run(
        {"network": {"preset": "fully_connected"}, "readouts": {"depths": [2]}, "inference": ASKED, "solve": solve},
        data=data, store__path=path / "run", kernel__dtype="float64", cluster__kind="serial",
        progress=False,
    )  # fmt: skip


# The mean of twenty times 0.1 is not 0.1, so that the centred target is not 0.
@pytest.mark.parametrize("constant", [7.0, 0.1])
@pytest.mark.parametrize("solver", [{}, {"solver": "centres", "centres": 9}])
def test_each_target_of_a_regression_has_a_factor(tmp_path: Path, constant: float, solver: dict[str, Any]) -> None:
    data = numbers(constant)
    y = data["y_train"]
    assert (y.mean(axis=0)[2] == constant) == (constant == 7.0)
    run = run_numbers(tmp_path, data, ridges=[0.1], **solver)
    record = run.evidence().summary
    kernel = np.asarray(run.kernel())
    if solver:
        kernel = kernel @ np.linalg.solve(kernel[:9], kernel.T)
        kernel = (kernel + kernel.T) / 2
    (noise,) = (row.absolute_ridge for row in run.metrics)
    centred = y - y.mean(0)
    assert record.log_evidence == pytest.approx(by_scikit_learn(kernel, centred, noise), rel=1e-10)
    assert record.scales[1] > 100 * record.scales[0]
    assert record.scales[2] == 0
    # The constant target would be infinitely likely, and is left out.
    parts = zip(centred.T[:2], record.scales[:2], strict=True)
    best = sum(by_scikit_learn(scale * kernel, y, scale * noise) for y, scale in parts)
    assert record.best_log_evidence == pytest.approx(best, rel=1e-10)
    assert " to " in repr(run.evidence())
    assert deviation_factors(run.directory, run.system()).tolist() == list(record.scales)


@pytest.mark.parametrize("way", ["eigenvalues", "factors"])
def test_a_constant_target_has_no_say_in_the_ridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr("cntk_pipeline.inference.auto_ridge.in_memory", lambda *_: way == "eigenvalues")
    data = numbers(0.1)
    varied = data | {part: data[part][:, :2] for part in ("y_train", "y_test")}
    (row,), (expected,) = (
        run_numbers(tmp_path / name, each, ridges="auto", choose_by="evidence").metrics
        for name, each in (("all", data), ("varied", varied))
    )
    assert row.ridge == expected.ridge


def labels_of(constant: float | None) -> dict[str, np.ndarray]:
    """Draw vectors with two labels that some have, and one that all training vectors have, or none."""
    x = np.random.default_rng(1).standard_normal((17, 4))
    y = (x[:, :2] > 0).astype(float)
    if constant is not None:
        y = np.concatenate([y, np.full((17, 1), constant)], 1)
    return {"x_train": x[:11], "y_train": y[:11], "x_test": x[11:], "y_test": y[11:]}


@pytest.mark.parametrize("constant", [0.0, 1.0])
@pytest.mark.parametrize("solver", [{}, {"solver": "centres", "centres": 9}])
def test_a_label_that_is_constant_has_no_part_in_the_factor(
    tmp_path: Path, constant: float, solver: dict[str, Any]
) -> None:
    solve = {"ridges": [0.1], "unit_diagonal": True} | solver
    whole = run_numbers(tmp_path / "whole", labels_of(constant), **solve)
    without = run_numbers(tmp_path / "without", labels_of(None), **solve)
    record, expected = whole.evidence().summary, without.evidence().summary
    assert record.scales == pytest.approx(expected.scales, rel=1e-12)
    assert record.best_log_evidence == pytest.approx(expected.best_log_evidence, rel=1e-12)
    factor = float(deviation_factors(whole.directory, whole.system()))
    assert factor == record.scales[0]
    if not solver:
        variance = np.asarray(whole.kernel(part="train_variance"))
        kernel = np.asarray(whole.kernel()) / np.sqrt(np.outer(variance, variance))
        y = labels_of(None)["y_train"] - labels_of(None)["y_train"].mean(0)
        by_column = [by_scikit_learn(factor * kernel, each, factor * 0.1) for each in y.T]
        assert record.best_log_evidence == pytest.approx(sum(by_column), rel=1e-10)
        assert factor == pytest.approx(np.mean(y * np.linalg.solve(kernel + 0.1 * np.eye(11), y)), rel=1e-10)


def test_labels_that_are_all_constant_have_no_best_evidence() -> None:
    data = SimpleNamespace(task="multilabel")
    record = EvidenceRecord.of(data, Evidence(11, 2.0, np.zeros(3)))  # type: ignore[arg-type]
    assert (record.scales, record.best_log_evidence) == ((0.0,), None)
    assert record.chosen_by == record.log_evidence


def test_a_constant_label_has_no_say_in_the_ridge(tmp_path: Path) -> None:
    found = []
    for constant in (0.0, None):
        run = run_numbers(tmp_path / str(constant), labels_of(constant), ridges="auto", choose_by="evidence")
        (path,) = run.directory.path.glob("solve/*/ridge_path.json")
        record = json.loads(path.read_text())
        found.append((record["chosen"], *record["log_evidence"]))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def chunks(run: RunDirectory) -> dict[str, bytes]:
    folder = run.path / "solve"
    paths = [path for path in sorted(folder.glob("*/inference/evidence*")) if path.is_file()]
    paths += [path for path in sorted(folder.glob("*/inference/evidence.zarr/*/c/*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_bits_do_not_depend_on_the_workers(run_small: Run, tmp_path: Path) -> None:
    sections = {"readouts": ONE, "solve": {"tile": 16}, "inference": ASKED}
    alone = chunks(run_small(**sections))
    two = {"kind": "local", "workers": 2, "threads_per_worker": 1}
    assert len(alone) == 3
    assert chunks(run_small(**sections, cluster=two, store={"path": str(tmp_path / "two")})) == alone


@pytest.mark.parametrize("part", ["log_determinant", "scales"])
def test_a_damaged_evidence_is_computed_again_to_the_same_bits(run_small: Run, part: str) -> None:
    run = run_small(readouts=ONE, inference=ASKED)
    before = chunks(run)
    (path,) = run.path.glob(f"solve/*/inference/evidence.zarr/{part}/c/0")
    flip_bit(path)
    assert [task.stage.kind for task in runs.verify(run.path).bad] == ["evidence"]
    assert chunks(runs.resume(run.path, Recorder(), threading.Event())) == before


def test_a_damaged_factor_is_repaired_before_the_evidence(run_small: Run) -> None:
    run = run_small(readouts=ONE, solve={"tile": 16})
    flip_bit(run.solved(make_report(run).solves[0].name, "factor").chunk_path(1, 1))
    view = Recorder()
    again = run_small(view, readouts=ONE, solve={"tile": 16}, inference=ASKED)
    assert any("damaged tile" in line for line in view.lines)
    kernel, targets, ridge = system_of(again)
    expected = by_scikit_learn(kernel, targets, ridge)
    assert OpenRun(again).evidence().summary.log_evidence == pytest.approx(expected, rel=1e-10)


def test_a_singular_kernel_without_a_ridge_has_no_evidence(run_small: Run) -> None:
    run = run_small(readouts=ONE, kernel={"dtype": "float64"}, solve={"ridges": [1.0]})
    kernel = np.eye(TRAIN)
    kernel[:2, :2] = 1e3  # 18 times the mean diagonal, by whose rounding the factorisation refuses pivots
    kernel[0, 1] = kernel[1, 0] = 1e3 - 4e-13  # so that it does not see that these two are one
    plant_matrix(run, kernel)
    with pytest.raises(NotPositiveDefinite, match=r"evidence.*singular up to rounding: pivot .* row 1.*larger ridge"):
        run_small(readouts=ONE, kernel={"dtype": "float64"}, solve={"ridges": [0.0]}, inference=ASKED)
    assert make_report(run).solves[0].accuracy is not None


@pytest.mark.parametrize(
    ("solve", "message"),
    [
        ({"solver": "cg"}, r"inference.evidence needs the factor of the solve: take solver = \"cholesky\""),
        ({"factor_dtype": "float32"}, r"inference.evidence needs the factor of the solve"),
        (
            {"solver": "centres", "centres": 5, "ridges": [0.1, 0.0]},
            r"inference.evidence needs ridges above 0 with solver = \"centres\".*Leave the ridge 0 out",
        ),
    ],
)
def test_systems_without_an_evidence_are_refused_by_name(
    small_config: Config, solve: dict[str, Any], message: str
) -> None:
    config = small_config(solve=solve, inference=ASKED)
    with pytest.raises(ConfigError, match=message):
        runs.load(config)
    assert not Path(str(config.store.path)).exists()
