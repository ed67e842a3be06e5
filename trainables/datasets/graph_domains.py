"""Graphs of several domains: some to pre-train on, others to use what was learned on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import graph_sets, graphs
from fairsweep.trainables.datasets.own import domains as own_domains
from fairsweep.trainables.datasets.packed_graphs import Domain, Domains, GraphSet

# ---- known graphons ----

Graphon = Callable[[np.ndarray, np.ndarray], np.ndarray]
GRAPHONS: dict[str, Graphon] = {
    "product": lambda x, y: (1 - x) * (1 - y),
    "core": lambda x, y: 0.7 * ((x < 0.3) | (y < 0.3)),
    "max_exp": lambda x, y: np.exp(-(np.maximum(x, y) ** 0.75)),
    "mean": lambda x, y: 0.5 * (2 - x - y),
    "two_blocks": lambda x, y: 0.8 * ((x < 0.5) == (y < 0.5)),
    "anti_blocks": lambda x, y: 0.8 * ((x < 0.5) != (y < 0.5)),
}


def sampled(name: str, graphon: Graphon, count: int, nodes: int, rng: np.random.Generator) -> Domain:
    """`count` graphs of so many nodes at uniform positions, each pair joined with the probability of the graphon.

    Positions are random, so that the two halves of a block model differ in size, and degrees tell them apart in part.
    """
    found = []
    for _ in range(count):
        x = rng.random(nodes)
        upper = np.triu(rng.random((nodes, nodes)) < graphon(x[:, None], x[None, :]), 1)
        found.append(sp.csr_matrix(upper | upper.T, dtype=np.float32))
    return Domain.of(name, found)


def graphon_domains(count: int = 20, nodes: int = 60, seed: int = 0) -> Domains:
    """Three sources of known graphons and seven downstream sets: fresh draws of each, of two in equal parts, and of
    three that are structurally different from all of them. Downstream sets have twice as many graphs."""
    rng = np.random.default_rng(seed)
    names = ("product", "core", "max_exp")
    sources = tuple(sampled(name, GRAPHONS[name], count, nodes, rng) for name in names)

    def half(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 0.5 * (GRAPHONS["product"](x, y) + GRAPHONS["core"](x, y))

    inside = {**{name: GRAPHONS[name] for name in names}, "product_and_core": half}
    outside = {name: GRAPHONS[name] for name in ("mean", "two_blocks", "anti_blocks")}
    downstream = tuple(
        sampled(name, graphon, 2 * count, nodes, rng) for name, graphon in {**inside, **outside}.items()
    )
    mixture: dict[str, tuple[float, ...]] = {
        **{name: tuple(float(name == other) for other in names) for name in names},
        "product_and_core": (0.5, 0.5, 0.0),
        **dict.fromkeys(outside, ()),
    }
    return Domains("synthetic_graphons", sources, downstream, mixture)


def synthetic_graphons(data_dir: Path | None = None) -> Domains:
    """Synthetic: one draw of `graphon_domains`, the same for every trial."""
    return graphon_domains()


# ---- graphs that packages ship ----


def _of_set(name: str, data: GraphSet, chosen: np.ndarray) -> Domain:
    start = np.cumsum(data.edges) - data.edges
    rows = np.concatenate([np.arange(start[g], start[g] + data.edges[g]) for g in chosen])
    return Domain(name, data.nodes[chosen], data.edges[chosen], data.ends[:, rows])


def packaged_domains(data_dir: Path | None = None) -> Domains:
    """Real graphs of four kinds. Sources: 300 molecules, 300 digits as graphs of pixels, and the similarities of 1239
    artists. Downstream: 200 other molecules, 200 other digits, the digits as 1797 neighbours, 500 of these with more.

    Sources as in `graph_sets.solubility`, `graph_sets.digits_pixels`, `graphs.lastfm`, `graphs.digits_knn` and
    `graphs.digits_500`.
    """
    molecules, digits = graph_sets.load("solubility"), graph_sets.load("digits_pixels")
    rng = np.random.default_rng(0)
    some, others = (rng.permutation(len(data))[:500] for data in (molecules, digits))
    return Domains(
        "packaged_domains",
        (
            _of_set("molecules", molecules, np.sort(some[:300])),
            _of_set("digits", digits, np.sort(others[:300])),
            Domain.of("artists", [graphs.lastfm().adjacency]),
        ),
        (
            _of_set("other_molecules", molecules, np.sort(some[300:])),
            _of_set("other_digits", digits, np.sort(others[300:])),
            Domain.of("neighbours_6", [graphs.digits_knn().adjacency]),
            Domain.of("neighbours_10", [graphs.digits_500().adjacency]),
        ),
    )


LOADERS: dict[str, Callable[[Path | None], Domains]] = {
    "packaged_domains": packaged_domains,
    "synthetic_graphons": synthetic_graphons,
    "own": own_domains.own,
}


def load(name: str, data_dir: Path | None = None) -> Domains:
    """The domains `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown domains of graphs; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> Domains:
    return LOADERS[name](data_dir)
