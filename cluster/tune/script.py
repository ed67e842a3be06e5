"""Runs a user's script as `__main__`, in a process of its own, up to where its `Tuner` would begin: its space is there.

python -m fairsweep.cluster.tune.script     # the other side: the source as JSON in, what was found as JSON out
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fairsweep.trainables.own.loading import Stop
from fairsweep.trainables.own.source import Source, TrainableError

LIMIT_S = 120.0


def find(given: Source) -> dict[str, Any]:
    """What the script's `Tuner` says. TrainableError in one line."""
    where = f"trainable={given.reference}"
    remedy = "say param_space = {'lr': tune.loguniform(1e-4, 1e-1), ...} at the module's level"
    if not given.place.endswith(".py") or "__main__" not in _main(given):
        marked = "or mark the function with @fairsweep.trainable(space={...}, metric=...)"
        raise TrainableError(f"{where}: has no param_space; {remedy}, {marked}")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "fairsweep.cluster.tune.script"]
    try:
        done = subprocess.run(
            command,
            input=given.to_json(),
            capture_output=True,
            text=True,
            env=env,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TrainableError(
            f"{where}: its __main__ part did not come to a Tuner within {LIMIT_S:g} s; {remedy}"
        ) from None
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines()
        raise TrainableError(
            f"{where}: its __main__ part ended its process{f' ({said[-1]})' if said else ''}; {remedy}"
        ) from None
    if "error" in found:
        raise TrainableError(f"{where}: {found['error']}; {remedy}")
    return found


def _main(given: Source) -> str:
    return given.files.get(Path(given.place).relative_to(given.folder).as_posix(), "")


def _serve() -> None:
    given = Source.from_json(sys.stdin.read())
    with contextlib.redirect_stdout(sys.stderr):
        found = run_main(given)
    print(json.dumps(found), flush=True)
    os._exit(0)  # threads that the script has started are of no use


def run_main(given: Source) -> dict[str, Any]:
    """What the `Tuner` of the script's `__main__` part says, or `error`: run here, up to where it would begin."""
    from fairsweep.cluster.tune import finding, spaces
    from fairsweep.cluster.tune.guards import guarded

    runs: list[dict[str, Any]] = []
    path = Path(given.place)
    sys.argv, sys.path[0] = [str(path)], str(path.parent)
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(path), "__builtins__": __builtins__}
    try:
        with guarded(runs):
            exec(compile(_main(given), str(path), "exec"), names)
    except Stop:
        pass
    except BaseException as error:
        return {
            "error": f"its __main__ part raises {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        }
    if not runs:
        return {"error": "its __main__ part runs no Tuner"}
    told = runs[0]
    if not finding.same(told["trainable"], names.get(given.name)):
        return {
            "error": f"its __main__ part tunes {getattr(told['trainable'], '__name__', told['trainable'])!r}"
        }
    try:
        found = finding.told_by(told)
    except spaces.NotCarriedOver as error:
        return {"error": str(error)}
    if found["objects"]:
        odd = [".".join(e["path"]) for e in found["entries"] if spaces.needs_module(e)]
        return {
            "error": f"param_space of {', '.join(odd)}: functions and objects cannot be sent to workers from under"
            " `if __name__ == '__main__'`"
        }
    return found


if __name__ == "__main__":
    _serve()
