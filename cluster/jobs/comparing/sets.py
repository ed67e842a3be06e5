"""The data sets of a comparison: those that the word `data` names, or one that its methods share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairsweep.cluster import config
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.comparing.methods import Method, bare, several, tails
from fairsweep.search_spaces._parameter import hydra_word
from fairsweep.trainables import catalog, index
from fairsweep.trainables.base import OWN


@dataclass(frozen=True)
class Data:
    """A data set of the methods. folder: where it lies, if no package has it; label: what the table calls it."""

    label: str
    name: str
    folder: str | None = None

    @property
    def words(self) -> list[str]:
        found = [f"data={self.name}"]
        return found if self.folder is None else [*found, f"data_dir={hydra_word(self.folder)}"]


def read(text: str, folder: str | None) -> tuple[Data, ...]:
    """The data sets: `a`, `[a,b]`, `[a,own@FOLDER]`. folder: of those that say none."""
    found: list[tuple[str, str | None]] = []
    for part in map(bare, several(text)):
        name, at, own = part.partition("@")
        if not name or (at and not own):
            raise UserError(f"data={text}: must name data sets, such as data=[cora,own@FOLDER]")
        where = bare(own if at else folder or "")
        found.append((name, config.absolute(where) if where else None))
    twice = next((pair for k, pair in enumerate(found) if pair in found[:k]), None)
    if twice is not None:
        raise UserError(f"data={text}: {twice[0]}{f'@{twice[1]}' if twice[1] else ''} is named twice")
    ends = tails([(where or name) if name == OWN else name for name, where in found])
    often = Counter(ends)
    labels = [
        f"{end}@{where}" if often[end] > 1 else end for end, (_, where) in zip(ends, found, strict=True)
    ]
    return tuple(Data(label, *pair) for label, pair in zip(labels, found, strict=True))


def shared(methods: Sequence[Method], said: Mapping[str, Any]) -> str:
    """The first data set that all methods have. UserError if there is none."""
    known = [catalog.get(m.trainable, said).datasets for m in methods]
    found = next((name for name in known[0] if all(name in names for names in known)), None)
    if found is None:
        told = "; ".join(f"{m.label}: {', '.join(d)}" for m, d in zip(methods, known, strict=True))
        raise UserError(f"data is missing: the methods have no data set in common ({told})")
    return found


def most_shared(task: str, papers: Sequence[str], folder: str | None) -> tuple[str, tuple[str, ...]]:
    """The data set that most papers of a task have, needs no folder and stands foremost; what is to be said of it.

    UserError where a folder is given, which does not say what lies in it, and where every data set needs one.
    """
    sets = {slug: index.datasets_of(slug) for slug in papers}
    every = list(dict.fromkeys(name for names in sets.values() for name in names))
    if folder is not None:
        raise UserError(
            f"data is missing: data_dir={folder} says where; {OWN} is data of yours, others are"
            f" {', '.join(name for name in every if name != OWN)}"
        )
    needy = {OWN, *_from_folders(task)}
    often = Counter(name for names in sets.values() for name in names if name not in needy)
    if not often:
        raise UserError(f"data is missing: say data=NAME data_dir=FOLDER, one of {', '.join(every)}")
    most = max(often.values())
    of_most = [name for name in every if often[name] == most]
    # The one that stands foremost: what a paper names first is its default.
    found = min(of_most, key=lambda name: sum(s.index(name) for s in sets.values() if name in s))
    have = (
        f"most papers of the task have ({most} of {len(papers)})" if len(papers) > 1 else f"{papers[0]} has"
    )
    return found, (f"data={found}: the first that {have}; data=NAME says another",)


def _from_folders(task: str) -> set[str]:
    """Data sets of a task that lie in a folder of the user's."""
    from fairsweep.trainables.data_check import SOURCES  # brings every loader

    return {name for source in SOURCES.get(task, ()) for name in source.from_folder}
