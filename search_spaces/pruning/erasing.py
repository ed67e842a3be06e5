"""Which chains of operators a network can do without, and the network without them.

OTOv3: Chen et al., arXiv:2312.09411, section 3. The traced operators are contracted to segments; a segment whose
variables, once zero, make it emit exactly zero into an addition is a removal structure. What follows from an erasure is
found by carrying zeros through the graph, so that a network is called valid only if extraction is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from fairsweep.search_spaces.pruning.components import partition
from fairsweep.search_spaces.pruning.effects import draws, pure
from fairsweep.search_spaces.pruning.groups import Component, Member, Partition
from fairsweep.search_spaces.pruning.openings import OpeningError
from fairsweep.search_spaces.pruning.proof import Proof
from fairsweep.search_spaces.pruning.rebuild import rebuild
from fairsweep.search_spaces.pruning.trace import Graph, kind, shapes
from fairsweep.search_spaces.pruning.zeros import emits_zero


class ErasingError(ValueError):
    """Segments that do not exist or that cannot be erased together; says which."""


@dataclass(frozen=True)
class Segment:
    """Operators that stay or go together.

    kind: "chain"; "add", where two tensors of one shape meet; "joint" for any other operator of several tensors.
    operators: names in the traced graph, in order. sources: names of the segments that it reads, "input" for the
    network's own. parameters: those that no other segment reads. erasable: whether it is a removal structure.
    reason: why it is none.
    """

    name: str
    kind: str
    operators: tuple[str, ...]
    sources: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    erasable: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What is left without some segments. zero: emit nothing but zeros. orphans: removal structures that the input
    reaches no more. valid: every output is reached, and nothing that is needed reads zeros that it would not keep."""

    zero: frozenset[str]
    orphans: frozenset[str]
    valid: bool


