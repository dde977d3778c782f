"""What every kernel obeys: symmetry, definiteness, homogeneity, and the same bits however the work is cut."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tolerances import DTYPES, assert_kernels_close, tolerance

from cntk_pipeline import kernel_matrix
from cntk_pipeline.kernels import KINDS, CpuEvaluator, lower, memory
from cntk_pipeline.layers import (
    Attend,
    AvgPool,
    Bidirectional,
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Erf,
    Flatten,
    GlobalAvgPool,
    LastState,
    LayerNorm,
    LeakyRelu,
    LinearAttention,
    LocalAvgPool,
    Maxout,
    MaxPool,
    PositionalEmbedding,
    Product,
    Recurrent,
    Relu,
    Repeat,
    Residual,
    SelfAttention,
    Sequential,
    SumPool,
    presets,
)

AROUND = Conv(3, padding="CIRCULAR")
BLOCK = Residual(Sequential(Relu(), Conv(3, strides=2)), AvgPool(2, padding="SAME"))
HOMOGENEOUS = {
    "v": presets.cntk(4),
    "gap": presets.cntk(4, "gap"),
    "lap": presets.cntk(3, "lap1"),
    "strided": Sequential(Conv(3, strides=2), Relu(), Conv((2, 3), strides=(1, 2)), Relu(), GlobalAvgPool(), Dense()),
    "pooled": Sequential(
        Conv(3), Relu(), AvgPool(2, 1), Conv(3), LeakyRelu(0.2), SumPool(2, padding="SAME"), Conv(1), Relu(), Flatten()
    ),
    "circular": Sequential(AROUND, Relu(), AvgPool((2, 1), 1), AROUND, Relu(), GlobalAvgPool(), Dense()),
    "maximum": Sequential(
        *[Conv(3), MaxPool((1, 2)), Conv(3), MaxPool((2, 1), 1, "SAME"), Conv(2), Maxout()],
        *[Concatenate(AvgPool(2), AvgPool((2, 1), 2), 0.2), Dense(), Relu(), GlobalAvgPool(), Dense()],
    ),
    "residual": Sequential(Conv(3), Residual(Sequential(Relu(), Conv(3))), BLOCK, Relu(), GlobalAvgPool(), Dense()),
}
NETWORKS = HOMOGENEOUS | {
    "biased": Sequential(
        Conv((2, 3), w_std=1.4, b_std=0.2),
        Relu(),
        Conv(3),
        Dense(w_std=1.2),
        Relu(),
        GlobalAvgPool(),
        Dense(),
        Relu(),
        Dense(),
    ),
    "mixed windows": Sequential(Conv(5), Relu(), Conv((4, 1), b_std=0.1), Relu(), Flatten(), Dense(), Relu(), Dense()),
    "gated": Sequential(
        *[Conv(3, parameterization="standard"), Product(Sequential(Conv(3), LeakyRelu(0.1)), Conv(3, b_std=0.2))],
        *[Dense(parameterization="standard", fan_in=8), Repeat(Sequential(Relu(), Dense(w_std=0.5)), 3, inject=True)],
        *[Relu(), GlobalAvgPool(), Dense(b_std=0.1, rate=0.5)],
    ),
    "attention": Sequential(Conv(3, strides=2), LayerNorm(), SelfAttention(), Relu(), GlobalAvgPool(), Dense()),
    "transformer": presets.transformer(2, patch=(2, 1), position_std=0.7),
    "heads": Sequential(
        *[Conv(3, strides=2), LayerNorm(), LinearAttention(w_out_std=0.5), Attend(keys=PositionalEmbedding()), Dense()],
        *[Relu(), Flatten(), Dense()],
    ),
    "series": Sequential(
        Conv((1, 2)), Elementwise(np.sin, 32), AvgPool(2), Conv(1, b_std=0.3), Erf(), LocalAvgPool(1, True), Flatten()
    ),
}
STATES = Recurrent(Relu(), w_std=1.2, u_std=0.8)
HOMOGENEOUS_ROWS = {
    "last state": Sequential(STATES, LastState(), Dense()),
    "all times": Sequential(Conv((1, 2)), Bidirectional(STATES), GlobalAvgPool(), Dense()),
    "windows": Sequential(
        *[Conv((1, 3)), Relu(), AvgPool((1, 2)), Conv((1, 2)), MaxPool((1, 2), 1), Dense(), Relu()],
        *[GlobalAvgPool(), Dense()],
    ),
}
ROWS = HOMOGENEOUS_ROWS | {
    "equal times": Sequential(Recurrent(Erf(), w_std=0.7, b_std=0.3, backward=True), Flatten(), Dense()),
    "jump": Sequential(
        *[
            Conv((1, 3), b_std=0.2, parameterization="standard", rate=0.5),
            PositionalEmbedding(correlation="sinusoidal"),
        ],
        *[Relu(), Conv((1, 2)), Repeat(Sequential(Relu(), Conv((1, 2))), 2, jump=True)],
        *[PositionalEmbedding(w_std=0.7, correlation="exponential", length=2.0), Dense(), Relu(), Flatten(), Dense()],
    ),
}
"""Networks of sequences, which are images of one row."""
MASKED = Sequential(
    Conv(3), Relu(), Dropout(0.3), AvgPool(2, 1), Conv(3), Relu(), Dropout(0.5), GlobalAvgPool(), Dense()
)
SHAPE = (4, 5, 3)
# Three groups of left images, where a group is one block of lanes; no multiple of either.
COUNT = 41

by_network = pytest.mark.parametrize("name", NETWORKS)
by_homogeneous = pytest.mark.parametrize("name", HOMOGENEOUS)
by_kind = pytest.mark.parametrize("kind", KINDS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES)


def draw_images(count, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def small_groups():
    """Prepare 16 left images at a time, so that a few images are several groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "GROUP_BYTES", 1)
        yield


