"""What a loaded data set is, for people who are about to train on it: sizes, columns, classes, parts, leaks.

`describe` knows the classes that loaders return, so that a new loader of a known class is described too; a new class
registers its own function, `@describe.register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.datasets import describe_files, describe_tables, fingerprints
from fairsweep.trainables.datasets.description import (
    EACH_SEED,
    Description,
    by_shares,
    counts,
    describe,
    file_keys,
)
from fairsweep.trainables.datasets.faces import Faces
from fairsweep.trainables.datasets.fetch import sha256
from fairsweep.trainables.datasets.graphs import Graph
from fairsweep.trainables.datasets.heterogeneous import HeteroGraph
from fairsweep.trainables.datasets.kinds import Images, Pairs, Pictures, Segmented
from fairsweep.trainables.datasets.packed_graphs import Domains, GraphSet
from fairsweep.trainables.datasets.patterns import Patterns
from fairsweep.trainables.datasets.synthetic_strings import Strings

__all__ = ["Description", "describe", "describe_files", "describe_tables"]


@describe.register
def _images(data: Images) -> Description:
    keep, out = data.split()
    pixels = {
        "train": data.train_images[keep],
        "validation": data.train_images[out],
        "test": data.test_images,
    }
    labels = {
        "train": data.train_labels[keep],
        "validation": data.train_labels[out],
        "test": data.test_labels,
    }
    return Description(
        sizes={"image": " x ".join(map(str, data.test_images.shape[1:])), "levels": data.levels + 1},
        parts={part: len(x) for part, x in pixels.items()},
        classes={part: counts(y, data.classes, data.names) for part, y in labels.items()},
        dropped={k: n for k, n in data.dropped.items() if n},
        leaks=fingerprints.shared({p: fingerprints.of_rows(x) for p, x in pixels.items()}, labels),
    )


@describe.register
def _faces(data: Faces) -> Description:
    parts = {"train": data.train_images, "validation": data.validation_images, "test": data.test_images}
    return Description(
        sizes={"image": " x ".join(map(str, data.test_images.shape[1:]))},
        parts={part: len(x) for part, x in parts.items()},
        leaks=fingerprints.shared({p: fingerprints.of_rows(x) for p, x in parts.items()}),
    )


@describe.register
def _segmented(data: Segmented) -> Description:
    empty = {part: int((~masks.any((1, 2))).sum()) for part, masks in data.masks.items()}
    return Description(
        sizes={
            "image": " x ".join(map(str, data.images["test"].shape[1:])),
            "foreground": {p: f"{m.mean():.1%}" for p, m in data.masks.items()},
            "masks without foreground": empty,
        },
        parts={part: len(x) for part, x in data.images.items()},
        leaks=fingerprints.shared({p: fingerprints.of_rows(x) for p, x in data.images.items()}),
    )


@describe.register(dict)
def _pairs(data: Mapping[str, Pairs]) -> Description:
    keys, sizes = {}, set()
    for part, pairs in data.items():
        if isinstance(pairs.sharp, Pictures):
            keys[part] = file_keys(pairs.sharp.paths)
            sizes |= {f"{h} x {w}" for h, w in pairs.sharp.sizes()}
        else:
            keys[part] = fingerprints.of_rows(np.asarray(pairs.blurry))
            sizes.add(" x ".join(map(str, pairs.sharp.shape[1:])))
    return Description(
        sizes={"image": ", ".join(sorted(sizes))},
        parts={part: len(pairs) for part, pairs in data.items()},
        leaks=fingerprints.shared(keys),
    )


@describe.register
def _graph(data: Graph) -> Description:
    degree = data.adjacency.getnnz(1)
    sizes = {
        "nodes": data.nodes,
        "links": data.edges,
        **({} if data.arcs is None else {"arcs": int(data.arcs.nnz)}),
        "features": data.features.shape[1],
        "nodes without a link": int((degree == 0).sum()),
    }
    features: Any = data.features
    rows = np.asarray(features.getnnz(1) if sp.issparse(features) else (features != 0).sum(1))
    sizes["nodes without a feature"] = int((rows == 0).sum())
    if data.classes:
        sizes["nodes without a class"] = int((data.labels < 0).sum())
    found = Description(sizes, dropped={k: n for k, n in data.dropped.items() if n})
    if data.links is not None:
        found.parts = {part: pairs.shape[1] for part, pairs in data.links.items()}
    if not data.classes:
        found.leaks = None
        return found
    keys = _feature_keys(data.features)
    if data.split is None:
        found.drawn = (
            f"{data.per_class[0]} nodes a class to train, {data.per_class[1]} to validate, {EACH_SEED}"
            if data.shares is None
            else by_shares(data.shares, "nodes of each class")
        )
        found.classes = {"all": counts(data.labels, data.classes, data.names)}
        some_nodes = (rows > 0) & (data.labels >= 0)
        leaks = fingerprints.repeated(keys[some_nodes], data.labels[some_nodes])
        found.leaks = [f"by their features, {text}" for text in leaks]
        return found
    found.parts = {part: len(nodes) for part, nodes in data.split.items()}
    labels = {part: data.labels[nodes] for part, nodes in data.split.items()}
    found.classes = {part: counts(y, data.classes, data.names) for part, y in labels.items()}
    # Nodes without features are alike by nothing.
    some = {part: nodes[rows[nodes] > 0] for part, nodes in data.split.items()}
    leaks = fingerprints.shared(
        {part: keys[nodes] for part, nodes in some.items()},
        {p: data.labels[nodes] for p, nodes in some.items()},
    )
    found.leaks = [f"by their features, {text}" for text in leaks]
    return found


@describe.register
def _hetero_graph(data: HeteroGraph) -> Description:
    sizes: dict[str, Any] = {
        "nodes": {kind: x.shape[0] for kind, x in data.features.items()},
        "features": {kind: x.shape[1] for kind, x in data.features.items()},
        "classified": data.target,
        "nodes without a class": int((data.labels < 0).sum()),
        "pairs that a path joins": {path.name: int(path.counts.nnz) for path in data.paths},
        "nodes that a path joins to no other": {
            path.name: int((path.counts.getnnz(1) <= (path.counts.diagonal() > 0)).sum())
            for path in data.paths
        },
    }
    found = Description(sizes, dropped={k: n for k, n in data.dropped.items() if n}, leaks=None)
    if data.splits:
        parts = next(iter(data.splits.values()))
        found.parts = {part: len(nodes) for part, nodes in parts.items()}
        found.classes = {
            p: counts(data.labels[nodes], data.classes, data.names) for p, nodes in parts.items()
        }
        return found
    found.drawn = (
        f"{data.per_class[0]} nodes a class to train, {data.per_class[1]} to validate, {EACH_SEED}"
        if data.shares is None
        else by_shares(data.shares, "nodes of each class")
    )
    found.classes = {"all": counts(data.labels, data.classes, data.names)}
    return found


def _feature_keys(features: Any) -> np.ndarray:
    """Fingerprints of the rows of a matrix, dense or CSR, uint64 (n,)."""
    if not sp.issparse(features):
        return fingerprints.of_rows(features)
    matrix = features.copy()
    matrix.sort_indices()
    rows = (matrix.indptr[i : i + 2] for i in range(matrix.shape[0]))
    hashes = (sha256(matrix.indices[a:b].tobytes() + matrix.data[a:b].tobytes())[:16] for a, b in rows)
    return np.array([int(digest, 16) for digest in hashes], np.uint64)


@describe.register
def _graph_set(data: GraphSet) -> Description:
    def spread(n: np.ndarray) -> str:
        return f"{n.min()} to {n.max()}, {n.mean():.1f} on average"

    sizes: dict[str, Any] = {"graphs": len(data), "nodes of a graph": spread(data.nodes)}
    sizes |= {"links of a graph": spread(data.edges), "features of a node": data.x.shape[1]}
    sizes["features of a link"] = data.e.shape[1]
    if data.types is not None:
        sizes["types of links"] = data.edge_classes
    if data.values is not None:
        v = data.values
        sizes["values of a graph"] = f"{v.min():g} to {v.max():g}, {v.mean():.2f} on average"
    found = Description(sizes, dropped={k: n for k, n in data.dropped.items() if n})
    if len(data) == 1:
        found.drawn = "the one graph is all three parts at once"
        return found
    keys = fingerprints.of_graphs(data)
    if data.test is None:
        found.drawn = (
            f"{data.held_out[0]} graphs to validate and {data.held_out[1]} to test, {EACH_SEED}"
            if data.shares is None
            else by_shares(data.shares, "graphs of each class")
        )
        found.classes = {"all": counts(data.labels, data.classes, data.names)}
        found.leaks = fingerprints.repeated(keys, data.labels)
        return found
    parts = {"train": np.setdiff1d(np.arange(len(data)), data.test), "test": data.test}
    if data.validation is not None:
        train = np.setdiff1d(parts["train"], data.validation)
        parts = {"train": train, "validation": data.validation, "test": data.test}
    else:
        found.drawn = f"{data.held_out[0]} of the training graphs validate, {EACH_SEED}"
    found.parts = {part: len(chosen) for part, chosen in parts.items()}
    labels = {part: data.labels[chosen] for part, chosen in parts.items()}
    found.classes = {part: counts(y, data.classes, data.names) for part, y in labels.items()}
    found.leaks = fingerprints.shared({part: keys[chosen] for part, chosen in parts.items()}, labels)
    return found


@describe.register
def _domains(data: Domains) -> Description:
    sizes: dict[str, Any] = {}
    dropped: dict[str, int] = {}
    for role in ("sources", "downstream"):
        sizes[role] = {}
        for domain in getattr(data, role):
            nodes, edges = int(domain.nodes.sum()), int(domain.edges.sum())
            sizes[role][domain.name] = f"graphs {len(domain)}, nodes {nodes}, links {edges}"
            for what, count in domain.dropped.items():
                dropped[what] = dropped.get(what, 0) + count
    return Description(sizes, dropped={k: n for k, n in dropped.items() if n}, leaks=None)


@describe.register
def _patterns(data: Patterns) -> Description:
    graded = data.rule.dtype.kind != "i"
    return Description(
        {"inputs": len(data.inputs), "features": data.inputs.shape[1]},
        drawn=f"a share to train, {EACH_SEED}",
        classes={"all": counts((data.rule > 0) if graded else data.rule, data.classes)},
        leaks=fingerprints.repeated(fingerprints.of_rows(data.inputs)),
    )


@describe.register
def _strings(data: Strings) -> Description:
    both = len(set(data.validation) & set(data.test))
    return Description(
        {
            "strings in stock": len(data.stock),
            "letters of a target": f"{data.lengths[0]} to {data.lengths[1]}",
        },
        parts={"validation": len(data.validation), "test": len(data.test)},
        drawn="training targets are drawn while training",
        leaks=[f"{both} of {len(data.test)} in the test part are in the validation part too"] if both else [],
    )
