"""What a cluster has: how many trials fit on its nodes at a time, and whether it can get more of them.

Amounts are Ray's: it counts resources in ten-thousandths, and a part of a GPU is a part of one GPU.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairsweep.cluster.errors import UserError

UNIT = 10_000  # parts of a CPU or GPU that Ray tells apart
ENDLESS = 10**6  # nodes of a group that has no most
STATUS_KEY = "__autoscaling_status"  # under which Ray's autoscaler (v1) says in the GCS what it does
REPORT_S = 8.0  # that the autoscaler of a cluster that has just started may take until it has said something
ANONYMOUS = re.compile("node_[0-9a-f]{56}")  # the type of a node that no autoscaler has started


@dataclass(frozen=True)
class Group:
    """Nodes that an autoscaler may start: what one has, and how many of them there may be."""

    resources: Mapping[str, float]
    most: int


@dataclass(frozen=True)
class Growth:
    """That a cluster grows. groups: to what, as far as it is known."""

    groups: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Room:
    """How many trials run at a time, and what is to be said of the cluster."""

    slots: int
    notes: tuple[str, ...] = ()


def cluster_of(settings: Any) -> dict[str, Any]:
    """The group `cluster` of a sweep's settings, or of a search's for networks, with `trainers`."""
    return {**settings.cluster, "trainers": settings.tree.get("trainers", 1)}


def needs_of_place(options: Mapping[str, Any]) -> dict[str, float]:
    """What a trial takes, all its trainers together. options: see `cluster_of`."""
    return {name: amount * options.get("trainers", 1) for name, amount in needs(options).items()}


def needs(options: Mapping[str, Any]) -> dict[str, float]:
    """What a trial takes, or each of several trainers of it. options: of the group `cluster`."""
    gpus = options.get("gpus_per_trial", 0)
    return {"CPU": options["cpus_per_trial"], **({"GPU": gpus} if gpus else {})}


def fits(have: Mapping[str, float], need: Mapping[str, float]) -> int:
    """How many times `need` fits in `have`, the resources of one node."""
    counts = []
    for name, amount in need.items():
        wanted, there = round(amount * UNIT), round(have.get(name, 0.0) * UNIT)
        if (
            name == "GPU" and 0 < wanted < UNIT
        ):  # a part is of one GPU: three times 0.4 does not fit on two halves
            counts.append(there // UNIT * (UNIT // wanted) + there % UNIT // wanted)
        elif wanted:
            counts.append(there // wanted)
    return min(counts, default=0)


def slots_of(nodes: Iterable[Mapping[str, float]], need: Mapping[str, float]) -> int:
    """How many trials (or trainers of them) fit on all nodes together: each is on one of them."""
    return sum(fits(node, need) for node in nodes)


def room(
    options: Mapping[str, Any],
    wanted: int | None,
    nodes: Sequence[Mapping[str, float]],
    growth: Growth | None = None,
) -> Room:
    """How many trials run at a time on `nodes`: what they hold, or less if `wanted` says so.

    growth: of a cluster whose autoscaler starts nodes for what waits. UserError where not one trial ever fits.
    """
    need, trainers = needs(options), options.get("trainers", 1)
    places = slots_of(nodes, need)
    found = places // trainers
    if growth is None:
        if found < 1:
            raise UserError(f"{_asked(options)}: {_too_little(nodes, need)}, so not one trial fits")
        return Room(min(found, wanted) if wanted else found)
    more = sum(fits(group.resources, need) * group.most for group in growth.groups)
    most = (places + more) // trainers - found
    if growth.groups and found + most < 1:
        largest = _largest([group.resources for group in growth.groups])
        raise UserError(
            f"{_asked(options)}: {_too_little(nodes, need)}, and of those that its autoscaler may start the "
            f"largest has {largest}, so not one trial ever fits"
        )
    slots = wanted or max(1, found)
    if growth.groups:
        slots = min(slots, found + most)
    if slots <= found:
        return Room(slots)
    waits = (
        f"{found} of {slots} trials at a time fit on the cluster as it is; the others wait until it has grown"
    )
    if not wanted:
        waits = "no trial fits on the cluster as it is; the first waits until it has grown"
        waits += ", budget.concurrent=N asks for more"
    return Room(slots, (waits,))


def _asked(options: Mapping[str, Any]) -> str:
    trainers = options.get("trainers", 1)
    asked = f"trainers={trainers} times " if trainers > 1 else ""
    asked += f"cluster.cpus_per_trial={options['cpus_per_trial']:g}"
    return (
        f"{asked} cluster.gpus_per_trial={options['gpus_per_trial']:g}"
        if options.get("gpus_per_trial")
        else asked
    )


def _too_little(nodes: Sequence[Mapping[str, float]], need: Mapping[str, float]) -> str:
    """What the nodes have, in words."""
    if not nodes:
        return "the cluster has no node"
    if len(nodes) == 1:
        return f"the cluster has one node with {_amounts(nodes[0])}"
    lacking = [name for name in need if not any(node.get(name) for node in nodes)]
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    text = f"the cluster's {len(nodes)} nodes have {_amounts(total)}"
    return (
        text if lacking else f"{text}, but a trial runs on one of them, and the largest has {_largest(nodes)}"
    )


def _largest(nodes: Sequence[Mapping[str, float]]) -> str:
    return _amounts(max(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), default={}))


def _amounts(have: Mapping[str, float]) -> str:
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    return f"{cpus:g} CPU{'' if cpus == 1 else 's'} and {gpus:g} GPU{'' if gpus == 1 else 's'}"


def check_own(options: Mapping[str, Any]) -> None:
    """UserError where not one trial fits on a Ray that would be started here. Its GPUs are known once it has begun."""
    cpus = options.get("cpus") or os.cpu_count() or 1
    need, trainers = {"CPU": options.get("cpus_per_trial", 1)}, options.get("trainers", 1)
    if fits({"CPU": cpus}, need) < trainers:
        given = f"cluster.cpus={cpus} is less" if options.get("cpus") else f"this machine has {cpus:g}"
        times = f"trainers={trainers} times " if trainers > 1 else ""
        raise UserError(f"{times}cluster.cpus_per_trial={need['CPU']:g}: {given}, so not one trial fits")


# -- of the Ray that this process is connected to ---------------------------------------------------------


def alive() -> list[dict[str, Any]]:
    """The nodes of the cluster, as `ray.nodes` has them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def find_room(options: Mapping[str, Any], wanted: int | None, fixed: bool = False) -> Room:
    """See `room`. fixed: no autoscaler can be there."""
    nodes = [node["Resources"] for node in alive()]
    found = slots_of(nodes, needs(options)) // options.get("trainers", 1)
    # Whether it grows matters only where it is too small.
    growth = grows() if found < (wanted or 1) and not fixed else None
    return room(options, wanted, nodes, growth)


