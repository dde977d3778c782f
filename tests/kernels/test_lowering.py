"""Programs: what is shared, what is skipped, what it costs, what is refused."""

from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.errors import LayerError
from pipeline.kernels import lower
from pipeline.kernels.program import Code
from pipeline.layers import Conv, Dense, Flatten, GlobalAvgPool, Layer, Relu, Rescale, Sequential, Shape, presets

DEPTHS = (3, 4, 6, 11, 21)


def count(program, *codes):
    return sum(op.code in codes for stage in program.stages for op in stage.operations)


def heavy_count(program):
    return count(program, Code.LINEAR, Code.RELU, Code.LINEAR_RELU)


def test_five_depths_cost_one_pass_to_the_deepest():
    together = lower([(presets.cntk(depth), "ntk") for depth in DEPTHS], (8, 8, 3))
    deepest = lower([(presets.cntk(max(DEPTHS)), "ntk")], (8, 8, 3))
    assert count(deepest, Code.LINEAR_RELU) == count(together, Code.LINEAR_RELU) == max(DEPTHS) - 1
    assert count(together, Code.INPUT) == count(deepest, Code.INPUT)
    # Each depth adds its trace, and its linear read-out: one entry.
    assert count(together, Code.REDUCE) == count(together, Code.OUTPUT) == len(DEPTHS)
    assert together.plane_entries == deepest.plane_entries + len(DEPTHS) - 1


def test_both_kinds_and_both_poolings_of_one_body_share_it():
    body = [Conv(3), Relu(), Conv(3), Relu()]
    ends = [(Sequential(*body, end, Dense()), kind) for end in (Flatten(), GlobalAvgPool()) for kind in ("nngp", "ntk")]
    together, alone = lower(ends, (4, 4, 1)), lower(ends[-1:], (4, 4, 1))
    assert count(together, Code.LINEAR_RELU) == 2
    assert together.stages[0].plane_entries == alone.stages[0].plane_entries
    assert together.readout_count == 4


def test_equal_networks_written_differently_are_one():
    first = Sequential(Conv(3), Relu(), Flatten(), Dense())
    second = Sequential(Sequential(Conv((3, 3))), Sequential(Relu(), Sequential(Flatten(), Dense())))
    both = lower([(first, "ntk"), (second, "ntk")], (4, 4, 1))
    assert heavy_count(both) == heavy_count(lower([(first, "ntk")], (4, 4, 1)))


def test_layers_that_differ_are_not_shared():
    first = Sequential(Conv(3), Relu(), Flatten(), Dense())
    for other in (Conv(3, w_std=2), Conv(3, b_std=1), Conv(3, trained=False), Conv((3, 1))):
        second = Sequential(other, Relu(), Flatten(), Dense())
        assert count(lower([(first, "ntk"), (second, "ntk")], (4, 4, 1)), Code.LINEAR_RELU) == 2


def test_a_flattened_network_visits_one_offset():
    stage = lower([(presets.cntk(5), "ntk")], (7, 9, 3)).stages[0]
    np.testing.assert_array_equal(stage.offsets, [[0, 0]])


def test_global_pooling_visits_every_offset_once_and_zero_first():
    stage = lower([(presets.cntk(5, "gap"), "ntk")], (3, 4, 3)).stages[0]
    np.testing.assert_array_equal(stage.offsets[0], [0, 0])
    assert {tuple(offset) for offset in stage.offsets.tolist()} == {(i, j) for i in range(-2, 3) for j in range(-3, 4)}
    assert len(stage.offsets) == 5 * 7


def test_behind_the_last_pooled_layer_only_offset_zero_is_visited():
    conv = [Conv(3), Relu()]
    asked = [(Sequential(*conv, GlobalAvgPool()), "ntk"), (Sequential(*conv * 3, Flatten()), "ntk")]
    stage = lower(asked, (4, 5, 1)).stages[0]
    entries = [
        int(marks.sum()) for op, marks in zip(stage.operations, stage.marks, strict=True) if op.code is Code.LINEAR_RELU
    ]
    assert entries == [7 * 9, 1, 1]


def test_a_network_for_the_nngp_alone_computes_no_tangent():
    program = lower([(presets.cntk(4, "gap"), "nngp")], (4, 4, 3))
    assert not any(op.tangent for stage in program.stages for op in stage.operations)


def test_tangents_stop_behind_the_last_ntk_read_out():
    asked = [(presets.cntk(3), "ntk"), (presets.cntk(6), "nngp")]
    stage = lower(asked, (4, 4, 3)).stages[0]
    assert [op.tangent for op in stage.operations if op.code is Code.LINEAR_RELU] == [True, True, False, False, False]


