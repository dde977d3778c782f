"""What becomes of a command's output never becomes of the command: real pipes, full devices, closed descriptors."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from support.commands import environment

from cntk_pipeline.storage import LocalPath

pytestmark = pytest.mark.slow

PLACE = "run-\N{LATIN SMALL LETTER E WITH ACUTE}\N{GRINNING FACE}"

WORKFLOW = """
data = {source = "digits", train = 20, test = 10}
network.preset = "cntk"
readouts.depths = [2]
kernel.tile = 16
cluster.kind = "serial"
"""

FULL = Path("/dev/full")

LOOKS = [
    ["status", PLACE],
    ["inspect", PLACE],
    ["inspect", PLACE, "--all"],
    ["inspect", PLACE, "--json"],
    ["plan", "w.toml"],
    ["network", "w.toml"],
]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cntk_pipeline.cli", *map(str, arguments)]


def cntk(
    *arguments: object, cwd: Path, stdout: int | IO[Any] = subprocess.PIPE, **more: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments), cwd=cwd, stdout=stdout, stderr=subprocess.PIPE, timeout=120, env=environment(**more)
    )


def without_reader(*arguments: object, cwd: Path) -> tuple[int, bytes]:
    """Run a command whose reader is gone before it prints; return its exit code and what it said on stderr."""
    with subprocess.Popen(
        command(*arguments), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        return process.wait(120), process.stderr.read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workflow, and a finished run whose driver nobody listened to."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "w.toml").write_text(WORKFLOW)
    assert without_reader("run", "w.toml", "--store", PLACE, cwd=folder) == (0, b"")
    return folder


@pytest.mark.parametrize("arguments", [*LOOKS, ["verify", PLACE]], ids=" ".join)
def test_a_reader_that_leaves_is_no_failure(folder: Path, arguments: list[str]) -> None:
    assert without_reader(*arguments, cwd=folder) == (0, b"")


def test_a_run_without_a_reader_has_computed_everything(folder: Path) -> None:
    assert cntk("status", PLACE, cwd=folder).returncode == 0
    assert without_reader("resume", PLACE, cwd=folder) == (0, b"")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", LOOKS, ids=" ".join)
def test_output_that_is_lost_is_a_failure_of_what_only_prints(folder: Path, arguments: list[str]) -> None:
    with FULL.open("w") as full:
        result = cntk(*arguments, cwd=folder, stdout=full)
    said = b"failed: what was to be printed is not all there: No space left on device\n"
    assert (result.returncode, result.stderr) == (1, said)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["run", "w.toml", "--store", "full"], ["verify", PLACE]], ids=" ".join)
def test_a_full_disk_of_the_output_is_not_that_of_the_store(folder: Path, arguments: list[str]) -> None:
    with FULL.open("w") as full:
        result = cntk(*arguments, cwd=folder, stdout=full)
    assert result.returncode == 0
    assert result.stderr == b"warning: what was to be printed is not all there: No space left on device\n"


def test_an_encoding_that_cannot_spell_a_path_writes_it_as_an_escape(folder: Path) -> None:
    for arguments in (["resume", PLACE], ["status", PLACE], ["inspect", PLACE]):
        result = cntk(*arguments, cwd=folder, PYTHONIOENCODING="ascii")
        assert (result.returncode, result.stderr) == (0, b"")
        assert (rb"run-\xe9\U0001f600" in result.stdout) == (arguments[0] != "status")


def test_the_line_that_opens_an_array_names_its_place_in_python() -> None:
    place = LocalPath(f'/a/{PLACE}/b"c\\d\n')
    assert ast.literal_eval(place.zarr_expression()) == str(place)


def test_closed_descriptors_are_no_place_for_files_of_the_store(folder: Path) -> None:
    script = f"exec {sys.executable} -m cntk_pipeline.cli run w.toml --store closed <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", script], cwd=folder, env=environment(), timeout=120).returncode == 0
    assert b"0 are bad" in cntk("verify", "closed", cwd=folder).stdout


def test_whoever_watches_without_a_reader_leaves(folder: Path) -> None:
    chunk = folder / PLACE / "kernel.zarr/depth2-flatten-ntk/test/c/0/0"
    content = chunk.read_bytes()
    chunk.unlink()  # so that the run is not complete
    try:
        began = os.times().elapsed
        assert without_reader("status", PLACE, "--watch", cwd=folder) == (3, b"")
        assert os.times().elapsed - began < 25  # and not 30 s later, when a run without a driver counts as ended
    finally:
        chunk.write_bytes(content)
