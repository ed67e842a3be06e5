"""`@fairsweep.trainable`: what a user says of a training function, and a space in few words."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairsweep.search_spaces._parameter import show
from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.parts import said

MARK = "__fairsweep__"
MODES = ("min", "max")
# Keys of a declaration in a space's YAML; a mapping without any of them is a group of parameters.
_DECLARED = {"type", "low", "high", "log", "step", "choices", "value", "paper", "when", "help"}


@dataclass(frozen=True)
class Declaration:
    """What `trainable` was told. space: a mapping, a `Space`, or the name of a YAML file beside the function's.

    metric: what is tuned on, a name that the function reports; None: `metric=` of the sweep says. metrics, test:
    further names that are known beforehand, and those that are measured on test data and never tuned on.
    """

    space: Any
    metric: str | None
    mode: str
    steps: int | None
    metrics: tuple[str, ...]
    test: tuple[str, ...]


def trainable(
    function: Callable[..., Any] | None = None,
    *,
    space: Any = None,
    metric: str | None = None,
    mode: str = "min",
    steps: int | None = None,
    metrics: Sequence[str] = (),
    test: Sequence[str] = (),
) -> Any:
    """Marks a function `(config)` or `(config, trial)`, or a generator function, as something that can be tuned.

    space: parameters by name, as in the YAML of a paper's space, or in short: `(low, high)`, `(low, high, "log")`,
    `[choice, ...]`, `bool`, or a value that is fixed; or the name of a YAML file. metric, mode: what is tuned on, "min"
    or "max". steps: how many reports a trial makes at most, if that is known. metrics, test: see `Declaration`.
    What is reported and was not declared is kept too. The function stays a function: called without a trial it prints
    what it reports. TypeError or ValueError with the field and what would be right.
    """
    if isinstance(test, str) or isinstance(metrics, str):
        raise TypeError("fairsweep.trainable: metrics and test are lists of names, such as test=['test_acc']")
    if metric is not None and not isinstance(metric, str):
        raise TypeError(f"fairsweep.trainable: metric={metric!r}: must be the name of what is reported")
    if mode not in MODES:
        raise ValueError(f"fairsweep.trainable: mode={mode!r}: must be min or max")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(
            f"fairsweep.trainable: steps={steps!r}: must be a whole number of at least 1, or None"
        )
    declared = Declaration(space, metric, mode, steps, tuple(metrics), tuple(test))
    if metric in declared.test:
        raise ValueError(
            f"fairsweep.trainable: test={list(test)}: {metric} is tuned on, so it is no test metric"
        )

    def mark(function: Any) -> Any:
        if inspect.isclass(function) or not callable(function):
            raise TypeError(
                f"fairsweep.trainable: {function!r}: must be a function; a class that extends"
                " fairsweep.Paper needs no mark"
            )
        arity(function)  # refuses what could not be called
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"fairsweep.trainable: {getattr(function, '__name__', function)} is async; mark a plain function that"
                " runs it, such as by asyncio.run(...)"
            )

        @functools.wraps(function)
        def alone(config: Mapping[str, Any], trial: Any = None) -> Any:
            return call(function, config, Printed() if trial is None else trial)

        setattr(alone, MARK, declared)
        return alone

    return mark if function is None else mark(function)


def arity(function: Callable[..., Any]) -> int:
    """Whether the function takes `(config)` or `(config, trial)`: 1 or 2. TypeError if neither."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of C
        return 1
    second = [*signature.parameters.values()][1:2]
    # train(config, epochs=3) has a setting of its own there, and no place for a trial.
    other = bool(second) and second[0].default not in (inspect.Parameter.empty, None)
    for number in (1,) if other and second[0].name != "trial" else (2, 1):
        try:
            signature.bind(*range(number))
            return number
        except TypeError:
            continue
    name = getattr(function, "__name__", repr(function))
    raise TypeError(f"fairsweep.trainable: {name}{signature}: must take (config) or (config, trial)")


def call(function: Callable[..., Any], config: Mapping[str, Any], trial: Any) -> Any:
    """The function on a copy of `config`, with the trial if it takes one."""
    return function(dict(config), trial) if arity(function) == 2 else function(dict(config))


class Printed:
    """The trial of a function that is called without a sweep: prints what is reported, and keeps it in `reports`."""

    def __init__(self) -> None:
        self.seed, self.device, self.number = 0, "cpu", 0
        self.split_seed, self.testing = 0, True
        self.steps: int | None = None
        self.data_dir: Any = None
        self.reports: list[dict[str, Any]] = []

    @property
    def step(self) -> int:
        return len(self.reports)

    def report(self, metrics: Any = None, /, **named: Any) -> None:
        found = {
            **(metrics if isinstance(metrics, Mapping) else {} if metrics is None else {"value": metrics}),
            **named,
        }
        self.reports.append(found)
        print(f"report {len(self.reports)}: " + ", ".join(f"{k}={show(v)}" for k, v in found.items()))

    def parts(self, *, train: Any = None, validation: Any = None, test: Any = None) -> None:
        """ValueError for what a sweep would refuse."""
        said({"train": train, "validation": validation, "test": test})

    def checkpoint(self, state: Any, step: int | None = None) -> None:
        """Keeps nothing: there is no sweep."""

    def restore(self) -> None:
        return None


# -- spaces -----------------------------------------------------------------------------------------------


def read_space(given: Any, source: str) -> Space:
    """A space out of a mapping, long or short. SpaceError with the name and what would be right."""
    if isinstance(given, Space):
        return given
    if not isinstance(given, Mapping):
        raise SpaceError(
            f"{source}: space={show(given)}: must map parameter names to ranges, such as {{'lr': (0.001, 0.1)}}"
        )
    if not given:
        raise SpaceError(
            f"{source}: space={{}}: must hold at least one parameter, such as {{'lr': (0.001, 0.1)}}"
        )
    return Space.from_mapping(_long(given, source, ""), source=source, papers=False)


def _long(given: Mapping[Any, Any], source: str, prefix: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, value in given.items():
        at = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found[name] = dict(value) if not _DECLARED.isdisjoint(value) else _long(value, source, f"{at}.")
        else:
            found[name] = _declaration(value, f"{source}: {at}")
    return found


def _declaration(value: Any, where: str) -> Any:
    if value is bool:
        return {"type": "boolean"}
    if isinstance(value, list):
        return {"type": "categorical", "choices": [_plain(v) for v in value]}
    if isinstance(value, tuple):
        ends = [_plain(v) for v in value[:2]]
        numbers = len(ends) == 2 and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in ends
        )
        if not numbers or value[2:] not in ((), ("log",)):
            raise SpaceError(
                f"{where}={value!r}: a range is (low, high) or (low, high, 'log'); choices stand in a list"
            )
        kind = "int" if all(isinstance(v, int) for v in ends) else "float"
        return {"type": kind, "low": ends[0], "high": ends[1], "log": len(value) == 3}
    if isinstance(_plain(value), (bool, int, float, str)):
        return _plain(value)
    raise SpaceError(
        f"{where}={show(value)}: must be (low, high), [choices], bool, a fixed value or a declaration"
        " {'type': ..., ...}"
    )


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value