@pytest.fixture(scope="module", params=DTYPES)
def whole(request, small_groups):
    """Give images, an engine of all networks and kinds, and its symmetric result."""
    images = draw_images(COUNT)
    images[37] = images[3]  # a copy in another group
    found = CpuEvaluator(
        lower([(network, kind) for network in NETWORKS.values() for kind in KINDS], SHAPE), request.param
    )
    assert found.group_size == 16
    return images, found, found.evaluate(images)


def evaluate_both(network, x, z, dtype):
    """Evaluate both kinds of a network, in one pass: loops for the NNGP alone would have to be compiled too."""
    return CpuEvaluator(lower([(network, kind) for kind in KINDS], x.shape[1:]), dtype).evaluate(x, z)


@pytest.mark.slow
@by_dtype
@by_network
def test_swapping_the_images_changes_only_rounding(name, dtype):
    x, z = draw_images(5), draw_images(4, seed=1)
    for forth, back in zip(
        evaluate_both(NETWORKS[name], x, z, dtype), evaluate_both(NETWORKS[name], z, x, dtype), strict=True
    ):
        assert_kernels_close(forth, back.T, tolerance(dtype).kernel)


def test_kernel_matrices_are_positive_semidefinite(whole):
    _, found, results = whole
    for values in results.astype(np.float64):
        assert np.array_equal(values, values.T)
        spectrum = np.linalg.eigvalsh(values)
        assert spectrum[0] > -tolerance(found.dtype.name).kernel * spectrum[-1]
        assert spectrum[-1] > 0


@by_dtype
@by_homogeneous
@settings(max_examples=5, deadline=None, derandomize=True)
@given(exponent=st.floats(-9, 9))
def test_without_biases_scaling_an_image_scales_the_kernel(exponent, name, dtype):
    x, z = draw_images(3).astype(np.float64), draw_images(4, seed=1)
    factor = 2.0**exponent
    for plain, scaled in zip(
        evaluate_both(NETWORKS[name], x, z, dtype), evaluate_both(NETWORKS[name], factor * x, z, dtype), strict=True
    ):
        assert_kernels_close(scaled / factor, plain, tolerance(dtype).kernel)


