"""Launches, copies and memory, by the real cuda-core on a driver that is this machine's CPU.

That driver carries a stream out as late as the host allows, and fills new memory with nan. So a buffer that is reused
too early, read too early, or given back too early shows in the values. A card's own behaviour it does not show.
"""

import os
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
from support.cards import compile_driver, needs_card, run_on_card
from support.warps import LANES, compile_for_cpu

from cntk_pipeline.kernels import Question
from cntk_pipeline.kernels.cuda.engine import CudaEngine
from cntk_pipeline.kernels.cuda.source import write_source

pytestmark = [pytest.mark.slow, *needs_card]

SMALL = "buffers.MOST_IMAGES = 32; buffers.ROUNDS = 1; buffers.MOST_MULTIPROCESSORS = 1\n"
"""Launches of few images, so that a tile has many."""


def test_a_tile_of_many_launches_has_the_values_of_the_cpu_and_holds_the_memory_that_was_counted() -> None:
    found = run_on_card(
        SMALL
        + """
x, z = draw(100), draw(70, seed=1)
engine = engine_of(presets.cntk(3), x)
engine.evaluator()
tell({
    "error": max(error_of(engine, x, z), error_of(engine, x), error_of(engine, x[:1], z[:1])),
    "launches": CARD.card_launches(),
    "bytes": [CARD.card_most_bytes(), buffers.launch_bytes(engine.program, engine.layout, 2)],
    "pinned": [CARD.card_most_pinned_bytes(), 2 * buffers.slot_bytes(engine.program, engine.layout)],
})
"""
    )
    assert found["error"] < 1e-5
    assert found["launches"] == 4 * 3 + (4 + 3 + 2 + 1) + 1
    for most, counted in (found["bytes"], found["pinned"]):
        assert 0.5 * counted < most <= counted


def test_launches_share_the_tensors_of_poolings_one_after_the_other() -> None:
    found = run_on_card(
        SMALL
        + """
x = draw(64, 8)
engine = engine_of(averaged(conv(), Relu(), AvgPool(2), conv(), Relu()), x, "float64")
launcher = engine.evaluator().launcher
error = error_of(engine, x)
evaluator = engine.evaluator()
first, second = list(evaluator.launches(*[evaluator.planar(x[:33])] * 2))[:2]
before = CARD.card_launches_done()
flights = [launcher.start(*launch.packed, launch.pairs) for launch in (first, second)]
assert launcher.start(*first.packed, first.pairs, wait=False) is None
assert CARD.card_launches_done() == before
launcher.finish(flights[1])
tell({
    "error": error,
    "done": CARD.card_launches_done() - before,
    "bytes": [CARD.card_most_bytes(), buffers.launch_bytes(engine.program, engine.layout, 2)],
})
"""
    )
    assert found["error"] < 1e-10
    assert found["done"] == 2  # the second one waits for the first
    most, counted = found["bytes"]
    assert 0.5 * counted < most <= counted


def test_threads_that_share_a_card_have_the_values_of_the_cpu() -> None:
    """Seen to hang where a thread with a launch under way waits for room."""
    found = run_on_card(
        SMALL
        + """
from cntk_pipeline.kernels import engines
x = draw(300)
network = presets.cntk(3, "gap")
engine_of(network, x, flips=True)
asked = {"flips": True, "dtype": "float32"}
own, expected = (kernel_matrices([network], x, engine=name, n_jobs=6, **asked) for name in ("cuda", "cpu"))
tell({"error": float(abs(own - expected).max() / abs(expected).max()), "launches": CARD.card_launches()})
"""
    )
    assert found["error"] < 1e-5
    assert found["launches"] > 20


@pytest.mark.parametrize("fails_at", [1, 3])
def test_a_launch_that_fails_loses_the_device_and_leaves_no_thread_waiting(fails_at: int) -> None:
    told = run_on_card(
        SMALL
        + """
x = draw(300)
engine_of(presets.cntk(3), x)
try:
    kernel_matrices([presets.cntk(3)], x, engine="cuda", n_jobs=4)
except DeviceLost as error:
    tell(str(error))
""",
        fails_at=fails_at,
    )
    assert "the graphics card of this process failed" in told
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in told


def test_a_card_that_is_lost_says_so_to_all_who_ask_afterwards() -> None:
    """Seen to hang where a launch that cannot be started keeps its slot."""
    told = run_on_card(
        SMALL
        + """
x, told = draw(100), []
engine = engine_of(presets.cntk(3), x)
for _ in range(4):
    try:
        engine.evaluator().evaluate(x)
    except DeviceLost as error:
        told.append(str(error))
tell(told)
""",
        fails_at=2,
    )
    assert len(told) == 4
    assert all("CUDA_ERROR_ILLEGAL_ADDRESS" in each for each in told)


def test_an_image_that_is_refused_while_a_launch_is_under_way_leaves_room_for_the_next_tile() -> None:
    """Seen to fail where the launch under way keeps its slot."""
    found = run_on_card(
        SMALL
        + """
from cntk_pipeline.layers import Dense, Erf, Sequential
x = np.random.default_rng(0).standard_normal((96, 8))
z = np.random.default_rng(1).standard_normal(x.shape)
bad = z.copy()
bad[10] = x[20] * (1 + 1e-15 * np.arange(8))
engine = engine_of(Sequential(*[Dense(w_std=6.0), Erf()] * 30, Dense()), x, "float64")
refused = 0
for _ in range(3):
    try:
        engine.evaluator().evaluate(x, bad)
    except NotAccurate:
        refused += 1
tell([refused, error_of(engine, x, z)])
"""
    )
    assert found[0] == 3
    assert found[1] < 1e-10


