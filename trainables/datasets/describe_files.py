"""Descriptions of counted images, recordings and texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairsweep.trainables.datasets import fingerprints
from fairsweep.trainables.datasets.counting import Counted
from fairsweep.trainables.datasets.description import (
    Description,
    by_shares,
    counts,
    describe,
    file_keys,
)
from fairsweep.trainables.datasets.fetch import sha256
from fairsweep.trainables.datasets.recordings import Recordings
from fairsweep.trainables.datasets.texts import SHARES as TEXT_SHARES
from fairsweep.trainables.datasets.texts import Running, Texts


@describe.register
def _counted(data: Counted) -> Description:
    counts = {part: np.array([len(points) for points in found]) for part, found in data.points.items()}
    sizes = {f"{h} x {w}" for pictures in data.pictures.values() for h, w in pictures.sizes()}
    return Description(
        sizes={
            "image": ", ".join(sorted(sizes)),
            "points of an image": {
                p: f"{n.min()} to {n.max()}, {n.mean():.1f} on average" for p, n in counts.items()
            },
            "images without a point": {part: int((n == 0).sum()) for part, n in counts.items()},
        },
        parts={part: len(pictures) for part, pictures in data.pictures.items()},
        leaks=fingerprints.shared({part: file_keys(p.paths) for part, p in data.pictures.items()}),
    )


@describe.register
def _recordings(data: Recordings) -> Description:
    seconds = data.lengths / data.rates
    keys, labels = file_keys(data.paths), {part: data.labels[rows] for part, rows in data.split.items()}
    return Description(
        sizes={
            "recordings": len(data),
            "seconds": f"{seconds.min():.2f} to {seconds.max():.2f}, {seconds.sum():.1f} in all",
            "samples a second": ", ".join(map(str, np.unique(data.rates))),
            "channels": ", ".join(map(str, np.unique(data.channels))),
        },
        parts={part: len(rows) for part, rows in data.split.items()},
        drawn="drawn class by class, the same for every seed" if data.drawn else "",
        classes={part: counts(y, len(data.names), data.names) for part, y in labels.items()},
        leaks=fingerprints.shared({part: keys[rows] for part, rows in data.split.items()}, labels),
    )


@describe.register
def _running(data: Running) -> Description:
    known, lines = set(data.parts["train"]), {p: _lines(text) for p, text in data.parts.items()}
    unknown = {p: sum(c not in known for c in text) for p, text in data.parts.items() if p != "train"}
    return Description(
        sizes={
            "files": data.files,
            "different characters": len(known),
            "characters that train has not": unknown,
        },
        parts={part: len(text) for part, text in data.parts.items()},
        drawn="characters, .8/.1/.1 of each file in its order" if data.drawn else "",
        leaks=[f"lines of 40 letters and more: {text}" for text in fingerprints.shared(lines)],
    )


def _lines(text: str) -> np.ndarray:
    """Fingerprints of the lines that are long enough to be no coincidence."""
    long = [line for line in (line.strip() for line in text.splitlines()) if len(line) >= 40]
    return _text_keys(long)


def _text_keys(texts: Sequence[str]) -> np.ndarray:
    """Fingerprints of texts, uint64 (n,)."""
    return np.array([int(sha256(text.encode())[:16], 16) for text in texts], np.uint64)


@describe.register
def _texts(data: Texts) -> Description:
    length = np.array([len(text) for text in data.texts])
    keys = _text_keys(data.texts)
    found = Description(
        {
            "texts": len(data),
            "characters": f"{length.min()} to {length.max()}, {length.mean():.0f} on average",
        }
    )
    if data.split is None:
        found.drawn = by_shares(TEXT_SHARES, "texts of each class")
        found.classes = {"all": counts(data.labels, len(data.names), data.names)}
        found.leaks = fingerprints.repeated(keys, data.labels)
        return found
    labels = {part: data.labels[rows] for part, rows in data.split.items()}
    found.parts = {part: len(rows) for part, rows in data.split.items()}
    found.classes = {part: counts(y, len(data.names), data.names) for part, y in labels.items()}
    found.leaks = fingerprints.shared({part: keys[rows] for part, rows in data.split.items()}, labels)
    return found
