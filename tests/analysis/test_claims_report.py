"""The claims of several runs as one Markdown table."""

from __future__ import annotations

from fairsweep.analysis.claims_report import claimed, markdown


def row(**changes: object) -> dict:
    made = {
        "paper": "p", "claim": "c", "statement": "a beats b", "metric": "acc", "kind": "difference", "data": "d",
        "direction": "at_least", "margin": 0.1, "origin": "paper", "steps": None, "pairs": 5, "effect": 0.05,
        "ci_low": 0.01, "ci_high": 0.09, "direction_verdict": "holds", "size_verdict": "fails",
    }  # fmt: skip
    return {**made, **changes}


def test_runs_are_counted_by_verdict_and_only_where_the_claim_is_the_same() -> None:
    runs = [
        [row()],
        [row(size_verdict="inconclusive"), row(claim="other")],
        [row(margin=0.2, direction_verdict="fails")],
    ]
    head, _, line = markdown(runs).splitlines()
    assert head.count("|") == line.count("|") == 10
    assert line == (
        "| `p` | a beats b | 0.05 | 0.01 .. 0.09 | 5 | **holds** | ≥ 0.1 (paper) | **fails** | 2 of 2 / 1 of 2 |"
    )


def test_a_run_without_pairs_of_a_claim_has_no_say() -> None:
    nothing = row(pairs=0, effect=None, ci_low=None, ci_high=None, direction_verdict="inconclusive")
    assert markdown([[nothing], [row()], [row()]]).splitlines()[2].endswith("| 2 of 2 / 2 of 2 |")
    assert "| 0.05 | 0.01 .. 0.09 | 5 |" in markdown([[nothing], [row()]])
    assert markdown([[nothing], [nothing]]).splitlines()[2].endswith("| 1 of 1 / 1 of 1 |")


def test_what_was_claimed_in_one_cell() -> None:
    assert claimed(row()) == "Δ acc ≥ 0.1"
    assert claimed(row(kind="ratio", direction="at_most")) == "acc ratio ≤ 0.1"
    assert claimed(row(kind="value")) == "acc ≥ 0.1"
