"""Finite networks layer by layer: against NumPy, where a layer is a formula, and what is refused."""

import importlib.util
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import special
from support.graphs import draw_graphs
from twin.reference import place, two

from cntk_pipeline import finite, layers
from cntk_pipeline.errors import ConfigError, DataError, LayerError
from cntk_pipeline.finite.absent import Inputs
from cntk_pipeline.finite.activations import ACTIVATIONS, ELEMENTWISE
from cntk_pipeline.finite.builders import BUILDERS
from cntk_pipeline.graphs import pack
from cntk_pipeline.layers import LAYERS, Conv, Dense, Flatten, GlobalAvgPool, Relu, Residual, Sequential
from cntk_pipeline.layers.attention import MECHANISMS
from cntk_pipeline.layers.series import FUNCTIONS
from cntk_pipeline.sequences import pad

X = np.random.default_rng(5).standard_normal((2, 5, 7, 3))


def evaluate(network, x, width=4, seed=0):
    module = finite.build(network, width, x.shape[1:], seed=seed)
    return module, module(torch.tensor(x)).detach().numpy()


def weights_of(module):
    return {name.rpartition(".")[2]: values.detach().numpy() for name, values in module.state_dict().items()}


def test_every_layer_has_its_translation():
    assert {*LAYERS.values(), Sequential} == BUILDERS.keys() | ACTIVATIONS.keys()
    assert not BUILDERS.keys() & ACTIVATIONS.keys()
    assert ELEMENTWISE.keys() == FUNCTIONS.keys()


# Absent positions.

SEQUENCES = [np.random.default_rng(steps).standard_normal((steps, 2)) for steps in (3, 5, 1, 4)]
RECURRENT = layers.Recurrent(Relu(), w_std=1.2, u_std=0.8, b_std=0.3)
KEYS = Sequential(Conv((1, 2), b_std=0.4))
STATES = {
    "last states": [RECURRENT, layers.Recurrent(Relu(), b_std=0.2), layers.LastState()],
    "first states": [layers.Recurrent(Relu(), b_std=0.2, backward=True), layers.LastState(backward=True)],
    "both directions": [layers.Bidirectional(RECURRENT), GlobalAvgPool()],
    "windows": [Conv((1, 3), b_std=0.3), Relu(), Conv(2, b_std=0.2), Relu(), layers.GlobalSumPool()],
    "attention": [Dense(b_std=0.4), layers.SelfAttention(b_std=0.1), Relu(), GlobalAvgPool()],
    "other attention": [KEYS, layers.Attend(mechanism="abs", plus_identity=True, keys=KEYS), GlobalAvgPool()],
    "linear attention": [KEYS, layers.LinearAttention(b_std=0.1, keys=KEYS), GlobalAvgPool()],
    "jumps": [Dense(), layers.Repeat(Sequential(Relu(), KEYS), 2, jump=True), GlobalAvgPool()],
}


@pytest.mark.parametrize("body", STATES)
def test_padded_sequences_have_the_outputs_that_they_have_alone(body):
    network = Sequential(*STATES[body], Dense(b_std=0.1))
    padded = finite.build(Sequential(layers.Padded(), *network.layers), 6, (1, 7, 2), seed=1)
    found = padded(torch.tensor(pad(SEQUENCES, 7).astype(np.float64)[:, None]))
    for each, values in zip(SEQUENCES, found, strict=True):
        alone = finite.build(network, 6, (1, len(each), 2), seed=1)
        x = pad([each]).astype(np.float64)  # rounded as that array
        torch.testing.assert_close(alone(torch.tensor(x[:, None]))[0], values, rtol=1e-12, atol=1e-12)


def test_steps_that_are_laid_side_by_side_are_divided_by_the_root_of_their_number():
    body = Sequential(Conv((1, 3), b_std=0.3), Relu())
    padded = finite.build(Sequential(layers.Padded(), body, Flatten()), 6, (1, 7, 2), seed=1)
    found = padded(torch.tensor(pad(SEQUENCES, 7).astype(np.float64)[:, None])).reshape(4, 6, 7).detach().numpy()
    for each, values in zip(SEQUENCES, found, strict=True):
        steps = len(each)
        alone = finite.build(body, 6, (1, steps, 2), seed=1)(torch.tensor(pad([each]).astype(np.float64)[:, None]))
        expected = alone[0, 0].detach().numpy().T  # what follows divides by the root of 7
        np.testing.assert_allclose(values[:, :steps] / 7**0.5, expected / steps**0.5, rtol=1e-12, atol=1e-12)
        assert not values[:, steps:].any()


