"""What `fairsweep doctor` says: a question, its answer, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

OK, WARN, BAD = "ok", "warn", "bad"


@dataclass(frozen=True)
class Check:
    """A question and its answer. todo: what to do, where it is not ok."""

    about: str
    state: str
    said: str
    todo: str = ""


def verdict(checks: Iterable[Check]) -> int:
    """The exit code: 1 if anything is bad."""
    return int(any(check.state == BAD for check in checks))


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    counts = {state: sum(c.state == state for c in checks) for state in (OK, WARN, BAD)}
    return {**counts, "checks": [asdict(check) for check in checks]}
