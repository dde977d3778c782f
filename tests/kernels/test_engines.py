"""Every engine of the table keeps what the protocol promises, and names that are in no table are refused."""

import dataclasses
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from support.tolerances import DTYPES, assert_kernels_close, tolerance
from support.warps import CudaEngineOnCpu
from twin import reference

from cntk_pipeline import kernel_matrices, kernel_matrix
from cntk_pipeline.config import Section
from cntk_pipeline.errors import ConfigError, LayerError, NotFinite
from cntk_pipeline.kernels import ENGINES, CpuEngine, CpuEvaluator, Engine, Evaluator, Question, find_engine, pieces
from cntk_pipeline.layers import Conv, Dense, Dropout, Flatten, Relu, Sequential, presets

NETWORK = presets.cntk(3)
MASKED = Sequential(Conv(3), Relu(), Dropout(0.5), Conv(3), Relu(), Flatten(), Dense())
READOUTS = ((NETWORK, "ntk"), (NETWORK, "nngp"))
SHAPE = (3, 4, 2)


def draw_images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


class ByHand(Engine):
    """Kernels that are known at a glance: the products of the first pixels, times ``scale``."""

    class Options(Section):
        scale: float = 2.0

    numerics_version = 7
    options_type = Options

    def evaluator(self):
        return ByHandEvaluator(self.question, self.options.scale)

    def working_bytes(self, tile):
        return 1000 * tile


class ByHandEvaluator(Evaluator):
    def __init__(self, question, scale):
        self.question, self.scale = question, scale

    def evaluate(self, left, right=None, *, first=(0, 0)):
        x, z = (images.reshape(len(images), -1)[:, 0] for images in (left, left if right is None else right))
        values = self.scale * np.multiply.outer(x, z)
        return np.stack([values] * len(self.question.readouts)).astype(self.question.dtype)

    def evaluate_pairs(self, left, right=None, *, first=(0, 0)):
        return np.einsum("rii->ri", self.evaluate(left, left if right is None else right)).copy()


@pytest.fixture
def by_hand(monkeypatch):
    monkeypatch.setitem(ENGINES, "by-hand", ByHand)
    return ByHand


# What every engine keeps.


def is_slow(name):
    return name == "empirical"  # which imports torch


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * is_slow(name)) for name in sorted(ENGINES)])
def kind(request):
    if request.param != "cuda":
        return ENGINES[request.param]
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed, which takes the place of a device")
    return CudaEngineOnCpu


EXACT = sorted(ENGINES.keys() - {"empirical"})
"""The engines of exact kernels; `tests/finite` holds the other one to its limit."""


PLUGIN = {"plugin": "exact:kernel", "plugin_folder": str(Path(__file__).parent / "plugins")}


def make(kind, dtype="float64", readouts=READOUTS):
    options = kind.options_type
    if options is not None:
        options = kind.load_code(options.model_validate(PLUGIN if kind is ENGINES["plugin"] else {}))
    return kind(Question(readouts, SHAPE, dtype), options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", EXACT, indirect=True)
def test_an_engine_has_the_values_of_the_naive_twin(kind, dtype):
    x, z = draw_images(4), draw_images(3, seed=1)
    found = make(kind, dtype).evaluator()
    for left, right in ((x, z), (x, None)):
        values = found.evaluate(left, right)
        assert values.dtype == dtype
        for value, (network, name) in zip(values, READOUTS, strict=True):
            assert_kernels_close(value, reference.evaluate(network, left, right, name), tolerance(dtype).kernel)


def test_a_pair_has_the_same_bits_in_any_tile(kind):
    found, x, z = make(kind).evaluator(), draw_images(5), draw_images(4, seed=1)
    whole = found.evaluate(x, z)
    for row, col in np.ndindex(5, 4):
        assert np.array_equal(found.evaluate(x[row : row + 1], z[col : col + 1])[:, 0, 0], whole[:, row, col])
    assert np.array_equal(found.evaluate_pairs(x[:4], z), np.einsum("rii->ri", whole[:, :4]))


@pytest.mark.parametrize("network", [NETWORK, MASKED], ids=["plain", "masked"])
def test_samples_by_themselves_have_a_symmetric_kernel_and_its_diagonal(kind, network):
    if kind in (ENGINES["empirical"], ENGINES["plugin"]) and network is MASKED:
        pytest.skip("it draws no masks: tests/finite and test_plugin hold that it is refused")
    found, x = make(kind, readouts=((network, "ntk"),)).evaluator(), draw_images(5)
    x[3] = x[1]
    own = found.evaluate(x)
    assert np.array_equal(own, own.mT)
    assert np.array_equal(found.evaluate_pairs(x), np.einsum("rii->ri", own))
    differs = own[0, 1, 1] != found.evaluate(x, x)[0, 1, 1]
    assert bool(differs) == (network is MASKED)
    assert found.is_masked or not differs


def test_an_engine_says_what_a_pair_takes(kind):
    found = make(kind)
    cost = found.measure(draw_images(4))
    assert 0 < cost.seconds < 1
    assert 0 < cost.share <= 1
    assert 0 < found.working_bytes(16) < 2**30
    assert found.lane_width >= 1
    assert found.plane_entries is None or found.plane_entries > 0
    assert found.guessed_pair_seconds is None or found.guessed_pair_seconds > 0
    assert kind.numerics_version >= 1


def test_an_engine_passes_its_own_test(kind):
    make(kind).test(draw_images(2))


def test_what_is_not_finite_is_refused(kind):
    if kind is ENGINES["plugin"]:
        pytest.skip("its function refuses the image itself: test_plugin holds values that are not finite")
    images = draw_images(3)
    images[1, 0, 0, 0] = np.nan
    with pytest.raises(NotFinite, match=r"is nan for pair \(1[01], 2[01]\)"):
        make(kind).evaluator().evaluate(images, first=(10, 20))


# Names and dtypes.


def test_an_unknown_engine_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"unknown engine 'cpuu': did you mean 'cpu'\? \(known are cpu"):
        find_engine("cpuu")
    with pytest.raises(ConfigError, match=r"engine is the name of one, cpu.*, got \['cpu'\]"):
        find_engine(["cpu"])
    with pytest.raises(ConfigError, match="unknown engine 'xyz': known are cpu"):
        kernel_matrix(NETWORK, draw_images(2), engine="xyz")
    with pytest.raises(ConfigError, match="unknown engine 'xyz': known are cpu"):
        kernel_matrices([NETWORK], draw_images(2), engine="xyz")


