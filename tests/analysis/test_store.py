"""The store: nothing acknowledged is lost, nothing is there twice, and what is wrong is said."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsweep.analysis import (
    _appender,
    _lease,
    _log,
    _patience,
    _sealing,
    _state,
    _writer,
    schema,
    store,
)
from fairsweep.analysis._files import join
from fairsweep.analysis.store import Store, StoreDamaged, StoreError, SweepLocked, SweepWriter, UnknownSweep

FIELDS = [pa.field("config.lr", pa.float64()), pa.field("config.layers", pa.int64())]
METRICS = ["loss", "accuracy"]
TIME = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=timezone.utc)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here: what is in the page cache survives kill -9."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(_appender, "_sync", lambda handle: None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second look at what is damaged, where no writer is at work."""
    monkeypatch.setattr(_state, "_RETRY_S", ())


def create(where: Path | str, name: str = "s", **row: object) -> SweepWriter:
    return Store(where).create(name, {"paper": "p", **row}, config_fields=FIELDS, metric_names=METRICS)


def report(step: int, trial: str = "t0", **metrics: float) -> dict[str, object]:
    metrics = metrics or {"loss": step / 7}
    return {"trial": trial, "step": step, "time": TIME, **{f"metric.{k}": v for k, v in metrics.items()}}


def steps(where: Path | str, name: str = "s") -> list[int]:
    return Store(where).table("results", name).column("step").to_pylist()


def leave(writer: SweepWriter) -> None:
    """Ends a writer as kill -9 does: the lock is gone, nothing else has happened."""
    writer._release()


def log_file(where: Path, name: str = "s") -> Path:
    (found,) = (where / "log" / name).glob("*.log")
    return found


def unclosed(where: Path, appends: int = 60, seal_at: int | None = None) -> list[int]:
    """A sweep whose driver died; returns the log's size after each append."""
    writer = create(where)
    writer.seal_every = 1e9
    writer.seal()
    writer.trial("t0", number=0, config_id=0, state="running")
    ends = [log_file(where).stat().st_size]
    for step in range(appends):
        with writer.batch():
            writer.results([report(step)])
            if step % 3 == 0:
                writer.event("tell", step=step)
            writer.trial("t0", steps=step)
        ends.append(log_file(where).stat().st_size)
        if step == seal_at:
            writer.seal()
    leave(writer)
    return ends


# -- rows and columns ---------------------------------------------------------------------------------


def test_everything_that_goes_in_comes_out(tmp_path: Path) -> None:
    local = TIME.astimezone(timezone(timedelta(hours=-7)))
    for closed in (False, True):
        where = tmp_path / str(closed)
        with create(where, title="Ein Titel – ü\n", git_dirty=True, created=TIME) as w:
            fields = {"config.lr": 0.1, "config.layers": 3, "metric.accuracy": np.float32(0.5)}
            w.trial("t0", number=0, config_id=4, seed=2, pid=np.int64(7), started=local, **fields)
            w.results(
                [
                    report(1, loss=0.1 + 0.2),
                    report(2, loss=math.nan),
                    report(3, loss=-math.inf),
                    report(4, accuracy=1),
                ]
            )
            w.event("tell", trial="t0", value=[1.5, None])
            if closed:
                w.close(state="finished")
        record = Store(where).read("s")
        assert [r["step"] for r in record.results] == [1, 2, 3, 4]
        assert [r["seq"] for r in record.results] == [3, 4, 5, 6]
        losses = [r["metric.loss"] for r in record.results]
        assert losses[0] == 0.30000000000000004 and math.isnan(losses[1]) and losses[2] == -math.inf
        assert losses[3] is None and record.results[3]["metric.accuracy"] == 1.0
        assert all(r["time"] == TIME and r["time"].utcoffset() == timedelta(0) for r in record.results)
        trial = record.trials["t0"]
        assert (trial["config_id"], trial["seed"], trial["pid"], trial["started"]) == (4, 2, 7, TIME)
        assert (trial["config.lr"], trial["config.layers"], trial["metric.accuracy"]) == (0.1, 3, 0.5)
        assert trial["metric.loss"] is None and trial["sweep"] == "s"
        assert record.events == [{"seq": 7, "kind": "tell", "trial": "t0", "value": [1.5, None]}]
        assert (record.sweep["title"], record.sweep["git_dirty"]) == ("Ein Titel – ü\n", True)
        assert (record.sweep["created"], record.sweep["closed"], record.sweep["schema_version"]) == (
            TIME,
            closed,
            1,
        )
        loss = Store(where).table("results", "s").column("metric.loss")
        assert loss.null_count == 1 and loss.type == pa.float64()
        assert Store(where).table("results", "s").schema.field("time").type == pa.timestamp("us", "UTC")


def test_order_of_columns_is_the_schemas(tmp_path: Path) -> None:
    create(tmp_path).close(state="finished")
    names = Store(tmp_path).table("results", "s").column_names
    assert names == [
        *("seq", "sweep", "trial", "config_id", "seed", "step", "wall_s", "time"),
        *("metric.loss", "metric.accuracy"),
    ]
    trials = Store(tmp_path).table("trials", "s").column_names
    assert trials[trials.index("parent_step") + 1 : trials.index("started")] == [
        *("config.lr", "config.layers"),
        *("metric.loss", "metric.accuracy"),
    ]


def test_upserts_keep_what_they_do_not_name(tmp_path: Path) -> None:
    def check() -> None:
        trials = Store(tmp_path).read("s").trials
        assert list(trials) == ["b", "a"]
        assert (trials["b"]["state"], trials["b"]["seed"], trials["b"]["reason"]) == ("complete", 5, None)
        assert (trials["a"]["state"], trials["a"]["seed"]) == ("pending", 6)
        assert Store(tmp_path).read("s").sweep["title"] == "new"
        assert Store(tmp_path).read("s").sweep["paper"] == "p"

    with create(tmp_path) as w:
        w.trial("a", number=1, seed=6, state="pending")
        w.trial("b", number=0, seed=5, state="running", reason="old")
        w.seal()
        w.trial("b", state="complete", reason=None)
        w.sweep(title="new")
        check()
    check()
    with Store(tmp_path).open("s") as w:
        assert list(w.record.trials) == ["b", "a"]
        check()
        w.close(state="finished")
    check()


