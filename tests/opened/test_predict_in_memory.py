"""Predictions of new images in memory, against the dense posterior and the run's own predictions."""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.problems import TEST, TRAIN, Recorder, stop_at

from cntk_pipeline import kernel_matrix
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, DataError, Interrupted, NotComputed, SpecificationMismatch, StoreError
from cntk_pipeline.kernels import CpuEngine
from cntk_pipeline.layers import presets
from cntk_pipeline.opened import open_run, predict_in_memory
from cntk_pipeline.regression import gp_posterior
from cntk_pipeline.regression.probabilities import fit_probabilities
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

ONE = {"poolings": ["gap"], "kinds": ["ntk"]}
GAP = presets.cntk(3, pooling="gap")


@pytest.fixture
def source(small_npz: Path) -> dict[str, np.ndarray]:
    """The images of the small problem as its file has them."""
    with np.load(small_npz) as arrays:
        return dict(arrays)


def standardized(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    axes = tuple(range(train.ndim - 1))
    return (images - train.mean(axes, np.float64)) / train.std(axes, dtype=np.float64)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_own_test_images_get_the_bits_of_the_run(run_small: Run, source: dict, dtype: str) -> None:
    run = open_run(run_small(kernel={"dtype": dtype}, solve={"ridges": [1e-2, 1.0]}).path)
    for name in run.readouts:
        for ridge in (1e-2, 1.0):
            found = run.decision_function(source["x_test"], name, ridge, say=None)
            np.testing.assert_array_equal(found, run.predictions(name, ridge))


def test_new_images_get_the_posterior_mean(run_small: Run, source: dict) -> None:
    run = open_run(run_small(kernel={"dtype": "float64"}, readouts=ONE, solve={"ridges": [1e-2]}).path)
    new = np.random.default_rng(3).standard_normal((21, 6, 5, 2))
    train, test = (
        standardized(images.astype(float), source["x_train"].astype(float)) for images in (source["x_train"], new)
    )
    kernel = kernel_matrix(GAP, train, dtype="float64")
    targets = one_hot_targets(source["y_train"], 3)
    cross = kernel_matrix(GAP, test, train, dtype="float64")
    expected = gp_posterior(kernel, targets, cross, ridge=1e-2).mean
    np.testing.assert_allclose(run.decision_function(new, say=None), expected, atol=1e-10)
    assert run.predict(new, say=None).tolist() == [run.classes[k] for k in expected.argmax(1)]


def test_a_unit_diagonal_is_that_of_the_run(run_small: Run, source: dict) -> None:
    run = open_run(run_small(readouts=ONE, solve={"unit_diagonal": True}).path)
    np.testing.assert_array_equal(run.decision_function(source["x_test"], say=None), run.predictions())


@pytest.mark.parametrize("block_bytes", [1, 30_000])
def test_blocks_do_not_change_a_bit(
    run_small: Run, source: dict, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    run = open_run(run_small(readouts=ONE).path)
    images = np.concatenate([source["x_test"], source["x_train"]])
    whole = run.decision_function(images, say=None)
    monkeypatch.setattr(predict_in_memory, "BLOCK_BYTES", block_bytes)
    np.testing.assert_array_equal(run.decision_function(images, say=None), whole)


@pytest.mark.parametrize("standardize", [True, False, "per_feature"])
def test_pixels_of_bytes_are_brought_to_the_scale_of_the_run(
    run_small: Run, tmp_path: Path, standardize: bool | str
) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 12), np.uint8), rng.integers(0, 2, 40)
    np.savez(tmp_path / "bytes.npz", x_train=images[:30], y_train=labels[:30], x_test=images[30:], y_test=labels[30:])
    directory = run_small(
        data={"path": str(tmp_path / "bytes.npz"), "standardize": standardize},
        network={"preset": "fully_connected"},
        readouts={"poolings": [], "kinds": ["ntk"]},
    )
    run = open_run(directory.path)
    np.testing.assert_array_equal(run.decision_function(images[30:], say=None), run.predictions())


