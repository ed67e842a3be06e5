#!/usr/bin/env bash
# Vega-Lite 6.4 as vl-convert-python 1.9.0.post1 draws it. One value of 0 in the data of a logarithmic axis takes all
# other points along: a loss of 1 and one of 1,000 are drawn in the same place, without an error, and vl-convert says
# nothing. null and NaN are left out by default. Expected: 0 is left out as they are, or the others stay where they were.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check vl-convert-python==1.9.0.post1
cd "$folder"
"$folder/venv/bin/python" - 2>said <<'PYTHON'
import re
import xml.etree.ElementTree as tree

import vl_convert


def places(losses):
    """Distance from the left of each point that is drawn, in pixels of 300."""
    drawn = vl_convert.vegalite_to_svg(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "width": 300,
            "data": {"values": [{"loss": loss} for loss in losses]},
            "mark": "point",
            "encoding": {"x": {"field": "loss", "type": "quantitative", "scale": {"type": "log", "nice": False}}},
        },
        vl_version="6.4",
    )
    points = [e for e in tree.fromstring(drawn).iter() if e.get("aria-roledescription") == "point"]
    return [round(float(re.match(r"translate\(([^,]*),", e.get("transform")).group(1))) for e in points]


losses = [1.0, 10.0, 100.0, 1000.0]
plain, null, zero = places(losses), places([*losses, None]), places([*losses, 0.0])
print("1, 10, 100, 1000:", plain)
print("the same and a null:", null)
print("the same and a 0:", zero)
assert plain == null == [0, 100, 200, 300], "it behaves otherwise now"
assert len(set(zero)) == 1 and len(zero) == 5, "it behaves otherwise now"
PYTHON
[ ! -s said ] || { cat said; echo "it says something now"; exit 1; }