def test_text_that_is_no_unicode_is_stored_escaped(tmp_path: Path) -> None:
    with create(tmp_path) as w:
        w.trial("t", reason="caf\udce9.txt", error="ok \u00e9\n")
        w.event("note", text="lone \ud800", trial="t")
        w.close(state="finished")
    (row,) = Store(tmp_path).table("trials", "s").to_pylist()
    assert (row["reason"], row["error"]) == ("caf\\udce9.txt", "ok \u00e9\n")
    assert Store(tmp_path).notes("s") == ["trial t: lone \ud800"]


def test_a_folder_whose_name_is_no_unicode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"storage=.*caf\\udce9: is not valid Unicode"):
        Store(tmp_path / "caf\udce9")


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda w: w.results([report(0), {"trial": "t", "stepp": 1}]), KeyError, ["stepp", "step"]),
        (lambda w: w.results([{"trial": "t", "metric.f1": 1.0}]), KeyError, ["metric.f1"]),
        (lambda w: w.trial("t", colour="red"), KeyError, ["colour"]),
        (lambda w: w.sweep(closed=True), KeyError, ["closed"]),
        (lambda w: w.results([{"seq": 4}]), KeyError, ["seq"]),
        (lambda w: w.event("tell", seq=4), KeyError, ["seq"]),
        (lambda w: w.event("tell", at=TIME), TypeError, ["tell"]),
        (lambda w: w.results([{"step": 1.5}]), TypeError, ["step", "1.5", "whole"]),
        (lambda w: w.results([{"step": True}]), TypeError, ["step", "True"]),
        (lambda w: w.results([{"step": 2**63}]), TypeError, ["step", "int64"]),
        (lambda w: w.results([{"metric.loss": "low"}]), TypeError, ["metric.loss", "low"]),
        (lambda w: w.results([{"time": datetime(2024, 1, 1)}]), TypeError, ["time", "time zone"]),
        (lambda w: w.results([{"time": 1.7e9}]), TypeError, ["time", "datetime"]),
        (lambda w: w.trial("t", state=3), TypeError, ["state", "3"]),
        (lambda w: w.trial("t", git_dirty=1), TypeError, ["git_dirty"]),
    ],
)
def test_a_wrong_value_is_named_and_nothing_of_it_written(
    tmp_path: Path, call: Callable[[SweepWriter], None], error: type[Exception], words: list[str]
) -> None:
    with create(tmp_path) as w:
        before = log_file(tmp_path).read_bytes()
        with pytest.raises(error) as raised:
            call(w)
        assert all(word in str(raised.value) for word in words), raised.value
        assert log_file(tmp_path).read_bytes() == before
        w.results([report(1)])
        w.close(state="finished")
    assert steps(tmp_path) == [1]


def test_sweeps_with_other_columns_make_one_table(tmp_path: Path) -> None:
    s = Store(tmp_path)
    a = s.create("a", {}, config_fields=[pa.field("config.x", pa.int64())], metric_names=["loss"])
    a.trial("t", number=0, **{"config.x": 2, "metric.loss": 0.5})
    a.results([{"trial": "t", "step": 1, "metric.loss": 1.0}])
    a.close(state="finished")
    time.sleep(0.002)
    fields = [pa.field("config.x", pa.float64()), pa.field("config.kind", pa.string())]
    b = s.create("b", {}, config_fields=fields, metric_names=["f1"])
    b.trial("u", number=0, **{"config.x": 2.5, "config.kind": "gcn"})
    b.results([{"trial": "u", "step": 1, "metric.f1": 0.25}])
    leave(b)
    time.sleep(0.002)
    c = s.create("c", {}, config_fields=[pa.field("x", pa.string())], metric_names=[])
    c.trial("v", number=0, **{"config.x": "2"})
    assert s.sweeps() == ["a", "b", "c"]
    results = s.table("results", columns=["sweep", "metric.f1", "metric.loss"]).to_pylist()
    assert results == [
        {"sweep": "a", "metric.f1": None, "metric.loss": 1.0},
        {"sweep": "b", "metric.f1": 0.25, "metric.loss": None},
    ]
    trials = s.table("trials").to_pydict()
    assert trials["config.x"] == ["2", "2.5", "2"]
    assert trials["config.kind"] == [None, "gcn", None]
    assert s.table("sweeps").column("sweep").to_pylist() == ["a", "b", "c"]
    assert s.table("sweeps", "b").column("closed").to_pylist() == [False]
    leave(c)


def test_unify_widens_int_and_double_to_double() -> None:
    one = pa.table({"config.x": pa.array([1], pa.int64())})
    two = pa.table({"config.x": pa.array([0.5], pa.float64())})
    assert schema.unify([one, two]).column("config.x").to_pylist() == [1.0, 0.5]


def test_only_the_columns_asked_for(tmp_path: Path) -> None:
    with create(tmp_path) as w:
        w.results([report(1)])
        w.seal()
        w.results([report(2)])
        table = Store(tmp_path).table("results", "s", columns=["metric.loss", "step"])
        assert table.column_names == ["metric.loss", "step"]
        assert table.column("step").to_pylist() == [1, 2]
        with pytest.raises(StoreError, match=r"metric\.los.*did you mean metric\.loss"):
            Store(tmp_path).table("results", "s", columns=["metric.los"])
    with pytest.raises(StoreError, match="table=reports: must be one of sweeps"):
        Store(tmp_path).table("reports")


# -- names and places ---------------------------------------------------------------------------------


def test_an_empty_store_creates_nothing(tmp_path: Path) -> None:
    s = Store(tmp_path / "none")
    assert s.sweeps() == [] and not s.has("a")
    assert s.table("trials").num_rows == 0 and "state" in s.table("trials").column_names
    with pytest.raises(UnknownSweep, match="it has none"):
        s.read("a")
    assert list(tmp_path.iterdir()) == []


def test_unknown_sweeps_are_met_with_close_names(tmp_path: Path) -> None:
    create(tmp_path, "dagnn-cora").close(state="finished")
    for call in (Store(tmp_path).read, Store(tmp_path).open, Store(tmp_path).notes):
        with pytest.raises(UnknownSweep, match=r"dagnn-coar: .* did you mean dagnn-cora\?"):
            call("dagnn-coar")
    with pytest.raises(UnknownSweep):
        Store(tmp_path).table("results", "../dagnn-cora")


