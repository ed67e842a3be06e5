"""Rooted subgraphs, what they tell apart, the contrast of views, the scenarios, and regression."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import counted_graphs, graph_sets
from fairsweep.trainables.datasets.own import templates
from fairsweep.trainables.datasets.packed_graphs import GraphSet, degree_features
from fairsweep.trainables.datasets.tudataset import read_tu
from fairsweep.trainables.graphs import graph_level_eval
from fairsweep.trainables.graphs.graph_level_eval import (
    ENCODERS,
    ROOTED,
    EdgeScore,
    GraphLevelEval,
    GraphNet,
    left,
    nt_xent,
    view,
)
from fairsweep.trainables.tasks import graph_classification, graph_levels, rooted_subgraphs
from fairsweep.trainables.tasks.batch_structure import BatchStructure
from fairsweep.trainables.tasks.graph_levels import LevelBatch
from fairsweep.trainables.tasks.message_passing import LAYERS, GINLayer, Structure
from fairsweep.trainables.tasks.rooted_subgraphs import Batches, Rooted, find
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)

C6, TRIANGLES = nx.cycle_graph(6), nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))
CONFIG: dict[str, Any] = {
    **{
        "encoder": "kpath",
        "k": 2,
        "max_paths": 1000,
        "node_label": "root_mark",
        "outer_layers": 0,
        "layers": 3,
    },
    **{"hidden": 8, "readout": "sum", "dropout": 0.0, "contrastive": "adaptive", "score": "cosine"},
    **{"con_weight": 0.5, "drop": 0.3, "tau": 0.2, "tau_a": 0.5, "scenario": "clean"},
}


def packed(*graphs: nx.Graph, x: np.ndarray | None = None) -> GraphSet:
    ends = [np.array(list(g.edges), np.int64).reshape(-1, 2).T for g in graphs]
    nodes = np.array([len(g) for g in graphs])
    x = np.ones((int(nodes.sum()), 1), np.float32) if x is None else x
    edges = np.array([e.shape[1] for e in ends])
    e = np.ones((int(edges.sum()), 1), np.float32)
    labels = np.arange(len(graphs)) % 2
    return GraphSet("g", nodes, edges, x, np.concatenate(ends, 1), e, labels, 2, (0, 0))


def batch(data: GraphSet, kind: str | None = "kpath", k: int = 2, most: int = 1000) -> LevelBatch:
    offset = np.repeat(np.cumsum(data.nodes) - data.nodes, data.edges)
    numbers = torch.arange(len(data))
    rooted = None if kind is None else Batches(find(data, kind, k, most), data, "cpu").of(numbers)
    return LevelBatch(
        torch.tensor(data.x),
        torch.tensor(data.ends + offset),
        torch.tensor(data.e),
        torch.repeat_interleave(numbers, torch.tensor(data.nodes)),
        torch.repeat_interleave(numbers, torch.tensor(data.edges)),
        len(data),
        torch.tensor(data.labels),
        numbers,
        rooted=rooted,
    )


def net(inputs: int = 1, outputs: int = 2, **over: Any) -> GraphNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return GraphNet(inputs, outputs, {**CONFIG, **over}).eval()


def kind_of(encoder: str) -> str | None:
    return encoder if encoder in ROOTED else None


def trial(
    data: str = "synthetic_regular_graphs", steps: int = 2, seed: int = 0, **over: Any
) -> GraphLevelEval:
    made = GraphLevelEval()
    folder = over.pop("data_dir", None)
    config = paper_config("graph_level_eval", data, **over)
    made.setup(config, Setting(seed=seed, data=data, data_dir=folder, steps=steps))
    return made


def random_graphs() -> list[nx.Graph]:
    return [nx.gnp_random_graph(9, 0.3, seed=3), nx.empty_graph(2), nx.gnp_random_graph(7, 0.5, seed=1)]


# ---- rooted subgraphs ----


def sizes(graph: nx.Graph, k: int, kind: str = "kpath") -> tuple[int, int]:
    """Links and copies of the subgraph of root 0."""
    found = batch(packed(graph), kind, k).rooted
    assert found is not None
    return int((found.root[found.ends[0]] == 0).sum()), int((found.root == 0).sum())


def test_sizes_on_a_hexagon_and_on_triangles() -> None:
    assert [sizes(C6, k) for k in (1, 2, 3)] == [(2, 3), (4, 5), (6, 6)]
    assert [sizes(TRIANGLES, k) for k in (1, 2, 3)] == [(2, 3), (3, 3), (3, 3)]
    assert [sizes(TRIANGLES, k, "ego_subgraph") for k in (1, 2)] == [(3, 3), (3, 3)]
    tree = nx.balanced_tree(2, 2)
    assert [sizes(tree, k) for k in (2, 6)] == [(6, 7)] * 2, "from k = n - 1 on a subgraph is the whole tree"


def members(rooted: Rooted, data: LevelBatch, root: int) -> tuple[dict[int, int], set[tuple[int, int]]]:
    """Distances of the nodes of a root's subgraph, and its edges."""
    inside = rooted.root == root
    far = dict(zip(rooted.node[inside].tolist(), rooted.distance[inside].tolist(), strict=True))
    of_root = rooted.root[rooted.ends[0]] == root
    ends = rooted.node[rooted.ends[:, of_root]]
    assert torch.equal(ends.sort(0).values, data.ends[:, rooted.edge[of_root]].sort(0).values)
    return far, {(min(u, v), max(u, v)) for u, v in ends.T.tolist()}


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_they_are_what_a_search_for_simple_paths_finds(k: int) -> None:
    graphs = random_graphs()
    data = packed(*graphs)
    whole, whole_ego = batch(data, "kpath", k), batch(data, "ego_subgraph", k)
    union = nx.disjoint_union_all(graphs)
    fewer = 0
    for root in union:
        edges, counts = set(), dict.fromkeys(union, 0)
        for other in union:
            for path in nx.all_simple_edge_paths(union, root, other, cutoff=k) if other != root else ():
                edges |= {(min(e), max(e)) for e in path}
                counts[other] += len(path) == k
        far = nx.single_source_shortest_path_length(union, root, cutoff=k)
        assert whole.rooted is not None and whole_ego.rooted is not None
        assert members(whole.rooted, whole, root) == (far, edges)
        induced = {(min(e), max(e)) for e in union.subgraph(far).edges}
        assert members(whole_ego.rooted, whole_ego, root) == (far, induced)
        assert edges <= induced
        fewer += edges < induced
        rows = whole.rooted.root == root
        told = whole.rooted.label("path_counts")[rows].expm1().round()
        assert told[:, -1].tolist() == [counts[v] for v in whole.rooted.node[rows].tolist()]
    assert fewer > 0 or k == 4, "induced neighbourhoods are not those of paths"


