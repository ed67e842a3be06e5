"""Deblurring data sets and the image restoration task."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import deblurring, images
from fairsweep.trainables.tasks import restoration as task
from fairsweep.trainables.vision.multi_output_deblur import MultiOutputDeblur

torch.set_num_threads(1)
AMBIGUOUS, CONTROL = "digits_simulated_motion", "digits_simulated_motion_control"
SMALL = "digits_simulated_motion_small"


class Copies(nn.Module):
    """Returns the image plus each of `offsets`."""

    def __init__(self, *offsets: float) -> None:
        super().__init__()
        self.offsets = torch.tensor(offsets)[:, None, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, None] + self.offsets


# ---- digits under a simulated motion ----


def test_parts_are_disjoint_and_those_of_the_real_digits() -> None:
    parts = deblurring.load(CONTROL)
    assert {k: len(p) for k, p in parts.items()} == {"train": 1200, "validation": 197, "test": 400}
    rows = [x.tobytes() for p in parts.values() for x in p.sharp]
    assert len(set(rows)) == 1797, "the digits differ from each other, so parts are disjoint"
    source = images.load("digits")
    grey = np.concatenate([source.train_images, source.test_images])[:, 0] / 16
    known = {x.tobytes() for x in deblurring.enlarge(grey, 16, 4).astype(np.float32)}
    # The middle frame is the digit itself, not moved at all.
    assert set(rows) == known
    assert parts["train"].blurry.shape == (1200, 1, 24, 24) and parts["train"].blurry.dtype == np.float32


def test_both_variants_have_the_same_blurry_images() -> None:
    a, b = deblurring.load(AMBIGUOUS), deblurring.load(CONTROL)
    assert all(np.array_equal(a[part].blurry, b[part].blurry) for part in a)
    same = np.mean([np.array_equal(x, y) for x, y in zip(a["train"].sharp, b["train"].sharp, strict=True)])
    assert same == pytest.approx(1 / 7, abs=0.04), "the middle frame is one of seven"


def test_the_small_set_is_the_beginning_of_the_large_one() -> None:
    small, large = deblurring.load(SMALL), deblurring.load(AMBIGUOUS)
    assert {k: len(p) for k, p in small.items()} == {"train": 240, "validation": 100, "test": 100}
    for part, pairs in small.items():
        assert np.array_equal(pairs.blurry, large[part].blurry[: len(pairs)])
        assert np.array_equal(pairs.sharp, large[part].sharp[: len(pairs)])


def test_blurry_is_the_mean_of_the_frames_and_sharp_is_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = {}
    real = deblurring.exposure

    def record(pixels: np.ndarray, angles: np.ndarray) -> np.ndarray:
        frames["angles"], frames["all"] = angles, real(pixels, angles)
        return frames["all"]

    monkeypatch.setattr(deblurring, "exposure", record)
    parts = deblurring.digits_simulated_motion(False)
    stack = frames["all"].astype(np.float32)
    assert frames["angles"].min() >= 0 and frames["angles"].max() <= math.pi
    place = {f.tobytes(): (t, i) for t, frame in enumerate(stack) for i, f in enumerate(frame)}
    found = [place[x[0].tobytes()] for x in parts["train"].sharp]
    shares = np.bincount([t for t, _ in found], minlength=7) / len(found)
    assert shares == pytest.approx(np.full(7, 1 / 7), abs=0.05)
    residual = parts["train"].blurry[:, 0] - stack.mean(0)[[i for _, i in found]]
    assert residual.std() == pytest.approx(0.01, rel=0.02) and abs(residual.mean()) < 1e-4


def test_exposure_is_a_straight_motion_of_three_pixels_each_way() -> None:
    dot = np.zeros((2, 9, 9))
    dot[:, 4, 4] = 1
    frames = deblurring.exposure(dot, np.array([0.0, math.pi / 2]))
    assert frames.shape == (7, 2, 9, 9)
    for t in range(7):
        assert frames[t, 0, 4, 1 + t] == pytest.approx(1) and frames[t, 1, 1 + t, 4] == pytest.approx(1)
    assert frames.sum((2, 3)) == pytest.approx(1)


def test_translation_is_bilinear_and_zero_outside() -> None:
    pixels = np.arange(9.0).reshape(1, 3, 3)
    half = deblurring.translate(pixels, np.array([0.0]), np.array([0.5]))[0]
    assert half == pytest.approx(np.array([[0, 0.5, 1.5], [1.5, 3.5, 4.5], [3, 6.5, 7.5]]))
    assert (deblurring.translate(pixels, np.array([1.0]), np.array([0.0]))[0, 0] == 0).all()
    assert (deblurring.translate(pixels, np.array([7.0]), np.array([0.0])) == 0).all()


def test_enlargement_is_pytorchs_bilinear_one() -> None:
    pixels = np.random.default_rng(0).random((3, 8, 8))
    expected = torch.nn.functional.interpolate(
        torch.tensor(pixels)[None], size=(16, 16), mode="bilinear", align_corners=False
    )[0]
    found = deblurring.enlarge(pixels, 16, 4)
    assert found.shape == (3, 24, 24)
    assert found[:, 4:20, 4:20] == pytest.approx(expected.numpy())
    assert found.sum() == pytest.approx(expected.sum().item()), "the margin is zero"


def test_damaged_digits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bunch = images.load_digits()
    bunch.images[3, 4, 4] += 1
    monkeypatch.setattr(images, "load_digits", lambda: bunch)
    monkeypatch.setattr(images, "_load", lambda name, data_dir: images.LOADERS[name](data_dir))
    with pytest.raises(DataError, match=r"data=digits: load_digits\(\) has sha256"):
        deblurring.digits_simulated_motion(False)


def test_unknown_data_lists_the_known() -> None:
    with pytest.raises(DataError, match=rf"data=hide: unknown .* {AMBIGUOUS}, {CONTROL}, {SMALL}, gopro"):
        deblurring.load("hide")


# ---- GoPro ----


def write_gopro(root: Path, train: int = 3, test: int = 1, size: tuple[int, int] = (20, 26)) -> None:
    """Two pictures a sequence; the sharp one is the blurry one and 3 grey levels more."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for s in range(count):
            for kind in ("blur", "sharp"):
                (root / part / f"GOPR{s:04d}" / kind).mkdir(parents=True)
            for number in ("000047", "000048"):
                pixels = rng.integers(250, size=(*size, 3), dtype=np.uint8)
                for kind, array in (("blur", pixels), ("sharp", pixels + 3)):
                    image.fromarray(array).save(root / part / f"GOPR{s:04d}" / kind / f"{number}.png")


