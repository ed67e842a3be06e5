"""Mowst: dispersion and confidence by hand, forced confidences, who learns in whose turn, where experts go back to."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Setting
from fairsweep.trainables.datasets.block_models import two_populations
from fairsweep.trainables.graphs.mowst import MowstPaper
from fairsweep.trainables.tasks.homophily import correlation, homophily
from fairsweep.trainables.tasks.message_passing import Structure
from fairsweep.trainables.tasks.mixture import (
    Confidence,
    Expert,
    Mixture,
    dispersion,
    drawn_accuracy,
    joint_accuracy,
    mixed_losses,
    mixed_scores,
)
from fairsweep.trainables.tasks.node_classification import load
from fairsweep.trainables.tasks.sparse import SparseMatrix

torch.set_num_threads(1)

GRAPH = Structure.of_edges(np.array([[0, 0, 1, 2, 4], [1, 2, 2, 3, 5]]), 7)
X = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
KINDS = ("gate_dispersion", "gate_dispersion_plus_x", "hyper", "variance_only", "learnable_free", "constant")


def paper(steps: int = 12, seed: int = 0, data: str = "csbm", **over: Any) -> MowstPaper:
    made = MowstPaper()
    space = MowstPaper.space()
    config = {
        n: p.paper.get(data, p.paper["default"]) if p.paper else p.value for n, p in space.parameters.items()
    }
    config |= {
        "hidden": 16,
        "lr": 0.01,
        "pretrain_steps": 3,
        "turn_steps": 4,
        "m_times": 0,
        "pretrain": "none",
    }
    made.setup(space.complete({**config, **over}), Setting(seed=seed, data=data, steps=steps))
    return made


def state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# ---- confidence ----


def test_dispersion_is_0_where_uniform_1_where_one_hot_and_else_between() -> None:
    for classes in (2, 3, 7):
        uniform, one_hot = torch.zeros(1, classes), torch.zeros(1, classes)
        one_hot[0, 0] = 200
        torch.testing.assert_close(dispersion(uniform), torch.zeros(1, 2), atol=1e-6, rtol=0)
        torch.testing.assert_close(dispersion(one_hot), torch.ones(1, 2), atol=1e-6, rtol=0)
        between = dispersion(torch.randn(50, classes, generator=torch.Generator().manual_seed(1)))
        assert ((between > 0) & (between < 1)).all()
    # (1/2, 1/2, 0): variance (2/36 + 1/9) / 3 = 1/18 of at most 2/9, entropy ln 2 of at most ln 3
    found = dispersion(torch.tensor([[0.0, 0.0, -200.0]]))
    expected = torch.tensor([[0.25, 1 - np.log(2) / np.log(3)]], dtype=torch.float32)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert not dispersion(torch.randn(3, 4, requires_grad=True)).requires_grad


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_confidences_are_their_formulas(sparse: bool) -> None:
    scores, hidden = torch.randn(7, 3), torch.randn(7, 8)
    x: Any = SparseMatrix(sp.csr_matrix(X.numpy())) if sparse else X
    spread = dispersion(scores)

    def made(kind: str) -> Any:
        torch.manual_seed(0)
        return Confidence(kind, 5, 8, 2, 2.0, 0.3).eval()

    assert torch.equal(made("constant")(scores, hidden, x), torch.full((7,), 0.3))
    assert torch.equal(made("variance_only")(scores, hidden, x), spread[:, 0] ** 2)
    free = made("learnable_free")
    torch.testing.assert_close(free(scores, hidden, x), free.gate(hidden).sigmoid()[:, 0])

    def gate(net: Any, beside: Any) -> Tensor:
        first, last = (layer.linear for layer in net.gate.layers)
        h = F.relu(net.gate.norms[0](spread @ first.weight.T + first.bias + beside))
        return (h @ last.weight.T + last.bias).sigmoid()[:, 0]

    plain, with_x = made("gate_dispersion"), made("gate_dispersion_plus_x")
    torch.testing.assert_close(plain(scores, hidden, x), gate(plain, 0))
    torch.testing.assert_close(with_x(scores, hidden, x), gate(with_x, X @ with_x.of_features))
    hyper = made("hyper")
    w1, b1, w2, b2 = (net(X, None) for net in hyper.weights)
    expected = torch.stack(
        [w2[i] @ (spread[i] @ w1[i].view(2, 8) + b1[i]) + b2[i, 0] for i in range(7)]
    ).sigmoid()
    torch.testing.assert_close(hyper(scores, hidden, x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weak_expert_is_not_trained_through_its_confidence(kind: str) -> None:
    torch.manual_seed(0)
    net = Mixture(5, 3, {"hidden": 8, "layers": 2, "confidence": kind, "alpha": 1.0, "level": 0.4})
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    hidden = net.weak.hidden(X, GRAPH)
    weak = net.weak.layers[-1](hidden, GRAPH)
    weak.retain_grad()
    c, strong = net.confidence(weak, hidden, X), net.strong(X, GRAPH)
    mixed_losses(weak, strong, c, labels).backward()
    p = weak.detach().softmax(1) - F.one_hot(labels, 3)
    torch.testing.assert_close(weak.grad, c.detach()[:, None] * p / 7, atol=1e-6, rtol=1e-4)


# ---- experts ----


@pytest.mark.parametrize("kind", ["mlp", "gcn", "sage", "gat", "gin"])
def test_an_expert_normalises_between_layers_and_drops_hidden_states_alone(kind: str) -> None:
    torch.manual_seed(0)
    net = Expert(kind, [5, 8, 8, 3], 0.5)
    net(X, GRAPH)  # statistics of their own
    net.eval()
    h = X
    for layer, norm in zip(net.layers[:-1], net.norms, strict=True):
        h = (F.elu if kind == "gat" else F.relu)(norm(layer(h, GRAPH)))
    torch.testing.assert_close(net.hidden(X, GRAPH), h)
    torch.testing.assert_close(net(X, GRAPH), net.layers[-1](h, GRAPH))
    seen: list[float] = []
    for layer in net.layers:
        layer.register_forward_pre_hook(lambda module, given: seen.append(given[2]))
    net.train()(X, GRAPH)
    assert seen == [0.0, 0.5, 0.5]
    isolated = net.eval()(X, GRAPH)[6] - Expert.forward(net, X + torch.eye(7)[:, :1] * 5, GRAPH)[6]
    assert torch.equal(isolated, torch.zeros(3)), "a node without links sees no other one"


# ---- mixtures ----


def test_losses_and_answers_are_their_formulas() -> None:
    torch.manual_seed(0)
    a, b, c, labels = torch.randn(9, 3), torch.randn(9, 3), torch.rand(9), torch.randint(3, (9,))
    rows = range(9)
    ce = [[-s.log_softmax(1)[i, labels[i]] for i in rows] for s in (a, b)]
    torch.testing.assert_close(
        mixed_losses(a, b, c, labels), sum(c[i] * ce[0][i] + (1 - c[i]) * ce[1][i] for i in rows) / 9
    )
    mixed = torch.stack([c[i] * a[i] + (1 - c[i]) * b[i] for i in rows]).log_softmax(1)
    torch.testing.assert_close(mixed_scores(a, b, c, labels), -sum(mixed[i, labels[i]] for i in rows) / 9)
    answers = [int((c[i] * a[i].softmax(0) + (1 - c[i]) * b[i].softmax(0)).argmax()) for i in rows]
    assert joint_accuracy(a, b, c, labels) == np.mean([answers[i] == labels[i] for i in rows])
    right = [[float(s[i].argmax() == labels[i]) for i in rows] for s in (a, b)]
    expected = np.mean([c[i] * right[0][i] + (1 - c[i]) * right[1][i] for i in rows])
    assert drawn_accuracy(a, b, c, labels) == pytest.approx(expected, abs=1e-7)
    assert drawn_accuracy(a, b, c, labels, 2000) == pytest.approx(expected, abs=0.01)
    assert len({drawn_accuracy(a, b, c, labels, 1) for _ in range(20)}) > 1


@pytest.mark.parametrize(("level", "method", "expert"), [(1.0, "mlp", "weak"), (0.0, "gnn", "strong")])
def test_a_certain_confidence_is_the_single_expert(level: float, method: str, expert: str) -> None:
    shared = {"dropout": 0.0, "dropout_gate": 0.0, "steps": 8}
    forced = paper(method="mowst", turns="joint", confidence="constant", level=level, **shared)
    single = paper(method=method, **shared)
    for _ in range(8):
        one, other = forced.step(), single.step()
        assert one["val_accuracy"] == pytest.approx(other["val_accuracy"], abs=1e-12)
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
    torch.testing.assert_close(state(getattr(forced.net, expert)), state(getattr(single.net, expert)))
    assert forced.test()["test_accuracy"] == pytest.approx(single.test()["test_accuracy"], abs=1e-12)
    assert single.test()["test_weak_share"] == level


def test_in_a_turn_the_other_expert_stays_as_it_is_to_the_bit() -> None:
    made = paper(method="mowst", steps=8, dropout_gate=0.5, turn_steps=2)
    turns = []
    for _ in range(8):
        if made._turn_is_over:
            made._end_turn()
        before = [state(part) for part in (made.net.weak, made.net.confidence, made.net.strong)]
        made.step()
        after = [state(part) for part in (made.net.weak, made.net.confidence, made.net.strong)]
        turns.append(made.turn)
        same = [equal(a, b) for a, b in zip(before, after, strict=True)]
        assert same == ([False, False, True] if made.turn == "weak" else [True, True, False]), made.turn
    assert turns == ["weak", "weak", "strong", "strong"] * 2
    together = paper(method="mowst", turns="joint", steps=2)
    before = [state(part) for part in (together.net.weak, together.net.confidence, together.net.strong)]
    together.step()
    assert not any(
        equal(a, state(part))
        for a, part in zip(
            before, (together.net.weak, together.net.confidence, together.net.strong), strict=True
        )
    )


def scripted(made: MowstPaper, values: list[float]) -> list[dict[str, Tensor]]:
    """Trains with these validation accuracies; the experts' weights after each step."""
    found = []
    made.measured = lambda net, part: (values[made.done], 0.0, 0.5)  # type: ignore[method-assign]
    while not made.finished:
        made.step()
        found.append({**{f"w{k}": v for k, v in state(made.net.weak).items()},
                      **{f"s{k}": v for k, v in state(made.net.strong).items()}})  # fmt: skip
    return found


