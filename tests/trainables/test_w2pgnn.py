"""Graphons and their estimates, Gromov-Wasserstein distance, generator spaces, and measured gains."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from fairsweep.trainables import data_check
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import graph_domains
from fairsweep.trainables.datasets.own import domains as own_domains
from fairsweep.trainables.datasets.own import templates
from fairsweep.trainables.datasets.packed_graphs import Domain, Domains
from fairsweep.trainables.graphs.w2pgnn import (
    STATISTICS,
    W2PGNN,
    Measure,
    Space,
    clusters,
    groups,
    stacked,
)
from fairsweep.trainables.tasks import graphons, pretraining
from fairsweep.trainables.tasks.graph_pretraining import PretrainingTask, against
from fairsweep.trainables.tasks.graphons import by_summary
from fairsweep.trainables.tasks.keeping import KeptRows
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)

FOUR: dict[str, Any] = {
    **{"ego_roots": 10, "ego_hops": 2, "ego_most": 1000, "combine": 2, "estimator": "pool", "resolution": 8},
    "shots": 2,
}


def domain(*graphs: nx.Graph, name: str = "d") -> Domain:
    return Domain.of(name, [sp.csr_matrix(nx.to_scipy_sparse_array(g, dtype=float)) for g in graphs])


def step_function(seed: int, size: int = 6) -> torch.Tensor:
    a = np.random.default_rng(seed).random((size, size))
    return torch.tensor((a + a.T) / 2)


def trial(
    data: str = "synthetic_graphons", steps: int = 3, seed: int = 0, folder: Path | None = None, **over: Any
):
    made = W2PGNN()
    fixed = {"statistic": "entrywise", "measure_gain": False, "estimator": "pool", "resolution": 10, **over}
    made.setup(
        paper_config("w2pgnn", data, **fixed), Setting(seed=seed, data=data, data_dir=folder, steps=steps)
    )
    return made


@pytest.fixture(scope="module")
def few_domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template of own data: two sources, one of them large, and a downstream set."""
    folder = tmp_path_factory.mktemp("own") / "data"
    templates.write("graph pre-training", folder)
    return folder


# ---- estimates ----


@pytest.mark.parametrize("estimator", graphons.ESTIMATORS)
def test_the_graphon_of_random_graphs_of_density_p_is_p(estimator: str) -> None:
    drawn = domain(*(nx.gnp_random_graph(60, 0.3, seed=s) for s in range(8)))
    found = graphons.estimate(drawn, estimator, 12)
    assert float(found.mean()) == pytest.approx(0.3, abs=0.02)
    assert found.shape == ((10, 10) if estimator == "sas" else (12, 12)), (
        "60 nodes in blocks of floor(log2 60 + 1) = 6"
    )
    torch.testing.assert_close(found, found.T)


@pytest.mark.parametrize("estimator", graphons.ESTIMATORS)
def test_numbers_of_nodes_do_not_matter(estimator: str) -> None:
    drawn = [nx.gnp_random_graph(24, 0.4, seed=s) for s in range(3)]
    order = np.random.default_rng(0).permutation(24).tolist()
    turned = []
    for g in drawn:
        h = nx.Graph()
        h.add_nodes_from(range(24))
        h.add_edges_from((order[u], order[v]) for u, v in g.edges)
        turned.append(h)
    both = [graphons.estimate(domain(*of), estimator, 8) for of in (drawn, turned)]
    torch.testing.assert_close(*both, atol=2e-3, rtol=0)


def test_small_graphs_are_padded_not_stretched() -> None:
    found = graphons.mean_matrix(domain(nx.complete_graph(10), nx.complete_graph(2)))
    assert found.shape == (10, 10) and found[0, 1] == 1 and found[8, 9] == 0.5 and found[0].sum() == 5
    assert found.sum() == (90 + 2) / 2


def test_the_largest_gap_finds_the_core() -> None:
    core = np.zeros((10, 10))
    core[:3] = core[:, :3] = 1
    found = graphons._largest_gaps(core, 2)
    assert found == pytest.approx(core)
    rank_one = np.full((40, 40), 0.5) + np.random.default_rng(0).normal(0, 0.05, (40, 40))
    assert abs(graphons._thresholded(rank_one, 1) - 0.5).mean() < abs(rank_one - 0.5).mean() / 2


