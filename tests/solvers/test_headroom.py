"""Limits on a process's memory, met by real processes: linear algebra is refused before BLAS asks for what it needs.

Seen to fail: without `require_buffers`, OpenBLAS asks for its buffers again without an end.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cntk_pipeline import kernel_matrix
from cntk_pipeline.layers import presets

pytestmark = pytest.mark.slow

LIMITED = """
import resource, sys
import distributed, scipy.linalg, zarr
import numpy as np
from cntk_pipeline.cli import driving, main as cli
from cntk_pipeline.kernels import ENGINES
from cntk_pipeline.workflow import run
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.solvers import blas

def taken():
    name = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}[sys.argv[1]]
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

some = np.ones((600, 600))
limit = getattr(resource, sys.argv[1])
resource.setrlimit(limit, (taken() + int(float(sys.argv[2]) * 2**20), resource.getrlimit(limit)[1]))
"""


def run_limited(code: str, limit: str, mebibytes: float, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED + code, limit, str(mebibytes), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "pipeline"), "COLUMNS": "200"},
    )


@pytest.mark.parametrize(("limit", "option"), [("RLIMIT_AS", "-v"), ("RLIMIT_DATA", "-d")])
@pytest.mark.parametrize("call", ["blas.reserve_buffers()", "blas.subtract_product(some, some, some.copy())"])
def test_linear_algebra_is_refused_where_a_limit_leaves_blas_too_little(limit: str, option: str, call: str) -> None:
    code = f"try:\n    {call}\nexcept ConfigError as error:\n    print(error)\n"
    ended = run_limited(code, limit, 24)
    assert ended.stdout.startswith(f"the limit on the memory of this process, `ulimit {option}` ("), ended.stderr
    assert "lift it where the run is started" in ended.stdout


def test_buffers_that_were_reserved_are_enough_for_what_follows() -> None:
    code = "blas.reserve_buffers()\nblas.subtract_product(some, some, some.copy())\nprint((some @ some)[0, 0])\n"
    assert run_limited(code, "RLIMIT_AS", 200).stdout == "600.0\n"


def test_a_run_under_a_limit_on_memory_ends_with_a_line_before_anything_is_computed(
    small_npz: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(
        f'data = {{ source = "npz", path = "{small_npz}" }}\nnetwork = {{ preset = "cntk" }}\n'
        'readouts = { depths = [3], poolings = ["flatten"] }\ncluster = { kind = "serial" }\n'
    )
    kernel_matrix(presets.cntk(3), np.zeros((1, 6, 5, 2)) + 1)  # compiled code is kept: the compiler takes more memory
    code = 'import sys\nsys.argv = ["cntk", "run", *sys.argv[3:]]\ncli.main()\n'
    ended = run_limited(code, "RLIMIT_AS", 120, tmp_path / "small.toml", "--store", tmp_path / "run")
    said = " ".join(ended.stderr.split())
    assert ended.returncode == 2, said
    assert "error: the limit on the memory of this process, `ulimit -v`" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "kernel.zarr").exists()


def test_a_command_that_gets_no_memory_says_so_in_a_line(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.argv = ['cntk', 'network', *sys.argv[3:]]\n"
        "def greedy(*_, **__):\n    bytearray(2**30)\ndriving.read_workflow = greedy\ncli.main()\n"
    )
    (tmp_path / "small.toml").write_text("")
    ended = run_limited(code, "RLIMIT_AS", 120, tmp_path / "small.toml")
    assert ended.returncode == 1
    assert ended.stderr.startswith("failed: no memory is left: the limit `ulimit -v` ("), ended.stderr
    assert "Traceback" not in ended.stderr
