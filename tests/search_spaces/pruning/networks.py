"""Compact networks for the tests of pruning, one of each family: `NETWORKS` has a small and a full one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(a: int, b: int, k: int = 3, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(a, b, k, stride, k // 2, groups=groups, bias=bias)


def conv_bn(a: int, b: int, k: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(a, b, k, stride, groups), nn.BatchNorm2d(b))


class VGG(nn.Module):
    """Flattens maps of 2 x 2 into its first linear layer."""

    def __init__(self, widths: tuple[int, ...] = (8, 12, 16), hidden: int = 20) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip((3, *widths[:-1]), widths, strict=True):
            layers += [conv(a, b, bias=True), nn.BatchNorm2d(b), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features, self.pool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(2)
        self.head = nn.Sequential(
            nn.Linear(4 * widths[-1], hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.features(x)), 1))


class Residual(nn.Module):
    def __init__(self, a: int, b: int, stride: int, bottleneck: int = 0, groups: int = 1) -> None:
        super().__init__()
        m = bottleneck or b
        if bottleneck:
            self.body = nn.Sequential(
                conv_bn(a, m, 1), nn.ReLU(), conv_bn(m, m, 3, stride, groups), nn.ReLU(), conv_bn(m, b, 1)
            )
        else:
            self.body = nn.Sequential(conv_bn(a, m, 3, stride), nn.ReLU(), conv_bn(m, b))
        self.skip = conv_bn(a, b, 1, stride) if stride > 1 or a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += self.skip(x)
        return F.relu_(y)


class ResNet(nn.Module):
    def __init__(
        self, width: int = 8, depths: tuple[int, ...] = (2, 2), bottleneck: bool = False, groups: int = 1
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, width), nn.ReLU()]
        a = width
        for stage, depth in enumerate(depths):
            m = width * 2**stage
            b = 4 * m if bottleneck else m
            for i in range(depth):
                layers.append(Residual(a, b, 2 if i == 0 and stage else 1, m if bottleneck else 0, groups))
                a = b
        self.body, self.head = nn.Sequential(*layers), nn.Linear(a, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class PaddedResNet(nn.Module):
    """The shortcut of He et al.'s CIFAR networks: every second pixel, and channels of zeros."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.head = conv_bn(3, width), nn.Linear(2 * width, 10)
        self.body = nn.Sequential(conv_bn(width, width, 3, 2), nn.ReLU(), conv_bn(width, 2 * width))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        half = x.shape[1] // 2
        y = self.body(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
        return self.head(F.relu(y).mean((2, 3)))


class DenseNet(nn.Module):
    def __init__(self, width: int = 8, growth: int = 4, depths: tuple[int, ...] = (3, 2)) -> None:
        super().__init__()
        self.stem, c = conv(3, width), width
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for depth in depths:
            block = nn.ModuleList()
            for _ in range(depth):
                block.append(
                    nn.Sequential(
                        nn.BatchNorm2d(c), nn.ReLU(), conv(c, 4 * growth, 1),
                        nn.BatchNorm2d(4 * growth), nn.ReLU(), conv(4 * growth, growth),
                    )
                )  # fmt: skip
                c += growth
            self.blocks.append(block)
            self.transitions.append(
                nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), conv(c, c // 2, 1), nn.AvgPool2d(2))
            )
            c //= 2
        self.norm, self.head = nn.BatchNorm2d(c), nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            for layer in block:
                x = torch.cat([x, layer(x)], 1)
            x = transition(x)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(c, squeezed, 1), nn.Conv2d(squeezed, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class MBConv(nn.Module):
    def __init__(self, a: int, b: int, stride: int, ratio: int = 4, excite: bool = False) -> None:
        super().__init__()
        m = a * ratio
        act: Callable[[], nn.Module] = nn.SiLU if excite else nn.ReLU6
        layers = [conv_bn(a, m, 1), act(), conv_bn(m, m, 3, stride, m), act()]
        self.body = nn.Sequential(*layers, *([SqueezeExcite(m, a)] if excite else []), conv_bn(m, b, 1))
        self.residual = stride == 1 and a == b

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """MobileNetV2, or with `excite` an EfficientNet."""

    def __init__(self, width: int = 6, depths: tuple[int, ...] = (2, 2), excite: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, width, 3, 1), nn.ReLU6()]
        a = width
        for stage, depth in enumerate(depths):
            b = width * (stage + 2)
            for i in range(depth):
                layers.append(MBConv(a, b, 2 if i == 0 else 1, excite=excite))
                a = b
        self.body = nn.Sequential(*layers, conv_bn(a, 4 * a, 1), nn.ReLU6())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * a, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.body(x), 1).flatten(1))


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise, self.norm = conv(c, c, 7, groups=c, bias=True), nn.LayerNorm(c)
        self.up, self.down = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.full((c,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self, width: int = 8, depths: tuple[int, ...] = (2, 1)) -> None:
        super().__init__()
        self.stem, self.stages, c = nn.Conv2d(3, width, 4, 4), nn.ModuleList(), width
        for stage, depth in enumerate(depths):
            if stage:
                self.stages.append(nn.Conv2d(c, 2 * c, 2, 2))
                c *= 2
            self.stages.extend(ConvNeXtBlock(c) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x.mean((-2, -1))))


