"""Networks as one graph: what is one result, what folds into its neighbours, and where results meet."""

from collections import Counter

import pytest

from cntk_pipeline.kernels.graph import NetworkGraph, Node, StageKey
from cntk_pipeline.kernels.program import Code, Grid
from cntk_pipeline.layers import (
    Attend,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalSumPool,
    Identity,
    LinearAttention,
    LocalAvgPool,
    PositionalEmbedding,
    Relu,
    Repeat,
    Rescale,
    Residual,
    SelfAttention,
    Sequential,
    Shape,
    SumPool,
    Windows,
)

SIZE = (6, 8)


def build(*networks, size=SIZE):
    """Write networks on images of two channels as one graph; return it with their last nodes."""
    graph = NetworkGraph()
    shape = Shape(size, 2)
    ends = [Sequential(*layers).lower(graph, shape, graph.add_input(size, 0.5)) for layers in networks]
    return graph, [graph.nodes[end] for end in ends]


def codes(graph):
    return Counter(node.code for node in graph.nodes)


def test_nodes_come_behind_their_sources():
    body = (Conv(3), Residual(Sequential(Relu(), AvgPool(2), Conv(1)), AvgPool(2)), Relu(), GlobalAvgPool())
    graph, _ = build(body, body[:-1], (Conv(3, padding="CIRCULAR"), Relu(), Flatten()))
    for position, node in enumerate(graph.nodes):
        assert all(source < position for source in node.sources)
        assert graph.index[node] == position


def test_equal_prefixes_are_one():
    body = [Conv(3), Relu(), AvgPool(2), Conv(3), Relu()]
    graph, ends = build((*body, Flatten()), (*body, GlobalAvgPool()), (*body, LocalAvgPool(1), Flatten()))
    assert codes(graph) == {Code.INPUT: 1, Code.WEIGH: 2, Code.APPLY: 2, Code.POOL: 2, Code.REDUCE: 3}
    assert len(set(ends)) == 3


def test_equal_networks_written_differently_are_one():
    _, ends = build(
        (Conv(3), Relu(), Flatten()),
        (Sequential(Conv((3, 3))), Sequential(Relu(), Identity(), Sequential(Flatten()))),
        (Conv(3), Relu(), LocalAvgPool(0), Rescale(1.0), Flatten()),
    )
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize(
    "other", [Conv(3, w_std=2), Conv(3, b_std=1), Conv(3, trained=False), Conv((3, 1)), Conv(3, strides=2)]
)
def test_layers_that_differ_are_not_one(other):
    graph, _ = build((Conv(3), Relu(), Flatten()), (other, Relu(), Flatten()))
    assert codes(graph)[Code.WEIGH] == 2


def test_a_multiple_folds_into_images_poolings_and_sums():
    graph, (end,) = build(
        (Rescale(3.0), Conv(3), Relu(), AvgPool(2), Rescale(5.0), Conv(3), Rescale(7.0), GlobalSumPool(), Rescale(11.0))
    )
    assert codes(graph)[Code.WEIGH] == 3  # two convolutions, and the 7 that the sum below takes up
    scales = {node.code: node.scale for node in graph.nodes if node.code in (Code.INPUT, Code.REDUCE)}
    assert scales[Code.INPUT] == 3 * 0.5
    assert end.scale == scales[Code.REDUCE] == pytest.approx(7 * 11)
    assert not graph.nodes[end.sources[0]].is_multiple
    assert {node.scale for node in graph.nodes if node.code is Code.POOL} == {1 / 16, 5 / 16}


def test_a_layer_with_weights_is_more_than_a_multiple():
    for layer in (Dense(w_std=2.0, b_std=1.0), Dense(w_std=2.0)):
        graph, (end,) = build((Conv(3), Relu(), layer, GlobalAvgPool()))
        assert not graph.nodes[end.sources[0]].is_multiple
    # Fixed weights without a bias are one.
    graph, (end,) = build((Conv(3), Relu(), Dense(w_std=2.0, trained=False), GlobalAvgPool()))
    assert end.scale == 4 / 48**2
    assert graph.nodes[end.sources[0]].code is Code.APPLY


