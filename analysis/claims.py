"""Does a claim hold? Paired comparisons over seeds, and the rule by which they are judged.

The rule, fixed before any run: the effect is the mean over seeds of treatment - baseline, or for a claim
about a ratio the geometric mean of treatment / baseline. With its two-sided 95 % interval (Student's t over
the seeds, of logarithms for a ratio) a claim *holds* if the whole interval is on the claimed side of the
margin, *fails* if the whole interval is on the other side, and is *inconclusive* otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from analysis.statistics import summary

DIRECTIONS = ("at_least", "at_most")
KINDS = ("difference", "ratio")


@dataclass(frozen=True)
class Verdict:
    """`effect` and `ci95` in the claim's unit (None where there are too few pairs); `reason` says why so."""

    verdict: str
    effect: float | None
    ci95: tuple[float, float] | None
    pairs: int
    reason: str


def judge(
    treatment: Sequence[float], baseline: Sequence[float], kind: str, direction: str, margin: float
) -> Verdict:
    """Judges pairs of values, the i-th of both under the same seed, by the rule above.

    ValueError for another `kind` or `direction` than the known ones, and for unequal lengths.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: must be {' or '.join(KINDS)}")
    if direction not in DIRECTIONS:
        raise ValueError(f"direction={direction!r}: must be {' or '.join(DIRECTIONS)}")
    if len(treatment) != len(baseline):
        raise ValueError(f"judge: {len(treatment)} values against {len(baseline)}; each needs its pair")
    n = len(treatment)
    if kind == "ratio" and any(v <= 0 for v in (*treatment, *baseline)):
        return Verdict("inconclusive", None, None, n, "a ratio needs positive values")
    if kind == "ratio":
        found = summary([math.log(t / b) for t, b in zip(treatment, baseline, strict=True)])
        back = math.exp
    else:
        found = summary([t - b for t, b in zip(treatment, baseline, strict=True)])
        back = float
    if found.mean is None or found.ci95 is None:
        effect = None if found.mean is None else back(found.mean)
        return Verdict("inconclusive", effect, None, n, f"{n} pairs of seeds; an interval needs two")
    low, high = (back(x) for x in found.ci95)
    beyond = low >= margin if direction == "at_least" else high <= margin
    short = high < margin if direction == "at_least" else low > margin
    verdict = "holds" if beyond else "fails" if short else "inconclusive"
    word = direction.replace("_", " ")
    where = {"holds": "all of", "fails": "none of", "inconclusive": "a part of"}[verdict]
    return Verdict(verdict, back(found.mean), (low, high), n, f"{where} the interval is {word} {margin:g}")


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
    baseline_json: str,
    claim: Mapping[str, Any],
) -> tuple[Verdict, float]:
    """The verdict on a claim (`metric`, `kind`, `direction`, `margin`) and what its trials cost in seconds."""
    arms = [
        values_by_seed(trials, results, config, claim["metric"]) for config in (treatment_json, baseline_json)
    ]
    seeds = sorted(set(arms[0][0]) & set(arms[1][0]))
    found = judge(
        [arms[0][0][s] for s in seeds],
        [arms[1][0][s] for s in seeds],
        claim["kind"],
        claim["direction"],
        claim["margin"],
    )
    left_out = [
        f"{name} {why}" for name, arm in zip(("treatment", "baseline"), arms, strict=True) for why in arm[1]
    ]
    if left_out:
        found = replace(found, reason=f"{found.reason}; left out: {'; '.join(left_out)}")
    cost = sum(
        row["cost_s"] or 0.0
        for row in trials.select(["config_json", "cost_s"]).to_pylist()
        if row["config_json"] in (treatment_json, baseline_json)
    )
    return found, cost
