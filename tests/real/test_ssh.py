"""A real sshd, twice: two hosts of one machine, and what happens to a run when their processes die."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from problems import Recorder, whole_matrix

from pipeline import handover
from pipeline.config import ClusterConfig, RunConfig
from pipeline.errors import WorkersLost
from pipeline.executors import EXECUTORS, Executor
from pipeline.executors.dask import SETTINGS
from pipeline.report import make_report
from pipeline.store import RunDirectory
from pipeline.submission import read_ending

PATIENCE_SECONDS = 120
ROOT = Path(__file__).parent.parent.parent


def nothing() -> None:
    pass


def where() -> tuple[int, int]:
    return os.getpid(), os.getppid()


@dataclass(frozen=True)
class Servers:
    """Two running sshd, and the home folder whose keys they let in."""

    hosts: list[str]
    home: Path
    processes: list[subprocess.Popen[bytes]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


@pytest.fixture(scope="module")
def servers(require: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    require("sshd", "ssh-keygen", root=True)
    folder, home = tmp_path_factory.mktemp("sshd"), tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir(mode=0o700)
    Path("/run/sshd").mkdir(exist_ok=True)  # where it drops its rights
    (folder / "authorized_keys").write_text(make_key(home / ".ssh" / "id_ed25519"))
    ports, known, processes = [free_port(), free_port()], "", []
    for port in ports:
        known += f"[127.0.0.1]:{port} {make_key(folder / f'host{port}')}"
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {port}",
            f"HostKey {folder}/host{port}",
            f"AuthorizedKeysFile {folder}/authorized_keys",
            f"PidFile {folder}/pid{port}",
            f"SetEnv PYTHONPATH={ROOT}{os.pathsep}{ROOT / 'tests'}{os.pathsep}{Path(__file__).parent}",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
        ]
        (folder / f"config{port}").write_text("\n".join(lines) + "\n")
        with (folder / f"log{port}").open("wb") as log:
            command = ["/usr/sbin/sshd", "-D", "-e", "-f", folder / f"config{port}"]
            processes.append(subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL))
    (home / ".ssh" / "known_hosts").write_text(known)
    for port in ports:
        wait_until(lambda port=port: answers(port), f"sshd answers on {port}")  # type: ignore[misc]
    yield Servers([f"127.0.0.1:{port}" for port in ports], home, processes)
    for process in processes:
        process.terminate()
        process.wait(30)


@pytest.fixture
def hosts(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two hosts that let this test in; no process of theirs outlives it."""
    monkeypatch.setenv("HOME", str(servers.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield servers.hosts
    wait_until(lambda: not running(servers), "all processes on the hosts end")


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def running(servers: Servers) -> list[psutil.Process]:
    """List what runs on the hosts beside sshd itself."""
    found = []
    for server in servers.processes:
        for process in psutil.Process(server.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "sshd" not in process.name():
                    found.append(process)
    return found


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not in {PATIENCE_SECONDS} s"
        time.sleep(0.05)


def answer(executor: Executor, key: tuple[Any, ...], function: Callable[[], Any]) -> Any:
    executor.submit(key, function)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (ended := executor.wait(0.2)):
        assert time.monotonic() < deadline, "no answer"
    assert ended[0].error is None
    return ended[0].result


def test_a_run_over_ssh_equals_one_in_this_process(
    hosts: list[str], run_small: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    view = Recorder()
    serial = run_small(store={"path": str(tmp_path / "serial")})
    run = run_small(view, cluster={"kind": "ssh", "hosts": hosts, "workers": 2})
    (line,) = [line for line in view.lines if line.startswith("computing on 2 workers on ")]
    assert "scheduler tls://127.0.0.1:" in line
    for readout in serial.specification["readouts"]:
        for part in ("train", "test"):
            mine, other = whole_matrix(run, readout["name"], part), whole_matrix(serial, readout["name"], part)
            np.testing.assert_array_equal(mine, other)
    written = [path.read_bytes() for path in Path(run.path).rglob("*") if path.is_file()]
    assert not [content for content in written if b"PRIVATE KEY" in content]


def test_a_submitted_driver_computes_on_the_hosts(
    hosts: list[str], small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run, submission = handover.submit(small_config(cluster={"kind": "ssh", "hosts": hosts, "workers": 2}), Recorder())
    assert submission.kind == "ssh"
    wait_until(lambda: read_ending(run) is not None, "the driver ends")
    ending = read_ending(run)
    assert ending is not None
    assert ending.message == ""
    assert make_report(RunDirectory(run.path)).complete


def test_command_lines_and_environments_on_the_hosts_hold_no_secret(servers: Servers, hosts: list[str]) -> None:
    config = ClusterConfig(kind="ssh", hosts=hosts, workers=2)
    with EXECUTORS["ssh"](config, nothing) as executor:
        assert len({answer(executor, ("stage", number, 0, 0), where) for number in range(4)}) >= 1
        commands = [process.cmdline() for process in running(servers)]
        python = [sys.executable, "-m", "pipeline.executors.host"]
        assert commands.count(python) == 3  # a scheduler and two hosts of workers
        seen = [" ".join(command) for command in commands] + [str(p.environ()) for p in running(servers)]
        assert not [text for text in seen if "PRIVATE" in text or "CERTIFICATE" in text or "INHERIT_CONFIG" in text]


def test_nothing_listens_wider_than_the_hosts_address(servers: Servers, hosts: list[str]) -> None:
    with EXECUTORS["ssh"](ClusterConfig(kind="ssh", hosts=hosts, workers=2), nothing):
        sockets = [socket for process in running(servers) for socket in process.net_connections("tcp")]
        assert {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_a_host_whose_processes_are_killed_gets_new_ones(servers: Servers, hosts: list[str]) -> None:
    config = ClusterConfig(kind="ssh", hosts=hosts, workers=1)
    with EXECUTORS["ssh"](config, nothing) as executor:
        worker, nanny = answer(executor, ("stage", 0, 0, 0), where)
        psutil.Process(nanny).kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(worker).kill()
        assert answer(executor, ("stage", 1, 0, 0), where)[1] != nanny


def test_a_scheduler_that_is_killed_ends_the_run(
    servers: Servers, hosts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "distributed.comm.timeouts.connect", "5s")  # so long the client tries to come back
    with EXECUTORS["ssh"](ClusterConfig(kind="ssh", hosts=hosts, workers=2), nothing) as executor:
        port = int(executor._client.scheduler.address.rpartition(":")[2])
        (scheduler,) = [
            process
            for process in running(servers)
            if any(s.laddr.port == port and s.status == psutil.CONN_LISTEN for s in process.net_connections("tcp"))
        ]
        scheduler.kill()
        with pytest.raises(WorkersLost, match=r"the Dask scheduler went away"):
            wait_until(lambda: bool(executor.wait(0.2)), "the executor gives up")


DRIVE = """
import sys, time
from pipeline import handover
from pipeline.config import ClusterConfig, RunConfig
from pipeline.executors import EXECUTORS
from test_ssh import nothing
if __name__ == "__main__":
    with EXECUTORS["ssh"](ClusterConfig(kind="ssh", hosts=sys.argv[1:], workers=2), nothing):
        print("up", flush=True)
        time.sleep(600)
"""


def test_nothing_on_the_hosts_outlives_a_killed_driver(servers: Servers, hosts: list[str], tmp_path: Path) -> None:
    (tmp_path / "drive.py").write_text(DRIVE)
    folders = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, str(tmp_path / "drive.py"), *hosts]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"up\n"
        assert len(running(servers)) >= 3
        driver.send_signal(signal.SIGKILL)
    wait_until(lambda: not running(servers), "the hosts are empty")


def test_a_host_of_an_unknown_key_is_refused(servers: Servers, hosts: list[str]) -> None:
    known = servers.home / ".ssh" / "known_hosts"
    lines = known.read_text().splitlines()
    try:
        known.write_text(lines[0] + "\n")
        refused = pytest.raises(WorkersLost, match=rf"(?s)Mend these hosts.*{hosts[1]}: HostKeyNotVerifiable")
        with refused, EXECUTORS["ssh"](ClusterConfig(kind="ssh", hosts=hosts, workers=2), nothing):
            pass
    finally:
        known.write_text("\n".join(lines) + "\n")


def test_a_run_begins_without_a_host_that_is_down_where_fewer_will_do(hosts: list[str]) -> None:
    down = f"127.0.0.1:{free_port()}"
    config = ClusterConfig(kind="ssh", hosts=[hosts[0], down], workers=2)
    refused = pytest.raises(WorkersLost, match=rf"(?s)only 1 workers started.*{down}: ConnectionRefusedError")
    with refused, EXECUTORS["ssh"](config, nothing):
        pass
    with EXECUTORS["ssh"](config.model_copy(update={"minimum_workers": 1}), nothing) as executor:
        assert executor.slots == 1


def test_a_scheduler_that_does_not_start_is_explained(hosts: list[str]) -> None:
    config = ClusterConfig(kind="ssh", hosts=hosts, interface="no-such-interface")
    refused = pytest.raises(WorkersLost, match=r"(?s)no scheduler started on 127.0.0.1:.*no-such-interface")
    with refused, EXECUTORS["ssh"](config, nothing):
        pass


def test_no_value_of_the_table_reaches_a_shell(hosts: list[str], tmp_path: Path) -> None:
    touch = f"touch {shlex.quote(str(tmp_path / 'touched'))}"
    for values in (
        {"python": f"true; {touch}; "},
        {"python": f"$({touch})"},
        {"interface": f"'; {touch}; '"},
        {"memory_limit": f"'; {touch}; '"},
        {"dashboard": f"'; {touch}; ':0"},
    ):
        with pytest.raises(WorkersLost), EXECUTORS["ssh"](ClusterConfig(kind="ssh", hosts=hosts, **values), nothing):
            pass
    assert not (tmp_path / "touched").exists()
