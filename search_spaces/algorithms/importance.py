"""How much of what a sweep saw follows from which hyperparameter: of trials stopped early and under conditions too.

`fanova` (Hutter et al., ICML 2014) says how much of the variance over the whole space a parameter explains,
`ped_anova` (Watanabe et al., IJCAI 2023) how much it decides who is among the best. Both look at ranks, so that a
diverged trial does not outweigh all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fairsweep.search_spaces.algorithms import fanova, ped_anova
from fairsweep.search_spaces.algorithms.base import Outcome
from fairsweep.search_spaces.algorithms.equal_fidelity import Level, common_level, level_at, levels
from fairsweep.search_spaces.space import Parameter, Space

METHODS = ("fanova", "ped_anova")
COMMON = 0.8  # of the configurations that have come to a fidelity, for it to be chosen
FEWEST = 10  # configurations of which anything is said
MOST = 500  # of which a forest is made
TREES = 100  # of it, each of another resample of the configurations
DRAWS = 200  # of a bootstrap over configurations
ELSEWHERE = 5  # other fidelities that are looked at
BRIEF = 20  # trees, where all that is asked is which parameter is first
ENOUGH_BEST = 5  # configurations among the best (Optuna's advice for PED-ANOVA)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Of one parameter, or of two together beyond what each explains alone.

    share: fANOVA: of the variance of the configurations' ranks; PED-ANOVA: of the sum of all parameters' divergences.
    Among the parameters that all the configurations have in which it exists; None where `reason` says why.
    low, high: 95 % of the shares of resampled configurations (percentiles). first: in how many of these, 0 to 1, it
    was the first of the parameters beside it.
    configurations: how many have it. conditions: when it exists, empty for always.
    """

    parameter: str
    share: float | None
    configurations: int
    low: float | None = None
    high: float | None = None
    first: float | None = None
    conditions: str = ""
    reason: str = ""
    other: str = ""


@dataclass(frozen=True)
class Answer:
    """level: the fidelity at which values were compared. rows: every searched parameter, the greatest first. pairs: of
    fANOVA, likewise, where one of the two exists whenever the other does. elsewhere: at some other fidelities: step,
    configurations and the parameter that is first among those. notes: what a reader should know."""

    method: str
    level: Level
    rows: list[Importance]
    pairs: list[Importance]
    elsewhere: list[tuple[int | None, int, str]]
    notes: list[str]


@dataclass(frozen=True)
class Measure:
    """How importance is estimated. quantile, region: of PED-ANOVA: of the configurations that are among the best
    `region`, what sets those apart that are among the best `quantile` (of all). brief: no spread, no pairs and a small
    forest. ValueError for what cannot be."""

    method: str = "fanova"
    quantile: float = 0.1
    region: float = 1.0
    seed: int = 0
    brief: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method}: must be {' or '.join(METHODS)}")
        if not 0 < self.region <= 1:
            raise ValueError(f"region={self.region:g}: must be above 0, and at most 1 (all configurations)")
        if not 0 < self.quantile < self.region:
            raise ValueError(f"quantile={self.quantile:g}: must be above 0 and below region={self.region:g}")
        if self.method == "fanova" and (self.quantile, self.region) != (0.1, 1.0):
            raise ValueError("method=fanova: takes no quantile and no region; ped_anova does")


@dataclass(frozen=True)
class _Group:
    """Parameters that are judged side by side. draws: (resamples, k) shares; pairs: (resamples, k, k) or None."""

    names: tuple[str, ...] = ()
    shares: Floats | None = None
    draws: Floats | None = None
    pairs: Floats | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()


