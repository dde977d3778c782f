"""A limit on the size of files stops a run, and what it says to do next is what goes on."""

import functools
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import Commands, environment

WORKFLOW = """
data = {source = "digits", train = 20, test = 10}
network.preset = "cntk"
readouts.depths = [2]
kernel.tile = 16
cluster.kind = "serial"
store.path = "there"
"""


def limited(limit: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cntk_pipeline.cli", *arguments],
        cwd=cwd,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),  # Python would leave bytecode cut to the limit beside the sources
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )


@functools.cache
def commands() -> Commands:
    return Commands(environment())


def cntk(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return commands().run(*arguments, folder=cwd, scratch=cwd)


@pytest.mark.parametrize("limit", [100, 1500, 4096, 6000])  # run.json, workflow.json, images, tiles
def test_what_a_limit_on_files_says_to_do_next_goes_on(tmp_path: Path, limit: int) -> None:
    (tmp_path / "w.toml").write_text(WORKFLOW)
    stopped = limited(limit, "run", "w.toml", cwd=tmp_path)
    assert stopped.returncode == 1
    assert "Traceback" not in stopped.stderr
    if "could not be begun: File too large" in stopped.stderr:
        assert "lift the limit on the size of files (ulimit -f unlimited)" in stopped.stderr
        assert cntk("resume", "there", cwd=tmp_path).returncode == 2  # as it was said
        following = cntk("run", "w.toml", cwd=tmp_path)
    else:
        assert limit == 6000
        assert "larger than the 6000 bytes of `ulimit -f`" in stopped.stderr
        following = cntk("resume", "there", cwd=tmp_path)
    assert following.returncode == 0, following.stderr
