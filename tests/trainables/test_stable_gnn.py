"""STABLE: attacks, similarities, refinement and weights by hand, the contrast, baselines, invariants."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from fairsweep.trainables.base import Setting
from fairsweep.trainables.datasets import block_models, graphs
from fairsweep.trainables.graphs import stable_gnn
from fairsweep.trainables.graphs.stable_gnn import StablePaper
from fairsweep.trainables.tasks import poisoning, refinement
from fairsweep.trainables.tasks.infomax import Contrast
from fairsweep.trainables.tasks.message_passing import Structure
from fairsweep.trainables.tasks.poisoning import links_of
from fairsweep.trainables.tasks.sparse import SparseMatrix
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)

WORDS = block_models.words(nodes=120)
RNG = np.random.default_rng(0)
E = torch.tensor(RNG.standard_normal((120, 9)), dtype=torch.float32)
POISON = {"attack": "dice", "rate": 1.0, "jt": 0.03, "k": 5, "alpha": 0.3}
FAST = {"emb_dim": 32, "pretrain_epochs": 20}


def paper(
    steps: int = 5, seed: int = 0, data: str = "synthetic_words", split_seed: int | None = None, **over: Any
) -> StablePaper:
    made = StablePaper()
    if over.get("model", "stable") == "stable" and over.get("embed", "contrastive") == "contrastive":
        over = {**FAST, **over}
    made.setup(
        paper_config("stable_gnn", data, **over),
        Setting(seed=seed, data=data, steps=steps, split_seed=split_seed),
    )
    return made


def keys(adjacency: sp.csr_matrix) -> set[tuple[int, int]]:
    return set(map(tuple, links_of(adjacency).T.tolist()))


# ---- attacks ----


def test_random_links_come_to_those_there_are() -> None:
    poisoned = poisoning.random_add(WORDS.adjacency, 50, np.random.default_rng(1))
    assert keys(poisoned) > keys(WORDS.adjacency) and len(keys(poisoned)) == WORDS.edges + 50
    assert (poisoned != poisoned.T).nnz == 0 and poisoned.diagonal().sum() == 0 and poisoned.max() == 1
    with pytest.raises(ValueError, match="pairs without a link are wanted"):
        poisoning.random_add(WORDS.adjacency, 120 * 119 // 2, RNG)


def test_dice_cuts_within_classes_and_links_between_them() -> None:
    labels = WORDS.labels.copy()
    labels[:10] = -1
    poisoned = poisoning.dice(WORDS.adjacency, labels, 200, np.random.default_rng(1))
    before, after = keys(WORDS.adjacency), keys(poisoned)
    cut, new = before - after, after - before
    assert len(cut) + len(new) == 200 and 70 < len(cut) < 130
    assert all(labels[i] == labels[j] >= 0 for i, j in cut)
    assert all(labels[i] != labels[j] and min(labels[i], labels[j]) >= 0 for i, j in new)
    again = poisoning.dice(WORDS.adjacency, labels, 200, np.random.default_rng(1))
    assert keys(again) == after


@pytest.mark.slow
def test_mettack_harms_more_than_as_many_random_links() -> None:
    """A GCN's accuracy after a fifth of the links has changed, over three draws."""
    harm = {attack: [] for attack in ("none", "random", "mettack")}
    for seed in range(3):
        for attack, values in harm.items():
            over = {} if attack == "none" else {"rate": 0.2}
            made = paper(60, seed, model="gcn", attack=attack, **over)
            while not made.finished:
                made.step()
            values.append(made.test()["test_accuracy"])
    means = {attack: np.mean(values) for attack, values in harm.items()}
    assert means["mettack"] < means["random"] - 0.04 and means["mettack"] < means["none"] - 0.06, means


def test_mettack_changes_as_many_links_and_leaves_a_nodes_only_one() -> None:
    train = np.arange(40)
    x = WORDS.features
    poisoned = poisoning.mettack(WORDS.adjacency, x, WORDS.labels, train, 30, np.random.default_rng(0))
    assert len(keys(poisoned) ^ keys(WORDS.adjacency)) == 30 and (poisoned != poisoned.T).nnz == 0
    lonely = np.flatnonzero(WORDS.adjacency.getnnz(1) == 1)
    assert len(lonely) and all(poisoned[i].multiply(WORDS.adjacency[i]).nnz == 1 for i in lonely)
    other = WORDS.labels.copy()
    other[40:] = 0
    same = poisoning.mettack(WORDS.adjacency, x, np.r_[other[:-1], 3], train, 30, np.random.default_rng(0))
    assert keys(same) == keys(poisoned), "labels of other nodes are not known to it"


