"""Tune's functions and classes in a worker, as `Paper`s that a `LegRunner` steps."""

from __future__ import annotations

import inspect
import pickle
import sys
import tempfile
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from ray import tune

from fairsweep.cluster.tune import finding, session, spaces
from fairsweep.search_spaces.space import Space
from fairsweep.trainables.base import Fidelity, Metric, Setting
from fairsweep.trainables.own.adapt import drained
from fairsweep.trainables.own.process import seeded
from fairsweep.trainables.own.reports import as_json
from fairsweep.trainables.own.running import Handle, OwnPaper
from fairsweep.trainables.own.source import Source

FOLDER, DICT = "folder", "dict"


def class_for(
    trainable: Any, tuner: Mapping[str, Any] | None, slug: str, source: Source, objective: str, mode: str
) -> type[TuneTrainable]:
    """The class for a trainable of which `source.found` says the rest. tuner: what its `Tuner` was told, if named."""
    is_class = inspect.isclass(trainable)
    base: type[TuneTrainable] = TuneClass if is_class else TuneFunction
    found = source.found
    members = {
        "slug": slug,
        "source": source,
        "title": " ".join((inspect.getdoc(trainable) or slug).split("\n\n")[0].split())[:200],
        "objective": objective,
        "metrics": (Metric(objective, mode, "validation"),),  # type: ignore[arg-type]
        "declared_steps": found.get("steps"),
        "own_space": Space.from_mapping(found["space"], source=f"trainable={source.reference}", papers=False),
        "tuner": tuner,
        "trainable": staticmethod(trainable) if not is_class else trainable,
        "__module__": __name__,
        "__doc__": inspect.getdoc(trainable),
    }
    return type(slug, (base,), members)


class _Done(BaseException):
    """A report has met a stopping rule: ends the user's function."""


class TuneTrainable(OwnPaper):
    """What functions and classes share: the configuration in Tune's form, and reports of anything as numbers."""

    trainable: ClassVar[Any]
    tuner: ClassVar[Mapping[str, Any] | None] = None

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        super().setup(config, setting)
        self.attrs: dict[str, Any] = {}
        self.remarks: list[str] = []
        found = self.source.found
        user_space = finding.space_of(found, self.trainable, self.tuner)
        self._nested, beside = spaces.nested(found, config, setting.seed, user_space)
        if beside:
            self.attrs["params"] = {name: as_json(value) for name, value in beside.items()}

    def _as_numbers(self, metrics: Any) -> tuple[dict[str, float], bool]:
        """The numbers of a report, nested names joined by a slash as Tune joins them, and whether it ends the trial.

        What is no number is kept in `attrs`, the last of each name; NaN and infinite numbers, beside the objective,
        too. Tune takes any of them.
        """
        if not isinstance(metrics, Mapping):
            return self.numbers(metrics, {}, self._count + 1), False
        done, numbers = bool(metrics.get("done", False)), {}
        for name, value in _flat(metrics):
            if name in ("done", "should_checkpoint"):
                continue
            number = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
            plain = isinstance(number, Real) and not isinstance(number, bool)
            if name == self.objective or (plain and abs(number) <= sys.float_info.max):
                numbers[name] = number
            else:
                kept = self.attrs.setdefault("reported", {})
                kept[name] = as_json(value)
                if name not in self._odd:
                    self._odd.add(name)
                    self.remarks.append(f"reported {name} is no finite number: its last value is in attrs")
        stop: Mapping[str, Any] = self.source.found.get("stop", {})
        done = done or any(name in numbers and numbers[name] >= value for name, value in stop.items())
        return self.numbers(numbers, {}, self._count + 1), done

    _count = 0

    @property
    def _odd(self) -> set[str]:
        return self.__dict__.setdefault("_odd_names", set())  # type: ignore[no-any-return]


