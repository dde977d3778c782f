"""Sequences of unequal lengths: each pair is that of the two sequences alone, whatever the array that holds them."""

from dataclasses import replace

import numpy as np
import pytest
from support.tolerances import DTYPES, assert_kernels_close, tolerance
from twin import reference

from cntk_pipeline import kernel_diagonal, kernel_matrices, kernel_matrix
from cntk_pipeline.errors import DataError, LayerError, NotAccurate, NotFinite
from cntk_pipeline.estimators import KernelClassifier, KernelRegressor
from cntk_pipeline.finite import build
from cntk_pipeline.kernels import CpuEvaluator, lower, lowering
from cntk_pipeline.kernels.cuda.supported import require_supported
from cntk_pipeline.kernels.graph import NetworkGraph
from cntk_pipeline.layers import (
    Abs,
    Attend,
    AvgPool,
    Bidirectional,
    Concatenate,
    Conv,
    Dense,
    Erf,
    Flatten,
    GlobalAvgPool,
    GlobalSumPool,
    LastState,
    Layer,
    LayerNorm,
    LinearAttention,
    LocalAvgPool,
    Masked,
    Maxout,
    MaxPool,
    Padded,
    Polynomial,
    PositionalEmbedding,
    Presence,
    Product,
    Recurrent,
    Relu,
    Repeat,
    Rescale,
    Residual,
    SelfAttention,
    Sequential,
    SumPool,
    Windows,
)
from cntk_pipeline.sequences import pad

RNG = np.random.default_rng(4)
SEQUENCES = [RNG.standard_normal((steps, 2)).astype(np.float32) for steps in (3, 5, 1, 4)]
SEQUENCES += [SEQUENCES[0], SEQUENCES[1][:3]]  # one again, and the beginning of another
X = pad(SEQUENCES)

FORWARD = Recurrent(Relu(), w_std=1.2, u_std=0.8, b_std=0.3)
BACKWARD = replace(FORWARD, backward=True)
CONV = Sequential(Conv((1, 3), b_std=0.3), Relu(), Conv(2, w_std=1.3, b_std=0.2), Relu())
KEYS = Sequential(Conv((1, 2), b_std=0.4))

BODIES = {
    "last state": [FORWARD, BACKWARD, LastState()],
    "first state": [BACKWARD, LastState(backward=True)],
    "both directions": [Bidirectional(FORWARD), GlobalAvgPool()],
    # Its states are not 0 where their input is.
    "equal times": [Recurrent(Polynomial((0.5, 0.4)), w_std=0.7, b_std=0.3, backward=True), Flatten()],
    "windows": [CONV, GlobalAvgPool()],
    "windows and sums": [CONV, FORWARD, GlobalSumPool()],
    "branches": [
        *[Conv((1, 3), b_std=0.3), Product(Sequential(Relu(), Conv((1, 2), b_std=0.3)), Conv((1, 3), b_std=0.4))],
        *[Dense(b_std=0.2), Concatenate(Relu(), Sequential(Conv((1, 2), b_std=0.4), Abs()), 0.3)],
        *[Conv((1, 3)), Relu(), GlobalAvgPool()],
    ],
    "repeated": [
        *[Conv((1, 3), b_std=0.3), Repeat(Sequential(Relu(), Conv((1, 2), b_std=0.2)), 2, inject=True), Conv((1, 2))],
        *[Repeat(Sequential(Relu(), Conv((1, 3), b_std=0.2)), 2, jump=True), Dense(), Relu(), Flatten()],
    ],
    "positions": [
        *[Conv((1, 3), b_std=0.3), PositionalEmbedding(w_std=0.5, correlation="sinusoidal"), Relu(), Dense(b_std=0.2)],
        *[PositionalEmbedding(w_std=0.7, correlation="exponential", length=2.0, trained=False), Relu(), Flatten()],
    ],
    "maxout and standard parameters": [
        *[Conv((1, 3), b_std=0.3, parameterization="standard", rate=0.5), Maxout()],
        *[Conv((1, 2), b_std=0.2, parameterization="standard", fan_in=16), Relu(), GlobalAvgPool()],
    ],
    "first weights at the end": [GlobalAvgPool(), Dense(b_std=0.2), Relu()],
    "attention": [CONV, SelfAttention(b_std=0.1), Relu(), GlobalAvgPool()],
    "attention without a softmax": [CONV, Attend(mechanism="abs", plus_identity=True, keys=KEYS), GlobalAvgPool()],
    "linear attention": [CONV, LinearAttention(b_std=0.1, keys=KEYS), Relu(), GlobalAvgPool()],
}


