"""A network as it is handed over: files that say what it takes, and programs that run without this package.

recipe.json says how the network is made, what it takes and gives, what is done to raw examples first, and what was
measured; weights.pt holds the network's tensors and nothing else; program.pt2 is the graph of `torch.export` from raw
examples to answers; network.onnx the same for other runtimes (with the extra `export`).
"""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fairsweep.search_spaces.interface import (
    ALONE,
    Deployed,
    ExportError,
    Interface,
)
from fairsweep.search_spaces.normalisation import normalisation

FORMAT = 2
READABLE = (1, FORMAT)  # programs of format 1 take standardised examples
RECIPE, WEIGHTS, PROGRAM, ONNX = "recipe.json", "weights.pt", "program.pt2", "network.onnx"
TOLERANCE = 1e-4  # largest difference of a program's answers, in units of the largest one
BY_BATCH = ("batch", "mixed")  # normalisations that need several examples
SETTLED = "the forward pass settles the number of examples"
EXTRA = "pip install 'fairsweep[export]'"


# ---- writing ----


def write_network(
    folder: str | Path,
    module: nn.Module,
    given: Tensor | Interface,
    made: Mapping[str, Any],
    reported: Mapping[str, Any] | None = None,
    onnx: bool | None = None,
    strict: bool = True,
) -> dict[str, Any]:
    """Writes `module` with its programs, and the recipe last of all. The recipe.

    given: what it takes and gives, or else a batch of what it takes. Programs take raw examples then, and any
    number of examples where the network does, of at least 2 if it normalises by batch; their answers for several
    numbers of them are compared with the module's before they are believed. made: how the network is made, as JSON.
    reported: what was measured of it. onnx: whether to write ONNX too; by default if the packages are there.
    strict: ExportError if a program cannot be written or differs; else the recipe says which and why, in "missing".
    """
    if onnx and not (find_spec("onnx") and find_spec("onnxscript")):
        raise ExportError(f"onnx=True: ONNX needs packages: {EXTRA}")
    module = copy.deepcopy(module).eval().cpu()
    normalised = _normalised(module)
    least = 2 if normalised in BY_BATCH else 1
    interface = given if isinstance(given, Interface) else None
    x = (given.example if isinstance(given, Interface) else given).detach().cpu()
    deployed = Deployed(module, None if interface is None else interface.preprocessing(), least).eval()
    recipe: dict[str, Any] = {
        "format": FORMAT,
        **made,
        "normalisation": normalised,
        "torch": torch.__version__,
        **({} if interface is None else interface.describe()),
        "batch": {"least": least, "most": None, "why": ALONE if least > 1 else ""},
        "reported": dict(reported or {}),
        "difference": {},
        "missing": {},
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RECIPE, WEIGHTS, PROGRAM, ONNX):
        (folder / name).unlink(missing_ok=True)
    torch.save(module.state_dict(), folder / WEIGHTS)
    program = None
    try:
        program = _write_program(folder, deployed, x, recipe)
    except ExportError as error:
        (folder / PROGRAM).unlink(missing_ok=True)
        if strict:
            raise
        recipe["missing"][PROGRAM] = str(error)
    try:
        _write_onnx(folder, deployed, program, x, recipe, onnx)
    except ExportError as error:
        (folder / ONNX).unlink(missing_ok=True)
        if strict and onnx:
            raise
        recipe["missing"][ONNX] = str(error)
    _write_recipe(folder, recipe)
    return recipe


def _normalised(module: nn.Module) -> str:
    """As `normalisation` says, and "mixed" where some layers normalise by the batch and some do not."""
    try:
        return normalisation(module)
    except ValueError:
        return "mixed"


def _write_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    part = folder / f"{RECIPE}.part"
    part.write_text(json.dumps(recipe, indent=1) + "\n")
    os.replace(part, folder / RECIPE)


def _write_program(folder: Path, deployed: Deployed, x: Tensor, recipe: dict[str, Any]) -> Any:
    program, most = export_program(deployed, x)
    if most is not None:
        recipe["batch"] |= {"most": most, "why": SETTLED}
    with warnings.catch_warnings():
        # PyTorch's own copies of an exported program warn of a change within PyTorch.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        torch.export.save(program, folder / PROGRAM)
    recipe["difference"]["program"] = _compared(PROGRAM, _program_in(folder), deployed, x, recipe["batch"])
    return program


