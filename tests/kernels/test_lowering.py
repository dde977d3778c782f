"""Programs: what is shared, what is skipped, what it costs, what is refused."""

import numpy as np
import pytest

from cntk_pipeline.errors import LayerError
from cntk_pipeline.kernels import is_untrained, kernel_matrix, lower
from cntk_pipeline.kernels.program import Code
from cntk_pipeline.layers import (
    Attend,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    LinearAttention,
    LocalAvgPool,
    PositionalEmbedding,
    Product,
    Relu,
    Rescale,
    Residual,
    SelfAttention,
    Sequential,
    Sign,
    SumPool,
    presets,
)

DEPTHS = (3, 4, 6, 11, 21)
CONV = (Conv(3), Relu())


def operations(program):
    return [op for stage in program.stages for op in stage.operations]


def count(program, *codes):
    return sum(op.code in codes for op in operations(program))


def lower_one(*layers, kind="ntk", shape=(6, 8, 2)):
    return lower([(Sequential(*layers), kind)], shape)


def visited(stage, code=None):
    """The offsets at which a stage, or its last operation of a code, runs."""
    if code is None:
        return {tuple(offset) for offset in stage.visits.offsets.tolist()}
    marks = [m for op, m in zip(stage.operations, stage.visits.marks, strict=True) if op.code is code][-1]
    return {tuple(offset) for offset in stage.visits.offsets[marks].tolist()}


def box(rows, columns):
    return {(i, j) for i in rows for j in columns}


# What is shared.


def test_five_depths_cost_one_pass_to_the_deepest():
    together = lower([(presets.cntk(depth), "ntk") for depth in DEPTHS], (8, 8, 3))
    deepest = lower([(presets.cntk(max(DEPTHS)), "ntk")], (8, 8, 3))
    assert count(deepest, Code.INPUT) == count(together, Code.INPUT) == 1
    # Each depth adds its trace, and its linear read-out: one entry.
    assert count(together, Code.WEIGH) == count(deepest, Code.WEIGH) + len(DEPTHS) - 1 == max(DEPTHS) - 1 + len(DEPTHS)
    assert count(together, Code.REDUCE) == count(together, Code.OUTPUT) == len(DEPTHS)
    assert together.plane_entries == deepest.plane_entries + len(DEPTHS) - 1


def test_kinds_poolings_and_radii_of_one_body_share_it():
    body = [*CONV, Conv(3), Relu()]
    heads = [Flatten(), GlobalAvgPool(), Sequential(LocalAvgPool(1), Flatten()), Sequential(LocalAvgPool(2), Flatten())]
    ends = [(Sequential(*body, head, Dense()), kind) for head in heads for kind in ("nngp", "ntk")]
    together, alone = lower(ends, (4, 4, 1)), lower([ends[3]], (4, 4, 1))
    assert count(together, Code.WEIGH) == 2 + len(heads)
    assert together.plane_entries == alone.plane_entries + len(heads) - 1
    assert len(together.stages) == len(alone.stages) == 2
    assert (together.readout_count, together.sum_count, together.tensors) == (8, 4, ())


def test_read_outs_before_and_behind_a_pooling_share_what_lies_before():
    ends = [
        (*CONV, GlobalAvgPool()),
        (*CONV, AvgPool(2), *CONV, GlobalAvgPool()),
        (*CONV, AvgPool(2), *CONV, Flatten()),
    ]
    together = lower([(Sequential(*layers), "ntk") for layers in ends], (6, 8, 2))
    assert count(together, Code.INPUT, Code.POOL, Code.LOAD) == 3
    assert together.plane_entries == lower_one(*ends[1]).plane_entries


# What is skipped.


def test_a_flattened_network_visits_one_offset():
    stage = lower([(presets.cntk(5), "ntk")], (7, 9, 3)).stages[0]
    np.testing.assert_array_equal(stage.visits.offsets, [[0, 0]])


