"""A store in a browser, live: the verb dashboard."""

from __future__ import annotations

import argparse
import sys

from fairsweep.cluster import DEFAULT_STORAGE, doors
from fairsweep.cluster.commands.tables import existing
from fairsweep.cluster.errors import UserError


def register(add: object) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add(  # type: ignore[operator]
        "dashboard", _dashboard, "the reports of a store in a browser, live while its sweeps run", json=False
    )
    p.add_argument(
        "sweep", nargs="?", help="what is opened: a sweep, comparison or run of claims; default the list"
    )
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
    p.add_argument("--port", default="0", help="where it listens; default 0, any that is free")
    p.add_argument(
        "--host", default="127.0.0.1", help="default 127.0.0.1, which this machine alone can reach"
    )


def _dashboard(args: argparse.Namespace, rest: list[str]) -> int:
    import asyncio

    port = doors.port_of(args.port)
    store = existing(args.storage)
    from fairsweep.analysis.documents.html import page
    from fairsweep.analysis.plots.figure import NoDrawing, drawing
    from fairsweep.cluster.jobs.dashboard import server
    from fairsweep.cluster.jobs.dashboard.watching import Watch
    from fairsweep.cluster.jobs.reporting import document_of

    try:
        drawing()
    except NoDrawing as error:
        raise UserError(f"dashboard: {error}") from None
    if args.sweep and not Watch(store, str).knows(args.sweep):
        raise store.unknown(args.sweep)
    listening, token = doors.listen(args.host, port), doors.new_token()
    app = server.application(store, token, args.host, lambda name: page(document_of(store, [name])))
    path = f"/run/{args.sweep}" if args.sweep else "/"

    def ready() -> None:
        print(server.url_of(listening, args.host, path, token), flush=True)
        if not doors.is_loopback(listening.getsockname()[0]):
            print(
                f"fairsweep: warning: --host={args.host}: other machines reach it, unencrypted; the URL is the key",
                file=sys.stderr,
            )
        print("Ctrl-C ends it", file=sys.stderr)

    asyncio.run(server.serve(app, listening, ready))
    return 0
