"""The workflow of a user's own network: the kernel that its function gives, and what it must keep."""

import threading
from pathlib import Path

import numpy as np
import pytest
from support.problems import Recorder, whole_matrix
from support.scripts import load_script

from cntk_pipeline.config import load_config
from cntk_pipeline.workflow import run as runs

FOLDER = Path(__file__).parents[2] / "workflows" / "plugin"


def test_a_run_holds_the_products_of_the_slopes_of_the_users_network(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    changed = ("kernel.plugin_block=16", "kernel.dtype=float64", "data.train=20", "data.test=6", "cluster.kind=serial")
    given = {"kernel.plugin_folder": str(FOLDER), "store.path": str(tmp_path / "run")}
    config = load_config(FOLDER / "own_network.toml", changed, given=given)
    run = runs.start(config, Recorder(), threading.Event())
    module = load_script(FOLDER / "own_network.py").own_network()
    slopes = []
    for image in np.asarray(run.inputs("train_images")[:]):
        module.zero_grad()
        module(torch.tensor(image[None], dtype=torch.float32)).backward()
        slopes.append(np.concatenate([weights.grad.numpy().ravel() for weights in module.parameters()]))
    rows = np.array(slopes, np.float64)
    np.testing.assert_allclose(whole_matrix(run, "ntk", "train"), rows @ rows.T, rtol=1e-4)
