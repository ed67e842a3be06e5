"""The job `run`: configuration -> Tune -> Arrow; and `resume`, which is the same from where the store is."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fairsweep.analysis.store import Store, SweepRecord, SweepWriter
from fairsweep.analysis.text import bounded
from fairsweep.cluster import config, masking, objectives
from fairsweep.cluster.config import Settings, data_at_hand
from fairsweep.cluster.display import Display
from fairsweep.cluster.engine.aims import Aims
from fairsweep.cluster.engine.breeding import Breeder
from fairsweep.cluster.engine.checkpoints import Checkpoints, Keeper
from fairsweep.cluster.engine.conductor import Conductor, Rules, Trial, now
from fairsweep.cluster.engine.lean import nothing_compiled
from fairsweep.cluster.engine.local import connected
from fairsweep.cluster.engine.nodes import Room, cluster_of
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.replay import replay
from fairsweep.cluster.errors import MissingData, UserError
from fairsweep.cluster.jobs import growth, metrics, provenance, readiness, sources
from fairsweep.cluster.jobs.driving import Result, drive
from fairsweep.cluster.jobs.perturbing import settled
from fairsweep.cluster.jobs.tracked import check as check_tracker
from fairsweep.cluster.jobs.tracked import options_of, tell_end, tracked
from fairsweep.cluster.storage import new_name, open_store
from fairsweep.search_spaces.algorithms import OUTSIDE, create_scheduler, create_search
from fairsweep.search_spaces.space import SpaceError
from fairsweep.trainables import catalog
from fairsweep.trainables.base import DataError, Paper, Setting
from fairsweep.trainables.own import known
from fairsweep.trainables.parts import told_by

Attach = Callable[[Conductor], None]
COMMAND = 20_000  # characters of the command line that are kept


def run(settings: Settings, display: Display | None = None, attach: Attach | None = None) -> Result:
    """Runs a new sweep to its end. UserError if the configuration cannot run as it stands.

    attach: is given the conductor before the first trial; whoever offers configurations from outside begins then.
    """
    _check_fed(settings, attach)
    store = open_store(settings.storage)
    paper = settings.paper
    name = new_name(store, settings.name, paper.slug)
    rehearse(settings, paper)
    preflight(settings, paper)
    settings, notes = settled(settings, paper, *first_trial(settings, paper))
    with engine(settings, store) as room:
        writer = store.create(
            name,
            sweep_row(settings, paper),
            config_fields=settings.space.arrow_fields(),
            metric_names=[m.name for m in paper.metrics],
        )
        return _drive(settings, paper, store, name, writer, None, room, display or Display(), notes, attach)


def _check_fed(settings: Settings, attach: Attach | None) -> None:
    """UserError where configurations are to come from outside, and nobody brings them."""
    if settings.search["name"] == OUTSIDE and attach is None:
        sweep = settings.search.get("sweep")
        raise UserError(
            f"search.name={OUTSIDE}: W&B says what runs; use `fairsweep agent {sweep or 'SWEEP_ID'}`"
        )


def resume(
    storage: str,
    name: str,
    changes: list[str],
    display: Display | None = None,
    attach: Attach | None = None,
) -> Result:
    """Takes a sweep up where its store says that it was; `budget.trials=+20` lets it grow."""
    store = open_store(storage)
    found = store.read(name)
    store.check_free(name)
    part = json.loads(found.sweep.get("comparison") or "{}")
    if part:
        raise UserError(
            f"{name}: is a sweep of the comparison {part['run']}, whose methods all get the same; `fairsweep resume "
            f"{part['run']}` goes on with all of it"
        )
    settings, again = growth.regrown(found, changes, config.check)
    _check_fed(settings, attach)
    paper = settings.paper
    preflight(settings, paper)
    with engine(settings, store) as room:
        writer = store.open(name)
        if again:
            growth.retry_failed(writer)
        record = writer.record
        writer.sweep(**_resumed_row(settings))
        news = sources.enter(writer, paper)
        return _drive(settings, paper, store, name, writer, record, room, display or Display(), news, attach)


@contextlib.contextmanager
def engine(settings: Settings, store: Store) -> Iterator[Room]:
    """Connects to Ray, makes sure that it can run the sweep, and yields how many trials run at a time."""
    metrics.check(settings)
    check_tracker(settings)
    budget = settings.budget
    trials = budget["trials"] * settings.seeds if budget.get("trials") else None
    most = min(filter(None, (budget["concurrent"], trials)), default=None)
    with connected({**cluster_of(settings), "concurrent": most}):
        yield readiness.room(cluster_of(settings), budget["concurrent"], store.uri, settings.data_dir)


def _drive(
    settings: Settings,
    paper: type[Paper],
    store: Store,
    name: str,
    writer: SweepWriter,
    record: SweepRecord | None,
    room: Room,
    display: Display,
    notes: tuple[str, ...] = (),
    attach: Attach | None = None,
) -> Result:
    mode = paper.metric(paper.objective).mode
    checkpoints = Checkpoints(store.checkpoint_dir(name))
    keeper = Keeper(checkpoints, settings.keep_checkpoints, mode, display.note)
    made: list[Conductor] = []

    def make(on_end: Callable[[Trial], None]) -> Conductor:
        made.append(make_conductor(settings, paper, writer, room.slots, record, on_end, checkpoints))
        keeper.known(made[0].trials.values())
        return made[0]

    post, untracked = tracked(make_post(settings, store, name))
    notes += (*untracked, *sources.found_out(paper), *room.notes)
    declared = paper.space().parameters
    given = {name: p.value for name, p in settings.space.parameters.items() if p.fixed and not p.choices}
    notes += masking.warned({n: v for n, v in given.items() if n not in declared or v != declared[n].value})
    notes += tuple(settings.space.beyond(paper.space().for_data(settings.data or paper.datasets[0])))
    result = drive(settings, store, name, writer, make, post, display, keeper.ended, attach, notes=notes)
    if result.state == "finished":
        keeper.closed(made[0].trials.values())
    if result.state != "interrupted":
        tell_end(store, [post.tracking], display.note)
    return result


def make_conductor(
    settings: Settings,
    paper: type[Paper],
    writer: SweepWriter,
    concurrent: int,
    record: SweepRecord | None = None,
    on_end: Callable[[Trial], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Conductor:
    """The conductor of a sweep, brought to where `record` says that it was. checkpoints: where trials keep theirs."""
    objective = paper.metric(paper.objective)
    data = settings.data or paper.datasets[0]
    steps = settings.budget["steps"]
    own = _papers_own(settings, data)
    base = paper.fidelity(_first_config(settings, data), steps)
    search = dict(settings.search)
    modes, limits = objectives.aims(settings.tree, paper)
    way = tuple(modes.values()) or objective.mode
    algorithm = create_search(search.pop("name"), settings.space, way, settings.seed, **search)
    early = dict(settings.scheduler)
    scheduler = create_scheduler(
        early.pop("name"), objective.mode, base.minimum, base.maximum, settings.space, settings.seed, **early
    )

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
        columns={**origin(paper, data), "trainers": settings.trainers},
        on_end=on_end,
    )
    if modes:
        conductor.aims = Aims(modes, limits)
    if scheduler.name == "pbt" and checkpoints is not None:
        conductor.nursery = Breeder(conductor, checkpoints)
    if record is not None:
        replay(conductor, record)
    return conductor


def allowance(settings: Settings, record: SweepRecord | None) -> dict[str, Any]:
    """What `Rules` say of time, faults and what all trials take together."""
    return {
        "minutes": settings.budget["minutes"],
        "spent_s": growth.used_s(record) if record else 0.0,
        "timeout_s": settings.budget["trial_timeout"],
        "retries": settings.budget["retries"],
        "total_steps": settings.budget.get("total_steps"),  # no settings of a search for networks
        "total_s": 60 * minutes if (minutes := settings.budget.get("total_minutes")) is not None else None,
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


def make_post(settings: Settings, store: Store, name: str) -> Post:
    """What the workers of a sweep are told."""
    lead = objectives.led(settings.tree)
    return Post(
        sweep=name,
        paper=settings.trainable,
        checkpoints=store.checkpoint_dir(name),
        source=sources.carried(settings),
        metric=lead["metric"],
        mode=lead["mode"],
        data=settings.data,
        data_dir=settings.data_dir,
        steps=settings.budget.get("steps"),
        threads=max(1, int(settings.cluster["cpus_per_trial"])),
        plugins=os.environ.get("FAIRSWEEP_PLUGINS", ""),
        folder=os.getcwd(),
        report_s=settings.budget["report_seconds"],
        checkpoint_s=settings.budget["checkpoint_seconds"],
        keep=settings.keep_checkpoints,
        breeds=(settings.tree.get("scheduler") or {}).get("name") == "pbt",  # a search for networks has none
        tracking=options_of(settings, store, name),
        split_seed=settings.tree.get("split_seed"),  # nor these
        test=settings.tree.get("test", True),
        trainers=settings.tree.get("trainers", 1),
        each={"CPU": settings.cluster["cpus_per_trial"], "GPU": settings.cluster["gpus_per_trial"]},
    )


def rehearse(settings: Settings, paper: type[Paper]) -> None:
    """Makes once what the sweep is run with, so that what cannot be made is refused before the store is touched."""
    unwritten: Any = None  # nothing is written before a leg is handed out
    try:
        make_conductor(settings, paper, unwritten, 1)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, ValueError):  # of ours, which names the field
            raise UserError(str(error)) from None
        raise UserError(f"trainable={settings.trainable}: {type(error).__name__}: {error}") from None


def preflight(settings: Settings, paper: type[Paper]) -> Mapping[str, str]:
    """Builds one trial here, so that missing data or an impossible setting is one line, not N failed trials.

    MissingData, too, where what will run cannot be trained on these data. Gives digests of the parts of its data,
    where it is built and says them.
    """
    _check_suited(settings, paper)
    try:
        own = known.source_of(paper) is not None
        return told_by(built(settings, paper), own).get("parts", {})
    except MissingData:
        raise
    except Exception as error:
        print(f"fairsweep: warning: the first configuration does not build: {error}", file=sys.stderr)
        return {}


def _check_suited(settings: Settings, paper: type[Paper]) -> None:
    """MissingData for a configuration that is sure to run and that the data do not suit."""
    data, search = settings.data or paper.datasets[0], settings.search
    sure = search["configs"] if search["name"] == "listed" else [_first_config(settings, data)]
    with data_at_hand():
        for config in sure:
            try:
                paper.suited(config, data, settings.data_folder)
            except DataError:
                raise
            except Exception as error:
                raise UserError(
                    f"trainable={settings.trainable}: its unsuited() raises {type(error).__name__}: {error}; see the"
                    " trainable"
                ) from None


def built(settings: Settings, paper: type[Paper]) -> Paper:
    """A trial that the sweep may run, made ready to train. MissingData, and whatever the paper raises."""
    with data_at_hand(), known.at_home(paper), nothing_compiled():
        made = paper()
        made.setup(*first_trial(settings, paper))
    return made


def first_trial(settings: Settings, paper: type[Paper]) -> tuple[dict[str, Any], Setting]:
    """A trial that the sweep may run: its configuration and where it runs."""
    config = _first_config(settings, settings.data or paper.datasets[0])
    return config, Setting(
        settings.seed,
        "cpu",
        settings.data,
        settings.data_folder,
        settings.budget["steps"],
        split_seed=settings.split_seed,
        test=settings.test,
    )


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
    modes, limits = objectives.aims(settings.tree, paper)
    commit, dirty = provenance.code_version()
    return {
        "paper": paper.slug,
        "title": paper.title,
        "task": paper.task,
        "data": settings.data or paper.datasets[0],
        "data_dir": settings.data_dir,
        "objective": objective.name,
        "mode": objective.mode,
        **({"objectives": json.dumps(modes), "constraints": json.dumps(limits)} if modes else {}),
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
        "plugin": catalog.plugin_of(paper),
        **sources.columns(paper),
        "command": bounded(masking.command(["fairsweep", *sys.argv[1:]]), COMMAND),
    }


def _resumed_row(settings: Settings) -> dict[str, Any]:
    return {
        "state": "running",
        "config": settings.to_yaml(),
        "data_dir": settings.data_dir,
        "trials_budget": settings.budget["trials"],
        "updated": now(),
    }
