"""The stand-in of W&B's server, asked by the real client: what the tests of tracking and of agents rest on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from tests.wandb_server import PROJECT, Server, known_to_wandb


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    with known_to_wandb(monkeypatch) as made:
        yield made


def start(name: str, sweep: str | None = None, **config: Any) -> Any:
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, sweep_id=sweep)
    return wandb.init(project=PROJECT, id=name, config=config, resume="allow", group="g", settings=settings)


@pytest.mark.slow
def test_a_server_that_falters_is_asked_again_and_nothing_is_lost(server: Server) -> None:
    server.fail(500, times=1, where="UpsertBucket")
    server.fail(429, times=1, where="file_stream")
    server.fail(None, times=1, where="file_stream")
    run = start("one")
    run.log({"loss": 1.5})
    run.finish()
    assert server.runs["one"].values("loss") == [1.5] and server.runs["one"].state == "finished"
    assert server.refused == {"500": 1, "429": 1, "cut": 1}


def test_a_run_arrives_whole_and_goes_on_where_it_was(server: Server) -> None:
    sweep = server.sweep({"method": "random", "parameters": {"lr": {"values": [0.1]}}})
    run = start("one", sweep, lr=0.1)
    for step in (1, 2):
        run.log({"loss": 1.5 / step}, step=step)
    run.finish(exit_code=3)
    made = server.runs["one"]
    assert made.values("loss") == [1.5, 0.75] and made.summary["loss"] == 0.75
    assert (made.state, made.exitcode, made.sweep, made.config["lr"]) == ("failed", 3, sweep, 0.1)
    assert made.sent["groupName"] == "g"
    assert not server.refused, "it knows all that the client asks"
    again = start("one")
    assert again.starting_step == 3, "the client was told how far it had come"
    again.log({"loss": 0.5}, step=3)
    again.finish()
    assert made.values("loss") == [1.5, 0.75, 0.5] and made.state == "finished" and made.starts == 2


def test_agents_get_runs_one_at_a_time_orders_and_an_end(server: Server) -> None:
    sweep = server.sweep({"method": "grid"}, [{"lr": 1}, {"lr": 2}])
    agent = server._CreateAgent({"sweep": sweep})["createAgent"]["agent"]["id"]

    def beat(*alive: str) -> list[dict[str, Any]]:
        import json

        said = {"id": agent, "runState": json.dumps(dict.fromkeys(alive, True)), "metrics": "{}"}
        return list(json.loads(server._Heartbeat(said)["agentHeartbeat"]["commands"]))

    (first,) = beat()
    assert first["args"] == {"lr": {"value": 1}}
    assert beat(first["run_id"]) == []
    server.stop(first["run_id"])
    assert beat(first["run_id"]) == [{"type": "stop", "run_id": first["run_id"]}]
    assert [c["type"] for c in beat()] == ["run"] and [c["type"] for c in beat()] == ["exit"]
