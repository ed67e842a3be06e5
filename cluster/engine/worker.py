"""Runs one leg of a trial, report by report; what a Ray worker does, without Ray.

A report bundles the steps of up to `report_s` seconds (one row each), so that epochs of milliseconds do
not pay for a message each. It ends early at the scheduler's milestones, where a checkpoint is written
first, so that a paused trial can be taken up by any worker.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsweep.analysis.text import bounded
from fairsweep.cluster.engine.books import ERROR
from fairsweep.cluster.engine.checkpoints import Checkpoints, StorageFault, prove
from fairsweep.cluster.engine.failures import NotFinite, describe, may_succeed
from fairsweep.cluster.engine.inheriting import CannotInherit, settings_of, take_over
from fairsweep.cluster.engine.lean import WORKERS_ENVIRONMENT
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.process import peak_memory_mb, prepare_torch, reset_peak_memory
from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.tracking import Tracker, drain, make_tracker
from fairsweep.cluster.tune.adapter import register as register_tune
from fairsweep.trainables import catalog, objective
from fairsweep.trainables.base import Paper, Pruned, Setting
from fairsweep.trainables.own import known as own
from fairsweep.trainables.own.source import Source
from fairsweep.trainables.parts import told_by

logger = logging.getLogger(__name__)
LEAVE_S = 8.0  # that a place may take to end; Tune (2.60) kills it after 10
register_tune()


class LegRunner:
    """Runs legs one after the other; `step` gives the next report of the current one."""

    def __init__(self, post: Post, group: Any = None) -> None:
        """group: what trains in the paper's place, as a `cluster.engine.group.Group` does."""
        self.post, self.group = post, group
        for name, value in WORKERS_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if post.plugins:
            os.environ["FAIRSWEEP_PLUGINS"] = post.plugins
            if post.folder not in sys.path:
                sys.path.append(post.folder)
        self.checkpoints = Checkpoints(post.checkpoints)
        self.leg: Leg | None = None
        self.paper: Paper | None = None
        self._tracker: Tracker | None = None
        self._stop = threading.Event()  # set: the trial is to end at its next report
        self._notes: list[dict[str, Any]] = []
        self._faulted = False  # the storage has failed this leg, and it was said
        self._proved = False  # a state of the user's class has been written and read

    def take(self, leg: Leg) -> None:
        """Makes `leg` the current one; nothing is built before the first `step`."""
        self.close()
        self.leg, self._faulted = leg, False

    def step(self) -> dict[str, Any]:
        """The next report: see `Conductor.report`. Never raises for what the paper's code or the storage does."""
        assert self.leg is not None
        rows: list[dict[str, Any]] = []
        report: dict[str, Any] = {"trial": self.leg.trial, "status": "running"}
        try:
            if self.paper is None:
                self._build()
            else:
                self._since = (
                    time.monotonic()
                )  # until now it waited for the driver, which is no cost of the trial
            self._train(rows, report)
        except Pruned as end:
            report["status"], report["reason"] = "pruned", f"pruned by the trainable: {end}"
        except (Exception, SystemExit) as error:  # of the trial's code, which is somebody's own
            report["status"] = "lost" if may_succeed(error) else "failed"
            report["failure"] = {"reason": describe(error), "error": bounded(traceback.format_exc(), ERROR)}
            report.pop("test", None)
            report.pop("kept", None)
        report["rows"] = rows
        self._reported = max([self._reported, *(row["step"] for row in rows)])
        report.update(self._measurements())
        self._spent, self._since = self._cost, None
        if self.paper is not None:
            report["attrs"] = {**self.paper.attrs, **told_by(self.paper, own=bool(self.post.source))}
            for remark in dict.fromkeys(self.paper.remarks):
                self._note(remark, once=True)
        if report["status"] != "running":
            self._end(report)
        report["notes"], self._notes = self._notes, []
        return report

    def stash(self) -> None:
        """Writes a checkpoint of an unfinished leg, so that nothing is done twice when it goes on."""
        if self.leg is not None and self.paper is not None and not self._over and self._done > self._saved:
            try:
                self._save()
            except Exception as error:  # it then goes on from an older one
                logger.warning("trial %s: %s", self.leg.trial, describe(error))

    def close(self, cut_off: bool = False) -> None:
        """Ends the current leg: checkpoint if unfinished, tracker closed. cut_off: no decision about it ends it."""
        self.stash()
        if self._tracker is not None:
            status = self._told or ("interrupted" if cut_off else "paused")
            if not self._told:
                self._tracker.summary(self._standing(None), status, f"at step {self._done}")
            self._tracker.finish(status)
            self._tracker = None
        if self.paper is not None and self.group is None:
            said = self.paper.close()
            if said and self.leg is not None:
                self._note(f"trial {self.leg.trial}: {said}", once=True)
        self.leg, self.paper = None, None

    def leave(self) -> None:
        """Ends the current leg, and waits for what is still told to its tracker."""
        self.close()
        drain(min(float(self.post.tracking.get("finish_timeout_s", 0.0)), LEAVE_S))

    def _note(self, text: str, once: bool = False) -> None:
        """What a reader of the sweep should know; once: it is said of the first trial alone."""
        self._notes.append({"text": text, "once": once})

    # -- one leg --------------------------------------------------------------------------------------

    _over = False
    _told = ""  # how the tracker was told that it ended
    _minimum = 0  # steps before which a report says little
    _done = 0  # steps trained
    _saved = 0  # steps in the last checkpoint
    _reported = 0  # steps that the driver has, or is being sent
    _since: float | None = None  # when the paper's setup, or this step, began
    _spent = 0.0  # seconds that earlier legs and steps took
    _startup = 0.0  # seconds of this leg before the setup, until they are reported

    def _build(self) -> None:
        leg, post = self.leg, self.post
        assert leg is not None
        self._over, self._done, self._saved, self._told = False, 0, 0, ""
        self._reported = leg.done
        self._history: list[dict[str, Any]] = []
        self._spent, self._since = 0.0, None
        began = time.monotonic()
        reset_peak_memory()
        # What is imported and opened here is no cost of the trial: the next one in this process has it for nothing.
        paper = self.group or paper_of(post)()
        if self.group is not None:
            self.group.begin()
        known = "torch" in sys.modules or os.environ.get("CUDA_VISIBLE_DEVICES")
        self._device = prepare_torch(post.threads) if known else "cpu"
        # A checkpoint may be ahead of the last acknowledged row, or behind it: rows that it holds and the
        # store lacks are reported again, rows that the store holds and it lacks are computed again.
        self.checkpoints.sweep_up(leg.trial)
        state = self.checkpoints.load(leg.trial)
        own = state is None or state.get("trial", leg.trial) == leg.trial
        if state is None and leg.parent:
            raise CannotInherit(f"the checkpoint of trial {leg.parent} that it goes on from is gone")
        if state is not None:
            self._spent, self._history = state["spent_s"] if own else 0.0, list(state["history"])
        self._tracker = self._track(leg)
        setting = Setting(
            seed=leg.seed,
            device=self._device,
            data=post.data,
            data_dir=Path(post.data_dir) if post.data_dir else None,
            steps=post.steps,
            number=int(leg.trial.partition("-")[0]),
            split_seed=post.split_seed,
            test=post.test,
        )
        self._since = self._last_save = time.monotonic()
        self._startup = self._since - began
        paper.setup(leg.config, setting)
        self._device = getattr(paper, "device", self._device)
        self._settings = settings_of(paper) if post.breeds else []
        if state is not None:
            if own:
                paper.load_state_dict(state["paper"])
            else:
                take_over(paper, leg.config, leg.parent, state, self._settings)
            self._done = self._saved = state["step"]
        self._declared = {m.name for m in paper.metrics if m.split != "test"}
        self._tests = {m.name for m in paper.metrics if m.split == "test"}
        self._open = bool(getattr(paper, "open_metrics", False))
        self._minimum = self._fewest(paper) if self._tracker is not None else 0
        self.paper = paper

    def _track(self, leg: Leg) -> Tracker | None:
        """The tracker of a leg. Its run gets what the checkpoint holds too, so that it is whole on disk."""
        post, self._stop = self.post, threading.Event()
        options = post.tracking
        if "agent" in options:  # in a sweep of W&B's: it, or we, say which run of it this is (`service`)
            own = {"run": f"{options['agent']['sweep']}-{leg.trial}", "own": True}
            options = {**options, "agent": {**({"run": leg.run} if leg.run else own), **options["agent"]}}
        tracker, problem = make_tracker(
            options,
            post.sweep,
            leg.trial,
            leg.config,
            leg.seed,
            self._history,
            begun=leg.done > 0 or bool(self._history),
            stop=self._stop.set,
            tell=lambda text: self._note(text, once=True),
        )
        if problem:
            self._note(problem, once=True)
        return tracker

    def _fewest(self, paper: Any) -> int:
        """The steps after which a value of the trial says something."""
        assert self.leg is not None
        try:
            return int(paper.fidelity(self.leg.config, self.post.steps).minimum)
        except Exception:  # the paper's code; a group has none
            return 0

    def _standing(self, kept: Mapping[str, Any] | None) -> dict[str, float]:
        """The objective by which the trial is judged: of the report `kept`, whose model it has, or the best so far."""
        name, mode = self.post.tracking.get("aim") or ("", "")
        rows = [row for row in self._history if name in row["metrics"]]
        rows = [row for row in rows if row["step"] >= self._minimum] or rows
        if kept is None and rows:
            kept = (min if mode == "min" else max)(rows, key=lambda row: row["metrics"][name])
        return {name: kept["metrics"][name]} if kept is not None and name in kept["metrics"] else {}

    @property
    def _cost(self) -> float:
        """Seconds that the trial has taken since the first line of the paper's setup, earlier legs included."""
        return self._spent + (time.monotonic() - self._since if self._since is not None else 0.0)

    def _train(self, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
        leg, paper = self.leg, self.paper
        assert leg is not None and paper is not None
        began = time.monotonic()
        rows += [row for row in self._history if row["step"] > self._reported]
        while (
            not (rows and rows[-1]["step"] in leg.milestones)
            and not paper.finished
            and self._done < leg.maximum
            and not self._stop.is_set()
        ):
            # What was reported is sent in time, also where the next report never comes.
            paper.patience = max(0.0, began + self.post.report_s - time.monotonic()) if rows else None
            metrics = {name: float(value) for name, value in paper.step().items()}
            if not metrics:
                break  # it has ended without another report, or takes its time over the next
            at = paper.at
            self._done = self._done + 1 if at is None else at
            self._enter(metrics, rows)
            if self._done in leg.milestones and self._done > self._reported:
                self._try_to_save()
                break
            if time.monotonic() - self._last_save >= self.post.checkpoint_s:
                self._try_to_save()
            if time.monotonic() - began >= self.post.report_s:
                break
        # What had no more to report is over, also where its last report was at a rung.
        at_rung = bool(rows) and rows[-1]["step"] in leg.milestones
        if paper.finished or (self._done >= leg.maximum and not at_rung):
            tests = self._tested(paper)
            late = paper.last_report()
            if late:
                self._done += 1
                self._enter(late, rows)
            if set(tests) - self._tests:
                raise ValueError(f"test() returned undeclared metrics: {sorted(set(tests) - self._tests)}")
            report["status"], report["test"] = "complete", tests
            report["kept"] = next((row for row in self._history if row["step"] == paper.kept_step), None)
            self._over = True
            if self.post.vital:
                self._save()
            elif self.post.keep != "none":
                self._save_last()
        elif self._stop.is_set():
            report["status"], report["reason"] = (
                "pruned",
                f"stopped on the pages of {self.post.tracking['name']}",
            )

    def _tested(self, paper: Paper) -> dict[str, float]:
        """What the trial measures on test data; nothing, and nothing is asked for it, in a sweep with test=false."""
        if self.post.test:
            return {name: float(value) for name, value in paper.test().items()}
        paper.conclude()
        return {}

    def _enter(self, metrics: Mapping[str, float], rows: list[dict[str, Any]]) -> None:
        """Keeps one report, of step `_done`, and adds it to `rows` unless the driver has it. NotFinite."""
        if not self.post.test:  # code of the user's may report them at any step
            metrics = {name: value for name, value in metrics.items() if name not in self._tests}
        if not self._open and set(metrics) - self._declared:
            raise ValueError(f"step() returned undeclared metrics: {sorted(set(metrics) - self._declared)}")
        row = {"step": self._done, "wall_s": self._cost, "time": time.time(), "metrics": dict(metrics)}
        while self._history and self._history[-1]["step"] >= self._done:  # it has begun anew
            self._history.pop()
        self._history.append(row)
        if self._tracker is not None:
            self._tracker.log(self._done, metrics)
        if self._done > self._reported:
            rows.append(row)
        bad = [f"{n}={v}" for n, v in metrics.items() if not math.isfinite(v)]
        if bad:
            raise NotFinite(f"not finite: {', '.join(bad)} at step {self._done}")

    def _try_to_save(self) -> None:
        """Writes a checkpoint; if the storage fails, the trial goes on without, and tries again later."""
        try:
            self._save()
        except StorageFault as fault:
            self._last_save = time.monotonic()
            if not self._faulted:
                self._note(f"{fault}; the trial went on")
            self._faulted = True

    def _save_last(self) -> None:
        """Writes the checkpoint of a trained network. Its value is there and stays, whatever becomes of this."""
        try:
            self._save()
        except Exception as error:
            self._note(f"complete, but its last checkpoint could not be written: {describe(error)}")

    def _save(self) -> None:
        assert self.leg is not None and self.paper is not None
        saved = self.paper.saved_at
        step = self._done if saved is None else saved
        state = self.paper.state_dict()
        if self.post.source and not self._open and not self._proved:  # a class of the user's
            prove(state, type(self.paper).__name__)
            self._proved = True
        self.checkpoints.save(
            self.leg.trial,
            step,
            {
                "paper": state,
                "step": step,
                "spent_s": self._cost,
                "history": [row for row in self._history if row["step"] <= step],
                **(self._origin() if self.post.breeds else {}),
            },
            plain=self._open,
        )
        self._saved, self._last_save = step, time.monotonic()

    def _origin(self) -> dict[str, Any]:
        """What a trial needs to know that goes on from a checkpoint of this one."""
        assert self.leg is not None
        return {"trial": self.leg.trial, "config": self.leg.config, "settings": self._settings}

    def _end(self, report: dict[str, Any]) -> None:
        self._over = True
        if self._tracker is not None:
            # What the storage failed goes on, or its driver gives it up.
            self._told = "interrupted" if report["status"] == "lost" else report["status"]
            reason = report.get("reason") or (report.get("failure") or {}).get("reason") or ""
            values = {**self._standing(report.get("kept")), **(report.get("test") or {})}
            self._tracker.summary(values, self._told, reason)
        self.close()

    def _measurements(self) -> dict[str, Any]:
        known = self.paper is not None
        startup, self._startup = self._startup, 0.0
        return {
            "cost_s": self._cost,
            "startup_s": startup,
            "peak_memory_mb": peak_memory_mb() if self.group is None else self.group.peak_memory_mb,
            "device": self._device if known else None,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "checkpoint_step": self._saved if known else None,
        }


def paper_of(post: Post) -> type[Paper]:
    """The class that a sweep tunes, in a worker: a trainable of the user's is loaded from what has travelled."""
    if not post.source:
        return catalog.get(post.paper)
    if os.path.isdir(post.folder):
        # Files that the user's code names lie where the command was given. For each leg anew: Tune moves a process that
        # it uses again into a folder of its own (2.60, `Trainable.reset`), and the user's code may go elsewhere.
        os.chdir(post.folder)
    paper = own.of(Source.from_json(post.source), {"metric": post.metric, "mode": post.mode})
    own.enter(paper)
    return objective.chosen(paper, post.metric, post.mode) if isinstance(post.metric, str) else paper
