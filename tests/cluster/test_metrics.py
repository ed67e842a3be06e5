"""What a driver tells Prometheus: read by Prometheus' own parser, true, refused without the token, and next to free."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from fairsweep.cluster import config, doors
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.display import Display
from fairsweep.cluster.engine.fleet import Fleet, Lane
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import metrics, prometheus
from fairsweep.cluster.jobs.growth import changed
from tests.cluster.test_conductor import engine

TOKEN = "a-token-of-the-test"
Sample = dict[tuple[str, str], float]


@contextlib.contextmanager
def answering(driven: Any, name: str = "s") -> Iterator[str]:
    registry = prometheus.of(name, driven)
    server = prometheus.Server(registry, TOKEN, doors.listen("127.0.0.1", 0))
    try:
        yield server.url
    finally:
        server.close()


def asked(url: str, token: str = TOKEN, accept: str = "") -> str:
    headers = {"Authorization": f"Bearer {token}", "Accept": accept}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read().decode()


def samples(text: str) -> Sample:
    """The value of each sample, by its name and its state or ""."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.name.startswith("fairsweep_") and "fairsweep_build" not in family.name:
                assert sample.labels["sweep"] == "s", sample
            if "le" not in sample.labels:
                found[sample.name, sample.labels.get("state", "")] = sample.value
    return found


