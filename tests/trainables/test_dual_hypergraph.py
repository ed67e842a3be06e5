"""EHGNN: the dual hypergraph, HyperDrop and HyperCluster, their baselines, the sets of graphs and their task."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import fetch, graph_sets, tudataset
from fairsweep.trainables.graphs.dual_hypergraph import (
    AUTOENCODERS,
    CLASSIFIERS,
    ENCODERS,
    ClusterPool,
    DualHypergraph,
    EdgeAutoEncoder,
    GraphHyperDrop,
    Hypergraph,
    NodeHyperDrop,
    hypergraph_propagation,
)
from fairsweep.trainables.tasks import graph_classification as task
from fairsweep.trainables.tasks import graph_layers as layers
from fairsweep.trainables.tasks.graph_classification import GraphBatch, GraphTask

torch.set_num_threads(1)

# A triangle with a tail of two, and a star of four: 5 + 4 nodes, 5 + 3 edges.
ENDS = torch.tensor([[0, 1, 0, 2, 3, 5, 5, 5], [1, 2, 2, 3, 4, 6, 7, 8]])
NODES, EDGES = 9, 8
INCIDENCE = torch.zeros(NODES, EDGES)
INCIDENCE[ENDS[0], torch.arange(EDGES)] = 1
INCIDENCE[ENDS[1], torch.arange(EDGES)] = 1


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(**over: Any) -> GraphBatch:
    fields: dict[str, Any] = {
        "x": normal(NODES, 3),
        "ends": ENDS,
        "e": normal(EDGES, 2, seed=1),
        "node_graph": torch.tensor([0] * 5 + [1] * 4),
        "edge_graph": torch.tensor([0] * 5 + [1] * 3),
        "graphs": 2,
        "target": torch.tensor([0, 1]),
        "owner": torch.tensor([0, 1]),
    }
    return GraphBatch(**{**fields, **over})


CONFIG: dict[str, Any] = {
    "model": "hyperdrop",
    "edge_encoder": "dual_hypergraph",
    "hidden": 8,
    "edge_divisor": 1,
    "layers": 3,
    "ratio": 0.5,
    "dropout": 0.0,
    "depth": 2,
}


def graph_net(**over: Any) -> GraphHyperDrop:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return GraphHyperDrop(3, 2, 4, {**CONFIG, **over}).eval()


def node_net(**over: Any) -> NodeHyperDrop:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return NodeHyperDrop(3, 4, {**CONFIG, **over}).eval()


def auto_encoder(model: str = "hypercluster", encoder: str = "dual_hypergraph") -> EdgeAutoEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return EdgeAutoEncoder(2, 3, 4, {**CONFIG, "model": model, "edge_encoder": encoder}).eval()


def paper(
    data: str = "synthetic_noisy_edges",
    steps: int = 3,
    seed: int = 0,
    folder: Path | None = None,
    **over: Any,
) -> DualHypergraph:
    space = DualHypergraph.space()
    config = {
        name: p.value if p.fixed else p.paper.get(data, p.paper["default"])
        for name, p in space.parameters.items()
    }
    made = DualHypergraph()
    made.setup(
        space.complete({**config, **over}), Setting(seed=seed, data=data, data_dir=folder, steps=steps)
    )
    return made


def dual_incidence(ends: Tensor = ENDS, nodes: int = NODES) -> Tensor:
    m = ends.shape[1]
    return Hypergraph.of_graph(torch.zeros(nodes, 1), ends, torch.zeros(m, 1)).dual().incidence


# ---- the dual hypergraph ----


def test_dual_of_the_dual_is_the_graph() -> None:
    graph = Hypergraph.of_graph(normal(NODES, 3), ENDS, normal(EDGES, 2))
    again = graph.dual().dual()
    assert all(torch.equal(getattr(again, f), getattr(graph, f)) for f in ("x", "incidence", "e"))
    dual = graph.dual()
    assert torch.equal(dual.x, graph.e) and torch.equal(dual.e, graph.x)
    dense = torch.zeros(EDGES, NODES)
    dense[dual.incidence[0], dual.incidence[1]] = 1
    assert torch.equal(dense, INCIDENCE.T), "the dual's incidence matrix is the transposed one"


def test_dual_degrees_are_two_and_dual_sizes_are_node_degrees() -> None:
    edge, node = dual_incidence()
    assert torch.bincount(edge).tolist() == [2] * EDGES
    assert torch.bincount(node, minlength=NODES).tolist() == INCIDENCE.sum(1).tolist()


def dense_hypergraph_matrix() -> Tensor:
    """D^-1 H B^-1 H^T written out, leaves' hyperedges dropped and singletons added."""
    big = INCIDENCE[INCIDENCE.sum(1) > 1]
    h = torch.cat([big.T, torch.eye(EDGES)], dim=1)
    return torch.diag(1 / h.sum(1)) @ h @ torch.diag(1 / h.sum(0)) @ h.T


