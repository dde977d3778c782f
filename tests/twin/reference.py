"""The naive twin: kernels of networks by the textbook recursion, in NumPy and float64, slow and obviously right.

For two images it carries the whole covariance of every position with every position, four axes (row and column
in the first image, row and column in the second), and the same for each image with itself, whose diagonals are
the variances. Vectors are images of one pixel. Nothing is shared with the engine or the layers but the layers'
fields: every formula is written from the papers, and what is no formula there is an integral here.

A new layer needs one function and one line in `STEPS`; functions of each position stand in `twin.pointwise`.
"""

import math
from dataclasses import replace

import numpy as np

from cntk_pipeline import layers
from cntk_pipeline.layers import Layer, Sequential
from twin.pairs import Array, Pairs, Step
from twin.pointwise import POINTWISE
from twin.quadrature import Function


def two(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def place(size: int, window: int, stride: int, padding: str) -> Array:
    """List the positions that each window covers, (windows, window); ``size`` stands for outside."""
    if padding == "VALID":
        starts = np.arange(0, size - window + 1, stride)
    else:
        windows = math.ceil(size / stride)
        starts = np.arange(windows) * stride - max((windows - 1) * stride + window - size, 0) // 2
    positions = starts[:, None] + np.arange(window)
    if padding == "CIRCULAR":
        return positions % size
    return np.where((positions >= 0) & (positions < size), positions, size)


def frame(values: Array) -> Array:
    """Append a zero to each axis of positions: what lies outside."""
    return np.pad(values, [(0, 0)] * (values.ndim - 4) + [(0, 1)] * 4)


def weigh(pairs: Pairs, layer: Layer, mix: Function) -> Pairs:
    """Apply weights and biases: the old tangent passes through the weights, the layer's own parameters add theirs."""
    after = pairs.map_all(lambda values: layer.w_std**2 * mix(values))
    own = own_tangent(pairs, layer, mix) if layer.trained else 0
    after = after.map_covariances(lambda values: values + layer.b_std**2)
    return replace(after, tangent=after.tangent + own, channels=None)


def own_tangent(pairs: Pairs, layer: Layer, mix: Function) -> Array | float:
    """Sum products of derivatives by a layer's own parameters, each a factor of the forward pass times its input."""
    inputs = pairs.channels if layer.fan_in is None else layer.fan_in
    area = math.prod(two(layer.filter_shape)) if isinstance(layer, layers.Conv) else 1
    # Of ``w_std / sqrt(inputs area) W`` and ``b_std b``, or of W and b as they are.
    ntk = layer.parameterization == "ntk"
    by_weights = layer.w_std**2 if ntk else inputs * area
    by_biases = layer.b_std**2 if ntk else float(layer.b_std > 0)
    return layer.rate * (by_weights * mix(pairs.xz) + by_biases)


def conv(pairs: Pairs, layer: layers.Conv) -> Pairs:
    window, strides = two(layer.filter_shape), two(layer.strides)

    def average(values: Array) -> Array:
        """Average over equal shifts of both positions within a window."""
        framed = frame(values)
        axes = zip(values.shape[-4:], window * 2, strides * 2, strict=True)
        rows, columns, z_rows, z_columns = (place(*axis, layer.padding) for axis in axes)
        shifts = [(i, j) for i in range(window[0]) for j in range(window[1])]
        grids = [np.ix_(rows[:, i], columns[:, j], z_rows[:, i], z_columns[:, j]) for i, j in shifts]
        return sum(framed[..., *grid] for grid in grids) / len(shifts)

    return weigh(pairs, layer, average)


def dense(pairs: Pairs, layer: layers.Dense) -> Pairs:
    return weigh(pairs, layer, lambda values: values)


def rescale(pairs: Pairs, layer: layers.Rescale) -> Pairs:
    height, width = pairs.size
    factor = {"channels": pairs.channels, "pixels": height * width}.get(layer.variance, layer.variance)
    return pairs.map_all(lambda values: factor * values)


def self_attention(pairs: Pairs, layer: layers.SelfAttention) -> Pairs:
    """Mix positions by the softmax of the covariances of an image (Hron et al. 2020, linear scaling, Q = K)."""
    gain = layer.w_query_std * layer.w_key_std

    def attention(own: Array) -> Array:
        logits = np.exp(gain * (own - own.max((-2, -1), keepdims=True)))
        return logits / logits.sum((-2, -1), keepdims=True)

    a_x, a_z = attention(pairs.xx), attention(pairs.zz)
    mix = "{0}hwij,{2}ijkl,{1}HWkl->{2}hwHW"
    scale = (layer.w_value_std * layer.w_out_std) ** 2

    def mixed(values: Array, which: tuple[str, str, str], first: Array, second: Array) -> Array:
        return scale * np.einsum(mix.format(*which), first, values, second, optimize=True)

    bias = layer.b_std**2
    xz = mixed(pairs.xz, ("n", "m", "nm"), a_x, a_z)
    # Values and outputs are two layers; the output's bias is a third kind of parameter.
    own = 2 * xz + bias if layer.trained else 0
    return replace(
        pairs,
        xx=mixed(pairs.xx, ("n", "n", "n"), a_x, a_x) + bias,
        zz=mixed(pairs.zz, ("m", "m", "m"), a_z, a_z) + bias,
        xz=xz + bias,
        tangent=mixed(pairs.tangent, ("n", "m", "nm"), a_x, a_z) + own,
        channels=None,
    )


def positional_embedding(pairs: Pairs, layer: layers.PositionalEmbedding) -> Pairs:
    """Add a covariance of positions that is the same for all images, and is learned."""
    height, width = np.maximum(pairs.xx.shape[-2:], pairs.zz.shape[-2:])
    y, x = (v.ravel() / layer.length for v in np.mgrid[:height, :width])
    away = np.hypot(np.subtract.outer(y, y), np.subtract.outer(x, x))
    if layer.correlation == "sinusoidal":
        # A mean over so many frequencies that it is an integral: those of Vaswani et al. 2017, by Gauss-Legendre.
        nodes, weights = np.polynomial.legendre.leggauss(400)
        frequencies, share = 10_000.0 ** (-(nodes + 1) / 2), weights / 2
        axes = [np.subtract.outer(v, v) for v, size in ((y, height), (x, width)) if size > 1]
        cosines = [np.cos(axis[..., None] * frequencies) @ share for axis in axes]
        values = sum(cosines) / len(cosines) if cosines else np.ones_like(away)
    else:
        known = {"equal": away == 0, "gaussian": np.exp(-(away**2) / 2), "exponential": np.exp(-away)}
        values = known[layer.correlation]
    return embed(pairs, layer.w_std**2 * values.reshape(height, width, height, width), layer.trained)


def embed(pairs: Pairs, added: Array, trained: bool) -> Pairs:
    """Add a covariance of positions, ``(H, W, H, W)``, of the longer one of two sequences."""

    def plus(values: Array) -> Array:
        return values + added[tuple(map(slice, values.shape[-4:]))]

    after = pairs.map_covariances(plus)
    return replace(after, tangent=plus(after.tangent)) if trained else after


def attend(pairs: Pairs, layer: layers.Attend) -> Pairs:
    """Mix positions by a function of the covariance of an image with itself."""
    keys = step(pairs, layer.keys)

    def attention(own: Array) -> Array:
        count = math.prod(own.shape[-2:])
        logits = layer.gain * own.reshape(-1, count, count)
        if layer.mechanism == "softmax":
            exponentials = np.exp(logits - logits.max(-1, keepdims=True))
            rows = exponentials / exponentials.sum(-1, keepdims=True)
        else:
            rows = {"identity": logits, "abs": np.abs(logits), "relu": logits * (logits > 0)}[layer.mechanism]
        return rows + layer.plus_identity * np.eye(count)

    a_x, a_z = attention(keys.xx), attention(keys.zz)

    def mixed(values: Array, first: Array, second: Array) -> Array:
        flat = values.reshape(*values.shape[:-4], math.prod(values.shape[-4:-2]), math.prod(values.shape[-2:]))
        return (first @ flat @ np.swapaxes(second, -1, -2)).reshape(values.shape)

    return replace(
        pairs,
        xx=mixed(pairs.xx, a_x, a_x),
        zz=mixed(pairs.zz, a_z, a_z),
        xz=mixed(pairs.xz, a_x[:, None], a_z),
        tangent=mixed(pairs.tangent, a_x[:, None], a_z),
    )


def linear_attention(pairs: Pairs, layer: layers.LinearAttention) -> Pairs:
    """Average over heads ``(Q_i . K_j) V_j``, whose weights are independent Gaussians of mean 0."""
    keys = step(pairs, layer.keys)
    scale = (layer.w_query_std * layer.w_key_std * layer.w_value_std * layer.w_out_std) ** 2
    bias = layer.b_std**2

    def total(first: Array, second: Array) -> Array:
        return (first * second).sum((-4, -3, -2, -1), keepdims=True)

    # The derivatives by queries, by keys, by values and by outputs have this same kernel each. What reaches the layers
    # before passes through queries, which is keys.tangent in the first place, keys in the second, values in the third.
    forward = scale * keys.xz * total(keys.xz, pairs.xz)
    below = keys.tangent * total(keys.xz, pairs.xz)
    below = below + keys.xz * (total(keys.tangent, pairs.xz) + total(keys.xz, pairs.tangent))
    own = 4 * forward + bias if layer.trained else 0
    return replace(
        pairs,
        xx=scale * keys.xx * total(keys.xx, pairs.xx) + bias,
        zz=scale * keys.zz * total(keys.zz, pairs.zz) + bias,
        xz=forward + bias,
        tangent=scale * below + own,
        channels=None,
    )


def pool(pairs: Pairs, rows: Array, columns: Array, normalize_edges: bool) -> Pairs:
    """Sum the first position over its window, and the second over its own; or average over what lies inside."""

    def total(values: Array) -> Array:
        height, width = values.shape[-2:]
        values = frame(values)
        for axis, (positions, size) in enumerate([(rows, height), (columns, width)] * 2, start=-4):
            values = np.take(values, positions, axis).sum(axis)  # a new axis behind the old one: hence its number
            if normalize_edges:
                inside = (positions < size).sum(1)
                values = values / inside.reshape([-1] + [1] * (-1 - axis))
        return values

    return pairs.map_all(total)


def window_sum(pairs: Pairs, layer: layers.AvgPool | layers.SumPool, normalize_edges: bool) -> Pairs:
    window = two(layer.window_shape)
    strides = window if layer.strides is None else two(layer.strides)
    rows, columns = (place(*axis, layer.padding) for axis in zip(pairs.size, window, strides, strict=True))
    return pool(pairs, rows, columns, normalize_edges)


def sum_pool(pairs: Pairs, layer: layers.SumPool) -> Pairs:
    return window_sum(pairs, layer, False)


def avg_pool(pairs: Pairs, layer: layers.AvgPool) -> Pairs:
    pooled = window_sum(pairs, layer, layer.normalize_edges)
    area = 1 if layer.normalize_edges else math.prod(two(layer.window_shape))
    return pooled.map_all(lambda values: values / area**2)


def max_pool(pairs: Pairs, layer: layers.MaxPool) -> Pairs:
    """Take the larger one of two positions: gradients go to the winner, by the chances of each pair of winners."""
    strides = two(layer.window_shape if layer.strides is None else layer.strides)
    # A window of one position, or what of it lies outside, is that position twice: a maximum of two equal numbers.
    ends = []
    for size, window, stride in zip(pairs.size, two(layer.window_shape), strides, strict=True):
        covered = place(size, window, stride, layer.padding)
        first = np.where(covered[:, 0] < size, covered[:, 0], covered[:, -1])
        ends.append((first, np.where(covered[:, -1] < size, covered[:, -1], first)))

    def member(values: Array, first: int, second: int) -> Array:
        places = (ends[0][first], ends[1][first], ends[0][second], ends[1][second])
        return values[..., *np.ix_(*places)]

    def own_spread(own: Array) -> Array:
        """Evaluate the variances of half the differences, (n, windows)."""
        half = (member(own, 0, 0) + member(own, 1, 1) - 2 * member(own, 0, 1)) / 4
        return np.einsum("...hwhw->...hw", half)

    def correlation(values: Array, first: Array, second: Array) -> tuple[Array, Array]:
        half = (member(values, 0, 0) + member(values, 1, 1) - member(values, 0, 1) - member(values, 1, 0)) / 4
        norm = np.sqrt(np.maximum(first[..., :, :, None, None] * second[..., None, None, :, :], 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            return norm, np.clip(np.where(norm > 0, half / norm, 0), -1, 1)

    def maximum(values: Array, first: Array, second: Array) -> Array:
        norm, rho = correlation(values, first, second)
        mean = sum(member(values, k, m) for k in (0, 1) for m in (0, 1)) / 4
        return mean + 2 / np.pi * norm * (np.sqrt(1 - rho**2) + rho * np.arcsin(rho))

    x, z = own_spread(pairs.xx), own_spread(pairs.zz)
    _, rho = correlation(pairs.xz, x[:, None], z)
    alike = 1 / 4 + np.arcsin(rho) / (2 * np.pi)
    tangent = alike * (member(pairs.tangent, 0, 0) + member(pairs.tangent, 1, 1))
    tangent = tangent + (1 / 2 - alike) * (member(pairs.tangent, 0, 1) + member(pairs.tangent, 1, 0))
    return replace(
        pairs,
        xx=maximum(pairs.xx, x, x),
        zz=maximum(pairs.zz, z, z),
        xz=maximum(pairs.xz, x[:, None], z),
        tangent=tangent,
    )


def local_avg_pool(pairs: Pairs, layer: layers.LocalAvgPool) -> Pairs:
    return avg_pool(pairs, layers.AvgPool(2 * layer.radius + 1, 1, "SAME", layer.normalize_edges))


def global_avg_pool(pairs: Pairs, layer: layers.GlobalAvgPool) -> Pairs:
    return pairs.map_all(lambda values: values.mean((-4, -3, -2, -1), keepdims=True))


def global_sum_pool(pairs: Pairs, layer: layers.GlobalSumPool) -> Pairs:
    return pairs.map_all(lambda values: values.sum((-4, -3, -2, -1), keepdims=True))


def flatten(pairs: Pairs, layer: layers.Flatten) -> Pairs:
    height, width = pairs.size

    def trace(values: Array) -> Array:
        """Sum over the positions that both have; an input of N positions is divided by the root of N."""
        h, w = np.minimum(values.shape[-4:-2], values.shape[-2:])
        total = np.einsum("...hwhw->...", values[..., :h, :w, :h, :w])[..., None, None, None, None]
        return total / math.sqrt(math.prod(values.shape[-4:]))

    flat = pairs.map_all(trace)
    return replace(flat, channels=None if pairs.channels is None else pairs.channels * height * width)


def dropout(pairs: Pairs, layer: layers.Dropout) -> Pairs:
    """Enlarge the covariance of a position of a sample with itself: E[mask^2] / E[mask]^2 = 1 / (1 - rate)."""
    height, width = pairs.size
    equal = np.eye(height * width, dtype=bool).reshape(height, width, height, width)
    own = np.where(equal, 1 / (1 - layer.rate), 1)
    between = np.where(pairs.same[:, :, None, None, None, None], own, 1)
    return replace(pairs, xx=own * pairs.xx, zz=own * pairs.zz, xz=between * pairs.xz, tangent=between * pairs.tangent)


def identity(pairs: Pairs, layer: layers.Identity) -> Pairs:
    return pairs


def residual(pairs: Pairs, layer: layers.Residual) -> Pairs:
    return added(step(pairs, layer.branch), step(pairs, layer.shortcut))


def product(pairs: Pairs, layer: layers.Product) -> Pairs:
    return multiplied(step(pairs, layer.branch), step(pairs, layer.gate))


def concatenate(pairs: Pairs, layer: layers.Concatenate) -> Pairs:
    return side_by_side(step(pairs, layer.first), step(pairs, layer.second), layer.share)


def repeat(pairs: Pairs, layer: layers.Repeat) -> Pairs:
    now = joined = pairs
    for _ in range(layer.times):
        now = step(now, layer.block)
        now = added(now, pairs) if layer.inject else now
        joined = added(joined, now)
    return joined if layer.jump else now


def added(pairs: Pairs, others: Pairs) -> Pairs:
    return replace(
        pairs,
        xx=pairs.xx + others.xx,
        zz=pairs.zz + others.zz,
        xz=pairs.xz + others.xz,
        tangent=pairs.tangent + others.tangent,
    )


def multiplied(one: Pairs, other: Pairs) -> Pairs:
    """Multiply independent branches: the derivative of a product has two terms."""
    return replace(
        one,
        xx=one.xx * other.xx,
        zz=one.zz * other.zz,
        xz=one.xz * other.xz,
        tangent=one.tangent * other.xz + one.xz * other.tangent,
    )


def side_by_side(one: Pairs, other: Pairs, share: float) -> Pairs:
    """Average over the channels of both branches."""
    return added(one.map_all(lambda values: share * values), other.map_all(lambda values: (1 - share) * values))


def aggregate(pairs: Pairs, layer: layers.Aggregate | layers.GraphConv) -> Pairs:
    """Mix the nodes of each graph by its adjacency matrix, as they are or each row divided by its sum."""
    x, z = pairs.neighbours
    if layer.scaling == "degree":
        x, z = x / x.sum(1, keepdims=True), z / z.sum(1, keepdims=True)

    def mixed(values: Array, first: Array, second: Array) -> Array:
        return np.einsum("ip,...phqw,jq->...ihjw", first, values, second)

    return replace(
        pairs,
        xx=mixed(pairs.xx, x, x),
        zz=mixed(pairs.zz, z, z),
        xz=mixed(pairs.xz, x, z),
        tangent=mixed(pairs.tangent, x, z),
    )


def graph_conv(pairs: Pairs, layer: layers.GraphConv) -> Pairs:
    dense_layer = layers.Dense(w_std=layer.w_std, b_std=layer.b_std, trained=layer.trained)
    return dense(aggregate(pairs, layer), dense_layer)


def recurrent(pairs: Pairs, layer: layers.Recurrent) -> Pairs:
    """Unroll a recurrent layer: after as many turns as there are steps, each state has seen all steps before it."""
    steps = max(pairs.xx.shape[-1], pairs.zz.shape[-1])

    def handed_on(states: Array) -> Array:
        """Give both positions of a pair what is known one step before; nothing is known before the first."""
        moved = np.zeros_like(states)
        if layer.backward:
            moved[..., :, :-1, :, :-1] = states[..., :, 1:, :, 1:]
        else:
            moved[..., :, 1:, :, 1:] = states[..., :, :-1, :, :-1]
        return layer.w_std**2 * moved

    states = pairs.map_all(np.zeros_like)
    for _ in range(steps):
        xx, zz, xz = (
            handed_on(before) + layer.u_std**2 * given + layer.b_std**2
            for before, given in ((states.xx, pairs.xx), (states.zz, pairs.zz), (states.xz, pairs.xz))
        )
        # A derivative by a weight is its input, times its deviation: all of them together are the covariance itself.
        own = xz if layer.trained else 0
        tangent = handed_on(states.tangent) + layer.u_std**2 * pairs.tangent + own
        states = step(replace(pairs, xx=xx, zz=zz, xz=xz, tangent=tangent, channels=None), layer.activation)
    return states


def bidirectional(pairs: Pairs, layer: layers.Bidirectional) -> Pairs:
    return concatenate(pairs, layers.Concatenate(layer.recurrent, replace(layer.recurrent, backward=True)))


def last_state(pairs: Pairs, layer: layers.LastState) -> Pairs:
    kept = slice(0, 1) if layer.backward else slice(-1, None)
    return pairs.map_all(lambda values: values[..., :, kept, :, kept])


def sequential(pairs: Pairs, layer: Sequential) -> Pairs:
    for inner in layer.layers:
        pairs = step(pairs, inner)
    return pairs


STEPS: dict[type[Layer], Step] = {
    **POINTWISE,
    layers.Conv: conv,
    layers.Dense: dense,
    layers.Rescale: rescale,
    layers.SelfAttention: self_attention,
    layers.Attend: attend,
    layers.LinearAttention: linear_attention,
    layers.PositionalEmbedding: positional_embedding,
    layers.AvgPool: avg_pool,
    layers.SumPool: sum_pool,
    layers.MaxPool: max_pool,
    layers.LocalAvgPool: local_avg_pool,
    layers.GlobalAvgPool: global_avg_pool,
    layers.GlobalSumPool: global_sum_pool,
    layers.Flatten: flatten,
    layers.Dropout: dropout,
    layers.Identity: identity,
    layers.Residual: residual,
    layers.Product: product,
    layers.Concatenate: concatenate,
    layers.Repeat: repeat,
    layers.Recurrent: recurrent,
    layers.Bidirectional: bidirectional,
    layers.LastState: last_state,
    layers.Padded: identity,
    layers.Masked: identity,  # twin.masks knows more
    layers.Aggregate: aggregate,
    layers.GraphConv: graph_conv,
    Sequential: sequential,
}


def step(pairs: Pairs, layer: Layer) -> Pairs:
    return STEPS[type(layer)](pairs, layer)


def evaluate_both(network: Layer, left: Array, right: Array | None = None) -> tuple[Array, Array]:
    """Evaluate NNGP and NTK of two batches, ``(n, H, W, C)`` or ``(n, features)``; float64, (n_left, n_right) each.

    Without ``right``, the left images are compared with themselves: pairs (i, i) are one sample, which `Dropout`
    asks for. Equal images in two batches are two samples.
    """
    same = np.eye(len(left)) if right is None else np.zeros((len(left), len(right)))
    x, z = (
        np.asarray(v, np.float64).reshape((len(v), 1, 1, -1) if v.ndim == 2 else v.shape)
        for v in (left, left if right is None else right)
    )

    def inner(a: Array, b: Array) -> Array:
        # Not einsum: the same order of summation everywhere makes correlations of equal images exactly 1.
        return (a[..., :, :, None, None, :] * b[..., None, None, :, :, :]).sum(-1) / x.shape[-1]

    xz = inner(x[:, None], z[None])
    raw = Pairs(inner(x, x), inner(z, z), xz, np.zeros_like(xz), same.astype(bool), x.shape[-1])
    end = step(raw, network)
    assert end.size == (1, 1), f"the network ends in images of {end.size} pixels"
    return end.xz[..., 0, 0, 0, 0], end.tangent[..., 0, 0, 0, 0]


def evaluate_graphs(network: Layer, graphs: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Evaluate NNGP and NTK of graphs, pair by pair; each is its adjacency matrix, (N, N), and features, (N, F)."""
    found = np.empty((2, len(graphs), len(graphs)))
    for row, col in np.ndindex(found.shape[1:]):
        (x_mix, x), (z_mix, z) = (
            (a + np.eye(len(a)), np.asarray(f, np.float64)) for a, f in (graphs[row], graphs[col])
        )

        def inner(a: Array, b: Array) -> Array:
            return (a[:, None] * b[None]).sum(-1)[None, :, None, :, None] / a.shape[1]

        xz = inner(x, z)[None]
        same = np.array([[row == col]])
        raw = Pairs(inner(x, x), inner(z, z), xz, np.zeros_like(xz), same, x.shape[1], (x_mix, z_mix))
        end = step(raw, network)
        found[:, row, col] = end.xz.item(), end.tangent.item()
    return found[0], found[1]


def evaluate_sequences(network: Layer, left: list[Array], right: list[Array]) -> tuple[Array, Array]:
    """Evaluate NNGP and NTK of sequences of any lengths, ``(T, C)`` each, pair by pair, without padding."""
    found = np.empty((2, len(left), len(right)))
    for row, col in np.ndindex(found.shape[1:]):
        x, z = (np.asarray(v, np.float64)[None] for v in (left[row], right[col]))

        def inner(a: Array, b: Array) -> Array:
            return (a[:, :, None, None] * b[None, None]).sum(-1)[None] / a.shape[-1]

        xz = inner(x, z)[None]
        raw = Pairs(inner(x, x), inner(z, z), xz, np.zeros_like(xz), np.array([[False]]), x.shape[-1])
        end = step(raw, network)
        found[:, row, col] = end.xz.item(), end.tangent.item()
    return found[0], found[1]


def evaluate(network: Layer, left: Array, right: Array | None, kind: str) -> Array:
    """Evaluate the kernel of one kind, "nngp" or "ntk"; see `evaluate_both`."""
    return evaluate_both(network, left, right)[{"nngp": 0, "ntk": 1}[kind]]
