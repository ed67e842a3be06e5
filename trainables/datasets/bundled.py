"""The digits that scikit-learn ships, without importing it: that takes a second in every process that trains."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Digits:
    """data (1797, 64) and images (1797, 8, 8): whole numbers 0..16, float64. target (1797,): int64."""

    data: np.ndarray
    images: np.ndarray
    target: np.ndarray


def load_digits() -> Any:
    """As `sklearn.datasets.load_digits`, which reads the same file. Who uses them checks what they are."""
    spec = find_spec("sklearn")
    path = Path((spec and spec.origin) or "sklearn").parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():  # a version that keeps them elsewhere
        from sklearn import datasets

        return datasets.load_digits()
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",")
    return Digits(rows[:, :-1], rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64))
