"""A network found by search over a supernet, as files: see `search_spaces.deployment` for what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.catalog import create_space
from fairsweep.search_spaces.architectures.mbconv import MBConvSpace
from fairsweep.search_spaces.deployment import (
    ONNX,
    PROGRAM,
    RECIPE,
    WEIGHTS,
    batch_of,
    load_program,
    read_recipe,
    run_onnx,
    shapes,
    write_network,
)
from fairsweep.search_spaces.interface import Deployed, ExportError, Interface, preprocessing_of
from fairsweep.search_spaces.normalisation import keep_running_statistics, normalisation
from fairsweep.search_spaces.supernets.base import Supernet
from fairsweep.search_spaces.supernets.catalog import build_supernet
from fairsweep.search_spaces.supernets.mbconv_branches import BranchSupernet

__all__ = [
    "ONNX", "PROGRAM", "RECIPE", "WEIGHTS", "ExportError", "load_network", "load_program", "read_recipe", "run_onnx",
    "save_network",
]  # fmt: skip


def save_network(
    folder: str | Path,
    supernet: Supernet,
    path: Architecture,
    module: nn.Module,
    given: Tensor | Interface,
    onnx: bool | None = None,
    reported: Mapping[str, Any] | None = None,
    strict: bool = True,
) -> dict[str, Any]:
    """Writes `module`, which is `extract(path)` or `build(path)` of `supernet`, recalibrated or not. The recipe.

    Everything else is as in `write_network`. ExportError if the module is no network of `path`.
    """
    made: dict[str, Any] = {
        "kind": supernet.kind,
        "config": dict(supernet.config()),
        "space": supernet.space.id,
        "architecture": supernet.space.format(supernet.space.check(path)),
        "form": "extracted",
    }
    made["form"] = _form({**made, "normalisation": normalisation(module)}, module)
    return write_network(folder, module, given, made, reported, onnx, strict)


def load_network(folder: str | Path, full: nn.Module | None = None) -> nn.Module:
    """The network in `folder`, in evaluation mode, on the CPU; built from its recipe and its own weights alone.

    It takes what its program takes: raw examples where the recipe knows them. full: for a network that was cut out of
    another one, a fresh one of the same code, with any weights.
    """
    recipe = read_recipe(folder)
    if "kind" in recipe:
        module = _skeleton(recipe, recipe["form"])
    elif full is None:
        raise ExportError(
            f"{folder}: the network was cut out of {recipe.get('model', 'another one')}: give one as full="
        )
    elif "recipe" in recipe:
        from fairsweep.search_spaces.pruning import apply_recipe

        module = apply_recipe(full, recipe)
    else:
        module = full
    weights = torch.load(Path(folder) / WEIGHTS, map_location="cpu", weights_only=True)
    module.load_state_dict(weights, assign=True)
    before = preprocessing_of(recipe)
    least = batch_of(recipe)["least"]
    return (module if before is None else Deployed(module, before, least)).eval()


def _skeleton(recipe: Mapping[str, Any], form: str) -> nn.Module:
    """The network without its weights: tensors are on the meta device."""
    with torch.device("meta"):
        supernet = _supernet(recipe["kind"], recipe["config"])
        if supernet.space.id != recipe["space"]:
            raise ExportError(
                f"space={recipe['space']}: this version builds {supernet.space.id} by the same recipe"
            )
        path = supernet.space.parse(recipe["architecture"])
        module = supernet.extract(path) if form == "extracted" else supernet.build(path)
        if recipe["normalisation"] == "running":
            keep_running_statistics(module)
    return module


def _supernet(kind: str, config: Mapping[str, Any]) -> Supernet:
    if kind != BranchSupernet.kind:
        return build_supernet(kind, **config)
    of_space = {field.name for field in fields(MBConvSpace)}
    space = create_space(MBConvSpace.kind, **{k: v for k, v in config.items() if k in of_space})
    assert isinstance(space, MBConvSpace)
    return BranchSupernet(space, **{k: v for k, v in config.items() if k not in of_space})


def _form(recipe: Mapping[str, Any], module: nn.Module) -> str:
    """Whether `module` has the tensors of `extract(path)` or of `build(path)`. ExportError if of neither."""
    given = dict(shapes(module))
    for form in ("extracted", "built"):
        if dict(shapes(_skeleton(recipe, form))) == given:
            return form
    raise ExportError(f"the module is no network of {recipe['architecture']}: its tensors are others")
