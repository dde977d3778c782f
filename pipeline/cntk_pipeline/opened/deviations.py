"""Posterior standard deviations of a run in the unit of its targets."""

import numpy as np

from cntk_pipeline.opened.prediction import stored_coefficients
from cntk_pipeline.opened.tiles import read_whole
from cntk_pipeline.regression.posterior import signal_variance
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import System
from cntk_pipeline.solvers.systems import read_targets
from cntk_pipeline.storage.tiled_array import Array


def deviation_factors(run: RunDirectory, system: System) -> Array:
    """Return the factor of the kernel for each column of the targets, ``(columns,)``; see `signal_variance`.

    The columns of a classification are parts of one answer, so that all together have one factor, ``()``.
    """
    coefficients = read_whole(run, stored_coefficients(run, system), f"the solution of {system.label}")
    targets = read_targets(run, (0, run.train_cut.count))
    if run.specification.centres is None:
        factors = signal_variance(targets, coefficients)
    else:
        # y^T (B B^T + ridge I)^-1 y by the matrix inversion lemma; `require_factor` has refused a ridge of zero.
        explained = np.square(run.solved(system.fingerprint, "forward").read(0, 0)).sum(axis=1)
        factors = (np.square(targets).sum(axis=0) - explained) / (system.absolute_ridge * len(targets))
    return factors if run.specification.data.task == "regression" else factors.mean()


def deviations_of(variances: Array, factors: Array) -> Array:
    """Turn posterior variances of the kernel into standard deviations, ``(n,)`` or ``(n, columns)``.

    Rounding may leave a variance below zero; it counts as zero.
    """
    return np.sqrt(np.multiply.outer(np.maximum(variances, 0.0), factors))
