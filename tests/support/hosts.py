"""Hosts on one machine: network namespaces, each with an address of its own, on one bridge."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Hosts:
    """Namespaces h0, h1, ... whose links can be cut; names hold the process number, so that two sessions may run."""

    count: int

    @property
    def bridge(self) -> str:
        return f"cb{os.getpid()}"

    def name(self, host: int) -> str:
        return f"cntk{os.getpid()}h{host}"

    def address(self, host: int) -> str:
        return f"10.77.0.{host + 1}"

    def open(self) -> None:
        ip("link", "add", self.bridge, "type", "bridge")
        ip("link", "set", self.bridge, "up")
        for host in range(self.count):
            name, cable = self.name(host), f"cv{os.getpid()}h{host}"
            ip("netns", "add", name)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", cable, "master", self.bridge, "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")

    def close(self) -> None:
        for host in range(self.count):
            subprocess.run(["ip", "netns", "del", self.name(host)], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)

    def start(self, host: int, command: list[Any], log: Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start a process on a host, whose output goes to a file."""
        within = ["ip", "netns", "exec", self.name(host), *map(str, command)]
        with log.open("ab") as file:
            return subprocess.Popen(within, stdout=file, stderr=file, start_new_session=True, **options)

    def cut(self, host: int) -> None:
        ip("-n", self.name(host), "link", "set", "eth0", "down")

    def mend(self, host: int) -> None:
        ip("-n", self.name(host), "link", "set", "eth0", "up")

    def throttle(self, host: int, rate: str) -> None:
        """Let a host send no faster than a rate as tc writes it ("256kbit")."""
        shaping = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "16kbit", "latency", "2s"]
        subprocess.run(["ip", "netns", "exec", self.name(host), "tc", *shaping], check=True, capture_output=True)

    def release(self, host: int) -> None:
        shaping = ["qdisc", "del", "dev", "eth0", "root"]
        subprocess.run(["ip", "netns", "exec", self.name(host), "tc", *shaping], check=True, capture_output=True)
