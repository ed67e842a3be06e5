"""What the words of a verb name on this machine, and the job takes along: trainables of one's own, small data."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.comparing.methods import bare, cut, several
from fairsweep.cluster.service.package import MIB, Package, size_of, tree
from fairsweep.search_spaces._parameter import hydra_word
from fairsweep.trainables.own.source import NOTEBOOK, Source, TrainableError, absolute, is_reference, read

DATA_MIB = 50  # of a data folder that is taken along
ALONG = "along"  # the folder of the package in which lies what came from elsewhere
# Verbs whose first words name trainables: `fairsweep compare train.py:a,b`, `fairsweep info train.py:a`.
_NAMING = ("compare", "info", "space", "models")


class Carrier:
    """Puts into `package` what words name outside of `folder`, or leave out of it, and says them as the job has it."""

    def __init__(self, folder: Path, package: Package, data: bool = True) -> None:
        """folder: the working directory, which is the present one. data: whether data go along."""
        self.folder, self.package, self.data = folder, package, data
        self.notes: list[str] = []

    def words(self, words: Sequence[str]) -> list[str]:
        """The words for the job. UserError for a file that is not there, or data that are in neither place."""
        found, verb, option = [], words[0] if words else "", ""
        for n, word in enumerate(words):
            if option:
                word, option = self._data(word, f"{option} {word}"), ""
            elif word in ("--data-dir", "--table"):
                option = word
            elif n and word.startswith(("--data-dir=", "--table=")):
                key, _, value = word.partition("=")
                word = f"{key}={self._data(value, word)}"
            elif n and not word.startswith("-"):
                word = self._word(word, verb)
            found.append(word)
        return found

    def _word(self, word: str, verb: str) -> str:
        key, equals, value = word.partition("=")
        if key == "trainable" and equals:
            return f"trainable={self._quoted(value, self._reference)}"
        if key == "data_dir" and equals and value not in ("", "null"):
            return f"data_dir={self._quoted(value, lambda text: self._data(text, word))}"
        if key == "table" and value.endswith(".parquet"):
            return f"table={self._quoted(value, lambda text: self._data(text, word))}"
        if key == "data" and "@" in value:
            parts = [self._data_set(part, word) for part in several(value)]
            return f"data=[{','.join(parts)}]" if len(parts) > 1 or value[:1] == "[" else f"data={parts[0]}"
        if verb in _NAMING and (not equals or ":" in key):
            head, colon, rest = word.partition(":")
            if colon and (head.endswith(".py") or _is_module(head)):
                names = cut(rest, ":")[0]
                name = several(names)[0] if "=" not in names else ""
                if name.isidentifier():
                    place = self._reference(f"{head}:{name}").rpartition(":")[0]
                    return f"{place}:{rest}"
        return word

    def _quoted(self, value: str, carried: Callable[[str], str]) -> str:
        """A value, maybe in Hydra's quotes, as what is `carried` of it."""
        text = bare(value)
        new = carried(text)
        if new == text:
            return value
        return new if re.fullmatch(r"[\w./:-]+", new) else hydra_word(new)

    # -- trainables --------------------------------------------------------------------------------------------

    def _reference(self, text: str) -> str:
        """A trainable of the user's by its place in the package; papers, and what is installed, as they are."""
        if not is_reference(text):
            return text
        try:
            whole = absolute(text)
            if whole.startswith((f"{NOTEBOOK}:", "fairsweep.")):
                return text
            source = read(whole)
        except TrainableError as error:
            raise UserError(str(error)) from None
        if not source.files:
            return text
        root = Path(source.folder)
        if not whole.rpartition(":")[0].endswith(
            ".py"
        ):  # a module: where Python looks first, the working directory
            self._take(source, "" if root != self.folder else None)
            return text
        main, name = Path(source.place), source.name
        within = _below(root, self.folder)
        if within is not None:
            self._take(source, None)
            return f"{main.relative_to(self.folder).as_posix()}:{name}"
        where = f"{ALONG}/{root.name or 'own'}-{source.digest[:8]}"
        self._take(source, f"{where}/")
        return f"{where}/{main.relative_to(root).as_posix()}:{name}"

    def _take(self, source: Source, where: str | None) -> None:
        """Puts the files of a source into the package, at `where`, or at their own places if None."""
        for inside in source.files:
            path = Path(source.folder, inside)
            own = path.relative_to(self.folder).as_posix() if where is None else f"{where}{inside}"
            self.package.files.setdefault(own, path)

    # -- data --------------------------------------------------------------------------------------------------

    def _data_set(self, part: str, word: str) -> str:
        name, at, place = part.partition("@")
        return f"{name}@{self._data(bare(place), word)}" if at else part

    def _data(self, text: str, word: str) -> str:
        """A folder (or file) of data as the job finds it: in its package, or at the same place on the nodes."""
        path = Path(os.path.abspath(os.path.expanduser(text)))
        if word.startswith("--table") and not text.endswith(".parquet"):
            return text  # by its name
        if not self.data:
            return str(path)
        if not path.exists():
            if not os.path.isabs(os.path.expanduser(text)):
                raise UserError(
                    f"{word}: no such folder here, from where it would be taken along; a path on the nodes of the"
                    " cluster begins with /"
                )
            return str(path)
        inside = _below(path, self.folder)
        files = {path.name: path} if path.is_file() else tree(path, DATA_MIB * MIB)
        if size_of(files) > DATA_MIB * MIB:
            self.notes.append(
                f"{word}: has more than {DATA_MIB} MiB and is not taken along; every node must have it at {path}"
            )
            if inside is not None:
                for name in [n for n in self.package.files if n == inside or n.startswith(f"{inside}/")]:
                    del self.package.files[name]
            return str(path)
        where = inside if inside is not None else f"{ALONG}/data/{_name(path)}"
        if path.is_file():
            self.package.files[where] = path
        else:
            prefix = f"{where}/" if where != "." else ""
            self.package.files |= {f"{prefix}{name}": file for name, file in files.items()}
        return where


def _below(path: Path, folder: Path) -> str | None:
    """The way from `folder` down to `path`; None if it lies elsewhere."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return None


def _name(path: Path) -> str:
    """A name for what lies at `path`, the same each time and another one for another path."""
    word = re.sub(r"[^A-Za-z0-9._-]", "_", path.name) or "data"
    digest = hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]
    return f"{digest}/{word}"


def _is_module(text: str) -> bool:
    return bool(text) and all(part.isidentifier() for part in text.split(".")) and "." in text
