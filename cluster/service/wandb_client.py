"""W&B's server, as far as sweeps need it: what a sweep is, agents and their heartbeats, its state. Of wandb 0.31.

The client's own agent has no door for whoever wants to run many trials at a time, so its two operations (CreateAgent,
Heartbeat) are sent here, by the client's connection, which knows keys, proxies and when to try again.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fairsweep.cluster.errors import DriverEnded, UserError

PART = re.compile(r"[^/\\:?#%]+")  # of such a path: what W&B takes in the names of projects
PAGE = re.compile(r"https?://[^/]+/([^/]+)/([^/]+)/sweeps/([^/]+)")
WAIT_S = 60.0  # that a heartbeat may take, with all that the client tries again
GONE = 404

CREATE_AGENT = """
mutation CreateAgent($host: String!, $projectName: String, $entityName: String, $sweep: String!) {
  createAgent(input: {host: $host, projectName: $projectName, entityName: $entityName, sweep: $sweep}) {
    agent { id }
  }
}
"""
HEARTBEAT = """
mutation Heartbeat($id: ID!, $metrics: JSONString, $runState: JSONString) {
  agentHeartbeat(input: {id: $id, metrics: $metrics, runState: $runState}) {
    agent { id }
    commands
  }
}
"""
SET_STATE = """
mutation UpsertSweepState($id: ID!, $state: String!) {
  upsertSweep(input: {id: $id, state: $state}) { sweep { state } }
}
"""


class SweepGone(Exception):
    """The server says that the sweep, or this agent of it, is no more."""


class Unanswered(Exception):
    """The server could not be asked; it may be later. In one line."""


@dataclass(frozen=True)
class Place:
    """Where a sweep lies."""

    entity: str
    project: str
    sweep: str

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}/{self.sweep}"


def connected() -> Any:
    """W&B's own `Api`. UserError in one line where there is no key, or no client that has sweeps."""
    import wandb

    try:
        signed_in = wandb.login(prompt=False, verify=False)
    except Exception as error:  # W&B's errors have no common base
        raise UserError(f"W&B cannot be used here: {first_line(error)}") from None
    if not signed_in:
        raise UserError("W&B has no API key here; set WANDB_API_KEY or run `wandb login`")
    api = wandb.Api(timeout=int(WAIT_S))
    if not hasattr(getattr(api, "_service_api", None), "execute_graphql"):
        raise UserError(f"wandb {wandb.__version__}: sweeps need 0.31; pip install 'wandb>=0.31'")
    return api


def parts_of(text: str) -> list[str]:
    """[ENTITY, PROJECT,] SWEEP_ID of a path, or of the URL of a sweep's page. UserError for anything else."""
    path = text.strip()
    if "://" in path:
        found = PAGE.fullmatch(path.partition("?")[0].rstrip("/"))
        parts = list(found.groups()) if found else []
    else:
        parts = path.split("/")
    if not 0 < len(parts) <= 3 or not all(part.strip() and PART.fullmatch(part) for part in parts):
        raise UserError(
            f"{text}: must be SWEEP_ID, PROJECT/SWEEP_ID, ENTITY/PROJECT/SWEEP_ID or the URL of its page,"
            " https://wandb.ai/ENTITY/PROJECT/sweeps/SWEEP_ID"
        )
    return parts


def place_of(text: str, api: Any, project: str | None = None) -> Place:
    """Where [ENTITY/PROJECT/]SWEEP_ID lies; entity and project by the environment, else the user's own. UserError."""
    parts = parts_of(text)
    text, sweep = "/".join(parts), parts[-1]
    project = parts[-2] if len(parts) > 1 else os.environ.get("WANDB_PROJECT") or project
    if not project:
        raise UserError(f"{text}: its project is not known; say PROJECT/{sweep} or set WANDB_PROJECT")
    entity = parts[0] if len(parts) > 2 else os.environ.get("WANDB_ENTITY")
    try:
        entity = entity or api.default_entity
    except Exception as error:
        raise UserError(
            f"W&B does not say who you are ({first_line(error)}); say ENTITY/{project}/{sweep}"
        ) from None
    if not entity:
        raise UserError(f"{text}: its entity is not known; say ENTITY/{project}/{sweep} or set WANDB_ENTITY")
    return Place(entity, project, sweep)


class Client:
    """One sweep at the server."""

    def __init__(self, api: Any, place: Place) -> None:
        """UserError if W&B does not know the sweep."""
        self.api, self.place = api, place
        try:
            self._sweep = api.sweep(place.path)
            self.config: dict[str, Any] = dict(self._sweep.config or {})
            self.state = str(self._sweep.state).upper()
        except Exception as error:
            raise UserError(f"{place.path}: W&B does not know this sweep: {first_line(error)}") from None

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.config.get("parameters") or {})

    @property
    def prefix(self) -> str:
        """What stands before our names in those of the sweep's parameters: `space.` where they are words of `run`."""
        names = list(self.parameters)
        return "space." if names and all(name.startswith("space.") for name in names) else ""

    def register(self) -> str:
        """A new agent's id. DriverEnded, in one line, where the server refuses it."""
        where = {
            "entityName": self.place.entity,
            "projectName": self.place.project,
            "sweep": self.place.sweep,
        }
        try:
            answer = self._asked(CREATE_AGENT, {"host": socket.gethostname(), **where})
        except (SweepGone, Unanswered) as error:
            raise DriverEnded(f"{self.place.path}: W&B takes no agent for it: {first_line(error)}") from None
        return str(answer["createAgent"]["agent"]["id"])

    def beat(self, agent: str, runs: Iterable[str]) -> list[dict[str, Any]]:
        """Says which runs live, and gives what the server wants: commands of type run, stop, exit or resume.

        SweepGone, Unanswered.
        """
        said = {"id": agent, "metrics": "{}", "runState": json.dumps(dict.fromkeys(runs, True))}
        commands = json.loads(self._asked(HEARTBEAT, said)["agentHeartbeat"]["commands"] or "[]")
        return [command for command in commands if isinstance(command, dict)]

    def set_state(self, state: str) -> None:
        """RUNNING, PAUSED, CANCELED or FINISHED. Unanswered."""
        try:
            self._asked(SET_STATE, {"id": self._sweep._attrs["id"], "state": state})
        except SweepGone as error:
            raise Unanswered(str(error)) from None

    def _asked(self, query: str, said: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self.api._service_api.execute_graphql(
                query, variables=said, timeout=WAIT_S
            )
        except Exception as error:
            response = getattr(error, "response", None)
            if getattr(response, "http_status", None) == GONE:
                raise SweepGone(first_line(error)) from None
            raise Unanswered(first_line(error)) from None
        return answer


def close_run(place: Place, run: str, exit_code: int, said: Mapping[str, Any], folder: str) -> None:
    """Ends a run that no worker has, such as one whose configuration is wrong. said: into its summary. Unanswered."""
    import wandb

    os.makedirs(folder, exist_ok=True)
    try:
        opened = wandb.init(
            entity=place.entity, project=place.project, id=run, resume="allow", reinit="create_new", dir=folder,
            mode="online",
            settings=wandb.Settings(
                sweep_id=place.sweep, console="off", silent=True, x_disable_stats=True, init_timeout=WAIT_S,
                save_code=False,
            ),
        )  # fmt: skip
        opened.summary.update(dict(said))
        opened.finish(exit_code=exit_code)
    except Exception as error:
        raise Unanswered(first_line(error)) from None


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
