"""Weights that many trials read and none changes: given to a process once, by key, and used without a copy.

The process that runs trials says where they come from (`provide`); a trial asks for what it needs (`arrays`). So
trials know nothing of object stores or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
Source = Callable[[str], "Arrays | None"]
_source: Source | None = None
_held: tuple[str, Arrays] | None = None


def provide(source: Source) -> None:
    """Makes `source` the place where weights are looked up; it gives None for a key that it does not know."""
    global _source, _held
    _source, _held = source, None


def arrays(key: str) -> Arrays:
    """The weights called `key`: read-only arrays by parameter name. The last ones asked for are held.

    LookupError if nothing provides them.
    """
    global _held
    if _held is None or _held[0] != key:
        found = _source(key) if _source is not None else None
        if found is None:
            raise LookupError(f"supernet={key}: no trained weights of this name are provided in this process")
        _held = (key, found)
    return _held[1]
