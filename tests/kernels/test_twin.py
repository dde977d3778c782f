"""The engine against the naive twin: one network for each layer, and networks that hypothesis builds of them all."""

import os

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.tolerances import DTYPES, assert_kernels_close, tolerance
from twin import reference

from cntk_pipeline.errors import LayerError, NotAccurate
from cntk_pipeline.kernels import CpuEvaluator, lower
from cntk_pipeline.layers import (
    LAYERS,
    Abs,
    Aggregate,
    Attend,
    AvgPool,
    Bidirectional,
    Concatenate,
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
    GlobalSumPool,
    GraphConv,
    Hermite,
    Identity,
    LastState,
    Layer,
    LayerNorm,
    LeakyRelu,
    LinearAttention,
    LocalAvgPool,
    Masked,
    Maxout,
    MaxPool,
    Padded,
    Polynomial,
    PositionalEmbedding,
    Product,
    Rbf,
    Recurrent,
    Relu,
    Repeat,
    Rescale,
    Residual,
    SelfAttention,
    Sequential,
    Shape,
    Sign,
    Sin,
    SumPool,
)
from cntk_pipeline.layers.attention import MECHANISMS
from cntk_pipeline.layers.positions import CORRELATIONS

PADDINGS = ("SAME", "VALID", "CIRCULAR")


def has_ntk(network: Layer) -> bool:
    return network.has_ntk and all(map(has_ntk, network.inner))


def assert_engine_equals_twin(network, left, right=None, bound="parallel"):
    """Compare both kinds, as far as they exist, in both dtypes.

    One-channel and one-pixel images have correlations of exactly +-1 all over: hence this default.
    """
    kinds = ("nngp", "ntk") if has_ntk(network) else ("nngp",)
    expected = reference.evaluate_both(network, left, right)
    program = lower([(network, kind) for kind in kinds], left.shape[1:])
    for dtype in DTYPES:
        of_kind = getattr(tolerance(dtype), bound)
        bounds = (tolerance(dtype).kernel if len(kinds) == 2 else of_kind, of_kind)
        for actual, values, most in zip(
            CpuEvaluator(program, dtype).evaluate(left, right), expected, bounds, strict=False
        ):
            assert_kernels_close(actual, values, most)


def at_pixels(*layers):
    """Put layers behind a convolution, and weights and a ReLU behind them, which make every covariance count."""
    return Sequential(Conv(3, w_std=1.2, b_std=0.3), *layers, Conv(2, b_std=0.1), Relu(), GlobalAvgPool(), Dense())


def at_steps(*layers):
    """Put layers of sequences behind what makes one of three steps, and weights and a ReLU behind a vector."""
    return Sequential(
        Conv(3, w_std=1.2, b_std=0.3), Relu(), AvgPool((4, 1)), *layers, Dense(b_std=0.1), Relu(), Dense()
    )


