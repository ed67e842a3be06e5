"""Every operator on channels that stand on each axis: what the partition lets go is exact, or stays with a reason."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import TraceError, partition, slice_module
from tests.search_spaces.pruning.helpers import zeroed
from tests.search_spaces.pruning.operators import OPERATORS, Operator

torch.set_num_threads(1)
ORDERS = {"as they are": (0, 1, 2, 3), "on the third axis": (0, 2, 1, 3), "on the last": (0, 3, 2, 1)}


class Between(nn.Module):
    """A convolution, an operator on its maps with the axes in this order, a layer along every axis but the first."""

    def __init__(self, operator: Operator, order: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.operator, self.order = nn.Conv2d(3, 8, 3, padding=1), operator, order
        with torch.no_grad():
            shape = self._middle(torch.randn(2, 3, 6, 6)).shape
        self.last = nn.ModuleList(nn.Linear(n, 2, bias=False) for n in shape[1:])

    def _middle(self, x: Tensor) -> Tensor:
        return self.operator(self.first(x).permute(self.order)).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = self._middle(x)
        # Each axis in turn is read by a layer, so that what is cut must be zero there; along the others it is summed.
        parts = [layer(y.movedim(d, -1)) for d, layer in enumerate(self.last, 1)]
        return torch.stack([p.sum(tuple(range(1, p.dim() - 1))) if p.dim() > 2 else p for p in parts])


def verdict(operator: Operator, order: tuple[int, ...]) -> str:
    """exact, whole (nothing of the first layer can go) or wrong, with how far off."""
    torch.manual_seed(0)
    net, x = Between(operator, order).eval(), torch.randn(2, 3, 6, 6)
    try:
        found = partition(net, x)
    except TraceError as error:
        return f"whole: {error}"
    own = [c for c in found.components if any(m.parameter == "first.weight" for m in c.members)]
    if not any(c.prunable for c in own):
        return "whole" if all(c.reason for c in own) else "wrong: no reason"
    for seed in range(3):
        full, _ = zeroed(net, found, seed)
        with torch.no_grad():
            torch.manual_seed(0)
            a = full(x)
            torch.manual_seed(0)
            try:
                b = slice_module(full, found, form="graph", check=False)(x)
            except Exception as error:
                return f"wrong: {str(error).splitlines()[0]}"
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True):
            return f"wrong: off by {float(np.max(np.abs((a - b).numpy()))):.3g}"
    return "exact"


@pytest.mark.parametrize(
    "name", ["tril", "maximum with its rows", "unfold", "item of rows", "slice from behind", "expand"]
)
def test_operators_that_go_by_positions(name: str) -> None:
    """Those that were once taken for others."""
    found = [verdict(OPERATORS[name], order) for order in ORDERS.values()]
    assert set(found) <= {"exact", "whole"} and "exact" in found


@pytest.mark.slow
def test_no_operator_is_taken_for_what_it_is_not() -> None:
    found = {
        (name, where): verdict(operator, order)
        for name, operator in OPERATORS.items()
        for where, order in ORDERS.items()
        if not (name == "pixel_shuffle" and where != "as they are")
    }
    wrong = {k: v for k, v in found.items() if v.startswith("wrong")}
    counts = Counter(v.split(":")[0] for v in found.values())
    print(dict(counts))
    assert not wrong
    assert counts["exact"] >= 380
