"""Search algorithms behind one ask/tell protocol, and early-stopping rules; one file a method."""

from __future__ import annotations

from typing import Any

from search_spaces.algorithms.base import Algorithm, Job, Outcome, Reason
from search_spaces.algorithms.optuna_bridge import SAMPLERS, OptunaSearch
from search_spaces.algorithms.schedulers import ASHA, MedianStopping, NoScheduler, Scheduler
from search_spaces.algorithms.simple import GridSearch, ListedSearch, RandomSearch
from search_spaces.space import Space

SEARCHES = ("tpe", "random", "grid", "cmaes", "gp", "listed")
SCHEDULERS = ("none", "asha", "median")

__all__ = [
    "ASHA", "SCHEDULERS", "SEARCHES", "Algorithm", "GridSearch", "Job", "ListedSearch", "MedianStopping", "NoScheduler",
    "OptunaSearch", "Outcome", "RandomSearch", "Reason", "Scheduler", "create_scheduler", "create_search",
]  # fmt: skip


def create_search(name: str, space: Space, mode: str, seed: int = 0, **options: Any) -> Algorithm:
    """The search called `name`; ValueError names the known ones."""
    if name in SAMPLERS:
        return OptunaSearch(space, mode, seed, sampler=name)
    if name == "random":
        return RandomSearch(space, mode, seed)
    if name == "grid":
        return GridSearch(space, mode, seed, points=int(options.get("points", 3)))
    if name == "listed":
        return ListedSearch(space, mode, seed, configs=options.get("configs") or ())
    raise ValueError(f"search={name}: no such search; known: {', '.join(SEARCHES)}")


def create_scheduler(name: str, mode: str, minimum: int, maximum: int, **options: Any) -> Scheduler:
    """The early-stopping rule called `name` for trials of `minimum` to `maximum` steps."""
    if name == "none":
        return NoScheduler()
    if name == "asha":
        return ASHA(mode, minimum, maximum, eta=int(options.get("eta", 3)))
    if name == "median":
        return MedianStopping(
            mode, minimum, maximum,
            min_trials=int(options.get("min_trials", 4)), checks=int(options.get("checks", 10)),
        )  # fmt: skip
    raise ValueError(f"scheduler={name}: no such scheduler; known: {', '.join(SCHEDULERS)}")
