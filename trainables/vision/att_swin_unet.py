"""Att-SwinU-Net: a Swin U-Net whose skip paths hand over attention, and fuse tokens by cross-contextual attention.

Khodapanah Aghdam, Azad, Zarvani and Merhof, Attention Swin U-Net: Cross-Contextual Attention Mechanism for Skin
Lesion Segmentation, ISBI 2023, arXiv:2210.16898, on top of Swin-Unet (Cao et al. 2021, arXiv:2105.05537). Tokens
of a map of side x side are (b, side^2, c), row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.datasets.segmentation import LOADERS
from fairsweep.trainables.tasks.segmentation import METRICS, SegmentationTask, UNet, segmentation_loss
from fairsweep.trainables.tasks.training import Mean, NetworkPaper
from fairsweep.trainables.vision._transformers import (
    ChannelAttention,
    DropPath,
    PatchExpanding,
    PatchMerging,
    forbidden_pairs,
    initialise,
    mlp,
    window_partition,
    window_reverse,
)

# ---- attention in windows, with attention handed over ----


def combine(attention: Tensor, prior: Tensor, op: str, renormalise: bool) -> Tensor:
    """Reuse of attention: `attention` + or * `prior`, before the values are weighted.

    Rows of a sum add up to 2, of a product to less than 1; `renormalise` brings them back to 1. A key that the
    prior lacks, the summary token in front, keeps its weight.
    """
    missing = attention.shape[-1] - prior.shape[-1]
    prior = F.pad(prior, (missing, 0), value=0.0 if op == "add" else 1.0)
    attention = attention + prior if op == "add" else attention * prior
    return attention / attention.sum(-1, keepdim=True).clamp(min=1e-12) if renormalise else attention


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows of `window`^2 tokens, with a relative position bias."""

    def __init__(self, dim: int, heads: int, window: int, op: str, renormalise: bool) -> None:
        super().__init__()
        self.heads, self.op, self.renormalise = heads, op, renormalise
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02))
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        offset = place[:, None] - place[None] + window - 1
        self.register_buffer("offset", offset[..., 0] * (2 * window - 1) + offset[..., 1], persistent=False)

    def forward(
        self, x: Tensor, mask: Tensor | None, prior: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Windows x (n, t, c) -> (values of the same shape, attention (n, heads, t, t)).

        mask: forbidden pairs (windows of a map, t, t). prior: attention to combine with, of the shape returned;
        the one returned is this layer's own, without it. context: (n, 1, c), one more key before the tokens.
        """
        n, t, c = x.shape
        x = x if context is None else torch.cat([context, x], 1)
        q, k, v = self.qkv(x).view(n, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        logits = (q[:, :, -t:] * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        bias = self.bias[self.offset].permute(2, 0, 1)
        if mask is not None:
            bias = bias.masked_fill(mask[:, None], -math.inf)
            logits = logits.unflatten(0, (-1, len(mask)))
        attention = (logits + F.pad(bias, (k.shape[2] - t, 0))).softmax(-1).flatten(0, -4)
        weights = attention if prior is None else combine(attention, prior, self.op, self.renormalise)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, c)), attention


class SwinBlock(nn.Module):
    """Attention in windows, shifted by half a window if `shifted`, then an MLP, both residual.

    A map that fits into one window is one; a side that the window does not divide is filled up with tokens
    that nobody sees.
    """

    def __init__(
        self, dim: int, side: int, heads: int, shifted: bool, drop: float, config: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.side, self.window = side, min(side, config["window"])
        self.shift = self.window // 2 if shifted and side > self.window else 0
        self.padded = -(-side // self.window) * self.window
        self.norm1, self.norm2, self.drop_path = nn.LayerNorm(dim), nn.LayerNorm(dim), DropPath(drop)
        op, renormalise = config.get("op", "add"), config.get("renormalise", False)
        self.attention = WindowAttention(dim, heads, self.window, op, renormalise)
        self.mlp = mlp(dim)
        masked = self.shift > 0 or self.padded > side
        mask = forbidden_pairs(side, self.padded, self.window, self.shift) if masked else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(
        self, x: Tensor, prior: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (b, side^2, c) -> (tokens, attention of this block's windows); `context` is (b, 1, c)."""
        b, _, c = x.shape
        margin = self.padded - self.side
        grid = F.pad(self.norm1(x).view(b, self.side, self.side, c), (0, 0, 0, margin, 0, margin))
        windows = window_partition(grid.roll((-self.shift, -self.shift), (1, 2)), self.window)
        if context is not None:
            context = self.norm1(context).repeat_interleave(len(windows) // b, 0)
        values, attention = self.attention(windows, self.mask, prior, context)
        grid = window_reverse(values, self.window, self.padded).roll((self.shift, self.shift), (1, 2))
        x = x + self.drop_path(grid[:, : self.side, : self.side].reshape(b, -1, c))
        return x + self.drop_path(self.mlp(self.norm2(x))), attention


class Stage(nn.Module):
    """Swin blocks at one resolution, every second one shifted; `drops` has a drop-path rate for each."""

    def __init__(
        self, dim: int, side: int, heads: int, drops: list[float], config: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(dim, side, heads, i % 2 == 1, drop, config) for i, drop in enumerate(drops)
        )

    def forward(
        self, x: Tensor, priors: list[Tensor] | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens -> (tokens, each block's attention); `priors` has one for each block, so that shifts match."""
        attentions = []
        for i, block in enumerate(self.blocks):
            x, attention = block(x, priors[i] if priors else None, context)
            attentions.append(attention)
        return x, attentions


# ---- skip paths ----


class SummaryAttention(nn.Module):
    """One query, the summary token, over itself and the tokens of the other side (n + 1 keys)."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, summary: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """summary (b, 1, c), tokens (b, n, c) -> (change of the summary (b, 1, c), attention (b, heads, n + 1))."""
        summary = self.norm(summary)
        keys = torch.cat([summary, tokens], 1)
        query = self.query(summary).view(len(summary), self.heads, -1)
        to_key, to_value = self.key_value.weight.view(2, self.heads, -1, keys.shape[-1])
        # With a single query the projections of the keys and values can wait: n + 1 times fewer products.
        pattern = torch.einsum("bhd,hdc->bhc", query * self.scale, to_key)
        attention = (pattern @ keys.transpose(1, 2)).softmax(-1)
        value = torch.einsum("bhc,hdc->bhd", attention @ keys, to_value)
        return self.out(value.flatten(1))[:, None], attention


class CrossContextual(nn.Module):
    """Summaries of decoder and encoder tokens, each refined by attention to the tokens of the other side."""

    def __init__(self, dim: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        heads, head_dim, layers = config["cross_heads"], config["cross_head_dim"], config["cross_layers"]
        self.decoder_side = nn.ModuleList(SummaryAttention(dim, heads, head_dim) for _ in range(layers))
        self.encoder_side = nn.ModuleList(SummaryAttention(dim, heads, head_dim) for _ in range(layers))

    def forward(self, decoder: Tensor, encoder: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, n, c) of both sides -> their summaries (b, 1, c)."""
        d, e = decoder.mean(1, keepdim=True), encoder.mean(1, keepdim=True)
        for decoder_side, encoder_side in zip(self.decoder_side, self.encoder_side, strict=True):
            d, e = d + decoder_side(d, encoder)[0], e + encoder_side(e, decoder)[0]
        return d, e


class SkipFusion(nn.Module):
    """Decoder and encoder tokens of one level -> decoder tokens: concatenated, linear 2c -> c.

    skip: what happens before. `cross` writes the summaries back as `inject` says: in the place of each side's
    first token (the authors' code), added to all tokens, or as one token more, which every window of the
    decoder stage sees. `xca` applies channel attention to the encoder's tokens.
    """

    def __init__(self, dim: int, heads: int, skip: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.project = nn.Linear(2 * dim, dim)
        self.cross = CrossContextual(dim, config) if skip in ("cross", "reuse_cross") else None
        self.channel = ChannelAttention(dim, heads) if skip == "xca" else None
        self.inject = config.get("inject")

    def forward(self, decoder: Tensor, encoder: Tensor) -> tuple[Tensor, Tensor | None]:
        """(b, n, c) and (b, n, c) -> (fused tokens (b, n, c), summary token (b, 1, c) or None)."""
        context = None
        if self.channel is not None:
            encoder = self.channel(encoder)
        if self.cross is not None:
            d, e = self.cross(decoder, encoder)
            if self.inject == "replace":
                decoder, encoder = torch.cat([d, decoder[:, 1:]], 1), torch.cat([e, encoder[:, 1:]], 1)
            elif self.inject == "add":
                decoder, encoder = decoder + d, encoder + e
            else:
                context = self.project(torch.cat([d, e], -1))
        return self.project(torch.cat([decoder, encoder], -1)), context


class AttSwinUNet(nn.Module):
    """Images (b, channels, side, side) -> logits (b, side, side)."""

    def __init__(self, channels: int, side: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        patch, levels, dim, heads = (config[k] for k in ("patch", "levels", "embed_dim", "heads"))
        self.side, self.used = side // patch, min(config.get("skip_num", 0), levels - 1)
        drops = torch.linspace(0, config["drop_path"], levels * (depth := config["depth"])).tolist()

        def stage(i: int) -> Stage:
            rates = drops[i * depth : (i + 1) * depth]
            return Stage(dim * 2**i, self.side // 2**i, heads * 2**i, rates, config)

        self.embed, self.embed_norm = nn.Conv2d(channels, dim, patch, patch), nn.LayerNorm(dim)
        self.down = nn.ModuleList(stage(i) for i in range(levels))
        self.merge = nn.ModuleList(PatchMerging(dim * 2**i) for i in range(levels - 1))
        self.norm = nn.LayerNorm(dim * 2 ** (levels - 1))
        self.up = nn.ModuleList(stage(i) for i in range(levels - 1))
        self.expand = nn.ModuleList(
            PatchExpanding(dim * 2 ** (i + 1), dim * 2**i, 2) for i in range(levels - 1)
        )
        self.norm_up, self.final = nn.LayerNorm(dim), PatchExpanding(dim, dim, patch)
        self.output = nn.Conv2d(dim, 1, 1, bias=False)
        skips = [config["skip"] if self.attentive(i) else "concat" for i in range(levels - 1)]
        self.reuse = [skip in ("reuse", "reuse_cross") for skip in skips]
        self.fuse = nn.ModuleList(
            SkipFusion(dim * 2**i, heads * 2**i, skip, config) for i, skip in enumerate(skips)
        )
        self.apply(initialise)

    def attentive(self, level: int) -> bool:
        """Whether the skip path of `level` is more than a concatenation: `skip_num` are, the deepest first."""
        return level >= len(self.down) - 1 - self.used

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[list[Tensor]]]:
        """Deepest tokens, the tokens that enter each stage above, and every attention of those stages."""
        x = self.embed_norm(self.embed(images).flatten(2).transpose(1, 2))
        skips, attentions = [], []
        for stage, merge in zip(self.down, self.merge, strict=False):
            skips.append(x)
            x, attention = stage(x)
            attentions.append(attention)
            x = merge(x)
        return self.norm(self.down[-1](x)[0]), skips, attentions

    def decode(self, x: Tensor, skips: list[Tensor], attentions: list[list[Tensor]]) -> Tensor:
        """What `encode` returns -> logits (b, side, side)."""
        for i in reversed(range(len(self.up))):
            x, context = self.fuse[i](self.expand[i](x), skips[i])
            x, _ = self.up[i](x, attentions[i] if self.reuse[i] else None, context)
        x = self.final(self.norm_up(x)).transpose(1, 2)
        side = math.isqrt(x.shape[2])
        return self.output(x.unflatten(2, (side, side))).squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(*self.encode(images))


def build(channels: int, side: int, config: Mapping[str, Any]) -> nn.Module:
    """The network `config["model"]` for square images of `side` pixels; logits (b, side, side)."""
    model, patch, levels = config["model"], config.get("patch", 1), config["levels"]
    if side % (patch * 2 ** (levels - 1)):
        raise ValueError(
            f"patch={patch}, levels={levels}: patch * 2^(levels - 1) must divide the images' side, {side}"
        )
    if model == "unet":
        return UNet(channels, config["width"], levels)
    if model != "att_swin_unet":
        raise ValueError(f"model={model}: known are att_swin_unet, unet")
    if config["embed_dim"] % config["heads"]:
        raise ValueError(f"heads={config['heads']}: must divide embed_dim={config['embed_dim']}")
    return AttSwinUNet(channels, side, config)


# ---- training ----


@register
class AttSwinUNetPaper(NetworkPaper):
    """Cross-entropy and Dice loss on one logit a pixel; `skip` gives the ablations, `model` a plain U-Net."""

    slug = "att_swin_unet"
    title = "Attention Swin U-Net: Cross-Contextual Attention Mechanism for Skin Lesion Segmentation"
    citation = "Khodapanah Aghdam, Azad, Zarvani, Merhof. ISBI 2023. arXiv:2210.16898"
    task = "image segmentation"
    baselines = "plain concatenation, either path alone, convolutional U-Net"
    datasets = tuple(LOADERS)
    metrics = METRICS
    objective = "val_dice"
    tiny = Tiny("synthetic_lesions_small", 3)
    together = True
    claims = (
        Claim(
            name="beats_concat",
            statement="Attention reuse with cross-contextual attention has a higher test Dice score than plain"
            " concatenation",
            treatment={"skip": "reuse_cross"},
            baseline={"skip": "concat"},
            metric="test_dice",
            margin=0.0,
            origin="direction",
            data="synthetic_lesions",
            seeds=8,
            tunes=("lr", "weight_decay", "drop_path"),
        ),
    )

    paper_steps = dict.fromkeys(("isic2017", "isic2018", "ph2"), 150)
    default_steps = 20
    prunable: ClassVar = {}

    def prepare(self) -> None:
        config = self.config
        self.data = SegmentationTask(self.data_name, self.setting.data_dir, self.device)
        self.net = build(self.data.channels, self.data.side, config).to(self.device)
        sgd, decay = config["optimiser"] == "sgd", config.get("weight_decay", 0.0)
        self.learning_rate = config["sgd_lr" if sgd else "lr"]
        make, options = (torch.optim.SGD, {"momentum": 0.9}) if sgd else (torch.optim.AdamW, {"fused": True})
        self.optimiser = make(self.net.parameters(), self.learning_rate, weight_decay=decay, **options)

    def epoch(self) -> dict[str, float]:
        if self.config["schedule"] == "poly":
            self.set_learning_rate(self.learning_rate * (1 - self.done / self.epochs) ** 0.9)
        train_loss = Mean(self.workers)
        for images, masks in self.workers.shared(self.data.batches(self.config["batch_size"])):
            loss = segmentation_loss(self.net(images), masks, self.config["dice_weight"])
            self.descend(loss)
            train_loss.add(loss, len(masks))
        return {**self.validate(self.net), "train_loss": train_loss.value}

    def validate(self, net: nn.Module) -> dict[str, float]:
        return self.data.declared(net, "validation", "val")

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        return self.data.declared(net, "test", "test")
