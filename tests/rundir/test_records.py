"""Whatever lies where a run directory has its records, commands end with a result or an error that says what to do."""

import contextlib
import json
import os
import random
import re
import signal
import stat
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore
from support import earlier_runs
from support.earlier_runs import NAMES, chunks, copied, put, records, said_of
from support.record_kinds import kinds
from support.restarts import forget
from typer.testing import CliRunner

from cntk_pipeline.cli import main as cli
from cntk_pipeline.errors import ForeignFile, PipelineError, StoreError
from cntk_pipeline.kernels import CpuEngine
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.journal import Journal, from_line, to_line
from cntk_pipeline.solvers import read_choice
from cntk_pipeline.storage import LocalPath, StorePath, objects, open_path
from cntk_pipeline.storage.records import RECORD_BYTES, Record, numbers
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

DEEP = b"[" * 100_000 + b"]" * 100_000

GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"3",
    b"{}",
    b'"x"',
    DEEP,
    b'{"a": ' + b"9" * 5000 + b"}",
    b"\xff",
    bytes(50),
    b'"\\ud800"',
]

JUNK = [None, True, -1, 10**30, 1.5, "x", "../../x", "²", [], [1], ["x"], {}, {"x": 1}]

TRIES = int(os.environ.get("CNTK_FUZZ", "1"))
"""How often whole directories are garbled, `make chaos` does so twenty times as often."""

