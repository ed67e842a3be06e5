"""Dry runs in this process: what they find, without the second that a process of their own takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fairsweep.trainables.own.dry_runs import ObjectiveError, dry_run
from fairsweep.trainables.own.loading import load
from fairsweep.trainables.own.optuna_space import Asked, Run
from fairsweep.trainables.own.source import Source


class Here:
    """Stands in the place of `dry_runs._Process`."""

    alive = True

    def __init__(self, source: Source, modes: Sequence[str]) -> None:
        self.source, self.modes = source, modes

    def wait_until_imported(self) -> None:
        try:
            found = load(self.source).found
        except ValueError as error:
            raise ObjectiveError(str(error)) from None
        self.objective = found() if isinstance(found, type) else found

    def run(self, given: Mapping[str, Any], seed: int | None, patience: float) -> Run:
        run, began = Run(), time.monotonic()

        def say(message: Mapping[str, Any]) -> None:
            ask = Asked(**{**message["ask"], "choices": tuple(message["ask"]["choices"])})
            run.asked.append(ask)
            run.values[ask.name] = message["value"]
            run.gaps.append(time.monotonic() - began)

        told = {"given": dict(given), "seed": seed, "patience": patience}
        end = dry_run(self.objective, self.modes, told, say)
        run.end, run.error, run.returned = end["end"], end["error"], end["returned"]
        return run

    def end(self) -> None:
        """There is no process to end."""
