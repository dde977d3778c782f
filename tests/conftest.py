"""Fixtures of the tests of the system: a small problem, and a run of it in this process."""

import contextlib
import gc
import os
import pwd
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg  # noqa: F401 - loads a BLAS of its own beside NumPy's
from hypothesis import settings
from support.browser import browser
from support.problems import TEST, TRAIN, Recorder
from support.required import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 - hooks of pytest
from support.restarts import forget
from support.s3_server import PROGRAMS, shared_s3_server
from threadpoolctl import threadpool_limits

from cntk_pipeline.config import RunConfig, parse_config
from cntk_pipeline.kernels import timing
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.signature import KEY_VARIABLE
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.workflow import run as runs

# Machines are shared: an example that takes long says nothing of the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


TESTS = Path(__file__).parent
SLOW = (
    "faults",
    "real",
    "cli/test_inspection.py",
    "cli/test_startup.py",
    "cli/test_watch.py",
    "clusters/test_adding.py",
    "clusters/test_memory.py",
    "clusters/test_progress_page.py",
    "datasets/test_adding.py",
    "estimators/test_conventions.py",
    "estimators/test_memory.py",
    "finite",
    "gram/test_engines.py",
    "inference/test_adding.py",
    "inference/test_trained.py",
    "interactive",
    "kernels/test_masked.py",
    "kernels/test_planes.py",
    "kernels/test_pooling.py",
    "opened/test_export.py",
    "opened/test_predict_on_cluster.py",
    "opened/test_predict_in_memory.py",
    "opened/test_tasks.py",
    "pages",
    "plots",
    "rundir/test_lease.py",
    "rundir/test_runs_before_stages.py",
    "solvers/test_adding.py",
    "telemetry/test_metrics.py",
    "workflows",
)
REAL = (
    "real/test_bucket.py",
    "real/test_file_systems.py",
    "real/test_hosts.py",
    "real/test_slurm.py",
    "real/test_ssh.py",
)
ALONE = ("real/test_hosts.py",)
"""Folders and files of `tests` whose every test has a marker.

Real parts start daemons and mount disks, and mostly wait. Alone are tests which take time for a sign: of a worker that
is frozen, of a link that is cut. Kills, clocks that are set and full disks wait for what they need, however long.
"""

LONGEST = ("test_site.py", "faults/test_kill.py", "faults/test_power.py", "faults/test_every_operation.py")
"""Files that take minutes: one that began late would be waited for at the end, when other processes have no more."""


def _paths(places: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(TESTS / place) + ("" if place.endswith(".py") else os.sep) for place in places)


collect_ignore = ["support/on_card.py"]
"""Imported by scripts alone: it replaces the driver of the graphics cards of its process."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files out whose tests are all slow where none of these are wanted: their imports take seconds."""
    is_slow = (str(collection_path) + os.sep).startswith(_paths(SLOW))
    return True if is_slow and config.option.markexpr == "not slow" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what is imported and collected out of the search for garbage, which would find none in it each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of whole folders and files, before any are chosen by their markers; slow files come first."""
    places = [(pytest.mark.slow, _paths(SLOW)), (pytest.mark.real, _paths(REAL)), (pytest.mark.alone, _paths(ALONE))]
    for item in items:
        for marker, paths in places:
            if str(item.path).startswith(paths):
                item.add_marker(marker)
        if "[bucket" in item.name or "bucket" in getattr(item, "fixturenames", ()):  # which starts a gateway
            item.add_marker(pytest.mark.slow)
    # Where processes share the tests, the last file should not be a long one.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    longest = _paths(LONGEST)
    items.sort(key=lambda item: (not str(item.path).startswith(longest), item.path not in slow))


@pytest.fixture(scope="session", autouse=True)
def key_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Sign with a key of the tests' own, in the processes that they start too, and leave the user's alone."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(KEY_VARIABLE, str(tmp_path_factory.mktemp("configuration") / "key"))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread_a_product() -> Iterator[None]:
    """Let the BLAS of this process use one core, as several processes share them: threads that wait for others spin.

    Processes that tests start have their own setting.
    """
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session", autouse=True)
def short_samples() -> Iterator[None]:
    """Let a plan of this process measure a pair for a moment, as most tests of plans ask nothing of its seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "SAMPLE_SECONDS", 0.02)
        yield


