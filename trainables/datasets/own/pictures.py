"""Folders of images of the user's own: a folder a class, pairs of folders, or images alone.

Images are of one size and square, or `images.json` beside them says what to make of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.cache import cached_arrays, content_digest
from fairsweep.trainables.datasets.faces import Faces
from fairsweep.trainables.datasets.kinds import Images, Pairs, Segmented, foreground, paired, pillow
from fairsweep.trainables.datasets.own import tables
from fairsweep.trainables.datasets.own.folders import class_files, files_in, part_folders, short, split_files
from fairsweep.trainables.datasets.own.splits import PARTS
from fairsweep.trainables.datasets.own.tables import NAME

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
OPTIONS = "images.json"
KEPT_FROM = 500  # images; converting fewer takes no longer than reading them converted
AUGMENTATIONS = ("none", "crop", "crop_flip")

CLASSES = "a folder of images for each class, or train, validation and test with such folders in them"
MASKED = (
    "the folders images and masks, with files of the same names, or train, validation and test with these in"
)
DEGRADED = "the folders degraded and clean, with files of the same names, or train, validation and test with these in"
ALONE = "images, or train, validation and test with images in them"


@dataclass(frozen=True)
class Options:
    """What `images.json` says. side: each image is cut to its central square and scaled to `side` pixels; 0: as it is.
    channels: 1 (grey) or 3; 0: grey if all images are. augmentation: of training images."""

    side: int = 0
    channels: int = 0
    augmentation: str = "none"


def options_in(folder: Path) -> Options:
    """What `images.json` in `folder` says; nothing where there is none. DataError if it is not of that form."""
    path = folder / OPTIONS
    if not path.is_file():
        return Options()
    where = f"data={NAME}: {OPTIONS}"
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise DataError(f'{where} is not JSON ({error}); must be such as {{"side": 32}}') from None
    known = vars(Options())
    unknown = sorted(set(found) - set(known)) if isinstance(found, dict) else ["no names and values"]
    if unknown:
        raise DataError(f"{where} has {unknown[0]}; known are {', '.join(known)}")
    right = {
        "side": lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 4096,
        "channels": lambda v: v in (1, 3) and not isinstance(v, bool),
        "augmentation": lambda v: v in AUGMENTATIONS,
    }
    wanted = {"side": "pixels, 1 to 4096", "channels": "1 or 3", "augmentation": ", ".join(AUGMENTATIONS)}
    for key, value in found.items():
        if not right[key](value):
            raise DataError(f"{where}: {key} is {value!r}; must be {wanted[key]}")
    return Options(**found)


# ---- pixels ----


def _opened(path: Path, folder: Path, read: Any) -> Any:
    image_module = pillow(NAME)
    try:
        with image_module.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise DataError(
                    f"data={NAME}: {short(path, folder)} has {image.n_frames} pictures in it; must have one"
                )
            return read(image)
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(error).replace(str(path), path.name).split())
        raise DataError(f"data={NAME}: {short(path, folder)} cannot be read as an image ({reason})") from None


def _upright(image: Any, path: Path, folder: Path) -> Any:
    """A picture as it is looked at, in grey or in colours; transparent pixels on white."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.mode == "LA" or image.mode == "RGBA" or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        flat = Image.alpha_composite(white, rgba)
        return flat.convert("L" if image.mode == "LA" else "RGB")
    if image.mode in ("P", "RGB", "CMYK", "YCbCr"):
        return image.convert("RGB")
    raise DataError(
        f"data={NAME}: {short(path, folder)} has pixels of mode {image.mode}; must be of 8 bits, grey or coloured"
    )


def _square(image: Any, side: int, resampling: Any) -> Any:
    """The central square of a picture, scaled to `side`."""
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    # Cut first: a box of `resize` lets in what lies beside it.
    return image.crop((left, top, left + edge, top + edge)).resize((side, side), resampling)


def _one_size(sizes: Mapping[Path, tuple[int, int]], folder: Path) -> None:
    """DataError unless all images are of one size, and square."""
    first, expected = next(iter(sizes.items()))
    advice = f'; {{"side": {min(expected)}}} in {OPTIONS} cuts all to squares of that many pixels'
    for path, size in sizes.items():
        if size != expected:
            raise DataError(
                f"data={NAME}: {short(path, folder)} has {size[0]} x {size[1]} pixels, {short(first, folder)}"
                f" {expected[0]} x {expected[1]}; must be of one size{advice}"
            )
    if expected[0] != expected[1]:
        raise DataError(
            f"data={NAME}: {short(first, folder)} has {expected[0]} x {expected[1]} pixels; must be square{advice}"
        )


