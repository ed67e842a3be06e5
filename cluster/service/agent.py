"""`fairsweep agent`: runs a sweep of W&B's on Ray. W&B says what is tried (random, grid, bayes) and what is stopped.

The sweep is one of the store like any other, called `wandb-<id>`; where the store has it, it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairsweep.analysis.store import Store
from fairsweep.cluster import DEFAULT_STORAGE, config
from fairsweep.cluster.display import Display
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.driving import Result
from fairsweep.cluster.service import sweep_words
from fairsweep.cluster.service.searching import settings_in
from fairsweep.cluster.service.slots import BEAT_S, Agents
from fairsweep.cluster.service.wandb_client import Client, connected, parts_of, place_of
from fairsweep.cluster.storage import open_store
from fairsweep.search_spaces.algorithms import OUTSIDE
from fairsweep.trainables import catalog

FIRST_OF_ALL = ("storage", "name")  # settings that say where a sweep is


@dataclass(frozen=True)
class Answer:
    """How an agent ended. problem: why it took no more runs, where that was no regular end."""

    result: Result
    problem: str


def run(
    text: str,
    words: Sequence[str],
    parallel: int | None = None,
    count: int | None = None,
    display: Display | None = None,
    every: float = BEAT_S,
) -> Answer:
    """Takes runs of the sweep [ENTITY/PROJECT/]SWEEP_ID until it ends, or `count` were taken. UserError, DriverEnded.

    words: settings as of `run`, beside those of the sweep's command. parallel: runs at a time; None: all slots.
    """
    wrong = sweep_words.refused(words)
    if wrong is not None:
        raise UserError(f"{wrong}: W&B's sweep decides that, and there are never two searches on one sweep")
    parts_of(text)
    client = Client(api := connected(), place_of(text, api))
    _check_asks(client)
    given = {key: value for key, _, value in (word.partition("=") for word in words) if key in FIRST_OF_ALL}
    storage = given.get("storage", DEFAULT_STORAGE)
    name = given.get("name", f"wandb-{client.place.sweep}")
    words = [word for word in words if word.partition("=")[0] not in FIRST_OF_ALL]
    store = open_store(storage)
    if store.has(name):
        return _again(client, store, storage, name, _at_once(words, parallel), count, display, every)
    settings = settings_for(client, words, storage, name, parallel)
    _check_parameters(client, settings)
    agents = _agents(client, settings, store, count, display, every)
    agents.prepare()
    try:
        result = sweep.run(settings, display, agents.attach)
    finally:
        agents.close()
    return Answer(result, agents.problem)


def resume(storage: str, name: str, changes: list[str], display: Display | None = None) -> Answer:
    """Goes on with the sweep `name` of the store, which an agent has begun."""
    found = open_store(storage)
    tree = settings_in(found, name)
    client = Client(api := connected(), place_of(tree["search"]["sweep"], api))
    return _again(client, found, storage, name, changes, None, display, BEAT_S)


def is_agents(store: Store, name: str) -> bool:
    """Whether a sweep of the store was run by an agent."""
    return store.has(name) and (settings_in(store, name).get("search") or {}).get("name") == OUTSIDE


def _again(
    client: Client,
    store: Store,
    storage: str,
    name: str,
    changes: list[str],
    count: int | None,
    display: Display | None,
    every: float,
) -> Answer:
    tree = settings_in(store, name)
    of = (tree.get("search") or {}).get("sweep")
    if of != client.place.path:
        raise UserError(
            f"name={name}: {store.uri} has a sweep of this name, which is none of {client.place.path}; say name="
        )
    settings = config.check(tree)
    agents = _agents(client, settings, store, count, display, every)
    agents.prepare()
    try:
        result = sweep.resume(storage, name, changes, display, agents.attach)
    finally:
        agents.close()
    return Answer(result, agents.problem)


def _at_once(words: Sequence[str], parallel: int | None) -> list[str]:
    return [*words, *([f"budget.concurrent={parallel}"] if parallel else [])]


def _check_asks(client: Client) -> None:
    """UserError for a sweep of which no agent will ever get a run."""
    if client.state in ("FINISHED", "CANCELED", "STOPPED"):
        raise UserError(f"{client.place.path}: is {client.state.lower()}: W&B hands out no more runs of it")
    if client.config.get("method") == "custom" and not client.config.get("scheduler"):
        raise UserError(
            f"{client.place.path}: the driver that made it runs it itself; W&B hands out no runs of it"
        )


def settings_for(
    client: Client, words: Sequence[str], storage: str, name: str, parallel: int | None
) -> config.Settings:
    """The settings of a new sweep of the store for one of W&B's."""
    own = sweep_words.settings_of(client.config)
    said = {word.partition("=")[0] for word in words}
    words = [*(w for w in own if w.partition("=")[0] not in said), *_at_once(words, parallel)]
    if not any(word.partition("=")[0] in ("trainable", "experiment") for word in words):
        raise UserError(
            f"{client.place.path}: its command is none of fairsweep's (`fairsweep space SLUG --to wandb` writes one);"
            " say what to run by trainable=<slug> or trainable=file.py:name"
        )
    tree = config.as_mapping(config.compose_tree([*words, "tracking=wandb", "tracking.mode=online"]))
    metric, goal = _metric(client)
    if metric and tree["metric"] is None:
        own_code = config.is_reference(tree["trainable"])
        if own_code or metric != catalog.get(tree["trainable"]).objective:
            tree |= {"metric": metric, **({"mode": goal} if own_code and tree["mode"] is None else {})}
    place = client.place
    tree["search"] = {"name": OUTSIDE, "sweep": place.path}
    tree["budget"] = {**tree["budget"], "trials": None}
    tree["tracking"] = {
        **tree["tracking"],
        "entity": place.entity,
        "project": place.project,
        "agent": {
            "sweep": place.sweep,
            "project": place.project,
            "entity": place.entity,
            "names": list(client.parameters),
        },
    }
    tree |= {"storage": storage, "name": name}
    if tree["seeds"] != 1:
        raise UserError(f"seeds={tree['seeds']}: a run of W&B's is one trial, so seeds must be 1")
    settings = config.check(tree)
    objective = settings.paper.metric(settings.paper.objective)
    if metric == objective.name and goal != objective.mode:
        raise UserError(
            f"{place.path}: metric.goal={goal}imize: {objective.name} of {settings.trainable} is {objective.mode}imized"
        )
    return settings


def _metric(client: Client) -> tuple[str | None, str]:
    """The sweep's metric, which random and grid need not have, and min or max."""
    said = client.config.get("metric") or {}
    return said.get("name"), "max" if str(said.get("goal", "minimize")).lower() == "maximize" else "min"


def _check_parameters(client: Client, settings: config.Settings) -> None:
    """UserError if the sweep varies what the trainable does not have."""
    known = settings.space.parameters
    for name in client.parameters:
        own = name.removeprefix(client.prefix)
        if own not in known and not any(other.startswith(f"{own}.") for other in known):
            raise UserError(
                f"{client.place.path}: its parameter {name}: {settings.trainable} has none of this name;"
                f" {config.hint(own, list(known))}"
            )


def _agents(
    client: Client,
    settings: config.Settings,
    store: Store,
    count: int | None,
    display: Display | None,
    every: float,
) -> Agents:
    folder = Path.cwd() if "://" in store.uri else Path(store.uri)
    data = settings.data or settings.paper.datasets[0]
    where = folder / "wandb" / f"wandb-{client.place.sweep}"
    say = display.note if display is not None else lambda text: None
    return Agents(client, settings.space, data, str(where), count, every, say)
