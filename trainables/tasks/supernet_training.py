"""Training a supernet path by path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.supernets.base import Supernet
from fairsweep.trainables.tasks.data_sampling import UniformData, logit_gradient_norm
from fairsweep.trainables.tasks.path_sampling import PathRule
from fairsweep.trainables.tasks.small_images import SmallImageTask
from fairsweep.trainables.tasks.training import Mean
from fairsweep.trainables.tasks.workers import Workers

INNER_STEPS = 2  # of a path, in SUMNAS


class GradientMoments:
    """Variance of the stochastic gradient over the updates of an epoch: E|g|^2 - |E g|^2, over all weights.

    The weights move meanwhile, so the drift of the mean gradient is in it. Weights that an update does not touch
    have gradient 0.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.sums = [torch.zeros_like(p) for p in parameters]
        self.squares, self.updates = 0.0, 0

    def add(self) -> None:
        """Counts the gradients that the parameters have now."""
        pairs = [(s, p.grad) for s, p in zip(self.sums, self.parameters, strict=True) if p.grad is not None]
        gradients = [g for _, g in pairs]
        torch._foreach_add_([s for s, _ in pairs], gradients)
        self.squares += torch.stack(torch._foreach_norm(gradients)).square().sum().item()
        self.updates += 1

    @property
    def variance(self) -> float:
        """Unbiased, for independent gradients; 0 for fewer than two updates."""
        if self.updates < 2:
            return 0.0
        mean = torch.stack(torch._foreach_norm(self.sums)).square().sum().item() / self.updates**2
        return max(self.squares / self.updates - mean, 0.0) * self.updates / (self.updates - 1)


class SupernetTraining:
    """One supernet, its rules of sampling and its optimiser; `epoch` trains all of it once.

    update: how the paths of an update share it. "sum": their losses are added. "distil": the first path learns the
        labels, the others the first one's probabilities (in-place distillation). "reptile": each path takes two
        steps of its own from the same weights; the mean way they went is the gradient (SUMNAS).
    clip: largest global norm of a gradient; with "reptile" of the inner ones.
    reweight: losses weigh 1 / (N p_i) and 1 / (n q_j), which makes importance sampling unbiased: p_i is the
        probability of a path among the N valid ones, q_j that of an image. Where a probability is 0, as at a full
        share of importance without a floor, what it belongs to is missing from the estimate.
    rng: of the paths. Order and augmentation of the data draw from PyTorch's global generator.
    workers: who shares the batches. All draw the same order, augmentation and paths; each works on its part.
    """

    def __init__(
        self,
        net: Supernet,
        optimiser: torch.optim.Optimizer,
        data: SmallImageTask,
        paths: PathRule,
        examples: UniformData,
        rng: np.random.Generator,
        update: str = "sum",
        clip: float = 5.0,
        reweight: bool = False,
        inner_lr: float = 0.05,
        workers: Workers | None = None,
    ) -> None:
        backward = {"sum": self._sum, "distil": self._distil, "reptile": self._reptile}
        if update not in backward:
            raise ValueError(f"update={update}: known are {', '.join(backward)}")
        self._backward, self.inner = backward[update], update == "reptile"
        self.net, self.optimiser, self.data = net, optimiser, data
        self.paths, self.examples, self.rng = paths, examples, rng
        self.clip, self.reweight, self.inner_lr = clip, reweight, inner_lr
        self.workers = workers or Workers()
        self.parameters = list(net.parameters())

    def epoch(self, batch_size: int, path_share: float = 0.0, data_share: float = 0.0) -> dict[str, float]:
        """Trains one epoch; then the rules take `path_share` and `data_share` of what they measured in it.

        Returns `train_loss`, the mean loss of the paths trained (nats), and `gradient_variance` before clipping.
        """
        loss, moments = Mean(), GradientMoments(self.parameters)
        order = self.examples.order()
        for positions in torch.arange(len(order)).split(batch_size):
            if len(positions) < 2 * self.workers.size and len(order) > len(positions):
                break  # batch statistics of one image are no statistics
            loss.add(self._update(order[positions], positions, moments), len(positions))
        self.paths.end_epoch(path_share, self.workers)
        self.examples.end_epoch(data_share, self.workers)
        return {"train_loss": loss.value, "gradient_variance": moments.variance}

    def _update(self, chosen: Tensor, positions: Tensor, moments: GradientMoments) -> Tensor:
        paths = self.paths.sample_paths(self.rng)
        # The whole batch is made, so that augmentation draws the same for every worker.
        x, y = (self.workers.part(t) for t in self.data.batch(chosen.to(self.data.mean.device)))
        mine, where = self.workers.part(chosen), self.workers.part(positions)
        weights = self.examples.weights(mine) if self.reweight else None
        if weights is not None:
            weights = weights.to(x.device)
        self.optimiser.zero_grad(set_to_none=True)  # what a path does not use has no gradient, and no old one
        logits, loss = self._backward(paths, x, y, weights, len(mine) / len(chosen))
        self.workers.add_gradients([p.grad for p in self.parameters if p.grad is not None])
        moments.add()
        if not self.inner:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if len(paths) == 1:
            self.paths.after_backward(paths[0])
            self.examples.record(where, mine, logit_gradient_norm(logits, y))
        self.optimiser.step()
        return loss

    def _sum(
        self, paths: Sequence[Architecture], x: Tensor, y: Tensor, weights: Tensor | None, share: float
    ) -> tuple[Tensor, Tensor]:
        """Logits of the last path and mean loss; the gradients of the summed losses are left in place."""
        losses = []
        for path in paths:
            logits = self.net(x, path)
            each = F.cross_entropy(logits, y, reduction="none")
            loss = (each if weights is None else weights * each).mean()
            factor = share * (self.paths.weight(path) if self.reweight else 1.0)
            (loss * factor).backward()
            losses.append(each.detach().mean())
        return logits, torch.stack(losses).mean()

    def _distil(
        self, paths: Sequence[Architecture], x: Tensor, y: Tensor, weights: Tensor | None, share: float
    ) -> tuple[Tensor, Tensor]:
        teacher = self.net(x, paths[0])
        loss = F.cross_entropy(teacher, y)
        (loss * share).backward()
        target = teacher.detach().softmax(1)
        for path in paths[1:]:
            (F.cross_entropy(self.net(x, path), target) * share).backward()
        return teacher, loss.detach()

    def _reptile(
        self, paths: Sequence[Architecture], x: Tensor, y: Tensor, weights: Tensor | None, share: float
    ) -> tuple[Tensor, Tensor]:
        before = [p.detach().clone() for p in self.parameters]
        ways = [torch.zeros_like(p) for p in before]
        losses = []
        for path in paths:
            inner = torch.optim.SGD(self.parameters, lr=self.inner_lr, momentum=0.9)
            for _ in range(INNER_STEPS):
                logits = self.net(x, path)
                loss = F.cross_entropy(logits, y)
                inner.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters, self.clip)
                inner.step()
                losses.append(loss.detach())
            with torch.no_grad():
                for way, p, start in zip(ways, self.parameters, before, strict=True):
                    way.add_(start - p, alpha=share / len(paths))
                    p.copy_(start)
        for p, way in zip(self.parameters, ways, strict=True):
            p.grad = way
        return logits, torch.stack(losses).mean()
