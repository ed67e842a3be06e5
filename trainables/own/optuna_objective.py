"""An Optuna objective as it is: `fairsweep run trainable=objective.py:objective`.

Sampler and store stay with the driver, so the space is found by dry runs before (`dry_runs`, `optuna_space`), and the
objective is given a trial that answers from the configuration (`optuna_trial`). What it returns is the trial's value,
also where it has reported better ones on the way, as in Optuna.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from fairsweep.search_spaces.space import Space
from fairsweep.trainables.base import Metric, Pruned
from fairsweep.trainables.own.labels import plain_name
from fairsweep.trainables.own.loading import AROUND, Stop
from fairsweep.trainables.own.optuna_space import PLACE, Asked
from fairsweep.trainables.own.reports import as_json
from fairsweep.trainables.own.running import Handle, OwnPaper
from fairsweep.trainables.own.source import Source, TrainableError, remember, slug_of

_WORDS = {"minimize": "min", "maximize": "max"}
_OPTUNA = re.compile(r"^\s*(import|from)\s+optuna\b", re.MULTILINE)


@contextlib.contextmanager
def around(source: Source) -> Iterator[None]:
    """The import of a script: its own study does not begin, and what stands before is what there is."""
    if not any(_OPTUNA.search(text) for text in source.files.values()):
        yield
        return
    from unittest import mock  # asyncio with it, in every process that knows what Optuna's objectives are

    import optuna

    def optimize(self: Any, *args: Any, **options: Any) -> None:
        raise Stop("Study.optimize")

    with mock.patch.object(optuna.study.Study, "optimize", optimize):
        yield


AROUND.append(around)


def adapter(found: Any, source: Source, settings: Mapping[str, Any]) -> type[OwnPaper] | None:
    """The class for an objective: a function or callable object of one parameter, a trial. TrainableError."""
    where = f"trainable={source.reference}"
    if inspect.isclass(found):
        if not _takes_trial(getattr(found, "__call__", None), skip=1):  # noqa: B004 (of its objects)
            return None
        try:
            found = found()
        except TypeError:
            raise TrainableError(
                f"{where}: {found.__name__} is a class whose objects are objectives; name an object,"
                f" such as objective = {found.__name__}(...)"
            ) from None
    if not callable(found) or not _takes_trial(found):
        return None
    others = _required(found)[1:]
    if others:
        raise TrainableError(
            f"{where}: takes {', '.join(others)} beside the trial; bind them, such as"
            f" bound = functools.partial({source.name}, {others[0]}=...)"
        )
    names, modes = _objectives(settings, source)
    objective = found

    class Objective(OptunaObjective):
        call = staticmethod(objective)

    Objective.__name__ = Objective.__qualname__ = slug_of(source.reference)
    Objective.slug, Objective.source = slug_of(source.reference), source
    about = inspect.getdoc(found) if inspect.isroutine(found) else None
    Objective.title = " ".join((about or Objective.slug).split("\n\n")[0].split())[:200]
    Objective.names, Objective.modes, Objective.objective = tuple(names), tuple(modes), names[0]
    if len(names) > 1:
        Objective.source = replace(source, found={**source.found, "objectives": [names, modes]})
    Objective.metrics = tuple(Metric(n, m, "validation") for n, m in zip(names, modes, strict=True))  # type: ignore[arg-type]
    return Objective


def _required(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters that must be given, by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def _takes_trial(function: Any, skip: int = 0) -> bool:
    """Whether the first parameter that must be given is called or annotated as a trial."""
    if function is None:
        return False
    needed = _required(function)[skip:]
    if not needed:
        return False
    annotation = inspect.signature(function).parameters[needed[0]].annotation
    word = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return needed[0].endswith("trial") or word.rpartition(".")[2] in ("Trial", "BaseTrial", "FixedTrial")


def _objectives(settings: Mapping[str, Any], source: Source) -> tuple[list[str], list[str]]:
    """Names and directions of what is returned. TrainableError where the file says other than nobody has said.

    With several objectives, `settings` has `metrics` and `modes`; in a worker they have come with the source.
    """
    if "objectives" in source.found:
        names, modes = source.found["objectives"]
        return list(names), list(modes)
    if settings.get("metrics"):
        names = list(settings["metrics"])
        return names, [mode or "min" for mode in settings["modes"]]
    metric, mode = settings.get("metric"), settings.get("mode")
    if mode is None:
        said = next((d for d in _directions(source) if d != ["minimize"]), None)
        if said is not None:
            words = [_WORDS[w] for w in said]
            create = f"direction={said[0]!r}" if len(words) == 1 else f"directions={said}"
            choice = f"mode={words[0]}" if len(words) == 1 else _several(words)
            raise TrainableError(
                f"trainable={source.reference}: mode is missing: its file says create_study({create}); say {choice}"
            )
    return [metric or "value"], [mode or "min"]


def _several(modes: Sequence[str]) -> str:
    """The settings for several values, by names that will do."""
    names = ",".join(f"value_{k}" for k in range(len(modes)))
    return f"metric=[{names}] mode=[{','.join(modes)}]"


def _directions(source: Source) -> list[list[str]]:
    """The directions of the studies that the objective's file creates, as far as they stand there as words."""
    main = source.place.rpartition("/")[2] if source.place.endswith(".py") else None
    found: list[list[str]] = []
    for name, text in source.files.items():
        if main is not None and name.rpartition("/")[2] != main:
            continue
        for node in ast.walk(ast.parse(text.encode())):
            if isinstance(node, ast.Call) and _called(node) == "create_study":
                given = {k.arg: k.value for k in node.keywords}
                words = [_word(given["direction"])] if "direction" in given else []
                if isinstance(given.get("directions"), (ast.List, ast.Tuple)):
                    words = [_word(e) for e in given["directions"].elts]  # type: ignore[attr-defined]
                if words and all(w in _WORDS for w in words):
                    found.append(words)
    return found


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _word(node: ast.expr) -> str:
    """A direction that is written as text or as StudyDirection.MAXIMIZE; "" for what is neither."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return node.attr.lower() if isinstance(node, ast.Attribute) else ""


class OptunaObjective(OwnPaper):
    """An objective in the worker. names, modes: one a value that it returns. Made by `adapter`."""

    task: ClassVar[str] = "own"
    names: ClassVar[tuple[str, ...]] = ("value",)
    modes: ClassVar[tuple[str, ...]] = ("min",)
    call: ClassVar[Any]  # of one parameter, a trial
    remarks: list[str]

    @classmethod
    def space(cls) -> Space:
        """The space that the source has brought, else what dry runs find now. One line for what cannot be searched."""
        where = f"trainable={cls.source.reference}"
        if "space" not in cls.source.found:
            owner = next(c for c in cls.__mro__ if "source" in vars(c))
            owner.source = _searched(cls.source, cls.modes)  # type: ignore[attr-defined]
        found = cls.source.found
        if found["returned"] not in (0, len(cls.modes)):
            raise TrainableError(f"{where}: {_other_mode(found['returned'], cls.modes)}")
        return Space.from_mapping(found["space"], source=where, papers=False)

    def setup(self, config: Mapping[str, Any], setting: Any) -> None:
        super().setup(config, setting)
        self.attrs, self.remarks = {}, []
        self._returned = False
        self._last: float | None = None

    def body(self, config: dict[str, Any], trial: Handle) -> Any:
        import optuna

        carried = _carried(self, config, trial)
        try:
            returned = self.call(carried)
        except optuna.TrialPruned as error:
            raise Pruned(str(error) or "by the objective") from None
        finally:
            self._keep(carried)
        from fairsweep.trainables.own.optuna_trial import last_value

        values = last_value(returned)
        if len(values) != len(self.modes):
            raise ValueError(_other_mode(len(values), self.modes))
        self._returned = True
        if len(values) == 1 and trial.step and values[0] == self._last:
            return None  # it is the last report's
        return {**carried.limits, **dict(zip(self.names, values, strict=True))}

    def _keep(self, carried: Any) -> None:
        """What the trial's row says beside numbers, as JSON."""
        found = {"user_attrs": carried.user_attrs, "params": carried.beside}
        self.attrs = {k: {name: as_json(v) for name, v in held.items()} for k, held in found.items() if held}

    @property
    def kept_step(self) -> int | None:
        """The step of what was returned; of an objective that had its steps and was not done, the last report's."""
        return self.at + bool(self.last_report()) if self._finished and self.at is not None else None