def network_of(body):
    return Sequential(Padded(), *BODIES[body], Dense(b_std=0.1))


@pytest.mark.parametrize("body", BODIES)
def test_pairs_are_those_of_the_naive_twin_without_padding(body):
    network = network_of(body)
    expected = reference.evaluate_sequences(network, SEQUENCES, SEQUENCES)
    for dtype in DTYPES:
        found = kernel_matrices([network], X, kinds=("nngp", "ntk"), dtype=dtype)[0]
        for values, truth, bound in zip(found, expected, ("kernel", "golden"), strict=True):
            assert_kernels_close(values, truth, getattr(tolerance(dtype), bound))
        assert (found[:, 0, 0] == found[:, 4, 4]).all()  # the same sequence
        assert (found[:, 0, 4] == found[:, 0, 0]).all()


@pytest.mark.parametrize("body", ["both directions", "equal times", "windows", "attention"])
def test_laws_of_padding(body):
    network = network_of(body)
    values = kernel_matrix(network, X, dtype="float64")
    # More absent steps change nothing, on either side.
    np.testing.assert_allclose(kernel_matrix(network, pad(SEQUENCES, 9), dtype="float64"), values, rtol=1e-13)
    other = kernel_matrix(network, pad(SEQUENCES[:3]), pad(SEQUENCES, 7), dtype="float64")
    np.testing.assert_allclose(other, values[:3], rtol=1e-13)
    np.testing.assert_array_equal(kernel_diagonal(network, X, dtype="float64"), np.diagonal(values))
    # The order of the sequences changes their order alone.
    order = [3, 0, 5, 1, 4, 2]
    turned = kernel_matrix(network, X[order], dtype="float64")
    np.testing.assert_allclose(turned, values[np.ix_(order, order)], rtol=1e-13)
    # Where no step is absent, the network without Padded has the same values.
    bare = Sequential(*network.layers[1:])
    whole = X[[1, 1]] * np.float32([[[1]], [[-0.5]]])
    expected = kernel_matrix(bare, whole[:, None], dtype="float64")
    np.testing.assert_allclose(kernel_matrix(network, whole, dtype="float64"), expected, rtol=1e-13)
    assert np.linalg.eigvalsh(values[[0, 1, 2, 3, 5]][:, [0, 1, 2, 3, 5]]).min() > 0


LAST_STATES = {
    "last state": BODIES["last state"],
    "windows and sums of branches": [
        *[Conv((1, 3), b_std=0.3), Residual(Sequential(Relu(), Conv((1, 2), b_std=0.2))), LayerNorm(), Erf()],
        *[Repeat(Sequential(Conv((1, 3)), Relu()), 2), FORWARD, LastState()],
    ],
    "series": [Recurrent(Polynomial((0.5, 0.4)), w_std=0.7, b_std=0.3), LastState(), Dense(), Polynomial((0.1, 0.5))],
    "both directions": [
        Bidirectional(FORWARD),
        Concatenate(Sequential(FORWARD, LastState()), Sequential(FORWARD, LastState())),
    ],
    "product": [FORWARD, Product(Dense(), Sequential(Dense(), Relu())), BACKWARD, LastState()],
}


@pytest.mark.parametrize("body", LAST_STATES)
def test_last_states_have_the_bits_of_all_offsets_from_one(body, monkeypatch):
    network = Sequential(Padded(), *LAST_STATES[body], Dense(b_std=0.1))
    asked = [(network, kind) for kind in ("nngp", "ntk")]
    assert lower(asked, (1, 5, 2)).lies_at_end
    found = {dtype: kernel_matrices([network], X, kinds=("nngp", "ntk"), dtype=dtype) for dtype in DTYPES}
    entries = lower(asked, (1, 40, 2)).plane_entries
    expected = reference.evaluate_sequences(network, SEQUENCES, SEQUENCES)
    assert_kernels_close(found["float64"][0], np.array(expected), tolerance("float64").golden)
    monkeypatch.setattr(lowering, "compares_last_states", lambda networks: False)
    for dtype, values in found.items():
        np.testing.assert_array_equal(kernel_matrices([network], X, kinds=("nngp", "ntk"), dtype=dtype), values)
    assert lower(asked, (1, 40, 2)).plane_entries > 15 * entries


