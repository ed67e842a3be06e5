"""What a sweep tells the tracker that `tracking=` names: what made its trials, and, once it has ended, how it ended."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairsweep.analysis.store import Store
from fairsweep.cluster import tracking
from fairsweep.cluster.config import Settings
from fairsweep.cluster.engine.worker import Post
from fairsweep.cluster.storage import open_store
from fairsweep.cluster.tracking.apart import apart

PREPARE_S = 30.0  # that a tracker's server may take before the trials
SUMMARY_S = 60.0  # that the run of a sweep which has ended may take
MOST_ROWS = 10_000  # trials in its table, the best of them


def options_of(settings: Settings, store: Store, name: str) -> dict[str, Any]:
    """The group `tracking` of the sweep `name`, with what its workers tell of every trial."""
    options = dict(settings.tracking)
    if not tracking.named(options):
        return options
    row = store.table("sweeps", name).to_pylist()[0]
    options["token"] = _token(row)
    base = Path.cwd() if "://" in store.uri else Path(store.uri)
    if not options.get("dir"):
        options["dir"] = str(base / options["name"] / name)
    elif options["name"] != "wandb":  # whose runs have names of their own
        options["dir"] = str(Path(options["dir"]) / f"{name}-{options['token']}")
    if options["name"] == "mlflow":
        options["uri"] = (
            options.get("uri") or os.environ.get("MLFLOW_TRACKING_URI") or f"file:{base / 'mlruns'}"
        )
    options["aim"] = [row["objective"], row["mode"]]
    options["hidden"] = [n for n, p in settings.space.parameters.items() if p.fixed and secret(n)]
    options["about"] = {
        "sweep": name,
        **{key: row[key] for key in ("paper", "data", "git_commit", "git_dirty")},
        "versions": json.loads(row["versions"] or "{}"),
    }
    if options["name"] == "wandb":
        options |= _of_agent(settings)
    return options


def _token(row: Mapping[str, Any]) -> str:
    """What tells a sweep from all others, in any store, and stays when it is renamed."""
    made = f"{row['created']} {row['paper']} {row['data']} {row['space']}"
    return hashlib.sha256(made.encode()).hexdigest()[:8]


def _of_agent(settings: Settings) -> dict[str, Any]:
    """An agent of a W&B sweep wants one run of a command: that of its only trial, else that of the sweep."""
    from fairsweep.cluster.tracking.wandb_runs import agent_of

    agent = agent_of(os.environ)
    if agent is None:
        return {}
    alone = settings.budget.get("trials") == 1 and settings.seeds == 1
    return {"agent": agent} if alone else {"agent_of_sweep": {**agent, "names": []}}


def secret(name: str) -> bool:
    """Whether what is called so is nobody else's business."""
    return any(word in name.lower() for word in ("key", "token", "secret", "password"))


def tracked(post: Post) -> tuple[Post, tuple[str, ...]]:
    """`post`, without a tracker that cannot start, and what is to be said of that."""
    options, problem = post.tracking, tracking.why_not(post.tracking)
    if problem is None and options.get("name") == "mlflow":
        try:
            arguments = {"options": options, "sweep": post.sweep}
            found = apart("fairsweep.cluster.tracking.mlflow_runs:prepare", arguments, PREPARE_S)
            return replace(post, tracking={**options, **found}), ()
        except (RuntimeError, TimeoutError) as error:
            problem = f"tracking=mlflow: {options['uri']} cannot be used: {error}"
    if problem is None:
        return post, ()
    untracked = f"{problem}; the trials are not tracked"
    return replace(post, tracking={**options, "name": "none"}), (untracked,)


def tell_end(store: Store, posts: Sequence[Mapping[str, Any]], note: Callable[[str], None]) -> None:
    """Has the runs of sweeps that have ended made. Never fails, and takes no longer than `SUMMARY_S` each.

    posts: the group `tracking` of each, as its workers were told.
    """
    asked = [options for options in posts if tracking.named(options) and not options.get("agent")]
    if not asked:
        return
    try:
        arguments = {"storage": store.uri, "asked": asked}
        problems = apart(f"{__name__}:summaries", arguments, SUMMARY_S * len(asked))
    except Exception as error:
        problems = [str(error)]
    for problem in problems:
        note(f"tracking={asked[0]['name']}: the run of the sweep is not complete: {problem}")


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
    from fairsweep.cluster.errors import UserError
    from fairsweep.cluster.jobs.best import best_of
    from fairsweep.cluster.jobs.importance import of_sweep
    from fairsweep.cluster.jobs.reporting import write

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
