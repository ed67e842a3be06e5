"""Things to be counted in images: pictures and the points where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.kinds import Pictures
from fairsweep.trainables.datasets.own import folders, tables
from fairsweep.trainables.datasets.own.pictures import SUFFIXES
from fairsweep.trainables.datasets.own.tables import NAME

LAYOUT = "the folder images and points.csv (or .parquet) with the columns image, x and y, or train, validation and test"


@dataclass(frozen=True, eq=False)
class Counted:
    """pictures: of each part, decoded when they are asked for. points: of each of them, float64 (k, 2): column and row
    in pixels from the upper left corner."""

    name: str
    pictures: Mapping[str, Pictures]
    points: Mapping[str, tuple[np.ndarray, ...]]


def own(data_dir: Path | None = None) -> Counted:
    """`images` and `points`: a row for each thing, its image by its file name; an image without a row has none in it.

    Or these two in folders train, test and perhaps validation. Parts as for images alone. DataError, with file and row.
    """
    folder = tables.folder_of(data_dir, LAYOUT)
    places = _places(folder) or {"": folder}
    files: dict[str, list[Path]] = {}
    found: list[np.ndarray] = []
    for part, place in places.items():
        paths, points = _annotated(place, folder)
        files[part] = paths
        found += points
    if not any(len(points) for points in found):
        raise DataError(f"data={NAME}: {folder}: no image has a point in it")
    paths = [path for part in files.values() for path in part]
    chosen = folders.split_files(files, "images")
    return Counted(
        NAME,
        {part: Pictures(NAME, [paths[i] for i in rows]) for part, rows in chosen.items()},
        {part: tuple(found[i] for i in rows) for part, rows in chosen.items()},
    )


def _places(folder: Path) -> dict[str, Path] | None:
    """The folders of the parts; the folder `images` beside them is none."""
    return None if (folder / "images").is_dir() else folders.part_folders(folder)


def _annotated(place: Path, folder: Path) -> tuple[list[Path], list[np.ndarray]]:
    """The images of a folder, and the points in each of them."""
    where = folders.short(place, folder) if place != folder else f"data_dir={folder}"
    path = tables.present(place, "points")
    if path is None or not (place / "images").is_dir():
        missing = "no folder images" if path is not None else "no points.csv or points.parquet"
        raise DataNotFound(f"data={NAME}: {where} has {missing}; needs {LAYOUT}")
    paths = folders.files_in(place / "images", SUFFIXES)
    if not paths:
        raise DataError(f"data={NAME}: {folders.short(place / 'images', folder)} holds no image")
    table = tables.read(path, ["image", "x", "y"])
    of = tables.positions(table, "image", [p.name for p in paths], "file in images")
    places = tables.matrix(table, ["x", "y"])
    sizes = np.array(Pictures(NAME, paths).sizes())[:, ::-1]
    outside = np.flatnonzero(((places < 0) | (places >= sizes[of])).any(1))
    if len(outside):
        row = int(outside[0])
        width, height = sizes[of[row]]
        x, y = places[row]
        raise tables.refuse_row(
            table,
            row,
            f"the point {x:g}, {y:g} is outside of {paths[of[row]].name}, which has {width} x {height} pixels",
        )
    return paths, [places[of == i] for i in range(len(paths))]
