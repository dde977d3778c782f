"""Attention against dense matrices."""

import numpy as np
import pytest
from numba import njit
from support.tolerances import DTYPES, assert_kernels_close, tolerance

from cntk_pipeline.kernels import KINDS, CpuEvaluator, lower
from cntk_pipeline.kernels.attention import pair_index, softmax_rows
from cntk_pipeline.kernels.lanes import LANES, address, call
from cntk_pipeline.kernels.machine import Machine
from cntk_pipeline.kernels.preparation import Preparation
from cntk_pipeline.kernels.program import Code, Tensor
from cntk_pipeline.kernels.weighing import Place, attention_function
from cntk_pipeline.layers import (
    Attend,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Identity,
    MaxPool,
    PositionalEmbedding,
    Relu,
    SelfAttention,
    Sequential,
    presets,
)


def lay_out(height, width, circular, wanted):
    """Make a tensor of the offsets that ``wanted(row, column)`` accepts."""
    rows, columns = (range(n) if circular else range(1 - n, n) for n in (height, width))
    starts, size = np.full((len(rows), len(columns)), -1), 0
    for i, dy in enumerate(rows):
        for j, dx in enumerate(columns):
            if wanted(dy, dx):
                starts[i, j] = size
                size += height * width if circular else (height - abs(dy)) * (width - abs(dx))
    widths = np.array([width if circular else width - abs(dx) for dx in columns])
    return Tensor(starts, widths, size, height, width, circular)


@pytest.mark.parametrize("circular", [False, True])
def test_every_pair_of_positions_has_a_place_of_its_own(circular):
    index = pair_index(lay_out(3, 4, circular, lambda dy, dx: True))
    np.testing.assert_array_equal(np.sort(index.ravel()), np.arange(144))


def test_places_are_those_of_planes_by_hand():
    # 1 x 3: offsets -2, -1, 0, 1, 2 have planes of 1, 2, 3, 2, 1 pixels.
    index = pair_index(lay_out(1, 3, False, lambda dy, dx: True))
    np.testing.assert_array_equal(index, [[3, 6, 8], [1, 4, 7], [0, 2, 5]])
    index = pair_index(lay_out(1, 3, False, lambda dy, dx: dx in (0, -2)))
    np.testing.assert_array_equal(index, [[1, -1, -1], [-1, 2, -1], [0, -1, 3]])
    # Around a circle, offsets 0, 1, 2 have planes of 3 pixels.
    index = pair_index(lay_out(1, 3, True, lambda dy, dx: dx != 1))
    np.testing.assert_array_equal(index, [[0, -1, 3], [4, 1, -1], [-1, 5, 2]])


@njit
def run(function, tensor, out, index, index_out, left, right, buffer, place):
    call(
        function,
        (
            address(tensor, 0),
            address(out, 0),
            address(index, 0),
            address(index_out, 0),
            address(left, 0),
            address(right, 0),
            address(buffer, 0),
            address(place, 0),
        ),
    )


