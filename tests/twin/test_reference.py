"""The naive twin against golden numbers: what all else is measured by, measured."""

from pathlib import Path

import numpy as np
import pytest
from support.networks import GOLDEN, GOLDEN_2, PeerPositions, PowerDecay
from support.tolerances import assert_kernels_close, tolerance

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import LAYERS, Conv, Dense, GlobalAvgPool, Relu, Sequential, Shape
from twin import reference

# In these each pair of images is thousands of integrals: two images on each side, an equal and an opposite pair
# among them, do. The nearly parallel pair, with large variances, has the same functions on vectors.
NETWORKS = GOLDEN | GOLDEN_2
SLOW = {"cnn_gelu_gap", "cnn_erf_v"}


def peer_positions(pairs, layer):
    height, width = pairs.size
    rows, columns = (np.arange(size)[:, None] - np.arange(size) for size in pairs.size)
    table = PowerDecay().table(height, width)
    values = table[rows[:, None, :, None] + height - 1, columns[None, :, None, :] + width - 1]
    return reference.embed(pairs, 0.7**2 * values, trained=True)


@pytest.fixture(scope="module", autouse=True)
def layer_of_the_tests():
    reference.STEPS[PeerPositions] = peer_positions
    yield
    del reference.STEPS[PeerPositions]


@pytest.fixture(scope="module")
def peer():
    folder = Path(__file__).parents[1] / "golden"
    return dict(np.load(folder / "neural_tangents.npz")) | dict(np.load(folder / "neural_tangents_2.npz"))


def test_the_twin_knows_every_layer():
    assert set(LAYERS.values()) | {Sequential, PeerPositions} == set(reference.STEPS)


def test_every_golden_network_is_here_but_the_one_without_pixels(peer):
    assert {key.split("/")[0] for key in peer} - set(NETWORKS) == {"cnn_valid5"}
    assert np.isnan(peer["cnn_valid5/nngp"]).all()  # the mean over the 0 x 1 pixels behind two VALID convolutions
    with pytest.raises(LayerError, match="a window of 3 does not fit into 2 pixels"):
        Sequential(Conv(5, padding="VALID"), Relu(), Conv(3, padding="VALID")).output_shape(Shape((6, 7), 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_naive_twin_has_the_values_of_neural_tangents(peer, name):
    rows, columns = (slice(2), slice(2)) if name in SLOW else (slice(None), slice(None))
    x1, x2 = peer[f"{name}/x1"][rows], peer[f"{name}/x2"][columns]
    cross = reference.evaluate_both(NETWORKS[name], x1, x2)
    symmetric = reference.evaluate_both(NETWORKS[name], x1)
    for kind, forth, own in zip(("nngp", "ntk"), cross, symmetric, strict=True):
        assert_kernels_close(forth, peer[f"{name}/{kind}"][rows, columns], tolerance("float64").peer)
        assert_kernels_close(own, peer[f"{name}/{kind}_sym"][rows, rows], tolerance("float64").peer)


def test_the_naive_twin_has_no_negative_variances():
    """The mean over positions of each image is 0, so that the last bias is left; rounding makes a variance negative."""
    half = np.random.default_rng(0).standard_normal((8, 1, 3, 2))
    images = np.concatenate([half, -half], 2)
    network = Sequential(Conv(1), GlobalAvgPool(), Dense(), Relu(), Dense(b_std=0.5))
    assert_kernels_close(reference.evaluate_both(network, images)[0], np.full((8, 8), 0.25), 1e-12)
