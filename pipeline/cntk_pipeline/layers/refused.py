"""Layers of other libraries that have no exact kernel, or not one of two inputs alone, and what to take."""

from cntk_pipeline.errors import LayerError

PAGE = "docs/networks.md#layers-that-are-refused"

_BATCHES = "a kernel value would depend on the batches that both inputs are in: take LayerNorm()"
_GATES = (
    "a product of gates over all times has no closed form, and no NTK of it is known: take Recurrent, which has none"
)
_WINDOWS = (
    "the maximum of more than two correlated Gaussians has no closed form: take AvgPool(2), or two pairs with weights "
    "between them, MaxPool((1, 2)), Dense(), MaxPool((2, 1))"
)
_HEADS = (
    "with logits over the root of the number of keys, the attention of finitely many heads is random: take "
    "SelfAttention(), Attend() or LinearAttention()"
)

REFUSED = {
    "BatchNorm": _BATCHES,
    "BatchNorm1d": _BATCHES,
    "BatchNorm2d": _BATCHES,
    "BatchNormalization": _BATCHES,
    "GRU": _GATES,
    "LSTM": _GATES,
    "MaxPool2d": _WINDOWS,
    "MaxPooling2D": _WINDOWS,
    "GlobalMaxPool": _WINDOWS,
    "MultiheadAttention": _HEADS,
    "MultiHeadAttention": _HEADS,
}
"""By the names that users of other libraries try: the reason, and what there is."""


def why_not(name: str) -> str:
    """Say why there is no layer of this name, one of `REFUSED`."""
    return f"there is no layer {name}, since {REFUSED[name]}. {PAGE} says more"


class RefusedLayer(LayerError, AttributeError):
    """A name of `REFUSED` was asked of the package `layers`, which has no such attribute."""


def refused_import(name: str) -> RefusedLayer | None:
    """Give the error of ``from cntk_pipeline.layers import LSTM``, by the full name of what would be a module."""
    room, _, last = name.rpartition(".")
    return RefusedLayer(why_not(last)) if room == __package__ and last in REFUSED else None
