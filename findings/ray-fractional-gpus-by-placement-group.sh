#!/usr/bin/env bash
# Ray 2.60.0. A task or actor that asks for 1.5 GPUs is refused ("must be whole numbers"), since there is no half of a
# second device to be seen. A placement group of {"GPU": 1.5} is granted: it takes 1.5 of 4 from everybody else, and a
# task of one GPU in it sees one device. Expected: the same refusal, before anything waits for it. Needs no GPU.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ray==2.60.0
cd "$folder"
cat >look.py <<'PYTHON'
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

ray.init("local", num_cpus=1, num_gpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")


@ray.remote(num_cpus=0, num_gpus=1)
def seen():
    return ray.get_gpu_ids()


try:
    seen.options(num_gpus=1.5).remote()
    refused = "accepted"
except ValueError:
    refused = "ValueError"
group = placement_group([{"GPU": 1.5}])
granted, left = group.wait(30), ray.available_resources().get("GPU", 0)
inside = ray.get(seen.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote(), timeout=60)
ray.shutdown()
print(f"a task of 1.5 GPUs: {refused}; a placement group of 1.5: granted {granted}, {left} of 4 left; a task in it sees {len(inside)}")
assert (refused, granted, left, len(inside)) == ("ValueError", True, 2.5, 1), "it behaves otherwise now"
PYTHON
RAY_AUTH_MODE=token RAY_AUTH_TOKEN="$(python3 -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_MODE RAY_AUTH_TOKEN
"$folder/venv/bin/python" -W ignore look.py
