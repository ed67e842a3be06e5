"""Multi-outputs for deblurring: several restorations of one image, of which the best one is trained.

Liu, Qiao and Dou, arXiv:2208.13029. A blurry image has many feasible sharp frames, and its label is only one
of them. The last convolution of a restoration network therefore emits several residual maps; the loss of an
image is that of its best output, so that together the outputs come to cover what the label may be.
"Parameter multiplexing" makes more outputs of the same parameters: the averages of pairs of maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.datasets.deblurring import LOADERS
from fairsweep.trainables.tasks.restoration import METRICS, RestorationTask, named, summary
from fairsweep.trainables.tasks.training import Mean, NetworkPaper, cosine_factor

# ---- outputs ----


def combine(maps: Tensor) -> Tensor:
    """Parameter multiplexing: maps (b, n, c, h, w) -> all (e_i + e_j)/2, i >= j: (b, n(n+1)/2, c, h, w).

    A pair of a map with itself is that map, so the n maps are among the results.
    """
    i, j = torch.tril_indices(maps.shape[1], maps.shape[1], device=maps.device)
    return (maps.index_select(1, i) + maps.index_select(1, j)) / 2


class MultiOutput(nn.Module):
    """(b, c, h, w) -> (b, outputs, c, h, w): the image plus every residual map, or plus every pair's average.

    trunk: (b, c, h, w) -> (b, width, h, w) for sides that are multiples of `trunk.multiple`; images are
    zero-padded below and to the right for it. Only the last convolution knows how many maps there are.
    """

    def __init__(
        self, trunk: Plain | NAFNet, channels: int, width: int, n_heads: int, combined: bool
    ) -> None:
        super().__init__()
        self.trunk, self.n_heads, self.combined = trunk, n_heads, combined
        self.head = nn.Conv2d(width, n_heads * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        padded = F.pad(x, (0, -w % self.trunk.multiple, 0, -h % self.trunk.multiple))
        maps = self.head(self.trunk(padded))[..., :h, :w].unflatten(1, (self.n_heads, x.shape[1]))
        return x.unsqueeze(1) + (combine(maps) if self.combined else maps)


# ---- losses ----


def psnr_loss(outputs: Tensor, sharp: Tensor) -> Tensor:
    """10 log10(MSE + 1e-8) of every output: (b, outputs, c, h, w) and (b, c, h, w) -> (b, outputs), in dB."""
    mse = (outputs - sharp.unsqueeze(1)).square().mean((2, 3, 4))
    return 10 / math.log(10) * torch.log(mse + 1e-8)


def l1_loss(outputs: Tensor, sharp: Tensor) -> Tensor:
    """Mean absolute error of every output, (b, outputs); the criterion of Restormer."""
    return (outputs - sharp.unsqueeze(1)).abs().mean((2, 3, 4))


def _blur(images: Tensor) -> Tensor:
    # Over the last two dimensions of (b, n, c, h, w), edges repeated.
    kernel = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05], device=images.device, dtype=images.dtype)
    flat = F.pad(images.flatten(0, 2).unsqueeze(1), (2, 2, 2, 2), mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))
    return flat.squeeze(1).unflatten(0, images.shape[:3])


def laplacian(images: Tensor) -> Tensor:
    """Images (b, n, c, h, w) less their blurred copy of half the resolution: one level of a Laplacian pyramid."""
    half = torch.zeros_like(images)
    half[..., ::2, ::2] = 4 * _blur(images)[..., ::2, ::2]
    return images - _blur(half)


def charbonnier_edge_loss(outputs: Tensor, sharp: Tensor) -> Tensor:
    """Charbonnier loss of the image plus 0.05 times that of its edges, (b, outputs); the criterion of MPRNet."""
    error = outputs - sharp.unsqueeze(1)
    # The Laplacian is linear: that of the error is the error of the Laplacians.
    pixels, edges = (torch.sqrt(e.square() + 1e-6).mean((2, 3, 4)) for e in (error, laplacian(error)))
    return pixels + 0.05 * edges


CRITERIA = {"psnr": psnr_loss, "charbonnier_edge": charbonnier_edge_loss, "l1": l1_loss}


def over_heads(losses: Tensor, rule: str, temperature: float = 1.0) -> Tensor:
    """One loss of each image, (b,), out of those of its outputs (b, outputs).

    "min": that of the best output, the only one to receive a gradient; "mean"; "soft_min", between these
    two: -T log mean exp(-loss/T). ValueError for another rule.
    """
    if rule == "min":
        return losses.min(1).values
    if rule == "mean":
        return losses.mean(1)
    if rule == "soft_min":
        return -temperature * (torch.logsumexp(-losses / temperature, 1) - math.log(losses.shape[1]))
    raise ValueError(f"over_heads={rule}: known are min, mean, soft_min")


# ---- trunks ----


class Plain(nn.Sequential):
    """Four convolutions of sides 5, 5, 5, 3 with ReLU: (b, c, h, w) -> (b, width, h, w)."""

    multiple = 1

    def __init__(self, channels: int, width: int) -> None:
        layers: list[nn.Module] = []
        for i, side in enumerate((5, 5, 5, 3)):
            layers += [nn.Conv2d(width if i else channels, width, side, padding=side // 2), nn.ReLU()]
        super().__init__(*layers)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (b, c, h, w), each pixel for itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def local_mean(x: Tensor, window: int) -> Tensor:
    """Mean of (b, c, h, w) over a square of side `window` around each pixel, shifted inwards at the edges.

    Where the square covers all of the map this is the global mean, (b, c, 1, 1).
    """
    h, w = x.shape[2:]
    if window >= h and window >= w:
        return x.mean((2, 3), keepdim=True)
    rows, columns = min(window, h), min(window, w)
    # Summed-area table, in double precision: differences of large sums lose digits.
    total = F.pad(x.double().cumsum(2).cumsum(3), (1, 0, 1, 0))
    total = total[:, :, rows:] - total[:, :, :-rows]
    mean = ((total[..., columns:] - total[..., :-columns]) / (rows * columns)).to(x.dtype)
    top, left = (h - mean.shape[2]) // 2, (w - mean.shape[3]) // 2
    margins = (left, w - mean.shape[3] - left, top, h - mean.shape[2] - top)
    return F.pad(mean, margins, mode="replicate")


class ChannelAttention(nn.Module):
    """Simplified channel attention, x * W mean(x), on (b, c, h, w) (Chen et al., ECCV 2022).

    In evaluation the mean is a local one, so that large images have the statistics of the training squares
    (Chu et al., ECCV 2022).
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.weights, self.window = nn.Conv2d(channels, channels, 1), window

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True) if self.training else local_mean(x, self.window)
        return x * self.weights(mean)


