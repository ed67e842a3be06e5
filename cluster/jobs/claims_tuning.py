"""Tuning the arms of claims before they meet: the same small budget for each, on validation data, under other seeds.

Every arm has as many candidates: its own configuration, and draws of the hyperparameters that the claim `tunes`, in
which the k-th draw of a hyperparameter is the same for all arms. All candidates of a group run in one sweep of the
store under `SEEDS` seeds that the paired sweep does not use; an arm becomes the candidate with the best mean of the
paper's objective, which is a validation metric.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa

from fairsweep.cluster import config
from fairsweep.cluster.config import Settings
from fairsweep.trainables.base import Paper

SEEDS = 2
FRESH = 1_000_000  # from the first seed of the pairs to the first one of tuning
Candidates = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Tuning:
    """The sweep `settings` in which arms are tuned. candidates: by claim and arm, the arm's own configuration first."""

    settings: Settings
    candidates: tuple[tuple[Candidates, ...], ...]
    objective: str
    mode: str

    @classmethod
    def of(
        cls, settings: Settings, candidates: tuple[tuple[Candidates, ...], ...], paper: type[Paper]
    ) -> Tuning:
        """The tuning of arms that will run as a sweep of `settings`."""
        configs = [c for arms in candidates for arm in arms if len(arm) > 1 for c in arm]
        unique = list({json.dumps(c): dict(c) for c in configs}.values())
        about = {"name": f"{settings.name}-tuning", "seed": settings.seed + FRESH, "seeds": SEEDS}
        metric = paper.metric(paper.objective)
        return cls(listed(settings, unique, about), candidates, metric.name, metric.mode)

    def choose(self, trials: pa.Table) -> list[tuple[dict[str, Any], ...]]:
        """By claim, the best candidate of each arm, from the trials of the sweep; of equals the first."""
        values: dict[str, list[float]] = {}
        for row in trials.select(["config_json", "state", "value"]).to_pylist():
            if row["state"] == "complete" and row["value"] is not None and math.isfinite(row["value"]):
                values.setdefault(row["config_json"], []).append(row["value"])
        sign = 1.0 if self.mode == "min" else -1.0

        def loss(candidate: Mapping[str, Any]) -> tuple[int, float]:
            found = values.get(json.dumps(candidate), [])
            # A candidate that failed under a seed ranks behind all that did not.
            return (SEEDS - len(found), sign * fmean(found) if found else math.inf)

        return [tuple(dict(sorted(arm, key=loss)[0]) for arm in arms) for arms in self.candidates]


def listed(
    settings: Settings, configs: Sequence[Mapping[str, Any]], about: Mapping[str, Any] | None = None
) -> Settings:
    """`settings`, a sweep over listed configurations, over others; `about`: further settings that change."""
    raw = {**settings.tree, **(about or {})}
    raw["search"] = {**raw["search"], "configs": [dict(c) for c in configs]}
    raw["budget"] = {**raw["budget"], "trials": len(configs)}
    return config.check(raw)
