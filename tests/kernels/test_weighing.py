"""The compiled loops over planes against NumPy: windows, activations and series."""

import numpy as np
import pytest
from numba import njit
from support.tolerances import DTYPES, tolerance

from cntk_pipeline.kernels import weighing
from cntk_pipeline.kernels.lanes import LANES, address, call
from cntk_pipeline.kernels.weighing import Place, input_function, plane_function, statistics_function
from cntk_pipeline.layers import LAYERS, ClosedForm, Elementwise, Gelu, LayerNorm, Pointwise, Polynomial, Relu

HEIGHT, WIDTH = 3, 4
SCALE, BIAS, OWN = 0.3, 0.2, 1.0


@njit
def call_plane(function, planes, source, target, ring, left, right, place, factors):
    call(
        function,
        (
            address(planes, source),
            address(planes, target),
            address(ring, 0),
            address(left, 0),
            address(right, 0),
            address(place, 0),
            address(factors, 0),
        ),
    )


def run(
    function,
    planes,
    left,
    right,
    dtype,
    terms=0,
    by_lane=False,
    convolve=False,
    tangent=True,
    begins=False,
    constants=(),
):
    """Run one loop in place on S and T, ``(2, HEIGHT, WIDTH, LANES)``; return both."""
    stride, size = (WIDTH + 2) * LANES, (HEIGHT + 1) * (WIDTH + 2) * LANES
    register = np.zeros((2, HEIGHT + 1, WIDTH + 2, LANES), dtype)
    register[:, :HEIGHT, 1:-1] = planes
    place = np.zeros(len(Place), np.int64)
    place[[Place.STRIDE, Place.TANGENT, Place.RING_TANGENT]] = stride, size, 2 * stride
    place[[Place.HEIGHT, Place.WIDTH, Place.LEFT_ROW, Place.RIGHT_ROW]] = HEIGHT, WIDTH, WIDTH, WIDTH
    place[[Place.LEFT_STATISTIC, Place.RIGHT_STATISTIC, Place.TERMS]] = HEIGHT * WIDTH, HEIGHT * WIDTH, terms
    compiled = weighing.plane_function(function, convolve, tangent, begins, by_lane, dtype)
    factors = np.array([SCALE, BIAS, OWN, *constants, *[0] * (3 - len(constants))], dtype)
    ring = np.full(4 * stride, np.nan, dtype)
    call_plane(compiled.address, register.reshape(-1), LANES, LANES, ring, left.ravel(), right.ravel(), place, factors)
    return register[:, :HEIGHT, 1:-1]


def draw(dtype, *shape):
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def sum_3x3(planes):
    padded = np.pad(planes.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i : i + HEIGHT, j : j + WIDTH] for i in range(3) for j in range(3))


