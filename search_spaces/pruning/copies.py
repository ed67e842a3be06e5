"""Copies of modules, with other tensors in place of theirs, and modules that stay as they are."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def copied(module: nn.Module, tensors: Mapping[int, Tensor]) -> nn.Module:
    """A deep copy of `module`. tensors: the id of a tensor of it -> the one that stands for it in the copy.

    Tensors that are kept in attributes with a history of gradients are copied without it; an object that cannot be
    copied, as a lock, is shared.
    """
    try:
        return copy.deepcopy(module, dict(tensors))
    except Exception:  # whatever an object raises that cannot be copied
        memo: dict[int, Any] = dict(tensors)
        for part in module.modules():
            for value in vars(part).values():
                _prepare(value, memo)
        return copy.deepcopy(module, memo)


def _prepare(value: Any, memo: dict[int, Any]) -> None:
    """Decides in `memo` what stands for the parts of an attribute of which there is no deep copy."""
    if id(value) in memo or isinstance(value, nn.Module):
        return
    if isinstance(value, Tensor):
        if value.requires_grad and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, dict | list | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            _prepare(entry, memo)
    else:
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:
            memo[id(value)] = value


@contextlib.contextmanager
def unchanged(module: nn.Module, but: Collection[nn.Module] = ()) -> Iterator[None]:
    """Attributes and buffers, as of a counter of calls, are afterwards what they were; not those of `but`."""
    parts = [m for m in module.modules() if m not in but]
    before = [(vars(m).copy(), m._buffers.copy()) for m in parts]
    values = {id(b): (b, b.detach().clone()) for _, found in before for b in found.values() if b is not None}
    try:
        yield
    finally:
        for part, (attributes, buffers) in zip(parts, before, strict=True):
            vars(part).clear()
            vars(part).update(attributes)
            part._buffers.clear()
            part._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in values.values():
                buffer.copy_(value)
