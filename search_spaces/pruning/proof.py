"""The proof by example that a network made of another one computes what that one computes.

A copy of the full network is disturbed, so that no parameter hides another, and what is to go in it is set to zero. Its
outputs, and those of every module in it, are held against those of the network that is made of the copy: the same
entries must be finite, and these equal but for rounding, by the measure of the tensor that they are in. What is not
equal in the network's own precision is computed again in double precision, whatever types the network asks for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fairsweep.search_spaces.pruning.comparing import (
    OFF,
    Tolerance,
    every,
    is_evidence,
    leaves,
    loose,
    strict,
    text_of,
    unequal,
)
from fairsweep.search_spaces.pruning.copies import copied, unchanged
from fairsweep.search_spaces.pruning.disturbing import NOISE, Zero, disturbed, longer, varied
from fairsweep.search_spaces.pruning.trace import Graph
from fairsweep.search_spaces.pruning.watching import (
    BATCH_NORMS,
    Doubles,
    Note,
    Site,
    Watch,
    doubled,
    sites,
    watched,
)

SAMPLE = 2**14  # numbers of what a module returns that are compared

Make = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Sample:
    """Part of what the call of a module returned. steps: every how many positions of each dimension. shape: of all;
    None if positions are cut from it."""

    value: Tensor
    steps: tuple[int, ...]
    shape: torch.Size | None

    def like(self, value: Tensor) -> Tensor | None:
        """The same part of another tensor; None if they are not to be compared."""
        if self.shape is not None and value.shape != self.shape:
            return None
        return every(value, self.steps)


@dataclass(frozen=True)
class Seen:
    """What one forward pass gave: the leaves of its output, and what each call of a module returned."""

    output: list[Any]
    sites: dict[Site, Sample]


@dataclass
class Proof:
    """`module` as a disturbed copy, and what that computes.

    graph: how it was traced. inputs: the example. batch: first size of the inputs that are batches. zero: sets what
    is to go to zero, given all parameters by name, and the names of those that were moved (others are as they were).
    keep: node of the graph -> dimension -> which positions of its tensor stay, for those that lose some. ValueError
    if the network does not run at all.
    """

    module: nn.Module
    graph: Graph
    inputs: tuple[Any, ...]
    batch: int | None = None
    zero: Zero | None = None
    keep: Mapping[str, Mapping[int, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = sites(self.graph)
        self._seen: dict[tuple[str, bool], Seen | None] = {}
        self._precise: nn.Module | None = None
        self._reason = ""
        self.first = ""
        for noise in (NOISE, 0.0):  # moved, a parameter may leave what it is defined for
            self.trial = disturbed(self.module, noise, self.zero)
            self._seen.clear()
            for what in ("one", "more", "given", "drawn"):
                seen = self._reference(what)
                if seen is not None and (_speaks(seen) or not self.first):
                    self.first = what
                    if _speaks(seen):
                        return
        if not self.first:
            raise ValueError(f"it does not run on its example: {self._reason}")
        if self._reference(self.first) is None:
            raise ValueError("whether it runs depends on what its parameters are")

    # -- inputs ----------------------------------------------------------------------------------------

    def _given(self, what: str) -> tuple[Any, ...]:
        """Inputs: "one" example of the batch, one "more" than it has, "twice" as many, "longer" ones, as they were
        "given", "drawn"."""
        if what == "given":
            return self.inputs
        if what == "drawn":
            return varied(self.inputs, None, None, draw=True)
        if what == "longer":
            return longer(varied(self.inputs, None, None), self.batch)
        if self.batch is None:
            return varied(self.inputs, None, None)
        return varied(self.inputs, self.batch, self._rows(what))

    def _rows(self, what: str) -> int:
        batch = self.batch or 0
        return {"one": 1, "more": batch + 1, "twice": 2 * batch}[what]

    def _reference(self, what: str, precise: bool = False) -> Seen | None:
        """What the full network gives; None if it does not run on such inputs."""
        if (what, precise) not in self._seen:
            calibrate = not any(found for found in self._seen.values())
            net, found = self._double() if precise else self.trial, {}

            def note(site: Site, value: Tensor) -> None:
                sample = self._sample(site, value)
                if sample is not None:
                    found[site] = sample

            try:
                output = self._run(net, what, precise, note, calibrate)
                self._seen[what, precise] = Seen(list(leaves(output)), found)
            except Exception as error:  # whatever a network raises on inputs that it is not made for
                self._reason = self._reason or text_of(error)
                self._seen[what, precise] = None
        return self._seen[what, precise]

    def _double(self) -> nn.Module:
        """The copy with all tensors that it has in double precision: some layers compare types before they compute."""
        if self._precise is None:
            memo: dict[int, Any] = {}
            for part in self.trial.modules():
                own = [*part.parameters(False), *part.buffers(False), *vars(part).values()]
                for value in own:
                    if not isinstance(value, Tensor) or id(value) in memo:
                        continue
                    wide = doubled(value.detach())
                    if isinstance(value, nn.Parameter):
                        memo[id(value)] = nn.Parameter(wide, requires_grad=False)
                    else:
                        memo[id(value)] = wide.clone() if wide.dtype == value.dtype else wide
            self._precise = copied(self.trial, memo)
        return self._precise

    # -- passes ----------------------------------------------------------------------------------------

    def _run(self, net: nn.Module, what: str, precise: bool, note: Note, calibrate: bool = False) -> Any:
        """The output; `note` is told what every module returns. What the network keeps of a pass is undone."""
        inputs = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, self._given(what))
        if precise:
            inputs = pytree.tree_map(doubled, inputs)
        measured = [m for m in net.modules() if isinstance(m, BATCH_NORMS)] if calibrate else ()
        with (
            unchanged(net, measured),
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
            Doubles() if precise else contextlib.nullcontext(),
        ):
            torch.manual_seed(0)
            if isinstance(net, fx.GraphModule) and net is not self.trial and net is not self._precise:
                return Watch(net, {node: site for site, node in self.nodes.items()}, note).run(*inputs)
            with watched(net, note, calibrate):
                return net(*inputs)

    def _sample(self, site: Site, value: Tensor) -> Sample | None:
        """A part of what a module of the full network returns, without what is cut; None if that is not known."""
        node = self.nodes.get(site)
        stays = self.keep.get(node or "", {})
        if any(d >= value.dim() or len(s) != value.shape[d] for d, s in stays.items()):
            return None
        steps, numbers = [1] * value.dim(), value.numel()
        for dim in sorted(range(value.dim()), key=lambda d: (d < 2, -d)):
            if dim not in stays and numbers > SAMPLE:
                steps[dim] = min(value.shape[dim], -(-numbers // SAMPLE))
                numbers //= steps[dim]
        part = every(value.detach(), steps)
        for dim, s in stays.items():
            part = part.index_select(dim, torch.from_numpy(np.flatnonzero(s)).to(part.device))
        return Sample(part if stays else part.clone(), tuple(steps), value.shape if node is None else None)

    # -- verdicts --------------------------------------------------------------------------------------

    def why_not(self, make: Make, *more: str) -> str:
        """Empty if what `make` makes of the full network computes the same, else why not, in words.

        more: kinds of inputs on which it must as well, if the full network runs on them: "more" or "longer".
        """
        # Batches may have to be multiples of something, as of the frames of a clip.
        alike = {"more": ("more", "twice")} if self.batch is not None else {}
        wanted = [(self.first,), *(alike.get(what, (what,)) for what in more)]
        found = [next((k for k in one if self._reference(k) is not None), None) for one in wanted]
        kinds = [k for k in dict.fromkeys(found) if k is not None]
        try:
            made = make(self.trial).eval()
        except Exception as error:
            return text_of(error)
        for what in kinds:
            reason = self._differs(make, made, what)
            if reason and what == "longer":
                return f"{reason}, with longer inputs than the example's"
            if reason and "more" in more and what in ("one", "more", "twice"):
                return f"{reason}, for a batch of {self._rows(what)}"
            if reason:
                return reason
        return ""

    def _differs(self, make: Make, made: nn.Module, what: str) -> str:
        full = self._reference(what)
        assert full is not None
        try:
            reason = self._compare(made, full, what, False, strict)
        except Exception as error:  # whatever a forward pass with wrong sizes raises
            return f"it does not run: {text_of(error)}"
        if not reason.endswith(OFF):
            return reason
        precise = self._reference(what, True)
        try:
            if precise is not None:
                again = make(self._double()).eval()
                return self._compare(again, precise, what, True, strict).removesuffix(OFF)
        except Exception:  # an operator without a kernel for double precision
            pass
        return self._compare(made, full, what, False, loose).removesuffix(OFF)

    def _compare(self, made: nn.Module, full: Seen, what: str, precise: bool, tolerance: Tolerance) -> str:
        """Why it does not compute what the full network does; ends with OFF if only numbers differ."""
        wrong: list[str] = []

        def note(site: Site, value: Tensor) -> None:
            sample = None if wrong else full.sites.get(site)
            part = None if sample is None else sample.like(value)
            if sample is not None and part is not None and (why := unequal(sample.value, part, tolerance)):
                wrong.append(f"{site[0]} {why}")

        small = list(leaves(self._run(made, what, precise, note)))
        if len(full.output) != len(small):
            return f"it returns {len(small)} values in place of {len(full.output)}"
        for k, (a, b) in enumerate(zip(full.output, small, strict=True)):
            name = "its output" if len(small) == 1 else f"output {k}"
            if why := unequal(a, b, tolerance):
                wrong.append(f"{name} {why}")
            elif isinstance(a, Tensor) and a.is_floating_point() and a.numel() and not a.isfinite().any():
                wrong.append(f"{name} has no finite number on the example, which proves nothing")
        if wrong:
            return wrong[0]
        shown = [*full.output, *(sample.value for sample in full.sites.values())]
        return "" if any(is_evidence(t) for t in shown) else "nothing that it computes varies: no proof"


def _speaks(seen: Seen) -> bool:
    """Whether what a network gave can tell it from others."""
    real = [t for t in seen.output if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]
    found = [*real, *(sample.value for sample in seen.sites.values())]
    return all(bool(t.isfinite().any()) for t in real) and any(is_evidence(t) for t in found)
