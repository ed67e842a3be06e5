"""The answer of a comparison, from the rows of `comparisons`: who is best, by how much, how sure, what it cost.

A row is one *repeat* of a method on a data set: a whole search, its choice on validation data, and that choice trained
anew. All that is said here follows from the rows, so it can be said of a comparison that still runs.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fairsweep.analysis.comparing.blocks import ALPHA
from fairsweep.analysis.comparing.deciding import Decision, decide
from fairsweep.analysis.comparing.intervals import interval

UNEVEN = 0.9  # below this share of what another used, a budget was not the same
UNITS = {"trials": "trials", "steps": "steps", "minutes": "cost_s"}


@dataclass(frozen=True)
class Standing:
    """What became of a method. `value`: mean over data sets of the mean over repeats; `ci95` over repeats, None for
    fewer than two on a data set. By data set: `values`. Seconds of all its searches, and of the trainings of what
    they chose; trials that failed in them; repeats without a score.
    """

    method: str
    trainable: str
    fixed: Mapping[str, Any]
    value: float | None
    ci95: tuple[float, float] | None
    values: Mapping[str, float | None]
    search_s: float
    final_s: float
    trials: int
    steps: int
    failures: int
    failed: int


@dataclass(frozen=True)
class Answer:
    """`scores` (methods, data sets, repeats), NaN where a repeat failed or has not ended; `decision` None where nothing
    can be compared yet. `used`: method -> the least and the most that one of its searches used of the budget. `more`:
    what to do next, in a sentence, where there is something. `absent`: methods of the task that could not take part,
    and why."""

    run: str
    metric: str
    mode: str
    sentence: str
    decision: Decision | None
    standings: tuple[Standing, ...]
    data_sets: tuple[str, ...]
    repeats: tuple[int, ...]
    scores: np.ndarray = field(repr=False)
    budget: tuple[str, float] = ("trials", 0.0)
    used: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    more: str = ""
    absent: tuple[tuple[str, str], ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """The names, in the order in which they were given."""
        return tuple(s.method for s in self.standings)


def answer(rows: Sequence[Mapping[str, Any]], alpha: float = ALPHA, seed: int = 0) -> Answer:
    """What the rows of one run say. ValueError for no rows, and for rows of several runs or metrics."""
    if not rows:
        raise ValueError("rows: a comparison needs at least one")
    for column in ("run", "metric", "mode"):
        found = sorted({str(row[column]) for row in rows})
        if len(found) > 1:
            raise ValueError(f"rows: must be of one {column}, not of {', '.join(found)}")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    sets = list(dict.fromkeys(row["data"] for row in rows))
    repeats = sorted({row["repeat"] for row in rows})
    scores = np.full((len(methods), len(sets), len(repeats)), np.nan)
    for row in rows:
        if row["score"] is not None and math.isfinite(row["score"]):
            at = methods.index(row["method"]), sets.index(row["data"]), repeats.index(row["repeat"])
            scores[at] = row["score"]
    standings = tuple(_standing(m, rows, sets, scores[i], seed) for i, m in enumerate(methods))
    mode, decision, why = rows[0]["mode"], None, ""
    if len(methods) < 2:
        why = f"{methods[0]} is the only method: nothing to compare it with"
    # One that never came to a score would leave every block out, and nothing could be said of the others.
    there = [i for i in range(len(methods)) if np.isfinite(scores[i]).any()]
    if why:
        pass
    elif len(there) < 2 or not np.isfinite(scores[there]).all(0).any():
        why = "no repeat has a score of every method" if len(there) > 1 else _alone(methods, there)
    else:
        decision = decide(scores[there], mode, [methods[i] for i in there], sets, alpha, seed=seed)
    kind, amount = rows[0]["budget_kind"], float(rows[0]["budget"])
    used = {m: _used(m, rows, kind) for m in methods}
    notes = [*_parts(rows), *_uneven(used, kind, amount), *_failed(rows, methods), *_retrained(rows, methods)]
    if decision is not None and len(there) < len(methods):
        gone = ", ".join(m for i, m in enumerate(methods) if i not in there)
        notes.append(f"{gone}: without any score, left out of what is said of the others")
    if decision is not None:
        notes += decision.notes
        notes += _scales(decision, mode, rows[0]["metric"])
        if len(sets) == 1:
            notes.append(f"one data set: what holds on {sets[0]} need not hold on others")
    return Answer(
        str(rows[0]["run"]), rows[0]["metric"], mode, decision.sentence if decision else why, decision,
        standings, tuple(sets), tuple(repeats), scores, (kind, amount), used, tuple(notes),
        absent=tuple((each["method"], each["why"]) for each in json.loads(rows[0].get("left_out") or "[]")),
    )  # fmt: skip


def _standing(
    method: str, rows: Sequence[Mapping[str, Any]], sets: list[str], scores: np.ndarray, seed: int
) -> Standing:
    mine = [row for row in rows if row["method"] == method]
    by_set = {}
    for name, values in zip(sets, scores, strict=True):
        good = values[np.isfinite(values)]
        by_set[name] = float(good.mean()) if good.size else None
    known = [v for v in by_set.values() if v is not None]
    whole = len(known) == len(sets)

    def total(column: str) -> float:
        return sum(row[column] or 0 for row in mine)

    return Standing(
        method, mine[0]["trainable"], json.loads(mine[0]["fixed"] or "{}"),
        float(np.mean(known)) if whole else None, _ends(scores, seed) if whole else None, by_set,
        total("cost_s"), total("final_cost_s"), int(total("trials")), int(total("steps")),
        int(total("failures")), sum(row["state"] == "failed" for row in mine),
    )  # fmt: skip


def _ends(scores: np.ndarray, seed: int) -> tuple[float, float] | None:
    """95 % interval of the mean over data sets of `scores` (data sets, repeats), drawn within data sets."""
    good = [values[np.isfinite(values)] for values in scores]
    if any(values.size < 2 for values in good):
        return None
    if len(good) == 1:
        found = interval(good[0], seed=seed)
        return None if found.low is None or found.high is None else (found.low, found.high)
    rng = np.random.default_rng(seed)
    drawn = np.mean([rng.choice(v, (9999, v.size)).mean(1) for v in good], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _used(method: str, rows: Sequence[Mapping[str, Any]], kind: str) -> tuple[float, float]:
    column = UNITS[kind]
    found = [float(row[column] or 0) for row in rows if row["method"] == method]
    if kind == "minutes":
        found = [v / 60 for v in found]
    return min(found), max(found)


def _uneven(used: Mapping[str, tuple[float, float]], kind: str, amount: float) -> list[str]:
    """Says of methods that could not use the budget that others used, and of a budget that none could use."""
    most = max(high for _, high in used.values())
    said = [
        f"{method} used {low:.4g} of {most:.4g} {kind} in at least one search: it was compared at a smaller budget"
        for method, (low, _) in used.items()
        if low < UNEVEN * most
    ]
    if most < UNEVEN * amount:
        said.append(f"the budget was {amount:.4g} {kind} a search, of which none used more than {most:.4g}")
    return said


def _scales(decision: Decision, mode: str, metric: str) -> list[str]:
    """Says of pairs where the mean over data sets has another sign than what is tested."""
    sign, said = (1.0 if mode == "max" else -1.0), []
    for gap in decision.gaps:
        if gap.effect * gap.difference * sign < 0:
            ahead, behind = (gap.a, gap.b) if gap.effect > 0 else (gap.b, gap.a)
            said.append(
                f"{ahead} is ahead of {behind} where each data set is measured by its own spread, as the tests do, "
                f"though not in the mean of {metric}"
            )
    return said


def _alone(methods: Sequence[str], there: Sequence[int]) -> str:
    if not there:
        return "no method has a score"
    return f"{methods[there[0]]} is the only method with a score: nothing to compare it with"


def _failed(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[str]:
    """Says of methods how many of their repeats have no score, and why."""
    said = []
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        why = Counter(row.get("reason") for row in mine if row["state"] == "failed")
        if why:
            told = "; ".join(reason or "without a reason" for reason, _ in why.most_common(2))
            said.append(f"{method}: {sum(why.values())} of {len(mine)} repeats have no score: {told}")
    return said


def _retrained(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[str]:
    """Says of methods where a score is the mean of fewer trainings, as some failed."""
    said = []
    for method in methods:
        mine = [row for row in rows if row["method"] == method and row["state"] == "complete"]
        scores = [score for row in mine for score in json.loads(row.get("scores") or "[]")]
        lost = sum(score is None for score in scores)
        if lost:
            said.append(
                f"{method}: {lost} of {len(scores)} trainings of its choices failed, and its scores are means of the"
                " others; a method that fails where it is hard gains by that"
            )
    return said


def _parts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says where methods were not tested on the same examples, or nobody knows whether they were."""
    found: dict[tuple[str, int], dict[str, list[str]]] = {}
    unknown = set()
    for row in rows:
        test = json.loads(row["parts"] or "{}").get("test")
        if test is None:
            if row["state"] == "complete":
                unknown.add(row["method"])
        else:
            found.setdefault((row["data"], row["repeat"]), {}).setdefault(test, []).append(row["method"])
    said = []
    for (data, repeat), by_part in found.items():
        if len(by_part) > 1:
            groups = " and ".join(", ".join(names) for names in by_part.values())
            said.append(f"{data}, repeat {repeat}: {groups} were tested on different examples")
    if len(said) > 3:
        said = [*said[:2], f"and so in {len(said) - 2} more: these methods do not have the same splits"]
    if unknown:
        said.append(
            f"{', '.join(sorted(unknown))}: cannot say which examples are tested, so nobody has checked it"
        )
    return said


def jsonable(found: Answer) -> dict[str, Any]:
    """An answer as JSON holds it: scores by method, data set and repeat (null where there is none)."""
    decision = found.decision
    return {
        "run": found.run,
        "sentence": found.sentence,
        "next": found.more or None,
        "winner": None if decision is None else decision.winner,
        "metric": found.metric,
        "mode": found.mode,
        "methods": [asdict(s) for s in found.standings],
        "pairs": [] if decision is None else [asdict(gap) for gap in decision.gaps],
        "blocks": 0 if decision is None else decision.n,
        "left_out": [] if decision is None else list(decision.left_out),
        "data": list(found.data_sets),
        "repeats": list(found.repeats),
        "scores": {
            m: {
                d: [_finite(v) for v in row]
                for d, row in zip(found.data_sets, of_method.tolist(), strict=True)
            }
            for m, of_method in zip(found.methods, found.scores, strict=True)
        },
        "budget": {"kind": found.budget[0], "amount": found.budget[1], "used": dict(found.used)},
        "absent": [{"method": method, "why": why} for method, why in found.absent],
        "notes": list(found.notes),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
