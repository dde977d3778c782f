"""Laws of channels: one function written in two orders, sums and products against random networks, and refusals."""

import numpy as np
import pytest

from cntk_pipeline import kernel_matrix
from cntk_pipeline.errors import LayerError
from cntk_pipeline.kernels import KINDS
from cntk_pipeline.layers import (
    Attend,
    AvgPool,
    Bidirectional,
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Erf,
    Flatten,
    GlobalAvgPool,
    Identity,
    LastState,
    Layer,
    LayerNorm,
    Maxout,
    MaxPool,
    Padded,
    Product,
    Recurrent,
    Relu,
    Repeat,
    Residual,
    Sequential,
    Shape,
)

Array = np.ndarray

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((3, 1, 4, 2)) * np.array([3.0, 1.0, 0.3, 0.1])[:, None]
"""Of positions with unequal variances."""
VECTORS = np.array([[1.0, 0.3, -0.2], [0.2, -1.0, 0.5], [1.0, 0.5, 0.0]])

WIDE = Dense(w_std=3.0)
MIXED = Concatenate(Dense(), WIDE)
FLAT = Sequential(Dense(), Flatten())
STATES = Recurrent(Relu(), w_std=1.2)
STEP = Sequential(Dense(), Relu())


def kernels(x: Array, *layers: Layer) -> Array:
    """Evaluate both kernels, (2, n, n)."""
    return np.stack([kernel_matrix(Sequential(*layers), x, kind=kind, dtype="float64") for kind in KINDS])


@pytest.mark.parametrize(
    "layers",
    [
        [Conv(3), Flatten(), Erf()],
        [Padded(), Dense(), Flatten(), Relu()],
        [Conv(3), Flatten(), LayerNorm(), Relu()],
        [Conv(3), Flatten(), Maxout()],
        [Conv(3), Flatten(), Residual(Sequential(Relu(), Dense()))],
        [Dense(), Residual(Sequential(Conv(3), Flatten()), Sequential(Conv(3), Flatten())), Relu()],
    ],
    ids=repr,
)
def test_an_activation_behind_several_positions_side_by_side_is_refused(layers):
    with pytest.raises(LayerError, match="needs Gaussian inputs: put a Conv or Dense layer between it and"):
        Sequential(*layers, Dense()).output_shape(Shape((1, 4), 3))


def test_an_activation_behind_one_position_side_by_side_is_none_of_several():
    x = IMAGES[:, :, :1]
    one, other = kernels(x, Dense(), Flatten(), Relu()), kernels(x, Dense(), Relu(), Flatten())
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_sums_of_branches_that_end_in_flatten_are_those_before_it():
    behind = Residual(FLAT, Sequential(WIDE, Flatten())), Dense()
    np.testing.assert_allclose(
        kernels(IMAGES, *behind), kernels(IMAGES, Residual(Dense(), WIDE), Flatten(), Dense()), rtol=1e-12
    )


def test_normalised_channels_of_several_laws_have_the_mean_variance_1():
    nngp, ntk = kernels(IMAGES, Dense(), Flatten())
    deviation = np.sqrt(np.diag(nngp))
    expected = np.stack([nngp, ntk]) / np.outer(deviation, deviation)
    np.testing.assert_allclose(kernels(IMAGES, Dense(), Flatten(), LayerNorm()), expected, rtol=1e-10)


def test_dropout_before_normalisation_lowers_correlations_of_different_samples():
    x = VECTORS[[0, 1, 1]]
    nngp, ntk = kernels(x, Dense())
    deviation = np.sqrt(np.diag(nngp) / 0.75)
    raised = np.where(np.eye(3), 1 / 0.75, 1.0)
    expected = np.stack([nngp, ntk]) * raised / np.outer(deviation, deviation)
    np.testing.assert_allclose(kernels(x, Dense(), Dropout(0.25), LayerNorm()), expected, rtol=1e-10)


def test_dropout_in_a_branch_raises_what_the_branch_adds():
    nngp, ntk = kernels(VECTORS, Dense())
    raised = 1 + np.where(np.eye(3), 1 / 0.75, 1.0)
    found = kernels(VECTORS, Dense(), Residual(Sequential(Dense(), Dropout(0.25))))
    np.testing.assert_allclose(found[0], nngp * raised, rtol=1e-12)
    np.testing.assert_allclose(found[1], ntk + (raised - 1) * (ntk + nngp), rtol=1e-12)


