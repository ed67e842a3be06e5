"""Copies of modules, with other tensors in place of theirs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

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
