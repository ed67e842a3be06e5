"""The figures of a sweep, as `sweep.plot.<figure>()` gives them: what the store has, drawn by `analysis.plots`."""

from __future__ import annotations

import contextlib
import json
from functools import cached_property
from typing import Any

import pyarrow as pa

from fairsweep.analysis.plots import search, slices, space, trade_offs
from fairsweep.analysis.plots.dimensions import Dimension, dimensions
from fairsweep.analysis.plots.figure import Figure
from fairsweep.analysis.plots.parts import sentence
from fairsweep.analysis.store import Store
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.best import best_of, front_of
from fairsweep.cluster.jobs.importance import Measure, Said, of_sweep
from fairsweep.search_spaces.architectures.catalog import space_of_id
from fairsweep.search_spaces.architectures.graphs import graph_of
from fairsweep.search_spaces.space import Space, SpaceError

MANY = 3000  # trials, from which on importance is that of PED-ANOVA
MOST = 12  # parameters that are drawn side by side
COSTS = {"params": "parameters", "flops": "FLOPs", "latency_ms": "latency in ms"}
FROM_SCORE, ALONE = "score", "alone"
SCORES = {FROM_SCORE: "inherited score", ALONE: "accuracy alone"}


class Pictures:
    """Figures of one sweep. Each method reads the store once; UserError, in one line, where there is "
    "nothing to show."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.row: dict[str, Any] = store.table("sweeps", name).to_pylist()[0]
        self.objective, self.mode = self.row["objective"], self.row["mode"]
        self._known: dict[str, Said] = {}

    def __repr__(self) -> str:
        names = [n for n in dir(type(self)) if not n.startswith("_") and callable(getattr(type(self), n))]
        return f"<figures of {self.name}: {', '.join(n for n in names if n not in ('dimensions',))}>"

    @cached_property
    def trials(self) -> pa.Table:
        """The trials, in the order of their numbers."""
        found = self.store.table("trials", self.name).sort_by("number")
        if not found.num_rows:
            raise UserError(f"{self.name}: has no trials yet: there is nothing to draw")
        return found

    @cached_property
    def best(self) -> dict[str, Any] | None:
        """The best configuration, or the front; see `best_of`."""
        return best_of(self.store, self.name)

    @cached_property
    def space(self) -> Space | None:
        """What was searched; None for what is no search over hyperparameters."""
        if not self.row["space"]:
            return None
        try:
            return Space.from_yaml(self.row["space"], source=self.name, papers=False)
        except (SpaceError, TypeError):
            return None

    @cached_property
    def architectures(self) -> list[dict[str, Any]]:
        """The networks of a search for one, the best first."""
        rows = self.store.derived("architectures", self.name).to_pylist()
        return sorted(rows, key=lambda r: (-(r["alone"] or -1.0), -(r["score"] or -1.0), r["number"] or 0))

    def dimensions(self) -> list[Dimension]:
        """The parameters that the sweep has tried in several values, as axes."""
        if self.space is None:
            return dimensions(self.trials)
        log = [n for n, p in self.space.parameters.items() if p.log]
        names = [n for n, p in self.space.parameters.items() if not p.fixed]
        found = {d.name: d for d in dimensions(self.trials, names, log)}
        return [found[n] for n in names if n in found]

    def anytime(self, by: str = "trials") -> Figure:
        """The best configuration so far against "trials" or "cost"."""
        return search.anytime({self.name: self.trials}, self.objective, self.mode, by)

    def history(self) -> Figure:
        """Every trial."""
        return search.history(self.trials, self.objective, self.mode)

    def learning_curves(self, metric: str | None = None) -> Figure:
        """A metric (None: the objective) against the step; the best configuration stands out."""
        wanted = metric or self.objective
        known = [c.removeprefix("metric.") for c in self.trials.column_names if c.startswith("metric.")]
        if wanted not in known:
            raise UserError(f"metric={wanted}: {self.name} has {', '.join(known)}")
        columns = ["trial", "step", f"metric.{wanted}"]
        results = self.store.table("results", self.name, columns=columns)
        best = None if self.row.get("objectives") else self.best
        mode = self.mode if wanted == self.objective else "min" if "loss" in wanted else "max"
        return search.learning_curves(results, self.trials, wanted, mode, best["trials"] if best else ())

    def parallel(self) -> Figure:
        """Parallel coordinates."""
        return space.parallel(self.trials, self._some()[:MOST], self.objective, self.mode)

    def slices(self) -> list[Figure]:
        """The objective against each parameter."""
        return slices.slices(self.trials, self._some()[:MOST], self.objective, self.mode)

    def slice(self, parameter: str) -> Figure:
        """The objective against one parameter."""
        return slices.slices(self.trials, [self._one(parameter)], self.objective, self.mode)[0]

    def contour(self, first: str | None = None, second: str | None = None) -> Figure:
        """Two parameters together; those that are not named are the most important ones."""
        dims = self._some()
        if len(dims) < 2:
            raise UserError(f"{self.name}: has tried {len(dims)} parameter in several values; two are needed")
        ranked = self._ranked() if None in (first, second) else []
        order = [d.name for d in sorted(dims, key=lambda d: _at(ranked, d.name))]
        chosen = [n for n in (first, second) if n is not None]
        chosen += [n for n in order if n not in chosen][: 2 - len(chosen)]
        return space.contour(
            self.trials, self._one(chosen[0]), self._one(chosen[1]), self.objective, self.mode
        )

    def importance(self, objective: str | None = None) -> Figure:
        """How much of an objective (None: the first) follows from which parameter. UserError: too little is known."""
        said = self._importance(objective or self.objective)
        notes = " ".join(map(sentence, said.notes))
        return slices.importance(said.rows, said.sentence, notes, said.objective)

    def front(self, first: str | None = None, second: str | None = None) -> Figure:
        """Two objectives of a sweep with several, or score against a cost of a search for networks."""
        if self.architectures:
            return self._networks(first, second)
        modes = json.loads(self.row["objectives"] or "{}")
        found = front_of(self.store, self.name)
        names = (first or next(iter(modes)), second or list(modes)[1])
        for name in names:
            if name not in modes:
                raise UserError(f"{name}: {self.name} has the objectives {', '.join(modes)}")
        rows = []
        for p in found.points:
            row: dict[str, Any] = {"label": str(p.config_id), "on_front": p.on_front}
            for side, name in zip("xy", names, strict=True):
                low, high = p.values[name].ci95 or (None, None)
                row |= {side: p.values[name].mean, f"{side}_low": low, f"{side}_high": high}
            rows.append(row)
        caption = "Configurations count once all their seeds are complete."
        return trade_offs.front(
            rows, names, (modes[names[0]], modes[names[1]]), caption=caption, whole=len(modes) == 2
        )

    def costs(self) -> list[str]:
        """The costs that are known of the networks of a search."""
        return [c for c in COSTS if any(r[c] is not None for r in self.architectures)]

    def _networks(self, cost: str | None, score: str | None) -> Figure:
        known = self.costs()
        cost, score = cost or known[0], score or FROM_SCORE
        if cost not in known or score not in (FROM_SCORE, ALONE):
            raise UserError(f"front({cost}, {score}): must be one of {', '.join(known)}, and score or alone")
        from fairsweep.analysis.fronts import pareto

        having = [r for r in self.architectures if r[score] is not None and r[cost] is not None]
        on = pareto([(r[cost], r[score]) for r in having], ("min", "max"))
        ends = ("alone_ci_low", "alone_ci_high") if score == ALONE else (None, None)
        rows = [
            {"label": r["architecture"], "on_front": o, "x": r[cost], "y": r[score]}
            | {side: r[end] for side, end in zip(("y_low", "y_high"), ends, strict=True) if end}
            for r, o in zip(having, on, strict=True)
        ]
        by = next((r["scored_by"] for r in having if r["scored_by"]), None)
        said = (
            "Accuracy of the network trained alone." if score == ALONE else f"Scored by {by}." if by else ""
        )
        names = (COSTS[cost], SCORES[score])
        return trade_offs.front(rows, names, ("min", "max"), what="network", caption=said)

    def architecture(self, place: int = 0) -> Figure:
        """The drawing of a network of a search, by its place: 0 is the best."""
        if not 0 <= place < len(self.architectures):
            raise UserError(
                f"place={place}: {self.name} has {len(self.architectures)} networks, the best is 0"
            )
        row = self.architectures[place]
        try:
            found = space_of_id(row["space"])
            graph = graph_of(found, found.parse(row["architecture"]))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.name}: there is no drawing of {row['architecture']}") from None
        return trade_offs.architecture(graph.nodes, graph.edges, row, place)

    def _importance(self, objective: str) -> Said:
        if self.space is None:
            raise UserError(f"{self.name}: is no sweep over hyperparameters")
        if objective not in self._known:
            # fANOVA of 10,000 trials takes as long as all the rest of a report; PED-ANOVA a quarter of that.
            method = "fanova" if self.trials.num_rows <= MANY else "ped_anova"
            found = of_sweep(self.store, self.name, measure=Measure(method), objective=objective)
            self._known[objective] = found[0]
        return self._known[objective]

    def _ranked(self) -> list[str]:
        """The parameters by importance, as far as that can be said."""
        with contextlib.suppress(UserError):
            return [row["parameter"] for row in self._importance(self.objective).rows]
        return []

    def _some(self) -> list[Dimension]:
        found = self.dimensions()
        if not found:
            raise UserError(
                f"{self.name}: has tried no parameter in several values: there is nothing to draw"
            )
        return found

    def _one(self, parameter: str) -> Dimension:
        found = {d.name: d for d in self._some()}
        if parameter not in found:
            raise UserError(
                f"parameter={parameter}: {self.name} has tried {', '.join(found)} in several values"
            )
        return found[parameter]


def _at(ranked: list[str], name: str) -> int:
    return ranked.index(name) if name in ranked else len(ranked)