def test_plane_entries_are_those_counted_by_hand():
    # 2 x 3 pixels, two fused convolutions. Flattened: 6 positions each, then the read-out's one number.
    assert lower([(presets.cntk(3), "ntk")], (2, 3, 1)).plane_entries == 2 * 6 + 1
    # Pooled: all 6 x 6 pairs of positions, cut into 3 x 5 planes.
    assert lower([(presets.cntk(3, "gap"), "ntk")], (2, 3, 1)).plane_entries == 2 * 36 + 1
    # A linear layer that is read out is not fused: the ReLU counts by itself.
    split = Sequential(Conv(3), Flatten()), Sequential(Conv(3), Relu(), Flatten())
    assert lower([(net, "ntk") for net in split], (2, 3, 1)).plane_entries == 2 * 6
    # Vectors: one number a layer.
    assert lower([(presets.fully_connected(4), "ntk")], (7,)).plane_entries == 4


def test_one_register_is_enough_for_any_depth():
    program = lower([(presets.cntk(depth, "gap"), kind) for depth in DEPTHS for kind in ("nngp", "ntk")], (4, 4, 3))
    assert program.stages[0].register_count == 1


def reductions(asked):
    """List what is reduced, each as the path of operations that its register went through; fused ones count as two."""
    stage = lower(asked, (4, 4, 3)).stages[0]
    holds = {}
    paths = []
    for op in stage.operations:
        codes = (Code.LINEAR, Code.RELU) if op.code is Code.LINEAR_RELU else (op.code,)
        path = (*holds.get(op.source, ()), *((code, op.window) for code in codes))
        if op.target >= 0:
            holds[op.target] = path
        if op.code is Code.REDUCE:
            paths.append(path)
    return paths


def test_a_register_still_holds_what_its_reader_wants():
    asked = [
        (Sequential(*[Conv(3), Relu()] * k, *end), "ntk")
        for k in (1, 2, 3)
        for end in ((Flatten(), Relu()), (Conv(1), GlobalAvgPool()), (Conv(5), Relu(), Flatten()))
    ]
    alone = [path for network in asked for path in reductions([network])]
    assert sorted(map(str, reductions(asked))) == sorted(map(str, alone))
    assert lower(asked, (4, 4, 3)).stages[0].register_count > 1  # branches need a second one


def test_the_rim_holds_the_widest_window():
    network = Sequential(Conv((2, 7)), Relu(), Conv(3), Relu(), Flatten(), Dense())
    halos = [stage.halo for stage in lower([(network, "ntk")], (4, 4, 3)).stages]
    assert halos == [3, 0]


def test_arrays_of_a_stage_have_one_row_an_operation():
    for stage in lower([(presets.cntk(4, "gap"), "ntk")], (3, 3, 2)).stages:
        rows = len(stage.operations)
        assert stage.codes.shape == (rows, 8)
        assert stage.params.shape == (rows, 3)
        assert stage.marks.shape == (rows, len(stage.offsets))
        assert stage.codes.dtype == stage.offsets.dtype == np.int64


def test_a_network_that_ends_in_an_image_is_refused():
    with pytest.raises(
        LayerError, match=r"ends in images of shape \(4, 4, inf\): end it with Flatten\(\) or GlobalAvgPool"
    ):
        lower([(Sequential(Conv(3), Relu()), "ntk")], (4, 4, 3))


def test_an_unknown_kind_is_refused():
    with pytest.raises(LayerError, match='a kernel is "nngp" or "ntk", got kind=\'cntk\''):
        lower([(presets.cntk(3), "cntk")], (4, 4, 3))


def test_an_input_shape_without_channels_is_refused():
    with pytest.raises(
        LayerError, match=r"expected inputs of shape \(n, H, W, C\) or \(n, features\).*add the missing axes"
    ):
        lower([(presets.cntk(3), "ntk")], (4, 4))


def test_a_layer_without_lowering_is_refused():
    @dataclass(frozen=True)
    class Mystery(Layer):
        def output_shape(self, shape: Shape) -> Shape:
            return shape

    with pytest.raises(LayerError, match=r"no lowering is known for the layer .*Mystery\(\)"):
        lower([(Sequential(Dense(), Mystery()), "ntk")], (3,))


def test_every_layer_of_the_table_can_be_lowered():
    for network in (
        Sequential(Rescale("channels"), Conv(3), Relu(), Rescale(2.0), Flatten(), Dense()),
        Sequential(Conv(3), Relu(), GlobalAvgPool(), Flatten(), Dense()),
    ):
        assert lower([(network, "ntk")], (4, 4, 3)).readout_count == 1
