"""New images are predicted as tasks of a run, with the bits of the run, and the run stays as it is."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from sklearn.datasets import load_linnerud
from support.problems import Recorder, flip_bit, stop_after, stop_at, whole_matrix
from support.processes import wait_until
from typer.testing import CliRunner

from cntk_pipeline import kernel_matrix
from cntk_pipeline.cli import main as cli
from cntk_pipeline.clusters.trust import of_user, write_trusted
from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.datasets.unlabelled import Unlabelled, open_images
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.errors import ConfigError, CorruptTile, DataError, Interrupted, NotComputed, RunLocked, StoreError
from cntk_pipeline.estimators import KernelRegressor
from cntk_pipeline.layers import presets
from cntk_pipeline.opened import new_images, open_run
from cntk_pipeline.opened.columns import named_columns
from cntk_pipeline.opened.output import columns_of, require_output, write_predictions
from cntk_pipeline.opened.predict_on_cluster import PredictionQuestion, Predictions, predict_images
from cntk_pipeline.regression import gp_posterior
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.predictions import find_predictions
from cntk_pipeline.rundir.submissions import request_stop, write_ending
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.storage.tiled_array import TiledArray
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

ONE = {"poolings": ["gap"], "kinds": ["ntk"]}
GAP = presets.cntk(3, pooling="gap")
NEW = np.random.default_rng(3).standard_normal((21, 6, 5, 2)).astype(np.float32)


@pytest.fixture
def source(small_npz: Path) -> dict[str, np.ndarray]:
    """The images of the small problem as its file has them."""
    with np.load(small_npz) as arrays:
        return dict(arrays)


def predict(run: RunDirectory, images: np.ndarray, view: Recorder | None = None, **asked: Any) -> Predictions:
    return predict_images(
        run, Unlabelled.of(images, "memory"), PredictionQuestion(**asked), view or Recorder(), threading.Event()
    )


def computed(view: Recorder) -> int:
    """Count the tiles that were computed in what a view was shown."""
    return sum(moment.receipt is not None for moment in view.moments)


def files_of(run: RunDirectory) -> dict[str, bytes]:
    """Read all files of a run but those of predictions, and of who drives."""
    root = Path(str(run.path))
    found = (file for file in root.rglob("*") if file.is_file())
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in found
        if file.relative_to(root).parts[0] not in ("predictions", "lease")
    }


@pytest.mark.parametrize("sections", [{}, {"kernel": {"dtype": "float64"}}, {"solve": {"unit_diagonal": True}}])
def test_the_own_test_images_get_the_bits_of_the_run(run_small: Run, source: dict, sections: dict) -> None:
    run = run_small(inference={"posterior_variance": True}, **sections)
    for name in ("depth3-gap-ntk", "depth3-flatten-nngp"):
        found = predict(run, source["x_test"], readout=name, std=True)
        np.testing.assert_array_equal(found.scores, open_run(run.path).predictions(name))
        variance = open_run(run.path).posterior_variance(name)["variance"]
        targets = one_hot_targets(source["y_train"], 3)
        factor = np.mean(targets * open_run(run.path).coefficients(name))
        np.testing.assert_allclose(found.std, np.sqrt(variance.compute() * factor), rtol=1e-14)
    views = list(find_predictions(run))
    assert [view.readout for view in views] == ["depth3-flatten-nngp", "depth3-gap-ntk"]
    for view in views:
        np.testing.assert_array_equal(whole_matrix(view, view.readout, "test"), whole_matrix(run, view.readout, "test"))


def test_new_images_get_the_posterior(run_small: Run, source: dict) -> None:
    run = run_small(kernel={"dtype": "float64"}, readouts=ONE)
    old = source["x_train"].astype(float)
    mean, std = old.mean((0, 1, 2)), old.std((0, 1, 2))
    train, new = (old - mean) / std, (NEW.astype(float) - mean) / std
    kernels = [kernel_matrix(GAP, *pair, dtype="float64") for pair in ((train,), (new, train), (new,))]
    expected = gp_posterior(kernels[0], one_hot_targets(source["y_train"], 3), *kernels[1:], ridge=1e-2)
    found = predict(run, NEW, std=True)
    np.testing.assert_allclose(found.scores, expected.mean, atol=1e-10)
    assert expected.covariance is not None
    # The factor of largest likelihood, over the columns of the one-hot targets.
    targets = one_hot_targets(source["y_train"], 3)
    system = kernels[0] + 1e-2 * np.diag(kernels[0]).mean() * np.eye(len(targets))
    factor = np.mean(targets * np.linalg.solve(system, targets))
    np.testing.assert_allclose(found.std, np.sqrt(factor * np.diagonal(expected.covariance)), atol=1e-10)
    assert found.predicted.tolist() == [str(k) for k in expected.mean.argmax(1)]


def test_a_regression_has_the_deviations_of_the_estimator(run_small: Run, tmp_path: Path) -> None:
    x, y = load_linnerud(return_X_y=True)
    np.savez(tmp_path / "linnerud.npz", x_train=x[:16], y_train=y[:16], x_test=x[16:], y_test=y[16:])
    run = run_small(
        data={"path": str(tmp_path / "linnerud.npz"), "standardize": False},
        network={"preset": "fully_connected"},
        readouts={"depths": [3], "poolings": [], "kinds": ["nngp"]},
        kernel={"dtype": "float64"},
        solve={"ridges": [0.1]},
    )
    model = KernelRegressor(presets.fully_connected(3), kind="nngp", dtype="float64", ridge=0.1).fit(x[:16], y[:16])
    mean, deviation = model.predict(x[16:] + 1.0, return_std=True)
    found = predict(run, x[16:] + 1.0, std=True)
    np.testing.assert_allclose(found.scores, mean, rtol=1e-9)
    np.testing.assert_allclose(found.std, deviation, rtol=1e-8)
    columns = ["image", *(f"{part}{name}" for part in ("", "std_") for name in run.specification.data.classes)]
    assert list(columns_of(found)) == columns


def test_nothing_of_the_run_changes(run_small: Run) -> None:
    run = run_small(readouts=ONE)
    before, report = files_of(run), make_report(run)
    predict(run, NEW, std=True)
    assert files_of(run) == before
    after = make_report(RunDirectory(run.path))
    assert (after.complete, after.fingerprint, after.stages) == (True, report.fingerprint, report.stages)
    (said,) = after.predictions
    assert (said.origin, said.images, said.readout, said.done, said.total) == ("memory", 21, "depth3-gap-ntk", 12, 12)
    found = runs.verify(run.path)
    assert (found.bad, found.predicted, found.missing, found.needs_resume) == ((), (), 0, False)
    assert found.whole == sum(stage.total for stage in report.stages) + 12
    view = Recorder()
    runs.resume(run.path, view, threading.Event())
    assert view.lines[-1] == "nothing is left to do: every tile and every result is there"


def test_the_same_images_are_predicted_at_once(run_small: Run) -> None:
    run, view = run_small(readouts=ONE, solve={"ridges": [1e-2, 1.0]}), Recorder()
    first = predict(run, NEW, ridge=1e-2)
    again = predict(run, NEW, view, ridge=1e-2)
    np.testing.assert_array_equal(again.scores, first.scores)
    assert view.lines == ["these images are predicted already: nothing is computed"]
    other = predict(run, NEW, view, ridge=1.0)
    assert computed(view) == 2  # the kernel is there: two blocks of means
    assert not np.array_equal(other.scores, first.scores)
    assert len(list(find_predictions(run))) == 1
    view = Recorder()
    predict(run, NEW[:20], view, ridge=1.0)
    assert computed(view) == 10


def test_a_stopped_prediction_goes_on(run_small: Run) -> None:
    run = run_small(readouts=ONE)
    expected = predict(run, NEW).scores
    Path(str(run.path / "predictions")).rename(Path(str(run.path)).parent / "aside")
    view, stop = stop_after(2)
    with pytest.raises(Interrupted, match="every finished tile is kept"):
        predict_images(run, Unlabelled.of(NEW, "memory"), PredictionQuestion(), view, stop)
    assert computed(view) >= 2
    rest = Recorder()
    np.testing.assert_array_equal(predict(run, NEW, rest).scores, expected)
    assert computed(view) + computed(rest) == 10
    assert 0 < computed(rest) < 10


def test_images_are_read_some_at_a_time(run_small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run, most = run_small(readouts=ONE), []

    def read(begin: int, end: int) -> np.ndarray:
        most.append(end - begin)
        return NEW[begin:end]

    given = Unlabelled("memory", list(map(str, range(len(NEW)))), NEW.shape, NEW.dtype, read)
    monkeypatch.setattr(new_images, "BLOCK_BYTES", 4 * 8 * 60)
    monkeypatch.setattr("cntk_pipeline.rundir.stored_data.CHUNK_BYTES", 4 * 4 * 60)
    found = predict_images(run, given, PredictionQuestion(), Recorder(), threading.Event())
    assert max(most) == 16  # the sample on which a pair is timed
    assert sorted(most)[:-1] == sorted([4] * 10 + [1, 1])
    monkeypatch.undo()
    np.testing.assert_array_equal(found.scores, predict(run, NEW).scores)


def test_damage_is_found_and_made_again(run_small: Run) -> None:
    run = run_small(readouts=ONE)
    expected = predict(run, NEW).scores
    (there,) = find_predictions(run)
    flip_bit(there.kernel("depth3-gap-ntk", "test").chunk_path(1, 0))
    flip_bit(there.solved(there.solves_begun()[0], "mean").chunk_path(0, 0))
    flip_bit(there.stored_data.path / "test_images" / "c/0/0/0/0")
    found = runs.verify(run.path)
    assert not found.needs_resume
    (line,) = found.predicted
    assert line.endswith("c/0/0/0/0 and 2 more of the predictions for memory")
    assert len(list((Path(str(run.path)) / "quarantine").rglob("*/c/*"))) > 0
    view = Recorder()
    np.testing.assert_array_equal(predict(run, NEW, view).scores, expected)
    assert computed(view) == 2
    assert any("c/0/0/0/0 was gone or damaged: written anew from memory" in line for line in view.lines)


@pytest.mark.parametrize("by", ["predict", "verify"])
def test_descriptions_of_arrays_are_written_anew_and_nothing_else_is_computed(run_small: Run, by: str) -> None:
    run = run_small(readouts=ONE)
    expected = predict(run, NEW, std=True)
    assert runs.verify(run.path).mended == ()
    (there,) = find_predictions(run)
    (solve,) = there.solves_begun()
    images, kernel, solved = there.stored_data.path, there.kernel_path, there.solve_path(solve)
    digests = (images / "zarr.json").read_bytes()
    gone = [images / "zarr.json", kernel / "zarr.json", solved / "factor.zarr/zarr.json"]
    garbled = [images / "test_images/zarr.json", kernel / "depth3-gap-ntk/test/zarr.json"]
    garbled += [solved / "inference/posterior_variance.zarr/variance/zarr.json"]
    for description in garbled:
        description.write_whole(b"{")
    for path in (*gone, there.solved(solve, "mean").chunk_path(0, 0)):
        path.unlink()
    if by == "verify":
        assert set(runs.verify(run.path).mended) == {*gone, *garbled}
    view = Recorder()
    found = predict(run, NEW, view, std=True)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.std, expected.std)
    said = {f"{description} was gone or damaged: written anew" for description in (*gone, *garbled)}
    assert said.intersection(view.lines) == (said if by == "predict" else set())
    assert computed(view) == 1
    assert runs.verify(run.path).mended == ()
    assert (images / "zarr.json").read_bytes() == digests  # which verify has measured again


def test_a_description_that_is_damaged_alone_is_written_anew(run_small: Run) -> None:
    run, view = run_small(readouts=ONE), Recorder()
    expected = predict(run, NEW).scores
    (there,) = find_predictions(run)
    (there.solve_path(there.solves_begun()[0]) / "factor.zarr/mean/zarr.json").write_whole(b"{")
    np.testing.assert_array_equal(predict(run, NEW, view).scores, expected)
    assert computed(view) == 0


def test_a_damaged_tile_is_computed_again_or_the_command_that_finds_it_is_named(run_small: Run) -> None:
    run, view = run_small(readouts=ONE), Recorder()
    expected = predict(run, NEW).scores
    (there,) = find_predictions(run)
    mean = there.solved(there.solves_begun()[0], "mean").chunk_path(0, 0)
    flip_bit(mean)
    with pytest.raises(CorruptTile, match=rf"c/0/0 does not match.*`cntk verify {run.path}`, then the same command"):
        predict(run, NEW)
    assert runs.verify(run.path).predicted
    np.testing.assert_array_equal(predict(run, NEW).scores, expected)
    mean.unlink()
    flip_bit(there.kernel("depth3-gap-ntk", "test").chunk_path(0, 0))
    np.testing.assert_array_equal(predict(run, NEW, view).scores, expected)
    assert computed(view) == 2
    mean.unlink()
    flip_bit(run.solved(there.solves_begun()[0], "coefficients").chunk_path(0, 0))
    view = Recorder()
    with pytest.raises(CorruptTile, match=rf"does not match.*`cntk resume --verify {run.path}` computes it again"):
        predict(run, NEW, view)
    assert sum("checking all tiles" in line for line in view.lines) == 1  # not a second time, just before it gives up
    runs.resume(run.path, Recorder(), threading.Event(), verify=True)
    np.testing.assert_array_equal(predict(run, NEW).scores, expected)


def test_a_request_to_an_earlier_driver_is_neither_obeyed_nor_deleted(run_small: Run) -> None:
    run = run_small(readouts=ONE)
    request_stop(run)
    write_ending(run, "why it ended", None)
    before = files_of(run)
    expected = predict(run, NEW).scores
    assert files_of(run) == before
    shutil.rmtree(run.path / "predictions")

    class Asking(Recorder):
        """Asks to stop once something is computed, and waits until the driver has heard it."""

        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.done == 1 and not stop.is_set():
                request_stop(run)
                wait_until(stop.is_set, "the stop")

    view, stop = Asking(), threading.Event()
    with pytest.raises(Interrupted, match="every finished tile is kept"):
        predict_images(run, Unlabelled.of(NEW, "memory"), PredictionQuestion(), view, stop)
    np.testing.assert_array_equal(predict(run, NEW).scores, expected)


def test_what_cannot_be_asked_is_refused_and_nothing_written(run_small: Run, small_config: Config) -> None:
    run = run_small(readouts=ONE, solve={"ridges": [1e-2], "solver": "cg"})
    before = files_of(run)
    with pytest.raises(ConfigError, match=r"the standard deviation needs the factor of the solve, which .* has not"):
        predict(run, NEW, std=True)
    with pytest.raises(ConfigError, match="no ridge 3 of depth3-gap-ntk"):
        predict(run, NEW, ridge=3.0)
    with pytest.raises(ConfigError, match="no read-out 'gap'"):
        predict(run, NEW, readout="gap")
    with pytest.raises(DataError, match=r"memory: expected images of shape \(n, 6, 5, 2\)"):
        predict(run, NEW[:, :3])
    with pytest.raises(DataError, match="memory: expected finite pixels, got nan in image 0"):
        predict(run, np.full_like(NEW, np.nan))
    assert files_of(run) == before
    assert not (run.path / "predictions").exists()


@pytest.mark.parametrize(
    ("cluster", "told"),
    [
        ({"kind": "local", "gpus_per_node": 2}, r"gpus_per_node = 2, and kernel.engine = \"cpu\" computes on no card"),
        ({"kind": "address", "address": "tls://127.0.0.1:1", "tls_ca_file": "a.pem"}, "asks for certificates"),
    ],
    ids=["cards", "certificate"],
)
def test_a_cluster_that_could_not_compute_is_refused_and_nothing_written(
    run_small: Run, cluster: dict[str, Any], told: str
) -> None:
    """Seen to fail where the images were stored before the executor said so."""
    run = run_small(readouts=ONE)
    config = run.workflow()
    write_trusted(run, of_user(run, config.model_copy(update={"cluster": ClusterConfig(**cluster)})))
    with pytest.raises(ConfigError, match=told):
        predict(run, NEW)
    assert not (run.path / "predictions").exists()


def test_what_a_driver_of_predictions_does_is_told_as_of_a_run(run_small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run, view = run_small(readouts=ONE), Recorder()
    monkeypatch.setattr(LocalPath, "shortcomings", lambda self: ("the store lacks something",))
    predict(run, NEW, view)
    assert "warning: the store lacks something" in view.lines
    (there,) = find_predictions(run)
    log = "".join(path.read_text() for path in Path(str(there.path / "log")).iterdir())
    assert [json.loads(line)["event"] for line in log.splitlines()].count("driver_started") == 1


def test_an_unsolved_or_locked_run_is_refused(small_config: Config) -> None:
    view, stop = stop_at(2)
    config = small_config(readouts=ONE)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    run = RunDirectory(str(config.store.path))
    with pytest.raises(NotComputed, match=r"the solution of depth3-gap-ntk.* is not computed yet"):
        predict(run, NEW)
    runs.resume(run.path, Recorder(), threading.Event())
    with lease.hold(run.lease_path), pytest.raises(RunLocked):
        predict(run, NEW)


def test_a_link_that_leads_out_is_not_followed(run_small: Run, tmp_path: Path) -> None:
    run = run_small(readouts=ONE)
    predict(run, NEW)
    (folder,) = Path(str(run.path / "predictions")).iterdir()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="behind a link that leads out of the run directory"):
        predict(run, NEW)


@pytest.mark.slow
def test_workers_of_their_own_compute_the_same(run_small: Run, small_config: Config) -> None:
    run = run_small(readouts=ONE)
    expected = predict(run, NEW, std=True)
    other = small_config(readouts=ONE, store={"path": f"{run.path}-local"}, cluster={"kind": "local", "workers": 2})
    view = Recorder()
    found = predict(runs.start(other, Recorder(), threading.Event()), NEW, view, std=True)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.std, expected.std)
    assert any("2 local workers" in line for line in view.lines)


def cntk(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_the_command_writes_what_was_predicted(run_small: Run, tmp_path: Path, suffix: str) -> None:
    run, out = run_small(readouts=ONE), tmp_path / f"out.{suffix}"
    np.save(tmp_path / "new.npy", NEW)
    done = cntk("predict", run.path, tmp_path / "new.npy", "--out", out, "--std")
    assert done.exit_code == 0, done.output
    assert "predicting 21 images: 777 pairs with the training images, less than a second on 1 core\n" in done.output
    expected = predict(run, NEW, std=True)
    if suffix == "npz":
        with np.load(out) as found:
            np.testing.assert_array_equal(found["scores"], expected.scores)
            np.testing.assert_array_equal(found["std"], expected.std)
            assert found["predicted"].tolist() == expected.predicted.tolist()
            assert found["images"].tolist() == [str(row) for row in range(21)]
        return
    rows = list(csv.DictReader(out.open())) if suffix == "csv" else pyarrow.parquet.read_table(str(out)).to_pylist()
    assert list(rows[0]) == ["image", "class", "score_0", "score_1", "score_2", "std"]
    assert [row["class"] for row in rows] == expected.predicted.tolist()
    assert [float(row["score_1"]) for row in rows] == expected.scores[:, 1].tolist()
    assert expected.std is not None
    assert [float(row["std"]) for row in rows] == expected.std.tolist()


def test_a_file_is_not_replaced_unasked(run_small: Run, tmp_path: Path) -> None:
    run, out = run_small(readouts=ONE), tmp_path / "out.csv"
    np.save(tmp_path / "new.npy", NEW)
    out.write_text("mine")
    refused = cntk("predict", run.path, tmp_path / "new.npy", "--out", out)
    assert isinstance(refused.exception, ConfigError)
    assert f"--out {out}: there is a file already; give another name, or --force" in str(refused.exception)
    assert out.read_text() == "mine"
    assert not (run.path / "predictions").exists()
    assert cntk("predict", run.path, tmp_path / "new.npy", "--out", out, "--force").exit_code == 0
    assert out.read_text().startswith("image,class,score_0")
    wrong = cntk("predict", run.path, tmp_path / "new.npy", "--out", tmp_path / "out.xls")
    assert "expected a file that ends in .csv, .parquet, .npz, got .xls" in str(wrong.exception)


def test_a_place_that_cannot_be_a_file_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match=r"file/deep/x\.csv: .*/file is a file, in which no other can lie"):
        require_output(str(tmp_path / "file" / "deep" / "x.csv"), force=False)
    with pytest.raises(ConfigError, match=r"folder\.csv: it is a folder; give the name of a file"):
        require_output(str(tmp_path / "folder.csv"), force=True)
    place = tmp_path / "new" / "deep" / "x.csv"
    assert str(require_output(str(place), force=False)) == str(place)


def test_several_classes_whose_names_hold_a_semicolon_are_told_apart(run_small: Run) -> None:
    data = replace(run_small(readouts=ONE).specification.data, classes=("a", "b", "a;b", 'say "c"'), task="multilabel")
    means = np.array([[1.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]])
    assert named_columns(data, means)["class"].tolist() == ["a;b", '"a;b"', 'a;"say \\"c\\""', ""]


def test_a_file_that_appears_meanwhile_is_kept(run_small: Run, tmp_path: Path) -> None:
    found, out = predict(run_small(readouts=ONE), NEW), tmp_path / "out.csv"
    place = require_output(str(out), force=False)
    out.write_text("mine")
    with pytest.raises(ConfigError, match="there is a file already; give another name, or --force to replace it"):
        write_predictions(place, found, force=False)
    assert out.read_text() == "mine"


def test_a_full_disk_asks_for_the_same_command(run_small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cntk resume` would find the run complete, and predict nothing."""
    run = run_small(readouts=ONE)

    def full(*_: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TiledArray, "write", full)
    with pytest.raises(StoreError, match=r"the disk of .* is full.*: free some space, then the same command again$"):
        predict(run, NEW)


