"""How a Ray of one's own starts: what a sweep needs of it, and nothing else.

`ray.init` (2.60) starts an autoscaler, a log monitor and the dashboard's server also where none is asked for, waits
for the server, loads the dashboard's modules into its agent, and imports them here to see whether they are there. No
sweep needs any of it, and together it takes as long as the rest. Ray without it is Ray as `pip install ray` brings it
(`--minimal`), with `--no-monitor` and `--include-log-monitor=false` of `ray start`.

Its first workers import what a trial needs before they are asked for one, and Tune takes such a worker: it is not asked
for one with an environment of its own, a new process that imports Ray twice, nor for one that knows Tune.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

ALWAYS = ("numpy", "pyarrow.fs", "omegaconf")  # of `place`
HEAVY = (
    "torch",
    "torch._dynamo",
    "scipy.sparse",
    "sklearn",
)  # where the driver needed it to build the first trial
# What Tune (2.60) tells each worker by an environment of its own: https://github.com/ray-project/ray/issues/28197
WORKERS_ENVIRONMENT = {"PL_DISABLE_FORK": "1"}


def preloaded(options: Mapping[str, Any]) -> list[str]:
    """What the first workers, one a CPU, import on their own; nothing where many of them would do it in vain.

    Only where each gets a trial, they import what takes long: two of them on two cores take twice as long as one.
    """
    cpus = int(options.get("cpus") or os.cpu_count() or 1)
    places = int(cpus / float(options.get("cpus_per_trial", 1)))
    places = min(places, options.get("concurrent") or places)
    if options.get("gpus_per_trial") or 2 * places < cpus:
        return []
    if places < cpus:
        return [*ALWAYS]
    trained = ["torch._dynamo"] if "torch" in sys.modules else []  # of the first step of an optimiser
    return [*ALWAYS, *(name for name in HEAVY if name in sys.modules), *trained]


@contextlib.contextmanager
def nothing_compiled() -> Iterator[None]:
    """Optimisers that are made within do not import PyTorch's compiler, which takes a second: none of them steps.

    `add_param_group` (2.13) does it, to be left alone by the compiler.
    """
    if "torch" not in sys.modules or "torch._dynamo" in sys.modules:
        yield
        return
    from torch.optim import Optimizer

    wrapped = Optimizer.add_param_group
    Optimizer.add_param_group = getattr(wrapped, "__wrapped__", wrapped)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Optimizer.add_param_group = wrapped  # type: ignore[method-assign]


@contextlib.contextmanager
def lean_start(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`ray.init` within starts what is needed alone; yields what is to be said to it. options: see `connected`."""
    from ray._private import parameter, services, utils

    def without_extras(**wanted: Any) -> Any:
        return params(**{**wanted, "no_monitor": True, "include_log_monitor": False})

    params = parameter.RayParams
    workers = dict(WORKERS_ENVIRONMENT)
    # Ray says this to a worker when it gets its trial, but what has been imported by then has read it already.
    workers["OMP_NUM_THREADS"] = str(max(1, int(options.get("cpus_per_trial", 1))))
    with contextlib.ExitStack() as stack:
        for name in [name for name in workers if name not in os.environ]:
            os.environ[name] = workers[name]
            stack.callback(os.environ.pop, name, None)
        for module, name, other in (
            (parameter, "RayParams", without_extras),
            (services, "start_api_server", lambda *arguments, **options: ("", None)),
            (utils, "get_dashboard_dependency_error", lambda: ImportError("not wanted")),
        ):
            if hasattr(module, name):
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, other)
        yield {"_system_config": {"preload_python_modules": preloaded(options)}}


@contextlib.contextmanager
def light_actors(inherited: bool) -> Iterator[None]:
    """Tune within makes of a trainable with a class `light` an actor of that class, in a worker as it is. Imports Tune.

    Such an actor gets its configuration and a folder to work in, and nothing that only Tune can unpickle.
    inherited: workers are of a Ray that was started here, so that they have what Tune would pass on to them.
    """
    import ray
    from ray.tune.execution import class_cache

    def made(cache: Any, trainable: Any) -> Any:
        light = getattr(trainable, "light", None)
        if light is None:
            return get(cache, trainable)
        passed_on = () if inherited else class_cache.ENV_VARS_TO_PROPAGATE
        env = {name: os.environ[name] for name in passed_on if name in os.environ}
        actor: Any = ray.remote(**({"runtime_env": {"env_vars": env}} if env else {"max_restarts": 0}))(light)
        options = actor.options
        actor.options = lambda **wanted: _Begun(options(**wanted))
        return actor

    get = class_cache._ActorClassCache.get
    class_cache._ActorClassCache.get = made  # type: ignore[method-assign]
    try:
        yield
    finally:
        class_cache._ActorClassCache.get = get  # type: ignore[method-assign]


class _Begun:
    """Makes an actor of what Tune would give a trainable of its own."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def remote(self, config: Mapping[str, Any], storage: Any) -> Any:
        plain = {key: value for key, value in config.items() if isinstance(value, str)}
        return self.actor.remote(plain, str(storage.trial_working_directory))