def _searched(source: Source, modes: Sequence[str]) -> Source:
    """The source with what dry runs have found. TrainableError, SpaceError in one line if that is nothing."""
    from fairsweep.trainables.own.dry_runs import ObjectiveError, discover

    try:
        found = discover(source, modes)
    except ObjectiveError as error:
        raise TrainableError(f"trainable={source.reference}: {error}") from None
    if not found.space:
        raise TrainableError(
            f"trainable={source.reference}: asks for no hyperparameter (trial.suggest_...): there is nothing to search"
        )
    about = {"space": found.space, "returned": found.returned, "notes": list(found.notes)}
    remember(replace(source, found=about))
    return replace(source, found={**source.found, **about})


def _other_mode(returned: int, modes: Sequence[str]) -> str:
    """What is to be said of an objective that returns another number of values than are tuned on."""
    given = modes[0] if len(modes) == 1 else f"[{','.join(modes)}]"
    if returned == 1:
        return f"mode={given}: it returns one value; say mode=min or mode=max"
    return (
        f"mode={given}: it returns {returned} values; say {_several(['min'] * returned)}, min or max for each"
    )


def _carried(paper: OptunaObjective, config: Mapping[str, Any], handle: Handle) -> Any:
    """The trial that the objective is given."""
    from fairsweep.trainables.own.optuna_trial import AnsweredTrial, CarriedStudy

    class Carried(AnsweredTrial):
        def __init__(self) -> None:
            super().__init__(handle.number, CarriedStudy(paper.slug, paper.modes))
            self.beside: dict[str, Any] = {}  # what it was given that does not stand in the configuration

        def answer(self, ask: Asked) -> Any:
            value, remark = answer(ask, config, handle.seed)
            if plain_name(ask.name) not in config:
                self.beside[ask.name] = value
            if remark:
                paper.remarks = [*paper.remarks, remark]
            return value

        def reported(self, value: float, step: int) -> None:
            paper._last = value
            k = handle.step  # Optuna's steps may leave some out: then they are kept beside the value
            if not math.isfinite(value):  # Optuna goes on; nobody is judged by it
                remark = f"reported {value:g} at step {step}: that row has no {paper.objective}"
                paper.remarks = [*paper.remarks, remark]
                handle.report({"reported_step": step})
                return
            handle.report({paper.objective: value, **({} if step in (k, k + 1) else {"reported_step": step})})

    return Carried()


