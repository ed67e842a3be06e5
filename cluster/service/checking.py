"""What `fairsweep doctor` says: a question, its answer, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

OK, WARN, BAD = "ok", "warn", "bad"
NOT_HERE = "-"  # what need not be, and is not: neither good nor bad


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
    names = {OK: "ok", WARN: "warn", BAD: "bad", NOT_HERE: "not_installed"}
    counts = {name: sum(c.state == state for c in checks) for state, name in names.items()}
    return {**counts, "checks": [asdict(check) for check in checks]}
