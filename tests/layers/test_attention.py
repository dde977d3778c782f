"""Attention over positions."""

import numpy as np
import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import (
    Attend,
    AvgPool,
    Conv,
    Dense,
    LinearAttention,
    PositionalEmbedding,
    Relu,
    Residual,
    SelfAttention,
    Sequential,
    Shape,
    Windows,
)
from cntk_pipeline.layers.positions import CORRELATIONS, Correlation

IMAGE = Shape((4, 5), None, gaussian=False)


@pytest.mark.parametrize("trained", [True, False])
def test_attention_mixes_positions_and_weighs_values_and_outputs(trained):
    layer = SelfAttention(w_query_std=2.0, w_key_std=3.0, w_value_std=0.5, w_out_std=4.0, b_std=0.1, trained=trained)
    rows, columns = Windows.single(4), Windows.single(5)
    assert lowered(layer, IMAGE) == [
        ("attend", 0, 6.0),
        ("weigh", 1, rows, columns, 4.0, 0.0, float(trained)),
        ("weigh", 2, rows, columns, 1.0, pytest.approx(0.01), float(trained)),
    ]


def test_attention_keeps_the_positions_and_makes_gaussians():
    assert SelfAttention().output_shape(IMAGE) == Shape((4, 5), None, gaussian=True)
    assert Relu().output_shape(SelfAttention().output_shape(Shape((4, 5), 3))).spatial == (4, 5)


def test_attention_of_vectors_is_refused():
    with pytest.raises(LayerError, match=r"SelfAttention\(.*\) needs images of shape \(H, W, C\), got vectors"):
        SelfAttention().output_shape(Shape(None, None))


@pytest.mark.parametrize("name", ["w_query_std", "w_key_std", "w_value_std", "w_out_std", "b_std"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), "1"])
def test_impossible_standard_deviations_are_refused(name, value):
    with pytest.raises(LayerError, match=f"{name} must be a finite standard deviation >= 0, got {value!r}"):
        SelfAttention(**{name: value})


def test_a_trained_that_is_no_truth_value_is_refused():
    with pytest.raises(LayerError, match="trained must be True or False, got 1"):
        SelfAttention(trained=1)


# Attention without weights.


def test_attention_without_weights_mixes_the_values_by_keys_of_their_own():
    assert lowered(Attend(gain=2.0), IMAGE) == [("attend", 0, 2.0)]
    layer = Attend(keys=PositionalEmbedding(w_std=0.5), mechanism="relu", plus_identity=True)
    assert lowered(layer, IMAGE) == [
        ("embed", 0, Correlation("equal", 1.0), 0.25, 1.0),
        ("attend", 0, 1.0, 1, "relu", True),
    ]
    gaussian = Shape((4, 5), None, gaussian=True)
    assert (Attend().output_shape(IMAGE), Attend().output_shape(gaussian)) == (IMAGE, gaussian)


def test_attention_without_weights_depends_on_what_is_beside_it():
    with pytest.raises(LayerError, match="branch and shortcut are correlated"):
        Residual(Attend(keys=Dense())).output_shape(IMAGE)
    assert Residual(Sequential(Attend(), Dense())).output_shape(IMAGE).spatial == (4, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attend(gain=-1.0), "gain must be a finite factor >= 0, got -1.0"),
        (lambda: Attend(gain="1"), "gain must be a finite factor >= 0, got '1'"),
        (lambda: Attend(keys=3), "the keys of Attend must be a layer, got 3"),
        (lambda: Attend(mechanism="max"), "mechanism must be one of softmax, identity, abs, relu, got 'max'"),
        (lambda: Attend(plus_identity=1), "plus_identity must be True or False, got 1"),
        (lambda: Attend().output_shape(Shape(None, None)), r"Attend\(.*\) needs images of shape \(H, W, C\)"),
        (
            lambda: Attend(keys=AvgPool(2)).output_shape(IMAGE),
            r"the keys of Attend must keep the positions, got \(2, 2, ",
        ),
        (lambda: Attend(keys=Conv(7, padding="VALID")).output_shape(IMAGE), "keys: .*7"),
        (lambda: LinearAttention(keys=3), "the keys of LinearAttention must be a layer, got 3"),
        (lambda: LinearAttention(w_out_std=-1.0), "w_out_std must be a finite standard deviation >= 0, got -1.0"),
        (lambda: LinearAttention(trained=1), "trained must be True or False, got 1"),
        (lambda: LinearAttention().output_shape(Shape(None, 3)), r"LinearAttention\(.*\) needs images of shape"),
        (lambda: LinearAttention(keys=AvgPool(2)).output_shape(IMAGE), "the keys of LinearAttention must keep the pos"),
        (lambda: LinearAttention(64, 8), r"linear_scaling=False, .* is LinearAttention\(\)"),
        (lambda: PositionalEmbedding(64), r"infinite and not given, .* PositionalEmbedding\(w_std=0.7\)"),
        (lambda: PositionalEmbedding(w_std=-1.0), "w_std must be a finite standard deviation >= 0, got -1.0"),
        (lambda: PositionalEmbedding(trained=1), "trained must be True or False, got 1"),
        (lambda: PositionalEmbedding(length=0), "length must be a finite number of pixels > 0, got 0"),
        (lambda: PositionalEmbedding(correlation="far"), "one of equal, gaussian, exponential, sinusoidal, got 'far'"),
        (
            lambda: PositionalEmbedding().output_shape(Shape((4, 5), 3)),
            "infinitely many channels, in which its vectors",
        ),
        (lambda: PositionalEmbedding().output_shape(Shape(None, None)), r"needs images of shape \(H, W, C\)"),
    ],
)
def test_attention_that_cannot_be_is_refused(make, message):
    with pytest.raises(LayerError, match=message):
        make()


