"""Statistics of comparisons against numbers in print: the examples that their authors worked through."""

from __future__ import annotations

import numpy as np
import pytest

from fairsweep.analysis.comparing import improvement, intervals, ranks
from fairsweep.analysis.comparing.bayes import signed_rank
from fairsweep.analysis.comparing.best_of_k import best_of_k
from fairsweep.analysis.comparing.paired_tests import holm, permutation, wilcoxon

# Demšar, JMLR 2006, table 6: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 data sets. Printed are three digits; the
# table's ranks are of unrounded numbers, in which C4.5+cf is ahead on the data set voting, so that is .9751 here.
AUC = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip
NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")


def test_demsar_2006_table_6_friedman_and_nemenyi() -> None:
    found = ranks.friedman(AUC, methods=NAMES)
    assert found.ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert found.chi2_plain == pytest.approx(9.28, abs=0.005)
    plain_f = 13 * found.chi2_plain / (14 * 3 - found.chi2_plain)
    assert plain_f == pytest.approx(3.69, abs=0.005)
    assert found.chi2 > found.chi2_plain and found.p < 0.05, "ties say that less could differ"
    # Section 3.2.2: CD is 1.25 at .05, which no pair of mean ranks reaches, and 1.12 at .10, which 3.143 - 1.964 does.
    strict, loose = ranks.nemenyi(AUC, methods=NAMES), ranks.nemenyi(AUC, methods=NAMES, alpha=0.10)
    assert strict.critical_difference == pytest.approx(1.25, abs=0.005)
    assert loose.critical_difference == pytest.approx(1.12, abs=0.005)
    assert strict.cliques == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)
    # As the paper says: at .10 C4.5 is worse than both variants with m, and nothing can be said of C4.5+cf.
    assert loose.cliques == (("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5"))


def test_demsar_2006_table_6_by_wilcoxon_and_holm() -> None:
    """C4.5 differs from C4.5+m alone, which ranks between it and the best: a group with a gap, which is said."""
    found = ranks.wilcoxon_holm(AUC, methods=NAMES)
    assert found.cliques == (("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+m+cf", "C4.5+cf", "C4.5"))
    assert found.notes[-1] == "a group leaves out a method that ranks between its members; draw it with a gap"
    (best,) = (pair for pair in found.pairs if (pair.a, pair.b) == ("C4.5", "C4.5+m"))
    assert best.p_holm == pytest.approx(6 * best.p) and best.p_holm < 0.05


def test_demsar_2006_table_2_wilcoxon() -> None:
    """R+ = 93 and R- = 12 with zeros split; .768 - .763 and .936 - .931 tie only once they are rounded."""
    found = wilcoxon(AUC[:, 1], AUC[:, 0], "split")
    assert (found.statistic, found.n * (found.n + 1) / 2 - found.statistic, found.zeros) == (93.0, 12.0, 2)
    assert found.p < 0.05  # the critical value at .05 is 21


def test_hollander_and_wolfe_depression_scale() -> None:
    """Nonparametric Statistical Methods (1973), example 3.1: T+ = 5 of the rises, p = .02 on one side (.0195)."""
    before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    found = wilcoxon(after, before)
    assert found.statistic == 5.0 and found.p / 2 == pytest.approx(0.0195, abs=5e-5) and found.exact


def test_fisher_1935_darwin_s_maize() -> None:
    """The Design of Experiments, section 21: 1726 of 2^15 turns give 314 or more on either side: p = .05267."""
    crossed_less_selfed = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48.0])
    found = permutation(crossed_less_selfed, np.zeros(15))
    assert found.exact and found.statistic * 15 == pytest.approx(314)
    assert round(found.p * 2**15) == 1726


