"""Runs conjugate gradients on a kernel that is computed again in each pass, on a cluster that exists on paper.

Run: ``python benchmarks/recomputed.py``. What a pair, a product, a check and a write cost is measured here or given, as
in `simulate.py`; `schedule.py` says how tasks meet. A pass has the package's tasks: a product for each tile on and
below the diagonal, a sum for each row of tiles, and the step that waits for all of them. A number of passes is assumed.
Efficiency is the time of all pairs of these passes, each computed once, over the time of all slots. The images are in
the memory of every node after the first stage. What the model leaves out: workers that differ or die, and the memory
bandwidth that the cores of a node share beyond this machine's.
"""

import argparse
from dataclasses import dataclass, replace

from dealing import Group, share_out
from graphs import CLASSES, IMAGE_BYTES, fetch_once
from rates import Rates, measure_pair, measure_rates
from rich.console import Console
from rich.table import Table
from schedule import Cluster, Graph, Outcome, Phase, Step, simulate

from cntk_pipeline.solvers.conjugate_gradient import BASIS_OPERATIONS
from cntk_pipeline.solvers.options import DEFAULT_RANK
from cntk_pipeline.storage.tiled_array import CRC_BYTES
from cntk_pipeline.tiling import Cut, KeptTiles, Tile, choose_tile, lower_tiles
from cntk_pipeline.workflow.plan import TASK_SECONDS
from cntk_pipeline.workflow.ways import PASSES

TEST = 10_000
ROWS = ((300_000, 1024), (1_000_000, 1024))
STORED = (0.0, 0.5)
"""Shares of the tiles that are stored."""


