"""Supernets by name."""

from __future__ import annotations

from dataclasses import fields
from inspect import Parameter, signature
from typing import Any

import torch

from fairsweep.search_spaces._parameter import hint
from fairsweep.search_spaces.architectures.catalog import create_space, read_size
from fairsweep.search_spaces.supernets.base import Supernet
from fairsweep.search_spaces.supernets.cell import CellSupernet
from fairsweep.search_spaces.supernets.chain import ChainSupernet
from fairsweep.search_spaces.supernets.mbconv import MBConvSupernet
from fairsweep.search_spaces.supernets.nasnet import NASNetSupernet

SUPERNETS: dict[str, Any] = {s.kind: s for s in (CellSupernet, ChainSupernet, MBConvSupernet, NASNetSupernet)}
NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def build_supernet(kind: str, size: str = "laptop", seed: int = 0, **overrides: Any) -> Supernet:
    """The supernet `kind` at a named size, its weights drawn from `seed`.

    overrides: replace fields of the space or sizes of the network; `build_supernet(net.kind, **net.config())` makes
    `net` again but for its weights. ValueError names the kind, size or override that is unknown or wrong.
    """
    if kind not in SUPERNETS:
        raise ValueError(f"supernet={kind}: no such supernet; {hint(kind, SUPERNETS)}")
    cls = SUPERNETS[kind]
    sizes = _sizes(cls)
    usual = read_size(kind, size)["network"]
    space_class: Any = type(create_space(kind, size))
    of_space = [field.name for field in fields(space_class)]
    for name, value in overrides.items():
        if name not in (*sizes, *of_space):
            raise ValueError(f"{kind}.{name}={value!r}: no such size; {hint(name, [*sizes, *of_space])}")
    space = create_space(kind, size, **{k: v for k, v in overrides.items() if k in of_space})
    network = {**usual, **{k: v for k, v in overrides.items() if k in sizes}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(space, **network)


def _sizes(cls: type[Supernet]) -> list[str]:
    """Names of the sizes that a supernet takes, those that it passes on to the class that it extends included."""
    found: list[str] = []
    for part in cls.__mro__[: cls.__mro__.index(Supernet)]:
        if "__init__" in vars(part):
            named = [p.name for p in signature(part).parameters.values() if p.kind in NAMED]
            found += [name for name in named if name not in ("space", *found)]
    return found