def test_a_question_is_asked_in_float32_or_float64():
    with pytest.raises(LayerError, match='computed in "float32" or "float64", got dtype=\'float16\''):
        Question(READOUTS, SHAPE, "float16")


def test_a_question_that_a_network_does_not_fit_is_refused_at_once():
    with pytest.raises(LayerError, match="averaging over flips needs a network that does not tell left from right"):
        CpuEngine(Question(((Sequential(Conv((1, 2)), Relu(), Flatten()), "ntk"),), SHAPE, flips=True))
    with pytest.raises(LayerError, match="at least one read-out"):
        CpuEngine(Question((), SHAPE))


# The in-memory door.


def test_a_kernel_in_memory_is_computed_by_the_engine_that_is_named(by_hand):
    x, z = draw_images(70), draw_images(19, seed=1)
    first = [images[:, 0, 0, 0].astype(np.float64) for images in (x, z)]
    found = kernel_matrix(NETWORK, x, z, dtype="float64", engine="by-hand")
    np.testing.assert_allclose(found, 2 * np.multiply.outer(*first), rtol=1e-6)
    both = kernel_matrices([NETWORK], x, kinds=("ntk", "nngp"), engine="by-hand")
    assert both.shape == (1, 2, 70, 70)
    np.testing.assert_allclose(both[0, 1], 2 * np.multiply.outer(first[0], first[0]), rtol=1e-6)


def test_the_default_engine_is_cpu():
    x = draw_images(20)
    assert np.array_equal(kernel_matrix(NETWORK, x), kernel_matrix(NETWORK, x, engine="cpu"))


def test_threads_have_an_evaluator_each_and_a_stop_reaches_all(by_hand, monkeypatch):
    made, interrupted, both = [], [], threading.Barrier(2)

    class Told(ByHandEvaluator):
        def interrupt(self):
            interrupted.append(self)

    def evaluator(self):
        both.wait(60)  # so that neither thread computes all
        made.append(Told(self.question, 1.0))
        return made[-1]

    monkeypatch.setattr(ByHand, "evaluator", evaluator)
    monkeypatch.setattr(ByHand, "guessed_pair_seconds", 1e-14)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 1e-12)
    monkeypatch.setattr(pieces, "SHORTEST_SECONDS", 1e-12)
    kernel_matrix(NETWORK, draw_images(40), engine="by-hand", n_jobs=2)
    assert len({id(each) for each in made}) == 2
    assert {id(each) for each in interrupted} == {id(each) for each in made}


# What is left out has an answer.


def test_an_engine_that_says_little_is_measured_and_tested_by_its_values(by_hand):
    found = make(ByHand)
    assert found.measure(draw_images(4)).share == 1
    assert (found.plane_entries, found.guessed_pair_seconds, found.summary(0)) == (None, None, None)
    assert found.lane_width == 1
    found.test(draw_images(2))


def test_an_evaluator_whose_values_depend_on_the_tile_fails_the_test(by_hand, monkeypatch):
    evaluate = ByHandEvaluator.evaluate

    def drift(self, left, right=None, *, first=(0, 0)):
        return evaluate(self, left, right) + np.float32(1e-3) * len(left)

    monkeypatch.setattr(ByHandEvaluator, "evaluate", drift)
    with pytest.raises(ConfigError, match="self-test failed on this worker: a pair's value depends on its tile"):
        make(ByHand).test(draw_images(2))


def test_the_cpu_engine_answers_as_its_program_does():
    engine = make(CpuEngine, "float32")
    assert isinstance(engine.evaluator(), CpuEvaluator)
    assert engine.evaluator() is not engine.evaluator()
    assert engine.plane_entries == engine.program.plane_entries
    assert engine.summary(1).entries == CpuEngine(Question(READOUTS[1:], SHAPE)).plane_entries
    assert [field.name for field in dataclasses.fields(Question)] == ["readouts", "input_shape", "dtype", "flips"]