def test_efron_and_tibshirani_1993_table_14_2() -> None:
    """Variance of the spatial test data, 90 %: BCa 115.8 to 259.6, percentile 100.8 to 233.9, of 2000 draws.

    The ends vary with the draws by about 2 (low) and 4 (high).
    """
    a = [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41]

    def variance(x: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.var(x, axis=axis)

    bca = intervals.interval(a, variance, "bca", 0.90)
    percentile = intervals.interval(a, variance, "percentile", 0.90)
    assert bca.value == pytest.approx(171.5, abs=0.05)
    assert bca.low == pytest.approx(115.8, abs=4) and bca.high == pytest.approx(259.6, abs=8)
    assert percentile.low == pytest.approx(100.8, abs=4) and percentile.high == pytest.approx(233.9, abs=8)


def test_holm_1979_by_hand() -> None:
    """.01, .04, .03, .005 among four: .03, .06, .06, .02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


# Accuracies in per cent on 54 data sets of UCI, mean of ten times ten folds: naive Bayes less J48, and less AODE. From
# the documentation of baycomp (`accuracies.txt`), by the authors of Benavoli et al., JMLR 2017, whose data they are.
LESS_J48 = [
    -2.70, -5.83, 6.14, 0.49, -7.33, -0.07, -0.07, 1.66, -11.40, 2.87, -0.38, 10.46, 0.52, 0.00,
    5.12, 3.84, -0.87, -0.71, -0.27, -11.65, 1.80, 0.00, 8.73, -1.43, -23.17, -2.53, -4.24, -6.88,
    13.58, -3.23, 7.25, -0.90, 0.94, -1.67, 6.19, -3.00, -3.36, -3.36, -4.03, 2.04, -0.44, -3.03,
    -1.84, 1.25, -4.47, -15.60, -0.46, -17.75, 5.10, 3.98, 7.98, 2.16, 0.54, 1.37,
]  # fmt: skip
LESS_AODE = [
    -1.94, -0.26, 0.47, -0.72, 2.00, -0.46, -0.46, -0.15, -7.27, -0.79, -2.60, 4.36, -0.61, 0.00,
    -0.62, -0.07, -0.21, -1.68, 0.27, -3.24, -0.83, 0.00, -1.76, -1.86, -10.00, -0.34, -4.19, -2.43,
    -4.75, -3.55, 0.58, -10.04, -0.44, 1.33, -0.67, -3.92, -2.78, -0.69, -4.00, -0.34, -1.11, -3.28,
    -1.68, -0.70, -0.37, -5.60, -0.40, -16.91, -5.04, -1.81, 0.50, 0.14, -0.20, -0.68,
]  # fmt: skip


def test_benavoli_2017_naive_bayes_against_j48_and_aode() -> None:
    """By 50,000 draws, region 1 point: printed are .231, .007, .762 (baycomp's documentation) and 0, .125, .875 (the
    tutorial's notebook on the signed-rank test, twice, with a prior of .6: 0, .123, .877)."""
    for gaps, printed in ((LESS_J48, (0.231, 0.007, 0.762)), (LESS_AODE, (0.0, 0.125, 0.875))):
        found = signed_rank(gaps, [0.0] * 54, rope=1.0)
        assert (found.a_better, found.equivalent, found.b_better) == pytest.approx(printed, abs=0.008)


def test_hollander_and_wolfe_rounding_first_base() -> None:
    """Table 7.1: 22 players, three ways to round first base: S = 11.14 with ties, p = .0038 (R's `friedman.test`)."""
    seconds = np.array(
        [
            [5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40], [5.90, 5.85, 5.70],
            [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35], [5.25, 5.15, 5.00], [5.85, 5.80, 5.70],
            [5.25, 5.20, 5.10], [5.65, 5.55, 5.45], [5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40],
            [5.45, 5.55, 5.50], [5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40],
            [5.70, 5.65, 5.55], [6.30, 6.30, 6.25],
        ]
    )  # fmt: skip
    found = ranks.friedman(seconds, "min")
    assert (found.chi2, found.p) == (pytest.approx(11.143, abs=5e-4), pytest.approx(0.003805, abs=5e-7))


def test_hollander_and_wolfe_permeability_as_probability_of_improvement() -> None:
    """Table 4.1: Mann and Whitney's U of ten against five is 35 of 50 (W = 35 of R's `wilcox.test`)."""
    at_term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    earlier = [1.15, 0.88, 0.90, 0.74, 1.21]
    a, b = np.array(at_term)[:, None], np.array(earlier)[:, None]
    assert improvement.probability_of_improvement(a, b, draws=9).value == pytest.approx(35 / 50)


def test_the_interquartile_mean_of_the_encyclopedia() -> None:
    """Wikipedia, Interquartile mean: of 5, 8, 4, 38, 8, 6, 9, 7, 7, 3, 1, 6 it is 6.5."""
    scores = np.array([5, 8, 4, 38, 8, 6, 9, 7, 7, 3, 1, 6.0])
    assert improvement.aggregate(scores.reshape(4, 3), draws=9).value == 6.5


def test_the_best_of_k_dice_and_tanks() -> None:
    """Dodge's estimator is of draws with repetition: the best of 2, 3 and 4 dice is 161/36, 1071/216 and 6797/1296. The
    unbiased one is of draws without: the largest of 4 of 74 numbers is 60 on average, which is why 60 says 74 in the
    German tank problem (Ruggles and Brodie, JASA 1947; Wikipedia's example of 19, 40, 42 and 60)."""
    dice = best_of_k([1, 2, 3, 4, 5, 6], "max", "v", most=4)
    assert dice.mean == pytest.approx((3.5, 161 / 36, 1071 / 216, 6797 / 1296))
    assert best_of_k(range(1, 75), "max", most=4).mean[3] == pytest.approx(60)
    assert best_of_k(range(1, 75), "min", most=4).mean[3] == pytest.approx(15)
