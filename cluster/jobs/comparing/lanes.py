"""A sweep as a lane of a fleet: begun, or taken up where the store says that it was."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

from fairsweep.analysis.store import Store
from fairsweep.cluster import config
from fairsweep.cluster.config import Settings
from fairsweep.cluster.display import Display
from fairsweep.cluster.engine.checkpoints import Checkpoints, Keeper
from fairsweep.cluster.engine.conductor import now
from fairsweep.cluster.engine.fleet import Lane
from fairsweep.cluster.jobs import growth, sources, sweep
from fairsweep.cluster.jobs.driving import Books
from fairsweep.trainables.own.source import is_reference


def open_lane(
    settings: Settings, store: Store, name: str, comparison: str, concurrent: int, display: Display
) -> Lane:
    """Opens the sweep `name`. settings: of a new one; one that the store has keeps its own.

    comparison: what the sweep's row says of the comparison that it is of (JSON), "" if it is of none. concurrent:
    trials at a time.
    """
    record, news = None, tuple[str, ...]()
    if store.has(name):
        # The text is that of the whole comparison, see `job.texts_of`.
        own = bool(comparison) and is_reference(settings.trainable)
        settings, _ = growth.regrown(store.read(name), [sources.STORED] if own else [], config.check)
    paper = settings.paper
    if store.has(name):
        writer = store.open(name)
        record = writer.record
        writer.sweep(state="running", updated=now())
        news = sources.enter(writer, paper)
    else:
        writer = store.create(
            name,
            {**sweep.sweep_row(settings, paper), **({"comparison": comparison} if comparison else {})},
            config_fields=settings.space.arrow_fields(),
            metric_names=[m.name for m in paper.metrics],
        )
    with contextlib.ExitStack() as undo:
        undo.callback(writer.close, state="interrupted")
        mode = paper.metric(paper.objective).mode
        checkpoints = Checkpoints(store.checkpoint_dir(name))
        keeper = Keeper(checkpoints, settings.keep_checkpoints, mode, display.note)
        wanted = settings.budget["concurrent"]
        conductor = sweep.make_conductor(
            settings, paper, writer, min(concurrent, wanted or concurrent), record, keeper.ended, checkpoints
        )
        keeper.known(conductor.trials.values())
        post, untracked = sweep.tracked(sweep.make_post(settings, store, name))
        conductor.on_note = display.note
        for text in (*news, *untracked, *sources.found_out(paper)):
            conductor.note(text)
        undo.pop_all()
    books = Books(conductor, writer, display)

    def close() -> None:
        if books.close() == "finished":
            keeper.closed(conductor.trials.values())

    return Lane(name, conductor, json.dumps(asdict(post)), close, books.abandon)
