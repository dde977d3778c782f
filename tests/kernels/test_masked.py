"""Images with absent pixels: against the naive twin with a mask, another system, by laws, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tolerances import DTYPES, assert_kernels_close, tolerance
from twin.masks import evaluate_masked

from cntk_pipeline import kernel_diagonal, kernel_matrices, kernel_matrix
from cntk_pipeline.errors import DataError, LayerError
from cntk_pipeline.estimators import KernelClassifier
from cntk_pipeline.kernels import lower
from cntk_pipeline.kernels.cuda.supported import require_supported
from cntk_pipeline.layers import (
    Attend,
    AvgPool,
    Concatenate,
    Conv,
    Dense,
    Erf,
    Flatten,
    GlobalAvgPool,
    GlobalSumPool,
    LastState,
    LayerNorm,
    LinearAttention,
    LocalAvgPool,
    Masked,
    Maxout,
    MaxPool,
    Padded,
    PositionalEmbedding,
    Product,
    Recurrent,
    Relu,
    Repeat,
    Rescale,
    Residual,
    SelfAttention,
    Sequential,
    SumPool,
    presets,
)

RNG = np.random.default_rng(7)
HEIGHT, WIDTH = 7, 6


def draw_images() -> np.ndarray:
    """Draw images: whole, smaller, with a hole, with scattered pixels, of two rows, and one of them again."""
    x = RNG.standard_normal((6, HEIGHT, WIDTH, 2)).astype(np.float32)
    x[1, 5:], x[1, :, 4:] = np.nan, np.nan
    x[2, 2:5, 1:4] = np.nan
    x[3][RNG.random((HEIGHT, WIDTH)) < 0.4] = np.nan
    x[3, 1, 1] = x[3, 3, 3] = 0.5  # something is there behind strides
    x[4, :2], x[4, 4:] = np.nan, np.nan
    x[5] = x[2]
    return x


X = draw_images()
CONV, WIDE = Conv(3, w_std=1.4, b_std=0.3), Conv((3, 2), w_std=1.3, b_std=0.2)
ENDS = (Relu(), GlobalAvgPool())

BODIES = {
    "windows": [CONV, Relu(), WIDE, *ENDS],
    "windows inside": [CONV, Relu(), Conv((3, 2), padding="VALID", b_std=0.2), *ENDS],
    "strides": [CONV, Relu(), Conv(3, strides=2, b_std=0.2), Relu(), Conv(2, b_std=0.1), *ENDS],
    "sum": [CONV, Relu(), WIDE, Relu(), GlobalSumPool()],
    "equal positions": [CONV, Relu(), WIDE, Relu(), Flatten()],
    "average pooling": [CONV, Relu(), AvgPool(2, padding="SAME"), Conv(2, b_std=0.3), *ENDS],
    "average of those there": [CONV, Relu(), AvgPool(2, normalize_edges=True), Conv(2, b_std=0.3), *ENDS],
    "overlapping averages": [CONV, Relu(), AvgPool(3, 2, "SAME", normalize_edges=True), CONV, *ENDS],
    "sum pooling": [CONV, Relu(), SumPool((2, 3), 1), Dense(b_std=0.3), Relu(), Flatten()],
    "pooled pixels": [AvgPool(2, normalize_edges=True), CONV, *ENDS],
    "local average": [CONV, Relu(), LocalAvgPool(1), Flatten()],
    "local average of those there": [CONV, Relu(), LocalAvgPool(1, normalize_edges=True), Dense(), Erf(), Flatten()],
    "branch": [CONV, Residual(Sequential(Relu(), WIDE)), *ENDS],
    "branches that see other middles": [
        *[CONV, Relu(), Residual(Sequential(Conv(3, strides=2, b_std=0.3)), Conv(1, strides=2, b_std=0.4)), Relu()],
        *[Conv(3), *ENDS],
    ],
    "normalised": [Dense(b_std=0.2), LayerNorm(), Relu(), CONV, LayerNorm(), *ENDS],
    "positions": [CONV, PositionalEmbedding(w_std=0.5, correlation="gaussian"), Relu(), WIDE, *ENDS],
    "sinusoids": [
        *[CONV, PositionalEmbedding(w_std=0.5, correlation="sinusoidal"), Relu(), WIDE],
        *[PositionalEmbedding(w_std=0.7, correlation="exponential", length=2.0, trained=False), *ENDS],
    ],
    "product of other middles": [
        *[CONV, Product(Sequential(Relu(), Conv(3, strides=2, b_std=0.3)), Conv(2, strides=2, b_std=0.4))],
        *[Dense(b_std=0.2), *ENDS],
    ],
    "channels of other middles": [
        *[CONV, Concatenate(Conv(2, strides=2, b_std=0.3), Sequential(Relu(), Conv(3, strides=2, b_std=0.4)), 0.3)],
        *[Conv(3), *ENDS],
    ],
    "repeated": [
        *[CONV, Repeat(Sequential(Relu(), WIDE), 2, inject=True), Conv(2)],
        *[Repeat(Sequential(Relu(), CONV), 2, jump=True), Dense(), *ENDS],
    ],
    "maxout and standard parameters": [
        *[Conv(3, b_std=0.3, parameterization="standard", rate=0.5), Maxout()],
        *[Conv((3, 2), b_std=0.2, parameterization="standard", fan_in=16), *ENDS],
    ],
    "attention": [CONV, Relu(), SelfAttention(b_std=0.1), *ENDS],
    "attention behind strides": [
        *[Conv(3, strides=2, b_std=0.3), Relu(), Attend(mechanism="abs", plus_identity=True), Dense(), Relu()],
        *[LinearAttention(b_std=0.1), *ENDS],
    ],
}


def network_of(body):
    return Sequential(Masked(), *BODIES[body], Dense(b_std=0.1))


@pytest.mark.parametrize("body", BODIES)
def test_pairs_are_those_of_the_naive_twin_with_a_mask(body):
    network = network_of(body)
    expected = evaluate_masked(network, X, X)
    for dtype in DTYPES:
        found = kernel_matrices([network], X, kinds=("nngp", "ntk"), dtype=dtype)[0]
        for values, truth, bound in zip(found, expected, ("kernel", "golden"), strict=True):
            assert_kernels_close(values, truth, getattr(tolerance(dtype), bound))
        assert (found[:, 2, 2] == found[:, 5, 5]).all()  # the same image
        assert (found[:, 2, 5] == found[:, 2, 2]).all()


OF_PEER = Conv(3, w_std=1.3, b_std=0.3)
PEER = {
    "windows": [OF_PEER, Relu(), replace(OF_PEER, filter_shape=(3, 2)), *ENDS],
    "valid": [OF_PEER, Relu(), replace(OF_PEER, filter_shape=(3, 2), padding="VALID"), *ENDS],
    "strides": [OF_PEER, Relu(), replace(OF_PEER, strides=2), Erf(), replace(OF_PEER, filter_shape=2), *ENDS],
    "average": [OF_PEER, Relu(), AvgPool(2, padding="SAME"), OF_PEER, *ENDS],
    "sum": [OF_PEER, Relu(), SumPool((2, 3), 1), Dense(w_std=1.3, b_std=0.3), Relu(), GlobalSumPool()],
    "branch": [OF_PEER, Residual(Sequential(Relu(), OF_PEER)), *ENDS],
    "middles": [
        *[OF_PEER, Relu(), Residual(replace(OF_PEER, strides=2), replace(OF_PEER, filter_shape=1, strides=2))],
        *[Relu(), OF_PEER, *ENDS],
    ],
    "attention": [OF_PEER, Relu(), SelfAttention(b_std=0.1), *ENDS],
    "flatten": [OF_PEER, Relu(), OF_PEER, Relu(), Flatten()],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PEER)
def test_values_are_those_of_the_masks_of_neural_tangents(name, dtype):
    golden = np.load(Path(__file__).parents[1] / "golden" / "neural_tangents_masks.npz")
    x, expected = golden["x"], golden[name]
    end = Dense(b_std=0.1 if isinstance(PEER[name][-1], GlobalAvgPool) else 0.0)
    found = kernel_matrices([Sequential(Masked(), *PEER[name], end)], x, kinds=("nngp", "ntk"), dtype=dtype)[0]
    if name == "flatten":  # where it divides by the number of all pixels
        roots = np.sqrt((~np.isnan(x[..., 0])).sum((1, 2)))
        found = found * np.outer(roots, roots) / (6 * 7)
    assert_kernels_close(found, expected, tolerance(dtype).golden)


@pytest.mark.parametrize("body", BODIES)
def test_laws_of_masks(body):
    network = network_of(body)
    values = kernel_matrix(network, X, dtype="float64")
    np.testing.assert_array_equal(kernel_diagonal(network, X, dtype="float64"), np.diagonal(values))
    assert np.linalg.eigvalsh(values[:5, :5]).min() > 0
    # What an image was before its pixels went plays no part, nor does the sign of what stands in for them.
    other = np.where(np.isnan(X), -np.float32(np.nan), X)
    assert other.tobytes() != X.tobytes()
    found, expected = (kernel_matrix(network, X, z, dtype="float64") for z in (other, X))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, values, rtol=1e-13)
    # Where no pixel is absent, the network without Masked has the same values.
    bare, whole = Sequential(*network.layers[1:]), RNG.standard_normal((3, HEIGHT, WIDTH, 2))
    expected = kernel_matrix(bare, whole, dtype="float64")
    np.testing.assert_allclose(kernel_matrix(network, whole, dtype="float64"), expected, rtol=1e-12)


@pytest.mark.parametrize("body", ["windows", "equal positions", "local average of those there", "branch", "attention"])
def test_an_image_in_a_larger_frame_has_the_kernel_that_it_has_alone(body):
    network = network_of(body)
    small = RNG.standard_normal((3, 4, 3, 2))
    framed = np.full((3, 7, 8, 2), np.nan)
    framed[:, 2:6, 3:6] = small
    alone = kernel_matrix(Sequential(*network.layers[1:]), small, dtype="float64")
    np.testing.assert_allclose(kernel_matrix(network, framed, dtype="float64"), alone, rtol=1e-12)


def test_a_sequence_may_have_gaps_in_windows():
    series = RNG.standard_normal((3, 1, 9, 2))
    series[1, 0, 3:5], series[2, 0, 7:] = np.nan, np.nan
    network = Sequential(Masked(), Conv((1, 3), b_std=0.3), Relu(), GlobalAvgPool(), Dense())
    expected = evaluate_masked(network, series, series)[1]
    assert_kernels_close(kernel_matrix(network, series, dtype="float64"), expected, 1e-12)


def test_images_of_one_channel_keep_their_accuracy():
    # All pixels are multiples of each other there: correlations are +-1 before windows.
    x = RNG.standard_normal((4, 6, 6, 1)).astype(np.float32)
    x[1] = 1.5 * x[0]
    x[2] = x[0] + np.float32(1e-4) * x[3]
    x[:3, 2:4, 1:] = np.nan
    network = Sequential(Masked(), Conv(1, b_std=0.05), Relu(), Conv(3, b_std=0.05), Relu(), Flatten(), Dense())
    expected = evaluate_masked(network, x, x)[1]
    for dtype in DTYPES:
        assert_kernels_close(kernel_matrix(network, x, dtype=dtype), expected, tolerance(dtype).parallel)


def test_an_estimator_takes_absent_pixels():
    y = np.array([0, 1, 0, 1, 1, 0])
    assert KernelClassifier(network_of("windows")).fit(X, y).predict(X[:3]).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="NaN"):
        KernelClassifier(presets.cntk(2)).fit(X, y)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (MaxPool((1, 2)), r"layer 2 \(MaxPool\) .*does not take images with absent pixels, which it would count"),
        (Rescale("pixels"), r"layer 2 \(Rescale\) .*does not take images with absent pixels"),
        (Conv(3, padding="CIRCULAR"), r"layer 2 \(Conv\) .*would join their ends: take padding=\"SAME\""),
        (AvgPool((7, 6)), r"layer 2 \(AvgPool\) .*leaves one position .* take GlobalAvgPool\(\)"),
        (Masked(), r"Masked says what the inputs are, and is the first layer of the whole network: put it first"),
        (Padded(), r"Padded says what the inputs are"),
    ],
)
def test_layers_that_would_count_absent_pixels_are_refused_by_name_and_place(layer, said):
    with pytest.raises(LayerError, match=said):
        kernel_matrix(Sequential(Masked(), Dense(), layer, GlobalAvgPool(), Dense()), X)


@pytest.mark.parametrize("layer", [Recurrent(Relu()), LastState()])
def test_states_need_sequences_without_gaps(layer):
    with pytest.raises(LayerError, match=r"needs sequences without gaps.*put Padded\(\) in its place"):
        kernel_matrix(Sequential(Masked(), Dense(), layer, Dense()), X[:2, :1])


def test_an_image_of_which_nothing_is_there_is_refused_with_the_strides_that_leave_nothing():
    network = Sequential(Masked(), Conv(3, b_std=0.1), Relu(), Conv(1, strides=3), Relu(), GlobalAvgPool(), Dense())
    x = X.copy()
    x[1, ::3, ::3] = np.nan  # the pixels that the strides keep
    said = r"image 1: no position is there where the network has 3 x 2 of them.*rows 0, every 3, columns 0, every 3"
    for call in (kernel_matrix, kernel_diagonal):
        with pytest.raises(DataError, match=said):
            call(network, x)
    x[1] = np.nan
    with pytest.raises(DataError, match=r"x1: image 1: no pixel is there: leave it out"):
        kernel_matrix(network, x)


def test_pixels_that_lack_some_channels_and_other_numbers_are_refused_with_the_place():
    network, x = network_of("windows"), X.copy()
    x[0, 2, 3, 1] = np.nan
    with pytest.raises(DataError, match=r"x1: image 0: at row 2, column 3 some channels are NaN and others are not"):
        kernel_matrix(network, x)
    x[0, 2, 3, 1] = np.inf
    with pytest.raises(DataError, match=r"x1 holds inf at index \(0, 2, 3, 1\): inputs must be finite$"):
        kernel_matrix(network, x)


def test_networks_that_do_not_know_absent_pixels_are_refused():
    bare = Sequential(CONV, Relu(), Flatten(), Dense())
    for networks in ([bare], [network_of("windows"), bare]):
        with pytest.raises(DataError, match=r"x1 holds nan at index .*absent pixel: .*put Masked\(\) first in each"):
            kernel_matrices(networks, X)
    with pytest.raises(LayerError, match="averaging over flips needs a network that does not tell left from right"):
        kernel_matrix(network_of("windows"), X, flips=True)
    asked, shape = [(network_of("windows"), "ntk")], (HEIGHT, WIDTH, 2)
    with pytest.raises(LayerError, match=r'"cuda" cannot compute layer .*has its own positions that are there'):
        require_supported(lower(asked, shape), asked, shape)
