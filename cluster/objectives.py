"""The settings `metric`, `mode` and `constraints`: what is tuned on, one metric or several, and within which limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from fairsweep.cluster.checks import hint
from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.algorithms import SEVERAL
from fairsweep.search_spaces.space import SpaceError
from fairsweep.trainables import catalog, objective
from fairsweep.trainables.base import Paper

SIDES = ("max", "min")


def tuned(raw: Mapping[str, Any]) -> type[Paper]:
    """The class that a configuration tunes, on the objective that it says. UserError, UnknownPaper.

    Of several objectives it is the trainable's own, if that is among them, else the first: a trial's model is the one
    with the best value of it.
    """
    named = _named(raw)
    first: str | None = named[0][0] if named else None
    mode = named[0][1] if named else None
    try:
        paper = catalog.get(raw["trainable"], said(raw))
        lead = next((pair for pair in named if pair[0] == paper.objective), (first, mode))
        for limited in _limits(raw):
            if paper.open_metrics and limited not in {m.name for m in paper.metrics}:
                own = paper.objective
                paper = objective.chosen(objective.chosen(paper, limited, "min"), own, None)
        for name, way in [*(pair for pair in named if pair != lead), lead]:
            paper = objective.chosen(paper, name, way)
        return paper
    except (SpaceError, ValueError) as error:
        raise UserError(str(error)) from None


def said(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a trainable of the user's is told of `metric` and `mode`: the first; all, if they are several. UserError."""
    named = _named(raw)
    found: dict[str, Any] = dict(zip(("metric", "mode"), named[0], strict=True)) if named else {}
    if len(named) > 1:
        found |= {"metrics": [name for name, _ in named], "modes": [mode for _, mode in named]}
    return found


def led(raw: Mapping[str, Any]) -> dict[str, str | None]:
    """The settings `metric` and `mode` of one objective that tune the same class as those of several do."""
    named = _named(raw)
    if len(named) < 2:  # one may stand in a list, too
        return dict(zip(("metric", "mode"), named[0] if named else (None, None), strict=True))
    paper = tuned(raw)
    return {"metric": paper.objective, "mode": paper.metric(paper.objective).mode}


def aims(raw: Mapping[str, Any], paper: type[Paper]) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """Objective -> min or max, and metric -> its limits; both empty for a configuration with one objective."""
    named = _named(raw)
    if len(named) < 2:
        return {}, {}
    return {name: paper.metric(name).mode for name, _ in named}, _limits(raw)


def check(raw: Mapping[str, Any], paper: type[Paper]) -> None:
    """UserError where several objectives do not go with the other settings."""
    modes, limits = aims(raw, paper)
    if not modes:
        if raw.get("constraints"):
            raise UserError(
                f"constraints={raw['constraints']}: need several objectives, such as metric=[a,b]"
            )
        if raw["search"]["name"] == "nsga2":
            raise UserError(
                "search=nsga2: is for several objectives, such as metric=[a,b]; with one take tpe"
            )
        return
    search, early = raw["search"]["name"], raw["scheduler"]["name"]
    if search not in SEVERAL:
        raise UserError(f"search={search}: tunes on one metric; with several take {' or '.join(SEVERAL)}")
    if early != "none":
        raise UserError(
            f"scheduler={early}: ranks trials by one metric; with metric=[{','.join(modes)}] it must be none"
        )
    known = [m.name for m in paper.metrics if m.split != "test"]
    for name in limits:
        if name not in known:
            raise UserError(
                f"constraints.{name}: {paper.slug} has no such metric but on test data; {hint(name, known)}"
            )


def _named(raw: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """The metrics that are tuned on with their modes, as far as the configuration says them."""
    metric, mode = raw.get("metric"), raw.get("mode")
    if metric is None:
        if _listed(mode):
            raise UserError(f"mode={mode}: is for several metrics, and metric names none")
        return [] if mode is None else [(None, mode)]  # type: ignore[list-item]
    if not _listed(metric):
        if _listed(mode):
            raise UserError(f"mode={list(mode)}: is for several metrics, and metric={metric} is one")
        return [(metric, mode)]
    names = list(metric)
    if not names or any(not isinstance(name, str) for name in names):
        raise UserError(f"metric={names}: must be the name of a metric, or several of them, such as [a,b]")
    twice = next((name for k, name in enumerate(names) if name in names[:k]), None)
    if twice is not None:
        raise UserError(f"metric={names}: {twice} is named twice")
    modes = list(mode) if _listed(mode) else [mode] * len(names)
    if len(modes) != len(names):
        raise UserError(f"mode={modes}: must be one word for all, or {len(names)} of them, one a metric")
    return list(zip(names, modes, strict=True))


def _listed(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _limits(raw: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Metric -> `min` and `max` that it must keep. UserError."""
    given = raw.get("constraints") or {}
    example = "constraints={latency: {max: 5}}"
    if not isinstance(given, Mapping):
        raise UserError(f"constraints={given}: must map metrics to limits, such as {example}")
    found: dict[str, dict[str, float]] = {}
    for name, limits in given.items():
        if not isinstance(limits, Mapping) or not limits or set(limits) - set(SIDES):
            raise UserError(f"constraints.{name}={limits}: must say max, min or both, such as {example}")
        for side, limit in limits.items():
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
                raise UserError(f"constraints.{name}.{side}={limit}: must be a number")
        if limits.get("min", -math.inf) > limits.get("max", math.inf):
            raise UserError(f"constraints.{name}={dict(limits)}: min is above max")
        found[str(name)] = {side: float(limit) for side, limit in limits.items()}
    return found
