"""The architectures on which slicing is promised to be exact, in the sizes of their papers or near to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tests.search_spaces.pruning.networks import NETWORKS
from tests.search_spaces.pruning.supernets import SHAPE, MixedCells


def att_swin_unet() -> nn.Module:
    from fairsweep.trainables.vision.att_swin_unet import build

    config = {
        "model": "att_swin_unet", "patch": 2, "levels": 3, "embed_dim": 48, "heads": 3, "depth": 2, "window": 4,
        "drop_path": 0.0, "skip": "reuse_cross", "skip_num": 3, "cross_heads": 4, "cross_head_dim": 16,
        "cross_layers": 2, "inject": "replace", "op": "add", "renormalise": False,
    }  # fmt: skip
    return build(3, 32, config)


def _images(*shape: int) -> Tensor:
    return torch.randn(2, *shape)


NAMES = (
    "vgg_bn", "resnet18", "resnet50", "densenet", "mobilenet_v2", "convnext", "carn", "stacked_unets", "efficientnet",
    "vit", "gpt",
)  # fmt: skip
TWELVE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    **{name: (NETWORKS[name].full, partial(NETWORKS[name].inputs, full=True)) for name in NAMES},
    "cell_supernet": (partial(MixedCells, 16, 2, 3, False), partial(_images, *SHAPE)),
    "att_swin_unet": (att_swin_unet, partial(_images, 3, 32, 32)),
}