def test_global_pooling_visits_every_offset_once_and_zero_first():
    stage = lower([(presets.cntk(5, "gap"), "ntk")], (3, 4, 3)).stages[0]
    np.testing.assert_array_equal(stage.visits.offsets[0], [0, 0])
    assert visited(stage) == box(range(-2, 3), range(-3, 4))
    assert len(stage.visits.offsets) == 5 * 7


def test_behind_the_last_pooled_layer_only_offset_zero_is_visited():
    asked = [(Sequential(*CONV, GlobalAvgPool()), "ntk"), (Sequential(*CONV * 3, Flatten()), "ntk")]
    stage = lower(asked, (4, 5, 1)).stages[0]
    entries = [
        int(marks.sum())
        for op, marks in zip(stage.operations, stage.visits.marks, strict=True)
        if op.code is Code.WEIGH
    ]
    assert entries == [7 * 9, 1, 1]


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_local_average_pooling_before_flatten_visits_offsets_to_twice_its_radius_and_makes_no_tensor(radius):
    program = lower_one(*CONV, LocalAvgPool(radius), Flatten(), Dense(), shape=(9, 5, 1))
    rows, columns = min(2 * radius, 8), min(2 * radius, 4)
    assert visited(program.stages[0]) == box(range(-rows, rows + 1), range(-columns, columns + 1))
    assert program.tensors == ()
    assert count(program, Code.REDUCE) == 1
    assert count(program, Code.POOL) == 0


def test_pooling_before_a_global_average_is_one_weighted_sum():
    pooled, plain = (lower_one(*CONV, *pool, GlobalAvgPool(), Dense()) for pool in ((AvgPool(2), AvgPool(2)), ()))
    assert [op.code for op in operations(pooled)] == [op.code for op in operations(plain)]
    assert pooled.tensors == ()
    # Of 6 x 8 positions those 4 x 8 that both poolings keep.
    (weights,) = (op.weights for op in operations(pooled) if op.code is Code.REDUCE)
    np.testing.assert_array_equal(weights[0].sum(1), [0, 0, 1, 2, 3, 4, 3, 2, 1, 0, 0])
    assert visited(pooled.stages[0]) == box(range(-3, 4), range(-7, 8))


