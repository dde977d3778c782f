"""How modules of torch are called for a kernel: as functions of one input, by one thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from cntk_pipeline.errors import LayerError

if TYPE_CHECKING:
    import torch
    from torch import nn

Array = np.ndarray


def require_steady(module: "nn.Module") -> None:
    """Refuse a module whose outputs are no function of one input, or that changes as it is called.

    Raises
    ------
    LayerError
        With the layer that draws random numbers or takes statistics, or the parameters that NumPy has no real numbers
        for or that lie on a card, and what to do.
    """
    import torch
    from torch import nn

    for name, values in module.named_parameters():
        if values.is_complex() or values.dtype == torch.bfloat16:
            raise LayerError(
                f"parameters of a module must be of float16, float32 or float64, got {name!r} of {values.dtype}: call "
                "its float() first"
            )
        if values.device.type != "cpu":
            raise LayerError(
                f"parameters of a module must lie on the processor, which computes kernels, got {name!r} on "
                f"{values.device}: call its cpu() first"
            )

    dropouts = nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout
    batches = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
    instances = nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d
    for name, each in module.named_modules():
        draws = (
            isinstance(each, nn.RReLU)
            or (isinstance(each, dropouts) and each.p > 0)
            or (isinstance(each, nn.MultiheadAttention | nn.RNNBase) and each.dropout > 0)
        )
        counts = isinstance(each, batches) or (isinstance(each, instances) and each.track_running_stats)
        if each.training and (draws or counts):
            does = "draws random numbers" if draws else "takes statistics of a batch"
            where = f"{type(each).__name__} {name!r}" if name else type(each).__name__
            raise LayerError(f"the module is in training mode, where its {where} {does}: call its eval() first")


def outputs_of(module: "nn.Module", image: Array) -> "torch.Tensor":
    """Return what a module makes of one input, (outputs,).

    Raises
    ------
    LayerError
        If that is not one tensor.
    """
    import torch

    dtype = next((each.dtype for each in module.parameters()), torch.float64)
    if image.dtype.kind in "iu" and any(isinstance(each, torch.nn.Embedding) for each in module.modules()):
        dtype = torch.int64
    # By itself: the bits of a product of matrices depend on how many inputs go through at once.
    found = module(torch.tensor(image[None], dtype=dtype))
    if not isinstance(found, torch.Tensor):
        raise LayerError(
            f"a module must return one tensor, got {type(found).__name__}: wrap it in one that returns nothing else"
        )
    return found.reshape(-1)


_lock = Lock()
_inside = 0
_before = 0


@contextmanager
def torch_by_itself() -> Iterator[None]:
    """Let torch compute as kernels need it, whatever the caller has set.

    It computes in the calling thread alone: the bits of its sums depend on how many threads share them. It computes
    derivatives also inside ``torch.no_grad()``, where they would all be 0.
    """
    import torch

    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_before)
