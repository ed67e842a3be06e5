"""Pruning of whole channels and heads: which groups of variables can go, and the network without them."""

from search_spaces.pruning.components import partition
from search_spaces.pruning.construct import SliceError, kept_groups, slice_module, zero_groups
from search_spaces.pruning.groups import Component, Member, Partition
from search_spaces.pruning.recipes import RecipeError, apply_recipe, recipe
from search_spaces.pruning.report import explain
from search_spaces.pruning.trace import TraceError

__all__ = [
    "Component",
    "Member",
    "Partition",
    "RecipeError",
    "SliceError",
    "TraceError",
    "apply_recipe",
    "explain",
    "kept_groups",
    "partition",
    "recipe",
    "slice_module",
    "zero_groups",
]
