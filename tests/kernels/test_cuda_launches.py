"""The memory of a launch on a graphics card, how often a kernel is compiled, and plans where no card is at hand."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.networks import averaged, conv
from support.warps import CpuLauncher, CudaEngineOnCpu, needs_compiler

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.kernels import Question
from cntk_pipeline.kernels.cuda.buffers import feeding_pairs, launch_bytes, launch_size
from cntk_pipeline.kernels.cuda.counted import count_pair_seconds
from cntk_pipeline.kernels.cuda.device import errors_of_driver, require_memory
from cntk_pipeline.kernels.cuda.engine import CudaEngine, CudaOptions
from cntk_pipeline.layers import AvgPool, Relu, presets
from cntk_pipeline.tiling import choose_tile

H100 = 132
"""Multiprocessors."""


def ask(network, shape=(8, 8, 3), dtype="float32"):
    return CudaEngine(Question(((network, "ntk"),), shape, dtype))


def test_the_memory_of_a_launch_is_that_of_all_its_buffers():
    """Counted by hand: pixels and statistics of both sides, pairs, values, and the tensors of a pooling."""
    engine = ask(averaged(conv(), Relu(), AvgPool(2), conv(), Relu()))
    layout, images = engine.layout, launch_size(engine.program, engine.layout)
    left, right = images * (192 + layout.left_size), images * (384 + 2 * layout.right_size)
    tensors = 2 * H100 * layout.pairs * 2 * (8**4 + 4**4)  # S and T, before and behind the pooling
    sides_and_values = 4 * (left + right) + images**2 * (12 + 8)  # of each of two launches at once
    assert launch_bytes(engine.program, layout, H100) == 2 * sides_and_values + 4 * tensors


def test_a_card_without_room_for_a_launch_is_refused_with_what_is_free():
    require_memory(10**9, 10**9, 8 * 10**9, "A100")
    message = r"holds 1,001 MB on a graphics card, and of the 8,000 MB of A100, 1,000 MB are free: end what else"
    with pytest.raises(ConfigError, match=message):
        require_memory(1001 * 10**6, 10**9, 8 * 10**9, "A100")


def test_a_tile_keeps_the_blocks_of_a_card_at_work_however_little_a_pair_costs():
    engine = ask(presets.cntk(11, "gap"), (32, 32, 3))
    assert engine.least_pairs == feeding_pairs(engine.layout) == 16 * 2 * 148 * engine.layout.pairs
    slow, lanes = 0.1, engine.lane_width  # s a pair: by its time alone a tile would have few pairs
    assert choose_tile(50_000, 10_000, slow, 8, lanes) < 32
    tile = choose_tile(50_000, 10_000, slow, 8, lanes, least_pairs=engine.least_pairs)
    assert tile**2 <= engine.least_pairs < (tile + lanes) ** 2


def test_a_machine_without_a_card_plans_by_counted_seconds_and_says_so(monkeypatch):
    def none(self):
        raise ConfigError("no device")

    monkeypatch.setattr(CudaEngine, "launcher", none)
    engine = CudaEngine(Question(((presets.cntk(11, "gap"), "ntk"),), (32, 32, 3)), CudaOptions(architecture="sm_80"))
    cost = engine.measure(np.zeros((1, 32, 32, 3), "float32"))
    assert cost.share == 0
    assert cost.seconds == pytest.approx(2 * 24.4e-6, rel=0.01)  # twice the least time, of the table in docs/gpu.md
    double = count_pair_seconds(engine.program, np.dtype("float64"), "sm_80")
    assert double == pytest.approx(2 * 137e-6, rel=0.01)
    unknown = count_pair_seconds(engine.program, np.dtype("float32"), "sm_120")
    assert unknown == count_pair_seconds(engine.program, np.dtype("float32"), "sm_90")


@needs_compiler
def test_a_kernel_is_compiled_once_for_all_tiles_and_threads_of_a_process():
    made = []

    class Engine(CudaEngineOnCpu):
        def launcher(self):
            made.append(CpuLauncher(self.program, self.layout))
            return made[-1]

    engine = Engine(Question(((presets.cntk(3), "ntk"),), (4, 4, 1), "float32"))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: engine.evaluator(), range(8)))
    assert len(made) == 1


def test_the_errors_of_the_driver_are_found_where_cuda_core_is_installed():
    pytest.importorskip("cuda.core")
    (error,) = errors_of_driver()
    assert error.__name__ == "CUDAError"
