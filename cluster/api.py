"""fairsweep from Python: run, resume and open sweeps, and what a sweep answers.

What `fairsweep run` takes as words is given as keywords, groups as dicts: `budget={"trials": 20}` for
`budget.trials=20`. Wrong settings raise `UserError` with the same one line, before anything is trained or written.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from fairsweep.analysis import upkeep
from fairsweep.analysis.store import Store
from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.storage import existing, open_store
from fairsweep.search_spaces._parameter import hydra_word
from fairsweep.trainables.own.loading import loading

RUNNING = "running"


class Sweep:
    """A sweep of a store, whatever its state. All it answers is read anew from the store."""

    def __init__(self, store: Store, name: str) -> None:
        """UnknownSweep, which names close ones, if the store has none called `name`."""
        self.store, self.name = store, name
        self.info()

    def __repr__(self) -> str:
        row = self.info()
        return f"<Sweep {self.name}: {row['paper']} on {row['data']}, {row['state']}, in {self.store.uri}>"

    def info(self) -> dict[str, Any]:
        """The sweep's row: paper, data, objective, mode, seeds, state, versions, settings ..."""
        row: dict[str, Any] = self.store.table("sweeps", self.name).to_pylist()[0]
        return row

    @property
    def state(self) -> str:
        """running (or killed: the store cannot tell), finished, interrupted or failed."""
        return str(self.info()["state"])

    def trials(self) -> pa.Table:
        """One row a trial, in the order of their numbers: config.*, metric.*, seed, state, reason, cost_s (seconds)."""
        return self.store.table("trials", self.name).sort_by("number")

    def results(self, columns: list[str] | None = None) -> pa.Table:
        """One row a report: trial, seed, step, wall_s (seconds), metric.*; `seq` counts them."""
        return self.store.table("results", self.name, columns=columns)

    def notes(self) -> list[str]:
        """What a reader of the sweep should know, such as checkpoints that could not be written."""
        return self.store.notes(self.name)

    def best(self) -> dict[str, Any] | None:
        """The best configuration over its seeds: value, ci95, metrics, config ...; None while no trial has a value.

        Of a sweep with several objectives: objectives, front (see `front`), hypervolume, reference.
        """
        from fairsweep.cluster.jobs.best import best_of

        return best_of(self.store, self.name)

    def front(self, reference: Mapping[str, float] | None = None) -> pa.Table:
        """The Pareto front of a sweep with several objectives, by the first: one row a configuration that is complete
        under all its seeds, with config_id, seeds, each metric (mean) and its interval `.low`, `.high`, config_json.

        The table's metadata says `hypervolume` and `reference`. reference: objective -> the worst value that still
        counts for the hypervolume; None: the worst of all complete configurations. UserError: one objective.
        """
        from fairsweep.analysis.trade_offs import as_table
        from fairsweep.cluster.jobs.best import front_of

        found = front_of(self.store, self.name, reference)
        about = {"hypervolume": json.dumps(found.volume), "reference": json.dumps(found.reference)}
        return as_table(found.best).replace_schema_metadata(about)

    def importance(
        self,
        method: str = "fanova",
        *,
        metric: str | None = None,
        step: int | str | None = None,
        quantile: float = 0.1,
        region: float = 1.0,
        pairs: bool = False,
        seed: int = 0,
    ) -> pa.Table:
        """How much follows from which hyperparameter, of each objective or of `metric`: one row a parameter, the
        greatest first: importance, its spread `low`, `high`, in how many resamples it is `first`, conditions, reason.

        method: fanova or ped_anova. step: where values are compared, or "end". quantile, region: of ped_anova: what
        sets the best `quantile` apart among the best `region`. pairs: rows of two parameters too, with `other`.
        The table's metadata says `sentences` and `notes`. UserError if too little is known.
        """
        from fairsweep.cluster.jobs.importance import as_table, asked, of_sweep

        at, measure = asked(step, method, quantile, region, seed)
        return as_table(of_sweep(self.store, self.name, at, measure, metric), pairs)

    @property
    def plot(self) -> Any:
        """Its figures: `sweep.plot.history()`, `.anytime()`, `.importance()` ...; `sweep.plot` names them all.

        A figure is drawn by notebooks, has `caption`, `alt` (what is to be seen, in words) and `data` (an Arrow table),
        and `save("figure.svg")` (or .png, .pdf, .csv) writes it: with the extra `report`, but for .csv.
        """
        from fairsweep.cluster.jobs.pictures import Pictures

        return Pictures(self.store, self.name)

    def report(self, path: str | Path | None = None, format: str | None = None) -> Path:
        """Writes a page with its answer, figures and tables, as `fairsweep report` does, and says where.

        format: html, md or pdf; None: by the ending of `path`. UserError in one line for what cannot be written.
        """
        from fairsweep.cluster.jobs.reporting import write

        return write(self.store, [self.name], path, format)

    def to_pandas(self) -> Any:
        """`trials` as a pandas.DataFrame. ImportError with what to install, if pandas is not there."""
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise ImportError(
                "Sweep.to_pandas: needs pandas: pip install pandas; trials() is an Arrow table"
            ) from None
        return self.trials().to_pandas()

    def to_optuna(self, storage: Any = None) -> Any:
        """The sweep as it stands as an `optuna.Study`, for Optuna's plots and importance: one trial a trial of ours,
        with seed, config_id, reason, other metrics as user attributes.

        storage: None: in memory; a file (SQLite; a journal if it ends in .log); a URL or storage as Optuna takes it.
        UserError in one line if it has a study of this name, or the sweep is none over hyperparameters.
        """
        from fairsweep.cluster.jobs.studies import study_of

        return study_of(self.store, self.name, str(storage) if isinstance(storage, Path) else storage)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The reports as dicts, in their order; of a running sweep also those to come, until it ends."""
        seen = -1
        while True:
            state = self.state  # asked first: what was written before it ended is read below
            rows = self.results().sort_by("seq").to_pylist()
            fresh = [row for row in rows if row["seq"] > seen]
            yield from fresh
            seen = fresh[-1]["seq"] if fresh else seen
            if state != RUNNING:
                return
            if not fresh:
                time.sleep(1.0)

    def _repr_html_(self) -> str:
        """For notebooks: what it is, its best configuration, its trials by value."""
        row, best = self.info(), self.best()
        columns = ["trial", "state", "value", "steps", "seed", "config_json"]
        shown = sorted(
            self.trials().select(columns).to_pylist(),
            key=lambda t: (t["value"] is None, (t["value"] or 0.0) * (1 if row["mode"] == "min" else -1)),
        )[:20]

        def cells(values: Any, tag: str = "td") -> str:
            return "".join(f"<{tag}>{html.escape('' if v is None else str(v))}</{tag}>" for v in values)

        lines = "".join(f"<tr>{cells(t.values())}</tr>" for t in shown)
        found = ""
        if best and "front" in best:
            found = f"<p>front of {', '.join(best['objectives'])}: {len(best['front'])} configurations</p>"
        elif best:
            found = f"<p>best {html.escape(row['objective'])}: {best['value']:.5g}</p>"
        return (
            f"<p><b>{html.escape(self.name)}</b>: {html.escape(repr(self))}</p>{found}"
            f"<table><tr>{cells(columns, 'th')}</tr>{lines}</table>"
        )

    @property
    def tags(self) -> list[str]:
        """Its tags, sorted."""
        return self.store.tags(self.name)

    def tag(self, *add: str, drop: Sequence[str] = ()) -> list[str]:
        """Adds tags and drops some, also while it runs; returns those it then has. StoreError for what is no tag."""
        return upkeep.tag(self.store, self.name, add, drop)

    def rename(self, name: str) -> None:
        """Gives it another name. StoreError if that is taken or it has not ended, SweepLocked while it is written."""
        self._check_alone("rename")
        upkeep.rename(self.store, self.name, name)
        self.name = name

    def delete(self) -> None:
        """Drops it from the store, checkpoints and networks too, for good. SweepLocked while it is written."""
        self._check_alone("delete")
        upkeep.delete(self.store, self.name)

    def _check_alone(self, verb: str) -> None:
        from fairsweep.cluster.jobs.comparing.job import check_alone

        check_alone(self.store, self.name, verb)

    def resume(self, *, quiet: bool = False, **changes: Any) -> Sweep:
        """Goes on with the sweep: after a crash, or to let it grow: `budget={"trials": "+20"}`."""
        return resume(self.name, storage=self.store.uri, quiet=quiet, **changes)


def words(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`settings` as the words of a command line. TypeError for a value that no word can say."""
    found: list[str] = []
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += words(value, f"{path}.")
        else:
            found.append(f"{path}={_word(value, path)}")
    return found