def test_a_table_in_memory_is_read_by_the_names_of_its_columns(run_small: Run, tmp_path: Path) -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(rng.standard_normal((12, 2)) * [1, 100], columns=["a", "b"])
    table["c"] = ["x", "y", "z"] * 4
    table["t"] = table.a * 2 + table.b
    table.to_csv(tmp_path / "table.csv", index=False)
    data = {"source": "table", "path": str(tmp_path / "table.csv"), "target": "t", "train": 9, "test": 3}
    directory = run_small(data=data, network={"preset": "fully_connected"}, readouts={"poolings": [], "kinds": ["ntk"]})
    run = open_run(directory.path)
    assert directory.specification.data.features == ("a", "b", "c=x", "c=y", "c=z")
    expected = run.predictions()[:, 0]
    other = table[9:][["c", "t", "b", "a"]]  # in another order, and with a column that is no feature
    for given in (table[9:], other, pyarrow.Table.from_pandas(other)):
        np.testing.assert_array_equal(run.predict(given, say=None), expected)
    plain = table[9:][["a", "b"]].assign(**{f"c={value}": table.c == value for value in "xyz"}).astype(float)
    np.testing.assert_array_equal(run.predict(plain.to_numpy(), say=None), expected)
    np.testing.assert_array_equal(run.predict(pandas.DataFrame(plain.to_numpy()), say=None), expected)  # no names
    np.testing.assert_array_equal(run.predict(other.assign(note=[1, "x", 2j]), say=None), expected)
    with pytest.raises(DataError, match="images: expected a column for the feature 'b', got a, zz, c, t; name the col"):
        run.predict(table.rename(columns={"b": "zz"}), say=None)
    with pytest.raises(DataError, match=r"expected a table that PyArrow reads, .*got a DataFrame \(Duplicate column"):
        run.predict(pandas.concat([table, table], axis=1), say=None)
    with pytest.raises(DataError, match=r"finite pixels, got nan in image 1 at index \(0,\)"):
        run.predict(table.assign(a=[0.0, np.nan, *[1.0] * 10]), say=None)


