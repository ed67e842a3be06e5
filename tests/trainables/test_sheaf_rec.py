"""Sheaf4Rec: the sheaf Laplacian against dense matrices, what the maps must do, baselines, ranking and data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import interactions
from fairsweep.trainables.recommendation import sheaf_rec
from fairsweep.trainables.recommendation.sheaf_rec import SHEAVES, SheafLayer, build, cayley, inverse_root
from fairsweep.trainables.tasks import recommendation as task
from fairsweep.trainables.tasks.bipartite import Bipartite
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)

USERS, ITEMS, WIDTH = 5, 4, 6
PAIRS = torch.tensor([[0, 0, 1, 1, 1, 2, 3, 3, 4], [0, 2, 0, 1, 3, 2, 1, 3, 3]])
GRAPH = Bipartite(PAIRS, USERS, ITEMS)
N = USERS + ITEMS
KINDS = [("diag", 1), ("diag", 3), ("orthogonal", 3), ("full", 2), ("const", 1)]


def layer(maps: str, stalk: int, seed: int = 0, width: int = WIDTH) -> SheafLayer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = SheafLayer(width, stalk, maps, 1.0).double()
        if made.sheaf is not None:
            torch.nn.init.normal_(made.sheaf.weight)
    return made


def states(width: int = WIDTH, seed: int = 1) -> Tensor:
    return torch.randn(N, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(side: Tensor, stalk: int) -> Tensor:
    return side.diag_embed() if side.dim() == 2 else side


def coboundary(maps: tuple[Tensor, Tensor], stalk: int) -> Tensor:
    """The matrix that takes states of the nodes to F_user x_user - F_item x_item of each pair, written out."""
    found = torch.zeros(PAIRS.shape[1] * stalk, N * stalk, dtype=torch.float64)
    for e, (u, i) in enumerate(PAIRS.T.tolist()):
        rows = slice(e * stalk, (e + 1) * stalk)
        found[rows, u * stalk : (u + 1) * stalk] = dense(maps[0], stalk)[e]
        found[rows, (USERS + i) * stalk : (USERS + i + 1) * stalk] = -dense(maps[1], stalk)[e]
    return found


def matrix(made: SheafLayer, maps: tuple[Tensor, Tensor], normalised: bool) -> Tensor:
    """The operator of `laplacian`, column by column: with one channel a state is a vector of n s numbers."""
    one = torch.eye(N * made.stalk, dtype=torch.float64)
    return torch.stack([made.laplacian(maps, x.view(N, -1), GRAPH, normalised).flatten() for x in one], 1)


# ---- the Laplacian ----


@pytest.mark.parametrize(("kind", "stalk"), KINDS)
def test_laplacian_is_that_of_the_coboundary(kind: str, stalk: int) -> None:
    made = layer(kind, stalk)
    maps = made.restriction(states(), GRAPH)
    if kind != "const":
        assert all((dense(side, stalk) - torch.eye(stalk)).abs().max() > 0.1 for side in maps)
    delta = coboundary(maps, stalk)
    laplacian = delta.T @ delta
    torch.testing.assert_close(matrix(made, maps, False), laplacian)
    blocks = torch.stack([laplacian[v : v + stalk, v : v + stalk] for v in range(0, N * stalk, stalk)])
    root = torch.block_diag(
        *(torch.linalg.inv(torch.linalg.cholesky(b + torch.eye(stalk, dtype=b.dtype))) for b in blocks)
    )
    # Any root of D gives these eigenvalues; the symmetric one is checked by itself.
    expected = torch.linalg.eigvalsh(root @ laplacian @ root.T)
    found = matrix(made, maps, True)
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(torch.linalg.eigvalsh(found), expected)
    assert expected.min() > -1e-12 and expected.max() < 2
    for seed in range(3):
        x = torch.randn(N * stalk, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(x @ laplacian @ x, (delta @ x).square().sum())


def test_maps_of_one_give_the_graph_laplacian() -> None:
    made = layer("const", 1)
    adjacency = torch.zeros(N, N, dtype=torch.float64)
    adjacency[GRAPH.ends[0], GRAPH.ends[1]] = 1
    adjacency = adjacency + adjacency.T
    expected = adjacency.sum(1).diag() - adjacency
    torch.testing.assert_close(matrix(made, made.restriction(states(), GRAPH), False), expected)


def test_the_two_maps_of_a_pair_read_its_ends_in_their_order() -> None:
    made, x = layer("diag", 1), states()
    of_user, of_item = made.restriction(x, GRAPH)
    assert of_user.shape == of_item.shape == (9, 1), "two maps a pair"
    weight = made.sheaf.weight[0]  # type: ignore[union-attr]
    for e, (u, i) in enumerate(PAIRS.T.tolist()):
        user, item = x[u], x[USERS + i]
        torch.testing.assert_close(of_user[e, 0], torch.tanh(weight @ torch.cat([user, item])))
        torch.testing.assert_close(of_item[e, 0], torch.tanh(weight @ torch.cat([item, user])))
    swapped = x.clone()
    swapped[[0, USERS]] = x[[USERS, 0]]
    turned = made.restriction(swapped, GRAPH)
    torch.testing.assert_close(turned[0][0], of_item[0])
    torch.testing.assert_close(turned[1][0], of_user[0])
    assert (of_user - of_item).abs().max() > 1


@pytest.mark.parametrize(("kind", "stalk"), KINDS[:4:3])
def test_maps_of_zero_take_a_pair_out(kind: str, stalk: int) -> None:
    made, x = layer(kind, stalk), states()
    maps = made.restriction(x, GRAPH)
    closed = tuple(side.clone() for side in maps)
    for side in closed:
        side[4] = 0
    rest = [e for e in range(9) if e != 4]
    smaller = Bipartite(PAIRS[:, rest], USERS, ITEMS)
    without = made.laplacian((maps[0][rest], maps[1][rest]), x, smaller, True)
    torch.testing.assert_close(made.laplacian(closed, x, GRAPH, True), without)  # type: ignore[arg-type]


def test_cayley_maps_are_rotations_and_the_root_is_the_inverse_one() -> None:
    entries = torch.tanh(torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    q = cayley(entries, 4)
    torch.testing.assert_close(q.mT @ q, torch.eye(4, dtype=torch.float64).expand(7, 4, 4))
    torch.testing.assert_close(torch.linalg.det(q), torch.ones(7, dtype=torch.float64))
    assert (q - torch.eye(4)).abs().amax((1, 2)).min() > 0.1
    a = torch.randn(3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a = torch.cat(
        [a @ a.mT + torch.eye(3), torch.eye(3, dtype=torch.float64)[None]]
    )  # the last: equal eigenvalues
    root = inverse_root(a)
    torch.testing.assert_close(root @ root @ a, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    assert torch.autograd.gradcheck(lambda x: inverse_root((x + x.mT) / 2), a.requires_grad_())


@pytest.mark.parametrize(("kind", "stalk"), KINDS)
def test_gradients_are_those_of_finite_differences(kind: str, stalk: int) -> None:
    made = layer(kind, stalk)
    assert torch.autograd.gradcheck(lambda x: made(x, GRAPH), states().requires_grad_())
    if made.sheaf is not None:
        weight = made.sheaf.weight.detach().clone().requires_grad_()

        def output(weight: Tensor) -> Tensor:
            return torch.func.functional_call(made, {"sheaf.weight": weight}, (states(), GRAPH))

        assert torch.autograd.gradcheck(output, weight)


# ---- the recommender ----


def config(model: str, **changes: Any) -> dict[str, Any]:
    own = paper_config("sheaf_rec", "digits_ink", model=model)
    small = {"layers": 2, "embedding": 6, **changes}
    return own | {name: value for name, value in small.items() if name in own}


def recommender(model: str, seed: int = 0, **changes: Any) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config(model, **changes), N)


@pytest.mark.parametrize("model", SHEAVES)
def test_without_weights_every_layer_is_the_identity(model: str) -> None:
    for readout, times in (("mean", 1.0), ("concat", 3.0)):
        net = recommender(model, readout=readout)
        for made in net.layers:
            torch.nn.init.zeros_(made.linear.weight)
            torch.nn.init.zeros_(made.linear.bias)
        first, out = net(GRAPH)
        torch.testing.assert_close(out @ out.T, times * (first @ first.T))
    mf = recommender("mf")
    assert mf(GRAPH)[0] is mf(GRAPH)[0] and torch.equal(*mf(GRAPH))


@pytest.mark.parametrize("model", [m for m in sheaf_rec.MODELS])
def test_new_numbers_of_users_and_items_permute_the_outputs(model: str) -> None:
    net, other = recommender(model), recommender(model)
    user, item = torch.randperm(USERS), torch.randperm(ITEMS)
    order = torch.cat([user, USERS + item])  # old number -> new number
    if model != "popularity":
        with torch.no_grad():
            other.table[order] = net.table
    renamed = Bipartite(torch.stack([user[PAIRS[0]], item[PAIRS[1]]]), USERS, ITEMS)
    torch.testing.assert_close(other.eval()(renamed)[1][order], net.eval()(GRAPH)[1])


def test_the_width_is_rounded_up_to_a_multiple_of_the_stalk() -> None:
    assert recommender("sheaf_full", stalk=4).table.shape == (N, 8)
    assert recommender("sheaf_scalar").table.shape == (N, 6)
    extra = sum(p.numel() for p in recommender("sheaf_scalar").layers[0].parameters())
    assert extra == 6 * 6 + 3 * 6, "d^2 + d of Theta, 2 d of the map"


def test_baselines_are_their_formulas() -> None:
    adjacency = torch.zeros(N, N)
    adjacency[GRAPH.ends[0], GRAPH.ends[1]] = 1
    adjacency = adjacency + adjacency.T
    root = adjacency.sum(1).rsqrt()
    p = root[:, None] * adjacency * root
    light = recommender("lightgcn")
    x = light.table
    torch.testing.assert_close(light(GRAPH)[1], (x + p @ x + p @ p @ x) / 3)
    ngcf = recommender("ngcf", layers=1).eval()
    x, made = ngcf.table, ngcf.layers[0]
    h = (
        (p @ x + x) @ made.sum.weight.T
        + (p @ x * x) @ made.product.weight.T
        + made.sum.bias
        + made.product.bias
    )
    h = torch.nn.functional.leaky_relu(h, 0.2)
    torch.testing.assert_close(ngcf(GRAPH)[1], torch.cat([x, h / h.norm(dim=1, keepdim=True)], 1))
    users, items = recommender("popularity")(GRAPH)[1].split([USERS, ITEMS])
    scores = users @ items.T
    torch.testing.assert_close(scores[0], torch.log1p(torch.tensor([2.0, 2.0, 2.0, 3.0])))
    assert torch.equal(scores, scores[:1].expand_as(scores))


# ---- the task ----


def write(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["user,item,split", *(",".join(row) for row in rows)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    return folder


ROWS = [
    *(("a", i, "train") for i in "pq"),
    *(("b", i, "train") for i in "qrs"),
    ("c", "t", "train"),
    *[("a", "r", "validation"), ("b", "p", "validation"), ("a", "new", "validation")],
    *[("a", "s", "test"), ("a", "t", "test"), ("c", "q", "test"), ("stranger", "p", "test")],
]


@pytest.fixture
def small(tmp_path: Path) -> task.RecommendationTask:
    return task.RecommendationTask("own", write(tmp_path / "own", ROWS), "cpu", np.random.default_rng(0))


def test_who_does_not_train_is_in_no_part(small: task.RecommendationTask) -> None:
    assert (small.users, small.items) == (3, 5)
    assert {part: len(rows) for part, rows in small.parts.items()} == {"train": 6, "validation": 2, "test": 3}
    assert small.members().shared() is None and set(small.members().examples) == {
        "train",
        "validation",
        "test",
    }


def test_ranking_is_over_all_items_that_a_user_has_not_met(small: task.RecommendationTask) -> None:
    """Items p q r s t. All scores are negative, those of training items the best: a factor of 0 would not hide them."""
    scores = torch.tensor([[-1.0, -1.1, -4.0, -3.0, -2.0], [0.0] * 5, [-5.0, -4.0, -3.0, -2.0, -1.0]])
    seen: list[list[int]] = []

    def score(block: Tensor) -> Tensor:
        seen.append(block.tolist())
        return scores[block]

    found = small.evaluate(score, "test")
    assert seen == [[0, 2]], "users with test items only"
    # a: t s r are ranked, t and s are relevant: places 1, 2. c: s r q p, q is relevant: place 3.
    precision, recall = (2 / 10 + 1 / 10) / 2, 1.0
    ndcg = (1 + (1 / math.log2(4)) / 1) / 2
    assert found["precision_10"] == pytest.approx(precision) and found["recall_10"] == recall
    assert found["ndcg_10"] == pytest.approx(ndcg)
    assert found["f1_10"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["precision_20"] == pytest.approx(precision / 2)
    torch.testing.assert_close(scores[0], torch.tensor([-1.0, -1.1, -4.0, -3.0, -2.0]))


def test_metrics_against_a_count_by_hand_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task.RecommendationTask("digits_ink", None, "cpu", np.random.default_rng(3))
    scores = torch.randn(made.users, made.items, generator=torch.Generator().manual_seed(0))
    whole = made.evaluate(lambda block: scores[block], "validation")
    monkeypatch.setattr(task, "SCORES", made.items * 7)
    assert made.evaluate(lambda block: scores[block], "validation") == pytest.approx(whole)
    met: dict[int, set[int]] = {}
    for u, i in made.graph.pairs.T.tolist():
        met.setdefault(u, set()).add(i)
    held: dict[int, set[int]] = {}
    for key in made._held["validation"].tolist():
        held.setdefault(key // made.items, set()).add(key % made.items)
    rows = []
    for user, wanted in held.items():
        order = [i for i in scores[user].argsort(descending=True).tolist() if i not in met[user]][:10]
        hits = [i in wanted for i in order]
        dcg = sum(h / math.log2(place + 2) for place, h in enumerate(hits))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(10, len(wanted))))
        rows.append((sum(hits) / 10, sum(hits) / len(wanted), dcg / ideal))
    expected = np.mean(rows, 0)
    assert [whole[f"{n}_10"] for n in ("precision", "recall", "ndcg")] == pytest.approx(expected.tolist())


def test_a_perfect_ranking_of_more_items_than_are_asked_for_has_an_ndcg_of_one(tmp_path: Path) -> None:
    items = [f"i{k:02d}" for k in range(14)]
    rows = [("b", i, "train") for i in items] + [("a", "i00", "train"), ("a", "i13", "validation")]
    rows += [("a", i, "test") for i in items[1:13]]
    made = task.RecommendationTask("own", write(tmp_path / "own", rows), "cpu", np.random.default_rng(0))
    found = made.evaluate(lambda block: -torch.arange(14.0).expand(len(block), -1), "test")
    assert [found["ndcg_10"], found["ndcg_20"]] == pytest.approx([1.0, 1.0])
    assert found["recall_10"] == pytest.approx(10 / 12) and found["recall_20"] == 1


def test_negatives_are_uniform_over_what_a_user_has_not_met(small: task.RecommendationTask) -> None:
    unmet = {0: [2, 3, 4], 1: [0, 4], 2: [0, 1, 2, 3]}
    for user, items in unmet.items():
        users = torch.full((len(items),), user)
        assert small.unmet(users, torch.arange(len(items))).tolist() == items
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batches = list(small.batches(4)) + list(small.batches(3000))
    assert [len(b[0]) for b in batches] == [4, 3000]
    users, positive, negative = batches[1]
    pairs = set(map(tuple, small.graph.pairs.T.tolist()))
    assert all((u, i) in pairs for u, i in zip(users.tolist(), positive.tolist(), strict=True))
    for user, items in unmet.items():
        counts = torch.bincount(negative[users == user], minlength=5)
        assert counts.nonzero().flatten().tolist() == items
        share = counts[items].double() / counts.sum()
        assert (share - 1 / len(items)).abs().max() < 0.06


def test_only_training_interactions_are_in_the_graph() -> None:
    made = task.RecommendationTask("digits_ink", None, "cpu", np.random.default_rng(0))
    data = interactions.load("digits_ink")
    assert (len(data), len(data.user_names), len(data.item_names)) == (8265, 400, 53)
    assert made.graph.pairs.shape[1] == len(made.parts["train"])
    keys = made.graph.pairs[0] * made.items + made.graph.pairs[1]
    for held in made._held.values():
        assert not torch.isin(held, keys).any()
    again = task.RecommendationTask("digits_ink", None, "cpu", np.random.default_rng(1))
    assert not np.array_equal(again.parts["test"], made.parts["test"])


def test_what_cannot_be_ranked_is_refused(tmp_path: Path) -> None:
    every = [(u, i, "train") for u in "ab" for i in "pq"]
    rng = np.random.default_rng(0)
    with pytest.raises(
        DataError, match="data=own: the validation part has no interaction whose user and item train"
    ):
        rows = [*every, ("c", "p", "validation"), ("d", "q", "test")]
        task.RecommendationTask("own", write(tmp_path / "one", rows), "cpu", rng)
    (tmp_path / "two").mkdir()
    with pytest.raises(DataError, match=r"data=movielens_1m: no ratings\.dat of ml-1m"):
        interactions.load("movielens_1m", tmp_path / "two")
    (tmp_path / "two" / "ratings.dat").write_text("1::2::3\n")
    with pytest.raises(DataError, match="must have four whole numbers a line"):
        interactions.movielens_1m(tmp_path / "two")
    (tmp_path / "two" / "ratings.dat").write_text("1::2::3::978300760\n")
    with pytest.raises(DataError, match="has 1 ratings, the published file 1000209"):
        interactions.movielens_1m(tmp_path / "two")
    with pytest.raises(
        DataError, match="data=movielens: unknown interactions; known: digits_ink, movielens_100k"
    ):
        interactions.load("movielens")


def test_ratings_below_three_stars_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(interactions, "ML_1M", 3)
    (tmp_path / "ratings.dat").write_text("7::20::3::50\n7::10::2::40\n3::20::5::60\n")
    data = interactions.movielens_1m(tmp_path)
    assert data.user_names == ("3", "7") and data.item_names == ("20",)
    assert data.users.tolist() == [1, 0] and data.items.tolist() == [0, 0] and data.ratings.tolist() == [3, 5]
    assert data.dropped == {"ratings below 3": 1} and data.split is None


def test_movielens_100k_as_shipped() -> None:
    try:
        data = interactions.load("movielens_100k")
    except DataError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))
    assert (len(data), len(data.user_names), len(data.item_names)) == (82520, 943, 1574)
    assert data.dropped == {"ratings below 3": 17480}


# ---- training ----


def paper(data: str = "digits_ink", steps: int = 3, seed: int = 0, **changes: Any) -> sheaf_rec.Sheaf4Rec:
    made = sheaf_rec.Sheaf4Rec()
    made.setup(paper_config("sheaf_rec", data, **changes), Setting(seed=seed, data=data, steps=steps))
    return made


def test_loss_is_bpr_and_the_layer_0_penalty_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    made = paper(model="lightgcn", layers=1, reg=0.5, lr=1e-3)
    users, positive, negative = torch.tensor([0, 1]), torch.tensor([3, 4]), torch.tensor([5, 6])
    monkeypatch.setattr(made.data, "batches", lambda size: [(users, positive, negative)])
    x, out = (states.detach().double() for states in made.net(made.data.graph))
    seen: list[float] = []
    monkeypatch.setattr(made, "descend", lambda loss: seen.append(loss.item()))
    row = made.epoch()
    rows = users, made.data.users + positive, made.data.users + negative
    u, p, n = (out[which] for which in rows)
    bpr = np.mean([math.log1p(math.exp(-(a @ (b - c)).item())) for a, b, c in zip(u, p, n, strict=True)])
    penalty = sum((x[which] ** 2).sum().item() for which in rows) / 2 / 2
    assert row["train_loss"] == pytest.approx(bpr, rel=1e-5)
    assert seen == [pytest.approx(bpr + 0.5 * penalty, rel=1e-5)]


@pytest.mark.parametrize("model", sheaf_rec.MODELS)
def test_every_model_trains(model: str) -> None:
    made = paper(model=model, steps=2, lr=0.02)
    rows = [made.step(), made.step()]
    assert rows[1]["train_loss"] < rows[0]["train_loss"] or model == "popularity"
    assert all(0 <= v <= 1 for name, v in made.test().items())


def test_the_arms_of_a_claim_train_alike() -> None:
    for claim in sheaf_rec.Sheaf4Rec.claims:
        assert claim.steps == 400 and {"lr", "reg", "batch_size"} <= set(claim.tunes), claim.name
    tie = next(claim for claim in sheaf_rec.Sheaf4Rec.claims if claim.name == "one_layer_is_a_tie")
    assert tie.null == tie.margin, "that the sheaf is no better is not claimed"


def test_popularity_has_nothing_to_tune() -> None:
    assert set(paper_config("sheaf_rec", "digits_ink", model="popularity")) == {"model"}
    found = []
    for steps in (1, 3):
        made = paper(model="popularity", steps=steps)
        rows = [made.step() for _ in range(steps)]
        found.append(rows[-1]["val_f1_10"])
    assert found[0] == found[1] > 0, "training changes no ranking"


def test_the_papers_own_settings() -> None:
    space = sheaf_rec.Sheaf4Rec.space()
    own = space.paper_config("movielens_100k")
    assert (own["model"], own["layers"], own["embedding"], own["lr"], own["reg"]) == (
        "sheaf_scalar",
        10,
        64,
        5e-3,
        1e-4,
    )
    last = space.paper_config("movielens_1m")
    assert (last["layers"], last["readout"], last["lr"], last["reg"]) == (5, "concat", 1e-3, 1.0)
