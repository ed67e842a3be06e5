"""Binary segmentation data: nuclei that ship in a package, generated lesions, ISIC 2017 and 2018, PH2.

Every loader returns square 8-bit images and their masks in three parts, the same for every trial.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.cache import cached_arrays, content_digest
from fairsweep.trainables.datasets.fetch import wheel_member
from fairsweep.trainables.datasets.kinds import Segmented, foreground
from fairsweep.trainables.datasets.own import pictures

PARTS = ("train", "validation", "test")


# ---- nuclei ----

_NUCLEI = "stardist==0.9.2"
_PICTURE = (
    "stardist/data/images/img2d.tif",
    "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750",
)
_INSTANCES = (
    "stardist/data/images/mask2d.tif",
    "59ad5e820b7982ca9d13e946fa6e7f64e2714899e00a2ae6c69aa79aad53d46f",
)


def tiles(plane: np.ndarray, side: int, stride: int) -> np.ndarray:
    """All `side` x `side` cuts (n, side, side) of a plane (h, w), `stride` pixels apart, row by row."""
    windows = np.lib.stride_tricks.sliding_window_view(plane, (side, side))[::stride, ::stride]
    return windows.reshape(-1, side, side)


def stardist_nuclei(data_dir: Path | None = None) -> Segmented:
    """Nuclei against background in one fluorescence micrograph of 512 x 512, cut into 1 x 32 x 32.

    Training: the upper 256 rows in 300 cuts, 20 pixels apart; validation and test: the next and the last 128
    rows in 64 cuts each that do not overlap. About a fifth of the pixels are foreground; 125 nuclei.
    Source: the example picture of StarDist (Schmidt et al. 2018) in PyPI stardist 0.9.2 (BSD-3).
    """
    planes = []
    for member, checksum in (_PICTURE, _INSTANCES):
        content = wheel_member("stardist_nuclei", _NUCLEI, member, checksum)
        # The verified file is a TIFF of one uncompressed strip, little-endian, after a header of 256 bytes.
        planes.append(np.frombuffer(content, "<u2", 512 * 512, offset=256).reshape(512, 512))
    picture, mask = planes[0].astype(np.uint8), planes[1] > 0
    rows = {"train": (slice(0, 256), 20), "validation": (slice(256, 384), 32), "test": (slice(384, 512), 32)}
    return Segmented(
        "stardist_nuclei",
        {part: tiles(picture[cut], 32, stride)[:, None] for part, (cut, stride) in rows.items()},
        {part: tiles(mask[cut], 32, stride) for part, (cut, stride) in rows.items()},
    )


# ---- generated lesions ----


def _hairs(rng: np.random.Generator, side: int, hairs: int) -> np.ndarray:
    """Where `hairs` straight lines of one pixel's width run across a picture: bool (side, side)."""
    drawn = np.zeros((side, side), dtype=bool)
    for _ in range(hairs):
        start, end = rng.uniform(0, side, (2, 2))
        points = start + np.linspace(0, 1, 2 * side)[:, None] * (end - start)
        drawn[tuple(points.astype(int).T)] = True
    return drawn


