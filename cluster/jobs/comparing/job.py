"""Runs a comparison: searches, choices on validation data, trainings of what was chosen, rows of `comparisons`.

Everything is derived from the sweeps of the store: which searches are over, what they chose, which of the chosen were
tested. So a run that ended in any way is taken up by the same words, or by its name, and none of it is done twice.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fairsweep.analysis import upkeep
from fairsweep.analysis.comparing.answering import Answer, answer
from fairsweep.analysis.plots.parts import count
from fairsweep.analysis.store import Store, StoreError
from fairsweep.cluster.checks import hint
from fairsweep.cluster.display import clock
from fairsweep.cluster.engine.fleet import Fleet, Lane
from fairsweep.cluster.engine.local import connected
from fairsweep.cluster.engine.nodes import cluster_of
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import metrics, readiness, submitted, sweep, tracked
from fairsweep.cluster.jobs.comparing import renaming, tested
from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay
from fairsweep.cluster.jobs.comparing.entrants import Entrant
from fairsweep.cluster.jobs.comparing.lanes import open_lane
from fairsweep.cluster.jobs.comparing.outcome import choose, row_of, scores_of, why_none
from fairsweep.cluster.jobs.comparing.plan import (
    Plan,
    Spec,
    as_begun,
    check_same,
    heard_at,
    is_port,
    made,
    resumed,
)
from fairsweep.cluster.jobs.driving import drive_fleet
from fairsweep.cluster.masking import masked_uri
from fairsweep.cluster.storage import open_store, resuming
from fairsweep.trainables.own.known import meant, pinned
from fairsweep.trainables.own.source import Source, TrainableError, is_reference

OVER = ("finished", "failed")
HOPELESS = 20  # times the repeats that there are: nobody waits for as many


@dataclass(frozen=True)
class Item:
    """A sweep that is to be run: the search of a repeat, or the training of what it chose."""

    entrant: Entrant
    repeat: int
    chosen: Mapping[str, Any] | None = None  # of a final one


@dataclass
class Run:
    """A comparison that runs. `rows`: those of the table, by method, data and repeat."""

    plan: Plan
    store: Store
    display: ComparisonDisplay
    concurrent: int = 1
    rows: dict[tuple[str, str, int], dict[str, Any]] = field(default_factory=dict)
    todo: deque[Item] = field(default_factory=deque)
    open: dict[str, Item] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # sweep -> `tracking` as its workers were told

    @classmethod
    def of(cls, plan: Plan, store: Store, display: ComparisonDisplay, concurrent: int = 1) -> Run:
        """The run of a plan, with what the store has of it. Repeats are gone through one after the other, so that
        whatever ends it leaves whole blocks."""
        run = cls(plan, store, display, concurrent)
        run.rows = {_key(row): row for row in store.derived("comparisons", plan.spec.run).to_pylist()}
        for repeat in range(plan.spec.seeds):
            run.todo += [Item(e, repeat) for e in plan.entrants]
        return run

    def fleet(self) -> Fleet:
        """What drives it."""
        return Fleet(self.concurrent, self.next, self.ended)

    def next(self) -> Lane | None:
        """The next sweep that has something left to do."""
        while self.todo:
            item = self.todo.popleft()
            if self._settled(item):
                continue
            name = self._name(item)
            self.open[name] = item
            settings = self._settings(item)
            about = {
                "run": self.plan.spec.run,
                "method": item.entrant.method.label,
                "data": item.entrant.data.label,
                "repeat": item.repeat,
                "part": "search" if item.chosen is None else "final",
                "spec": json.loads(self.plan.spec.to_json()),
            }
            lane = open_lane(settings, self.store, name, json.dumps(about), self.concurrent, self.display)
            self.told[name] = json.loads(lane.post)["tracking"]
            return lane
        return None

    def ended(self, name: str) -> None:
        """The sweep called `name` is over: its choice is to be trained, or its row is written."""
        self._follow(self.open.pop(name))

    def _settled(self, item: Item) -> bool:
        """Whether there is nothing left to run of it; what follows from it is then done."""
        key = item.entrant.method.label, item.entrant.data.label, item.repeat
        if key in self.rows:
            return True
        name = self._name(item)
        if not self.store.has(name):
            return False
        if self.store.table("sweeps", name)["state"][0].as_py() not in OVER:
            return False
        self._follow(item)
        return True

    def _follow(self, item: Item) -> None:
        if item.chosen is not None:
            self._enter(item, scores_of(self.store, self._name(item), self.plan.spec.on), "")
            return
        chosen = choose(self.store, self._name(item), item.entrant)
        if chosen is None:
            self._enter(item, [], why_none(self.store, self._name(item)))
        else:
            self.todo.appendleft(Item(item.entrant, item.repeat, chosen))

    def _enter(self, item: Item, scores: list[float | None], why: str) -> None:
        """Writes the row of a repeat."""
        row = row_of(self.plan, self.store, item.entrant, item.repeat, item.chosen, scores, why)
        self.rows[_key(row)] = row
        spec = self.plan.spec
        order = [(m.label, d.label, r) for r in range(spec.seeds) for d in spec.data for m in spec.methods]
        self.store.write_derived("comparisons", spec.run, [self.rows[k] for k in order if k in self.rows])
        expected = len(self.plan.entrants) * self.plan.spec.seeds
        self.display.compared(row, len(self.rows), expected)

    def _name(self, item: Item) -> str:
        return self.plan.name(item.entrant, item.repeat, "search" if item.chosen is None else "final")

    def _settings(self, item: Item) -> Any:
        if item.chosen is None:
            return self.plan.search(item.entrant, item.repeat)
        return self.plan.final(item.entrant, item.repeat, item.chosen)


def _key(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["method"], row["data"], row["repeat"]


# -- running ----------------------------------------------------------------------------------------------


def run(plan: Plan, display: ComparisonDisplay) -> tuple[Answer | None, str]:
    """Runs what is not done yet of a comparison; its answer (None without a row), and finished or interrupted.

    UserError, MissingData, SweepLocked, before anything is trained, for what cannot run.
    """
    store = open_store(plan.storage)
    renaming.check_whole(store, plan.spec.run)
    known = stored(store, plan.spec.run)
    if known is not None:
        plan = as_begun(plan, known)
    check_same(plan.spec, known)
    if known is not None:
        known = heard_at(known, [word for word in plan.spec.words if is_port(word)])
        return _taken_up(store, plan.storage, resumed(known, plan.spec.seeds), display, plan.notes)
    _check_free(store, plan)
    texts, news = texts_of(store, plan.spec)
    with pinned(texts):
        return _run(store, plan, display, news)


def resume(
    storage: str, name: str, changes: list[str], display: ComparisonDisplay
) -> tuple[Answer | None, str]:
    """Takes a comparison up where the store says that it was; `seeds=N` or `seeds=+N` adds repeats.

    `metrics.port=N` has it answer Prometheus there, `metrics.port=null` nowhere.
    """
    store = open_store(storage)
    renaming.check_whole(store, name)
    spec = stored(store, name)
    if spec is None:
        raise unknown(store, name)
    seeds = None
    for change in changes:
        key, _, text = change.partition("=")
        if is_port(change):
            spec = heard_at(spec, [change])
            continue
        if key != "seeds" or not re.fullmatch("[+]?[0-9]+", text):
            raise UserError(
                f"{change}: a comparison is resumed with more repeats only, seeds=N or seeds=+N (or metrics.port=N)"
            )
        seeds = int(text.removeprefix("+")) + (spec.seeds if text[:1] == "+" else 0)
    return _taken_up(store, storage, resumed(spec, seeds), display)


def _taken_up(
    store: Store, storage: str, spec: Spec, display: ComparisonDisplay, notes: tuple[str, ...] = ()
) -> tuple[Answer | None, str]:
    """A comparison of the store goes on as `spec`, with the texts that it began with."""
    texts, news = texts_of(store, spec)
    with pinned(texts):
        plan = made(spec, storage)
        _check_free(store, plan)
        return _run(store, plan, display, (*notes, *news))


def _run(
    store: Store, plan: Plan, display: ComparisonDisplay, news: tuple[str, ...]
) -> tuple[Answer | None, str]:
    """Checks what runs and runs it. news: to be said once it begins."""
    spec = plan.spec
    if len(store.derived("comparisons", spec.run)) == len(plan.entrants) * spec.seeds:
        return answered(store, spec.run), "finished"
    upkeep.check_alone(store, "comparisons", spec.run, "comparison")
    tests = []
    for e in plan.entrants:
        settings = plan.search(e, 0)
        try:
            sweep.rehearse(settings, e.paper)
        except UserError as error:
            raise UserError(f"{e.method.label}: {error}") from None
        tests.append(sweep.preflight(settings, e.paper).get("test"))
    tested.check_one_task(plan.entrants, tests)
    first = plan.entrants[0].settings
    metrics.check(first)
    tracked.check(first)
    with connected(cluster_of(first)), upkeep.alone(store, "comparisons", spec.run, "comparison"):
        # of all searches together; budget.concurrent is of each
        room = readiness.room(cluster_of(first), None, store.uri, first.data_dir)
        begun = Run.of(plan, store, display, room.slots)
        display.started(plan, masked_uri(store.uri), len(begun.rows), room.slots)
        for text in (
            *plan.notes,
            *news,
            *(f"left out: {x.method}: {x.why}" for x in spec.left_out),
            *room.notes,
        ):
            display.note(text)
        submitted.enter(store, spec.run)
        state = drive_fleet(first, begun.fleet(), display, resuming(spec.run, store.uri), spec.run)
    if state == "finished":
        sweep.tell_end(store, list(begun.told.values()), display.note)
    return answered(store, spec.run), state


def texts_of(store: Store, spec: Spec) -> tuple[list[Source], tuple[str, ...]]:
    """The text of each method of the user's, and what is to be said of it: that with which the comparison began.

    Files may change while it runs, or before it is taken up; a method is one text all the same.
    """
    texts: dict[str, Source] = {}
    for name, _ in _sweeps(store, spec.run):
        row = store.table("sweeps", name, columns=["source", "reference"]).to_pylist()[0]
        if row["source"] and row["reference"] not in texts:
            texts[row["reference"]] = Source.from_json(row["source"])
    news = []
    for reference in dict.fromkeys(m.trainable for m in spec.methods if is_reference(m.trainable)):
        begun = texts.get(reference)
        try:
            here = meant(reference)
        except TrainableError:
            here = None
        if begun is None and here is not None:
            texts[reference] = here
        elif begun is not None and (here is None or here.digest != begun.digest):
            what = "has changed since the comparison began" if here else "is gone"
            news.append(f"{reference} {what}; all of the comparison runs the text that it began with")
    return [text for text in texts.values() if text.files or text.pickled], tuple(news)


def stored(store: Store, name: str) -> Spec | None:
    """The comparison called `name` as the store has it, with the most repeats; None if it has none."""
    found = [about["spec"] for _, about in _sweeps(store, name)]
    if not found:
        return None
    return Spec.from_json(json.dumps(max(found, key=lambda spec: spec["seeds"])))


def part_of(store: Store, name: str) -> str | None:
    """The comparison that the sweep called `name` is of; None if it is of none, or cannot be read."""
    try:
        text = store.table("sweeps", name, columns=["comparison"])["comparison"][0].as_py()
    except StoreError:
        return None
    return str(json.loads(text)["run"]) if text else None


def check_alone(store: Store, name: str, verb: str) -> None:
    """UserError where a sweep cannot be dealt with by itself, since it is of a comparison."""
    run = part_of(store, name)
    if run is not None:
        raise UserError(
            f"{name}: is a sweep of the comparison {run}, all of which is under one name: fairsweep {verb} {run}"
        )


def sweeps_of(store: Store, name: str) -> list[str]:
    """The sweeps of the comparison called `name`."""
    return [sweep for sweep, _ in _sweeps(store, name)]


def _sweeps(store: Store, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The sweeps of a comparison, with what their rows say of it. Their names begin with its name."""
    found = []
    for sweep_name in store.sweeps(f"{name}."):
        if store.has(sweep_name):
            text = store.table("sweeps", sweep_name, columns=["comparison"])["comparison"][0].as_py()
            about = json.loads(text) if text else {}
            if about.get("run") == name:
                found.append((sweep_name, about))
    return found


