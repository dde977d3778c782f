"""What a kernel says of images once it is there: in memory, and from a run directory, tile by tile."""

from cntk_pipeline.inference.curve import require_sizes
from cntk_pipeline.inference.products import Product
from cntk_pipeline.inference.records import METRICS, EnsembleRecord
from cntk_pipeline.inference.remedies import add_remedies
from cntk_pipeline.inference.requested import requested_products
from cntk_pipeline.inference.ridges import Means, choose_ridge, path_product
from cntk_pipeline.inference.trained import (
    Training,
    blocks,
    requested_trainings,
    require_both_kinds,
    require_trainable,
    training_product,
    write_training,
)
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
from cntk_pipeline.solvers.prediction import metrics, prediction_jobs

__all__ = [
    "METRICS",
    "Blocks",
    "EnsembleRecord",
    "Flow",
    "LearningCurve",
    "LeaveOneOut",
    "Means",
    "Predictive",
    "Product",
    "RidgePath",
    "Spectrum",
    "Training",
    "add_remedies",
    "blocks",
    "choose_ridge",
    "ensemble",
    "gp_posterior",
    "gradient_flow",
    "learning_curve",
    "leave_one_out",
    "maximal_learning_rate",
    "metrics",
    "path_product",
    "prediction_jobs",
    "requested_products",
    "requested_trainings",
    "require_both_kinds",
    "require_sizes",
    "require_trainable",
    "ridge_path",
    "spectrum",
    "training_product",
    "write_training",
]
