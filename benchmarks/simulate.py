"""Runs both stages of large runs on clusters that exist on paper, and names what limits each.

Run: ``python benchmarks/simulate.py``; ``--check`` compares the model with a real factorisation on this machine.

The tasks, what they wait for and their priorities are the package's own (`list_factor_jobs`); their times come from
rates measured here at the start (`rates.py`), or from options; `schedule.py` says how they meet. Store and network are
options, since this machine has neither: the defaults are those of a middling cluster. Efficiency is the arithmetic,
``n^3 / 3`` operations at the rate of a product on large tiles or the pairs at the time of a pair, over the time of all
slots. What the model leaves out: workers that differ or die, the memory bandwidth that the cores of a node share beyond
this machine's, and latency of the store.

Kernel tiles are too many to list (54 million for CNTK-GAP on a million images), but few durations occur: full, ragged
at the end, half on the diagonal. They are counted by these, against 10,000 test images.
"""

import argparse
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from rates import Rates, measure_pair, measure_rates
from rich.console import Console
from rich.table import Table
from schedule import Cluster, Graph, Group, Outcome, Phase, Span, Step, share_out, simulate

from pipeline import run as runs
from pipeline.arrays import CRC_BYTES, MAPPED_BYTES
from pipeline.config import parse_config
from pipeline.driver import WINDOW_PER_SLOT, Job, Progress
from pipeline.plan import TASK_SECONDS
from pipeline.solvers.cholesky import are_tiles_split, finish_width, list_factor_jobs
from pipeline.tiling import Cut, choose_factor_tile, choose_tile

CLASSES, TEST, IMAGE_BYTES = 10, 10_000, 32 * 32 * 3 * 4

ROWS = {
    12_288: (1, 2, 8, 32, 128),
    24_576: (1, 2, 8, 32, 128, 512),
    60_000: (1, 8, 32, 128, 512, 1024),
    200_000: (8, 32, 128, 512, 1024, 4096),
    1_000_000: (1024, 4096),
}

POOLINGS = ("flatten", "gap")
MEASURED_TILES, FACTOR_TILES = (512, 1024, 2048), (512, 1024, 2048, 4096, 8192)
CHECKED_TILES, CHECK_TURNS = (1024,), 2
FEWEST_BLOCK_ROWS, MOST_BLOCK_ROWS = 4, 250
"""What other tiles are tried within: fewer leave slots idle, more make 10^5 tasks and a minute of simulation."""


