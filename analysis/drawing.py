"""Draws small directed acyclic graphs as SVG: boxes in layers from left to right, labelled arrows between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

BOX_H, GAP_Y, CHAR, MARGIN = 34, 70, 7.2, 24


def layers(nodes: Sequence[str], edges: Sequence[tuple[str, str, str]]) -> dict[str, int]:
    """The layer of each node: the longest way to it from a node that nothing leads to. ValueError for a cycle."""
    before: dict[str, list[str]] = {node: [] for node in nodes}
    for a, b, _ in edges:
        before[b].append(a)
    found: dict[str, int] = {}

    def layer(node: str, trail: tuple[str, ...]) -> int:
        if node in trail:
            raise ValueError(f"the graph has a cycle through {node}")
        if node not in found:
            found[node] = max((layer(a, (*trail, node)) + 1 for a in before[node]), default=0)
        return found[node]

    for node in nodes:
        layer(node, ())
    return found


def draw_svg(nodes: Mapping[str, str], edges: Sequence[tuple[str, str, str]], title: str = "") -> str:
    """The SVG text of a graph. nodes: name -> label. edges: (from, to, label)."""
    depth = layers(list(nodes), edges)
    width = {name: max(46.0, CHAR * len(label) + 18) for name, label in nodes.items()}
    columns: dict[int, list[str]] = {}
    for name in nodes:
        columns.setdefault(depth[name], []).append(name)
    gap = 40 + CHAR * max((len(label) for _, _, label in edges), default=0)
    long = any(depth[b] - depth[a] > 1 for a, b, _ in edges)
    x, left = {}, float(MARGIN)
    for column in sorted(columns):
        widest = max(width[name] for name in columns[column])
        for name in columns[column]:
            x[name] = left + widest / 2
        left += widest + gap
    # Neighbouring layers stand half a step apart where an arrow over several layers would run through a box.
    y = {
        name: MARGIN + 50 + (row + 0.5 * (column % 2) * long) * GAP_Y
        for column, names in columns.items()
        for row, name in enumerate(names)
    }
    bends = {(a, b): _bend(a, b, depth, y) for a, b, _ in edges}
    over = [(y[a] + y[b]) / 2 + bend for (a, b), bend in bends.items()]
    up = MARGIN + (30 if title else 0) + BOX_H / 2 - min(y.values())
    up = max(
        up, MARGIN + (30 if title else 0) + 18 - min(over, default=math.inf)
    )  # and the label above a curve
    y = {name: at + up for name, at in y.items()}
    height = max([*y.values(), *(at + up for at in over)]) + BOX_H + MARGIN / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left - gap + MARGIN:.0f}" height="{height:.0f}" '
        'font-family="sans-serif" font-size="12">',
        '<defs><marker id="head" markerWidth="9" markerHeight="7" refX="8" refY="3.5" orient="auto">'
        '<path d="M0,0 L9,3.5 L0,7 z" fill="#456"/></marker></defs>',
    ]
    if title:
        parts.append(f'<text x="{MARGIN}" y="{MARGIN}" font-weight="bold">{escape(title)}</text>')
    labels = []
    for a, b, label in edges:
        x0, x1, bend = x[a] + width[a] / 2, x[b] - width[b] / 2, bends[a, b]
        middle_x, middle_y = (x0 + x1) / 2, (y[a] + y[b]) / 2 + bend
        parts.append(
            f'<path d="M{x0:.1f},{y[a]:.1f} Q{middle_x:.1f},{middle_y + bend:.1f} {x1:.1f},{y[b]:.1f}" '
            'fill="none" stroke="#456" marker-end="url(#head)"/>'
        )
        if label:
            labels.append(
                f'<text x="{middle_x:.1f}" y="{middle_y + (12 if bend > 0 else -5):.1f}" text-anchor="middle" '
                f'fill="#345" stroke="#fff" stroke-width="4" paint-order="stroke">{escape(label)}</text>'
            )
    parts += labels  # above all arrows
    for name, label in nodes.items():
        parts.append(
            f'<rect x="{x[name] - width[name] / 2:.1f}" y="{y[name] - BOX_H / 2:.1f}" width="{width[name]:.1f}" '
            f'height="{BOX_H}" rx="6" fill="#eef4fb" stroke="#456"/>'
            f'<text x="{x[name]:.1f}" y="{y[name] + 4:.1f}" text-anchor="middle">{escape(label)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _bend(a: str, b: str, depth: Mapping[str, int], y: Mapping[str, float]) -> float:
    """How far an arrow over several layers bows, away from the boxes between its ends; below 0: upwards."""
    between = [y[name] for name in depth if depth[a] < depth[name] < depth[b]]
    if not between:
        return 0.0
    side = -1 if sum(between) / len(between) >= (y[a] + y[b]) / 2 else 1
    return 34.0 * (depth[b] - depth[a] - 1) * side
