"""A document as one HTML file that needs nothing else: data, styles and the code that draws are in it.

The page's policy forbids it any network. Text from outside gets in by `html.escape` or as JSON without a `<`, and the
page's code puts it into text nodes only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from typing import Any

import pyarrow as pa

from fairsweep.analysis.documents.document import Block, Code, Document, Grid, Rows, Section, Text
from fairsweep.analysis.plots.figure import Figure, drawing
from fairsweep.analysis.plots.parts import count
from fairsweep.analysis.plots.theme import COLOURS, CONFIG, css
from fairsweep.analysis.report import jsonable

PAGE = 50  # rows of a paged table
LONG = 32  # characters, from which on a cell is broken into lines
HEIGHT = 300  # pixels kept for a figure that says no height
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)  # Vega compiles its expressions, which 'unsafe-eval' allows; there are none but ours


def page(document: Document) -> str:
    """The page. NoDrawing without the package that brings Vega."""
    vega = drawing().javascript_bundle("window.vegaEmbed = vegaEmbed;")
    kept = {name: _part(block) for name, block in document.blocks() if isinstance(block, (Figure, Rows))}
    data = {"blocks": kept, "config": CONFIG, "colours": COLOURS, "page": PAGE}
    sections = "".join(_section(s) for s in document.sections)
    links = "".join(f'<a href="#{escape(s.name)}">{escape(s.title)}</a>' for s in document.sections)
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in document.facts)
    lede = f'<p class="lede">{escape(document.more)}</p>\n' if document.more else ""
    dark = css(1)
    theme = f":root{{{css(0)}}}@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
    theme += f"@media screen{{:root[data-theme=dark]{{{dark}}}}}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(document.title)}</title>
<style>{theme}{_own("page.css")}</style>
</head>
<body>
<a class="skip" href="#main">To the content</a>
<header>
<div class="top"><p class="what">{escape(document.title)}</p>
<button type="button" id="theme" hidden>Dark</button></div>
<h1>{escape(document.answer)}</h1>
{lede}<dl class="facts">{facts}</dl>
</header>
<nav aria-label="Sections">{links}</nav>
<noscript><p class="note">The figures are drawn by the page's own code, which is switched off here; what each shows is
below it in words.</p></noscript>
<main id="main">{sections}</main>
<footer>fairsweep, {datetime.now():%Y-%m-%d %H:%M}</footer>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="data">{_json(data)}</script>
<script>{_script(vega)}</script>
<script>{_own("page.js")}</script>
</body>
</html>
"""


def _own(name: str) -> str:
    return files("fairsweep.analysis.documents").joinpath(name).read_text("utf-8")


def _json(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(jsonable(value), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _script(code: str) -> str:
    """Code for a script element, which `</script` or `<!--` within a string of it would end."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _part(block: Figure | Rows) -> dict[str, Any]:
    """What the page's code needs of a figure or table: its data by columns, how it is drawn."""
    if isinstance(block, Rows):
        return {
            "name": block.name,
            "header": block.data.column_names,
            **_columns(block.data),
            "paged": block.paged,
        }
    spec = None if block.svg is not None else dict(block.spec)
    return {"name": block.name, "header": block.header(), **_columns(block.data), "spec": spec}


def _columns(data: pa.Table) -> dict[str, Any]:
    return {"names": data.column_names, "columns": [_brief(c) for c in data.columns]}


def _brief(column: pa.ChunkedArray) -> list[Any]:
    """Values for JSON; a column of many equal texts as its texts and their places in them."""
    values = column.to_pylist()
    if pa.types.is_timestamp(column.type):
        return [None if v is None else v.isoformat(timespec="seconds") for v in values]
    return values


def _section(s: Section) -> str:
    parts = []
    for at, block in enumerate(s.blocks):
        if isinstance(block, Grid):
            inner = "".join(_block(f"{s.name}-{at}-{k}", part) for k, part in enumerate(block.parts))
            kind = " tables" if any(isinstance(p, Rows) for p in block.parts) else ""
            parts.append(f'<div class="grid{kind}">{inner}</div>')
        else:
            parts.append(_block(f"{s.name}-{at}-0", block))
    return f'<section id="{escape(s.name)}"><h2>{escape(s.title)}</h2>{"".join(parts)}</section>'


def _block(name: str, block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Code):
        code = f'<pre tabindex="0"><code>{escape(block.text)}</code></pre>'
        if block.folded:
            return f"<details><summary>{escape(block.title)}</summary>{code}</details>"
        return (f"<h3>{escape(block.title)}</h3>" if block.title else "") + code
    if isinstance(block, Rows):
        return _rows(name, block)
    assert isinstance(block, Figure)
    return _figure(name, block)


def _figure(name: str, figure: Figure) -> str:
    height = figure.spec.get("height", HEIGHT)
    least = height + 60
    drawn = (
        f'<div class="drawing" role="img" aria-labelledby="{name}-t" aria-describedby="{name}-w">{figure.svg}</div>'
        if figure.svg is not None
        else f'<div class="plot" id="{name}" role="img" aria-labelledby="{name}-t" aria-describedby="{name}-w" '
        f'style="min-height:{least}px"></div>'
    )
    return (
        f'<figure data-block="{name}"><h3 id="{name}-t">{escape(figure.title)}</h3>{drawn}'
        f"<figcaption>{escape(figure.caption)}</figcaption>"
        f'<details class="words"><summary>In words and numbers</summary><p id="{name}-w">{escape(figure.alt)}</p>'
        "</details>"
        f'<div class="actions"></div></figure>'
    )


def _rows(name: str, block: Rows) -> str:
    many = block.data.num_rows
    shown = block.shown(PAGE if block.paged else many)
    kinds = [
        " class=n" if n else " class=l" if any(len(row[k]) > LONG for row in shown) else ""
        for k, n in enumerate(block.numeric)
    ]
    head = "".join(
        f'<th scope="col"{kind}>{escape(c)}</th>'
        for c, kind in zip(block.data.column_names, kinds, strict=True)
    )
    body = "".join(_line(row, kinds) for row in shown)
    note = f'<p class="note">{escape(block.caption)}</p>' if block.caption else ""
    tools = '<div class="tools"></div>'
    more = (
        f'<p class="more">The first {PAGE} of {count(many, "row")}.</p>'
        if block.paged and many > PAGE
        else ""
    )
    kind = "rows paged" if block.paged else "rows"
    above, below = (tools, "") if block.paged else ("", tools)
    return (
        f'<div class="{kind}" data-block="{name}"><h3 id="{name}-t">{escape(block.title)}</h3>{note}{above}'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}-t"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}{below}</div>"
    )


def _line(row: Sequence[str], kinds: Sequence[str]) -> str:
    cells = (f"<td{kind}>{escape(v)}</td>" for v, kind in zip(row, kinds, strict=True))
    return f"<tr>{''.join(cells)}</tr>"
