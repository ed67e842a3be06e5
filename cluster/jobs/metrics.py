"""The setting `metrics.port`: whether a driver answers Prometheus (`jobs.prometheus`), and whether it can."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from fairsweep.cluster import doors
from fairsweep.cluster.display import Display
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.fleet import Fleet
from fairsweep.cluster.errors import UserError

HOST = "127.0.0.1"


def port_of(settings: Any) -> int | None:
    """The setting `metrics.port`; None where there is none, as in sweeps of older versions."""
    found = getattr(settings, "metrics", None)
    return found.get("port") if isinstance(found, Mapping) else None


def check(settings: Any) -> None:
    """UserError where the metrics that are asked for could not be had: before anything is begun."""
    port = port_of(settings)
    if port is not None:
        doors.users_token()
        doors.listen(HOST, port, "metrics.port").close()


@contextlib.contextmanager
def told(settings: Any, name: str, driven: Conductor | Fleet, display: Display) -> Iterator[None]:
    """Answers Prometheus while the block runs, if `metrics.port` says so. Whatever fails, the sweep goes on."""
    port = port_of(settings)
    if port is None:
        yield
        return
    from fairsweep.cluster.jobs.prometheus import Server, of  # nobody else pays for it

    try:
        server = Server(of(name, driven), doors.users_token(), doors.listen(HOST, port, "metrics.port"))
    except (UserError, OSError) as error:  # taken since `check`
        display.note(f"no metrics: {error}")
        yield
        return
    display.note(f"metrics: {server.url}, for who bears the token of {doors.token_file()}")
    try:
        yield
    finally:
        server.close()
