"""What code of the user's shares with its process: generators, the folder it is in; and how its states are kept."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import sys
from collections.abc import Iterator
from typing import Any


def dumped(state: Any) -> bytes:
    """By PyTorch, which knows its tensors, where it is in use; else by pickle."""
    torch = sys.modules.get("torch")
    if torch is None:
        return pickle.dumps(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def loaded(state: bytes) -> Any:
    """What `dumped` kept. It is the user's own, of a store of the user's own, so it may hold any object."""
    if not state.startswith(b"PK"):
        return pickle.loads(state)
    import torch

    return torch.load(io.BytesIO(state), weights_only=False, map_location=at_hand)


def at_hand(storage: Any, location: str) -> Any:
    """For `torch.load`: what was on a device that there is none of here comes to the CPU, the rest to its own."""
    import torch

    try:
        return torch.serialization.default_restore_location(storage, location)
    except RuntimeError:  # of CUDA, of MPS, ... all say so
        return storage


def seeded(seed: int) -> None:
    """Seeds the generators that a function may draw from without saying so."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """What a function sets for its whole process ends with it: the folder it is in, PyTorch's type of new tensors."""
    place, torch = os.getcwd(), sys.modules.get("torch")
    kind = torch.get_default_dtype() if torch is not None else None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(place)
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_default_dtype(kind or torch.float32)