def experts_at_begin(made: MowstPaper, seen: list[dict[str, Tensor]]) -> None:
    through = made._begin_turn

    def begin(stage: str, turn: str) -> None:
        seen.append({**{f"w{k}": v for k, v in state(made.net.weak).items()},
                     **{f"s{k}": v for k, v in state(made.net.strong).items()}})  # fmt: skip
        through(stage, turn)

    made._begin_turn = begin  # type: ignore[method-assign]


def test_after_a_turn_the_experts_go_back_to_its_best_or_to_before_it() -> None:
    made, begun = paper(method="mowst", steps=8, turn_steps=2), []
    experts_at_begin(made, begun)
    #      weak: the first is best; strong: none beats .5; weak: the last; strong: equal is not better
    found = scripted(made, [0.5, 0.4, 0.3, 0.45, 0.5, 0.6, 0.6, 0.6])
    assert equal(begun[0], found[0]) and equal(begun[1], found[0]) and equal(begun[2], found[5])
    assert made.top == 0.6 and made.kept_step == 8, "of these 8 steps the last alone may be the best"
    assert made.big_waited == 0, "the second pair of turns is over only where the next begins"


def test_turns_end_when_they_have_waited_and_the_trial_when_pairs_of_turns_have() -> None:
    made = paper(method="mowst", steps=60, turn_steps=30, patience=2, big_patience=1)
    turns: list[str] = []
    through = made.answers
    made.answers = lambda net, learns="all": turns.append(made.turn) or through(net, learns)  # type: ignore[method-assign]
    scripted(made, [0.9, *[0.1] * 59])
    # patience 2: the third step without a gain ends it. After the first turn (1 + 3 steps) a turn takes its first
    # step, which beats nothing of the turn, and three more.
    assert "".join(turn[0] for turn in turns[:16]) == "wwwwsssswwwwssss"
    assert made.big_waited == 2 and made.done == 25 and made.finished


