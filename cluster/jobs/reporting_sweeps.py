"""The parts of a report that are about one sweep: its answer in a sentence, its figures, its tables."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from fairsweep.analysis.documents.document import Block, Code, Grid, Rows, Section, Text
from fairsweep.analysis.plots.figure import Figure
from fairsweep.analysis.plots.parts import count, number
from fairsweep.analysis.statistics import summarise
from fairsweep.analysis.text import bounded
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.pictures import ALONE, FROM_SCORE, Pictures
from fairsweep.cluster.masking import masked_command, masked_uri

DRAWN = 6  # networks
FAILURES, ERROR = 20, 4000  # kinds of failures that are listed, characters of a traceback
PAIRS = 3  # of objectives that are drawn


def answer(of: Pictures) -> tuple[str, str, list[tuple[str, str]]]:
    """What the sweep has found in a sentence, what follows it, and the facts to know first."""
    row, trials = of.row, of.trials
    states = Counter(trials["state"].to_pylist())
    cost = sum(c or 0.0 for c in trials["cost_s"].to_pylist())
    facts = [
        ("method", row["title"] or row["paper"]),
        ("data", row["data"] or "its own"),
        ("state", row["state"]),
        ("trials", ", ".join(f"{n:,} {s}" for s, n in states.most_common())),
        ("seeds", str(row["seeds"] or 1)),
        ("trained for", duration(cost)),
    ]
    if row["elapsed_s"]:
        facts.append(("took", duration(row["elapsed_s"])))
    return *_sentence(of), facts


def _sentence(of: Pictures) -> tuple[str, str]:
    if of.architectures:
        return _network(of), ""
    best = of.best
    total = len(set(of.trials["config_id"].to_pylist()))
    if best is None:
        told = f"{of.name} has no configuration with a value yet, of {count(total, 'configuration')} begun."
        return told, ""
    if "front" in best:
        return _front_sentence(of, best), ""
    how = _interval(best["ci95"], best["seeds"])
    tests = [f"{n} {number(s['mean'])}" for n, s in best["metrics"].items() if n.startswith("test")]
    tested = f"; on test data {', '.join(tests)}" if tests else ""
    whole = "" if best["complete"] else " It is not complete: no configuration is, under all its seeds."
    first = f"The best of {count(total, 'configuration')} has {of.objective} {number(best['value'])} ({how}){tested}."
    return first, f"It is number {best['config_id']}: {_configuration(of, best['config'])}.{whole}"


def _front_sentence(of: Pictures, best: dict[str, Any]) -> str:
    names, many = list(best["objectives"]), len(best["front"])
    if best["hypervolume"] is None:
        return (
            f"No configuration of {of.name} keeps {json.dumps(best['constraints'])}; {many} break it least."
        )
    first, last = (
        ", ".join(f"{n} {number(best['front'][k]['metrics'][n]['mean'])}" for n in names) for k in (0, -1)
    )
    across = f"from {first} to {last}" if many > 1 else f"with {first}"
    kept = count(many, "configuration is", "configurations are")
    return f"{kept} the best trade-off of {' and '.join(names)} among {best['configurations']:,}: {across}."


def _network(of: Pictures) -> str:
    best = of.architectures[0]
    many = count(len(of.architectures), "network")
    costs = ", ".join(f"{number(best[c])} {c}" for c in of.costs() if best[c] is not None)
    if best["alone"] is None:
        return (
            f"The best of {many} is {best['architecture']}, score {number(best['score'])}, {costs}; none "
            "was trained alone."
        )
    ends = None if best["alone_ci_low"] is None else (best["alone_ci_low"], best["alone_ci_high"])
    tested = "" if best["test"] is None else f"; on test data {number(best['test'])}"
    how = _interval(ends, best["alone_seeds"] or 1)
    return (
        f"The best of {many} is {best['architecture']}: trained alone it has {of.objective} "
        f"{number(best['alone'])} ({how})"
        f"{tested}, with {costs}."
    )


def _interval(ends: Any, seeds: int) -> str:
    if ends is None:
        return f"{count(seeds, 'seed')}: how sure that is cannot be said"
    return f"95 % interval {number(ends[0])} to {number(ends[1])}, {count(seeds, 'seed')}"


def _configuration(of: Pictures, config: dict[str, Any]) -> str:
    fixed = {n for n, p in of.space.parameters.items() if p.fixed} if of.space else set()
    said = [f"{k} {cell(v)}" for k, v in config.items() if k not in fixed]
    return ", ".join(said) or "the only one there is"


def cell(value: Any) -> str:
    """A setting in words."""
    return (
        number(value)
        if isinstance(value, float)
        else json.dumps(value)
        if isinstance(value, (bool, list, dict))
        else str(value)
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that fits."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"


def sections(of: Pictures, prefix: str = "", heading: str = "") -> list[Section]:
    """All there is to say of a sweep. prefix: of the anchors; heading: of the titles, where there are "
    "several sweeps."""
    parts: list[tuple[str, str, list[Block]]] = []
    if of.architectures:
        parts += [
            ("fronts", "Trade-offs", _fronts_of_networks(of)),
            ("networks", "The networks", _networks(of)),
        ]
    else:
        parts += [
            ("best", "The best", _best(of)),
            ("fronts", "Trade-offs", _fronts(of) if of.row.get("objectives") else []),
            ("search", "How the search went", _search(of)),
            ("parameters", "What mattered", _parameters(of)),
        ]
    parts += [
        ("failures", "Failures", _failures(of)),
        ("trials", "All trials", [_trials(of)]),
        ("again", "How to get this again", again(of)),
    ]
    return [Section(f"{prefix}{n}", f"{heading}{title}", blocks) for n, title, blocks in parts if blocks]


