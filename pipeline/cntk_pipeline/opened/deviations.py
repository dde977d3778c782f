"""Posterior standard deviations of a run in the unit of its targets."""

import numpy as np

from cntk_pipeline.inference.evidence import column_scales, kernel_scales
from cntk_pipeline.opened.predict_in_memory import stored_coefficients
from cntk_pipeline.opened.tiles import read_whole
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import System
from cntk_pipeline.storage.tiled_array import Array


def deviation_factors(run: RunDirectory, system: System) -> Array:
    """Return the factor of the kernel for each column of the targets, ``(columns,)``; see `signal_variance`.

    The columns of a classification are parts of one answer, so that all together have one factor, ``()``. They are the
    ``scales`` of the evidence.
    """
    coefficients = read_whole(run, stored_coefficients(run, system), f"the solution of {system.label}")
    return kernel_scales(run.specification.data, column_scales(run, system, coefficients))


def deviations_of(variances: Array, factors: Array) -> Array:
    """Turn posterior variances of the kernel into standard deviations, ``(n,)`` or ``(n, columns)``.

    Rounding may leave a variance below zero; it counts as zero.
    """
    return np.sqrt(np.multiply.outer(np.maximum(variances, 0.0), factors))
