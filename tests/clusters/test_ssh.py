import asyncio
import io
import json
import os
import re
import socket
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.processes import nothing, wait_until

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.ssh.executor import shares
from cntk_pipeline.clusters.ssh.host import Pulse
from cntk_pipeline.clusters.ssh.login import Host
from cntk_pipeline.clusters.ssh.messages import Announcement, Assignment
from cntk_pipeline.clusters.ssh.options import SshOptions
from cntk_pipeline.clusters.ssh.remote import Remote, Remotes
from cntk_pipeline.clusters.ssh.submitter import _run as ask_host
from cntk_pipeline.clusters.table import cluster_of
from cntk_pipeline.config import ClusterConfig, parse_config
from cntk_pipeline.errors import ConfigError, SubmissionFailed


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("node1", ("node1", None, None)),
        ("me@node1.example.org:2222", ("node1.example.org", "me", 2222)),
        ("fe80::1", ("fe80::1", None, None)),
        ("me@[fe80::1]:22", ("fe80::1", "me", 22)),
        ("[fe80::1]", ("fe80::1", None, None)),
        ("me@realm@::1", ("::1", "me@realm", None)),
    ],
)
def test_a_host_is_a_name_with_a_user_and_a_port(text: str, parts: tuple[str, str | None, int | None]) -> None:
    host = Host.parse(text)
    assert (host.name, host.user, host.port) == parts


@pytest.mark.parametrize(
    "text", ["", "@node1", "node1:ssh", "-oProxyCommand=sh", "me@", "me@-node", "a;b", "$(x)@node", "node:\u0662"]
)
def test_what_is_no_host_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no host: write \"node1\""):
        Host.parse(text)


@pytest.mark.parametrize("text", ["n:0", "n:65536", "me@[::1]:99999"])
def test_a_port_that_there_is_none_of_is_refused(text: str) -> None:
    """Seen to fail: the connection raised OverflowError, which nobody caught, or took port 22 for port 0."""
    with pytest.raises(ConfigError, match=r"expected a port from 1 to 65535, got \d+"):
        Host.parse(text)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("node1", "ssh node1"),
        ("me@node3:2222", "ssh -p 2222 me@node3"),
        ("me@[fe80::1%eth0]:22", "ssh -p 22 me@fe80::1%eth0"),
    ],
)
def test_a_host_is_printed_as_the_command_that_logs_in(text: str, command: str) -> None:
    assert Host.parse(text).command == command


def test_a_host_that_cannot_be_asked_is_named_with_the_command_to_try() -> None:
    """Seen to fail with the host as the table has it: ssh takes no port behind a colon."""
    pytest.importorskip("asyncssh")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(SubmissionFailed, match=rf"Try `ssh -p {port} me@127\.0\.0\.1` by hand"):
            ask_host(Host.parse(f"me@127.0.0.1:{port}"), "true")


def test_every_card_of_every_host_computes_a_tile() -> None:
    """Seen to fail where the cards of one host were counted: the forecast was three times too long."""
    table = ClusterConfig(kind="ssh", hosts=["a", "b", "c"], gpus_per_node=4)
    assert CLUSTERS["ssh"].slots(table) == 12
    assert CLUSTERS["ssh"].slots(table.model_copy(update={"workers": 5})) == 5


def test_an_ssh_cluster_needs_hosts() -> None:
    with pytest.raises(ConfigError, match=r"needs cluster.hosts"), CLUSTERS["ssh"].executor(ClusterConfig(), nothing):
        pass


def test_workers_are_dealt_to_hosts_evenly() -> None:
    assert shares(None, 3) == [None, None, None]
    assert shares(7, 3) == [3, 2, 2]
    assert shares(2, 3) == [1, 1, 0]


