from collections.abc import Callable

import pytest

from cntk_pipeline.config import RunConfig
from cntk_pipeline.inference.ridges import EIGEN_OPERATIONS
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

EVERYTHING = {"leave_one_out": True, "learning_curve": True, "variance": True, "covariance": True, "spectrum": 2}


def test_a_plan_counts_the_tasks_and_bytes_of_inference(run_small: Run, small_config: Config) -> None:
    sections = {
        "kernel": {"tile": 8},
        "solve": {"tile": 16, "ridges": [1e-2, 1e-1]},
        "inference": EVERYTHING | {"times": [1.0, 2.0]},
    }
    planned = {stage.stage: stage for stage in runs.plan(small_config(**sections)).stages}
    done = {stage.stage: stage for stage in make_report(run_small(**sections)).stages}
    assert planned["infer"].tasks == done["inference"].total
    assert planned["test x test"].tasks == done["test_test"].total
    assert planned["test x test"].written_bytes == done["test_test"].bytes
    # Chunks at the far edges are padded, and small ones are not counted.
    assert planned["infer"].written_bytes == pytest.approx(done["inference"].bytes, rel=0.7)


def test_a_plan_without_inference_has_no_line_for_it(small_config: Config) -> None:
    assert "infer" not in [stage.stage for stage in runs.plan(small_config()).stages]


def test_a_choice_of_ridges_is_planned(small_config: Config) -> None:
    forecast = runs.plan(small_config(solve={"ridges": "auto"}))
    stage = next(stage for stage in forecast.stages if stage.stage == "infer")
    assert stage.tasks == 4  # one a read-out
    least = 4 * 5 * 37**3 / forecast.product_rate
    assert least < stage.seconds < 4 * (EIGEN_OPERATIONS * 37**3 / forecast.product_rate + 0.1)
