"""What a kernel says of images once it is there."""

from pipeline.inference.prediction import metrics, prediction_jobs
from pipeline.inference.remedies import add_remedies

__all__ = ["add_remedies", "metrics", "prediction_jobs"]
