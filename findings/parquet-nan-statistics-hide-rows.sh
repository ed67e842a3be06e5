#!/usr/bin/env bash
# pyarrow 26.0.1 with DuckDB 2.0.1. pyarrow writes a column's minimum and maximum without its NaN, and DuckDB skips row
# groups by them: of a file with a NaN `where isnan(x)` finds no row, `select x, isnan(x)` shows (nan, False), and
# `where x > 5` passes over it, although DuckDB holds NaN to be above all numbers. Expected: the same rows either way.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pyarrow==26.0.1 duckdb==2.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import math

import duckdb, pyarrow as pa, pyarrow.parquet as pq

table = pa.table({"loss": [0.3, math.nan, 0.2]})
pq.write_table(table, "with.parquet")
pq.write_table(table, "without.parquet", write_statistics=False)
found = {}
for name in ("with", "without"):
    for condition in ("isnan(loss)", "loss > 5"):
        rows = duckdb.sql(f"select count(*) from '{name}.parquet' where {condition}").fetchall()[0][0]
        found[name, condition] = rows
        print(f"{name:7} statistics, where {condition:11}: {rows} rows")
values = [row[0] for row in duckdb.sql("select loss from 'with.parquet'").fetchall()]
flags = [row[0] for row in duckdb.sql("select isnan(loss) from 'with.parquet'").fetchall()]
print(f"with    statistics, select loss, isnan(loss): {list(zip(values, flags))}")
assert math.isnan(values[1]) and found == {
    ("with", "isnan(loss)"): 0, ("with", "loss > 5"): 0, ("without", "isnan(loss)"): 1, ("without", "loss > 5"): 1,
}, "it behaves otherwise now"
PYTHON
