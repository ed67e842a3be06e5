"""Latency tables that are measured once on a machine and kept: what is compared must have been timed alike.

A search at one lambda and a search at another, or a search and its resumption, would each find another table; what
differs between their networks would then be noise of the clock as well.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fairsweep.search_spaces.costs import CostError, CostTable, cost_table, hardware, identity, software
from fairsweep.search_spaces.supernets.base import Supernet
from fairsweep.trainables.datasets.cache import cache_dir, made_once

MEASUREMENTS = 3  # of which a table is the median: other work seldom hits an operator twice


def timed_latency(net: Supernet, device: str = "cpu", repeats: int = 30) -> CostTable:
    """Milliseconds of the operators of `net` for one example and one thread, timed now `MEASUREMENTS` times over."""
    tables = (cost_table(net, "latency_ms", device=device, repeats=repeats) for _ in range(MEASUREMENTS))
    return next(tables).merged(tables)


def latency_file(net: Supernet, device: str = "cpu") -> Path:
    """Where the latency table of networks like `net` is kept; delete it to have them timed again.

    One for each kind and size of network, processor, and version of what runs the kernels.
    """
    about = {"supernet": identity(net), "hardware": hardware(device), "software": software()}
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "latency" / f"{name}.json"


def kept_latency(net: Supernet, device: str = "cpu") -> CostTable:
    """`timed_latency` of networks like `net` as this machine keeps it, timed if no table is kept yet.

    Several processes wait for the one that measures. DataError if the cache folder cannot be written.
    """

    def measure(path: Path) -> None:
        path.write_text(timed_latency(net, device).to_json())

    def valid(path: Path) -> bool:
        try:
            return CostTable.from_json(path.read_text()).kind == "latency_ms"
        except (CostError, ValueError, KeyError, TypeError):
            return False

    return CostTable.from_json(made_once(latency_file(net, device), measure, valid).read_text())
