"""A driver as a process of its own on this machine: it goes on when the terminal is closed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import psutil

from cntk_pipeline.clusters.submitter import State, Submitter, driver_command, is_driver, log_folder
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import SubmissionFailed
from cntk_pipeline.rundir.submissions import Submission
from cntk_pipeline.storage import StorePath

START_SECONDS, POLL_SECONDS = 10.0, 0.001

_PID = re.compile(r"[1-9][0-9]{0,8}")


class LocalSubmitter(Submitter):
    """Starts a driver in a session of its own, so that no hang-up and no Ctrl-C reaches it."""

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
        os.killpg(pid, signal.SIGKILL)  # its workers are of its session
        return True


BACKGROUND = LocalSubmitter()
"""What starts drivers here, for every kind of cluster that has no machines of its own for them."""


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe in its place that nobody reads is an error, not a wait."""
    return os.open(path, flags | os.O_NONBLOCK, 0o644)


def start_driver(place: StorePath, told: str) -> str:
    """Start a driver of a run directory in the background of this machine; return what it is called.

    Raises
    ------
    SubmissionFailed
        If the system starts none.
    """
    command = [sys.executable, *driver_command(str(place)), "--told", told]
    try:
        with open(log_folder(place) / "driver.log", "ab", opener=_without_waiting) as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
    except OSError as error:
        raise SubmissionFailed(f"cannot start a driver on this machine: {error}") from error
    # It is known by its command line, which the system sets an instant after it has begun.
    deadline = time.monotonic() + START_SECONDS
    while not _drives(process.pid, str(place)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return f"{socket.gethostname()}:{process.pid}"


def _pid_here(job: str) -> int | None:
    host, _, pid = job.rpartition(":")
    return int(pid) if host == socket.gethostname() and _PID.fullmatch(pid) else None


def _drives(pid: int, place: str) -> bool:
    """Tell whether a process drives a run directory: its number may have passed on, to a driver of another one too."""
    try:
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return is_driver(command, place)
