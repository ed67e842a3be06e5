"""The top-down variants of ForwardGNN's single forward: a layer learns from what is above it, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fairsweep.trainables.graphs._forward_methods import Method, Take
from fairsweep.trainables.graphs._labelled_graphs import (
    Net,
    features_of,
    log_mean,
    unit_rows,
)
from fairsweep.trainables.tasks.message_passing import Features

CLIP = 1.0  # norm of a gradient of SF-Top2Loss
FROM = 2  # the first time step whose probabilities SF-Top2Input adds up


class TopDown(Method):
    """What SF-Top2Input and SF-Top2Loss share: the states of all layers, which a time step makes anew."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        nodes = self.parts["train"]
        self.graph, x = self.linked(nodes, self.y[nodes]), self.virtual()
        self.unit, self.raw = (features_of(x, [], self.device, unit)[0] for unit in (True, False))
        self.top = unit_rows(torch.tensor(self.shown(nodes, self.y[nodes]), device=self.device))
        self.given, self.seen = [self.unit, self.raw], list[Any]()
        self.build()
        self.net.depth.fill_(self.depth)

    def build(self) -> None:
        """Makes the network."""
        self.net = self.stacked(self.x.shape[1])

    def bottom_up(self, net: Net) -> list[Any]:
        """The states to begin with, of rows of length one: features, each layer's, and what is above them."""
        raise NotImplementedError

    @property
    def held(self) -> list[Any]:
        """The states, those of the step before that a step still reads, and the labels."""
        return [self.states, self.seen, self.top]

    def enter(self, layer: int) -> None:
        self.states = self.bottom_up(self.net)

    def state(self) -> list[Tensor]:
        return self.states[1 : self.depth + 1]

    def restore(self, state: list[Tensor]) -> None:
        self.states[1 : self.depth + 1] = [each.to(self.device) for each in state]


class TopInput(TopDown):
    """SF-Top2Input: a layer is given the state above it, too, of the step before; above the last are the labels.

    alternating: layers 0, 2, ... first, then 1, 3, ... on what those have just made.
    """

    def build(self) -> None:
        widths = [self.x.shape[1], *[self.hidden] * self.depth, self.classes]
        self.net = self.net_of(*[(widths[j] + widths[j + 2], self.hidden) for j in range(self.depth)])

    @torch.no_grad()
    def bottom_up(self, net: Net) -> list[Any]:
        states: list[Any] = [self.unit]
        for j in range(self.depth):
            width = self.hidden if j + 1 < self.depth else self.classes
            nothing = torch.zeros(len(self.top), width, device=self.device)
            states.append(unit_rows(net.out(j, (states[j], nothing), self.graph)))
        return [*states, self.top]

    def sweep(self, states: list[Any], out: Callable[[int, Features], Tensor]) -> None:
        """One time step: `out` gives the output of a layer for its input, which becomes its state."""
        alternating, layers = self.config["alternating"], range(self.depth)
        self.seen = seen = states if alternating else list(states)
        for j in [*layers[::2], *layers[1::2]] if alternating else layers:
            states[j + 1] = unit_rows(out(j, (seen[j], seen[j + 2])).detach())
        self.seen = []

    def step(self, take: Take) -> float:
        losses = []

        def trained(layer: int, x: Features) -> Tensor:
            made: list[Tensor] = []

            def loss() -> Tensor:
                made.append(self.net.out(layer, x, self.graph))
                return self.loss(made[0])

            losses.append(take(loss))
            return made[0]

        self.sweep(self.states, trained)
        return sum(losses) / len(losses)

    @torch.no_grad()
    def logits(self, net: Net, part: str) -> Tensor:
        states, steps = self.bottom_up(net), self.config["test_steps"]
        total = torch.zeros(self.size, device=self.device)
        for step in range(steps):
            outs: list[Tensor] = []

            def out(layer: int, x: Features, outs: list[Tensor] = outs) -> Tensor:
                outs.append(net.out(layer, x, self.graph))
                return outs[-1]

            self.sweep(states, out)
            if step >= FROM:
                total = torch.stack([self.scores(h).softmax(1) for h in outs]).sum(0) + total
        return log_mean(total, self.depth * (steps - FROM))


class TopLoss(TopDown):
    """SF-Top2Loss: a layer's loss is of the mean of its output and of the states above it, of the step before."""

    @torch.no_grad()
    def bottom_up(self, net: Net) -> list[Any]:
        x, states = self.raw, [self.unit]
        for j in range(self.depth):
            x = net.out(j, x, self.graph)
            states.append(unit_rows(x))
        return states

    def step(self, take: Take) -> float:
        self.seen = before = list(self.states)
        losses = []
        for j in range(self.depth):

            def loss(j: int = j) -> Tensor:
                h = self.net.out(j, before[j], self.graph)
                self.states[j + 1] = unit_rows(h.detach())
                return self.loss(torch.stack([h, *before[j + 2 :]]).mean(0))

            losses.append(take(loss, CLIP))
        self.seen = []
        return sum(losses) / len(losses)

    @torch.no_grad()
    def logits(self, net: Net, part: str) -> Tensor:
        states = self.bottom_up(net)
        total = torch.zeros(self.size, device=self.device)
        for j in range(self.depth):
            h = net.out(j, states[j], self.graph)
            total += self.scores(torch.stack([h, *states[j + 2 :]]).mean(0)).softmax(1)
        return log_mean(total, self.depth)
