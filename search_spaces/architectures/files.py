"""Our own tables as Parquet files: one row an architecture and seed, and in the schema all that made them.

Columns: `architecture` (text), `seed`, one a metric, `cost.<name>` one a cost. The key `fairsweep.table` of the
schema's metadata holds JSON: the space's id, what the metrics mean, title, licence, the protocol of training and its
hash, versions of the libraries, and the command that made the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairsweep.search_spaces.architectures.base import ArchitectureError, ArchitectureSpace
from fairsweep.search_spaces.architectures.catalog import space_of_id
from fairsweep.search_spaces.architectures.published import DATA, nas_bench_201, nas_bench_macro
from fairsweep.search_spaces.architectures.tables import Metric, Source, Table, TableError, padded

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
METADATA = b"fairsweep.table"
FOLDER = Path(__file__).parent / "data"  # tables of the package
COST = "cost."


def open_table(name: str, path: str | Path | None = None) -> Table:
    """A table by name: nas_bench_201/<data set>, nas_bench_macro, one of the package, or a Parquet file's path.

    path: where the file of a table lies that is not part of a package (nas_bench_macro). TableError names what is
    missing, or the known tables.
    """
    head, _, data = name.partition("/")
    if head == "nas_bench_201":
        return nas_bench_201(data or "cifar10")
    if name == "nas_bench_macro":
        if path is None:
            raise TableError(f"table={name}: path is None; give the path of nas-bench-macro_cifar10.json")
        return nas_bench_macro(path)
    if name.endswith(".parquet"):
        return read_table(name)
    if name in packaged():
        return read_table(FOLDER / f"{name}.parquet")
    known = [
        *(f"nas_bench_201/{d}" for d in DATA),
        "nas_bench_macro",
        *packaged(),
        "or the path of a .parquet file",
    ]
    raise TableError(f"table={name}: no such table; known: {', '.join(known)}")


def packaged() -> tuple[str, ...]:
    """Names of the tables that ship with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.parquet")))


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """SHA-256 of a protocol as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write_table(
    path: str | Path,
    space: ArchitectureSpace,
    rows: Iterable[Mapping[str, Any]],
    metrics: Mapping[str, Metric],
    source: Source,
    versions: Mapping[str, str],
) -> Table:
    """Writes a table and reads it back. The file appears whole or not at all.

    rows: mappings with `architecture` (an `Architecture` of the space, or its text), `seed`, a number for every
    metric, and for every cost `cost.<name>`; all rows have the same names. versions: of the libraries that trained.
    TableError names the row that is wrong; an architecture may have as many seeds as it likes, each once.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for row in rows:
        given = row["architecture"]
        found.append({**row, "architecture": given if isinstance(given, str) else space.format(given)})
    if not found:
        raise TableError(f"{path}: there are no rows to write")
    costs = [name for name in found[0] if name.startswith(COST)]
    names = ["architecture", "seed", *metrics, *costs]
    for number, row in enumerate(found):
        if set(row) != set(names):
            raise TableError(f"{path}: row {number} has {sorted(row)}, must have {sorted(names)}")
    described = {
        "format": FORMAT,
        "space": space.id,
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        **asdict(source),
        "protocol_hash": protocol_hash(source.protocol),
        "versions": dict(versions),
    }
    fields = [pa.field("architecture", pa.string(), False), pa.field("seed", pa.int64(), False)]
    fields += [pa.field(name, pa.float64(), False) for name in names[2:]]
    schema = pa.schema(fields, {METADATA: json.dumps(described, allow_nan=False).encode()})
    try:
        data = pa.Table.from_pylist(
            sorted(found, key=lambda r: (r["architecture"], r["seed"])), schema=schema
        )
    except (pa.ArrowException, TypeError) as error:
        raise TableError(f"{path}: a value has the wrong type ({' '.join(str(error).split())})") from None
    table = _table(data, path)
    part = Path(f"{path}.part")
    pq.write_table(data, part, compression="zstd")
    os.replace(part, path)
    return table


def read_table(path: str | Path) -> Table:
    """A table that `write_table` wrote. TableError if it is none, or not what it says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    return _table(data, path)


def _table(data: pa.Table, path: str | Path) -> Table:
    described = _description(data, path)
    try:
        space = space_of_id(described["space"])
    except ValueError as error:
        raise TableError(f"{path}: {error}") from None
    metrics = {name: Metric(**metric) for name, metric in described["metrics"].items()}
    costs = [name for name in data.column_names if name.startswith(COST)]
    missing = [name for name in ("architecture", "seed", *metrics) if name not in data.column_names]
    if missing:
        raise TableError(f"{path}: columns missing: {', '.join(missing)}")
    columns = {name: data[name].to_numpy() for name in (*metrics, *costs)}
    for name, column in columns.items():
        if not np.isfinite(column).all():
            raise TableError(f"{path}: {name} in row {int(np.argmin(np.isfinite(column)))}: must be finite")
    groups: dict[str, list[int]] = {}
    seen: set[tuple[str, int]] = set()
    for row, (text, seed) in enumerate(
        zip(*(data[n].to_pylist() for n in ("architecture", "seed")), strict=True)
    ):
        if (text, seed) in seen:
            raise TableError(f"{path}: {text}, seed {seed} stands in it twice")
        seen.add((text, seed))
        groups.setdefault(text, []).append(row)
    try:
        keys = [space.check(space.parse(text)) for text in groups]
    except ArchitectureError as error:
        raise TableError(f"{path}: {error}") from None

    def by_key(column: np.ndarray) -> list[np.ndarray]:
        return [column[rows] for rows in groups.values()]

    return Table(
        space=space,
        keys=tuple(keys),
        metrics=metrics,
        values={name: padded(by_key(columns[name])) for name in metrics},
        prices={
            name.removeprefix(COST): np.array([np.mean(rows) for rows in by_key(columns[name])])
            for name in costs
        },
        source=Source(
            **{name: described[name] for name in ("title", "licence", "version", "protocol", "command")}
        ),
    )


def _description(data: pa.Table, path: str | Path) -> dict[str, Any]:
    text = (data.schema.metadata or {}).get(METADATA)
    if text is None:
        raise TableError(f"{path}: is no table of architectures (no {METADATA.decode()} in its metadata)")
    described: dict[str, Any] = json.loads(text)
    if described.get("format") != FORMAT:
        raise TableError(f"{path}: format={described.get('format')}: this version reads {FORMAT}")
    found = protocol_hash(described["protocol"])
    if described["protocol_hash"] != found:
        raise TableError(f"{path}: protocol_hash={described['protocol_hash']}: its protocol has {found}")
    return described
