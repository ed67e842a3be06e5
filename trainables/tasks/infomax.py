"""Representations of nodes without labels: they are told from those of shuffled features by summaries of views.

Deep Graph Infomax (Velickovic et al., ICLR 2019) with several views, as in Li et al., KDD 2022.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.tasks.message_passing import Features, product
from fairsweep.trainables.tasks.sparse import SparseMatrix

WAIT = 20  # epochs without a smaller loss that end the training


class Contrast(nn.Module):
    """One GCN layer (PReLU), and a bilinear critic of node and summary (as in Deep Graph Infomax)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, width)))
        self.bias, self.act = nn.Parameter(torch.zeros(width)), nn.PReLU()
        self.critic = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, width, width))[0])
        self.offset = nn.Parameter(torch.zeros(()))

    def encode(self, xw: Tensor, matrix: SparseMatrix) -> Tensor:
        """States (n, d) of the features times `weight`."""
        return self.act(matrix.matmul(xw) + self.bias)

    def loss(self, x: Features, matrix: SparseMatrix, views: list[SparseMatrix]) -> Tensor:
        """Cross-entropy of telling nodes from those of shuffled features by the summaries of the views.

        A node's logits for the views are added up, as in the authors' code; one shuffle serves all.
        """
        xw = product(x, self.weight)
        shuffled = xw[torch.randperm(len(xw), device=xw.device)]
        summaries = [torch.sigmoid(self.encode(xw, view).mean(0)) for view in views]
        judge = self.critic @ sum(summaries)
        true, false = (self.encode(h, matrix) @ judge + len(views) * self.offset for h in (xw, shuffled))
        logits = torch.cat([true, false])
        return F.binary_cross_entropy_with_logits(
            logits, torch.cat([torch.ones_like(true), torch.zeros_like(false)])
        )


def contrasted(
    x: Features, matrix: SparseMatrix, views: list[SparseMatrix], inputs: int, width: int, epochs: int
) -> Tensor:
    """(n, width): the states with the least loss of at most `epochs` epochs."""
    net = Contrast(inputs, width).to(matrix.values.device)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    best, waited, kept = math.inf, 0, net.state_dict()
    for _ in range(epochs):
        loss = net.loss(x, matrix, views)
        value = loss.item()
        best, waited = (value, 0) if value < best else (best, waited + 1)
        if not waited:
            kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        elif waited == WAIT:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.load_state_dict(kept)
    with torch.no_grad():
        return net.encode(product(x, net.weight), matrix)
