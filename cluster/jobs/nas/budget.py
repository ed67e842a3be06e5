"""Single-Path NAS to a budget: `target_flops` and `target_ms`, what they ask for and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairsweep.analysis.fronts import keeps
from fairsweep.cluster import config
from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.algorithms.budget_search import SEARCHES, TOLERANCE, deviation
from fairsweep.trainables.base import Paper

KNOB = "lmbda"
# word -> (the column of `architectures` that it is about, the trainer's `cost` that a search then lowers)
WORDS = {"target_flops": ("flops", "flops"), "target_ms": ("latency_ms", "latency")}
DECIDED = ("algorithm.values", "algorithm.seeds")  # by a search to a budget itself


@dataclass(frozen=True)
class Budget:
    """word: target_flops or target_ms. value: in multiply-accumulates, or in milliseconds as the table of blocks
    predicts them. column, cost: see `WORDS`."""

    word: str
    value: float
    column: str
    cost: str


def budget_of(tree: Mapping[str, Any]) -> Budget | None:
    """The budget that a configuration asks for. Those of earlier versions have no such word."""
    for word, (column, cost) in WORDS.items():
        if tree.get(word) is not None:
            return Budget(word, float(tree[word]), column, cost)
    return None


def refuse_decided(overrides: list[str]) -> None:
    """UserError if the words of a command fix what a search to a budget decides itself."""
    overrides = [o.lstrip("+") for o in overrides]
    asked = next((o for o in overrides if o.split("=")[0] in WORDS and not o.endswith("=null")), None)
    for word in overrides if asked else ():
        if word.split("=")[0] in (*DECIDED, "target"):
            raise UserError(f"{word}: has no meaning with {asked}, which bisects {KNOB}; leave it out")


def applied(raw: Mapping[str, Any], trainer: type[Paper] | None) -> dict[str, Any]:
    """The configuration with what its budget implies; as it is without one. UserError if it can have none.

    trainer: the paper that is run at different values of its setting; None if the algorithm is of another kind.
    """
    for word in WORDS:
        if raw.get(word) is not None:
            config.number(raw, word, float, low=0, open_low=True)
    budget = budget_of(raw)
    if budget is None:
        return dict(raw)
    chosen = raw["algorithm"]
    others = [word for word in WORDS if word != budget.word and raw.get(word) is not None]
    if others:
        raise UserError(
            f"{others[0]}={raw[others[0]]}: there is {budget.word}={raw[budget.word]} already; leave one out"
        )
    if trainer is None or chosen.get("knob") != KNOB or KNOB not in trainer.space().parameters:
        raise UserError(
            f"{budget.word}={raw[budget.word]}: algorithm={chosen['name']} has none; single_path does"
            f" (constraint.{budget.column} limits others)"
        )
    given = chosen["config"].get("cost", budget.cost)
    if given != budget.cost:
        raise UserError(f"algorithm.config.cost={given}: must be {budget.cost} with {budget.word}")
    low, high = bounds(trainer)
    settled = {
        "values": [(low * high) ** 0.5],
        "seeds": 1,
        "config": {**chosen["config"], "cost": budget.cost},
    }
    return {**raw, "algorithm": {**chosen, **settled}}


def bounds(trainer: type[Paper]) -> tuple[float, float]:
    """Between which values of its setting a search to a budget looks: those of the trainer's space."""
    knob: Any = trainer.space().parameters[KNOB]
    return float(knob.low), float(knob.high)


def check_reach(budget: Budget, least: float, most: float) -> None:
    """UserError unless networks that cost from `least` to `most` come within the tolerance."""
    if not least / (1 + TOLERANCE) <= budget.value <= most / (1 - TOLERANCE):
        raise UserError(
            f"{budget.word}={_amount(budget.value)}: must be from {_amount(least)} to {_amount(most)}, what networks of"
            " this space cost"
        )


def check_limits(limits: Mapping[str, float], least: Mapping[str, float]) -> None:
    """UserError if no network of the space keeps a limit. least: what the cheapest costs, by the name of the cost."""
    for name, limit in limits.items():
        if name in least and limit < least[name]:
            raise UserError(
                f"constraint.{name}={_amount(limit)}: must be at least {_amount(least[name])}, what the cheapest"
                " network of this space costs"
            )


def check_agreement(tree: Mapping[str, Any]) -> None:
    """UserError if a limit on the cost that a budget is about excludes all that is near enough to it."""
    budget = budget_of(tree)
    limit = None if budget is None else tree["constraint"].get(budget.column)
    if budget is None or limit is None:
        return
    least = budget.value * (1 - TOLERANCE)
    if limit < least:
        raise UserError(
            f"constraint.{budget.column}={_amount(limit)}: must be at least {_amount(least)} with"
            f" {budget.word}={_amount(budget.value)}; leave it out"
        )


def answer(tree: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """How near the searches of a run have come to its budget; None without one or without a network.

    rows: of the table `architectures`.
    """
    budget = budget_of(tree)
    if budget is None or not rows:
        return None
    limits = {name: limit for name, limit in tree.get("constraint", {}).items() if limit is not None}
    kept = [row for row in rows if keeps(row, limits)]
    row = min(kept or rows, key=lambda r: (abs(deviation(r[budget.column], budget.value)), r["number"]))
    off = deviation(row[budget.column], budget.value)
    return {
        "word": budget.word,
        "target": budget.value,
        "cost": row[budget.column],
        "deviation": off,
        "within": bool(kept) and abs(off) <= TOLERANCE,
        "kept": bool(kept),
        "number": row["number"],
        "architecture": row["architecture"],
        "options": row["options"],
        "searches": len(rows),
    }


def in_words(found: Mapping[str, Any]) -> str:
    """One line on an `answer`."""
    nearest = "" if found["within"] else f", the nearest: none is within {TOLERANCE:.0%}"
    if not found["kept"]:
        nearest = ", the nearest; but none keeps the limits"
    return (
        f"{found['word']}={_amount(found['target'])}: {_amount(found['cost'])} ({found['deviation']:+.1%}) after"
        f" {found['searches']} of at most {SEARCHES} searches{nearest}; {found['architecture']} {found['options']}"
    )


def _amount(cost: float) -> str:
    return f"{cost:,.6g}"
