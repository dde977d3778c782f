"""Sequences: recurrent layers against other people's numbers, and laws that they obey."""

from pathlib import Path

import numpy as np
import pytest
from support.tolerances import DTYPES, tolerance

from cntk_pipeline import kernel_matrix
from cntk_pipeline.layers import Dense, Erf, Flatten, GlobalAvgPool, LastState, Recurrent, Relu, Sequential

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
    expected = {LastState: states[:, :, -1, -1], GlobalAvgPool: states.mean((2, 3)), Flatten: np.einsum("xztt->xz", states) / 7}
    for readout, values in expected.items():
        network = Sequential(layer, readout(), Dense(w_std=out_std))
        found = kernel_matrix(network, x, kind="nngp", dtype=dtype)
        np.testing.assert_allclose(found, out_std**2 * values, rtol=tolerance(dtype).golden)
