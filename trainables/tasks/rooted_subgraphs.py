"""Subgraphs around every node of a set of graphs: of simple paths, or whole neighbourhoods; made once, cut per batch.

A copy is a node within the subgraph of a root, a link an edge within it. All of a set are found level by level over
arrays; what lies in a subgraph after some edges of the graph are gone follows from what lay in it before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from fairsweep.trainables.datasets.packed_graphs import GraphSet

Kind = Literal["kpath", "ego_subgraph"]
BLOCK = 2048  # nodes whose paths are extended at a time
# At the peak of `find`, measured: of a path kept, of one tried, and of a copy or link of a neighbourhood.
PATH_BYTES, EXTENDED_BYTES, COPY_BYTES = 200, 50, 70


def segments(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, ... of each of the segments, behind each other."""
    offset = np.cumsum(lengths) - lengths
    return np.repeat(starts - offset, lengths) + np.arange(int(lengths.sum()))


# ---- finding them ----


@dataclass(frozen=True, eq=False)
class Paths:
    """Simple paths of 1 to k edges from every root, by root's graph and then by length.

    root, end: (P,) nodes. edge: (P,) the last edge. parent: (P,) the path without it, -1 for one edge. length: (P,).
    """

    root: np.ndarray
    end: np.ndarray
    edge: np.ndarray
    parent: np.ndarray
    length: np.ndarray


def simple_paths(ends: np.ndarray, graph: np.ndarray, k: int, most: int) -> Paths:
    """The simple paths of a graph of n nodes, `graph` (n,) their components ascending, edges `ends` (2, m) each once.

    most: paths that a root keeps of each length, drawn from a fixed seed; a path is extended only if it is kept. The
    cost grows with the number of paths, d^k a root for degree d, and not beyond most * d.
    """
    n, m = len(graph), ends.shape[1]
    source, target = np.concatenate([ends, ends[::-1]], axis=1)
    order = np.argsort(source, kind="stable")
    neighbour, edge = target[order], np.tile(np.arange(m), 2)[order]
    degree = np.bincount(source, minlength=n)
    first = np.cumsum(degree) - degree
    rng = np.random.default_rng(0)
    found, count = [], 0
    for begin in range(0, n, BLOCK):
        roots = np.arange(begin, min(begin + BLOCK, n))
        trail = roots[:, None]
        parent = np.full(len(roots), -1)
        for length in range(1, k + 1):
            here = trail[:, -1]
            old = np.repeat(np.arange(len(here)), degree[here])
            arc = segments(first[here], degree[here])
            new = (trail[old] != neighbour[arc][:, None]).all(1)
            old, arc = old[new], arc[new]
            kept = _at_most(trail[old, 0], most, rng)
            old, arc = old[kept], arc[kept]
            trail, parent = np.column_stack([trail[old], neighbour[arc]]), parent[old]
            found.append((trail[:, 0], trail[:, -1], edge[arc], parent, np.full(len(arc), length)))
            parent = count + np.arange(len(arc))
            count += len(arc)
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    order = np.lexsort((columns[4], graph[columns[0]]))
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    root, end, last, parent, length = (column[order] for column in columns)
    return Paths(root, end, last, np.where(parent < 0, -1, place[parent]), length)