def test_pretraining_ends_with_its_best_weights_and_is_judged_by_itself() -> None:
    made, begun = paper(method="mowst_star", pretrain="both", pretrain_steps=3, steps=20), []
    assert made.plan == [("weak", 3), ("strong", 3), ("mixture", 20)]
    assert MowstPaper.fidelity(made.config, 20).minimum == 7
    assert MowstPaper.stages({**made.config, "pretrain_steps": 999}, 20)[0] == ("weak", 5), (
        "a quarter at most"
    )
    experts_at_begin(made, begun)
    found = scripted(made, [0.2, 0.9, 0.3, 0.8, 0.7, 0.6, *[0.5] * 14])
    assert equal(begun[0], found[1]), "the weak expert of the second step; the strong one has not learned"
    assert equal(begun[1], found[3])
    assert made.kept_step is not None and made.kept_step > 6, "nothing of the pre-training is tested"
    shares = [
        row["val_weak_share"] for row in (paper(pretrain="both").step(), paper(pretrain="strong").step())
    ]
    assert shares == [1.0, 0.0]


def test_nothing_counts_or_stops_before_the_minimum() -> None:
    alone = paper(method="mlp", steps=40, patience=1)
    scripted(alone, [0.9, *[0.1] * 39])
    assert alone._judged_from == alone.kept_step == alone.done == 10, "patience has ended by the third step"
    early = paper(method="mowst", turns="joint", pretrain="strong", steps=40, pretrain_steps=10, patience=1)
    script = [0.5, 0.1, 0.1, *[0.9] * 7, *[0.6] * 30]  # three steps of pre-training, then the mixture
    scripted(early, script)
    assert early.stage == "mixture" and early._judged_from == early.kept_step == 11
    assert early.best is not None and early.best["value"] == 0.6
    for over in ({"method": "ensemble"}, {"method": "mowst_star", "pretrain": "strong"}):
        assert ("patience" in paper(**over).config) == (over["method"] != "ensemble")


