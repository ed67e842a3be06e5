"""The tables of a store: their columns, their types, their version.

`results` has one row a report, `trials` one row a trial, `sweeps` one row a sweep, `events` one row for
each decision that a resumed driver replays, `claims` one row for each verdict of `fairsweep claims`,
`architectures` one row for each architecture that a run of `fairsweep nas` has scored or trained, `comparisons` one row
for each search of `fairsweep compare`.
Readers ignore columns that they do not know and give null for columns that a file of an older version
lacks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import pyarrow as pa

from fairsweep.analysis._derived import CLAIMS as CLAIMS
from fairsweep.analysis._derived import DERIVED as DERIVED
from fairsweep.analysis._derived import TIME
from fairsweep.analysis.text import escaped

SCHEMA_VERSION = 1
TABLES = ("sweeps", "trials", "results", "events")
CONFIG, METRIC = "config.", "metric."
TRIAL_STATES = ("pending", "running", "paused", "complete", "pruned", "failed", "interrupted")
SWEEP_STATES = ("running", "finished", "interrupted", "failed")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")  # of a sweep or run, which is a file name too

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_RESULTS = pa.schema(
    [
        ("seq", pa.int64()),
        ("sweep", pa.string()),
        ("trial", pa.string()),
        ("config_id", pa.int64()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("wall_s", pa.float64()),
        ("time", TIME),
    ]
)
_TRIALS_BEFORE = [
    ("sweep", pa.string()),
    ("trial", pa.string()),
    ("number", pa.int64()),
    ("config_id", pa.int64()),
    ("seed", pa.int64()),
    ("paper", pa.string()),
    ("data", pa.string()),
    ("objective", pa.string()),
    ("mode", pa.string()),
    ("state", pa.string()),
    ("reason", pa.string()),
    ("error", pa.string()),
    ("value", pa.float64()),
    ("best_step", pa.int64()),
    ("steps", pa.int64()),
    ("parent", pa.string()),
    ("parent_step", pa.int64()),
]
_TRIALS_AFTER = [
    ("started", TIME),
    ("ended", TIME),
    ("cost_s", pa.float64()),
    ("startup_s", pa.float64()),
    ("peak_memory_mb", pa.float64()),
    ("device", pa.string()),
    ("trainers", pa.int64()),
    ("hostname", pa.string()),
    ("pid", pa.int64()),
    ("retries", pa.int64()),
    ("checkpoint_step", pa.int64()),
    ("git_commit", pa.string()),
    ("git_dirty", pa.bool_()),
    ("versions", pa.string()),
    ("search_attrs", pa.string()),
    ("attrs", pa.string()),
    ("config_json", pa.string()),
]
SWEEPS = pa.schema(
    [
        ("sweep", pa.string()),
        ("paper", pa.string()),
        ("title", pa.string()),
        ("task", pa.string()),
        ("data", pa.string()),
        ("data_dir", pa.string()),
        ("objective", pa.string()),
        ("mode", pa.string()),
        ("objectives", pa.string()),
        ("constraints", pa.string()),
        ("state", pa.string()),
        ("created", TIME),
        ("updated", TIME),
        ("ended", TIME),
        ("elapsed_s", pa.float64()),
        ("trials_budget", pa.int64()),
        ("seeds", pa.int64()),
        ("config", pa.string()),
        ("space", pa.string()),
        ("schema_version", pa.int64()),
        ("fairsweep_version", pa.string()),
        ("git_commit", pa.string()),
        ("git_dirty", pa.bool_()),
        ("versions", pa.string()),
        ("command", pa.string()),
        ("plugin", pa.string()),
        ("reference", pa.string()),
        ("source_digest", pa.string()),
        ("source", pa.string()),
        ("comparison", pa.string()),
        ("rows_results", pa.int64()),
        ("rows_trials", pa.int64()),
        ("closed", pa.bool_()),
        ("config_schema", pa.string()),
        ("metrics", pa.string()),
    ]
)
_EVENTS = pa.schema(
    [("seq", pa.int64()), ("sweep", pa.string()), ("kind", pa.string()), ("row", pa.string())]
)


def is_name(text: str) -> bool:
    """Whether a sweep may be called so."""
    return NAME.fullmatch(text) is not None


@dataclass(frozen=True)
class Schemas:
    """The four tables of one sweep, with its own configuration and metric columns."""

    results: pa.Schema
    trials: pa.Schema
    sweeps: pa.Schema = SWEEPS
    events: pa.Schema = _EVENTS

    @classmethod
    def of(cls, config_fields: Iterable[pa.Field], metric_names: Sequence[str]) -> Schemas:
        """Tables with a column for each configuration field (`config.<name>`) and each metric.

        TypeError for a type that has no name of its own (nested types), ValueError for a name given twice.
        """
        metrics = [pa.field(METRIC + name, pa.float64()) for name in metric_names]
        config = [f if f.name.startswith(CONFIG) else f.with_name(CONFIG + f.name) for f in config_fields]
        for field in config:
            if not _named(field.type):
                raise TypeError(
                    f"{field.name}: type {field.type} cannot be a column; use a number, bool or string"
                )
        names = [f.name for f in (*config, *metrics)]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"{twice[0]}: the column is declared twice")
        trials = pa.schema([*(pa.field(*f) for f in _TRIALS_BEFORE), *config, *metrics])
        for name, kind in _TRIALS_AFTER:
            trials = trials.append(pa.field(name, kind))
        results = _RESULTS
        for field in metrics:
            results = results.append(field)
        return cls(results=results, trials=trials)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Schemas:
        """The tables of the sweep whose row in `sweeps` this is."""
        config = json.loads(row.get("config_schema") or "{}")
        fields = [pa.field(name, pa.type_for_alias(kind)) for name, kind in config.items()]
        return cls.of(fields, json.loads(row.get("metrics") or "[]"))

    def to_row(self) -> dict[str, str]:
        """What `of_row` needs, as columns of the sweep's row."""
        config = {f.name: str(f.type) for f in self.trials if f.name.startswith(CONFIG)}
        metrics = [f.name.removeprefix(METRIC) for f in self.results if f.name.startswith(METRIC)]
        return {"config_schema": json.dumps(config), "metrics": json.dumps(metrics)}

    def with_metrics(self, names: Sequence[str]) -> Schemas:
        """These tables with columns for more metrics."""
        row = self.to_row()
        return Schemas.of_row({**row, "metrics": json.dumps([*json.loads(row["metrics"]), *names])})

    def table(self, name: str) -> pa.Schema:
        """The schema of the table called `name`."""
        return getattr(self, name)


