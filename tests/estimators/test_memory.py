"""Kernels that are kept: which values are computed, and that they are those of the kernel."""

import errno
import fcntl
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from threadpoolctl import threadpool_limits

from cntk_pipeline import kernel_matrices, kernel_matrix
from cntk_pipeline.errors import DataError, LayerError, NotAccurate, NotFinite, SpecificationMismatch, StoreError
from cntk_pipeline.estimators import KernelClassifier, KernelRegressor, NetworkKernel, fill_memory
from cntk_pipeline.estimators import memory as memories
from cntk_pipeline.estimators.folder_memory import FolderMemory
from cntk_pipeline.graphs import pack
from cntk_pipeline.kernels import CpuEngine
from cntk_pipeline.layers import (
    LAYERS,
    Aggregate,
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Flatten,
    GlobalSumPool,
    LocalAvgPool,
    Relu,
    Repeat,
    Sequential,
    Sign,
    presets,
)
from cntk_pipeline.layers.spelling import read
from cntk_pipeline.rundir.directory import RunDirectory

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS = DIGITS / 16
NETWORKS = [presets.fully_connected(depth, b_std=0.1) for depth in (1, 2, 3, 5)]
RIDGES = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Count what memories have computed: the number of networks times kinds, and of pairs, for each pass."""
    counted: list[tuple[int, int]] = []

    def compute(networks: Any, x1: np.ndarray, x2: np.ndarray | None = None, **options: Any) -> np.ndarray:
        pairs = len(x1) * (len(x1) + 1) // 2 if x2 is None else len(x1) * len(x2)
        counted.append((len(networks) * len(options["kinds"]), pairs))
        return kernel_matrices(networks, x1, x2, **options)

    monkeypatch.setattr(memories.kernels, "kernel_matrices", compute)
    return counted


def entries(passes: list[tuple[int, int]]) -> int:
    return sum(kernels * pairs for kernels, pairs in passes)


@pytest.mark.slow
def test_a_search_computes_each_entry_once(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    x, y, once = DIGITS[:300], LABELS[:300], 4 * 2 * 300 * 301 // 2
    grid = {"network": NETWORKS, "kind": ["ntk", "nngp"], "ridge": RIDGES}
    search = GridSearchCV(KernelClassifier(NETWORKS[0], memory=tmp_path), grid, cv=5).fit(x, y)
    assert entries(passes) == once
    assert search.best_score_ > 0.93
    cross_val_score(search.best_estimator_, x, y, cv=3)  # other folds of the same samples
    assert entries(passes) == once


@pytest.mark.slow
def test_a_search_over_1500_digits_computes_each_entry_once_and_in_one_pass(
    tmp_path: Path, passes: list[tuple[int, int]]
) -> None:
    x, y = DIGITS[:1500], LABELS[:1500]
    fill_memory(tmp_path, NETWORKS, x)
    grid = {"network": NETWORKS, "kind": ["ntk", "nngp"], "ridge": RIDGES}
    with threadpool_limits(1):  # two hundred small factorisations, whose threads would wait for other tests
        search = GridSearchCV(KernelClassifier(NETWORKS[0], memory=tmp_path), grid, cv=5).fit(x, y)
    assert passes == [(4 * 2, 1500 * 1501 // 2)]
    assert search.best_score_ > 0.95


def test_one_pass_fills_a_memory_for_all_depths_kinds_and_ridges(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    x, y = DIGITS[:90], LABELS[:90]
    fill_memory(tmp_path, [*NETWORKS, NETWORKS[0]], x)
    assert passes == [(8, 90 * 91 // 2)]
    grid = {"network": NETWORKS, "kind": ["ntk", "nngp"], "ridge": RIDGES[:2]}
    search = GridSearchCV(KernelClassifier(NETWORKS[0], memory=tmp_path), grid, cv=3).fit(x, y)
    assert len(passes) == 1
    without = GridSearchCV(KernelClassifier(NETWORKS[0]), grid, cv=3).fit(x, y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], without.cv_results_["mean_test_score"])


def test_samples_are_added_to_what_is_kept(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    model = KernelRegressor(NETWORKS[2], memory=tmp_path, dtype="float64", ridge=1e-3)
    direct = KernelRegressor(NETWORKS[2], dtype="float64", ridge=1e-3)
    order = np.random.default_rng(0).permutation(60)
    for rows, new in ((order[:30], order[25:45]), (order[10:50], order), (order[::-1], order[:7])):
        found = model.fit(DIGITS[rows], LABELS[rows]).predict(DIGITS[new])
        expected = direct.fit(DIGITS[rows], LABELS[rows]).predict(DIGITS[new])
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert entries(passes) == 2 * 60 * 61 // 2


@pytest.mark.parametrize("dtype", [np.float32, "f4", np.dtype("f4"), ">f4", np.dtype("<f4")], ids=repr)
def test_other_names_of_a_dtype_ask_for_the_same_values(
    tmp_path: Path, passes: list[tuple[int, int]], dtype: Any
) -> None:
    x, y = DIGITS[:20], LABELS[:20]
    fill_memory(tmp_path, [NETWORKS[1]], x, dtype="float32")
    fill_memory(tmp_path, [NETWORKS[1]], x, dtype=dtype)
    model = KernelClassifier(NETWORKS[1], memory=tmp_path, dtype=dtype).fit(x, y)
    assert len(passes) == 1
    assert clone(model).dtype == dtype
    kernel = NetworkKernel(NETWORKS[1], memory=tmp_path, dtype=dtype)
    np.testing.assert_array_equal(kernel(x), kernel_matrix(NETWORKS[1], x))


def test_networks_made_with_numbers_of_numpy_ask_for_the_same_values(
    tmp_path: Path, passes: list[tuple[int, int]]
) -> None:
    x, y, shape = DIGITS[:12], LABELS[:12], (8, 8, 1)
    plain = Sequential(Conv(3, w_std=1.5), LocalAvgPool(1), Flatten(), Repeat(Sequential(Dense(), Relu()), 2), Dense())
    given = Sequential(
        Conv(np.int64(3), w_std=np.float32(1.5)),
        LocalAvgPool(np.int64(1)),
        Flatten(),
        Repeat(Sequential(Dense(), Relu()), np.int64(2)),
        Dense(),
    )
    model = KernelClassifier(plain, memory=tmp_path, image_shape=shape).fit(x, y)
    other = KernelClassifier(given, memory=tmp_path, image_shape=shape).fit(x, y)
    assert len(passes) == 1
    np.testing.assert_array_equal(other.dual_coef_, model.dual_coef_)


@pytest.mark.parametrize("place", ["file", "file/within"])
def test_a_memory_that_can_be_no_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=rf"memory: expected a local folder, or a run directory, got .*{place}"):
        KernelClassifier(NETWORKS[1], memory=tmp_path / place).fit(DIGITS[:20], LABELS[:20])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_memory_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"memory: expected a local folder, or a run directory, got ''"):
        KernelClassifier(NETWORKS[1], memory="").fit(DIGITS[:20], LABELS[:20])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_memory_in_a_bucket_is_refused(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=rf"memory: expected a local folder, or a run directory, got 's3://{bucket}/memory'"
    ):
        KernelClassifier(NETWORKS[1], memory=f"s3://{bucket}/memory").fit(DIGITS[:20], LABELS[:20])
    assert not list(tmp_path.iterdir())


def test_a_memory_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    KernelClassifier(NETWORKS[1], memory="~/kept").fit(DIGITS[:20], LABELS[:20])
    fill_memory("~/filled", [NETWORKS[1]], DIGITS[:20])
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["filled", "kept"]


def test_one_network_in_the_place_of_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"takes a list of networks, got one Sequential: put it in \[\]"):
        fill_memory(tmp_path, NETWORKS[0], DIGITS[:20])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"memory": None}, TypeError, "fill_memory needs the path of a folder, got None"),
        ({"memory": 3}, TypeError, "memory must be the path of a folder .*got 3"),
        ({"networks": None}, TypeError, "fill_memory takes a list of networks, got None"),
        ({"networks": [3]}, TypeError, "network must be a layer of cntk_pipeline.layers, .*got 3"),
        (
            {"x": DIGITS[0]},
            ValueError,
            r"expected samples \(n, features\) .*of shape \(64,\): of one sample give x",
        ),
    ],
)
def test_what_a_memory_cannot_be_filled_with_is_named(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"memory": tmp_path, "networks": [NETWORKS[0]], "x": DIGITS[:5]} | arguments
    with pytest.raises(error, match=message):
        fill_memory(**given)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full when kernel values are written: what NumPy writes is cut off."""

    def cut_off(file: Any, **arrays: np.ndarray) -> None:
        file.write(b"PK")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", cut_off)