class SimpleGate(nn.Module):
    """The product of the two halves of the channels: (b, 2c, h, w) -> (b, c, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(*x.chunk(2, 1))


class NAFBlock(nn.Module):
    """Two gated residual branches without other nonlinearity; their scales beta and gamma start at 0."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.mixing = nn.Sequential(
            ChannelNorm(channels, eps=1e-6),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels),
            SimpleGate(),
            ChannelAttention(channels, window),
            nn.Conv2d(channels, channels, 1),
        )
        self.feedforward = nn.Sequential(
            ChannelNorm(channels, eps=1e-6),
            nn.Conv2d(channels, 2 * channels, 1),
            SimpleGate(),
            nn.Conv2d(channels, channels, 1),
        )
        self.beta = nn.Parameter(torch.zeros(channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.beta * self.mixing(x)
        return x + self.gamma * self.feedforward(x)


class NAFNet(nn.Module):
    """U-shaped trunk (Chen et al., ECCV 2022): (b, c, h, w) -> (b, width, h, w), sides multiples of 2^levels.

    One block a level, `deepest` before the last halving, one in the middle. side: that of the training
    squares; the window of the local mean is 1.5 times that.
    """

    def __init__(self, channels: int, width: int, levels: int, deepest: int, side: int) -> None:
        super().__init__()
        self.multiple = 2**levels

        def blocks(level: int, n: int) -> nn.Sequential:
            window = max(1, (side * 3 // 2) >> level)
            return nn.Sequential(*(NAFBlock(width << level, window) for _ in range(n)))

        self.intro = nn.Conv2d(channels, width, 3, padding=1)
        counts = [1] * (levels - 1) + [deepest]
        self.encoders = nn.ModuleList(blocks(level, n) for level, n in enumerate(counts))
        self.downs = nn.ModuleList(nn.Conv2d(width << i, width << (i + 1), 2, 2) for i in range(levels))
        self.middle = blocks(levels, 1)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width << i, width << (i + 1), 1, bias=False), nn.PixelShuffle(2))
            for i in range(levels, 0, -1)
        )
        self.decoders = nn.ModuleList(blocks(level, 1) for level in reversed(range(levels)))

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.intro(x), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.middle(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) + skips.pop())
        return x


