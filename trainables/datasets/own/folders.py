"""Folders of files of the user's own: a folder a class, folders of parts, and what is drawn where there are none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.own import splits, tables
from fairsweep.trainables.datasets.own.splits import PARTS, WORDS
from fairsweep.trainables.datasets.own.tables import NAME

SHARES = (0.15, 0.15)  # of the files, of each class where there are any, to validate and to test


def files_in(folder: Path, suffixes: Sequence[str], deep: bool = False) -> list[Path]:
    """The files of a folder that end so, by name; deep: and those of the folders in it."""
    found = folder.rglob("*") if deep else folder.iterdir()
    named = [p for p in found if p.suffix.lower() in suffixes and not hidden(p, folder)]
    for path in named:
        if path.is_symlink() and not path.exists():
            raise DataError(f"data={NAME}: {path} is a link to {os.readlink(path)}, which is not there")
    return sorted(p for p in named if p.is_file())


def hidden(path: Path, folder: Path) -> bool:
    """Whether a file below `folder` is none of the user's: .DS_Store, what lies in .ipynb_checkpoints or __MACOSX."""
    return any(part.startswith((".", "__")) for part in path.relative_to(folder).parts[:-1]) or (
        path.name.startswith(".")
    )


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder by name, hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def part_folders(folder: Path, nested: bool = True) -> dict[str, Path] | None:
    """The folders of the parts, validation perhaps missing; None if there are none. DataError if train or test is.

    nested: a part has folders in it; one without is of another kind, such as that of the class of trains.
    """
    found: dict[str, Path] = {}
    for path in folders_in(folder):
        part = None if nested and not folders_in(path) else WORDS.get(path.name.lower())
        if part is not None and part in found:
            raise DataError(f"data={NAME}: {folder} has {found[part].name} and {path.name}; keep one of them")
        if part is not None:
            found[part] = path
    if not set(found) & {"train", "test"}:
        return None
    missing = {"train", "test"} - set(found)
    if missing:
        held = ", ".join(path.name for path in found.values())
        raise DataError(f"data={NAME}: {folder} has {held} and no {missing.pop()}")
    return {part: found[part] for part in PARTS if part in found}


def short(path: Path, folder: Path) -> str:
    """A path as messages have it: below the folder of the user's."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def split_files(files: Mapping[str, Sequence[Path]], what: str) -> dict[str, np.ndarray]:
    """Indices of the parts among the files of all folders, one after the other; "" are those of no part.

    What is not given is drawn, the same for every seed: .7/.15/.15, or .15 of train to validate. DataError if there are
    too few.
    """
    if "" in files:
        items = len(files[""])
        if items < 3:
            raise DataError(f"data={NAME}: {items} {what}; needs three at least, one for each part")
        return splits.drawn(np.zeros(items, np.int64), SHARES, np.random.default_rng(0))
    ends = np.cumsum([0, *(len(found) for found in files.values())])
    given = {part: np.arange(*ends[i : i + 2]) for i, part in enumerate(files)}
    if "validation" not in given:
        train = np.random.default_rng(0).permutation(given["train"])
        held = max(1, round(SHARES[0] * len(train)))
        given |= {"validation": np.sort(train[:held]), "train": np.sort(train[held:])}
    splits.check(given, what)
    return given


# ---- a folder a class ----


@dataclass(frozen=True, eq=False)
class Labelled:
    """Files with labels int64 (n,), numbers of `names`. of: the part that each lies in, "" where there are no folders
    of parts. others: files in the folders that do not end so. what: a file of them in a word."""

    folder: Path
    paths: tuple[Path, ...]
    labels: np.ndarray
    of: np.ndarray
    names: tuple[str, ...]
    others: int
    what: str

    @property
    def given(self) -> bool:
        """Whether all three parts are given."""
        return set(PARTS) <= set(self.of.tolist())

    def split(self) -> dict[str, np.ndarray]:
        """Indices of the parts; what is not given is drawn class by class, the same for every seed.

        DataError if a class has too few for that.
        """
        rng, of = np.random.default_rng(0), self.of
        pool = np.flatnonzero((of == "") | (of == "train"))
        count, whole = np.bincount(self.labels[pool], minlength=len(self.names)), not (of == "test").any()
        least = 3 if whole else 1 if self.given else 2
        if count.min() < least:
            rare = int(count.argmin())
            raise DataError(
                f"data={NAME}: {self.folder}: the class {self.names[rare]!r} has {count[rare]} {self.what}s"
                f"{'' if whole else ' to train'}; needs {least} at least"
            )
        if self.given:
            return {part: np.flatnonzero(of == part) for part in PARTS}
        if whole:
            return splits.drawn(self.labels, SHARES, rng)
        held = [
            rng.permutation(pool[self.labels[pool] == k])[: max(1, round(SHARES[0] * count[k]))]
            for k in range(len(self.names))
        ]
        validation, test = np.sort(np.concatenate(held)), np.flatnonzero(of == "test")
        return {"train": np.setdiff1d(pool, validation), "validation": validation, "test": test}


def class_files(folder: Path, suffixes: Sequence[str], layout: str, what: str) -> Labelled:
    """The files of a folder for each class, called like it; or of such folders in train, test and perhaps validation.

    what: a file of them in a word. DataNotFound without folders, DataError if they do not fit one another.
    """
    parts = part_folders(folder)
    names = tuple(path.name for path in folders_in(parts["train"] if parts else folder))
    if not names:
        raise DataNotFound(f"data={NAME}: data_dir={folder} holds {tables.listing(folder)}; needs {layout}")
    if len(names) < 2:
        raise DataError(f"data={NAME}: {folder} has one class, {names[0]!r}; needs two folders at least")
    paths: list[Path] = []
    labels: list[int] = []
    of: list[str] = []
    others = 0
    for part, place in (parts or {"": folder}).items():
        loose = files_in(place, suffixes)
        if loose:
            raise DataError(
                f"data={NAME}: {short(loose[0], folder)} is in no folder of a class; needs {layout}"
            )
        for inside in folders_in(place):
            if inside.name not in names:
                raise DataError(
                    f"data={NAME}: {short(inside, folder)} is a class that train has not; it has"
                    f" {', '.join(names[:10])}"
                )
            found = files_in(inside, suffixes, deep=True)
            if not found:
                raise DataError(
                    f"data={NAME}: {short(inside, folder)} holds no {what} ({', '.join(suffixes)})"
                )
            others += sum(p.is_file() and not hidden(p, inside) for p in inside.rglob("*")) - len(found)
            paths += found
            labels += [names.index(inside.name)] * len(found)
            of += [part] * len(found)
    return Labelled(folder, tuple(paths), np.array(labels, np.int64), np.array(of), names, others, what)
