"""PDVN: the two-branch policy, the search with two values, the targets of its trees, planners and data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fairsweep.search_spaces.space import Space
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import synthetic_strings as strings
from fairsweep.trainables.planning import pdvn
from fairsweep.trainables.planning.pdvn import DualValueSearch, PDVNPaper, Targets
from fairsweep.trainables.tasks import retrosynthesis as retro
from fairsweep.trainables.tasks.retrosynthesis import (
    Candidate,
    MoleculeNode,
    RetroStar0,
    RetrosynthesisTask,
    Rollout,
)

torch.set_num_threads(1)
SHORT = "synthetic_strings_short"
Reactions = Mapping[str, Sequence[tuple[tuple[str, ...], float]]]


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def config(data: str = SHORT, **overrides: Any) -> dict[str, Any]:
    space = Space.load("pdvn")
    every = {
        n: p.value if p.fixed else p.paper.get(data, p.paper["default"]) for n, p in space.parameters.items()
    }
    tiny = PDVNPaper.tiny.config if data == SHORT else {}
    return space.complete({**every, **tiny, **overrides})


def paper(steps: int = 3, seed: int = 0, data: str = SHORT, **overrides: Any) -> PDVNPaper:
    made = PDVNPaper()
    made.setup(config(data, **overrides), Setting(seed=seed, data=data, steps=steps))
    return made


class Table:
    """A model and a task out of a table: the reactions of every molecule, its cost and its synthesizability."""

    def __init__(self, reactions: Reactions, stock: str, values: Mapping[str, tuple[float, float]]) -> None:
        self.stock = frozenset(stock)
        self.candidates = {
            name: [Candidate(10 * i, made, p) for i, (made, p) in enumerate(found)]
            for name, found in reactions.items()
        }
        self.known = values

    def values(self, molecule: str) -> tuple[float, float]:
        assert molecule not in self.stock, "the values of stock are not the model's to say"
        return self.known.get(molecule, (1.0, 0.5))


def search(
    kind: type[retro.Search],
    reactions: Reactions,
    stock: str = "xyz",
    values: Mapping[str, tuple[float, float]] | None = None,
    calls: int = 100,
    learning: bool = True,
    seed: int = 0,
    **overrides: Any,
) -> Any:
    table: Any = Table(reactions, stock, values or {})
    rng = np.random.default_rng(seed)
    return kind(table, table, "T", calls, {**config(), **overrides}, rng, learning)


def run(made: retro.Search) -> list[str]:
    """The molecules asked for, in order."""
    return list(made.plan())


def expand(made: retro.Search, node: MoleculeNode) -> None:
    list(made.expand(node))


def below(node: MoleculeNode) -> Iterator[MoleculeNode]:
    yield node
    for reaction in node.reactions:
        for molecule in reaction.reactants:
            yield from below(molecule)


def planned(method: str = "pdvn", count: int = 12, **overrides: Any) -> tuple[PDVNPaper, list[Any]]:
    """Finished searches with untrained values and a weak policy: some trees are solved, others are not."""
    made = paper(method=method, **overrides)
    net, data, rng = made.net, made.data, np.random.default_rng(1)
    return made, retro.search(
        DualValueSearch, data.draw_targets(count), data, net, 12, made.config, rng, True
    )


# ---- policy ----


def policy(topk: int = 4, two: bool = True) -> pdvn.TwoBranchPolicy:
    made = pdvn.TwoBranchPolicy(7, 15, 8, topk, two)
    made.start()
    return made


def test_an_untrained_branch_leaves_the_reference_exactly_as_it_is() -> None:
    made, x = policy(), torch.randn(20, 7)
    templates, p = made.candidates(x)
    best = made.reference(x).topk(4, -1)
    assert torch.equal(templates, best.indices)
    assert torch.equal(p, best.values.softmax(-1))
    one = policy(two=False)
    assert torch.equal(one.logits(x)[0], one.reference(x))


def test_only_the_templates_of_the_reference_get_probability() -> None:
    made, x = policy(), torch.randn(20, 7)
    torch.nn.init.normal_(made.branch[-1].weight, std=10.0)
    templates, p = made.candidates(x)
    chosen = made.reference(x).topk(4, -1).indices
    assert torch.equal(templates, chosen)
    logits = made.reference(x) + made.branch(x)
    torch.testing.assert_close(p, logits.gather(-1, chosen).softmax(-1))
    assert (p.argmax(-1) != 0).any(), "the branch re-ranks"
    everywhere = made(x).exp()
    torch.testing.assert_close(everywhere.gather(-1, chosen), p)
    assert torch.equal(everywhere.scatter(-1, chosen, 0.0), torch.zeros(20, 15))


def test_without_the_reference_branch_the_policy_proposes_by_itself() -> None:
    made, x = policy(two=False), torch.randn(20, 7)
    torch.nn.init.normal_(made.branch[-1].weight, std=10.0)
    assert torch.equal(made.candidates(x)[0], made.branch(x).topk(4, -1).indices)
    torch.testing.assert_close(made(x), made.branch(x).log_softmax(-1))


def test_more_candidates_than_templates_are_all_templates() -> None:
    assert policy(topk=50).candidates(torch.randn(2, 7))[1].shape == (2, 15)


def test_training_changes_the_branch_and_the_values_but_not_the_reference() -> None:
    made = paper()
    before = {k: v.clone() for k, v in made.net.state_dict().items()}
    made.step()
    after = made.net.state_dict()
    same = {k for k in before if torch.equal(before[k], after[k])}
    assert same == {k for k in before if k.startswith("policy.reference")}


def test_values_are_a_probability_and_a_cost() -> None:
    net = pdvn.DualValueNetworks(7, 15, 8, 4)
    for part in (net.cost, net.synthesizability):
        torch.nn.init.normal_(part[-1].weight, std=3.0)
    x = torch.randn(50, 7)
    cost, chance = net.values(x)
    torch.testing.assert_close(cost, F.softplus(net.cost(x)).squeeze(-1))
    torch.testing.assert_close(chance, torch.sigmoid(net.synthesizability(x)).squeeze(-1))
    assert cost.shape == chance.shape == (50,)


# ---- search ----

CHOICE: Reactions = {
    "T": [(("a", "b"), 0.6), (("c",), 0.3), (("x", "d"), 0.1)],
    "a": [(("x", "y"), 1.0)],
    "b": [],
    "c": [(("e",), 0.7), (("x",), 0.3)],
    "d": [(("z",), 1.0)],
    "e": [(("x", "y"), 1.0)],
}
VALUES = {"a": (0.4, 0.9), "b": (0.7, 0.2), "c": (9.0, 0.8), "d": (0.3, 0.6), "T": (2.0, 0.5)}


def test_a_reaction_is_the_sum_of_costs_and_the_product_of_chances() -> None:
    made = search(DualValueSearch, CHOICE, values=VALUES)
    expand(made, made.root)
    two, one, half = made.root.reactions
    assert (two.cost, two.chance) == (pytest.approx(0.1 + 0.4 + 0.7), pytest.approx(0.9 * 0.2))
    assert (one.cost, one.chance) == (pytest.approx(9.1), pytest.approx(0.8))
    assert (half.cost, half.chance) == (pytest.approx(0.1 + 0.3), pytest.approx(0.6)), "stock: V=0, R=1"
    assert (made.root.cost, made.root.chance, made.calls) == (2.0, 0.5, 1)


@pytest.mark.parametrize("method", ["pdvn", "single_value", "no_cost"])
def test_puct_is_the_formula(method: str) -> None:
    made = search(DualValueSearch, CHOICE, values=VALUES, method=method, puct_c=2.0)
    expand(made, made.root)
    for reaction, visits in zip(made.root.reactions, (3, 0, 1), strict=True):
        reaction.visits = visits
    made.root.reactions[2].probability = 0.3  # sum 1.2
    q, r = np.array([1.2, 5.0, 0.4]), np.array([0.18, 0.8, 0.6])  # 9.1 is clipped
    cost = {"pdvn": r * q + (1 - r) * 5, "single_value": q, "no_cost": (1 - r) * 5}[method]
    bonus = 2.0 * np.array([0.5, 0.25, 0.25]) * math.sqrt(4) / (1 + np.array([3, 0, 1]))
    np.testing.assert_allclose(made.puct(made.root), bonus - cost)
    made.root.reactions[1].dead = True
    assert made.puct(made.root)[1] == -math.inf


def test_backing_up_replaces_the_visited_reactant_and_averages() -> None:
    made = search(DualValueSearch, CHOICE, values=VALUES)
    root = made.root
    expand(made, root)
    made.back_up(root, root)
    a, b = root.reactions[0].reactants
    expand(made, a)
    made.back_up(a, root)
    assert (a.cost, a.chance, a.visits) == (pytest.approx(0.1), 1.0, 1), "solved: the cheapest reaction, R=1"
    reaction = root.reactions[0]
    assert (reaction.visits, root.visits) == (1, 2)
    assert reaction.cost == pytest.approx(0.1 + 0.1 + 0.7) and reaction.chance == pytest.approx(0.2)
    assert root.cost == pytest.approx((2.0 + 0.9) / 2), "the molecule's mean, its own first value included"
    assert root.chance == pytest.approx((0.5 + 0.2) / 2)
    c = root.reactions[1].reactants[0]
    expand(made, c)
    made.back_up(c, root)
    assert root.cost == pytest.approx((2.0 + 0.9 + 0.2) / 3)
    assert b.visits == 0 and b.cost == 0.7


@pytest.mark.parametrize("method", ["pdvn", "no_cost", "single_value"])
def test_a_dead_end_lowers_the_chance_but_not_the_cost_of_success(method: str) -> None:
    made = search(DualValueSearch, CHOICE, values=VALUES, method=method)
    root = made.root
    expand(made, root)
    made.back_up(root, root)
    b = root.reactions[0].reactants[1]
    expand(made, b)
    assert b.dead and b.invalid and root.reactions[0].dead and not root.dead
    made.back_up(b, root)
    assert (b.cost, b.chance) == (5.0, 0.0)
    assert root.chance == pytest.approx(0.25)
    through = 0.1 + 0.4 + 5.0
    assert root.cost == pytest.approx((2.0 + through) / 2 if method == "single_value" else 2.0)


def test_selection_prefers_open_reactants_then_unsolved_ones() -> None:
    reactions: Reactions = {"T": [(("a", "b", "x"), 1.0)], "a": [(("x",), 1.0)], "b": [(("c",), 1.0)]}
    made = search(DualValueSearch, reactions)
    expand(made, made.root)
    a, b, _ = made.root.reactions[0].reactants
    assert {made.select(made.root).name for _ in range(20)} == {"a", "b"}
    expand(made, b)
    assert {made.select(made.root).name for _ in range(20)} == {"a"}
    expand(made, a)
    assert {made.select(made.root).name for _ in range(20)} == {"c"}, "below the unsolved b"
    b.reactions[0].reactants[0].solved = b.solved = b.reactions[0].solved = True
    assert {made.select(made.root).name for _ in range(40)} == {"x", "c"}, "any, once all are solved"


def test_loops_and_depth_are_dead_ends() -> None:
    reactions: Reactions = {"T": [(("a",), 0.5), (("T", "x"), 0.5)], "a": [(("T",), 0.5), (("b", "x"), 0.5)]}
    made = search(DualValueSearch, reactions, depth=2)
    expand(made, made.root)
    assert [r.reactants[0].name for r in made.root.reactions] == ["a"]
    a = made.root.reactions[0].reactants[0]
    expand(made, a)
    (reaction,) = a.reactions
    assert [m.dead for m in reaction.reactants] == [True, False], "b lies at the greatest depth, x is stock"
    assert reaction.dead and a.dead and made.root.dead
    assert not a.invalid and not made.root.invalid
    looping = search(DualValueSearch, {"T": [(("a",), 1.0)], "a": [(("T",), 1.0), (("a", "x"), 1.0)]})
    assert run(looping) == ["T", "a"]
    assert looping.root.dead and not looping.root.invalid and looping.calls == 2


def test_visits_of_reactions_add_up_to_those_of_the_molecule_less_its_own_first() -> None:
    _, found = planned()
    seen = 0
    for made in found:
        for node in below(made.root):
            assert node.stock or node.expanded or node.visits == 0
            if node.reactions and node.visits:
                assert sum(r.visits for r in node.reactions) == node.visits - 1
                seen += 1
        assert made.calls == sum(node.expanded for node in below(made.root)) <= made.limit
    assert seen > 50


def test_the_flags_of_a_tree_are_those_of_an_and_or_graph() -> None:
    _, found = planned()
    for node in itertools.chain.from_iterable(below(made.root) for made in found):
        if node.expanded:
            assert node.solved == any(all(m.solved for m in r.reactants) for r in node.reactions)
            assert node.dead == all(any(m.dead for m in r.reactants) for r in node.reactions)
        assert not (node.solved and node.dead)


def test_a_molecule_is_simulated_until_it_has_its_visits_and_reactions_are_chosen_down_to_stock() -> None:
    made = search(DualValueSearch, CHOICE, values={**VALUES, "c": (0.2, 0.99)}, num_simulations=30)
    run(made)
    assert made.root.visits == 30 and made.root.solved
    assert made.calls <= 6
    cut = search(DualValueSearch, CHOICE, values=VALUES, num_simulations=30, calls=1)
    assert run(cut) == ["T"] and cut.calls == 1, "not a call more than allowed"


def test_decisions_follow_the_visits() -> None:
    made = search(DualValueSearch, CHOICE, values=VALUES)
    expand(made, made.root)
    first, second, third = made.root.reactions
    first.visits, second.visits, third.visits = 30, 10, 60
    chosen = [made.decide(made.root) for _ in range(400)]
    assert [chosen.count(r) / 400 for r in (first, second, third)] == pytest.approx([0.3, 0.1, 0.6], abs=0.07)
    third.dead = True
    assert third not in [made.decide(made.root) for _ in range(50)]
    made.learning = False
    assert {made.decide(made.root) for _ in range(20)} == {first}
    first.visits = second.visits = 0
    made.learning = True
    assert {made.decide(made.root) for _ in range(50)} == {first, second}


def test_when_it_does_not_learn_the_search_ends_with_the_first_route() -> None:
    reactions: Reactions = {
        "T": [(("a", "x"), 0.9), (("b",), 0.1)],
        "a": [(("y",), 1.0)],
        "b": [(("x",), 1.0)],
    }
    values = {"a": (0.1, 0.9), "b": (3.0, 0.1)}
    eager = search(DualValueSearch, reactions, values=values, learning=False, num_simulations=50)
    assert run(eager) == ["T", "a"] and eager.root.solved and eager.root.visits == 2
    thorough = search(DualValueSearch, reactions, values=values, num_simulations=50)
    run(thorough)
    assert thorough.root.visits == 50


@pytest.mark.parametrize("kind", [DualValueSearch, RetroStar0, Rollout])
@pytest.mark.parametrize("learning", [True, False])
def test_stock_needs_no_call(kind: type[retro.Search], learning: bool) -> None:
    made = search(kind, {}, stock="Tx", learning=learning)
    assert run(made) == [] and made.calls == 0 and made.root.solved
    assert retro.summary([made]) == (1.0, 0.0, 0.0)
    targets = Targets()
    assert targets.add(made.root, config()) == 0.0 and targets == Targets()


# ---- targets ----


def cheapest(node: MoleculeNode, rounds: int = 40) -> dict[MoleculeNode, float]:
    """Costs by value iteration over the whole tree, from infinity down."""
    nodes = list(below(node))
    costs = {n: 0.0 if n.stock else math.inf for n in nodes}
    for _ in range(rounds):
        for n in nodes:
            options = [0.1 + sum(costs[m] for m in r.reactants) for r in n.reactions]
            costs[n] = min([costs[n], *options])
    return costs


def test_targets_are_dynamic_programming_on_the_tree() -> None:
    made, found = planned()
    shallow = planned(depth=4)[1]
    solved = dead = doubtful = 0
    for tree in found + shallow:
        targets, costs = Targets(), cheapest(tree.root)
        assert targets.add(tree.root, made.config) == pytest.approx(costs[tree.root])
        taught = [n for n in below(tree.root) if not n.stock and (n.expanded or n.dead)]
        assert len(targets.synthesizability) == len(taught)
        expected = sorted((n.name, costs[n]) for n in taught if costs[n] < math.inf)
        assert [name for name, _ in expected] == [name for name, _ in sorted(targets.cost)]
        assert [c for _, c in sorted(targets.cost)] == pytest.approx([c for _, c in expected])
        best = []
        for n in taught:
            if costs[n] < math.inf:
                options = [round(0.1 + sum(costs[m] for m in r.reactants), 9) for r in n.reactions]
                best.append((n.name, n.reactions[options.index(min(options))].template))
        assert sorted(targets.policy) == sorted(best), "the best solved reaction, not the most visited"
        chances = [
            (n.name, 1.0 if costs[n] < math.inf else 0.0 if n.invalid else 0.8 * n.chance) for n in taught
        ]
        assert sorted(targets.synthesizability) == sorted(chances)
        solved += len(best)
        dead += sum(n.dead for n in taught)
        doubtful += sum(costs[n] == math.inf and not n.dead for n in taught)
    assert solved > 5 and doubtful > 5 and dead > 0, "the trees show every case"


def test_targets_of_a_small_tree() -> None:
    made = search(DualValueSearch, CHOICE, values=VALUES)
    for node in below(made.root):
        if not node.stock:
            expand(made, node)
    made.back_up(made.root.reactions[0].reactants[1], made.root)
    targets = Targets()
    assert targets.add(made.root, made.config) == pytest.approx(0.2)
    assert dict(targets.policy)["T"] == 10, "over c, as cheap as over d and before it"
    assert dict(targets.policy)["c"] == 10, "to stock at once, not over e"
    assert dict(targets.cost)["c"] == pytest.approx(0.1)
    assert "b" not in dict(targets.cost) and "b" not in dict(targets.policy)
    chances = dict(targets.synthesizability)
    assert chances["b"] == 0.0 and {chances[m] for m in "Tacde"} == {1.0}


def test_a_single_value_is_also_taught_what_failure_costs() -> None:
    reactions: Reactions = {"T": [(("a", "b"), 0.5), (("c",), 0.5)], "a": [], "c": [(("d",), 1.0)]}
    made = search(DualValueSearch, reactions, values={"c": (0.8, 0.5), "d": (0.6, 0.25)}, depth=2)
    expand(made, made.root)
    (a, _), (c,) = (r.reactants for r in made.root.reactions)
    for node in (a, c):
        expand(made, node)
        made.back_up(node, made.root)
    single, dual = Targets(), Targets()
    assert single.add(made.root, {**config(), "method": "single_value"}) == math.inf
    dual.add(made.root, config())
    assert dual.cost == dual.policy == single.policy == []
    costs = dict(single.cost)
    assert costs["a"] == 5.0 and costs["c"] == pytest.approx(0.8 + 0.2) and costs["d"] == pytest.approx(0.8)
    assert "b" not in costs, "neither expanded nor dead"
    chances = dict(dual.synthesizability)
    assert chances["a"] == 0.0 and chances["c"] == pytest.approx(0.4) and chances["d"] == pytest.approx(0.2)


# ---- learning ----


def one_network(name: str, pairs: list[Any]) -> tuple[PDVNPaper, set[str]]:
    """What changes when only the targets `name` are there."""
    made = paper()
    made.optimiser = torch.optim.SGD(made.net.parameters(), lr=1.0)
    before = {k: v.clone() for k, v in made.net.state_dict().items()}
    targets = Targets()
    getattr(targets, name).extend(pairs)
    made.learn(targets)
    after = made.net.state_dict()
    moved = {k: (after[k] - before[k]).norm().item() for k in before}
    total = math.sqrt(sum(m**2 for m in moved.values()))
    assert 0 < total <= 3 * 0.5 + 1e-4, "three epochs of one batch, gradients clipped to 0.5"
    return made, {k.rsplit(".", 2)[0] for k, m in moved.items() if m > 0}


def test_every_network_learns_its_own_targets_with_clipped_gradients() -> None:
    assert one_network("cost", [("ABCA", 90.0)])[1] == {"cost"}
    assert one_network("synthesizability", [("ABCA", 1.0)])[1] == {"synthesizability"}
    fresh = paper()
    templates, _ = fresh.net.policy.candidates(fresh.data.fingerprints(["ABCA"]))
    _, changed = one_network("policy", [("ABCA", int(templates[0, -1]))])
    assert changed == {"policy.branch"}


def test_learning_moves_towards_the_targets() -> None:
    made = paper(lr=0.01, epochs=5)
    x = made.data.fingerprints(["ABCA", "CCBB"])
    template = made.net.policy.candidates(x)[0][:, -1]
    targets = Targets(
        [("ABCA", 0.3), ("CCBB", 2.0)],
        [("ABCA", 1.0), ("CCBB", 0.1)],
        [("ABCA", int(template[0])), ("CCBB", int(template[1]))],
    )
    for _ in range(40):
        made.learn(targets)
    with torch.no_grad():
        cost, chance = made.net.values(x)
        p = made.net.policy(x).exp().gather(-1, template[:, None]).squeeze(-1)
    np.testing.assert_allclose(cost, [0.3, 2.0], atol=0.1)
    np.testing.assert_allclose(chance, [1.0, 0.1], atol=0.1)
    assert p.min() > 0.9


@pytest.mark.parametrize(
    "method, untouched",
    [
        ("pdvn", set()),
        ("single_value", {"synthesizability"}),
        ("no_cost", {"cost"}),
        ("self_imitation", {"cost", "synthesizability"}),
        ("pretrained", {"cost", "synthesizability", "policy.branch"}),
    ],
)
def test_methods_train_what_they_have(method: str, untouched: set[str]) -> None:
    made = paper(method=method)
    before = {k: v.clone() for k, v in made.net.state_dict().items()}
    row = made.step()
    after = made.net.state_dict()
    same = {k.rsplit(".", 2)[0] for k in before if torch.equal(before[k], after[k])}
    assert same == untouched | {"policy.reference"}
    assert made.finished == (method == "pretrained"), "a policy that does not change needs one round"
    assert 0 <= row["val_success"] <= 1 and 0 < row["val_calls"] <= 10
    assert set(made.test()) == {"test_success", "test_calls", "test_length"}


@pytest.mark.parametrize("planner", ["mcts", "greedy"])
@pytest.mark.parametrize("two_branch", [True, False])
def test_planners_and_one_branch_run(planner: str, two_branch: bool) -> None:
    made = paper(planner=planner, two_branch=two_branch)
    row = made.step()
    assert row["val_success"] > 0
    assert made.test()["test_success"] > 0
    kind = {"mcts": DualValueSearch, "greedy": Rollout}[planner]
    assert pdvn.PLANNERS[planner] is kind


def test_every_method_is_evaluated_on_the_same_targets_and_policy_before_it_learns() -> None:
    one, other = paper(method="pdvn"), paper(method="pretrained")
    assert one.evaluate(one.net, "test") == other.evaluate(other.net, "test")
    assert one.evaluate(one.net, "test") != one.evaluate(one.net, "validation")


# ---- planners ----


def test_best_first_search_expands_the_cheapest_open_route() -> None:
    reactions: Reactions = {
        "T": [(("a",), 0.6), (("b", "c"), 0.3), (("d",), 0.1)],
        "a": [(("e",), 0.3), (("f",), 1e-6)],
        "b": [(("x",), 1.0)],
        "c": [(("g",), 0.2)],
        "e": [],
        "d": [(("x",), 1.0)],
        "g": [(("x",), 1.0)],
    }
    made = search(RetroStar0, reactions, learning=False)
    # p of the best open route: .6 over a, .3 over b (solved) and c, .18 over e (dead), .1 over d, .06 over g.
    assert run(made) == ["T", "a", "b", "c", "e", "d"]
    assert made.root.solved and made.root.cost == pytest.approx(-math.log(0.1))


def test_best_first_search_stops_at_the_limit_and_at_dead_ends() -> None:
    deep: Reactions = {"T": [(("a",), 1.0)], "a": [(("b",), 1.0)], "b": [(("x",), 1.0)]}
    assert run(search(RetroStar0, deep, calls=2)) == ["T", "a"]
    dead = search(RetroStar0, {"T": [(("a",), 1.0)], "a": []})
    assert run(dead) == ["T", "a"] and dead.root.dead and dead.root.cost == math.inf
    floor = search(RetroStar0, {"T": [(("x",), 1e-9)]})
    run(floor)
    assert floor.root.cost == pytest.approx(-math.log(1e-3))


def test_rollouts_without_a_search() -> None:
    reactions: Reactions = {"T": [(("a", "x"), 0.6), (("b",), 0.4)], "a": [], "b": [(("x", "y"), 1.0)]}
    greedy = search(Rollout, reactions, learning=False)
    assert run(greedy) == ["T", "a"] and not greedy.root.solved, "one attempt with the most probable reaction"
    for seed in range(5):
        sampled = search(Rollout, reactions, seed=seed)
        assert set(run(sampled)) <= {"T", "a", "b"} and sampled.root.solved
    hopeless = search(Rollout, {"T": [(("a",), 1.0)], "a": []})
    assert run(hopeless) == ["T", "a"] and hopeless.root.dead
    long = search(Rollout, {"T": [(("a",), 1.0)], "a": [(("b",), 1.0)], "b": [(("x",), 1.0)]}, calls=2)
    assert run(long) == ["T", "a"] and not long.root.solved


def test_summary_counts_unsolved_targets_with_the_limit() -> None:
    done = search(RetroStar0, {"T": [(("a", "b"), 1.0)], "a": [(("x",), 1.0)], "b": [(("x", "y"), 1.0)]})
    dead = search(RetroStar0, {"T": []}, calls=20)
    run(done)
    run(dead)
    assert retro.route_length(done.root) == 3
    assert retro.summary([done, dead]) == (0.5, (3 + 20) / 2, (3 + 20) / 2)
    assert retro.route_length(dead.root) == math.inf


def test_searches_together_equal_searches_one_by_one() -> None:
    made = paper()
    targets = made.data.targets["test"][:8]
    rng = np.random.default_rng(0)

    def solve(names: Sequence[str]) -> list[Any]:
        return retro.search(RetroStar0, names, made.data, made.net, 10, made.config, rng)

    together = solve(targets)
    alone = [solve([t])[0] for t in targets]
    assert [(s.calls, s.root.solved) for s in together] == [(s.calls, s.root.solved) for s in alone]


def test_proposals_leave_out_what_does_not_apply_and_merge_equal_reactants() -> None:
    task = RetrosynthesisTask(SHORT, None, "cpu", np.random.default_rng(0))
    cut_ab, a_to_b = (
        strings.TEMPLATES.index(("cut", "A", "B")),
        strings.TEMPLATES.index(("replace", "A", "B")),
    )
    cut_ba, cut_cc = strings.TEMPLATES.index(("cut", "B", "A")), strings.TEMPLATES.index(("cut", "C", "C"))
    found = retro.propose(task, "ABA", [cut_cc, cut_ab, a_to_b, cut_ba], [0.5, 0.1, 0.2, 0.2])
    assert found == [
        Candidate(cut_ab, ("A", "BA"), pytest.approx(0.2)),
        Candidate(a_to_b, ("BBA",), pytest.approx(0.4)),
        Candidate(cut_ba, ("A", "AB"), pytest.approx(0.4)),
    ]
    again = retro.propose(task, "ABA", [cut_ab, a_to_b, cut_ab], [0.3, 0.4, 0.1])
    assert [(c.template, c.probability) for c in again] == [
        (cut_ab, pytest.approx(0.5)),
        (a_to_b, pytest.approx(0.5)),
    ]
    assert retro.propose(task, "BB", [cut_cc], [1.0]) == []


# ---- data ----


def test_templates_and_reactants() -> None:
    assert len(set(strings.TEMPLATES)) == 15
    index = strings.TEMPLATES.index
    assert strings.reactants(index(("cut", "A", "B")), "CABAB") == ("CA", "BAB")
    assert strings.reactants(index(("cut", "A", "A")), "AA") == ("A",)
    assert strings.reactants(index(("replace", "B", "C")), "ABB") == ("ACB",)
    assert strings.reactants(index(("replace", "B", "C")), "AAC") is None
    assert strings.reactants(index(("cut", "B", "B")), "ABAB") is None


def test_fingerprint_counts_grams_and_marks_both_ends() -> None:
    f = strings.fingerprint("ABABC")
    assert f.shape == (strings.INPUTS,) == (94,)
    assert f[:3].tolist() == [2, 2, 1]
    assert f[3:12].sum() == 4 and f[3 + 1] == 2, "AB twice"
    assert f[12:39].sum() == 3 and f[39:66].sum() == f[66:93].sum() == 1
    assert f[39 + 3] == 1 and f[66 + 5] == 1, "begins with ABA, ends with ABC"
    assert f[-1] == pytest.approx(0.5)
    assert strings.fingerprint("A")[39:93].sum() == 0
    with pytest.raises(ValueError, match="read-only"):
        f[0] = 1


@pytest.mark.parametrize("name", list(strings.LOADERS))
def test_worlds_are_fixed_and_their_parts_disjoint(name: str) -> None:
    world, again = strings.load(name), strings.load(name)
    assert world == again
    assert len(world.stock) == 12 and sorted(len(s) for s in world.stock) == [1] + [2] * 3 + [3] * 8
    parts = [set(world.validation), set(world.test), set(world.stock)]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(parts, 2))
    sizes = {len(s) for s in (*world.validation, *world.test)}
    assert (min(sizes), max(sizes)) == world.lengths
    task = RetrosynthesisTask(name, None, "cpu", np.random.default_rng(3))
    drawn = task.draw_targets(400)
    assert len(set(drawn)) == 400
    assert all(set(drawn).isdisjoint(part) for part in parts)
    assert drawn != RetrosynthesisTask(name, None, "cpu", np.random.default_rng(4)).draw_targets(400)


def test_single_reactions_have_the_templates_that_apply() -> None:
    task = RetrosynthesisTask(SHORT, None, "cpu", np.random.default_rng(0))
    x, applicable = task.draw_reactions(50)
    assert x.shape == (50, 94) and applicable.shape == (50, 15)
    bigrams, letters = x[:, 3:12] > 0, x[:, :3] > 0
    assert torch.equal(applicable[:, :9] > 0, bigrams), "a cut applies where its bigram is"
    assert torch.equal(applicable[:, 9:] > 0, letters.repeat_interleave(2, 1))


def test_the_reference_prefers_templates_that_apply() -> None:
    made = paper()
    x, applicable = made.data.draw_reactions(300)
    with torch.no_grad():
        p = made.net.policy.reference(x).softmax(-1)
    assert (p * applicable).sum(1).mean() > applicable.mean() + 0.25


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="data=strings: unknown world of strings; known: synthetic_strings, "):
        paper(data="strings")
    made = paper()
    with pytest.raises(
        ValueError, match=r"batch_molecules=5000: must be in 1..\d+, the targets of synthetic_"
    ):
        made.data.draw_targets(5000)
    for name in ("method", "planner"):
        with pytest.raises(ValueError, match=f"{name}=magic: known are "):
            PDVNPaper().setup({**config(), name: "magic"}, Setting(data=SHORT))
    assert "unsolved_penalty" not in config(method="single_value"), (
        "it is for those that have a chance to teach"
    )
    assert "lr" not in config(method="pretrained")


def test_gradients_of_the_supervised_training_do_not_count_in_clipping() -> None:
    assert all(p.grad is None for p in paper().net.parameters())


def test_declarations_fit_together() -> None:
    parameters = Space.load("pdvn").parameters
    assert set(parameters["method"].choices) == set(pdvn.METHODS)
    assert set(parameters["planner"].choices) == set(pdvn.PLANNERS)
    assert set(PDVNPaper.datasets) == set(strings.LOADERS)