class Cascade(nn.Module):
    """A block of CARN: results of grouped residual blocks are joined and fused after each."""

    def __init__(self, c: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                conv(c, c, groups=groups, bias=True), nn.ReLU(inplace=True),
                conv(c, c, groups=groups, bias=True), nn.ReLU(inplace=True), conv(c, c, 1, bias=True),
            )
            for _ in range(3)
        )  # fmt: skip
        self.fuse = nn.ModuleList(nn.Conv2d(c * (i + 2), c, 1) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        found, y = [x], x
        for block, fuse in zip(self.blocks, self.fuse, strict=True):
            found.append(F.relu(y + block(y)))
            y = F.relu(fuse(torch.cat(found, 1)))
        return y


class CARN(nn.Module):
    def __init__(self, c: int = 16, groups: int = 2, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.head, self.cascade, self.fuse = conv(3, c, bias=True), Cascade(c, groups), nn.Conv2d(2 * c, c, 1)
        self.up, self.tail = conv(c, c * scale**2, bias=True), conv(c, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        y = self.fuse(torch.cat([y, self.cascade(y)], 1))
        return self.tail(F.pixel_shuffle(F.relu(self.up(y)), self.scale)) + F.interpolate(
            x, scale_factor=self.scale
        )


class UNet(nn.Module):
    def __init__(self, inputs: int, c: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(inputs, c), conv_bn(c, 2 * c, 3, 2)
        self.middle, self.up = conv_bn(2 * c, 2 * c), nn.ConvTranspose2d(2 * c, c, 2, 2)
        self.last, self.out = conv_bn(2 * c, c), conv(c, outputs, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.first(x))
        b = F.relu(self.middle(F.relu(self.second(a))))
        return self.out(F.relu(self.last(torch.cat([self.up(b), a], 1))))


class StackedUNets(nn.Module):
    def __init__(self, c: int = 6, number: int = 2) -> None:
        super().__init__()
        sizes = [3, *[c] * (number - 1), 2]
        self.nets = nn.ModuleList(UNet(a, c, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for net in self.nets:
            x = net(x)
        return x


class Attention(nn.Module):
    """One layer for queries, keys and values.

    flat: the projection is taken apart by `chunk` and the head's size worked out, as in GPT-2, so that the forward
    pass does not run with fewer heads; else it does, with a smaller number of `heads`.
    """

    def __init__(self, dim: int, heads: int, flat: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.size, self.flat, self.causal = heads, dim // heads, flat, causal
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        if self.flat:
            q, k, v = (
                y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in self.qkv(x).chunk(3, -1)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            q, k, v = self.qkv(x).view(b, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
            y = ((q * self.size**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, t, -1))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, flat: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, flat, causal)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, dim: int = 16, heads: int = 2, depth: int = 2, patch: int = 4, side: int = 16) -> None:
        super().__init__()
        self.embed, self.token = nn.Conv2d(3, dim, patch, patch), nn.Parameter(torch.randn(1, 1, dim) * 0.1)
        self.position = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, dim) * 0.1)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class GPT(nn.Module):
    """Tokens (b, t) -> logits; the table of embeddings is the last layer as well."""

    def __init__(
        self, vocabulary: int = 20, dim: int = 16, heads: int = 4, depth: int = 2, length: int = 8
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads, True, True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.blocks(x)))


class Encoder(nn.Module):
    """PyTorch's own attention, whose forward pass does not run with fewer heads."""

    def __init__(self, dim: int = 16, heads: int = 4, depth: int = 1) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, batch_first=True, dropout=0.0)
        self.encoder, self.head = (
            nn.TransformerEncoder(layer, depth, enable_nested_tensor=False),
            nn.Linear(dim, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Autoencoder(nn.Module):
    """Transposed convolutions, plain and depthwise, behind a code that is unflattened."""

    def __init__(self, c: int = 8, code: int = 6, side: int = 16) -> None:
        super().__init__()
        self.c, self.side = c, side // 4
        self.encode = nn.Sequential(
            conv_bn(3, c, 3, 2), nn.ReLU(), conv_bn(c, 2 * c, 3, 2), nn.ReLU(), nn.Flatten()
        )
        self.code, self.decode = nn.Linear(2 * c * self.side**2, code), nn.Linear(code, 2 * c * self.side**2)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(2 * c, c, 4, 2, 1, bias=False), nn.InstanceNorm2d(c, affine=True), nn.ReLU(),
            nn.ConvTranspose2d(c, c, 4, 2, 1, groups=c), nn.PReLU(c), conv(c, 3, bias=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.decode(self.code(self.encode(x))))
        return self.up(y.view(len(x), -1, self.side, self.side))


class Shared(nn.Module):
    """One convolution three times, once on its own result; one batch norm for two branches."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem, self.shared, self.norm = conv(3, c), conv(c, c), nn.BatchNorm2d(c)
        self.side, self.head = conv(3, c), nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.shared(F.relu(self.norm(self.stem(x))))))
        return self.head((F.relu(self.shared(y)) + F.relu(self.shared(self.side(x)))).mean((2, 3)))


class ShuffleUnit(nn.Module):
    def __init__(self, c: int, groups: int, last_groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.first, self.depthwise = conv_bn(c, c, 1, groups=groups), conv_bn(c, c, groups=c)
        self.last = conv_bn(c, c, 1, groups=last_groups)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        b, _, h, w = y.shape
        y = y.view(b, self.groups, -1, h, w).transpose(1, 2).reshape(b, -1, h, w)
        return F.relu(x + self.last(self.depthwise(y)))


class ShuffleNet(nn.Module):
    """Channels shuffled behind a grouped convolution; with groups in the last one of a unit, all of them are tied."""

    def __init__(self, c: int = 12, groups: int = 3, depth: int = 2, last_groups: int = 1) -> None:
        super().__init__()
        units = (ShuffleUnit(c, groups, last_groups) for _ in range(depth))
        self.body = nn.Sequential(conv_bn(3, c), nn.ReLU(), *units)
        self.head = nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class GroupNormNet(nn.Module):
    """Residual blocks with group normalisation and a gated linear unit over halves of channels."""

    def __init__(self, c: int = 16, groups: int = 4) -> None:
        super().__init__()
        self.stem, self.norm1, self.norm2 = conv(3, c), nn.GroupNorm(groups, c), nn.GroupNorm(groups, c)
        self.conv1, self.conv2, self.out = conv(c, c), conv(c, 2 * c), conv(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.stem(x)))
        x = x + F.silu(self.norm2(self.conv1(x)))
        a, b = self.conv2(x).chunk(2, 1)
        return self.out(a * torch.sigmoid(b))


class NonLocal(nn.Module):
    """Attention over space without heads, and channels that are split in unequal parts."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.stem, self.head = conv_bn(3, c), nn.Conv2d(2 * c, 2, 1)
        self.theta, self.phi, self.g = (nn.Conv2d(c, c // 2, 1) for _ in range(3))
        self.out, self.left, self.right = nn.Conv2d(c // 2, c, 1), conv(4, c), conv(c - 4, c)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        theta, phi, g = (f(x).flatten(2) for f in (self.theta, self.phi, self.g))
        y = g @ (phi.transpose(1, 2) @ theta).softmax(1)
        x = x + self.out(y.unflatten(2, x.shape[2:]))
        a, b = x.split([4, x.shape[1] - 4], 1)
        return self.head(torch.cat([F.relu(self.left(a)), F.relu(self.right(b))], 1))


# ---- all of them ----


@dataclass(frozen=True)
class Case:
    """small and full build a network; shape is of one input, tokens if it holds numbers of tokens."""

    small: Callable[[], nn.Module]
    full: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 16, 16)
    full_shape: tuple[int, ...] = (3, 32, 32)
    tokens: int = 0

    def inputs(self, full: bool = False, batch: int = 2) -> Tensor:
        shape = (batch, *(self.full_shape if full else self.shape))
        return torch.randint(self.tokens, shape) if self.tokens else torch.randn(shape)


NETWORKS = {
    "vgg_bn": Case(VGG, lambda: VGG((64, 128, 256, 256), 512)),
    "resnet18": Case(ResNet, lambda: ResNet(64, (2, 2, 2, 2))),
    "resnet50": Case(lambda: ResNet(4, (2, 2), True), lambda: ResNet(64, (3, 4, 6, 3), True)),
    "resnext": Case(lambda: ResNet(16, (1, 1), True, 8), lambda: ResNet(64, (3, 4), True, 32)),
    "resnet_padded": Case(PaddedResNet, lambda: PaddedResNet(32)),
    "densenet": Case(DenseNet, lambda: DenseNet(64, 32, (6, 12, 8))),
    "mobilenet_v2": Case(MobileNet, lambda: MobileNet(16, (2, 3, 4, 3))),
    "efficientnet": Case(lambda: MobileNet(excite=True), lambda: MobileNet(16, (2, 3, 4, 3), True)),
    "convnext": Case(ConvNeXt, lambda: ConvNeXt(96, (3, 3, 9)), full_shape=(3, 64, 64)),
    "shufflenet": Case(ShuffleNet, lambda: ShuffleNet(60, 3, 8)),
    "carn": Case(CARN, lambda: CARN(64, 4)),
    "stacked_unets": Case(StackedUNets, lambda: StackedUNets(32, 4)),
    "vit": Case(ViT, lambda: ViT(192, 6, 12, 4, 32)),
    "gpt": Case(GPT, lambda: GPT(256, 128, 4, 6, 32), (8,), (32,), tokens=20),
    "encoder": Case(Encoder, lambda: Encoder(64, 4, 4), (5, 16), (20, 64)),
    "autoencoder": Case(Autoencoder, lambda: Autoencoder(32, 32, 32)),
    "shared": Case(Shared, lambda: Shared(32)),
    "group_norm": Case(GroupNormNet, lambda: GroupNormNet(64, 8)),
    "non_local": Case(NonLocal, lambda: NonLocal(48)),
}
