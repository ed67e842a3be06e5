"""What a network costs: parameters, FLOPs and latency, counted on modules and kept in tables that add up to a path.

FLOPs are multiply-accumulates, as the tables of the field mean them, for one example: see `flops`.
"""

from __future__ import annotations

import json
import platform
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import (
    Architecture,
    ArchitectureError,
    ArchitectureSpace,
    Choice,
)
from fairsweep.search_spaces.flops import UncountedError, count_flops, evaluated, random_input

__all__ = [
    "KINDS", "CostError", "CostTable", "Entry", "LatencyCheck", "Operator", "UncountedError", "check_latency",
    "cost_table", "count_flops", "count_parameters", "hardware", "identity", "measure_latency", "software",
]  # fmt: skip

KINDS = ("params", "flops", "latency_ms")
WARM_UP = 5  # calls before the first that is timed
BUSY = 0.2  # share of the time of a measurement that other work may take
FORMAT = 1


class CostError(ValueError):
    """Costs that do not belong together, or that cannot be had; says which and why."""


# ---- counting and timing ----


def count_parameters(module: nn.Module) -> int:
    """Numbers in all parameters, shared ones once; buffers do not count."""
    return sum(p.numel() for p in module.parameters())


def measure_latency(
    module: nn.Module,
    input_shape: Sequence[int],
    batch: int = 1,
    threads: int = 1,
    repeats: int = 30,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> float:
    """Milliseconds of a forward pass of (batch, *input_shape) in evaluation mode: the median of `repeats` calls.

    RuntimeWarning if other work took the processor for a good part of that time: the figure is then too large.
    """
    for name, value in (("batch", batch), ("threads", threads), ("repeats", repeats)):
        if value < 1:
            raise CostError(f"{name}={value}: must be at least 1")
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    x = random_input((batch, *input_shape), dtype).to(device)
    times = []
    started, used = time.perf_counter(), time.process_time()
    try:
        with evaluated(module), torch.inference_mode():
            for k in range(WARM_UP + repeats):
                start = time.perf_counter_ns()
                module(x)
                if x.device.type != "cpu":
                    torch.accelerator.synchronize(x.device)
                if k >= WARM_UP:
                    times.append(time.perf_counter_ns() - start)
    finally:
        torch.set_num_threads(threads_before)
    started, used = time.perf_counter() - started, time.process_time() - used
    if x.device.type == "cpu" and used < (1 - BUSY) * started:
        warnings.warn("latency was measured on a busy processor; measure again on an idle one", stacklevel=2)
    return median(times) / 1e6


def hardware(device: str | torch.device = "cpu") -> str:
    """The name of the processor that `device` stands for."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def software() -> str:
    """What runs the kernels."""
    return f"torch {torch.__version__}"


# ---- tables ----


@dataclass(frozen=True, eq=False)
class Operator:
    """A part of the networks of a supernet, as it is in one that is trained stand-alone.

    when: choice -> option of the paths that it is in; empty: it is in all. context: where it stands.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    when: Mapping[str, str] = field(default_factory=dict)
    context: str = ""


@dataclass(frozen=True)
class Entry:
    """The cost of one operator, for paths that take the option at each choice of `when`."""

    when: tuple[tuple[str, str], ...]
    context: str
    value: float


@dataclass(frozen=True)
class CostTable:
    """Costs of one kind of all operators of a supernet; that of a path is the sum over its operators.

    Parameters and FLOPs are exact: what is counted on the network itself. Latency is a prediction, good for the
    hardware, software, threads and batch that the operators were timed with; `check_latency` says how good.
    """

    kind: str
    space: str
    supernet: Mapping[str, Any]  # its kind and config
    choices: tuple[Choice, ...]
    entries: tuple[Entry, ...]
    hardware: str = ""
    software: str = ""
    threads: int = 0
    batch: int = 0

    @cached_property
    def _sums(self) -> dict[tuple[tuple[str, str], ...], float]:
        sums: defaultdict[tuple[tuple[str, str], ...], float] = defaultdict(int)
        for entry in self.entries:
            sums[entry.when] += entry.value
        return dict(sums)

    @property
    def constant(self) -> float:
        """What every path costs."""
        return self._sums.get((), 0)

    def cost(self, path: Architecture) -> float:
        """The cost of `path`. ArchitectureError if it is of another space."""
        if path.space != self.space:
            raise ArchitectureError(
                f"an architecture of {path.space} was given, the costs are of {self.space}"
            )
        taken = {(c.name, c.options[i]) for c, i in zip(self.choices, path.indices, strict=True)}
        return sum(value for when, value in self._sums.items() if taken.issuperset(when))

    def expected_cost(self, gates: Mapping[str, Tensor]) -> Tensor:
        """The differentiable cost under `gates`: choice -> weights of its options; float64 scalar.

        An operator counts with the product of the weights of the options that it needs. One-hot gates give `cost`.
        """
        position = {(c.name, o): (c.name, k) for c in self.choices for k, o in enumerate(c.options)}
        total = torch.zeros((), dtype=torch.float64)
        for when, value in self._sums.items():
            term = torch.as_tensor(value, dtype=torch.float64)
            for key in when:
                choice, k = position[key]
                term = term * gates[choice][k].double()
            total = total + term
        return total

    def require_same(self, other: CostTable) -> None:
        """CostError unless the other table may stand beside this one: same networks, kind, hardware and setting."""
        for name in ("kind", "space", "supernet", "hardware", "software", "threads", "batch"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise CostError(
                    f"{name}: tables of {ours!r} and {theirs!r} cannot be mixed; measure both alike"
                )

    def merged(self, others: Iterable[CostTable]) -> CostTable:
        """One table of several measurements: the median of each entry. CostError if they are not of the same kind."""
        tables = [self, *others]
        for other in tables[1:]:
            self.require_same(other)
        values = zip(*([e.value for e in t.entries] for t in tables), strict=True)
        entries = tuple(
            Entry(e.when, e.context, median(v)) for e, v in zip(self.entries, values, strict=True)
        )
        return replace(self, entries=entries)

    # -- files ----------------------------------------------------------------------------------------

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> CostTable:
        """The table that `to_json` wrote. CostError if it is of another format."""
        raw = json.loads(text)
        found = raw.pop("format", None) if isinstance(raw, dict) else None
        if found != FORMAT:
            raise CostError(f"format={found!r}: a cost table has format {FORMAT}")
        raw["choices"] = tuple(Choice(c["name"], tuple(c["options"])) for c in raw["choices"])
        raw["entries"] = tuple(
            Entry(tuple((c, o) for c, o in e["when"]), e["context"], e["value"]) for e in raw["entries"]
        )
        return cls(**raw)


class Priced(Protocol):
    """What has costs: a supernet, seen from here."""

    kind: ClassVar[str]
    space: ArchitectureSpace
    input_shape: tuple[int, int, int]

    def config(self) -> Mapping[str, Any]: ...
    def operators(self) -> Iterable[Operator]: ...
    def build(self, path: Architecture) -> nn.Module: ...


def identity(supernet: Priced) -> dict[str, Any]:
    """Kind and sizes of `supernet`, as they come back from JSON."""
    return json.loads(json.dumps({"kind": supernet.kind, **supernet.config()}))


def cost_table(
    supernet: Priced,
    kind: str,
    batch: int = 1,
    threads: int = 1,
    repeats: int = 30,
    device: str | torch.device = "cpu",
) -> CostTable:
    """The costs of all operators of `supernet`: counted, or timed on `device` as `measure_latency` does."""
    if kind not in KINDS:
        raise CostError(f"cost={kind}: must be one of {', '.join(KINDS)}")
    operators = list(supernet.operators())
    known: dict[
        tuple[int, tuple[int, ...]], float
    ] = {}  # a module that stands in several places is measured once
    entries = []
    for operator in operators:
        key = (id(operator.module), operator.input_shape)
        if key not in known:
            if kind == "params":
                known[key] = count_parameters(operator.module)
            elif kind == "flops":
                known[key] = count_flops(operator.module, operator.input_shape)
            else:
                module = operator.module.to(device)
                known[key] = measure_latency(module, operator.input_shape, batch, threads, repeats, device)
        entries.append(Entry(tuple(operator.when.items()), operator.context, known[key]))
    setting: dict[str, Any] = {}
    if kind == "latency_ms":
        setting = {"hardware": hardware(device), "software": software(), "threads": threads, "batch": batch}
    space = supernet.space
    return CostTable(kind, space.id, identity(supernet), space.choices, tuple(entries), **setting)


@dataclass(frozen=True)
class LatencyCheck:
    """Predicted and measured latency of whole networks, in milliseconds, path by path."""

    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def mean_relative_error(self) -> float:
        """Mean of |predicted - measured| / measured."""
        p, m = np.array(self.predicted), np.array(self.measured)
        return float(np.mean(np.abs(p - m) / m))

    @property
    def bias(self) -> float:
        """Mean of (predicted - measured) / measured: what is systematic in the error."""
        p, m = np.array(self.predicted), np.array(self.measured)
        return float(np.mean((p - m) / m))

    @property
    def spearman(self) -> float:
        return float(spearmanr(self.predicted, self.measured).statistic)

    @property
    def kendall(self) -> float:
        return float(kendalltau(self.predicted, self.measured).statistic)


def check_latency(
    supernet: Priced,
    table: CostTable,
    paths: Iterable[Architecture],
    repeats: int = 30,
    device: str | torch.device = "cpu",
    rounds: int = 3,
) -> LatencyCheck:
    """What `table` predicts for `paths` beside timings of their networks, with the table's threads and batch.

    Each network is timed in `rounds` rounds through all of them and has the median: what slows the machine for a
    while spans all repeats of one timing, but seldom meets the same network twice.

    CostError if the table is not of latencies of `supernet`, or was measured on other hardware or software.
    """
    if table.kind != "latency_ms" or table.supernet != identity(supernet):
        raise CostError(
            f"a table of {table.kind} of {dict(table.supernet)}: latency_ms of {identity(supernet)} wanted"
        )
    here = replace(table, hardware=hardware(device), software=software())
    table.require_same(here)
    paths = list(paths)
    networks = [supernet.build(path).to(device) for path in paths]
    shape, batch, threads = supernet.input_shape, table.batch, table.threads
    timed = [
        [measure_latency(network, shape, batch, threads, repeats, device) for network in networks]
        for _ in range(rounds)
    ]
    predicted = tuple(float(table.cost(path)) for path in paths)
    return LatencyCheck(predicted, tuple(median(of_one) for of_one in zip(*timed, strict=True)))
