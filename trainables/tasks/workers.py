"""Several processes that train one network together: what they exchange, and nothing about who started them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fairsweep.search_spaces.normalisation import OwnBatchNorm, Pair

LEAST = 2  # examples of a batch for each worker
Batch = TypeVar("Batch", Tensor, tuple[Tensor, ...])
_alone = False  # see `by_itself`
_sharing: ProcessGroup | None = None  # whose batch is being trained on, part by part


def examples_of(batch: Tensor | tuple[Tensor, ...]) -> int:
    """How many examples a batch has."""
    return len(batch if isinstance(batch, Tensor) else batch[0])


class Workers:
    """One process alone: there is nobody to exchange anything with."""

    rank = 0
    size = 1
    share = 1.0  # of the batch of now that this process answers for
    copies = 1  # processes that have each of its examples

    def begin(self, seed: int, step: int) -> None:
        """Says which unit of training comes next: the trial's seed and the units before it."""

    def shared(
        self, batches: Iterable[Batch], targets: Callable[[Batch], int] = examples_of
    ) -> Iterator[Batch]:
        """Of each batch what this process trains on, until the next is asked for.

        targets: how many losses the batch's loss is the mean of. The batches must be the same for all workers.
        """
        yield from batches

    def backward(self, loss: Tensor, parameters: Iterable[Tensor]) -> None:
        """Leaves the gradient of the whole batch's loss in `parameters`; loss: of this process's part of it."""
        loss.backward()

    def gradients(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The gradient of the whole batch's loss, 0 for what it does not depend on; the graph is kept."""
        found = torch.autograd.grad(loss * self.share, parameters, retain_graph=True, allow_unused=True)
        made = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        self.add_gradients(made)
        return made

    def statistics(self) -> AbstractContextManager[Any]:
        """Within it batch normalisation of what is shared takes the statistics of the whole batch."""
        return nullcontext()

    def totals(self, *values: float) -> list[float]:
        """Each value added up over all workers, in double precision."""
        return list(values)

    def part(self, chosen: Tensor) -> Tensor:
        """This worker's part of a batch along its first dimension; the parts follow each other by rank."""
        return chosen.tensor_split(self.size)[self.rank]

    def add_gradients(self, tensors: Iterable[Tensor]) -> None:
        """Adds the gradients of all workers up, in place; every worker gives the same list of shapes."""

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all workers, one after the other by rank along the first dimension, on the CPU."""
        return tensor.cpu()

    def from_first(self, tensor: Tensor) -> Tensor:
        """The first worker's tensor, so that rounding cannot part the workers' ways."""
        return tensor

    def agree(self, tensors: Mapping[str, Tensor]) -> None:
        """Makes them the first worker's, in place: machines of two kinds may have made other numbers of one seed."""

    @contextmanager
    def own_draws(self, device: str | torch.device) -> Iterator[None]:
        """Within it PyTorch's global generators (CPU and `device`) are each worker's own; afterwards all agree again.

        For what is drawn for each example, such as dropout: parts of different sizes draw different amounts.
        """
        yield


class ProcessGroup(Workers):
    """The workers of PyTorch's default process group, as `torchrun` or a training service has set it up."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device
        self.begin(0, 0)

    def begin(self, seed: int, step: int) -> None:
        self._seed, self._batches = (seed, step), 0

    def shared(
        self, batches: Iterable[Batch], targets: Callable[[Batch], int] = examples_of
    ) -> Iterator[Batch]:
        """A batch with fewer than two examples for each worker, or with a part that has no target, is trained on whole
        by every one of them: none of it is left out, and the sum is that of one process.

        What is drawn meanwhile (dropout) each worker draws for itself, by a seed that no other draw depends on.
        """
        global _sharing
        for batch in batches:
            parts = self._parts(batch)
            counts = [targets(part) for part in parts]
            whole = examples_of(batch) < LEAST * self.size or not min(counts)
            self.copies = self.size if whole else 1
            self.share = 1 / self.size if whole else counts[self.rank] / sum(counts)
            _sharing = None if whole else self
            try:
                with self._seeded():
                    yield batch if whole else parts[self.rank]
            finally:
                self.share, self.copies, _sharing = 1.0, 1, None

    def _parts(self, batch: Batch) -> list[Batch]:
        if isinstance(batch, Tensor):
            return list(batch.tensor_split(self.size))
        columns = [tensor.tensor_split(self.size) for tensor in batch]
        return list(zip(*columns, strict=True))

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        self._batches += 1
        words = np.random.SeedSequence([*self._seed, self._batches, self.rank]).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=_cuda(self.device)):
            torch.manual_seed(int(words[0]) >> 1)
            yield

    def backward(self, loss: Tensor, parameters: Iterable[Tensor]) -> None:
        (loss * self.share).backward()
        self.add_gradients([p.grad for p in parameters if p.grad is not None])

    def statistics(self) -> AbstractContextManager[Any]:
        return _WholeBatches()

    def totals(self, *values: float) -> list[float]:
        device = self.device if dist.get_backend() == "nccl" else "cpu"
        found = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(found)
        return found.tolist()

    def add_gradients(self, tensors: Iterable[Tensor]) -> None:
        given = list(tensors)
        if given:
            flat = torch.cat([t.flatten() for t in given])
            dist.all_reduce(flat)
            for tensor, total in zip(given, flat.split([t.numel() for t in given]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        found: list[Tensor] = [torch.empty(0)] * self.size
        dist.all_gather_object(found, tensor.cpu())
        return torch.cat(found)

    def from_first(self, tensor: Tensor) -> Tensor:
        first = tensor.clone()
        dist.broadcast(first, 0)
        return first

    def agree(self, tensors: Mapping[str, Tensor]) -> None:
        for tensor in tensors.values():
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, 0)
            tensor.copy_(whole)

    @contextmanager
    def own_draws(self, device: str | torch.device) -> Iterator[None]:
        seed = int(torch.randint(2**62, ()))  # the same on all, as long as they agree
        with torch.random.fork_rng(devices=_cuda(device)):
            torch.manual_seed(seed + self.rank)
            yield


def _cuda(device: str | torch.device) -> list[str | torch.device]:
    return [device] if torch.device(device).type == "cuda" else []


# ---- what depends on all examples of a batch ----


class _Sum(torch.autograd.Function):
    """The sum of all workers' tensors. Each worker's loss depends on every one of them: gradients are added, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


def batch_sum(part: Tensor) -> Tensor:
    """What sums over this worker's part of a batch come to over the whole batch; differentiable."""
    return part if _sharing is None else _Sum.apply(part)


def batch_moments(x: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor, int]:
    """Mean and variance (about that mean, over all) of the whole batch's x over `dims`, of which x is this worker's
    part, and of how many numbers each is; differentiable. The other dimensions stay, those of `dims` become 1."""
    variance, mean = torch.var_mean(x, list(dims), correction=0, keepdim=True)
    count = x.numel() // mean.numel()
    if _sharing is None:
        return mean, variance, count
    # A row of a zero matrix for each worker: their sum has every worker's numbers, to the bit.
    row = torch.cat([mean.new_tensor([count]), mean.flatten(), variance.flatten()])
    before, after = _sharing.rank, _sharing.size - _sharing.rank - 1
    rows = _Sum.apply(F.pad(row[None], (0, 0, before, after)))
    counts, means, variances = rows.split([1, mean.numel(), mean.numel()], 1)
    total = int(counts.sum())
    shares = counts.detach() / total
    whole = (shares * means).sum(0)
    spread = (shares * (variances + (means - whole).square())).sum(0)
    return whole.view_as(mean), spread.view_as(mean), total


class _WholeBatches(OwnBatchNorm):
    """Has batch normalisation see the whole batch.

    `nn.SyncBatchNorm` (2.13) does so on GPUs alone, and would have to take the place of each layer.
    """

    def normalised(self, x: Tensor, running: Pair, affine: Pair, momentum: float, eps: float) -> Tensor:
        if _sharing is None:
            return F.batch_norm(x, *running, *affine, True, momentum, eps)
        (mean, variance), (weight, bias) = running, affine
        center, spread, count = batch_moments(x, [0, *range(2, x.dim())])
        if mean is not None and variance is not None:
            with torch.no_grad():
                mean.lerp_(center.flatten(), momentum)
                variance.lerp_(spread.flatten() * (count / max(count - 1, 1)), momentum)
        scale = (spread + eps).rsqrt()
        if weight is not None:
            scale = scale * weight.view_as(scale)
        out = (x - center) * scale
        return out if bias is None else out + bias.view_as(scale)


def workers(device: str | torch.device = "cpu") -> Workers:
    """The process group of this process, or the process alone if it belongs to none. device: of its network."""
    grouped = not _alone and dist.is_available() and dist.is_initialized()
    return ProcessGroup(device) if grouped else Workers()


@contextmanager
def by_itself() -> Iterator[None]:
    """What begins within it is done by this process alone, though others may be at hand: they do not do it, too."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before
