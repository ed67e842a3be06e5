"""H2SPG: the choice of chains keeps the network connected, and what is chosen becomes zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Optimizer

from fairsweep.search_spaces.pruning.h2spg import H2SPG, hierarchical_search
from tests.search_spaces.pruning import digits_cnn
from tests.search_spaces.pruning.dag import EDGES, Dag, is_valid, orphans, partition
from tests.search_spaces.pruning.digits_cnn import batch, train

torch.set_num_threads(1)

CHAINS = [f"{i}{j}k{k}" for i, j in EDGES for k in (3, 1)]


def made(seed: int = 0) -> Dag:
    torch.manual_seed(seed)
    return Dag()


def optimiser(net: Dag, target: float, base: Optimizer | None = None, **options: Any) -> H2SPG:
    base = base or SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    options = {"is_valid": is_valid, "orphans": orphans} | options
    return H2SPG(base, net.named_parameters(), partition(net), target, 4, **options)


# ---- the search ----


def test_two_parallel_branches_lose_at_most_one() -> None:
    names = ["left", "right"]
    found = hierarchical_search(names, [0.2, 0.9], 2, lambda erased: len(erased) < 2)
    assert found == {"right"}


def test_order_of_redundancy_is_respected() -> None:
    scores = {name: 1.0 - 0.01 * k for k, name in enumerate(CHAINS)}
    rejected = []

    def watch(erased: frozenset[str]) -> bool:
        if not is_valid(erased):
            rejected.append(erased)
        return is_valid(erased)

    erased = hierarchical_search(CHAINS, list(scores.values()), 9, watch)
    assert len(erased) == 9
    for kept in set(CHAINS) - erased:
        before = {name for name in erased if scores[name] > scores[kept]}
        if any(scores[name] < scores[kept] for name in erased):
            assert frozenset(before | {kept}) in rejected


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 100_000), count=st.integers(1, 12), closed=st.booleans())
def test_every_choice_is_valid_for_every_count(seed: int, count: int, closed: bool) -> None:
    scores = torch.rand(12, generator=torch.Generator().manual_seed(seed)).tolist()
    erased = hierarchical_search(CHAINS, scores, count, is_valid, orphans if closed else None)
    assert is_valid(erased)
    # Invariant: all that are wanted, or as many as can go. A single path has between 1 and 3 chains.
    assert len(erased) >= min(count, 9)
    if closed:
        assert orphans(erased) <= erased
    if count == 12:
        assert all(not is_valid(erased | {name}) for name in set(CHAINS) - erased)


def test_closure_takes_what_the_input_reaches_no_more() -> None:
    scores = [1.0 if name.startswith("01") else 0.0 for name in CHAINS]
    alone = hierarchical_search(CHAINS, scores, 2, is_valid)
    closed = hierarchical_search(CHAINS, scores, 2, is_valid, orphans)
    assert alone == {"01k3", "01k1"}
    assert closed == alone | {"12k3", "12k1", "13k3", "13k1"}


def test_without_the_hierarchy_the_highest_scores_go() -> None:
    scores = [1.0 if name[1] == "3" else 0.0 for name in CHAINS]
    erased = hierarchical_search(CHAINS, scores, 6, None)
    assert erased == {n for n in CHAINS if n[1] == "3"} and not is_valid(erased)


# ---- the optimiser ----


@pytest.mark.parametrize("target", [0.5, 0.75, 10 / 12, 1.0])
@pytest.mark.parametrize("salience", ["cosine+magnitude", "cosine+rms"])
def test_all_chosen_chains_and_no_others_are_zero_in_the_end(target: float, salience: str) -> None:
    net = made()
    optim = optimiser(net, target, salience=salience)
    assert optim.chosen() == frozenset()
    train(net, optim, range(5))
    chosen = optim.chosen()
    assert len(chosen) >= min(round(12 * target), 9) and is_valid(chosen)
    train(net, optim, range(5, 40))
    assert optim.chosen() == chosen == optim.erased() and optim.reached
    for name, chain in net.chains.items():
        assert all((p == 0).all() for p in chain.parameters()) == (name in chosen)


def test_zero_chains_add_nothing_to_the_output() -> None:
    net = made()
    optim = optimiser(net, 0.75)
    train(net, optim, range(40))
    x = batch(50)[0]
    net.eval()
    full = net(x)
    for name in optim.erased():
        del net.chains[name]
    erased = Dag()
    erased.chains, erased.stem, erased.head = net.chains, net.stem, net.head

    def forward(x: torch.Tensor) -> torch.Tensor:
        nodes = {0: erased.stem(x)}
        for j in range(1, 4):
            parts = [c(nodes[int(n[0])]) for n, c in erased.chains.items() if int(n[1]) == j]
            if parts:
                nodes[j] = torch.stack(parts).sum(0)
        return erased.head(nodes[3].relu().mean((2, 3)))

    assert len(optim.erased()) >= 9
    torch.testing.assert_close(forward(x), full, atol=1e-6, rtol=0)


def test_without_orphan_closure_chains_without_an_input_stay() -> None:
    # All weight on edge 0-1: it goes first, and the chains that leave node 1 stay.
    net = made()
    for name in ("01k3", "01k1"):
        for p in net.chains[name].parameters():
            p.data *= 1e-3
    closed = {}
    for closure in (True, False):
        optim = optimiser(net, 2 / 12, salience="magnitude", orphan_closure=closure)
        optim.start = 0
        train(net, optim, range(1))
        closed[closure] = optim.chosen()
    assert closed[False] == {"01k3", "01k1"}
    assert closed[True] == closed[False] | {"12k3", "12k1", "13k3", "13k1"}


def test_resumed_it_keeps_its_choice() -> None:
    whole = made()
    optim = optimiser(whole, 0.75)
    train(whole, optim, range(20))
    first, second = made(), made(3)
    begun, resumed = optimiser(first, 0.75), optimiser(second, 0.75)
    train(first, begun, range(8))
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(begun.state_dict())
    assert resumed.chosen() == begun.chosen() != frozenset()
    train(second, resumed, range(8, 20))
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_bad_arguments_are_refused_by_name() -> None:
    net = made()
    with pytest.raises(ValueError, match=r"target=0\.0: must be above 0"):
        optimiser(net, 0.0)
    with pytest.raises(ValueError, match="orphans=None: give the closure, or orphan_closure=False"):
        optimiser(net, 0.5, orphans=None)
    other = digits_cnn.made()
    with pytest.raises(ValueError, match="trunk, inner, third, fourth has more than one group"):
        H2SPG(
            SGD(other.parameters(), lr=0.1),
            other.named_parameters(),
            digits_cnn.partition(other),
            0.5,
            1,
            is_valid=is_valid,
            orphans=orphans,
        )
