"""The page of progress, asked for over HTTP from real schedulers.

Seen to fail: without the plugin, with a template that does not escape, with a page that keeps the run of a driver that
has left, and with the driver's numbers sent before the page is there.
"""

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from typing import Any

import distributed
import pytest
from support.problems import Recorder
from support.processes import nothing

from cntk_pipeline.cli.watch import Watcher, moment_of
from cntk_pipeline.clusters.dask import executor as executors
from cntk_pipeline.clusters.dask import progress_page
from cntk_pipeline.clusters.dask.executor import DaskExecutor, ExecutorTraits, prepared
from cntk_pipeline.clusters.dask.progress_page import ProgressPage, address_in_words, page_beside
from cntk_pipeline.config import RunConfig
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.telemetry.progress import RunProgress, StageProgress
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report


def ask(address: str) -> tuple[str, dict[str, str]]:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read().decode(), dict(answer.headers)


class Page(HTMLParser):
    """The tags of a page, the values of its bars, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.bars: dict[str, tuple[int, int]] = {}
        self.links: list[str] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = {name: value or "" for name, value in attributes}
        if tag == "progress":
            self.bars[found["aria-label"]] = int(found["value"]), int(found["max"])
        if tag == "a":
            self.links.append(found["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def scheduler() -> Iterator[distributed.LocalCluster]:
    """A scheduler with its HTTP server, and no workers."""
    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        yield cluster


def open_executor(client: distributed.Client) -> DaskExecutor:
    return prepared(client, nothing, ExecutorTraits("a scheduler alone"))


def address_of(executor: DaskExecutor) -> str:
    return executor.describe().partition("dashboard ")[2]


def shown(number: int) -> RunProgress:
    stages = (StageProgress("train", 15, 15), StageProgress("test", number, 24))
    return RunProgress(f"/runs/{number}", "kernel", 15 + number, 39, stages, "3 tiles/s", "4 to 6 s left")


def test_a_page_has_what_the_driver_has_shown(scheduler: distributed.LocalCluster) -> None:
    with distributed.Client(scheduler) as client:
        executor = open_executor(client)
        assert "No run is at work" in ask(address_of(executor))[0]
        executor.show(lambda: shown(7))
        executor.wait(0.0)
        executor._look()
        content, headers = ask(address_of(executor))
        page = Page(content)
        assert page.bars == {"train": (15, 15), "test": (7, 24)}
        assert "kernel: 22 of 39 tiles, 3 tiles/s, 4 to 6 s left" in page.text
        assert "0 workers" in page.text
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "script" not in page.tags


def test_it_leads_back_to_pages_of_dask(scheduler: distributed.LocalCluster) -> None:
    with distributed.Client(scheduler) as client:
        address = address_of(open_executor(client))
        (link,) = Page(ask(address)[0]).links
        assert "bokeh" in ask(address.removesuffix("cntk") + link)[0]


def test_several_drivers_share_a_page_and_who_leaves_is_gone(scheduler: distributed.LocalCluster) -> None:
    with distributed.Client(scheduler) as first:
        one = open_executor(first)
        with distributed.Client(scheduler, set_as_default=False) as second:
            for number, executor in ((1, one), (2, open_executor(second))):
                executor.show(partial(shown, number))
                executor._look()
            both = Page(ask(address_of(one))[0]).text
        deadline = time.monotonic() + 30
        while "/runs/2" in (left := Page(ask(address_of(one))[0]).text) and time.monotonic() < deadline:
            pass
    assert [name in both for name in ("/runs/1", "/runs/2")] == [True, True]
    assert [name in left for name in ("/runs/1", "/runs/2")] == [True, False]


def test_what_a_run_is_called_does_not_act_on_the_page(scheduler: distributed.LocalCluster) -> None:
    evil = "</h2><script>alert(1)</script>\" onload='x"
    with distributed.Client(scheduler) as client:
        executor = open_executor(client)
        place = f"s3://me:secret@host/{evil}"
        executor.show(lambda: RunProgress(place, evil, 1, 2, (StageProgress(evil, 1, 2),), evil, evil))
        executor._look()
        content = ask(address_of(executor))[0]
    page = Page(content)
    assert "script" not in page.tags
    assert page.bars == {evil: (1, 2)}
    assert page.text.count("<script>alert(1)</script>") == 5
    assert "secret" not in content


def test_a_silent_driver_is_named(scheduler: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with distributed.Client(scheduler) as client:
        executor = open_executor(client)
        executor.show(lambda: shown(3))
        executor._look()
        assert "no news" not in ask(address_of(executor))[0]
        monkeypatch.setattr(progress_page, "LATE_SECONDS", -1.0)
        assert "The driver has sent no news for 0 s." in ask(address_of(executor))[0]


def test_a_scheduler_that_cannot_show_the_page_is_warned_of_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(self: ProgressPage, scheduler: Any) -> None:
        raise ImportError("No module named 'cntk_pipeline.telemetry.progress'")

    monkeypatch.setattr(ProgressPage, "start", start)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor = open_executor(client)
        executor.show(lambda: shown(3))
        assert executor._look() == []
    assert executor.describe() == "a scheduler alone"
    (warning,) = executor.warnings
    assert warning.startswith("the scheduler shows no page of progress: ImportError: No module named")


@pytest.mark.parametrize(
    ("place", "address"),
    [
        (("here", "127.0.0.1", 8787, False), "http://127.0.0.1:8787/cntk"),
        (("node7", "127.0.0.1", 8787, False), "http://127.0.0.1:8787/cntk on node7"),
        (("node7", "0.0.0.0", 8787, True), "https://node7:8787/cntk"),
        (("node7", "10.0.0.7", 8787, False), "http://10.0.0.7:8787/cntk"),
        (("node7", "fd00::7", 8787, False), "http://[fd00::7]:8787/cntk"),
    ],
)
def test_an_address_names_the_host_where_it_must(place: tuple[str, str, int, bool], address: str) -> None:
    assert address_in_words(*place, here="here") == address


def test_the_page_is_behind_the_same_proxy_as_the_dashboard() -> None:
    assert page_beside("https://hub/user/me/proxy/8787/status") == "https://hub/user/me/proxy/8787/cntk"


class Reader(Recorder):
    """A view that reads the page while tiles are finished, and looks once at what a status and a watch say of it."""

    def __init__(self, path: Any) -> None:
        super().__init__()
        self._path = path
        self.bars: dict[str, tuple[int, int]] = {}
        self.address, self.facts = "", {}

    def progress(self, progress: Any) -> None:
        super().progress(progress)
        if not self.address:
            self.address = next(line for line in self.lines if "dashboard" in line).partition("dashboard ")[2]
            self.facts = dict(moment_of(Watcher(RunDirectory(self._path)).look()).facts)
        self.bars |= Page(ask(self.address)[0]).bars


@pytest.mark.slow
def test_a_run_on_workers_shows_all_its_tiles_and_its_watch_the_address(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "LOOK_SECONDS", 0.0)  # the run is over in a second
    config = small_config(cluster={"kind": "local", "workers": 2})
    view = Reader(runs.run_path(config))
    run = runs.start(config, view, threading.Event())
    stages = {stage.stage: stage.total for stage in make_report(run).stages}
    totals = {stage: total for stage, (_, total) in view.bars.items()}
    assert totals.items() <= stages.items()
    assert {"train", "test", "variance"} <= totals.keys()
    assert max(done for done, _ in view.bars.values()) > 0
    assert re.fullmatch(r"http://127.0.0.1:\d+/cntk", view.address)
    assert (view.facts["cluster"], view.facts["dashboard"]) == ("2 local workers", view.address)
