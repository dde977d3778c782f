import contextlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import distributed
import numpy as np
import pytest
from PIL import Image
from support.problems import TEST, Recorder, flip_bit, stop_after, stop_at, whole_matrix
from support.processes import kernel_tiles_begun
from support.tolerances import assert_kernels_close, tolerance

from cntk_pipeline import kernel_matrix
from cntk_pipeline.clusters.trust import of_user, write_trusted
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import (
    ConfigError,
    CorruptTile,
    DataError,
    Interrupted,
    LayerError,
    NotPositiveDefinite,
    RunLocked,
    RunNotFound,
    SpecificationMismatch,
    StoreError,
    TilesFailed,
)
from cntk_pipeline.layers import LAYERS, spelling
from cntk_pipeline.opened import open_run
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.listing import list_runs
from cntk_pipeline.workflow.load import load, specification_of
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]


def test_a_finished_run_computes_nothing_again(run_small: Run) -> None:
    run = run_small()
    count, view = len(kernel_tiles_begun(run)), Recorder()
    again = run_small(view)
    assert len(kernel_tiles_begun(again)) == count
    assert view.lines[-1] == "nothing is left to do: every tile and every result is there"
    assert view.stages == []


def kernel_of(run: RunDirectory) -> np.ndarray:
    return whole_matrix(run, "depth3-flatten-ntk", "train")


def test_another_run_at_a_path_that_this_process_has_used_is_computed_with_its_own_network(run_small: Run) -> None:
    first = run_small()
    before = kernel_of(first)
    shutil.rmtree(str(first.path))
    fixed = {"network": {"options": {"trained_ends": False}}}
    again = kernel_of(run_small(**fixed))
    expected = kernel_of(run_small(**fixed, store={"path": f"{first.path}-elsewhere"}))
    np.testing.assert_array_equal(again, expected)
    assert not np.allclose(again, before)


def test_another_run_at_a_path_that_standing_workers_have_used_is_computed_with_its_own_network(run_small: Run) -> None:
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as standing:
        workers = {"kind": "address", "address": standing.scheduler_address, "tls": False}
        first = run_small(cluster=workers)
        shutil.rmtree(str(first.path))
        again = kernel_of(run_small(cluster=workers, network={"options": {"trained_ends": False}}))
    expected = kernel_of(
        run_small(network={"options": {"trained_ends": False}}, store={"path": f"{first.path}-elsewhere"})
    )
    np.testing.assert_array_equal(again, expected)


def test_a_finished_run_is_recognised_before_a_cluster_is_connected_to(run_small: Run) -> None:
    whole, view = run_small(), Recorder()
    nobody = {"kind": "address", "address": "tcp://127.0.0.1:1", "tls": False}  # nothing listens on this port
    assert run_small(view, cluster=nobody).path == whole.path
    assert view.lines[-1] == "nothing is left to do: every tile and every result is there"


def test_the_first_lines_say_what_is_prepared(run_small: Run) -> None:
    view = Recorder()
    run_small(view)
    loading, *_, preparing, computing = view.lines
    assert loading == 'loading the data set "npz"'
    assert preparing == "compiling the kernels, or loading them from the cache"
    assert computing == "computing on this process"


def test_a_stopped_run_is_resumed_and_computes_each_tile_once(run_small: Run, small_config: Config) -> None:
    undisturbed = run_small(store={"path": str(small_config().store.path) + "-undisturbed"})
    view, stop = stop_after(3)
    with pytest.raises(Interrupted):
        runs.start(small_config(), view, stop)
    path = small_config().store.path
    assert path is not None
    assert not make_report(RunDirectory(path)).complete
    run = runs.resume(path, Recorder(), threading.Event())
    assert make_report(run).complete
    assert len(kernel_tiles_begun(run)) == len(kernel_tiles_begun(undisturbed))
    for name in ("depth3-gap-ntk", "depth3-flatten-nngp"):
        np.testing.assert_array_equal(whole_matrix(run, name, "train"), whole_matrix(undisturbed, name, "train"))


def test_a_resumed_run_does_not_need_its_data_set(run_small: Run, small_config: Config, small_npz: Path) -> None:
    view, stop = stop_after(2)
    copy = Path(str(small_config().store.path) + ".npz")
    shutil.copy(small_npz, copy)
    with pytest.raises(Interrupted):
        runs.start(small_config(data={"path": str(copy)}), view, stop)
    copy.unlink()
    assert make_report(runs.resume(str(small_config().store.path), Recorder(), threading.Event())).complete