FRAME = np.random.default_rng(3).standard_normal((2, 5, 7, 3))
FRAME[0, 3:], FRAME[0, :, 4:] = np.nan, np.nan


@pytest.mark.parametrize(
    "body",
    [
        [Conv(3, b_std=0.3), Relu(), Conv((3, 2), b_std=0.2), Relu(), GlobalAvgPool()],
        [Conv(3, b_std=0.3), Relu(), layers.LocalAvgPool(1, normalize_edges=True), Conv(3), layers.GlobalSumPool()],
        [Conv(3, b_std=0.3), Residual(Sequential(Relu(), Conv(3))), layers.LocalAvgPool(1), GlobalAvgPool()],
        [Conv(3, b_std=0.3), layers.AvgPool(1, 2), Conv(2, b_std=0.2), GlobalAvgPool()],
    ],
)
def test_an_image_in_a_larger_frame_has_the_outputs_that_it_has_alone(body):
    network = Sequential(*body, Dense(b_std=0.1))
    framed = finite.build(Sequential(layers.Masked(), *network.layers), 6, FRAME.shape[1:], seed=1)
    found = framed(torch.tensor(FRAME))
    for x, values in zip((FRAME[:1, :3, :4], FRAME[1:]), found, strict=True):
        alone = finite.build(network, 6, x.shape[1:], seed=1)
        torch.testing.assert_close(alone(torch.tensor(x))[0], values, rtol=1e-12, atol=1e-12)


def test_what_is_read_at_absent_positions_is_nothing_and_bad_inputs_are_refused_with_the_place():
    module = finite.build(Sequential(layers.Masked(), Conv(3, strides=2, b_std=0.3)), 4, FRAME.shape[1:], seed=0)
    found = module(torch.tensor(FRAME)).detach().numpy()
    # The middles of windows lie at rows 0, 2, 4 and columns 0, 2, 4, 6.
    there = np.zeros((3, 4), bool)
    there[:2, :2] = True
    np.testing.assert_array_equal(np.any(found[0], axis=-1), there)
    assert found[1].any(-1).all()
    bad = FRAME.copy()
    bad[1, 2, 3, 1] = np.nan
    with pytest.raises(DataError, match="image 1: at row 2, column 3 some channels are NaN and others are not"):
        module(torch.tensor(bad))
    sequences = pad(SEQUENCES)
    sequences[1, 2] = np.nan
    with pytest.raises(DataError, match="sequence 1: step 2 is absent, and a later one is there"):
        finite.build(Sequential(layers.Padded(), RECURRENT), 4, (1, 5, 2))(torch.tensor(sequences[:, None]))


def test_the_input_and_all_blocks_lie_side_by_side_behind_jumps():
    module, found = evaluate(
        Sequential(Dense(), layers.Repeat(Sequential(layers.Maxout(), Dense()), 2, jump=True), Dense()), X[:, 0, 0]
    )
    body, last = module.body[1], module.body[2]
    x = module.body[0](torch.tensor(X[:, 0, 0]))
    first = body.blocks[0](x)
    joined = torch.cat([x, first, body.blocks[1](first)], 1)
    # Three parts of equal width: the layer behind divides by all channels, and their covariances add up.
    assert last.weight.shape == (4, 12)
    expected = joined @ last.weight.mT / 4**0.5
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-12)
    unequal = layers.Repeat(Sequential(Dense(), layers.Maxout()), 2, jump=True)
    module, found = evaluate(Sequential(Dense(), unequal), X[:, 0, 0])
    joined = module.body[1].blocks[0](module.body[0](torch.tensor(X[:, 0, 0]))).detach().numpy()
    np.testing.assert_allclose((found[:, 4:6] ** 2).sum(1) / 8, (joined**2).sum(1) / 2, rtol=1e-12)


# Graphs.