def _named(kind: pa.DataType) -> bool:
    try:
        return pa.type_for_alias(str(kind)) == kind
    except ValueError:
        return False


class Encoder:
    """Turns rows of Python values into rows that JSON can hold, checked against a schema.

    Times become microseconds since 1970 UTC. KeyError for a column that the schema lacks, TypeError for
    a value of another type; both name the column. Text that is no Unicode is escaped (`escaped`).
    """

    def __init__(self, table: str, schema: pa.Schema) -> None:
        self._table = table
        self._by_name = {field.name: _value_encoder(field.type) for field in schema}

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        out, by_name = {}, self._by_name
        name, value = "", None
        try:
            for name, value in row.items():
                out[name] = None if value is None else by_name[name](value)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{self._table} column {name}={value!r}: {error}") from None
        except KeyError:
            close = get_close_matches(name, by_name, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise KeyError(f"table {self._table} has no column {name!r}{hint}") from None
        return out


def _value_encoder(kind: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_floating(kind):
        return _float
    if pa.types.is_boolean(kind):
        return _bool
    if pa.types.is_integer(kind):
        return _integer_encoder(kind)
    if pa.types.is_timestamp(kind):
        return _microseconds
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _string
    return lambda value: pa.scalar(value, kind).as_py()


def _float(value: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError("must be a number")
    return float(value)


def _integer_encoder(kind: pa.DataType) -> Callable[[Any], int]:
    unsigned = pa.types.is_unsigned_integer(kind)
    above = 2 ** (kind.bit_width - (0 if unsigned else 1))
    low = 0 if unsigned else -above

    def encode(value: Any) -> int:
        if type(value) is not int:
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise TypeError("must be a whole number")
            value = int(value)
        if not low <= value < above:
            raise OverflowError(f"does not fit {kind}")
        return value

    return encode


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool", "bool_"):  # numpy's, which is no subclass of bool
        return bool(value)
    raise TypeError("must be true or false")


def _string(value: Any) -> str:
    if type(value) is str and value.isascii():
        return value
    if not isinstance(value, str):
        raise TypeError("must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate would get into the log and fail later, at every seal
        return escaped(value)
    return str(value)


def _microseconds(value: Any) -> int:
    if not isinstance(value, datetime):
        raise TypeError("must be a datetime")
    if value.tzinfo is None:
        raise TypeError("needs a time zone, such as datetime.now(timezone.utc)")
    since = value - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def to_arrow(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, sweep: str, seq: Sequence[int] | None = None
) -> pa.Table:
    """A table of encoded rows of `sweep`, numbered `seq`; an absent column is null, NaN stays NaN."""
    columns = []
    for field in schema:
        if field.name == "sweep":
            columns.append(pa.repeat(pa.scalar(sweep), len(rows)))
        elif field.name == "seq":
            columns.append(pa.array(seq, type=field.type))
        else:
            columns.append(pa.array([row.get(field.name) for row in rows], type=field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as dicts with every column; absent values are None, times aware datetimes."""
    columns = [_values(table.column(name)) for name in table.column_names]
    names = table.column_names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)] if columns else []


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        since = column.cast(pa.int64()).to_pylist()
        return [None if v is None else _EPOCH + timedelta(microseconds=v) for v in since]
    if column.null_count == 0 and (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return column.to_numpy().tolist()  # ten times the speed of to_pylist
    return column.to_pylist()


def to_encoded(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as `Encoder` makes them."""
    plain = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in table.columns]
    columns = [_values(c) for c in plain]
    names = table.column_names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)] if columns else []


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns of `schema`, in its order: unknown ones dropped, missing ones null.

    Configuration and metric columns that the file has and `schema` lacks are kept, at the end.
    """
    extra = [f for f in table.schema if f.name not in schema.names and f.name.startswith((CONFIG, METRIC))]
    fields = [*schema, *extra]
    columns = []
    for field in fields:
        if field.name not in table.schema.names:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
            continue
        column = table.column(field.name)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def unify(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all rows; columns are matched by name and null where a table lacks them.

    A column that is of one type here and another there becomes the wider one: double for int and double,
    string where nothing else holds both.
    """
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    schema = pa.schema([(name, _wider(found)) for name, found in kinds.items()])
    return pa.concat_tables([conform(t, schema) for t in tables])


def _wider(kinds: set[pa.DataType]) -> pa.DataType:
    if len(kinds) == 1:
        return next(iter(kinds))
    numeric = all((pa.types.is_integer(k) or pa.types.is_floating(k)) for k in kinds)
    if numeric and any(pa.types.is_floating(k) for k in kinds):
        return pa.float64()
    return pa.int64() if numeric else pa.string()
