"""What a sweep that is taken up again may have otherwise: more trials, more time, failed trials once more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow.compute as pc
from omegaconf import OmegaConf

from fairsweep.analysis.store import SweepRecord, SweepWriter
from fairsweep.cluster.display import clock
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sources
from fairsweep.trainables.catalog import UnknownPaper

GROWABLE = {
    "budget.trials": int,
    "budget.minutes": float,
    "budget.total_steps": int,
    "budget.total_minutes": float,
    "budget.concurrent": int,
    "budget.retries": int,
    "budget.trial_timeout": float,
    "cluster.address": str,
    "cluster.cpus": int,
    "cluster.weight": float,
    "cluster.priority": int,
    "metrics.port": int,
    "data_dir": str,
}
ONLY_MORE = ("budget.trials", "budget.total_steps", "budget.total_minutes", "search.evaluations")
OF_SWEEPS = ("budget.trials", "budget.total_steps", "budget.total_minutes")  # and of no search for networks
RETRY = "retry=failed"
S = TypeVar("S", bound=Any)


def regrown(
    record: SweepRecord,
    changes: Sequence[str],
    check: Callable[[Any], S],
    growable: Mapping[str, type] = GROWABLE,
) -> tuple[S, bool]:
    """The settings of a stored sweep with `changes`, by its `check`, and whether its failed trials are to run again."""
    words, again = split(changes)
    with plugin_named(record):
        tree = OmegaConf.create(record.sweep["config"])
        words = sources.take_up(record, words, tree)
    with plugin_named(record), sources.told(record, changes):
        settings = check(changed(tree, words, growable, used_s(record)))
    early = OmegaConf.select(tree, "scheduler.name")
    members = record.sweep["trials_budget"]
    if early == "pbt" and settings.budget["trials"] != members:
        raise UserError(
            f"budget.trials={settings.budget['trials']}: a population of {members} members (scheduler=pbt) "
            "cannot grow; run another sweep"
        )
    check_time(record.sweep["sweep"], settings.budget["minutes"], record, changes)
    check_totals(settings, record, changes, again)
    return settings, again


def changed(
    tree: Any, changes: Sequence[str], growable: Mapping[str, type] = GROWABLE, used_s: float = 0.0
) -> Any:
    """A stored configuration with the settings changed that a resumed run may have otherwise.

    used_s: wall seconds that the sweep has used. `budget.minutes=+N` adds to the limit, or to what was used where
    that is more or there was no limit. UserError for what cannot be changed, or cannot be added to.
    """
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in growable:
            raise UserError(
                f"{change}: it can be resumed with other values of {', '.join(growable)} only, or with {RETRY}"
            )
        kind = growable[key]
        if text in ("null", "none"):
            OmegaConf.update(tree, key, None)
            continue
        try:
            value = kind(text.removeprefix("+"))
        except ValueError:
            raise UserError(f"{change}: must be {'a whole number' if kind is int else 'a number'}") from None
        before = OmegaConf.select(tree, key)
        if text.startswith("+"):
            if kind is str:
                raise UserError(f"{change}: only a number can be added to")
            if key == "budget.minutes":
                before = max(before or 0.0, used_s / 60)
            elif before is None:
                raise UserError(f"{change}: there is no limit to add to; {key}={text[1:]} sets one")
            value += before
        elif key in ONLY_MORE and before is not None and value < before:
            raise UserError(f"{change}: it is {before} already, and can only grow")
        OmegaConf.update(tree, key, value)
    return tree


@contextmanager
def plugin_named(record: SweepRecord) -> Iterator[None]:
    """UserError that says where the trainable of a stored sweep came from, if it is not found in the block."""
    try:
        yield
    except UnknownPaper as error:
        source = record.sweep.get("plugin")
        if not source:
            raise
        raise UserError(
            f"{error.args[0].partition(';')[0]}; that of this sweep came from {source}: set "
            f"FAIRSWEEP_PLUGINS={source.partition(' ')[0]} where Python finds it (PYTHONPATH, or the folder it was "
            "run in), and resume again"
        ) from None


def used_s(record: SweepRecord) -> float:
    """Wall seconds that the earlier runs of a sweep have used, whatever ended them."""
    known = record.sweep.get("elapsed_s")
    if known is not None:
        return float(known)
    last = pc.max(record.reports.column("time")).as_py()
    began = record.sweep.get("created")
    return max(0.0, (last - began).total_seconds()) if last and began else 0.0


def check_time(name: str, minutes: float | None, record: SweepRecord, changes: Sequence[str]) -> None:
    """UserError if nothing could run for want of time, though something is asked for."""
    used = used_s(record)
    if minutes is None or used < 60 * minutes or (record.sweep["state"] != "finished" and not changes):
        return
    raise UserError(
        f"budget.minutes={minutes:g}: {name} has used {clock(used)} of it; budget.minutes=+N adds N minutes"
    )


def check_totals(settings: Any, record: SweepRecord, changes: Sequence[str], again: bool) -> None:
    """UserError if trials that are to go on do not fit into the budgets of all trials together.

    again: failed ones are among them.
    """
    minutes, limit = settings.budget.get("total_minutes"), settings.budget.get("total_steps")
    if minutes is None and limit is None:
        return
    name, rows = record.sweep["sweep"], record.trials.values()
    most = record.reports.group_by("trial").aggregate([("step", "max"), ("wall_s", "max")]).to_pydict()
    steps = dict(zip(most["trial"], most["step_max"], strict=True))
    seconds = {t: s or 0.0 for t, s in zip(most["trial"], most["wall_s_max"], strict=True)}
    spent = sum(max(row.get("cost_s") or 0.0, seconds.get(row["trial"], 0.0)) for row in rows)
    if minutes is not None and spent >= 60 * minutes and (record.sweep["state"] != "finished" or changes):
        raise UserError(
            f"budget.total_minutes={minutes:g}: the trials of {name} have taken {clock(spent)} of it;"
            " budget.total_minutes=+N adds N minutes"
        )
    if limit is None:
        return
    going_on = ("pending", "running", "interrupted", *(("failed",) if again else ()))
    open_ = {row["config_id"] for row in rows if row["state"] in going_on}
    used = needed = 0
    for row in rows:
        maximum = _maximum(settings, row)
        done = min(steps.get(row["trial"], 0), maximum)
        used += done
        over = row["state"] == "complete" or (row["state"] == "failed" and not again)
        needed += maximum - done if row["config_id"] in open_ and not over else 0
    if used + needed > limit:
        raise UserError(
            f"budget.total_steps={limit}: the trials of {name} have used {used}, and those that are to go on may need"
            f" {needed}; must be at least {used + needed}"
        )


def _maximum(settings: Any, row: Mapping[str, Any]) -> int:
    try:
        found = settings.paper.fidelity(json.loads(row["config_json"]), settings.budget["steps"])
    except Exception:  # the paper's code; such a trial fails before its first step
        return 0
    return int(found.maximum)


def split(changes: Sequence[str]) -> tuple[list[str], bool]:
    """The settings among `changes`, and whether failed trials are to run again."""
    wrong = next((c for c in changes if c.startswith("retry=") and c != RETRY), None)
    if wrong is not None:
        raise UserError(f"{wrong}: must be {RETRY}")
    return [c for c in changes if c != RETRY], RETRY in changes


def retry_failed(writer: SweepWriter) -> int:
    """Makes the failed trials of a sweep ones that have not ended, in the store and in the writer's record."""
    failed = [row for row in writer.record.trials.values() if row["state"] == "failed"]
    with writer.batch():
        for row in failed:
            again = {"state": "pending", "reason": f"run again after: {row['reason']}", "retries": 0}
            row.update(again)
            writer.trial(row["trial"], **again, error=None)
            writer.event("rerun", trial=row["trial"])
    last = writer.record.last
    for offset, row in enumerate(failed, start=1):
        writer.record.events.append({"seq": last + offset, "kind": "rerun", "trial": row["trial"]})
    return len(failed)