def test_hypergraph_propagation_is_its_formula_and_a_weighted_mean() -> None:
    matrix = hypergraph_propagation(torch.eye(EDGES), dual_incidence(), NODES)
    torch.testing.assert_close(matrix, dense_hypergraph_matrix())
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(EDGES))
    # The middle edge of the tail: hyperedges of nodes 2 (three edges) and 3 (two), and its own.
    assert matrix[3, 3].item() == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)
    # A leaf's edge has one shared hyperedge and its own.
    assert matrix[4, 4].item() == pytest.approx((1 / 2 + 1) / 2)


def test_line_graph_and_endpoint_encoders_are_their_formulas() -> None:
    adjacency = ((INCIDENCE.T @ INCIDENCE) > 0).float()  # with loops: every edge meets itself
    root = torch.diag(adjacency.sum(1).rsqrt())
    matrix = layers.line_graph_propagation(torch.eye(EDGES), dual_incidence(), NODES)
    torch.testing.assert_close(matrix, root @ adjacency @ root)
    graph = (INCIDENCE @ INCIDENCE.T > 0).float()
    root = torch.diag(graph.sum(1).rsqrt())
    mean = INCIDENCE / INCIDENCE.sum(1, keepdim=True)
    matrix = layers.endpoint_propagation(torch.eye(EDGES), dual_incidence(), NODES)
    torch.testing.assert_close(matrix, INCIDENCE.T @ root @ graph @ root @ mean / 2)


def test_gcn_is_its_formula_with_weights() -> None:
    w = torch.rand(EDGES, generator=torch.Generator().manual_seed(0))
    adjacency = INCIDENCE @ torch.diag(w) @ INCIDENCE.T
    adjacency = adjacency - torch.diag(adjacency.diagonal()) + torch.eye(NODES)
    root = torch.diag(adjacency.sum(1).rsqrt())
    x = normal(NODES, 4)
    torch.testing.assert_close(layers.propagate(x, ENDS, w), root @ adjacency @ root @ x)
    torch.testing.assert_close(layers.propagate(x, ENDS), layers.propagate(x, ENDS, torch.ones(EDGES)))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_direction_of_an_edge_does_not_matter(encoder: str) -> None:
    swapped = ENDS.clone()
    swapped[:, [1, 4, 6]] = swapped[:, [1, 4, 6]].flip(0)
    h = normal(EDGES, 3)
    states = [ENCODERS[encoder](h, dual_incidence(ends), NODES) for ends in (ENDS, swapped)]
    torch.testing.assert_close(*states)
    assert states[0].std(0).min() > 0
    net = graph_net(edge_encoder=encoder)
    torch.testing.assert_close(net(batch()).logits, net(batch(ends=swapped)).logits)
    coder = auto_encoder(encoder=encoder)
    torch.testing.assert_close(coder(batch()).logits, coder(batch(ends=swapped)).logits)


# ---- HyperDrop ----


def test_top_keeps_the_best_of_each_graph_not_of_the_batch() -> None:
    score = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.1, 0.3, 0.2])
    graph = torch.tensor([0] * 5 + [1] * 3)
    assert layers.top(score, graph, 2, 0.5).tolist() == [0, 1, 2, 6, 7], "ceil(2.5) and ceil(1.5)"
    assert layers.top(score, graph, 2, 1.0).tolist() == list(range(8))
    assert layers.top(score, graph, 2, 0.01).tolist() == [0, 6]
    hundred = torch.zeros(100, dtype=torch.int64)
    assert len(layers.top(torch.rand(100), hundred, 1, 0.55)) == 55, "0.55 * 100 is no more than 55"
    assert layers.top(score[:0], graph[:0], 2, 0.5).tolist() == []


def test_hyperdrop_keeps_all_nodes_and_a_share_of_each_graphs_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, plain = [], layers.readout
    monkeypatch.setattr(
        layers, "readout", lambda x, graph, graphs: seen.append(x.shape[0]) or plain(x, graph, graphs)
    )
    for ratio in (1.0, 0.5, 0.3):
        seen.clear()
        kept = graph_net(ratio=ratio)(batch()).kept
        counts = torch.bincount(batch().edge_graph[kept], minlength=2).tolist()
        assert counts == [math.ceil(ratio * math.ceil(ratio * m)) for m in (5, 3)]
        assert seen == [NODES] * 3