def seconds_until_given_up(silence_seconds: float, *, line_every: float | None = None, lines: int = 0) -> float:
    """Measure how long a host stays with a driver that says some lines and then holds the link open in silence."""
    reader, writer = os.pipe()
    with io.FileIO(reader) as heard, io.FileIO(writer, "w") as saying:
        pulse = Pulse(heard, silence_seconds)
        began = time.monotonic()

        async def drive() -> None:
            stopping = asyncio.ensure_future(pulse.stops())
            for _ in range(lines):
                await asyncio.sleep(line_every or 0)
                saying.write(b"\n")
            await stopping

        asyncio.run(drive())
        return time.monotonic() - began


@pytest.mark.slow
def test_a_host_gives_up_a_driver_that_falls_silent_and_not_one_that_speaks() -> None:
    assert seconds_until_given_up(0.5) < 5
    assert seconds_until_given_up(0.5, line_every=0.1, lines=15) >= 1.5


@pytest.mark.slow
def test_a_host_gives_up_a_driver_whose_link_ends() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with io.FileIO(reader) as heard:
        asyncio.run(asyncio.wait_for(Pulse(heard, 3600).stops(), 10))


class Loopback(Host):
    """A host on this machine, at a port of a server whose key is in no list."""

    def connect(self) -> Any:
        import asyncssh

        return asyncssh.connect("127.0.0.1", self.port, known_hosts=None, username="me", client_keys=None)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_bytes_that_are_no_text_do_not_end_a_host(stream: str) -> None:
    """Seen to fail where they are read as UTF-8 alone: UnicodeDecodeError ended the connection, and so the workers."""
    asyncssh = pytest.importorskip("asyncssh")
    announcement = json.dumps({"address": "tls://host:1", "workers": 2}).encode()
    ended = threading.Event()

    class Open(asyncssh.SSHServer):  # type: ignore[name-defined, misc]
        def begin_auth(self, username: str) -> bool:
            return False

    async def answer(process: Any) -> None:
        await process.stdin.readline()
        process.stdout.write(announcement + b"\n")
        getattr(process, stream).write(b"caf\xe9\n")
        process.stderr.write(b"and more\n")
        await asyncio.to_thread(ended.wait, 30)
        process.exit(3)

    async def listen() -> Any:
        key = asyncssh.generate_private_key("ssh-ed25519")
        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Open, server_host_keys=[key], process_factory=answer, encoding=None
        )

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(30)
    assignment = Assignment({}, (), "here", None, "127.0.0.1:0", "tls://host:2", 2, 1, "auto")
    remote = Remote(Loopback("here", "here", None, server.get_port()), assignment)
    remotes = Remotes("python")
    try:
        remotes.start_workers([remote], None)
        wait_until(lambda: "and more" in remote.said, "the last line", remote.explain, 30)
        assert (remote.problem, remote.announced) == ("", Announcement("tls://host:1", 2))
        assert ("caf\N{REPLACEMENT CHARACTER}" in remote.said) is (stream == "stderr")
        ended.set()
        wait_until(lambda: bool(remote.problem), "the end", seconds=30)
        assert remote.problem == "its process ended with status 3"
    finally:
        ended.set()
        remotes.close()
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def test_a_tilde_is_this_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail as it was given: the command line of a host quotes it."""
    monkeypatch.setenv("HOME", "/somebody")
    assert SshOptions.of(ClusterConfig(kind="ssh", python="~/venv/bin/python")).python == "/somebody/venv/bin/python"


def test_the_cluster_file_that_an_operator_edits_is_valid() -> None:
    text = (Path(__file__).parent.parent.parent / "deploy" / "ssh" / "cluster.toml").read_text()
    for lines in (text, re.sub(r"(?m)^# (?=\w+ = )", "", text)):  # as it is, and with every option
        table = tomllib.loads(lines)
        config = parse_config({"network": {"preset": "cntk"}} | table, "cluster.toml").cluster
        cluster_of(config)
        assert [Host.parse(host).name for host in SshOptions.of(config).hosts] == ["node1", "node2", "node3"]
