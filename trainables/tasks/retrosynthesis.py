"""Retrosynthesis: targets, templates and stock, the AND-OR tree, planners to plug a policy into, and metrics.

A planner is a generator: it yields the molecule that it wants expanded, and goes on when the model knows
its candidates. Many searches advance together, so that their molecules make one batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fairsweep.trainables.base import Metric
from fairsweep.trainables.datasets import synthetic_strings as strings
from fairsweep.trainables.parts import Members

METRICS = (
    Metric("val_success", "max", "validation", "fraction"),
    Metric("val_calls", "min", "validation", "model calls"),
    Metric("train_success", "max", "train", "fraction"),
    Metric("test_success", "max", "test", "fraction"),
    Metric("test_calls", "min", "test", "model calls"),
    Metric("test_length", "min", "test", "reactions"),
)
LOADERS = strings.LOADERS
_Network = Callable[[Tensor], tuple[Tensor, Tensor]]


class RetrosynthesisTask:
    """One world of molecules on one device; training targets are drawn from `rng`."""

    def __init__(self, name: str, data_dir: Path | None, device: str, rng: np.random.Generator) -> None:
        self.world = strings.load(name, data_dir)
        self.device, self.rng = device, rng
        self.stock, self.calls = self.world.stock, self.world.calls
        self.targets = {"validation": self.world.validation, "test": self.world.test}
        self.inputs, self.templates = strings.INPUTS, len(strings.TEMPLATES)
        self._held_out = frozenset(self.world.validation + self.world.test) | self.stock

    def members(self) -> Members:
        """Targets to validate and to test by; those to train on are drawn anew in each round."""
        return Members("strings", {part: np.array(found) for part, found in self.targets.items()})

    def draw_targets(self, count: int) -> tuple[str, ...]:
        """`count` different training targets; no validation or test target and no stock is among them."""
        room = sum(3**n for n in range(self.world.lengths[0], self.world.lengths[1] + 1)) - len(
            self._held_out
        )
        if not 1 <= count <= room:
            raise ValueError(
                f"batch_molecules={count}: must be in 1..{room}, the targets of {self.world.name}"
            )
        return strings.draw_distinct(self.rng, count, self.world.lengths, self._held_out)

    def draw_reactions(self, count: int) -> tuple[Tensor, Tensor]:
        """Data of single steps: fingerprints (count, inputs) of random molecules of any length from two letters
        on, and the applicable templates (count, templates) as weights 0 and 1."""
        molecules = [strings.draw_string(self.rng, 2, self.world.lengths[1]) for _ in range(count)]
        applicable = [
            [float(self.reactants(t, m) is not None) for t in range(self.templates)] for m in molecules
        ]
        return self.fingerprints(molecules), torch.tensor(applicable, device=self.device)

    @staticmethod
    def reactants(template: int, molecule: str) -> tuple[str, ...] | None:
        """The different reactants of `template` applied to `molecule`; None if it does not apply."""
        return strings.reactants(template, molecule)

    def fingerprints(self, molecules: Sequence[str]) -> Tensor:
        """(molecules, inputs), float32."""
        rows = np.array([strings.fingerprint(m) for m in molecules], np.float32).reshape(-1, self.inputs)
        # A copy: products depend in the last digit on where NumPy's memory is aligned, PyTorch's always is.
        return torch.tensor(rows, device=self.device)


def train_single_step(net: nn.Module, task: RetrosynthesisTask) -> None:
    """Trains `net` (n, inputs) -> (n, templates) to predict which reaction a molecule was made by.

    300 steps of Adam at 1e-3 on batches of 128; every applicable template is equally probable.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    x, applicable = task.draw_reactions(4096)
    for _ in range(300):
        chosen = torch.randint(len(x), (128,)).to(task.device)
        optimiser.zero_grad()
        cross_entropy(net(x[chosen]), applicable[chosen].multinomial(1).squeeze(1)).backward()
        optimiser.step()
    optimiser.zero_grad()  # what is left would count in the norm by which later gradients are clipped


@dataclass(frozen=True)
class Candidate:
    """A reaction that the single-step model proposes: template, reactants, probability among the proposals."""

    template: int
    reactants: tuple[str, ...]
    probability: float


def propose(
    task: RetrosynthesisTask, molecule: str, templates: Iterable[int], probabilities: Iterable[float]
) -> list[Candidate]:
    """The applicable templates in the order given; equal reactants merged into the first, sum renormalised."""
    found: dict[tuple[str, ...], tuple[int, float]] = {}
    for template, p in zip(templates, probabilities, strict=True):
        made = task.reactants(template, molecule)
        if made is not None:
            key = tuple(sorted(made))
            first, before = found.get(key, (template, 0.0))
            found[key] = first, before + p
    total = sum(p for _, p in found.values()) or 1.0
    return [Candidate(template, made, p / total) for made, (template, p) in found.items()]


