"""Dry runs of an Optuna objective, in a process of their own: which names it asks for, in which ranges.

An objective is somebody's code: it may train for hours, hang or crash. So it is started where nothing is lost by it,
ends at its first report or return or once it has asked for nothing more for a while, and is killed if it does not end.

    python -m fairsweep.trainables.own.dry_runs     # the other side: a line of JSON in for each run, lines out
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fairsweep.trainables.own.loading import AROUND
from fairsweep.trainables.own.loading import load as load_source
from fairsweep.trainables.own.optuna_space import Asked, Run, infer, questions
from fairsweep.trainables.own.source import Source

LIMIT_S = 30.0  # of all runs together, imports of the objective's module not counted
IMPORT_S = 120.0  # until the objective's module is there
SILENT_S = (0.5, 10.0)  # after the last question: at least, and at most
GRACE_S = 5.0  # from there until the process is killed, as in the middle of one long call
MOST_RUNS = 120
RANDOM_RUNS = 6
MOST_ALIKE = 3  # first runs that fail alike
FAILED = {"raised", "lost"}


class ObjectiveError(ValueError):
    """An objective that cannot be searched; one line that says why and what would be right."""


@dataclass(frozen=True)
class Discovery:
    """What dry runs have found. returned: how many values the objective returns, 0 where no run came so far."""

    space: dict[str, Any]
    returned: int
    runs: int
    notes: tuple[str, ...]


def discover(
    source: Source, modes: Sequence[str], limit_s: float = LIMIT_S, start: Callable[..., Any] | None = None
) -> Discovery:
    """The space of an objective. ObjectiveError, SpaceError in one line. start: what runs it, in a process's place."""
    runs: list[Run] = []
    given: list[dict[str, Any]] = []
    began = time.monotonic()
    notes = []
    with contextlib.ExitStack() as stack:
        process: Any = None
        randomly = 0
        while True:
            if process is None:
                process = (start or _Process)(source, modes)
                stack.callback(process.end)
                process.wait_until_imported()
                if not runs:
                    began = time.monotonic()
            plan = questions(runs, given) if runs else [{}]
            if not plan and randomly >= RANDOM_RUNS:
                break
            if time.monotonic() - began > limit_s or len(runs) >= MOST_RUNS:
                notes.append(
                    f"its dry runs ended after {len(runs)} ({limit_s:g} s, {MOST_RUNS} runs): names that it was not"
                    " seen to ask for are drawn in the worker"
                )
                break
            wanted: dict[str, Any] = plan[0] if plan else {}
            given.append(wanted)
            seed = None
            if not plan:
                randomly += 1
                seed = randomly
            run = process.run(wanted, seed, _patience(runs))
            runs.append(run)
            if run.end == "refused":
                raise ObjectiveError(run.error)
            if run.end == "lost" or not process.alive:
                process.end()
                process = None
            if not run.asked and run.whole:
                break  # it asks for nothing, and there is nothing to vary
            if (
                len(runs) == MOST_ALIKE
                and {r.end for r in runs} <= FAILED
                and len({r.error for r in runs}) == 1
            ):
                break  # as it would go on
    return _concluded(runs, notes)


def _concluded(runs: Sequence[Run], notes: list[str]) -> Discovery:
    bad = [run for run in runs if run.end in FAILED]
    if len(bad) == len(runs):
        raise ObjectiveError(f"each of {len(runs)} dry runs failed, the first with {bad[0].error}")
    if bad:
        notes.append(f"{len(bad)} of {len(runs)} dry runs failed, the first with {bad[0].error}")
    found = infer(runs)
    returned = max(run.returned for run in runs)
    return Discovery(found.space, returned, len(runs), (*found.notes, *notes))


def _patience(runs: Sequence[Run]) -> float:
    """Seconds without a question after which a run is taken to have asked for everything."""
    low, high = SILENT_S
    gaps = [gap for run in runs for gap in run.gaps]
    return min(max(low, 10 * max(gaps)), high) if gaps else high


