"""The table of translations: for each layer of the algebra, what makes its module."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from cntk_pipeline import layers
from cntk_pipeline.errors import LayerError
from cntk_pipeline.finite.absent import Inputs, Taking, Weighing
from cntk_pipeline.finite.activations import ACTIVATIONS
from cntk_pipeline.finite.drawing import Built, Draw, Drawn, Place
from cntk_pipeline.finite.modules import (
    Affine,
    Attention,
    Concatenation,
    Convolution,
    Embedding,
    LinearHeads,
    Maxout,
    MaxPool,
    Mixing,
    Network,
    Pointwise,
    Pool,
    Product,
    Recurrence,
    Repeated,
    Sum,
)
from cntk_pipeline.finite.nodes import Aggregation, Batch, GraphNetwork, Join
from cntk_pipeline.layers import Layer, Sequential, Shape, Windows
from cntk_pipeline.layers.absent import takes_gaps, takes_padding
from cntk_pipeline.layers.arguments import require_count
from cntk_pipeline.layers.base import read_pair
from cntk_pipeline.layers.reading import read_shape
from cntk_pipeline.layers.recurrent import takes_sequences


def build_network(network: Layer, width: int, input_shape: tuple[int, ...], outputs: int | None, draw: Draw) -> Built:
    """Build a whole network; see `finite.build`."""
    input_shape = read_shape(network, input_shape)
    shape = Shape.of_inputs((1, *input_shape))
    end = network.output_shape(shape)
    batch = Batch() if shape.is_graph else None
    inputs = Inputs(takes_gaps(network)) if takes_padding(network) else None
    place = Place(shape, input_shape[-1], require_count("width", width), batch, inputs)
    steps = network.flattened() if isinstance(network, Sequential) else (network,)
    last = place.width if outputs is None else require_count("outputs", outputs)
    if outputs is not None and not (steps and isinstance(steps[-1], layers.Dense)):
        raise LayerError(
            f"outputs={outputs} is the width of a last layer Dense, but the network ends in "
            f"{steps[-1] if steps else network}: add one"
        )
    widths = [place.width] * (len(steps) - 1) + [last]
    body, channels = _build_chain(steps, place, draw, widths)
    body = _gated(body, replace(place, shape=end))
    whole = Network(body, input_shape, takes_sequences(network)) if batch is None else GraphNetwork(body, batch)
    return whole, channels


def _build_chain(steps: tuple[Layer, ...], place: Place, draw: Draw, widths: list[int]) -> Built:
    modules = []
    for position, (layer, width) in enumerate(zip(steps, widths, strict=True)):
        place = replace(place, width=width)
        try:
            module, channels = _build_layer(layer, place, draw)
        except LayerError as error:
            raise LayerError(f"layer {position} ({type(layer).__name__}): {error}") from None
        modules.append(module)
        place = replace(place, shape=layer.output_shape(place.shape), channels=channels)
    return nn.Sequential(*modules), place.channels


def _build_layer(layer: Layer, place: Place, draw: Draw) -> Built:
    if type(layer) in ACTIVATIONS:
        return Pointwise(ACTIVATIONS[type(layer)](layer)), place.channels
    if type(layer) not in BUILDERS:
        raise LayerError(
            f"{layer} has no finite network: leave it out, or give it a line in BUILDERS in finite/builders.py"
        )
    return BUILDERS[type(layer)](layer, place, draw)


def _dense(layer: layers.Dense, place: Place, draw: Draw) -> Built:
    window = () if place.shape.spatial is None else (1, 1)
    drawn = Drawn.draw(layer, place, window, draw)
    kind: type[Affine] | type[Convolution] = Convolution if window else Affine
    trained = layer.trained and layer.rate > 0
    module = kind(drawn.weight, drawn.bias, scale=drawn.scale, b_scale=drawn.b_scale, trained=trained)
    return module, place.width


def _conv(layer: layers.Conv, place: Place, draw: Draw) -> Built:
    rows, columns = layer.windows(place.shape)
    window = (rows.window, columns.window)
    drawn = Drawn.draw(layer, place, window, draw)
    module = Convolution(
        drawn.weight,
        drawn.bias,
        scale=drawn.scale,
        b_scale=drawn.b_scale,
        strides=(rows.stride, columns.stride),
        pads=(columns.before, _behind(columns), rows.before, _behind(rows)),
        circular=rows.circular,
        trained=layer.trained and layer.rate > 0,
    )
    is_pointwise = all(windows == Windows.single(windows.size) for windows in (rows, columns))
    return module if is_pointwise else _without_absent(module, place), place.width


def _without_absent(module: nn.Module, place: Place, weights: str = "present", scale: float = 1.0) -> nn.Module:
    """Put before a module that joins positions what weighs them, where some may be absent."""
    return module if place.here is None else nn.Sequential(Weighing(place.here, weights, scale=scale), module)


def _gated(module: nn.Module, place: Place) -> nn.Module:
    """Set the module's output to 0 at absent positions; ``place`` describes that output."""
    return module if place.here is None else nn.Sequential(module, Weighing(place.here, "present"))