def test_status_names_predictions(run_small: Run, tmp_path: Path) -> None:
    run = run_small(readouts=ONE)
    predict(run, NEW)
    shown = cntk("status", run.path)
    assert "predictions for 21 images of memory by depth3-gap-ntk: 10/10 tiles" in shown.output
    assert shown.exit_code == 0
    said = json.loads(cntk("status", run.path, "--json").output)["predictions"]
    assert said == [{"origin": "memory", "images": 21, "readout": "depth3-gap-ntk", "done": 10, "total": 10}]


@pytest.mark.slow
def test_a_prediction_that_was_killed_goes_on(run_small: Run, tmp_path: Path) -> None:
    """A real process, killed without a warning: finished tiles are kept, and the numbers are the same."""
    run = run_small(readouts=ONE)
    images = np.random.default_rng(5).standard_normal((1600, 6, 5, 2)).astype(np.float32)
    np.save(tmp_path / "new.npy", images)
    command = [sys.executable, "-m", "cntk_pipeline.cli", "predict", str(run.path), "new.npy", "--out", "out.npz"]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ, start_new_session=True)
    journals = Path(str(run.path)) / "predictions"

    def receipts() -> int:
        return sum(file.read_bytes().count(b"\n") for file in journals.rglob("journal/*.jsonl"))

    wait_until(lambda: receipts() >= 20 or process.poll() is not None, "20 receipts")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    kept = receipts()
    assert 20 <= kept < 500
    assert not (tmp_path / "out.npz").exists()
    view = Recorder()
    found = predict_images(run, open_images(tmp_path / "new.npy"), PredictionQuestion(), view, threading.Event())
    assert computed(view) <= 500 - kept  # 300 tiles, 100 variances, 100 blocks of means
    assert computed(view) >= 500 - kept - 4  # a tile or two had been written without a receipt
    np.testing.assert_array_equal(found.scores, open_run(run.path).decision_function(images, say=None))
    assert make_report(run).complete
