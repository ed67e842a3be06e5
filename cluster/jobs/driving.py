"""Drives a conductor on Ray Tune to its end, and closes its books whatever ends it.

What may end it: the sweep itself, a signal, an error in the driver (a full disk), Tune's controller failing again and
again, Ray's processes going away. In every case the store says so, and `fairsweep resume` goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, cast

from fairsweep.analysis.store import Store, StoreError, SweepLocked, SweepWriter
from fairsweep.cluster.display import Display, clock
from fairsweep.cluster.engine.conductor import Conductor, Trial
from fairsweep.cluster.engine.failures import describe
from fairsweep.cluster.engine.fleet import Fleet
from fairsweep.cluster.engine.local import alone, ray_gone
from fairsweep.cluster.engine.nodes import cluster_of, needs, needs_of_place
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.shares import RayBoard, Share
from fairsweep.cluster.errors import DriverEnded
from fairsweep.cluster.jobs import metrics, submitted
from fairsweep.cluster.masking import masked_uri
from fairsweep.cluster.storage import resuming

MAX_ENGINE_RESTARTS = 5
GONE_GRACE_S = 5.0  # that the driver has to end on its own once Ray is gone; Ray would end it after a minute
LAST_S = 5.0  # that the books may take to close after a second Ctrl-C; then the driver ends without
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass(frozen=True)
class Result:
    """How a run of a sweep ended. state: finished, interrupted or failed (no trial came to a value)."""

    sweep: str
    storage: str
    state: str


def drive(
    settings: Any,
    store: Store,
    name: str,
    writer: SweepWriter,
    make: Callable[[Callable[[Trial], None]], Conductor],
    post: Post,
    display: Display,
    ended: Callable[[Trial], None],
    before: Callable[[Conductor], None] | None = None,
    notes: tuple[str, ...] = (),
) -> Result:
    """Runs the conductor that `make` makes to its end on Tune, and closes its books.

    make: is given what is to be called when a trial ends. ended: called then, before the next trial begins.
    before: runs legs in another way than on Tune, before those that are left. notes: what is to be said of the
    run before its trials. DriverEnded, in one line, if the driver cannot go on.
    """

    def on_end(trial: Trial) -> None:
        ended(trial)
        display.ended(trial)

    with writer:
        conductor = make(on_end)
        conductor.on_note = display.note
        store.folder.patience.said = display.note
        submitted.enter(store, name)
        display.begin(name, masked_uri(store.uri), settings, conductor, writer.recovery)
        books = Books(conductor, writer, display)
        try:
            for text in notes:
                conductor.note(text)
            seen = metrics.told(settings, name, conductor, display)
            with (
                books.interruptible(),
                books.guarded(),
                seen,
                _sharing(settings, conductor, display) as share,
            ):
                if before is not None:
                    if share is not None:
                        share.tell(0, 0)  # workers of a group are no places
                    before(conductor)
                told = json.dumps(asdict(post))
                _run_on_tune(settings, conductor, lambda sweep: told, display, share)
            state = books.close()
            display.closed(state)
        except Exception as error:
            books.fail(error)
        finally:
            books.settled()
            display.end()
    return Result(name, store.uri, state)


def drive_fleet(settings: Any, fleet: Fleet, display: Display, resume: str, name: str = "") -> str:
    """Runs the sweeps of a fleet to their ends on one Tune run; finished or interrupted.

    settings: of one of them. resume: the command that goes on. name: of the run. DriverEnded, in one line,
    if the driver cannot go on.
    """
    books = _Guarded(fleet, display, resume)
    try:
        seen = metrics.told(settings, name, fleet, display)
        with books.interruptible(), books.guarded(), seen, _sharing(settings, fleet, display) as share:
            _run_on_tune(settings, fleet, fleet.post_of, display, share)
        return fleet.close()
    except Exception as error:
        books.fail(error)
    finally:
        books.settled()
        display.end()


def _of_ray(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] == "ray" for kind in type(error).__mro__)


class _Guarded:
    """Books that the watch over Ray closes where the driver cannot. `conductor` may be a fleet."""

    def __init__(self, conductor: Conductor | Fleet, display: Display, resume: str) -> None:
        """resume: the command that goes on."""
        self.conductor, self.display, self.resume = conductor, display, resume
        self._once = threading.Lock()
        self._over = threading.Event()  # somebody closes them
        self._settled = threading.Event()

    def settled(self) -> None:
        """Nothing is left to be closed."""
        self._over.set()
        self._settled.set()

    def abandon(self) -> None:
        """The end by an error; never raises, for there is an error to report already."""
        with self._once:
            if not self._over.is_set():
                self._over.set()
                self._abandon()

    def _abandon(self) -> None:
        self.conductor.abandon()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Watches over Ray while the block runs; without it, the driver would wait a minute and be ended by Ray."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(1.0):
                why = ray_gone()
                if why and not done.wait(GONE_GRACE_S) and ray_gone():
                    self._leave(why)

        watcher = threading.Thread(target=watch, name="fairsweep-watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """The first Ctrl-C, SIGTERM or SIGHUP ends trials cleanly; a second one does not wait.

        The command that goes on is told at the first: after a second one nothing more may be said.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        first = 0.0

        def handle(number: int, frame: Any) -> None:
            nonlocal first
            if not self.conductor.interrupted:
                first = time.monotonic()
                self.conductor.interrupt()
                self.display.note(
                    "interrupted: running trials end at their next report; press Ctrl-C again to end at once; "
                    f"`{self.resume}` goes on"
                )
            elif number == signal.SIGINT or time.monotonic() - first > 1.0:
                # `timeout` and systemd send one signal twice, to the process and to its group or followed by SIGHUP.
                threading.Thread(target=self._end_soon, name="fairsweep-last", daemon=True).start()
                raise KeyboardInterrupt

        numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        # What was to be ignored stays so: `nohup` ignores SIGHUP.
        before = {s: signal.signal(s, handle) for s in numbers if signal.getsignal(s) != signal.SIG_IGN}
        try:
            yield
        except KeyboardInterrupt:
            self.conductor.interrupt()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end_soon(self) -> None:
        """Ends the driver though its books hang, on a search that thinks or on storage that does not answer."""
        if not self._settled.wait(LAST_S):
            self._leave("its books could not be closed in time")

    def fail(self, error: Exception) -> NoReturn:
        """Abandons the books and raises `error`, in one line where it is no fault of ours."""
        self.abandon()
        if isinstance(error, SweepLocked):
            raise DriverEnded(f"{error}; it goes on there") from error
        if not isinstance(error, (OSError, StoreError, DriverEnded)) and not _of_ray(error):
            raise error
        own = isinstance(error, (DriverEnded, StoreError))
        why = str(error) if own else describe(error).removeprefix("raised ")
        raise DriverEnded(f"{why}; the sweep is interrupted, `{self.resume}` goes on") from error

    def _leave(self, why: str) -> None:
        code = 130 if self.conductor.interrupted else 1
        last = threading.Thread(target=self.abandon, daemon=True)
        last.start()
        last.join(GONE_GRACE_S)  # whoever writes may hang
        with contextlib.suppress(Exception):
            self.display.end()
            line = f"fairsweep: error: {why}; the sweep is interrupted, `{self.resume}` goes on"
            print(line, file=sys.stderr, flush=True)
        submitted.ended(code)
        os._exit(code)  # the main thread hangs in Ray


