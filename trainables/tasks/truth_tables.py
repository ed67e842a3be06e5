"""Tables of what architectures reach when each is trained alone: the truth that a supernet's ranking is held against.

    fairsweep bench build-table nb201_micro --data-dir DIR

A training is the trainable `standalone` with one architecture and one seed. Each goes into a log as it ends, so
that a build that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from fairsweep.search_spaces.architectures import ArchitectureSpace, create_space
from fairsweep.search_spaces.architectures.files import open_table, packaged, read_table, write_table
from fairsweep.search_spaces.architectures.tables import Metric, Source, Table, TableError
from fairsweep.search_spaces.costs import count_flops, count_parameters
from fairsweep.search_spaces.supernets import Supernet
from fairsweep.trainables.base import Setting
from fairsweep.trainables.datasets.cache import cache_dir, made_once
from fairsweep.trainables.tasks.small_images import SmallImageTask, usual_reduction
from fairsweep.trainables.tasks.workers import by_itself

FORMAT = 1
# (architectures, seeds, epochs) of a truth that is trained where no table ships. Digits do not tell networks apart,
# whatever is spent on them.
FEW, FEW_DIGITS = (40, 2, 6), (8, 1, 3)
METRICS = {
    "test_accuracy": Metric("max", "test", "fraction"),
    "val_accuracy": Metric("max", "validation", "fraction"),
}
QUICK = 150_000_000  # pixels seen in training: what one core does within a few minutes


@dataclass(frozen=True)
class Protocol:
    """Which architectures a table has, and how each is trained.

    kind, size: of the supernet whose networks they are. space: fields of the space of the table's members where it
    is a part of that; {} for all of it. architectures: how many, drawn by `drawn_by` without repetition; 0 for all.
    config: of the trainable `standalone`, where it is not the paper's.
    """

    name: str
    kind: str
    data: str
    size: str = "laptop"
    space: Mapping[str, Any] = field(default_factory=dict)
    architectures: int = 0
    drawn_by: int = 0
    seeds: int = 5
    epochs: int = 6
    config: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def members(self) -> ArchitectureSpace:
        """The space that the table's architectures are members of."""
        return create_space(self.kind, self.size, **self.space)

    def texts(self) -> list[str]:
        """The architectures in the notation of their space, in the order of the table."""
        if not self.architectures:
            return [self.members.format(a) for a in self.members.enumerate()]
        rng = np.random.default_rng(self.drawn_by)
        found: dict[str, bool] = {}
        while len(found) < self.architectures:
            found[self.members.format(self.members.sample(rng))] = True
        return list(found)

    def trainings(self) -> list[tuple[str, int]]:
        """(architecture, seed) of every training, seed by seed: a build cut short has whole seeds first."""
        return [(text, seed) for seed in range(self.seeds) for text in self.texts()]

    def full_config(self) -> dict[str, Any]:
        """The configuration of `standalone`, but for the architecture."""
        from fairsweep.trainables import catalog

        given = {**self.config, "supernet": self.kind, "size": self.size}
        return {**catalog.get("standalone").space().paper_config(self.data), **given}

    def mapping(self) -> dict[str, Any]:
        """All that decides the table's values, as JSON."""
        return {**asdict(self), "config": self.full_config(), "format": FORMAT}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `mapping`."""
        return hashlib.sha256(json.dumps(self.mapping(), sort_keys=True).encode()).hexdigest()


_CONVOLUTIONS = {"operations": ["nor_conv_1x1", "nor_conv_3x3"]}
PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("nb201_conv", "cell", "fashion_mnist_7x7", space=_CONVOLUTIONS),
        Protocol("nb201_micro", "cell", "fashion_mnist_7x7", architectures=400),
        Protocol("macro_chain", "chain", "fashion_mnist_7x7"),
    )
}


# ---- training ----


def train_one(protocol: Protocol, data_dir: Path | None, training: tuple[str, int]) -> dict[str, Any]:
    """One training: accuracies (fractions), costs of the network and seconds of this process."""
    from fairsweep.trainables import catalog

    text, seed = training
    paper: Any = catalog.get("standalone")()
    began = time.process_time()
    with torch.enable_grad():
        config = {**protocol.full_config(), "architecture": text}
        paper.setup(config, Setting(seed, data=protocol.data, data_dir=data_dir, steps=protocol.epochs))
        while not paper.finished:
            metrics = paper.step()
    return {
        "architecture": text,
        "seed": seed,
        "test_accuracy": paper.test()["test_accuracy"],
        "val_accuracy": metrics["val_accuracy"],
        "cost.train_seconds": time.process_time() - began,
        "cost.parameters": float(count_parameters(paper.net)),
        "cost.flops": float(count_flops(paper.net, paper.data.shape)),
    }


def _one_thread() -> None:
    torch.set_num_threads(1)


def read_log(path: Path, protocol: Protocol) -> list[dict[str, Any]]:
    """The trainings that the log holds. ValueError if it is of another protocol; a torn last line is left out."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text().splitlines()):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if number == 0 and row.get("protocol") != protocol.digest:
            raise ValueError(
                f"log={path}: of protocol {row.get('protocol')}, not {protocol.digest}; name another file"
            )
        if number:
            rows.append(row)
    return rows


