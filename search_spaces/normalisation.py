"""From statistics of the batch to running statistics: what an extracted network needs to be deployed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.overrides import TorchFunctionMode

Pair = tuple[Tensor | None, Tensor | None]


def normalisation(module: nn.Module) -> str:
    """How the module normalises: "running", "batch", or "none" if it has no batch normalisation.

    ValueError if some layers do it one way and some the other.
    """
    found = {m.running_mean is not None for m in module.modules() if isinstance(m, _BatchNorm)}
    if len(found) == 2:
        raise ValueError("some layers have running statistics and some have not: recalibrate the module")
    return "none" if not found else "running" if found.pop() else "batch"


def keep_running_statistics(module: nn.Module) -> None:
    """Gives every batch normalisation of `module` running statistics, mean 0 and variance 1 to begin with."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    for m in module.modules():
        if isinstance(m, _BatchNorm) and m.running_mean is None:
            m.track_running_stats = True
            m.running_mean = torch.zeros(m.num_features, device=device)
            m.running_var = torch.ones(m.num_features, device=device)
            m.num_batches_tracked = torch.zeros((), dtype=torch.long, device=device)


def recalibrate(module: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """A copy of `module`, in evaluation mode, that normalises by running statistics measured over `batches`.

    batches: inputs, or tuples that begin with them; every batch counts alike, so they should be of one size. The
    statistics are the means over the batches of their means and unbiased variances, each layer seeing what it sees
    in the path: input that the layers before normalised by its batch. ValueError if there is no batch.
    """
    copied = copy.deepcopy(module)
    keep_running_statistics(copied)
    seen = 0

    def counted() -> Iterator[Tensor]:
        nonlocal seen
        for batch in batches:
            seen += 1
            yield batch[0] if isinstance(batch, (list, tuple)) else batch

    update_bn(counted(), copied)
    if normalisation(copied) != "none" and not seen:
        raise ValueError("batches: there is none; at least one is needed to measure statistics")
    return copied.eval()


class OwnBatchNorm(TorchFunctionMode):
    """Within it, `normalised` is what normalises by batch: all of PyTorch's layers that do call `F.batch_norm`.

    What normalises by running statistics is left as it is.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (self._batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, mean, variance, weight, bias, False, momentum, eps)
        return self.normalised(x, (mean, variance), (weight, bias), momentum, eps)

    def normalised(self, x: Tensor, running: Pair, affine: Pair, momentum: float, eps: float) -> Tensor:
        """x (n, c, ...), normalised by its batch.

        running: mean and variance, to be brought up to date. affine: weight and bias.
        """
        raise NotImplementedError


class StatisticsOf(OwnBatchNorm):
    """Within it, all that normalises by batch takes its statistics from the first `count` examples of the batch.

    These are normalised as if the others were not there, and the others as `recalibrate` would have it, given the
    first ones as its only batch. So a supernet's path is recalibrated while it runs, and no weight is written to.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def normalised(self, x: Tensor, running: Pair, affine: Pair, momentum: float, eps: float) -> Tensor:
        running = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])  # momentum 1 replaces them
        measured = F.batch_norm(x[: self.count], *running, *affine, True, 1.0, eps)
        others = F.batch_norm(x[self.count :], *running, *affine, False, eps=eps)
        return torch.cat([measured, others])