def test_kept_edges_are_those_that_score_best() -> None:
    net = graph_net(layers=2)
    b = batch()
    _, score = net.score(0, b.x, b.ends, b.e)
    assert score.abs().max() <= 1
    expected = layers.top(score, b.edge_graph, 2, 0.5)
    assert net(b).kept.tolist() == expected.tolist()


def test_with_all_scores_one_it_is_the_gcn_network() -> None:
    net, gcn = graph_net(ratio=1.0), graph_net(model="gcn")
    gcn.load_state_dict({k: v for k, v in net.state_dict().items() if k in gcn.state_dict()})
    assert not torch.allclose(net(batch()).logits, gcn(batch()).logits)
    for conv in net.score_convs:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.bias, 50.0)
    torch.testing.assert_close(net(batch()).logits, gcn(batch()).logits)


def test_edges_with_negative_scores_carry_nothing() -> None:
    net, gcn = graph_net(ratio=1.0, layers=2), graph_net(model="gcn", layers=2)
    gcn.load_state_dict({k: v for k, v in net.state_dict().items() if k in gcn.state_dict()})
    torch.nn.init.zeros_(net.score_convs[0].weight)
    torch.nn.init.constant_(net.score_convs[0].bias, -1.0)
    b = batch()
    first = torch.relu(gcn.convs[0](b.x, layers.propagate, ENDS))
    second = torch.relu(gcn.convs[1](first, lambda h: h))
    pooled = sum(layers.readout(x, b.node_graph, 2) for x in (first, second))
    torch.testing.assert_close(net(b).logits, gcn.classifier(pooled))


@pytest.mark.parametrize("model", ["hyperdrop", "edge_weight_only"])
def test_gradients_reach_the_scores_and_the_edge_states(model: str) -> None:
    net = graph_net(model=model)
    net(batch()).logits.square().sum().backward()
    for part in (net.score_convs, net.edge_convs):
        assert all(conv.weight.grad is not None and conv.weight.grad.abs().max() > 0 for conv in part)


def test_edge_features_change_the_prediction_of_the_methods_that_read_them() -> None:
    for model in CLASSIFIERS:
        net = graph_net(model=model)
        same = torch.allclose(net(batch()).logits, net(batch(e=normal(EDGES, 2, seed=9))).logits)
        assert same == (model not in ("hyperdrop", "edge_weight_only")), model


def test_baselines_drop_what_they_say() -> None:
    assert graph_net(model="gcn", ratio=0.1)(batch()).kept.tolist() == list(range(EDGES))
    weighted = graph_net(model="edge_weight_only", ratio=1.0)
    assert weighted(batch()).kept.tolist() == list(range(EDGES))
    random = graph_net(model="random_edge")
    assert random(batch()).kept.tolist() == list(range(EDGES)), "all edges in evaluation"
    torch.manual_seed(0)
    draws = {tuple(random.train()(batch()).kept.tolist()) for _ in range(20)}
    assert len(draws) > 5 and {len(d) for d in draws} == {3}, "5 edges, then 3, then 2; 3, then 2, then 1"
    pool = graph_net(model="topk_node_pool", layers=2)
    kept = pool(batch()).kept
    x = torch.relu(pool.convs[0](batch().x, layers.propagate, ENDS))
    nodes = layers.top((x @ pool.pools[0].direction).squeeze(1), batch().node_graph, 2, 0.5)
    assert torch.bincount(batch().node_graph[nodes]).tolist() == [3, 2]
    inside = torch.isin(ENDS, nodes).all(0)
    assert kept.tolist() == inside.nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_graphs_do_not_see_their_neighbours_in_the_batch(model: str) -> None:
    b = batch()
    first = GraphBatch(
        b.x[:5], ENDS[:, :5], b.e[:5], b.node_graph[:5], b.edge_graph[:5], 1, *[b.target[:1]] * 2
    )
    net = graph_net(model=model)
    torch.testing.assert_close(net(first).logits, net(b).logits[:1])


def test_readout_is_maximum_mean_and_sum() -> None:
    x = torch.tensor([[-3.0], [-1.0], [4.0]])
    out = layers.readout(x, torch.tensor([0, 0, 1]), 2)
    assert out.tolist() == [[-1.0, -2.0, -4.0], [4.0, 4.0, 4.0]]


