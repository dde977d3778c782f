"""The kernel of a device has the CPU's values: its text, compiled for the CPU."""

import ctypes.util
import importlib.util

import gpu
import numpy as np
import pytest
from support.networks import GOLDEN, GOLDEN_2, averaged, conv, flattened
from support.tolerances import DTYPES, assert_kernels_close
from support.warps import CudaEngineOnCpu, needs_compiler

from cntk_pipeline import kernel_matrix
from cntk_pipeline.errors import ConfigError, LayerError, NotAccurate
from cntk_pipeline.kernels import KINDS, CpuEngine, Question
from cntk_pipeline.kernels.cuda.device import DeviceLauncher, compile_cubin
from cntk_pipeline.kernels.cuda.engine import CudaEngine
from cntk_pipeline.layers import (
    Abs,
    Attend,
    AvgPool,
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    GlobalAvgPool,
    LinearAttention,
    Maxout,
    MaxPool,
    Polynomial,
    PositionalEmbedding,
    Product,
    Relu,
    Repeat,
    Residual,
    Sequential,
    Sign,
    presets,
)

BOUNDS = {"float32": 1e-5, "float64": 1e-10}
"""Relative to the largest entry: what the engine promises."""

NETWORKS = GOLDEN | GOLDEN_2
"""All networks of the golden values."""

REFUSED = {
    "attention": r"layer 2, SelfAttention.*: attention mixes all positions",
    "attention_pos_sum": r"layer 2, Attend.*: positions have vectors of their own",
    "attention_pos_val": r"layer 2, PositionalEmbedding.*: positions have vectors of their own",
    "attention_identity_sqrt": r"layer 2, LinearAttention.*: branches are multiplied",
    "product_glu": r"Elementwise is a series, not a closed form",
    "product_conv": r"layer 2, Product.*: branches are multiplied",
}
"""Those that the kernel of a device does not compute: the layer, and why."""

DENSE = {name: network for name, network in NETWORKS.items() if name.startswith(("fc", "standard_fc"))}
"""Those of vectors. A compiler takes a second for each text, so these are one."""

FURTHER = {
    "window of 5": averaged(conv(5), Relu(), conv(4), Relu()),
    "window of 1 x 3": flattened(conv((1, 3), b_std=0.1), Abs(), conv((3, 1)), Relu()),
    "circular 5": averaged(conv(5, 1, "CIRCULAR"), Relu(), conv(2, 1, "CIRCULAR"), Gaussian()),
    "circular stride": averaged(conv(3, 2, "CIRCULAR"), Relu(), conv(), Relu()),
    "residual with a stride": averaged(
        conv(),
        Relu(),
        Residual(Sequential(conv(3, 2), Relu(), conv()), Sequential(conv(1, 2))),
        Relu(),
        conv(),
        Exp(),
    ),
    "local average": flattened(conv(), Relu(), AvgPool(3, 1, "SAME")),
    "dropout": averaged(conv(), Relu(), Dropout(0.3), conv(), Relu()),
    "maxima": averaged(conv(), MaxPool((1, 2)), conv(1), MaxPool((2, 1), 1, "SAME"), conv(), Relu()),
    "branches": flattened(
        conv(), Maxout(), Concatenate(Sequential(conv(), Relu()), Sequential(conv(1), Abs())), Repeat(conv(), 3, True)
    ),
    "standard": averaged(conv(), Relu(), Conv(3, parameterization="standard", fan_in=128), Relu()),
    "biases with a rate": averaged(
        *[Conv(3, w_std=1.3, b_std=0.2, rate=0.5), Relu()],
        Residual(Sequential(Conv(3, strides=2, b_std=0.1, parameterization="standard", fan_in=64), Relu()), conv(1, 2)),
    ),
    "not trained": averaged(Conv(3, w_std=1.4, trained=False), Relu(), conv(), Sign()),
}


def draw_images(network, count, seed=0):
    shape = (count, 11) if network in DENSE.values() else (count, 8, 8, 3)
    return np.random.default_rng(seed).standard_normal(shape)