def test_a_changed_depth_is_refused_with_the_difference(run_small: Run) -> None:
    run_small()
    difference = r"(?s)readouts.depth3-flatten-ntk: only stored.*readouts.depth4-flatten-ntk: only wanted"
    with pytest.raises(SpecificationMismatch, match=difference):
        run_small(readouts={"depths": [4]})


def test_a_folder_in_use_is_left_as_it_is(small_config: Config, tmp_path: Path) -> None:
    # A run used to begin there, and to sweep what looked half-written to it.
    used = tmp_path / "used"
    for name in ("film.mkv.partial", "big.partial/film.mkv", "workflow.json"):
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        (used / name).write_text("mine")
    before = sorted(used.rglob("*"))
    with pytest.raises(ConfigError, match=r"used is in use: it holds big\.partial and 2 more, and no run"):
        runs.start(small_config(store={"path": str(used)}), Recorder(), threading.Event())
    assert sorted(used.rglob("*")) == before
    assert (used / "workflow.json").read_text() == "mine"


def test_what_is_refused_takes_nothing_back_of_a_run_that_is_there(small_config: Config) -> None:
    view, stop = stop_after(3)
    with pytest.raises(Interrupted):
        runs.start(small_config(), view, stop)
    path = Path(str(small_config().store.path))
    (path / "kernel.zarr/zarr.json").unlink()
    before = set(path.rglob("*")) - set(path.glob("lease/*"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"cluster\.metrics"):
            runs.start(small_config(cluster={"metrics": address}), Recorder(), threading.Event())
    assert before <= set(path.rglob("*"))


def test_changed_data_are_refused(run_small: Run) -> None:
    run_small()
    with pytest.raises(SpecificationMismatch, match=r"data.digest: stored"):
        run_small(data={"train": 36})


def test_standardising_by_all_images_is_what_leaving_it_out_means(run_small: Run) -> None:
    run = run_small()
    assert run_small(data={"standardize_first": 37}).fingerprint == run.fingerprint
    with pytest.raises(SpecificationMismatch, match=r"data.standardize_first: only wanted"):
        run_small(data={"standardize_first": 36})


def test_a_shuffled_run_is_another_one_and_a_specification_without_a_seed_says_nothing_of_it(run_small: Run) -> None:
    """What a run was of before there was data.shuffle or "per_feature" keeps its fingerprint: no key is added."""
    run = run_small()
    keys = {"digest", "train", "test", "shape", "classes", "standardize"}
    assert set(run.specification.to_json()["data"]) == keys
    assert run.specification.data.standardize is True
    with pytest.raises(SpecificationMismatch, match=r"(?s)data.digest: stored.*data.shuffle: only wanted"):
        run_small(data={"shuffle": 0})


def test_a_shuffled_run_takes_the_rows_in_the_order_of_its_seed(
    run_small: Run, small_config: Config, small_npz: Path
) -> None:
    path = str(small_config().store.path) + "-shuffled"
    data = {"shuffle": 7, "train": 20, "test": 5, "standardize": False}
    run = run_small(data=data, store={"path": path})
    arrays = np.load(small_npz)
    for part, count in (("train", 20), ("test", 5)):
        rows = np.random.RandomState(7).permutation(len(arrays[f"y_{part}"]))[:count]
        np.testing.assert_array_equal(run.inputs(f"{part}_labels")[:], arrays[f"y_{part}"][rows])
        np.testing.assert_array_equal(run.inputs(f"{part}_images")[:], arrays[f"x_{part}"][rows])
    assert run.specification.data.shuffle == 7


def test_a_run_and_its_resumption_say_what_was_loaded(run_small: Run, small_config: Config) -> None:
    view, again = Recorder(), Recorder()
    run = run_small(view)
    runs.resume(run.path, again, threading.Event())
    counts = np.bincount(run.inputs("train_labels")[:])
    for lines in (view.lines, again.lines):
        assert "37 training and 11 test images of 6 x 5 pixels in 2 channels, 3 classes" in lines
        assert f"training images by class: 0: {counts[0]}, 1: {counts[1]}, 2: {counts[2]}" in lines


def test_a_split_that_nobody_asked_for_is_said(small_config: Config) -> None:
    def warnings(**data: int) -> tuple[str, ...]:
        return load(small_config(data={"source": "digits", "path": None, "train": 60, **data})).warnings

    assert warnings(test=40) == ()
    (line,) = warnings()
    assert line.startswith("digits has no test part: the 1737 rows behind the 60 training rows are tested on; give")
    assert warnings(shuffle=1) == (line,)


def test_what_a_loader_notes_is_a_warning(run_small: Run, tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/deeper/2.png", "val/a/3.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.new("L", (6, 5), 10).save(tmp_path / "set" / name)
    Image.new("L", (6, 5), 200).save(tmp_path / "set/train/b/deeper/2.png")
    view = Recorder()
    run_small(view, data={"source": "folder", "path": str(tmp_path / "set")})
    warnings = [line for line in view.lines if line.startswith("warning: ")]
    assert f"warning: {tmp_path}/set: there is no test/, val/ is the test part" in warnings
    assert (
        f"warning: {tmp_path}/set/train: images in subfolders are of the class around them: 1 in b/deeper" in warnings
    )
    assert any("1 of 2 classes have no test images: b" in line for line in warnings)


def test_features_on_unequal_scales_are_standardised_each_where_that_is_asked_for(
    run_small: Run, small_config: Config, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 90)
    values = rng.standard_normal((90, 4)) + 4 * labels[:, None] * [1, 0, 0, 0]
    values = (values * [1, 1e5, 1, 0] + [0, 0, 50, 5]).astype(np.float32)
    file = tmp_path / "vectors.npz"
    np.savez(file, x_train=values[:60], y_train=labels[:60], x_test=values[60:], y_test=labels[60:])
    network = {"preset": "fully_connected"}, {"depths": [3], "poolings": [], "kinds": ["ntk"]}

    def accuracy(standardize: object) -> tuple[float | None, list[str]]:
        view = Recorder()
        data = {"path": str(file), "standardize": standardize}
        store = {"path": f"{tmp_path}/run-{standardize}"}
        run = run_small(view, data=data, network=network[0], readouts=network[1], store=store)
        return make_report(run).solves[0].accuracy, [line for line in view.lines if "features hold" in line]

    together, told = accuracy(True)
    each, silent = accuracy("per_feature")
    assert told[0].startswith("warning: 1 of 4 features hold 99% of the variance, most of it feature 1,")
    assert silent == []
    assert together is not None
    assert each is not None
    assert each > 0.9
    assert together < 0.75


def test_a_changed_cluster_is_welcome(run_small: Run) -> None:
    run_small()
    run_small(cluster={"workers": 7})


def test_a_tile_that_was_chosen_once_stays(run_small: Run) -> None:
    run = run_small(kernel={"tile": 16})
    assert run_small(kernel={"tile": "auto"}).specification.tile == run.specification.tile == 16


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "swap"])
def test_a_damaged_tile_is_set_aside_and_computed_again(run_small: Run, damage: str) -> None:
    run = run_small()
    kernel = run.kernel("depth3-gap-ntk", "train")
    before, path = kernel.read(1, 0).copy(), kernel.chunk_path(1, 0)
    content = path.read_bytes()
    match damage:
        case "flip":
            path.write_bytes(content[:9] + bytes([content[9] ^ 4]) + content[10:])
        case "cut":
            path.write_bytes(content[:-100])
        case "delete":
            path.unlink()
        case "swap":  # whole and with a valid checksum, but of another place
            path.write_bytes(kernel.chunk_path(2, 0).read_bytes())
    count, view = len(kernel_tiles_begun(run)), Recorder()
    assert runs.verify(run.path).bad == (Task(Stage("train"), 1, 0),)
    assert not make_report(run).complete
    again = runs.resume(run.path, view, threading.Event())
    np.testing.assert_array_equal(again.kernel("depth3-gap-ntk", "train").read(1, 0), before)
    assert len(kernel_tiles_begun(again)) == count + 1
    assert make_report(again).complete
    kept = list((run.path / "quarantine").rglob("depth3-gap-ntk/train/c/1/0"))
    assert len(kept) == (0 if damage == "delete" else 1)


