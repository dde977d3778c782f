"""A real S3 server on the loopback for tests: the RADOS gateway of Ceph, with one monitor and one disk in memory."""

import contextlib
import datetime
import fcntl
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from obstore import sign
from obstore.store import S3Store

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph-authtool", "ceph")
KEY, SECRET = "tester", "not-a-secret-of-anybody"
PATIENCE_SECONDS = 60

CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor}/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.log
crash dir = {folder}
ms bind msgr1 = false
ms mon client mode = crc secure
mon data = {folder}/mon
mon data avail warn = 2
mon data avail crit = 1
mon allow pool size one = true
mon max pg per osd = 1000
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
rgw data = {folder}/rgw
[client.rgw]
rgw frontends = beast endpoint={address}:{port} tcp_nodelay=1
rgw run sync thread = false
rgw enable usage log = false
"""


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes
    ----------
    bucket : str
        A bucket of it.
    environment : mapping of str to str
        What a process needs to reach it.
    """

    bucket: str
    environment: dict[str, str]


@contextlib.contextmanager
def s3_server(folder: Path, address: str = "127.0.0.1") -> Iterator[Server]:
    """Start a server whose files lie in a folder, with a bucket, and stop it at the end; it answers at an address."""
    try:
        yield _start(folder, address)
    finally:
        _stop(folder)


@contextlib.contextmanager
def shared_s3_server(together: Path) -> Iterator[Server]:
    """Use one server with all processes that know a folder: the first one starts it, and the last one stops it."""
    together.mkdir(exist_ok=True)
    with open(together / "door", "w") as door, open(together / "users", "w") as users:
        described = together / "server.json"
        with _passing(door):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not described.exists():
                folder = Path(tempfile.mkdtemp(dir=together))
                try:
                    described.write_text(json.dumps([str(folder), vars(_start(folder, "127.0.0.1"))]))
                except BaseException:
                    _stop(folder)
                    raise
            folder, server = json.loads(described.read_text())
        try:
            yield Server(**server)
        finally:
            with _passing(door), contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else uses it, nor a process that was killed
                described.unlink()
                _stop(Path(folder))


@contextlib.contextmanager
def _passing(door: IO[str]) -> Iterator[None]:
    """Let one process come or go at a time."""
    fcntl.flock(door, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(door, fcntl.LOCK_UN)


def _start(folder: Path, address: str) -> Server:
    port, monitor = _free_port(), _free_port()
    names = {"fsid": uuid.uuid4(), "monitor": monitor, "address": address, "port": port, "folder": folder}
    (folder / "ceph.conf").write_text(CONFIGURATION.format(**names))
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    _start_storage(folder, monitor, str(names["fsid"]))
    user = ["--uid", KEY, "--display-name", KEY, "--access-key", KEY, "--secret-key", SECRET]
    _call("radosgw-admin", folder=folder, arguments=["user", "create", *user])
    _call("radosgw", folder=folder, arguments=["-n", "client.rgw"])
    _wait_for(address, port)
    environment = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://{address}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
    }
    return Server(_create_bucket(environment), environment)


def _stop(folder: Path) -> None:
    for path in folder.glob("*.pid"):
        _end(path)


def _start_storage(folder: Path, monitor: int, fsid: str) -> None:
    keyring = ["--create-keyring", f"{folder}/keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"]
    _call("ceph-authtool", folder=folder, arguments=keyring, configured=False)
    address = f"[v2:127.0.0.1:{monitor}]"
    monitors = ["--create", "--fsid", fsid, "--addv", "a", address, f"{folder}/monmap"]
    _call("monmaptool", folder=folder, arguments=monitors)
    first = ["--mkfs", "-i", "a", "--monmap", f"{folder}/monmap", "--keyring", f"{folder}/keyring"]
    _call("ceph-mon", folder=folder, arguments=first)
    _call("ceph-mon", folder=folder, arguments=["-i", "a"])
    disk = str(uuid.uuid4())
    _call("ceph", folder=folder, arguments=["osd", "new", disk])
    _call("ceph-osd", folder=folder, arguments=["-i", "0", "--mkfs", "--osd-uuid", disk])
    _call("ceph-osd", folder=folder, arguments=["-i", "0"])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "1 up" not in _call("ceph", folder=folder, arguments=["osd", "stat"]):
        assert time.monotonic() < deadline, "the disk of the S3 server did not come up"
        time.sleep(0.1)


def _call(program: str, *, folder: Path, arguments: list[str], configured: bool = True) -> str:
    where = ["-c", str(folder / "ceph.conf")] if configured else []
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    command = [program, *where, *arguments]
    with open(folder / "calls.log", "a") as log:
        ended = subprocess.run(
            command, env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, stderr=log, timeout=PATIENCE_SECONDS
        )
    assert ended.returncode == 0, f"{' '.join(command)}: {(folder / 'calls.log').read_text()[-2000:]}"
    return ended.stdout.decode()


def _end(pid_file: Path) -> None:
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        process = int(pid_file.read_text())
        os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            os.kill(process, 0)
            time.sleep(0.05)
        os.kill(process, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(address: str, port: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
            return
        assert time.monotonic() < deadline, "the S3 server does not answer"
        time.sleep(0.05)


def _create_bucket(environment: dict[str, str]) -> str:
    name = f"cntk-{uuid.uuid4().hex[:8]}"
    store = S3Store(
        name,
        access_key_id=KEY,
        secret_access_key=SECRET,
        endpoint=environment["AWS_ENDPOINT_URL"],
        region=environment["AWS_REGION"],
        client_options={"allow_http": True},
    )
    url = sign(store, "PUT", "", datetime.timedelta(minutes=1))
    urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=PATIENCE_SECONDS).close()
    return name
