"""A graphics card that fails ends its worker; the next worker goes on, and the run completes with the same values.

The card is this machine's CPU, which runs the same text. Its first launch of a tile raises the error of CUDA's driver.
"""

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.problems import Recorder, toml, whole_matrix
from support.processes import begun
from support.warps import CudaEngineOnCpu, needs_compiler

from cntk_pipeline import kernel_matrix
from cntk_pipeline.cli.main import COMPLETE
from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.serial import SerialExecutor
from cntk_pipeline.config import parse_config
from cntk_pipeline.errors import ConfigError, DeviceLost, SpecificationMismatch, WorkersLost
from cntk_pipeline.kernels import Question
from cntk_pipeline.layers import presets
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs

WORKFLOW: dict[str, Any] = {
    "data": {"source": "digits", "train": 64, "test": 16},
    "network": {"preset": "cntk"},
    "readouts": {"depths": [3]},
    "kernel": {"engine": "cuda", "architecture": "sm_90", "tile": 32, "dtype": "float64"},
    "cluster": {"kind": "local", "gpus_per_node": 1},
}

DEVICE = """
from pathlib import Path
from cuda.core._utils.cuda_utils import CUDAError
from cntk_pipeline.kernels.cuda.engine import CudaEngine
from support.warps import CpuLauncher

class FailsOnce(CpuLauncher):
    def start(self, left, right, pairs, **options):
        if len(pairs) > 3:  # a tile, not the test of two images at the start
            try:
                Path({failed!r}).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                raise CUDAError("CUDA_ERROR_ILLEGAL_ADDRESS: a load or store was out of bounds")
        return super().start(left, right, pairs, **options)

CudaEngine.launcher = lambda self: FailsOnce(self.program, self.layout)
"""


@needs_compiler
@pytest.mark.slow
def test_a_card_that_fails_costs_the_tiles_of_its_worker_and_no_run(tmp_path: Path) -> None:
    """Seen to fail, with one tile given up by its error, where the worker lives on."""
    pytest.importorskip("cuda.core")
    path, failed = tmp_path / "run", tmp_path / "failed"
    (tmp_path / "workflow.toml").write_text(toml(WORKFLOW))
    (tmp_path / "device.py").write_text(DEVICE.format(failed=str(failed)))
    devices = {"PYTHONPATH": os.pathsep.join(sys.path), "DASK_DISTRIBUTED__WORKER__PRELOAD": f"{tmp_path}/device.py"}
    command = [sys.executable, "-m", "cntk_pipeline.cli", "run", "workflow.toml", "--store", str(path)]
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | devices, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == COMPLETE, ended.stderr
    assert failed.exists()
    assert 0 < sum(times - 1 for times in Counter(begun(path, "train", "test", "variance")).values()) <= 3
    told = "".join(file.read_text() for file in (path / "log").glob("*.jsonl"))
    assert "DeviceLost" in told
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in told
    run = RunDirectory(path)
    images = run.inputs("train_images")[:]
    found = whole_matrix(run, run.specification.readouts[0].name, "train")
    expected = kernel_matrix(presets.cntk(3), images, dtype="float64")
    np.testing.assert_allclose(np.tril(found), np.tril(expected), rtol=1e-10)
    # Neither the CPU nor a card of another architecture goes on with it.
    for other in ({"engine": "cpu", "architecture": None}, {"architecture": "sm_80"}):
        kernel = {key: value for key, value in (WORKFLOW["kernel"] | other).items() if value is not None}
        tables = WORKFLOW | {"kernel": kernel, "cluster": {"kind": "serial"}, "store": {"path": str(path)}}
        with pytest.raises(SpecificationMismatch, match="engine"):
            runs.start(parse_config(tables, "test"), Recorder(), threading.Event())


class Fails:
    """A device whose driver reports an error at each launch."""

    def __init__(self, engine: CudaEngineOnCpu) -> None:
        self.layout = engine.layout

    def start(self, *_: object, **__: object) -> None:
        from cuda.core._utils.cuda_utils import CUDAError

        raise CUDAError("CUDA_ERROR_LAUNCH_FAILED: an exception occurred on the device")


def lose(x: np.ndarray) -> None:
    class Engine(CudaEngineOnCpu):
        def launcher(self) -> Any:
            return Fails(self)

    Engine(Question(((presets.cntk(3), "ntk"),), x.shape[1:], "float32")).evaluator().evaluate(x)


@needs_compiler
def test_without_another_process_a_lost_card_stops_the_run() -> None:
    pytest.importorskip("cuda.core")
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 1))
    with pytest.raises(DeviceLost, match=r"the graphics card of this process failed, .*: CUDA_ERROR_LAUNCH_FAILED"):
        lose(x)
    executor = SerialExecutor()
    executor.submit(("a",), lose, x)
    with pytest.raises(WorkersLost, match=r"is lost to it: .* `cntk resume` goes on in another process"):
        executor.wait(0.1)


@pytest.mark.parametrize(
    ("kernel", "cluster", "message"),
    [
        ({}, {"gpus_per_node": 1}, "computes on no card"),
        ({"engine": "cuda"}, {}, r"set cluster\.gpus_per_node"),
        ({"engine": "cuda"}, {"gpus_per_node": 1, "threads_per_worker": 2}, "Leave threads_per_worker at 1"),
    ],
)
def test_a_cluster_whose_cards_are_not_those_of_the_engine_is_refused_and_nothing_written(
    kernel: dict[str, Any], cluster: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tables = WORKFLOW | {"kernel": kernel, "cluster": {"kind": "local"} | cluster, "store": {"path": f"{tmp_path}/run"}}
    config = parse_config(tables, "test")
    for refused in (runs.plan, lambda config: runs.start(config, Recorder(), threading.Event())):
        with pytest.raises(ConfigError, match=message):
            refused(config)
    assert not list(tmp_path.iterdir())


def test_workers_of_another_scheduler_that_would_share_a_card_by_threads_are_refused(tmp_path: Path) -> None:
    tables = WORKFLOW | {"cluster": {"kind": "address", "address": "tcp://a:1"}, "store": {"path": f"{tmp_path}/run"}}
    with pytest.raises(ConfigError, match=r"computes 2 tiles at once, and has one graphics card: .*--nthreads 1"):
        runs.begin_elsewhere(parse_config(tables, "test"), Recorder(), WorkerMemory(2**34, 2))
