"""NASNet's architecture search (Zoph et al., CVPR 2018): a controller proposes, and learns from what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import numpy as np

from fairsweep.search_spaces.algorithms.architecture_search import ArchitectureSearch, Unique, at_least
from fairsweep.search_spaces.algorithms.base import Job, Outcome
from fairsweep.search_spaces.algorithms.constraints import Costs
from fairsweep.search_spaces.algorithms.nasnet_controller import Controller, Policy, Sample
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace

TRIES = 2000  # draws of the controller until one must have been admissible
BLOCK = 64  # draws at once, at most


class NASNetSearch(ArchitectureSearch):
    """The decisions of the controller are the choices of the space, in their order.

    A job carries the log-probabilities of its decisions at the time it was drawn, so that PPO's ratios are right
    however late its result comes. Results are taken in by the next `ask`, in the order of their numbers, and the new
    job says which: the log alone therefore restores the controller exactly, at the price of all its updates.
    Draws that are invalid or break a limit are drawn anew and teach nothing; failed jobs teach nothing; neither do
    jobs that the controller did not draw.

    What a search is for is its best evaluated architecture (or the `batch` best, trained anew), not the architecture
    that the controller thinks most probable.

    unique: a draw that has been evaluated gives its known value to the controller at once and is not proposed again;
        after `known` of them in a row the job is the nearest new architecture to the last one (by a random walk over
        neighbours), and teaches nothing. With `none` a draw is proposed as often as it is drawn.
    reward_scale: the reward is the objective (its negative if mode is min) times this; the weight of the entropy
        supposes rewards of about 1, so use 0.01 for percentages.
    max_staleness: a result is used if the controller was updated at most this often since it was drawn.
    hidden, embedding, heads: of the LSTM, its inputs and its outputs; see `Controller`.
    Others: see `Policy`. Where the paper gives no value, those of a public re-implementation are used: embedding,
    epochs, clip, ratio.
    """

    def __init__(
        self, space: ArchitectureSpace, mode: str, seed: int = 0, *,
        costs: Costs | None = None, constraints: Mapping[str, Any] | None = None, unique: Unique = "network",
        controller: Literal["ppo", "reinforce"] = "ppo", batch: int = 20, lr: float = 3.5e-4, epochs: int = 10,
        clip: float = 0.2, ratio: Literal["decision", "joint"] = "decision", entropy: float = 1e-5,
        baseline_decay: float = 0.95, hidden: int = 100, embedding: int = 32,
        heads: Literal["decision", "kind"] = "decision", reward_scale: float = 1.0, max_staleness: int = 10,
        known: int = 20,
    ) -> None:  # fmt: skip
        super().__init__(space, mode, seed, costs=costs, constraints=constraints, unique=unique)
        if controller not in ("ppo", "reinforce"):
            raise ValueError(f"controller={controller!r}: must be ppo or reinforce")
        if ratio not in ("decision", "joint"):
            raise ValueError(f"ratio={ratio!r}: must be decision or joint")
        if heads not in ("decision", "kind"):
            raise ValueError(f"heads={heads!r}: must be decision or kind")
        for name, value, minimum in (
            ("batch", batch, 1), ("epochs", epochs, 1), ("hidden", hidden, 1), ("embedding", embedding, 1),
            ("max_staleness", max_staleness, 0), ("known", known, 0), ("entropy", entropy, 0),
        ):  # fmt: skip
            at_least(name, value, minimum)
        for name, number, upper in (
            ("lr", lr, np.inf),
            ("clip", clip, 1),
            ("reward_scale", reward_scale, np.inf),
        ):
            if not 0 < number <= upper:
                raise ValueError(
                    f"{name}={number}: must be above 0" + (f", at most {upper}" if upper < np.inf else "")
                )
        if not 0 <= baseline_decay < 1:
            raise ValueError(f"baseline_decay={baseline_decay}: must be at least 0 and below 1")
        self.reward_scale, self.max_staleness, self.known = reward_scale, max_staleness, known
        self._sizes, self._heads = (hidden, embedding), heads
        self._settings: dict[str, Any] = dict(
            rule=controller, batch=batch, lr=lr, epochs=epochs, clip=clip, ratio=ratio, entropy=entropy,
            decay=baseline_decay,
        )  # fmt: skip
        self._restart()

    def _restart(self) -> None:
        hidden, embedding = self._sizes
        controller = Controller(self.space.choices, hidden, embedding, self.seed, self._heads)
        self.policy = Policy(controller, **self._settings)
        self._heard: dict[int, float] = {}  # gains taken in, by job
        self._values: dict[Architecture, float] = {}  # the same by `identity`
        self._asked = -1  # the last job whose attrs have been gone through

    # -- what the log says ----------------------------------------------------------------------------

    def adopt(self, job: Job) -> None:
        super().adopt(job)
        if job.number <= self._asked:
            self._restart()

    def tell(self, job: Job, outcome: Outcome) -> None:
        super().tell(job, outcome)
        if job.number in self._heard and self._heard[job.number] != self.gains[job.number]:
            self._restart()

    def catch_up(self) -> list[int]:
        """Brings the controller to where the jobs and outcomes say that it is; the results that no job has heard of,
        and that are hereby taken in."""
        for number in sorted(k for k in self.jobs if k > self._asked):
            attrs = self.jobs[number].attrs
            for k in attrs.get("heard", ()):
                self._hear(k)
            for decisions in attrs.get("known", ()):
                self._learn_known(self.space.architecture(decisions))
            self._asked = number
        new = sorted(set(self.gains) - set(self._heard))
        for k in new:
            self._hear(k)
        return new

    def _hear(self, number: int) -> None:
        if number not in self.gains or number in self._heard:  # a log cut short
            return
        self._heard[number] = gain = self.gains[number]
        architecture, attrs = self.architectures[number], self.jobs[number].attrs
        self._values[self.identity(architecture)] = gain
        drawn = attrs.get("log_probabilities")
        if drawn and self.policy.updates - attrs["updates"] <= self.max_staleness:
            self.policy.learn(Sample(architecture.indices, tuple(drawn), gain * self.reward_scale))

    def _learn_known(self, architecture: Architecture) -> None:
        gain = self._values[self.identity(architecture)]
        drawn = tuple(self.policy.controller.log_probabilities(architecture.indices))
        self.policy.learn(Sample(architecture.indices, drawn, gain * self.reward_scale))

    # -- proposing ------------------------------------------------------------------------------------

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        attrs: dict[str, Any] = {"heard": self.catch_up()}
        self._asked = number
        known: list[list[int]] = []
        nearest = None
        for architecture in islice(self._draws(rng), TRIES):
            if self.admissible(architecture):
                drawn = self.policy.controller.log_probabilities(architecture.indices)
                return architecture, {
                    **attrs, "known": known, "log_probabilities": drawn, "updates": self.policy.updates,
                }  # fmt: skip
            if self.unique != "none" and self._is_known(architecture):
                if len(known) < self.known:
                    known.append(list(architecture.indices))
                    self._learn_known(architecture)
                if len(known) >= self.known:
                    nearest = self.near(architecture, rng)
                    break
        return nearest or self.draw(rng), {**attrs, "known": known}

    def _is_known(self, architecture: Architecture) -> bool:
        return self.space.is_valid(architecture) and self.identity(architecture) in self._values

    def _draws(self, rng: np.random.Generator) -> Iterator[Architecture]:
        size = 1
        while True:
            updates = self.policy.updates
            for decisions in self.policy.controller.draw(rng, size):
                yield Architecture(self.space.id, decisions)
                if self.policy.updates > updates:  # what is left of the block comes from the policy before
                    break
            size = min(2 * size, BLOCK)
