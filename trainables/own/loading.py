"""Loads what a reference leads to, from its place or from what has travelled.

A file's own modules have the names that they have when the file is run in its folder. They are put aside where another
source is loaded in the same process, so that two files called `model.py` never meet.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import os
import pickle
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from fairsweep.trainables.own.source import Source, TrainableError, file_of, raised, text_of


class Stop(BaseException):
    """Raised in the place of what a script would run, while it is only read for what it defines: ends its import."""


# What holds while a file is run for what it defines, such as that its own study does not begin (`Stop`).
AROUND: list[Callable[[Source], AbstractContextManager[None]]] = []


LONG_S = 10  # after which an import that does not end is said


class _Place:
    """A folder whose modules are loaded in this process, and those modules while another folder's are in use."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.modules: dict[str, ModuleType] = {}
        self.folder = ""  # that its code is run in, if it has gone there while it was imported


_current: _Place | None = None


def _of(root: str, name: str, module: Any) -> bool:
    """Whether a module is the one that `root` holds under this name."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.startswith(root + os.sep) or name == "__main__":
        return False
    inside = file[len(root) + 1 :].removesuffix(".py").removesuffix(f"{os.sep}__init__")
    named = inside == name.replace(".", os.sep) or name == _alias(os.path.basename(inside))
    return named and not (
        getattr(module, "__name__", "").startswith("fairsweep.") or name.startswith("fairsweep.")
    )


def _aside(root: str) -> dict[str, ModuleType]:
    """Takes the modules of `root` out of those that Python knows."""
    names = [name for name, module in list(sys.modules.items()) if _of(root, name, module)]
    return {name: sys.modules.pop(name) for name in names}


def enter(place: _Place | None) -> _Place | None:
    """Makes the modules of `place` those that its names mean in this process; returns the place before."""
    global _current
    before = _current
    if place is before:
        return before
    if before is not None:
        before.modules = _aside(before.root)
        with contextlib.suppress(ValueError):
            sys.path.remove(before.root)
    if place is not None:
        sys.path.insert(0, place.root)
        sys.modules.update(place.modules)
        importlib.invalidate_caches()
    _current = place
    return before


@contextlib.contextmanager
def within(place: _Place | None) -> Iterator[None]:
    """The modules of `place` in the block, and those of before after it."""
    if place is None:
        yield
        return
    before, others = _current, {}
    if place is not before:
        others = _aside(place.root)  # such as a notebook has imported itself, maybe of an older text
    enter(place)
    try:
        yield
    finally:
        enter(before)
        sys.modules.update(others)


@dataclass
class Loaded:
    """An object that was found, with the source as it is known now, and the place of its modules."""

    found: Any
    source: Source
    place: _Place | None


def load(source: Source) -> Loaded:
    """Runs the source's file, or unpickles its function. TrainableError for whatever comes of that.

    What a file prints goes to standard error: on standard output stand our answers.
    """
    if source.pickled:
        with _named(source.reference, ""), contextlib.redirect_stdout(sys.stderr):
            return Loaded(pickle.loads(base64.b64decode(source.pickled)), source, None)
    if not source.files:
        with _named(source.reference, ""), contextlib.redirect_stdout(sys.stderr):
            module = importlib.import_module(source.place)
        return Loaded(_attribute(module, source), source, None)
    place, before = _Place(_root(source)), os.getcwd()
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loading.append(source.reference)
    said = f"fairsweep: {source.place} has been running for {LONG_S} s while it is imported; Ctrl-C ends it"
    watch = threading.Timer(LONG_S, print, (said,), {"file": sys.stderr, "flush": True})
    watch.daemon = True
    watch.start()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(within(place))
            stack.enter_context(_named(source.reference, place.root))
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            for around in AROUND:
                stack.enter_context(around(source))
            module = _run(source, place.root)
            found = _attribute(module, source)
            files = {**source.files, **_more(place.root, source)}
    finally:
        if os.getcwd() != before:  # the words of the command are of the folder that it was given in
            place.folder = os.getcwd()
            os.chdir(before)
        watch.cancel()
        loading.pop()
        sys.dont_write_bytecode = writes
    return Loaded(found, replace(source, files=files), place)


loading: list[str] = []  # references whose files are being run


def _root(source: Source) -> str:
    """Where the source's files lie on this machine: in their place, if they are the same there, else in a copy."""
    here = Path(source.folder)
    if all(_same(here / name, text) for name, text in source.files.items()):
        return str(here)
    user = os.getuid() if hasattr(os, "getuid") else 0
    copy = Path(tempfile.gettempdir()) / f"fairsweep-own-{user}-{source.digest[:16]}"
    if not _whole(copy, source):
        fresh = Path(tempfile.mkdtemp(prefix="fairsweep-own-"))
        for name, text in source.files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(text.encode())
        try:
            os.rename(fresh, copy)
        except OSError:  # another worker was faster, or it is somebody else's
            if not _whole(copy, source):
                copy = fresh
    return str(copy)


def _whole(copy: Path, source: Source) -> bool:
    """Whether a folder in the place that everybody can write to is ours and as we left it."""
    try:
        about = copy.lstat()
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
    private = stat.S_ISDIR(about.st_mode) and not about.st_mode & 0o022
    return mine and private and all(_same(copy / name, text) for name, text in source.files.items())


def _same(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _main(source: Source, root: str) -> Path:
    """The file of a reference below `root`."""
    if source.place.endswith(".py"):
        return Path(root) / Path(source.place).relative_to(source.folder)
    found = file_of(Path(root), source.place.split("."))
    assert found is not None
    return found


def _alias(stem: str) -> str:
    return f"fairsweep_own_{re.sub('[^A-Za-z0-9_]', '_', stem)}"


def _run(source: Source, root: str) -> ModuleType:
    path = _main(source, root)
    inside = path.relative_to(root).with_suffix("")
    name = ".".join(inside.parts).removesuffix(".__init__")
    plain = len(inside.parts) == 1
    if not plain and all(part.isidentifier() for part in inside.parts):
        return importlib.import_module(name)
    if not name.isidentifier() or name in sys.modules or name in sys.stdlib_module_names:
        name = _alias(path.stem)  # a file called torch.py takes nobody's place
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with contextlib.suppress(Stop):
        text = source.files[path.relative_to(root).as_posix()]
        exec(compile(text.encode(), str(path), "exec"), module.__dict__)
    return module


def _more(root: str, source: Source) -> dict[str, str]:
    """What was imported from the folder in ways that its text does not show."""
    found = {}
    for name, module in list(sys.modules.items()):
        if _of(root, name, module):
            where = Path(module.__file__ or "").relative_to(root).as_posix()
            if where not in source.files:
                found[where] = text_of(Path(root) / where, source.reference)
    return found


def _attribute(module: ModuleType, source: Source) -> Any:
    found: Any = module
    for part in source.name.split("."):
        if not hasattr(found, part):
            options = [
                n for n, v in vars(found).items()
                if callable(v) and getattr(v, "__module__", None) == getattr(module, "__name__", "")
            ]  # fmt: skip
            close = get_close_matches(part, options, n=3)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"it has {', '.join(options) or 'no functions'}"
            )
            raise TrainableError(f"trainable={source.reference}: {source.place} has no {part}; {hint}")
        found = getattr(found, part)
    return found


@contextlib.contextmanager
def _named(reference: str, root: str) -> Iterator[None]:
    """TrainableError that names the reference and the line for whatever the user's code raises in the block."""
    try:
        yield
    except TrainableError:
        raise
    except (Exception, SystemExit) as error:
        raise TrainableError(f"trainable={reference}: {raised(error, root)}") from None
