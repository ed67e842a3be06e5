"""Does a claim hold? Paired comparisons over seeds, and the rule by which they are judged.

The rule, fixed before any run: the effect is the mean over seeds of treatment - baseline, or for a claim
about a ratio the geometric mean of treatment / baseline, or for a claim about a value the mean of that of the
treatment. With its two-sided 95 % interval (Student's t over the seeds, of logarithms for a ratio) something
*holds* if the whole interval is on the claimed side of a bound, *fails* if the whole interval is on the
other side, and is *inconclusive* otherwise. That is asked twice: of the *direction*, where the bound is no effect
(0, or 1 for a ratio), and of the *size*, where it is the claim's margin. Where no pair differs at all, nothing points
in the claimed direction: that fails.

How far a verdict can be trusted is its `replication`: the probability that a run on as many fresh seeds ends
with the same one. A verdict near its margin is a toss of a coin, however it fell; more seeds tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from fairsweep.analysis.statistics import LEVEL, summary

DIRECTIONS = ("at_least", "at_most")
KINDS = ("difference", "ratio", "value")
DRAWS = 20_000  # of a replication: its probability to within a hundredth


@dataclass(frozen=True)
class Verdict:
    """On which side of `bound` an effect is. replication: see `replication`; None where there is no interval."""

    bound: float
    verdict: str
    reason: str
    replication: float | None = None


@dataclass(frozen=True)
class Judged:
    """`effect` and `ci95` in the claim's unit (None where there are too few pairs), and the two verdicts on them."""

    effect: float | None
    ci95: tuple[float, float] | None
    pairs: int
    direction: Verdict
    size: Verdict


