"""A PFN's answers for 500 sets of 15 points beside Gaussian processes fitted to each (MLE-II, 100 gradient steps).

The processes are fitted one set at a time (20 are timed, the rest is extrapolated) and all in one batch.

    python -m tests.benchmarks.bench_pfn
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from fairsweep.trainables.base import Setting
from fairsweep.trainables.tasks.in_context import Baseline
from fairsweep.trainables.tasks.priors import Kernel, Sets
from fairsweep.trainables.theory.pfn import PriorFitting

LABELLED, ALONE = 15, 20


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    made = PriorFitting()
    space = PriorFitting.space()
    made.setup(space.paper_config("synthetic_gp"), Setting(data="synthetic_gp", steps=1))
    sets = made.data.held_out("test", LABELLED)
    fitted = Baseline("fitted", made.data)
    made.net.eval()

    def alone() -> None:
        for i in range(ALONE):
            chosen = slice(i, i + 1)
            one = Sets(sets.x[chosen], sets.y[chosen], Kernel(*(v[chosen] for v in sets.kernel)))
            fitted.predict(one, LABELLED)

    with torch.no_grad():
        made.net.predict(sets, LABELLED)
        forward = seconds(lambda: made.net.predict(sets, LABELLED))
    one_by_one = seconds(alone) * len(sets.x) / ALONE
    batched = seconds(lambda: fitted.predict(sets, LABELLED))
    print(f"torch {torch.__version__}, one thread, {len(sets.x)} sets of {LABELLED} labelled points")
    print(f"PFN, one forward pass        {forward:8.3f} s")
    print(f"MLE-II, one set at a time    {one_by_one:8.3f} s   {one_by_one / forward:.1f}x")
    print(f"MLE-II, all in one batch     {batched:8.3f} s   {batched / forward:.1f}x")


if __name__ == "__main__":
    main()
