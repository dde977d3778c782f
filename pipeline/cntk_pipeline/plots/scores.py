"""The score that a figure shows: the accuracy of a classification in per cent, the R2 of a regression."""

from collections.abc import Sequence

from cntk_pipeline.opened import OpenRun
from cntk_pipeline.solvers.scores import share_text

ACCURACY, R2 = "accuracy", "R2"


def score_name(run: OpenRun) -> str:
    """Name the score of a run."""
    return R2 if run.directory.specification.data.task == "regression" else ACCURACY


def score_text(name: str, value: float | None) -> str:
    """Write a score for people."""
    if value is None or name == ACCURACY:
        return share_text(value)
    return f"{value:.4f}"


def score_label(name: str) -> str:
    """Name the axis of a score on test images."""
    return "R2 on test images" if name == R2 else "accuracy on test images (%)"


def score_heights(name: str, values: Sequence[float | None]) -> list[float]:
    """Turn scores into places on their axis; NaN where there is none."""
    factor = 100 if name == ACCURACY else 1
    return [float("nan") if value is None else factor * value for value in values]
