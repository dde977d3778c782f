"""The engine that docs/extending.md shows is one file and one line: added to a copy of the package, it does all."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.problems import toml, whole_matrix
from support.tolerances import assert_kernels_close, tolerance

from cntk_pipeline import kernel_matrix
from cntk_pipeline.layers import presets
from cntk_pipeline.rundir.directory import RunDirectory

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

PACKAGE = ROOT / "pipeline" / "cntk_pipeline"

WORKFLOW = {
    "data": {"source": "npz", "path": "images.npz"},
    "network": {"preset": "cntk"},
    "readouts": {"depths": [3], "poolings": ["flatten", "gap"]},
    "kernel": {"engine": "twin", "dtype": "float64", "tile": 4},
    "solve": {"ridges": [0.1]},
    "cluster": {"kind": "serial"},
}


def shown(source: str) -> str:
    """Find what the documentation shows of a file."""
    text = (ROOT / "docs" / "extending.md").read_text()
    return re.findall(r"```python\n(.*?)```", text[text.index(f"`{source}`") :], re.DOTALL)[0]


def add_engine(package: Path) -> None:
    """Write the file that is shown, and the line with its import."""
    (package / "kernels" / "twin.py").write_text(shown("pipeline/cntk_pipeline/kernels/twin.py"))
    table = package / "kernels" / "engines.py"
    page, text = (ROOT / "docs" / "extending.md").read_text(), table.read_text()
    (imported,) = re.findall(r"with its import, `(.*?TwinEngine)`", page)
    for last, line in (
        ("import CpuEngine\n", imported + "\n"),
        ('    "cpu": CpuEngine,\n', shown("pipeline/cntk_pipeline/kernels/engines.py")),
    ):
        assert last in text
        text = text.replace(last, last + line)
    table.write_text(text)


class Installation:
    """A package somewhere, and a folder that its commands run in."""

    def __init__(self, package: Path, folder: Path) -> None:
        places = (package.parent, ROOT / "tests")
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "NO_COLOR": "1"}
        self._folder = folder

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self._folder, capture_output=True, text=True, timeout=240, env=self._environment
        )

    def cntk(self, *arguments: str, code: int = 0) -> str:
        """Run a command, and return what it says."""
        found = self.python("-m", "cntk_pipeline.cli", *arguments)
        assert found.returncode == code, found.stdout + found.stderr
        return found.stdout + found.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adding")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((10, 3, 4, 2)).astype(np.float32)
    labels = np.arange(10) % 2
    np.savez(folder / "images.npz", x_train=images[:7], y_train=labels[:7], x_test=images[7:], y_test=labels[7:])
    (folder / "workflow.toml").write_text(toml(WORKFLOW))
    return folder


@pytest.fixture(scope="module")
def extended(folder: Path) -> Installation:
    """A copy of the package with the engine."""
    copy = folder / "extended" / "cntk_pipeline"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"))
    add_engine(copy)
    return Installation(copy, folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Installation:
    """The package as it is."""
    return Installation(PACKAGE, folder)


@pytest.fixture(scope="module")
def finished(extended: Installation, folder: Path) -> Path:
    """A run by the engine."""
    said = extended.cntk("run", "workflow.toml", "--store", "run")
    assert "kernel: 6/6 tiles" in said
    return folder / "run"


def test_a_plan_is_of_the_engine_and_measures_it(extended: Installation) -> None:
    plan = json.loads(extended.cntk("plan", "workflow.toml", "--set", "kernel.tile=auto", "--json"))
    assert (plan["engine"], plan["numerics_version"]) == ({"name": "twin", "options": {}}, 1)
    assert (plan["plane_entries"], plan["measured_share"]) == (None, 1)
    assert plan["pair_seconds"] > 1e-5
    assert 1 <= plan["tile"] <= 7  # of any size, for an engine without lanes
    assert plan["memory_bytes"] > 0


def test_what_the_engine_refuses_is_refused_before_anything_is_written(extended: Installation, folder: Path) -> None:
    said = extended.cntk("run", "workflow.toml", "--store", "flipped", "--set", "kernel.flips=true", code=1)
    assert 'the engine "twin" averages over no flips: leave flips out' in said
    assert not (folder / "flipped").exists()


def test_a_run_has_the_values_of_the_engine_up_to_rounding(finished: Path) -> None:
    run = RunDirectory(finished)
    train, test = (np.asarray(run.inputs(f"{part}_images")[:]) for part in ("train", "test"))
    for pooling in ("flatten", "gap"):
        network, name = presets.cntk(3, pooling), f"depth3-{pooling}-ntk"
        for part, pair in (("train", (train, None)), ("test", (test, train))):
            cpu = kernel_matrix(network, *pair, dtype="float64")
            found = whole_matrix(run, name, part)
            assert_kernels_close(found, cpu, tolerance("float64").kernel)
            assert not np.array_equal(found, cpu)  # it was not "cpu" that computed it


def test_a_run_is_looked_at_by_every_command(extended: Installation, finished: Path) -> None:
    status = json.loads(extended.cntk("status", "run", "--json"))
    assert (status["complete"], status["engine"]["name"], status["numerics_version"]) == (True, "twin", 1)
    assert "engine    twin, numerics version 1\n" in extended.cntk("inspect", "run")
    assert "0 are bad" in extended.cntk("verify", "run")
    assert "nothing is left to do" in extended.cntk("resume", "run")
    specification = RunDirectory(finished).specification.to_json()
    assert (specification["engine"], specification["numerics_version"]) == ({"name": "twin", "options": {}}, 1)


def test_an_installation_without_the_engine_looks_at_the_run_and_refuses_to_go_on(
    plain: Installation, extended: Installation, finished: Path
) -> None:
    assert json.loads(plain.cntk("status", "run", "--json"))["engine"]["name"] == "twin"
    assert "0 are bad" in plain.cntk("verify", "run")
    said = plain.cntk("run", "workflow.toml", "--store", "run", code=2)
    assert "unknown kernel.engine 'twin': known are cpu" in said
    tile = finished / "kernel.zarr" / "depth3-gap-ntk" / "train" / "c" / "1" / "0"
    content = tile.read_bytes()
    tile.unlink()
    plain.cntk("status", "run", code=3)
    said = plain.cntk("resume", "run", code=1)
    assert "holds a kernel of the engine 'twin', of which tiles are missing, and this cntk knows cpu." in said
    assert not tile.exists()
    extended.cntk("resume", "run")
    assert tile.read_bytes() == content


def test_the_engine_is_there_from_python_and_held_to_what_every_engine_keeps(extended: Installation) -> None:
    contract = str(ROOT / "tests" / "kernels" / "test_engines.py")
    alone = ("-p", "no:cacheprovider", f"--rootdir={ROOT}", "-k", "twin and not cpu")
    found = extended.python("-m", "pytest", "-q", *alone, contract)
    assert found.returncode == 0, found.stdout
    assert "8 passed" in found.stdout
    code = (
        "import numpy as np; from cntk_pipeline import kernel_matrix; from cntk_pipeline.layers import presets;"
        "print(kernel_matrix(presets.cntk(3), np.ones((3, 2, 2, 1)), dtype='float64', engine='twin').shape)"
    )
    assert extended.python("-c", code).stdout == "(3, 3)\n"
