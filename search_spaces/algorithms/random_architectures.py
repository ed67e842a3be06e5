"""Random search over architectures: the baseline of every other."""

from __future__ import annotations

from typing import Any

import numpy as np

from fairsweep.search_spaces.algorithms.architecture_search import ArchitectureSearch
from fairsweep.search_spaces.architectures.base import Architecture


class RandomArchitectures(ArchitectureSearch):
    """Independent draws among the architectures within the limits, without replacement as far as `unique` says."""

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        return self.draw(rng), {}
