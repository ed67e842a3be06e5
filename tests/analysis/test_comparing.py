"""Statistics of comparisons: each against an independent way to the same number, on 200 random inputs.

Packages that are no dependencies are asked in `test_comparing_peers.py`, published examples in
`test_comparing_published.py`.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fairsweep.analysis.comparing import anytime, best_of_k, deciding, improvement, intervals, ranks
from fairsweep.analysis.comparing.bayes import signed_rank
from fairsweep.analysis.comparing.blocks import blocks_of, limits_in_words
from fairsweep.analysis.comparing.paired_tests import holm, permutation, turned, wilcoxon

NAN = math.nan
INPUTS = range(200)


def accuracies(seed: int, *shape: int) -> np.ndarray:
    """Shares of two digits, so that there are ties and rounding errors."""
    return np.random.default_rng(seed).integers(50, 70, shape) / 100


# Best of k.


@pytest.mark.parametrize("mode", ["min", "max"])
def test_best_of_k_is_the_mean_over_all_subsets(mode: str) -> None:
    best = min if mode == "min" else max
    for seed in INPUTS:
        n = 1 + seed % 7
        x = accuracies(seed, n)
        found = best_of_k.best_of_k(x, mode)
        with_repeats = best_of_k.best_of_k(x, mode, "v", most=min(n, 3))
        for k in range(1, n + 1):
            tops = [best(c) for c in itertools.combinations(x, k)]
            assert found.mean[k - 1] == pytest.approx(np.mean(tops), abs=1e-12)
            assert found.sd[k - 1] == pytest.approx(np.std(tops), abs=1e-7)
        for k in range(1, min(n, 3) + 1):
            tops = [best(c) for c in itertools.product(x, repeat=k)]
            assert with_repeats.mean[k - 1] == pytest.approx(np.mean(tops), abs=1e-12)
            assert with_repeats.sd[k - 1] == pytest.approx(np.std(tops), abs=1e-7)


def test_best_of_k_is_unbiased_and_dodge_s_is_not() -> None:
    """The best of 8 of uniform numbers is 8/9 on average, seen from samples of ten."""
    x = np.random.default_rng(0).random((400, 10))
    u, v = (np.array([best_of_k.best_of_k(row, "max", how).mean[7] for row in x]) for how in "uv")
    error = u.std() / math.sqrt(len(u))
    assert abs(u.mean() - 8 / 9) < 4 * error
    assert v.mean() - 8 / 9 < -4 * error


def test_best_of_k_of_many_trials_and_of_failed_ones() -> None:
    many = best_of_k.best_of_k(np.arange(3000.0) + 1e9, most=40)
    assert many.mean[39] == pytest.approx(1e9 + 40 / 41 * 3001 - 1, rel=1e-12)
    failed = best_of_k.best_of_k([0.9, NAN, 0.5, math.inf])
    assert failed.failed == 2 and failed.mean[0] == pytest.approx((0.9 + 3 * 0.5) / 4)
    assert "2 of 4 trials failed" in failed.notes[0]
    one = best_of_k.best_of_k([0.3])
    assert (one.mean, one.sd) == ((0.3,), (0.0,)) and "n=1" in one.notes[0]
    assert best_of_k.best_of_k([0.7, 0.7]).mean == (0.7, 0.7)
    for bad, words in (
        ({"values": [NAN]}, "at least one finite"),
        ({"values": [1.0], "most": 2}, "most=2"),
        ({"values": [1.0], "estimator": "w"}, "estimator='w'"),
        ({"values": [1.0], "mode": "up"}, "mode='up'"),
    ):
        with pytest.raises(ValueError, match=words):
            best_of_k.best_of_k(**bad)  # type: ignore[arg-type]


# Intervals.


def correlation(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    u, v = (z - z.mean(axis, keepdims=True) for z in (x, y))
    return (u * v).sum(axis) / np.sqrt((u**2).sum(axis) * (v**2).sum(axis))


def by_hand(x: np.ndarray, statistic: object, method: str, drawn: np.ndarray) -> tuple[float, float]:
    """Percentile and BCa ends from resampled statistics, from the formulas of Efron and Tibshirani."""
    q = np.array([0.025, 0.975])
    if method == "bca":
        value = statistic(x)  # type: ignore[operator]
        z0 = stats.norm.ppf(((drawn < value).mean() + (drawn <= value).mean()) / 2)
        without = np.array([statistic(np.delete(x, i)) for i in range(len(x))])  # type: ignore[operator]
        off = without.mean() - without
        a = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
        z = z0 + stats.norm.ppf(q)
        q = stats.norm.cdf(z0 + z / (1 - a * z))
    low, high = np.quantile(drawn, q)
    return float(low), float(high)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_agree_with_the_formulas(method: str) -> None:
    for seed in INPUTS:
        x = np.random.default_rng(seed).lognormal(size=12)
        statistic = (intervals.mean, intervals.interquartile_mean)[seed % 2]
        found = intervals.interval(x, statistic, method, draws=299, seed=seed)
        rng = np.random.default_rng(seed)  # the draws that SciPy makes of it
        drawn = statistic(x[rng.integers(0, 12, (299, 12))])
        assert (found.low, found.high) == pytest.approx(by_hand(x, statistic, method, drawn), rel=1e-9)


def test_intervals_of_differences_turn_with_the_sides() -> None:
    for seed in range(40):
        a, b = accuracies(seed, 2, 10)
        there, back = intervals.difference(a, b, draws=499), intervals.difference(b, a, draws=499)
        assert there.value == pytest.approx(-back.value) and there.low == pytest.approx(-back.high, abs=0.012)  # type: ignore[operator]
        free = intervals.difference(a, b, paired=False, draws=499)
        assert free.value == pytest.approx(a.mean() - b.mean()) and free.low < free.high  # type: ignore[operator]


def test_intervals_of_degenerate_samples_are_defined() -> None:
    one = intervals.interval([0.5])
    assert (one.value, one.low, one.high) == (0.5, None, None) and one.notes == (
        "n=1: an interval needs two values",
    )
    same = intervals.interval([0.1 + 0.2, 0.3, 0.3])
    assert same.low == same.value == same.high and "do not differ" in same.notes[-1]
    two = intervals.interval([0.4, 0.6])
    assert two.low == 0.4 and two.high == 0.6 and "too short" in two.notes[0]
    failed = intervals.interval([0.4, NAN, 0.6])
    assert failed.left_out == ("value 1: failed",) and failed.n == 2
    pairs = intervals.difference([0.5, NAN, 0.7, 0.8], [0.4, 0.5, 0.6, 0.7])
    assert pairs.low == pairs.high == pytest.approx(0.1) and pairs.left_out == ("value 1: failed",)
    flat = intervals.of_pairs([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], correlation)
    assert flat.low is None and flat.notes == ("the statistic is not defined for these values",)
    tilted = intervals.of_pairs(
        [1.0, 2.0, 3.0, 4.0, NAN], [1.0, 2.0, 4.0, 3.0, 5.0], correlation, "percentile", draws=99
    )
    assert tilted.value == pytest.approx(0.8) and tilted.n == 4 and tilted.left_out == ("value 4: failed",)
    median = intervals.interval([1.0, 2, 2, 2, 2, 2], lambda x, axis=-1: np.median(x, axis=axis))
    assert median.method == "percentile" and "BCa is not defined" in median.notes[-1] and median.high == 2.0
    for call, words in (
        (lambda: intervals.interval([]), "none were given"),
        (lambda: intervals.interval([NAN]), "value 0: failed"),
        (lambda: intervals.interval([1.0], method="t"), "method='t'"),
        (lambda: intervals.interval([1.0], level=95), "level=95"),
        (lambda: intervals.difference([1.0], [1.0, 2.0]), "equal length"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_bootstrap_interval_of_five_covers_too_seldom_as_it_says() -> None:
    x = np.random.default_rng(0).normal(size=(400, 5))
    found = [intervals.interval(row, draws=499) for row in x]
    inside = np.mean([f.low <= 0 <= f.high for f in found])  # type: ignore[operator]
    assert 0.78 < inside < 0.90 and "too short" in found[0].notes[0]


# Paired tests.


def brute_force(gap: np.ndarray, size: np.ndarray) -> float:
    """Two-sided p of sum(sign * size) over all turns of the signs of `gap`."""
    moved = gap != 0
    turns = np.array(list(itertools.product([-1.0, 1.0], repeat=int(moved.sum()))))
    seen = abs(float((np.sign(gap) * size)[moved].sum()))
    return float((np.abs(turns @ size[moved]) >= seen - 1e-9).mean())


def test_wilcoxon_and_permutation_agree_with_enumeration_and_scipy() -> None:
    for seed in INPUTS:
        n = 1 + seed % 9
        a, b = accuracies(seed, 2, n)
        gap = np.round(100 * a) - np.round(100 * b)
        kept = gap[gap != 0]
        assert wilcoxon(a, b).p == pytest.approx(brute_force(kept, stats.rankdata(np.abs(kept))), abs=1e-12)
        split = wilcoxon(a, b, "split")
        assert split.p == pytest.approx(brute_force(gap, stats.rankdata(np.abs(gap))), abs=1e-12)
        assert permutation(a, b).p == pytest.approx(brute_force(gap, np.abs(gap)), abs=1e-12)
        x, y = np.random.default_rng(seed).normal(size=(2, n + 10))
        found = wilcoxon(x, y)
        theirs = stats.wilcoxon(x, y, method="exact")
        assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
        assert min(found.statistic, len(x) * (len(x) + 1) / 2 - found.statistic) == theirs.statistic


def test_permutation_of_many_pairs_is_never_zero_and_near_scipy_s() -> None:
    for seed in range(10):
        x, y = np.random.default_rng(seed).normal(0.2 * seed / 10, 1, (2, 30))
        found = permutation(x + 0.3, y, draws=4999)
        theirs = stats.permutation_test(
            (x + 0.3 - y,), np.mean, permutation_type="samples", n_resamples=4999, vectorized=False, rng=seed
        ).pvalue if seed < 2 else stats.ttest_rel(x + 0.3, y).pvalue  # fmt: skip
        assert not found.exact and found.p == pytest.approx(theirs, abs=0.03)
    sure = permutation(np.arange(40.0) + 5, np.arange(40.0), draws=999)
    assert sure.p == 1 / 1000


def test_the_normal_tail_of_wilcoxon_beyond_the_exact() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 260))
    found = wilcoxon(x + 0.1, y)
    assert not found.exact
    assert found.p == pytest.approx(stats.wilcoxon(x + 0.1, y, method="asymptotic").pvalue, rel=1e-9)
    exact = wilcoxon(x[:200] + 0.1, y[:200])
    assert exact.exact
    assert exact.p == pytest.approx(stats.wilcoxon(x[:200] + 0.1, y[:200], method="exact").pvalue, rel=1e-9)


def test_holm_agrees_with_its_definition() -> None:
    for seed in INPUTS:
        p = np.random.default_rng(seed).integers(0, 20, 1 + seed % 8) / 40
        found, m = holm(p), len(p)
        order = sorted(range(m), key=lambda i: p[i])
        for at, i in enumerate(order):
            assert found[i] == pytest.approx(min(1.0, max(p[order[j]] * (m - j) for j in range(at + 1))))
    assert holm([]).shape == (0,)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        holm([0.5, NAN])


def test_few_pairs_say_what_they_cannot() -> None:
    five = wilcoxon([1.0, 2, 3, 4, 5], [0.0] * 5)
    assert five.p == 0.0625
    assert five.notes == ("n=5: no two-sided Wilcoxon can be below .0625; to be significant takes n=6",)
    assert wilcoxon(np.arange(6) + 1.0, np.zeros(6)).notes == ()
    assert limits_in_words(6, 3, 3) == (
        "cannot be significant with 6 blocks and 3 methods after Holm: the smallest p is 3 x .03125 = .09375; "
        "that needs 7 blocks",
    )
    for test in (wilcoxon, permutation):
        assert test([0.5], [0.4]).p == 1.0 and test([0.5, 0.6], [0.4, 0.5]).p == 0.5
        same = test([0.1 + 0.2, 0.7], [0.3, 0.7])
        assert (same.p, same.zeros) == (1.0, 2) and "2 of 2 pairs are equal" in same.notes[0]
        failed = test(
            [0.5, NAN, 0.7], [0.4, 0.5, math.inf], blocks=["cora, seed 0", "cora, seed 1", "cora, seed 2"]
        )
        assert failed.left_out == ("block cora, seed 1: no value of a", "block cora, seed 2: no value of b")
        assert failed.n == 1 and "2 of 3 blocks left out because a trial failed" in failed.notes[0]
        with pytest.raises(ValueError, match="no block has a value of every method"):
            test([NAN], [1.0])
        with pytest.raises(ValueError, match="2 values against 1"):
            test([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="zeros='pratt'"):
        wilcoxon([1.0], [2.0], "pratt")


# Ranks.


def test_friedman_and_nemenyi_agree_with_scipy() -> None:
    for seed in INPUTS:
        n, k = 3 + seed % 9, 3 + seed % 4
        x = accuracies(seed, n, k)
        found = ranks.friedman(x)
        theirs = stats.friedmanchisquare(*x.T)
        assert (found.chi2, found.p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)
        mean = np.mean([stats.rankdata(-row) for row in x], axis=0)
        assert found.ranks == pytest.approx(mean)
        assert found.chi2_plain == pytest.approx(
            12 * n / (k * (k + 1)) * ((mean**2).sum() - k * (k + 1) ** 2 / 4)
        )
        assert found.iman_davenport == pytest.approx((n - 1) * found.chi2 / (n * (k - 1) - found.chi2))
        assert ranks.friedman(-x, "min").chi2 == found.chi2
    # Table 5a of Demšar 2006, rounded there to three digits.
    q = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for k, value in enumerate(q, 2):
        assert ranks.critical_difference(6, k) == pytest.approx(value * math.sqrt(k * (k + 1) / 36), rel=5e-4)


def test_cliques_agree_with_all_subsets() -> None:
    for seed in INPUTS:
        k = 2 + seed % 6
        half = np.triu(np.random.default_rng(seed).random((k, k)) < 0.6, 1)
        alike = half | half.T
        whole = [
            set(group)
            for size in range(2, k + 1)
            for group in itertools.combinations(range(k), size)
            if all(alike[i, j] for i, j in itertools.combinations(group, 2))
        ]
        expected = sorted(tuple(sorted(g)) for g in whole if not any(g < other for other in whole))
        assert ranks.cliques(alike) == expected


def test_wilcoxon_holm_diagram() -> None:
    for seed in INPUTS:
        x = np.random.default_rng(seed).normal(size=(7, 3)) + np.array([0, 1.0, 2.0])
        found = ranks.wilcoxon_holm(x, methods="abc")
        index = list(itertools.combinations(range(3), 2))
        p = [stats.wilcoxon(x[:, i], x[:, j]).pvalue for i, j in index]
        assert [pair.p for pair in found.pairs] == pytest.approx(p)
        assert [pair.p_holm for pair in found.pairs] == pytest.approx(holm(p).tolist())
        apart = {frozenset((pair.a, pair.b)) for pair in found.pairs if pair.p_holm <= 0.05}
        for group in found.cliques:
            assert not any(frozenset(two) in apart for two in itertools.combinations(group, 2))
        assert list(found.ranks) == sorted(found.ranks)


def test_ranks_of_odd_inputs_are_defined() -> None:
    constant = ranks.friedman(np.full((4, 3), 0.5))
    assert (constant.chi2, constant.p, constant.p_iman_davenport) == (0.0, 1.0, 1.0)
    assert "all methods are equal in all blocks" in constant.notes
    noise = ranks.friedman([[0.1 + 0.2, 0.3], [0.1 * 7, 0.7]])
    assert noise.ranks == (1.5, 1.5) and noise.p == 1.0, "equal up to rounding is equal"
    alike = ranks.friedman([[3.0, 2, 1]] * 4)
    assert alike.iman_davenport == math.inf and alike.p_iman_davenport == 0.0 and alike.chi2 == 8.0
    two = ranks.friedman([[2.0, 1], [3, 1], [1, 2]])
    assert two.chi2 == pytest.approx(1 / 3) and two.ranks == pytest.approx((4 / 3, 5 / 3))
    one = ranks.friedman([[3.0, 2, 1]])
    assert (one.p, one.p_iman_davenport) == (
        1.0,
        1.0,
    ) and "n=1: one block cannot tell methods apart" in one.notes
    for diagram in (ranks.nemenyi, ranks.wilcoxon_holm):
        few = diagram([[3.0, 2, 1], [3, 2, 1]], methods=["a", "b", "c"])
        assert few.cliques == (("a", "b", "c"),)
        assert any("cannot be significant" in note or "no two-sided" in note for note in few.notes)
        same = diagram(np.full((30, 2), 0.5))
        assert same.cliques == (("0", "1"),) and same.pairs[0].p == 1.0
        failed = diagram(
            [[3.0, 2, 1], [NAN, 2, 1], [3, 1, 2]], methods=["a", "b", "c"], blocks=["x", "y", "z"]
        )
        assert failed.left_out == ("block y: no value of a",) and failed.n == 2
        assert "a method that fails where it is hard gains by that" in failed.notes[0]
    for call, words in (
        (lambda: ranks.friedman([1.0, 2.0]), r"\(blocks, methods\)"),
        (lambda: blocks_of([[1.0, 2.0]], ["a", "a"]), "different names"),
        (lambda: ranks.friedman([[1.0, 2.0]], "up"), "mode='up'"),
        (lambda: ranks.critical_difference(0, 2), "n=0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# Bayes.


def test_signed_rank_agrees_with_slow_loops() -> None:
    for seed in INPUTS:
        n = 1 + seed % 6
        a, b = accuracies(seed, 2, n)
        rope = (seed % 3) / 100
        found = signed_rank(a, b, rope, draws=50, seed=seed)
        z = [0.0, *(round(100 * u) - round(100 * v) for u, v in zip(a, b, strict=True))]
        wins = np.zeros(3)
        for w in np.random.default_rng(seed).dirichlet([0.5, *[1.0] * n], 50):
            share = np.zeros(3)
            for i, j in itertools.product(range(n + 1), repeat=2):
                total, edge = z[i] + z[j], 200 * rope
                for side, value in ((0, total - edge), (2, -total - edge)):
                    share[side] += w[i] * w[j] * (0.5 if abs(value) < 1e-9 else value > 0)
            share[1] = 1 - share[0] - share[2] if rope else 0.0
            top = share > share.max() - 1e-9
            wins += top / top.sum()
        assert (found.a_better, found.equivalent, found.b_better) == pytest.approx(tuple(wins / 50), abs=1e-9)


def test_signed_rank_of_odd_inputs_is_defined() -> None:
    same = signed_rank([0.5, 0.6], [0.5, 0.6], draws=99)
    assert (same.a_better, same.equivalent, same.b_better) == (0.5, 0.0, 0.5)
    assert signed_rank([0.5, 0.6], [0.5, 0.6], 0.01, draws=99).equivalent == 1.0
    a, b = np.linspace(0.5, 0.7, 20) + 0.05, np.linspace(0.5, 0.7, 20)
    up, down = signed_rank(a, b, 0.01, draws=500), signed_rank(a, b, 0.01, "min", draws=500)
    assert up.a_better == 1.0 and down.b_better == 1.0
    few = signed_rank([0.9], [0.1], draws=99)
    assert "n=1: the prior weighs 0.33" in few.notes[0]
    failed = signed_rank([0.9, NAN], [0.1, 0.2], draws=9)
    assert failed.left_out == ("block 1: no value of a",) and failed.n == 1
    for values, words in (
        ({"rope": -1.0}, "rope=-1"),
        ({"prior": 0.0}, "prior=0"),
        ({"draws": 0}, "draws=0"),
    ):
        with pytest.raises(ValueError, match=words):
            signed_rank([1.0], [2.0], **values)  # type: ignore[arg-type]


# Improvement.


def test_probability_of_improvement_and_interquartile_mean() -> None:
    for seed in INPUTS:
        a, b = accuracies(seed, 2 + seed % 4, 3), accuracies(seed + 1000, 5, 3)
        found = improvement.probability_of_improvement(a, b, draws=50)
        n = len(a)
        over = stats.rankdata(np.round(100 * np.vstack([a, b])), axis=0)[:n].sum(0)
        u = over - n * (n + 1) / 2  # Mann and Whitney's, by rank sums
        assert found.value == pytest.approx(np.mean(u) / (n * 5))
        back = improvement.probability_of_improvement(a, b, "min", draws=50)
        assert back.value == pytest.approx(1 - found.value)
        mine = improvement.aggregate(b, draws=50)
        middle = sorted(b.ravel())[3:12]
        assert mine.value == pytest.approx(np.mean(middle)) and mine.low <= mine.value + 0.05  # type: ignore[operator]


def test_stratified_intervals_agree_with_a_loop() -> None:
    a, b = accuracies(1, 6, 3), accuracies(2, 5, 3) + 0.02
    rng, drawn, means = np.random.default_rng(7), [], []
    for _ in range(700):
        x, y = (np.column_stack([c[rng.integers(len(c), size=len(c))] for c in s.T]) for s in (a, b))
        drawn.append(
            np.mean([[(u > v) + 0.5 * (u == v) for u in x[:, j] for v in y[:, j]] for j in range(3)])
        )
        means.append(stats.trim_mean(x.ravel(), 0.25))
    for found, expected in (
        (improvement.probability_of_improvement(a, b, draws=4000), drawn),
        (improvement.aggregate(a, draws=4000), means),
    ):
        ends = np.quantile(expected, [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx(tuple(ends), abs=0.15 * float(np.ptp(ends)))


def test_improvement_of_odd_inputs_is_defined() -> None:
    same = improvement.probability_of_improvement(np.full((4, 2), 0.5), np.full((3, 2), 0.5))
    assert (same.value, same.low, same.high) == (0.5, 0.5, 0.5)
    one = improvement.probability_of_improvement([[0.5, 0.6]], [[0.4, 0.7]])
    assert (one.value, one.low) == (0.5, None) and one.notes[0].startswith("n=1")
    failed = improvement.probability_of_improvement([[0.5, 0.6], [NAN, 0.8]], [[0.4, 0.7], [0.3, 0.7]])
    assert failed.left_out == ("a, run 1 of data set 0: failed",) and failed.value == 0.75
    assert improvement.aggregate([[0.5, 0.6], [NAN, 0.8]]).value == pytest.approx(np.mean([0.5, 0.6, 0.8]))
    with pytest.raises(ValueError, match="data set 1 has no run"):
        improvement.aggregate([[0.5, NAN]])
    with pytest.raises(ValueError, match="2 data sets against 1"):
        improvement.probability_of_improvement([[0.5, 0.6]], [[0.5]])


# Anytime, rank stability.


def test_anytime_area_agrees_with_a_sum_over_a_fine_grid() -> None:
    for seed in INPUTS:
        rng = np.random.default_rng(seed)
        t, x = rng.integers(0, 50, 8), np.where(rng.random(8) < 0.2, NAN, rng.random(8))
        sign = 1 if seed % 2 else -1
        ends = (0.9, 0.1) if sign == 1 else (0.1, 0.9)
        found = anytime.anytime(t, x, 40, *ends, mode="max" if sign == 1 else "min")
        total = 0.0
        for moment in range(40):
            seen = [sign * v for s, v in zip(t, x, strict=True) if s <= moment and math.isfinite(v)]
            total += min(1.0, max(0.0, (sign * ends[0] - max(seen)) / 0.8)) if seen else 1.0
        assert found.area == pytest.approx(total / 40)
        assert list(found.regret) == sorted(found.regret, reverse=True) and found.times[0] == 0
        assert len(set(found.times)) == len(found.times)


def test_anytime_of_odd_inputs_is_defined() -> None:
    none = anytime.anytime([1.0], [NAN], 10, 1.0, 0.0)
    assert (none.area, none.final, none.failed) == (
        1.0,
        1.0,
        1,
    ) and "no value before the horizon" in none.notes
    assert anytime.anytime([], [], 10, 1.0, 0.0).area == 1.0
    flat = anytime.anytime([1.0], [0.5], 10, 0.5, 0.5)
    assert flat.area == 0.0 and "best equals worst" in flat.notes[0]
    late = anytime.anytime([5.0, 20.0], [0.5, 1.0], 10, 1.0, 0.0)
    assert (late.area, late.final, late.times) == (0.75, 0.5, (0.0, 5.0))
    for values, words in (((-1.0, 0.5, 10, 1, 0), "from 0 on"), ((1.0, 0.5, 0, 1, 0), "horizon=0"),
                          ((1.0, 0.5, 10, 0, 1), "best=0")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            anytime.anytime([values[0]], [values[1]], *values[2:])


def test_rank_stability_agrees_with_all_resamples() -> None:
    """Two methods and three shared seeds: the 27 resamples are counted."""
    for seed in INPUTS:
        x = accuracies(seed, 2, 1, 3)
        shares = []
        for chosen in itertools.product(range(3), repeat=3):
            a, b = (round(100 * float(x[m, 0, list(chosen)].sum())) for m in range(2))
            shares.append(1.0 if a > b else 0.5 if a == b else 0.0)
        found = anytime.rank_stability(x, draws=500, seed=seed)
        assert found.first[0] == pytest.approx(np.mean(shares), abs=0.1) and sum(
            found.first
        ) == pytest.approx(1)


def test_rank_stability_of_odd_inputs_is_defined() -> None:
    same = anytime.rank_stability(np.full((3, 2, 4), 0.5), draws=10)
    assert same.first == pytest.approx((1 / 3,) * 3) and same.place == (2.0, 2.0, 2.0)
    one = anytime.rank_stability([[[0.5]], [[0.4]]], methods=["a", "b"], draws=10)
    assert one.first == (1.0, 0.0) and one.notes[0].startswith("n=1")
    x = [[[0.5, 0.9, 0.8]], [[0.4, NAN, 0.85]]]
    paired = anytime.rank_stability(x, methods=["a", "b"], draws=200)
    assert paired.left_out == ("b on data set 0, seed 1: failed",) and paired.n == 2
    assert anytime.rank_stability(x, "min", draws=200).place == (2.0, 1.0)
    free = anytime.rank_stability(x, methods=["a", "b"], paired=False, draws=3000)
    means = [
        [np.mean(c) for c in itertools.product(v, repeat=len(v))] for v in ([0.5, 0.9, 0.8], [0.4, 0.85])
    ]
    share = np.mean([a > b for a in means[0] for b in means[1]])
    assert free.first[0] == pytest.approx(share, abs=0.03) and free.left_out == paired.left_out
    with pytest.raises(ValueError, match="no seed left"):
        anytime.rank_stability([[[NAN]], [[1.0]]])
    with pytest.raises(ValueError, match=r"\(methods, data sets, seeds\)"):
        anytime.rank_stability([[1.0]])


# The rule.


def planted(
    seed: int, gap: float, k: int = 3, sets: int = 5, repeats: int = 10, noise: float = 2.0
) -> np.ndarray:
    """Accuracies in per cent, (methods, data sets, repeats): equal methods, but the first is better by `gap`."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(50, 90, (1, sets, 1)) + rng.normal(
        0, 1, (1, sets, repeats)
    )  # a seed is lucky for all
    return level + rng.normal(0, noise, (k, sets, repeats)) + gap * (np.arange(k) == 0)[:, None, None]