def test_what_compares_other_steps_lies_at_the_beginning():
    for body in ("first state", "both directions", "equal times", "windows", "attention"):
        assert not lower([(network_of(body), "ntk")], (1, 5, 2)).lies_at_end
    both = [(network_of("last state"), "ntk"), (network_of("equal times"), "ntk")]
    assert not lower(both, (1, 5, 2)).lies_at_end
    together = kernel_matrices([network for network, _ in both], X, dtype="float64")
    for (network, _), values in zip(both, together[:, 0], strict=True):
        np.testing.assert_array_equal(kernel_matrix(network, X, dtype="float64"), values)


def test_nan_of_any_sign_and_payload_is_one():
    other = np.where(np.isnan(X), -np.float32(np.nan), X)
    assert other.tobytes() != X.tobytes()
    network = network_of("last state")
    np.testing.assert_array_equal(kernel_matrix(network, X, other), kernel_matrix(network, X, X))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sequences_that_are_parallel_step_by_step_keep_their_accuracy(dtype):
    # One channel has correlations of exactly +-1 before windows; absent steps are not among those compared.
    series = [RNG.standard_normal((steps, 1)).astype(np.float32) for steps in (12, 5, 5)]
    series[2] = series[1] * np.float32(1.5)
    body = [Dense(b_std=0.1), LayerNorm(), Relu(), Conv((1, 3), b_std=0.1), Relu(), GlobalAvgPool(), Dense()]
    expected = reference.evaluate_sequences(Sequential(*body), series, series)[1]
    found = kernel_matrix(Sequential(Padded(), *body), pad(series, 40), dtype=dtype)
    assert_kernels_close(found, expected, tolerance(dtype).parallel)


def test_estimators_take_absent_steps():
    y = np.array([0, 1, 0, 1, 0, 1])
    network = network_of("last state")
    model = KernelClassifier(network).fit(X, y)
    assert model.predict(X[:2]).shape == (2,)
    np.testing.assert_allclose(KernelRegressor(network, ridge=1e-3).fit(X, 1.0 * y).predict(X[1:3]), y[1:3], atol=0.1)
    with pytest.raises(ValueError, match="NaN"):
        KernelClassifier(Sequential(*network.layers[1:])).fit(X, y)


def test_networks_that_do_not_know_absent_steps_are_refused():
    for networks in (
        [Sequential(FORWARD, LastState(), Dense())],
        [network_of("windows"), Sequential(FORWARD, Flatten())],
    ):
        with pytest.raises(LayerError, match=r"x1: a sequence has absent steps, .*: put Padded\(\) first in each"):
            kernel_matrices(networks, X)
    both = [(network_of("windows"), "ntk"), (Sequential(FORWARD, Flatten()), "ntk")]
    with pytest.raises(LayerError, match=r"a sequence has absent steps"):
        CpuEvaluator(lower(both, (1, 5, 2))).evaluate(X[:, None])


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (AvgPool((1, 2)), r"layer 2 \(AvgPool\) .*does not take sequences of unequal lengths"),
        (SumPool((1, 2)), r"layer 2 \(SumPool\) .*does not take sequences of unequal lengths"),
        (MaxPool((1, 2)), r"layer 2 \(MaxPool\) .*does not take sequences of unequal lengths"),
        (LocalAvgPool(1), r"layer 2 \(LocalAvgPool\) .*does not take sequences of unequal lengths"),
        (Rescale("pixels"), r"layer 2 \(Rescale\) .*does not take sequences of unequal lengths"),
        (Conv((1, 3), strides=(1, 2)), r"layer 2 \(Conv\) .*take strides=1 and padding=\"SAME\""),
        (Conv((1, 3), padding="VALID"), r"layer 2 \(Conv\) .*take strides=1 and padding=\"SAME\""),
        (Conv((1, 3), padding="CIRCULAR"), r"layer 2 \(Conv\) .*take strides=1 and padding=\"SAME\""),
        (Padded(), r"Padded .*is the first layer of the whole network: put it first"),
    ],
)
def test_layers_that_would_count_absent_steps_are_refused_by_name_and_place(layer, said):
    with pytest.raises(LayerError, match=said):
        kernel_matrix(Sequential(Padded(), Dense(), layer, GlobalAvgPool(), Dense()), X)


