"""From a Ray Tune function, class or `Tuner` of the user's to a `Paper` class. What Tune does around it stays behind.

Tune's searcher, scheduler, stopping rules of code, callbacks and storage are fairsweep's part here; a note names those
that the user's `Tuner` has. Registered with `trainables.own.adapt` by `register`, in the driver and in every worker.
Nothing here imports Ray before an object is at hand that may be Ray's.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fairsweep.trainables.own import adapt, loading
from fairsweep.trainables.own.source import Source, TrainableError, remember, slug_of

OLD = {  # what a Tune function may have called once, by what to write now (Ray 2.60)
    "ray.air.session": "tune.report({...}) and tune.get_checkpoint()",
    "ray.air": "ray.tune: tune.Checkpoint, tune.RunConfig",
    "ray.train.session": "tune.report({...}) and tune.get_checkpoint()",
    "session.report": "tune.report({...})",
    "train.report": "tune.report({...})",
    "train.get_checkpoint": "tune.get_checkpoint()",
    "tune.checkpoint_dir": "tune.report({...}, checkpoint=tune.Checkpoint.from_directory(folder))",
    "tune.track": "tune.report({...})",
}


def register() -> None:
    """Makes references to Tune's trainables known in this process."""
    if adapter not in adapt.ADAPTERS:
        from fairsweep.cluster.tune.guards import around

        adapt.ADAPTERS.append(adapter)
        loading.AROUND.append(around)


def adapter(found: Any, given: Source, settings: Mapping[str, Any]) -> type[Any] | None:
    """The class for an object of Tune's kinds; None for another. TrainableError in one line."""
    tune = sys.modules.get("ray.tune")
    if tune is None:
        return None
    trainable, tuner = found, None
    if isinstance(found, tune.Tuner):
        tuner = _recorded(found, given)
        trainable = tuner["trainable"]
    is_class = inspect.isclass(trainable) and issubclass(trainable, tune.Trainable)
    if not callable(trainable) or not (is_class or tuner or inspect.isroutine(trainable)):
        return None
    if not is_class and tuner is None and not _uses_tune(given):
        return None
    where = f"trainable={given.reference}"
    _refuse_old(given)
    if not is_class:
        needed = _needed(trainable)
        if len(needed) != 1:
            raise TrainableError(
                f"{where}: takes ({', '.join(needed)}): a Tune function takes config alone; bind the others at the"
                f" module's level, such as bound = tune.with_parameters({given.name}, ...)"
            )
    return _made(trainable, is_class, tuner, given, settings)


def _made(
    trainable: Any,
    is_class: bool,
    tuner: Mapping[str, Any] | None,
    given: Source,
    settings: Mapping[str, Any],
) -> type[Any]:
    from fairsweep.cluster.tune import finding, script
    from fairsweep.cluster.tune.trainables import class_for

    if "entries" not in given.found:
        about = finding.find(trainable, tuner, given)
        given = replace(given, found=script.find(given) if about is None else about)
        remember(given)
    found = given.found
    objective, mode = settings.get("metric") or found.get("metric"), settings.get("mode") or found.get("mode")
    if not objective:
        raise TrainableError(
            f"trainable={given.reference}: metric is missing: say what is tuned on, metric=NAME mode=min|max, or in"
            " TuneConfig(metric=..., mode=...)"
        )
    return class_for(trainable, tuner, slug_of(given.reference), given, objective, mode or "min")


def _recorded(tuner: Any, given: Source) -> dict[str, Any]:
    told = getattr(tuner, "fairsweep_told", None)
    if told is None:
        raise TrainableError(
            f"trainable={given.reference}: this Tuner was made before its file was read by fairsweep; name its function"
        )
    return dict(told)


def _needed(function: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def _trees(given: Source) -> list[tuple[str, ast.Module]]:
    return [(name, ast.parse(text)) for name, text in given.files.items() if name.endswith(".py")]


def _uses_tune(given: Source) -> bool:
    """Whether the files import Ray: a function of one parameter alone may be anything."""
    if given.pickled:
        return True
    for _, tree in _trees(given):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ray":
                return True
            if isinstance(node, ast.Import) and any(a.name.partition(".")[0] == "ray" for a in node.names):
                return True
    return False


def _refuse_old(given: Source) -> None:
    """TrainableError for calls that Ray no longer has, by name and line: they would fail in each trial."""
    for name, tree in _trees(given):
        for node in ast.walk(tree):
            line, word = getattr(node, "lineno", 0), ""
            if isinstance(node, ast.ImportFrom) and node.module in OLD:
                word = str(node.module)
            elif isinstance(node, ast.Import):
                word = next((a.name for a in node.names if a.name in OLD), "")
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                word = f"{node.value.id}.{node.attr}"
            if word in OLD:
                raise TrainableError(
                    f"trainable={given.reference}: {word} ({name}, line {line}): not of Tune in Ray 2.60; write"
                    f" {OLD[word]}"
                )
            if isinstance(node, ast.Call) and _is_report(node) and node.keywords:
                odd = [k.arg for k in node.keywords if k.arg not in ("metrics", "checkpoint")]
                if odd:
                    raise TrainableError(
                        f"trainable={given.reference}: tune.report({odd[0] or '**'}=...) ({name}, line {line}): takes a"
                        " dict in Ray 2.60; write tune.report({...})"
                    )


def _is_report(node: ast.Call) -> bool:
    return (
        isinstance(node.func, ast.Attribute)
        and node.func.attr == "report"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "tune"
    )