def test_a_card_without_the_memory_is_refused_and_so_is_a_driver_that_is_too_old() -> None:
    script = """
try:
    engine_of(presets.cntk(3), draw(2)).evaluator()
except ConfigError as error:
    tell(str(error))
"""
    assert "of the 1 MB of card of the tests, 1 MB are free" in run_on_card(script, bytes=10**6)
    assert "does not load the kernel: CUDA_ERROR_INVALID_IMAGE" in run_on_card(script, is_old=1)


def test_the_time_of_a_pair_is_that_of_the_clock() -> None:
    found = run_on_card("""
import time
x = draw(3)
engine = engine_of(presets.cntk(3), x)
launcher = engine.launcher()
finish = launcher.finish

def sleeping(flight):
    time.sleep(0.2)
    return finish(flight)

launcher.finish, engine.launcher = sleeping, lambda: launcher
tell(engine.measure(x).seconds)
""")
    assert found >= 0.2 / 64  # the core itself has hardly worked


def test_a_process_that_has_measured_leaves_the_memory_of_the_card_to_its_workers() -> None:
    found = run_on_card("""
x = draw(3, 8)
engine = engine_of(averaged(conv(), Relu(), AvgPool(2), conv(), Relu()), x)
cost = engine.measure(x)
tell([cost.share, CARD.card_most_bytes(), CARD.card_used_bytes(), error_of(engine, x), CARD.card_used_bytes()])
""")
    share, most, left, error, used = found
    assert share == 1
    assert error < 1e-5
    assert left == 0 < used <= most


def test_a_whole_run_on_a_card_has_the_values_of_the_cpu(tmp_path: Path) -> None:
    error, launches = run_on_card(f"""
import threading
from support.problems import Recorder, whole_matrix
from cntk_pipeline.config import parse_config
from cntk_pipeline.workflow import run as runs

path = {str(tmp_path / "run")!r}
tables = {{
    "data": {{"source": "digits", "train": 64, "test": 16}},
    "network": {{"preset": "cntk"}},
    "readouts": {{"depths": [3]}},
    "kernel": {{"engine": "cuda", "architecture": "sm_90", "tile": 32, "dtype": "float64"}},
    "cluster": {{"kind": "serial"}},
    "store": {{"path": path}},
}}
engine_of(presets.cntk(3), np.zeros((1, 8, 8, 1)), "float64")
run = runs.start(parse_config(tables, "test"), Recorder(), threading.Event())
found = np.tril(whole_matrix(run, run.specification.readouts[0].name, "train"))
expected = np.tril(kernel_matrices([presets.cntk(3)], run.inputs("train_images")[:], dtype="float64")[0, 0])
tell([float(abs(found - expected).max() / abs(expected).max()), CARD.card_launches()])
""")
    assert error < 1e-10
    assert launches > 6


def run_script(*options: str, **settings: int) -> tuple[int, str]:
    """Run the script for a device on its smallest network; return its exit code and what it says."""
    name, (network, dtype, _, size) = next(iter(gpu.CASES.items()))
    engine = CudaEngine(Question(((network, "ntk"),), (size, size, 3), dtype))
    kernel = compile_for_cpu(write_source(engine.program, engine.layout, LANES.read_text()), "-O1")
    environment = {f"CARD_{key.upper()}": str(value) for key, value in settings.items()}
    environment |= {"CARD_KERNEL": str(kernel), "LD_LIBRARY_PATH": str(compile_driver().parent)}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, gpu.__file__, name, *options],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    return done.returncode, done.stdout


def test_the_script_for_a_device_says_what_it_found_there_and_appends_it_to_a_file(tmp_path: Path) -> None:
    measurements = tmp_path / "measurements.md"
    measurements.write_text("# Measurements\n")
    code, told = run_script("--out", str(measurements))
    assert code == 0, told
    written = measurements.read_text()
    assert written.startswith("# Measurements\n\n## `python benchmarks/gpu.py` on card of the tests, 20")
    assert written.removeprefix("# Measurements\n") == told
    assert "card of the tests, sm_90, 2 multiprocessors\n8.6 of 8.6 GB free; driver of CUDA 13.0\n" in told
    (row,) = [line for line in told.splitlines() if line.startswith(f"| {next(iter(gpu.CASES))} | ")]
    cells = row.strip("| ").split(" | ")
    assert len(cells) == gpu.HEAD.splitlines()[0].count("|") - 1
    assert float(cells[1]) < 1e-10
    assert cells[2] == "same"
    assert all(float(cell) > 0 for cell in cells[3:])
    # A plane entry takes so many picoseconds, and a core 1,510 of float64.
    assert float(cells[8]) == pytest.approx(1510 / float(cells[6]), rel=0.01)
    assert "1 of 1 networks" in told
    assert "neural-tangents: not compared" in told
    assert told.count("| not measured |") == len(gpu.GOALS) + len(gpu.PEERS)


def test_a_network_of_the_script_that_fails_costs_its_own_row() -> None:
    code, told = run_script(fails_at=3)
    assert code == 1
    assert f"| {next(iter(gpu.CASES))} | FAILED |" in told
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in told
    assert f"FAILED: {next(iter(gpu.CASES))}: " in told
    assert "0 of 1 networks" in told