@pytest.mark.usefixtures("full_disk")
def test_a_fit_goes_on_where_its_values_cannot_be_kept(tmp_path: Path) -> None:
    x, y = DIGITS[:20], LABELS[:20]
    with pytest.warns(RuntimeWarning, match=rf"cannot be kept in {tmp_path}.*No space left.*leave memory out. The fit"):
        model = KernelClassifier(NETWORKS[1], memory=tmp_path).fit(x, y)
    np.testing.assert_array_equal(model.dual_coef_, KernelClassifier(NETWORKS[1]).fit(x, y).dual_coef_)
    with pytest.raises(StoreError, match=rf"cannot be kept in {tmp_path}.*No space left on device\): give a folder"):
        fill_memory(tmp_path, [NETWORKS[1]], x)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["lock", "question.json"]


def test_a_memory_that_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path: Path, passes: list[tuple[int, int]]
) -> None:
    model = KernelClassifier(NETWORKS[1], memory=tmp_path).fit(DIGITS[:20], LABELS[:20])
    (lock,) = tmp_path.rglob("lock")
    lock.unlink()
    lock.mkdir()  # as a folder of another user: permissions hold nobody off who runs tests as root
    with pytest.raises(StoreError, match=rf"cannot be kept in {lock.parent} \(Is a directory\): give a folder that"):
        model.fit(DIGITS[:30], LABELS[:30])
    assert len(passes) == 1


