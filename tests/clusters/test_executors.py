import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask.config
import dask.utils
import distributed
import pytest
from support.processes import nothing, wait_until

from cntk_pipeline.clusters import CLUSTERS, Completion, Executor, WorkerMemory
from cntk_pipeline.clusters.dask.executor import DaskExecutor, ExecutorTraits, prepared
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, WorkersLost
from cntk_pipeline.resources import memory_bytes

pytestmark = pytest.mark.slow


def double(number: int) -> int:
    return 2 * number


def add(a: int, b: int) -> int:
    return a + b


def touch(path: Path) -> None:
    path.touch()


def mark(path: Path) -> None:
    path.with_name(f"{path.name}-{os.getpid()}").touch()


def touch_first(path: Path) -> None:
    path.touch(exist_ok=False)


def nap() -> int:
    time.sleep(0.5)
    return os.getpid()


def fail() -> None:
    raise ValueError("on purpose")


def recurse() -> None:
    recurse()


class Odd(Exception):
    def __init__(self, lock: object) -> None:
        super().__init__("holds a lock, which cannot be pickled", lock)


def fail_oddly() -> None:
    raise Odd(threading.Lock())


def die() -> None:
    os._exit(1)


def return_and_die(path: str) -> int:
    """Return the process's number; the process ends soon after, for which there will be a file."""

    def end() -> None:
        time.sleep(0.3)  # by then the result is on its way
        Path(path).touch()
        os._exit(1)

    threading.Thread(target=end).start()
    return os.getpid()


def fail_beside() -> None:
    """Raise where nobody waits for it, as a heartbeat does whose worker is just closing."""
    happened = threading.Event()

    def heartbeat() -> None:
        happened.set()
        raise RuntimeError("ConnectionPool is closed")

    # Dask's own says nothing before it has closed a worker that was to be silent.
    logging.getLogger("tornado.application").addHandler(logging.StreamHandler())
    distributed.get_worker().loop.add_callback(heartbeat)
    happened.wait()


def thread_settings() -> tuple[str, ...]:
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return tuple(os.environ.get(name, "unset") for name in names)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module", params=["serial", "local", "address"])
def executor(request: pytest.FixtureRequest, scheduler: str) -> Iterator[Executor]:
    config = ClusterConfig(kind=request.param, workers=2, address=scheduler if request.param == "address" else None)
    with CLUSTERS[request.param].executor(config, nothing) as opened:
        yield opened


def collect(executor: Executor, count: int) -> dict[tuple[object, ...], Completion]:
    ended: list[Completion] = []
    deadline = time.monotonic() + 60
    while len(ended) < count and time.monotonic() < deadline:
        ended += executor.wait(0.2)
    return {completion.key: completion for completion in ended}


def test_calls_come_back_under_their_keys(executor: Executor) -> None:
    keys = [("stage", k, 0, 0) for k in range(10)]
    for key in keys:
        executor.submit(key, add, key[1], 1)
    ended = collect(executor, 10)
    assert {key: ended[key].result for key in keys} == {key: key[1] + 1 for key in keys}


