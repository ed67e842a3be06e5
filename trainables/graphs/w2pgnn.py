"""W2PGNN: when to pre-train graph neural networks, told from how the graphs may have been generated.

Cao, Xu, Yang, Wang, Zhang, Wang, Chen and Yang, When to Pre-Train Graph Neural Networks? From Data Generation
Perspective!, KDD 2023, arXiv:2303.16458. Graphs to pre-train on are summed up in a few graphons; their convex
combinations span what could be generated from them. How close one of them comes to the graphon of a downstream set, in
Gromov-Wasserstein distance, tells how feasible pre-training is, before anything is trained.

Other than the authors' code: the full square, its cost without a root and without entropy at the best combination;
topological features standardised; no total variation step in the estimate (`tasks.graphons`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairsweep.trainables.base import OWN, Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.datasets.graph_domains import load
from fairsweep.trainables.datasets.packed_graphs import Domain
from fairsweep.trainables.tasks import graphons
from fairsweep.trainables.tasks.graph_pretraining import METRICS, PARTS, PretrainingTask, against
from fairsweep.trainables.tasks.graphons import SUMMARIES, by_summary
from fairsweep.trainables.tasks.keeping import KeptRows
from fairsweep.trainables.tasks.training import NetworkPaper

STATISTICS = ("gw", "entrywise", *SUMMARIES, "random")
WAYS = ("integr", "domain", "topo")  # to build a basis
MOST = 16  # GB of dense matrices of one graph

# ---- the basis of a generator space ----


def clusters(domain: Domain, count: int, seed: int) -> list[Domain]:
    """The graphs in at most `count` groups of similar topology; those without an edge are in none."""
    from sklearn.cluster import KMeans

    linked = graphons.chosen_of(domain, np.flatnonzero(domain.edges))
    features = graphons.topology(linked)
    spread = features.std(0)
    scaled = (features - features.mean(0)) / np.where(spread > 0, spread, 1)
    count = min(count, len(np.unique(scaled.round(9), axis=0)))
    # scikit-learn takes 32 bits of a seed.
    found = KMeans(count, n_init=4, random_state=seed % 2**32).fit_predict(scaled)
    return [graphons.chosen_of(linked, np.flatnonzero(found == k)) for k in np.unique(found)]


def groups(sources: list[Domain], way: str, k_topo: int, seed: int) -> list[Domain]:
    """What each basis element is estimated from: all graphs, those of a domain, or those of a topology."""
    if way == "domain":
        return sources
    whole = graphons.joined(sources)
    return [whole] if way == "integr" else clusters(whole, k_topo, seed)


def stacked(estimates: list[Tensor]) -> Tensor:
    """(b, r, r): step functions of their own sizes, brought to the largest."""
    size = max(len(found) for found in estimates)
    return torch.stack([graphons.resized(found, size) for found in estimates])


class Space(nn.Module):
    """f(alpha) = sum of alpha_i B_i with alpha = softmax of logits, from equal weights on; one alpha for each set
    downstream. basis: (b, r, r)."""

    def __init__(self, basis: Tensor, sets: int, learned: bool) -> None:
        super().__init__()
        self.basis: Tensor
        self.register_buffer("basis", basis, persistent=False)
        self.logits = nn.Parameter(torch.ones(sets, len(basis), dtype=torch.float64), requires_grad=learned)

    @property
    def learns(self) -> bool:
        """Whether there is a choice, and it is not made already."""
        return self.logits.requires_grad and len(self.basis) > 1

    @property
    def alpha(self) -> Tensor:
        """(sets, b), each row on the simplex."""
        return torch.softmax(self.logits, 1)

    def forward(self, j: int) -> Tensor:
        return torch.einsum("b,brs->rs", self.alpha[j], self.basis)


# ---- how far a combination is from a downstream set ----


@dataclass(frozen=True)
class Measure:
    """The distance of two step functions: Gromov-Wasserstein, which finds a coupling, or entry by entry."""

    statistic: str
    solver: str = "exact"
    eps: float = 0.0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        if self.statistic == "gw":
            return graphons.distance(a, b, self.solver, self.eps)
        size = max(len(a), len(b))
        return (graphons.resized(a, size) - graphons.resized(b, size)).square().mean()


# ---- the paper ----

_GRAPHONS: dict[str, Any] = {"estimator": "pool", "basis": "domain"}


@register
class W2PGNN(NetworkPaper):
    """Adam on the weights of the combinations of every candidate (a source, several, or all) for every downstream set.

    The graphs of a downstream set are cut in three: weights are fitted to the graphon of one part; of each candidate
    and set those of the step that comes closest to another are kept, and judged by the third. `val_distance` is that of
    the candidate of all sources at a step. `attrs` ranks the candidates for each set. `test_inside_distance` and
    `test_separation` (least distance of the sets of another kind minus the largest of those within the space) and the
    error of alpha are of sets whose mixture is known, and 0 where none is. Gains are measured by `tasks.pretraining`;
    `test_gain_correlation` is Pearson's with feasibility over all pairs, `test_rank_agreement` Spearman's for each set.
    """

    slug = "w2pgnn"
    title = "When to Pre-Train Graph Neural Networks? From Data Generation Perspective!"
    citation = "Cao, Xu, Yang, Wang, Zhang, Wang, Chen, Yang. KDD 2023. arXiv:2303.16458"
    task = "graph pre-training"
    baselines = "density, clustering, topology, entrywise distance, random; equal weights"
    contenders = {"statistic": STATISTICS}
    datasets = ("packaged_domains", "synthetic_graphons", OWN)
    metrics = METRICS
    objective = "val_distance"
    tiny = Tiny("synthetic_graphons", 4)
    claims = (
        Claim(
            name="inside_is_closer_than_outside",
            statement="Every downstream set drawn from the sources' graphons or their mixture is closer to the"
            " generator space than every one of another structure",
            treatment=_GRAPHONS,
            baseline=None,
            metric="test_separation",
            margin=0.0,
            origin="direction",
            kind="value",
            data="synthetic_graphons",
        ),
        Claim(
            name="learned_combinations_are_closer",
            statement="On sets within the space, learned weights come closer than equal ones",
            treatment={**_GRAPHONS, "alpha": "learned"},
            baseline={**_GRAPHONS, "alpha": "uniform"},
            metric="test_inside_distance",
            direction="at_most",
            margin=0.0,
            origin="direction",
            data="synthetic_graphons",
        ),
        Claim(
            name="feasibility_tells_gain",
            statement="Over sources and downstream sets of real graphs, feasibility and the measured gain of"
            " pre-training are positively correlated",
            treatment={"measure_gain": True},
            baseline=None,
            metric="test_gain_correlation",
            margin=0.0,
            origin="direction",
            kind="value",
            data="packaged_domains",
        ),
        Claim(
            name="feasibility_tells_gain_better_than_density",
            statement="Feasibility is correlated more with the measured gain of pre-training than the difference of"
            " densities is",
            treatment={"measure_gain": True},
            baseline={"measure_gain": True, "statistic": "density"},
            metric="test_gain_correlation",
            margin=0.0,
            origin="direction",
            data="packaged_domains",
        ),
    )

    unit = "update of the weights"
    default_steps = 40  # the authors' own is at most 100, ended by a patience of 3 from the 30th on

    @classmethod
    def unsuited(cls, config: Mapping[str, Any], data: str, data_dir: Path | None = None) -> str | None:
        """POT is missing where the distance is its; or a large graph is not cut, for want of a file of its own."""
        statistic = config["statistic"]
        if statistic == "gw" and importlib.util.find_spec("ot") is None:
            return "statistic=gw needs POT; pip install 'fairsweep[transport]'"
        matrices = graphons.MATRICES.get(config.get("estimator", ""), 0)
        if statistic in SUMMARIES or config.get("basis") in ("topo", "max"):
            matrices = max(matrices, graphons.TOPOLOGY_MATRICES)
        domains = load(data, data_dir)
        found = ((int(d.nodes.max()), d.name) for d in (*domains.sources, *domains.downstream) if len(d) > 1)
        nodes, name = max(found, default=(0, ""))
        size = matrices * 8e-9 * nodes**2
        if size <= MOST:
            return None
        return (
            f"graphs {name}: {matrices} dense matrices of the {nodes:,} nodes of one of several graphs take"
            f" {size:.0f} GB, at most {MOST}; give that graph a file of its own: it is then cut into neighbourhoods"
        )

    def prepare(self) -> None:
        config = self.config
        if config["statistic"] not in STATISTICS:
            raise ValueError(f"statistic={config['statistic']}: known are {', '.join(STATISTICS)}")
        if config["statistic"] == "gw":
            graphons.transport()
        where = (self.setting.data_dir, self.device, self.split_rng)
        self.data = PretrainingTask(self.data_name, *where, config)
        self.measure = Measure(config["statistic"], config.get("solver", "exact"), config.get("eps", 0.0))
        self.fixed: dict[str, np.ndarray] = {}
        self.net = nn.ModuleDict()
        if config["statistic"] in ("gw", "entrywise"):
            self.held = {part: self.data.estimates(part) for part in PARTS}
            self._make_spaces()
        else:
            self._fix(config["statistic"])
            self.net["none"] = Space(torch.zeros(1, 1, 1, dtype=torch.float64), len(self.data.sets), False)
        self.net.to(self.device)
        self.kept = {key: KeptRows() for key, space in self.net.items() if space.learns}
        self.optimiser = torch.optim.Adam(
            self.net.parameters(), lr=config.get("lr_alpha", 0.0), betas=(0.9, 0.99), weight_decay=1e-5
        )

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), **{f"kept_{key}": kept for key, kept in self.kept.items()}}

    def trained(self) -> nn.Module:
        net = super().trained()
        assert isinstance(net, nn.ModuleDict)
        for key, kept in self.kept.items():
            if kept.rows is not None:
                net[key].logits.data.copy_(kept.rows)
        return net

    def _make_spaces(self) -> None:
        config, data = self.config, self.data
        for c, chosen in enumerate(data.candidates):
            for way in WAYS if config["basis"] == "max" else (config["basis"],):
                picked = [data.sources[i] for i in chosen]
                grouped = groups(picked, way, config.get("k_topo", 1), self.setting.seed)
                basis = stacked([data.estimate(group) for group in grouped])
                self.net[f"{c}_{way}"] = Space(basis, len(data.sets), config["alpha"] == "learned")

    def _fix(self, statistic: str) -> None:
        """Distances of a statistic that has nothing to learn, (candidates, sets) for each part."""
        pooled, sets = self.data.pooled(), range(len(self.data.sets))
        drawn = self.rng.numpy.random((len(pooled), len(sets)))
        for part in PARTS:
            of_part = [self.data.part(j, part) for j in sets]
            self.fixed[part] = drawn if statistic == "random" else by_summary(pooled, of_part, statistic)

    @staticmethod
    def spaces(net: nn.ModuleDict, c: int) -> dict[str, Space]:
        """Those of a candidate by how their basis was built."""
        return {key.split("_")[1]: space for key, space in net.items() if key.startswith(f"{c}_")}

    @torch.no_grad()
    def distances(self, net: nn.ModuleDict, part: str, c: int) -> np.ndarray:
        """(sets,) of a candidate: the least over the ways to build a basis."""
        if self.fixed:
            return self.fixed[part][c]
        return np.min([self.away(space, part).numpy() for space in self.spaces(net, c).values()], axis=0)

    @torch.no_grad()
    def away(self, space: Space, part: str) -> Tensor:
        """(sets,): how far the combination for each set is from its graphs of `part`."""
        found = [float(self.measure(space(j), b)) for j, b in enumerate(self.held[part])]
        return torch.tensor(found, dtype=torch.float64)

    def epoch(self) -> dict[str, float]:
        everything = len(self.data.candidates) - 1
        if self.fixed:
            train = float(self.fixed["train"].mean())
            distance = self.distances(self.net, "validation", everything)
        else:
            targets = self.held["train"]
            losses = [self.measure(s(j), b) for s in self.net.values() for j, b in enumerate(targets)]
            loss = torch.stack(losses).sum()
            train = float(loss.detach()) / len(losses)
            if loss.requires_grad:
                self.descend(loss)
            mine = f"{everything}_"
            away = {
                key: self.away(space, "validation")
                for key, space in self.net.items()
                if key in self.kept or key.startswith(mine)
            }
            for key, kept in self.kept.items():
                kept.offer(away[key], self.net[key].logits)
            distance = np.min([found.numpy() for key, found in away.items() if key.startswith(mine)], axis=0)
        return {"val_distance": float(distance.mean()), "train_loss": train}

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        assert isinstance(net, nn.ModuleDict)
        found = np.stack([self.distances(net, "test", c) for c in range(len(self.data.candidates))])
        inside = np.array([bool(weights) for weights in self.data.mixture])
        outside = np.array([weights == () for weights in self.data.mixture])
        whole, known = found[-1], inside.any() and outside.any()
        gains = None
        if self.config["measure_gain"]:
            with torch.enable_grad():
                gains = self.data.gains()
        correlation, agreement = (0.0, 0.0) if gains is None else against(found, gains)
        self.attrs = {"ranking": self._ranking(net, found, gains)}
        return {
            "test_distance": float(whole.mean()),
            "test_inside_distance": float(whole[inside].mean()) if inside.any() else 0.0,
            "test_separation": float(whole[outside].min() - whole[inside].max()) if known else 0.0,
            "test_alpha_error": self._alpha_error(net),
            "test_gain_correlation": correlation,
            "test_rank_agreement": agreement,
        }

    def _alpha_error(self, net: nn.ModuleDict) -> float:
        """The mean total variation between the weights found and those that a set was drawn by."""
        space = self.spaces(net, len(self.data.candidates) - 1).get("domain")
        if space is None:
            return 0.0
        told = [(j, torch.tensor(w).to(space.logits)) for j, w in enumerate(self.data.mixture) if w]
        errors = [float((space.alpha[j] - weights).abs().sum()) / 2 for j, weights in told]
        return float(np.mean(errors)) if errors else 0.0

    def _ranking(
        self, net: nn.ModuleDict, found: np.ndarray, gains: np.ndarray | None
    ) -> dict[str, list[dict[str, Any]]]:
        """For each downstream set its candidates, the most feasible first."""
        ranking: dict[str, list[dict[str, Any]]] = {}
        for j, domain in enumerate(self.data.sets):
            rows = ranking.setdefault(domain.name, [])
            for c in np.argsort(found[:, j], kind="stable").tolist():
                sources = [self.data.sources[i].name for i in self.data.candidates[c]]
                row: dict[str, Any] = {"sources": sources, "feasibility": -float(found[c, j])}
                if gains is not None:
                    row["gain"] = float(gains[c, j])
                if (space := self.spaces(net, c).get("domain")) is not None:
                    row["alpha"] = space.alpha[j].tolist()
                rows.append(row)
        return ranking