def _word(value: Any, path: str) -> str:
    if (
        hasattr(value, "item") and getattr(value, "shape", None) == ()
    ):  # a NumPy scalar, which may be a float too
        value = value.item()
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{hydra_word(str(k))}: {_word(v, path)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_word(v, path) for v in value) + "]"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value if isinstance(value, str) and value[:1] == "+" else hydra_word(value)
    raise TypeError(
        f"{path}: {value!r} ({type(value).__name__}) is no setting; numbers, text, lists and dicts are"
    )


def _bare(word: str) -> str:
    """A word without the quotes that are for Hydra, which does not read what a resumed sweep is told."""
    key, _, value = word.partition("=")
    quoted = len(value) > 1 and value[0] == value[-1] == "'"
    return f"{key}={value[1:-1]}" if quoted and key in ("trainable", "source", "retry") else word


def run(trainable: Any, *, quiet: bool = False, **settings: Any) -> Sweep:
    """Runs a sweep of `trainable` to its end, as `fairsweep run` does, and returns it.

    trainable: the slug of a paper, a reference such as "train.py:train", or a function or class of your own.

    settings: `budget={"trials": 20}`, `scheduler="asha"`, `seeds=3`, `space={"lr": {"high": 0.1}}`, `storage=...`.
    quiet: no progress. UserError, UnknownPaper or SpaceError in one line if it cannot run as it is set up.
    """
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from fairsweep.cluster import config
    from fairsweep.cluster.display import make_display
    from fairsweep.cluster.jobs import sources
    from fairsweep.cluster.service import page

    if loading:
        raise UserError(
            f"fairsweep.run: is called while {loading[-1]} is imported; put the call under"
            ' `if __name__ == "__main__":`'
        )
    reference = sources.reference_of(trainable)
    result = page.run(config.load(words({"trainable": reference, **settings})), make_display(quiet))
    return Sweep(open_store(result.storage), result.sweep)


