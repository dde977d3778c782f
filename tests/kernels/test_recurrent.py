"""Sequences: recurrent layers against other people's numbers, and laws that they obey."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tolerances import DTYPES, assert_kernels_close, tolerance
from twin import reference

from cntk_pipeline import kernel_matrix, summary
from cntk_pipeline.errors import DataError, LayerError
from cntk_pipeline.estimators import KernelRegressor
from cntk_pipeline.finite import empirical_kernels
from cntk_pipeline.kernels import KINDS, lower
from cntk_pipeline.kernels.cuda.supported import require_supported
from cntk_pipeline.layers import (
    Bidirectional,
    Conv,
    Dense,
    Erf,
    Flatten,
    GlobalAvgPool,
    LastState,
    Recurrent,
    Relu,
    Sequential,
    Sign,
)

VALUES = Path(__file__).parents[1] / "golden" / "recurrent.npz"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(VALUES))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_ntk_is_that_of_the_published_code(golden, depth, dtype):
    x, (last, average) = golden[f"relu{depth}/x"][:, None], golden[f"relu{depth}/raw"]
    w_std, u_std, b_std, out_std = golden[f"relu{depth}/params"]
    layers = [Recurrent(Relu(), w_std=w_std, u_std=u_std, b_std=b_std)] * depth

    def ntk(readout):
        return kernel_matrix(Sequential(*layers, readout, Dense(w_std=out_std)), x, dtype=dtype)

    rtol = tolerance(dtype).golden
    np.testing.assert_allclose(ntk(LastState()), last, rtol=rtol)
    # What is published as an average is one over equal times, in which the last one counts twice.
    np.testing.assert_allclose(ntk(Flatten()) + ntk(LastState()) / x.shape[2], average, rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_nngp_is_that_of_the_covariances_of_states(golden, dtype):
    x, states = golden["erf/x"][:, None], golden["erf/state_covariance"]
    w_std, u_std, b_std, out_std = np.sqrt(golden["erf/params_variances"])
    layer = Recurrent(Erf(), w_std=w_std, u_std=u_std, b_std=b_std)
    expected = {
        LastState: states[:, :, -1, -1],
        GlobalAvgPool: states.mean((2, 3)),
        Flatten: np.einsum("xztt->xz", states) / 7,
    }
    for readout, values in expected.items():
        network = Sequential(layer, readout(), Dense(w_std=out_std))
        found = kernel_matrix(network, x, kind="nngp", dtype=dtype)
        np.testing.assert_allclose(found, out_std**2 * values, rtol=tolerance(dtype).golden)


RNG = np.random.default_rng(8)
SEQUENCES = RNG.standard_normal((5, 6, 2))
SEQUENCES[4] = SEQUENCES[0]
LAYER = Recurrent(Relu(), w_std=1.2, u_std=0.8, b_std=0.3)
BACKWARD = replace(LAYER, backward=True)


@pytest.mark.parametrize("kind", KINDS)
def test_laws_of_sequences(kind):
    def kernel(*layers, x=SEQUENCES):
        return kernel_matrix(Sequential(*layers, Dense(b_std=0.1)), x, kind=kind, dtype="float64")

    forward = kernel(LAYER, LastState())
    # Time turned back, in the layer and in the data.
    last_of_backward = kernel(BACKWARD, LastState(backward=True), x=SEQUENCES[:, ::-1])
    np.testing.assert_allclose(last_of_backward, forward, rtol=1e-13)
    # Both directions at equal steps are half of each.
    both, one, other = (kernel(each, Flatten()) for each in (Bidirectional(LAYER), LAYER, BACKWARD))
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-13)
    # A single step is a dense layer, whose biases are the layer's.
    single = kernel(LAYER, LastState(), x=SEQUENCES[:, :1])
    dense = kernel(Dense(w_std=0.8, b_std=0.3), Relu(), x=SEQUENCES[:, 0])
    np.testing.assert_allclose(single, dense, rtol=1e-13)
    # Without weights between steps, every step is one.
    steps = kernel(Recurrent(Relu(), w_std=0), GlobalAvgPool())
    np.testing.assert_allclose(steps, kernel(Conv(1), Relu(), GlobalAvgPool(), x=SEQUENCES[:, None]), rtol=1e-13)
    # The last state has not seen less than the first step, and equal sequences are one.
    assert (forward[0] == forward[4]).all()
    assert np.linalg.eigvalsh(kernel(LAYER, GlobalAvgPool())[:4, :4]).min() > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sequences_keep_their_accuracy_in_both_dtypes(dtype):
    # One channel has correlations of exactly +-1 at the first steps; slow changes, near 1 between all of them.
    t = np.linspace(0, 3, 60)
    x = np.sin(t + RNG.uniform(0, 6, (6, 1)))[..., None].astype(np.float32)
    x = np.concatenate([x, x[:1] + np.float32(1e-3) * x[1:2]])
    network = Sequential(Recurrent(Relu(), w_std=2**0.5, u_std=0.5, b_std=0.1), GlobalAvgPool(), Dense())
    found = kernel_matrix(network, x, dtype=dtype)
    expected = reference.evaluate(network, x[:, None], None, "ntk")
    assert_kernels_close(found, expected, tolerance(dtype).parallel)


def test_sequences_of_three_axes_are_for_networks_that_have_such_layers():
    network = Sequential(LAYER, LastState(), Dense())
    np.testing.assert_array_equal(kernel_matrix(network, SEQUENCES), kernel_matrix(network, SEQUENCES[:, None]))
    model = KernelRegressor(network).fit(SEQUENCES, SEQUENCES[:, 0, 0])
    assert model.predict(SEQUENCES[:2]).shape == (2,)
    with pytest.raises(DataError, match=r"sequences \(n, T, C\) are images of one row, x1\[:, None\]"):
        kernel_matrix(Sequential(Conv(3), Relu(), Flatten(), Dense()), SEQUENCES)


def test_flips_and_cards_are_refused():
    network = Sequential(LAYER, GlobalAvgPool(), Dense())
    with pytest.raises(LayerError, match="averaging over flips needs a network that does not tell left from right"):
        kernel_matrix(network, SEQUENCES, flips=True)
    program = lower([(network, "ntk")], (1, 6, 2))
    with pytest.raises(
        LayerError, match=r'"cuda" cannot compute layer 0, Recurrent.*a step waits for the one before it'
    ):
        require_supported(program, [(network, "ntk")], (1, 6, 2))


def test_a_function_without_slopes_has_no_ntk_in_a_recurrent_layer():
    with pytest.raises(LayerError, match=r"layer 0 \(Recurrent\): activation: Sign\(\) has no NTK"):
        kernel_matrix(Sequential(Recurrent(Sign()), LastState(), Dense()), SEQUENCES)


def test_a_network_shows_its_recurrent_layers():
    text = str(summary(Sequential(Bidirectional(LAYER), LAYER, GlobalAvgPool(), Dense()), (1, 6, 2)))
    assert "Bidirectional(Recurrent(Relu(), w_std=1.2, u_std=0.8, b_std=0.3))" in text
    # Six steps, both directions and their mean, at 11 offsets.
    assert re.search(r"1  Recurrent\(Relu\(\), .*\(1, 6, inf\) +11 +36\n", text)


@pytest.mark.slow
def test_wide_finite_networks_have_these_kernels():
    network = Sequential(
        Bidirectional(Recurrent(Erf(), w_std=1.3, b_std=0.2)), BACKWARD, LastState(backward=True), Dense(w_std=1.1)
    )
    x = SEQUENCES[:3, :4]
    found = empirical_kernels(network, x, width=512, draws=24, kinds=KINDS)
    for kind, values in zip(KINDS, found.swapaxes(0, 1), strict=True):
        deviation = values.std(0, ddof=1) / 24**0.5
        expected = kernel_matrix(network, x, kind=kind, dtype="float64")
        assert (np.abs(values.mean(0) - expected) < 4 * deviation).all()
        assert (deviation < 0.05 * expected.max()).all()
