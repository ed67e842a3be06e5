"""Where a trainable of the user's comes from: its reference, the text of its files, and how it is loaded elsewhere.

A file's own modules have the names that they have when the file is run in its folder. They are put aside where another
source is loaded in the same process, so that two files called `model.py` never meet.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import pickle
import re
import stat
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from fairsweep._flat import ROOMS

NOTEBOOK = "notebook"  # in the place of a file, of a function that has none
LARGEST = 20 * 2**20  # bytes of source that travel with every trial
_OURS = Path(__file__).resolve().parents[2]


class TrainableError(ValueError):
    """A reference that leads to nothing that can be tuned; one line with what would be right."""


@dataclass(frozen=True)
class Source:
    """A reference with the code behind it.

    reference: `/folder/train.py:train`, `package.module:train`, or `notebook:train` for a function without a file.
    folder: where the files lie on the machine of the driver. files: path relative to it -> text; none for a package
    that is installed. pickled: the function itself (base64), if it has no file.
    """

    reference: str
    folder: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    pickled: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files, or of the function."""
        body = json.dumps(sorted(self.files.items())) if self.files else self.pickled
        return hashlib.sha256(body.encode()).hexdigest()

    @property
    def name(self) -> str:
        """What stands after the colon."""
        return self.reference.rpartition(":")[2]

    @property
    def place(self) -> str:
        """What stands before the colon."""
        return self.reference.rpartition(":")[0]

    def to_json(self) -> str:
        about = {"reference": self.reference, "folder": self.folder, "files": dict(self.files)}
        return json.dumps({**about, "pickled": self.pickled})

    @classmethod
    def from_json(cls, text: str) -> Source:
        return cls(**json.loads(text))


def is_reference(text: str) -> bool:
    """Whether this names a trainable of the user's, and no paper of the catalogue."""
    return ":" in text


def slug_of(reference: str) -> str:
    """What tables and sweeps are called by: the name after the colon, in letters that a sweep's name may have."""
    word = re.sub(r"[^A-Za-z0-9._-]", "_", reference.rpartition(":")[2]).lstrip("._-")
    return word[:80] or "trainable"


def absolute(reference: str) -> str:
    """The reference with its file from the root; a package's as it is. TrainableError for what is neither."""
    place, _, name = reference.rpartition(":")
    if not place or not all(part.isidentifier() for part in name.split(".")):
        raise TrainableError(
            f"trainable={reference}: must be path/file.py:name or package.module:name, with the name of a function"
            " or class"
        )
    if place == NOTEBOOK or (
        all(part.isidentifier() for part in place.split(".")) and not place.endswith(".py")
    ):
        return reference
    path = Path(os.path.abspath(os.path.expanduser(place)))
    if path.suffix != ".py":
        raise TrainableError(
            f"trainable={reference}: must be a Python file, path/file.py:name, or package.module:name"
        )
    module = _ours(path)
    return f"{module}:{name}" if module else f"{path}:{name}"


def _ours(path: Path) -> str | None:
    """The module of fairsweep that a file is; it is not run a second time under another name."""
    for room in ROOMS:
        with contextlib.suppress(ValueError):
            inside = path.resolve().relative_to(_OURS / room).with_suffix("")
            return ".".join(("fairsweep", room, *inside.parts))
    return None


def read(reference: str) -> Source:
    """The source of an absolute reference as it lies on disk now, not run. TrainableError if it is not there."""
    place, _, name = reference.rpartition(":")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            folder = path.parent
            files = sorted(p.name for p in folder.glob("*.py")) if folder.is_dir() else []
            close = get_close_matches(path.name, files, n=1, cutoff=0.5)
            hint = (
                f"did you mean {folder / close[0]}:{name}?"
                if close
                else f"{folder} has {', '.join(files[:10]) or 'none'}"
            )
            raise TrainableError(f"trainable={reference}: no such file; {hint}")
        text = _text(path, reference)
        root = path.parent
        if any(isinstance(n, ast.ImportFrom) and n.level for n in ast.walk(_tree(text, path, reference))):
            while (root / "__init__.py").is_file() and root != root.parent:
                root = root.parent
        return Source(reference, str(root), _closure(root, path, reference))
    parts = place.split(".")
    if parts[0] == "fairsweep" or (parts[0] in ROOMS and (_OURS / parts[0]).is_dir()):
        return Source(reference)
    here = Path.cwd()
    found = _file_of(here, parts)
    if found is None:
        try:
            spec = importlib.util.find_spec(parts[0])
        except (ImportError, ValueError):
            spec = None
        origin = Path(spec.origin) if spec is not None and spec.origin and os.sep in spec.origin else None
        if origin is None:
            raise TrainableError(
                f"trainable={reference}: no module {place} in {here} or where Python looks (PYTHONPATH); a file is"
                f" named {place.replace('.', '/')}.py:{name}"
            )
        here = origin.parent.parent if origin.name == "__init__.py" else origin.parent
        found = _file_of(here, parts)
        if {"site-packages", "dist-packages"} & set(here.parts):
            return Source(reference)
        if found is None:
            raise TrainableError(f"trainable={reference}: {origin.parent} has no module {place}")
    return Source(reference, str(here), _closure(here, found, reference))


