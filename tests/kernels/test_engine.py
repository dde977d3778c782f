"""The engine's doors: shapes and dtypes in and out, and what they refuse."""

import numpy as np
import pytest
from support.tolerances import DTYPES, assert_kernels_close, tolerance

from cntk_pipeline import kernel_diagonal, kernel_matrices, kernel_matrix
from cntk_pipeline.errors import DataError, LayerError, NotAccurate, NotFinite
from cntk_pipeline.kernels import KINDS, CpuEvaluator, group_size, lower, memory, working_bytes
from cntk_pipeline.kernels.base import Question
from cntk_pipeline.kernels.cpu import CpuEngine
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import aligned_zeros
from cntk_pipeline.layers import (
    Attend,
    AvgPool,
    Conv,
    Dense,
    Elementwise,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    GlobalAvgPool,
    LastState,
    LayerNorm,
    LinearAttention,
    Polynomial,
    Product,
    Recurrent,
    Relu,
    Repeat,
    Residual,
    SelfAttention,
    Sequential,
    Sign,
    presets,
)

NETWORK = presets.cntk(3)
PROGRAM = lower([(NETWORK, "ntk"), (NETWORK, "nngp")], (4, 4, 2))


def draw_images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4, 4, 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_one_matrix_a_read_out_in_the_engine_s_dtype(dtype):
    engine = CpuEvaluator(PROGRAM, dtype)
    assert engine.evaluate(draw_images(3), draw_images(5)).shape == (2, 3, 5)
    assert engine.evaluate(draw_images(3)).dtype == engine.evaluate_pairs(draw_images(3)).dtype == dtype
    assert engine.evaluate_pairs(draw_images(3)).shape == (2, 3)
    assert kernel_matrix(NETWORK, draw_images(3), dtype=dtype).dtype == dtype


def test_float32_is_the_default():
    assert kernel_matrix(NETWORK, draw_images(1)).dtype == CpuEvaluator(PROGRAM).dtype == np.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_matrix_of_one_pair_is_a_dot_product_by_hand(dtype):
    # One dense layer: nngp = w^2 x.z / features + b^2; its own weights are the whole tangent.
    x, z = np.array([[1.0, 2.0, -1.0, 4.0]]), np.array([[3.0, 0.5, 2.0, -1.0]])
    network = Sequential(Dense(w_std=2.0, b_std=0.5))
    for kind in ("nngp", "ntk"):
        assert kernel_matrix(network, x, z, kind=kind, dtype=dtype).item() == 4 * (-2) / 4 + 0.25
    assert kernel_matrix(Sequential(Dense(trained=False)), x, z, dtype=dtype).item() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_orthogonal_inputs_of_one_hidden_layer_have_the_value_by_hand(dtype):
    # x.z = 0 and variances v: nngp = v / (2 pi); ntk = nngp + 1/4 of the first layer's 0.
    x = np.array([[2.0, 0.0], [0.0, 2.0]])
    network = Sequential(Dense(), Relu(), Dense())
    values = kernel_matrix(network, x, dtype=dtype)
    np.testing.assert_allclose(values, [[2, 1 / np.pi], [1 / np.pi, 2]], rtol=tolerance(dtype).kernel)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bias_variance_enters_like_an_input_by_hand(dtype):
    # Two inputs of zeros: the first layer's covariance is b^2 = 9 everywhere, ReLU halves it, T = 9 / 2.
    x = np.zeros((2, 3))
    network = Sequential(Dense(b_std=3.0), Relu(), Dense(b_std=1.0))
    x[1] = 1e-15  # another image, all the same
    np.testing.assert_allclose(kernel_matrix(network, x, kind="nngp", dtype=dtype), 5.5, rtol=tolerance(dtype).kernel)
    np.testing.assert_allclose(kernel_matrix(network, x, dtype=dtype), 5.5 + 4.5, rtol=tolerance(dtype).parallel)


