"""OTOv3: which operators and channels a network can do without is found while it is trained.

Chen, Ding, Zhu, Chen, Wu, Zharkov and Liang, arXiv:2312.09411. H2SPG chooses redundant chains of a supernet, each only
if the network stays connected without it, drives them to exactly zero and leaves the rest to the base optimiser; the
network without them computes the same and is what is tested. Channels of what is left can go after them, or alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.costs import count_flops, count_parameters
from fairsweep.search_spaces.pruning.erasing import ErasingGraph
from fairsweep.trainables.base import Claim, Found, Metric, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.compression import OperatorErasing, base_optimiser, difference
from fairsweep.trainables.tasks.image_classification import METRICS, ImageTask
from fairsweep.trainables.tasks.training import Mean, NetworkPaper
from fairsweep.trainables.vision._residual import conv_norm


class ParallelChains(nn.Module):
    """A directed graph of `nodes` nodes: into each lead, from all before it, ReLU - convolution - normalisation.

    There are two such chains an edge, of kernels 3 and 1; what enters a node is added. Logits (n, classes).
    """

    def __init__(self, channels: int, classes: int, width: int = 16, nodes: int = 4) -> None:
        super().__init__()
        self.nodes = nodes
        self.stem = conv_norm(channels, width)
        self.chains = nn.ModuleDict(
            {
                f"{i}_{j}_{kernel}": nn.Sequential(nn.ReLU(), *conv_norm(width, width, kernel))
                for j in range(1, nodes)
                for i in range(j)
                for kernel in (3, 1)
            }
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.stem(x)]
        for j in range(1, self.nodes):
            first, *others = (
                self.chains[f"{i}_{j}_{kernel}"](values[i]) for i in range(j) for kernel in (3, 1)
            )
            values.append(sum(others, first))
        return self.head(F.relu(values[-1]).mean((2, 3)))


@lru_cache(maxsize=8)
def erasing_graph(channels: int, side: int, classes: int, width: int, nodes: int) -> ErasingGraph:
    """The removal structures of `ParallelChains`; traced once, since weights do not matter."""
    with torch.random.fork_rng(devices=[]):
        net = ParallelChains(channels, classes, width, nodes)
        return ErasingGraph(net, torch.zeros(2, channels, side, side))


def _claims() -> tuple[Claim, ...]:
    """The statements of the paper for nine and for ten of twelve chains, none of them with fine-tuning."""
    claims = []
    for chains in (9, 10):
        erase: dict[str, Any] = {"method": "h2spg", "target_group_sparsity": chains / 12}
        claims += [
            Claim(
                name=f"hierarchy_connects_{chains}",
                statement=f"With {chains} of 12 chains erased the hierarchy always leaves a connected network, and"
                " without it most are not",
                treatment=erase | {"hierarchy": True},
                baseline=erase | {"hierarchy": False},
                metric="test_valid",
                margin=0.5,
                origin="indifference",
                reason="most: more than a half",
                data="digits",
            ),
            Claim(
                name=f"keeps_accuracy_{chains}",
                statement=f"With {chains} of 12 chains erased and no fine-tuning, test accuracy is at least that of the"
                " whole supernet",
                treatment=erase,
                baseline={"method": "dense"},
                metric="test_accuracy",
                margin=0.0,
                origin="direction",
                data="digits",
            ),
            Claim(
                name=f"rms_at_least_as_good_{chains}",
                statement=f"With {chains} of 12 chains erased, scores by root mean square are at least as accurate as"
                " by average magnitude",
                treatment=erase | {"score": "cosine+rms"},
                baseline=erase | {"score": "cosine+magnitude"},
                metric="test_accuracy",
                margin=0.0,
                origin="direction",
                data="digits",
            ),
        ]
    return tuple(claims)


@register
class OTOv3(NetworkPaper):
    """Erasing chains of a supernet in one training; `hierarchy`, `orphan_closure` and `score` give the ablations.

    mode: whether chains are erased, channels pruned, or first the one and then the other.
    """

    slug = "oto_v3"
    title = (
        "OTOv3: Automatic Architecture-Agnostic Neural Network Training and Compression from Structured Pruning"
        " to Erasing Operators"
    )
    citation = "Chen, Ding, Zhu, Chen, Wu, Zharkov, Liang. arXiv:2312.09411"
    task = "image classification"
    baselines = "no hierarchy, no orphan closure, other scores, dense"
    datasets = ("digits", "digits300", "mnist5k", "fashion_mnist", "cifar10")
    metrics = (
        *METRICS,
        Metric("group_sparsity", "max", "train", "fraction"),
        Metric("test_valid", "max", "test", "fraction"),
        Metric("test_group_sparsity", "max", "test", "fraction"),
        Metric("test_channel_sparsity", "max", "test", "fraction"),
        Metric("test_parameters", "min", "test", "parameters"),
        Metric("test_flops", "min", "test", "multiply-accumulates"),
        Metric("test_difference", "min", "test", "logits"),
    )
    objective = "val_accuracy"
    tiny = Tiny("digits", 4)
    together = True
    claims = _claims()
    default_steps = 25
    carried = ("gone",)

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """The first epoch at whose end the chains have been chosen."""
        return min(int(config.get("warmup_frac", 0.0) * steps) + 1, steps)

    def prepare(self) -> None:
        config = self.config
        self.data = ImageTask(self.data_name, self.setting.data_dir, self.device, config["augmentation"])
        channels, classes = self.data.channels, self.data.classes
        width, nodes = config["width"], config["nodes"]
        self.net = ParallelChains(channels, classes, width, nodes).to(self.device)
        self.graph = erasing_graph(channels, self.data.side, classes, width, nodes)
        self.optimiser = base_optimiser(self.net, config)
        self.compression: OperatorErasing | None = None
        if config["method"] == "dense":
            return
        full, rest = divmod(len(self.data.parts["train"][1]), config["batch_size"])
        steps = self.epochs * (full + (rest > 1))
        self.compression = OperatorErasing(self.net, self.optimiser, self.graph, steps, config)
        self.optimiser = self.compression.optimiser

    @property
    def gone(self) -> list[str] | None:
        """The chains that are out of the training, once channels are pruned."""
        gone = self.compression.gone if self.compression is not None else None
        return None if gone is None else sorted(gone)

    @gone.setter
    def gone(self, names: list[str] | None) -> None:
        if names is not None and self.gone is None:
            assert self.compression is not None
            self.compression.prune_channels(self.net, names)
            self.optimiser = self.compression.optimiser

    def epoch(self) -> dict[str, float]:
        if self.compression is not None:
            self.compression.begin_epoch(self.net, self.done, self.epochs)
            self.optimiser = self.compression.optimiser
        train_loss = Mean(self.workers)
        for x, y in self.workers.shared(self.data.batches(self.config["batch_size"])):
            loss = F.cross_entropy(self.net(x), y)
            self.descend(loss)
            train_loss.add(loss, len(y))
        val_loss, val_accuracy = self.data.evaluate(self.net, "validation")
        return {
            "val_accuracy": val_accuracy,
            "val_loss": val_loss,
            "train_loss": train_loss.value,
            "group_sparsity": self.compression.sparsity(self.net) if self.compression is not None else 0.0,
        }

    def eligible(self) -> bool:
        """Only weights count in which every chosen chain, or channel, is zero, or the last."""
        if self.compression is None or self.done >= self.epochs:
            return True
        return self.compression.reached

    def found(self) -> Found:
        """The network without its zero chains and channels; the whole one where that would not be connected."""
        net = self.trained()
        if self.compression is None:
            return Found(" ".join(self.graph.erasable), net, self.data.shape, self.data.interface())
        cut = self.compression.cut(net)
        return Found(cut.text, cut.module, self.data.shape, self.data.interface(), net, cut.recipe)

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """What the network without its zeros is and does, and how far its logits are from the full one's.

        Where it is not connected there is no such network: the full one with its zeros is measured. `Different` if
        the two do not compute the same.
        """
        compression = self.compression
        small = net if compression is None else compression.cut(net).module
        inputs = (self.data.standardise(pixels) for pixels in self.data.parts["test"][0].split(1000))
        return {
            "test_accuracy": self.data.evaluate(small, "test")[1],
            "test_valid": float(compression is None or compression.valid(net)),
            "test_group_sparsity": 0.0 if compression is None else compression.sparsity(net),
            "test_channel_sparsity": 0.0 if compression is None else compression.channel_sparsity(net),
            "test_parameters": float(count_parameters(small)),
            "test_flops": float(count_flops(small, self.data.shape)),
            "test_difference": difference(net, small, inputs),
        }