def _behind(windows: Windows) -> int:
    """Count the positions that the last window reaches beyond the axis."""
    return max((windows.count - 1) * windows.stride + windows.window - windows.size - windows.before, 0)


def _attention(layer: layers.SelfAttention, place: Place, draw: Draw) -> Built:
    query = draw.normal(place.width, place.channels)
    weights = {
        "query": query,
        "key": query.clone(),
        "value": draw.normal(place.width, place.channels),
        "out": draw.normal(place.width, place.width),
        "bias": draw.normal(place.width),
    }
    deviations = {"query": layer.w_query_std, "key": layer.w_key_std, "value": layer.w_value_std}
    scales = {name: deviation / math.sqrt(place.channels) for name, deviation in deviations.items()}
    scales["out"] = layer.w_out_std / math.sqrt(place.width)
    return Attention(weights, scales, b_std=layer.b_std, trained=layer.trained, here=place.here), place.width


def _attend(layer: layers.Attend, place: Place, draw: Draw) -> Built:
    keys, _ = _build_layer(layer.keys, place, draw)
    return Mixing(keys, layer.gain, layer.mechanism, layer.plus_identity, place.here), place.channels


def _linear_attention(layer: layers.LinearAttention, place: Place, draw: Draw) -> Built:
    keys, channels = _build_layer(layer.keys, place, draw)
    weights = {
        "query": draw.normal(place.width, channels),
        "key": draw.normal(place.width, channels),
        "value": draw.normal(place.width, place.channels),
        "out": draw.normal(place.width, place.width),
        "bias": draw.normal(place.width),
    }
    deviations = {"query": layer.w_query_std, "key": layer.w_key_std, "value": layer.w_value_std}
    scales = {name: deviation / math.sqrt(weights[name].shape[1]) for name, deviation in deviations.items()}
    scales["out"] = layer.w_out_std / math.sqrt(place.width)
    module = LinearHeads(keys, weights, scales, b_std=layer.b_std, trained=layer.trained, here=place.here)
    return module, place.width


def _positional_embedding(layer: layers.PositionalEmbedding, place: Place, draw: Draw) -> Built:
    height, width = place.shape.size
    rows, columns = (index.ravel() for index in np.indices((height, width)))
    table = layer.covariance.table(height, width)
    correlation = table[np.subtract.outer(rows, rows) + height - 1, np.subtract.outer(columns, columns) + width - 1]
    values, vectors = np.linalg.eigh(correlation)
    root = layer.w_std * vectors * np.sqrt(np.maximum(values, 0))
    drawn = draw.normal(height * width, place.channels)
    return Embedding(drawn, draw.constant(root), trained=layer.trained), place.channels


def _rescale(layer: layers.Rescale, place: Place, draw: Draw) -> Built:
    factor = math.sqrt(layer.factor(place.shape))
    return Pointwise(lambda x: factor * x), place.channels


def _flatten(layer: layers.Flatten, place: Place, draw: Draw) -> Built:
    positions = math.prod(place.shape.size)
    # An input is divided by the root of its own positions: what follows divides by that of all.
    return _without_absent(nn.Flatten(), place, "root", math.sqrt(positions)), place.channels * positions


def _pool(
    rows: np.ndarray, columns: np.ndarray, place: Place, draw: Draw, vector: bool = False, weights: str = "present"
) -> Built:
    module = Pool(draw.constant(rows), draw.constant(columns), vector)
    return _without_absent(module, place, weights), place.channels


def _windows(layer: layers.AvgPool | layers.MaxPool | layers.SumPool, shape: Shape) -> tuple[Windows, Windows]:
    window = read_pair("window_shape", layer.window_shape)
    strides = window if layer.strides is None else read_pair("strides", layer.strides)
    rows, columns = (Windows.place(*each, layer.padding) for each in zip(shape.size, window, strides, strict=True))
    return rows, columns