class _Process:
    """The process of the dry runs, seen from the driver."""

    def __init__(self, source: Source, modes: Sequence[str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        command = [sys.executable, "-m", "fairsweep.trainables.own.dry_runs"]
        env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        path = [p for p in sys.path if p]
        env["PYTHONPATH"] = os.pathsep.join(path)
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=env,
            start_new_session=True,  # so that what the objective starts ends with it
        )
        self._ended = False
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        # What holds while files are imported here holds there too.
        others = sorted({f"{around.__module__}:{around.__qualname__}" for around in AROUND})
        self._send({"source": source.to_json(), "modes": list(modes), "around": others})

    def _read(self) -> None:
        assert self._child.stdout is not None
        with contextlib.suppress(ValueError):
            for line in self._child.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(OSError):
            self._child.stdin.write(json.dumps(message) + "\n")
            self._child.stdin.flush()

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None if the process has ended. TimeoutError."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None
        return None if line is None else json.loads(line)

    def wait_until_imported(self) -> None:
        """ObjectiveError if the objective's module cannot be imported."""
        try:
            message = self._next(IMPORT_S)
        except TimeoutError:
            raise ObjectiveError(f"its module was not imported within {IMPORT_S:g} s") from None
        if message is None:
            raise ObjectiveError(f"its module ended the process that imported it{self._last_words()}")
        if "error" in message:
            raise ObjectiveError(message["error"])

    def run(self, given: Mapping[str, Any], seed: int | None, patience: float) -> Run:
        """One run with `given`; what it does not say is a default, or drawn with `seed`."""
        run = Run()
        self._send({"given": dict(given), "seed": seed, "patience": patience})
        last = time.monotonic()
        while True:
            try:
                message = self._next((patience if run.asked else SILENT_S[1]) + GRACE_S)
            except TimeoutError:
                # In the middle of a call that nothing interrupts: it trains. The process is of no more use.
                run.end, run.error = "silent", ""
                self.end()
                return run
            if message is None:
                run.end, run.error = "lost", f"the end of its process{self._last_words()}"
                return run
            if "ask" in message:
                now = time.monotonic()
                run.gaps.append(now - last)
                last = now
                ask = Asked(**{**message["ask"], "choices": tuple(message["ask"]["choices"])})
                run.asked.append(ask)
                run.values[ask.name] = message["value"]
            else:
                run.end, run.error, run.returned = message["end"], message["error"], message["returned"]
                return run

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def _last_words(self) -> str:
        code = self._child.wait()
        self._said.seek(0)
        lines = self._said.read()[-2000:].decode(errors="replace").strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f" ({how}{': ' + lines[-1] if lines else ''})"

    def end(self) -> None:
        """Ends the process, and those that the objective has started."""
        if self._ended:
            return
        self._ended = True
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self._child.pid, signal.SIGKILL)
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


# -- the other side -----------------------------------------------------------------------------------


class _Enough(BaseException):
    """Ends an objective that has told what it is started for."""


def _serve() -> None:
    """Reads what to run from standard input; the objective has nothing there, and what it prints goes nowhere."""
    orders, out = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for stream, flag in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
        os.dup2(os.open(os.devnull, flag), stream)

    def say(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    order = json.loads(orders.readline())
    for place, _, name in (word.partition(":") for word in order["around"]):
        around = getattr(importlib.import_module(place), name)
        AROUND.extend([] if around in AROUND else [around])
    try:
        objective = load(order["source"])
    except Exception as error:
        say({"error": _line(error)})
        return
    say({"imported": True})
    for line in orders:
        say(dry_run(objective, order["modes"], json.loads(line), say))


def dry_run(
    objective: Callable[[Any], Any], modes: Sequence[str], told: Mapping[str, Any], say: Callable[..., None]
) -> dict[str, Any]:
    """One run as `told` (given, seed, patience), each question said; how it ended."""
    from fairsweep.trainables.own.optuna_trial import NotCarriedOver

    end, error_text, returned = "return", "", 0
    try:
        with _alarm() as alarm:
            returned = _values(objective(_recording(modes, told, say, alarm)))
    except _Enough as enough:
        end = str(enough)
    except NotCarriedOver as error:
        end, error_text = "refused", str(error)
    except Exception as error:
        end = "pruned" if type(error).__name__ == "TrialPruned" else "raised"
        error_text = _line(error)
    return {"end": end, "error": error_text, "returned": returned}


def _values(returned: Any) -> int:
    return len(returned) if isinstance(returned, (tuple, list)) else 1


def _recording(
    modes: Sequence[str], told: Mapping[str, Any], say: Callable[..., None], alarm: Callable[[float], None]
) -> Any:
    from fairsweep.trainables.own.optuna_trial import AnsweredTrial, CarriedStudy

    rng = None if told["seed"] is None else random.Random(told["seed"])

    class Recording(AnsweredTrial):
        def answer(self, ask: Asked) -> Any:
            value = told["given"].get(ask.name, _NONE)
            if value is _NONE or not _fits(ask, value):
                value = _default(ask, rng)
            say({"ask": asdict(ask), "value": value})
            alarm(told["patience"])
            return value

        def reported(self, value: float, step: int) -> None:
            raise _Enough("report")

    alarm(SILENT_S[1])  # until the first question: it may read its data before it
    return Recording(0, CarriedStudy("dry run", modes))


_NONE = object()


def _fits(ask: Asked, value: Any) -> bool:
    if ask.kind == "categorical":
        return value in ask.choices
    assert ask.low is not None and ask.high is not None
    return ask.low <= value <= ask.high


def _default(ask: Asked, rng: random.Random | None) -> Any:
    """The first choice, the least whole number, the middle of a float's scale; with `rng` any."""
    p = ask.parameter()
    if p.fixed:
        return p.value
    if rng is not None:
        import numpy as np

        return p.draw(np.random.default_rng(rng.randrange(2**32)))
    if ask.kind == "categorical":
        return ask.choices[0]
    return ask.low if ask.kind == "int" else p.middle


@contextlib.contextmanager
def _alarm() -> Iterator[Callable[[float], None]]:
    """Yields a clock that ends the block by `_Enough` the seconds after it was last set, where the platform has one."""
    if not hasattr(signal, "setitimer"):
        yield lambda seconds: None
        return

    def ring(number: int, frame: Any) -> None:
        raise _Enough("silent")

    def ring_in(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield ring_in
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _line(error: BaseException) -> str:
    """One line on an error, with where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + text[0] if text else ''}{where}"


def load(source: str) -> Any:
    """The objective of a source, as JSON; of a class of objectives, an object."""
    found = load_source(Source.from_json(source)).found
    return found() if isinstance(found, type) else found


if __name__ == "__main__":
    _serve()