def test_equal_samples_are_one_and_a_zero_has_no_sign(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    x = np.array([[1.0, 0.0], [1.0, -0.0], [0.5, 2.0], [1.0, 0.0]])
    model = KernelRegressor(NETWORKS[1], memory=tmp_path, ridge=0.1).fit(x, [1.0, 2.0, 3.0, 4.0])
    assert entries(passes) == 2 * 3
    direct = KernelRegressor(NETWORKS[1], ridge=0.1).fit(x, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(model.predict(x), direct.predict(x), rtol=1e-5)


def test_other_questions_have_other_values(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    x, y = DIGITS[:20], LABELS[:20]
    shapes = {"image_shape": (8, 8, 1)}
    for options in ({}, {"dtype": "float64"}, shapes, shapes | {"flips": True}):
        for network in (NETWORKS[1], NETWORKS[2]):
            model = KernelClassifier(network, memory=tmp_path, **options).fit(x, y)
            direct = KernelClassifier(network, **options).fit(x, y)
            np.testing.assert_allclose(model.dual_coef_, direct.dual_coef_, rtol=1e-3, atol=1e-4)
    assert len(passes) == 8


def test_a_network_without_ntk_keeps_its_nngp(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    network = Sequential(Dense(), Sign(), Dense())
    KernelClassifier(network, kind="nngp", memory=tmp_path).fit(DIGITS[:20], LABELS[:20])
    assert passes == [(1, 210)]


def test_a_network_without_ntk_is_named_as_without_a_memory(tmp_path: Path) -> None:
    network = Sequential(Dense(), Sign(), Dense())
    for memory in (None, tmp_path):
        with pytest.raises(LayerError, match=r"layer 1 \(Sign\): Sign\(\) has no NTK, only an NNGP: ask for kind="):
            KernelClassifier(network, memory=memory).fit(DIGITS[:20], LABELS[:20])
    assert not list(tmp_path.iterdir())


def test_a_network_without_ntk_takes_it_from_no_other_one(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    fill_memory(tmp_path, [NETWORKS[1], Sequential(Dense(), Sign(), Dense()), NETWORKS[0]], DIGITS[:20])
    assert sorted(passes) == [(1, 210), (4, 210)]
    KernelClassifier(NETWORKS[1], memory=tmp_path).fit(DIGITS[:20], LABELS[:20])
    assert len(passes) == 2


def test_an_ntk_that_an_earlier_version_left_out_is_filled_in(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    fill_memory(tmp_path, [NETWORKS[1]], DIGITS[:20])
    (path,) = tmp_path.rglob("000001.npz")
    with np.load(path) as file:
        values = dict(file)
    del values["ntk"]
    np.savez(path, **values)
    fill_memory(tmp_path, [NETWORKS[1]], DIGITS[:20])
    assert passes == [(2, 210), (2, 210)]
    KernelClassifier(NETWORKS[1], memory=tmp_path).fit(DIGITS[:20], LABELS[:20])
    assert len(passes) == 2


def test_dropout_is_computed_anew_since_copies_are_no_sample(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    network = Sequential(Dense(), Relu(), Dropout(0.5), Dense())
    x = np.repeat(DIGITS[:15], 2, axis=0)
    model = KernelRegressor(network, memory=tmp_path, dtype="float64").fit(x, np.arange(30))
    direct = KernelRegressor(network, dtype="float64").fit(x, np.arange(30))
    np.testing.assert_array_equal(model.dual_coef_, direct.dual_coef_)
    assert passes == []


def test_a_memory_is_not_filled_with_what_it_is_not_asked_for(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    network = Sequential(Dense(), Relu(), Dropout(0.5), Dense())
    fill_memory(tmp_path, [network, NETWORKS[0]], DIGITS[:20])
    assert passes == [(2, 210)]
    fill_memory(tmp_path / "other", [network], DIGITS[:20])
    assert not (tmp_path / "other").exists()


def test_a_damaged_file_is_named_and_its_values_come_again(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    model = KernelClassifier(NETWORKS[1], memory=tmp_path).fit(DIGITS[:30], LABELS[:30])
    (path,) = tmp_path.rglob("000001.npz")
    content = bytearray(path.read_bytes())
    content[3 * len(content) // 4] ^= 1  # among the values of the NTK
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"000001\.npz cannot be read as kept kernel values .*: delete it"):
        model.fit(DIGITS[:30], LABELS[:30])
    path.unlink()
    again = model.fit(DIGITS[:30], LABELS[:30])
    assert len(passes) == 2
    np.testing.assert_array_equal(
        again.predict(DIGITS), KernelClassifier(NETWORKS[1]).fit(DIGITS[:30], LABELS[:30]).predict(DIGITS)
    )


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        (1e-46, NotAccurate, "image 0 holds no number beyond"),
        (1e39, NotFinite, "image 0 holds a number of size .*, the largest of float32: scale"),
    ],
)
def test_samples_out_of_the_range_of_the_dtype_are_refused_as_without_a_memory(
    tmp_path: Path, scale: float, error: type[Exception], message: str
) -> None:
    x, y = DIGITS[:20] + 0.0, LABELS[:20]
    fill_memory(tmp_path, [NETWORKS[1]], np.concatenate([x, np.zeros((1, 64))]))  # what is too small became a zero
    model = KernelClassifier(NETWORKS[1], ridge=0.1).fit(x, y)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.npz")}
    for memory in (None, tmp_path):
        with pytest.raises(error, match=message):
            model.set_params(memory=memory).predict(x[:3] * scale)
        with pytest.raises(error, match=message):
            clone(model).fit(np.concatenate([x[:3] * scale, x[3:]]), y)
        with pytest.raises(error, match=message):
            NetworkKernel(NETWORKS[1], memory=memory)(x * scale)
    with pytest.raises(error, match=message):
        fill_memory(tmp_path, NETWORKS[1:3], x * scale)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.npz")} == kept
    model.set_params(memory=tmp_path).predict(np.zeros((2, 64)))  # zeros are samples


def test_graphs_below_the_range_of_the_dtype_have_the_values_that_they_have_without_a_memory(tmp_path: Path) -> None:
    path = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    graphs = pack([path] * 4, 1e-46 * np.random.default_rng(0).standard_normal((4, 3, 2)))
    network = Sequential(Aggregate(), Dense(w_std=1e46), Relu(), Dense(), GlobalSumPool())
    fill_memory(tmp_path, [network], graphs)
    found = NetworkKernel(network, memory=tmp_path)(graphs)
    np.testing.assert_array_equal(found, kernel_matrix(network, graphs))
    assert np.all(np.diag(found) > 0)


def test_graphs_with_a_small_feature_are_kept(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((4, 3, 2))
    features[0, 0, 0] = 1e-22  # a number of float32, whose square is none
    graphs = pack([np.ones((3, 3)) - np.eye(3)] * 4, features)
    network = Sequential(Aggregate(), Dense(), Relu(), Dense(), GlobalSumPool())
    fill_memory(tmp_path, [network], graphs)
    assert list(tmp_path.rglob("*.npz"))
    np.testing.assert_allclose(NetworkKernel(network, memory=tmp_path)(graphs), kernel_matrix(network, graphs), 1e-6)


@pytest.mark.parametrize(
    ("place", "flag"), [(10, 99), (8, 1)], ids=["unknown way to compress", "encrypted"]
)  # of an entry of an archive's directory
def test_a_damaged_directory_of_a_file_is_named(tmp_path: Path, place: int, flag: int) -> None:
    model = KernelClassifier(NETWORKS[1], memory=tmp_path).fit(DIGITS[:10], LABELS[:10])
    (path,) = tmp_path.rglob("000001.npz")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + place] = flag
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"000001\.npz cannot be read as kept kernel values .*: delete it"):
        model.fit(DIGITS[:10], LABELS[:10])


def test_a_copy_of_a_file_is_read_and_has_no_number(tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    model = KernelClassifier(NETWORKS[1], memory=tmp_path).fit(DIGITS[:20], LABELS[:20])
    (path,) = tmp_path.rglob("000001.npz")
    path.rename(path.with_stem("000001 (copy)"))
    model.fit(DIGITS[:20], LABELS[:20])
    assert len(passes) == 1
    model.fit(DIGITS[:30], LABELS[:30])
    (path.parent / "000002.npz").unlink()  # as one that was damaged
    model.fit(DIGITS[:40], LABELS[:40])
    assert len(list(path.parent.glob("*.npz"))) == len(passes) - 1  # none is written over
    before = len(passes)
    model.fit(DIGITS[:40], LABELS[:40])
    assert len(passes) == before


def test_a_child_that_was_forked_meanwhile_holds_no_lock(tmp_path: Path) -> None:
    folder = FolderMemory(tmp_path, {}, "float32")
    with folder.held():
        child = os.dup(next(fd for fd in map(int, os.listdir("/proc/self/fd")) if _leads_to(fd, folder.path / "lock")))
    try:  # a child's copy of the open file is the same lock, as is this one
        with (folder.path / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(child)


def _leads_to(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:  # the one that listed them
        return False


@pytest.mark.parametrize(
    "make", [lambda x: x.assign(d=x.d > 0), lambda x: x.convert_dtypes(), lambda x: x.astype(object)]
)
def test_frames_that_a_fit_takes_are_taken_by_kernels_and_memories(
    tmp_path: Path, make: Callable[[Any], Any], passes: list[tuple[int, int]]
) -> None:
    pandas = pytest.importorskip("pandas")
    frame = make(pandas.DataFrame(np.random.default_rng(0).standard_normal((12, 4)), columns=list("abcd")))
    numbers = frame.to_numpy(float)
    fill_memory(tmp_path, [NETWORKS[1]], frame)
    KernelClassifier(NETWORKS[1], memory=tmp_path).fit(frame, np.arange(12) % 2)
    assert len(passes) == 1
    kernel = NetworkKernel(NETWORKS[1])
    expected = kernel_matrix(NETWORKS[1], numbers)
    np.testing.assert_array_equal(kernel(frame), expected)
    np.testing.assert_array_equal(kernel(numbers, frame), expected)
    np.testing.assert_array_equal(kernel.diag(frame), np.diag(expected))


def test_what_a_killed_process_left_aside_is_no_value(tmp_path: Path) -> None:
    model = KernelClassifier(NETWORKS[1], memory=tmp_path).fit(DIGITS[:30], LABELS[:30])
    (path,) = tmp_path.rglob("000001.npz")
    (path.parent / "aside").write_bytes(path.read_bytes()[:1000])
    assert model.fit(DIGITS[:40], LABELS[:40]).score(DIGITS[:40], LABELS[:40]) > 0.9


def _fit_in_process(memory: Path) -> int:
    computed: list[int] = []

    def compute(networks: Any, x1: np.ndarray, x2: np.ndarray | None = None, **options: Any) -> np.ndarray:
        computed.append(len(x1))
        return kernel_matrices(networks, x1, x2, **options)

    memories.kernels.kernel_matrices = compute
    KernelClassifier(NETWORKS[2], memory=memory).fit(DIGITS[:200], LABELS[:200])
    return len(computed)


@pytest.mark.slow
def test_of_two_processes_one_computes(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert sum(pool.map(_fit_in_process, [tmp_path, tmp_path], chunksize=1)) == 1


def test_a_python_function_cannot_be_kept(tmp_path: Path) -> None:
    network = Sequential(Dense(), Elementwise(np.tanh), Dense())
    with pytest.raises(LayerError, match=r"memory: .*holds a Python function.*; or leave memory out"):
        KernelClassifier(network, kind="nngp", memory=tmp_path).fit(DIGITS[:20], LABELS[:20])
    assert not list(tmp_path.iterdir())


def test_a_python_function_is_in_no_run(run: RunDirectory, small_data: Any) -> None:
    network = Sequential(Flatten(), Dense(), Elementwise(np.tanh), Dense())
    with pytest.raises(LayerError, match=r"memory: .*holds a Python function.*; or leave memory out"):
        KernelClassifier(network, memory=run.path).fit(small_data["x_train"], small_data["y_train"])


@pytest.fixture
def run(run_small: Callable[..., RunDirectory]) -> RunDirectory:
    """The small problem, not standardised, so that a user's arrays are its stored ones."""
    return run_small(data={"standardize": False})


@pytest.fixture
def small_data(small_npz: Path) -> Iterator[Any]:
    with np.load(small_npz) as file:
        yield file


def test_a_run_s_kernel_is_read_and_not_computed(
    run: RunDirectory, small_data: Any, passes: list[tuple[int, int]]
) -> None:
    x, y, new = small_data["x_train"], small_data["y_train"], small_data["x_test"]
    for readout in run.specification.readouts:
        network = read(readout.network, LAYERS)
        model = KernelClassifier(network, kind=readout.kind, ridge=0.1, memory=run.path)
        direct = KernelClassifier(network, kind=readout.kind, ridge=0.1).fit(x, y)
        np.testing.assert_allclose(model.fit(x, y).decision_function(new), direct.decision_function(new), atol=1e-5)
    cross_val_score(model, x, y, cv=3)
    assert passes == []
    model.predict(np.concatenate([new, new[:1] + 1]))  # a sample that the run does not have
    assert [pairs for _, pairs in passes] == [len(np.unique(x, axis=0))]


def test_a_run_whose_kernel_is_not_the_exact_one_of_this_version_is_no_memory(
    run: RunDirectory,
    run_small: Callable[..., RunDirectory],
    small_data: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: list[Any],
) -> None:
    pytest.importorskip("torch")
    x, y, network = small_data["x_train"], small_data["y_train"], presets.cntk(3, "gap")
    readouts = {"depths": [3], "poolings": ["gap"], "kinds": ["ntk"]}
    kernel, store = {"engine": "empirical", "width": 4}, {"path": str(tmp_path / "empirical")}
    finite = run_small(data={"standardize": False}, readouts=readouts, kernel=kernel, store=store)
    with pytest.raises(SpecificationMismatch, match=r"empirical cannot serve as memory: .*exact kernels.*'empirical'"):
        KernelClassifier(network, memory=finite.path).fit(x, y)
    monkeypatch.setattr(CpuEngine, "numerics_version", CpuEngine.numerics_version + 1)
    with pytest.raises(SpecificationMismatch, match=r"of numerics version .*Or give a folder as memory"):
        KernelClassifier(network, memory=run.path).fit(x, y)
    assert passes == []


def test_a_run_is_a_memory_for_other_names_of_its_dtype_and_from_home(
    run: RunDirectory, small_data: Any, passes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    readout, place = run.specification.readouts[0], Path(run.path).absolute()
    monkeypatch.setenv("HOME", str(place.parent))
    model = KernelClassifier(
        read(readout.network, LAYERS), kind=readout.kind, dtype=np.float32, memory=f"~/{place.name}"
    )
    model.fit(small_data["x_train"], small_data["y_train"])
    assert passes == []


def test_tiles_that_a_run_lacks_are_computed(run: RunDirectory, small_data: Any, passes: list[tuple[int, int]]) -> None:
    readout = run.specification.readouts[0]
    run.kernel(readout.name, "train").chunk_path(1, 0).unlink()
    x, y = small_data["x_train"], small_data["y_train"]
    model = KernelClassifier(read(readout.network, LAYERS), kind=readout.kind, ridge=0.1, memory=run.path).fit(x, y)
    direct = KernelClassifier(read(readout.network, LAYERS), kind=readout.kind, ridge=0.1).fit(x, y)
    np.testing.assert_allclose(model.dual_coef_, direct.dual_coef_, atol=1e-4)
    assert sum(pairs for _, pairs in passes) <= 16 * 16


def test_a_run_of_other_samples_or_options_is_no_memory(run: RunDirectory, small_data: Any) -> None:
    x, y = small_data["x_train"], small_data["y_train"]
    network = presets.cntk(3)
    for options, samples in (({"dtype": "float64"}, x), ({"flips": True}, x), ({}, x[:, 1:])):
        with pytest.raises(SpecificationMismatch, match=r"cannot serve as memory: it holds .*\(6, 5, 2\) in float32"):
            KernelClassifier(network, memory=run.path, **options).fit(samples, y)
    with pytest.raises(ValueError, match=r"is a run directory, which is only read: give another folder"):
        fill_memory(run.path, [network], x)
    assert kernel_matrix(network, x[:1]).shape == (1, 1)
