"""Kernels in float32 and float64 against 60 digits, over every activation, variance and correlation; and refusals."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mpmath import mp
from support.tolerances import DTYPES
from twin.sixty_digits import DUALS, Block, evaluate

from cntk_pipeline import kernel_matrix
from cntk_pipeline.errors import NotAccurate, NotFinite
from cntk_pipeline.kernels import CpuEvaluator, lower
from cntk_pipeline.kernels.nearness import directions, find_near
from cntk_pipeline.layers import (
    LAYERS,
    Abs,
    Conv,
    Cos,
    Dense,
    Dropout,
    Elementwise,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Hermite,
    LayerNorm,
    LeakyRelu,
    Maxout,
    Pointwise,
    Polynomial,
    Rbf,
    Relu,
    Sequential,
    Sign,
    Sin,
    presets,
)
from cntk_pipeline.layers.series import FUNCTIONS as FUNCTIONS_BY_NAME

FUNCTIONS = [
    Relu(), LeakyRelu(0.2), Abs(), Maxout(), Sign(), Erf(), Gelu(), Sin(), Cos(), Rbf(0.7), Exp(), Gaussian(),
    LayerNorm(), Polynomial((0.3, -1.0, 0.5, 0.2)), Hermite((0.0, 0.8, 0.5, 0.3)), Elementwise(np.sin, 64),
]  # fmt: skip
ERROR = 1e-5
"""What is promised up to depth 21, relative to the largest entry; beyond, errors grow no faster than the depth."""


@dataclass(frozen=True)
class Problem:
    """Two images and a network of equal blocks.

    Attributes
    ----------
    depth, window, w_std, b_std, pooled
        Of the network.
    variance : float
        Mean square of the first image's numbers.
    apart : float
        How far the second one's direction is from the first one's, or from the opposite.
    opposite : bool
        Whether it points the other way.
    ratio : float
        Of its size to the first one's.
    seed : int
        Of the numbers.
    """

    depth: int
    window: int
    w_std: float
    b_std: float
    pooled: bool
    variance: float
    apart: float
    opposite: bool
    ratio: float
    seed: int

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(self.seed)
        x, noise = random.standard_normal((2, 3, 3))  # with an edge on either side of a window
        z = (x + math.sqrt(2 * self.apart) * noise) * self.ratio * (-1 if self.opposite else 1)
        scale = math.sqrt(self.variance)
        return (scale * x).astype(np.float32), (scale * z).astype(np.float32)

    def network(self, function: Pointwise) -> Sequential:
        weights = Conv((1, self.window), w_std=self.w_std, b_std=self.b_std)
        return Sequential(*[weights, function] * self.depth, GlobalAvgPool() if self.pooled else Flatten(), Dense())

    def blocks(self, function: Pointwise) -> list[Block]:
        return [Block(self.window, self.w_std, self.b_std, function)] * self.depth


PROBLEMS = st.builds(
    Problem,
    depth=st.sampled_from([1, 1, 2, 3, 6, 11, 21, 42]),
    window=st.sampled_from([1, 3]),
    w_std=st.sampled_from([0.5, 1.0, 2**0.5, 2.0, 3.0]),
    b_std=st.sampled_from([0.0, 0.05, 1.0]),
    pooled=st.booleans(),
    variance=st.floats(-6, 6).map(lambda power: 10.0**power),
    apart=st.sampled_from([1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9, 1e-13, 0.0]),
    opposite=st.booleans(),
    ratio=st.sampled_from([1.0, 2.0, 0.3]),
    seed=st.integers(0, 2**16),
)


def test_every_function_of_the_table_is_among_them():
    pointwise = {layer for layer in LAYERS.values() if issubclass(layer, Pointwise)}
    assert {type(function) for function in FUNCTIONS} == set(DUALS) == pointwise


def largest_error(problem, function, dtype):
    """Return the largest error of NNGP and NTK, relative to the largest entry, or None where a value is refused."""
    x, z = (image[None, None] for image in problem.images())
    network = problem.network(function)
    kinds = ["nngp"] if isinstance(function, Sign) else ["nngp", "ntk"]
    engine = CpuEvaluator(lower([(network, kind) for kind in kinds], x.shape[1:]), dtype)
    try:
        found = engine.evaluate(np.concatenate([x, z]))
    except (NotAccurate, NotFinite):
        return None
    exact = {
        (0, 0): evaluate(x[0, 0], x[0, 0], problem.blocks(function), problem.pooled),
        (1, 0): evaluate(z[0, 0], x[0, 0], problem.blocks(function), problem.pooled),
        (1, 1): evaluate(z[0, 0], z[0, 0], problem.blocks(function), problem.pooled),
    }
    errors = []
    for k in range(len(kinds)):
        largest = max(abs(values[k]) for values in exact.values())
        errors += [abs(float(found[k][place]) - values[k]) / largest for place, values in exact.items()]
    return float(max(errors))


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS, ids=repr)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(problem=PROBLEMS)
@example(Problem(1, 1, 1.0, 0.0, False, 1e4, 1.0, False, 1.0, 0))
@example(Problem(21, 3, 2**0.5, 0.0, False, 1.0, 1e-4, False, 1.0, 1))
@example(Problem(21, 3, 1.0, 1.0, True, 1e-3, 1e-2, False, 1.0, 2))
@example(Problem(63, 3, 2**0.5, 0.0, False, 1.0, 1e-2, False, 1.0, 5))
@example(Problem(4, 1, 2**0.5, 0.0, False, 1.0, 0.0, False, 2.0, 3))
@example(Problem(3, 3, 1.0, 0.0, False, 1.0, 0.0, True, 2.0, 4))
def test_float32_is_within_what_is_promised_of_60_digits(function, problem):
    error = largest_error(problem, function, "float32")
    assert error is None or error <= ERROR * max(1, problem.depth / 21)


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS, ids=repr)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(problem=PROBLEMS)
def test_float64_is_within_what_is_promised_of_60_digits(function, problem):
    error = largest_error(problem, function, "float64")
    assert error is None or error <= ERROR * max(1, problem.depth / 21)


EXACT = [function for function in FUNCTIONS if not isinstance(function, Elementwise)]
"""Those without a quadrature, whose error has a bound of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("function", EXACT, ids=repr)
def test_float64_has_the_digits_of_the_table(function):
    # Cells of the table of docs/networks.md, whose largest error is 2e-10.
    cells = [(depth, variance) for depth in (1, 6) for variance in (1.0, 1e-6, 1e6)]
    problems = [Problem(depth, 3, 1.5, 0.1, True, variance, 1.0, False, 1.0, 0) for depth, variance in cells]
    errors = [largest_error(problem, function, "float64") for problem in problems]
    assert errors[0] is not None
    assert max(error for error in errors if error is not None) <= 1e-9, errors


