"""What OTO does to a network while that is trained, whatever its data and its loss: channels or chains go to zero.

A `Compression` gives the optimiser, says when all that is to go is zero, and cuts it out. Chen et al., OTOv2, ICLR 2023
(arXiv:2303.06862), for channels; OTOv3 (arXiv:2312.09411) for chains of operators and for both, one after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from fairsweep.search_spaces.pruning import (
    Partition,
    check_sliceable,
    erasing_recipe,
    kept_groups,
    partition,
    recipe,
    slice_module,
)
from fairsweep.search_spaces.pruning.dhspg import DHSPG, HSPG, ProxSGD, prune_smallest
from fairsweep.search_spaces.pruning.erasing import ErasingGraph
from fairsweep.search_spaces.pruning.group_sparse import GroupSparse
from fairsweep.search_spaces.pruning.h2spg import H2SPG
from fairsweep.search_spaces.pruning.rebuild import attribute

SAME = 1e-3  # of the largest output, in single precision: what two networks that are one may differ by
MODES = ("erase", "prune", "erase+prune")
Deploy = Callable[
    [nn.Module], nn.Module
]  # a network that is trained -> the part of it that is used afterwards


def base_optimiser(net: nn.Module, config: Mapping[str, Any]) -> Optimizer:
    """SGD, Adam or AdamW, as `config["variant"]` says; SGD if it says nothing."""
    common = {"lr": config["lr"], "weight_decay": config["weight_decay"]}
    kind = config.get("variant", "sgd")
    if kind == "sgd":
        return torch.optim.SGD(net.parameters(), momentum=config["momentum"], **common)
    variants = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return variants[kind](net.parameters(), **common)


def sparse_optimiser(
    base: Optimizer, net: nn.Module, groups: Partition, start: int, config: Mapping[str, Any]
) -> Optimizer:
    """The optimiser `config["optimizer"]`, which penalises from step `start` on; dense and one_shot: the base."""
    named, kind = net.named_parameters(), config["optimizer"]
    if kind in ("dense", "one_shot"):
        return base
    if kind == "hspg":
        return HSPG(base, named, groups, start, lmbda=config["lmbda_all"], epsilon=config["epsilon"])
    if kind == "prox_sgd":
        return ProxSGD(base, named, groups, start, lmbda=config["lmbda_all"])
    return DHSPG(
        base,
        named,
        groups,
        config["target_group_sparsity"],
        start,
        salience="random" if kind == "random" else config["salience"],
        lmbda=_lmbda(config),
        lambda_adjust=config["lambda_adjust"],
        lmbda_amplify=config.get("lmbda_amplify"),
        hat_lmbda_coeff=config.get("hat_lmbda_coeff"),
        half_space=config["half_space"],
        epsilon=config["epsilon"],
        tolerance=config["tolerance"],
        group_divisible=config["group_divisible"],
    )


def _lmbda(config: Mapping[str, Any]) -> Any:
    return config["lmbda"] if config["lmbda_mode"] == "fixed" else "auto"


@dataclass(frozen=True)
class Cut:
    """A network without what was zero. text: what is left, in words. recipe: how to make it of a full one."""

    module: nn.Module
    text: str
    recipe: Mapping[str, Any]


class Different(ArithmeticError):
    """A smaller network that does not compute what the full one does."""


@torch.no_grad()
def difference(full: nn.Module, small: nn.Module, inputs: Iterable[Tensor]) -> float:
    """The largest difference of what two networks give for `inputs`, in eval mode.

    `Different` if it is more than rounding makes it, or if other entries are not finite.
    """
    largest, scale = 0.0, 0.0
    full, small = full.eval(), small.eval()
    with torch.backends.cudnn.flags(allow_tf32=False):
        for x in inputs:
            for a, b in zip(_outputs(full, x), _outputs(small, x), strict=True):
                if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
                    raise Different(
                        "the smaller network's outputs have other shapes, or are not finite elsewhere"
                    )
                a, b = a[a.isfinite()], b[b.isfinite()]
                if a.numel():
                    largest = max(largest, (a - b).abs().max().item())
                    scale = max(scale, a.abs().max().item())
    if largest > SAME * max(scale, SAME):
        raise Different(
            f"test_difference={largest:.3g}: the smaller network does not compute what the full one does, of which"
            f" outputs reach {scale:.3g}; at most {SAME:g} of that is rounding"
        )
    return largest


def _outputs(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors that `net` returns, in double precision; by the same random numbers at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = net(x.clone())  # it may write into what it is given
    return [t.double() for t in tree_leaves(found) if isinstance(t, Tensor)]


class Compression(ABC):
    """Parts of a network on their way to zero. optimiser: makes every step of the training, and may change between
    epochs."""

    optimiser: Optimizer

    def begin_epoch(self, net: nn.Module, done: int, epochs: int) -> None:  # noqa: B027  # most have nothing to do
        """Called before epoch `done` of `epochs`, the first being 0."""

    def end_epoch(self, net: nn.Module, done: int, epochs: int) -> bool:
        """Called after it; whether the network is another one now, so that it must be evaluated again."""
        return False

    @property
    @abstractmethod
    def reached(self) -> bool:
        """Whether all that is to become zero is."""

    @abstractmethod
    def sparsity(self, net: nn.Module) -> float:
        """Share of what can go that is zero in `net`."""

    @abstractmethod
    def cut(self, net: nn.Module) -> Cut:
        """`net` without what is zero in it, in eval mode; `net` itself stays as it is."""


def components_text(groups: Partition, kept: Mapping[str, Any]) -> str:
    """How many groups of each component are left."""
    return " ".join(f"{c.name}={len(kept[c.name])}/{c.size}" for c in groups.prunable)


def share_cut(groups: Partition, kept: Mapping[str, Any]) -> float:
    """Share of the groups that are not kept."""
    return 1 - sum(len(left) for left in kept.values()) / groups.size


class ChannelPruning(Compression):
    """OTO v2: channels. config: of `search_spaces/parameters/oto_v2.yaml`; steps: how many there will be.

    SliceError, before anything is trained, if groups of `net` cannot be cut.
    """

    def __init__(
        self,
        net: nn.Module,
        base: Optimizer,
        groups: Partition,
        steps: int,
        config: Mapping[str, Any],
        deploy: Deploy = lambda net: net,
    ) -> None:
        self.groups, self.config, self.deploy = groups, config, deploy
        if config["optimizer"] != "dense":
            check_sliceable(deploy(net), groups)
        start = round(config.get("start_pruning_frac", 0.0) * steps)
        self.optimiser = sparse_optimiser(base, net, groups, start, config)

    def end_epoch(self, net: nn.Module, done: int, epochs: int) -> bool:
        last = self.config["optimizer"] == "one_shot" and done == epochs - 1
        if last:
            prune_smallest(self.groups, net.named_parameters(), self.config["target_group_sparsity"])
        return last

    @property
    def reached(self) -> bool:
        if self.config["optimizer"] == "dense":
            return True
        return isinstance(self.optimiser, GroupSparse) and self.optimiser.reached

    def sparsity(self, net: nn.Module) -> float:
        return share_cut(self.groups, kept_groups(net, self.groups))

    def cut(self, net: nn.Module) -> Cut:
        full = self.deploy(net)
        kept = kept_groups(full, self.groups)
        small = slice_module(full, self.groups, kept)
        return Cut(small.eval(), components_text(self.groups, kept), recipe(full, self.groups, kept, small))


class OperatorErasing(Compression):
    """OTO v3: chains of operators, channels, or chains and then the channels of what they leave.

    config: of `search_spaces/parameters/oto_v3.yaml`; steps: how many there will be. In mode "erase+prune" channels
    take over with the first epoch at whose beginning all chosen chains are zero and `prune_frac` of the epochs over.
    SliceError or ErasingError, before anything is trained, if channels or chains are to be cut and cannot be.
    """

    def __init__(
        self,
        net: nn.Module,
        base: Optimizer,
        graph: ErasingGraph,
        steps: int,
        config: Mapping[str, Any],
        deploy: Deploy = lambda net: net,
    ) -> None:
        self.graph, self.config, self.deploy, self.base = graph, config, deploy, base
        self.mode: str = config["mode"]
        self.groups = graph.whole  # of channels, of what is left
        self.gone: frozenset[str] | None = (
            None  # the chains that are out of the training, once channels are pruned
        )
        if self.mode != "erase":
            check_sliceable(deploy(net), graph.whole)
        if self.mode != "prune":
            graph.check(deploy(net))
        start = round(config["warmup_frac"] * steps)
        if self.mode == "prune":
            self.optimiser = self._for_channels(net, graph.whole, config["target_group_sparsity"], start)
            return
        if not graph.erasable:
            reasons = "; ".join(dict.fromkeys(s.reason for s in graph.segments))
            raise ValueError(
                f"mode={self.mode}: no chain of operators can be erased ({reasons}); mode=prune can"
            )
        self.optimiser = H2SPG(
            base,
            net.named_parameters(),
            graph.partition,
            config["target_group_sparsity"],
            start,
            is_valid=graph.is_valid,
            orphans=graph.orphans,
            hierarchy=config["hierarchy"],
            orphan_closure=config.get("orphan_closure", False),
            salience=config["score"],
            lmbda=_lmbda(config),
            epsilon=config["epsilon"],
        )

    def _for_channels(self, net: nn.Module, groups: Partition, target: float, start: int) -> DHSPG:
        config = self.config
        return DHSPG(
            self.base,
            net.named_parameters(),
            groups,
            target,
            start,
            salience=config["score"],
            lmbda=_lmbda(config),
            epsilon=config["epsilon"],
        )

    # -- from chains to channels ------------------------------------------------------------------------

    def begin_epoch(self, net: nn.Module, done: int, epochs: int) -> None:
        if self.mode != "erase+prune" or self.gone is not None or not self.reached_chains:
            return
        erased = self.erased(net)
        if done >= round(self.config["prune_frac"] * epochs) and self.graph.is_valid(erased):
            self.prune_channels(net, erased)

    @property
    def reached_chains(self) -> bool:
        return isinstance(self.optimiser, H2SPG) and self.optimiser.reached

    def prune_channels(self, net: nn.Module, erased: Iterable[str]) -> None:
        """From now on the channels of what is left without `erased`; what went with those is trained no more."""
        self.gone = frozenset(erased)
        small = self.graph.extract(self.deploy(net), self.gone)
        self.groups = partition(small, self.graph.whole.origin.inputs)
        names = {attribute(name): name for name, _ in net.named_parameters()}
        left = {names[name] for name, _ in small.named_parameters()}
        held = {m.parameter for c in self.graph.partition.prunable for m in c.members}
        for name, p in net.named_parameters():
            if (
                name in held - left
            ):  # without a gradient no step touches it, and no norm of gradients counts it
                p.requires_grad_(False)
                p.grad = None
        named = tuple(
            replace(c, members=tuple(replace(m, parameter=names[m.parameter]) for m in c.members))
            for c in self.groups.components
        )
        target = self.config["target_channel_sparsity"]
        self.optimiser = self._for_channels(net, replace(self.groups, components=named), target, 0)

    # -- what is zero -----------------------------------------------------------------------------------

    def erased(self, net: nn.Module) -> frozenset[str]:
        """The chains of which every variable is exactly zero in `net`."""
        values, groups = dict(net.named_parameters()), self.graph.partition
        return frozenset(c.name for c in groups.prunable if not groups.vectors(c, values).any())

    @property
    def reached(self) -> bool:
        if self.mode == "erase+prune" and self.gone is None:
            return False
        return isinstance(self.optimiser, GroupSparse) and self.optimiser.reached

    def sparsity(self, net: nn.Module) -> float:
        """Share of the chains that are zero; in mode "prune", of the channels."""
        if self.mode == "prune":
            return self.channel_sparsity(net)
        return len(self.erased(net)) / self.graph.partition.size

    def channel_sparsity(self, net: nn.Module) -> float:
        """Share of the channels of what is left that are zero; 0 as long as none are pruned."""
        if self.mode == "prune":
            return share_cut(self.graph.whole, kept_groups(net, self.graph.whole))
        if self.gone is None:
            return 0.0
        small = self.graph.extract(self.deploy(net), self.gone)
        return share_cut(self.groups, kept_groups(small, self.groups))

    def valid(self, net: nn.Module) -> bool:
        """Whether `net` without its zero chains leads from its input to its outputs."""
        return self.mode == "prune" or self.graph.is_valid(self.erased(net))

    def cut(self, net: nn.Module) -> Cut:
        """Where nothing connected is left there is no smaller network: it is the full one, with its zeros."""
        full = self.deploy(net)
        if self.mode == "prune":
            kept = kept_groups(full, self.graph.whole)
            small = slice_module(full, self.graph.whole, kept)
            text = components_text(self.graph.whole, kept)
            return Cut(small.eval(), text, recipe(full, self.graph.whole, kept, small))
        zero = self.erased(full)
        erased = zero if self.graph.is_valid(zero) else frozenset()
        # Not those that have become zero since the channels were traced: they are sliced with these.
        erased = erased if self.gone is None else self.gone
        out = zero if self.gone is None else self.gone
        words = [c.name for c in self.graph.partition.prunable if c.name not in out]
        extracted = self.graph.extract(full, erased)
        if self.gone is None:
            return Cut(extracted.eval(), " ".join(words), erasing_recipe(full, self.graph, erased))
        kept = kept_groups(extracted, self.groups)
        small = slice_module(extracted, self.groups, kept)
        then = recipe(extracted, self.groups, kept, small)
        text = " ".join([*words, components_text(self.groups, kept)])
        return Cut(small.eval(), text, erasing_recipe(full, self.graph, erased, then))
