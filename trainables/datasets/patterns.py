"""Finite input distributions with a known rule for the label: every input is there, once, all equally likely.

Where all inputs and p(y|x) are known, the mutual information of a representation can be counted. Splits and
training labels are the business of `trainables.tasks.pattern_classification`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets import images
from fairsweep.trainables.datasets.fetch import sha256


@dataclass(frozen=True, eq=False)
class Patterns:
    """n inputs in [-1, 1], float32 (n, features), with the rule of their labels.

    rule: (n,) float64, f(x) - theta, for p(y = 1 | x) = sigmoid(gamma rule(x)); or (n,) int64, the label itself.
    """

    name: str
    inputs: np.ndarray
    rule: np.ndarray
    classes: int

    def conditional(self, gamma: float) -> np.ndarray:
        """p(y|x), float64 (n, classes); `gamma` is the sharpness of a graded rule, the others have none."""
        if self.rule.dtype.kind == "i":
            return np.eye(self.classes)[self.rule]
        one = 0.5 * (1 + np.tanh(0.5 * gamma * self.rule))
        zero = 0.5 * (1 + np.tanh(-0.5 * gamma * self.rule))
        return np.stack([zero, one], 1)


def icosahedron() -> np.ndarray:
    """The 12 vertices of the icosahedron on the unit sphere, float64 (12, 3)."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [(0.0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    turned = [np.roll(corner, k) for k in range(3) for corner in corners]
    return np.array(turned) / np.sqrt(1 + golden**2)


def all_bits(n: int) -> np.ndarray:
    """Every row of n bits, uint8 (2^n, n), counting upwards with the first bit as the highest."""
    return (np.arange(2**n)[:, None] >> np.arange(n)[::-1] & 1).astype(np.uint8)


def symmetric_rule(bits: np.ndarray) -> np.ndarray:
    """f(x) - theta of patterns of points on the icosahedron, float64 (n,): unchanged when it is turned.

    f is a sum of three invariants, the pattern's power in the Legendre polynomials of degree 1, 2 and 3 over
    the angles between its points, each standardised, weighted by 0.6, 1 and -0.5; theta is the median of f.
    """
    vertices = icosahedron()
    cosine = vertices @ vertices.T
    legendre = (cosine, (3 * cosine**2 - 1) / 2, (5 * cosine**3 - 3 * cosine) / 2)
    x = bits.astype(np.float64)
    f = np.zeros(len(x))
    for weight, polynomial in zip((0.6, 1.0, -0.5), legendre, strict=True):
        power = np.einsum("ni,ij,nj->n", x, polynomial, x)
        f += weight * (power - power.mean()) / power.std()
    # Rounded: patterns that a rotation carries into each other must have the same number, not nearly the same.
    return np.round(f - np.median(f), 9) + 0.0


def synthetic_icosahedron(data_dir: Path | None = None) -> Patterns:
    """Made up, in the manner of Shwartz-Ziv and Tishby 2017: 4096 patterns of 12 points on a sphere, 2 classes.

    The points are the vertices of the icosahedron, the label depends on what rotations and reflections leave
    alone. The authors' rule is not published, only the labels that it gave (see `var_u`).
    """
    bits = all_bits(12)
    return Patterns("synthetic_icosahedron", 2 * bits.astype(np.float32) - 1, symmetric_rule(bits), 2)


_VAR_U = "0ba9551878a855396a8de0cbaae620788ede1e7b1eb2b8373bbe017d5ea02036"


def var_u(data_dir: Path | None = None) -> Patterns:
    """The 4096 patterns of Shwartz-Ziv and Tishby 2017 with their 2 labels, one and only one for each pattern.

    Source: data/var_u.mat of github.com/ravidziv/IDNNs, in `data_dir` or its folder `data`: `F`, uint8
    (4096, 12), and `y`, uint8 (1, 4096). For educational, research and non-commercial use.
    """
    from scipy.io import loadmat

    if data_dir is None:
        raise DataNotFound("data=var_u: data_dir is None; give the folder that holds var_u.mat")
    found = [path for path in (data_dir / "var_u.mat", data_dir / "data" / "var_u.mat") if path.is_file()]
    if not found:
        raise DataNotFound(
            f"data=var_u: no var_u.mat in data_dir={data_dir} or its data folder; it is data/var_u.mat of"
            " github.com/ravidziv/IDNNs"
        )
    content = found[0].read_bytes()
    if sha256(content) != _VAR_U:
        raise DataError(
            f"data=var_u: {found[0].name} has SHA-256 {sha256(content)}, expected {_VAR_U}; get it again"
        )
    arrays = loadmat(io.BytesIO(content), variable_names=["F", "y"])
    return Patterns("var_u", 2 * arrays["F"].astype(np.float32) - 1, arrays["y"].ravel().astype(np.int64), 2)


def _images(name: str, data_dir: Path | None = None) -> Patterns:
    """All images of `trainables.datasets.images` by that name, training and test parts together."""
    data = images.load(name, data_dir)
    pixels = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    inputs = 2 * pixels.reshape(len(pixels), -1).astype(np.float32) / data.levels - 1
    return Patterns(name, inputs, labels, data.classes)


LOADERS: dict[str, Callable[[Path | None], Patterns]] = {
    "synthetic_icosahedron": synthetic_icosahedron,
    "digits": partial(_images, "digits"),
    "mnist5k": partial(_images, "mnist5k"),
    "var_u": var_u,
}


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> Patterns:
    return LOADERS[name](data_dir)


def load(name: str, data_dir: Path | None = None) -> Patterns:
    """The data set `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown set of patterns; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))
