"""Checks the simulation in ``benchmarks/`` against bounds, an exact case of each stage, and the package's own lists."""

import itertools
import math
from collections import Counter
from dataclasses import astuple, replace

import numpy as np
import pytest
from dealing import Group, share_out
from graphs import FactorCosts, factor_graph, fetch_once, kernel_groups
from hypothesis import given, settings
from hypothesis import strategies as st
from rates import Rates
from recomputed import Costs, pass_graph
from schedule import Cluster, Graph, Phase, Span, Step, simulate

from cntk_pipeline.gram.tiles import list_kernel_jobs
from cntk_pipeline.solvers.cholesky import chain_operations
from cntk_pipeline.tiling import Cut, KeptTiles
from cntk_pipeline.workflow.plan import TASK_SECONDS

RATE = 1e10
EQUAL_RATES = Rates(RATE, RATE, RATE, RATE, math.inf, math.inf, math.inf)


def step(seconds: float, read: float = 0.0, written: float = 0.0) -> Step:
    return Step(seconds, Phase(read), Phase(0.0, seconds), Phase(written))


def independent(*steps: Step) -> Graph:
    return Graph(steps, range(len(steps)), [0] * len(steps), [[] for _ in steps])


def factor_of(block_rows: int, split: bool) -> Graph:
    """Build the graph of a factorisation whose tasks are arithmetic at one rate and nothing else."""
    costs = FactorCosts(Cut(512 * block_rows, 512), EQUAL_RATES, RATE, classes=1)
    return only_arithmetic(factor_graph(costs, block_rows if split else 1))


def only_arithmetic(graph: Graph) -> Graph:
    steps = [
        replace(each, opening=Phase(), computing=Phase(0.0, each.ideal_seconds), writing=Phase(), reads=())
        for each in graph.steps
    ]
    return replace(graph, steps=steps)


def longest_path(graph: Graph) -> float:
    begin = [0.0] * len(graph.steps)
    waits = list(graph.waits)
    ready = [task for task, count in enumerate(waits) if not count]
    for task in ready:  # grows as it goes
        end = begin[task] + graph.steps[task].computing.seconds
        for waiter in graph.releases[task]:
            begin[waiter] = max(begin[waiter], end)
            waits[waiter] -= 1
            if not waits[waiter]:
                ready.append(waiter)
    return max(start + each.computing.seconds for start, each in zip(begin, graph.steps, strict=True))


@pytest.mark.parametrize("split", [False, True])
def test_one_slot_is_never_idle(split: bool) -> None:
    assert simulate(factor_of(12, split), Cluster(1)).efficiency == pytest.approx(1.0)


def test_the_operations_of_all_tiles_are_a_third_of_the_cube() -> None:
    costs = FactorCosts(Cut(10_000, 512), EQUAL_RATES, RATE, classes=1)
    total = sum(each.ideal_seconds for each in factor_graph(costs, 1).steps) * RATE
    assert total == pytest.approx(10_000**3 / 3, rel=1e-3)  # the targets add two squares


@pytest.mark.parametrize("split", [False, True])
def test_more_slots_than_tasks_take_the_longest_path(split: bool) -> None:
    graph = factor_of(12, split)
    outcome = simulate(graph, Cluster(len(graph.steps)))
    assert outcome.seconds == pytest.approx(longest_path(graph))
    assert outcome.bottleneck == "critical path"


@pytest.mark.parametrize("block_rows", [1, 2, 4, 12, 30])
def test_the_chain_that_a_plan_counts_is_nearly_the_longest_path(block_rows: int) -> None:
    graph = factor_of(block_rows, split=True)
    longest = longest_path(graph) * RATE
    assert chain_operations(Cut(512 * block_rows, 512)) == pytest.approx(longest, rel=0.1)
    assert chain_operations(Cut(512 * block_rows, 512)) <= longest


def test_the_chain_of_one_ragged_tile_below_another_is_the_whole_factor() -> None:
    assert chain_operations(Cut(600, 512)) == pytest.approx(600**3 / 3, rel=1e-9)


@pytest.mark.parametrize(
    ("block_rows", "slots", "whole", "split"),
    [(30, 8, 0.72, 0.97), (30, 16, 0.44, 0.92), (60, 16, 0.70, 0.98), (60, 32, 0.42, 0.95)],
)
def test_splitting_gains_what_an_earlier_simulation_found(
    block_rows: int, slots: int, whole: float, split: float
) -> None:
    # List scheduling of the same graph by other code, before the package had one: arithmetic only, to two digits.
    found = [simulate(factor_of(block_rows, way), Cluster(slots, window=1)).efficiency for way in (False, True)]
    assert found == pytest.approx([whole, split], abs=0.011)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(1, 8))