@pytest.mark.parametrize("scaling", ["sum", "degree"])
@pytest.mark.parametrize("join", [layers.GlobalSumPool(), layers.GlobalAvgPool()])
def test_the_nodes_of_graphs_see_their_neighbours_and_those_that_fill_up_are_nothing(scaling, join):
    drawn = draw_graphs([5, 1 + 1, 8], features=3, seed=2)
    packed = pack([a for a, _ in drawn], [f for _, f in drawn])
    graph_conv = layers.GraphConv(scaling, w_std=1.3, b_std=0.7)
    network = Sequential(Dense(b_std=0.4), graph_conv, Relu(), layers.Aggregate(scaling))
    shape = packed.shape[1:]
    module = finite.build(network, 4, shape, seed=3)
    joined = finite.build(Sequential(*network.layers, join), 4, shape, seed=3)
    found = module(torch.tensor(packed, dtype=torch.float64)).detach().numpy()
    vectors = joined(torch.tensor(packed, dtype=torch.float64)).detach().numpy()
    assert found.shape == (3, 8, 4)
    first, second = module.body[0], module.body[1][1]
    weights = [each.weight.detach().numpy().reshape(4, -1) for each in (first, second)]
    biases = [each.bias.detach().numpy() for each in (first, second)]
    for number, (adjacency, features) in enumerate(drawn):
        mixing = adjacency + np.eye(len(adjacency))
        if scaling == "degree":
            mixing /= mixing.sum(1, keepdims=True)
        expected = features @ weights[0].T / np.sqrt(3) + 0.4 * biases[0]
        expected = 1.3 / np.sqrt(4) * mixing @ expected @ weights[1].T + 0.7 * biases[1]
        expected = mixing @ np.maximum(expected, 0)
        np.testing.assert_allclose(found[number, : len(expected)], expected, rtol=1e-12, atol=1e-12)
        assert not found[number, len(expected) :].any()
        total = expected.sum(0) if join == layers.GlobalSumPool() else expected.mean(0)
        np.testing.assert_allclose(vectors[number], total, rtol=1e-12, atol=1e-12)
    assert finite.count_weights(network, 4, shape) == (4 * 3 + 4 + 4 * 4 + 4,) * 2


