import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from support.problems import Recorder

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.config import ClusterConfig, InferenceConfig
from cntk_pipeline.driver.driver import Driver
from cntk_pipeline.inference import requested_products
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import open_system
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]

EVERYTHING = InferenceConfig.model_validate(
    dict.fromkeys(("leave_one_out", "learning_curve", "posterior_variance", "posterior_covariance", "spectrum"), True)
)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_products_say_what_they_wait_for_whatever_order_they_are_taken_in(run_small: Run, seed: int) -> None:
    sections = {"kernel": {"tile": 8}, "solve": {"tile": 8}, "readouts": {"poolings": ["gap"], "kinds": ["nngp"]}}
    # The kernel of the test images is there; what is inferred from it is yet to come.
    run = run_small(**sections, inference={"covariance": True})
    system = open_system(run, make_report(run).solves[0].name)
    products = requested_products(run, system, EVERYTHING, 0)
    (path,) = (run.solve_path(system.fingerprint) / "inference").glob("whitened.zarr")
    for chunk in [*path.glob("test/c/*/*"), *path.parent.glob("posterior_covariance.zarr/covariance/c/*/*")]:
        chunk.unlink()
    jobs = [job for product in products for job in product.jobs]
    for product in products:
        product.create(run)
    ranks = np.random.default_rng(seed).permutation(len(jobs)).tolist()
    shuffled = [replace(job, priority=(rank,)) for job, rank in zip(jobs, ranks, strict=True)]
    with CLUSTERS["serial"].executor(ClusterConfig(), lambda: None) as executor:
        view = Recorder()
        outcome = Driver(str(run.path), executor, run.journal, view.progress, threading.Event()).run(shuffled, {})
    assert outcome.failed == {}
    assert outcome.blocked == []