def test_calls_of_neighbouring_ranks_share_a_message_and_a_withdrawn_one_is_not_sent(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CLUSTERS["address"].executor(ClusterConfig(kind="address", address=scheduler), nothing) as executor:
        assert isinstance(executor, DaskExecutor)
        sent: list[tuple[list[int], int]] = []
        send = executor._client.map

        def note(*columns: Any, key: list[tuple[Any, ...]], priority: int, **options: Any) -> Any:
            sent.append(([row for _, row, *_ in key], priority))
            return send(*columns, key=key, priority=priority, **options)

        monkeypatch.setattr(executor._client, "map", note)
        for row, rank in enumerate((5, 6, 7, 3, 9, 10)):
            executor.submit(("stage", row, 0, 3), add, row, 1, rank=rank)
        executor.submit(("stage", 6, 0, 3), double, 6, rank=11)
        executor.forget(("stage", 2, 0, 3))
        ended = collect(executor, 6)
        assert sent == [([0, 1], -5), ([3], -3), ([4, 5], -9), ([6], -11)]
        assert {row: each.result for (_, row, *_), each in ended.items()} == {0: 1, 1: 2, 3: 4, 4: 5, 5: 6, 6: 12}


def test_an_error_comes_back_as_it_was_raised(executor: Executor) -> None:
    executor.submit(("stage", 0, 0, 1), fail)
    error = collect(executor, 1)["stage", 0, 0, 1].error
    assert isinstance(error, ValueError)
    assert str(error) == "on purpose"


def test_an_error_of_too_deep_a_recursion_and_one_that_cannot_be_sent_come_back_too(executor: Executor) -> None:
    for number, function in enumerate((recurse, fail_oddly)):
        executor.submit(("stage", number, 0, 2), function)
    ended = collect(executor, 2)
    assert "recursion depth exceeded" in str(ended["stage", 0, 0, 2].error)
    assert "cannot be pickled" in str(ended["stage", 1, 0, 2].error)


def test_waiting_for_nothing_returns_nothing(executor: Executor) -> None:
    assert executor.wait(0.01) == []
    assert executor.slots >= 1
    assert executor.describe()


def test_a_call_that_kills_its_worker_is_told_apart() -> None:
    with CLUSTERS["local"].executor(ClusterConfig(workers=1), nothing) as executor:
        executor.submit(("stage", 0, 0, 0), die)
        assert collect(executor, 1)["stage", 0, 0, 0].worker_died


def test_a_result_outlives_its_worker(tmp_path: Path) -> None:
    with CLUSTERS["local"].executor(ClusterConfig(workers=1), nothing) as executor:
        executor.submit(("stage", 0, 0, 0), return_and_die, str(tmp_path / "gone"))
        assert executor.wait(0) == []  # sends it
        wait_until((tmp_path / "gone").exists, "the worker's end")
        began = time.monotonic()
        (completion,) = collect(executor, 1).values()
        assert time.monotonic() - began < 20  # fetching it from the dead worker would take a minute
        assert completion.error is None
        assert completion.result not in (None, os.getpid())


def test_local_workers_use_one_thread_each_and_answer_this_machine_only() -> None:
    with CLUSTERS["local"].executor(ClusterConfig(workers=1), nothing) as executor:
        assert "dashboard http://127.0.0.1:" in executor.describe()
        executor.submit(("stage", 0, 0, 0), thread_settings)
        assert collect(executor, 1)["stage", 0, 0, 0].result == ("1",) * 4


def test_what_goes_wrong_beside_the_calls_of_a_local_worker_stays_off_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with CLUSTERS["local"].executor(ClusterConfig(workers=1), nothing) as executor:
        executor.submit(("stage", 0, 0, 0), fail_beside)
        collect(executor, 1)
    assert capfd.readouterr().err == ""


def test_a_worker_that_cannot_be_prepared_is_an_error() -> None:
    with pytest.raises(ValueError, match="on purpose"), CLUSTERS["local"].executor(ClusterConfig(workers=1), fail):
        pass


def test_a_scheduler_prepares_its_workers_for_each_driver(scheduler: str, tmp_path: Path) -> None:
    config = ClusterConfig(kind="address", address=scheduler)
    for name in ("first", "second"):
        with CLUSTERS["address"].executor(config, partial(touch, tmp_path / name)):
            assert (tmp_path / name).exists()


def test_late_joiners_are_prepared_for_each_driver_at_work(scheduler: str, tmp_path: Path) -> None:
    first, second = (partial(mark, tmp_path / name) for name in ("first", "second"))
    config = ClusterConfig(kind="address", address=scheduler)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--no-nanny", "--no-dashboard"]
    with CLUSTERS["address"].executor(config, first), CLUSTERS["address"].executor(config, second):
        late = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        try:
            marks = [tmp_path / f"{name}-{late.pid}" for name in ("first", "second")]
            wait_until(lambda: all(mark.exists() for mark in marks), "it to be prepared for both")
        finally:
            late.kill()
            late.wait()


def test_a_late_joiner_that_cannot_be_prepared_computes_nothing(tmp_path: Path) -> None:
    config = ClusterConfig(workers=2, minimum_workers=1)
    with CLUSTERS["local"].executor(config, partial(touch_first, tmp_path / "first")) as executor:
        executor.hold()  # asks for the other one
        keys = [("stage", k, 0, 0) for k in range(20)]
        for key in keys:
            executor.submit(key, nap)
        ended = collect(executor, 20)
    computed = {ended[key].result for key in keys if ended[key].error is None}
    refused = [str(ended[key].error) for key in keys if ended[key].error is not None]
    assert len(computed) == 1
    assert refused
    assert all("takes no tile: FileExistsError" in text for text in refused)


def test_an_address_cluster_needs_an_address() -> None:
    with (
        pytest.raises(ConfigError, match=r"needs cluster.address"),
        CLUSTERS["address"].executor(ClusterConfig(), nothing),
    ):
        pass


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    config = ClusterConfig(kind="address", address="tcp://127.0.0.1:9")
    refused = pytest.raises(WorkersLost, match=r"no Dask scheduler answers at tcp://127.0.0.1:9")
    with (
        refused,
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        CLUSTERS["address"].executor(config, nothing),
    ):
        pass


def test_a_scheduler_that_dies_with_a_message_under_way_leaves_no_traceback(
    started: list[subprocess.Popen[bytes]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file)]
    quiet = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    started.append(subprocess.Popen([*command, *quiet], stderr=subprocess.DEVNULL, start_new_session=True))
    dask_logger = logging.getLogger("distributed")
    dask_logger.addHandler(caplog.handler)
    with distributed.Client(scheduler_file=str(file), timeout=30) as client:
        prepared(client, nothing, ExecutorTraits("a scheduler alone"))
        # For so many seconds the client gathers messages, and the second call waits. The scheduler must be killed by
        # then, also on a busy machine: else nothing is under way, and nothing is found lost.
        client.scheduler_comm.interval = 3
        sent = client.submit(add, 1, 2)
        time.sleep(0.1)
        waiting = client.submit(add, 1, 3)
        started[-1].kill()
        wait_until(client.scheduler_comm.stopped.is_set, "the message to be found lost")
    del sent, waiting  # not before: a future that goes is a message too
    dask_logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def remembered(dask_scheduler: distributed.Scheduler) -> int:
    """Count what the scheduler holds of calls."""
    spans = dask_scheduler.extensions["spans"].spans.values()
    submitted = sum(len(span.metadata["collections"]) for span in spans if span.metadata)
    return submitted + dask.utils.key_split.cache_info().currsize + len(dask_scheduler.tasks)


def test_a_scheduler_holds_nothing_of_calls_that_have_ended(scheduler: str) -> None:
    with CLUSTERS["address"].executor(ClusterConfig(kind="address", address=scheduler), nothing) as executor:
        assert isinstance(executor, DaskExecutor)
        for row in range(100):
            executor.submit(("stage", row, 0, 0), add, row, row)
        assert len(collect(executor, 100)) == 100
        executor.memory()  # looks at the workers, as is done every second
        wait_until(lambda: executor._client.run_on_scheduler(remembered) < 10, "calls that have ended to be forgotten")


def test_workers_say_their_memory(executor: Executor) -> None:
    memory = executor.memory()
    assert memory is not None
    assert 2**26 < memory.bytes <= memory_bytes()
    assert memory.slots == 1


def test_the_memory_of_a_worker_is_shared_by_its_threads() -> None:
    with CLUSTERS["local"].executor(
        ClusterConfig(workers=1, threads_per_worker=2, memory_limit="1GiB"), nothing
    ) as executor:
        assert executor.memory() == WorkerMemory(2**30, 2)
