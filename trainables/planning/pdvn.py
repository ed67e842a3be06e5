"""PDVN: planning with dual value networks.

Liu, Xue, Xie, Xia, Tripp, Maziarz, Segler, Qin, Zhang and Liu, Retrosynthetic Planning with Dual Value
Networks, ICML 2023, arXiv:2301.13755. A tree search with two value networks, one for the probability that a
molecule can be made and one for the cost of making it, finds complete routes; the routes train the values and
one branch of the single-step policy, whose other branch, the supervised reference, says what is realistic.
Where the paper leaves a detail open, the authors' code (github.com/DiXue98/PDVN) decides.

Shapes: n molecules, p inputs of a fingerprint, T templates, k candidates of a molecule.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks import retrosynthesis as retro
from fairsweep.trainables.tasks.retrosynthesis import MoleculeNode, ReactionNode, Search
from fairsweep.trainables.tasks.training import NetworkPaper

METHODS = ("pdvn", "pretrained", "single_value", "no_cost", "self_imitation")

# ---- the networks ----


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class TwoBranchPolicy(nn.Module):
    """Fingerprints (n, p) -> log-probabilities (n, T): the reference proposes k templates, the branch re-ranks.

    Templates beyond the reference's k best have probability 0 whatever the branch says. With two=False the
    branch is a copy of the reference and proposes by itself (ablation).
    """

    def __init__(self, inputs: int, templates: int, hidden: int, topk: int, two: bool = True) -> None:
        super().__init__()
        self.reference = mlp(inputs, hidden, templates)
        self.branch = mlp(inputs, hidden, templates)
        self.topk, self.two = min(topk, templates), two

    def start(self) -> None:
        """Freezes the reference; the policy is exactly the reference until the branch is trained."""
        self.reference.requires_grad_(False)
        if self.two:
            nn.init.zeros_(self.branch[-1].weight)
            nn.init.zeros_(self.branch[-1].bias)
        else:
            self.branch.load_state_dict(self.reference.state_dict())

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, T) of the policy, and those that choose the candidates."""
        if not self.two:
            own = self.branch(x)
            return own, own
        reference = self.reference(x)
        return reference + self.branch(x), reference

    def candidates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The k templates (n, k) in the order of the proposing logits, and probabilities (n, k) that sum to one."""
        logits, proposing = self.logits(x)
        chosen = proposing.topk(self.topk, -1).indices
        return chosen, logits.gather(-1, chosen).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        logits, proposing = self.logits(x)
        if self.two:
            chosen = torch.zeros_like(logits, dtype=torch.bool)
            chosen.scatter_(-1, proposing.topk(self.topk, -1).indices, True)
            logits = logits.masked_fill(~chosen, -torch.inf)
        return logits.log_softmax(-1)


class DualValueNetworks(nn.Module):
    """The policy and its two values: `synthesizability` gives the logit of R, `cost` the V before softplus."""

    def __init__(self, inputs: int, templates: int, hidden: int, topk: int, two: bool = True) -> None:
        super().__init__()
        self.policy = TwoBranchPolicy(inputs, templates, hidden, topk, two)
        self.synthesizability = mlp(inputs, hidden, 1)
        self.cost = mlp(inputs, hidden, 1)

    def values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """V >= 0 and R in (0, 1), both (n,)."""
        return F.softplus(self.cost(x)).squeeze(-1), torch.sigmoid(self.synthesizability(x)).squeeze(-1)


# ---- planning ----


class DualValueSearch(Search):
    """Monte-Carlo tree search for one complete route: simulate, decide for a reaction, go on with its reactants.

    A molecule's cost and chance are V and R, means over its visits; a reaction's are Q and R, its probability
    is P. Learning, reactions are sampled by visits and solved trees are searched on; else the most visited one
    is taken, and the first route ends the search.
    """

    uses_values = True

    def plan(self) -> Generator[str, None, None]:
        queue = deque([] if self.root.stock else [self.root])
        while queue and self.calls < self.limit:
            node = queue.popleft()
            yield from self.simulate(node)
            if node.dead or not node.reactions or (self.root.solved and not self.learning):
                return
            if self.learning or not node.solved:
                queue.extend(m for m in self.decide(node).reactants if not m.stock)

    def simulate(self, root: MoleculeNode) -> Generator[str, None, None]:
        """Visits `root` until it has been visited `num_simulations` times, is dead or the calls are used up."""
        while root.visits < self.config["num_simulations"] and not root.dead:
            leaf = self.select(root)
            if not (leaf.stock or leaf.expanded):
                if self.calls >= self.limit:
                    return
                yield from self.expand(leaf)
            self.back_up(leaf, root)
            if root.solved and not self.learning:
                return

    def decide(self, node: MoleculeNode) -> ReactionNode:
        """A reaction that is not dead, by its visits."""
        alive = [r for r in node.reactions if not r.dead]
        visits = np.array([r.visits for r in alive]) + 1e-9  # without a visit, all are equal
        if not self.learning:
            return alive[visits.argmax()]
        return alive[self.rng.choice(len(alive), p=visits / visits.sum())]

    def puct(self, node: MoleculeNode) -> list[float]:
        """-(R Q + (1 - R) C_M) + c P sqrt(sum N) / (1 + N) of every reaction, -inf for the dead ones.

        Q is clipped to [0, C_M] and P sums to one over the reactions. `single_value` has -Q in the first
        term, `no_cost` has Q = 0.
        """
        dead_end = self.config["dead_end_cost"]
        explore = self.config["puct_c"] * math.sqrt(sum(r.visits for r in node.reactions))
        explore /= sum(r.probability for r in node.reactions) or 1.0
        scores = []
        for r in node.reactions:
            cost = 0.0 if self.config["method"] == "no_cost" else min(max(r.cost, 0.0), dead_end)
            if self.config["method"] != "single_value":
                cost = r.chance * cost + (1 - r.chance) * dead_end
            scores.append(-math.inf if r.dead else explore * r.probability / (1 + r.visits) - cost)
        return scores

    def select(self, root: MoleculeNode) -> MoleculeNode:
        """The leaf that this simulation reaches; in a reaction, what is still open and unsolved comes first."""
        node = root
        while node.reactions:
            scores = self.puct(node)
            reactants = node.reactions[scores.index(max(scores))].reactants
            unsolved = [m for m in reactants if not m.solved]
            choice = [m for m in unsolved if not m.expanded] or unsolved or reactants
            node = choice[int(self.rng.integers(len(choice)))] if len(choice) > 1 else choice[0]
        return node

    def expand(self, node: MoleculeNode) -> Generator[str, None, None]:
        yield from super().expand(node)
        for reaction in node.reactions:
            self._refresh(reaction)

    def _refresh(self, reaction: ReactionNode) -> None:
        reaction.cost = self.config["reaction_cost"] + sum(m.cost for m in reaction.reactants)
        reaction.chance = math.prod(m.chance for m in reaction.reactants)

    def back_up(self, leaf: MoleculeNode, root: MoleculeNode) -> None:
        """Carries the leaf's V and R up to `root`: the visited reactant's number is replaced by the one that
        came up, its siblings keep their means. A dead end lowers R, but leaves V, the cost of a success, alone.
        """
        leaf.visits += 1
        dead_end = (self.config["dead_end_cost"], 0.0)
        if leaf.invalid:
            leaf.cost, leaf.chance = dead_end
        elif leaf.solved and not leaf.stock:
            leaf.cost, leaf.chance = min(r.cost for r in leaf.reactions if r.solved), 1.0
        cost, chance = dead_end if leaf.dead else (leaf.cost, leaf.chance)
        node = leaf
        while node is not root:
            reaction = node.parent
            assert reaction is not None
            siblings = [m for m in reaction.reactants if m is not node]
            cost += self.config["reaction_cost"] + sum(m.cost for m in siblings)
            chance *= math.prod(m.chance for m in siblings)
            self._refresh(reaction)
            reaction.visits += 1
            node = reaction.product
            if not leaf.dead or self.config["method"] == "single_value":
                node.cost = (node.cost * node.visits + cost) / (node.visits + 1)
            node.chance = (node.chance * node.visits + chance) / (node.visits + 1)
            node.visits += 1


# ---- targets ----


@dataclass
class Targets:
    """What trees teach: pairs of a molecule and its cost, its synthesizability, its best template."""

    cost: list[tuple[str, float]] = field(default_factory=list)
    synthesizability: list[tuple[str, float]] = field(default_factory=list)
    policy: list[tuple[str, int]] = field(default_factory=list)

    def add(self, node: MoleculeNode, config: Mapping[str, Any]) -> float:
        """Adds what is expanded or dead in the tree of `node`; the cost of its cheapest route, or infinity."""
        if node.stock:
            return 0.0
        best, template = math.inf, -1
        for r in node.reactions:
            cost = config["reaction_cost"] + sum([self.add(m, config) for m in r.reactants])
            if cost < best - 1e-8:
                best, template = cost, r.template
        if node.expanded or node.dead:
            self._teach(node, best, template, config)
        return best

    def _teach(self, node: MoleculeNode, best: float, template: int, config: Mapping[str, Any]) -> None:
        if best < math.inf:
            self.cost.append((node.name, best))
            self.policy.append((node.name, template))
            self.synthesizability.append((node.name, 1.0))
            return
        doubt = config.get("unsolved_penalty", 1.0) * node.chance
        self.synthesizability.append((node.name, 0.0 if node.invalid else doubt))
        if config["method"] == "single_value":
            cost = node.cost + 2 * config["reaction_cost"] * node.dead
            self.cost.append((node.name, config["dead_end_cost"] if node.invalid else cost))


# ---- training ----

PLANNERS: dict[str, type[Search]] = {**retro.PLANNERS, "mcts": DualValueSearch}
_ARMS = {"method": "pdvn"}, {"method": "pretrained"}
_claim = partial(Claim, kind="ratio", data="synthetic_strings", steps=20)


@register
class PDVNPaper(NetworkPaper):
    """Rounds of planning for new targets and learning from the trees; `method` gives baselines and ablations.

    no_cost still imitates the cheapest route of a tree: no network is needed for it. self_imitation imitates
    routes sampled from the policy within the same calls. The policy is judged by `planner`.
    """

    slug = "pdvn"
    title = "Retrosynthetic Planning with Dual Value Networks"
    citation = "Liu, Xue, Xie, Xia, Tripp, Maziarz, Segler, Qin, Zhang, Liu. ICML 2023. arXiv:2301.13755"
    task = "retrosynthesis"
    baselines = "supervised policy, one value, no cost, self-imitation"
    datasets = tuple(retro.LOADERS)
    metrics = retro.METRICS
    objective = "val_success"
    tiny = Tiny("synthetic_strings_short", 6, {"num_simulations": 10})
    claims = (
        _claim(
            "more_targets_solved",
            "After 20 rounds, Retro*-0 solves more targets than before, and by the paper's factor",
            *(*_ARMS, "test_success", 1.15),
            origin="paper",
            reason="Retro* on USPTO: from 85.79 to 98.95 % solved",
        ),
        _claim(
            "fewer_calls",
            "After 20 rounds, Retro*-0 needs fewer model calls than before",
            *(*_ARMS, "test_calls", 1.0),
            origin="direction",
            direction="at_most",
        ),
    )

    default_steps = 20
    unit = "round"
    net: DualValueNetworks

    def prepare(self) -> None:
        config = self.config
        for name, known in (("method", METHODS), ("planner", PLANNERS)):
            if config[name] not in known:
                raise ValueError(f"{name}={config[name]}: known are {', '.join(known)}")
        where = (self.data_name, self.setting.data_dir, self.device)
        self.data = data = retro.RetrosynthesisTask(*where, self.rng.numpy)
        sizes = (data.inputs, data.templates, config["hidden"], config["expansion_topk"])
        self.net = DualValueNetworks(*sizes, config["two_branch"]).to(self.device)
        retro.train_single_step(self.net.policy.reference, data)
        self.net.policy.start()
        # One Adam for three networks: a step with the gradients of one leaves the others as they are.
        trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(trained, lr=config.get("lr", 1e-3))

    def epoch(self) -> dict[str, float]:
        config, rng = self.config, self.rng.numpy
        sampling = config["method"] in ("pretrained", "self_imitation")
        planner = retro.Rollout if sampling else DualValueSearch
        molecules = self.data.draw_targets(config["batch_molecules"])
        found = retro.search(
            planner, molecules, self.data, self.net, config["calls"], config, rng, learning=True
        )
        targets = Targets()
        for search in found:
            targets.add(search.root, config)
        self.stopped = config["method"] == "pretrained"  # nothing will change
        if not self.stopped:
            self.learn(targets)
        success, needed, _ = self.evaluate(self.net, "validation")
        return {"val_success": success, "val_calls": needed, "train_success": retro.summary(found)[0]}

    def evaluate(self, net: DualValueNetworks, part: str) -> tuple[float, float, float]:
        """Success, calls and route length of `planner` with `net` on the targets of `part`."""
        planner, rng = PLANNERS[self.config["planner"]], np.random.default_rng(self.setting.seed)
        targets, calls = self.data.targets[part], self.data.calls
        return retro.summary(retro.search(planner, targets, self.data, net, calls, self.config, rng))

    def learn(self, targets: Targets) -> None:
        """Each network by itself: `epochs` passes over its targets, gradients clipped to a norm of 0.5."""
        net, method = self.net, self.config["method"]
        self._fit(net.policy.branch, targets.policy, lambda x, y: F.nll_loss(net.policy(x), y))
        if method in ("pdvn", "no_cost"):
            bce, logit = F.binary_cross_entropy_with_logits, net.synthesizability
            self._fit(logit, targets.synthesizability, lambda x, y: bce(logit(x).squeeze(-1), y))
        if method in ("pdvn", "single_value"):
            self._fit(net.cost, targets.cost, lambda x, y: F.mse_loss(net.values(x)[0], y))

    def _fit(self, part: nn.Module, pairs: Sequence[tuple[str, float]], loss: Any) -> None:
        x = self.data.fingerprints([molecule for molecule, _ in pairs])
        y = torch.tensor([value for _, value in pairs], device=self.device)
        for _ in range(self.config["epochs"] if pairs else 0):
            for chosen in torch.randperm(len(pairs)).to(self.device).split(self.config["minibatch"]):
                self.optimiser.zero_grad()
                loss(x[chosen], y[chosen]).backward()
                nn.utils.clip_grad_norm_(part.parameters(), 0.5)
                self.optimiser.step()

    def measure_test(self, net: DualValueNetworks) -> dict[str, float]:  # type: ignore[override]  # prepare's
        success, calls, length = self.evaluate(net, "test")
        return {"test_success": success, "test_calls": calls, "test_length": length}
