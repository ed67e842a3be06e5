"""What every space of architectures has in common: an architecture is one option for each of a list of choices.

Spaces know nothing of PyTorch. A supernet (`search_spaces.supernets`) gives weights to the options of a space; a
search algorithm (`search_spaces.algorithms`) proposes its members; a table names them by their text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np

from fairsweep.search_spaces.space import Space

ATTEMPTS = 1000  # draws until a valid architecture must have come up
LISTED = 100_000  # encodings up to which a space is listed rather than drawn from


class ArchitectureError(ValueError):
    """An architecture or its text that does not belong to the space; says which part and what would be right."""


@dataclass(frozen=True)
class Choice:
    """One decision: its name and the options to choose from."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True, order=True)
class Architecture:
    """One option for each choice of a space, as indices; hashable, and equal only within the same space."""

    space: str
    indices: tuple[int, ...]


class ArchitectureSpace(ABC):
    """A set of architectures over `choices`.

    Everything random takes a seed or a `numpy.random.Generator`. What is sampled, mutated, crossed or enumerated is
    valid. Two encodings of the same network have the same `canonical` architecture.
    """

    kind: ClassVar[str]

    # -- what a space gives ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def choices(self) -> tuple[Choice, ...]:
        """The decisions, in the order of `Architecture.indices`."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Identity of the space: kind, sizes, and a version that changes with the meaning of its encodings.

        Written kind/version?field=value&field=value, all fields of the dataclass in their order; lists joined by
        commas, "all" for the default of a field. `space_of_id` reads it back.
        """

    def is_valid(self, architecture: Architecture) -> bool:
        """Whether the architecture is a network: by default every combination is."""
        return True

    def canonical(self, architecture: Architecture) -> Architecture:
        """The representative of all encodings of the same network, trained alone; by default the encoding itself.

        In a supernet they use different weights, and so get different scores.
        """
        return architecture

    @abstractmethod
    def format(self, architecture: Architecture) -> str:
        """The canonical text of an architecture, in the notation of the field."""

    @abstractmethod
    def parse(self, text: str) -> Architecture:
        """The architecture that `text` names, a valid one. ArchitectureError says what is wrong with it."""

    # -- sizes and members ----------------------------------------------------------------------------

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each choice by name."""
        return {choice.name: k for k, choice in enumerate(self.choices)}

    @property
    def size(self) -> int:
        """Number of encodings, invalid and equivalent ones included."""
        return prod(len(choice.options) for choice in self.choices)

    def architecture(self, indices: Sequence[int]) -> Architecture:
        """The architecture of these options. ArchitectureError if one is out of range."""
        if len(indices) != len(self.choices):
            raise ArchitectureError(
                f"{self.id}: {len(indices)} options given for {len(self.choices)} choices"
            )
        for choice, index in zip(self.choices, indices, strict=True):
            if not 0 <= int(index) < len(choice.options):
                raise ArchitectureError(
                    f"{self.id}: {choice.name}={index}: must be 0 to {len(choice.options) - 1} "
                    f"({', '.join(choice.options)})"
                )
        return Architecture(self.id, tuple(int(i) for i in indices))

    def check(self, architecture: Architecture) -> Architecture:
        """The architecture itself, if it is a valid one of this space. ArchitectureError otherwise."""
        if architecture.space != self.id:
            raise ArchitectureError(
                f"an architecture of {architecture.space} was given where one of {self.id} belongs"
            )
        self.architecture(architecture.indices)
        if not self.is_valid(architecture):
            raise ArchitectureError(f"{self.format(architecture)}: not a valid network of {self.id}")
        return architecture

    def option(self, architecture: Architecture, choice: str) -> str:
        """The option that the architecture takes at `choice`."""
        k = self.positions[choice]
        return self.choices[k].options[architecture.indices[k]]

    def options(self, architecture: Architecture) -> dict[str, str]:
        """All options by the name of their choice: the configuration that a search proposes."""
        return {c.name: c.options[i] for c, i in zip(self.choices, architecture.indices, strict=True)}

    def from_options(self, options: Mapping[str, str]) -> Architecture:
        """The architecture with these options; the inverse of `options`."""
        missing = [c.name for c in self.choices if c.name not in options]
        unknown = [name for name in options if name not in self.positions]
        if missing or unknown:
            raise ArchitectureError(f"{self.id}: choices missing: {missing}, unknown: {unknown}")
        indices = []
        for choice in self.choices:
            if options[choice.name] not in choice.options:
                raise ArchitectureError(
                    f"{self.id}: {choice.name}={options[choice.name]!r}: must be one of {', '.join(choice.options)}"
                )
            indices.append(choice.options.index(options[choice.name]))
        return self.architecture(indices)

    def enumerate(self) -> Iterator[Architecture]:
        """All valid architectures, in the order of their indices."""
        for indices in product(*(range(len(c.options)) for c in self.choices)):
            architecture = Architecture(self.id, indices)
            if self.is_valid(architecture):
                yield architecture

    def sample(
        self,
        seed: int | np.random.Generator,
        probabilities: Mapping[str, Sequence[float]] | None = None,
    ) -> Architecture:
        """An architecture with independent options, uniform or by `probabilities` (choice -> one an option).

        Invalid draws are drawn anew. ArchitectureError if no valid one comes up, or for probabilities that are not.
        """
        rng = np.random.default_rng(seed)
        given = self._distributions(probabilities or {})
        for _ in range(ATTEMPTS):
            indices = tuple(
                int(rng.choice(len(c.options), p=given[c.name]))
                if c.name in given
                else int(rng.integers(len(c.options)))
                for c in self.choices
            )
            architecture = Architecture(self.id, indices)
            if self.is_valid(architecture):
                return architecture
        raise ArchitectureError(f"{self.id}: {ATTEMPTS} draws gave no valid architecture")

    def acceptance(self, probabilities: Mapping[str, Sequence[float]] | None = None) -> float:
        """The probability that a draw of `sample` is valid, so that it is not drawn anew; exact.

        A valid architecture is thus sampled with the product of the probabilities of its options over this. Listed
        here where some are invalid; a space too large for that must know better.
        """
        if type(self).is_valid is ArchitectureSpace.is_valid:
            return 1.0
        if self.size > LISTED:
            raise NotImplementedError(f"{self.id}: acceptance of {self.size:,} encodings")
        given = self._distributions(probabilities or {})
        p = [given.get(c.name, np.full(len(c.options), 1 / len(c.options))) for c in self.choices]
        return float(sum(prod(q[i] for q, i in zip(p, a.indices, strict=True)) for a in self.enumerate()))

    def _distributions(self, probabilities: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
        found = {}
        for name, given in probabilities.items():
            if name not in self.positions:
                raise ArchitectureError(f"{self.id}: probabilities of {name}: no such choice")
            p = np.asarray(given, float)
            count = len(self.choices[self.positions[name]].options)
            if p.shape != (count,) or not np.all(p >= 0) or not np.isclose(p.sum(), 1):
                raise ArchitectureError(
                    f"{self.id}: probabilities of {name}={p.tolist()}: must be {count}, none below 0, of sum 1"
                )
            found[name] = p / p.sum()
        return found

    def sample_distinct(self, count: int, seed: int | np.random.Generator) -> list[Architecture]:
        """`count` valid architectures drawn one after the other; one whose `canonical` came up before is passed over.

        ArchitectureError if there are not that many, or a large space gave nothing new for `ATTEMPTS` draws.
        """
        rng = np.random.default_rng(seed)
        found: dict[Architecture, Architecture] = {}
        if self.size <= LISTED:
            members = list(self.enumerate())
            order = rng.permutation(len(members))
            draws: Iterator[Architecture] = (members[k] for k in order)
        else:
            draws = iter(lambda: self.sample(rng), None)
        missed = 0
        while len(found) < count and (drawn := next(draws, None)) is not None:
            missed = missed + 1 if self.canonical(drawn) in found else 0
            if missed > ATTEMPTS and self.size > LISTED:
                break
            found.setdefault(self.canonical(drawn), drawn)
        if len(found) < count:
            raise ArchitectureError(f"{self.id}: count={count}: only {len(found)} different ones were found")
        return list(found.values())

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All valid architectures that differ in exactly one choice."""
        for k, choice in enumerate(self.choices):
            for index in range(len(choice.options)):
                if index != architecture.indices[k]:
                    other = Architecture(
                        self.id, (*architecture.indices[:k], index, *architecture.indices[k + 1 :])
                    )
                    if self.is_valid(other):
                        yield other

    def mutate(self, architecture: Architecture, seed: int | np.random.Generator) -> Architecture:
        """A neighbour, drawn uniformly. ArchitectureError if there is none."""
        found = list(self.neighbours(architecture))
        if not found:
            raise ArchitectureError(f"{self.format(architecture)} has no valid neighbour in {self.id}")
        return found[int(np.random.default_rng(seed).integers(len(found)))]

    def crossover(self, a: Architecture, b: Architecture, seed: int | np.random.Generator) -> Architecture:
        """Each choice from one parent or the other, evenly; the first parent if no draw is valid."""
        self.check(a)
        self.check(b)
        rng = np.random.default_rng(seed)
        for _ in range(ATTEMPTS):
            mask = rng.integers(2, size=len(self.choices))
            child = Architecture(
                self.id,
                tuple(x if first else y for x, y, first in zip(a.indices, b.indices, mask, strict=True)),
            )
            if self.is_valid(child):
                return child
        return a

    # -- other notations ------------------------------------------------------------------------------

    def encode(self, architecture: Architecture) -> np.ndarray:
        """One-hot options of all choices, one after the other: float32 of shape (sum of options,)."""
        parts = [
            np.eye(len(c.options), dtype=np.float32)[i]
            for c, i in zip(self.choices, architecture.indices, strict=True)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def decode(self, vector: np.ndarray) -> Architecture:
        """The architecture whose one-hot code is nearest: the largest entry of each choice.

        Not checked by `is_valid`: a predictor's code may be nearest to what is no network.
        """
        width = sum(len(c.options) for c in self.choices)
        if vector.shape != (width,):
            raise ArchitectureError(f"{self.id}: a code has shape ({width},), got {vector.shape}")
        indices, start = [], 0
        for choice in self.choices:
            indices.append(int(np.argmax(vector[start : start + len(choice.options)])))
            start += len(choice.options)
        return self.architecture(indices)

    def to_space(self) -> Space:
        """The same choices as a hyperparameter space, for searches, Optuna, W&B, Hydra and Arrow columns."""
        declarations: dict[str, Any] = {}
        for c in self.choices:
            *groups, last = c.name.split(".")
            node = declarations
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = {"type": "categorical", "choices": list(c.options), "paper": c.options[0]}
        return Space.from_mapping(declarations, source=self.id, name=self.kind)


def last_in_stages(indices: Sequence[int], stages: Sequence[int], idle: int) -> tuple[int, ...]:
    """`indices` with the option `idle`, which does nothing, moved to the end of each stage; its first choice stays."""
    found: list[int] = []
    for count in stages:
        first, *others = indices[len(found) : len(found) + count]
        found += [first, *sorted(others, key=lambda index: index == idle)]
    return tuple(found) if stages else tuple(indices)