@pytest.mark.parametrize("kind", ROOTED)
def test_what_is_left_without_some_edges_is_what_is_found_anew(kind: str) -> None:
    data = packed(*random_graphs())
    whole = batch(data, kind, 3)
    kept = torch.tensor([i for i in range(whole.ends.shape[1]) if i % 3])
    assert whole.rooted is not None
    cut = whole.rooted.without(kept)
    chosen = kept.numpy()
    edges = np.bincount(whole.edge_graph[kept].numpy(), minlength=3)
    fresh = batch(replace(data, ends=data.ends[:, chosen], e=data.e[chosen], edges=edges), kind, 3).rooted
    assert fresh is not None and (cut.n, cut.m) == (fresh.n, fresh.m)
    for field in ("root", "node", "distance", "ends", "edge"):
        assert torch.equal(getattr(cut, field), getattr(fresh, field)), field
    labels = ("root_mark", "distance", *(["path_counts"] if kind == "kpath" else []))
    assert all(torch.equal(cut.label(label), fresh.label(label)) for label in labels)
    again = cut.without(torch.arange(fresh.m))  # what is left can be cut again
    assert torch.equal(again.ends, fresh.ends) and len(again.link) == len(fresh.link)


def test_a_batch_has_the_subgraphs_of_its_graphs_in_its_order() -> None:
    graphs = random_graphs()
    data = packed(*graphs)
    chosen = Batches(find(data, "kpath", 3), data, "cpu").of(torch.tensor([2, 0]))
    turned = batch(packed(graphs[2], graphs[0]), "kpath", 3).rooted
    assert turned is not None
    for field in ("root", "node", "distance", "ends", "edge", "link", "end", "length"):
        assert torch.equal(getattr(chosen, field), getattr(turned, field)), field
    assert torch.equal(chosen.parent, turned.parent)


