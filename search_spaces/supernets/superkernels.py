"""The superkernel of Single-Path NAS (Stamoulis et al., 2019, section 3): a block of all options, and its gates.

A block is an inverted bottleneck with a 5x5 depthwise kernel and expansion 6. Its central 3x3 is the kernel of size 3,
its first half of channels expansion 3. A gate is 1 where the norm of the weights that it would remove reaches a
trained threshold; its gradient is that of a sigmoid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.supernets.layers import InvertedBottleneck, Normalisation, by_batch, running
from fairsweep.search_spaces.supernets.mbconv_network import kernel_and_expansion, with_eps

NORMS = ("rms", "l2", "l2sq")
GATE_SITES = ("post_bn", "kernel")


class _Indicator(torch.autograd.Function):
    """1 where x >= 0, else 0; backward the derivative of the sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * s * (1 - s)


def indicator(x: Tensor) -> Tensor:
    """Whether `x` >= 0, exactly 0 or 1. Its gradient is sigmoid'(x)."""
    return _Indicator.apply(x)


def weight_norm(values: Tensor, count: int, norm: str) -> Tensor:
    """L2 norm of `values`, its square, or their root mean square as `count` weights."""
    size = torch.linalg.vector_norm(values)
    if norm == "l2sq":
        return size.square()
    return size / count**0.5 if norm == "rms" else size


class BlockGates(NamedTuple):
    """Scalars of one block. k5: the kernel has its outer ring. e3: the block is there. e6: all channels are."""

    k5: Tensor
    e3: Tensor
    e6: Tensor

    def option(self) -> str:
        """What the gates decide: without e3 the block is skipped, whatever the others say."""
        if not self.e3 > 0:
            return "skip"
        return f"k{5 if self.k5 > 0 else 3}_e{6 if self.e6 > 0 else 3}"


def option_gates(option: str, like: Tensor) -> BlockGates:
    """Gates forced to `option`, of the type and on the device of `like`."""
    decided = (0, 0, 0) if option == "skip" else ("k5" in option, 1, "e6" in option)
    return BlockGates(*(like.new_tensor(float(d)) for d in decided))


