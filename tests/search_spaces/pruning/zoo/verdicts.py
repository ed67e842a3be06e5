"""What comes of a network of the zoo: exact, left whole, refused with one line, or wrong.

`python -m tests.search_spaces.pruning.zoo.verdicts FOLDER` applies the recipes in a folder to fresh networks and
compares their outputs with those that were kept there: what a user does with a recipe, in a process of its own.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fairsweep.search_spaces.pruning import (
    Partition,
    RecipeError,
    SliceError,
    TraceError,
    apply_recipe,
    check_sliceable,
    erasing_recipe,
    partition,
    recipe,
    slice_module,
)
from fairsweep.search_spaces.pruning.copies import copied
from fairsweep.search_spaces.pruning.disturbing import lengths, longer, sides
from fairsweep.search_spaces.pruning.erasing import ErasingError, ErasingGraph
from tests.search_spaces.pruning.zoo import attention, blocks, convolutions, sequences, vision  # noqa: F401  the list
from tests.search_spaces.pruning.zoo.cases import ZOO

BATCHES = (2, 1, 5)
NEAR = 2e-4  # of the largest entry of a tensor, in single precision
LOW = {"half_precision": 5e-2}  # of which a part is computed in bfloat16


@dataclass
class Verdict:
    """kind: "exact", "whole", "refused" or "wrong". text: why. notes: forms that were refused where another was taken.
    compared: outputs that were held against the full network's."""

    kind: str
    text: str = ""
    notes: list[str] = field(default_factory=list)
    compared: int = 0


class Wrong(Exception):
    """A network that was given out and computes something else."""


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = ZOO[name].build()
    with torch.no_grad():
        for key, p in net.named_parameters():
            if p.requires_grad and key != "words.weight":
                p += 0.05 * torch.randn_like(p)
    return net.eval()


def inputs(name: str, batch: int, seed: int = 0) -> tuple[Any, ...]:
    torch.manual_seed(100 + seed)
    return ZOO[name].inputs(batch)


def run(net: nn.Module, given: tuple[Any, ...]) -> list[Any]:
    """The leaves of what it gives, by the same random numbers every time."""
    with torch.no_grad():
        torch.manual_seed(7)
        return tree_leaves(net(*copy.deepcopy(given)))


def compare(full: list[Any], small: list[Any], near: float, where: str) -> None:
    if len(full) != len(small):
        raise Wrong(f"{where}: {len(small)} values in place of {len(full)}")
    for a, b in zip(full, small, strict=True):
        if not isinstance(a, Tensor):
            if a != b:
                raise Wrong(f"{where}: {b} in place of {a}")
            continue
        if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
            raise Wrong(f"{where}: of another shape, or finite elsewhere")
        a, b = a[a.isfinite()].double(), b[b.isfinite()].double()
        off, scale = (a - b).abs(), a.abs()
        big = scale[scale < 1e8]  # behind a mask stands -1e9
        if a.numel() and off.max() > near * (big.max() if big.numel() else scale.max()):
            raise Wrong(
                f"{where}: off by {off.max():.2g} where {big.max() if big.numel() else 0:.2g} is the largest"
            )


def zeroed(
    net: nn.Module, found: Partition, rng: np.random.Generator
) -> tuple[nn.Module, dict[str, list[int]]]:
    full, kept = copied(net, {}), {}
    values = dict(full.named_parameters())
    for component in found.prunable:
        order = rng.permutation(component.size)
        lost = int(rng.integers(1, max(2, round(0.7 * component.size) + 1)))
        found.zero(component, order[:lost].tolist(), values)
        kept[component.name] = sorted(order[lost:].tolist())
    return full, kept


def _agree(name: str, full: nn.Module, small: nn.Module, what: str) -> int:
    near, compared = LOW.get(name, NEAR), 0
    for batch in BATCHES:
        for seed in (0, 1):
            given = inputs(name, batch, seed)
            try:
                expected = run(full, given)
            except Exception:  # the full network does not take such a batch
                continue
            try:
                found = run(small, given)
            except Exception as error:
                raise Wrong(f"{what}, {batch} examples: {type(error).__name__}: {_line(error)}") from None
            compare(expected, found, near, f"{what}, {batch} examples")
            compared += 1
    for dims in (sides, lengths):
        given = longer(inputs(name, 2), 2, dims)
        expected, found = _tried(full, given), _tried(small, given)
        if expected is not None and found is not None:  # a graph may refuse other sizes
            compare(expected, found, near, f"{what}, longer inputs")
            compared += 1
    return compared


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _keep(folder: Path, name: str, steps: dict[str, Any], small: nn.Module) -> None:
    """What a process of its own needs to make the network again, and what that has to give."""
    place = next(p for k in count() if not (p := folder / f"{name}.{k}").exists())
    place.mkdir()
    (place / "recipe.json").write_text(json.dumps(steps))
    torch.save(small.state_dict(), place / "weights.pt")
    outputs = {batch: _tried(small, inputs(name, batch)) for batch in BATCHES}
    torch.save(outputs, place / "outputs.pt")


