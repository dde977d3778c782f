"""Products and concatenations of branches, and repeated blocks: shapes, operations, and what is refused."""

from dataclasses import replace

import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.gram.networks import layer_count
from cntk_pipeline.layers import (
    Concatenate,
    Conv,
    Dense,
    Flatten,
    Identity,
    LayerNorm,
    Product,
    Relu,
    Repeat,
    Residual,
    SelfAttention,
    Sequential,
    Shape,
    Sign,
    Windows,
)
from cntk_pipeline.layers.kinds import require_kind

WIDE = Shape((4, 5), None, gaussian=True)
ROWS, COLUMNS = Windows.single(4), Windows.single(5)
GATE = Sequential(Dense(), Relu())


def test_a_product_multiplies_what_both_branches_make_of_the_same_node():
    assert lowered(Product(GATE, Dense(w_std=2.0)), WIDE) == [
        ("weigh", 0, ROWS, COLUMNS, 1.0, 0.0, 1.0),
        ("apply", 1, Relu()),
        ("weigh", 0, ROWS, COLUMNS, 4.0, 0.0, 1.0),
        ("multiply", 2, 3),
    ]
    assert Product(GATE, Dense()).output_shape(WIDE) == Shape((4, 5), None, False, centred=True, alike=True)
    assert Product(GATE, GATE).output_shape(WIDE) == Shape((4, 5), None, False, alike=True)


def test_a_concatenation_averages_by_the_share_of_channels():
    assert lowered(Concatenate(Relu(), Identity(), 0.25), WIDE) == [
        ("apply", 0, Relu()),
        ("rescale", 1, 0.25),
        ("rescale", 0, 0.75),
        ("add", 2, 3),
    ]
    mixed = Concatenate(Dense(), Dense(w_std=2.0)).output_shape(WIDE)
    assert mixed == Shape((4, 5), None, False, centred=True)
    assert Concatenate(Dense(), Dense()).output_shape(WIDE) == replace(mixed, alike=True)


def test_a_block_is_repeated_and_its_input_injected():
    block = Sequential(Relu(), Dense())
    weigh = (ROWS, COLUMNS, 1.0, 0.0, 1.0)
    assert lowered(Repeat(block, 2), WIDE) == [
        ("apply", 0, Relu()), ("weigh", 1, *weigh), ("apply", 2, Relu()), ("weigh", 3, *weigh),
    ]  # fmt: skip
    assert lowered(Repeat(block, 2, inject=True), WIDE) == [
        ("apply", 0, Relu()), ("weigh", 1, *weigh), ("add", 2, 0),
        ("apply", 3, Relu()), ("weigh", 4, *weigh), ("add", 5, 0),
    ]  # fmt: skip
    assert Repeat(block, 3).output_shape(WIDE) == Shape((4, 5), None, True)
    assert Repeat(Sequential(Dense(), Relu()), 3).output_shape(Shape((4, 5), None, False)).channels is None


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Dense(), True),
        (Conv(3), True),
        (SelfAttention(), True),
        (Relu(), False),
        (Sequential(Relu(), Dense(), Relu()), True),
        (Sequential(), False),
        (Residual(Dense()), False),
        (Residual(Dense(), Conv(1)), True),
        (Product(Dense(), Identity()), False),
        (Concatenate(Dense(), Conv(3)), True),
        (Repeat(Dense(), 2), True),
        (Repeat(Dense(), 2, inject=True), False),
    ],
    ids=repr,
)
def test_weights_on_every_way_through_a_layer_renew_what_comes_out(layer, expected):
    assert layer.renews is expected


@pytest.mark.parametrize("gate", [Identity(), Relu(), LayerNorm(), Residual(Dense())], ids=repr)
def test_factors_that_depend_on_each_other_are_refused(gate):
    with pytest.raises(LayerError, match=r"branch and gate of Product depend on each other, .* put a Conv or Dense"):
        Product(Relu(), gate).output_shape(WIDE)
    assert Product(Dense(), gate).output_shape(WIDE).channels is None


