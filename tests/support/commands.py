"""Commands in processes of their own that need not import first: each is forked from one that has imported all.

A command takes two seconds of processor to import, and less for a small run. How a process starts, and what it imports,
is held elsewhere: `cli/test_entry.py`, `cli/test_startup.py`, `test_shadowing.py`.
"""

import contextlib
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

_SERVER = """
import json, os, runpy, sys
import distributed, numba, scipy.linalg, zarr
import cntk_pipeline.cli.main, cntk_pipeline.gram, cntk_pipeline.workflow.run

answers = int(sys.argv[1])
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    _, status = os.waitpid(child, 0)
    os.write(answers, b"%d\\n" % os.waitstatus_to_exitcode(status))
else:
    os._exit(0)
os.close(answers)
for number, file in enumerate(asked["streams"]):
    opened = os.open(file, os.O_RDWR)
    os.dup2(opened, number)
    os.close(opened)
os.chdir(asked["folder"])
sys.stdin = open(0, closefd=False)
sys.argv = ["cntk", *asked["words"]]
runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
"""


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a command: those of here, this package, and more."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "pipeline")} | more


class Commands:
    """A process that has imported the package, and runs commands in forks of itself, one after another.

    Parameters
    ----------
    environment : mapping of str to str
        Of all commands.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        given = {**environment, "OPENBLAS_NUM_THREADS": "1"}  # threads do not survive a fork
        answers, told = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(told)], stdin=subprocess.PIPE, env=given, pass_fds=[told]
        )
        os.close(told)
        self._answers = os.fdopen(answers)
        weakref.finalize(self, _close, self._process, self._answers)

    def run(self, *words: object, folder: Path, scratch: Path) -> subprocess.CompletedProcess[str]:
        """Run the command `cntk` with some words in a folder; ``scratch`` is another one for what it says."""
        said = [scratch / "stdout", scratch / "stderr"]
        for file in said:
            file.write_text("")
        asked = {
            "module": "cntk_pipeline.cli",
            "words": list(map(str, words)),
            "folder": str(folder),
            "streams": [os.devnull, *map(str, said)],
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answers.readline()
        assert answer, "the process that commands are forked from has ended"
        return subprocess.CompletedProcess(asked["words"], int(answer), *(file.read_text() for file in said))


def _close(process: subprocess.Popen[bytes], answers: TextIO) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    answers.close()
    process.wait()
