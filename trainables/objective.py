"""Which of its metrics a trainable is tuned on, where the sweep says so and not the trainable."""

from __future__ import annotations

from difflib import get_close_matches

from fairsweep.trainables.base import Metric, Paper


def chosen(paper: type[Paper], metric: str | None, mode: str | None) -> type[Paper]:
    """`paper`, tuned on `metric`. ValueError with the field, its value and what would be right.

    A paper's must be one of its validation metrics. What a trainable of the user's reports is known when it is
    reported: any name will do, with a mode.
    """
    if mode is not None and mode not in ("min", "max"):
        raise ValueError(f"mode={mode}: must be min or max")
    declared = {m.name: m for m in paper.metrics}
    name = metric or paper.objective
    known = declared.get(name)
    if known is not None and known.split != "validation":
        raise ValueError(
            f"metric={name}: {paper.slug} measures it on {known.split} data; what is tuned on is validation"
        )
    if paper.open_metrics:
        if known is None and mode is None:
            raise ValueError(
                f"mode is missing: {paper.slug} does not declare {name}; say mode=min or mode=max"
            )
        if (name, mode or (known and known.mode)) == (paper.objective, paper.metric(paper.objective).mode):
            return paper
        way = mode or (known.mode if known else "min")
        others = tuple(m for m in paper.metrics if m.name != name)
        metrics = (Metric(name, way, "validation", known.unit if known else ""), *others)  # type: ignore[arg-type]
        return _tuned_on(paper, name, metrics)
    if known is None:
        options = [m.name for m in paper.metrics if m.split == "validation"]
        close = get_close_matches(name, options, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(options)}"
        raise ValueError(f"metric={name}: {paper.slug} has no such validation metric; {hint}")
    if mode is not None and mode != known.mode:
        raise ValueError(f"mode={mode}: {paper.slug} declares {name} as one where {known.mode} is better")
    return paper if name == paper.objective else _tuned_on(paper, name, paper.metrics)


def _tuned_on(paper: type[Paper], objective: str, metrics: tuple[Metric, ...]) -> type[Paper]:
    members = {
        "objective": objective,
        "metrics": metrics,
        "__module__": paper.__module__,
        "__doc__": paper.__doc__,
    }
    return type(paper.__name__, (paper,), members)
