"""The job `nas`: search for networks; one sweep of jobs in the store, whatever the search does.

Whatever ends a run, `resume` goes on from the store's rows: scores are told to the algorithm again, jobs that had not
ended go on from their checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fairsweep.analysis.store import Store, SweepRecord, SweepWriter
from fairsweep.cluster.display import Display
from fairsweep.cluster.engine import group
from fairsweep.cluster.engine.checkpoints import Checkpoints
from fairsweep.cluster.engine.conductor import Conductor, Rules, Trial, now
from fairsweep.cluster.engine.nodes import Room
from fairsweep.cluster.engine.replay import replay
from fairsweep.cluster.engine.weights import Board
from fairsweep.cluster.jobs import growth, sweep
from fairsweep.cluster.jobs.driving import Result, drive
from fairsweep.cluster.jobs.nas import config as nas_config
from fairsweep.cluster.jobs.nas.config import FRONT_KIND, NASSettings
from fairsweep.cluster.jobs.nas.front import FrontRun
from fairsweep.cluster.jobs.nas.run import Run
from fairsweep.cluster.jobs.nas.supernet import SupernetRun
from fairsweep.cluster.storage import new_name, open_store
from fairsweep.search_spaces.algorithms.schedulers import NoScheduler
from fairsweep.trainables.nas._job import SearchJob

GROWABLE = {
    **{k: v for k, v in growth.GROWABLE.items() if k not in growth.OF_SWEEPS},
    "search.evaluations": int,
}


def make_run(settings: NASSettings, store: Store) -> Run:
    """The search that is configured."""
    kind = FrontRun if settings.algorithm["kind"] == FRONT_KIND else SupernetRun
    return kind(settings, store)


def run(settings: NASSettings, display: Display | None = None) -> Result:
    """Runs a new search to its end. UserError if the configuration cannot run as it stands."""
    store = open_store(settings.storage)
    name = new_name(store, settings.name, f"nas-{settings.algorithm['name']}")
    search = make_run(settings, store)
    search.check()
    with sweep.engine(settings, store) as room:
        writer = store.create(
            name,
            row(search),
            config_fields=settings.space.arrow_fields(),
            metric_names=[m.name for m in search.metrics],
        )
        return _drive(search, store, name, writer, None, room, display or Display())


def is_search(store: Store, name: str) -> bool:
    """Whether the sweep called `name` is a search for a network."""
    return bool(store.read(name).sweep["paper"] == SearchJob.slug)


def resume(storage: str, name: str, changes: list[str], display: Display | None = None) -> Result:
    """Takes a search up where its store says that it was."""
    store = open_store(storage)
    found = store.read(name)
    store.check_free(name)
    settings, again = growth.regrown(found, changes, nas_config.check, GROWABLE)
    with sweep.engine(settings, store) as room:
        writer = store.open(name)
        if again:
            growth.retry_failed(writer)
        record = writer.record
        writer.sweep(state="running", config=settings.to_yaml(), data_dir=settings.data_dir, updated=now())
        return _drive(make_run(settings, store), store, name, writer, record, room, display or Display())


def _drive(
    search: Run,
    store: Store,
    name: str,
    writer: SweepWriter,
    record: SweepRecord | None,
    room: Room,
    display: Display,
) -> Result:
    import ray

    board_name = f"fairsweep-{name}"
    board: Any = ray.remote(num_cpus=0)(Board).options(name=board_name).remote()
    held: list[Any] = []  # the object store keeps what is still referred to

    def share(key: str, arrays: Mapping[str, Any]) -> None:
        held[:] = [ray.put(dict(arrays))]
        ray.get(board.put.remote(key, held))

    search.attach(Checkpoints(store.checkpoint_dir(name)), share)
    search.begin(record)
    made: list[Conductor] = []

    def make(on_end: Callable[[Trial], None]) -> Conductor:
        made.append(make_conductor(search, writer, room.slots, record, on_end))
        return made[0]

    post, notes = sweep.tracked(sweep.make_post(search.settings, store, name))
    post = replace(post, board=board_name, vital=True)
    workers, options = search.settings.train["workers"], search.settings.cluster
    each = {"CPU": options["cpus_per_trial"], "GPU": options["gpus_per_trial"]}

    def train(conductor: Conductor) -> None:
        group.train(
            conductor, post, workers, each, lambda: search.trained(conductor), lambda: display.tick(conductor)
        )

    before = train if workers > 1 else None
    notes += room.notes
    try:
        result = drive(search.settings, store, name, writer, make, post, display, search.ended, before, notes)
    finally:
        ray.kill(board)
    search.report(store, name, made[0])
    if result.state != "interrupted":
        sweep.tell_end(store, [post.tracking], display.note)
    return result


def make_conductor(
    search: Run,
    writer: SweepWriter,
    concurrent: int,
    record: SweepRecord | None,
    on_end: Callable[[Trial], None] | None = None,
) -> Conductor:
    """The conductor of a search, brought to where `record` says that it was."""
    settings = search.settings
    objective = search.objective

    def fidelity(config: Mapping[str, Any]) -> tuple[int, int]:
        found = SearchJob.fidelity(config)
        return found.minimum, found.maximum

    conductor = Conductor(
        Rules(
            objective=objective.name,
            mode=objective.mode,
            trials=None,
            seeds=(settings.seed,),
            concurrent=concurrent,
            fidelity=fidelity,
            **sweep.allowance(settings, record),
        ),
        settings.space,
        search.algorithm(record),
        NoScheduler(),
        writer,
        columns=sweep.origin(SearchJob, settings.data_name),
        on_end=on_end,
    )
    if record is not None:
        replay(conductor, record)
    return conductor


def row(search: Run) -> dict[str, Any]:
    """The row of a new search in the table `sweeps`."""
    algorithm: Any = search.algorithm()
    return {
        **sweep.sweep_row(search.settings, SearchJob),
        "title": search.title,
        "objective": search.objective.name,
        "mode": search.objective.mode,
        "data": search.settings.data_name,
        "plugin": search.settings.plugin,
        "trials_budget": algorithm.expected,
    }