def judge(
    treatment: Sequence[float],
    baseline: Sequence[float],
    kind: str,
    direction: str,
    margin: float,
    null: float | None = None,
) -> Judged:
    """Judges pairs of values, the i-th of both under the same seed, by the rule above; of a value, without `baseline`.

    null: the effect that is none, if it is not 1 for a ratio and 0 otherwise. ValueError for another `kind` or
    `direction` than the known ones, and for unequal lengths.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: must be {' or '.join(KINDS)}")
    if kind == "value":
        baseline = [0.0] * len(treatment)
    if direction not in DIRECTIONS:
        raise ValueError(f"direction={direction!r}: must be {' or '.join(DIRECTIONS)}")
    if len(treatment) != len(baseline):
        raise ValueError(f"judge: {len(treatment)} values against {len(baseline)}; each needs its pair")
    n, bounds = len(treatment), ((1.0 if kind == "ratio" else 0.0) if null is None else null, margin)

    def open_with(effect: float | None, reason: str) -> Judged:
        return Judged(effect, None, n, *(Verdict(bound, "inconclusive", reason) for bound in bounds))

    if kind == "ratio":
        if any(v <= 0 for v in (*treatment, *baseline)):
            return open_with(None, "a ratio needs positive values")
        found = summary([math.log(t / b) for t, b in zip(treatment, baseline, strict=True)])
        back: Callable[[float], float] = math.exp
        forth: Callable[[float], float] = math.log
    else:
        found = summary([t - b for t, b in zip(treatment, baseline, strict=True)])
        back = forth = float
    if found.mean is None or found.sd is None or found.ci95 is None:
        effect = None if found.mean is None else back(found.mean)
        return open_with(effect, f"{n} pairs of seeds; an interval needs two")
    low, high = (back(x) for x in found.ci95)
    sign = 1.0 if direction == "at_least" else -1.0
    verdicts = []
    for bound in bounds:
        if low == high == bound == bounds[0]:  # better is not what no pair shows anything of
            verdicts.append(Verdict(bound, "fails", "no pair differs", 1.0))
            continue
        beyond = low >= bound if direction == "at_least" else high <= bound
        short = high < bound if direction == "at_least" else low > bound
        verdict = "holds" if beyond else "fails" if short else "inconclusive"
        where = {"holds": "all of", "fails": "none of", "inconclusive": "a part of"}[verdict]
        again = replication(sign * (found.mean - forth(bound)), found.sd, n, verdict)
        reason = f"{where} the interval is {direction.replace('_', ' ')} {bound:g}"
        verdicts.append(Verdict(bound, verdict, reason, again))
    return Judged(back(found.mean), (low, high), n, *verdicts)


def replication(excess: float, sd: float, n: int, verdict: str) -> float:
    """Probability that `n` fresh pairs give `verdict`, if these have shown the mean `excess` over the margin and `sd`.

    The posterior predictive under Jeffreys' prior of a normal mean and variance (Gelman et al., Bayesian Data
    Analysis, section 3.2), by `DRAWS` draws of a fixed generator, so that it is the same whenever it is asked for.
    """
    rng = np.random.default_rng(0)
    sigma = sd * np.sqrt((n - 1) / rng.chisquare(n - 1, DRAWS))
    mean = excess + sigma * math.sqrt(2 / n) * rng.standard_normal(DRAWS)
    half = stats.t.ppf(0.5 + LEVEL / 2, n - 1) * sigma * np.sqrt(rng.chisquare(n - 1, DRAWS) / (n - 1) / n)
    holds, fails = mean - half >= 0, mean + half < 0
    return float({"holds": holds, "fails": fails, "inconclusive": ~(holds | fails)}[verdict].mean())


def values_by_seed(
    trials: pa.Table, results: pa.Table, config_json: str, metric: str
) -> tuple[dict[int, float], list[str]]:
    """`metric` of each complete trial of one configuration, by seed, and why the others have none.

    A test metric is that of the trial; any other is the one reported at the trial's best step.
    """
    column = f"metric.{metric}"
    found: dict[int, float] = {}
    missing = []
    at_best = _at_best_step(trials, results, column) if column in results.column_names else {}
    for row in trials.to_pylist():
        if row["config_json"] != config_json:
            continue
        value = row.get(column)
        value = at_best.get(row["trial"]) if value is None else value
        if row["state"] == "complete" and value is not None and math.isfinite(value):
            found[row["seed"]] = value
        else:
            missing.append(f"seed {row['seed']}: {row['state']}, {row['reason'] or f'no {metric}'}")
    return found, missing


def _at_best_step(trials: pa.Table, results: pa.Table, column: str) -> dict[str, float]:
    best = dict(zip(trials.column("trial").to_pylist(), trials.column("best_step").to_pylist(), strict=True))
    rows = results.select(["trial", "step", column]).to_pylist()
    return {row["trial"]: row[column] for row in rows if best.get(row["trial"]) == row["step"]}


def compare(
    trials: pa.Table,
    results: pa.Table,
    treatment_json: str,
    baseline_json: str | None,
    claim: Mapping[str, Any],
) -> tuple[Judged, list[str], float]:
    """What is judged of a claim (`metric`, `kind`, `direction`, `margin`, `null`), what was left out of it and why, and
    what its trials cost in seconds.

    baseline_json: None for a claim about a value.
    """
    configs = [c for c in (treatment_json, baseline_json) if c is not None]
    arms = [values_by_seed(trials, results, config, claim["metric"]) for config in configs]
    seeds = sorted(set.intersection(*(set(values) for values, _ in arms)))
    values = [[arm[s] for s in seeds] for arm, _ in arms]
    found = judge(
        values[0],
        values[1] if len(arms) > 1 else [],
        claim["kind"],
        claim["direction"],
        claim["margin"],
        claim.get("null"),
    )
    left_out = [
        f"{name} {why}" for name, arm in zip(("treatment", "baseline"), arms, strict=False) for why in arm[1]
    ]
    cost = sum(
        row["cost_s"] or 0.0
        for row in trials.select(["config_json", "cost_s"]).to_pylist()
        if row["config_json"] in configs
    )
    return found, left_out, cost