def test_a_truncated_chunk_is_noticed_by_a_plain_resume(run_small: Run) -> None:
    run = run_small()
    path = run.kernel("depth3-gap-ntk", "test").chunk_path(0, 1)
    path.write_bytes(path.read_bytes()[:-1])
    view = Recorder()
    runs.resume(run.path, view, threading.Event())
    assert "test tile (0, 1) was damaged on disk: moved to quarantine, computed again" in view.lines


def test_a_flipped_bit_met_while_solving_is_repaired(run_small: Run) -> None:
    run = run_small()
    path = run.kernel("depth3-gap-ntk", "train").chunk_path(1, 0)
    flip_bit(path)
    view = Recorder()
    again = run_small(view, solve={"ridges": [0.5]})  # a new solve reads the kernel
    assert make_report(again).complete
    assert any("damaged tile" in line for line in view.lines)


def test_a_whole_tile_without_a_receipt_is_adopted(run_small: Run) -> None:
    run = run_small()
    count = len(kernel_tiles_begun(run))
    shutil.rmtree(run.path / "journal")
    assert len(kernel_tiles_begun(runs.resume(run.path, Recorder(), threading.Event()))) == count
    assert make_report(run).complete


def test_a_lost_journal_does_not_lend_trust_to_a_damaged_tile(run_small: Run) -> None:
    run = run_small()
    count = len(kernel_tiles_begun(run))
    shutil.rmtree(run.path / "journal")
    path = run.kernel("depth3-gap-ntk", "train").chunk_path(2, 1)
    path.write_bytes(path.read_bytes()[:-2] + b"ab")
    assert len(kernel_tiles_begun(runs.resume(run.path, Recorder(), threading.Event()))) == count + 1


