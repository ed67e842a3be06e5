"""A search along one setting of a paper that finds a network by training: OTO over sparsities, Single-Path over lambda.

Every network is counted and timed as it is found: what a run has cut is measured after it was cut.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from fairsweep.analysis.drawing import draw_svg
from fairsweep.analysis.fronts import front_within, keeps
from fairsweep.analysis.store import Store, SweepRecord
from fairsweep.cluster.config import data_at_hand
from fairsweep.cluster.engine.conductor import Conductor, trial_id
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.nas import budget as nas_budget
from fairsweep.cluster.jobs.nas import report as nas_report
from fairsweep.cluster.jobs.nas.config import NASSettings
from fairsweep.cluster.jobs.nas.run import Run
from fairsweep.search_spaces.algorithms.base import Job
from fairsweep.search_spaces.algorithms.budget_search import BudgetSearch
from fairsweep.search_spaces.algorithms.front_search import FrontSearch
from fairsweep.search_spaces.architectures.graphs import Graph
from fairsweep.search_spaces.architectures.jobs import FRONT
from fairsweep.search_spaces.costs import UncountedError, count_flops, count_parameters, measure_latency
from fairsweep.search_spaces.pruning import TraceError
from fairsweep.search_spaces.pruning.report import graph_of_module
from fairsweep.trainables import catalog
from fairsweep.trainables.base import DataError, Found, Metric, Setting
from fairsweep.trainables.nas._job import OF_PRUNED, SearchJob
from fairsweep.trainables.nas._pruned import Pruned
from fairsweep.trainables.nas.single_path_nas import SinglePathNAS
from fairsweep.trainables.tasks.subjects import ModelSubject, Subject, is_paper


class FrontRun(Run):
    """Runs the configured paper at each value of its setting, seed by seed."""

    def __init__(self, settings: NASSettings, store: Store) -> None:
        self.settings = settings
        self._texts: dict[str, str | None] = {}  # by trial: what it has found, if that may be trained alone
        self._costs: dict[str, dict[str, float | None]] = {}  # by trial: of what it has found

    @property
    def title(self) -> str:
        if self.settings.cost_target is not None:
            return self.settings.heading
        return f"{self.settings.heading} = {', '.join(map(str, self.settings.algorithm['values']))}"

    @property
    def objective(self) -> Metric:
        return super().objective if self.settings.pruned is None else SearchJob.metric(Pruned.objective)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        names = {m.name for m in self.settings.trainer.metrics}
        own = tuple(m for m in SearchJob.metrics if m.name in names)
        if self.settings.pruned is not None:
            return own
        return (*super().metrics, *(m for m in own if m in OF_PRUNED))

    def check(self) -> None:
        with data_at_hand():
            try:
                paper = self._paper(self.settings.algorithm["values"][0], 0)
            except DataError:
                raise
            except ValueError as error:
                raise UserError(str(error)) from None
        if self.settings.pruned is not None:
            self._check_flops(paper.subject)
        if self.settings.cost_target is not None:
            nas_budget.check_reach(self.settings.cost_target, *paper.runtime.bounds())
        if isinstance(paper, SinglePathNAS):
            counted = {
                name: paper.cheapest(name) for name in self.settings.limits if name in ("params", "flops")
            }
            nas_budget.check_limits(self.settings.limits, counted)

    def _check_flops(self, subject: Subject) -> None:
        """UserError if FLOPs decide and cannot be counted of the network that is to become smaller; said if not."""
        settings = self.settings
        try:
            count_flops(subject.deployed(subject.net), subject.shape, subject.dtype)
        except UncountedError as error:
            if settings.front == "flops" or "flops" in settings.limits:
                field = "front=flops" if settings.front == "flops" else "constraint.flops"
                raise UserError(
                    f"{field}: trainable={settings.pruned}: {error}, or take params or latency_ms instead"
                ) from None
            print(
                f"fairsweep: warning: trainable={settings.pruned}: {error}; the table has none",
                file=sys.stderr,
            )

    def algorithm(self, record: SweepRecord | None = None) -> FrontSearch:
        chosen, again = self.settings.algorithm, self.settings.retrain
        alone = again["seeds"] if chosen["space"] is not None and again["top"] else 0
        budget = self.settings.cost_target
        if budget is not None:
            low, high = nas_budget.bounds(self.settings.trainer)
            return BudgetSearch(
                budget.value, low, high, self.cost, alone, self.dress, self.architecture, self.kept
            )
        return FrontSearch(chosen["values"], chosen["seeds"], alone, self.dress, self.architecture)

    def dress(self, config: dict[str, Any]) -> dict[str, Any]:
        """The whole configuration of a job of `FrontSearch`."""
        settings = self.settings
        nothing = {"supernet": "", "kind": "", "sizes": ""}
        if config["phase"] == FRONT:
            trainer, own, steps = (
                settings.trainer,
                settings.front_config(config["value"]),
                settings.algorithm["steps"],
            )
        else:
            trainer, own = settings.alone, settings.alone_config(config["architecture"])
            steps = settings.retrain["steps"]
        return {
            **config,
            **nothing,
            "trainer": trainer.slug,
            "settings": json.dumps({"config": own, "steps": steps}),
        }

    def trained(self, conductor: Conductor) -> bool:
        algorithm: Any = conductor.algorithm
        return algorithm.phase != FRONT

    # -- what runs have found -------------------------------------------------------------------------

    def architecture(self, job: Job) -> str | None:
        """The text of what a completed job has found; None if that breaks a limit, or its checkpoint is gone."""
        trial = trial_id(job.number, self.settings.seed)
        if trial not in self._texts:
            found = self.found(trial, job.config["value"], job.config["repeat"])
            kept = found is not None and keeps(self.costs(trial, found), self.settings.limits)
            self._texts[trial] = found.text if found is not None and kept else None
        return self._texts[trial]

    def cost(self, job: Job) -> float | None:
        """What a completed job of a search to a budget has found costs; None if its checkpoint is gone."""
        budget, trial = self.settings.cost_target, trial_id(job.number, self.settings.seed)
        assert budget is not None
        if trial not in self._costs:
            found = self.found(trial, job.config["value"], job.config["repeat"])
            if found is None:
                return None
            self.costs(trial, found)
        return self._costs[trial][budget.column]

    def kept(self, job: Job) -> bool:
        """Whether what a completed job of a search to a budget has found keeps the limits."""
        known = self.cost(job) is not None
        return known and keeps(self._costs[trial_id(job.number, self.settings.seed)], self.settings.limits)

    def costs(self, trial: str, found: Found) -> dict[str, float | None]:
        """What the network costs that a trial has found, measured once; None is what is not asked for or cannot be
        counted."""
        if trial not in self._costs:
            settings = self.settings
            timed = found.full is not None or "latency_ms" in settings.costs
            measured = _latency_ms(found.module, found) if timed else None
            predicted = settings.cost_target is not None and settings.cost_target.column == "latency_ms"
            self._costs[trial] = {
                "params": count_parameters(found.module),
                "flops": _flops(found.module, found),
                "latency_ms": found.cost if predicted else measured,
                "latency_measured_ms": measured,
            }
        return self._costs[trial]

    def found(self, trial: str, value: float, repeat: int) -> Found | None:
        """What a completed trial has found, from its last checkpoint; None if that is gone."""
        state = self.checkpoints.load(trial)
        if state is None:
            return None
        paper = self._paper(value, repeat)
        paper.load_state_dict(state["paper"]["inner"])
        return paper.found()

    def _paper(self, value: float, repeat: int) -> Any:
        settings = self.settings
        paper: Any = settings.trainer()
        seed, steps = settings.seed + repeat, settings.algorithm["steps"]
        setting = Setting(seed, "cpu", settings.data, settings.data_folder, steps)
        paper.setup(settings.front_config(value), setting)
        return paper

    # -- the tables -----------------------------------------------------------------------------------

    def report(self, store: Store, name: str, conductor: Conductor) -> None:
        trials = nas_report.completed(store, name)
        alone = nas_report.alone(trials)
        # A network that was trained again is handed over with those weights, and tested with them.
        again = {
            text: {
                **nas_report.alone_columns(found),
                "folder": nas_report.export_best(self, store, name, found),
            }
            for text, found in alone.items()
        }
        rows = []
        for trial in trials:
            if trial["config.phase"] == FRONT:
                row = self._row(store, name, trial)
                if row is not None:
                    rows.append({**row, **again.get(row["architecture"], {})})
        front = front_within(rows, self.settings.front, self.settings.limits)
        for row, on in zip(rows, front, strict=True):
            row["on_front"] = on
        store.write_derived("architectures", name, rows)

    @property
    def _scored_by(self) -> str:
        name = self.settings.pruned
        if name is None:
            return "inherited"
        return catalog.get(name).objective if is_paper(name) else ModelSubject.objective

    def _row(self, store: Store, name: str, trial: dict[str, Any]) -> dict[str, Any] | None:
        settings = self.settings
        value, repeat = trial["config.value"], trial["config.repeat"]
        found = self.found(trial["trial"], value, repeat)
        if found is None:
            return None
        costs = self.costs(trial["trial"], found)
        whole: dict[str, Any] = {}
        if found.full is not None:
            whole = {
                "full_params": count_parameters(found.full),
                "full_flops": _flops(found.full, found),
                "full_latency_ms": _latency_ms(found.full, found),
            }
        return {
            "number": trial["number"],
            "architecture": found.text,
            "space": settings.algorithm["space"],
            "options": json.dumps({settings.algorithm["knob"]: value, "seed": settings.seed + repeat}),
            "algorithm": settings.algorithm["name"],
            "phase": FRONT,
            "score": trial["value"],
            "scored_by": self._scored_by,
            "test": trial[f"metric.{self.objective.name.replace('val_', 'test_', 1)}"],
            **costs,
            **whole,
            "folder": self._export(store, name, trial, found),
            "trial": trial["trial"],
        }

    def _export(self, store: Store, name: str, trial: dict[str, Any], found: Found) -> str:
        """Saves a network that was found as its run has left it, beside the run, and says where."""
        from fairsweep.search_spaces.deployment import write_network
        from fairsweep.search_spaces.supernets.export import save_network

        about = nas_report.about_trial(trial, name)
        given, seen = found.interface, torch.zeros(2, *found.input_shape)
        if given is None:  # a plug-in's paper, which need not know of this
            given = seen
        else:
            seen = given.seen(2)

        def save(folder: Path) -> str:
            if found.supernet is not None:
                supernet, path = found.supernet, found.supernet.space.parse(found.text)
                save_network(folder, supernet, path, found.module, given, reported=about, strict=False)
                return nas_report.drawing(supernet.space, path)
            made = {"architecture": found.text, **(found.recipe or {})}
            write_network(folder, found.module, given, made, about, strict=False)
            try:
                graph = graph_of_module(found.module, seen)
            except TraceError:
                graph = Graph({"network": found.text}, ())
            return draw_svg(graph.nodes, graph.edges, found.text)

        return nas_report.export(store, name, trial["trial"], save)


def _flops(module: Any, found: Found) -> int | None:
    """FLOPs for one example of what `found` takes; None if an operator has no formula, which `FrontRun.check` said."""
    try:
        return count_flops(module, found.input_shape, _dtype(found))
    except UncountedError:
        return None


def _latency_ms(module: Any, found: Found) -> float:
    return measure_latency(module, found.input_shape, dtype=_dtype(found))


def _dtype(found: Found) -> torch.dtype:
    """Of the examples that a network takes; whole numbers where it takes pixels as they are stored."""
    return torch.float32 if found.interface is None else found.interface.seen(1).dtype
