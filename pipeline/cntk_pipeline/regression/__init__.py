"""Regression with a kernel in memory: posteriors, training, selection of a ridge, eigenvalues."""

from cntk_pipeline.regression.dynamics import Flow, gradient_flow, maximal_learning_rate
from cntk_pipeline.regression.eigenvalues import Spectrum, spectrum
from cntk_pipeline.regression.ensembles import Blocks, ensemble
from cntk_pipeline.regression.posterior import Predictive, gp_posterior
from cntk_pipeline.regression.selection import (
    LearningCurve,
    LeaveOneOut,
    RidgePath,
    learning_curve,
    leave_one_out,
    ridge_path,
)

__all__ = [
    "Blocks",
    "Flow",
    "LearningCurve",
    "LeaveOneOut",
    "Predictive",
    "RidgePath",
    "Spectrum",
    "ensemble",
    "gp_posterior",
    "gradient_flow",
    "learning_curve",
    "leave_one_out",
    "maximal_learning_rate",
    "ridge_path",
    "spectrum",
]
