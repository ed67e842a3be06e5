"""NASNet-A for ImageNet beside timm's, whose weights come from the authors' code: the same function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.nasnet import NASNetSpace
from fairsweep.search_spaces.supernets.nasnet_network import NASNET_A_CONCAT_USED, NASNet

torch.set_num_threads(1)
FILTERS = 8


def layers(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))]


def copy(theirs: nn.Module, ours: nn.Module) -> None:
    for a, b in zip(layers(theirs), layers(ours), strict=True):
        if isinstance(a, nn.BatchNorm2d):
            for tensor, low, high in (
                (a.weight, 0.5, 1.5), (a.bias, -1, 1), (a.running_mean, -1, 1), (a.running_var, 0.5, 2)
            ):  # fmt: skip
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
        b.load_state_dict(a.state_dict())


def test_nasnet_a_computes_what_timm_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        from timm.layers.padding import pad_same
        from timm.layers.pool2d_same import AvgPool2dSame
        from timm.models.nasnet import NASNetALarge
    except Exception as error:  # timm is optional, and fails in its own ways without torchvision
        pytest.skip(f"timm cannot be imported: {error}")

    def without_padding(self: Any, x: Tensor) -> Tensor:
        # timm's average counts the padding where the stride is 2; that of the authors' code does not.
        sums, counts = (
            F.avg_pool2d(pad_same(t, self.kernel_size, self.stride), self.kernel_size, self.stride)
            for t in (x, torch.ones_like(x))
        )
        return sums / counts

    monkeypatch.setattr(AvgPool2dSame, "forward", without_padding)
    torch.manual_seed(0)
    theirs: Any = NASNetALarge(num_classes=7, stem_size=12, num_features=24 * FILTERS).eval()
    space = NASNetSpace()
    ours: Any = NASNet(
        space, space.nasnet_a(), (3, 75, 75), 7, 6, FILTERS, stem="imagenet", stem_filters=12,
        skip_reduction=True, match_stem=False, concat_used=NASNET_A_CONCAT_USED,
    ).eval()  # fmt: skip
    names = ["cell_stem_0", "cell_stem_1"]
    for stage in range(3):
        names += [f"reduction_cell_{stage - 1}"] if stage else []
        names += [f"cell_{6 * stage + k}" for k in range(6)]
    copy(theirs.conv0, ours.stem)
    for name, cell in zip(names, ours.cells, strict=True):
        other = getattr(theirs, name)
        copy(other.conv_1x1, cell.entry.current)
        if hasattr(other, "path_1"):
            for part, same in zip(
                (other.path_1, other.path_2, other.final_path_bn), ("even", "odd", "norm"), strict=True
            ):
                copy(part, getattr(cell.entry.previous[1], same))
        elif cell.entry.previous is not None:
            copy(other.conv_prev_1x1, cell.entry.previous)
        for b in range(5):
            for side, half in enumerate(("left", "right")):
                if hasattr(other, f"comb_iter_{b}_{half}"):
                    copy(getattr(other, f"comb_iter_{b}_{half}"), cell.operations[2 * b + side])
    copy(theirs.last_linear, ours.classifier)
    with torch.no_grad():
        for side in (75, 80):
            x = torch.randn(2, 3, side, side)
            torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