def test_the_meta_gradient_is_the_numerical_one() -> None:
    """Of the loss at the end of each inner step with the weights fixed, by one entry of the adjacency."""
    a = torch.tensor(WORDS.adjacency[:12, :12].toarray())
    x, labels, known = torch.randn(12, 5), torch.tensor(WORDS.labels[:12]), torch.arange(12) < 6
    start = torch.randn(5, 4)
    guessed = torch.randint(4, (12,))
    total, _ = poisoning._surrogate(a, x, labels, known, start, guessed)

    def harm(adjacency: torch.Tensor) -> float:
        def s(m: torch.Tensor) -> torch.Tensor:
            looped = m + torch.eye(12)
            root = looped.sum(1).rsqrt()
            return root[:, None] * looped * root

        clean = s(a) @ s(a) @ x
        seen = s(adjacency) @ s(adjacency) @ x
        w, speed, loss = start.clone(), torch.zeros_like(start), 0.0
        for _ in range(poisoning.INNER_STEPS):
            p = torch.softmax(clean[known] @ w, 1) - F.one_hot(labels[known], 4)
            speed = 0.9 * speed + clean[known].T @ p / 6
            w = w - 0.1 * speed
            loss += F.cross_entropy(seen[~known] @ w, guessed[~known]).item()
        return loss

    for i, j in ((0, 3), (7, 2)):
        step = torch.zeros(12, 12)
        step[i, j] = 1e-3
        assert float(total[i, j]) == pytest.approx(
            (harm(a + step) - harm(a - step)) / 2e-3, rel=0.02, abs=0.05
        )


def test_an_unknown_attack_lists_the_known() -> None:
    with pytest.raises(ValueError, match="attack=nettack: known are none, random, dice, mettack"):
        poisoning.poisoned(WORDS.adjacency, E.numpy(), WORDS.labels, np.arange(5), "nettack", 3, RNG)


# ---- similarities and refinement ----


