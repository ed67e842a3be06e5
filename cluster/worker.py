"""Runs one leg of a trial, report by report; what a Ray worker does, without Ray.

A report bundles the steps of up to `report_s` seconds (one row each), so that epochs of milliseconds do
not pay for a message each. It ends early at the scheduler's milestones, where a checkpoint is written
first, so that a paused trial can be taken up by any worker.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.checkpoints import Checkpoints
from cluster.conductor import Leg
from cluster.tracking import Tracker, make_tracker
from trainables import catalog
from trainables.base import Paper, Setting


@dataclass(frozen=True)
class Post:
    """What every worker of a sweep is told once."""

    sweep: str
    paper: str
    checkpoints: str
    data: str | None = None
    data_dir: str | None = None
    steps: int | None = None
    threads: int = 1
    plugins: str = ""
    folder: str = ""  # the driver's, where its plug-ins are found
    report_s: float = 0.25
    checkpoint_s: float = 5.0
    keep: str = "best"
    tracking: Mapping[str, Any] = field(default_factory=dict)
    board: str = ""  # the actor that says where shared weights lie, if there are any


class LegRunner:
    """Runs legs one after the other; `step` gives the next report of the current one."""

    def __init__(self, post: Post, group: Any = None) -> None:
        """group: what trains in the paper's place, as a `cluster.group.Group` does."""
        self.post, self.group = post, group
        if post.plugins:
            os.environ["FAIRSWEEP_PLUGINS"] = post.plugins
            if post.folder not in sys.path:
                sys.path.append(post.folder)
        self.checkpoints = Checkpoints(post.checkpoints)
        self.leg: Leg | None = None
        self.paper: Paper | None = None
        self._tracker: Tracker | None = None

    def take(self, leg: Leg) -> None:
        """Makes `leg` the current one; nothing is built before the first `step`."""
        self.close()
        self.leg = leg

    def step(self) -> dict[str, Any]:
        """The next report: see `Conductor.report`. Never raises for what the paper's code does."""
        assert self.leg is not None
        rows: list[dict[str, Any]] = []
        report: dict[str, Any] = {"trial": self.leg.trial, "status": "running"}
        try:
            if self.paper is None:
                self._build()
            self._train(rows, report)
        except Exception as error:
            report["status"] = "failed"
            report["failure"] = {"reason": describe(error), "error": traceback.format_exc()}
        report["rows"] = rows
        self._reported = max([self._reported, *(row["step"] for row in rows)])
        report.update(self._measurements())
        if self._tracker is not None:
            for row in rows:
                self._tracker.log(row["step"], row["metrics"])
        if report["status"] != "running":
            self._end(report)
        return report

    def stash(self) -> None:
        """Writes a checkpoint of an unfinished leg, so that nothing is done twice when it goes on."""
        if self.leg is not None and self.paper is not None and not self._over and self._done > self._saved:
            self._save()

    def close(self) -> None:
        """Ends the current leg: checkpoint if unfinished, tracker closed."""
        self.stash()
        if self._tracker is not None:
            self._tracker.finish(paused=not self._over if self.paper is not None else True)
            self._tracker = None
        self.leg, self.paper = None, None

    # -- one leg --------------------------------------------------------------------------------------

    _over = False
    _done = 0  # steps trained
    _saved = 0  # steps in the last checkpoint
    _reported = 0  # steps that the driver has, or is being sent

    def _build(self) -> None:
        leg, post = self.leg, self.post
        assert leg is not None
        self._over, self._done, self._saved = False, 0, 0
        self._reported = leg.done
        self._history: list[dict[str, Any]] = []
        self._spent, self._since = 0.0, time.monotonic()
        self._last_save = time.monotonic()
        reset_peak_memory()
        paper = self.group or catalog.get(post.paper)()
        self._device = prepare_torch(post.threads) if "torch" in sys.modules else "cpu"
        setting = Setting(
            seed=leg.seed,
            device=self._device,
            data=post.data,
            data_dir=Path(post.data_dir) if post.data_dir else None,
            steps=post.steps,
        )
        self._tracker = make_tracker(post.tracking, post.sweep, leg.trial, leg.config, leg.seed)
        paper.setup(leg.config, setting)
        self._device = getattr(paper, "device", self._device)
        # A checkpoint may be ahead of the last acknowledged row, or behind it: rows that it holds and the
        # store lacks are reported again, rows that the store holds and it lacks are computed again.
        state = self.checkpoints.load(leg.trial)
        if state is not None:
            paper.load_state_dict(state["paper"])
            self._done = self._saved = state["step"]
            self._spent, self._history = state["spent_s"], list(state["history"])
        self._declared = {m.name for m in paper.metrics if m.split != "test"}
        self._tests = {m.name for m in paper.metrics if m.split == "test"}
        self.paper = paper

    def _train(self, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
        leg, paper = self.leg, self.paper
        assert leg is not None and paper is not None
        began = time.monotonic()
        rows += [row for row in self._history if row["step"] > self._reported]
        while (
            not (rows and rows[-1]["step"] in leg.milestones)
            and not paper.finished
            and self._done < leg.maximum
        ):
            metrics = {name: float(value) for name, value in paper.step().items()}
            if set(metrics) - self._declared:
                raise ValueError(
                    f"step() returned undeclared metrics: {sorted(set(metrics) - self._declared)}"
                )
            self._done += 1
            row = {
                "step": self._done,
                "wall_s": self._spent + time.monotonic() - self._since,
                "time": time.time(),
                "metrics": metrics,
            }
            self._history.append(row)
            if self._done > self._reported:
                rows.append(row)
            bad = [f"{n}={v}" for n, v in metrics.items() if not math.isfinite(v)]
            if bad:
                raise NotFinite(f"not finite: {', '.join(bad)} at step {self._done}")
            if self._done in leg.milestones and self._done > self._reported:
                self._save()
                break
            if time.monotonic() - self._last_save >= self.post.checkpoint_s:
                self._save()
            if time.monotonic() - began >= self.post.report_s:
                break
        at_rung = bool(rows) and rows[-1]["step"] in leg.milestones
        if paper.finished or (self._done >= leg.maximum and not at_rung):
            tests = {name: float(value) for name, value in paper.test().items()}
            if set(tests) - self._tests:
                raise ValueError(f"test() returned undeclared metrics: {sorted(set(tests) - self._tests)}")
            report["status"], report["test"] = "complete", tests
            self._over = True
            if self.post.keep != "none":
                self._save()

    def _save(self) -> None:
        assert self.leg is not None and self.paper is not None
        spent = self._spent + time.monotonic() - self._since
        self.checkpoints.save(
            self.leg.trial,
            self._done,
            {
                "paper": self.paper.state_dict(),
                "step": self._done,
                "spent_s": spent,
                "history": self._history,
            },
        )
        self._saved, self._last_save = self._done, time.monotonic()

    def _end(self, report: dict[str, Any]) -> None:
        self._over = True
        if self._tracker is not None:
            self._tracker.summary(report.get("test") or {}, report["status"])
        self.close()

    def _measurements(self) -> dict[str, Any]:
        known = self.paper is not None
        return {
            "cost_s": self._spent + time.monotonic() - self._since if known else 0.0,
            "peak_memory_mb": peak_memory_mb(),
            "device": self._device if known else None,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "checkpoint_step": self._saved if known else None,
        }


class NotFinite(ArithmeticError):
    """A declared metric is NaN or infinite."""


def describe(error: BaseException) -> str:
    """One line on why a trial failed, in words that the tables can be grouped by."""
    text = str(error)
    first = text.splitlines()[0] if text else ""
    out_of_memory = isinstance(error, MemoryError) or (
        type(error).__name__ in ("OutOfMemoryError", "RuntimeError")
        and (
            "out of memory" in text.lower() or "can't allocate memory" in text or "not enough memory" in text
        )
    )
    if out_of_memory:
        return f"out of memory: {first}" if first else "out of memory"
    if isinstance(error, NotFinite):
        return first
    return f"raised {type(error).__name__}: {first}" if first else f"raised {type(error).__name__}"


def prepare_torch(threads: int) -> str:
    """Sets the number of threads and names the device that this worker was given."""
    import torch

    torch.set_num_threads(threads)
    return "cuda" if torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") != "" else "cpu"


def reset_peak_memory() -> None:
    """Starts the peak anew where the kernel allows it (Linux); workers outlive trials."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def peak_memory_mb() -> float:
    """Peak resident memory of this process since `reset_peak_memory`, in MB (2**20 bytes)."""
    try:
        with open("/proc/self/status") as f:
            for line in f:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
