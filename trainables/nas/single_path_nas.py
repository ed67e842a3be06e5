"""Single-Path NAS: designing hardware-efficient ConvNets in less than 4 hours.

Stamoulis, Ding, Wang, Lymberopoulos, Priyantha, Liu and Marculescu, ECML PKDD 2019, arXiv:1904.02877. One network
whose superkernels hold every architecture is trained once; threshold gates, trained with the weights for accuracy
and predicted runtime, are the architecture when training ends. A trial is one such search, at one lambda.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.catalog import create_space, read_size
from fairsweep.search_spaces.architectures.mbconv import MBConvSpace
from fairsweep.search_spaces.normalisation import recalibrate
from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.search_spaces.supernets.mbconv import MBConvSupernet
from fairsweep.search_spaces.supernets.mbconv_branches import BranchSupernet
from fairsweep.search_spaces.supernets.runtime import RuntimeModel
from fairsweep.trainables.base import Claim, DataError, Found, Metric, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.datasets.images import stratified_split
from fairsweep.trainables.tasks.image_classification import METRICS, ImageTask
from fairsweep.trainables.tasks.latency import kept_latency
from fairsweep.trainables.tasks.training import Mean, NetworkPaper, cosine_factor
from fairsweep.trainables.tasks.workers import workers

SearchNetwork = MBConvSupernet | BranchSupernet
TABLE = "runtime.json"


def search_network(relaxation: str, size: str, seed: int, **sizes: Any) -> SearchNetwork:
    """The network to search with, its weights drawn from `seed`; `sizes` replace some of the named size's."""
    if relaxation == "superkernel":
        net = build_supernet("mbconv", size, seed=seed, **sizes)
        assert isinstance(net, MBConvSupernet)
        return net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BranchSupernet(
            create_space("mbconv", size), **{**read_size("mbconv", size)["network"], **sizes}
        )


def runtime_model(net: SearchNetwork, cost: str, device: str, data_dir: Path | None) -> RuntimeModel:
    """The table of `cost` for the blocks of `net`: flops, params, milliseconds as kept for this machine, or a file."""
    assert isinstance(net.space, MBConvSpace)
    if cost == "table":
        if data_dir is None:
            raise DataError(f"cost=table: data_dir is None; give a folder with {TABLE}")
        return RuntimeModel.from_json(net.space, data_dir / TABLE)
    if cost == "latency":
        return RuntimeModel.from_table(net.space, kept_latency(net, device))
    return RuntimeModel.from_table(net.space, net.cost_table(cost))


def _batches(images: int, size: int, least: int) -> int:
    """How many batches an epoch has; a last one of fewer than `least` images is left out."""
    full, rest = divmod(images, size)
    return max(full + (rest >= least), 1)


def make_optimiser(net: SearchNetwork, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """One optimiser of three groups: weights, normalisations (which do not decay), thresholds."""
    structure = net.structure_parameters()
    others = [p for p in net.parameters() if all(p is not s for s in structure)]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "factor": 1.0},
        {"params": [p for p in others if p.dim() < 2], "factor": 1.0, "weight_decay": 0.0},
        {"params": structure, "factor": config["threshold_lr_mult"]},
    ]
    usual = {"lr": config["lr"], "momentum": config["momentum"], "weight_decay": config["weight_decay"]}
    if config["optimiser"] == "sgd":
        return torch.optim.SGD(groups, **usual)
    # TensorFlow adds its 1e-3 under the root, PyTorch adds eps to the root.
    return torch.optim.RMSprop(groups, **usual, alpha=0.9, eps=1e-3**0.5)


