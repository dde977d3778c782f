"""Regression with a kernel in memory: posteriors, training, selection of a ridge, eigenvalues."""

from typing import TYPE_CHECKING

from cntk_pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from cntk_pipeline.regression.dynamics import Flow, gradient_flow, maximal_learning_rate
    from cntk_pipeline.regression.eigenvalues import Spectrum, spectrum
    from cntk_pipeline.regression.ensembles import Blocks, ensemble
    from cntk_pipeline.regression.likelihood import Evidence, evidence
    from cntk_pipeline.regression.pivots import ChosenCentres, choose_centres
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
    "ChosenCentres",
    "Evidence",
    "Flow",
    "LearningCurve",
    "LeaveOneOut",
    "Predictive",
    "RidgePath",
    "Spectrum",
    "choose_centres",
    "ensemble",
    "evidence",
    "gp_posterior",
    "gradient_flow",
    "learning_curve",
    "leave_one_out",
    "maximal_learning_rate",
    "ridge_path",
    "spectrum",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Blocks": "ensembles",
        "ChosenCentres": "pivots",
        "Evidence": "likelihood",
        "Flow": "dynamics",
        "LearningCurve": "selection",
        "LeaveOneOut": "selection",
        "Predictive": "posterior",
        "RidgePath": "selection",
        "Spectrum": "eigenvalues",
        "choose_centres": "pivots",
        "ensemble": "ensembles",
        "evidence": "likelihood",
        "gp_posterior": "posterior",
        "gradient_flow": "dynamics",
        "learning_curve": "selection",
        "leave_one_out": "selection",
        "maximal_learning_rate": "dynamics",
        "ridge_path": "selection",
        "spectrum": "eigenvalues",
    },
)
