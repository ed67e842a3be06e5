"""The multi-branch relaxation of the same space: every option a branch with weights of its own, mixed by a softmax.

DARTS (Liu, Simonyan and Yang, ICLR 2019, arXiv:1806.09055, equation 2) in the place of superkernels, with the expected
cost of FBNet and ProxylessNAS; what Single-Path NAS is compared with.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.supernets.mbconv import DEAD
from fairsweep.search_spaces.supernets.mbconv_network import MBConvNetwork
from fairsweep.search_spaces.supernets.runtime import RuntimeModel


class BranchSupernet(MBConvNetwork):
    """A branch an option, and logits `alphas` over the options of each block. Sizes as `MBConvSupernet`."""

    kind: ClassVar[str] = "mbconv_branches"

    def __init__(self, *args: Any, **sizes: Any) -> None:
        super().__init__(*args, **sizes)
        self.branches = nn.ModuleList(
            nn.ModuleDict({option: self.block(k, option, self.norm) for option in choice.options})
            for k, choice in enumerate(self.space.choices)
        )
        self.alphas = nn.ParameterList(torch.zeros(len(c.options)) for c in self.space.choices)

    def _branches(self, number: int) -> dict[str, nn.Module]:
        branches: Any = self.branches[number]
        return dict(branches.items())

    # -- paths ----------------------------------------------------------------------------------------

    def run_block(self, number: int, x: Tensor, option: str) -> Tensor:
        return self._branches(number)[option](x)

    def extract_block(self, number: int, option: str) -> nn.Module:
        return copy.deepcopy(self._branches(number)[option])

    def option_parameters(self, choice: str, option: str) -> tuple[str, ...]:
        return self._option_names[choice, option]

    @cached_property
    def _option_names(self) -> dict[tuple[str, str], tuple[str, ...]]:
        return {
            (choice.name, option): tuple(
                f"branches.{k}.{option}.{name}" for name, _ in self._branches(k)[option].named_parameters()
            )
            for k, choice in enumerate(self.space.choices)
            for option in choice.options
        }

    def path_parameters(self, path: Architecture) -> Sequence[str]:
        return [name for name in super().path_parameters(path) if not name.startswith("alphas.")]

    # -- the relaxation -------------------------------------------------------------------------------

    def gates(self, keep: float = 1.0) -> list[Tensor]:
        """Probabilities of the options of each block. `keep` changes nothing: there are no gates to drop."""
        return [alpha.softmax(0) for alpha in self.alphas]

    def gated(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Logits (batch, classes) of `x`, each block the mean of its options weighted by `gates`."""
        x = self.stem(x)
        for k, weights in enumerate(gates):
            outputs = [branch(x) for branch in self._branches(k).values()]
            x = torch.stack([w * y for w, y in zip(weights, outputs, strict=True)]).sum(0)
        return self.head(x)

    def runtime(self, gates: Sequence[Tensor], costs: RuntimeModel) -> Tensor:
        """Expected cost, differentiable in the probabilities."""
        return costs.of_probabilities(gates)

    @torch.no_grad()
    def derive(self) -> Architecture:
        """The most probable option of each block."""
        return self.space.architecture([int(alpha.argmax()) for alpha in self.alphas])

    def structure_parameters(self) -> list[nn.Parameter]:
        """The logits of the options, a tensor for each block."""
        return list(self.alphas)

    @torch.no_grad()
    def dead_gates(self) -> float:
        """Share of the options with p (1 - p) below 1e-3: they do not learn."""
        p = torch.cat(self.gates())
        return float((p * (1 - p) < DEAD).float().mean())