@by_dtype
def test_normalised_networks_do_not_see_the_size_of_an_image(dtype):
    x, z = draw_images(3).astype(np.float64), draw_images(4, seed=1)
    plain, scaled = (evaluate_both(NETWORKS["attention"], k * x, z, dtype)[0] for k in (1, 8))
    # LayerNorm adds 1e-12 to every variance.
    assert_kernels_close(scaled, plain, max(1e-10, tolerance(dtype).kernel))


@pytest.mark.slow
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16))
def test_permuting_the_images_permutes_the_bits(whole, seed):
    images, found, values = whole
    rows, columns = (np.random.default_rng((seed, k)).permutation(20) for k in range(2))
    # Rows from below all columns, so that the symmetric result has the same image on the left of every pair.
    permuted = found.evaluate(images[21 + rows], images[columns])
    assert np.array_equal(permuted, values[:, 21 + rows[:, None], columns])


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_tile_has_the_bits_of_the_whole(whole, data):
    images, found, values = whole
    bounds = st.tuples(st.integers(0, COUNT), st.integers(0, COUNT)).map(sorted).filter(lambda ends: ends[0] < ends[1])
    (top, bottom), (left, right) = data.draw(bounds), data.draw(bounds)
    tile = found.evaluate(images[top:bottom], images[left:right])
    below = np.arange(top, bottom)[:, None] >= np.arange(left, right)
    assert np.array_equal(tile[:, below], values[:, top:bottom, left:right][:, below])
    # Above the diagonal a pair is computed with its images swapped: a sum over offsets in another order.
    for part, expected in zip(tile, values[:, top:bottom, left:right], strict=True):
        assert_kernels_close(part, expected, tolerance(found.dtype.name).kernel)
    diagonal_tile = found.evaluate(images[top:bottom])
    assert np.array_equal(diagonal_tile, values[:, top:bottom, top:bottom])


@pytest.mark.slow
@by_dtype
def test_groups_of_any_size_have_the_same_bits(dtype, monkeypatch):
    images = draw_images(COUNT)
    found = CpuEvaluator(lower([(network, "ntk") for network in (*NETWORKS.values(), MASKED)], SHAPE), dtype)
    sizes, results = [], []
    for group_bytes in (1, 70_000 * found.dtype.itemsize, 2**40):
        monkeypatch.setattr(memory, "GROUP_BYTES", group_bytes)
        sizes.append(found.group_size)
        results.append((found.evaluate(images), found.evaluate(images[20:], images[:30])))
    assert sizes == [16, 32, 1024]
    for result in results[1:]:
        assert all(map(np.array_equal, result, results[0]))


@by_dtype
def test_without_pooling_swapping_the_images_keeps_the_bits(dtype):
    images = draw_images(COUNT)
    found = CpuEvaluator(lower([(presets.cntk(4), "ntk")], SHAPE), dtype)
    assert np.array_equal(found.evaluate(images[:20], images[30:]), found.evaluate(images[30:], images[:20]).mT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gap", "circular", "residual", "series"])
def test_neither_threads_nor_pieces_change_a_bit(whole, monkeypatch, name):
    images, found, values = whole
    expected, dtype = values[2 * list(NETWORKS).index(name) + 1], found.dtype.name
    for count, seconds in ((1, 1e-9), (2, 1e-3), (5, 1e-9), (2, 60.0)):
        monkeypatch.setattr("cntk_pipeline.kernels.matrix.core_count", lambda count=count: count)
        monkeypatch.setattr("cntk_pipeline.kernels.pieces.PIECE_SECONDS", seconds)
        monkeypatch.setattr("cntk_pipeline.kernels.pieces.SHORTEST_SECONDS", seconds)
        assert np.array_equal(kernel_matrix(NETWORKS[name], images, dtype=dtype), expected)
        rectangle = kernel_matrix(NETWORKS[name], images[21:], images[:20], dtype=dtype)
        assert np.array_equal(rectangle, expected[21:, :20])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="compares processes of one POSIX host")
