"""What a training step holds in memory, counted on the tensors themselves, so alike on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def tensors(found: Any) -> Iterator[Tensor]:
    """The dense tensors among `found`, which may be lists and tuples of them, also within each other."""
    if isinstance(found, list | tuple):
        for each in found:
            yield from tensors(each)
    elif isinstance(found, Tensor) and found.layout == torch.strided:
        yield found


@contextmanager
def kept_for_backward(beside: Iterable[Tensor]) -> Iterator[Callable[..., int]]:
    """Counts what autograd keeps of what is computed within; the function that it yields says how many bytes,
    together with those of the tensors that it is given.

    Each storage counts once, however many tensors share it; those of `beside`, such as the weights, do not count, nor
    do sparse matrices that a function of our own holds.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in beside}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        for each in tensors(tensor):
            storage = each.untyped_storage()
            if storage.data_ptr() not in known:
                sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def count(also: Iterable[Tensor] = ()) -> int:
        for tensor in also:
            pack(tensor)
        return sum(sizes.values())

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield count