def _kept(
    kind: str, folder: Path, paths: Sequence[Path], options: Options, convert: Any
) -> dict[str, np.ndarray]:
    if len(paths) < KEPT_FROM:
        return convert()
    digest = content_digest(folder, paths)
    return cached_arrays(f"own-{kind}-v1-{options.side}-{options.channels}-{digest}", convert)


def pixels(folder: Path, paths: Sequence[Path], options: Options) -> np.ndarray:
    """The images uint8 (n, channels, side, side). DataError, with the file, for one that is none or of another size."""

    def convert() -> dict[str, np.ndarray]:
        resampling = pillow(NAME).Resampling.BILINEAR
        found, sizes = [], {}
        for path in paths:
            picture = _opened(path, folder, lambda image, path=path: _upright(image, path, folder))
            sizes[path] = picture.size
            found.append(_square(picture, options.side, resampling) if options.side else picture)
        if not options.side:
            _one_size(sizes, folder)
        mode = {0: "L" if all(p.mode == "L" for p in found) else "RGB", 1: "L", 3: "RGB"}[options.channels]
        arrays = [np.asarray(picture.convert(mode)) for picture in found]
        stacked = np.stack(arrays)
        return {"x": stacked[:, None] if mode == "L" else np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))}

    return _kept("images", folder, paths, options, convert)["x"]


def masks(folder: Path, paths: Sequence[Path], pictures: Sequence[Path], options: Options) -> np.ndarray:
    """The masks bool (n, side, side) of `pictures`, which must be of the same sizes. DataError, with the file."""

    def convert() -> dict[str, np.ndarray]:
        module = pillow(NAME)
        found = []
        for path, picture in zip(paths, pictures, strict=True):
            inside = _opened(path, folder, foreground)
            if isinstance(inside, str):
                raise DataError(f"data={NAME}: {short(path, folder)} {inside}")
            size = _opened(picture, folder, lambda image, p=picture: _upright(image, p, folder).size)
            if size != inside.shape[::-1]:
                raise DataError(
                    f"data={NAME}: {short(path, folder)} has {inside.shape[1]} x {inside.shape[0]} pixels, its image"
                    f" {size[0]} x {size[1]}; must be of one size"
                )
            if options.side:
                # Masks stay masks: the nearest pixel, not a mixture.
                inside = np.asarray(
                    _square(module.fromarray(inside), options.side, module.Resampling.NEAREST)
                )
            found.append(inside)
        return {"x": np.stack(found)}

    return _kept("masks", folder, [*paths, *pictures], options, convert)["x"]


# ---- a folder a class ----


def classified(data_dir: Path | None = None) -> Images:
    """A folder of images for each class, called like it; or folders train, test and perhaps validation of such.

    Without a validation folder .15 of the training images of each class validate; without any .7/.15/.15 of each class;
    the same for every seed. DataError, with the file.
    """
    folder = tables.folder_of(data_dir, CLASSES)
    options, found = options_in(folder), class_files(folder, SUFFIXES, CLASSES, "image")
    x, y, chosen = pixels(folder, found.paths, options), found.labels, found.split()
    train = np.sort(np.concatenate([chosen["train"], chosen["validation"]]))
    return Images(
        NAME,
        x[train],
        y[train],
        x[chosen["test"]],
        y[chosen["test"]],
        len(found.names),
        255,
        len(chosen["validation"]),
        options.augmentation,  # type: ignore[arg-type]
        np.searchsorted(train, chosen["validation"]),
        found.names,
        {"files that are no images": found.others},
    )


# ---- images alone, and pairs ----