def test_features_of_graphs_are_those_of_networkx() -> None:
    graphs = [nx.gnp_random_graph(14, 0.25, seed=4), nx.path_graph(4), nx.cycle_graph(5), nx.empty_graph(3)]
    for g, row in zip(graphs, graphons.topology(domain(*graphs)), strict=True):
        degree = [d for _, d in g.degree]
        regular = len(set(degree)) == 1
        expected = [
            *(
                np.mean(degree),
                np.std(degree),
                nx.density(g),
                np.mean(list(nx.closeness_centrality(g).values())),
            ),
            *([0 if regular else nx.degree_assortativity_coefficient(g)] * 2),
            *(nx.transitivity(g), nx.average_clustering(g)),
        ]
        assert row == pytest.approx(expected, abs=1e-9)


def test_large_graphs_become_neighbourhoods_of_random_roots() -> None:
    g = nx.disjoint_union(nx.karate_club_graph(), nx.empty_graph(3))
    for u, v in g.edges:
        g.edges[u, v].pop("weight", None)
    found = graphons.neighbourhoods(domain(g), 1000, 1, 12, np.random.default_rng(0))
    expected = [nx.ego_graph(g, v, 1) for v in range(34)]
    sizes = sorted((len(e), e.size()) for e in expected if len(e) <= 12)
    assert sorted(zip(found.nodes.tolist(), found.edges.tolist(), strict=True)) == sizes and len(sizes) < 34
    with pytest.raises(
        DataError, match="graphs d: no neighbourhood of 2 hops has at most 1 nodes; lower ego_hops"
    ):
        graphons.neighbourhoods(domain(g), 5, 2, 1, np.random.default_rng(0))
    several = domain(nx.path_graph(3), nx.path_graph(4))
    assert graphons.neighbourhoods(several, 5, 2, 1, np.random.default_rng(0)) is several


# ---- Gromov-Wasserstein ----


def test_the_cost_of_a_coupling_is_its_definition() -> None:
    a, b = step_function(0, 3), step_function(1, 4)
    plan = torch.rand(3, 4, dtype=torch.float64)
    plan /= plan.sum()
    expected = sum(
        (a[i, k] - b[j, m]) ** 2 * plan[i, j] * plan[k, m]
        for i, j, k, m in itertools.product(range(3), range(4), range(3), range(4))
    )
    assert float(graphons.cost(a, b, plan)) == pytest.approx(float(expected))
    loose = plan.clone()
    loose[0] *= 0.3  # marginals that are not those asked for: still no negative cost
    assert float(graphons.cost(a, b, loose)) > 0


def test_without_pot_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    monkeypatch.setitem(sys.modules, "ot.gromov", None)
    with pytest.raises(DataError, match=r"statistic=gw: needs POT, .*; pip install 'fairsweep\[transport\]'"):
        graphons.distance(step_function(0), step_function(1), "exact")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = W2PGNN.unsuited({"statistic": "gw"}, "synthetic_graphons")
    assert said is not None and "pip install 'fairsweep[transport]'" in said
    assert W2PGNN.unsuited({"statistic": "density"}, "synthetic_graphons") is None


@pytest.mark.parametrize("solver", graphons.SOLVERS)
def test_the_distance_is_zero_for_one_graphon_however_its_steps_are_ordered(solver: str) -> None:
    pytest.importorskip("ot")
    x = torch.linspace(0, 1, 8, dtype=torch.float64)
    a = torch.exp(-(x[:, None] ** 0.7 + x[None, :] ** 0.7))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    turned, other = a[order][:, order], torch.full((5, 5), 0.9, dtype=torch.float64)
    blur = 1e-8 if solver == "exact" else 2e-3
    assert abs(float(graphons.distance(a, a, solver, 1e-3))) < blur
    assert abs(float(graphons.distance(turned, a, solver, 1e-3))) < blur
    far = [float(graphons.distance(m, other, solver, 1e-3)) for m in (a, turned)]
    assert far[0] == pytest.approx(far[1], abs=1e-6) and far[0] > 0.1
    # to a constant every coupling costs the same
    assert far[0] == pytest.approx(float((a - 0.9).square().mean()), rel=1e-3)


