"""Runs code that reports by itself as if it were trained step by step: in a thread that stands still at each report."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

from fairsweep.search_spaces.space import Space
from fairsweep.trainables.base import ENDLESS, BadReport, Fidelity, Metric, Paper, Setting
from fairsweep.trainables.own.process import dumped, loaded, seeded, settled
from fairsweep.trainables.own.reports import numbers
from fairsweep.trainables.own.source import Source
from fairsweep.trainables.parts import said

MOST_METRICS = 500
MOST_CAUGHT = 3  # times that a function may catch the end of its trial, as `finally` blocks that report do
GRACE_S = 5.0  # that a function has to end once it was told to


class TrialEnded(BaseException):
    """Raised in `report` where a trial is paused, stopped or has had its steps: ends the function."""


class Handover:
    """A body in a thread of its own, which stands still whenever it has reported until it is asked for more."""

    def __init__(self, body: Callable[[], Any]) -> None:
        self._body = body
        self._said: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._go: SimpleQueue[bool] = SimpleQueue()
        self._told = False  # that it is over
        self._caught = 0  # times that the body was told so
        self._thread = threading.Thread(target=self._run, name="fairsweep-trial", daemon=True)
        self._begun = self._over = self._awaited = False

    def _run(self) -> None:
        self._go.get()
        try:
            if self._told:
                return
            self._said.put(("end", self._body()))
        except TrialEnded:
            self._said.put(("stopped", None))
        except BaseException as error:  # SystemExit, too: it ends this trial, not the worker
            self._said.put(("error", error))
        finally:
            self._told = True  # threads that it has left behind have nobody to report to

    def next(self, patience: float | None = None) -> tuple[str, Any]:
        """Lets the body go on to what it says next: ("report", metrics), ("end", result) or ("error", exception).

        ("busy", None) where it has said nothing for `patience` seconds; what it then says is there for the next call.
        """
        if not self._begun:
            self._begun = True
            self._thread.start()
        if not self._awaited:
            self._go.put(True)
        self._awaited = True
        try:
            kind, value = self._said.get(timeout=patience)
        except Empty:
            return "busy", None
        self._awaited = False
        self._over = kind != "report"
        return kind, value

    def hand(self, kind: str, value: Any) -> None:
        """Called in the body: says something and waits. TrialEnded if that was all."""
        if not self._told:
            self._said.put((kind, value))
            self._go.get()
        if self._told:
            self._caught += 1
            while self._caught > MOST_CAUGHT:  # it catches the end and goes on, and would for ever
                threading.Event().wait()
            raise TrialEnded

    def stop(self) -> bool:
        """Ends the body; False if it does not end within `GRACE_S` seconds (its thread is then left alone)."""
        if not self._begun or self._over:
            return True
        self._told = True
        self._go.put(False)
        until = time.monotonic() + GRACE_S
        while self._thread.is_alive() and self._caught <= MOST_CAUGHT and time.monotonic() < until:
            self._thread.join(0.01)
        self._over = True
        return not self._thread.is_alive()


class Handle:
    """What a function is given as `trial`.

    seed: of this trial; `random`, NumPy and PyTorch are seeded with it before the function begins. device: "cpu" or
    "cuda". steps: how many reports are wanted, None if nobody has said. data_dir: the sweep's `data_dir`. number: of
    the configuration. step: reports so far, those before a restored checkpoint included. split_seed: what to draw parts
    of the data by: the sweep's `split_seed`, else `seed`. testing: False where the sweep wants no test metrics.
    """

    def __init__(self, setting: Setting, steps: int | None, restored: Any, at: int, paper: OwnPaper) -> None:
        self.seed, self.device, self.number = setting.seed, setting.device, setting.number
        self.split_seed, self.testing = setting.parts_seed, setting.test
        self.data_dir: Path | None = setting.data_dir
        self.steps, self.step = steps, 0
        self._one = threading.RLock()
        self._restored, self._at, self._paper = restored, at, paper
        self.kept: tuple[int, bytes] | None = None  # the last checkpoint, and the report that it belongs to

    def report(self, metrics: Any = None, /, **named: Any) -> None:
        """One step: `report(val_loss=0.3)`, a dict, or one number where one metric is tuned on.

        Here a trial ends that early stopping stops. What is no number fails the trial, with its name, value and step.
        """
        with self._one:  # threads of the function's own may report, too
            try:
                found = self._paper.numbers(metrics, named, self.step + 1)
            except BadReport as error:
                self._paper.handover.hand("error", error)
                raise
            self.step += 1
            self._paper.handover.hand("report", found)

    def parts(self, *, train: Any = None, validation: Any = None, test: Any = None) -> None:
        """Says which examples are in which part, by whole numbers or texts, so that the trial's row tells (as digests)
        whether two trials had the same. Fails the trial if a test example is in another part, too."""
        given = {"train": train, "validation": validation, "test": test}
        with self._one:
            try:
                self._paper.digests = said(given, BadReport).digests()
            except BadReport as error:
                self._paper.handover.hand("error", error)
                raise

    def checkpoint(self, state: Any, step: int | None = None) -> None:
        """Keeps `state` (anything that pickles) for `restore`, as it is now.

        It belongs to the report that comes next: call it just before `report`. step: the report that it belongs to
        instead, such as `trial.step`, the last one. A trial that is paused, killed or interrupted goes on from it.
        """
        step = self.step + 1 if step is None else step
        if not isinstance(step, int) or not 0 <= step <= self.step + 1:
            raise ValueError(
                f"trial.checkpoint: step={step!r}: must be from 0 to {self.step + 1}, the next report"
            )
        self.kept = (step, dumped(state))

    def restore(self) -> Any:
        """The state of the last checkpoint of this trial, or None if it begins; to be called before any report."""
        if self.step:
            raise ValueError("trial.restore: must be called before the first report")
        if self._restored is None:
            return None
        self.step = self._at
        return loaded(self._restored)


class OwnPaper(Paper):
    """A trainable of the user's that reports by itself. What extends it says what runs (`body`) and declares itself.

    source: where it comes from. declared_steps: how many reports a trial makes, if it is known. What is reported
    and is not declared is kept: `open_metrics`. Made by `trainables.own.adapt`.
    """

    title: ClassVar[str] = ""
    citation: ClassVar[str] = "the user's own"
    task: ClassVar[str] = "own"
    datasets: ClassVar[tuple[str, ...]] = ("own",)
    open_metrics: ClassVar[bool] = True
    source: ClassVar[Source]
    declared_steps: ClassVar[int | None] = None
    own_space: ClassVar[Space]
    checkpoint_words: ClassVar[tuple[str, ...]] = ("checkpoint",)  # in the code of one that keeps checkpoints
    number_alone: ClassVar[str] = ""  # what a single number that is reported is called, "" for the objective

    @classmethod
    def space(cls) -> Space:
        return cls.own_space

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        return Fidelity("report", 1, steps or cls.declared_steps or ENDLESS)

    @classmethod
    def keeps_checkpoints(cls) -> bool:
        """Whether it may go on from a checkpoint, as far as its source tells before it has run."""
        texts = list(cls.source.files.values())
        return not texts or all(any(word in text for text in texts) for word in cls.checkpoint_words)

    @abstractmethod
    def body(self, config: dict[str, Any], trial: Handle) -> Any:
        """The user's code; what it returns is its last report, None for none."""

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        self.config, self.setting = dict(config), setting
        self.handle: Handle | None = None
        self._kept: dict[str, Any] = {"state": None, "at": 0, "best": None, "at_best": {}, "tests": {}}
        self._at = 0
        self._finished = False
        self._left: str | None = None  # what is to be said of code that did not end
        self._late: dict[str, float] = {}
        self._best: float | None = None
        self._at_best: dict[str, float] = {}  # test metrics that were reported with the best objective
        self._tests: dict[str, float] = {}  # the last that were reported
        self._names: set[str] = set()
        self.digests: dict[str, str] | None = None

    def parts(self) -> dict[str, str] | None:
        """What the code has said by `trial.parts`."""
        return self.digests

    def _begin(self) -> None:
        maximum = self.fidelity(self.config, self.setting.steps).maximum
        self.handle = Handle(
            self.setting, None if maximum == ENDLESS else maximum, self._kept["state"], self._kept["at"], self
        )
        handle, config = self.handle, dict(self.config)

        def body() -> Any:
            seeded(self.setting.seed)
            with settled():
                return self.body(config, handle)

        self.handover = Handover(body)

    def step(self) -> dict[str, float]:
        """Goes on to the next report; {} where the code has ended without another one, or `patience` has."""
        if self.handle is None:
            self._begin()
        assert self.handle is not None
        kind, value = self._next(self.patience)
        if kind == "busy":
            return {}
        self._at = self.handle.step
        if kind == "report":
            self._note(value)
            return value
        self._finished = True
        found = self._result(value)
        if found:
            self._at += 1
        return found

    def _next(self, patience: float | None = None) -> tuple[str, Any]:
        """What the code says next; raises what it has raised."""
        kind, value = self.handover.next(patience)
        if kind != "error":
            return kind, value
        if isinstance(value, Exception):
            raise value
        # As an error of the trial: sys.exit() ends it, not the worker.
        raise BadReport(f"raised {type(value).__name__}: {value}") from value

    def _result(self, value: Any) -> dict[str, float]:
        """What a returned value reports beside test metrics."""
        if value is not None:
            found = self.numbers(value, {}, self._at + 1)
            self._note(found, last=True)
            rest = {k: v for k, v in found.items() if k not in self._test_names}
        else:
            rest = {}
        if self._at == 0 and not rest:
            raise BadReport(
                f"ended without a report: call trial.report({self.objective}=...), yield or return"
                f" {{'{self.objective}': ...}}"
            )
        if self._best is None and self.objective not in rest:
            raise BadReport(
                f"no report had {self.objective}, which is tuned on; reported: {', '.join(sorted(self._names))}"
            )
        return rest

    @property
    def _test_names(self) -> set[str]:
        return {m.name for m in self.metrics if m.split == "test"}

    def _note(self, found: Mapping[str, float], last: bool = False) -> None:
        """Remembers what the trial's answer is made of, and the checkpoint that has become valid with a report."""
        tests = {k: v for k, v in found.items() if k in self._test_names}
        self._tests.update(tests)
        self._names |= set(found)
        if len(self._names) > MOST_METRICS:
            raise BadReport(
                f"report {self._at}: more than {MOST_METRICS} names of metrics; report a step's values by one name"
            )
        if self._at == 1 and self.objective not in found:
            named = ", ".join(sorted(found)[:5])
            self.remarks = (
                *self.remarks,
                f"the first report has {named}, and not {self.objective}, which is tuned on",
            )
        value = found.get(self.objective)
        better = value is not None and (
            self._best is None or self.metric(self.objective).better(value, self._best)
        )
        if better:
            self._best, self._at_best = value, {} if last else tests
        kept = self.handle.kept if self.handle else None
        if kept is not None and kept[0] <= self._at:
            assert self.handle is not None
            self.handle.kept = None
            self._kept = {"state": kept[1], "at": kept[0], "best": self._best}
            self._kept |= {"at_best": dict(self._at_best), "tests": dict(self._tests)}

    def numbers(self, metrics: Any, named: Mapping[str, Any], step: int) -> dict[str, float]:
        """A report as numbers by name; BadReport."""
        return numbers(metrics, named, step, self.number_alone or self.objective)

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def at(self) -> int | None:
        return self._at

    @property
    def saved_at(self) -> int | None:
        return int(self._kept["at"])

    def conclude(self) -> None:
        """Lets code that has had its steps come to its end."""
        if not self._finished and self.handle is not None:
            kind, value = self._next()
            if kind == "end":
                self._late = self._result(value) if value is not None else {}
            self._finished = True
            if kind == "report":
                self._left = self.close()

    def test(self) -> dict[str, float]:
        """Comes to its end, and gives what the code measured on test data."""
        self.conclude()
        return {**self._tests, **self._at_best}

    def last_report(self) -> dict[str, float]:
        return self._late

    def state_dict(self) -> dict[str, Any]:
        return dict(self._kept)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kept = dict(state)
        # What the function restores it goes on from; if it does not, it begins anew and so does its account.
        self._at = int(state["at"])
        self._best, self._at_best, self._tests = state["best"], dict(state["at_best"]), dict(state["tests"])

    def close(self) -> str | None:
        """Ends the code where it stands; what is to be said if it does not end."""
        if self._left or self.handle is None or self.handover.stop():
            return self._left
        return (
            f"did not end within {GRACE_S:g} s after its trial was over (it may catch every exception, `except:`); its"
            " thread is left behind"
        )


def metrics_of(
    objective: str, mode: str, others: tuple[str, ...], tests: tuple[str, ...]
) -> tuple[Metric, ...]:
    """Declared metrics; which way is better counts for the objective alone."""
    rest = [name for name in others if name != objective and name not in tests]
    return (
        Metric(objective, mode, "validation"),  # type: ignore[arg-type]
        *(Metric(name, mode, "validation") for name in rest),  # type: ignore[arg-type]
        *(Metric(name, mode, "test") for name in tests),  # type: ignore[arg-type]
    )
