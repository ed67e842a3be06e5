"""Spaces of neural architectures: sampled, mutated, crossed, enumerated and encoded alike; one file a space."""

from fairsweep.search_spaces.architectures.base import (
    Architecture,
    ArchitectureError,
    ArchitectureSpace,
    Choice,
)
from fairsweep.search_spaces.architectures.catalog import create_space, kinds, read_size, sizes, space_of_id

__all__ = [
    "Architecture", "ArchitectureError", "ArchitectureSpace", "Choice",
    "create_space", "kinds", "read_size", "sizes", "space_of_id",
]  # fmt: skip
