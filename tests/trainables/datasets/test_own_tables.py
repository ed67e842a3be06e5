"""Tables, series and interactions of the user's own: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairsweep.trainables import data_check
from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import binary_tables, ctr, examples, interactions, series, spatial
from fairsweep.trainables.tasks.ctr import CTRTask
from fairsweep.trainables.tasks.forecasting import ForecastingTask, borders
from tests.trainables.datasets.test_own_graphs import files

HOURS = [
    str(t).replace("T", " ")
    for t in np.datetime64("2024-01-01", "m") + np.arange(12) * np.timedelta64(1, "h")
]
SERIES = "time,a,b\n" + "".join(f"{hour},{i},{i * 2}.5\n" for i, hour in enumerate(HOURS))
CLICKS = "label,user,item,price\n" + "".join(f"{i % 2},u{i % 3},i{i % 4},{i}.5\n" for i in range(12))
MET = "user,item,time\nu,a,3\nu,b,1\nu,c,2\nv,a,5\nv,b,4\nu,a,9\n"


def test_a_series_with_its_parts_and_its_target(tmp_path: Path) -> None:
    data = series.own(files(tmp_path, series=SERIES.replace("time,a,b", "time,target,b")))
    assert data.columns == ("b", "target") and data.values[1].tolist() == [2.5, 1.0] and data.months is None
    assert str(data.dates[1]) == "2024-01-01T01:00:00" and data.calendar == "week"
    words = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    lines = [f"{line},{word}" for line, word in zip(SERIES.splitlines(), ["split", *words], strict=True)]
    (tmp_path / "series.csv").unlink()
    data = series.own(files(tmp_path, my_measurements="\n".join(lines)))
    assert data.months == (6, 3, 3) and data.columns == ("a", "b")
    assert borders(data, "standard") == borders(data, "authors") == (6, 9, 12)


def test_times_of_parquet_are_times(tmp_path: Path) -> None:
    stamps = np.datetime64("2024-01-01", "us") + np.arange(12) * np.timedelta64(1, "h")
    pq.write_table(
        pa.table({"date": stamps, "x": np.arange(12, dtype=np.int32)}), tmp_path / "series.parquet"
    )
    text = tmp_path / "text"
    text.mkdir()
    expected = series.own(files(text, series=SERIES))
    assert (series.own(tmp_path).dates == expected.dates).all()


def test_a_series_too_short_for_the_windows_ends_a_sweep_before_it_begins(tmp_path: Path) -> None:
    files(tmp_path, series=SERIES)
    with pytest.raises(
        DataError, match=r"horizon=9: .*; give a longer series, or shorter windows by space\.horizon"
    ):
        ForecastingTask("own", tmp_path, "cpu", 2, 9)


def test_places_and_who_is_near(tmp_path: Path) -> None:
    data = spatial.own(files(tmp_path, series=SERIES, adjacency="source,target,weight\na,b,0.5\n"))
    assert data.adjacency is not None and data.adjacency.toarray().tolist() == [[0, 0.5], [0, 0]]
    (tmp_path / "adjacency.csv").unlink()
    assert spatial.own(tmp_path).adjacency is None


def test_clicks_of_parquet_are_typed_by_their_columns(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "click": [i % 2 == 1 for i in range(12)],
        "price": [float(i) for i in range(12)],
    }
    columns |= {"user": [i % 3 for i in range(12)], "split": ["train"] * 6 + ["val"] * 3 + ["test"] * 3}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    table = ctr.own(tmp_path)
    assert table.fields == ("price", "user") and table.numbers[:, 0].tolist() == columns["price"]
    assert table.labels.tolist() == [0, 1] * 6 and table.sizes == (1, 3) and table.split is not None
    task = CTRTask("own", tmp_path, "cpu", np.random.default_rng(0))
    assert [task.parts[part].tolist() for part in ("validation", "test")] == [[6, 7, 8], [9, 10, 11]]
    for part in ("train", "validation", "test"):
        pq.write_table(
            pa.table({k: v for k, v in columns.items() if k != "split"}), tmp_path / f"{part}.parquet"
        )
    assert {part: len(rows) for part, rows in (ctr.own(tmp_path).split or {}).items()} == {
        "train": 12,
        "validation": 12,
        "test": 12,
    }


def test_targets_are_classes_or_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{i % 2},{i if i % 3 else ''}.5,{'xy'[i % 2]}\n".replace(",.5", ",") for i in range(12))
    data = examples.multi_task(files(tmp_path, data=f"label_a,label_b,field\n{rows}"))
    assert [(t.kind, t.names) for t in data.targets] == [("class", ("0", "1")), ("number", ())]
    assert np.isnan(data.targets[1].values).sum() == 4 and data.fields.names == ("field",)
    parts = data.parts(np.random.default_rng(0))
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 8, "validation": 2, "test": 2}
    (tmp_path / "columns.json").write_text('{"labels": ["label_a", "field"]}')
    assert [t.column for t in examples.multi_task(tmp_path).targets] == ["label_a", "field"]


def test_a_target_of_a_decimal_type_in_parquet_is_a_number(tmp_path: Path) -> None:
    stars = [float(i % 3) for i in range(12)]
    pq.write_table(pa.table({"label": stars, "x": list(range(12))}), tmp_path / "table.parquet")
    (target,) = examples.tabular(tmp_path).targets
    assert target.kind == "number" and target.values.tolist() == stars


def test_the_last_meetings_of_a_user_are_held_out(tmp_path: Path) -> None:
    data = interactions.own(files(tmp_path, interactions=MET))
    met = [(data.user_names[u], data.item_names[i]) for u, i in zip(data.users, data.items, strict=True)]
    assert {part: [met[i] for i in rows] for part, rows in data.split.items()} == {
        "train": [("u", "b"), ("v", "a"), ("v", "b")],
        "validation": [("u", "c")],
        "test": [("u", "a")],
    }
    assert data.dropped == {"repeated pairs": 1} and data.times is not None and data.times.max() == 9
    (tmp_path / "interactions.csv").write_text(
        "user,item,time,split\n"
        + "".join(
            f"u,{i},{t},{p}\n"
            for i, t, p in zip("abcd", (4, 1, 2, 3), ("train", "train", "val", "test"), strict=True)
        )
        + "v,a,1,train\n"
    )
    (found,) = data_check.check("recommendation", tmp_path)
    assert found.description.leaks == [
        "1 of 3 in the train part come after one of the same user in the test part"
    ]


def test_a_label_of_two_values_need_not_be_the_last_column(tmp_path: Path) -> None:
    rows = "".join(f"{'no' if i % 2 else 'yes'},{i}.5\n" for i in range(160))
    table = binary_tables.own(files(tmp_path, table=f"label,x\n{rows}"))
    assert table.labels[:2].tolist() == [1, 0] and table.features.shape == (160, 1)


LOADERS: dict[str, Any] = {
    "series": series.own,
    "spatial": spatial.own,
    "clicks": ctr.own,
    "tabular": examples.tabular,
    "several": examples.multi_task,
    "met": interactions.own,
    "table": binary_tables.own,
}
FAULTS = [
    ("series", {}, "holds nothing; needs series.csv or series.parquet"),
    (
        "series",
        {"series": SERIES.replace("time", "when")},
        "series.csv has no column 'time' or 'date'; it has when, a, b",
    ),
    (
        "series",
        {"series": "\n".join([SERIES.split("\n")[0], *SERIES.strip().split("\n")[:0:-1]])},
        "line 3: the date '2024-01-01 10:00' lies before the one above it",
    ),
    (
        "series",
        {"series": SERIES.replace(HOURS[5], HOURS[4])},
        "line 7: the date '2024-01-01 04:00' is the one above it again",
    ),
    (
        "series",
        {"series": SERIES.replace(f"{HOURS[5]},5,10.5\n", "")},
        "line 7: the date '2024-01-01 06:00' follows after 2:00:00, most",
    ),
    (
        "series",
        {"series": SERIES.replace(HOURS[5], "1704085200")},
        "line 7: column 'time' has '1704085200', must be a time such as",
    ),
    ("series", {"series": SERIES.replace("6.5", "-")}, "line 5: column 'b' has '-', must be a finite number"),
    (
        "series",
        {"series": SERIES.replace("6.5", "inf")},
        "line 5: column 'b' has 'inf', must be a finite number",
    ),
    (
        "series",
        {"series": "\n".join(SERIES.split("\n")[:6])},
        "has 5 rows; needs ten at least, for three parts",
    ),
    (
        "series",
        {
            "series": SERIES.replace("time,a,b", "time,split,b")
            .replace(",0,", ",test,")
            .replace(",1,", ",val,")
            .replace(",2,", ",train,")
        },
        "column 'split' has '3', must be train, validation or test",
    ),
    (
        "spatial",
        {"series": SERIES, "adjacency": "source,target\na,c\n"},
        "adjacency.csv, line 2: column 'target' has 'c', which is no column of the",
    ),
    (
        "spatial",
        {"series": SERIES, "adjacency": "source,target,weight\na,b,-1\n"},
        "column 'weight' has -1, must not be below 0",
    ),
    (
        "spatial",
        {"series": SERIES, "adjacency": "source,target\na,b\na,b\n"},
        "adjacency.csv, line 3: the link 'a' to 'b' is there again",
    ),
    ("clicks", {}, "holds nothing; needs data.csv, or train.csv, validation.csv and test.csv"),
    (
        "clicks",
        {"train": CLICKS, "test": CLICKS},
        "has train.csv, test.csv and no validation.csv or validation.parquet",
    ),
    (
        "clicks",
        {"data": CLICKS.replace("label", "bought")},
        "data.csv needs a column 'label' and two others, found bought",
    ),
    (
        "clicks",
        {"data": CLICKS.replace("1,u1", "2,u1", 1)},
        "data.csv, line 3: column 'label' has '2', must be 0 or 1",
    ),
    (
        "clicks",
        {"data": CLICKS.replace("3.5", "NULL")},
        "data.csv, line 5: column 'price' has 'NULL', must be a finite number; or say in",
    ),
    ("clicks", {"data": CLICKS.split("\n")[0] + "\n"}, "data.csv has no rows below its header"),
    (
        "clicks",
        {"train": CLICKS, "validation": CLICKS.replace("user", "who"), "test": CLICKS},
        "validation.csv has the columns label, who",
    ),
    (
        "clicks",
        {"data": "\n".join(CLICKS.split("\n")[:8])},
        "data.csv has 7 rows; needs 10 at least, for three parts",
    ),
    (
        "tabular",
        {"table": CLICKS.replace("label", "kind")},
        "table.csv has no column 'label'; it has kind, user",
    ),
    (
        "tabular",
        {"table": CLICKS.replace("1,u1", ",u1", 1)},
        "table.csv, line 3: column 'label' has no value, needs a label in every row",
    ),
    (
        "tabular",
        {"table": CLICKS.replace("\n1,", "\n0,")},
        "column 'label' has 1 class, '0'; needs two at least",
    ),
    (
        "tabular",
        {"table": CLICKS.replace("1,u1", "9,u1", 1)},
        "column 'label' has the class '9' in 1 rows; needs three at least",
    ),
    ("several", {"data": CLICKS}, "data.csv has 1 columns that begin with 'label'; needs two, or"),
    (
        "several",
        {"data": CLICKS, "columns__json": '{"labels": ["label", "stars"]}'},
        "columns.json names the label 'stars'; the files have label",
    ),
    (
        "met",
        {"interactions": MET.replace("item", "film")},
        "interactions.csv has no column 'item'; it has user, film",
    ),
    (
        "met",
        {"interactions": MET.replace("v,b,4", ",b,4")},
        "interactions.csv, line 6: column 'user' has no value, needs one",
    ),
    (
        "met",
        {"interactions": MET.replace("v,b,4", "v,b,soon")},
        "interactions.csv, line 6: column 'time' has 'soon', must be a finite number",
    ),
    (
        "met",
        {"interactions": "user,item\nu,a\nv,b\n"},
        "no user has 3 interactions: the validation part is empty",
    ),
    ("table", {"table": "a,label\n1,x\n"}, "table.csv has 1 rows, needs at least 160 below a header"),
    (
        "table",
        {"table": "a,label\n" + "".join(f"{i},{i % 3}\n" for i in range(160))},
        "of table.csv has 3 values, must be a label of two",
    ),
]


@pytest.mark.parametrize("loader, texts, message", FAULTS, ids=[f"{f[0]}: {f[2][:40]}" for f in FAULTS])
def test_what_is_wrong_is_one_line_that_says_where(
    tmp_path: Path, loader: str, texts: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        LOADERS[loader](files(tmp_path, **texts))
    said = str(caught.value)
    assert said.startswith("data=own: ") and message in said and "\n" not in said


def test_a_label_of_one_value_is_nothing_to_learn(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("label,user,item\n" + "0,a,x\n0,b,y\n" * 20)
    with pytest.raises(DataError, match=r"data\.csv: column .label. has 0 in every row; needs 0 and 1"):
        ctr.own(tmp_path)
