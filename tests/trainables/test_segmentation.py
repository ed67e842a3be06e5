"""Segmentation data sets and the segmentation task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import segmentation as data
from fairsweep.trainables.tasks import segmentation as task

torch.set_num_threads(1)


# ---- nuclei ----


def tiff(plane: np.ndarray) -> bytes:
    return bytes(256) + plane.astype("<u2").tobytes()


def test_nuclei_are_cut_from_three_bands_of_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = np.mgrid[:512, :512]
    planes = {data._PICTURE[0]: rows // 4 + columns // 8, data._INSTANCES[0]: (rows % 5 == 0) * (columns + 1)}
    asked = []

    def member(name: str, requirement: str, path: str, checksum: str) -> bytes:
        asked.append((name, requirement, path, len(checksum)))
        return tiff(planes[path])

    monkeypatch.setattr(data, "wheel_member", member)
    nuclei = data.stardist_nuclei()
    assert asked == [
        ("stardist_nuclei", "stardist==0.9.2", f"stardist/data/images/{name}2d.tif", 64)
        for name in ("img", "mask")
    ]
    assert {part: x.shape for part, x in nuclei.images.items()} == {
        "train": (300, 1, 32, 32),
        "validation": (64, 1, 32, 32),
        "test": (64, 1, 32, 32),
    }
    picture, mask = planes[data._PICTURE[0]].astype(np.uint8), planes[data._INSTANCES[0]] > 0
    assert (nuclei.images["train"][25 + 2, 0] == picture[20:52, 40:72]).all(), "25 cuts to a row, 20 apart"
    assert (nuclei.images["validation"][17, 0] == picture[288:320, 32:64]).all()
    assert (nuclei.masks["test"][63] == mask[480:, 480:]).all() and nuclei.masks["test"].dtype == bool
    grey = {part: set(np.unique(x // 1)) for part, x in nuclei.images.items()}
    assert min(grey["validation"]) == 256 // 4 and min(grey["test"]) == 384 // 4


@pytest.mark.slow
def test_nuclei_themselves() -> None:
    """Needs the network the first time."""
    nuclei = data.stardist_nuclei()
    foreground = [nuclei.masks[part].mean() for part in data.PARTS]
    assert foreground == pytest.approx([0.185, 0.209, 0.220], abs=1e-3)
    bright = nuclei.images["test"][:, 0][nuclei.masks["test"]].mean()
    assert bright > 1.5 * nuclei.images["test"][:, 0][~nuclei.masks["test"]].mean()


# ---- lesions ----


def test_a_lesion_is_dark_within_an_irregular_border() -> None:
    rng = np.random.default_rng(1)
    darker, irregular = [], []
    for _ in range(60):
        image, mask = data.draw_lesion(rng)
        assert image.shape == (3, 32, 32) and image.dtype == np.uint8 and mask.shape == (32, 32)
        assert np.pi * (5 * 0.5) ** 2 < mask.sum() < np.pi * (11 * 1.6) ** 2
        darker.append((image[:, ~mask].mean(1) - image[:, mask].mean(1)) / 255)
        rows, columns = np.nonzero(mask)
        distance = np.hypot(rows - rows.mean(), columns - columns.mean())
        irregular.append(distance.max() / np.sqrt(mask.sum() / np.pi))
    assert 0.15 < np.mean(darker) < 0.3
    assert np.mean(irregular) > 1.12, "a disc of pixels has about 1.03"


def test_hairs_are_thin_lines() -> None:
    drawn = data._hairs(np.random.default_rng(0), 32, 8)
    assert 40 < drawn.sum() < 8 * 46
    one = data._hairs(np.random.default_rng(0), 32, 1)
    rows, columns = np.nonzero(one)
    assert max(np.bincount(rows).max(), np.bincount(columns).max()) <= 32
    assert one.sum() <= 2 * max(np.ptp(rows), np.ptp(columns)) + 2


def test_lesions_scale_with_the_image() -> None:
    areas = [
        np.mean([data.draw_lesion(np.random.default_rng(i), side)[1].mean() for i in range(40)])
        for side in (32, 96)
    ]
    assert areas[0] == pytest.approx(areas[1], abs=0.01)


@pytest.mark.parametrize(
    ("name", "counts"), [("synthetic_lesions", (300, 100, 200)), ("synthetic_lesions_small", (48, 16, 16))]
)
def test_generated_parts_are_disjoint_and_always_the_same(name: str, counts: tuple[int, ...]) -> None:
    first, again = data.LOADERS[name](None), data.LOADERS[name](None)
    assert tuple(len(first.images[part]) for part in data.PARTS) == counts
    assert all((first.images[part] == again.images[part]).all() for part in data.PARTS)
    seen = {image.tobytes() for part in data.PARTS for image in first.images[part]}
    assert len(seen) == sum(counts)


# ---- dermoscopy ----


def dermoscopy(folder: Path, name: str, n: int = 20) -> None:
    """`n` pictures of 40 x 30 of one grey each, 10 times the index, whose left quarter is the lesion."""
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:, :10] = 255
    for i in range(n):
        if name == "ph2":
            base = folder / "PH2 Dataset images" / f"IMD{i:03}"
            image = base / f"IMD{i:03}_Dermoscopic_Image" / f"IMD{i:03}.bmp"
            outline = base / f"IMD{i:03}_lesion" / f"IMD{i:03}_lesion.bmp"
        else:
            images, masks = (pattern.split("/")[0] for pattern in data.LAYOUTS[name][:2])
            image = folder / images / f"ISIC_{i:07}.jpg"
            outline = folder / masks / f"ISIC_{i:07}_segmentation.png"
        for path, pixels in ((image, np.full((30, 40, 3), 10 * i, dtype=np.uint8)), (outline, mask)):
            path.parent.mkdir(parents=True, exist_ok=True)
            image_module.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("name", "counts"), [("isic2017", [14, 2, 4]), ("isic2018", [14, 2, 4]), ("ph2", [8, 2, 10])]
)
def test_dermoscopy_layouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, counts: list[int]
) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    dermoscopy(tmp_path, name)
    found = data.LOADERS[name](tmp_path)
    assert [len(found.images[part]) for part in data.PARTS] == counts
    assert found.images["train"].shape[1:] == (3, 224, 224) and found.masks["test"].shape[1:] == (224, 224)
    order = np.concatenate([found.images[part][:, 0, 100, 100] for part in data.PARTS]).astype(int)
    assert np.abs(order - 10 * np.arange(20)).max() <= 2, "in the order of the names; JPEG moves grey little"
    for mask in found.masks["validation"]:
        assert mask[:, :56].all() and not mask[:, 56:].any()
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert (data.LOADERS[name](tmp_path).images["test"] == found.images["test"]).all(), "read from the cache"


@pytest.mark.parametrize(
    ("name", "images", "counts"),
    [("isic2017", 2000, (1400, 200, 400)), ("isic2018", 2594, (1815, 259, 520)), ("ph2", 200, (80, 20, 100))],
)
def test_parts_have_the_sizes_of_the_authors_experiments(
    name: str, images: int, counts: tuple[int, int, int]
) -> None:
    train, validation = data.part_ends(images, data.LAYOUTS[name][3])
    assert (train, validation - train, images - validation) == counts


def test_missing_dermoscopy_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data=isic2018: data_dir is None; .*ISIC2018_Task1-2_Training_Input"
    ):
        data.load("isic2018")
    with pytest.raises(DataError, match=r"data=ph2: 0 images PH2 Dataset images.*unpack the published"):
        data.load("ph2", tmp_path)


def test_an_image_without_mask_is_named(tmp_path: Path) -> None:
    dermoscopy(tmp_path, "isic2017")
    for i in (3, 7):
        (tmp_path / "ISIC-2017_Training_Part1_GroundTruth" / f"ISIC_{i:07}_segmentation.png").unlink()
    with pytest.raises(DataError, match=r"isic2017: ISIC_0000003.jpg and 1 other images have no mask"):
        data.load("isic2017", tmp_path)


def test_images_without_pillow_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dermoscopy(tmp_path, "isic2018")
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        DataError, match=r"isic2018: Pillow is not installed.*pip install 'fairsweep\[images\]'"
    ):
        data.load("isic2018", tmp_path)


def test_a_damaged_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dermoscopy(tmp_path, "isic2018")
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "ISIC2018_Task1-2_Training_Input" / "ISIC_0000004.jpg"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match=r"data=isic2018: .*ISIC_0000004.jpg cannot be read"):
        data.load("isic2018", tmp_path)


def test_unknown_data_lists_the_known() -> None:
    with pytest.raises(DataError, match=r"data=kvasir: unknown .* stardist_nuclei, synthetic_lesions, .*ph2"):
        data.load("kvasir")


# ---- loss and metrics ----


def test_dice_loss_of_a_batch() -> None:
    logits, masks = torch.tensor([[0.0, 0.0, 50.0, -50.0]]), torch.tensor([[True, False, True, False]])
    # p = (.5, .5, 1, 0): 2 * 1.5 over 1.5 + 2.
    assert task.dice_loss(logits, masks).item() == pytest.approx(1 - 3 / 3.5, abs=1e-5)
    assert task.dice_loss(torch.where(masks, 50.0, -50.0), masks).item() == pytest.approx(0, abs=1e-5)
    empty = torch.zeros(1, 4, dtype=torch.bool)
    assert task.dice_loss(torch.full((1, 4), -50.0), empty).item() == pytest.approx(0, abs=1e-5)


def test_loss_weighs_cross_entropy_and_dice() -> None:
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = logits.roll(1, 2) > 0
    p = torch.sigmoid(logits)
    entropy = -torch.where(masks, p, 1 - p).log().mean()
    for weight in (0.0, 0.6, 1.0):
        expected = (1 - weight) * entropy + weight * task.dice_loss(logits, masks)
        torch.testing.assert_close(task.segmentation_loss(logits, masks, weight), expected)


def test_scores_of_counts() -> None:
    found = task.scores(30, 10, 20, 40)
    assert found == {"dice": 60 / 90, "sensitivity": 0.6, "specificity": 0.8, "accuracy": 0.7}
    assert task.scores(0, 0, 0, 5) == {"dice": 1, "sensitivity": 1, "specificity": 1, "accuracy": 1}
    assert task.scores(0, 2, 0, 3)["dice"] == 0


# ---- batches and evaluation ----


def small() -> task.SegmentationTask:
    return task.SegmentationTask("synthetic_lesions_small", None, "cpu")


def test_an_epoch_shows_every_image_once_with_its_mask() -> None:
    lesions = small()
    torch.manual_seed(0)
    epochs = [list(lesions.batches(20)) for _ in range(2)]
    assert [len(masks) for _, masks in epochs[0]] == [20, 20, 8]
    stored = {
        lesions.standardise(x).numpy().tobytes(): m.numpy().tobytes()
        for x, m in zip(*lesions.parts["train"], strict=True)
    }
    for epoch in epochs:
        shown = [
            (x.numpy().tobytes(), m.numpy().tobytes())
            for xs, ms in epoch
            for x, m in zip(xs, ms, strict=True)
        ]
        assert len(shown) == 48 and dict(shown) == stored
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])
    assert [len(masks) for _, masks in lesions.batches(47)] == [47]


def test_pixels_are_standardised_with_the_training_part() -> None:
    lesions = small()
    x = lesions.standardise(lesions.parts["train"][0])
    assert x.dtype == torch.float32 and (lesions.channels, lesions.side) == (3, 32)
    assert x.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert x.transpose(0, 1).flatten(1).std(1, correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert lesions.standardise(lesions.parts["test"][0]).mean().abs() > 1e-4


class Threshold(nn.Module):
    """Foreground with logit 2 where the red channel is below its training mean, else -2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return torch.where(x[:, 0] < 0, 2.0, -2.0)


