"""MEOW: its equations over dense matrices, weights of negatives, and meta-paths worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from fairsweep.trainables.base import Setting
from fairsweep.trainables.graphs import meow
from fairsweep.trainables.graphs.meow import GCN, MEOWPaper, Semantic
from fairsweep.trainables.tasks import heterogeneous as task
from fairsweep.trainables.tasks import negatives
from fairsweep.trainables.tasks.clustering import Clustering, clustering, concentration, kmeans
from fairsweep.trainables.tasks.negatives import hard_weights, prototypes, soft_contrast, weighted_contrast
from fairsweep.trainables.tasks.sparse import SparseMatrix
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)
DATA = "synthetic_bibliography"


def trial(steps: int = 2, seed: int = 0, **over: Any) -> MEOWPaper:
    space = MEOWPaper.space()
    every = {n: p.paper.get(DATA, p.paper["default"]) for n, p in space.parameters.items()}
    made = MEOWPaper()
    config = space.complete({**every, "hidden": 16, **over})
    made.setup(config, Setting(seed=seed, data=DATA, steps=steps))
    return made


@pytest.fixture(scope="module")
def made() -> MEOWPaper:
    return trial()


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# ---- meta-paths ----

# Four papers, three authors: 0 and 1 share two, 2 has one of these, 3 another one alone.
WRITTEN = sp.csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]], np.float32))
COUNTS = sp.csr_matrix(WRITTEN @ WRITTEN.T)


def test_pathsim_by_hand() -> None:
    expected = [[1, 1, 2 / 3, 0], [1, 1, 2 / 3, 0], [2 / 3, 2 / 3, 1, 0], [0, 0, 0, 1]]
    found = task.pathsim(COUNTS).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_pruned_rows_keep_the_most_similar_with_their_counts() -> None:
    two = task.pruned(COUNTS, 2).toarray()
    # Of equal similarity the first: paper 2 keeps itself and 0.
    np.testing.assert_array_equal(two, [[2, 2, 0, 0], [2, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]])
    assert (task.pruned(COUNTS, 4) != COUNTS).nnz == 0
    # Papers 0 and 1 are as similar to each other as to themselves.
    np.testing.assert_array_equal(task.pruned(COUNTS, 1).toarray(), np.diag([2, 2, 1, 1]))
    rng = np.random.default_rng(0)
    m = sp.csr_matrix(rng.integers(0, 3, (30, 12)).astype(np.float32))
    c = sp.csr_matrix(m @ m.T)
    s = task.pathsim(c).toarray()
    assert np.allclose(s, s.T) and (s <= 1 + 1e-6).all() and np.allclose(s.diagonal()[m.getnnz(1) > 0], 1)
    kept = task.pruned(c, 7)
    assert (kept.getnnz(1) <= 7).all()
    for i in range(30):
        assert set(s[i][kept[i].indices]) >= set(np.sort(s[i])[::-1][:6]) - {0}


def test_counts_without_a_diagonal() -> None:
    bare = sp.csr_matrix(COUNTS - sp.diags(COUNTS.diagonal()))
    bare.eliminate_zeros()
    # Of 0 and 1 the two that they share; of 2 the one with each; 3 is joined to none.
    np.testing.assert_array_equal(task.looped(bare).diagonal(), [2, 2, 1, 0])
    similar = task.pathsim(bare).toarray()
    np.testing.assert_allclose(similar.diagonal(), [1, 1, 1, 0])
    np.testing.assert_allclose(similar[:3, :3], task.pathsim(COUNTS).toarray()[:3, :3])
    np.testing.assert_array_equal(task.pruned(bare, 1).toarray(), np.diag([2, 2, 1, 0]))
    assert task.looped(COUNTS) is COUNTS


def test_scaling_and_its_transpose() -> None:
    two = task.pruned(COUNTS, 2)
    d = np.array([4, 4, 2, 1])
    expected = two.toarray() / np.sqrt(np.outer(d, d))
    np.testing.assert_allclose(task.symmetric_scaled(two, False).toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(task.symmetric_scaled(two, True).toarray(), expected.T, rtol=1e-6)
    assert not np.allclose(expected, expected.T)


def test_masks_leave_out_their_share_once() -> None:
    full = sp.csr_matrix(np.arange(1, 101, dtype=np.float32).reshape(10, 10))
    found = task.masked(full, 0.3, np.random.default_rng(0)).toarray()
    assert set(np.unique(found)) == {0, 1} and found.diagonal().all()
    assert found.sum() == 10 + 90 - 27
    x = np.array([[1.0, 0, 2], [3, 4, 0]], np.float32)
    for given in (x, sp.csr_matrix(x)):
        hidden = task.masked_features(given, 0.5, np.random.default_rng(0))
        dense = hidden.toarray() if sp.issparse(hidden) else hidden
        assert (dense != 0).sum() == 2 and np.isin(dense, [0, *x.ravel()]).all()
        assert (x != 0).sum() == 4, "a copy"


# ---- the model ----


def dense(matrix: SparseMatrix) -> torch.Tensor:
    return matrix.matmul(torch.eye(matrix.shape[1]))


def test_the_encoder_is_its_formula_with_one_norm_for_all(made: MEOWPaper) -> None:
    net = GCN(16, 16, 0.5).eval()
    h, a = torch.randn(400, 16), dense(made.views.mean)
    w1, w2 = net.weights
    out = a @ F.prelu(a @ h @ w1, torch.tensor([0.25])) @ w2
    expected = (out - out.mean()) / (out.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(net(h, made.views.mean), expected, rtol=1e-3, atol=1e-4)
    assert expected.mean(0).abs().max() > 0.05, "columns are not centred, the whole is"
    assert all(w.abs().max() <= 16**-0.5 for w in net.weights) and len(list(net.parameters())) == 3


def test_views_over_dense_matrices(made: MEOWPaper) -> None:
    net, data, graphs = made.net.eval(), made.data, made.views
    x = {kind: F.elu(layer(torch.as_tensor(data.graph.features[kind]))) for kind, layer in net.others.items()}
    found = net.views(data, graphs)
    assert found.shape == (4, 400, 16)
    for side, (features, matrices) in enumerate(
        ((graphs.features, graphs.paths), (graphs.masked_features, graphs.masked))
    ):
        target = F.elu(net.target[0](features[0]))
        for number, path in enumerate(data.graph.paths):
            [(kind, counts)] = path.contexts
            rows = torch.tensor(counts.toarray())
            mean = rows @ x[kind] / rows.sum(1, keepdim=True)
            h = F.elu(target + mean @ net.mixes[number][0].weight.T)
            z = F.normalize(net.encoder(h, matrices[number]), dim=1)
            torch.testing.assert_close(found[2 * side + number], z, rtol=1e-3, atol=1e-4)
    coarse = net.encoder(F.elu(net.target[0](graphs.features[0])), graphs.mean)
    torch.testing.assert_close(net.coarse(data, graphs), coarse, rtol=1e-4, atol=1e-5)
    mean = (dense(graphs.paths[0]) + dense(graphs.paths[1])) / 2
    torch.testing.assert_close(dense(graphs.mean), mean)


def test_without_context_the_fine_view_sees_the_target_alone() -> None:
    plain = trial(context=False)
    net = plain.net.eval()
    before = net.views(plain.data, plain.views)
    for layer in (*net.others.values(), *net.mixes.parameters()):
        torch.nn.init.normal_(layer.weight if isinstance(layer, torch.nn.Linear) else layer)
    assert torch.equal(net.views(plain.data, plain.views), before)
    h = F.elu(F.elu(net.target[0](plain.views.features[0])))
    expected = F.normalize(net.encoder(h, plain.views.paths[1]), dim=1)
    torch.testing.assert_close(before[1], expected, rtol=1e-4, atol=1e-5)
    assert trial(masking=False).net.views(plain.data, plain.views).shape[0] == 2
    assert trial(views="coarse").net.views(plain.data, plain.views).shape[0] == 2


def test_semantic_weights_are_a_softmax_over_views() -> None:
    torch.manual_seed(0)
    net, z = Semantic(8, 0.0), torch.randn(4, 30, 8)
    scores = torch.stack([net.query[0] @ torch.tanh(net.lin(v)).mean(0) for v in z])
    beta = net.weights(z)
    torch.testing.assert_close(beta, scores.softmax(0))
    assert beta.sum().item() == pytest.approx(1) and beta.std() > 1e-3
    torch.testing.assert_close(net(z), sum(b * v for b, v in zip(beta, z, strict=True)))


# ---- losses ----


def test_contrast_by_hand_and_its_weights() -> None:
    a, b = unit(6, 4), unit(6, 4, seed=1)
    s = torch.exp(a @ b.T / 0.5)
    plain = -(s.diag() / s.sum(1)).log().mean()
    assert weighted_contrast(a, b, 0.5, None).item() == pytest.approx(plain.item(), rel=1e-5)
    # All weights 1, the positive's too, is InfoNCE; weights of single clusters leave the positive out.
    assert weighted_contrast(a, b, 0.5, torch.ones(6, 6)).item() == pytest.approx(plain.item(), rel=1e-5)
    gamma = hard_weights([torch.arange(6)])
    assert weighted_contrast(a, b, 0.5, gamma).item() != pytest.approx(plain.item(), rel=1e-3)
    expected = -(s.diag() / (s.sum(1) - s.diag())).log().mean()
    assert weighted_contrast(a, b, 0.5, gamma).item() == pytest.approx(expected.item(), rel=1e-5)


def test_hard_weights_count_the_clusterings_that_part_two_nodes() -> None:
    gamma = hard_weights([torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 2])])
    assert gamma.tolist() == [[0, 1, 2, 2], [1, 0, 1, 2], [2, 1, 0, 1], [2, 2, 1, 0]]
    a, b = unit(4, 3), unit(4, 3, seed=1).requires_grad_()
    weighted_contrast(a, b, 0.5, gamma).backward()
    assert torch.isfinite(b.grad).all()
    # All in one cluster: no negative is left, and nothing is said.
    nothing = weighted_contrast(a, b, 0.5, torch.zeros(4, 4))
    nothing.backward()
    assert nothing.item() == 0 and torch.isfinite(b.grad).all()


def test_soft_weights_are_of_the_sum_of_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weigh = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    f, c = unit(9, 5).requires_grad_(), unit(9, 5, seed=1)
    w = torch.sigmoid(weigh(f[:, None] + c[None])).squeeze(2)
    assert (w > 0).all() and (w < 1).all()
    s = torch.exp(f @ c.T / 0.7)
    expected = -(s.diag() / (w * s).sum(1)).log().mean()
    found = soft_contrast(f, c, 0.7, weigh)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    grads = [p.grad.clone() for p in (f, *weigh.parameters())]
    assert all(g.abs().sum() > 0 for g in grads[:-1])
    for block in (1024, 4):  # in one block, and in blocks that are computed again
        monkeypatch.setattr(negatives, "BLOCK", block)
        f.grad = None
        weigh.zero_grad()
        soft_contrast(f, c, 0.7, weigh).backward()
        for g, p in zip(grads, (f, *weigh.parameters()), strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)


def test_prototypes_over_a_table() -> None:
    z, centres = unit(5, 3), unit(2, 3, seed=1)
    run = Clustering(torch.tensor([0, 1, 1, 0, 1]), centres, torch.tensor([0.2, 0.8]))
    logits = z @ centres.T / torch.tensor([0.2, 0.8])
    expected = -torch.stack([logits[i].log_softmax(0)[k] for i, k in enumerate([0, 1, 1, 0, 1])]).mean()
    assert prototypes(z, [run, run]).item() == pytest.approx(expected.item(), rel=1e-5)


# ---- clusters ----


def test_kmeans_finds_groups_that_lie_apart() -> None:
    torch.manual_seed(0)
    group = torch.arange(60) % 3
    x = 5 * torch.eye(3)[group] + 0.1 * torch.randn(60, 3)
    assigned, centres = kmeans(x, 3)
    assert (
        all(len(set(assigned[group == k].tolist())) == 1 for k in range(3))
        and len(set(assigned.tolist())) == 3
    )
    for k in range(3):
        torch.testing.assert_close(centres[k], x[assigned == k].mean(0))
    assert kmeans(x[:2], 5)[1].shape == (2, 3)
    torch.manual_seed(1)
    a = kmeans(x, 3)
    torch.manual_seed(1)
    b = kmeans(x, 3)
    assert all(torch.equal(i, j) for i, j in zip(a, b, strict=True))


def test_tighter_clusters_have_a_smaller_concentration() -> None:
    # Distances 1, 1 and 3, 3, 3; a third cluster of one row takes the largest.
    x = torch.tensor([[1.0, 0], [-1, 0], [10, 3], [10, -3], [13, 0], [50, 50]])
    centres = torch.tensor([[0.0, 0], [10, 0], [50, 50]])
    phi = concentration(x, torch.tensor([0, 0, 1, 1, 1, 2]), centres, 0.4)
    one, three = 1 / np.log(7), 3 / np.log(8)
    low, high = np.percentile([one, three, three], (10, 90))
    raw = np.clip([one, three, three], low, high)
    np.testing.assert_allclose(phi.numpy(), 0.4 * raw / raw.mean(), rtol=1e-5)
    assert phi[0] < phi[1] and phi.mean().item() == pytest.approx(0.4)
    alone = concentration(x, torch.arange(6), x, 0.4)
    assert alone.tolist() == pytest.approx([0.4] * 6)


def test_no_gradient_passes_the_clusters(made: MEOWPaper) -> None:
    x = unit(30, 4).requires_grad_()
    run = clustering(x, 3, 0.5)
    assert not run.centres.requires_grad and not run.concentration.requires_grad
    torch.testing.assert_close(run.centres.norm(dim=1), torch.ones(3))


def test_the_fine_view_is_clustered_and_the_coarse_one_is_the_anchor(
    made: MEOWPaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = made.net.eval()
    seen: list[torch.Tensor] = []
    real = meow.clustering
    monkeypatch.setattr(meow, "clustering", lambda x, k, mean: seen.append(x) or real(x, k, mean))
    with torch.no_grad():
        net.loss(made.data, made.views)
        fine = net.head(net.attention(net.views(made.data, made.views)))
    assert len(seen) == 2 and all(torch.equal(x, fine) for x in seen)


# ---- training ----


@pytest.mark.parametrize("name", ["meow", "adameow", "hard", "infonce", "dgi"])
def test_every_model_learns(name: str) -> None:
    trained = trial(model=name, lr=5e-3, keep_1=8)
    first, last = trained.step(), trained.step()
    assert last["train_loss"] < first["train_loss"] and last["val_accuracy"] > 0.3
    tests = trained.test()
    assert set(tests) == {m.name for m in MEOWPaper.metrics if m.split == "test"}


def test_raw_features_are_probed_as_they_are() -> None:
    raw, more = trial(model="raw"), trial(model="raw_context")
    assert set(raw.config) == {"model", "labelled"}
    graph = raw.data.graph
    np.testing.assert_array_equal(raw.fixed, graph.features["paper"])
    assert more.fixed.shape == (400, 72)
    writers = graph.paths[0].contexts[0][1][0].indices
    np.testing.assert_allclose(more.fixed[0, 24:48], graph.features["author"][writers].mean(0), rtol=1e-5)
    assert raw.step()["train_loss"] == 0.0 and more.step()["val_accuracy"] > 0.5
    assert raw.test() == raw.test()


def test_labels_train_nothing() -> None:
    a, b = trial(model="meow"), trial(model="meow")
    b.data.graph = meow.sets.bibliography()
    b.data.graph.labels[:] = b.data.graph.labels[::-1].copy()
    first, second = a.step(), b.step()
    assert first["train_loss"] == second["train_loss"] and first["val_accuracy"] != second["val_accuracy"]


def test_masks_stay_and_belong_to_the_seed() -> None:
    a, b, other = trial(), trial(), trial(seed=1)
    before = dense(a.views.masked[0]).clone()
    a.step()
    assert torch.equal(dense(a.views.masked[0]), before) and torch.equal(dense(b.views.masked[0]), before)
    assert not torch.equal(dense(other.views.masked[0]), before)


def test_training_ends_when_the_loss_no_longer_falls() -> None:
    made = trial(steps=5, patience=5)
    made.least = -1.0
    made.step()
    assert made.finished and made.waited == 5 and made.done == 1
    assert np.isfinite(made.step()["train_loss"]), "a step more is asked for"


def test_adameow_never_stops_early() -> None:
    made = trial(steps=5, model="adameow")
    made.least = -1.0
    made.step()
    assert "patience" not in made.config and made.waited == 10 and not made.finished


def test_the_weights_of_the_least_training_loss_are_kept() -> None:
    made = trial(steps=3)
    losses = []
    while not made.finished:
        losses.append(made.step()["train_loss"])
    assert made.kept_step == 1 + int(np.argmin(losses))


def test_all_pairs_of_too_many_nodes_are_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    config = paper_config("meow", DATA)
    assert MEOWPaper.unsuited(config, DATA, None) is None
    monkeypatch.setattr(meow, "MOST", 0.001)
    assert MEOWPaper.unsuited(config, DATA, None) == "similarities of all pairs of 400 nodes need 0 GB"
    assert MEOWPaper.unsuited({"model": "raw"}, DATA, None) is None
    monkeypatch.setattr(meow, "MOST", 1e-5)
    features = "dense features of 400 nodes x {} columns need 0 GB"
    assert MEOWPaper.unsuited({"model": "raw"}, DATA, None) == features.format(24)
    assert MEOWPaper.unsuited({"model": "raw_context"}, DATA, None) == features.format(72)
    counted = sum(path.counts.nnz for path in meow.sets.bibliography().paths)
    said = f"meta-paths with {counted} pairs of nodes need 0 GB"
    assert MEOWPaper.unsuited({**config, "model": "dgi"}, DATA, None) == said


@pytest.mark.slow
def test_a_network_of_the_papers_size_makes_a_step() -> None:
    paper = MEOWPaper()
    paper.setup(paper_config("meow", "acm"), Setting(data=DATA, steps=1))
    linear = 3 * (24 * 64 + 64)  # a projection for each type
    shared = 2 * 64 * 64 + 2 * 64 * 64 + 1  # contexts, encoder
    heads = 2 * (64 * 64 + 64) + 64  # attention, contrast
    used = {
        n: p.numel() for n, p in paper.net.named_parameters() if not n.startswith(("weigh.", "bilinear."))
    }
    assert sum(used.values()) == linear + shared + heads
    assert paper.step()["train_loss"] > 0
