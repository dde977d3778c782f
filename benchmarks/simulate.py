"""Runs both stages of large runs on clusters that exist on paper, and names what limits each.

Run: ``python benchmarks/simulate.py``; ``--check`` compares the model with a real factorisation on this machine.

The tasks, what they wait for and their priorities are the package's own (`list_factor_jobs`); their times come from
rates measured here at the start (`rates.py`), or from options; `schedule.py` says how they meet. Store and network are
options, since this machine has neither: the defaults are those of a middling cluster. Efficiency is the arithmetic,
``n^3 / 3`` operations at the rate of a product on large tiles or the pairs at the time of a pair, over the time of all
slots. What the model leaves out: workers that differ or die, the memory bandwidth that the cores of a node share beyond
this machine's, and latency of the store.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dealing import share_out
from factor_check import time_factor
from graphs import IMAGE_BYTES, FactorCosts, factor_graph, fetch_once, kernel_groups
from rates import Rates, measure_pair, measure_rates
from rich.console import Console
from rich.table import Table
from schedule import Cluster, Outcome, simulate

from cntk_pipeline.driver.driver import WINDOW_PER_SLOT
from cntk_pipeline.solvers.cholesky import split_reach
from cntk_pipeline.tiling import Cut, choose_factor_tile, choose_tile
from cntk_pipeline.workflow.plan import DRIVER_SECONDS, TASK_SECONDS

TEST = 10_000

ROWS = {
    12_288: (1, 2, 8, 32, 128),
    24_576: (1, 2, 8, 32, 128, 512),
    60_000: (1, 8, 32, 128, 512, 1024),
    200_000: (8, 32, 128, 512, 1024, 4096),
    1_000_000: (1024, 4096),
}

POOLINGS = ("flatten", "gap")
MEASURED_TILES, FACTOR_TILES = (512, 768, 1024, 2048), (512, 768, 1024, 2048, 4096, 8192)
CHECKED_TILE = 1024
FEWEST_BLOCK_ROWS, MOST_BLOCK_ROWS = 4, 250
"""What other tiles are tried within: fewer leave slots idle, more make 10^5 tasks and a minute of simulation."""


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
    rates : mapping of int to Rates
        By the size of the tile.
    pair_seconds : mapping of str to float
        By pooling.
    cluster : Cluster
        With any number of slots.
    node_bytes : float
        Of each node's memory that keeps what was read.
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
        cluster = replace(self.cluster, slots=slots, node_tiles=self.node_bytes / costs.chunk_bytes)
        return Factored(tile, split, simulate(factor_graph(costs, slots if split else 1), cluster))

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
    """Try the package's tile whole and split, and others as it would do them."""
    kernel_tiles = {slots: choose_tile(count, TEST, machine.pair_seconds["gap"], slots) for slots in widths}
    chosen = {slots: choose_factor_tile(count, kernel_tiles[slots], slots=slots) for slots in widths}
    tried: dict[int, list[Factored]] = {slots: [] for slots in widths}
    for tile in sorted({*chosen.values(), *FACTOR_TILES}):
        cut = Cut(count, tile)
        for split in (False, True):
            for slots in widths:
                as_ruled, possible = (split_reach(cut, slots) > 0) == split, slots > 1 or not split
                feasible = FEWEST_BLOCK_ROWS <= cut.pieces <= MOST_BLOCK_ROWS
                mine = tile == chosen[slots] and possible and (as_ruled or feasible)
                if mine or (tile in FACTOR_TILES and feasible and as_ruled):
                    tried[slots].append(machine.factor(count, slots, tile, split))
    rows = []
    for slots in widths:
        split = split_reach(Cut(count, chosen[slots]), slots) > 0
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


def print_check(console: Console, machine: Machine, count: int) -> None:
    """Print the time of a real factorisation on two local workers beside the model's.

    Others may use the machine, which shows in the clock: the processor time of the workers is compared too.
    """
    slots = 2
    # One node with a disk of its own, which the rate of writing is of; what was written is in its memory.
    here = replace(machine, cluster=Cluster(slots, dispatch_seconds=machine.cluster.dispatch_seconds))
    split = split_reach(Cut(count, CHECKED_TILE), slots) > 0
    predicted = here.factor(count, slots, CHECKED_TILE, split).outcome
    cores = slots * predicted.seconds * (predicted.shares.products + predicted.shares.task_cost)
    clock, processors = time_factor(count, CHECKED_TILE, slots)
    table = Table("seconds", "predicted", "measured", "ratio", title=f"n = {count:,}, tile {CHECKED_TILE}, 2 workers")
    table.add_row("clock", f"{predicted.seconds:.1f}", f"{clock:.1f}", f"{clock / predicted.seconds:.2f}")
    table.add_row("cores", f"{cores:.1f}", f"{processors:.1f}", f"{processors / cores:.2f}")
    console.print(table)


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
    parser.add_argument(
        "--dispatch-seconds", type=float, default=DRIVER_SECONDS, help=f"a task, serially (default {DRIVER_SECONDS})"
    )
    parser.add_argument("--window", type=int, default=WINDOW_PER_SLOT, help="tasks in flight a slot (default 3)")
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
