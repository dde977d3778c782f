"""A cluster on this machine that cannot start says why in a line: real limits, addresses and killed workers."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.dask.starting import start_explained
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, Interrupted, PipelineError, WorkersLost

pytestmark = pytest.mark.slow

HEAD = """
import resource, sys, threading, time
import psutil
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import PipelineError
from cntk_pipeline.clusters import CLUSTERS

def nothing():
    pass

if __name__ == "__main__":
"""

OPEN = """
    try:
        with CLUSTERS["local"].executor(ClusterConfig(workers=2), nothing):
            print("open")
    except PipelineError as error:
        print(type(error).__name__, error)
"""


def opened(tmp_path: Path, before: str, then: str = OPEN) -> str:
    """Open a local cluster in a process of its own, after some lines; return all that it said."""
    script = tmp_path / "script.py"
    script.write_text(HEAD + textwrap.indent(textwrap.dedent(before), "    ") + then)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "pipeline")}
    command = [sys.executable, script]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return done.stdout.decode()


@pytest.mark.parametrize("count", [20, 30])
def test_too_few_open_files_are_named_with_their_limit(tmp_path: Path, count: int) -> None:
    said = opened(tmp_path, f"resource.setrlimit(resource.RLIMIT_NOFILE, ({count}, {count}))")
    assert said == (
        f"WorkersLost the workers could not be started: too many open files, and {count} of them are allowed "
        "(ulimit -n): raise that, or take fewer workers (cluster.workers)\n"
    )


def test_a_worker_that_is_killed_while_it_starts_is_told_in_a_line(tmp_path: Path) -> None:
    said = opened(
        tmp_path,
        """
        def kill():
            while True:
                for child in psutil.Process().children():
                    try:
                        if "spawn_main" in " ".join(child.cmdline()):
                            return child.kill()
                    except psutil.Error:
                        pass
                time.sleep(0.001)

        threading.Thread(target=kill, daemon=True).start()
        """,
    )
    (line,) = said.splitlines()
    assert line.startswith("WorkersLost a worker ended while it started (RuntimeError: Nanny failed to start")
    assert "(cluster.memory_limit, here 'auto')" in line
    assert "open files (ulimit -n)" in line


@pytest.mark.parametrize("dashboard", ["192.0.2.1:0", "no-such-host.invalid:0"])
def test_a_dashboard_that_cannot_listen_is_named(dashboard: str) -> None:
    message = f"cluster.dashboard = '{dashboard}': nothing can listen there .*; give an address of this machine"
    with (
        pytest.raises(ConfigError, match=message),
        CLUSTERS["local"].executor(ClusterConfig(workers=1, dashboard=dashboard), print),
    ):
        pass


def test_a_dashboard_whose_port_is_taken_says_where_it_is_instead(recwarn: pytest.WarningsRecorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dashboard = f"127.0.0.1:{taken.getsockname()[1]}"
        with CLUSTERS["local"].executor(ClusterConfig(workers=1, dashboard=dashboard), print) as executor:
            (line,) = executor.warnings
    assert line.startswith(
        f'cluster.dashboard = "{dashboard}": another process listens there; it is at http://127.0.0.1:'
    )
    assert not [warning for warning in recwarn if "already in use" in str(warning.message)]


@pytest.mark.parametrize(
    "error", [BlockingIOError(11, "Resource temporarily unavailable"), RuntimeError("can't start new thread")]
)
def test_too_few_processes_are_named_with_their_limit(error: Exception) -> None:
    message = r"no further process or thread is to be had .*\(ulimit -u, or the limit of a container\)"
    with pytest.raises(WorkersLost, match=message), start_explained(ClusterConfig(), None):
        raise RuntimeError("Nanny failed to start.") from error


def test_a_start_that_fails_because_it_was_stopped_is_a_stop() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted), start_explained(ClusterConfig(), stop):
        raise RuntimeError("Nanny failed to start.")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ucx://127.0.0.1:1", "install distributed-ucxx, or take tls://"),
    ],
)
def test_a_protocol_without_its_library_names_it(address: str, message: str) -> None:
    config = ClusterConfig(kind="address", address=address, tls=False)
    with pytest.raises(PipelineError, match=message), CLUSTERS["address"].executor(config, print):
        pass


def test_a_limit_on_memory_that_leaves_too_little_is_named_before_anything_is_started(tmp_path: Path) -> None:
    # Without the question, threads die while they begin, and one start in five waited without an end.
    said = opened(
        tmp_path,
        """
        room = psutil.Process().memory_info().vms + 250 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        """,
    )
    assert said.startswith("ConfigError the limit on the memory of this process, `ulimit -v` ("), said
    assert "the 640 MiB that a cluster of 2 workers needs here" in said


def test_a_ctrl_c_that_breaks_off_a_start_leaves_no_second_try_at_exit(tmp_path: Path) -> None:
    """Seen to fail with `LocalCluster`: its handler at exit closes a cluster that never began, with a traceback."""
    said = opened(
        tmp_path,
        """
        import asyncio, os, signal
        from distributed.nanny import Nanny
        begin = Nanny.start
        async def interrupted(nanny):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(1)
            return await begin(nanny)
        Nanny.start = interrupted
        Nanny.start_unsafe = interrupted
        """,
        OPEN + '    except KeyboardInterrupt:\n        print("interrupted")\n',
    )
    assert said == "interrupted\n"
