"""A document as PDF, set by Typst. What the document says reaches it as JSON, so that no text is ever its markup."""

from __future__ import annotations

import json
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from fairsweep.analysis.documents.document import Block, Code, Document, Grid, Rows, Text
from fairsweep.analysis.plots.figure import WIDTH, Figure, NoDrawing, drawing

HALF = 330  # pixels of a figure beside another
FEW, LISTED, CODE = 25, 100, 6000  # rows of a paged table and of any other, characters of code


def write_pdf(document: Document, file: Path) -> None:
    """Writes `file`. NoDrawing without the packages that draw and set."""
    drawing()
    try:
        import typst
    except ImportError:
        raise NoDrawing("PDF: needs a package to set it: pip install 'fairsweep[report]' (typst)") from None
    with tempfile.TemporaryDirectory(prefix="fairsweep-report-") as place:
        folder = Path(place)
        book = _Book(folder)
        sections = [
            {"title": s.title, "blocks": [book.block(b) for b in s.blocks]} for s in document.sections
        ]
        said = {"title": document.title, "answer": document.answer, "more": document.more}
        facts = [list(fact) for fact in document.facts]
        text = json.dumps({**said, "facts": facts, "sections": sections})
        (folder / "report.json").write_text(text, encoding="utf-8")
        template = files("fairsweep.analysis.documents").joinpath("page.typ").read_text("utf-8")
        (folder / "report.typ").write_text(template, encoding="utf-8")
        file.write_bytes(typst.compile(folder / "report.typ", root=folder))


class _Book:
    """Blocks as JSON, their pictures in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._drawn = folder, 0

    def block(self, block: Block, width: int = WIDTH) -> dict[str, Any]:
        if isinstance(block, Text):
            return {"kind": "text", "text": block.text}
        if isinstance(block, Code):
            return {"kind": "code", "title": block.title, "text": block.text[:CODE]}
        if isinstance(block, Grid):
            return {"kind": "grid", "parts": [self.block(part, HALF) for part in block.parts]}
        if isinstance(block, Rows):
            most = FEW if block.paged else LISTED
            left = max(0, block.data.num_rows - most)
            head = {
                "kind": "table",
                "title": block.title,
                "caption": block.caption,
                "head": block.data.column_names,
            }
            return {**head, "numeric": block.numeric, "rows": block.shown(most), "left": left}
        return self._figure(block, width)

    def _figure(self, figure: Figure, width: int) -> dict[str, Any]:
        self._drawn += 1
        name = f"{self._drawn}.svg" if figure.svg is not None else f"{self._drawn}.pdf"
        (self.folder / name).write_bytes(figure.image(name.rpartition(".")[2], width))
        words = {"title": figure.title, "caption": figure.caption, "alt": figure.alt}
        return {"kind": "figure", "file": name, **words}
