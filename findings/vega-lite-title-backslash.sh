#!/usr/bin/env bash
# Vega-Lite 6.4 as vl-convert-python 1.9.0.post1 draws it. A title is text on the axis, and read as JavaScript in the
# description of each mark (and so in tooltips made of several fields): \theta becomes a tab and "heta", C:\new\runs
# breaks into three lines. Quotes in titles are escaped, backslashes are not. Expected: the same text in both.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check vl-convert-python==1.9.0.post1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import xml.etree.ElementTree as tree

import vl_convert


def texts(title):
    """The title as the axis has it, and as the description of the one point has it."""
    drawn = vl_convert.vegalite_to_svg(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "data": {"values": [{"a": 1}]},
            "mark": "point",
            "encoding": {"x": {"field": "a", "type": "quantitative", "title": title}},
        },
        vl_version="6.4",
    )
    found = list(tree.fromstring(drawn).iter())
    point = next(e.get("aria-label") for e in found if e.get("aria-roledescription") == "point")
    axis = next((e.text for e in found if e.tag.endswith("text") and e.text == title), None)
    return axis, point.removesuffix(": 1")


for title, wrong in ((r"\theta", "\theta"), (r"C:\new\runs", "C:\new\runs"), ('say "x"', 'say "x"'), ("it's", "it's")):
    axis, point = texts(title)
    print(f"title {title!r}: on the axis {axis!r}, of the point {point!r}")
    assert axis == title and point == wrong, "it behaves otherwise now"
PYTHON
