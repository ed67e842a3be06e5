"""The rule by which claims are judged, and what counts as a pair."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from fairsweep.analysis.claims import compare, judge, values_by_seed
from fairsweep.analysis.store import Store, StoreError


def test_the_whole_interval_must_be_on_the_claimed_side() -> None:
    base = [0.5, 0.5, 0.5]
    assert judge([0.9, 0.91, 0.89], base, "difference", "at_least", 0.3).size.verdict == "holds"
    assert judge([0.6, 0.61, 0.59], base, "difference", "at_least", 0.3).size.verdict == "fails"
    assert judge([0.9, 0.7, 0.5], base, "difference", "at_least", 0.1).size.verdict == "inconclusive"
    assert judge([0.6, 0.61, 0.59], base, "difference", "at_most", 0.3).size.verdict == "holds"
    assert judge([0.9, 0.91, 0.89], base, "difference", "at_most", 0.3).size.verdict == "fails"


def test_direction_is_judged_against_no_effect_and_size_against_the_margin() -> None:
    def verdicts(values: list[float], kind: str, direction: str, margin: float, null: float | None = None):
        base = [] if kind == "value" else [1.0] * len(values)
        found = judge(values, base, kind, direction, margin, null)
        return found.direction.bound, found.direction.verdict, found.size.bound, found.size.verdict

    assert verdicts([1.1, 1.11, 1.12], "difference", "at_least", 0.4) == (0.0, "holds", 0.4, "fails")
    assert verdicts([0.99, 0.98, 0.97], "difference", "at_least", -0.1) == (
        0.0,
        "inconclusive",
        -0.1,
        "holds",
    )
    assert verdicts([0.97, 0.98, 0.97], "difference", "at_least", -0.1) == (0.0, "fails", -0.1, "holds")
    assert verdicts([0.9, 0.91, 0.92], "ratio", "at_most", 0.5) == (1.0, "holds", 0.5, "fails")
    assert verdicts([0.5, 0.51, 0.52], "value", "at_least", 0.5, 0.5) == (
        0.5,
        "inconclusive",
        0.5,
        "inconclusive",
    )
    found = judge([1.1, 1.11, 1.12], [1.0] * 3, "difference", "at_least", 0.4)
    assert "at least 0" in found.direction.reason and "at least 0.4" in found.size.reason
    assert found.direction.replication and found.size.replication


@pytest.mark.parametrize("direction", ["at_least", "at_most"])
@pytest.mark.parametrize("kind", ["difference", "ratio"])
def test_where_no_pair_differs_nothing_points_in_the_claimed_direction(kind: str, direction: str) -> None:
    same = [0.7, 0.8, 0.9]
    none = 1.0 if kind == "ratio" else 0.0
    found = judge(same, same, kind, direction, none)
    assert (found.direction.verdict, found.size.verdict) == (
        "fails",
        "fails",
    ) and found.direction.replication == 1.0
    lenient = none + (-0.1 if direction == "at_least" else 0.1)
    assert judge(same, same, kind, direction, lenient).size.verdict == "holds"


def test_the_interval_is_students_over_the_paired_differences() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 0.3, 7), rng.normal(0, 0.3, 7)
    found = judge(a.tolist(), b.tolist(), "difference", "at_least", 0.0)
    assert found.ci95 is not None
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.ci95 == pytest.approx((expected.low, expected.high))
    assert found.effect == pytest.approx((a - b).mean()) and found.pairs == 7


def test_a_ratio_is_judged_in_logarithms() -> None:
    a, b = [0.8, 0.9, 1.0], [1.0, 1.0, 1.25]
    found = judge(a, b, "ratio", "at_most", 0.95)
    logs = np.log(np.divide(a, b))
    half = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / math.sqrt(3)
    assert found.effect == pytest.approx(math.exp(logs.mean()))
    assert found.ci95 == pytest.approx((math.exp(logs.mean() - half), math.exp(logs.mean() + half)))
    doubled = judge([2 * x for x in a], [2 * x for x in b], "ratio", "at_most", 0.95)
    assert doubled.ci95 == pytest.approx(found.ci95)
    assert judge([0.0, 1.0], [1.0, 1.0], "ratio", "at_most", 1).size.verdict == "inconclusive"


def test_a_value_is_judged_without_a_baseline() -> None:
    found = judge([1.5, 1.7, 1.9], [], "value", "at_least", 1.0)
    assert (found.size.verdict, found.effect, found.pairs) == ("holds", pytest.approx(1.7), 3)
    assert found.ci95 == pytest.approx(stats.t.interval(0.95, 2, 1.7, 0.2 / math.sqrt(3)))
    assert judge([1.5, 1.7, 1.9], [], "value", "at_most", 1.0).size.verdict == "fails"


def test_replication_is_how_often_a_fresh_run_ends_with_the_same_verdict() -> None:
    """Nature: a true mean and deviation under the prior's posterior, then as many fresh pairs, judged anew."""
    rng = np.random.default_rng(5)
    for first in ([0.3, 0.9, 0.5, 1.4, 0.6], [0.1, -0.4, 0.8, 0.3, 0.2], [-1.0, -1.6, -0.8, -1.5, -1.3]):
        seen = judge(first, [], "value", "at_least", 0.0)
        n, runs = len(first), 3000
        sigma = np.std(first, ddof=1) * np.sqrt((n - 1) / rng.chisquare(n - 1, runs))
        mean = np.mean(first) + sigma / math.sqrt(n) * rng.standard_normal(runs)
        fresh = mean[:, None] + sigma[:, None] * rng.standard_normal((runs, n))
        half = stats.t.ppf(0.975, n - 1) * fresh.std(1, ddof=1) / math.sqrt(n)
        low, high = fresh.mean(1) - half, fresh.mean(1) + half
        verdicts = np.where(low >= 0, "holds", np.where(high < 0, "fails", "inconclusive"))
        same = verdicts == seen.size.verdict
        assert seen.size.replication == pytest.approx(np.mean(same), abs=0.03)
        mirrored = judge([-x for x in first], [], "value", "at_most", 0.0)
        assert mirrored.size.replication == pytest.approx(seen.size.replication, abs=1e-12)


