"""A trial's own random streams, so that trials in one process neither disturb each other nor fail to resume.

Dropout and module initialisers draw from PyTorch's global generators and take no other. Each trial therefore
keeps the global state that belongs to it and swaps it in only while it computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class TrialRNG:
    """The random streams of one trial: PyTorch's (CPU and, on CUDA, the device's) and a NumPy generator.

    seed: a non-negative integer, from which the streams are derived independently of each other.
    device: "cpu", "cuda" or "cuda:<index>"; any other is a ValueError.
    """

    def __init__(self, seed: int, device: str | torch.device = "cpu") -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed={seed!r}: must be an integer >= 0")
        self.device = torch.device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"device={device}: must be cpu, cuda or cuda:<index>")
        torch_seed, cuda_seed, numpy_seed = (
            np.random.SeedSequence(int(seed)).generate_state(3, np.uint64).tolist()
        )
        # torch takes seeds up to 2^63 - 1 on every generator
        self._cpu = torch.Generator().manual_seed(torch_seed >> 1).get_state()
        self._cuda: torch.Tensor | None = None
        if self.device.type == "cuda":
            self._cuda = torch.Generator(self.device).manual_seed(cuda_seed >> 1).get_state()
        self.numpy = np.random.default_rng(numpy_seed)
        self._inside = False

    @contextmanager
    def scope(self) -> Iterator[TrialRNG]:
        """Within it PyTorch's global generators are this trial's; afterwards they are as they were before.

        The trial's streams go on where its last scope ended, also if that one ended by an exception.
        A scope within a scope of the same trial would draw the same numbers twice: RuntimeError.
        """
        if self._inside:
            raise RuntimeError("TrialRNG.scope: this trial's scope is already open")
        outer_cpu = torch.get_rng_state()
        outer_cuda = None if self._cuda is None else torch.cuda.get_rng_state(self.device)
        self._inside = True
        try:
            torch.set_rng_state(self._cpu)
            if self._cuda is not None:
                torch.cuda.set_rng_state(self._cuda, self.device)
            yield self
        finally:
            self._inside = False
            self._cpu = torch.get_rng_state()
            torch.set_rng_state(outer_cpu)
            if outer_cuda is not None:
                self._cuda = torch.cuda.get_rng_state(self.device)
                torch.cuda.set_rng_state(outer_cuda, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Loadable with `torch.load(weights_only=True)`; to be taken outside of the scope."""
        if self._inside:
            raise RuntimeError(
                "TrialRNG.state_dict: leave the scope first, its draws are not in the state yet"
            )
        # The state of NumPy's generator has 128-bit integers, which JSON keeps exactly.
        state = {"cpu": self._cpu.clone(), "numpy": json.dumps(self.numpy.bit_generator.state)}
        if self._cuda is not None:
            state["cuda"] = self._cuda.clone()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the streams of `state`; a CUDA stream that it lacks keeps its own."""
        self._cpu = state["cpu"].cpu().clone()
        if self._cuda is not None and "cuda" in state:
            self._cuda = state["cuda"].cpu().clone()
        self.numpy.bit_generator.state = json.loads(state["numpy"])
