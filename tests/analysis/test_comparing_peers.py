"""Statistics of comparisons against packages that are no dependencies: scikit-posthocs, baycomp, rliable, autorank.

Slow, and skipped where a package is missing. To run all: a virtual environment with `scikit-posthocs baycomp rliable
'arch<8' 'pandas<3' pyarrow scipy pytest pytest-timeout`.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fairsweep.analysis.comparing import improvement, intervals, ranks
from fairsweep.analysis.comparing.bayes import signed_rank
from fairsweep.analysis.comparing.paired_tests import holm

pytestmark = pytest.mark.slow


def inputs(many: int = 200) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(many)]


def test_nemenyi_agrees_with_scikit_posthocs() -> None:
    posthocs = pytest.importorskip("scikit_posthocs", reason="scikit-posthocs is not installed")
    worst = 0.0
    for rng in inputs():
        x = rng.normal(size=(int(rng.integers(4, 15)), int(rng.integers(3, 7))))
        theirs = posthocs.posthoc_nemenyi_friedman(x).to_numpy()
        for pair in ranks.nemenyi(x).pairs:
            worst = max(worst, abs(pair.p - theirs[int(pair.a), int(pair.b)]))
    print(f"Nemenyi: largest difference of a p-value {worst:.1e}")
    assert worst < 1e-9


def test_wilcoxon_holm_agrees_with_scikit_posthocs() -> None:
    posthocs = pytest.importorskip("scikit_posthocs", reason="scikit-posthocs is not installed")
    worst = 0.0
    for rng in inputs():
        x = rng.normal(size=(int(rng.integers(6, 15)), int(rng.integers(3, 6))))
        theirs = posthocs.posthoc_wilcoxon(x.T.tolist(), p_adjust="holm").to_numpy()
        for pair in ranks.wilcoxon_holm(x).pairs:
            worst = max(worst, abs(pair.p_holm - theirs[int(pair.a), int(pair.b)]))
    print(f"Wilcoxon-Holm: largest difference of a p-value {worst:.1e}")
    assert worst < 1e-9


def test_holm_agrees_with_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    for rng in inputs():
        p = rng.random(int(rng.integers(1, 12)))
        assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1], abs=1e-12)


def test_signed_rank_agrees_with_baycomp() -> None:
    """Two samples of 4000 draws differ by up to .045; without ties, which baycomp settles by noise (see README.md)."""
    baycomp = pytest.importorskip("baycomp", reason="baycomp is not installed")
    worst = 0.0
    for seed, rng in enumerate(inputs()):
        n = int(rng.integers(3, 12))
        a, b = rng.normal(0.7, 0.02, n), rng.normal(0.69, 0.02, n)
        rope = 0.01 if seed % 2 else 0.0
        found = signed_rank(a, b, rope, draws=4000, seed=seed)
        theirs = baycomp.SignedRankTest.probs(a, b, rope, nsamples=4000, random_state=seed)
        mine = (
            (found.a_better, found.equivalent, found.b_better) if rope else (found.a_better, found.b_better)
        )
        worst = max(worst, float(np.abs(np.subtract(mine, theirs)).max()))
    print(f"Bayesian signed-rank: largest difference of a probability {worst:.3f}")
    assert worst < 0.045


def test_aggregates_agree_with_rliable() -> None:
    library = pytest.importorskip("rliable.library", reason="rliable is not installed")
    metrics = pytest.importorskip("rliable.metrics")
    worst = wide = 0.0
    for seed, rng in enumerate(inputs()):
        tasks = int(rng.integers(1, 6))
        a = rng.normal(size=(int(rng.integers(2, 8)), tasks))
        b = rng.normal(0.3, 1, size=(int(rng.integers(2, 8)), tasks))
        mine = improvement.probability_of_improvement(a, b, draws=2000), improvement.aggregate(a, draws=2000)
        theirs = metrics.probability_of_improvement(a, b), metrics.aggregate_iqm(a)
        worst = max(worst, *(abs(m.value - t) for m, t in zip(mine, theirs, strict=True)))
        if seed % 10 == 0:  # of these the intervals too, which are slow
            ends = [
                library.get_interval_estimates({"x": scores}, lambda *x, f=f: np.array([f(*x)]), reps=2000)[
                    1
                ]["x"]
                for scores, f in (([a, b], metrics.probability_of_improvement), (a, metrics.aggregate_iqm))
            ]
            for m, (low, high) in zip(mine, (e.ravel() for e in ends), strict=True):
                off = max(abs(m.low - low), abs(m.high - high))  # type: ignore[operator]
                wide = max(wide, off / max(high - low, 1e-9))
    print(f"rliable: largest difference of a value {worst:.1e}, of an end {wide:.3f} of the interval's width")
    assert worst < 1e-9 and wide < 0.1


def test_bca_agrees_with_arch() -> None:
    bootstrap = pytest.importorskip("arch.bootstrap", reason="arch is not installed")
    wide = 0.0
    for seed, rng in enumerate(inputs()):
        x = rng.lognormal(size=15)
        method = ("percentile", "bca")[seed % 2]
        mine = intervals.interval(x, method=method, draws=2000, seed=seed)
        theirs = bootstrap.IIDBootstrap(x, seed=seed).conf_int(np.mean, reps=2000, method=method).ravel()
        off = max(abs(mine.low - theirs[0]), abs(mine.high - theirs[1]))  # type: ignore[operator]
        wide = max(wide, off / (theirs[1] - theirs[0]))
    print(f"BCa and percentile: largest difference of an end {wide:.3f} of the interval's width")
    assert wide < 0.15


def test_cliques_agree_with_networkx() -> None:
    networkx = pytest.importorskip("networkx", reason="networkx is not installed")
    for rng in inputs():
        k = int(rng.integers(2, 12))
        half = np.triu(rng.random((k, k)) < 0.6, 1)
        graph = networkx.Graph([(i, j) for i, j in itertools.combinations(range(k), 2) if half[i, j]])
        theirs = sorted(tuple(sorted(group)) for group in networkx.find_cliques(graph) if len(group) > 1)
        assert ranks.cliques(half | half.T) == theirs