COMMANDS = (["status"], ["inspect", "--all"], ["verify"], ["resume"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 600.0)
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    earlier_runs.unpack(folder)
    return folder


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """End what hangs: a pipe that is waited for, a device that is read for ever."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(*words: str) -> PipelineError | None:
    """Run a command of `cntk` in this process; return the error that would be shown, and raise any other."""
    forget()
    with within(30):
        result = CliRunner().invoke(cli.app, list(words))
    if result.exception is None or isinstance(result.exception, SystemExit):
        return None
    if not isinstance(result.exception, PipelineError):
        raise result.exception
    return result.exception


def require_no_other_number(run: Path, truth: dict[str, bytes], but: str = "") -> None:
    found = chunks(run)
    assert [name for name in found if name in truth and found[name] != truth[name] and name != but] == []


# Runs of earlier versions.


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_an_earlier_version_is_opened_verified_and_resumed_to_the_same_bits(
    whole: Path, tmp_path: Path, name: str
) -> None:
    truth, run = chunks(whole / name), copied(whole / name, tmp_path / name)
    found = json.loads(json.dumps(make_report(RunDirectory(str(run))).to_json()))
    assert (found.pop("engine"), found.pop("numerics_version")) == ({"name": "cpu", "options": {}}, 2)
    said = said_of(whole, name)
    # The version before showed the stages of a phase in one row, but for those of the kernel.
    rows = {stage["stage"]: stage for stage in said.pop("stages")}
    for stage in found["stages"]:
        if stage["phase"] == "kernel":
            assert {key: stage[key] for key in stage if key != "phase"} == rows[stage["stage"]]
    for phase in ("solve", "inference"):
        mine = [stage for stage in found["stages"] if stage["phase"] == phase]
        for key in ("done", "total", "seconds", "bytes"):
            assert sum(stage[key] for stage in mine) == pytest.approx(rows[phase][key])
    for result in said["trained"]:
        result["product"] = "ensemble"
    for solve in found["solves"]:  # and a learning curve counted training images alone
        for result in (result for result in solve["inferred"] if result["product"] == "learning_curve"):
            assert result["record"].pop("counted") == "training images"
    beside = (
        *("path", "openers", "lost_inputs", "stages", "executor", "predictions", "best"),
        *("lost_driver", "silent_seconds"),
    )
    assert {key: found[key] for key in found if key not in beside} == said
    found = runs.verify(str(run))
    count, bad = found.whole, found.bad
    assert (count > 20, bad) == (True, ())
    assert command("resume", "--verify", str(run)) is None
    assert chunks(run) == truth


@pytest.mark.slow
def test_no_tile_is_added_to_a_kernel_that_another_version_has_computed(whole: Path, tmp_path: Path) -> None:
    run = copied(whole / NAMES[0], tmp_path / "run")
    lost = next(path for path in sorted((run / "kernel.zarr").rglob("c/*/*")) if path.is_file())
    lost.unlink()
    before = chunks(run)
    said = str(command("resume", str(run)))
    assert "holds a kernel of numerics version 2, of which tiles are missing" in said
    assert "Finish it with the version that began it, or compute it anew in another --store" in said
    assert chunks(run) == before  # nor is the rest of the task set aside


# The reader.


def json_values() -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=5)
    return st.recursive(
        plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=8
    )


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the places of all fields."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


def changed(value: Any, place: tuple[Any, ...], new: Any, remove: bool = False) -> Any:
    """Copy a value with a field replaced, or removed."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    if remove:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds())
@settings(max_examples=60)
@given(data=st.data())
def test_a_reader_gives_a_valid_value_or_an_error_that_names_the_file(kind: str, data: st.DataObject) -> None:
    reader, valid = kinds()[kind]
    assert reader.parse(json.dumps(valid).encode(), "RUN/x.json")
    place = data.draw(st.sampled_from(list(places(valid))))
    other = data.draw(
        st.binary()
        | st.sampled_from(GARBAGE)
        | json_values().map(lambda value: json.dumps(value).encode())
        | json_values().map(lambda value: json.dumps(changed(valid, place, value)).encode())
        | st.just(json.dumps(changed(valid, place, None, remove=True)).encode())
    )
    said = "RUN/x.json "
    try:
        reader.parse(other, "RUN/x.json")
    except StoreError as error:
        said = str(error)
    assert said.startswith("RUN/x.json ")
    assert len(said) < 1000


def test_an_error_names_the_field_and_what_to_do() -> None:
    said = "timing.json is damaged (stages[0].wall_seconds: Input should be a valid number, got 'x'): delete it: only"
    reader, valid = kinds()["timing"]
    with pytest.raises(StoreError, match=re.escape(said)):
        reader.parse(json.dumps(changed(valid, ("stages", 0, "wall_seconds"), "x")).encode(), "timing.json")
    with pytest.raises(StoreError, match=r"has the field 'slots', which this cntk does not know: use the version that"):
        reader.parse(json.dumps(valid | {"slots": 3}).encode(), "timing.json")


@pytest.mark.slow
@settings(max_examples=200)
@given(st.floats(allow_nan=False) | st.floats(0, 1))
def test_numbers_are_read_as_python_wrote_them(value: float) -> None:
    (found,) = Record[Any](list[float], "").parse(json.dumps([value]).encode(), "x")
    assert (found, str(found)) == (value, str(value))


# What lies in the place of a file.


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("x")


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def elsewhere(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def nowhere(path: Path) -> None:
    path.symlink_to("/nonexistent/file")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(9 * 2**30)


STRANGE = (pipe, folder, endless, elsewhere, nowhere, huge)


def lay(path: Path, strange: Callable[[Path], None]) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    strange(path)


@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_no_file_of_ours_is_named_and_not_read(tmp_path: LocalPath, strange: Callable[[Path], None]) -> None:
    path = tmp_path / "record.json"
    lay(path, strange)
    with within(10):
        for read in (path.read_bytes, lambda limit: path.mapped(None, limit)):
            with pytest.raises(ForeignFile, match=r"record.json (is .* where a file belongs|has more than)"):
                read(RECORD_BYTES)
        if strange is not huge:
            assert (path.is_file(), path.size(), path.exists()) == (False, None, True)
            with pytest.raises(ForeignFile, match=r"record.json is .* where a file belongs: move it away"):
                path.read_from(0, 1)


def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"x" * 100)
    # It was small when it was looked at.
    monkeypatch.setattr("cntk_pipeline.storage.local._require_file", lambda *_: None)
    assert path.read_bytes(100) == b"x" * 100
    with pytest.raises(ForeignFile, match="has more than the 99 bytes that belong there"):
        path.read_bytes(99)


def test_an_object_that_is_too_large_is_named_and_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(objects, "_open_bucket", lambda *_: store)
    path: StorePath = open_path("s3://bucket/large/record.json")
    path.write_whole(b"x" * 100)
    assert path.read_bytes(100) == b"x" * 100
    for read in (path.read_bytes, lambda limit: path.mapped(None, limit)):
        with pytest.raises(ForeignFile, match="has more than the 99 bytes that belong there"):
            read(99)


PLACES = [
    "run.json",
    "workflow.json",
    "timing.json",
    "growth.json",
    "ending.json",
    "stop-requested",
    "submissions/000001.json",
    "lease/000001.json",
    "lease/000009.json",
    "journal/000001.jsonl",
    "journal/000009.jsonl",
    "kernel.zarr/zarr.json",
    "inputs.zarr/train_images/zarr.json",
    "inputs.zarr/train_images/c/0/0/0/0",
    "inputs.zarr/test_labels/c/0",
    "solve/004ded2cf00a6370/solve.json",
    "solve/004ded2cf00a6370/iterations.json",
    "solve/004ded2cf00a6370/metrics.json",
    "solve/004ded2cf00a6370/inference/spectrum-3.json",
]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_no_command_hangs_on_what_lies_in_the_place_of_a_record(whole: Path, tmp_path: Path, place: str) -> None:
    truth = chunks(whole / "iterated")
    for number, strange in enumerate(STRANGE):
        run = copied(whole / "iterated", tmp_path / "run")
        lay(run / place, strange)
        error = command(*COMMANDS[(number + len(place)) % len(COMMANDS)], str(run))
        assert error is None or str(run) in str(error)
        require_no_other_number(run, truth, place)


@pytest.mark.slow
@pytest.mark.parametrize("strange", STRANGE)
def test_a_strange_chunk_is_a_bad_one_set_aside_and_computed_again(
    whole: Path, tmp_path: Path, strange: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuEngine, "numerics_version", 2)  # which began it; these pairs have the same bits in this one
    truth = chunks(whole / "factored")
    rng = random.Random(strange.__name__)
    chosen = rng.sample([name for name in truth if "inputs" not in name and "ridge_path" not in name], 3)
    run = copied(whole / "factored", tmp_path / "run")
    for name in chosen:
        lay(run / name, strange)
    with within(30):
        make_report(RunDirectory(str(run)))
        bad = runs.verify(str(run)).bad
    assert 1 <= len(bad) <= len(chosen)
    assert not any((run / name).exists() or (run / name).is_symlink() for name in chosen)
    assert len(list((run / "quarantine").iterdir())) == len(bad)
    for name in chosen:
        lay(run / name, strange)
    assert command("resume", str(run)) is None
    assert chunks(run).keys() == truth.keys()
    assert stat.S_ISREG((run / chosen[0]).lstat().st_mode)
    assert make_report(RunDirectory(str(run))).complete


@pytest.mark.slow
@pytest.mark.parametrize("place", ["solve", "journal", "lease", "kernel.zarr", "submissions", "quarantine", "log"])
def test_a_file_in_the_place_of_a_folder_is_named(whole: Path, tmp_path: Path, place: str) -> None:
    for words in COMMANDS:
        run = copied(whole / "iterated", tmp_path / "run")
        (run / place).rename(run / "aside") if (run / place).exists() else None
        (run / place).write_bytes(b"x")
        error = command(*words, str(run))
        assert error is None or place in str(error)


# Names of files.


@pytest.mark.parametrize(
    "name", ["²²²²²².json", "٣٣٣٣٣٣.json", "-00001.json", "0000001.json", "1e5.json", "9" * 200 + ".json"]
)
def test_only_names_that_this_package_writes_are_numbers(tmp_path: LocalPath, name: str) -> None:
    (tmp_path / "000007.json").write_bytes(b"{}")
    (tmp_path / name).write_bytes(b"{}")
    assert numbers(tmp_path, ".json") == [7]


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["²²²²²²", "٣٣٣٣٣٣", "9" * 200])
def test_a_strange_name_in_lease_and_journal_stops_nobody(whole: Path, tmp_path: Path, stem: str) -> None:
    run = copied(whole / "factored", tmp_path / "run")
    (run / "lease" / f"{stem}.json").write_text("{}")
    (run / "journal" / f"{stem}.jsonl").write_text("")
    for words in COMMANDS:
        assert command(*words, str(run)) is None