def test_another_process_has_the_same_bits(tmp_path):
    images = draw_images(20)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np\n"
        "from cntk_pipeline import kernel_matrix\n"
        "from cntk_pipeline.layers import presets\n"
        "x = np.load(sys.argv[1])\n"
        "sys.stdout.buffer.write(kernel_matrix(presets.cntk(4, 'gap'), x).tobytes())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "images.npy")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    printed = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    assert printed == kernel_matrix(presets.cntk(4, "gap"), images).tobytes()


def test_pairs_of_images_with_themselves_are_the_diagonal_bit_for_bit(whole):
    images, found, values = whole
    assert np.array_equal(found.evaluate_pairs(images), np.einsum("rii->ri", values))
    assert np.array_equal(found.evaluate_pairs(images[20:31]), np.einsum("rii->ri", values)[:, 20:31])


def test_pairs_are_entries_of_the_whole(whole):
    images, found, values = whole
    x, z = np.arange(COUNT), np.random.default_rng(3).permutation(COUNT)
    z[:3], z[-1], z[37] = x[:3], 0, 3  # images with themselves, and one with its copy
    pairs = found.evaluate_pairs(images[x], images[z])
    for part, expected in zip(pairs, values[:, x, z], strict=True):
        assert_kernels_close(part, expected, tolerance(found.dtype.name).kernel)
    equal = [0, 1, 2, 37]
    assert np.array_equal(pairs[:, equal], values[:, equal, equal])


@pytest.mark.slow
@by_dtype
def test_read_outs_of_one_program_have_the_bits_of_each_alone(dtype):
    x, z = draw_images(19), draw_images(11, seed=1)
    asked = [
        (presets.cntk(depth, pooling, trained_ends=trained_ends), kind)
        for depth in (2, 4)
        for pooling in ("flatten", "gap", "lap1")
        for trained_ends in (True, False)
        for kind in KINDS
    ]
    asked += [(network, "ntk") for network in NETWORKS.values()]
    together = CpuEvaluator(lower(asked, SHAPE), dtype)
    for readout, symmetric, rectangle in zip(asked, together.evaluate(x), together.evaluate(x, z), strict=True):
        alone = CpuEvaluator(lower([readout], SHAPE), dtype)
        assert np.array_equal(alone.evaluate(x)[0], symmetric)
        assert np.array_equal(alone.evaluate(x, z)[0], rectangle)


@by_dtype
def test_a_layer_that_is_also_read_out_has_the_bits_of_one_that_is_not(dtype):
    # Weights before an activation are fused with it, unless something else reads them.
    layers = [Conv(3, w_std=1.3, b_std=0.3), Relu(), Dense(w_std=0.9, b_std=0.2), Relu()] * 2
    asked = [
        (Sequential(*layers[:count], end, Dense()), kind)
        for count in range(1, 9)
        for end in (Flatten(), GlobalAvgPool())
        for kind in KINDS
    ]
    vectors = [Dense(w_std=1.1, b_std=0.3), Relu()] * 3
    asked += [(Sequential(Flatten(), *vectors[:count]), kind) for count in range(1, 7) for kind in KINDS]
    x = draw_images(9)
    together = CpuEvaluator(lower(asked, SHAPE), dtype).evaluate(x)
    for readout, values in zip(asked, together, strict=True):
        assert np.array_equal(CpuEvaluator(lower([readout], SHAPE), dtype).evaluate(x)[0], values)


@by_dtype
@by_homogeneous
def test_a_zero_image_has_a_zero_kernel_without_biases(name, dtype):
    x = draw_images(4)
    x[1] = 0
    x[2, :, 3:] = 0  # and one with an empty half
    for values in evaluate_both(NETWORKS[name], x, None, dtype):
        assert not values[1].any()
        assert not values[:, 1].any()
        assert (values[[0, 2, 3], [0, 2, 3]] > 0).all()


