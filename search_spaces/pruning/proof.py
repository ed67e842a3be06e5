"""The proof by example that a network made of another one computes what that one computes.

A copy of the full network is disturbed, so that no parameter hides another, and what is to go in it is set to zero. Its
outputs, and those of every module in it, are held against those of the network that is made of the copy: the same
entries must be finite, and these equal but for rounding, by the measure of the tensor that they are in. What is not
equal in the network's own precision is computed again in double precision, whatever types the network asks for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fairsweep.search_spaces.pruning.copies import copied, unchanged
from fairsweep.search_spaces.pruning.trace import Graph, kind

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NOISE = 0.1  # what parameters are moved by; those of more than SMALL numbers only if they are all the same
SMALL = 2**16
STRICT = {torch.float64: 1e-9, torch.float32: 1e-5}  # of a tensor's own scale: what passes at once
LOOSE = 0.6  # where nothing can be computed in double precision: the type's epsilon to this power, 7e-5 for float32
SAMPLE = 2**14  # numbers of what a module returns that are compared
VARIES = 1e-4  # of its scale: what differs less within a tensor is one number
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}

Site = tuple[str, int]  # path of a module, and which of its calls
Make = Callable[[nn.Module], nn.Module]
Zero = Callable[[Mapping[str, Tensor], Collection[str]], None]
Note = Callable[[Site, Tensor], None]
Tolerance = Callable[[torch.dtype], float]
Dims = Callable[[int], range]  # rank of an input -> some of its dimensions


def strict(dtype: torch.dtype) -> float:
    """What two tensors that are equal but for rounding may differ by; 0 for types too short to tell."""
    return STRICT.get(dtype, 0.0)


def loose(dtype: torch.dtype) -> float:
    """The same for those that cannot be computed in double precision."""
    return float(torch.finfo(dtype).eps) ** LOOSE


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
        return _every(value, self.steps)


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
            self.trial = _disturbed(self.module, noise, self.zero)
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
                self._reason = self._reason or _text(error)
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
                    wide = _double(value.detach())
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
            inputs = pytree.tree_map(_double, inputs)
        measured = [m for m in net.modules() if isinstance(m, BATCH_NORMS)] if calibrate else ()
        with (
            unchanged(net, measured),
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
            Doubles() if precise else contextlib.nullcontext(),
        ):
            torch.manual_seed(0)
            if isinstance(net, fx.GraphModule) and net is not self.trial and net is not self._precise:
                return _Watch(net, {node: site for site, node in self.nodes.items()}, note).run(*inputs)
            with _watched(net, note, calibrate):
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
        part = _every(value.detach(), steps)
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
            return _text(error)
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
            return f"it does not run: {_text(error)}"
        if not reason.endswith(_OFF):
            return reason
        precise = self._reference(what, True)
        try:
            if precise is not None:
                again = make(self._double()).eval()
                return self._compare(again, precise, what, True, strict).removesuffix(_OFF)
        except Exception:  # an operator without a kernel for double precision
            pass
        return self._compare(made, full, what, False, loose).removesuffix(_OFF)

    def _compare(self, made: nn.Module, full: Seen, what: str, precise: bool, tolerance: Tolerance) -> str:
        """Why it does not compute what the full network does; ends with _OFF if only numbers differ."""
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
        return "" if any(_is_evidence(t) for t in shown) else "nothing that it computes varies: no proof"


_OFF = " (numbers)"


def unequal(a: Any, b: Any, tolerance: Tolerance = strict) -> str:
    """Why two leaves of outputs are not the same, or an empty text; ends with _OFF if only numbers differ.

    Entries may differ by `tolerance` of their scale, which is theirs, or the median of all that differ.
    """
    if isinstance(a, float) and isinstance(b, float):
        a, b = torch.tensor(a, dtype=torch.double), torch.tensor(b, dtype=torch.double)
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        same = type(a) is type(b) and (a == b or not (a is None or _plain(a)))
        return "" if same else f"is {b!r:.40} in place of {a!r:.40}"
    a, b = a.detach(), b.detach()
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"is {_form(b)} in place of {_form(a)}"
    if not a.numel() or torch.equal(a, b):
        return ""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if a.is_floating_point() and _near(a, b, tolerance(a.dtype)):
        return ""
    if not a.is_floating_point():
        return f"differs in {int((a != b).sum())} of {a.numel()} entries{_OFF}"
    limit, finite = tolerance(a.dtype), a.isfinite()
    if not torch.equal(a.nan_to_num(nan=0.0)[~finite], b.nan_to_num(nan=0.0)[~finite]) or not torch.equal(
        finite, b.isfinite()
    ):
        return f"is finite where it was not, or the other way{_OFF}"
    a, b = a[finite].double(), b[finite].double()
    other = a != b  # what both hold alike, as -1e9 behind a mask, says nothing of the scale of what differs
    a, b = a[other], b[other]
    if not a.numel():
        return ""
    size = a.abs()
    share = float(((a - b).abs() / torch.maximum(size, size.median())).nan_to_num(nan=0.0).max())
    return "" if share <= limit else f"is off by {share:.1e} of its scale{_OFF}"


def _near(a: Tensor, b: Tensor, limit: float) -> bool:
    """Whether they are equal by the scale of a part of them, which tells at once what most tensors are."""
    off = (a - b).abs()
    largest = float(off.amax())  # not a number if anything in them is not finite
    step = max(1, a.numel() // 2048)
    size = a.reshape(-1)[::step].abs()[off.reshape(-1)[::step] > 0]
    return size.numel() > 0 and isfinite(largest) and largest <= limit * float(size.median())


def _every(value: Tensor, steps: Sequence[int]) -> Tensor:
    """Every how many positions of each dimension."""
    if len(steps) != value.dim():
        return value
    return value[tuple(slice(None, None, step) for step in steps)]


def _is_evidence(value: Any) -> bool:
    """Whether finite numbers in a tensor differ from each other."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    finite = value[value.isfinite()]
    if finite.numel() < 2:
        return False
    low, high = finite.aminmax()
    return float(high - low) > VARIES * float(torch.maximum(high.abs(), low.abs()))


