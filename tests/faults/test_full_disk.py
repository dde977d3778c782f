"""Every command that meets a full disk ends with one line that says so and what to do, or does not need to write.

Seen to fail: with errors of a full disk that leave the storage as the operating system made them (`verify` and
`cancel` ended in tracebacks).
"""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.problems import Recorder
from support.restarts import forget

from cntk_pipeline.cli import main as cli
from cntk_pipeline.config import RunConfig, load_config
from cntk_pipeline.errors import StoreError
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.submissions import read_ending, write_ending
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.workflow import run as runs

WORKFLOW = """
name = "small"
data = {{ source = "npz", path = "{data}", train = 12, test = 3 }}
network = {{ preset = "cntk" }}
readouts = {{ depths = [3], poolings = ["flatten"], kinds = ["ntk"] }}
kernel = {{ tile = 8 }}
solve = {{ ridges = [1e-2], tile = 8 }}
cluster = {{ kind = "{kind}" }}
"""


@pytest.fixture
def disk(tmp_path: LocalPath) -> Iterator[LocalPath]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]).returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    yield folder
    forget()
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    """Take all that is left of a disk, the last page included."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@pytest.fixture
def cntk(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Call the command in this process; return its exit code and what it wrote to the standard error."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cntk", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), " ".join(capfd.readouterr().err.split())

    return call


@pytest.fixture
def workflow(tmp_path: LocalPath, small_npz: Path) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        path = tmp_path / f"{kind}.toml"
        path.write_text(WORKFLOW.format(data=small_npz, kind=kind))
        return path

    return make


def test_every_command_on_a_full_disk_ends_with_a_line_or_with_its_answer(
    disk: LocalPath, cntk: Callable[..., tuple[int, str]], workflow: Callable[[str], Path], tmp_path: LocalPath
) -> None:
    serial, local = workflow("serial"), workflow("local")
    done, begun, elsewhere = disk / "done", disk / "begun", tmp_path / "elsewhere"
    assert cntk("run", serial, "--store", done)[0] == cli.COMPLETE
    assert cntk("run", serial, "--store", elsewhere)[0] == cli.COMPLETE
    runs.begin_elsewhere(workflow_at(local, begun), Recorder(), None)
    np.save(tmp_path / "new.npy", np.zeros((2, 6, 5, 2), np.float32))
    fill(disk)
    again = "is full. Everything finished is kept: free some space, then the same command again"
    kept = "is full. Everything finished is kept: free some space, then `cntk"
    unbegun = "could not be begun: No space left on device. Nothing is computed yet: free some space"
    for command, then in [
        (("run", serial, "--store", done), f"the disk of {done} {kept} resume {done}`"),
        (("run", serial, "--store", done, "--verify"), f"the disk of {done} {kept} resume {done}`"),
        (("run", serial, "--store", disk / "new"), f"{disk / 'new'} {unbegun}"),
        (("run", serial, "--store", disk / "grown", "--from", elsewhere), f"{disk / 'grown'} {unbegun}"),
        (("demo", "--store", disk / "demo"), f"{disk / 'demo'} {unbegun}"),
        (("submit", local, "--store", disk / "handed"), f"{disk / 'handed'} {unbegun}"),
        (("submit", local, "--store", begun), f"the disk of {begun} {kept} resume {begun}`"),
        (("resume", done), f"the disk of {done} {kept} resume {done}`"),
        (("resume", begun), f"the disk of {begun} {kept} resume {begun}`"),
        (("resume", done, "--verify"), f"the disk of {done} {kept} resume {done}`"),
        (("drive", begun), f"the disk of {begun} {kept} resume {begun}`"),
        (("verify", done), f"the disk of {done} {kept} verify {done}`"),
        (("cancel", begun), f"the disk of {begun} {kept} cancel {begun}`"),
        (("cancel", begun, "--now"), f"the disk of {begun} {kept} cancel --now {begun}`"),
        (("predict", done, tmp_path / "new.npy", "--out", tmp_path / "p.csv"), f"the disk of {done} {again}"),
        (("predict", elsewhere, tmp_path / "new.npy", "--out", disk / "p.csv"), f"{disk / 'p.csv'} {again}"),
        (("report", done), f"the disk of {done / 'report.html'} {again}"),
        (("compare", done, elsewhere, "--out", disk / "c.html"), f"the disk of {disk / 'c.html'} {again}"),
        (("export", done, "--out", disk / "ex"), "bytes are to be written and 0 are free there: give another disk"),
    ]:
        code, said = cntk(*command)
        assert code == cli.FAILED, (command, code, said)
        assert then in said, (command, said)
        assert said.startswith("failed:") or "stopping" in said, (command, said)
        assert "Traceback" not in said
    code, said = cntk("init", "iris", "--out", disk / "w.toml")
    assert (code, "w.toml: cannot be written (No space left on device)" in said) == (cli.USAGE, True), said
    with open(disk / "filler", "rb+") as filler:
        filler.truncate(filler.seek(0, os.SEEK_END) - 8192)  # a page for each file, and there are more than two
    for form in ("npz", "csv"):
        code, said = cntk("export", done, "--out", disk / "ex", "--format", form)
        assert (code, f"the disk of {disk / 'ex'} {again}" in said) == (cli.FAILED, True), said
    assert not any((disk / name).exists() for name in ("p.csv", "c.html", "ex", "w.toml"))
    assert cntk("status", done) == (cli.COMPLETE, "")
    assert cntk("status", begun) == (cli.INCOMPLETE, "")
    assert cntk("inspect", done) == (cli.COMPLETE, "")
    assert cntk("plan", serial) == (cli.COMPLETE, "")
    (disk / "filler").unlink()
    assert cntk("verify", done) == (cli.COMPLETE, "")
    assert cntk("resume", begun)[0] == cli.COMPLETE
    assert list(disk.rglob("*.partial")) == []


def workflow_at(file: Path, path: Path) -> RunConfig:
    return load_config(file, [f'store.path="{path}"'])


def test_how_a_driver_ended_is_left_out_where_the_disk_is_full_and_hides_nothing(
    disk: LocalPath, workflow: Callable[[str], Path]
) -> None:
    run, _ = runs.begin_elsewhere(workflow_at(workflow("serial"), disk / "run"), Recorder(), None)
    fill(disk)
    write_ending(run, "why it ended", None)
    assert read_ending(RunDirectory(run.path)) is None


def limited_file_size(limit_bytes: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))


@pytest.mark.parametrize("write", ["write_whole(bytes(9000))", "create_whole(bytes(9000))", "log(bytes(9000))"])
def test_a_file_beyond_the_limit_on_file_sizes_is_an_error_that_names_it(tmp_path: LocalPath, write: str) -> None:
    """The limit is a process's own, so it is met in one of its own; a log keeps no half line."""
    code = (
        "import sys\n"
        "from cntk_pipeline.errors import StoreError\n"
        "from cntk_pipeline.storage import open_path\n"
        "path = open_path(sys.argv[1])\n"
        "def log(lines):\n"
        "    appender = path.appender(durable=True)\n"
        "    appender.append(b'whole\\n')\n"
        "    appender.append(lines)\n"
        "try:\n"
        f"    {write if write.startswith('log') else 'path.' + write}\n"
        "except StoreError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-B", "-c", code, tmp_path / "file"],  # bytecode would be cut to the limit
        capture_output=True,
        text=True,
        preexec_fn=limited_file_size(4096),
    )
    assert "file would be larger than the 4096 bytes of `ulimit -f`" in ended.stdout, ended.stderr
    assert "lift that limit" in ended.stdout
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == ({"file": b"whole\n"} if write.startswith("log") else {})


def test_a_run_under_a_limit_on_file_sizes_ends_with_a_line_that_names_it(
    small_config: Callable[..., RunConfig], tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would be cut to the limit
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        with pytest.raises(StoreError, match=r"could not be begun: File too large.* lift the limit .*ulimit -f"):
            runs.start(small_config(), Recorder(), threading.Event())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
