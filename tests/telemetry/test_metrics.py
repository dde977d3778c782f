import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import distributed
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.problems import Recorder

from cntk_pipeline.config import RunConfig
from cntk_pipeline.config.loopback import is_loopback
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.telemetry import metrics as metrics_module
from cntk_pipeline.telemetry.events import Event, attached, emit
from cntk_pipeline.telemetry.metrics import Metrics, served
from cntk_pipeline.workflow import run as runs

Config = Callable[..., RunConfig]
TILE = Task(Stage.parse("factor:0123456789abcdef"), 2, 1)
TIMING = {"seconds": 0.7, "read_seconds": 0.1, "compute_seconds": 0.4, "write_seconds": 0.2, "bytes": 4096}


@pytest.fixture
def registry() -> prometheus_client.CollectorRegistry:
    return prometheus_client.CollectorRegistry()


@pytest.fixture
def metrics(registry: prometheus_client.CollectorRegistry) -> Metrics:
    return Metrics(registry)


def samples(text: str) -> dict[tuple[str, str], float]:
    """Read the values of an exposition by name and stage, those of the package only."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("cntk_") and not sample.name.endswith("_created"):
                key = (sample.name, "-".join(sample.labels.values()))
                found[key] = found.get(key, 0.0) + sample.value
    return found


def test_events_are_counted_by_stage_without_the_name_of_a_solve(
    metrics: Metrics, registry: prometheus_client.CollectorRegistry
) -> None:
    with attached(metrics):
        for task in (TILE, TILE, Task(Stage("train"), 0, 0)):
            emit(Event("began", task))
            emit(Event("finished", task, details=TIMING))
        emit(Event("failed", TILE, "OSError: flaky"))
        for name in ("retry", "retry", "quarantined", "gave_up", "backup", "worker_lost"):
            emit(Event(name, TILE))
    metrics.show("solve", 3, 8, 2)
    assert samples(prometheus_client.generate_latest(registry).decode()) == pytest.approx(
        {
            ("cntk_tiles_done_total", "factor"): 2,
            ("cntk_tiles_done_total", "train"): 1,
            ("cntk_tiles_failed_total", "factor"): 1,
            ("cntk_written_bytes_total", "factor"): 8192,
            ("cntk_written_bytes_total", "train"): 4096,
            ("cntk_read_seconds_total", "factor"): 0.2,
            ("cntk_read_seconds_total", "train"): 0.1,
            ("cntk_compute_seconds_total", "factor"): 0.8,
            ("cntk_compute_seconds_total", "train"): 0.4,
            ("cntk_write_seconds_total", "factor"): 0.4,
            ("cntk_write_seconds_total", "train"): 0.2,
            ("cntk_tile_retries_total", ""): 2,
            ("cntk_tiles_quarantined_total", ""): 1,
            ("cntk_tiles_given_up_total", ""): 1,
            ("cntk_tile_backups_total", ""): 1,
            ("cntk_workers_lost_total", ""): 1,
            ("cntk_stage_tiles", "solve-done"): 3,
            ("cntk_stage_tiles", "solve-left"): 5,
            ("cntk_slots", ""): 2,
        }
    )


def promtool() -> str:
    """Find promtool; where CI promises the real parts, it must be there."""
    found = shutil.which("promtool") or os.environ.get("PROMTOOL")
    if found is None:
        pytest.skip("promtool is not installed: Debian's package prometheus has it")
    return found


def test_promtool_finds_no_fault_with_the_names(
    metrics: Metrics, registry: prometheus_client.CollectorRegistry
) -> None:
    with attached(metrics):
        emit(Event("finished", TILE, details=TIMING))
        emit(Event("failed", TILE))
    metrics.show("solve", 3, 8, 2)
    text = prometheus_client.generate_latest(registry)
    checked = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


class Scraper(Recorder):
    """A view that reads the metrics of the driver and of its workers once most of a stage is done."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage, self.scraped = stage, dict[str, dict[tuple[str, str], float]]()

    def progress(self, progress: Any) -> None:
        super().progress(progress)
        if self.stages[-1] == self.stage and progress.done == progress.total:
            address = next(line for line in self.lines if "dashboard" in line).partition("dashboard ")[2]
            self.scraped["driver"] = read_metrics(f"{address.removesuffix('/cntk')}/metrics")
            workers = distributed.default_client().scheduler_info(n_workers=-1)["workers"]
            for worker in workers.values():
                port = worker["services"]["dashboard"]
                self.scraped[worker["name"]] = read_metrics(f"http://127.0.0.1:{port}/metrics")


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read().decode()