@pytest.mark.parametrize("folder", [".", "GOPRO_Large"])
def test_gopro_is_read_from_its_public_layout(tmp_path: Path, folder: str) -> None:
    write_gopro(tmp_path / folder)
    parts = deblurring.load("gopro", tmp_path)
    assert {k: len(p) for k, p in parts.items()} == {"train": 4, "validation": 2, "test": 2}
    sequences = {k: {path.parent.parent for path in p.blurry.paths} for k, p in parts.items()}
    assert not sequences["train"] & sequences["validation"], "no sequence is in both parts"
    for pairs in parts.values():
        assert pairs.blurry.sizes() == [(20, 26)] * len(pairs)
        for i in range(len(pairs)):
            assert pairs.blurry[i].shape == (3, 20, 26) and pairs.blurry[i].dtype == np.uint8
            assert (pairs.sharp[i] == pairs.blurry[i] + 3).all()


def test_gopro_trains_on_squares_and_tests_whole_pictures(tmp_path: Path) -> None:
    write_gopro(tmp_path)
    paper = MultiOutputDeblur()
    config = {**MultiOutputDeblur.space().paper_config("gopro"), "width": 8, "trunk": "nafnet", "crop": 16}
    config |= {"nafnet_levels": 2, "nafnet_deepest": 1, "batch_size": 3}
    paper.setup(config, Setting(data="gopro", data_dir=tmp_path, steps=2))
    assert paper.data.side == 16 and paper.data.channels == 3
    shapes = [tuple(x.shape) for x, _ in paper.data.batches(3)]
    assert shapes == [(3, 3, 16, 16), (1, 3, 16, 16)]
    for x, y in paper.data.batches(4):
        torch.testing.assert_close(y - x, torch.full_like(x, 3 / 255))
    while not paper.finished:
        assert all(math.isfinite(v) for v in paper.step().values())
    assert paper.data.evaluate(paper.net, "test").shape == (2, 10)
    assert paper.test()["test_psnr_selected"] > 15


def test_gopro_refusals_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data=gopro: data_dir is None; give the folder"):
        deblurring.gopro()
    with pytest.raises(DataError, match=r"0 sequences in .*train and 0 in .*test; at least 2 and 1"):
        deblurring.gopro(tmp_path)
    write_gopro(tmp_path)
    sharp = tmp_path / "train" / "GOPR0001" / "sharp" / "000048.png"
    content = sharp.read_bytes()
    sharp.unlink()
    with pytest.raises(DataError, match=r"GOPR0001 has not 000048.png in both blur and sharp; unpack"):
        deblurring.gopro(tmp_path)
    sharp.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"000048.png cannot be read \(cannot identify"):
        deblurring.gopro(tmp_path)
    # A header alone is not a picture: this is seen when it is decoded.
    sharp.write_bytes(content[:200])
    with pytest.raises(DataError, match=r"000048.png cannot be read \("):
        deblurring.gopro(tmp_path)["train"].sharp[3]
    other = tmp_path / "other"
    write_gopro(other, size=(10, 12))
    (other / "train" / "GOPR0001" / "sharp" / "000048.png").replace(sharp)
    with pytest.raises(DataError, match=r"has \(20, 26\) pixels, its sharp image \(10, 12\)"):
        deblurring.gopro(tmp_path)


