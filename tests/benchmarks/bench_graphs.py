"""One training step on a graph of 100,000 nodes and 1,000,000 links, beside the same written with PyTorch Geometric.

Layers alone (two of them, 128 -> 64 -> classes) and the methods of node classification, each with its paper's own
configuration where it is not said otherwise. A step is forward, loss, backward and Adam, and of a method its
validation; the two sides take turns in one process, one thread, and the median of each side counts. PyTorch Geometric
has the better of two forms: `edge_index`, and a sparse matrix where the layer takes one. Memory is the peak of a
process that does nothing but ours, of reading the graph on.

    pip install "fairsweep[benchmarks]"
    python -m tests.benchmarks.bench_graphs [NAME ...] [--steps 5] [--nodes 100000] [--edges 1000000]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables import catalog
from fairsweep.trainables.base import Setting
from fairsweep.trainables.datasets import large_graphs
from fairsweep.trainables.tasks import node_classification
from fairsweep.trainables.tasks.message_passing import GATLayer, Layers
from fairsweep.trainables.tasks.node_classification import NodeTask

DATA, HIDDEN, HEADS = "synthetic_large", 64, 8
LIMIT, MEMORY = 1.2, 4.0  # times PyTorch Geometric's, GB
Step = Callable[[], None]
LAYERS = ("gcn", "sage", "gin", "gat")


@cache
def data() -> NodeTask:
    return NodeTask(DATA, None, "cpu", np.random.default_rng(0))


def trained(net: nn.Module, forward: Callable[[], Tensor]) -> Step:
    """A step of Adam down the loss of the training nodes."""
    optimiser, nodes = torch.optim.Adam(net.parameters(), fused=True), data().parts["train"]
    labels = data().labels[nodes]

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(forward()[nodes], labels).backward()
        optimiser.step()

    return step


# ---- ours ----


def our_layers(kind: str) -> Step:
    task = data()
    net: nn.Module = Layers(kind, [task.inputs, HIDDEN, task.classes])
    if kind == "gat":
        net.layers = nn.ModuleList(
            [GATLayer(task.inputs, HIDDEN, HEADS), GATLayer(HIDDEN, task.classes, HEADS, joined=False)]
        )
    return trained(net, lambda: net(task.features, task.structure))


def our_paper(slug: str, **over: Any) -> Step:
    paper = catalog.get(slug)()
    space = paper.space().freed(over)
    paper.setup(space.fill(over, DATA), Setting(data=DATA, steps=1000))
    return lambda: paper.step() and None


# ---- PyTorch Geometric's ----


def arcs() -> Tensor:
    coo = data().structure.adjacency.tocoo()
    return torch.tensor(np.stack([coo.col, coo.row]), dtype=torch.int64)


def sparse() -> Tensor:
    a = data().structure.adjacency
    rows = (torch.tensor(x, dtype=torch.int64) for x in (a.indptr, a.indices))
    return torch.sparse_csr_tensor(*rows, torch.tensor(a.data), size=a.shape, check_invariants=False)


def their_layers(kind: str, form: Callable[[], Tensor]) -> Step:
    import torch_geometric.nn as pyg

    task, edges = data(), form()
    p, c = task.inputs, task.classes

    def mlp(a: int, b: int) -> nn.Module:
        return nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, b))

    made: dict[str, Callable[[], list[nn.Module]]] = {
        "gcn": lambda: [pyg.GCNConv(p, HIDDEN, cached=True), pyg.GCNConv(HIDDEN, c, cached=True)],
        "sage": lambda: [pyg.SAGEConv(p, HIDDEN), pyg.SAGEConv(HIDDEN, c)],
        "gin": lambda: [
            pyg.GINConv(mlp(p, HIDDEN), train_eps=True),
            pyg.GINConv(mlp(HIDDEN, c), train_eps=True),
        ],
        "gat": lambda: [pyg.GATConv(p, HIDDEN // HEADS, HEADS), pyg.GATConv(HIDDEN, c, HEADS, concat=False)],
    }
    layers = made[kind]()
    return trained(
        nn.ModuleList(layers), lambda: layers[1](torch.relu(layers[0](task.features, edges)), edges)
    )


def their_dagnn(form: Callable[[], Tensor]) -> Step:
    """DAGNN of `pyg`'s propagation, with its validation as ours has it."""
    import torch_geometric.nn as pyg

    task, edges = data(), form()
    lin1, lin2 = nn.Linear(task.inputs, 64), nn.Linear(64, task.classes)
    gate = nn.Linear(task.classes, 1)
    hop = pyg.APPNP(K=1, alpha=0.0, cached=True)

    def forward() -> Tensor:
        h = F.dropout(task.features, 0.8, net.training)
        h = lin2(F.dropout(torch.relu(lin1(h)), 0.8, net.training))
        hops = [h]
        for _ in range(10):
            hops.append(hop(hops[-1], edges))
        stack = torch.stack(hops)
        return (torch.sigmoid(gate(stack)) * stack).sum(0)

    net = nn.ModuleList([lin1, lin2, gate, hop])
    return validated(net, forward)


