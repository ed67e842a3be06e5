"""A network found by search, as files: how it is made, its weights, and programs that run without this package.

recipe.json says which architecture of which supernet it is; weights.pt holds its tensors and nothing else;
program.pt2 is the graph of `torch.export`, network.onnx the same for other runtimes (with the extra `export`).
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.architectures.base import Architecture
from search_spaces.supernets.base import Supernet
from search_spaces.supernets.catalog import build_supernet
from search_spaces.supernets.normalisation import keep_running_statistics, normalisation

FORMAT = 1
RECIPE, WEIGHTS, PROGRAM, ONNX = "recipe.json", "weights.pt", "program.pt2", "network.onnx"
TOLERANCE = 1e-4  # largest difference of a program's logits, in units of the largest logit


class ExportError(ValueError):
    """A network that cannot be written or read; says what is in the way."""


def save_network(
    folder: str | Path,
    supernet: Supernet,
    path: Architecture,
    module: nn.Module,
    example: Tensor,
    onnx: bool | None = None,
) -> dict[str, Any]:
    """Writes `module`, which is `extract(path)` or `build(path)` of `supernet`, recalibrated or not. The recipe.

    example: a batch of inputs. Programs take any number of examples (of at least 2, if the module normalises by
    batch), and their logits for the batch are compared with the module's before the recipe is written, last of all.
    onnx: whether to write ONNX too; by default if the packages are there.
    ExportError if the module is no network of `path`, ONNX is wanted without its packages, or a program differs.
    """
    if onnx is None:
        onnx = bool(find_spec("onnx") and find_spec("onnxscript"))
    elif onnx and not (find_spec("onnx") and find_spec("onnxscript")):
        raise ExportError("onnx=True: ONNX needs packages: pip install 'fairsweep[export]'")
    module = copy.deepcopy(module).eval().cpu()
    example = example.detach().cpu()
    recipe: dict[str, Any] = {
        "format": FORMAT,
        "kind": supernet.kind,
        "config": dict(supernet.config()),
        "space": supernet.space.id,
        "architecture": supernet.space.format(supernet.space.check(path)),
        "form": "extracted",
        "normalisation": normalisation(module),
        "torch": torch.__version__,
        "difference": {},
    }
    recipe["form"] = _form(recipe, module)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RECIPE, WEIGHTS, PROGRAM, ONNX):
        (folder / name).unlink(missing_ok=True)
    torch.save(module.state_dict(), folder / WEIGHTS)

    with warnings.catch_warnings():
        # PyTorch's own copies of an exported program warn of a change within PyTorch.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        program = _program(module, example, least=2 if recipe["normalisation"] == "batch" else 1)
        torch.export.save(program, folder / PROGRAM)
    with torch.no_grad():
        wanted = module(example)
        recipe["difference"]["program"] = _compared(PROGRAM, load_program(folder)(example), wanted)
    if onnx:
        torch.onnx.export(
            program, (example,), str(folder / ONNX), dynamo=True, external_data=False, verbose=False
        )
        if find_spec("onnxruntime"):
            recipe["difference"]["onnx"] = _compared(ONNX, run_onnx(folder, example), wanted)
    part = folder / f"{RECIPE}.part"
    part.write_text(json.dumps(recipe, indent=1))
    os.replace(part, folder / RECIPE)
    return recipe


def read_recipe(folder: str | Path) -> dict[str, Any]:
    """The recipe of the network in `folder`. ExportError if there is none, or one of another format."""
    file = Path(folder) / RECIPE
    if not file.exists():
        raise ExportError(f"{file}: no such file; no network was saved there, or saving did not end")
    recipe = json.loads(file.read_text())
    if recipe.get("format") != FORMAT:
        raise ExportError(f"{file}: format={recipe.get('format')!r}: this version reads {FORMAT}")
    return recipe


def load_network(folder: str | Path) -> nn.Module:
    """The network in `folder`, in evaluation mode, on the CPU; built from its recipe and its own weights alone."""
    recipe = read_recipe(folder)
    module = _skeleton(recipe, recipe["form"])
    weights = torch.load(Path(folder) / WEIGHTS, map_location="cpu", weights_only=True)
    module.load_state_dict(weights, assign=True)
    return module.eval()


def load_program(folder: str | Path) -> nn.Module:
    """The program of `torch.export` in `folder`, to be called like the network."""
    return torch.export.load(Path(folder) / PROGRAM).module()


def run_onnx(folder: str | Path, x: Tensor) -> Tensor:
    """Logits of `x` by the ONNX program in `folder`. ExportError if ONNX Runtime is not installed."""
    if not find_spec("onnxruntime"):
        raise ExportError(f"{ONNX}: ONNX Runtime is not installed: pip install 'fairsweep[export]'")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(Path(folder) / ONNX), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(result)


def _program(module: nn.Module, example: Tensor, least: int) -> torch.export.ExportedProgram:
    x = (
        example if len(example) > 1 else example.repeat(2, 1, 1, 1)
    )  # of one example a graph is for one for ever
    batch = torch.export.Dim("batch", min=least)
    return torch.export.export(module, (x,), dynamic_shapes=({0: batch},))


def _compared(name: str, found: Tensor, wanted: Tensor) -> float:
    difference = (found - wanted).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, wanted.abs().max().item()):
        raise ExportError(f"{name}: its logits differ by {difference:.2g} from the network's")
    return difference


def _skeleton(recipe: dict[str, Any], form: str) -> nn.Module:
    """The network without its weights: tensors are on the meta device."""
    with torch.device("meta"):
        supernet = build_supernet(recipe["kind"], **recipe["config"])
        if supernet.space.id != recipe["space"]:
            raise ExportError(
                f"space={recipe['space']}: this version builds {supernet.space.id} by the same recipe"
            )
        path = supernet.space.parse(recipe["architecture"])
        module = supernet.extract(path) if form == "extracted" else supernet.build(path)
        if recipe["normalisation"] == "running":
            keep_running_statistics(module)
    return module


def _form(recipe: dict[str, Any], module: nn.Module) -> str:
    """Whether `module` has the tensors of `extract(path)` or of `build(path)`. ExportError if of neither."""
    given = dict(_shapes(module))
    for form in ("extracted", "built"):
        if dict(_shapes(_skeleton(recipe, form))) == given:
            return form
    raise ExportError(f"the module is no network of {recipe['architecture']}: its tensors are others")


def _shapes(module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, tensor in module.state_dict().items():
        yield name, tuple(tensor.shape)
