"""A series is what its dates say: no step may be missing, repeated, reversed or of another length."""

from __future__ import annotations

import numpy as np
import pytest

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import series

DATES = [f"2016-07-01 {hour:02}:00:00" for hour in range(8)]


def text(dates: list[str], values: list[str] | None = None) -> bytes:
    cells = values or [f"{i}.5" for i in range(len(dates))]
    return (
        "date,load,OT\n"
        + "".join(f"{d},{i},{v}\n" for i, (d, v) in enumerate(zip(dates, cells, strict=True)))
    ).encode()


def changed(row: int, date: str) -> list[str]:
    return [*DATES[:row], date, *DATES[row + 1 :]]


@pytest.mark.parametrize(
    "dates, message",
    [
        (changed(3, ""), "line 5: column 'date' has no value, must be a time such as"),
        (changed(3, "nan"), "line 5: column 'date' has 'nan', must be a time such as"),
        (changed(3, "1/7/2016 3:00"), "line 5: column 'date' has '1/7/2016 3:00', must be a time such as"),
        (changed(3, "2016-02-30"), "line 5: column 'date' has '2016-02-30', which is no date; must be"),
        (changed(3, DATES[2]), "line 5: the date '2016-07-01 02:00:00' is the one above it again; rows must"),
        (changed(3, DATES[1]), "line 5: the date '2016-07-01 01:00:00' lies before the one above it; rows"),
        (DATES[::-1], "line 3: the date '2016-07-01 06:00:00' lies before the one above it; rows must"),
        (
            [*DATES[:3], *DATES[4:]],
            "line 5: the date '2016-07-01 04:00:00' follows after 2:00:00, most dates after 1:00:00; rows must",
        ),
        (changed(3, "2016-07-01 03:00:01"), "line 5: .* follows after 1:00:01, most dates after 1:00:00"),
    ],
)
def test_uneven_dates_are_refused_with_their_line(dates: list[str], message: str) -> None:
    with pytest.raises(DataError, match=rf"^data=ett_h1: ETTh1\.csv, {message}") as caught:
        series.read_csv("ett_h1", text(dates), "ETTh1.csv")
    assert "\n" not in str(caught.value)


def test_an_excel_file_of_empty_rows_is_refused_at_the_first() -> None:
    """As seen in public copies of these files: saved by a spreadsheet, rows of commas below the data."""
    with pytest.raises(DataError, match=r"line 10: column 'date' has no value"):
        series.read_csv("ett_h1", text(DATES) + b",,\n,,\n", "ETTh1.csv")


def test_a_cell_that_is_no_number_is_refused_with_its_line() -> None:
    for cell, seen in (("", "no value"), ("hot", "'hot'"), ("NaN", "'NaN'"), ("inf", "'inf'")):
        values = [f"{i}" for i in range(7)] + [cell]
        with pytest.raises(DataError, match=rf"ETTh1\.csv, line 9: column 'OT' has {seen}, must be a finite"):
            series.read_csv("ett_h1", text(DATES, values), "ETTh1.csv")


def test_blanks_after_commas_change_nothing() -> None:
    plain = series.read_csv("ett_h1", text(DATES))
    spaced = series.read_csv("ett_h1", text(DATES).replace(b",", b", "))
    assert all(np.array_equal(plain[key], spaced[key]) for key in plain)


def test_the_published_weather_file_repeats_one_date_and_leaves_nine_out() -> None:
    """52 696 rows from 2020-01-01 00:10 to 2021-01-01 00:00: those two places and no others are let through."""
    morning = [f"2020-05-12 0{h}:{m}0:00" for h in (5, 6) for m in range(6)]
    repeated = [*morning[:7], *morning[6:]]
    assert len(series.read_csv("weather", text(repeated))["dates"]) == 13
    noon = [*(f"2020-05-29 09:{m}0:00" for m in range(4)), *(f"2020-05-29 11:{m}0:00" for m in range(1, 6))]
    assert len(series.read_csv("weather", text(noon))["dates"]) == 9
    with pytest.raises(DataError, match=r"line 9: the date '2020-05-12 06:00:00' is the one above it again"):
        series.read_csv("ett_h1", text(repeated))
    with pytest.raises(DataError, match="is the one above it again"):
        series.read_csv("weather", text([*morning[:5], *morning[4:]]))
