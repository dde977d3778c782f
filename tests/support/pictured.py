"""Runs with pictures for the tests of figures and pages."""

from pathlib import Path
from typing import Any

import numpy as np

import cntk_pipeline
from cntk_pipeline.opened import OpenRun

TRAIN, TEST, CLASSES = 60, 24, 3

WORKFLOW: dict[str, Any] = {
    "name": "pictured",
    "network": {"preset": "cntk"},
    "readouts": {"depths": [3, 4], "poolings": ["flatten", "gap"], "kinds": ["ntk"]},
    "kernel": {"tile": 32},
    "solve": {"ridges": [1e-2, 1.0]},
    "inference": {"leave_one_out": True},
    "cluster": {"kind": "serial"},
}


def picture_data(names: tuple[str, ...] = ("ring", "bar", "dot")) -> dict[str, np.ndarray]:
    """Draw noisy uint8 pictures of three shapes, 6 x 6 pixels with 3 channels, hard enough for some mistakes."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASSES, TRAIN + TEST)
    shapes = rng.uniform(60, 190, (CLASSES, 6, 6, 3))
    images = np.clip(shapes[labels] + 160 * rng.standard_normal((TRAIN + TEST, 6, 6, 3)), 0, 255).astype(np.uint8)
    classes = np.array(names)[labels]
    return {
        "x_train": images[:TRAIN], "y_train": classes[:TRAIN], "x_test": images[TRAIN:], "y_test": classes[TRAIN:],
    }  # fmt: skip


def start(path: Path, arrays: dict[str, np.ndarray] | None = None, **sections: Any) -> OpenRun:
    """Run a workflow in this process; ``solve={"ridges": [1.0]}`` replaces keys of a section."""
    table = {name: dict(value) if isinstance(value, dict) else value for name, value in WORKFLOW.items()}
    for name, value in sections.items():
        table[name] = table.get(name, {}) | value if isinstance(value, dict) else value
    table["store"] = table.get("store", {}) | {"path": str(path)}
    return cntk_pipeline.run(table, data=picture_data() if arrays is None else arrays, progress=False)
