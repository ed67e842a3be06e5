"""What a running driver tells Prometheus, on loopback, to who has the token of `fairsweep serve`.

What is there anyway (trials, workers) is counted when Prometheus asks; what passes (reports, appends, suggestions) is
noted as it does, for half a microsecond each.
"""

from __future__ import annotations

import socket
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from fairsweep.analysis.schema import TRIAL_STATES
from fairsweep.cluster import doors
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.fleet import Fleet, Lane

SLOW_S = 10.0  # that a client may take to ask
APPENDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
SUGGESTIONS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)


def of(name: str, driven: Conductor | Fleet) -> CollectorRegistry:
    """The metrics of a driver; they follow it from now on. name: of the sweep, comparison or run of claims."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    watched = Watched(name)
    if isinstance(driven, Fleet):
        watched.follow_fleet(driven)
    else:
        watched.follow(driven)
    registry.register(watched)
    return registry


class Seconds:
    """A histogram of durations. That of prometheus_client (0.26) takes ten times as long to note one: it has locks."""

    def __init__(self, metric: str, text: str, bounds: tuple[float, ...]) -> None:
        self.metric, self.text, self.bounds = metric, text, bounds
        self.counts, self.sum = [0] * (len(bounds) + 1), 0.0

    def observe(self, seconds: float) -> None:
        """Notes one; for one thread at a time, as a sweep's writer and search are asked."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def family(self, name: str) -> HistogramMetricFamily:
        """What Prometheus is told. name: of the sweep."""
        made = HistogramMetricFamily(self.metric, self.text, labels=["sweep"])
        below = [str(bound) for bound in self.bounds] + ["+Inf"]
        counts = list(self.counts)
        made.add_metric([name], list(zip(below, accumulate(counts), strict=True)), sum_value=self.sum)
        return made


class Watched(Collector):
    """The conductor of a sweep, or those of a fleet's open lanes, with the sums of those that were closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open: list[Conductor] = []
        self.fleet: Fleet | None = None
        self.over: Counter[str] = Counter()  # trials of closed lanes by state
        self.retries = self.expected = self.reports = 0

        self.appends = Seconds(
            "fairsweep_append_duration_seconds",
            "Time of one append to the store, from its first byte until it is on disk (fsync).",
            APPENDS,
        )
        self.suggestions = Seconds(
            "fairsweep_suggestion_duration_seconds",
            "Time in which the search proposed one configuration.",
            SUGGESTIONS,
        )

    # -- what passes ------------------------------------------------------------------------------------

    def follow(self, conductor: Conductor) -> None:
        """Notes what this one does from now on."""
        conductor.writer.on_append = self._appended
        conductor.asker.on_ask = self.suggestions.observe
        self.open.append(conductor)

    def follow_fleet(self, fleet: Fleet) -> None:
        """Notes what the lanes do that are opened from now on."""
        source, self.fleet = fleet.source, fleet

        def opened() -> Lane | None:
            lane = source()
            if lane is None:
                return None
            self.follow(lane.conductor)

            def close() -> None:
                lane.close()
                self._closed(lane.conductor)

            return replace(lane, close=close)

        fleet.source = opened

    def _closed(self, conductor: Conductor) -> None:
        trials = list(conductor.trials.values())
        self.over.update(trial.state for trial in trials)
        self.retries += sum(trial.retries for trial in trials)
        self.expected += len(trials)
        self.open.remove(conductor)

    def _appended(self, rows: int, seconds: float) -> None:
        """rows: of results."""
        self.reports += rows
        self.appends.observe(seconds)

    # -- what is there ----------------------------------------------------------------------------------

    def collect(self) -> Iterator[Any]:
        """What Prometheus is told besides."""
        name, conductors = [self.name], list(self.open)
        states, retries = Counter(self.over), self.retries
        for conductor in conductors:
            trials = list(conductor.trials.values())  # at once: the driver adds to them meanwhile
            states.update(trial.state for trial in trials)
            retries += sum(trial.retries for trial in trials)
        busy = sum(conductor.busy for conductor in conductors)
        slots = (self.fleet or self.open[0]).rules.concurrent
        elapsed = (self.fleet or self.open[0]).elapsed_s

        by_state = GaugeMetricFamily("fairsweep_trials", "Trials by state.", labels=["sweep", "state"])
        for state in TRIAL_STATES:
            by_state.add_metric([self.name, state], states[state])
        workers = GaugeMetricFamily(
            "fairsweep_workers",
            "Places for trials that have one (busy), or none (idle).",
            labels=["sweep", "state"],
        )
        workers.add_metric([self.name, "busy"], busy)
        workers.add_metric([self.name, "idle"], max(0, slots - busy))
        yield by_state
        yield workers
        yield self.appends.family(self.name)
        yield self.suggestions.family(self.name)

        def plain(kind: type, metric: str, text: str, value: float) -> Any:
            made = kind(metric, text, labels=["sweep"])
            made.add_metric(name, value)
            return made

        yield plain(
            GaugeMetricFamily,
            "fairsweep_trials_expected",
            "Trials that there will be, as far as it is known.",
            self.expected + sum(conductor.expected for conductor in conductors),
        )
        yield plain(
            CounterMetricFamily, "fairsweep_reports", "Reports that this driver has written.", self.reports
        )
        yield plain(
            CounterMetricFamily,
            "fairsweep_lost_workers",
            "Losses of a worker that a trial survived.",
            retries,
        )
        yield plain(
            GaugeMetricFamily,
            "fairsweep_elapsed_seconds",
            "Wall time that the sweep has used, earlier runs included.",
            elapsed,
        )
        made = InfoMetricFamily("fairsweep_build", "The version that runs.")
        made.add_metric([], {"version": _version()})
        yield made


def _version() -> str:
    try:
        return version("fairsweep")
    except PackageNotFoundError:
        return "unknown"


class Server:
    """Answers `GET /metrics` to who bears the token, and 401 to everybody else."""

    def __init__(self, registry: CollectorRegistry, token: str, listening: socket.socket) -> None:
        host = listening.getsockname()[0]
        self._http = ThreadingHTTPServer((host, 0), _handler(registry, token), bind_and_activate=False)
        self._http.socket.close()
        self._http.socket = listening
        self._http.daemon_threads = True
        self.url = f"http://{doors.called(listening, host)}/metrics"
        self._thread = threading.Thread(
            target=self._http.serve_forever, name="fairsweep-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.socket.close()


def _handler(registry: CollectorRegistry, token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = SLOW_S
        server_version, sys_version = "fairsweep", ""

        def do_GET(self) -> None:
            if not doors.bears(self.headers.get("Authorization", ""), token):
                self._say(401, b"401: needs the token, as `Authorization: Bearer ...`\n", "text/plain")
            elif self.path.partition("?")[0] != "/metrics":
                self._say(404, b"404: metrics are at /metrics\n", "text/plain")
            else:
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                self._say(200, encode(registry), kind)

        def _say(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it, and a URL may hold what nobody should."""

    return Handler
