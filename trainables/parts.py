"""Which examples are in which part of the data, as short digests: two of one part are equal exactly where the same
examples are in it, in whatever order.

A comparison of methods needs to know that all had the same test rows. Needs no PyTorch: a function of the user's says
its parts by it, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

PARTS = ("train", "validation", "test")
DIGEST = 8  # bytes, written as twice as many letters
Refuse = Callable[[str], Exception]


@dataclass(frozen=True)
class Members:
    """What a task says of its parts. data: what identifies the data within which examples have numbers or texts.

    examples: part -> those of its examples, (k,) int64 or text. A part that is drawn without end is left out.
    """

    data: str
    examples: Mapping[str, np.ndarray]

    def digests(self) -> dict[str, str]:
        """A digest of each part."""
        return {part: _digest(self.data, ids) for part, ids in self.examples.items()}

    def shared(self) -> tuple[str, np.ndarray] | None:
        """A part that has examples of the test part, and which; None if none has."""
        test = self.examples.get("test", np.empty(0, np.int64))
        for part in PARTS[:2]:
            both = np.intersect1d(test, self.examples.get(part, test[:0]))
            if len(both):
                return part, both
        return None


def _digest(data: str, ids: np.ndarray) -> str:
    known = hashlib.blake2b(data.encode(), digest_size=DIGEST)
    ids = np.unique(ids)
    if ids.dtype.kind == "i":
        known.update(b"numbers" + ids.astype("<i8").tobytes())
    else:
        known.update("\0".join(["texts", *map(str, ids)]).encode("utf8", "surrogatepass"))
    return known.hexdigest()


def identity(*contents: Any) -> str:
    """What texts and arrays (NumPy, or sparse of SciPy) hold, as a short text; None counts, too."""
    known = hashlib.blake2b(digest_size=DIGEST)
    for content in contents:
        if hasattr(content, "indptr"):
            known.update(_of_sparse(content).encode())
        elif isinstance(content, np.ndarray):
            kind = content.dtype.newbyteorder("<")
            known.update(f"{kind.str} {content.shape}".encode())
            known.update(np.ascontiguousarray(content, kind).data.cast("B") if content.size else b"")
        else:
            known.update(repr(content).encode("utf8", "surrogatepass"))
    return known.hexdigest()


def _of_sparse(matrix: Any) -> str:
    """What a sparse matrix holds, however it is stored: SciPy sorts indices in place whenever an operation likes to."""
    plain = matrix.tocsr(copy=True)
    plain.sum_duplicates()  # sorts, too
    plain.eliminate_zeros()
    ends, columns = (np.asarray(found, np.int64) for found in (plain.indptr, plain.indices))
    return identity(ends, columns, plain.data, plain.shape)


def row_numbers(rows: np.ndarray) -> np.ndarray:
    """A number of each of the rows (n, ...) by what it holds, int64 (n,): for examples that were made, not taken."""
    found = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in np.ascontiguousarray(rows)]
    return np.frombuffer(b"".join(found), "<i8").astype(np.int64)


def consecutive(sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Numbers of the examples where each part is a set of its own of so many."""
    ends = np.cumsum([0, *sizes.values()])
    return {part: np.arange(a, b) for part, a, b in zip(sizes, ends[:-1], ends[1:], strict=True)}


def said(named: Mapping[str, Any], refuse: Refuse = ValueError) -> Members:
    """Parts as code of the user's names them: whole numbers or texts in any order, of any container.

    None is a part of which nothing is said. `refuse`, in one line, for what is neither, and for a test example that is
    in another part, too.
    """
    examples = {part: _ids(part, ids, refuse) for part, ids in named.items() if ids is not None}
    if not examples:
        raise refuse("trial.parts: says nothing; name the examples of a part, such as trial.parts(test=rows)")
    kinds = {ids.dtype.kind: part for part, ids in examples.items() if len(ids)}
    if len(kinds) > 1:
        raise refuse(
            f"trial.parts: {kinds['i']} has whole numbers and {kinds['U']} texts; examples are known by one of the two"
        )
    found = Members("", examples)
    both = found.shared()
    if both is not None:
        part, ids = both
        raise refuse(
            f"trial.parts: {len(ids)} examples of test are in {part}, too, such as {ids[0]}; what is trained or chosen"
            " on can test nothing"
        )
    return found


def told_by(paper: Any, own: bool) -> dict[str, dict[str, str]]:
    """What the row of a trial says of its parts, under "parts"; empty where its paper says nothing.

    own: of the user's. What is called `parts` in such a class may be something else, and is no fault of the trial.
    """
    try:
        found = paper.parts()
    except Exception:
        if not own:
            raise
        found = None
    known = isinstance(found, Mapping) and bool(found)
    texts = known and all(isinstance(text, str) for pair in found.items() for text in pair)
    return {"parts": dict(found)} if texts else {}


def _ids(part: str, given: Any, refuse: Refuse) -> np.ndarray:
    listed = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(listed, Iterable) or isinstance(listed, (str, bytes)):
        raise refuse(f"trial.parts: {part}={given!r:.50}: must hold whole numbers or texts, one an example")
    ids = list(listed)
    ids = [one.item() if isinstance(one, np.generic) else one for one in ids]
    odd = [one for one in ids if isinstance(one, bool) or not isinstance(one, (int, str))]
    if odd:
        raise refuse(
            f"trial.parts: {part} holds {odd[0]!r:.50}; must hold whole numbers or texts, one an example"
        )
    if any(isinstance(one, str) for one in ids):
        return np.array([str(one) for one in ids])
    try:
        return np.array(ids, np.int64)
    except OverflowError:  # wider than 64 bits
        return np.array([str(one) for one in ids])
