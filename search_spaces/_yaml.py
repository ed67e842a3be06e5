"""YAML with one reading of every scalar: the one that Hydra's overrides have.

PyYAML reads YAML 1.1, where `on` is true, `007` is 7 and `1e5` is text; on the command line `on` and `007` are text and
`1e5` is a number. Numbers with an exponent are numbers here too. A bare word that the two read as different things is
refused: whoever means the text quotes it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fairsweep.search_spaces._parameter import SpaceError

_FLOAT, _TEXT = "tag:yaml.org,2002:float", "tag:yaml.org,2002:str"
_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+")
_SIGNED_POINT = re.compile(r"[-+]\.[0-9][0-9_]*")
# What YAML 1.1 takes for more than text and overrides read alike, by the tag that it has there.
_ALIKE = {
    "bool": re.compile(r"true|false", re.IGNORECASE),
    "int": re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*)"),
    "float": re.compile(r"[-+]?(?:(?:0|[1-9](?:_?[0-9])*)?\.[0-9](?:_?[0-9])*|(?:0|[1-9](?:_?[0-9])*)\.)"),
    "null": re.compile(r"null|", re.IGNORECASE),
}
# Text to YAML 1.1, and numbers to overrides.
_NOT_TEXT = re.compile(r"[-+]?(?:inf|nan)", re.IGNORECASE)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        # PyYAML keeps the last of two equal keys without a word.
        seen: set[tuple[str, str]] = set()
        for key, _ in getattr(node, "value", ()):
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.YAMLError(f"{key.value}: duplicate name, line {key.start_mark.line + 1}")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            _refuse_two_readings(node)
        return super().construct_object(node, deep)


def _number(loader: yaml.SafeLoader, node: Any) -> float:
    return float(loader.construct_scalar(node).replace("_", ""))


_Loader.add_implicit_resolver(
    _FLOAT, re.compile(f"(?:{_EXPONENT.pattern}|{_SIGNED_POINT.pattern})$"), list("-+.0123456789")
)
_Loader.add_constructor(_FLOAT, _number)


def _refuse_two_readings(node: Any) -> None:
    kind, word = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
    if kind not in (*_ALIKE, "str", "timestamp", "merge", "value"):
        return  # a tag that was written down, which the loader takes or refuses
    if kind == "str" and not _NOT_TEXT.fullmatch(word):
        return
    if kind == "float" and (_EXPONENT.fullmatch(word) or _SIGNED_POINT.fullmatch(word)):
        return
    if kind in _ALIKE and _ALIKE[kind].fullmatch(word):
        return
    if kind == "str":
        here, there, remedy = "text", "a number", ""
    else:
        value = yaml.safe_load(word) if kind not in ("merge", "value") else "an instruction"
        here = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        there, remedy = "text", f"write {here}, or "
    raise yaml.YAMLError(
        f"line {node.start_mark.line + 1}: {word}: YAML reads it as {here}, an override on the command line as "
        f"{there}; {remedy}quote it: '{word}'"
    )


class _Dumper(yaml.SafeDumper):
    pass


# Text that looks like a number to the reader above is written in quotes.
_Dumper.add_implicit_resolver(
    _FLOAT,
    re.compile(f"(?:{_EXPONENT.pattern}|{_SIGNED_POINT.pattern}|{_NOT_TEXT.pattern})$", re.IGNORECASE),
    list("-+.0123456789iInN"),
)


def read(text: str, source: str) -> Any:
    """The content of a document. SpaceError if it does not read, names something twice, or has two readings."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise SpaceError(f"{source}: {' '.join(str(error).split())}") from None


def read_file(path: Path) -> Any:
    """The content of a file; SpaceError as `read`, and if it is unreadable."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    return read(text, str(path))


def write(mapping: Any) -> str:
    """A document that `read` reads back to the same."""
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
