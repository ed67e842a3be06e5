"""Networks by name that are no paper's: timm's, torchvision's, or those of a function of one's own."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from typing import Any

from torch import nn

LIBRARIES = ("timm", "torchvision")
WAYS = "timm:<name>, torchvision:<name> or <module>:<function that makes it>"


class ModelError(ValueError):
    """A network that does not exist or cannot be made; says which, and what to install."""


def make_model(name: str, channels: int | None = None, classes: int | None = None) -> nn.Module:
    """A fresh network: `name` is one of `WAYS`.

    channels, classes: of its images and its logits; None: its own. torchvision's all take three channels. A function is
    given what it has parameters `channels` and `classes` for.
    """
    head, _, tail = name.partition(":")
    try:
        if head == "timm":
            import timm

            wanted: Any = {"in_chans": channels, "num_classes": classes}
            return timm.create_model(tail, **{k: v for k, v in wanted.items() if v is not None})
        if head == "torchvision":
            import torchvision

            options = {} if classes is None else {"num_classes": classes}
            return torchvision.models.get_model(tail, weights=None, **options)
    except ImportError:
        raise ModelError(f"{name}: cannot be imported; pip install 'fairsweep[models]' for {head}") from None
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{name}: {_one_line(error)}") from None
    return _of_function(name, {"channels": channels, "classes": classes})


def _of_function(name: str, values: dict[str, int | None]) -> nn.Module:
    """What the function `name` of a module of the user's own makes, whatever else it may do."""
    head, _, tail = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(head)
    except (Exception, SystemExit) as error:  # an import runs the user's code
        raise ModelError(f"{name}: cannot be imported; {_said(error)}") from None
    function: Any = getattr(module, tail, None)
    if function is None:
        raise ModelError(f"{name}: {head} has no {tail or 'name after the colon'}; must be {WAYS}")
    if isinstance(function, nn.Module) or not callable(function):
        raise ModelError(
            f"{name}: is a {type(function).__name__}; must be a function that makes the network, or its class"
        )
    try:
        made = function(**_understood(function, values))
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ModelError(f"{name}: {tail}() failed; {_said(error)}") from None
    if not isinstance(made, nn.Module):
        raise ModelError(f"{name}: {tail}() returns {type(made).__name__}; must return a torch.nn.Module")
    return made


def _said(error: BaseException) -> str:
    """What an exception of the user's own code is, and where in it it was raised last."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {_one_line(error) or 'without a word'}{where}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _understood(function: Any, values: dict[str, int | None]) -> dict[str, int]:
    """Those of `values` that there are and that `function` has parameters for."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # of what is not written in Python
        return {}
    return {k: v for k, v in values.items() if v is not None and k in parameters}
