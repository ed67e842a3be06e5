"""The job `new-paper`: the skeleton of a paper that passes the contract tests, for its author to fill."""

from __future__ import annotations

import re
from pathlib import Path

from fairsweep.cluster.errors import UserError
from fairsweep.trainables import catalog

SLUG = re.compile(r"[a-z][a-z0-9_]{1,39}")

PAPER = '''"""{title}.

Authors, venue, arXiv number. What the method is, in three lines; the sections that the code follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.image_classification import METRICS, ImageTask
from fairsweep.trainables.tasks.training import Mean, NetworkPaper


class Model(nn.Module):
    """The module of the paper's equations: (n, c, h, w) -> logits (n, classes). Say which equations."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(inputs, hidden), nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x.flatten(1))))


def build(inputs: int, classes: int, config: Mapping[str, Any]) -> nn.Module:
    """The method, or the baseline that `config["model"]` names."""
    if config["model"] == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    return Model(inputs, config["hidden"], classes)


@register
class {name}(NetworkPaper):
    """What is trained, and which options give the baselines."""

    slug = "{slug}"
    title = "{title}"
    citation = "Authors. Venue, year"
    task = "image classification"
    datasets = ("digits", "mnist5k", "fashion_mnist", "cifar10")
    metrics = METRICS
    objective = "val_accuracy"
    tiny = Tiny("digits", 4)
    claims = ()
    default_steps = 20

    def prepare(self) -> None:
        self.data = ImageTask(self.data_name, self.setting.data_dir, self.device)
        inputs = self.data.channels * self.data.side**2
        self.net = build(inputs, self.data.classes, self.config).to(self.device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=self.config["lr"])

    def epoch(self) -> dict[str, float]:
        train_loss = Mean()
        for x, y in self.data.batches(self.config["batch_size"]):
            loss = F.cross_entropy(self.net(x), y)
            self.descend(loss)
            train_loss.add(loss, len(y))
        val_loss, val_accuracy = self.data.evaluate(self.net, "validation")
        return {{"val_accuracy": val_accuracy, "val_loss": val_loss, "train_loss": train_loss.value}}

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        return {{"test_accuracy": self.data.evaluate(net, "test")[1]}}
'''

SPACE = """# {title}. Where the paper's values are from; whose the ranges are.
model: {{type: categorical, choices: [{slug}, linear], paper: {slug}, value: {slug}, help: "the method, or a baseline"}}
hidden: {{type: int, low: 16, high: 256, log: true, paper: 64, when: {{model: {slug}}}, help: "hidden units"}}
lr: {{type: float, low: 1.0e-4, high: 1.0e-1, log: true, paper: 1.0e-3, help: "Adam step size"}}
batch_size: {{type: int, low: 16, high: 256, log: true, paper: 64, help: "images in a batch"}}
"""

TEST = '''"""{title}: what must be true of it whatever it is trained on. The contract is tested in test_contract.py."""

from __future__ import annotations

import torch

from fairsweep.trainables.{room}.{slug} import Model


def test_an_invariant_of_the_paper() -> None:
    """Replace this by the paper's own: an equation's consequence, a limit, a symmetry."""
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert Model(64, 16, 10)(x).shape == (5, 10)
'''


def rooms(root: Path) -> list[str]:
    """The folders of `trainables` that hold papers."""
    return sorted(
        p.name
        for p in (root / "trainables").iterdir()
        if (p / "__init__.py").is_file() and p.name not in ("tasks", "datasets")
    )


def write(slug: str, room: str, title: str | None, root: Path) -> list[Path]:
    """Writes the paper's file, its space and its test below the checkout `root`; UserError if it cannot."""
    if not SLUG.fullmatch(slug):
        raise UserError(f"{slug}: must be 2-40 lower-case letters, digits and underscores, a letter first")
    if not (root / "trainables" / "base.py").is_file():
        raise UserError(f"{root}: is no checkout of fairsweep; run new-paper in its root folder")
    known = rooms(root)
    if room not in known:
        raise UserError(f"--room={room}: must be one of {', '.join(known)}")
    if slug in catalog.slugs():
        raise UserError(f"{slug}: there is a paper of this name")
    words = {
        "slug": slug,
        "room": room,
        "title": title or slug.replace("_", " ").capitalize(),
        "name": "".join(part.capitalize() for part in slug.split("_")),
    }
    files = {
        root / "trainables" / room / f"{slug}.py": PAPER,
        root / "search_spaces" / "parameters" / f"{slug}.yaml": SPACE,
        root / "tests" / "trainables" / f"test_{slug}.py": TEST,
    }
    taken = [path for path in files if path.exists()]
    if taken:
        raise UserError(f"{taken[0]}: is there already")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(**words))
    return list(files)
