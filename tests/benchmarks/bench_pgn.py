"""Time of one pass of PGN and of a GRU along a sequence, one thread, batch 32, three inputs a step.

"all outputs" is the unit in a recurrent network's place; "last output" is what a forecast needs, which PGN
computes alone. Milliseconds, median of `--repeats`, forward and backward together and forward alone.

    python -m tests.benchmarks.bench_pgn [--lengths 168,1024] [--widths 16,64] [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fairsweep.trainables.sequences.pgn import PGN


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Median time of `run`, after one call that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def passes(module: nn.Module, forward: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """(forward, forward and backward) in milliseconds."""

    def both() -> None:
        module.zero_grad()
        forward().square().mean().backward()

    with torch.no_grad():
        alone = milliseconds(forward, repeats)
    return alone, milliseconds(both, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="168,1024")
    parser.add_argument("--widths", default="16,64")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'L':>5} {'width':>5}  {'unit':<22} {'forward':>9} {'+ backward':>11}")
    for length in map(int, args.lengths.split(",")):
        for width in map(int, args.widths.split(",")):
            x = torch.randn(32, length, 1, 3)
            unit, gru = PGN(1, 3, width, length - 1), nn.GRU(3, width, batch_first=True)
            rows: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
                "PGN, all outputs": (unit, lambda unit=unit, x=x: unit(x)),
                "PGN, last output": (unit, lambda unit=unit, x=x: unit(x, 1)),
                "GRU, all or last": (gru, lambda gru=gru, x=x: gru(x[:, :, 0])[0]),
            }
            for name, (module, forward) in rows.items():
                alone, both = passes(module, forward, args.repeats)
                print(f"{length:>5} {width:>5}  {name:<22} {alone:>9.2f} {both:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