def claims(
    *papers: Any,
    storage: str | Path = DEFAULT_STORAGE,
    name: str | None = None,
    seeds: int | None = None,
    seed: int = 0,
    only: Sequence[str] = (),
    tuned: int = 0,
    quiet: bool = False,
    **settings: Any,
) -> pa.Table:
    """Runs the claims of papers (slugs, references or classes of your own) and judges them, as `fairsweep claims` does.

    The rows of the table `claims`: effect, 95 % interval, verdicts. The same `name` takes up what is not finished.
    seeds: pairs of each claim, in place of what it says. only: names of claims. tuned: configurations that each arm is
    chosen from. settings: `data_dir`, `budget`, `cluster`, `tracking`. UserError if there is nothing to run.
    """
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from datetime import datetime

    from fairsweep.cluster.jobs import claims as job
    from fairsweep.cluster.jobs import sources

    name = name or f"claims-{datetime.now():%Y%m%d-%H%M%S}"
    chosen = job.with_claims([sources.reference_of(paper) for paper in papers])
    groups = job.plan(chosen, name, str(storage), words(settings), seed, seeds, only, tuned)
    job.run(groups, name, str(storage), quiet)
    return open_store(str(storage)).derived("claims", name)


def resume(name: str, *, storage: str | Path = DEFAULT_STORAGE, quiet: bool = False, **changes: Any) -> Sweep:
    """Takes the sweep called `name` up where its store says that it was, as `fairsweep resume` does."""
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from fairsweep.cluster.display import make_display
    from fairsweep.cluster.jobs import sources
    from fairsweep.cluster.jobs.nas import search as nas
    from fairsweep.cluster.service import page

    known = open(name, storage)
    job: Any = nas if nas.is_search(known.store, name) else page
    if "trainable" in changes:
        changes["trainable"] = sources.reference_of(changes["trainable"])
    job.resume(str(storage), name, [_bare(word) for word in words(changes)], make_display(quiet))
    return open(name, storage)


def open(name: str, storage: str | Path = DEFAULT_STORAGE) -> Sweep:
    """The sweep called `name` of the store at a folder or URI. UserError: no such store, UnknownSweep: sweep."""
    return Sweep(existing(str(storage), "storage"), name)