TYPICAL: dict[type[Layer], Sequential] = {
    Conv: Sequential(
        *[
            Conv((3, 2), strides=(2, 1), padding="CIRCULAR", w_std=1.2, b_std=0.3),
            Relu(),
            Conv((1, 2), strides=1, padding="VALID", trained=False),
            Relu(),
        ],
        *[Conv((1, 3), strides=(1, 2), b_std=0.2), Relu(), GlobalAvgPool(), Dense()],
    ),
    Dense: Sequential(
        Dense(w_std=1.3, b_std=0.2), Relu(), Dense(trained=False), Relu(), Flatten(), Dense(w_std=0.9, b_std=0.1)
    ),
    Rescale: Sequential(Rescale("channels"), Conv(3), Rescale("pixels"), Relu(), Rescale(0.3), Flatten(), Dense()),
    Relu: at_pixels(Relu()),
    LeakyRelu: at_pixels(LeakyRelu(0.3)),
    Abs: at_pixels(Abs()),
    Maxout: at_pixels(Maxout()),
    Sign: at_pixels(Sign()),
    Erf: at_pixels(Erf()),
    Gelu: at_pixels(Gelu()),
    Sin: at_pixels(Sin()),
    Cos: at_pixels(Cos()),
    Rbf: at_pixels(Rbf(0.7)),
    Gaussian: at_pixels(Gaussian()),
    Exp: at_pixels(Exp()),
    Polynomial: at_pixels(Polynomial((0.5, -1.0, 0.3, 0.2))),
    Hermite: at_pixels(Hermite((0.1, 1.0, 0.0, -0.4))),
    Elementwise: at_pixels(LayerNorm(), Elementwise("sigmoid", 64)),  # beyond variance 1 a series is less exact
    Flatten: Sequential(Conv(3), Relu(), Flatten(), Flatten(), Dense(), Relu(), Dense()),
    AvgPool: at_pixels(Relu(), AvgPool((2, 3), 1, "SAME"), AvgPool(2, (2, 1), "SAME", True)),
    SumPool: at_pixels(Relu(), SumPool((2, 1)), SumPool((2, 3), (1, 2), "SAME")),
    MaxPool: at_pixels(
        Relu(),
        Conv(2, b_std=0.2),
        MaxPool((1, 2), 1),
        Conv(2),
        MaxPool((2, 1), (3, 1), "SAME"),
        Dense(),
        MaxPool((1, 2)),
    ),
    GlobalAvgPool: Sequential(Conv(3), Relu(), GlobalAvgPool(), Dense(), Relu(), Dense()),
    GlobalSumPool: Sequential(Conv(3), Relu(), GlobalSumPool(), Dense(), Relu(), Dense()),
    LocalAvgPool: at_pixels(Relu(), LocalAvgPool(1), LocalAvgPool(2, True)),
    Identity: at_pixels(Identity(), Relu(), Identity()),
    Residual: at_pixels(
        Residual(Sequential(Relu(), Conv(3))),
        Residual(Sequential(Relu(), Conv(3, strides=2), Relu(), Conv(2, b_std=0.2)), Conv(1, strides=2)),
    ),
    Product: at_pixels(
        Product(Sequential(Relu(), Conv(3, strides=2)), Sequential(Relu(), AvgPool(2, padding="SAME"))),
        Dense(b_std=0.2),
        Product(Sequential(Dense(), Elementwise("sigmoid")), Identity()),
    ),
    Concatenate: at_pixels(
        Concatenate(Relu(), Sequential(Conv(3, padding="CIRCULAR", w_std=1.5), Abs()), 0.3),
        Conv(2, strides=(1, 2)),
        Concatenate(Relu(), Sequential(Relu(), AvgPool(3, 1, "SAME"))),
    ),
    Repeat: at_pixels(
        Repeat(Sequential(Relu(), Conv(3, w_std=0.6, b_std=0.1)), 3, inject=True),
        Repeat(Sequential(Abs(), Conv(2)), 2),
        Repeat(Sequential(Abs(), Conv(2)), 2, jump=True),
    ),
    LayerNorm: at_pixels(LayerNorm(), Relu()),
    Dropout: at_pixels(Relu(), Dropout(0.3)),
    SelfAttention: at_pixels(
        Relu(), SelfAttention(w_query_std=1.1, w_key_std=0.8, w_value_std=0.9, w_out_std=1.2, b_std=0.3), Relu()
    ),
    Attend: at_pixels(
        Attend(gain=0.8, plus_identity=True),
        LayerNorm(),
        Residual(Sequential(Relu(), Attend(keys=PositionalEmbedding(w_std=0.6)), Dense(w_std=0.7))),
        Attend(keys=Sequential(Dense(w_std=1.2), Relu(), AvgPool(3, 1, "SAME")), mechanism="relu", gain=0.3),
    ),
    LinearAttention: at_pixels(
        LayerNorm(),
        LinearAttention(w_query_std=0.5, w_key_std=0.8, w_value_std=0.9, w_out_std=1.2, b_std=0.3),
        LayerNorm(),
        Conv(2, strides=2),
        LinearAttention(keys=Sequential(Relu(), PositionalEmbedding(w_std=0.6)), trained=False),
        Residual(Sequential(Relu(), LinearAttention(w_query_std=0.2))),
    ),
    PositionalEmbedding: at_pixels(
        PositionalEmbedding(w_std=0.6),
        Relu(),
        Conv(3, padding="CIRCULAR"),
        PositionalEmbedding(w_std=1.4, correlation="gaussian", length=2.0, trained=False),
        Conv(2, strides=(2, 1)),
        PositionalEmbedding(w_std=0.5, correlation="exponential"),
        SelfAttention(),
    ),
    Recurrent: at_steps(
        Recurrent(Relu(), w_std=1.3, u_std=0.8, b_std=0.2),
        Conv((1, 2), padding="CIRCULAR"),
        Recurrent(Erf(), w_std=0.7, backward=True),
        GlobalAvgPool(),
    ),
    Bidirectional: at_steps(
        Bidirectional(Recurrent(Erf(), w_std=1.2, b_std=0.2)),
        Conv((1, 2), strides=(1, 2)),
        Bidirectional(Recurrent(Relu(), trained=False)),
        Flatten(),
    ),
    LastState: at_steps(
        Recurrent(Elementwise("tanh", 256), w_std=0.5, u_std=0.5),
        Concatenate(
            Sequential(Recurrent(Relu()), LastState()),
            Sequential(Recurrent(Elementwise("tanh", 256), w_std=0.5, backward=True), LastState(backward=True)),
        ),
    ),
}


