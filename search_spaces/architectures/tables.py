"""Tables of architectures: what each network of a space reaches when it is trained alone, seed by seed.

A search is judged against a table without training anything, and a supernet by how well it ranks one.
`published.py` reads the tables of others, `files.py` our own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from fairsweep.search_spaces._parameter import hint
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureError, ArchitectureSpace


class TableError(ValueError):
    """A table, or a question to it, that is not right; one line that says what would be."""


@dataclass(frozen=True)
class Metric:
    """What a column of values means. mode: which of two values is better. split: the examples measured on."""

    mode: Literal["max", "min"]
    split: str
    unit: str = "percent"


@dataclass(frozen=True)
class Source:
    """Where a table comes from. protocol: how its networks were trained, as JSON; of those that others trained only
    the `data`."""

    title: str
    licence: str
    version: str
    protocol: Mapping[str, Any]
    command: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """Values of the architectures `keys` of `space`, one row each.

    metrics: what the values mean; the first is the one that a search looks at.
    values: metric -> (rows, seeds), NaN where an architecture has fewer seeds than others.
    prices: cost -> (rows,): `parameters` and `flops` (multiply-adds) as counts, `latency_ms`, `train_seconds`.
    """

    space: ArchitectureSpace
    keys: tuple[Architecture, ...]
    metrics: Mapping[str, Metric]
    values: Mapping[str, np.ndarray]
    prices: Mapping[str, np.ndarray]
    source: Source

    def __post_init__(self) -> None:
        if not self.keys or not self.metrics:
            raise TableError(f"{self.source.title}: a table has at least one architecture and one metric")
        if len(self._rows) != len(self.keys):
            raise TableError(f"{self.source.title}: an architecture stands in the table twice")
        for name, array in [*self.values.items(), *self.prices.items()]:
            if len(array) != len(self.keys):
                raise TableError(
                    f"{self.source.title}: {name} has {len(array)} rows for {len(self.keys)} architectures"
                )

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, architecture: Architecture) -> bool:
        return architecture in self._rows

    def __iter__(self) -> Iterator[Architecture]:
        return iter(self.keys)

    @cached_property
    def _rows(self) -> dict[Architecture, int]:
        return {architecture: row for row, architecture in enumerate(self.keys)}

    @cached_property
    def _means(self) -> dict[str, np.ndarray]:
        return {name: np.nanmean(array, axis=1) for name, array in self.values.items()}

    @property
    def data(self) -> str | None:
        """The data set that the networks were trained on; None if the table does not say."""
        return self.source.protocol.get("data")

    @property
    def metric(self) -> str:
        """The metric that a search looks at."""
        return next(iter(self.metrics))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the space, the architectures, and all values and costs: the same from whatever file."""
        found = hashlib.sha256(self.space.id.encode())
        order = sorted(range(len(self)), key=lambda row: self.keys[row].indices)
        for row in order:
            found.update(bytes(str(self.keys[row].indices), "ascii"))
        for name, array in sorted([*self.values.items(), *self.prices.items()]):
            found.update(name.encode())
            found.update(np.ascontiguousarray(array[order], "<f8").tobytes())
        return found.hexdigest()

    # -- questions ------------------------------------------------------------------------------------

    def means(self, metric: str | None = None) -> np.ndarray:
        """Mean over the seeds of every architecture, in the order of `keys`: float64 of shape (rows,)."""
        return self._means[self._metric(metric)]

    def value(self, architecture: Architecture, metric: str | None = None) -> float:
        """Mean over the seeds. TableError if the table does not have the architecture or the metric."""
        return float(self._means[self._metric(metric)][self._row(architecture)])

    def seeds(self, architecture: Architecture, metric: str | None = None) -> tuple[float, ...]:
        """The value of every seed. TableError as `value`."""
        found = self.values[self._metric(metric)][self._row(architecture)]
        return tuple(float(x) for x in found if not math.isnan(x))

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """All costs by name. TableError if the table does not have the architecture."""
        row = self._row(architecture)
        return {name: float(array[row]) for name, array in self.prices.items()}

    def best(self, metric: str | None = None) -> Architecture:
        """The architecture of the best mean; the first of equal ones."""
        name = self._metric(metric)
        means = self._means[name]
        return self.keys[int(np.argmax(means) if self.metrics[name].mode == "max" else np.argmin(means))]

    def over(self, space: ArchitectureSpace) -> Table:
        """The part of the table that lies in another space of the same notation, as members of that space.

        So a table of all cells serves a search among connected ones. TableError if no architecture does.
        """
        if space.id == self.space.id:
            return self
        rows, keys = [], []
        for row, architecture in enumerate(self.keys):
            try:
                keys.append(space.check(space.parse(self.space.format(architecture))))
            except ArchitectureError:
                continue
            rows.append(row)
        if not rows:
            raise TableError(
                f"{self.source.title}: has no architecture of {space.id}, only of {self.space.id}"
            )
        return replace(self._part(rows), space=space, keys=tuple(keys))

    def drawn(self, number: int | None) -> Table:
        """`number` of the architectures, drawn without repetition, always the same; all where there are no more."""
        if number is None or number >= len(self):
            return self
        return self._part(np.sort(np.random.default_rng(0).choice(len(self), number, replace=False)).tolist())

    def _part(self, rows: list[int]) -> Table:
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            values={name: array[rows] for name, array in self.values.items()},
            prices={name: array[rows] for name, array in self.prices.items()},
        )

    def _metric(self, name: str | None) -> str:
        if name is None:
            return self.metric
        if name not in self.metrics:
            raise TableError(f"metric={name}: not in {self.source.title}; {hint(name, self.metrics)}")
        return name

    def _row(self, architecture: Architecture) -> int:
        row = self._rows.get(architecture)
        if row is not None:
            return row
        if architecture.space != self.space.id:
            raise TableError(
                f"{self.source.title}: has architectures of {self.space.id}, not of {architecture.space}; "
                "table.over(space) gives those it shares"
            )
        raise TableError(f"{self.source.title}: has no {self.space.format(architecture)}")


def padded(values: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
    """Lists of different lengths as one array (rows, longest), NaN where a list has ended."""
    width = max((len(row) for row in values), default=0)
    found = np.full((len(values), width), np.nan)
    for k, row in enumerate(values):
        found[k, : len(row)] = row
    return found
