"""Hyperparameter spaces as data: one YAML declaration, read once, used by every tool.

A file maps names to parameters::

    K: {type: int, low: 1, high: 64, log: true, paper: {default: 10, pubmed: 20}, help: hops}
    model: {type: categorical, choices: [dagnn, gcn], paper: dagnn, value: dagnn}   # value: fixed
    n: {type: int, low: 1, high: {default: 9999, digits: 800}, paper: 100}         # as far as the data go
    width: {type: int, low: 8, high: 64, paper: 64, value: {default: 16, cifar10: 64}}   # fixed, by data set
    alpha: {type: float, low: 0.05, high: 0.5, paper: 0.1, when: {model: appnp}}    # exists only then
    momentum: 0.9                                                                  # fixed
    optimizer: {lr: {type: float, low: 1.0e-4, high: 0.1, log: true, paper: 0.01}} # group: optimizer.lr

A *configuration* is a flat mapping from the names of the active parameters (fixed ones included) to
values. Everything refused is refused by source, key and value, with what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairsweep.search_spaces import _declarations, _yaml
from fairsweep.search_spaces._parameter import (
    SEARCHED,
    Parameter,
    SpaceError,
    hint,
    hydra_word,
    same,
    show,
)

if TYPE_CHECKING:
    import optuna
    import pyarrow as pa

__all__ = ["SEARCHED", "Parameter", "Space", "SpaceError", "register_folder"]

_WANDB_METHODS = ("bayes", "random", "grid")
_folders = [Path(__file__).parent / "parameters"]
_read: dict[str, tuple[tuple[int, int, int], Space]] = {}  # path -> state of the file, what it held


def register_folder(path: str | Path) -> None:
    """Adds a folder in which `Space.load` looks for `<slug>.yaml`, after those it already knows."""
    if Path(path) not in _folders:
        _folders.append(Path(path))


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
        known: dict[str, Path] = {}
        for folder in _folders:
            for path in sorted(folder.glob("*.yaml")):
                known.setdefault(path.stem, path)
        if slug not in known:
            raise SpaceError(
                f"{slug}: no {slug}.yaml in {', '.join(map(str, _folders))}; {hint(slug, known)}"
            )
        return cls.from_file(known[slug])

    @classmethod
    def from_file(cls, path: str | Path) -> Space:
        """Reads a YAML file. Raises SpaceError, also for a name that is declared twice.

        A file that has not changed since it was read last is not read again.
        """
        path = Path(path)
        try:
            stat = path.stat()
        except OSError:  # the reader says what is wrong
            return cls.from_mapping(_yaml.read_file(path), source=str(path), name=path.stem)
        state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known = _read.get(str(path))
        if known is None or known[0] != state:
            space = cls.from_mapping(_yaml.read_file(path), source=str(path), name=path.stem)
            known = _read[str(path)] = (state, space)
        return known[1]

    @classmethod
    def from_yaml(cls, text: str, source: str = "space", papers: bool = True) -> Space:
        """Reads what `to_yaml` wrote. Raises SpaceError. papers: as in `from_mapping`."""
        return cls.from_mapping(_yaml.read(text, source), source=source, papers=papers)

    @classmethod
    def from_mapping(
        cls,
        mapping: Any,
        source: str = "space",
        declared: Space | None = None,
        name: str | None = None,
        papers: bool = True,
    ) -> Space:
        """Reads a mapping. Raises SpaceError. papers: whether parameters must have the paper's value.

        With `declared`, the mapping is that space with a user's changes in it: a scalar in the place of a
        declaration fixes the parameter; ranges may change, but not types; new names are refused, and so
        are new choices unless they are numbers among numbers.
        """
        try:
            parameters = _declarations.read(mapping, declared.parameters if declared else None, papers)
        except SpaceError as error:
            raise SpaceError(f"{source}: {error}") from None
        return cls(name or (declared.name if declared else Path(source).stem), source, parameters)

    # -- configurations -------------------------------------------------------------------------------

    def active(self, config: Mapping[str, Any], name: str) -> bool:
        """Whether parameter `name` exists, given the values of its parents in `config`."""
        for parent, values in self.parameters[name].when.items():
            if parent not in config or not any(same(value, config[parent]) for value in values):
                return False
        return True

    def always(self, name: str) -> bool:
        """Whether parameter `name` exists in every configuration."""
        return all(
            p.fixed and self.always(p.name) and any(same(value, p.value) for value in values)
            for p, values in (
                (self.parameters[parent], v) for parent, v in self.parameters[name].when.items()
            )
        )

    def _build(self, choose: Callable[[Parameter], Any], data: str | None = None) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if not parameter.when or self.active(config, name):
                config[name] = parameter.value_for(data) if parameter.fixed else choose(parameter)
        return config

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """A random configuration, every parameter uniform on its declared scale."""
        return self._build(lambda parameter: parameter.draw(rng))

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """A configuration suggested by Optuna, define-by-run: parameters that do not exist are not asked."""
        return self._build(lambda parameter: parameter.suggest(trial))

    def paper_config(self, data: str | None = None) -> dict[str, Any]:
        """The paper's own configuration for `data`; fixed parameters have their fixed value.

        A paper's value that a user's range excludes stays as it is; `validate` then refuses it. SpaceError if a
        parameter has none, as those of a space of one's own may.
        """
        return self._build(lambda p: self._papers(p, data), data)

    def _papers(self, p: Parameter, data: str | None) -> Any:
        if "default" not in p.paper:
            raise SpaceError(
                f"{self.source}: {p.name}: is missing, and no paper.default says what it would be"
            )
        return p.paper.get(data or "default", p.paper["default"])

    def first(self, data: str | None = None, seed: int = 0) -> dict[str, Any]:
        """A configuration to ask questions about: the paper's own, or a draw where there is none."""
        try:
            return self.paper_config(data)
        except SpaceError:
            return self.sample(np.random.default_rng(seed))

    def beyond(self, declared: Space) -> list[str]:
        """What of this space leaves the ranges of `declared`, of which it is a user's change: a line each.

        That is allowed, and may be a slip: a comma, a unit, a power of ten.
        """
        said = []
        for name, p in self.parameters.items():
            known = declared.parameters.get(name)
            if known is None or known == p or known.span is None:
                continue
            low, high = known.span
            fields = (".choices", ".choices") if p.choices else (".low", ".high")
            new = [("", p.value)] if p.fixed else list(zip(fields, p.span or (), strict=False))
            said += [
                f"space.{name}{field}={show(value)}: outside the declared range, {show(low)} to {show(high)}"
                for field, value in new
                if not low <= value <= high and value not in known.paper.values()
            ]
        return said

    def freed(self, values: Mapping[str, Any]) -> Space:
        """This space with the parameters that `values` names open to their values: those with a domain are searched
        over it where they were fixed, those without one are fixed at the value given."""
        parameters = dict(self.parameters)
        for name in set(values) & set(parameters):
            p = parameters[name]
            domain = p.choices or p.kind == "boolean" or p.low is not None
            parameters[name] = replace(p, value=SEARCHED if domain else values[name], values={})
        return Space(self.name, self.source, parameters)

    def for_data(self, data: str) -> Space:
        """This space on one data set: ranges end where it sets a high of its own, what is fixed has the value that it
        has on it. SpaceError if that leaves no range."""
        parameters = dict(self.parameters)
        for name, p in self.parameters.items():
            if p.values:
                p = parameters[name] = replace(p, value=p.value_for(data), values={})
            if p.highs:
                assert p.low is not None and p.high is not None
                high = p.highs.get(data, p.high)
                if not p.fixed and high <= p.low:
                    raise SpaceError(
                        f"{self.source}: {name}.low={p.low}: must be below {high}, where data={data} ends"
                    )
                parameters[name] = replace(p, high=high, highs={})
        return Space(self.name, self.source, parameters)

    def fill(
        self,
        config: Mapping[str, Any],
        data: str | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A whole configuration: the values of `config`, and for what it leaves out fixed values, then
        `defaults`, then the paper's own for `data`. SpaceError as `validate`."""
        self._check_names(config)
        given = {**(defaults or {}), **config}
        space = self if data is None else self.for_data(data)
        found = space._build(lambda p: given[p.name] if p.name in given else self._papers(p, data))
        return space.validate({**found, **config})

    def validate(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """`config` with its values in their types.

        Raises SpaceError if a name is unknown, an active parameter is missing, an inactive one is present,
        or a value is of the wrong type, outside its domain or not the fixed one.
        """
        self._check_names(config)
        done: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if parameter.when and not self.active(done, name):
                if name in config:
                    wanted = " and ".join(
                        f"{k}={' or '.join(map(str, v))}" for k, v in parameter.when.items()
                    )
                    raise SpaceError(f"{self.source}: {name}={show(config[name])}: exists only when {wanted}")
                continue
            if name not in config:
                raise SpaceError(f"{self.source}: {name}: is missing from the configuration")
            try:
                done[name] = parameter.check(config[name])
            except SpaceError as error:
                raise SpaceError(f"{self.source}: {error}") from None
        return done

    def redrawn(
        self,
        config: Mapping[str, Any],
        names: Sequence[str],
        trials: int,
        seed: int,
        data: str | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """`trials` configurations: `config`, and then draws of those of its hyperparameters that `names` says.

        The k-th draw of a hyperparameter follows from its name, k and `seed` alone, so it is the same beside another
        `config`. What exists only with a drawn value takes its fixed value, that of `defaults` or the paper's own.
        Where `config` has none of `names`, there is nothing to draw and it stands alone.
        """
        given = {**(defaults or {}), **config}
        space, found = self if data is None else self.for_data(data), [dict(config)]
        if not set(names) & set(config):
            return found
        for k in range(1, trials):

            def choose(p: Parameter, k: int = k) -> Any:
                if p.name in names:
                    return p.draw(np.random.default_rng([seed, k, *p.name.encode()]))
                return given[p.name] if p.name in given else self._papers(p, data)

            found.append(space.validate(space._build(choose)))
        return found

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """`config` without the parameters that do not exist in it, and with the fixed ones: for tools that
        know no conditions. Unknown names are refused; `validate` checks the rest."""
        self._check_names(config)
        kept: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if not self.active(kept, name):
                continue
            if name in config:
                kept[name] = config[name]
            elif parameter.fixed:
                kept[name] = parameter.value
        return kept

    def _check_names(self, config: Mapping[str, Any]) -> None:
        for name in config:
            if name not in self.parameters:
                remedy = hint(name, self.parameters)
                raise SpaceError(f"{self.source}: {name}={show(config[name])}: no such parameter; {remedy}")

    def suggestable(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The part of `config` that is searched."""
        return {name: value for name, value in config.items() if not self.parameters[name].fixed}

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Optuna's distributions of the searched parameters."""
        return {name: p.distribution() for name, p in self.parameters.items() if not p.fixed}

    def grid(self, points: int = 3) -> Iterator[dict[str, Any]]:
        """Every combination of `Parameter.points(points)`, the last parameter fastest; a parameter that does
        not exist is not enumerated, so no combination comes twice."""
        values = {name: parameter.points(points) for name, parameter in self.parameters.items()}

        def extend(config: dict[str, Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
            if not names:
                yield config
            elif not self.active(config, names[0]):
                yield from extend(config, names[1:])
            else:
                for value in values[names[0]]:
                    yield from extend({**config, names[0]: value}, names[1:])

        return extend({}, tuple(self.parameters))

    def grid_size(self, points: int = 3) -> int:
        """Number of configurations in `grid(points)`; only the values of parents are enumerated."""
        parents = {parent for parameter in self.parameters.values() for parent in parameter.when}
        family = Space(self.name, self.source, {n: p for n, p in self.parameters.items() if n in parents})
        others = [name for name in self.parameters if name not in parents]
        count = {name: len(self.parameters[name].points(points)) for name in others}
        return sum(
            math.prod(count[name] for name in others if self.active(config, name))
            for config in family.grid(points)
        )

    # -- other tools ----------------------------------------------------------------------------------

    def overrides(self, config: Mapping[str, Any]) -> list[str]:
        """Hydra overrides that fix every parameter at its value in `config`."""
        return [f"space.{name}={hydra_word(value)}" for name, value in config.items()]

    def to_wandb(
        self,
        metric: str,
        mode: str,
        method: str = "bayes",
        program: str | None = None,
        command: Sequence[str] | None = None,
        prefix: str = "",
    ) -> dict[str, Any]:
        """A W&B sweep configuration of the searched parameters, named `prefix` + our names.

        W&B knows no conditions: its agent gets every parameter, and those that do not exist are to be left
        out, by `complete` or by the space itself. The command is by default a run of one trial which reports into
        the agent's run. It takes the values as JSON, of which they come back as they are here; with prefix="space."
        the agent's words are Hydra overrides. SpaceError for what W&B cannot express.
        """
        if mode not in ("min", "max"):
            raise SpaceError(f"mode={show(mode)}: must be min or max")
        if method not in _WANDB_METHODS:
            raise SpaceError(f"method={show(method)}: must be {', '.join(_WANDB_METHODS)}")
        searched = {name: p for name, p in self.parameters.items() if not p.fixed}
        if not searched:
            raise SpaceError(f"{self.source}: no parameters are searched: a W&B sweep needs at least one")
        parameters = {prefix + name: p.wandb(hydra=bool(prefix)) for name, p in searched.items()}
        for name, p in self.parameters.items():
            if method == "grid" and p.kind == "float" and p.step is None and not p.fixed:
                raise SpaceError(
                    f"{self.source}: {name}.step is missing: W&B's grid takes no continuous range"
                )
        words = ["${env}", "${interpreter}", "-m", "fairsweep.cluster", "run"]
        words += [f"trainable={self.name}", "budget.trials=1", "tracking=wandb", "tracking.mode=online"]
        words += ["${args_no_hyphens}"] if prefix else ["--fix", "${args_json}"]
        sweep: dict[str, Any] = {"method": method, "metric": {"name": metric, "goal": f"{mode}imize"}}
        if program is not None:
            sweep["program"] = program
        sweep["command"] = words if command is None else list(command)
        sweep["parameters"] = parameters
        return sweep

    def arrow_fields(self) -> list[pa.Field]:
        """One nullable column a parameter, `config.<name>`: float64, int64, bool, or string (also for
        choices of mixed types)."""
        import pyarrow as pa

        types = {float: pa.float64(), int: pa.int64(), bool: pa.bool_(), str: pa.string()}
        return [pa.field(f"config.{name}", types[p.column]) for name, p in self.parameters.items()]

    def arrow_value(self, name: str, value: Any) -> Any:
        """`value` as the column `config.<name>` holds it."""
        return None if value is None else self.parameters[name].column(value)

    def to_mapping(self) -> dict[str, Any]:
        """A plain nested mapping that `from_mapping` reads back to an equal space."""
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
        return _yaml.write(self.to_mapping())
