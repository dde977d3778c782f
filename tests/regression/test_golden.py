"""Against the predictions of neural-tangents 0.6.5 in float64.

The worst condition number of the systems is 1,549 (the NNGP of the training samples), so that two right programs agree
to about 1e-13. All values meet 1e-10 here.
"""

from pathlib import Path

import numpy as np
import pytest

from cntk_pipeline.regression import Blocks, ensemble, gp_posterior, gradient_flow

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "predict.npz")
KINDS = ["nngp", "ntk"]
RIDGES = [0.0, 1e-3, 1e-1]
Y = GOLDEN["y_train"]


def blocks_of(kind: str) -> Blocks:
    return Blocks(*(GOLDEN[f"{part}_{kind}"] for part in ("k_train", "k_test_train", "k_test")))


def assert_golden(actual: np.ndarray | None, name: str) -> None:
    expected = GOLDEN[name]
    assert actual is not None
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_the_golden_kernels_are_well_conditioned() -> None:
    assert all(np.linalg.cond(blocks_of(kind).train) < 1600 for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ridge", RIDGES)
def test_posterior_means(kind: str, ridge: float) -> None:
    given = blocks_of(kind)
    assert_golden(gp_posterior(given.train, Y, given.test_train, ridge=ridge).mean, f"gp_{kind}_reg{ridge}_mean")


@pytest.mark.parametrize("ridge", RIDGES)
def test_posterior_covariances_of_the_nngp(ridge: float) -> None:
    given = blocks_of("nngp")
    posterior = gp_posterior(given.train, Y, given.test_train, given.test, ridge=ridge)
    assert_golden(posterior.covariance, f"gp_nngp_reg{ridge}_cov")


@pytest.mark.parametrize("ridge", RIDGES)
def test_regularised_ensembles_have_the_ridge_in_the_ntk(ridge: float) -> None:
    # What the other system calls the covariance of an NTK's posterior.
    ntk = blocks_of("ntk")
    train = np.asarray(ntk.train)
    regularised = Blocks(train + ridge * np.trace(train) / len(train) * np.eye(len(train)), ntk.test_train)
    trained = ensemble(blocks_of("nngp"), regularised, Y, None)
    assert_golden(trained.mean, f"gp_ntk_reg{ridge}_mean")
    assert_golden(trained.covariance, f"gp_ntk_reg{ridge}_cov")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [0.1, 1.0, 10.0, 1000.0, None])
def test_ensembles_at_every_time(kind: str, t: float | None) -> None:
    trained = ensemble(blocks_of("nngp"), blocks_of(kind), Y, t)
    assert_golden(trained.mean, f"ens_{kind}_t{t}_mean")
    assert_golden(trained.covariance, f"ens_{kind}_t{t}_cov")


@pytest.mark.parametrize("t", [0.1, 1.0, 10.0, 100.0])
def test_gradient_flows_at_every_time(t: float) -> None:
    ntk = blocks_of("ntk")
    flow = gradient_flow(ntk.train, Y, ntk.test_train, t)
    assert_golden(flow.train_mean, f"gd_t{t}_train")
    assert_golden(flow.mean, f"gd_t{t}_test")


def test_every_golden_prediction_is_compared() -> None:
    predictions = [name for name in GOLDEN if name.startswith(("gp_", "ens_", "gd_"))]
    assert len(predictions) == 2 * 2 * len(RIDGES) + 2 * 2 * 5 + 2 * 4
