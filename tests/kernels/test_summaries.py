"""A summary is a text wherever it is shown."""

import pytest
import rich.console

from cntk_pipeline.kernels import summary
from cntk_pipeline.kernels.summaries import describe
from cntk_pipeline.layers import (
    Abs,
    Attend,
    Concatenate,
    Conv,
    Dense,
    GlobalAvgPool,
    LinearAttention,
    PositionalEmbedding,
    Relu,
    Repeat,
    Residual,
    SelfAttention,
    Sequential,
    presets,
)


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
