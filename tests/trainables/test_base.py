"""What a claim may say."""

from __future__ import annotations

from typing import Any

import pytest

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
        ({"kind": "value", "baseline": None, "tunes": ("lr",)}, "there is no baseline"),
    ],
)
def test_a_margin_says_where_it_comes_from(changes: dict[str, Any], words: str) -> None:
    assert Claim(**GIVEN).null == 0 and Claim(**GIVEN | {"kind": "ratio", "margin": 1.0}).null == 1
    with pytest.raises(ValueError, match="claim c: ") as error:
        Claim(**GIVEN | changes)
    assert words in str(error.value)