def test_optimisers_are_those_of_the_authors() -> None:
    made = paper(method="mowst_star", pretrain="strong", steps=20, pretrain_steps=2, lr=0.05, lr_gate=0.003)
    for _ in range(3):
        made.step()
    rates = {name: o.param_groups[0]["lr"] for name, o in made.optimisers.items()}
    assert rates == {"weak": 0.05, "strong": 0.05, "all": 0.003}
    assert made.optimiser is made.optimisers["all"] and isinstance(made.optimiser, torch.optim.AdamW)
    assert [len(o.state) > 0 for o in made.optimisers.values()] == [False, True, True], (
        "Mowst* begins a new one"
    )
    turns = paper(method="mowst", pretrain="strong", steps=40, pretrain_steps=2, turn_steps=1)
    for _ in range(4):
        turns.step()
    steps = {int(s["step"]) for s in turns.optimisers["strong"].state.values()}
    assert steps == {3}, "Mowst goes on with the moments of the pre-training"


def test_mowst_resumed_between_and_within_turns_equals_uninterrupted() -> None:
    def rows(made: MowstPaper, count: int) -> list[dict[str, float]]:
        return [made.step() for _ in range(count)]

    settings: dict[str, Any] = {"method": "mowst", "pretrain": "both", "pretrain_steps": 2, "turn_steps": 3}
    whole = paper(steps=14, m_times=5, **settings)
    expected = rows(whole, 14)
    for cut in (1, 4, 6, 8):
        part = paper(steps=14, m_times=5, **settings)
        rows(part, cut)
        saved = io.BytesIO()
        torch.save(part.state_dict(), saved)
        saved.seek(0)
        other = paper(steps=14, m_times=5, **settings)
        other.load_state_dict(torch.load(saved, weights_only=True))
        assert rows(other, 14 - cut) == expected[cut:], cut
        assert other.test() == whole.test()


