"""What a kernel says of images once it is there."""

from pipeline.inference.prediction import metrics, prediction_jobs

__all__ = ["metrics", "prediction_jobs"]
