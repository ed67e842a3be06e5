"""`fairsweep wandb`: our search decides what runs in a sweep of W&B's; agents, ours or W&B's, on any machine run it.

The search's side is a sweep of the store: what was asked, what came of it, what is left of the budget. Where it ends in
whatever way, `fairsweep wandb SWEEP_ID` goes on by the store and by what W&B knows of the runs.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fairsweep.analysis.store import Store, SweepRecord, SweepWriter
from fairsweep.cluster import config
from fairsweep.cluster.display import Display
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.errors import DriverEnded, UserError
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.driving import Result
from fairsweep.cluster.service.sweep_words import of_run
from fairsweep.cluster.service.wandb_client import Client, Place, connected, first_line, parts_of, place_of
from fairsweep.cluster.storage import new_name, open_store

BATCH, POLL_S = 10, 10.0  # as W&B's own scheduler
STOPPING = ("none", "median")  # schedulers that stop trials and pause none
SERVERS = ("bayes", "random", "grid")


def run(
    words: Sequence[str], batch: int | None = None, poll_s: float = POLL_S, display: Display | None = None
) -> Result:
    """Registers a sweep at W&B for the settings `words`, and drives it to its end. UserError, DriverEnded."""
    settings = config.check(_tree(words))
    check(settings)
    store = open_store(settings.storage)
    paper = settings.paper
    name = new_name(store, settings.name, paper.slug)
    sweep.rehearse(settings, paper)
    api = connected()
    place = _register(api, settings, name, of_run(words))
    settings.tree["tracking"] = {**settings.tree["tracking"], "scheduler": place.path}
    writer = store.create(
        name,
        sweep.sweep_row(settings, paper),
        config_fields=settings.space.arrow_fields(),
        metric_names=[m.name for m in paper.metrics],
    )
    return _drive(
        Client(api, place), settings, store, writer, None, batch or BATCH, poll_s, display or Display()
    )


def resume(
    text: str, storage: str, batch: int | None = None, poll_s: float = POLL_S, display: Display | None = None
) -> Result:
    """Goes on with the search of [ENTITY/PROJECT/]SWEEP_ID. UserError if that is not ours, or of another store."""
    parts_of(text)
    client = Client(api := connected(), place_of(text, api))
    name = searched_as(client)
    store = open_store(storage)
    if not store.has(name):
        raise UserError(
            f"{client.place.path}: is searched by the sweep {name} of another store than {store.uri}; say storage="
        )
    settings = config.check(settings_in(store, name))
    if settings.tracking.get("scheduler") != client.place.path:
        raise UserError(f"{client.place.path}: {store.uri} has a sweep {name}, which is another one")
    writer = store.open(name)
    writer.sweep(state="running")
    return _drive(
        client, settings, store, writer, writer.record, batch or BATCH, poll_s, display or Display()
    )


def searched_as(client: Client) -> str:
    """The sweep in our store whose search a sweep of W&B's is made for; UserError for one that has another search."""
    path, method = client.place.path, str(client.config.get("method"))
    if method in SERVERS:
        raise UserError(
            f"{path}: W&B's server searches it (method: {method}), and there are never two searches on one sweep;"
            f" `fairsweep agent {client.place.sweep}` runs it, `fairsweep wandb trainable=...` makes one for our search"
        )
    scheduler = client.config.get("scheduler") or {}
    if scheduler.get("source") != "fairsweep" or not scheduler.get("optimizer"):
        engine = scheduler.get("engine")
        who = f"W&B's scheduler searches it by {engine}" if engine else "its own driver says what runs"
        raise UserError(f"{path}: {who}, and there are never two searches on one sweep")
    return str(scheduler["optimizer"])


def scheduled(store: Store, name: str) -> str | None:
    """W&B's sweep for which the sweep `name` of the store searches, if it does."""
    found = (settings_in(store, name).get("tracking") or {}).get("scheduler") if store.has(name) else None
    return str(found) if found else None


def check(settings: config.Settings) -> None:
    """UserError for what cannot be said to W&B's scheduler."""
    stops, budget = settings.scheduler["name"], settings.budget
    if stops not in STOPPING:
        raise UserError(
            f"scheduler={stops}: W&B's runs can be stopped, not paused and promoted; take {' or '.join(STOPPING)}, or"
            " `fairsweep run ... tracking=wandb`"
        )
    if settings.seeds != 1:
        raise UserError(f"seeds={settings.seeds}: a run of W&B's is one trial, so seeds must be 1")
    for limit in ("minutes", "total_minutes"):
        if budget.get(limit) is not None:
            raise UserError(
                f"budget.{limit}={budget[limit]}: agents of other machines train on whatever time it is; say"
                " budget.trials or budget.total_steps"
            )
    if isinstance(settings.metric, list) and len(settings.metric) > 1:
        raise UserError(f"metric={settings.metric}: W&B's scheduler knows one metric here")