@pytest.mark.parametrize("by_lane", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_positions_of_both_images_are_mixed(dtype, by_lane):
    count = 6
    rng = np.random.default_rng(0)
    source, kept = (lay_out(2, 3, False, wanted) for wanted in (lambda dy, dx: True, lambda dy, dx: dy == 0))
    tensor = rng.standard_normal((source.size, LANES)).astype(dtype)
    right = rng.standard_normal((count, count, LANES)).astype(dtype)
    left = rng.standard_normal((count, count, LANES) if by_lane else (count, count)).astype(dtype)
    out = np.full((kept.size, LANES), np.nan, dtype)
    index, index_out = pair_index(source), pair_index(kept)
    place = np.zeros(len(Place), np.int64)
    place[Place.TERMS] = count
    function = attention_function(by_lane, dtype).address
    run(function, tensor, out, index, index_out, left.ravel(), right, np.zeros((count, LANES), dtype), place)
    for lane in range(LANES):
        mixed = (left[..., lane] if by_lane else left) @ tensor[index][..., lane] @ right[..., lane].T
        kept_pairs = index_out >= 0
        found = out[index_out, lane][kept_pairs]
        np.testing.assert_allclose(found, mixed[kept_pairs], rtol=0, atol=30 * np.finfo(dtype).eps)
    assert np.isfinite(out).all()


def test_rows_of_attention_sum_to_one_for_logits_of_any_size():
    logits = np.random.default_rng(0).standard_normal((5, 5, LANES)) * np.geomspace(1e-3, 1e4, LANES)
    attention = softmax_rows(logits)
    np.testing.assert_allclose(attention.sum(1), 1, rtol=1e-12)
    plain = np.exp(logits[..., 0]) / np.exp(logits[..., 0]).sum(1, keepdims=True)
    np.testing.assert_allclose(attention[..., 0], plain, rtol=1e-12)


def pair_covariances(x, z):
    """All pairs of positions of two images, per channel."""
    return x.reshape(-1, x.shape[-1]) @ z.reshape(-1, z.shape[-1]).T / x.shape[-1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", [Flatten(), GlobalAvgPool()])
def test_a_network_of_attention_is_dense_algebra(head, dtype):
    layer = SelfAttention(w_query_std=1.5, w_key_std=0.8, w_value_std=1.2, w_out_std=0.7, b_std=0.3)
    network = Sequential(Dense(w_std=1.4, b_std=0.2), layer, head)
    x = np.random.default_rng(2).standard_normal((3, 2, 3, 4))
    nngp, ntk = CpuEvaluator(lower([(network, kind) for kind in ("nngp", "ntk")], x.shape[1:]), dtype).evaluate(x)
    expected = np.zeros((2, 3, 3))
    for i in range(3):
        for j in range(3):
            mixers = []
            for image in (x[i], x[j]):
                logits = 1.5 * 0.8 * (1.96 * pair_covariances(image, image) + 0.04)
                mixers.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
            s = 1.96 * pair_covariances(x[i], x[j]) + 0.04
            # T = S behind the dense layer; values and outputs each add their own covariance.
            mixed = (1.2 * 0.7) ** 2 * mixers[0] @ s @ mixers[1].T
            s_end, t_end = mixed + 0.09, 2 * mixed + mixed + 0.09
            for kind, value in enumerate((s_end, t_end)):
                expected[kind, i, j] = value.mean() if isinstance(head, GlobalAvgPool) else np.trace(value) / 6
    assert_kernels_close(nngp, expected[0], tolerance(dtype).kernel)
    assert_kernels_close(ntk, expected[1], tolerance(dtype).kernel)


def test_attention_of_an_image_that_is_flat_is_an_average():
    x = np.full((1, 2, 3, 1), 0.7)
    network = Sequential(Conv(1), SelfAttention(w_query_std=3.0), Flatten())
    values = CpuEvaluator(lower([(network, "nngp")], x.shape[1:]), "float64").evaluate(x)
    assert values.item() == pytest.approx(0.49, rel=1e-12)


def both_kinds(network, x, z=None, dtype="float64"):
    return CpuEvaluator(lower([(network, kind) for kind in KINDS], x.shape[1:]), dtype).evaluate(x, z)


def test_attention_with_weights_is_attention_and_two_layers_bit_for_bit():
    x = np.random.default_rng(3).standard_normal((4, 3, 2, 3))
    one = SelfAttention(w_query_std=1.5, w_key_std=0.8, w_value_std=1.2, w_out_std=0.5, b_std=0.3)
    others = [Attend(gain=1.5 * 0.8), Dense(w_std=1.2), Dense(w_std=0.5, b_std=0.3)]
    found, expected = (both_kinds(Sequential(Conv(2), *v, Relu(), Flatten(), Dense()), x) for v in ([one], others))
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_logits_that_are_all_alike_make_a_global_average():
    x = np.random.default_rng(3).standard_normal((4, 3, 2, 3))
    ends = (Relu(), Flatten(), Dense())
    found = both_kinds(Sequential(Conv(2), Attend(gain=0.0), Dense(), *ends), x)
    expected = both_kinds(Sequential(Conv(2), GlobalAvgPool(), Dense(), *ends), x)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    # With vectors of positions in the logits that are long enough, each position looks at itself alone.
    alone = both_kinds(Sequential(Conv(2), Attend(keys=PositionalEmbedding(w_std=30.0)), Dense(), *ends), x)
    np.testing.assert_allclose(alone, both_kinds(Sequential(Conv(2), Dense(), *ends), x), rtol=1e-13)


@pytest.mark.parametrize(
    ("network", "tells"),
    [
        (presets.transformer(2, patch=1), False),
        (presets.transformer(2, patch=1, position_std=0.8), True),
        (Sequential(Dense(), Attend(keys=PositionalEmbedding()), Dense(), Relu(), GlobalAvgPool()), False),
        (
            Sequential(
                *[Dense(), Attend(keys=PositionalEmbedding(correlation="exponential"))],
                *[Dense(), Relu(), GlobalAvgPool()],
            ),
            True,
        ),
    ],
)
def test_the_order_of_tokens_means_something_where_positions_do(network, tells):
    rng = np.random.default_rng(5)
    x, z = rng.standard_normal((2, 3, 2, 3, 4))
    shuffled = z.reshape(3, 6, 4)[:, rng.permutation(6)].reshape(z.shape)
    plain, other = both_kinds(network, x, z), both_kinds(network, x, shuffled)
    size = np.abs(plain).max()
    if tells:
        assert np.abs(plain - other).max() > 1e-3 * size
    else:
        np.testing.assert_allclose(other, plain, atol=1e-13 * size)


def test_flipped_images_are_as_near_to_each_other_as_plain_ones():
    # `flips` computes one flipped image in place of both, where a program says so.
    x, z = np.random.default_rng(5).standard_normal((2, 3, 4, 6, 2))
    readouts = [(presets.transformer(1, patch=2, position_std=0.8), kind) for kind in KINDS]
    assert lower(readouts, x.shape[1:]).mirrors
    plain = both_kinds(readouts[0][0], x, z)
    np.testing.assert_allclose(both_kinds(readouts[0][0], x[:, :, ::-1], z[:, :, ::-1]), plain, rtol=1e-12)


def test_attention_by_keys_behind_a_maximum_is_prepared_in_float64():
    # Neighbours that are nearly equal: their difference has few digits in float32, and so have the logits.
    rng = np.random.default_rng(1)
    x = ((1 + 1e-3 * rng.standard_normal((4, 1, 3, 6))) * rng.standard_normal((4, 1, 1, 1))).astype(np.float32)
    keys = Sequential(Conv(3), MaxPool((1, 2), 1, "SAME"))
    program = lower([(Sequential(Conv((2, 1)), Attend(keys=keys, gain=3.0), Flatten()), "ntk")], (3, 6, 1))
    rough, exact = (Machine(program, np.dtype(dtype)) for dtype in DTYPES)
    place = next(rough.layout[k] for k, op in enumerate(rough.operations) if op.code is Code.ATTEND)
    found = Preparation(rough, exact).prepare(x).statistics
    expected = Preparation(exact).prepare(x.astype(np.float64)).statistics
    rows = slice(place.start, place.start + place.area)
    np.testing.assert_array_equal(found[rows, :4], expected[rows, :4].astype(np.float32))


def test_keys_of_other_layers_are_computed_for_an_image_with_itself_alone():
    deep = Sequential(Conv(3), Relu(), Conv(3), Relu())
    program, plain = (
        lower([(Sequential(Conv(3), Attend(keys=keys), Flatten()), "ntk")], (4, 5, 2)) for keys in (deep, Identity())
    )
    # An image costs the keys; a pair of images does not.
    assert program.plane_entries == plain.plane_entries
    asked = [op.keys != op.other for stage in program.stages for op in stage.operations if op.code is Code.ATTEND]
    assert asked == [True]
