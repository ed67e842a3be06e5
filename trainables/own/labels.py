"""What others call their hyperparameters and choices, in words that a `Space` takes: pure functions, the same in the
driver and in every worker, so that nobody has to keep a table of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from fairsweep.search_spaces._parameter import same
from fairsweep.search_spaces.space import Space, SpaceError

_LONGEST = 60  # characters of a choice's text


def plain_name(name: str) -> str:
    """`name` where a space takes it, else the same in letters, digits and _, told apart by a digest."""
    try:
        Space.from_mapping({name: 1})
        return name
    except SpaceError:
        word = re.sub(r"[^A-Za-z0-9_]", "_", name, flags=re.ASCII)
        digest = hashlib.blake2b(name.encode(), digest_size=2).hexdigest()
        return f"{word if re.match('[A-Za-z]', word) else 'p' + word}_{digest}"


def label(choices: Sequence[Any]) -> list[Any]:
    """A scalar for each of `choices`: themselves where a space takes them, else a text for each, no two alike.

    Tuples, lists, functions and classes thus become choices too; `chosen` gives them back.
    """
    plain = [_scalar(choice) for choice in choices]
    try:
        Space.from_mapping({"x": {"type": "categorical", "choices": plain, "value": plain[0]}})
        return plain
    except SpaceError:
        found: list[str] = []
        for choice in plain:
            word, k = _text(choice), 2
            while word in found:
                word, k = f"{_text(choice)} #{k}", k + 1
            found.append(word)
        return found


def chosen(choices: Sequence[Any], value: Any) -> Any:
    """The choice whose label is `value`. KeyError if none is."""
    for choice, word in zip(choices, label(choices), strict=True):
        if same(word, value):
            return choice
    raise KeyError(value)


def _scalar(value: Any) -> Any:
    """A NumPy scalar as Python's own."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def _text(value: Any) -> str:
    word = value if isinstance(value, str) else repr(value)
    if not isinstance(value, str) and (" at 0x" in word or len(word) > _LONGEST):
        word = str(getattr(value, "__qualname__", None) or type(value).__name__)
    return "".join(c if c.isprintable() else "?" for c in word.replace("${", "$ {"))[:_LONGEST] or "''"
