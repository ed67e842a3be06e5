"""Hyperparameter spaces as data: one YAML declaration, read once, used by every tool.

A file maps names to parameters::

    K: {type: int, low: 1, high: 64, log: true, paper: {default: 10, pubmed: 20}, help: hops}
    model: {type: categorical, choices: [dagnn, gcn], paper: dagnn, value: dagnn}   # value: fixed
    alpha: {type: float, low: 0.05, high: 0.5, paper: 0.1, when: {model: appnp}}    # exists only then
    momentum: 0.9                                                                  # fixed
    optimizer: {lr: {type: float, low: 1.0e-4, high: 0.1, log: true, paper: 0.01}} # group: optimizer.lr

A *configuration* is a flat mapping from the names of the active parameters (fixed ones included) to
values. Everything refused is refused by file, key and value, with what would be right.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    import optuna
    import pyarrow as pa

KINDS = ("float", "int", "categorical", "boolean")
KEYS = {
    "float": {"low", "high", "log", "step"},
    "int": {"low", "high", "log", "step"},
    "categorical": {"choices"},
    "boolean": set(),
}
SHARED_KEYS = {"type", "paper", "value", "when", "help"}
_folders = [Path(__file__).parent / "parameters"]


class SpaceError(ValueError):
    """A declaration or configuration that is refused; one line, with source, key, value and the remedy."""


class _Searched:
    def __repr__(self) -> str:
        return "SEARCHED"


SEARCHED: Any = _Searched()


def register_folder(path: str | Path) -> None:
    """Adds a folder in which `Space.load` looks for `<slug>.yaml`."""
    _folders.append(Path(path))


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter. `value` is SEARCHED or the fixed value; `paper` maps data sets to paper values."""

    name: str
    kind: str
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    choices: tuple[Any, ...] = ()
    value: Any = SEARCHED
    paper: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    help: str = ""

    @property
    def fixed(self) -> bool:
        """Whether the parameter has one value and is not searched."""
        return not isinstance(self.value, _Searched)

    def check(self, value: Any) -> Any:
        """`value` as this parameter takes it; SpaceError if it is of the wrong type or outside the domain.

        A fixed parameter takes its own value only.
        """
        found = self._typed(value)
        if self.fixed:
            if not _same(found, self.value):
                raise SpaceError(f"{self.name}={value!r}: is fixed at {self.value!r}")
        elif self.kind in ("float", "int"):
            assert self.low is not None and self.high is not None
            if not self.low <= found <= self.high:
                raise SpaceError(f"{self.name}={value!r}: must lie in [{self.low}, {self.high}]")
            if self.step is not None:
                k = (found - self.low) / self.step
                if abs(k - round(k)) > 1e-6:
                    raise SpaceError(f"{self.name}={value!r}: must be {self.low} plus a multiple of {self.step}")
        return found

    def _typed(self, value: Any) -> Any:
        """Type and, for categorical parameters, choice; not the range: a fixed value may lie outside it."""
        if self.kind == "categorical":
            for choice in self.choices:
                if _same(choice, value):
                    return choice
            raise SpaceError(f"{self.name}={value!r}: must be one of {', '.join(map(repr, self.choices))}")
        if self.kind == "boolean":
            if isinstance(value, (bool, np.bool_)):
                return bool(value)
            raise SpaceError(f"{self.name}={value!r}: must be true or false")
        return _number(value, self.kind, f"{self.name}={value!r}")

    def draw(self, rng: np.random.Generator) -> Any:
        """A random value, uniform on the declared scale."""
        if self.kind == "boolean":
            return bool(rng.integers(2))
        if self.kind == "categorical":
            return self.choices[int(rng.integers(len(self.choices)))]
        assert self.low is not None and self.high is not None
        if self.step is not None:
            return self._snap(int(rng.integers(round((self.high - self.low) / self.step) + 1)))
        if self.kind == "int":
            if not self.log:
                return int(rng.integers(self.low, self.high + 1))
            # Equal shares of the log axis for every integer, as Optuna draws.
            u = rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5))
            return int(min(max(round(math.exp(u)), self.low), self.high))
        if self.log:
            u = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return float(min(max(u, self.low), self.high))
        return float(rng.uniform(self.low, self.high))

    def _snap(self, k: int) -> Any:
        assert self.low is not None and self.step is not None
        return int(self.low + k * self.step) if self.kind == "int" else float(self.low + k * self.step)

    def points(self, n: int) -> list[Any]:
        """Up to `n` values from low to high on the declared scale; all choices of a categorical one."""
        if self.fixed:
            return [self.value]
        if self.kind == "boolean":
            return [False, True]
        if self.kind == "categorical":
            return list(self.choices)
        assert self.low is not None and self.high is not None
        if self.step is not None:
            last = round((self.high - self.low) / self.step)
            return [self._snap(k) for k in sorted({round(x) for x in np.linspace(0, last, min(n, last + 1))})]
        space = np.geomspace if self.log else np.linspace
        values = [self.low] if n == 1 else [self.low, *space(self.low, self.high, n)[1:-1].tolist(), self.high]
        return sorted({round(v) for v in values}) if self.kind == "int" else sorted({float(v) for v in values})

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Optuna's distribution for this (searched) parameter."""
        from optuna import distributions as d

        if self.kind == "boolean":
            return d.CategoricalDistribution([False, True])
        if self.kind == "categorical":
            return d.CategoricalDistribution(self.choices)
        if self.kind == "int":
            return d.IntDistribution(int(self.low or 0), int(self.high or 0), log=self.log, step=int(self.step or 1))
        return d.FloatDistribution(float(self.low or 0), float(self.high or 0), log=self.log, step=self.step)

    def to_mapping(self) -> dict[str, Any]:
        """The declaration that `Space.from_mapping` reads back."""
        raw: dict[str, Any] = {"type": self.kind}
        if self.kind in ("float", "int"):
            raw |= {"low": self.low, "high": self.high} if self.low is not None else {}
            if self.log:
                raw["log"] = True
            if self.step is not None:
                raw["step"] = self.step
        if self.kind == "categorical":
            raw["choices"] = list(self.choices)
        if self.paper:
            raw["paper"] = dict(self.paper)
        if self.fixed:
            raw["value"] = self.value
        if self.when:
            raw["when"] = {parent: list(values) for parent, values in self.when.items()}
        if self.help:
            raw["help"] = self.help
        return raw