def test_an_injection_into_a_block_that_depends_on_it_is_refused():
    with pytest.raises(
        LayerError, match=r"adds its input to a block that depends on it, .* end the block in a Conv or"
    ):
        Repeat(Residual(Sequential(Relu(), Dense())), 2, inject=True).output_shape(WIDE)
    assert Repeat(Residual(Sequential(Relu(), Dense())), 2).output_shape(WIDE).gaussian


@pytest.mark.parametrize("kind", [Product, Concatenate])
def test_branches_of_different_size_are_refused(kind):
    name = "branch and gate" if kind is Product else "first and second"
    with pytest.raises(LayerError, match=rf"{name} of {kind.__name__} must agree in shape, got \(2, 3, inf\) and \(4"):
        kind(Conv(3, strides=2), Dense()).output_shape(WIDE)


def test_an_error_inside_names_the_branch():
    not_gaussian = Shape((4, 5), None, gaussian=False)
    with pytest.raises(LayerError, match=r"^gate: Relu needs Gaussian"):
        Product(Dense(), Relu()).output_shape(not_gaussian)
    with pytest.raises(LayerError, match=r"^second: Relu needs Gaussian"):
        Concatenate(Dense(), Relu()).output_shape(not_gaussian)
    with pytest.raises(LayerError, match=r"^block, time 2: Relu needs Gaussian"):
        Repeat(Relu(), 2).output_shape(WIDE)
    with pytest.raises(LayerError, match=r"^layer 1 \(Product\): gate: Sign\(\) has no NTK"):
        require_kind(Sequential(Dense(), Product(Dense(), Sign()), Dense()), "ntk", (5,))


def test_a_block_that_changes_the_shape_is_refused():
    with pytest.raises(
        LayerError, match=r"the block of Repeat must keep the shape, got \(2, 3, inf\) from \(4, 5, inf"
    ):
        Repeat(Conv(3, strides=2), 2).output_shape(WIDE)
    with pytest.raises(LayerError, match=r"must keep the shape, .* and a Conv or Dense layer before the Repeat"):
        Repeat(Dense(), 2).output_shape(Shape((4, 5), 3))


def test_a_concatenation_of_raw_inputs_is_refused():
    with pytest.raises(LayerError, match="Concatenate needs infinitely many channels: put a Conv or Dense"):
        Concatenate(Identity(), Identity()).output_shape(Shape((4, 5), 3))


@pytest.mark.parametrize("share", [0, 1, -0.5, "half", None])
def test_a_share_beyond_its_range_is_refused(share):
    with pytest.raises(LayerError, match="share must lie between 0 and 1, got"):
        Concatenate(Dense(), Dense(), share)


@pytest.mark.parametrize("times", [0, -1, 1001, 2.0, True, None])
def test_times_that_are_no_count_are_refused(times):
    with pytest.raises(LayerError, match="times must be a whole number from 1 to 1000, got"):
        Repeat(Dense(), times)


def test_what_is_no_layer_or_truth_value_is_refused():
    for kind, name in ((Product, "gate"), (Concatenate, "second")):
        with pytest.raises(LayerError, match=f"the {name} of {kind.__name__} must be a layer, got 3"):
            kind(Dense(), 3)
    with pytest.raises(LayerError, match="the block of Repeat must be a layer, got 3"):
        Repeat(3, 2)
    with pytest.raises(LayerError, match="inject must be True or False, got 1"):
        Repeat(Dense(), 2, 1)


def test_repeated_layers_are_counted_as_often():
    assert layer_count(Repeat(Sequential(Relu(), Dense()), 10)) == 1 + 10 * 3
    assert layer_count(Repeat(Repeat(Dense(), 1000), 1000)) == 1 + 1000 + 1000**2
    assert layer_count(Sequential(Flatten(), Dense())) == 3