def test_every_layer_has_a_typical_network():
    # test_node_evaluator has those on graphs, test_padded and test_masked the others.
    elsewhere = {Aggregate, GraphConv, Padded, Masked}
    assert set(TYPICAL) | elsewhere == set(LAYERS.values())


@pytest.mark.parametrize("network", TYPICAL.values(), ids=[layer.__name__ for layer in TYPICAL])
def test_each_layer_agrees_with_the_naive_twin(network):
    images = np.random.default_rng(3).standard_normal((4, 4, 3, 2)).astype(np.float32)
    images[3] = images[0]
    assert_engine_equals_twin(network, images[:2], bound="golden")
    assert_engine_equals_twin(network, images[:2], images[2:], bound="golden")


@pytest.mark.slow
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("strides", [1, 2, (1, 3), (3, 2)])
def test_windows_of_any_size_agree_with_the_naive_twin(strides, padding):
    images = np.random.default_rng(1).standard_normal((3, 4, 5, 3)).astype(np.float32)
    for size in [(a, b) for a in range(1, 7) for b in range(1, 7) if padding == "SAME" or (a <= 4 and b <= 5)]:
        layers = [Conv(size, strides=strides, padding=padding, b_std=0.2), Relu()]
        if padding != "CIRCULAR":
            layers += [LocalAvgPool(1), AvgPool(size, strides, "SAME", normalize_edges=padding == "VALID")]
        assert_engine_equals_twin(Sequential(*layers, Conv(size), Relu(), GlobalAvgPool(), Dense()), images)


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("b_std", [0.0, 0.2])
def test_other_parameterizations_agree_with_the_naive_twin(b_std, rate):
    shared = {"parameterization": "standard", "rate": rate, "b_std": b_std}
    network = Sequential(
        *[Conv((3, 2), w_std=1.3, **shared), Relu(), Conv(3, strides=2, fan_in=64, **shared), Relu()],
        *[Conv(3, padding="CIRCULAR", rate=rate), Relu(), Dense(fan_in=8, trained=False, **shared), Relu()],
        *[GlobalAvgPool(), Dense(fan_in=7.5, **shared)],
    )
    images = np.random.default_rng(5).standard_normal((3, 6, 5, 2)).astype(np.float32)
    assert_engine_equals_twin(network, images)


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_attention_of_each_kind_agrees_with_the_naive_twin(mechanism, correlation):
    # The same values are mixed twice, by keys of two depths; shapes with one row, and after a stride.
    positions = PositionalEmbedding(w_std=0.7, correlation=correlation, length=1.5)
    shared = {"mechanism": mechanism, "gain": 0.4}
    network = Sequential(
        *[Conv(3, b_std=0.2), Residual(Sequential(Attend(keys=positions, **shared), Dense())), positions],
        *[Attend(plus_identity=True, **shared), LayerNorm(), Relu(), Conv(2, strides=2)],
        *[Attend(keys=Sequential(LayerNorm(), positions), **shared), Flatten(), Dense()],
    )
    for shape in ((4, 3, 2), (1, 5, 2)):
        images = np.random.default_rng(7).standard_normal((4, *shape)).astype(np.float32)
        images[3] = images[0]
        assert_engine_equals_twin(network, images[:2], images[2:])


