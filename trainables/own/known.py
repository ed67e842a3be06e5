"""The classes that references lead to in this process, anew where a file has changed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from fairsweep.trainables.base import Paper
from fairsweep.trainables.own import loading, source
from fairsweep.trainables.own.loading import Loaded
from fairsweep.trainables.own.source import Source, TrainableError

_pinned: dict[str, Source] = {}  # what a reference means here, whatever lies on disk
_objects: dict[
    str, Any
] = {}  # reference -> object that was handed over in this process, so that it is not run again
_classes: dict[tuple[str, str, int, str], type[Paper]] = {}
_places: dict[type[Paper], Any] = {}


def get(reference: str, settings: Mapping[str, Any] | None = None) -> type[Paper]:
    """The class for a reference. TrainableError or SpaceError, in one line, if there is none."""
    reference = source.absolute(reference)
    return of(meant(reference), settings)


def of(given: Source, settings: Mapping[str, Any] | None = None) -> type[Paper]:
    """The class for a source: in the worker, that which has travelled."""
    said = {k: (settings or {}).get(k) for k in ("metric", "mode", "metrics", "modes")}
    choice = json.dumps([said, given.found.get("objectives")])
    key = (given.reference, given.digest, hash(given.pickled), choice)
    made = _classes.get(key)
    if made is None:
        from fairsweep.trainables.own import adapt  # what others' trainables need is no part of every start

        loaded = _load(given)
        loaded = replace(loaded, source=source.remembered(loaded.source))
        with loading.within(loaded.place):
            made = adapt.adapt(loaded.found, loaded.source, settings)
        if not hasattr(made, "source"):
            made.source = loaded.source  # type: ignore[attr-defined]
        _places[made] = loaded.place
        _classes[key] = made
    return made


def _load(given: Source) -> Loaded:
    if given.reference in _objects:
        return Loaded(_objects[given.reference], given, None)
    return loading.load(given)


def pin(given: Source, found: Any = None) -> None:
    """What `given.reference` means in this process from now on; `found`: the object, if it is at hand."""
    _pinned[given.reference] = given
    _objects.pop(given.reference, None)
    if found is not None:
        _objects[given.reference] = found
        for key in [key for key in _classes if key[0] == given.reference]:
            del _classes[key]


def meant(reference: str) -> Source:
    """What a reference means in this process. TrainableError if it leads nowhere."""
    reference = source.absolute(reference)
    return _pinned[reference] if reference in _pinned else source.read(reference)


@contextlib.contextmanager
def pinned(texts: Iterable[Source]) -> Iterator[None]:
    """A block in which references mean these sources, whatever happens on disk; after it, what they meant before."""
    before = dict(_pinned), dict(_objects)
    for text in texts:
        source.remember(text)
        known = _pinned.get(text.reference)
        if known is None or known.digest != text.digest:
            pin(text)
    try:
        yield
    finally:
        for held, was in zip((_pinned, _objects), before, strict=True):
            held.clear()
            held.update(was)


def at_hand(reference: str) -> bool:
    """Whether the object of a reference was handed over in this process."""
    return reference in _objects


def unpin(reference: str) -> None:
    """A reference means again what lies on disk."""
    _pinned.pop(reference, None)
    _objects.pop(reference, None)


def enter(paper: type[Paper]) -> None:
    """Makes the modules of a class's source those of this process, for code that imports more while it runs."""
    place = _places.get(paper)
    if place is not None:
        loading.enter(place)
        if place.folder and os.path.isdir(place.folder):
            os.chdir(place.folder)


def at_home(paper: type[Paper]) -> contextlib.AbstractContextManager[None]:
    """A block in which a class of the user's finds the modules of its own folder, in the driver."""
    return loading.within(_places.get(paper))


def source_of(paper: type[Paper]) -> Source | None:
    """Where a class comes from; None for a paper of the catalogue."""
    return getattr(paper, "source", None)


__all__ = ["TrainableError", "enter", "get", "of", "pin", "source_of", "unpin"]