def test_poolings_before_a_sum_are_its_weights():
    pools = [LocalAvgPool(1), AvgPool(2), Rescale(3.0), SumPool((1, 2)), AvgPool(2, 1, "SAME", normalize_edges=True)]
    _, (mean, flat) = build((Conv(3), Relu(), *pools, GlobalAvgPool()), (Conv(3), Relu(), *pools, Flatten()))
    assert mean.code is flat.code is Code.REDUCE
    assert mean.sources == flat.sources
    assert [chain[0].count for chain in mean.chain] == [6, 3, 3, 3, 1]
    assert [chain[1].count for chain in flat.chain] == [8, 4, 2, 2]
    assert [chain[2] for chain in flat.chain] == [False, False, False, True]
    assert (mean.traced, flat.traced) == (False, True)
    assert flat.scale == pytest.approx(3 / 3**4 / 2**4 / 6)
    assert mean.scale == pytest.approx(3 / 3**4 / 2**4 / 6**2)


def test_what_lies_between_poolings_keeps_them_apart():
    for layer in (Relu(), Conv(1, b_std=1.0), Dropout(0.5), Dense()):
        inner = (Dense(), layer) if isinstance(layer, Relu) else (layer,)
        graph, (end,) = build((Conv(3), Relu(), AvgPool(2), *inner, GlobalAvgPool()))
        assert len(end.chain) == 1
        assert codes(graph)[Code.POOL] == 1


def test_a_stride_widens_the_step_within_its_stage_and_a_pooling_ends_it():
    graph, _ = build(
        (
            Conv(3),
            Conv(3, strides=(2, 1)),
            Relu(),
            Conv(2, strides=2, padding="SAME"),
            Relu(),
            AvgPool(2, 1),
            Conv(3),
            Flatten(),
        )
    )
    weighs = [node for node in graph.nodes if node.code is Code.WEIGH]
    assert [node.grid for node in weighs] == [Grid(6, 8), Grid(3, 8, (2, 1)), Grid(2, 4, (4, 2)), Grid(1, 3)]
    assert [node.stage.level for node in weighs] == [0, 0, 0, 1]
    assert weighs[3].stage == StageKey(1, 1, 3)


def test_a_circular_convolution_of_images_reads_them_around_a_circle():
    graph, _ = build((Conv(3, padding="CIRCULAR"), Relu(), Conv(3, padding="CIRCULAR"), Relu(), GlobalAvgPool()))
    assert {node.stage for node in graph.nodes} == {StageKey(0, *SIZE), StageKey(0, *SIZE, True)}
    # The flat images that were asked for first have no reader.
    readers = [source for node in graph.nodes for source in node.sources]
    assert [k for k, node in enumerate(graph.nodes) if node.stage == StageKey(0, *SIZE)] == [0]
    assert 0 not in readers
    assert Code.POOL not in codes(graph)


def test_a_circular_convolution_behind_a_flat_one_moves_by_a_pooling_of_single_positions():
    graph, _ = build((Conv(3), Relu(), Conv(3, padding="CIRCULAR"), Relu(), Conv(3), Relu(), Flatten()))
    moves = [node for node in graph.nodes if node.code is Code.POOL]
    assert [move.windows for move in moves] == [tuple(map(Windows.single, SIZE))] * 2
    assert [move.result.circular for move in moves] == [True, False]


@pytest.mark.parametrize("between", [(), (Relu(), Dense()), (Dropout(0.2),), (Rescale(2.0),)])
def test_what_looks_at_one_pair_of_positions_moves_with_its_source(between):
    # A pooling hands over what it makes wherever it is wanted: no further pooling.
    layers = (Conv(3), Relu(), AvgPool(2), Dense(), *between, Conv(3, padding="CIRCULAR"), Relu(), Flatten())
    graph, (end,) = build(layers)
    (pool,) = (node for node in graph.nodes if node.code is Code.POOL and node.result.circular)
    assert graph.nodes[end.sources[0]].stage == pool.result == StageKey(1, 3, 4, True)


