"""Layers that change what the channels of a position are as a whole."""

import numpy as np
import pytest
from support.tape import lowered
from twin.gaussian import PAIRS, dual, variance_behind

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import Concatenate, Dense, Dropout, Erf, Flatten, LayerNorm, MaxPool, Product, Relu, Shape

WIDE = Shape((4, 5), None, gaussian=True)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_normalised_covariances_are_correlations(pair):
    a, b, c = pair
    np.testing.assert_allclose(dual(LayerNorm(), *pair), (c / np.sqrt(a * b), 1 / np.sqrt(a * b)), rtol=1e-10)


@pytest.mark.parametrize("variance", [1e-3, 1.0, 50.0])
def test_normalised_variances_are_one(variance):
    assert variance_behind(LayerNorm(), variance) == pytest.approx(1, abs=1e-8)
    assert dual(LayerNorm(), variance, variance, variance)[0] == pytest.approx(variance_behind(LayerNorm(), variance))


def test_what_is_always_zero_stays_zero():
    assert variance_behind(LayerNorm(), 0.0) == 0
    assert np.isfinite(dual(LayerNorm(), 0.0, 1.0, 0.0)).all()


def test_an_activation_may_follow_a_normalisation():
    assert Relu().output_shape(LayerNorm().output_shape(WIDE)) == Shape((4, 5), None, False, alike=True)
    assert LayerNorm().output_shape(WIDE) == WIDE


@pytest.mark.parametrize("before", [Dropout(), Erf(), Flatten(), Product(Dense(), Relu())], ids=repr)
def test_a_normalisation_keeps_what_has_mean_0(before):
    shape = before.output_shape(WIDE)
    assert LayerNorm().output_shape(shape) == shape
    assert not shape.gaussian


@pytest.mark.parametrize("before", [Relu(), MaxPool((1, 2)), Concatenate(Dense(), Relu())], ids=repr)
def test_a_normalisation_of_what_has_a_mean_is_refused(before):
    with pytest.raises(LayerError, match="LayerNorm needs inputs of mean 0: put a Conv or Dense layer between it"):
        LayerNorm().output_shape(before.output_shape(WIDE))


@pytest.mark.parametrize(("rate", "factor"), [(0.5, 2.0), (0.2, 1.25)])
def test_dropout_raises_the_variance_of_a_sample_with_itself(rate, factor):
    assert lowered(Dropout(rate), WIDE) == [("mask", 0, pytest.approx(factor))]


def test_dropout_of_nothing_changes_nothing():
    assert lowered(Dropout(0), WIDE) == []


def test_masked_gaussians_are_not_gaussian():
    assert Dropout().output_shape(WIDE) == Shape((4, 5), None, False, centred=True, alike=True)
    assert not Dropout().output_shape(Relu().output_shape(WIDE)).centred


@pytest.mark.parametrize("rate", [1, 1.5, -0.1, float("nan"), "0.5"])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(LayerError, match="Dropout needs the share that is dropped, 0 <= rate < 1, got "):
        Dropout(rate)