ACCEPTED = {
    "activation at the end of a branch": [Dense(w_std=1.5), Residual(STEP)],
    "injected Gaussians": [Dense(w_std=1.5), Repeat(STEP, 2, inject=True)],
    "odd block": [Dense(w_std=1.5), Relu(), Repeat(Sequential(Dense(w_std=2.0), Erf()), 2, inject=True)],
    "product in a branch": [Dense(), Relu(), Residual(Product(Dense(), STEP))],
    "normalised product": [Dense(), Relu(), Product(Dense(), STEP), LayerNorm()],
    "normalised odd function": [Dense(w_std=2.0), Erf(), LayerNorm()],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_taken_is_the_limit_of_random_networks(name):
    pytest.importorskip("torch")
    from cntk_pipeline.finite import empirical_kernels

    layers = *ACCEPTED[name], Dense()
    drawn = empirical_kernels(Sequential(*layers), VECTORS, width=512, draws=6, seed=1)
    expected = kernels(VECTORS, *layers)
    deviation = np.sqrt(expected[:, [0, 1, 2], [0, 1, 2]])
    away = (drawn.mean(0) - expected) / (deviation[:, :, None] * deviation[:, None])
    assert abs(away).max() < 0.15


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("inject", [False, True])
def test_tied_weights_have_the_same_kernel_where_they_lie_on_every_way(tied, inject):
    rng, width = np.random.default_rng(3), 1500
    x = VECTORS @ rng.standard_normal((3, width)) / 3**0.5
    z = x
    for time in range(3):
        if time == 0 or not tied:
            weights = rng.standard_normal((width, width), np.float32) / width**0.5
        z = np.maximum(z @ weights, 0) + inject * x
    expected = kernels(VECTORS, Dense(), Repeat(STEP, 3, inject=inject))[0]
    deviation = np.sqrt(np.diag(expected))
    assert (abs(z @ z.T / width - expected) / np.outer(deviation, deviation)).max() < 0.2


@pytest.mark.parametrize(("tied", "expected"), [(False, 4.0), (True, 6.14)])
def test_tied_weights_have_another_kernel_behind_skip_connections(tied, expected):
    block = Residual(Sequential(Relu(), Dense(w_std=2**0.5)))
    assert kernels(np.ones((1, 3)), Dense(), Repeat(block, 2))[0, 0, 0] == pytest.approx(4.0)
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        z = rng.standard_normal(1000)
        one, two = (rng.standard_normal((1000, 1000), np.float32) * (2 / 1000) ** 0.5 for _ in range(2))
        z = z + one @ np.maximum(z, 0)
        z = z + (one if tied else two) @ np.maximum(z, 0)
        found.append(np.mean(z**2))
    assert np.mean(found) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "layers",
    [
        [Dense(), Relu(), Repeat(STEP, 2, inject=True)],
        [STATES, Repeat(Recurrent(Relu()), 2, inject=True)],
        [Dense(), MaxPool((1, 2), 1, "SAME"), Repeat(STEP, 2, inject=True)],
        [Dense(), Relu(), Dropout(), Repeat(STEP, 2, inject=True)],
    ],
    ids=repr,
)
def test_an_injection_of_what_has_a_mean_into_what_has_one_is_refused(layers):
    with pytest.raises(LayerError, match="both have a mean, so that their covariances do not add up: end the block in"):
        Sequential(*layers, Dense()).output_shape(Shape((1, 4), 3))


def test_a_sum_of_branches_that_both_have_a_mean_is_refused():
    with pytest.raises(LayerError, match=r"are correlated, since both have a mean, .* end one of them in a Conv or"):
        Sequential(Dense(), Relu(), Residual(STEP)).output_shape(Shape(None, 3))


@pytest.mark.parametrize(
    "branch",
    [
        MIXED,
        FLAT,
        Sequential(MIXED, LayerNorm()),
        Sequential(MIXED, Dropout()),
        Sequential(Dense(), Repeat(Dense(), 1, jump=True)),
        Bidirectional(STATES),
        Sequential(Bidirectional(STATES), LastState()),
        Sequential(Bidirectional(STATES), Attend(), AvgPool((1, 2))),
        Residual(MIXED, MIXED),
        Product(MIXED, Dense()),
        Sequential(Concatenate(MIXED, MIXED), GlobalAvgPool()),
    ],
    ids=repr,
)
def test_products_of_channels_of_several_laws_are_refused(branch):
    with pytest.raises(LayerError, match=r"both have channels of several laws .* end one of them in a Conv or Dense"):
        Product(branch, branch).output_shape(Shape((1, 4), 3))
    assert Product(branch, Sequential(branch, Dense())).output_shape(Shape((1, 4), 3)).channels is None


def test_one_factor_of_one_law_is_enough():
    x = np.array([[1.0, 1.0]])  # channels of variances 1 and 9
    np.testing.assert_allclose(kernels(x, MIXED, Product(Dense(), Identity()))[0], (1 + 9) / 2 * 5)
    np.testing.assert_allclose(kernels(x, Product(Concatenate(Dense(), Dense()), MIXED))[0], 5)


def test_products_before_flatten_are_taken():
    nngp = kernels(IMAGES, Product(Dense(), Dense()), Flatten())[0]
    each = np.einsum("xhwc,zhwc->xzw", IMAGES, IMAGES) / 2
    np.testing.assert_allclose(nngp, (each**2).mean(-1), rtol=1e-12)
