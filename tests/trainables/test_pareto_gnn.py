"""ParetoGNN: the five losses over dense matrices, what belongs to whom, and the weights of the tasks."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.graphs import pareto_gnn
from fairsweep.trainables.graphs.pareto_gnn import PRETEXTS, ParetoGNNPaper, task_weights
from fairsweep.trainables.tasks import representation
from fairsweep.trainables.tasks.graph_views import Arcs
from fairsweep.trainables.tasks.probes import average_ranks
from fairsweep.trainables.tasks.representation import SERVED, negatives_of
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"hidden": 16, "out": 16, "pairs": 64}


def trial(
    data: str = "csbm", steps: int = 2, seed: int = 0, where: Path | None = None, **over: Any
) -> ParetoGNNPaper:
    space = ParetoGNNPaper.space()
    every = {n: p.paper.get(data, p.paper["default"]) for n, p in space.parameters.items()}
    made = ParetoGNNPaper()
    config = space.complete({**every, **SMALL, **over})
    made.setup(config, Setting(seed=seed, data=data, data_dir=where, steps=steps))
    return made


@pytest.fixture(scope="module")
def made() -> ParetoGNNPaper:
    return trial()


def loss_and_views(made: ParetoGNNPaper, task: str, seed: int = 0) -> tuple[torch.Tensor, list[Any]]:
    """The loss of a task, and what its encoder was called with and has returned."""
    calls: list[Any] = []
    hook = made.net.encoder.register_forward_hook(lambda _, given, out: calls.append((*given, out)))
    torch.manual_seed(seed)
    loss = made.net.loss(task, made.data)
    hook.remove()
    return loss, calls


# ---- the losses ----


def test_encoder_over_a_dense_matrix(made: ParetoGNNPaper) -> None:
    a = made.data.arcs.whole.matmul(torch.eye(500))
    h = made.data.x
    for layer in made.net.encoder.layers:
        h = a @ h @ layer.weight + layer.bias
        h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
        h = torch.where(h > 0, h, 0.25 * h)
    torch.testing.assert_close(made.embed(made.net), h, rtol=1e-4, atol=1e-4)


def test_recon_is_of_masked_nodes_alone(made: ParetoGNNPaper) -> None:
    head, x = made.net.heads["recon"], made.data.x
    torch.nn.init.constant_(head.token, 7.0)
    loss, [(given, graph, h)] = loss_and_views(made, "recon")
    masked = (given == 7.0).all(1)
    assert masked.sum() == 250 and torch.equal(given[~masked], x[~masked])
    a = graph.matmul(torch.eye(500))
    assert 0.55 < (a.count_nonzero() - 500) / (made.data.arcs.rows.numel() - 500) < 0.75
    hidden = (h @ head.between.weight.T) * (~masked)[:, None]
    found = a @ hidden @ head.decoder.weight + head.decoder.bias
    expected = [(1 - F.cosine_similarity(found[i], x[i], dim=0)) ** 3 for i in masked.nonzero().flatten()]
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    torch.nn.init.zeros_(head.token)


def test_ming_is_of_the_graph_and_its_shuffled_features(made: ParetoGNNPaper) -> None:
    loss, [(x, _, real), (other, _, fake)] = loss_and_views(made, "ming")
    assert torch.equal(x, made.data.x) and not torch.equal(other, x)
    assert torch.equal(other.sort(0).values, x.sort(0).values)
    s = torch.sigmoid(real.mean(0))
    w = made.net.heads["ming"].weight
    one, zero = torch.sigmoid(real @ w @ s), torch.sigmoid(fake @ w @ s)
    assert loss.item() == pytest.approx((-one.log().mean() - (1 - zero).log().mean()).item(), rel=1e-4)


def test_minsg_is_contrast_with_negatives_from_both_views(made: ParetoGNNPaper) -> None:
    loss, views = loss_and_views(made, "minsg")
    z1, z2 = (F.normalize(made.net.heads["minsg"](h), dim=1).detach() for *_, h in views)

    def anchors(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        inside, across = torch.exp(a @ a.T / 0.1), torch.exp(a @ b.T / 0.1)
        return -torch.log(across.diag() / (inside.sum(1) + across.sum(1) - inside.diag()))

    assert loss.item() == pytest.approx((anchors(z1, z2) + anchors(z2, z1)).mean().item() / 2, rel=1e-4)


def test_decor_is_its_formula(made: ParetoGNNPaper) -> None:
    loss, views = loss_and_views(made, "decor")
    z1, z2 = ((h - h.mean(0)) / h.std(0) for *_, h in views)
    eye = torch.eye(16)
    apart = sum((eye - z.T @ z / 500).square().sum().sqrt() for z in (z1, z2))
    expected = ((z1 - z2) / 500).square().sum().sqrt() + 1e-3 * apart
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_link_is_of_training_links_and_pairs_without_one(made: ParetoGNNPaper) -> None:
    made.net.config = {**made.config, "link_dropout": 0.0, "pairs": 10**6}
    loss, [(x, graph, h)] = loss_and_views(made, "link")
    made.net.config = made.config
    assert torch.equal(x, made.data.x) and graph is made.data.arcs.whole
    first, _, last = made.net.heads["link"]
    z = torch.relu(first(F.normalize(h, dim=1)))
    i, j = made.data.train_links
    positive = F.softplus(-last(z[i] * z[j])).mean().item()
    # The pairs without a link are drawn anew: the other half is near its mean over all.
    every = F.softplus(last(z[:, None] * z[None]))
    assert 2 * loss.item() == pytest.approx(positive + every.mean().item(), abs=0.02)


@pytest.mark.parametrize(("task", "share"), [("minsg", 0.3), ("decor", 0.2)])
def test_each_view_has_masks_of_its_own(made: ParetoGNNPaper, task: str, share: float) -> None:
    before = made.data.x.clone()
    _, views = loss_and_views(made, task)
    masks = [(x == 0).all(0) for x, *_ in views]
    assert not torch.equal(*masks) and all(abs(m.float().mean().item() - share) < 0.2 for m in masks)
    assert torch.equal(made.data.x, before)
    left = [(graph.matmul(torch.eye(500)).count_nonzero().item() - 500) for _, graph, _ in views]
    whole = made.data.arcs.rows.numel() - 500
    assert left[0] != left[1] and all(abs(n / whole - (1 - share)) < 0.05 for n in left)


def test_few_anchors_are_contrasted_where_there_are_many_nodes(made: ParetoGNNPaper) -> None:
    made.net.config = {**made.config, "anchors": 2}
    seen: list[torch.Size] = []
    hook = made.net.heads["minsg"].register_forward_hook(lambda _, given, out: seen.append(given[0].shape))
    made.net.loss("minsg", made.data)
    hook.remove()
    made.net.config = made.config
    assert seen == [torch.Size([2, 16])] * 2


def test_of_a_few_nodes_one_is_masked(made: ParetoGNNPaper) -> None:
    few: Any = SimpleNamespace(nodes=4, x=torch.randn(4, 64), arcs=Arcs(torch.tensor([[0, 1], [1, 2]]), 4))
    made.net.config = {**made.config, "mask_rate": 0.2}
    loss = made.net.recon(few)
    made.net.config = made.config
    assert torch.isfinite(loss) and loss > 0


# ---- whose gradient is whose ----


def test_heads_are_private_and_the_encoder_is_shared(made: ParetoGNNPaper) -> None:
    for task in (*PRETEXTS, "supervised"):
        made.net.zero_grad()
        made.net.loss(task, made.data).backward()
        reached = {name for name, p in made.net.named_parameters() if p.grad is not None}
        shared = {name for name in reached if name.startswith("encoder.")}
        assert shared == {name for name, _ in made.net.named_parameters() if name.startswith("encoder.")}
        assert {name.split(".")[1] for name in reached - shared} == ({task} if task != "decor" else set())


def test_gradients_are_of_the_encoder_alone(made: ParetoGNNPaper) -> None:
    losses, found, rows = made.gradients()
    size = sum(p.numel() for p in made.net.encoder.parameters())
    assert losses.shape == (5,) and rows.shape == (5, size) and len(found) == 5


def test_one_task_alone_is_its_own_descent_bit_for_bit() -> None:
    for task in PRETEXTS:
        ours, plain = trial(tasks=task), trial(tasks=task)
        torch.manual_seed(5)
        for _ in range(3):
            ours.update()
        torch.manual_seed(5)
        for _ in range(3):
            plain.optimiser.zero_grad()
            plain.net.loss(task, plain.data).backward()
            plain.optimiser.step()
        for a, b in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
            assert torch.equal(a, b), task


def test_the_step_is_that_of_the_weighted_raw_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.array([0.1, 0.3, 0.2, 0.25, 0.15])
    monkeypatch.setattr(pareto_gnn, "task_weights", lambda *_: weights)
    ours, plain = trial(), trial()
    torch.manual_seed(5)
    before, _ = ours.update()
    torch.manual_seed(5)
    total = sum(w * plain.net.loss(task, plain.data) for w, task in zip(weights, PRETEXTS, strict=True))
    total.backward()
    assert before == pytest.approx(total.item(), rel=1e-5)
    for (name, a), b in zip(ours.net.named_parameters(), plain.net.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)


# ---- weights ----


def gram(seed: int = 0, lengths: Any = (1.0, 5.0, 0.2)) -> np.ndarray:
    v = np.random.default_rng(seed).standard_normal((3, 6)) * np.array(lengths)[:, None]
    return v @ v.T


def config(**over: Any) -> dict[str, Any]:
    return {"weighting": "mgda", "solver": "exact", "grad_norm": "l2", **over}


def test_the_length_of_a_gradient_counts_for_nothing_only_when_normalised() -> None:
    losses, scale = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1000.0, 1.0])
    for kind, same in (("l2", True), ("loss", True), ("loss_plus", False), ("none", False)):
        a = task_weights(gram(), losses, config(grad_norm=kind))
        b = task_weights(gram() * np.outer(scale, scale), losses * scale, config(grad_norm=kind))
        assert np.allclose(a, b, atol=1e-6) == same, kind
    with pytest.raises(ValueError, match="grad_norm=l1: known are l2"):
        task_weights(gram(), losses, config(grad_norm="l1"))


def test_a_common_direction_never_opposes_a_task_where_the_mean_does() -> None:
    opposed = 0
    for seed in range(30):
        g = gram(seed, (1, 1, 1))
        unit = g / np.sqrt(np.outer(np.diag(g), np.diag(g)))
        w = task_weights(g, np.ones(3), config())
        assert (unit @ w >= -1e-9).all()
        opposed += (unit @ np.full(3, 1 / 3) < -1e-9).any()
    assert opposed >= 3


def test_other_weightings() -> None:
    losses = np.ones(3)
    assert task_weights(gram(), losses, config(weighting="sum")).tolist() == [1, 1, 1]
    assert task_weights(gram(), losses, config(weighting="mean")).tolist() == [1 / 3] * 3
    torch.manual_seed(0)
    drawn = np.array([task_weights(gram(), losses, config(weighting="random")) for _ in range(400)])
    assert (drawn >= 0).all() and np.allclose(drawn.sum(1), 1)
    # Uniform on the simplex: mean 1/3, variance 1/18.
    assert np.allclose(drawn.mean(0), 1 / 3, atol=0.04) and np.allclose(drawn.var(0), 1 / 18, atol=0.015)
    with pytest.raises(ValueError, match="weighting=best: known are mgda"):
        task_weights(gram(), losses, config(weighting="best"))


def test_the_task_names_what_is_trained() -> None:
    assert pareto_gnn.chosen("all") == PRETEXTS and pareto_gnn.chosen("ming") == ("ming",)
    assert pareto_gnn.chosen("without_link") == ("recon", "ming", "minsg", "decor")
    assert ParetoGNNPaper.space().parameters["tasks"].choices == pareto_gnn.CHOICES
    with pytest.raises(ValueError, match="tasks=p_gm: known are all, without_recon"):
        pareto_gnn.chosen("p_gm")
    assert "weighting" not in trial(tasks="ming").config


def test_what_is_of_one_task_exists_where_that_is_trained() -> None:
    found = 0
    for name, parameter in ParetoGNNPaper.space().parameters.items():
        task = (parameter.help or "").split(":")[0]
        if task in PRETEXTS:
            found += 1
            users = {choice for choice in pareto_gnn.CHOICES if task in pareto_gnn.chosen(choice)}
            assert set(parameter.when["tasks"]) == users, name
    assert found == 11


def test_a_field_of_another_method_than_all_is_refused() -> None:
    why = ParetoGNNPaper.unsuited({"tasks": "ming", "field": True}, "csbm", None)
    assert why == "field=true ranks tasks=all among each task alone; tasks=ming: must be all"


@pytest.mark.parametrize(
    "over",
    [
        {"tasks": "without_link", "solver": "exact"},
        {"weighting": "sum", "dropout": 0.2},
        {"tasks": "supervised"},
    ],
)
def test_baselines_learn(over: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pareto_gnn, "UPDATES", 4)
    trained = trial(steps=2, lr=1e-2, **over)
    first, last = trained.step(), trained.step()
    assert last["train_loss"] < first["train_loss"] and trained.finished


# ---- what is held out, and what is served ----


def test_held_out_links_are_in_no_view_and_no_negative_is_a_link(made: ParetoGNNPaper) -> None:
    data = made.data
    whole = data.structure.adjacency.toarray() > 0
    seen = data.arcs.whole.matmul(torch.eye(500)).numpy() > 0
    np.fill_diagonal(seen, False)
    assert seen.sum() == 2 * data.links["train"].shape[1] and not (seen & ~whole).any()
    for part in ("validation", "test"):
        i, j = data.links[part]
        assert len(i) and not seen[i, j].any() and whole[i, j].all()
    share = data.links["test"].shape[1] / (whole.sum() / 2)
    assert share == pytest.approx(0.2, abs=0.01)
    assert not any(whole[pairs[0], pairs[1]].any() for pairs in data.negatives.values())
    assert data.members().shared() is None


def test_labels_are_not_seen_before_the_probes(made: ParetoGNNPaper) -> None:
    for task in PRETEXTS:
        a, _ = loss_and_views(made, task)
        labels, made.data.labels = made.data.labels, made.data.labels.flip(0)
        b, _ = loss_and_views(made, task)
        made.data.labels = labels
        assert torch.equal(a, b)


def test_features_are_standardised_by_column(made: ParetoGNNPaper) -> None:
    torch.testing.assert_close(made.data.x.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.data.x.std(0, unbiased=False), torch.ones(64), atol=1e-4, rtol=0)


def test_features_too_wide_to_be_dense_are_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ParetoGNNPaper.unsuited({}, "csbm", None) is None
    monkeypatch.setattr(representation, "MOST_FEATURES", 1e-5)
    assert ParetoGNNPaper.unsuited({}, "csbm", None) == "dense features of 500 nodes x 64 columns take 0 GB"


def test_perfect_embeddings_serve_perfectly(made: ParetoGNNPaper) -> None:
    z = F.one_hot(made.data.labels, made.data.classes).float()
    found = made.data.served(z, "test")
    assert found["accuracy"] == 1.0 and found["nmi"] == pytest.approx(1) and found["ari"] == pytest.approx(1)
    assert found["mean"] == pytest.approx(np.mean([found[name] for name in SERVED]))
    assert made.data.served(torch.zeros(500, 2), "test")["auc"] == 0.5


def test_a_validation_step_sees_no_test_part(made: ParetoGNNPaper) -> None:
    blind, z = copy.copy(made.data), made.embed(made.net)
    for name in ("links", "negatives", "_parts"):
        setattr(blind, name, {p: v for p, v in getattr(made.data, name).items() if p != "test"})
    assert blind.served(z, "validation") == made.data.served(z, "validation")


def test_of_many_given_links_any_are_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = "".join(f"n{i:02},{'ab'[i % 2]},{i % 7}\n" for i in range(60))
    (tmp_path / "nodes.csv").write_text("id,label,x\n" + nodes)
    parts = {"train": range(40), "val": range(40, 50), "test": range(50, 59)}
    rows = [f"n{i:02},n{i + 1:02},{part}\n" for part, at in parts.items() for i in at]
    (tmp_path / "edges.csv").write_text("source,target,split\n" + "".join(rows))
    monkeypatch.setattr(representation, "MOST_PAIRS", 8)
    data = representation.RepresentationTask("own", tmp_path, "cpu", np.random.default_rng(0))
    assert sorted(data.links["train"].T.tolist()) == [[i, i + 1] for i in range(40)]
    seen: list[Any] = []
    real = representation.probes.link_auc
    monkeypatch.setattr(
        representation.probes,
        "link_auc",
        lambda z, links, *a, **k: seen.append(links) or real(z, links, *a, **k),
    )
    data.served(data.x, "validation")
    assert seen[0]["train"].shape == (2, 8) and seen[0]["train"].max() > 20


def test_negatives_are_as_many_as_there_are() -> None:
    from fairsweep.trainables.datasets.graphs import Graph, undirected

    i, j = np.triu_indices(8, 1)
    graph = Graph("g", np.eye(8), undirected(8, i[9:], j[9:]), np.zeros(8, np.int64), 1)
    found = negatives_of(graph, {"train": 20, "validation": 5, "test": 5}, np.random.default_rng(0))
    assert {part: pairs.shape[1] for part, pairs in found.items()} == {"train": 6, "validation": 1, "test": 1}
    full = Graph("full", np.eye(8), undirected(8, i, j), np.zeros(8, np.int64), 1)
    with pytest.raises(DataError, match="data=full: 0 pairs of the 8 nodes have no link"):
        negatives_of(full, {"train": 2, "validation": 1, "test": 1}, np.random.default_rng(0))


def test_the_field_ranks_the_method_among_each_task_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pareto_gnn, "UPDATES", 1)
    trained = trial(steps=1, field=True)
    assert set(trained.rivals) == set(PRETEXTS)
    trained.step()
    tests = trained.test()
    alone = trial(steps=1, tasks="ming")
    alone.step()
    assert trained.rivals["ming"].test() == alone.test()
    arms = [tests, *(rival.test() for rival in trained.rivals.values())]
    ranks = average_ranks(np.array([[arm[f"test_{name}"] for name in SERVED] for arm in arms]))
    assert trained.attrs["average ranks"] == dict(zip(("all", *PRETEXTS), ranks.tolist(), strict=True))
    assert tests["test_rank"] == ranks[0] and tests["test_rank_lead"] == ranks[1:].min() - ranks[0]
    plain = trial(steps=1)
    plain.step()
    assert plain.test() == {**tests, "test_rank": 1.0, "test_rank_lead": 0.0}
    again = trial(steps=1, field=True)
    again.load_state_dict(trained.state_dict())
    assert again.test() == tests


# ---- the paper's size ----


@pytest.mark.slow
def test_a_network_of_the_papers_size_makes_a_step() -> None:
    paper = ParetoGNNPaper()
    paper.setup(paper_config("pareto_gnn", "pubmed"), Setting(data="csbm", steps=1))
    encoder = sum(p.numel() for p in paper.net.encoder.parameters())
    # Two convolutions, a norm's scale and shift and a slope for each.
    assert encoder == 64 * 512 + 512 + 512 * 256 + 256 + 2 * (512 + 256) + 2
    assert paper.step()["val_mean"] > 0
    assert ParetoGNNPaper.paper_steps["pubmed"] * pareto_gnn.UPDATES == 10_000
