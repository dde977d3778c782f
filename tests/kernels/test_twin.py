"""The engine against the naive twin, on networks that hypothesis builds."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.kernels import Engine, lower
from pipeline.layers import LAYERS, Conv, Dense, Flatten, GlobalAvgPool, Relu, Rescale, Sequential
from tests import reference
from tests.tolerances import DTYPES, assert_kernels_close, tolerance

STDS = {
    "w_std": st.sampled_from([0.7, 1.0, 2**0.5, 1.9]),
    "b_std": st.sampled_from([0.0, 0.1, 0.8]),
    "trained": st.booleans(),
}
DENSES = st.builds(Dense, **STDS)
CONVS = st.builds(Conv, st.integers(1, 5) | st.tuples(st.integers(1, 4), st.integers(1, 4)), **STDS)
ANYWHERE = st.one_of(st.just(Relu()), st.builds(Rescale, st.sampled_from([0.5, 3.0])), DENSES)
STARTS = st.lists(st.builds(Rescale, st.sampled_from(["channels", "features", 2.0])), max_size=2)


@st.composite
def networks(draw, is_image):
    """Draw layers that make a vector, cut at random places into nested sequences."""
    linear = DENSES | CONVS if is_image else DENSES
    layers = draw(STARTS)
    if is_image and draw(st.integers(0, 4)) == 0:
        layers += [draw(st.sampled_from([Flatten(), GlobalAvgPool()])), *draw(STARTS), draw(DENSES)]
        is_image = False
    else:
        layers.append(draw(linear))
    layers += draw(st.lists(ANYWHERE | CONVS if is_image else ANYWHERE, max_size=5))
    if is_image:
        layers.append(draw(st.sampled_from([Flatten(), GlobalAvgPool()])))
    layers += draw(st.lists(ANYWHERE | st.just(Flatten()), max_size=3))
    cut = draw(st.integers(0, len(layers)))
    return Sequential(*layers[:cut], Sequential(*layers[cut:], Sequential()))


@st.composite
def cases(draw):
    """Draw a network and three images, of which the last two may be copies or opposites of the first."""
    is_image = draw(st.booleans())
    size = st.integers(1, 4)
    shape = (draw(size), draw(size), draw(st.integers(1, 3))) if is_image else (draw(st.integers(1, 5)),)
    images = np.random.default_rng(draw(st.integers(0, 2**16))).standard_normal((3, *shape)).astype(np.float32)
    for k in (1, 2):
        images[k] = {"other": images[k], "equal": images[0], "opposite": -images[0]}[
            draw(st.sampled_from(["other", "other", "equal", "opposite"]))
        ]
    return draw(networks(is_image)), images


def test_the_twin_knows_every_layer():
    assert set(LAYERS.values()) | {Sequential} == set(reference.STEPS)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=120, deadline=None, derandomize=True)
@given(case=cases())
@example(
    case=(
        Sequential(Conv((4, 1)), Relu(), Conv((1, 2), b_std=0.3), Relu(), GlobalAvgPool()),
        np.eye(3, 6).reshape(3, 2, 3, 1),
    )
)
def test_random_networks_agree_with_the_naive_twin(case, dtype):
    network, images = case
    program = lower([(network, "nngp"), (network, "ntk")], images.shape[1:])
    nngp, ntk = Engine(program, dtype).evaluate(images)
    assert_kernels_close(nngp, reference.evaluate(network, images, images, "nngp"), tolerance(dtype).kernel)
    # One-channel and one-pixel images have correlations of exactly +-1 all over: hence not `kernel`.
    assert_kernels_close(ntk, reference.evaluate(network, images, images, "ntk"), tolerance(dtype).parallel)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_of_any_size_agree_with_the_naive_twin(dtype, kind):
    images = np.random.default_rng(1).standard_normal((3, 4, 5, 3)).astype(np.float32)
    sizes = [(a, b) for a in range(1, 6) for b in range(1, 6)]
    nets = [Sequential(Conv(size, b_std=0.2), Relu(), Conv(size), Relu(), GlobalAvgPool(), Dense()) for size in sizes]
    results = Engine(lower([(net, kind) for net in nets], (4, 5, 3)), dtype).evaluate(images)
    for net, result in zip(nets, results, strict=True):
        assert_kernels_close(result, reference.evaluate(net, images, images, kind), tolerance(dtype).kernel)
