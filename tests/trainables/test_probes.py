"""Probes of frozen embeddings: values worked out by hand, or by another library."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from fairsweep.trainables.tasks import probes
from fairsweep.trainables.tasks.graph_views import Arcs, mask_columns
from fairsweep.trainables.tasks.sparse import normalised_adjacency

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 20)
APART = np.eye(3)[LABELS] + 0.05 * RNG.standard_normal((60, 3))
PARTS = {part: np.arange(i, 60, 3) for i, part in enumerate(("train", "validation", "test"))}


def test_classes_that_lie_apart_are_found_and_noise_is_not() -> None:
    found = probes.linear_probe(APART, LABELS, PARTS)
    assert found["test"] == found["validation"] == probes.Scores(1.0, 1.0, 1.0)
    noise = probes.linear_probe(RNG.standard_normal((60, 3)), LABELS, PARTS)["test"]
    assert noise.accuracy < 0.7 and 0.2 < noise.auc < 0.8
    assert probes.linear_probe(APART, LABELS, PARTS) == found


def test_scores_of_a_table_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 1, 1])
    probability = np.array([[0.9, 0.1, 0], [0.4, 0.6, 0], [0.2, 0.8, 0], [0.3, 0.7, 0]])
    scores = probes._scores(labels, probability)
    # Three of four; F1 of the first class 2/3, of the second 4/5; each row of class 0 lies above both others.
    assert scores == pytest.approx((0.75, (2 / 3 + 4 / 5) / 2, 1.0))


def test_auc_counts_ties_half() -> None:
    true = np.array([True, False, True, False])
    assert probes._auc(true, np.array([2.0, 1.0, 1.0, 1.0])) == 0.75


def test_the_validation_part_chooses_the_penalty() -> None:
    # With a strong penalty and three times as many of the first class everything is of the first class.
    labels = np.array([0, 0, 0, 1] * 15)
    z = np.where(labels == 1, 0.02, -0.02)[:, None]
    parts = {part: np.arange(i * 20, (i + 1) * 20) for i, part in enumerate(("train", "validation", "test"))}
    assert probes.linear_probe(z, labels, parts, (2.0**-5,))["test"].accuracy == 0.75
    assert probes.linear_probe(z, labels, parts)["test"].accuracy == 1.0


def test_a_training_part_of_one_class_predicts_it() -> None:
    parts = {**PARTS, "train": np.arange(5)}
    assert probes.linear_probe(APART, LABELS, parts)["test"].accuracy == pytest.approx(6 / 20)


def test_clusters_agree_whatever_they_are_called() -> None:
    found = probes.clusters(APART, 3)
    assert probes.agreement(LABELS, found) == pytest.approx((1.0, 1.0))
    # Two classes of two, cut across: mutual information 0, Rand index below what chance gives.
    nmi, ari = probes.agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert nmi == pytest.approx(0.0, abs=1e-12) and ari == pytest.approx(-0.5)


def test_links_of_a_product_are_found() -> None:
    group = np.arange(40) % 2
    z = np.stack([group, 1 - group], 1) + 0.1 * RNG.standard_normal((40, 2))
    pairs = np.stack(np.triu_indices(40, 1))
    same = group[pairs[0]] == group[pairs[1]]
    linked, other = pairs[:, same], pairs[:, ~same]
    cut = {part: slice(i, None, 3) for i, part in enumerate(PARTS)}
    links, negatives = ({p: x[:, s] for p, s in cut.items()} for x in (linked, other))
    assert min(probes.link_auc(z, links, negatives).values()) > 0.99
    assert abs(probes.link_auc(RNG.standard_normal((40, 2)), links, negatives)["test"] - 0.5) < 0.2


def test_partition_of_two_cliques_with_a_bridge_and_a_loose_node() -> None:
    a = sp.block_diag([np.ones((40, 40)) - np.eye(40)] * 2 + [np.zeros((1, 1))]).tolil()
    a[0, 40] = a[40, 0] = 1
    found = probes.partition(sp.csr_matrix(a), 2)
    assert len(set(found[:40])) == len(set(found[40:80])) == 1 and found[0] != found[40]
    small = probes.partition(sp.csr_matrix(a[:10, :10]), 20)
    assert small.shape == (10,)


def test_average_ranks_with_ties() -> None:
    # Metric 1: ranks 1, 2, 3; metric 2: 2.5, 2.5, 1.
    np.testing.assert_allclose(probes.average_ranks(np.array([[3, 1], [2, 1], [1, 5]])), [1.75, 2.25, 2])


def test_unit_rows_leave_zeros() -> None:
    np.testing.assert_allclose(probes.unit_rows(np.array([[3, 4], [0, 0]])), [[0.6, 0.8], [0, 0]])


# ---- views ----


def test_the_whole_graph_is_the_normalised_adjacency_and_a_thinned_one_that_of_its_arcs() -> None:
    links = torch.tensor([[0, 0, 1, 2, 3], [1, 2, 2, 3, 4]])
    a = sp.coo_matrix((np.ones(5), links.numpy()), shape=(6, 6))
    arcs = Arcs(links, 6)
    dense = torch.eye(6)
    expected = normalised_adjacency(sp.csr_matrix(a + a.T)).toarray()
    np.testing.assert_allclose(arcs.whole.matmul(dense).numpy(), expected, atol=1e-6)
    assert arcs.thinned(0.0) is arcs.whole
    torch.manual_seed(0)
    thin = arcs.thinned(0.5)
    found = thin.matmul(dense).numpy()
    present = found > 0
    assert 6 < present.sum() < 16 and present.diagonal().all() and (present != present.T).any()
    scale_in, scale_out = present.sum(1) ** -0.5, present.sum(0) ** -0.5
    np.testing.assert_allclose(found, present * scale_in[:, None] * scale_out[None], atol=1e-6)
    # The gradient of a product is that of its transpose.
    x = torch.randn(6, 2, requires_grad=True)
    g = torch.randn(6, 2)
    (thin.matmul(x) * g).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), found.T @ g.numpy(), atol=1e-6)


def test_masked_columns_are_a_new_tensor() -> None:
    x = torch.ones(4, 2000)
    torch.manual_seed(0)
    masked = mask_columns(x, 0.3)
    assert (x == 1).all() and set(masked.unique().tolist()) == {0.0, 1.0}
    assert (masked == masked[0]).all() and abs(masked.mean().item() - 0.7) < 0.04
