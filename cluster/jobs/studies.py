"""A sweep as an Optuna study, for Optuna's own plots, its importance and optuna-dashboard.

One Optuna trial is one trial of the sweep: a configuration under one seed. Optuna knows no seeds, so its best trial is
that of the best seed; `fairsweep best` compares means over seeds. What Optuna has no place for is a user attribute.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from fairsweep.analysis import schema
from fairsweep.analysis.store import Store
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.study_files import add_trials, opened
from fairsweep.cluster.masking import masked_command
from fairsweep.search_spaces.space import Space
from fairsweep.trainables.nas._job import SearchJob

optuna.logging.set_verbosity(optuna.logging.WARNING)

# A trial that is paused may be promoted yet; samplers are told of it as pruned too (`algorithms.optuna_bridge`). One
# that was interrupted is what `fairsweep resume` goes on with.
STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "paused": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "pending": TrialState.WAITING,
    "interrupted": TrialState.WAITING,
}
STUDY_STATES = ("complete", "pruned", "fail", "running", "waiting")
ABOUT_TRIAL = (
    "trial", "config_id", "seed", "state", "reason", "error", "best_step", "steps", "cost_s", "startup_s",
    "peak_memory_mb", "device", "hostname", "retries", "parent", "parent_step",
)  # fmt: skip
ABOUT_SWEEP = (
    "sweep", "paper", "title", "task", "data", "objective", "mode", "state", "seeds", "trials_budget", "elapsed_s",
    "fairsweep_version", "git_commit", "versions", "command", "config", "space",
)  # fmt: skip


def study_of(store: Store, name: str, storage: str | BaseStorage | None = None) -> optuna.Study:
    """The sweep `name` as a study of that name in `storage`, as it stands now.

    storage: a URL or an object as Optuna takes it, or a file (SQLite; a journal if it ends in .log, .jsonl or
    .journal). None: in memory. UserError if it has such a study or cannot be opened, and for a search for networks.
    """
    return _written(store, name, storage)[0]


def export(store: Store, name: str, storage: str) -> dict[str, int]:
    """Writes the study there, see `study_of`; how many of its trials are in which state of Optuna."""
    states = [trial.state.name.lower() for trial in _written(store, name, storage)[1]]
    return {state: states.count(state) for state in STUDY_STATES}


def _written(
    store: Store, name: str, storage: str | BaseStorage | None
) -> tuple[optuna.Study, list[FrozenTrial]]:
    sweep = store.table("sweeps", name).to_pylist()[0]
    trials = frozen_trials(store, sweep)
    modes = json.loads(sweep["objectives"] or "null") or {sweep["objective"]: sweep["mode"]}
    with opened(storage, name) as place:
        study = optuna.create_study(
            storage=place.storage,
            study_name=name,
            directions=["minimize" if mode == "min" else "maximize" for mode in modes.values()],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names of metrics are marked as experimental
            study.set_metric_names(list(modes))
        about = {key: sweep[key] for key in ABOUT_SWEEP if sweep.get(key) is not None}
        about |= {"command": masked_command(sweep["command"])} if sweep.get("command") else {}
        for key, value in {**about, "constraints": json.loads(sweep["constraints"] or "{}")}.items():
            study.set_user_attr(key, value)
        add_trials(study, place, trials)
    return study, trials


def frozen_trials(store: Store, sweep: Mapping[str, Any]) -> list[FrozenTrial]:
    """The trials of a sweep (its row in `sweeps`) as Optuna keeps them, in the order of their numbers."""
    name = sweep["sweep"]
    if sweep["paper"] == SearchJob.slug:
        raise UserError(
            f"{name}: is a search for networks, and a study of Optuna is one over hyperparameters; `fairsweep export "
            f"{name} --table architectures` has its networks"
        )
    space = Space.from_yaml(sweep["space"], source=name, papers=False)
    rows = schema.to_rows(store.table("trials", name).sort_by("number"))
    metric = schema.METRIC + sweep["objective"]
    reports = store.table("results", name, columns=["trial", "step", metric])
    told: dict[str, dict[int, float]] = {}
    for trial, step, value in zip(*(reports[c].to_pylist() for c in ("trial", "step", metric)), strict=True):
        if value is not None:  # a step that was run again after a crash has the values of the second time
            told.setdefault(trial, {})[step] = value
    modes = json.loads(sweep["objectives"] or "{}")
    limits = json.loads(sweep["constraints"] or "{}")
    made = _Trials(space, tuple(modes) or None, limits, sweep["created"])
    return [made.frozen(row, told.get(row["trial"], {})) for row in rows]


class _Trials:
    """objectives: of a sweep with several, None of one. limits: metric -> "min" and "max"."""

    def __init__(
        self,
        space: Space,
        objectives: tuple[str, ...] | None,
        limits: Mapping[str, Mapping[str, float]],
        created: datetime,
    ) -> None:
        self.objectives, self.limits, self.created = objectives, limits, created
        self.distributions = space.distributions()

    def frozen(self, row: Mapping[str, Any], reports: Mapping[int, float]) -> FrozenTrial:
        """row: of the table `trials`. reports: step -> the objective, NaN and infinite ones too."""
        state, values = STATES[row["state"]], self._values(row)
        if state == TrialState.COMPLETE and values is None:
            state = TrialState.FAIL  # as Optuna records what ended without a value
        params, attrs = self._params(json.loads(row["config_json"]))
        if not (state.is_finished() and values):
            attrs |= {"value": row["value"]} if row["value"] is not None else {}
        began = row["started"] or row["ended"] or self.created
        trial = FrozenTrial(
            number=row["number"],
            trial_id=row["number"],
            state=state,
            value=None,
            values=values if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
            datetime_start=None if row["state"] == "pending" and not row["started"] else _local(began),
            datetime_complete=_local(row["ended"] or began) if state.is_finished() else None,
            params=params,
            distributions={name: self.distributions[name] for name in params},
            user_attrs=self._attrs(row) | attrs,
            system_attrs={},
            intermediate_values=dict(reports),
        )
        if state == TrialState.COMPLETE:
            for name, excess in self._excesses(row).items():
                trial.set_constraint(name, excess)
        return trial

    def _values(self, row: Mapping[str, Any]) -> list[float] | None:
        """One number an objective; None unless all are there."""
        if self.objectives is None:
            found = [row["value"]]
        else:
            found = [row.get(schema.METRIC + name) for name in self.objectives]
        return None if any(v is None or math.isnan(v) for v in found) else found

    def _excesses(self, row: Mapping[str, Any]) -> dict[str, float]:
        """By how much each limit is broken, named as searches are told; below 0 where it is kept."""
        found = {}
        for name, limits in self.limits.items():
            value = row.get(schema.METRIC + name)
            if value is not None and not math.isnan(value):
                for side, limit in limits.items():
                    found[f"{name}.{side}"] = value - limit if side == "max" else limit - value
        return found

    def _params(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What was searched; and what is fixed, or lies outside of the space, as attributes `config.NAME`."""
        params, attrs = {}, {}
        for name, value in config.items():
            known = self.distributions.get(name)
            if known is not None and _holds(known, value):
                params[name] = value
            else:
                attrs[schema.CONFIG + name] = value
        return params, attrs

    def _attrs(self, row: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: row[name] for name in ABOUT_TRIAL if row.get(name) is not None}
        for column, value in row.items():
            name = column.removeprefix(schema.METRIC)
            if column.startswith(schema.METRIC) and value is not None and name not in (self.objectives or ()):
                found[column] = value
        own = json.loads(row.get("attrs") or "{}")
        for key, value in {**own, **(own.get("user_attrs") or {})}.items():
            if key != "user_attrs":  # those of an Optuna objective, by their own names
                found[f"attrs.{key}" if key in found else key] = value
        return found


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


def _local(time: datetime) -> datetime:
    """As Optuna has times: in the machine's own time zone, which it does not say."""
    return time.astimezone().replace(tzinfo=None)
