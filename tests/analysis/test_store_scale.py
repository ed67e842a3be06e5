"""What a long sweep costs the store: rows written, bytes read and memory, counted and not timed."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsweep.analysis import _appender, _sealing, _state, _writer, schema
from fairsweep.analysis._files import Folder
from fairsweep.analysis._trials import TrialRows
from fairsweep.analysis.store import Store, StoreDamaged, SweepWriter
from tests.analysis.test_store import create, raw, report, steps


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here: what is in the page cache survives kill -9."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(_appender, "_sync", lambda handle: None)


def rows_of_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each Parquet file of results or events has that is written from now on."""
    written: list[int] = []
    write = SweepWriter._write_part

    def counting(self: SweepWriter, table: str, first: int, last: int, rows: pa.Table, name: str) -> None:
        written.append(rows.num_rows)
        write(self, table, first, last, rows, name)

    monkeypatch.setattr(SweepWriter, "_write_part", counting)
    return written


@pytest.mark.parametrize("linked", [True, False])
def test_a_row_is_written_again_only_as_often_as_all_rows_double(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    monkeypatch.setattr(_writer, "SEAL_EVERY_ROWS", 10)
    if not linked:
        monkeypatch.setattr(Folder, "link", lambda self, name, other: False)
    written, total = rows_of_parts(monkeypatch), 4_000
    with create(tmp_path) as w:
        w.seal_every = 1e9
        w.seal()
        for start in range(0, total, 10):
            w.results([report(step) for step in range(start, start + 10)])
            assert len(list((tmp_path / "results/s").iterdir())) <= _sealing.MAX_PARTS
        # Each merge that takes all rows, one in MAX_PARTS parts, would make it 12.5 times.
        assert total < sum(written) <= 6 * total
        assert steps(tmp_path) == list(range(total)) == raw(tmp_path)["arrow"]
    with Store(tmp_path).open("s") as w:
        w.results([report(total)])
        w.close(state="finished")
    assert steps(tmp_path) == list(range(total + 1)) == raw(tmp_path)["arrow"]


def test_a_merge_keeps_files_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_writer, "SEAL_EVERY_ROWS", 1)
    with create(tmp_path) as w:
        w.seal_every = 1e9
        w.seal()
        (tmp_path / "results/s/notes.txt").write_text("mine")
        for step in range(60):
            w.results([report(step)])
        assert (tmp_path / "results/s/notes.txt").read_text() == "mine"
        assert steps(tmp_path) == list(range(60))


