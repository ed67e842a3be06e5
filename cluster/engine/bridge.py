"""Ray Tune adapters: Paper -> tune.Trainable, Conductor -> tune Searcher, TrialScheduler and Stopper.

A Tune trial is a *place* for trials: it begins with a leg, whose first report comes by Tune. From then on the place's
actor is called directly, by a thread that runs the rounds of an `engine.exchange`: it is handed the next legs in its
warm process, of short trials several at a time (`engine.bundles`). Tune gives what it is good at: resources, placement,
actors and the loss of them. It is never asked to restore anything; the store is the source of truth.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from fairsweep.cluster.engine import early
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.exchange import Exchange
from fairsweep.cluster.engine.fleet import Fleet
from fairsweep.cluster.engine.local import ray_gone
from fairsweep.cluster.engine.place import Place
from fairsweep.cluster.engine.shares import Share
from fairsweep.cluster.errors import DriverEnded

logger = logging.getLogger(__name__)


class PaperTrainable(tune.Trainable):
    """What Tune knows a place as. `local.connected` has it make an actor of `light`."""

    light = Place


class RayWires:
    """Calls the actors of places, and waits for all of them at once."""

    STASH_S = 10.0
    IDLE_S = 0.01  # between looks, while no place works

    def __init__(self) -> None:
        self.actors: dict[str, Any] = {}
        self._met: set[str] = set()  # the ids of all that there were
        self._calls: dict[Any, str] = {}  # what has not come yet -> its place

    def join(self, place: str, actor: Any) -> None:
        """A place that is reached by `actor` from now on."""
        self.actors[place] = actor
        self._met.add(actor._actor_id.hex())

    def close(self) -> None:
        """Nothing is told any more: what places have handed over that died, or were given up, goes with them."""
        if not ray_gone():
            with contextlib.suppress(Exception):
                early.forget(self._met)

    def leave(self, place: str) -> None:
        """A place of which nothing is awaited any more."""
        self.actors.pop(place, None)
        for call in [call for call, of in list(self._calls.items()) if of == place]:
            self._calls.pop(call, None)

    def ready(self, timeout: float) -> list[tuple[str, Mapping[str, Any] | BaseException]]:
        calls = list(self._calls)
        if not calls:
            time.sleep(min(timeout, self.IDLE_S))
            return []
        first, rest = ray.wait(calls, timeout=timeout)
        if first and rest:
            first += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        came = [(self._calls.pop(call, ""), call) for call in first]
        return [(place, _got(call)) for place, call in came if place]

    def send(self, place: str, legs: str = "", post: str = "") -> None:
        self._calls[self.actors[place].work.remote(legs, post)] = place

    def stash(self, places: Sequence[str]) -> None:
        calls = [self.actors[place].stash.remote() for place in places]
        with contextlib.suppress(Exception):  # such a trial then goes on from an older checkpoint
            ray.wait(calls, num_returns=len(calls), timeout=self.STASH_S)

    def early(self) -> dict[str, Any]:
        places = {actor._actor_id.hex(): place for place, actor in list(self.actors.items())}
        try:
            return {places[actor]: said for actor, said in early.heard(places).items()}
        except Exception as error:  # a cluster that is out of reach; what was lost runs again
            logger.warning("what places have handed over could not be read: %s", error)
            return {}


def _got(call: Any) -> Mapping[str, Any] | BaseException:
    try:
        message: Mapping[str, Any] = json.loads(ray.get(call))
    except ray.exceptions.RayError as error:
        return error
    return message


class Places:
    """The places of one Tune run, shared by the three adapters below, and the thread that runs the rounds."""

    LOOK_S = 0.1  # between two looks
    WAIT_S = 0.02  # of a round, for places that have joined meanwhile
    GRACE_S = 15.0  # of running trials beyond the time of a report, once the sweep is to end
    RELEASE_S = 2.0  # without work, after which a place gives its resources back

    def __init__(
        self,
        conductor: Conductor | Fleet,
        post_of: Callable[[str], str],
        tick: Callable[[], None],
        share: Share | None = None,
        report_s: float = 0.0,
    ) -> None:
        """share: of a cluster on which there may be other sweeps. report_s: that a place may go without a word."""
        self.conductor, self.tick, self.share, self.report_s = conductor, tick, share, report_s
        self.wires = RayWires()
        self.exchange = Exchange(conductor, self.wires, post_of)
        self.trials: dict[str, TuneTrial] = {}  # those that have not ended, by place
        self.controller: Any = None  # Tune's
        self.killed: dict[str, tuple[str, list[str]]] = {}  # place -> why it was ended by us, what it held
        self._started: set[str] = set()
        self._stopping_since: float | None = None
        self._over = threading.Event()
        self._rounds = threading.Thread(target=self._run, name="fairsweep-exchange", daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Runs the rounds beside the block."""
        self._rounds.start()
        try:
            yield
        finally:
            self._over.set()
            self._rounds.join()
            self.wires.close()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self.exchange.round(self.WAIT_S)
        except BaseException as error:  # the controller's thread raises it
            self.exchange.fatal = self.exchange.fatal or error
            self.exchange.stirred.set()

    # -- in the thread of Tune's controller -----------------------------------------------------------

    def joined(self, trial: TuneTrial, message: Mapping[str, Any]) -> None:
        """A place has told the first time, by Tune; from now on it is called directly."""
        place = trial.trial_id
        with self.exchange.lock:
            self.wires.join(place, trial.temporary_state.ray_actor)
            self.exchange.deliver(place, message)

    def lost(self, trial: TuneTrial) -> None:
        """The worker of a place has ended, or could not be started."""
        place = trial.trial_id
        with self.exchange.guard():
            error = self.exchange.broken.get(place) or _error_of(trial)
            gone_before = place in self.exchange.unproven
            held = self._leave(place)
            reason, meant = self.killed.pop(place, ("", held))
            if held:
                why = reason or _reason(error)
                # Between the kill and its effect, the place may have told, and got others.
                self.conductor.lost_bundle(
                    held,
                    f"{type(error).__name__}: {error}",
                    why,
                    charged=held == meant and (bool(reason) or not gone_before),
                )

    def _leave(self, place: str) -> list[str]:
        self.trials.pop(place, None)
        self._started.discard(place)
        self.wires.leave(place)
        return self.exchange.forget(place)

    def look(self) -> bool:
        """Looks after time: what hangs is ended, what is idle released, the display breathes. True: all is over."""
        if all(place in self.wires.actors for place in self.trials):
            # Tune waits for nothing, and would ask again at once.
            self.exchange.stirred.wait(self.LOOK_S)
        self.exchange.stirred.clear()
        with self.exchange.guard():
            gone = ray_gone()
            if gone:
                raise DriverEnded(gone)
            self._see_who_began()
            self.conductor.beat()
            self.tick()
        with self.exchange.guard():
            self._end_what_is_late()
            for place in self.exchange.broken:
                # Tune learns that an actor is lost by a call to it that fails.
                if place in self.trials and place in self.wires.actors:
                    ray.kill(self.wires.actors.pop(place), no_restart=True)
                    self.controller._schedule_trial_train(self.trials[place])
            if self.conductor.finished:
                return True
            owed = self._owed()
            for place in self.exchange.idle(0.0 if owed > 0 else self.RELEASE_S):
                trial = self.trials[place]
                self._leave(place)
                self.controller.stop_trial(trial)
            if self.share is not None and self.share.most is not None:
                # Tune keeps a worker that has nothing to do, and what it takes, for a trial of its own.
                self.controller._cleanup_cached_actors(force_all=True)
            return False

    def bound(self) -> None:
        """Tells what this sweep has and could use, and takes over how many places are its part.

        Tune asks for a first place without end, and looks at nothing else meanwhile.
        """
        conductor, share = self.conductor, self.share
        if share is not None:
            running = sum(trial.status == TuneTrial.RUNNING for trial in self.trials.values())
            share.tell(running, conductor.wants)
            conductor.places = conductor.rules.concurrent if share.most is None else share.most

    def _owed(self) -> int:
        """How many places are to go to other sweeps; what waits for a place beyond the part of this one is withdrawn.

        Else it would be placed before what the others ask for, whenever a place of this sweep is given up; and a sweep
        that is to end would wait for a place that may never come.
        """
        self.bound()
        conductor = self.conductor
        shared = self.share is not None and self.share.most is not None
        owed = len(self.trials) - min(conductor.places, conductor.rules.concurrent) if shared else 0
        waiting = [place for place, trial in self.trials.items() if trial.status == TuneTrial.PENDING]
        withdrawn = waiting if conductor.stopping else waiting[: max(0, owed)]
        for place in withdrawn:
            self._withdraw(place)
        return owed - len(withdrawn)

    def _withdraw(self, place: str) -> None:
        """Takes back what a place that has not come yet was to begin with."""
        trial, controller = self.trials[place], self.controller
        self.conductor.hand_back(self._leave(place))
        controller._schedule_graceful_trial_stop(trial)
        controller._live_trials.discard(trial)
        if trial in controller._staged_trials:  # Tune (2.60) forgets it there, and would stage fewer
            controller._staged_trials.remove(trial)
            controller._actor_cache.decrease_max(trial.placement_group_factory)

    def _see_who_began(self) -> None:
        for place, trial in self.trials.items():
            if place not in self._started and trial.status == TuneTrial.RUNNING:
                self._started.add(place)
                for held in self.exchange.holds.get(place, ()):
                    self.conductor.heard_from(held)

    def _end_what_is_late(self) -> None:
        conductor = self.conductor
        late = {i: "timed out" for i in conductor.overdue()}
        if conductor.stopping:
            if self._stopping_since is None:
                self._stopping_since = conductor.elapsed_s
            if conductor.elapsed_s - self._stopping_since > self.GRACE_S + self.report_s:
                late = {i: "interrupted" for i in conductor.active}
        for place, trial in self.trials.items() if late else ():
            held = [i for i in self.exchange.holds.get(place, ()) if i in late]
            actor = trial.temporary_state.ray_actor
            if trial.status == TuneTrial.RUNNING and held and place not in self.killed and actor:
                self.killed[place] = late[held[0]], list(self.exchange.holds[place])
                ray.kill(actor, no_restart=True)


