"""A report before it has a form: the answer in a sentence, then sections of words, tables and figures.

All text in it may come from outside (names of sweeps, choices, errors); each form shows it as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fairsweep.analysis.plots.figure import Figure
from fairsweep.analysis.report import number

LISTED = 200  # rows of a table that stand in a document; more are paged, or left to the file with all of them


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to be copied: commands, settings, a traceback. folded: shown on demand."""

    text: str
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Rows:
    """A table. name: for its file and anchor. paged: with pages and a filter, however many rows there are."""

    name: str
    title: str
    data: pa.Table
    caption: str = ""
    paged: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Which columns are numbers."""
        return [pa.types.is_floating(t) or pa.types.is_integer(t) for t in self.data.schema.types]

    def shown(self, most: int = LISTED) -> list[list[str]]:
        """The first rows as people read them."""
        return [[cell(v) for v in row.values()] for row in self.data.slice(0, most).to_pylist()]


@dataclass(frozen=True)
class Grid:
    """Small figures or tables side by side."""

    parts: tuple[Figure | Rows, ...]


Block = Text | Code | Rows | Figure | Grid


@dataclass(frozen=True)
class Section:
    """name: its anchor."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """title: what it is of. answer: one sentence, `more` what follows it. facts: name and value, to know first."""

    title: str
    answer: str
    more: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Every figure and table with an identifier of its own, grids taken apart."""
        for s in self.sections:
            for at, block in enumerate(s.blocks):
                for k, part in enumerate(block.parts if isinstance(block, Grid) else [block]):
                    yield f"{s.name}-{at}-{k}", part


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if hasattr(value, "strftime"):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return number(value)
