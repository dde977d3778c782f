"""What a kernel says of images once it is there: in memory, and from a run directory, tile by tile."""

from pipeline.inference.curve import require_sizes
from pipeline.inference.dynamics import Flow, gradient_flow, maximal_learning_rate
from pipeline.inference.eigenvalues import Spectrum, spectrum
from pipeline.inference.ensembles import Blocks, ensemble
from pipeline.inference.posterior import Predictive, gp_posterior
from pipeline.inference.prediction import metrics, prediction_jobs
from pipeline.inference.products import Product
from pipeline.inference.records import METRICS, EnsembleRecord
from pipeline.inference.remedies import add_remedies
from pipeline.inference.requested import requested_products
from pipeline.inference.ridges import Means, choose_ridge, path_product
from pipeline.inference.selection import (
    LearningCurve,
    LeaveOneOut,
    RidgePath,
    learning_curve,
    leave_one_out,
    ridge_path,
)
from pipeline.inference.trained import (
    Training,
    blocks,
    requested_trainings,
    require_both_kinds,
    require_trainable,
    training_product,
    write_training,
)

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
