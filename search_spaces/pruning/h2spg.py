"""H2SPG: which chains of operators can go is settled one by one, each time with a look at the whole network.

OTOv3: Chen, Ding, Zhu, Chen, Wu, Zharkov, Liang, arXiv:2312.09411, section 4. A group is a whole chain here. The
closure over orphans is ours: a chain whose input has vanished would still emit a constant of its normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fairsweep.search_spaces.pruning.dhspg import DHSPG
from fairsweep.search_spaces.pruning.groups import Partition
from fairsweep.search_spaces.pruning.salience import Moments, redundancy

Validity = Callable[[frozenset[str]], bool]
Closure = Callable[[frozenset[str]], frozenset[str]]


def hierarchical_search(
    names: Sequence[str],
    scores: Sequence[float],
    count: int,
    is_valid: Validity | None,
    orphans: Closure | None = None,
) -> frozenset[str]:
    """The chains to erase: greedily, from the highest score down, until there are `count`.

    is_valid: whether the network without these chains still leads from its input to all its outputs. A chain with
    which it does not is kept; None takes all (no hierarchy).
    orphans: the chains that the input reaches no more without these. After each choice they go as well, so there can
    be more than `count` in the end, and where all others must stay there are fewer.
    """
    erased: frozenset[str] = frozenset()
    # Ties go to the earlier name.
    for k in sorted(range(len(names)), key=lambda k: -scores[k]):
        if len(erased) >= count:
            break
        tried = erased | {names[k]}
        if is_valid is None or is_valid(tried):
            erased = tried if orphans is None else tried | orphans(tried)
    return erased


class H2SPG(DHSPG):
    """Erases whole chains: the redundant set comes from `hierarchical_search` in step `start` and is then fixed.

    partition: every component is one chain, with one group that holds all its variables.
    target: the share of chains to erase; round(target * chains), at least one, are sought.
    is_valid, orphans: of `hierarchical_search`, over names of components. orphan_closure: False ignores `orphans`.
    hierarchy: False ignores both, and the most redundant go, as they would in DHSPG.

    All chains of the set are penalised until each is exactly zero; there is nothing to stop before.
    """

    def __init__(
        self,
        base: Optimizer,
        named_parameters: Iterable[tuple[str, Tensor]],
        partition: Partition,
        target: float,
        start: int,
        *,
        is_valid: Validity,
        orphans: Closure | None = None,
        hierarchy: bool = True,
        orphan_closure: bool = True,
        **rest: Any,
    ) -> None:
        if not 0 < target <= 1:
            raise ValueError(f"target={target}: must be above 0, and at most 1")
        super().__init__(base, named_parameters, partition, 0.5, start, **rest)
        several = [c.name for c in self.components if c.size != 1]
        if several:
            raise ValueError(f"partition: {', '.join(several)} has more than one group; a chain is one group")
        if hierarchy and orphan_closure and orphans is None:
            raise ValueError("orphans=None: give the closure, or orphan_closure=False")
        self.target = target
        self.is_valid = is_valid if hierarchy else None
        self.orphans = orphans if hierarchy and orphan_closure else None

    def choose(self, moments: Moments) -> Tensor:
        names = [component.name for component in self.components]
        scores = redundancy(moments, self.salience).tolist()
        count = max(1, int(self.target * len(names) + 0.5))
        erased = hierarchical_search(names, scores, count, self.is_valid, self.orphans)
        return torch.tensor([name in erased for name in names], device=self.device)

    @property
    def reached(self) -> bool:
        """Whether every chain of the redundant set is zero."""
        return self.redundant is not None and bool((self.zero == self.redundant).all())

    def erased(self) -> frozenset[str]:
        """The chains that are exactly zero by now."""
        return frozenset(c.name for c, gone in zip(self.components, self.zero.tolist(), strict=True) if gone)

    def chosen(self) -> frozenset[str]:
        """The redundant set; empty before step `start`."""
        if self.redundant is None:
            return frozenset()
        chosen = self.redundant.tolist()
        return frozenset(c.name for c, going in zip(self.components, chosen, strict=True) if going)