def test_a_lease_of_an_impossible_number_is_named(tmp_path: LocalPath) -> None:
    put(tmp_path / "999999999999999.json", b'{"released": true}')
    with (
        pytest.raises(StoreError, match=r"999999999999999.json has a number that no lease comes to: delete that file"),
        lease.hold(tmp_path),
    ):
        pass


@pytest.mark.parametrize("pid", [-1, 0, 2**31, 10**30, "1", 1.5, True])
def test_the_process_of_a_lease_is_asked_for_only_where_it_may_be_one(tmp_path: LocalPath, pid: Any) -> None:
    here = {"host": os.uname().nodename, "processes": lease._process_namespace(), "pid": pid}
    put(tmp_path / "000001.json", json.dumps(here).encode())
    assert lease.holder(tmp_path) is None
    with lease.hold(tmp_path):
        assert numbers(tmp_path, ".json") == [2]


# The journal.


def signed(text: bytes) -> bytes:
    return text + b"\t%08x\n" % google_crc32c.value(text)


RECEIPT = Receipt(Task(Stage("train"), 1, 0), (Chunk("train", 1028, 77, "ab"),), 0.1, 2.0, 0.3, "host")


@pytest.mark.slow
@given(st.binary() | st.sampled_from(GARBAGE) | json_values().map(lambda value: json.dumps(value).encode()))
def test_a_line_with_a_true_checksum_is_a_receipt_or_an_error(text: bytes) -> None:
    with contextlib.suppress(StoreError):
        assert isinstance(from_line(signed(text)), Receipt | None)