def test_relative_places_of_data_are_found_from_anywhere(
    run_small: Run, small_config: Config, small_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_npz.parent)
    given = {"data": {"path": small_npz.name}}
    run = run_small(**given)
    assert run.workflow().data.path == str(small_npz)
    count = len(kernel_tiles_begun(run))
    # As earlier versions wrote it: the same command goes on, and its fingerprint is the same.
    trusted = of_user(run, small_config(**given))
    write_trusted(run, trusted)
    assert run.workflow().data.path == small_npz.name
    run.kernel("depth3-gap-ntk", "train").chunk_path(0, 0).unlink()
    again = run_small(**given)
    assert (again.fingerprint, len(kernel_tiles_begun(again))) == (run.fingerprint, count + 1)
    assert again.workflow().data.path == str(small_npz)
    monkeypatch.chdir("/")
    chunk = run.inputs_path / "train_images/c/0/0/0/0"
    before = chunk.read_bytes()
    chunk.unlink()
    assert make_report(runs.resume(run.path, Recorder(), threading.Event())).complete
    assert chunk.read_bytes() == before


def test_two_runs_at_once_on_one_store_are_refused(run_small: Run, small_config: Config) -> None:
    run = run_small()
    lease = {"holder": "x", "host": "elsewhere", "pid": 1, "counter": 0}
    done = threading.Event()

    def renew() -> None:
        while not done.wait(0.1):
            lease["counter"] = int(str(lease["counter"])) + 1
            (run.path / "lease" / "000009.json").write_whole(json.dumps(lease).encode())

    renewer = threading.Thread(target=renew)
    renewer.start()
    try:
        (run.path / "lease" / "000009.json").write_whole(json.dumps(lease).encode())
        with pytest.raises(RunLocked, match="another driver works on"):
            runs.resume(run.path, Recorder(), threading.Event())
    finally:
        done.set()
        renewer.join()


