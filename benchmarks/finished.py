"""Measures what a run of many finished tiles costs those who look at it: status, resume and verify.

Run: ``python benchmarks/finished.py``, with ``--tiles`` for another number than a million, ``--steps`` for some of the
steps, ``--folder`` for a place of four kilobytes a tile.

The kernel of a run is made of tiles of one sample: chunks of eight bytes, and a receipt for each. Each step is a
process of its own, so that its seconds and its largest memory are those of the command. ``floor`` is what any program
would have to do: list the chunks with their sizes, read each chunk's checksum, and read the journal. ``resume`` ends
where the first stage begins. Each figure stands beside its target.
"""

import argparse
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xxhash
from rich.console import Console
from rich.table import Table

from cntk_pipeline.config import RunConfig, parse_config
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.errors import Interrupted
from cntk_pipeline.gram.tiles import kernel_jobs
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage.tiled_array import TiledArray, encode_chunk
from cntk_pipeline.tasks import Chunk, Receipt
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

TILES = 1_000_000
TARGET_SECONDS, TARGET_BYTES = 30.0, 10**9
"""Of status and of resume, for a million tiles; verify reads everything and has no target of its own."""

AT_ONCE = 1000


class Stopper:
    """A view that stops the run where its first stage begins, and notes when that was."""

    def __init__(self) -> None:
        self.stop, self.began = threading.Event(), 0.0

    def say(self, text: str) -> None:
        """Show nothing."""

    def begin(self, stage: str) -> None:
        """Stop: what is done is known, and the driver is about to begin."""
        if not self.stop.is_set():
            self.began = time.perf_counter()
        self.stop.set()

    def progress(self, progress: Progress) -> None:
        """Show nothing."""


def workflow(folder: Path, tiles: int) -> RunConfig:
    """Write a data set whose kernel has about so many tiles of one sample, and return its workflow."""
    side = int(math.sqrt(2 * tiles))  # of a triangle
    images = np.random.default_rng(5).standard_normal((side + 1, 4, 4, 1)).astype(np.float32)
    labels = np.arange(side + 1) % 2
    parts = {"x_train": images[:side], "y_train": labels[:side], "x_test": images[side:], "y_test": labels[side:]}
    np.savez(folder / "images.npz", **parts)
    return parse_config(
        {
            "data": {"source": "npz", "path": str(folder / "images.npz")},
            "network": {"preset": "fully_connected"},
            "readouts": {"depths": [2]},
            "kernel": {"tile": 1},
            "cluster": {"kind": "serial"},
            "store": {"path": str(folder / "run")},
        },
        "finished",
    )


def make(folder: Path, tiles: int) -> int:
    """Make a run whose kernel is finished; return the number of its tiles."""
    config = workflow(folder, tiles)
    stopped(lambda view: runs.start(config, view, view.stop))
    run = RunDirectory(folder / "run")
    jobs = kernel_jobs(run)
    receipts: list[Receipt] = []
    for receipt in write_tiles(run):
        receipts.append(receipt)
        if len(receipts) == AT_ONCE:
            run.journal.append(receipts)
            receipts.clear()
    run.journal.append(receipts)
    run.journal.close()
    return len(jobs)


def write_tiles(run: RunDirectory) -> Iterator[Receipt]:
    """Write the chunks of all tiles, all ones, without waiting for the disk, and make their receipts."""
    made: set[str] = set()
    same: dict[TiledArray, tuple[str, bytes, Chunk]] = {}
    for job in kernel_jobs(run):
        chunks = []
        for array, index in job.places(run):
            if array not in same:
                same[array] = str(array.path / "c"), *_ones(array)
            folder, content, chunk = same[array]
            folder = "/".join((folder, *map(str, index[:-1])))
            if folder not in made:
                os.makedirs(folder, exist_ok=True)
                made.add(folder)
            descriptor = os.open(f"{folder}/{index[-1]}", os.O_CREAT | os.O_WRONLY, 0o644)
            os.write(descriptor, content)
            os.close(descriptor)
            chunks.append(chunk)
        yield Receipt(job.task, tuple(chunks), 0.1, 20.0, 0.2, "host")


def _ones(array: TiledArray) -> tuple[bytes, Chunk]:
    payload, checksum = encode_chunk(np.ones(array.tile, array.dtype), array.tile, array.dtype)
    digest, crc = xxhash.xxh3_128_hexdigest(bytes(payload)), int.from_bytes(checksum, "little")
    return bytes(payload) + checksum, Chunk(array.path.name, len(payload) + len(checksum), crc, digest)


def stopped(action: Callable[[Stopper], object]) -> Stopper:
    """Run until the first stage begins."""
    view = Stopper()
    with contextlib.suppress(Interrupted):
        action(view)
    return view


def floor(path: Path) -> None:
    """List the chunks and read their checksums, and read the journal."""
    folders = [path / "kernel.zarr"]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(Path(entry.path))
                    continue
                size = entry.stat().st_size
                descriptor = os.open(entry.path, os.O_RDONLY)
                os.pread(descriptor, 4, size - 4)
                os.close(descriptor)
    for segment in (path / "journal").iterdir():
        with open(segment, "rb") as file:
            while file.read(2**23):
                pass


def resume(path: Path) -> float:
    """Go on with a run; return when its first stage began."""
    return stopped(lambda view: runs.resume(path, view, view.stop)).began


def report(path: Path) -> None:
    """Report a run as `cntk status` does, and require that its kernel is finished."""
    found = make_report(RunDirectory(path))
    assert all(stage.done == stage.total for stage in found.stages if stage.phase == "kernel")


def verify(path: Path) -> None:
    """Verify a run, and require that nothing of it is bad."""
    assert not runs.verify(path).needs_resume


STEPS: dict[str, Callable[[Path], float | None]] = {
    "floor": floor,
    "status": report,
    "resume": resume,
    "verify": verify,
}


def measure(step: str, path: Path) -> dict[str, float]:
    """Do a step in this process; return its seconds by the clock and of the processor, and the process's most bytes."""
    began, before = time.perf_counter(), time.process_time()
    ended = STEPS[step](path) or time.perf_counter()
    return {"seconds": ended - began, "processor": time.process_time() - before, "bytes": most_bytes()}


def most_bytes() -> int:
    """Return the most memory that this process has held; `getrusage` would count that of the process that began it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def main() -> None:
    """Make the run, and show what each step costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=TILES)
    parser.add_argument("--steps", nargs="*", choices=list(STEPS), default=list(STEPS))
    parser.add_argument(
        "--folder", type=Path, help="of the run; a temporary one by default. A run there is taken as it is"
    )
    parser.add_argument("--measure", choices=list(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder / "run")))
        return
    table = Table("", "by the clock", "of a processor", "memory at most", "", box=None, pad_edge=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tiles = options.tiles if (folder / "run").exists() else make(folder, options.tiles)
        for step in options.steps:
            command = [sys.executable, __file__, "--measure", step, "--folder", str(folder)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            missed = step in ("status", "resume") and (
                found["seconds"] > TARGET_SECONDS * tiles / TILES or found["bytes"] > TARGET_BYTES
            )
            times = f"{found['seconds']:.1f} s", f"{found['processor']:.1f} s"
            table.add_row(
                f"{step}, {tiles:,} tiles", *times, f"{found['bytes'] / 1e6:.0f} MB", "missed" if missed else ""
            )
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