def build(channels: int, side: int, config: Mapping[str, Any]) -> MultiOutput:
    """The network of a configuration for images of `channels`, trained on squares of `side` pixels."""
    kind, width = config["trunk"], config["width"]
    if kind == "plain":
        trunk: Plain | NAFNet = Plain(channels, width)
    elif kind == "nafnet":
        trunk = NAFNet(channels, width, config["nafnet_levels"], config["nafnet_deepest"], side)
    else:
        raise ValueError(f"trunk={kind}: known are plain, nafnet")
    return MultiOutput(trunk, channels, width, config["n_heads"], config["combine_heads"])


# ---- training ----

_claim = partial(Claim, treatment={"n_heads": 4, "combine_heads": False}, metric="test_psnr_best_overall")
_claim = partial(_claim, data="digits_simulated_motion", seeds=10, steps=7, tunes=("lr", "weight_decay"))


@register
class MultiOutputDeblur(NetworkPaper):
    """AdamW on the best output's loss; `n_heads`, `combine_heads` and `over_heads` give the baselines."""

    slug = "multi_output_deblur"
    title = "Multi-Outputs Is All You Need For Deblur"
    citation = "Liu, Qiao, Dou. arXiv:2208.13029 (2022)"
    task = "image restoration"
    baselines = "one output, no pairs, mean or soft minimum"
    datasets = tuple(LOADERS)
    metrics = METRICS
    objective = "val_psnr_best_overall"
    tiny = Tiny("digits_simulated_motion_small", 4)
    together = True
    claims = (
        _claim(
            "more_outputs_cover_ambiguous_labels",
            "Where the label is any frame of the exposure, the best of 4 outputs (picked with the label) is better than"
            " a single output, and by the paper's smallest gain",
            baseline={"n_heads": 1, "combine_heads": False},
            margin=0.11,
            origin="paper",
            reason="0.11 to 0.18 dB of the best output over single-output networks on GoPro (abstract)",
        ),
        _claim(
            "pairs_add_at_equal_parameters",
            "There, the pairs of 4 maps have a better best output than the maps alone",
            treatment={"n_heads": 4, "combine_heads": True},
            baseline={"n_heads": 4, "combine_heads": False},
            margin=0.0,
            origin="direction",
        ),
        _claim(
            "no_gain_without_ambiguity",
            "Where the label is always the middle frame, the best of 4 outputs gains less over a single output than"
            " the paper's smallest gain",
            baseline={"n_heads": 1, "combine_heads": False},
            margin=0.11,
            direction="at_most",
            origin="indifference",
            reason="a gain below the paper's smallest, 0.11 dB, would not have been reported as one",
            data="digits_simulated_motion_control",
        ),
    )
    paper_steps = {
        "gopro": 3350
    }  # the 200 000 iterations of the paper: 60 batches of the training part an epoch
    default_steps = 7
    prunable: ClassVar = {}

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """In the first epoch the outputs are still the blurry image, more or less."""
        return 2

    def prepare(self) -> None:
        config = self.config
        for name in ("n_heads", "width", "nafnet_levels", "nafnet_deepest", "batch_size"):
            if config.get(name, 1) < 1:
                raise ValueError(f"{name}={config[name]}: must be at least 1")
        self.data = RestorationTask(
            self.data_name, self.setting.data_dir, self.device, config["crop"], config["augment"]
        )
        self.net = build(self.data.channels, self.data.side, config).to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=config["lr"], betas=(0.9, 0.9), weight_decay=config["weight_decay"]
        )

    def epoch(self) -> dict[str, float]:
        lr, end, size = self.config["lr"], self.config["lr_end"], self.config["batch_size"]
        criterion, temperature = CRITERIA[self.config["criterion"]], self.config.get("temperature", 1.0)
        batches = math.ceil(len(self.data.parts["train"]) / size)
        train_loss = Mean(self.workers)
        for i, (x, y) in enumerate(self.workers.shared(self.data.batches(size))):
            factor = cosine_factor(self.done * batches + i, self.epochs * batches)
            self.set_learning_rate(end + (lr - end) * factor)
            loss = over_heads(criterion(self.net(x), y), self.config["over_heads"], temperature).mean()
            self.descend(loss, self.config["clip_norm"])
            train_loss.add(loss, len(y))
        return {**self.validate(self.net), "train_loss": train_loss.value}

    def validate(self, net: nn.Module) -> dict[str, float]:
        return named("val", summary(self.data.evaluate(net, "validation")))

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """All test metrics; the selected output is the one with the best mean on the validation part."""
        selected = int(self.data.evaluate(net, "validation").mean(0).argmax())
        values = self.data.evaluate(net, "test")
        return {**named("test", summary(values)), "test_psnr_selected": values[:, selected].mean().item()}