# Layers with weights.


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize(("window", "strides"), [(3, 1), ((2, 3), (2, 1)), ((1, 4), 3), (1, 2)])
def test_a_convolution_sums_over_its_windows(padding, window, strides):
    layer = Conv(window, strides=strides, padding=padding, w_std=1.3, b_std=0.7)
    module, found = evaluate(layer, X)
    weight, bias = (weights_of(module)[name] for name in ("weight", "bias"))
    # `size` stands for what is outside, where a frame of zeros lies.
    framed = np.pad(X, [(0, 0), (0, 1), (0, 1), (0, 0)])
    rows, columns = (place(*each, padding) for each in zip(X.shape[1:3], two(window), two(strides), strict=True))
    patches = framed[:, rows[:, :, None, None], columns[None, None]]  # n, row, i, column, j, channel
    expected = 1.3 / np.sqrt(weight[0].size) * np.einsum("nricjk,okij->nrco", patches, weight) + 0.7 * bias
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_dense_layer_is_the_same_at_every_pixel():
    layer = Dense(w_std=1.3, b_std=0.7)
    module, found = evaluate(layer, X)
    weight, bias = (weights_of(module)[name] for name in ("weight", "bias"))
    expected = 1.3 / np.sqrt(3) * X @ weight.reshape(4, 3).T + 0.7 * bias
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    module, found = evaluate(layer, X[:, 0, 0])
    expected = 1.3 / np.sqrt(3) * X[:, 0, 0] @ weights_of(module)["weight"].T + 0.7 * weights_of(module)["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_attention_mixes_positions_by_the_softmax_of_queries_and_keys():
    layer = layers.SelfAttention(w_query_std=1.5, w_key_std=0.8, w_value_std=1.2, w_out_std=0.9, b_std=0.3)
    module, found = evaluate(layer, X)
    held = weights_of(module)
    assert np.array_equal(held["query"], held["key"])
    x = X.reshape(2, 35, 3)
    logits = 1.5 * 0.8 / 3 * (x @ held["query"].T) @ (x @ held["key"].T).transpose(0, 2, 1) / 4
    mixed = special.softmax(logits, 2) @ (1.2 / np.sqrt(3) * x @ held["value"].T)
    expected = 0.9 / np.sqrt(4) * mixed @ held["out"].T + 0.3 * held["bias"]
    np.testing.assert_allclose(found.reshape(2, 35, 4), expected, rtol=1e-10)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_attention_without_weights_mixes_positions_by_products_of_their_channels(mechanism):
    keys = layers.Rescale(4.0)
    layer = layers.Attend(gain=0.7, keys=keys, mechanism=mechanism, plus_identity=True)
    _, found = evaluate(layer, X)
    x = X.reshape(2, 35, 3)
    logits = 0.7 * 4.0 / 3 * x @ x.transpose(0, 2, 1)
    functions = {"softmax": lambda v: special.softmax(v, 2), "identity": np.array, "abs": np.abs}
    attention = functions.get(mechanism, lambda v: np.maximum(v, 0))(logits)
    np.testing.assert_allclose(found.reshape(2, 35, 3), attention @ x + x, rtol=1e-10)


def test_heads_of_one_channel_multiply_queries_by_what_all_positions_hold():
    layer = layers.LinearAttention(w_query_std=1.5, w_key_std=0.8, w_value_std=1.2, w_out_std=0.9, b_std=0.3)
    module, found = evaluate(layer, X)
    held, x = weights_of(module), X.reshape(2, 35, 3)
    q, k, v = (np.einsum("npc,hc->nph", x, held[name]) for name in ("query", "key", "value"))
    heads = 1.5 * 0.8 * 1.2 / 3**1.5 * np.einsum("nih,njh,njh->nih", q, k, v)
    expected = 0.9 / np.sqrt(4) * heads @ held["out"].T + 0.3 * held["bias"]
    np.testing.assert_allclose(found.reshape(2, 35, 4), expected, rtol=1e-10)


def test_vectors_of_positions_are_added_with_their_covariance():
    layer = layers.PositionalEmbedding(w_std=1.5, correlation="exponential", length=3.0)
    network = Sequential(Dense(), layer)
    drawn = []
    for seed in range(3):
        module, found = evaluate(network, X, width=2000, seed=seed)
        weight, bias = (weights_of(module)[name] for name in ("weight", "bias"))
        added = found - X @ weight.reshape(-1, 3).T / np.sqrt(3) - 0 * bias
        np.testing.assert_allclose(added[0], added[1], atol=1e-10)  # the same for all images
        drawn.append(added[0].reshape(35, -1))
    vectors = np.concatenate(drawn, 1)
    rows, columns = (index.ravel() for index in np.indices((5, 7)))
    away = np.hypot(np.subtract.outer(rows, rows), np.subtract.outer(columns, columns))
    # 6,000 channels: a covariance of 2.25 has a deviation of at most 0.041.
    np.testing.assert_allclose(vectors @ vectors.T / 6000, 2.25 * np.exp(-away / 3), atol=0.2)


def test_weights_are_unit_gaussians_and_those_that_are_not_trained_are_buffers():
    network = Sequential(Conv(3, trained=False), Relu(), Conv(3), Relu(), GlobalAvgPool(), Dense(trained=False))
    module = finite.build(network, 40, (4, 4, 3), seed=1)
    assert [tuple(each.shape) for each in module.parameters()] == [(40, 40, 3, 3), (40,)]
    drawn = np.concatenate([each.ravel() for name, each in weights_of(module).items() if name in ("weight", "bias")])
    # 16,000 numbers: the mean has a deviation of 0.008, the variance one of 0.011.
    assert abs(drawn.mean()) < 0.04
    assert abs(drawn.var() - 1) < 0.05


def test_counts_are_those_of_the_weights_that_are_built():
    network = Sequential(Conv(3, trained=False), Relu(), layers.AvgPool(2), Conv(3), Relu(), Flatten(), Dense())
    module = finite.build(network, 8, (4, 4, 3), outputs=2, seed=1)
    trained = sum(each.numel() for each in module.parameters())
    first = 8 * 3 * 9 + 8
    assert finite.count_weights(network, 8, (4, 4, 3), outputs=2) == (trained + first, trained)
    assert trained == 8 * 8 * 9 + 8 + 2 * (8 * 2 * 2) + 2


@pytest.mark.parametrize(
    "network",
    [
        Sequential(Dense(), layers.PositionalEmbedding(), Dense(), GlobalAvgPool(), Dense()),
        Sequential(Dense(), layers.PositionalEmbedding(trained=False), Dense(trained=False), Flatten(), Dense()),
        Sequential(Dense(), layers.LinearAttention(keys=Dense(trained=False)), GlobalAvgPool(), Dense()),
    ],
    ids=["positions", "fixed positions", "keys of their own"],
)
def test_constants_are_no_weights_and_weights_count_once(network):
    module = finite.build(network, 8, (4, 4, 3), outputs=1, seed=0)
    constants = ("root", "rows", "columns")  # of positions and of poolings
    weights = sum(values.numel() for name, values in module.state_dict().items() if not name.endswith(constants))
    trained = sum(each.numel() for each in module.parameters())
    assert finite.count_weights(network, 8, (4, 4, 3), outputs=1) == (weights, trained)


def test_the_weights_of_a_network_with_positions_are_counted_by_hand():
    network = Sequential(Dense(), layers.PositionalEmbedding(), Dense(), GlobalAvgPool(), Dense())
    weights = (8 * 3 + 8) + 16 * 8 + (8 * 8 + 8) + (8 + 1)
    assert finite.count_weights(network, 8, (4, 4, 3), outputs=1) == (weights, weights)


def test_a_seed_makes_the_same_network_in_both_dtypes():
    network = Sequential(Dense(), Relu(), Dense())
    one, same, single, other = (
        finite.build(network, 8, (3,), seed=seed, dtype=dtype).state_dict()
        for seed, dtype in ((1, "float64"), (1, "float64"), (1, "float32"), (2, "float64"))
    )
    for name, values in one.items():
        assert torch.equal(values, same[name])
        assert torch.equal(values.to(torch.float32), single[name])
        assert not torch.equal(values, other[name])


# Layers without weights.


@dataclass(frozen=True)
class Given:
    layer: layers.Layer
    function: object


ACTIVATION_CASES = [
    Given(layers.Relu(), lambda x: np.maximum(x, 0)),
    Given(layers.LeakyRelu(0.3), lambda x: np.maximum(x, 0) + 0.3 * np.minimum(x, 0)),
    Given(layers.Abs(), np.abs),
    Given(layers.Sign(), np.sign),
    Given(layers.Erf(), special.erf),
    Given(layers.Gelu(), lambda x: x * special.ndtr(x)),
    Given(layers.Sin(), np.sin),
    Given(layers.Cos(), np.cos),
    Given(layers.Rbf(0.7), lambda x: np.sin(np.sqrt(1.4) * x) + np.cos(np.sqrt(1.4) * x)),
    Given(layers.Exp(), np.exp),
    Given(layers.Gaussian(), lambda x: np.exp(-(x**2))),
    Given(layers.Polynomial((0.5, -1.0, 0.0, 2.0)), lambda x: 0.5 - x + 2 * x**3),
    Given(
        layers.Hermite((0.5, -1.0, 0.3, 2.0)),
        lambda x: 0.5 - x + 0.3 * (x**2 - 1) / 2**0.5 + 2 * (x**3 - 3 * x) / 6**0.5,
    ),
    *(Given(layers.Elementwise(name), function) for name, function in FUNCTIONS.items()),
    Given(layers.LayerNorm(), lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)),
]


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=lambda case: str(case.layer))
def test_an_activation_is_the_function_of_its_layer(case):
    _, before = evaluate(Conv(3), X)
    _, found = evaluate(Sequential(Conv(3), case.layer), X)
    np.testing.assert_allclose(found, case.function(before), rtol=1e-9, atol=1e-12)