@pytest.mark.parametrize("padding", PADDINGS[:2])
@pytest.mark.parametrize("window", [(1, 2), (2, 1)])
def test_the_maximum_of_any_two_positions_agrees_with_the_naive_twin(window, padding):
    # Windows side by side, that overlap, that leave gaps, that the edge cuts on either side; and a single one.
    images = np.random.default_rng(4).standard_normal((3, 4, 5, 2)).astype(np.float32)
    images[2] = images[0]
    for strides in (None, 1, 2, (3, 1), (1, 3)):
        for ends in ((Flatten(),), (GlobalAvgPool(),), (Conv((3, 2)), Relu(), GlobalAvgPool())):
            layers = [Conv(3, b_std=0.2), MaxPool(window, strides, padding), *ends, Dense()]
            assert_engine_equals_twin(Sequential(*layers), images[:2], images[2:])
    around = Sequential(Conv(3, padding="CIRCULAR"), MaxPool(window, 1, padding), Conv(2), Relu(), Flatten(), Dense())
    assert_engine_equals_twin(around, images)
    one = Sequential(Conv((2, 1)), MaxPool(window, padding=padding), Flatten(), Dense())
    assert_engine_equals_twin(one, images[:, : window[0], : window[1]])


SIZES = st.integers(1, 4) | st.tuples(st.integers(1, 4), st.integers(1, 4))
STRIDES = st.sampled_from([1, 1, 1, 2, (1, 2), (3, 1)])
DEVIATIONS = st.sampled_from([0.7, 1.0, 2**0.5]), st.sampled_from([0.0, 0.1, 0.8])
RATES = st.sampled_from([1.0, 1.0, 0.0, 2.5])
WEIGHTED = {"w_std": DEVIATIONS[0], "b_std": DEVIATIONS[1], "trained": st.booleans(), "rate": RATES}
STANDARD = {"parameterization": st.just("standard"), "fan_in": st.sampled_from([0.5, 3.0])}
DENSES = st.builds(Dense, **WEIGHTED) | st.builds(Dense, **WEIGHTED, **STANDARD)
PLACED = {"strides": STRIDES, "padding": st.sampled_from(PADDINGS)}
CONVS = st.builds(Conv, SIZES, **PLACED, **WEIGHTED) | st.builds(Conv, SIZES, **PLACED, **WEIGHTED, **STANDARD)
ATTENTIONS = st.builds(
    SelfAttention,
    **{f"w_{part}_std": DEVIATIONS[0] for part in ("query", "key", "value", "out")},
    b_std=DEVIATIONS[1],
    trained=st.booleans(),
)
WEIGHTS = st.one_of(CONVS, CONVS, CONVS, DENSES, DENSES, ATTENTIONS)
RECTIFIERS = [Relu(), LeakyRelu(0.2), LeakyRelu(-0.5), Abs(), Sign(), Maxout()]
SMOOTH = [
    *[Erf(), Gelu(), Sin(), Cos(), Rbf(0.5), Exp(), Polynomial((0.2, 1.0, 0.5)), Hermite((0.0, 1.0, 0.0, 0.3))],
    *[Elementwise("silu", 64), Elementwise(np.tanh, 128)],
]
# Smooth functions need variances of about 1: series are not exact beyond, and the twin's integrals take long.
ACTIVATIONS = [
    *[(function,) for function in RECTIFIERS],
    *[(LayerNorm(), function) for function in RECTIFIERS],
    *[(LayerNorm(), Conv((2, 3), w_std=0.9, b_std=0.4), function) for function in SMOOTH],
]
# Sums over many pixels have a scale that the next sums would square.
POOLS = st.one_of(
    st.tuples(st.builds(AvgPool, SIZES, st.none() | STRIDES, st.sampled_from(PADDINGS[:2]), st.booleans())),
    st.tuples(st.builds(SumPool, SIZES, st.none() | STRIDES, st.sampled_from(PADDINGS[:2])), st.just(Rescale(0.1))),
    st.tuples(st.builds(LocalAvgPool, st.integers(0, 5), st.booleans())),
    st.tuples(
        DENSES,
        st.builds(MaxPool, st.sampled_from([(1, 2), (2, 1)]), st.none() | STRIDES, st.sampled_from(PADDINGS[:2])),
    ),
)


