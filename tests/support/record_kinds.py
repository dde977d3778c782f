"""The kinds of records of a run directory, each with its reader and one that is valid."""

from typing import Any

from cntk_pipeline.driver.timing import _TIMINGS
from cntk_pipeline.inference import RESULTS
from cntk_pipeline.rundir.growth import _GROWTH
from cntk_pipeline.rundir.lease import _HOLDER
from cntk_pipeline.rundir.predictions import _IMAGES
from cntk_pipeline.rundir.preprocessing import _RECORD as _PREPROCESSING
from cntk_pipeline.rundir.specification import _SOLVE
from cntk_pipeline.rundir.submissions import _ENDING, _SUBMISSION
from cntk_pipeline.solvers import METRICS
from cntk_pipeline.solvers.states import _ITERATIONS
from cntk_pipeline.storage.records import Record


def kinds() -> dict[str, tuple[Record[Any], Any]]:
    """List kinds of records by their names."""
    solve = {"kernel": "a", "readout": "b", "ridge": 1.0, "ridge_mode": "absolute", "tile": 8, "targets": "c"}
    return {
        "growth": (_GROWTH, dict(path="p", fingerprint="f", train=[0], test=[], targets=[0], factor_tile=None)),
        "lease": (
            _HOLDER,
            dict(holder="x", host="h", processes="p", pid=1, counter=2, released=True, job="7", restarts=1),
        ),
        "images": (_IMAGES, dict(count=3, origin="new.npy")),
        "preprocessing": (
            _PREPROCESSING,
            {"pixels": "uint8", "standardization": {"mean": [0.5], "std": [0.25]}, "checksum": "c"},
        ),
        "solve": (_SOLVE, solve | {"absolute_ridge": 1.0, "method": {"solver": "cg", "tolerance": 1e-3, "rank": 2}}),
        "iterations": (_ITERATIONS, dict(first=0, last=2, finished=False, residuals=[1.0, 0.5])),
        "submission": (_SUBMISSION, dict(kind="local", job="h:1", host="h", submitted="now")),
        "ending": (_ENDING, dict(message="m", job=None, ended="now")),
        "timing": (
            _TIMINGS,
            {"stages": [dict(stage="kernel", wall_seconds=1.0, slot_seconds=2.0, core_seconds=1.5)]},
        ),
        "metrics": (METRICS, dict(accuracy=0.5, relative_residual=1e-13, smallest_pivot=1.0, largest_pivot=2.0)),
        "metrics of a regression": (
            METRICS,
            dict(accuracy=None, relative_residual=0.0, squared_error=2.0, r2=0.5, r2_of_targets=[0.25, 0.75]),
        ),
        "leave_one_out": (RESULTS["leave_one_out"].record, dict(squared_error=0.1, accuracy=None)),
        "evidence": (
            RESULTS["evidence"].record,
            dict(log_determinant=-3.0, log_evidence=-9.0, scales=[0.5], best_log_evidence=None),
        ),
        "calibration": (
            RESULTS["calibration"].record,
            dict(
                softmax_scale=3.0,
                left_out=dict(negative_log_likelihood=0.5, brier_score=0.25, calibration_error=0.1),
                test=None,
            ),
        ),
        "learning_curve": (
            RESULTS["learning_curve"].record,
            dict(sizes=[1, 2], absolute_ridge=0.1, accuracy=[0.5, 1.0], squared_error=[0.1, 0.2]),
        ),
        "posterior_variance": (RESULTS["posterior_variance"].record, dict(smallest=0.1, mean=0.2, largest=0.3)),
        "spectrum": (
            RESULTS["spectrum"].record,
            dict(
                largest=[2.0],
                largest_residuals=[0.0],
                smallest=[1.0],
                smallest_residuals=[0.0],
                maximal_learning_rate=None,
            ),
        ),
        "ensemble": (RESULTS["ensemble"].record, dict(times=["inf"], accuracy=[1.0], mean_variance=[0.1])),
    }