class Model(Protocol):
    """What a search knows of the model."""

    candidates: dict[str, list[Candidate]]

    def values(self, molecule: str) -> tuple[float, float]:
        """Cost and synthesizability that a new node of `molecule` starts with."""


class Predictions:
    """What networks as they are now say of molecules, each asked once.

    policy: fingerprints (n, inputs) -> templates (n, k) and probabilities (n, k).
    value: fingerprints (n, inputs) -> costs (n,) and synthesizabilities (n,); None if no planner asks.
    """

    def __init__(self, task: RetrosynthesisTask, policy: _Network, value: _Network | None = None) -> None:
        self.task, self.policy, self.value = task, policy, value
        self.candidates: dict[str, list[Candidate]] = {}
        self._values: dict[str, tuple[float, float]] = {}

    @torch.no_grad()
    def prepare(self, molecules: Sequence[str]) -> None:
        """Makes `candidates` of all `molecules` and the values of what occurs in them known, in one batch."""
        new = [m for m in dict.fromkeys(molecules) if m not in self.candidates]
        if not new:
            return
        found = [part.tolist() for part in self.policy(self.task.fingerprints(new))]
        for molecule, templates, probabilities in zip(new, *found, strict=True):
            self.candidates[molecule] = propose(self.task, molecule, templates, probabilities)
        if self.value is not None:
            reached = [r for m in new for candidate in self.candidates[m] for r in candidate.reactants]
            fresh = [m for m in dict.fromkeys(new + reached) if m not in self._values]
            if fresh:
                costs, chances = (part.tolist() for part in self.value(self.task.fingerprints(fresh)))
                self._values.update(zip(fresh, zip(costs, chances, strict=True), strict=True))

    def values(self, molecule: str) -> tuple[float, float]:
        return self._values[molecule]


# ---- the AND-OR tree ----


@dataclass(eq=False)
class MoleculeNode:
    """OR: solved if one of its reactions is; dead if all are. cost, chance and visits belong to the planner.

    invalid: nothing that the model proposes leads on, as opposed to dead by the limit on depth.
    """

    name: str
    parent: ReactionNode | None = None
    depth: int = 0
    stock: bool = False
    cost: float = 0.0
    chance: float = 1.0
    visits: int = 0
    expanded: bool = False
    solved: bool = False
    dead: bool = False
    invalid: bool = False
    reactions: list[ReactionNode] = field(default_factory=list)

    def ancestors(self) -> set[str]:
        """The names on the way to the root, its own among them."""
        names, node = {self.name}, self
        while node.parent is not None:
            node = node.parent.product
            names.add(node.name)
        return names


@dataclass(eq=False)
class ReactionNode:
    """AND: solved if all of its reactants are; dead if one is."""

    product: MoleculeNode
    template: int
    probability: float
    reactants: list[MoleculeNode] = field(default_factory=list)
    cost: float = 0.0
    chance: float = 1.0
    visits: int = 0
    solved: bool = False
    dead: bool = False
    invalid: bool = False


class Search:
    """A tree grown from one target, and the count of model calls: one an expansion, known molecule or not.

    calls: how many are allowed. config: hyperparameters of the planner; "depth" is the greatest depth.
    learning: plan to learn from the tree, with chance and to the end; else just for a first route.
    """

    uses_values = False

    def __init__(
        self,
        task: RetrosynthesisTask,
        model: Model,
        target: str,
        calls: int,
        config: Mapping[str, Any],
        rng: np.random.Generator,
        learning: bool = False,
    ) -> None:
        self.stock, self.model, self.limit, self.depth = task.stock, model, calls, config["depth"]
        self.config, self.rng, self.learning = config, rng, learning
        self.calls = 0
        self.root = self._molecule(target, None, 0)

    def plan(self) -> Generator[str, None, None]:
        """Searches; yields the names of molecules whose candidates the model must know before it goes on."""
        raise NotImplementedError

    def _molecule(self, name: str, parent: ReactionNode | None, depth: int) -> MoleculeNode:
        stock = name in self.stock
        node = MoleculeNode(name, parent, depth, stock, solved=stock)
        node.dead = depth >= self.depth and not stock
        if self.uses_values and parent is not None and not stock:
            node.cost, node.chance = self.model.values(name)
        return node

    def expand(self, node: MoleculeNode) -> Generator[str, None, None]:
        """Gives `node` its reactions, without those that lead back to the molecule or an ancestor of it."""
        yield node.name
        self.calls += 1
        if self.uses_values and node.parent is None:
            node.cost, node.chance = self.model.values(node.name)
        node.expanded = True
        candidates, ancestors = self.model.candidates[node.name], node.ancestors()
        node.invalid = not candidates
        for candidate in candidates:
            if ancestors.isdisjoint(candidate.reactants):
                reaction = ReactionNode(node, candidate.template, candidate.probability)
                reaction.reactants = [
                    self._molecule(name, reaction, node.depth + 1) for name in candidate.reactants
                ]
                node.reactions.append(reaction)
        for reaction in node.reactions:
            _settle(reaction)
        while True:
            node.solved = any(r.solved for r in node.reactions)
            node.dead = all(r.dead for r in node.reactions)
            node.invalid = node.invalid or (bool(node.reactions) and all(r.invalid for r in node.reactions))
            if node.parent is None:
                return
            _settle(node.parent)
            node = node.parent.product


