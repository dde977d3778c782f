"""Finite networks on graphs: the nodes of a batch are the columns of images of one row, up to those of the largest."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from cntk_pipeline.finite.modules import require_tensor, told_dtypes
from cntk_pipeline.graphs import unpack


@dataclass(eq=False)
class Batch:
    """The graphs that a network is given at the moment; its modules that join nodes look here.

    Attributes
    ----------
    adjacency : torch.Tensor, (n, nodes, nodes)
        1 on the diagonal of each node that is there.
    present : torch.Tensor, (n, nodes)
        1 for a node that is there, 0 for those that fill up smaller graphs.
    """

    adjacency: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    present: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def take(self, packed: torch.Tensor) -> torch.Tensor:
        """Take packed graphs, (n, 1, 1, rows, F); return the features of their nodes, (n, F, 1, nodes)."""
        graphs = unpack(packed.detach().cpu().numpy())
        largest, width = int(graphs.sizes.max()), packed.shape[-1]
        adjacency = np.zeros((len(graphs), largest, largest))
        present = np.arange(largest) < graphs.sizes[:, None]
        features = np.zeros((len(graphs), largest, width))
        features[present] = graphs.features
        owner, own = np.nonzero(present)
        adjacency[owner, own, own] = 1
        begins = np.repeat(np.arange(len(owner)), graphs.degrees)
        adjacency[owner[begins], own[begins], graphs.neighbours] = 1
        self.adjacency, self.present = packed.new_tensor(adjacency), packed.new_tensor(present)
        return packed.new_tensor(features).mT[:, :, None]


class Aggregation(nn.Module):
    """The sum over each node and its neighbours, or the mean."""

    def __init__(self, batch: Batch, average: bool) -> None:
        super().__init__()
        self._batch, self._average = batch, average

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self._batch.adjacency[:, None]
        found = x @ weights
        return found / weights.sum(-1, keepdim=True).mT.clamp(min=1) if self._average else found


class Join(nn.Module):
    """The sum over the nodes of each graph, or the mean: vectors."""

    def __init__(self, batch: Batch, average: bool) -> None:
        super().__init__()
        self._batch, self._average = batch, average

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        present = self._batch.present[:, None, None]
        total = (x * present).sum((2, 3))
        return total / present.sum((2, 3)) if self._average else total


class GraphNetwork(nn.Module):
    """A whole network; takes packed graphs, (n, 1, 1, rows, F), and returns vectors, (n, channels).

    Of a network that does not join the nodes it returns what is at the nodes, (n, nodes, channels), zeros behind
    those of smaller graphs.
    """

    def __init__(self, body: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.body, self._batch = body, batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        require_tensor(x)
        with told_dtypes(self, x):
            found: torch.Tensor = self.body(self._batch.take(x))
        return (found * self._batch.present[:, None, None])[:, :, 0].mT if found.ndim == 4 else found