def _tried(net: nn.Module, given: tuple[Any, ...]) -> list[Any] | None:
    try:
        return run(net, given)
    except Exception:  # the full network does not take such a batch either
        return None


def channels(name: str, subsets: int, folder: Path | None) -> Verdict:
    """Random subsets of the groups of channels, in both forms, on several batches."""
    net = build(name)
    try:
        found = partition(net, inputs(name, 2))
        if not found.prunable:
            reasons = [c.reason for c in found.components] + list(found.untouched.values())
            return (
                Verdict("whole", next((r for r in reasons if r), ""))
                if all(reasons)
                else Verdict("wrong", "no reason")
            )
        check_sliceable(net, found)
    except (TraceError, SliceError) as error:
        return Verdict("refused", _line(error))
    verdict, rng = Verdict("exact"), np.random.default_rng(0)
    for subset in range(subsets):
        full, kept = zeroed(net, found, rng)
        for form in ("auto", "module", "graph")[: 3 if subset < 2 else 1]:
            try:
                small = slice_module(full, found, kept, form).eval()
            except SliceError as error:
                if form == "auto":
                    raise Wrong(f"refused after it was promised: {_line(error)}") from None
                verdict.notes.append(f"{form}: {_line(error)}")
                continue
            verdict.compared += _agree(name, full, small, f"channels, {form}")
            if folder is not None and form == "auto" and subset < 2:
                try:
                    _keep(folder, name, recipe(full, found, kept, small), small)
                except RecipeError as error:
                    verdict.notes.append(f"recipe: {_line(error)}")
    return verdict


def operators(name: str, subsets: int, folder: Path | None) -> Verdict:
    """Nothing erased, then random valid sets of removal structures."""
    net = build(name)
    try:
        graph = ErasingGraph(net, inputs(name, 2))
        graph.check(net)
        small = graph.extract(net, [])
    except (TraceError, ErasingError) as error:
        return Verdict("refused", _line(error))
    verdict, rng, names = Verdict("exact"), np.random.default_rng(0), list(graph.erasable)
    verdict.compared += _agree(name, net, small, "nothing erased")
    for _ in range(subsets if names else 0):
        erased = frozenset(rng.choice(names, rng.integers(1, len(names) + 1), replace=False).tolist())
        if not graph.is_valid(erased):
            continue
        full = copied(net, {})
        values = dict(full.named_parameters())
        for component in graph.partition.prunable:
            if component.name in erased | graph.orphans(erased):
                graph.partition.zero(component, [0], values)
        small = graph.extract(full, erased)
        verdict.compared += _agree(name, full, small, f"without {', '.join(sorted(erased))}")
        if folder is not None:
            try:
                _keep(folder, name, erasing_recipe(full, graph, erased), small)
            except RecipeError as error:
                verdict.notes.append(f"recipe: {_line(error)}")
    return verdict if names else Verdict("whole", "no chain can go", compared=verdict.compared)


def verdict(name: str, how: Any, subsets: int, folder: Path | None = None) -> Verdict:
    try:
        return how(name, subsets, folder)
    except Wrong as error:
        return Verdict("wrong", str(error))
    except Exception as error:  # whatever is no line for a user
        return Verdict("wrong", f"{type(error).__name__}: {_line(error)}")


def again(folder: Path) -> dict[str, str]:
    """Applies what is kept in `folder`, in another process: place -> what is wrong, or an empty text."""
    command = [sys.executable, "-W", "ignore", "-m", __name__, str(folder)]
    subprocess.run(command, check=True, timeout=1500)
    return json.loads((folder / "verdicts.json").read_text())


def _apply_all(folder: Path) -> None:
    found = {}
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        name = place.name.rpartition(".")[0]
        try:
            small = apply_recipe(build(name), json.loads((place / "recipe.json").read_text())).eval()
            small.load_state_dict(torch.load(place / "weights.pt"))
            for batch, outputs in torch.load(place / "outputs.pt", weights_only=False).items():
                if outputs is not None:
                    compare(
                        outputs,
                        run(small, inputs(name, batch)),
                        LOW.get(name, NEAR),
                        f"recipe, {batch} examples",
                    )
            found[place.name] = ""
        except Exception as error:
            found[place.name] = f"{type(error).__name__}: {_line(error)}"
    (folder / "verdicts.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _apply_all(Path(sys.argv[1]))
