from collections.abc import Callable
from typing import Any

import pytest

from cntk_pipeline.config import RunConfig
from cntk_pipeline.inference.ensemble import EIGEN_OPERATIONS
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

RESULTS = ("leave_one_out", "evidence", "calibration", "learning_curve", "posterior_variance", "posterior_covariance")
EVERYTHING = dict.fromkeys(RESULTS, True) | {"spectrum": 2, "ensemble": [1.0, 2.0]}


@pytest.mark.parametrize("inference", [{}, {"posterior_variance": True}, {"calibration": True}, EVERYTHING])
def test_plan_and_status_have_the_same_rows_with_the_same_tasks_and_three_quarters_of_the_bytes_or_more(
    run_small: Run, small_config: Config, inference: dict[str, Any]
) -> None:
    sections = {"kernel": {"tile": 8}, "solve": {"tile": 16, "ridges": [1e-2, 1e-1]}, "inference": inference}
    planned = runs.plan(small_config(**sections)).stages
    done = make_report(run_small(**sections)).stages
    assert [(stage.stage, stage.tasks) for stage in planned] == [(stage.stage, stage.total) for stage in done]
    for forecast, stage in zip(planned, done, strict=True):
        # Chunks at the far edges are padded, and checksums are not counted, which small ones have in plenty.
        if forecast.written_bytes > 5000:
            assert 0.75 * stage.bytes <= forecast.written_bytes <= stage.bytes, stage.stage


def test_a_choice_of_ridges_is_planned(small_config: Config) -> None:
    forecast = runs.plan(small_config(solve={"ridges": "auto"}))
    stage = next(stage for stage in forecast.stages if stage.stage == "ridge_path")
    assert stage.tasks == 4  # one a read-out
    least = 4 * 5 * 37**3 / forecast.product_rate
    assert least < stage.seconds < 4 * (EIGEN_OPERATIONS * 37**3 / forecast.product_rate + 0.1)
