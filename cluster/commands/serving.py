"""The live tables of a store for other programs: the verb serve."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands import examples, path
from fairsweep.cluster.commands.tables import existing


def register(add: object) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add(  # type: ignore[operator]
        "serve", _serve, "the live tables of a store over Arrow Flight, read-only", json=False
    )
    p.add_argument("sweep", nargs="?", help="of this sweep or comparison alone; default all of the store")
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
    p.add_argument("--port", default="0", help="where it listens; default 0, any that is free")
    p.add_argument(
        "--host", default="127.0.0.1", help="default 127.0.0.1, which this machine alone can reach"
    )
    p.add_argument("--tls-cert", type=path, help="PEM file of a certificate: the way is encrypted")
    p.add_argument("--tls-key", type=path, help="PEM file of its key")
    examples(
        p,
        "fairsweep serve --port 8815",
        "fairsweep serve dagnn-20261124-101500 --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
    )


def _serve(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster import doors

    port = doors.port_of(args.port)
    store = existing(args.storage)
    from fairsweep.cluster.service import flight
    from fairsweep.cluster.service.rows import Rows

    pair = flight.certificate(args.tls_cert, args.tls_key)
    begun = args.sweep is not None and any(name.startswith(f"{args.sweep}.") for name in store.names())
    if args.sweep and not store.has(args.sweep) and not begun:
        raise store.unknown(args.sweep)
    token = doors.users_token()
    server, uri, alone = flight.started(Rows(store, args.sweep), token, args.host, port, pair)
    ended = threading.Event()
    before = {n: signal.signal(n, lambda *_: ended.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        print(uri, flush=True)
        if not alone and pair is None:
            print(
                f"fairsweep: warning: --host={args.host}: other machines reach it, unencrypted: the token and the rows"
                " can be read on the way; --tls-cert and --tls-key encrypt it",
                file=sys.stderr,
            )
        print(
            f'fairsweep.connect("{uri}") reads it; other clients send the token of {doors.token_file()}, as'
            " `authorization: Bearer ...`\nCtrl-C ends it",
            file=sys.stderr,
            flush=True,
        )
        while not ended.wait(1.0):  # in turns, so that a signal is seen on every platform
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not flight.stop(server):
        os._exit(0)  # a client that reads no more would keep it for ever
    return 0
