"""Converted pictures are those of the files that are there, and masks are what they were drawn as."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import cache, faces, segmentation

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(segmentation, "SIDE", 8)


def lesions(folder: Path, grey: int = 100, n: int = 10, size: tuple[int, int] = (8, 8)) -> Path:
    """`n` pictures of one grey in the layout of ISIC 2018; the left half is the lesion."""
    images, masks = (folder / p.split("/")[0] for p in segmentation.LAYOUTS["isic2018"][:2])
    for path in (images, masks):
        path.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], np.uint8)
    mask[:, : size[0] // 2] = 255
    for i in range(n):
        # Uncompressed, so that pictures of another grey have the same number of bytes.
        Image.fromarray(np.full((*size[::-1], 3), grey, np.uint8)).save(images / f"ISIC_{i:07}.jpg", "BMP")
        Image.fromarray(mask).save(masks / f"ISIC_{i:07}_segmentation.png")
    return folder


def redraw(folder: Path, picture: Image.Image, i: int = 0) -> Path:
    path = folder / "ISIC2018_Task1_Training_GroundTruth" / f"ISIC_{i:07}_segmentation.png"
    picture.save(path)
    return path


def isic(folder: Path) -> segmentation.Segmented:
    return segmentation.LOADERS["isic2018"](folder)


def test_pictures_of_equal_names_and_sizes_are_told_apart(tmp_path: Path) -> None:
    first, other = lesions(tmp_path / "a", 100), lesions(tmp_path / "b", 200)
    sizes = [sorted(p.stat().st_size for p in f.rglob("*.jpg")) for f in (first, other)]
    assert sizes[0] == sizes[1]
    assert (isic(first).images["train"] == 100).all() and (isic(other).images["train"] == 200).all()
    lesions(first, 50)
    assert (isic(first).images["train"] == 50).all(), "changed in place"


def test_faces_of_equal_names_and_sizes_are_told_apart(tmp_path: Path) -> None:
    for name, grey in (("a", 100), ("b", 200)):
        folder = tmp_path / name / "img_align_celeba"
        folder.mkdir(parents=True)
        for number in (1, 162771, 182638):
            Image.fromarray(np.full((218, 178, 3), grey, np.uint8)).save(folder / f"{number:06}.jpg", "BMP")
    assert [int(faces.celeba(tmp_path / n).test_images[0, 0, 0, 0]) for n in "ab"] == [100, 200]


def test_the_digest_of_files_at_rest_is_kept_and_any_change_undoes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in ("x", "y")]
    for path in paths:
        path.write_bytes(b"1234")
    fresh = cache.content_digest(tmp_path, paths)
    assert not (tmp_path / "cache" / "digests").exists(), "they have just been written"
    monkeypatch.setattr(time, "time", lambda: paths[0].stat().st_ctime + 60)
    assert cache.content_digest(tmp_path, paths) == fresh
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda self: pytest.fail("reads it again"))
        patched.setattr(cache, "made_once", lambda path, *_: path)
        assert cache.content_digest(tmp_path, paths) == fresh
    times = paths[0].stat()
    time.sleep(0.02)
    paths[0].write_bytes(b"4321")
    os.utime(paths[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.content_digest(tmp_path, paths) != fresh, "same size, same time of modification"
    renamed = paths[1].rename(tmp_path / "z")
    paths[0].write_bytes(b"1234")
    assert cache.content_digest(tmp_path, [paths[0], renamed]) != fresh, "another name"


def left(values: tuple[int, int], mode: str = "L", palette: list[int] | None = None) -> Image.Image:
    """A mask whose left half has the second value."""
    drawn = np.full((8, 8), values[0], np.uint8)
    drawn[:, :4] = values[1]
    if mode == "1":
        return Image.fromarray(drawn > 0)
    picture = Image.fromarray(drawn)
    if palette is not None:
        picture = Image.frombytes("P", (8, 8), drawn.tobytes())
        picture.putpalette(palette)
    return picture.convert(mode) if palette is None else picture


@pytest.mark.parametrize(
    "picture",
    [
        left((0, 255)),
        left((0, 1)),
        left((0, 1), "1"),
        left((3, 250)),
        left((0, 255), "RGB"),
        left((0, 1), "P", [0, 0, 0, 128, 0, 0]),
        left((0, 1), "P", [0, 0, 0, 255, 255, 255]),
        left((1, 0), "P", [255, 255, 255, 0, 0, 0]),
    ],
    ids=[
        "0-255",
        "0-1",
        "bits",
        "nearly",
        "colours",
        "dark palette",
        "bright palette",
        "palette upside down",
    ],
)
def test_masks_of_either_convention_have_the_same_foreground(tmp_path: Path, picture: Image.Image) -> None:
    folder = lesions(tmp_path / "a")
    redraw(folder, picture)
    found = isic(folder).masks["train"]
    assert found[0].dtype == bool and found[0][:, :4].all() and not found[0][:, 4:].any()
    assert np.array_equal(found[0], found[1])


def test_a_mask_without_foreground_and_one_without_background_are_read(tmp_path: Path) -> None:
    folder = lesions(tmp_path / "a")
    redraw(folder, left((0, 0)), 0)
    redraw(folder, left((1, 1)), 1)
    found = isic(folder).masks["train"]
    assert not found[0].any() and found[1].all()


@pytest.mark.parametrize(
    "picture, message",
    [
        (left((0, 2)), "has values up to 2, must have 0 and 255, or 0 and 1"),
        (left((0, 127)), "has values up to 127"),
        (Image.fromarray(np.full((8, 8), 65535, np.uint16)), "has pixels of mode I;16, must be 8-bit grey"),
        (
            Image.fromarray(np.zeros((8, 16), np.uint8)),
            "is 16 x 8, its image ISIC_0000000.jpg 8 x 8; they must",
        ),
        (
            Image.fromarray(np.zeros((16, 8), np.uint8)),
            "is 8 x 16, its image ISIC_0000000.jpg 8 x 8; they must",
        ),
    ],
)
def test_a_mask_that_cannot_be_one_is_named(tmp_path: Path, picture: Image.Image, message: str) -> None:
    folder = lesions(tmp_path / "a")
    path = redraw(folder, picture)
    with pytest.raises(DataError) as caught:
        isic(folder)
    assert str(caught.value).startswith(f"data=isic2018: {path} {message}")
