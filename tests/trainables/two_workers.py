"""Two processes of one process group, forked from the test's own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def _run(rank: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    torch.save(function(*arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()


def in_two(folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function` gives in each of two workers, the first one's first; it is forked, and need not be importable."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run, args=(rank, folder, function, arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
