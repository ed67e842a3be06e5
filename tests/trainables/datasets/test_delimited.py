"""Comma-separated text: nothing turns into something else silently, whatever library reads it.

Seen with pyarrow 26.0: its cast refuses " 1.5" and takes "+1.5", its CSV parser takes " 1.5"; a quoted line break is
an error after the first MiB of a file unless `newlines_in_values` is set; a blank before a quote makes it text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import binary_tables, ctr, delimited, typed_tables
from fairsweep.trainables.tasks.ctr import CTRTask

HEADER = "label,user,price,ad\n"


def written(folder: Path, text: str, types: str | None = None, file: str = "data.csv") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / file).write_text(text, newline="")
    if types is not None:
        (folder / typed_tables.TYPES).write_text(types)
    return folder


def rows(n: int, cell: str = "", at: int = -1) -> str:
    """`n` rows below the header, the price of row `at` being `cell`."""
    return HEADER + "".join(f"{i % 2},u{i % 3},{cell if i == at else f'{i}.5'},a{i % 4}\n" for i in range(n))


@pytest.mark.parametrize(
    "cell, seen",
    [
        ("nan", "'nan'"),
        ("NULL", "'NULL'"),
        ("inf", "'inf'"),
        ("cheap", "'cheap'"),
        ("1_000.5", "'1_000.5'"),
        ('"1,5"', "'1,5'"),
        ("1e999", "'1e999'"),
        ("x" * 90, "'" + "x" * 37 + "...'"),
    ],
)
def test_one_cell_that_is_no_number_is_named_and_makes_no_categories(
    tmp_path: Path, cell: str, seen: str
) -> None:
    with pytest.raises(DataError) as caught:
        ctr.own_csv(written(tmp_path, rows(20, cell, at=7)))
    start = f"data=csv: data.csv, line 9: column 'price' has {seen}, must be a finite number; or say in columns.json"
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)


def test_the_line_is_that_of_the_file_also_after_quoted_line_breaks_and_empty_lines(tmp_path: Path) -> None:
    text = HEADER + '0,"u\n\n0",1.5,a\n\n1,u,2.5,"a\r\nb"\r\n0,u,nil,a\n1,v,2.5,b\n'
    with pytest.raises(DataError, match=r"data\.csv, line 8: column 'price' has 'nil'"):
        ctr.own_csv(written(tmp_path, text))
    parts = {"train.csv": rows(9), "valid.csv": rows(9, "nil", at=2), "test.csv": rows(9)}
    for file, part in parts.items():
        folder = written(tmp_path / "parts", part, file=file)
    with pytest.raises(DataError, match=r"valid\.csv, line 4: column 'price' has 'nil'"):
        ctr.own_csv(folder)


def test_declared_missing_values_are_the_mean_and_an_empty_or_blank_cell_is_missing(tmp_path: Path) -> None:
    text = rows(30, "NULL", at=7).replace(",3.5,", ",,").replace(",5.5,", ",  ,").replace(",a2\n", ",NULL\n")
    table = ctr.own_csv(written(tmp_path, text, '{"missing": ["NULL"]}'))
    assert table.fields == ("price", "user", "ad") and table.sizes == (1, 3, 4)
    assert np.flatnonzero(np.isnan(table.numbers[:, 0])).tolist() == [3, 5, 7]
    made = CTRTask("csv", tmp_path, "cpu", np.random.default_rng(0))
    _, weights = made.features(made.parts["train"])
    known = ~np.isnan(table.numbers[made.parts["train"].numpy(), 0])
    price = weights[:, 0].numpy()
    assert (price[~known] == 0).all() and (~known).sum() >= 1
    assert abs(price[known].mean()) < 1e-6 and price[known].std() == pytest.approx(1, abs=1e-6)


def test_a_column_in_which_most_cells_are_one_word_is_still_one_of_numbers(tmp_path: Path) -> None:
    text = HEADER + "".join(f"{i % 2},u{i % 3},{'NULL' if i % 4 else f'{i}.5'},a{i % 4}\n" for i in range(40))
    with pytest.raises(
        DataError, match=r"data\.csv, line 3: column 'price' has 'NULL', must be a finite number"
    ):
        ctr.own_csv(written(tmp_path, text))
    assert ctr.own_csv(written(tmp_path, text, '{"missing": ["NULL"]}')).fields == ("price", "user", "ad")
    assert ctr.own_csv(written(tmp_path, text, '{"categories": ["price"]}')).fields == ("user", "price", "ad")


def test_words_with_a_number_among_them_are_categories(tmp_path: Path) -> None:
    text = HEADER + "0,u,v1.5,a\n1,u,2.5,a\n0,u,v3,b\n"
    table = ctr.own_csv(written(tmp_path, text))
    assert table.fields == ("user", "price", "ad") and table.sizes == (1, 3, 2)


def test_declared_types_hold(tmp_path: Path) -> None:
    text = HEADER + "".join(f"{i % 2},{i},1.{i},a{i % 4}\n" for i in range(12))
    types = '{"numbers": ["user"], "categories": ["price"]}'
    table = ctr.own_csv(written(tmp_path, text, types))
    assert table.fields == ("user", "price", "ad") and table.sizes == (1, 12, 4)
    assert table.numbers[:, 0].tolist() == list(range(12))


@pytest.mark.parametrize(
    "types, message",
    [
        ("{", "columns.json is not JSON"),
        ('["price"]', 'columns.json must be {"numbers": '),
        ('{"number": ["price"]}', 'columns.json must be {"numbers": '),
        ('{"numbers": [1]}', 'columns.json must be {"numbers": '),
        ('{"numbers": "price"}', 'columns.json must be {"numbers": '),
        ('{"numbers": ["prize"]}', "columns.json names the column 'prize'; the files have user, price, ad"),
        ('{"categories": ["label"]}', "columns.json names the column 'label'"),
        (
            '{"numbers": ["ad"], "categories": ["ad"]}',
            "columns.json has 'ad' among the numbers and the categories",
        ),
        ('{"numbers": ["ad"]}', "data.csv, line 2: column 'ad' has 'a0', must be a finite number"),
    ],
)
def test_wrong_declarations_are_refused_in_one_line(tmp_path: Path, types: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        ctr.own_csv(written(tmp_path, rows(12), types))
    assert str(caught.value).startswith(f"data=csv: {message}") and "\n" not in str(caught.value)


def test_large_numbers_and_time_stamps_keep_their_differences(tmp_path: Path) -> None:
    """float32 makes 1e39 infinite and knows times of today to 128 seconds only."""
    times = [1_780_000_000 + 10 * i for i in range(60)]
    text = "label,time,price,ad\n" + "".join(f"{i % 2},{t}.0,{i}e39,a\n" for i, t in enumerate(times))
    made = CTRTask("csv", written(tmp_path, text), "cpu", np.random.default_rng(0))
    train = np.sort(made.parts["train"].numpy())
    expected = (train - train.mean()) / train.std()
    _, weights = made.features(made.parts["train"])
    for column in (0, 1):
        np.testing.assert_allclose(weights[:, column].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_column_that_cannot_be_standardised_is_named(tmp_path: Path) -> None:
    for file, last in (("train.csv", "2.5"), ("valid.csv", "2.5"), ("test.csv", "1e300")):
        written(tmp_path, HEADER + f"0,u,1.5,a\n1,v,{last},b\n", file=file)
    with pytest.raises(
        DataError, match=r"column 'price' has 1e\+300 outside the training part, .* at most 2\.5"
    ):
        CTRTask("csv", tmp_path, "cpu", np.random.default_rng(0))
    empty = tmp_path / "empty"
    for file, price in (("train.csv", ""), ("valid.csv", "2.5"), ("test.csv", "2.5")):
        written(empty, HEADER + f"0,u,{price},a\n1,v,{price},b\n", file=file)
    with pytest.raises(DataError, match="column 'price' is missing in every row of the training part"):
        CTRTask("csv", empty, "cpu", np.random.default_rng(0))


def test_a_column_constant_in_training_is_not_divided_by_rounding(tmp_path: Path) -> None:
    train = HEADER + "".join(f"{i % 2},u,0.1,a\n" for i in range(7))
    for file, text in (("train.csv", train), ("valid.csv", train), ("test.csv", train.replace("0.1", "0.3"))):
        written(tmp_path, text, file=file)
    made = CTRTask("csv", tmp_path, "cpu", np.random.default_rng(0))
    _, weights = made.features(made.parts["test"])
    np.testing.assert_allclose(weights[:, 0].numpy(), 0.2, rtol=1e-5)


def test_blanks_after_commas_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    price, clicks = rng.normal(size=300), rng.random(300)
    clicks = (clicks < 1 / (1 + np.exp(-3 * price))).astype(int)
    text = HEADER + "".join(
        f"{c},u{i % 3},{p:.3f},a{i % 4}\n" for i, (c, p) in enumerate(zip(clicks, price, strict=True))
    )
    plain = ctr.own_csv(written(tmp_path / "plain", text))
    spaced = ctr.own_csv(written(tmp_path / "spaced", text.replace(",", ",  ").replace("\n", " \n")))
    assert spaced.fields == plain.fields == ("price", "user", "ad") and spaced.sizes == plain.sizes
    assert np.array_equal(spaced.ids, plain.ids) and np.array_equal(spaced.numbers, plain.numbers)
    assert spaced.contexts == plain.contexts and np.array_equal(spaced.labels, plain.labels)
    assert roc_auc_score(spaced.labels, spaced.numbers[:, 0]) > 0.9


def test_a_blank_before_a_quote_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.csv, line 3: a blank before a quote"):
        ctr.own_csv(written(tmp_path, HEADER + '0,u,1.5,a\n1,u,2.5, "a"\n'))
    with pytest.raises(DataError, match=r"data\.csv, line 1: a blank before a quote"):
        ctr.own_csv(written(tmp_path, 'label,user, "price",ad\n0,u,1.5,a\n'))


def test_quoted_line_breaks_are_read_alike_below_and_above_a_mebibyte(tmp_path: Path) -> None:
    # Of many line breaks, so that a block of a MiB is sure to end within a cell.
    row = f'1,"two{99 * chr(10)}lines",1.5,a\n0,"one",2.5,b\n'
    for n in (10, 10_000):
        text = HEADER + n * row
        assert (len(text) > 1 << 20) == (n == 10_000)
        table = ctr.own_csv(written(tmp_path, text))
        assert len(table.labels) == 2 * n and table.sizes == (1, 2, 2)
        assert table.ids[:2].tolist() == [[0, 0, 0], [0, 1, 1]] and np.array_equal(
            table.ids[:2], table.ids[-2:]
        )


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data=csv: data\.csv has no rows below its header"):
        ctr.own_csv(written(tmp_path, HEADER))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(rows(12).encode() + "1,é,2.5,a\n".encode("latin1"))
    with pytest.raises(DataError, match=r"^data=csv: data\.csv is not a CSV file \(.*UTF8"):
        ctr.own_csv(tmp_path)


def test_numbers_are_what_they_look_like() -> None:
    source = delimited.Source("a.csv", b"x,y\n+1.5,a\n-2,a\n.5,a\n3.,a\n1e-3,a\n 4 ,a\n")
    assert delimited.read("a", [source]).numbers("x").tolist() == [1.5, -2, 0.5, 3, 1e-3, 4]
    for text in ("١", "0x10", "1e", "nan", "--1", ""):
        odd = delimited.read("a", [delimited.Source("a.csv", f"x,y\n1,a\n{text},a\n".encode())])
        with pytest.raises(DataError, match=r"^data=a: a\.csv, line 3: column 'x' has"):
            odd.numbers("x")


# ---- a table with a label of two ----


def table_of(rows: int = 200, **cells: str) -> str:
    """A header, and `rows` rows of two numbers and a label; `cells` in place of those of row 3."""
    lines = ["a,b,label"]
    for i in range(rows):
        row = {"a": f"{i}", "b": f"{i % 7}.5", "label": "no" if i % 2 else "yes"}
        lines.append(",".join({**row, **(cells if i == 3 else {})}.values()))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text, message",
    [
        (table_of(b="1_0"), "table.csv, line 5: column 'b' has '1_0', must be a finite number"),
        (table_of(b=""), "table.csv, line 5: column 'b' has no value, must be a finite number"),
        (table_of(label=" "), "table.csv, line 5: no label in the last column, 'label'"),
        (
            table_of().split("\n", 1)[1],
            "table.csv, line 1: 0, 0.5 are numbers; needs a header above the rows",
        ),
        (table_of().replace("a,b", "a,a"), "table.csv has the columns a, a, label; needs distinct ones"),
    ],
)
def test_a_table_that_is_none_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        binary_tables.csv_table(written(tmp_path, text, file="table.csv"))
    assert str(caught.value).startswith(f"data=table: {message}")


def test_a_table_of_a_spreadsheet_is_the_plain_one(tmp_path: Path) -> None:
    """With a mark of the byte order, blanks after commas, CR LF, and 1 beside 1.0."""
    text = table_of().replace("yes", "1").replace("no", "0")
    plain = binary_tables.csv_table(written(tmp_path / "a", text, file="table.csv"))
    odd = "\ufeff" + table_of(label="0.0").replace("yes", "1").replace("no", "0").replace(",", ", ")
    other = binary_tables.csv_table(written(tmp_path / "b", odd.replace("\n", "\r\n"), file="table.csv"))
    assert np.array_equal(plain.features, other.features) and np.array_equal(plain.labels, other.labels)
    (tmp_path / "a" / "table.csv").write_bytes(text.encode("utf16"))
    with pytest.raises(DataError, match=r"^data=table: table\.csv is not a CSV file"):
        binary_tables.csv_table(tmp_path / "a")
