from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairsweep.analysis.fronts import front_within, hypervolume, pareto


def test_a_front_by_hand() -> None:
    values = [(0.9, 10), (0.8, 5), (0.7, 5), (0.9, 12), (0.6, 1), (0.9, 10)]
    assert pareto(values, ("max", "min")) == [True, True, False, False, True, True]
    assert pareto(values, ("min", "min")) == [False, False, False, False, True, False]


def test_what_is_not_known_is_not_on_the_front_and_puts_nothing_off_it() -> None:
    assert pareto([(math.nan, 0.0), (0.5, 3.0)], ("max", "min")) == [False, True]
    assert pareto([], ("max",)) == []


def test_what_breaks_a_limit_hides_nothing_that_keeps_it() -> None:
    rows = [
        {"score": 0.95, "flops": 100, "params": 5000},
        {"score": 0.90, "flops": 200, "params": 800},
        {"score": 0.80, "flops": 150, "params": 700},
        {"score": 0.70, "flops": 400, "params": 10},
    ]
    assert front_within(rows, "flops", {"params": 1000}) == [False, True, True, False]
    assert front_within(rows, "flops", {}) == [True, False, False, False]
    assert front_within(rows, "params", {"flops": 160}) == [True, False, True, False]


def test_a_cost_of_nothing_is_known_and_one_that_is_not_known_keeps_no_limit() -> None:
    rows = [{"score": 0.5, "flops": 0, "params": 3}, {"score": 0.9, "flops": None, "params": 2}]
    assert front_within(rows, "flops", {}) == [True, False]
    assert front_within(rows, "params", {"flops": 10}) == [True, False]
    assert front_within(rows, "params", {}) == [False, True]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_a_candidate_is_off_the_front_exactly_if_another_dominates_it(values: list[tuple[int, int]]) -> None:
    def dominates(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    expected = [not any(dominates(other, own) for other in values) for own in values]
    assert pareto(values, ("max", "min")) == expected
    assert any(expected)


def test_an_area_by_hand() -> None:
    values = [(0.9, 10.0), (0.8, 5.0), (0.5, 6.0), (0.95, 20.0), (0.3, 1.0), (math.nan, 1.0)]
    # Above accuracy 0.4 and below cost 15: 0.4 x 10 of the second, 0.1 x 5 more of the first.
    assert hypervolume(values, ("max", "min"), (0.4, 15.0)) == pytest.approx(0.4 * 10 + 0.1 * 5)
    assert hypervolume([], ("max", "min"), (0.4, 15.0)) == 0.0


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8), st.booleans())
def test_an_area_is_the_number_of_dominated_squares(values: list[tuple[int, int]], up: bool) -> None:
    squares = [(i, j) for i in range(6) for j in range(6)]  # from i to i + 1 and from j to j + 1
    better = (lambda a, i: a > i) if up else (lambda a, i: a <= i)
    wanted = sum(any(better(a, i) and b <= j for a, b in values) for i, j in squares)
    assert hypervolume(values, ("max" if up else "min", "min"), (0.0 if up else 6.0, 6.0)) == wanted


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), max_size=6), st.integers(1, 4))
def test_a_volume_is_the_number_of_dominated_cubes(values: list[tuple[int, ...]], sides: int) -> None:
    cubes = itertools.product(range(3), repeat=sides)  # from i to i + 1 on each side
    kept = [v[:sides] for v in values]
    wanted = sum(any(all(a <= i for a, i in zip(v, cube, strict=True)) for v in kept) for cube in cubes)
    assert hypervolume(kept, ["min"] * sides, [3.0] * sides) == wanted


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="modes"):
        pareto([(1.0,)], ("best",))
    with pytest.raises(ValueError, match="dimensions"):
        pareto(np.zeros(3), ("min",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must have 3 values"):
        hypervolume([(1.0, 2.0, 3.0)], ("min", "min", "max"), (1.0, 1.0))
