"""Texts of the user's own: a running text to be modelled, or many texts with a class each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.own import folders, splits, tables
from fairsweep.trainables.datasets.own.tables import NAME

SHARES = (0.15, 0.15)  # of the texts of each class, to validate and to test
LEAST = 100  # characters of a running text, for three parts
RUNNING = "text files (.txt): one or several, which are split in their order, or train.txt, validation.txt and test.txt"
CLASSIFIED = (
    "texts.csv (or .parquet) with the columns text and label, or a folder of text files (.txt) for each class, or"
    " train, validation and test with such folders in them"
)


@dataclass(frozen=True, eq=False)
class Running:
    """A text of characters by part. drawn: whether it was cut here, in order, .8/.1/.1 of each file."""

    name: str
    parts: Mapping[str, str]
    drawn: bool
    files: int

    @property
    def characters(self) -> str:
        """The different characters of the training part, in order."""
        return "".join(sorted(set(self.parts["train"])))


@dataclass(frozen=True, eq=False)
class Texts:
    """n texts with labels int64 (n,), numbers of `names`. split: indices of each part; None: `of` draws for a seed."""

    name: str
    texts: tuple[str, ...]
    labels: np.ndarray
    names: tuple[str, ...]
    split: Mapping[str, np.ndarray] | None
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Indices of each part; drawn class by class where nothing gives them."""
        return self.split if self.split is not None else splits.drawn(self.labels, SHARES, rng, self.name)


def read(path: Path) -> str:
    """The text of a UTF-8 file, line ends as one character. DataError, with the line, if it is none or has none."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"data={NAME}: {path.name} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"data={NAME}: {path.name}, line {line}: byte {error.object[error.start]:#04x} is no UTF-8; save it"
            " as UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"data={NAME}: {path.name}, line {line}: has a character of number 0; must be a text")
    if not text.strip():
        raise DataError(f"data={NAME}: {path.name} has no text in it")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def running(data_dir: Path | None = None) -> Running:
    """The text files of `data_dir`, or train.txt, validation.txt and test.txt. DataError, with the line."""
    folder = tables.folder_of(data_dir, RUNNING)
    files = sorted(p for p in folder.glob("*.txt") if not p.name.startswith("."))
    if not files:
        raise DataNotFound(f"data={NAME}: data_dir={folder} holds {tables.listing(folder)}; needs {RUNNING}")
    parts = {splits.WORDS[p.stem.lower()]: p for p in files if p.stem.lower() in splits.WORDS}
    if parts:
        missing = [part for part in splits.PARTS if part not in parts]
        if missing or len(parts) < len(files):
            others = ", ".join(p.name for p in files if p not in parts.values())
            said = f"no {missing[0]}.txt" if missing else f"{others} beside the parts"
            raise DataError(
                f"data={NAME}: {folder} has {', '.join(p.name for p in parts.values())} and {said}"
            )
        return Running(NAME, {part: read(parts[part]) for part in splits.PARTS}, False, 3)
    cut: dict[str, list[str]] = {part: [] for part in splits.PARTS}
    for path in files:
        text = read(path)
        if len(text) < LEAST:
            raise DataError(
                f"data={NAME}: {path.name} has {len(text)} characters; needs {LEAST} at least, for three parts"
            )
        ends = (len(text) * 8 // 10, len(text) * 9 // 10)
        for part, piece in zip(
            splits.PARTS, (text[: ends[0]], text[ends[0] : ends[1]], text[ends[1] :]), strict=True
        ):
            cut[part].append(piece)
    return Running(NAME, {part: "".join(pieces) for part, pieces in cut.items()}, True, len(files))


def classified(data_dir: Path | None = None) -> Texts:
    """`texts.csv` or `.parquet`: text, label, perhaps split; or a folder of text files for each class, as images are.

    Texts without a character are left out. DataError, with file and row.
    """
    folder = tables.folder_of(data_dir, CLASSIFIED)
    path = tables.present(folder, "texts")
    if path is None and not folders.folders_in(folder):
        path = tables.only(folder, "texts", CLASSIFIED)
    if path is None:
        labelled = folders.class_files(folder, (".txt",), CLASSIFIED, "text")
        found = tuple(read(p) for p in labelled.paths)
        return Texts(NAME, found, labelled.labels, labelled.names, labelled.split())
    table = tables.read(path, ["text", "label"])
    cells = table.columns["text"]
    tables.refuse(table, "text", cells.among([""]), "needs a text")
    labels, names = tables.classes(table, "label")
    split = splits.given(table, optional=False)
    count = np.bincount(labels)
    if split is None and count.min() < 3:
        rare = int(count.argmin())
        raise DataError(
            f"data={NAME}: {path.name}: column 'label' has the class {names[rare]!r} in {count[rare]} rows; needs"
            " three at least, one for each part"
        )
    texts = cells.texts.to_pylist()
    return Texts(NAME, tuple(texts[code] for code in cells.codes), labels, names, split)
