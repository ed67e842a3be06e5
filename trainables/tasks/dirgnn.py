"""DirGNN: message passing with weights of their own for both directions of the arcs.

Rossi et al., Edge Directionality Improves Learning on Heterophilic Graphs, LoG 2023; the form "dir-gcn" with
alpha = 1/2 and the maximum over the layers of github.com/emalgorithm/directed-graph-neural-network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from fairsweep.trainables.tasks.message_passing import Features, product
from fairsweep.trainables.tasks.sparse import SparseMatrix, dropout


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """As `nn.Linear` draws weights and biases."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class DirGNN(nn.Module):
    """h' = ReLU((P h W + b + P^T h V + c) / 2) with P = D_out^-1/2 A D_in^-1/2; the largest over the layers goes to a
    linear one, which gives logits (n, C).

    config: hidden, num_layers, dropout on the hidden states.
    """

    def __init__(self, inputs: int, classes: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, self.drop = config["hidden"], config["dropout"]
        fans = [inputs] + [hidden] * (config["num_layers"] - 1)
        self.weights = nn.ParameterList(uniform(a, 2 * hidden, fan_in=a) for a in fans)
        self.biases = nn.ParameterList(uniform(2, hidden, fan_in=a) for a in fans)
        self.out = nn.Linear(hidden, classes)

    @staticmethod
    def ways(arcs: sp.csr_matrix, device: str) -> list[SparseMatrix]:
        """P and its transpose, for `forward`."""
        scale = [np.power(np.maximum(np.asarray(arcs.sum(axis)).ravel(), 1), -0.5) for axis in (1, 0)]
        forth = sp.csr_matrix(sp.diags(scale[0]) @ arcs @ sp.diags(scale[1]))
        return [SparseMatrix(forth, device), SparseMatrix(forth.T.tocsr(), device)]

    def forward(self, x: Features, ways: Sequence[SparseMatrix]) -> Tensor:
        states: list[Tensor] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            parts = product(states[-1] if states else x, weight).chunk(2, 1)
            both = [way.matmul(part.contiguous()) for way, part in zip(ways, parts, strict=True)]
            h = torch.relu((both[0] + both[1] + bias.sum(0)) / 2)
            states.append(dropout(h, self.drop, self.training))
        return self.out(torch.stack(states).amax(0))
