import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import ConfigError, CorruptTile, RunNotFound, SpecificationMismatch, StoreError
from pipeline.store import ArraySpec, RunDirectory, TiledArray, create_arrays, differences, fingerprint

SPECIFICATION = {"data": {"train": 10, "test": 4}, "tile": 4, "dtype": "float32", "readouts": []}


@pytest.fixture
def matrix(tmp_path: Path) -> TiledArray:
    create_arrays(tmp_path / "group.zarr", [ArraySpec("k", (10, 7), (4, 4), "float32", ("row", "col"))], {})
    return TiledArray(tmp_path / "group.zarr" / "k")


def fill(matrix: TiledArray) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(matrix.shape).astype(matrix.dtype)
    for index in np.ndindex(3, 2):
        (r0, r1), (c0, c1) = (matrix.cut(axis).bounds(k) for axis, k in enumerate(index))
        matrix.write(index, values[r0:r1, c0:c1])
    return values


def test_zarr_reads_what_is_written_tile_by_tile(matrix: TiledArray) -> None:
    values = fill(matrix)
    np.testing.assert_array_equal(zarr.open_array(matrix.path, mode="r")[:], values)


def test_an_unwritten_tile_reads_as_nan_in_zarr_and_is_an_error_here(matrix: TiledArray) -> None:
    assert np.isnan(zarr.open_array(matrix.path, mode="r")[:]).all()
    with pytest.raises(CorruptTile, match="is missing"):
        matrix.read(0, 0)


def test_any_rectangle_is_read_from_its_tiles(matrix: TiledArray) -> None:
    values = fill(matrix)
    np.testing.assert_array_equal(matrix.read_region((3, 9), (1, 7)), values[3:9, 1:7])


def test_a_symmetric_matrix_is_read_from_its_lower_tiles(tmp_path: Path) -> None:
    create_arrays(tmp_path / "g", [ArraySpec("k", (10, 10), (4, 4), "float64", ("row", "col"))], {})
    matrix = TiledArray(tmp_path / "g" / "k")
    values = np.random.default_rng(0).standard_normal((10, 10))
    values += values.T
    for row, col in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)):
        matrix.write((row, col), values[4 * row : 4 * row + 4, 4 * col : 4 * col + 4])
    np.testing.assert_array_equal(matrix.read_region((0, 10), (0, 10), symmetric=True), values)


def test_every_flipped_bit_is_found(matrix: TiledArray) -> None:
    fill(matrix)
    path = matrix.chunk_path(1, 1)
    content = path.read_bytes()
    for position in np.random.default_rng(1).integers(0, 8 * len(content), 200):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(CorruptTile, match="does not match its checksum"):
            matrix.read(1, 1)


@pytest.mark.parametrize("keep", [0, 1, 40, 67])
def test_a_chunk_cut_short_is_found(matrix: TiledArray, keep: int) -> None:
    fill(matrix)
    path = matrix.chunk_path(2, 0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptTile, match=rf"has {keep} bytes, expected 68: it was cut short"):
        matrix.read(2, 0)


def test_a_tile_of_zeros_is_stored_like_any_other(matrix: TiledArray) -> None:
    matrix.write((0, 0), np.zeros((4, 4), np.float32))
    np.testing.assert_array_equal(matrix.read(0, 0), 0)


def test_a_write_that_fails_leaves_no_trace(matrix: TiledArray, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.store.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        matrix.write((0, 0), np.zeros((4, 4), np.float32))
    assert list(matrix.path.rglob("*partial*")) == []
    assert not matrix.chunk_path(0, 0).exists()


def test_an_array_that_is_no_array_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no readable zarr array"):
        TiledArray(tmp_path)


def test_an_array_with_other_codecs_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(4,), chunks=(4,), dtype="float32")
    with pytest.raises(StoreError, match="expected bytes and crc32c"):
        TiledArray(tmp_path / "a")


def test_a_directory_without_a_run_is_said_to_hold_none(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=r"holds no run \(no run.json\)"):
        RunDirectory(tmp_path)


def test_a_run_of_the_same_specification_is_opened(tmp_path: Path) -> None:
    first = RunDirectory.create(tmp_path, SPECIFICATION, {"made": 1})
    again = RunDirectory.create(tmp_path, SPECIFICATION, {"made": 2})
    assert (again.fingerprint, again.provenance) == (first.fingerprint, {"made": 1})


def test_another_specification_is_refused_with_the_differences(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, SPECIFICATION, {})
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(SpecificationMismatch, match=r"(?s)data.train: stored 10, wanted 11.*Give another --store"):
        RunDirectory.create(tmp_path, SPECIFICATION | {"data": {"train": 11, "test": 4}}, {})
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, SPECIFICATION, {})
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(StoreError, match="has format version 99, this cntk knows 1"):
        RunDirectory(tmp_path)


def test_an_edited_specification_is_refused(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, SPECIFICATION, {})
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"tile": 4', '"tile": 8'))
    with pytest.raises(StoreError, match="was edited"):
        RunDirectory(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1'])
def test_a_damaged_run_record_is_named_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"run.json is damaged"):
        RunDirectory(tmp_path)
    assert (tmp_path / "run.json").read_text() == text


def test_a_solve_is_named_by_digits_only(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    with pytest.raises(ConfigError, match="16 hexadecimal digits"):
        run.solve_path("../../elsewhere")


def test_differences_name_the_place() -> None:
    stored, wanted = {"a": [{"b": 1}, 2], "c": 3}, {"a": [{"b": 5}, 2], "d": 4}
    assert differences(stored, wanted) == [
        "  a[0].b: stored 1, wanted 5",
        "  c: stored 3, wanted None",
        "  d: stored None, wanted 4",
    ]


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_inputs_are_written_once_and_whole(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    images = np.zeros((10, 3, 3, 1), np.float32)  # all-zero chunks must exist too
    run.write_inputs({"train_images": images, "train_labels": np.arange(10)}, {"note": 1})
    np.testing.assert_array_equal(run.inputs("train_images")[2:5], images[2:5])
    np.testing.assert_array_equal(run.inputs("train_labels")[:], np.arange(10))
    assert run.inputs("train_images").metadata.dimension_names == ("train", "height", "width", "channel")
    assert list(tmp_path.glob("*.partial")) == []


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    (tmp_path / "x.partial").write_text("half")
    (tmp_path / "group.zarr.abc.partial").mkdir()
    (tmp_path / "group.zarr.abc.partial" / "zarr.json").write_text("{}")
    assert run.sweep() == 2
    assert run.sweep() == 0