@st.composite
def branches(draw):
    """Draw a block of two branches of the same strides, and weights behind it where it needs them."""
    strides = draw(STRIDES)
    branch = Sequential(
        draw(st.sampled_from(RECTIFIERS)),
        Conv(draw(SIZES), strides=strides, b_std=0.1),
        *draw(st.sampled_from([(), (Relu(),)])),
    )
    other = Conv(draw(SIZES), strides=strides) if strides != 1 or branch.layers[-1] == Relu() else Identity()
    pair = draw(st.permutations([branch, other]))
    kind = draw(st.sampled_from([Residual, Residual, Product, Concatenate]))
    return (kind(*pair),) if kind is Residual else (kind(*pair), draw(DENSES))


STEPS = st.one_of(
    *[st.tuples(WEIGHTS, st.none())] * 3,  # and then an activation
    st.tuples(WEIGHTS, branches()),
    st.tuples(st.builds(Dropout, st.sampled_from([0.0, 0.4])), POOLS),
    st.tuples(st.builds(Rescale, st.sampled_from([0.5, 3.0, "channels", "pixels"])), POOLS),
)
ENDS = st.sampled_from([Flatten(), GlobalAvgPool(), GlobalSumPool()])


def fitting(layers, shape):
    """Keep the layers that fit behind those before them; return them and the last shape."""
    kept = []
    for layer in layers:
        try:
            shape = layer.output_shape(shape)
        except LayerError:
            continue
        kept.append(layer)
    return kept, shape


@st.composite
def networks(draw, shape, rng):
    """Draw layers that make a vector, cut at a random place into nested sequences."""
    layers = []
    for first, rest in draw(st.lists(STEPS, min_size=2, max_size=4)):
        # By a generator of their own: what hypothesis picks repeats itself, and leaves out half of these.
        layers += [first, *(ACTIVATIONS[rng.integers(len(ACTIVATIONS))] if rest is None else rest)]
    layers, shape = fitting(layers, shape)
    end, _ = fitting([draw(ENDS), draw(DENSES), draw(st.sampled_from(RECTIFIERS)), draw(DENSES)], shape)
    layers += end
    cut = draw(st.integers(0, len(layers)))
    return Sequential(*layers[:cut], Sequential(*layers[cut:], Sequential()))


@st.composite
def cases(draw):
    """Draw a network and three images, of which the last two may be copies or opposites of the first."""
    is_image = draw(st.sampled_from([True, True, True, False]))
    size = st.integers(1, 4)
    shape = (draw(size), draw(size), draw(st.integers(1, 3))) if is_image else (draw(st.integers(1, 5)),)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    images = rng.standard_normal((3, *shape)).astype(np.float32)
    for k in (1, 2):
        images[k] = {"other": images[k], "equal": images[0], "opposite": -images[0]}[
            draw(st.sampled_from(["other", "other", "equal", "opposite"]))
        ]
    return draw(networks(Shape.of_inputs(images.shape), rng)), images


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("CNTK_NETWORKS", "120")), deadline=None, derandomize=True)
@given(case=cases())
@example(
    case=(
        Sequential(Conv((4, 1)), Relu(), Conv((1, 2), b_std=0.3), Relu(), GlobalAvgPool()),
        np.eye(3, 6).reshape(3, 2, 3, 1),
    )
)
def test_random_networks_agree_with_the_naive_twin(case):
    network, images = case
    try:
        assert_engine_equals_twin(network, images)
    except NotAccurate:  # of a rounding, the second of two signs makes its fourth root: 1e-4
        assert sum(isinstance(layer, Sign) for layer in network.walk()) > 1