def build_rows(
    protocol: Protocol, log: Path, data_dir: Path | None = None, processes: int = 1, most: int | None = None
) -> Iterator[dict[str, Any]]:
    """Runs the trainings that `log` lacks, at most `most` of them, and yields each as it has been logged."""
    done = {(row["architecture"], row["seed"]) for row in read_log(log, protocol)}
    left = [training for training in protocol.trainings() if training not in done][:most]
    log.parent.mkdir(parents=True, exist_ok=True)
    job = partial(train_one, protocol, data_dir)
    with log.open("a") as file:
        if file.tell() == 0:
            file.write(json.dumps({"protocol": protocol.digest}) + "\n")
        elif not log.read_bytes().endswith(b"\n"):
            file.write("\n")  # behind a torn line

        def logged(row: dict[str, Any]) -> dict[str, Any]:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
            return row

        if processes == 1 or len(left) <= 1:
            yield from map(logged, map(job, left))
            return
        with multiprocessing.get_context("spawn").Pool(processes, _one_thread) as pool:
            yield from map(logged, pool.imap_unordered(job, left))


def write(protocol: Protocol, rows: Sequence[Mapping[str, Any]], path: Path) -> Table:
    """Writes the table of `rows` as Parquet. ValueError if a training is missing."""
    done = {(row["architecture"], row["seed"]) for row in rows}
    missing = [t for t in protocol.trainings() if t not in done]
    if missing:
        raise ValueError(
            f"{protocol.name}: {len(missing)} trainings are missing, {missing[0]} the first of them"
        )
    source = Source(
        title=protocol.name,
        licence="Apache-2.0",
        version=str(FORMAT),
        protocol=protocol.mapping(),
        command=f"fairsweep bench build-table {protocol.name} --data-dir DIR",
    )
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    return write_table(path, protocol.members, rows, METRICS, source, versions)


def build_table(
    protocol: Protocol, path: Path, data_dir: Path | None = None, processes: int = 1, log: Path | None = None
) -> Table:
    """Runs the trainings that `log` (default: beside `path`) lacks and writes the table of all as Parquet."""
    log = log or path.with_suffix(".jsonl")
    for _ in build_rows(protocol, log, data_dir, processes):
        pass
    return write(protocol, read_log(log, protocol), path)


# ---- the truth of a supernet ----


def find_truth(net: Supernet, size: str, data: SmallImageTask, data_dir: Path | None) -> Table | None:
    """Architectures of the space of `net`, with what they reach when trained alone on `data`.

    size: the named one of `net`. A table of the package if one is of the same networks and data; else a few
    architectures that are trained the first time and kept in the cache folder. None where that would be long.
    """
    if data.reduction == usual_reduction(data.name):
        for p in PROTOCOLS.values():
            if (p.kind, p.size, p.data, p.space) == (net.kind, size, data.name, {}) and p.name in packaged():
                return open_table(p.name).over(net.space)
    reduction = data.reduction
    number, seeds, epochs = FEW_DIGITS if data.name == "digits" else FEW
    config = {
        "side": reduction.side,
        "train_images": reduction.train,
        "validation_images": reduction.validation,
    }
    few = Protocol(
        f"{net.kind}_{size}_{data.name}",
        net.kind,
        data.name,
        size,
        architectures=number,
        seeds=seeds,
        epochs=epochs,
        config=config,
    )
    path = cache_dir() / "truth" / f"{few.name}-{few.digest[:16]}.parquet"
    pixels = data.images * data.side**2 * few.epochs * len(few.trainings())
    if pixels > QUICK and not path.is_file():
        return None

    def build(target: Path) -> None:
        with by_itself():  # other workers wait for the table
            build_table(few, target, data_dir, log=path.with_suffix(".jsonl"))

    return read_table(made_once(path, build, _readable))


def _readable(path: Path) -> bool:
    try:
        read_table(path)
    except (TableError, OSError):
        return False
    return True


def tau(scores: np.ndarray, values: np.ndarray) -> float:
    """Kendall's tau-b; 0 where one side is constant and ranks nothing."""
    if np.ptp(scores) == 0 or np.ptp(values) == 0:
        return 0.0
    return float(stats.kendalltau(scores, values).statistic)
