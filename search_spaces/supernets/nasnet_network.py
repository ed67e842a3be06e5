"""The network that NASNet stacks from two cells (Zoph et al., CVPR 2018; sizes and rules of the authors' code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.nasnet import CELLS, Block, NASNetSpace, loose_ends
from fairsweep.search_spaces.supernets.layers import Normalisation, image_shape, positive, running
from fairsweep.search_spaces.supernets.nasnet_operations import (
    SameConv2d,
    initialise,
    match,
    operation,
    relu_conv,
)

NASNET_A_CONCAT_USED = ((1,), (3,))  # of the normal and of the reduction cell
VERSIONS = ("v1", "v2", "v3")
Stem = Literal["small", "imagenet"]
AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's loss, in the paper and the authors' code


# ---- ScheduledDropPath (section 3.2 of the supplement; versions of the authors' code) ----


def keep_probability(
    final: float, cell: int, cells: int, progress: float, version: str | None = "v3"
) -> float:
    """Probability that an operation of cell number `cell` of `cells` is kept after `progress` of training in [0, 1].

    v1: the probability to drop grows linearly with time; v2: with depth; v3: with both; None: it is constant.
    At its end it is 1 - `final`, in the last cell.
    """
    if not 0 < final <= 1:
        raise ValueError(f"final={final}: must lie in (0, 1]")
    if version is not None and version not in VERSIONS:
        raise ValueError(f"version={version}: must be None or one of {', '.join(VERSIONS)}")
    drop = 1 - final
    if version in ("v2", "v3"):
        drop *= (cell + 1) / cells
    if version in ("v1", "v3"):
        drop *= min(1.0, progress)
    return 1 - drop


class DropPath(nn.Module):
    """In training, zeroes each example of a batch with probability 1 - `keep` and divides the others by `keep`."""

    def __init__(self) -> None:
        super().__init__()
        self.keep = 1.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.keep >= 1:
            return x
        mask = torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype) < self.keep
        return x * mask / self.keep


# ---- where the cells stand ----


@dataclass(frozen=True)
class Place:
    """One cell of the stack.

    number: its place, from 0. filters: channels of its states. current, previous: numbers of the outputs that it
    takes, 0 the stem's, k + 1 that of cell k; the first cell takes the stem's twice. halvings, previous_halvings:
    how often the two have been halved.
    """

    number: int
    kind: str
    filters: int
    current: int
    previous: int
    halvings: int
    previous_halvings: int

    @property
    def stride(self) -> int:
        """2 in a reduction cell."""
        return 2 if self.kind == "reduction" else 1


def places(
    repeats: int, filters: int, stem: Stem = "small", skip_reduction: bool = False
) -> tuple[Place, ...]:
    """Three stages of `repeats` normal cells with `filters`, 2 and 4 times as many, a reduction cell between them.

    stem: with "imagenet" two more reduction cells, of a quarter and half the filters, come first.
    skip_reduction: the normal cell after a reduction takes what the reduction cell takes for its previous output,
    not the input of the reduction (the authors' large ImageNet network).
    """
    positive("repeats", repeats)
    if positive("filters", filters) % 2:
        raise ValueError(
            f"filters={filters}: must be even, a reduction takes half of them from either pixels"
        )
    kinds = [("reduction", filters // 4), ("reduction", filters // 2)] if stem == "imagenet" else []
    start = len(kinds)
    for stage in range(3):
        kinds += [("reduction", filters * 2**stage)] if stage else []
        kinds += [("normal", filters * 2**stage)] * repeats
    found: list[Place] = []
    halvings = [0]
    for k, (kind, width) in enumerate(kinds):
        previous = max(k - 1, 0)
        if skip_reduction and k > start and kinds[k - 1][0] == "reduction" and kind == "normal":
            previous = k - 2
        found.append(Place(k, kind, width, k, previous, halvings[k], halvings[previous]))
        halvings.append(halvings[k] + (kind == "reduction"))
    return tuple(found)


# ---- cells ----


class Combine(nn.Module):
    """Adds the two halves of a block, or concatenates them for a 1 x 1 convolution back to their channels."""

    def __init__(self, kind: str, filters: int, norm: Normalisation = running) -> None:
        super().__init__()
        concat = kind == "concat"
        self.convolution = nn.Sequential(*relu_conv(2 * filters, filters, norm=norm)) if concat else None

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b if self.convolution is None else self.convolution(torch.cat([a, b], 1))


class Entry(nn.Module):
    """States 0 and 1 of a cell: the current output and the previous one, both with `filters` channels.

    channels: of the current and of the previous output.
    reduce: whether the previous output has twice the height and width of the current one.
    matched: without it the previous output is taken as it is.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        filters: int,
        reduce: bool,
        matched: bool = True,
        norm: Normalisation = running,
    ) -> None:
        super().__init__()
        self.current = nn.Sequential(*relu_conv(channels[0], filters, norm=norm))
        fits = not matched or (channels[1] == filters and not reduce)
        self.previous = None if fits else nn.Sequential(nn.ReLU(), match(channels[1], filters, reduce, norm))

    def forward(self, current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        return self.current(current), previous if self.previous is None else self.previous(previous)


class Cell(nn.Module):
    """One cell: (current, previous) output -> its own output, `outputs` channels.

    channels, matched: see `Entry`. concat_used: states that belong to the output though a block takes them.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        place: Place,
        channels: tuple[int, int],
        concat_used: Sequence[int] = (),
        matched: bool = True,
        norm: Normalisation = running,
    ) -> None:
        super().__init__()
        filters, self.blocks = place.filters, tuple(blocks)
        self.entry = Entry(channels, filters, place.previous_halvings < place.halvings, matched, norm)
        state_channels = [filters, filters if matched else channels[1]] + [filters] * len(blocks)
        self.operations, self.drops = nn.ModuleList(), nn.ModuleList()
        for block in blocks:
            for state, name in zip(block.inputs, block.operations, strict=True):
                stride = place.stride if state < 2 else 1
                self.operations.append(operation(name, state_channels[state], filters, stride, norm))
                self.drops.append(nn.Identity() if name == "identity" else DropPath())
        self.combine = nn.ModuleList(Combine(block.combine, filters, norm) for block in blocks)
        self.concat = tuple(sorted({*loose_ends(blocks), *concat_used}))
        self.matches = nn.ModuleDict(
            {
                str(state): match(state_channels[state], filters, place.stride == 2, norm)
                for state in self.concat
                if state < 2
            }
        )
        self.outputs = filters * len(self.concat)

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        states = list(self.entry(current, previous))
        for b, block in enumerate(self.blocks):
            halves = [
                self.drops[2 * b + side](self.operations[2 * b + side](states[state]))
                for side, state in enumerate(block.inputs)
            ]
            states.append(self.combine[b](*halves))
        found = [self.matches[str(s)](states[s]) if s < 2 else states[s] for s in self.concat]
        return torch.cat(found, 1)


# ---- the network ----


class AuxiliaryHead(nn.Sequential):
    """A classifier from within the network, for training only: (n, inputs, side, side) -> (n, classes)."""

    def __init__(self, inputs: int, side: int, classes: int) -> None:
        pool = min(5, side)  # the paper's images are never that small
        left = (side - pool) // 3 + 1
        super().__init__(
            nn.ReLU(),
            nn.AvgPool2d(pool, 3),
            nn.Conv2d(inputs, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, left, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, classes),
        )


class NASNet(nn.Module):
    """The network of `architecture`: (n, *input_shape) -> logits (n, classes).

    input_shape: (channels, height, width). repeats: N, normal cells in each of the three stages. filters: F, of the
    first stage. stem, skip_reduction: see `places`; the stem is a convolution of `stem_filters`, by default 3 F
    ("small") or 96 ("imagenet", stride 2, no padding, and normalisation as in the authors' ImageNet networks).
    match_stem: whether the first cell's state 1 is the stem's output with F channels, as the states of all other
    cells; the authors' code takes it as it is there, so that 6 @ 768 has 3,346,538 parameters, not 3,328,234.
    concat_used: states of the normal and of the reduction cell that belong to the output though a block takes them.
    dropout: share of the features that the classifier does not see in training.
    auxiliary: whether there is an auxiliary head; `both_logits` returns its logits as well.
    norm: makes the normalisation of so many channels.
    """

    def __init__(
        self,
        space: NASNetSpace,
        architecture: Architecture,
        input_shape: Sequence[int],
        classes: int,
        repeats: int,
        filters: int,
        stem: Stem = "small",
        stem_filters: int | None = None,
        skip_reduction: bool = False,
        match_stem: bool = True,
        concat_used: tuple[Sequence[int], Sequence[int]] = ((), ()),
        dropout: float = 0.0,
        auxiliary: bool = False,
        norm: Normalisation = running,
    ) -> None:
        super().__init__()
        space.check(architecture)
        input_shape = image_shape(input_shape)
        positive("classes", classes)
        if any(not 0 <= state < space.blocks + 2 for states in concat_used for state in states):
            raise ValueError(f"concat_used={concat_used}: states are 0 to {space.blocks + 1}")
        imagenet = stem == "imagenet"
        width = stem_filters or (96 if imagenet else 3 * filters)
        convolution = (
            nn.Conv2d(input_shape[0], width, 3, stride=2, bias=False)
            if imagenet
            else SameConv2d(input_shape[0], width, 3)
        )
        self.stem = nn.Sequential(convolution, norm(width))
        self.places = places(repeats, filters, stem, skip_reduction)
        channels = [width]
        self.cells = nn.ModuleList()
        for place in self.places:
            blocks, used = space.cell(architecture, place.kind), concat_used[CELLS.index(place.kind)]
            inputs = channels[place.current], channels[place.previous]
            cell = Cell(blocks, place, inputs, used, match_stem or place.number > 0, norm)
            self.cells.append(cell)
            channels.append(cell.outputs)
        self.dropout, self.classifier = nn.Dropout(dropout), nn.Linear(channels[-1], classes)
        self.auxiliary: AuxiliaryHead | None = None
        if auxiliary:
            after = max(p.number for p in self.places if p.kind == "reduction") - 1
            side = -(-((input_shape[1] - 1) // 2 if imagenet else input_shape[1]) // 2 ** self._halved(after))
            self.auxiliary_cell = after
            self.auxiliary = AuxiliaryHead(channels[after + 1], side, classes)
        initialise(self.modules())
        if imagenet:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps, module.momentum = 1e-3, 3e-4

    def _halved(self, cell: int) -> int:
        place = self.places[cell]
        return place.halvings + (place.kind == "reduction")

    def schedule_drop_path(self, final: float, progress: float, version: str | None = "v3") -> None:
        """Sets the probability to keep a path in every cell: see `keep_probability`."""
        for place, cell in zip(self.places, self.cells, strict=True):
            keep = keep_probability(final, place.number, len(self.cells), progress, version)
            for module in cell.modules():
                if isinstance(module, DropPath):
                    module.keep = keep

    def both_logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the classifier and, where there is one, of the auxiliary head."""
        outputs = self._outputs(x)
        auxiliary = None if self.auxiliary is None else self.auxiliary(outputs[self.auxiliary_cell + 1])
        return self._classify(outputs[-1]), auxiliary

    def forward(self, x: Tensor) -> Tensor:
        return self._classify(self._outputs(x)[-1])

    def _outputs(self, x: Tensor) -> list[Tensor]:
        outputs = [self.stem(x)]
        for place, cell in zip(self.places, self.cells, strict=True):
            outputs.append(cell(outputs[place.current], outputs[place.previous]))
        return outputs

    def _classify(self, output: Tensor) -> Tensor:
        return self.classifier(self.dropout(torch.relu(output).mean((2, 3))))
