"""The parts of a report that are about several sweeps: a comparison of methods, a run of claims, sweeps "
"side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fairsweep.analysis import claims_report
from fairsweep.analysis.comparing import ranks
from fairsweep.analysis.comparing.answering import Answer
from fairsweep.analysis.documents.document import Block, Rows, Section, Text
from fairsweep.analysis.plots import claims as claims_plot
from fairsweep.analysis.plots import comparing, search
from fairsweep.analysis.plots.parts import count, number, sentence
from fairsweep.analysis.statistics import best
from fairsweep.analysis.store import Store, StoreError
from fairsweep.cluster.jobs.pictures import Pictures
from fairsweep.cluster.jobs.reporting_sweeps import duration, seen
from fairsweep.cluster.masking import masked_command, masked_uri

Row = dict[str, Any]


# -- a comparison ---------------------------------------------------------------------------------------


def comparison_facts(found: Answer) -> list[tuple[str, str]]:
    """What to know of a comparison first."""
    kind, amount = found.budget
    spent = sum(s.search_s + s.final_s for s in found.standings)
    return [
        ("methods", ", ".join(found.methods)),
        ("data", ", ".join(found.data_sets)),
        ("repeats", str(len(found.repeats))),
        ("budget of a search", f"{number(amount)} {kind}"),
        ("compared by", f"{found.metric}, {search.BETTER[found.mode]}"),
        ("trained for", duration(spent)),
    ]


def comparison_sections(store: Store, rows: Sequence[Row], found: Answer) -> list[Section]:
    """Who is best, by how much, how sure, at what cost; how the searches went; every row."""
    sets = found.data_sets
    first: list[Block] = []
    if found.decision is not None and found.decision.gaps:
        first.append(comparing.gaps(found.decision, found.metric, found.mode))
    first.append(_standings(found))
    first += _absent(found)
    first += [Text(sentence(n)) for n in found.notes]
    return [
        Section("answer", "Who is best, by how much, how sure", first),
        Section("scores", "Scores", [seen(comparing.scores(rows, data)) for data in sets]),
        *_ranked(found),
        *_searches(store, rows, sets),
        Section("rows", "Every search", [_every(rows)]),
    ]


def _absent(found: Answer) -> list[Block]:
    """The methods of the task that could not take part."""
    if not found.absent:
        return []
    said = "Known before anything was trained; nothing is said of these methods."
    table = pa.Table.from_pylist([{"method": method, "why": why} for method, why in found.absent])
    return [Rows("absent", "Papers of the task that could not take part", table, said)]


def _standings(found: Answer) -> Rows:
    made = []
    failed = any(s.failures for s in found.standings)
    uneven = any(used != found.budget[1] for ends in found.used.values() for used in ends)
    for s in found.standings:
        low, high = found.used.get(s.method, (None, None))
        row: Row = {
            "method": s.method,
            "mean": s.value,
            "95 % from": s.ci95 and s.ci95[0],
            "to": s.ci95 and s.ci95[1],
        }
        row |= s.values if len(found.data_sets) > 1 else {}
        row |= {
            "searching": duration(s.search_s),
            "retraining": duration(s.final_s),
            "trials": s.trials,
        }
        if failed:
            row["failed trials"] = s.failures
        if uneven:
            row |= {f"least {found.budget[0]} of a search": low, "most": high}
        row["trainable"] = s.trainable.rpartition("/")[2]  # where it lies is said with the settings
        made.append({**row, "fixed": ", ".join(f"{k} {v}" for k, v in s.fixed.items())})
    sign = 1 if found.mode == "min" else -1
    made.sort(key=lambda r: (r["mean"] is None, sign * (r["mean"] or 0.0)))
    means = (
        "Means over data sets of the means over repeats" if len(found.data_sets) > 1 else "Means over repeats"
    )
    said = f"{means} of {found.metric} on test data, with 95 % intervals over repeats."
    table = pa.Table.from_pylist(made)
    return Rows("methods", "The methods", table.select(_known(table, table.column_names)), said)


def _ranked(found: Answer) -> list[Section]:
    """Critical-difference diagrams: over data sets where there are several, else over the repeats."""
    if len(found.methods) < 2:
        return []
    if len(found.data_sets) > 1:
        with np.errstate(invalid="ignore"):
            good = np.isfinite(found.scores)
            total = np.where(good, found.scores, 0.0).sum(2)
            blocks = np.where(good.any(2), total / np.maximum(good.sum(2), 1), np.nan).T
        unit, names = "data set", list(found.data_sets)
    else:
        unit, names = "repeat", [f"repeat {r}" for r in found.repeats]
        blocks = found.scores[:, 0, :].T
    try:
        diagrams = [f(blocks, found.mode, found.methods, names) for f in (ranks.wilcoxon_holm, ranks.nemenyi)]
    except ValueError:  # no block is complete
        return []
    return [Section("ranks", "Ranks", [comparing.critical_difference(d, unit) for d in diagrams])]


def _searches(store: Store, rows: Sequence[Row], sets: Sequence[str]) -> list[Section]:
    """Anytime curves of the searches whose sweeps are still in the store."""
    figures: list[Block] = []
    for place, data in enumerate(sets):
        mine = [r for r in rows if r["data"] == data and r["search"]]
        aims = {r["objective"] for r in mine}
        if len(aims) != 1:
            if aims:
                figures.append(
                    Text(
                        f"{data}: the methods are chosen by different metrics, "
                        f"{', '.join(sorted(map(str, aims)))}, so their searches are not drawn together."
                    )
                )
            continue
        tables: dict[str, list[pa.Table]] = {}
        mode = None
        for r in mine:
            try:
                tables.setdefault(r["method"], []).append(store.table("trials", r["search"]))
                mode = mode or store.table("sweeps", r["search"])["mode"][0].as_py()
            except StoreError:  # deleted since
                continue
        if mode is not None:
            figures += [
                seen(comparing.searches(tables, str(next(iter(aims))), mode, data, place, by))
                for by in ("trials", "cost")
            ]
    return [Section("searches", "How the searches went", figures)] if figures else []


def _known(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """Those of the columns that say something in a row."""
    return [c for c in columns if table[c].null_count < table.num_rows]


def _every(rows: Sequence[Row]) -> Rows:
    columns = [
        "method",
        "data",
        "repeat",
        "state",
        "score",
        "validation",
        "objective",
        "trials",
        "steps",
        "cost_s",
        "wall_s",
        "failures",
        "final_cost_s",
        "split_seed",
        "search",
        "final",
        "config",
        "scores",
        "reason",
    ]
    table = pa.Table.from_pylist([{c: r[c] for c in columns} for r in rows])
    kept = _known(table, columns)
    said = (
        "One row a search with the retraining of what it chose; scores are of the retrainings, on test data."
    )
    return Rows(
        "comparisons", count(len(rows), "search", "searches"), table.select(kept), said, paged=len(rows) > 50
    )


# -- claims -----------------------------------------------------------------------------------------------


def claims_answer(rows: Sequence[Row]) -> tuple[str, str, list[tuple[str, str]]]:
    """How many claims hold, what of the others, and what to know first."""
    papers = sorted({r["paper"] for r in rows})
    direction, size = (claims_report.counts(rows, c) for c in ("direction_verdict", "size_verdict"))
    cost = sum(r["cost_s"] or 0.0 for r in rows)
    facts = [
        ("papers", ", ".join(papers)),
        ("pairs of a claim", _range([r["pairs"] or 0 for r in rows])),
        ("arms", "each tuned alike" if any(r["tuning"] for r in rows) else "as the paper sets them"),
        ("trained for", duration(cost)),
    ]
    held, size_held = (sum(r[c] == "holds" for r in rows) for c in ("direction_verdict", "size_verdict"))
    many, verb = count(len(rows), "claim"), "holds" if held == 1 else "hold"
    told = f"{held} of {many} {verb} in direction, {size_held} also in size."
    return told, f"Direction: {direction}. Size: {size}.", facts


def claims_sections(rows: Sequence[Row]) -> list[Section]:
    """The figure of all claims, and each with its verdicts and why."""
    made = [
        {
            "paper": r["paper"], "claim": r["statement"], "claimed": claims_report.claimed(r), "effect": r["effect"],
            "95 % interval": claims_report.interval(r) or "", "pairs": r["pairs"], "direction": r["direction_verdict"],
            "size": r["size_verdict"], "again, direction": r["direction_replication"],
            "again, size": r["size_replication"],
            "why": r["reason"], "data": r["data"], "metric": r["metric"], "sweep": r["sweep"],
        }
        for r in rows
    ]  # fmt: skip
    said = (
        "The rule was fixed before the run: a claim holds if the whole interval is on the claimed side, "
        "fails if it is on the "
        "other side. Again: how probable it is that as many fresh seeds give the same verdict."
    )
    table = pa.Table.from_pylist(made)
    return [
        Section(
            "claims",
            "Claims",
            [seen(claims_plot.claims(rows)), Rows("claims", "Each claim", table, said, paged=len(made) > 50)],
        )
    ]


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


# -- several sweeps side by side ------------------------------------------------------------------------------


def together(found: Sequence[Pictures]) -> tuple[str, list[Section]]:
    """What several sweeps say beside each other, where they are tuned on one metric; a sentence, and a section."""
    names = ", ".join(p.name for p in found)
    plain = [p for p in found if not p.row.get("objectives") and not p.architectures]
    if len(plain) < len(found) or len({(p.objective, p.mode) for p in plain}) > 1:
        return (
            f"{count(len(found), 'sweep')}, each for itself: {names}; they are not tuned on the same metric.",
            [],
        )
    objective, mode = plain[0].objective, plain[0].mode
    values = {p.name: (b.value.mean if (b := best(p.trials, mode)) else None) for p in plain}
    ranked = sorted(((v, n) for n, v in values.items() if v is not None), reverse=mode == "max")
    tables = {p.name: p.trials for p in plain}
    blocks: list[Block] = [seen(search.anytime(tables, objective, mode, by)) for by in ("trials", "cost")]
    blocks.append(
        Text(
            "These are sweeps of their own, not a comparison: budgets, splits and luck may differ. "
            "fairsweep compare gives all methods the same, and says how sure the answer is."
        )
    )
    told = ", ".join(f"{n} {number(v)}" for v, n in ranked) or "none has a complete configuration"
    return (
        f"Best {objective} of {count(len(found), 'sweep')}: {told}. One search each does not tell which is better.",
        [Section("together", "Side by side", blocks)],
    )


def settings(rows: Sequence[Row], store: Store) -> list[Block]:
    """How to get a comparison again, from the sweeps that belong to it."""
    for r in rows:
        try:
            row = store.table("sweeps", r["search"]).to_pylist()[0] if r["search"] else None
        except StoreError:
            continue
        if row is None:
            continue
        spec = json.loads(row.get("comparison") or "{}").get("spec")
        facts = {
            "store": masked_uri(store.uri),
            "command": masked_command(row["command"] or ""),
            "settings": json.dumps(spec, indent=1) if spec else None,
        }
        facts |= json.loads(row["versions"] or "{}")
        known = {k: str(v) for k, v in facts.items() if v}
        return [
            Rows(
                "provenance",
                "Where and with what",
                pa.table({"what": list(known), "value": list(known.values())}),
            )
        ]
    return []
