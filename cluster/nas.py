"""The job `nas`: train a supernet, search over its paths, retrain the best; one sweep of jobs in the store.

Whatever ends a run, `resume` goes on from the store's rows: a supernet that is trained is published again, scores are
told to the algorithm again, jobs that had not ended go on from their checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from analysis.store import Store, SweepRecord, SweepWriter
from cluster import nas_config, nas_report, provenance, sweep
from cluster.checkpoints import Checkpoints
from cluster.conductor import Conductor, Rules, Trial, now
from cluster.display import Display
from cluster.errors import UserError
from cluster.local import check_shared, connected, slots
from cluster.nas_config import NASSettings
from cluster.sweep import Result
from cluster.weights import Board, Shelf, key_of
from search_spaces.algorithms import ConstraintError, create_architecture_search
from search_spaces.algorithms.phases import PhasedSearch
from search_spaces.algorithms.schedulers import NoScheduler
from search_spaces.architectures.base import Architecture
from search_spaces.architectures.jobs import CHILD, RETRAIN, SCORE, TRAIN
from search_spaces.supernets import Supernet
from trainables.base import DataError, Setting
from trainables.nas._job import SearchJob

GROWABLE = {**{k: v for k, v in sweep.GROWABLE.items() if k != "budget.trials"}, "search.evaluations": int}
TRAINED = {TRAIN: "train", CHILD: "retrain", RETRAIN: "retrain"}  # phase -> the settings that say how long


class Search:
    """A search as it is configured: its supernet, its algorithm, and what its jobs are told."""

    def __init__(self, settings: NASSettings, shelf: Shelf) -> None:
        self.settings, self.shelf = settings, shelf
        self.supernet = _supernet(settings)
        self.space = self.supernet.space
        self.recipe = {
            "space": self.space.id,
            "kind": self.supernet.kind,
            "sizes": dict(self.supernet.config()),
            "trainer": settings.trainer.slug,
            "config": settings.train_config,
            "steps": settings.trainer.fidelity(settings.train_config, settings.train["steps"]).maximum,
            "data": settings.data_name,
            "seed": settings.seed,
            "code": _code(),
        }
        self.key = key_of(self.recipe)

    def algorithm(self, train: bool) -> PhasedSearch:
        """The phases over the configured algorithm. train: whether the supernet is one of its jobs."""
        chosen = self.settings.algorithm
        try:
            inner = create_architecture_search(
                chosen["name"], self.space, "max", self.settings.seed,
                costs=self.costs, constraints=self.settings.limits, **chosen["options"],
            )  # fmt: skip
        except ConstraintError as error:
            raise UserError(str(error)) from None
        except (TypeError, ValueError) as error:
            raise UserError(f"algorithm.options: {error}") from None
        return PhasedSearch(self.space, inner, self.settings.plan(train), "max", self.dress)

    def check(self) -> None:
        """UserError if the algorithm cannot be made or no architecture keeps the limits: before anything is written."""
        try:
            self.algorithm(train=False).inner.ask(1)
        except ConstraintError as error:
            raise UserError(str(error)) from None

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """What an architecture costs; latency is measured only where it is asked for."""
        wanted = {*("params", "flops"), self.settings.front, *self.settings.limits}
        return {kind: self.supernet.cost(architecture, kind) for kind in sorted(wanted)}

    def dress(self, config: dict[str, Any]) -> dict[str, Any]:
        """The whole configuration of a job."""
        settings = self.settings
        shared = {
            "supernet": self.key,
            "kind": self.supernet.kind,
            "sizes": json.dumps(dict(self.supernet.config())),
        }
        if config["phase"] == SCORE:
            scoring = {name: settings.search[name] for name in ("batch_size", "share")}
            about = {"config": settings.train_config, **scoring}
            return {**config, **shared, "trainer": "", "settings": json.dumps(about)}
        if config["phase"] == TRAIN:
            trainer, own = settings.trainer.slug, settings.train_config
        else:
            trainer, own = settings.alone.slug, settings.alone_config(config["architecture"])
        steps = getattr(settings, TRAINED[config["phase"]])["steps"]
        return {
            **config, **shared, "trainer": trainer, "settings": json.dumps({"config": own, "steps": steps})
        }  # fmt: skip

    def conductor(
        self,
        writer: SweepWriter,
        concurrent: int,
        record: SweepRecord | None,
        on_end: Callable[[Trial], None] | None = None,
    ) -> Conductor:
        """The conductor of the search, brought to where `record` says that it was."""
        settings = self.settings
        known = [json.loads(t["config_json"])["phase"] for t in record.trials.values()] if record else []
        objective = SearchJob.metric(SearchJob.objective)

        def fidelity(config: Mapping[str, Any]) -> tuple[int, int]:
            found = SearchJob.fidelity(config)
            return found.minimum, found.maximum

        commit, dirty = provenance.code_version()
        conductor = Conductor(
            Rules(
                objective=objective.name,
                mode=objective.mode,
                trials=None,
                seeds=(settings.seed,),
                concurrent=concurrent,
                minutes=settings.budget["minutes"],
                spent_s=(record.sweep.get("elapsed_s") or 0.0) if record else 0.0,
                timeout_s=settings.budget["trial_timeout"],
                retries=settings.budget["retries"],
                fidelity=fidelity,
            ),
            settings.space,
            self.algorithm(train=TRAIN in known or not self.shelf.has(self.key)),
            NoScheduler(),
            writer,
            columns={
                "paper": SearchJob.slug,
                "data": settings.data_name,
                "git_commit": commit,
                "git_dirty": dirty,
                "versions": provenance.versions(),
            },
            on_end=on_end,
        )
        if record is not None:
            conductor.replay(record)
        return conductor


class Publisher:
    """Brings a trained supernet from its trial's checkpoint to the shelf, and from there to the workers."""

    def __init__(self, search: Search, checkpoints: Checkpoints, share: Callable[[str, Any], None]) -> None:
        self.search, self.checkpoints, self.share = search, checkpoints, share
        self._shared = False

    def ended(self, trial: Trial) -> None:
        """Called when a job ends: keeps what is needed of it and deletes what is not."""
        phase = trial.config["phase"]
        if phase == TRAIN and trial.state == "complete":
            self.publish(trial.id)
        elif trial.state in ("complete", "failed") and phase in (SCORE, CHILD):
            self.checkpoints.delete(trial.id)

    def publish(self, trial: str | None) -> None:
        """Puts the supernet on the shelf if it is not there, and hands it to the workers."""
        search = self.search
        if not search.shelf.has(search.key):
            state = self.checkpoints.load(trial) if trial is not None else None
            if state is None:
                return
            weights = state["paper"]["inner"]["parts"]["net"]
            search.shelf.save(search.key, {n: w.cpu().numpy() for n, w in weights.items()}, search.recipe)
        if not self._shared:
            self.share(search.key, search.shelf.load(search.key))
            self._shared = True


