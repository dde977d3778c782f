"""What a kernel says of images once it is there."""

from pipeline.inference.curve import require_sizes
from pipeline.inference.prediction import metrics, prediction_jobs
from pipeline.inference.remedies import add_remedies
from pipeline.inference.requested import requested_products

__all__ = ["add_remedies", "metrics", "prediction_jobs", "requested_products", "require_sizes"]