def _at_most(root: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Indices, ascending, of `most` random rows of each root, or of all it has; `root` ascends."""
    _, start, count = np.unique(root, return_index=True, return_counts=True)
    if count.max(initial=0) <= most:
        return np.arange(len(root))
    shuffled = np.lexsort((rng.random(len(root)), root))
    return np.sort(shuffled[np.arange(len(root)) - np.repeat(start, count) < most])


def balls(
    ends: np.ndarray, nodes: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every root the nodes at most k edges away, and the edges among them: root, node and distance of each copy,
    root and edge of each link; both by root."""
    ones = np.ones(2 * ends.shape[1], np.int8)
    both = np.concatenate([ends, ends[::-1]], axis=1)
    step = sp.csr_matrix((ones, (both[0], both[1])), shape=(nodes, nodes), dtype=np.int32)
    distance = reached = sp.identity(nodes, dtype=np.int32, format="csr")
    for length in range(1, k + 1):
        wider = ((reached + reached @ step) > 0).astype(np.int32)
        distance, reached = distance + (wider - reached) * (length + 1), wider
    distance = sp.csr_matrix(distance)
    distance.eliminate_zeros()
    distance.sort_indices()
    copies = distance.tocoo()
    columns = reached.tocsc()
    links = columns[:, ends[0]].multiply(columns[:, ends[1]]).tocsr()
    links.sort_indices()
    inside = links.tocoo()
    return copies.row, copies.col, copies.data - 1, inside.row, inside.col


def expected_bytes(data: GraphSet, kind: Kind, k: int, most: int) -> float:
    """About what `find` takes at its peak, counted in time linear in k and the edges: of kpath as if every walk that
    never turns back were a path; of neighbourhoods as if each grew by the mean degree of its graph."""
    if kind == "kpath":
        first = np.repeat(np.cumsum(data.nodes) - data.nodes, data.edges)
        u, v = data.ends + first
        n = int(data.nodes.sum())

        def along(count: np.ndarray) -> np.ndarray:
            return np.bincount(u, count[v], n) + np.bincount(v, count[u], n)

        before, walks = np.ones(n), along(np.ones(n))
        degree, paths, most_at_once = walks, 0.0, 0.0
        for length in range(1, k + 1):
            paths += float(np.minimum(walks, most).sum())
            grown = np.minimum(walks, most).sum() / n * min(n, BLOCK) * degree.mean()
            most_at_once = max(most_at_once, float(grown) if length < k else 0.0)
            back = degree if length == 1 else degree - 1
            before, walks = walks, np.maximum(along(walks) - back * before, 0)
        return PATH_BYTES * paths + EXTENDED_BYTES * most_at_once
    degrees = 2 * data.edges / data.nodes
    onward = np.maximum(degrees - 1, 0)
    reach = np.minimum(data.nodes, 1 + degrees * sum(onward**length for length in range(k)))
    # A link to every node that was reached, or the share of all that random nodes would have among them.
    links = np.maximum(reach, data.edges * (reach / data.nodes) ** 2)
    return COPY_BYTES * float((data.nodes * (reach + links)).sum())


@dataclass(frozen=True, eq=False)
class Subgraphs:
    """The rooted subgraphs of a whole set, those of a graph contiguous, all numbers within their graph.

    copies, links, paths: (g,), how many each graph has. root, node, distance: of each copy. ends: (2, L) copies that a
    link joins; edge: (L,) which edge it is. link, end, parent, length: of each path, its last link, the copy where it
    ends, the path without that link or -1, and its links; none for neighbourhoods.
    """

    kind: Kind
    k: int
    copies: np.ndarray
    links: np.ndarray
    paths: np.ndarray
    root: np.ndarray
    node: np.ndarray
    distance: np.ndarray
    ends: np.ndarray
    edge: np.ndarray
    link: np.ndarray
    end: np.ndarray
    parent: np.ndarray
    length: np.ndarray


def find(data: GraphSet, kind: Kind, k: int, most: int = 1 << 40) -> Subgraphs:
    """All rooted subgraphs of `data`: what lies on a simple path of at most k edges from the root, or the edges among
    all nodes at most k away. ValueError for another kind."""
    if kind not in ("kpath", "ego_subgraph"):
        raise ValueError(f"encoder={kind}: has no rooted subgraphs; those of kpath and ego_subgraph do")
    g, n, m = len(data), int(data.nodes.sum()), data.ends.shape[1]
    graph, edge_graph = np.repeat(np.arange(g), data.nodes), np.repeat(np.arange(g), data.edges)
    first_node, first_edge = np.cumsum(data.nodes) - data.nodes, np.cumsum(data.edges) - data.edges
    ends = data.ends + first_node[edge_graph]
    nothing = np.zeros(0, np.int64)
    if kind == "kpath":
        paths = simple_paths(ends, graph, k, most)
        everyone = np.arange(n)
        keys, where = np.unique(
            np.concatenate([everyone * n + everyone, paths.root * n + paths.end]), return_inverse=True
        )
        end = where[n:]
        distance = np.where(keys // n == keys % n, 0, k)
        np.minimum.at(distance, end, paths.length)
        link_keys, link = np.unique(paths.root * max(m, 1) + paths.edge, return_inverse=True)
        link_root, link_edge = link_keys // max(m, 1), link_keys % max(m, 1)
        parent, length = paths.parent, paths.length
    else:
        root, node, distance, link_root, link_edge = (a.astype(np.int64) for a in balls(ends, n, k))
        keys, link, end, parent, length = root * n + node, nothing, nothing, nothing, nothing
    joined = np.searchsorted(keys, link_root * n + ends[:, link_edge])
    owners = (graph[keys // n], graph[link_root], graph[(keys // n)[end]])
    copies, links, held = (np.bincount(owner, minlength=g) for owner in owners)
    first_copy, first_link, first_path = (np.cumsum(count) - count for count in (copies, links, held))
    return Subgraphs(
        kind,
        k,
        copies,
        links,
        held,
        keys // n - first_node[owners[0]],
        keys % n - first_node[owners[0]],
        distance,
        joined - first_copy[owners[1]],
        link_edge - first_edge[owners[1]],
        link - first_link[owners[2]],
        end - first_copy[owners[2]],
        np.where(parent < 0, -1, parent - first_path[owners[2]]),
        length,
    )


# ---- those of a batch ----


@dataclass(frozen=True, eq=False)
class Rooted:
    """The rooted subgraphs of a batch of graphs on its device; fields as in `Subgraphs`, numbers of the batch.

    n: nodes of the batch. m: its edges.
    """

    kind: Kind
    k: int
    n: int
    m: int
    root: Tensor
    node: Tensor
    distance: Tensor
    ends: Tensor
    edge: Tensor
    link: Tensor
    end: Tensor
    parent: Tensor
    length: Tensor

    def label(self, kind: str) -> Tensor:
        """(copies, f), what a copy is told of its place: 1 at the root (`root_mark`), its distance one-hot (`distance`)
        or the mark and log(1 + the paths that end here) for each length (`path_counts`)."""
        mark = (self.root == self.node).float()[:, None]
        if kind == "root_mark":
            return mark
        if kind == "distance":
            return torch.nn.functional.one_hot(self.distance, self.k + 1).float()
        count = mark.new_zeros(len(self.root) * self.k)
        count = count.index_add(0, self.end * self.k + self.length - 1, count.new_ones(len(self.end)))
        return torch.cat([mark, count.view(-1, self.k).log1p()], dim=1)

    def without(self, kept: Tensor) -> Rooted:
        """Those of the graphs that are left with the edges `kept` (ascending indices), numbered anew."""
        stays = torch.zeros(self.m, dtype=torch.bool, device=kept.device)
        stays[kept] = True
        number = stays.cumsum(0) - 1
        link_stays, distance = stays[self.edge], self.distance
        if self.kind == "kpath":
            alive = self._alive(link_stays)
            link_stays = torch.zeros_like(link_stays)
            link_stays[self.link[alive]] = True
            far = torch.full_like(distance, self.k + 1)
            far = far.scatter_reduce(0, self.end[alive], self.length[alive], "amin")
        else:
            far = torch.where(self.root == self.node, 0, self.k + 1)
            for step in range(1, self.k + 1):
                u, v = self.ends[:, link_stays]
                near = far.scatter_reduce(0, u, far[v] + 1, "amin").scatter_reduce(0, v, far[u] + 1, "amin")
                far = torch.where(near <= step, near, far)
            link_stays &= (far[self.ends] <= self.k).all(0)
            alive = torch.zeros_like(self.link, dtype=torch.bool)
        far = torch.where(self.root == self.node, 0, far)
        copy_stays = far <= self.k
        copy, link, path = (mask.cumsum(0) - 1 for mask in (copy_stays, link_stays, alive))
        parent = self.parent[alive]
        return Rooted(
            self.kind,
            self.k,
            self.n,
            len(kept),
            self.root[copy_stays],
            self.node[copy_stays],
            far[copy_stays],
            copy[self.ends[:, link_stays]],
            number[self.edge[link_stays]],
            link[self.link[alive]],
            copy[self.end[alive]],
            torch.where(parent < 0, -1, path[parent.clamp(min=0)]),
            self.length[alive],
        )

    def _alive(self, link_stays: Tensor) -> Tensor:
        """Which paths have all their links among `link_stays`."""
        alive = link_stays[self.link]
        for length in range(2, self.k + 1):
            longer = (self.length == length).nonzero().squeeze(1)
            alive[longer] &= alive[self.parent[longer]]
        return alive


class Batches:
    """Cuts the rooted subgraphs of chosen graphs out of those of a whole set, which lie on a device."""

    def __init__(self, found: Subgraphs, data: GraphSet, device: str | torch.device) -> None:
        self.kind, self.k = found.kind, found.k
        fields = ("root", "node", "distance", "ends", "edge", "link", "end", "parent", "length")
        self._of = {name: torch.tensor(getattr(found, name), device=device) for name in fields}
        counts = {"copies": found.copies, "links": found.links, "paths": found.paths}
        counts |= {"nodes": data.nodes, "edges": data.edges}
        self._count = {name: torch.tensor(count, device=device) for name, count in counts.items()}
        self._start = {name: count.cumsum(0) - count for name, count in self._count.items()}

    def of(self, graphs: Tensor) -> Rooted:
        """Those of the graphs of the given indices, in that order."""
        count = {name: counts[graphs] for name, counts in self._count.items()}
        offset = {name: counts.cumsum(0) - counts for name, counts in count.items()}
        rows, owner = {}, {}
        for name in ("copies", "links", "paths"):
            owner[name] = torch.repeat_interleave(
                torch.arange(len(graphs), device=graphs.device), count[name]
            )
            local = torch.arange(len(owner[name]), device=graphs.device) - offset[name][owner[name]]
            rows[name] = self._start[name][graphs][owner[name]] + local

        def moved(name: str, of: str, by: str) -> Tensor:
            return self._of[name][..., rows[of]] + offset[by][owner[of]]

        parent = self._of["parent"][rows["paths"]]
        return Rooted(
            self.kind,
            self.k,
            int(count["nodes"].sum()),
            int(count["edges"].sum()),
            moved("root", "copies", "nodes"),
            moved("node", "copies", "nodes"),
            self._of["distance"][rows["copies"]],
            moved("ends", "links", "copies"),
            moved("edge", "links", "edges"),
            moved("link", "paths", "links"),
            moved("end", "paths", "copies"),
            torch.where(parent < 0, -1, parent + offset["paths"][owner["paths"]]),
            self._of["length"][rows["paths"]],
        )
