import errno
import json
import os
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from obstore.store import MemoryStore
from support.problems import SPECIFICATION

from cntk_pipeline.config import parse_config
from cntk_pipeline.datasets import Standardization
from cntk_pipeline.errors import ConfigError, RunNotFound, SpecificationMismatch, StoreError
from cntk_pipeline.models import Json
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.code import in_absolute_places
from cntk_pipeline.rundir.directory import RunDirectory, holds_run
from cntk_pipeline.rundir.preprocessing import Preprocessing, find_preprocessing
from cntk_pipeline.rundir.specification import differences, fingerprint
from cntk_pipeline.rundir.submissions import write_ending
from cntk_pipeline.storage import LocalPath, objects, open_path
from cntk_pipeline.storage.records import RECORD_BYTES
from cntk_pipeline.storage.tiled_array import ArraySpec, Group


def test_a_directory_without_a_run_is_said_to_hold_none(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=r"holds no run \(no run.json\)"):
        RunDirectory(tmp_path)


def test_a_run_of_the_same_specification_is_opened(tmp_path: Path) -> None:
    first = RunDirectory.create(tmp_path, SPECIFICATION, {"host": "one"})
    again = RunDirectory.create(tmp_path, SPECIFICATION, {"host": "other"})
    assert (again.fingerprint, again.provenance.host) == (first.fingerprint, "one")


def test_a_run_whose_creation_was_stopped_at_its_name_is_created(tmp_path: Path) -> None:
    """Where files cannot be linked, a name is claimed by an empty file; a driver may be killed before it fills it."""
    (tmp_path / "run.json").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.link", refuse)
        patch.setattr("cntk_pipeline.storage.lacking.CLAIM_SECONDS", 0.05)
        assert RunDirectory.create(tmp_path, SPECIFICATION, {"host": "there"}).provenance.host == "there"


def test_a_folder_whose_run_was_stopped_at_its_name_holds_none_yet(tmp_path: Path) -> None:
    assert not holds_run(LocalPath(tmp_path))
    (tmp_path / "run.json").touch()
    assert not holds_run(LocalPath(tmp_path))
    with pytest.raises(RunNotFound, match=r"its run.json is empty: start it again with `cntk run`"):
        RunDirectory(tmp_path)
    (tmp_path / "inputs.zarr").mkdir()
    with pytest.raises(RunNotFound, match=r"has lost its run.json, .*: restore it from a copy"):
        RunDirectory(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").symlink_to(tmp_path / "away")
    assert holds_run(LocalPath(tmp_path))
    with pytest.raises(StoreError, match=r"run.json is a link"):
        RunDirectory(tmp_path)


def refuse(_: Path, target: Path) -> None:
    """Link as Linux does where there are no links: whether the name exists is asked first."""
    code = errno.EEXIST if target.exists() else errno.EPERM
    raise OSError(code, os.strerror(code))


def test_another_specification_is_refused_with_the_differences(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, SPECIFICATION, {})
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(SpecificationMismatch, match=r"(?s)data.train: stored 10, wanted 11.*Give another --store"):
        RunDirectory.create(tmp_path, replace(SPECIFICATION, data=replace(SPECIFICATION.data, train=11)), {})
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, SPECIFICATION, {})
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(StoreError, match="has format version 99, this cntk knows 2"):
        RunDirectory(tmp_path)