@pytest.mark.parametrize("trained", [True, False])
def test_linear_attention_has_four_layers_of_weights_and_one_bias(trained):
    layer = LinearAttention(w_query_std=2.0, w_key_std=3.0, w_value_std=0.5, w_out_std=4.0, b_std=2.0, trained=trained)
    rows, columns = Windows.single(4), Windows.single(5)
    own, extra = (4.0, [-12.0]) if trained else (0.0, [])
    assert lowered(layer, IMAGE) == [
        ("multiply", 0, 0),
        ("total", 1),
        ("multiply", 0, 2),
        ("weigh", 3, rows, columns, 144.0, 4.0, own, *extra),
    ]
    assert layer.output_shape(IMAGE) == Shape((4, 5), None, gaussian=True)


# Positions.


@pytest.mark.parametrize("trained", [True, False])
def test_positions_have_a_covariance_of_their_own(trained):
    layer = PositionalEmbedding(w_std=3.0, correlation="gaussian", length=2, trained=trained)
    assert lowered(layer, IMAGE) == [("embed", 0, Correlation("gaussian", 2.0), 9.0, float(trained))]
    assert lowered(PositionalEmbedding(w_std=0.0), IMAGE) == []
    assert layer.output_shape(IMAGE) == IMAGE


@pytest.mark.parametrize("length", [0.5, 2.0, 40.0])
@pytest.mark.parametrize("name", CORRELATIONS)
def test_correlations_of_positions_are_those_of_vectors(name, length):
    for height, width in ((5, 6), (1, 7), (8, 1), (1, 1)):
        table = Correlation(name, length).table(height, width)
        assert table.shape == (2 * height - 1, 2 * width - 1)
        assert table[height - 1, width - 1] == 1
        rows, columns = (index.ravel() for index in np.indices((height, width)))
        away = np.subtract.outer(rows, rows) + height - 1, np.subtract.outer(columns, columns) + width - 1
        assert np.linalg.eigvalsh(table[away]).min() > -1e-12
        np.testing.assert_array_equal(table, table[::-1, ::-1])


def test_correlations_of_positions_are_those_of_their_papers():
    # The sines and cosines of Vaswani et al. 2017 at a distance: with 2^14 frequencies, their mean is the integral.
    frequencies = 10_000.0 ** -((np.arange(2**14) + 0.5) / 2**14)
    found = Correlation("sinusoidal", 1.0).table(1, 4)[0, 3:]
    np.testing.assert_allclose(found, np.cos(np.outer(np.arange(4), frequencies)).mean(1), atol=1e-8)
    table = Correlation("sinusoidal", 1.0).table(4, 4)  # half of the channels for rows, half for columns
    assert table[3 + 2, 3 + 1] == pytest.approx((found[2] + found[1]) / 2)
    assert Correlation("gaussian", 2.0).table(4, 4)[3 + 2, 3 - 1] == pytest.approx(np.exp(-5 / 8))
    assert Correlation("exponential", 2.0).table(4, 4)[3 + 2, 3 - 1] == pytest.approx(np.exp(-(5**0.5) / 2))
