"""The operators of NASNet's networks, whose costs add up to those of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import nn

from fairsweep.search_spaces.architectures.nasnet import Block, NASNetSpace, loose_ends
from fairsweep.search_spaces.costs import CostError, Operator
from fairsweep.search_spaces.supernets.nasnet_network import Place
from fairsweep.search_spaces.supernets.nasnet_operations import SameConv2d, match, operation, relu_conv

MOST_BLOCKS = 3  # beyond, the ways to choose inputs are too many for a table: 36, 1296, 129,600, ...


def wirings(space: NASNetSpace, kind: str) -> list[tuple[dict[str, str], tuple[int, ...]]]:
    """Every way in which the blocks of a cell can choose their inputs, with the loose ends that it leaves."""
    found = []
    pairs = [product(range(b + 2), range(b + 2)) for b in range(space.blocks)]
    for inputs in product(*pairs):
        when = {
            f"{kind}.b{b}.in{side}": str(state)
            for b, pair in enumerate(inputs)
            for side, state in enumerate(pair, start=1)
        }
        found.append((when, loose_ends([Block(pair, ("", ""), "") for pair in inputs])))
    return found


def operators(
    space: NASNetSpace, places: Sequence[Place], input_shape: tuple[int, int, int], classes: int
) -> Iterator[Operator]:
    """The operators of `NASNet`s with the small stem. CostError if the cells have more than `MOST_BLOCKS` blocks."""
    if space.blocks > MOST_BLOCKS:
        raise CostError(
            f"blocks={space.blocks}: costs are tabulated for up to {MOST_BLOCKS}; count them on the built network"
        )
    sides: list[tuple[int, ...]] = [input_shape[1:]]
    for place in places:
        sides.append(tuple(-(-side // place.stride) for side in sides[-1]))
    ways = {kind: wirings(space, kind) for kind in ("normal", "reduction")}
    width = 3 * places[0].filters
    modules: dict[tuple[object, ...], nn.Module] = {}  # one serves all places where it is the same

    def once(make: Callable[..., nn.Module], *arguments: object) -> nn.Module:
        key = (make, *arguments)
        if key not in modules:
            # Making a module draws its weights; listing costs must not disturb anybody's stream.
            with torch.random.fork_rng(devices=[]):
                modules[key] = make(*arguments)
        return modules[key]

    def outputs(number: int) -> Iterator[tuple[dict[str, str], int]]:
        """What output `number` of the stack has for channels, and when."""
        if number == 0:
            yield {}, width
        else:
            place = places[number - 1]
            yield from ((when, len(loose) * place.filters) for when, loose in ways[place.kind])

    yield Operator(once(_stem, input_shape[0], width), input_shape, context="stem")
    for place in places:
        filters, before, after = place.filters, sides[place.number], sides[place.number + 1]
        name = f"cell {place.number}"
        for when, channels in outputs(place.current):
            yield Operator(once(_relu_conv, channels, filters), (channels, *before), when, f"{name} state 0")
        reduce = place.previous_halvings < place.halvings
        for when, channels in outputs(place.previous):
            if reduce or channels != filters:
                shape = (channels, *sides[place.previous])
                yield Operator(once(_previous, channels, filters, reduce), shape, when, f"{name} state 1")
        for b in range(space.blocks):
            block = f"{place.kind}.b{b}"
            for side, state, option in product((1, 2), range(b + 2), space.operations):
                stride, shape = (place.stride, before) if state < 2 else (1, after)
                module = once(operation, option, filters, filters, stride)
                if not isinstance(module, nn.Identity):
                    taken = {f"{block}.in{side}": str(state), f"{block}.op{side}": option}
                    yield Operator(module, (filters, *shape), taken, f"{name} b{b}")
            if "concat" in space.combine:
                taken = {f"{block}.combine": "concat"}
                yield Operator(
                    once(_relu_conv, 2 * filters, filters), (2 * filters, *after), taken, f"{name} b{b}"
                )
        for when, loose in ways[place.kind] if place.kind == "reduction" else ():
            for state in loose:
                if state < 2:
                    module = once(match, filters, filters, True)
                    yield Operator(module, (filters, *before), when, f"{name} output")
    for when, channels in outputs(len(places)):
        yield Operator(once(_head, channels, classes), (channels, *sides[-1]), when, "classifier")


def _stem(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(SameConv2d(inputs, width, 3), nn.BatchNorm2d(width))


def _relu_conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(*relu_conv(inputs, outputs))


def _previous(inputs: int, outputs: int, reduce: bool) -> nn.Module:
    return nn.Sequential(nn.ReLU(), match(inputs, outputs, reduce))


def _head(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
