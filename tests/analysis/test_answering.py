"""The answer of a comparison from its rows, made up here."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fairsweep.analysis.comparing.answering import answer


def rows(scores, mode="max", **columns):
    """Rows of `scores` (methods, data sets, repeats); `columns`: functions of (method, data, repeat), or values."""
    found = []
    for (m, d, r), score in np.ndenumerate(np.asarray(scores, float)):
        row = {
            "run": "x", "method": f"m{m}", "trainable": "toy", "fixed": json.dumps({"kind": m}), "data": f"d{d}",
            "repeat": r, "state": "complete" if np.isfinite(score) else "failed", "mode": mode,
            "score": float(score) if np.isfinite(score) else None, "budget_kind": "trials", "budget": 8.0, "trials": 8,
            "metric": "test_accuracy",
            "steps": 80, "cost_s": 2.0, "final_cost_s": 0.5, "failures": 0, "parts": json.dumps({"test": f"{d}-{r}"}),
        }  # fmt: skip
        found.append(row | {k: v(m, d, r) if callable(v) else v for k, v in columns.items()})
    return found


def test_a_clear_winner_is_named_with_its_lead_its_certainty_and_its_cost():
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 2, 6))
    found = answer(rows(noise + np.array([0.9, 0.7, 0.6])[:, None, None]))
    assert found.decision.winner == "m0"
    assert found.sentence == (
        "m0 is best: ahead of m1, the next, by 0.203 (95 % interval 0.197 to 0.208) in 12 repeats on 2 data sets;"
        " chance alone gives as clear a lead in at most 0.15 % of comparisons"
    )
    first = found.standings[0]
    assert first.value == pytest.approx(0.9, abs=0.01)
    assert first.ci95[0] < first.value < first.ci95[1]
    assert (first.search_s, first.final_s, first.trials, first.steps) == (24.0, 6.0, 96, 960)
    assert first.fixed == {"kind": 0}
    assert found.notes == ()


def test_what_has_not_ended_yet_is_left_out_and_named():
    scores = np.array([[[0.9, 0.8, np.nan]], [[0.7, 0.6, 0.5]]])
    found = answer(rows(scores)[:-1])
    assert found.decision.n == 2
    assert found.decision.left_out == ("block d0, repeat 2: no value of m0, m1",)
    assert "m0: 1 of 3 repeats have no score: without a reason" in found.notes


def test_nothing_to_compare_is_said():
    assert answer(rows([[[0.5, 0.6]]])).sentence == "m0 is the only method: nothing to compare it with"
    nothing = answer(rows([[[np.nan]], [[0.5]]]))
    assert nothing.sentence == "m1 is the only method with a score: nothing to compare it with"
    assert nothing.decision is None
    assert nothing.standings[0].value is None
    with pytest.raises(ValueError, match="at least one"):
        answer([])
    with pytest.raises(ValueError, match="one metric"):
        answer([*rows([[[0.5]]]), *rows([[[0.5]]], metric="test_loss")])


def test_a_budget_that_was_not_used_up_is_said():
    found = answer(rows(np.full((2, 1, 3), 0.5), trials=lambda m, d, r: 8 if m else 3))
    assert found.used == {"m0": (3.0, 3.0), "m1": (8.0, 8.0)}
    assert "m0 used 3 of 8 trials in at least one search: it was compared at a smaller budget" in found.notes


def test_other_test_examples_are_said():
    found = answer(rows(np.full((2, 1, 1), 0.5), parts=lambda m, d, r: json.dumps({"test": f"part{m}"})))
    assert "d0, repeat 0: m0 and m1 were tested on different examples" in found.notes
    found = answer(rows(np.full((2, 1, 1), 0.5), parts=None))
    assert "m0, m1: cannot say which examples are tested, so nobody has checked it" in found.notes


def test_where_the_mean_says_another_than_the_tests_it_is_said():
    scores = np.array([[[0.50, 0.51], [10.0, 30.0]], [[0.40, 0.41], [15.0, 35.0]]])
    found = answer(rows(scores))
    (gap,) = found.decision.gaps
    assert gap.effect > 0 > gap.difference
    assert any(
        note.startswith("m0 is ahead of m1 where each data set is measured by its own spread")
        for note in found.notes
    )
