"""Graphs whose arcs have a direction: a connectome, public web and citation graphs.

`Graph.arcs` has the arcs; `Graph.adjacency` both directions of each, for methods that know undirected graphs only.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.graphs import Graph, directed, read_npz, surplus, undirected
from fairsweep.trainables.datasets.own import webkb

# ---- larval mushroom body ----

_GRASPOLOGIC = "graspologic==3.4.4"
_FOLDER = "graspologic/datasets/drosophila/"
_FILES = {
    "left_adjacency.csv": "f23ba630f10dff95164ddbbdccf7d4fe1ac01a9a8ed77db26069af4a6248a1cf",
    "left_cell_labels.csv": "a733652a33d5dde5c7cbdc9d8c0e679680cd000dc11edf3ea762a4da43b764c9",
    "right_adjacency.csv": "b9684d323e3f91ac5bf8c3691ff3e0635ef40fa2dee8e048161633760c84791d",
    "right_cell_labels.csv": "80547ac9df6b3fc5abe5844c04bc5da56b48c7cac5eb13ab3cc2f8695cd6de1d",
}
_CELLS = "KPOI"  # Kenyon cells, projection, output and input neurons


def drosophila(data_dir: Path | None = None) -> Graph:
    """Mushroom bodies of a fly larva: 422 neurons of both sides, an arc where one has synapses onto another.

    209 neurons and 7425 arcs on the left, 213 and 7536 on the right; no arc joins the sides. Classes: Kenyon cells,
    projection, output and input neurons. Nothing is known of a neuron but its synapses: its features are the logarithms
    of 1 + its partners and of 1 + its synapses, standardised, without their direction. Source: PyPI graspologic 3.4.4
    (MIT), Eichler et al., The complete connectome of a learning and memory centre in an insect brain, Nature 2017. 10
    neurons a class to train, 10 to validate.
    """
    from fairsweep.trainables.datasets.fetch import wheel_member

    sides = []
    words: list[str] = []
    for side in ("left", "right"):
        files = {
            kind: wheel_member(
                "drosophila", _GRASPOLOGIC, f"{_FOLDER}{side}_{kind}.csv", _FILES[f"{side}_{kind}.csv"]
            )
            for kind in ("adjacency", "cell_labels")
        }
        sides.append(sp.csr_matrix(np.loadtxt(files["adjacency"].decode().splitlines())))
        words += files["cell_labels"].decode().split()
    synapses = sp.block_diag(sides, format="coo")
    rows, columns = synapses.row.astype(np.int64), synapses.col.astype(np.int64)
    nodes = len(words)
    adjacency = undirected(nodes, rows, columns)
    partners, strength = adjacency.sum(1), synapses.sum(0).T + synapses.sum(1)
    known = np.log1p(np.asarray(np.hstack([partners, strength])))
    return Graph(
        "drosophila",
        ((known - known.mean(0)) / known.std(0)).astype(np.float32),
        adjacency,
        np.array([_CELLS.index(word) for word in words], np.int64),
        len(_CELLS),
        per_class=(10, 10),
        dropped=surplus(rows, columns),
        names=tuple(_CELLS),
        arcs=directed(nodes, rows, columns),
    )


# ---- public sets ----

# name -> (nodes, features, classes) of Pei et al., ICLR 2020; splits of .48/.32/.2
WEBKB = {
    "texas": (183, 1703, 5),
    "wisconsin": (251, 1703, 5),
    "cornell": (183, 1703, 5),
    "film": (7600, 932, 5),
}
# name -> (file, nodes, features, classes); Bojchevski and Guennemann, ICLR 2018, in the layout of `read_npz`
CITATIONS = {
    "cora_ml": ("cora_ml.npz", 2995, 2879, 7),
    "citeseer_directed": ("citeseer.npz", 3312, 3703, 6),
}
PUBLIC = (*WEBKB, *CITATIONS)


def _checked(name: str, graph: Graph, folder: Path, size: tuple[int, int, int]) -> Graph:
    found = (graph.nodes, graph.features.shape[1], graph.classes)
    if found != size:
        raise DataError(
            f"data={name}: {folder} has (nodes, features, classes) = {found}, the published graph has {size}; give the"
            " folder of that one"
        )
    return replace(graph, name=name)


def public(name: str, data_dir: Path | None) -> Graph:
    """The web or citation graph `name` out of `data_dir` or its subfolder `name`, with its arcs.

    DataError if the files are missing, damaged or those of another graph.
    """
    file = webkb.NODES if name in WEBKB else CITATIONS[name][0]
    folders = [] if data_dir is None else [data_dir, data_dir / name]
    found = [folder for folder in folders if (folder / file).is_file()]
    if not found:
        raise DataNotFound(f"data={name}: no {file} in data_dir={data_dir}; give the folder that holds it")
    if name in WEBKB:
        return _checked(name, webkb.read_webkb(found[0], name), found[0], WEBKB[name])
    return _checked(name, read_npz(name, found[0] / file), found[0], CITATIONS[name][1:])
