"""What a trainable of the user's has reported, as numbers; what is none is refused by name, value, step and line."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from numbers import Real
from typing import Any

from fairsweep.search_spaces._parameter import show
from fairsweep.trainables.base import BadReport

_HERE = os.path.dirname(os.path.abspath(__file__))
_ENGINE = os.path.join(os.path.dirname(os.path.dirname(_HERE)), "cluster", "engine")


def numbers(metrics: Any, named: Mapping[str, Any], step: int, alone: str) -> dict[str, float]:
    """A report as numbers by name. BadReport with the name, value, step and line of what is none.

    alone: what a number without a name is called.
    """
    if metrics is None:
        found = dict(named)
    elif isinstance(metrics, Mapping):
        found = {**metrics, **named}
    elif isinstance(metrics, Real) or getattr(metrics, "shape", None) == ():
        found = {alone: metrics, **named}
    else:
        raise BadReport(
            f"report {step}: {show(metrics)} ({type(metrics).__name__}): must be a dict of numbers by name{_line()}"
        )
    if not found:
        raise BadReport(
            f"report {step}: is empty: must hold at least one metric, such as {alone}=0.3{_line()}"
        )
    for name, value in found.items():
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 100:
            raise BadReport(
                f"report {step}: {show(name)}: a metric's name must be text of 1 to 100 letters{_line()}"
            )
        try:
            number = _number(value)
        except OverflowError:  # a whole number of any length
            raise BadReport(
                f"report {step}: {name}: is beyond the numbers of double precision, 1.8e308{_line()}"
            ) from None
        if number is None:
            value = value.item() if getattr(value, "shape", None) == () else value
            kind = "an array or tensor of one number" if hasattr(value, "shape") else type(value).__name__
            hint = f"; reduce it, such as {name}.mean()" if hasattr(value, "shape") else ""
            raise BadReport(
                f"report {step}: {name}={show(value)} ({_kind(value, kind)}): must be a number{hint}{_line()}"
            )
        found[name] = number
    return found


def as_json(value: Any) -> Any:
    """A value as JSON holds it everywhere: what is none, NaN and infinite numbers too, as text."""
    try:
        return json.loads(json.dumps(value, default=repr), parse_constant=str)
    except (TypeError, ValueError, RecursionError):  # keys that are no text; what holds itself
        return repr(value)


def _number(value: Any) -> float | None:
    """`value` as a float if it is one number: Python's, NumPy's, or an array or tensor without dimensions."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value)


def _kind(value: Any, fallback: str) -> str:
    shape = getattr(value, "shape", None)
    return f"shape {tuple(shape)}" if shape is not None and len(tuple(shape)) else fallback


def _line() -> str:
    """The line of the user's code that reports, where it can be seen."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(_ENGINE):
            break  # it has returned this: no line of its own is being run
        if not frame.filename.startswith((_HERE, "<")) and "threading" not in frame.filename:
            return f" ({frame.filename}, line {frame.lineno})"
    return ""
