"""Networks by name, for commands that take any: a paper's, timm's, torchvision's, or a function of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairsweep.cluster.config import data_at_hand
from fairsweep.cluster.errors import UserError
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Setting

if TYPE_CHECKING:
    from torch import nn

WAYS = "a paper's slug, timm:<name>, torchvision:<name> or <module>:<function that makes it>"


def load_model(
    name: str, input_shape: Sequence[int] | None, data_dir: str | None = None
) -> tuple[nn.Module, Any]:
    """The network called `name` and a batch of two inputs of `input_shape` = (channels, height, width).

    input_shape: may be None for a paper, whose own images are taken then. UserError says what is unknown or missing.
    """
    import torch

    if ":" not in name:
        return _of_paper(name, data_dir)
    if input_shape is None:
        raise UserError(f"--input-shape is missing: say what {name} takes, such as --input-shape 3,224,224")
    from fairsweep.trainables.tasks.models import ModelError, make_model

    try:
        return make_model(name), torch.zeros(2, *input_shape)
    except ModelError as error:
        raise UserError(f"model={error}") from None


def _of_paper(slug: str, data_dir: str | None) -> tuple[Any, Any]:
    """A paper's network at its default, and images of the size that it has seen in `setup`."""
    import torch

    try:
        cls = catalog.get(slug)
    except catalog.UnknownPaper:
        raise UserError(f"model={slug}: no such paper; a model is {WAYS}") from None
    paper: Any = cls()
    data = cls.datasets[0]
    with data_at_hand():
        paper.setup(cls.space().fill({}, data), Setting(data_dir=Path(data_dir) if data_dir else None))
    task: Any = getattr(paper, "data", None)
    net: Any = getattr(paper, "net", None)
    if net is None or not all(hasattr(task, name) for name in ("channels", "side")):
        raise UserError(f"model={slug}: it trains no network of images; a model is {WAYS}")
    return net, torch.zeros(2, task.channels, task.side, task.side)