def _tried(*makes: Callable[[], Figure]) -> list[Block]:
    """The figures for which there is something to show."""
    found: list[Block] = []
    for make in makes:
        with contextlib.suppress(UserError):
            found.append(seen(make()))
    return found


def seen(figure: Figure) -> Block:
    """A figure, or what it has to say where there is nothing to draw."""
    return figure if figure.data.num_rows else Text(f"{figure.title}: {figure.alt}")


def _best(of: Pictures) -> list[Block]:
    best = of.best
    if best is None or "front" in best:
        return []
    rows = [(of.objective, best["value"], best["ci95"], best["seeds"], "chosen by")]
    rows += [(n, s["mean"], s["ci95"], s["n"], "") for n, s in best["metrics"].items() if n != of.objective]
    table = pa.table(
        {
            "metric": [r[0] for r in rows],
            "mean": pa.array([r[1] for r in rows], pa.float64()),
            "95 % from": pa.array([r[2] and r[2][0] for r in rows], pa.float64()),
            "to": pa.array([r[2] and r[2][1] for r in rows], pa.float64()),
            "seeds": pa.array([r[3] for r in rows], pa.int64()),
        }
    )
    config = pa.table(
        {"parameter": list(best["config"]), "value": [cell(v) for v in best["config"].values()]}
    )
    told = f"Over its seeds; the configuration was chosen by {of.objective} alone, test values were not looked at."
    chosen = Rows("best", f"Configuration {best['config_id']}", table, told)
    blocks: list[Block] = [Grid((chosen, Rows("configuration", "Its settings", config)))]
    if best.get("stopped"):
        s = best["stopped"]
        text = (
            f"Trial {s['trial']} had {number(s['value'])} when it was stopped at step {s['steps']}; only "
            "complete configurations are compared."
        )
        blocks.append(Text(text))
    top = [c for c in summarise(of.trials) if c.complete and c.value.mean is not None]
    top.sort(key=lambda c: (c.value.mean or 0.0) * (1 if of.mode == "min" else -1))
    if len(top) > 1:
        configs = dict(
            zip(of.trials["config_id"].to_pylist(), of.trials["config_json"].to_pylist(), strict=True)
        )
        listed = [
            {
                "configuration": c.config_id,
                of.objective: c.value.mean,
                "95 % from": c.value.ci95 and c.value.ci95[0],
                "to": c.value.ci95 and c.value.ci95[1],
                "seeds": c.value.n,
                "settings": _configuration(of, json.loads(configs[c.config_id])),
            }
            for c in top[:10]
        ]
        blocks.append(
            Rows(
                "top",
                "The ten best" if len(top) >= 10 else "Complete configurations",
                pa.Table.from_pylist(listed),
                "Those that are complete under all their seeds.",
            )
        )
    return blocks


