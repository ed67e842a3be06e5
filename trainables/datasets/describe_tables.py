"""Descriptions of tables, series and interactions."""

from __future__ import annotations

from typing import Any

import numpy as np

from fairsweep.trainables.datasets import binary_tables, ctr, fingerprints
from fairsweep.trainables.datasets.description import (
    EACH_SEED,
    Description,
    by_shares,
    counts,
    describe,
    spread,
)
from fairsweep.trainables.datasets.examples import SHARES, Examples
from fairsweep.trainables.datasets.interactions import Interactions
from fairsweep.trainables.datasets.series import Series
from fairsweep.trainables.datasets.spatial import Spatial
from fairsweep.trainables.datasets.tracks import Tracks


@describe.register
def _clicks(data: ctr.Table) -> Description:
    rows, count = len(data.labels), data.numbers.shape[1]
    who = {i: f", the {name}" for name, at in data.contexts.items() for i in at}
    columns = []
    for i, name in enumerate(data.fields):
        if i < count:
            what = spread(data.numbers[:, i])
        else:
            what = f"{data.sizes[i]} values"
        columns.append((name, "number" if i < count else "category", what + who.get(i, "")))
    keys = fingerprints.of_rows(np.concatenate([data.ids, np.nan_to_num(data.numbers, nan=np.inf)], 1))
    found = Description({"rows": rows, "clicks": int(data.labels.sum())}, columns)
    if data.split is None:
        found.drawn = f".8/.1/.1, {EACH_SEED}"
        found.classes = {"all": counts(data.labels, 2)}
        found.leaks = fingerprints.repeated(keys, data.labels)
    else:
        parts = {part: np.asarray(chosen) for part, chosen in data.split.items()}
        found.parts = {part: len(chosen) for part, chosen in parts.items()}
        labels = {part: data.labels[chosen] for part, chosen in parts.items()}
        found.classes = {part: counts(y, 2) for part, y in labels.items()}
        found.leaks = fingerprints.shared({part: keys[chosen] for part, chosen in parts.items()}, labels)
    return found


@describe.register
def _examples(data: Examples) -> Description:
    count = data.fields.numbers.shape[1]
    columns = []
    for i, name in enumerate(data.fields.names):
        number = i < count
        what = spread(data.fields.numbers[:, i]) if number else f"{data.fields.sizes[i]} values"
        columns.append((name, "number" if number else "category", what))
    for target in data.targets:
        if target.kind == "number":
            columns.append((target.column, "target", f"a number, {spread(target.values)}"))
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
        found.drawn = by_shares(SHARES, "rows" if labels is None else "rows of each class")
        if labels is not None:
            found.classes = {"all": counts(labels, len(first.names), first.names)}
        found.leaks = fingerprints.repeated(keys, labels)
        return found
    found.parts = {part: len(rows) for part, rows in data.split.items()}
    of = None if labels is None else {part: labels[rows] for part, rows in data.split.items()}
    if of is not None:
        found.classes = {part: counts(y, len(first.names), first.names) for part, y in of.items()}
    found.leaks = fingerprints.shared({part: keys[rows] for part, rows in data.split.items()}, of)
    return found


@describe.register
def _interactions(data: Interactions) -> Description:
    sizes: dict[str, Any] = {
        "interactions": len(data),
        "users": len(data.user_names),
        "items": len(data.item_names),
        "density": f"{len(data) / (len(data.user_names) * len(data.item_names)):.2%}",
    }
    columns = [("rating", "number", spread(data.ratings))] if data.ratings is not None else []
    if data.times is not None:
        first, last = (np.datetime64(int(t), "s") for t in (data.times.min(), data.times.max()))
        columns.append(("time", "time", f"{first} to {last}"))
    dropped = {key: n for key, n in data.dropped.items() if n}
    if data.split is None:
        how = by_shares(data.shares, "interactions")
        return Description(sizes, columns, drawn=how, dropped=dropped, leaks=None)
    train = data.split["train"]
    trained = np.bincount(data.items[train], minlength=len(data.item_names)) > 0
    sizes["items never trained on"] = int((~trained).sum())
    leaks = None
    if data.times is not None:
        # Whoever trains on what came after a test interaction knows the future of that user.
        earliest = np.full(len(data.user_names), np.inf)
        np.minimum.at(earliest, data.users[data.split["test"]], data.times[data.split["test"]])
        after = int((data.times[train] > earliest[data.users[train]]).sum())
        leaks = [
            f"{after} of {len(train)} in the train part come after one of the same user in the test part"
        ]
        leaks = leaks if after else []
    parts = {part: len(rows) for part, rows in data.split.items()}
    return Description(sizes, columns, parts, data.drawn, dropped=dropped, leaks=leaks)


@describe.register
def _tracks(data: Tracks) -> Description:
    frames = np.array([len(points) for points in data.points])
    places = np.concatenate(data.points)
    sizes: dict[str, Any] = {
        "recordings": len(np.unique(data.recording)),
        "tracks": len(frames),
        "frames of a track": f"{frames.min()} to {frames.max()}, {frames.mean():.1f} on average",
        "seconds between frames": f"{data.step:g}",
    }
    columns = [(name, "number", spread(axis)) for name, axis in zip(("x", "y"), places.T, strict=True)]
    dropped = {key: n for key, n in data.dropped.items() if n}
    if data.split is not None:
        parts = {part: int(np.isin(data.recording, which).sum()) for part, which in data.split.items()}
        return Description(sizes, columns, parts, dropped=dropped, leaks=None)
    how = by_shares(data.shares, "recordings")
    if data.in_time:
        how = "the scenes of each recording in order of time, .7/.1/.2"
    return Description(sizes, columns, drawn=how, dropped=dropped, leaks=None)


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
        drawn="two halves, one to validate and one to test; labelled rows " + EACH_SEED,
        classes={"all": counts(data.labels, 2)},
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
