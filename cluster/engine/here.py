"""The cluster that `fairsweep local` has started on this machine, as `service/laptop.py` has written it down."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that was started here. created: when, by which another one of the same id is told from it."""

    pid: int
    created: float

    def alive(self) -> bool:
        import psutil  # only where there is one to look at

        try:
            found = psutil.Process(self.pid)
            return abs(found.create_time() - self.created) < 1 and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@dataclass
class Cluster:
    """What runs: `ray start --block`, a process a node, the head's first."""

    gcs: str
    job_server: str
    cpus: int  # of a node
    started: float
    nodes: list[Process] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)  # of the nodes

    def alive(self) -> list[Process]:
        return [node for node in self.nodes if node.alive()]


def folder() -> Path:
    return Path.home() / ".fairsweep" / "local"


def running() -> Cluster | None:
    """The cluster that `start` has started and that has not ended; None if there is none."""
    try:
        row = json.loads((folder() / "cluster.json").read_text())
        nodes = [Process(**node) for node in row.pop("nodes")]
        found = Cluster(**row, nodes=nodes)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if found.alive() else None
