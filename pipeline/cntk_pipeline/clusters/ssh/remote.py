"""Processes on hosts over ssh: `clusters.ssh.host` on each, started anew where it ends."""

import asyncio
import contextlib
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from cntk_pipeline.clusters.base import require_no_stop
from cntk_pipeline.clusters.ssh.login import START_SECONDS, Host
from cntk_pipeline.clusters.ssh.messages import ANNOUNCEMENT, BEAT_SECONDS, Announcement, Assignment
from cntk_pipeline.errors import WorkersLost

FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS = 1.0, 60.0
"""First and last delay before a host that went away is tried again; delays double."""

CLOSE_SECONDS = 20.0
POLL_SECONDS = 0.05

KEPT_LINES = 5
"""Lines of a host's standard error kept for messages; the rest is read and dropped, so that the host never blocks."""


@dataclass
class Remote:
    """A host with its assignment and its state.

    Attributes
    ----------
    announced : Announcement, optional
        Its announcement; None while it runs nothing.
    problem : str
        Why it runs nothing.
    said : deque of str
        The last lines of its standard error.
    """

    host: Host
    assignment: Assignment
    announced: Announcement | None = None
    problem: str = ""
    said: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))

    def explain(self) -> str:
        """Describe the problem in a few lines."""
        return "\n    ".join([f"{self.host.text}: {self.problem or 'nothing is heard of it'}", *self.said])


class Remotes:
    """The scheduler and the workers of all hosts, kept running by a separate thread.

    Parameters
    ----------
    python : str
        The Python with this package, on all hosts.
    """

    def __init__(self, python: str) -> None:
        # The only text that a shell sees; everything else goes to the standard input of this command.
        self._command = shlex.join([python, "-P", "-m", "cntk_pipeline.clusters.ssh.host"])
        self._loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._scheduler: Remote | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="cntk-ssh", daemon=True)
        self._thread.start()

    def start_scheduler(self, remote: Remote, stop: threading.Event | None) -> str:
        """Start the scheduler and return its address; it is started only once, since all tasks are lost with it.

        Raises
        ------
        WorkersLost
            If it does not start.
        """
        self._begin([remote], self._run, stop)
        if remote.announced is None:
            raise WorkersLost(f"no scheduler started on {remote.explain()}")
        self._scheduler = remote
        return remote.announced.address

    def scheduler_end(self) -> str:
        """Return why the scheduler does not run any more; empty while it runs."""
        remote = self._scheduler
        return "" if remote is None or remote.announced is not None else remote.explain()

    def start_workers(
        self, remotes: Sequence[Remote], minimum: int | None, stop: threading.Event | None = None
    ) -> None:
        """Start the workers of all hosts, and restart workers of hosts that were away, from now on.

        Raises
        ------
        WorkersLost
            If fewer than ``minimum`` workers started; None requires the workers of all hosts.
        """
        self._begin(remotes, self._keep, stop)
        away = [remote for remote in remotes if remote.announced is None]
        count = sum(remote.announced.workers for remote in remotes if remote.announced)
        if away and (minimum is None or count < minimum):
            raise WorkersLost(
                f"only {count} workers started. Mend these hosts, or set cluster.minimum_workers to begin with fewer:\n"
                + "\n".join(f"  {remote.explain()}" for remote in away)
            )

    def close(self) -> None:
        """End everything on all hosts."""
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(
        self,
        remotes: Sequence[Remote],
        run: Callable[[Remote], Coroutine[Any, Any, None]],
        stop: threading.Event | None,
    ) -> None:
        """Begin ``run`` on hosts, and wait until each has announced itself or met its first problem."""

        async def create_tasks() -> None:
            self._tasks += [asyncio.ensure_future(run(remote)) for remote in remotes]

        asyncio.run_coroutine_threadsafe(create_tasks(), self._loop).result()
        deadline = time.monotonic() + START_SECONDS
        while any(remote.announced is None and not remote.problem for remote in remotes):
            require_no_stop(stop)
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)

    async def _keep(self, remote: Remote) -> None:
        delay = FIRST_DELAY_SECONDS
        while True:
            began = time.monotonic()
            await self._run(remote)
            # A process that ran for a while may restart at once; a host that never starts must not be tried constantly.
            ran = time.monotonic() - began > LAST_DELAY_SECONDS
            await asyncio.sleep(FIRST_DELAY_SECONDS if ran else delay)
            delay = FIRST_DELAY_SECONDS if ran else min(2 * delay, LAST_DELAY_SECONDS)

    async def _run(self, remote: Remote) -> None:
        """Run a host's process to its end, also to an end by an error, and keep ``remote`` up to date."""
        import asyncssh

        try:
            async with (
                remote.host.connect() as connection,
                connection.create_process(self._command, errors="replace") as process,
            ):
                await _follow(remote, process)
                remote.problem = f"its process ended with status {process.exit_status}"
        except (OSError, asyncssh.Error, ValueError) as error:
            remote.problem = f"{type(error).__name__}: {error}"
        finally:
            remote.announced = None


async def _follow(remote: Remote, process: Any) -> None:
    """Give a process its assignment, take its announcement, and stay until its output ends."""

    async def drain(stream: Any) -> None:
        async for line in stream:
            remote.said.append(line.rstrip()[:200])

    async def beat() -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            process.stdin.write("\n")

    process.stdin.write(remote.assignment.line())
    draining, beating = asyncio.ensure_future(drain(process.stderr)), asyncio.ensure_future(beat())
    try:
        first = await process.stdout.readline()
        if first:
            remote.announced = ANNOUNCEMENT.parse(first.encode(), f"what {remote.host.text} says first")
        async for _ in process.stdout:
            pass
        await draining
        await process.wait()
    finally:
        draining.cancel()
        beating.cancel()
        process.stdin.write_eof()  # ends the process