def compare(networks, dtype, kinds=KINDS):
    """Compare both engines on images of which two are equal, each with all, and on other images."""
    x, z = draw_images(networks[0], 4, 0), draw_images(networks[0], 3, 1)
    x[2] = x[0]
    question = Question(tuple((network, kind) for network in networks for kind in kinds), x.shape[1:], dtype)
    device, cpu = CudaEngineOnCpu(question).evaluator(), CpuEngine(question).evaluator()
    for right in (z, None):
        for found, expected in zip(device.evaluate(x, right), cpu.evaluate(x, right), strict=True):
            assert found.dtype == dtype
            assert_kernels_close(found, expected, BOUNDS[dtype])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - REFUSED.keys() - DENSE.keys()))
def test_golden_networks_have_the_values_of_the_cpu(name, dtype):
    compare([NETWORKS[name]], dtype)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_golden_networks_of_vectors_have_the_values_of_the_cpu_all_in_one_program(dtype):
    compare(list(DENSE.values()), dtype)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", FURTHER)
def test_further_networks_have_the_values_of_the_cpu(name):
    kinds = ("nngp",) if name == "not trained" else KINDS
    compare([FURTHER[name]], "float64", kinds)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("size", [(4, 4), (5, 7)])
def test_images_of_any_size_have_the_values_of_the_cpu(size):
    x = np.random.default_rng(0).standard_normal((3, *size, 2))
    question = Question(((presets.cntk(4, "gap"), "ntk"), (presets.cntk(3), "ntk")), x.shape[1:], "float64")
    found, expected = (engine(question).evaluator().evaluate(x) for engine in (CudaEngineOnCpu, CpuEngine))
    assert_kernels_close(found, expected, 1e-10)


@needs_compiler
@pytest.mark.slow
def test_a_tile_of_32_columns_and_many_depths_has_the_values_of_the_cpu():
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3))
    networks = [presets.cntk(depth, pooling) for depth in (3, 4, 6) for pooling in ("flatten", "gap")]
    question = Question(tuple((network, "ntk") for network in networks), x.shape[1:], "float32")
    z = x + 0.5 * np.random.default_rng(1).standard_normal(x.shape)
    found, expected = (engine(question).evaluator().evaluate(x, z) for engine in (CudaEngineOnCpu, CpuEngine))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
@needs_compiler
def test_pairs_that_float32_is_too_coarse_for_are_computed_on_the_cpu():
    network = presets.cntk(3)
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 2))
    z = x * (1 + 1e-5 * np.random.default_rng(1).standard_normal(x.shape))
    question = Question(((network, "ntk"),), x.shape[1:], "float32", flips=True)
    found, expected = (engine(question).evaluator() for engine in (CudaEngineOnCpu, CpuEngine))
    assert_kernels_close(found.evaluate(x, z), expected.evaluate(x, z), 1e-5)
    plain = Question(((network, "ntk"),), x.shape[1:], "float32")
    pairs = [engine(plain).evaluator().evaluate_pairs(x, z) for engine in (CudaEngineOnCpu, CpuEngine)]
    assert np.array_equal(*pairs)


@pytest.mark.slow
@needs_compiler
def test_pairs_that_float64_does_not_tell_apart_either_are_refused_by_their_places():
    x = np.random.default_rng(0).standard_normal((2, 8))
    z = np.stack([x[1], x[0] * (1 + 1e-15 * np.arange(8))])
    network = Sequential(*[Dense(w_std=6.0), Erf()] * 30, Dense())
    question = Question(((network, "ntk"),), x.shape[1:], "float64")
    with pytest.raises(NotAccurate, match=r"the images of pair \(10, 21\) are so nearly the same"):
        CudaEngineOnCpu(question).evaluator().evaluate(x, z, first=(10, 20))


