"""Pickled pandas tables, as data packages ship them, read without pandas and without running their code."""

from __future__ import annotations

import io
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np


class _FrameUnpickler(pickle.Unpickler):
    """Reads the blocks of a pickled pandas table into plain containers; no class of pandas is made."""

    @staticmethod
    def _array(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
        return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)  # type: ignore[call-overload]

    def find_class(self, module: str, name: str) -> Any:
        stand_ins: dict[tuple[str, str], Any] = {
            ("pandas.core.frame", "DataFrame"): SimpleNamespace,
            ("pandas.core.internals.managers", "BlockManager"): lambda blocks, axes: (blocks, axes),
            ("pandas._libs.internals", "_unpickle_block"): lambda values, place, ndim: (values, place),
            ("pandas.core.indexes.base", "_new_Index"): lambda kind, state: state,
            ("pandas.core.indexes.base", "Index"): None,
            ("pandas.core.indexes.range", "RangeIndex"): None,
            ("numpy.core.numeric", "_frombuffer"): self._array,
            ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: np.ndarray(shape, code),
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("builtins", "slice"): slice,
        }
        if (module, name) not in stand_ins:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a table of numbers")
        return stand_ins[module, name]


def read_frame(content: bytes) -> dict[str, np.ndarray]:
    """The columns of a pickled pandas table of numbers and strings (object arrays)."""
    blocks, axes = _FrameUnpickler(io.BytesIO(content)).load()._mgr
    names = list(axes[0]["data"])
    # A block's place is a slice or an array of column numbers.
    return {
        names[i]: row
        for values, place in blocks
        for i, row in zip(np.arange(len(names))[place], values, strict=True)
    }