def test_every_activation_has_its_case():
    assert {type(case.layer) for case in ACTIVATION_CASES} == ACTIVATIONS.keys()


@pytest.mark.parametrize(
    ("layer", "rows", "columns"),
    [
        (layers.AvgPool(2), [[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0]], np.kron(np.eye(3, 4)[:, :3], [0.5, 0.5])),
        (layers.SumPool((5, 7)), np.ones((1, 5)), np.ones((1, 7))),
        (layers.GlobalAvgPool(), np.full((1, 5), 1 / 5), np.full((1, 7), 1 / 7)),
        (layers.GlobalSumPool(), np.ones((1, 5)), np.ones((1, 7))),
        (layers.LocalAvgPool(1), (abs(np.subtract.outer(range(5), range(5))) < 2) / 3, None),
        (layers.AvgPool(3, 1, "SAME", True), None, None),
    ],
    ids=lambda value: str(value) if isinstance(value, layers.Layer) else "",
)
def test_a_pooling_weighs_positions(layer, rows, columns):
    def near(size, normalize):
        inside = 1.0 * (abs(np.subtract.outer(np.arange(size), np.arange(size))) < 2)
        return inside / (inside.sum(1, keepdims=True) if normalize else 3)

    normalize = getattr(layer, "normalize_edges", False)
    rows = near(5, normalize) if rows is None else np.asarray(rows)
    columns = near(7, normalize) if columns is None else np.pad(columns, [(0, 0), (0, 7 - np.shape(columns)[1])])
    _, found = evaluate(layer, X)
    expected = np.einsum("ri,nijc,kj->nrkc", rows, X, columns)
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-12, atol=1e-14)


def test_rescale_multiplies_by_the_root_of_a_variance():
    for variance, factor in ((4.0, 2.0), ("channels", 3**0.5), ("pixels", 35**0.5)):
        np.testing.assert_allclose(evaluate(layers.Rescale(variance), X)[1], factor * X)


