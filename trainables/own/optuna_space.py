"""From what dry runs of an Optuna objective asked for to a space: names, ranges, and when a name exists.

Optuna learns the space while it runs; fairsweep's samplers and its store know it before. What an objective asks for
under which values is evidence:

- a name that every run asked for exists always;
- a name that only some runs asked for exists *when* categories, booleans or whole numbers that were asked for before it
  have the values that they had in those runs, if that explains every run, every value of those parents was tried, and
  every combination of the values with which it is said to exist was tried and asked for it;
- any other name is a parameter of every configuration, drawn whether it is asked for or not;
- a number that was asked for in different ranges becomes a *place*: NAME_place from 0 to 1 is where in the range of
  that run its value lies, on its scale.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairsweep.search_spaces._parameter import Parameter
from fairsweep.search_spaces.space import SpaceError
from fairsweep.trainables.own.labels import label, plain_name

MOST_VALUES = 64  # of a whole number that may decide which names exist
PLACE = "_place"


@dataclass(frozen=True)
class Asked:
    """One call of `suggest_*`. kind: float, int or categorical; choices: labels."""

    name: str
    kind: str
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    choices: tuple[Any, ...] = ()

    @property
    def single(self) -> bool:
        """Whether there is one value only."""
        return len(self.choices) == 1 if self.kind == "categorical" else self.low == self.high

    def parameter(self) -> Parameter:
        """What is asked for as one of ours; a single value is fixed. SpaceError if it is no range."""
        if self.single:
            value = self.choices[0] if self.choices else self.low
            return Parameter(self.name, self.kind, choices=self.choices, value=value)
        if self.kind == "categorical":
            return Parameter(self.name, self.kind, choices=self.choices)
        assert self.low is not None and self.high is not None
        high = self.high
        if self.step is not None:  # the last value that steps reach, as Optuna has it
            steps = math.floor((high - self.low) / self.step + 1e-9)
            high = min(self.low + steps * self.step, high)
            if not steps:
                return Parameter(self.name, self.kind, value=self.low)
        step = None if self.kind == "int" and self.step == 1 else self.step
        return Parameter(self.name, self.kind, self.low, high, log=self.log, step=step)

    def domain(self) -> list[Any]:
        """Every value, where these are few enough to decide which names exist; else nothing."""
        if self.kind == "categorical":
            return list(self.choices)
        if self.kind == "int" and self.low is not None and self.high is not None:
            values = range(int(self.low), int(self.high) + 1, int(self.step or 1))
            return list(values) if len(values) <= MOST_VALUES else []
        return []


@dataclass
class Run:
    """A dry run. end: "return", "report" or "silent" (it trains) where it went as far as it was to, else "pruned",
    "raised" or "lost"; what it did not ask for then says nothing."""

    asked: list[Asked] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    end: str = "lost"
    error: str = ""
    returned: int = 0  # how many values it returned
    gaps: list[float] = field(default_factory=list)  # seconds before each question

    @property
    def whole(self) -> bool:
        return self.end in ("return", "report", "silent")


@dataclass(frozen=True)
class Found:
    """space: a mapping for `Space.from_mapping`; notes: what a user should know about how it was found."""

    space: dict[str, Any]
    notes: tuple[str, ...] = ()


def infer(runs: Sequence[Run]) -> Found:
    """The space that explains `runs`. SpaceError in one line for what no search can carry, as Optuna refuses it."""
    names = list(dict.fromkeys(ask.name for run in runs for ask in run.asked))
    by_name = {n: [a for run in runs for a in run.asked if a.name == n] for n in names}
    for name, asks in by_name.items():
        _check_kind(name, asks)
    places = [n for n, asks in by_name.items() if len(set(asks)) > 1]
    space: dict[str, Any] = {}
    notes = []
    loose = []
    for name in names:
        when = condition(name, runs, by_name)
        if when is None:
            loose.append(name)
        key = plain_name(name)
        if name in places:
            low, high = min(a.low for a in by_name[name]), max(a.high for a in by_name[name])  # type: ignore[type-var]
            raw: dict[str, Any] = {"type": "float", "low": 0.0, "high": 1.0}
            raw["help"] = f"where the value of {key} lies in its range of the moment, within {low} to {high}"
            key += PLACE
        else:
            raw = by_name[name][0].parameter().to_mapping()
        if when:
            raw = raw if isinstance(raw, dict) else _fixed(by_name[name][0])
            raw["when"] = {plain_name(parent): list(values) for parent, values in when.items()}
        space[key] = raw
    if loose:
        notes.append(
            f"no condition explains when the objective asks for {', '.join(loose)}: part of every configuration"
        )
    return Found(space, tuple(notes))


def _fixed(ask: Asked) -> dict[str, Any]:
    p = ask.parameter()
    choices = {"choices": list(p.choices)} if p.choices else {}
    return {"type": p.kind, **choices, "value": p.value}


def _check_kind(name: str, asks: Sequence[Asked]) -> None:
    first = asks[0]
    for ask in asks:
        if ask.kind != first.kind or ask.log != first.log:
            raise SpaceError(
                f"{name}: is asked for as {_kind(first)} and as {_kind(ask)}, which Optuna refuses in one study too;"
                " give them two names"
            )
        if ask.choices != first.choices:
            raise SpaceError(
                f"{name}: is asked for with the choices {list(first.choices)} and {list(ask.choices)}, which Optuna"
                " refuses in one study too; give them two names"
            )


def _kind(ask: Asked) -> str:
    return f"{ask.kind}, log={ask.log}" if ask.kind != "categorical" else ask.kind


def condition(
    name: str, runs: Sequence[Run], by_name: Mapping[str, Sequence[Asked]]
) -> dict[str, list[Any]] | None:
    """With which values of which parents `name` exists: {} always; None where no condition is proven."""
    present = [run for run in runs if name in run.values]
    absent = [run for run in runs if run.whole and name not in run.values]
    if not absent:
        return {}
    allowed = _parents(name, present, runs, by_name)
    when: dict[str, list[Any]] = {}
    left = absent
    while left:
        out = {p: [r for r in left if r.values.get(p, _NONE) not in v] for p, v in allowed.items()}
        # Of those that explain as much, the one asked for last: a parent that has parents stands for them.
        best = max(reversed(out), key=lambda p: len(out[p]), default=None)
        if best is None or not out[best]:
            return None
        when[best] = allowed[best]
        left = [r for r in left if r not in out[best]]
    for combination in itertools.product(*when.values()):
        wanted = dict(zip(when, combination, strict=True))
        if not any(all(r.values.get(p, _NONE) == v for p, v in wanted.items()) for r in present):
            return None
    return when


_NONE = object()


def _parents(
    name: str, present: Sequence[Run], runs: Sequence[Run], by_name: Mapping[str, Sequence[Asked]]
) -> dict[str, list[Any]]:
    """What may decide whether `name` exists: parent -> its values in the runs that asked for `name`."""
    found: dict[str, list[Any]] = {}
    order = {ask.name: k for k, ask in enumerate(present[0].asked)}
    for parent, asks in by_name.items():
        values = asks[0].domain()
        if order.get(parent, len(order)) >= order[name] or not values or len(set(asks)) > 1:
            continue
        tried = [run.values[parent] for run in runs if (run.whole or run in present) and parent in run.values]
        if all(parent in run.values for run in present) and all(v in tried for v in values):
            found[parent] = [v for v in values if any(run.values[parent] == v for run in present)]
    return found


def questions(runs: Sequence[Run], given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What to try next, in the order of what it may tell; nothing of `given`, which was tried, is tried again.

    One category, boolean or whole number at a time is set to each of its values (to its ends, where no other name
    comes or goes with it) while the others stay as they were in the run that first asked for it; then the combinations
    that a condition needs. Values of floats decide nothing that a condition could say.
    """
    by_name: dict[str, list[Asked]] = {}
    first: dict[str, Run] = {}
    for run in runs:
        for ask in run.asked:
            by_name.setdefault(ask.name, []).append(ask)
            first.setdefault(ask.name, run)
    structural = _structural(runs, by_name)
    plan: list[tuple[int, dict[str, Any]]] = []
    for name, asks in by_name.items():
        ask = asks[0]
        if ask.kind == "float":
            continue
        ends = ask.kind == "int" and name not in structural
        values = [ask.low, ask.high] if ends else ask.domain()
        plan += [(int(ends), {**first[name].values, name: value}) for value in values]
    for name in by_name:
        for wanted in _combinations(name, runs, by_name):
            plan.append((2, {**first[name].values, **wanted}))
    plan.sort(key=lambda pair: pair[0])
    return [
        wanted
        for _, wanted in plan
        if wanted not in given and not any(wanted.items() <= run.values.items() for run in runs)
    ]


