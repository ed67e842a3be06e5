"""Reads declarations: YAML and plain mappings in, parameters out, everything doubtful refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from fairsweep.search_spaces._parameter import (
    KINDS,
    SEARCHED,
    Parameter,
    SpaceError,
    hint,
    number,
    same,
    show,
)

_SHARED_KEYS = {"type", "paper", "value", "when", "help"}
_KEYS = {
    "float": {"low", "high", "log", "step"} | _SHARED_KEYS,
    "int": {"low", "high", "log", "step"} | _SHARED_KEYS,
    "categorical": {"choices"} | _SHARED_KEYS,
    "boolean": _SHARED_KEYS,
}
_OTHERS = "it serves the data sets that are not named"
_ALL_KEYS = set().union(*_KEYS.values())
# What Hydra's key grammar and W&B's sweep schema both take.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*", re.ASCII)


def read(mapping: Any, declared: Mapping[str, Parameter] | None, papers: bool = True) -> dict[str, Parameter]:
    """Parameters by name, parents first, else in the order of the mapping.

    With `declared`, the mapping is that space with a user's changes in it. papers: whether what is searched has the
    paper's value. Raises SpaceError.
    """
    if not isinstance(mapping, Mapping):
        raise SpaceError(f"{show(mapping)}: must map parameter names to declarations")
    found: dict[str, Parameter] = {}
    for name, raw in _walk(mapping, "", declared or {}):
        if name in found:
            raise SpaceError(f"{name}: duplicate name")
        if declared is not None and name not in declared:
            raise SpaceError(f"{name}={show(raw)}: no such parameter; {hint(name, declared)}")
        found[name] = _parameter(name, raw, declared[name] if declared is not None else None, papers)
    for name in found:
        for parent in _groups(name):
            if parent in found:
                raise SpaceError(f"{name}: duplicate name: {parent} is a parameter, so it cannot be a group")
    for name in declared or ():
        if name not in found:
            raise SpaceError(f"{name}: is missing; a parameter can be fixed, not removed")
    _check_parents(found)
    # Until it is the order that the nested mapping of it is read back in: to put a parent first can part a group.
    for _ in range(len(found) + 1):
        before = list(found)
        found = _ordered({name: found[name] for name in _grouped(found)})
        if list(found) == before:
            break
    return found


def _groups(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def _grouped(names: Mapping[str, Any]) -> list[str]:
    """Members of a group side by side, as the nested mapping shows them, however the file spells them."""
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        for path in [*_groups(name), name]:
            first.setdefault(path, position)
    return sorted(names, key=lambda name: [first[path] for path in [*_groups(name), name]])


def _walk(
    mapping: Mapping[Any, Any], prefix: str, declared: Mapping[str, Parameter]
) -> Iterator[tuple[str, Any]]:
    for key, raw in mapping.items():
        if not isinstance(key, str) or not _NAME.fullmatch(key):
            raise SpaceError(
                f"{prefix}{show(key)}: a name must be of letters, digits, _ and -, and begin with a letter;"
                " quote words such as yes, no, on and off"
            )
        name = prefix + key
        if not _ALL_KEYS.isdisjoint(name.split(".")[1:]):
            raise SpaceError(
                f"{name}={show(raw)}: {key} is a word of declarations; in a group, use another name"
            )
        if isinstance(raw, Mapping) and raw and name not in declared and _ALL_KEYS.isdisjoint(raw):
            yield from _walk(raw, f"{name}.", declared)
        else:
            yield name, raw


def _at(where: str, value: Any, read: Callable[[Any], Any]) -> Any:
    """`read(value)`, its refusal completed by where and what."""
    try:
        return read(value)
    except SpaceError as error:
        raise SpaceError(f"{where}={show(value)}: {error}") from None


def _parameter(name: str, raw: Any, declared: Parameter | None, papers: bool) -> Parameter:
    if not isinstance(raw, Mapping):
        if declared is None:
            return _scalar(name, raw)
        return replace(declared, value=_at(name, raw, lambda v: declared.typed(v, text=True)), values={})
    kind = raw.get("type")
    if kind not in KINDS:
        raise SpaceError(f"{name}.type={show(kind)}: must be one of {', '.join(KINDS)}")
    if declared is not None and kind != declared.kind:
        raise SpaceError(f"{name}.type={show(kind)}: the parameter is declared as {declared.kind}")
    for key, value in raw.items():
        if key not in _KEYS[kind]:
            raise SpaceError(f"{name}.{key}={show(value)}: unknown key of a {kind}; {hint(key, _KEYS[kind])}")
    bare = Parameter(name, kind, **_domain(name, kind, raw, declared))
    value, values = SEARCHED, {}
    # `value: null` frees a parameter that is declared fixed, unless null is one of its choices.
    if "value" in raw and (raw["value"] is not None or None in bare.choices):
        for data, given in _by_data(f"{name}.value", raw["value"], _OTHERS).items():
            where = f"{name}.value.{data}" if isinstance(raw["value"], Mapping) else f"{name}.value"
            values[data] = _at(where, given, lambda v: bare.typed(v, text=True))
        value = values.pop("default")
    return replace(
        bare,
        value=value,
        values=values,
        paper=_paper(name, raw, bare, papers and value is SEARCHED, declared),
        when=_when(name, raw.get("when", {})),
        help=_at(f"{name}.help", raw.get("help", ""), _text),
    )


def _scalar(name: str, value: Any) -> Parameter:
    if isinstance(value, bool):
        return Parameter(name, "boolean", value=value)
    if isinstance(value, (int, float)):
        kind = "int" if isinstance(value, int) else "float"
        return Parameter(name, kind, value=_at(name, value, lambda v: number(v, kind)))
    if isinstance(value, str):
        return Parameter(name, "categorical", value=_at(name, value, _choice))
    raise SpaceError(f"{name}={show(value)}: must be a string, a number, a boolean or a declaration")


def _domain(name: str, kind: str, raw: Mapping[str, Any], declared: Parameter | None) -> dict[str, Any]:
    if kind == "categorical":
        return {"choices": _choices(name, raw, declared)}
    if kind == "boolean":
        return {}
    if raw.get("value") is not None and raw.get("low") is None and raw.get("high") is None:
        if raw.get("log") or raw.get("step") is not None:
            raise SpaceError(f"{name}.low is missing: log and step belong to a range")
        return {}
    for key in ("low", "high"):
        if raw.get(key) is None:
            raise SpaceError(f"{name}.{key} is missing: a searched {kind} parameter has a low and a high")
    low = _at(f"{name}.low", raw["low"], lambda v: number(v, kind, text=True))
    by_data = _by_data(f"{name}.high", raw["high"], _OTHERS)
    high = _at(f"{name}.high", by_data.pop("default"), lambda v: number(v, kind, text=True))
    log, step = raw.get("log", False), raw.get("step")
    if not isinstance(log, bool):
        raise SpaceError(f"{name}.log={show(log)}: must be true or false")
    if low > high:
        raise SpaceError(f"{name}.low={low}: is above high={high}; the range is reversed")
    if low == high:
        raise SpaceError(f"{name}.low={low}: equals high, an empty range; to fix it write value: {low}")
    if not math.isfinite(high - low):
        raise SpaceError(f"{name}.high={high}: high - low must be finite")
    if log and low <= 0:
        raise SpaceError(f"{name}.low={low}: a log scale needs low above 0")
    highs = {}
    for data, value in by_data.items():
        highs[data] = _at(f"{name}.high.{data}", value, lambda v: number(v, kind, text=True))
        if highs[data] > high:
            raise SpaceError(f"{name}.high.{data}={value}: must be at most the default, {high}")
    if step is None:
        return {"low": low, "high": high, "highs": highs, "log": log}
    if highs:
        raise SpaceError(f"{name}.step={step}: goes with one high, not with one for each data set")
    step = _at(f"{name}.step", step, lambda v: number(v, kind, text=True))
    if log:
        raise SpaceError(f"{name}.step={step}: goes with a linear scale, not with log: true")
    # In decimals, as they are written: 0.3 is three steps of 0.1, though not in binary.
    exact_low, exact_high, exact_step = (Decimal(str(x)) for x in (low, high, step))
    if not 0 < exact_step <= exact_high - exact_low:
        reach = exact_high - exact_low
        raise SpaceError(f"{name}.step={step}: must be above 0 and at most high - low = {reach}")
    if kind == "float" and step < 1e-7 * max(abs(low), abs(high)):
        raise SpaceError(f"{name}.step={step}: is lost in the rounding of [{low}, {high}]; leave it out")
    # The last value that steps reach is the honest end of the range; Optuna would lower it with a warning.
    reached = exact_low + (exact_high - exact_low) // exact_step * exact_step
    return {"low": low, "high": int(reached) if kind == "int" else float(reached), "step": step}


def _by_data(where: str, raw: Any, why_default: str | None) -> dict[str, Any]:
    """A value for each data set, or one for all, as a mapping. `why_default`: why "default" may not be missing."""
    found = dict(raw) if isinstance(raw, Mapping) else {"default": raw}
    if why_default is not None and "default" not in found:
        raise SpaceError(f"{where}.default is missing: {why_default}")
    for data, value in found.items():
        if not isinstance(data, str):
            raise SpaceError(
                f"{where}.{show(data)}={show(value)}: a data set's name must be a string; quote it"
            )
    return found


def _choices(name: str, raw: Mapping[str, Any], declared: Parameter | None) -> tuple[Any, ...]:
    choices = raw.get("choices")
    if declared is not None and not declared.choices and choices is None:
        return ()
    if not isinstance(choices, (list, tuple)) or not choices:
        raise SpaceError(f"{name}.choices={show(choices)}: must be a list of at least one value")
    for k, choice in enumerate(choices):
        _at(f"{name}.choices", choice, _choice)
        for other in choices[:k]:
            # Optuna finds a choice by ==, and true == 1.
            if choice == other:
                raise SpaceError(f"{name}.choices={show(choice)}: duplicate of {show(other)}; leave one out")
    found = tuple(choices)
    if Parameter(name, "categorical", choices=found).column is str and len(set(map(str, found))) < len(found):
        raise SpaceError(f"{name}.choices={show(found)}: two of them read the same as text; leave one out")
    if declared is not None and declared.choices and declared.column not in (int, float):
        for choice in found:
            _at(f"{name}.choices", choice, declared.typed)
    return found


def _choice(value: Any) -> Any:
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise SpaceError("must be a string, a number, true, false or null")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number(value, "int" if isinstance(value, int) else "float")
    return _text(value) if isinstance(value, str) else value


def _paper(
    name: str, raw: Mapping[str, Any], bare: Parameter, searched: bool, declared: Parameter | None
) -> dict[str, Any]:
    paper = raw.get("paper", {})
    needed = "a searched parameter has the paper's value" if paper or searched else None
    paper = _by_data(f"{name}.paper", paper, needed)
    for data, value in paper.items():
        where = f"{name}.paper" if len(paper) == 1 else f"{name}.paper.{data}"
        if declared is not None and data in declared.paper and same(declared.paper[data], value):
            continue  # a user may narrow the range past the paper's own value, which stays what it is
        paper[data] = _at(where, value, lambda v: bare.inside(bare.typed(v, text=True)))
    return paper


def _when(name: str, when: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, Mapping):
        raise SpaceError(f"{name}.when={show(when)}: must map parents to the values that they must have")
    found = {parent: tuple(v) if isinstance(v, (list, tuple)) else (v,) for parent, v in when.items()}
    for parent, values in found.items():
        if not values:
            raise SpaceError(f"{name}.when.{parent}=[]: must be a value or a list of values")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or "${" in value or value == "???":
        # OmegaConf, in which every space is composed, would interpolate ${ and takes ??? for missing.
        raise SpaceError("must be one line of printable text, without ${ and not ???")
    return value


def _check_parents(found: dict[str, Parameter]) -> None:
    for name, parameter in found.items():
        when: dict[str, tuple[Any, ...]] = {}
        for parent, values in parameter.when.items():
            if parent not in found:
                raise SpaceError(
                    f"{name}.when.{parent}={show(values)}: no such parameter; {hint(parent, found)}"
                )
            # Its domain, not its value: a parent that is fixed today can be changed by the user.
            domain = replace(found[parent], value=SEARCHED)

            def possible(value: Any, domain: Parameter = domain) -> Any:
                try:
                    return domain.inside(domain.typed(value, text=True))
                except SpaceError as error:
                    raise SpaceError(f"{domain.name} never has this value; it {error}") from None

            when[parent] = tuple(_at(f"{name}.when.{parent}", value, possible) for value in values)
        if when:
            found[name] = replace(parameter, when=when)


def _ordered(found: dict[str, Parameter]) -> dict[str, Parameter]:
    done: dict[str, Parameter] = {}
    left = dict(found)
    while left:
        ready = next((n for n, p in left.items() if p.when.keys() <= done.keys()), None)
        if ready is None:
            # Whatever hangs below the circle is left over too; walk up until a name comes round again.
            path = [next(iter(left))]
            while path.count(path[-1]) < 2:
                path.append(next(parent for parent in left[path[-1]].when if parent in left))
            circle = path[path.index(path[-1]) :]
            raise SpaceError(
                f"{circle[0]}.when.{circle[1]}: the conditions are a circle: {' -> '.join(circle)}"
            )
        done[ready] = left.pop(ready)
    return done
