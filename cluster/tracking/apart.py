"""The driver's own dealings with trackers, each in a process of its own.

That is bounded in time whatever a server does, leaves alone what the driver's process (a notebook, say) has of W&B or
MLflow, and a Ctrl-C that ends it ends nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def apart(function: str, arguments: Mapping[str, Any], seconds: float) -> Any:
    """What `function` ("module:name") gives for `arguments`, as JSON takes and gives them.

    TimeoutError after `seconds`, RuntimeError with the last line that it said if it fails.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryDirectory(prefix="fairsweep-", ignore_cleanup_errors=True) as folder:
        given, told, said = (Path(folder, name) for name in ("given", "told", "said"))
        given.write_text(json.dumps(arguments))
        with said.open("w") as out:  # no pipe, which a child of it could keep open
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from {__name__} import main; main()",
                    function,
                    str(given),
                    str(told),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"it took longer than {seconds:g} s") from None
            finally:
                if process.poll() is None:
                    with contextlib.suppress(OSError):
                        os.killpg(process.pid, signal.SIGKILL)  # its own session: it, and what it has started
                    process.wait()
        if code or not told.exists():
            lines = said.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"it ended with exit code {code}")
        return json.loads(told.read_text())


def main() -> None:
    """The other process: module:name, the file of arguments, and where the answer goes."""
    function, given, told = sys.argv[1:]
    module, _, name = function.partition(":")
    answer = getattr(importlib.import_module(module), name)(**json.loads(Path(given).read_text()))
    Path(told).write_text(json.dumps(answer))