def test_evaluation_counts_the_pixels_of_the_whole_part() -> None:
    lesions = small()
    x, truth = lesions.parts["validation"]
    found = x[:, 0].float() < lesions.mean[0]
    hits = (found & truth).sum().item()
    wrong = (found ^ truth).float().mean().item()
    for size in (5, 100):
        scores: dict[str, Any] = lesions.evaluate(Threshold(), "validation", size)
        assert scores["dice"] == pytest.approx(2 * hits / (found.sum() + truth.sum()).item())
        assert scores["sensitivity"] == pytest.approx(hits / truth.sum().item())
        assert scores["accuracy"] == pytest.approx(1 - wrong)
        assert scores["loss"] == pytest.approx(np.log1p(np.exp(-2)) + 2 * wrong, rel=1e-5)


def test_unet_has_skips_at_every_resolution() -> None:
    torch.manual_seed(0)
    net = task.UNet(3, 8, 3).eval()
    x = torch.randn(2, 3, 16, 24)
    out = net(x)
    assert out.shape == (2, 16, 24)
    assert sum(p.numel() for p in task.UNet(1, 64, 5).parameters()) / 1e6 == pytest.approx(31.0, abs=0.1)
    for i in range(2):
        handle = net.down[i].register_forward_hook(lambda *_: _[2] + 1.0)
        assert not torch.allclose(net(x), out)
        handle.remove()
