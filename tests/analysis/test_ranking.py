"""Rankings, against SciPy, closed forms and cases small enough to count."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from fairsweep.analysis import ranking


def noisy(n: int = 60, noise: float = 1.0, seed: int = 0, decimals: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    return np.round(truth + noise * rng.normal(size=n), decimals), np.round(truth, decimals)


# ---- statistics ----


def test_tau_of_counted_pairs() -> None:
    # 1 2 3 4 against 1 3 2 4: five pairs agree, one does not
    assert ranking.kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert ranking.kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    # tau-b: 5 pairs untied on the left, 6 on the right, all 5 agree
    assert ranking.kendall_tau([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / math.sqrt(5 * 6))


@pytest.mark.parametrize("decimals", [8, 0])
def test_tau_and_rho_agree_with_scipy_with_and_without_ties(decimals: int) -> None:
    for seed in range(5):
        scores, truth = noisy(seed=seed, decimals=decimals)
        assert ranking.kendall_tau(scores, truth) == pytest.approx(
            stats.kendalltau(scores, truth, variant="b").statistic, rel=1e-12
        )
        assert ranking.spearman(scores, truth) == pytest.approx(
            stats.spearmanr(scores, truth).statistic, rel=1e-12
        )


def test_a_constant_score_ranks_nothing() -> None:
    assert ranking.kendall_tau([1, 1, 1], [1, 2, 3]) == 0
    assert ranking.spearman([1, 2, 3], [5, 5, 5]) == 0


def test_precision_of_counted_cases() -> None:
    truth = [5, 4, 3, 2, 1]
    assert ranking.precision_at(truth, truth, 2) == 1
    assert ranking.precision_at([5, 1, 4, 2, 3], truth, 2) == 0.5
    assert ranking.precision_at([1, 2, 3, 4, 5], truth, 2) == 0
    assert ranking.precision_at([1, 2, 3, 4, 5], truth, 5) == 1


def test_precision_breaks_ties_by_chance() -> None:
    # Two of three tied scores are taken; the truly best two are among them in a third of the ways each.
    scores, truth = [2, 2, 2, 1], [4, 3, 2, 1]
    by_hand = []
    for order in permutations(range(3)):
        by_hand.append(len({0, 1} & set(order[:2])) / 2)
    assert ranking.precision_at(scores, truth, 2) == pytest.approx(np.mean(by_hand))
    assert ranking.precision_at([1, 1, 1, 1], truth, 2) == pytest.approx(0.5)


def test_top_is_chosen_by_the_truth() -> None:
    truth = np.arange(10.0)
    scores = truth.copy()
    scores[[9, 8]] = scores[[8, 9]]
    scores[[5, 6]] = [50, 60]  # the two best by score, in the right order
    assert ranking.top_tau(scores, truth) == -1
    assert ranking.top_tau(scores, truth, share=1.0) == ranking.kendall_tau(scores, truth)
    assert ranking.top_tau([1, 2, 3], [1, 2, 3], share=0.01) == 1, "never fewer than two"


# ---- intervals ----


def test_bootstrap_covers_the_true_tau_19_times_of_20() -> None:
    true = 2 / math.pi * math.asin(1 / math.sqrt(2))
    inside = 0
    for seed in range(80):
        scores, truth = noisy(n=50, seed=seed)
        (found,) = ranking.bootstrap([ranking.kendall_tau], scores, truth, draws=80, seed=seed)
        assert found.ci95[0] <= found.value <= found.ci95[1]
        inside += found.ci95[0] <= true <= found.ci95[1]
    assert 0.88 <= inside / 80 <= 0.99


def test_bootstrap_narrows_with_more_architectures_and_repeats_for_a_seed() -> None:
    def width(n: int) -> float:
        (found,) = ranking.bootstrap([ranking.kendall_tau], *noisy(n), draws=200)
        return found.ci95[1] - found.ci95[0]

    assert width(400) < 0.6 * width(60)
    assert width(60) == width(60)


def test_report_holds_the_single_statistics() -> None:
    scores, truth = noisy(n=40)
    found = ranking.rank(scores, truth, ks=(5, 10, 100), draws=50)
    assert found.n == 40
    assert found.kendall.value == ranking.kendall_tau(scores, truth)
    assert found.spearman.value == ranking.spearman(scores, truth)
    assert found.top.value == ranking.top_tau(scores, truth)
    assert {k: e.value for k, e in found.precision.items()} == {
        k: ranking.precision_at(scores, truth, k) for k in (5, 10)
    }
    for estimate in (found.kendall, found.spearman, found.top, *found.precision.values()):
        assert estimate.ci95[0] <= estimate.value <= estimate.ci95[1]


# ---- noise ----


def test_variance_components_of_known_numbers() -> None:
    # means 1, 3; variance within 2 in both: between = 2 - 2/2
    assert ranking.variance_components([[0, 2], [2, 4]]) == pytest.approx((1.0, 2.0))
    assert ranking.variance_components([[0, 10], [1, 9]])[0] == 0, "never negative"


def test_variance_components_recover_the_model() -> None:
    rng = np.random.default_rng(0)
    values = 1.7 * rng.normal(size=(20_000, 1)) + 0.9 * rng.normal(size=(20_000, 3))
    assert ranking.variance_components(values) == pytest.approx((1.7**2, 0.9**2), rel=0.03)


@pytest.mark.parametrize(("seeds", "known"), [(1, 0.69), (2, 0.77), (3, 0.81), (5, 0.85), (8, 0.88)])
def test_ceiling_of_known_variances(seeds: int, known: float) -> None:
    # The means of two seeds spread by 1.8 points, single seeds by 0.9 around their architecture.
    between = 1.8**2 - 0.9**2 / 2
    found = ranking.noise_ceiling(between, 0.9**2, seeds, architectures=40, draws=400)
    greiner = 2 / math.pi * math.asin(math.sqrt(between / (between + 0.9**2 / seeds)))
    assert found.tau == pytest.approx(greiner, abs=0.01)
    assert found.tau == pytest.approx(known, abs=0.01)
    assert found.ci95[0] < found.tau < found.ci95[1]


def test_ceiling_without_noise_is_one_and_without_signal_zero() -> None:
    assert ranking.noise_ceiling(1.0, 0.0, 1, 30, draws=10).tau == 1
    assert ranking.noise_ceiling(0.0, 1.0, 1, 30, draws=10).tau == 0


def test_ceiling_of_a_table_uses_its_own_seeds() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(300, 1)) + rng.normal(size=(300, 5))
    found = ranking.ceiling_of(values, draws=200)
    assert (found.between, found.within) == ranking.variance_components(values)
    assert found.seeds == 5
    assert found.tau == pytest.approx(2 / math.pi * math.asin(math.sqrt(1 / 1.2)), abs=0.04)


# ---- bad input ----


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking.kendall_tau([1, 2], [1, 2, 3]), r"\(2,\) against truth of shape \(3,\)"),
        (lambda: ranking.kendall_tau([1], [1]), "1 architectures"),
        (lambda: ranking.spearman([1, 2, math.nan], [1, 2, 3]), r"scores\[2\] is not finite"),
        (lambda: ranking.precision_at([1, 2], [1, 2], 3), "k=3: must be 1 to 2"),
        (lambda: ranking.top_tau([1, 2], [1, 2], 0.0), r"share=0.0: must be in \(0, 1\]"),
        (lambda: ranking.bootstrap([ranking.spearman], [1, 2], [1, 2], draws=1), "draws=1"),
        (lambda: ranking.variance_components([[1.0], [2.0]]), r"shape \(2, 1\)"),
        (lambda: ranking.noise_ceiling(-1.0, 1.0, 1, 10), "between=-1.0"),
        (lambda: ranking.noise_ceiling(1.0, 1.0, 0, 10), "seeds=0"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