def draw_lesion(rng: np.random.Generator, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """One generated dermoscopic image: uint8 (3, side, side) and mask bool (side, side).

    The mask is r < r0 (1 + sum over k = 2..5 of a_k cos(k t + f_k)) in polar coordinates around a centre, with
    r0 ~ U(5, 11) at 32 pixels, a_k ~ U(0, 0.15). Inside, the skin is darker by 0.15 to 0.4 with an edge that
    is soft over 1.5 pixels; then eight dark hairs, a gradient of illumination and noise of deviation 0.08.
    """
    scale = side / 32
    rows, columns = np.mgrid[:side, :side] + 0.5
    centre = rng.uniform(12 * scale, 20 * scale, 2)
    radius = np.hypot(rows - centre[0], columns - centre[1])
    angle = np.arctan2(rows - centre[0], columns - centre[1])
    orders = np.arange(2, 6)[:, None, None]
    waves = rng.uniform(0, 0.15, (4, 1, 1)) * np.cos(orders * angle + rng.uniform(0, 2 * np.pi, (4, 1, 1)))
    border = rng.uniform(5, 11) * scale * (1 + waves.sum(0))
    skin = np.array([0.85, 0.68, 0.58]) + rng.uniform(-0.06, 0.06, 3)
    darkening = rng.uniform(0.15, 0.4, 3)
    inside = 1 / (1 + np.exp((radius - border) / (1.5 * scale)))
    image = skin[:, None, None] - darkening[:, None, None] * inside
    image[:, _hairs(rng, side, 8)] *= rng.uniform(0.3, 0.6)
    direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.15)
    slope = (np.cos(direction) * (rows / side - 0.5) + np.sin(direction) * (columns / side - 0.5)) * 2
    image = image + strength * slope + rng.normal(0, 0.08, image.shape)
    return (255 * image.clip(0, 1)).round().astype(np.uint8), radius < border


def _lesions(name: str, counts: tuple[int, int, int]) -> Segmented:
    rng = np.random.default_rng(2022)
    drawn = {part: [draw_lesion(rng) for _ in range(n)] for part, n in zip(PARTS, counts, strict=True)}
    return Segmented(
        name,
        {part: np.stack([image for image, _ in pairs]) for part, pairs in drawn.items()},
        {part: np.stack([mask for _, mask in pairs]) for part, pairs in drawn.items()},
    )


def synthetic_lesions(data_dir: Path | None = None) -> Segmented:
    """300 training, 100 validation and 200 test images by `draw_lesion`, 3 x 32 x 32, always the same ones."""
    return _lesions("synthetic_lesions", (300, 100, 200))


def synthetic_lesions_small(data_dir: Path | None = None) -> Segmented:
    """The same with 48, 16 and 16 images, for runs of seconds."""
    return _lesions("synthetic_lesions_small", (48, 16, 16))


# ---- dermoscopy on disk ----

SIDE = 224  # pixels after resizing, as the authors trained
_ISIC = (
    70,
    10,
    20,
)  # per cent: 1400/200/400 of ISIC 2017 and 1815/259/520 of ISIC 2018, in the order of the names
LAYOUTS: dict[str, tuple[str, str, str, tuple[int, ...]]] = {
    # images, masks, what the mask's name adds to the image's, and the parts in per cent
    "isic2017": (
        "ISIC-2017_Training_Data/ISIC_*.jpg",
        "ISIC-2017_Training_Part1_GroundTruth/ISIC_*_segmentation.png",
        "_segmentation",
        _ISIC,
    ),
    "isic2018": (
        "ISIC2018_Task1-2_Training_Input/ISIC_*.jpg",
        "ISIC2018_Task1_Training_GroundTruth/ISIC_*_segmentation.png",
        "_segmentation",
        _ISIC,
    ),
    "ph2": (
        "PH2 Dataset images/IMD*/IMD*_Dermoscopic_Image/IMD*.bmp",
        "PH2 Dataset images/IMD*/IMD*_lesion/IMD*_lesion.bmp",
        "_lesion",
        (40, 10, 50),
    ),
}