def test_a_root_keeps_at_most_so_many_paths_of_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooted_subgraphs, "BLOCK", 4)  # blocks of roots change nothing
    ends = np.array(list(nx.complete_graph(9).edges)).T
    graph = np.zeros(9, np.int64)
    found = rooted_subgraphs.simple_paths(ends, graph, 3, 10)
    for length, wanted in ((1, 8), (2, 10), (3, 10)):
        assert np.bincount(found.root[found.length == length]).tolist() == [wanted] * 9
    steps = found.parent[found.length == 3]
    assert (found.length[steps] == 2).all() and (found.root[steps] == found.root[found.length == 3]).all()
    everything = rooted_subgraphs.simple_paths(ends, graph, 3, 10**6)
    assert len(everything.root) == 9 * (8 + 8 * 7 + 8 * 7 * 6)


@pytest.mark.parametrize("kind, k, most", [("kpath", 2, 64), ("kpath", 3, 256), ("ego_subgraph", 2, 0)])
def test_what_subgraphs_take_is_known_before(kind: Any, k: int, most: int) -> None:
    for graph in (nx.random_regular_graph(5, 60, seed=0), nx.gnp_random_graph(60, 0.5, seed=0)):
        data = packed(*[graph] * 4)
        tracemalloc.start()
        find(data, kind, k, most)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 0.5 * peak < rooted_subgraphs.expected_bytes(data, kind, k, most) < 2 * peak


def test_dense_sets_are_refused_for_subgraphs_and_not_for_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    # As COLLAB: 5000 graphs of 75 nodes, 66 links at each; a sparse set beside it.
    ends = np.array(list(nx.circulant_graph(75, range(1, 34)).edges)).T
    of = {"dense": (np.tile(ends, 1000), 75, 5000), "sparse": (np.tile(np.array([[0], [1]]), 100), 2, 100)}
    size = ends.shape[1]
    sets = {
        "dense": GraphSet(
            *("dense", np.full(1000, 75), np.full(1000, size), np.ones((75_000, 1)), of["dense"][0]),
            *(np.ones((1, 1)), np.zeros(1000, np.int64), 2, (0, 0)),
        ),
        "sparse": packed(*random_graphs()),
    }
    monkeypatch.setattr(graph_sets, "load", lambda name, folder=None: sets[name])
    monkeypatch.setattr(graph_level_eval, "MOST_BYTES", 16e9 / 5)  # of a fifth of its graphs

    def said(data: str, **over: Any) -> str | None:
        return GraphLevelEval.unsuited({**CONFIG, **over}, data, None)

    for over in ({"encoder": "kpath", "k": 3, "max_paths": 256}, {"encoder": "ego_subgraph", "k": 2}):
        why = said("dense", **over)
        assert why is not None and f"subgraphs of encoder={over['encoder']}" in why and "smaller" in why
        assert said("sparse", **over) is None
    assert said("dense", encoder="gin") is None and said("dense", k=3, max_paths=16) is None


# ---- what is told apart ----


def outputs(encoder: str, *graphs: nx.Graph, **over: Any) -> Tensor:
    k = over.get("k", CONFIG["k"])
    model = net(encoder=encoder, hidden=32, **over).train()
    for (
        module
    ) in model.modules():  # at 0, where it begins, a node and a neighbour count alike, and prisms are K(3, 3)
        if isinstance(module, GINLayer):
            torch.nn.init.constant_(module.eps, 0.5)
    return model(batch(packed(*graphs), kind_of(encoder), k)).logits.detach()


PRISM, BIPARTITE = nx.circular_ladder_graph(3), nx.complete_bipartite_graph(3, 3)


@pytest.mark.parametrize("pair", [(C6, TRIANGLES), (PRISM, BIPARTITE)])
def test_paths_tell_graphs_apart_that_1_wl_cannot(pair: tuple[nx.Graph, nx.Graph]) -> None:
    for encoder in ("gin", "gcn", "sage", "gat"):
        a, b = outputs(encoder, *pair)
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)
    for encoder in ROOTED:
        a, b = outputs(encoder, *pair)
        assert (a - b).abs().max() > 1e-3, encoder
    a, b = outputs("kpath", *pair, k=1)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg="stars are all alike")


