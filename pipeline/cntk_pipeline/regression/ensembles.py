"""The ensemble of infinitely wide networks, each trained from its own random start."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.regression.arguments import (
    Array,
    TrainKernel,
    as_cross_kernel,
    as_targets,
    as_test_kernel,
    as_train_kernel,
)
from cntk_pipeline.regression.dynamics import flow_basis, flow_time, learned_inverse
from cntk_pipeline.regression.factors import cholesky, solve
from cntk_pipeline.regression.posterior import Predictive


@dataclass(frozen=True)
class Blocks:
    """One kernel on training and test samples.

    Attributes
    ----------
    train : array, (n, n)
    test_train : array, (n_test, n)
    test : array, (n_test, n_test), optional
        The NNGP needs it for a covariance; for the NTK it is never read.
    """

    train: npt.ArrayLike
    test_train: npt.ArrayLike
    test: npt.ArrayLike | None = None


BlocksLike = Blocks | tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None]


def ensemble(nngp: BlocksLike, ntk: BlocksLike, y: npt.ArrayLike, t: float | None) -> Predictive:
    """Evaluate the mean and covariance of infinitely wide networks at time ``t`` of training.

    A network starts as a draw of the NNGP (K) and moves by the NTK (T). With ``A = T* T^-1 (I - exp(-T t / (n c)))``
    its outputs at time t are ``f*(0) + A (Y - f(0))``, so that over random starts they are Gaussian with mean ``A Y``
    and covariance ``K** + A K A^T - (A K*^T + K* A^T)`` (Lee et al. 2019, arXiv:1902.06720, equations 14 to 16).
    Where only the last layer is trained, both kernels are the NNGP, and the end of training is the posterior of a
    Gaussian process without noise. An ensemble trained with a ridge has it on the diagonal of ``ntk.train``.

    Parameters
    ----------
    nngp, ntk : Blocks, or tuple (train, test_train, test)
        Of the same samples.
    y : array, (n, c) or (n,)
        Targets.
    t : float or None
        Time of gradient flow with learning rate 1 under the loss ``1/2 mean over all n c entries``, as in
        `gradient_flow`; None or infinity is the end of training.

    Returns
    -------
    Predictive
        Without a covariance where ``nngp.test`` is None.

    Raises
    ------
    ConfigError
        If a shape does not fit, a matrix is not symmetric, or the time is invalid.
    NotFinite
        If an entry is nan or infinite.
    NotPositiveDefinite
        If the NTK has a negative eigenvalue, or one that is zero to rounding and matters at that time.

    Examples
    --------
    Before training the networks differ; after it they agree on the training samples.

    >>> kernel = Blocks(train=[[1.0]], test_train=[[1.0]], test=[[1.0]])
    >>> before, after = (ensemble(kernel, kernel, [2.0], t) for t in (0, None))
    >>> before.covariance, after.covariance
    (array([[1.]]), array([[0.]]))
    """
    start, moves = _as_blocks(nngp, "nngp"), _as_blocks(ntk, "ntk")
    ntk_train = as_train_kernel(moves.train, "ntk.train")
    ntk_cross = as_cross_kernel(moves.test_train, ntk_train, "ntk.test_train")
    nngp_train = as_train_kernel(start.train, "nngp.train")
    nngp_cross = as_cross_kernel(start.test_train, nngp_train, "nngp.test_train")
    if nngp_cross.shape != ntk_cross.shape:
        raise ConfigError(
            f"nngp and ntk must be of the same samples: nngp.test_train is {nngp_cross.shape}, ntk.test_train "
            f"{ntk_cross.shape}"
        )
    targets = as_targets(y, ntk_train)
    prior = None if start.test is None else as_test_kernel(start.test, len(nngp_cross), "nngp.test")
    response = _response(ntk_train, ntk_cross, flow_time(t, targets.size))
    mean = response @ targets
    if prior is None:
        return Predictive(mean)
    # In this order the two large terms cancel before they are multiplied once more.
    half = (0.5 * response @ nngp_train.values - nngp_cross) @ response.T
    return Predictive(mean, prior + (half + half.T))


def _response(kernel: TrainKernel, cross: Array, time: float) -> Array:
    """Evaluate A, ``(n_test, n)``: the response of the test outputs to the training targets."""
    if np.isinf(time):
        return solve(cholesky(kernel, 0.0), cross.T).T
    values, vectors = flow_basis(kernel, time)
    return (cross @ vectors * learned_inverse(values, time)) @ vectors.T


def _as_blocks(blocks: BlocksLike, name: str) -> Blocks:
    if isinstance(blocks, Blocks):
        return blocks
    if isinstance(blocks, tuple) and len(blocks) == 3:
        return Blocks(*blocks)
    raise ConfigError(f"{name} must be Blocks(train, test_train, test) or a tuple of these three, got {type(blocks)}")
