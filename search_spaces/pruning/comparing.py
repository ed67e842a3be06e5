"""Whether two tensors, or two answers of networks, are the same but for rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

STRICT = {torch.float64: 1e-9, torch.float32: 1e-5}  # of a tensor's own scale: what passes at once
LOOSE = 0.6  # where nothing can be computed in double precision: the type's epsilon to this power, 7e-5 for float32
VARIES = 1e-4  # of its scale: what differs less within a tensor is one number

Tolerance = Callable[[torch.dtype], float]


def strict(dtype: torch.dtype) -> float:
    """What two tensors that are equal but for rounding may differ by; 0 for types too short to tell."""
    return STRICT.get(dtype, 0.0)


def loose(dtype: torch.dtype) -> float:
    """The same for those that cannot be computed in double precision."""
    return float(torch.finfo(dtype).eps) ** LOOSE


OFF = " (numbers)"


def unequal(a: Any, b: Any, tolerance: Tolerance = strict) -> str:
    """Why two leaves of outputs are not the same, or an empty text; ends with OFF if only numbers differ.

    Entries may differ by `tolerance` of their scale, which is theirs, or the median of all that differ.
    """
    if isinstance(a, float) and isinstance(b, float):
        a, b = torch.tensor(a, dtype=torch.double), torch.tensor(b, dtype=torch.double)
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        same = type(a) is type(b) and (a == b or not (a is None or _plain(a)))
        return "" if same else f"is {b!r:.40} in place of {a!r:.40}"
    a, b = a.detach(), b.detach()
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"is {_form(b)} in place of {_form(a)}"
    if not a.numel() or torch.equal(a, b):
        return ""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if a.is_floating_point() and _near(a, b, tolerance(a.dtype)):
        return ""
    if not a.is_floating_point():
        return f"differs in {int((a != b).sum())} of {a.numel()} entries{OFF}"
    limit, finite = tolerance(a.dtype), a.isfinite()
    if not torch.equal(a.nan_to_num(nan=0.0)[~finite], b.nan_to_num(nan=0.0)[~finite]) or not torch.equal(
        finite, b.isfinite()
    ):
        return f"is finite where it was not, or the other way{OFF}"
    a, b = a[finite].double(), b[finite].double()
    other = a != b  # what both hold alike, as -1e9 behind a mask, says nothing of the scale of what differs
    a, b = a[other], b[other]
    if not a.numel():
        return ""
    size = a.abs()
    share = float(((a - b).abs() / torch.maximum(size, size.median())).nan_to_num(nan=0.0).max())
    return "" if share <= limit else f"is off by {share:.1e} of its scale{OFF}"


def _near(a: Tensor, b: Tensor, limit: float) -> bool:
    """Whether they are equal by the scale of a part of them, which tells at once what most tensors are."""
    off = (a - b).abs()
    largest = float(off.amax())  # not a number if anything in them is not finite
    step = max(1, a.numel() // 2048)
    size = a.reshape(-1)[::step].abs()[off.reshape(-1)[::step] > 0]
    return size.numel() > 0 and isfinite(largest) and largest <= limit * float(size.median())


def every(value: Tensor, steps: Sequence[int]) -> Tensor:
    """Every how many positions of each dimension."""
    if len(steps) != value.dim():
        return value
    return value[tuple(slice(None, None, step) for step in steps)]


def is_evidence(value: Any) -> bool:
    """Whether finite numbers in a tensor differ from each other."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    finite = value[value.isfinite()]
    if finite.numel() < 2:
        return False
    low, high = finite.aminmax()
    return float(high - low) > VARIES * float(torch.maximum(high.abs(), low.abs()))


def _form(value: Tensor) -> str:
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def leaves(output: Any) -> Iterator[Any]:
    """All tensors and plain values in nested containers: tuples, mappings, dataclasses, those that PyTorch knows."""
    if isinstance(output, Tensor) or output is None or _plain(output):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from leaves(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from leaves(value)
    elif dataclasses.is_dataclass(output):
        for entry in dataclasses.fields(output):
            yield from leaves(getattr(output, entry.name, None))
    else:
        flat = pytree.tree_leaves(output)
        if len(flat) == 1 and flat[0] is output:
            yield output
        else:
            for value in flat:
                yield from leaves(value)


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | complex | str | bytes)


def text_of(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
