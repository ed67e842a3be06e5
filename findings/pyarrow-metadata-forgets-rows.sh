#!/usr/bin/env bash
# pyarrow 17.0.0 and 26.0.1. A table of zero columns knows its number of rows (what is left when none of the asked columns
# is in a file), but replace_schema_metadata on it gives a table of 0 rows. Expected: metadata do not change the rows.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 17.0.0 26.0.1; do
    python3 -m venv "venv-$version"
    "venv-$version/bin/pip" install -q --disable-pip-version-check "pyarrow==$version"
    "venv-$version/bin/python" - <<'PYTHON'
import pyarrow as pa, pyarrow.parquet as pq

pq.write_table(pa.table({"loss": [0.3, 0.2, 0.1]}), "reports.parquet")
table = pq.read_table("reports.parquet", columns=[])
again = table.replace_schema_metadata({"made": "today"})
print(f"pyarrow {pa.__version__}: {table.num_rows} rows, {again.num_rows} after replace_schema_metadata")
assert (table.num_rows, again.num_rows) == (3, 0), "it behaves otherwise now"
PYTHON
done
