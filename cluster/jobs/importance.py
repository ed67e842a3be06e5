"""What a store knows of a sweep's configurations, for the importance of its hyperparameters."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from fairsweep.analysis.store import Store
from fairsweep.cluster.engine.trial import Trial, combine
from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.algorithms import Outcome
from fairsweep.search_spaces.algorithms.equal_fidelity import level_at
from fairsweep.search_spaces.algorithms.importance import (
    FEWEST,
    Answer,
    Importance,
    Measure,
    first_at,
    importances,
)
from fairsweep.search_spaces.space import Space, SpaceError

AT_REST = ("complete", "paused", "pruned")
STOPPED = "stopped before"
COLUMNS = pa.schema(
    [
        ("objective", pa.string()),
        ("parameter", pa.string()),
        ("other", pa.string()),
        ("importance", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("first", pa.float64()),
        ("configurations", pa.int64()),
        ("conditions", pa.string()),
        ("reason", pa.string()),
        ("method", pa.string()),
        ("step", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Known:
    """configs, outcomes: of the configurations all of whose seeds have come to rest. alone: seed -> outcomes under it
    alone, where there are several. left_out: why -> how many others."""

    configs: dict[int, dict[str, Any]]
    outcomes: dict[int, Outcome]
    alone: dict[int, dict[int, Outcome]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """Of one objective. left_out: why -> how many configurations are not in the answer. by_seed: seed -> the parameter
    that is first by the trials of that seed alone, where there are several seeds."""

    objective: str
    mode: str
    answer: Answer
    left_out: Mapping[str, int]
    by_seed: Mapping[int, str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One a parameter, the greatest first, in the columns of `COLUMNS`."""
        return self._rows(self.answer.rows)

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """One a pair, likewise; `other` is its second parameter."""
        return self._rows(self.answer.pairs)

    def _rows(self, found: Sequence[Importance]) -> list[dict[str, Any]]:
        about = {"objective": self.objective, "method": self.answer.method, "step": self.answer.level.step}
        rows = []
        for i in found:
            row = {k: v if v != "" else None for k, v in asdict(i).items() if k != "share"}
            rows.append({**dict.fromkeys(COLUMNS.names), **row, **about, "importance": i.share})
        return rows

    def to_json(self) -> dict[str, Any]:
        """All that is known, for machines."""
        elsewhere = [
            dict(zip(("step", "configurations", "first"), e, strict=True)) for e in self.answer.elsewhere
        ]
        return {
            "objective": self.objective,
            "mode": self.mode,
            "step": self.answer.level.step,
            "configurations": len(self.answer.level.values),
            "left_out": dict(self.left_out),
            "importance": self.rows,
            "pairs": self.pairs,
            "elsewhere": elsewhere,
            "by_seed": {str(seed): first for seed, first in self.by_seed.items()},
            "sentence": self.sentence,
            "notes": self.notes,
        }

    @property
    def where(self) -> str:
        """At which fidelity the values were compared."""
        step = self.answer.level.step
        return "the end of training" if step is None else f"step {step}"

    @property
    def sentence(self) -> str:
        """The answer in words."""
        n, first = len(self.answer.level.values), self.answer.rows[0] if self.answer.rows else None
        compared = f"{n} configurations compared at {self.where}"
        if first is None or first.share is None:
            return f"{self.objective}: nothing can be said of {compared}"
        what = "of the variance of ranks" if self.answer.method == "fanova" else "of what sets the best apart"
        spread = "" if first.low is None else f" [{first.low:.2f}, {first.high:.2f}]"
        sure = "" if first.first is None else f", the first in {first.first:.0%} of resamples"
        others = list(dict.fromkeys(o for _, _, o in self.answer.elsewhere if o != first.parameter))
        but = f", but at other steps {' and '.join(others)} is the first (see the notes)" if others else ""
        return (
            f"{self.objective}: {first.parameter} has {first.share:.2f}{spread} {what}{sure}; {compared}{but}"
        )

    @property
    def notes(self) -> list[str]:
        """What a reader should know: who is left out, what other steps say, how far seeds agree."""
        notes = list(self.answer.notes)
        if self.left_out:
            notes.append("left out: " + ", ".join(f"{n} {why}" for why, n in self.left_out.items()))
        if any(why.startswith(STOPPED) for why in self.left_out):
            notes.append("those that were stopped did worse: this is importance among the better ones")
        for step, many, first in self.answer.elsewhere:
            where = "the end" if step is None else f"step {step}"
            fewer = ", chosen by early stopping," if many < len(self.answer.level.values) else ""
            notes.append(
                f"at {where}, of the {many} configurations that came there{fewer} {first} is the first"
            )
        if self.by_seed:
            firsts = Counter(self.by_seed.values()).most_common()
            said = ", ".join(f"{name} by {n}" for name, n in firsts)
            notes.append(f"the first by the trials of one seed alone: {said} of {len(self.by_seed)} seeds")
        return notes


def asked(
    step: int | str | None, method: str, quantile: float = 0.1, region: float = 1.0, seed: int = 0
) -> tuple[int | str | None, Measure]:
    """What a user asks for, read. UserError in one line for what cannot be."""
    if isinstance(step, str) and step != "end":
        if not step.isdecimal():
            raise UserError(f"step={step}: must be a whole number of at least 1, or end")
        step = int(step)
    if isinstance(step, int) and (isinstance(step, bool) or step < 1):
        raise UserError(f"step={step}: must be a whole number of at least 1, or end")
    try:
        return step, Measure(method, quantile, region, seed)
    except ValueError as error:
        raise UserError(str(error)) from None