def test_inputs_of_any_real_dtype_and_layout_are_taken():
    whole = np.random.default_rng(0).integers(0, 255, (4, 4, 4, 2))
    expected = kernel_matrix(NETWORK, whole.astype(np.float32))
    assert np.array_equal(kernel_matrix(NETWORK, whole.astype(np.uint8)), expected)
    assert np.array_equal(kernel_matrix(NETWORK, np.asfortranarray(whole, np.float64)), expected)
    assert np.array_equal(kernel_matrix(NETWORK, np.repeat(whole, 2, axis=0)[::2]), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vector_is_an_image_of_one_pixel(dtype):
    vectors = np.random.default_rng(0).standard_normal((5, 7))
    network = presets.fully_connected(3)
    image = kernel_matrix(network, vectors.reshape(5, 1, 1, 7), dtype=dtype)
    # Not the same bits: behind Flatten a variance is that of the planes, before it one of float64.
    assert_kernels_close(kernel_matrix(network, vectors, dtype=dtype), image, tolerance(dtype).kernel)


def test_flattened_images_are_their_pixels_in_a_row():
    images = draw_images(5)
    flat = kernel_matrix(presets.fully_connected(3), images.reshape(5, -1), dtype="float64")
    assert_kernels_close(
        kernel_matrix(presets.fully_connected(3), images, dtype="float64"), flat, tolerance("float64").kernel
    )


def test_no_input_is_written_to():
    images = draw_images(5).astype(np.float32)
    images.flags.writeable = False
    kernel_matrix(NETWORK, images, images)


def test_an_engine_can_be_used_again_for_other_images():
    engine = CpuEvaluator(PROGRAM)
    first = engine.evaluate(draw_images(20))
    engine.evaluate(100 * draw_images(7, seed=1))
    engine.evaluate_pairs(draw_images(9, seed=2))
    assert np.array_equal(engine.evaluate(draw_images(20)), first)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(LayerError, match='computed in "float32" or "float64", got dtype=\'float16\''):
        CpuEvaluator(PROGRAM, "float16")
    with pytest.raises(LayerError, match="got dtype='float16'"):
        kernel_matrix(NETWORK, draw_images(1), dtype="float16")
    with pytest.raises(LayerError, match="got dtype=None"):
        kernel_matrix(NETWORK, draw_images(1), dtype=None)


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (3, 4, 4, 3), (3, 32), (3, 4, 4)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(LayerError, match=r"expected images of shape \(4, 4, 2\), got an array of shape \(3, "):
        CpuEvaluator(PROGRAM).evaluate(np.ones(shape))
    with pytest.raises(LayerError, match=r"expected images of shape \(4, 4, 2\)"):
        CpuEvaluator(PROGRAM).evaluate_pairs(np.ones(shape))


def test_pairs_have_one_number_a_read_out_and_pair():
    x, z = draw_images(20), draw_images(20, seed=1)
    found = CpuEvaluator(PROGRAM).evaluate_pairs(x, z)
    assert found.shape == (2, 20)
    assert_kernels_close(found, np.einsum("rii->ri", CpuEvaluator(PROGRAM).evaluate(x, z)), tolerance("float32").kernel)


def test_pairs_of_unequal_numbers_are_refused():
    with pytest.raises(LayerError, match="pairs need as many left images as right ones, got 3 and 4"):
        CpuEvaluator(PROGRAM).evaluate_pairs(draw_images(3), draw_images(4))


def test_groups_are_whole_blocks_within_their_memory(monkeypatch):
    # Two ReLU layers of two statistics on 16 pixels; the read-out has none.
    block = LANES * 2 * 2 * 16 * 4
    for blocks, expected in ((0.5, 1), (1, 1), (3.9, 3), (1000, 64)):
        monkeypatch.setattr(memory, "GROUP_BYTES", int(blocks * block))
        assert group_size(PROGRAM, 4) == CpuEvaluator(PROGRAM).group_size == expected * LANES
    monkeypatch.setattr(memory, "GROUP_BYTES", 4 * block)
    assert group_size(PROGRAM, 8) == CpuEvaluator(PROGRAM, "float64").group_size == 2 * LANES
    linear = lower([(Dense(), "ntk")], (5,))
    assert group_size(linear, 4) == 64 * LANES


def test_working_bytes_are_at_least_what_an_engine_allocates():
    attention = lower([(Sequential(Conv(3, strides=2), SelfAttention(), Relu(), Flatten()), "ntk")], (8, 8, 2))
    for program in (PROGRAM, attention):
        for dtype in DTYPES:
            found = CpuEvaluator(program, dtype)
            item_bytes = np.dtype(dtype).itemsize
            memories = {id(one): one.machine.memory for one in (found.planes, found.exact)}.values()
            held = sum(memory.planes.nbytes + memory.tensors.nbytes for memory in memories)
            assert held < working_bytes(program, item_bytes) < 2**28
            # What a group adds is its statistics.
            assert working_bytes(program, item_bytes) > group_size(program, item_bytes) * item_bytes


@pytest.mark.parametrize("shape", [(1,), (3, 5), (7, 16)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scratch_memory_begins_at_a_cache_line(dtype, shape):
    arrays = [aligned_zeros(shape, np.dtype(dtype)) for _ in range(5)]
    for array in arrays:
        assert array.ctypes.data % 64 == 0
        assert (array.shape, array.dtype, array.any()) == (shape, dtype, False)


def test_two_sets_of_different_shapes_are_refused():
    with pytest.raises(DataError, match=r"inputs of one shape, got \(4, 4, 2\) and \(4, 5, 2\)"):
        kernel_matrix(NETWORK, np.ones((2, 4, 4, 2)), np.ones((2, 4, 5, 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_refused_with_their_place(value):
    images = draw_images(3)
    images[1, 2, 0, 1] = value
    with pytest.raises(DataError, match=r"x1 holds -?(nan|inf) at index \(1, 2, 0, 1\): inputs must be finite"):
        kernel_matrix(NETWORK, images)
    with pytest.raises(DataError, match=r"x2 holds"):
        kernel_matrix(NETWORK, draw_images(2), images)


def test_inputs_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match="x1 must hold real numbers, got dtype"):
        kernel_matrix(NETWORK, np.full((2, 4, 4, 2), "a"))


def test_no_inputs_at_all_are_refused():
    with pytest.raises(DataError, match=r"x1 must hold at least one input, got shape \(0, 4, 4, 2\)"):
        kernel_matrix(NETWORK, np.ones((0, 4, 4, 2)))
    of_steps = Sequential(Recurrent(Relu()), LastState())
    with pytest.raises(DataError, match=r"x1 must hold at least one number in each input, got shape \(2, 0, 3\)"):
        kernel_matrix(of_steps, np.ones((2, 0, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_not_finite_are_refused_with_their_pair(dtype):
    images = draw_images(5)
    images[3, 0, 0, 0] = np.nan
    with pytest.raises(NotFinite, match=r"read-out 0 is nan for pair \(0, 3\):"):
        CpuEvaluator(PROGRAM, dtype).evaluate(images, images)
    with pytest.raises(NotFinite, match=r"read-out 0 is nan for pair \(3, 3\):"):
        CpuEvaluator(PROGRAM, dtype).evaluate_pairs(images)


def test_values_beyond_the_dtype_are_refused():
    images = np.full((1, 4, 4, 2), 1e20)
    with pytest.raises(
        NotFinite, match=r"a variance above 3e\+38, .* layer of 4 x 4, too large for float32: scale the"
    ):
        kernel_matrix(NETWORK, images)
    with pytest.raises(NotFinite, match=r"image 0 has a variance above 3e\+38"):
        kernel_matrix(Sequential(Conv(3), Flatten()), images)


def test_images_too_small_for_float32_are_refused_and_fine_in_float64():
    images = 1e-20 * np.random.default_rng(0).standard_normal((2, 4, 4, 1))
    with pytest.raises(NotAccurate, match=r"holds no number beyond .*e-20, whose square is 0 in float32"):
        kernel_matrix(presets.cntk(3), images)
    unit = kernel_matrix(presets.cntk(3), 1e20 * images, dtype="float64")
    np.testing.assert_allclose(1e40 * kernel_matrix(presets.cntk(3), images, dtype="float64"), unit, rtol=1e-12)


def test_a_zero_image_has_no_variance_behind_an_odd_function():
    # Computed carelessly, the mean of tanh is 1e-22, and the inverse of such a deviation overflows float32.
    images = draw_images(3)
    images[0] = 0
    values = kernel_matrix(Sequential(Conv(3), Elementwise(np.sin, 32), Conv(3), Relu(), Flatten()), images)
    assert not values[0].any()
    assert (np.diag(values)[1:] > 0).all()


def test_empty_lanes_are_not_refused_for_what_a_zero_image_would_be():
    network = Sequential(Conv(3), Elementwise(lambda x: x**4, 8), Conv(3), Relu(), Flatten())
    assert np.isfinite(kernel_matrix(network, draw_images(3))).all()
    with pytest.raises(NotAccurate, match=r"image 0 has .* deviation below 1e-19 .* raise w_std, or use float64$"):
        kernel_matrix(network, np.zeros((1, 4, 4, 2)))


ONES = np.abs(np.random.default_rng(0).standard_normal((3, 4, 4, 1)))
TOO_SMALL = [
    Sequential(Flatten(), *[Dense(), Relu()] * 160, Dense()),
    presets.fully_connected(200, w_std=1.0),
    presets.fully_connected(140, w_std=1.0),  # denormal numbers, that have lost digits
]


@pytest.mark.parametrize("network", TOO_SMALL)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_below_the_range_of_float32_are_refused_and_not_zero(network, kind):
    x = ONES.reshape(3, -1) if isinstance(network.layers[0], Dense) else ONES
    told = (
        r"a kernel has no value above [1-9]e-\d\d.* numbers of float32 below 1e-38 lose their digits or are 0: .* use f"
    )
    with pytest.raises(NotAccurate, match=told):
        kernel_matrix(network, x, kind=kind)
    with pytest.raises(NotAccurate, match=told):
        kernel_matrix(network, x[:1], x[1:], kind=kind)
    with pytest.raises(NotAccurate, match=told):
        kernel_diagonal(network, x, kind=kind)
    assert (kernel_matrix(network, x, kind=kind, dtype="float64") > 0).all()


def test_values_that_are_small_beside_others_and_kernels_of_zero_are_right():
    orthogonal = np.eye(4)[:, None, :, None]
    for images in (orthogonal, np.concatenate([0 * orthogonal, orthogonal])):
        values = kernel_matrix(Sequential(Conv((1, 1)), Flatten(), Dense()), images, kind="nngp")
        np.testing.assert_allclose(values, np.eye(len(values)) * images.any((1, 2, 3)) / 4)
    linear = Sequential(Flatten(), Dense())
    assert not kernel_matrix(linear, orthogonal[:1], orthogonal[1:]).any()
    cubic = Sequential(Product(Dense(), Product(Dense(), Dense())), Dense())  # c^3, of a covariance c of 2e-14
    near = np.sqrt(2) * np.array([[1.0, 1e-14], [1e-14, 1.0]])
    assert 0 < kernel_matrix(cubic, near[:1], near[1:], kind="nngp")[0, 0] < 1e-40
    fixed = Sequential(Conv(3, trained=False), Relu(), Flatten(), Dense(trained=False))
    assert not kernel_matrix(fixed, ONES).any()
    assert not kernel_diagonal(fixed, ONES).any()
    assert not kernel_matrix(NETWORK, 0 * draw_images(2)).any()


STANDARD = {"parameterization": "standard", "fan_in": 512}
CANCELLING = [
    Sequential(Conv(3, w_std=0.01, b_std=1.0, **STANDARD), Flatten()),
    Sequential(
        Conv(3, b_std=30.0, parameterization="standard"),
        Relu(),
        Conv(3, trained=False),
        GlobalAvgPool(),
        Dense(trained=False),
    ),
]


@pytest.mark.parametrize("network", CANCELLING)
def test_large_biases_of_the_standard_parameterization_cost_float32_no_digits(network):
    x = np.random.default_rng(0).standard_normal((3, 4, 4, 1)).astype(np.float32)
    exact = kernel_matrix(network, x, dtype="float64")
    assert np.abs(kernel_matrix(network, x) - exact).max() < 2e-6 * exact.max()


def test_values_that_changed_for_large_biases_have_a_version_of_their_own():
    def version(network, kind, shape=(4, 4, 1), dtype="float32"):
        return CpuEngine.version_for(Question(((network, kind),), shape, dtype)) - CpuEngine.numerics_version

    for network in CANCELLING:
        assert [version(network, "ntk"), version(network, "nngp")] == [1, 0]
        assert version(network, "ntk", dtype="float64") == 0
        assert CpuEvaluator(lower([(network, "ntk")], (4, 4, 1))).planes.dtype == np.float64
        assert CpuEvaluator(lower([(network, "nngp")], (4, 4, 1))).planes.dtype == np.float32
    pointwise = Sequential(Conv(1, w_std=0.01, b_std=1.0, **STANDARD), Flatten())  # of float64 ever since
    usual = Sequential(Conv(3, b_std=0.1, **STANDARD), Relu(), Conv(3, b_std=0.1, **STANDARD), Flatten())
    assert version(pointwise, "ntk") == version(usual, "ntk") == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "network",
    [
        Sequential(Flatten(), Dense(), Repeat(Dense(w_std=2.0), 600)),
        Sequential(Dense(w_std=1e100), Dense(w_std=1e100), Flatten()),
    ],
)
def test_a_linear_network_that_overflows_float64_is_refused(network, dtype):
    with pytest.raises(NotFinite, match=r"image 0 has a variance above 2e\+308, or a sum of them"):
        kernel_matrix(network, ONES, dtype=dtype)


def test_networks_and_kinds_may_be_generators():
    x, networks = draw_images(2), [NETWORK, presets.cntk(2)]
    found = kernel_matrices(iter(networks), x, kinds=iter(KINDS))
    np.testing.assert_array_equal(found, kernel_matrices(networks, x, kinds=KINDS))


LOUD, QUIET = Conv(3, w_std=1e15), Conv(3, w_std=1e-15)


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([Conv(3), LinearAttention(), LinearAttention(), LayerNorm()], 80.0),
        ([Conv(3), Polynomial((0.0, 0.0, 0.0, 1.0)), Conv(3), LayerNorm()], 2e6),
        ([LOUD, LayerNorm()], 1e5),
        ([LOUD, QUIET, LayerNorm()], 1e5),
        ([LOUD, AvgPool(2), LayerNorm()], 1e5),
        ([LOUD, AvgPool(2), QUIET, LayerNorm()], 1e5),
        ([LOUD, Relu(), Conv(3, w_std=1e5), LayerNorm()], 1.0),
        ([LOUD, Residual(LOUD), Sign()], 1e-8),
        ([Conv(3), Erf()], 1e19),
        ([Conv(3, w_std=1e20), LayerNorm()], 1e-15),  # the variance fits, but not the factor
        ([Conv(3, w_std=1e20), QUIET, LayerNorm()], 1e-15),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_covariance_that_overflows_in_float32_is_refused_and_does_not_become_a_correlation_of_one(layers, size):
    x = size * np.abs(np.random.default_rng(0).standard_normal((3, 4, 4, 1)))
    network = Sequential(*layers, Flatten(), Dense())
    with pytest.raises(NotFinite, match=r"above 3e\+38.* (scale the images or w_std down|smaller w_std).* use float64"):
        kernel_matrix(network, x, kind="nngp")
    assert np.isfinite(kernel_matrix(network, x, kind="nngp", dtype="float64")).all()


SOFT, HARD = Dense(w_std=1e-12), Dense(w_std=1e12)
GATED = Product(Conv(1), Conv(1))


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([Conv(3, w_std=0.01)] * 12, 1.0),
        ([Conv(3, w_std=1e-12), Conv(3, w_std=1e-12), GlobalAvgPool(), HARD, HARD], 1.0),
        ([Conv(3), SOFT, SOFT, HARD, HARD], 1.0),
        ([Conv(3, w_std=3e-11), Dense(w_std=3e-11), GlobalAvgPool(), HARD, Dense(w_std=1e9)], 1.0),  # digits alone
        ([Conv(3), Product(SOFT, SOFT), HARD, HARD, Relu(), GlobalAvgPool()], 1.0),
        ([Conv(3), Product(SOFT, SOFT), GlobalAvgPool(), HARD, HARD], 1.0),
        ([Conv(3), GATED, Dense(), GATED, Dense(w_std=1e14), Dense(w_std=1e14), GlobalAvgPool()], 1e-7),
        ([Conv(3), GlobalAvgPool(), SOFT, SOFT, HARD, HARD], 1.0),  # behind the last pooling
        ([Conv(3), SOFT, Relu(), AvgPool(2), Product(SOFT, Dense()), HARD, HARD], 1.0),
        ([SOFT, Relu(), Conv(3, w_std=1e-12), AvgPool(2), HARD, Relu(), HARD], 1.0),
        ([Conv(3), Attend(mechanism="identity"), Attend(mechanism="identity"), *[Dense(w_std=1e17)] * 3], 1e-6),
        ([Conv(3), Polynomial((0.0, 0.0, 0.0, 1.0)), HARD, HARD], 1e-14),
        ([Conv(3, w_std=1e-20), GlobalAvgPool()], 1e15),  # the variance fits, but not the factor
        ([Conv(3, w_std=1e-20), LayerNorm(), Relu(), Conv(3)], 1.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_covariance_that_loses_its_digits_in_float32_is_refused_and_does_not_become_zero(layers, size):
    x = size * np.abs(np.random.default_rng(0).standard_normal((3, 4, 4, 1)))
    x[0] = 0  # has no variance, which is right
    network = Sequential(*layers, Flatten(), Dense())
    with pytest.raises(NotAccurate, match=r"image 1(,| has).* below 1e-\d\d,? .*too small for float32: .* use float64"):
        kernel_matrix(network, x, kind="nngp")
    assert (np.diag(kernel_matrix(network, x, kind="nngp", dtype="float64"))[1:] > 0).all()


@pytest.mark.parametrize(
    "layers",
    [
        [*[Conv(3, w_std=5e-81)] * 2, GlobalAvgPool(), *[Dense(w_std=2e80)] * 2],
        [Flatten(), *[Dense(w_std=1e-90), Relu()] * 2, *[Dense(w_std=1e90)] * 2],
        [Flatten(), *[Dense(w_std=1e-90)] * 2, LayerNorm()],
        [Flatten(), Dense(w_std=1e-90), Product(Dense(), Dense(w_std=1e-90)), *[Dense(w_std=1e90)] * 2],
        [Flatten(), Dense(w_std=1e-60), Polynomial((0.0, 0.0, 0.0, 1.0)), *[Dense(w_std=1e90)] * 2],
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_covariance_that_loses_its_digits_in_float64_is_refused_and_does_not_become_zero(layers):
    with pytest.raises(NotAccurate, match=r"image 0(,| has).* below \de-\d+,? .*too small for float64: .* w_std$"):
        kernel_matrix(Sequential(*layers), ONES, kind="nngp", dtype="float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_variances_that_are_added_to_larger_numbers_and_those_of_zero_are_right(dtype):
    def last(*layers, x=ONES):
        return kernel_matrix(Sequential(Conv(3), *layers, Flatten(), Dense()), x, kind="nngp", dtype=dtype)

    tiny = {"float32": 1e-25, "float64": 1e-150}[dtype]
    np.testing.assert_array_equal(last(Residual(Sequential(Relu(), Conv(3, w_std=tiny)))), last())
    gates = [Product(Dense(w_std=tiny**0.5), Dense(w_std=tiny**0.5)), Dense(b_std=1.0)]
    np.testing.assert_array_equal(last(*gates), last(Dense(w_std=0.0, b_std=1.0)))
    assert not last(Dense(w_std=0.0)).any()
    spots = np.zeros((2, 4, 4, 1))
    spots[:, 1, 1] = 1.0
    assert not kernel_matrix(Sequential(Conv(1, strides=2), Flatten()), spots, dtype=dtype).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_variances_that_shrink_further_in_a_branch_are_right(dtype):
    shrinking = [Conv(3, w_std={"float32": 1e-3, "float64": 1e-16}[dtype])] * 9
    found = kernel_matrix(Sequential(Conv(3), Residual(Sequential(*shrinking)), Flatten()), ONES, dtype=dtype)
    np.testing.assert_array_equal(found, kernel_matrix(Sequential(Conv(3), Flatten()), ONES, dtype=dtype))


def test_a_faint_image_is_not_refused_for_the_products_of_the_images_beside_it():
    x = np.random.default_rng(0).standard_normal((3, 4, 4, 2)).astype(np.float32)
    x[1] *= 1e-10
    gates = Product(Product(Conv(3), Conv(3)), Conv(3, b_std=1.0))
    network = Sequential(gates, Conv(3, b_std=1.0), GlobalAvgPool())
    found = kernel_matrix(network, x, kind="nngp")
    alone = [kernel_matrix(network, image[None], kind="nngp")[0, 0] for image in x]
    np.testing.assert_array_equal(np.diag(found), alone)


def test_a_function_that_is_zero_where_inputs_are_small_is_computed():
    shrink = Elementwise(lambda u: np.sign(u) * np.maximum(abs(u) - 0.5, 0.0))
    network = Sequential(Conv(3), shrink, Conv(3, b_std=0.1), GlobalAvgPool(), Dense())
    np.testing.assert_allclose(kernel_matrix(network, 1e-3 * ONES, kind="nngp"), 0.01, rtol=1e-6)


def test_an_overflow_is_that_of_an_image_and_not_of_the_empty_lanes_beside_it():
    network = Sequential(Conv(3), Gaussian(), Conv(3, w_std=3e19), Relu(), Flatten())
    x = 20 * np.ones((1, 4, 4, 2))  # behind a Gaussian, the smaller the input the larger the variance
    assert kernel_matrix(network, x, kind="nngp").shape == (1, 1)
    with pytest.raises(NotFinite, match="a variance above 3e"):
        kernel_matrix(network, 0 * x, kind="nngp")


def test_an_exponential_that_overflows_is_refused():
    network = Sequential(Dense(), Exp(), Dense())
    with pytest.raises(NotFinite, match=r"read-out 0 is inf for pair \(0, 0\):"):
        kernel_matrix(network, np.full((1, 3), 10.0), kind="nngp")


def test_a_constant_image_of_size_zero_is_normalised_to_zero():
    network = Sequential(Conv(3), LayerNorm(), Flatten(), Dense())
    assert kernel_matrix(network, np.zeros((2, 4, 4, 2)), kind="nngp").tolist() == [[0, 0], [0, 0]]


def test_a_single_layer_and_numpy_dtypes_are_welcome():
    vectors = np.eye(3)
    np.testing.assert_array_equal(kernel_matrix(Dense(), vectors, dtype=np.float64), np.eye(3) / 3)


@pytest.mark.parametrize("inputs", [5.0, np.zeros(3), np.zeros((2, 3, 4))])
def test_inputs_of_a_wrong_rank_are_refused(inputs):
    with pytest.raises(DataError, match=r"x1 must be of shape \(n, H, W, C\) or \(n, features\), got \("):
        kernel_matrix(Dense(), inputs)