def _text(path: Path, reference: str) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise TrainableError(f"trainable={reference}: {path}: is not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise TrainableError(f"trainable={reference}: {path}: cannot be read ({error.strerror})") from None


def _tree(text: str, path: Path, reference: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise TrainableError(f"trainable={reference}: {_raised(error, str(path))}") from None


def _file_of(root: Path, parts: list[str]) -> Path | None:
    base = root.joinpath(*parts)
    for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _closure(root: Path, main: Path, reference: str) -> dict[str, str]:
    """The text of a file and of those under `root` that it imports, and they, by path from `root`."""
    found: dict[str, str] = {}
    todo = [main]
    while todo:
        path = todo.pop()
        where = path.relative_to(root).as_posix()
        if where in found:
            continue
        found[where] = _text(path, reference)
        todo += _imported(root, path, _tree(found[where], path, reference))
        for parent in path.relative_to(root).parents[:-1]:
            if (root / parent / "__init__.py").is_file():
                todo.append(root / parent / "__init__.py")
    if sum(map(len, found.values())) > LARGEST:
        raise TrainableError(
            f"trainable={reference}: its {len(found)} files have {sum(map(len, found.values())) >> 20} MiB, and travel"
            f" with every trial: at most {LARGEST >> 20} MiB; keep data out of modules"
        )
    return found


def _imported(root: Path, path: Path, tree: ast.Module) -> list[Path]:
    """Files under `root` that a module's imports name, wherever in it they stand."""
    package = list(path.relative_to(root).parent.parts)
    names: list[list[str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            names += [base, *([*base, alias.name] for alias in node.names)]
    ours = root == _OURS
    files = [
        _file_of(root, name[:n])
        for name in names
        if not (ours and name and name[0] in ("fairsweep", *ROOMS))
        for n in range(1, len(name) + 1)
    ]
    return [file for file in files if file is not None]


# -- loading ----------------------------------------------------------------------------------------------


class _Place:
    """A folder whose modules are loaded in this process, and those modules while another folder's are in use."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.modules: dict[str, ModuleType] = {}


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
    place = _Place(_root(source))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loading.append(source.reference)
    try:
        with within(place), _named(source.reference, place.root), contextlib.redirect_stdout(sys.stderr):
            module = _run(source, place.root)
            found = _attribute(module, source)
            files = {**source.files, **_more(place.root, source)}
    finally:
        loading.pop()
        sys.dont_write_bytecode = writes
    return Loaded(found, Source(source.reference, source.folder, files), place)


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
    found = _file_of(Path(root), source.place.split("."))
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
    exec(compile(source.files[path.relative_to(root).as_posix()], str(path), "exec"), module.__dict__)
    return module


def _more(root: str, source: Source) -> dict[str, str]:
    """What was imported from the folder in ways that its text does not show."""
    found = {}
    for name, module in list(sys.modules.items()):
        if _of(root, name, module):
            where = Path(module.__file__ or "").relative_to(root).as_posix()
            if where not in source.files:
                found[where] = _text(Path(root) / where, source.reference)
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
        raise TrainableError(f"trainable={reference}: {_raised(error, root)}") from None


def _raised(error: BaseException, root: str) -> str:
    """What the user's code raised, and in which line of it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if root and frame.filename.startswith(root)] or frames
    file, line = (own[-1].filename, own[-1].lineno) if own else (root, None)
    said = str(error)
    if isinstance(error, SyntaxError):
        file, line, said = (
            error.filename if error.filename not in (None, "<unknown>") else root,
            error.lineno,
            error.msg,
        )
    if isinstance(error, SystemExit):
        return (
            f"calls sys.exit({said}) when it is imported ({file}, line {line}); put what runs under"
            ' `if __name__ == "__main__":`'
        )
    return (
        f"raises {type(error).__name__} when it is imported: {' '.join(said.split())} ({file}, line {line})"
    )
