"""Spaces by name: the kinds there are, their named sizes, and the space that an id names.

A file `sizes/<kind>.yaml` maps a size to two sections::

    laptop:
      space: {layers: 5, stages: [2, 3]}   # fields of the space
      network: {input_shape: [3, 14, 14]}  # sizes of the supernet over it
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fairsweep.search_spaces._parameter import hint
from fairsweep.search_spaces._yaml import read_file
from fairsweep.search_spaces.architectures.base import ArchitectureSpace
from fairsweep.search_spaces.architectures.cell import CellSpace
from fairsweep.search_spaces.architectures.chain import ChainSpace
from fairsweep.search_spaces.architectures.mbconv import MBConvSpace
from fairsweep.search_spaces.architectures.nasnet import NASNetSpace

SPACES: dict[str, type[ArchitectureSpace]] = {
    s.kind: s for s in (CellSpace, ChainSpace, MBConvSpace, NASNetSpace)
}
SECTIONS = ("space", "network")
ALL = "all"  # in an id: the value that the field has by default


def kinds() -> tuple[str, ...]:
    """Names of the spaces."""
    return tuple(SPACES)


def sizes(kind: str) -> tuple[str, ...]:
    """Names of the sizes of a space. ValueError if there is no such space."""
    return tuple(_sections(kind))


def read_size(kind: str, size: str = "laptop") -> dict[str, dict[str, Any]]:
    """The sections of a named size: `space`, fields of the space, and `network`, sizes of its supernet.

    ValueError if there is no such space or size.
    """
    found = _sections(kind)
    if size not in found:
        raise ValueError(f"size={size}: no such size of {kind}; {hint(size, found)}")
    return {section: deepcopy(found[size].get(section) or {}) for section in SECTIONS}


def create_space(kind: str, size: str = "laptop", **overrides: Any) -> ArchitectureSpace:
    """The space `kind` at a named size; `overrides` replace fields of it.

    ValueError names the kind, size or field that is unknown, or the value that is wrong.
    """
    given = {**read_size(kind, size)["space"], **overrides}
    return SPACES[kind](**{name: _value(kind, name, value) for name, value in given.items()})


def space_of_id(text: str) -> ArchitectureSpace:
    """The space that an id names, as `Architecture.space` and tables hold it. ValueError if there is none."""
    head, _, query = text.partition("?")
    kind = head.partition("/")[0]
    defaults = _defaults(kind)
    given = dict(part.partition("=")[::2] for part in query.split("&") if part)
    values = {k: defaults[k] if v == ALL and k in defaults else _word(kind, k, v) for k, v in given.items()}
    space = SPACES[kind](**{name: _value(kind, name, value) for name, value in values.items()})
    if space.id != text:
        raise ValueError(f"space={text}: no such space; the one of these sizes is {space.id}")
    return space


@cache
def _sections(kind: str) -> dict[str, Any]:
    _defaults(kind)
    return dict(read_file(Path(__file__).parent / "sizes" / f"{kind}.yaml"))


def _defaults(kind: str) -> Mapping[str, Any]:
    if kind not in SPACES:
        raise ValueError(f"space={kind}: no such space of architectures; {hint(kind, SPACES)}")
    usual: Any = SPACES[kind]()  # a dataclass whose fields all have a default
    return {field.name: getattr(usual, field.name) for field in fields(usual)}


def _default(kind: str, name: str) -> Any:
    defaults = _defaults(kind)
    if name not in defaults:
        raise ValueError(f"{kind}.{name}: no such field of the space; {hint(name, defaults)}")
    return defaults[name]


def _value(kind: str, name: str, value: Any) -> Any:
    """`value` in the type of the field: YAML and JSON have lists for tuples."""
    default, item = _default(kind, name), _item(kind, name)
    if item is not None:
        if isinstance(value, (list, tuple)) and all(type(x) is item for x in value):
            return tuple(value)
        wanted = f"a list of {item.__name__}"
    elif type(value) is type(default):
        return value
    else:
        wanted = f"of type {type(default).__name__}"
    raise ValueError(f"{kind}.{name}={value!r}: must be {wanted}")


def _word(kind: str, name: str, word: str) -> Any:
    """A field's value from its word in an id; one that cannot be read stays as it is, for `_value` to refuse."""
    default, item = _default(kind, name), _item(kind, name)
    if item is not None:
        parts = word.split(",") if word else []
        return tuple(int(x) if item is int and x.isdecimal() else x for x in parts)
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(word, word)
    return int(word) if isinstance(default, int) and word.isdecimal() else word


def _item(kind: str, name: str) -> type | None:
    """The type of the entries of a field that is a tuple, None for any other field."""
    hinted = get_type_hints(SPACES[kind])[name]
    return get_args(hinted)[0] if get_origin(hinted) is tuple else None