def test_names_are_taken_once_and_are_file_names(tmp_path: Path) -> None:
    create(tmp_path).close(state="finished")
    with pytest.raises(StoreError, match=r"sweep=s: .* has a sweep of this name"):
        create(tmp_path)
    for name in ("", ".", "../x", "a/b", "a b", "-x"):
        with pytest.raises(StoreError, match="must be up to 200 letters"):
            create(tmp_path, name)


@pytest.mark.parametrize("uri", ["", "nosuch://a/b", "file://relative/x", "s3:///"])
def test_a_bad_uri_is_refused(uri: str) -> None:
    with pytest.raises(StoreError, match="storage="):
        Store(uri)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "f")
    with pytest.raises(StoreError, match="cannot be written"):
        create(tmp_path / "f" / "below")


def test_file_uris_are_local(tmp_path: Path) -> None:
    create(f"file://{tmp_path}/x").close(state="finished")
    assert Store(tmp_path / "x").sweeps() == ["s"]
    assert Store(f"file://{tmp_path}/x").root == str(tmp_path / "x")


def test_checkpoints_have_a_place(tmp_path: Path) -> None:
    assert Store(tmp_path).checkpoint_dir("s") == str(tmp_path / "checkpoints" / "s")
    assert Store("memory://b/p/").checkpoint_dir("s") == "memory://b/p/checkpoints/s"
    assert join("s3://b/p?region=x", "checkpoints") == "s3://b/p/checkpoints?region=x"


@pytest.mark.parametrize(
    "given, meant",
    [
        ("s3:/bucket", "s3://bucket"),
        (Path("s3://bucket/sweeps"), "s3://bucket/sweeps"),
        (Path("/home/me") / "s3:/bucket", "s3://bucket"),
        ("gs:bucket/x", "gs://bucket/x"),
        (Path("file:///data/sweeps"), "file:///data/sweeps"),
        (Path("memory://x"), "memory://x"),
    ],
)
def test_a_uri_that_lost_a_slash_is_no_folder(given: str | Path, meant: str) -> None:
    with pytest.raises(StoreError, match=f"did you mean {re.escape(meant)}\\?"):
        Store(given)


def test_colons_are_not_all_of_uris(tmp_path: Path) -> None:
    for name in ("10:30", "a:b/c", "C:/sweeps"):
        assert Store(tmp_path / name).sweeps() == []


def test_nested_and_doubled_columns_are_refused(tmp_path: Path) -> None:
    for fields, word in (
        ([pa.field("config.x", pa.list_(pa.int64()))], "config.x"),
        (FIELDS + FIELDS[:1], "twice"),
    ):
        with pytest.raises(StoreError, match=word):
            Store(tmp_path).create("s", {}, config_fields=fields, metric_names=[])
    with pytest.raises(KeyError, match="papier"):
        Store(tmp_path).create("s", {"papier": "x"}, config_fields=[], metric_names=[])
    assert not Store(tmp_path).has("s")


# -- the log ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.text() | st.floats() | st.none()), min_size=1, max_size=5))
def test_a_frame_reads_back_exactly(rows: list[dict[str, object]]) -> None:
    data = _log.encode(17, [("results", row) for row in rows])
    assert data.count(b"\n") == 1
    (frame,) = _log.scan("x", data).frames
    assert (frame.seq, frame.last, frame.end) == (17, 16 + len(rows), len(data))
    assert repr([row for _, _, row in frame.rows()]) == repr(rows)


def test_every_flipped_bit_of_a_frame_is_noticed() -> None:
    data = _log.encode(1, [("results", {"metric.loss": 0.5})])
    for at in range(len(data)):
        for bit in range(8):
            broken = data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
            assert _log.scan("x", broken).frames == [], (at, bit)


def test_an_append_returns_after_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    with create(tmp_path) as w:
        monkeypatch.setattr(_appender, "_sync", lambda handle: sizes.append(os.fstat(handle).st_size))
        for step in range(3):
            w.results([report(step)])
            assert len(sizes) == step + 1 and sizes[-1] == log_file(tmp_path).stat().st_size


def test_every_append_is_one_line_on_disk_when_it_returns(tmp_path: Path) -> None:
    with create(tmp_path) as w:
        lines = len(log_file(tmp_path).read_bytes().splitlines())
        w.results([report(i) for i in range(4)])
        w.event("ask", n=1)
        with w.batch():
            w.event("ask", n=2)
            with w.batch():
                w.trial("t0", state="running")
            assert len(log_file(tmp_path).read_bytes().splitlines()) == lines + 2
        assert len(log_file(tmp_path).read_bytes().splitlines()) == lines + 3


def test_a_batch_that_raises_leaves_nothing(tmp_path: Path) -> None:
    with create(tmp_path) as w:
        with pytest.raises(RuntimeError, match="no"), w.batch():
            w.results([report(1)])
            raise RuntimeError("no")
        w.results([report(2)])
        w.close(state="finished")
    assert steps(tmp_path) == [2]


def test_the_log_cut_at_any_of_50_bytes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    ends = unclosed(whole)
    size = log_file(whole).stat().st_size
    rng = random.Random(3)
    for cut in {0, 1, size - 1, size, ends[5], *(rng.randrange(size) for _ in range(50))}:
        where = tmp_path / str(cut)
        shutil.copytree(whole, where)
        os.truncate(log_file(where), cut)
        intact = [k for k, end in enumerate(ends) if end <= cut]
        expected = max(0, len(intact) - 1)
        torn = cut - max((b.end for b in _log.scan("", log_file(where).read_bytes()).frames), default=0)
        s = Store(where)
        assert steps(where) == list(range(expected))
        note = "; ".join(s.notes("s"))
        noun = "report" if expected == 1 else "reports"
        trials = "1 trial" if intact else "0 trials"
        assert f"was not closed (its driver ended abruptly): {expected} {noun} of {trials} recovered" in note
        assert (f"{torn} byte" in note and "ignored" in note) if torn else "ignored" not in note
        if expected:
            assert s.read("s").trials["t0"]["steps"] == expected - 1
        assert [e["step"] for e in s.read("s").events] == list(range(0, expected, 3))
        with s.open("s") as w:
            assert w.recovery is not None and w.recovery.message == note
            assert (w.recovery.rows, w.recovery.torn_bytes) == (expected, torn)
            assert w.recovery.events == len(range(0, expected, 3))
            aside = list((where / "log" / "s").glob("*.torn"))
            assert sum(p.stat().st_size for p in aside) == torn
            w.results([report(1000)])
            assert steps(where) == [*range(expected), 1000]
            w.close(state="finished")
        assert steps(where) == [*range(expected), 1000] and s.notes("s") == []
        shutil.rmtree(where)


