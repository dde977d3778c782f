"""Other systems: what macOS lacks is not needed, and Windows is refused in one line.

Seen to fail: with ``errno.EREMOTEIO``, which macOS lacks, in `storage.retries`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LINUX_ALONE = {
    "errno": ["EREMOTEIO", "ECOMM", "EUCLEAN", "ENOMEDIUM", "EMEDIUMTYPE", "EKEYEXPIRED", "EBADFD", "ENONET"],
    "os": [
        *("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "fdatasync", "memfd_create"),
        *("pidfd_open", "eventfd", "splice", "copy_file_range", "O_DIRECT", "O_TMPFILE", "O_PATH", "O_NOATIME"),
        *("pipe2", "getresuid", "POSIX_FADV_WILLNEED"),
    ],
    "mmap": ["MAP_POPULATE", "MADV_HUGEPAGE"],
    "resource": ["prlimit", "RLIMIT_OFILE", "RLIMIT_SIGPENDING"],
    "signal": ["SIGPWR", "SIGRTMIN", "sigtimedwait", "sigwaitinfo"],
}
"""Names that Python has on Linux and not on macOS."""

AS_ON_MACOS = f"""
import sys
names = {LINUX_ALONE!r}
for module, its in names.items():
    __import__(module)
    for name in its:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
from pathlib import Path
from cntk_pipeline import resources
resources._GROUPS = resources._OWN_GROUPS = Path("/nowhere")
from cntk_pipeline.cli.main import main
main()
"""

WINDOWS = """
import os, sys
os.name = "nt"
from cntk_pipeline.cli.__main__ import main
"""


def call(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "pipeline")}
    command = [sys.executable, "-P", "-c", code, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["serial", "local"])
def test_a_run_needs_no_name_that_macos_lacks(tmp_path: Path, small_npz: Path, kind: str) -> None:
    (tmp_path / "w.toml").write_text(
        f'data = {{ source = "npz", path = "{small_npz}", train = 12, test = 3 }}\nnetwork = {{ preset = "cntk" }}\n'
        f'readouts = {{ depths = [2] }}\nkernel = {{ tile = 8 }}\ncluster = {{ kind = "{kind}", workers = 1 }}\n'
    )
    done = call(AS_ON_MACOS, "run", tmp_path / "w.toml", "--store", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert call(AS_ON_MACOS, "status", tmp_path / "run").returncode == 0


def test_windows_is_refused_in_one_line() -> None:
    done = call(WINDOWS)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: cntk does not run on Windows itself")
    assert line.endswith("use WSL (Windows Subsystem for Linux), or a Linux machine")
