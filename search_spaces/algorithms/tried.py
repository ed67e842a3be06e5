"""Which configurations of a space were asked for, so that none is run twice."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from fairsweep.search_spaces.space import Space, SpaceError


class Tried:
    """The configurations that a search has asked for or adopted. With `repeats` nothing is ever in it."""

    def __init__(self, space: Space, repeats: bool = False) -> None:
        self.space, self.repeats = space, repeats
        self._seen: set[tuple[Any, ...]] = set()
        self._size = 0  # the space has at least so many configurations

    def _key(self, config: Mapping[str, Any]) -> tuple[Any, ...]:
        """The searched values, steps by their number."""
        found = []
        for name, value in config.items():
            p = self.space.parameters[name]
            if not p.fixed:
                value = round((value - p.low) / p.step) if p.step is not None and p.low is not None else value
                found.append((name, value))
        return tuple(found)

    def add(self, config: Mapping[str, Any]) -> None:
        """Enters a configuration; one that is not of the space is passed over."""
        if not self.repeats:
            with suppress(SpaceError):
                self._seen.add(self._key(self.space.validate(config)))

    def __contains__(self, config: Mapping[str, Any]) -> bool:
        return self._key(config) in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def all(self) -> bool:
        """Whether every configuration of the space is in it."""
        while len(self) >= self._size:
            # A grid that is finer than the number of those seen has more of them, or all that there are.
            self._size = self.space.grid_size(2 * len(self) + 16)
            if self._size <= len(self):
                return len(self) > 0
        return False

    def another(self, rng: np.random.Generator) -> dict[str, Any]:
        """A random configuration that is not in it, while there is one (`all`)."""
        for _ in range(100):
            config = self.space.sample(rng)
            if config not in self:
                return config
        left = list(islice((c for c in self.space.grid(len(self) + 1) if c not in self), 1000))
        return left[int(rng.integers(len(left)))]