def test_a_torn_batch_is_dropped_as_a_whole(tmp_path: Path) -> None:
    w = create(tmp_path)
    w.seal_every = 1e9
    w.seal()
    w.trial("t0", state="running")
    before = log_file(tmp_path).stat().st_size
    with w.batch():
        w.results([report(1), report(2)])
        w.event("tell", trial="t0")
        w.trial("t0", state="complete")
    leave(w)
    data = log_file(tmp_path).read_bytes()
    assert len(Store(tmp_path).read("s").results) == 2
    for cut in random.Random(0).sample(range(before, len(data)), 8):
        log_file(tmp_path).write_bytes(data[:cut])
        record = Store(tmp_path).read("s")
        assert record.results == [] and record.events == [] and record.trials["t0"]["state"] == "running"


def test_each_cut_of_one_batch_gives_all_of_it_or_nothing(tmp_path: Path) -> None:
    rows: list[_log.Row] = [("results", {"step": 1}), ("trials", {"trial": "t"}), ("events", {"kind": "k"})]
    head = _log.encode(1, [("sweeps", {})])
    batch = _log.encode(2, rows)
    for cut in range(len(batch) + 1):
        log = _log.Log([_log.scan("x", head + batch[:cut])])
        assert log.last == (4 if cut == len(batch) else 1)
        assert log.fault(0) is None


@pytest.mark.usefixtures("impatient")
def test_damage_in_the_middle_of_the_log_is_never_skipped(tmp_path: Path) -> None:
    ends = unclosed(tmp_path, 20)
    path = log_file(tmp_path)
    data = path.read_bytes()
    at = ends[9] + 30
    path.write_bytes(data[:at] + b"#" + data[at + 1 :])
    rows = {True: 0, False: 0}
    for frame in [*_log.scan("", path.read_bytes()).frames, *_log.scan("", path.read_bytes()).frames_after]:
        rows[frame.start < at] += frame.count
    words = rf"{path} at byte {ends[9]}.*{rows[True]} intact rows before, {rows[False]} after"
    s = Store(tmp_path)
    for call in (s.read, s.open, s.notes, lambda n: s.table("results", n)):
        with pytest.raises(StoreDamaged, match=words):
            call("s")
    path.write_bytes(data[: ends[9]] + data[ends[10] :])
    with pytest.raises(StoreDamaged, match=r"rows \d+ to \d+ are missing"):
        s.read("s")
    path.write_bytes(data[: ends[10]] + data[ends[9] :])
    with pytest.raises(StoreDamaged, match="comes twice"):
        s.read("s")
    path.write_bytes(data)
    assert steps(tmp_path) == list(range(20))
    path.unlink()
    with pytest.raises(StoreDamaged, match="has no log"):
        s.read("s")


def test_a_log_cut_below_what_was_sealed_loses_nothing_that_was_sealed(tmp_path: Path) -> None:
    ends = unclosed(tmp_path, 30, seal_at=20)
    os.truncate(log_file(tmp_path), ends[10])
    assert steps(tmp_path) == list(range(21))
    assert [e["step"] for e in Store(tmp_path).read("s").events] == list(range(0, 21, 3))
    assert Store(tmp_path).read("s").trials["t0"]["steps"] == 20
    assert any("once longer" in n for n in Store(tmp_path).notes("s"))
    for step in (21, 22):
        with Store(tmp_path).open("s") as w:
            w.results([report(step)])
    assert steps(tmp_path) == list(range(23))
    with Store(tmp_path).open("s") as w:
        w.close(state="finished")
    assert steps(tmp_path) == list(range(23))


# -- sealing, merging, closing ------------------------------------------------------------------------


def raw(where: Path, name: str = "s") -> dict[str, list[int]]:
    """The steps of a sweep as three readers that know nothing of the log find them."""
    import duckdb
    import polars

    glob = f"{where}/results/{name}/*.parquet"
    dataset = pyarrow.dataset.dataset(f"{where}/results/{name}", format="parquet").to_table()
    return {
        "arrow": sorted(dataset.column("step").to_pylist()),
        "polars": polars.read_parquet(glob).sort("seq")["step"].to_list(),
        "duckdb": [r[0] for r in duckdb.sql(f"select step from '{glob}' order by seq").fetchall()],
    }


def test_other_readers_see_the_same_rows_while_it_runs(tmp_path: Path) -> None:
    with create(tmp_path) as w:
        w.seal_every = 1e9
        for step in range(6):
            w.results([report(step, loss=math.nan if step == 3 else 1.0)])
            if step % 2:
                w.seal()
                assert steps(tmp_path) == list(range(step + 1))
                assert set(map(tuple, raw(tmp_path).values())) == {tuple(range(step + 1))}
        w.trial("t0", state="running", **{"config.lr": 0.5})
        w.seal()
        assert pq.read_table(tmp_path / "trials/s/trials.parquet").column("config.lr").to_pylist() == [0.5]
        assert pq.read_table(tmp_path / "sweeps/s/sweep.parquet").column("state").to_pylist() == ["running"]
        w.close(state="finished")
    assert set(map(tuple, raw(tmp_path).values())) == {tuple(range(6))}
    assert len(list((tmp_path / "results/s").iterdir())) == 1
    import duckdb

    query = f"select count(*) from '{tmp_path}/results/s/*.parquet' where isnan(\"metric.loss\")"
    assert duckdb.sql(query).fetchall() == [(1,)], "NaN must not hide behind column statistics"
    assert not (tmp_path / "tmp").exists() and not list(tmp_path.rglob("*.log"))
    assert not list(tmp_path.rglob("lock"))


def test_it_seals_by_itself_in_time_and_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parts() -> int:
        return len(list((tmp_path / "results/s").iterdir()))

    with create(tmp_path) as w:
        w.seal_every = 1e9
        w.seal()
        w.results([report(0)])
        assert parts() == 0
        w.seal_every = 0.01
        w.seal()
        assert parts() == 1
        deadline = time.monotonic() + 20
        while parts() == 1 and time.monotonic() < deadline:
            w.results([report(1)])
        assert parts() > 1
        w.seal_every = 1e9
        w.seal()
        before = parts()
        monkeypatch.setattr(_writer, "SEAL_EVERY_ROWS", 50)
        w.results([report(i) for i in range(49)])
        assert parts() == before
        w.results([report(49)])
        assert parts() == before + 1


