"""Job steps of SLURM with workers, and the watchdog that restarts lost ones."""

import contextlib
import subprocess
import threading
import time
from dataclasses import dataclass

from cntk_pipeline.errors import WorkersLost
from cntk_pipeline.telemetry.events import Details, Event, emit

MAX_RESTARTS, FIRST_DELAY_SECONDS, HEALTHY_SECONDS = 5, 2.0, 600.0
"""Restarts of a node's workers: after 2, 4, 8, ... s; after ten good minutes the count begins anew."""

CLOSE_SECONDS = 20.0


@dataclass(frozen=True)
class NodeShare:
    """The part of an allocation on one node: the node's name and its number of workers."""

    node: str
    workers: int


class WorkerSteps:
    """Job steps of workers, one on each node; a step that ends too early is restarted, within limits.

    Parameters
    ----------
    shares : list of NodeShare
        Nodes and their workers.
    command : list of str
        Of one worker.
    environment : mapping of str to str
        Of the workers.
    cards : bool
        Whether each worker has a graphics card of its own.
    """

    def __init__(
        self, shares: list[NodeShare], command: list[str], environment: dict[str, str], *, cards: bool = False
    ) -> None:
        # SLURM shows each task its card alone. The task is a nanny, so that a restarted worker has the same one.
        options = ["--gpus-per-task=1"] if cards else []
        self._steps = [_Step(share, [*options, *command], environment) for share in shares]
        self._ending = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="worker-steps", daemon=True)

    def __enter__(self) -> "WorkerSteps":
        try:
            for step in self._steps:
                step.start()
        except OSError as error:
            for step in self._steps:
                step.end(0.0)
            raise WorkersLost(f"srun cannot be started: {error.strerror}") from error
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        # If the wait for workers was given up, they were not told to leave, and they have nothing to finish.
        patience = CLOSE_SECONDS if self._ending.is_set() else 0.0
        self.expect_the_end()
        self._watchdog.join()
        deadline = time.monotonic() + patience
        for step in self._steps:
            step.end(deadline)

    @property
    def all_given_up(self) -> bool:
        """Tell whether no node's workers are restarted any more."""
        return all(step.given_up for step in self._steps)

    def expect_the_end(self) -> None:
        """Restart no workers from now on."""
        self._ending.set()

    def _watch(self) -> None:
        while not self._ending.wait(0.5):
            for step in self._steps:
                step.restore()


class _Step:
    """The workers of one node."""

    def __init__(self, share: NodeShare, command: list[str], environment: dict[str, str]) -> None:
        self._share = share
        self._command = command
        self._environment = environment
        self._restarts = 0
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self.given_up = False

    def start(self) -> None:
        # --overlap: the batch step holds the job's cores already. A worker that fails must not end its neighbours.
        srun = ["srun", "--overlap", "--kill-on-bad-exit=0", "--nodes=1", f"--nodelist={self._share.node}"]
        threads = self._command[self._command.index("--nthreads") + 1]
        srun += [f"--ntasks={self._share.workers}", f"--cpus-per-task={threads}", "--job-name=cntk-workers"]
        srun += ["--export=ALL"]  # a job that was submitted with --export=NONE would strip its workers too
        self._started = time.monotonic()
        self._process = subprocess.Popen([*srun, *self._command], stdin=subprocess.DEVNULL, env=self._environment)

    def restore(self) -> None:
        """Restart the workers if they have ended and the delay is over."""
        assert self._process is not None
        code = self._process.poll()
        if code is None or self.given_up:
            return
        lived = time.monotonic() - self._started
        details: Details = {"node": self._share.node, "code": code, "restarts": self._restarts}
        if lived > HEALTHY_SECONDS:
            self._restarts = 0
        if self._restarts >= MAX_RESTARTS:
            self.given_up = True
            emit(Event("workers_given_up", details=details))
        elif lived > FIRST_DELAY_SECONDS * 2**self._restarts:
            self._restarts += 1
            emit(Event("workers_restarted", details=details))
            with contextlib.suppress(OSError):  # no process is to be had right now: it is tried again later
                self.start()

    def end(self, deadline: float) -> None:
        """Wait for the workers to leave until the deadline, then kill them."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()  # SLURM ends its tasks
            self._process.wait()