def test_what_is_told_is_what_the_store_says(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=6", "search=tpe")
    assert run.conductor is not None
    with answering(run.conductor) as url:
        before = samples(asked(url))
        assert before["fairsweep_trials", "complete"] == before["fairsweep_reports_total", ""] == 0
        assert before["fairsweep_trials_expected", ""] == 6
        slots = run.conductor.rules.concurrent
        assert before["fairsweep_workers", "idle"] == slots and before["fairsweep_workers", "busy"] == 0
        leg = run.conductor.next_leg()
        assert leg is not None
        during = samples(asked(url))
        assert during["fairsweep_workers", "busy"] == 1 and during["fairsweep_trials", "running"] == 1
        assert during["fairsweep_workers", "idle"] == slots - 1
        run.conductor.lost(leg.trial, "gone")
        run.run()
        text = asked(url)
    after = samples(text)
    assert after["fairsweep_trials", "complete"] == 6 and after["fairsweep_trials", "running"] == 0
    assert after["fairsweep_reports_total", ""] == run.store.table("results", "s").num_rows == 54
    assert after["fairsweep_lost_workers_total", ""] == 1
    assert after["fairsweep_suggestion_duration_seconds_count", ""] == 5  # the first is the paper's own
    assert after["fairsweep_append_duration_seconds_count", ""] > 6
    assert 0 < after["fairsweep_append_duration_seconds_sum", ""] < 60
    assert after["fairsweep_elapsed_seconds", ""] > 0
    assert after["process_resident_memory_bytes", ""] > 2**20


def test_names_are_as_prometheus_wants_them(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=2")
    with answering(run.conductor) as url:
        text = asked(url, accept="application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics(text)}
    ours = {name: family for name, family in families.items() if name.startswith("fairsweep_")}
    assert set(ours) == {
        "fairsweep_append_duration_seconds", "fairsweep_build", "fairsweep_elapsed_seconds",
        "fairsweep_lost_workers", "fairsweep_reports", "fairsweep_suggestion_duration_seconds",
        "fairsweep_trials", "fairsweep_trials_expected", "fairsweep_workers",
    }  # fmt: skip
    for name, family in ours.items():
        assert family.documentation and family.type in ("gauge", "counter", "histogram", "info")
        assert "_total" not in name and not name.endswith(("_ms", "_s", "_mb"))


def status(url: str, headers: dict[str, str], method: str = "GET") -> int:
    try:
        request = urllib.request.Request(url, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        assert b"fairsweep_" not in error.read()
        return error.code


def test_without_the_token_everything_is_refused(tmp_path: Path) -> None:
    def listening() -> set[Any]:
        return {c.laddr for c in psutil.Process().net_connections() if c.status == "LISTEN"}

    run, others = engine(tmp_path, "trainable=test_bowl", "budget.trials=2"), listening()
    with answering(run.conductor) as url:
        assert url.startswith("http://127.0.0.1:")
        ours = listening() - others
        assert ours and all(doors.is_loopback(address.ip) for address in ours)
        for path in ("", "/", "/metrics/x", "?token=" + TOKEN):
            for value in (None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"):
                headers = {} if value is None else {"Authorization": value}
                assert status(url + path, headers) == 401, (path, value)
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert status(url, right) == 200 and status(url.removesuffix("/metrics") + "/", right) == 404
        for method in ("POST", "PUT", "DELETE"):
            assert status(url, right, method) == 501


def test_a_fleet_is_told_of_as_one_with_what_was_closed(tmp_path: Path) -> None:
    runs = [
        engine(tmp_path, "trainable=test_bowl", "budget.trials=2", "search=random", name=f"r{k}")
        for k in range(2)
    ]
    lanes, loss = [], {"val_loss": 1.0}
    for k, run in enumerate(runs):
        conductor = run.conductor
        lanes.append(Lane(f"r{k}", conductor, "{}", lambda c=conductor: c.close() and None, lambda: None))  # type: ignore[misc]
    fleet = Fleet(1, lambda: lanes.pop(0) if lanes else None)
    with answering(fleet) as url:
        assert samples(asked(url))["fairsweep_trials", "complete"] == 0
        seen = []
        while (leg := fleet.next_leg()) is not None:
            conductor, trial = fleet.find(leg.key)
            report = {
                "trial": trial, "status": "complete", "cost_s": 0.1, "test": {}, "kept": None,
                "rows": [{"step": s, "wall_s": 0.1, "time": time.time(), "metrics": loss} for s in range(1, 10)],
            }  # fmt: skip
            conductor.reports([report])
            seen.append(samples(asked(url)))
    assert [s["fairsweep_trials", "complete"] for s in seen] == [1, 2, 3, 4]
    assert [s["fairsweep_reports_total", ""] for s in seen] == [9, 18, 27, 36]
    assert not fleet.lanes and seen[-1]["fairsweep_trials_expected", ""] == 4


class Notes(Display):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "token"
    monkeypatch.setenv(doors.TOKEN_FILE, str(file))
    return file


def test_it_answers_only_while_the_sweep_runs_and_only_if_asked(tmp_path: Path, token_file: Path) -> None:
    run = engine(tmp_path / "store", "trainable=test_bowl", "budget.trials=2")
    conductor, shown = run.conductor, Notes()
    assert conductor is not None
    off, on = (config.load(["trainable=test_bowl", *more]) for more in ([], ["metrics.port=0"]))
    with metrics.told(off, "s", conductor, shown):
        assert not shown.said and conductor.asker.on_ask is None and conductor.writer.on_append is None
    assert not token_file.exists()
    with metrics.told(on, "s", conductor, shown):
        (line,) = shown.said
        assert line.startswith("metrics: http://127.0.0.1:") and str(token_file) in line
        token = token_file.read_text().strip()
        assert token not in line
        url = line.split()[1].rstrip(",")
        assert samples(asked(url, token))["fairsweep_trials", "complete"] == 0
    with pytest.raises(urllib.error.URLError):
        asked(url, token)


def test_a_port_that_is_taken_is_said_before_anything_begins(tmp_path: Path, token_file: Path) -> None:
    run = engine(tmp_path / "store", "trainable=test_bowl", "budget.trials=2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        settings = config.load(["trainable=test_bowl", f"metrics.port={taken.getsockname()[1]}"])
        with pytest.raises(UserError, match=r"metrics\.port=\d+: is taken; choose another"):
            metrics.check(settings)
        shown = Notes()
        with metrics.told(settings, "s", run.conductor, shown):  # taken since
            assert "no metrics: metrics.port=" in shown.said[0]
        words = [
            "trainable=test_bowl",
            f"metrics.port={taken.getsockname()[1]}",
            f"storage={tmp_path / 'new'}",
        ]
        assert run_cli(["run", *words]) == 2 and not (tmp_path / "new").exists()
    token_file.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        metrics.check(config.load(["trainable=test_bowl", "metrics.port=0"]))


def test_bad_settings_are_one_line() -> None:
    for word, said in (
        ("metrics.port=-1", "metrics.port=-1: must be a whole number of at least 0"),
        ("metrics.port=65536", "metrics.port=65536: must be a whole number from 0 to 65535"),
        ("metrics.port=web", "metrics.port=web: must be a whole number"),
        ("metrics.port=1.5", "metrics.port=1.5: must be a whole number"),
    ):
        with pytest.raises(UserError) as refused:
            config.load(["trainable=test_bowl", word])
        assert said in str(refused.value)


def test_a_sweep_of_an_older_version_is_resumed_with_metrics_and_without() -> None:
    raw = dict(config.load(["trainable=test_bowl"]).tree)
    del raw["metrics"]
    assert metrics.port_of(config.check(raw)) is None
    from omegaconf import OmegaConf

    assert metrics.port_of(config.check(changed(OmegaConf.create(raw), ["metrics.port=9464"]))) == 9464
