"""Identities of channels: which positions of which tensors must be cut together, and which cannot be cut at all.

Every position along every axis of a tensor is an *atom*. Operators tie atoms of different tensors to each other; what
is tied falls into one class, and a class is cut as a whole or not at all. Atoms that must stay are *blocked*, with a
reason in words. Where an axis is split into several, (heads * size) -> (heads, size), a cut along either of the new
axes is possible but not along both: such alternatives are kept open until everything else is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Axis:
    """One dimension of a tensor.

    atoms: (size,) the atom at each position; None if none of them can be cut. zero: (size,) whether the slab at a
    position is zero for any input once all variables of its class are. batch: (size, stride) of the batch in it.
    copies: all positions hold the same.
    """

    size: int
    atoms: np.ndarray | None = None
    zero: np.ndarray | None = None
    batch: tuple[int, int] | None = None
    copies: bool = False

    @property
    def only_batch(self) -> bool:
        """Whether the axis is the batch and nothing beside it."""
        return self.batch is not None and self.batch[0] == self.size

    def nonzero(self) -> Axis:
        """The same positions, without a promise that they are zero."""
        return self if self.atoms is None else self.with_zero(np.zeros(self.size, bool))

    def with_zero(self, zero: np.ndarray) -> Axis:
        """The same positions, zero where `zero` says."""
        return replace(self, zero=zero)

    def take(self, index: np.ndarray) -> Axis:
        """The axis with only the positions in `index`."""
        batch = self.batch if len(index) == self.size else None
        if self.atoms is None:
            return Axis(len(index), batch=batch)
        assert self.zero is not None
        return Axis(len(index), self.atoms[index], self.zero[index], batch)


@dataclass(frozen=True)
class _Choice:
    """`whole` (sizes) can be cut along one of `axes`: (which of its dimensions, atoms)."""

    whole: np.ndarray
    axes: tuple[tuple[int, np.ndarray], ...]


@dataclass
class Channels:
    """Atoms, their ties and what blocks them."""

    count: int = 0
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    blocks: list[tuple[np.ndarray, str]] = field(default_factory=list)
    choices: list[_Choice] = field(default_factory=list)

    def fresh(self, size: int, zero: Any = False) -> Axis:
        """An axis of new atoms."""
        atoms = np.arange(self.count, self.count + size)
        self.count += size
        return Axis(size, atoms, np.broadcast_to(np.asarray(zero, bool), size))

    def block(self, axis: Axis, reason: str, where: np.ndarray | None = None) -> None:
        """The positions of `axis` (those `where`) stay."""
        if axis.atoms is not None:
            atoms = axis.atoms if where is None else axis.atoms[where]
            if len(atoms):
                self.blocks.append((atoms, reason))

    def tie(self, a: Axis, b: Axis, reason: str = "") -> None:
        """Position i of `a` is cut iff position i of `b` is; what meets an axis that cannot be cut stays."""
        if a is b:
            return
        if a.atoms is None or b.atoms is None:
            self.block(a, reason)
            self.block(b, reason)
        elif a.atoms is not b.atoms:
            self.ties.append((a.atoms, b.atoms))

    def need_zero(self, axis: Axis, reason: str) -> None:
        """What is not zero at a position is mixed into other values there: it stays."""
        if axis.atoms is not None:
            assert axis.zero is not None
            self.block(axis, reason, ~axis.zero)

    def split(
        self, axis: Axis, sizes: Sequence[int], only: int | None = None, reason: str = ""
    ) -> list[Axis]:
        """The axes of `axis` seen as (sizes), of which one can carry its cut, or that number `only`."""
        batches = [_factor(axis.batch, sizes, i) for i in range(len(sizes))]
        if axis.atoms is None:
            return [Axis(n, batch=b) for n, b in zip(sizes, batches, strict=True)]
        real = [i for i, n in enumerate(sizes) if n > 1]
        if len(real) == 1 and only in (None, real[0]):
            return [axis if i == real[0] else Axis(n) for i, n in enumerate(sizes)]
        assert axis.zero is not None
        whole, zero = axis.atoms.reshape(sizes), axis.zero.reshape(sizes)
        parts = [Axis(n) for n in sizes]
        for i in real:
            if only is None or i == only:
                others = tuple(j for j in range(len(sizes)) if j != i)
                parts[i] = self.fresh(sizes[i], zero.all(axis=others))
        for i, batch in enumerate(batches):
            if batch:
                parts[i] = replace(parts[i], batch=batch)
                if parts[i].only_batch:
                    self.block(parts[i], "it is the batch")
        candidates = [(i, p.atoms) for i, p in enumerate(parts) if p.atoms is not None and not p.only_batch]
        if candidates:
            self.choices.append(_Choice(whole, tuple(candidates)))
        else:
            self.block(axis, reason)
        return parts

    def merge(self, axes: Sequence[Axis]) -> Axis:
        """The axis that runs through all of `axes`, the last fastest; one of them can carry its cut."""
        sizes = [a.size for a in axes]
        real = [i for i, n in enumerate(sizes) if n > 1]
        strides = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
        found = [(a.batch[0], a.batch[1] * k) for a, k in zip(axes, strides, strict=True) if a.batch]
        batch = found[0] if len(found) == 1 else None
        if len(real) <= 1:
            only = axes[real[0]] if real else next((a for a in axes if a.atoms is not None), axes[0])
            return Axis(only.size, only.atoms, only.zero, batch)
        known = [i for i in real if axes[i].atoms is not None]
        free = [i for i in known if not axes[i].only_batch]
        candidates = [i for i in free if not axes[i].copies] or free[:1] or known[:1]
        for i in known:
            if i not in candidates:
                self.block(axes[i], "the axis beside it is the one that is cut")
        if not candidates:
            return Axis(prod(sizes), batch=batch)
        spread = {}
        for i in candidates:
            shape = [n if j == i else 1 for j, n in enumerate(sizes)]
            atoms, zero = axes[i].atoms, axes[i].zero
            assert atoms is not None and zero is not None
            spread[i] = [np.broadcast_to(v.reshape(shape), sizes).reshape(-1) for v in (atoms, zero)]
        if len(candidates) == 1:
            atoms, zero = spread[candidates[0]]
            return Axis(prod(sizes), atoms, zero, batch)
        merged = self.fresh(prod(sizes), np.logical_and.reduce([s[1] for s in spread.values()]))
        assert merged.atoms is not None
        pairs = [(i, axes[i].atoms) for i in candidates]
        self.choices.append(
            _Choice(merged.atoms.reshape(sizes), tuple((i, a) for i, a in pairs if a is not None))
        )
        return Axis(merged.size, merged.atoms, merged.zero, batch)

    def classes(self) -> tuple[np.ndarray, dict[int, str]]:
        """(the class of every atom, class -> why it stays, for those that do)."""
        return _Solver(self).solve()


def _factor(batch: tuple[int, int] | None, sizes: Sequence[int], i: int) -> tuple[int, int] | None:
    """The batch of an axis, if all of it is in factor `i` of its `sizes`."""
    stride = prod(sizes[i + 1 :])
    if batch is None or batch[1] < stride or batch[0] * batch[1] > stride * sizes[i]:
        return None
    return batch[0], batch[1] // stride


class _Solver:
    """Settles the choices one after the other, each for the axis that leaves most to be cut."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        count = channels.count
        pairs = [(a.reshape(-1), b.reshape(-1)) for a, b in channels.ties]
        rows, columns = (
            (np.concatenate([p[k] for p in pairs]) if pairs else np.zeros(0, int)) for k in (0, 1)
        )
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
        number, self.of = connected_components(graph, directed=False)
        self.reason = np.full(number, -1)
        self.reasons: list[str] = []
        self.taken = np.zeros(number, bool)
        for atoms, reason in channels.blocks:
            self.block(self.of[atoms], reason)

    def block(self, classes: np.ndarray, reason: str) -> None:
        if not len(self.reasons) or self.reasons[-1] != reason:
            self.reasons.append(reason)
        fresh = classes[self.reason[classes] < 0]
        self.reason[fresh] = len(self.reasons) - 1

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """Classes a[i] and b[i] become one."""
        names, inverse = np.unique(np.concatenate([a, b]), return_inverse=True)
        half = len(a)
        graph = coo_array(
            (np.ones(half, bool), (inverse[:half], inverse[half:])), shape=(len(names), len(names))
        )
        number, part = connected_components(graph, directed=False)
        first = np.full(number, len(self.reason))
        np.minimum.at(first, part, names)
        table = np.arange(len(self.reason))
        table[names] = first[part]
        target = first[part]
        new = (self.reason[names] >= 0) & (self.reason[target] < 0)
        self.reason[target[new]] = self.reason[names[new]]
        self.taken[target[self.taken[names]]] = True
        self.of = table[self.of]

    def settle(self, choice: _Choice) -> None:
        whole = self.of[choice.whole]
        stays = self.reason[whole] >= 0
        best, most = None, (False, 0)
        for dim, atoms in choice.axes:
            others = tuple(d for d in range(whole.ndim) if d != dim)
            free = ~((self.reason[self.of[atoms]] >= 0) | stays.any(axis=others))
            score = (bool(self.taken[self.of[atoms[free]]].any()), int(free.sum()))
            if free.any() and score > most:
                best, most = dim, score
        for dim, atoms in choice.axes:
            if dim != best:
                text = self._why(whole) if best is None else "the axis beside it is the one that is cut"
                self.block(self.of[atoms], text)
        if best is None:
            found = [self.reason[self.of[a]].max() for _, a in choice.axes]
            known = max([int(r) for r in found], default=-1)
            self.block(whole.reshape(-1), self.reasons[known] if known >= 0 else "")
            return
        atoms = dict(choice.axes)[best]
        shape = [-1 if d == best else 1 for d in range(whole.ndim)]
        spread = np.broadcast_to(self.of[atoms].reshape(shape), whole.shape)
        self.unite(whole.reshape(-1), spread.reshape(-1))
        self.taken[self.of[atoms]] = True

    def _why(self, whole: np.ndarray) -> str:
        known = self.reason[whole].max()
        return self.reasons[known] if known >= 0 else ""

    def solve(self) -> tuple[np.ndarray, dict[int, str]]:
        for choice in self.channels.choices:
            self.settle(choice)
        # A later choice may have blocked the axis that an earlier one took: the class is one, so it stays as well.
        stay = np.flatnonzero(self.reason >= 0)
        return self.of, {int(c): self.reasons[self.reason[c]] for c in stay}
