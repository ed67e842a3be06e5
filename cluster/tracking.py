"""Experiment tracking from inside the worker: one run a trial, grouped by sweep.

The run is opened, written and closed by the process that trains; no extra actors, no driver queue. An
end never waits for longer than `finish_timeout_s`: what was not sent by then stays in the offline files
that `wandb sync` uploads.

A trial that goes on (promoted, retried, resumed) gets its whole history anew: W&B cannot take up an offline run, so
the new run on disk holds the rows of the earlier ones and takes their place.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where the rows of one trial are mirrored to."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def summary(self, tests: Mapping[str, float], status: str) -> None: ...

    def finish(self, paused: bool) -> None: ...


class WandbTracker:
    """One W&B run: id = sweep and trial, group = sweep, resumed when the trial goes on elsewhere."""

    def __init__(
        self, options: Mapping[str, Any], sweep: str, trial: str, config: Mapping[str, Any], seed: int
    ) -> None:
        import wandb

        self.timeout = float(options.get("finish_timeout_s", 20.0))
        folder = options["dir"]
        os.makedirs(folder, exist_ok=True)
        name = f"{sweep}-{trial}"
        offline = options.get("mode", "offline") == "offline"
        self.earlier = sorted(Path(folder, "wandb").glob(f"offline-run-*-{name}")) if offline else []
        self.run = wandb.init(
            project=options.get("project", "fairsweep"),
            entity=options.get("entity"),
            id=name,
            name=trial,
            group=sweep,
            job_type="trial",
            config={**config, "seed": seed},
            mode=options.get("mode", "offline"),
            dir=folder,
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                console="off", silent=True, init_timeout=self.timeout, x_disable_stats=True, save_code=False
            ),
        )

        self.known = int(self.run.step or 0)  # rows before this step are with the run already

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self.known:
            self.run.log(dict(metrics), step=step)

    def summary(self, tests: Mapping[str, float], status: str) -> None:
        self.run.summary.update({**tests, "status": status})

    def finish(self, paused: bool) -> None:
        done = threading.Event()

        def end() -> None:
            try:
                self.run.finish(exit_code=0)
                own = Path(self.run.dir).parent
                for folder in self.earlier:  # this run holds their rows
                    if folder != own:
                        shutil.rmtree(folder, ignore_errors=True)
            except Exception as error:  # tracking never fails a trial
                logger.warning("W&B run %s did not end cleanly: %s", self.run.id, error)
            finally:
                done.set()

        threading.Thread(target=end, daemon=True).start()
        if not done.wait(self.timeout):
            logger.warning(
                "W&B run %s is still being sent after %g s; it stays on disk", self.run.id, self.timeout
            )


def why_not(options: Mapping[str, Any]) -> str | None:
    """Why the tracker that `tracking=` names cannot start on this machine, in one line; None if it can, or none is."""
    if options.get("name", "none") == "none":
        return None
    try:
        import wandb

        wandb.Settings(project=options.get("project"), entity=options.get("entity"))
        if options.get("mode", "offline") == "online" and not wandb.login(prompt=False, verify=False):
            return (
                "tracking.mode=online: W&B has no API key here; set WANDB_API_KEY or run `wandb login`, or take "
                "tracking.mode=offline"
            )
    except Exception as error:  # W&B's errors have no common base
        return f"tracking={options['name']} cannot start: {_first_line(error)}"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Safe:
    """A tracker of which no method ever fails a trial."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self._tracker, name)(*arguments)
        except Exception as error:
            logger.warning("tracking: %s failed: %s", name, error)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._call("log", step, metrics)

    def summary(self, tests: Mapping[str, float], status: str) -> None:
        self._call("summary", tests, status)

    def finish(self, paused: bool) -> None:
        self._call("finish", paused)


def make_tracker(
    options: Mapping[str, Any], sweep: str, trial: str, config: Mapping[str, Any], seed: int,
    history: Iterable[Mapping[str, Any]] = (),
) -> tuple[Tracker | None, str | None]:  # fmt: skip
    """The tracker that `tracking=` names, if any, and why it could not start if it could not.

    history: rows (step and metrics) of what the trial has done before.
    """
    if options.get("name", "none") == "none":
        return None, None
    try:
        tracker = _Safe(WandbTracker(options, sweep, trial, config, seed))
    except Exception as error:
        return None, f"tracking={options['name']} could not start in a worker: {_first_line(error)}"
    for row in history:
        tracker.log(row["step"], row["metrics"])
    return tracker, None
