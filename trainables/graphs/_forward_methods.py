"""How ForwardGNN trains its layers, and how backpropagation does: the mechanisms that `forward_gnn` chooses from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.trainables.graphs._labelled_graphs import (
    Net,
    features_of,
    log_mean,
    one_hot,
    unit_rows,
    with_virtual_nodes,
)
from fairsweep.trainables.tasks.message_passing import Features, Structure
from fairsweep.trainables.tasks.node_classification import NodeTask, load


class Loss(Protocol):
    def __call__(self) -> Tensor: ...


class Take(Protocol):
    """Makes a training step down a loss, its gradient clipped to a norm if one is given; its value."""

    def __call__(self, loss: Loss, clip_norm: float | None = None, /) -> float: ...


class Method:
    """How the layers are trained: in `phases`, one after the other, of many epochs each.

    It begins with the nodes of `data` and draws virtual nodes' features and wrong labels from the trial's generators.
    """

    phases = 1

    def __init__(self, data: NodeTask, config: Mapping[str, Any], rng: np.random.Generator) -> None:
        self.data, self.config, self.rng = data, config, rng
        graph = load(data.name, data.folder)
        self.adjacency, self.x, self.device = graph.adjacency, graph.features, str(data.labels.device)
        self.y, self.parts = graph.labels, {k: v.cpu().numpy() for k, v in data.parts.items()}
        self.size, self.classes = (graph.nodes, data.classes), data.classes
        self.hidden, self.depth = config["hidden"], config["layers"]
        self.temperature = config.get("temperature", 1.0)
        self.appended = config.get("append_label", "none")

    def net_of(self, *widths: tuple[int, int], joined: bool = True) -> Net:
        return Net(self.config["conv"], list(widths), joined).to(self.device)

    def stacked(self, width: int) -> Net:
        """`depth` layers, the first from `width`."""
        more = self.classes if self.appended == "all" else 0
        return self.net_of((width, self.hidden), *[(self.hidden + more, self.hidden)] * (self.depth - 1))

    def virtual(self) -> np.ndarray | sp.csr_matrix:
        """x of all nodes, and N(0, 1) for a virtual node of each class."""
        drawn = self.rng.standard_normal((self.classes, self.x.shape[1])).astype(np.float32)
        rows = [self.x, drawn]
        return sp.vstack(rows, format="csr") if sp.issparse(self.x) else np.concatenate(rows)

    def linked(self, nodes: np.ndarray, labels: np.ndarray) -> Structure:
        """The graph whose `nodes` are linked to the virtual nodes of `labels`."""
        both = self.config["aug_edges"] == "both"
        return Structure(with_virtual_nodes(self.adjacency, nodes, labels, self.classes, both), self.device)

    def shown(self, nodes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(n + C, C): labels of `nodes`, of the virtual nodes their own, 1/C of all others."""
        return np.concatenate([one_hot(nodes, labels, self.size), np.eye(self.classes, dtype=np.float32)])

    def wrong(self) -> np.ndarray:
        """(negatives, training nodes): wrong classes of each node, none twice, in an order of its own."""
        own = self.y[self.parts["train"]]
        offsets = self.rng.permuted(np.tile(np.arange(1, self.classes), (len(own), 1)), axis=1)
        return ((own[:, None] + offsets) % self.classes).T[: self.config["negatives"]]

    def above(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """The next layer's input, beside `labels` (n, C) if there are any."""
        return unit_rows(h if labels is None else torch.cat([h, labels], 1))

    def scores(self, h: Tensor) -> Tensor:
        """Z_v . Z_c / temperature (n, C) of all nodes and states h (n + C, hidden)."""
        return h[: -self.classes] @ h[-self.classes :].T / self.temperature

    def loss(self, h: Tensor) -> Tensor:
        """SF's of a layer: cross-entropy of the training nodes among the virtual nodes."""
        nodes = self.data.parts["train"]
        logits = h[nodes] @ h[-self.classes :].T / self.temperature
        return F.cross_entropy(logits, self.data.labels[nodes])

    # what a method gives

    net: Net
    given: list[Features]  # the features as the layers are given them

    @property
    def held(self) -> list[Any]:
        """What goes from step to step beside weights, graphs and features: tensors, and lists and tuples of them."""
        return []

    def enter(self, layer: int) -> None:
        """Begins to train `layer`."""
        self.net.depth.fill_(layer + 1)

    def step(self, take: Take) -> float:
        """One epoch; its loss."""
        raise NotImplementedError

    def logits(self, net: Net, part: str) -> Tensor:
        """(n, C) for which the nodes of `part` are compared; their softmax says how likely a class is."""
        raise NotImplementedError

    def state(self) -> list[Tensor]:
        """What further steps depend on beside weights."""
        return []

    def restore(self, state: list[Tensor]) -> None:
        """Takes `state` back."""


class SingleForward(Method):
    """SF: one graph, one pass a step, layer after layer; a class's probability is the mean over the layers."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        nodes = self.parts["train"]
        labels = self.shown(nodes, self.y[nodes])
        self.graph = self.linked(nodes, self.y[nodes])
        beside = [labels] if self.appended != "none" else []
        self.features = features_of(self.virtual(), beside, self.device)[0]
        self.given = [self.features]
        self.labels = torch.tensor(labels, device=self.device) if self.appended == "all" else None
        self.net = self.stacked(self.x.shape[1] + (self.classes if beside else 0))
        self.phases = self.depth

    @torch.no_grad()
    def passed(
        self, net: Net, first: int, x: Features, total: Tensor, layers: int
    ) -> tuple[Features, Tensor]:
        """The input behind `layers` layers, and the sum of their probabilities, from those before layer `first`."""
        for layer in range(first, layers):
            h = net.out(layer, x, self.graph)
            x, total = self.above(h, self.labels), total + self.scores(h).softmax(1)
        return x, total

    def enter(self, layer: int) -> None:
        super().enter(layer)
        self.layer, none = layer, torch.zeros(self.size, device=self.device)
        self.input, self.total = self.passed(self.net, 0, self.features, none, layer)

    @property
    def held(self) -> list[Any]:
        return [self.features, self.input, self.total, self.labels]

    def step(self, take: Take) -> float:
        return take(lambda: self.loss(self.net.out(self.layer, self.input, self.graph)))

    def logits(self, net: Net, part: str) -> Tensor:
        begin = (self.layer, self.input, self.total)
        if net is not self.net:  # what lies below the layer is not that of now
            begin = (0, self.features, torch.zeros(self.size, device=self.device))
        return log_mean(self.passed(net, *begin, net.trained)[1], net.trained)


Stream = tuple[
    Features, Structure, Tensor | None
]  # a copy of the data: input, graph, labels that each layer is shown


class ForwardForward(Method):
    """FF-LA and FF-VN: a positive copy of the data and negative ones with wrong labels, layer after layer.

    To tell a class, each is tried: all nodes in question are given it, and the goodness added up over the layers.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.beside, self.theta = self.config["training"] == "ff_la", self.config["theta"]
        nodes = self.parts["train"]
        labels = [self.y[nodes], *self.wrong()]
        if not self.beside:
            self.all_x = self.virtual()
        self.first = self.copies(nodes, labels, labels if self.beside else labels[:1] * len(labels))
        more = self.classes if self.beside or self.appended != "none" else 0
        self.net, self.phases = self.stacked(self.x.shape[1] + more), self.depth

    def copies(self, nodes: np.ndarray, labels: list[np.ndarray], shown: list[np.ndarray]) -> list[Stream]:
        """A copy for each of `labels` of `nodes`; `shown` are those that features say, where they say any."""
        if self.beside:
            beside = [one_hot(nodes, each, self.size) for each in shown]
            return [(x, self.data.structure, None) for x in features_of(self.x, beside, self.device)]
        graphs = [self.linked(nodes, each) for each in labels]
        if self.appended == "none":
            x = features_of(self.all_x, [], self.device)[0]
            return [(x, graph, None) for graph in graphs]
        beside = [self.shown(nodes, each) for each in shown]
        xs = features_of(self.all_x, beside, self.device)
        again = [torch.tensor(b, device=self.device) if self.appended == "all" else None for b in beside]
        return list(zip(xs, graphs, again, strict=True))

    def candidates(self, part: str) -> list[Stream]:
        """For each class a copy in which the nodes of `part` have it."""
        known = np.concatenate([self.parts["train"], *([self.parts["validation"]] if part == "test" else [])])
        asked = self.parts[part]
        nodes = np.concatenate([known, asked])
        labels = [np.concatenate([self.y[known], np.full(len(asked), c)]) for c in range(self.classes)]
        return self.copies(nodes, labels, labels)

    @torch.no_grad()
    def passed(
        self, net: Net, streams: list[Stream], first: int, last: int
    ) -> tuple[list[Stream], list[Tensor]]:
        """The streams behind the layers `first` .. `last` - 1, and each one's goodness of the nodes (n,)."""
        found, goodness = [], []
        for x, graph, labels in streams:
            total = torch.zeros(self.size[0], device=self.device)
            for layer in range(first, last):
                h = net.out(layer, x, graph)
                total = total + h[: self.size[0]].square().mean(1) - self.theta
                x = self.above(h, labels)
            found.append((x, graph, labels))
            goodness.append(total)
        return found, goodness

    def enter(self, layer: int) -> None:
        super().enter(layer)
        self.layer, net = layer, self.net
        if self.beside:
            self.inputs = self.passed(net, self.first, 0, layer)[0]
        else:  # wrong links make no features: those of the next layer are the positive graph's in all copies
            x = self.passed(net, self.first[:1], 0, layer)[0][0][0]
            self.inputs = [(x, graph, labels) for _, graph, labels in self.first]
        asked = self.candidates("validation")
        self.below = self.passed(net, asked, 0, layer)
        self.given = [self.first[0][0], asked[0][0]]

    @property
    def held(self) -> list[Any]:
        return [self.first, self.inputs, self.below]

    def step(self, take: Take) -> float:
        return take(self.goodness_loss)

    def goodness_loss(self) -> Tensor:
        """softplus(theta - g) of the positive copy, and the mean over the negative ones of softplus(g - theta)."""
        nodes, losses = self.data.parts["train"], []
        for i, (x, graph, _) in enumerate(self.inputs):
            over = self.net.out(self.layer, x, graph)[nodes].square().sum(1) - self.theta
            losses.append(F.softplus(over if i else -over).mean())
        return losses[0] + torch.stack(losses[1:]).mean()

    def logits(self, net: Net, part: str) -> Tensor:
        if net is self.net and part == "validation":
            streams, below = self.below
            above = self.passed(net, streams, self.layer, net.trained)[1]
            return torch.stack([a + b for a, b in zip(above, below, strict=True)], 1)
        return torch.stack(self.passed(net, self.candidates(part), 0, net.trained)[1], 1)


class Backpropagation(Method):
    """The baseline: the same convolutions end to end, ReLU between them, the last to the classes."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        widths = [self.x.shape[1], *[self.hidden] * (self.depth - 1), self.classes]
        self.net = self.net_of(*pairwise(widths), joined=False)
        self.net.depth.fill_(self.depth)
        self.given = [self.data.features]

    def enter(self, layer: int) -> None:
        pass

    def forward(self, net: Net) -> Tensor:
        x = self.data.features
        for layer in range(self.depth - 1):
            x = net.out(layer, x, self.data.structure)
        return net.layers[-1](x, self.data.structure)

    def step(self, take: Take) -> float:
        return take(lambda: self.data.loss(self.forward(self.net), "train"))

    @torch.no_grad()
    def logits(self, net: Net, part: str) -> Tensor:
        return self.forward(net)
