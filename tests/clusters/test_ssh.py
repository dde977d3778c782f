import asyncio
import io
import os
import re
import time
import tomllib
from pathlib import Path

import pytest

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.ssh.executor import shares
from cntk_pipeline.clusters.ssh.host import Pulse
from cntk_pipeline.clusters.ssh.login import Host
from cntk_pipeline.clusters.ssh.options import SshOptions
from cntk_pipeline.clusters.table import cluster_of
from cntk_pipeline.config import ClusterConfig, parse_config
from cntk_pipeline.errors import ConfigError


def nothing() -> None:
    pass


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


def test_the_cluster_file_that_an_operator_edits_is_valid() -> None:
    text = (Path(__file__).parent.parent.parent / "deploy" / "ssh" / "cluster.toml").read_text()
    for lines in (text, re.sub(r"(?m)^# (?=\w+ = )", "", text)):  # as it is, and with every option
        table = tomllib.loads(lines)
        config = parse_config({"network": {"preset": "cntk"}} | table, "cluster.toml").cluster
        cluster_of(config)
        assert [Host.parse(host).name for host in SshOptions.of(config).hosts] == ["node1", "node2", "node3"]
