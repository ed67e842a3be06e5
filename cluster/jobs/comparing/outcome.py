"""What became of a repeat: the choice of its search, the scores of what was chosen, its row in `comparisons`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from fairsweep.analysis import statistics
from fairsweep.analysis.store import Store
from fairsweep.cluster.engine.conductor import now
from fairsweep.cluster.jobs.comparing.entrants import Entrant
from fairsweep.cluster.jobs.comparing.plan import Plan

# All that a choice may depend on: no test metric.
SEEN = ("config_id", "seed", "state", "value", "config_json")
Scores = list[float | None]


def choose(store: Store, search: str, entrant: Entrant) -> dict[str, Any] | None:
    """The complete configuration with the best mean of the validation objective; None without one.

    It is handed `SEEN` alone, so that nothing measured on test data can have a say.
    """
    trials = store.table("trials", search, columns=list(SEEN))
    trials = trials.filter(pc.equal(trials["state"], "complete"))
    if not trials.num_rows:
        return None
    paper = entrant.paper
    found = statistics.best(trials, paper.metric(paper.objective).mode)
    if found is None:
        return None
    at = trials["config_id"].to_pylist().index(found.config_id)
    return dict(json.loads(trials["config_json"][at].as_py()))


def scores_of(store: Store, final: str, on: str) -> Scores:
    """The test metric of each training, in the order of their seeds; None where one failed."""
    rows = store.table("trials", final).sort_by("seed").to_pylist()
    values = [row.get(f"metric.{on}") if row["state"] == "complete" else None for row in rows]
    return [v if v is not None and math.isfinite(v) else None for v in values]


def why_none(store: Store, search: str) -> str:
    """Why a search has nothing to choose from: what most of its trials ended with."""
    trials = store.table("trials", search, columns=["state", "reason"]).to_pylist()
    ends = Counter(t["reason"] for t in trials if t["state"] != "complete" and t["reason"])
    told = f" ({ends.most_common(1)[0][0]})" if ends else ""
    return f"no configuration of its search is complete{told}"


def row_of(
    plan: Plan,
    store: Store,
    e: Entrant,
    repeat: int,
    chosen: Mapping[str, Any] | None,
    scores: Scores,
    why: str,
) -> dict[str, Any]:
    """The row of a repeat that is over. chosen: by its search; scores: of its trainings; why: there are none.

    Its parts are checked: a test example that its search may have seen is a leak, and the row has no score.
    """
    spec, search = plan.spec, plan.name(e, repeat)
    final = plan.name(e, repeat, "final") if chosen is not None else None
    trials = store.table("trials", search).to_pylist()
    again = store.table("trials", final).to_pylist() if final is not None else []
    parts, leak = checked_parts(trials, again)
    good = [s for s in scores if s is not None]
    why = leak or why or ("; ".join(sorted({r["reason"] for r in again if r["state"] != "complete"})))
    failed = bool(leak) or not good
    kind, amount = e.budget
    config = json.dumps(dict(chosen)) if chosen is not None else None
    values = [t["value"] for t in trials if t["state"] == "complete" and t["config_json"] == config]
    begun = [t["started"] for t in trials if t["started"]]
    ended = [t["ended"] for t in trials if t["ended"]]
    return {
        "run": spec.run,
        "method": e.method.label,
        "trainable": e.settings.trainable,
        "fixed": json.dumps(dict(e.method.fixed)),
        "data": e.data.label,
        "repeat": repeat,
        "state": "failed" if failed else "complete",
        "metric": spec.on,
        "mode": spec.mode,
        "score": None if failed else sum(good) / len(good),
        "scores": json.dumps(scores),
        "objective": e.paper.objective,
        "validation": sum(values) / len(values) if values else None,
        "config": config,
        "budget_kind": kind,
        "budget": amount,
        "trials": len({t["config_id"] for t in trials}),
        "steps": sum(t["steps"] or 0 for t in trials),
        "cost_s": sum(t["cost_s"] or 0.0 for t in trials),
        "wall_s": (max(ended) - min(begun)).total_seconds() if begun and ended else 0.0,
        "failures": sum(t["state"] == "failed" for t in trials),
        "final_cost_s": sum(t["cost_s"] or 0.0 for t in again),
        "search": search,
        "final": final,
        "split_seed": spec.seed + repeat,
        "seeds": json.dumps(sorted(t["seed"] for t in again)),
        "parts": json.dumps(parts) if parts else None,
        "reason": why,
        "left_out": json.dumps([asdict(each) for each in spec.left_out]) if spec.left_out else None,
        "judged": now(),
    }


def checked_parts(search: list[dict[str, Any]], final: list[dict[str, Any]]) -> tuple[dict[str, str], str]:
    """The digests of the parts of the data that a repeat used, and what is wrong with them.

    All its trials must have had the same test part: a search that had another may have trained on, or chosen by, what
    its choice is tested on.
    """
    told = [json.loads(t["attrs"] or "{}").get("parts") for t in [*final, *search]]
    known = [parts for parts in told if parts]
    if not known:
        return {}, ""
    tests = {parts.get("test") for parts in known if parts.get("test") is not None}
    if len(tests) > 1:
        return known[0], (
            "leak: the search had another test part than the training of its choice, so test examples may have been"
            " searched on; the trainable must draw its parts by split_seed"
        )
    return known[0], ""
