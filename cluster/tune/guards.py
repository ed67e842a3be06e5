"""While a user's file is imported for what it defines, its own study is not run: it is stopped where that would begin.

Scripts construct a `Tuner` and call `fit` in the same breath, many at the module's level. In the block of `around` a
`Tuner` keeps what it was told (`fairsweep_told`) and makes no folders, and `fit`, `tune.run` and `ray.init` do nothing,
or end the import there (`loading.Stop`): what stands before is what there is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

from fairsweep.trainables.own.loading import Stop
from fairsweep.trainables.own.source import Source

_RAY = re.compile(r"^\s*(import|from)\s+ray\b", re.MULTILINE)
TOLD = "fairsweep_told"


@contextlib.contextmanager
def around(given: Source) -> Iterator[None]:
    """The block of an import. Ray is imported only where the files import it."""
    if not any(_RAY.search(text) for text in given.files.values()):
        yield
        return
    with guarded([]):
        yield


@contextlib.contextmanager
def guarded(runs: list[dict[str, Any]]) -> Iterator[None]:
    """Tune's ways to run something end the block's code by `Stop`; what they were to run is entered in `runs`."""
    import ray
    from ray import tune

    def construct(self: Any, trainable: Any = None, **told: Any) -> None:
        setattr(self, TOLD, {"trainable": trainable, **told})

    def fit(self: Any) -> None:
        runs.append(getattr(self, TOLD))
        raise Stop("Tuner.fit")

    def run(run_or_experiment: Any, **told: Any) -> None:
        names = ("metric", "mode", "scheduler", "search_alg", "num_samples")
        runs.append(
            {
                "trainable": run_or_experiment,
                "param_space": told.get("config"),
                "tune_config": tune.TuneConfig(**{k: told[k] for k in names if k in told}),
                "run_config": tune.RunConfig(stop=told.get("stop")),
            }
        )
        raise Stop("tune.run")

    with contextlib.ExitStack() as stack:
        for owner, name, new in (
            (tune.Tuner, "__init__", construct),
            (tune.Tuner, "fit", fit),
            (tune, "run", run),
            (ray, "init", lambda *args, **options: None),
            (ray, "shutdown", lambda *args, **options: None),
        ):
            stack.enter_context(mock.patch.object(owner, name, new))
        yield
