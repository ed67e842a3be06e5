"""A stand-in of W&B's server on loopback, for the real client: runs, sweeps with their agents, and a server's bad days.

    with serving() as server:
        server.environment(monkeypatch)

It answers what wandb 0.31.0 was seen to ask (GraphQL by the name of the operation, file streams, files). What a test
wants of it is said by its methods; what a client did is in `runs`, `sweeps`, `requests`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

ENTITY, PROJECT, KEY = "someone", "bowls", "k" * 40
ALIVE = {"pending", "running", "preempting"}


@dataclass
class Run:
    """One run as the server knows it. rows: its history, by line; exitcode: None until the client says one."""

    name: str
    sweep: str | None = None
    state: str = "pending"
    args: dict[str, Any] = field(default_factory=dict)  # what an agent is given, name -> value
    config: dict[str, Any] = field(default_factory=dict)  # name -> value
    sent: dict[str, Any] = field(
        default_factory=dict
    )  # what UpsertBucket said last of group, jobType, displayName ...
    files: dict[str, list[str]] = field(default_factory=dict)  # lines by the stream's file
    uploads: dict[str, bytes] = field(default_factory=dict)
    starts: int = 0
    exitcode: int | None = None
    preempting: bool = False
    stopped: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files.get("wandb-history.jsonl", [])]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.files.get("wandb-summary.json") or ["{}"]
        return dict(json.loads(lines[-1]))

    def values(self, metric: str) -> list[Any]:
        return [row[metric] for row in self.rows if metric in row]


@dataclass
class Sweep:
    """A sweep: its configurations wait in `waiting` until an agent that is idle asks for one."""

    name: str
    config: dict[str, Any]
    state: str = "RUNNING"
    waiting: deque[str] = field(default_factory=deque)
    burst: int = 1  # runs of one answer: the real server's agents work one at a time
    endless: bool = False  # no `exit` when nothing waits: more may come

    @property
    def controller(self) -> str:
        return f"{self.name}-controller"


@dataclass
class Agent:
    name: str
    sweep: str
    beats: int = 0
    alive: list[str] = field(default_factory=list)  # of its last heartbeat
    orders: deque[dict[str, Any]] = field(default_factory=deque)  # for its next one
    exited: bool = False


@dataclass
class Fault:
    """What is answered instead: a status, or a cut connection (None). where: in the operation's name or the path."""

    where: str
    status: int | None
    times: int


