"""How to cut a network, as JSON: with a fresh network of the same code it gives the small one, without big weights.

A recipe of erasing names the chains of operators that go; what is then cut of the rest is a recipe inside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from search_spaces.pruning.components import partition as partition_of
from search_spaces.pruning.construct import Kept, slice_module
from search_spaces.pruning.erasing import ErasingError, ErasingGraph
from search_spaces.pruning.groups import Partition

VERSION = 1
NEEDED = {"pruning": ("frozen", "form", "kept"), "erasing": ("erased", "then")}


class RecipeError(ValueError):
    """A recipe that is damaged, or of another network; says which part."""


def fingerprint(module: nn.Module) -> str:
    """Identity of an architecture: a hash of the names, shapes and types of all its tensors."""
    entries = [(name, tuple(t.shape), str(t.dtype)) for name, t in module.state_dict().items()]
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()[:16]


def recipe(module: nn.Module, partition: Partition, kept: Kept, small: nn.Module) -> dict[str, Any]:
    """What `slice_module` did to the full `module`, as JSON.

    kept: component -> groups that stay. small: what `slice_module` gave, of which only the form is recorded.
    """
    sizes = {c.name: c.size for c in partition.components}
    return {
        **_about("pruning", module, partition),
        "frozen": sorted(
            {name for name, _ in module.named_parameters()} - set(partition.origin.analysis.trainable)
        ),
        "form": "graph" if isinstance(small, fx.GraphModule) else "module",
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
    about = _about("erasing", module, graph.whole)
    return {**about, "erased": sorted(erased), "then": None if then is None else dict(then)}


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
    kind = recipe.get("recipe")
    if kind not in NEEDED:
        raise RecipeError(f"recipe={kind}: must be one of {', '.join(NEEDED)}")
    missing = [k for k in ("version", "fingerprint", "inputs", *NEEDED[kind]) if k not in recipe]
    if missing:
        raise RecipeError(f"not a recipe of {kind}: {', '.join(missing)} is missing")
    if recipe["version"] != VERSION:
        raise RecipeError(f"version={recipe['version']}: this reads version {VERSION}")
    if recipe["fingerprint"] != fingerprint(module):
        raise RecipeError(
            f"fingerprint={recipe['fingerprint']}: of {recipe.get('model')}; the given {type(module).__name__} has "
            f"{fingerprint(module)}: its tensors are others"
        )
    inputs = [_restore(entry) for entry in recipe["inputs"]]
    if kind == "erasing":
        try:
            small = ErasingGraph(module, inputs).extract(module, recipe["erased"])
        except ErasingError as error:
            raise RecipeError(f"erased: {error}") from None
        return small if recipe["then"] is None else apply_recipe(small, recipe["then"])
    found = partition_of(module, inputs, recipe["frozen"])
    return slice_module(module, found, recipe["kept"], recipe["form"])


def _describe(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise RecipeError(
        f"inputs: {type(value).__name__} cannot be written as JSON; tensors and plain values can"
    )


def _restore(entry: Mapping[str, Any]) -> Any:
    if "shape" not in entry:
        return entry["value"]
    dtype = getattr(torch, entry["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise RecipeError(f"dtype={entry['dtype']}: must be a type of PyTorch")
    return torch.zeros(entry["shape"], dtype=dtype)
