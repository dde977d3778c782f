"""A workflow is run from scripts, threads and event loops, with arrays in memory, as the command runs it."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.foreign_handler import run_beside_it
from support.problems import TEST, TRAIN, Recorder, require_same, toml

import cntk_pipeline
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, DataError, Interrupted, SpecificationMismatch
from cntk_pipeline.interactive import running
from cntk_pipeline.opened import open_run
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

TABLES: dict[str, Any] = {
    "name": "small",
    "network": {"preset": "cntk"},
    "readouts": {"depths": [3], "poolings": ["flatten", "gap"], "kinds": ["ntk", "nngp"]},
    "kernel": {"tile": 16},
    "solve": {"ridges": [1e-2]},
    "cluster": {"kind": "serial"},
}


@pytest.fixture
def arrays(small_npz: Path) -> dict[str, np.ndarray]:
    with np.load(small_npz) as found:
        return dict(found)


@pytest.mark.parametrize("form", ["file", "dictionary", "model"])
def test_a_workflow_in_any_form_gives_the_run_of_the_command(
    run_small: Run, small_config: Config, small_npz: Path, tmp_path: Path, form: str
) -> None:
    expected = run_small()
    tables = TABLES | {"data": {"source": "npz", "path": str(small_npz)}}
    (tmp_path / "small.toml").write_text(toml(tables))
    forms = {"file": tmp_path / "small.toml", "dictionary": tables, "model": small_config()}
    run = cntk_pipeline.run(forms[form], progress=False, store__path=tmp_path / "other")
    assert str(run.path) == str(tmp_path / "other")
    assert run.directory.fingerprint == expected.fingerprint
    require_same(run.directory, expected)
    assert "store" not in tables  # what was given is not changed


def test_arrays_in_memory_are_the_data(run_small: Run, tmp_path: Path, arrays: dict) -> None:
    expected = run_small()
    run = cntk_pipeline.run(TABLES, data=arrays, progress=False, store__path=tmp_path / "arrays")
    assert run.directory.fingerprint == expected.fingerprint
    require_same(run.directory, expected)
    np.testing.assert_array_equal(
        run.decision_function(arrays["x_test"], "depth3-gap-ntk", say=None), run.predictions("depth3-gap-ntk")
    )
    again = cntk_pipeline.run(TABLES, data=arrays, progress=False, store__path=tmp_path / "arrays")
    assert len(list((tmp_path / "arrays" / "arrays").iterdir())) == 1
    assert again.is_complete
    # A damaged chunk of the images is written anew from what was given.
    (run.directory.inputs_path / "train_images/c/0/0/0/0").unlink()
    (run.path / "kernel.zarr/depth3-gap-ntk/train/c/0/0").unlink()
    runs.resume(run.path, Recorder(), threading.Event())
    require_same(run.directory, expected)


def test_arrays_are_found_again_where_the_run_was_moved(tmp_path: Path, arrays: dict) -> None:
    run = cntk_pipeline.run(TABLES, data=arrays, progress=False, store__path=tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / "m2")
    chunk = tmp_path / "m2/inputs.zarr/train_images/c/0/0/0/0"
    before = chunk.read_bytes()
    chunk.unlink()
    runs.resume(tmp_path / "m2", Recorder(), threading.Event())
    assert chunk.read_bytes() == before
    assert open_run(tmp_path / "m2").is_complete
    assert not run.path.exists()


def test_a_damaged_archive_of_arrays_is_written_anew_and_halves_are_swept(tmp_path: Path, arrays: dict) -> None:
    place = {"progress": False, "store__path": tmp_path / "run"}
    cntk_pipeline.run(TABLES, data=arrays, **place)
    (archive,) = (tmp_path / "run/arrays").iterdir()
    before = archive.read_bytes()
    archive.write_bytes(before[:-7])
    (tmp_path / "run/arrays" / f"{archive.name}.{'0' * 32}.partial").write_bytes(b"half")
    cntk_pipeline.run(TABLES, data=arrays, **place)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "run/arrays").iterdir()] == [(archive.name, before)]


def test_other_arrays_never_take_their_place(tmp_path: Path, arrays: dict) -> None:
    place = {"store__path": tmp_path / "run", "progress": False}
    run = cntk_pipeline.run(TABLES, data=arrays, **place)
    before = sorted((tmp_path / "run" / "arrays").iterdir())
    with pytest.raises(SpecificationMismatch, match="belongs to another specification"):
        cntk_pipeline.run(TABLES, data=arrays | {"x_train": arrays["x_train"] + 1}, **place)
    assert sorted((tmp_path / "run" / "arrays").iterdir()) == before
    assert run.is_complete
    with pytest.raises(ConfigError, match=r"readouts\.depths is empty"):
        cntk_pipeline.run(TABLES, data=arrays | {"y_test": arrays["y_test"][::-1]}, readouts__depths=[], **place)
    assert sorted((tmp_path / "run" / "arrays").iterdir()) == before


def test_labels_may_be_a_column_of_text_of_pandas(tmp_path: Path, arrays: dict) -> None:
    names = np.array(["cat", "dog", "eel"])
    texts = {key: names[value].astype(object) for key, value in arrays.items() if key.startswith("y_")}
    run = cntk_pipeline.run(TABLES, data=arrays | texts, progress=False, store__path=tmp_path / "run")
    assert run.classes == ("cat", "dog", "eel")
    np.testing.assert_array_equal(run.labels.train, arrays["y_train"])


def test_what_is_wrong_is_refused_and_nothing_written(tmp_path: Path, arrays: dict) -> None:
    place = {"store__path": tmp_path / "runs" / "run", "progress": False}
    for workflow, given, error, message in (
        (3, {}, ConfigError, "a workflow is the name of a TOML file, a dictionary of tables or a RunConfig, got int"),
        (TABLES, {"ridges": [1]}, ConfigError, "takes values of a workflow as section__key=value, got ridges; write"),
        (TABLES, {"solve__rigdes": [1.0]}, ConfigError, "unknown key solve.rigdes: did you mean 'ridges'"),
        (TABLES, {"data": arrays, "solve__rigdes": [1.0]}, ConfigError, "unknown key solve.rigdes"),
        (TABLES, {"data": arrays, "data__train": 5000}, ConfigError, "^data: expected data.train from 1 to"),
        (TABLES, {"data": {"x_train": arrays["x_train"]}}, DataError, "^data: expected the keys .* add y_train"),
        (TABLES, {"data": [1, 2]}, DataError, r"data is a dictionary of arrays like .*, got list"),
        (
            TABLES,
            {"data": arrays | {"y_train": [None, {}]}},
            DataError,
            r"data\['y_train'\]: expected an array of numbers or texts, got Python objects, such as {} at number 1",
        ),
        (TABLES, {"data": arrays | {"x_train": [[1.0, 2.0], [3.0]]}}, DataError, r"data\['x_train'\]: .* one length"),
        (TABLES, {"data": arrays | {"file": [1]}}, DataError, "expected names of arrays like .*, got 'file'"),
        (TABLES, {"data": arrays | {1: [1]}}, DataError, "expected names of arrays like .*, got 1"),
        (TABLES, {"data": arrays | {"x_train": np.full((2, 3), np.nan)}}, DataError, "expected"),
        (
            TABLES,
            {"data": arrays, "data__source": "digits"},
            ConfigError,
            "data and data__source='digits' name two data",
        ),
        (
            TABLES,
            {"data": arrays, "data__path": "x.npz"},
            ConfigError,
            "data and data__path='x.npz' name two data sets",
        ),
        (TABLES | {"readouts": {"depths": []}}, {"data": arrays}, ConfigError, "readouts.depths is empty"),
    ):
        with pytest.raises(error, match=message):
            cntk_pipeline.run(workflow, **place, **given)
        assert list(tmp_path.iterdir()) == [], message
    with pytest.raises(ConfigError, match="arrays in memory are stored in the run directory, which must be local"):
        cntk_pipeline.run(TABLES, data=arrays, store__path="s3://bucket/run")


def test_it_runs_in_a_thread_and_within_an_event_loop(tmp_path: Path, arrays: dict) -> None:
    def start(name: str) -> Any:
        return cntk_pipeline.run(TABLES, data=arrays, progress=False, store__path=tmp_path / name).directory

    async def within() -> Any:
        return start("loop")

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(start, ["one", "two"]))
    require_same(found[0], found[1])
    require_same(asyncio.run(within()), found[0])


def test_the_first_interrupt_lets_tiles_finish_and_the_same_call_goes_on(
    tmp_path: Path, arrays: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"store__path": tmp_path / "run"}

    class Interrupting(Recorder):
        def __enter__(self) -> "Interrupting":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def progress(self, progress: Any) -> None:
            super().progress(progress)
            if len(self.moments) == 3:
                os.kill(os.getpid(), signal.SIGINT)
                assert signal.getsignal(signal.SIGINT) is before  # the second one is heard as always

    before = signal.getsignal(signal.SIGINT)
    view = Interrupting()
    with monkeypatch.context() as patched:
        patched.setattr(running, "RunView", lambda: view)
        with pytest.raises(Interrupted, match=r"every finished tile is kept.* The same call goes on, or: cntk resume"):
            cntk_pipeline.run(TABLES, data=arrays, **place)
    assert signal.getsignal(signal.SIGINT) is before
    assert any("interrupt again to end at once" in line for line in view.lines)
    assert cntk_pipeline.run(TABLES, data=arrays, progress=False, **place).is_complete


FOREIGN = """
from cntk_pipeline.interactive import running
with running._stop_on_interrupt(running._Silent()) as stop:
    pass
