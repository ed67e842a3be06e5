"""Experiment tracking from inside the worker: one run a trial, grouped by sweep, in the tracker that `tracking=` names.

The run is opened, written and closed by the process that trains; no extra actors, no driver queue. Each tracker has a
file of its own behind one door of three methods (`Tracker`), and is imported where it is asked for and nowhere else.

A trial that goes on (promoted, retried, resumed) has its whole history written: a tracker leaves out what its run
has. What a tracker cannot do is said in a note of the sweep; it never fails a trial, and no end of a run is waited for
longer than was said (`ending`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fairsweep.cluster.tracking.ending import drain

__all__ = ["FILES", "HIDDEN", "Sweep", "Tracker", "Trial", "drain", "make_tracker", "summarise", "why_not"]

FILES = {"wandb": "wandb_runs", "mlflow": "mlflow_runs", "tensorboard": "tensorboard_runs"}
HIDDEN = "***"  # in place of a value that is nobody else's business


class Tracker(Protocol):
    """Where the rows of one trial are mirrored to.

    status: complete, failed, pruned, interrupted (it goes on when the sweep does), or paused: the trial stands at a
    rung, pruned unless it is promoted.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def summary(self, values: Mapping[str, float], status: str, reason: str) -> None: ...

    def finish(self, status: str) -> None: ...


@dataclass(frozen=True)
class Trial:
    """What a tracker is told of a trial when its run is opened.

    key: of this trial alone, in any store and at any time, letters, digits and dashes. config: its parameters, its
    seed, and what made it. begun: whether it may have a run already. stop: ends the trial at its next report; a tracker
    that can be asked to stop a run calls it, from any thread. tell: takes what a reader of the sweep should know.
    """

    key: str
    sweep: str
    name: str
    config: Mapping[str, Any]
    begun: bool
    stop: Callable[[], None]
    tell: Callable[[str], None]


@dataclass(frozen=True)
class Sweep:
    """What a sweep's own run shows once the sweep has ended. rows: a trial each, all with the same keys.

    values: of the best trial, and counts. importance: parameter -> share. report: the path of an HTML file, or "".
    """

    name: str
    state: str
    config: Mapping[str, Any]
    rows: list[dict[str, Any]]
    values: Mapping[str, Any]
    importance: Mapping[str, float]
    report: str = ""


def _module(options: Mapping[str, Any]) -> Any:
    return importlib.import_module(f"{__name__}.{FILES[options['name']]}")


def named(options: Mapping[str, Any]) -> bool:
    """Whether `options` name a tracker."""
    return bool(options) and options.get("name", "none") != "none"


def why_not(options: Mapping[str, Any]) -> str | None:
    """Why the tracker that `tracking=` names cannot start on this machine, in one line; None if it can, or none is."""
    if not named(options):
        return None
    try:
        problem: str | None = _module(options).why_not(options)
    except Exception as error:  # trackers' errors have no common base
        return f"tracking={options['name']} cannot start: {first_line(error)}"
    return problem


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def without(text: str, secrets: Iterable[Any]) -> str:
    """`text`, in which no secret that is text stands."""
    for secret in secrets:
        if isinstance(secret, str) and secret:
            text = text.replace(secret, HIDDEN)
    return text


class _Safe:
    """A tracker of which no method ever fails a trial. What went wrong is told once."""

    def __init__(
        self, tracker: Tracker, name: str, tell: Callable[[str], None], secrets: Iterable[Any] = ()
    ) -> None:
        self._tracker, self._name, self._tell, self._secrets = tracker, name, tell, list(secrets)
        self._told = False

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self._tracker, name)(*arguments)
        except Exception as error:
            if not self._told:
                self._told = True
                self._tell(f"tracking={self._name}: {name} failed in a worker: {first_line(error)}")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._call("log", step, metrics)

    def summary(self, values: Mapping[str, float], status: str, reason: str) -> None:
        self._call("summary", values, status, without(reason, self._secrets))

    def finish(self, status: str) -> None:
        self._call("finish", status)


def make_tracker(
    options: Mapping[str, Any],
    sweep: str,
    trial: str,
    config: Mapping[str, Any],
    seed: int,
    history: Iterable[Mapping[str, Any]] = (),
    *,
    begun: bool = True,
    stop: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Tracker | None, str | None]:
    """The tracker that `tracking=` names, if any, and why it could not start if it could not.

    history: rows (step and metrics) of what the trial has done before. begun, stop, tell: see `Trial`.
    """
    if not named(options):
        return None, None
    hidden = set(options.get("hidden", ())) & set(config)
    shown = {**config, **dict.fromkeys(hidden, HIDDEN)}
    told = {"seed": seed, **options.get("about", {})}
    whole = {**{f"sweep.{key}" if key in shown else key: value for key, value in told.items()}, **shown}
    key = f"{options.get('token') or sweep}-{trial}"
    try:
        opened = _module(options).open_run(options, Trial(key, sweep, trial, whole, begun, stop, tell))
    except Exception as error:
        return None, f"tracking={options['name']} could not start in a worker: {first_line(error)}"
    tracker = _Safe(opened, options["name"], tell, (config[name] for name in hidden))
    for row in history:
        tracker.log(row["step"], row["metrics"])
    return tracker, None


def summarise(options: Mapping[str, Any], sweep: Sweep) -> None:
    """Makes the run of a sweep that has ended. May raise, and may take as long as the tracker's server does."""
    _module(options).summarise(options, sweep)
