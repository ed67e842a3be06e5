"""What the kinds of architecture search have in common: an algorithm, jobs, and what to do when one ends."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fairsweep.analysis.store import Store, SweepRecord
from fairsweep.cluster.engine.checkpoints import Checkpoints
from fairsweep.cluster.engine.conductor import Conductor, Trial
from fairsweep.cluster.jobs.nas.config import NASSettings
from fairsweep.trainables.base import Metric
from fairsweep.trainables.nas._job import OF_PRUNED, SearchJob

if TYPE_CHECKING:
    from fairsweep.search_spaces.algorithms import Algorithm

Share = Callable[[str, Any], None]  # hands weights of a name to all workers


def phases(record: SweepRecord | None) -> set[str]:
    """The phases of which a run has made jobs."""
    trials = record.trials.values() if record is not None else ()
    return {json.loads(t["config_json"])["phase"] for t in trials}


class Run(ABC):
    """A search as it is configured. `attach` is called before anything runs."""

    settings: NASSettings
    checkpoints: Checkpoints
    share: Share

    def attach(self, checkpoints: Checkpoints, share: Share) -> None:
        """Says where the checkpoints of the run lie, and how weights get to the workers."""
        self.checkpoints, self.share = checkpoints, share

    @property
    @abstractmethod
    def title(self) -> str:
        """What the search does, for the table of sweeps."""

    @property
    def objective(self) -> Metric:
        """What its jobs are judged by."""
        return SearchJob.metric(SearchJob.objective)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What its jobs measure."""
        return tuple(m for m in SearchJob.metrics if m not in OF_PRUNED)

    @abstractmethod
    def check(self) -> None:
        """UserError if it cannot run as it is configured; called before anything is written."""

    @abstractmethod
    def algorithm(self, record: SweepRecord | None = None) -> Algorithm:
        """A fresh algorithm for the run of which `record` is what the store knows."""

    @abstractmethod
    def trained(self, conductor: Conductor) -> bool:
        """Whether there is nothing left that a group of workers trains together."""

    def begin(self, record: SweepRecord | None) -> None:  # noqa: B027  # most have nothing to do
        """Called once before the first job."""

    def ended(self, trial: Trial) -> None:  # noqa: B027  # nor here
        """Called when a job has ended, before the next one begins."""

    @abstractmethod
    def report(self, store: Store, name: str, conductor: Conductor) -> None:
        """Writes the table `architectures` of the run, and its networks as files."""
