"""Shapes, and what all layers have in common."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import (
    LAYERS,
    Abs,
    Aggregate,
    AvgPool,
    Bidirectional,
    ClosedForm,
    Concatenate,
    Conv,
    Cos,
    Dense,
    Elementwise,
    Exp,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    GlobalSumPool,
    GraphConv,
    Hermite,
    LastState,
    Layer,
    LeakyRelu,
    LocalAvgPool,
    Maxout,
    MaxPool,
    Padded,
    Pointwise,
    Polynomial,
    Product,
    Rbf,
    Recurrent,
    Relu,
    Repeat,
    Residual,
    Sequential,
    Series,
    Shape,
    SumPool,
)
from cntk_pipeline.layers.base import read_pair
from cntk_pipeline.layers.spelling import spell

ARGUMENTS = {
    Conv: (3,),
    Polynomial: ((0.5, 1.0, -0.2),),
    Hermite: ((0.5, 1.0),),
    Elementwise: ("tanh",),
    AvgPool: (2,),
    SumPool: (2,),
    MaxPool: ((1, 2),),
    LocalAvgPool: (1,),
    Residual: (Sequential(Relu(), Dense()),),
    Product: (Sequential(Relu(), Dense()), Relu()),
    Concatenate: (Relu(), Sequential(Conv(3), Relu())),
    Repeat: (Sequential(Relu(), Dense()), 2, True),
    Recurrent: (Relu(),),
    Bidirectional: (Recurrent(Relu(), b_std=0.1),),
}
MEMBERS = [kind(*ARGUMENTS.get(kind, ())) for kind in LAYERS.values()]


def size_for(layer: Layer) -> tuple[int, int]:
    """Return a size of images, or of sequences, that a layer takes."""
    return (1, 6) if isinstance(layer, Recurrent | Bidirectional | LastState | Padded) else (6, 6)


def test_shapes_are_read_off_arrays_of_images_and_of_vectors():
    assert Shape.of_inputs((10, 32, 24, 3)) == Shape((32, 24), 3)
    assert Shape.of_inputs((10, 7)) == Shape(None, 7)


@pytest.mark.parametrize("shape", [(), (10,), (10, 32, 32), (1, 2, 3, 4, 5)])
def test_inputs_of_other_shapes_are_refused(shape):
    with pytest.raises(
        LayerError, match=r"expected inputs of shape \(n, H, W, C\) or \(n, features\), got .*add the missing axes"
    ):
        Shape.of_inputs(shape)


def test_shapes_print_infinite_width_as_inf():
    assert str(Shape((4, 5), None)) == "(4, 5, inf)"
    assert str(Shape((4, 5), 3)) == "(4, 5, 3)"
    assert str(Shape(None, 7)) == "(7,)"
    assert str(Shape(None, None)) == "(inf,)"


def test_a_layer_with_weights_makes_gaussians_of_infinite_width():
    assert Shape((4, 5), 3).behind_weights((2, 2)) == Shape((2, 2), None, gaussian=True)
    assert Shape(None, None).behind_weights(None) == Shape(None, None, gaussian=True)


def test_other_positions_leave_the_rest_of_a_shape():
    assert Shape((4, 5), None, True).with_spatial(None) == Shape(None, None, True)


def test_a_vector_is_an_image_of_one_pixel():
    assert Shape(None, 7).size == (1, 1)
    assert Shape((4, 5), 7).size == (4, 5)


def test_pairs_are_read_off_one_number_or_two():
    assert read_pair("strides", 2) == read_pair("strides", (2, 2)) == (2, 2)
    assert read_pair("strides", [1, 3]) == (1, 3)
    with pytest.raises(LayerError, match=r"strides must be one or two whole numbers of at least 1, got \(2, 0\)"):
        read_pair("strides", (2, 0))


@pytest.mark.parametrize("layer", MEMBERS, ids=repr)
def test_every_layer_is_a_frozen_value(layer):
    assert isinstance(layer, Layer)
    assert layer == dataclasses.replace(layer)
    assert hash(layer) == hash(dataclasses.replace(layer))
    for field in dataclasses.fields(layer):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(layer, field.name, None)


@pytest.mark.parametrize("layer", MEMBERS, ids=repr)
def test_every_layer_prints_as_it_is_written(layer):
    assert eval(repr(layer), LAYERS | {"Sequential": Sequential}) == layer


SIZES = {AvgPool: (3, 3), SumPool: (3, 3), MaxPool: (6, 3)}
SIZES |= dict.fromkeys((Flatten, GlobalAvgPool, GlobalSumPool, LastState))  # a vector
"""Of what layers make of 6 x 6 positions, or of 6 steps; the other layers keep them."""


@pytest.mark.parametrize("layer", MEMBERS, ids=repr)
def test_every_layer_infers_its_size_and_lowers_to_its_last_node(layer):
    size = size_for(layer)
    shape = Shape(size, None, gaussian=True)
    if repr(layer).startswith(("Rescale", "Padded", "Masked")):
        shape = Shape(size, 3)
    if isinstance(layer, Aggregate | GraphConv):
        shape = Shape((1, 1), 3, is_graph=True)
    assert layer.output_shape(shape).spatial == SIZES.get(type(layer), shape.spatial)
    lowered(layer, shape)


@pytest.mark.parametrize("kind", LAYERS.values())
def test_every_layer_is_final(kind):
    assert not kind.__subclasses__()


@pytest.mark.parametrize("layer", [layer for layer in MEMBERS if isinstance(layer, ClosedForm)], ids=repr)
def test_closed_forms_give_as_many_statistics_as_they_say_and_a_variance(layer):
    statistics = layer.statistics(4.0, layer.constants)
    assert len(statistics) == layer.statistic_count + 1
    assert statistics[0] == 0.5  # the inverse deviation


def test_activations_are_closed_forms_or_series():
    assert all(isinstance(layer, ClosedForm | Series) for layer in MEMBERS if isinstance(layer, Pointwise))


def laws(shape: Shape) -> set[str]:
    return {name for name in ("gaussian", "centred", "alike") if getattr(shape, name)}


RENEWED = {"Conv", "Dense", "GraphConv", "SelfAttention", "LinearAttention"}
"""Layers whose channels are Gaussian whatever lies before."""
BEHIND_GAUSSIANS = {
    "Flatten": {"centred"},
    "MaxPool": {"alike"},
    "Dropout": {"centred", "alike"},
    "Product": {"centred", "alike"},  # of a branch of mean 0
    "Concatenate": set(),  # of branches with a mean
    "Recurrent": {"alike"},
    "Bidirectional": set(),
}
"""What layers that are no activations leave of the laws of Gaussians, where that is not all."""
ODD = {"Erf", "Sin", "Sign", "Elementwise", "LayerNorm"}
"""Of the activations above."""


@pytest.mark.parametrize("layer", MEMBERS, ids=repr)
def test_every_layer_knows_the_laws_of_its_channels(layer):
    name, size = type(layer).__name__, size_for(layer)
    graph = isinstance(layer, Aggregate | GraphConv)
    gaussians = Shape((1, 1) if graph else size, None, gaussian=True, is_graph=graph)
    if repr(layer).startswith(("Rescale", "Padded", "Masked")):
        gaussians = dataclasses.replace(gaussians, channels=3) if name == "Rescale" else Shape(size, 3)
    behind = laws(layer.output_shape(gaussians))
    if isinstance(layer, Pointwise) and name != "LayerNorm":
        assert behind == ({"centred", "alike"} if name in ODD else {"alike"})
    elif name in ("Padded", "Masked"):
        assert behind == set()
    else:
        assert behind == BEHIND_GAUSSIANS.get(name, {"gaussian", "centred", "alike"})


@pytest.mark.parametrize(
    "given", [set(), {"centred"}, {"alike"}, {"centred", "alike"}], ids=lambda laws: " ".join(sorted(laws))
)
@pytest.mark.parametrize("layer", MEMBERS, ids=repr)
def test_no_layer_but_weights_makes_laws(layer, given):
    if layer.inner or isinstance(layer, Pointwise | Recurrent | Bidirectional | MaxPool):
        return  # these ask for Gaussians, or have weights inside
    graph = isinstance(layer, Aggregate | GraphConv)
    shape = Shape((1, 1) if graph else size_for(layer), 3 if "Rescale" in repr(layer) else None, is_graph=graph)
    if repr(layer).startswith(("Padded", "Masked")):
        shape = Shape(size_for(layer), 3)
    behind = laws(layer.output_shape(dataclasses.replace(shape, **dict.fromkeys(given, True))))
    if type(layer).__name__ in RENEWED:
        assert behind == {"gaussian", "centred", "alike"}
    else:
        assert behind == given - ({"alike"} if layer == Flatten() else set())


def test_gaussians_are_centred_and_alike():
    assert laws(Shape(None, None, gaussian=True)) == {"gaussian", "centred", "alike"}
    assert laws(Shape(None, None)) == set()


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (LeakyRelu(1.0), lambda x: x),
        (LeakyRelu(0.5), lambda x: np.maximum(x, 0.5 * x)),
        (Polynomial((0.0, 1.0, 0.0, -2.0)), lambda x: x - 2 * x**3),
        (Polynomial((-1.0, 0.0, 1.0)), lambda x: x**2 - 1),  # of mean 0 at the variance 1 alone
        (Hermite((0.0, 0.0, 1.0)), lambda x: x**2 - 1),
        (Hermite((0.0, 1.0, 0.0, 1.0)), lambda x: x**3 - 2 * x),
        (Rbf(1e4), lambda x: np.sin(2e4**0.5 * x + np.pi / 4)),
        (Elementwise(np.arctan), np.arctan),
        (Elementwise("silu"), lambda x: x / (1 + np.exp(-x))),
        (Elementwise(lambda x: x * x), np.square),
        *[(kind(), None) for kind in (Relu, Abs, Maxout, Gelu, Cos, Exp, Gaussian)],
    ],
)
def test_odd_functions_are_known(layer, function):
    x = np.linspace(0.01, 3, 50)
    assert layer.is_odd is (function is not None and np.allclose(function(-x), -function(x)))


@pytest.mark.parametrize(("name", "layer"), LAYERS.items())
def test_the_table_names_layers_as_python_does(name, layer):
    assert layer.__name__ == name


def in_numpy(value):
    """Give numbers as NumPy has them, and tuples as lists."""
    if isinstance(value, tuple):
        return [in_numpy(each) for each in value]
    kinds = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}
    return kinds[type(value)](value) if type(value) in kinds else value


@pytest.mark.parametrize("layer", MEMBERS, ids=lambda layer: type(layer).__name__)
def test_numbers_of_numpy_make_the_same_layer(layer):
    given = {field.name: in_numpy(getattr(layer, field.name)) for field in dataclasses.fields(layer)}
    same = Sequential(*given["layers"]) if isinstance(layer, Sequential) else type(layer)(**given)
    assert same == layer
    assert hash(same) == hash(layer)
    assert json.dumps(spell(same)) == json.dumps(spell(layer))


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (Conv([3, np.int64(1)]), Conv((3, 1))),
        (Dense(w_std=np.float32(0.1)), Dense(w_std=float(np.float32(0.1)))),
        (Dense(w_std=Fraction(1, 3)), Dense(w_std=1 / 3)),
        (Dense(w_std=np.longdouble(1.5)), Dense(w_std=1.5)),
    ],
)
def test_a_layer_holds_plain_numbers_whatever_it_is_made_with(given, plain):
    assert repr(given) == repr(plain)
    assert lowered(Sequential(given), Shape((4, 4), 1)) == lowered(Sequential(plain), Shape((4, 4), 1))


def test_a_layer_of_one_s_own_holds_plain_numbers_before_its_checks_see_them():
    @dataclasses.dataclass(frozen=True)
    class Doubled(Layer):
        factor: float

        def __post_init__(self):
            assert type(self.factor) is float

        def output_shape(self, shape):
            return shape

        def lower(self, graph, shape, source):
            return graph.rescale(source, self.factor)

    assert spell(Doubled(np.float32(0.5))) == [{"layer": "Doubled", "factor": 0.5}]
