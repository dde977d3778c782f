"""What the tests of figures share: small runs of any data, and a look at what is drawn."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import cntk_pipeline
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.plots import Display

CLASSES, TRAIN, TEST = 3, 41, 60
"""Of the runs of `pictures`: the training images are no multiple of a tile."""

RIDGE = 1e-2


def pictures(seed: int = 3) -> dict[str, np.ndarray]:
    """Draw noisy pictures of three shapes, of 5 x 4 pixels: some are mistaken for others."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, TRAIN + TEST)
    images = rng.standard_normal((CLASSES, 5, 4, 1))[labels] + 1.8 * rng.standard_normal((TRAIN + TEST, 5, 4, 1))
    return {
        "x_train": images[:TRAIN], "y_train": labels[:TRAIN], "x_test": images[TRAIN:], "y_test": labels[TRAIN:],
    }  # fmt: skip


def numbers(targets: int, train: int = 60, test: int = 45) -> dict[str, np.ndarray]:
    """Draw vectors of six numbers with targets of very different scales."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((train + test, 6))
    y = np.stack([np.sin(x[:, 0]) + 0.2 * rng.standard_normal(len(x)), 1000 * x[:, 1] ** 2], axis=1)[:, :targets]
    return {"x_train": x[:train], "y_train": y[:train], "x_test": x[train:], "y_test": y[train:]}


def workflow(**sections: Any) -> dict[str, Any]:
    """Make a workflow of a dense network; keywords replace or extend its sections."""
    table: dict[str, Any] = {
        "network": {"preset": "fully_connected"},
        "readouts": {"depths": [2]},
        "kernel": {"tile": 16, "dtype": "float64"},
        "solve": {"ridges": [RIDGE]},
        "cluster": {"kind": "serial"},
    }
    for name, values in sections.items():
        table[name] = table.get(name, {}) | values
    return table


def run_of(folder: Path, arrays: dict[str, np.ndarray], **sections: Any) -> OpenRun:
    """Run a workflow of `workflow` to its end."""
    return cntk_pipeline.run(workflow(**sections), data=arrays, store__path=str(folder / "run"), progress=False)


def drawn(display: Display) -> Figure:
    """Draw a display as a page does: every warning is an error, and its texts and numbers are sound."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = display.plot()
        figure.draw_without_rendering()
    assert display.alt.endswith(".")
    assert "nan" not in display.alt
    json.dumps(display.to_json(), allow_nan=False)
    for table in display.tables():
        assert all(len(row) == 1 + len(table.columns) for row in table.rows)
        assert not any("nan" in cell for row in table.rows for cell in row)
    return figure


def legend_of(figure: Figure) -> list[str]:
    """Read the texts of the legend below the axes."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def ticks_of(axes: Axes, which: str) -> dict[float, str]:
    """Read the ticks of the axis "x" or "y" and their labels."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    return {
        float(place): label.get_text() for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    }


def dense(run: OpenRun, readout: str, part: str = "train") -> np.ndarray:
    """Read a kernel matrix whole."""
    return np.asarray(run.kernel(readout, part).compute(scheduler="synchronous"), float)
