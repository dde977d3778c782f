"""The engine that docs/extending.md shows is one file and one line: added to a copy of the package, it does all."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.adding import ROOT, Copy, add, copy_package
from support.problems import toml, whole_matrix
from support.tolerances import assert_kernels_close, tolerance

from cntk_pipeline import kernel_matrix
from cntk_pipeline.layers import presets
from cntk_pipeline.rundir.directory import RunDirectory

pytestmark = pytest.mark.slow

WORKFLOW = {
    "data": {"source": "npz", "path": "images.npz"},
    "network": {"preset": "cntk"},
    "readouts": {"depths": [3], "poolings": ["flatten", "gap"]},
    "kernel": {"engine": "twin", "dtype": "float64", "tile": 4},
    "solve": {"ridges": [0.1]},
    "cluster": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the package with the engine, and a workflow on ten small images."""
    made = copy_package(tmp_path_factory.mktemp("extended"))
    add(made, "Adding an engine", "kernels/twin.py")
    rng, labels = np.random.default_rng(0), np.arange(10) % 2
    images = rng.standard_normal((10, 3, 4, 2)).astype(np.float32)
    file = made.folder / "images.npz"
    np.savez(file, x_train=images[:7], y_train=labels[:7], x_test=images[7:], y_test=labels[7:])
    (made.folder / "workflow.toml").write_text(toml(WORKFLOW))
    return made


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the package as it is."""
    return copy_package(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def finished(extended: Copy) -> Path:
    """A run by the engine."""
    assert "kernel: 6/6 tiles" in extended.cntk("run", "workflow.toml", "--store", "run")
    return extended.folder / "run"


def test_a_plan_is_of_the_engine_and_measures_it(extended: Copy) -> None:
    plan = json.loads(extended.cntk("plan", "workflow.toml", "--set", "kernel.tile=auto", "--json"))
    assert (plan["engine"], plan["numerics_version"]) == ({"name": "twin", "options": {}}, 1)
    assert (plan["plane_entries"], plan["measured_share"]) == (None, 1)
    assert plan["pair_seconds"] > 1e-5
    assert 1 <= plan["tile"] <= 7  # of any size, for an engine without lanes
    assert plan["memory_bytes"] > 0


def test_the_engine_is_in_the_page_of_workflows(extended: Copy) -> None:
    page = extended.python(str(ROOT / "docs" / "make_workflow_page.py"))
    assert '| `engine` | "cpu" or "twin" or "cuda" or ' in page


def test_what_the_engine_refuses_is_refused_before_anything_is_written(extended: Copy) -> None:
    said = extended.cntk("run", "workflow.toml", "--store", "flipped", "--set", "kernel.flips=true", code=2)
    assert 'the engine "twin" averages over no flips: leave flips out' in said
    assert not (extended.folder / "flipped").exists()


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


def test_a_run_is_looked_at_by_every_command(extended: Copy, finished: Path) -> None:
    status = json.loads(extended.cntk("status", "run", "--json"))
    assert (status["complete"], status["engine"]["name"], status["numerics_version"]) == (True, "twin", 1)
    assert "engine    twin, numerics version 1\n" in extended.cntk("inspect", "--all", "run")
    assert "0 are bad" in extended.cntk("verify", "run")
    assert "nothing is left to do" in extended.cntk("resume", "run")
    specification = RunDirectory(finished).specification.to_json()
    assert (specification["engine"], specification["numerics_version"]) == ({"name": "twin", "options": {}}, 1)


def test_an_installation_without_the_engine_looks_at_the_run_and_refuses_to_go_on(
    plain: Copy, extended: Copy, finished: Path
) -> None:
    assert json.loads(plain.cntk("status", str(finished), "--json"))["engine"]["name"] == "twin"
    assert "0 are bad" in plain.cntk("verify", str(finished))
    said = plain.cntk("run", str(extended.folder / "workflow.toml"), "--store", str(finished), code=2)
    assert "unknown kernel.engine 'twin': known are cpu" in said
    tile = finished / "kernel.zarr" / "depth3-gap-ntk" / "train" / "c" / "1" / "0"
    content = tile.read_bytes()
    tile.unlink()
    plain.cntk("status", str(finished), code=3)
    said = plain.cntk("resume", str(finished), code=1)
    assert "holds a kernel of the engine 'twin', of which tiles are missing, and this cntk knows cpu, " in said
    assert not tile.exists()
    extended.cntk("resume", "run")
    assert tile.read_bytes() == content


def test_the_engine_is_there_from_python_and_held_to_what_every_engine_keeps(extended: Copy) -> None:
    contract = str(ROOT / "tests" / "kernels" / "test_engines.py")
    alone = ("-p", "no:cacheprovider", f"--rootdir={ROOT}", "-k", "twin and not cpu and not cuda and not plugin")
    assert "8 passed" in extended.python("-m", "pytest", "-q", *alone, contract)
    code = (
        "import numpy as np; from cntk_pipeline import kernel_matrix; from cntk_pipeline.layers import presets;"
        "print(kernel_matrix(presets.cntk(3), np.ones((3, 2, 2, 1)), dtype='float64', engine='twin').shape)"
    )
    assert extended.python("-c", code) == "(3, 3)\n"
