"""Each worker has a graphics card of its own: which one, also after a restart, and which tables are refused."""

import os
import signal
from typing import Any

import pytest
from support.processes import nothing, wait_until

from cntk_pipeline.clusters import CLUSTERS, Executor
from cntk_pipeline.clusters.cluster import slots_of_workers
from cntk_pipeline.clusters.devices import VISIBLE, cores_of_worker, visible_devices
from cntk_pipeline.clusters.ssh.host import make_worker
from cntk_pipeline.clusters.ssh.messages import Assignment
from cntk_pipeline.clusters.table import idle_options, require_devices
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.resources import core_count


def where() -> tuple[int, str | None]:
    return os.getpid(), os.environ.get(VISIBLE)


@pytest.mark.parametrize(
    ("shown", "devices"),
    [
        (None, ["0", "1"]),
        ("3,1,0", ["3", "1"]),
        ("GPU-8932f937, MIG-GPU-b8ea3855/1/0", ["GPU-8932f937", "MIG-GPU-b8ea3855/1/0"]),
    ],
)
def test_devices_are_those_that_the_process_may_use_by_their_own_names(shown: str | None, devices: list[str]) -> None:
    assert visible_devices(2, {} if shown is None else {VISIBLE: shown}) == devices


@pytest.mark.parametrize(("shown", "count"), [("", 0), ("0", 1), ("0,-1,1", 1), ("0,0,1", 1)])
def test_fewer_devices_than_the_table_says_are_refused_with_what_is_shown(shown: str, count: int) -> None:
    message = rf"gpus_per_node = 2, and CUDA_VISIBLE_DEVICES = '{shown}' shows {count} cards"
    with pytest.raises(ConfigError, match=message):
        visible_devices(2, {VISIBLE: shown})


@pytest.mark.parametrize(
    ("kind", "engine", "table", "message"),
    [
        ("local", "cpu", {"gpus_per_node": 2}, r'gpus_per_node = 2, and kernel\.engine = "cpu" computes on no card'),
        ("slurm", "cuda", {"workers": 4}, r'"cuda" needs a card for each worker: set cluster\.gpus_per_node'),
        ("kubernetes", "cuda", {"gpus_per_node": 1, "threads_per_worker": 2}, "Leave threads_per_worker at 1"),
        ("local", "cuda", {"gpus_per_node": 2, "workers": 3}, "workers = 3, and .* there are 2 cards"),
        ("ssh", "cuda", {"gpus_per_node": 2, "workers": 5, "hosts": ["a", "b"]}, "workers = 5, and .* are 4 cards"),
    ],
)
def test_workers_that_would_share_cards_or_hold_them_without_use_are_refused(
    kind: str, engine: str, table: dict[str, Any], message: str
) -> None:
    config = ClusterConfig(kind=kind, **table)
    with pytest.raises(ConfigError, match=message):
        require_devices(config, engine, uses_devices=engine == "cuda")
    without = {key: value for key, value in table.items() if key != "gpus_per_node"}
    require_devices(ClusterConfig(kind=kind, **without), "cpu", uses_devices=False)


def test_kinds_that_start_no_workers_say_that_they_do_not_look_at_the_key() -> None:
    for kind in ("serial", "address"):
        config = ClusterConfig(kind=kind, gpus_per_node=2)
        require_devices(config, "cuda", uses_devices=True)
        assert idle_options(config) == ["gpus_per_node"]
    assert idle_options(ClusterConfig(gpus_per_node=2)) == []


def test_a_machine_has_a_worker_for_each_card_which_share_its_memory() -> None:
    assert slots_of_workers(ClusterConfig(gpus_per_node=3)) == 3
    assert cores_of_worker(1, 1) == core_count()
    assert cores_of_worker(1, 10 * core_count()) == 1
    assert cores_of_worker(2, None) == 2


@pytest.mark.slow
def test_local_workers_have_a_card_each_and_keep_it_when_they_are_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where each nanny takes the first card."""
    monkeypatch.setenv(VISIBLE, "5,GPU-1,2")
    with CLUSTERS["local"].executor(ClusterConfig(gpus_per_node=2), nothing) as executor:
        before = devices_of_workers(executor)
        assert sorted(before.values()) == ["5", "GPU-1"]
        lost = next(iter(before))
        os.kill(lost, signal.SIGKILL)
        after: dict[int, str | None] = {}

        def is_back() -> bool:
            after.update(devices_of_workers(executor))
            return len(after.keys() - {lost}) > 1

        wait_until(is_back, "the worker to be restarted")
    assert lost not in after
    (new,) = after.keys() - before.keys()
    assert after[new] == before[lost]


def devices_of_workers(executor: Executor) -> dict[int, str | None]:
    """Ask all workers at hand for their process and their device."""
    return dict(executor._client.run(where, on_error="ignore").values())  # type: ignore[attr-defined]


def test_workers_of_a_host_have_a_card_each_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "7,3")
    assignment = Assignment({}, (), "host", None, "", "tcp://127.0.0.1:1", None, 1, "auto", 2)
    assert Assignment.read(assignment.line().encode()) == assignment
    assert [make_worker(assignment, "127.0.0.1", number).env[VISIBLE] for number in (0, 1)] == ["7", "3"]
