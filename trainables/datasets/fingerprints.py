"""Which examples are alike, told by 64-bit fingerprints: a false pair among 100 million has odds of 3 in 10 000."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fairsweep.trainables.datasets.packed_graphs import GraphSet

_ODD = np.uint64(0x9E3779B97F4A7C15)
ROUNDS = 10  # of colour refinement; molecules are told apart after three


def _mix(words: np.ndarray) -> np.ndarray:
    """uint64 (n,) -> uint64 (n,), every bit of one depending on all of the other."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def of_rows(rows: np.ndarray, chunk: int = 65536) -> np.ndarray:
    """Fingerprints, uint64 (n,), of the n parts of an array along its first axis: images, rows of a table."""
    found = np.zeros(len(rows), np.uint64)
    for begin in range(0, len(rows), chunk):
        part = rows[begin : begin + chunk]
        # -0.0 is 0.0
        raw = np.ascontiguousarray(part + part.dtype.type(0)).reshape(len(part), -1).view(np.uint8)
        words = np.pad(raw, ((0, 0), (0, -raw.shape[1] % 8))).view("<u8")
        for column in words.T:
            found[begin : begin + chunk] = _mix((found[begin : begin + chunk] ^ column) + _ODD)
    return found


def of_graphs(data: GraphSet) -> np.ndarray:
    """Fingerprints, uint64 (g,), of graphs with their features, whatever order their nodes are in.

    Equal for graphs that `ROUNDS` rounds of colour refinement (Weisfeiler and Leman 1968) do not tell apart: the same
    ones, and those that no message passing of so many layers tells apart.
    """
    start = np.cumsum(data.nodes) - data.nodes
    ends = data.ends + start[np.repeat(np.arange(len(data)), data.edges)]
    colour, edge = of_rows(data.x), _mix(of_rows(data.e) + _ODD)
    for _ in range(ROUNDS):
        gathered = np.zeros_like(colour)
        for here, there in ((0, 1), (1, 0)):
            np.add.at(gathered, ends[here], _mix(colour[ends[there]] ^ edge))
        colour = _mix(colour * _ODD + gathered)
    return np.add.reduceat(_mix(colour), start) if len(data) else np.zeros(0, np.uint64)


def _times(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def shared(keys: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray] | None = None) -> list[str]:
    """In words, how many examples of one part are in an earlier part too, and how many have another label there."""
    said = []
    parts = list(keys)
    for at, later in enumerate(parts):
        for earlier in parts[:at]:
            order = np.argsort(keys[earlier], kind="stable")
            known = keys[earlier][order]
            place = np.searchsorted(known, keys[later]).clip(max=max(len(known) - 1, 0))
            hit = known[place] == keys[later] if len(known) else np.zeros(len(keys[later]), bool)
            if not hit.any():
                continue
            text = f"{hit.sum()} of {len(hit)} in the {later} part are in the {earlier} part too"
            if labels is not None:
                other = int((labels[earlier][order][place[hit]] != labels[later][hit]).sum())
                text += f", {other} of them with another label" if other else ", with the same label"
            said.append(text)
    return said


def repeated(keys: np.ndarray, labels: np.ndarray | None = None) -> list[str]:
    """In words, how many examples of a whole that is split at random are in it more than once."""
    _, group, count = np.unique(keys, return_inverse=True, return_counts=True)
    copies = int((count - 1).sum())
    if not copies:
        return []
    text = f"{copies} of {len(keys)} repeat another one"
    if labels is not None:
        pairs = np.unique(np.stack([group, labels.astype(np.int64)]), axis=1)
        clash = int((np.bincount(pairs[0]) > 1).sum())
        text += f"; {_times(clash, 'of them is', 'of them are')} there with several labels" if clash else ""
    return [text + "; a split at random can put copies into two parts"]
