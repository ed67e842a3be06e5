"""What a loaded data set is, for people who are about to train on it: sizes, columns, classes, parts, leaks.

`describe` knows the classes that loaders return, so that a new loader of a known class is described too; a new class
registers its own function, `@describe.register`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.datasets import binary_tables, ctr, fingerprints
from fairsweep.trainables.datasets.examples import SHARES, Examples
from fairsweep.trainables.datasets.faces import Faces
from fairsweep.trainables.datasets.fetch import sha256
from fairsweep.trainables.datasets.graphs import Graph
from fairsweep.trainables.datasets.interactions import Interactions
from fairsweep.trainables.datasets.kinds import Images, Pairs, Pictures, Segmented
from fairsweep.trainables.datasets.packed_graphs import GraphSet
from fairsweep.trainables.datasets.patterns import Patterns
from fairsweep.trainables.datasets.series import Series
from fairsweep.trainables.datasets.spatial import Spatial
from fairsweep.trainables.datasets.synthetic_strings import Strings


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


_EACH_SEED = "drawn anew for each seed"


def _counts(labels: np.ndarray, classes: int | None = None, names: Sequence[str] = ()) -> dict[str, int]:
    """How often each class occurs, classes that never do among them; -1 is no class."""
    found = np.bincount(labels[labels >= 0].astype(np.int64), minlength=classes or 0)
    return {names[i] if names else str(i): int(n) for i, n in enumerate(found)}


def _by_shares(shares: tuple[float, float], what: str) -> str:
    """How parts are drawn of which each class has its share."""
    parts = "/".join(f"{share:.2g}".lstrip("0") for share in (1 - sum(shares), *shares))
    return f"{parts} of the {what}, {_EACH_SEED}"


@singledispatch
def describe(data: Any) -> Description:
    """The description of what a loader has returned. TypeError for a class that nobody has registered."""
    raise TypeError(f"{type(data).__name__}: no description of such data")


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
        classes={part: _counts(y, data.classes, data.names) for part, y in labels.items()},
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
            files = [int(sha256(path.read_bytes())[:16], 16) for path in pairs.sharp.paths]
            keys[part] = np.array(files, np.uint64)
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
def _clicks(data: ctr.Table) -> Description:
    rows, count = len(data.labels), data.numbers.shape[1]
    who = {i: f", the {name}" for name, at in data.contexts.items() for i in at}
    columns = []
    for i, name in enumerate(data.fields):
        if i < count:
            what = _spread(data.numbers[:, i])
        else:
            what = f"{data.sizes[i]} values"
        columns.append((name, "number" if i < count else "category", what + who.get(i, "")))
    keys = fingerprints.of_rows(np.concatenate([data.ids, np.nan_to_num(data.numbers, nan=np.inf)], 1))
    found = Description({"rows": rows, "clicks": int(data.labels.sum())}, columns)
    if data.split is None:
        found.drawn = f".8/.1/.1, {_EACH_SEED}"
        found.classes = {"all": _counts(data.labels, 2)}
        found.leaks = fingerprints.repeated(keys, data.labels)
    else:
        parts = {part: np.asarray(chosen) for part, chosen in data.split.items()}
        found.parts = {part: len(chosen) for part, chosen in parts.items()}
        labels = {part: data.labels[chosen] for part, chosen in parts.items()}
        found.classes = {part: _counts(y, 2) for part, y in labels.items()}
        found.leaks = fingerprints.shared({part: keys[chosen] for part, chosen in parts.items()}, labels)
    return found


def _spread(values: np.ndarray) -> str:
    """The range of numbers, and how many are missing."""
    known = values[~np.isnan(values)]
    what = f"{known.min():g} to {known.max():g}" if len(known) else "none"
    return what + (f", {len(values) - len(known)} missing" if len(known) < len(values) else "")


@describe.register
def _examples(data: Examples) -> Description:
    count = data.fields.numbers.shape[1]
    columns = []
    for i, name in enumerate(data.fields.names):
        number = i < count
        what = _spread(data.fields.numbers[:, i]) if number else f"{data.fields.sizes[i]} values"
        columns.append((name, "number" if number else "category", what))
    for target in data.targets:
        if target.kind == "number":
            columns.append((target.column, "target", f"a number, {_spread(target.values)}"))
        else:
            none = int((target.values < 0).sum())
            what = f"{len(target.names)} classes" + (f", {none} missing" if none else "")
            columns.append((target.column, "target", what))
    keys = fingerprints.of_rows(
        np.concatenate([data.fields.ids, np.nan_to_num(data.fields.numbers, nan=np.inf)], 1)
    )
    found = Description({"rows": len(data), "targets": len(data.targets)}, columns)
    first = data.targets[0]
    labels = first.values if first.kind == "class" else None
    if data.split is None:
        found.drawn = _by_shares(SHARES, "rows" if labels is None else "rows of each class")
        if labels is not None:
            found.classes = {"all": _counts(labels, len(first.names), first.names)}
        found.leaks = fingerprints.repeated(keys, labels)
        return found
    found.parts = {part: len(rows) for part, rows in data.split.items()}
    of = None if labels is None else {part: labels[rows] for part, rows in data.split.items()}
    if of is not None:
        found.classes = {part: _counts(y, len(first.names), first.names) for part, y in of.items()}
    found.leaks = fingerprints.shared({part: keys[rows] for part, rows in data.split.items()}, of)
    return found


@describe.register
def _interactions(data: Interactions) -> Description:
    train = data.split["train"]
    trained = np.bincount(data.items[train], minlength=len(data.item_names)) > 0
    sizes: dict[str, Any] = {
        "interactions": len(data),
        "users": len(data.user_names),
        "items": len(data.item_names),
        "density": f"{len(data) / (len(data.user_names) * len(data.item_names)):.2%}",
        "items never trained on": int((~trained).sum()),
    }
    columns = [("rating", "number", _spread(data.ratings))] if data.ratings is not None else []
    leaks = None
    if data.times is not None:
        first, last = (np.datetime64(int(t), "s") for t in (data.times.min(), data.times.max()))
        columns.append(("time", "time", f"{first} to {last}"))
        # Whoever trains on what came after a test interaction knows the future of that user.
        earliest = np.full(len(data.user_names), np.inf)
        np.minimum.at(earliest, data.users[data.split["test"]], data.times[data.split["test"]])
        after = int((data.times[train] > earliest[data.users[train]]).sum())
        leaks = [
            f"{after} of {len(train)} in the train part come after one of the same user in the test part"
        ]
        leaks = leaks if after else []
    parts = {part: len(rows) for part, rows in data.split.items()}
    dropped = {key: n for key, n in data.dropped.items() if n}
    return Description(sizes, columns, parts, data.drawn, dropped=dropped, leaks=leaks)


@describe.register
def _spatial(data: Spatial) -> Description:
    found = describe(data.series)
    found.sizes["places"] = len(data.series.columns)
    del found.sizes["target"]
    found.sizes["links"] = "none given" if data.adjacency is None else data.adjacency.nnz
    if data.adjacency is not None:
        both = data.adjacency.getnnz(0) + data.adjacency.getnnz(1)
        found.sizes["places without a link"] = int((both == 0).sum())
    return found


@describe.register
def _table(data: binary_tables.Table) -> Description:
    columns = [
        (f"column {i + 1}", "number", f"{x.min():g} to {x.max():g}") for i, x in enumerate(data.features.T)
    ]
    return Description(
        {"rows": len(data.labels)},
        columns,
        drawn="two halves, one to validate and one to test; labelled rows " + _EACH_SEED,
        classes={"all": _counts(data.labels, 2)},
        leaks=fingerprints.repeated(fingerprints.of_rows(data.features), data.labels),
    )


@describe.register
def _series(data: Series) -> Description:
    steps = np.diff(data.dates)
    step = np.median(steps.astype(np.int64)).astype("timedelta64[s]")
    columns = [
        (name, "number", f"{x.min():g} to {x.max():g}{', constant' if x.min() == x.max() else ''}")
        for name, x in zip(data.columns, data.values.T, strict=True)
    ]
    sizes: dict[str, Any] = {
        "rows": len(data.dates),
        "from": str(data.dates[0]),
        "to": str(data.dates[-1]),
        "step": str(step.item()),
        "target": data.columns[-1],
    }
    uneven = int((steps != step).sum())
    if uneven:
        sizes["other steps"] = uneven
    parts = dict(zip(("train", "validation", "test"), data.months, strict=True)) if data.months else {}
    drawn = "" if parts else "in order of time, .7/.1/.2 (split=standard)"
    return Description(sizes, columns, parts, drawn, leaks=None)


@describe.register
def _graph(data: Graph) -> Description:
    degree = data.adjacency.getnnz(1)
    sizes = {
        "nodes": data.nodes,
        "links": data.edges,
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
            f"{data.per_class[0]} nodes a class to train, {data.per_class[1]} to validate, {_EACH_SEED}"
            if data.shares is None
            else _by_shares(data.shares, "nodes of each class")
        )
        found.classes = {"all": _counts(data.labels, data.classes, data.names)}
        some_nodes = (rows > 0) & (data.labels >= 0)
        leaks = fingerprints.repeated(keys[some_nodes], data.labels[some_nodes])
        found.leaks = [f"by their features, {text}" for text in leaks]
        return found
    found.parts = {part: len(nodes) for part, nodes in data.split.items()}
    labels = {part: data.labels[nodes] for part, nodes in data.split.items()}
    found.classes = {part: _counts(y, data.classes, data.names) for part, y in labels.items()}
    # Nodes without features are alike by nothing.
    some = {part: nodes[rows[nodes] > 0] for part, nodes in data.split.items()}
    leaks = fingerprints.shared(
        {part: keys[nodes] for part, nodes in some.items()},
        {p: data.labels[nodes] for p, nodes in some.items()},
    )
    found.leaks = [f"by their features, {text}" for text in leaks]
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
    found = Description(sizes, dropped={k: n for k, n in data.dropped.items() if n})
    if len(data) == 1:
        found.drawn = "the one graph is all three parts at once"
        return found
    keys = fingerprints.of_graphs(data)
    if data.test is None:
        found.drawn = (
            f"{data.held_out[0]} graphs to validate and {data.held_out[1]} to test, {_EACH_SEED}"
            if data.shares is None
            else _by_shares(data.shares, "graphs of each class")
        )
        found.classes = {"all": _counts(data.labels, data.classes, data.names)}
        found.leaks = fingerprints.repeated(keys, data.labels)
        return found
    parts = {"train": np.setdiff1d(np.arange(len(data)), data.test), "test": data.test}
    if data.validation is not None:
        train = np.setdiff1d(parts["train"], data.validation)
        parts = {"train": train, "validation": data.validation, "test": data.test}
    else:
        found.drawn = f"{data.held_out[0]} of the training graphs validate, {_EACH_SEED}"
    found.parts = {part: len(chosen) for part, chosen in parts.items()}
    labels = {part: data.labels[chosen] for part, chosen in parts.items()}
    found.classes = {part: _counts(y, data.classes, data.names) for part, y in labels.items()}
    found.leaks = fingerprints.shared({part: keys[chosen] for part, chosen in parts.items()}, labels)
    return found


@describe.register
def _patterns(data: Patterns) -> Description:
    graded = data.rule.dtype.kind != "i"
    return Description(
        {"inputs": len(data.inputs), "features": data.inputs.shape[1]},
        drawn=f"a share to train, {_EACH_SEED}",
        classes={"all": _counts((data.rule > 0) if graded else data.rule, data.classes)},
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
