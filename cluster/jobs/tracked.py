"""What a sweep tells the tracker that `tracking=` names: what made its trials, and, once it has ended, how it ended."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairsweep.analysis.store import Store
from fairsweep.cluster import tracking
from fairsweep.cluster.config import Settings
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.masking import is_secret, masked_uri
from fairsweep.cluster.tracking.apart import apart

PREPARE_S = 30.0  # that a tracker's server may take before the trials
SUMMARY_S = 60.0  # that the run of a sweep which has ended may take


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
    options["hidden"] = [n for n, p in settings.space.parameters.items() if p.fixed and is_secret(n)]
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


def check(settings: Any) -> None:
    """UserError where the tracker that is asked for cannot start here: no library, no key. Before anything is begun."""
    problem = tracking.why_not(getattr(settings, "tracking", {}))
    if problem is not None:
        raise UserError(problem)


def tracked(post: Post) -> tuple[Post, tuple[str, ...]]:
    """`post` with what its tracker is to know before the trials; without one whose server does not do its part.

    What is to be said of that, too.
    """
    options = post.tracking
    if options.get("name") != "mlflow":
        return post, ()
    try:
        arguments = {"options": options, "sweep": post.sweep}
        found = apart("fairsweep.cluster.tracking.mlflow_runs:prepare", arguments, PREPARE_S)
        return replace(post, tracking={**options, **found}), ()
    except (RuntimeError, TimeoutError) as error:
        untracked = f"tracking=mlflow: {masked_uri(options['uri'])} cannot be used: {error}; the trials are not tracked"
        return replace(post, tracking={**options, "name": "none"}), (untracked,)


def tell_end(store: Store, posts: Sequence[Mapping[str, Any]], note: Callable[[str], None]) -> None:
    """Has the runs of sweeps that have ended made. Never fails, and takes no longer than `SUMMARY_S` each.

    posts: the group `tracking` of each, as its workers were told.
    """
    asked = [
        options
        for options in posts
        if tracking.named(options) and not (options.get("agent") or {}).get("run")
    ]
    if not asked:
        return
    try:
        arguments = {"storage": store.uri, "asked": asked}
        problems = apart("fairsweep.cluster.jobs.telling:summaries", arguments, SUMMARY_S * len(asked))
    except Exception as error:
        problems = [str(error)]
    for problem in problems:
        note(f"tracking={asked[0]['name']}: the run of the sweep is not complete: {problem}")