@register
class SinglePathNAS(NetworkPaper):
    """Joint training of weights and gates; the architecture that the gates decide in the end is what is judged.

    Accuracies are of that architecture with the weights it inherits and batch statistics measured anew. `relaxation`,
    `threshold_data`, `runtime_term` and `indicator_keep` give the baselines.

    Workers of a process group share each batch: their gradients add up to those of the whole batch, but that each
    normalises its part by itself. All draw the same batches and gates, so their weights never differ.
    """

    slug = "single_path_nas"
    title = "Single-Path NAS: Designing Hardware-Efficient ConvNets in less than 4 Hours"
    citation = (
        "Stamoulis, Ding, Wang, Lymberopoulos, Priyantha, Liu, Marculescu. ECML PKDD 2019. arXiv:1904.02877"
    )
    task = "architecture search"
    baselines = "no runtime term, no gate dropout, held-out thresholds, multi-branch relaxation"
    contenders = {"relaxation": ("superkernel", "branches")}
    datasets = ("digits", "digits300", "mnist5k", "fashion_mnist", "cifar10")
    metrics = (
        *METRICS,
        Metric("cost", "min", "validation", "of the table"),
        Metric("dead_gates", "min", "train", "fraction"),
        Metric("test_cost", "min", "test", "of the table"),
    )
    objective = "val_accuracy"
    tiny = Tiny("digits300", 3)
    together = True
    claims = (
        Claim(
            name="lambda_1_costs_less",
            statement="The architecture found at lambda = 1 costs less than the one found without runtime term",
            treatment={"lmbda": 1.0},
            baseline={"runtime_term": False},
            metric="test_cost",
            margin=1.0,
            origin="direction",
            direction="at_most",
            kind="ratio",
            data="digits",
        ),
        *(
            Claim(
                name=f"cost_falls_from_{word}_to_{high}",
                statement=f"The architecture found at lambda = {high} costs less than that at {word}",
                treatment={"lmbda": high},
                baseline=low,
                metric="test_cost",
                margin=0.99,
                origin="indifference",
                reason="less, and not equal: the smallest change of one block of the largest network is 1.7 %",
                direction="at_most",
                kind="ratio",
                data="digits",
            )
            for low, word, high in (
                ({"runtime_term": False}, "0", 0.1),
                ({"lmbda": 0.1}, "0.1", 0.3),
                ({"lmbda": 0.3}, "0.3", 1.0),
            )
        ),
        Claim(
            name="lambda_1_keeps_accuracy",
            statement="The architecture found at lambda = 1 loses less than 3 points of test accuracy",
            treatment={"lmbda": 1.0},
            baseline={"runtime_term": False},
            metric="test_accuracy",
            margin=-0.03,
            origin="indifference",
            reason="in the paper's table methods within 80 ms lie 3 points apart, 72.0 (MobileNetV2) to 74.96 %",
            data="digits",
        ),
    )

    default_steps = 16

    @staticmethod
    def warmup_epochs(config: Mapping[str, Any], epochs: int) -> float:
        """Epochs without runtime term out of `epochs`, the last of them a part; at least one is left for the search."""
        return min(config["warmup_frac"] * epochs, epochs - 1)

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """In the warm-up nothing asks for a small network: what the gates say then is not judged."""
        return math.floor(cls.warmup_epochs(config, steps)) + 1

    def eligible(self) -> bool:
        """The gates decide when training ends: an earlier epoch, more accurate and costlier, is no better one."""
        return self.done >= self.epochs

    # -- making ---------------------------------------------------------------------------------------

    def prepare(self) -> None:
        config = self.config
        self.workers = workers(self.device)
        self.least = 2 * self.workers.size  # images of a batch: each worker normalises its part
        if config["batch_size"] < self.least:
            raise ValueError(
                f"batch_size={config['batch_size']}: must be at least {self.least}, two images for each of"
                f" {self.workers.size} workers"
            )
        self.data = ImageTask(self.data_name, self.setting.data_dir, self.device, config["augmentation"])
        sizes: dict[str, Any] = {
            "input_shape": self.data.shape,
            "classes": self.data.classes,
        }
        if self.data.side > 16:
            sizes["stem_stride"] = 2
        if config["relaxation"] == "superkernel":
            sizes |= {"norm": config["norm"], "gate_site": config["gate_site"]}
        seed = int(self.rng.numpy.integers(2**31))
        self.net: SearchNetwork = search_network(config["relaxation"], config["size"], seed, **sizes)
        self.net.to(self.device)
        self.runtime = runtime_model(self.net, config["cost"], self.device, self.setting.data_dir).to(
            self.device
        )
        for costs in self.runtime.buffers():  # workers on several machines have timed different tables
            costs.copy_(self.workers.from_first(costs))
        self.optimiser = make_optimiser(self.net, config)
        # (weights, thresholds): the images that each of them learns on.
        self.halves = self._halves() if config["threshold_data"] == "held_out" else None
        tasks = self.halves or (self.data,)
        self.batches = min(
            _batches(len(t.parts["train"][1]), config["batch_size"], self.least) for t in tasks
        )
        self.position = 0  # batches of the epoch that are done
        self.warmup_steps = round(self.warmup_epochs(config, self.epochs) * self.batches)

    def _halves(self) -> tuple[ImageTask, ImageTask]:
        x, y = self.data.parts["train"]
        tasks = []
        for chosen in stratified_split(y.cpu().numpy(), len(y) // 2):
            task = copy.copy(self.data)
            task.parts = {**self.data.parts, "train": (x[chosen], y[chosen])}
            tasks.append(task)
        return tasks[0], tasks[1]

    def stateful(self) -> dict[str, Any]:
        """The table too: a latency measured again would be another one."""
        return {**super().stateful(), "runtime": self.runtime}

    # -- training -------------------------------------------------------------------------------------

    @property
    def warming_up(self) -> bool:
        """Whether the next batch trains without runtime term and with dropout on the gates."""
        return self.done * self.batches + self.position < self.warmup_steps

    def losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of a batch: the loss to descend, CE + lambda log R after the warm-up, and its cross-entropy alone.

        Of several workers each gives what its part of the batch adds to the two; the sums are those of the batch.
        """
        keep = self.config.get("indicator_keep", 1.0) if self.warming_up else 1.0
        gates: Any = self.net.gates(keep)
        share = len(self.workers.part(y)) / len(y)
        x, y = self.workers.part(x), self.workers.part(y)
        with self.workers.own_draws(self.device):
            logits = self.net.gated(x, gates)
        ce = share * F.cross_entropy(logits, y, label_smoothing=self.config["label_smoothing"])
        if self.warming_up or not self.config["runtime_term"]:
            return ce, ce
        # R is the same for all workers; by their shares it is counted once.
        weight = share * self.config["lmbda"]
        return ce + weight * self.net.runtime(gates, self.runtime).log().to(ce.dtype), ce

    def rate(self) -> float:
        """Learning rate of the weights in the next epoch."""
        schedule = self.config["schedule"]
        if schedule == "cosine":
            return self.config["lr"] * cosine_factor(self.done, self.epochs)
        return self.config["lr"] * (0.97 ** int(self.done / 2.4) if schedule == "exponential" else 1.0)

    def set_learning_rate(self, value: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = value * group["factor"]

    def _update(self, loss: Tensor, only: str | None = None) -> None:
        """A step of all workers' optimisers on all parameters, or `only` on "weights" or "thresholds"."""
        self.optimiser.zero_grad()
        loss.backward()
        *weights, thresholds = self.optimiser.param_groups
        for group in {"weights": [thresholds], "thresholds": weights}.get(only or "", []):
            for p in group["params"]:
                p.grad = None
        self.workers.add_gradients([p.grad for p in self.net.parameters() if p.grad is not None])
        self.optimiser.step()

    def epoch(self) -> dict[str, float]:
        self.set_learning_rate(self.rate())
        train_loss = Mean()
        size = self.config["batch_size"]
        if self.halves is None:
            for x, y in self.data.batches(size, self.least):
                loss, ce = self.losses(x, y)
                self._update(loss)
                train_loss.add(ce, len(y))
                self.position += 1
        else:
            halves = (half.batches(size, self.least) for half in self.halves)
            for (x, y), held_out in zip(*halves, strict=False):
                loss, ce = self.losses(x, y)
                self._update(ce, "weights")
                self._update(self.losses(*held_out)[0], "thresholds")
                train_loss.add(ce, len(y))
                self.position += 1
        self.position = 0  # of the next epoch
        shares = self.workers.gather(torch.tensor([train_loss.value], dtype=torch.float64))
        val_loss, val_accuracy = self.data.evaluate(self.inherited(self.net), "validation")
        return {
            "val_accuracy": val_accuracy,
            "val_loss": val_loss,
            "train_loss": shares.sum().item(),
            "cost": self.runtime.of_path(self.net.derive()),
            "dead_gates": self.net.dead_gates(),
        }

    def cheapest(self, cost: str) -> float:
        """What the cheapest network of the space costs; cost: flops or params."""
        return runtime_model(self.net, cost, self.device, None).bounds()[0]

    # -- what is found --------------------------------------------------------------------------------

    def architecture(self) -> Architecture:
        """What the gates decide for now; `self.net.space.format` gives its text."""
        return self.net.derive()

    def found(self) -> Found:
        """The derived network with the weights it inherits, its batch statistics measured."""
        module = self.inherited(self.net).eval()
        path, shape = self.architecture(), tuple(self.net.input_shape)
        text, cost = self.net.space.format(path), self.runtime.of_path(path)
        return Found(text, module, shape, self.data.interface(), supernet=self.net, cost=cost)

    def inherited(self, net: SearchNetwork) -> nn.Module:
        """The derived network with the weights it inherits, its batch statistics measured on training images."""
        return recalibrate(net.extract(net.derive()), self._statistics_batches())

    def _statistics_batches(self) -> Iterator[Tensor]:
        batches: Sequence[Tensor] = self.data.parts["train"][0].split(self.config["batch_size"])
        for pixels in batches if len(batches) == 1 else batches[:-1]:
            yield self.data.standardise(pixels)

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """Test accuracy and cost of the derived architecture, with the weights it inherits."""
        assert isinstance(net, MBConvSupernet | BranchSupernet)
        return {
            "test_accuracy": self.data.evaluate(self.inherited(net), "test")[1],
            "test_cost": self.runtime.of_path(net.derive()),
        }
