"""Counts how uneven the tiles of graphs are, and how long workers wait for the last one, without computing them.

Run: ``python benchmarks/graph_tiles.py FOLDER``, a folder of the TUDataset collection. The last tenth is the test part.
A worker that is free takes the next tile: in the order of pairs of graphs, as tiles of images are handed out, and in
that of pairs of nodes. Three tiles are computed, to see that time is proportional to pairs of nodes.
"""

import argparse
import heapq
import time
from collections.abc import Sequence

import numpy as np

from cntk_pipeline.datasets import load
from cntk_pipeline.gram.tiles import list_kernel_jobs
from cntk_pipeline.graphs import NodeCounts, count_nodes
from cntk_pipeline.kernels import CpuEngine, Question
from cntk_pipeline.layers.presets import gntk
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.tiling import Cut, choose_tile

PAIR_SECONDS = 50e-6
"""Of a mean pair, for the choice of the tile."""

MEASURED = 16
"""Graphs of each side of a tile that is computed."""


def idle_share(costs: Sequence[int], slots: int) -> float:
    """Return the share of the slots' time that they wait, where each takes the next cost when it is free."""
    busy = [0.0] * slots
    for cost in costs:
        heapq.heapreplace(busy, busy[0] + cost)
    return 1 - sum(costs) / (slots * max(busy))


def describe(nodes: NodeCounts, slots: int) -> str:
    """Write the unevenness of the tiles and the share of waiting in both orders."""
    train, test = len(nodes.train), len(nodes.test)
    tile = choose_tile(train, test, PAIR_SECONDS, slots, costliest=nodes.costliest)
    cuts = Cut(train, tile), Cut(test, tile)
    plain, weighed = list_kernel_jobs(*cuts), list_kernel_jobs(*cuts, nodes=nodes)
    cost = {job.task: job.entries for job in weighed}
    whole = [cost[job.task] for job in plain if job.entries == tile**2]

    def costs(jobs: list[Job]) -> list[int]:
        return [cost[job.task] for job in sorted(jobs, key=lambda job: job.priority)]

    uneven = f"{max(whole) / np.mean(whole):14.1f}" if whole else f"{'':14}"
    idle = (f"{idle_share(costs(jobs), slots):14.1%}" for jobs in (plain, weighed))
    return f"{slots:5}  {tile:4}  {len(plain):5}  {uneven}  {'  '.join(idle)}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    images = load("tudataset", parser.parse_args().folder).train.images
    sizes = count_nodes(images)
    orders = {
        "of the files": np.arange(len(sizes)),
        "by size": np.argsort(sizes, kind="stable"),
        "shuffled": np.random.default_rng(0).permutation(len(sizes)),
    }
    print(f"{len(sizes)} graphs of {sizes.mean():.1f} nodes, at most {sizes.max()}")
    print("order         slots  tile  tiles  costliest/mean  idle, by pairs  idle, by nodes")
    test = len(sizes) // 10
    for name, order in orders.items():
        for slots in (2, 8, 32):
            print(f"{name:12}  {describe(NodeCounts(sizes[order][:-test], sizes[order][-test:]), slots)}")
    evaluator = CpuEngine.ask(Question(((gntk(2), "ntk"),), images.shape[1:], "float64")).evaluator()
    evaluator.evaluate(images[:1], images[:1])  # compiles
    for place in (0, len(sizes) // 2, len(sizes) - MEASURED):
        chosen = images[orders["by size"][place : place + MEASURED]]
        began = time.process_time()
        evaluator.evaluate(chosen, chosen)
        seconds, pairs = time.process_time() - began, float(count_nodes(chosen).sum()) ** 2
        mean = count_nodes(chosen).mean()
        print(f"{MEASURED} graphs of {mean:.0f} nodes with themselves: {1e9 * seconds / pairs:.1f} ns a pair of nodes")


if __name__ == "__main__":
    main()
