"""Four hosts that speak TLS: who is let in, and what a cut or a slow link costs a run."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.hosts import Hosts
from support.problems import Recorder, require_same
from support.processes import PATIENCE_SECONDS, begun, receipts, wait_until

from cntk_pipeline.clusters.dask.certificates import Certificates
from cntk_pipeline.config import ClusterConfig, RunConfig, parse_config
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs

WORKERS, PORT = 3, 8786
ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT / "pipeline"), str(ROOT / "tests")]),
    # After so long a silence a link counts as cut; Dask's own default is 30 s.
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
}
DRIVE = """
import json, sys, threading
from support.problems import Recorder
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.config import parse_config
if __name__ == "__main__":
    runs.start(parse_config(json.load(open(sys.argv[1])), "test"), Recorder(), threading.Event())
"""
COUNT = """
import sys, time
from distributed import Client, Security
ca, cert, key, address, wanted = sys.argv[1:]
security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)
with Client(address, security=security, timeout="60s") as client:
    while len(client.scheduler_info()["workers"]) != int(wanted):
        time.sleep(0.05)
"""
KNOCK = """
import sys
from distributed import Client, Security
address, ca, cert, key = (sys.argv[1:] + [None] * 3)[:4]
security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True) if ca else None
try:
    Client(address, security=security, timeout="3s")
except OSError as error:
    sys.exit(f"refused: {error}")
