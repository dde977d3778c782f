"""Kernels of each network by itself, layer by layer: against the products of all derivatives."""

import numpy as np
import pytest
import torch
from support.graphs import draw_graphs
from support.networks import GOLDEN
from support.tolerances import tolerance

from cntk_pipeline.errors import DataError, LayerError
from cntk_pipeline.finite import empirical_kernel, empirical_kernels
from cntk_pipeline.graphs import pack
from cntk_pipeline.kernels import KINDS
from cntk_pipeline.layers import (
    Aggregate,
    Conv,
    Dense,
    Dropout,
    Exp,
    Flatten,
    GlobalSumPool,
    GraphConv,
    LayerNorm,
    Padded,
    Recurrent,
    Relu,
    Repeat,
    Sequential,
    Sign,
    presets,
)
from cntk_pipeline.sequences import pad

RNG = np.random.default_rng(11)
VECTORS = RNG.standard_normal((4, 6))
IMAGES = RNG.standard_normal((3, 4, 4, 2))
SEQUENCES = pad([RNG.standard_normal((steps, 2)) for steps in (4, 2, 3)])
LARGER = RNG.standard_normal((2, 8, 8, 2))
GRAPHS = pack(*zip(*draw_graphs([4, 2, 7], features=3, seed=6), strict=True))

NETWORKS = {name: network for name, network in GOLDEN.items() if name != "fc_dropout"} | {
    "exp": Sequential(Dense(w_std=0.5), Exp(), Dense()),
    "first layer fixed": Sequential(Dense(trained=False), Relu(), Dense(b_std=0.3)),
    "last layer fixed": Sequential(Dense(b_std=0.4), Relu(), Dense(trained=False)),
    "nothing trained": Sequential(Dense(trained=False), Relu(), Dense(trained=False)),
    "ends of CNTK-GAP fixed": presets.cntk(3, "gap"),
    "graphs": Sequential(GraphConv(b_std=0.3), Relu(), Aggregate("degree"), Dense(), Relu(), GlobalSumPool(), Dense()),
    "padded": Sequential(Padded(), Conv((1, 3), b_std=0.3), Recurrent(Relu(), b_std=0.2), Conv(2), Flatten(), Dense()),
    "jumps": Sequential(Dense(), Repeat(Sequential(Relu(), Dense(b_std=0.3)), 2, jump=True), Dense()),
    "ends in an activation": Sequential(Conv(3), LayerNorm(), Relu(), Flatten()),
}


def inputs_of(name: str) -> np.ndarray:
    if name in ("myrtle5", "graphs"):
        return LARGER if name == "myrtle5" else GRAPHS
    if name == "padded":
        return SEQUENCES
    images = any(isinstance(layer, Conv) for layer in NETWORKS[name].flattened())
    return IMAGES if images else VECTORS


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_layer_by_layer_the_kernel_is_the_product_of_all_derivatives(name: str, dtype: str) -> None:
    network, x = NETWORKS[name], inputs_of(name)
    found = empirical_kernels(network, x, width=9, seed=3, draws=2, dtype=dtype)
    assert found.shape == (2, 2, len(x), len(x))
    for kind, of_kind in zip(KINDS, found.mean(0), strict=True):
        expected = empirical_kernel(network, x, kind=kind, width=9, seed=3, draws=2)
        np.testing.assert_allclose(of_kind, expected, rtol=0, atol=10 * tolerance(dtype).kernel * abs(expected).max())
        assert expected.any() or (kind, name) == ("ntk", "nothing trained")


def test_kinds_come_in_the_order_that_is_asked_for() -> None:
    network = GOLDEN["fc2_erf"]
    both, turned = (empirical_kernels(network, VECTORS, kinds=kinds, width=9) for kinds in (KINDS, KINDS[::-1]))
    np.testing.assert_array_equal(both, turned[:, ::-1])
    # Of the NTK alone there is one output, whose weights are the same.
    alone = empirical_kernels(network, VECTORS, kinds=("ntk",), width=9)
    np.testing.assert_allclose(alone[:, 0], both[:, 1], rtol=1e-12)


def test_networks_differ() -> None:
    first, second = empirical_kernels(GOLDEN["fc2_erf"], VECTORS, width=9, draws=2)
    assert abs(first - second).max() > 0.01


def test_torch_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        empirical_kernels(GOLDEN["fc2_erf"], VECTORS, width=9)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (GOLDEN["fc2_erf"], {"width": 0}, "width must be a whole number of at least 1, got 0"),
        (GOLDEN["fc2_erf"], {"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        (GOLDEN["fc2_erf"], {"kinds": ()}, 'at least one kind, "nngp" or "ntk", got none'),
        (GOLDEN["fc2_erf"], {"kinds": "ntk"}, r'kinds is a list, got .ntk.: write kinds=\("ntk",\)'),
        (GOLDEN["fc2_erf"], {"kinds": ("nkt",)}, 'a kernel is "nngp" or "ntk", got kind=\'nkt\''),
        (Sequential(Dense(), Sign(), Dense()), {}, r"Sign\(\) has no NTK, only an NNGP"),
        (Sequential(Dense(), Dropout(0.5), Dense()), {}, r"Dropout\(rate=0.5\) draws a mask for each sample"),
    ],
)
def test_a_kernel_that_no_finite_network_has_is_refused(network, options, message) -> None:
    with pytest.raises(LayerError, match=message):
        empirical_kernels(network, VECTORS, **({"width": 4} | options))


def test_no_input_is_refused() -> None:
    with pytest.raises(DataError, match=r"x must hold at least one input, got shape \(0, 6\)"):
        empirical_kernels(GOLDEN["fc2_erf"], VECTORS[:0], width=4)