def test_a_residual_branch_is_added_to_its_shortcut():
    branch = Sequential(Relu(), Conv(3, w_std=2.0))
    _, before = evaluate(Conv(3), X)
    _, found = evaluate(Sequential(Conv(3), Residual(branch)), X)
    _, deeper = evaluate(Sequential(Conv(3), *branch.layers), X)
    np.testing.assert_allclose(found, before + deeper, rtol=1e-12)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("window", "strides"), [((1, 2), None), ((2, 1), 1), ((1, 2), (2, 3))])
def test_a_maximum_is_that_of_what_lies_inside(window, strides, padding):
    _, before = evaluate(Conv(3), X)
    _, found = evaluate(Sequential(Conv(3), layers.MaxPool(window, strides, padding)), X)
    framed = np.pad(before, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=-np.inf)
    steps = two(window if strides is None else strides)
    rows, columns = (place(*each, padding) for each in zip(X.shape[1:3], window, steps, strict=True))
    expected = framed[:, rows[:, :, None, None], columns[None, None]].max((2, 4))
    np.testing.assert_array_equal(found, expected)


def test_maxout_halves_the_channels():
    _, before = evaluate(Dense(), X, width=6)
    _, found = evaluate(Sequential(Dense(), layers.Maxout()), X, width=6)
    np.testing.assert_array_equal(found, np.maximum(before[..., :3], before[..., 3:]))
    with pytest.raises(LayerError, match=r"layer 1 \(Maxout\): Maxout takes channels by twos, got 5: take an even"):
        finite.build(Sequential(Dense(), layers.Maxout()), 5, (3,))


def test_branches_are_multiplied_and_laid_side_by_side():
    first, second = Sequential(Dense(), Relu()), Dense(b_std=0.5)
    module, found = evaluate(layers.Product(first, second), X)
    branch, gate = (part(torch.tensor(X).permute(0, 3, 1, 2)) for part in (module.body[0].branch, module.body[0].gate))
    np.testing.assert_array_equal(found, (branch * gate).permute(0, 2, 3, 1).detach().numpy())
    module, found = evaluate(layers.Concatenate(first, Sequential(Dense(), layers.Maxout()), 0.4), X)
    assert found.shape[-1] == 6
    one, other = (part(torch.tensor(X).permute(0, 3, 1, 2)) for part in (module.body[0].first, module.body[0].second))
    # The mean square over channels has the first branch's at the weight 0.4.
    expected = 0.4 * (one**2).mean(1) + 0.6 * (other**2).mean(1)
    np.testing.assert_allclose((found**2).mean(-1), expected.detach().numpy(), rtol=1e-12)


def test_branches_of_unequal_width_are_refused():
    network = layers.Product(Sequential(Dense(), layers.Maxout()), Dense())
    with pytest.raises(LayerError, match="a finite Product needs branches of equal width, got 2 and 4 channels: put a"):
        finite.build(network, 4, (3,))


def test_a_repeated_block_is_added_to_its_input_each_time():
    module, found = evaluate(
        Sequential(Dense(), layers.Repeat(Sequential(Relu(), Dense()), 2, inject=True)), X[:, 0, 0]
    )
    first, second = module.body[1].blocks
    x = module.body[0](torch.tensor(X[:, 0, 0]))
    np.testing.assert_allclose(found, (second(first(x) + x) + x).detach().numpy(), rtol=1e-12)
    assert not torch.equal(first[1].weight, second[1].weight)


@pytest.mark.parametrize("backward", [False, True])
def test_a_recurrent_layer_hands_its_state_to_the_next_step(backward):
    layer = layers.Recurrent(Relu(), w_std=1.3, u_std=0.8, b_std=0.7, backward=backward)
    module, found = evaluate(layer, X[:, :1])
    weights = weights_of(module)
    state, expected = np.zeros((2, 4)), np.empty((2, 1, 7, 4))
    for step in reversed(range(7)) if backward else range(7):
        given = 0.8 / np.sqrt(3) * X[:, 0, step] @ weights["input"].T + 0.7 * weights["bias"]
        state = np.maximum(1.3 / 2 * state @ weights["recurrent"].T + given, 0)
        expected[:, 0, step] = state
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    kept = layers.LastState(backward)
    _, last = evaluate(Sequential(layer, kept), X[:, :1])
    np.testing.assert_allclose(last, found[:, 0, 0 if backward else 6], rtol=1e-12)