@dataclass(frozen=True)
class Space:
    """Named parameters, parents before the parameters that depend on them."""

    name: str
    source: str
    parameters: Mapping[str, Parameter]

    # -- reading --------------------------------------------------------------------------------------

    @classmethod
    def load(cls, slug: str) -> Space:
        """The space of a paper, from `<slug>.yaml` in `search_spaces/parameters` or a registered folder."""
        for folder in _folders:
            if (folder / f"{slug}.yaml").is_file():
                return cls.from_file(folder / f"{slug}.yaml")
        raise SpaceError(f"{slug}: no {slug}.yaml in {', '.join(map(str, _folders))}")

    @classmethod
    def from_file(cls, path: str | Path) -> Space:
        """Reads a YAML file; a name declared twice is refused."""
        path = Path(path)
        try:
            raw = yaml.load(path.read_text(), Loader=_UniqueKeyLoader)
        except yaml.YAMLError as error:
            raise SpaceError(f"{path}: {' '.join(str(error).split())}") from None
        return cls.from_mapping(raw, source=str(path), name=path.stem)

    @classmethod
    def from_mapping(
        cls, mapping: Any, source: str = "space", declared: Space | None = None, name: str | None = None
    ) -> Space:
        """Reads a mapping. With `declared`, the mapping is that space with a user's overrides in it: a
        parameter replaced by a scalar is fixed at it, and new names are refused."""
        if not isinstance(mapping, Mapping):
            raise SpaceError(f"{source}: must map parameter names to declarations, got {mapping!r}")
        found: dict[str, Parameter] = {}
        for key, raw, declaration in _walk(mapping, "", declared):
            if key in found:
                raise SpaceError(f"{source}: {key}: duplicate name")
            if declared is not None and declaration is None:
                raise SpaceError(f"{source}: {key}: no such parameter; {_hint(key, declared.parameters)}")
            try:
                found[key] = _parameter(key, raw, declaration)
            except SpaceError as error:
                raise SpaceError(f"{source}: {error}") from None
        if declared is not None and (missing := set(declared.parameters) - set(found)):
            raise SpaceError(f"{source}: {sorted(missing)[0]}: is missing; a parameter can be fixed, not removed")
        label = name or (declared.name if declared else Path(source).stem)
        return cls(label, source, _ordered(found, source))

    # -- configurations -------------------------------------------------------------------------------

    def active(self, config: Mapping[str, Any], name: str) -> bool:
        """Whether parameter `name` exists, given the values of its parents in `config`."""
        return all(
            parent in config and any(_same(config[parent], v) for v in values)
            for parent, values in self.parameters[name].when.items()
        )

    def _build(self, choose: Any) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if self.active(config, name):
                config[name] = parameter.value if parameter.fixed else choose(parameter)
        return config

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """A random configuration."""
        return self._build(lambda p: p.draw(rng))

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """A configuration suggested by Optuna, define-by-run: parameters that do not exist are not asked."""

        def choose(p: Parameter) -> Any:
            if p.kind == "boolean":
                return trial.suggest_categorical(p.name, [False, True])
            if p.kind == "categorical":
                return trial.suggest_categorical(p.name, p.choices)
            assert p.low is not None and p.high is not None
            if p.kind == "int":
                return trial.suggest_int(p.name, int(p.low), int(p.high), step=int(p.step or 1), log=p.log)
            return trial.suggest_float(p.name, p.low, p.high, step=p.step, log=p.log)

        return self._build(choose)

    def paper_config(self, data: str | None = None) -> dict[str, Any]:
        """The paper's own configuration for `data` (the paper's default where it names no value for it).

        Values that a user's overrides have put out of range are not adjusted; `validate` refuses them.
        """
        return self._build(lambda p: p.paper.get(data, p.paper["default"]))

    def validate(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """`config` with its values in their types; SpaceError if anything is unknown, missing or outside."""
        for name in config:
            if name not in self.parameters:
                raise SpaceError(f"{self.source}: {name}: no such parameter; {_hint(name, self.parameters)}")
        done: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if not self.active(done, name):
                if name in config:
                    wanted = ", ".join(f"{k}={'|'.join(map(str, v))}" for k, v in parameter.when.items())
                    raise SpaceError(f"{self.source}: {name}={config[name]!r}: exists only when {wanted}")
                continue
            if name not in config:
                raise SpaceError(f"{self.source}: {name}: is missing from the configuration")
            try:
                done[name] = parameter.check(config[name])
            except SpaceError as error:
                raise SpaceError(f"{self.source}: {error}") from None
        return done

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """`config` without the parameters that do not exist in it: for tools that know no conditions."""
        kept: dict[str, Any] = {}
        for name in self.parameters:
            if self.active(kept, name) and name in config:
                kept[name] = config[name]
        return kept

    def suggestable(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The part of `config` that is searched."""
        return {n: v for n, v in config.items() if not self.parameters[n].fixed}

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Optuna's distributions of the searched parameters."""
        return {n: p.distribution() for n, p in self.parameters.items() if not p.fixed}

    def grid(self, points: int = 3) -> Iterator[dict[str, Any]]:
        """Every combination of `Parameter.points(points)`; conditions respected, none twice."""

        def extend(config: dict[str, Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
            if not names:
                yield config
                return
            first, rest = names[0], names[1:]
            if not self.active(config, first):
                yield from extend(config, rest)
                return
            for value in self.parameters[first].points(points):
                yield from extend({**config, first: value}, rest)

        yield from extend({}, list(self.parameters))

    def grid_size(self, points: int = 3) -> int:
        """Number of configurations in `grid(points)`, counted over the values of the parents only."""
        parents = {parent for p in self.parameters.values() for parent in p.when}
        total = 0
        names = [n for n in self.parameters if n in parents]
        for combination in itertools.product(*([*self.parameters[n].points(points), SEARCHED] for n in names)):
            config = {n: v for n, v in zip(names, combination, strict=True) if not isinstance(v, _Searched)}
            if any((n in config) != self.active(config, n) for n in names):
                continue
            rest = [p for n, p in self.parameters.items() if n not in parents and self.active(config, n)]
            total += math.prod(len(p.points(points)) for p in rest)
        return total

    # -- other tools ----------------------------------------------------------------------------------

    def overrides(self, config: Mapping[str, Any]) -> list[str]:
        """Hydra overrides that fix every parameter at its value in `config`."""
        return [f"space.{name}={_hydra(value)}" for name, value in config.items()]

    def to_wandb(
        self,
        metric: str,
        mode: str,
        method: str = "bayes",
        program: str | None = None,
        command: Sequence[str] | None = None,
        prefix: str = "",
    ) -> dict[str, Any]:
        """A W&B sweep configuration. W&B knows no conditions: its agent gets every parameter, and
        `complete` drops those that do not exist."""
        sweep: dict[str, Any] = {"method": method, "metric": {"name": metric, "goal": f"{mode}imize"}}
        if program is not None:
            sweep["program"] = program
        words = ["${env}", "${interpreter}", "-m", "cluster", "run", f"trainable={self.name}", "budget.trials=1"]
        sweep["command"] = list(command) if command is not None else [*words, "${args_no_hyphens}"]
        sweep["parameters"] = {prefix + n: _wandb(p) for n, p in self.parameters.items()}
        return sweep

    def arrow_fields(self) -> list[pa.Field]:
        """One nullable column a parameter, `config.<name>`, of the parameter's type."""
        import pyarrow as pa

        types = {"float": pa.float64(), "int": pa.int64(), "bool": pa.bool_(), "str": pa.string()}
        return [pa.field(f"config.{n}", types[_column_kind(p)]) for n, p in self.parameters.items()]

    def arrow_value(self, name: str, value: Any) -> Any:
        """`value` as the column `config.<name>` holds it."""
        if value is None:
            return None
        kind = _column_kind(self.parameters[name])
        return {"float": float, "int": int, "bool": bool, "str": str}[kind](value)

    def to_mapping(self) -> dict[str, Any]:
        """A plain mapping that `from_mapping` reads back to an equal space."""
        raw: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            node = raw
            *groups, last = name.split(".")
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = parameter.to_mapping()
        return raw

    def to_yaml(self) -> str:
        """`to_mapping` as YAML."""
        return yaml.safe_dump(self.to_mapping(), sort_keys=False)


# -- declarations -------------------------------------------------------------------------------------


class _UniqueKeyLoader(yaml.SafeLoader):
    pass


def _unique(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
    for key in keys:
        if keys.count(key) > 1:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"{key}: duplicate name in the mapping that begins on line {line}")
    return {k: loader.construct_object(v, deep=True) for k, (_, v) in zip(keys, node.value, strict=True)}  # type: ignore[no-untyped-call]


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)


def _walk(
    mapping: Mapping[str, Any], prefix: str, declared: Space | None
) -> Iterator[tuple[str, Any, Parameter | None]]:
    for raw_key, raw in mapping.items():
        if not isinstance(raw_key, str) or not raw_key or raw_key.startswith(".") or raw_key.endswith("."):
            raise SpaceError(f"{prefix}{raw_key!r}: a parameter's name must be a word")
        key = f"{prefix}{raw_key}"
        known = declared.parameters.get(key) if declared else None
        is_group = isinstance(raw, Mapping) and "type" not in raw and known is None
        if is_group and raw and all(isinstance(v, Mapping) or k not in _ALL_KEYS for k, v in raw.items()):
            yield from _walk(raw, f"{key}.", declared)
        else:
            yield key, raw, known


_ALL_KEYS = SHARED_KEYS | {"low", "high", "log", "step", "choices"}


def _parameter(name: str, raw: Any, declared: Parameter | None) -> Parameter:
    if not isinstance(raw, Mapping):
        if declared is None:
            return _scalar(name, raw)
        return _replace_value(declared, raw)
    if declared is not None and "type" not in raw:
        raise SpaceError(f"{name}: lacks type: must be one of {', '.join(KINDS)}")
    kind = raw.get("type")
    if kind not in KINDS:
        raise SpaceError(f"{name}.type={kind!r}: must be one of {', '.join(KINDS)}")
    allowed = SHARED_KEYS | KEYS[kind]
    for key in raw:
        if key not in allowed:
            raise SpaceError(f"{name}.{key}={raw[key]!r}: a {kind} parameter has no such key; {_hint(key, allowed)}")
    domain = _numeric_domain(name, kind, raw) if kind in ("float", "int") else {}
    if kind == "categorical":
        domain = {"choices": _choices(name, raw)}
    bare = Parameter(name, kind, **domain)
    value = SEARCHED
    if "value" in raw and not (raw["value"] is None and None not in bare.choices):
        value = _at(f"{name}.value", bare, raw["value"], ranged=False)
    paper = raw.get("paper", {})
    paper = dict(paper) if isinstance(paper, Mapping) else {"default": paper}
    overridden = declared is not None and (declared.low, declared.high, declared.step, declared.choices, declared.log) != (
        bare.low, bare.high, bare.step, bare.choices, bare.log
    )  # fmt: skip
    fixed = not isinstance(value, _Searched)
    if not fixed and "default" not in paper:
        raise SpaceError(f"{name}.paper is missing: every searched parameter states the paper's own value")
    if not fixed and not overridden:
        paper = {data: _at(f"{name}.paper", bare, v, ranged=True) for data, v in paper.items()}
    return Parameter(name, kind, **domain, value=value, paper=paper, when=_when(name, raw), help=str(raw.get("help", "")))


def _numeric_domain(name: str, kind: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    if raw.get("value") is not None and raw.get("low") is None and raw.get("high") is None:
        return {}  # fixed, and never meant to be searched
    for key in ("low", "high"):
        if raw.get(key) is None:
            raise SpaceError(f"{name}.{key} is missing: a {kind} parameter has a low and a high")
    low = _number(raw["low"], kind, f"{name}.low={raw['low']!r}")
    high = _number(raw["high"], kind, f"{name}.high={raw['high']!r}")
    log, step = raw.get("log", False), raw.get("step")
    if not isinstance(log, bool):
        raise SpaceError(f"{name}.log={log!r}: must be true or false")
    if low > high:
        raise SpaceError(f"{name}.low={low!r}: is above high={high!r}; the range is reversed")
    if low == high:
        raise SpaceError(f"{name}.low={low!r}: equals high, an empty range; write value: {low!r} to fix it")
    if log and low <= 0:
        raise SpaceError(f"{name}.low={low!r}: a log scale needs a low above 0")
    if step is not None:
        step = _number(step, kind, f"{name}.step={step!r}")
        if log:
            raise SpaceError(f"{name}.step={step!r}: goes with a linear scale, not with log: true")
        if step <= 0 or step > high - low:
            raise SpaceError(f"{name}.step={step!r}: must be above 0 and at most high - low = {high - low!r}")
        # The last reachable value is the honest end of the range; Optuna would lower it with a warning.
        high = low + math.floor((high - low) / step + 1e-9) * step
    return {"low": low, "high": high, "log": log, "step": step}


def _choices(name: str, raw: Mapping[str, Any]) -> tuple[Any, ...]:
    choices = raw.get("choices")
    if not isinstance(choices, (list, tuple)) or not choices:
        raise SpaceError(f"{name}.choices={choices!r}: must be a list of at least one value")
    for k, choice in enumerate(choices):
        if not isinstance(choice, (str, int, float, bool, type(None))):
            raise SpaceError(f"{name}.choices: {choice!r} must be a string, a number, true, false or null")
        if isinstance(choice, float) and not math.isfinite(choice):
            raise SpaceError(f"{name}.choices: {choice!r} must be finite")
        if any(_same(choice, other) for other in choices[:k]):
            raise SpaceError(f"{name}.choices: {choice!r} stands twice")
    return tuple(choices)


def _when(name: str, raw: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    when = raw.get("when", {})
    if not isinstance(when, Mapping):
        raise SpaceError(f"{name}.when={when!r}: must map parameters to the values that they must have")
    return {str(p): tuple(v) if isinstance(v, (list, tuple)) else (v,) for p, v in when.items()}


def _scalar(name: str, value: Any) -> Parameter:
    if isinstance(value, bool):
        return Parameter(name, "boolean", value=value)
    if isinstance(value, (int, float)):
        kind = "int" if isinstance(value, int) else "float"
        return Parameter(name, kind, value=_number(value, kind, f"{name}={value!r}"))
    if isinstance(value, str) or value is None:
        return Parameter(name, "categorical", choices=(value,), value=value)
    raise SpaceError(f"{name}={value!r}: must be a declaration (type: ...) or a fixed string, number or boolean")


def _replace_value(declared: Parameter, value: Any) -> Parameter:
    from dataclasses import replace

    if not declared.choices and declared.low is None and declared.fixed and declared.kind != "boolean":
        return _scalar(declared.name, value) if declared.kind == "categorical" else replace(declared, value=declared._typed(value))
    if declared.kind == "categorical" and declared.fixed and len(declared.choices) == 1 and not declared.paper:
        return replace(_scalar(declared.name, value), when=declared.when, help=declared.help)
    return replace(declared, value=declared._typed(value))


def _at(where: str, parameter: Parameter, value: Any, ranged: bool) -> Any:
    try:
        return parameter.check(value) if ranged else parameter._typed(value)
    except SpaceError as error:
        raise SpaceError(f"{where}={value!r}: {str(error).partition(': ')[2]}") from None


def _ordered(found: dict[str, Parameter], source: str) -> dict[str, Parameter]:
    for name, parameter in found.items():
        for parent, values in parameter.when.items():
            if parent not in found:
                raise SpaceError(f"{source}: {name}.when.{parent}: no such parameter; {_hint(parent, found)}")
            for value in values:
                declared = found[parent]
                bare = Parameter(parent, declared.kind, declared.low, declared.high, choices=declared.choices)
                if declared.low is None and declared.kind in ("float", "int"):
                    continue
                try:
                    bare.check(value)
                except SpaceError as error:
                    raise SpaceError(
                        f"{source}: {name}.when.{parent}={value!r}: {parent} never has this value; "
                        f"{str(error).partition(': ')[2]}"
                    ) from None
    done: dict[str, Parameter] = {}
    left = dict(found)
    while left:
        ready = [n for n, p in left.items() if all(parent in done for parent in p.when)]
        if not ready:
            raise SpaceError(f"{source}: {', '.join(sorted(left))}: their conditions go round in a circle")
        done[ready[0]] = left.pop(ready[0])
    return done


def _number(value: Any, kind: str, where: str) -> Any:
    wanted = "a whole number" if kind == "int" else "a finite number"
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            value = float(value)
        except ValueError:
            raise SpaceError(f"{where}: must be {wanted}") from None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise SpaceError(f"{where}: must be {wanted}")
    if not math.isfinite(value) or (kind == "int" and float(value) != int(value)):
        raise SpaceError(f"{where}: must be {wanted}")
    return int(value) if kind == "int" else float(value)


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and (a is None) == (b is None) and a == b


def _hint(word: str, options: Any) -> str:
    close = get_close_matches(str(word), list(options), n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(options))}"


# -- conversions --------------------------------------------------------------------------------------


def _hydra(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" if "'" not in value else json.dumps(value)


def _wandb(p: Parameter) -> dict[str, Any]:
    if p.fixed:
        return {"value": p.value}
    if p.kind == "boolean":
        return {"values": [True, False]}
    if p.kind == "categorical":
        return {"values": list(p.choices)}
    assert p.low is not None and p.high is not None
    bounds: dict[str, Any] = {"min": p.low, "max": p.high}
    if p.step is not None:
        # W&B quantises round(x / q) * q, which misses grids that do not start at a multiple of the step.
        return {"values": [p._snap(k) for k in range(round((p.high - p.low) / p.step) + 1)]}
    if p.kind == "int":
        return {"distribution": "q_log_uniform_values" if p.log else "int_uniform", **bounds, **({"q": 1} if p.log else {})}
    return {"distribution": "log_uniform_values" if p.log else "uniform", **bounds}


def _column_kind(p: Parameter) -> str:
    if p.kind != "categorical":
        return {"float": "float", "int": "int", "boolean": "bool"}[p.kind]
    kinds = {type(c) for c in p.choices if c is not None}
    if kinds == {bool}:
        return "bool"
    if kinds == {int}:
        return "int"
    return "float" if kinds and kinds <= {int, float} else "str"
