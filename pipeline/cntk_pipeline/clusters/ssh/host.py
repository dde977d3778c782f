"""The process on each host of an "ssh" cluster: a scheduler, or workers, as long as the driver lives.

The driver starts ``python -m cntk_pipeline.clusters.ssh.host`` and sends everything else to its standard input, so that
neither keys nor settings are in a command line that others can list. Then it sends a line every few seconds. When the
input ends, or is silent for long, the driver or its link is gone, and all processes here end.
"""

import asyncio
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

import dask.config
import distributed
from distributed.utils import get_ip_interface

from cntk_pipeline.clusters.dask.clock import keep_steady
from cntk_pipeline.clusters.devices import VISIBLE, cores_of_worker, visible_devices
from cntk_pipeline.clusters.ssh.messages import Announcement, Assignment
from cntk_pipeline.resources import worker_count, worker_memory

SILENCE_SECONDS = 120.0
"""Time without a line after which the driver's link counts as cut; it sends one every `BEAT_SECONDS`."""


class Pulse:
    """A watch on the driver's lines in a stream, until it ends or is silent for long."""

    def __init__(self, stream: Any, silence_seconds: float) -> None:
        self._stream, self._silence_seconds = stream, silence_seconds
        self._heard = time.monotonic()
        self._ended = False
        # A thread that blocks in a read cannot be ended: it must not keep the process.
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while self._stream.readline():
            self._heard = time.monotonic()
        self._ended = True

    async def stops(self) -> None:
        """Return when the driver is gone."""
        while not self._ended and time.monotonic() - self._heard < self._silence_seconds:
            await asyncio.sleep(0.2)


def bind_address(interface: str | None) -> str:
    """Find the address of this host for the others: of an interface, or the address that ssh was called by."""
    if interface is not None:
        return str(get_ip_interface(interface))
    client_and_server = os.environ.get("SSH_CONNECTION", "").split()
    return client_and_server[2] if len(client_and_server) == 4 else str(distributed.utils.get_ip())


def make_scheduler(assignment: Assignment, host: str) -> Any:
    """Make the scheduler, not yet started; it listens on ``host``, its dashboard at the address in the assignment."""
    return distributed.Scheduler(
        host=host, protocol=assignment.protocol, security=assignment.security, dashboard_address=assignment.dashboard
    )


def make_worker(assignment: Assignment, host: str, number: int) -> Any:
    """Make a worker's nanny, not yet started; it listens on ``host``, its metrics on the loopback.

    ``number`` counts the workers of this host. With the number goes a graphics card, where they have one each.
    """
    return distributed.Nanny(
        assignment.scheduler,
        name=f"{assignment.name}-{number}",
        nthreads=assignment.threads,
        memory_limit=worker_memory(assignment.memory_limit, cores_of_worker(assignment.threads, assignment.gpus)),
        host=host,
        protocol=assignment.protocol,
        security=assignment.security,
        dashboard_address="127.0.0.1:0",
        env={VISIBLE: visible_devices(assignment.gpus)[number]} if assignment.gpus else None,
    )


async def serve(assignment: Assignment, pulse: Pulse, tell: Callable[[Announcement], None]) -> None:
    """Run the servers of the assignment, announce their address, and end when the driver or the scheduler is gone."""
    host = bind_address(assignment.interface)
    if assignment.scheduler is None:
        async with make_scheduler(assignment, host) as scheduler:
            tell(Announcement(scheduler.address, 0))
            await _first_of(scheduler.finished(), pulse.stops())
        return
    count = worker_count(assignment.workers or assignment.gpus, assignment.threads)
    nannies = [make_worker(assignment, host, number) for number in range(count)]
    try:
        await asyncio.gather(*nannies)
        tell(Announcement(host, len(nannies)))
        await _first_of(pulse.stops(), *(_keep(nannies, assignment, host, number) for number in range(len(nannies))))
    finally:
        await asyncio.gather(*(nanny.close() for nanny in nannies), return_exceptions=True)


async def _keep(nannies: list[Any], assignment: Assignment, host: str, number: int) -> None:
    """Replace a nanny that ends, as it does when its worker loses the scheduler; fail if that stays away."""
    while True:
        await nannies[number].finished()
        nannies[number] = make_worker(assignment, host, number)
        await nannies[number]


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Wait for one coroutine to end or to fail; the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


def main() -> None:
    """Read the assignment and serve it."""
    # Without a buffer: a thread that waits for the lock of a buffer would abort the interpreter at its end.
    driver = io.FileIO(sys.stdin.fileno(), closefd=False)
    assignment = Assignment.read(driver.readline())

    def tell(announcement: Announcement) -> None:
        sys.stdout.write(json.dumps(asdict(announcement)) + "\n")
        sys.stdout.flush()

    keep_steady()  # for the nannies; the driver does the same in the scheduler and the workers
    with dask.config.set(assignment.settings):
        asyncio.run(serve(assignment, Pulse(driver, SILENCE_SECONDS), tell))


if __name__ == "__main__":
    main()