def test_independent_tasks_keep_the_bounds_of_longest_first(durations: list[int], slots: int) -> None:
    durations = sorted(durations, reverse=True)
    seconds = simulate(independent(*map(step, durations)), Cluster(slots)).seconds
    bound = max(sum(durations) / slots, durations[0])
    # Graham 1969: at most 4/3 of the optimum, and never longer than all slots full up to the last task.
    assert bound - 1e-9 <= seconds <= sum(durations) / slots + durations[0] * (1 - 1 / slots) + 1e-9
    if len(durations) <= 6 and slots == 2:
        best = min(
            max(sum(mine), sum(durations) - sum(mine))
            for count in range(len(durations) + 1)
            for mine in itertools.combinations(durations, count)
        )
        assert best - 1e-9 <= seconds <= (4 / 3 - 1 / 6) * best + 1e-9


@settings(max_examples=50)
@given(st.dictionaries(st.integers(1, 30), st.integers(1, 50), min_size=1, max_size=4), st.integers(1, 9))
def test_dealing_by_counts_equals_listing_every_task(counts: dict[int, int], slots: int) -> None:
    groups = [Group(count, step(seconds)) for seconds, count in counts.items()]
    steps = [step(seconds) for seconds in sorted(counts, reverse=True) for _ in range(counts[seconds])]
    counted, listed = share_out(groups, Cluster(slots)), simulate(independent(*steps), Cluster(slots))
    assert counted.seconds == pytest.approx(listed.seconds)
    assert counted.efficiency == pytest.approx(listed.efficiency)


def test_equal_tasks_that_begin_together_share_the_store_as_the_counts_assume() -> None:
    each, cluster = step(2.0, read=30.0, written=40.0), Cluster(8, 2, store_bandwidth=80.0, node_bandwidth=100.0)
    counted, listed = share_out([Group(64, each)], cluster), simulate(independent(*[each] * 64), cluster)
    assert counted.seconds == pytest.approx(8 * (2.0 + 8 * 70 / 80))
    assert listed.seconds == pytest.approx(counted.seconds)
    assert counted.bottleneck == listed.bottleneck == "store bandwidth"


@pytest.mark.parametrize("bandwidth", [10.0, 40.0, 160.0])
def test_counts_are_an_upper_bound_within_the_store_s_share(bandwidth: float) -> None:
    random, cluster = np.random.default_rng(0), Cluster(8, store_bandwidth=bandwidth)
    durations = sorted(random.uniform(1.0, 3.0, 200), reverse=True)
    steps = [step(float(seconds), read=3.0, written=4.0) for seconds in durations]
    counted = share_out([Group(1, each) for each in steps], cluster)
    listed = simulate(independent(*steps), cluster)
    assert listed.seconds <= counted.seconds * 1.001
    assert counted.seconds <= listed.seconds / (1 - counted.shares.store)


def test_a_slow_dispatcher_is_the_bottleneck_of_both_models() -> None:
    each, cluster = step(1.0), Cluster(50, dispatch_seconds=0.1)
    counted, listed = share_out([Group(1000, each)], cluster), simulate(independent(*[each] * 1000), cluster)
    assert listed.seconds == pytest.approx(1000 * 0.1 + 1.0)
    assert counted.seconds == pytest.approx(listed.seconds)
    assert counted.bottleneck == listed.bottleneck == "dispatch"


def test_a_task_that_gives_its_slot_away_writes_while_the_next_computes() -> None:
    one = Step(5.0, Phase(), Phase(0.0, 5.0), Phase(20.0, 3.0), writes_in_slot=False)
    outcome = simulate(independent(one, one), Cluster(1, store_bandwidth=5.0))
    assert outcome.seconds == pytest.approx(14.0)  # 20 bytes at 5 a second, behind the second task too
    assert outcome.shares.products == pytest.approx(10 / 14)
    assert outcome.shares.tail == pytest.approx(4 / 14)
    chain = replace(independent(one, one), waits=[0, 1], releases=[[1], []])
    assert simulate(chain, Cluster(2)).seconds == pytest.approx(2 * 8.0)  # a tile is there when it is written


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_splitting_next_to_the_diagonal_is_as_good_for_few_slots_as_splitting_everywhere(slots: int) -> None:
    graph = factor_graph(FactorCosts(Cut(512 * 30, 512), EQUAL_RATES, RATE, classes=1), slots)
    assert len(graph.steps) < len(factor_of(30, split=True).steps)
    # All split, the earlier simulation found 0.97 on 8 slots.
    assert simulate(only_arithmetic(graph), Cluster(slots, window=1)).efficiency > 0.96


def test_reads_hide_behind_products() -> None:
    one = Step(5.0, Phase(), Phase(40.0, 5.0), Phase())
    outcome = simulate(independent(one, one), Cluster(2, store_bandwidth=10.0))
    assert outcome.seconds == pytest.approx(8.0)  # 80 bytes at 10 a second; the products end after 5
    assert outcome.shares.store == pytest.approx(3 / 8)


def test_a_store_in_full_use_is_the_bottleneck_though_slots_wait_for_tasks() -> None:
    slow = Step(1.0, Phase(), Phase(100.0, 1.0), Phase())
    chain = replace(independent(slow, slow), waits=[0, 1], releases=[[1], []])
    outcome = simulate(chain, Cluster(20, store_bandwidth=10.0))
    assert outcome.store_use == pytest.approx(1.0)
    assert outcome.shares.dependencies > outcome.shares.store
    assert outcome.bottleneck == "store bandwidth"
    assert simulate(chain, Cluster(20, store_bandwidth=200.0)).bottleneck != "store bandwidth"


