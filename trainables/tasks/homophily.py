"""How far the neighbours of a node are of its class, and what goes along with that."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.trainables.tasks.message_passing import Structure


def homophily(graph: Structure, labels: Tensor) -> Tensor:
    """Of each node (n,) the share of its labelled neighbours that have its label; NaN where there is none."""
    classes = int(labels.max()) + 1
    known = labels >= 0
    one_hot = F.one_hot(labels.clamp(min=0), classes).float() * known[:, None]
    around = graph.total.matmul(one_hot)
    own = around.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
    return torch.where(known, own / around.sum(1), torch.nan)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, of the entries where both are numbers; 0 where one of them is constant."""
    both = torch.stack([a, b]).double()[:, ~(a.isnan() | b.isnan())]
    both = both - both.mean(1, keepdim=True)
    sizes = both.norm(dim=1)
    return float(both.prod(0).sum() / sizes.prod()) if both.shape[1] > 1 and sizes.min() > 1e-9 else 0.0