def test_a_planted_winner_is_found_and_named() -> None:
    x = planted(0, 4.0)
    found = deciding.decide(x, methods=["a", "b", "c"], data_sets=list("vwxyz"), draws=1999)
    assert found.winner == "a" and found.n == 50 and " in 50 repeats on 5 data sets" in found.sentence
    (gap,) = (g for g in found.gaps if (g.a, g.b) == ("a", "b"))
    assert (
        gap.difference == pytest.approx((x[0] - x[1]).mean()) and gap.ci95[0] < gap.difference < gap.ci95[1]
    )  # type: ignore[index]
    turned_round = deciding.decide(-x, "min", methods=["a", "b", "c"], draws=1999)
    assert turned_round.winner == "a"
    last = deciding.decide(x[::-1], methods=["c", "b", "a"], draws=1999)
    assert last.winner == "a" and last.sentence[:30] == found.sentence[:30]
    assert deciding.decide(planted(1, 0.0), draws=1999).winner is None


def test_no_data_set_decides_by_its_unit() -> None:
    x = planted(3, 3.0)
    scaled = x * np.array([1, 1e3, 1e-3, 1, 1])[None, :, None]
    for mine, theirs in zip(
        deciding.decide(x, draws=999).gaps, deciding.decide(scaled, draws=999).gaps, strict=True
    ):
        assert mine.p == pytest.approx(theirs.p) and mine.effect == pytest.approx(theirs.effect)


