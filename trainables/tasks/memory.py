"""What a training step holds in memory, counted on the tensors themselves, so alike on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def kept_for_backward(beside: Iterable[Tensor]) -> Iterator[Callable[[], int]]:
    """Counts what autograd keeps of what is computed within; the function that it yields says how many bytes.

    Each storage counts once, however many tensors share it; those of `beside`, such as the weights, do not count, nor
    do sparse matrices that a function of our own holds.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in beside}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(sizes.values())
