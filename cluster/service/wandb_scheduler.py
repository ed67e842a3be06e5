"""Our search as the optimizer of W&B's own local sweep scheduler (wandb 0.31, experimental there).

wandb-core keeps so many runs in flight, polls them, and has an `Optimizer` asked and told. Ours is a conductor, the
same that drives a sweep on Ray: it asks the search, writes every report into the store before it acts on it, and is
taken up again from there. Runs are trained by whoever takes them: `fairsweep agent`, or W&B's own, on any machine.

What cannot be said to W&B's scheduler is refused (`searching.check`): pauses, promotions, several seeds or objectives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from wandb.sdk.sweeps.run_state import RunState
from wandb.sdk.sweeps.scheduler.optimizer import (
    Optimizer,
    Run,
    RunSuggestion,
    RunWithMetrics,
    is_terminal_state,
)
from wandb.sdk.sweeps.sweep_info import SweepInfo

from fairsweep.cluster.engine.conductor import Conductor, Trial
from fairsweep.cluster.service.sweep_words import TRIAL, read
from fairsweep.search_spaces.algorithms import Job
from fairsweep.search_spaces.space import SpaceError

RUN = "wandb_run"  # in the attributes of a trial
SOURCE = (
    "fairsweep"  # `scheduler.source` of a sweep that is searched here; W&B's own engines find no such file
)
DEAD = {
    RunState.FAILED: "its run has failed",
    RunState.CRASHED: "its run crashed",
    RunState.KILLED: "its run was killed",
}


class ConductorOptimizer(Optimizer):
    """Asks and tells a conductor. One call at a time, from any thread, as wandb's exchange does."""

    def __init__(
        self, sweep: SweepInfo, conductor: Conductor, name: str, data: str, runs: Mapping[str, str]
    ) -> None:
        """name: of the sweep in our store, before its trials in the runs' configurations. runs: W&B's of an earlier
        scheduler -> trial; whoever trains a run may write another configuration over ours."""
        self.conductor, self.name, self.data = conductor, name, data
        self.runs = dict(runs)
        self._adopted = {job.attrs["run"] for job in conductor.jobs.values() if "run" in job.attrs}
        super().__init__(sweep)

    def validate_sweep_objective(self) -> None:
        rules = self.conductor.rules
        if self.metric_names() != [rules.objective] or self.metric_goals() != [f"{rules.mode}imize"]:
            raise ValueError(
                f"metric: is {self.metric_names()}, {self.metric_goals()}; {self.name} is searched for "
                f"{rules.objective}, to be {rules.mode}imized"
            )

    def has_terminator(self) -> bool:
        return False

    # -- asked ----------------------------------------------------------------------------------------

    def ask_n_runs(self, n: int) -> Sequence[RunSuggestion] | None:
        """Up to `n` runs. None: not before others have ended; none at all: the sweep's budget is used up."""
        asked: list[RunSuggestion] = []
        with self.conductor.writer.batch():
            while len(asked) < n and (leg := self.conductor.next_leg()) is not None:
                words = {TRIAL: f"{self.name}.{leg.trial}", **leg.config}
                asked.append(RunSuggestion(config=words, run_id=leg.trial))  # type: ignore[arg-type]
        return asked if asked or self.conductor.finished else None

    def forget_run(self, run_id: Any) -> None:
        """W&B could not take it: it is the first to be asked again."""
        self.conductor.hand_back([str(run_id)])

    # -- told -----------------------------------------------------------------------------------------

    def tell_run(self, run_id: Any, data: RunWithMetrics) -> None:
        trial = self.conductor.trials[str(run_id)]
        if data.wandb_run_id and data.wandb_run_id not in self.runs:
            self.runs[data.wandb_run_id] = trial.id
            self.conductor.writer.trial(trial.id, attrs=json.dumps({RUN: data.wandb_run_id}))
        if trial.id not in self.conductor.active:
            return  # stopped here; W&B has yet to see to it
        rows = self._rows(trial, data)
        payload: dict[str, Any] = {"trial": trial.id, "status": "running", "rows": rows}
        payload["cost_s"] = max([trial.cost_s, *(row["wall_s"] for row in rows)])
        if data.state is RunState.FINISHED:
            payload |= {"status": "complete", "kept": rows[-1] if rows else None}
        elif data.state in DEAD:
            reason = f"{DEAD[data.state]} (W&B run {data.wandb_run_id})"
            payload |= {"status": "failed", "failure": {"reason": reason, "error": None}}
        elif not rows and data.state is not RunState.PREEMPTED:
            return
        going_on = self.conductor.report(trial.id, payload)
        if going_on and data.state is RunState.PREEMPTED:
            # W&B gives it to another agent; it is found again when we start anew.
            self.conductor.end(trial, "interrupted", f"preempted at step {trial.steps}", {})
        self.conductor.think()

    def prune_run(self, run_id: Any, data: RunWithMetrics) -> bool:
        return self.conductor.trials[str(run_id)].state == "pruned" and not is_terminal_state(data.state)

    def _rows(self, trial: Trial, data: RunWithMetrics) -> list[dict[str, Any]]:
        """The reports that are new. W&B samples the history to 20 rows: where the value at a step at which trials are
        judged is not among them, the last one before it stands there."""
        name, summary = self.conductor.rules.objective, data.summary_metrics
        found = {
            int(r["_step"]): r[name]
            for r in data.history_metrics
            if _number(r.get("_step")) and _number(r.get(name))
        }
        if _number(summary.get(name)):
            at = summary.get("_step")
            last = (
                int(at)
                if _number(at)
                else max([*found, trial.steps, *([trial.maximum] if not found else [])])
            )
            found[last] = summary[name]
        points = sorted(found.items())
        for rung in trial.milestones:
            before = [value for step, value in points if step <= rung]
            if before and rung not in found and points[-1][0] > rung:
                found[rung] = before[-1]
        wall = summary.get("_runtime")
        wall_s = max(float(wall) if _number(wall) else 0.0, trial.cost_s)
        return [
            {"step": step, "wall_s": wall_s, "time": time.time(), "metrics": {name: float(found[step])}}
            for step in sorted(found)
            if step > trial.steps
        ]

    # -- at the start -----------------------------------------------------------------------------------

    def tell_existing_active_run(self, data: Run) -> Any:
        trial = self._known(data)
        if trial is None:
            self.conductor.remark(f"W&B run {data.wandb_run_id} is not one of {self.name}; it is left alone")
            return None
        return trial.id if self.conductor.claim(trial.id) is not None else None

    def tell_existing_finished_run(self, data: RunWithMetrics) -> None:
        trial = self._known(data) or self._adopt(data)
        if trial is not None and self.conductor.claim(trial.id) is not None:
            self.tell_run(trial.id, data)

    def _known(self, data: Run) -> Trial | None:
        said = str(data.config.flat_dict().get(TRIAL, ""))
        known = self.runs.get(data.wandb_run_id) or said.removeprefix(f"{self.name}.")
        return self.conductor.trials.get(known)

    def _adopt(self, data: RunWithMetrics) -> Trial | None:
        """A run of somebody else in this sweep that has a value is one more that the search knows."""
        if data.state is not RunState.FINISHED or data.wandb_run_id in self._adopted:
            return None
        try:
            config = read(data.config.flat_dict(), self.conductor.space, self.data)
        except SpaceError as error:
            self.conductor.remark(
                f"W&B run {data.wandb_run_id} is none that the search can learn from: {error}"
            )
            return None
        job = Job(len(self.conductor.jobs), config, {"run": data.wandb_run_id})
        self._adopted.add(data.wandb_run_id)
        self.conductor.algorithm.adopt(job)
        self.conductor.begin(job)
        return self.conductor.groups[job.number][0]


def _number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def config_of(name: str, space: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep's configuration at W&B. space: `Space.to_wandb`, of which the server samples nothing."""
    return {
        **space,
        "method": "custom",
        "name": name,
        "scheduler": {"engine": "optuna", "source": SOURCE, "optimizer": name},
    }
