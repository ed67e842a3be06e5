"""Where a sweep's trainable comes from, if it is the user's own: what goes into the store, and what a resume finds."""

from __future__ import annotations

import base64
import contextlib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fairsweep.analysis.store import SweepRecord, SweepWriter
from fairsweep.cluster.errors import UserError
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Paper
from fairsweep.trainables.catalog import UnknownPaper
from fairsweep.trainables.own import known
from fairsweep.trainables.own import source as sources
from fairsweep.trainables.own.source import LARGEST, NOTEBOOK, NotThere, Source, TrainableError, is_reference

STORED = "source=stored"


def columns(paper: type[Paper]) -> dict[str, Any]:
    """Columns of the sweep's row; none for a paper of the catalogue."""
    found = known.source_of(paper)
    if found is None:
        return {}
    return {"reference": found.reference, "source_digest": found.digest, "source": found.to_json()}


def found_out(paper: type[Paper]) -> tuple[str, ...]:
    """What is to be said of how a trainable was read: see `Source.found`."""
    found = known.source_of(paper)
    return tuple(found.found.get("notes", ())) if found is not None else ()


def carried(settings: Any) -> str:
    """What workers are sent, "" for a paper of the catalogue."""
    found = known.source_of(settings.paper) if is_reference(settings.trainable) else None
    return "" if found is None else found.to_json()


# -- taking a sweep up --------------------------------------------------------------------------------------


def take_up(record: SweepRecord, words: Sequence[str], tree: Any) -> list[str]:
    """Settles what the stored sweep's trainable means now; the words that are left. UserError, UnknownPaper.

    `source=stored` takes the text in the store, `trainable=REF` another place; else the file as it lies there now, and
    where it is gone the text in the store.
    """
    rest = [w for w in words if w != STORED and not w.startswith("trainable=")]
    wrong = next((w for w in rest if w.startswith("source=")), None)
    if wrong is not None:
        raise UserError(f"{wrong}: must be {STORED}, or left out to run the file as it is now")
    moved = [w.partition("=")[2] for w in words if w.startswith("trainable=")]
    text, reference = record.sweep.get("source"), record.sweep.get("reference")
    if not text or not reference:
        if len(rest) < len(words):
            raise UserError(
                f"{next(w for w in words if w not in rest)}: this sweep tunes {record.sweep['paper']} of the catalogue;"
                " only a trainable of your own has a source"
            )
        return rest
    stored = Source.from_json(text)
    sources.remember(stored)
    if STORED in words:
        known.pin(stored)
    elif moved:
        try:
            tree.trainable = sources.absolute(moved[-1])
            if tree.trainable.startswith(f"{NOTEBOOK}:"):
                return rest  # at hand, from Python
            sources.read(tree.trainable)
        except TrainableError as error:
            raise UserError(str(error)) from None
    elif stored.pickled:
        if not known.at_hand(reference):
            raise UserError(
                f"trainable={reference}: is a function of a notebook: resume with it from Python,"
                f" fairsweep.resume(name, trainable={stored.name}), or write {STORED} to run it as it was"
            )
    else:
        known.unpin(reference)
        try:
            sources.read(reference)
        except NotThere:
            if stored.files:
                known.pin(stored)
        except TrainableError:
            pass  # said where the settings are checked
    return rest


@contextlib.contextmanager
def told(record: SweepRecord, words: Sequence[str]) -> Iterator[None]:
    """Adds to what is wrong with the file of a stored sweep that its text is kept."""
    try:
        yield
    except (UserError, UnknownPaper) as error:
        text, reference = str(error.args[0]), record.sweep.get("reference")
        if not reference or STORED in words or f"trainable={reference}" not in text:
            raise
        raise type(error)(f"{text}; {STORED} resumes with the text that the sweep began with") from None


