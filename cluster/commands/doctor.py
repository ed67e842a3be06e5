"""Whether this machine is as a sweep needs it: the verb doctor."""

from __future__ import annotations

import argparse
from typing import Any

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands import examples


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add(
        "doctor", _doctor, "versions, tokens, ports, storage, disks, cluster: what is wrong and what to do"
    )
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
    p.add_argument(
        "--address",
        help="of a cluster (HOST:6379, auto) or job server (http://HOST:8265); default RAY_ADDRESS",
    )
    examples(
        p,
        "fairsweep doctor",
        "fairsweep doctor --address http://HEAD:8265 --storage s3://bucket/sweeps",
        "fairsweep doctor --address auto --json",
    )


def _doctor(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from fairsweep.analysis import report
    from fairsweep.cluster.service import checking, doctor

    checks = doctor.examine(args.storage, args.address)
    if args.json:
        report.print_json(checking.as_json(checks))
        return checking.verdict(checks)
    width = max(len(check.about) for check in checks)
    before = ""
    for check in checks:
        print(f"{check.state:<5} {check.about:<{width}}  {check.said}")
        if check.todo:
            print(f"{'':<5} {'':<{width}}  -> {'as above' if check.todo == before else check.todo}")
        before = check.todo
    counts = checking.as_json(checks)
    absent = f", {counts['not_installed']} extras not installed" if counts["not_installed"] else ""
    print(f"{counts['bad']} bad, {counts['warn']} to look at, {counts['ok']} ok{absent}")
    return checking.verdict(checks)
