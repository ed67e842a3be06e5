"""Several processes that train one network together: what they exchange, and nothing about who started them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


class Workers:
    """One process alone: there is nobody to exchange anything with."""

    rank = 0
    size = 1

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

    @contextmanager
    def own_draws(self, device: str | torch.device) -> Iterator[None]:
        """Within it PyTorch's global generators (CPU and `device`) are each worker's own; afterwards all agree again.

        For what is drawn for each example, such as dropout: parts of different sizes draw different amounts.
        """
        yield


class ProcessGroup(Workers):
    """The workers of PyTorch's default process group, as `torchrun` or a training service has set it up."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

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

    @contextmanager
    def own_draws(self, device: str | torch.device) -> Iterator[None]:
        seed = int(torch.randint(2**62, ()))  # the same on all, as long as they agree
        with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
            torch.manual_seed(seed + self.rank)
            yield


def workers() -> Workers:
    """The process group of this process, or the process alone if it belongs to none."""
    return ProcessGroup() if dist.is_available() and dist.is_initialized() else Workers()
