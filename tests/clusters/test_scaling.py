import os
import threading
import time
from collections.abc import Callable, Sequence

import dask.config
import psutil
import pytest
from support.problems import Recorder
from support.processes import nothing

from cntk_pipeline.clusters import CLUSTERS, Executor
from cntk_pipeline.clusters.dask.scaling import RELEASE_SECONDS, RESTORE_SECONDS, Scalable, Scaling, bounds
from cntk_pipeline.clusters.local.executor import CLOSE_SECONDS
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, Interrupted
from cntk_pipeline.rundir.directory import RunDirectory

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60


class Ledger(Scalable):
    """Remembers what was asked for; `now` is the clock."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.released: list[str] = []
        self.now = 0.0

    def request(self, count: int) -> None:
        self.asked.append(count)

    def release(self, names: Sequence[str]) -> None:
        self.released += names


def scaling(ledger: Ledger, minimum: int = 1, maximum: int = 4, threads: int = 1) -> Scaling:
    return Scaling(ledger, minimum, maximum, threads, lambda: ledger.now)


def test_workers_are_asked_for_as_calls_come_and_not_beyond_the_maximum() -> None:
    ledger = Ledger()
    made = scaling(ledger, threads=2)
    made.follow(2, {"0": 2})
    assert ledger.asked == []
    made.follow(3, {"0": 2})
    assert ledger.asked == [2]
    made.follow(100, {"0": 2, "1": 2})
    assert ledger.asked == [2, 4]


def test_idle_workers_are_given_back_after_a_while_and_busy_ones_are_not() -> None:
    ledger = Ledger()
    made = scaling(ledger)
    made.follow(4, {"0": 1})
    loads = {"0": 0, "1": 1, "2": 0, "3": 0}
    made.follow(1, loads)
    assert ledger.released == []
    ledger.now += RELEASE_SECONDS + 1
    made.follow(1, loads)
    assert ledger.released == ["0", "2", "3"]
    assert made.target == 1
    ledger.now += RELEASE_SECONDS + 1
    made.follow(0, {"1": 0})
    assert ledger.released == ["0", "2", "3"]  # never below the minimum


def test_a_pause_of_the_work_gives_nothing_back() -> None:
    ledger = Ledger()
    made = scaling(ledger, minimum=1, maximum=2)
    for calls in (2, 1, 2, 1, 2):
        made.follow(calls, {"0": 0, "1": 0})
        ledger.now += 0.9 * RELEASE_SECONDS
    assert ledger.released == []


def test_a_stage_that_holds_gets_all_workers_and_keeps_them() -> None:
    ledger = Ledger()
    made = scaling(ledger)
    made.hold()
    assert ledger.asked == [4]
    ledger.now += 10 * RELEASE_SECONDS
    made.follow(0, dict.fromkeys("0123", 0))
    assert ledger.released == []
    made.adapt()
    ledger.now += RELEASE_SECONDS + 1
    made.follow(0, dict.fromkeys("0123", 0))
    assert ledger.released == ["0", "1", "2"]


def test_lost_workers_are_asked_for_again_and_again_until_they_come() -> None:
    ledger = Ledger()
    made = scaling(ledger, minimum=2, maximum=2)
    made.follow(9, {"0": 1})
    ledger.now += RESTORE_SECONDS + 1
    made.follow(9, {"0": 1})
    made.follow(9, {"0": 1})
    assert ledger.asked == [2]
    ledger.now += RESTORE_SECONDS + 1
    made.follow(9, {"0": 1})
    assert ledger.asked == [2, 2]
    made.follow(9, {"0": 1, "1": 1})
    ledger.now += RESTORE_SECONDS + 1
    made.follow(9, {"0": 1, "1": 1})
    assert ledger.asked == [2, 2]


def test_more_workers_at_least_than_at_most_are_refused() -> None:
    assert bounds(ClusterConfig(), 3) == (3, 3)
    assert bounds(ClusterConfig(minimum_workers=1), 3) == (1, 3)
    with pytest.raises(ConfigError, match=r"minimum_workers = 4 must be at most cluster.workers, here 3"):
        bounds(ClusterConfig(minimum_workers=4), 3)


def rest() -> int:
    time.sleep(0.2)
    return os.getpid()


def wait_for_slots(executor: Executor, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while executor.slots != count:
        assert time.monotonic() < deadline, f"{executor.slots} slots, not {count}"
        executor.wait(0.1)


def test_a_local_cluster_grows_with_its_calls_and_shrinks_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cntk_pipeline.clusters.dask.scaling.RELEASE_SECONDS", 2.0)
    with CLUSTERS["local"].executor(ClusterConfig(workers=2, minimum_workers=1), nothing) as executor:
        assert executor.slots == 1
        assert executor.describe().startswith("1 to 2 local workers")
        for number in range(40):
            executor.submit(("stage", number, 0, 0), rest)
        wait_for_slots(executor, 2)
        wait_for_slots(executor, 1)
        stop = threading.Event()
        stop.set()
        with pytest.raises(Interrupted, match="while it waited for its workers"):
            executor.hold(stop)
        executor.hold()
        assert executor.slots == 2


def test_a_worker_whose_nanny_is_gone_is_replaced() -> None:
    settings = {"distributed.deploy.lost-worker-timeout": "1s"}
    with dask.config.set(settings), CLUSTERS["local"].executor(ClusterConfig(workers=2), nothing) as executor:
        cluster = executor._traits.scaling._cluster._cluster
        cluster.sync(cluster.workers[0].close)
        wait_for_slots(executor, 1)
        wait_for_slots(executor, 2)


def test_closing_does_not_wait_for_a_worker_that_is_being_restarted() -> None:
    with CLUSTERS["local"].executor(ClusterConfig(workers=2), nothing) as executor:
        executor.submit(("stage", 0, 0, 0), os.getpid)
        while not (ended := executor.wait(0.2)):
            pass
        psutil.Process(ended[0].result).kill()
        began = time.monotonic()
    assert time.monotonic() - began < CLOSE_SECONDS + 10  # on a machine that others use too


def test_a_run_scales_for_its_kernel_and_holds_for_its_solve(
    run_small: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("adapt", "hold"):
        monkeypatch.setattr(Executor, name, lambda _, *_stop, name=name: asked.append(f"{name} {view.stages}"))
    view = Recorder()
    run_small(view)
    assert asked == ["adapt []", "hold ['kernel']"]
