"""How to cut a network, as JSON: with a fresh network of the same code it gives the small one, without big weights.

A recipe of erasing names the chains of operators that go; what is then cut of the rest is a recipe inside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.pruning.components import partition as partition_of
from fairsweep.search_spaces.pruning.construct import (
    How,
    Kept,
    SliceError,
    groups_gone,
    how_made,
    make,
    slice_module,
)
from fairsweep.search_spaces.pruning.erasing import ErasingError, ErasingGraph
from fairsweep.search_spaces.pruning.groups import Partition
from fairsweep.search_spaces.pruning.openings import OpeningError

VERSION = 2
# What a recipe of each version has. Up to version 1 it does not say how the small network was made but for its form, so
# that is chosen again by a proof.
NEEDED = {
    ("pruning", 1): ("frozen", "form", "kept"),
    ("pruning", 2): ("frozen", "form", "integers", "open_batch", "kept"),
    ("erasing", 1): ("erased", "then"),
    ("erasing", 2): ("erased", "then"),
}


class RecipeError(ValueError):
    """A recipe that is damaged, or of another network; says which part."""


def fingerprint(module: nn.Module) -> str:
    """Identity of an architecture: a hash of the names, shapes and types of all its tensors."""
    entries = [(name, tuple(t.shape), str(t.dtype)) for name, t in module.state_dict().items()]
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()[:16]


def recipe(module: nn.Module, partition: Partition, kept: Kept, small: nn.Module) -> dict[str, Any]:
    """What `slice_module` did to the full `module`, as JSON.

    kept: component -> groups that stay. small: what `slice_module` gave, of which only how it was made is recorded:
    its form, and the whole numbers that became smaller in its modules.
    """
    how = how_made(module, small)
    sizes = {c.name: c.size for c in partition.components}
    return {
        **_about("pruning", module, partition),
        "frozen": sorted(
            {name for name, _ in module.named_parameters()} - set(partition.origin.analysis.trainable)
        ),
        "form": how.form,
        "integers": {
            path: {name: list(pair) for name, pair in found.items()} for path, found in how.integers.items()
        },
        "open_batch": how.open_batch,
        "kept": {
            name: sorted(map(int, groups))
            for name, groups in kept.items()
            if len(groups) < sizes.get(name, 0)
        },
    }


def erasing_recipe(
    module: nn.Module, graph: ErasingGraph, erased: Iterable[str], then: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What `graph.extract` did to the full `module`, as JSON. then: the `recipe` of what was cut of the result."""
    gone = frozenset(erased)
    return {
        **_about("erasing", module, graph.whole),
        "erased": sorted(gone),
        "open_batch": graph.open_batch.get(gone),
        "then": None if then is None else dict(then),
    }


def _about(kind: str, module: nn.Module, partition: Partition) -> dict[str, Any]:
    return {
        "recipe": kind,
        "version": VERSION,
        "model": f"{type(module).__module__}.{type(module).__qualname__}",
        "fingerprint": fingerprint(module),
        "inputs": [_describe(value) for value in partition.origin.inputs],
    }


def apply_recipe(module: nn.Module, recipe: Mapping[str, Any]) -> nn.Module:
    """The small network of the `recipe`, made from a full one of the same code with any weights.

    Its own weights come from `load_state_dict` of what was saved. RecipeError if the recipe is of another network.
    """
    kind, version = str(recipe.get("recipe")), recipe.get("version")
    kinds = list(dict.fromkeys(k for k, _ in NEEDED))
    if kind not in kinds:
        raise RecipeError(f"recipe={kind}: must be one of {', '.join(kinds)}")
    if not isinstance(version, int) or (kind, version) not in NEEDED:
        what = (
            "version is missing"
            if version is None
            else f"version={version}: this reads versions 1 to {VERSION}"
        )
        raise RecipeError(what)
    missing = [k for k in ("fingerprint", "inputs", *NEEDED[kind, version]) if k not in recipe]
    if missing:
        raise RecipeError(f"not a recipe of {kind}: {', '.join(missing)} is missing")
    if recipe["fingerprint"] != fingerprint(module):
        raise RecipeError(
            f"fingerprint={recipe['fingerprint']}: of {recipe.get('model')}; the given {type(module).__name__} has "
            f"{fingerprint(module)}: its tensors are others"
        )
    inputs = [_restore(entry) for entry in recipe["inputs"]]
    if kind == "erasing":
        try:
            small = ErasingGraph(module, inputs).extract(module, recipe["erased"], recipe.get("open_batch"))
        except ErasingError as error:
            raise RecipeError(f"erased: {error}") from None
        return small if recipe["then"] is None else apply_recipe(small, recipe["then"])
    found = partition_of(module, inputs, recipe["frozen"])
    if version == 1:
        return slice_module(module, found, recipe["kept"], recipe["form"])
    integers = {
        path: {name: (before, after) for name, (before, after) in changes.items()}
        for path, changes in recipe["integers"].items()
    }
    how = How(recipe["form"], integers, recipe["open_batch"])
    try:
        return make(module, found, groups_gone(found, recipe["kept"]), how).train(module.training)
    except (SliceError, OpeningError) as error:
        raise RecipeError(str(error)) from None


def _describe(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_describe(entry) for entry in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _describe(entry) for key, entry in value.items()}}
    raise RecipeError(
        f"inputs: {type(value).__name__} cannot be written as JSON; tensors and plain values can, also nested"
    )


def _restore(entry: Mapping[str, Any]) -> Any:
    if "value" in entry:
        return entry["value"]
    if "dict" in entry:
        return {key: _restore(value) for key, value in entry["dict"].items()}
    for kind in (list, tuple):
        if kind.__name__ in entry:
            return kind(_restore(value) for value in entry[kind.__name__])
    dtype = getattr(torch, entry["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise RecipeError(f"dtype={entry['dtype']}: must be a type of PyTorch")
    return torch.zeros(entry["shape"], dtype=dtype)
