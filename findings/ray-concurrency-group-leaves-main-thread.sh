#!/usr/bin/env bash
# Ray 2.60.0. One concurrency group on an actor, for one of its methods, moves every method off the main thread, those of
# no group too: `signal.signal` raises there, and what needs the main thread (handlers of signals, some profilers) fails in
# methods that worked before. Expected: methods of the default
# group stay where they ran without one.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ray==2.60.0
cd "$folder"
cat >look.py <<'PYTHON'
import signal
import threading

import ray

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")


class Plain:
    def work(self):
        try:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        except ValueError as error:
            return str(error)
        return threading.current_thread() is threading.main_thread()


class Grouped(Plain):
    @ray.method(concurrency_group="io")
    def ping(self):
        return True


plain = ray.get(ray.remote(num_cpus=0)(Plain).remote().work.remote(), timeout=60)
grouped = ray.get(ray.remote(num_cpus=0, concurrency_groups={"io": 1})(Grouped).remote().work.remote(), timeout=60)
ray.shutdown()
print(f"without a group, on the main thread: {plain}; with one for another method: {grouped}")
assert plain is True and "main thread" in str(grouped), "it behaves otherwise now"
PYTHON
RAY_AUTH_MODE=token RAY_AUTH_TOKEN="$(python3 -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_MODE RAY_AUTH_TOKEN
"$folder/venv/bin/python" -W ignore look.py
