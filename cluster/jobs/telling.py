"""What a tracker is told of a sweep that has ended. Done in a process of its own, see `tracked.tell_end`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairsweep.analysis.store import Store
from fairsweep.cluster import tracking
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.best import best_of
from fairsweep.cluster.jobs.importance import of_sweep
from fairsweep.cluster.jobs.reporting import write
from fairsweep.cluster.storage import open_store

MOST_ROWS = 10_000  # trials in the table of a sweep, the best of them


def summaries(storage: str, asked: Sequence[Mapping[str, Any]]) -> list[str]:
    """Makes the runs of sweeps, and says what went wrong."""
    problems: list[str] = []
    for options in asked:
        with tempfile.TemporaryDirectory(prefix="fairsweep-", ignore_cleanup_errors=True) as folder:
            try:
                told, problem = _told(open_store(storage), options, Path(folder))
                problems += problem
                tracking.summarise(options, told)
            except Exception as error:
                problems.append(tracking.first_line(error))
    return problems


def _told(store: Store, options: Mapping[str, Any], folder: Path) -> tuple[tracking.Sweep, list[str]]:
    """What a store knows of a sweep that has ended; what cannot be told is left out, and said."""
    name, problems = options["about"]["sweep"], []

    def tried(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except UserError:  # too little is known for it
            return None
        except Exception as error:
            problems.append(tracking.first_line(error))
            return None

    row = store.table("sweeps", name).to_pylist()[0]
    trials = store.table("trials", name).to_pylist()
    counts = {state: sum(t["state"] == state for t in trials) for state in ("complete", "pruned", "failed")}
    best = tried(lambda: best_of(store, name)) or {}
    said = tried(lambda: of_sweep(store, name)) or []
    report = tried(lambda: write(store, [name], folder / f"{name}-report.html"))
    hidden = set(options.get("hidden", ()))
    if report and hidden:
        secrets = {str(json.loads(t["config_json"]).get(key, "")) for t in trials for key in hidden}
        report.write_text(tracking.without(report.read_text(), secrets))
    values: dict[str, Any] = {**counts, "trials_run": len(trials), "seconds": row.get("elapsed_s")}
    if "value" in best:
        values |= {best["objective"]: best["value"], "best_trial": ", ".join(best["trials"])}
        values |= {f"best.{key}": value for key, value in best["config"].items() if key not in hidden}
    importance = {
        r["parameter"]: r["importance"] for s in said[:1] for r in s.rows if r["importance"] is not None
    }
    told = tracking.Sweep(
        name,
        row["state"],
        {**options["about"], "objective": row["objective"], "mode": row["mode"], "seeds": row.get("seeds")},
        _rows(trials, row["mode"], hidden),
        values,
        importance,
        str(report) if report else "",
    )
    return told, problems


SHOWN = ("trial", "state", "value", "best_step", "steps", "seed", "cost_s", "reason")


def _rows(trials: Sequence[Mapping[str, Any]], mode: str, hidden: set[str]) -> list[dict[str, Any]]:
    """The table of trials, the best first, with a column for each parameter that any of them has."""
    sign = 1 if mode == "min" else -1
    ranked = sorted(trials, key=lambda t: (t["value"] is None, sign * (t["value"] or 0.0), t["trial"]))[
        :MOST_ROWS
    ]
    configs = [json.loads(t["config_json"]) for t in ranked]
    names = list(dict.fromkeys(name for config in configs for name in config))
    return [
        {
            **{name: t.get(name) for name in SHOWN},
            **{
                n if n not in SHOWN else f"space.{n}": tracking.HIDDEN if n in hidden else config.get(n)
                for n in names
            },
        }
        for t, config in zip(ranked, configs, strict=True)
    ]