def _search(of: Pictures) -> list[Block]:
    by_cost: Callable[[], Figure] = lambda: of.anytime("cost")  # noqa: E731
    makes: list[Callable[[], Figure]] = [of.anytime, by_cost, of.history, of.learning_curves]
    return _tried(*makes[2:] if of.row.get("objectives") else makes)


def _parameters(of: Pictures) -> list[Block]:
    aims = list(json.loads(of.row["objectives"] or "{}")) or [of.objective]
    each = [(lambda aim=aim: of.importance(aim)) for aim in aims]  # type: ignore[misc]
    blocks = _tried(*each, of.contour, of.parallel)
    with contextlib.suppress(UserError):
        each_one = tuple(f for f in of.slices() if f.data.num_rows)
        blocks += [Grid(each_one)] if each_one else []
    told = (
        f"But for importance all is by {of.objective}, the first objective."
        if of.row.get("objectives")
        else ""
    )
    return [Text(told), *blocks] if told and len(blocks) > len(aims) else blocks


def _fronts(of: Pictures) -> list[Block]:
    names = list(json.loads(of.row["objectives"]))
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]][:PAIRS]
    best = of.best
    if best is None:
        return []
    blocks = _tried(*((lambda a=a, b=b: of.front(a, b)) for a, b in pairs))  # type: ignore[misc]
    listed = []
    for p in best["front"]:
        row: dict[str, Any] = {"configuration": p["config_id"], "seeds": p["seeds"]}
        for n, s in p["metrics"].items():
            row |= {n: s["mean"]} | (
                {f"{n} from": s["ci95"][0], f"{n} to": s["ci95"][1]} if s["ci95"] else {}
            )
        listed.append({**row, "settings": _configuration(of, p["config"])})
    told = ""
    if best["hypervolume"] is not None:
        told = (
            f"Hypervolume {number(best['hypervolume'])} beyond "
            f"{', '.join(f'{k} {number(v)}' for k, v in best['reference'].items())}, the worst of all."
        )
    return [*blocks, Rows("front", "On the front", pa.Table.from_pylist(listed), told)]


def _fronts_of_networks(of: Pictures) -> list[Block]:
    makes: list[Callable[[], Figure]] = []
    for cost in of.costs():
        for score in (FROM_SCORE, ALONE):
            if sum(r[score] is not None and r[cost] is not None for r in of.architectures) > 1:
                makes.append(lambda cost=cost, score=score: of.front(cost, score))  # type: ignore[misc]
    return _tried(*makes)


def _networks(of: Pictures) -> list[Block]:
    worth = [k for k, r in enumerate(of.architectures) if r["alone"] is not None or r["on_front"]] or [0]
    blocks = _tried(*((lambda k=k: of.architecture(k)) for k in worth[:DRAWN]))  # type: ignore[misc]
    columns = [
        "number",
        "architecture",
        "phase",
        "score",
        "alone",
        "alone_ci_low",
        "alone_ci_high",
        "test",
        "params",
        "flops",
        "latency_ms",
        "on_front",
        "folder",
    ]
    rows = pa.Table.from_pylist(of.architectures).select(columns)
    kept = [c for c in columns if rows[c].null_count < rows.num_rows]
    said = "The best first: by what they reach trained alone, then by score."
    return [*blocks, Rows("architectures", "All networks", rows.select(kept), said, paged=True)]