def importances(
    space: Space,
    configs: Mapping[int, Mapping[str, Any]],
    outcomes: Mapping[int, Outcome],
    step: int | str | None = None,
    measure: Measure | None = None,
    mode: str = "min",
) -> Answer:
    """The importance of every searched parameter, at one fidelity.

    step: the milestone to compare at, or "end"; else the highest fidelity that `COMMON` of all configurations have come
    to: what came further was chosen by its value, and among the chosen what mattered most differs least.
    mode: whether less is better (min) or more, which PED-ANOVA asks.

    Each parameter is judged within the configurations that have it: Optuna's fANOVA leaves a conditional one out, its
    PED-ANOVA gives it 0 where its branch is not among the best.
    """
    measure = measure or Measure()
    level = (
        common_level(outcomes, COMMON)
        if step is None
        else level_at(outcomes, None if step == "end" else int(step))
    )
    rows, pairs, notes = _at(space, configs, level, measure, mode)
    others = {len(o.values): o for o in levels(outcomes) if o.step != level.step and len(o.values) >= FEWEST}
    others.pop(len(level.values), None)
    kept = list(others.values())[:: -(-len(others) // ELSEWHERE) or 1]
    found = [(o.step, len(o.values), first_at(space, configs, o, measure, mode)) for o in kept]
    elsewhere = [(at, many, name) for at, many, name in found if name]
    return Answer(measure.method, level, rows, pairs, elsewhere, notes)


def first_at(
    space: Space, configs: Mapping[int, Mapping[str, Any]], level: Level, measure: Measure, mode: str
) -> str | None:
    """The parameter with the greatest importance at a fidelity, by a small forest and without its spread; None where
    nothing can be said."""
    rows, _, _ = _at(space, configs, level, replace(measure, brief=True), mode)
    return rows[0].parameter if rows and rows[0].share is not None else None


def _at(
    space: Space, configs: Mapping[int, Mapping[str, Any]], level: Level, measure: Measure, mode: str
) -> tuple[list[Importance], list[Importance], list[str]]:
    """Rows, pairs and notes."""
    values = {n: v if mode == "min" else -v for n, v in level.values.items() if not math.isnan(v)}
    searched = {n: space.suggestable(configs[n]) for n in values}
    having = {
        name: frozenset(n for n, config in searched.items() if name in config)
        for name, p in space.parameters.items()
        if not p.fixed
    }
    groups: dict[frozenset[int], _Group] = {}

    def group(members: frozenset[int]) -> _Group:
        if members not in groups:
            groups[members] = _group(space, {n: searched[n] for n in sorted(members)}, values, measure)
        return groups[members]

    rows = [_row(space.parameters[name], group(members), len(members)) for name, members in having.items()]
    pairs = []
    if measure.method == "fanova" and not measure.brief:
        names = list(having)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                both = having[a] & having[b]
                if both in (having[a], having[b]):  # else another forest for each two conditions that overlap
                    pairs += _pair(a, b, group(both), len(both))
    notes = list(dict.fromkeys(note for g in groups.values() for note in g.notes))
    return _sorted(rows), _sorted(pairs), notes


def _sorted(rows: Sequence[Importance]) -> list[Importance]:
    return sorted(rows, key=lambda i: -1.0 if i.share is None else i.share, reverse=True)


def _row(p: Parameter, group: _Group, many: int) -> Importance:
    conditions = " and ".join(f"{k}={' or '.join(map(str, v))}" for k, v in p.when.items())
    row = Importance(p.name, None, many, conditions=conditions)
    if group.shares is None or group.draws is None:
        return replace(row, reason=group.reason)
    if p.name not in group.names:
        return replace(row, reason=f"has one value in all {many} configurations")
    i = group.names.index(p.name)
    share, drawn = float(group.shares[i]), group.draws
    first = float(np.mean(drawn.argmax(axis=1) == i)) if len(drawn) else None
    low, high = _interval(share, drawn[:, i])
    return replace(row, share=share, low=low, high=high, first=first)


def _pair(a: str, b: str, group: _Group, many: int) -> list[Importance]:
    if group.pairs is None or a not in group.names or b not in group.names:
        return []
    drawn = group.pairs[:, group.names.index(a), group.names.index(b)]
    share = float(drawn.mean())
    return [Importance(a, share, many, *_interval(share, drawn), other=b)]


def _interval(share: float, drawn: Floats) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (share, share)
    return min(float(low), share), max(float(high), share)


def _group(
    space: Space, configs: Mapping[int, Mapping[str, Any]], values: Mapping[int, float], measure: Measure
) -> _Group:
    """Of the parameters that all of `configs` have, in more than one value."""
    if len(configs) < FEWEST:
        return _Group(reason=f"{len(configs)} configurations have it; importance needs at least {FEWEST}")
    y = rankdata([values[n] for n in configs])
    if y.min() == y.max():
        return _Group(reason=f"the values of all {len(configs)} configurations are equal")
    shared = set.intersection(*(set(config) for config in configs.values()))
    names = tuple(n for n in space.parameters if n in shared and len({c[n] for c in configs.values()}) > 1)
    if not names:
        return _Group(reason=f"has one value in all {len(configs)} configurations")
    parameters, rows = [space.parameters[n] for n in names], list(configs.values())
    return (_fanova if measure.method == "fanova" else _ped_anova)(parameters, rows, y, measure)


def _fanova(
    parameters: Sequence[Parameter], configs: Sequence[Mapping[str, Any]], y: Floats, measure: Measure
) -> _Group:
    names, notes = tuple(p.name for p in parameters), []
    if len(y) > MOST:
        notes.append(f"the forests are made of {MOST} of {len(y)} configurations, drawn at random")
        kept = np.sort(np.random.default_rng(measure.seed).choice(len(y), MOST, replace=False))
        configs, y = [configs[i] for i in kept], y[kept]
    axes = [fanova.Axis.of(p) for p in parameters]
    found = fanova.shares(
        axes, fanova.encode(axes, configs), y, BRIEF if measure.brief else TREES, measure.seed
    )
    if not len(found.single):
        return _Group(reason="no value of a parameter that is searched makes a difference")
    if found.fit < 0.2:
        explained = f"{max(found.fit, 0):.0%} of the variance of configurations that it has not seen"
        notes.append(
            f"the forest over {', '.join(names)} explains {explained}: most of what it says is noise"
        )
    return _Group(names, found.single.mean(axis=0), found.single, found.pairs, notes=tuple(notes))


def _ped_anova(
    parameters: Sequence[Parameter], configs: Sequence[Mapping[str, Any]], y: Floats, measure: Measure
) -> _Group:
    names, n, notes = tuple(p.name for p in parameters), len(y), []
    once = np.ones(n)
    top, wide = (int(ped_anova.best(y, once, q).sum()) for q in (measure.quantile, measure.region))
    if wide < FEWEST:
        return _Group(reason=f"{wide} configurations are among the best {measure.region:.0%}; needs {FEWEST}")
    if top == wide:
        return _Group(reason=f"{top} configurations tie, so that none is better than the rest of the region")
    if top < ENOUGH_BEST:
        enough = f"--quantile {math.ceil(100 * ENOUGH_BEST / n) / 100:g} has {ENOUGH_BEST}"
        notes.append(
            f"{top} of {n} configurations are the best {measure.quantile:.0%}, which is few; {enough}"
        )
    grids = [
        ped_anova.Grid.of(p, [c[name] for c in configs]) for name, p in zip(names, parameters, strict=True)
    ]
    rng = np.random.default_rng(measure.seed)
    draws = []
    for k in range(1 if measure.brief else DRAWS + 1):  # the first is the sweep itself
        weights = once if k == 0 else np.bincount(rng.integers(n, size=n), minlength=n).astype(float)
        found = ped_anova.divergences(grids, y, weights, measure.quantile, measure.region)
        if k == 0 and not found.sum() > 0:
            return _Group(reason="the best are spread as all are, in every parameter")
        if found.sum() > 0:  # else a resample whose best tie
            draws.append(found / found.sum())
    return _Group(names, draws[0], np.array(draws[1:]).reshape(-1, len(names)), notes=tuple(notes))