class SuperkernelBlock(nn.Module):
    """An inverted bottleneck of kernel 5 and expansion 6, and the thresholds of its gates k5, e3 and e6.

    removable: whether gate e3 is free; otherwise it is 1. norm: of the weights that a gate looks at. gate_site: post_bn
    multiplies channels and branch after they are normalised, kernel multiplies the depthwise kernel before.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        removable: bool,
        normalisation: Normalisation,
        norm: str,
        gate_site: str,
    ) -> None:
        super().__init__()
        self.largest = InvertedBottleneck(inputs, outputs, stride, 6, 5, normalisation)
        self.thresholds = nn.Parameter(torch.zeros(3))
        self.sizes, self.stride = (inputs, outputs, stride), stride
        self.removable, self.norm, self.gate_site = removable, norm, gate_site
        self.width = 6 * inputs
        self.narrow = round(self.width / 2)

    @property
    def kernel(self) -> Tensor:
        """The superkernel, (channels, 1, 5, 5)."""
        return self.largest.get_parameter("conv.depthwise.weight")

    def _split(self) -> tuple[Tensor, Tensor]:
        inner = F.pad(self.kernel[..., 1:4, 1:4], (1, 1, 1, 1))
        return inner, self.kernel - inner

    # -- gates ----------------------------------------------------------------------------------------

    def decide(self, keep: float = 1.0) -> tuple[BlockGates, dict[str, Tensor]]:
        """The gates, and norm - threshold of those that are free, by name.

        keep: probability of each free gate to stay; those that stay are divided by it. The gates of the channels look
        at the kernel as the gate of its ring has left it.
        """
        t5, t3, t6 = self.thresholds
        inner, outer = self._split()
        margins = {"k5": weight_norm(outer, 16 * len(outer), self.norm) - t5}
        k5 = self._gate(margins["k5"], keep)
        kernel = inner + k5 * outer
        first, second = kernel[: self.narrow], kernel[self.narrow :]
        e3 = torch.ones_like(k5)
        if self.removable:
            margins["e3"] = weight_norm(first, first.numel(), self.norm) - t3
            e3 = self._gate(margins["e3"], keep)
        margins["e6"] = weight_norm(second, second.numel(), self.norm) - t6
        return BlockGates(k5, e3, self._gate(margins["e6"], keep)), margins

    @staticmethod
    def _gate(margin: Tensor, keep: float) -> Tensor:
        return F.dropout(indicator(margin), 1 - keep) if keep < 1 else indicator(margin)

    def gated(self, x: Tensor, gates: BlockGates) -> Tensor:
        """The whole block with its parts multiplied by the gates."""
        conv: Any = self.largest.conv
        inner, outer = self._split()
        kernel = inner + gates.k5 * outer
        channels = torch.cat([gates.e6.new_ones(self.narrow), gates.e6.expand(self.width - self.narrow)])
        before = self.gate_site == "kernel"
        if before:
            kernel = kernel * (gates.e3 * channels).view(-1, 1, 1, 1)
        y = conv.expand_relu(conv.expand_norm(conv.expand(x)))
        y = F.conv2d(y, kernel, None, self.stride, 2, 1, self.width)
        y = conv.depthwise_relu(conv.depthwise_norm(y))
        y = conv.project_norm(conv.project(y if before else y * channels.view(1, -1, 1, 1)))
        y = y if before else gates.e3 * y
        return x + y if self.largest.shortcut else y

    # -- parts ----------------------------------------------------------------------------------------

    def part(self, option: str) -> dict[str, Tensor]:
        """Views of the weights and statistics that `option` uses, by their names in an `InvertedBottleneck`."""
        size, expansion = kernel_and_expansion(option)
        channels = self.narrow if expansion == 3 else self.width
        found = {}
        for name, tensor in [*self.largest.named_parameters(), *self.largest.named_buffers()]:
            if name == "conv.project.weight":
                tensor = tensor[:, :channels]
            elif not name.startswith("conv.project") and tensor.dim():
                tensor = tensor[:channels]
            if name == "conv.depthwise.weight" and size == 3:
                tensor = tensor[..., 1:4, 1:4]
            found[name] = tensor
        return found

    def run(self, x: Tensor, option: str) -> Tensor:
        """The block of `option`, computed with the part of the weights that it uses."""
        if self.gate_site == "kernel":
            return self.gated(x, option_gates(option, self.thresholds))
        if option == "skip":
            return x
        part = self.part(option)
        kernel = part["conv.depthwise.weight"]
        y = F.relu(self._normalise(F.conv2d(x, part["conv.expand.weight"]), part, "conv.expand_norm"))
        y = F.conv2d(y, kernel, None, self.stride, kernel.shape[-1] // 2, 1, len(kernel))
        y = F.relu(self._normalise(y, part, "conv.depthwise_norm"))
        y = self._normalise(F.conv2d(y, part["conv.project.weight"]), part, "conv.project_norm")
        return x + y if self.largest.shortcut else y

    def _normalise(self, x: Tensor, part: Mapping[str, Tensor], name: str) -> Tensor:
        whole = self.largest.get_submodule(name)
        assert isinstance(whole, nn.BatchNorm2d) and whole.momentum is not None
        mean, variance = part.get(f"{name}.running_mean"), part.get(f"{name}.running_var")
        by_batch = self.training or mean is None
        weight, bias = part[f"{name}.weight"], part[f"{name}.bias"]
        return F.batch_norm(x, mean, variance, weight, bias, by_batch, whole.momentum, whole.eps)

    # -- extraction -----------------------------------------------------------------------------------

    def extract(self, option: str) -> nn.Module:
        """An ordinary block with copies of the weights that `option` uses, which computes what `run` computes.

        Gated at the kernel, channels that are gone still pass on a constant. Batch statistics take it away again;
        running ones do not, and the mean that comes after is shifted by it. A skipped block is then the constant.
        """
        if option == "skip":
            return Shift(self._constant()) if self.gate_site == "kernel" else nn.Identity()
        kernel, expansion = kernel_and_expansion(option)
        last: Any = self.largest.get_submodule("conv.project_norm")
        kept = by_batch(affine=True) if last.running_mean is None else running
        made = InvertedBottleneck(*self.sizes, expansion, kernel, with_eps(kept, last.eps))
        made.to(self.kernel)
        made.load_state_dict({name: tensor.detach() for name, tensor in self.part(option).items()})
        if self.gate_site == "kernel" and expansion == 3 and last.running_mean is not None:
            made.get_buffer("conv.project_norm.running_mean").sub_(self._passed(self.narrow))
        return made

    @torch.no_grad()
    def _passed(self, start: int) -> Tensor:
        """What channels from `start` on add to the projection where their kernel is 0: by running statistics, (n,)."""
        conv: Any = self.largest.conv
        y = conv.depthwise_relu(_frozen(conv.depthwise_norm, self.kernel.new_zeros(1, self.width, 1, 1)))
        return F.conv2d(y[:, start:], conv.project.weight[:, start:]).flatten()

    @torch.no_grad()
    def _constant(self) -> Tensor:
        """What a branch whose whole kernel is 0 adds to its shortcut, (1, outputs, 1, 1)."""
        last: Any = self.largest.get_submodule("conv.project_norm")
        if last.running_mean is None:
            return last.bias.view(1, -1, 1, 1)
        return _frozen(last, self._passed(0).view(1, -1, 1, 1))


def _frozen(norm: Any, x: Tensor) -> Tensor:
    """`norm` of `x` by its running statistics, whatever mode it is in."""
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class Shift(nn.Module):
    """Adds a constant to each channel."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value