def part_ends(images: int, shares: tuple[int, ...]) -> list[int]:
    """Where training and validation end among `images` in order, given the parts' shares in per cent."""
    train, validation = (images * share // 100 for share in shares[:2])
    return [train, train + validation]


def _pairs(name: str, data_dir: Path | None) -> list[tuple[Path, Path]]:
    images, masks, suffix, _ = LAYOUTS[name]
    if data_dir is None:
        raise DataNotFound(f"data={name}: data_dir is None; give the folder with {images} and {masks}")
    pictures = sorted(data_dir.glob(images))
    outlines = {path.stem.removesuffix(suffix): path for path in data_dir.glob(masks)}
    if len(pictures) < 10:
        raise (DataError if pictures else DataNotFound)(
            f"data={name}: {len(pictures)} images {images} in data_dir={data_dir}, at least 10 are needed;"
            " unpack the published archives there"
        )
    alone = [path.name for path in pictures if path.stem not in outlines]
    if alone:
        raise DataError(
            f"data={name}: {alone[0]} and {len(alone) - 1} other images have no mask {masks}"
            f" in data_dir={data_dir}; unpack the archive of the masks there"
        )
    return [(path, outlines[path.stem]) for path in pictures]


def _opened(pillow: Any, name: str, path: Path, read: Callable[[Any], Any]) -> Any:
    try:
        with pillow.open(path) as image:
            return read(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"data={name}: {path} cannot be read ({error}); unpack it again") from None


def _pair(pillow: Any, name: str, picture: Path, outline: Path) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 (3, SIDE, SIDE) and its mask bool (SIDE, SIDE). DataError if they do not fit each other."""
    resampling = pillow.Resampling

    def image(opened: Any) -> tuple[tuple[int, int], np.ndarray]:
        return opened.size, np.asarray(opened.convert("RGB").resize((SIDE, SIDE), resampling.BILINEAR))

    def mask(opened: Any) -> tuple[tuple[int, int], Any]:
        return opened.size, foreground(opened)

    size, pixels = _opened(pillow, name, picture, image)
    other, inside = _opened(pillow, name, outline, mask)
    if isinstance(inside, str):
        raise DataError(f"data={name}: {outline} {inside}")
    if size != other:
        raise DataError(
            f"data={name}: {outline} is {other[0]} x {other[1]}, its image {picture.name} {size[0]} x {size[1]};"
            " they must be of one size"
        )
    # Masks stay masks: the nearest pixel, not a mixture.
    small = pillow.fromarray(inside).resize((SIDE, SIDE), resampling.NEAREST)
    return pixels.transpose(2, 0, 1), np.asarray(small)


def _dermoscopy(name: str, data_dir: Path | None) -> Segmented:
    """ISIC 2017, ISIC 2018 (task 1) or PH2 in the folders of their archives, resized to 224 x 224.

    The three parts are cut out of the published training images in the order of their names, ISIC 70/10/20 %
    and PH2 40/10/50 %, the counts of the authors' experiments. Sources: Codella et al. 2018 and 2019 (ISIC
    terms of use, 2018: CC BY-NC 4.0) and Mendonça et al. 2013 (research and education). The organisers publish
    no checksums of the files. Masks hold 0 and 255, or 0 and 1, and have the size of their image. Needs Pillow.
    """
    pairs = _pairs(name, data_dir)

    def convert() -> dict[str, np.ndarray]:
        try:
            from PIL import Image
        except ImportError:
            raise DataError(
                f"data={name}: Pillow is not installed, which reads its images; pip install 'fairsweep[images]'"
            ) from None
        images, masks = zip(*(_pair(Image, name, *pair) for pair in pairs), strict=True)
        return {"images": np.stack(images), "masks": np.stack(masks)}

    assert data_dir is not None
    digest = content_digest(data_dir, [path for pair in pairs for path in pair])
    arrays = cached_arrays(f"{name}-v2-{SIDE}-{digest}", convert)
    ends = part_ends(len(pairs), LAYOUTS[name][3])
    return Segmented(
        name,
        dict(zip(PARTS, np.split(arrays["images"], ends), strict=True)),
        dict(zip(PARTS, np.split(arrays["masks"], ends), strict=True)),
    )


LOADERS: dict[str, Callable[[Path | None], Segmented]] = {
    "stardist_nuclei": stardist_nuclei,
    "synthetic_lesions": synthetic_lesions,
    "synthetic_lesions_small": synthetic_lesions_small,
    **{name: partial(_dermoscopy, name) for name in LAYOUTS},
    "own": pictures.segmented,
}


@lru_cache(maxsize=2)
def _load(name: str, data_dir: Path | None) -> Segmented:
    return LOADERS[name](data_dir)


def load(name: str, data_dir: Path | None = None) -> Segmented:
    """The data set `name`, read once per process. `DataError` if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown segmentation data set; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))