def of_sweep(
    store: Store,
    name: str,
    step: int | str | None = None,
    measure: Measure | None = None,
    objective: str | None = None,
) -> list[Said]:
    """The importance of a sweep's hyperparameters, of each of its objectives or of one; see `importances`.

    step: a step, "end" or None. UserError if too little is known, or there is no such objective.
    """
    record = store.read(name)
    if not record.sweep.get("space"):
        raise UserError(f"{name}: is no sweep over hyperparameters")
    modes: dict[str, str] = json.loads(record.sweep.get("objectives") or "null") or {
        record.sweep["objective"]: record.sweep["mode"]
    }
    if objective is not None and objective not in modes:
        raise UserError(
            f"metric={objective}: is no objective of {name}; {' and '.join(modes)} can be asked for"
        )
    try:
        space = Space.from_yaml(record.sweep["space"], source=name, papers=False)
        known = {o: _known(record, space, o) for o in modes if objective in (None, o)}
    except (SpaceError, TypeError):
        raise UserError(f"{name}: is no sweep over hyperparameters") from None
    return [_said(name, space, o, modes[o], k, step, measure or Measure()) for o, k in known.items()]


def as_table(said: Sequence[Said], pairs: bool = False) -> pa.Table:
    """All rows, an objective after the other; with `pairs` those of two parameters too, which name the `other`."""
    rows = [row for s in said for row in (*s.rows, *(s.pairs if pairs else ()))]
    about = {"sentences": json.dumps([s.sentence for s in said])}
    about["notes"] = json.dumps({s.objective: s.notes for s in said})
    return pa.Table.from_pylist(rows, schema=COLUMNS).replace_schema_metadata(about)


def _said(
    name: str, space: Space, objective: str, mode: str, known: Known, step: int | str | None, measure: Measure
) -> Said:
    answer = importances(space, known.configs, known.outcomes, step, measure, mode)
    level, left_out = answer.level, dict(known.left_out)
    if len(level.values) < FEWEST:
        at = "that came to the end" if step == "end" else f"that came to step {step}"
        at = "that have ended" if step is None else at
        raise UserError(
            f"{name}: has {len(level.values)} configurations {at}; importance needs at least {FEWEST}"
        )
    before = len(known.configs) - len(level.values)
    if before:
        where = "the end" if level.step is None else f"step {level.step}"
        left_out[f"{STOPPED} {where}"] = before
    by_seed = {}
    for seed, outcomes in known.alone.items():
        alone = level_at(outcomes, level.step)
        if first := first_at(space, known.configs, alone, measure, mode):
            by_seed[seed] = first
    return Said(objective, mode, answer, left_out, by_seed)


def _known(record: Any, space: Space, objective: str) -> Known:
    """Configurations and what became of them, with their best up to each step at which any was stopped."""
    # What a copy of another trial came to (scheduler=pbt) is not of its configuration alone.
    rows = [row for row in record.trials.values() if not row.get("parent")]
    copies = len(record.trials) - len(rows)
    leading = (
        objective == record.sweep["objective"]
    )  # others are of the model with the best of this one, at the end
    judged = _judged(record, rows) if leading else {}
    groups: dict[int, list[Trial]] = {}
    for row in rows:
        groups.setdefault(row["config_id"], []).append(
            Trial(
                row["trial"], row["number"], row["config_id"], row["seed"], json.loads(row["config_json"]), 1,
                row["steps"], state=row["state"], steps=row["steps"],
                best=row["value"] if leading else row.get(f"metric.{objective}"),
                judged=judged.get(row["trial"], {}),
            )
        )  # fmt: skip
    left_out = Counter({"copies of others": copies} if copies else {})
    whole = {}
    for number, group in groups.items():
        states = {t.state for t in group}
        if "failed" in states:
            left_out["failed"] += 1
        elif not states <= set(AT_REST):
            left_out["not at an end" if record.sweep["state"] == "running" else "interrupted"] += 1
        elif any(t.best is None or not math.isfinite(t.best) for t in group):
            left_out["without a value"] += 1
        else:
            whole[number] = group
    seeds = sorted({t.seed for group in whole.values() for t in group})
    alone = {
        seed: {n: combine([t]) for n, group in whole.items() for t in group if t.seed == seed}
        for seed in seeds
    }
    return Known(
        {n: space.validate(g[0].config) for n, g in whole.items()},
        {n: combine(g) for n, g in whole.items()},
        alone if len(seeds) > 1 else {},
        dict(left_out),
    )


def _judged(record: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Trial -> step -> its best up to there, for each step at which any was stopped; of a trial that did not report
    then, up to its next report."""
    stops = sorted({row["steps"] for row in rows if row["state"] in ("paused", "pruned")})
    passed: dict[str, int] = {}  # of the stops
    best_of: Callable[..., float] = min if record.sweep["mode"] == "min" else max
    metric = f"metric.{record.sweep['objective']}"
    best: dict[str, float] = {}
    judged: dict[str, dict[int, float]] = {}
    for report in record.results:
        trial, value = report["trial"], report.get(metric)
        if value is not None and math.isfinite(value):
            best[trial] = best_of(best.get(trial, value), value)
        while (k := passed.get(trial, 0)) < len(stops) and stops[k] <= report["step"]:
            passed[trial] = k + 1
            if trial in best:
                judged.setdefault(trial, {})[stops[k]] = best[trial]
    return judged
