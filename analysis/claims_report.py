"""The table `claims` for people: what a terminal shows, and a Markdown table of one run beside others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairsweep.analysis.report import number

VERDICTS = ("holds", "fails", "inconclusive")
_HEAD = (
    "paper",
    "claim",
    "effect",
    "95 % interval",
    "pairs",
    "direction",
    "margin",
    "size",
    "runs that say so",
)


def claimed(row: Mapping[str, Any]) -> str:
    """What was claimed, in one cell: effect, direction and margin."""
    what = {"ratio": f"{row['metric']} ratio", "value": row["metric"]}.get(row["kind"], f"Δ {row['metric']}")
    return f"{what} {_sign(row)} {row['margin']:g}"


def interval(row: Mapping[str, Any]) -> str | None:
    """The 95 % interval of the effect in one cell; None where there is none."""
    return None if row["ci_low"] is None else f"{number(row['ci_low'])} .. {number(row['ci_high'])}"


def counts(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """How many of the rows have which verdict in `column`."""
    return ", ".join(f"{sum(row[column] == v for row in rows)} {v}" for v in VERDICTS)


def markdown(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """A table of the claims of the first run; the last column counts the runs with its verdicts, its own among them.

    A claim that another run judged by another margin, on other data or with another budget is not counted as the same,
    and neither is one that a run has no pairs of, as without its data: it is shown as the first run that has some.
    """
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    for first in runs[0]:
        found = [r for run in runs for r in run if _same(r, first) and r["pairs"]] or [first]
        row = found[0]
        agree = " / ".join(
            f"{sum(r[column] == row[column] for r in found)} of {len(found)}"
            for column in ("direction_verdict", "size_verdict")
        )
        cells = [
            f"`{row['paper']}`",
            row["statement"],
            number(row["effect"]),
            interval(row) or "",
            row["pairs"],
        ]
        cells += [_strong(row["direction_verdict"]), f"{_sign(row)} {row['margin']:.4g} ({row['origin']})"]
        cells += [_strong(row["size_verdict"]), agree]
        lines.append(_line(cells))
    return "\n".join(lines)


def _sign(row: Mapping[str, Any]) -> str:
    return "≥" if row["direction"] == "at_least" else "≤"


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(
        a[k] == b[k] for k in ("paper", "claim", "margin", "direction", "kind", "metric", "data", "steps")
    )


def _strong(verdict: str) -> str:
    return verdict if verdict == "inconclusive" else f"**{verdict}**"


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
