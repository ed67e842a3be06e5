"""Carries out what population based training has decided: members that go on as copies of others.

A copy is a configuration of its own, with trials of its own, that begin from the checkpoints of its parent's trials,
seed by seed. That it began, from whom, at which step and in whose place, is an event of the store; its rows name its
parent. A sweep that is taken up again replays those events, and makes the decisions that had not been carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fairsweep.cluster.engine.checkpoints import Checkpoints, StorageFault
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.trial import PARENT, Trial, trial_id
from fairsweep.search_spaces.algorithms import Job, PopulationBasedTraining
from fairsweep.search_spaces.algorithms.population import Birth


class Breeder:
    """The nursery of a conductor whose scheduler is `PopulationBasedTraining`."""

    def __init__(self, conductor: Conductor, checkpoints: Checkpoints) -> None:
        self.conductor, self.checkpoints = conductor, checkpoints
        self.scheduler = cast(PopulationBasedTraining, conductor.scheduler)

    @property
    def due(self) -> bool:
        return bool(self.scheduler.births) or self._complete

    @property
    def _complete(self) -> bool:
        """Whether all members of the population are there, and nobody has said so yet."""
        return not self.scheduler.slots and bool(self.conductor.jobs) and not self.conductor.asker.open

    def deliver(self) -> None:
        if self._complete:
            size = len(self.conductor.jobs)
            self.conductor.writer.event("population", size=size)
            self.gather(size)
        for birth in list(self.scheduler.births):
            self._deliver(birth)

    def gather(self, size: int) -> None:
        """The population is complete, with the first `size` configurations."""
        self.conductor.asker.exhausted = True
        self.scheduler.gathered([self.conductor.groups[k][0].id for k in range(size)])

    def _deliver(self, birth: Birth) -> None:
        conductor = self.conductor
        parents, losers = self._trials(birth.parent), self._trials(birth.loser)
        number = len(conductor.jobs)
        lacking = self._copy(parents, number, birth.step)
        if lacking:
            with conductor.writer.batch():
                conductor.note(f"{birth.loser} goes on as it is at step {birth.step}: {lacking}")
                conductor.writer.event("spare", trial=birth.loser)
                self.scheduler.spared(birth.loser)
            return
        old = parents[0].config
        job = Job(
            number,
            self.scheduler.offspring(birth, old),
            {
                PARENT: {
                    "config": parents[0].config_id,
                    "step": birth.step,
                    "replaces": losers[0].config_id,
                }
            },
        )
        with conductor.writer.batch():
            conductor.begin(job)
            child = conductor.groups[number][0].id
            conductor.writer.event(
                "exploit", trial=child, parent=birth.parent, step=birth.step, replaces=birth.loser,
                old=dict(losers[0].config), copied=dict(old), new=dict(job.config),
            )  # fmt: skip
            self.take_place(child, birth.loser)
            for trial in losers:
                if trial.state == "paused":
                    conductor.end(trial, "pruned", f"replaced by {child} at step {trial.steps}", {})

    def take_place(self, child: str, loser: str) -> None:
        """The trials of unit `child` begin where those of its parent stand, in the place of `loser`."""
        for trial in self._trials(child):
            trial.inherit(self.conductor.trials[trial.parent])
        self.scheduler.born(loser, child)

    def _trials(self, unit: str) -> list[Trial]:
        return self.conductor.groups[self.conductor.trials[unit].config_id]

    def _copy(self, parents: list[Trial], number: int, step: int) -> str:
        """Gives the trials of configuration `number` the checkpoints of its parents; says what is lacking."""
        for parent in parents:
            try:
                if not self.checkpoints.copy(parent.id, trial_id(number, parent.seed), step):
                    return f"trial {parent.id} has no checkpoint of that step, for which it must keep one just before"
            except StorageFault as fault:
                return str(fault)
        return ""


def replayed(conductor: Conductor, event: Mapping[str, Any]) -> None:
    """Takes an event of an earlier run over, if it is of a population."""
    nursery = conductor.nursery
    if not isinstance(nursery, Breeder):
        return
    if event["kind"] == "population":
        nursery.gather(event["size"])
    elif event["kind"] == "exploit":
        nursery.take_place(event["trial"], event["replaces"])
    elif event["kind"] == "spare":
        nursery.scheduler.spared(event["trial"])
