"""A Ray cluster on this machine: the verb local."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from fairsweep.cluster.commands import examples
from fairsweep.cluster.errors import UserError


def register(add: Any) -> None:
    """Adds the verb of this file. add: see `cluster.cli`."""
    p = add("local", _local, "a Ray cluster on this machine alone: local start, local status, local stop")
    examples(
        p,
        "fairsweep local start --nodes 3",
        "fairsweep submit run trainable=biper budget.trials=6",
        "fairsweep local stop",
    )
    actions = p.add_subparsers(dest="action", metavar="start|stop|status", required=True)

    def action(name: str, text: str) -> Any:
        own = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        # Not to undo a --json that stands before.
        own.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="answer in JSON on standard output"
        )
        return own

    start = action("start", "start a cluster on loopback, with a token; the one that runs, if one does")
    start.add_argument("--nodes", type=int, help="nodes, all on this machine (1)", metavar="N")
    start.add_argument("--cpus", type=int, help="CPUs of each node (the machine's, shared out)", metavar="N")
    examples(start, "fairsweep local start", "fairsweep local start --nodes 3 --cpus 1")
    stop = action(
        "stop", "end its jobs, whose sweeps can be resumed, and then the processes that were started"
    )
    status = action("status", "where it is and what of it runs; exit code 1 unless all of it does")
    for other in (stop, status):  # which say what is wrong with them
        for option in ("--nodes", "--cpus"):
            other.add_argument(option, help=argparse.SUPPRESS)


def _local(args: argparse.Namespace, rest: list[str]) -> int:
    for name in ("nodes", "cpus"):
        value = getattr(args, name)
        if value is not None and args.action != "start":
            raise UserError(f"--{name}={value}: goes with local start")
        if value is not None and value < 1:
            raise UserError(f"--{name}={value}: must be a whole number of at least 1")
    return {"start": _start, "stop": _stop, "status": _status}[args.action](args)


def _start(args: argparse.Namespace) -> int:
    from fairsweep.cluster.service import laptop

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    cluster, new = laptop.start(args.nodes or 1, args.cpus, say)
    if not new:
        asked = args.nodes not in (None, len(cluster.nodes)) or args.cpus not in (None, cluster.cpus)
        print(
            "a cluster runs already"
            + ("; `fairsweep local stop` ends it, for another one to start" if asked else ""),
            file=sys.stderr,
        )
    _show(cluster, args.json)
    return 0


def _stop(args: argparse.Namespace) -> int:
    from fairsweep.analysis import report
    from fairsweep.cluster.service import jobs, laptop

    found = laptop.running()
    if found is not None:
        for job in jobs.stop_all(found.job_server):
            print(f"job {job} was stopped; its sweep can be resumed", file=sys.stderr)
    found = laptop.stop()
    if args.json:
        report.print_json({"stopped": [node.pid for node in found.nodes] if found else []})
    else:
        print(f"stopped {len(found.nodes)} node(s)" if found else "no cluster of `fairsweep local` runs")
    return 0


def _status(args: argparse.Namespace) -> int:
    from fairsweep.analysis import report
    from fairsweep.cluster.service import laptop

    found = laptop.running()
    if found is None:
        if args.json:
            report.print_json(None)
        else:
            print("no cluster of `fairsweep local` runs; `fairsweep local start` starts one")
        return 1
    _show(found, args.json)
    return 0 if len(found.alive()) == len(found.nodes) else 1


def _show(cluster: Any, as_json: bool) -> None:
    """Where a cluster is, and what of it runs; the token's place and mode, never the token."""
    from fairsweep.analysis import report
    from fairsweep.cluster.service import laptop

    known = laptop.nodes_of(cluster)
    alive = cluster.alive()
    token, mode = laptop.token_place()
    if as_json:
        report.print_json(
            {
                "job_server": cluster.job_server,
                "gcs": cluster.gcs,
                "nodes": [{"pid": node.pid, "alive": node in alive} for node in cluster.nodes],
                "cpus": cluster.cpus,
                "answers": known is not None,
                "token": token,
                "token_mode": mode,
                "logs": str(laptop.folder()),
            }
        )
        return
    print(
        f"jobs     {cluster.job_server}  (fairsweep submit takes it by itself; Ray's dashboard in a browser)"
    )
    print(f"cluster  {cluster.gcs}  (fairsweep run cluster.address={cluster.gcs} ...)")
    pids = ", ".join(f"{node.pid}{'' if node in alive else ' (has ended)'}" for node in cluster.nodes)
    print(f"nodes    {len(alive)} of {len(cluster.nodes)} with {cluster.cpus} CPU(s) each; processes {pids}")
    if known is None:
        print(f"         the job server does not answer; see {laptop.folder()}")
    print(f"token    {token}{f' ({mode})' if mode else ''}")
    print(
        f"started  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(cluster.started))}; logs in {laptop.folder()}"
    )