def test_without_a_root_mark_nothing_says_which_node_is_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = [nx.path_graph(4)]
    whole = outputs("kpath", *graphs, k=3)
    monkeypatch.setattr(Rooted, "label", lambda self, kind: torch.zeros(len(self.root), 1))
    blind = net(k=3)
    states = blind.encoder(batch(packed(*graphs), "kpath", 3))[0]
    torch.testing.assert_close(
        states, states[:1].expand_as(states), msg="the subgraph of each root is the path"
    )
    assert not torch.allclose(whole, blind(batch(packed(*graphs), "kpath", 3)).logits)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_order_of_nodes_and_edges_does_not_matter(encoder: str) -> None:
    rng, graph = np.random.default_rng(0), nx.gnp_random_graph(10, 0.4, seed=2)
    x = rng.standard_normal((10, 3)).astype(np.float32)
    order = rng.permutation(10)
    turned = nx.Graph()
    turned.add_nodes_from(range(10))
    place = np.argsort(order)
    turned.add_edges_from([(int(place[v]), int(place[u])) for u, v in reversed(list(graph.edges))])
    model = net(
        3, encoder=encoder, outer_layers=1, node_label="path_counts" if encoder == "kpath" else "root_mark"
    )
    a, b = (
        model(batch(packed(g, x=features), kind_of(encoder))).logits
        for g, features in ((graph, x), (turned, x[order]))
    )
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_gin_counts_no_triangles_in_regular_graphs_and_its_r2_is_at_most_0() -> None:
    made = trial(encoder="gin", contrastive="none", lr=0.01)
    rows = [made.step(), made.step()]
    assert all(row["val_r2"] <= 1e-6 for row in rows) and made.test()["test_r2"] <= 1e-6
    graphs = counted_graphs.synthetic_regular_graphs()
    assert graphs.values is not None
    assert [len(graphs), graphs.nodes.max(), graphs.edges.min(), graphs.edges.max()] == [800, 12, 18, 18]
    assert (graphs.values.mean(), graphs.values.min(), graphs.values.max()) == (
        pytest.approx(1.85, abs=0.01),
        0,
        6,
    )
    first = nx.random_regular_graph(3, 12, seed=0)
    assert graphs.values[0] == sum(nx.triangles(first).values()) / 3
    atlas = counted_graphs.graph_atlas()
    assert atlas.values is not None and (len(atlas), atlas.values.max()) == (986, 35), (
        "of the complete graph on 7"
    )


