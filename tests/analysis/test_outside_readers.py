"""What DuckDB, Polars and PyArrow see in the store's folders, and what a store of many sweeps says of a damaged one.

Seen in pyarrow 26, DuckDB 2.0.1, Polars 2.1: DuckDB orders NaN above all numbers, so `order by x desc limit 1` is a
diverged trial; it skips row groups by Parquet's minima and maxima, which pyarrow writes without the NaN; Polars on a
folder and DuckDB on `folder/*` open every file, also one whose name begins with a dot.
"""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairsweep.analysis import _state, store
from fairsweep.analysis.store import DamagedSweepWarning, Store, StoreDamaged, StoreError
from tests.analysis.test_store import create, leave, report


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr("fairsweep.analysis._appender._sync", lambda handle: None)
    monkeypatch.setattr(_state, "_RETRY_S", ())


def finished(where: Path, name: str, rows: int = 3) -> None:
    with create(where, name) as w:
        w.trial("t0", number=0, state="complete", value=1.0)
        w.results([report(step) for step in range(rows)])
        w.close(state="finished")


# -- columns that no file has -------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["", "memory"])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("table", ["results", "trials"])
def test_a_column_that_no_file_has_is_named_and_no_row_is_lost(
    tmp_path: Path, scheme: str, closed: bool, table: str
) -> None:
    where = f"memory://{tmp_path.name}" if scheme else tmp_path
    w = create(where)
    w.trial("t0", number=0, state="running")
    w.results([report(step) for step in range(3)])
    w.seal()
    w.results([report(3)])
    w.close(state="finished") if closed else leave(w)
    with pytest.raises(StoreError, match=r"no column 'metric.los'; did you mean .*metric.loss"):
        Store(where).table(table, "s", columns=["metric.los"])
    # Metrics that a sweep has not are null beside one that has them; pyarrow's tables without columns forget rows.
    with Store(where).create("other", {"paper": "p"}, config_fields=[], metric_names=["psnr"]) as other:
        other.trial("t0", number=0, state="running")
        other.results([{"trial": "t0", "step": 0, "metric.psnr": 30.0}])
        other.close(state="finished")
    psnr = {"results": [None] * 4 + [30.0], "trials": [None, None]}[table]
    assert sorted(
        Store(where).table(table, columns=["metric.psnr"]).column(0).to_pylist(), key=str
    ) == sorted(psnr, key=str)
    assert Store(where).table(table, columns=[]).num_columns == 0


def test_pyarrow_forgets_the_rows_of_a_table_without_columns() -> None:
    """Why `read_parquet` never asks for no column at all; if this ends, so may that."""
    table = pa.table({"a": [1, 2, 3]}).select([])
    assert table.num_rows == 3 and table.replace_schema_metadata(None).num_rows == 0


# -- rows twice ---------------------------------------------------------------------------------------


def test_no_reader_sees_a_row_twice_or_none_while_parts_are_merged(tmp_path: Path) -> None:
    """Merging exchanges two folders. Listing them and opening their files are two steps: a file may be gone."""
    seen: list[tuple[int, int]] = []
    stop, errors = threading.Event(), []
    written = [0]

    def look() -> None:
        connection = duckdb.connect()
        while not stop.is_set():
            before = written[0]
            try:
                [(count, distinct)] = connection.sql(
                    f"select count(*), count(distinct seq) from '{tmp_path}/results/s/*.parquet'"
                ).fetchall()
            except duckdb.IOException as error:  # listed before, opened after
                errors.append(str(error))
                continue
            seen.append((count, distinct))
            assert before <= count, "rows that were sealed are not there"

    failures: list[BaseException] = []
    hook, threading.excepthook = threading.excepthook, lambda args: failures.append(args.exc_value)
    reader = threading.Thread(target=look)
    w = create(tmp_path)
    w.seal_every = 1e9
    w.results([report(0)])
    w.seal()
    reader.start()
    try:
        for step in range(1, 150):
            w.results([report(step)])
            w.seal()
            written[0] = step + 1
            if step % 30 == 0:
                w.close(state="finished")
                w = Store(tmp_path).open("s")
    finally:
        stop.set()
        reader.join()
        w.close(state="finished")
        threading.excepthook = hook
    assert not failures and len(seen) > 3
    assert all(count == distinct for count, distinct in seen), max(c - d for c, d in seen)


def test_other_files_in_a_folder_of_results_stay(tmp_path: Path) -> None:
    w = create(tmp_path)
    w.results([report(0)])
    w.seal()
    (tmp_path / "results/s/my notes.txt").write_text("mine")
    w.close(state="finished")
    assert (tmp_path / "results/s/my notes.txt").read_text() == "mine"
    assert len(list((tmp_path / "results/s").glob("*.parquet"))) == 1


def test_where_folders_cannot_change_places_parts_go_before_the_row_says_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = create(tmp_path)
    for step in range(3):
        w.results([report(step)])
        w.seal()
    monkeypatch.setattr(type(w._folder), "exchange", lambda self, a, b: False)
    left = []
    write_row = w._write_row

    def look(closed: bool) -> None:
        left.extend((tmp_path / "results/s").glob("*.parquet")) if closed else None
        write_row(closed)

    monkeypatch.setattr(w, "_write_row", look)
    w.close(state="finished")
    assert len(left) == 1


def test_readers_that_open_every_file_of_a_folder_meet_no_half_written_one(tmp_path: Path) -> None:
    w = create(tmp_path)
    w.results([report(0)])
    w.seal()
    with w._folder.replacing("results/s/part-000000000003-000000000004.parquet") as out:
        out.write(b"PAR1, and half of a file")
        out.flush()
        assert polars.read_parquet(tmp_path / "results/s").height == 1
        assert duckdb.sql(f"select count(*) from read_parquet('{tmp_path}/results/s/*')").fetchall() == [(1,)]
    leave(w)