@pytest.mark.parametrize("dtype", DTYPES)
def test_erf_of_pixels_as_they_come(dtype):
    x = np.random.default_rng(0).integers(0, 256, (4, 3072))
    a = np.mean(x.astype(float) ** 2, axis=1)
    expected = 2 / np.pi * np.arcsin(2 * a / (1 + 2 * a)) + 4 * a / (np.pi * np.sqrt(1 + 4 * a))
    found = kernel_matrix(Sequential(Dense(), Erf(), Dense()), x, dtype=dtype)
    np.testing.assert_allclose(np.diag(found), expected, rtol=1e-6)


@pytest.mark.parametrize("w_std", [2.0, 3.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_deep_networks_that_drive_images_apart(dtype, w_std):
    x = np.random.default_rng(0).standard_normal((2, 3072)).astype(np.float32)
    network = Sequential(*[Dense(w_std=w_std, b_std=0.05), Erf()] * 20, Dense())
    blocks = [Block(1, w_std, 0.05, Erf())] * 20
    expected = [[float(evaluate(u[None], v[None], blocks, False)[1]) for v in x] for u in x]
    np.testing.assert_allclose(kernel_matrix(network, x, dtype=dtype), expected, rtol=0, atol=1e-6 * expected[0][0])


@pytest.mark.parametrize("function", [Rbf(), Sin()], ids=repr)
@pytest.mark.parametrize("window", [1, 3])
def test_a_large_mean_of_the_pixels(function, window):
    x = (np.random.default_rng(0).standard_normal((3, 1, 6, 3)) + 1000).astype(np.float32)
    network = Sequential(Conv((1, window)), function, GlobalAvgPool(), Dense())
    blocks = [Block(window, 1.0, 0.0, function)]
    expected = [[float(evaluate(u[0], v[0], blocks, True)[1]) for v in x] for u in x]
    np.testing.assert_allclose(kernel_matrix(network, x), expected, rtol=0, atol=ERROR * np.max(expected))


CONTRASTS = np.array([1, 0.5, 2, 3.3, 1e-3])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("network", [presets.fully_connected(4), presets.cntk(4), presets.cntk(11, "gap")], ids=str)
def test_an_image_at_several_contrasts(network, dtype):
    # Without biases, ReLU networks are homogeneous: NTK(x, s x) = s NTK(x, x).
    x = np.random.default_rng(0).standard_normal((6, 6, 3))
    images = CONTRASTS[:, None, None, None] * x
    if network == presets.fully_connected(4):
        images = images.reshape(5, -1)
    found = kernel_matrix(network, images, dtype=dtype)
    expected = found[0, 0] * np.outer(CONTRASTS, CONTRASTS)
    np.testing.assert_allclose(found, expected, rtol=2e-6 if dtype == "float32" else 1e-7)
    assert np.linalg.eigvalsh(found / np.outer(CONTRASTS, CONTRASTS))[0] > -1e-5 * found[0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS, ids=repr)
@pytest.mark.parametrize("window", [1, 3])
def test_equal_images_have_correlation_one_in_values_and_slopes(function, window, dtype):
    # Around a circle all positions of a constant image have one variance; by hand from the duals in 60 digits.
    x = np.full((2, 1, 4, 3), 1.7)
    x[1] *= -0.4
    w_std = 0.3 if isinstance(function, Exp) else 1.3
    weights = Conv((1, window), w_std=w_std, b_std=0.2, padding="CIRCULAR")
    network = Sequential(*[weights, function] * 3, Flatten(), Dense())
    kinds = ["nngp"] if isinstance(function, Sign) else ["nngp", "ntk"]
    engine = CpuEvaluator(lower([(network, kind) for kind in kinds], x.shape[1:]), dtype)
    for image, value in zip(x[:, None], (1.7, 0.68), strict=True):
        # One by one: images that are multiples of each other are too near for some of these.
        equal, copies = engine.evaluate(image), engine.evaluate(image, image.copy())
        a, t = mp.mpf(float(np.asarray(value, dtype))) ** 2, mp.mpf(0)
        for _ in range(3):
            a = mp.mpf(w_std) ** 2 * a + mp.mpf(0.2) ** 2
            t = mp.mpf(w_std) ** 2 * t + a
            a, slope = DUALS[type(function)](a, a, a, function)
            t = t * slope
        for kind, expected in zip(kinds, (a, t + a), strict=False):
            found = equal[kinds.index(kind), 0, 0]
            assert found == copies[kinds.index(kind), 0, 0]
            assert found == pytest.approx(float(expected), rel=3e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("network", [Sequential(Dense(), Erf(), Dense()), presets.fully_connected(2), Dense()], ids=str)
def test_images_whose_squares_are_no_numbers_are_refused(network):
    x = np.random.default_rng(0).standard_normal((3, 5))
    x[1] *= 1e-25
    with pytest.raises(NotAccurate, match=r"image 1 holds no number beyond .*e-25, whose square"):
        kernel_matrix(network, x)
    assert (np.diag(kernel_matrix(network, x, dtype="float64")) > 0).all()


@pytest.mark.parametrize("scale", [12.5, 125.0])
def test_a_quadrature_that_has_not_converged_ends_in_an_error(scale):
    with pytest.raises(NotAccurate, match=r"Elementwise.* is not accurate at a variance of"):
        kernel_matrix(Sequential(Dense(), Elementwise("tanh"), Dense()), np.full((1, 3), scale))


PROMISED = [("tanh", 64, 1.0), ("sigmoid", 64, 4.0), ("silu", 64, 4.0), ("softplus", 64, 8.0), ("tanh", 256, 4.0),
            ("silu", 256, 32.0), ("tanh", 16, 0.25)]  # fmt: skip
"""Functions, nodes, and the largest variance that docs/networks.md promises; the last is below the variance 1."""
SLOPES = {
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "sigmoid": lambda x: 0.25 / np.cosh(x / 2) ** 2,
    "silu": lambda x: (1 + np.tanh(x / 2)) / 2 + x / 4 / np.cosh(x / 2) ** 2,
    "softplus": lambda x: (1 + np.tanh(x / 2)) / 2,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [Dense(), Conv((1, 3), padding="CIRCULAR")], ids=["vectors", "images"])
@pytest.mark.parametrize(("name", "nodes", "variance"), PROMISED)
def test_a_quadrature_takes_the_variances_that_are_promised_and_is_right_there(name, nodes, variance, weights, dtype):
    directions = np.array([[1.0, 1.0], [1.2, 0.56**0.5]])  # of correlation 0.97
    x = math.sqrt(variance) * (1 - 1e-6) * directions
    if isinstance(weights, Conv):
        x = np.repeat(x[:, None, None], 4, axis=2)
    network = Sequential(weights, Elementwise(name, nodes), Flatten(), Dense())
    grid = np.arange(-10, 10, 0.05)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi) * 0.05
    rho = directions[0] @ directions[1] / 2
    first = math.sqrt(variance) * grid[:, None]
    second = math.sqrt(variance) * (rho * grid[:, None] + math.sqrt(1 - rho**2) * grid)
    value, slope = (density @ (f(first) * f(second)) @ density for f in (FUNCTIONS_BY_NAME[name], SLOPES[name]))
    assert kernel_matrix(network, x, kind="nngp", dtype=dtype)[0, 1] == pytest.approx(value, rel=1e-5)
    assert kernel_matrix(network, x, dtype=dtype)[0, 1] == pytest.approx(value + rho * variance * slope, rel=1e-5)


def test_images_that_float64_does_not_tell_apart_either_are_refused_with_layer_and_variance():
    x = np.random.default_rng(0).standard_normal((2, 8))
    x[1] = x[0] * (1 + 1e-15 * np.arange(8))
    network = Sequential(*[Dense(w_std=6.0), Erf()] * 30, Dense())
    with pytest.raises(NotAccurate, match=r"the images of pair \(0, 1\) are .* all Erf\(\) at a variance of"):
        kernel_matrix(network, x, dtype="float64")
    assert np.isfinite(kernel_matrix(network, x[:1], dtype="float64")).all()


def near_images(count=40):
    """Draw images of which each is near to the one before."""
    random = np.random.default_rng(5)
    steps = random.standard_normal((count, 6, 6, 2)) * 10.0 ** random.uniform(-6, 0, (count, 1, 1, 1))
    return np.cumsum(steps, axis=0).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("function", [Relu(), Erf()], ids=repr)
def test_pairs_computed_in_float64_have_the_bits_of_every_tile(function):
    x = near_images()
    network = Sequential(*[Conv(3, w_std=2.0, b_std=0.1), function] * 6, Flatten(), Dense())
    engine = CpuEvaluator(lower([(network, "ntk")], x.shape[1:]))
    whole = engine.evaluate(x)[0]
    near = find_near(directions(x), directions(x[:16]), np.full(40, 0.01), np.full(16, 0.01))
    assert 40 < near.sum() < near.size
    for rows, columns in ((slice(3, 29), slice(0, 3)), (slice(39, 40), slice(1, 39)), (slice(20, 21), slice(19, 20))):
        assert np.array_equal(engine.evaluate(x[rows], x[columns])[0], whole[rows, columns])
    assert np.array_equal(engine.evaluate_pairs(x[1:], x[:-1])[0], np.diagonal(whole, -1))
    exact = CpuEvaluator(engine.program, "float64").evaluate(x)[0]
    np.testing.assert_allclose(whole, exact, rtol=0, atol=ERROR * exact.max())


@pytest.mark.slow
def test_read_outs_are_computed_in_float64_each_for_itself():
    # Flat and pooled ones, NNGP and NTK: what is near for one is not for all, and its bits do not depend on the others.
    x = near_images(20)
    x[3] = 1 + 1e-2 * x[3]  # near to itself, shifted
    body = [Conv(3, w_std=2**0.5), Relu()] * 4
    networks = [Sequential(*body, end, Dense()) for end in (GlobalAvgPool(), Flatten())]
    networks.append(Sequential(Dense(), Relu(), Flatten(), Dense()))  # no window mixes positions
    asked = [(network, kind) for network in networks for kind in ("ntk", "nngp")]
    together = CpuEvaluator(lower(asked, x.shape[1:]))
    for readout, whole, pairs in zip(asked, together.evaluate(x), together.evaluate_pairs(x), strict=True):
        alone = CpuEvaluator(lower([readout], x.shape[1:]))
        assert np.array_equal(alone.evaluate(x)[0], whole)
        assert np.array_equal(np.diagonal(whole), pairs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=repr)
def test_an_nngp_has_the_bits_it_has_without_the_ntk(function, dtype):
    # Its own machine code, of which the compiler must not fuse other products and sums.
    if not function.has_ntk:
        pytest.skip("has no NTK")
    x = 0.5 * np.random.default_rng(2).standard_normal((24, 6, 6, 2))
    weights = Conv(3, w_std=0.3 if isinstance(function, Exp) else 1.0, b_std=0.1)
    network = Sequential(*[weights, function] * 3, Flatten(), Dense())
    both, alone = (
        CpuEvaluator(lower([(network, kind) for kind in kinds], x.shape[1:]), dtype)
        for kinds in (("nngp", "ntk"), ("nngp",))
    )
    assert np.array_equal(both.evaluate(x)[0], alone.evaluate(x)[0])


@pytest.mark.slow
@pytest.mark.parametrize("function", [Relu(), Erf()], ids=repr)
def test_copies_have_the_bits_of_a_read_out_alone_beside_one_that_tells_samples_apart(function):
    x = near_images(20)
    x[7] = x[15] = x[2]
    body = [Conv(3, w_std=2.0, b_std=0.1), function] * 3
    networks = [Sequential(*body, *mask, Conv(3), Relu(), Flatten(), Dense()) for mask in ((), (Dropout(0.5),))]
    asked = [(network, kind) for network in networks for kind in ("ntk", "nngp")]
    together = CpuEvaluator(lower(asked, x.shape[1:]))
    for readout, whole, pairs in zip(asked, together.evaluate(x), together.evaluate_pairs(x, x[::-1]), strict=True):
        alone = CpuEvaluator(lower([readout], x.shape[1:]))
        assert np.array_equal(alone.evaluate(x)[0], whole)
        assert np.array_equal(alone.evaluate_pairs(x, x[::-1])[0], pairs)


def test_directions_and_distances_are_those_of_the_cosine():
    x = near_images().reshape(40, -1)
    x[4] *= 1e-30
    unit = x.astype(np.float64) / np.maximum(np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True), 1e-300)
    apart = 1 - np.abs(unit @ unit[:16].T)
    for limit in (1e-4, 1e-2, 0.3):
        clear = np.abs(apart / limit - 1) > 1e-3
        found = find_near(directions(x), directions(x[:16]), np.full(40, limit), np.full(16, 0.0))
        assert np.array_equal(found[clear], (apart < limit)[clear])
    # At a limit of 0 equal images are not near; the larger limit of both counts, and infinity takes all.
    assert not find_near(directions(x), directions(x[:16]), np.zeros(40), np.zeros(16)).any()
    limits = np.where(np.arange(16) == 5, np.inf, 0.0)
    assert np.array_equal(find_near(directions(x), directions(x[:16]), np.zeros(40), limits)[:, 5], np.ones(40, bool))


def limit_of(network, dtype, scale=1.0):
    x = scale * np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
    engine = CpuEvaluator(lower([(network, "ntk")], x.shape[1:]), dtype)
    return engine.planes.limits(engine.planes.prepare(x.transpose(0, 3, 1, 2)).statistics[:, :3])[0]


def test_limits_grow_with_depth_bias_and_variance():
    shallow, deep = limit_of(presets.cntk(3), "float32"), limit_of(presets.cntk(21), "float32")
    assert 0 < shallow[0] < 1e-3 < deep[0] < 0.05
    assert len({*shallow}) == len({*deep}) == 1
    biased = Sequential(*[Conv(3, b_std=1.0), Relu()] * 6, Flatten(), Dense())
    assert (limit_of(biased, "float32", 1e-2) > limit_of(biased, "float32", 10.0)).all()
    erf = Sequential(Conv(3), Erf(), Flatten(), Dense())
    assert (limit_of(erf, "float32") == 0).all()
    assert (limit_of(erf, "float32", 300.0) > 0).all()
    for network in (presets.cntk(21), biased, erf):
        assert (limit_of(network, "float64", 300.0) == 0).all()
