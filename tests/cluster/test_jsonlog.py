"""What a run says as JSON lines: each is as the schema says, and nothing on standard error is anything else."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fairsweep.cluster import jsonlog
from fairsweep.cluster.cli import run_cli
from tests.cluster.test_conductor import engine

CHECK = jsonschema.Draft202012Validator(jsonlog.SCHEMA, format_checker=jsonschema.FormatChecker())


def lines(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        CHECK.validate(line)
    return found


def test_a_run_is_told_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(jsonlog.SCHEMA)
    out = io.StringIO()
    configs = "search.configs=[{x: 0.1}, {x: 0.2, fault: raise}, {x: 0.3}]"
    run = engine(tmp_path, "trainable=test_faulty", "search=listed", configs, "budget.trials=3")
    shown = jsonlog.JsonDisplay(jsonlog.Lines(out))
    shown.begin("s", run.store.uri, run.settings, run.conductor, None)
    run.conductor.on_end, run.conductor.on_note = shown.ended, shown.note
    run.conductor.note("one thing to know")
    run.run()
    shown.closed("finished")
    begin, note, *trials, end = lines(out.getvalue())
    assert (begin["event"], begin["store"], begin["expected"]) == ("begin", run.store.uri, 3)
    assert (note["event"], note["message"], note["sweep"]) == ("note", "one thing to know", "s")
    rows = {row["trial"]: row for row in run.store.table("trials", "s").to_pylist()}
    assert {line["trial"] for line in trials} == set(rows) and len(trials) == 3
    for line in trials:
        row = rows[line["trial"]]
        assert (line["event"], line["state"], line["reason"]) == ("trial", row["state"], row["reason"])
        assert (line["level"] == "warning") == (row["state"] == "failed")
        assert line["config"] == json.loads(row["config_json"]) and line["steps"] == row["steps"]
        assert line["value"] == row["value"] or row["state"] == "failed"
    assert end["state"] == "finished" and end["trials"] == {"complete": 2, "failed": 1}


def test_whatever_is_printed_meanwhile_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with jsonlog.as_lines():
        print("fairsweep: error: x=1: wrong", file=sys.stderr)
        print("fairsweep: warning: a token", file=sys.stderr)
        print("fairsweep: claims run: 3 sweeps", file=sys.stderr)
        print("note: s: damaged", file=sys.stderr)
        logging.lastResort.emit(logging.makeLogRecord({"msg": "logged"}))  # type: ignore[union-attr]
        sys.stderr.write('\n  \n 10 %\r 20 %\r\n{"a": 1}\nhalf')
        assert not sys.stderr.isatty()
    found = lines(capsys.readouterr().err)
    assert [(f["level"], f["event"], f["message"]) for f in found][:4] == [
        ("error", "error", "x=1: wrong"), ("warning", "note", "a token"),
        ("info", "note", "claims run: 3 sweeps"), ("info", "note", "s: damaged"),
    ]  # fmt: skip
    rest = [f["message"] for f in found[4:]]
    assert rest[0] == "logged"
    assert rest[-3:] == [" 20 %", '{"a": 1}', "half"]


def test_lines_of_several_threads_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    made = jsonlog.Lines(out)
    threads = [
        threading.Thread(target=lambda k=k: [made.emit("note", f"{k}" * 50) for _ in range(200)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(out.getvalue())) == 800


def test_a_fault_of_ours_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, jsonlog.as_lines():
        raise ZeroDivisionError("no")
    assert ended.value.code == 1 and not isinstance(sys.stderr, jsonlog.Lines)
    (line,) = lines(capsys.readouterr().err)
    assert (line["event"], line["message"]) == ("error", "ZeroDivisionError: no")
    assert "Traceback" in line["traceback"]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "trainable=test_bowl", "budget.trials=no"],
        ["nas", "algorithm=none"],
        ["resume", "none"],
        ["compare", "test_bowl"],
        ["claims", "test_bowl", "seed=1"],
    ],
)
def test_a_wrong_request_is_one_json_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli([*words, "--log-format", "json"]) == 2
    out, err = capsys.readouterr()
    (line,) = lines(err)
    assert (line["level"], line["event"], out) == ("error", "error", "")
    monkeypatch.setenv(jsonlog.VARIABLE, "json")
    assert run_cli(words) == 2
    assert lines(capsys.readouterr().err)[0]["message"] == line["message"]
    assert run_cli([*words, "--log-format", "text"]) == 2
    assert capsys.readouterr().err == f"fairsweep: error: {line['message']}\n"


def test_another_format_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_cli(["resume", "s", "--log-format", "xml"]) == 2
    assert capsys.readouterr().err == "fairsweep: error: --log-format=xml: must be text or json\n"
    monkeypatch.setenv(jsonlog.VARIABLE, "yaml")
    assert run_cli(["resume", "s"]) == 2
    assert capsys.readouterr().err == "fairsweep: error: FAIRSWEEP_LOG_FORMAT=yaml: must be text or json\n"
