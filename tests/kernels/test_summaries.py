"""A summary is a text wherever it is shown."""

import numpy as np
import pytest
import rich.console

from cntk_pipeline.errors import LayerError
from cntk_pipeline.kernels import summary
from cntk_pipeline.kernels.summaries import describe
from cntk_pipeline.layers import (
    Abs,
    Attend,
    Concatenate,
    Conv,
    Dense,
    Erf,
    GlobalAvgPool,
    LastState,
    LinearAttention,
    PositionalEmbedding,
    Recurrent,
    Relu,
    Repeat,
    Residual,
    SelfAttention,
    Sequential,
    presets,
)

NETWORK = presets.cntk(2)


def test_a_summary_is_the_same_text_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    table = summary(presets.cntk(3, pooling="gap"), (8, 8, 1))
    elsewhere = str(table)
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)  # the library then shows a table at once
    assert str(table) == elsewhere
    assert elsewhere.splitlines()[-1].startswith("8,193 plane entries a pair in 2 stages")


def test_a_summary_says_that_it_does_not_count_the_mixing_of_attention() -> None:
    # 16 tokens, then 4: two products of matrices each, of covariances and of tangents.
    network = Sequential(
        *[Conv(2, strides=2), Attend(), Dense(), Conv(2, strides=2), SelfAttention(), GlobalAvgPool(), Dense()]
    )
    tangents, covariances = (summary(network, (8, 8, 1), kind=kind) for kind in ("ntk", "nngp"))
    assert tangents.mixing_products == 2 * covariances.mixing_products == 2 * (2 * 16**3 + 2 * 4**3)
    assert str(tangents).splitlines()[-2].startswith(f"{tangents.entries:,} plane entries a pair in ")
    assert str(tangents).splitlines()[-1] == (
        "attention is not counted: mixing positions takes 16,640 products more a pair"
    )
    # LinearAttention multiplies covariances place by place, which its weights count.
    linear = summary(Sequential(Conv(3), LinearAttention(), GlobalAvgPool()), (4, 4, 1))
    assert linear.mixing_products == 0
    assert "attention" not in str(linear).splitlines()[-1]


@pytest.mark.parametrize(
    ("network", "shape", "told"),
    [
        (NETWORK, (0, 4, 1), r"is that of one input, such as x\.shape\[1:\], got \(0, 4, 1\)"),
        (NETWORK, (4.0, 4.0, 1), r"is that of one input, .*, got \(4\.0, 4\.0, 1\)"),
        (NETWORK, 5, "is that of one input, .*, got 5"),
        (NETWORK, np.zeros((90, 4, 4, 1)), r"is that of one input, .*, got <ndarray of shape \(90, 4, 4, 1\)>"),
        (NETWORK, (10, 4, 4, 1), r"got \(10, 4, 4, 1\): leave out the number of inputs, \(4, 4, 1\)"),
        (NETWORK, (4, 4), r"got \(4, 4\): grey images are \(4, 4, 1\)"),
        (NETWORK, (1,) * 6, r"one input, \(H, W, C\) or \(features,\), got \(1, 1, 1, 1, 1, 1\)$"),
        ("cntk", (4, 4, 1), "network must be a layer of .*, got 'cntk'"),
        (presets.cntk, (4, 4, 1), r"network must be a layer of .* a function: call it, cntk\(\.\.\.\)"),
    ],
)
def test_what_is_no_network_or_no_shape_of_one_input_is_refused(network, shape, told) -> None:
    with pytest.raises(LayerError, match=told):
        summary(network, shape)


def test_sequences_may_be_named_without_their_one_row() -> None:
    network = Sequential(Recurrent(Erf()), LastState(), Dense())
    assert str(summary(network, [7, 3])) == str(summary(network, (1, 7, 3)))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Dense(w_std=2.0), "Dense(w_std=2)"),
        (Residual(Sequential(Relu(), Dense())), "Residual(Relu(), Dense() | Identity())"),
        (Repeat(Sequential(Relu(), Dense()), 3), "Repeat(Relu(), Dense(), times=3)"),
        (Concatenate(Relu(), Abs()), "Concatenate(Relu() | Abs())"),
        (Concatenate(Relu(), Abs(), 0.25), "Concatenate(Relu() | Abs(), share=0.25)"),
        (Attend(plus_identity=True), "Attend(plus_identity=True)"),
        (LinearAttention(w_out_std=0.5), "LinearAttention(w_out_std=0.5)"),
        (
            Attend(gain=2.0, keys=PositionalEmbedding(correlation="gaussian")),
            "Attend(PositionalEmbedding(correlation='gaussian'), gain=2)",
        ),
    ],
)
def test_a_layer_is_written_with_its_branches_and_what_is_not_at_its_default(layer, text) -> None:
    assert describe(layer) == text