def test_nodes_are_classified_with_all_edges_in_evaluation_and_fewer_in_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fairsweep.trainables.graphs.dual_hypergraph as module

    b = batch(edge_graph=torch.zeros(EDGES, dtype=torch.int64), node_graph=torch.zeros(NODES), graphs=1)
    seen: list[tuple[int, bool]] = []

    def spy(h: Tensor, ends: Tensor, weight: Tensor | None = None) -> Tensor:
        seen.append((ends.shape[1], weight is not None))
        return layers.propagate(h, ends, weight)

    monkeypatch.setattr(module, "propagate", spy)
    net = node_net(layers=7)
    assert net(b).logits.shape == (NODES, 4)
    assert seen == [(8, False)] * 2 + [(8, True)] * 5
    seen.clear()
    net.train()(b)
    assert seen == [(8, False)] * 2 + [(4, True)] * 4 + [(2, True)], (
        "dropped at the second and the sixth layer"
    )
    seen.clear()
    node_net(layers=2).train()(b)
    assert seen == [(8, False), (4, True)]
    seen.clear()
    node_net(model="random_edge").train()(b)
    assert seen == [(8, False)] * 2 + [(4, False)]


# ---- HyperCluster ----


def test_assignments_sum_to_one_over_the_clusters() -> None:
    torch.manual_seed(0)
    pool = ClusterPool(8, 4)
    through = (hypergraph_propagation, dual_incidence(), NODES)
    assigned = pool.assign(normal(EDGES, 8), *through)
    assert assigned.shape == (EDGES, 4)
    torch.testing.assert_close(assigned.sum(1), torch.ones(EDGES))
    assert (assigned.sum(0) - 1).abs().min() > 0.1, "not over the edges"


def test_cluster_pool_is_its_formula_graph_by_graph() -> None:
    torch.manual_seed(0)
    pool, h = ClusterPool(8, 4), 3 * normal(EDGES, 8)
    through = (hypergraph_propagation, dual_incidence(), NODES)
    out = pool(h, batch().edge_graph, 2, *through)
    matrix = dense_hypergraph_matrix()
    q = pool.query(pool.seeds)
    for part in (slice(0, 5), slice(5, 8)):
        k = (matrix @ h @ pool.key.weight + pool.key.bias)[part]
        v = (matrix @ h @ pool.value.weight + pool.value.bias)[part]
        a = torch.softmax(q @ k.T / math.sqrt(8), dim=0)
        o = q + a @ v
        o = o + torch.relu(pool.out(o))
        torch.testing.assert_close(out[part], a.T @ o)


def test_pooling_is_a_bottleneck_and_its_absence_is_none() -> None:
    one = auto_encoder()
    one.pool = ClusterPool(8, 1)
    b = batch()
    through = (hypergraph_propagation, dual_incidence(), NODES)
    states = one.pool(normal(EDGES, 8), b.edge_graph, 2, *through)
    (
        torch.testing.assert_close(states[:5], states[:1].expand(5, -1)),
        "one cluster: all edges of a graph alike",
    )
    assert not torch.allclose(states[0], states[5])
    assert auto_encoder("edge_autoencoder").pool is None
    assert len(auto_encoder().pool.seeds) == 4


@pytest.mark.parametrize("model", AUTOENCODERS)
def test_auto_encoders_give_a_logit_for_each_edge_and_type(model: str) -> None:
    net = auto_encoder(model)
    logits = net(batch()).logits
    assert logits.shape == (EDGES, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


# ---- training ----


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_every_classifier_learns(model: str) -> None:
    trained = paper(steps=12, model=model, dropout=0.0, schedule="constant")
    rows = [trained.step() for _ in range(12)]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] - 0.001
    share = trained.test()["test_informative_edges"]
    assert share == 0.5 if model in ("gcn", "random_edge", "edge_weight_only") else 0 < share < 1


@pytest.mark.parametrize("model", AUTOENCODERS)
def test_every_auto_encoder_learns(model: str) -> None:
    trained = paper("synthetic_coloured_edges", steps=4, model=model, schedule="constant", lr=0.01)
    rows = [trained.step() for _ in range(4)]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] - 0.001
    assert trained.data.classes == 3 and trained.data.level == "edge"
    if trained.net.pool is not None:
        assert len(trained.net.pool.seeds) == math.ceil(0.15 * 201)


@pytest.mark.parametrize("model", [m for m in CLASSIFIERS if m != "topk_node_pool"])
def test_nodes_are_learnt(model: str) -> None:
    trained = paper("csbm", steps=30, model=model, layers=2, dropout=0.2)
    while not trained.finished:
        trained.step()
    assert trained.test()["test_accuracy"] > 0.4


def test_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    trained, rates = paper(steps=10, warmup=0.2), []
    for _ in range(10):
        trained.step()
        rates.append(trained.optimiser.param_groups[0]["lr"] / trained.config["lr"])
    assert rates[:2] == [0.5, 1.0] and rates[1:] == sorted(rates[1:], reverse=True)
    assert 0 < rates[-1] < 0.1
    assert DualHypergraph.fidelity(trained.config, 10).minimum == 3, "warm-up is not judged"