class Books(_Guarded):
    """Closes the books of a sweep once, by whoever comes first: the driver, or the watch over Ray."""

    conductor: Conductor

    def __init__(self, conductor: Conductor, writer: SweepWriter, display: Display) -> None:
        super().__init__(conductor, display, resuming(writer.name, writer.uri))
        self.writer = writer

    def close(self) -> str:
        """The regular end."""
        conductor = self.conductor
        if conductor.out_of_time and not conductor.interrupted:
            used = f"budget.minutes={conductor.rules.minutes:g} is used up ({clock(conductor.elapsed_s)})"
            more = resuming(self.writer.name, self.writer.uri, "budget.minutes=+N")
            self.display.note(f"{used}; `{more}` adds to it")
        state = conductor.close()
        values = any(t.state in ("complete", "pruned") for t in conductor.trials.values())
        if state == "finished" and not values:
            state = "failed"
        self.writer.close(state=state)
        self.settled()
        return state

    def _abandon(self) -> None:
        super()._abandon()
        with contextlib.suppress(Exception):
            self.writer.close(state="interrupted")


@contextlib.contextmanager
def _sharing(settings: Any, conductor: Conductor | Fleet, display: Display) -> Iterator[Share | None]:
    """The part of this driver on a cluster that others may use, too; None on a Ray of its own."""
    if alone():
        yield None
        return

    def said() -> None:
        display.note(
            "there are other sweeps on this cluster: each gets its part, by cluster.weight and cluster.priority, "
            "as trials end"
        )

    cluster = settings.cluster
    part = cluster.get("weight", 1.0), cluster.get("priority", 0)  # sweeps of older versions have none
    options = cluster_of(settings)
    share = Share(RayBoard(), needs_of_place(options), *part, each=needs(options), on_others=said)
    share.tell(0, conductor.rules.concurrent)
    share.start()
    try:
        yield share
    finally:
        share.stop()


