"""Recordings of sound of the user's own: a folder of audio files for each class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.own import folders, tables
from fairsweep.trainables.datasets.own.tables import NAME

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
LAYOUT = "a folder of recordings for each class, or train, validation and test with such folders in them"


@dataclass(frozen=True, eq=False)
class Recordings:
    """n recordings, read when they are asked for. rates: samples a second, lengths: samples, channels: int64 (n,).
    labels: int64 (n,), numbers of `names`. split: indices of each part; drawn: whether that was drawn."""

    name: str
    paths: tuple[Path, ...]
    rates: np.ndarray
    lengths: np.ndarray
    channels: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    split: Mapping[str, np.ndarray]
    drawn: bool

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """The samples float32 (channels, time), full scale being 1."""
        return samples(self.paths[index])[1]


def samples(path: Path) -> tuple[int, np.ndarray]:
    """Samples a second, and the samples float32 (channels, time) with a full scale of 1.

    WAV files by SciPy, others by soundfile. DataError for what these do not read, or without soundfile.
    """
    try:
        if path.suffix.lower() == ".wav":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that are no sound
                rate, found = wavfile.read(path)
            values = _full_scale(found)
        else:
            found, rate = _soundfile(path).read(path, dtype="float32")
            values = found
    except DataError:
        raise
    except (
        Exception
    ) as error:  # a damaged file fails in many ways, of which SciPy says but some by ValueError
        reason = " ".join(str(error).replace(str(path), path.name).split())
        raise DataError(f"data={NAME}: {path.name} cannot be read as sound ({reason})") from None
    values = values[:, None] if values.ndim == 1 else values
    if not len(values):
        raise DataError(f"data={NAME}: {path.name} holds no sound")
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(
            f"data={NAME}: {path.name}: sample {int(np.argwhere(bad)[0][0]) + 1} is not a finite number"
        )
    return int(rate), np.ascontiguousarray(values.T)


def _full_scale(found: np.ndarray) -> np.ndarray:
    """Samples as SciPy gives them, as float32 with a full scale of 1; 24 bits come as the upper ones of 32."""
    if found.dtype.kind == "f":
        return found.astype(np.float32)
    if found.dtype == np.uint8:
        return ((found.astype(np.float32) - 128) / 128).astype(np.float32)
    return (found / float(np.iinfo(found.dtype).max + 1)).astype(np.float32)


def _soundfile(path: Path) -> Any:
    try:
        import soundfile
    except ImportError:
        raise DataError(
            f"data={NAME}: {path.name} needs soundfile to be read; pip install 'fairsweep[audio]' or soundfile, or"
            " give .wav files"
        ) from None
    return soundfile


def own(data_dir: Path | None = None) -> Recordings:
    """A folder of recordings (WAV; with soundfile FLAC, OGG, MP3) for each class, called like it; or folders train,
    test and perhaps validation with such in them. Parts as for image classification. DataError, with the file."""
    folder = tables.folder_of(data_dir, LAYOUT)
    labelled = folders.class_files(folder, SUFFIXES, LAYOUT, "recording")
    found = [samples(path) for path in labelled.paths]
    return Recordings(
        NAME,
        tuple(labelled.paths),
        np.array([rate for rate, _ in found]),
        np.array([x.shape[1] for _, x in found]),
        np.array([x.shape[0] for _, x in found]),
        labelled.labels,
        labelled.names,
        labelled.split(),
        not labelled.given,
    )
