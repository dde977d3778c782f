"""A host that is reached by ssh, and the login to it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cntk_pipeline.clusters.ssh.messages import BEAT_SECONDS
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.units import shell_word

START_SECONDS = 120.0
"""Time to start a host: to log in, import everything from a shared file system, and start its workers."""

_SAFE, _PORT = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%+@-]*"), re.compile(r"[0-9]{1,5}")
"""Characters of names of hosts and users: ~/.ssh/config may put them into a command (ProxyCommand)."""


@dataclass(frozen=True)
class Host:
    """A host as the ``[cluster]`` table names it: ``[user@]name[:port]``; the rest is in ~/.ssh/config."""

    text: str
    name: str
    user: str | None
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Host":
        """Read the name of a host.

        Raises
        ------
        ConfigError
            If it is invalid.
        """
        user, at, rest = text.rpartition("@")
        if rest.startswith("["):  # an IPv6 address, with or without a port
            name, _, port = rest[1:].partition("]")
            port = port.removeprefix(":")
        else:
            name, _, port = rest.partition(":") if rest.count(":") == 1 else (rest, "", "")
        safe = _SAFE.fullmatch(name) and (not at or _SAFE.fullmatch(user)) and (not port or _PORT.fullmatch(port))
        if safe and port and not 1 <= int(port) <= 65535:
            raise ConfigError(f"cluster.hosts: {text!r}: expected a port from 1 to 65535, got {port}")
        if not safe:
            raise ConfigError(f'cluster.hosts: {text!r} is no host: write "node1", "user@node1" or "user@node1:2222"')
        return cls(text, name, user or None, int(port) if port else None)

    @property
    def command(self) -> str:
        """The command that a person types to log in."""
        name = self.name if self.user is None else f"{self.user}@{self.name}"
        return " ".join(["ssh", *([] if self.port is None else ["-p", str(self.port)]), shell_word(name)])

    def connect(self) -> Any:
        """Log in: return asyncssh's asynchronous context manager, which notices a silent link in half a minute."""
        import asyncssh

        place = ({"port": self.port} if self.port else {}) | ({"username": self.user} if self.user else {})
        alive = {"keepalive_interval": BEAT_SECONDS, "keepalive_count_max": 3, "connect_timeout": START_SECONDS / 2}
        return asyncssh.connect(self.name, **place, **alive)


def parse_hosts(texts: Sequence[str]) -> list[Host]:
    """Read the hosts of a cluster.

    Raises
    ------
    ConfigError
        If there are none, or one is invalid.
    """
    if not texts:
        raise ConfigError('the "ssh" cluster needs cluster.hosts, like ["node1", "user@node2:2222"]')
    return [Host.parse(text) for text in texts]
