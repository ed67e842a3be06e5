"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fairsweep.analysis import report
from fairsweep.analysis.report import configuration
from fairsweep.cluster.config import Settings
from fairsweep.cluster.engine.conductor import Conductor, Trial
from fairsweep.trainables.base import ENDLESS

QUIET_LINE_S = 15.0
BURST, LINES_PER_S = 20.0, 1.0  # lines of trials: at first, or after a pause, and from then on
SUMMARY_S = 2.0


class Display:
    """Shows nothing; the base of the real ones."""

    def begin(self, name: str, uri: str, settings: Settings, conductor: Conductor, recovery: Any) -> None: ...

    def tick(self, conductor: Conductor) -> None: ...

    def ended(self, trial: Trial) -> None: ...

    def note(self, text: str) -> None: ...

    def closed(self, state: str) -> None: ...

    def end(self) -> None: ...


def make_display(quiet: bool = False) -> Display:
    """Rich's live view where standard error is a terminal, else lines; nothing if `quiet`."""
    if quiet:
        return Display()
    console = report.console(stderr=True)
    return Guarded(LiveDisplay(console) if console.is_terminal else LineDisplay())


class Guarded(Display):
    """`inner` for as long as it works: a display that fails (a terminal that is gone, say) never ends a sweep."""

    def __init__(self, inner: Display) -> None:
        self.inner = inner

    def begin(self, name: str, uri: str, settings: Settings, conductor: Conductor, recovery: Any) -> None:
        self._show("begin", name, uri, settings, conductor, recovery)

    def tick(self, conductor: Conductor) -> None:
        self._show("tick", conductor)

    def ended(self, trial: Trial) -> None:
        self._show("ended", trial)

    def note(self, text: str) -> None:
        self._show("note", text)

    def closed(self, state: str) -> None:
        self._show("closed", state)

    def end(self) -> None:
        self._show("end")

    def _show(self, what: str, *arguments: Any) -> None:
        try:
            getattr(self.inner, what)(*arguments)
        except Exception as error:
            broken, self.inner = self.inner, Display()
            with contextlib.suppress(Exception):
                broken.end()  # a live view gives the terminal back
            with contextlib.suppress(Exception):
                line = " ".join(f"{type(error).__name__}: {error}".split())
                print(f"fairsweep: no more progress is shown ({line}); the sweep goes on", file=sys.stderr)


class Leader:
    """The best trial so far. It looks at all of them only once the one that led has failed, or ended as a worse one."""

    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor
        self._sign = 1.0 if conductor.rules.mode == "min" else -1.0
        self._at_rest = self._of(conductor.trials.values())
        self._loss = self._order(self._at_rest) if self._at_rest is not None else None

    def _order(self, trial: Trial) -> tuple[float, int]:
        return self._sign * (trial.best or 0.0), trial.number

    def _of(self, trials: Iterable[Trial]) -> Trial | None:
        found = (t for t in trials if t.best is not None and t.state != "failed")
        return min(found, key=self._order, default=None)

    def ended(self, trial: Trial) -> None:
        """To be told of each trial that comes to rest."""
        fell = trial is self._at_rest and (
            trial.state == "failed" or self._loss is None or self._order(trial) > self._loss
        )
        among = self.conductor.trials.values() if fell else filter(None, (self._at_rest, trial))
        self._at_rest = self._of(among)
        self._loss = self._order(self._at_rest) if self._at_rest is not None else None

    def best(self) -> Trial | None:
        """The best of those at rest and those that run; None if none has a value."""
        running = (self.conductor.trials[i] for i in self.conductor.active)
        return self._of((*running, *((self._at_rest,) if self._at_rest is not None else ())))


def _counts(conductor: Conductor) -> str:
    counts = Counter(t.state for t in conductor.trials.values())
    # Of short trials a place is given many at a time, and runs one.
    counts["in hand"] = max(0, counts["running"] - conductor.rules.concurrent)
    counts["running"] -= counts["in hand"]
    order = ("running", "in hand", "complete", "paused", "pruned", "failed", "interrupted", "pending")
    return ", ".join(f"{counts[s]} {s}" for s in order if counts[s])


class Forecast:
    """How long what is left will take, by the pace since the first progress: workers' start says nothing of it."""

    def __init__(self, before: float = 0.0) -> None:
        """before: what was done when the run began."""
        self._before = before
        self._first: tuple[float, float] | None = (
            None  # when there was progress first, and how much was done then
        )

    def seen(self, moves: bool, done: Callable[[], float]) -> None:
        """To be told again and again whether trials have reported; done: looked up once, when they first have."""
        if self._first is None and moves:
            self._first = time.monotonic(), max(self._before, done())

    def left(self, done: float, total: float) -> float | None:
        """Seconds; None where nothing has moved since the first progress."""
        if self._first is None or done <= self._first[1]:
            return None
        began, then = self._first
        return (total - done) * (time.monotonic() - began) / (done - then)


