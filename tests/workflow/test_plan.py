"""What a run will cost, said before it runs, and in a moment."""

import time
from dataclasses import replace

import numpy as np
import pytest
from support.problems import Recorder

from cntk_pipeline.cli.plan import show_plan
from cntk_pipeline.config import parse_config
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.rundir.provenance import library_versions
from cntk_pipeline.tasks import StageForecast
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.plan import DRIVER_SECONDS, TASK_SECONDS, plan_stage


@pytest.fixture
def photographs(tmp_path):
    """A workflow of twelve images of 224 x 224, whose pairs take minutes with global average pooling."""
    rng = np.random.default_rng(0)
    path = tmp_path / "photographs.npz"
    images, labels = rng.integers(0, 256, (12, 224, 224, 3), np.uint8), np.arange(12) % 2
    np.savez(path, x_train=images[:8], y_train=labels[:8], x_test=images[8:], y_test=labels[8:])
    table = {
        "name": "photographs",
        "data": {"source": "npz", "path": str(path)},
        "network": {"preset": "cntk"},
        "readouts": {"depths": [6], "poolings": ["gap"]},
        "cluster": {"kind": "serial"},
        "store": {"path": str(tmp_path / "run")},
    }
    return parse_config(table, "test")


@pytest.mark.slow
def test_a_plan_of_large_pooled_images_answers_in_seconds_and_says_what_was_measured(photographs, capsys):
    began = time.process_time()  # others use the machine too
    plan = runs.plan(photographs)
    assert time.process_time() - began < 20
    assert plan.measured_share < 0.01
    assert 1e-10 < plan.pair_seconds / plan.plane_entries < 1e-7
    show_plan(plan)
    assert f"a pair and core (measured on {100 * plan.measured_share:.2g} % of a pair)" in capsys.readouterr().out
    assert plan.to_json()["measured_share"] == plan.measured_share


def test_a_plan_of_small_pairs_measures_them_whole(small_config, capsys):
    plan = runs.plan(small_config())
    assert plan.measured_share == 1
    show_plan(plan)
    said = capsys.readouterr().out
    assert "a pair and core (measured), " in said
    assert "\n4 read-outs in one pass of the engine cpu" in said
    show_plan(replace(plan, readouts=plan.readouts[:1]))
    assert "\n1 read-out in one pass of the engine cpu" in capsys.readouterr().out


def test_more_slots_than_tasks_shorten_nothing(small_config):
    """Seen to fail where each stage was spread over all slots: a tile on 64 workers took 1/64 of its time."""
    few, many = (
        runs.plan(small_config(kernel={"tile": 64}, cluster={"kind": "serial"} if slots == 1 else on(slots)))
        for slots in (1, 64)
    )
    assert many.slots == 64
    for alone, spread in zip(few.stages, many.stages, strict=True):
        if alone.tasks == 1:
            assert spread.seconds >= TASK_SECONDS, spread.stage


def on(slots):
    return {"kind": "local", "workers": slots}


@pytest.mark.parametrize(
    ("slots", "seconds"),
    [
        (1, 60 + 60 * TASK_SECONDS),
        (4, 15 + 15 * TASK_SECONDS),
        (1000, 1 + TASK_SECONDS),
    ],
)
def test_a_stage_is_spread_over_slots_up_to_its_tasks(slots, seconds):
    assert plan_stage(StageForecast("train", 60, 0, 60.0), slots).seconds == pytest.approx(seconds)


def test_a_stage_takes_its_longest_chain_and_the_driver_s_time_of_each_task():
    chained = StageForecast("factor", 60, 0, 60.0, 10, 20.0)
    assert plan_stage(chained, 2).seconds == pytest.approx(30 + 30 * TASK_SECONDS)
    assert plan_stage(chained, 1000).seconds == pytest.approx(20 + 10 * TASK_SECONDS)
    assert plan_stage(chained * 3, 1000).seconds == pytest.approx(20 + 10 * TASK_SECONDS)  # side by side
    assert plan_stage(StageForecast("mean", 60, 0, 60.0, 60), 1000).seconds == pytest.approx(60 + 60 * TASK_SECONDS)
    assert plan_stage(StageForecast("train", 13_066, 0, 7000.0), 1024).seconds == pytest.approx(13_066 * DRIVER_SECONDS)
    assert plan_stage(StageForecast("train", 0, 0, 0.0), 4).seconds == 0


@pytest.mark.parametrize(("kind", "limit"), [("slurm", 0.5), ("kubernetes", "auto")])
def test_a_plan_warns_of_memory_that_no_submission_takes(small_config, kind, limit):
    """The forecast is answered all the same: it says how much memory to give."""
    cluster = {"kind": kind, "workers": 2, "memory_limit": limit}
    plan = runs.plan(small_config(cluster=cluster))
    assert plan.memory_bytes > 0
    (warning,) = (line for line in plan.warnings if line.startswith("no run can begin with this [cluster]: "))
    assert "cluster.memory_limit" in warning
    cluster["memory_limit"] = "4GiB"
    assert not any("[cluster]" in line for line in runs.plan(small_config(cluster=cluster)).warnings)


def test_a_plan_of_a_run_that_was_begun_has_its_tile(small_config, tmp_path):
    """Seen to fail where a tile of "auto" is chosen anew."""
    automatic = {"kernel": {"tile": "auto"}}
    chosen = runs.plan(small_config(**automatic)).tile
    begun = 8 if chosen != 8 else 16
    runs.begin_elsewhere(small_config(kernel={"tile": begun}), Recorder(), None)
    assert runs.plan(small_config(**automatic)).tile == begun
    assert runs.plan(small_config(**automatic, store={"path": str(tmp_path / "other")})).tile != begun


@pytest.mark.slow
def test_a_run_of_large_images_begins_and_its_workers_are_prepared_in_seconds(photographs):
    began = time.process_time()  # others use the machine too
    run, _ = runs.begin_elsewhere(photographs, Recorder(), None)
    assert run.specification.tile == 16
    gram.prepare_worker(str(run.path), library_versions())
    assert time.process_time() - began < 30


def test_a_tile_that_cuts_a_kernel_into_too_many_is_refused_by_plan_and_run(tmp_path, monkeypatch):
    monkeypatch.setattr("cntk_pipeline.workflow.load.MOST_TILES", 5)
    table = {
        "data": {"source": "digits", "train": 60, "test": 10},
        "network": {"preset": "cntk"},
        "readouts": {"depths": [2]},
        "kernel": {"tile": 16},
        "cluster": {"kind": "serial"},
        "store": {"path": str(tmp_path / "run")},
    }
    config, said = (
        parse_config(table, "test"),
        r"kernel\.tile = 16 cuts this kernel into 14 tiles, and a run has at most 5",
    )
    with pytest.raises(ConfigError, match=said):
        runs.plan(config)
    with pytest.raises(ConfigError, match=said):
        runs.start(config, Recorder(), None)
    assert not (tmp_path / "run").exists()
