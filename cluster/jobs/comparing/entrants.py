"""A method on a data set: the settings that its searches have in common, and whether a trial of it can be built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairsweep.cluster import choice, config, objectives
from fairsweep.cluster.config import Settings
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.comparing.methods import Method
from fairsweep.cluster.jobs.comparing.sets import Data
from fairsweep.search_spaces._parameter import hydra_word
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Paper

MINUTES = "searches run side by side; budget.total_minutes=N is the time that each may train"


@dataclass(frozen=True)
class Entrant:
    """A method on a data set, with what its searches have in common. budget: of each, see `budget_of`."""

    method: Method
    data: Data
    settings: Settings
    budget: tuple[str, float]

    @property
    def paper(self) -> type[Paper]:
        return self.settings.paper


def entrant(method: Method, data: Data, words: Sequence[str], tuning_seeds: int, storage: str) -> Entrant:
    """A method on a data set under the settings `words` of all searches.

    UserError, UnknownPaper, SpaceError for what cannot run.
    """
    mine = _words_of(method, words)
    fixed = [*method.words, *data.words, f"storage={hydra_word(storage)}", "keep_checkpoints=none"]
    tree: Any = config.compose_tree([*fixed, *mine])
    raw = config.as_mapping(tree)
    limited = any(raw["budget"].get(f"total_{kind}") is not None for kind in ("steps", "minutes"))
    if limited and not any(w.startswith("budget.trials=") for w in mine):
        raw["budget"]["trials"] = None
    if raw["budget"]["concurrent"] is None:
        raw["budget"]["concurrent"] = 1  # a search is the same on any number of machines
    if raw["budget"]["minutes"] is not None:
        said = f"budget.minutes={raw['budget']['minutes']}: {MINUTES}"
        raise UserError(f"{said}; budget.minutes=null drops that of a group")
    budget = budget_of(raw["budget"])
    if _tuned_nowhere(method, mine):
        raw["budget"]["trials"] = 1
    try:
        settings = config.check({**raw, "seeds": tuning_seeds})
    except UserError as error:
        raise UserError(f"{method.label}: {error}") from None
    if len(objectives.aims(settings.tree, settings.paper)[0]) > 1:
        raise UserError(f"metric={raw['metric']}: a method is chosen by one metric; name one")
    return Entrant(method, data, settings, budget)


def check_used(methods: Sequence[Method], words: Sequence[str]) -> None:
    """UserError for a setting of a parameter that no method takes."""
    unused = {w for w in words if _parameter(w)}.difference(*(_words_of(m, words) for m in methods))
    if not unused:
        return
    word = min(unused)
    fixed = [m.label for m in methods if any(_is_of(_parameter(word), name) for name in m.fixed)]
    why = (
        f"fixed by {', '.join(fixed)}, and no other method has it"
        if fixed
        else "no method has this parameter"
    )
    raise UserError(f"{word}: {why}")


def _parameter(word: str) -> str:
    """What of a space a setting is about, `lr.high` of `space.lr.high=1`; "" for other settings."""
    key = word.partition("=")[0].lstrip("+")
    return key.removeprefix("space.") if key.startswith("space.") else ""


def _is_of(path: str, parameter: str) -> bool:
    return path == parameter or path.startswith(f"{parameter}.")


def _words_of(method: Method, words: Sequence[str]) -> list[str]:
    """The settings that a method takes: all but those of parameters that it has not, or that it is defined by."""
    own = set(catalog.get(method.trainable, choice.said(words)).space().parameters) - set(method.fixed)
    return [w for w in words if not _parameter(w) or any(_is_of(_parameter(w), name) for name in own)]


def _tuned_nowhere(method: Method, words: Sequence[str]) -> bool:
    """Whether every parameter of a method is fixed, so that it has one configuration: a baseline as it is."""
    own = set(catalog.get(method.trainable, choice.said(words)).space().parameters)
    said = {_parameter(word) for word in words if word.partition("=")[2][:1] not in "[{"}
    return own <= said | set(method.fixed)


def budget_of(budget: Mapping[str, Any]) -> tuple[str, float]:
    """What bounds a search: trials, steps or minutes, and how many."""
    for kind in ("steps", "minutes"):
        found = budget.get(f"total_{kind}")
        if found is not None:
            return kind, float(found)
    return "trials", float(budget["trials"] or 0)