print("done")
"""


def test_a_handler_of_ctrl_c_in_c_is_left_as_it_is() -> None:
    """Seen to fail: TypeError when the run was complete, since Python cannot set such a handler again."""
    assert run_beside_it(FOREIGN) == "done\n"


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with running._stop_on_interrupt(Recorder()) as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop.is_set()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_lines_are_shown_where_there_is_no_terminal(
    tmp_path: Path, arrays: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    cntk_pipeline.run(TABLES, data=arrays, store__path=tmp_path / "run")
    shown = capsys.readouterr().out
    assert f"{TRAIN} training and {TEST} test images" in shown
    assert "kernel: 10/10 tiles" in shown
    cntk_pipeline.run(TABLES, data=arrays, store__path=tmp_path / "silent", progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_script_in_a_terminal_shows_a_bar_for_each_phase(tmp_path: Path, small_npz: Path) -> None:
    (tmp_path / "script.py").write_text(f"""
import cntk_pipeline
tables = {TABLES!r} | {{"data": {{"source": "npz", "path": {str(small_npz)!r}}}}}
cntk_pipeline.run(tables, store__path="run")
""")
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm", "COLUMNS": "100"}
    ours, terminal = pty.openpty()
    script = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    shown = bytearray()
    with contextlib.suppress(OSError):  # which the system raises where nobody has the terminal open any more
        while piece := os.read(ours, 2**16):
            shown += piece
    os.close(ours)
    assert script.wait(240) == 0, shown.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"(?m)^kernel +━+ +10/10 .*took ", text)
    assert re.search(r"(?m)^solve +━+ +(\d+)/\1 .*took ", text)
    assert b"\x1b[?25l" in shown  # hides the cursor while a bar is drawn, which in a short phase is once
    assert "10/10 tiles" not in text


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once(tmp_path: Path, small_npz: Path) -> None:
    """Its workers are processes, and Python would import the script in each, which starts workers again."""
    (tmp_path / "script.py").write_text(f"""
import cntk_pipeline
print("begun")
tables = {TABLES!r} | {{"data": {{"source": "npz", "path": {str(small_npz)!r}}}}}
run = cntk_pipeline.run(tables, store__path="run", cluster__kind="local", cluster__workers=2)
print(run.metrics[0].accuracy)
""")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("begun") == 1
    assert "2 local workers" in done.stdout
    assert cntk_pipeline.open_run(tmp_path / "run").is_complete