def test_both_directions_have_weights_of_their_own_and_half_of_the_channels_each():
    layer = layers.Bidirectional(layers.Recurrent(Relu()))
    module, found = evaluate(layer, X[:, :1])
    one, other = (
        each(torch.tensor(X[:, :1]).permute(0, 3, 1, 2)) for each in (module.body[0].first, module.body[0].second)
    )
    np.testing.assert_allclose(found, torch.cat([one, other], 1).permute(0, 2, 3, 1).detach().numpy(), rtol=1e-12)
    assert not torch.equal(module.body[0].first.input, module.body[0].second.input)


def test_standard_weights_have_their_deviation_themselves_and_nothing_multiplies_them():
    layer = Dense(w_std=1.5, b_std=0.2, parameterization="standard", fan_in=4)
    same = Dense(w_std=1.5, b_std=0.2)
    module, found = evaluate(Sequential(Dense(), layer), X[:, 0, 0])
    _, expected = evaluate(Sequential(Dense(), same), X[:, 0, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    affine = module.body[1]
    np.testing.assert_allclose(
        found,
        (affine.weight @ module.body[0](torch.tensor(X[:, 0, 0])).T).T.detach() + affine.bias.detach(),
        rtol=1e-12,
    )


def test_sequences_are_images_of_one_row():
    network = Sequential(layers.Recurrent(layers.Erf()), layers.LastState(), Dense())
    of_images = finite.build(network, 4, (1, 3, 3), seed=0)
    of_sequences = finite.build(network, 4, (3, 3), seed=0)
    x = torch.tensor(X[:1, :3, :3].reshape(3, 1, 3, 3))  # as many as steps and channels
    expected = of_images(x)
    for module in (of_images, of_sequences):
        for given in (x, x[:, 0]):
            assert torch.equal(module(given), expected)
    assert finite.count_weights(network, 4, (3, 3)) == finite.count_weights(network, 4, (1, 3, 3))


@pytest.mark.parametrize(
    ("network", "shape", "given"),
    [
        (Sequential(Conv(3), Relu(), GlobalAvgPool(), Dense()), (5, 5, 5), (5, 5, 5)),  # one image for a batch
        (Sequential(Conv(3), Relu()), (5, 5, 3), (2, 5, 7, 3)),
        (Dense(), (4,), (2, 3, 4)),
        (Dense(), (4,), (4,)),
        (Sequential(layers.Recurrent(Relu()), layers.LastState()), (5, 3), (5, 3)),
    ],
)
def test_inputs_of_another_shape_are_refused(network, shape, given):
    module, expected = finite.build(network, 4, shape), str((1, *shape) if len(shape) == 2 else shape)
    with pytest.raises(DataError, match=re.escape(f"got an array of shape {given}")) as error:
        module(torch.zeros(given, dtype=torch.float64))
    assert expected.strip("(),") in str(error.value)


def test_dropout_drops_a_share_while_training_and_nothing_behind_it():
    torch.manual_seed(0)
    module = finite.build(Sequential(Dense(), layers.Dropout(0.25)), 4000, (3,), seed=0)
    plain = finite.build(Dense(), 4000, (3,), seed=0)
    x = torch.ones(1, 3, dtype=torch.float64)
    found, expected = module(x), plain(x)
    kept = found != 0
    assert abs(kept.double().mean().item() - 0.75) < 0.03
    torch.testing.assert_close(found[kept], expected[kept] / 0.75)
    torch.testing.assert_close(module.eval()(x), expected)


# What is refused.


@dataclass(frozen=True)
class Unknown(layers.Layer):
    """A layer of somebody else's."""

    def output_shape(self, shape):
        return shape

    def lower(self, graph, shape, source):
        return source


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Dense(), 0, (3,)), "width must be a whole number of at least 1, got 0"),
        ((Dense(), 2.0, (3,)), r"width must be a whole number of at least 1, got 2\.0"),
        (
            (Sequential(Dense(), Unknown()), 4, (3,)),
            r"layer 1 \(Unknown\): Unknown\(\) has no finite network: leave it",
        ),
        (
            (Sequential(Dense(), layers.Elementwise(np.tanh)), 4, (3,)),
            r"layer 1 \(Elementwise\): .* which torch cannot differentiate: name one of tanh, sigmoid",
        ),
        ((Relu(), 4, (3,)), "Relu needs infinitely many channels"),
        (("cntk", 4, (3,)), r"network must be a layer of cntk_pipeline\.layers, such as presets.cntk\(3\), got 'cntk'"),
        ((Dense(), 4, 3), r"input_shape is that of one input, such as x.shape\[1:\], got 3"),
        ((Dense(), 4, (-3,)), r"input_shape is that of one input, .* got \(-3,\)"),
        ((Dense(), 4, (3.0,)), r"input_shape is that of one input, .* got \(3\.0,\)"),
        ((Dense(), 4, (4, 3)), r"is that of one input, \(H, W, C\) or \(features,\), got \(4, 3\): grey"),
        ((Dense(), 4, (5, 4, 4, 1)), r"got \(5, 4, 4, 1\): leave out the number of inputs, \(4, 4, 1\)"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_with_the_place(arguments, message):
    for function in (finite.build, finite.count_weights):
        with pytest.raises(LayerError, match=message):
            function(*arguments)


@pytest.mark.parametrize("seed", [-1, "a", 1.5, True, (0, -1)])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(LayerError, match="seed must be a whole number of at least 0, got"):
        finite.build(Dense(), 4, (3,), seed=seed)


def test_outputs_belong_to_a_last_dense_layer():
    assert finite.build(Sequential(Dense(), Relu(), Dense()), 4, (3,), outputs=2)(torch.zeros(5, 3).double()).shape == (
        5,
        2,
    )
    with pytest.raises(LayerError, match=r"outputs=2 is the width of a last layer Dense, but .* ends in Relu\(\)"):
        finite.build(Sequential(Dense(), Relu()), 4, (3,), outputs=2)
    with pytest.raises(LayerError, match="outputs must be a whole number of at least 1, got 0"):
        finite.build(Dense(), 4, (3,), outputs=0)


def test_other_dtypes_are_refused():
    with pytest.raises(LayerError, match='dtype "float32" or "float64", got dtype=\'float16\''):
        finite.build(Dense(), 4, (3,), dtype="float16")


def test_without_torch_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"finite networks need torch: pip install 'cntk-pipeline\[finite\]'"):
        finite.build(Dense(), 4, (3,))


