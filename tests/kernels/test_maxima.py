"""Maxima against random channels, repeated blocks against their limit, channels side by side by hand."""

import numpy as np
import pytest
from support.tolerances import DTYPES, tolerance

from cntk_pipeline import kernel_matrix
from cntk_pipeline.layers import Concatenate, Dense, Flatten, Maxout, MaxPool, Relu, Repeat, Sequential

DRAWS = 400_000
RNG = np.random.default_rng(6)
IMAGES = RNG.standard_normal((3, 1, 5, 2))
IMAGES[2, :, ::2] = 0.9 * IMAGES[0, :, ::2] + 0.1 * IMAGES[2, :, ::2]


@pytest.mark.parametrize(("strides", "padding"), [(None, "VALID"), (1, "SAME"), (3, "SAME")])
def test_a_maximum_of_two_positions_has_the_moments_and_the_winners_of_random_channels(strides, padding):
    network = Sequential(Dense(w_std=1.5), MaxPool((1, 2), strides, padding), Flatten(), Dense())
    starts = range(0, 5 if padding == "SAME" else 4, 2 if strides is None else strides)
    windows = [[p for p in (start, start + 1) if p < 5] for start in starts]
    weights = 1.5 / 2**0.5 * RNG.standard_normal((DRAWS, 2))
    values = [weights @ image[0].T for image in IMAGES]
    nngp, tangent = np.zeros((2, 3, 3))
    for window in windows:
        maxima = np.array([value[:, window].max(1) for value in values])
        # A derivative by the weights is the input of the winner, times 1.5 / sqrt(2).
        winners = [image[0][window][value[:, window].argmax(1)] for image, value in zip(IMAGES, values, strict=True)]
        nngp += maxima @ maxima.T / DRAWS / len(windows)
        tangent += 1.5**2 / 2 * np.einsum("xdc,zdc->xz", winners, winners) / DRAWS / len(windows)
    for kind, expected in (("nngp", nngp), ("ntk", nngp + tangent)):
        # Products have deviations of about twice their size: 2 / sqrt(400,000) is 0.003.
        found = kernel_matrix(network, IMAGES, kind=kind, dtype="float64")
        np.testing.assert_allclose(found, expected, atol=0.012 * expected.max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_maximum_of_two_pixels_has_the_integrals_over_its_winners(dtype):
    # u has the two pixels of x, then those of z. Pixel i of x and pixel j of z win where both differences d of u have
    # the signs of i and j. There u has the mean ``slopes d`` and the covariance ``rest``, and a chance that sums T_ij.
    images = np.random.default_rng(2).standard_normal((2, 1, 2, 5))
    covariance = 1.5**2 * images.reshape(4, 5) @ images.reshape(4, 5).T / 5 + 0.3**2
    tangents = 0.5 * covariance  # of weights and biases at half the rate
    differences = np.array([[1, -1, 0, 0], [0, 0, 1, -1]])
    spread = differences @ covariance @ differences.T
    slopes = covariance @ differences.T @ np.linalg.inv(spread)
    rest = covariance - slopes @ differences @ covariance
    nodes, weights = np.polynomial.legendre.leggauss(200)
    nodes, weights, deviations = 5 * (nodes + 1), 5 * weights, np.sqrt(np.diag(spread))  # up to 10 deviations
    nngp = tangent = chances = 0.0
    for i, j in np.ndindex(2, 2):
        axes = [(-1) ** winner * deviation * nodes for winner, deviation in zip((i, j), deviations, strict=True)]
        d = np.stack(np.meshgrid(*axes, indexing="ij"))
        density = np.exp(-np.einsum("aij,ab,bij->ij", d, np.linalg.inv(spread), d) / 2)
        density *= np.outer(weights, weights) * deviations.prod() / (2 * np.pi * np.sqrt(np.linalg.det(spread)))
        mean = np.tensordot(slopes, d, 1)
        nngp += (density * (mean[i] * mean[2 + j] + rest[i, 2 + j])).sum()
        tangent += density.sum() * tangents[i, 2 + j]
        chances += density.sum()
    assert chances == pytest.approx(1, abs=1e-12)
    network = Sequential(Dense(w_std=1.5, b_std=0.3, rate=0.5), MaxPool((1, 2)), Flatten(), Dense())
    for kind, expected in (("nngp", nngp), ("ntk", nngp + tangent)):
        found = kernel_matrix(network, images[:1], images[1:], kind=kind, dtype=dtype).item()
        assert found == pytest.approx(expected, rel=tolerance(dtype).golden)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_maxout_has_the_moments_and_the_winners_of_random_channels(kind):
    x = IMAGES.reshape(3, 10)
    values = RNG.standard_normal((2, DRAWS, 10)) / 10**0.5 @ x.T
    maxima, first = values.max(0), values[0] > values[1]
    expected = maxima.T @ maxima / DRAWS
    if kind == "ntk":
        both = (first.T @ first.astype(float) + (~first).T @ (~first).astype(float)) / DRAWS
        expected = expected + both * (x @ x.T) / 10
    found = kernel_matrix(Sequential(Dense(), Maxout(), Dense()), x, kind=kind, dtype="float64")
    np.testing.assert_allclose(found, expected, atol=0.012 * expected.max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_that_is_repeated_with_its_input_comes_to_the_equilibrium(dtype):
    # For one input, ReLU halves variances and slopes: S = S_x + S / 2 and T = S + T / 2 behind weights of deviation 1.
    x = IMAGES[:2].reshape(2, 10)
    own = np.sum(x**2, 1) / 10
    body = Dense(), Repeat(Sequential(Relu(), Dense()), 50, inject=True)
    for kind, expected in (("nngp", 2 * own), ("ntk", 4 * own)):
        found = np.diag(kernel_matrix(Sequential(*body), x, kind=kind, dtype=dtype))
        np.testing.assert_allclose(found, expected, rtol=1e-13 if dtype == "float64" else 1e-6)
    # Two inputs: the correlation solves rho = rho_x / 2 + k1(rho) / 2, which 200 steps of it do too.
    rho_x = x[0] @ x[1] / 10 / np.sqrt(own[0] * own[1])
    rho, slope = rho_x, 0.0
    for _ in range(200):
        angle = np.pi - np.arccos(rho)
        rho, slope = rho_x / 2 + (np.sqrt(1 - rho**2) + rho * angle) / (2 * np.pi), angle / (2 * np.pi)
    s = rho * 2 * np.sqrt(own[0] * own[1])
    for kind, expected in (("nngp", s), ("ntk", s / (1 - slope))):
        found = kernel_matrix(Sequential(*body), x, kind=kind, dtype=dtype)[0, 1]
        assert found == pytest.approx(expected, rel=1e-12 if dtype == "float64" else 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_side_by_side_have_the_values_by_hand(dtype):
    # A third of the channels are ReLU of z = w x, two thirds have weights of their own: a mixture of both covariances.
    x = IMAGES.reshape(3, 10)
    s = 1.2**2 * x @ x.T / 10
    size = np.sqrt(np.outer(np.diag(s), np.diag(s)))
    angle = np.arccos(np.clip(s / size, -1, 1))
    relu, slope = size * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi), (np.pi - angle) / (2 * np.pi)
    inner, tangent_inner = 0.7**2 * s + 0.2**2, 0.7**2 * s + (0.7**2 * s + 0.2**2)
    mixed, tangent = relu / 3 + 2 / 3 * inner, slope * s / 3 + 2 / 3 * tangent_inner
    network = Sequential(
        Dense(w_std=1.2), Concatenate(Relu(), Dense(w_std=0.7, b_std=0.2), 1 / 3), Dense(w_std=1.5, b_std=0.1)
    )
    nngp = 1.5**2 * mixed + 0.1**2
    for kind, expected in (("nngp", nngp), ("ntk", nngp + 1.5**2 * tangent)):
        found = kernel_matrix(network, x, kind=kind, dtype=dtype)
        # arccos of a correlation of 1 - 1e-16 is off by 1e-8: these are the errors of the right side.
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=(1e-7 if dtype == "float64" else 1e-6) * expected.max()
        )
