"""A network that is run while somebody looks: what each call of its modules returns, and in double precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fairsweep.search_spaces.pruning.trace import Graph, kind

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}

Site = tuple[str, int]  # path of a module, and which of its calls
Note = Callable[[Site, Tensor], None]


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
def watched(net: nn.Module, note: Note, calibrate: bool) -> Iterator[None]:
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


class Watch(fx.Interpreter):
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
        args, kwargs = pytree.tree_map(doubled, (args, kwargs or {}))
        return pytree.tree_map(doubled, func(*args, **kwargs))


def doubled(value: Any) -> Any:
    if isinstance(value, Tensor):
        low = value.is_floating_point() and value.dtype != torch.double
        return value.to(torch.double) if low else value
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.double
    return value
