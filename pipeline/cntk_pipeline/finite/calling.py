"""How modules of torch are called for a kernel: as functions of one input, by one thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

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
        With the layer that draws random numbers, takes statistics or changes, or the parameters that NumPy has no real
        numbers for, that lie on a card or have no values yet, and what to do.
    """
    from torch import nn
    from torch.nn.parameter import is_lazy

    for name, values in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(values):
            raise LayerError(f"{name!r} of the module has no values yet: call the module once first")
        if values.device.type != "cpu":
            raise LayerError(
                f"parameters of a module must lie on the processor, which computes kernels, got {name!r} on "
                f"{values.device}: call its cpu() first"
            )
    for name, values in module.named_parameters():
        if not _is_of_numpy(values):
            raise LayerError(
                f"parameters of a module must be of float16, float32 or float64, got {name!r} of {values.dtype}: call "
                "its float() first"
            )

    for name, each in module.named_modules():
        where = f"{type(each).__name__} {name!r}" if name else type(each).__name__
        does = _does_in_training(each) if each.training else None
        if does is not None:
            raise LayerError(f"the module is in training mode, where its {where} {does}: call its eval() first")
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.running_mean is None:
            raise LayerError(
                f"the {where} of the module takes statistics of a batch in each mode: give it track_running_stats=True "
                "and train it, or take another layer"
            )


def _does_in_training(layer: "nn.Module") -> str | None:
    """Say what makes a layer no function of one input in training mode; None if nothing does."""
    from torch import nn
    from torch.nn.utils.parametrizations import _SpectralNorm
    from torch.nn.utils.spectral_norm import SpectralNorm

    dropouts = nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout
    draws = (
        isinstance(layer, nn.RReLU)
        or (isinstance(layer, dropouts) and layer.p > 0)
        or (isinstance(layer, nn.MultiheadAttention | nn.RNNBase) and layer.dropout > 0)
    )
    if draws:
        return "draws random numbers"
    counts = isinstance(layer, nn.modules.batchnorm._BatchNorm) or (
        isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats
    )
    if counts:
        return "takes statistics of a batch"
    hooks = layer._forward_pre_hooks.values()
    if isinstance(layer, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks):
        return "changes the vectors of its spectral norm"
    return None


def require_no_draws(module: "nn.Module", image: Array) -> None:
    """Refuse a module that draws random numbers of torch as it is called, as functions in its forward may.

    Raises
    ------
    LayerError
        If it does, with what to do.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        """Sees the operations of this thread alone: others may draw meanwhile."""

        drew = False

        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if torch.Tag.nondeterministic_seeded not in operation.tags:
                return operation(*args, **(kwargs or {}))
            before = torch.get_rng_state()  # some of these operations draw in training alone
            found = operation(*args, **(kwargs or {}))
            self.drew |= not torch.equal(torch.get_rng_state(), before)
            return found

    before = torch.get_rng_state()
    with torch_by_itself(), Watch() as watch:
        outputs_of(module, image)
    if watch.drew:
        torch.set_rng_state(before)
        raise LayerError(
            "the module draws random numbers as it is called, so that it has no kernel of two inputs alone: call its "
            "eval() first; if that changes nothing, leave out the layer that draws, such as FractionalMaxPool2d"
        )


def outputs_of(module: "nn.Module", image: Array) -> "torch.Tensor":
    """Return what a module makes of one input, (outputs,).

    Raises
    ------
    LayerError
        If that is not one tensor of numbers that NumPy has.
    """
    import torch

    held = (*module.parameters(), *module.buffers())
    dtype = next((each.dtype for each in held if each.is_floating_point()), torch.float64)
    if image.dtype.kind in "iu" and any(isinstance(each, torch.nn.Embedding) for each in module.modules()):
        dtype = torch.int64
    # By itself: the bits of a product of matrices depend on how many inputs go through at once.
    found = module(torch.tensor(image[None], dtype=dtype))
    if not isinstance(found, torch.Tensor):
        raise LayerError(
            f"a module must return one tensor, got {type(found).__name__}: wrap it in one that returns nothing else"
        )
    if not _is_of_numpy(found):
        raise LayerError(
            f"a module must return numbers of float16, float32 or float64, got {found.dtype}: let it compute in one of "
            "these"
        )
    return found.reshape(-1)


def _is_of_numpy(values: "torch.Tensor") -> bool:
    """Say whether NumPy has real numbers of this dtype."""
    import torch

    if values.is_floating_point():
        return values.dtype in (torch.float16, torch.float32, torch.float64)
    return not values.is_complex()


_lock = Lock()
_inside = 0
_before = 0


@contextmanager
def torch_by_itself() -> Iterator[None]:
    """Let torch compute as kernels need it, whatever the caller has set.

    It computes in the calling thread alone: the bits of its sums depend on how many threads share them. It computes
    derivatives also inside ``torch.no_grad()``, where they would all be 0, and in the dtype of the weights also inside
    ``torch.autocast``.
    """
    import torch

    global _inside, _before
    with _lock:
        threads = torch.get_num_threads()  # asked in each thread: the first answer in one takes the number set last
        if _inside == 0:
            _before = threads
        _inside += 1
        torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        with _lock:
            _inside -= 1
            # Of this thread, and of those that torch does not know yet: the others that are inside keep their 1.
            torch.set_num_threads(_before)