def _speaks(seen: Seen) -> bool:
    """Whether what a network gave can tell it from others."""
    real = [t for t in seen.output if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]
    found = [*real, *(sample.value for sample in seen.sites.values())]
    return all(bool(t.isfinite().any()) for t in real) and any(_is_evidence(t) for t in found)


def _form(value: Tensor) -> str:
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def leaves(output: Any) -> Iterator[Any]:
    """All tensors and plain values in nested containers: tuples, mappings, dataclasses, those that PyTorch knows."""
    if isinstance(output, Tensor) or output is None or _plain(output):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from leaves(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from leaves(value)
    elif dataclasses.is_dataclass(output):
        for entry in dataclasses.fields(output):
            yield from leaves(getattr(output, entry.name, None))
    else:
        flat = pytree.tree_leaves(output)
        if len(flat) == 1 and flat[0] is output:
            yield output
        else:
            for value in flat:
                yield from leaves(value)


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | complex | str | bytes)


def _text(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# ---- modules in the graph, and what they return ----


def sites(graph: Graph) -> dict[Site, str]:
    """The call of a module -> the node that makes what it returns, where that is one node."""
    found: dict[Site, list[str]] = {}
    for node in graph.aten.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        for key, (path, _) in stack.items():
            if any(key not in (user.meta.get("nn_module_stack") or {}) for user in node.users):
                call = key.rpartition("@")[2]
                found.setdefault((path, int(call) if call.isdecimal() else 0), []).append(node.name)
    return {site: nodes[0] for site, nodes in found.items() if len(nodes) == 1}


@contextlib.contextmanager
def _watched(net: nn.Module, note: Note, calibrate: bool) -> Iterator[None]:
    """Tells `note` what every module inside returns. calibrate: batch statistics become those of what comes in.

    Behind others a signal may die out, and a comparison say nothing.
    """
    calls: dict[str, int] = {}
    handles = []

    def told(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            call = calls[path] = calls.get(path, -1) + 1
            if isinstance(output, Tensor):
                note((path, call), output)

        return hook

    def measure(module: nn.Module, args: Any) -> None:
        if module in measured or not args or not isinstance(args[0], Tensor):
            return
        measured.add(module)
        x = args[0].detach()
        dims = [d for d in range(x.dim()) if d != 1]
        variance, mean = torch.var_mean(x.float() if x.dtype == torch.half else x, dims, correction=0)
        if bool((variance > 0).all()) and mean.shape == module.running_mean.shape:  # type: ignore[union-attr]
            module.running_mean.copy_(mean)  # type: ignore[union-attr,operator]
            module.running_var.copy_(variance)  # type: ignore[union-attr,operator]

    measured: set[nn.Module] = set()
    try:
        for path, module in net.named_modules():
            if path:
                handles.append(module.register_forward_hook(told(path)))
            if calibrate and isinstance(module, BATCH_NORMS) and isinstance(module.running_mean, Tensor):
                handles.append(module.register_forward_pre_hook(measure))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watch(fx.Interpreter):
    """Runs a graph and tells `note` what its nodes that stand for these traced ones make."""

    def __init__(self, module: fx.GraphModule, wanted: Mapping[str, Site], note: Note) -> None:
        super().__init__(module)
        self.wanted, self.note = wanted, note

    def run_node(self, n: fx.Node) -> Any:
        if kind(n) in RECURRENT:
            self._check_state(n)
        value = super().run_node(n)
        site = self.wanted.get(n.meta.get("origin", ""))
        if site is not None and isinstance(value, Tensor):
            self.note(site, value)
        return value

    def _check_state(self, n: fx.Node) -> None:
        """Recurrent operators trust that the state they begin with has the batch of their input (PyTorch 2.13): the
        modules check it, a graph with the batch of another example does not, and would read beyond its memory."""
        found: Any = self.map_nodes_to_values(n.args[:2], n)
        x, states = found
        first = bool(n.args[8])
        for state in states if isinstance(states, list | tuple) else [states]:
            if x.dim() == 3 and state.shape[1] != x.shape[0 if first else 1]:
                raise ValueError(f"the state of {n.name} is of a batch of {state.shape[1]}")


class Doubles(TorchDispatchMode):
    """Every operator in double precision: numbers that come in, types that are asked for, and numbers that come out."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map(_double, (args, kwargs or {}))
        return pytree.tree_map(_double, func(*args, **kwargs))


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        low = value.is_floating_point() and value.dtype != torch.double
        return value.to(torch.double) if low else value
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.double
    return value


# ---- a copy to try it on ----


def _disturbed(module: nn.Module, noise: float, zero: Zero | None) -> nn.Module:
    """A copy in eval mode; parameters that could hide others are moved, large ones in use are those of `module`."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(SMALL + 1, generator=generator)
    memo: dict[int, Any] = {}
    for _, p in module.named_parameters():
        value = p.detach()
        if noise and value.is_floating_point() and value.numel() and (value.numel() <= SMALL or _flat(value)):
            value = _moved(value, noise, table.roll(len(memo)))
        memo[id(p)] = nn.Parameter(value, requires_grad=False)
    for _, b in module.named_buffers():
        memo[id(b)] = b.detach().clone()
    trial = copied(module, memo).eval()
    if zero is not None:
        theirs, values = dict(module.named_parameters()), dict(trial.named_parameters())
        shared = {name for name, p in values.items() if p.data_ptr() == theirs[name].data_ptr()}
        zero(_Own(values, shared), values.keys() - shared)
    return trial


class _Own(dict[str, Tensor]):
    """Parameters by name; those that are still another network's become copies as soon as they are asked for."""

    def __init__(self, values: Mapping[str, Tensor], shared: set[str]) -> None:
        super().__init__(values)
        self.shared = shared

    def __getitem__(self, name: str) -> Tensor:
        value = super().__getitem__(name)
        if name in self.shared:
            self.shared.discard(name)
            value.data = value.data.clone()
        return value


def _flat(value: Tensor) -> bool:
    """Whether a large tensor holds one number, or next to nothing, judged by a part of it."""
    part = value.reshape(-1)[:: max(1, value.numel() // 4096)]
    low, high = part.aminmax()
    return bool(low == high) or bool(max(abs(low), abs(high)) < 1e-4)


def _moved(value: Tensor, noise: float, table: Tensor) -> Tensor:
    """Another tensor, `noise` away; what was positive everywhere stays so."""
    result = value.clone(memory_format=torch.contiguous_format)
    flat, table = result.view(-1), (noise * table).to(value)
    rows = len(flat) // len(table)
    flat[: rows * len(table)].view(rows, len(table)).add_(table)
    flat[rows * len(table) :].add_(table[: len(flat) - rows * len(table)])
    return result.abs_() if bool((value > 0).all()) else result


# ---- inputs ----


def varied(inputs: Sequence[Any], batch: int | None, rows: int | None, draw: bool = False) -> tuple[Any, ...]:
    """The example with `rows` in place of `batch`. Numbers that are all the same say too little: they are drawn.

    draw: those with a fraction always.
    """
    generator = torch.Generator().manual_seed(1)

    def vary(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel():
            return value
        if batch is not None and rows is not None and value.dim() and len(value) == batch:
            value = value[torch.arange(rows, device=value.device) % batch]
        if value.dtype == torch.bool or value.is_complex():
            return value
        alike = value.dim() > 0 and bool((value == value.flatten()[0]).all())
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator).to(value) if alike or draw else value
        if alike and (value.dtype == torch.uint8 or not value.any()):  # pixels; numbers of tokens
            high = 256 if value.dtype == torch.uint8 else 2
            return torch.randint(0, high, value.shape, generator=generator).to(value)
        return value

    return tuple(pytree.tree_map(vary, tuple(inputs)))


def sides(rank: int) -> range:
    """Dimensions of a batch of this rank that follow positions: of a sequence (batch, length, width), or an image."""
    return range(2, rank) if rank > 3 else range(1, min(rank, 2))


def lengths(rank: int) -> range:
    """The same where channels come first, as in (batch, channels, length)."""
    return range(2, rank)


def longer(inputs: tuple[Any, ...], batch: int | None, dims: Dims = sides) -> tuple[Any, ...]:
    """The example with what follows the batch twice as long: positions of sequences, sides of images."""

    def extend(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2 or (batch is not None and len(value) != batch):
            return value
        for dim in dims(value.dim()):
            value = torch.cat([value, value.flip(dim)], dim)
        return value

    return tuple(pytree.tree_map(extend, inputs))
