"""The job `run`: configuration -> Tune -> Arrow; and `resume`, which is the same from where the store is."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from analysis.store import Store, StoreError, SweepRecord, SweepWriter
from cluster import config, provenance
from cluster.checkpoints import Checkpoints
from cluster.conductor import Conductor, Rules, Trial, now
from cluster.config import Settings, data_at_hand
from cluster.display import Display
from cluster.errors import MissingData, UserError
from cluster.local import check_shared, connected, slots
from cluster.worker import Post
from search_spaces.algorithms import create_scheduler, create_search
from search_spaces.space import SpaceError
from trainables import catalog
from trainables.base import Paper, Setting

MAX_ENGINE_RESTARTS = 5
RAY_COPIES = "/runtime_resources/working_dir_files/"


@dataclass(frozen=True)
class Result:
    """How a run of a sweep ended. state: finished, interrupted or failed (no trial came to a value)."""

    sweep: str
    storage: str
    state: str


def run(settings: Settings, display: Display | None = None) -> Result:
    """Runs a new sweep to its end. UserError if the configuration cannot run as it stands."""
    store = open_store(settings.storage)
    name = new_name(store, settings.name, settings.trainable)
    paper = catalog.get(settings.trainable)
    _preflight(settings, paper)
    with engine(settings, store) as concurrent:
        writer = store.create(
            name,
            sweep_row(settings, paper),
            config_fields=settings.space.arrow_fields(),
            metric_names=[m.name for m in paper.metrics],
        )
        return _drive(settings, paper, store, name, writer, None, concurrent, display or Display())


def resume(storage: str, name: str, changes: list[str], display: Display | None = None) -> Result:
    """Takes a sweep up where its store says that it was; `budget.trials=+20` lets it grow."""
    store = open_store(storage)
    tree = OmegaConf.create(store.read(name).sweep["config"])
    settings = config.check(changed(tree, changes))
    paper = catalog.get(settings.trainable)
    _preflight(settings, paper)
    with engine(settings, store) as concurrent:
        writer = store.open(name)
        record = writer.record
        writer.sweep(**_resumed_row(settings))
        return _drive(settings, paper, store, name, writer, record, concurrent, display or Display())


@contextlib.contextmanager
def engine(settings: Settings, store: Store) -> Iterator[int]:
    """Connects to Ray, makes sure that all of it sees the store, and yields how many trials run at a time."""
    with connected(settings.cluster):
        concurrent = slots(settings.cluster, settings.budget["concurrent"])
        check_shared(store.uri)
        yield concurrent


GROWABLE = {
    "budget.trials": int,
    "budget.minutes": float,
    "budget.concurrent": int,
    "budget.retries": int,
    "budget.trial_timeout": float,
    "cluster.address": str,
    "cluster.cpus": int,
}


def changed(tree: Any, changes: list[str], growable: Mapping[str, type] = GROWABLE) -> Any:
    """A stored configuration with the settings changed that a resumed run may have otherwise."""
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in growable:
            raise UserError(f"{change}: it can be resumed with other values of {', '.join(growable)} only")
        kind = growable[key]
        if text in ("null", "none"):
            OmegaConf.update(tree, key, None)
            continue
        try:
            value = kind(text.removeprefix("+"))
        except ValueError:
            raise UserError(f"{change}: must be {'a whole number' if kind is int else 'a number'}") from None
        if text.startswith("+"):
            if kind is str:
                raise UserError(f"{change}: only a number can be added to")
            value += OmegaConf.select(tree, key) or 0
        if key in ("budget.trials", "search.evaluations") and value < OmegaConf.select(tree, key):
            raise UserError(f"{change}: it is {OmegaConf.select(tree, key)} already, and can only grow")
        OmegaConf.update(tree, key, value)
    return tree


def _drive(
    settings: Settings,
    paper: type[Paper],
    store: Store,
    name: str,
    writer: SweepWriter,
    record: SweepRecord | None,
    concurrent: int,
    display: Display,
) -> Result:
    checkpoints = Checkpoints(store.checkpoint_dir(name))
    keeper = _Keeper(checkpoints, settings.keep_checkpoints, paper.metric(paper.objective).mode)

    def make(on_end: Callable[[Trial], None]) -> Conductor:
        return make_conductor(settings, paper, writer, concurrent, record, on_end)

    return drive(settings, store, name, writer, make, make_post(settings, store, name), display, keeper.ended)


def drive(
    settings: Settings,
    store: Store,
    name: str,
    writer: SweepWriter,
    make: Callable[[Callable[[Trial], None]], Conductor],
    post: Post,
    display: Display,
    ended: Callable[[Trial], None],
    before: Callable[[Conductor], None] | None = None,
) -> Result:
    """Runs the conductor that `make` makes to its end on Tune, and closes its books.

    make: is given what is to be called when a trial ends. ended: called then, before the next trial begins.
    before: runs legs in another way than on Tune, before those that are left.
    """

    def on_end(trial: Trial) -> None:
        ended(trial)
        display.ended(trial)

    with writer:
        conductor = make(on_end)
        display.begin(name, store.uri, settings, conductor, writer.recovery)
        try:
            with _interruptible(conductor, display):
                if before is not None:
                    before(conductor)
                _run_on_tune(settings, conductor, post, display)
        finally:
            state = conductor.close()
            display.end()
            if state == "finished" and not any(
                t.state in ("complete", "pruned") for t in conductor.trials.values()
            ):
                state = "failed"
                writer.sweep(state=state)
            writer.close(state=state)
    return Result(name, store.uri, state)


def make_conductor(
    settings: Settings,
    paper: type[Paper],
    writer: SweepWriter,
    concurrent: int,
    record: SweepRecord | None = None,
    on_end: Callable[[Trial], None] | None = None,
) -> Conductor:
    """The conductor of a sweep, brought to where `record` says that it was."""
    objective = paper.metric(paper.objective)
    data = settings.data or paper.datasets[0]
    steps = settings.budget["steps"]
    own = _papers_own(settings, data)
    base = paper.fidelity(_first_config(settings, data), steps)
    search = dict(settings.search)
    algorithm = create_search(search.pop("name"), settings.space, objective.mode, settings.seed, **search)
    early = dict(settings.scheduler)
    scheduler = create_scheduler(early.pop("name"), objective.mode, base.minimum, base.maximum, **early)

    def fidelity(trial_config: Any) -> tuple[int, int]:
        found = paper.fidelity(trial_config, steps)
        return found.minimum, found.maximum

    conductor = Conductor(
        Rules(
            objective=objective.name,
            mode=objective.mode,
            trials=settings.budget["trials"],
            seeds=tuple(range(settings.seed, settings.seed + settings.seeds)),
            concurrent=concurrent,
            fidelity=fidelity,
            **allowance(settings, record),
            first=(own,) if own and settings.search.get("paper_first") else (),
        ),
        settings.space,
        algorithm,
        scheduler,
        writer,
        columns=origin(paper, data),
        on_end=on_end,
    )
    if record is not None:
        conductor.replay(record)
    return conductor


def allowance(settings: Settings, record: SweepRecord | None) -> dict[str, Any]:
    """What `Rules` say of time and faults."""
    return {
        "minutes": settings.budget["minutes"],
        "spent_s": (record.sweep.get("elapsed_s") or 0.0) if record else 0.0,
        "timeout_s": settings.budget["trial_timeout"],
        "retries": settings.budget["retries"],
    }


def origin(paper: type[Paper], data: str) -> dict[str, Any]:
    """Columns of every trial on what made it."""
    commit, dirty = provenance.code_version()
    return {
        "paper": paper.slug,
        "data": data,
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": provenance.versions(),
    }


def _run_on_tune(settings: Settings, conductor: Conductor, post: Post, display: Display) -> None:
    # Tune reads its environment at import, so it comes in after `connected` has set that.
    from ray import tune

    from cluster.bridge import LegScheduler, LegSearcher, PaperTrainable, Places, Watch

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(conductor.rules.concurrent)
    resources = {"cpu": settings.cluster["cpus_per_trial"]}
    if settings.cluster["gpus_per_trial"]:
        resources["gpu"] = settings.cluster["gpus_per_trial"]
    for _ in range(MAX_ENGINE_RESTARTS):
        if conductor.finished:
            return
        places = Places(conductor, json.dumps(asdict(post)))
        with tempfile.TemporaryDirectory(prefix="fairsweep-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(PaperTrainable, resources),
                tune_config=tune.TuneConfig(
                    search_alg=LegSearcher(places),
                    scheduler=LegScheduler(places),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    name="sweep",
                    verbose=0,
                    callbacks=[Watch(places, lambda: display.tick(conductor))],
                ),
            )
            try:
                tuner.fit()
            except tune.TuneError as error:
                if places.fatal is not None:
                    raise places.fatal from None
                display.note(
                    f"Tune's controller failed and is started anew: {str(error).strip().splitlines()[-1]}"
                )
        for trial_id in list(conductor.active):
            conductor.lost(trial_id, "the Tune controller ended while the trial ran", "worker lost")
    if not conductor.finished:
        raise RuntimeError(f"Tune's controller failed {MAX_ENGINE_RESTARTS} times; the sweep can be resumed")


@contextlib.contextmanager
def _interruptible(conductor: Conductor, display: Display) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends trials cleanly; a second one does not wait."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if conductor.interrupted:
            raise KeyboardInterrupt
        conductor.interrupt()
        display.note(
            "interrupted: running trials end at their next report; press Ctrl-C again to end at once"
        )

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        conductor.interrupt()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Keeper:
    """Deletes checkpoints that nothing needs: of trials that are done, all but the best one's."""

    def __init__(self, checkpoints: Checkpoints, keep: str, mode: str) -> None:
        self.checkpoints, self.keep = checkpoints, keep
        self.sign = 1.0 if mode == "min" else -1.0
        self.best: tuple[float, str] | None = None

    def ended(self, trial: Trial) -> None:
        if trial.state not in ("complete", "pruned", "failed") or self.keep == "all":
            return
        if self.keep == "none":
            if trial.state == "complete" and trial.steps <= 1:
                return  # it never wrote one; looking costs more than a short trial does
            self.checkpoints.delete(trial.id)
            return
        loss = self.sign * trial.value if trial.state == "complete" and trial.value is not None else None
        if loss is not None and (self.best is None or loss < self.best[0]):
            loser, self.best = self.best, (loss, trial.id)
            if loser is not None:
                self.checkpoints.delete(loser[1])
        else:
            self.checkpoints.delete(trial.id)


