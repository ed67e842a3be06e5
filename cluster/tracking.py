"""Experiment tracking from inside the worker: one run a trial, grouped by sweep.

The run is opened, written and closed by the process that trains; no extra actors, no driver queue. An
end never waits for longer than `finish_timeout_s`: what was not sent by then stays in the offline files
that `wandb sync` uploads.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
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
        self.run = wandb.init(
            project=options.get("project", "fairsweep"),
            entity=options.get("entity"),
            id=f"{sweep}-{trial}",
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

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def summary(self, tests: Mapping[str, float], status: str) -> None:
        self.run.summary.update({**tests, "status": status})

    def finish(self, paused: bool) -> None:
        done = threading.Event()

        def end() -> None:
            try:
                self.run.finish(exit_code=0)
            except Exception as error:  # tracking never fails a trial
                logger.warning("W&B run %s did not end cleanly: %s", self.run.id, error)
            finally:
                done.set()

        threading.Thread(target=end, daemon=True).start()
        if not done.wait(self.timeout):
            logger.warning(
                "W&B run %s is still being sent after %g s; it stays on disk", self.run.id, self.timeout
            )


def make_tracker(
    options: Mapping[str, Any], sweep: str, trial: str, config: Mapping[str, Any], seed: int
) -> Tracker | None:
    """The tracker that `tracking=` names, or None. A tracker that cannot start is reported, not fatal."""
    if options.get("name", "none") == "none":
        return None
    try:
        return WandbTracker(options, sweep, trial, config, seed)
    except Exception as error:
        logger.warning("tracking=%s could not start for trial %s: %s", options["name"], trial, error)
        return None
