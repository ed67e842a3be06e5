"""Our own tables: what is written is read back with all that made it, and faulty files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairsweep.search_spaces.architectures import create_space
from fairsweep.search_spaces.architectures.files import (
    METADATA,
    open_table,
    packaged,
    protocol_hash,
    read_table,
    write_table,
)
from fairsweep.search_spaces.architectures.tables import Metric, Source, TableError

SPACE = create_space("chain")
METRICS = {"val_accuracy": Metric("max", "validation"), "test_loss": Metric("min", "test", "nats")}
PROTOCOL = {"epochs": 6, "data": "fashion_mnist", "lr": 0.1}
SOURCE = Source("own chains", "Apache-2.0", "1", PROTOCOL, "fairsweep bench build-table chain")
VERSIONS = {"torch": "2.6.0"}


def row(text: str, seed: int, value: float, **others: Any) -> dict[str, Any]:
    return {
        "architecture": text, "seed": seed, "val_accuracy": value, "test_loss": 1.0 - value / 100,
        "cost.parameters": 100 + int(text, 3), "cost.train_seconds": 1.0 + seed, **others,
    }  # fmt: skip


ROWS = [row("01201", 1, 72.5), row("00000", 0, 60.0), row("01201", 0, 73.5), row("22222", 4, 80.25)]


def write(path: Path, rows: Any = ROWS, **changes: Any) -> Any:
    given = {"space": SPACE, "metrics": METRICS, "source": SOURCE, "versions": VERSIONS, **changes}
    return write_table(path, rows=rows, **given)


def test_a_table_reads_back_with_all_that_made_it(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    written = write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["own.parquet"]
    table = open_table(str(path))
    assert table.digest == written.digest
    assert (table.space, table.metrics, table.source) == (SPACE, METRICS, SOURCE)
    assert table.metric == "val_accuracy"
    a, b = SPACE.parse("01201"), SPACE.parse("22222")
    assert table.seeds(a) == (73.5, 72.5) and table.value(a) == 73.0 and table.seeds(b) == (80.25,)
    assert table.costs(a) == {"parameters": 100 + int("01201", 3), "train_seconds": 1.5}
    assert table.best() == b == table.best("test_loss") and len(table) == 3
    described = json.loads(pq.read_schema(path).metadata[METADATA])
    assert described["protocol_hash"] == protocol_hash(PROTOCOL) and described["versions"] == VERSIONS
    assert described["space"] == SPACE.id and described["command"] == SOURCE.command


def test_the_order_of_rows_and_the_form_of_architectures_do_not_matter(tmp_path: Path) -> None:
    given = [{**r, "architecture": SPACE.parse(r["architecture"])} for r in reversed(ROWS)]
    assert write(tmp_path / "a.parquet").digest == write(tmp_path / "b.parquet", given).digest
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_the_hash_of_a_protocol_is_of_its_content() -> None:
    assert protocol_hash({"a": 1, "b": [2]}) == protocol_hash({"b": [2], "a": 1})
    assert protocol_hash({"a": 1}) != protocol_hash({"a": 2})


def test_a_complete_table_of_a_small_space(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [row(SPACE.format(a), s, float(rng.uniform(50, 90))) for a in SPACE.enumerate() for s in range(5)]
    table = write(tmp_path / "t.parquet", rows)
    assert len(table) == 243 and table.values["val_accuracy"].shape == (243, 5)
    assert (tmp_path / "t.parquet").stat().st_size < 60_000


@pytest.mark.parametrize(
    "rows, words",
    [
        ([], "there are no rows to write"),
        ([ROWS[0], {**ROWS[1], "x": 1}], "row 1 has .*'x'.*, must have"),
        ([ROWS[0], {k: v for k, v in ROWS[1].items() if k != "test_loss"}], "row 1 has"),
        ([ROWS[0], ROWS[0]], "01201, seed 1 stands in it twice"),
        ([row("01201", 0, float("nan"))], "val_accuracy in row 0: must be finite"),
        ([row("01201", 0, 1.0), row("01202", 0, 1.0, test_loss=float("inf"))], "test_loss in row 1"),
        ([{**row("01201", 0, 1.0), "architecture": "013"}], "'013': must be 5 digits"),
        ([row("01201", 0, 1.0, test_loss="low")], "wrong type"),
        ([row("01201", 0, 1.0, **{"cost.parameters": None})], "cost.parameters.*must be finite|wrong type"),
    ],
)
def test_faulty_rows_are_refused_and_nothing_is_written(tmp_path: Path, rows: Any, words: str) -> None:
    with pytest.raises(TableError, match=words) as caught:
        write(tmp_path / "t.parquet", rows)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_members_of_another_space_are_refused(tmp_path: Path) -> None:
    cell = create_space("cell")
    rows = [{**ROWS[0], "architecture": "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"}]
    with pytest.raises(TableError, match="not a valid network of cell"):
        write(tmp_path / "t.parquet", rows, space=cell)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"format": 2}, "format=2: this version reads 1"),
        ({"protocol": {"epochs": 7}}, "protocol_hash=.*: its protocol has"),
        ({"space": "chain/9?layers=5"}, "no such space"),
        ({"space": "chain/1?layers=4"}, "must be 4 digits"),
        ({"metrics": {"speed": {"mode": "max", "split": "test", "unit": "m/s"}}}, "columns missing: speed"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path: Path, changes: Any, words: str) -> None:
    path = tmp_path / "t.parquet"
    write(path)
    data = pq.read_table(path)
    described = {**json.loads(data.schema.metadata[METADATA]), **changes}
    pq.write_table(data.replace_schema_metadata({METADATA: json.dumps(described).encode()}), path)
    with pytest.raises(TableError, match=words) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value).splitlines()) == 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none.parquet: cannot be read"):
        open_table(str(tmp_path / "none.parquet"))
    (tmp_path / "junk.parquet").write_text("junk")
    with pytest.raises(TableError, match=r"junk.parquet: cannot be read"):
        read_table(tmp_path / "junk.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(TableError, match="is no table of architectures"):
        read_table(tmp_path / "x.parquet")


def test_tables_of_the_package_open_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in packaged():
        assert len(open_table(name)) > 0
    from fairsweep.search_spaces.architectures import files

    monkeypatch.setattr(files, "FOLDER", tmp_path)
    write(tmp_path / "mine.parquet")
    assert packaged() == ("mine",) and len(open_table("mine")) == 3
    with pytest.raises(TableError, match=r"known: .*nas_bench_macro, mine"):
        open_table("yours")
