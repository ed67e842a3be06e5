"""A Ray Tune `param_space` as one of our spaces, and a configuration of ours as the `config` that Tune would hand over.

Written for Ray 2.60. A `Found` is JSON, so that workers and `resume` need not look again. What no JSON holds (choices
that are functions or classes, `sample_from`) stays in the user's module, from which every worker takes it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.search import sample

from fairsweep.search_spaces._parameter import show
from fairsweep.trainables.own.labels import chosen, label, plain_name

KINDS = ("plain", "choice", "number", "object", "sample_from")


class NotCarriedOver(ValueError):
    """Something in a `param_space` that a search cannot carry; one line with its name and what would be right."""


def read(param_space: Mapping[str, Any]) -> dict[str, Any]:
    """The space as a mapping, and where in the nested `config` each value belongs: `{"space": ..., "entries": [...]}`.

    An entry: path, kind (`KINDS`), key (its name in the space) and what its kind needs. NotCarriedOver.
    """
    space: dict[str, Any] = {}
    entries = [_entry(path, value, space) for path, value in walk(param_space)]
    return {"space": space, "entries": entries, "objects": any(needs_module(e) for e in entries)}


def walk(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf of a nested `param_space`, with its path."""
    for name, value in node.items():
        if not isinstance(name, str):
            raise NotCarriedOver(f"param_space[{name!r}]: names must be text")
        here = (*path, name)
        if isinstance(value, Mapping) and set(value) != {"grid_search"} and value:
            yield from walk(value, here)
        else:
            yield here, value


def needs_module(entry: Mapping[str, Any]) -> bool:
    return entry["kind"] in ("object", "sample_from") or (entry["kind"] == "choice" and "values" not in entry)


def _entry(path: Sequence[str], value: Any, space: dict[str, Any]) -> dict[str, Any]:
    name = ".".join(path)
    key = plain_name(name)
    entry: dict[str, Any] = {"path": list(path), "key": key}
    if isinstance(value, Mapping) and set(value) == {"grid_search"}:
        return _choice(entry, list(value["grid_search"]), space)
    if isinstance(value, sample.Function):
        return {**entry, "kind": "sample_from"}
    if isinstance(value, sample.Categorical):
        return _choice(entry, list(value.categories), space)
    if isinstance(value, (sample.Float, sample.Integer)):
        space[key], quantum = _number(name, value)
        return {**entry, "kind": "number", **({"quantum": quantum} if quantum else {})}
    if isinstance(value, sample.Domain):
        raise NotCarriedOver(f"param_space[{name!r}]: {type(value).__name__}: is not carried over")
    if isinstance(value, (bool, int, float, str)) and label([value]) == [value]:
        space[key] = value
        return {**entry, "kind": "number"}
    if _is_json(value):
        return {**entry, "kind": "plain", "value": value}
    return {**entry, "kind": "object"}


def _choice(entry: dict[str, Any], values: list[Any], space: dict[str, Any]) -> dict[str, Any]:
    name = ".".join(entry["path"])
    if not values:
        raise NotCarriedOver(f"param_space[{name!r}]: has no choices")
    for value in values:
        if _holds_domain(value):
            raise NotCarriedOver(
                f"param_space[{name!r}]: a choice that holds ranges itself ({show(value)}) is not carried over; give"
                " the ranges names of their own beside it"
            )
    labels = label(values)
    space[entry["key"]] = {"type": "categorical", "choices": labels, **_fixed(labels)}
    same = all(type(a) is type(b) and a == b for a, b in zip(labels, values, strict=True))
    if same:
        return {**entry, "kind": "number"}
    if _is_json(values):
        return {**entry, "kind": "choice", "labels": labels, "values": values}
    return {**entry, "kind": "choice"}


def _fixed(labels: list[Any]) -> dict[str, Any]:
    return {"value": labels[0]} if len(labels) == 1 else {}


def _holds_domain(value: Any) -> bool:
    if isinstance(value, sample.Domain):
        return True
    if isinstance(value, Mapping):
        return any(_holds_domain(v) for v in value.values())
    return isinstance(value, (list, tuple)) and any(_holds_domain(v) for v in value)