def test_replication_follows_distance_from_the_margin_and_number_of_seeds() -> None:
    values = [1.0, 1.2, 0.8, 1.1, 0.9]
    far, near = (judge(values, [], "value", "at_least", margin) for margin in (0.2, 0.79))
    assert far.size.verdict == near.size.verdict == "holds"
    assert far.size.replication is not None and near.size.replication is not None
    assert far.size.replication > 0.98 > 0.65 > near.size.replication
    longer = judge(values * 4, [], "value", "at_least", 0.79).size.replication
    assert longer is not None and longer > 0.99
    ratio = judge([math.exp(v) for v in values], [1.0] * 5, "ratio", "at_least", math.exp(0.79))
    assert ratio.size.replication == pytest.approx(near.size.replication)
    assert judge([1.0], [], "value", "at_least", 0).size.replication is None
    assert judge([2.0, 2.0], [], "value", "at_least", 1.0).size.replication == 1.0


def test_one_pair_or_none_says_nothing() -> None:
    for pairs in ([], [9.0]):
        found = judge(pairs, [0.0] * len(pairs), "difference", "at_least", 1.0)
        assert (found.size.verdict, found.direction.verdict, found.ci95) == (
            "inconclusive",
            "inconclusive",
            None,
        )
    exact = judge([2.0, 2.0], [1.0, 1.0], "difference", "at_least", 1.0)
    assert exact.size.verdict == "holds" and exact.ci95 == (1.0, 1.0)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="kind='sum'"):
        judge([1.0], [1.0], "sum", "at_least", 0)
    with pytest.raises(ValueError, match="direction='more'"):
        judge([1.0], [1.0], "ratio", "more", 0)
    with pytest.raises(ValueError, match="2 values against 1"):
        judge([1.0, 2.0], [1.0], "ratio", "at_most", 0)


def tables() -> tuple[pa.Table, pa.Table]:
    """Arms a and b under seeds 0, 1, 2; b failed under seed 2, and ran out of order."""
    rows = [
        ("a0", "A", 0, "complete", 2, 0.9), ("b1", "B", 1, "complete", 1, 0.4), ("a1", "A", 1, "complete", 2, 0.8),
        ("b0", "B", 0, "complete", 2, 0.5), ("a2", "A", 2, "complete", 2, 0.7), ("b2", "B", 2, "failed", None, None),
    ]  # fmt: skip
    trials = pa.Table.from_pylist(
        [
            {"trial": t, "config_json": c, "seed": s, "state": state, "reason": "raised ValueError: no",
             "best_step": step, "metric.test_accuracy": value, "cost_s": 10.0}
            for t, c, s, state, step, value in rows
        ]
    )  # fmt: skip
    results = pa.Table.from_pylist(
        [{"trial": t, "step": k, "metric.val_loss": 10.0 * k + s} for t, _, s, *_ in rows for k in (1, 2, 3)]
    )
    return trials, results


def test_pairs_are_by_seed_and_what_is_left_out_is_said() -> None:
    trials, results = tables()
    claim = {"metric": "test_accuracy", "kind": "difference", "direction": "at_least", "margin": 0.3}
    found, left_out, cost = compare(trials, results, "A", "B", claim)
    assert found.pairs == 2 and found.effect == pytest.approx((0.4 + 0.4) / 2)
    assert found.size.verdict == "holds"
    assert left_out == ["baseline seed 2: failed, raised ValueError: no"]
    assert cost == 60.0


def test_a_validation_metric_is_read_at_the_best_step() -> None:
    trials, results = tables()
    found, missing = values_by_seed(trials, results, "B", "val_loss")
    assert found == {0: 20.0, 1: 11.0}
    assert len(missing) == 1


def test_verdicts_are_a_table_of_the_store(tmp_path) -> None:
    store = Store(tmp_path)
    assert store.table("claims").num_rows == 0
    store.write_derived("claims", "r1", [{"paper": "p", "claim": "c", "effect": 1.0, "sweep": "s"}])
    store.write_derived("claims", "r2", [{"paper": "q", "claim": "d", "sweep": "t"}])
    store.write_derived("claims", "r1", [{"paper": "p", "claim": "c", "effect": 2.0, "sweep": "s"}])
    rows = Store(tmp_path).table("claims").to_pylist()
    assert [(r["run"], r["paper"], r["effect"]) for r in rows] == [("r1", "p", 2.0), ("r2", "q", None)]
    assert store.derived("claims", "r2").num_rows == 1 and store.derived("claims", "r3").num_rows == 0
    assert store.table("claims", "s", columns=["claim"]).to_pylist() == [{"claim": "c"}]
    with pytest.raises(KeyError, match="verdikt"):
        store.write_derived("claims", "r1", [{"verdikt": "holds"}])
    with pytest.raises(StoreError, match="name="):
        store.write_derived("claims", "../r", [])


def test_a_claim_about_a_value_asks_nothing_of_a_baseline() -> None:
    trials, results = tables()
    claim = {"metric": "test_accuracy", "kind": "value", "direction": "at_least", "margin": 0.5}
    found, left_out, cost = compare(trials, results, "A", None, claim)
    assert (found.pairs, found.effect, found.size.verdict, cost) == (3, pytest.approx(0.8), "holds", 30.0)
    assert left_out == []