# ---- layers on a batch ----


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_are_those_on_a_whole_graph(kind: str) -> None:
    graph = nx.gnp_random_graph(9, 0.4, seed=3)
    graph.add_node(9)  # without a neighbour
    ends = np.array(list(graph.edges)).T
    torch.manual_seed(0)
    layer, x = LAYERS[kind](3, 4), torch.randn(10, 3, requires_grad=True)
    found = layer(x, BatchStructure(torch.tensor(ends), 10))
    expected = layer(x, Structure.of_edges(ends, 10))
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(out.square().sum(), x)[0] for out in (found, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", ["gcn", "gin", "sage"])
def test_weights_of_edges_count_and_have_gradients(kind: str) -> None:
    graph = nx.gnp_random_graph(9, 0.4, seed=3)
    ends = torch.tensor(np.array(list(graph.edges)).T)
    torch.manual_seed(0)
    layer, x = LAYERS[kind](3, 4), torch.randn(9, 3)
    ones = torch.ones(ends.shape[1])
    torch.testing.assert_close(layer(x, BatchStructure(ends, 9, ones)), layer(x, BatchStructure(ends, 9)))
    gone = ones.clone()
    gone[2] = 0
    rest = torch.tensor([i for i in range(ends.shape[1]) if i != 2])
    torch.testing.assert_close(
        layer(x, BatchStructure(ends, 9, gone)), layer(x, BatchStructure(ends[:, rest], 9))
    )
    weight = torch.rand(ends.shape[1], requires_grad=True)
    layer(x, BatchStructure(ends, 9, weight)).square().sum().backward()
    assert weight.grad is not None and (weight.grad != 0).all()


def test_attention_goes_without_weights_of_edges() -> None:
    ends, x = torch.tensor([[0, 1], [1, 2]]), torch.randn(4, 3)
    layer = LAYERS["gat"](3, 4)
    torch.testing.assert_close(
        layer(x, BatchStructure(ends, 4, torch.rand(2))), layer(x, BatchStructure(ends, 4))
    )


# ---- the contrast ----


def test_nt_xent_is_its_formula() -> None:
    a, b = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # cosines: .6 .8 / 0 1; the denominator has the other graph alone
    expected = (-(0.6 - 0.8) / 0.5 - (1 - 0) / 0.5) / 2
    assert nt_xent(a, b, 0.5).item() == pytest.approx(expected)


def test_unimportant_edges_go_more_often_by_their_softmax() -> None:
    score, graph = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.3, 0.3]), torch.tensor([0, 0, 0, 0, 1, 1])
    torch.manual_seed(0)
    gone = torch.zeros(6)
    for _ in range(2000):
        kept = left(score, graph, 2, 0.25, 0.5)
        assert len(kept) == 3 + 2, "ceil(.75 * 4) and ceil(.75 * 2)"
        gone += 1
        gone[kept] -= 1
    e = np.exp(2)  # of the four one goes, the first with odds exp(2) : 1 : 1 : 1
    assert gone[0].item() / 2000 == pytest.approx(e / (e + 3), abs=0.03)
    assert gone[1:4].numpy() / 2000 == pytest.approx(1 / (e + 3), abs=0.03)
    flat = sum(int(0 not in left(score, graph, 2, 0.25, 1e6).tolist()) for _ in range(1000))
    assert flat / 1000 == pytest.approx(0.25, abs=0.05), "uniform as the temperature grows"


@pytest.mark.parametrize("encoder", ENCODERS)
def test_dropping_nothing_both_views_are_the_graph(encoder: str) -> None:
    data = batch(packed(*random_graphs()), kind_of(encoder), 3)
    model = net(encoder=encoder, drop=0.0, k=3)
    states, vector = model.encoder(data)
    a, b = model.views(data, states)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(a, model.project(vector))
    assert torch.cosine_similarity(a, b).min() > 1 - 1e-6


def test_views_are_graphs_without_some_edges_and_with_all_nodes() -> None:
    data = batch(packed(*random_graphs()))
    kept = torch.arange(0, data.ends.shape[1], 2)
    seen = view(data, kept)
    assert torch.equal(seen.ends, data.ends[:, kept]) and torch.equal(seen.x, data.x)
    assert seen.rooted is not None and set(seen.rooted.root.tolist()) == set(range(len(data.x)))
    assert int(seen.rooted.edge.max()) < len(kept) == seen.rooted.m


def test_scores_are_cosines_or_a_network_that_is_trained_by_the_weights_it_gives() -> None:
    states = torch.randn(9 + 2 + 7, 8, requires_grad=True)
    data = batch(packed(*random_graphs()))
    u, v = states[data.ends]
    torch.testing.assert_close(EdgeScore(8, "cosine")(states, data.ends), torch.cosine_similarity(u, v))
    learned = EdgeScore(8, "mlp")
    torch.testing.assert_close(learned(states, data.ends), learned(states, data.ends.flip(0)))
    learned(states, data.ends).sum().backward()
    assert states.grad is None, "scores do not pull at the states"
    model = net(score="mlp").train()
    found, _ = model.encoder(data)
    nt_xent(*model.views(data, found), 0.2).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.score.mlp[0].parameters())


def test_without_weight_the_contrast_has_no_effect_at_all() -> None:
    over = {"encoder": "gin", "lr": 0.01}
    plain, without = trial(contrastive="none", **over), trial(contrastive="adaptive", con_weight=0.0, **over)
    assert [plain.step(), plain.step()] == [without.step(), without.step()]
    some = trial(contrastive="adaptive", con_weight=0.5, **over)
    assert [some.step(), some.step()][1] != plain.step()


def test_no_view_is_drawn_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trial(encoder="kpath", k=2)
    first = made.data.score(made.net, "validation")
    monkeypatch.setattr(GraphNet, "views", lambda *_: pytest.fail("a view in evaluation"))
    assert made.data.score(made.net, "validation") == first and made.data.score(made.net, "test").mae > 0