class ErasingGraph:
    """The segments of `module` as it acts on inputs like `example_inputs` in eval mode.

    TraceError if `torch.export` cannot trace it.
    """

    def __init__(self, module: nn.Module, example_inputs: Tensor | Sequence[Any]) -> None:
        self.whole = partition(module, example_inputs)
        self.graph: Graph = self.whole.origin.analysis.graph
        self.trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._nodes = {n.name: n for n in self.graph.aten.nodes}
        self._data = self._flowing()
        self._impure = [n for n in self._data if not pure(n)]
        # What was erased and proven -> whether numbers that follow the batch are computed in what is left.
        self.open_batch: dict[frozenset[str], bool] = {}
        contracted = _contract(self._data, self._feeds, set(self.graph.results))
        self._segments = self._named(contracted)
        self._owner = {op: s.name for s in self._segments.values() for op in s.operators}
        self._find_erasable()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, each after those that it reads."""
        return tuple(self._segments.values())

    @property
    def erasable(self) -> tuple[str, ...]:
        """Names of the removal structures."""
        return tuple(s.name for s in self.segments if s.erasable)

    @cached_property
    def partition(self) -> Partition:
        """One component with one group for each removal structure: all its variables."""
        components = [
            Component(
                s.name,
                1,
                tuple(Member(p, 0, torch.arange(len(self.trainable[p]))[None]) for p in s.parameters),
                operators=s.operators,
            )
            for s in self.segments
            if s.erasable
        ]
        held = {p for s in self.segments if s.erasable for p in s.parameters}
        untouched = {p: self._why(p) for p in self.trainable if p not in held}
        return Partition(tuple(components), untouched)

    # -- what follows from an erasure -------------------------------------------------------------------

    def is_valid(self, erased: Iterable[str]) -> bool:
        """Whether the network without these, and without their orphans, computes all its outputs from its input."""
        return self.outcome(erased).valid

    def orphans(self, erased: Iterable[str]) -> frozenset[str]:
        """Removal structures outside of `erased` that the input reaches no more."""
        return self.outcome(erased).orphans

    def outcome(self, erased: Iterable[str]) -> Outcome:
        """What is left without these removal structures. ErasingError if one is none."""
        gone = frozenset(erased)
        if unknown := sorted(gone - set(self.erasable)):
            raise ErasingError(
                f"{', '.join(unknown)}: no removal structure; there are {', '.join(self.erasable)}"
            )
        return self._outcome(gone)

    def _outcome(self, gone: frozenset[str]) -> Outcome:
        zero, orphans, wrong = set(), set(), set()
        for s in self.segments:
            dead = [source in zero for source in s.sources]
            if s.name in gone:
                zero.add(s.name)
            elif s.kind == "add":
                if all(dead):
                    zero.add(s.name)
            elif not any(dead):
                continue
            elif s.erasable:
                orphans.add(s.name)
                zero.add(s.name)
            elif self._keeps_zero(s, all(dead)):
                zero.add(s.name)
            else:
                wrong.add(s.name)
        # What is written into a buffer, and what draws random numbers, is needed like a result.
        ends = {self._owner.get(n.name, "input") for n in (*self.graph.results, *self._impure)}
        needed = set(ends)
        for s in reversed(self.segments):
            if s.name in needed and s.name not in zero:
                needed.update(s.sources)
        return Outcome(frozenset(zero), frozenset(orphans), not ends & zero and not wrong & needed)

    def _keeps_zero(self, segment: Segment, all_dead: bool) -> bool:
        """Whether a segment of which one or all sources are zero emits zero."""
        if segment.kind == "chain":
            return emits_zero(self._of(segment), lambda n: False, input_zero=True)
        name = kind(self._nodes[segment.operators[0]])
        return name == "mul" or (all_dead and name in ("add", "sub", "cat", "stack"))

    # -- the network without ----------------------------------------------------------------------------

    def extract(
        self, module: nn.Module, erased: Iterable[str], open_batch: bool | None = None
    ) -> fx.GraphModule:
        """A module in eval mode without these segments and without all that only they need or feed.

        It computes what `module` computes if they and their orphans are zero, and is held against that, once for each
        set. open_batch: how an earlier proof said that it is made; then there is none. ErasingError if it is not
        valid, or does not compute the same.
        """
        gone = frozenset(erased)
        outcome = self.outcome(gone)
        if not outcome.valid:
            raise ErasingError(f"without {', '.join(sorted(gone))} the network is not connected")
        if open_batch is None:
            if gone not in self.open_batch:
                self.open_batch[gone] = self._prove(module, gone, outcome)
            open_batch = self.open_batch[gone]
        try:
            return self._without(module, outcome, open_batch)
        except OpeningError as error:
            raise ErasingError(str(error)) from None

    def check(self, module: nn.Module) -> None:
        """Proves the extraction of nothing and of as many structures as can go together, until each was in one set.

        For before a training: ErasingError says what cannot be extracted.
        """
        self.extract(module, ())
        left = list(self.erasable)
        while left:
            gone: set[str] = set()
            for name in [*left, *self.erasable]:
                if self.is_valid(gone | {name}):
                    gone.add(name)
            self.extract(module, gone)
            found = gone | self.orphans(gone)
            left = [name for name in left if name not in found]

    def _prove(self, module: nn.Module, gone: frozenset[str], outcome: Outcome) -> bool:
        """Whether sizes that follow the batch must be computed for what is extracted to be what it should."""
        named = {c.name: c for c in self.partition.prunable}

        def zero(values: Mapping[str, Tensor], moved: Collection[str]) -> None:
            for name in gone | outcome.orphans:
                self.partition.zero(named[name], [0], values)

        origin = self.whole.origin
        name = f"{type(module).__name__} without {', '.join(sorted(gone))}" if gone else type(module).__name__
        try:
            proof = Proof(module, self.graph, origin.inputs, origin.analysis.batch, zero)
        except ValueError as error:
            raise ErasingError(f"{name}: {error}") from None
        for open_batch in (False, True) if origin.analysis.batch is not None else (False,):
            why = proof.why_not(partial(self._without, outcome=outcome, open_batch=open_batch), "more")
            if not why:
                return open_batch
        raise ErasingError(
            f"{name}: what is extracted does not compute the same; report its architecture ({why})"
        )

    def _without(self, module: nn.Module, outcome: Outcome, open_batch: bool) -> fx.GraphModule:
        whole = rebuild(module, self.whole, {}, open_batch)
        copies = {n.meta["origin"]: n for n in whole.graph.nodes if "origin" in n.meta}
        for s in self.segments:
            if s.kind == "add" and s.name not in outcome.zero:
                alive = [f for f in self._feeds(self._nodes[s.operators[0]]) if not self._dead(f, outcome)]
                if len(alive) == 1:
                    node = copies[s.operators[0]]
                    operand = node.args[[f.name for f in self._operands(s)].index(alive[0].name)]
                    node.replace_all_uses_with(operand)
        for node in reversed(list(whole.graph.nodes)):
            if not node.users and pure(node):
                whole.graph.erase_node(node)
        whole.graph.lint()
        return fx.GraphModule(whole, whole.graph, type(module).__name__)

    def _operands(self, segment: Segment) -> list[fx.Node]:
        return [a for a in self._nodes[segment.operators[0]].args if isinstance(a, fx.Node)]

    def _dead(self, node: fx.Node, outcome: Outcome) -> bool:
        return self._owner.get(node.name, "input") in outcome.zero

    # -- contraction ------------------------------------------------------------------------------------

    def _flowing(self) -> list[fx.Node]:
        """Operators whose tensors depend on the network's input, in order."""
        found: dict[str, fx.Node] = {}
        for node in self.graph.aten.nodes:
            if node.op == "call_function" and next(iter(shapes(node)), None) is not None:
                reads = {n.name for n in node.all_input_nodes}
                if reads & (found.keys() | set(self.graph.inputs)):
                    found[node.name] = node
        return list(found.values())

    def _feeds(self, node: fx.Node) -> list[fx.Node]:
        """The tensors that flow into a node: results of other operators, or the network's inputs."""
        flowing = {n.name for n in self._data} | set(self.graph.inputs)
        return [n for n in node.all_input_nodes if n.name in flowing]

    def _of(self, segment: Segment) -> list[fx.Node]:
        return [self._nodes[name] for name in segment.operators]

    def _named(self, contracted: list[tuple[str, list[fx.Node]]]) -> dict[str, Segment]:
        """Segments by name: the common path of their parameters, else the first operator's name."""
        readers: dict[str, set[int]] = {}
        for k, (_, nodes) in enumerate(contracted):
            for name in self._read(nodes):
                readers.setdefault(name, set()).add(k)
        # What is computed of parameters alone, as by weight normalisation, is read by no segment directly.
        indirect = {
            self.graph.tensors[n.name]
            for node in self.graph.aten.nodes
            if node.op == "call_function" and node not in set(self._data)
            for n in node.all_input_nodes
            if n.name in self.graph.tensors
        }
        segments: dict[str, Segment] = {}
        place = {n.name: k for k, (_, nodes) in enumerate(contracted) for n in nodes}
        names: list[str] = []
        for what, nodes in contracted:
            own = [p for p in self._read(nodes) if p in self.trainable]
            name = _common_path(own) or nodes[0].name
            while name in segments:
                name += "'"
            sources = [names[place[f.name]] if f.name in place else "input" for f in self._feeds(nodes[0])]
            reason = ""
            if shared := [p for p in own if len(readers[p]) > 1 or p in indirect]:
                reason = f"{shared[0]} is used elsewhere too"
            segments[name] = Segment(
                name, what, tuple(n.name for n in nodes), tuple(sources), tuple(own), reason=reason
            )
            names.append(name)
        return segments

    def _read(self, nodes: Iterable[fx.Node]) -> list[str]:
        tensors = self.graph.tensors
        found = [tensors[n.name] for node in nodes for n in node.all_input_nodes if n.name in tensors]
        return list(dict.fromkeys(found))

    # -- removal structures -----------------------------------------------------------------------------

    def _find_erasable(self) -> None:
        reasons = {s.name: s.reason or self._obstacle(s) for s in self.segments}
        for name, reason in reasons.items():
            s = self._segments[name]
            self._segments[name] = replace(s, erasable=not reason, reason=reason)
        # Only now, since orphans count as erased: a structure without which nothing is left is none.
        alone = [s for s in self.segments if s.erasable and not self._outcome(frozenset({s.name})).valid]
        for s in alone:
            self._segments[s.name] = replace(s, erasable=False, reason="without it the output is not reached")

    def _obstacle(self, segment: Segment) -> str:
        """Why a segment is no removal structure, or an empty text."""
        nodes = self._of(segment)
        if segment.kind != "chain":
            return "several tensors meet in it"
        if not segment.parameters:
            return "it has no variables"
        if any(not self.trainable[p].dim() for p in segment.parameters):
            return "one of its variables is a single number"
        users = [u for u in nodes[-1].users if u.op == "output" or u in set(self._data)]
        owners = {self._owner.get(u.name, "output") for u in users}
        if len(users) != 1 or nodes[-1] in self.graph.results:
            return "its result is used more than once, or is an output"
        successor = self._segments.get(next(iter(owners)))
        if successor is None or successor.kind != "add":
            return "its result does not go into an addition"
        if random := next((n for n in nodes if draws(n)), None):
            return f"{kind(random)} draws random numbers"
        own = set(segment.parameters)
        if not emits_zero(nodes, lambda n: self.graph.tensors.get(n.name) in own):
            return "it is not zero when its variables are"
        return ""

    def _why(self, parameter: str) -> str:
        for s in self.segments:
            if parameter in s.parameters:
                return s.reason
        return "no operator reads it directly"