@pytest.mark.parametrize("tangent", [True, False])
@pytest.mark.parametrize("convolve", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_sum_windows_and_add_a_bias(dtype, convolve, tangent):
    planes = draw(dtype, 2, HEIGHT, WIDTH, LANES)
    nothing = np.zeros(LANES, dtype)
    s, t = run(None, planes, nothing[:1], nothing, dtype, convolve=convolve, tangent=tangent)
    sums = sum_3x3(planes) if convolve else planes
    atol = 20 * np.finfo(dtype).eps
    expected = SCALE * sums[0] + BIAS
    np.testing.assert_allclose(s, expected, rtol=0, atol=atol)
    np.testing.assert_allclose(t, SCALE * sums[1] + OWN * expected if tangent else planes[1], rtol=0, atol=atol)


@pytest.mark.parametrize("convolve", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tangent_that_begins_is_the_covariance_whatever_its_plane_held(dtype, convolve):
    planes = draw(dtype, 2, HEIGHT, WIDTH, LANES)
    nothing = np.zeros(LANES, dtype)
    zeroed = planes.copy()
    zeroed[1] = 0
    expected = run(None, zeroed, nothing[:1], nothing, dtype, convolve=convolve)
    found = run(None, planes, nothing[:1], nothing, dtype, convolve=convolve, begins=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("by_lane", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_closed_form_is_the_formula_of_its_layer(dtype, by_lane):
    planes = draw(dtype, 2, HEIGHT, WIDTH, LANES)
    shape = (2, HEIGHT, WIDTH, LANES)
    right = np.abs(draw(dtype, *shape)) + 0.5
    left = np.abs(draw(dtype, *shape)) + 0.25 if by_lane else np.abs(draw(dtype, *shape[:3])) + 0.25
    s, t = run(Relu, planes, left, right, dtype, by_lane=by_lane)
    x = left.astype(np.float64) if by_lane else left.astype(np.float64)[..., None]
    covariance = SCALE * planes[0].astype(np.float64) + BIAS
    value, slope = Relu.dual(covariance, x, right.astype(np.float64), ())
    atol = 20 * tolerance(dtype).dual
    np.testing.assert_allclose(s, value, rtol=0, atol=atol)
    np.testing.assert_allclose(t, slope * (SCALE * planes[1] + OWN * covariance), rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [Relu, Gelu])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_in_turn_has_the_bits_of_one_loop(dtype, layer, monkeypatch):
    # Processors with more registers run sums and activation in one loop; workers of both kinds must agree.
    planes = draw(dtype, 2, HEIGHT, WIDTH, LANES)
    right = np.abs(draw(dtype, 3, HEIGHT, WIDTH, LANES)) + 0.5
    left = np.abs(draw(dtype, 3, HEIGHT, WIDTH)) + 0.25
    results = []
    for wide in (True, False):
        monkeypatch.setattr(weighing, "HAS_WIDE_VECTORS", wide)
        monkeypatch.setattr(weighing, "plane_function", plane_function.__wrapped__)
        results.append(run(layer, planes, left, right, dtype, convolve=True))
    assert np.isfinite(results[0]).all()
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    "series", [Polynomial((0.3, -1.0, 0.5, 0.2)), Elementwise(lambda x: np.tanh(0.05 * x), 6), Polynomial((2.0,))]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_series_is_the_sum_of_its_terms_and_its_derivative(dtype, series):
    variance = np.abs(draw("float64", 2, HEIGHT, WIDTH, LANES)) + 0.5
    (scale, terms), (scale_right, terms_right) = series.expand(variance[0, ..., 0]), series.expand(variance[1])
    left, right = (
        np.concatenate([v[None], v[None], w]).astype(dtype) for v, w in ((scale, terms), (scale_right, terms_right))
    )
    planes = 0.3 * draw(dtype, 2, HEIGHT, WIDTH, LANES)
    s, t = run(type(series), planes, left, right, dtype, terms=series.terms)
    covariance = SCALE * planes[0].astype(np.float64) + BIAS
    correlation = covariance * scale[..., None] * scale_right
    products = terms[..., None] * terms_right
    value = sum(product * correlation**n for n, product in enumerate(products))
    slope = sum(n * product * correlation ** (n - 1) for n, product in enumerate(products) if n > 0)
    slope = slope * scale[..., None] * scale_right + np.zeros_like(value)
    atol = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(s, value, rtol=0, atol=atol)
    np.testing.assert_allclose(t, slope * (SCALE * planes[1] + OWN * covariance), rtol=0, atol=atol)


@njit
def call_input(function, target, left, right, place, factors):
    call(function, (address(target, 0), address(left, 0), address(right, 0), address(place, 0), address(factors, 0)))


@pytest.mark.parametrize("by_lane", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_covariance_is_the_scaled_product_of_channels(dtype, by_lane):
    channels, (x, z) = 2, draw(dtype, 2, 2, HEIGHT, WIDTH, LANES)
    left = x if by_lane else x[..., :1]
    target = np.full((2, HEIGHT, WIDTH, LANES), np.nan, dtype)
    place = np.zeros(len(Place), np.int64)
    place[[Place.STRIDE, Place.TANGENT, Place.HEIGHT, Place.WIDTH]] = WIDTH * LANES, target[0].size, HEIGHT, WIDTH
    place[[Place.LEFT_ROW, Place.RIGHT_ROW, Place.TERMS]] = WIDTH, WIDTH, channels
    place[[Place.LEFT_STATISTIC, Place.RIGHT_STATISTIC]] = HEIGHT * WIDTH
    function = input_function(True, by_lane, dtype).address
    call_input(function, target.ravel(), left.ravel(), z.ravel(), place, np.array([0.5], dtype))
    np.testing.assert_allclose(target[0], 0.5 * np.sum(left * z, axis=0), rtol=0, atol=8 * np.finfo(dtype).eps)
    assert not target[1].any()


@njit
def call_statistics(function, variances, out, place, factors):
    call(function, (address(variances, 0), address(out, 0), address(place, 0), address(factors, 0)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", [Relu(), LayerNorm()])
def test_statistics_are_computed_in_float64_and_rounded_once(layer, dtype):
    variances = np.abs(draw("float64", HEIGHT, WIDTH, LANES))
    variances[0, 0, :2] = 0
    count = layer.statistic_count
    out = np.full((count, HEIGHT, WIDTH, LANES), np.nan, dtype)
    place = np.zeros(len(Place), np.int64)
    place[[Place.STRIDE, Place.HEIGHT, Place.WIDTH]] = WIDTH * LANES, HEIGHT, WIDTH
    place[[Place.RIGHT_ROW, Place.RIGHT_STATISTIC]] = WIDTH, HEIGHT * WIDTH
    behind = variances.copy()
    function = statistics_function(type(layer), dtype)
    call_statistics(function.address, behind.ravel(), out.ravel(), place, np.zeros(6))
    *expected, after = type(layer).statistics(variances, (0.0, 0.0, 0.0))
    np.testing.assert_allclose(behind, after, rtol=1e-15)
    np.testing.assert_allclose(out, np.array(expected), rtol=2 * np.finfo(dtype).eps)


def test_every_closed_form_keeps_to_what_loops_can_carry():
    for layer in LAYERS.values():
        if issubclass(layer, ClosedForm):
            assert 1 <= layer.statistic_count <= 3
            assert len(layer().constants) <= 3


def test_the_kinds_of_layers_without_a_loop_are_refused():
    class Mystery(Pointwise):
        pass

    with pytest.raises(TypeError, match="Mystery is neither a closed form nor a series"):
        plane_function(Mystery, False, True, False, False, "float32")