def test_many_parts_become_one(tmp_path: Path) -> None:
    with create(tmp_path) as w:
        w.seal_every = 1e9
        for step in range(40):
            w.results([report(step)])
            w.event("tell", step=step)
            w.seal()
            for folder, glob in (("results/s", "part-*.parquet"), ("log/s", "events-*.parquet")):
                assert len(list((tmp_path / folder).glob(glob))) <= _sealing.MAX_PARTS
        assert steps(tmp_path) == list(range(40))
        assert raw(tmp_path)["arrow"] == list(range(40))
        assert [e["step"] for e in Store(tmp_path).read("s").events] == list(range(40))


def test_a_merge_that_died_halfway_shows_no_row_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = create(tmp_path)
    w.seal_every = 1e9
    for step in range(_sealing.MAX_PARTS):
        w.results([report(step)])
        w.seal()
    w.results([report(_sealing.MAX_PARTS)])
    monkeypatch.setattr(type(w._folder), "delete", lambda self, name: None)
    monkeypatch.setattr(
        type(w._folder), "exchange", lambda self, a, b: False
    )  # as on a file system without it
    w.seal()
    leave(w)
    monkeypatch.undo()
    (note,) = [n for n in Store(tmp_path).notes("s") if "left over" in n]
    assert (
        "part-000000000001-000000000002.parquet and 16 more" in note
        and "see these rows of sweep s twice" in note
    )
    assert len(list((tmp_path / "results/s").iterdir())) == _sealing.MAX_PARTS + 2
    assert steps(tmp_path) == list(range(_sealing.MAX_PARTS + 1))
    with Store(tmp_path).open("s"):
        assert raw(tmp_path)["arrow"] == list(range(_sealing.MAX_PARTS + 1))


@pytest.mark.parametrize("step", ["_write_trials", "_write_row", "_delete_parts_but", "_delete_segments"])
def test_closing_that_died_halfway_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    unclosed(tmp_path, 12, seal_at=5)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    w = Store(tmp_path).open("s")
    w.results([report(12)])
    monkeypatch.setattr(w, step, die)
    with pytest.raises(KeyboardInterrupt):
        w.close(state="finished")
    leave(w)
    for _ in range(2):
        assert steps(tmp_path) == list(range(13))
        assert [e["step"] for e in Store(tmp_path).read("s").events] == [0, 3, 6, 9]
        assert Store(tmp_path).read("s").trials["t0"]["steps"] == 11
    with Store(tmp_path).open("s") as w:
        assert raw(tmp_path)["arrow"][:6] == list(range(6))
        w.results([report(13)])
        w.close(state="finished")
    assert steps(tmp_path) == list(range(14)) == raw(tmp_path)["arrow"]
    assert Store(tmp_path).notes("s") == []


def test_a_closed_sweep_can_grow(tmp_path: Path) -> None:
    with create(tmp_path) as w:
        w.trial("t0", number=0, state="complete")
        w.results([report(0)])
        w.event("ask", n=0)
        w.close(state="finished")
        w.close(state="failed")
        with pytest.raises(StoreError, match="closed"):
            w.results([report(1)])
    assert Store(tmp_path).read("s").sweep["state"] == "finished"
    for n in (1, 2):
        with Store(tmp_path).open("s") as w:
            assert w.recovery is None and len(w.record.results) == n
            w.trial(f"t{n}", number=n, state="running", **{"config.layers": n})
            assert not Store(tmp_path).read("s").sweep["closed"]
            w.results([report(n)])
            w.event("ask", n=n)
            assert steps(tmp_path) == list(range(n + 1))
            w.close(state="finished")
    record = Store(tmp_path).read("s")
    assert [e["n"] for e in record.events] == [0, 1, 2]
    assert [t["config.layers"] for t in record.trials.values()] == [None, 1, 2]
    assert (record.sweep["rows_results"], record.sweep["rows_trials"], record.sweep["closed"]) == (3, 3, True)
    with Store(tmp_path).open("s") as w:
        w.results([report(3)])
        leave(w)
    assert steps(tmp_path) == list(range(4))
    assert len(Store(tmp_path).read("s").trials) == 3


def test_closing_checks_what_it_wrote(tmp_path: Path) -> None:
    w = create(tmp_path)
    w.results([report(0)])
    w._counts["results"] += 1
    with pytest.raises(StoreDamaged, match="2 results were appended, 1 are read back"):
        w.close(state="finished")
    leave(w)
    assert log_file(tmp_path).exists() and steps(tmp_path) == [0]


def test_leaving_the_block_without_closing_keeps_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), create(tmp_path) as w:
        w.results([report(0)])
        raise RuntimeError
    assert raw(tmp_path)["arrow"] == [0]
    with Store(tmp_path).open("s") as w:
        assert w.recovery is not None and w.recovery.rows == 1


# -- damaged files ------------------------------------------------------------------------------------


def closed_store(where: Path) -> Store:
    with create(where) as w:
        w.trial("t0", number=0, state="complete")
        w.results([report(i) for i in range(500)])
        w.event("ask", n=0)
        w.close(state="finished")
    return Store(where)


def parquet_files(where: Path) -> dict[str, Path]:
    return {
        "results": next((where / "results/s").glob("*.parquet")),
        "events": next((where / "log/s").glob("*.parquet")),
        "trials": where / "trials/s/trials.parquet",
        "sweeps": where / "sweeps/s/sweep.parquet",
    }


@pytest.mark.parametrize("table", ["results", "events", "trials", "sweeps"])
@pytest.mark.parametrize("how", ["empty", "cut", "flipped", "gone"])
@pytest.mark.usefixtures("impatient")
def test_a_damaged_parquet_file_of_a_closed_sweep_is_named(tmp_path: Path, table: str, how: str) -> None:
    s = closed_store(tmp_path)
    path = parquet_files(tmp_path)[table]
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        flipped = data[:40] + bytes(b ^ 255 for b in data[40:44]) + data[44:]
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "flipped": flipped}[how])
    name = str(path if how != "gone" or table in ("trials", "sweeps") else path.parent)
    for call in (s.read, s.open, lambda n: s.table(table, n)):
        with pytest.raises(StoreDamaged) as raised:
            call("s")
        text = str(raised.value)
        assert name in text and "sweep s" in text and "Restore" in text and "\n" not in text
        if table in ("results", "events"):
            assert "rows 1 to 504" in text
    assert s.sweeps() == ["s"]
    path.write_bytes(data)
    assert len(s.read("s").results) == 500