def answer(ask: Asked, config: Mapping[str, Any], seed: int) -> tuple[Any, str]:
    """The value for a name, and what is to be said of it.

    That of the configuration; of a range that is another one from run to run, the value at the configuration's place in
    it; else a draw that follows from seed, configuration and name alone.
    """
    key = plain_name(ask.name)
    if key in config:
        value = config[key]
        if ask.kind == "categorical":
            if value not in ask.choices:
                raise ValueError(f"{key}={value!r}: the objective offers {', '.join(map(repr, ask.choices))}")
        elif not ask.low <= value <= ask.high:  # type: ignore[operator]
            return value, (
                f"{key}={value:g}: outside of {ask.low:g} to {ask.high:g}, which the objective asks for; used as it"
                " stands, as Optuna does with a value that is enqueued"
            )
        return value, ""
    parameter = ask.parameter()
    if parameter.fixed:
        return parameter.value, ""
    if key + PLACE in config:
        return parameter.at_unit(config[key + PLACE]), ""
    whole = json.dumps([seed, dict(config), ask.name], sort_keys=True)
    rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(whole.encode(), digest_size=8).digest()))
    value = parameter.draw(rng)
    return (
        value,
        f"{ask.name}: is not part of the space that the dry runs found; drawn in the worker, see attrs",
    )