def done_of(conductor: Conductor) -> float:
    """Trials that are done: one that runs counts as far as it has come, one that is over whole, however early."""
    return sum(
        t.steps / t.maximum if t.state in ("running", "pending", "interrupted") else 1.0
        for t in conductor.trials.values()
    )


def moves(conductor: Any) -> bool:
    """Whether a trial that runs has reported a step, or one has ended meanwhile. conductor: may be a fleet."""
    for key in list(conductor.active):
        with contextlib.suppress(KeyError):  # its lane is closed meanwhile
            if conductor.trials[key].steps:
                return True
    return False


def _time_left(conductor: Conductor, forecast: Forecast) -> str:
    limits = []
    if conductor.purse.share:
        share = conductor.purse.share
        limits.append(conductor.elapsed_s * (1 - share) / share)
    if _is_known(conductor):
        left = forecast.left(done_of(conductor), conductor.expected)
        limits += [left] if left is not None else []
    if conductor.rules.minutes is not None:
        limits.append(max(0.0, 60 * conductor.rules.minutes - conductor.elapsed_s))
    return clock(min(limits)) if limits else "?"


def _is_known(conductor: Conductor) -> bool:
    """Whether it is known how many trials there will be."""
    return conductor.rules.trials is not None or bool(getattr(conductor.algorithm, "expected", 0))


def _configurations(conductor: Conductor) -> str:
    """How many there will be, in words."""
    known = conductor.expected // len(conductor.rules.seeds) if _is_known(conductor) else 0
    return f"{known} configurations" if known else "configurations as long as the budget lasts"