def test_many_reports_do_not_rewrite_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are written again with each change: in time, and never because many rows have come."""
    monkeypatch.setattr(_writer, "SEAL_EVERY_ROWS", 10)
    calls: list[int] = []
    write = SweepWriter._write_trials
    monkeypatch.setattr(SweepWriter, "_write_trials", lambda self: (calls.append(1), write(self))[1])
    with create(tmp_path) as w:
        w.seal_every = 1e9
        w.seal()
        calls.clear()
        for number in range(200):
            with w.batch():
                w.trial(f"t{number}", number=number, state="running")
                w.results([report(step, f"t{number}") for step in range(10)])
        assert not calls and len(raw(tmp_path)["arrow"]) == 2_000
        w.seal()
        assert len(calls) == 1
    assert Store(tmp_path).table("trials", "s").num_rows == 200


# -- the log -------------------------------------------------------------------------------------------


def long_log(where: Path, monkeypatch: pytest.MonkeyPatch, rows: int = 300) -> None:
    """A sweep whose driver died, with a log of many files; the last twenty reports are not sealed."""
    monkeypatch.setattr(_writer, "SEGMENT", 2_000)
    w = create(where)
    w.seal_every = 1e9
    for step in range(rows):
        with w.batch():
            w.trial("t0", number=0, steps=step)
            w.results([report(step)])
            w.event("tell", step=step)
        if step % 5 == 0 and step < rows - 20:
            w.seal()
    w._release()
    assert len(list((where / "log/s").glob("*.log"))) > 20


def test_a_reader_reads_the_part_of_the_log_that_is_not_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_log(tmp_path, monkeypatch)
    logs = sorted((tmp_path / "log/s").glob("*.log"))
    seen: list[str] = []
    read = Folder.read
    monkeypatch.setattr(Folder, "read", lambda self, name: (seen.append(name), read(self, name))[1])
    assert steps(tmp_path) == list(range(300))
    assert Store(tmp_path).table("trials", "s")["steps"].to_pylist() == [299]
    assert 0 < len(seen) <= 2 * 3, f"{len(seen)} of {len(logs)} files of the log were read"
    with Store(tmp_path).open("s") as w:
        assert w.recovery is not None and (w.recovery.rows, w.recovery.events) == (300, 300)
        w.results([report(300)])
        w.close(state="finished")
    assert steps(tmp_path) == list(range(301)) == raw(tmp_path)["arrow"]
    assert not list(tmp_path.rglob("*.log"))


@pytest.mark.parametrize("table", ["results", "log", "trials", "sweeps"])
def test_the_files_of_a_long_log_stand_in_for_a_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    long_log(tmp_path, monkeypatch)
    found = sorted((tmp_path / table / "s").glob("*.parquet"))
    os.truncate(found[0], found[0].stat().st_size // 2)
    s = Store(tmp_path)
    assert steps(tmp_path) == list(range(300))
    assert [e["step"] for e in s.read("s").events] == list(range(300))
    assert s.read("s").trials["t0"]["steps"] == 299 and s.read("s").sweep["paper"] == "p"
    with s.open("s") as w:
        w.close(state="finished")
    assert steps(tmp_path) == list(range(300)) and s.notes("s") == []


def test_a_lost_file_that_the_log_does_not_hold_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_state, "_RETRY_S", ())
    long_log(tmp_path, monkeypatch)
    part = min((tmp_path / "results/s").glob("*.parquet"))
    os.truncate(part, part.stat().st_size // 2)
    min((tmp_path / "log/s").glob("*.log")).unlink()
    with pytest.raises(StoreDamaged, match=f"{part} cannot be read.*Restore the file from a copy"):
        steps(tmp_path)


def test_a_long_log_cut_at_any_byte_of_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_log(tmp_path, monkeypatch)
    last = max((tmp_path / "log/s").glob("*.log"))
    data, before = last.read_bytes(), steps(tmp_path)
    sealed = 276  # reports, at step 275
    rng = random.Random(1)
    for cut in (0, *(rng.randrange(len(data)) for _ in range(12))):
        last.write_bytes(data[:cut])
        intact = max(sealed, 300 - data.count(b"\n") + data[:cut].count(b"\n"))
        assert steps(tmp_path) == before[:intact]
        assert len(Store(tmp_path).read("s").events) == intact


# -- the trials ----------------------------------------------------------------------------------------

LAYOUT = schema.Schemas.of([pa.field("config.x", pa.float64())], ["loss"]).trials


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.none(),  # all are packed
            st.tuples(
                st.integers(0, 6),
                st.fixed_dictionaries(
                    {},
                    optional={
                        "state": st.sampled_from(["running", "complete", None]),
                        "number": st.one_of(st.none(), st.integers(0, 9)),
                        "config.x": st.floats(allow_nan=False),
                        "started": st.integers(0, 2**40),
                    },
                ),
            ),
        ),
        max_size=25,
    )
)
def test_packed_trials_are_what_upserts_make(changes: list[tuple[int, dict[str, object]] | None]) -> None:
    rows, expected = TrialRows("s", LAYOUT.empty_table()), dict[str, dict[str, object]]()
    for change in changes:
        if change is None:
            rows.packed(LAYOUT)
            expected = dict(sorted(expected.items(), key=lambda item: _order(item[1])))
            continue
        row = {"trial": f"t{change[0]}", **change[1]}
        rows.change(dict(row))
        expected.setdefault(f"t{change[0]}", {}).update(row)
    found = schema.to_encoded(rows.packed(LAYOUT))
    wanted = sorted(expected.values(), key=_order)
    assert found == [{**dict.fromkeys(LAYOUT.names), **row, "sweep": "s"} for row in wanted]


def _order(row: dict[str, object]) -> tuple[bool, object]:
    return row.get("number") is None, row.get("number") or 0


def test_a_trial_that_does_not_change_takes_no_kilobytes(tmp_path: Path) -> None:
    """Of a row as a dict, as it was kept, about 2,400 bytes."""
    many, text = 1_000, "x" * 150
    with create(tmp_path) as w:
        w.seal_every = 1e9
        w.seal()
        tracemalloc.start()
        arrow = pa.total_allocated_bytes()
        for number in range(many):
            with w.batch():
                w.trial(
                    f"t{number:05d}", number=number, config_id=number, seed=0, state="complete", value=number / 7,
                    config_json=text, steps=9, cost_s=1.0, device="cpu", reason="complete", **{"config.lr": 0.1},
                )  # fmt: skip
        w.seal()
        used = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - arrow
        tracemalloc.stop()
    assert used / many < 900
