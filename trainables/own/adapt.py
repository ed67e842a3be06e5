"""Whatever a reference leads to, as a `Paper` class: the first that fits of a paper, a marked function, adapters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairsweep.search_spaces._parameter import show
from fairsweep.search_spaces.space import Space
from fairsweep.trainables.base import Paper
from fairsweep.trainables.own import optuna_objective
from fairsweep.trainables.own.declare import MARK, Declaration, call, read_space
from fairsweep.trainables.own.running import Handle, OwnPaper, metrics_of
from fairsweep.trainables.own.source import Source, TrainableError, slug_of, text_of

# (object, its source, settings) -> a class, or None if the object is of another kind. Settings: metric and mode of the
# sweep, None where it does not say. TrainableError, in one line, for an object of the kind that cannot be carried over.
Adapter = Callable[[Any, Source, Mapping[str, Any]], type[Paper] | None]
ADAPTERS: list[Adapter] = [optuna_objective.adapter]


def adapt(found: Any, source: Source, settings: Mapping[str, Any] | None = None) -> type[Paper]:
    """The class for an object. TrainableError that says what it is and what would be right; SpaceError."""
    settings = settings or {}
    if inspect.isclass(found) and issubclass(found, Paper):
        return _paper(found, source)
    if hasattr(found, MARK):
        return _function(found, source, settings)
    for adapter in ADAPTERS:
        made = adapter(found, source, settings)
        if made is not None:
            return made
    what = f"a {type(found).__name__}" if not inspect.isclass(found) else "a class"
    named = getattr(found, "__name__", None) or show(found)
    raise TrainableError(
        f"trainable={source.reference}: {named} is {what} that cannot be tuned; mark a function with"
        " @fairsweep.trainable(space={...}, metric=...), or extend fairsweep.Paper"
    )


def space_beside(given: Any, source: Source) -> tuple[Space, Source]:
    """The space that is given inline, by the name of a YAML file beside the trainable's, or lies beside it unnamed.

    The file travels with the source that is returned. SpaceError, TrainableError.
    """
    where = f"trainable={source.reference}"
    if given is not None and not isinstance(given, (str, Path)):
        return read_space(given, where), source
    inside = Path(source.place).relative_to(source.folder) if source.place.endswith(".py") else None
    beside = inside.parent if inside is not None else Path(*source.place.split(".")[:-1])
    names = (
        [str(given)]
        if given is not None
        else [f"{source.name}.yaml", f"{(inside or Path('space')).stem}.yaml"]
    )
    for name in names:
        file = (beside / name).as_posix()
        text = source.files.get(file)
        if text is None and source.folder and (Path(source.folder) / file).is_file():
            text = text_of(Path(source.folder) / file, source.reference)
        if text is not None:
            space = Space.from_yaml(text, source=f"{where}: {name}", papers=False)
            return space, replace(source, files={**source.files, file: text})
    raise TrainableError(
        f"{where}: space is missing: give it inline, space={{'lr': (0.001, 0.1)}}, or in a file beside it,"
        f" {' or '.join(names)}"
    )


def _paper(found: type[Paper], source: Source) -> type[Paper]:
    """A class of the user's as it is, or with its space if that is a dict or lies beside it."""
    name = f"trainable={source.reference}"
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise TrainableError(
            f"{name}: {found.__name__} does not define {', '.join(missing)} of fairsweep.Paper"
        )
    members: dict[str, Any] = {"source": source}
    own = inspect.getattr_static(found, "space", None)
    if not isinstance(own, (classmethod, staticmethod)) and not callable(own):
        space, members["source"] = space_beside(own, source)
        members["space"] = classmethod(lambda cls: space)
    elif "space" not in vars(found) and found.space.__func__ is Paper.space.__func__ and not _listed(found):  # type: ignore[attr-defined]
        space, members["source"] = space_beside(None, source)
        members["space"] = classmethod(lambda cls: space)
    for field, fallback in (
        ("slug", slug_of(source.reference)),
        ("title", found.__name__),
        ("citation", "the user's own"),
        ("task", "own"),
        ("datasets", ("own",)),
    ):
        if not hasattr(found, field):
            members[field] = fallback
    for field in ("metrics", "objective"):
        if not hasattr(found, field):
            raise TrainableError(f"{name}: {found.__name__} does not declare {field}")
    names = {m.name: m for m in found.metrics}
    if found.objective not in names or names[found.objective].split != "validation":
        raise TrainableError(f"{name}: objective={found.objective!r}: must be a declared validation metric")
    return type(
        found.__name__, (found,), {**members, "__module__": found.__module__, "__doc__": found.__doc__}
    )


def _listed(found: type[Paper]) -> bool:
    """Whether the space of a class lies where those of the catalogue do."""
    try:
        found.space()
    except (ValueError, AttributeError):
        return False
    return True


def _function(found: Any, source: Source, settings: Mapping[str, Any]) -> type[Paper]:
    """A function that was marked."""
    declared: Declaration = getattr(found, MARK)
    function = found.__wrapped__
    if "." in source.name and next(iter(inspect.signature(found).parameters), "") == "self":
        raise TrainableError(
            f"trainable={source.reference}: is a method without its object; mark a function that makes the object and"
            " calls it"
        )
    objective = declared.metric or settings.get("metric")
    if not isinstance(objective, str):
        raise TrainableError(
            f"trainable={source.reference}: metric is missing: say what is tuned on, @fairsweep.trainable(metric=...)"
            " or metric=NAME mode=min|max"
        )
    space, source = space_beside(declared.space, source)

    class Function(OwnPaper):
        def body(self, config: dict[str, Any], trial: Handle) -> Any:
            made = call(function, config, trial)
            return drained(made, trial) if inspect.isgenerator(made) else made

    Function.checkpoint_words = ("checkpoint", "restore")
    Function.__name__ = Function.__qualname__ = slug_of(source.reference)
    Function.slug = slug_of(source.reference)
    Function.title = " ".join((inspect.getdoc(function) or Function.slug).split("\n\n")[0].split())[:200]
    Function.source, Function.own_space, Function.declared_steps = source, space, declared.steps
    Function.objective = objective
    mode = declared.mode if declared.metric else settings.get("mode") or declared.mode
    Function.metrics = metrics_of(objective, mode, declared.metrics, declared.test)
    return Function


def drained(made: Any, trial: Any) -> Any:
    """Reports what a generator yields by `trial.report`, and returns what it returns; it is closed where that ends."""
    try:
        while True:
            try:
                item = next(made)
            except StopIteration as end:
                return end.value
            trial.report({} if item is None else item)
    finally:
        made.close()
