"""Images of 33 to 64 pixels, of whose tiles a lane has two columns, have the CPU's values."""

import numpy as np
import pytest
from support.networks import BLOCK, averaged, conv, flattened
from support.tolerances import DTYPES, assert_kernels_close
from support.warps import CudaEngineOnCpu, needs_compiler

from cntk_pipeline.errors import LayerError
from cntk_pipeline.kernels import CpuEngine, Question
from cntk_pipeline.kernels.cuda.engine import CudaEngine
from cntk_pipeline.kernels.cuda.layout import lane_columns, segment
from cntk_pipeline.layers import AvgPool, Erf, Gaussian, LayerNorm, Relu, Residual, Sequential, presets

BOUNDS = {"float32": 1e-5, "float64": 1e-10}
"""Relative to the largest entry: what the engine promises."""

STRIDED = Residual(Sequential(conv(3, 2, b_std=0.1), Relu(), conv()), Sequential(conv(1, 2)))

CASES = {
    "V, LAP and GAP": ((33, 33), [presets.cntk(4), presets.cntk(3, "lap1"), presets.cntk(3, "gap")]),
    "V and LAP of 64": ((64, 64), [presets.cntk(6), presets.cntk(4, "lap1")]),
    "V of 48": ((48, 48), [presets.cntk(11), flattened(conv(5), LayerNorm(), conv(4), Relu())]),
    "GAP of 64 columns": ((9, 64), [presets.cntk(4, "gap"), averaged(conv(5), Erf(), conv((2, 4)), Relu())]),
    "GAP of 64 rows": ((64, 9), [presets.cntk(4, "gap")]),
    "strides": ((64, 48), [averaged(conv(3, 4), Relu(), conv(), Relu()), averaged(conv(4, (4, 2)), Relu(), conv())]),
    "circular": (
        (7, 35),
        [
            averaged(conv(3, 1, "CIRCULAR"), Relu(), conv(5, 1, "CIRCULAR"), Relu()),
            flattened(conv(2, 1, "CIRCULAR"), Gaussian()),
        ],
    ),
    "circular strides": ((64, 64), [averaged(conv(5, 8, "CIRCULAR"), Relu(), conv(3, 2, "CIRCULAR"), Relu())]),
    "residual": ((48, 48), [averaged(conv(3, 2), Relu(), STRIDED, BLOCK, Relu())]),
    "pooling": ((34, 36), [averaged(conv(), Relu(), AvgPool(2), conv(), Relu())]),
}
"""Images, and networks of one program. Strides first keep the offsets few."""


def compare(size, networks, dtype, count=2):
    """Compare both engines on images, each with each and with itself, and each read-out by its own largest entry."""
    x = np.random.default_rng(0).standard_normal((count, *size, 3))
    question = Question(tuple((network, "ntk") for network in networks), x.shape[1:], dtype)
    found, expected = (engine(question).evaluator().evaluate(x) for engine in (CudaEngineOnCpu, CpuEngine))
    for own, right in zip(found, expected, strict=True):
        assert_kernels_close(own, right, BOUNDS[dtype])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_images_of_33_to_64_pixels_have_the_values_of_the_cpu(name, dtype):
    compare(*CASES[name], dtype)


@needs_compiler
@pytest.mark.slow
def test_all_tiles_of_64_pixels_have_the_values_of_the_cpu():
    compare((64, 64), [presets.cntk(3, "gap")], "float32", 1)


def ask(size):
    return CudaEngine(Question(((presets.cntk(3, "gap"), "ntk"),), (*size, 3)))


@pytest.mark.parametrize(("width", "columns", "lanes"), [(4, 1, 4), (32, 1, 32), (33, 2, 32), (48, 2, 32), (64, 2, 32)])
def test_a_lane_has_two_columns_of_images_wider_than_a_warp(width, columns, lanes):
    stage = ask((4, width)).program.stages[0]
    assert (lane_columns(stage), segment(stage)) == (columns, lanes)


def test_small_images_have_several_pairs_a_block_and_large_ones_one():
    assert ask((4, 4)).layout.pairs == 8  # 16 tiles of 4 columns are 64 threads, of 512
    assert ask((64, 64)).layout.pairs == 1


@pytest.mark.parametrize("size", [(65, 64), (64, 65)])
def test_images_of_more_than_64_pixels_are_refused(size):
    height, width = size
    with pytest.raises(
        LayerError, match=f'"cuda" cannot compute images of {height} x {width}: it takes at most 64 x 64'
    ):
        ask(size)
