"""`fairsweep bench build-table`: builds, goes on after an interruption, refuses what it cannot do in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fairsweep.cluster.cli import run_cli
from fairsweep.search_spaces.architectures.files import read_table
from fairsweep.trainables.tasks import truth_tables
from tests.trainables.test_truth_tables import TINY


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> truth_tables.Protocol:
    protocol = replace(TINY, architectures=2, seeds=1)
    monkeypatch.setattr(truth_tables, "PROTOCOLS", {"tiny": protocol})
    return protocol


def test_a_table_is_built_and_an_interrupted_build_goes_on(
    tiny: truth_tables.Protocol, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny.parquet"
    (first,) = truth_tables.build_rows(tiny, tmp_path / "tiny.jsonl", most=1)
    assert run_cli(["bench", "build-table", "tiny", "-o", str(out), "--processes", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"path": str(out), "architectures": 2, "trainings": 2, "protocol": tiny.digest}
    assert truth_tables.read_log(tmp_path / "tiny.jsonl", tiny)[0] == first, (
        "what was trained is not trained again"
    )
    table = read_table(out)
    assert len(table) == 2
    assert first["test_accuracy"] in table.values["test_accuracy"]


def test_what_cannot_be_built_is_one_line(
    tiny: truth_tables.Protocol, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "tiny.jsonl"
    log.write_text(json.dumps({"protocol": "another"}) + "\n")
    out = ["-o", str(tmp_path / "tiny.parquet")]
    for words, expected in (
        (["tinny"], "protocol=tinny: no such table; did you mean tiny"),
        (["tiny", "--processes", "0"], "--processes=0: must be at least 1"),
        (["tiny", *out], f"log={log}: of protocol another"),
    ):
        assert run_cli(["bench", "build-table", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert expected in error and "\n" not in error
    assert not (tmp_path / "tiny.parquet").exists()
