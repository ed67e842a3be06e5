"""Which groups are redundant: scores of groups, and the choice of those that an optimiser drives to zero.

OTOv2 (Chen et al., ICLR 2023, section 3.2; arXiv:2303.06862). A group is redundant if it is small and if moving it
towards zero lowers the loss. Scores are normalised over all groups of the network, never by layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SALIENCES = ("cosine+magnitude", "cosine+rms", "cosine", "magnitude", "rms", "random")
_SMALL = 1e-6  # keeps the inverse of a magnitude finite


@dataclass(frozen=True)
class Moments:
    """What scores look at, one entry a group, each of shape (groups,).

    norm: ||x||, speed: ||v||, inner: <x, v>, numbers: how many variables x has. v is the direction against which
    the base optimiser moves x.
    """

    norm: Tensor
    speed: Tensor
    inner: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, x: Tensor, v: Tensor) -> Moments:
        """Of groups with variables `x` and directions `v`, both (groups, numbers)."""
        numbers = torch.full((len(x),), x.shape[1], dtype=x.dtype, device=x.device)
        return cls(x.norm(dim=1), v.norm(dim=1), (x * v).sum(1), numbers)

    @classmethod
    def join(cls, parts: Sequence[Moments]) -> Moments:
        """All groups of `parts`, in their order."""
        fields = ("norm", "speed", "inner", "numbers")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))

    @property
    def cosine(self) -> Tensor:
        """cos(-x, -v): 1 if the step of the base optimiser leads straight to zero. 0 where it is not defined."""
        length = self.norm * self.speed
        return torch.where(length > 0, self.inner / length.clamp(min=1e-30), 0.0)


def redundancy(moments: Moments, salience: str = "cosine+magnitude") -> Tensor:
    """The redundancy of each group, (groups,), high where it can go; `salience` names what it is made of.

    magnitude: inverse of ||x|| / numbers; rms: inverse of ||x|| / sqrt(numbers), which does not favour large
    groups where sizes differ. Each ingredient has Euclidean norm 1 over all groups, and a score is their mean.
    random: uniform, from PyTorch's global generator. Groups that are zero already have the score infinity and take
    no part in the normalisation. ValueError if the salience is unknown.
    """
    if salience not in SALIENCES:
        raise ValueError(f"salience={salience}: known are {', '.join(SALIENCES)}")
    gone = moments.norm == 0
    if salience == "random":
        # On the CPU, so that the draw does not depend on where the groups live.
        return torch.rand(len(gone)).to(moments.norm).masked_fill(gone, math.inf)
    parts = []
    for name in salience.split("+"):
        if name == "cosine":
            part = moments.cosine
        else:
            size = moments.numbers if name == "magnitude" else moments.numbers.sqrt()
            part = 1 / (moments.norm / size + _SMALL)
        part = part.masked_fill(gone, 0.0)
        parts.append(part / part.norm().clamp(min=1e-30))
    return torch.stack(parts).mean(0).masked_fill(gone, math.inf)


def most(groups: int, share: float) -> int:
    """int(groups * share), where rounding errors of the product do not count."""
    return int(groups * share + 1e-9)


def select_redundant(
    scores: Tensor, sizes: Sequence[int], target: float, tolerance: float = 0.05, group_divisible: int = 1
) -> Tensor:
    """The penalised groups as a mask (groups,), from the scores of all components of `sizes` one after the other.

    The int(groups * min(target + tolerance, 0.999)) most redundant ones are candidates. In each component the number
    of kept groups is then rounded to a multiple of `group_divisible`, at least one multiple; components of at most
    `group_divisible` groups stay whole. Where rounding down makes more penalised groups than there were candidates,
    the least redundant multiples are given back, so that there are never more.
    """
    limit = most(len(scores), min(target + tolerance, 0.999))
    candidates = torch.zeros(len(scores), dtype=torch.bool)
    candidates[torch.argsort(scores.cpu(), descending=True, stable=True)[:limit]] = True
    parts = scores.cpu().split(list(sizes))
    keep = []
    for size, chosen in zip(sizes, candidates.split(list(sizes)), strict=True):
        rounded = int((size - int(chosen.sum())) / group_divisible + 0.5)
        whole = size <= group_divisible
        keep.append(size if whole else min(max(rounded, 1) * group_divisible, size))
    ascending = [torch.sort(part, stable=True) for part in parts]
    while sum(sizes) - sum(keep) > limit:
        open_ones = [k for k in range(len(keep)) if keep[k] < sizes[k]]
        k = min(open_ones, key=lambda k: float(ascending[k].values[keep[k]]))
        keep[k] = min(keep[k] + group_divisible, sizes[k])
    redundant = torch.ones(len(scores), dtype=torch.bool)
    for mask, order, number in zip(redundant.split(list(sizes)), ascending, keep, strict=True):
        mask[order.indices[:number]] = False
    return redundant.to(scores.device)


def select_smallest(scores: Tensor, sizes: Sequence[int], target: float) -> Tensor:
    """The ceil(groups * target) groups with the highest scores, as a mask (groups,), none of the components emptied.

    What one-shot pruning takes: where the last group of a component comes up, the next best goes in its place.
    """
    wanted = math.ceil(len(scores) * target - 1e-9)
    left = list(sizes)
    owner = torch.repeat_interleave(torch.arange(len(left)), torch.as_tensor(left)).tolist()
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    for g in torch.argsort(scores.cpu(), descending=True, stable=True).tolist():
        if wanted and left[owner[g]] > 1:
            chosen[g], left[owner[g]], wanted = True, left[owner[g]] - 1, wanted - 1
    return chosen.to(scores.device)