def test_training_stops_when_the_validation_loss_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = paper(steps=12, patience=2, model="gcn", schedule="constant")
    losses = iter([3.0, 2.0, 2.5, 1.0, 1.0, 1.5, 1.2, 9.0])
    monkeypatch.setattr(
        trained.data, "evaluate", lambda net, part: task.Measured(next(losses), 0.5, 0.5, 1.0)
    )
    while not trained.finished:
        trained.step()
    assert trained.done == 7, "more than two epochs in a row that are not below the least"
    assert trained.best is not None and trained.best["step"] == 4


def test_gradients_are_clipped_and_decay_is_the_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    plain = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils,
        "clip_grad_norm_",
        lambda parameters, limit: norms.append(limit) or plain(parameters, limit),
    )
    trained = paper(grad_norm=0.3, model="gcn")
    trained.step()
    assert norms == [0.3]
    assert trained.optimiser.param_groups[0]["weight_decay"] == 1e-4
    assert paper("synthetic_coloured_edges", model="hypercluster").optimiser.defaults["weight_decay"] == 0.0


def test_parameters_exist_where_a_model_has_them() -> None:
    space = DualHypergraph.space()
    assert space.parameters["model"].choices == CLASSIFIERS + AUTOENCODERS
    assert space.parameters["edge_encoder"].choices == tuple(ENCODERS)
    config = space.paper_config("proteins")
    assert config["model"] == "hyperdrop" and config["ratio"] == 0.65 and config["hidden"] == 128
    assert space.paper_config("collab")["edge_divisor"] == 8
    assert space.paper_config("dd")["batch_size"] == 10
    names = {
        m: set(space.complete({**dict.fromkeys(space.parameters, 1), "model": m, "schedule": "cosine"}))
        for m in CLASSIFIERS + AUTOENCODERS
    }
    assert [m for m in names if "ratio" in names[m]] == ["hyperdrop", "random_edge", "topk_node_pool"]
    assert [m for m in names if "cluster_ratio" in names[m]] == ["hypercluster", "node_gmpool"]
    assert all(("depth" in names[m]) == (m in AUTOENCODERS) == ("layers" not in names[m]) for m in names)


def test_what_does_not_go_together_says_so() -> None:
    with pytest.raises(ValueError, match=r"model=gin: known are hyperdrop, .*edge_autoencoder"):
        paper(model="gin")
    with pytest.raises(ValueError, match=r"model=topk_node_pool: drops the nodes that data=csbm classifies"):
        paper("csbm", model="topk_node_pool")
    with pytest.raises(
        DataError, match=r"data=synthetic_noisy_edges: its edges have no types .*digits_pixels"
    ):
        paper(model="hypercluster")
    with pytest.raises(DataError, match=r"data=synthetic_coloured_edges: its graphs have no classes"):
        paper("synthetic_coloured_edges")
    with pytest.raises(DataError, match=r"data=enzymes: unknown; known: digits_pixels, .*mutag.*cora"):
        paper("enzymes")
    with pytest.raises(DataError, match=r"data=enzymes: unknown set of graphs; known: digits_pixels"):
        graph_sets.load("enzymes")


# ---- batches, splits, metrics ----


def test_batches_are_the_graphs_they_were_asked_for() -> None:
    data = GraphTask("digits_pixels", None, "cpu", np.random.default_rng(0))
    chosen = torch.tensor([7, 1, 1500])
    made, full = data.batch(chosen), data.data
    node_start, edge_start = np.cumsum(full.nodes) - full.nodes, np.cumsum(full.edges) - full.edges
    assert made.target.tolist() == full.labels[chosen].tolist()
    for place, graph in enumerate(chosen.tolist()):
        nodes, edges = made.node_graph == place, made.edge_graph == place
        n, m = node_start[graph], edge_start[graph]
        np.testing.assert_array_equal(made.x[nodes], full.x[n : n + full.nodes[graph]])
        np.testing.assert_array_equal(made.e[edges], full.e[m : m + full.edges[graph]])
        ends = made.ends[:, edges] - int(nodes.nonzero()[0])
        np.testing.assert_array_equal(ends, full.ends[:, m : m + full.edges[graph]])
    assert set(made.node_graph[made.ends[0]].tolist()) == {0, 1, 2}
    assert torch.equal(made.node_graph[made.ends[0]], made.edge_graph)


def test_an_epoch_sees_every_training_graph_once_in_an_order_of_its_own() -> None:
    data = GraphTask("synthetic_noisy_edges", None, "cpu", np.random.default_rng(0))
    torch.manual_seed(0)
    first, second = ([data.batch(b).target.tolist() for b in data.batches(128)] for _ in range(2))
    assert [len(t) for t in first] == [128, 128, 44] and first != second
    everything = data.data.labels[data.parts["train"]]
    assert sorted(label for labels in first for label in labels) == sorted(everything.tolist())
    coloured = GraphTask("synthetic_coloured_edges", None, "cpu", np.random.default_rng(0), edges=True)
    assert len(list(coloured.batches(10))) == 10