def _common_path(parameters: Sequence[str]) -> str:
    """Path of the innermost module that holds all of these; empty if there is none but the root."""
    paths = [p.split(".")[:-1] for p in parameters]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _contract(
    data: list[fx.Node], feeds: Callable[[fx.Node], list[fx.Node]], results: set[fx.Node]
) -> list[tuple[str, list[fx.Node]]]:
    """Maximal chains of operators with one input and one user; where tensors meet, a segment of one operator."""
    segments: list[tuple[str, list[fx.Node]]] = []
    place: dict[fx.Node, int] = {}
    flowing = set(data)
    for node in data:
        sources = feeds(node)
        before = place.get(sources[0])
        users = [u for u in sources[0].users if u in flowing]
        if len(sources) > 1:
            place[node] = len(segments)
            segments.append(("add" if _is_addition(node, sources) else "joint", [node]))
        elif (
            before is not None
            and segments[before][0] == "chain"
            and len(users) == 1
            and sources[0] not in results
        ):
            place[node] = before
            segments[before][1].append(node)
        else:
            place[node] = len(segments)
            segments.append(("chain", [node]))
    return segments


def _is_addition(node: fx.Node, sources: list[fx.Node]) -> bool:
    """Whether dropping one operand leaves the other: both of the result's shape, weights 1, nothing else changed."""
    if kind(node) != "add" or node.kwargs.get("alpha", 1) != 1 or len(node.args) != 2:
        return False
    made = node.meta["val"]
    return len(sources) == 2 and all(
        list(shapes(s)) == [tuple(made.shape)] and s.meta["val"].dtype == made.dtype for s in sources
    )
