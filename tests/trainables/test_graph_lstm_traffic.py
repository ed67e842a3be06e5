"""Graph LSTMs on tracks: dynamic graphs and spectra, Gaussians, clusters, the regulariser, behaviour, data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import tracks
from fairsweep.trainables.sequences import graph_lstm_traffic as paper_module
from fairsweep.trainables.sequences.graph_lstm_traffic import GraphLSTM
from fairsweep.trainables.tasks import dynamic_graphs as dgg
from fairsweep.trainables.tasks import trajectories as task
from fairsweep.trainables.tasks.clustering import cluster_means, kmeans_of_each
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crowd(seed: int = 0, frames: int = 4, agents: int = 6) -> tuple[Tensor, Tensor]:
    places = 8 * torch.rand(frames, agents, 2, generator=generator(seed), dtype=torch.float64)
    present = torch.ones(frames, agents, dtype=torch.bool)
    present[2:3, 4:] = False
    return places, present


# ---- dynamic graphs ----


def test_weights_are_those_of_the_formula() -> None:
    places, present = crowd()
    found = dgg.adjacency(places, present, 3.0, 2.0)
    assert torch.equal(found, found.mT) and found.diagonal(dim1=-2, dim2=-1).abs().max() == 0
    for t in range(4):
        for i in range(6):
            for j in range(6):
                d = math.dist(places[t, i].tolist(), places[t, j].tolist())
                near = i != j and d < 3 and bool(present[t, i] and present[t, j])
                assert found[t, i, j].item() == pytest.approx(math.exp(-d / 2) if near else 0.0)
    assert ((found == 0) | (found > math.exp(-3 / 2))).all() and found.max() <= 1
    together = dgg.adjacency(torch.zeros(1, 2, 2), torch.ones(1, 2, dtype=torch.bool), 1.0, 1.0)
    assert together[0, 0, 1] == 1, "agents at one place"
    edge = torch.tensor([[[0.0, 0.0], [3.0, 0.0]]])
    assert dgg.adjacency(edge, torch.ones(1, 2, dtype=torch.bool), 3.0, 1.0).max() == 0, "strictly nearer"


def test_laplacian_and_spectrum() -> None:
    places, present = crowd()
    weights = dgg.adjacency(places, present, 2.5, 2.0)
    matrix = dgg.laplacian(weights)
    torch.testing.assert_close(matrix.sum(-1), torch.zeros(4, 6, dtype=torch.float64))
    values, vectors = dgg.spectrum(matrix, present, 6)
    for t in range(4):
        here = present[t]
        expected = torch.linalg.eigvalsh(matrix[t][here][:, here])
        n = int(here.sum())
        torch.testing.assert_close(values[t, :n], expected.clamp_min(0), atol=1e-12, rtol=0)
        assert values[t, n:].abs().sum() == 0 and vectors[t][~here].abs().sum() == 0
        torch.testing.assert_close(matrix[t] @ vectors[t], vectors[t] * values[t], atol=1e-10, rtol=0)
        reached = torch.linalg.matrix_power(weights[t][here][:, here] + torch.eye(n), n) > 0
        components = len({tuple(row) for row in reached.tolist()})
        assert int((values[t, :n] < 1e-9).sum()) == components
    torch.testing.assert_close(dgg.degrees(values, vectors), weights.sum(-1))
    lead = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    assert (lead >= 0).all()
    values, vectors = dgg.spectrum(matrix, present, 9)
    assert values.shape == (4, 9) and vectors.shape == (4, 6, 9) and vectors[..., 6:].abs().sum() == 0


def test_signs_do_not_hang_on_rounding() -> None:
    a = torch.tensor([[0.7071067, -0.7071068], [-0.7071068, 0.7071067]], dtype=torch.float64)
    torch.testing.assert_close(dgg.fixed_signs(a), -dgg.fixed_signs(-a).neg())
    assert (dgg.fixed_signs(a)[0] > 0).all()


def test_moving_and_turning_a_scene_changes_nothing() -> None:
    places, present = crowd()
    turn = torch.tensor(
        [[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]], dtype=torch.float64
    )
    moved = places @ turn.T + torch.tensor([500.0, -30.0], dtype=torch.float64)
    one, two = (dgg.adjacency(x, present, 4.0, 2.0) for x in (places, moved))
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(dgg.rate(one.sum(-1)), dgg.rate(two.sum(-1)))
    assert dgg.rate(one.sum(-1)).abs().max() > 0


@pytest.mark.parametrize("k", [1, 2, 4])
def test_an_agent_that_comes_in_enlarges_the_spectrum(k: int) -> None:
    places, _ = crowd(seed=3, frames=1, agents=9)
    whole = dgg.laplacian(dgg.adjacency(places, torch.ones(1, 9, dtype=torch.bool), 5.0, 2.0))[0]
    old = dgg.laplacian(-(whole[:8, :8] - whole[:8, :8].diag().diag()))
    weights = -whole[8, :8]
    assert 0 < (weights > 0).sum() < 8
    edges = torch.stack([torch.eye(9)[j] - torch.eye(9)[8] for j in range(8)]).double()
    torch.testing.assert_close(
        whole,
        torch.block_diag(old, torch.zeros(1, 1)) + edges.T @ weights.diag() @ edges,
        msg="the exact form",
    )
    values, vectors = dgg.enlarged(*torch.linalg.eigh(old), weights, k)
    expected, exact = torch.linalg.eigh(whole)
    torch.testing.assert_close(values, expected[:k].clamp_min(0), atol=1e-9, rtol=0)
    torch.testing.assert_close(vectors, dgg.fixed_signs(exact[:, :k]), atol=1e-6, rtol=0)


def test_a_vector_turns_no_further_than_the_change_over_the_gap() -> None:
    """sin of the angle <= ||change|| / gap, the gap from the old value to the other new ones (Davis and Kahan)."""
    places, _ = crowd(seed=3, frames=1, agents=9)
    weights = dgg.adjacency(places, torch.ones(1, 9, dtype=torch.bool), 6.0, 2.0)[0]
    change = dgg.laplacian(0.05 * weights)
    (a, u), (b, v) = (torch.linalg.eigh(dgg.laplacian(weights) + x) for x in (torch.zeros(9, 9), change))
    for i in range(1, 9):
        gap = (a[i] - torch.cat([b[:i], b[i + 1 :]])).abs().min()
        sine = (1 - (u[:, i] @ v[:, i]).square().clamp(max=1)).sqrt()
        assert sine <= torch.linalg.matrix_norm(change, 2) / gap + 1e-9


# ---- Gaussians and clusters ----


def test_likelihood_is_that_of_the_bivariate_normal() -> None:
    zero = torch.zeros(1, 2, dtype=torch.float64)
    assert task.gaussian_nll(zero, zero, zero, zero[:, 0]).item() == pytest.approx(1.8378770664, abs=1e-9)
    rng = generator()
    y, mean, log_sigma = (torch.randn(5, 2, generator=rng, dtype=torch.float64) for _ in range(3))
    rho = torch.tanh(torch.randn(5, generator=rng, dtype=torch.float64))
    for n in range(5):
        sx, sy = log_sigma[n].exp().tolist()
        r = rho[n].item()
        cov = torch.tensor([[sx * sx, r * sx * sy], [r * sx * sy, sy * sy]], dtype=torch.float64)
        expected = -torch.distributions.MultivariateNormal(mean[n], cov).log_prob(y[n])
        torch.testing.assert_close(task.gaussian_nll(y, mean, log_sigma, rho)[n], expected)
    raw = 50 * torch.randn(100, 5, generator=rng)
    _, sizes, r = task.gaussian(raw)
    assert sizes.abs().max() <= 4 and r.abs().max() <= 0.99


def test_clusters_of_many_sets_at_once() -> None:
    rng = generator(1)
    present = torch.ones(20, 9, dtype=torch.bool)
    present[:, 8] = False
    group = torch.arange(9) % 3
    points = torch.stack([10.0 * group, -5.0 * group], -1) + 0.1 * torch.randn(20, 9, 2, generator=rng)
    points[:, 8] = 1000.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cluster = kmeans_of_each(points, present, 3)
    for row in cluster:
        assert len({(int(g), int(c)) for g, c in zip(group[:8], row[:8], strict=True)}) == 3
    means = cluster_means(points, cluster, present, 3)
    for g in range(3):
        inside = (group == g) & present[0]
        torch.testing.assert_close(
            means[:, inside], points[:, inside].mean(1, keepdim=True).expand(-1, int(inside.sum()), -1)
        )
    points = torch.randn(20, 9, 1, generator=rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cluster = kmeans_of_each(points, present, 3, rounds=50)
    member = torch.nn.functional.one_hot(cluster, 3) * present.unsqueeze(-1)
    centres = (member.mT.float() @ points).squeeze(-1) / member.sum(1)  # nan where a cluster is empty
    far = (points - centres[:, None]).abs().nan_to_num(torch.inf)
    assert torch.equal(far.argmin(-1)[present], cluster[present]), (
        "nobody is nearer to another cluster's mean"
    )
    same = kmeans_of_each(torch.zeros(2, 4, 1), torch.ones(2, 4, dtype=torch.bool), 3)
    assert (same == same[:, :1]).all(), "equal points are one cluster"


# ---- the paper ----


def start(steps: int = 3, data: str = "synthetic_platoons", seed: int = 0, **changes: Any) -> GraphLSTM:
    config = paper_config("graph_lstm_traffic", data, hidden=8, **changes)
    made = GraphLSTM()
    made.setup(config, Setting(seed=seed, data=data, steps=steps))
    return made


def test_without_weight_two_streams_are_one_bit_for_bit() -> None:
    two, one = start(reg="none"), start(model="one_stream")
    rows = [(two.step(), one.step()) for _ in range(3)]
    for a, b in rows:
        assert {k: v for k, v in a.items() if k != "val_behaviour"} == {
            k: v for k, v in b.items() if k != "val_behaviour"
        }
    for (name, a), b in zip(
        two.net.first.state_dict().items(), one.net.first.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    drawn = start(reg="spectral")
    assert drawn.step()["val_ade"] != rows[0][0]["val_ade"]


@pytest.mark.parametrize("reg", ["spectral", "kmeans_xy", "own_truth"])
def test_no_gradient_goes_from_one_stream_to_the_other(reg: str) -> None:
    made = start(reg=reg, b2=0.5, b3=0.5) if reg != "own_truth" else start(reg=reg)
    rows = made.data.parts["train"][:6]
    with torch.random.fork_rng(devices=[]):
        foreseen = made.loss2(made.net, rows)[1].detach()
        _, drawn = made.loss1(rows, foreseen)
    drawn.backward()
    assert all(p.grad is None for p in made.net.second.parameters())  # type: ignore[union-attr]
    assert sum(p.grad.abs().sum() for p in made.net.first.parameters()) > 0  # type: ignore[misc]
    assert drawn > 0


def test_the_regulariser_is_the_distance_to_the_centre_with_a_plus(monkeypatch: pytest.MonkeyPatch) -> None:
    made = start(b1=0.25)
    rows = made.data.parts["train"][:5]
    cluster = (torch.arange(8) // 4).expand(5 * 15, 8)
    monkeypatch.setattr(paper_module, "kmeans_of_each", lambda points, present, k: cluster)
    foreseen = made.loss2(made.net, rows)[1].detach()
    nll, drawn = made.loss1(rows, foreseen)
    mean = made.data.absolute(rows, made.forecast(made.net, rows)[0])
    truth = made.data.places[rows, 10:]
    total = 0.0
    for group in (slice(0, 4), slice(4, 8)):
        centre = truth[:, :, group].mean(2, keepdim=True)
        total += torch.linalg.vector_norm(mean[:, :, group] - centre, dim=-1).sum().item()
    expected = 0.25 * total / (5 * 15 * 8) / made.data.spread
    assert drawn.item() == pytest.approx(expected, rel=1e-4)
    seen: list[float] = []
    monkeypatch.setattr(made, "descend", lambda loss: seen.append(loss.item()))
    monkeypatch.setattr(made.data, "batches", lambda size, rng: [rows])
    made.epoch()
    second = made.loss2(made.net, rows)[0].item()
    assert seen == [pytest.approx(nll.item() + drawn.item() + second, rel=1e-5)]


def test_decoder_goes_on_from_its_own_outputs() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = paper_module.EncoderDecoder(2, 5, 7)
    x = torch.randn(3, 6, 2, generator=generator())
    out, known = net(x, 4)
    torch.testing.assert_close(known, net.encoder(x)[0][:, -1])
    hidden, cell, raw = known, torch.zeros(3, 7), torch.zeros(3, 5)
    for t in range(4):
        hidden, cell = net.decoder(raw, (hidden, cell))
        raw = net.head(hidden)
        torch.testing.assert_close(out[:, t], raw)


def test_constant_velocity_is_exact_on_straight_ways(tmp_path: Path) -> None:
    rows = [
        f"{r},{a},{t},{3 * t + 5 * a},{(-1) ** a * t}" for r in range(12) for a in range(3) for t in range(14)
    ]
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "tracks.csv").write_text("\n".join(["recording,agent,frame,x,y", *rows]) + "\n")
    changes = {"model": "constant_velocity", "observed": 5, "predicted": 8}
    made = GraphLSTM()
    config = paper_config("graph_lstm_traffic", "own", **changes)
    made.setup(config, Setting(data="own", data_dir=folder, steps=2))
    row = made.step()
    assert row["val_ade"] < 1e-4 and made.test()["test_fde"] < 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        *({"model": m} for m in ("one_stream", "enc_dec", "constant_velocity")),
        *({"stream2_input": "eigenvectors", "reading": r} for r in ("rate", "head")),
        *({"stream2_input": "degree", "reading": r} for r in ("rate", "head")),
        {"stream2_input": "positions", "decoder": "velocity"},
        *({"reg": r} for r in ("none", "kmeans_xy", "own_truth")),
        {"classes": "threshold", "optimiser": "rmsprop"},
    ],
    ids=str,
)
def test_every_kind_trains(changes: dict[str, Any]) -> None:
    made = start(steps=2, **changes)
    rows = [made.step(), made.step()]
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    found = made.test()
    assert all(math.isfinite(v) for v in found.values()) and 0 <= found["test_behaviour"] <= 1


def test_stream_2_is_selected_by_its_own_loss() -> None:
    made = start(steps=2)
    made.step()
    made.kept.loss = -1.0  # nothing is better from now on
    kept = {k: v.clone() for k, v in made.kept.weights.items()}  # type: ignore[union-attr]
    made.step()
    net = made.trained()
    made.measure_test(net)
    assert all(torch.equal(v, kept[k]) for k, v in net.second.state_dict().items())  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["positions", "degree"])
def test_a_class_head_is_selected_by_the_cross_entropy(kind: str) -> None:
    made = start(steps=2, stream2_input=kind, reading="head")
    made.step()
    rows = made.data.parts["validation"]
    with torch.no_grad():
        logits = made.foresee(made.net.eval(), rows)[1]
    true = task.classes(made.data.rates(rows), made.cuts)
    assert made.kept.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, true).item(), rel=1e-5)


# ---- behaviour ----


def test_classes_of_the_rates() -> None:
    cuts = torch.tensor([-0.01, 0.01])
    rates = torch.tensor([-0.5, -0.01, -0.009, 0.0, 0.0099, 0.01, 3.0])
    assert task.classes(rates, cuts).tolist() == [0, 0, 1, 1, 1, 2, 2]
    true, found = torch.tensor([0, 0, 0, 0, 2, 2]), torch.tensor([0, 0, 0, 1, 0, 2])
    assert task.weighted_accuracy(found, true) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert task.weighted_accuracy(torch.zeros(6), true) == 0.5, "a constant answer"
    degree = torch.tensor([[1.0, 5.0], [7.0, 0.0], [2.0, 5.0]])
    assert dgg.rate(degree).tolist() == [0.5, 0.0], "only the first and the last frame count"


def test_who_stands_still_is_neutral() -> None:
    made = start()
    still = made.data.degree[:, :1].expand_as(made.data.degree)
    rows = made.data.parts["train"]
    assert (task.classes(made.data.rates(rows, still[rows, 10:]), torch.tensor([-0.01, 0.01])) == 1).all()
    known = task.classes(made.data.rates(rows), made.data.cuts(None))
    assert torch.bincount(known).tolist() == pytest.approx([len(known) / 3] * 3, abs=2)


def test_true_spectra_give_the_true_behaviour() -> None:
    """With all eigenvectors of the true future frames the rebuilt degrees are the degrees."""
    made = start()
    rows = made.data.parts["test"]
    true = made.sequences[rows, 10:]

    class Oracle(torch.nn.Module):
        second = object()

    made.foresee = lambda net, rows: (true, None)  # type: ignore[method-assign]
    found = made.behaviour(Oracle(), rows)
    share = (found == task.classes(made.data.rates(rows), made.cuts)).double().mean()
    assert share > 0.99  # single precision moves rates at a cut


# ---- data ----


def test_scenes_have_whoever_is_there_throughout() -> None:
    line = np.stack([np.arange(12.0), np.zeros(12)], 1)
    data = tracks.Tracks(
        "t",
        (line, line[:6] + 5, line[:8] - 7, line + 100),
        np.array([0, 3, 2, 0]),
        np.array([0, 0, 0, 1]),
        1.0,
    )
    found, of, first = task.scenes(data, 2, 3, 1, 32)
    assert of.tolist() == [0] * 4 and first.tolist() == [2, 3, 4, 5], "one alone is no scene"
    assert (~np.isnan(found[:, 0, :, 0])).sum(1).tolist() == [2, 3, 3, 2]
    np.testing.assert_array_equal(found[1, :, 1], line[:5] + 5)
    few, _, _ = task.scenes(data, 2, 3, 1, 2)
    assert few.shape[2] == 2 and np.isfinite(few).all()
    with pytest.raises(DataError, match=r"data=t: no 50 frames \(observed=20, predicted=30\)"):
        task.scenes(data, 20, 30, 1, 32)


def test_years_in_which_nobody_is_there_cost_nothing() -> None:
    line, late = np.stack([np.arange(12.0), np.zeros(12)], 1), 10**13
    first = np.array([0, 3, late, late + 2])
    data = tracks.Tracks("t", (line,) * 4, first, np.zeros(4, int), 1.0)
    found, _, first = task.scenes(data, 2, 3, 3, 32)
    assert first.tolist() == [3, 6, late + 2, late + 5] and len(found) == 4


def test_dynamic_graphs_are_made_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = start(stream2_input="eigenvectors"), []

    def adjacency(places: Tensor, *rest: Any) -> Tensor:
        made = dgg.adjacency(places, *rest)
        seen.append(made.numel())
        return made

    monkeypatch.setattr(task, "WEIGHTS", 7 * 25 * 8**2)
    monkeypatch.setattr(task, "adjacency", adjacency)
    made = start(stream2_input="eigenvectors")
    assert max(seen) <= task.WEIGHTS < sum(seen) / 2
    torch.testing.assert_close(made.data.degree, whole.data.degree)
    torch.testing.assert_close(made.sequences, whole.sequences)
    seen.clear()
    one, rows = start(model="one_stream"), made.data.parts["test"]
    found = one.behaviour(one.net, rows)
    monkeypatch.undo()
    assert max(seen) <= 7 * 25 * 8**2 and torch.equal(found, one.behaviour(one.net, rows))


def test_constant_velocity_has_nothing_to_tune() -> None:
    own = paper_config("graph_lstm_traffic", "synthetic_platoons", model="constant_velocity")
    assert not {"lr", "batch_size", "optimiser", "hidden"} & set(own)


def test_parts_in_order_of_time_share_no_frame() -> None:
    way = np.cumsum(np.random.default_rng(0).normal(size=(200, 2)), 0)
    data = tracks.Tracks("t", (way, way + 3), np.zeros(2, int), np.zeros(2, int), 1.0)
    assert data.in_time
    _, of, first = task.scenes(data, 4, 6, 2, 32)
    parts = task._parts(data, of, first, 10, np.random.default_rng(0))
    frames = {part: {f for i in rows for f in range(first[i], first[i] + 10)} for part, rows in parts.items()}
    assert max(frames["train"]) < min(frames["validation"]) < max(frames["validation"]) < min(frames["test"])
    assert [len(frames[p]) for p in ("train", "validation", "test")] == [140, 20, 40]


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tracks.csv").write_text(text)
    return folder


def test_fixes_come_onto_a_grid(tmp_path: Path) -> None:
    text = "agent,time,x,y\n" + "".join(f"a,{t},{2 * t},0\n" for t in (10, 11, 12, 14, 15, 30, 31, 32))
    data = tracks.own(write(tmp_path / "one", text + "b,11.5,5,1\nb,12.5,6,1\nb,13.5,7,1\nc,50,0,0\n"))
    assert data.step == 1 and data.first.tolist() == [0, 20, 2], (
        "frames from the first time on; a gap ends a track"
    )
    np.testing.assert_allclose(data.points[0][:, 0], [20, 22, 24, 26, 28, 30])
    np.testing.assert_allclose(data.points[2], [[5.5, 1], [6.5, 1]])
    assert data.dropped == {"fixes of single frames": 1}


def test_parts_as_given(tmp_path: Path) -> None:
    rows = [
        f"{p},{a},{t},{t},{a},{p}\n" for p in ("train", "val", "test") for a in range(2) for t in range(12)
    ]
    data = tracks.own(write(tmp_path / "one", "recording,agent,frame,x,y,split\n" + "".join(rows)))
    made = task.TrajectoryTask(
        "synthetic_platoons", None, "cpu", np.random.default_rng(0), 10, 15, 60, 32, 20.0, 4.0
    )
    assert data.split is not None and {p: len(r) for p, r in data.split.items()} == dict.fromkeys(
        data.split, 1
    )
    assert {p: len(r) for p, r in made.parts.items()} == {"validation": 20, "test": 40, "train": 40}
    assert made.members().shared() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agent,x,y\na,0,0\n", "tracks.csv has no column 'time' or 'frame'; it has agent, x, y"),
        ("agent,frame,x\na,0,0\n", "tracks.csv has no column 'y'"),
        (
            "agent,frame,x,y\na,0,0,0\na,1,z,0\n",
            "tracks.csv, line 3: column 'x' has 'z', must be a finite number",
        ),
        (
            "agent,frame,x,y\na,0,0,0\n,1,0,0\n",
            "line 3: column 'agent' has no value, needs one in every row|line 3",
        ),
        (
            "agent,frame,x,y\na,0,0,0\na,0,1,0\na,1,1,0\n",
            "line 3: agent 'a' at the time of tracks.csv, line 2 again",
        ),
        ("agent,frame,x,y\na,0,0,0\nb,0,1,0\n", "no agent has two rows"),
        (
            "agent,frame,x,y\na,0,0,0\na,1,1,0\na,1.5,1,0\n",
            "line 4: column 'frame' has '1.5', must be a whole number",
        ),
        (
            "agent,time,x,y\na,2024-01-01 00:00,0,0\na,later,1,0\n",
            "line 3: column 'time' has 'later', must be a time",
        ),
    ],
)
def test_tables_that_are_no_tracks(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tracks.own(write(tmp_path / "one", text))


def test_aircraft_as_shipped() -> None:
    try:
        data = tracks.load("aircraft")
    except DataError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))
    assert (len(data.points), data.recordings, data.step, data.last.max()) == (1244, 1, 10.0, 6120)
    speed = np.concatenate([np.linalg.norm(np.diff(points, axis=0), axis=1) for points in data.points]) / 10
    assert 180 < np.median(speed) < 260, "metres a second"


def test_platoons_are_always_the_same_and_move_as_said() -> None:
    one, two = tracks.synthetic_platoons(), tracks.synthetic_platoons()
    assert np.array_equal(one.points[5], two.points[5]) and one.recordings == 100 and not one.in_time
    places = np.stack(one.points)
    assert set(np.unique(places[..., 1])) == {0.0, 3.5, 7.0}
    speed = np.diff(places[..., 0], axis=1) / 0.2
    assert 5 < speed[:, 0].min() < 7 and 13 < speed[:, 0].max() < 15, (
        "one frame of noise behind the first speed"
    )
    assert places[:4, 0, 0].max() <= 8 and places[4:8, 0, 0].min() >= 17
