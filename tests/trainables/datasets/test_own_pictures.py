"""Folders of images of the user's own: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.describe import describe
from fairsweep.trainables.datasets.own import pictures
from fairsweep.trainables.tasks.denoising import DenoisingTask
from fairsweep.trainables.tasks.image_classification import ImageTask

GREY = np.full((4, 4), 100, np.uint8)


def save(path: Path, pixels: np.ndarray = GREY, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def classes(folder: Path, names: str = "ab", count: int = 4, below: str = "") -> Path:
    """`count` images of each class, all different."""
    for k, name in enumerate(names):
        for i in range(count):
            save(folder / below / name / f"{i}.png", np.full((4, 4), 50 * k + i + len(below), np.uint8))
    return folder


def test_a_folder_a_class_is_split_alike_for_every_seed(tmp_path: Path) -> None:
    data = pictures.classified(classes(tmp_path, count=10))
    assert data.names == ("a", "b") and data.test_images.shape == (4, 1, 4, 4)
    keep, held_out = data.split()
    assert (len(keep), len(held_out)) == (12, 4) and data.test_labels.tolist() == [0, 0, 1, 1]
    seen = np.concatenate([data.train_images, data.test_images])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == [*range(10), *range(50, 60)]
    task = ImageTask("own", tmp_path, "cpu")
    assert task.names == ("a", "b") and {p: len(y) for p, (_, y) in task.parts.items()} == {
        "train": 12,
        "validation": 4,
        "test": 4,
    }
    assert describe(data).classes["test"] == {"a": 2, "b": 2}


def test_folders_of_parts_and_what_is_no_image(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        classes(tmp_path, count=count, below=part)
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    data = pictures.classified(tmp_path)
    assert [len(part) for part in data.split()] == [10, 4] and len(data.test_labels) == 6
    assert data.train_images[data.split()[1]][:, 0, 0, 0].tolist() == [3, 4, 53, 54]
    assert describe(data).dropped == {"files that are no images": 1} and describe(data).leaks
    for i in range(2):
        (tmp_path / "val" / "a" / f"{i}.png").unlink()
    (tmp_path / "val" / "a").rmdir()
    assert len(pictures.classified(tmp_path).split()[1]) == 2


def test_what_other_programs_leave_is_no_example_and_links_to_nothing_are_said(tmp_path: Path) -> None:
    classes(tmp_path, count=5)
    before = describe(pictures.classified(tmp_path))
    for place in (".ipynb_checkpoints", "__MACOSX", ".thumbnails"):
        save(tmp_path / "a" / place / "0-checkpoint.png")
    (tmp_path / "a" / "._0.png").write_bytes(b"x")
    assert describe(pictures.classified(tmp_path)) == before
    (tmp_path / "a" / "9.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"9\.png is a link to .*gone\.png, which is not there"):
        pictures.classified(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "car"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png")
    assert pictures.classified(tmp_path).names == ("car", "train")


def test_images_are_made_of_one_size_where_it_is_said(tmp_path: Path) -> None:
    classes(tmp_path)
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 255
    save(tmp_path / "a" / "wide.png", wide)
    (tmp_path / "images.json").write_text('{"side": 2}')
    data = pictures.classified(tmp_path)
    everything = np.concatenate([data.train_images, data.test_images])
    assert everything.shape == (9, 3, 2, 2) and (everything == 255).all((1, 2, 3)).sum() == 1
    (tmp_path / "images.json").write_text('{"side": 2, "channels": 1, "augmentation": "crop"}')
    data = pictures.classified(tmp_path)
    assert data.train_images.shape[1:] == (1, 2, 2) and data.augmentation == "crop"


def test_transparent_pixels_lie_on_white_and_photographs_are_turned(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[0, :, 3] = 255
    path = save(tmp_path / "a.png", clear)
    x = pictures.pixels(tmp_path, [path], pictures.Options())
    assert x[0, :, 0].max() == 0 and x[0, :, 1:].min() == 255
    turned = GREY.copy()
    turned[0] = 250
    exif = Image.Exif()
    exif[0x0112] = 3
    path = save(tmp_path / "b.png", turned, exif=exif)
    assert pictures.pixels(tmp_path, [path], pictures.Options())[0, 0, :, 0].tolist() == [100, 100, 100, 250]


def test_masks_and_pairs_belong_to_images_of_their_name(tmp_path: Path) -> None:
    for i in range(6):
        inside = np.zeros((4, 4), np.uint8)
        inside[0, : i % 4] = 255 if i % 2 else 1
        save(tmp_path / "images" / f"{i}.jpg", np.full((4, 4), 40 * i, np.uint8))
        save(tmp_path / "masks" / f"{i}.png", inside)
    data = pictures.segmented(tmp_path)
    for part, count in (("train", 4), ("validation", 1), ("test", 1)):
        assert len(data.images[part]) == count
        for image, mask in zip(data.images[part], data.masks[part], strict=True):
            assert mask.sum() == round(image.mean() / 40) % 4
    folder = tmp_path / "pairs"
    for i in range(3):
        for kind in ("degraded", "clean"):
            save(folder / kind / f"{i}.png", np.full((4 + i, 4), i, np.uint8))
    found = pictures.restored(folder)
    assert {part: len(pairs) for part, pairs in found.items()} == {"train": 1, "validation": 1, "test": 1}
    assert all(pairs.blurry[0].shape == pairs.sharp[0].shape for pairs in found.values())


def test_denoising_draws_no_more_than_there_are(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "deep" / "er" / f"{i}.png", np.full((8, 8), i, np.uint8))
    task = DenoisingTask("own", tmp_path, "cpu", 800, np.random.default_rng(0))
    assert [len(x) for x in (*task.train, task.validation, task.test)] == [4, 4, 2, 2]


def written(*steps: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda folder: [step(folder) for step in steps] and None


def option(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "images.json").write_text(text)


def pairs(first: str, second: str, count: int = 4) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        for i in range(count):
            save(folder / first / f"{i}.png")
            save(folder / second / f"{i}.png", (GREY > 0).astype(np.uint8))

    return write


FAULTS = [
    ("classified", lambda folder: None, "holds nothing; needs a folder of images for each class"),
    ("classified", lambda f: classes(f, "a"), "has one class, 'a'; needs two folders at least"),
    ("classified", written(classes, lambda f: save(f / "loose.png")), "loose.png is in no folder of a class"),
    ("classified", written(classes, lambda f: (f / "c").mkdir()), "c holds no image (.png, .jpg"),
    ("classified", lambda f: classes(f, count=2), "the class 'a' has 2 images; needs 3 at least"),
    ("classified", lambda f: classes(f, below="train"), "has train and no test"),
    (
        "classified",
        written(lambda f: classes(f, below="train"), lambda f: classes(f, "abc", below="test")),
        "test/c is a class that train has not; it has a, b",
    ),
    (
        "classified",
        written(classes, lambda f: save(f / "a" / "z.png", np.zeros((4, 5), np.uint8))),
        'a/z.png has 5 x 4 pixels, a/0.png 4 x 4; must be of one size; {"side": 4} in images.json cuts all',
    ),
    (
        "classified",
        written(
            *[
                lambda f, n=n: save(f / n[0] / f"{n}.png", np.zeros((4, 6), np.uint8))
                for n in ("a1", "a2", "a3", "b1", "b2", "b3")
            ]
        ),
        "a/a1.png has 6 x 4 pixels; must be square",
    ),
    (
        "classified",
        written(classes, lambda f: (f / "a" / "z.png").write_bytes(b"no image")),
        "a/z.png cannot be read as an image (cannot identify image file",
    ),
    (
        "classified",
        written(classes, lambda f: save(f / "a" / "z.png", np.zeros((4, 4), np.uint16))),
        "a/z.png has pixels of mode I;16; must be of 8 bits, grey or coloured",
    ),
    (
        "classified",
        written(
            classes,
            lambda f: Image.fromarray(GREY).save(
                f / "a" / "z.tif", save_all=True, append_images=[Image.fromarray(GREY)]
            ),
        ),
        "a/z.tif has 2 pictures in it; must have one",
    ),
    ("classified", written(classes, option("{side: 3}")), "images.json is not JSON"),
    ("classified", written(classes, option('{"size": 3}')), "images.json has size; known are side, channels"),
    (
        "classified",
        written(classes, option('{"side": "big"}')),
        "images.json: side is 'big'; must be pixels, 1 to",
    ),
    ("classified", written(classes, option('{"channels": 2}')), "images.json: channels is 2; must be 1 or 3"),
    (
        "segmented",
        lambda f: (f / "images").mkdir(),
        "has no folder masks; needs the folders images and masks",
    ),
    (
        "segmented",
        written(pairs("images", "masks"), lambda f: save(f / "images" / "z.png")),
        "images/z.png has no partner in masks",
    ),
    (
        "segmented",
        written(pairs("images", "masks"), lambda f: save(f / "images" / "0.jpg")),
        "images has 0.jpg and 0.png; names must differ by more than their endings",
    ),
    ("segmented", pairs("images", "masks", 2), "2 pairs; needs three at least, one for each part"),
    (
        "segmented",
        written(
            pairs("images", "masks"), lambda f: save(f / "masks" / "1.png", np.full((4, 4), 7, np.uint8))
        ),
        "masks/1.png has values up to 7, must have 0 and 255, or 0 and 1",
    ),
    (
        "segmented",
        written(pairs("images", "masks"), lambda f: save(f / "masks" / "1.png", np.zeros((5, 4), np.uint8))),
        "masks/1.png has 4 x 5 pixels, its image 4 x 4; must be of one size",
    ),
    (
        "segmented",
        lambda f: [save(f / kind / f"{i}.png", 0 * GREY) for kind in ("images", "masks") for i in range(4)],
        "no mask in",
    ),
    ("restored", pairs("degraded", "sharp"), "has no folder clean; needs the folders degraded and clean"),
    (
        "restored",
        written(
            pairs("degraded", "clean"), lambda f: save(f / "clean" / "1.png", np.zeros((5, 4), np.uint8))
        ),
        "1.png has (4, 4) pixels, its clean image (5, 4)",
    ),
    (
        "restored",
        written(
            pairs("degraded", "clean"), lambda f: (f / "clean" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        ),
        "clean/1.png cannot be read as an image",
    ),
    ("alone", lambda f: None, "holds no image (.png"),
    ("alone", lambda f: save(f / "a.png"), "1 images; needs three at least, one for each part"),
]


@pytest.mark.parametrize("loader, write, message", FAULTS, ids=[f"{f[0]}: {f[2][:40]}" for f in FAULTS])
def test_what_is_wrong_is_one_line_that_says_where(
    tmp_path: Path, loader: str, write: Callable[[Path], Any], message: str
) -> None:
    write(tmp_path)
    with pytest.raises(DataError) as caught:
        getattr(pictures, loader)(tmp_path)
    said = str(caught.value)
    assert said.startswith("data=own: ") and message in said and "\n" not in said