def _change(record: SweepRecord, paper: type[Paper]) -> str:
    """What is to be said of a source that is not what it was, "" if it is."""
    found = known.source_of(paper)
    before = record.sweep.get("source_digest")
    if found is None or not before:
        return ""
    place = found.place if found.place != NOTEBOOK else found.name
    if before == found.digest:
        gone = found.place.endswith(".py") and not Path(found.place).is_file()
        return f"{place} is gone; the text in the store is run" if gone else ""
    first = max((int(name.partition("-")[0]) for name in record.trials), default=-1) + 1
    return (
        f"{place} has changed since the sweep began (digest {before[:8]}, now {found.digest[:8]}): trials from"
        f" {first:05d} on, and those that go on, run the new text; {STORED} runs the old one"
    )


def enter(writer: SweepWriter, paper: type[Paper]) -> tuple[str, ...]:
    """Puts a source that has changed into the store, and the one before among the events; what is to be said of it."""
    news = _change(writer.record, paper)
    found = known.source_of(paper)
    same = (found.reference, found.digest) if found is not None else None
    if same is None or same == tuple(writer.record.sweep.get(k) for k in ("reference", "source_digest")):
        return (news,) if news else ()
    before = {k: writer.record.sweep.get(k) for k in ("reference", "source_digest", "source")}
    with writer.batch():
        writer.event("source", **before)
        writer.sweep(**columns(paper))
    return (news,) if news else ()


# -- objects ------------------------------------------------------------------------------------------------


def reference_of(found: Any) -> str:
    """What `trainable=` says for an object of this process: a slug, a file's function, or one that is carried itself.

    UserError for what cannot be carried.
    """
    if isinstance(found, str):
        if is_reference(found):
            try:
                known.unpin(sources.absolute(found))
            except TrainableError as error:
                raise UserError(str(error)) from None
        return found
    if inspect.isclass(found) and issubclass(found, Paper) and catalog.imported(getattr(found, "slug", "")):
        return found.slug
    name = getattr(found, "__qualname__", type(found).__name__)
    module = sys.modules.get(getattr(found, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if file and file.endswith(".py") and os.path.isfile(file) and _holds(module, name, found):
        given = sources.read(sources.absolute(f"{file}:{name}"))
        known.pin(given, found)
        return given.reference
    given = Source(f"{NOTEBOOK}:{_word(name)}", "", _text(found, name), _pickled(found, name))
    known.pin(given, found)
    return given.reference


def _holds(module: Any, name: str, found: Any) -> bool:
    """Whether who runs the module's file again finds the same by this name."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module is found


def _word(name: str) -> str:
    word = re.sub(r"[^A-Za-z0-9_]", "_", name.rpartition(".")[2]).strip("_")
    return word if word.isidentifier() else f"trainable_{word}"


def _text(found: Any, name: str) -> dict[str, str]:
    try:
        return {f"{_word(name)}.py": inspect.getsource(found)}
    except (OSError, TypeError):
        return {}


def _pickled(found: Any, name: str) -> str:
    from ray import cloudpickle

    module = sys.modules.get(getattr(found, "__module__", None) or "")
    here = module is not None and module.__name__ != "__main__" and not _installed(module)
    try:
        if here:
            cloudpickle.register_pickle_by_value(module)
        body = cloudpickle.dumps(found)
    except Exception as error:
        raise UserError(
            f"trainable={name}: cannot be sent to workers ({type(error).__name__}: {error}); put it into a file, and"
            " load what it uses within the function"
        ) from None
    finally:
        if here:
            cloudpickle.unregister_pickle_by_value(module)
    if len(body) > LARGEST:
        raise UserError(
            f"trainable={name}: has {len(body) >> 20} MiB with what it refers to, and travels with every trial: at most"
            f" {LARGEST >> 20} MiB; load data within the function"
        )
    return base64.b64encode(body).decode()


def _installed(module: Any) -> bool:
    file = getattr(module, "__file__", None) or ""
    return not file or bool({"site-packages", "dist-packages"} & set(Path(file).parts))