# ---- scenarios ----


def test_imbalance_decays_exponentially_from_the_largest_class() -> None:
    labels = np.repeat([0, 1, 2], [40, 100, 70])
    train = np.arange(210)[::-1]
    kept = graph_levels.unbalanced(labels, train, 25.0, np.random.default_rng(0))
    assert np.bincount(labels[kept]).tolist() == [4, 100, 20], (
        "100, 100 / 5 and 100 / 25, largest class first"
    )
    assert (np.diff(kept) > 0).all()
    assert np.bincount(labels[graph_levels.few(labels, train, 50, np.random.default_rng(0))]).tolist() == [
        40,
        50,
        50,
    ]


@pytest.mark.parametrize("kind", ["remove", "add"])
def test_noise_changes_a_share_of_the_edges_of_the_chosen_graphs(kind: str) -> None:
    data = graph_sets.load("synthetic_noisy_edges")
    chosen = np.arange(0, len(data), 3)
    made = graph_levels.noisy(data, chosen, 0.3, kind, np.random.default_rng(0))
    expected = data.edges.copy()
    expected[chosen] += (-1 if kind == "remove" else 1) * 12
    assert made.edges.tolist() == expected.tolist() and made.ends.shape[1] == len(made.e) == expected.sum()
    for g in range(0, 12):
        sets = []
        for of in (data, made):
            begin = int(of.edges[:g].sum())
            pairs = of.ends[:, begin : begin + int(of.edges[g])]
            assert pairs[0].max() < 16 and (pairs[0] != pairs[1]).all()
            sets.append({(min(p), max(p)) for p in pairs.T.tolist()})
            assert len(sets[-1]) == pairs.shape[1], "no edge twice"
        before, after = sets
        assert (after <= before if kind == "remove" else before <= after) and (before == after) == (g % 3 > 0)


@pytest.mark.parametrize("kind", ["remove", "add"])
def test_degrees_as_features_are_those_of_the_noisy_graph(kind: str) -> None:
    for graph, known in ((nx.gnp_random_graph(12, 0.4, seed=1), "one-hot"), (nx.star_graph(1000), "scaled")):
        plain = packed(graph, nx.path_graph(6))
        data = replace(plain, x=degree_features(plain.degree()), degrees=True)
        made = graph_levels.noisy(data, np.array([0]), 0.3, kind, np.random.default_rng(0))
        first = len(graph)
        assert (made.x[:first] != data.x[:first]).any() and (made.x[first:] == data.x[first:]).all()
        assert made.x.shape == data.x.shape
        if known == "one-hot":
            clipped = np.minimum(made.degree(), data.x.shape[1] - 1)
            assert made.x.argmax(1).tolist() == clipped.tolist()
        else:
            was, now = data.degree(), made.degree()
            assert made.x[:, 0] == pytest.approx((now - was.mean()) / was.std(), abs=1e-4)
        kept = graph_levels.noisy(plain, np.array([0]), 0.3, kind, np.random.default_rng(0))
        assert kept.x is plain.x, "features of the nodes' own stay"


def test_sets_without_features_of_nodes_say_that_theirs_are_degrees(tmp_path: Path) -> None:
    files = {"A": "1,2\n2,3\n4,5", "graph_indicator": "1\n1\n1\n2\n2", "graph_labels": "0\n1"}
    for stem, text in files.items():
        (tmp_path / f"G_{stem}.txt").write_text(text + "\n")
    found = read_tu("g", tmp_path, "G")
    assert found.degrees and found.x.argmax(1).tolist() == found.degree().tolist() == [1, 2, 1, 1, 1]
    (tmp_path / "G_node_labels.txt").write_text("0\n1\n0\n1\n0\n")
    assert not read_tu("g", tmp_path, "G").degrees


def test_scenarios_touch_training_graphs_only() -> None:
    clean = trial(encoder="gin")
    for scenario in ("noise", "imbalance", "fewshot"):
        made = trial(encoder="gin", scenario=scenario, shots=2, imbalance=10.0)
        for part in ("validation", "test"):
            assert torch.equal(made.data.parts[part], clean.data.parts[part])
            graphs = made.data.parts[part]
            assert torch.equal(made.data.batch(graphs).ends, clean.data.batch(graphs).ends)
        size = len(made.data.parts["train"])
        assert (size == 560) if scenario == "noise" else (size < 560), scenario
        assert scenario != "fewshot" or size == 8
        if scenario == "noise":
            assert made.data.batch(made.data.parts["train"]).ends.shape[1] == 560 * 13
        assert made.step()["val_loss"] > 0


