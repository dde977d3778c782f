"""A driver as a process of its own on this machine: it goes on when the terminal is closed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from dask.utils import parse_bytes

from pipeline.config import RunConfig
from pipeline.errors import SubmissionFailed
from pipeline.executors import WorkerMemory
from pipeline.resources import memory_bytes
from pipeline.storage import StorePath
from pipeline.submission.base import State, Submitter, log_folder

START_SECONDS, POLL_SECONDS = 10.0, 0.001


class LocalSubmitter(Submitter):
    """Starts a driver in a session of its own, so that no hang-up and no Ctrl-C reaches it."""

    def check(self, config: RunConfig) -> None:
        """Refuse nothing: this process is the proof that another one can run here."""

    def memory(self, config: RunConfig) -> WorkerMemory | None:
        limit = config.cluster.memory_limit
        if config.cluster.kind != "local" or not isinstance(limit, str) or limit == "auto":
            return None  # what Dask makes of it the executor will know
        return WorkerMemory(min(parse_bytes(limit), memory_bytes()), config.cluster.threads_per_worker)

    def submit(self, place: StorePath, config: RunConfig) -> str:
        command = [sys.executable, "-m", "pipeline.cli", "drive", str(place)]
        try:
            with open(log_folder(place) / "driver.log", "ab", opener=_without_waiting) as file:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
                )
        except OSError as error:
            raise SubmissionFailed(f"cannot start a driver on this machine: {error}") from error
        # It is known by its command line, which the system sets an instant after it has begun.
        deadline = time.monotonic() + START_SECONDS
        while not _drives(process.pid) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return f"{socket.gethostname()}:{process.pid}"

    def state(self, job: str) -> State:
        pid = _pid_here(job)
        if pid is None:
            return "unknown"
        return "running" if _drives(pid) else "gone"

    def withdraw(self, job: str, *, now: bool) -> bool:
        pid = _pid_here(job)
        if not now or pid is None or not _drives(pid):
            return False
        os.killpg(pid, signal.SIGKILL)  # its workers are of its session
        return True

    def go_on(self, place: StorePath, config: RunConfig) -> str | None:
        return None


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe in its place that nobody reads is an error, not a wait."""
    return os.open(path, flags | os.O_NONBLOCK, 0o644)


def _pid_here(job: str) -> int | None:
    host, _, pid = job.rpartition(":")
    return int(pid) if host == socket.gethostname() and re.fullmatch(r"[0-9]{1,9}", pid) else None


def _drives(pid: int) -> bool:
    """Tell whether a process is a driver: its number may have passed on to another one."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return _is_alive(pid) if not Path("/proc/self").exists() else False
    return b"pipeline.cli" in command and b"drive" in command


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
