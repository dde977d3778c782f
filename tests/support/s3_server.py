"""A real S3 server on the loopback for tests: the RADOS gateway of Ceph, with one monitor and one disk in memory."""

import contextlib
import datetime
import os
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
        An empty bucket of it.
    environment : mapping of str to str
        What a process needs to reach it.
    folder : Path
        With its process numbers, NAME.pid.
    """

    bucket: str
    environment: dict[str, str]
    folder: Path

    def restart_gateway(self) -> None:
        """Stop the gateway and start it again; the objects stay."""
        _stop(self.folder / "client.rgw.pid")
        _call("radosgw", folder=self.folder, arguments=["-n", "client.rgw"])
        address, _, port = self.environment["AWS_ENDPOINT_URL"].removeprefix("http://").rpartition(":")
        _wait_for(address, int(port))


@contextlib.contextmanager
def s3_server(folder: Path, address: str = "127.0.0.1") -> Iterator[Server]:
    """Start a server whose files lie in a folder, with a bucket, and stop it at the end; it answers at an address."""
    port, monitor = _free_port(), _free_port()
    names = {"fsid": uuid.uuid4(), "monitor": monitor, "address": address, "port": port, "folder": folder}
    (folder / "ceph.conf").write_text(CONFIGURATION.format(**names))
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    try:
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
        yield Server(_create_bucket(environment), environment, folder)
    finally:
        for path in folder.glob("*.pid"):
            _stop(path)


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


def _stop(pid_file: Path) -> None:
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
