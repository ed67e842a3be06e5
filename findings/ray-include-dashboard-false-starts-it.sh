#!/usr/bin/env bash
# Ray 2.60.0. `ray.init(include_dashboard=False)` starts the process of the dashboard all the same (only its web server is
# left out): 100 MB and a second of CPU for each Ray, of which a test suite or a laptop has many. Expected: no such process.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'ray[default]==2.60.0' psutil==7.2.2
cd "$folder"
cat >look.py <<'PYTHON'
import time

import psutil
import ray

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
ray.get(ray.remote(lambda: 1).remote())
time.sleep(3)
found = [p for p in psutil.Process().children(recursive=True) if any("dashboard/dashboard.py" in word for word in p.cmdline())]
size = [p.memory_info().rss / 2**20 for p in found]
ray.shutdown()
print(f"processes of dashboard.py: {len(found)}, {', '.join(f'{mb:.0f} MiB' for mb in size)}")
assert len(found) == 1 and size[0] > 50, "it behaves otherwise now"
PYTHON
RAY_AUTH_MODE=token RAY_AUTH_TOKEN="$(python3 -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_MODE RAY_AUTH_TOKEN
"$folder/venv/bin/python" -W ignore look.py
