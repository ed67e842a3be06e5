#!/usr/bin/env bash
# pyarrow 26.0.1. `pa.array([1, 2, 3])`, a list without anything of pandas in it, imports pandas where it is installed, to
# ask whether the list is a Series: half a second and 50 MB for the first array of every process, in workers and command
# line tools that use pandas for nothing. A given type or a NumPy array does not spare it, nor does `pa.scalar`. Expected: what
# has not been imported cannot have made the object, so that `sys.modules` would answer.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cd "$folder"
cat >look.py <<'PYTHON'
import resource
import sys
import time

import numpy as np
import pyarrow as pa

WAYS = {
    "scalar": lambda: pa.scalar(1),
    "list": lambda: pa.array([1, 2, 3]),
    "list with its type": lambda: pa.array([1, 2, 3], pa.int64()),
    "NumPy": lambda: pa.array(np.arange(3)),
}
name, used = sys.argv[1], lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
assert "pandas" not in sys.modules
size, began = used(), time.perf_counter()
WAYS[name]()
print(f"{name}: pandas {'pandas' in sys.modules}, {time.perf_counter() - began:.3f} s, {used() - size:.0f} MiB")
assert "pandas" in sys.modules, "it behaves otherwise now"
PYTHON
for way in scalar list "list with its type" NumPy; do "$folder/venv/bin/python" look.py "$way"; done
