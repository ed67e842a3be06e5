"""Ray Tune adapters: Paper -> tune.Trainable, Conductor -> tune Searcher, TrialScheduler and Callback.

A Tune trial is a *place* for trials: it begins with a leg and, while there is more to do, is handed the
next ones in its warm process (`take`), which costs one actor call; of short trials several at a time
(`engine.bundles`), so that what a message costs in Tune's controller is paid by all of them. Tune gives what it is
good at: resources, placement, actors and the loss of them. It is never asked to restore anything; the store is the
source of truth.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from fairsweep.cluster.engine.bundles import Bundle
from fairsweep.cluster.engine.conductor import Conductor, Leg
from fairsweep.cluster.engine.fleet import Fleet
from fairsweep.cluster.engine.local import ray_gone
from fairsweep.cluster.engine.weights import read_from_board
from fairsweep.cluster.engine.worker import LegRunner, Post
from fairsweep.cluster.errors import DriverEnded


class PaperTrainable(tune.Trainable):
    """Runs legs of trials of one paper. Configuration: `post` (what the sweep is) and `legs`, as JSON."""

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config["post"])
        self.take(config["legs"])

    def _begin(self, text: str) -> None:
        post = Post(**json.loads(text))
        if post.board:
            read_from_board(post.board)
        self._post, self._bundle = text, Bundle(LegRunner(post))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.take(new_config["legs"], new_config["post"])
        return True

    def take(self, legs: str, post: str = "") -> None:
        """The next legs, called by the driver just before the next `train`. post: of their sweep, if it is another."""
        if post and post != self._post:
            self._bundle.runner.close()
            self._begin(post)
        self._bundle.take([Leg.from_dict(leg) for leg in json.loads(legs)])

    def step(self) -> dict[str, Any]:
        return {"report": json.dumps(self._bundle.step())}

    def stash(self) -> None:
        """Checkpoints an unfinished leg before the place is given up."""
        self._bundle.runner.stash()

    def cleanup(self) -> None:
        self._bundle.runner.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


class Places:
    """Which Tune trial holds which of our trials; shared by the three adapters below."""

    def __init__(self, conductor: Conductor | Fleet, post_of: Callable[[str], str]) -> None:
        """post_of: what workers are told of a sweep; "" is the name of the only one."""
        self.conductor, self.post_of = conductor, post_of
        self.holds: dict[str, list[str]] = {}  # Tune trial id -> our trials, the one that runs first
        self.sweep: dict[str, str] = {}  # Tune trial id -> the sweep that its worker was told of last
        self.killed: dict[str, str] = {}  # Tune trial id -> why the driver killed its worker
        self.fatal: BaseException | None = None  # what went wrong in the driver itself; never swallowed

    def next_legs(self, place: str, most: int) -> tuple[str, str] | None:
        """What `place` is to run next: the legs, and the post of their sweep if it was not told of it yet; as JSON."""
        legs = self.conductor.next_legs(most)
        if not legs:
            return None
        known, sweep = self.sweep.get(place), legs[0].sweep
        self.holds[place], self.sweep[place] = [leg.key for leg in legs], sweep
        told = json.dumps([leg.__dict__ for leg in legs])
        return told, "" if known == sweep else self.post_of(sweep)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Keeps what goes wrong in the block, which Tune may take for a trial's fault; after that, nothing is done."""
        if self.fatal is not None:
            raise self.fatal
        try:
            yield
        except BaseException as error:
            self.fatal = error
            raise


class LegSearcher(Searcher):
    """Hands Tune a new place whenever the conductor has a leg that no warm place can take."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        with self.places.guard():
            return self._suggest(trial_id)

    def _suggest(self, trial_id: str) -> Any:
        conductor = self.places.conductor
        given = self.places.next_legs(trial_id, 1)
        if given is None:
            return Searcher.FINISHED if conductor.finished else None
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
    """Passes reports to the conductor and the conductor's next leg to the place that has become free."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        with self.places.guard():
            return self._on_result(trial, result)

    def _on_result(self, trial: TuneTrial, result: dict[str, Any]) -> str:
        conductor, place = self.places.conductor, trial.trial_id
        held = self.places.holds[place]
        message = json.loads(result["report"])
        lane = held[0].rpartition("/")[0]
        told = [*(report["trial"] for report in message["reports"]), *message["unbegun"]]
        if told != [key.rpartition("/")[2] for key in held]:
            raise RuntimeError(f"place {place} holds {held} and reported {told}")
        going_on = conductor.reports(message["reports"], message["unbegun"], lane)
        if going_on is not None:
            held[:] = [f"{lane}/{going_on}" if lane else going_on]
            return TrialScheduler.CONTINUE
        actor: Any = trial.temporary_state.ray_actor
        if conductor.trials[held[len(message["reports"]) - 1]].cut_off:
            _wait_for(actor.stash.remote(), seconds=10)
        given = self.places.next_legs(place, message["most"])
        if given is None:
            return TrialScheduler.STOP
        actor.take.remote(*given)
        return TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        held = self.places.holds[trial.trial_id]
        error = _error_of(trial)
        reason = self.places.killed.pop(trial.trial_id, None) or _reason(error)
        with self.places.guard():
            self.places.conductor.lost_bundle(held, f"{type(error).__name__}: {error}", reason)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Watch(Callback):
    """Looks after time: starts the clock of a leg, ends what hangs, and lets the display breathe."""

    GRACE_S = 15.0

    def __init__(self, places: Places, tick: Callable[[], None]) -> None:
        self.places, self.tick = places, tick
        self._stopping_since: float | None = None

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        for held in self.places.holds.get(trial.trial_id, ()):
            self.places.conductor.heard_from(held)

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        with self.places.guard():
            self._look(trials)

    def _look(self, trials: list[TuneTrial]) -> None:
        conductor = self.places.conductor
        gone = ray_gone()
        if gone:
            raise DriverEnded(gone)
        conductor.beat()
        self.tick()
        late = {i: "timed out" for i in conductor.overdue()}
        if conductor.stopping:
            if self._stopping_since is None:
                self._stopping_since = conductor.elapsed_s
            if conductor.elapsed_s - self._stopping_since > self.GRACE_S:
                late = {i: "interrupted" for i in conductor.active}
        for trial in trials if late else ():
            held = [i for i in self.places.holds.get(trial.trial_id, ()) if i in late]
            actor = trial.temporary_state.ray_actor
            if (
                trial.status == TuneTrial.RUNNING
                and held
                and trial.trial_id not in self.places.killed
                and actor
            ):
                self.places.killed[trial.trial_id] = late[held[0]]
                ray.kill(actor, no_restart=True)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _wait_for(ref: Any, seconds: float) -> None:
    try:
        ray.get(ref, timeout=seconds)
    except Exception:  # the trial then goes on from an older checkpoint
        return


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
