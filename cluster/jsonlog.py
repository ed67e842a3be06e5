"""What a run says, as JSON lines on standard error: `--log-format json`, for machines that collect logs.

Each line is one object as `SCHEMA` says: when, how grave, which event, and the sentence that a person would have read.
Whatever else is printed to standard error meanwhile, by fairsweep or by a package, becomes such a line too.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, TextIO

from fairsweep.analysis.report import jsonable
from fairsweep.cluster.config import Settings
from fairsweep.cluster.display import QUIET_LINE_S, Display, Guarded
from fairsweep.cluster.engine.conductor import Conductor, Trial
from fairsweep.cluster.errors import UserError

FORMATS = ("text", "json")
VARIABLE = "FAIRSWEEP_LOG_FORMAT"
_NUMBER: dict[str, Any] = {"type": ["number", "null"]}
_COUNTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "integer"}}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A line of a run's log",
    "type": "object",
    "required": ["time", "level", "event", "message"],
    "additionalProperties": False,
    "properties": {
        "time": {"type": "string", "description": "ISO 8601, UTC, milliseconds"},
        "level": {"enum": ["info", "warning", "error"]},
        "event": {
            "enum": ["begin", "progress", "trial", "note", "end", "error", "output"],
            "description": "output: what something else printed to standard error",
        },
        "message": {"type": "string"},
        "sweep": {"type": "string"},
        "store": {"type": "string"},
        "state": {"type": "string", "description": "of the sweep (end) or the trial"},
        "trials": {**_COUNTS, "description": "how many are in which state"},
        "expected": {"type": "integer", "description": "trials that there will be; 0: not known"},
        "elapsed_s": {"type": "number", "description": "wall seconds of the sweep, earlier runs included"},
        "trial": {"type": "string"},
        "seed": {"type": "integer"},
        "config": {"type": "object"},
        "reason": {"type": "string"},
        "objective": {"type": "string"},
        "value": {**_NUMBER, "description": "of the objective; null: none, or no finite number"},
        "steps": {"type": "integer"},
        "cost_s": {"type": "number"},
        "traceback": {"type": "string"},
    },
}


class Lines(io.TextIOBase):
    """A standard error that writes JSON lines to `inner`."""

    MARKS = (
        ("fairsweep: error: ", "error", "error"),
        ("fairsweep: warning: ", "warning", "note"),
        ("fairsweep: ", "info", "note"),
        ("note: ", "info", "note"),
    )

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner
        self._begun = ""
        self._lock = threading.RLock()

    def emit(self, event: str, message: str, level: str = "info", **more: Any) -> None:
        """Writes one line. more: further members of `SCHEMA`."""
        when = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": when, "level": level, "event": event, "message": message, **more}
        with self._lock:
            self.inner.write(json.dumps(jsonable(line)) + "\n")
            self.inner.flush()

    def write(self, text: str) -> int:
        with self._lock:
            *whole, self._begun = (self._begun + text).split("\n")
            for line in whole:
                self._said(line)
        return len(text)

    def rest(self) -> None:
        """Writes what was begun and not ended."""
        with self._lock:
            line, self._begun = self._begun, ""
            self._said(line)

    def _said(self, line: str) -> None:
        line = line.rstrip("\r").rpartition("\r")[2]
        for mark, level, event in self.MARKS:
            if line.startswith(mark):
                self.emit(event, line.removeprefix(mark), level)
                return
        if line.strip():
            self.emit("output", line)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.inner.fileno()

    def flush(self) -> None:
        self.inner.flush()


def wanted(given: str | None) -> bool:
    """Whether JSON lines are asked for, by an option or the environment. UserError for another format."""
    found = given or os.environ.get(VARIABLE) or "text"
    if found not in FORMATS:
        where = "--log-format" if given else VARIABLE
        raise UserError(f"{where}={found}: must be {' or '.join(FORMATS)}")
    return found == "json"


@contextlib.contextmanager
def as_lines() -> Iterator[None]:
    """Makes standard error one of JSON lines while the block runs; an error that ends it is one line, too."""
    before = sys.stderr
    lines = Lines(before)
    sys.stderr = lines
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        lines.emit("error", text, "error", traceback=traceback.format_exc())
        raise SystemExit(1) from None
    finally:
        lines.rest()
        sys.stderr = before


def display(quiet: bool = False) -> Display:
    """What tells of a run within `as_lines`."""
    lines = sys.stderr
    return Guarded(JsonDisplay(lines)) if isinstance(lines, Lines) and not quiet else Display()


class JsonDisplay(Display):
    """Begin, each trial that comes to rest, notes, the state of all every quarter of a minute, and the end."""

    def __init__(self, lines: Lines) -> None:
        self.lines, self._last = lines, time.monotonic()
        self.about: dict[str, Any] = {}
        self.conductor: Conductor | None = None

    def begin(self, name: str, uri: str, settings: Settings, conductor: Conductor, recovery: Any) -> None:
        self.about, self.conductor = {"sweep": name}, conductor
        said = f"{settings.heading}, {conductor.rules.concurrent} at a time"
        self._emit("begin", said, store=uri, **self._state())
        if recovery is not None and recovery.message:
            self.note(recovery.message)

    def tick(self, conductor: Conductor) -> None:
        if time.monotonic() - self._last > QUIET_LINE_S:
            self._emit("progress", "running", **self._state())

    def ended(self, trial: Trial) -> None:
        assert self.conductor is not None
        self._emit(
            "trial",
            f"{trial.id} {trial.reason}",
            "warning" if trial.state == "failed" else "info",
            trial=trial.id,
            state=trial.state,
            reason=trial.reason,
            seed=trial.seed,
            config=trial.config,
            objective=self.conductor.rules.objective,
            value=trial.value,
            steps=trial.steps,
            cost_s=trial.cost_s,
        )

    def note(self, text: str) -> None:
        self._emit("note", text)

    def closed(self, state: str) -> None:
        self._emit("end", state, state=state, **self._state())

    def _state(self) -> dict[str, Any]:
        conductor = self.conductor
        assert conductor is not None
        counts = Counter(trial.state for trial in conductor.trials.values())
        return {
            "trials": dict(counts),
            "expected": conductor.expected,
            "elapsed_s": round(conductor.elapsed_s, 3),
        }

    def _emit(self, event: str, message: str, level: str = "info", **more: Any) -> None:
        self._last = time.monotonic()
        self.lines.emit(event, message, level, **self.about, **more)