@dataclass(frozen=True)
class Costs:
    """What the tasks of a solve take.

    Attributes
    ----------
    cut : Cut
        Of the training images into tiles.
    kept : KeptTiles
        The tiles that are stored.
    pair_seconds : float
        Of a pair on a core.
    rates : Rates
        Of a core.
    open_seconds : float
        Of opening a chunk of the store, one after the other.
    rank : int
        Of the preconditioner.
    """

    cut: Cut
    kept: KeptTiles
    pair_seconds: float
    rates: Rates
    open_seconds: float
    rank: int = DEFAULT_RANK

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile of the kernel in float32."""
        return 4 * self.cut.size**2 + CRC_BYTES

    @property
    def part_bytes(self) -> int:
        """Bytes that a product leaves."""
        return 2 * self.cut.size * CLASSES * 8 + CRC_BYTES

    def product(self, tile: Tile) -> Step:
        """Say what a product takes: a tile is read or computed, and multiplied twice."""
        height, width = self.cut.length(tile.row), self.cut.length(tile.col)
        pairs = height * (height + 1) // 2 if tile.row == tile.col else height * width
        entries = self.cut.length(tile.row) * self.cut.length(tile.col)
        seconds = 4 * entries * CLASSES / self.rates.product + TASK_SECONDS
        ideal = pairs * self.pair_seconds
        if tile in self.kept:
            opening = Phase(self.tile_bytes, self.tile_bytes / self.rates.check)
            ideal = 0.0
        else:
            images = (self.cut.length(tile.row) + self.cut.length(tile.col)) * IMAGE_BYTES
            opening = Phase(0.0, images / self.rates.check)
        writing = Phase(self.part_bytes, self.part_bytes / self.rates.write)
        return Step(ideal, opening, Phase(0.0, seconds + ideal), writing)

    def sum(self, row: int) -> Step:
        """Say what a sum takes: it opens a product for each row of tiles."""
        read, written = self.cut.pieces * self.part_bytes, 8 * self.cut.length(row) * CLASSES
        opening = Phase(read, self.cut.pieces * self.open_seconds)
        computing = Phase(0.0, read / self.rates.check + TASK_SECONDS)
        return Step(0.0, opening, computing, Phase(written, written / self.rates.write))

    def step(self) -> Step:
        """Say what a step takes: it reads all sums, the state, and the basis of the preconditioner."""
        vectors, basis = 8 * self.cut.count * CLASSES, 8 * self.cut.count * self.rank
        read, written = 5 * vectors + basis, 4 * vectors
        operations = 4 * self.cut.count * self.rank * CLASSES
        seconds = operations / self.rates.product + read / self.rates.check + TASK_SECONDS
        opening = Phase(read, 2 * self.cut.pieces * self.open_seconds)
        return Step(0.0, opening, Phase(0.0, seconds), Phase(written, written / self.rates.write))


def pass_graph(costs: Costs) -> Graph:
    """Build the graph of one pass: products, those that compute a tile first; sums; and the step."""
    tiles, rows = list(lower_tiles(costs.cut)), range(costs.cut.pieces)
    products = [costs.product(tile) for tile in tiles]
    first = sorted(range(len(products)), key=lambda k: (-products[k].ideal_seconds, k))
    ranks = [0] * len(products)
    for rank, k in enumerate(first):
        ranks[k] = rank
    count, last = len(products), len(products) + len(rows)
    releases = [sorted({count + tile.row, count + tile.col}) for tile in tiles]
    return Graph(
        [*products, *(costs.sum(row) for row in rows), costs.step()],
        [*ranks, *range(count, last + 1)],
        [0] * count + [len(rows)] * len(rows) + [len(rows)],
        [*releases, *([last] for _ in rows), []],
    )


@dataclass(frozen=True)
class Solved:
    """A whole solve: its stages in order, with how often each runs."""

    count: int
    slots: int
    tile: int
    stages: tuple[tuple[str, int, Outcome], ...]

    @property
    def seconds(self) -> float:
        """All stages, one after the other."""
        return sum(times * outcome.seconds for _, times, outcome in self.stages)

    @property
    def efficiency(self) -> float:
        """The time of the pairs over that of the slots."""
        return sum(times * outcome.seconds * outcome.efficiency for _, times, outcome in self.stages) / self.seconds


def solve(count: int, cluster: Cluster, pair_seconds: float, rates: Rates, share: float, open_seconds: float) -> Solved:
    """Simulate a whole solve: the stored tiles and K(test, train), the preconditioner, and all passes."""
    tile = choose_tile(count, TEST, pair_seconds, cluster.slots)
    cut = Cut(count, tile)
    total = cut.pieces * (cut.pieces + 1) // 2
    costs = Costs(cut, KeptTiles(cut.pieces, round(share * total)), pair_seconds, rates, open_seconds)

    def computed(height: int, width: int, pairs: int, written: int) -> Step:
        seconds = pairs * pair_seconds
        images = Phase((height + width) * IMAGE_BYTES)
        return Step(seconds, images, Phase(0.0, seconds + TASK_SECONDS), Phase(written, written / rates.write))

    below = costs.kept.count - cut.pieces
    kernel = [
        Group(cut.pieces, computed(tile, 0, tile * (tile + 1) // 2, costs.tile_bytes)),
        Group(below, computed(tile, tile, tile**2, costs.tile_bytes)),
        Group(cut.pieces * Cut(TEST, tile).pieces, computed(tile, tile, min(tile, TEST) * tile, costs.tile_bytes)),
    ]
    sketch = [Group(cut.pieces, computed(tile, costs.rank, tile * costs.rank, 8 * tile * costs.rank))]
    basis_bytes = 8 * count * costs.rank
    making = BASIS_OPERATIONS * count * costs.rank**2 / rates.product + basis_bytes / rates.check
    basis = Step(0.0, Phase(basis_bytes), Phase(0.0, making), Phase(basis_bytes, basis_bytes / rates.write))
    images = (count + TEST) * IMAGE_BYTES * cluster.nodes

    def dealt(groups: list[Group]) -> Outcome:
        return share_out(fetch_once([group for group in groups if group.count], images), cluster)

    stages = (
        ("kernel", 1, dealt(kernel)),
        ("sketch", 1, dealt(sketch)),
        ("basis", 1, share_out([Group(1, basis)], cluster)),
        ("pass", PASSES, simulate(pass_graph(costs), cluster)),
    )
    return Solved(count, cluster.slots, tile, stages)


def main() -> None:
    """Print a table of whole solves, and one of a pass of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair-seconds", type=float, help="of CNTK-V of depth 11 on a core (default: measured)")
    parser.add_argument("--write-rate", type=float, help="MB/s at which a slot writes (default: measured)")
    parser.add_argument("--store-bandwidth", type=float, default=10.0, help="GB/s of the store in all (default 10)")
    parser.add_argument("--node-bandwidth", type=float, default=3.0, help="GB/s of a node to it (default 3)")
    parser.add_argument("--slots-per-node", type=int, default=32, help="(default 32)")
    parser.add_argument("--dispatch-seconds", type=float, default=1.5e-3, help="a task, serially (default 0.0015)")
    parser.add_argument("--open-seconds", type=float, default=1e-3, help="to open a chunk (default 0.001)")
    arguments = parser.parse_args()
    rates = measure_rates(1024)
    if arguments.write_rate:
        rates = replace(rates, write=arguments.write_rate * 1e6)
    pair_seconds = arguments.pair_seconds or measure_pair("flatten")
    console = Console(width=150)
    console.print(
        f"a pair {pair_seconds:.3g} s, product {rates.product / 1e9:.1f} GF/s, check {rates.check / 1e9:.1f} GB/s, "
        f"write {rates.write / 1e6:.0f} MB/s, {PASSES} passes assumed"
    )
    columns = ("n", "slots", "tile", "stored", "stored GB", "products", "a pass", "efficiency", "all", "efficiency")
    table = Table(*columns, *("GB read", "GB written"), title="conjugate gradients on a kernel that is computed")
    for count, slots in ROWS:
        cluster = Cluster(
            slots,
            arguments.slots_per_node,
            arguments.store_bandwidth * 1e9,
            arguments.node_bandwidth * 1e9,
            arguments.dispatch_seconds,
        )
        for share in STORED:
            found = solve(count, cluster, pair_seconds, rates, share, arguments.open_seconds)
            one = found.stages[-1][2]
            pieces = Cut(count, found.tile).pieces
            kept = KeptTiles(pieces, round(share * pieces * (pieces + 1) / 2)).count
            read = sum(times * outcome.read_bytes for _, times, outcome in found.stages)
            written = sum(times * outcome.written_bytes for _, times, outcome in found.stages)
            table.add_row(
                *(f"{count:,}", str(slots), str(found.tile), f"{share:.0%}", f"{kept * 4 * found.tile**2 / 1e9:,.0f}"),
                *(f"{pieces * (pieces + 1) // 2:,}", f"{one.seconds:.0f} s", f"{one.efficiency:.2f}"),
                *(f"{found.seconds / 3600:.2f} h", f"{found.efficiency:.2f}"),
                *(f"{read / 1e9:,.0f}", f"{written / 1e9:,.0f}"),
            )
    console.print(table)


if __name__ == "__main__":
    main()