def _structural(runs: Sequence[Run], by_name: Mapping[str, Sequence[Asked]]) -> set[str]:
    """Whole numbers with which other names come and go: two runs that differ in nothing before ask for others."""
    found = set()
    for name, asks in by_name.items():
        if asks[0].kind != "int":
            continue
        seen: dict[Any, set[frozenset[str]]] = {}
        for run in runs:
            if name in run.values and run.whole:
                seen.setdefault(run.values[name], set()).add(frozenset(run.values))
        if len(seen) > 1 and len(set(map(frozenset, seen.values()))) > 1:
            found.add(name)
    return found


def _combinations(
    name: str, runs: Sequence[Run], by_name: Mapping[str, Sequence[Asked]]
) -> list[dict[str, Any]]:
    """Combinations of the values of two or more parents that nobody tried, without which a condition is not proven."""
    present = [run for run in runs if name in run.values]
    absent = [run for run in runs if run.whole and name not in run.values]
    allowed = _parents(name, present, runs, by_name)
    decisive = {p: v for p, v in allowed.items() if any(r.values.get(p, _NONE) not in v for r in absent)}
    if len(decisive) < 2:
        return []
    found = []
    for combination in itertools.islice(itertools.product(*decisive.values()), MOST_VALUES):
        wanted = dict(zip(decisive, combination, strict=True))
        if not any(all(r.values.get(p, _NONE) == v for p, v in wanted.items()) for r in runs):
            found.append(wanted)
    return found


def asked_of(name: str, kind: str, low: Any, high: Any, log: bool, step: Any) -> Asked:
    """A number asked for. ValueError as Optuna's, in one line naming the parameter."""
    number = int if kind == "int" else float
    low, high = number(low), number(high)
    step = None if step is None else number(step)
    if low > high:
        raise ValueError(f"{name}: low={low} is above high={high}")
    if log and step not in (None, 1):
        raise ValueError(f"{name}: step={step} does not go with log=True")
    if log and low <= 0:
        raise ValueError(f"{name}: low={low} must be above 0 with log=True")
    if step is not None and step <= 0:
        raise ValueError(f"{name}: step={step} must be above 0")
    return Asked(name, kind, low, high, bool(log), step if step != 1 or kind == "float" else None)


def asked_choices(name: str, choices: Sequence[Any]) -> Asked:
    """A choice asked for."""
    if not len(choices):
        raise ValueError(f"{name}: choices is empty")
    return Asked(name, "categorical", choices=tuple(label(list(choices))))
