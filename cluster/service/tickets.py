"""What a client asks of the live tables, as JSON: a table, of one sweep or of all, some columns, conditions on rows.

    {"table": "trials", "sweep": "mine", "columns": ["trial", "value"], "filter": [["state", "==", "complete"]]}

Only `table` is needed. A condition is a column, an operator and a value; a row must meet all of them. Nothing of it
is ever evaluated: the operators are those of `OPERATORS`, the values plain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fairsweep.analysis.schema import is_name
from fairsweep.analysis.text import bounded, storable

OF_A_SWEEP = ("sweeps", "trials", "results")
TABLES = (*OF_A_SWEEP, "comparisons", "architectures", "claims")
KEYS = ("table", "sweep", "columns", "filter")
LONGEST = 64 * 1024  # bytes of a ticket
MOST = 100  # conditions
MOST_VALUES = 1_000  # of `in`
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "in": lambda column, values: pc.is_in(column, value_set=values),
}
EQUALITY = ("==", "!=", "in")  # all that text without an order, and true or false, can be asked for
SHOWN = 100  # characters of what was wrong


class BadTicket(ValueError):
    """What is asked for cannot be understood; says in a line what would be right."""


@dataclass(frozen=True)
class Ask:
    """A checked ticket. columns: None for all; sweep: None for all."""

    table: str
    sweep: str | None = None
    columns: tuple[str, ...] | None = None
    filter: tuple[tuple[str, str, Any], ...] = field(default=())

    @property
    def needed(self) -> tuple[str, ...] | None:
        """The columns that must be read; None for all."""
        if self.columns is None:
            return None
        return tuple(sorted({*self.columns, *(name for name, _, _ in self.filter)}))

    def ticket(self) -> bytes:
        found: dict[str, Any] = {"table": self.table}
        if self.sweep is not None:
            found["sweep"] = self.sweep
        if self.columns is not None:
            found["columns"] = list(self.columns)
        if self.filter:
            found["filter"] = [list(condition) for condition in self.filter]
        return json.dumps(found).encode()


def parse(ticket: bytes) -> Ask:
    """The ticket, checked as far as that needs no table. BadTicket in one line."""
    if len(ticket) > LONGEST:
        raise BadTicket(f"the ticket has {len(ticket)} bytes; at most {LONGEST} are read")
    try:
        found = json.loads(ticket, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        raise BadTicket(
            'the ticket is no JSON; it must read {"table": "trials"}, with "sweep", "columns" and "filter" if wanted'
        ) from None
    if not isinstance(found, dict):
        raise BadTicket('the ticket must be a JSON object such as {"table": "trials"}')
    for key in found:
        if key not in KEYS:
            raise BadTicket(f"{_shown(key)}: no such key; keys are {', '.join(KEYS)}")
    return Ask(
        table_of(found.get("table")),
        sweep_of(found.get("sweep")),
        _columns(found.get("columns")),
        tuple(_condition(k, condition) for k, condition in enumerate(_conditions(found.get("filter")))),
    )


def table_of(name: Any) -> str:
    if not isinstance(name, str) or name not in TABLES:
        raise BadTicket(f"table={_shown(name)}: must be one of {', '.join(TABLES)}")
    return name


def sweep_of(name: Any) -> str | None:
    if name is not None and not (isinstance(name, str) and is_name(name)):
        raise BadTicket(f"sweep={_shown(name)}: must be the name of a sweep; without it, all are meant")
    return name


def _no_constant(text: str) -> Any:
    raise ValueError(text)  # NaN and Infinity, which are no JSON


def _shown(value: Any) -> str:
    return bounded(value if isinstance(value, str) else repr(value), SHOWN)


def _columns(names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise BadTicket(f"columns={_shown(names)}: must be a list of names; without it, all are given")
    if len(set(names)) < len(names):
        raise BadTicket(f"columns={_shown(names)}: names a column twice")
    return tuple(names)


def _conditions(filter: Any) -> list[Any]:
    if filter is None:
        return []
    if not isinstance(filter, list) or len(filter) > MOST:
        raise BadTicket(
            f'filter={_shown(filter)}: must be a list of at most {MOST} conditions such as ["step", ">=", 10]'
        )
    return filter


def _condition(k: int, condition: Any) -> tuple[str, str, Any]:
    if not isinstance(condition, list) or len(condition) != 3 or not isinstance(condition[0], str):
        raise BadTicket(
            f'filter[{k}]={_shown(condition)}: must be [column, operator, value], such as ["step", ">=", 10]'
        )
    name, operator, value = condition
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise BadTicket(f"filter[{k}]: operator {_shown(operator)}: must be one of {' '.join(OPERATORS)}")
    if operator == "in":
        if not isinstance(value, list) or not value or len(value) > MOST_VALUES:
            raise BadTicket(
                f"filter[{k}]: `in` needs a list of 1 to {MOST_VALUES} values, not {_shown(value)}"
            )
    elif isinstance(value, (list, dict)):
        raise BadTicket(f"filter[{k}]: value {_shown(value)}: must be a number, text, true, false or null")
    return name, operator, value


# -- against a table ----------------------------------------------------------------------------------


def check_columns(ask: Ask, schema: pa.Schema) -> None:
    """BadTicket for a column that the table lacks."""
    for name in (*(ask.columns or ()), *(name for name, _, _ in ask.filter)):
        if name not in schema.names:
            close = get_close_matches(name, schema.names, n=3)
            known = (
                f"did you mean {' or '.join(close)}?" if close else f"columns are {', '.join(schema.names)}"
            )
            raise BadTicket(f"table {ask.table} has no column {_shown(name)}; {known}")


def conditions(ask: Ask, schema: pa.Schema) -> list[Callable[[pa.Table], Any]]:
    """What is true of the rows that are asked for, each as a function of the table. BadTicket for a wrong value."""
    return [
        _test(name, operator, value, schema.field(name).type, f"filter[{k}]: {_shown(name)} {operator}")
        for k, (name, operator, value) in enumerate(ask.filter)
    ]


def matching(table: pa.Table, ask: Ask, tests: Sequence[Callable[[pa.Table], Any]]) -> pa.Table:
    """The rows and columns that are asked for. A value that is absent, or NaN, meets no condition but == null, !=."""
    for test in tests:
        table = table.filter(test(table))
    return table if ask.columns is None else table.select(list(ask.columns))


def _test(name: str, operator: str, value: Any, kind: pa.DataType, where: str) -> Callable[[pa.Table], Any]:
    if value is None:
        if operator not in ("==", "!="):
            raise BadTicket(f"{where} null: absent values are asked for by == null and != null alone")
        is_null = operator == "=="
        return lambda table: (pc.is_null if is_null else pc.is_valid)(table[name])
    if pa.types.is_boolean(kind) and operator not in EQUALITY:
        raise BadTicket(f"{where}: is true or false, and has no order; operators are {' '.join(EQUALITY)}")
    wanted: Any
    if operator == "in":
        made = [_scalar(each, kind, where) for each in value]
        types = {scalar.type for scalar in made}
        wanted = pa.array([s.as_py() for s in made], made[0].type if len(types) == 1 else pa.float64())
    else:
        wanted = _scalar(value, kind, where)
    compare = OPERATORS[operator]
    # A whole number is compared as a double with a value that is none, and with one that is out of its range.
    double = pa.types.is_integer(kind) and pa.types.is_floating(wanted.type)
    return lambda table: compare(
        pc.cast(table[name], pa.float64(), safe=False) if double else table[name], wanted
    )


def _scalar(value: Any, kind: pa.DataType, where: str) -> pa.Scalar:
    """`value` as one of a column's, or as a double beside whole numbers."""
    if pa.types.is_boolean(kind):
        if isinstance(value, bool):
            return pa.scalar(value)
        raise BadTicket(f"{where} {_shown(value)}: must be true or false")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadTicket(f"{where} {_shown(value)}: must be a number")
        if pa.types.is_integer(kind) and isinstance(value, int) and -(2**63) <= value < 2**63:
            return pa.scalar(value, pa.int64())
        try:
            return pa.scalar(float(value), pa.float64())
        except OverflowError:
            raise BadTicket(f"{where} {_shown(value)}: is beyond every number of the table") from None
    if not isinstance(value, str) or not storable(value):
        raise BadTicket(f"{where} {_shown(value)}: must be text")
    if pa.types.is_timestamp(kind):
        return _moment(value, kind, where)
    return pa.scalar(value, kind)