def run(settings: NASSettings, display: Display | None = None) -> Result:
    """Runs a new search to its end. UserError if the configuration cannot run as it stands."""
    store = sweep.open_store(settings.storage)
    name = settings.name or sweep.free_name(store, f"nas-{settings.algorithm['name']}")
    if store.has(name):
        raise UserError(
            f"name={name}: {store.uri} has a sweep of this name; choose another or `fairsweep resume {name}`"
        )
    search = Search(settings, Shelf(store.uri))
    search.check()
    with connected(settings.cluster):
        concurrent = slots(settings.cluster, settings.budget["concurrent"])
        check_shared(store.uri)
        writer = store.create(
            name,
            _row(settings, search),
            config_fields=settings.space.arrow_fields(),
            metric_names=[m.name for m in SearchJob.metrics],
        )
        return _drive(search, store, name, writer, None, concurrent, display or Display())


def resume(storage: str, name: str, changes: list[str], display: Display | None = None) -> Result:
    """Takes a search up where its store says that it was."""
    store = sweep.open_store(storage)
    tree = OmegaConf.create(store.read(name).sweep["config"])
    settings = nas_config.check(sweep.changed(tree, changes, GROWABLE))
    with connected(settings.cluster):
        concurrent = slots(settings.cluster, settings.budget["concurrent"])
        check_shared(store.uri)
        writer = store.open(name)
        record = writer.record
        writer.sweep(state="running", config=settings.to_yaml(), updated=now())
        search = Search(settings, Shelf(store.uri))
        return _drive(search, store, name, writer, record, concurrent, display or Display())


def _drive(
    search: Search,
    store: Store,
    name: str,
    writer: SweepWriter,
    record: SweepRecord | None,
    concurrent: int,
    display: Display,
) -> Result:
    import ray

    checkpoints = Checkpoints(store.checkpoint_dir(name))
    board_name = f"fairsweep-{name}"
    board: Any = ray.remote(num_cpus=0)(Board).options(name=board_name).remote()
    held: list[Any] = []  # the object store keeps what is still referred to

    def share(key: str, arrays: Mapping[str, Any]) -> None:
        held[:] = [ray.put(dict(arrays))]
        ray.get(board.put.remote(key, held))

    publisher = Publisher(search, checkpoints, share)
    publisher.publish(trained(record))
    made: list[Conductor] = []

    def make(on_end: Callable[[Trial], None]) -> Conductor:
        made.append(search.conductor(writer, concurrent, record, on_end))
        return made[0]

    post = replace(sweep.make_post(search.settings, store, name), board=board_name)
    try:
        result = sweep.drive(search.settings, store, name, writer, make, post, display, publisher.ended)
    finally:
        ray.kill(board)
    nas_report.write(search, store, name, made[0], checkpoints)
    return result


def trained(record: SweepRecord | None) -> str | None:
    """The trial that has trained the supernet, if one has."""
    for trial in record.trials.values() if record else ():
        if trial["state"] == "complete" and json.loads(trial["config_json"])["phase"] == TRAIN:
            return trial["trial"]
    return None


def _supernet(settings: NASSettings) -> Supernet:
    """The supernet that the trainer makes for the data; its weights are as they are before training."""
    paper: Any = settings.trainer()
    setting = Setting(
        seed=settings.seed,
        data=settings.data,
        data_dir=Path(settings.data_dir) if settings.data_dir else None,
        steps=settings.train["steps"],
    )
    try:
        paper.setup(settings.train_config, setting)
    except DataError as error:
        raise UserError(str(error)) from None
    return paper.supernet


def _code() -> str:
    commit, dirty = provenance.code_version()
    return (f"{commit}{'-changed' if dirty else ''}") if commit else provenance.versions()


def _row(settings: NASSettings, search: Search) -> dict[str, Any]:
    return {
        **sweep.sweep_row(settings, SearchJob),
        "title": f"{settings.algorithm['name']} over {search.space.id}, supernet trained by "
        f"{settings.algorithm['strategy']}",
        "data": settings.data_name,
        "trials_budget": search.algorithm(train=True).expected,
    }
