"""`fairsweep.compare`: which of several methods is best, from Python, as `fairsweep compare` on the command line."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from fairsweep.analysis.comparing.answering import Answer
from fairsweep.analysis.store import Store
from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.api import Sweep, words
from fairsweep.cluster.api import _word as _value
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sources
from fairsweep.cluster.storage import existing
from fairsweep.search_spaces._parameter import hydra_word


class Comparison:
    """A comparison of a store, whatever its state. All it answers is read anew from the store."""

    def __init__(self, store: Store, name: str) -> None:
        """UserError, which names close ones, if the store has none called `name`."""
        from fairsweep.cluster.jobs.comparing import job

        self.store, self.name = store, name
        if job.stored(store, name) is None:
            raise job.unknown(store, name)

    def __repr__(self) -> str:
        found = self.answer()
        said = "no repeat has ended yet" if found is None else found.sentence
        return f"<Comparison {self.name}: {said}; in {self.store.uri}>"

    def answer(self) -> Answer | None:
        """Who is best, by how much, how sure, at what cost; None while no repeat has ended."""
        from fairsweep.cluster.jobs.comparing import job

        return job.answered(self.store, self.name)

    def table(self) -> pa.Table:
        """The rows of `comparisons`: one a method, data set and repeat, with its exact configuration."""
        return self.store.derived("comparisons", self.name)

    def sweeps(self) -> list[Sweep]:
        """Its searches, and the trainings of what they chose."""
        from fairsweep.cluster.jobs.comparing import job

        return [Sweep(self.store, name) for name in job.sweeps_of(self.store, self.name)]

    def resume(self, seeds: int | str | None = None, *, quiet: bool = False) -> Comparison:
        """Goes on with it; seeds: 10, or "+5", for more repeats."""
        from fairsweep.cluster.jobs.comparing import job
        from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay, Lines

        changes = [] if seeds is None else [f"seeds={seeds}"]
        job.resume(self.store.uri, self.name, changes, ComparisonDisplay() if quiet else Lines())
        return self

    def rename(self, name: str) -> Comparison:
        """Gives it another name, once it has ended; UserError for one that is taken."""
        from fairsweep.cluster.jobs.comparing import job, renaming

        renaming.rename(self.store, self.name, name, job.sweeps_of(self.store, self.name))
        self.name = name
        return self

    def report(self, path: str | Path | None = None, format: str | None = None) -> Path:
        """Writes a page with its answer, figures and tables, as `fairsweep report` does, and says where.

        format: html, md or pdf; None: by the ending of `path`. UserError in one line for what cannot be written.
        """
        from fairsweep.cluster.jobs.reporting import write

        return write(self.store, [self.name], path, format)

    def _repr_html_(self) -> str:
        found = self.answer()
        if found is None:
            return f"<p>{html.escape(repr(self))}</p>"
        head = ("method", found.metric, "95 % interval", "trials", "seconds")
        rows = []
        for s in found.standings:
            ends = "" if s.ci95 is None else f"{s.ci95[0]:.4g} .. {s.ci95[1]:.4g}"
            value = "" if s.value is None else f"{s.value:.4g}"
            rows.append((s.method, value, ends, s.trials, f"{s.search_s + s.final_s:.1f}"))
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row) + "</tr>" for row in rows
        )
        top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        more = f"<p>{html.escape(found.more)}</p>" if found.more else ""
        return f"<p><b>{html.escape(found.sentence)}</b></p>{more}<table><tr>{top}</tr>{cells}</table>"


def compare(
    *methods: Any,
    data: str | Path | Sequence[str | Path] | None = None,
    name: str | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    quiet: bool = False,
    **settings: Any,
) -> Comparison:
    """Compares methods at equal budgets, as `fairsweep compare` does, and returns what was found.

    methods: slugs, references, functions or classes of your own, or a pair of one of these and the parameters that are
    fixed for it: `("biper", {"weight_mode": ["fp", "ste"]})` is two methods. data: sets that all have, `own@FOLDER` for
    yours. settings: `seeds` (repeats; without it as many as can show a winner, at least 5), `retrain`, `on`,
    `seed`, and those of every search: `budget={"trials": 20}`, `search`, `scheduler`, `space`, `cluster` ... The same
    `name` takes up what is not finished. UserError in one line if it cannot run as it is set up.
    """
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from fairsweep.cluster.jobs.comparing import job, plan
    from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay, Lines

    said = [_word(method) for method in methods]
    if data is not None:
        said.append(_data(data))
    name = name or f"compare-{datetime.now():%Y%m%d-%H%M%S}"
    found = plan.asked([*said, *words(settings)], name, str(storage))
    job.run(found, ComparisonDisplay() if quiet else Lines())
    return open_comparison(name, storage)


def _data(data: str | Path | Sequence[str | Path]) -> str:
    """Data sets as a word of the command line; a folder is one of yours."""
    listed = [data] if isinstance(data, (str, Path)) else list(data)
    names = [f"own@{each}" if isinstance(each, Path) else each for each in listed]
    return f"data=[{','.join(map(hydra_word, names))}]"


def _word(method: Any) -> str:
    """A method as a word of the command line. UserError for what is none."""
    fixed: Any = {}
    if isinstance(method, tuple) and len(method) == 2:
        method, fixed = method
    elif isinstance(method, str):
        return method  # it may have more than one, as on the command line
    if not (isinstance(method, str) or callable(method) or hasattr(method, "fit")) or not isinstance(
        fixed, Mapping
    ):
        raise UserError(
            f"compare: {method!r} with {fixed!r} is no method: a name, function or class, or a pair of it and the"
            " parameters that are fixed for it"
        )
    reference = sources.reference_of(method)
    parts = [
        f"{name}=[{','.join(_value(v, name) for v in (value if isinstance(value, (list, tuple)) else [value]))}]"
        for name, value in fixed.items()
    ]
    return ":".join([reference, *parts])


def open_comparison(name: str, storage: str | Path = DEFAULT_STORAGE) -> Comparison:
    """The comparison called `name` of the store at a folder or URI. UserError: no such store, no such comparison."""
    return Comparison(existing(str(storage), "storage"), name)