def answered(store: Store, name: str) -> Answer | None:
    """What the rows of a comparison say; None while there are none."""
    rows = store.derived("comparisons", name).to_pylist()
    if not rows:
        return None
    found, spec = answer(rows), stored(store, name)
    if spec is None:
        return found
    expected = len(spec.methods) * len(spec.data) * spec.seeds
    if len(rows) < expected:
        early = f"{len(rows)} of {expected} repeats have ended; the answer may change with the others"
        return replace(found, notes=(early, *found.notes))
    if "scheduler=pbt" in spec.words:
        last = (
            "scheduler=pbt: what a search chose is trained anew under its last values, not along its schedule"
        )
        found = replace(found, notes=(*found.notes, last))
    looks = [*spec.grown, spec.seeds]
    able = [n for n in looks if n * len(spec.data) >= (found.decision.least if found.decision else 0)]
    if len(able) > 1:  # a look at too few repeats for a winner costs nothing
        said = ", ".join(map(str, looks))
        late = f"it grew ({said} searches of each method): with each look a winner by chance gets likelier"
        found = replace(found, notes=(*found.notes, late))
    return replace(found, more=_next(store, spec, found))


def _next(store: Store, spec: Spec, found: Answer) -> str:
    """What a comparison without a winner takes, and the command that adds it; "" where there is nothing to say."""
    decision = found.decision
    if decision is None or decision.winner is not None:
        return ""
    want = decision.least if decision.n < decision.least else decision.likely
    if want is None:
        return ""
    sets = len(found.data_sets)
    many = -(-(want - decision.n) // sets)
    command = resuming(spec.run, store.uri, f"seeds=+{many}")
    spent = sum(s.search_s + s.final_s for s in found.standings) / spec.seeds * many
    more = count(many, "repeat") + (" on each data set" if sets > 1 else "")
    adds = f"{command} adds {more} ({clock(spent)} of training)"
    if decision.n < decision.least:
        return f"{adds}, the fewest that can show a winner"
    if want > HOPELESS * decision.n:
        return (
            f"so small a lead takes about {want:,} repeats to show: choose by what else matters, such as cost"
        )
    return (
        f"about {want} repeats show such a lead in 4 of 5 comparisons, if it is as large as it looks: {adds}"
    )


def unknown(store: Store, name: str) -> UserError:
    """What is said of a comparison that the store has not."""
    known = sorted(set(store.derived("comparisons").column("run").to_pylist()))
    return UserError(
        f"{name}: {store.uri} has no comparison of this name; {hint(name, known) if known else 'none yet'}"
    )


def _check_free(store: Store, plan: Plan) -> None:
    """UserError if the store has sweeps of other origin under the names that the comparison needs."""
    ours, spec = set(sweeps_of(store, plan.spec.run)), plan.spec
    names = [
        plan.name(e, r, part) for e in plan.entrants for r in range(spec.seeds) for part in ("", "final")
    ]
    taken = next((name for name in (spec.run, *names) if name not in ours and store.has(name)), None)
    if taken is not None:
        raise UserError(f"name={spec.run}: {store.uri} has a sweep called {taken}; choose another name")
