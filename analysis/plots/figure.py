"""What a figure is: a title, a caption, what it shows in words, its data, and how it is drawn (Vega-Lite).

Nothing here needs a package to draw: pages draw `spec` with Vega in the reader's browser, and `image` makes a file of
it with vl-convert, which the extra `report` brings. Text from outside (names, choices, errors) is only ever data or a
title; it never becomes a field's name or a part of an expression, both of which Vega reads as code.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from fairsweep.analysis.plots.theme import static

IMAGES = ("svg", "png", "pdf")
WIDTH = 680  # pixels of an image; on a page a figure is as wide as its column
TO_INSTALL = "pip install 'fairsweep[report]' (vl-convert-python)"


class NoDrawing(ImportError):
    """The package that draws is not installed; says what to install."""


@dataclass(frozen=True)
class Figure:
    """One figure.

    name: for files and anchors. caption: what is drawn, and what is left out. alt: what is to be seen, with numbers.
    data: the rows that are drawn. labels: what its columns are called for people, where not as in `data`. spec:
    Vega-Lite over the data set `rows`, of no width. svg: the drawing itself where it is none of data.
    """

    name: str
    title: str
    caption: str
    alt: str
    data: pa.Table
    spec: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)
    svg: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """The data as JSON can hold them: what is not finite is null."""
        return [{k: _plain(v) for k, v in row.items()} for row in self.data.to_pylist()]

    def header(self) -> list[str]:
        """The names of the data's columns for people."""
        return [self.labels.get(name, name) for name in self.data.column_names]

    def csv(self) -> str:
        """The data as CSV (RFC 4180)."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(self.header())
        writer.writerows(zip(*(c.to_pylist() for c in self.data.columns), strict=True))
        return out.getvalue()

    def vega_lite(self, width: int = WIDTH) -> dict[str, Any]:
        """A Vega-Lite specification that stands alone: data, colours and width in it."""
        return static({**self.spec, "datasets": {"rows": self.rows()}}, width)

    def image(self, kind: str = "svg", width: int = WIDTH) -> bytes:
        """The figure as a file: svg, png or pdf. NoDrawing without vl-convert, ValueError for another kind."""
        if kind not in IMAGES:
            raise ValueError(f"format={kind!r}: must be {', '.join(IMAGES)}")
        if self.svg is not None and kind == "svg":
            return self.svg.encode()
        draw = drawing()
        if self.svg is not None:
            made = draw.svg_to_png(self.svg, scale=2) if kind == "png" else draw.svg_to_pdf(self.svg)
        elif kind == "svg":
            made = draw.vegalite_to_svg(self.vega_lite(width)).encode()
        else:
            options = {"scale": 2} if kind == "png" else {}
            made = getattr(draw, f"vegalite_to_{kind}")(self.vega_lite(width), **options)
        return bytes(made)

    def save(self, path: str | Path) -> Path:
        """Writes the figure to a file: .svg, .png, .pdf, or its data to .csv. ValueError for another ending."""
        file = Path(path)
        kind = file.suffix.removeprefix(".").lower()
        if kind != "csv" and kind not in IMAGES:
            raise ValueError(f"path={file}: must end in {', '.join(f'.{k}' for k in (*IMAGES, 'csv'))}")
        file.write_bytes(self.csv().encode() if kind == "csv" else self.image(kind))
        return file

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """For notebooks: Vega-Lite, which Jupyter draws itself, and the words."""
        words = {"text/plain": f"{self.title}. {self.alt}"}
        if self.svg is not None:
            return {**words, "image/svg+xml": self.svg}
        return {**words, "application/vnd.vegalite.v6+json": self.vega_lite()}


def drawing() -> Any:
    """The package that draws. NoDrawing if it is not installed."""
    try:
        import vl_convert
    except ImportError:
        raise NoDrawing(f"figures: need a package to be drawn: {TO_INSTALL}") from None
    return vl_convert


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, pa.DataType]) -> pa.Table:
    """Rows as a table of `columns`, also of none."""
    schema = pa.schema(list(columns.items()))
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value
