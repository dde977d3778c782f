"""Measures the tiled Cholesky factorisation against the matrix product, and against SciPy in memory.

Run: ``python benchmarks/cholesky.py`` for 12,288 and 24,576 rows on two workers; ``--rows 4096`` for a short look.

The arithmetic: n^3 / 3 operations. The floor is the rate of float64 products of 2,048 rows, measured on all workers at
once, before and after the factorisation, so that both see the same clock. The bytes: every tile is written once,
n^2 / 2 numbers in all; with tiles of b rows, tiles are mapped n^3 / (3 b^3) times, and each time that a process maps
one anew, the checksum of its 8 b^2 bytes takes 1 / 13 of a nanosecond a byte. What is left is the digest and the fsync
of every tile, which the next tile's products hide, and the end of the graph, where one worker waits.

The kernel is synthetic, written tile by tile: products of random vectors plus the identity.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from cntk_pipeline.clusters import CLUSTERS, Executor
from cntk_pipeline.config import ClusterConfig, parse_config
from cntk_pipeline.driver.driver import Driver
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.specification import DataSpecification, EngineRecord
from cntk_pipeline.solvers import Method, System, make_system, requested_solves
from cntk_pipeline.solvers.cholesky import factor_jobs
from cntk_pipeline.workflow.plan import measure_product_rate

KERNEL_TILE = 512
FEATURES = 64
CLASSES = 10
PRODUCT_ROWS = 2048


@dataclass(frozen=True)
class Measured:
    """What came out: times in seconds, rates in operations a second on all workers."""

    tile: int
    product_rate: float
    seconds: float
    rate: float
    error: float
    peak_bytes: int
    core_seconds: float
    read_seconds: float
    write_seconds: float


def vectors(rows: int) -> np.ndarray:
    """Return the random vectors whose products are the kernel."""
    return np.random.default_rng(0).standard_normal((rows, FEATURES)) / FEATURES**0.5


def write_run(path: Path, rows: int, tile: str) -> tuple[RunDirectory, System]:
    """Create a run directory whose kernel is there."""
    config = parse_config(
        {"network": {"preset": "cntk"}, "readouts": {"depths": [3]}, "solve": {"tile": int(tile) if tile else "auto"}},
        "benchmark",
    )
    readouts = gram.readouts_of(config.network, config.readouts)
    data = DataSpecification("", rows, 1, (1, 1, 1), tuple(map(str, range(CLASSES))), standardize=True)
    run = RunDirectory.create(path, gram.specify(data, readouts, config.kernel, EngineRecord(), KERNEL_TILE), {})
    gram.kernel_group(run).create()
    labels = np.random.default_rng(1).integers(0, CLASSES, rows)
    run.stored_data.write({"train_labels": labels, "test_labels": labels[:1]})
    x, name = vectors(rows), readouts[0].name
    kernel, variances, cut = run.kernel(name, "train"), run.kernel(name, "train_variance"), run.train_cut
    for row in range(cut.pieces):
        mine = slice(*cut.bounds(row))
        for col in range(row + 1):
            kernel.write(
                (row, col), x[mine] @ x[slice(*cut.bounds(col))].T + (np.eye(cut.length(row)) if row == col else 0)
            )
        variances.write((row,), np.einsum("nf,nf->n", x[mine], x[mine]) + 1)
    return run, make_system(run, requested_solves(run, config)[0], Method())


def product_rate(executor: Executor) -> float:
    """Measure the matrix product on all workers at once."""
    for k in range(executor.slots):
        executor.submit(("product", k, time.time()), measure_product_rate, PRODUCT_ROWS)
    rates: list[float] = []
    while len(rates) < executor.slots:
        rates += [completion.result for completion in executor.wait(1.0)]
    return sum(rates)


def worker_peak() -> int:
    """Return the largest resident memory that any worker has had, in bytes, mapped tiles included."""
    peaks = []
    for process in psutil.Process().children(recursive=True):
        status = Path(f"/proc/{process.pid}/status").read_text()
        peaks += [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    return max(peaks)


def measure(folder: Path, rows: int, workers: int, tile: str) -> Measured:
    """Factor a kernel with the package's own driver and workers."""
    run, system = write_run(folder / f"run-{rows}", rows, tile)
    config = ClusterConfig(kind="local", workers=workers, memory_limit="2GiB")
    with CLUSTERS["local"].executor(config, os.getpid) as executor:
        rates = [product_rate(executor)]
        driver = Driver(str(run.path), executor, run.journal, lambda progress: None, threading.Event())
        every = factor_jobs(run, system, 0, executor.slots)
        jobs = [job for job in every if job.task.stage.kind != "coefficients"]
        start = time.perf_counter()
        outcome = driver.run(jobs, {})
        seconds = time.perf_counter() - start
        outcome.require()
        peak = worker_peak()
        rates.append(product_rate(executor))
    run.journal.close()
    receipts = list(run.journal.receipts())
    return Measured(
        tile=system.tile,
        product_rate=sum(rates) / 2,
        seconds=seconds,
        rate=rows**3 / 3 / seconds,
        error=factor_error(run, system, rows),
        peak_bytes=peak,
        core_seconds=sum(receipt.seconds for receipt in receipts),
        read_seconds=sum(receipt.read_seconds for receipt in receipts),
        write_seconds=sum(receipt.write_seconds for receipt in receipts),
    )