def test_two_methods_are_decided_as_by_enumeration() -> None:
    for seed in INPUTS:
        x = accuracies(seed, 2, 2, 4)
        found = deciding.decide(x)
        raw = np.round(100 * x[0]) - np.round(100 * x[1])
        gap = (raw / np.round(100 * x).std(axis=(0, 2))[:, None]).ravel()
        assert found.gaps[0].p == pytest.approx(brute_force(gap, np.abs(gap)), abs=1e-12)


def test_who_does_not_win_is_told_how_many_repeats_it_takes() -> None:
    names = ["a", "b", "c"]
    few = deciding.decide(planted(0, 20.0, sets=1, repeats=5), methods=names)
    assert (few.winner, few.least, few.likely) == (None, 7, None)
    assert (
        "in 5 repeats on one data set, too few for any difference of 3 methods to count; 7 are needed"
        in few.sentence
    )
    one = deciding.decide([[[0.9]], [[0.8]]], methods=["a", "b"])
    assert (
        "in 1 repeat on one data set, too few for any difference of two methods to count; 6" in one.sentence
    )
    x = planted(1, 0.5, k=2, sets=1, repeats=12)
    unsure = deciding.decide(x, methods=["a", "b"])
    assert unsure.winner is None and "may be chance" in unsure.sentence
    # As many repeats with such a lead, drawn anew, show it in about 4 of 5 comparisons.
    gap = x[0, 0] - x[1, 0]
    lead, spread, many = abs(gap.mean()), gap.std(ddof=1), unsure.likely
    assert many is not None and many > 12
    from scipy.stats import nct, t

    df, shift = many - 1, lead / spread * math.sqrt(many)
    assert 0.7 < 1 - nct.cdf(t.ppf(0.975, df), df, shift) < 0.9
    worse = deciding.decide(np.concatenate([x, x[:1] - 30]), methods=names)
    assert worse.winner is None
    assert worse.sentence.endswith(("; a is better than c", "; b is better than c"))
    down = deciding.decide(-x, "min", methods=["a", "b"])
    assert down.sentence == unsure.sentence