def _mean(windows: Windows, normalize_edges: bool) -> np.ndarray:
    return windows.weights(normalize_edges) / (1 if normalize_edges else windows.window)


def _average(windows: tuple[Windows, Windows], normalize_edges: bool, place: Place, draw: Draw) -> Built:
    counted = place.here is not None and normalize_edges
    rows, columns = (each.weights() if counted else _mean(each, normalize_edges) for each in windows)
    module, channels = _pool(rows, columns, place, draw)
    if place.here is not None and counted:  # divided by the positions that are there
        module = nn.Sequential(module, Weighing(place.here, "share", windows))
    return module, channels


def _avg_pool(layer: layers.AvgPool, place: Place, draw: Draw) -> Built:
    return _average(_windows(layer, place.shape), layer.normalize_edges, place, draw)


def _sum_pool(layer: layers.SumPool, place: Place, draw: Draw) -> Built:
    rows, columns = (each.weights() for each in _windows(layer, place.shape))
    return _pool(rows, columns, place, draw)


def _max_pool(layer: layers.MaxPool, place: Place, draw: Draw) -> Built:
    rows, columns = _windows(layer, place.shape)
    pads = (columns.before, _behind(columns), rows.before, _behind(rows))
    return MaxPool((rows.window, columns.window), (rows.stride, columns.stride), pads), place.channels


def _maxout(layer: layers.Maxout, place: Place, draw: Draw) -> Built:
    if place.channels % 2:
        raise LayerError(f"Maxout takes channels by twos, got {place.channels}: take an even width")
    return Maxout(), place.channels // 2


def _local_avg_pool(layer: layers.LocalAvgPool, place: Place, draw: Draw) -> Built:
    rows, columns = (Windows.place(size, 2 * layer.radius + 1, 1, "SAME") for size in place.shape.size)
    return _average((rows, columns), layer.normalize_edges, place, draw)


def _global_avg_pool(layer: layers.GlobalAvgPool, place: Place, draw: Draw) -> Built:
    if place.batch is not None:
        return Join(place.batch, average=True), place.channels
    if place.here is not None:  # each input has its own number of positions
        rows, columns = (Windows.whole(size).weights() for size in place.shape.size)
        return _pool(rows, columns, place, draw, vector=True, weights="mean")
    rows, columns = (_mean(Windows.whole(size), False) for size in place.shape.size)
    return _pool(rows, columns, place, draw, vector=True)


def _global_sum_pool(layer: layers.GlobalSumPool, place: Place, draw: Draw) -> Built:
    if place.batch is not None:
        return Join(place.batch, average=False), place.channels
    rows, columns = (Windows.whole(size).weights() for size in place.shape.size)
    return _pool(rows, columns, place, draw, vector=True)


def _dropout(layer: layers.Dropout, place: Place, draw: Draw) -> Built:
    return nn.Dropout(layer.rate), place.channels


def _identity(layer: layers.Identity, place: Place, draw: Draw) -> Built:
    return nn.Identity(), place.channels


def _residual(layer: layers.Residual, place: Place, draw: Draw) -> Built:
    (branch, channels), (shortcut, others) = _build_branches(layer, place, draw)
    _require_equal(layer, channels, others)
    return Sum(branch, shortcut), channels


def _build_branches(layer: Layer, place: Place, draw: Draw) -> tuple[Built, Built]:
    ends = [replace(place, shape=each.output_shape(place.shape)) for each in layer.inner]
    first, second = (_build_layer(each, place, draw) for each in layer.inner)
    if ends[0].shape.present != ends[1].shape.present:  # each is nothing where it is absent itself
        first, second = (
            (_gated(module, end), width) for (module, width), end in zip((first, second), ends, strict=True)
        )
    return first, second


def _require_equal(layer: Layer, channels: int, others: int) -> None:
    """Refuse branches that have other numbers of channels, though both are infinitely wide in the algebra."""
    if channels != others:
        raise LayerError(
            f"a finite {type(layer).__name__} needs branches of equal width, got {channels} and {others} channels: put "
            "a Dense layer behind what changes the width (Maxout, Concatenate, Flatten)"
        )


def _product(layer: layers.Product, place: Place, draw: Draw) -> Built:
    (branch, channels), (gate, others) = _build_branches(layer, place, draw)
    _require_equal(layer, channels, others)
    return Product(branch, gate), channels


def _concatenate(layer: layers.Concatenate, place: Place, draw: Draw) -> Built:
    (first, channels), (second, others) = _build_branches(layer, place, draw)
    total = channels + others
    scales = math.sqrt(layer.share * total / channels), math.sqrt((1 - layer.share) * total / others)
    return Concatenation(first, second, scales), total