@pytest.fixture(scope="session", autouse=True)
def checkout_left_alone() -> Iterator[None]:
    """Hold that no test writes into the checkout, but for caches, and for what is built."""

    def names() -> set[str]:
        return {path.name for path in TESTS.parent.iterdir()} - {"build", "dist"}

    before = names()
    yield
    written = {name for name in names() - before if not name.startswith(".")}
    assert not written, f"a test has written {', '.join(sorted(written))} into the checkout"


@pytest.fixture
def tmp_path(tmp_path: Path) -> LocalPath:
    """A folder as a store knows it, which is a `pathlib.Path` as well."""
    return LocalPath(tmp_path)


@pytest.fixture(scope="session")
def small_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 noisy pictures of three shapes, 6 x 5 pixels, 2 channels; one is all black, two are equal."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, TRAIN + TEST)
    shapes = rng.standard_normal((3, 6, 5, 2))
    images = shapes[labels] + 0.8 * rng.standard_normal((TRAIN + TEST, 6, 5, 2))
    images[4] = 0
    images[30], labels[30] = images[20], labels[20]
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(
        path,
        x_train=images[:TRAIN].astype(np.float32),
        y_train=labels[:TRAIN],
        x_test=images[TRAIN:].astype(np.float32),
        y_test=labels[TRAIN:],
    )
    return path


@pytest.fixture
def black(small_npz: Path, tmp_path: Path) -> dict[str, Any]:
    """The section ``data`` of the small problem with black pictures, whose kernels without biases are zero."""
    with np.load(small_npz) as stored:
        np.savez(tmp_path / "black.npz", **{key: stored[key] * (key[0] != "x") for key in stored})
    return {"path": str(tmp_path / "black.npz"), "standardize": False}


@pytest.fixture
def small_config(small_npz: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Make the workflow of the small problem; keyword arguments replace or extend its sections."""

    def make(**sections: dict[str, Any]) -> RunConfig:
        table: dict[str, Any] = {
            "name": "small",
            "data": {"source": "npz", "path": str(small_npz)},
            "network": {"preset": "cntk"},
            "readouts": {"depths": [3], "poolings": ["flatten", "gap"], "kinds": ["ntk", "nngp"]},
            "kernel": {"tile": 16},
            "solve": {"ridges": [1e-2]},
            "cluster": {"kind": "serial"},
            "store": {"path": str(tmp_path / "run")},
        }
        for name, values in sections.items():
            table[name] = table.get(name, {}) | values if isinstance(values, dict) else values
        return parse_config(table, "test")

    return make


@pytest.fixture
def run_small(small_config: Callable[..., RunConfig]) -> Callable[..., RunDirectory]:
    """Run the small problem to its end; arguments as of ``small_config``, and ``view``."""

    def run(view: Recorder | None = None, **sections: dict[str, Any]) -> RunDirectory:
        return runs.start(small_config(**sections), view or Recorder(), threading.Event())

    return run


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take over without a wait what a driver left that ended within this process, and forget at the end."""
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.0)
    yield
    forget()


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this user be a number that the machine has no entry of."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """Return what skips a test unless programs and rights are there, or fails it where CNTK_REQUIRE_REAL is set.

    Called in a test or a fixture: ``require("slurmctld", "munged", root=True)``. A whole path may be of any
    file.
    """

    def check(*programs: str, root: bool = False) -> None:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # daemons are not on everybody's
        absent = [
            program
            for program in programs
            if not (os.path.isfile(program) if os.path.isabs(program) else shutil.which(program, path=path))
        ]
        reasons = [f"{' and '.join(absent)} not found: run tests/real/install.sh"] if absent else []
        if root and os.geteuid() != 0:
            reasons.append("only root may do this")
        if not reasons:
            return
        if os.environ.get("CNTK_REQUIRE_REAL"):
            pytest.fail("; ".join(reasons))
        pytest.skip("; ".join(reasons))

    return check


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Iterator[str]:
    """A bucket of a real S3 server, which the environment names from here on; skipped where there is none.

    Its names are of all tests: each takes another one.
    """
    require(*PROGRAMS)
    base = tmp_path_factory.getbasetemp()
    together = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base  # the processes of one call of pytest
    with shared_s3_server(together / "gateway") as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        yield server.bucket


@pytest.fixture(scope="module")
def chromium(require: Callable[..., None]) -> Iterator[Any]:
    """Debian's browser; skipped where it is not installed."""
    require("chromium")
    with browser() as opened:
        yield opened


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