def test_decisions_on_odd_inputs_are_defined() -> None:
    same = deciding.decide(np.full((3, 2, 5), 0.5), methods=["a", "b", "c"])
    assert same.winner is None and "are equal" in same.sentence and same.gaps[0].p == 1.0
    x = planted(0, 6.0, k=2, sets=1, repeats=8)
    single = deciding.decide(x, methods=["a", "b"])
    assert single.winner == "a" and "in 8 repeats on one data set" in single.sentence
    x[0, 0, 3] = NAN
    failed = deciding.decide(x, methods=["a", "b"], data_sets=["cora"])
    assert failed.left_out == ("block cora, repeat 3: no value of a",) and failed.n == 7
    few = deciding.decide(planted(0, 50.0, repeats=1), methods=["a", "b", "c"])
    assert few.winner is None and "too few for any difference of 3 methods to count" in few.sentence
    assert few.gaps[0].ci95 is None and "a is ahead of c by " in few.sentence
    diverged = planted(0, -6.0, k=2, sets=1, repeats=8)
    diverged[0, 0, 2] = 1e200  # one repeat of thousands of times the others' spread decides for neither
    assert deciding.decide(diverged, "min").winner is None
    gone = planted(0, 0.0, k=2, sets=2, repeats=6)
    gone[0, 1] = NAN
    half = deciding.decide(gone, data_sets=["cora", "arxiv"])
    assert half.n == 6 and any("no complete repeat on arxiv" in note for note in half.notes)
    for n in (1, 2):
        assert deciding.decide(planted(0, 9.0, k=2, sets=1, repeats=n)).winner is None
    with pytest.raises(ValueError, match=r"\(methods, data sets, repeats\)"):
        deciding.decide([[1.0, 2.0]])