@pytest.mark.usefixtures("impatient")
def test_cutting_a_results_file_anywhere_is_noticed(tmp_path: Path) -> None:
    s = closed_store(tmp_path)
    path = parquet_files(tmp_path)["results"]
    data = path.read_bytes()
    rng = random.Random(1)
    for cut in [len(data) - 1, len(data) - 8, 4, *(rng.randrange(len(data)) for _ in range(6))]:
        path.write_bytes(data[:cut])
        with pytest.raises(StoreDamaged, match="part-"):
            s.table("results", "s")


@pytest.mark.usefixtures("impatient")
def test_a_closed_sweep_that_lacks_rows_is_damaged(tmp_path: Path) -> None:
    s = closed_store(tmp_path)
    for table, count in (("results", 500), ("trials", 1)):
        path = parquet_files(tmp_path)[table]
        data = path.read_bytes()
        whole = pq.read_table(path)
        pq.write_table(whole.slice(1), path)
        with pytest.raises(
            StoreDamaged, match=f"closed with {count} rows of {table} and now has {count - 1}"
        ):
            s.read("s")
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "gone"])
@pytest.mark.parametrize("table", ["results", "events", "trials", "sweeps"])
def test_what_the_log_holds_is_rebuilt_from_it(tmp_path: Path, table: str, how: str) -> None:
    unclosed(tmp_path, 12, seal_at=7)
    path = parquet_files(tmp_path)[table]
    if how == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    s = Store(tmp_path)
    assert steps(tmp_path) == list(range(12))
    assert [e["step"] for e in s.read("s").events] == [0, 3, 6, 9]
    assert s.read("s").trials["t0"]["steps"] == 11
    assert s.read("s").sweep["paper"] == "p"
    if how == "cut":
        assert any(str(path) in note for note in s.notes("s"))
    with s.open("s") as w:
        w.seal()
        assert raw(tmp_path)["arrow"] == list(range(12))
        w.close(state="finished")
    assert steps(tmp_path) == list(range(12)) == raw(tmp_path)["arrow"]
    assert s.notes("s") == []


def test_a_part_under_another_name_is_not_believed(tmp_path: Path) -> None:
    unclosed(tmp_path, 12, seal_at=7)
    part = parquet_files(tmp_path)["results"]
    last = int(part.stem.split("-")[2])
    part.rename(part.with_name(f"part-{1:012d}-{last + 3:012d}.parquet"))
    assert steps(tmp_path) == list(range(12))


# -- versions -----------------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **about: object) -> None:
    table = pq.read_table(path)
    metadata = {
        **(table.schema.metadata or {}),
        **{f"fairsweep.{k}".encode(): json.dumps(v) for k, v in about.items()},
    }
    pq.write_table(change(table).replace_schema_metadata(metadata), path)


@pytest.mark.parametrize("table", ["results", "events", "trials", "sweeps"])
def test_a_newer_schema_is_refused_by_name(tmp_path: Path, table: str) -> None:
    s = closed_store(tmp_path)
    rewrite(parquet_files(tmp_path)[table], lambda t: t, schema_version=schema.SCHEMA_VERSION + 1)
    with pytest.raises(StoreError, match=r"schema version 2.*upgrade fairsweep") as raised:
        s.read("s")
    assert not isinstance(raised.value, StoreDamaged)


