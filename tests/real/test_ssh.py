"""A real sshd, twice: two hosts of one machine, and what happens to a run when their processes die."""

import contextlib
import os
import re
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
from support.hostile import hostile_run, lay_hostile
from support.problems import Recorder, whole_matrix
from support.processes import PATIENCE_SECONDS, begun, free_port, receipts, wait_until, workflow

from cntk_pipeline.clusters import CLUSTERS, Executor
from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.errors import SubmissionFailed, WorkersLost
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.submissions import Submission, read_ending, submissions
from cntk_pipeline.workflow import handover
from cntk_pipeline.workflow.report import make_report

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
    paths = [ROOT, ROOT / "pipeline", ROOT / "tests", Path(__file__).parent]
    for port in ports:
        known += f"[127.0.0.1]:{port} {make_key(folder / f'host{port}')}"
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {port}",
            f"HostKey {folder}/host{port}",
            f"AuthorizedKeysFile {folder}/authorized_keys",
            f"PidFile {folder}/pid{port}",
            f"SetEnv PYTHONPATH={os.pathsep.join(map(str, paths))} HOME={home}",
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
        wait_until(lambda port=port: answers(port), f"sshd to answer on {port}")  # type: ignore[misc]
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
    wait_until(lambda: not running(servers), "all processes on the hosts to end")


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
    for readout in serial.specification.readouts:
        for part in ("train", "test"):
            mine, other = whole_matrix(run, readout.name, part), whole_matrix(serial, readout.name, part)
            np.testing.assert_array_equal(mine, other)
    written = [path.read_bytes() for path in Path(run.path).rglob("*") if path.is_file()]
    assert not [content for content in written if b"PRIVATE KEY" in content]


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[None]:
    """End the drivers that a test left: they do not belong to sshd any more."""
    yield
    for submission in submissions(RunDirectory(tmp_path / "run")) if (tmp_path / "run").exists() else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(driver_of(submission))
            if "drive" in process.cmdline():
                process.kill()


def driver_of(submission: Submission) -> int:
    return int(submission.job.partition(" by ")[0].rpartition(":")[2])


def long_run(path: Path, hosts: list[str]) -> RunConfig:
    sections: dict[str, Any] = {"readouts": {"depths": [150], "poolings": ["gap"]}, "solve": {"ridges": [1e-2]}}
    sections["cluster"] = {"kind": "ssh", "hosts": hosts, "workers": 2}
    return workflow(path, "ssh", sections)


@pytest.mark.usefixtures("drivers")
def test_a_submitted_driver_runs_on_the_first_host_and_outlives_the_connection(
    servers: Servers, hosts: list[str], tmp_path: Path
) -> None:
    """With ``start_new_session`` left out in `LocalSubmitter` it would end with the session of sshd."""
    run, submission = handover.submit(long_run(tmp_path / "run", hosts), Recorder())
    assert str(submission) == f"ssh {socket.gethostname()}:{driver_of(submission)} by {hosts[0]}"
    driver = psutil.Process(driver_of(submission))
    assert driver.environ()["SSH_CONNECTION"].split()[3] == hosts[0].rpartition(":")[2], "not started by that host"
    assert handover.whereabouts(run).state == "running"
    with pytest.raises(SubmissionFailed, match=r"is running for .* already"):
        handover.submit(long_run(tmp_path / "run", hosts), Recorder())
    wait_until(lambda: receipts(run.path) >= 3, "three tiles")
    assert not [p for p in running(servers) if p.pid == driver.pid], "it hangs on a connection"
    assert "finishes the tiles in flight" in handover.cancel(run.path)
    wait_until(lambda: read_ending(run) is not None, "the driver's end")
    wait_until(lambda: handover.whereabouts(run).state == "gone", "the process's end")
    assert not make_report(run).complete
    assert len(begun(run.path)) == receipts(run.path), "tiles in flight were lost"
    handover.resubmit(run.path, Recorder())
    wait_until(lambda: make_report(RunDirectory(run.path)).complete, "the resumed run's end")
    assert "computing on 2 workers on" in (run.path / "log" / "driver.log").read_text()


@pytest.mark.usefixtures("drivers")
def test_a_submitted_driver_is_ended_at_once_from_afar(servers: Servers, hosts: list[str], tmp_path: Path) -> None:
    run, _ = handover.submit(long_run(tmp_path / "run", hosts), Recorder())
    wait_until(lambda: receipts(run.path) >= 1, "a tile")
    assert "was ended at once" in handover.cancel(run.path, now=True)
    wait_until(lambda: handover.whereabouts(run).state == "gone", "the driver's end")