@pytest.mark.slow
def test_under_the_null_a_winner_is_declared_in_at_most_one_of_twenty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """100 comparisons of three equal methods, 10 seeds on 5 data sets; and of one worse among them; and the power."""
    limit = 5 + 2 * math.sqrt(100 * 0.05 * 0.95)
    won = sum(deciding.decide(planted(seed, 0.0), draws=4999).winner is not None for seed in range(100))
    # The hardest case of Holm's: one is out, and the two that are left are equal.
    worse = sum(
        deciding.decide(planted(seed, -9.0), draws=4999).winner is not None for seed in range(1000, 1100)
    )
    lines = [f"winners of 100 under the null: {won}; where a third is worse by 9 points: {worse}"]
    for noise in (1.0, 2.0, 4.0, 8.0):
        right = sum(
            deciding.decide(planted(s, 2.0, noise=noise), draws=1999).winner == "0" for s in range(100)
        )
        lines.append(
            f"a gap of 2 points is found in {right} of 100 where the seeds' deviation is {noise:g} points"
        )
    shared = 0
    for seed in range(100):  # one choice trained ten times over: no repeats, as `deciding` says
        x, rng = planted(seed, 0.0), np.random.default_rng(seed)
        shared += deciding.decide(x + rng.normal(0, 2, (3, 5, 1)), draws=1999).winner is not None
    lines.append(f"winners of 100 under the null where all repeats share one lucky choice: {shared}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert won <= limit and worse <= limit
    assert shared > limit, "else trainings of one choice could be taken for repeats"


@pytest.mark.slow
def test_turning_signs_is_exact_under_the_null() -> None:
    rng = np.random.default_rng(0)
    p = np.array([turned(rng.normal(size=(1, 8)), 99)[0][0] for _ in range(4000)])
    for level in (0.05, 0.1, 0.5):
        assert (p <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 4000)
