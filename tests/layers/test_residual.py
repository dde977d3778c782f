"""Sums of branches."""

from dataclasses import replace

import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import (
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Erf,
    Flatten,
    Identity,
    LayerNorm,
    MaxPool,
    Product,
    Relu,
    Residual,
    Sequential,
    Shape,
    Windows,
)

WIDE = Shape((4, 5), None, gaussian=True)
MIXED = Shape((4, 5), None, gaussian=False)
CORRELATED = "branch and shortcut are correlated, .* end one of them in a Conv or Dense layer"


def test_the_identity_changes_nothing():
    assert Identity().output_shape(WIDE) == WIDE
    assert lowered(Identity(), WIDE) == []


def test_a_sum_of_gaussians_is_gaussian():
    block = Residual(Sequential(Relu(), Conv(3), Relu(), Conv(3)))
    assert block.output_shape(WIDE) == Shape((4, 5), None, True)
    assert Residual(Conv(3), block).output_shape(WIDE) == Shape((4, 5), None, True)
    assert not Relu().output_shape(block.output_shape(WIDE)).gaussian


def test_a_sum_with_what_is_not_gaussian_is_not():
    assert Residual(Sequential(Conv(3))).output_shape(MIXED) == Shape((4, 5), None, False)
    assert Residual(Sequential(Conv(3)), Conv(1)).output_shape(MIXED).gaussian


def test_both_branches_start_from_the_same_node():
    shortcut, branch = Conv(1, b_std=0.1), Sequential(Relu(), Dense())
    rows, columns = Windows.single(4), Windows.single(5)
    assert lowered(Residual(branch, shortcut), WIDE) == [
        ("apply", 0, Relu()),
        ("weigh", 1, rows, columns, 1.0, 0.0, 1.0),
        ("weigh", 0, rows, columns, 1.0, pytest.approx(0.01), 1.0),
        ("add", 2, 3),
    ]
    assert lowered(Residual(Dense()), WIDE)[-1] == ("add", 1, 0)
    assert Residual(branch, shortcut).inner == (branch, shortcut)


@pytest.mark.parametrize(
    "branch",
    [
        LayerNorm(),
        Relu(),
        Identity(),
        Sequential(),
        AvgPool(3, 1, "SAME"),
        Residual(Conv(3)),  # f(x) + x: twice the input is in the sum, whose covariance counts four times
        Sequential(Residual(Conv(3)), AvgPool(3, 1, "SAME")),
    ],
    ids=repr,
)
def test_branches_that_may_be_correlated_are_refused(branch):
    with pytest.raises(LayerError, match=CORRELATED):
        Residual(branch).output_shape(WIDE)


@pytest.mark.parametrize(
    "branch",
    [
        Conv(3),
        Sequential(Conv(3), LayerNorm()),
        Sequential(Conv(3), AvgPool(3, 1, "SAME")),
        Residual(Conv(3), Dense()),
        Sequential(Conv(3), Dropout()),
        Product(Conv(3), Dense()),
        Sequential(Conv(3), Relu()),  # beside Gaussians, which have mean 0
    ],
    ids=repr,
)
def test_weights_in_one_branch_make_it_uncorrelated_with_the_other(branch):
    assert Residual(branch).output_shape(WIDE).channels is None
    assert Residual(Identity(), branch).output_shape(WIDE).channels is None


def test_branches_that_both_have_a_mean_are_refused():
    rectified = Shape((4, 5), None, alike=True)
    for branch in (Sequential(Conv(3), Relu()), Sequential(Conv(3), MaxPool((1, 2), 1, "SAME"))):
        with pytest.raises(LayerError, match=r"since both have a mean, .* end one of them in a Conv or Dense"):
            Residual(branch).output_shape(rectified)
    assert Residual(Sequential(Conv(3), Erf())).output_shape(rectified) == replace(rectified)


def test_weights_before_both_branches_do_not_make_them_uncorrelated():
    with pytest.raises(LayerError, match=CORRELATED):
        Residual(LayerNorm()).output_shape(Shape((4, 5), None, gaussian=True))


def test_branches_of_different_size_are_refused_with_the_remedy():
    with pytest.raises(
        LayerError,
        match=r"must agree in shape, got \(2, 3, inf\) and \(4, 5, inf\): put a Conv with the branch's strides",
    ):
        Residual(Conv(3, strides=2)).output_shape(WIDE)
    assert Residual(Conv(3, strides=2), Conv(1, strides=2)).output_shape(WIDE).spatial == (2, 3)


def test_a_shortcut_around_the_first_layer_is_refused_with_the_remedy():
    with pytest.raises(LayerError, match=r"must agree in shape, got \(4, 5, inf\) and \(4, 5, 3\): put a Conv"):
        Residual(Conv(3)).output_shape(Shape((4, 5), 3))


def test_an_error_inside_names_branch_and_position():
    with pytest.raises(LayerError, match=r"^branch: layer 1 \(Relu\) on input \(4, 5, inf\): Relu needs Gaussian"):
        Residual(Sequential(Relu(), Relu())).output_shape(WIDE)
    with pytest.raises(LayerError, match=r"^shortcut: Conv\(.* needs images"):
        Residual(Dense(), Conv(3)).output_shape(Shape(None, None, True))


@pytest.mark.parametrize("name", ["branch", "shortcut"])
@pytest.mark.parametrize("value", [Relu, [Relu()], None])
def test_what_is_no_layer_is_refused(name, value):
    with pytest.raises(LayerError, match=f"the {name} of Residual must be a layer, got "):
        Residual(**({"branch": Flatten()} | {name: value}))
