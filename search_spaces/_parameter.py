"""One hyperparameter: its domain, its values, and its form in Optuna, W&B, Arrow and Hydra."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import optuna

KINDS = ("float", "int", "categorical", "boolean")
_EXACT = 2**53  # Optuna keeps numbers as doubles, W&B as JSON: larger whole numbers would change
_MOST_LISTED = 1000
_BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_TWO_READINGS = re.compile(r"[-+]?0[0-9_]+")  # octal to YAML 1.1, text to Hydra, decimal to Python
_RESERVED_WORDS = {"true", "false", "null", "inf", "nan"}


class SpaceError(ValueError):
    """A declaration or configuration that is refused; one line, with source, key, value and the remedy."""


class _Searched:
    """The type of SEARCHED; one object a process, so that spaces sent to workers compare equal."""

    def __repr__(self) -> str:
        return "SEARCHED"

    def __reduce__(self) -> str:
        return "SEARCHED"


SEARCHED: Any = _Searched()


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter.

    kind: "float", "int", "categorical" or "boolean".
    low, high: the closed range of a number; both None for a fixed number declared without a range.
    highs: data set -> its own high, where its size sets one; `Space.for_data` puts it in the place of `high`.
    log: whether the scale is logarithmic. step: values are low, low + step, ..., high.
    choices: the values of a categorical parameter; empty for a fixed string declared without choices.
    value: the fixed value, or SEARCHED. A fixed number may lie outside the range.
    values: data set -> its own fixed value, where the paper's experiment on it has another than `value`, which serves
    the data sets that are not named; `Space.for_data` puts it in the place of `value`.
    paper: data set -> the paper's value; "default" serves the data sets that are not named.
    when: parent -> values; the parameter exists only if every parent has one of its values.
    """

    name: str
    kind: str
    low: float | int | None = None
    high: float | int | None = None
    highs: Mapping[str, float | int] = field(default_factory=dict)
    log: bool = False
    step: float | int | None = None
    choices: tuple[Any, ...] = ()
    value: Any = SEARCHED
    values: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    help: str = ""

    @property
    def fixed(self) -> bool:
        """Whether the parameter has one value and is not searched."""
        return self.value is not SEARCHED

    @property
    def span(self) -> tuple[float, float] | None:
        """The least and the largest number that is declared; None where it is about no numbers."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        numbers = [c for c in self.choices if isinstance(c, (int, float)) and not isinstance(c, bool)]
        return (min(numbers), max(numbers)) if numbers and len(numbers) == len(self.choices) else None

    def value_for(self, data: str | None) -> Any:
        """The fixed value on a data set, or SEARCHED."""
        return self.values.get(data, self.value) if data is not None else self.value

    # -- values ---------------------------------------------------------------------------------------

    def check(self, value: Any) -> Any:
        """`value` in this parameter's type (an int becomes a float where a float is declared).

        Raises SpaceError if it is of another type, outside the domain, or not the fixed value.
        """
        try:
            found = self.typed(value)
            if not self.fixed:
                return self.inside(found)
            if not same(found, self.value):
                raise SpaceError(f"is fixed at {show(self.value)}")
            return found
        except SpaceError as error:
            raise SpaceError(f"{self.name}={show(value)}: {error}") from None

    def typed(self, value: Any, text: bool = False) -> Any:
        """Type and, for categorical parameters, choice, but not the range. The error is the remedy only.

        With `text`, a string may spell a number, as one in quotes does.
        """
        if self.kind in ("float", "int"):
            return number(value, self.kind, text)
        if self.kind == "boolean":
            if isinstance(value, (bool, np.bool_)):
                return bool(value)
            raise SpaceError("must be true or false")
        if not self.choices and isinstance(value, str):
            return str(value)
        for choice in self.choices:
            if same(choice, value):
                return choice
        if not self.choices:
            raise SpaceError("must be a string")
        listed = ", ".join(map(show, self.choices))
        raise SpaceError(f"must be one of {listed}{did_you_mean(value, self.choices)}")

    def inside(self, value: Any) -> Any:
        """Range and step of a typed value. The error is the remedy only."""
        if self.low is None or self.high is None:
            return value
        if self.step is not None:
            k = (value - self.low) / self.step
            if abs(k - round(k)) < 1e-6 and 0 <= round(k) <= self.levels - 1:
                # Tools that compute k * step may pass an end of the range by a rounding error.
                return min(max(value, self.low), self.high)
            raise SpaceError(f"must be {self.low} plus a multiple of step={self.step}, up to {self.high}")
        if self.low <= value <= self.high:
            return value
        raise SpaceError(f"must lie in [{self.low}, {self.high}]")

    @property
    def levels(self) -> int:
        """How many values a stepped parameter has."""
        assert self.low is not None and self.high is not None and self.step is not None
        return round((self.high - self.low) / self.step) + 1

    def level(self, k: int) -> Any:
        """The k-th value of a stepped parameter, computed as Optuna does."""
        assert self.low is not None and self.high is not None and self.step is not None
        return min(self.low + k * self.step, self.high)

    def draw(self, rng: np.random.Generator) -> Any:
        """A random value, uniform on the declared scale."""
        if self.kind == "boolean":
            return bool(rng.integers(2))
        if self.kind == "categorical":
            return self.choices[int(rng.integers(len(self.choices)))]
        assert self.low is not None and self.high is not None
        if self.step is not None:
            return self.level(int(rng.integers(self.levels)))
        if self.kind == "int" and not self.log:
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        # Half a unit at both ends gives every integer its share of the log axis, as Optuna draws.
        half = 0.5 if self.kind == "int" else 0.0
        if not self.log:
            drawn = rng.uniform(self.low, self.high)
        else:
            drawn = math.exp(rng.uniform(math.log(self.low - half), math.log(self.high + half)))
        return min(max(round(drawn) if self.kind == "int" else float(drawn), self.low), self.high)

    def points(self, n: int) -> list[Any]:
        """At most `n` values from low to high, evenly spaced on the declared scale; every choice of a
        categorical or boolean parameter; the one value of a fixed one."""
        if n < 1:
            raise SpaceError(f"points={n}: must be at least 1")
        if self.fixed:
            return [self.value]
        if self.kind == "boolean":
            return [False, True]
        if self.kind == "categorical":
            return list(self.choices)
        assert self.low is not None and self.high is not None
        if self.step is not None:
            return [self.level(k) for k in sorted({round(x) for x in np.linspace(0, self.levels - 1, n)})]
        if self.kind == "int" and n > self.high - self.low:
            return list(range(int(self.low), int(self.high) + 1))
        between = (np.geomspace if self.log else np.linspace)(self.low, self.high, n)[1:-1].tolist()
        # The ends as declared: geomspace returns them with a rounding error.
        values = [self.low, *between, *([self.high] if n > 1 else [])]
        return sorted({min(max(round(v) if self.kind == "int" else v, self.low), self.high) for v in values})

    def _unit_ends(self) -> tuple[float, float]:
        """The ends of a number's range on its scale; whole numbers and steps have half a unit more at either end."""
        assert self.low is not None and self.high is not None
        if self.step is not None:
            return -0.5, self.levels - 0.5
        half = 0.5 if self.kind == "int" else 0.0
        low, high = self.low - half, self.high + half
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def unit(self, value: float) -> float:
        """Where a number lies between the ends of its range, 0 to 1 on the declared scale. SpaceError outside of it."""
        self.inside(self.typed(value))
        assert self.low is not None
        low, high = self._unit_ends()
        on_scale = (value - self.low) / self.step if self.step is not None else value
        on_scale = math.log(on_scale) if self.log and self.step is None else on_scale
        return (on_scale - low) / (high - low)

    def at_unit(self, u: float) -> Any:
        """The value of a number at `u` in 0..1: what `unit` takes back, to the nearest whole number or step."""
        assert self.low is not None and self.high is not None
        low, high = self._unit_ends()
        on_scale = low + float(u) * (high - low)
        if self.step is not None:
            return self.level(min(max(round(on_scale), 0), self.levels - 1))
        found = math.exp(on_scale) if self.log else on_scale
        return min(max(round(found) if self.kind == "int" else found, self.low), self.high)

    @property
    def middle(self) -> Any:
        """The middle of a searched number's range on its scale; the first choice of a category."""
        return self.points(1)[0] if self.kind in ("categorical", "boolean") else self.at_unit(0.5)

    # -- other tools ----------------------------------------------------------------------------------

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Optuna's distribution of a searched parameter."""
        from optuna import distributions as d

        if self.kind == "boolean":
            return d.CategoricalDistribution([False, True])
        if self.kind == "categorical":
            return d.CategoricalDistribution(self.choices)
        assert self.low is not None and self.high is not None
        if self.kind == "int":
            return d.IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return d.FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        """The value that Optuna suggests for a searched parameter."""
        if self.kind == "boolean":
            return trial.suggest_categorical(self.name, [False, True])
        if self.kind == "categorical":
            return trial.suggest_categorical(self.name, self.choices)
        assert self.low is not None and self.high is not None
        if self.kind == "int":
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(self.name, low, high, step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def wandb(self, hydra: bool) -> dict[str, Any]:
        """The entry under `parameters` of a W&B sweep; with `hydra`, its agent's words are overrides."""

        def word(value: Any) -> Any:
            # The agent writes name={value}: a bare None or "1" would come back as another type.
            return hydra_word(value) if hydra and (value is None or isinstance(value, str)) else value

        if self.fixed:
            return {"value": word(self.value)}
        if self.kind == "boolean":
            return {"values": [False, True]}  # in Optuna's order: W&B's own Optuna scheduler keeps it
        if self.kind == "categorical":
            return {"values": [word(choice) for choice in self.choices]}
        assert self.low is not None and self.high is not None
        bounds: dict[str, Any] = {"min": self.low, "max": self.high}
        if self.step is not None:
            if Decimal(str(self.low)) % Decimal(str(self.step)) == 0:
                return {"distribution": "q_uniform", **bounds, "q": self.step}
            # W&B rounds to multiples of q: a grid that begins between two of them has to be listed.
            if self.levels > _MOST_LISTED:
                raise SpaceError(
                    f"{self.name}.low={self.low}: must be a multiple of step={self.step}, to which W&B rounds;"
                    f" {self.levels} values are too many to list"
                )
            return {"values": [self.level(k) for k in range(self.levels)]}
        if self.kind == "int" and self.log:
            return {"distribution": "q_log_uniform_values", **bounds, "q": 1}
        if self.kind == "int":
            return {"distribution": "int_uniform", **bounds}
        return {"distribution": "log_uniform_values" if self.log else "uniform", **bounds}

    @property
    def column(self) -> type:
        """The type of this parameter's table column: float, int, bool, or str for mixed choices."""
        if self.kind != "categorical":
            return {"float": float, "int": int, "boolean": bool}[self.kind]
        kinds = {type(choice) for choice in self.choices if choice is not None}
        if len(kinds) == 1:
            return kinds.pop()
        return float if kinds and kinds <= {int, float} else str

    def to_mapping(self) -> Any:
        """The declaration that is read back to an equal parameter."""
        if self.fixed and self.low is None and not (self.choices or self.paper or self.when or self.help):
            return self.value
        raw: dict[str, Any] = {"type": self.kind}
        if self.low is not None:
            raw |= {
                "low": self.low,
                "high": {"default": self.high, **self.highs} if self.highs else self.high,
            }
        if self.log:
            raw["log"] = True
        if self.step is not None:
            raw["step"] = self.step
        if self.choices:
            raw["choices"] = list(self.choices)
        if self.paper:
            raw["paper"] = dict(self.paper)
        if self.fixed:
            raw["value"] = {"default": self.value, **self.values} if self.values else self.value
        if self.when:
            raw["when"] = {parent: list(values) for parent, values in self.when.items()}
        if self.help:
            raw["help"] = self.help
        return raw


def number(value: Any, kind: str, text: bool = False) -> Any:
    """`value` as a finite float, or an int that a float holds exactly; the error is the remedy only."""
    remedy = SpaceError(
        "must be a whole number of at most 2**53" if kind == "int" else "must be a finite number"
    )
    if text and isinstance(value, str):
        if _TWO_READINGS.fullmatch(value.strip()):
            raise SpaceError("must be a number in decimals, without zeros before it") from None
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                raise remedy from None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise remedy
    try:
        found = int(value) if kind == "int" else float(value)
    except (OverflowError, ValueError):
        raise remedy from None
    if not (math.isfinite(found) if kind == "float" else found == value and abs(found) <= _EXACT):
        raise remedy
    return found


def same(a: Any, b: Any) -> bool:
    """Equality of scalars in which true is not 1."""
    if type(a) is not type(b):
        if isinstance(a, (bool, np.bool_)) != isinstance(b, (bool, np.bool_)):
            return False
        if not isinstance(b, (str, int, float, np.generic)):
            return False
    return bool(a == b)


def show(value: Any) -> str:
    """`value` in one line of bounded length."""
    line = " ".join(repr(value).split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def did_you_mean(word: Any, options: Iterable[Any]) -> str:
    """ "; did you mean ...?" or nothing."""
    spelled = [str(option) for option in options]
    close = [option for option in spelled if option.lower() == str(word).lower()]
    close = close or get_close_matches(str(word), spelled, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def hint(word: Any, options: Iterable[Any]) -> str:
    """ "did you mean ...?", or all that is known."""
    known = sorted(str(option) for option in options)
    return did_you_mean(word, known)[2:] or f"known: {', '.join(known) or 'none'}"


def hydra_word(value: Any) -> str:
    """The word that Hydra's override grammar reads as exactly `value`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    if _BARE_WORD.fullmatch(value) and value.lower() not in _RESERVED_WORDS:
        return value
    # Inside quotes a backslash escapes only before a quote, and then so do the backslashes before it.
    return "'" + re.sub(r"(\\*)('|$(?!\n))", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"
