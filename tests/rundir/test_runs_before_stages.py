"""Runs that the version before stages had owners has written are opened, verified, gone on with and grown, bit for bit.

BLAS adds up in another order on another processor, so that bits of factors and of all that follows from them are those
of the processor that wrote the runs; on others they are held to its values up to rounding, and the kernel to its bits.
``earlier/before_stages.tar.xz`` holds five finished runs of that version, and the same five stopped on the way. Seen to
fail where a stage's chunks were named in another order, and where an option was written into a solve's name.
"""

import json
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg  # loads its BLAS
import zarr
from support.earlier_runs import chunks
from support.problems import Recorder
from threadpoolctl import threadpool_info

from cntk_pipeline.config import parse_config
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

WRITTEN_WITH = "SkylakeX"
"""The kernels of OpenBLAS on the processor that wrote the runs."""

NAMES = ("factored", "rounded", "grown", "iterated", "chosen")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the runs, and tell those that grow where the older one lies now."""
    folder = tmp_path_factory.mktemp("before-stages")
    with tarfile.open(Path(__file__).parents[1] / "earlier" / "before_stages.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for name in ("grown", "grown-half"):
        growth = json.loads((folder / name / "growth.json").read_text())
        (folder / name / "growth.json").write_text(json.dumps(growth | {"path": str(folder / "factored")}))
    return folder


def results(run: Path) -> dict[str, bytes]:
    """Read the chunks of a run that are no intermediate ones."""
    found = chunks(run)
    return {name: found[name] for name in found if "work.zarr" not in name and "partial" not in name}


def has_blas_of_then() -> bool:
    assert scipy.linalg
    return {each.get("architecture") for each in threadpool_info() if each["user_api"] == "blas"} == {WRITTEN_WITH}


def require_same_results(run: Path, other: Path) -> None:
    found, expected = results(run), results(other)
    assert set(found) == set(expected)
    exact = "" if has_blas_of_then() else "kernel.zarr"
    assert {name: found[name] for name in found if name.startswith(exact)} == {
        name: expected[name] for name in expected if name.startswith(exact)
    }
    for array in sorted({name.split("/c/")[0] for name in found if not name.startswith(exact)}):
        new, old = (np.asarray(zarr.open_array(place / array, mode="r")[...]) for place in (run, other))
        tolerance = 1e-6 * np.nanmax(np.abs(old), initial=0) + 1e-9  # residuals are roundings
        np.testing.assert_allclose(new, old, rtol=0, atol=tolerance, err_msg=array)


def require_same_record(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            require_same_record(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            require_same_record(*pair)
    elif isinstance(expected, float) and not has_blas_of_then():
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)  # residuals are roundings
    else:
        assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_run_is_whole(earlier: Path, name: str) -> None:
    before = results(earlier / name)
    found = runs.verify(earlier / name)
    assert (found.bad, found.unneeded, found.contradicted, found.lost, found.mended) == ((), (), (), (), ())
    assert found.whole > 15
    report = make_report(RunDirectory(earlier / name))
    assert report.complete
    view = Recorder()
    runs.resume(earlier / name, view, threading.Event())
    assert view.lines[-1] == "nothing is left to do: every tile and every result is there"
    assert results(earlier / name) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_stopped_ends_with_the_same_bits(earlier: Path, name: str) -> None:
    half = earlier / f"{name}-half"
    assert not make_report(RunDirectory(half)).complete
    finished = len(list(RunDirectory(half).journal.receipts()))
    run = runs.resume(half, Recorder(), threading.Event(), trust=True)
    assert make_report(run).complete
    require_same_results(half, earlier / name)
    records = [path.relative_to(half) for path in half.rglob("*.json") if path.name in ("metrics.json", "zarr.json")]
    assert len(records) > 10
    for record in records:
        require_same_record(json.loads((half / record).read_text()), json.loads((earlier / name / record).read_text()))
    assert finished  # what the earlier version had computed is not computed again
    assert len({receipt.task for receipt in run.journal.receipts() if not receipt.adopted}) >= finished


def test_a_run_grows_from_an_earlier_one_as_the_earlier_version_did(earlier: Path, tmp_path: Path) -> None:
    table = json.loads((earlier / "grown" / "workflow.json").read_text())
    table.pop("signature", None)
    store = {"path": str(tmp_path / "new"), "grow_from": str(earlier / "factored")}
    config = parse_config(table | {"store": store}, "the workflow of the earlier run")
    view = Recorder()
    run = runs.start(config, view, threading.Event())
    assert any(line.startswith("taken over") for line in view.lines)
    require_same_results(tmp_path / "new", earlier / "grown")
    assert run.fingerprint == RunDirectory(earlier / "grown").fingerprint