@dataclass(frozen=True)
class FactorCosts:
    """What tasks of a factorisation take: the cut of the matrix, and the rates of a core.

    Attributes
    ----------
    peak : operations a second that count as ideal.
    """

    cut: Cut
    rates: Rates
    peak: float
    classes: int = CLASSES

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a tile of the factor on disk, ragged ones padded."""
        return self.cut.size**2 * 8 + CRC_BYTES

    def step(self, job: Job) -> Step:
        """Say what a task takes, from what it is called and what it waits for."""
        stage, row, col = job.task.stage.partition(":")[0], job.task.row, job.task.col
        if stage == "coefficients":
            return self._coefficients()
        width = finish_width(self.cut.pieces)
        summed = stage == "factor" and any(other.stage.startswith("bulk") for other in job.after)
        columns = range(col - width if summed else 0, col - width if stage == "bulk" else col)
        height, breadth, inner = self._length(row), self.cut.length(col), len(columns) * self.cut.size
        rates, corner, targets = self.rates, row == col, row == self.cut.pieces
        operations = height * breadth * inner * (1 if corner else 2)
        seconds = operations / (rates.square if corner else rates.product)
        reads = [] if targets else [Span(row, columns.start, columns.stop)]
        if not corner:
            reads.append(Span(col, columns.start, columns.stop))
        if stage == "factor":
            finishing = breadth**3 / 3 if corner else height * breadth**2
            operations += finishing
            seconds += finishing / (rates.factor if corner else rates.solve)
            if not corner:
                reads.append(Span(col, col, col + 1))
        opened = self.chunk_bytes if summed else 4 * height * breadth
        if targets:
            opened = 8 * height * inner  # no kernel, but its own row so far
        written = 8 * height * self.cut.size if targets else self.chunk_bytes
        makes = Span(row, col, col + 1) if stage == "factor" and not targets else None
        return Step(
            operations / self.peak,
            Phase(opened, opened / rates.check),
            Phase(0.0, seconds + TASK_SECONDS),
            Phase(written, written / rates.write),
            tuple(span for span in reads if span.stop > span.start),
            makes,
        )

    def _length(self, row: int) -> int:
        return self.classes if row == self.cut.pieces else self.cut.length(row)

    def _coefficients(self) -> Step:
        count = self.cut.count
        operations, written = count**2 * self.classes, 8 * count * self.classes
        reads = tuple(Span(row, 0, row + 1) for row in reversed(range(self.cut.pieces)))
        seconds = operations / self.rates.product
        computing, writing = Phase(0.0, seconds + TASK_SECONDS), Phase(written, written / self.rates.write)
        return Step(operations / self.peak, Phase(), computing, writing, reads)


@lru_cache(maxsize=4)
def factor_graph(costs: FactorCosts, split: bool) -> Graph:
    """Build the graph of a factorisation and its solves from the package's own list of tasks."""
    slots = costs.cut.pieces + 1 if split else 1  # so many that tiles are split
    jobs = list_factor_jobs(costs.cut, "0" * 16, costs.classes, slots=slots)
    number = {job.task: k for k, job in enumerate(jobs)}
    ranks = [0] * len(jobs)
    for rank, k in enumerate(sorted(range(len(jobs)), key=lambda k: (jobs[k].priority, jobs[k].task))):
        ranks[k] = rank
    releases: list[list[int]] = [[] for _ in jobs]
    for k, job in enumerate(jobs):
        for other in job.after:
            releases[number[other]].append(k)
    steps = [costs.step(job) for job in jobs]
    check_seconds = costs.chunk_bytes / costs.rates.check
    return Graph(steps, ranks, [len(job.after) for job in jobs], releases, costs.chunk_bytes, check_seconds)