@pytest.mark.parametrize(
    ("name", "sizes"), [("digits_pixels", (600, 597, 600)), ("synthetic_noisy_edges", (300, 80, 120))]
)
def test_parts_are_disjoint_stratified_and_drawn_by_the_seed(name: str, sizes: tuple[int, ...]) -> None:
    first, again, other = (
        {k: p.tolist() for k, p in GraphTask(name, None, "cpu", np.random.default_rng(s)).parts.items()}
        for s in (0, 0, 1)
    )
    assert first == again != other
    assert tuple(map(len, first.values())) == sizes
    assert len(set().union(*first.values())) == sum(sizes)
    labels = graph_sets.load(name).labels
    for part in first.values():
        counts = np.bincount(labels[part])
        assert counts.min() >= 0.9 * counts.mean()


def test_measures_are_counted_over_targets_graphs_and_kept_edges() -> None:
    data = GraphTask("synthetic_noisy_edges", None, "cpu", np.random.default_rng(0))

    class Net(torch.nn.Module):
        def forward(self, b: GraphBatch) -> task.Output:
            right = torch.nn.functional.one_hot(b.target, 2).float() * 30
            right[0] = right[0].flip(0)
            kept = torch.cat([torch.arange(30) + 40 * g for g in range(b.graphs)])
            return task.Output(right, kept)

    measured = data.evaluate(Net(), "test", size=60)
    assert measured.accuracy == measured.exact == 118 / 120
    assert measured.loss == pytest.approx(2 * 30 / 120)
    assert measured.informative == pytest.approx(20 / 30)

    edges = GraphTask("digits_pixels", None, "cpu", np.random.default_rng(0), edges=True)

    class EdgeNet(torch.nn.Module):
        def forward(self, b: GraphBatch) -> task.Output:
            right = torch.nn.functional.one_hot(b.target, 4).float() * 30
            right[:3] = right[:3].roll(1, 1)
            return task.Output(right)

    measured = edges.evaluate(EdgeNet(), "test", size=200)
    total = int(edges.data.edges[edges.parts["test"]].sum())
    assert measured.accuracy == pytest.approx(1 - 9 / total)
    assert measured.exact == pytest.approx(597 / 600), "three wrong edges of the first graph of each batch"
    assert measured.informative == 1.0


def test_node_level_sets_are_graphs_of_one_with_the_split_of_node_classification() -> None:
    data = GraphTask("csbm", None, "cpu", np.random.default_rng(0))
    assert data.level == "node" and data.inputs == 64 and data.classes == 5
    (made,) = map(data.batch, data.batches(10))
    assert len(made.target) == 50 and made.rows is not None and torch.equal(made.rows, data.parts["train"])
    assert len({*made.rows.tolist()} & {*data.parts["test"].tolist()}) == 0
    assert made.ends.shape[1] == int(data.data.edges[0]) and (made.ends[0] != made.ends[1]).all()


# ---- data ----


def test_pixel_graph_joins_dark_neighbours_once_with_their_direction() -> None:
    image = np.array([[9, 9, 0], [0, 9, 0], [9, 0, 2]])
    pixels, ends, directions = graph_sets.pixel_graph(image, 8)
    assert pixels.tolist() == [[0, 0, 9], [0, 1, 9], [1, 1, 9], [2, 0, 9]]
    edges = {(*map(int, pair), int(d)) for *pair, d in zip(*ends, directions, strict=True)}
    assert edges == {(0, 1, 0), (1, 2, 1), (0, 2, 2), (2, 3, 3)}


def test_digits_are_graphs_of_their_dark_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = graph_sets.load("digits_pixels")
    assert (len(data), data.nodes.sum(), data.edges.sum()) == (1797, 37151, 75674)
    assert data.x.min() >= -1 and data.x.max() <= 1 and (data.x[:, 2] >= 0.5).all()
    assert (data.e.argmax(1) == data.types).all() and np.bincount(data.types).min() > 10000
    assert (data.ends.max(0) < np.repeat(data.nodes, data.edges)).all()
    bunch = graph_sets.load_digits()
    bunch.images[3, 4, 4] += 1
    monkeypatch.setattr(graph_sets, "load_digits", lambda: bunch)
    with pytest.raises(
        DataError, match=r"data=digits_pixels: load_digits\(\) has SHA-256 \w+, expected 87ff"
    ):
        graph_sets.digits_pixels()


