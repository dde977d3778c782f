"""What every kernel obeys: symmetry, definiteness, homogeneity, and the same bits however the work is cut."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import kernel_matrix
from pipeline.kernels import KINDS, LEFT_GROUP, Engine, lower
from pipeline.layers import Conv, Dense, Flatten, GlobalAvgPool, Relu, Sequential, presets
from tests import reference
from tests.tolerances import DTYPES, assert_kernels_close, tolerance

BIASED = Sequential(
    Conv((2, 3), w_std=1.4, b_std=0.2), Relu(), Conv(3), Dense(1.2), Relu(), GlobalAvgPool(), Dense(), Relu(), Dense()
)
NETWORKS = {
    "v": presets.cntk(4),
    "gap": presets.cntk(4, "gap"),
    "biased": BIASED,
    "mixed windows": Sequential(Conv(5), Relu(), Conv((4, 1), b_std=0.1), Relu(), Flatten(), Dense(), Relu(), Dense()),
}
SHAPE = (4, 5, 3)
# More than one group of left images, and no multiple of a lane width.
COUNT = 2 * LEFT_GROUP + 9

by_network = pytest.mark.parametrize("name", NETWORKS)
by_kind = pytest.mark.parametrize("kind", KINDS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES)


def draw_images(count, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@pytest.fixture(scope="module", params=DTYPES)
def whole(request):
    """Give images, an engine of all networks and kinds, and its symmetric result."""
    images = draw_images(COUNT)
    images[70] = images[3]  # a copy in another group
    engine = Engine(lower([(network, kind) for network in NETWORKS.values() for kind in KINDS], SHAPE), request.param)
    return images, engine, engine.evaluate(images)


@by_kind
@by_dtype
@by_network
def test_swapping_the_images_changes_only_rounding(name, dtype, kind):
    x, z = draw_images(5), draw_images(4, seed=1)
    forth = kernel_matrix(NETWORKS[name], x, z, kind=kind, dtype=dtype)
    back = kernel_matrix(NETWORKS[name], z, x, kind=kind, dtype=dtype)
    assert_kernels_close(forth, back.T, tolerance(dtype).kernel)


def test_kernel_matrices_are_positive_semidefinite(whole):
    _, engine, results = whole
    for values in results.astype(np.float64):
        assert np.array_equal(values, values.T)
        spectrum = np.linalg.eigvalsh(values)
        assert spectrum[0] > -tolerance(engine.dtype.name).kernel * spectrum[-1]


@by_kind
@by_dtype
@pytest.mark.parametrize("pooling", ["flatten", "gap"])
@pytest.mark.parametrize("factor", [2.0**-20, 0.3, 2.0, 1e6])
def test_without_biases_scaling_an_image_scales_the_kernel(factor, pooling, dtype, kind):
    x, z = draw_images(3).astype(np.float64), draw_images(4, seed=1)
    network = presets.cntk(5, pooling)
    plain = kernel_matrix(network, x, z, kind=kind, dtype=dtype)
    scaled = kernel_matrix(network, factor * x, z, kind=kind, dtype=dtype)
    assert_kernels_close(scaled / factor, plain, tolerance(dtype).kernel)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16))
def test_permuting_the_images_permutes_the_bits(whole, seed):
    images, engine, values = whole
    rows, columns = (np.random.default_rng((seed, k)).permutation(21) for k in range(2))
    # Rows from below all columns, so that the symmetric result has the same image on the left of every pair.
    permuted = engine.evaluate(images[100 + rows], images[columns])
    assert np.array_equal(permuted, values[:, 100 + rows[:, None], columns])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_tile_has_the_bits_of_the_whole(whole, data):
    images, engine, values = whole
    bounds = st.tuples(st.integers(0, COUNT), st.integers(0, COUNT)).map(sorted).filter(lambda ends: ends[0] < ends[1])
    (top, bottom), (left, right) = data.draw(bounds), data.draw(bounds)
    tile = engine.evaluate(images[top:bottom], images[left:right])
    below = np.arange(top, bottom)[:, None] >= np.arange(left, right)
    assert np.array_equal(tile[:, below], values[:, top:bottom, left:right][:, below])
    # Above the diagonal a pair is computed with its images swapped: a sum over offsets in another order.
    assert_kernels_close(tile, values[:, top:bottom, left:right], tolerance(engine.dtype.name).kernel)
    diagonal_tile = engine.evaluate(images[top:bottom])
    assert np.array_equal(diagonal_tile, values[:, top:bottom, top:bottom])


@by_dtype
def test_without_pooling_swapping_the_images_keeps_the_bits(dtype):
    images = draw_images(COUNT)
    engine = Engine(lower([(presets.cntk(4), "ntk")], SHAPE), dtype)
    assert np.array_equal(engine.evaluate(images[:20], images[40:]), engine.evaluate(images[40:], images[:20]).mT)


@by_network
def test_the_number_of_threads_changes_no_bit(whole, monkeypatch, name):
    images, engine, values = whole
    expected, dtype = values[2 * list(NETWORKS).index(name) + 1], engine.dtype.name
    for count in (1, 2, 5):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert np.array_equal(kernel_matrix(NETWORKS[name], images, dtype=dtype), expected)
        rectangle = kernel_matrix(NETWORKS[name], images[66:], images[:60], dtype=dtype)
        assert np.array_equal(rectangle, expected[66:, :60])


@pytest.mark.skipif(sys.platform == "win32", reason="compares processes of one POSIX host")
def test_another_process_has_the_same_bits(tmp_path):
    images = draw_images(20)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np\n"
        "from pipeline import kernel_matrix\n"
        "from pipeline.layers import presets\n"
        "x = np.load(sys.argv[1])\n"
        "sys.stdout.buffer.write(kernel_matrix(presets.cntk(4, 'gap'), x).tobytes())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "images.npy")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    printed = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    assert printed == kernel_matrix(presets.cntk(4, "gap"), images).tobytes()


def test_evaluate_self_is_the_diagonal_bit_for_bit(whole):
    images, engine, values = whole
    assert np.array_equal(engine.evaluate_self(images), np.einsum("rii->ri", values))
    assert np.array_equal(engine.evaluate_self(images[50:61]), np.einsum("rii->ri", values)[:, 50:61])


@by_dtype
def test_read_outs_of_one_program_have_the_bits_of_each_alone(dtype):
    x, z = draw_images(19), draw_images(11, seed=1)
    asked = [
        (presets.cntk(depth, pooling, trained_ends), kind)
        for depth in (2, 3, 6)
        for pooling in ("flatten", "gap")
        for trained_ends in (True, False)
        for kind in KINDS
    ]
    asked += [(network, kind) for network in NETWORKS.values() for kind in KINDS]
    together = Engine(lower(asked, SHAPE), dtype)
    for readout, symmetric, rectangle in zip(asked, together.evaluate(x), together.evaluate(x, z), strict=True):
        alone = Engine(lower([readout], SHAPE), dtype)
        assert np.array_equal(alone.evaluate(x)[0], symmetric)
        assert np.array_equal(alone.evaluate(x, z)[0], rectangle)


@by_dtype
def test_a_layer_that_is_also_read_out_has_the_bits_of_one_that_is_not(dtype):
    # A linear layer before a ReLU is fused with it, unless something else reads it.
    layers = [Conv(3, w_std=1.3, b_std=0.3), Relu(), Dense(0.9, 0.2), Relu()] * 2
    asked = [
        (Sequential(*layers[:count], end, Dense()), kind)
        for count in range(1, 9)
        for end in (Flatten(), GlobalAvgPool())
        for kind in KINDS
    ]
    vectors = [Dense(1.1, 0.3), Relu()] * 3
    asked += [(Sequential(Flatten(), *vectors[:count]), kind) for count in range(1, 7) for kind in KINDS]
    x = draw_images(9)
    together = Engine(lower(asked, SHAPE), dtype).evaluate(x)
    for readout, values in zip(asked, together, strict=True):
        assert np.array_equal(Engine(lower([readout], SHAPE), dtype).evaluate(x)[0], values)


@by_kind
@by_dtype
@pytest.mark.parametrize("pooling", ["flatten", "gap"])
def test_a_zero_image_has_a_zero_kernel_without_biases(pooling, dtype, kind):
    x = draw_images(4)
    x[1] = 0
    x[2, :, 3:] = 0  # and one with an empty half
    values = kernel_matrix(presets.cntk(5, pooling), x, kind=kind, dtype=dtype)
    assert not values[1].any()
    assert not values[:, 1].any()
    assert (values[[0, 2, 3], [0, 2, 3]] > 0).all()


@by_kind
@by_dtype
def test_a_zero_image_has_the_kernel_of_its_biases(dtype, kind):
    # Everywhere the same variance and correlation 1, also at positions that are not equal.
    x = draw_images(3)
    x[1] = 0
    values = kernel_matrix(BIASED, x, kind=kind, dtype=dtype)
    assert (np.diag(values) > 0).all()
    assert_kernels_close(values, reference.evaluate(BIASED, x, x, kind), tolerance(dtype).parallel)


@by_kind
@by_dtype
@by_network
def test_a_copy_of_an_image_has_exactly_its_diagonal_value(name, dtype, kind):
    x = draw_images(COUNT)
    copies = [0, 5, LEFT_GROUP + 6, COUNT - 1]
    x[copies] = x[0]
    values = kernel_matrix(NETWORKS[name], x, kind=kind, dtype=dtype)
    # Also across the two sides of a rectangle.
    assert (values[np.ix_(copies, copies)] == values[0, 0]).all()
    assert kernel_matrix(NETWORKS[name], x[:1], x[5:6].copy(), kind=kind, dtype=dtype) == values[0, 0]


@by_dtype
@pytest.mark.parametrize("pooling", ["flatten", "gap"])
def test_opposite_images_meet_in_no_neuron_of_a_shallow_network(pooling, dtype):
    # relu(w x) relu(-w x) = 0 and no neuron is active for both, at equal positions.
    x = draw_images(1)
    network = Sequential(Dense(), Relu(), Flatten() if pooling == "flatten" else GlobalAvgPool(), Dense())
    diagonal = kernel_matrix(network, x, dtype=dtype).item()
    if pooling == "gap":  # other positions do meet: pooling only has to be finite and below the diagonal
        assert abs(kernel_matrix(network, x, -x, dtype=dtype).item()) < diagonal
    else:
        assert abs(kernel_matrix(network, x, -x, dtype=dtype).item()) < tolerance(dtype).parallel * diagonal


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_diagonal_of_a_deep_network_is_exact(dtype):
    # Without exact correlations of 1 the float32 diagonal of CNTK-V at depth 21 is low by up to 4e-4.
    x = draw_images(2, shape=(32, 32, 3))
    network = presets.cntk(21)
    exact = np.diag(kernel_matrix(network, x, dtype="float64"))
    np.testing.assert_allclose(np.diag(kernel_matrix(network, x, dtype=dtype)), exact, rtol=1e-6)
    assert kernel_matrix(network, x[:1], x[:1], dtype=dtype).item() == pytest.approx(exact[0], rel=1e-6)


@by_kind
@by_dtype
@pytest.mark.parametrize("pooling", ["flatten", "gap"])
def test_multiples_of_an_image_have_multiples_of_its_diagonal(pooling, dtype, kind):
    # Correlations of 1 that are not those of a pixel with itself: all of a flat image's inner ones, too.
    x = draw_images(2, shape=(8, 8, 3)).astype(np.float64)
    x[1] = 0.7
    network = presets.cntk(11, pooling)
    diagonal = np.diag(kernel_matrix(network, x, kind=kind, dtype="float64"))
    multiples = np.diag(kernel_matrix(network, x, 0.3 * x, kind=kind, dtype=dtype))
    np.testing.assert_allclose(multiples, 0.3 * diagonal, rtol=tolerance(dtype).parallel)
