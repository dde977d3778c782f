"""Empirical kernels: by hand where the network is small, the exact kernel where it is wide, and bits."""

from threading import Event, Thread

import numpy as np
import pytest
import torch
from support.graphs import draw_graphs
from support.networks import GOLDEN

from cntk_pipeline import finite, kernel_matrix
from cntk_pipeline.errors import ConfigError, DataError, LayerError, NotFinite
from cntk_pipeline.finite import empirical_kernel, empirical_kernels
from cntk_pipeline.finite.calling import require_no_draws, torch_by_itself
from cntk_pipeline.finite.empirical import Draws, Products
from cntk_pipeline.graphs import pack
from cntk_pipeline.kernels import KINDS
from cntk_pipeline.layers import (
    Abs,
    Aggregate,
    Attend,
    AvgPool,
    Bidirectional,
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    GlobalAvgPool,
    GlobalSumPool,
    GraphConv,
    Hermite,
    LayerNorm,
    LinearAttention,
    LocalAvgPool,
    Masked,
    Maxout,
    MaxPool,
    Padded,
    Polynomial,
    PositionalEmbedding,
    Product,
    Recurrent,
    Relu,
    Repeat,
    Residual,
    Sequential,
    Sign,
    presets,
)
from cntk_pipeline.sequences import pad

RNG = np.random.default_rng(8)
VECTORS = RNG.standard_normal((4, 6))
IMAGES = RNG.standard_normal((3, 4, 4, 2))
LARGER = RNG.standard_normal((3, 8, 8, 2))
GRAPHS = pack(*zip(*draw_graphs([4, 2, 5], features=3, seed=6), strict=True))
SEQUENCES = pad([RNG.standard_normal((steps, 2)) for steps in (4, 2, 3)]).astype(np.float64)
HOLES = IMAGES.copy()
HOLES[0, 1:3, 1], HOLES[1, 2:] = np.nan, np.nan
HIDDEN = Sequential(Dense(w_std=1.4, b_std=0.2), Relu(), Dense(w_std=0.9, b_std=0.3))


# By hand.


def test_the_kernels_of_a_hidden_layer_are_those_by_hand():
    def parts(outputs):
        module = finite.build(HIDDEN, 50, (6,), outputs=outputs, seed=(3, 0))
        w, b, v, c = (each.detach().numpy() for each in module.parameters())
        before = 1.4 / 6**0.5 * VECTORS @ w.T + 0.2 * b
        return before, np.maximum(before, 0), v, c

    _, after, v, c = parts(None)
    outputs = 0.9 / 50**0.5 * after @ v.T + 0.3 * c
    found = empirical_kernel(HIDDEN, VECTORS, kind="nngp", width=50, seed=3)
    np.testing.assert_allclose(found, outputs @ outputs.T / 50, rtol=1e-12)

    before, after, v, _ = parts(1)
    slopes = 0.9 / 50**0.5 * v * (before > 0)
    expected = 0.9**2 / 50 * after @ after.T + 0.3**2
    expected += (1.4**2 / 6 * VECTORS @ VECTORS.T + 0.2**2) * (slopes @ slopes.T)
    np.testing.assert_allclose(empirical_kernel(HIDDEN, VECTORS, width=50, seed=3), expected, rtol=1e-12)


def test_a_wide_hidden_layer_has_the_arc_cosine_kernels_of_its_angles():
    x = np.array([[1.0, 0.0], [np.cos(1.0), np.sin(1.0)], [np.cos(2.5), np.sin(2.5)]])
    angle = np.arccos(np.clip(x @ x.T, -1, 1))
    # Of inputs of length 1, with variance 2 / 2 in front of ReLU (Cho and Saul 2009).
    k1, k0 = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi), (np.pi - angle) / (2 * np.pi)
    found = empirical_kernel(presets.fully_connected(2), x, width=8192, draws=8)
    np.testing.assert_allclose(found, k1 + np.cos(angle) * k0, atol=0.01)


def test_draws_are_averaged():
    several = empirical_kernel(HIDDEN, VECTORS, width=20, seed=3, draws=2)
    # Draw k has the seed (3, k).
    apart = []
    for draw in range(2):
        module = finite.build(HIDDEN, 20, (6,), outputs=1, seed=(3, draw))
        apart.append(empirical_kernel(module, VECTORS))
    np.testing.assert_allclose(several, np.mean(apart, 0), rtol=1e-14)
    assert abs(apart[0] - apart[1]).max() > 0.01


