#!/usr/bin/env bash
# Ray 2.60.0. Tasks run at niceness 15 where the program that calls `ray.init()` runs at 0, and so does each program that
# they start (data loaders, compilers): beside ordinary processes on the same cores they come last, and what a trial
# takes depends on what else runs. RAY_worker_niceness=0 in the environment turns it off. Expected: the niceness of who
# started it, as from subprocess or multiprocessing.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ray==2.60.0
cd "$folder"
cat >look.py <<'PYTHON'
import os
import subprocess
import sys

import ray

ASK = [sys.executable, "-c", "import os; print(os.nice(0))"]


@ray.remote
def task():
    return os.nice(0), int(subprocess.run(ASK, capture_output=True, text=True, check=True).stdout)


own, child = os.nice(0), int(subprocess.run(ASK, capture_output=True, text=True, check=True).stdout)
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
found = ray.get(task.remote())
ray.shutdown()
print(f"driver {own}, its subprocess {child}; task {found[0]}, the task's subprocess {found[1]}; asked for {sys.argv[1]}")
assert child == own and found == (min(19, own + int(sys.argv[1])),) * 2, "it behaves otherwise now"
PYTHON
RAY_AUTH_MODE=token RAY_AUTH_TOKEN="$(python3 -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_MODE RAY_AUTH_TOKEN
"$folder/venv/bin/python" -W ignore look.py 15
RAY_worker_niceness=0 "$folder/venv/bin/python" -W ignore look.py 0