class TuneFunction(TuneTrainable):
    """A function: `tune.report`, `yield` or `return`, in a thread that stands still at each report."""

    def body(self, config: dict[str, Any], trial: Handle) -> Any:
        self._odd.clear()
        own = session.Session(trial, self.slug, lambda metrics: self._reported(metrics, trial))
        with session.installed(own):
            try:
                made = self.trainable(self._nested)
                if inspect.isgenerator(made):
                    made = drained(made, SimpleNamespace(report=own.report))
                return None if made is None else self._returned(made)
            except _Done:
                return None

    def _reported(self, metrics: Any, trial: Handle) -> None:
        self._count = trial.step
        numbers, done = self._as_numbers(metrics)
        trial.report(numbers)
        if done:
            raise _Done

    def _returned(self, value: Any) -> dict[str, float] | None:
        """A returned dict or number is the last report, as in Tune; what else is returned is nothing to Tune."""
        if isinstance(value, Mapping) and value:
            return self._as_numbers(value)[0]
        return self.numbers(value, {}, self._count + 1) if isinstance(value, Real) else None


class TuneClass(TuneTrainable):
    """A class trainable: made for each trial, stepped and checkpointed here; no thread is needed."""

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        if steps is None and cls.declared_steps is None and not cls._ends_itself():
            raise ValueError(
                "a class trainable ends when it is told to: say budget.steps=N, or stop={'training_iteration': N} in"
                " its RunConfig"
            )
        return super().fidelity(config, steps)

    @classmethod
    def _ends_itself(cls) -> bool:
        """Whether its code says `done`, or its Tuner a value to stop at."""
        if cls.source.found.get("stop"):
            return True
        return any("done" in text for text in cls.source.files.values())

    def body(self, config: dict[str, Any], trial: Handle) -> Any:
        raise NotImplementedError("a class is stepped")

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        super().setup(config, setting)
        self._folder = tempfile.TemporaryDirectory(prefix="fairsweep-tune-")
        seeded(setting.seed)
        self._object = _own(self.trainable, self._folder.name)(config=self._nested)
        self._count = 0

    def step(self) -> dict[str, float]:
        result = self._object.step()
        self._object._iteration += (
            1  # which `training_iteration` shows; `train` would add a dozen columns of its own
        )
        numbers, done = self._as_numbers(result)
        self._count += 1
        self._at = self._count
        self._note(numbers)
        self._finished = done
        return numbers

    def conclude(self) -> None:
        pass

    def test(self) -> dict[str, float]:
        return {}

    @property
    def saved_at(self) -> int | None:
        return self._count if self._saves else 0

    @property
    def _saves(self) -> bool:
        return type(self._object).save_checkpoint is not tune.Trainable.save_checkpoint

    def state_dict(self) -> dict[str, Any]:
        """What `save_checkpoint` gives or writes; a class without one begins anew."""
        if not self._saves:
            return {"kind": None, "saved": b"", "at": 0}
        with tempfile.TemporaryDirectory(prefix="fairsweep-tune-") as folder:
            given = self._object.save_checkpoint(folder)
            if isinstance(given, Mapping):
                return {"kind": DICT, "saved": pickle.dumps(dict(given)), "at": self._count}
            packed = session.pack(tune.Checkpoint.from_directory(folder))
            return {"kind": FOLDER, "saved": packed, "at": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["kind"] is None:
            return
        self._count = self._at = int(state["at"])
        self._object._iteration = self._count
        if state["kind"] == DICT:
            self._object.load_checkpoint(pickle.loads(state["saved"]))
            return
        folder = Path(self._folder.name) / "checkpoint"
        folder.mkdir(exist_ok=True)
        session.unpack(state["saved"], folder)
        self._object.load_checkpoint(str(folder))

    def close(self) -> str | None:
        made = self.__dict__.pop("_object", None)
        if made is not None:
            made.stop()
            self._folder.cleanup()
        return None


def _own(trainable: type[Any], folder: str) -> type[Any]:
    """The class with its folder in ours: without Tune's storage it would make one under ~/ray_results (Ray 2.60)."""

    def logdir(self: Any) -> None:
        self._logdir = folder

    return type(
        trainable.__name__, (trainable,), {"_setup_logdir": logdir, "__module__": trainable.__module__}
    )


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}/")
        else:
            found.append((f"{prefix}{name}", value))
    return found