def kernel_groups(train: Cut, test: Cut, pair_seconds: float, write: float) -> list[Group]:
    """Count the tiles of the kernel stage by what they take; ``write`` in bytes a second."""
    rows, columns = _lengths(train), _lengths(test)
    kinds: Counter[tuple[int, int, int]] = Counter()  # rows, columns and pairs of a tile
    for height, count in rows.items():
        kinds[height, height, height * (height + 1) // 2] += count
    # Below the diagonal lies every pair of two pieces; only the last one may be ragged.
    whole, last = divmod(train.count, train.size)
    kinds[train.size, train.size, train.size**2] += whole * (whole - 1) // 2
    if last:
        kinds[last, train.size, last * train.size] += whole
    for height, count in columns.items():
        for breadth, others in rows.items():
            kinds[height, breadth, height * breadth] += count * others
        kinds[height, 0, height] += count
    groups = []
    for (height, breadth, pairs), count in kinds.items():
        images = (height + breadth) * IMAGE_BYTES
        written = 4 * (train.size**2 if breadth else train.size) + CRC_BYTES
        seconds = pairs * pair_seconds
        step = Step(seconds, Phase(images), Phase(0.0, seconds + TASK_SECONDS), Phase(written, written / write))
        groups.append(Group(count, step))
    return [group for group in groups if group.count]


def fetch_once(groups: Sequence[Group], most_bytes: float) -> list[Group]:
    """Let the nodes' caches keep what was read: all tasks together fetch at most so many bytes, each its part."""
    asked = sum(group.count * group.step.opening.bytes for group in groups)
    part = min(1.0, most_bytes / asked)
    openings = (replace(group.step.opening, bytes=part * group.step.opening.bytes) for group in groups)
    return [
        replace(group, step=replace(group.step, opening=opening))
        for group, opening in zip(groups, openings, strict=True)
    ]


def _lengths(cut: Cut) -> Mapping[int, int]:
    """Count the pieces of a cut by their lengths."""
    whole, last = divmod(cut.count, cut.size)
    return {length: count for length, count in ((cut.size, whole), (last, 1)) if length and count}


@dataclass(frozen=True)
class Factored:
    """One way to factor: the tile, whether tiles are split, and what came out."""

    tile: int
    split: bool
    outcome: Outcome


@dataclass(frozen=True)
class Machine:
    """What the rows share: what a core does, what a pair takes, and the cluster but for its slots.

    Attributes
    ----------
    rates : by the size of the tile.
    pair_seconds : by pooling.
    cluster : with any number of slots.
    node_bytes : of each node's memory that keeps what was read.
    """

    rates: Mapping[int, Rates]
    pair_seconds: Mapping[str, float]
    cluster: Cluster
    node_bytes: float

    def costs(self, count: int, tile: int) -> FactorCosts:
        """Return what the tasks of a factorisation take."""
        measured = max((size for size in self.rates if size <= tile), default=min(self.rates))
        return FactorCosts(Cut(count, tile), self.rates[measured], max(rates.product for rates in self.rates.values()))

    def factor(self, count: int, slots: int, tile: int, split: bool) -> Factored:
        """Simulate one way to factor."""
        costs = self.costs(count, tile)
        slot_tiles = max(2, MAPPED_BYTES // costs.chunk_bytes)
        node_tiles = self.node_bytes / costs.chunk_bytes
        cluster = replace(self.cluster, slots=slots, node_tiles=node_tiles, slot_tiles=slot_tiles)
        return Factored(tile, split, simulate(factor_graph(costs, split), cluster))

    def kernel(self, count: int, slots: int, pooling: str) -> tuple[int, Outcome]:
        """Simulate a kernel stage with the tile that the package chooses."""
        pair_seconds = self.pair_seconds[pooling]
        tile = choose_tile(count, TEST, pair_seconds, slots)
        groups = kernel_groups(Cut(count, tile), Cut(TEST, tile), pair_seconds, self.rates[min(self.rates)].write)
        cluster = replace(self.cluster, slots=slots)
        images = (count + TEST) * IMAGE_BYTES
        if images <= self.node_bytes:
            groups = fetch_once(groups, images * -(-slots // cluster.slots_per_node))
        return tile, share_out(groups, cluster)


def make_machine(arguments: argparse.Namespace) -> Machine:
    """Measure what the options do not say."""
    rates = {tile: measure_rates(tile) for tile in MEASURED_TILES}
    if arguments.product_rate:
        largest = rates[max(rates)].product
        rates = {tile: each.at(each.product / largest * arguments.product_rate * 1e9) for tile, each in rates.items()}
    if arguments.write_rate:
        rates = {tile: replace(each, write=arguments.write_rate * 1e6) for tile, each in rates.items()}
    pairs = arguments.pair_seconds or [measure_pair(pooling) for pooling in POOLINGS]
    cluster = Cluster(
        1,
        arguments.slots_per_node,
        arguments.store_bandwidth * 1e9,
        arguments.node_bandwidth * 1e9,
        arguments.dispatch_seconds,
        arguments.window,
    )
    return Machine(rates, dict(zip(POOLINGS, pairs, strict=True)), cluster, arguments.node_cache * 1e9)


def print_rates(console: Console, machine: Machine) -> None:
    """Print what the tasks' times are made from."""
    table = Table("tile", "product GF/s", "square", "solve", "factor", "check GB/s", "write MB/s", title="a core")
    for tile, rates in machine.rates.items():
        operations = (f"{rate / 1e9:.1f}" for rate in (rates.product, rates.square, rates.solve, rates.factor))
        table.add_row(str(tile), *operations, f"{rates.check / 1e9:.1f}", f"{rates.write / 1e6:.0f}")
    console.print(table)
    pairs = ", ".join(f"CNTK-{name.upper()} {seconds:.2e} s" for name, seconds in machine.pair_seconds.items())
    console.print(f"a pair: {pairs}; a task beside its arithmetic {TASK_SECONDS} s")


def print_kernels(console: Console, machine: Machine, rows: Mapping[int, tuple[int, ...]]) -> None:
    """Print the kernel stage of both networks for all rows."""
    for pooling in POOLINGS:
        title = f"kernel stage, CNTK depth 11, {pooling}"
        table = Table("n", "slots", "tile", "tasks", "efficiency", "wall", *_TRAFFIC, "bottleneck", title=title)
        for count, widths in rows.items():
            for slots in widths:
                tile, outcome = machine.kernel(count, slots, pooling)
                stage = (f"{outcome.tasks:,}", f"{outcome.efficiency:.2f}", _time(outcome.seconds))
                table.add_row(f"{count:,}", str(slots), str(tile), *stage, *_traffic(outcome), outcome.bottleneck)
        console.print(table)


@dataclass(frozen=True)
class FactorRow:
    """A matrix on some slots: as the package factors it, the same tile the other way, and the fastest way tried."""

    count: int
    slots: int
    chosen: Factored
    other: Factored | None
    best: Factored


def factor_rows(machine: Machine, count: int, widths: tuple[int, ...]) -> list[FactorRow]:
    """Try the package's tile whole and split, and others as it would do them; a graph serves all numbers of slots."""
    kernel_tiles = {slots: choose_tile(count, TEST, machine.pair_seconds["gap"], slots) for slots in widths}
    chosen = {slots: choose_factor_tile(count, kernel_tiles[slots]) for slots in widths}
    tried: dict[int, list[Factored]] = {slots: [] for slots in widths}
    for tile in sorted({*chosen.values(), *FACTOR_TILES}):
        cut = Cut(count, tile)
        for split in (False, True):
            for slots in widths:
                as_ruled, possible = are_tiles_split(cut, slots) == split, slots > 1 or not split
                feasible = FEWEST_BLOCK_ROWS <= cut.pieces <= MOST_BLOCK_ROWS
                mine = tile == chosen[slots] and possible and (as_ruled or feasible)
                if mine or (tile in FACTOR_TILES and feasible and as_ruled):
                    tried[slots].append(machine.factor(count, slots, tile, split))
    rows = []
    for slots in widths:
        split = are_tiles_split(Cut(count, chosen[slots]), slots)
        mine = {way.split: way for way in tried[slots] if way.tile == chosen[slots]}
        best = min(tried[slots], key=lambda way: way.outcome.seconds)
        rows.append(FactorRow(count, slots, mine[split], mine.get(not split), best))
    return rows


def print_factors(console: Console, machine: Machine, rows: Mapping[int, tuple[int, ...]]) -> None:
    """Print the factorisation for all rows: as the package does it, whole and split, and the best of other tiles."""
    columns = ("n", "slots", "tile", "whole", "split", "wall", *_TRAFFIC, "bottleneck", "best", "efficiency", "wall")
    table = Table(*columns, title="factorisation and solves: efficiency whole and split, what the package takes with *")
    for count, widths in rows.items():
        for row in factor_rows(machine, count, widths):
            outcome, best = row.chosen.outcome, row.best.outcome
            shown = {row.chosen.split: f"{outcome.efficiency:.2f} *"}
            if row.other:
                shown[row.other.split] = f"{row.other.outcome.efficiency:.2f}"
            efficiencies = (shown.get(False, ""), shown.get(True, ""))
            fastest = (f"{row.best.tile}{' split' if row.best.split else ''}", f"{best.efficiency:.2f}")
            stage = (*efficiencies, _time(outcome.seconds), *_traffic(outcome), outcome.bottleneck)
            table.add_row(f"{count:,}", str(row.slots), str(row.chosen.tile), *stage, *fastest, _time(best.seconds))
    console.print(table)


_TRAFFIC = ("GB read", "GB written", "tasks/s")


def _traffic(outcome: Outcome) -> tuple[str, ...]:
    gigabytes = (f"{number / 1e9:,.0f}" for number in (outcome.read_bytes, outcome.written_bytes))
    return *gigabytes, f"{outcome.tasks / outcome.seconds:.3g}"


def _time(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


class _Watch:
    """A view of a run that notes when the factorisation began, and when its coefficients were there."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def say(self, text: str) -> None:
        """Show nothing."""

    def begin(self, stage: str) -> None:
        """Note the beginning of the solve."""
        if stage == "solve":
            self.began = time.perf_counter()

    def progress(self, progress: Progress) -> None:
        """Note the end of the coefficients."""
        if progress.receipt is not None and progress.receipt.task.stage.startswith("coefficients"):
            self.ended = time.perf_counter()


def print_check(console: Console, machine: Machine, count: int) -> None:
    """Factor a real matrix on two local workers, some times over, and print the time beside the model's."""
    slots, random = 2, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "noise.npz"
        images = random.standard_normal((count + 16, 4, 4, 3)).astype(np.float32)
        labels = random.integers(0, CLASSES, count + 16)
        labels[:CLASSES] = range(CLASSES)
        np.savez(data, x_train=images[16:], y_train=labels[16:], x_test=images[:16], y_test=labels[:16])
        for tile in CHECKED_TILES:
            watches = [_Watch() for _ in range(CHECK_TURNS)]
            for turn, watch in enumerate(watches):
                workflow = {
                    "data": {"source": "npz", "path": str(data)},
                    "network": {"preset": "fully_connected"},
                    "readouts": {"depths": [2]},
                    "kernel": {"tile": 512},
                    "solve": {"ridges": [1e-2 * (turn + 1)], "tile": tile},  # each ridge is another factorisation
                    "cluster": {"kind": "local", "workers": slots},
                    "store": {"path": str(Path(folder) / "run")},
                }
                runs.start(parse_config(workflow, "check"), watch, threading.Event())
            measured = min(watch.ended - watch.began for watch in watches)
            # One node with a disk of its own, which the rate of writing is of; what was written is in its memory.
            here = replace(machine, cluster=Cluster(slots, dispatch_seconds=machine.cluster.dispatch_seconds))
            predicted = here.factor(count, slots, tile, are_tiles_split(Cut(count, tile), slots)).outcome
            console.print(
                f"n = {count:,}, tile {tile}, {slots} workers: predicted {predicted.seconds:.1f} s (efficiency "
                f"{predicted.efficiency:.2f}), measured {measured:.1f} s: {measured / predicted.seconds:.2f} times"
            )


def main() -> None:
    """Print the rates, then a table for each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--product-rate", type=float, help="GF/s of a core on large tiles (default: measured)")
    parser.add_argument("--write-rate", type=float, help="MB/s at which a slot writes a tile (default: measured)")
    parser.add_argument("--pair-seconds", type=float, nargs=2, metavar=("V", "GAP"), help="of a pair on a core")
    parser.add_argument("--store-bandwidth", type=float, default=10.0, help="GB/s of the store in all (default 10)")
    parser.add_argument("--node-bandwidth", type=float, default=3.0, help="GB/s of a node to it (default 3)")
    parser.add_argument("--slots-per-node", type=int, default=32, help="(default 32)")
    parser.add_argument("--node-cache", type=float, default=64.0, help="GB of a node that keep tiles (default 64)")
    parser.add_argument("--dispatch-seconds", type=float, default=1.5e-3, help="a task, serially (default 0.0015)")
    parser.add_argument("--window", type=int, default=WINDOW_PER_SLOT, help="tasks in flight a slot (default 2)")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), choices=list(ROWS), help="of which n")
    parser.add_argument("--check", type=int, nargs="?", const=8192, metavar="N", help="factor this many rows, really")
    arguments = parser.parse_args()
    console, machine = Console(width=150), make_machine(arguments)
    print_rates(console, machine)
    if arguments.check:
        print_check(console, machine, arguments.check)
        return
    rows = {count: ROWS[count] for count in arguments.rows}
    print_kernels(console, machine, rows)
    print_factors(console, machine, rows)


if __name__ == "__main__":
    main()
