"""Pairs that are far apart as wholes and near to parallel position by position, where a network looks at that alone."""

import numpy as np
import pytest
from support.tolerances import DTYPES, assert_kernels_close, tolerance
from twin import reference

from cntk_pipeline.errors import NotAccurate
from cntk_pipeline.kernels import CpuEvaluator, lower
from cntk_pipeline.kernels.lowering import is_revised
from cntk_pipeline.layers import (
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    Product,
    Relu,
    Residual,
    SelfAttention,
    Sequential,
    Sign,
    presets,
)

SIZE = 6
PIXEL = Conv(1, trained=False)
TAIL = (Conv(3, b_std=0.3), Relu(), Flatten(), Dense(), Relu(), Dense())


def images(kind):
    """Draw four images that are near to parallel at many positions, and far apart."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.standard_normal((4, SIZE, SIZE, 1)))
    colours = rng.standard_normal((1, SIZE, SIZE, 3))
    if kind == "one channel":
        drawn = rng.standard_normal((4, SIZE, SIZE, 1))
        drawn[1] = np.abs(drawn[1]) * np.sign(drawn[0])
    elif kind == "brightness":
        drawn = colours * sizes
    elif kind == "half of the brightness":
        drawn = np.where(
            np.arange(SIZE)[:, None, None] < SIZE // 2, colours * sizes, rng.standard_normal((4, SIZE, SIZE, 3))
        )
    else:
        drawn = colours * np.repeat(np.repeat(sizes[:, ::2, ::2], 2, 1), 2, 2)
    return drawn.astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        *[(kind, head) for kind in ("one channel", "brightness") for head in ((LayerNorm(),), (LayerNorm(), Relu()))],
        *[(kind, (Sign(),)) for kind in ("one channel", "half of the brightness")],
        ("one channel", (Relu(), Conv(1), Relu(), Conv(1), Relu())),
        ("one channel", (SelfAttention(), Sign())),
        ("one channel", (AvgPool((1, 2)), LayerNorm(), Relu())),
        ("brightness", (Residual(Sequential(LayerNorm(), Conv(1))), Sign())),
        ("brightness by blocks", (AvgPool(2), LayerNorm())),
        ("brightness by blocks", (Conv(2, strides=2), LayerNorm(), Relu())),
    ],
)
def test_pairs_that_are_parallel_position_by_position_are_exact_in_both_dtypes(kind, head):
    x, network = images(kind), Sequential(PIXEL, *head, *TAIL)
    kinds = ("nngp", "ntk") if all(layer.has_ntk for layer in network.walk()) else ("nngp",)
    expected = reference.evaluate_both(network, x, None)
    program = lower([(network, kind) for kind in kinds], x.shape[1:])
    assert program.points
    for dtype in DTYPES:
        evaluator = CpuEvaluator(program, dtype)
        values = evaluator.evaluate(x)
        for actual, truth in zip(values, expected, strict=False):
            assert_kernels_close(actual, truth, tolerance(dtype).parallel)
        apart = evaluator.evaluate_pairs(x, x[::-1])
        np.testing.assert_array_equal(apart, evaluator.evaluate(x, x[::-1])[:, np.arange(4), np.arange(4)])


def test_a_point_says_nothing_of_read_outs_that_do_not_lie_behind_it():
    x, ends = images("one channel"), (Conv(3), Relu(), GlobalAvgPool(), Dense())
    networks = [(Sequential(PIXEL, *ends), "ntk"), (Sequential(PIXEL, LayerNorm(), *ends), "ntk")]
    together = lower(networks, x.shape[1:])
    assert [point.readouts for point in together.points] == [(1,)]
    values = CpuEvaluator(together).evaluate(x)
    for readout, network in zip(values, networks, strict=True):
        np.testing.assert_array_equal(readout, CpuEvaluator(lower([network], x.shape[1:])).evaluate(x)[0])


def test_images_of_one_channel_behind_two_signs_are_refused_rather_than_wrong():
    x = images("one channel")
    network = Sequential(PIXEL, Sign(), Conv(1), Sign(), Conv(3), Flatten(), Dense())
    with pytest.raises(NotAccurate, match=r"pair \(0, 1\) are so nearly the same, .* position by position"):
        CpuEvaluator(lower([(network, "nngp")], x.shape[1:])).evaluate(x[:2])


def test_networks_that_begin_with_windows_have_no_points():
    gated = Sequential(Conv(3), Product(Conv(1), Sequential(Relu(), Conv(1))), Conv(1), LayerNorm(), Flatten(), Dense())
    for network in (presets.cntk(3, pooling="gap"), presets.myrtle(5), presets.resnet(8), gated):
        assert not lower([(network, "ntk")], (32, 32, 3)).points
    assert not lower([(Sequential(Dense(), LayerNorm(), Dense()), "ntk")], (5,)).points


def test_a_window_over_a_single_pixel_averages_no_rounding_out():
    network = Sequential(Conv(3), Relu(), Flatten(), Dense())
    for size, planes in ((1, np.float64), (2, np.float32)):
        program = lower([(network, "ntk")], (size, size, 3))
        assert CpuEvaluator(program).planes.dtype == planes
        assert is_revised([(network, "ntk")], (size, size, 3)) == (size == 1)
