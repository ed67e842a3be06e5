"""The driver's side of a sweep, without Ray: who runs next, what a report means, what goes into the store.

A *trial* is one configuration under one seed. It runs in one or more *legs*: from its start, or from its
last checkpoint, to the next pause, loss or end. The conductor hands out legs (`engine.handing`), writes every report
down before it acts on it, and tells the search algorithm the truth. All its state is a function of the store's
rows, so a sweep that ended in any way can be taken up again (`engine.replay`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairsweep.analysis.store import SweepWriter
from fairsweep.analysis.text import bounded
from fairsweep.cluster.engine.aims import Aims
from fairsweep.cluster.engine.books import REASON, Clock, Notes, ended_row, exhausted, result_row
from fairsweep.cluster.engine.handing import Handing
from fairsweep.cluster.engine.judging import OVER
from fairsweep.cluster.engine.stretches import Stretch
from fairsweep.cluster.engine.trial import ENDED, PARENT, Answer, Leg, Rules, Trial, combine, now, trial_id
from fairsweep.search_spaces.algorithms import Algorithm, Outcome, Scheduler
from fairsweep.search_spaces.space import Space

__all__ = ["Conductor", "Leg", "Rules", "Trial", "combine", "now", "trial_id"]

BEAT_S = 5.0  # between entries of the time that was used, where no report carries one
REPORT_BEAT_S = 1.0


class Conductor(Handing):
    """Hands out legs (`next_leg`, `next_legs`), takes reports (`report`) and losses (`lost`), and keeps the books."""

    def __init__(
        self,
        rules: Rules,
        space: Space,
        algorithm: Algorithm,
        scheduler: Scheduler,
        writer: SweepWriter,
        *,
        columns: Mapping[str, Any] | None = None,
        on_end: Callable[[Trial], None] | None = None,
    ) -> None:
        super().__init__(rules, space, algorithm, scheduler, writer, columns or {})
        self.on_end = on_end
        self.on_note: Callable[[str], None] | None = None
        self.told: dict[int, Outcome] = {}
        self.interrupted = False
        self.wants_reports = bool(getattr(algorithm, "wants_reports", False))
        self.clock = Clock(writer, rules.spent_s, rules.minutes)
        self.notes = Notes(writer)
        self.aims: Aims | None = None  # where there are several objectives
        self._remarks: deque[str] = deque()  # of other threads
        self._ended: list[Trial] = []  # of which `on_end` has not been told

    # -- budget ---------------------------------------------------------------------------------------

    @property
    def elapsed_s(self) -> float:
        """Wall seconds that the sweep has used, earlier runs included."""
        return self.clock.elapsed_s

    @property
    def out_of_time(self) -> bool:
        return self.clock.out

    def beat(self, every: float = BEAT_S) -> None:
        self.clock.beat(every)
        while self._remarks:
            self.note(self._remarks.popleft())

    @property
    def expected(self) -> int:
        """How many trials there will be, as far as it is known."""
        wanted = self.rules.trials or int(getattr(self.algorithm, "expected", 0))
        return max(wanted * len(self.rules.seeds), len(self.trials))

    @property
    def stopping(self) -> bool:
        return self.interrupted or self.out_of_time

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing is left to hand out."""
        return not self.active and (self._no_more or self._next_id(peek=True) is None)

    @property
    def _no_more(self) -> bool:
        return self.stopping or self.purse.empty

    # -- reports --------------------------------------------------------------------------------------

    def report(self, trial_id: str, payload: Mapping[str, Any]) -> bool:
        """Writes a worker's report down, then decides. True: the trial goes on in its worker.

        payload: `rows` (step, wall_s, time and metrics each), `status` (running, complete, failed, or lost where
        the storage failed the trial), `test` metrics on completion and the row of the step `kept` whose model they
        are of (None: that of the best objective), `failure` (reason, error), `notes` (text, and
        whether it is said once a sweep only) and the worker's measurements.
        """
        self._grow([payload])
        going_on = self._report(trial_id, payload)
        self._announce()
        return going_on

    def reports(
        self,
        payloads: Sequence[Mapping[str, Any]],
        unbegun: Sequence[str] = (),
        lane: str = "",
        running: str = "",
    ) -> str | None:
        """The reports of a place on its bundle, written down together. The trial that goes on there, if one does.

        unbegun: trials of the bundle that had no time left to begin. lane: which sweep of a fleet it is. running: the
        trial of the bundle that runs on, of which there is no report yet.
        """
        self._grow(payloads)
        with self.writer.batch():
            going_on = self._reports(payloads, unbegun)
        if running in self.active:
            self.ahead.discard(running)
            self.heard_from(running)
        self._announce()
        return going_on

    def trade(self, messages: Sequence[tuple[str, Mapping[str, Any]]], hand_out: bool = True) -> list[Answer]:
        """What places tell, written down in one append together with what each of them is to run next.

        messages: the lane, which only a fleet has, and what `Bundle.step` gave. hand_out: whether answers name legs.
        """
        self._grow([payload for _, message in messages for payload in message["reports"]])
        with self.writer.batch():
            answers = [self._heard(message) for _, message in messages]
            for k, (_, message) in enumerate(messages):
                if hand_out and not answers[k].going_on:
                    answers[k] = replace(answers[k], legs=self.next_legs(message["most"]))
        self._announce()
        return answers

    def _heard(self, message: Mapping[str, Any]) -> Answer:
        going_on = self._reports(message["reports"], message["unbegun"])
        return Answer(going_on or "", cut_off=self.trials[message["reports"][-1]["trial"]].cut_off)

    def _reports(self, payloads: Sequence[Mapping[str, Any]], unbegun: Sequence[str]) -> str | None:
        going_on = None
        self.hand_back(unbegun)
        for payload in payloads:
            if self._report(payload["trial"], payload):
                going_on = payload["trial"]
        return going_on

    def _grow(self, payloads: Sequence[Mapping[str, Any]]) -> None:
        self.writer.grow([name for p in payloads for row in p["rows"] for name in row["metrics"]])

    def _report(self, trial_id: str, payload: Mapping[str, Any]) -> bool:
        trial = self.trials[trial_id]
        if trial_id not in self.active:  # already given up; its checkpoint brings these rows again
            return False
        trial.heard = time.monotonic()
        self.ahead.discard(trial_id)
        rows = [row for row in payload["rows"] if row["step"] > trial.steps]
        decision, going_on = "continue", False
        with self.writer.batch():
            if rows:
                self.writer.results([result_row(trial, row) for row in rows])
            for row in rows:
                decision = self.judged(trial, row["step"], row["metrics"])
                if decision != "continue":
                    break  # a worker stops at every milestone, so this is the last row
            self._release()
            self.purse.took(trial, float(payload.get("cost_s", trial.cost_s)))
            trial.startup_s += float(payload.get("startup_s", 0.0))
            for note in payload.get("notes") or ():
                self.note(note["text"], None if note["once"] else trial_id)
            self.beat(REPORT_BEAT_S)
            if payload["status"] == "failed":
                self.end(trial, "failed", payload["failure"]["reason"], payload)
            elif payload["status"] == "complete":
                self._complete(trial, payload)
            elif payload["status"] == "pruned":
                self.end(trial, "pruned", payload["reason"], payload)
            elif decision == "pause":
                self.end(trial, "paused", f"paused by {self.scheduler.name} at step {trial.steps}", payload)
            elif decision == "stop":
                self.end(trial, "pruned", f"stopped by {self.scheduler.name} at step {trial.steps}", payload)
            elif payload["status"] == "lost":
                self._lose(trial_id, payload["failure"]["error"], payload["failure"]["reason"])
            elif trial_id in self.halted:
                self.end(trial, "pruned", f"{self.halted[trial_id]} at step {trial.steps}", payload)
            elif self.stopping:
                why = "interrupted" if self.interrupted else "budget.minutes is used up"
                self.end(trial, "interrupted", f"{why} at step {trial.steps}", payload)
            elif self.purse.empty:
                self.end(trial, "paused", self.purse.why(trial), payload)
            else:
                going_on = True
        return going_on

    def _complete(self, trial: Trial, payload: Mapping[str, Any]) -> None:
        kept, lacking = payload.get("kept"), ""
        if kept is not None and self.rules.objective in kept["metrics"]:
            trial.best, trial.best_step = kept["metrics"][self.rules.objective], kept["step"]
        if self.aims is not None:
            lacking = self.aims.completed(trial, kept["metrics"] if kept is not None else {})
        why = lacking or payload.get("reason") or "complete"
        self.end(trial, "failed" if lacking else "complete", why, payload)

    def lost(self, trial_id: str, error: str, reason: str = "worker died", charged: bool = True) -> None:
        """A worker ended without a report: the trial goes on from its checkpoint, or has failed for good.

        charged: whether it counts among the losses that a trial survives.
        """
        self.lost_bundle([trial_id], error, reason, charged)

    def lost_bundle(
        self, trial_ids: Sequence[str], error: str, reason: str = "worker died", charged: bool = True
    ) -> None:
        """A worker ended without a report on these. Which of several did it, nobody knows: each runs alone now."""
        with self.writer.batch():
            for trial_id in reversed(trial_ids):
                self._lose(trial_id, error, reason, charged and len(trial_ids) == 1)
        self._announce()

    def _lose(self, trial_id: str, error: str, reason: str, charged: bool = True) -> None:
        trial = self.trials[trial_id]
        if trial_id not in self.active:
            return
        failed = self.rules.given_up(trial, reason, charged)
        if self._no_more:
            self.end(trial, "interrupted", f"interrupted at step {trial.steps}", {})
        elif failed:
            self.end(trial, "failed", failed, {}, error)
        else:
            trial.retries += charged
            trial.state, trial.alone = "pending", True
            self.active.discard(trial_id)
            self.ahead.discard(trial_id)
            self.waiting.appendleft(trial_id)
            reason = bounded(reason, REASON)
            with self.writer.batch():
                self.writer.event("retry", trial=trial_id, reason=reason, after_step=trial.steps)
                self.writer.trial(
                    trial_id, state="pending", reason=f"{reason}; retried", retries=trial.retries
                )

    def note(self, text: str, trial: str | None = None) -> None:
        """Enters what a reader of the sweep should know, and says it. Of no trial in particular: once."""
        said = self.notes.enter(text, trial)
        if said is not None and self.on_note is not None:
            self.on_note(said)

    def overdue(self) -> list[str]:
        """Running trials that have given no sign of life for `timeout_s` seconds."""
        limit = self.rules.timeout_s
        if limit is None:
            return []
        return [i for i in sorted(self.active) if time.monotonic() - self.trials[i].heard > limit]

    def stalled(self, seconds: float) -> None:
        """The driver heard nobody for so long: who runs is not to blame that nothing was heard of it."""
        for active in self.active:
            self.trials[active].heard += seconds

    def heard_from(self, trial_id: str) -> None:
        """The trial's worker has begun; waiting for a place does not count against its timeout."""
        self.trials[trial_id].heard = time.monotonic()

    def remark(self, text: str) -> None:
        """Has a note entered soon. May be called from any thread."""
        self._remarks.append(text)

    def halt(self, trial_id: str, why: str) -> None:
        """Ends a trial at its next report, or when it is its turn, as pruned. May be called from any thread."""
        self.halted[trial_id] = why

    def interrupt(self) -> None:
        """Hands out nothing more; running trials end at their next report, to be resumed."""
        self.interrupted = True
        self.writer.hurry()

    def close(self) -> str:
        """Ends the run's books and returns the sweep's state: finished or interrupted."""
        self.beat()
        while self.news:
            self.tell_next()
        state = "interrupted" if self.interrupted else "finished"
        with self.writer.batch():
            for trial_id in list(self.active):
                trial = self.trials[trial_id]
                self.end(trial, "interrupted", f"interrupted at step {trial.steps}", {})
            for trial in self.trials.values():
                if state == "finished" and trial.state == "paused":
                    trial.state = "pruned"
                    stopped = f"stopped by {self.scheduler.name} at step {trial.steps}"
                    reason = trial.reason if trial.cut_off else stopped
                    self.writer.trial(trial.id, state="pruned", reason=reason)
            if state == "finished":
                spent = exhausted(self.algorithm, len(self.jobs), self.rules.trials)
                for text in filter(None, (spent, self.purse.closing(self.asker.open))):
                    self.note(text)
            self.writer.sweep(state=state, ended=now(), elapsed_s=self.elapsed_s)
        self._announce()
        return state

    def abandon(self) -> None:
        """Ends the books of a driver that fails: interrupted, paused trials stay paused, nobody is charged.

        What is known of the trials may be ahead of what could be written, so it is not written now. Never raises.
        """
        self.interrupt()
        for of_trials in (True, False):  # there may be room for the sweep's row alone
            with suppress(Exception), self.writer.batch():
                self.writer.ending()
                # By the store, not by `active`: what a trial told last may be what could not be written.
                for trial_id in self.writer.running() if of_trials else ():
                    self.writer.trial(trial_id, state="interrupted", reason="the driver ended", ended=now())
                self.writer.sweep(state="interrupted", ended=now(), elapsed_s=self.elapsed_s)
                return

    def judged(self, trial: Trial, step: int, metrics: Mapping[str, Any]) -> str:
        """Enters a report, and says what becomes of the trial."""
        value = metrics.get(self.rules.objective)
        if self.wants_reports and value is not None and math.isfinite(value):
            trial.reports[step] = value
        before = trial.steps
        decision = self.judge.report(trial, step, value)
        self.purse.went(trial, before)
        if self.aims is not None:
            self.aims.see(trial, step, metrics)
        return decision

    def passed(self, stretch: Stretch) -> None:
        """Enters the reports of an earlier run, as `judged` did one by one."""
        trial, before = stretch.trial, stretch.trial.steps
        for step, value in stretch.told:
            self.judge.enter(trial, step, value)
        if self.wants_reports:
            trial.reports.update(stretch.told)
        self.judge.report(trial, stretch.step, None)
        self.purse.went(trial, before)
        if stretch.wall_s > trial.cost_s:  # its row was written when it last came to rest
            self.purse.took(trial, stretch.wall_s)

    def end(
        self, trial: Trial, state: str, reason: str, payload: Mapping[str, Any], error: str | None = None
    ) -> None:
        trial.state, trial.reason = state, bounded(reason, REASON)
        self.active.discard(trial.id)
        self.ahead.discard(trial.id)
        with self.writer.batch():
            self.writer.trial(trial.id, **ended_row(trial, payload, error))
            # When matters: others may have waited for it, and what is asked for follows from what was told before.
            awaited = self.nursery is not None or len(self.groups[trial.config_id]) > 1
            if state in (ENDED if self.looks_ahead else OVER if awaited else ()):
                self.writer.event("end", trial=trial.id, state=state)
            if state in OVER:
                self.judge.ended(trial)
            self._release()
        self.tell(trial.config_id)
        self._ended.append(trial)

    def _announce(self) -> None:
        """Tells who has come to rest, once it is on disk: whoever is told may drop the trial's checkpoints."""
        while self._ended:
            trial = self._ended.pop(0)
            if self.on_end is not None:
                self.on_end(trial)

    def tell(self, config_id: int) -> None:
        """Has the algorithm told of a configuration once all its seeds have come to rest (`think`)."""
        group = self.groups[config_id]
        if any(t.state not in ENDED | {"paused"} for t in group):
            return
        outcome = combine(group) if self.aims is None else self.aims.outcome(group, combine(group))
        if self.wants_reports and len(group) == 1:
            outcome = replace(outcome, reports=dict(group[0].reports))
        if self.told.get(config_id) != outcome:
            self.told[config_id] = outcome
            if (
                PARENT not in self.jobs[config_id].attrs
            ):  # what a copy came to is not of its configuration alone
                self.news.append((self.jobs[config_id], outcome))
