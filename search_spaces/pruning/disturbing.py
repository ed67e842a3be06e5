"""What a network is tried on: a copy with other parameters, and inputs made of an example."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fairsweep.search_spaces.pruning.copies import copied

NOISE = 0.1  # what parameters are moved by; those of more than SMALL numbers only if they are all the same
SMALL = 2**16

Zero = Callable[[Mapping[str, Tensor], Collection[str]], None]
Dims = Callable[[int], range]  # rank of an input -> some of its dimensions


def disturbed(module: nn.Module, noise: float, zero: Zero | None) -> nn.Module:
    """A copy in eval mode; parameters that could hide others are moved, large ones in use are those of `module`."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(SMALL + 1, generator=generator)
    memo: dict[int, Any] = {}
    for _, p in module.named_parameters():
        value = p.detach()
        if noise and value.is_floating_point() and value.numel() and (value.numel() <= SMALL or _flat(value)):
            value = _moved(value, noise, table.roll(len(memo)))
        memo[id(p)] = nn.Parameter(value, requires_grad=False)
    for _, b in module.named_buffers():
        memo[id(b)] = b.detach().clone()
    trial = copied(module, memo).eval()
    if zero is not None:
        theirs, values = dict(module.named_parameters()), dict(trial.named_parameters())
        shared = {name for name, p in values.items() if p.data_ptr() == theirs[name].data_ptr()}
        zero(_Own(values, shared), values.keys() - shared)
    return trial


class _Own(dict[str, Tensor]):
    """Parameters by name; those that are still another network's become copies as soon as they are asked for."""

    def __init__(self, values: Mapping[str, Tensor], shared: set[str]) -> None:
        super().__init__(values)
        self.shared = shared

    def __getitem__(self, name: str) -> Tensor:
        value = super().__getitem__(name)
        if name in self.shared:
            self.shared.discard(name)
            value.data = value.data.clone()
        return value


def _flat(value: Tensor) -> bool:
    """Whether a large tensor holds one number, or next to nothing, judged by a part of it."""
    part = value.reshape(-1)[:: max(1, value.numel() // 4096)]
    low, high = part.aminmax()
    return bool(low == high) or bool(max(abs(low), abs(high)) < 1e-4)


def _moved(value: Tensor, noise: float, table: Tensor) -> Tensor:
    """Another tensor, `noise` away; what was positive everywhere stays so."""
    result = value.clone(memory_format=torch.contiguous_format)
    flat, table = result.view(-1), (noise * table).to(value)
    rows = len(flat) // len(table)
    flat[: rows * len(table)].view(rows, len(table)).add_(table)
    flat[rows * len(table) :].add_(table[: len(flat) - rows * len(table)])
    return result.abs_() if bool((value > 0).all()) else result


def varied(inputs: Sequence[Any], batch: int | None, rows: int | None, draw: bool = False) -> tuple[Any, ...]:
    """The example with `rows` in place of `batch`. Numbers that are all the same say too little: they are drawn.

    draw: those with a fraction always.
    """
    generator = torch.Generator().manual_seed(1)

    def vary(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel():
            return value
        if batch is not None and rows is not None and value.dim() and len(value) == batch:
            value = value[torch.arange(rows, device=value.device) % batch]
        if value.dtype == torch.bool or value.is_complex():
            return value
        alike = value.dim() > 0 and bool((value == value.flatten()[0]).all())
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator).to(value) if alike or draw else value
        if alike and (value.dtype == torch.uint8 or not value.any()):  # pixels; numbers of tokens
            high = 256 if value.dtype == torch.uint8 else 2
            return torch.randint(0, high, value.shape, generator=generator).to(value)
        return value

    return tuple(pytree.tree_map(vary, tuple(inputs)))


def sides(rank: int) -> range:
    """Dimensions of a batch of this rank that follow positions: of a sequence (batch, length, width), or an image."""
    return range(2, rank) if rank > 3 else range(1, min(rank, 2))


def lengths(rank: int) -> range:
    """The same where channels come first, as in (batch, channels, length)."""
    return range(2, rank)


def longer(inputs: tuple[Any, ...], batch: int | None, dims: Dims = sides) -> tuple[Any, ...]:
    """The example with what follows the batch twice as long: positions of sequences, sides of images."""

    def extend(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2 or (batch is not None and len(value) != batch):
            return value
        for dim in dims(value.dim()):
            value = torch.cat([value, value.flip(dim)], dim)
        return value

    return tuple(pytree.tree_map(extend, inputs))
