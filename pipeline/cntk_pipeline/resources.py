"""The resources that this process may use: cores and memory.

A batch job, a container or `taskset` gives a process a part of a machine. This module respects the affinity and the
limits of the process's control groups, also of the groups above its own, which available libraries ignore.
"""

import math
import mmap
import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cntk_pipeline.errors import ConfigError

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")

_LIMITS = {resource.RLIMIT_AS: "-v", resource.RLIMIT_DATA: "-d"}
"""Limits on memory that the operating system enforces, with the option of ``ulimit`` that sets each."""


@dataclass(frozen=True)
class BatchJob:
    """The batch job that this process belongs to.

    Attributes
    ----------
    name : str
        In the batch system.
    what : str
        "job", or "pod" where the batch system runs its processes in pods.
    restarts : int, optional
        Number of its restarts under this name; None where they are not counted.
    """

    name: str
    what: str = "job"
    restarts: int | None = None

    @property
    def details(self) -> Mapping[str, str | int]:
        """The fields of the job in events."""
        restart = {} if self.restarts is None else {"restart": self.restarts}
        return {self.what: self.name} | restart


def core_count(groups: Path = _GROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """Count the cores that this process may use: by affinity and by quotas, rounded up; at least one.

    Parameters
    ----------
    groups : Path
        Mount point of control groups.
    own_groups : Path
        The file that names the groups of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _own_folders("cpu", groups, own_groups):
        quota, period = (_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota is None or period is None:
            quota, period = _quota(folder / "cpu.max")
        if quota is not None and period is not None and quota > 0 and period > 0:
            cores = min(cores, math.ceil(quota / period))
    return cores


def memory_bytes(groups: Path = _GROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """Return the memory that this process and its children may hold together, in bytes.

    Parameters
    ----------
    groups, own_groups : Path
        As in `core_count`.
    """
    import psutil  # is not needed where only cores are counted

    limit = int(psutil.virtual_memory().total)
    resident = resource.getrlimit(resource.RLIMIT_RSS)[1]
    if resident != resource.RLIM_INFINITY:
        limit = min(limit, resident)
    for folder in _own_folders("memory", groups, own_groups):
        for name in ("memory.limit_in_bytes", "memory.max", "memory.high"):
            found = _number(folder / name)
            if found is not None and found > 0:
                limit = min(limit, found)
    return limit


def worker_count(wanted: int | None, threads: int) -> int:
    """Return the number of workers here: the wanted number, or one for every ``threads`` cores."""
    return wanted or max(1, core_count() // threads)


def worker_memory(limit: str | float, threads: int) -> str | float:
    """Turn a share of this machine's memory into bytes: a number up to 1, or "auto" for a worker's threads' share.

    Dask would take the share of the whole machine, not of the memory that this process may use.
    """
    if limit == "auto":
        return int(memory_bytes() * min(1.0, threads / core_count()))
    if isinstance(limit, float) and 0 < limit <= 1:
        return int(memory_bytes() * limit)
    return limit


def _own_folders(controller: str, groups: Path, own_groups: Path) -> Iterator[Path]:
    """List the folders of this process's groups of a controller, from its own to the outermost.

    In a container, the path of its group may be the path on the host, while the group itself appears as the outermost.
    """
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, names, path = line.split(":", 2)
        if not names:  # version 2, alone or beside version 1
            mounts = [groups, groups / "unified"]
        elif controller in names.split(","):
            mounts = [groups / name for name in {names, controller}]
        else:
            continue
        inner = Path(path.lstrip("/"))
        for mount in mounts:
            yield from (mount / part for part in (inner, *inner.parents))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is none, or it says "max"
        return None


def _quota(path: Path) -> tuple[int | None, int | None]:
    try:
        quota, period = map(int, path.read_text().split())
    except (OSError, ValueError):
        return None, None
    return quota, period


def limits_set() -> str:
    """Write the limits on the memory of this process as ``ulimit`` does; empty where there are none."""
    limits = {option: resource.getrlimit(limit)[0] for limit, option in _LIMITS.items()}
    return " and ".join(f"`ulimit {option}` ({limit >> 10} kB)" for option, limit in limits.items() if limit >= 0)


def require_room(count_bytes: int, need: str, remedy: str) -> None:
    """Refuse to go on where a limit of this process leaves less than so many bytes.

    Parameters
    ----------
    need : str
        Subject and verb of the need, for the message.
    remedy : str
        An alternative to lifting the limit.

    Raises
    ------
    ConfigError
        If it leaves less, with the limit and the remedy.
    """
    set_here = limits_set()
    if not set_here:
        return
    try:
        mmap.mmap(-1, count_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        raise ConfigError(
            f"the limit on the memory of this process, {set_here}, leaves less than the {count_bytes >> 20} MiB that "
            f"{need}: lift it where the run is started, or {remedy}"
        ) from None
