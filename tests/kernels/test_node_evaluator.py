"""Kernels of graphs: against golden values, the naive twin, and what an evaluator promises."""

from pathlib import Path

import numpy as np
import pytest
from support.graphs import draw_graphs
from support.tolerances import DTYPES, assert_kernels_close, tolerance
from twin import reference

from cntk_pipeline import kernel_diagonal, kernel_matrices, kernel_matrix, summary
from cntk_pipeline.errors import DataError, LayerError, NotAccurate, NotFinite
from cntk_pipeline.graphs import pack
from cntk_pipeline.kernels import ENGINES, CpuEngine, Question, find_engine, lower
from cntk_pipeline.layers import (
    Abs,
    Aggregate,
    AvgPool,
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Erf,
    Flatten,
    GlobalAvgPool,
    GlobalSumPool,
    GraphConv,
    Identity,
    LayerNorm,
    LocalAvgPool,
    Product,
    Relu,
    Repeat,
    Rescale,
    Residual,
    SelfAttention,
    Sequential,
    Sign,
    presets,
)

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "graphs.npz"))
SETTINGS = [key.partition("/")[2] for key in GOLDEN if key.startswith("ntk/")]
PLAIN = presets.gntk(3)


@pytest.fixture(scope="module")
def graphs():
    """Draw graphs of few and of many nodes, two of them equal; one node has more neighbours than there are slots."""
    found = draw_graphs([5, 3, 2, 17, 6, 24, 5], features=3, seed=1)
    star = np.zeros((24, 24), int)
    star[0, 1:] = star[1:, 0] = 1
    found[5] = star, found[5][1]
    found[6] = found[0]
    return found


@pytest.fixture(scope="module")
def packed(graphs):
    return pack([adjacency for adjacency, _ in graphs], [features for _, features in graphs])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_preset_has_the_values_of_the_code_of_its_authors(setting, dtype):
    layers, dense, scaling, jump = setting.split("_")
    x = pack(*([GOLDEN[f"graph{k}/{what}"] for k in range(12)] for what in ("edges", "features")))
    network = presets.gntk(
        int(layers.removeprefix("layers")) - 1,
        dense_layers=int(dense.removeprefix("mlp")),
        scaling={"uniform": "sum", "degree": "degree"}[scaling],
        jump=jump == "jk1",
    )
    golden = GOLDEN["ntk/" + setting]
    np.testing.assert_allclose(kernel_matrix(network, x, dtype=dtype), golden, rtol=tolerance(dtype).golden)


def at_nodes(*layers):
    """Put layers between two that make every covariance count."""
    return Sequential(GraphConv(w_std=1.2, b_std=0.3), *layers, GraphConv("degree", b_std=0.1), Relu(), GlobalSumPool())