def _number(name: str, domain: Any) -> tuple[Any, Any]:
    """The declaration of a range, and the multiples to which its values are rounded in the worker, if they are.

    Whole numbers end below `upper` unless they are multiples of a q above 1, as Tune draws them (2.60).
    """
    sampler, q = domain.get_sampler(), None
    if isinstance(sampler, sample.Quantized):
        sampler, q = sampler.get_sampler(), sampler.q
    if isinstance(sampler, sample.Normal):
        word = "randn" if q is None else "qrandn"
        low, high = sampler.mean - 3 * sampler.sd, sampler.mean + 3 * sampler.sd
        raise NotCarriedOver(
            f"param_space[{name!r}]: tune.{word} has no ends, which every range here has; say tune.uniform({low:g},"
            f" {high:g}), or as far as it is to reach"
        )
    log = isinstance(sampler, sample.LogUniform)
    whole = isinstance(domain, sample.Integer)
    low, high = domain.lower, domain.upper
    if q is not None and not (whole and q == 1):
        first, last = _rounded(low / q, np.ceil), _rounded(high / q, np.floor)
        low, high = (first * q, last * q) if whole else (float(first * q), float(last * q))
        if low > high:
            raise NotCarriedOver(f"param_space[{name!r}]: no multiple of {q} lies in its range")
    elif whole:
        high -= 1
    low, high = (int(low), int(high)) if whole else (float(low), float(high))
    if low == high:
        return low, None
    raw: dict[str, Any] = {"type": "int" if whole else "float", "low": low, "high": high}
    if log:
        return {**raw, "log": True}, q if q not in (None, 1) or (q == 1 and not whole) else None
    return ({**raw, "step": q} if q is not None and not (whole and q == 1) else raw), None


def _rounded(scaled: float, inwards: Any) -> int:
    nearest = round(scaled)
    return nearest if np.isclose(scaled, nearest, rtol=1e-9) else int(inwards(scaled))


def _is_json(value: Any) -> bool:
    """Whether JSON gives `value` back as it is."""
    try:
        return bool(json.loads(json.dumps(value)) == value) and not _has_tuple(value)
    except (TypeError, ValueError):
        return False


def _has_tuple(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_tuple(v) for v in value.values())
    return isinstance(value, tuple) or (isinstance(value, list) and any(_has_tuple(v) for v in value))


# -- in the worker --------------------------------------------------------------------------------------


def nested(
    found: Mapping[str, Any], config: Mapping[str, Any], seed: int, param_space: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `config` that the user's code is given, and by name what of it does not stand in `config` here.

    param_space: the user's, where `found["objects"]` says that it is needed. What `sample_from` draws with `random` or
    NumPy follows from `seed`.
    """
    whole: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    later: list[Mapping[str, Any]] = []
    leaves = dict(walk(param_space)) if param_space is not None else {}
    for entry in found["entries"]:
        key, path = entry["key"], tuple(entry["path"])
        if entry["kind"] == "sample_from":
            _put(whole, path, None)  # in its place, for the order of names
            later.append(entry)
            continue
        value = _value(entry, config, leaves.get(path))
        if "quantum" in entry:
            beside[key] = value
        _put(whole, path, value)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    for entry in later:
        _take(whole, tuple(entry["path"]))
    while later:
        left = [entry for entry in later if not _drawn(entry, leaves, whole, beside)]
        if len(left) == len(later):
            names = ", ".join(".".join(entry["path"]) for entry in left)
            raise ValueError(f"tune.sample_from of {names}: reads names that are not there")
        later = left
    return whole, beside


def _value(entry: Mapping[str, Any], config: Mapping[str, Any], leaf: Any) -> Any:
    key, kind = entry["key"], entry["kind"]
    if kind == "plain":
        return json.loads(json.dumps(entry["value"]))
    if kind == "object":
        return leaf
    if kind == "choice":
        values = entry.get("values")
        if values is None:
            values = leaf["grid_search"] if isinstance(leaf, Mapping) else leaf.categories
        return chosen(values, config[key])
    if "quantum" in entry:
        q = entry["quantum"]
        return type(config[key])(round(config[key] / q) * q)
    return config[key]


def _drawn(
    entry: Mapping[str, Any], leaves: Mapping[Any, Any], whole: dict[str, Any], beside: dict[str, Any]
) -> bool:
    """Draws what `sample_from` says, unless it reads what is not drawn yet."""
    path = tuple(entry["path"])
    try:
        value = leaves[path].sample(config=whole)
    except (KeyError, AttributeError):
        return False
    _put(whole, path, value)
    beside[entry["key"]] = value
    return True


def _put(whole: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        whole = whole.setdefault(name, {})
    whole[path[-1]] = value


def _take(whole: dict[str, Any], path: Sequence[str]) -> None:
    for name in path[:-1]:
        whole = whole[name]
    del whole[path[-1]]
