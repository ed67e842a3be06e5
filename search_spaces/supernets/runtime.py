"""The differentiable runtime of Single-Path NAS (Stamoulis et al., 2019, section 3.3): a table of costs, and gates."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.mbconv import BLOCKS, MBConvSpace
from fairsweep.search_spaces.costs import CostTable


class Gates(Protocol):
    """Three scalars of a block: kernel 5, at least expansion 3, expansion 6."""

    @property
    def k5(self) -> Tensor: ...
    @property
    def e3(self) -> Tensor: ...
    @property
    def e6(self) -> Tensor: ...


class RuntimeModel(nn.Module):
    """Cost of a network over `space` as the sum of its blocks' and a fixed rest.

    fixed: cost of everything but the searched blocks. layers: (blocks, 4), the costs of k3_e3, k3_e6, k5_e3 and k5_e6;
    a skipped block costs nothing. Any unit; double precision. A module only in that it keeps and moves its table.
    """

    fixed: Tensor
    layers: Tensor

    def __init__(self, space: MBConvSpace, fixed: float, layers: Sequence[Sequence[float]]) -> None:
        super().__init__()
        if len(layers) != len(space.choices) or any(len(row) != len(BLOCKS) for row in layers):
            raise ValueError(
                f"layers: must be {len(BLOCKS)} costs ({', '.join(BLOCKS)}) for each of {len(space.choices)} blocks"
            )
        for choice, row in zip(space.choices, layers, strict=True):
            for option, cost in zip(BLOCKS, row, strict=True):
                if not (cost > 0 and math.isfinite(cost)):
                    raise ValueError(f"{choice.name}={option}: cost {cost} must be positive")
        if not (fixed >= 0 and math.isfinite(fixed)):
            raise ValueError(f"fixed={fixed}: must be at least 0")
        self.space = space
        self.register_buffer("fixed", torch.tensor(float(fixed), dtype=torch.float64))
        self.register_buffer("layers", torch.tensor([list(row) for row in layers], dtype=torch.float64))

    @classmethod
    def from_table(cls, space: MBConvSpace, table: CostTable) -> RuntimeModel:
        """The costs of a supernet's operators, of whatever kind."""
        found: defaultdict[tuple[tuple[str, str], ...], float] = defaultdict(float)
        for entry in table.entries:
            found[entry.when] += entry.value
        return cls(space, table.constant, [[found[((c.name, o),)] for o in BLOCKS] for c in space.choices])

    @classmethod
    def from_json(cls, space: MBConvSpace, path: Path) -> RuntimeModel:
        """From a file in the paper's layout: {"fixed": 19.6, "1": {"0": ms of k3_e3, ..., "3": of k5_e6}, ...}.

        Blocks are taken in the order of their numbers. Where the file has two more than the space, as the paper's,
        its first and last are blocks that are not searched, which `fixed` then includes. ValueError says what is wrong.
        """
        if not path.is_file():
            raise ValueError(f"cost=table: {path} is missing")
        try:
            read: Any = json.loads(path.read_text())
            fixed = float(read.pop("fixed"))
            rows = [[float(read[k][str(o)]) for o in range(len(BLOCKS))] for k in sorted(read, key=int)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'cost=table: {path} must be {{"fixed": cost, "<block>": {{"0": cost, ..., "3": cost}}}} ({error!r})'
            ) from None
        if len(rows) == len(space.choices) + 2:
            rows = rows[1:-1]
        return cls(space, fixed, rows)

    def of_gates(self, gates: Sequence[Gates]) -> Tensor:
        """R of the gates, a scalar. Exact for k3_e6, k5_e3, k5_e6 and skip; k3_e3 is taken in proportion.

        R_e = e3 (P_5,3 + e6 (P_5,6 - P_5,3)), R_l = rho R_e + (1 - rho) R_e k5, rho = P_3,6 / P_5,6.
        """
        total = self.fixed
        for (_, p36, p53, p56), gate in zip(self.layers, gates, strict=True):
            channels = gate.e3 * (p53 + gate.e6 * (p56 - p53))
            rho = p36 / p56
            total = total + rho * channels + (1 - rho) * channels * gate.k5
        return total

    def of_probabilities(self, probabilities: Sequence[Tensor]) -> Tensor:
        """Expected cost where the options of a block have these probabilities, each (4,) or with skip (5,)."""
        pairs = zip(self.layers, probabilities, strict=True)
        return self.fixed + torch.stack([(row * p[: len(BLOCKS)]).sum() for row, p in pairs]).sum()

    def bounds(self) -> tuple[float, float]:
        """Costs of the cheapest and of the costliest architecture."""
        of_blocks = [
            [0.0 if o == "skip" else row[BLOCKS.index(o)] for o in choice.options]
            for choice, row in zip(self.space.choices, self.layers.tolist(), strict=True)
        ]
        fixed = float(self.fixed)
        return fixed + sum(map(min, of_blocks)), fixed + sum(map(max, of_blocks))

    def of_path(self, path: Architecture) -> float:
        """Cost of an architecture, every entry as the table has it."""
        self.space.check(path)
        options = self.space.options(path).values()
        rows = zip(self.layers.tolist(), options, strict=True)
        return float(self.fixed) + sum(row[BLOCKS.index(o)] for row, o in rows if o != "skip")