@by_dtype
def test_a_zero_image_has_the_kernel_of_its_biases_by_hand(dtype):
    # Around a circle there are no edges: everywhere the same variance and correlation 1, whatever the positions.
    network = Sequential(
        Conv(3, padding="CIRCULAR", w_std=1.5, b_std=0.5), Relu(), Conv(3, padding="CIRCULAR", b_std=0.4), Relu(),
        GlobalAvgPool(), Dense(w_std=2.0, b_std=0.1),
    )  # fmt: skip
    x = draw_images(3)
    x[1] = 0
    nngp = ntk = 0.25
    nngp, ntk = nngp / 2 + 0.16, ntk / 2 + nngp / 2 + 0.16
    nngp, ntk = 4 * nngp / 2 + 0.01, 4 * ntk / 2 + 4 * nngp / 2 + 0.01
    for kind, expected in (("nngp", nngp), ("ntk", ntk)):
        values = kernel_matrix(network, x, kind=kind, dtype=dtype)
        assert (np.diag(values) > 0).all()
        assert values[1, 1] == pytest.approx(expected, rel=tolerance(dtype).parallel)


@by_dtype
@by_network
def test_a_copy_of_an_image_has_exactly_its_diagonal_value(name, dtype):
    x = draw_images(COUNT)
    copies = [0, 5, 22, COUNT - 1]
    x[copies] = x[0]
    across = evaluate_both(NETWORKS[name], x[:1], x[5:6].copy(), dtype)
    for values, rectangle in zip(evaluate_both(NETWORKS[name], x, None, dtype), across, strict=True):
        assert (values[np.ix_(copies, copies)] == values[0, 0]).all()
        assert rectangle.item() == values[0, 0]


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


@by_dtype
def test_odd_networks_of_opposite_images_have_opposite_kernels(dtype):
    odd = Sequential(Conv(2), Erf(), AvgPool(2), Conv(1), Erf(), GlobalAvgPool(), Dense())
    x, z = draw_images(3), draw_images(4, seed=1)
    for plain, opposite in zip(*(evaluate_both(odd, k * x, z, dtype) for k in (1, -1)), strict=True):
        assert_kernels_close(opposite, -plain, tolerance(dtype).kernel)


@by_dtype
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


# Sequences.


def of_rows(name, dtype):
    """Give an evaluator of both kinds of a network, and more sequences than a group has."""
    sequences = draw_images(23, shape=(1, 7, 2))
    sequences[19] = sequences[3]
    return CpuEvaluator(lower([(ROWS[name], kind) for kind in KINDS], (1, 7, 2)), dtype), sequences


@by_dtype
@pytest.mark.parametrize("name", ROWS)
def test_kernels_of_sequences_are_symmetric_definite_and_the_same_bits_in_any_tile(name, dtype):
    found, x = of_rows(name, dtype)
    values = found.evaluate(x)
    assert np.array_equal(values, values.mT)
    for each in values.astype(np.float64):
        spectrum = np.linalg.eigvalsh(each)
        assert spectrum[0] > -tolerance(dtype).kernel * spectrum[-1]
        assert spectrum[-1] > 0
    assert np.array_equal(found.evaluate(x[15:], x[:9]), values[:, 15:, :9])
    assert np.array_equal(found.evaluate(x[5:]), values[:, 5:, 5:])
    assert np.array_equal(found.evaluate_pairs(x), np.einsum("rii->ri", values))
    assert (values[:, 19, 3] == values[:, 3, 3]).all()  # a copy, in another group
    order = np.random.default_rng(1).permutation(11)
    assert np.array_equal(found.evaluate(x[12 + order], x[order]), values[:, 12 + order[:, None], order])
    for forth, back in zip(found.evaluate(x[:5], x[7:10]), found.evaluate(x[7:10], x[:5]), strict=True):
        assert_kernels_close(forth, back.T, tolerance(dtype).kernel)


