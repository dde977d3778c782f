import threading
from collections.abc import Callable

import numpy as np
import pytest
from support.problems import TEST, TRAIN, Recorder, scale_an_entry, whole_matrix

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, CorruptTile, NotPositiveDefinite
from cntk_pipeline.inference import blocks, run_products
from cntk_pipeline.inference.ensemble import TrainingNeed
from cntk_pipeline.regression import ensemble, gradient_flow
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

GAP = {"poolings": ["gap"]}
TIMES = [0, 0.1, 50.0, "inf"]


@pytest.mark.parametrize("covariance", [False, True])
def test_a_trained_ensemble_is_that_of_the_stored_blocks(run_small: Run, covariance: bool) -> None:
    inference = {"times": TIMES[:3], "covariance": covariance}
    run = run_small(readouts=GAP, inference=inference, kernel={"tile": 8})
    (trained,) = make_report(run).trained
    assert trained.network == "depth3-gap"
    record = trained.record
    assert record is not None
    assert record.times == ("0.0", "0.1", "50.0")
    (product,) = run_products(run, run.workflow().inference)
    nngp, ntk = blocks(run.path, "depth3-gap-nngp"), blocks(run.path, "depth3-gap-ntk")
    assert (nngp.test is not None) == covariance
    targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), 3)
    labels = np.asarray(run.inputs("test_labels")[:])
    variances = run.kernel("depth3-gap-nngp", "test_variance").read_region((0, TEST)).astype(float)
    for k, time in enumerate((0.0, 0.1, 50.0)):
        mean = run.inferred(product.solve, product.stage.name, "mean").read(k, 0, 0)[0]
        np.testing.assert_allclose(mean, gradient_flow(ntk.train, targets, ntk.test_train, time).mean, atol=1e-9)
        assert record.accuracy[k] == np.mean(mean.argmax(1) == labels)
        variance = run.inferred(product.solve, product.stage.name, "variance").read(k, 0)[0]
        assert record.mean_variance[k] == pytest.approx(variance.mean())
        if time == 0:
            np.testing.assert_allclose(variance, variances, rtol=1e-12)
        if covariance:
            expected = ensemble(nngp, ntk, targets, time).covariance
            np.testing.assert_allclose(variance, np.diagonal(expected), rtol=1e-9)
            stored = run.inferred(product.solve, product.stage.name, "covariance").read(k, 0, 0)[0]
            np.testing.assert_array_equal(stored, expected)
    assert make_report(run).complete


def test_the_variance_needs_no_kernel_of_the_test_images(run_small: Run, small_config: Config) -> None:
    variances = []
    for covariance in (False, True):
        store = {"path": f"{small_config().store.path}-{covariance}"}
        run = run_small(readouts=GAP, inference={"times": [3.0], "covariance": covariance}, store=store)
        (product,) = run_products(run, run.workflow().inference)
        variances.append(run.inferred(product.solve, product.stage.name, "variance").read(0, 0))
    np.testing.assert_allclose(*variances, rtol=1e-9)


def test_an_end_of_training_that_does_not_exist_names_network_and_time(run_small: Run) -> None:
    run = run_small(readouts=GAP)
    scale_an_entry(run, "depth3-gap-ntk", 0.3)
    with pytest.raises(NotPositiveDefinite, match=r"depth3-gap at time inf: .*Add a ridge of at least"):
        run_small(readouts=GAP, inference={"times": TIMES[3:]})


def test_blocks_are_the_matrices_of_the_store(run_small: Run) -> None:
    run = run_small(readouts=GAP)
    held = blocks(run.path, "depth3-gap-ntk")
    np.testing.assert_array_equal(held.train, whole_matrix(run, "depth3-gap-ntk", "train"))
    np.testing.assert_array_equal(held.test_train, whole_matrix(run, "depth3-gap-ntk", "test"))
    assert held.test is None
    assert np.asarray(held.train).dtype == np.float32
    with pytest.raises(ConfigError, match=r"has no read-out 'ntk': it has depth3-gap-ntk, depth3-gap-nngp"):
        blocks(run.path, "ntk")
    run.kernel("depth3-gap-ntk", "train").chunk_path(1, 0).unlink()
    with pytest.raises(CorruptTile, match="is missing: it was not computed"):
        blocks(run.path, "depth3-gap-ntk")


def test_times_without_both_kernels_are_refused_before_anything_is_written(small_config: Config) -> None:
    config = small_config(readouts={"kinds": ["ntk"]}, inference={"times": [1.0]})
    with pytest.raises(ConfigError, match=r"needs both kernels of a network, got readouts.kinds = \['ntk'\]"):
        runs.load(config)


def test_a_training_beyond_the_memory_of_a_worker_is_refused_with_what_fits(
    small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = WorkerMemory(2**30, 1)
    with pytest.raises(
        ConfigError, match=r"10000 training and 2000 test images need 9.2 GB.*About (\d+) images"
    ) as error:
        TrainingNeed(10000, 2000).require(memory)
    fits = int(str(error.value).split("About ")[1].split()[0])
    TrainingNeed(fits, 0).require(memory)
    with pytest.raises(ConfigError):
        TrainingNeed(fits, 1).require(memory)
    monkeypatch.setattr("cntk_pipeline.inference.ensemble.MATRICES", 10**12)
    with pytest.raises(ConfigError, match=f"{TRAIN} training and {TEST} test images need"):
        runs.start(small_config(inference={"times": [1.0]}), Recorder(), threading.Event())
