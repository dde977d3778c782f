"""Files in the current directory take no module's place: neither this package's nor a library's.

Seen to fail: for submitted drivers, without -P in `driver_command`, where a user's own file was run as the driver. On
SLURM, through ssh and by the manifests of Kubernetes, `tests/real` holds the same.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hostile import hostile_run, lay_hostile
from support.processes import wait_until

from cntk_pipeline.clusters.submitter import driver_command
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow.report import make_report

WORKFLOW = """
name = "small"
data = {{ source = "npz", path = "{data}", train = 12, test = 3 }}
network = {{ preset = "cntk" }}
readouts = {{ depths = [2], poolings = ["flatten"] }}
kernel = {{ tile = 8 }}
solve = {{ ridges = [1e-2], tile = 8 }}
cluster = {{ kind = "local" }}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A current directory that holds files called like modules."""
    return lay_hostile(tmp_path)


def command(place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command as its script does: without the current directory among the places of modules."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "pipeline"), "HOME": str(place)}
    return subprocess.run(
        [sys.executable, "-P", "-m", "cntk_pipeline.cli", *map(str, words)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["run", "submit"])
def test_a_run_imports_nothing_from_where_it_is_started(place: Path, small_npz: Path, verb: str) -> None:
    (place / "small.toml").write_text(WORKFLOW.format(data=small_npz))
    said = command(place, verb, "small.toml", "--store", "run")
    assert said.returncode == 0, said.stderr
    wait_until(lambda: make_report(RunDirectory(place / "run")).complete, "the end of the run")
    assert hostile_run(place) == []


def test_every_python_that_is_started_leaves_the_current_directory_alone() -> None:
    package = Path(__file__).parents[1] / "pipeline" / "cntk_pipeline"
    assert driver_command("run")[:2] == ["-P", "-m"]
    for path in package.rglob("*.py"):
        text = path.read_text()
        for start in range(len(text)):
            if text.startswith('"-m", ', start):
                assert text[:start].endswith('"-P", '), f"{path}: {text[start - 60 : start + 60]}"
    for path in (package.parents[1] / "deploy").rglob("*.yaml"):
        lines = [line.strip() for line in path.read_text().splitlines()]
        for number, line in enumerate(lines):
            assert line != "- -m" or lines[number - 1] == "- -P", f"{path}, line {number}"