def factor_error(run: RunDirectory, system: System, rows: int) -> float:
    """Return ``||L L^T v - K v|| / ||K v||`` for a random vector."""
    factor, v = run.solved(system.fingerprint, "factor"), np.random.default_rng(2).standard_normal(rows)
    cut, back, forth = factor.cut(0), np.zeros(rows), np.zeros(rows)
    for result, source, transposed in ((back, v, True), (forth, back, False)):
        for row in range(cut.pieces):
            for col in range(row + 1):
                tile, (i, j) = factor.read_mapped(row, col), (slice(*cut.bounds(row)), slice(*cut.bounds(col)))
                if transposed:
                    result[j] += tile.T @ source[i]
                else:
                    result[i] += tile @ source[j]
    kernel, expected = run.kernel(system.readout, "train"), np.zeros(rows)
    for row in range(run.train_cut.pieces):
        i = slice(*run.train_cut.bounds(row))
        for col in range(row + 1):
            tile, j = kernel.read(row, col).astype(float), slice(*run.train_cut.bounds(col))
            expected[i] += tile @ v[j]
            if row > col:
                expected[j] += tile.T @ v[i]
    return float(np.linalg.norm(forth - expected) / np.linalg.norm(expected))


def scipy_seconds(rows: int) -> float:
    """Time SciPy's factorisation in memory, on all cores, in a process of its own; infinite where it cannot."""
    code = (
        "import sys, time, numpy as np, scipy.linalg\n"
        f"x = np.random.default_rng(0).standard_normal(({rows}, {FEATURES})) / {FEATURES}**0.5\n"
        f"k = x @ x.T; k[np.diag_indices({rows})] += 1\n"
        "start = time.perf_counter()\n"
        "scipy.linalg.cholesky(k, lower=True, overwrite_a=True, check_finite=False)\n"
        "print(time.perf_counter() - start)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return float(ended.stdout) if ended.returncode == 0 else float("inf")


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[12_288, 24_576])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tile", default="", help="of the factor; as the package chooses it by default")
    parser.add_argument("--scipy-up-to", type=int, default=15_000, help="rows that SciPy is asked for in memory")
    parser.add_argument("--folder", type=Path, help="where the run directories are made (default: a temporary folder)")
    arguments = parser.parse_args()
    console = Console(width=120)
    columns = (
        "rows",
        "tile",
        "s",
        "GF/s",
        "of products",
        "SciPy s",
        "SciPy of products",
        "core s",
        "waiting for tiles",
    )
    table = Table(*columns, "writing", "peak MiB", "error", title=f"{arguments.workers} workers")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found = measure(Path(folder), rows, arguments.workers, arguments.tile)
        other = scipy_seconds(rows) if rows <= arguments.scipy_up_to else float("nan")
        table.add_row(
            f"{rows:,}",
            str(found.tile),
            f"{found.seconds:.1f}",
            f"{found.rate / 1e9:.1f}",
            f"{found.rate / found.product_rate:.2f}",
            f"{other:.1f}",
            f"{rows**3 / 3 / other / found.product_rate:.2f}",
            f"{found.core_seconds:.1f}",
            f"{found.read_seconds:.1f}",
            f"{found.write_seconds:.1f}",
            f"{found.peak_bytes / 2**20:.0f}",
            f"{found.error:.0e}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
