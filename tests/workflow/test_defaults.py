"""Every kind of input through plan and run with nothing given but the data and the network.

Other tests give the tile and the ridge, so that a default that fails is seen here. Seen to fail: with pairs
measured on sequences without a step.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.graphs import draw_graphs
from support.problems import Recorder

from cntk_pipeline.config import parse_config
from cntk_pipeline.graphs import pack
from cntk_pipeline.sequences import pad
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

RELU = {"layer": "Relu"}
DENSE = {"layer": "Dense"}
RECURRENT = {"layer": "Recurrent", "activation": RELU}
RNG = np.random.default_rng(5)
IMAGES = RNG.standard_normal((14, 8, 8, 1))
GRAPHS = draw_graphs([4, 9, 3, 7, 5, 8, 6] * 2, features=2, seed=1)


def with_gaps() -> np.ndarray:
    """Cut a region out of each image, the first among them."""
    images = IMAGES.copy()
    images[:, 2:5, 3] = np.nan
    return images


KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "vectors": (RNG.standard_normal((14, 5)), {}, {"preset": "fully_connected"}),
    "images": (IMAGES, {}, {"preset": "cntk"}),
    "images with absent pixels": (
        with_gaps(),
        {},
        {"layers": [{"layer": "Masked"}, {"layer": "Conv", "filter_shape": 3}, RELU, {"layer": "Flatten"}, DENSE]},
    ),
    "sequences": (
        RNG.standard_normal((14, 6, 2)),
        {"layout": "sequences"},
        {"layers": [RECURRENT, {"layer": "LastState"}, DENSE]},
    ),
    "sequences of unequal lengths": (
        pad([RNG.standard_normal((steps, 2)) for steps in [6, 2, 5, 1, 4, 3, 6] * 2]),
        {"layout": "sequences"},
        {"layers": [{"layer": "Padded"}, RECURRENT, {"layer": "GlobalAvgPool"}, DENSE]},
    ),
    "graphs": (pack([a for a, _ in GRAPHS], [f for _, f in GRAPHS]), {"standardize": False}, {"preset": "gntk"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_input_is_planned_and_run_by_defaults(tmp_path: Path, kind: str) -> None:
    inputs, data, network = KINDS[kind]
    np.savez(tmp_path / "inputs.npz", x=inputs, y=np.arange(14) % 2)
    config = parse_config(
        {
            "data": {"source": "npz", "path": str(tmp_path / "inputs.npz"), "test": 4} | data,
            "network": network,
            "readouts": {"depths": [2]} if "preset" in network else {},
            "cluster": {"kind": "serial"},
            "store": {"path": str(tmp_path / "run")},
        },
        "test",
    )
    plan = runs.plan(config)
    run = runs.start(config, Recorder(), threading.Event())
    assert run.specification.tile == plan.tile
    assert make_report(run).complete
    residuals = [solve.relative_residual for solve in make_report(run).solves]
    assert residuals
    assert max(residuals) < 1e-6


@pytest.mark.parametrize("solve", [{"solver": "cg"}, {"solver": "centres", "centres": 4}, {"ridges": "auto"}], ids=str)
def test_a_way_to_solve_runs_by_defaults(tmp_path: Path, solve: dict[str, Any]) -> None:
    np.savez(tmp_path / "inputs.npz", x=IMAGES, y=np.arange(14) % 2)
    config = parse_config(
        {
            "data": {"source": "npz", "path": str(tmp_path / "inputs.npz"), "test": 4},
            "network": {"preset": "cntk"},
            "readouts": {"depths": [2]},
            "solve": {"ridges": [1e-2]} | solve,
            "cluster": {"kind": "serial"},
            "store": {"path": str(tmp_path / "run")},
        },
        "test",
    )
    assert runs.plan(config).readouts
    assert make_report(runs.start(config, Recorder(), threading.Event())).complete