def _moment(value: str, kind: pa.DataType, where: str) -> pa.Scalar:
    try:
        found = datetime.fromisoformat(value.removesuffix("Z") + ("+00:00" if value.endswith("Z") else ""))
        found = found if found.tzinfo else found.replace(tzinfo=timezone.utc)
        return pa.scalar(found.astimezone(timezone.utc), kind)
    except (ValueError, OverflowError):
        raise BadTicket(f"{where} {_shown(value)}: must be a time such as 2026-11-29T20:15:00Z") from None


def ask(
    table: str,
    sweep: str | None = None,
    columns: Sequence[str] | None = None,
    where: Sequence[Sequence[Any]] = (),
) -> Ask:
    """What Python asks for, checked as what comes over the wire. where: conditions; times may be datetimes."""
    raw: Mapping[str, Any] = {
        "table": table,
        "sweep": sweep,
        "columns": None if columns is None else list(columns),
        "filter": [list(condition) for condition in where] if len(where) else None,
    }
    try:
        text = json.dumps(raw, default=_plain)
    except (TypeError, ValueError) as error:
        raise BadTicket(f"where={_shown(list(where))}: {error}") from None
    return parse(text.encode())


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "item"):  # numpy's numbers
        return value.item()
    raise TypeError(f"{_shown(value)} is no number, text, true, false, null or time")
