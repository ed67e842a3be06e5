"""Finds papers by slug. A paper's file registers its class with a decorator; nothing else is to be edited.

Papers outside this package come in through the entry-point group `fairsweep.papers` or through the
environment variable `FAIRSWEEP_PLUGINS`, a comma-separated list of modules to import.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from fairsweep._flat import ROOMS
from fairsweep.search_spaces.space import Space
from fairsweep.trainables.base import OWN, OWN_TASKS, Paper
from fairsweep.trainables.own import known as own_known
from fairsweep.trainables.own.source import TrainableError, is_reference

P = TypeVar("P", bound=type[Paper])
_papers: dict[str, type[Paper]] = {}
_SHARED = {"tasks", "datasets", "own"}
_GROUP = "fairsweep.papers"
# What other jobs run; nothing that one would tune.
_UNLISTED = {"nas": "fairsweep.trainables.nas._job", "pruned": "fairsweep.trainables.nas._pruned"}
_REQUIRED = ("slug", "title", "citation", "task", "datasets", "metrics", "objective", "tiny")


class UnknownPaper(LookupError):
    """No paper has this slug; the message names close ones."""


def register(paper: P) -> P:
    """Class decorator that puts a paper into the catalogue. TypeError if its declaration is incomplete."""
    missing = [name for name in _REQUIRED if not hasattr(paper, name)]
    if missing:
        raise TypeError(f"paper {paper.__name__} does not declare {', '.join(missing)}")
    names = [m.name for m in paper.metrics]
    if len(set(names)) != len(names):
        raise TypeError(f"paper {paper.slug} declares a metric twice: {names}")
    if paper.objective not in names or paper.metric(paper.objective).split != "validation":
        raise TypeError(
            f"paper {paper.slug}: objective {paper.objective!r} must be a declared validation metric"
        )
    if paper.task in OWN_TASKS and OWN not in paper.datasets and plugin_of(paper) is None:
        paper.datasets = (*paper.datasets, OWN)
    known = _papers.get(paper.slug)
    if known is not None and known.__module__ != paper.__module__:
        raise TypeError(f"slug {paper.slug!r} is taken by {known.__module__}")
    _papers[paper.slug] = paper
    return paper


def _modules() -> dict[str, str]:
    root = Path(__file__).parent
    return {
        module.name: f"fairsweep.trainables.{room.name}.{module.name}"
        for room in pkgutil.iter_modules([str(root)])
        if room.ispkg and room.name not in _SHARED
        for module in pkgutil.iter_modules([str(root / room.name)])
        if not module.name.startswith("_")
    }


def _import_plugins() -> None:
    names = [name.strip() for name in os.environ.get("FAIRSWEEP_PLUGINS", "").split(",") if name.strip()]
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        with _named(f"FAIRSWEEP_PLUGINS={name}"):
            importlib.import_module(name)
    for point in entry_points(group=_GROUP):
        package = f" of the package {point.dist.name}" if point.dist else ""
        with _named(f"entry point {_GROUP}: {point.name} = {point.value}{package}"):
            point.load()


@contextlib.contextmanager
def _named(plugin: str) -> Iterator[None]:
    """UnknownPaper that names the plug-in for whatever its own code raises in the block."""
    try:
        yield
    except ImportError as error:
        room = (error.name or "").partition(".")[0]  # short names are those of a checkout, in its own folder
        hint = f"; installed, its name is fairsweep.{error.name}" if room in ROOMS else ""
        raise UnknownPaper(f"{plugin}: cannot be imported ({error}){hint}") from None
    except (Exception, SystemExit) as error:  # somebody else's code, which may raise anything
        # Where its own text stands last: other libraries may have put something of theirs in the place of `sys.exit`.
        frames = list(traceback.extract_tb(error.__traceback__))
        own = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
        frames = [f for f in own if f.filename == own[0].filename] or frames
        at = (error.filename, error.lineno) if isinstance(error, SyntaxError) else None
        file, line = at or (frames[-1].filename, frames[-1].lineno)
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UnknownPaper(f"{plugin}: raises {type(error).__name__}: {said} ({file}, line {line})") from None


def plugin_of(paper: type[Paper]) -> str | None:
    """The module that a paper from outside this package is in, with its file; None for one of ours."""
    name = paper.__module__
    if own_known.source_of(paper) is not None or name.startswith(f"{__package__}."):
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    return f"{name} ({os.path.abspath(file)})" if file else name


def slugs() -> list[str]:
    """All slugs, sorted; papers of this package are listed without importing them."""
    _import_plugins()
    return sorted(set(_modules()) | set(_papers) - set(_UNLISTED))


def own() -> list[str]:
    """The slugs of the papers of this package, sorted."""
    return sorted(_modules())


def imported(slug: str) -> bool:
    """Whether the paper called `slug` has been registered in this process."""
    return slug in _papers


def get(slug: str, settings: Mapping[str, Any] | None = None) -> type[Paper]:
    """The paper called `slug`, or the class for a reference such as `train.py:train`; `UnknownPaper` if there is none.

    settings: the sweep's `metric` and `mode`, for trainables of the user's that do not declare their own.
    """
    if is_reference(slug):
        try:
            return own_known.get(slug, settings)
        except TrainableError as error:
            raise UnknownPaper(str(error)) from None
    if slug not in _papers:
        module = _UNLISTED.get(slug) or _modules().get(slug)
        if module is not None:
            importlib.import_module(module)
        else:
            _import_plugins()
    if slug not in _papers:
        close = get_close_matches(slug, slugs(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(slugs())}"
        raise UnknownPaper(f"trainable={slug}: no such paper; {hint}")
    return _papers[slug]


def space_of(slug: str) -> Space:
    """The search space of a paper; papers of this package are not imported for it."""
    if is_reference(slug):
        return get(slug).space()
    return _papers[slug].space() if slug in _papers else Space.load(slug)