class LegSearcher(Searcher):
    """Hands Tune a new place whenever the conductor has a leg that no warm place can take."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        with self.places.exchange.guard():
            self.places.bound()
        given = self.places.exchange.first(trial_id)
        if given is None:
            with self.places.exchange.lock:
                return Searcher.FINISHED if self.places.conductor.finished else None
        return {"legs": given[0], "post": given[1]}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass  # Tune's snapshots are never restored: the store is replayed instead

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("sweeps are resumed from the store")

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LegScheduler(FIFOScheduler):
    """Tells the places of what Tune does with them."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self.places.controller = tune_controller
        self.places.trials[trial.trial_id] = trial

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        self.places.joined(trial, json.loads(result["report"]))
        return TrialScheduler.NOOP  # Tune calls the actor no more

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        self.places.lost(trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Watch(tune.Stopper):
    """Is asked once in every step of Tune's controller.

    A callback would be, too; but where there is one, Tune 2.60 imports all that it knows (W&B, MLflow, Comet),
    to count it.
    """

    def __init__(self, places: Places) -> None:
        self.places = places

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.places.look()

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _error_of(trial: TuneTrial) -> BaseException | None:
    # `Trial.get_pickled_error` looks where Tune will upload the file later; here it is still local.
    path = trial.pickled_error_file
    if path is None or not os.path.exists(path):
        return None
    with open(path, "rb") as f:
        return ray.cloudpickle.load(f)


def _reason(error: BaseException | None) -> str:
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "OutOfMemory" in type(error).__name__:
        return "out of memory"
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"worker failed ({str(error).splitlines()[-1]})" if str(error) else "worker failed"
    return "worker died"
