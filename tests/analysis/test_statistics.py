"""Statistics over seeds, against textbook formulas, SciPy and enumeration."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from fairsweep.analysis.statistics import best, paired, summarise, summary

Row = tuple[int, str, float | None]


def trials(*rows: Row, **columns: list[float | None]) -> pa.Table:
    """Trials of (config_id, state, value)."""
    ids, states, values = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "sweep": pa.array(["s"] * len(rows), pa.string()),
            "config_id": pa.array(ids, pa.int64()),
            "state": pa.array(states, pa.string()),
            "value": pa.array(values, pa.float64()),
            **{f"metric.{k}": pa.array(v, pa.float64()) for k, v in columns.items()},
        }
    )


def test_summary_of_known_numbers() -> None:
    # mean 3, sd sqrt(2.5), t(0.975, 4) = 2.776445
    found = summary([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.n, found.mean) == (5, 3.0)
    assert found.sd == pytest.approx(math.sqrt(2.5), rel=1e-12)
    assert found.ci95 == pytest.approx((3 - 1.963243, 3 + 1.963243), abs=1e-6)


def test_summary_of_one_and_of_none() -> None:
    one, none = summary([2.5]), summary([])
    assert (one.n, one.mean, one.sd, one.ci95) == (1, 2.5, None, None)
    assert (none.n, none.mean, none.sd, none.ci95) == (0, None, None, None)


def test_an_interval_of_accuracies_ends_where_accuracies_do() -> None:
    two = summary([0.94, 0.98])
    assert two.ci95 is not None and two.ci95[1] > 1
    cut = two.within(0.0, 1.0)
    assert cut.ci95 == (two.ci95[0], 1.0) and (cut.mean, cut.sd, cut.n) == (two.mean, two.sd, 2)
    assert summary([0.01, 0.05]).within(0.0, 1.0).ci95[0] == 0.0  # type: ignore[index]
    assert summary([0.5]).within(0.0, 1.0) == summary([0.5])
    # What is cut away never held the mean: both cover it equally often.
    rng = np.random.default_rng(0)
    draws = rng.beta(9, 1, (2000, 2))
    wide = [summary(x).ci95 for x in draws]
    narrow = [summary(x).within(0.0, 1.0).ci95 for x in draws]
    assert [a <= 0.9 <= b for a, b in wide] == [a <= 0.9 <= b for a, b in narrow]  # type: ignore[misc]


def test_summary_agrees_with_scipy_and_covers_19_of_20() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        x = rng.normal(1.0, 3.0, size=4)
        found = summary(x)
        assert found.ci95 is not None
        inside += found.ci95[0] <= 1.0 <= found.ci95[1]
    assert found.ci95 == pytest.approx(stats.t.interval(0.95, 3, x.mean(), stats.sem(x)), rel=1e-12)
    assert 0.935 < inside / 2000 < 0.965


def test_a_large_mean_does_not_swallow_the_spread() -> None:
    found = summary(np.array([1.0, 2.0, 3.0]) + 1e9)
    assert found.sd == pytest.approx(1.0, rel=1e-6)


def test_summarise_groups_seeds_by_configuration() -> None:
    table = trials(
        (7, "complete", 1.0), (2, "complete", 4.0), (7, "complete", 3.0), (2, "complete", 6.0),
        test_accuracy=[0.1, None, 0.3, 0.8], empty=[None] * 4,
    )  # fmt: skip
    two, seven = summarise(table)
    assert (two.config_id, seven.config_id) == (2, 7)
    assert (two.value.mean, two.value.n, seven.value.mean) == (5.0, 2, 2.0)
    assert seven.value.sd == pytest.approx(math.sqrt(2)) and seven.complete and seven.trials == 2
    assert seven.value.ci95 == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
    assert seven.metrics["test_accuracy"].mean == pytest.approx(0.2)
    assert (two.metrics["test_accuracy"].n, two.metrics["test_accuracy"].mean) == (1, 0.8)
    assert (two.metrics["empty"].n, two.metrics["empty"].mean) == (0, None)


def test_values_of_trials_stopped_early_do_not_mix_with_complete_ones() -> None:
    table = trials(
        (0, "complete", 1.0),
        (0, "pruned", 100.0),
        (0, "failed", 50.0),
        (1, "pruned", 3.0),
        (1, "failed", 9.0),
    )
    zero, one = summarise(table)
    assert (zero.value.mean, zero.value.n, zero.trials, zero.completed, zero.complete) == (
        1.0,
        1,
        3,
        1,
        False,
    )
    assert (one.value.mean, one.value.n, one.completed) == (3.0, 1, 0)


def test_no_trials_no_summaries() -> None:
    assert summarise(trials()) == []
    assert best(trials(), "min") is None


@pytest.mark.parametrize("mode, winner", [("min", 2), ("max", 1)])
def test_best_is_by_the_mean_over_seeds(mode: str, winner: int) -> None:
    table = trials(
        (1, "complete", 0.0), (1, "complete", 10.0), (2, "complete", 3.0), (2, "complete", 3.5),
        (3, "complete", 3.4), (3, "complete", 4.0),
    )  # fmt: skip
    found = best(table, mode)
    assert found is not None and found.config_id == winner and found.complete


def test_equal_means_go_to_the_lowest_id() -> None:
    found = best(trials((9, "complete", 1.0), (4, "complete", 1.0), (6, "complete", 1.0)), "max")
    assert found is not None and found.config_id == 4


def test_a_configuration_with_a_seed_missing_loses_to_a_whole_one() -> None:
    half = [(0, "complete", 0.0), (0, "running", None)]
    found = best(trials(*half, (1, "complete", 5.0), (1, "complete", 5.0)), "min")
    assert found is not None and found.config_id == 1 and found.complete


def test_without_a_whole_one_the_most_complete_seeds_count() -> None:
    table = trials(
        (0, "complete", 3.0), (0, "complete", 3.0), (0, "failed", None),
        (1, "complete", 1.0), (1, "pruned", 0.0), (1, "pruned", 0.0),
        (2, "pruned", -9.0), (2, "pruned", -9.0), (2, "pruned", -9.0),
    )  # fmt: skip
    found = best(table, "min")
    assert found is not None and found.config_id == 0 and not found.complete and found.value.n == 2


def test_only_without_a_complete_trial_do_stopped_ones_count() -> None:
    found = best(trials((0, "pruned", 3.0), (1, "paused", 1.0), (2, "failed", 0.0)), "min")
    assert found is not None and found.config_id == 1 and not found.complete and found.completed == 0


def test_diverged_and_empty_configurations_are_never_best() -> None:
    table = trials(
        (0, "complete", math.nan), (1, "complete", math.inf), (2, "complete", None), (3, "complete", 7.0)
    )
    for mode in ("min", "max"):
        found = best(table, mode)
        assert found is not None and found.config_id == 3
    assert best(table.slice(0, 3), "max") is None


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="mode='minimum': must be min or max"):
        best(trials((0, "complete", 1.0)), "minimum")
    with pytest.raises(ValueError, match="'state' is missing"):
        summarise(trials((0, "complete", 1.0)).drop_columns(["state"]))
    two = pa.concat_tables([trials((0, "complete", 1.0)), trials((0, "complete", 1.0))])
    two = two.set_column(0, "sweep", [["a", "b"]])
    with pytest.raises(ValueError, match="several sweeps"):
        summarise(two)
    with pytest.raises(ValueError, match="config_id is null"):
        summarise(trials((0, "complete", 1.0)).set_column(1, "config_id", [pa.array([None], pa.int64())]))


def test_paired_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.5, 1, 12), rng.normal(0, 1, 12)
    found = paired(a, b)
    t = stats.ttest_rel(a, b)
    assert (found.n, found.difference) == (12, pytest.approx((a - b).mean()))
    assert found.p_t == pytest.approx(t.pvalue) and found.ci95 == pytest.approx(
        tuple(t.confidence_interval(0.95))
    )
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_paired_is_by_seed_not_by_group() -> None:
    """Seeds that move both methods alike do not hide a small constant gain."""
    base = np.array([1.0, 5.0, 9.0, 13.0, 17.0])
    found = paired(base + np.array([0.9, 1.0, 1.1, 1.0, 1.05]), base)
    assert found.ci95 is not None and found.ci95[0] > 0.9 and found.p_t is not None and found.p_t < 1e-4
    assert found.p_wilcoxon == pytest.approx(2 / 2**5)  # the smallest that five pairs can give
    turned = paired(base, base + np.array([0.9, 1.0, 1.1, 1.0, 1.05]))
    assert turned.difference == pytest.approx(-found.difference) and turned.p_t == pytest.approx(found.p_t)


def test_paired_without_spread() -> None:
    same = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.difference, same.ci95, same.p_t, same.p_wilcoxon) == (0.0, (0.0, 0.0), 1.0, 1.0)
    shifted = paired([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert (shifted.difference, shifted.ci95, shifted.p_t) == (1.0, (1.0, 1.0), 0.0)
    single = paired([2.0], [1.5])
    assert (single.n, single.difference, single.ci95, single.p_t, single.p_wilcoxon) == (
        1,
        0.5,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "a, b, words",
    [([1.0], [1.0, 2.0], "1 values against 2"), ([], [], "no values"), ([math.nan], [1.0], "not finite")],
)
def test_paired_refuses(a: list[float], b: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        paired(a, b)


def test_statistics_need_neither_ray_nor_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, analysis.statistics, analysis.store; print({'ray', 'torch', 'wandb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_ties_of_accuracies_are_ties_in_shares_as_in_per_cent() -> None:
    """0.81 - 0.80 and 0.71 - 0.70 differ in the last bits; as they are ranked, they are one difference."""
    a, b = [0.88, 0.93, 0.51, 0.56, 0.69, 0.92], [0.87, 0.94, 0.50, 0.57, 0.70, 0.91]
    shares = paired(a, b)
    percent = paired([round(100 * x) for x in a], [round(100 * x) for x in b])
    assert shares.p_wilcoxon == percent.p_wilcoxon == 1.0, "as they are subtracted, shares gave .25"
    assert shares.p_t == pytest.approx(percent.p_t) and shares.difference == pytest.approx(
        percent.difference / 100
    )
    assert paired([0.1 + 0.2, 0.7], [0.3, 0.7]).p_wilcoxon == 1.0, "equal up to rounding is equal"
    assert paired([1e-30, 2e-30], [0.0, 0.0]).difference == pytest.approx(1.5e-30), "small is not noise"