def test_jaccard_is_common_words_over_all_words() -> None:
    x = sp.csr_matrix(np.array([[1, 1, 0, 0], [0, 0.5, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    found = refinement.jaccard(x, np.array([[0, 0, 2], [1, 2, 3]]))
    np.testing.assert_allclose(found, [1 / 3, 0, 1])


def test_only_features_that_nodes_share_are_words() -> None:
    numbers = refinement.words_of(E.numpy())
    assert numbers[1] is None and numbers[0] is not None
    shares = sp.csr_matrix(np.array([[0.5, 0.5], [0, 1.0]], np.float32))
    found, words = refinement.words_of(shares)
    assert words is not None and found.toarray().tolist() == [[1, 1], [0, 1]]
    assert refinement.words_of(sp.identity(5, format="csr"))[1] is None, "each node its own word"
    made = paper(1, data="csbm", jt=0.05)
    assert "no link is cut by the Jaccard similarity" in made.remarks[0] and not made.gone.size


def test_refined_keeps_similar_links_and_adds_the_nearest() -> None:
    found = refinement.refined(WORDS.adjacency, E, 0.1, 4)
    rows = E / E.norm(dim=1, keepdim=True)
    similar = (rows @ rows.T).numpy()
    kept = WORDS.adjacency.toarray() * (similar > 0.1)
    ranked = np.where(kept.sum(1) > 1, similar, 0)
    expected = kept.copy()
    for i in range(120):
        expected[i, np.argsort(-ranked[i])[:4]] = 1
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(found.toarray(), expected)
    gained = (found.toarray() > kept).sum(1)
    several = kept.sum(1) > 1
    assert gained.max() <= 4 and gained[several].max() <= 3 and gained[~several].max() == 4
    assert (refinement.refined(WORDS.adjacency, E, None, 0) != WORDS.adjacency).nnz == 0
    blocks = torch.cat([refinement.nearest(E, 3, torch.ones(120), block=b) for b in (7,)])
    assert torch.equal(blocks, refinement.nearest(E, 3, torch.ones(120)))
    assert refinement.nearest(E[:3], 9, torch.ones(3)).shape == (3, 3), "no more than there are nodes"


def test_weights_by_degree() -> None:
    """By hand: 0 - 1 - 2, degrees with loops 2, 3, 2."""
    path = graphs.undirected(3, np.array([0, 1]), np.array([1, 2]))
    plain = refinement.weighted(path, -0.5).toarray()
    np.testing.assert_allclose(plain, Structure(path).propagation.forward.to_dense(), rtol=1e-6)
    np.testing.assert_allclose(refinement.weighted(path, 0.0).toarray()[1], [1 / 3] * 3)
    np.testing.assert_allclose(refinement.weighted(path, 1.0).toarray()[0], [2 / 5, 3 / 5, 0])
    one_way = graphs.directed(3, np.array([0, 1, 2, 0]), np.array([1, 0, 1, 2]))
    for alpha in (-0.3, 0.0, 0.6):
        found = refinement.weighted(one_way, alpha).toarray()
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(found[0], np.array([3, 2, 2]) ** 0.6 / (np.array([3, 2, 2]) ** 0.6).sum())


def test_low_rank_is_the_dense_one() -> None:
    low = refinement.LowRank(WORDS.adjacency, 6, RNG.standard_normal(120), "cpu")
    u, s, v = np.linalg.svd(WORDS.adjacency.toarray().astype(float))
    best = (u[:, :6] * s[:6]) @ v[:6]
    d = np.maximum(best.sum(1) + 1, 1)
    dense = (best + np.eye(120)) / np.sqrt(d[:, None] * d)
    np.testing.assert_allclose(low.matmul(torch.eye(120)), dense, atol=1e-5)


def test_outcome_counts_links_and_poison() -> None:
    clean = graphs.undirected(5, np.array([0, 1, 2]), np.array([1, 2, 3]))
    poisoned = graphs.undirected(5, np.array([0, 1, 0, 0]), np.array([1, 2, 3, 4]))
    now = graphs.directed(5, np.array([0, 1, 0, 4, 2]), np.array([1, 0, 3, 2, 1]))
    assert refinement.outcome(clean, poisoned, now) == {
        **{"links": 4, "poison": 2, "taken": 1, "cut": 1, "poison_cut": 1, "arcs_new": 1}
    }


# ---- contrast ----


def test_contrast_is_its_formula() -> None:
    torch.manual_seed(0)
    net, x = Contrast(9, 8), E
    matrix = refinement.symmetric(WORDS.adjacency, 2, "cpu")
    views = [refinement.symmetric(WORDS.adjacency, 3, "cpu"), matrix]
    torch.manual_seed(3)
    found = net.loss(x, matrix, views)
    torch.manual_seed(3)
    order = torch.randperm(120)

    def states(m: SparseMatrix, features: torch.Tensor) -> torch.Tensor:
        h = m.forward.to_dense() @ features @ net.weight + net.bias
        return torch.where(h > 0, h, net.act.weight * h)

    logits = torch.zeros(240)
    for view in views:
        summary = torch.sigmoid(states(view, x).mean(0))
        for place, features in enumerate((x, x[order])):
            h = states(matrix, features)
            logits[120 * place : 120 * (place + 1)] += (
                torch.einsum("nd,de,e->n", h, net.critic, summary) + net.offset
            )
    target = torch.cat([torch.ones(120), torch.zeros(120)])
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, target))
    degree = WORDS.adjacency.toarray().sum(1) + 2
    expected = (WORDS.adjacency.toarray() + 2 * np.eye(120)) / np.sqrt(degree[:, None] * degree)
    np.testing.assert_allclose(matrix.forward.to_dense(), expected, rtol=1e-5)


def test_views_lie_between_the_pruned_and_the_poisoned_graph() -> None:
    made = paper(1, **POISON)
    assert made.gone.shape[1] > 100

    def of(matrix: SparseMatrix) -> set[tuple[int, int]]:
        dense = matrix.forward.to_dense().numpy()
        return keys(sp.csr_matrix((dense > 0) & ~np.eye(len(dense), dtype=bool)))

    views = [of(view) for view in made._views()]
    for view in views:
        assert keys(made.pruned) <= view <= keys(made.poisoned)
        assert len(view) == made.pruned.nnz // 2 + int(0.2 * made.gone.shape[1])
    assert views[0] != views[1]
    dropped = [of(view) for view in paper(1, **POISON, views="random_drop")._views()]
    assert all(view < keys(made.pruned) for view in dropped)


def test_labels_enter_neither_representations_nor_the_refined_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    made = paper(2, attack="random", rate=0.3, jt=0.03, ct=0.1, k=5)
    made.step()
    shuffled = paper(2, attack="random", rate=0.3, jt=0.03, ct=0.1, k=5)
    labels = shuffled.data.labels
    shuffled.data.labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    shuffled.step()
    assert torch.equal(made.found.states, shuffled.found.states)
    assert torch.equal(made.found.arcs, shuffled.found.arcs)
    seen = [paper(2, embed="supervised", k=5) for _ in range(2)]
    seen[1].data.labels = shuffled.data.labels
    for one in seen:
        one.step()
    assert not torch.equal(seen[0].found.states, seen[1].found.states), "those of a GCN see them"


def test_without_its_parts_it_is_the_gcn() -> None:
    plain = {"jt": 0.05, "ct": -1.0, "k": 0, "alpha": -0.5, "input": "X", "attack": "dice", "rate": 0.5}
    made, gcn = paper(3, **plain), paper(3, model="gcn", attack="dice", rate=0.5)
    gcn.net.load_state_dict(made.net.state_dict())
    made._refine()
    made.net.eval(), gcn.net.eval()
    assert torch.equal(made.logits(made.net), gcn.logits(gcn.net))
    assert torch.equal(made.logits(made.net), paper_logits(made))


def paper_logits(made: StablePaper) -> torch.Tensor:
    """The two layers written out, on the matrix that the paper uses."""
    x, net = made.x.forward.to_dense(), made.net
    w = made.matrix
    h = torch.relu(w.matmul(made.x.matmul(net.weights[0])) + net.biases[0])
    del x
    return w.matmul(h @ net.weights[1]) + net.biases[1]


# ---- training ----


@pytest.mark.parametrize("model", ["stable", "gcn", "jaccard", "svd"])
def test_every_model_trains(model: str) -> None:
    made = paper(60, model=model, attack="random", rate=0.1)
    while not made.finished:
        made.step()
    assert made.test()["test_accuracy"] > 0.6
    assert made.attrs["structure"]["poison"] == int(0.1 * made.clean.nnz / 2)


@pytest.mark.parametrize("embed", ["raw", "supervised"])
def test_other_representations_train(embed: str) -> None:
    made = paper(30, embed=embed, k=3, attack="random", rate=0.1)
    while not made.finished:
        made.step()
    assert made.test()["test_accuracy"] > 0.5


def test_a_poisoned_graph_is_mended() -> None:
    made = paper(2, attack="dice", rate=1.0, jt=0.03, ct=0.1, k=5, alpha=0.3)
    made.step()
    told = made.attrs["structure"]
    clean_cut = told["cut"] - told["poison_cut"]
    assert told["poison_cut"] / told["poison"] > 1.2 * clean_cut / (told["links"] - told["poison"])
    assert told["arcs_new"] > 0


def test_the_first_epoch_is_not_done_again_after_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    made = paper(6, **POISON)
    made.step()
    saved = io.BytesIO()
    torch.save(made.state_dict(), saved)
    expected = [made.step() for _ in range(2)]
    again = paper(6, **POISON)
    saved.seek(0)
    again.load_state_dict(torch.load(saved, weights_only=True))
    monkeypatch.setattr(stable_gnn, "contrasted", None)
    assert [again.step() for _ in range(2)] == expected
    assert again.attrs == made.attrs


@pytest.mark.parametrize("model", ["gcn", "jaccard", "svd", "stable"])
def test_a_trial_goes_on_with_its_poison_where_the_attack_would_choose_other_links(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = (
        {"attack": "dice", "rate": 0.5, "jt": 0.03} if model in ("stable", "jaccard") else {"attack": "dice"}
    )
    made = paper(6, model=model, **over)
    unrefined = made.state_dict()
    made.step()
    state, expected = made.state_dict(), [made.step() for _ in range(2)]
    attack, none = poisoning.dice, np.zeros((2, 0), np.int64)
    monkeypatch.setattr(poisoning, "dice", lambda *a: poisoning._changed(attack(*a), np.arange(9), none))
    again = paper(6, model=model, **over)
    assert keys(again.poisoned) != keys(made.poisoned)
    again.load_state_dict(state)
    assert keys(again.poisoned) == keys(made.poisoned) and (again.pruned != made.pruned).nnz == 0
    assert [again.step() for _ in range(2)] == expected and again.attrs == made.attrs
    first = paper(6, model=model, **over)
    first.load_state_dict(unrefined)
    assert [first.step() for _ in range(3)][1:] == expected
    earlier = {**state, "parts": {**state["parts"], "found": {**state["parts"]["found"]}}}
    del earlier["parts"]["found"]["poisoned"]
    made.load_state_dict(earlier)
    assert [made.step() for _ in range(2)] == expected, "checkpoints were without it once"


def test_what_was_found_moves_to_the_trials_device() -> None:
    found, other = stable_gnn.Found("meta"), stable_gnn.Found("cpu")
    other.states, other.arcs, other.poisoned = torch.ones(3, 2), torch.ones(2, 4), torch.ones(2, 5)
    found.load_state_dict(other.state_dict())
    assert found.states is not None and found.states.device.type == "meta"
    assert found.arcs is not None and found.arcs.device.type == "cpu" and found.poisoned is not None


def test_only_representations_that_the_classifier_sees_are_kept() -> None:
    for over in ({"embed": "raw"}, {"input": "X"}):
        made = paper(2, k=3, **over)
        made.step()
        assert made.found.states is None and made.found.arcs is not None


def test_with_a_split_seed_all_trials_have_the_same_poison() -> None:
    made = [paper(1, seed, split_seed=4, **POISON) for seed in (0, 1)]
    assert keys(made[0].poisoned) == keys(made[1].poisoned)
    assert keys(paper(1, 1, **POISON).poisoned) != keys(made[0].poisoned)
    baseline = paper(1, 0, split_seed=4, model="gcn", attack="dice", rate=1.0)
    assert keys(baseline.poisoned) == keys(made[0].poisoned), "and all models"


def test_the_last_state_better_by_loss_or_accuracy_is_kept() -> None:
    made = paper(40, model="gcn")
    kept, least, top = 0, np.inf, 0.0
    while not made.finished:
        row = made.step()
        if row["val_loss"] < least or row["val_accuracy"] > top:
            kept = made.done
        least, top = min(least, row["val_loss"]), max(top, row["val_accuracy"])
    assert made.kept_step == kept


def test_what_does_not_scale_says_so_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    config = paper_config("stable_gnn", "synthetic_words", k=5)
    assert StablePaper.unsuited(config, "synthetic_words", None) is None
    monkeypatch.setattr(stable_gnn, "MOST_PAIRED", 399)
    assert "compares all pairs of 400 nodes" in str(StablePaper.unsuited(config, "synthetic_words", None))
    assert StablePaper.unsuited({**config, "k": 0}, "synthetic_words", None) is None
    assert StablePaper.unsuited({**config, "model": "gcn"}, "synthetic_words", None) is None
    raw, words = {**config, "embed": "raw", "k": 0}, WORDS.features.shape[1]
    assert StablePaper.unsuited(raw, "synthetic_words", None) is None
    monkeypatch.setattr(stable_gnn, "MOST_BYTES", 4 * 400 * words - 1)
    told = str(StablePaper.unsuited(raw, "synthetic_words", None))
    assert f"embed=raw holds 400 x {words} features dense" in told
    assert StablePaper.unsuited({**config, "k": 0}, "synthetic_words", None) is None
    monkeypatch.setattr(stable_gnn, "MOST_ATTACKED", 399)
    poisoned = paper_config("stable_gnn", "synthetic_words", model="gcn", attack="mettack")
    assert "attack=mettack holds dense matrices of 400 x 400" in str(
        StablePaper.unsuited(poisoned, "synthetic_words", None)
    )
