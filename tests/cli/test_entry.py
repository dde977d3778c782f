"""The first seconds of a command: Ctrl-C, and an environment that nothing compiles in."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.commands import environment
from support.processes import wait_until

from cntk_pipeline.environment import require_usable
from cntk_pipeline.errors import ConfigError

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "cntk_pipeline.cli", "status", "nowhere"]
RUN = [*COMMAND[:-2], "run", "w.toml"]


@pytest.mark.parametrize(("command", "library"), [(COMMAND, "numpy"), (COMMAND, "pydantic"), (RUN, "scipy")])
def test_ctrl_c_while_everything_is_imported_is_130_without_a_traceback(
    tmp_path: Path, command: list[str], library: str
) -> None:
    # Python says what it imports as it does, so that the signal comes in the middle of it.
    command = [command[0], "-v", *command[1:]]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=said, stderr=said)
    wait_until(lambda: f"import '{library}".encode() in (tmp_path / "said").read_bytes(), library)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert b"Traceback" not in (tmp_path / "said").read_bytes()


INTERRUPT = "import os, signal; interrupt = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)\n"
MOMENTS = {
    # An import in the middle of one turns it into an error of its own.
    "before the command": "import typer\ndef call(*_, **__):\n    try:\n        interrupt()\n"
    "    except BaseException as error:\n        raise RuntimeError from error\ntyper.Typer.__call__ = call",
    "between two lines": "from cntk_pipeline.cli import main; main.lost_output = interrupt",
    "at the end": "import atexit; atexit.register(interrupt)",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_is_130_without_a_traceback(tmp_path: Path, moment: str) -> None:
    script = f"{INTERRUPT}{MOMENTS[moment]}\nfrom cntk_pipeline.cli.__main__ import main\nmain()"
    command = [sys.executable, "-c", script, "status", "nowhere"]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert (result.returncode, "Traceback" in result.stderr) == (130, False)


def test_ctrl_c_while_workers_start_is_130_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(
        'network.preset = "cntk"\nreadouts.depths = [2]\ndata = {train = 9, test = 9}\n'
        "kernel.tile = 16\ncluster.workers = 2\n"
    )
    command = [sys.executable, "-m", "cntk_pipeline.cli", "run", "w.toml"]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=said, stderr=said, start_new_session=True
        )

    def has_workers() -> bool:
        lines = [Path(f"/proc/{child.pid}/cmdline").read_bytes() for child in psutil.Process(process.pid).children()]
        return any(b"spawn_main" in line for line in lines)

    wait_until(has_workers, "workers")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too, which have just begun
    assert process.wait(120) == 130
    said_text = (tmp_path / "said").read_text()
    assert "Traceback" not in said_text
    assert "Go on with: cntk resume runs/run" in said_text


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("NUMBA_DISABLE_JIT", "1", "kernels exist as compiled code only"),
        ("NUMBA_NUM_THREADS", "0", "numba needs at least one thread"),
        ("NUMBA_NUM_THREADS", "-3", "numba needs at least one thread"),
        ("NUMBA_CPU_FEATURES", "junk", "expected features with a sign before each"),
    ],
)
def test_an_environment_that_nothing_compiles_in_is_named_in_a_line(variable: str, value: str, message: str) -> None:
    result = subprocess.run(COMMAND, env=environment(**{variable: value}), capture_output=True, text=True, timeout=60)
    (line,) = result.stderr.splitlines()
    assert (result.returncode, line.startswith(f"error: {variable}={value}: {message}")) == (2, True)
    with pytest.raises(ConfigError, match=f"{variable}={value}: {message}"):
        require_usable({variable: value})


@pytest.mark.parametrize("module", ["cntk_pipeline", "cntk_pipeline.kernels", "cntk_pipeline.kernels.lanes"])
def test_the_same_is_said_where_kernels_are_imported(module: str) -> None:
    script = f"from cntk_pipeline.errors import ConfigError\ntry:\n    from {module} import *\n"
    script += "except ConfigError as error:\n    print(error)\n"
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, env=environment(NUMBA_NUM_THREADS="0"), capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith("NUMBA_NUM_THREADS=0: ")


@pytest.mark.parametrize("value", ["", "0", " 0 "])
def test_an_environment_that_asks_for_nothing_is_usable(value: str) -> None:
    require_usable({"NUMBA_DISABLE_JIT": value, "NUMBA_NUM_THREADS": "2", "NUMBA_CPU_FEATURES": "+avx2,-avx512f"})