class Server:
    """State and answers; each answer holds `lock`, and so does a test that looks at more than one thing."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, Agent] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.refused: Counter[str] = Counter()  # by what: faults, 401, unknown operations
        self.faults: list[Fault] = []
        self.features = {"SWEEPS_LOCAL_SCHEDULER"}
        self.url = ""
        self._away = False
        self._count = 0

    # What a test says and asks.

    def environment(self, patch: pytest.MonkeyPatch) -> None:
        """Makes this server the W&B of this process, and of those that it starts."""
        for name, value in self.variables().items():
            patch.setenv(name, value)

    def variables(self) -> dict[str, str]:
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ENTITY": ENTITY,
            "WANDB_PROJECT": PROJECT,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
        }

    def sweep(
        self,
        config: Mapping[str, Any],
        runs: Sequence[Mapping[str, Any]] = (),
        burst: int = 1,
        endless: bool = False,
    ) -> str:
        """Makes a sweep whose search answers `runs`, in order; its id."""
        with self.lock:
            made = Sweep(self._id("sweep"), dict(config), burst=burst, endless=endless)
            self.sweeps[made.name] = made
            for values in runs:
                self.offer(made.name, values)
        return made.name

    def offer(self, sweep: str, values: Mapping[str, Any], name: str | None = None) -> str:
        """One more configuration for whoever asks; the id its run will have."""
        with self.lock:
            run = Run(name or self._id("run"), sweep, args=dict(values), config=dict(values))
            self.runs[run.name] = run
            self.sweeps[sweep].waiting.append(run.name)
        return run.name

    def stop(self, run: str) -> None:
        """What the button in the page does: its agent is told at each heartbeat, and its file stream, too."""
        with self.lock:
            self.runs[run].stopped = True

    def order(self, **command: Any) -> None:
        """A command for every agent at its next heartbeat, such as type="exit"."""
        with self.lock:
            for agent in self.agents.values():
                agent.orders.append(dict(command))

    def fail(self, status: int | None = 500, times: int = 1, where: str = "") -> None:
        """The next `times` requests with `where` in operation or path get this status, or a cut connection (None)."""
        with self.lock:
            self.faults.append(Fault(where, status, times))

    def away(self, gone: bool) -> None:
        """Cuts every connection until it is called with False."""
        self._away = gone

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """The variables of each request of one operation, or the bodies of file streams (`file_stream`)."""
        with self.lock:
            return [said for name, said in self.requests if name == operation]

    def of_sweep(self, sweep: str) -> list[Run]:
        with self.lock:
            return [run for run in self.runs.values() if run.sweep == sweep]

    # What a client asks.

    def _id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count:04d}"

    def _trouble(self, what: str) -> Fault | None:
        if self._away:
            return Fault("away", None, 1)
        for fault in self.faults:
            if fault.times > 0 and fault.where in what:
                fault.times -= 1
                return fault
        return None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        graphql = request.path.endswith("/graphql")
        said: dict[str, Any] = {}
        what = request.path
        if graphql:
            asked = json.loads(body)
            named = re.search(r"\b(?:query|mutation)\s+(\w+)", asked["query"])
            what, said = (named[1] if named else "?"), asked.get("variables") or {}
        elif what.endswith("/file_stream"):
            said = json.loads(body or b"{}")
        with self.lock:
            trouble = self._trouble(what)
            if trouble is not None:
                self.refused[f"{trouble.status or 'cut'}"] += 1
                if trouble.status is None:
                    assert request.transport is not None
                    request.transport.abort()
                return web.Response(status=trouble.status or 500, text="trouble, as the test asked for")
            if request.method != "PUT" and request.headers.get("Authorization") != _basic(KEY):
                self.refused["401"] += 1
                return web.Response(status=401, text="no such key")
            self.requests.append((what if graphql else what.rsplit("/", 1)[-1], said))
            if request.method == "PUT" and what.startswith("/storage/"):
                _, _, run, name = what.split("/", 3)
                self._run(run).uploads[name] = body
                return web.Response()
            if what.endswith("/file_stream"):
                return web.json_response(self._stream(what.split("/")[-2], said))
            answer: Callable[[dict[str, Any]], Any] | None = getattr(self, f"_{what}", None)
            if not graphql or answer is None:
                self.refused[what] += 1
                return web.Response(status=404, text=f"the stand-in knows nothing of {what}")
            try:
                return web.json_response({"data": answer(said)})
            except LookupError as error:
                return web.json_response({"errors": [{"message": str(error)}], "data": None})

    def _run(self, name: str) -> Run:
        return self.runs.setdefault(name, Run(name))

    def _stream(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        run = self._run(name)
        for file, chunk in said.get("files", {}).items():
            lines = run.files.setdefault(file, [])
            lines[chunk["offset"] : chunk["offset"] + len(chunk["content"])] = chunk["content"]
        run.preempting = run.preempting or bool(said.get("preempting"))
        if run.preempting and run.state == "running":
            run.state = "preempting"
        if said.get("complete"):
            run.exitcode = said.get("exitcode")
            run.state = self._ended(run)
        return {"stopped": True} if run.stopped else {}

    def _ended(self, run: Run) -> str:
        if run.exitcode == 0:
            return "finished"
        if run.preempting and run.sweep is not None:  # the real server gives it to an agent once more
            self.sweeps[run.sweep].waiting.appendleft(run.name)
            run.preempting = False
            return "preempted"
        return "killed" if run.stopped else "failed"

    def _Viewer(self, said: dict[str, Any]) -> Any:
        mail = f"{ENTITY}@example.org"
        viewer = {
            "id": "u1",
            "entity": ENTITY,
            "username": ENTITY,
            "email": mail,
            "flags": "{}",
            "admin": False,
        }
        return {"viewer": {**viewer, "teams": {"edges": []}, "apiKeys": {"edges": []}}}

    def _ServerFeaturesQuery(self, said: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": [{"name": n, "isEnabled": True} for n in sorted(self.features)]}}

    def _UpsertBucket(self, said: dict[str, Any]) -> Any:
        known = said.get("name") in self.runs
        run = self._run(said.get("name") or said["id"])
        run.sent.update({k: v for k, v in said.items() if v is not None})
        if said.get("sweep"):
            run.sweep = said["sweep"]
        if said.get("config"):
            run.config.update({k: v["value"] for k, v in json.loads(said["config"]).items()})
        if said.get("name") and run.state != "running":  # it says so at its end, too, when it still runs
            run.state, run.exitcode = said.get("state") or "running", None
            run.starts += 1
        return {"upsertBucket": {"inserted": not known, "bucket": self._bucket(run)}}

    def _bucket(self, run: Run) -> dict[str, Any]:
        owner = {"id": "e1", "name": ENTITY}
        return {
            "id": run.name,
            "name": run.name,
            "displayName": run.sent.get("displayName") or run.name,
            "description": None,
            "config": json.dumps({k: {"value": v} for k, v in run.config.items()}),
            "sweepName": run.sweep,
            "historyLineCount": len(run.rows),
            "project": {"id": "p1", "name": PROJECT, "entity": owner},
        }

    def _RunResumeStatus(self, said: dict[str, Any]) -> Any:
        model = {"id": "p1", "name": PROJECT, "entity": {"id": "e1", "name": ENTITY}, "bucket": None}
        run = self.runs.get(said["name"])
        if run is None:
            return {"model": model}
        counts = {f"{n}LineCount": len(run.files.get(f, [])) for n, f in STREAMS.items()}
        tail = json.dumps(run.files.get("wandb-history.jsonl", [])[-1:])
        bucket = {
            **self._bucket(run),
            **counts,
            "historyTail": tail,
            "eventsTail": "[]",
            "tags": [],
            "notes": None,
        }
        # Without the telemetry `t` of an earlier start, the client takes the run for one that has not begun.
        bucket |= {
            "summaryMetrics": json.dumps(run.summary),
            "wandbConfig": json.dumps({"t": 1} if run.starts else {}),
        }
        return {"model": {**model, "bucket": bucket}}

    def _CreateRunFiles(self, said: dict[str, Any]) -> Any:
        files = [{"name": n, "uploadUrl": f"{self.url}/storage/{said['run']}/{n}"} for n in said["files"]]
        return {"createRunFiles": {"runID": said["run"], "uploadHeaders": [], "files": files}}

    def _sweep(self, name: str) -> Sweep:
        if name not in self.sweeps:
            raise LookupError(f"could not find sweep {name}")
        return self.sweeps[name]

    def _shown(self, sweep: Sweep) -> dict[str, Any]:
        return {
            "id": sweep.name,
            "name": sweep.name,
            "method": sweep.config.get("method"),
            "state": sweep.state,
            "description": None,
            "config": yaml.safe_dump(sweep.config, sort_keys=False),
            "displayName": sweep.config.get("name"),
            "controllerRunName": sweep.controller,
            **dict.fromkeys(("createdAt", "heartbeatAt", "updatedAt", "controller", "scheduler", "bestLoss")),
            "earlyStopJobRunning": False,
        }

    def _SweepWithRuns(self, said: dict[str, Any]) -> Any:
        sweep = self.sweeps.get(said["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        edges = [{"node": self._polled(run, [])} for run in self.of_sweep(sweep.name)]
        return {"project": {"sweep": {**self._shown(sweep), "runs": {"edges": edges}}}}

    def _GetSweep(self, said: dict[str, Any]) -> Any:
        sweep = self.sweeps.get(said["name"])
        if sweep is None:
            return {"project": {"sweep": None}}
        counts = {"__typename": "Sweep", "runCount": len(self.of_sweep(sweep.name)), "runCountExpected": None}
        return {"project": {"sweep": {**self._shown(sweep), **counts}}}

    _GetSweepLegacy = _GetSweep

    def _GetDefaultEntity(self, said: dict[str, Any]) -> Any:
        return {"viewer": {"id": "u1", "entity": ENTITY}}

    def _SweepConfig(self, said: dict[str, Any]) -> Any:
        return {"project": {"sweep": self._shown(self._sweep(said["sweep"]))}}

    def _GetSweepState(self, said: dict[str, Any]) -> Any:
        return {"project": {"sweep": {"state": self._sweep(said["sweep"]).state}}}

    def _UpsertSweep(self, said: dict[str, Any]) -> Any:
        if said.get("id"):
            sweep = self._sweep(said["id"])
            sweep.state = said.get("state") or sweep.state
            if said.get("config"):
                sweep.config = yaml.safe_load(said["config"])
        else:
            sweep = self.sweeps[self.sweep(yaml.safe_load(said["config"]))]
        project = {
            "id": "p1",
            "name": said.get("projectName") or PROJECT,
            "entity": {"id": "e1", "name": ENTITY},
        }
        return {
            "upsertSweep": {"sweep": {"name": sweep.name, "project": project}, "configValidationWarnings": []}
        }

    def _UpsertSweepState(self, said: dict[str, Any]) -> Any:
        self._sweep(said["id"]).state = said["state"]
        return {"upsertSweep": {"sweep": {"state": said["state"]}}}

    def _CreateAgent(self, said: dict[str, Any]) -> Any:
        agent = Agent(self._id("agent"), self._sweep(said["sweep"]).name)
        self.agents[agent.name] = agent
        return {"createAgent": {"agent": {"id": agent.name}}}

    def _Heartbeat(self, said: dict[str, Any]) -> Any:
        agent = self.agents[said["id"]]
        sweep = self._sweep(agent.sweep)
        agent.beats += 1
        agent.alive = list(json.loads(said["runState"]))
        stopped = [run for run in agent.alive if self.runs[run].stopped]
        commands = [*agent.orders, *({"type": "stop", "run_id": run} for run in stopped)]
        agent.orders.clear()
        if sweep.state in ("CANCELED", "FINISHED", "STOPPED"):
            commands.append({"type": "exit"})
        elif not agent.alive and sweep.state == "RUNNING":
            for _ in range(min(sweep.burst, len(sweep.waiting))):
                run = self.runs[sweep.waiting.popleft()]
                args = {k: {"value": v} for k, v in run.args.items()}
                kind = "resume" if run.state == "preempted" else "run"
                commands.append(
                    {"type": kind, "run_id": run.name, "program": sweep.config.get("program"), "args": args}
                )
            if not commands and not sweep.endless:
                commands.append({"type": "exit"})
        agent.exited = agent.exited or any(c["type"] == "exit" for c in commands)
        return {"agentHeartbeat": {"agent": {"id": agent.name}, "commands": json.dumps(commands)}}

    def _polled(self, run: Run, specs: Sequence[str]) -> dict[str, Any]:
        sampled = [[r for r in run.rows if all(k in r for k in json.loads(s)["keys"])][-20:] for s in specs]
        return {
            "id": run.name,
            "name": run.name,
            "state": run.state,
            "config": json.dumps({k: {"value": v} for k, v in run.config.items()}),
            "exitcode": run.exitcode,
            "heartbeatAt": None,
            "shouldStop": run.stopped,
            "failed": run.state == "failed",
            "stopped": run.stopped,
            "running": run.state == "running",
            "summaryMetrics": json.dumps(run.summary),
            "sampledHistory": sampled,
        }

    def _page(self, runs: Sequence[Run], said: dict[str, Any]) -> dict[str, Any]:
        edges = [{"node": self._polled(run, said.get("historySpecs") or [])} for run in runs]
        return {"pageInfo": {"hasNextPage": False, "endCursor": None}, "edges": edges}

    def _SweepRunsWithHistory(self, said: dict[str, Any]) -> Any:
        sweep = self._sweep(said["sweep"])
        return {
            "project": {"sweep": {"state": sweep.state, "runs": self._page(self.of_sweep(sweep.name), said)}}
        }

    def _SweepWatchedRuns(self, said: dict[str, Any]) -> Any:
        sweep = self._sweep(said["sweep"])
        named = set(re.findall(r'"([^"]+)"', said["filters"]))
        runs = [run for run in self.of_sweep(sweep.name) if run.name in named]
        return {"project": {"sweep": {"state": sweep.state}, "runs": self._page(runs, said)}}

    def _EnqueueSweepRun(self, said: dict[str, Any]) -> Any:
        values = json.loads(said["config"])
        name = self.offer(
            said["id"], {k: v["value"] if isinstance(v, dict) else v for k, v in values.items()}
        )
        return {"enqueueSweepRun": {"id": name, "runQueueItemId": f"item-{name}"}}

    def _StopRun(self, said: dict[str, Any]) -> Any:
        self.stop(said["id"])
        return {"stopRun": {"success": True}}

    def _RunState(self, said: dict[str, Any]) -> Any:
        return {"project": {"run": {"id": said["run"], "state": self._run(said["run"]).state}}}


STREAMS = {"history": "wandb-history.jsonl", "events": "wandb-events.jsonl", "log": "output.log"}


def _basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"api:{key}".encode()).decode()


@contextmanager
def known_to_wandb(patch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The stand-in as the W&B of this process; its client reads its environment once, so it forgets another one."""
    import wandb

    with serving() as server:
        server.environment(patch)
        wandb.teardown()
        yield server
        wandb.teardown()


@contextmanager
def serving() -> Iterator[Server]:
    """The stand-in at a free port of 127.0.0.1, in a thread of its own."""
    server, loop, up = Server(), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def live() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        up.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    assert up.wait(20)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)


def inspected(file: Path, *words: str) -> str:
    """What W&B's own reader, that of `wandb leet inspect`, finds in a run's file; without a Python of its own."""
    from wandb.util import get_core_path

    reader = [get_core_path(), "leet", "inspect", *words, "--run-file", str(file), str(file.parent)]
    return subprocess.run(reader, capture_output=True, text=True, timeout=60, check=True).stdout