FIELDS = list(places(json.loads(to_line(RECEIPT).partition(b"\t")[0])))


@pytest.mark.slow
@given(st.sampled_from(FIELDS), st.sampled_from(JUNK) | json_values(), st.booleans())
def test_a_receipt_with_a_field_replaced_is_valid_or_an_error(place: tuple[Any, ...], value: Any, remove: bool) -> None:
    valid = json.loads(to_line(RECEIPT).partition(b"\t")[0])
    line = signed(json.dumps(changed(valid, place, value, remove)).encode())
    try:
        receipt = from_line(line)
    except StoreError:
        return
    assert receipt is not None
    assert receipt.seconds < 1e13
    assert 0 <= receipt.task.row < 2**31


def test_a_line_of_another_shape_is_an_error_that_names_its_place(tmp_path: LocalPath) -> None:
    good = to_line(RECEIPT)
    put(tmp_path / "000001.jsonl", good + signed(b'{"stage": "train"}') + good)
    with pytest.raises(StoreError, match=rf"000001.jsonl, the line at byte {len(good)}, .*move that file away"):
        list(Journal(tmp_path).receipts())


@pytest.mark.parametrize("damage", [b"\r", b"\x0b", b"\x85", b"\x00", DEEP])
def test_a_damaged_line_hides_none_behind_it(tmp_path: LocalPath, damage: bytes) -> None:
    lines = [to_line(Receipt(Task(Stage("train"), row, 0), ())) for row in range(3)]
    put(tmp_path / "000001.jsonl", lines[0] + lines[1][:10] + damage + lines[1][11:] + lines[2])
    journal = Journal(tmp_path)
    assert [receipt.task.row for receipt in journal.receipts()] == [0, 2]
    with open(tmp_path / "000001.jsonl", "ab") as file:
        file.write(lines[1] + lines[1][:10])
    assert [receipt.task.row for receipt in journal.receipts()] == [0, 2, 1]