def test_a_tile_that_cannot_be_written_leaves_the_others(run_small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from cntk_pipeline.storage.tiled_array import TiledArray

    monkeypatch.setattr("cntk_pipeline.driver.driver.FIRST_DELAY_SECONDS", 0.001)
    write = TiledArray.write

    def refuse(self: TiledArray, index: tuple[int, ...], values: np.ndarray) -> object:
        if index == (2, 1):
            raise OSError(5, "Input/output error")
        return write(self, index, values)

    monkeypatch.setattr(TiledArray, "write", refuse)
    with pytest.raises(TilesFailed, match=r"train tile \(2, 1\): OSError"):
        run_small()
    monkeypatch.undo()
    assert make_report(run_small()).complete


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("kilobytes", [32, 120, 240, 320, 400])
def test_a_full_disk_stops_with_the_way_on(small_config: Config, tmp_path: Path, kilobytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size={kilobytes}k tmpfs {disk} 2>/dev/null") != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        config = small_config(store={"path": str(disk / "run")})
        message = r"(?s)(disk of .* is full.*|could not be begun: No space left.*)free some space, then (.*)"
        with pytest.raises(StoreError, match=message) as caught:
            runs.start(config, Recorder(), threading.Event())
        os.system(f"mount -o remount,size=60m {disk}")
        if "then the same command again" not in str(caught.value):
            assert RunDirectory(disk / "run").has_inputs()  # which is what `cntk resume` asks for
        run = runs.start(config, Recorder(), threading.Event())
        assert make_report(run).complete
        assert len(kernel_tiles_begun(run)) <= 13 + 1
        assert list(disk.rglob("*.partial")) == []
    finally:
        os.system(f"umount {disk}")


def test_a_run_directory_that_never_began_says_so(tmp_path: Path, small_config: Config) -> None:
    with pytest.raises(RunNotFound, match="holds no run"):
        runs.resume(tmp_path, Recorder(), threading.Event())
    loaded = runs.load(small_config())
    RunDirectory.create(tmp_path / "x", specification_of(loaded, 16), {})
    with pytest.raises(RunNotFound, match="stopped before it began"):
        runs.resume(tmp_path / "x", Recorder(), threading.Event())


def test_a_run_whose_driver_was_killed_as_it_gave_it_its_name_is_begun_by_the_same_command(
    tmp_path: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with a damaged run.json where it was enough that there is such a file."""
    monkeypatch.setattr("cntk_pipeline.storage.lacking.CLAIM_SECONDS", 0.05)
    config = small_config(data={"train": 12, "test": 3}, readouts={"poolings": ["gap"], "kinds": ["ntk"]})
    place = Path(str(config.store.path))
    place.mkdir()
    (place / "run.json").touch()
    assert list_runs(str(tmp_path)).runs == ()
    assert runs.plan(config).tile == 16
    assert make_report(runs.start(config, Recorder(), threading.Event())).complete


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"cluster": {"kind": "slrum"}}, ConfigError, r"unknown cluster.kind 'slrum'"),
        ({"store": {"path": "gopher://bucket/run"}}, ConfigError, "is no store that is known"),
        ({"data": {"train": 999}}, ConfigError, "999"),
        (
            {"data": {"standardize_first": 38}},
            ConfigError,
            r"standardize_first from 1 to the 37 rows there are, got 38",
        ),
        ({"data": {"source": "digitz"}}, ConfigError, "digits"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    small_config: Config, sections: dict[str, object], error: type[Exception], message: str
) -> None:
    config = small_config(**sections)
    with pytest.raises(error, match=message):
        runs.start(config, Recorder(), threading.Event())
    assert not Path(str(small_config().store.path)).exists()


def damaged_npz(tmp_path: Path, **changes: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.standard_normal((20, 4, 4, 1)),
        "y_train": np.arange(20) % 2,
        "x_test": rng.standard_normal((5, 4, 4, 1)),
        "y_test": np.arange(5) % 2,
    }
    np.savez(tmp_path / "bad.npz", **(arrays | changes))
    return str(tmp_path / "bad.npz")


def test_bad_data_are_refused_before_anything_is_written(small_config: Config, tmp_path: Path) -> None:
    images = np.zeros((20, 4, 4, 1))
    images[3, 1, 2, 0] = np.nan
    config = small_config(data={"path": damaged_npz(tmp_path, x_train=images)})
    with pytest.raises(DataError, match=r"3.*1.*2"):
        runs.start(config, Recorder(), threading.Event())
    assert not Path(str(config.store.path)).exists()


def test_vectors_go_with_dense_networks_and_not_with_convolutions(small_config: Config, tmp_path: Path) -> None:
    vectors = {"x_train": np.random.default_rng(0).standard_normal((20, 6)), "x_test": np.eye(6)[:5]}
    config = small_config(data={"path": damaged_npz(tmp_path, **vectors)})
    with pytest.raises(LayerError, match=r"needs images of shape \(H, W, C\), got vectors"):
        runs.start(config, Recorder(), threading.Event())
    dense = {"network": {"preset": "fully_connected"}, "readouts": {"poolings": []}}
    config = small_config(data={"path": damaged_npz(tmp_path, **vectors)}, **dense)
    assert make_report(runs.start(config, Recorder(), threading.Event())).complete


def test_black_images_have_a_kernel_of_zero(run_small: Run) -> None:
    run = run_small(data={"standardize": False})
    values = whole_matrix(run, "depth3-gap-ntk", "train")
    assert np.isfinite(values).all()
    assert not values[4].any()


def test_a_kernel_tile_that_is_damaged_again_and_again_ends_the_run(
    run_small: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cntk_pipeline.storage.tiled_array import TiledArray

    read = TiledArray.read

    def broken(self: TiledArray, *index: int) -> np.ndarray:
        if self.path.name == "train" and index == (1, 1):
            raise CorruptTile("always bad")
        return read(self, *index)

    monkeypatch.setattr(TiledArray, "read", broken)
    view = Recorder()
    with pytest.raises((TilesFailed, CorruptTile), match="always bad"):
        run_small(view, readouts={"poolings": ["gap"], "kinds": ["ntk"]})
    assert view.stages == ["kernel", "solve"] * 3
    assert sum("checking all tiles" in line for line in view.lines) == 2  # not a third time, just before it gives up


def test_a_run_over_flips_holds_the_mean_with_the_flipped_images(run_small: Run, small_config: Config) -> None:
    plain = run_small(store={"path": str(small_config().store.path) + "-plain"})
    run = run_small(kernel={"flips": True})
    images = np.concatenate([np.asarray(run.inputs(part)[:]) for part in ("train_images", "test_images")])
    name = "depth3-gap-ntk"
    network = spelling.read(next(r.network for r in run.specification.readouts if r.name == name), LAYERS)
    expected = kernel_matrix(network, images, images, dtype="float64", flips=True)
    held = whole_matrix(run, name, "train")
    train = len(held)
    assert not np.allclose(held, whole_matrix(plain, name, "train"), rtol=1e-4)
    assert_kernels_close(held, expected[:train, :train], tolerance("float32").kernel)
    assert_kernels_close(whole_matrix(run, name, "test"), expected[train:, :train], tolerance("float32").kernel)
    variances = run.kernel(name, "test_variance").read_region((0, len(images) - train))
    assert_kernels_close(variances, np.diagonal(expected)[train:], tolerance("float32").kernel)
    assert np.array_equal(np.diagonal(held), run.kernel(name, "train_variance").read_region((0, train)))


def test_flips_of_vectors_are_refused_unless_a_run_was_begun_with_them(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = {"x_train": np.random.default_rng(0).standard_normal((20, 6)), "x_test": np.eye(6)[:5]}
    dense = {"network": {"preset": "fully_connected"}, "readouts": {"depths": [2], "poolings": [], "kinds": ["ntk"]}}
    config = small_config(data={"path": damaged_npz(tmp_path, **vectors)}, kernel={"flips": True}, **dense)
    for call in (lambda: runs.plan(config), lambda: runs.start(config, Recorder(), threading.Event())):
        with pytest.raises(ConfigError, match=r"flips = true .* vectors of shape \(6,\): leave kernel\.flips out"):
            call()
        assert not (tmp_path / "run").exists()
    with monkeypatch.context() as earlier:
        earlier.setattr(runs, "_require_images", lambda *_: None)
        run = runs.start(config, Recorder(), threading.Event())
    (name,) = [each.name for each in run.specification.readouts]
    held = whole_matrix(run, name, "train")
    chunk = run.kernel(name, "train").chunk_path(1, 0)
    for go_on in (
        lambda: runs.resume(run.path, Recorder(), threading.Event()),
        lambda: runs.start(config, Recorder(), threading.Event()),
    ):
        chunk.unlink()
        go_on()
        np.testing.assert_array_equal(whole_matrix(run, name, "train"), held)
    runs.plan(config)
    opened = open_run(run.path)
    found = opened.decision_function(vectors["x_test"], say=None)
    np.testing.assert_allclose(found, opened.predictions(), rtol=0, atol=1e-5)


def test_equal_images_with_different_labels_are_refused_before_anything_is_written(
    small_config: Config, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).standard_normal((20, 4, 4, 1))
    images[7] = images[2]
    config = small_config(data={"path": damaged_npz(tmp_path, x_train=images)}, solve={"ridges": [0.0]})
    with pytest.raises(DataError, match=r"rows 2 \(0\) and 7 \(1\)"):
        runs.start(config, Recorder(), threading.Event())
    assert not Path(str(config.store.path)).exists()


def test_what_is_odd_about_the_images_is_said(run_small: Run) -> None:
    view = Recorder()
    run_small(view)
    assert not [line for line in view.lines if line.startswith("warning")]
    with contextlib.suppress(NotPositiveDefinite):  # rounding decides
        run_small(view, solve={"ridges": [0.0]})
    assert [line for line in view.lines if "rows 20 and 30: without a ridge their kernel is singular" in line]


def test_one_image_is_a_training_set(run_small: Run) -> None:
    view = Recorder()
    report = make_report(run_small(view, data={"train": 1}))
    assert report.complete
    assert {solve.relative_residual is None for solve in report.solves} == {False}
    assert any("all 1 training images are of the class" in line for line in view.lines)


def test_one_class_is_solved_and_has_no_accuracy(small_config: Config, tmp_path: Path) -> None:
    labels = {"y_train": np.zeros(20, int), "y_test": np.zeros(5, int)}
    config = small_config(data={"path": damaged_npz(tmp_path, **labels)})
    solve = make_report(runs.start(config, Recorder(), threading.Event())).solves[0]
    assert solve.accuracy is None
    assert solve.relative_residual == 0.0


def test_a_data_set_that_was_deleted_whole_is_written_anew_by_a_resume(run_small: Run) -> None:
    """Seen to fail where the group of the data set counted as never begun."""
    run = run_small()
    before = {
        path.name: path.read_bytes()
        for path in Path(str(run.inputs_path)).glob("train_images/c/**/*")
        if path.is_file()
    }
    run.inputs_path.remove_tree()
    report = make_report(run)
    assert (report.complete, len(report.lost_inputs) > 0) == (False, True)
    again = runs.resume(run.path, Recorder(), threading.Event())
    assert make_report(again).complete
    after = {
        path.name: path.read_bytes()
        for path in Path(str(run.inputs_path)).glob("train_images/c/**/*")
        if path.is_file()
    }
    assert after == before


def test_a_run_that_has_lost_its_solves_is_reported_as_unsolved_and_gone_on_with(run_small: Run) -> None:
    """Seen to fail where a report asked arrays that were gone for their chunks."""
    run = run_small(inference={"leave_one_out": True})
    accuracies = [solve.accuracy for solve in make_report(run).solves]
    (run.path / "solve").remove_tree()
    stages = {stage.stage: (stage.done, stage.total) for stage in make_report(RunDirectory(run.path)).stages}
    assert stages["train"] == (10 - 4, 10 - 4)
    assert {stages[kind][0] for kind in ("factor", "coefficients", "mean", "leave_one_out")} == {0}
    again = runs.resume(run.path, Recorder(), threading.Event())
    assert [solve.accuracy for solve in make_report(again).solves] == accuracies


UNTRAINED = {"depths": [2, 3], "poolings": ["gap"], "kinds": ["ntk"]}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"readouts": UNTRAINED},
            r"depth2-gap-ntk: none of its layers is trained, so that its NTK is zero everywhere: take another depth, "
            r"give network\.options\.trained_ends = true, or ask for readouts\.kinds = \[.nngp.\]",
        ),
        (
            {
                "network": {
                    "preset": None,
                    "layers": [
                        {"layer": "Flatten"},
                        {"layer": "Dense", "trained": False},
                        {"layer": "Relu"},
                        {"layer": "Dense", "rate": 0.0},
                    ],
                },
                "readouts": {"depths": [], "poolings": [], "kinds": ["ntk"]},
            },
            "ntk: none of its layers is trained, .*: leave trained = false out of a layer",
        ),
    ],
)
def test_an_ntk_that_trains_no_layer_is_refused_before_its_pairs(
    small_config: Config, sections: dict, message: str
) -> None:
    config = small_config(**sections)
    for begin in (runs.plan, lambda config: runs.start(config, Recorder(), threading.Event())):
        with pytest.raises(ConfigError, match=message):
            begin(config)
    assert not Path(str(config.store.path)).exists()


def test_a_run_of_an_earlier_version_that_trains_no_layer_opens_and_resumes(
    small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, stop = stop_at(2)
    config = small_config(readouts=UNTRAINED)
    monkeypatch.setattr("cntk_pipeline.workflow.load.is_untrained", lambda network, shape: False)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    monkeypatch.undo()
    run = open_run(str(config.store.path))
    assert run.readouts == ["depth2-gap-ntk", "depth3-gap-ntk"]
    with pytest.raises(NotPositiveDefinite, match="its network trains no layer"):
        runs.resume(run.path, Recorder(), threading.Event())
    assert run.predictions("depth3-gap-ntk").shape == (TEST, 3)
