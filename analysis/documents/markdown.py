"""A document as Markdown, with its figures and all data as files in a folder beside it.

Without the package that draws there are tables and words only; the document says what to install.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.csv

from fairsweep.analysis.documents.document import Block, Code, Document, Grid, Rows, Text
from fairsweep.analysis.plots.figure import TO_INSTALL, Figure, NoDrawing
from fairsweep.analysis.plots.parts import count

FEW = 20  # rows of a table that would be paged
_MARKS = re.compile(r"([\\`*_\[\]#|~$]|^[-+]|^\d+(?=[.)]))")


def write_markdown(document: Document, file: Path) -> Path:
    """Writes `file`, and figures and data into `<its name>_files` beside it, anew; that folder is returned."""
    folder = file.parent / f"{file.stem}_files"
    if folder.exists() and not (folder / "README.txt").exists():
        raise FileExistsError(None, f"{folder} is there, and is none of a report", str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "README.txt").write_text(f"Figures and data of {file.name}; written anew with it.\n")
    book = _Book(folder)
    lines = [f"# {plain(document.answer)}", "", f"*{plain(document.title)}*", ""]
    lines += [plain(document.more), ""] if document.more else []
    lines += [f"- {plain(k)}: {plain(v)}" for k, v in document.facts]
    for section in document.sections:
        lines += ["", f"## {plain(section.title)}", ""]
        for block in section.blocks:
            lines += book.block(block)
    if book.undrawn:
        lines += [
            "",
            f"{count(book.undrawn, 'figure is', 'figures are')} here in words and data: {TO_INSTALL}",
        ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    found = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(lambda m: f"{m[0]}\\" if m[0].isdecimal() else f"\\{m[0]}", found)


class _Book:
    """Blocks as lines, their files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.undrawn = folder, 0
        self._taken: set[str] = set()

    def block(self, block: Block) -> list[str]:
        if isinstance(block, Text):
            return [plain(block.text), ""]
        if isinstance(block, Code):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
            title = [plain(block.title), ""] if block.title else []
            return [*title, fence, *block.text.splitlines(), fence, ""]
        if isinstance(block, Grid):
            return [line for part in block.parts for line in self.block(part)]
        return self._rows(block) if isinstance(block, Rows) else self._figure(block)

    def _figure(self, figure: Figure) -> list[str]:
        name = self._name(figure.name)
        (self.folder / f"{name}.csv").write_text(figure.csv(), encoding="utf-8")
        lines = [f"### {plain(figure.title)}", ""]
        try:
            (self.folder / f"{name}.svg").write_bytes(figure.image("svg"))
            lines += [f"![{plain(figure.title)}]({self._link(f'{name}.svg')})", ""]
        except NoDrawing:
            self.undrawn += 1
        return [
            *lines,
            plain(figure.caption),
            "",
            plain(figure.alt),
            "",
            f"[Data]({self._link(f'{name}.csv')})",
            "",
        ]

    def _rows(self, rows: Rows) -> list[str]:
        name = self._name(rows.name)
        with contextlib.suppress(pa.ArrowNotImplementedError):
            pa.csv.write_csv(rows.data, self.folder / f"{name}.csv")
        most = FEW if rows.paged else rows.data.num_rows
        rule = ["---:" if n else "---" for n in rows.numeric]
        lines = [f"### {plain(rows.title)}", "", *([plain(rows.caption), ""] if rows.caption else [])]
        lines += [_line([plain(c) for c in rows.data.column_names]), _line(rule)]
        lines += [_line([plain(c) for c in row]) for row in rows.shown(most)]
        more = (
            f" (all {count(rows.data.num_rows, 'row')}; above the first {most})"
            if rows.data.num_rows > most
            else ""
        )
        return [*lines, "", f"[Data]({self._link(f'{name}.csv')}){more}", ""]

    def _name(self, wanted: str) -> str:
        """A file name that no other block has."""
        base = re.sub(r"[^A-Za-z0-9_.-]", "_", wanted) or "table"
        name, k = base, 2
        while name in self._taken:
            name, k = f"{base}-{k}", k + 1
        self._taken.add(name)
        return name

    def _link(self, file: str) -> str:
        return quote(f"{self.folder.name}/{file}")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