# -- NaN ----------------------------------------------------------------------------------------------


def test_a_written_table_hides_no_nan_behind_statistics(tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, math.nan, 2.0], "n": [1, 2, 3]})
    ours, theirs = str(tmp_path / "ours.parquet"), str(tmp_path / "pyarrow.parquet")
    store.write_parquet(table, ours)
    pq.write_table(table, theirs)
    query = "select count(*) from '{}' where isnan(x)"
    assert duckdb.sql(query.format(ours)).fetchall() == [(1,)]
    statistics = pq.ParquetFile(ours).metadata.row_group(0).column(0).statistics
    assert statistics is None and pq.ParquetFile(ours).metadata.row_group(0).column(1).statistics.max == 3
    assert pq.ParquetFile(theirs).metadata.row_group(0).column(0).statistics.max == 2.0, "they hide the NaN"


def test_duckdb_puts_nan_above_all_numbers_and_the_best_passes_over_it(tmp_path: Path) -> None:
    from fairsweep.analysis.statistics import best

    with create(tmp_path) as w:
        for k, value in enumerate([0.5, math.nan, 0.9]):
            w.trial(f"t{k}", number=k, config_id=k, seed=0, state="complete", value=value)
            w.results([report(0, f"t{k}", accuracy=value)])
        w.close(state="finished")
    rows = f"'{tmp_path}/results/s/*.parquet'"
    [(top,)] = duckdb.sql(f'select max("metric.accuracy") from {rows}').fetchall()
    assert math.isnan(top)
    query = f'select max("metric.accuracy") filter (not isnan("metric.accuracy")) from {rows}'
    assert duckdb.sql(query).fetchall() == [(0.9,)]
    found = best(Store(tmp_path).table("trials", "s"), "max")
    assert found is not None and found.config_id == 2


def test_duckdb_takes_the_columns_of_the_first_file_unless_told(tmp_path: Path) -> None:
    finished(tmp_path, "a")
    with Store(tmp_path).create("b", {"paper": "p"}, config_fields=[], metric_names=["psnr"]) as w:
        w.results([{"trial": "t0", "step": 0, "metric.psnr": 30.0}])
        w.close(state="finished")
    files = f"['{tmp_path}/results/a/*.parquet', '{tmp_path}/results/b/*.parquet']"
    with pytest.raises(duckdb.Error):
        duckdb.sql(f'select "metric.psnr" from read_parquet({files})').fetchall()
    query = f'select count("metric.psnr"), count(*) from read_parquet({files}, union_by_name = true)'
    assert duckdb.sql(query).fetchall() == [(1, 4)]


# -- one damaged sweep among others -------------------------------------------------------------------


def damage(where: Path, name: str) -> None:
    (file,) = (where / "results" / name).glob("*.parquet")
    file.unlink()


def test_a_table_of_all_sweeps_leaves_a_damaged_one_out_and_names_it(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        finished(tmp_path, name)
    damage(tmp_path, "b")
    with pytest.warns(DamagedSweepWarning, match="sweep b is left out: .*results/b") as warned:
        found = Store(tmp_path).table("results")
    assert len(warned) == 1
    assert sorted(found.column("sweep").to_pylist()) == ["a"] * 3 + ["c"] * 3
    with pytest.raises(StoreDamaged):
        Store(tmp_path).table("results", "b")


def test_a_damaged_file_of_claims_hides_no_other_run(tmp_path: Path) -> None:
    for run in ("a", "b"):
        Store(tmp_path).write_derived("claims", run, [{"claim": "holds"}])
    (tmp_path / "claims/a/claims.parquet").write_bytes(b"PAR1")
    with pytest.warns(DamagedSweepWarning, match="claims of a are left out"):
        assert Store(tmp_path).table("claims").column("run").to_pylist() == ["b"]
    with pytest.raises(StoreDamaged, match="claims/a"):
        Store(tmp_path).derived("claims", "a")
    with pytest.raises(StoreError, match="no column 'statment'; did you mean statement"):
        Store(tmp_path).table("claims", "b", columns=["statment"])


def test_ls_lists_a_damaged_sweep_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fairsweep.cluster.cli import run_cli

    for name in ("a", "b"):
        finished(tmp_path, name)
    damage(tmp_path, "b")
    assert run_cli(["ls", "--storage", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "a" in out and "damaged" in out
    (line,) = [line for line in err.splitlines() if line.startswith("note: ")]
    assert line.startswith("note: b: ") and "results/b" in line
    assert run_cli(["ls", "--storage", str(tmp_path), "--json"]) == 0
    rows = {row["sweep"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["a"]["state"] == "finished" and rows["a"]["trials"] == 1
    assert rows["b"]["state"] == "damaged" and "results/b" in rows["b"]["damage"]


def test_an_exported_table_is_written_as_the_store_writes(tmp_path: Path) -> None:
    from fairsweep.cluster.cli import run_cli

    with create(tmp_path / "store") as w:
        w.trial("t0", number=0, state="failed")
        w.results([report(0, loss=1.0), report(1, loss=math.nan)])
        w.close(state="finished")
    file = tmp_path / "results.parquet"
    words = ["export", "s", "--table", "results", "--format", "parquet", "-o", str(file)]
    assert run_cli([*words, "--storage", str(tmp_path / "store")]) == 0
    query = f"select count(*) from '{file}' where isnan(\"metric.loss\")"
    assert duckdb.sql(query).fetchall() == [(1,)]