def test_the_gradient_is_that_of_the_distance() -> None:
    pytest.importorskip("ot")
    a, b = step_function(0).requires_grad_(), step_function(1)
    graphons.distance(a, b, "exact").backward()
    assert a.grad is not None
    change = step_function(5) - 0.5
    with torch.no_grad():
        up, down = (float(graphons.distance(a + h * change, b, "exact")) for h in (1e-5, -1e-5))
    assert float((a.grad * change).sum()) == pytest.approx((up - down) / 2e-5, rel=0.03)


@pytest.mark.parametrize("statistic", ["entrywise", "gw"])
def test_another_basis_element_never_makes_it_less_feasible(statistic: str) -> None:
    if statistic == "gw":
        pytest.importorskip("ot")
    x = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
    one, two = (1 - x[:, None]) * (1 - x[None, :]), 0.7 * ((x[:, None] < 0.3) | (x[None, :] < 0.3)).double()
    target, measure = 0.5 * (one + two), Measure(statistic)
    least = []
    for basis in ([one], [one, two]):
        space = Space(torch.stack(basis), 1, True)
        optimiser = torch.optim.Adam(space.parameters(), lr=0.2)
        for _ in range(40):
            loss = measure(space(0), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            least.append(float(measure(space(0), target)))
    assert least[0] == pytest.approx(float(measure(one, target))), "one element is the plain distance"
    assert least[1] <= least[0] + 1e-3 and least[1] < 1e-3
    assert space.alpha[0].tolist() == pytest.approx([0.5, 0.5], abs=0.1)


# ---- generator spaces ----


def test_combinations_are_convex_and_begin_equal() -> None:
    space = Space(torch.stack([step_function(0), step_function(1), step_function(2)]), 2, True)
    assert space.alpha.tolist() == [pytest.approx([1 / 3] * 3)] * 2
    space.logits.data = torch.tensor([[0.0, 1.0, -3.0], [9.0, 0.0, 0.0]], dtype=torch.float64)
    assert (space.alpha > 0).all() and space.alpha.sum(1).tolist() == pytest.approx([1, 1])
    expected = sum(a * b for a, b in zip(space.alpha[0], space.basis, strict=True))
    torch.testing.assert_close(space(0), expected)
    assert stacked([step_function(0, 3), step_function(1, 6)]).shape == (2, 6, 6)


def test_bases_are_of_all_graphs_of_domains_or_of_topologies() -> None:
    stars = domain(*(nx.star_graph(n) for n in range(5, 9)), nx.empty_graph(4), name="stars")
    cliques = domain(nx.empty_graph(3), *(nx.complete_graph(n) for n in range(5, 9)), name="cliques")
    whole = groups([stars, cliques], "integr", 2, 0)
    assert [len(g) for g in whole] == [10] and [g.name for g in groups([stars, cliques], "domain", 2, 0)] == [
        "stars",
        "cliques",
    ]
    found = clusters(graphons.joined([stars, cliques]), 2, 0)
    kinds = [{bool(e == n - 1) for e, n in zip(g.edges, g.nodes, strict=True)} for g in found]
    assert sorted(kinds, key=str) == [{False}, {True}] and [len(g) for g in found] == [4, 4], (
        "no graph has moved"
    )
    assert len(clusters(domain(nx.path_graph(3), nx.path_graph(3)), 5, 0)) == 1


def test_summaries_are_distances_of_averages() -> None:
    sources = [domain(nx.complete_graph(4)), domain(nx.path_graph(4))]
    sets = [domain(nx.cycle_graph(4)), domain(nx.complete_graph(4))]
    densities = np.array([1, 0.5, 2 / 3, 1])
    expected = abs(densities[:2, None] - densities[None, 2:]) / densities.std()
    assert by_summary(sources, sets, "density") == pytest.approx(expected)
    assert by_summary(sources, sets, "clustering")[:, 1] == pytest.approx([0, 1 / np.std([1, 0, 0, 1])])
    assert by_summary(sources, sets, "topology")[0, 1] == 0 < by_summary(sources, sets, "topology")[1, 1]


def test_rankings_are_compared_over_all_pairs_and_within_each_set() -> None:
    distance = np.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
    assert against(distance, -distance) == (pytest.approx(1), pytest.approx(1))
    gain = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
    assert against(distance, gain) == (pytest.approx(np.corrcoef(-distance.ravel(), gain.ravel())[0, 1]), 0)
    assert against(np.ones((3, 2)), gain) == (0, 0)


# ---- the trial ----


def test_a_trial_ranks_candidates_for_each_set_and_comes_closer() -> None:
    made = trial(steps=12, lr_alpha=0.3, basis="domain", combine=2)
    rows = [made.step() for _ in range(12)]
    assert (
        rows[-1]["val_distance"] < rows[0]["val_distance"] and rows[-1]["train_loss"] < rows[0]["train_loss"]
    )
    tests, ranking = made.test(), made.attrs["ranking"]
    assert made.data.candidates == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert len(ranking) == 7 and all(len(found) == 7 for found in ranking.values())
    for found in ranking.values():
        values = [row["feasibility"] for row in found]
        assert values == sorted(values, reverse=True) and sum(found[0]["alpha"]) == pytest.approx(1)
    assert ["core"] in [row["sources"] for row in ranking["core"][:4]]
    assert 0 < tests["test_alpha_error"] < 2 / 3 and tests["test_gain_correlation"] == 0
    start = trial(basis="domain")
    assert tests["test_alpha_error"] < start.test()["test_alpha_error"]


@pytest.mark.parametrize("statistic", [s for s in STATISTICS if s != "gw"])
def test_every_statistic_gives_every_metric(statistic: str, few_domains: Path) -> None:
    over = {"alpha": "uniform"} if statistic == "entrywise" else {}
    made = trial("own", folder=few_domains, statistic=statistic, measure_gain=statistic == "random", **over)
    first = made.step()
    assert first["val_distance"] >= 0 and made.step() == first, "nothing is learned"
    assert {m.name for m in W2PGNN.metrics if m.split == "test"} == set(made.test())


def test_the_best_basis_is_as_good_as_any(few_domains: Path) -> None:
    each = {
        way: trial(basis=way, alpha="uniform").step()["val_distance"] for way in ("integr", "domain", "topo")
    }
    assert trial(basis="max", alpha="uniform").step()["val_distance"] <= min(each.values()) + 1e-12


def test_inside_is_what_a_known_mixture_says() -> None:
    data = graph_domains.load("synthetic_graphons")
    assert data.mixture["product_and_core"] == (0.5, 0.5, 0.0) and data.mixture["two_blocks"] == ()
    densities = {d.name: 2 * d.edges.mean() / (60 * 59) for d in data.downstream}
    for name, expected in (("product", 0.25), ("core", 0.357), ("two_blocks", 0.4), ("mean", 0.5)):
        assert densities[name] == pytest.approx(expected, abs=0.02), name


@pytest.mark.slow
def test_sets_within_the_space_are_closer_than_others() -> None:
    pytest.importorskip("ot")
    made = trial(statistic="gw", solver="exact", steps=30, resolution=24, lr_alpha=0.1, combine=1)
    while not made.finished:
        made.step()
    found = made.test()
    assert found["test_separation"] > 0 and found["test_alpha_error"] < 0.2


def test_rows_are_kept_each_at_its_own_least_loss() -> None:
    kept, rows = KeptRows(), torch.zeros(2, 3)
    for number, losses in enumerate(([2.0, 1.0], [1.0, 3.0], [4.0, 0.5])):
        rows.fill_(number)  # in place, as an optimiser does
        kept.offer(torch.tensor(losses), rows)
    assert kept.rows is not None and kept.rows.tolist() == [[1.0] * 3, [2.0] * 3]
    again = KeptRows()
    again.load_state_dict(kept.state_dict())
    again.offer(torch.tensor([0.1, 0.6]), torch.full((2, 3), 9.0))
    assert again.rows is not None and again.rows.tolist() == [[9.0] * 3, [2.0] * 3]


def test_each_candidate_and_set_is_judged_at_its_own_best_weights() -> None:
    made = trial(steps=4, lr_alpha=3.0, basis="domain", combine=2)
    pairs = [c for c, chosen in enumerate(made.data.candidates) if len(chosen) > 1]
    assert list(made.kept) == [f"{c}_domain" for c in pairs]
    best = np.full((len(made.data.candidates), len(made.data.sets)), np.inf)
    while not made.finished:
        made.step()
        now = [made.distances(made.net, "validation", c) for c in range(len(best))]
        best = np.minimum(best, now)
    told = [made.distances(made.trained(), "validation", c) for c in range(len(best))]
    assert np.array(told) == pytest.approx(best)
    assert (np.array(told) < np.array(now) - 1e-9).any(), "steps this wide overshoot"


def test_seeds_of_any_size_group_graphs() -> None:
    stars = domain(*(nx.star_graph(n) for n in range(3, 7)))
    assert [len(g) for g in clusters(stars, 2, 2**32 + 1)] == [len(g) for g in clusters(stars, 2, 1)]


def test_large_graphs_that_are_not_cut_are_refused(
    monkeypatch: pytest.MonkeyPatch, few_domains: Path
) -> None:
    link = np.array([[0], [1]])
    several = Domain("wide", np.array([50_000, 2]), np.array([1, 1]), np.concatenate([link, link], 1))
    alone = Domain("alone", np.array([50_000]), np.array([1]), link)
    for found, refused in ((several, True), (alone, False)):
        loaded = Domains("own", (found,), (domain(nx.path_graph(3)),))
        monkeypatch.setattr(graph_domains, "_load", lambda *_, loaded=loaded: loaded)
        for over in ({"statistic": "entrywise"}, {"statistic": "density"}, {"statistic": "random"}):
            said = W2PGNN.unsuited(paper_config("w2pgnn", "own", **over), "own", few_domains)
            assert (said is not None) == (refused and over["statistic"] != "random")
            assert said is None or (
                "graphs wide" in said and "50,000 nodes" in said and "file of its own" in said
            )


def test_what_a_statistic_has_no_use_for_is_not_there() -> None:
    graphon = {"estimator", "resolution", "basis", "lr_alpha"}
    assert graphon <= set(paper_config("w2pgnn", "own", statistic="gw", estimator="pool"))
    for over in ({"statistic": "density"}, {"statistic": "random"}):
        assert not graphon & set(paper_config("w2pgnn", "own", **over))
    uniform = paper_config("w2pgnn", "own", statistic="gw", alpha="uniform")
    assert "lr_alpha" not in uniform and "estimator" in uniform


# ---- measured gains ----


def test_gains_are_of_the_same_start_and_nothing_without_pre_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = [domain(*(nx.gnp_random_graph(14, p, seed=s) for s in range(4))) for p in (0.2, 0.5)]

    def measured() -> np.ndarray:
        torch.manual_seed(0)
        return pretraining.gains(drawn, drawn[:1], [domain(nx.gnp_random_graph(20, 0.3, seed=9))])

    monkeypatch.setattr(pretraining, "PRETRAIN", 0)
    assert measured().tolist() == [[0.0], [0.0]]
    monkeypatch.setattr(pretraining, "PRETRAIN", 3)
    first = measured()
    assert first.shape == (2, 1) and (first != 0).all() and measured().tolist() == first.tolist()


def test_r2_is_of_what_was_known_before_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    few, dense = domain(nx.gnp_random_graph(14, 0.3, seed=1)), domain(nx.complete_graph(14))
    own = pretraining.Graphs(few, "cpu")
    held = pretraining.Graphs(dense, "cpu", own.scale)
    mean, deviation = own.scale
    assert held.target.tolist() == pytest.approx([(np.log1p(78) - mean) / deviation] * 14)
    seen = []
    monkeypatch.setattr(pretraining, "PRETRAIN", 0)
    monkeypatch.setattr(
        pretraining, "tuned", lambda net, head, tuned, held: seen.append((tuned, held)) or 0.0
    )
    pretraining.gains([few], [few], [dense])
    assert all(held.scale == tuned.scale and held.target.min() > 1 for tuned, held in seen)


def test_links_are_learned_to_be_told_from_pairs() -> None:
    torch.manual_seed(0)
    graphs = pretraining.Graphs(domain(*(nx.barabasi_albert_graph(30, 2, seed=s) for s in range(4))), "cpu")
    g = nx.barabasi_albert_graph(30, 2, seed=0)
    triangles = np.log1p([nx.triangles(g, v) for v in range(30)])
    found = graphs.target[:30] * 1.0
    assert np.corrcoef(found.numpy(), triangles)[0, 1] == pytest.approx(1, abs=1e-5)
    assert graphs.target.mean().item() == pytest.approx(0, abs=1e-6)
    start = pretraining.encoder()
    net = pretraining.pretrained(start, graphs)

    def told(encoder: torch.nn.Module) -> float:
        with torch.no_grad():
            states = torch.nn.functional.normalize(encoder.train()(graphs.x, graphs.structure), dim=1)
        alike = states @ states.T
        same = graphs.of[:, None] == graphs.of[None, :]
        return float(alike[graphs.ends[0], graphs.ends[1]].mean() - alike[same].mean())

    assert told(net) > told(start)


# ---- own data ----


def test_own_domains_are_files_of_links(tmp_path: Path) -> None:
    for role, files in (("sources", ("a", "b")), ("downstream", ("c",))):
        (tmp_path / role).mkdir()
        for name in files:
            (tmp_path / role / f"{name}.csv").write_text("source,target\nx,y\ny,z\nz,y\nz,z\n")
    (tmp_path / "downstream" / "c.csv").write_text("graph,source,target\n2,x,y\n1,x,y\n1,y,w\n2,y,x\n")
    found = own_domains.own(tmp_path)
    assert [d.name for d in found.sources] == ["a", "b"] and found.sources[0].nodes.tolist() == [3]
    assert found.sources[0].dropped == {"self loops": 1, "repeated entries": 1}
    (several,) = found.downstream
    assert sorted(several.nodes.tolist()) == [2, 3] and sorted(several.edges.tolist()) == [1, 2]
    assert several.ends.min() == 0 and several.ends.max() == 2 and several.dropped["repeated entries"] == 1


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "data_dir=.* holds nothing; needs the folders sources and downstream"),
        (
            {"sources/a.csv": "source,target\na,b\n"},
            "holds sources; needs the folders sources and downstream",
        ),
        (
            {"sources/a.txt": "", "downstream/b.csv": "source,target\na,b\n"},
            "sources holds a.txt; needs the folders",
        ),
        (
            {"sources/a.csv": "source,target\na,a\n", "downstream/b.csv": "source,target\na,b\n"},
            "sources/a.csv has no link between two different nodes",
        ),
        (
            {"sources/a.csv": "source,target\na,\n", "downstream/b.csv": "source,target\na,b\n"},
            "a.csv, line 2: column 'target' has no value, needs one in every row",
        ),
    ],
)
def test_own_domains_that_are_none_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        own_domains.own(tmp_path)


def test_too_few_downstream_graphs_are_one_line(tmp_path: Path) -> None:
    templates.write("graph pre-training", tmp_path)
    (checked,) = data_check.check("w2pgnn", tmp_path, "own")
    assert checked.description.sizes["sources"] and checked.description.drawn
    next((tmp_path / "downstream").glob("*.csv")).write_text("graph,source,target\n1,a,b\n2,a,b\n")
    with pytest.raises(DataError, match=r"data=own: graphs .*: 2 to use; needs four at least"):
        PretrainingTask("own", tmp_path, "cpu", np.random.default_rng(0), FOUR)
