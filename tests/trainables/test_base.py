"""What a claim may say."""

from __future__ import annotations

from typing import Any

import pytest

from fairsweep.analysis.claims import judge
from fairsweep.trainables.base import Claim

GIVEN: dict[str, Any] = {
    "name": "c",
    "statement": "s",
    "treatment": {"a": 1},
    "baseline": {"a": 2},
    "metric": "m",
    "margin": 0.0,
    "origin": "direction",
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"margin": 0.1}, "margin=0.1: with origin='direction' it must be 0"),
        ({"kind": "ratio"}, "margin=0.0: with origin='direction' it must be 1"),
        ({"origin": "paper", "margin": 0.1}, "reason is missing"),
        ({"origin": "indifference", "margin": 0.1}, "reason is missing"),
        ({"origin": "pilot", "margin": 0.1, "reason": "it came out so"}, "origin='pilot'"),
        ({"baseline": None}, "baseline=None"),
        ({"reference": 0.5}, "reference=0.5"),
        ({"origin": "indifference", "reason": "r", "margin": 0.1, "reference": 0.2}, "reference=0.2"),
        ({"origin": "paper", "reason": "r", "margin": 0.1, "reference": 0.1}, "reference=0.1"),
        ({"kind": "value", "baseline": None, "tunes": ("lr",)}, "there is no baseline"),
    ],
)
def test_a_margin_says_where_it_comes_from(changes: dict[str, Any], words: str) -> None:
    assert Claim(**GIVEN).null == 0 and Claim(**GIVEN | {"kind": "ratio", "margin": 1.0}).null == 1
    with pytest.raises(ValueError, match="claim c: ") as error:
        Claim(**GIVEN | changes)
    assert words in str(error.value)


def test_a_tie_is_judged_on_its_margin_alone() -> None:
    """Of arms that are equal nothing says that one is better, and that is not what such a claim says."""
    tie = {"kind": "ratio", "direction": "at_most", "origin": "indifference", "margin": 1.03, "reason": "r"}
    values = [0.30, 0.31, 0.29, 0.32, 0.30, 0.28]
    others = [0.301, 0.308, 0.291, 0.319, 0.302, 0.2795]
    for more, verdict in (({}, "inconclusive"), ({"reference": 1.03}, "holds")):
        claim = Claim(**GIVEN | tie | more)
        found = judge(values, others, claim.kind, claim.direction, claim.margin, claim.null)
        assert (found.direction.verdict, found.size.verdict) == (verdict, "holds")