def export_program(deployed: Deployed, x: Tensor) -> tuple[torch.export.ExportedProgram, int | None]:
    """The program of `deployed` for any number of examples, and None; where its forward pass settles their number
    and it takes one by one, that for one, and 1. ExportError if `torch.export` cannot follow it."""
    if len(x) < 2:  # of one example a graph is for one for ever
        x = torch.cat([x, x])
    batch = torch.export.Dim("batch", min=deployed.least)
    # Strictly, by the bytecode, `len(x)` is no number that settles the size; but more is beyond it than otherwise.
    ways: list[tuple[Tensor, dict[str, Any], int | None]] = [
        (x, {"dynamic_shapes": ({0: batch},), "strict": strict}, None) for strict in (False, True)
    ]
    if deployed.least == 1:
        ways.append((x[:1], {}, 1))
    first: Exception | None = None
    with _quiet():
        for given, how, most in ways:
            try:
                return torch.export.export(deployed, (given,), **how), most
            except Exception as error:  # what torch.export raises has no public base
                first = first or error
    assert first is not None
    raise _not_followed(first)


def _not_followed(error: Exception) -> ExportError:
    said = (str(error).strip().splitlines() or [""])[0]
    return ExportError(f"{PROGRAM}: torch.export cannot follow the network: {type(error).__name__}: {said}")


def _write_onnx(
    folder: Path, deployed: Deployed, program: Any, x: Tensor, recipe: dict[str, Any], wanted: bool | None
) -> None:
    if wanted is False:
        return
    if not (find_spec("onnx") and find_spec("onnxscript")):
        raise ExportError(f"{ONNX}: needs packages: {EXTRA}")
    if program is None:
        raise ExportError(f"{ONNX}: is made of {PROGRAM}, which is missing")
    given = x if recipe["batch"]["most"] is None else x[:1]
    with _quiet():
        try:
            torch.onnx.export(
                program, (given,), str(folder / ONNX), dynamo=True, external_data=False, verbose=False
            )
        except Exception as error:  # nor has what the exporter raises
            said = " ".join(str(error).split())[:300]
            raise ExportError(f"{ONNX}: {type(error).__name__}: {said}") from None
    if find_spec("onnxruntime"):
        recipe["difference"]["onnx"] = _compared(
            ONNX, lambda y: _onnx_session(folder)(y), deployed, x, recipe["batch"]
        )


def _quiet() -> Any:
    """The exporters of PyTorch report to standard output and to loggers what is here in the recipe."""
    return _Quiet()


class _Quiet(warnings.catch_warnings):
    names = (
        "torch.onnx",
        "torch.export",
        "torch._export",
        "torch.fx",
        "torch.onnx._internal.exporter",
        "onnxscript",
    )

    def __enter__(self) -> None:  # type: ignore[override]
        super().__enter__()
        warnings.simplefilter("ignore")
        self.levels = {name: logging.getLogger(name).level for name in self.names}
        for name in self.names:
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)


def _compared(name: str, run: Any, deployed: Deployed, x: Tensor, batch: Mapping[str, Any]) -> float:
    """The largest difference of `run` from `deployed` over batches of several sizes. ExportError if it is too large."""
    if batch["most"] is None:
        sizes = {len(x), max(batch["least"], len(x) - 1), max(batch["least"], 1)}
        batches = [x[:size] for size in sorted(sizes) if size <= len(x)] or [torch.cat([x] * batch["least"])]
    else:
        batches = [x[k : k + 1] for k in range(min(len(x), 3))]
    worst = 0.0
    for given in batches:
        with torch.no_grad():
            worst = max(worst, _difference(name, run(given), deployed(given)))
    return worst


