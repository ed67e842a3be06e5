"""What Ray and fairsweep listen on here, what of it answers without a token, and how to close it."""

from __future__ import annotations

import contextlib
import http.client
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fairsweep.cluster import doors
from fairsweep.cluster.service.checking import OK, WARN, Check

PROBE_S = 1.0  # that a port of Ray's may take to show what it is
CLOSE = {
    "ray": "a cluster of one machine: RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before `ray start` keeps it on loopback;"
    " of several: let no others through the firewall, and keep RAY_AUTH_MODE=token",
    "dashboard": "`ray start --dashboard-host=127.0.0.1` keeps it on loopback",
    "metrics": "a cluster of one machine: RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before `ray start`; of several: a"
    " firewall, Ray has no other way; the ports are 44217 (AUTOSCALER_METRIC_PORT), 44227 (DASHBOARD_METRIC_PORT), and"
    " on each node any (`ray start --metrics-export-port=N`)",
    "fairsweep": "end it, and start it without --host; an SSH tunnel reaches it all the same",
}


@dataclass(frozen=True)
class Listener:
    """A process that listens. kind: ray, dashboard or fairsweep."""

    kind: str
    what: str
    pid: int
    address: str
    port: int


def listeners() -> list[Listener]:
    """What Ray and fairsweep listen on here; of other users' processes only root learns."""
    import psutil

    found, known = [], {}
    for each in psutil.net_connections(kind="inet"):
        if each.status != psutil.CONN_LISTEN or each.pid is None:
            continue
        if each.pid not in known:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(each.pid)
                known[each.pid] = kind_of(process.name(), process.cmdline())
        kind = known.get(each.pid)
        if kind is not None:
            address: Any = each.laddr
            found.append(Listener(*kind, each.pid, address.ip, address.port))
    return sorted(found, key=lambda listener: (listener.what, listener.pid, listener.port))


def tells_everybody(one: Listener) -> bool:
    """Whether a port answers like Prometheus' client to who has no token, as Ray's metrics do."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(one.address, one.address.removeprefix("::ffff:"))
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    try:
        with urllib.request.urlopen(f"http://{host}:{one.port}/metrics", timeout=PROBE_S) as answer:
            return answer.status == 200 and answer.read(6) == b"# HELP"
    except (OSError, ValueError, http.client.HTTPException):  # it speaks something else, or asks for a token
        return False


def kind_of(name: str, words: Sequence[str]) -> tuple[str, str] | None:
    """Kind and name of a process of Ray or fairsweep; None of any other."""
    line = " ".join(words)
    if name in ("raylet", "gcs_server"):
        return "ray", name
    if "ray/dashboard/" in line or line.startswith("ray-dashboard"):
        agent = "agent" in line
        return ("ray", "Ray's dashboard agent") if agent else ("dashboard", "Ray's dashboard")
    for part, what in (
        ("runtime_env/agent", "Ray's runtime environments"),
        ("ray.util.client.server", "Ray's client server"),
        ("ray/_private/", "a process of Ray"),
        ("ray/autoscaler/", "Ray's autoscaler"),
    ):
        if part in line:
            return "ray", what
    if line.startswith("ray::"):
        return "ray", line.split()[0]
    ours = ("-m cluster", "-m fairsweep", "/fairsweep ")
    if any(part in f"{line} " for part in ours):
        return "fairsweep", "fairsweep " + next((w for w in words if w in ("serve", "dashboard")), "driver")
    return None


def ports(found: Sequence[Listener], tells: Callable[[Listener], bool] | None = None) -> list[Check]:
    """Who listens beyond loopback, and how to close that; a line a kind of process. tells: see `tells_everybody`."""
    tells = tells or tells_everybody
    if not found:
        return [Check("ports", OK, "neither Ray nor fairsweep listens on this machine")]
    open_ = [one for one in found if not doors.is_loopback(one.address)]
    told = [one for one in open_ if one.kind != "fairsweep" and tells(one)]
    checks = []
    for one in told:
        said = f"{one.what} (pid {one.pid}) gives its metrics to whoever asks, without a token"
        checks.append(Check("ports", WARN, f"{said}: {one.address}:{one.port}", CLOSE["metrics"]))
    open_ = [one for one in open_ if one not in told]
    for what in dict.fromkeys(one.what for one in open_):
        of_it = [one for one in open_ if one.what == what]
        where = ", ".join(f"{one.address}:{one.port}" for one in of_it[:6])
        more = f" and {len(of_it) - 6} more" if len(of_it) > 6 else ""
        said = f"{what} (pid {of_it[0].pid}) listens beyond loopback: {where}{more}"
        checks.append(Check("ports", WARN, said, CLOSE[of_it[0].kind]))
    closed = [one for one in found if doors.is_loopback(one.address)]
    if closed:
        names = ", ".join(sorted({one.what for one in closed} - {one.what for one in (*open_, *told)}))
        checks.append(
            Check("ports", OK, f"{len(closed)} on loopback alone" + (f" ({names})" if names else ""))
        )
    return checks