@given(st.binary(max_size=300))
def test_a_segment_of_any_bytes_holds_no_receipt(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = LocalPath(tmp_path_factory.getbasetemp() / "bytes")
    folder.mkdir(exist_ok=True)
    put(folder / "000001.jsonl", content + b"\n" + to_line(RECEIPT))
    assert list(Journal(folder).receipts()) == [RECEIPT]


def test_a_segment_is_read_in_blocks_wherever_they_cut_it(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = [Receipt(Task(Stage("train"), row, 0), ()) for row in range(20)]
    put(tmp_path / "000001.jsonl", b"".join(to_line(receipt) for receipt in receipts))
    for size in (1, 7, 100, 1000):
        monkeypatch.setattr("cntk_pipeline.rundir.journal.BLOCK_BYTES", size)
        assert list(Journal(tmp_path).receipts()) == receipts


def test_a_line_without_an_end_is_not_read_for_ever(tmp_path: LocalPath) -> None:
    huge(tmp_path / "000001.jsonl")
    with within(20), pytest.raises(StoreError, match=r"000001.jsonl has a line of more than .* bytes"):
        list(Journal(tmp_path).receipts())


# Whole directories.


@pytest.mark.slow
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_commands_bear_any_record_that_is_garbage(whole: Path, tmp_path: Path, garbage: bytes) -> None:
    rng = random.Random(garbage)
    for name in NAMES:
        truth = chunks(whole / name)
        for place in rng.choices(records(whole / name), k=5 * TRIES):
            run = copied(whole / name, tmp_path / "run")
            put(run / place, garbage)
            error = command(*rng.choices(COMMANDS, [6, 2, 1, 1])[0], str(run))
            assert error is None or str(run) in str(error)
            require_no_other_number(run, truth)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_commands_bear_any_record_with_a_field_replaced_or_removed(whole: Path, tmp_path: Path, name: str) -> None:
    rng, truth = random.Random(name), chunks(whole / name)
    for record in records(whole / name):
        if not record.endswith(".json"):
            continue
        valid = json.loads((whole / name / record).read_text())
        # Where to compute is not tried: a workflow may name another machine.
        fields = [place for place in places(valid) if record != "workflow.json" or place[0] != "cluster"]
        for place in rng.choices(fields, k=TRIES) if fields else ():
            run = copied(whole / name, tmp_path / "run")
            put(run / record, json.dumps(changed(valid, place, rng.choice(JUNK), rng.random() < 0.3)).encode())
            command(*rng.choices(COMMANDS, [6, 4, 1, 1])[0], str(run))
            require_no_other_number(run, truth)


def test_a_workflow_of_a_run_that_names_no_known_cluster_is_refused(whole: Path, tmp_path: Path) -> None:
    run = copied(whole / "iterated", tmp_path / "run")
    record = json.loads((run / "workflow.json").read_text())
    put(run / "workflow.json", json.dumps(changed(record, ("cluster", "kind"), "nothing")).encode())
    assert command("resume", str(run)) is None  # nothing is left to do
    for metrics in (run / "solve").glob("*/metrics.json"):
        metrics.unlink()
    said = str(command("resume", str(run)))
    assert f"{run}/workflow.json:\n  unknown cluster.kind 'nothing': known are" in said
    assert "delete it, then `cntk run`" in said
    command("status", str(run))


@pytest.mark.parametrize("key", ["solver", "factor_dtype", "ridge_mode"])
def test_a_workflow_of_a_run_with_an_unknown_value_is_named_with_what_to_do(
    whole: Path, tmp_path: Path, key: str
) -> None:
    run = copied(whole / "factored", tmp_path / "run")
    record = json.loads((run / "workflow.json").read_text())
    put(run / "workflow.json", json.dumps(record | {"solve": record["solve"] | {key: "float36"}}).encode())
    for name in ("resume", "status", "verify"):
        said = str(command(name, str(run)))
        assert said.startswith(f"{run}/workflow.json:\n")
        assert f"solve.{key}" in said
        assert said.endswith("delete it, then `cntk run` with the workflow file writes it anew")


def test_a_solve_is_of_the_system_that_its_folder_is_named_by(whole: Path, tmp_path: Path) -> None:
    run = copied(whole / "factored", tmp_path / "run")
    opened = RunDirectory(str(run))
    solves = opened.solves()
    assert len(solves) == 5
    for name, record in solves.items():
        keys = set(record) - {"max_iterations", "candidates"}
        assert {"readout", "ridge"} <= keys
        for key in keys:
            other = "other" if isinstance(record[key], str) else 0.125 if isinstance(record[key], float) else 7
            path = run / "solve" / name / "solve.json"
            before = path.read_bytes()
            put(path, json.dumps(record | {key: other}).encode())
            with pytest.raises(StoreError, match=r"solve.json (was edited|is damaged)"):
                opened.solve_record(name)
            put(path, before)


def test_the_chosen_ridge_is_that_of_the_smallest_error(whole: Path, tmp_path: Path) -> None:
    run = copied(whole / "factored", tmp_path / "run")
    paths = list(run.glob("solve/*/ridge_path.json"))
    assert len(paths) == 2
    for path in paths:
        record = json.loads(path.read_text())
        others = set(record["ridges"]) - {record["chosen"]}
        assert others
        for ridge in others:
            put(path, json.dumps(record | {"chosen": ridge}).encode())
            error = command("status", str(run))
            assert error is not None
            assert f"{ridge!r} is not the ridge of the smallest error" in str(error)
        put(path, json.dumps(record).encode())


@pytest.mark.parametrize("change", [{"shape": [4]}, {"data_type": "float64", "fill_value": "NaN"}])
def test_a_data_set_of_another_shape_or_type_is_refused(whole: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    run = copied(whole / "factored", tmp_path / "run")
    path = run / "inputs.zarr" / "test_labels" / "zarr.json"
    put(path, json.dumps(json.loads(path.read_text()) | change).encode())
    with pytest.raises(StoreError, match=r"test_labels has the shape .*restore inputs.zarr from a copy"):
        RunDirectory(str(run)).inputs("test_labels")


def test_a_damaged_chunk_of_the_data_set_says_that_it_must_be_restored(whole: Path, tmp_path: Path) -> None:
    run = copied(whole / "factored", tmp_path / "run")
    path = run / "inputs.zarr" / "train_labels" / "c" / "0"
    put(path, bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(StoreError, match=r"train_labels/c/0 does not match .*restore inputs.zarr from a copy"):
        RunDirectory(str(run)).inputs("train_labels")[:]


def test_the_choice_is_read_as_a_value(whole: Path) -> None:
    run = RunDirectory(str(whole / "factored"))
    report = make_report(run)
    assert [path.record.chosen for path in report.ridge_paths if path.record] == [0.1, 0.1]
    assert read_choice(run, {"ridge": "none"}) is None
