"""What a kernel says of images once it is there: in memory, and the tasks that predict out of core."""

from pipeline.inference.dynamics import Flow, gradient_flow, maximal_learning_rate
from pipeline.inference.eigenvalues import Spectrum, spectrum
from pipeline.inference.ensembles import Blocks, ensemble
from pipeline.inference.posterior import Predictive, gp_posterior
from pipeline.inference.prediction import metrics, prediction_jobs
from pipeline.inference.selection import (
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
    "metrics",
    "prediction_jobs",
    "ridge_path",
    "spectrum",
]
