"""Pruning of whole channels and heads, and erasing of operators: what can go, and the network without it."""

from fairsweep.search_spaces.pruning.components import partition
from fairsweep.search_spaces.pruning.construct import (
    SliceError,
    check_sliceable,
    kept_groups,
    slice_module,
    zero_groups,
)
from fairsweep.search_spaces.pruning.groups import Component, Member, Partition
from fairsweep.search_spaces.pruning.recipes import RecipeError, apply_recipe, erasing_recipe, recipe
from fairsweep.search_spaces.pruning.report import explain
from fairsweep.search_spaces.pruning.trace import TraceError

__all__ = [
    "Component",
    "Member",
    "Partition",
    "RecipeError",
    "SliceError",
    "TraceError",
    "apply_recipe",
    "check_sliceable",
    "erasing_recipe",
    "explain",
    "kept_groups",
    "partition",
    "recipe",
    "slice_module",
    "zero_groups",
]