def _difference(name: str, found: Any, wanted: Any) -> float:
    ours, theirs = tensors(wanted), tensors(found)
    if [tuple(t.shape) for t in ours] != [tuple(t.shape) for t in theirs]:
        raise ExportError(f"{name}: its answers have other shapes than the network's")
    worst = 0.0
    for right, given in zip(ours, theirs, strict=True):
        if not right.is_floating_point():
            if not torch.equal(right, given):
                raise ExportError(f"{name}: its answers differ from the network's")
            continue
        finite = right.isfinite()
        if not torch.equal(right[~finite].nan_to_num(7.0), given[~finite].nan_to_num(7.0)):
            raise ExportError(f"{name}: its answers are not finite where the network's are, or the other way")
        if finite.any():
            difference = (given[finite] - right[finite]).abs().max().item()
            if not difference <= TOLERANCE * max(1.0, right[finite].abs().max().item()):
                raise ExportError(f"{name}: its logits differ by {difference:.2g} from the network's")
            worst = max(worst, difference)
    return worst


def tensors(answer: Any) -> list[Tensor]:
    """All tensors of an answer, in the order of its parts."""
    return [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]


# ---- reading ----


def read_recipe(folder: str | Path) -> dict[str, Any]:
    """The recipe of the network in `folder`. ExportError if there is none, or one of another format."""
    file = Path(folder) / RECIPE
    if not file.exists():
        raise ExportError(f"{file}: no such file; no network was saved there, or saving did not end")
    recipe = json.loads(file.read_text())
    if recipe.get("format") not in READABLE:
        known = ", ".join(map(str, READABLE))
        raise ExportError(f"{file}: format={recipe.get('format')!r}: this version reads {known}")
    return recipe


def load_program(folder: str | Path) -> nn.Module:
    """The program of `torch.export` in `folder`, from raw examples to answers.

    Called with a number of examples, a type or a shape that it is not for it raises an ExportError.
    """
    recipe = read_recipe(folder)
    missing = recipe.get("missing", {}).get(PROGRAM)
    if missing:
        raise ExportError(f"{Path(folder) / PROGRAM}: was not written: {missing}")
    return Guarded(_program_in(Path(folder)), recipe)


def batch_of(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """How many examples a program takes at a time: `least`, `most` (None: any number) and why."""
    least = 2 if recipe["normalisation"] in BY_BATCH else 1
    return recipe.get("batch", {"least": least, "most": None, "why": ALONE})  # format 1 has none


class Guarded(nn.Module):
    """A program that refuses what its recipe excludes, before it runs."""

    def __init__(self, program: nn.Module, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.program, self.recipe = program, recipe

    def forward(self, x: Tensor) -> Any:
        _check_input(x, self.recipe)
        return self.program(x)


def _check_input(x: Tensor, recipe: Mapping[str, Any]) -> None:
    """ExportError if the network of `recipe` is not for `x`."""
    batch = batch_of(recipe)
    if len(x) < batch["least"]:
        raise ExportError(
            f"batch={len(x)}: must be at least {batch['least']}; {batch['why'] or 'none was given'}"
        )
    if batch["most"] is not None and len(x) > batch["most"]:
        raise ExportError(f"batch={len(x)}: must be {batch['most']}; {batch['why']}")
    takes = recipe.get("takes")
    if takes is None:
        return
    if list(x.shape[1:]) != takes["shape"]:
        raise ExportError(f"shape={tuple(x.shape)}: must be (batch, {', '.join(map(str, takes['shape']))})")
    if x.dtype != getattr(torch, takes["dtype"]):
        raise ExportError(
            f"dtype={x.dtype}: must be {takes['dtype']}, {takes['values']}; the program standardises"
        )


def _program_in(folder: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        return torch.export.load(folder / PROGRAM).module()


def run_onnx(folder: str | Path, x: Tensor) -> Any:
    """Answers to raw `x` by the ONNX program in `folder`: a tensor, or a list where there are several.

    ExportError if ONNX Runtime is not installed, or `x` is not what the program is for.
    """
    if not find_spec("onnxruntime"):
        raise ExportError(f"{ONNX}: ONNX Runtime is not installed: {EXTRA}")
    _check_input(x, read_recipe(folder))
    return _onnx_session(Path(folder))(x)


def _onnx_session(folder: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Any:
        found = [torch.from_numpy(y) for y in session.run(None, {session.get_inputs()[0].name: x.numpy()})]
        return found[0] if len(found) == 1 else found

    return run


def shapes(module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors of a module's state."""
    for name, tensor in module.state_dict().items():
        yield name, tuple(tensor.shape)
