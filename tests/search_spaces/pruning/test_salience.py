"""Scores of groups and the choice among them, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsweep.search_spaces.pruning.salience import (
    Moments,
    most,
    redundancy,
    select_redundant,
    select_smallest,
)


def moments(x: list[list[float]], v: list[list[float]]) -> Moments:
    return Moments.of(torch.tensor(x), torch.tensor(v))


def test_moments_are_those_of_each_row() -> None:
    found = moments([[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, -1.0]])
    assert found.norm.tolist() == [5, 2] and found.speed.tolist() == [1, 1]
    assert found.inner.tolist() == [3, -2] and found.numbers.tolist() == [2, 2]
    torch.testing.assert_close(found.cosine, torch.tensor([0.6, -1.0]))


def test_score_is_the_mean_of_two_parts_normalised_over_all_groups() -> None:
    wide = moments([[1.0, 1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0, 1.0]])  # norm 2, average .5, cosine 1
    narrow = moments([[1.0], [2.0]], [[-1.0], [1.0]])  # averages 1 and 2, cosines -1 and 1
    scores = redundancy(Moments.join([wide, narrow]))
    cosine = torch.tensor([1.0, -1.0, 1.0]) / math.sqrt(3)
    inverse = torch.tensor([2.0, 1.0, 0.5]) / math.sqrt(4 + 1 + 0.25)
    torch.testing.assert_close(scores, (cosine + inverse) / 2, atol=1e-5, rtol=0)


def test_rms_does_not_favour_large_groups() -> None:
    both = Moments.join([moments([[1.0] * 9], [[0.0] * 9]), moments([[1.0]], [[0.0]])])
    assert both.norm.tolist() == [3, 1]
    magnitude, rms = redundancy(both, "magnitude"), redundancy(both, "rms")
    torch.testing.assert_close(magnitude, torch.tensor([3.0, 1.0]) / math.sqrt(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(rms, torch.tensor([1.0, 1.0]) / math.sqrt(2), atol=1e-5, rtol=0)


def test_a_group_that_is_zero_goes_first_and_leaves_the_others_their_scores() -> None:
    alone = moments([[1.0], [2.0]], [[1.0], [1.0]])
    with_zero = Moments.join([moments([[0.0]], [[1.0]]), alone])
    for salience in ("cosine+magnitude", "cosine+rms", "cosine", "magnitude"):
        scores = redundancy(with_zero, salience)
        assert scores[0] == math.inf
        torch.testing.assert_close(scores[1:], redundancy(alone, salience))


def test_random_scores_come_from_the_global_generator() -> None:
    m = moments([[1.0], [2.0], [3.0]], [[1.0]] * 3)
    torch.manual_seed(3)
    first = redundancy(m, "random")
    torch.manual_seed(3)
    assert torch.equal(redundancy(m, "random"), first)
    assert not torch.equal(redundancy(m, "random"), first)


def test_unknown_salience_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"salience=size: known are cosine\+magnitude, "):
        redundancy(moments([[1.0]], [[1.0]]), "size")


def test_most_does_not_lose_one_to_rounding() -> None:
    assert most(100, 0.29) == 29 and int(100 * 0.29) == 28
    assert most(96, 0.5 + 0.05) == 52


def test_the_highest_scores_of_all_components_are_chosen() -> None:
    scores = torch.tensor([0.9, 0.1, 0.2, 0.8, 0.7, 0.6])
    mask = select_redundant(scores, [2, 4], target=0.5, tolerance=0.0)
    assert mask.tolist() == [True, False, False, True, True, False]


def test_no_component_is_emptied_and_nothing_goes_in_its_place() -> None:
    scores = torch.tensor([0.9, 0.8, 0.1, 0.2, 0.3, 0.4])
    mask = select_redundant(scores, [2, 4], target=0.5, tolerance=0.0)
    assert mask.tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize(
    ("divisible", "kept"),
    [
        (1, [3, 5]),
        (2, [4, 6]),  # the nearest multiples, halves upwards
        (4, [4, 4]),
        (3, [3, 6]),
        (8, [8, 8]),
    ],
)
def test_kept_groups_come_in_the_nearest_multiples(divisible: int, kept: list[int]) -> None:
    scores = torch.tensor([1.0, 0.95, 0.9, 0.85, 0.8, 0.3, 0.2, 0.1, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    mask = select_redundant(scores, [8, 8], 0.5, 0.0, divisible)
    assert [8 - int(part.sum()) for part in mask.split(8)] == kept
    assert mask.tolist()[:8] == [True] * (8 - kept[0]) + [False] * kept[0]


def test_rounding_down_never_makes_more_than_the_limit() -> None:
    scores = torch.tensor([0.9, 0.5, 0.4, 0.3, 0.2, 0.8, 0.7, 0.3, 0.2, 0.1])
    # 4 of 5 and 3 of 5 stay; both nearest to 3, which makes 4 penalised where 3 are allowed.
    mask = select_redundant(scores, [5, 5], 0.3, 0.0, 3)
    assert mask.tolist() == [False] * 5 + [True, True, False, False, False]


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    target=st.floats(0.05, 0.95),
    tolerance=st.floats(0, 0.1),
    divisible=st.sampled_from([1, 2, 3, 8]),
    seed=st.integers(0, 10_000),
)
def test_never_more_than_the_limit_never_an_empty_component(
    sizes: list[int], target: float, tolerance: float, divisible: int, seed: int
) -> None:
    scores = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(seed))
    mask = select_redundant(scores, sizes, target, tolerance, divisible)
    assert int(mask.sum()) <= most(sum(sizes), min(target + tolerance, 0.999))
    for part, score, size in zip(mask.split(sizes), scores.split(sizes), sizes, strict=True):
        kept = size - int(part.sum())
        assert kept >= 1
        assert kept == size or kept % divisible == 0
        if size <= divisible:
            assert kept == size
        if part.any() and kept:
            assert score[part].min() >= score[~part].max()


def test_smallest_has_the_exact_number_and_fills_up() -> None:
    scores = torch.tensor([0.9, 0.8, 0.1, 0.2, 0.3, 0.4])
    mask = select_smallest(scores, [2, 4], 0.5)
    assert mask.tolist() == [True, False, False, False, True, True]
    assert int(select_smallest(scores, [2, 4], 0.34).sum()) == 3
    assert int(select_smallest(scores, [2, 4], 0.99).sum()) == 4