def test_a_module_of_ones_own_has_the_mean_of_its_outputs_kernels():
    module = torch.nn.Linear(6, 2, bias=False).double()
    np.testing.assert_allclose(empirical_kernel(module, VECTORS), VECTORS @ VECTORS.T, rtol=1e-12)
    outputs = VECTORS @ module.weight.detach().numpy().T
    np.testing.assert_allclose(empirical_kernel(module, VECTORS, kind="nngp"), outputs @ outputs.T / 2, rtol=1e-12)


def test_layers_that_are_not_trained_add_nothing():
    network = Sequential(Dense(trained=False), Relu(), Dense(trained=False))
    assert not empirical_kernel(network, VECTORS, width=20).any()
    network = Sequential(Dense(trained=False), Relu(), Dense())
    module = finite.build(network, 20, (6,), outputs=1, seed=(0, 0))
    hidden = np.maximum(module.body[0](torch.tensor(VECTORS)).numpy(), 0)
    np.testing.assert_allclose(empirical_kernel(network, VECTORS, width=20), hidden @ hidden.T / 20, rtol=1e-12)


# The limit.

ENDS = GlobalAvgPool(), Dense()
SERIES = {
    "exp": Sequential(Dense(w_std=0.5), Exp(), Dense()),
    "gaussian": Sequential(Dense(), Gaussian(), Dense()),
    "hermite": Sequential(Dense(), LayerNorm(), Hermite((0.2, 0.5, 0.3)), Dense()),
    "polynomial": Sequential(Dense(), Polynomial((0.1, 0.6, 0.2)), Dense()),
    **{
        name: Sequential(Dense(w_std=0.5), Elementwise(name), Dense())
        for name in ("tanh", "sigmoid", "silu", "softplus")
    },
    "max-pool": Sequential(Conv(3), MaxPool((1, 2), 1, "SAME"), Conv(3), MaxPool((2, 1)), Conv(2), Relu(), *ENDS),
    "maxout": Sequential(Dense(b_std=0.2), Maxout(), Dense(), Maxout(), Dense()),
    "product": Sequential(
        Conv(3), Relu(), Product(Sequential(Conv(3), Relu()), Conv(3, b_std=0.3)), Conv(2), Relu(), *ENDS
    ),
    "concatenate": Sequential(Conv(3), Concatenate(Relu(), Sequential(Conv(3), Abs()), 0.3), Conv(2), Relu(), *ENDS),
    "repeat": Sequential(Conv(3), Repeat(Sequential(Relu(), Conv(3)), 3, inject=True), Relu(), *ENDS),
    "positions": Sequential(
        *[Conv(3), LayerNorm(), PositionalEmbedding(w_std=0.5, correlation="gaussian", length=1.5)],
        *[Attend(gain=0.5, plus_identity=True), Dense(w_std=0.7), Relu()],
        *[Attend(gain=0.5, keys=PositionalEmbedding(w_std=0.5)), Dense(b_std=0.2), Relu(), *ENDS],
    ),
    "transformer": presets.transformer(1, patch=(2, 1), position_std=0.5),
    "heads": Sequential(Conv(3), LayerNorm(), LinearAttention(w_out_std=0.4, b_std=0.3), Relu(), *ENDS),
    "standard": Sequential(
        Dense(b_std=0.3, parameterization="standard"), Relu(), Dense(parameterization="standard", fan_in=20, rate=0.5)
    ),
    "graphs": Sequential(
        *[GraphConv(b_std=0.3), Relu(), Aggregate("degree"), Dense(), Relu(), GraphConv(), GlobalSumPool(), Dense()]
    ),
    "jumps": Sequential(
        *[Dense(b_std=0.2), Repeat(Sequential(Relu(), Dense(b_std=0.3)), 2, jump=True), Dense(), Relu(), Dense()]
    ),
    "jumps of graphs": Sequential(
        *[Dense(), Repeat(Sequential(Aggregate(), Relu(), Dense(w_std=0.7)), 2, jump=True), GlobalSumPool(), Dense()]
    ),
    "padded states": Sequential(
        Padded(), Recurrent(Relu(), w_std=1.2, u_std=0.8, b_std=0.2), Bidirectional(Recurrent(Erf())), *ENDS
    ),
    "padded windows": Sequential(
        *[Padded(), Conv((1, 3), b_std=0.3), Relu(), Conv((1, 2)), Relu(), Flatten(), Dense(b_std=0.1)]
    ),
    "padded attention": Sequential(
        *[Padded(), Conv((1, 3), b_std=0.3), LayerNorm(), Attend(gain=0.5, plus_identity=True), Dense(b_std=0.2)],
        *[Relu(), *ENDS],
    ),
    "masked attention": Sequential(
        *[Masked(), Conv(3, b_std=0.3), LayerNorm(), Attend(gain=0.5, plus_identity=True), Dense(b_std=0.2), Relu()],
        *ENDS,
    ),
    "masked": Sequential(
        *[Masked(), Conv(3, b_std=0.3), Relu(), AvgPool(2, normalize_edges=True), Conv(2, b_std=0.2), Relu(), *ENDS]
    ),
    "masked branches": Sequential(
        *[Masked(), Conv(2, b_std=0.3), Residual(Sequential(Relu(), Conv(3, strides=2)), Conv(1, strides=2)), Relu()],
        *[LocalAvgPool(1), Dense(b_std=0.2), Relu(), Flatten(), Dense()],
    ),
    "cntk-v": presets.cntk(4),
    "cntk-gap": presets.cntk(4, "gap"),
    "cntk-lap": presets.cntk(4, "lap1"),
}
NETWORKS = {name: each for name, each in (GOLDEN | SERIES).items() if name != "fc_dropout"}
GIVEN = {
    "myrtle5": LARGER,
    "graphs": GRAPHS,
    "jumps of graphs": GRAPHS,
    "padded states": SEQUENCES,
    "padded windows": SEQUENCES,
    "padded attention": SEQUENCES,
    "masked attention": HOLES,
    "masked": HOLES,
    "masked branches": HOLES,
}
FLAT = {name for name, network in NETWORKS.items() if isinstance(network.layers[0], Dense)} - GIVEN.keys()
"""The networks of vectors."""