def make_post(settings: Settings, store: Store, name: str) -> Post:
    """What the workers of a sweep are told."""
    tracking = dict(settings.tracking)
    if tracking["name"] == "wandb" and not tracking.get("dir"):
        base = Path.cwd() if "://" in store.uri else Path(store.uri)
        tracking["dir"] = str(base / "wandb" / name)
    return Post(
        sweep=name,
        paper=settings.trainable,
        checkpoints=store.checkpoint_dir(name),
        data=settings.data,
        data_dir=str(Path(settings.data_dir).resolve()) if settings.data_dir else None,
        steps=settings.budget.get("steps"),
        threads=max(1, int(settings.cluster["cpus_per_trial"])),
        plugins=os.environ.get("FAIRSWEEP_PLUGINS", ""),
        folder=os.getcwd(),
        report_s=settings.budget["report_seconds"],
        checkpoint_s=settings.budget["checkpoint_seconds"],
        keep=settings.keep_checkpoints,
        tracking=tracking,
    )


def _preflight(settings: Settings, paper: type[Paper]) -> None:
    """Builds one trial here, so that missing data or an impossible setting is one line, not N failed trials."""
    trial_config = _first_config(settings, settings.data or paper.datasets[0])
    setting = Setting(settings.seed, "cpu", settings.data, settings.data_folder, settings.budget["steps"])
    try:
        with data_at_hand():
            paper().setup(trial_config, setting)
    except MissingData:
        raise
    except Exception as error:
        print(f"fairsweep: warning: the first configuration does not build: {error}", file=sys.stderr)