def test_noisy_edges_tell_the_class_by_their_true_edges_only() -> None:
    data = graph_sets.noisy_edges(graphs=200, seed=1)
    start = np.repeat(np.arange(200) * 16, 40)
    colour = data.x.argmax(1)
    equal = (colour[data.ends[0] + start] == colour[data.ends[1] + start]).reshape(200, 40)
    for label in (0, 1):
        true, noise = equal[data.labels == label, :20].mean(), equal[data.labels == label, 20:].mean()
        assert true == pytest.approx(0.9 if label else 0.1, abs=0.04)
        assert 0.3 < noise < 0.7
    assert (
        data.marked is not None and data.marked.reshape(200, 40)[:, :20].all() and data.marked.mean() == 0.5
    )
    assert data.e[data.marked, 0].mean() == pytest.approx(1, abs=0.02)
    assert data.e[~data.marked, 0].mean() == pytest.approx(-1, abs=0.02)
    assert data.e[data.marked, 0].std() == pytest.approx(0.4, abs=0.02)
    pairs = (start * 16 + data.ends[0] * 16 + data.ends[1]).reshape(200, 40)
    assert all(len(set(row)) == 40 for row in pairs.tolist()) and (data.ends[0] < data.ends[1]).all()


def test_coloured_edges_join_near_points_and_are_all_parts_at_once() -> None:
    data = graph_sets.load("synthetic_coloured_edges")
    assert (len(data), data.nodes[0], data.edges[0]) == (1, 60, 201)
    assert np.bincount(data.types).min() > 50
    parts = task.split(data, np.random.default_rng(0))
    assert {k: v.tolist() for k, v in parts.items()} == {"train": [0], "validation": [0], "test": [0]}


SDF = """ethanol
  made by hand

  3  2  0  0  0  0            999 V2000
    0.0000    0.0000    0.0000 C   0  0
    0.0000    0.0000    0.0000 C   0  0
    0.0000    0.0000    0.0000 {atom:<3}0  0
  1  2  1  0
  2  3  {order}  0
M  END
>  <SOL>  (1)
1.1

> <SOL_classification>
{label}

$$$$
"""


def test_solubility_reads_atoms_bonds_and_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = {
        "solubility.train.sdf": SDF.format(atom="O", order=1, label="(C) high")
        + SDF.format(atom="Sn", order=2, label="(A) low"),
        "solubility.test.sdf": SDF.format(atom="Cl", order=3, label="(B) medium").replace("\n", "\r\n"),
    }
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(
        graph_sets, "wheel_member", lambda data, wheel, member, sha256: texts[Path(member).name].encode()
    )
    data = graph_sets.solubility()
    assert data.labels.tolist() == [2, 0, 1] and data.test is not None and data.test.tolist() == [2]
    assert data.x.argmax(1).tolist() == [0, 0, 1, 0, 0, 9, 0, 0, 3]
    assert data.ends.tolist() == [[0, 1] * 3, [1, 2] * 3]
    assert data.types is not None and data.types.tolist() == [0, 0, 0, 1, 0, 2]
    with pytest.raises(ValueError, match=r"x.sdf: molecule 1 is not in V2000 layout \(line 4 is .*V3000"):
        good = SDF.format(atom="O", order=1, label="(C) high")
        list(graph_sets.read_sdf(good + good.replace("V2000", "V3000"), "x.sdf"))


def test_solubility_as_shipped() -> None:
    try:
        data = GraphTask("solubility", None, "cpu", np.random.default_rng(0))
    except DataError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))
    assert (len(data.data), data.data.nodes.sum(), data.data.edges.sum()) == (1282, 16671, 17153)
    assert np.bincount(data.data.labels).tolist() == [519, 517, 246]
    assert {k: len(p) for k, p in data.parts.items()} == {"train": 900, "validation": 125, "test": 257}
    assert data.parts["test"].tolist() == list(range(1025, 1282)), "the public test part for every seed"
    assert fetch.sha256(data.data.ends.tobytes()) == (
        "1acdc83c543afab50dda9e17eebafc1923c3735e9ebd5121c93b05e796d47d8e"
    )


def write_tu(folder: Path, prefix: str = "MUTAG", **over: str | None) -> None:
    """Two graphs: a path of three with loops and repetitions, and a single edge; every edge in both directions."""
    files: dict[str, str | None] = {
        "A": "1, 2\n2, 1\n2, 3\n3, 2\n1, 1\n2, 3\n4, 5\n5, 4\n",
        "graph_indicator": "1\n1\n1\n2\n2\n",
        "graph_labels": "-1\n1\n",
        "node_labels": "7\n3\n7\n3\n3\n",
        "node_attributes": "0.5, 1\n0, 0\n0, 0\n2, 2\n0, 0\n",
        "edge_labels": "4\n4\n9\n9\n4\n4\n9\n9\n",
    }
    for name, content in {**files, **over}.items():
        if content is not None:
            (folder / f"{prefix}_{name}.txt").write_text(content)


