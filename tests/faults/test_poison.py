"""A tile that ends every worker which computes it, by a crash or for want of memory: it is named, the rest completes.

By a crash `make chaos` alone ends them: Dask tells both deaths in the same way, and kills are those of `test_chaos.py`.
The run is the shell's, its workers are real processes; only that one tile is made deadly, by a module that Dask loads
into each of them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults.test_chaos import Undisturbed, report
from support.processes import begun, receipts

from cntk_pipeline.cli.main import COMPLETE, FAILED

LIMIT = "1GB"

DEATHS = ("kill", "hoard") if "CNTK_KILLS" in os.environ else ("hoard",)

FEW = {"readouts": {"depths": [3], "poolings": ["gap"]}, "solve": {"ridges": [1e-2]}, "kernel": {"tile": 50}}
WORKFLOW = f"""
data = {{ source = "digits", train = 150, test = 30 }}
network = {{ preset = "cntk" }}
readouts = {{ depths = [3], poolings = ["gap"] }}
kernel = {{ tile = 50 }}
solve = {{ ridges = [1e-2] }}
cluster = {{ kind = "local", workers = 2, memory_limit = "{LIMIT}" }}
"""

POISON = """
import os, signal, time
import numpy as np
from cntk_pipeline.gram import tiles as gram

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def hoard():
    held = []
    while True:
        held.append(np.ones(2**22))
        time.sleep(0.02)

def evaluate_or_die(run_path, task, numbers, evaluate=gram._evaluate):
    if (task.stage.kind, task.row, task.col) == ("train", 2, 1):
        {how}()
    return evaluate(run_path, task, numbers)

if not hasattr(gram, "poisoned"):  # Dask may load this more than once
    gram.poisoned, gram._evaluate = True, evaluate_or_die
"""


@pytest.mark.parametrize("how", DEATHS)
def test_a_tile_that_ends_its_workers_is_named_and_the_rest_completes(
    undisturbed: Undisturbed, tmp_path: Path, how: str
) -> None:
    truth, path = undisturbed(FEW), tmp_path / "run"
    (tmp_path / "workflow.toml").write_text(WORKFLOW)
    (tmp_path / "poison.py").write_text(POISON.format(how=how))
    command = [sys.executable, "-m", "cntk_pipeline.cli"]
    poisoned = os.environ | {"DASK_DISTRIBUTED__WORKER__PRELOAD": str(tmp_path / "poison.py")}
    run = [*command, "run", "workflow.toml", "--store", str(path)]
    ended = subprocess.run(run, cwd=tmp_path, env=poisoned, capture_output=True, text=True, timeout=280)
    assert ended.returncode == FAILED, ended.stderr
    said = " ".join(ended.stderr.split())
    assert re.search(r"1 tiles could not be computed.*all others are kept, and resuming tries these again", said)
    assert re.search(r"train tile \(2, 1\): KillsWorkers: its workers died again and again.*cluster.memory_limit", said)
    kernel = sum(stage in ("train", "test", "variance") for stage, _, _ in set(begun(truth.path)))
    assert receipts(path) == kernel - 1
    deaths = begun(path).count(("train", 2, 1))
    resume = [*command, "resume", str(path), "--cluster", "serial"]
    ended = subprocess.run(resume, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == COMPLETE, ended.stderr
    # What a worker had just computed and was writing dies with it.
    report(f"poison ({how})", deaths, path, 2 * deaths, truth)