def alone(data_dir: Path | None = None) -> Faces:
    """Grey images, wherever they lie in the folder; or those of its folders train, test and perhaps validation.

    Without these .7/.15/.15 of them, without validation .15 of those of train; the same for every seed.
    """
    folder = tables.folder_of(data_dir, ALONE)
    options, places = options_in(folder), part_folders(folder, nested=False)
    options = Options(options.side, 1)
    files = {part: files_in(place, SUFFIXES, deep=True) for part, place in (places or {"": folder}).items()}
    for part, found in files.items():
        if not found:
            where = short(places[part], folder) if places else f"data_dir={folder}"
            raise DataNotFound(f"data={NAME}: {where} holds no image ({', '.join(SUFFIXES)}); needs {ALONE}")
    paths = [path for found in files.values() for path in found]
    x = pixels(folder, paths, options)
    chosen = split_files(files, "images")
    return Faces(*(x[chosen[part]] for part in PARTS))


def _pair_files(folder: Path, kinds: tuple[str, str], layout: str) -> dict[str, list[tuple[Path, Path]]]:
    """Files of the same name without its ending in two folders, by part ("" for all of them)."""
    places = part_folders(folder) or {"": folder}
    found: dict[str, list[tuple[Path, Path]]] = {}
    for part, place in places.items():
        absent = [kind for kind in kinds if not (place / kind).is_dir()]
        if absent:
            raise DataNotFound(
                f"data={NAME}: {short(place, folder) if part else f'data_dir={folder}'} has no folder {absent[0]};"
                f" needs {layout}"
            )
        names: list[dict[str, Path]] = []
        for kind in kinds:
            by_stem: dict[str, Path] = {}
            for path in files_in(place / kind, SUFFIXES):
                if path.stem in by_stem:
                    raise DataError(
                        f"data={NAME}: {short(path.parent, folder)} has {by_stem[path.stem].name} and {path.name};"
                        " names must differ by more than their endings"
                    )
                by_stem[path.stem] = path
            names.append(by_stem)
        odd = sorted(set(names[0]) ^ set(names[1]))
        if odd or not names[0]:
            stem = odd[0] if odd else ""
            has, lacks = (kinds if stem in names[0] else kinds[::-1]) if odd else ("", kinds[0])
            said = (
                f"{has}/{(names[0] | names[1])[stem].name} has no partner in {lacks}"
                if odd
                else f"{lacks} is empty"
            )
            raise DataError(
                f"data={NAME}: {f'{short(place, folder)}: ' if part else ''}{said}; needs {layout}"
            )
        found[part] = [(names[0][stem], names[1][stem]) for stem in sorted(names[0])]
    return found


def segmented(data_dir: Path | None = None) -> Segmented:
    """The folders images and masks with files of the same names, or these in train, test and perhaps validation.

    A mask has the size of its image and holds 0 and 255, or 0 and 1. Parts as for `alone`.
    """
    folder = tables.folder_of(data_dir, MASKED)
    options, files = options_in(folder), _pair_files(folder, ("images", "masks"), MASKED)
    pictures, outlines = zip(*(pair for pairs in files.values() for pair in pairs), strict=True)
    inside = masks(folder, outlines, pictures, options)
    x = pixels(folder, pictures, options)
    if not inside.any():
        raise DataError(f"data={NAME}: no mask in {folder} has any foreground")
    chosen = split_files({part: [p for p, _ in pairs] for part, pairs in files.items()}, "pairs")
    return Segmented(NAME, {p: x[chosen[p]] for p in PARTS}, {p: inside[chosen[p]] for p in PARTS})


def restored(data_dir: Path | None = None) -> dict[str, Pairs]:
    """The folders degraded and clean with files of the same names, or these in train, test and perhaps validation.

    Two of a pair are of one size, pairs may differ; they are decoded when they are asked for. Parts as for `alone`.
    """
    folder = tables.folder_of(data_dir, DEGRADED)
    files = _pair_files(folder, ("degraded", "clean"), DEGRADED)
    pairs = [pair for found in files.values() for pair in found]
    chosen = split_files({part: [p for p, _ in found] for part, found in files.items()}, "pairs")
    # Of more images than that the headers must do: they are decoded one by one as a trial needs them.
    for path in (path for pair in pairs[:KEPT_FROM] for path in pair):
        _opened(path, folder, lambda image: image.load())
    return {
        part: paired(NAME, [pairs[i][0] for i in rows], [pairs[i][1] for i in rows], "clean")
        for part, rows in ((part, chosen[part].tolist()) for part in PARTS)
    }