WIDE, NARROW = {32: 48, 128: 24, 384: 12}, {16: 64, 48: 40, 144: 20}
"""How many networks of each width, of vectors and of images."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_errors_fall_with_the_root_of_the_width(name):
    network, seeds = NETWORKS[name], WIDE if name in FLAT else NARROW
    x = GIVEN.get(name, VECTORS if name in FLAT else IMAGES)
    of_both = [
        np.array([empirical_kernels(network, x, width=width, seed=seed, kinds=KINDS)[0] for seed in range(count)])
        for width, count in seeds.items()
    ]
    for position, kind in enumerate(KINDS):
        exact = kernel_matrix(network, x, kind=kind, dtype="float64")
        drawn = [each[:, position] for each in of_both]
        size = np.sqrt(np.mean(exact**2))
        errors = [np.sqrt(np.mean((each - exact) ** 2)) / size for each in drawn]
        slope = np.polyfit(np.log(list(seeds)), np.log(errors), 1)[0]
        assert -0.7 < slope < -0.3, (kind, slope, errors)
        # The mean over the networks is nearer still: its own deviation, and a bias like 1 / width.
        count, mean = len(drawn[-1]), drawn[-1].mean(0)
        assert np.sqrt(np.mean((mean - exact) ** 2)) / size < 3 * errors[-1] / count**0.5, (kind, errors, mean, exact)


@pytest.mark.slow
def test_dropout_has_the_variance_of_its_kernel():
    network = GOLDEN["fc_dropout"]
    exact = kernel_matrix(network, VECTORS, kind="nngp", dtype="float64")
    torch.manual_seed(0)
    x, found = torch.tensor(VECTORS), []
    for seed in range(40):
        outputs = finite.build(network, 512, (6,), seed=seed)(x).detach().numpy()
        found.append(outputs @ outputs.T / 512)
    np.testing.assert_allclose(np.mean(found, 0), exact, atol=0.02 * exact.max())
    # Without the masks, the variances would be smaller by more than that.
    plain = kernel_matrix(network, VECTORS, VECTORS.copy(), kind="nngp", dtype="float64")
    assert np.diag(exact - plain).max() > 0.04 * exact.max()


# Bits.


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_has_the_same_bits_however_inputs_are_divided(kind):
    draws = Draws(GOLDEN["cnn_gap_d3"], kind, 24, (4, 4, 2), count=2)
    x, z = RNG.standard_normal((5, 4, 4, 2)), RNG.standard_normal((4, 4, 4, 2))
    whole = Products(draws.modules, kind)
    expected, own = whole.of_all(x, z), whole.of_all(x)
    for held in (1, 2, 3):
        row_bytes = 8 * (24 if kind == "nngp" else finite.count_weights(draws.network, 24, (4, 4, 2), outputs=1)[1])
        found = Products(draws.modules, kind, block_bytes=2 * held * row_bytes)
        assert np.array_equal(found.of_all(x, z), expected)
        assert np.array_equal(found.of_all(x), own)
        assert np.array_equal(found.of_pairs(x[:4], z), np.diag(expected[:4]))
    assert np.array_equal(own, own.T)
    assert np.array_equal(whole.of_pairs(x), np.diag(own))
    assert np.array_equal(whole.of_all(x[3:], z[1:2]), expected[3:, 1:2])


def test_torch_computes_in_one_thread_and_gets_the_others_back():
    class Told(torch.nn.Linear):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    seen, before = [], torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        empirical_kernel(Told(6, 1), VECTORS)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_computation_that_is_stopped_returns():
    def modules():
        for module in Draws(HIDDEN, "ntk", 20, (6,), count=10**9).modules():
            yield module
            products.stopped = True

    products = Products(modules, "ntk")
    assert products.of_all(VECTORS).shape == (4, 4)
    products.stopped = False
    assert products.of_pairs(VECTORS).shape == (4,)


# What is refused.


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (HIDDEN, {}, "an empirical kernel needs the width of its finite networks, such as width=512"),
        (HIDDEN, {"width": 0}, "width must be a whole number of at least 1, got 0"),
        (HIDDEN, {"width": 4, "draws": 0}, "draws must be a whole number of at least 1, got 0"),
        (HIDDEN, {"width": 4, "seed": -1}, "seed must be a whole number of at least 0, got -1"),
        (HIDDEN, {"width": 4, "dtype": "int8"}, 'dtype "float32" or "float64", got dtype=\'int8\''),
        (HIDDEN, {"width": 4, "kind": "nkt"}, 'a kernel is "nngp" or "ntk", got kind=\'nkt\''),
        (Sequential(Dense(), Sign(), Dense()), {"width": 4}, r"layer 1 \(Sign\): Sign\(\) has no NTK, only an NNGP"),
        (Sequential(Dense(), Dropout(0.5), Dense()), {"width": 4}, r"Dropout\(rate=0.5\) draws a mask for each sample"),
    ],
)
def test_a_kernel_that_no_finite_network_has_is_refused(network, options, message):
    with pytest.raises(LayerError, match=message):
        empirical_kernel(network, VECTORS, **options)


def test_a_network_that_ends_in_images_is_refused():
    with pytest.raises(LayerError, match="the network ends in images of shape"):
        empirical_kernel(Dense(), IMAGES, width=4)
    assert empirical_kernel(Sequential(Dense(), Flatten()), IMAGES, width=4).shape == (3, 3)


BROKEN = [
    (np.full((3, 6), np.nan), DataError, r"{} holds nan at index \(0, 0\): inputs must be finite"),
    (np.full((4, 6), np.inf), DataError, r"{} holds inf at index \(0, 0\): inputs must be finite"),
    (VECTORS + 1j, DataError, "{} must hold real numbers, got dtype complex128"),
    (VECTORS.astype(object), DataError, "{} must hold real numbers, got dtype object"),
    (VECTORS.astype(str), DataError, "{} must hold real numbers, got dtype <U"),
]


@pytest.mark.parametrize(("inputs", "error", "message"), BROKEN)
def test_inputs_that_are_no_finite_numbers_are_refused(inputs, error, message):
    with pytest.raises(error, match=message.format("x")):
        empirical_kernel(HIDDEN, inputs, width=4)
    with pytest.raises(error, match=message.format("z")):
        empirical_kernel(HIDDEN, VECTORS, inputs, width=4)
    with pytest.raises(error, match=message.format("x")):
        empirical_kernels(HIDDEN, inputs, width=4)


def test_absent_positions_are_refused_where_the_network_does_not_take_them():
    network = Sequential(Conv(3), Relu(), GlobalAvgPool(), Dense())
    for kernel in (empirical_kernel, empirical_kernels):
        with pytest.raises(LayerError, match=r"x: a sequence has absent steps.*put Padded\(\) first"):
            kernel(network, SEQUENCES[:, None], width=4)
        with pytest.raises(DataError, match=r"x holds nan at index .*put Masked\(\) first"):
            kernel(network, HOLES, width=4)


def test_a_module_whose_parameters_are_all_frozen_has_no_ntk():
    module = torch.nn.Linear(6, 2).double().requires_grad_(False)
    with pytest.raises(LayerError, match=r'no parameter of the module is trained, .*: give kind="nngp", or call'):
        empirical_kernel(module, VECTORS)
    assert empirical_kernel(module, VECTORS, kind="nngp").all()


def test_what_is_no_network_is_refused():
    for kernel in (empirical_kernel, empirical_kernels):
        with pytest.raises(LayerError, match=r"a layer of cntk_pipeline\.layers.*, got 'cntk'"):
            kernel("cntk", VECTORS, width=4)


def test_a_module_with_an_embedding_gets_whole_numbers_and_another_one_numbers_of_its_own_dtype():
    words = np.array([[0, 2, 1], [3, 3, 0]], np.uint8)
    module = torch.nn.Sequential(torch.nn.Embedding(4, 5), torch.nn.Flatten(), torch.nn.Linear(15, 1)).double()
    rows = module[0].weight.detach().numpy()[words].reshape(2, -1)
    weights = module[2].weight.detach().numpy().reshape(3, 5)
    alike = sum(
        (words[:, None, i] == words[None, :, j]) * (weights[i] @ weights[j]) for i in range(3) for j in range(3)
    )
    np.testing.assert_allclose(empirical_kernel(module, words), rows @ rows.T + 1 + alike, rtol=1e-12)
    linear = torch.nn.Linear(3, 1, bias=False).double()
    np.testing.assert_array_equal(empirical_kernel(linear, words), empirical_kernel(linear, words.astype(float)))


@pytest.mark.parametrize("given", [{"width": 4}, {"seed": 5}, {"draws": 2}, {"dtype": "float32"}, {"dtype": "number"}])
def test_a_module_has_no_width_seed_draws_or_dtype_to_be_given(given):
    with pytest.raises(ConfigError, match="a module of torch has a width, weights and a dtype of its own: leave out"):
        empirical_kernel(torch.nn.Linear(6, 1), VECTORS, **given)


@pytest.mark.parametrize("block_bytes", [0, -5, 1e6, "1GB"])
def test_bytes_are_a_whole_number(block_bytes):
    with pytest.raises(LayerError, match="block_bytes must be a whole number of at least 1, got"):
        empirical_kernel(HIDDEN, VECTORS, width=4, block_bytes=block_bytes)


def test_a_kernel_that_is_not_finite_is_refused():
    network = Sequential(Dense(w_std=1e30), Dense(w_std=1e30))
    for kernel, kind in ((empirical_kernel, {}), (empirical_kernel, {"kind": "nngp"}), (empirical_kernels, {})):
        with pytest.raises(NotFinite, match=r"the kernel is \S+ for inputs 0 and 0: .* w_std, b_std are out of range"):
            kernel(network, VECTORS, width=4, dtype="float32", **kind)
    broken = torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.Threshold(np.inf, np.nan))
    with pytest.raises(NotFinite, match="the kernel is nan for inputs 0 and 0: what the module computes of them"):
        empirical_kernel(broken, VECTORS, kind="nngp")


def test_a_module_that_returns_no_tensor_is_refused():
    with pytest.raises(LayerError, match="a module must return one tensor, got tuple: wrap it in one that returns"):
        empirical_kernel(torch.nn.LSTM(6, 1), VECTORS)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (torch.nn.BatchNorm2d(2), r"BatchNorm2d '1' takes statistics of a batch: call its eval\(\) first"),
        (torch.nn.InstanceNorm2d(2, track_running_stats=True), "InstanceNorm2d '1' takes statistics of a batch"),
        (torch.nn.Dropout(0.5), r"Dropout '1' draws random numbers: call its eval\(\) first"),
        (torch.nn.RReLU(), "RReLU '1' draws random numbers"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_a_module_is_no_function_of_one_input_while_it_is_trained(layer, message):
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 2, 1), layer, torch.nn.Flatten(), torch.nn.Linear(16, 1))
    images, before = IMAGES.reshape(3, 4, 4, 2), {name: each.clone() for name, each in module.state_dict().items()}
    with pytest.raises(LayerError, match=message):
        empirical_kernel(module, images)
    assert np.isfinite(empirical_kernel(module.eval(), images)).all()
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())


@pytest.mark.parametrize(
    "normed",
    [torch.nn.utils.spectral_norm, torch.nn.utils.parametrizations.spectral_norm],
    ids=["hook", "parametrization"],
)
def test_a_spectral_norm_changes_in_training(normed):
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), normed(torch.nn.Linear(8, 1)))
    with pytest.raises(LayerError, match=r"changes the vectors of its spectral norm: call its eval\(\) first"):
        empirical_kernel(module, VECTORS)
    found = empirical_kernel(module.eval(), VECTORS)
    np.testing.assert_array_equal(found, empirical_kernel(module, VECTORS[::-1])[::-1, ::-1])


def test_batch_statistics_that_are_not_kept_are_refused_in_every_mode():
    for layer, images in ((torch.nn.BatchNorm2d, IMAGES), (torch.nn.BatchNorm1d, VECTORS)):
        module = torch.nn.Sequential(layer(images.shape[1], track_running_stats=False), torch.nn.Flatten()).eval()
        with pytest.raises(LayerError, match=r"BatchNorm.d '0' .* takes statistics of a batch in each mode"):
            empirical_kernel(module, images, kind="nngp")


@pytest.mark.parametrize("layer", [torch.nn.LazyBatchNorm2d, torch.nn.LazyLinear])
def test_a_module_without_values_is_refused_and_not_changed(layer):
    module = torch.nn.Sequential(layer(3) if layer is torch.nn.LazyLinear else layer(), torch.nn.Flatten()).eval()
    with pytest.raises(LayerError, match=r"'0\.\w+' of the module has no values yet: call the module once first"):
        empirical_kernel(module, IMAGES)
    assert torch.nn.parameter.is_lazy(module[0].weight)
    module(torch.zeros(2, *IMAGES.shape[1:]))
    assert np.isfinite(empirical_kernel(module, IMAGES)).all()


def test_random_numbers_of_a_function_are_seen():
    class Noisy(torch.nn.Linear):
        def forward(self, x):
            return super().forward(torch.nn.functional.dropout(x, 0.01, self.training))

    pool = torch.nn.Sequential(torch.nn.FractionalMaxPool2d(2, output_size=1), torch.nn.Flatten()).eval()
    module, before = Noisy(6, 1), torch.get_rng_state()
    for drawing, inputs in ((module, VECTORS), (pool, IMAGES)):
        with pytest.raises(LayerError, match="the module draws random numbers as it is called"):
            empirical_kernel(drawing, inputs, kind="nngp")
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_allclose(empirical_kernel(module.eval(), VECTORS), VECTORS @ VECTORS.T + 1, rtol=1e-5)


def test_random_numbers_of_another_thread_are_not_those_of_a_module():
    """Seen to fail: a network trained beside it with dropout moved the generator, which is one for all threads."""
    done = Event()

    def draw():
        while not done.is_set():
            torch.rand(10)

    thread = Thread(target=draw)
    thread.start()
    try:
        for _ in range(200):
            require_no_draws(torch.nn.Linear(6, 1), VECTORS[0])
    finally:
        done.set()
        thread.join()


def test_a_module_may_take_a_derivative():
    """Seen to fail: the module was called without gradients."""

    class Force(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

        def forward(self, x):
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]

    found = empirical_kernel(Force(), VECTORS)
    assert np.isfinite(found).all()
    assert np.all(np.diag(found) > 0)


def test_a_module_of_numbers_that_numpy_does_not_have_is_refused():
    class Cast(torch.nn.Module):
        def forward(self, x):
            return x.to(dtype)

    with pytest.raises(LayerError, match=r"got 'weight' of torch.bfloat16: call its float\(\) first"):
        empirical_kernel(torch.nn.Linear(6, 1).bfloat16(), VECTORS)
    for dtype in (torch.bfloat16, torch.complex128):
        with pytest.raises(LayerError, match=f"a module must return numbers of float16, .*, got {dtype}: let it"):
            empirical_kernel(Cast(), VECTORS, kind="nngp")


def test_inputs_are_of_the_first_real_numbers_of_a_module():
    class Coded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.codes = torch.nn.Parameter(torch.arange(6), requires_grad=False)
            self.last = torch.nn.Linear(6, 1, bias=False).double()

        def forward(self, x):
            return self.last(x * self.codes)

    class Held(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("matrix", torch.eye(6))

        def forward(self, x):
            return x @ self.matrix

    x = VECTORS * np.arange(6)
    np.testing.assert_allclose(empirical_kernel(Coded(), VECTORS), x @ x.T, rtol=1e-12)
    np.testing.assert_allclose(empirical_kernel(Held(), VECTORS, kind="nngp"), VECTORS @ VECTORS.T / 6, rtol=1e-5)


def test_sparse_derivatives_of_an_embedding_are_those_of_a_dense_one():
    words, kernels = np.array([[0, 2, 1], [3, 3, 0]]), []
    for sparse in (False, True):
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(4, 5, sparse=sparse)
        kernels.append(empirical_kernel(torch.nn.Sequential(embedding, torch.nn.Flatten()), words))
    np.testing.assert_array_equal(*kernels)


def test_kernels_do_not_depend_on_a_lower_dtype_of_the_caller():
    module = torch.nn.Linear(6, 3)
    for kind in ("ntk", "nngp"):
        expected, each = empirical_kernel(module, VECTORS, kind=kind), empirical_kernels(HIDDEN, VECTORS, width=4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(empirical_kernel(module, VECTORS, kind=kind), expected)
            np.testing.assert_array_equal(empirical_kernels(HIDDEN, VECTORS, width=4), each)
            assert torch.is_autocast_enabled("cpu")


def test_a_thread_that_leaves_first_gets_its_threads_back_and_the_others_keep_one():
    entered, left, before = Event(), Event(), torch.get_num_threads()

    def stay():
        with torch_by_itself():
            entered.set()
            left.wait(60)
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    def compute():
        seen.append(torch.get_num_threads())

    seen, second, new = [], Thread(target=stay), Thread(target=compute)
    try:
        torch.set_num_threads(2)
        with torch_by_itself():
            second.start()
            assert entered.wait(60)
        assert torch.get_num_threads() == 2
        left.set()
        second.join(60)
        empirical_kernel(torch.nn.Linear(6, 1), VECTORS)  # alone
        assert torch.get_num_threads() == 2
        new.start()
        new.join(60)
        assert seen == [1, 2, 2]
    finally:
        left.set()
        torch.set_num_threads(before)


def test_derivatives_do_not_depend_on_what_the_caller_has_switched_off():
    module = torch.nn.Linear(6, 1)
    expected, each = empirical_kernel(module, VECTORS), empirical_kernels(HIDDEN, VECTORS, width=4)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            np.testing.assert_array_equal(empirical_kernel(module, VECTORS), expected)
            np.testing.assert_array_equal(empirical_kernels(HIDDEN, VECTORS, width=4), each)
            assert not torch.is_grad_enabled()


def test_inputs_that_do_not_agree_are_refused():
    with pytest.raises(DataError, match=r"at least one input each, all of one shape, got \(4, 6\) and \(3, 4, 4, 2\)"):
        empirical_kernel(HIDDEN, VECTORS, IMAGES, width=4)
    with pytest.raises(DataError, match=r"at least one input each, all of one shape, got \(0, 6\)"):
        empirical_kernel(HIDDEN, VECTORS[:0], width=4)
