"""What a command imports before it does anything: exact lists of modules, since times depend on the machine.

Seen to fail: with dask.utils imported at the top of `config.cluster`, scipy.linalg at that of `solvers.blas`, and
`kernel_matrix` at that of `estimators.question`; with digits loaded by scikit-learn, and memory measured by Dask.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.problems import toml

from cntk_pipeline.rundir.directory import RunDirectory

COMPUTING = {"numba", "llvmlite", "dask", "distributed", "scipy.linalg", "scipy.sparse", "scipy.special", "sklearn"}
OTHER_PLACES = {"asyncssh", "cryptography", "httpx", "jinja2", "kr8s", "obstore", "ssl", "tornado"}
WRITING = {"zarr", "pooch", "PIL", "pyarrow", "pandas", "xarray"}
ARRAYS = {"numpy", "scipy"}

CALL = """
import sys
from cntk_pipeline.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code
print(code, *sys.modules, file=sys.stderr)
"""

ESTIMATOR = """
import sys
from cntk_pipeline.estimators import KernelClassifier
from cntk_pipeline.layers import presets
model = KernelClassifier(presets.fully_connected(2), ridge=1e-3)
"""


def modules_after(code: str, *words: str, **environment: str) -> list[str]:
    """Run Python with words on its command line; return its last line on standard error, in words."""
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "pipeline")} | environment
    command = [sys.executable, "-P", "-c", code, *words]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    return done.stderr.splitlines()[-1].split()


def test_the_package_alone_imports_no_library() -> None:
    found = modules_after("import sys, cntk_pipeline; print(*sys.modules, file=sys.stderr)")
    assert "cntk_pipeline.lazy" in found
    assert not (COMPUTING | OTHER_PLACES | WRITING | ARRAYS) & set(found)


def test_the_names_of_rooms_are_listed_without_an_import_of_their_files() -> None:
    rooms = ("", ".datasets", ".finite", ".kernels", ".regression")
    code = "import sys, importlib\nfor room in sys.argv[1:]:\n    room = importlib.import_module(room)\n"
    listed = f"{code}    missing = {{*room.__all__}} - {{*dir(room)}}\n    assert not missing, missing\n"
    listed += "    assert not {'TYPE_CHECKING', 'lazy_names'} & {*dir(room)}\n"
    found = modules_after(f"{listed}print(*sys.modules, file=sys.stderr)", *(f"cntk_pipeline{room}" for room in rooms))
    assert "cntk_pipeline.regression" in found
    assert not (COMPUTING | OTHER_PLACES | WRITING | ARRAYS) & set(found)


def test_help_of_a_room_shows_its_functions() -> None:
    code = (
        "import sys, pydoc, cntk_pipeline.regression as room\nprint(*pydoc.render_doc(room).split(), file=sys.stderr)"
    )
    found = " ".join(modules_after(code)).replace("\b", "")
    assert "lleeaavvee__oonnee__oouutt(" in found or "leave_one_out(" in found


def test_the_compiler_is_loaded_when_an_estimator_is_fitted_and_not_before() -> None:
    found = modules_after(f"{ESTIMATOR}\nprint(*sys.modules, file=sys.stderr)")
    assert "cntk_pipeline.estimators.classifier" in found
    assert not {"numba", "llvmlite", "dask", "distributed", "zarr"} & set(found)
    found = modules_after(
        f"{ESTIMATOR}\nmodel.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1])\nprint(*sys.modules, file=sys.stderr)"
    )
    assert "numba" in found


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["status", "--help"], ["--version"], []], ids=" ".join
)
def test_help_imports_nothing_but_the_command_line(words: list[str]) -> None:
    code, *found = modules_after(CALL, *words)
    assert code == ("0" if words else "2")
    assert "typer" in found
    assert not (COMPUTING | OTHER_PLACES | WRITING | ARRAYS) & set(found)


def test_completion_imports_nothing_but_the_command_line() -> None:
    asked = {"_CNTK_COMPLETE": "complete_bash", "COMP_WORDS": "cntk st", "COMP_CWORD": "1"}
    code, *found = modules_after(f"import sys; sys.argv[0] = 'cntk'\n{CALL}", **asked)
    assert code == "0"
    assert not (COMPUTING | OTHER_PLACES | WRITING | ARRAYS) & set(found)


@pytest.mark.parametrize("command", ["status", "inspect"])
def test_a_look_at_a_run_imports_nothing_that_computes_or_writes(
    run_small: Callable[..., RunDirectory], command: str
) -> None:
    code, *found = modules_after(CALL, command, str(run_small().path))
    assert code == "0"
    assert set(found) >= {"numpy", "pydantic", "cntk_pipeline.datasets.contents"}
    assert not (COMPUTING | OTHER_PLACES | WRITING) & set(found)
    assert not {f"cntk_pipeline.datasets.{source}" for source in ("sources", "table", "folder", "cifar10")} & set(found)


@pytest.mark.slow
def test_a_run_in_one_process_imports_neither_scikit_learn_nor_a_cluster(tmp_path: Path) -> None:
    workflow = {
        "data": {"source": "digits", "train": 6, "test": 2},
        "network": {"preset": "cntk"},
        "readouts": {"depths": [2], "poolings": ["flatten"]},
        "solve": {"ridges": [0.1]},
        "cluster": {"kind": "serial"},
        "store": {"path": str(tmp_path / "run")},
    }
    (tmp_path / "workflow.toml").write_text(toml(workflow))
    code, *found = modules_after(CALL, "run", str(tmp_path / "workflow.toml"))
    assert code == "0"
    assert {"numba", "zarr"} <= set(found)
    assert not {"sklearn", "distributed", "scipy.stats", "pandas"} & set(found)


def test_the_model_of_a_section_is_compiled_when_it_is_first_read() -> None:
    asked = "from cntk_pipeline.clusters.slurm.options import SlurmOptions as Options"
    seen = "print(Options.__pydantic_complete__, end=' ', file=sys.stderr)"
    code = f"import sys\n{asked}\n{seen}\nOptions()\n{seen}\nprint(file=sys.stderr)"
    assert modules_after(code) == ["False", "True"]
