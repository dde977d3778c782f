"""A run in a bucket of a real S3 server: killed, resumed, damaged, verified, grown; equal to a run on disk."""

import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import obstore.store
import pytest
import xarray
import zarr
from support.flaky_proxy import WAYS, FlakyProxy
from support.problems import Recorder, require_same_kernel
from support.processes import begun

import cntk_pipeline
from cntk_pipeline.config import RunConfig, parse_config
from cntk_pipeline.errors import RunLocked
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage import open_path
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

WORKERS = 2
PATIENCE_SECONDS = 120

PATHS = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "pipeline"), str(Path(__file__).parents[1])])}

DRIVE = """
import json, threading
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.config import parse_config
from support.problems import Recorder
if __name__ == "__main__":
    runs.start(parse_config(json.load(open("workflow.json")), "test"), Recorder(), threading.Event())
"""


def workflow(store: str | dict[str, str], kind: str, **sections: object) -> RunConfig:
    return parse_config(
        {
            "data": {"source": "digits", "train": 150, "test": 30},
            "network": {"preset": "cntk"},
            "readouts": {"depths": [3, 8], "poolings": ["gap"]},
            "kernel": {"tile": 16},
            "solve": {"ridges": [1e-2], "tile": 32},
            "inference": {"leave_one_out": True, "evidence": True, "calibration": True},
            "cluster": {"kind": kind, "workers": WORKERS},
            "store": {"path": store} if isinstance(store, str) else store,
        }
        | sections,
        "test",
    )


@pytest.fixture
def url(bucket: str) -> str:
    return f"s3://{bucket}/{uuid.uuid4().hex}/run"


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return runs.start(workflow(str(tmp_path_factory.mktemp("disk") / "run"), "serial"), Recorder(), threading.Event())


def require_same(run: RunDirectory, other: RunDirectory) -> None:
    require_same_kernel(run, other)
    mine_solves, its_solves = make_report(run).solves, make_report(other).solves
    mine, its = ([(s.accuracy, [each.record for each in s.inferred]) for s in x] for x in (mine_solves, its_solves))
    assert mine == its
    assert all(record is not None for _, records in mine for record in records)


def receipts(url: str) -> int:
    return sum(1 for _ in RunDirectory(url).journal.receipts()) if open_path(url).exists() else 0


