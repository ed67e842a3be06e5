"""DHSPG: the dual half-space projected gradient method, and the methods that it is compared with.

OTOv2: Chen, Liang, Ding, Zhu, Zharkov, ICLR 2023, arXiv:2303.06862, algorithm 2; constants and the order of a step
are those of the authors' released code. HSPG is that of OTO, Chen et al., NeurIPS 2021, arXiv:2107.07467.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from fairsweep.search_spaces.pruning.group_sparse import GroupSparse
from fairsweep.search_spaces.pruning.groups import Partition
from fairsweep.search_spaces.pruning.salience import (
    SALIENCES,
    Moments,
    redundancy,
    select_redundant,
    select_smallest,
)


def lambda_bounds(norm: Tensor, speed: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """(lower, upper) of lambda where <x, v> < 0; (0, infinity) elsewhere. All of shape (groups,).

    Above the lower one the step -(v + lambda x / ||x||) shortens x; below the upper one it still lowers the loss to
    first order. upper / lower = 1 / cos(x, v)^2, so the interval is never empty.
    """
    against = inner < 0
    push = torch.where(against, -inner, 1.0)
    safe = torch.where(against, norm, 1.0)
    lower = torch.where(against, push / safe, 0.0)
    upper = torch.where(against, speed.square() * norm / push, math.inf)
    return lower, upper


def adjusted_lambda(
    norm: Tensor, speed: Tensor, inner: Tensor, lmbda: float, amplify: float, hat_coeff: float
) -> Tensor:
    """lambda of each group, (groups,): `lmbda`, and where -v alone would lengthen x as much as it takes."""
    lower, upper = lambda_bounds(norm, speed, inner)
    found = (amplify * lower).clamp(lmbda, lmbda * hat_coeff)
    found = torch.where(found >= upper, (upper + lower) / 2, found)
    return torch.where(inner < 0, found, lmbda)


def half_space(x: Tensor, trial: Tensor, epsilon: float) -> Tensor:
    """`trial` (groups, numbers), and exactly zero where <trial, x> < epsilon ||x||^2 or x is zero already."""
    square = x.square().sum(1)
    leaves = ((trial * x).sum(1) < epsilon * square) | (square == 0)
    return torch.where(leaves[:, None], 0.0, trial)


class DHSPG(GroupSparse):
    """Drives a share of `target` of all groups to exactly zero and trains the rest as the base optimiser does.

    Before step `start` it is the base optimiser. In step `start` it takes the most redundant groups (`salience`,
    `tolerance`, `group_divisible`; see `salience.select_redundant`). From then on, until `target` is reached,
    z = x - lr (v + lambda x / ||x||) for each of them, and x becomes 0 where z has left the half-space of x, else z.

    lmbda_amplify, hat_lmbda_coeff: of `adjusted_lambda`; None: 2 and 10 for SGD, 20 and 1000 for Adam and AdamW.
    lambda_adjust: False gives every group the same lambda. half_space: False never projects, so nothing becomes zero.
    epsilon: in [0, 1); the larger, the earlier is projected. half_space_start: the first step that projects (`start`).
    salience="random" is the baseline that penalises groups drawn blindly.
    """

    # The paper's lmbda is 1e-3 for SGD and 1e-2 for Adam and AdamW, made for 1e5 steps; auto is for shorter training.
    def __init__(
        self,
        base: Optimizer,
        named_parameters: Iterable[tuple[str, Tensor]],
        partition: Partition,
        target: float,
        start: int,
        *,
        salience: str = "cosine+magnitude",
        tolerance: float = 0.05,
        group_divisible: int = 1,
        epsilon: float = 0.95,
        lmbda_amplify: float | None = None,
        hat_lmbda_coeff: float | None = None,
        lambda_adjust: bool = True,
        half_space: bool = True,
        half_space_start: int | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(base, named_parameters, partition, start, **shared)
        if not 0 < target < 1:
            raise ValueError(f"target={target}: must be between 0 and 1, both excluded")
        if salience not in SALIENCES:
            raise ValueError(f"salience={salience}: known are {', '.join(SALIENCES)}")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance={tolerance}: must be at least 0 and below 1")
        if not isinstance(group_divisible, int) or group_divisible < 1:
            raise ValueError(f"group_divisible={group_divisible}: must be an integer, at least 1")
        if not 0 <= epsilon < 1:
            raise ValueError(f"epsilon={epsilon}: must be at least 0 and below 1")
        plain = isinstance(base, SGD)
        self.amplify = (2.0 if plain else 20.0) if lmbda_amplify is None else lmbda_amplify
        self.hat_coeff = (10.0 if plain else 1000.0) if hat_lmbda_coeff is None else hat_lmbda_coeff
        if self.amplify < 1 or self.hat_coeff < 1:
            raise ValueError(
                f"lmbda_amplify={self.amplify}, hat_lmbda_coeff={self.hat_coeff}: both must be at least 1"
            )
        self.target, self.salience, self.tolerance = target, salience, tolerance
        self.group_divisible, self.epsilon, self.lambda_adjust = group_divisible, epsilon, lambda_adjust
        self.projects = half_space
        self.half_space_start = start if half_space_start is None else half_space_start

    def choose(self, moments: Moments) -> Tensor:
        scores = redundancy(moments, self.salience)
        chosen = select_redundant(scores, self.sizes, self.target, self.tolerance, self.group_divisible)
        if int(chosen.sum()) < self.target * self.numbers - 1e-9:
            warnings.warn(
                f"target={self.target}: only {int(chosen.sum())} of {self.numbers} groups can go, because every"
                f" component keeps one (group_divisible={self.group_divisible}); give a larger tolerance",
                stacklevel=2,
            )
        return chosen

    @property
    def reached(self) -> bool:
        """Whether the target is reached: what is left of the redundant groups then trains as all others do."""
        return self.redundant is not None and self.sparsity >= self.target - 1e-9

    def shrink(self, x: Tensor, v: Tensor, after: Tensor, lr: float | Tensor) -> Tensor:
        assert self.weight is not None
        moments = Moments.of(x, v)
        if self.lambda_adjust:
            found = adjusted_lambda(
                moments.norm, moments.speed, moments.inner, self.weight, self.amplify, self.hat_coeff
            )
        else:
            found = torch.full_like(moments.norm, self.weight)
        # after = x - lr v, or with decoupled weight decay somewhat less.
        pull = torch.where(moments.norm > 0, found / moments.norm.clamp(min=1e-30), 0.0)
        trial = after - lr * (pull[:, None] * x)
        if self.projects and self.steps >= self.half_space_start:
            return half_space(x, trial, self.epsilon)
        return torch.where(moments.norm[:, None] > 0, trial, 0.0)


class HSPG(DHSPG):
    """The older method: all groups are penalised with one lambda, to the end; the sparsity is what comes out.

    No component loses its last group: the largest stays.
    """

    def __init__(
        self,
        base: Optimizer,
        named_parameters: Iterable[tuple[str, Tensor]],
        partition: Partition,
        start: int,
        *,
        epsilon: float = 0.95,
        **shared: Any,
    ) -> None:
        super().__init__(
            base, named_parameters, partition, 0.5, start, epsilon=epsilon, lambda_adjust=False, **shared
        )

    def choose(self, moments: Moments) -> Tensor:
        return torch.ones_like(moments.norm, dtype=torch.bool)

    @property
    def reached(self) -> bool:
        return False

    def shrink(self, x: Tensor, v: Tensor, after: Tensor, lr: float | Tensor) -> Tensor:
        return _with_one_left(super().shrink(x, v, after, lr), after, x)


class ProxSGD(GroupSparse):
    """Proximal gradient steps for lambda sum_g ||x_g||: z = x - lr v is shortened by lr lambda, down to zero.

    No projection, no target. A group that is zero may come back. No component loses its last group.
    """

    def choose(self, moments: Moments) -> Tensor:
        return torch.ones_like(moments.norm, dtype=torch.bool)

    def shrink(self, x: Tensor, v: Tensor, after: Tensor, lr: float | Tensor) -> Tensor:
        assert self.weight is not None
        # With several learning rates in a group the proximal point has no closed form: their mean is taken.
        threshold = self.weight * (lr if isinstance(lr, float) else float(lr.mean()))
        norm = after.norm(dim=1, keepdim=True)
        scale = torch.where(norm > threshold, 1 - threshold / norm.clamp(min=1e-30), 0.0)
        return _with_one_left(scale * after, after, after)


def _with_one_left(new: Tensor, after: Tensor, size: Tensor) -> Tensor:
    """`new`, but if all its rows are zero the one with the largest `size` is that of `after`."""
    if not bool((new == 0).all()):
        return new
    new = new.clone()
    largest = int(size.norm(dim=1).argmax())
    new[largest] = after[largest]
    return new


@torch.no_grad()
def prune_smallest(
    partition: Partition, named_parameters: Iterable[tuple[str, Tensor]], target: float
) -> dict[str, list[int]]:
    """One-shot magnitude pruning: zeroes the ceil(`target` * groups) groups of the smallest average magnitude.

    No component loses its last group. Returns the kept groups by the name of their component.
    """
    if not 0 < target < 1:
        raise ValueError(f"target={target}: must be between 0 and 1, both excluded")
    values = dict(named_parameters)
    components = partition.prunable
    vectors = [partition.vectors(c, values) for c in components]
    moments = Moments.join([Moments.of(x, x) for x in vectors])
    sizes = [c.size for c in components]
    chosen = select_smallest(redundancy(moments, "magnitude"), sizes, target)
    kept = {}
    for component, mask in zip(components, chosen.split(sizes), strict=True):
        partition.zero(component, mask.nonzero().flatten(), values)
        kept[component.name] = (~mask).nonzero().flatten().tolist()
    return kept
