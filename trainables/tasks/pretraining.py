"""What pre-training is worth, measured: a GIN learns to tell links on some graphs and is then tuned on few others."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.datasets.packed_graphs import Domain
from fairsweep.trainables.tasks.batch_structure import BatchStructure
from fairsweep.trainables.tasks.graphons import adjacency
from fairsweep.trainables.tasks.message_passing import Layers

WIDTH, DEPTH, LR = 32, 2, 5e-3
PRETRAIN, FINETUNE = 60, 30  # full-batch steps of Adam


class Graphs:
    """The graphs of a domain as one, on a device. x: (n, 2), a constant and log(1 + degree). target: (n,), log(1 +
    triangles) of each node, less the mean and over the deviation in `scale`, their own where none is given. of: (n,),
    the graph of each."""

    def __init__(self, domain: Domain, device: str, scale: tuple[float, float] | None = None) -> None:
        start = np.repeat(np.cumsum(domain.nodes) - domain.nodes, domain.edges)
        n, ends = int(domain.nodes.sum()), domain.ends + start
        matrix = adjacency(ends, n)
        degree = np.asarray(matrix.sum(1)).ravel()
        triangles = np.asarray((matrix @ matrix).multiply(matrix).sum(1)).ravel() / 2
        told = np.log1p(triangles)
        self.scale = (float(told.mean()), float(told.std()) or 1.0) if scale is None else scale
        told = (told - self.scale[0]) / self.scale[1]

        def move(array: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(array, dtype=dtype, device=device)

        self.x = move(np.stack([np.ones(n), np.log1p(degree)], axis=1))
        self.target, self.ends = move(told), move(ends, torch.int64)
        self.of = move(np.repeat(np.arange(len(domain)), domain.nodes), torch.int64)
        self.nodes = move(domain.nodes, torch.int64)
        self.structure = BatchStructure(self.ends, n)


def encoder() -> nn.Module:
    """GIN layers on the features of `Graphs`."""
    return Layers("gin", [2, *[WIDTH] * DEPTH], norm=True)


def pretrained(net: nn.Module, graphs: Graphs) -> nn.Module:
    """A copy of `net` that has learned to tell the links of `graphs` from as many random pairs of one graph, by the
    product of the ends' states."""
    net = copy.deepcopy(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=LR)
    start = graphs.nodes.cumsum(0) - graphs.nodes
    owner = graphs.of[graphs.ends[0]]
    net.train()
    for _ in range(PRETRAIN):
        drawn = torch.rand(2, len(owner), device=graphs.x.device) * graphs.nodes[owner]
        pairs = torch.cat([graphs.ends, start[owner] + drawn.long()], dim=1)
        u, v = F.normalize(net(graphs.x, graphs.structure), dim=1)[pairs]
        labels = torch.zeros(pairs.shape[1], device=graphs.x.device)
        labels[: len(owner)] = 1
        loss = F.binary_cross_entropy_with_logits(5 * (u * v).sum(1), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def tuned(net: nn.Module, head: nn.Module, few: Graphs, held: Graphs) -> float:
    """R^2 on `held` of the triangles at nodes, after copies of `net` and `head` were trained on `few`."""
    net, head = copy.deepcopy(net), copy.deepcopy(head)
    optimiser = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=LR)
    net.train()
    for _ in range(FINETUNE):
        loss = F.mse_loss(head(torch.relu(net(few.x, few.structure))).squeeze(1), few.target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    with torch.no_grad():
        found = head(torch.relu(net(held.x, held.structure))).squeeze(1)
    spread = held.target.var(correction=0)
    return float(1 - F.mse_loss(found, held.target) / spread) if spread > 0 else 0.0


def gains(
    sources: Sequence[Domain], few: Sequence[Domain], held: Sequence[Domain], device: str = "cpu"
) -> np.ndarray:
    """(sources, downstream): by how much R^2 on `held` is higher after pre-training on a source than without it, both
    tuned on `few`, from the same initial weights. What is random draws from PyTorch's global generator."""
    start, head = encoder().to(device), nn.Linear(WIDTH, 1).to(device)
    nets = [pretrained(start, Graphs(source, device)) for source in sources]
    found = np.empty((len(sources), len(few)))
    for j, pair in enumerate(zip(few, held, strict=True)):
        tune_on = Graphs(pair[0], device)
        # By what is known before the test: a network that is wrong by a constant has to be seen to be.
        test_on = Graphs(pair[1], device, tune_on.scale)
        scratch = tuned(start, head, tune_on, test_on)
        found[:, j] = [tuned(net, head, tune_on, test_on) - scratch for net in nets]
    return found