ON_CENTRES = {"solver": "centres", "centres": 60, "ridges": [1e-2], "tile": 32}


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"solve": ON_CENTRES | {"centre_choice": "random"}},
        {"solve": ON_CENTRES | {"centre_choice": "rpcholesky"}},
    ],
    ids=["cholesky", "centres", "pivots"],
)
def test_a_run_in_a_bucket_whose_processes_are_killed_equals_one_on_disk(
    url: str, sections: dict[str, Any], tmp_path: Path
) -> None:
    on_disk = runs.start(workflow(str(tmp_path / "disk"), "local", **sections), Recorder(), threading.Event())
    (tmp_path / "workflow.json").write_text(workflow(url, "local", **sections).model_dump_json())
    (tmp_path / "drive.py").write_text(DRIVE)
    process = subprocess.Popen(
        [sys.executable, "drive.py"], cwd=tmp_path, env=os.environ | PATHS, start_new_session=True
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while receipts(url) < 20:
        assert time.monotonic() < deadline, "20 receipts never came"
        assert process.poll() is None, "the driver ended early"
        time.sleep(0.05)
    os.killpg(process.pid, 9)
    process.wait()
    before = {receipt.task for receipt in RunDirectory(url).journal.receipts()}
    view = Recorder()
    run = runs.resume(url, view, threading.Event())
    again = [receipt.task for receipt in run.journal.receipts() if receipt.task in before and not receipt.adopted]
    assert len(again) == len(before), "a tile with a receipt was computed again"
    require_same(run, on_disk)
    assert runs.verify(url).bad == ()


def test_a_second_driver_of_a_run_in_a_bucket_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    runs.start(workflow(url, "serial", inference={}), Recorder(), threading.Event())
    with lease.hold(RunDirectory(url).lease_path), pytest.raises(RunLocked, match=r"another driver works on s3://"):
        runs.resume(url, Recorder(), threading.Event())


def test_a_damaged_object_is_found_and_computed_again(url: str, on_disk: RunDirectory) -> None:
    run = runs.start(workflow(url, "serial"), Recorder(), threading.Event())
    name = run.specification.readouts[0].name
    chunk = run.kernel(name, "train").chunk_path(2, 1)
    content = bytearray(chunk.read_bytes())
    content[100] ^= 4
    chunk.write_whole(bytes(content))
    quarantined = runs.verify(url).bad
    assert [(task.stage.kind, task.row, task.col) for task in quarantined] == [("train", 2, 1)]
    assert not make_report(RunDirectory(url)).complete
    require_same(runs.resume(url, Recorder(), threading.Event()), on_disk)


def test_a_run_in_a_bucket_grows(url: str, on_disk: RunDirectory) -> None:
    data = {"source": "digits", "train": 120, "test": 30, "standardize_first": 100}
    old = runs.start(workflow(url, "serial", data=data), Recorder(), threading.Event())
    view = Recorder()
    store = {"path": f"{url}-more", "grow_from": url}
    grown = runs.start(workflow(store, "serial", data=data | {"train": 150}), view, threading.Event())
    assert any(line.startswith("taken over 28 of 55 tiles of train") for line in view.lines), view.lines
    assert make_report(grown).complete
    assert [tile for tile in begun(grown) if tile in begun(old) and tile[0] == "train" and tile[1] < 7] == []


def test_credentials_are_nowhere_in_a_run(url: str) -> None:
    run = runs.start(workflow(url, "serial"), Recorder(), threading.Event())
    secrets = [os.environ["AWS_SECRET_ACCESS_KEY"].encode(), os.environ["AWS_ACCESS_KEY_ID"].encode()]
    texts = [name for name in run.path.listing() if name.endswith((".json", ".jsonl"))]
    assert "run.json" in texts
    for name in texts:
        content = (run.path / name).read_bytes()
        assert not any(secret in content for secret in secrets), name


def test_zarr_opens_the_arrays_in_a_bucket(url: str, on_disk: RunDirectory) -> None:
    run = runs.start(workflow(url, "serial", inference={}), Recorder(), threading.Event())
    for mine, its in zip(make_report(run).openers, make_report(on_disk).openers, strict=True):
        opened, expected = (eval(line, MODULES) for line in (mine, its))
        # The run on disk has results of inference too.
        for name in opened if isinstance(opened, xarray.Dataset) else [...]:
            np.testing.assert_array_equal(opened[name], expected[name])


MODULES = {"cntk_pipeline": cntk_pipeline, "zarr": zarr, "xarray": xarray, "obstore": obstore}
"""What lines that open arrays use."""

SMALL = {
    "data": {"source": "digits", "train": 60, "test": 12},
    "readouts": {"depths": [3], "poolings": ["gap"]},
    "solve": {"ridges": [1e-2], "tile": 16},
}


def test_a_run_in_a_bucket_that_computes_its_kernel_in_each_pass_equals_one_on_disk(url: str, tmp_path: Path) -> None:
    solve = {"ridges": [1e-2], "solver": "cg", "rank": 8, "tile": 16}
    sections = SMALL | {"solve": solve | {"kernel_bytes": 0}, "inference": {}}
    (tmp_path / "workflow.json").write_text(workflow(url, "local", **sections).model_dump_json())
    (tmp_path / "drive.py").write_text(DRIVE)
    process = subprocess.Popen(
        [sys.executable, "drive.py"], cwd=tmp_path, env=os.environ | PATHS, start_new_session=True
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while receipts(url) < 40:  # of 4 on the diagonal, 5 of the test images, and 10 products and 4 sums a pass
        assert time.monotonic() < deadline, "40 receipts never came"
        assert process.poll() is None, "the driver ended early"
        time.sleep(0.05)
    os.killpg(process.pid, 9)
    process.wait()
    run = runs.resume(url, Recorder(), threading.Event())
    stored = SMALL | {"solve": solve | {"sketch": "columns"}, "inference": {}}
    on_disk = runs.start(workflow(str(tmp_path / "run"), "serial", **stored), Recorder(), threading.Event())
    (mine,), (its,) = make_report(run).solves, make_report(on_disk).solves
    assert mine.name == its.name
    for part in ("coefficients", "mean"):
        np.testing.assert_array_equal(*(each.solved(mine.name, part).read(0, 0) for each in (run, on_disk)))
    assert runs.verify(url).bad == ()


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_server_that_fails_some_requests_costs_time_and_no_bit(url: str, share: float, tmp_path: Path) -> None:
    """Fails where `create_new` trusts its own first answer, or where errors of the store are not asked again."""
    on_disk = runs.start(workflow(str(tmp_path / "run"), "serial", **SMALL), Recorder(), threading.Event())
    with FlakyProxy(os.environ["AWS_ENDPOINT_URL"], share, seed=3).serving() as proxy:
        (tmp_path / "workflow.json").write_text(workflow(url, "serial", **SMALL).model_dump_json())
        environment = os.environ | PATHS | {"AWS_ENDPOINT_URL": proxy.url}
        ended = subprocess.run([sys.executable, "-c", DRIVE], cwd=tmp_path, env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    assert all(proxy.failed[way] for way in WAYS), proxy.failed
    print(f"{sum(proxy.failed.values())} requests failed of {proxy.passed + sum(proxy.failed.values())}")
    run = RunDirectory(url)
    require_same(run, on_disk)
    assert runs.verify(url).bad == ()
    tasks = [receipt.task for receipt in run.journal.receipts()]
    assert len(tasks) == len(set(tasks))
