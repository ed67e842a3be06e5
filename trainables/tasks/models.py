"""Networks by name that are no paper's: timm's, torchvision's, or those of a function of one's own."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
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
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        function: Any = getattr(importlib.import_module(head), tail)
        return function(**_understood(function, {"channels": channels, "classes": classes}))
    except ImportError as error:
        what = f"pip install 'fairsweep[models]' for {head}" if head in LIBRARIES else str(error)
        raise ModelError(f"{name}: cannot be imported; {what}") from None
    except AttributeError:
        raise ModelError(f"{name}: {head} has no {tail}") from None
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{name}: {' '.join(str(error).split())}") from None


def _understood(function: Any, values: dict[str, int | None]) -> dict[str, int]:
    """Those of `values` that there are and that `function` has parameters for."""
    parameters = inspect.signature(function).parameters
    return {k: v for k, v in values.items() if v is not None and k in parameters}
