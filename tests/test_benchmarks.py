"""Benchmarks that nobody runs for a while still measure what they say."""

import json
import os
import re
import sys
from pathlib import Path

import cholesky
import factor_check
import gpu
import pytest

MEASUREMENTS = (Path(__file__).parents[1] / "benchmarks" / "measurements.md").read_text()

pytestmark = pytest.mark.slow


def test_the_factorisation_that_is_timed_is_one(tmp_path: Path) -> None:
    found = cholesky.measure(tmp_path, 600, 1, "512")
    assert found.error < 1e-12
    assert found.tile == 512
    assert found.core_seconds > 0
    assert 0 < found.seconds < 300


def test_the_time_of_a_factor_ends_with_its_coefficients() -> None:
    seconds, processor_seconds = factor_check.time_factor(400, 128, 1)
    assert 0 < seconds < 300
    assert processor_seconds > 0


def found(pair_seconds: float, entry_seconds: float = 1e-12) -> gpu.Found:
    return gpu.Found(1e-7, pair_seconds, 1e-6, 1e-6, entry_seconds, True)


def test_goals_of_a_card_are_met_missed_or_not_measured() -> None:
    measured = {"CNTK-GAP, depth 11": found(28.3e-6, 2.7e-12), "CNTK-V, depth 11": found(49e-9)}
    rows = list(gpu.judge(measured, {"CNTK-V, depth 11": 39.9, "Myrtle-5": 41.0}))
    assert rows == [
        "| CNTK-GAP, depth 11: ps an entry and layer | at most 2.7 | 2.7 | met |",
        "| CNTK-GAP, depth 11: us a pair | at most 28 | 28.3 | MISSED |",
        "| CNTK-V, depth 11: ns a pair | at most 50 | 49 | met |",
        "| CNTK-GAP, depth 11: times neural-tangents | at least 40 |  | not measured |",
        "| CNTK-V, depth 11: times neural-tangents | at least 40 | 39.9 | MISSED |",
        "| Myrtle-5: times neural-tangents | at least 40 | 41 | met |",
    ]
    assert {goal.network for goal in gpu.GOALS} | gpu.PEERS.keys() <= gpu.CASES.keys()


def test_the_floor_of_a_core_beside_a_card_is_the_recorded_one() -> None:
    (table,) = re.findall(r"(?s)depth 11, 32 x 32 x 3, 2026-11-23\n(.*?)\n\n", MEASUREMENTS)
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert {(dtype, float(floor)) for _, dtype, _, _, floor, *_ in rows} == {
        (dtype, seconds * 1e9) for dtype, seconds in gpu.CORE_SECONDS.items()
    }


STAND_IN = """#!{python}
import json, sys
sys.path[:0] = {path}
import numpy as np
from peers import CASES
from cntk_pipeline import kernel_matrix
name, folder = sys.argv[2:]
x, z = (np.load(folder + "/" + file) for file in ("x1.npy", "x2.npy"))
case = CASES[name]
np.save(folder + "/values.npy", 1.01 * kernel_matrix(case.network(), x, z) / case.factor)
print(json.dumps({{"device": "gpu of the tests", "neural-tangents": "0"}}), flush=True)
for number, _ in enumerate(sys.stdin):
    print(json.dumps({{"seconds": [3.0, 2.0, 4.0][number], "cores": 1.0}}), flush=True)
"""
"""For an interpreter with neural-tangents, which needs an environment of its own: it talks as its script does."""


def test_neural_tangents_is_asked_for_its_best_time_and_for_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, path=sys.path))
    python.chmod(0o755)
    assert gpu.find_peer(str(python)) == str(python)
    told = gpu.ask("CNTK-V", ["--peer", str(python), "--peer-row", "CNTK-V", "2"], 240)
    assert told is not None
    each = gpu.PeerFound(**json.loads(told))
    assert (each.pair_seconds, each.images, each.device) == (2.0 / 4, 2, "gpu of the tests")
    assert each.difference == pytest.approx(0.01, rel=1e-3)
    assert each.versions == "neural-tangents 0"


@pytest.mark.parametrize(
    ("device", "told", "ratios"),
    [
        ("gpu H", "| CNTK-V, depth 11 | 2 | 128 x 128 | 1.0e-03 | 50 |", {"CNTK-V, depth 11": pytest.approx(50)}),
        ("cpu", "| CNTK-V, depth 11 | not compared: computes on cpu |", {}),
    ],
)
def test_neural_tangents_counts_on_a_card_alone(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
    told: str,
    ratios: dict[str, float],
) -> None:
    def ask(name: str, arguments: list[str], seconds: float) -> str:
        images = int(arguments[-1])
        each = gpu.PeerFound(256e-6 / images, images, 1e-3, device, "jax 0")
        return f"a warning\n{json.dumps(gpu.asdict(each))}\n"

    monkeypatch.setattr(gpu, "ask", ask)
    names = ["CNTK-V, depth 11", "ResNet-20"]
    assert gpu.Script("sm_90", None).compare("python", names, {names[0]: found(40e-9)}) == ratios
    assert told in capsys.readouterr().out


def test_a_network_that_takes_too_long_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.ask("a slow one", ["--describe"], 0.01) is None
    assert capsys.readouterr().out == "FAILED: a slow one: took longer than 0 s\n"
