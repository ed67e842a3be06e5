"""The dashboard's own pages: the list of what a store has, and the frame in which a report is kept fresh."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from fairsweep.analysis.plots.theme import css
from fairsweep.analysis.report import jsonable


def version_of(text: str) -> str:
    """A short digest."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


@cache
def own(name: str) -> str:
    """A file of this package."""
    return files("fairsweep.cluster.jobs.dashboard").joinpath(name).read_text("utf-8")


@cache
def style() -> str:
    """The style sheet, with the colours of the reports."""
    dark = css(1)
    return (
        f":root{{{css(0)}}}@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f":root[data-theme=dark]{{{dark}}}\n{own('dashboard.css')}"
    )


def _page(title: str, body: str, script: str = "") -> str:
    code = f'<script src="/ours/{script}" defer></script>' if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/ours/dashboard.css">
{code}
</head>
<body>
{body}
</body>
</html>
"""


def index(uri: str) -> str:
    """The list of what is in the store; its rows come from `index_rows`."""
    body = f"""<header class="bar"><h1>fairsweep</h1><p class="where">{escape(uri)}</p>
<p id="status" class="status" aria-live="polite">reading the store</p></header>
<main class="list">
<section id="runs" hidden><h2>Comparisons and claims</h2><div class="rows"></div></section>
<section id="sweeps" hidden><h2>Sweeps</h2><div class="rows"></div></section>
<details id="parts" hidden><summary>Sweeps of comparisons</summary><div class="rows"></div></details>
<p id="none" hidden>The store has no sweeps yet; <code>fairsweep run</code> begins one.</p>
<noscript><p>This page is kept fresh by its own code, which is switched off here.</p></noscript>
</main>"""
    return _page("fairsweep", body, "index.js")


def index_rows(lines: Sequence[dict[str, Any]]) -> str:
    """What the list shows, as JSON."""
    return json.dumps(jsonable(list(lines)), ensure_ascii=False)


def live(name: str) -> str:
    """The report of a sweep or run, in a frame that is exchanged when there is a newer one."""
    shown = escape(name)
    body = f"""<header class="bar"><a href="/" class="home">All sweeps</a><p class="where">{shown}</p>
<p id="status" class="status" aria-live="polite">reading the store</p>
<button type="button" id="hold" aria-pressed="false">Pause</button></header>
<div id="frames" data-name="{shown}"></div>
<noscript><p class="list"><a href="/run/{shown}/report">The report</a>: it is not kept fresh without code.</p>
</noscript>"""
    return _page(f"{name} - fairsweep", body, "live.js")


def version(text: str) -> str:
    """Which version of a report there is; empty while there is none."""
    return json.dumps({"version": text})


def problem(text: str) -> str:
    """In the place of a report that cannot be made."""
    return _page("fairsweep", f'<main class="list"><p class="problem">{escape(text)}</p></main>')
