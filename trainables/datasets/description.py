"""What is told of data, and what the descriptions of all kinds share; `describe.py` has all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from fairsweep.trainables.datasets.fetch import sha256


@dataclass
class Description:
    """sizes: what there is, and how much. columns: name, type, what of it. parts: examples of each; drawn: who draws
    those that are not given. classes: part -> class -> examples. dropped: what files hold and the data do not. leaks:
    in words; None where nothing could be compared, as among times and links."""

    sizes: dict[str, Any] = field(default_factory=dict)
    columns: list[tuple[str, str, str]] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)
    drawn: str = ""
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    leaks: list[str] | None = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self)


EACH_SEED = "drawn anew for each seed"


def counts(labels: np.ndarray, classes: int | None = None, names: Sequence[str] = ()) -> dict[str, int]:
    """How often each class occurs, classes that never do among them; -1 is no class."""
    found = np.bincount(labels[labels >= 0].astype(np.int64), minlength=classes or 0)
    return {names[i] if names else str(i): int(n) for i, n in enumerate(found)}


def by_shares(shares: tuple[float, float], what: str) -> str:
    """How parts are drawn of which each class has its share."""
    parts = "/".join(f"{share:.2g}".lstrip("0") for share in (1 - sum(shares), *shares))
    return f"{parts} of the {what}, {EACH_SEED}"


@singledispatch
def describe(data: Any) -> Description:
    """The description of what a loader has returned. TypeError for a class that nobody has registered."""
    raise TypeError(f"{type(data).__name__}: no description of such data")


def spread(values: np.ndarray) -> str:
    """The range of numbers, and how many are missing."""
    known = values[~np.isnan(values)]
    what = f"{known.min():g} to {known.max():g}" if len(known) else "none"
    return what + (f", {len(values) - len(known)} missing" if len(known) < len(values) else "")


def file_keys(paths: Sequence[Path]) -> np.ndarray:
    """Fingerprints of files by what they hold, uint64 (n,)."""
    return np.array([int(sha256(path.read_bytes())[:16], 16) for path in paths], np.uint64)
