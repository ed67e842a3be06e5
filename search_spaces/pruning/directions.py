"""The direction against which an optimiser of PyTorch moves a variable: x <- x - lr v, with what is in its state.

OTOv2 calls v the gradient variant: the momentum of SGD, the preconditioned first moment of Adam. The decoupled weight
decay of AdamW is no part of v.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer


def check_base(optimiser: Optimizer) -> None:
    """ValueError if `optimiser` is none whose direction is known, or maximises."""
    if not isinstance(optimiser, SGD | Adam | AdamW):
        raise ValueError(f"base={type(optimiser).__name__}: must be torch.optim.SGD, Adam or AdamW")
    if any(group.get("maximize") for group in optimiser.param_groups):
        raise ValueError("base: maximize=True, must be False; negate the loss instead")


def direction(
    optimiser: Optimizer,
    group: Mapping[str, Any],
    parameter: Tensor,
    before: Tensor,
    pick: Callable[[Tensor], Tensor],
) -> Tensor:
    """v of the step that `optimiser` has just made, for the entries of `parameter` that `pick` takes.

    group: the parameter group of `parameter`. before: those entries as they were before the step. Zero where there
    is no gradient. `pick` is applied to the gradient and to the buffers, which have the shape of the parameter.
    """
    if parameter.grad is None:
        return torch.zeros_like(before)
    state = optimiser.state[parameter]
    if isinstance(optimiser, SGD):
        if not group["momentum"]:
            return pick(parameter.grad) + group["weight_decay"] * before
        momentum = pick(state["momentum_buffer"])
        if not group["nesterov"]:
            return momentum
        return pick(parameter.grad) + group["weight_decay"] * before + group["momentum"] * momentum
    beta1, beta2 = group["betas"]
    steps = float(state["step"])
    second = pick(state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"])
    scale = second.sqrt() / math.sqrt(1 - beta2**steps) + group["eps"]
    return pick(state["exp_avg"]) / (1 - beta1**steps) / scale