def test_a_run_that_the_host_does_not_see_is_refused_and_leaves_nothing(
    hosts: list[str], small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The host's process is given a place where nothing is: with `check_place` left out, the run would begin here."""
    config = small_config(cluster={"kind": "ssh", "hosts": hosts, "python": str(elsewhere(tmp_path))})
    with pytest.raises(
        SubmissionFailed, match=r"127.0.0.1:\d+ does not see .*/run as it is seen here: a file that was"
    ):
        handover.submit(config, Recorder())
    assert not (tmp_path / "run").exists()


def test_what_the_driver_will_need_of_the_hosts_is_looked_at_before_anything_is_written(
    servers: Servers, hosts: list[str], small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    down = f"127.0.0.1:{free_port()}"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"hosts": [hosts[0], down]}, rf"(?s)must log in from there.*{down}: ConnectionRefusedError"),
        ({"hosts": [down]}, rf"cannot ask {down}: ConnectionRefusedError"),
        ({"python": "/no/such/python"}, r"cannot start a driver: .*/no/such/python.*cluster.python must be"),
        ({"python": f"true; touch {tmp_path / 'touched'};"}, r"cannot start a driver"),
    ]
    for cluster, message in cases:
        with pytest.raises(SubmissionFailed, match=message):
            handover.submit(small_config(cluster={"kind": "ssh", "hosts": hosts} | cluster), Recorder())
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "touched").exists()


def elsewhere(folder: Path) -> Path:
    """Write a Python whose file system is another one, in a mount namespace: an empty folder lies over this one."""
    (folder / "empty").mkdir()
    script = folder.parent / f"{folder.name}-python"
    mount = f"mount --bind {folder / 'empty'} {folder}"
    script.write_text(f'#!/bin/sh\nexec unshare --mount sh -c \'{mount} && exec {sys.executable} "$@"\' sh "$@"\n')
    script.chmod(0o755)
    return script


def hostile_home(folder: Path) -> Path:
    """Write a Python that begins in a folder of files that are called like modules, as in a home that holds them."""
    lay_hostile(folder)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\ncd {shlex.quote(str(folder))} && exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.mark.usefixtures("drivers")