def clock(seconds: float) -> str:
    """Seconds as 8 s, 2:05 min or 1:02 h."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60}:{s % 60:02d} min" if s < 3600 else f"{s // 3600}:{s // 60 % 60:02d} h"


def _shown(config: dict[str, Any], conductor: Conductor) -> str:
    return configuration(config, {n for n, p in conductor.space.parameters.items() if p.fixed})


class Pace:
    """Whether there is room for one more line: `BURST` at first, then `LINES_PER_S`; what is not used is kept."""

    def __init__(self) -> None:
        self._room, self._then = BURST, time.monotonic()

    def allows(self) -> bool:
        now = time.monotonic()
        self._room, self._then = min(BURST, self._room + LINES_PER_S * (now - self._then)), now
        if self._room < 1.0:
            return False
        self._room -= 1.0
        return True


class LineDisplay(Display):
    """One line a trial, and one every quarter of a minute when nothing ends.

    Where trials end faster than anybody reads, the lines of most are left out, and one every other second says how
    far the sweep is. Trials that fail have room for lines of their own.
    """

    def begin(self, name: str, uri: str, settings: Settings, conductor: Conductor, recovery: Any) -> None:
        self.conductor, self._last, self._leader = conductor, time.monotonic(), Leader(conductor)
        self._pace, self._pace_of_failures = Pace(), Pace()
        self._unsaid, self._summary = 0, 0.0
        self._forecast = Forecast(done_of(conductor))
        rules = conductor.rules
        self._print(
            f"sweep {name}: {settings.heading}, {_configurations(conductor)} x {len(rules.seeds)} seed(s), "
            f"{rules.concurrent} at a time, store {uri}"
        )
        if conductor.trials:
            self._print(f"goes on: {_counts(conductor)}{self._best()}")
        if recovery is not None and recovery.message:
            self._print(recovery.message)

    def tick(self, conductor: Conductor) -> None:
        now = time.monotonic()
        self._forecast.seen(moves(conductor), lambda: done_of(conductor))
        if now - self._last > QUIET_LINE_S:
            self._print(self._far())
        elif self._unsaid and now > self._summary:
            self._print(self._far() + self._best())
            # It looks at all trials: never more than a twentieth of the time.
            self._summary = time.monotonic() + max(SUMMARY_S, 20 * (time.monotonic() - now))

    def ended(self, trial: Trial) -> None:
        self._leader.ended(trial)
        self._forecast.seen(True, lambda: done_of(self.conductor))
        pace = self._pace_of_failures if trial.state == "failed" else self._pace
        if not pace.allows():
            if not self._unsaid:
                self._summary = max(self._summary, time.monotonic() + SUMMARY_S)
            self._unsaid += 1
            return
        value = "" if trial.value is None else f" {self.conductor.rules.objective}={trial.value:.5g}"
        steps = "1 step" if trial.steps == 1 else f"{trial.steps} steps"
        took = clock(trial.cost_s) if trial.cost_s >= 1 else f"{trial.cost_s:.2g} s"
        how = trial.reason or f"goes on from step {trial.steps}"  # none where it was promoted meanwhile
        self._print(f"trial {trial.id} {how}{value} ({steps}, {took}){self._best()}")

    def note(self, text: str) -> None:
        self._print(text)

    def end(self) -> None:
        if getattr(self, "_unsaid", 0):
            self._print(_counts(self.conductor) + self._best())
            self._unsaid = 0

    def _far(self) -> str:
        """Trials by state and the time left; those whose own lines were left out are said to be."""
        left = _time_left(self.conductor, self._forecast)
        unsaid, self._unsaid = self._unsaid, 0
        return (
            _counts(self.conductor)
            + (f" ({unsaid} ended without a line)" if unsaid else "")
            + (f"; time left about {left}" if left != "?" else "")
        )

    def _best(self) -> str:
        best = self._leader.best()
        return f"; best {best.best:.5g} ({best.id})" if best is not None else ""

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"fairsweep: {text}", file=sys.stderr, flush=True)


class FleetLines(Display):
    """Lines on standard error, of several sweeps at a time. A terminal that is gone never ends a run."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def tick(self, conductor: Any) -> None:
        if time.monotonic() - self._last > QUIET_LINE_S:
            running = ", ".join(sorted({key.rpartition("/")[0] for key in conductor.active}))
            self._print(f"{clock(time.monotonic() - self._began)} gone; running: {running or 'nothing yet'}")

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        try:
            print(f"fairsweep: {text}", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            self._print = lambda text: None  # type: ignore[method-assign]


class LiveDisplay(Display):
    """A live table: best so far, trials by state, what runs now, time left."""

    ROWS = 8

    def __init__(self, console: Console) -> None:
        self.console = console
        self._next = 0.0
        self.live: Live | None = None

    def begin(self, name: str, uri: str, settings: Settings, conductor: Conductor, recovery: Any) -> None:
        self.name, self.uri, self.settings, self.conductor = name, uri, settings, conductor
        self._leader, self._forecast = Leader(conductor), Forecast(done_of(conductor))
        if recovery is not None and recovery.message:
            self.console.print(recovery.message, style="yellow")
        self.live = Live(self._view(), console=self.console, refresh_per_second=4, transient=True)
        self.live.start()

    def tick(self, conductor: Conductor) -> None:
        began = time.monotonic()
        self._forecast.seen(moves(conductor), lambda: done_of(conductor))
        if self.live is not None and began > self._next:
            self.live.update(self._view())
            took = (
                time.monotonic() - began
            )  # longer, the more trials there are: never more than a twentieth of it
            self._next = time.monotonic() + max(0.25, 20 * took)

    def ended(self, trial: Trial) -> None:
        self._leader.ended(trial)
        self._forecast.seen(True, lambda: done_of(self.conductor))

    def note(self, text: str) -> None:
        (self.live.console if self.live else self.console).print(text, style="yellow")

    def end(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _view(self) -> Group:
        conductor = self.conductor
        of_all = f"{len(conductor.trials)}{f'/{conductor.expected}' if _is_known(conductor) else ''}"
        head = Text.assemble(
            (f"{self.name}  ", "bold"),
            f"{self.settings.heading}, {of_all} trials: ",
            _counts(conductor) or "starting",
            f"; {clock(conductor.elapsed_s)} gone, about {_time_left(conductor, self._forecast)} left",
        )
        best = self._leader.best()
        line = (
            Text(
                f"best {conductor.rules.objective} {best.best:.5g}  {best.id}  {_shown(best.config, conductor)}",
                "green",
            )
            if best is not None
            else Text("no value yet", "dim")
        )
        table = Table("trial", "state", "step", conductor.rules.objective, "configuration", box=None)
        recent = sorted(conductor.trials.values(), key=lambda t: (t.state != "running", -t.heard))[
            : self.ROWS
        ]
        for t in recent:
            value = "" if t.value is None else f"{t.value:.5g}"
            table.add_row(
                t.id,
                t.state,
                f"{t.steps}" if t.maximum == ENDLESS else f"{t.steps}/{t.maximum}",
                value,
                _shown(t.config, conductor),
            )
        return Group(head, line, table)
