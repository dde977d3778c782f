"""Attention over positions."""

import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import Relu, SelfAttention, Shape, Windows

IMAGE = Shape((4, 5), None, gaussian=False, weighted=1)


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
    assert SelfAttention().output_shape(IMAGE) == Shape((4, 5), None, gaussian=True, weighted=2)
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
