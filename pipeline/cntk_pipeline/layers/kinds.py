"""The two kernels of a network, and which networks have them."""

from dataclasses import fields

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.layers.absent import takes_padding
from cntk_pipeline.layers.base import Layer, Shape

KINDS = ("nngp", "ntk")


def require_kind(network: Layer, kind: str, input_shape: tuple[int, ...]) -> None:
    """Refuse a network that has no kernel of a kind.

    Parameters
    ----------
    kind : str
        "nngp" or "ntk".
    input_shape : tuple of int
        Of one input, (H, W, C) or (features,).

    Raises
    ------
    LayerError
        If the network does not accept the shape, ends in an image, has no NTK where one is asked for, has a `Padded` or
        `Masked` that is not its first layer, or the kind is unknown.
    """
    if kind not in KINDS:
        raise LayerError(f'a kernel is "nngp" or "ntk", got kind={short_repr(kind)}')
    takes_padding(network)
    if kind == "ntk":
        _require_ntk(network)
    end = network.output_shape(Shape.of_inputs((1, *input_shape)))
    if end.is_graph:
        raise LayerError(
            f"the network ends in the nodes of graphs, {end}: end it with GlobalSumPool() or GlobalAvgPool()"
        )
    if end.spatial is not None:
        raise LayerError(
            f"the network ends in images of shape {end}: end it with Flatten() or GlobalAvgPool(), then Dense()"
        )


def kinds_of(network: Layer) -> tuple[str, ...]:
    """Return the kernels that a network has; the NNGP comes first."""
    return KINDS if all(layer.has_ntk for layer in network.walk()) else ("nngp",)


def _require_ntk(layer: Layer, place: str = "") -> None:
    """Refuse a layer behind which there is no NTK, with its position."""
    if not layer.has_ntk:
        raise LayerError(f'{place}{layer} has no NTK, only an NNGP: ask for kind="nngp", or take a smooth activation')
    for position, inner in enumerate(layer.inner):
        field = next((f.name for f in fields(layer) if getattr(layer, f.name) is inner), "")  # type: ignore[arg-type]
        name = field or f"layer {position} ({type(inner).__name__})"
        _require_ntk(inner, f"{place}{name}: ")
