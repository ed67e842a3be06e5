"""Which paths of a supernet are trained: uniform, strictly fair, the sandwich, and by gradient norm.

A rule gives the paths of one update, sees the gradients after its backward pass, and may change its mind at the end
of an epoch. Everything random draws from the generator that it is given, so that workers with equal generators draw
equal paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairsweep.search_spaces.architectures.base import ATTEMPTS, Architecture
from fairsweep.search_spaces.supernets.base import Supernet
from fairsweep.trainables.tasks.workers import Workers

GRANULARITIES = ("op", "edge_op")


def smoothed(importance: np.ndarray, share: float, floor: float = 0.0) -> np.ndarray:
    """`share` parts of `importance` over its sum, the rest uniform: probabilities of shape (n,), adding up to 1.

    Importance that is 0 everywhere is uniform too. floor: the least probability, kept by mixing in the uniform
    distribution once more (floor * n must not exceed 1).
    """
    n = len(importance)
    uniform = np.full(n, 1 / n)
    total = importance.sum()
    p = share * (importance / total if total > 0 else uniform) + (1 - share) * uniform
    return floor + (1 - n * floor) * p if floor else p


class PathRule:
    """How paths are drawn. `probabilities`: choice -> one an option; `paths`: how many an update has."""

    paths = 1

    def __init__(self, net: Supernet) -> None:
        self.net, self.space = net, net.space
        self.probabilities = {c.name: np.full(len(c.options), 1 / len(c.options)) for c in self.space.choices}

    def sample_paths(self, rng: np.random.Generator) -> list[Architecture]:
        """The paths of one update, each drawn by `probabilities` among the valid ones."""
        return [self.space.sample(rng, self.probabilities) for _ in range(self.paths)]

    def weight(self, path: Architecture) -> float:
        """1 / (number of valid paths * probability of `path` among them): the loss times it is an unbiased estimate of
        the mean loss of all valid paths.

        Invalid draws are drawn anew, which makes every valid path likelier than its options: by the share of draws
        that are valid, here and under the uniform distribution.
        """
        pairs = zip(self.space.choices, path.indices, strict=True)
        of_options = np.prod([1 / (len(c.options) * self.probabilities[c.name][i]) for c, i in pairs])
        return float(of_options) * self.space.acceptance(self.probabilities) / self.space.acceptance()

    def after_backward(self, path: Architecture) -> None:
        """Reads the gradients of `path`, the only one of the update, as the optimiser will see them."""

    def end_epoch(self, share: float, workers: Workers) -> None:
        """Takes the epoch's measurements into the next one's `probabilities`, `share` (0 to 1) of them."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from the end of an epoch."""
        return {"probabilities": {name: torch.from_numpy(p.copy()) for name, p in self.probabilities.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.probabilities = {name: p.numpy().copy() for name, p in state["probabilities"].items()}


class UniformPaths(PathRule):
    """Single path one-shot (Guo et al., ECCV 2020): one path an update, uniform."""


class FairPaths(PathRule):
    """Strict fairness (Chu, Zhang and Xu, FairNAS, ICCV 2021): as many paths an update as a choice has options.

    The options of each choice are permuted anew for every update, so that each is on exactly one of the paths;
    permutations that leave a path without a valid network are drawn again. ValueError if choices differ in their
    number of options, or no permutations are found.
    """

    def __init__(self, net: Supernet) -> None:
        super().__init__(net)
        counts = {len(c.options) for c in self.space.choices}
        if len(counts) != 1:
            raise ValueError(
                f"strategy=fairnas (or sumnas): choices of {self.space.id} have {sorted(counts)} options; must be equal"
            )
        (self.paths,) = counts

    def sample_paths(self, rng: np.random.Generator) -> list[Architecture]:
        for _ in range(ATTEMPTS):
            orders = [rng.permutation(self.paths) for _ in self.space.choices]
            found = [self.space.architecture(indices) for indices in zip(*orders, strict=True)]
            if all(map(self.space.is_valid, found)):
                return found
        raise ValueError(
            f"strategy=fairnas: no {self.paths} valid paths of {self.space.id} in {ATTEMPTS} draws"
        )


class SandwichPaths(PathRule):
    """The sandwich rule (Yu and Huang, ICCV 2019): the largest path, `random` uniform ones, the smallest.

    Size is the number of parameters on the path; among equals the smallest is the first that is valid. ValueError if
    the options of a choice are all of one size, so that none is the largest.
    """

    def __init__(self, net: Supernet, random: int = 2) -> None:
        super().__init__(net)
        self.paths = random + 2
        sizes = option_sizes(net)
        for choice, found in zip(self.space.choices, sizes, strict=True):
            if len(set(found)) == 1 < len(found):
                raise ValueError(
                    f"strategy=sandwich: the options of {choice.name} of {self.space.id} are all of one size; "
                    "must have a largest and a smallest"
                )
        self.largest = self.space.check(self.space.architecture([int(np.argmax(s)) for s in sizes]))
        least = [[i for i, v in enumerate(s) if v == min(s)] for s in sizes]
        candidates = (self.space.architecture(indices) for indices in product(*least))
        self.smallest = next((a for a in candidates if self.space.is_valid(a)), None) or self._search(sizes)

    def _search(self, sizes: list[list[int]]) -> Architecture:
        """The smallest valid path where the least options of every choice give none."""

        def size(a: Architecture) -> int:
            return sum(s[i] for s, i in zip(sizes, a.indices, strict=True))

        return min(self.space.enumerate(), key=size)

    def sample_paths(self, rng: np.random.Generator) -> list[Architecture]:
        drawn = [self.space.sample(rng, self.probabilities) for _ in range(self.paths - 2)]
        return [self.largest, *drawn, self.smallest]


class ImportancePaths(PathRule):
    """Options drawn with probabilities proportional to the norm of their gradient (PA&DA, section 3.2).

    granularity: "op", one distribution for all choices with the same options, as in the paper; "edge_op", one for
        each choice.
    floor: least probability of an option; 0 in the paper.
    ema: weight of a new measurement against the running one; one half in the paper.

    Choices whose options have no parameters, as the inputs of a block, stay uniform. ValueError if no choice has any.
    """

    def __init__(self, net: Supernet, granularity: str = "op", floor: float = 0.0, ema: float = 0.5) -> None:
        super().__init__(net)
        if granularity not in GRANULARITIES:
            raise ValueError(f"granularity={granularity}: must be {' or '.join(GRANULARITIES)}")
        if not 0 < ema <= 1:
            raise ValueError(f"ema={ema}: must be in (0, 1]")
        if not any(net.option_parameters(c.name, o) for c in self.space.choices for o in c.options):
            raise ValueError(
                f"strategy=pa (or pada): options of {self.space.id} are parts of the same weights, and have no "
                "gradients of their own; must be da, sandwich or uniform"
            )
        widest = max(len(c.options) for c in self.space.choices)
        if not 0 <= floor * widest <= 1:
            raise ValueError(f"floor={floor}: must be 0 to 1/{widest}, there are {widest} options")
        self.floor, self.ema = floor, ema
        self.group_of = {
            c.name: c.name if granularity == "edge_op" else "/".join(c.options) for c in self.space.choices
        }
        widths = {self.group_of[c.name]: len(c.options) for c in self.space.choices}
        self.importance = {group: np.zeros(n) for group, n in widths.items()}
        parameters = dict(net.named_parameters())
        self._parameters = {
            (c.name, o): [parameters[name] for name in net.option_parameters(c.name, o)]
            for c in self.space.choices
            for o in c.options
        }

    def indicators(self, path: Architecture) -> dict[str, np.ndarray]:
        """Gradient norm of each option: summed over its parameters, averaged over the choices that took it."""
        pairs = list(zip(self.space.choices, path.indices, strict=True))
        active = [
            [p.grad for p in self._parameters[c.name, c.options[i]] if p.grad is not None] for c, i in pairs
        ]
        norms = _norms([g for gradients in active for g in gradients])
        found = {group: np.zeros(len(g)) for group, g in self.importance.items()}
        times = {group: np.zeros(len(g)) for group, g in self.importance.items()}
        start = 0
        for (choice, option), gradients in zip(pairs, active, strict=True):
            group = self.group_of[choice.name]
            found[group][option] += norms[start : start + len(gradients)].sum()
            times[group][option] += 1
            start += len(gradients)
        return {group: found[group] / np.maximum(times[group], 1) for group in found}

    def after_backward(self, path: Architecture) -> None:
        for group, n in self.indicators(path).items():
            g = self.importance[group]
            self.importance[group] = np.where(n != 0, (1 - self.ema) * g + self.ema * n, g)

    def end_epoch(self, share: float, workers: Workers) -> None:
        for choice in self.space.choices:
            p = smoothed(self.importance[self.group_of[choice.name]], share, self.floor)
            self.probabilities[choice.name] = workers.from_first(torch.from_numpy(p)).numpy()
        self.importance = {group: np.zeros(len(g)) for group, g in self.importance.items()}


def _norms(gradients: Sequence[Tensor]) -> np.ndarray:
    """Euclidean norm of each, read from their device at once."""
    if not gradients:
        return np.zeros(0)
    return torch.stack(torch._foreach_norm(list(gradients))).double().cpu().numpy()


def option_sizes(net: Supernet) -> list[list[int]]:
    """For each choice the parameters that each option has for itself; of superkernels, whose options share theirs,
    the parameters of the blocks that the options are."""
    parameters, choices = dict(net.named_parameters()), net.space.choices
    own = [
        [sum(parameters[name].numel() for name in net.option_parameters(c.name, o)) for o in c.options]
        for c in choices
    ]
    if any(map(any, own)):
        return own
    blocks = {entry.when: int(entry.value) for entry in net.cost_table("params").entries}
    return [[blocks.get(((c.name, o),), 0) for o in c.options] for c in choices]