def _settle(reaction: ReactionNode) -> None:
    reaction.solved = all(m.solved for m in reaction.reactants)
    reaction.dead = any(m.dead for m in reaction.reactants)
    reaction.invalid = any(m.invalid for m in reaction.reactants)


def search(
    planner: type[Search],
    targets: Sequence[str],
    task: RetrosynthesisTask,
    net: Any,
    calls: int,
    config: Mapping[str, Any],
    rng: np.random.Generator,
    learning: bool = False,
) -> list[Search]:
    """Finished searches for `targets` with `net` as it is now, which has policy and values (see `Predictions`).

    The searches advance in turns; what they ask for in one turn is predicted in one batch.
    """
    model = Predictions(task, net.policy.candidates, net.values if planner.uses_values else None)
    searches = [planner(task, model, target, calls, config, rng, learning) for target in targets]
    active = [search.plan() for search in searches]
    while active:
        asked, going_on = [], []
        for plan in active:
            molecule = next(plan, None)
            if molecule is not None:
                asked.append(molecule)
                going_on.append(plan)
        active = going_on
        if asked:
            model.prepare(asked)
    return searches


# ---- planners ----


class RetroStar0(Search):
    """Best-first search on the sum of -log p, p at least 1e-3, until a route is found (Retro*-0).

    Chen, Li, Dai and Song, ICML 2020, with the value 0 for every open molecule. A molecule's `cost` is that of
    its cheapest partial route.
    """

    def plan(self) -> Generator[str, None, None]:
        while not (self.root.solved or self.root.dead) and self.calls < self.limit:
            node = self.root
            while node.expanded:
                best = min((r for r in node.reactions if not r.dead), key=lambda r: r.cost)
                node = next(m for m in best.reactants if not m.solved)
            yield from self.expand(node)
            self._update(node)

    def _update(self, node: MoleculeNode | None) -> None:
        while node is not None:
            for r in node.reactions:
                r.cost = sum((m.cost for m in r.reactants), -math.log(max(r.probability, 1e-3)))
            node.cost = min((r.cost for r in node.reactions if not r.dead), default=math.inf)
            node = None if node.parent is None else node.parent.product


class Rollout(Search):
    """The policy without a search: in every molecule one reaction, until only stock is left.

    One attempt with the most probable reactions; when learning, attempts with reactions sampled until one
    succeeds or the calls are used up. Known dead ends are not chosen again.
    """

    def plan(self) -> Generator[str, None, None]:
        while not (self.root.solved or self.root.dead) and self.calls < self.limit:
            queue = deque([self.root])
            while queue and self.calls < self.limit:
                node = queue.popleft()
                if not node.expanded:
                    yield from self.expand(node)
                alive = [r for r in node.reactions if not r.dead]
                if not alive:
                    break
                weights = np.array([r.probability for r in alive]) + 1e-12
                chosen = weights.argmax()
                if self.learning:
                    chosen = self.rng.choice(len(alive), p=weights / weights.sum())
                queue.extend(m for m in alive[chosen].reactants if not m.stock)
            if not self.learning:
                return


PLANNERS: dict[str, type[Search]] = {"retro_star_0": RetroStar0, "greedy": Rollout}


# ---- evaluation ----


def route_length(node: MoleculeNode) -> float:
    """Reactions of the shortest route in the tree below `node`; infinite if there is none."""
    if node.stock:
        return 0
    routes = (1 + sum(route_length(m) for m in r.reactants) for r in node.reactions if r.solved)
    return min(routes, default=math.inf)


def summary(searches: Sequence[Search]) -> tuple[float, float, float]:
    """Share of targets solved, mean calls, mean route length of finished `searches`.

    A target that is not solved counts with the limit on calls, also as its length: no route is longer.
    """
    solved = [s for s in searches if s.root.solved]
    unsolved = sum(s.limit for s in searches if not s.root.solved)
    n = len(searches)
    return (
        len(solved) / n,
        (sum(s.calls for s in solved) + unsolved) / n,
        (sum(route_length(s.root) for s in solved) + unsolved) / n,
    )