def test_a_circular_stride_keeps_windows_of_stride_one():
    graph, (end,) = build((Conv(3, strides=2, padding="CIRCULAR"), Relu(), Flatten()))
    (dense,) = (node for node in graph.nodes if node.code is Code.WEIGH)
    assert [w.stride for w in dense.windows] == [1, 1]
    assert dense.grid == Grid(*SIZE)
    (kept,) = (node for node in graph.nodes if node.code is Code.POOL)
    assert [(w.window, w.stride, w.before, w.count) for w in kept.windows] == [(1, 2, 0, 3), (1, 2, 0, 4)]
    assert graph.nodes[end.sources[0]].grid == Grid(3, 4)


def sum_of(*branches):
    graph, _ = build((Conv(3), Residual(*branches), Relu(), Flatten()))
    (total,) = (node for node in graph.nodes if node.code is Code.ADD)
    return graph, total, [graph.nodes[source] for source in total.sources]


def test_branches_of_one_stage_and_step_are_added_where_they_are():
    strided = Conv(3, strides=2)
    for branches in ((Sequential(Relu(), Conv(3)),), (Sequential(Relu(), strided), Conv(1, strides=2))):
        graph, total, sources = sum_of(*branches)
        assert Code.POOL not in codes(graph)
        assert total.stage.level == 0
        assert {source.grid for source in sources} == {total.grid}


@pytest.mark.parametrize(
    "branches",
    [
        (Sequential(Relu(), Conv(3, strides=2)), AvgPool(2)),
        (AvgPool(2), Sequential(Relu(), Conv(3, strides=2))),
        (Sequential(AvgPool(2), Conv(3), Relu(), AvgPool(1), Conv(1)), Conv(1, strides=2)),
        (Sequential(Relu(), Conv(3, padding="CIRCULAR")), Identity()),
        (Sequential(Conv(3, padding="CIRCULAR"), Relu(), Conv(3, padding="CIRCULAR")), Sequential(Relu(), Conv(3))),
        (Sequential(SelfAttention(), Dense()), Conv(1)),
        (Sequential(SelfAttention(), Conv(3, strides=2)), AvgPool(2)),
        (Sequential(Attend(keys=Sequential(Relu(), AvgPool(3, 1, "SAME"))), LinearAttention()), SelfAttention()),
        (Sequential(Conv(3, padding="CIRCULAR"), PositionalEmbedding(), Attend(), Dense()), Identity()),
    ],
)
def test_branches_of_different_stages_meet_behind_both(branches):
    graph, total, sources = sum_of(*branches)
    assert {(source.result, source.grid) for source in sources} == {(total.stage, total.grid)}
    assert not total.stage.circular
    assert total.grid.step == (1, 1)
    for node in graph.nodes:
        assert all(graph.nodes[source].result == node.stage for source in node.sources)


def test_all_behind_a_mask_is_masked():
    graph, _ = build((Conv(3), Relu(), Dropout(0.5), Conv(3), AvgPool(2), Residual(Conv(3)), Relu(), Flatten()))
    first = next(k for k, node in enumerate(graph.nodes) if node.code is Code.MASK)
    assert [node.masked for node in graph.nodes] == [k >= first for k in range(len(graph.nodes))]
    assert graph.nodes[first].scale == 2


def test_positionwise_nodes_are_those_of_single_windows():
    key, grid = StageKey(0, 2, 2), Grid(2, 2)
    single, wide = (Windows.single(2),) * 2, (Windows(2, 3, 1, 1, 2),) * 2
    around = (Windows(2, 1, 1, 0, 2, circular=True),) * 2
    nodes = [Node(Code.WEIGH, (0,), key, key, grid, windows=windows) for windows in (None, single, around, wide)]
    assert [node.is_positionwise for node in nodes] == [True, True, True, False]
    assert not Node(Code.POOL, (0,), key, key, grid, windows=single).is_positionwise


@pytest.mark.parametrize(("first", "last"), [("SAME", "CIRCULAR"), ("CIRCULAR", "SAME")])
def test_blocks_that_move_between_flat_and_circular_convolutions_are_moved_once(first, last):
    """Each path through the branches was followed: 2^1000 of them."""
    block = Residual(Sequential(Relu(), Dense()))
    graph, _ = build((Conv(3, padding=first), Repeat(block, 1000), Conv(3, padding=last), Flatten()))
    assert len(graph.nodes) < 8000