def their_single_forward(form: Callable[[], Tensor]) -> Step:
    """A layer of ForwardGNN's SF on the graph with virtual nodes, validated every second step as ours is."""
    import torch_geometric.nn as pyg

    task, n = data(), data().structure.nodes
    nodes, c = task.parts["train"], task.classes
    virtual = n + task.labels[nodes]
    edges = torch.cat([arcs(), torch.stack([nodes, virtual]), torch.stack([virtual, nodes])], 1)
    if form is sparse:
        edges = torch.sparse_coo_tensor(edges.flip(0), torch.ones(edges.shape[1]), (n + c, n + c)).coalesce()
        edges = edges.to_sparse_csr()
    layer = pyg.GCNConv(task.inputs, 128, cached=True)
    x = F.normalize(torch.cat([task.features, torch.randn(c, task.inputs)]))
    optimiser, labels = torch.optim.Adam(layer.parameters(), fused=True), task.labels[nodes]
    count = 0

    def step() -> None:
        nonlocal count
        optimiser.zero_grad()
        h = torch.relu(layer(x, edges))
        F.cross_entropy(h[nodes] @ h[-c:].T, labels).backward()
        optimiser.step()
        count += 1
        if count % 2 == 0:
            with torch.no_grad():
                h = torch.relu(layer(x, edges))
                score = (h[:-c] @ h[-c:].T).softmax(1)
                task.accuracy(score, "validation"), task.loss(score.log(), "validation").item()

    return step


def validated(net: nn.Module, forward: Callable[[], Tensor]) -> Step:
    step = trained(net, forward)

    def both() -> None:
        net.train()
        step()
        net.eval()
        with torch.no_grad():
            logits = forward()
        task = data()
        task.accuracy(logits, "validation"), task.loss(logits, "validation").item()

    return both


PAIRS: dict[str, tuple[Callable[[], Step], Callable[[Callable[[], Tensor]], Step] | None]] = {
    **{kind: (lambda k=kind: our_layers(k), lambda form, k=kind: their_layers(k, form)) for kind in LAYERS},  # type: ignore[misc]
    "dagnn": (lambda: our_paper("dagnn"), their_dagnn),
    "forward_gnn": (lambda: our_paper("forward_gnn", layers=1), their_single_forward),
    "adpa": (
        lambda: our_paper("adpa"),
        None,
    ),  # propagates before it trains: no step has an operation of theirs
}


# ---- measuring ----


def seconds(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def beside(name: str, steps: int) -> tuple[float, dict[str, float]]:
    """The median seconds of our step, and of each form of theirs that there is."""
    ours, theirs = PAIRS[name]
    sides: dict[str, Step] = {"ours": ours()}
    for form in (arcs, sparse) if theirs is not None else ():
        if name != "gat" or form is arcs:  # GATConv takes no torch.sparse_csr
            sides[form.__name__] = theirs(form)
    for step in sides.values():
        step()
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(steps):
        for side, step in sides.items():
            times[side].append(seconds(step))
    found = {side: statistics.median(each) for side, each in times.items()}
    return found.pop("ours"), found


def peak(name: str) -> float:
    """GB of a process that reads the graph and makes two steps of ours."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_graphs", name, "--alone", *SIZE]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


SIZE: list[str] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PAIRS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Sparse .* tensor support is in beta")
    SIZE[:] = ["--nodes", str(asked.nodes), "--edges", str(asked.edges)]
    node_classification.LOADERS = {  # type: ignore[misc]
        **node_classification.LOADERS,
        DATA: lambda data_dir: large_graphs.large_blocks(asked.nodes, asked.edges),
    }
    if asked.alone:
        step = PAIRS[asked.names[0]][0]()
        step(), step()
        # Not getrusage's, which counts what the parent of the process had.
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)
        return
    import torch_geometric

    print(
        f"torch {torch.__version__}, torch_geometric {torch_geometric.__version__}, one thread, {asked.steps} steps"
    )
    print(f"{asked.nodes:,} nodes, {asked.edges:,} links")
    for name in asked.names or PAIRS:
        ours, theirs = beside(name, asked.steps)
        memory, ratio, said = peak(name), 0.0, ""
        if theirs:
            ratio = ours / min(theirs.values())
            said = ", ".join(f"{form} {value:.3f} s" for form, value in theirs.items())
            said = f"   PyTorch Geometric: {said}   {ratio:.2f}x"
        missed = "" if ratio <= LIMIT and memory < MEMORY else "   MISSES ITS AIM"
        print(f"{name:12} {ours:.3f} s, {memory:.2f} GB{said}{missed}", flush=True)


if __name__ == "__main__":
    main()