"""


class Cluster:
    """A scheduler on h0 and a worker on each of h1 to h3, with certificates of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hosts = folder, Hosts(WORKERS + 1)
        self.certificates = Certificates.create(folder / "tls")
        self.address = f"tls://{self.hosts.address(0)}:{PORT}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def open(self) -> None:
        self.hosts.open()
        listening = ["--host", self.address, "--dashboard-address", "127.0.0.1:0"]
        self._dask(0, "dask_scheduler", *listening)
        self.workers = [
            self._dask(host, "dask_worker", self.address, "--host", self.hosts.address(host), "--nthreads", "1")
            for host in range(1, WORKERS + 1)
        ]
        self.wait_for_workers(WORKERS)

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.hosts.close()

    def _dask(self, host: int, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{program}", *self.certificates.arguments(), *arguments]
        # A worker that loses its scheduler ends, and its nanny with it: whoever starts one starts it again.
        return self.start(host, ["sh", "-c", 'while :; do "$@"; done', "sh", *command], f"{program}.h{host}.log")

    def start(self, host: int, command: list[str], log: str) -> subprocess.Popen[bytes]:
        process = self.hosts.start(host, command, self.folder / log, env=ENVIRONMENT, cwd=self.folder)
        self.processes.append(process)
        return process

    def python(self, code: str, *arguments: object) -> subprocess.Popen[bytes]:
        return self.start(0, [sys.executable, "-c", code, *map(str, arguments)], "python.log")

    def wait_for_workers(self, count: int) -> None:
        made = self.certificates
        watching = self.python(COUNT, made.authority, made.certificate, made.key, self.address, count)
        assert watching.wait(PATIENCE_SECONDS) == 0, self.logs()

    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def drive(self, config: RunConfig) -> subprocess.Popen[bytes]:
        """Start a driver on h0."""
        path = self.folder / "workflow.json"
        path.write_text(config.model_dump_json())
        (self.folder / "drive.py").write_text(DRIVE)
        return self.start(0, [sys.executable, str(self.folder / "drive.py"), str(path)], "driver.log")

    def computing(self, host: int, run: Path) -> bool:
        """Whether the worker of a host has begun a tile."""
        logs = {int(file.stem.rpartition("-")[2]) for file in (run / "log").glob("*")}
        return any(child.pid in logs for child in psutil.Process(self.workers[host - 1].pid).children(recursive=True))


@pytest.fixture(scope="module")
def cluster(require: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require("ip", "tc", root=True)
    made = Cluster(tmp_path_factory.mktemp("hosts"))
    try:
        made.open()
        yield made
    finally:
        made.close()


def workflow(path: Path, cluster: ClusterConfig) -> RunConfig:
    table = {
        "data": {"source": "digits", "train": 480, "test": 30},
        "network": {"preset": "cntk"},
        "readouts": {"depths": [21], "poolings": ["gap"]},
        "kernel": {"tile": 32},
        "solve": {"ridges": [1e-2]},
        "cluster": cluster.model_dump(),
        "store": {"path": str(path)},
    }
    return parse_config(table, "test")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    config = workflow(tmp_path_factory.mktemp("undisturbed") / "run", ClusterConfig(kind="serial"))
    return runs.start(config, Recorder(), threading.Event())


@pytest.fixture
def driven(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start a run on the hosts; it ends with the test."""
    made = cluster.certificates
    paths = {"tls_ca_file": str(made.authority), "tls_cert": str(made.certificate), "tls_key": str(made.key)}
    config = workflow(tmp_path / "run", ClusterConfig(kind="address", address=cluster.address, **paths))
    driver = cluster.drive(config)
    yield driver, tmp_path / "run"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()


def require_ended(driver: subprocess.Popen[bytes], cluster: Cluster) -> None:
    assert driver.wait(PATIENCE_SECONDS) == 0, cluster.logs()


def test_a_run_of_several_hosts_equals_one_of_a_single_process(
    cluster: Cluster, driven: tuple[subprocess.Popen[bytes], Path], undisturbed: RunDirectory
) -> None:
    driver, path = driven
    require_ended(driver, cluster)
    assert all(cluster.computing(host, path) for host in (1, 2, 3))
    assert sorted(begun(path)) == sorted(begun(undisturbed.path))
    require_same(RunDirectory(path), undisturbed)


def test_a_client_in_the_clear_is_refused(cluster: Cluster) -> None:
    knocking = cluster.python(KNOCK, cluster.address.replace("tls", "tcp"))
    assert knocking.wait(PATIENCE_SECONDS) == 1, cluster.logs()
    assert "refused: " in (cluster.folder / "python.log").read_text()


def test_a_client_of_a_foreign_authority_is_refused_and_ours_is_not(cluster: Cluster, tmp_path: Path) -> None:
    foreign = Certificates.create(tmp_path / "tls")
    for made, status in ((foreign, 1), (cluster.certificates, 0)):
        knocking = cluster.python(KNOCK, cluster.address, made.authority, made.certificate, made.key)
        assert knocking.wait(PATIENCE_SECONDS) == status, cluster.logs()


def test_a_link_that_is_cut_for_a_moment_costs_nothing(
    cluster: Cluster, driven: tuple[subprocess.Popen[bytes], Path], undisturbed: RunDirectory
) -> None:
    driver, path = driven
    wait_until(lambda: cluster.computing(2, path), "h2 to compute")
    cluster.hosts.cut(2)
    try:
        came = receipts(path)
        wait_until(lambda: receipts(path) >= came + 5, "the others to go on")
    finally:
        cluster.hosts.mend(2)
    require_ended(driver, cluster)
    assert len(begun(path)) == len(set(begun(path)))
    require_same(RunDirectory(path), undisturbed)


def test_a_partition_costs_the_tiles_of_its_host_which_comes_back(
    cluster: Cluster, driven: tuple[subprocess.Popen[bytes], Path], undisturbed: RunDirectory
) -> None:
    driver, path = driven
    wait_until(lambda: cluster.computing(2, path), "h2 to compute")
    cluster.hosts.cut(2)
    try:
        cluster.wait_for_workers(WORKERS - 1)
    finally:
        cluster.hosts.mend(2)
    require_ended(driver, cluster)
    cluster.wait_for_workers(WORKERS)
    tiles = begun(path)
    assert set(tiles) == set(begun(undisturbed.path))
    assert len(tiles) - len(set(tiles)) <= 2  # one that computed, one that was written
    require_same(RunDirectory(path), undisturbed)


def test_a_host_behind_a_slow_link_computes_and_no_tile_twice(
    cluster: Cluster, driven: tuple[subprocess.Popen[bytes], Path], undisturbed: RunDirectory
) -> None:
    driver, path = driven
    cluster.hosts.throttle(2, "256kbit")
    try:
        require_ended(driver, cluster)
    finally:
        cluster.hosts.release(2)
    assert cluster.computing(2, path)
    assert len(begun(path)) == len(set(begun(path)))
    require_same(RunDirectory(path), undisturbed)
