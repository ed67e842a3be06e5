"""Rows of a benchmark: ratios, each of one run, with the worst of all runs named beside what was aimed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Row:
    """What is compared. aim: the ratio that was to be reached. high: whether more is better."""

    what: str
    aim: float
    high: bool = True
    ratios: list[float] = field(default_factory=list)

    @property
    def worst(self) -> float:
        return (min if self.high else max)(self.ratios)

    def __str__(self) -> str:
        reached = self.worst >= self.aim if self.high else self.worst <= self.aim
        sign = ">=" if self.high else "<="
        runs = ", ".join(f"{ratio:.2f}" for ratio in self.ratios)
        aim = f"aim {sign} {self.aim:g}: {'yes' if reached else 'NO'}"
        return f"{self.what:<68} {self.worst:8.2f}  ({aim}; runs {runs})"


class Rows:
    """Collects rows over several runs."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def add(self, what: str, ratio: float, aim: float, high: bool = True) -> None:
        """Enters the ratio of one run, and prints it."""
        self.rows.setdefault(what, Row(what, aim, high)).ratios.append(ratio)
        print(f"  {what}: {ratio:.2f}", flush=True)

    def report(self, say: Callable[[str], None] = print) -> None:
        say("worst of the runs:")
        for row in self.rows.values():
            say(str(row))