@by_dtype
@pytest.mark.parametrize("name", HOMOGENEOUS_ROWS)
def test_without_biases_scaling_a_sequence_scales_the_kernel_and_zeros_have_none(name, dtype):
    found, x = of_rows(name, dtype)
    for plain, scaled in zip(found.evaluate(x[:3], x[4:8]), found.evaluate(4 * x[:3], x[4:8]), strict=True):
        assert_kernels_close(scaled / 4, plain, tolerance(dtype).kernel)
    x[1] = 0
    values = found.evaluate(x[:3])
    assert not values[:, 1].any()
    assert (np.einsum("rii->ri", values)[:, [0, 2]] > 0).all()


# Dropout, which alone tells a sample from its copy.


@by_dtype
def test_dropout_changes_the_pairs_of_a_sample_with_itself_alone(dtype):
    x = draw_images(21)
    x[18] = x[2]
    kept = ~np.eye(21, dtype=bool)
    found = CpuEvaluator(lower([(MASKED, kind) for kind in KINDS], SHAPE), dtype)
    for own, others in zip(found.evaluate(x), found.evaluate(x, x.copy()), strict=True):
        below = np.tril(kept)
        assert np.array_equal(own[below], others[below])
        assert_kernels_close(own[kept], others[kept], tolerance(dtype).kernel)
        assert (np.diag(own) > 1.05 * np.diag(others)).all()
        assert own[18, 2] == own[2, 18] == others[18, 2] < own[2, 2] == own[18, 18]


@by_dtype
def test_behind_dropout_a_copy_is_as_good_as_a_neighbour(dtype):
    # Their masks differ, so their correlation is below 1, and is not made 1 because the images are equal.
    x = draw_images(3).astype(np.float64)
    x[1], x[2] = x[0], x[0] * (1 + 1e-6)
    network = Sequential(Conv(3), Relu(), Dropout(0.5), Conv(3), Relu(), Flatten(), Dense())
    for values in evaluate_both(network, x, None, dtype):
        assert values[1, 0] == pytest.approx(values[2, 0], rel=1e-4)
        assert values[1, 0] < 0.8 * values[0, 0]


@by_dtype
def test_dropout_before_the_last_layer_divides_the_diagonal_by_the_share_that_is_kept(dtype):
    body, end = (Conv(3), Relu(), Conv(3), Relu()), (Flatten(), Dense())
    x = draw_images(19)
    results = (evaluate_both(Sequential(*body, *mask, *end), x, None, dtype) for mask in ((), (Dropout(0.2),)))
    kept = ~np.eye(19, dtype=bool)
    for plain, masked in zip(*results, strict=True):
        assert np.array_equal(masked[kept], plain[kept])
        np.testing.assert_allclose(np.diag(masked), np.diag(plain) / 0.8, rtol=tolerance(dtype).kernel)


@by_dtype
def test_masked_tiles_and_pairs_have_the_bits_of_the_whole(dtype):
    x = draw_images(COUNT)
    found = CpuEvaluator(lower([(MASKED, kind) for kind in KINDS], SHAPE), dtype)
    values = found.evaluate(x)
    assert np.array_equal(found.evaluate(x[15:35]), values[:, 15:35, 15:35])
    assert np.array_equal(found.evaluate(x[20:], x[:20]), values[:, 20:, :20])
    assert np.array_equal(found.evaluate_pairs(x), np.einsum("rii->ri", values))
    # A copy of a sample is another sample.
    np.testing.assert_allclose(
        found.evaluate_pairs(x, x.copy()),
        np.einsum("rii->ri", found.evaluate(x, x.copy())),
        rtol=tolerance(dtype).kernel,
    )
    assert kernel_matrix(MASKED, x, dtype=dtype).tobytes() == values[1].tobytes()


def test_dropout_of_nothing_changes_nothing():
    x = draw_images(5)
    body = Conv(3), Relu(), Dropout(0.0), Conv(3), Relu(), Flatten()
    plain, masked = (kernel_matrix(Sequential(*layers), x) for layers in ((*body[:2], *body[3:]), body))
    assert np.array_equal(plain, masked)