def test_padded_is_first_and_of_sequences():
    branch = Sequential(Padded(), FORWARD, LastState())
    for network in (Sequential(FORWARD, branch), Concatenate(branch, branch)):
        with pytest.raises(LayerError, match=r"Padded .*is the first layer of the whole network: put it first"):
            kernel_matrix(Sequential(network, Dense()), X[:2])
    with pytest.raises(LayerError, match=r"Padded needs sequences, which are images of one row"):
        kernel_matrix(network_of("windows"), np.ones((2, 3, 3, 1)))
    with pytest.raises(LayerError, match="Flatten of sequences of unequal lengths needs infinitely many channels"):
        kernel_matrix(Sequential(Padded(), Flatten(), Dense()), X)


def test_a_layer_of_the_user_that_sums_over_absent_steps_is_refused():
    graph = NetworkGraph()
    steps = graph.apply(
        graph.weigh(graph.pad(graph.add_input((1, 5), 1.0), Presence(False)), *2 * [Windows.single(1)], 1.0), Relu()
    )
    whole, window = Windows.whole(5), Windows.place(5, 3, 1, "SAME")
    for mix in (
        lambda: graph.pool(steps, Windows.whole(1), whole),
        lambda: graph.trace(steps, 1.0),
        lambda: graph.total(steps),
        lambda: graph.weigh(steps, Windows.single(1), window, 1.0),
        lambda: graph.recur(steps, Relu(), 1.0, 1.0),
        lambda: graph.attend(steps, 1.0),
    ):
        with pytest.raises(LayerError, match=r"does not know that some may be absent: call Graph.gate"):
            mix()


def test_arrays_that_are_no_padded_sequences_are_refused_with_the_place():
    network = network_of("last state")
    for steps, channels, said in (
        ([2], [0, 1], r"x1: sequence 1: step 2 is absent, and a later one is there"),
        ([4], [1], r"x1: sequence 1: at step 4 some channels are NaN and others are not"),
        (range(5), [0, 1], r"x1: sequence 1: no step is present: leave it out"),
    ):
        bad = X.copy()
        bad[1, list(steps)] = np.where(np.isin([0, 1], channels), np.nan, bad[1, list(steps)])
        with pytest.raises(DataError, match=said):
            kernel_matrix(network, bad)
    bad = X.copy()
    bad[1, 1, 1] = np.inf
    with pytest.raises(DataError, match=r"x1 holds inf at index \(1, 0, 1, 1\): inputs must be finite"):
        kernel_matrix(network, bad)


def test_flips_and_cards_are_refused():
    network = network_of("windows")
    with pytest.raises(LayerError, match="averaging over flips needs a network that does not tell left from right"):
        kernel_matrix(network, X, flips=True)
    asked = [(network, "ntk")]
    with pytest.raises(LayerError, match=r'"cuda" cannot compute layer .*input has its own positions that are there'):
        require_supported(lower(asked, (1, 5, 2)), asked, (1, 5, 2))


@pytest.mark.slow
def test_wide_finite_networks_at_the_length_of_each_sequence_have_these_kernels():
    import torch

    network = network_of("both directions")
    bare, draws = Sequential(*network.layers[1:]), 24
    expected = kernel_matrix(network, X[:3], kind="nngp", dtype="float64")
    found = np.empty((draws, 3, 3))
    for draw in range(draws):
        outputs = [
            build(bare, 512, (1, len(each), 2), seed=draw)(torch.tensor(each[None, None], dtype=torch.float64))
            for each in SEQUENCES[:3]
        ]
        rows = torch.cat(outputs).detach().numpy()
        found[draw] = rows @ rows.T / rows.shape[1]
    deviation = found.std(0, ddof=1) / draws**0.5
    assert (np.abs(found.mean(0) - expected) < 4 * deviation).all()
    assert (deviation < 0.05 * expected.max()).all()


@pytest.mark.parametrize("presence", [Padded(), Masked()])
def test_inputs_whose_squares_are_no_numbers_of_the_dtype_are_refused_beside_absent_ones(presence: Layer) -> None:
    network = Sequential(presence, Conv((1, 3), b_std=0.1), Relu(), GlobalAvgPool(), Dense(b_std=0.1))
    x = np.random.default_rng(0).standard_normal((4, 1, 6, 2))
    x[1:3, :, 4:] = np.nan
    x[2] *= 1e-46
    with pytest.raises(NotAccurate, match=r"^image 2 holds no number beyond .*e-46, whose square is 0 in float32"):
        kernel_matrix(network, x)
    assert np.isfinite(kernel_matrix(network, x, dtype="float64")).all()
    x[2] *= 1e91
    with pytest.raises(NotFinite, match=r"^image 2 holds a number of size .*, above 3e\+38, the largest of float32"):
        kernel_matrix(network, x)
