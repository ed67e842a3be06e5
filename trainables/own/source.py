"""Where a trainable of the user's comes from: its reference, and the text of its files, which travels."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from fairsweep._flat import ROOMS

NOTEBOOK = "notebook"  # in the place of a file, of a function that has none
LARGEST = 20 * 2**20  # bytes of source that travel with every trial
_OURS = Path(__file__).resolve().parents[2]


class TrainableError(ValueError):
    """A reference that leads to nothing that can be tuned; one line with what would be right."""


class NotThere(TrainableError):
    """The file or module of a reference is not there."""


@dataclass(frozen=True)
class Source:
    """A reference with the code behind it.

    reference: `/folder/train.py:train`, `package.module:train`, or `notebook:train` for a function without a file.
    folder: where the files lie on the machine of the driver. files: path relative to it -> text; none for a package
    that is installed. pickled: the function itself (base64), if it has no file. found: what was found about it by
    running it (JSON, such as the space of an Optuna objective), which workers need not find again; not of the digest.
    """

    reference: str
    folder: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    pickled: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)

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
        return json.dumps({**about, "pickled": self.pickled, "found": dict(self.found)})

    @classmethod
    def from_json(cls, text: str) -> Source:
        return cls(**json.loads(text))


_found: dict[tuple[str, str], Mapping[str, Any]] = {}  # (reference, digest) -> `Source.found`


def remember(source: Source) -> None:
    """What was found about a source holds in this process until its text changes."""
    if source.found:
        _found[source.reference, source.digest] = source.found


def remembered(source: Source) -> Source:
    """The source with what was found about it."""
    known = _found.get((source.reference, source.digest), {})
    return source if source.found or not known else replace(source, found=known)


def is_reference(text: str) -> bool:
    """Whether this names a trainable of the user's, and no paper of the catalogue."""
    return ":" in text or text.endswith(".py")


def slug_of(reference: str) -> str:
    """What tables and sweeps are called by: the name after the colon, in letters that a sweep's name may have."""
    word = re.sub(r"[^A-Za-z0-9._-]", "_", reference.rpartition(":")[2]).lstrip("._-")
    return word[:80] or "trainable"


def absolute(reference: str) -> str:
    """The reference with its file from the root; a package's as it is. TrainableError for what is neither."""
    place, _, name = reference.rpartition(":")
    if name.endswith(".py"):
        raise TrainableError(
            f"trainable={reference}: say which of it, trainable={reference}:NAME{_inside(reference)}"
        )
    if not place or not all(part.isidentifier() for part in name.split(".")):
        raise TrainableError(
            f"trainable={reference}: must be path/file.py:name or package.module:name, with the name of a function"
            " or class"
        )
    dotted = all(part.isidentifier() for part in place.split("."))
    if place == NOTEBOOK or (dotted and not place.endswith((".py", ".ipynb", ".txt", ".yaml"))):
        return reference
    path = Path(os.path.abspath(os.path.expanduser(place)))
    if path.suffix != ".py":
        hint = "; from a notebook, write fairsweep.run(name) there" if path.suffix == ".ipynb" else ""
        raise TrainableError(
            f"trainable={reference}: must be a Python file, path/file.py:name, or package.module:name{hint}"
        )
    module = _ours(path)
    return f"{module}:{name}" if module else f"{path}:{name}"


def _inside(file: str) -> str:
    """What a file defines, for who has named none of it."""
    try:
        nodes = ast.parse(Path(os.path.expanduser(file)).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return ""
    names = [n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return f"; it has {', '.join(names)}" if names else ""


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
            raise NotThere(f"trainable={reference}: no such file; {hint}")
        text = text_of(path, reference)
        root = path.parent
        if any(isinstance(n, ast.ImportFrom) and n.level for n in ast.walk(_tree(text, path, reference))):
            while (root / "__init__.py").is_file() and root != root.parent:
                root = root.parent
        return Source(reference, str(root), _closure(root, path, reference))
    parts = place.split(".")
    if parts[0] == "fairsweep" or (parts[0] in ROOMS and (_OURS / parts[0]).is_dir()):
        return Source(reference)
    here = Path.cwd()
    found = file_of(here, parts)
    if found is None:
        try:
            spec = importlib.util.find_spec(parts[0])
        except (ImportError, ValueError):
            spec = None
        origin = Path(spec.origin) if spec is not None and spec.origin and os.sep in spec.origin else None
        if origin is None:
            raise NotThere(
                f"trainable={reference}: no module {place} in {here} or where Python looks (PYTHONPATH); a file is"
                f" named {place.replace('.', '/')}.py:{name}"
            )
        here = origin.parent.parent if origin.name == "__init__.py" else origin.parent
        found = file_of(here, parts)
        if {"site-packages", "dist-packages"} & set(here.parts):
            return Source(reference)
        if found is None:
            raise NotThere(f"trainable={reference}: {origin.parent} has no module {place}")
    return Source(reference, str(here), _closure(here, found, reference))


def text_of(path: Path, reference: str) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise TrainableError(f"trainable={reference}: {path}: is not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise TrainableError(f"trainable={reference}: {path}: cannot be read ({error.strerror})") from None


def _tree(text: str, path: Path, reference: str) -> ast.Module:
    try:
        return ast.parse(text.encode())  # as bytes: an editor may have put a mark of UTF-8 in front
    except (SyntaxError, ValueError) as error:
        raise TrainableError(f"trainable={reference}: {raised(error, str(path))}") from None


def file_of(root: Path, parts: list[str]) -> Path | None:
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
        found[where] = text_of(path, reference)
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
        file_of(root, name[:n])
        for name in names
        if not (ours and name and name[0] in ("fairsweep", *ROOMS))
        for n in range(1, len(name) + 1)
    ]
    return [file for file in files if file is not None]


def raised(error: BaseException, root: str) -> str:
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
