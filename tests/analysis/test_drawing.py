from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from fairsweep.analysis.drawing import draw_svg, layers

SVG = "{http://www.w3.org/2000/svg}"


def test_layers_are_longest_ways_from_the_start() -> None:
    edges = [("a", "b", ""), ("b", "c", ""), ("a", "c", ""), ("c", "d", "")]
    assert layers("abcde", edges) == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 0}
    with pytest.raises(ValueError, match="cycle"):
        layers("ab", [("a", "b", ""), ("b", "a", "")])


def test_a_drawing_has_a_box_a_node_and_an_arrow_an_edge_and_says_what_they_are() -> None:
    nodes = {"0": "input", "1": "a < b", "2": "output"}
    edges = [("0", "1", "conv3x3"), ("1", "2", ""), ("0", "2", "skip & add")]
    root = ET.fromstring(draw_svg(nodes, edges, "cell"))
    assert len(root.findall(f"{SVG}rect")) == 3 and len(root.findall(f"{SVG}path")) == 3
    words = [t.text for t in root.findall(f"{SVG}text")]
    assert {"cell", "input", "a < b", "output", "conv3x3", "skip & add"} == set(words)
    boxes = [(float(r.get("x", 0)), float(r.get("width", 0))) for r in root.findall(f"{SVG}rect")]
    for (x, width), (after, _) in zip(sorted(boxes), sorted(boxes)[1:], strict=False):
        assert x + width < after
    assert max(x + w for x, w in boxes) <= float(root.get("width", 0))
