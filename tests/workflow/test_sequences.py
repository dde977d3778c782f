"""Runs of sequences: from arrays of three axes to predictions for new ones."""

from pathlib import Path

import numpy as np
from support.figures import dense, workflow

import cntk_pipeline
from cntk_pipeline import kernel_matrix
from cntk_pipeline.layers import LAYERS, spelling

LAYERS_OF_STATES = [
    {"layer": "Bidirectional", "recurrent": {"layer": "Recurrent", "activation": {"layer": "Erf"}, "w_std": 1.2}},
    {"layer": "Recurrent", "activation": {"layer": "Relu"}, "u_std": 0.8, "b_std": 0.1},
    {"layer": "GlobalAvgPool"},
    {"layer": "Dense"},
]


def test_a_run_of_sequences_has_the_kernel_of_its_network_and_predicts_new_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 30)
    x = np.sin(np.linspace(0, 3 + 3 * labels[:, None], 7, axis=1)[..., 0])[..., None] + rng.normal(0, 0.3, (30, 7, 2))
    parts = {"x_train": x[:20], "y_train": labels[:20], "x_test": x[20:], "y_test": labels[20:]}
    np.savez(tmp_path / "steps.npz", **parts)
    table = workflow(
        data={"source": "npz", "path": str(tmp_path / "steps.npz"), "layout": "sequences"},
        network={"layers": LAYERS_OF_STATES},
        store={"path": str(tmp_path / "run")},
    )
    del table["network"]["preset"], table["readouts"]["depths"]
    run = cntk_pipeline.run(table, progress=False)
    mean, std = x[:20].mean((0, 1)), x[:20].std((0, 1))
    network = spelling.read(LAYERS_OF_STATES, LAYERS)
    (readout,) = run.readouts
    expected = kernel_matrix(network, (x[:20] - mean) / std, dtype="float64")
    np.testing.assert_allclose(dense(run, readout), expected, rtol=1e-12)
    found = run.decision_function(x[20:], readout, say=None)
    np.testing.assert_array_equal(found, run.predictions(readout))
