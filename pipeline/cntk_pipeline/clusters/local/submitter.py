"""A driver as a process of its own on this machine: it goes on when the terminal is closed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

from cntk_pipeline.clusters.submitter import State, Submitter, driver_command, is_driver, log_folder
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import SubmissionFailed
from cntk_pipeline.rundir.submissions import Submission
from cntk_pipeline.storage import StorePath

START_SECONDS, POLL_SECONDS = 10.0, 0.001

_PID = re.compile(r"[1-9][0-9]{0,8}")


class LocalSubmitter(Submitter):
    """A submitter that starts drivers in sessions of their own, so that no hang-up and no Ctrl-C reaches them."""

    def check(self, config: RunConfig) -> None:
        """Refuse nothing: this process is the proof that another one can run here."""

    def submit(self, place: StorePath, config: RunConfig, told: str) -> str:
        return start_driver(place, told)

    def state(self, submission: Submission) -> State:
        pid = _pid_here(submission.job)
        if pid is None:
            return "unknown"
        return "running" if _drives(pid, submission.place) else "gone"

    def withdraw(self, submission: Submission, *, now: bool) -> bool:
        pid = _pid_here(submission.job)
        if not now or pid is None or not _drives(pid, submission.place):
            return False
        os.killpg(pid, signal.SIGKILL)  # its workers belong to its session
        return True


BACKGROUND = LocalSubmitter()
"""The submitter of every kind of cluster without machines for drivers: it starts them here."""


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe without a reader in its place is an error, not a wait."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def start_driver(place: StorePath, told: str) -> str:
    """Start a driver of a run directory in the background of this machine; return its name.

    Raises
    ------
    SubmissionFailed
        If the system cannot start it.
    """
    command = [sys.executable, *driver_command(str(place)), "--told", told]
    try:
        with open(log_folder(place) / "driver.log", "ab", opener=_without_waiting) as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
    except OSError as error:
        raise SubmissionFailed(f"cannot start a driver on this machine: {error}") from error
    # The process is known by its command line, which the system sets an instant after its start.
    deadline = time.monotonic() + START_SECONDS
    while not _drives(process.pid, str(place)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return f"{socket.gethostname()}:{process.pid}"


def _pid_here(job: str) -> int | None:
    host, _, pid = job.rpartition(":")
    return int(pid) if host == socket.gethostname() and _PID.fullmatch(pid) else None


def _drives(pid: int, place: str) -> bool:
    """Tell whether a process drives a run directory: another process may have its number, also another run's driver."""
    import psutil

    try:
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return is_driver(command, place)