@pytest.mark.parametrize(
    "over",
    [
        {"method": "mlp"},
        *({"method": "gnn", "strong": kind} for kind in ("gcn", "sage", "gat", "gin")),
        {"method": "ensemble", "strong": "sage"},
        {"method": "mowst", "confidence": "variance_only"},
        {"method": "mowst_star", "weak": "gcn", "strong": "gat"},
        *({"method": "mowst_star", "confidence": kind} for kind in KINDS),
    ],
    ids=lambda over: "-".join(over.values()),
)
def test_every_arm_learns_and_beats_chance(over: dict[str, Any]) -> None:
    made = paper(steps=30, data="synthetic_two_populations", lr_gate=0.01, dropout_gate=0.1, **over)
    first = made.step()
    while not made.finished:
        last = made.step()
    assert last["train_loss"] < 0.9 * first["train_loss"]
    assert made.test()["test_accuracy"] > 0.4


# ---- which nodes go where ----


def test_homophily_and_correlation_are_those_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, -1, 0])
    found = homophily(GRAPH, labels)
    # 0: 1 alike of {1, 2}; 1: 0 of {0, 2}; 2: 3 of {0, 1, 3}; 3: 2; 4: its only neighbour has no label; 5, 6: none
    expected = torch.tensor([0.5, 0.5, 1 / 3, 1.0])
    torch.testing.assert_close(found[:4], expected)
    assert found[4:].isnan().all()
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 30))
    b[3] = np.nan
    keep = np.arange(30) != 3
    assert correlation(torch.tensor(a), torch.tensor(b)) == pytest.approx(np.corrcoef(a[keep], b[keep])[0, 1])
    assert correlation(torch.ones(4), torch.arange(4)) == 0.0


def test_confidence_gap_is_of_the_nodes_that_one_expert_alone_has_right() -> None:
    made = paper(method="mowst", steps=3)
    made.step()
    nodes, labels = made.data.parts["test"], made.data.labels
    right, wrong = F.one_hot(labels, 5).float(), F.one_hot((labels + 1) % 5, 5).float()
    n = torch.arange(len(labels))
    first, second = n % 2 == 0, n % 3 == 0
    weak, strong = (torch.where(good[:, None], right, wrong) for good in (first, second))
    c = n / len(n)
    made.answers = lambda net, learns="all": (weak, strong, c)  # type: ignore[method-assign]
    made.stage = "mixture"
    found = made.measure_test(made.net)
    one, other = (c[nodes[pick[nodes]]].mean().item() for pick in (first & ~second, second & ~first))
    assert found["test_confidence_gap"] == pytest.approx(one - other, rel=1e-5)
    assert found["test_weak_share"] == pytest.approx(c[nodes].mean().item(), rel=1e-6)
    around = homophily(made.data.structure, labels)[nodes].numpy()
    known = ~np.isnan(around)
    expected = np.corrcoef(c[nodes].numpy()[known], around[known])[0, 1]
    assert found["test_confidence_homophily"] == pytest.approx(expected, abs=1e-6)


def test_two_populations_have_the_features_and_links_they_are_asked_for() -> None:
    degrees, odd, even, norms = [], [], [], []
    for seed in range(5):
        graph = two_populations(seed=seed)
        arcs = graph.adjacency.tocoo()
        same = graph.labels[arcs.row] == graph.labels[arcs.col]
        among = (arcs.row % 2 == 1) & (arcs.col % 2 == 1)
        degrees.append(arcs.nnz / 800)
        odd.append(same[among].mean())
        even.append(same[~among].mean())
        norms.append(
            [
                np.mean(
                    [
                        np.linalg.norm(graph.features[k::2][graph.labels[k::2] == c].mean(0)) ** 2
                        for c in range(4)
                    ]
                )
                for k in (0, 1)
            ]
        )
    assert np.mean(degrees) == pytest.approx(6, rel=0.03)
    assert np.mean(odd) == pytest.approx(0.9, abs=0.02) and np.mean(even) == pytest.approx(0.25, abs=0.02)
    # the mean of about 100 noisy features: squared signal plus a hundredth of the noise
    np.testing.assert_allclose(np.mean(norms, 0), [1.2**2 + 0.01, 0.3**2 + 0.01], rtol=0.06)
    fixed = load("synthetic_two_populations")
    assert (fixed.nodes, fixed.classes, fixed.shares) == (800, 4, (0.25, 0.25))