def grows() -> Growth | None:
    """How the cluster grows; None where no autoscaler starts nodes. Ray (2.60) has three places that say so."""
    from ray._private import state as ray_state
    from ray.experimental import internal_kv

    config = ray_state.state.get_cluster_config()
    groups = tuple(
        Group(dict(group.resources), ENDLESS if group.max_count < 0 else group.max_count)
        for group in (config.node_group_configs if config is not None else ())
    )
    if groups:
        return Growth(groups)
    until = time.monotonic() + REPORT_S
    while True:
        said = internal_kv._internal_kv_get(STATUS_KEY)
        report = json.loads(said) if said else {}
        if starts_nodes(report) or _second_grows():
            return Growth()
        if "autoscaler_report" in report or time.monotonic() > until:
            return None
        time.sleep(0.5)


def starts_nodes(status: Mapping[str, Any]) -> bool:
    """Whether what an autoscaler (v1) reports is of one that starts nodes.

    `ray start --head` has one as well, which only looks on: it knows each node, and calls it by its identifier.
    """
    report = status.get("autoscaler_report")
    if not report:
        return False
    waiting = [kind for _, kind, *_ in report.get("pending_nodes") or ()]
    kinds = [*(report.get("active_nodes") or ()), *(report.get("pending_launches") or ()), *waiting]
    return not kinds or any(not ANONYMOUS.fullmatch(kind) for kind in kinds)


def _second_grows() -> bool:
    """The same of an autoscaler of version 2, which KubeRay starts."""
    import ray
    from ray.autoscaler.v2 import sdk, utils

    address = ray.get_runtime_context().gcs_address
    try:
        if not utils.is_autoscaler_v2(fetch_from_server=True):
            return False
        status = sdk.get_cluster_status(address)
    except Exception:  # not answered: then it is taken for a cluster that stays as it is
        return False
    kinds = [
        node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes, *status.pending_nodes)
    ]
    kinds += [launch.ray_node_type_name for launch in status.pending_launches]
    return any(kind and not ANONYMOUS.fullmatch(kind) for kind in kinds)