def test_values_are_standardised_by_training_graphs_and_give_classes() -> None:
    made = trial(encoder="gin", scenario="fewshot", shots=3)
    values, train = made.data.tensors["values"], made.data.parts["train"]
    assert made.data.mean == pytest.approx(values[train].mean().item())
    standard = made.data.batch(train).value
    assert standard is not None and standard.mean().item() == pytest.approx(0, abs=1e-6)
    assert standard.std(correction=0).item() == pytest.approx(1, abs=1e-6)

    class Told(torch.nn.Module):
        """Knows the answer, and is wrong by `off` standard deviations."""

        off = 0.0

        def forward(self, data: LevelBatch) -> Any:
            assert data.value is not None
            return type("O", (), {"logits": data.value[:, None] + self.off})

    told = Told()
    right = made.data.score(told, "test")
    assert (right.accuracy, right.macro_f1) == (1, 1) and right.r2 == pytest.approx(1) and right.mae < 1e-5
    told.off = 0.5
    wrong = made.data.score(told, "test")
    assert wrong.loss == pytest.approx(0.25) and wrong.mae == pytest.approx(
        0.5 * made.data.deviation, rel=1e-5
    )
    spread = values[made.data.parts["test"]].var(correction=0).item()
    assert wrong.r2 == pytest.approx(1 - (0.5 * made.data.deviation) ** 2 / spread, rel=1e-5)
    logs = graph_sets.load("solubility_logs")
    assert logs.values is not None
    assert np.searchsorted(np.array(logs.cuts), logs.values).tolist() == logs.labels.tolist()


def test_it_trains_on_a_folder_of_ones_own(tmp_path: Any) -> None:
    templates.write("graph classification", tmp_path)
    made = trial("own", data_dir=tmp_path, k=2, hidden=16)
    assert made.data.classes == 2 and made.step()["train_loss"] > 0 and 0 <= made.test()["test_macro_f1"] <= 1


def test_a_last_batch_of_one_node_joins_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    lone = packed(*[nx.empty_graph(1), nx.path_graph(3), nx.cycle_graph(4)] * 12)
    test, validation = np.array([1, 2]), np.array([4, 5])
    lone = replace(lone, test=test, validation=validation)
    monkeypatch.setattr(graph_sets, "load", lambda name, folder=None: lone)
    graph_classification._tensors.cache_clear()
    graph_levels._subgraphs.cache_clear()
    made = trial("synthetic_regular_graphs", encoder="gin", contrastive="none", batch_size=31)
    for _ in range(6):
        found = list(made.data.batches(31))
        assert sorted(torch.cat(found).tolist()) == made.data.parts["train"].tolist()
        assert all(int(made.data.tensors["nodes"][graphs].sum()) > 1 for graphs in found)
        assert made.step()["train_loss"] > 0
    single = replace(lone, test=np.arange(1, 20), validation=np.arange(20, 36))
    monkeypatch.setattr(graph_sets, "load", lambda name, folder=None: single)
    graph_classification._tensors.cache_clear()
    with pytest.raises(DataError, match="the training graphs have one node in all; needs two at least"):
        trial("synthetic_regular_graphs", encoder="gin")
    graph_classification._tensors.cache_clear()


def test_what_nobody_knows_is_refused() -> None:
    for over, said in (
        ({"encoder": "mlp"}, "encoder=mlp: known are kpath, ego"),
        ({"contrastive": "both"}, "contrastive=both: known are adaptive"),
    ):
        with pytest.raises(ValueError, match=said):
            net(**over)
    with pytest.raises(ValueError, match="encoder=gin: has no rooted subgraphs"):
        find(packed(C6), "gin", 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scenario=dark: known are clean"):
        graph_levels.GraphLevelTask(
            "synthetic_regular_graphs", None, "cpu", np.random.default_rng(0), {"scenario": "dark"}
        )