def test_an_edited_specification_is_refused(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, SPECIFICATION, {})
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"tile": 4', '"tile": 8'))
    with pytest.raises(StoreError, match="was edited"):
        RunDirectory(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 1'])
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
    assert differences(stored, wanted) == ["  a[0].b: stored 1, wanted 5", "  c: only stored", "  d: only wanted"]


def test_differences_match_parts_by_name_and_stay_short() -> None:
    layers = [{"layer": "Conv", "w_std": 1.0}] * 30
    stored = {"readouts": [{"name": "deep", "network": layers}, {"name": "gap", "kind": "ntk"}]}
    wanted = {"readouts": [{"name": "gap", "kind": "nngp"}, {"name": "deep", "network": layers[:3]}, {"name": "new"}]}
    lines = differences(stored, wanted)
    assert [line.partition(": ")[0].strip() for line in lines] == [
        "readouts.deep.network",
        "readouts.gap.kind",
        "readouts.new",
    ]
    assert max(map(len, lines)) < 400


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_inputs_are_written_once_and_whole(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    images = np.zeros((10, 3, 3, 1), np.float32)  # all-zero chunks must exist too
    run.stored_data.write({"train_images": images, "train_labels": np.arange(10)})
    np.testing.assert_array_equal(run.inputs("train_images")[2:5], images[2:5])
    np.testing.assert_array_equal(run.inputs("train_labels")[:], np.arange(10))
    stored = zarr.open_array(str(run.inputs_path), path="train_images", mode="r")
    np.testing.assert_array_equal(stored[2:5], images[2:5])
    assert stored.metadata.dimension_names == ("train", "height", "width", "channel")
    assert list(tmp_path.glob("*.partial")) == []


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    aside = f"{uuid.uuid4().hex}.partial"
    (tmp_path / f"workflow.json.{aside}").write_text("half")
    (tmp_path / f"inputs.zarr.{aside}").mkdir()
    (tmp_path / f"inputs.zarr.{aside}" / "zarr.json").write_text("{}")
    (tmp_path / "kernel.zarr/deep/train/c/0").mkdir(parents=True)
    (tmp_path / f"kernel.zarr/deep/train/c/0/1.{aside}").write_bytes(b"half")
    assert run.sweep() == 3
    assert run.sweep() == 0


def test_nothing_of_others_is_swept(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    aside = f"{uuid.uuid4().hex}.partial"
    kept = [
        *(tmp_path / name for name in ("film.mkv.partial", "film.mkv.0123abcd.partial", ".partial")),
        *(tmp_path / f"kernel.zarr/{name}" for name in ("1.partial", f"{aside}")),
        *(tmp_path / f"mine/{name}" for name in (f"run.json.{aside}", f"big.{aside}/film.mkv")),
    ]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    assert run.sweep() == 0
    assert all(path.read_bytes() == b"mine" for path in kept)


@pytest.mark.parametrize("name", ["film.mkv", ".git/config", "workflow.json", "kernel.zarr/zarr.json", "x.partial"])
def test_no_run_begins_among_files_of_others(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"{tmp_path.name} is in use: it holds {name.partition('/')[0]}, and no run"):
        RunDirectory.create(tmp_path, SPECIFICATION, {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_no_run_begins_inside_another(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", SPECIFICATION, {})
    with pytest.raises(ConfigError, match=r"run/below/it lies inside the run .*/run: give --store a place beside it"):
        RunDirectory.create(tmp_path / "run/below/it", SPECIFICATION, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other/run.json").write_text('{"mine": 1}')
    RunDirectory.create(tmp_path / "other/below", SPECIFICATION, {})


def test_a_place_is_where_it_leads_to_not_what_its_name_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path / "run", SPECIFICATION, {})
    (tmp_path / "run/below").mkdir()
    monkeypatch.chdir(tmp_path / "run/below")
    assert RunDirectory.create("../../new", SPECIFICATION, {}).fingerprint == run.fingerprint
    (tmp_path / "link").symlink_to(tmp_path / "run/below")
    with pytest.raises(ConfigError, match=rf"link/it lies inside the run {tmp_path}/run: give --store a place beside"):
        RunDirectory.create(tmp_path / "link/it", SPECIFICATION, {})
    assert not list((tmp_path / "run/below").iterdir())


def test_nothing_is_recorded_where_another_run_lies_by_now(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", SPECIFICATION, {})
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is gone: bring it back"):
        run.write_record("timing.json", {})
    RunDirectory.create(tmp_path / "run", replace(SPECIFICATION, tile=8), {})
    for write in (run.write_record, run.create_record):
        with pytest.raises(SpecificationMismatch, match="holds another run by now"):
            write("timing.json", {})
    write_ending(run, "why it ended", None)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_run_begins_where_one_was_taken_back_or_never_came_to_be(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / f"run.json.{uuid.uuid4().hex}.partial").write_text("half")
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    with lease.hold(run.lease_path):
        run.retract()
    assert not (tmp_path / "run.json").exists()
    RunDirectory.create(tmp_path, SPECIFICATION, {})


def test_nothing_is_taken_back_of_a_run_that_was_there(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, SPECIFICATION, {})
    RunDirectory.create(tmp_path, SPECIFICATION, {}).retract()
    RunDirectory(tmp_path).retract()
    assert (tmp_path / "run.json").exists()


@pytest.mark.parametrize("sign", ["journal", "solve", "kernel.zarr", "test_kernel.zarr"])
def test_nothing_is_taken_back_once_something_is_computed(tmp_path: Path, sign: str) -> None:
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    (tmp_path / sign).mkdir()
    run.retract()
    assert (tmp_path / "run.json").exists()


def test_an_array_behind_a_link_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", SPECIFICATION, {})
    Group(tmp_path / "elsewhere.zarr", (ArraySpec("deep/train", (4, 4), (2, 2), "float32", ("a", "b")),), {}).create()
    (tmp_path / "run" / "kernel.zarr").symlink_to(tmp_path / "elsewhere.zarr")
    with pytest.raises(StoreError, match=r"is or lies behind a link that leads out of the run directory"):
        run.kernel("deep", "train")


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden"])
def test_names_that_would_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"run.json names a read-out .*, which is no name: restore it"):
        RunDirectory.create(
            tmp_path / "named", replace(SPECIFICATION, readouts=(replace(SPECIFICATION.readouts[0], name=name),)), {}
        )
    run = RunDirectory.create(tmp_path / "run", SPECIFICATION, {})
    with pytest.raises(StoreError, match=r"is no name of a result of inference"):
        run.inferred_path("0" * 16, name)


def test_a_run_whose_record_nothing_could_read_is_not_begun(tmp_path: Path) -> None:
    data = replace(SPECIFICATION.data, features=("x" * 2**24,))
    with pytest.raises(ConfigError, match=r"run.json would have .* bytes, of at most 16,777,216: .* 1 features and 2"):
        RunDirectory.create(tmp_path, replace(SPECIFICATION, data=data), {})
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_nothing_could_read_is_not_written(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    with pytest.raises(StoreError, match=r"some.json would have .* bytes, of at most 16,777,216, and nothing could"):
        run.write_record("some.json", {"x": "y" * 2**24})
    assert not (tmp_path / "some.json").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"source": "npy", "path": "x.npy", "labels": "y.npy"}, {"path": "{here}/x.npy", "labels": "{here}/y.npy"}),
        (
            {"source": "table", "path": "/a/x.csv", "test_path": "t.csv"},
            {"path": "/a/x.csv", "test_path": "{here}/t.csv"},
        ),
        ({"source": "sklearn", "path": "iris"}, {"path": "iris"}),
        ({"source": "digits"}, {"path": None}),
    ],
)
def test_files_of_data_are_named_from_the_root_on_and_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Json, expected: Json
) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse_config({"data": given, "network": {"preset": "fully_connected"}}, "test")
    data = in_absolute_places(config).data
    found = {"path": data.path} | {key: data.options[key] for key in expected if key != "path"}
    assert found == {key: value and value.format(here=tmp_path) for key, value in expected.items()}
    assert data.model_dump() == config.data.model_dump() | found


def test_a_workflow_without_a_file_of_data_is_read_from_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(objects, "_open_bucket", lambda *_: store)
    run = RunDirectory.create(open_path("s3://bucket/run"), SPECIFICATION, {})
    config = parse_config({"data": {"source": "digits"}, "network": {"preset": "fully_connected"}}, "test")
    run.write_workflow(config, "")
    assert run.workflow() == config


@pytest.mark.slow
def test_the_constants_of_many_features_are_read_again(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, SPECIFICATION, {})
    mean = tuple(np.random.default_rng(0).random(350_000).tolist())
    Preprocessing("float", Standardization(mean, mean)).write(run)
    assert (run.path / "preprocessing.json").size() > RECORD_BYTES
    found = find_preprocessing(run)
    assert found is not None
    assert found.standardization == Standardization(mean, mean)
