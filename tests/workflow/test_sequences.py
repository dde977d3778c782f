"""Runs of sequences: from arrays of three axes to predictions for new ones."""

from pathlib import Path

import numpy as np
import pytest
from support.figures import dense, workflow

import cntk_pipeline
from cntk_pipeline import kernel_matrix
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.layers import LAYERS, spelling
from cntk_pipeline.sequences import pad

LAYERS_OF_STATES = [
    {"layer": "Bidirectional", "recurrent": {"layer": "Recurrent", "activation": {"layer": "Erf"}, "w_std": 1.2}},
    {"layer": "Recurrent", "activation": {"layer": "Relu"}, "u_std": 0.8, "b_std": 0.1},
    {"layer": "GlobalAvgPool"},
    {"layer": "Dense"},
]


@pytest.mark.parametrize("padded", [False, True])
def test_a_run_of_sequences_has_the_kernel_of_its_network_and_predicts_new_ones(tmp_path: Path, padded: bool) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 30)
    x = np.sin(np.linspace(0, 3 + 3 * labels[:, None], 7, axis=1)[..., 0])[..., None] + rng.normal(0, 0.3, (30, 7, 2))
    tables = [{"layer": "Padded"}, *LAYERS_OF_STATES] if padded else LAYERS_OF_STATES
    if padded:
        x[np.arange(7) >= rng.integers(1, 8, 30)[:, None]] = np.nan
    parts = {"x_train": x[:20], "y_train": labels[:20], "x_test": x[20:], "y_test": labels[20:]}
    np.savez(tmp_path / "steps.npz", **parts)
    table = workflow(
        data={"source": "npz", "path": str(tmp_path / "steps.npz"), "layout": "sequences"},
        network={"layers": tables},
        store={"path": str(tmp_path / "run")},
    )
    del table["network"]["preset"], table["readouts"]["depths"]
    run = cntk_pipeline.run(table, progress=False)
    mean, std = np.nanmean(x[:20], (0, 1)), np.nanstd(x[:20], (0, 1))
    network = spelling.read(tables, LAYERS)
    (readout,) = run.readouts
    expected = kernel_matrix(network, (x[:20] - mean) / std, dtype="float64")
    np.testing.assert_allclose(dense(run, readout), expected, rtol=1e-12)
    found = run.decision_function(x[20:], readout, say=None)
    np.testing.assert_array_equal(found, run.predictions(readout))
    assert run.directory.stored_data.damaged() == []


def test_a_run_of_unequal_lengths_needs_a_network_that_takes_them(tmp_path: Path) -> None:
    x = pad([np.ones(3), np.arange(2.0)])
    np.savez(tmp_path / "steps.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1])
    table = workflow(
        data={"source": "npz", "path": str(tmp_path / "steps.npz"), "layout": "sequences"},
        network={"layers": LAYERS_OF_STATES},
        store={"path": str(tmp_path / "run")},
    )
    del table["network"]["preset"], table["readouts"]["depths"]
    with pytest.raises(ConfigError, match=r'absent steps, .*put \{layer = "Padded"\} first in network.layers'):
        cntk_pipeline.run(table, progress=False)
    assert not (tmp_path / "run").exists()