def test_a_log_of_a_newer_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store, _sealing):
        monkeypatch.setattr(module, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
    leave(create(tmp_path))
    (tmp_path / "sweeps/s/sweep.parquet").unlink()
    (tmp_path / "trials/s/trials.parquet").unlink()
    with pytest.raises(StoreError, match="schema version 2"):
        Store(tmp_path).read("s")


def test_files_with_fewer_and_with_more_columns_are_read(tmp_path: Path) -> None:
    with create(tmp_path) as w:
        w.trial("t0", number=0, state="complete", value=0.5, **{"config.lr": 0.5})
        w.results([report(1)])
        w.close(state="finished")
    files = parquet_files(tmp_path)
    rewrite(files["results"], lambda t: t.drop_columns(["wall_s", "time"]).append_column("hue", [["red"]]))
    rewrite(files["trials"], lambda t: t.drop_columns(["config_json", "retries", "peak_memory_mb"]))
    rewrite(files["sweeps"], lambda t: t.drop_columns(["elapsed_s", "config_schema", "metrics", "command"]))
    record = Store(tmp_path).read("s")
    assert "hue" not in record.results[0] and record.results[0]["wall_s"] is None
    assert record.results[0]["metric.loss"] == 1 / 7
    assert record.trials["t0"]["retries"] is None and record.trials["t0"]["config.lr"] == 0.5
    assert record.sweep["command"] is None and record.sweep["paper"] == "p"
    with Store(tmp_path).open("s") as w:
        w.trial("t1", number=1, retries=1, **{"config.lr": 0.25})
        w.results([report(2)])
        w.close(state="finished")
    table = Store(tmp_path).table("trials", "s")
    assert table.column("config.lr").to_pylist() == [0.5, 0.25]
    assert table.column("retries").to_pylist() == [None, 1]
    assert steps(tmp_path) == [1, 2]


# -- one writer ---------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with create(tmp_path) as w:
        with pytest.raises(SweepLocked, match=f"process {os.getpid()} on "):
            Store(tmp_path).open("s")
        w.results([report(0)])
        assert Store(tmp_path).notes("s") == [] and steps(tmp_path) == [0]
    with Store(tmp_path).open("s") as w:
        w.results([report(1)])
    assert steps(tmp_path) == [0, 1]


def test_reading_changes_nothing(tmp_path: Path) -> None:
    unclosed(tmp_path, 5)
    os.truncate(log_file(tmp_path), log_file(tmp_path).stat().st_size - 3)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    s = Store(tmp_path)
    s.read("s"), s.notes("s"), s.sweeps(), s.has("s"), s.table("trials")
    with pytest.raises(UnknownSweep):
        s.open("t")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_threads_append_side_by_side(tmp_path: Path) -> None:
    with create(tmp_path) as w:

        def work(n: int) -> None:
            for i in range(15):
                with w.batch():
                    w.results([report(100 * n + i, trial=f"t{n}")])
                    w.trial(f"t{n}", number=n, steps=i)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        w.close(state="finished")
    assert sorted(steps(tmp_path)) == [100 * n + i for n in range(4) for i in range(15)]
    assert [t["steps"] for t in Store(tmp_path).read("s").trials.values()] == [14] * 4


def test_readers_beside_a_writer_never_miss_or_double_a_row(tmp_path: Path) -> None:
    """Seals, merges and closes go on while another thread reads; what was acknowledged is there once."""
    acknowledged, faults, stop = [-1], [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            before = acknowledged[0]
            try:
                found = steps(tmp_path)
                if found != list(range(len(found))) or len(found) <= before:
                    faults.append((before, found))
            except Exception as error:
                faults.append((before, error))

    w = create(tmp_path)
    reader = threading.Thread(target=look)
    reader.start()
    try:
        for step in range(120):
            w.seal_every = 0.0
            w._next_seal = 0.0
            w.results([report(step)])
            acknowledged[0] = step
            if step % 40 == 39:
                w.close(state="finished")
                w = Store(tmp_path).open("s")
    finally:
        stop.set()
        reader.join()
        w.close(state="finished")
    assert faults == []


DRIVER = """
import sys
from fairsweep.analysis.store import Store, SweepWriter
SweepWriter.seal_every = 0.05
from tests.analysis.test_store import create, report
import os
store = Store(sys.argv[1])
w = store.open("s") if store.has("s") else create(sys.argv[1])
w._next_seal = 0
step = len(w.record.results)
print("begin", step, flush=True)
while True:
    with w.batch():
        w.results([report(step)])
        w.trial("t0", number=0, steps=step)
        w.event("tell", step=step)
    os.write(1, f"{step}\\n".encode())
    step += 1
    if step % 97 == 0:
        w.close(state="finished")
        w = store.open("s")
"""


def test_kill_9_loses_no_acknowledged_row(tmp_path: Path) -> None:
    rng = random.Random()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    acknowledged = -1
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=env,
            text=True,
            cwd=ROOT,
        ) as driver:
            assert driver.stdout is not None
            begin = driver.stdout.readline().split()
            assert begin and begin[0] == "begin" and int(begin[1]) >= acknowledged + 1
            time.sleep(rng.uniform(0.05, 0.4))
            driver.send_signal(signal.SIGKILL)
            lines = driver.stdout.read().splitlines()
        acknowledged = max([acknowledged, int(begin[1]) - 1, *(int(line) for line in lines)])
        record = Store(tmp_path).read("s")
        found = [r["step"] for r in record.results]
        assert found == list(range(len(found))), "a row is missing, doubled or out of order"
        assert len(found) in (acknowledged + 1, acknowledged + 2)
        assert [e["step"] for e in record.events] == found
        assert not found or record.trials["t0"]["steps"] == found[-1]
        assert record.notes or record.sweep["closed"]
    assert acknowledged > 20
    with Store(tmp_path).open("s") as w:
        w.close(state="interrupted")
    assert steps(tmp_path) == raw(tmp_path)["arrow"] == list(range(len(found)))


DIES_WHILE_IT_SEALS = """
import os, sys
from fairsweep.analysis import _files
from tests.analysis.test_store import create, report

def torn(table, out, **options):
    out.write(b"PAR1 and then the power went")
    out.flush()
    os.kill(os.getpid(), 9)

w = create(sys.argv[1])
w.seal_every = 1e9
w.results([report(step) for step in range(5)])
_files.pq.write_table = torn
w.seal()
"""


def test_a_half_written_file_breaks_no_reader_and_is_cleared_away(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES_WHILE_IT_SEALS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("tmp/results/s/*")), "the writer was to die while it wrote a file"
    assert not list(tmp_path.glob("results/s/.*")), "it is seen by readers that pass over no name in a folder"
    assert pyarrow.dataset.dataset(f"{tmp_path}/results/s", format="parquet").count_rows() == 0
    assert steps(tmp_path) == list(range(5))
    with Store(tmp_path).open("s") as w:
        assert not list(tmp_path.glob("tmp/results/s/*"))
        w.close(state="finished")
    assert not (tmp_path / "tmp").exists()
    assert raw(tmp_path)["arrow"] == steps(tmp_path) == list(range(5))


def test_a_full_disk_is_one_error_and_the_log_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = create(tmp_path)
    w.results([report(0)])
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) > 20:
            return write(handle, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="No space left"):
        w.results([{"trial": "t", "step": 1}])
    monkeypatch.undo()
    w.results([report(2)])
    leave(w)
    assert steps(tmp_path) == [0, 2]


def test_a_writer_lets_go_of_a_store_that_has_become_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with create(tmp_path) as w:
        w.results([report(0)])
        monkeypatch.setattr(os, "unlink", refused)
    monkeypatch.undo()
    assert Store(tmp_path).written("s") is False
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(StoreError, match=r"^storage=.*cannot be written: .*Read-only file system$"):
        Store(tmp_path).open("s")
    monkeypatch.undo()
    with Store(tmp_path).open("s") as w:
        w.results([report(1)])
    assert steps(tmp_path) == [0, 1]


def test_a_full_disk_has_room_for_how_the_sweep_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, start: int, size: int) -> bool:
        raise OSError(28, "No space left on device")

    w = create(tmp_path)
    w.results([report(0)])
    assert log_file(tmp_path).stat().st_blocks * 512 > _appender.LAST_WORDS, "the room is taken"
    monkeypatch.setattr(_appender, "_allocate", full)
    with pytest.raises(StoreError, match=r"cannot append: .*No space left"):
        for step in range(1, 1_000_000):
            w.results([report(step + k, trial="a" * 100) for k in range(1000)])
    assert steps(tmp_path) == [r["step"] for r in Store(tmp_path).read("s").results]
    w.ending()
    w.sweep(state="interrupted")
    leave(w)
    assert Store(tmp_path).table("sweeps", "s").column("state").to_pylist() == ["interrupted"]