def test_a_flow_is_faster_once_others_have_ended() -> None:
    small, large = step(0.0, read=10.0), step(0.0, read=30.0)
    # Both at 5 a second until the small one ends after 2 s; the 20 bytes left take 2 s more.
    assert simulate(independent(small, large), Cluster(2, store_bandwidth=10.0)).seconds == pytest.approx(4.0)


@pytest.mark.parametrize(("nodes", "fetched"), [(1, 3), (2, 6)])
def test_a_node_reads_a_tile_once(nodes: int, fetched: int) -> None:
    one = Step(1.0, Phase(), Phase(0.0, 1.0), Phase(), (Span(4, 0, 3),))
    graph = replace(independent(*[one] * 8), tile_bytes=1.0)
    assert simulate(graph, Cluster(4, slots_per_node=4 // nodes)).read_bytes == fetched


def test_a_cache_that_is_too_small_keeps_nothing() -> None:
    rows = [Step(1.0, Phase(), Phase(0.0, 1.0), Phase(), (Span(row, 0, 3),)) for row in (0, 1, 0, 1)]
    graph = replace(independent(*rows), tile_bytes=1.0)
    assert simulate(graph, Cluster(1, node_tiles=5)).read_bytes == 12
    assert simulate(graph, Cluster(1, node_tiles=6)).read_bytes == 6


def test_a_row_read_in_parts_is_held_whole() -> None:
    spans = [Span(0, 0, 3), Span(0, 3, 5), Span(0, 0, 5)]
    steps = [Step(1.0, Phase(), Phase(0.0, 1.0), Phase(), (span,)) for span in spans]
    assert simulate(replace(independent(*steps), tile_bytes=1.0), Cluster(1)).read_bytes == 5


def test_a_node_has_the_tiles_that_it_wrote() -> None:
    writer = Step(1.0, Phase(), Phase(0.0, 1.0), Phase(), makes=Span(0, 0, 1))
    reader = Step(1.0, Phase(), Phase(0.0, 1.0), Phase(), (Span(0, 0, 1),))
    assert simulate(replace(independent(writer, reader), tile_bytes=1.0), Cluster(1)).read_bytes == 0


def test_images_that_nodes_keep_are_fetched_once_a_node() -> None:
    groups = [Group(10, step(1.0, read=30.0)), Group(5, step(2.0, read=20.0))]
    assert share_out(fetch_once(groups, 80.0), Cluster(4)).read_bytes == pytest.approx(80.0)
    assert share_out(fetch_once(groups, 1e6), Cluster(4)).read_bytes == pytest.approx(400.0)


def test_where_the_time_went_adds_up() -> None:
    cluster = Cluster(6, 3, store_bandwidth=1e9, node_bandwidth=1e9, dispatch_seconds=1e-3)
    rates = Rates(1e10, 9e9, 8e9, 7e9, 5e9, 2e8, 1e9)
    outcome = simulate(factor_graph(FactorCosts(Cut(8_000, 512), rates, RATE), 6), cluster)
    parts = astuple(outcome.shares)
    assert sum(parts) == pytest.approx(1.0)
    assert min(parts) >= 0


@pytest.mark.parametrize("room", [0, 12, 21])
def test_a_pass_that_computes_tiles_has_the_tasks_of_the_package_and_waits_for_its_step(room: int) -> None:
    costs = Costs(Cut(600, 100), KeptTiles(6, room), 1e-3, EQUAL_RATES, open_seconds=0.0, rank=0)
    graph = pass_graph(costs)
    assert len(graph.steps) == 21 + 6 + 1
    computed = 21 - costs.kept.count
    assert sum(step.ideal_seconds for step in graph.steps) == pytest.approx(computed * 100**2 * 1e-3)
    one = simulate(graph, Cluster(1))
    assert one.seconds == pytest.approx(sum(step.computing.seconds for step in graph.steps))
    many = simulate(graph, Cluster(1000))
    longest = max(step.computing.seconds for step in graph.steps[:21])
    assert many.seconds == pytest.approx(
        longest + graph.steps[21].computing.seconds + graph.steps[-1].computing.seconds
    )


@settings(max_examples=50)
@given(train=st.integers(1, 90), test=st.integers(1, 40), size=st.integers(1, 40))
def test_kernel_tiles_counted_are_those_that_a_run_lists(train: int, test: int, size: int) -> None:
    cuts = Cut(train, size), Cut(test, size)
    listed = Counter(job.entries for job in list_kernel_jobs(*cuts))
    counted: Counter[int] = Counter()
    for group in kernel_groups(*cuts, pair_seconds=1.0, write=math.inf):
        counted[round(group.step.computing.seconds - TASK_SECONDS)] += group.count
    assert counted == listed