def test_files_in_the_home_of_the_hosts_take_no_modules_place(
    servers: Servers, hosts: list[str], small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Seen to fail without -P in each of the three commands: of the first host, the hosts, and the driver."""
    home = tmp_path / "home"
    home.mkdir()
    cluster = {"kind": "ssh", "hosts": hosts, "workers": 2, "python": str(hostile_home(home))}
    run, _ = handover.submit(small_config(cluster=cluster), Recorder())
    wait_until(
        lambda: make_report(RunDirectory(run.path)).complete or hostile_run(home),
        "the end of the run, or a file's turn",
    )
    wait_until(lambda: handover.whereabouts(run).state == "gone", "the driver's end")
    assert hostile_run(home) == []


def test_command_lines_and_environments_on_the_hosts_hold_no_secret(servers: Servers, hosts: list[str]) -> None:
    config = ClusterConfig(kind="ssh", hosts=hosts, workers=2)
    with CLUSTERS["ssh"].executor(config, nothing) as executor:
        for number in range(4):
            answer(executor, ("stage", number, 0, 0), where)
        commands = [process.cmdline() for process in running(servers)]
        python = [sys.executable, "-P", "-m", "cntk_pipeline.clusters.ssh.host"]
        assert commands.count(python) == 3  # a scheduler and two hosts of workers
        seen = [" ".join(command) for command in commands] + [str(p.environ()) for p in running(servers)]
        assert not [text for text in seen if "PRIVATE" in text or "CERTIFICATE" in text or "INHERIT_CONFIG" in text]


def test_nothing_listens_wider_than_the_hosts_address(servers: Servers, hosts: list[str]) -> None:
    with CLUSTERS["ssh"].executor(ClusterConfig(kind="ssh", hosts=hosts, workers=2), nothing):
        sockets = [socket for process in running(servers) for socket in process.net_connections("tcp")]
        assert {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_a_host_whose_processes_are_killed_gets_new_ones(servers: Servers, hosts: list[str]) -> None:
    config = ClusterConfig(kind="ssh", hosts=hosts, workers=1)
    with CLUSTERS["ssh"].executor(config, nothing) as executor:
        worker, nanny = answer(executor, ("stage", 0, 0, 0), where)
        psutil.Process(nanny).kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(worker).kill()
        assert answer(executor, ("stage", 1, 0, 0), where)[1] != nanny


def scheduler_at(servers: Servers, address: str) -> psutil.Process:
    port = int(address.rpartition(":")[2])
    (scheduler,) = [
        process
        for process in running(servers)
        if any(s.laddr.port == port and s.status == psutil.CONN_LISTEN for s in process.net_connections("tcp"))
    ]
    return scheduler


@pytest.mark.usefixtures("drivers")
def test_a_driver_whose_scheduler_is_killed_ends_within_a_minute_and_the_run_goes_on(
    servers: Servers, hosts: list[str], tmp_path: Path
) -> None:
    run, _ = handover.submit(long_run(tmp_path / "run", hosts), Recorder())
    wait_until(lambda: receipts(run.path) >= 3, "three tiles")
    said = (run.path / "log" / "driver.log").read_text()
    scheduler_at(servers, re.findall(r"scheduler tls://([^\s,]+)", said)[0]).kill()
    killed = time.monotonic()
    wait_until(lambda: handover.whereabouts(run).state == "gone", "the driver's end")
    seconds = time.monotonic() - killed
    print(f"the driver ended {seconds:.1f} s after its scheduler")
    assert seconds < 60
    ending = read_ending(run)
    assert ending is not None
    assert "went away" in ending.message
    wait_until(lambda: not running(servers), "the hosts to be empty")
    handover.resubmit(run.path, Recorder())
    wait_until(lambda: make_report(RunDirectory(run.path)).complete, "the resumed run's end")


def test_a_scheduler_that_is_killed_ends_the_run_soon(servers: Servers, hosts: list[str]) -> None:
    """Without `ExecutorTraits.scheduler_end` it takes a minute, for which Dask's client looks for its scheduler."""
    with CLUSTERS["ssh"].executor(ClusterConfig(kind="ssh", hosts=hosts, workers=2), nothing) as executor:
        scheduler = scheduler_at(servers, executor._client.scheduler.address)
        executor.submit(("stage", 0, 0, 0), time.sleep, 3600)
        scheduler.kill()
        killed = time.monotonic()
        with pytest.raises(WorkersLost, match=r"(?s)the Dask scheduler went away.*127.0.0.1:\d+: its process ended"):
            wait_until(lambda: any(not c.cluster_lost for c in executor.wait(0.2)), "the executor to give up")
        print(f"noticed after {time.monotonic() - killed:.1f} s", end=", ")
    print(f"all ended after {time.monotonic() - killed:.1f} s")
    assert time.monotonic() - killed < 30


DRIVE = """
import sys, time
from cntk_pipeline.workflow import handover
from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.clusters import CLUSTERS
from test_ssh import nothing
if __name__ == "__main__":
    with CLUSTERS["ssh"].executor(ClusterConfig(kind="ssh", hosts=sys.argv[1:], workers=2), nothing):
        print("up", flush=True)
        time.sleep(600)
"""


def test_nothing_on_the_hosts_outlives_a_killed_driver(servers: Servers, hosts: list[str], tmp_path: Path) -> None:
    (tmp_path / "drive.py").write_text(DRIVE)
    folders = [str(ROOT / "pipeline"), str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, str(tmp_path / "drive.py"), *hosts]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"up\n"
        assert len(running(servers)) >= 3
        driver.send_signal(signal.SIGKILL)
    wait_until(lambda: not running(servers), "the hosts to be empty")


def test_a_host_of_an_unknown_key_is_refused(servers: Servers, hosts: list[str]) -> None:
    known = servers.home / ".ssh" / "known_hosts"
    lines = known.read_text().splitlines()
    try:
        known.write_text(lines[0] + "\n")
        refused = pytest.raises(WorkersLost, match=rf"(?s)Mend these hosts.*{hosts[1]}: HostKeyNotVerifiable")
        with refused, CLUSTERS["ssh"].executor(ClusterConfig(kind="ssh", hosts=hosts, workers=2), nothing):
            pass
    finally:
        known.write_text("\n".join(lines) + "\n")


def test_a_run_begins_without_a_host_that_is_down_where_fewer_will_do(hosts: list[str]) -> None:
    down = f"127.0.0.1:{free_port()}"
    config = ClusterConfig(kind="ssh", hosts=[hosts[0], down], workers=2)
    refused = pytest.raises(WorkersLost, match=rf"(?s)only 1 workers started.*{down}: ConnectionRefusedError")
    with refused, CLUSTERS["ssh"].executor(config, nothing):
        pass
    with CLUSTERS["ssh"].executor(config.model_copy(update={"minimum_workers": 1}), nothing) as executor:
        assert executor.slots == 1


def test_a_scheduler_that_does_not_start_is_explained(hosts: list[str]) -> None:
    config = ClusterConfig(kind="ssh", hosts=hosts, interface="no-such-interface")
    refused = pytest.raises(WorkersLost, match=r"(?s)no scheduler started on 127.0.0.1:.*no-such-interface")
    with refused, CLUSTERS["ssh"].executor(config, nothing):
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
        config = ClusterConfig(kind="ssh", hosts=hosts).model_copy(update=values)  # which asks nothing of a value
        with pytest.raises(WorkersLost), CLUSTERS["ssh"].executor(config, nothing):
            pass
    assert not (tmp_path / "touched").exists()