# Other devices.

ON_DEVICES = {
    **{name: ((1, 5, 2), Sequential(layers.Padded(), *body)) for name, body in STATES.items()},
    "pooling": ((8, 8, 3), layers.presets.cntk(3, pooling="lap2")),
    "residual": ((8, 8, 3), layers.presets.resnet(8)),
    "transformer": ((8, 8, 3), layers.presets.transformer(1, position_std=1.0)),
    "maxima": ((8, 8, 3), Sequential(Conv(3), layers.MaxPool((1, 2)), Dense(), layers.Maxout(2), Flatten(), Dense())),
    "masks": ((8, 8, 3), Sequential(layers.Masked(), Conv(3), Relu(), GlobalAvgPool(), Dense())),
    "fully connected": ((7,), layers.presets.fully_connected(2, b_std=0.1)),
}


@pytest.mark.parametrize("name", ON_DEVICES)
def test_a_module_computes_where_its_inputs_lie(name, monkeypatch):
    """On the device "meta", which has no values: a tensor that a layer makes on the processor is refused there.

    So which positions are there is told to a network that would read it off the values.
    """

    def take(inputs, x):
        inputs.present = np.ones((len(x), *x.shape[2:]), bool)
        return x

    monkeypatch.setattr(Inputs, "take", take)
    shape, network = ON_DEVICES[name]
    module = finite.build(network, 4, shape, dtype="float32").to("meta")
    found = module(torch.empty((2, *shape), device="meta", dtype=torch.float32))
    assert found.device.type == "meta"
    assert len(found) == 2


@pytest.mark.parametrize("of_graphs", [False, True])
def test_what_a_network_cannot_multiply_is_refused_with_the_remedy(of_graphs):
    x = pack(*zip(*draw_graphs([3, 4], 2), strict=True)).astype(np.float64) if of_graphs else X
    body = [layers.GraphConv(), layers.GlobalSumPool()] if of_graphs else [Conv(3), Relu(), GlobalAvgPool()]
    module = finite.build(Sequential(*body, Dense()), 4, x.shape[1:], seed=0)
    assert module(torch.tensor(x)).dtype == torch.float64
    told = r"^the network has weights of torch\.float64, got a tensor of torch\.float32: give x\.to\(torch\.float64\)"
    with pytest.raises(DataError, match=told):
        module(torch.tensor(x, dtype=torch.float32))
    with pytest.raises(DataError, match=r"takes a tensor of torch, got ndarray: give torch\.as_tensor\(x\)"):
        module(x)


def test_a_network_that_takes_several_dtypes_still_does():
    module = finite.build(Sequential(Flatten()), 4, X.shape[1:], seed=0)
    for dtype in (torch.float32, torch.float64):
        assert module(torch.tensor(X, dtype=dtype)).dtype == dtype