# -- remote stores ------------------------------------------------------------------------------------


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(_lease, "SETTLE_S", 0.02)  # that of memory is quick
    return f"memory://{uuid.uuid4().hex}/store"


def test_a_remote_store_does_all_of_it(remote: str) -> None:
    with create(remote) as w:
        w.seal_every = 1e9
        w.trial("t0", number=0, state="running")
        for step in range(25):
            w.results([report(step, loss=math.nan)])
            w.event("tell", step=step)
            if step < 20:
                w.seal()
        assert steps(remote) == list(range(25))
        names = w._folder.names("log/s")
        assert len([n for n in names if n.endswith(".log")]) < 25, "sealed objects of the log are let go"
    assert "its driver ended abruptly" in Store(remote).notes("s")[0]
    with Store(remote).open("s") as w:
        assert w.recovery is not None and (w.recovery.rows, w.recovery.events) == (25, 25)
        w.results([report(25)])
        w.trial("t0", state="complete")
    with Store(remote).open("s") as w:
        w.close(state="finished")
    record = Store(remote).read("s")
    assert [r["step"] for r in record.results] == list(range(26))
    assert math.isnan(record.results[0]["metric.loss"])
    assert [e["step"] for e in record.events] == list(range(25))
    assert record.trials["t0"]["state"] == "complete" and record.notes == []
    assert [n for n in w._folder.names("log/s") if n.endswith(".log")] == []
    with Store(remote).open("s") as w:
        w.results([report(26)])
        w.close(state="finished")
    assert steps(remote) == list(range(27)) and Store(remote).sweeps() == ["s"]


def test_a_remote_writer_that_lives_is_the_only_one(remote: str) -> None:
    with create(remote) as first:
        first.results([report(0)])
        began = time.monotonic()
        with pytest.raises(SweepLocked, match=f"is being written by process {os.getpid()} on "):
            Store(remote).open("s")
        assert time.monotonic() - began < 1, "what lives on this machine is seen at once"
        first.results([report(1)])
        assert Store(remote).written("s") is True and not Store(remote).notes("s")
    assert Store(remote).written("s") is False
    Store(remote).open("s").close(state="finished")
    assert steps(remote) == [0, 1]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """All writers are of machines that cannot be seen from here, and a silent one keeps a sweep for a second."""
    monkeypatch.setattr(_lease, "_home", lambda: "")
    for name, seconds in (("HOLD_S", 1.0), ("VALID_S", 0.6), ("RENEW_S", 0.1), ("SETTLE_S", 0.02)):
        monkeypatch.setattr(_lease, name, seconds)


def test_a_remote_writer_elsewhere_is_seen_by_what_it_renews(remote: str, elsewhere: None) -> None:
    with create(remote) as first:
        with pytest.raises(SweepLocked, match="is being written by process"):
            Store(remote).open("s")
        first.results([report(0)])
    assert steps(remote) == [0]


def test_a_remote_writer_that_was_silent_is_replaced_and_told(
    remote: str, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lease.Lease, "_renew", lambda self: None)  # it hangs, or its machine is cut off
    first = create(remote)
    first.seal_every = 1e9
    first.results([report(0)])
    second = Store(remote).open("s")
    second.results([report(1)])
    with pytest.raises(SweepLocked, match="was taken over by process"):
        first.results([report(77)])
    number = first._appender.number
    row = first._encoders["results"](report(77))
    late = _log.encode(first._seq + 1, [("results", row)])  # what was under way then
    first._folder.put(f"log/s/{number:012d}.log", late)
    assert steps(remote) == [0, 1], "what nobody was told of does not count"
    second.results([report(2)])
    second.close(state="finished")
    assert steps(remote) == [0, 1, 2]


class Flaky(MemoryFileSystem):
    """An object store that answers 503 as long as `failing` says."""

    protocol = "flaky"
    failing = [0]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if self.failing[0]:
            self.failing[0] -= 1
            raise OSError("Please reduce your request rate. (503 SlowDown)")
        return super()._open(path, mode, **options)


def test_a_remote_store_that_does_not_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(_patience, "PAUSE_S", 0.01)
    monkeypatch.setattr(_patience, "SAY_AFTER_S", 0.02)
    uri, said = f"flaky://{uuid.uuid4().hex}/store", list[str]()
    with create(uri) as w:
        w._folder.patience.said = said.append
        for step in range(4):
            Flaky.failing[0] = 5 * step
            w.results([report(step)])
            w.seal()
        assert len(said) >= 2 and "does not answer" in said[0] and "503" in said[0] and "again" in said[1]
        w.hurry()
        w._folder.patience._until = 0.0
        Flaky.failing[0] = 10**6
        with pytest.raises(StoreError, match="503"):
            w.results([report(4)])
        with pytest.raises(StoreError, match=r"storage=.*503"):
            Store(uri).table("results", "s")
        Flaky.failing[0] = 0
        w.results([report(5)])
        w.close(state="finished")
    assert steps(uri) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (
            OSError("When uploading key 'timeout' in bucket 'b': AWS Error ACCESS_DENIED during PutObject"),
            False,
        ),
        (OSError("When listing 'b': AWS Error SLOW_DOWN during ListObjectsV2 operation: reduce"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during PutObject operation"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation"), False),
        (OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7"), True),
        (FileNotFoundError("connection"), False),
        (PermissionError("Forbidden"), False),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (OSError(28, "No space left on device"), False),
        (ValueError("503"), False),
    ],
)
def test_what_passes_by_itself(error: Exception, passing: bool) -> None:
    assert _patience.passes(error) is passing


# -- size ---------------------------------------------------------------------------------------------


def test_thirty_thousand_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    loss = rng.normal(size=30_000)
    with create(tmp_path) as w:
        for start in range(0, 30_000, 1000):
            w.results([report(i, trial=f"t{i % 100}", loss=loss[i]) for i in range(start, start + 1000)])
        live = Store(tmp_path).table("results", "s")
        assert (live.column("metric.loss").to_numpy() == loss).all()
        w.close(state="finished")
    table = Store(tmp_path).table("results", "s")
    assert (table.column("metric.loss").to_numpy() == loss).all()
    assert table.column("step").to_pylist() == list(range(30_000))
    record = Store(tmp_path).read("s")
    assert record.results[29_999]["metric.loss"] == loss[-1] and record.results[1]["trial"] == "t1"
