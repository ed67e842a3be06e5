"""Where the `param_space` of a Tune trainable is found, and what else its `Tuner` says that is of use here.

In this order: the `Tuner` that the reference names; a `Tuner` of this trainable at the module's level; a dict with
ranges at the module's level called as `NAMES` say; and last the script's own `__main__` part, which is run in a
process of its own up to where the `Tuner` would begin (`script`): that is where most scripts say it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.search import sample

from fairsweep.cluster.tune import spaces
from fairsweep.cluster.tune.guards import TOLD
from fairsweep.trainables.own.source import Source, TrainableError

NAMES = ("param_space", "search_space", "space", "config_space", "config")


def find(trainable: Any, tuner: Mapping[str, Any] | None, given: Source) -> dict[str, Any] | None:
    """What workers need to know (JSON); None if nothing is found here. TrainableError if it cannot be carried over."""
    where = f"trainable={given.reference}"
    try:
        told = tuner or of_module(trainable)
        if told is not None:
            return told_by(told)
        name, plain = _dict(trainable)
        if plain is not None:
            return {**spaces.read(plain), "where": name}
    except spaces.NotCarriedOver as error:
        raise TrainableError(f"{where}: {error}") from None
    return None


def namespace(trainable: Any) -> Mapping[str, Any]:
    """The names of the user's module that a trainable is defined in, also one that Tune has wrapped."""
    while hasattr(trainable, "__wrapped__") or hasattr(trainable, "func"):
        trainable = getattr(trainable, "__wrapped__", None) or trainable.func
    if inspect.isclass(trainable):
        own = [c.__module__ for c in trainable.__mro__ if not c.__module__.startswith("ray.")]
        return vars(sys.modules.get(own[0], sys.modules[__name__]))
    known: Mapping[str, Any] = getattr(trainable, "__globals__", {})
    if str(known.get("__name__", "")).startswith("ray."):  # of `tune.with_parameters`
        inner = [cell.cell_contents for cell in trainable.__closure__ or ()]
        return next((namespace(f) for f in inner if inspect.isroutine(f)), known)
    return known


def of_module(trainable: Any) -> Mapping[str, Any] | None:
    """What a `Tuner` of this trainable at its module's level was told."""
    for value in list(namespace(trainable).values()):
        told = getattr(value, TOLD, None) if isinstance(value, tune.Tuner) else None
        if told is not None and same(told["trainable"], trainable):
            return told  # type: ignore[no-any-return]
    return None


def same(one: Any, other: Any) -> bool:
    """Whether a `Tuner`'s trainable is the one that is meant: itself, or with resources of its own."""
    return one is other or getattr(one, "__name__", None) == getattr(other, "__name__", "")


def _dict(trainable: Any) -> tuple[str, Mapping[str, Any] | None]:
    known = namespace(trainable)
    for name in NAMES:
        if isinstance(known.get(name), dict) and _has_ranges(known[name]):
            return name, known[name]
    return "", None


def _has_ranges(node: Mapping[str, Any]) -> bool:
    leaves = [value for _, value in spaces.walk(node)]
    return any(isinstance(v, sample.Domain) or (isinstance(v, dict) and "grid_search" in v) for v in leaves)


def space_of(
    found: Mapping[str, Any], trainable: Any, tuner: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """In the worker: the user's `param_space`, where `found` says that it is needed."""
    if not found["objects"]:
        return None
    if found.get("where"):
        return namespace(trainable)[found["where"]]  # type: ignore[no-any-return]
    told = tuner or of_module(trainable)
    return None if told is None else param_space(told)


def param_space(told: Mapping[str, Any]) -> dict[str, Any]:
    """The `param_space` of a `Tuner`; where population-based training varies a constant, its ranges."""
    space = dict(told.get("param_space") or {})
    scheduler = getattr(told.get("tune_config"), "scheduler", None)
    if isinstance(scheduler, PopulationBasedTraining):
        for name, value in (getattr(scheduler, "_hyperparam_mutations", None) or {}).items():
            if isinstance(space.get(name), (sample.Domain, dict)):
                continue
            if callable(value) and not isinstance(value, sample.Domain):
                raise spaces.NotCarriedOver(
                    f"hyperparam_mutations[{name!r}]: a function has no ends; say a range, such as"
                    " tune.uniform(low, high)"
                )
            space[name] = tune.choice(value) if isinstance(value, (list, tuple)) else value
    return space


def told_by(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a `Tuner` says, as JSON. NotCarriedOver."""
    space = param_space(told)
    if not space:
        raise spaces.NotCarriedOver("its Tuner has no param_space")
    config, about = told.get("tune_config"), told.get("run_config")
    found = spaces.read(space)
    for name in ("metric", "mode"):
        value = getattr(config, name, None)
        if isinstance(value, str):
            found[name] = value
    stop = getattr(about, "stop", None)
    notes = []
    if isinstance(stop, Mapping):
        found["stop"] = {k: v for k, v in stop.items() if isinstance(v, (bool, int, float))}
        steps = found["stop"].pop("training_iteration", None)
        if steps is not None:
            found["steps"] = int(steps)
    elif stop is not None:
        notes.append("stop")
    behind = {
        "scheduler": getattr(config, "scheduler", None),
        "search_alg": getattr(config, "search_alg", None),
    }
    notes += [name for name, value in behind.items() if value is not None]
    notes += ["callbacks"] if getattr(about, "callbacks", None) else []
    if notes:
        found["notes"] = [f"of its Tuner {', '.join(notes)} stay behind: fairsweep's own settings hold"]
    return found