def _aggregate(layer: layers.Aggregate | layers.GraphConv, place: Place, draw: Draw) -> Built:
    assert place.batch is not None  # other inputs are refused by the layer
    return Aggregation(place.batch, average=layer.scaling == "degree"), place.channels


def _graph_conv(layer: layers.GraphConv, place: Place, draw: Draw) -> Built:
    aggregation, _ = _aggregate(layer, place, draw)
    weights = layers.Dense(w_std=layer.w_std, b_std=layer.b_std, trained=layer.trained)
    module, channels = _dense(weights, place, draw)
    return nn.Sequential(aggregation, module), channels


def _padded(layer: layers.Padded | layers.Masked, place: Place, draw: Draw) -> Built:
    assert place.inputs is not None  # it is the first layer of the network, or is refused
    return Taking(place.inputs), place.channels


def _repeat(layer: layers.Repeat, place: Place, draw: Draw) -> Built:
    blocks, widths = [], [place.channels]
    for _ in range(layer.times):
        block, channels = _build_layer(layer.block, replace(place, channels=widths[-1]), draw)
        if layer.inject:
            _require_equal(layer, channels, place.channels)
        blocks.append(block)
        widths.append(channels)
    if not layer.jump:
        return Repeated(blocks, layer.inject), widths[-1]
    total = sum(widths)  # what follows divides by it, and each covariance counts in full
    return Repeated(blocks, layer.inject, [math.sqrt(total / channels) for channels in widths]), total


def _recurrent(layer: layers.Recurrent, place: Place, draw: Draw) -> Built:
    if type(layer.activation) not in ACTIVATIONS:
        raise LayerError(f"a finite Recurrent layer has no activation {layer.activation}: take another one")
    weights = {
        "recurrent": draw.normal(place.width, place.width),
        "input": draw.normal(place.width, place.channels),
        "bias": draw.normal(place.width),
    }
    scales = {
        "recurrent": layer.w_std / math.sqrt(place.width),
        "input": layer.u_std / math.sqrt(place.channels),
        "bias": layer.b_std,
    }
    function = ACTIVATIONS[type(layer.activation)](layer.activation)
    module = Recurrence(weights, scales, function, backward=layer.backward, trained=layer.trained, here=place.here)
    return module, place.width


def _bidirectional(layer: layers.Bidirectional, place: Place, draw: Draw) -> Built:
    return _concatenate(layers.Concatenate(*layer.directions), place, draw)


def _last_state(layer: layers.LastState, place: Place, draw: Draw) -> Built:
    steps = place.shape.size[1]
    if place.here is not None and not layer.backward:  # the last step of each sequence
        return _pool(np.eye(1), np.ones((1, steps)), place, draw, vector=True, weights="last")
    kept = np.eye(steps)[[0 if layer.backward else steps - 1]]
    return _pool(np.eye(1), kept, place, draw, vector=True)


def _sequential(layer: Sequential, place: Place, draw: Draw) -> Built:
    return _build_chain(layer.layers, place, draw, [place.width] * len(layer.layers))


BUILDERS: dict[type[Layer], Callable[[Any, Place, Draw], Built]] = {
    layers.Conv: _conv,
    layers.Dense: _dense,
    layers.Rescale: _rescale,
    layers.SelfAttention: _attention,
    layers.Attend: _attend,
    layers.LinearAttention: _linear_attention,
    layers.PositionalEmbedding: _positional_embedding,
    layers.AvgPool: _avg_pool,
    layers.SumPool: _sum_pool,
    layers.MaxPool: _max_pool,
    layers.Maxout: _maxout,
    layers.LocalAvgPool: _local_avg_pool,
    layers.GlobalAvgPool: _global_avg_pool,
    layers.GlobalSumPool: _global_sum_pool,
    layers.Flatten: _flatten,
    layers.Dropout: _dropout,
    layers.Identity: _identity,
    layers.Residual: _residual,
    layers.Product: _product,
    layers.Concatenate: _concatenate,
    layers.Repeat: _repeat,
    layers.Recurrent: _recurrent,
    layers.Bidirectional: _bidirectional,
    layers.LastState: _last_state,
    layers.Padded: _padded,
    layers.Masked: _padded,
    layers.Aggregate: _aggregate,
    layers.GraphConv: _graph_conv,
    Sequential: _sequential,
}
"""For each layer that is no activation, what makes its module of the layer, its place and a source of weights."""
