"""Graphs to pre-train on and downstream sets, cut and parted; which of them to combine, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import graph_domains
from fairsweep.trainables.datasets.packed_graphs import Domain
from fairsweep.trainables.parts import Members, identity
from fairsweep.trainables.tasks import graphons, pretraining

METRICS = (
    Metric("val_distance", "min", "validation"),
    Metric("train_loss", "min", "train"),
    Metric("test_distance", "min", "test"),
    Metric("test_inside_distance", "min", "test"),
    Metric("test_separation", "max", "test"),
    Metric("test_alpha_error", "min", "test", "fraction"),
    Metric("test_gain_correlation", "max", "test"),
    Metric("test_rank_agreement", "max", "test"),
)
PARTS = ("train", "validation", "test")


def against(distance: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """Of feasibility, the negative `distance` (candidates, sets), with measured gains: Pearson's correlation over all
    pairs, and the mean over the sets of Spearman's, how alike both rank the candidates; 0 where one is constant."""
    flat = distance.std() == 0 or gain.std() == 0
    pearson = 0.0 if flat else float(np.corrcoef(-distance.ravel(), gain.ravel())[0, 1])
    ranks = []
    for d, g in zip(distance.T, gain.T, strict=True):
        ranks.append(0.0 if d.std() == 0 or g.std() == 0 else float(spearmanr(-d, g).statistic))
    return pearson, float(np.mean(ranks))


class PretrainingTask:
    """Domains of graphs; large graphs are cut into neighbourhoods, downstream sets into three parts, by `rng`.

    config: ego_roots, ego_hops and ego_most of neighbourhoods; combine, the most sources that a candidate has beside
    the one of all; estimator, resolution and gaps of graphons; shots. candidates: indices of their sources, that of all
    last. mixture: for each downstream set as `Domains.mixture`, None where nobody knows. DataError if a domain has no
    link or a downstream set fewer than four graphs.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        rng: np.random.Generator,
        config: Mapping[str, Any],
    ) -> None:
        self.name, self.device, self.config = name, device, config
        domains = graph_domains.load(name, data_dir)
        cut = [self._cut(domain, rng) for domain in (*domains.sources, *domains.downstream)]
        self.sources, self.sets = cut[: len(domains.sources)], cut[len(domains.sources) :]
        self.which = [self._parts(domain, rng) for domain in self.sets]
        self.mixture = [domains.mixture.get(domain.name) for domain in domains.downstream]
        count = len(self.sources)
        sizes = sorted({*range(1, min(config["combine"], count) + 1), count})
        self.candidates = [chosen for size in sizes for chosen in combinations(range(count), size)]

    def _cut(self, domain: Domain, rng: np.random.Generator) -> Domain:
        config = self.config
        where = (config["ego_roots"], config["ego_hops"], config["ego_most"])
        found = graphons.neighbourhoods(domain, *where, rng) if domain.ends.size else domain
        if not found.ends.size:
            raise DataError(f"data={self.name}: graphs {domain.name}: none has a link")
        return found

    def _parts(self, domain: Domain, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Half of the graphs of a downstream set to fit, a quarter each to validate and to test."""
        n = len(domain)
        if n < 4:
            raise DataError(
                f"data={self.name}: graphs {domain.name}: {n} to use; needs four at least, to fit, validate and test,"
                " or one large one"
            )
        order = rng.permutation(n)
        cuts = np.split(order, [n // 2, 3 * n // 4])
        return {part: np.sort(found) for part, found in zip(PARTS, cuts, strict=True)}

    def members(self) -> Members:
        """Graphs of the downstream sets by number."""
        first = np.cumsum([0, *map(len, self.sets)])
        everything = [array for d in (*self.sources, *self.sets) for array in (d.nodes, d.edges, d.ends)]
        numbers = {
            p: np.concatenate([w[p] + a for w, a in zip(self.which, first, strict=False)]) for p in PARTS
        }
        return Members(identity(*everything), numbers)

    def part(self, j: int, part: str) -> Domain:
        """The graphs of one part of downstream set j."""
        return graphons.chosen_of(self.sets[j], self.which[j][part])

    def pooled(self) -> list[Domain]:
        """The graphs of each candidate."""
        return [graphons.joined([self.sources[i] for i in chosen]) for chosen in self.candidates]

    def estimate(self, domain: Domain) -> Tensor:
        """The graphon of some graphs, as `graphons.estimate` has it."""
        config = self.config
        size = (config.get("resolution", 24), config.get("gaps", 5))
        return graphons.estimate(domain, config["estimator"], *size).to(self.device)

    def estimates(self, part: str) -> list[Tensor]:
        """The graphon of one part of each downstream set."""
        return [self.estimate(self.part(j, part)) for j in range(len(self.sets))]

    def gains(self) -> np.ndarray:
        """(candidates, sets): what pre-training on each candidate is worth to each downstream set, as
        `pretraining.gains` measures it: tuned on `shots` graphs to fit, judged on those to test."""
        few = [self.part(j, "train") for j in range(len(self.sets))]
        few = [graphons.chosen_of(d, np.arange(min(self.config["shots"], len(d)))) for d in few]
        held = [self.part(j, "test") for j in range(len(self.sets))]
        return pretraining.gains(self.pooled(), few, held, self.device)