def _run_on_tune(
    settings: Any,
    conductor: Conductor | Fleet,
    post_of: Callable[[str], str],
    display: Display,
    share: Share | None = None,
) -> None:
    # Tune reads its environment at import, so it comes in after `connected` has set that.
    from ray import tune

    from fairsweep.cluster.engine.bridge import LegScheduler, LegSearcher, PaperTrainable, Places, Watch

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(conductor.rules.concurrent)
    resources = resources_of_place(settings)
    failure, watched = "", cast(Any, conductor)  # a fleet has a display of its own
    for _ in range(MAX_ENGINE_RESTARTS):
        if conductor.finished:
            return
        report_s = settings.budget["report_seconds"]
        places = Places(conductor, post_of, lambda: display.tick(watched), share, report_s)
        with tempfile.TemporaryDirectory(prefix="fairsweep-tune-", ignore_cleanup_errors=True) as scratch:
            tuner = tune.Tuner(
                tune.with_resources(PaperTrainable, resources),
                tune_config=tune.TuneConfig(
                    search_alg=LegSearcher(places),
                    scheduler=LegScheduler(places),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    name="sweep",
                    verbose=0,
                    stop=Watch(places),
                ),
            )
            try:
                with places.running():
                    tuner.fit()
            except Exception as error:
                if places.exchange.fatal is not None:
                    raise places.exchange.fatal from None
                if ray_gone():
                    raise DriverEnded(str(ray_gone())) from None
                failure = describe(error).removeprefix("raised ")
                display.note(f"Tune's controller failed and is started anew: {failure}")
        if places.exchange.fatal is not None:
            raise places.exchange.fatal
        for trial_id in list(conductor.active):
            conductor.lost(
                trial_id, "the Tune controller ended while the trial ran", "worker lost", charged=False
            )
    if not conductor.finished:
        raise DriverEnded(f"Tune's controller failed {MAX_ENGINE_RESTARTS} times, last with {failure}")


def resources_of_place(settings: Any) -> dict[str, float]:
    """What Tune sets aside for a place.

    Where several processes train a trial, Ray Train does so for them, and the place itself computes nothing; but Tune
    wants it to ask for something, and each node has memory (a byte).
    """
    if cluster_of(settings)["trainers"] > 1:
        return {"memory": 1}
    return {name.lower(): amount for name, amount in needs(settings.cluster).items()}
