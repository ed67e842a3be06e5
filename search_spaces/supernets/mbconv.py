"""Single-Path NAS: the supernet whose blocks are superkernels, each option a part of the same weights.

Stamoulis, Ding, Wang, Lymberopoulos, Priyantha, Liu and Marculescu, "Single-Path NAS: Designing Hardware-Efficient
ConvNets in less than 4 Hours", ECML PKDD 2019, arXiv:1904.02877.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.supernets.mbconv_network import MBConvNetwork, initialise
from fairsweep.search_spaces.supernets.runtime import RuntimeModel
from fairsweep.search_spaces.supernets.superkernels import GATE_SITES, NORMS, BlockGates, SuperkernelBlock

DEAD = 1e-3  # a gate whose sigmoid is flatter than this does not learn


class MBConvSupernet(MBConvNetwork):
    """Superkernels over `MBConvSpace`: `forward` runs a path, `gated` all of it, multiplied by gates.

    norm: of the weights that a gate looks at: rms, l2 (as the authors' code has it) or l2sq (as the paper writes it).
        l2 is so far from the threshold's first value, 0, that the gates do not learn: see `dead_gates`.
    gate_site: kernel (the paper) gates depthwise kernels, before normalisation; post_bn channels and branches after
        it, which makes a gated network the very one that is extracted. Other sizes are those of `MBConvNetwork`.
    """

    kind: ClassVar[str] = "mbconv"

    def __init__(self, *args: Any, norm: str = "rms", gate_site: str = "post_bn", **sizes: Any) -> None:
        super().__init__(*args, **sizes)
        if norm not in NORMS:
            raise ValueError(f"norm={norm}: must be one of {', '.join(NORMS)}")
        if gate_site not in GATE_SITES:
            raise ValueError(f"gate_site={gate_site}: must be one of {', '.join(GATE_SITES)}")
        self.weight_norm, self.gate_site = norm, gate_site
        self.blocks = nn.ModuleList(
            SuperkernelBlock(*sizes, "skip" in choice.options, self.norm, norm, gate_site)
            for sizes, choice in zip(self.layers, self.space.choices, strict=True)
        )
        initialise(self.blocks)

    def _blocks(self) -> list[SuperkernelBlock]:
        return [block for block in self.blocks if isinstance(block, SuperkernelBlock)]

    # -- paths ----------------------------------------------------------------------------------------

    def run_block(self, number: int, x: Tensor, option: str) -> Tensor:
        return self._blocks()[number].run(x, option)

    def extract_block(self, number: int, option: str) -> nn.Module:
        return self._blocks()[number].extract(option)

    def option_parameters(self, choice: str, option: str) -> tuple[str, ...]:
        """None: the options of a block are parts of the same weights. KeyError for a choice that there is not."""
        self.space.positions[choice]
        return ()

    def path_parameters(self, path: Architecture) -> Sequence[str]:
        """Names of the parameters of which `path` uses at least a part: no thresholds, and of skipped blocks none.

        Gated at the kernel, a skipped block still adds its constant and counts as used.
        """
        options = enumerate(self.space.options(self.space.check(path)).values())
        unused = [f"blocks.{k}." for k, o in options if o == "skip" and self.gate_site == "post_bn"]
        return [
            name
            for name, _ in self.named_parameters()
            if not name.endswith(".thresholds") and not name.startswith(tuple(unused))
        ]

    def config(self) -> dict[str, Any]:
        return {**super().config(), "norm": self.weight_norm, "gate_site": self.gate_site}

    # -- gates ----------------------------------------------------------------------------------------

    def gates(self, keep: float = 1.0) -> list[BlockGates]:
        """The decisions of each block, differentiable in weights and thresholds.

        keep: each free gate stays with this probability and is then divided by it (dropout on the indicators).
        """
        return [block.decide(keep)[0] for block in self._blocks()]

    def gated(self, x: Tensor, gates: Sequence[BlockGates]) -> Tensor:
        """Logits (batch, classes) of `x` through all superkernels, multiplied by `gates`."""
        x = self.stem(x)
        for block, decided in zip(self._blocks(), gates, strict=True):
            x = block.gated(x, decided)
        return self.head(x)

    def runtime(self, gates: Sequence[BlockGates], costs: RuntimeModel) -> Tensor:
        """Predicted cost of the network that the gates make, differentiable in them."""
        return costs.of_gates(gates)

    @torch.no_grad()
    def derive(self) -> Architecture:
        """The architecture that the gates decide for now."""
        pairs = zip(self.space.choices, self.gates(), strict=True)
        return self.space.from_options({choice.name: gates.option() for choice, gates in pairs})

    def structure_parameters(self) -> list[nn.Parameter]:
        """The thresholds, a tensor of three for each block."""
        return [block.thresholds for block in self._blocks()]

    @torch.no_grad()
    def dead_gates(self) -> float:
        """Share of the free gates where the slope of the sigmoid is below 1e-3: they do not learn."""
        margins = torch.stack([m for block in self._blocks() for m in block.decide()[1].values()])
        s = torch.sigmoid(margins)
        return float((s * (1 - s) < DEAD).float().mean())