@needs_compiler
@pytest.mark.slow
def test_the_script_for_a_device_compares_and_times():
    question = Question(((presets.cntk(4, "gap"), "ntk"),), (4, 4, 2), "float64")
    found = gpu.measure(CudaEngineOnCpu(question), CpuEngine(question), 8)
    assert 0 < found.error < 1e-10
    assert found.entry_seconds * CpuEngine(question).plane_entries == pytest.approx(found.pair_seconds)
    other = Question(((presets.cntk(3, "gap"), "ntk"),), (4, 4, 2), "float64")
    with pytest.raises(AssertionError, match="of the largest, and at most 1e-10 is promised"):
        gpu.measure(CudaEngineOnCpu(question), CpuEngine(other), 8)


# What is refused.


def ask(network, size=(8, 8), dtype="float32"):
    return CudaEngine(Question(((network, "ntk"),), (*size, 3), dtype))


@pytest.mark.parametrize("name", REFUSED)
def test_golden_networks_are_refused_by_the_layer(name):
    with pytest.raises(LayerError, match=rf'the engine "cuda" cannot compute .*{REFUSED[name]}'):
        CudaEngine(Question(((NETWORKS[name], "ntk"),), (11,) if name == "product_glu" else (8, 8, 3)))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Attend(plus_identity=True), "attention mixes all positions"),
        (PositionalEmbedding(), "positions have vectors of their own"),
        (LinearAttention(), "branches are multiplied"),
    ],
)
def test_attention_of_each_kind_is_refused_by_the_layer(layer, reason):
    name = type(layer).__name__
    with pytest.raises(LayerError, match=rf'the engine "cuda" cannot compute layer 1, {name}.*: {reason}'):
        ask(Sequential(Conv(3), layer, Dense(), Relu(), GlobalAvgPool(), Dense()))


def test_what_the_kernel_cannot_do_is_refused_by_the_layer():
    with pytest.raises(
        LayerError, match=r"layer 2, Conv\(3, strides=2.*: windows that make 4 positions of 7 by strides"
    ):
        ask(averaged(conv(), Relu(), conv(3, 2), Relu()), (7, 7))
    with pytest.raises(LayerError, match=r"layer 0, Conv\(7.*: a window of 7, and it takes at most 5"):
        ask(averaged(conv(7), Relu()))
    with pytest.raises(LayerError, match=r"layer 1, Polynomial.*: Polynomial is a series, not a closed form"):
        ask(averaged(conv(), Polynomial((0.0, 1.0, 0.5))))
    with pytest.raises(LayerError, match=r"layer 1, Product.*: branches are multiplied"):
        ask(averaged(conv(), Product(conv(), Sequential(conv(), Relu())), conv()))
    with pytest.raises(LayerError, match='Take engine = "cpu", or another layer'):
        ask(averaged(conv(7), Relu()))
    network = Sequential(Conv((1, 2)), Relu(), Flatten())
    with pytest.raises(LayerError, match="averaging over flips"):
        CudaEngine(Question(((network, "ntk"),), (8, 8, 3), flips=True))


def test_a_machine_without_cuda_core_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r'needs cuda-core, which is not installed: pip install "cntk-pipeline\[cuda\]"'
    ):
        compile_cubin("", "sm_90")


def test_a_device_of_another_architecture_is_refused(monkeypatch):
    core = pytest.importorskip("cuda.core")

    class Device:  # a machine of the tests has none
        arch, name = "80", "A100"

        def set_current(self):
            pass

    monkeypatch.setattr(core, "Device", Device)
    engine = ask(averaged(conv(), Relu()))
    message = r'kernel.architecture is "sm_90", and the device here, A100, is of "sm_80".* write architecture = "sm_80"'
    with pytest.raises(ConfigError, match=message):
        engine.launcher()


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is a driver")
def test_a_machine_without_a_device_is_refused():
    pytest.importorskip("cuda.core")
    engine = ask(averaged(conv(), Relu()))
    with pytest.raises(ConfigError, match=r'the engine "cuda" found no device: .* or take engine = "cpu"'):
        kernel_matrix(averaged(conv(), Relu()), draw_images(GOLDEN["cnn_gap_d3"], 2), engine="cuda")
    with pytest.raises(ConfigError, match="found no device"):
        DeviceLauncher(engine.program, engine.layout, "sm_90")