def _tree(words: Sequence[str]) -> dict[str, Any]:
    said = {word.partition("=")[0] for word in words}
    if "tracking" in said:
        raise UserError("tracking: is W&B's here, whose runs these are")
    return config.as_mapping(config.compose_tree([*words, "tracking=wandb", "tracking.mode=online"]))


def settings_in(store: Store, name: str) -> dict[str, Any]:
    """The settings of a sweep of the store, unchecked: those of a search for networks have other keys."""
    from omegaconf import OmegaConf

    return config.as_mapping(OmegaConf.create(store.table("sweeps", name).to_pylist()[0]["config"]))


def _register(api: Any, settings: config.Settings, name: str, words: Sequence[str]) -> Place:
    from fairsweep.cluster.service.wandb_scheduler import config_of

    told = space_of(settings)
    command = list(told["command"])
    at = command.index("run") + 1
    command[at : at + 1] = words  # which name the trainable, too
    return register(api, settings, config_of(name, {**told, "command": command}))


def space_of(settings: config.Settings) -> dict[str, Any]:
    """The sweep's space and metric, as W&B knows them."""
    objective = settings.paper.metric(settings.paper.objective)
    return settings.space.to_wandb(objective.name, objective.mode)


def register(api: Any, settings: config.Settings, told: Mapping[str, Any]) -> Place:
    """Makes a sweep at W&B, in the project of the group `tracking`. UserError where it is refused."""
    import wandb

    tracking = settings.tracking
    entity, project = tracking["entity"], str(tracking["project"])
    try:
        entity = entity or place_of(f"{project}/new", api).entity
        with contextlib.redirect_stdout(sys.stderr):  # W&B says where it is
            made = wandb.sweep(dict(told), entity=entity, project=project)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"tracking.project={project}: W&B makes no sweep there: {first_line(error)}"
        ) from None
    return Place(str(entity), project, made)


def _drive(
    client: Client,
    settings: config.Settings,
    store: Store,
    writer: SweepWriter,
    record: SweepRecord | None,
    batch: int,
    poll_s: float,
    display: Display,
) -> Result:
    import wandb
    from wandb.proto import wandb_sweep_scheduler_pb2
    from wandb.sdk.sweeps.scheduler.client import run_scheduler

    from fairsweep.cluster.service.wandb_scheduler import ConductorOptimizer

    # Made when it is imported: no types.
    reasons = cast(Any, wandb_sweep_scheduler_pb2).SweepSchedulerServerDoneTask
    place, paper = client.place, settings.paper
    with writer:
        conductor = sweep.make_conductor(settings, paper, writer, batch, record)
        conductor.on_note = display.note
        conductor.on_end = display.ended
        display.begin(writer.name, store.uri, settings, conductor, writer.recovery)
        display.note(
            f"its runs wait for agents: `fairsweep agent {place.path}`, or W&B's own, on any machine"
        )
        data = settings.data or paper.datasets[0]
        try:
            done = run_scheduler(
                entity=place.entity,
                project=place.project,
                sweep_id=place.sweep,
                make_optimizer=lambda info: ConductorOptimizer(
                    info, conductor, writer.name, data, _runs(record)
                ),
                batch_size=batch,
                poll_interval=poll_s,
            )
            if done.reason not in (reasons.REASON_SWEEP_FINISHED, reasons.REASON_TERMINATED):
                conductor.interrupt()
            return Result(writer.name, store.uri, _close(conductor, writer))
        except (wandb.Error, ValueError) as error:
            conductor.abandon()
            writer.close(state="interrupted")
            raise DriverEnded(f"{first_line(error)}; `fairsweep wandb {place.path}` goes on") from None
        finally:
            display.end()


def _close(conductor: Conductor, writer: SweepWriter) -> str:
    state = conductor.close()
    if state == "finished" and not any(t.state in ("complete", "pruned") for t in conductor.trials.values()):
        state = "failed"
    writer.close(state=state)
    return state


def _runs(record: SweepRecord | None) -> Mapping[str, str]:
    from fairsweep.cluster.service.wandb_scheduler import RUN

    rows = record.trials.values() if record is not None else ()
    said = {row["trial"]: json.loads(row.get("attrs") or "{}") for row in rows}
    return {attrs[RUN]: trial for trial, attrs in said.items() if RUN in attrs}
