"""Search algorithms behind one ask/tell protocol, and early-stopping rules; one file a method.

Optuna, and what its samplers import (SciPy, cmaes), take a second of every process: who needs them imports them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

from fairsweep.search_spaces.algorithms.architecture_search import ArchitectureSearch, Unique
from fairsweep.search_spaces.algorithms.base import Algorithm, Job, Outcome, Reason
from fairsweep.search_spaces.algorithms.constraints import ConstraintError, Costs
from fairsweep.search_spaces.algorithms.evolution import Evolution
from fairsweep.search_spaces.algorithms.hyperband import Hyperband
from fairsweep.search_spaces.algorithms.local_search import LocalSearch
from fairsweep.search_spaces.algorithms.nsga2 import NSGA2
from fairsweep.search_spaces.algorithms.outside import OutsideSearch
from fairsweep.search_spaces.algorithms.population import PopulationBasedTraining
from fairsweep.search_spaces.algorithms.random_architectures import RandomArchitectures
from fairsweep.search_spaces.algorithms.schedulers import ASHA, MedianStopping, NoScheduler, Scheduler
from fairsweep.search_spaces.algorithms.sequential import search_table
from fairsweep.search_spaces.algorithms.simple import GridSearch, ListedSearch, RandomSearch
from fairsweep.search_spaces.algorithms.stock import StockSearch
from fairsweep.search_spaces.architectures.base import ArchitectureSpace
from fairsweep.search_spaces.space import Space

if TYPE_CHECKING:
    from fairsweep.search_spaces.algorithms.optuna_bridge import OptunaSearch

SEARCHES = ("tpe", "random", "grid", "cmaes", "gp", "nsga2", "listed")
OUTSIDE = "outside"  # where a sweep of somebody else says what is tried
SEVERAL = ("tpe", "nsga2", "random", "grid", "listed")  # that take several objectives
ARCHITECTURE_SEARCHES = (
    "random", "evolution", "local_search", "nsga2", "nasnet",
    *(s for s in SEARCHES if s not in ("random", "cmaes", "nsga2")),
)  # fmt: skip
SCHEDULERS = ("none", "asha", "hyperband", "median", "pbt")

__all__ = [
    "ARCHITECTURE_SEARCHES", "ASHA", "NSGA2", "OUTSIDE", "SCHEDULERS", "SEARCHES", "SEVERAL", "Algorithm",
    "ArchitectureSearch", "ConstraintError", "Costs", "Evolution", "GridSearch", "Hyperband", "Job",
    "ListedSearch", "LocalSearch", "MedianStopping", "NoScheduler", "OptunaSearch", "Outcome", "OutsideSearch",
    "PopulationBasedTraining", "RandomArchitectures", "RandomSearch", "Reason", "Scheduler", "StockSearch",
    "Unique", "create_architecture_search", "create_scheduler", "create_search", "search_table",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name != "OptunaSearch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fairsweep.search_spaces.algorithms.optuna_bridge import OptunaSearch

    return OptunaSearch


def create_search(
    name: str, space: Space, mode: str | Sequence[str], seed: int = 0, repeats: bool = False, **options: Any
) -> Algorithm:
    """The search called `name`; ValueError names the known ones.

    mode: min or max, or several of them, one an objective.
    repeats: whether one that draws may come back to a configuration that it has asked for or adopted.
    """
    if not isinstance(mode, str) and len(mode) > 1 and name not in SEVERAL:
        raise ValueError(f"search={name}: tunes on one metric; with several take {' or '.join(SEVERAL)}")
    if name == "nsga2":
        if isinstance(mode, str) or len(mode) < 2:
            raise ValueError("search=nsga2: is for several metrics, such as metric=[a,b]; with one take tpe")
        from fairsweep.search_spaces.algorithms.nsga2_search import NSGA2Search

        return NSGA2Search(space, mode, seed, population=int(options.get("population", 20)), repeats=repeats)
    if name == "tpe":
        several = not isinstance(mode, str) and len(mode) > 1  # for which nobody has measured what it costs
        ahead = 0 if several else options.get("ahead")
        return _optunas(name)(space, mode, seed, repeats=repeats, ahead=ahead)
    if name in ("cmaes", "gp"):
        return _optunas(name)(space, mode, seed, repeats=repeats)
    if name == "random":
        return RandomSearch(space, mode, seed, repeats)
    if name == "grid":
        return GridSearch(space, mode, seed, points=int(options.get("points", 3)))
    if name == OUTSIDE:
        return OutsideSearch(space, mode, seed)
    if name == "listed":
        return ListedSearch(space, mode, seed, configs=options.get("configs") or ())
    raise ValueError(f"search={name}: no such search; known: {', '.join(SEARCHES)}")


def _optunas(name: str) -> Any:
    if name == "cmaes":
        from fairsweep.search_spaces.algorithms.covariance_matrix import CmaEsSearch

        return CmaEsSearch
    if name == "gp":
        from fairsweep.search_spaces.algorithms.gaussian_process import GPSearch

        return GPSearch
    from fairsweep.search_spaces.algorithms.optuna_bridge import OptunaSearch

    return OptunaSearch


def create_architecture_search(
    name: str, space: ArchitectureSpace, mode: str, seed: int = 0, *,
    costs: Costs | None = None, constraints: Mapping[str, Any] | None = None, unique: Unique = "network",
    **options: Any,
) -> ArchitectureSearch:  # fmt: skip
    """The search called `name` over the architectures of `space`; ValueError names the known ones.

    Beside the searches made for architectures, any of `SEARCHES` but CMA-ES works on their choices. See
    `ArchitectureSearch` for costs, constraints and unique, and the class of the method for its options.
    """
    methods: dict[str, type[ArchitectureSearch]] = {
        "random": RandomArchitectures, "evolution": Evolution, "local_search": LocalSearch, "nsga2": NSGA2,
    }  # fmt: skip
    common: dict[str, Any] = {"costs": costs, "constraints": constraints, "unique": unique}
    if name == "nasnet":
        from fairsweep.search_spaces.algorithms.nasnet import (
            NASNetSearch,  # PyTorch, which no other search needs
        )

        methods[name] = NASNetSearch
    if name in methods:
        known = set(signature(methods[name]).parameters) - {"space", "mode", "seed", *common}
        for option in options:
            if option not in known:
                raise ValueError(
                    f"search.{option}={options[option]!r}: {name} has no such option; known: {', '.join(sorted(known))}"
                )
        return methods[name](space, mode, seed, **common, **options)
    if name in ARCHITECTURE_SEARCHES:
        return StockSearch(
            space, mode, seed,
            make=lambda: create_search(name, space.to_space(), mode, seed, unique == "none", **options),
            repair=name not in ("grid", "listed"), **common,
        )  # fmt: skip
    raise ValueError(
        f"search={name}: no such search over architectures; known: {', '.join(ARCHITECTURE_SEARCHES)}"
    )


def create_scheduler(
    name: str,
    mode: str,
    minimum: int,
    maximum: int,
    space: Space | None = None,
    seed: int = 0,
    **options: Any,
) -> Scheduler:
    """The early-stopping rule called `name` for trials of `minimum` to `maximum` steps.

    space, seed: of what is searched, for rules that choose configurations too. ValueError names a wrong option.
    """
    if name == "none":
        return NoScheduler()
    if name == "asha":
        return ASHA(mode, minimum, eta=int(options.get("eta", 3)))
    if name == "hyperband":
        return Hyperband(mode, minimum, maximum, eta=int(options.get("eta", 3)))
    if name == "median":
        return MedianStopping(
            mode, minimum, maximum,
            min_trials=int(options.get("min_trials", 4)), checks=int(options.get("checks", 10)),
        )  # fmt: skip
    if name == "pbt":
        if space is None:
            raise ValueError("scheduler=pbt: needs the space whose parameters it perturbs")
        return PopulationBasedTraining(mode, minimum, maximum, space, seed, **options)
    raise ValueError(f"scheduler={name}: no such scheduler; known: {', '.join(SCHEDULERS)}")