def test_tudataset_layout_with_each_edge_once(tmp_path: Path) -> None:
    write_tu(tmp_path)
    data = tudataset.read_tu("mini", tmp_path, "MUTAG")
    assert data.nodes.tolist() == [3, 2] and data.edges.tolist() == [2, 1] and data.labels.tolist() == [0, 1]
    assert data.ends.tolist() == [[0, 1, 0], [1, 2, 1]]
    assert data.x.tolist()[0] == [0.5, 1, 0, 1] and data.x.shape == (5, 4)
    assert data.types is not None and data.types.tolist() == [0, 1, 1] and data.edge_classes == 2
    assert data.e.tolist() == [[1, 0], [0, 1], [0, 1]]


def test_tudataset_without_features_gets_degrees_and_ones(tmp_path: Path) -> None:
    write_tu(tmp_path, node_labels=None, node_attributes=None, edge_labels=None)
    data = tudataset.read_tu("mini", tmp_path, "MUTAG")
    assert data.x.argmax(1).tolist() == [1, 2, 1, 1, 1] and data.types is None
    assert data.e.tolist() == [[1.0]] * 3
    star = "".join(f"1, {i}\n" for i in range(2, 1102))
    indicator = "1\n" * 1101 + "2\n2\n"
    write_tu(
        tmp_path, A=star, graph_indicator=indicator, node_labels=None, node_attributes=None, edge_labels=None
    )
    for file in ("node_labels", "node_attributes", "edge_labels"):
        (tmp_path / f"MUTAG_{file}.txt").unlink(missing_ok=True)
    data = tudataset.read_tu("mini", tmp_path, "MUTAG")
    assert data.x.shape == (1103, 1) and data.edges.tolist() == [1100, 0]
    assert data.x.mean() == pytest.approx(0, abs=1e-5) and data.x.std() == pytest.approx(1, rel=1e-4)


def test_tudataset_trains_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "MUTAG").mkdir()
    n = 40
    write_tu(
        tmp_path / "MUTAG",
        A="".join(f"{3 * i + 1}, {3 * i + 2}\n{3 * i + 2}, {3 * i + 3}\n" for i in range(n)),
        graph_indicator="".join(f"{i + 1}\n" * 3 for i in range(n)),
        graph_labels="1\n-1\n" * (n // 2),
        node_labels="".join(f"{i % 2}\n" * 3 for i in range(n)),
        node_attributes=None,
        edge_labels="".join(f"{i % 2}\n" * 2 for i in range(n)),
    )
    with pytest.raises(DataError, match=r"data=mutag: .* \(40, 2\), the published set has \(188, 2\); fetch"):
        paper("mutag", folder=tmp_path)
    monkeypatch.setitem(tudataset.TU, "mutag", ("MUTAG", n, 2))
    trained = paper("mutag", folder=tmp_path, steps=2)
    assert {k: len(p) for k, p in trained.data.parts.items()} == {"train": 32, "validation": 4, "test": 4}
    assert math.isfinite(trained.step()["val_loss"])
    coder = paper("mutag", folder=tmp_path, steps=2, model="hypercluster", hidden=16)
    assert math.isfinite(coder.step()["val_loss"]) and len(coder.net.pool.seeds) == 1


def test_tudataset_that_is_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data=dd: no DD_A.txt in data_dir=.*; give the unpacked folder DD"):
        graph_sets.load("dd", tmp_path)
    with pytest.raises(DataError, match=r"data=dd: no DD_A.txt in data_dir=None"):
        graph_sets.load("dd")
    with pytest.raises(DataError, match=r"data=mini: cannot read .*; data_dir needs MUTAG_A.txt"):
        tudataset.read_tu("mini", tmp_path, "MUTAG")
    for broken, file in (
        ({"A": "1, 9\n"}, "A"),
        ({"graph_indicator": "1\n1\n1\n3\n3\n"}, "graph_indicator"),
        ({"node_labels": "1\n2\n"}, "node_labels or node_attributes"),
        ({"edge_labels": "1\n2\n"}, "edge_labels or edge_attributes"),
    ):
        for old in tmp_path.glob("*"):
            old.unlink()
        write_tu(tmp_path, **{**({"node_attributes": None} if "node" in file else {}), **broken})
        with pytest.raises(DataError, match=f"data=mini: MUTAG_{file} in .* does not fit the other files"):
            tudataset.read_tu("mini", tmp_path, "MUTAG")
