"""The LSTM controller of NASNet (Zoph, Vasudevan, Shlens and Le, CVPR 2018) and its policy gradients: PPO (Schulman et
al., 2017), and REINFORCE as in the architecture search before it (Zoph and Le, ICLR 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Choice

INITIAL = 0.1  # weights begin uniform in (-INITIAL, INITIAL)


class Controller(nn.Module):
    """A one-layer LSTM that takes the decisions of a space in their order, each given the ones before.

    Every decision has an output layer and embeddings of its own, the paper's 2 x 5B softmax classifiers. With
    heads=`kind` decisions of the same options share them, as public re-implementations do: only the state then tells
    such decisions apart, and what one learns the others unlearn. An option which a decision does not have never has a
    probability. Decision t sees the embedding of decision t - 1, the first one a learned start; the state begins at
    zero. Everything is in float64: see `Policy.loss`.

    choices: the decisions; T of them.
    hidden: units of the LSTM. embedding: size of a decision's embedding.
    """

    offsets: Tensor  # token of the first option of each decision

    def __init__(
        self, choices: Sequence[Choice], hidden: int = 100, embedding: int = 32, seed: int = 0,
        heads: Literal["decision", "kind"] = "decision",
    ) -> None:  # fmt: skip
        super().__init__()
        kinds = [choice.options for choice in choices]
        self.kind = list(range(len(kinds)))
        if heads == "kind":
            kinds = list(dict.fromkeys(kinds))
            self.kind = [kinds.index(choice.options) for choice in choices]
        starts = np.cumsum([1, *map(len, kinds)]).tolist()  # token 0 is the start
        self.register_buffer("offsets", torch.tensor([starts[k] for k in self.kind]), persistent=False)
        self.embedding = nn.Embedding(starts[-1], embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(hidden, len(options)) for options in kinds)
        self.double()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-INITIAL, INITIAL, generator=generator)

    def forward(self, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each decision (N, T) given those before, and the entropy of its distribution (N, T)."""
        tokens = torch.cat([torch.zeros_like(decisions[:, :1]), (decisions + self.offsets)[:, :-1]], 1)
        states, _ = self.lstm(self.embedding(tokens))
        of_step, chosen, entropy = states.unbind(1), [], []
        for t, kind in enumerate(self.kind):
            log = self.heads[kind](of_step[t]).log_softmax(-1)
            chosen.append(log.gather(-1, decisions[:, t, None])[:, 0])
            entropy.append(-(log.exp() * log).sum(-1))
        return torch.stack(chosen, 1), torch.stack(entropy, 1)

    @torch.no_grad()
    def draw(self, rng: np.random.Generator, count: int = 1) -> list[tuple[int, ...]]:
        """`count` independent sequences of decisions by the controller's probabilities, one uniform number each."""
        tokens, state = torch.zeros(count, 1, dtype=torch.long), None
        drawn = torch.empty(count, len(self.kind), dtype=torch.long)
        for t, (kind, offset) in enumerate(zip(self.kind, self.offsets.tolist(), strict=True)):
            output, state = self.lstm(self.embedding(tokens), state)
            edges = self.heads[kind](output).softmax(-1).cumsum(-1)[:, 0, :-1].contiguous()
            chosen = torch.searchsorted(edges, torch.from_numpy(rng.random((count, 1))), right=True)
            drawn[:, t] = chosen[:, 0]
            tokens = chosen + offset
        return [tuple(row) for row in drawn.tolist()]

    @torch.no_grad()
    def log_probabilities(self, decisions: Sequence[int]) -> list[float]:
        """Log-probability of each decision of one architecture, given those before."""
        return self(torch.tensor([list(decisions)]))[0][0].tolist()


@dataclass(frozen=True)
class Sample:
    """An evaluated architecture: its decisions, their log-probabilities when it was drawn, and its reward."""

    decisions: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    reward: float


class Policy:
    """A controller and how it learns from evaluated architectures, `batch` at a time.

    The baseline is a moving average of the rewards, begun by the first; a batch enters it before its advantages are
    taken.

    rule: `ppo`, `epochs` steps of Adam on the clipped surrogate a batch; or `reinforce`, one step.
    ratio: `decision` clips the ratio of each decision, `joint` that of the whole architecture (PPO only).
    """

    def __init__(
        self, controller: Controller, rule: Literal["ppo", "reinforce"] = "ppo", *,
        batch: int = 20, lr: float = 3.5e-4, epochs: int = 10, clip: float = 0.2,
        ratio: Literal["decision", "joint"] = "decision", entropy: float = 1e-5, decay: float = 0.95,
    ) -> None:  # fmt: skip
        self.controller, self.rule, self.batch = controller, rule, batch
        self.epochs, self.clip, self.ratio = epochs, clip, ratio
        self.entropy, self.decay = entropy, decay
        self.optimizer = torch.optim.Adam(controller.parameters(), lr)
        self.baseline: float | None = None
        self.updates = 0
        self.waiting: list[Sample] = []

    def learn(self, sample: Sample) -> None:
        """Takes a sample; with the last one of a batch, updates the controller."""
        self.waiting.append(sample)
        if len(self.waiting) >= self.batch:
            self._update(self.waiting)
            self.waiting = []

    def _update(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            if self.baseline is None:
                self.baseline = sample.reward
            self.baseline += (1 - self.decay) * (sample.reward - self.baseline)
        for _ in range(self.epochs if self.rule == "ppo" else 1):
            self.optimizer.zero_grad()
            self.loss(samples).backward()
            self.optimizer.step()
        self.updates += 1

    def loss(self, samples: Sequence[Sample]) -> Tensor:
        """What an update minimises, a scalar."""
        decisions = torch.tensor([sample.decisions for sample in samples])
        rewards = torch.tensor([sample.reward for sample in samples], dtype=torch.float64)
        advantage = (rewards - (self.baseline or 0.0))[:, None]
        log, entropy = self.controller(decisions)
        if self.rule == "reinforce":
            gain = log * advantage
        else:
            before = torch.tensor([sample.log_probabilities for sample in samples], dtype=torch.float64)
            ratio = self._ratio(log - before)
            gain = torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        return -(gain.sum(1) + self.entropy * entropy.sum(1)).mean()

    def _ratio(self, difference: Tensor) -> Tensor:
        # A batch and a single row round the last bits of float64 differently; float32 does not see them, so that
        # unchanged weights give a ratio of exactly 1.
        return (difference if self.ratio == "decision" else difference.sum(1, keepdim=True)).float().exp()
