"""Where a study of Optuna is written to, and how 10,000 trials get there in seconds.

Optuna's `Study.add_trials` asks the database before each parameter and attribute: 24 ms a trial with 8 parameters, 12
attributes and 9 reports, that is four minutes of CPU for 10,000. A SQLite file of the layout that Optuna says it has is
filled table by table instead, a journal in one go; what stands there is what `add_trials` would have written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial

from fairsweep.cluster.errors import UserError

LAYOUT = "v3.2.0.a"  # of Optuna's tables, which its version 5.0 still has
JOURNALS = (".log", ".jsonl", ".journal")


@dataclass
class Place:
    """storage: what the study is in. fill: writes its trials there, all of them or none."""

    storage: BaseStorage
    fill: Callable[[optuna.Study, Sequence[FrozenTrial]], None]


@contextmanager
def opened(storage: str | BaseStorage | None, name: str) -> Iterator[Place]:
    """Where study `name` goes; takes it away again if what is done with it fails. See `studies.study_of`."""
    where, place, remove = _place(storage)
    if any(study.study_name == name for study in place.storage.get_all_studies()):
        raise UserError(
            f"{where}: has a study called {name}; take another file, or drop it with `optuna delete-study`"
        )
    try:
        yield place
    except BaseException:
        for study in place.storage.get_all_studies():
            if study.study_name == name:
                place.storage.delete_study(study._study_id)
        remove()
        raise


def add_trials(study: optuna.Study, place: Place, trials: Sequence[FrozenTrial]) -> None:
    """`study.add_trials(trials)`, with its checks, in a fraction of the time where `place` knows how."""
    for trial in trials:
        trial._validate()
    place.fill(study, trials)


def is_url(text: str) -> bool:
    """Whether `text` is an address of a database, not a file."""
    return "://" in text


def _place(storage: str | BaseStorage | None) -> tuple[str, Place, Callable[[], None]]:
    """How it is called, the place, and what takes away a file that was made for it."""
    if storage is None:
        return "memory", Place(InMemoryStorage(), _one_by_one), lambda: None
    if not isinstance(storage, str):
        fast = isinstance(storage, RDBStorage) and _known(storage)
        return repr(storage), Place(storage, _by_tables if fast else _one_by_one), lambda: None
    if is_url(storage):
        return storage, _database(storage, storage), lambda: None
    file = Path(storage).expanduser().absolute()
    if file.is_dir():
        raise UserError(f"{storage}: is a folder; name the file too, such as {Path(storage) / 'study.db'}")
    if not file.parent.is_dir():
        raise UserError(f"{storage}: the folder {Path(storage).parent} does not exist")
    new = not file.exists()

    def remove() -> None:
        if new:
            file.unlink(missing_ok=True)

    if file.suffix in JOURNALS:
        return storage, _journal(file, storage), remove
    return storage, _database(f"sqlite:///{file}", storage), remove


def _database(url: str, called: str) -> Place:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        storage = RDBStorage(url)
        return Place(storage, _by_tables if _known(storage) else _one_by_one)
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError, AssertionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{called}: cannot be opened as a storage of Optuna ({first})") from None


def _known(storage: RDBStorage) -> bool:
    """Whether a storage is a SQLite file of the layout that is known here."""
    return storage.engine.name == "sqlite" and storage.get_current_version() == LAYOUT


def _one_by_one(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    study.add_trials(trials)


# -- journal ------------------------------------------------------------------------------------------------


class _Held(BaseJournalBackend):
    """A journal in memory before that of a file, which gets it in one piece: one write, one fsync."""

    def __init__(self, file: Path) -> None:
        self.file = JournalFileBackend(str(file))
        self.logs: list[dict[str, Any]] = list(self.file.read_logs(0))
        self.known = len(self.logs)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return iter(self.logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        # As they come back from a file, where keys are text.
        self.logs += (json.loads(json.dumps(log)) for log in logs)

    def write(self) -> None:
        self.file.append_logs(self.logs[self.known :])
        self.known = len(self.logs)


def _journal(file: Path, called: str) -> Place:
    try:
        if file.exists() and file.stat().st_size:  # Optuna passes over a last line that is none of a journal
            with open(file, encoding="utf-8") as lines:
                json.loads(lines.readline())["op_code"]
        held = _Held(file)
        storage = JournalStorage(held)
    except (OSError, ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{called}: cannot be opened as a journal of Optuna ({type(error).__name__}: {error})"
        ) from None

    def fill(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        study.add_trials(trials)
        held.write()

    return Place(storage, fill)


# -- SQLite -------------------------------------------------------------------------------------------------


def _by_tables(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Each table of Optuna in one statement, all in one transaction."""
    from sqlalchemy import MetaData, func, select

    storage: Any = study._storage
    engine = getattr(storage, "_backend", storage).engine
    layout = MetaData()
    layout.reflect(engine)
    with engine.begin() as connection:
        table = layout.tables["trials"]
        first = 1 + (connection.execute(select(func.max(table.c.trial_id))).scalar() or 0)
        number = len(study.get_trials(deepcopy=False))
        rows: dict[str, list[dict[str, Any]]] = {}
        for k, trial in enumerate(trials):
            for name, row in _rows(trial, study._study_id, first + k, number + k):
                rows.setdefault(name, []).append(row)
        for name, found in rows.items():
            connection.execute(layout.tables[name].insert(), found)


def _rows(
    trial: FrozenTrial, study_id: int, trial_id: int, number: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a trial: table, columns. Optuna keeps times in UTC, and numbers that are none beside their column."""
    yield (
        "trials",
        {
            "trial_id": trial_id,
            "number": number,
            "study_id": study_id,
            "state": trial.state.name,
            "datetime_start": _utc(trial.datetime_start),
            "datetime_complete": _utc(trial.datetime_complete),
        },
    )
    of = {"trial_id": trial_id}
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        yield (
            "trial_params",
            {
                **of,
                "param_name": name,
                "param_value": distribution.to_internal_repr(value),
                "distribution_json": distribution_to_json(distribution),
            },
        )
    for k, value in enumerate(trial.values or ()):
        kind, kept = _stored(value)
        yield "trial_values", {**of, "objective": k, "value": kept, "value_type": kind}
    for step, value in trial.intermediate_values.items():
        kind, kept = _stored(value)
        columns = {"step": step, "intermediate_value": kept, "intermediate_value_type": kind}
        yield "trial_intermediate_values", {**of, **columns}
    for name, attrs in (
        ("trial_user_attributes", trial.user_attrs),
        ("trial_system_attributes", trial.system_attrs),
    ):
        for key, value in attrs.items():
            yield name, {**of, "key": key, "value_json": json.dumps(value)}


def _stored(value: float) -> tuple[str, float | None]:
    if math.isfinite(value):
        return "FINITE", value
    return ("NAN" if math.isnan(value) else "INF_POS" if value > 0 else "INF_NEG"), None


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(timezone.utc).replace(tzinfo=None)