def _failures(of: Pictures) -> list[Block]:
    table = of.trials.select(["trial", "state", "reason", "error"])
    rows = [r for r in table.to_pylist() if r["state"] in ("failed", "interrupted")]
    if not rows:
        return []
    kinds: dict[str, list[dict[str, Any]]] = {}
    for r in rows:
        kinds.setdefault(r["reason"] or r["state"], []).append(r)
    ranked = sorted(kinds.items(), key=lambda kv: -len(kv[1]))
    made = pa.table(
        {
            "reason": [bounded(k, 300) for k, _ in ranked],
            "trials": pa.array([len(v) for _, v in ranked], pa.int64()),
            "the first": [v[0]["trial"] for _, v in ranked],
        }
    )
    total = count(len(rows), "trial has", "trials have")
    blocks: list[Block] = [
        Rows("failures", f"{total} not ended as they should", made, paged=len(ranked) > 50)
    ]
    for reason, group in ranked[:FAILURES]:
        error = group[0]["error"]
        if error:
            blocks.append(
                Code(bounded(error, ERROR), f"{bounded(reason, 120)}: trial {group[0]['trial']}", True)
            )
    return blocks


def _trials(of: Pictures) -> Rows:
    """Every trial with what was asked of it and what came of it."""
    t = of.trials
    names = {"trial": "trial", "state": "state", "value": of.objective}
    metrics = [c for c in t.column_names if c.startswith("metric.") and c != f"metric.{of.objective}"]
    varied = [d.name for d in of.dimensions()] if not of.architectures else ["phase", "architecture"]
    config = [f"config.{n}" for n in varied if f"config.{n}" in t.column_names]
    columns = [*names, *metrics, "steps", "cost_s", "seed", "config_id", *config, "parent", "reason"]
    kept = [c for c in columns if c in t.column_names and t[c].null_count < t.num_rows]
    made = t.select(kept)
    titles, seen = [], set()
    for c in kept:
        title = names.get(c) or c.removeprefix("metric.").removeprefix("config.")
        title = c if title in seen else title
        seen.add(title)
        titles.append(title)
    said = "Values of trials that were stopped early are the best until then. The file has every row."
    return Rows("trials", f"{count(t.num_rows, 'trial')}", made.rename_columns(titles), said, paged=True)


def again(of: Pictures) -> list[Block]:
    """Commands, versions and settings."""
    row = of.row
    versions = json.loads(row["versions"] or "{}")
    commit = row["git_commit"]
    facts = {
        "sweep": of.name,
        "store": masked_uri(of.store.uri),
        "begun": row["created"] and f"{row['created']:%Y-%m-%d %H:%M:%S} UTC",
        "ended": row["ended"] and f"{row['ended']:%Y-%m-%d %H:%M:%S} UTC",
        "code": commit and f"{commit[:12]}{' with changes' if row['git_dirty'] else ''}",
        "source": row.get("source_digest"),
        "data folder": row["data_dir"],
        "tags": row.get("tags") or None,
        **{k: v for k, v in versions.items() if v},
    }
    known = {k: str(v) for k, v in facts.items() if v}
    notes = of.store.notes(of.name)
    blocks: list[Block] = [Code(masked_command(row["command"]), "The command")] if row["command"] else []
    blocks.append(
        Rows(
            "provenance",
            "Where and with what",
            pa.table({"what": list(known), "value": list(known.values())}),
        )
    )
    if notes:
        blocks.append(Rows("notes", "Notes", pa.table({"note": [bounded(n, 1000) for n in notes]})))
    for name, title in (("config", "All settings"), ("space", "The search space")):
        if row[name]:
            blocks.append(Code(row[name], title, True))
    return blocks