NETWORKS = {
    "sums": Sequential(Dense(), Relu(), Dense(), Aggregate(), Relu(), Dense(), GlobalSumPool()),
    "biases": at_nodes(Relu(), Dense(b_std=0.2), Aggregate(), Relu(), Dense(b_std=0.2), Aggregate("degree")),
    "means": Sequential(GraphConv("degree"), Relu(), Dense(b_std=0.3), GlobalAvgPool(), Dense(), Relu(), Dense()),
    "fixed": Sequential(GraphConv(trained=False), Abs(), GraphConv(), Relu(), GlobalSumPool(), Dense(trained=False)),
    "jump": Sequential(
        Dense(), Repeat(Sequential(Aggregate(), Relu(), Dense()), 3, jump=True), GlobalSumPool(), Dense()
    ),
    "residual": at_nodes(Residual(Sequential(Relu(), GraphConv("degree")), Identity()), LayerNorm(), Erf(), Dense()),
    "joined": at_nodes(Concatenate(Relu(), Sequential(GraphConv(), Abs()), 0.3), Dense()),
    "product": at_nodes(Product(Sequential(Relu(), GraphConv()), Relu()), Rescale(0.4), Dense()),
    "series": at_nodes(
        LayerNorm(), Elementwise("sigmoid"), GraphConv("degree"), LayerNorm(), Elementwise("tanh"), Dense()
    ),
    "standard": Sequential(Dense(parameterization="standard", b_std=0.1), Aggregate(), Relu(), GlobalSumPool()),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_every_layer_between_nodes_agrees_with_the_naive_twin(network, graphs, packed):
    expected = reference.evaluate_graphs(network, graphs)
    for dtype in DTYPES:
        found = kernel_matrices([network], packed, kinds=("nngp", "ntk"), dtype=dtype, n_jobs=1)[0]
        for actual, values in zip(found, expected, strict=True):
            assert_kernels_close(actual, values, tolerance(dtype).golden)
    alone = kernel_matrix(network, packed, kind="nngp", dtype="float64", n_jobs=1)
    assert_kernels_close(alone, expected[0], tolerance("float64").golden)


@pytest.mark.parametrize("scaling", ["sum", "degree"])
def test_random_channels_have_the_kernels_as_their_means(scaling, graphs, packed):
    """Draw first-layer weights w of many channels: their outputs' products and their gradients', on average."""
    weights = np.random.default_rng(5).standard_normal((3, 40_000))
    outputs, gradients = [], []
    for adjacency, features in graphs[:5]:
        mix = adjacency + np.eye(len(adjacency))
        mix = mix / mix.sum(1, keepdims=True) if scaling == "degree" else mix
        seen = mix @ features / np.sqrt(3)
        hidden = seen @ weights
        outputs.append((mix @ np.maximum(hidden, 0)).sum(0))
        gradients.append(np.einsum("i,ic,if->cf", mix.sum(0), hidden > 0, seen, optimize=True))
    nngp = np.array([[np.mean(a * b) for b in outputs] for a in outputs])
    ntk = nngp + np.array([[np.mean((a * b).sum(1)) for b in gradients] for a in gradients])
    network = Sequential(GraphConv(scaling), Relu(), GraphConv(scaling), GlobalSumPool())
    found = kernel_matrices([network], packed[:5], kinds=("nngp", "ntk"), dtype="float64", n_jobs=1)[0]
    for actual, expected in zip(found, (nngp, ntk), strict=True):
        assert_kernels_close(actual, expected, 0.02)  # some deviations of a mean of so many


def ask(network, packed, dtype="float64", kind="ntk"):
    return CpuEngine.ask(Question(((network, kind), (PLAIN, "nngp")), packed.shape[1:], dtype))


@pytest.mark.parametrize(
    "network", [NETWORKS[name] for name in ("biases", "series", "means")], ids=["sums", "series", "means"]
)
def test_a_pair_has_the_same_bits_in_any_tile(network, packed, monkeypatch):
    found = ask(network, packed).evaluator()
    whole = found.evaluate(packed, packed)
    own = found.evaluate(packed)
    assert np.array_equal(own, own.mT)
    assert np.array_equal(np.tril(own), np.tril(whole))
    for row, col in np.ndindex(whole.shape[1:]):
        assert np.array_equal(found.evaluate(packed[[row]], packed[[col]])[:, 0, 0], whole[:, row, col])
    assert np.array_equal(found.evaluate_pairs(packed, packed[::-1]), np.einsum("rii->ri", whole[:, :, ::-1]))
    assert np.array_equal(found.evaluate_pairs(packed), np.einsum("rii->ri", whole))
    monkeypatch.setattr("cntk_pipeline.kernels.node_evaluator.MOST_COLUMNS", 20)
    assert np.array_equal(found.evaluate(packed), own)
    assert not found.is_masked
    ask(network, packed).test(packed[:2])


HOMOGENEOUS = {
    "sums": PLAIN,
    "means": presets.gntk(2, "mean", scaling="degree"),
    "convolutions": Sequential(GraphConv("degree"), Relu(), GraphConv(w_std=1.3), Abs(), GlobalAvgPool(), Dense()),
}
LAWS = pytest.mark.parametrize(
    "network", (OF_LAWS := HOMOGENEOUS | {"biases": NETWORKS["biases"]}).values(), ids=OF_LAWS
)


@pytest.mark.parametrize("network", OF_LAWS.values(), ids=OF_LAWS)
def test_the_order_of_nodes_does_not_matter_and_equal_graphs_are_one(network, graphs, packed):
    shuffled = np.random.default_rng(0).permutation(17)
    again = [(a[shuffled][:, shuffled], f[shuffled]) if len(a) == 17 else (a, f) for a, f in graphs]
    turned = pack([a for a, _ in again], [f for _, f in again])
    k = kernel_matrix(network, packed, dtype="float64")
    assert_kernels_close(kernel_matrix(network, turned, dtype="float64"), k, tolerance("float64").golden)
    assert_kernels_close(k[0], k[6], tolerance("float64").kernel)
    assert np.linalg.eigvalsh(k[:6, :6]).min() > 0
    assert np.array_equal(kernel_diagonal(network, packed, dtype="float64"), np.diagonal(k))


@pytest.mark.parametrize("network", OF_LAWS.values(), ids=OF_LAWS)
def test_arrays_of_unequal_rows_have_a_kernel(network, graphs, packed):
    small = pack([a for a, _ in graphs[:3]], [f for _, f in graphs[:3]])
    assert small.shape[3] < packed.shape[3]
    whole = kernel_matrix(network, packed, dtype="float64")
    assert np.array_equal(kernel_matrix(network, packed, small, dtype="float64")[3:], whole[3:, :3])


@pytest.mark.parametrize("network", HOMOGENEOUS.values(), ids=HOMOGENEOUS)
def test_without_biases_scaling_the_features_scales_the_kernel(network, graphs, packed):
    scaled = pack([a for a, _ in graphs], [4 * f for _, f in graphs])
    for dtype in DTYPES:
        k = kernel_matrix(network, packed, dtype=dtype, n_jobs=1)
        assert_kernels_close(
            kernel_matrix(network, scaled, packed, dtype=dtype, n_jobs=1) / 4, k, tolerance(dtype).golden
        )


def test_an_engine_says_what_a_pair_of_graphs_takes(packed):
    found = ask(PLAIN, packed)
    assert 0 < found.measure(packed).seconds < 1
    held = found.evaluator()
    held.evaluate(packed)
    assert held._registers.nbytes < found.working_bytes(16) < 2**28


@pytest.mark.parametrize("layer", [Relu(), Elementwise("tanh", nodes=16)], ids=repr)
def test_a_variance_of_a_sum_that_is_zero_may_be_negative_by_rounding(layer):
    """Behind LayerNorm, one feature of two nodes of opposite signs cancels: the bias of the last layer is left."""
    values = np.random.default_rng(0).random((30, 2, 1)) * [[1], [-1]]
    opposites = pack([np.array([[0, 1], [1, 0]])] * 30, list(values))
    summed = Sequential(Dense(), LayerNorm(), GlobalSumPool(), Dense(), layer, Dense(b_std=0.5))
    mixed = Sequential(Dense(), LayerNorm(), Aggregate(), Dense(), layer, GlobalAvgPool(), Dense(b_std=0.5))
    for dtype in DTYPES:
        for network in (summed, mixed):
            np.testing.assert_allclose(kernel_diagonal(network, opposites, kind="nngp", dtype=dtype), 0.25, rtol=1e-5)


def test_weights_without_an_activation_are_as_many_as_a_network_may_have(packed):
    """Sums over neighbours and nodes go before them: by recursion, Python's limit was an error."""
    weights = Dense(w_std=1.0)
    readout = (Aggregate(), Relu(), weights, Repeat(weights, 1000), GlobalSumPool(), weights)
    many, few = Sequential(weights, Repeat(weights, 1000), *readout), Sequential(weights, *readout[:3], *readout[-2:])
    assert np.array_equal(kernel_matrix(many, packed, kind="nngp"), kernel_matrix(few, packed, kind="nngp"))


# Refusals.


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (Conv(1), r"Conv\(.* needs images .*take Aggregate or GraphConv between"),
        (Flatten(), r"Flatten\(\) needs images"),
        (AvgPool(1), r"AvgPool\(.* needs images"),
        (LocalAvgPool(1), r"LocalAvgPool\(.* needs images"),
        (SelfAttention(), r"SelfAttention\(.* needs images .* got graphs of shape \(nodes, inf\)"),
        (Rescale("pixels"), r"Rescale\(.*'pixels'\) needs images"),
        (Dropout(0.5), r"Dropout\(rate=0.5\) is not computed between the nodes of graphs"),
        (GlobalSumPool(), r"needs graphs, got an input of shape \(inf,\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_graphs_do_not_have_is_refused(layer, told, packed):
    network = Sequential(Dense(), layer, Aggregate(), Dense(), Relu(), GlobalSumPool())
    with pytest.raises(LayerError, match=told):
        kernel_matrix(network, packed)


def test_a_network_must_join_nodes_and_images_have_no_neighbours(packed):
    with pytest.raises(LayerError, match=r"ends in the nodes of graphs, \(nodes, inf\): end it with GlobalSumPool"):
        kernel_matrix(Sequential(GraphConv(), Relu()), packed)
    with pytest.raises(LayerError, match=r"Aggregate\(scaling='sum'\) needs graphs, got an input of shape \(4, 4, 1\)"):
        kernel_matrix(Sequential(Aggregate(), Dense(), Flatten()), np.ones((2, 4, 4, 1)))
    with pytest.raises(LayerError, match="NTK"):
        kernel_matrix(at_nodes(Sign()), packed)
    with pytest.raises(LayerError, match='graphs have no planes of offsets: take engine="cpu"'):
        lower([(PLAIN, "ntk")], packed.shape[1:])
    with pytest.raises(LayerError, match="at least one read-out"):
        CpuEngine.ask(Question((), packed.shape[1:]))


def test_a_network_is_a_table_of_the_operations_on_pairs_of_nodes(packed):
    shape = packed.shape[1:]
    net = Sequential(
        Aggregate("degree"), Dense(), Relu(), GraphConv(w_std=2.0, b_std=0.5), Relu(), GlobalSumPool(), Dense()
    )
    assert str(summary(net, shape)).splitlines() == [
        "   layer                          output        operations a pair of nodes",
        "   input                          (nodes, 3)                             1",
        "0  Aggregate('degree')            (nodes, 3)                             1",
        "1  Dense()                        (nodes, inf)",
        "2  Relu()                         (nodes, inf)                           1",
        "3  GraphConv(w_std=2, b_std=0.5)  (nodes, inf)                           1",
        "4  Relu()                         (nodes, inf)                           1",
        "5  GlobalSumPool()                (inf,)                                 1",
        "6  Dense()                        (inf,)",
        "6 operations on every pair of nodes of two graphs",
    ]
    branches = Sequential(Dense(), Residual(Sequential(Relu(), GraphConv())), GlobalAvgPool())
    assert [row.entries for row in summary(branches, shape).rows] == [1, 1, 4, 1]
    engine = CpuEngine.ask(Question(((branches, "ntk"), (net, "nngp")), shape))
    assert [engine.summary(number).entries for number in (0, 1)] == [7, 6]


@pytest.mark.parametrize("engine", sorted(ENGINES.keys() - {"cpu"}))
def test_other_engines_refuse_graphs(engine, packed):
    kind = find_engine(engine)
    with pytest.raises(LayerError, match=f'{kind.__name__} computes no kernels of graphs: take engine = "cpu"'):
        kind.ask(Question(((PLAIN, "ntk"),), packed.shape[1:]))


def test_kernels_of_graphs_below_the_range_of_float32_are_refused_and_not_zero(packed):
    network = Sequential(*[GraphConv(w_std=0.001), Relu()] * 12, GlobalSumPool())
    for compute in (kernel_matrix, kernel_diagonal):
        with pytest.raises(NotAccurate, match=r"a kernel has no value above .* numbers of float32 below 1e-38 lose"):
            compute(network, packed)
        assert (compute(network, packed, dtype="float64") > 0).all()
    fixed = Sequential(GraphConv(trained=False), GlobalSumPool())
    assert not kernel_matrix(fixed, packed).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "layers",
    [
        [*[GraphConv(w_std=1e-90)] * 2, *[GraphConv(w_std=1e90)] * 2],
        [*[GraphConv(w_std=1e-90), Relu()] * 2, *[GraphConv(w_std=1e90)] * 2],
        [*[GraphConv(w_std=1e-90)] * 2, LayerNorm()],
        [*[GraphConv(w_std=1e-90)] * 2, Dense(), Elementwise(np.sin, 32)],
        [Dense(w_std=1e-90), Product(Dense(), Dense(w_std=1e-90)), *[Dense(w_std=1e90)] * 2],
    ],
)
def test_covariances_that_lose_their_digits_are_refused_and_do_not_become_zero(layers, dtype, packed):
    zero = packed.astype(np.float64)
    zero[0].reshape(-1)[2 + 2 * int(zero[0].flat[1]) :] *= 0  # has no variance, which is right
    with pytest.raises(NotAccurate, match=r"graph 1 (are|has) .* below \de-\d+.* too small for float64"):
        kernel_matrix(Sequential(*layers, GlobalSumPool()), zero, kind="nngp", dtype=dtype)


def test_flips_values_of_no_size_and_rows_that_are_no_graphs_are_refused(packed):
    with pytest.raises(LayerError, match="graphs have no left and right: leave flips out"):
        kernel_matrix(PLAIN, packed, flips=True)
    broken = packed.copy()
    broken[2] *= 0.9
    with pytest.raises(DataError, match=r"graph 2 is no packed graph: make arrays of graphs by cntk_pipeline.graphs"):
        kernel_matrix(PLAIN, broken)
    tiny = packed.astype(np.float64)
    tiny[1].reshape(-1)[2 + 2 * int(tiny[1].flat[1]) :] *= 1e-160
    network = Sequential(GraphConv(), Relu(), GlobalSumPool())
    with pytest.raises(NotAccurate, match="the variances of graph 1 are not 0 and below 2e-308, too small"):
        kernel_matrix(network, tiny)
    with pytest.raises(NotFinite, match="for pair"):
        kernel_matrix(Sequential(GraphConv(w_std=1e30), Relu(), Dense(w_std=1e30), GlobalSumPool()), packed)
