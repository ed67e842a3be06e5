"""NCN and NCNC: the equations' consequences, target link removal, neighbourhoods, splits and the graphs."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from fairsweep.search_spaces.space import SpaceError
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import graphs
from fairsweep.trainables.graphs import ncn
from fairsweep.trainables.graphs.ncn import PREDICTORS, CommonNeighbourCount, LinkPredictor, NCNPaper, build
from fairsweep.trainables.tasks import link_prediction as task
from fairsweep.trainables.tasks.link_prediction import Adjacency, Entries, LinkTask
from fairsweep.trainables.tasks.sparse import SparseMatrix

torch.set_num_threads(1)
NEURAL = tuple(p for p in PREDICTORS if p != "cn_count")
N = 40


def random_links(nodes: int = N, count: int = 130, seed: int = 0) -> Tensor:
    """Different pairs i < j."""
    ends = np.random.default_rng(seed).integers(nodes, size=(2, count))
    upper = sp.triu(graphs.undirected(nodes, ends[0], ends[1]), 1).tocoo()
    return torch.tensor(np.stack([upper.row, upper.col]).astype(np.int64))


LINKS = random_links()
A = Adjacency.of_links(LINKS, N)
DENSE = torch.zeros(N, N).index_put((LINKS[0], LINKS[1]), torch.tensor(1.0))
DENSE = DENSE + DENSE.T
X = torch.randn(N, 12, generator=torch.Generator().manual_seed(0))
# Every unlinked pair of the first 12 nodes.
PAIRS = torch.stack([p for p in torch.combinations(torch.arange(12)) if not DENSE[p[0], p[1]]]).T


def config(data: str = "synthetic_geometric", **over: Any) -> dict[str, Any]:
    space = NCNPaper.space()
    every = {n: p.paper.get(data, p.paper["default"]) for n, p in space.parameters.items()}
    return space.complete({**every, **over})


def model(name: str = "ncn", **over: Any) -> LinkPredictor:
    # Offset 0: with the paper's, an untrained network completes next to nothing.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = build(12, {**config(predictor=name, proboffset=0.0, **over)}).eval()
    assert isinstance(made, LinkPredictor)
    return made


def logits(net: Any, pairs: Tensor = PAIRS, adjacency: Adjacency = A) -> Tensor:
    return net(net.encode(X, adjacency), adjacency, pairs)


def paper(data: str = "synthetic_geometric", steps: int = 4, seed: int = 0, **over: Any) -> NCNPaper:
    made = NCNPaper()
    made.setup(config(data, **over), Setting(seed=seed, data=data, steps=steps))
    return made


# ---- the method ----


@pytest.mark.parametrize("name", NEURAL)
def test_scores_do_not_depend_on_the_order_of_the_ends(name: str) -> None:
    net = model(name)
    forward, backward = logits(net), logits(net, PAIRS.flip(0))
    assert forward.std() > 1e-3
    if name in ("ncn", "gae", "gae_cn"):
        assert torch.equal(forward, backward)
    torch.testing.assert_close(forward, backward, rtol=1e-5, atol=1e-6)


def test_ncn_is_its_formula_over_dense_matrices() -> None:
    net = model("ncn", jk=False, tailact=False)
    a = DENSE + torch.eye(N)
    d = a.sum(1)
    h = (a / (d[:, None] * d[None, :]).sqrt()) @ net.mpnn.lin(X)
    p = net.predictor
    torch.nn.init.constant_(p.beta, 1.7)
    i, j = PAIRS
    common = (DENSE[i] * DENSE[j]) @ (h + p.xlin(h))
    expected = p.out(1.7 * p.xcn(common) + p.xij(h[i] * h[j])).squeeze(1)
    torch.testing.assert_close(logits(net), expected, rtol=1e-4, atol=1e-5)


def dense_scores(p: Any, h: Tensor, pairs: Tensor, depth: int) -> Tensor:
    """NCNC written out over all nodes, the recursion from the equation."""
    i, j = pairs
    z = h + p.xlin(h)
    weight = DENSE[i] * DENSE[j]
    if depth:
        nodes = torch.arange(N)
        for row, (one, other) in enumerate(pairs.T.tolist()):
            for u in nodes:
                a, b = DENSE[one, u], DENSE[other, u]
                if a != b:
                    end = other if a else one
                    logit = dense_scores(p, h, torch.tensor([[end], [int(u)]]), depth - 1)
                    c = p.completion
                    p0 = torch.sigmoid(c.scale * (logit - c.offset))
                    weight[row, u] = c.alpha * c.pt * p0 / (c.pt * p0 + 1 - p0)
    return p.out(p.beta * p.xcn(weight @ z) + p.xij(h[i] * h[j])).squeeze(1)


@pytest.mark.parametrize(("name", "depth"), [("ncnc", 1), ("ncnc2", 2)])
def test_ncnc_is_its_formula_over_all_nodes(name: str, depth: int) -> None:
    net, pairs = model(name, pt=0.6, alpha=0.9), PAIRS[:, :: 1 if depth == 1 else 20]
    with torch.no_grad():
        expected = dense_scores(net.predictor, net.encode(X, A), pairs, depth)
        found = logits(net, pairs)
        shallower = net.predictor.score(h := net.encode(X, A), h + net.predictor.xlin(h), A, pairs, depth - 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - shallower).abs().max() > 1e-3, "one completion more makes a difference"


@pytest.mark.parametrize("name", ["ncnc", "ncnc2"])
def test_completion_of_weight_nothing_is_ncn_bit_for_bit(name: str) -> None:
    plain, completed = model("ncn"), model(name)
    completed.load_state_dict(plain.state_dict())
    assert not torch.equal(logits(plain), logits(completed))
    completed.predictor.completion.alpha = 0.0
    assert torch.equal(logits(plain), logits(completed))


def test_without_common_neighbours_what_is_pooled_is_zero() -> None:
    net = model("ncn")
    i, j = PAIRS
    lonely = PAIRS[:, (DENSE[i] * DENSE[j]).sum(1) == 0]
    assert lonely.shape[1] > 3
    h, p = net.encode(X, A), net.predictor
    zero = p.xcn(torch.zeros(1, h.shape[1]))
    expected = p.out(p.beta * zero + p.xij(h[lonely[0]] * h[lonely[1]])).squeeze(1)
    torch.testing.assert_close(logits(net, lonely), expected)


def test_probability_is_calibrated() -> None:
    made = ncn.Completion(config(predictor="ncnc", probscale=3.0, proboffset=1.5, pt=0.4, alpha=0.8))
    p = made.probability(torch.linspace(-30, 30, 601, dtype=torch.float64))
    assert (p >= 0).all() and (p <= 0.8 + 1e-12).all()
    assert (p.diff() >= -1e-12).all() and (p[300:330].diff() > 0).all()
    at_offset = made.probability(torch.tensor(1.5)).item()
    assert at_offset == pytest.approx(0.8 * 0.4 / (0.4 + 1))
    assert p[-1].item() == pytest.approx(0.8) and p[0].item() == pytest.approx(0, abs=1e-9)


def test_no_gradient_flows_through_the_probabilities() -> None:
    def gradient(detached: bool) -> Tensor:
        net = model("ncnc")
        made = net.predictor.completion
        through = made.probability
        if detached:
            made.probability = lambda logit: through(logit).detach()  # type: ignore[method-assign]
        logits(net).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    assert torch.equal(gradient(False), gradient(True))
    assert gradient(False).abs().sum() > 0


def test_scores_of_ncn_reach_all_its_parameters() -> None:
    net = model("ncnc", tailact=False, mplayers=2)
    logits(net).square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert silent == []


def test_layers_of_the_mpnn() -> None:
    torch.manual_seed(0)
    a = DENSE + torch.eye(N)
    d = a.sum(1)
    step = a / (d[:, None] * d[None, :]).sqrt()

    def same(expected: Any, **over: Any) -> None:
        net = model("gae", mplayers=2, **over).mpnn
        torch.testing.assert_close(net(X, A), expected(net, net.lin(X)), rtol=1e-4, atol=1e-5)

    same(lambda net, x: step @ step @ x, jk=False)
    same(lambda net, x: net.jk[0] * step @ x + net.jk[1] * step @ step @ x, jk=True)
    once = step + torch.eye(N)
    same(lambda net, x: once @ once @ x, jk=False, residual=True)


@pytest.mark.parametrize("name", ["gae", "gae_cn", "ncn2", "ncn_diff"])
def test_baselines_are_their_formulas(name: str) -> None:
    net = model(name)
    h, p, (i, j) = net.encode(X, A), net.predictor, PAIRS
    total = p.xij(h[i] * h[j])
    both = DENSE[i] * DENSE[j]
    if name == "gae_cn":
        total = total + p.beta * p.xcn(both.sum(1, keepdim=True))
    if name in ("ncn2", "ncn_diff"):
        z = h + p.xlin(h)
        walks = (DENSE @ DENSE > 0).float()
        more = {"ncn2": DENSE[i] * walks[j] + walks[i] * DENSE[j], "ncn_diff": (DENSE[i] - DENSE[j]).abs()}
        total = total + p.beta * p.xcn(both @ z) + p.xcn2(more[name] @ z)
    torch.testing.assert_close(logits(net), p.out(total).squeeze(1), rtol=1e-4, atol=1e-5)


def test_counting_ranks_by_the_number_of_common_neighbours() -> None:
    net = build(12, config(predictor="cn_count"))
    assert isinstance(net, CommonNeighbourCount)
    counts = (DENSE[PAIRS[0]] * DENSE[PAIRS[1]]).sum(1)
    assert torch.equal(logits(net), counts)
    trained = paper(predictor="cn_count")
    before = trained.step()
    assert trained.net.log_slope.item() != 0 and trained.step()["val_hits"] == before["val_hits"]


def test_edge_dropout_keeps_the_expected_pool_and_is_off_in_evaluation() -> None:
    p = model("ncn", edge_dropout=0.5, pre_dropout=0.0)
    dropped = A.dropped(0.5)
    assert 0.3 < len(dropped.keys) / len(A.keys) < 0.7 and dropped.weight == 2
    total = torch.zeros(PAIRS.shape[1], 1)
    for _ in range(400):
        thin = A.dropped(0.5)
        total += task.pool(torch.ones(N, 1), thin.overlap(thin, *PAIRS)[0], PAIRS.shape[1])
    counts = (DENSE[PAIRS[0]] * DENSE[PAIRS[1]]).sum(1)
    assert (total.sum() / 400 / counts.sum()).item() == pytest.approx(1, abs=0.05)
    assert torch.equal(logits(p), logits(p))
    assert not torch.equal(logits(p.train()), logits(p))


def test_sampled_completion_is_right_in_the_mean_and_exact_where_it_suffices() -> None:
    entries = Entries(torch.tensor([0] * 10 + [2] * 3), torch.arange(13), 1.0)
    z = torch.randn(13, 4)
    exact = task.pool(z, entries, 3)
    few = [task.sampled(entries, 3, 4) for _ in range(3000)]
    assert {len(e.pair) for e in few} == {7}
    assert all(sorted(e.node[e.pair == 2].tolist()) == [10, 11, 12] for e in few[:50])
    assert set(few[0].weight.tolist()) == {1.0, 2.5}
    mean = sum(task.pool(z, e, 3) for e in few) / 3000
    torch.testing.assert_close(mean, exact, atol=0.3, rtol=0)
    weights = [Entries(entries.pair, entries.node, torch.arange(13.0)), entries._replace(weight=0.5)]
    for e in weights:
        torch.testing.assert_close(task.pool(z, task.sampled(e, 3, 10), 3), task.pool(z, e, 3))

    whole = model("ncnc")
    for most, same in ((40, True), (1, False)):
        some = model("ncnc", sampling=True, trndeg=most, tstdeg=most)
        assert torch.allclose(logits(whole), logits(some), rtol=1e-4, atol=1e-6) == same
    trained_alike = model("ncnc", sampling=True, trndeg=40, tstdeg=1, x_dropout=0.0, gnn_dropout=0.0)
    for p in trained_alike.modules():
        if isinstance(p, torch.nn.Dropout):
            p.p = 0.0
    trained_alike.mpnn.drops = (0.0, 0.0, 0.0)
    torch.testing.assert_close(logits(trained_alike.train()), logits(whole), rtol=1e-4, atol=1e-5)


# ---- target link removal ----


@pytest.mark.parametrize("name", ["ncn", "ncnc", "gae_cn"])
def test_with_removal_the_batch_itself_cannot_be_seen(name: str) -> None:
    def scores(tlr: bool, present: bool) -> Tensor:
        made = paper(predictor=name, tlr=tlr, gnn_dropout=0.0, pre_dropout=0.0, proboffset=0.0)
        batch = made.data.links["train"][:, :200]
        if not present:
            made.data.adjacency = made.data.adjacency.without(batch)
        return torch.cat(made.train_scores(batch, made.data.negatives["validation"][:, :200]))

    assert torch.equal(scores(True, True), scores(True, False))
    assert not torch.allclose(scores(False, True), scores(False, False))
    # The rest of the training links stays.
    torch.testing.assert_close(scores(True, True), scores(False, False))


def test_removal_takes_exactly_the_links_in_both_directions() -> None:
    batch = LINKS[:, [3, 10, 11]].clone()
    batch[:, 1] = batch[:, 1].flip(0)
    thin = A.without(torch.cat([batch, PAIRS[:, :4]], 1))
    dense = DENSE.clone()
    for i, j in batch.T.tolist():
        dense[i, j] = dense[j, i] = 0
    assert len(thin.keys) == len(A.keys) - 6
    assert torch.equal(thin.keys, dense.flatten().nonzero().squeeze(1))
    empty = A.without(LINKS)
    assert len(empty.keys) == 0 and torch.equal(empty.propagate(X), X)
    assert len(empty.overlap(empty, *PAIRS)[0].node) == 0 and len(empty.without(LINKS).keys) == 0


def test_training_removes_links_before_the_node_vectors_are_computed() -> None:
    made = paper(predictor="gae", gnn_dropout=0.0, pre_dropout=0.0)
    batch, none = made.data.links["train"][:, :100], made.data.negatives["test"][:, :100]
    seen: list[Adjacency] = []
    encode = made.net.encode
    made.net.encode = lambda x, adjacency: seen.append(adjacency) or encode(x, adjacency)
    made.train_scores(batch, none)
    assert len(seen) == 1 and len(seen[0].keys) == 2 * (made.data.links["train"].shape[1] - 100)


# ---- neighbourhoods ----


def test_neighbourhoods_are_those_of_the_dense_matrix() -> None:
    assert torch.equal(A.degree, DENSE.sum(1).long())
    nodes = torch.tensor([5, 0, 5, 17])
    owner, found = A.neighbours(nodes)
    for k, node in enumerate(nodes):
        assert torch.equal(found[owner == k], DENSE[node].nonzero().squeeze(1))
    common, rest = A.overlap(A, *PAIRS)
    for k, (i, j) in enumerate(PAIRS.T.tolist()):
        assert torch.equal(common.node[common.pair == k], (DENSE[i] * DENSE[j]).nonzero().squeeze(1))
        assert torch.equal(rest.node[rest.pair == k], (DENSE[i] * (1 - DENSE[j])).nonzero().squeeze(1))
    walks = (DENSE @ DENSE > 0).flatten().nonzero().squeeze(1)
    assert torch.equal(A.two_hops().keys, walks)
    looped = torch.cat([LINKS, LINKS.flip(0), torch.tensor([[4], [4]])], 1)
    assert torch.equal(Adjacency.of_links(looped, N).keys, A.keys), "no loops, each link once"


def test_propagation_and_its_gradient_are_the_dense_ones() -> None:
    a = DENSE + torch.eye(N)
    step = a / (a.sum(1)[:, None] * a.sum(1)[None, :]).sqrt()
    x = X.clone().requires_grad_()
    weight = torch.randn(N, 12)
    out = A.propagate(x)
    (out * weight).sum().backward()
    torch.testing.assert_close(out, step @ X)
    torch.testing.assert_close(x.grad, step @ weight)


# ---- splits, negatives, metrics ----


@pytest.mark.parametrize(("data", "counts"), [("synthetic_geometric", (1290, 215, 645, 1612))])
def test_parts_are_disjoint_and_negatives_have_no_link_anywhere(
    data: str, counts: tuple[int, int, int, int]
) -> None:
    made = LinkTask(data, None, "cpu", np.random.default_rng(0))
    graph = task.load(data)
    assert tuple(made.links[p].shape[1] for p in ("train", "validation", "test")) == counts[:3]
    assert [made.negatives[p].shape[1] for p in ("validation", "test")] == [counts[3]] * 2
    every = torch.cat([*made.links.values(), *made.negatives.values()], 1)
    keys = every[0] * graph.nodes + every[1]
    assert (every[0] < every[1]).all() and len(keys.unique()) == len(keys)
    links = torch.cat(list(made.links.values()), 1)
    assert links.shape[1] == graph.edges
    present = graph.adjacency.toarray()
    assert (present[links[0], links[1]] == 1).all()
    none = torch.cat(list(made.negatives.values()), 1)
    assert (present[none[0], none[1]] == 0).all()
    assert len(made.adjacency.keys) == 2 * counts[0], "only training links are given"
    assert len(made.with_validation_links().keys) == 2 * (counts[0] + counts[1])
    again, other = (LinkTask(data, None, "cpu", np.random.default_rng(s)) for s in (0, 1))
    assert torch.equal(again.links["test"], made.links["test"])
    assert torch.equal(again.negatives["test"], made.negatives["test"])
    assert not torch.equal(other.links["test"], made.links["test"])


def test_every_predictor_has_the_same_split_at_the_same_seed() -> None:
    a, b = paper(predictor="ncnc", seed=7).data, paper(predictor="cn_count", seed=7).data
    assert torch.equal(a.links["test"], b.links["test"]) and torch.equal(
        a.negatives["test"], b.negatives["test"]
    )


def test_batches_are_every_training_link_once_and_never_all_of_them() -> None:
    made = LinkTask("synthetic_geometric", None, "cpu", np.random.default_rng(0))
    torch.manual_seed(0)
    for size, count in ((256, 6), (10**6, 2)):
        batches = list(made.batches(size))
        assert len(batches) == count and max(p.shape[1] for p, _ in batches) <= max(size // 1, 215)
        together = torch.cat([p for p, _ in batches], 1)
        order = (together[0] * 500 + together[1]).argsort()
        kept = made.links["train"]
        assert torch.equal(together[:, order], kept[:, (kept[0] * 500 + kept[1]).argsort()])
        none = torch.cat([n for _, n in batches], 1)
        assert none.shape == together.shape and not made.adjacency.find(*none)[1].any()
        assert (none[0] != none[1]).all()
    first, second = next(made.batches(256)), next(made.batches(256))
    assert not torch.equal(first[1], second[1]), "negatives are drawn anew in each epoch"


def test_negatives_are_uniform_over_the_pairs_without_a_link() -> None:
    torch.manual_seed(0)
    small = Adjacency.of_links(torch.tensor([[0, 0, 1], [1, 2, 3]]), 4)
    drawn = task.sample_negatives(small, 6000)
    seen = torch.bincount(drawn[0] * 4 + drawn[1], minlength=16).reshape(4, 4)
    free = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]])
    assert torch.equal((seen > 0).long(), free)
    assert (seen[free > 0] / 1000 - 1).abs().max() < 0.15
    adjacency = graphs.undirected(4, np.array([0, 0, 1]), np.array([1, 2, 3]))
    pairs = task.draw_negatives(adjacency, 3, np.random.default_rng(0))
    assert {(int(i), int(j)) for i, j in pairs.T} == {(0, 3), (1, 2), (2, 3)}
    with pytest.raises(ValueError, match="count=4: only 3 pairs of nodes have no link"):
        task.draw_negatives(adjacency, 4, np.random.default_rng(0))
    with pytest.raises(ValueError, match="every pair of the 3 nodes has a link"):
        task.sample_negatives(Adjacency.of_links(torch.tensor([[0, 0, 1], [1, 2, 2]]), 3), 1)


def test_hits_is_the_share_above_the_kth_best_negative() -> None:
    positive, negative = torch.tensor([5.0, 3.0, 2.0, 0.5]), torch.tensor([1.0, 4.0, 2.0, 0.0])
    assert [task.hits(positive, negative, K) for K in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="K=5: must be between 1 and the number of negatives, 4"):
        task.hits(positive, negative, 5)
    loss = task.link_loss(torch.tensor([0.0, 0.0]), torch.tensor([0.0]))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_parts_without_links_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shares=\(0.0, 0.3\): synthetic_geometric has 2150 links"):
        task.split_links(graphs.geometric(), (0.0, 0.3), np.random.default_rng(0))


# ---- graphs ----


def test_digits_are_joined_to_their_nearest_ten() -> None:
    graph = task.load("digits_500")
    assert (graph.nodes, graph.edges, graph.features.shape) == (500, 3371, (500, 16))
    assert graph.adjacency.getnnz(1).min() >= 10 and graph.adjacency.diagonal().sum() == 0
    a = graph.adjacency.tocoo()
    assert (graph.labels[a.row] == graph.labels[a.col]).mean() > 0.85
    linked = (graph.features[a.row] * graph.features[a.col]).sum(1)
    assert abs(linked.mean()) < 0.2, "features say nothing of the links"
    again = graphs.digits_500()
    assert (graph.adjacency != again.adjacency).nnz == 0 and np.array_equal(graph.features, again.features)


def test_damaged_digits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bunch = graphs.load_digits()
    bunch.data[3, 4] += 1
    monkeypatch.setattr(graphs, "load_digits", lambda: bunch)
    with pytest.raises(DataError, match=r"data=digits_500: .* has SHA-256 .*; reinstall scikit-learn"):
        graphs.digits_500()


def test_geometric_graph_has_the_degree_of_its_radius() -> None:
    degrees = [2 * graphs.geometric(seed=s).edges / 500 for s in range(20)]
    # pi r^2 (n - 1), less what lies outside of the square (Philip 2007: the probability that two points are near)
    near = math.pi * 0.075**2 - 8 / 3 * 0.075**3 + 0.5 * 0.075**4
    assert np.mean(degrees) == pytest.approx(499 * near, rel=0.02)
    assert (graphs.geometric().adjacency != graphs.synthetic_geometric().adjacency).nnz == 0
    assert (graphs.geometric().labels == -1).all()


def test_words_present_or_not_are_ones_again() -> None:
    words = sp.random(20, 15, density=0.3, format="csr", random_state=0, dtype=np.float32)
    words.data[:] = 1
    words.data[words.indptr[3] : words.indptr[4]] = 0
    words.eliminate_zeros()
    np.testing.assert_allclose(
        task.mean_one(graphs.row_normalised(words)).toarray(), words.toarray(), rtol=1e-6
    )


def test_sparse_features_are_the_dense_ones() -> None:
    x = sp.random(N, 12, density=0.4, format="csr", random_state=0, dtype=np.float32)
    net = model("ncn")
    torch.testing.assert_close(net.encode(SparseMatrix(x), A), net.encode(torch.tensor(x.toarray()), A))


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(
        DataError, match=r"data=coro: unknown graph; known: digits_500, lastfm, synthetic_geo"
    ):
        paper("coro")
    with pytest.raises(ValueError, match="predictor=seal: known are ncnc, ncnc2, ncn"):
        build(3, {"predictor": "seal"})
    with pytest.raises(DataError, match=r"data=cora: data_dir is None; give the folder"):
        paper("cora")


def test_parameters_exist_where_a_predictor_has_them() -> None:
    space = NCNPaper.space()
    assert space.parameters["predictor"].choices == PREDICTORS
    assert space.paper_config("synthetic_geometric")["predictor"] == "ncnc"
    assert space.paper_config("citeseer")["alpha"] == 0.4 and space.paper_config("cora")["hidden"] == 256
    names = {p: set(config(predictor=p)) for p in PREDICTORS}
    assert {p for p in PREDICTORS if "alpha" in names[p]} == {"ncnc", "ncnc2"}
    assert {p for p in PREDICTORS if "edge_dropout" not in names[p]} == {"gae", "cn_count"}
    assert names["cn_count"] == {"predictor", "validation_links_at_test", "pre_lr", "batch_size"}
    with pytest.raises(SpaceError, match=r"trndeg=9: exists only when sampling=True"):
        space.validate({**space.paper_config("cora"), "trndeg": 9})


def test_lastfm_trains() -> None:
    try:
        task.load("lastfm")
    except DataError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))
    made = paper("lastfm", predictor="ncn", steps=3, hidden=32)
    rows = [made.step() for _ in range(3)]
    assert made.data.links["test"].shape[1] == made.data.negatives["test"].shape[1] == 793
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] and made.test()["test_hits100"] > 0.5


def test_cora_is_split_afresh_by_each_seed(data_dir: Path) -> None:
    parts = []
    for seed in (0, 1):
        made = LinkTask("cora", data_dir, "cpu", np.random.default_rng(seed))
        assert {k: v.shape[1] for k, v in made.links.items()} == {
            "train": 3694,
            "validation": 528,
            "test": 1056,
        }
        assert made.negatives["validation"].shape[1] == made.negatives["test"].shape[1] == 1056
        parts.append(made.links["test"])
    assert not torch.equal(*parts)
    assert isinstance(made.features, SparseMatrix) and made.features.values.allclose(torch.tensor(1.0))


# ---- training ----


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_learns(name: str) -> None:
    trained = paper(predictor=name, steps=3, **({} if name == "cn_count" else {"pre_lr": 5e-3}))
    rows = [trained.step() for _ in range(3)]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] and trained.finished
    tests = trained.test()
    assert 0 < tests["test_hits20"] <= tests["test_hits50"] <= tests["test_hits100"] <= 1


def test_structural_choices_and_sampling_train() -> None:
    over = {"residual": True, "tailact": False, "jk": True, "mplayers": 3, "edge_dropout": 0.3}
    trained = paper(
        predictor="ncnc2", sampling=True, trndeg=2, tstdeg=3, x_dropout=0.2, tail_dropout=0.2, **over
    )
    first, second = trained.step(), trained.step()
    assert second["train_loss"] < first["train_loss"] and trained.test()["test_hits20"] > 0


def test_the_two_parts_have_step_sizes_of_their_own() -> None:
    made = paper(predictor="ncnc", gnn_lr=1e-3, pre_lr=2e-3)
    mpnn, predictor = made.optimiser.param_groups
    assert (mpnn["lr"], predictor["lr"]) == (1e-3, 2e-3)
    assert [len(mpnn["params"]), len(predictor["params"])] == [
        len(list(made.net.mpnn.parameters())),
        len(list(made.net.predictor.parameters())),
    ]


def test_validation_links_can_be_given_at_test() -> None:
    made = paper(predictor="cn_count", steps=1)
    made.step()
    positive, negative = made.scores(made.net, made.data.with_validation_links(), "test")
    fewer = made.scores(made.net, made.data.adjacency, "test")
    assert (positive >= fewer[0]).all() and positive.mean() > fewer[0].mean()
    assert made.test()["test_hits50"] == task.hits(*fewer, 50)
    made.config["validation_links_at_test"] = True
    assert made.test()["test_hits50"] == task.hits(positive, negative, 50) != task.hits(*fewer, 50)


def test_selected_epoch_is_the_one_of_the_best_validation_value() -> None:
    made, kept, rows = paper(predictor="ncn", steps=5), [], []
    while not made.finished:
        rows.append(made.step()["val_hits"])
        kept.append(copy.deepcopy(made.net))
    best = 2 + int(np.argmax(rows[2:]))
    positive, negative = made.scores(kept[best], made.data.adjacency, "test")
    assert made.test()["test_hits20"] == task.hits(positive, negative, 20)
    assert NCNPaper.fidelity({}, 2).minimum == 2 and NCNPaper.fidelity({}).maximum == 20


@pytest.mark.slow
def test_cora_after_thirty_of_the_papers_hundred_epochs(data_dir: Path) -> None:
    made = NCNPaper()
    setting = Setting(seed=0, data="cora", data_dir=data_dir, steps=30)
    made.setup(config("cora", predictor="ncn"), setting)
    while not made.finished:
        made.step()
    assert made.test()["test_hits100"] > 0.85
