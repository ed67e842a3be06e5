"""What every worker of a sweep is told, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Post:
    """What every worker of a sweep is told once."""

    sweep: str
    paper: str
    checkpoints: str
    data: str | None = None
    data_dir: str | None = None
    steps: int | None = None
    threads: int = 1
    source: str = ""  # of a trainable of the user's, as JSON: it travels
    metric: Any = None  # of the sweep, and its mode, as they are set
    mode: Any = None
    plugins: str = ""
    folder: str = ""  # the driver's, where its plug-ins are found
    report_s: float = 0.25
    checkpoint_s: float = 5.0
    keep: str = "best"
    tracking: Mapping[str, Any] = field(default_factory=dict)
    vital: bool = False  # the last checkpoint is what the trial is for: without it, it is not complete
    breeds: bool = False  # trials may go on from the checkpoints of others
    split_seed: int | None = None  # what parts of the data are drawn by; None: by each trial's seed
    test: bool = True  # whether anything is measured on test data
    board: str = ""  # the actor that says where shared weights lie, if there are any
    trainers: int = 1  # processes that train a trial together
    each: Mapping[str, float] = field(
        default_factory=dict
    )  # the resources of one of several, as Ray names them