def test_pillow_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gopro(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"data=gopro: .* need Pillow .* pip install 'fairsweep\[images\]'"):
        deblurring.gopro(tmp_path)


# ---- the task ----


def test_batches_are_one_epoch_of_pairs_that_belong_together() -> None:
    data = task.RestorationTask(CONTROL, None, "cpu", 256, False)
    torch.manual_seed(0)
    batches = list(data.batches(500))
    assert [len(x) for x, _ in batches] == [500, 500, 200]
    stored = data.parts["train"]
    pairs = {y.numpy().tobytes(): x for x, y in zip(stored.blurry, stored.sharp, strict=True)}
    seen = [(x, y) for xs, ys in batches for x, y in zip(xs, ys, strict=True)]
    assert all(torch.equal(pairs[y.numpy().tobytes()], x) for x, y in seen)
    assert len({y.numpy().tobytes() for _, y in seen}) == 1200
    assert not torch.equal(batches[0][1], stored.sharp[:500])


def test_squares_are_cut_and_turned_alike_and_in_every_way() -> None:
    torch.manual_seed(0)
    image = torch.arange(30.0).view(1, 5, 6)
    corners = set()
    for _ in range(200):
        a, b = task.random_square(image, image + 100, 3)
        assert a.shape == (1, 3, 3) and torch.equal(a + 100, b)
        corners.add(int(a[0, 0, 0]))
    assert corners == {6 * row + column for row in range(3) for column in range(4)}
    square = torch.arange(9.0).view(1, 1, 3, 3).expand(300, 1, 3, 3)
    a, b = task.random_symmetry(square, square + 100)
    assert torch.equal(a + 100, b)
    assert len({x.numpy().tobytes() for x in a}) == 8


def test_crop_is_at_most_the_image() -> None:
    assert task.RestorationTask(AMBIGUOUS, None, "cpu", 256, False).side == 24
    data = task.RestorationTask(AMBIGUOUS, None, "cpu", 10, True)
    assert data.side == 10 and next(iter(data.batches(5)))[0].shape == (5, 1, 10, 10)


def test_evaluation_is_the_psnr_of_every_image_and_output() -> None:
    data = task.RestorationTask(CONTROL, None, "cpu", 256, False)
    found = data.evaluate(Copies(0.0, 0.1, -5.0), "test", size=77)
    stored = data.parts["test"]
    assert found.shape == (400, 3)
    for column, offset in ((0, 0.0), (1, 0.1)):
        error = ((stored.blurry + offset).clamp(0, 1) - stored.sharp).double().square().mean((1, 2, 3))
        torch.testing.assert_close(found[:, column].double(), -10 * torch.log10(error), rtol=1e-4, atol=1e-4)
    # An output far below black is clipped to black.
    power = stored.sharp.double().square().mean((1, 2, 3))
    torch.testing.assert_close(found[:, 2].double(), -10 * torch.log10(power), rtol=1e-4, atol=1e-4)


def test_psnr_in_decibels() -> None:
    values = task.psnr(torch.tensor([1.0, 0.01, 1e-4, 0.0]))
    assert values.tolist() == pytest.approx([0, 20, 40, 100])


def test_win_shares_and_effective_outputs() -> None:
    values = torch.tensor([[3.0, 1, 2, 0], [5, 1, 2, 0], [1, 4, 0, 0], [2, 7, 0, 0]])
    assert task.win_shares(values).tolist() == [0.5, 0.5, 0, 0]
    assert task.summary(values)["effective_outputs"] == pytest.approx(2)
    assert task.summary(values[:2])["effective_outputs"] == pytest.approx(1)
    assert task.summary(torch.eye(5))["effective_outputs"] == pytest.approx(5)


def test_only_declared_metrics_are_named() -> None:
    found = task.summary(torch.rand(4, 3))
    assert set(task.named("val", found)) == {
        "val_psnr_best_overall",
        "val_psnr_best_single",
        "val_psnr_worst",
        "val_effective_outputs",
    }
    assert set(task.named("test", found)) | {"test_psnr_selected"} == {
        m.name for m in task.METRICS if m.split == "test"
    }
