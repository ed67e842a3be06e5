"""One job of an architecture search: train the supernet, score a batch of paths, or train a network stand-alone.

What is trained is a paper of its own (`trainer`), with its own settings; scoring is done here. A search is a sweep
of such jobs, so its trials, reports, checkpoints and faults are those of any sweep.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fairsweep.search_spaces.architectures.jobs import SCORE, TRAIN, members
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Fidelity, Metric, Paper, Setting, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.path_scoring import path_scores, supernet_with
from fairsweep.trainables.tasks.small_images import SmallImageTask

# What runs that prune measure beside the others: their objective is whatever that of their trainable is.
OF_PRUNED = (
    Metric("val_objective", "max", "validation"),
    Metric("group_sparsity", "max", "train", "fraction"),
    Metric("test_objective", "max", "test"),
    Metric("test_group_sparsity", "max", "test", "fraction"),
    Metric("test_difference", "min", "test"),
)


@register
class SearchJob(Paper):
    """Configuration: `phase`, and what it needs: see `cluster.jobs.nas.search`, which makes these jobs.

    A step of a training phase is one of its trainer's; a step of the phase `score` is one path of the batch.
    """

    slug = "nas"
    title = "A job of an architecture search"
    citation = "Search over shared supernets, as in Guo et al., ECCV 2020 (arXiv:1904.00420)"
    task = "architecture search"
    datasets = ("digits",)
    metrics = (
        Metric("val_accuracy", "max", "validation", "fraction"),
        Metric("val_loss", "min", "validation", "nats"),
        Metric("train_loss", "min", "train", "nats"),
        Metric("test_accuracy", "max", "test", "fraction"),
        *OF_PRUNED,
    )
    objective = "val_accuracy"
    tiny = Tiny("digits", 1)

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        if config["phase"] == SCORE:
            return Fidelity("path", 1, len(members(config)))
        settings = json.loads(config["settings"])
        return catalog.get(config["trainer"]).fidelity(settings["config"], settings["steps"])

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        self.config, self.done = dict(config), 0
        self.inner: Paper | None = None
        if config["phase"] == SCORE:
            self.paths, self.setting = members(config), setting
            self._scores: Iterator[dict[str, float]] | None = None
            return
        settings = json.loads(config["settings"])
        self.inner = catalog.get(config["trainer"])()
        seed = setting.seed + config["repeat"]
        self.inner.setup(settings["config"], replace(setting, seed=seed, steps=settings["steps"]))

    def step(self) -> dict[str, float]:
        if self.inner is None:
            if self._scores is None:
                self._scores = self._score(self.done)
            scores = next(self._scores)
            self.done += 1
            return scores
        self.done += 1
        return self._known(self.inner.step(), self.inner)

    def _score(self, first: int) -> Iterator[dict[str, float]]:
        config, setting = self.config, self.setting
        settings = json.loads(config["settings"])
        if "values" in settings:  # of a table
            return ({"val_accuracy": value} for value in settings["values"][first:])
        net = supernet_with(config["supernet"], config["kind"], config["sizes"], setting.device)
        name = setting.data or self.datasets[0]
        data = SmallImageTask.of(settings["config"], name, setting.data_dir, setting.device, "none")
        count = settings["recalibrate"]
        scores = path_scores(
            net,
            [net.space.parse(text) for text in self.paths[first:]],
            *data.whole("validation"),
            settings["batch_size"],
            settings["share"],
            None if count is None else data.calibration(count),
        )
        return ({"val_accuracy": score.accuracy, "val_loss": score.loss} for score in scores)

    def _known(self, found: Mapping[str, float], inner: Paper) -> dict[str, float]:
        """What the trainer measured, under the names that the tables of a search have."""
        names = {m.name for m in self.metrics}
        known = inner.objective in names
        renamed = {
            (self.objective if name == inner.objective and not known else name): v
            for name, v in found.items()
        }
        return {name: value for name, value in renamed.items() if name in names}

    @property
    def finished(self) -> bool:
        return self.inner.finished if self.inner is not None else self.done >= len(self.paths)

    def parts(self) -> Mapping[str, str] | None:
        return None if self.inner is None else self.inner.parts()

    def test(self) -> dict[str, float]:
        """Of a network that is trained alone; the supernet's own test says nothing of the search."""
        if self.inner is None or self.config["phase"] == TRAIN:
            return {}
        return self._known(self.inner.test(), self.inner)

    @property
    def kept_step(self) -> int | None:
        return None if self.inner is None else self.inner.kept_step

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "inner": self.inner.state_dict() if self.inner is not None else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])