def _papers_own(settings: Settings, data: str) -> dict[str, Any] | None:
    """The paper's own configuration, if it lies in the (possibly narrowed) space."""
    try:
        return settings.space.validate(settings.space.paper_config(data))
    except SpaceError:
        return None


def _first_config(settings: Settings, data: str) -> dict[str, Any]:
    """A configuration that the sweep may run: the first listed, the paper's own, or a draw."""
    import numpy as np

    if settings.search["name"] == "listed":
        return dict(settings.search["configs"][0])
    return _papers_own(settings, data) or settings.space.sample(np.random.default_rng(settings.seed))


def sweep_row(settings: Settings, paper: type[Paper]) -> dict[str, Any]:
    """The row of a new sweep in the table `sweeps`."""
    objective = paper.metric(paper.objective)
    commit, dirty = provenance.code_version()
    return {
        "paper": paper.slug,
        "title": paper.title,
        "task": paper.task,
        "data": settings.data or paper.datasets[0],
        "data_dir": settings.data_dir,
        "objective": objective.name,
        "mode": objective.mode,
        "state": "running",
        "created": now(),
        "updated": now(),
        "trials_budget": settings.budget.get("trials"),
        "seeds": settings.seeds,
        "config": settings.to_yaml(),
        "space": settings.space.to_yaml(),
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": provenance.versions(),
        "command": shlex.join(["fairsweep", *sys.argv[1:]]),
    }


def _resumed_row(settings: Settings) -> dict[str, Any]:
    return {
        "state": "running",
        "config": settings.to_yaml(),
        "trials_budget": settings.budget["trials"],
        "updated": now(),
    }


def open_store(storage: str) -> Store:
    """The store at a folder or URI; UserError if it cannot be one."""
    try:
        return Store(locate(storage))
    except StoreError as error:
        raise UserError(str(error)) from None


def locate(storage: str) -> str:
    """`storage` as a URI or an absolute path.

    A job runs in a copy of its working directory that Ray deletes later: there a relative path is taken from
    the home folder.
    """
    if "://" in storage:
        return storage
    here = Path.cwd()
    base = Path.home() if RAY_COPIES in here.as_posix() else here
    return str((base / Path(storage).expanduser()).resolve())


def new_name(store: Store, wanted: str | None, slug: str) -> str:
    """The name of a new sweep: the one that is wanted, or one that begins with `slug`. UserError if it is taken."""
    if wanted is None:
        return _free_name(store, slug)
    if store.has(wanted):
        raise UserError(
            f"name={wanted}: {store.uri} has a sweep of this name; choose another or `fairsweep resume {wanted}`"
        )
    return wanted


def _free_name(store: Store, slug: str) -> str:
    base = f"{slug}-{datetime.now():%Y%m%d-%H%M%S}"
    name, n = base, 2
    while store.has(name):
        name, n = f"{base}-{n}", n + 1
    return name
