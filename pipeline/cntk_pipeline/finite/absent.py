"""Finite networks on inputs with absent positions: sequences of unequal lengths, and images with absent pixels."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from cntk_pipeline.layers.presence import Gate, Presence
from cntk_pipeline.layers.windows import Windows
from cntk_pipeline.sequences import read_presence


@dataclass(eq=False)
class Inputs:
    """The inputs that a network is given at the moment; its modules that join positions look here.

    Attributes
    ----------
    anywhere : bool
        Whether any pixel may be absent; otherwise they are sequences.
    present : bool array, (n, H, W)
        Which pixels are there.
    """

    anywhere: bool
    present: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), bool))

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """Take images (n, C, H, W) whose absent pixels hold NaN; return them with 0 there."""
        self.present = read_presence("x", x.detach().permute(0, 2, 3, 1).cpu().numpy(), self.anywhere)
        return torch.where(torch.isnan(x), torch.zeros_like(x), x)


@dataclass(frozen=True)
class Here:
    """The positions of an image somewhere in a network.

    Attributes
    ----------
    inputs : Inputs
        Of the network.
    presence : Presence
        Which pixels of them tell of the positions.
    size : (int, int)
        Height and width.
    """

    inputs: Inputs
    presence: Presence
    size: tuple[int, int]

    def flags(self, device: torch.device) -> torch.Tensor:
        """Tell which positions are there, (n, H, W) bool."""
        return torch.tensor(self.presence.select(self.inputs.present, self.size), device=device)


class Taking(nn.Module):
    """The first layer: puts 0 at absent pixels and remembers where they are."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self._inputs = inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._inputs.take(x)


class Weighing(nn.Module):
    """Multiplies each position by a number.

    Parameters
    ----------
    here : Here
        The positions; of weights "share", those before the windows.
    weights : str
        The kind of number, as in `Gate`.
    windows : (Windows, Windows), optional
        Along rows and along columns; for weights "share" alone.
    scale : float
        Multiplies it.
    """

    def __init__(
        self, here: Here, weights: str, windows: tuple[Windows, Windows] | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        self._inputs, self._size, self._gate = here.inputs, here.size, Gate(weights, here.presence, windows)
        self._scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.new_tensor(self._scale * self._gate.evaluate(self._inputs.present, self._size))[:, None]