def test_a_table_of_numbers_needs_no_pyarrow(run_small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = pandas.DataFrame(np.random.default_rng(0).standard_normal((12, 2)), columns=["a", "b"])
    table["t"] = table.a * 2 + table.b
    table.to_csv(tmp_path / "table.csv", index=False)
    data = {"source": "table", "path": str(tmp_path / "table.csv"), "target": "t", "train": 9, "test": 3}
    directory = run_small(data=data, network={"preset": "fully_connected"}, readouts={"poolings": [], "kinds": ["ntk"]})
    run = open_run(directory.path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    given = table[9:][["t", "b", "a"]].assign(note=[1, "x", 2j])
    np.testing.assert_array_equal(run.predict(given, say=None), run.predictions()[:, 0])


def test_the_cost_is_said_first(run_small: Run, source: dict, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(run_small(readouts=ONE).path)
    run.predict(source["x_test"])
    said = capsys.readouterr().err
    assert f"predicting {TEST} images: {TEST * TRAIN} pairs with the training images, less than a second on" in said
    lines: list[str] = []
    run.predict(source["x_test"], say=lines.append)
    with pytest.raises(ConfigError, match="say must be a function that takes a line, or None for no line, got True"):
        run.predict(source["x_test"], say=True)  # type: ignore[arg-type]
    assert lines == [said.rstrip("\n")]
    assert predict_in_memory.cost_line(1000, 50_000, 3725.0, 2).endswith("about 1:02:05 (h:mm:ss) on 2 cores")
    assert predict_in_memory.cost_line(1000, 50_000, 3725.0, 1).endswith(" on 1 core")


def test_images_unlike_those_of_the_run_are_refused(run_small: Run, source: dict) -> None:
    run, images = open_run(run_small(readouts=ONE).path), source["x_test"]
    for wrong, message in (
        (images[:, :5], r"expected images of shape \(n, 6, 5, 2\), as those of .*, got \(11, 5, 5, 2\); resize"),
        (images[0], r"got one image of shape \(6, 5, 2\); give images\[None\]"),
        (images[:0], "got none; give at least one"),
        (images.astype(np.uint8), "expected float16, float32 or float64 pixels on the scale of the source"),
        (images.astype(int), "got int64; convert them to that scale"),
        (
            np.where(images > 1, np.nan, images),
            r"finite pixels, got nan in image \d+ at index \(\d+, \d+, \d+\)",
        ),
        ([["a"]], "expected images of shape"),
        ("new.npy", r"^images: expected an array, got 'new\.npy'; read it first, as by numpy\.load, or give the file"),
        (None, "^images: expected an array, got None; read it first"),
    ):
        with pytest.raises(DataError, match=message):
            run.predict(wrong, say=None)


def test_a_run_of_an_earlier_version_measures_its_data_set_again(
    run_small: Run, small_npz: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.npz"
    copy.write_bytes(small_npz.read_bytes())
    run = open_run(run_small(readouts=ONE, data={"path": str(copy)}).path)
    (Path(str(run.path)) / "preprocessing.json").unlink()
    with np.load(copy) as arrays:
        images = arrays["x_test"]
    np.testing.assert_array_equal(run.decision_function(images, say=None), run.predictions())
    with np.load(small_npz) as arrays:
        np.savez(copy, **(dict(arrays) | {"x_train": arrays["x_train"] + 1}))
    with pytest.raises(
        StoreError, match=r"the data set that the workflow names is another by now\. Bring the data set"
    ):
        run.predict(images, say=None)
    copy.unlink()
    with pytest.raises(StoreError, match=r"does not hold the mean and deviation .* its data set is not at hand"):
        run.predict(images, say=None)


def test_edited_numbers_are_refused(run_small: Run, source: dict) -> None:
    run = open_run(run_small(readouts=ONE).path)
    path = Path(str(run.path)) / "preprocessing.json"
    record = json.loads(path.read_text())
    record["standardization"]["mean"][0] += 0.5
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"was edited: its numbers are not those of its checksum: delete it, then"):
        run.predict(source["x_test"], say=None)
    path.unlink()
    np.testing.assert_array_equal(run.decision_function(source["x_test"], say=None), run.predictions())


def test_what_is_not_solved_yet_predicts_nothing(small_config: Config, source: dict) -> None:
    view, stop = stop_at(2)
    config = small_config(readouts=ONE)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    run = open_run(str(config.store.path))
    with pytest.raises(NotComputed, match=r"coefficients of depth3-gap-ntk.* is not computed yet, 0 of 1 tiles"):
        run.predict(source["x_test"], say=None)
    runs.resume(run.path, Recorder(), threading.Event())
    assert run.predict(source["x_test"], say=None).shape == (TEST,)


def test_a_kernel_of_another_version_is_not_mixed(
    run_small: Run, source: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(run_small(readouts=ONE).path)
    monkeypatch.setattr(CpuEngine, "numerics_version", CpuEngine.numerics_version + 1)
    with pytest.raises(SpecificationMismatch, match=r"no predictions of new images: .* numerics version"):
        run.predict(source["x_test"], say=None)


def test_probabilities_are_those_of_leave_one_out_in_memory(run_small: Run, source: dict) -> None:
    sections = {"readouts": ONE, "solve": {"ridges": [1e-2]}, "kernel": {"dtype": "float64"}}
    run = open_run(run_small(inference={"leave_one_out": True}, **sections).path)
    kernel, targets = run.kernel().compute(), one_hot_targets(run.labels.train, 3)
    left_out = np.stack(
        [
            gp_posterior(
                kernel[np.ix_(rest, rest)],
                targets[rest],
                kernel[[k]][:, rest],
                ridge=run.system().absolute_ridge,
                ridge_mode="absolute",
            ).mean[0]
            for k in range(TRAIN)
            for rest in [np.delete(np.arange(TRAIN), k)]
        ]
    )
    expected = fit_probabilities(left_out, run.labels.train).of(run.predictions())
    found = run.predict_proba(source["x_test"], say=None)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # the scale is found to six digits
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_array_equal(found.argmax(1), run.predictions().argmax(1))


def test_probabilities_need_leave_one_out(run_small: Run, source: dict) -> None:
    run = open_run(run_small(readouts=ONE).path)
    with pytest.raises(ConfigError, match=r"was not asked for inference\.leave_one_out: add it to the workflow file"):
        run.predict_proba(source["x_test"], say=None)
