"""Trained supernets of a store: kept by what made them, read by many workers without a copy.

A key is the hash of space, sizes, trainer, settings, data, seed and code version, so that every algorithm finds the
supernet that another has trained. On disk it is a recipe and an .npz file; in a run it lies once in Ray's object
store, and workers map it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pyarrow import fs as pafs

from fairsweep.analysis._files import filesystem
from fairsweep.trainables.tasks import shared_weights


def key_of(recipe: Mapping[str, Any]) -> str:
    """The name of the supernet that `recipe` makes: 16 hexadecimal digits."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Shelf:
    """The supernets under `<store>/supernets/`."""

    def __init__(self, store: str) -> None:
        self.fs, root = filesystem(store)
        self.root = f"{root}/supernets"

    def _path(self, key: str, name: str) -> str:
        return f"{self.root}/{key}/{name}"

    def has(self, key: str) -> bool:
        """Whether the supernet is there, whole."""
        return self.fs.get_file_info(self._path(key, "weights.npz")).type == pafs.FileType.File

    def save(self, key: str, arrays: Mapping[str, np.ndarray], recipe: Mapping[str, Any]) -> None:
        """Writes recipe and weights; the weights appear under their name when they are whole."""
        self.fs.create_dir(f"{self.root}/{key}", recursive=True)
        with self.fs.open_output_stream(self._path(key, "recipe.json")) as out:
            out.write(json.dumps(recipe, indent=1, sort_keys=True).encode())
        buffer = io.BytesIO()
        savez: Any = np.savez  # its stub takes every keyword for `allow_pickle`
        savez(buffer, **arrays)
        with self.fs.open_output_stream(self._path(key, ".weights.npz")) as out:
            out.write(buffer.getvalue())
        self.fs.move(self._path(key, ".weights.npz"), self._path(key, "weights.npz"))

    def load(self, key: str) -> dict[str, np.ndarray]:
        """The weights by parameter name. FileNotFoundError if they are not there."""
        with self.fs.open_input_stream(self._path(key, "weights.npz")) as source:
            body = io.BytesIO(source.read())
        with np.load(body, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}

    def recipe(self, key: str) -> dict[str, Any]:
        """What made the supernet."""
        with self.fs.open_input_stream(self._path(key, "recipe.json")) as source:
            return dict(json.loads(source.read()))

    def keys(self) -> list[str]:
        """All supernets that are there."""
        found = self.fs.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
        return sorted(f.base_name for f in found if self.has(f.base_name))


class Board:
    """An actor that says where in the object store the weights of a run lie."""

    def __init__(self) -> None:
        self._refs: dict[str, list[Any]] = {}

    def put(self, key: str, refs: list[Any]) -> None:
        """`refs`: the reference in a list, which keeps Ray from fetching what it stands for."""
        self._refs[key] = refs

    def get(self, key: str) -> list[Any]:
        return self._refs.get(key, [])


def read_from_board(name: str) -> None:
    """Makes the board called `name` the place where this process finds weights."""
    import ray

    def source(key: str) -> shared_weights.Arrays | None:
        refs: list[Any] = ray.get(ray.get_actor(name).get.remote(key))
        return ray.get(refs[0]) if refs else None

    shared_weights.provide(source)