@pytest.mark.parametrize("window", [2, 3])
def test_a_pooling_needs_the_offsets_of_its_windows_alone(window):
    # Pooled offset D joins positions k D - (k - 1) to k D + (k - 1) apart.
    program = lower_one(*CONV, AvgPool(window), *CONV, Flatten(), shape=(12, 12, 1))
    assert visited(program.stages[0]) == box(range(1 - window, window), range(1 - window, window))
    assert visited(program.stages[1]) == {(0, 0)}
    assert program.tensors[0].size == (12 // window) ** 2

    program = lower_one(*CONV, SumPool(window), *CONV, Conv(3, strides=2), GlobalAvgPool(), shape=(12, 12, 1))
    pooled = {2 * k for k in range(-((12 // window + 1) // 2) + 1, (12 // window + 1) // 2)}
    assert visited(program.stages[1]) == box(pooled, pooled)
    around = {window * d + e for d in pooled for e in range(1 - window, window)}
    assert visited(program.stages[0]) == box(around, around)


def test_overlapping_windows_need_all_offsets_that_they_span():
    program = lower_one(*CONV, AvgPool(3, 2), *CONV, Flatten(), shape=(9, 9, 1))
    assert visited(program.stages[0]) == box(range(-2, 3), range(-2, 3))
    # Windows of 2, 4 apart, leave out what lies between them.
    program = lower_one(*CONV, AvgPool(2, 4), *CONV, GlobalAvgPool(), shape=(10, 10, 1))
    apart = {4 * d + e for d in range(-2, 3) for e in (-1, 0, 1)}
    assert visited(program.stages[0]) == box(apart, apart)


def test_before_strides_only_multiples_of_their_product_are_visited():
    program = lower_one(
        *CONV, Conv(3, strides=(2, 1)), Relu(), Conv(3, strides=(2, 3)), Relu(), *CONV, GlobalAvgPool(), shape=(8, 9, 2)
    )
    (stage, _) = program.stages
    assert visited(stage) == box((-4, 0, 4), (-6, -3, 0, 3, 6))
    assert all(marks.all() for marks in stage.visits.marks)
    assert [(op.grid.step, op.target_grid.step) for op in stage.operations if op.code is Code.WEIGH] == [
        ((1, 1), (1, 1)),
        ((1, 1), (2, 1)),
        ((2, 1), (4, 3)),
        ((4, 3), (4, 3)),
    ]


def test_what_is_read_out_before_a_stride_runs_at_all_offsets_and_the_rest_does_not():
    asked = [
        (Sequential(*CONV, GlobalAvgPool()), "ntk"),
        (Sequential(*CONV, Conv(3, strides=2), Relu(), GlobalAvgPool()), "ntk"),
    ]
    (stage, _) = lower(asked, (4, 5, 2)).stages
    assert len(stage.visits.offsets) == 7 * 9
    marks = {
        op.target_grid.step: int(m.sum())
        for op, m in zip(stage.operations, stage.visits.marks, strict=True)
        if op.code is Code.WEIGH
    }
    assert marks == {(1, 1): 7 * 9, (2, 2): 3 * 5}


def test_around_a_circle_every_plane_is_whole():
    program = lower_one(Conv(3, padding="CIRCULAR"), Relu(), GlobalAvgPool(), shape=(4, 5, 1))
    stage = next(stage for stage in program.stages if stage.circular)
    assert visited(stage) == box(range(4), range(5))
    assert stage.plane_entries == 20 * 20
    assert count(program, Code.POOL, Code.LOAD) == 0
    flat = lower_one(Conv(3, padding="CIRCULAR"), Relu(), Flatten(), shape=(4, 5, 1))
    assert flat.plane_entries == 20


def test_between_flat_and_circular_stages_all_positions_are_handed_over():
    program = lower_one(Conv(3), Conv(3, padding="CIRCULAR"), Relu(), GlobalAvgPool(), shape=(4, 5, 1))
    assert [(s.height, s.width, s.circular) for s in program.stages] == [(4, 5, False), (4, 5, True), (1, 1, False)]
    assert visited(program.stages[0]) == box(range(-3, 4), range(-4, 5))
    (tensor,) = program.tensors
    assert (tensor.circular, tensor.size) == (True, 20 * 20)
    np.testing.assert_array_equal(tensor.starts.ravel(), 20 * np.arange(20))


def test_a_circular_stride_hands_over_every_other_position():
    program = lower_one(Conv(3, strides=2, padding="CIRCULAR"), Relu(), Flatten(), shape=(4, 6, 1))
    circle, behind, _ = (stage for stage in program.stages if stage.operations)
    assert visited(circle) == {(0, 0)}
    assert (behind.height, behind.width, behind.circular) == (2, 3, False)


def test_branches_of_different_stages_are_added_where_both_are_at_hand():
    # The branch strides in the first stage; the shortcut is pooled: both are loaded in the next one.
    program = lower_one(Conv(3), Residual(Sequential(Relu(), Conv(3, strides=2)), AvgPool(2)), Relu(), GlobalAvgPool())
    assert [len([op for op in stage.operations if op.code is Code.LOAD]) for stage in program.stages] == [0, 2, 0]
    assert count(program, Code.POOL) == 2
    (first, second, _) = program.stages
    assert first.register_count == 1  # the shortcut is pooled before the branch needs the plane
    assert second.register_count == 2
    even = box(range(-4, 5, 2), range(-6, 7, 2))
    assert visited(first, Code.WEIGH) == even
    assert visited(first) == box(range(-5, 6), range(-7, 8))


def test_a_network_for_the_nngp_alone_computes_no_tangent():
    for layers in ((*CONV * 3, GlobalAvgPool(), Dense()), (*CONV, AvgPool(2), SelfAttention(), Relu(), Flatten())):
        assert not any(op.tangent for op in operations(lower_one(*layers, kind="nngp")))


def test_tangents_stop_behind_the_last_ntk_read_out():
    asked = [(presets.cntk(3), "ntk"), (presets.cntk(6), "nngp")]
    stage = lower(asked, (4, 4, 3)).stages[0]
    assert [op.tangent for op in stage.operations if op.code is Code.WEIGH] == [True, True, False, False, False]


def test_a_multiple_costs_no_pass_where_it_folds():
    layers = [Rescale(3.0), *CONV, AvgPool(2), Rescale(5.0), *CONV, Rescale(7.0), Flatten(), Rescale(2.0)]
    with_multiples, without = lower_one(*layers), lower_one(*(v for v in layers if not isinstance(v, Rescale)))
    assert with_multiples.plane_entries == without.plane_entries
    assert [op.code for op in operations(with_multiples)] == [op.code for op in operations(without)]


# What an image with itself passes on.


def self_visited(program):
    return [{tuple(offset) for offset in stage.self_visits.offsets.tolist()} for stage in program.stages]


def test_without_activations_behind_a_pooling_no_image_meets_itself_beforehand():
    for layers in (
        (*CONV * 2, GlobalAvgPool(), Dense()),
        (*CONV, LocalAvgPool(1), Flatten()),
        (*CONV, AvgPool(2), Conv(3), Flatten(), Dense()),
    ):
        assert not any(self_visited(lower_one(*layers)))


def test_weights_that_enlarge_and_products_behind_a_pooling_need_the_variances_before_them():
    # What had become too small for its digits would look like a kernel again.
    for layers in (
        (*CONV, GlobalAvgPool(), Dense(w_std=3.0), Dense(w_std=1.4)),
        (*CONV, GlobalAvgPool(), Product(Dense(), Dense())),
    ):
        assert any(self_visited(lower_one(*layers)))
    assert not any(self_visited(lower_one(*CONV, GlobalAvgPool(), Dense(w_std=2.0), Dense(w_std=2.0))))


def test_an_activation_behind_a_pooling_needs_the_variances_before_it():
    # Variances behind windows of 2 x 2 need offsets of -1, 0, 1, whatever the pair itself needs.
    program = lower_one(*CONV, AvgPool(2), *CONV, GlobalAvgPool())
    assert self_visited(program) == [box((-1, 0, 1), (-1, 0, 1)), {(0, 0)}, set()]
    # What runs for them is what the loads of the next stage begin with, no more.
    behind = program.stages[1]
    ran = [op.code for op, marks in zip(behind.operations, behind.self_visits.marks, strict=True) if marks.any()]
    assert ran == [Code.LOAD]


def test_an_activation_behind_a_global_average_needs_all_offsets_of_an_image_with_itself():
    program = lower_one(*CONV, GlobalAvgPool(), Dense(), Relu(), Dense(), shape=(4, 5, 1))
    assert self_visited(program)[0] == box(range(-3, 4), range(-4, 5))
    flat = lower_one(*CONV, Flatten(), Dense(), Relu(), Dense(), shape=(4, 5, 1))
    assert self_visited(flat)[0] == {(0, 0)}


def test_attention_needs_all_positions_of_an_image_with_itself():
    program = lower_one(Conv(3, strides=2), SelfAttention(), Flatten())
    assert self_visited(program)[:2] == [box(range(-4, 5, 2), range(-6, 7, 2)), box(range(-2, 3), range(-3, 4))]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([Attend(keys=Dense())], True),
        ([Attend(keys=Sequential(Dense(), Attend(keys=Dense())))], True),
        ([LinearAttention(keys=Dense(), trained=False)], False),
        ([SelfAttention(trained=False)], True),
        ([Dense(), Attend()], False),
        ([Product(Dense(trained=False), Dense())], False),
        ([Residual(Dense(trained=False), Dense(trained=False))], True),
        ([PositionalEmbedding(), Attend()], False),
        ([Attend(keys=PositionalEmbedding())], True),
    ],
    ids=repr,
)
def test_no_layer_is_trained_where_no_tangent_comes_to_the_end(layers, expected):
    fixed = Dense(trained=False)
    network = Sequential(fixed, *layers, GlobalAvgPool(), fixed)
    assert is_untrained(network, (2, 2, 3)) is expected
    x = np.random.default_rng(0).standard_normal((2, 2, 2, 3))
    assert bool(kernel_matrix(network, x, dtype="float64").any()) is not expected


# What it costs.


def test_plane_entries_are_those_counted_by_hand():
    # 2 x 3 pixels, two convolutions. Flattened: 6 positions each, then the read-out's one number.
    assert lower([(presets.cntk(3), "ntk")], (2, 3, 1)).plane_entries == 2 * 6 + 1
    # Pooled: all 6 x 6 pairs of positions, cut into 3 x 5 planes.
    assert lower([(presets.cntk(3, "gap"), "ntk")], (2, 3, 1)).plane_entries == 2 * 36 + 1
    # A convolution that is read out is not fused: the ReLU counts by itself.
    split = Sequential(Conv(3), Flatten()), Sequential(Conv(3), Relu(), Flatten())
    assert lower([(net, "ntk") for net in split], (2, 3, 1)).plane_entries == 2 * 6
    # Vectors: one number a layer.
    assert lower([(presets.fully_connected(4), "ntk")], (7,)).plane_entries == 4


def test_plane_entries_of_poolings_strides_and_circles_are_those_counted_by_hand():
    # 4 x 4 pixels pooled to 2 x 2, of which 3 x 3 offsets are needed: all 16 x 16 pairs before, 4 x 4 behind.
    assert lower_one(*CONV, AvgPool(2), *CONV, GlobalAvgPool(), shape=(4, 4, 1)).plane_entries == 256 + 16
    # Flattened: 4 pairs behind, and before offsets of -1, 0, 1: (3 + 4 + 3)^2 pairs.
    assert lower_one(*CONV, AvgPool(2), *CONV, Flatten(), shape=(4, 4, 1)).plane_entries == 100 + 4
    # A stride of 2: offsets of -2, 0, 2 before, (2 + 4 + 2)^2 pairs, and all 4 x 4 behind.
    assert lower_one(*CONV, Conv(3, strides=2), Relu(), GlobalAvgPool(), shape=(4, 4, 1)).plane_entries == 64 + 16
    # A circle of 2 x 3: 6 planes of 6 pixels.
    assert (
        lower_one(Conv(1), Relu(), Conv((1, 2), padding="CIRCULAR"), GlobalAvgPool(), shape=(2, 3, 1)).plane_entries
        == 72
    )


def test_one_register_is_enough_for_any_depth():
    program = lower([(presets.cntk(depth, "gap"), kind) for depth in DEPTHS for kind in ("nngp", "ntk")], (4, 4, 3))
    assert [stage.register_count for stage in program.stages] == [1, 1]
    program = lower_one(
        *CONV, Conv(3, strides=2), Relu(), AvgPool(2, 1), *CONV * 3, Conv((2, 5), b_std=1.0), Relu(), Flatten()
    )
    assert [stage.register_count for stage in program.stages] == [1, 1, 1]


def test_a_residual_keeps_its_shortcut_in_a_second_register():
    blocks = [Residual(Sequential(Relu(), Conv(3), Relu(), Conv(3)))] * 4
    assert lower_one(Conv(3), *blocks, GlobalAvgPool()).stages[0].register_count == 2
    nested = Residual(Sequential(Conv(3), Residual(Conv(3)), Conv(1)))
    assert lower_one(Conv(3), nested, GlobalAvgPool()).stages[0].register_count == 3


def test_circular_windows_never_overwrite_their_source():
    layers = [Conv(3, padding="CIRCULAR"), Relu()] * 5
    program = lower_one(*layers, GlobalAvgPool())
    found = [op for op in operations(program) if op.is_circular]
    assert len(found) == 5
    assert all(op.source != op.target for op in found)
    assert max(stage.register_count for stage in program.stages) == 2


# What registers hold.


def paths(asked, shape=(4, 4, 3)):
    """List what leaves each stage, as the path of operations that its register went through."""
    found = []
    for stage in lower(asked, shape).stages[:1]:
        holds = {}
        for op in stage.operations:
            read = [holds[register] for register in (op.source, op.other) if register >= 0]
            if op.is_circular:
                assert op.target not in (op.source, op.other)
            path = (*read, (op.code, op.window), *([op.function] if op.function else []))
            if op.target >= 0:
                holds[op.target] = flatten_fused(path)
            if op.code in (Code.REDUCE, Code.POOL):
                found.append(str(flatten_fused(path)))
    return found


def flatten_fused(path):
    """Write weights and the activation fused into them as two steps."""
    function = path[-1]
    if not isinstance(function, tuple):
        before = path[:-1] if path[-2][1] != (1, 1) else path[:-2]
        return (before if len(before) > 1 else before[0], (function,))
    return path


def test_a_register_still_holds_what_its_reader_wants():
    asked = [
        (Sequential(*CONV * k, *end), "ntk")
        for k in (1, 2, 3)
        for end in (
            (Flatten(),),
            (Conv(1), GlobalAvgPool()),
            (Conv(5), Relu(), Flatten()),
            (Residual(Sequential(Conv(3), Residual(Conv(5)), Relu(), Conv(3)), Conv(5)), Relu(), GlobalAvgPool()),
        )
    ]
    alone = [path for network in asked for path in paths([network])]
    assert set(paths(asked)) == set(alone)
    assert lower(asked, (4, 4, 3)).stages[0].register_count > 1  # branches need a second one


def test_the_rim_holds_the_widest_window():
    network = Sequential(Conv((2, 7)), Relu(), Conv(3), Relu(), Flatten(), Dense())
    halos = [stage.halo for stage in lower([(network, "ntk")], (4, 4, 3)).stages]
    assert halos == [3, 0]
    # Windows at strides reach as far as the last of them.
    assert lower_one(Conv((1, 5), strides=(1, 4)), Flatten(), shape=(4, 5, 1)).stages[0].halo == 2
    assert lower_one(Conv(2, padding="VALID"), Flatten(), shape=(4, 5, 1)).stages[0].halo == 0
    # Of even windows the odd position is behind.
    assert lower_one(Conv((1, 4)), Flatten(), shape=(4, 5, 1)).stages[0].halo == 2


def test_a_program_s_visits_have_one_row_an_operation():
    for stage in lower_one(*CONV, AvgPool(2), *CONV, GlobalAvgPool(), Dense(), Relu()).stages:
        for visits in (stage.visits, stage.self_visits):
            assert visits.marks.shape == (len(stage.operations), len(visits.offsets))
            assert visits.marks.any(0).all()
            assert visits.offsets.dtype == np.int64


# What is refused.


def test_a_program_of_nothing_is_refused():
    with pytest.raises(LayerError, match="at least one read-out, got none"):
        lower([], (3,))


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


def test_a_layer_that_does_not_fit_is_refused_with_its_place():
    with pytest.raises(LayerError, match=r"layer 1 \(Relu\) on input \(4, 4, 3\): Relu needs infinitely many channels"):
        lower([(Sequential(Rescale(2.0), Relu(), Flatten()), "ntk")], (4, 4, 3))


def test_a_tangent_behind_sign_is_refused_with_its_place():
    message = r"Sign\(\) has no NTK, only an NNGP: ask for kind=\"nngp\", or take a smooth activation"
    with pytest.raises(LayerError, match=r"^layer 1 \(Sign\): " + message):
        lower_one(Conv(3), Sign(), Flatten(), Dense())
    branch = Residual(Sequential(Conv(3), Relu(), Conv(3), LayerNorm(), Sign(), Conv(3)))
    with pytest.raises(LayerError, match=r"^layer 2 \(Residual\): branch: layer 4 \(Sign\): " + message):
        lower_one(Conv(3), Relu(), branch, Flatten())
    assert lower_one(Conv(3), Relu(), branch, Flatten(), kind="nngp").readout_count == 1