def read_metrics(address: str) -> dict[tuple[str, str], float]:
    return samples(read(address))


@pytest.mark.slow
def test_dask_serves_the_metrics_of_workers_and_of_the_driver(small_config: Config) -> None:
    view = Scraper("kernel")
    run = runs.start(small_config(cluster={"kind": "local", "workers": 2}), view, threading.Event())
    driver = view.scraped.pop("driver")
    assert driver["cntk_stage_tiles", "kernel-done"] == 10
    assert driver["cntk_stage_tiles", "kernel-left"] == 0
    assert driver["cntk_slots", ""] == 2
    assert len(view.scraped) == 2
    kernel = [receipt for receipt in run.journal.receipts() if not receipt.task.stage.solve]
    for name, expected in (
        ("cntk_tiles_done_total", len(kernel)),
        ("cntk_written_bytes_total", sum(receipt.written_bytes for receipt in kernel)),
        ("cntk_compute_seconds_total", sum(receipt.compute_seconds for receipt in kernel)),
    ):
        counted = sum(v for worker in view.scraped.values() for (metric, _), v in worker.items() if metric == name)
        assert counted == pytest.approx(expected, rel=1e-3), name


def test_a_driver_serves_its_own_metrics_where_it_is_told_to(small_config: Config) -> None:
    class Reader(Recorder):
        text = ""

        def progress(self, progress: Any) -> None:
            if progress.done == progress.total:
                self.text = read(next(line for line in self.lines if line.startswith("metrics")).split()[-1])

    view = Reader()
    runs.start(small_config(cluster={"metrics": "127.0.0.1:0"}), view, threading.Event())
    assert 'cntk_stage_tiles{stage="solve",state="left"} 0.0' in view.text


@pytest.mark.parametrize(
    "address",
    ["9464", "host", ":9464", "a:http", "127.0.0.1:²", "a:٣", "a:65536", "a..b:9464", ".a:1", f"{'a' * 64}:1"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    message = r'cluster.metrics: expected "HOST:PORT" \("127.0.0.1:9464"\) with a port of at most 65535, got'
    with pytest.raises(ConfigError, match=message), served(address):
        pass


def test_an_address_that_is_taken_is_refused() -> None:
    with served("127.0.0.1:0") as first:
        assert first is not None
        taken = first.removeprefix("http://").removesuffix("/metrics")
        with pytest.raises(ConfigError, match=f"nothing can listen at {taken}.*take another port"), served(taken):
            pass


def test_without_prometheus_client_nothing_is_counted_but_asked_for(
    monkeypatch: pytest.MonkeyPatch, run_small: Callable[..., RunDirectory]
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setattr(metrics_module, "listeners", list)
    assert metrics_module.install() is None
    run_small()
    message = r"needs prometheus-client: pip install 'cntk-pipeline\[metrics\]'"
    with pytest.raises(ConfigError, match=message), served("127.0.0.1:0"):
        pass


def test_metrics_are_installed_once_a_process() -> None:
    first = metrics_module.install()
    assert first is not None
    assert metrics_module.install() is first


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False), ("host:1", False)],
)
def test_a_wider_address_is_told_apart(address: str, expected: bool) -> None:
    assert is_loopback(address.rpartition(":")[0]) is expected


def test_a_wider_address_is_warned_of(small_config: Config) -> None:
    view = Recorder()
    runs.start(small_config(cluster={"metrics": "0.0.0.0:0"}), view, threading.Event())
    assert any(line.startswith("warning: all who reach this host can read cluster.metrics") for line in view.lines)
