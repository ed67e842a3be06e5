"""Directed patterns of a graph, and AMUD: whether the directions of its arcs say more of the labels than its links.

Sun et al., Breaking the Entanglement of Homophily and Heterophily in Semi-supervised Node Classification, ICDE 2024.
The authors' code (github.com/xkLi-Allen/AMUD-ADPA) has no AMUD: how the score is made of the R^2 is ours (`Advice`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

PATTERNS = ("A", "At", "AA", "AAt", "AtA", "AtAt")  # of order 1 and 2; t: transposed
FIRST = PATTERNS[:2]
LINKS = ("U", "UU")  # of the graph without directions
CHOSEN = {"all": PATTERNS, "first": FIRST, "second": PATTERNS[2:]}
MOST_NODES = 4000  # whose pairs the statistic is of, where more have labels


# ---- propagation ----


def factors(
    arcs: sp.csr_matrix, names: tuple[str, ...] = PATTERNS, loops: float = 1.0
) -> dict[str, tuple[sp.csr_matrix, ...]]:
    """The patterns `names` of `arcs` (n, n), entry (i, j): i -> j, as the matrices whose product they are: where a node
    has many arcs the product would fill. Its entries count the ways. Those of order 1 have `loops` times I added, the
    others none."""
    a = sp.csr_matrix(arcs, dtype=np.float32)
    t, own = a.T.tocsr(), loops * sp.identity(a.shape[0], np.float32, format="csr")
    found = {"A": (a + own,), "At": (t + own,), "AA": (a, a), "AAt": (a, t), "AtA": (t, a), "AtAt": (t, t)}
    return {name: found[name] for name in names}


def decay(hop: int) -> float:
    """What the product of step `hop`, from 1, is multiplied by: 1 - ln hop, and 1e-6. Negative from the third on."""
    return 1 - math.log(hop) + 1e-6


def propagated(
    found: Mapping[str, tuple[sp.csr_matrix, ...]],
    x: Any,
    count: int,
    r: float,
    decays: bool,
    rows: np.ndarray,
) -> Tensor:
    """float32 (patterns, rows, count + 1, p): x (n, p) and what `count` steps along each pattern P, given as `factors`,
    make of it. A step is D^(r-1) P D^(-r) with D the row sums of P on both sides; 0 where a row is empty."""
    # Memory of PyTorch's, which begins at a multiple of 64 bytes: NumPy's lies elsewhere in every process, and products
    # of it differ in their last bits.
    made = torch.empty(len(found), len(rows), count + 1, x.shape[1])
    out = made.numpy()
    for place, steps in enumerate(found.values()):
        degree = _carried(steps, np.ones(x.shape[0]))
        left, right = (
            np.power(degree, e, out=np.zeros_like(degree), where=degree > 0).astype(np.float32)
            for e in (r - 1, -r)
        )
        h = x
        for hop in range(count + 1):
            if hop:
                factor = np.float32(decay(hop) if decays else 1)
                h = sp.diags(factor * left) @ _carried(steps, sp.diags(right) @ h)
            kept = h[rows]
            out[place, :, hop] = kept.toarray() if sp.issparse(kept) else kept
    return made


def _carried(steps: tuple[sp.csr_matrix, ...], x: Any) -> Any:
    for step in reversed(steps):
        x = step @ x
    return x


# ---- AMUD ----


def agreement(pattern: sp.csr_matrix, labels: np.ndarray) -> float:
    """R^2 of "linked by the pattern" and "of one class" over the ordered pairs of different nodes, in [0, 1].

    pattern: (l, l), what is not 0 is a link. labels: (l,). 0 where one of the two is the same for all pairs.
    """
    ends = pattern.tocoo()
    linked = (ends.row != ends.col) & (ends.data != 0)
    row, column = ends.row[linked], ends.col[linked]
    # Exact whole numbers: their products leave 64 bits.
    pairs, links = len(labels) * (len(labels) - 1), len(row)
    sizes = [int(size) for size in np.bincount(labels)]
    alike = sum(size * (size - 1) for size in sizes)
    both = int((labels[row] == labels[column]).sum())
    spread = links * (pairs - links) * alike * (pairs - alike)
    return (pairs * both - links * alike) ** 2 / spread if spread else 0.0


@dataclass(frozen=True)
class Advice:
    """What AMUD finds. correlation: R^2 by pattern, of `PATTERNS` and `LINKS`. pairs: unordered ones it is of.

    score: R_dir / (R_dir + R_und), the best R^2 of the directed patterns and of those without directions; .5 where the
    graph has none, or neither says anything.
    """

    correlation: Mapping[str, float]
    pairs: int

    @property
    def score(self) -> float:
        """In [0, 1]; above .5 the directions say more."""
        ways, links = (max(self.correlation[name] for name in names) for names in (PATTERNS, LINKS))
        return ways / (ways + links) if ways + links > 0 else 0.5

    @property
    def signal(self) -> bool:
        """Whether any R^2 is more than what as many pairs show by chance, roughly (two standard deviations)."""
        return self.pairs * max(self.correlation.values()) >= 4

    def directed(self, threshold: float = 0.5) -> bool:
        """Whether to keep the directions."""
        return self.score > threshold + 1e-9

    def to_json(self) -> dict[str, Any]:
        """Plain containers."""
        return {"R2": dict(self.correlation), "score": self.score, "pairs": self.pairs, "signal": self.signal}


def amud(arcs: sp.csr_matrix, labels: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> Advice:
    """The statistic over the pairs of the nodes `known`, whose labels may be looked at; `rng` draws from too many."""
    if len(known) > MOST_NODES:
        known = np.sort(rng.choice(known, MOST_NODES, replace=False))
    a = sp.csr_matrix(arcs, dtype=np.float64)
    u = a.maximum(a.T).tocsr()
    out, into = a[known], a.T.tocsr()[known]  # (l, n) each
    linked = u[known]
    found = {"A": out[:, known], "AA": out @ into.T, "AAt": out @ out.T, "AtA": into @ into.T}
    found |= {"U": linked[:, known], "UU": linked @ linked.T}
    kept = {name: agreement(sp.csr_matrix(pattern), labels[known]) for name, pattern in found.items()}
    # A pair and its turn agree alike, so a pattern and its transpose have one R^2.
    kept |= {"At": kept["A"], "AtAt": kept["AA"]}
    return Advice({name: kept[name] for name in (*PATTERNS, *LINKS)}, len(known) * (len(known) - 1) // 2)
