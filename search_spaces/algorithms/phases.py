"""The three phases of a search over a supernet, as one ask/tell algorithm: train, score, retrain.

The supernet is trained by one job; architectures that the search behind it proposes are scored with its weights, a
batch of them a job; the best are trained stand-alone, a job for each repetition. Like every algorithm it is a
function of its seed and of the jobs and outcomes that it has seen, so a run goes on in any phase.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fairsweep.search_spaces.algorithms.base import Algorithm, Job, Outcome, ask_each
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace
from fairsweep.search_spaces.architectures.jobs import CHILD, RETRAIN, SCORE, TRAIN, batch, members


@dataclass(frozen=True)
class Plan:
    """How much of each phase there is.

    train: whether the supernet is trained first (it may be there already). evaluations: architectures to score.
    batch: how many of them travel in one job; 0 trains each proposed architecture as a child of its own instead.
    top: architectures to train stand-alone. repeats: how often each, with other seeds.
    """

    train: bool = True
    evaluations: int = 200
    batch: int = 25
    top: int = 3
    repeats: int = 3

    def __post_init__(self) -> None:
        for name, low in (("evaluations", 1), ("batch", 0), ("top", 0), ("repeats", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {low}")


class PhasedSearch:
    """`inner` proposes architectures of `space`; see the module's description.

    mode: that of the objective. dress: makes the whole configuration of a job out of what is said here (phase,
    architecture, paths, repeat): with what it is trained or scored. keeps: which of the scored architectures may be
    trained stand-alone; all, by default.
    """

    wants_reports = True

    def __init__(
        self,
        space: ArchitectureSpace,
        inner: Algorithm,
        plan: Plan,
        mode: str = "max",
        dress: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config,
        keeps: Callable[[Architecture], bool] = lambda architecture: True,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r}: must be min or max")
        self.space, self.inner, self.plan, self.mode = space, inner, plan, mode
        self.dress, self.keeps = dress, keeps
        self.jobs: dict[int, Job] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.scores: dict[Architecture, float] = {}
        self._inner_jobs: dict[int, list[Job]] = {}  # job -> the jobs of `inner` that it carries
        self._asked = 0  # architectures proposed so far
        self._dry = False  # `inner` has nothing left

    # -- asking ---------------------------------------------------------------------------------------

    def ask(self, n: int = 1) -> list[Job]:
        return ask_each(self._next, self.jobs, n)

    def _next(self) -> Job | None:
        if self.plan.train and not self._of(TRAIN):
            return self._job(TRAIN)
        if self.plan.train and not self._done(TRAIN):
            return None
        if self._searching:
            job = self._proposal()
            if job is not None:
                return job
        if self._searching or not self._done(SCORE, CHILD):
            return None
        for architecture in self.ranking()[: self.plan.top]:
            text = self.space.format(architecture)
            made = sum(1 for job in self._of(RETRAIN) if job.config["architecture"] == text)
            if made < self.plan.repeats:
                return self._job(RETRAIN, architecture=text, repeat=made)
        return None

    def _proposal(self) -> Job | None:
        wanted = max(1, min(self.plan.batch, self.plan.evaluations - self._asked))
        asked = list(self.inner.ask(wanted))
        if not asked:
            # A search that waits for outcomes gets them with the jobs that run; one with none running is dry.
            self._dry = self.inner.finished or self._done(SCORE, CHILD)
            return None
        texts = [self.space.format(self.space.from_options(job.config)) for job in asked]
        # Paths that begin alike share what they compute, if they come one after the other.
        order = sorted(range(len(asked)), key=lambda k: self.space.from_options(asked[k].config).indices)
        asked, texts = [asked[k] for k in order], [texts[k] for k in order]
        attrs = {"jobs": [{"number": job.number, "attrs": dict(job.attrs)} for job in asked]}
        if self.plan.batch == 0:
            job = self._job(CHILD, architecture=texts[0], attrs=attrs)
        else:
            job = self._job(SCORE, paths=batch(texts), attrs=attrs)
        self._inner_jobs[job.number] = asked
        self._asked += len(asked)
        return job

    def _job(
        self,
        phase: str,
        *,
        paths: str = "",
        architecture: str = "",
        repeat: int = 0,
        attrs: Mapping[str, Any] | None = None,
    ) -> Job:
        config = {"phase": phase, "architecture": architecture, "paths": paths, "repeat": repeat}
        return Job(max(self.jobs, default=-1) + 1, self.dress(config), attrs or {})

    # -- telling --------------------------------------------------------------------------------------

    def adopt(self, job: Job) -> None:
        self.jobs[job.number] = job
        if job.config["phase"] not in (SCORE, CHILD):
            return
        asked = [
            Job(about["number"], self.space.options(self.space.parse(text)), about["attrs"])
            for text, about in zip(members(job.config), job.attrs["jobs"], strict=True)
        ]
        for inner in asked:
            self.inner.adopt(inner)
        self._inner_jobs[job.number] = asked
        self._asked += len(asked)

    def tell(self, job: Job, outcome: Outcome) -> None:
        if job.number not in self.jobs:
            raise KeyError(f"job {job.number} was neither asked nor adopted")
        self.outcomes[job.number] = outcome
        if job.config["phase"] == CHILD:
            self._tell_inner(self._inner_jobs[job.number][0], outcome)
        elif job.config["phase"] == SCORE:
            for step, inner in enumerate(self._inner_jobs[job.number], start=1):
                value = outcome.reports.get(step)
                self._tell_inner(inner, Outcome(value, 1, "failed" if value is None else "complete"))

    def _tell_inner(self, job: Job, outcome: Outcome) -> None:
        if outcome.value is not None and outcome.reason == "complete":
            self.scores[self.space.from_options(job.config)] = outcome.value
        self.inner.tell(job, outcome)

    # -- where it stands ------------------------------------------------------------------------------

    @property
    def _searching(self) -> bool:
        return self._asked < self.plan.evaluations and not self._dry

    def _of(self, *phases: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.config["phase"] in phases]

    def _done(self, *phases: str) -> bool:
        return all(job.number in self.outcomes for job in self._of(*phases))

    @property
    def failed(self) -> bool:
        """Whether the supernet could not be trained, so that nothing can be scored."""
        return any(
            self.outcomes[job.number].reason == "failed"
            for job in self._of(TRAIN)
            if job.number in self.outcomes
        )

    @property
    def finished(self) -> bool:
        if self.failed:
            return True
        if self._searching or (self.plan.train and not self._done(TRAIN)):
            return False
        if not self._done(SCORE, CHILD):
            return False
        wanted = len(self.ranking()[: self.plan.top]) * self.plan.repeats
        return len(self._of(RETRAIN)) >= wanted

    @property
    def expected(self) -> int:
        """Number of jobs, if the search finds as many architectures as it may evaluate."""
        batches = -(-self.plan.evaluations // max(self.plan.batch, 1))
        return int(self.plan.train) + batches + self.plan.top * self.plan.repeats

    @property
    def phase(self) -> str:
        """The phase that runs now, for a reader."""
        if self.plan.train and not (self._of(TRAIN) and self._done(TRAIN)):
            return TRAIN
        if self._searching or not self._done(SCORE, CHILD):
            return SCORE if self.plan.batch else CHILD
        return RETRAIN

    def ranking(self) -> list[Architecture]:
        """Scored architectures that may be trained, the best first; ties in the order of their encodings."""
        sign = 1.0 if self.mode == "min" else -1.0
        return sorted(filter(self.keeps, self.scores), key=lambda a: (sign * self.scores[a], a.indices))
