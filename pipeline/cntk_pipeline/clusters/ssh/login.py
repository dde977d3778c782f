"""A host that is reached by ssh, and the login to it."""

import re
from dataclasses import dataclass
from typing import Any

from cntk_pipeline.clusters.ssh.messages import BEAT_SECONDS
from cntk_pipeline.errors import ConfigError

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
        if not safe:
            raise ConfigError(f'cluster.hosts: {text!r} is no host: write "node1", "user@node1" or "user@node1:2222"')
        return cls(text, name, user or None, int(port) if port else None)

    def connect(self) -> Any:
        """Log in: return asyncssh's asynchronous context manager, which notices a silent link in half a minute."""
        import asyncssh

        place = ({"port": self.port} if self.port else {}) | ({"username": self.user} if self.user else {})
        alive = {"keepalive_interval": BEAT_SECONDS, "keepalive_count_max": 3, "connect_timeout": START_SECONDS / 2}
        return asyncssh.connect(self.name, **place, **alive)
