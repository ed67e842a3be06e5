"""The test metric that a comparison compares: what it is, and who has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fairsweep.cluster.checks import hint
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.comparing.entrants import Entrant
from fairsweep.trainables.base import Paper
from fairsweep.trainables.own.source import is_reference


def compared(entrants: Sequence[Entrant], wanted: str | None) -> tuple[str, str]:
    """The test metric that all methods have, and its mode. UserError where there is none, or which is not clear."""
    for e in entrants:
        if e.paper.metric(e.paper.objective).split == "test":
            raise UserError(
                f"metric={e.paper.objective}: is measured on test data; a method is chosen by a validation metric"
            )
    first = entrants[0].paper
    wanted = wanted or counterpart(first, [e.data.name for e in entrants if e.paper is first])
    modes: dict[str, str] = {}
    for e in entrants:
        why = lacking(e.paper, wanted)
        if why:
            raise UserError(f"on={wanted}: {e.method.label} {why}")
        modes.setdefault(e.paper.metric(wanted).mode, e.method.label)
    if len(modes) > 1:
        raise UserError(
            f"on={wanted}: is to be large for {modes['max']} and small for {modes['min']}; compare a metric that means"
            " the same for all"
        )
    return wanted, next(iter(modes))


def lacking(paper: type[Paper], wanted: str) -> str:
    """Why a paper cannot be compared by the metric `wanted`, to be read after its name; "" if it can."""
    known = {m.name: m for m in paper.metrics}
    tests = [m.name for m in paper.metrics if m.split == "test"]
    if wanted not in known:
        return f"has no such metric; {hint(wanted, tests) if tests else 'it has none on test data'}"
    if wanted not in tests:
        return f"measures it on {known[wanted].split} data; a test metric is compared"
    return ""


def most_have(
    papers: Sequence[type[Paper]], data: Sequence[str], wanted: str | None = None
) -> tuple[str, str] | None:
    """The test metric, and its mode, that goes with what most papers are tuned on; None if no paper has one.

    wanted: the metric that is asked for; its mode is then that of most papers.
    """
    found = []
    for paper in papers:
        if wanted is not None and lacking(paper, wanted):
            continue
        try:
            name = wanted or counterpart(paper, data)
        except UserError:
            continue
        found.append((name, paper.metric(name).mode))
    return Counter(found).most_common(1)[0][0] if found else None


def counterpart(paper: type[Paper], data: Sequence[str]) -> str:
    """The test metric that goes with the objective on the data sets, or the only one. UserError if none does."""
    tests = [m.name for m in paper.metrics if m.split == "test"]
    for word in ("validation_", "valid_", "val_", "dev_"):
        stem = paper.objective.removeprefix(word)
        if stem != paper.objective and f"test_{stem}" in tests:
            return f"test_{stem}"
    if len(tests) == 1:
        return tests[0]
    told = (
        f"it has {', '.join(tests)}"
        if tests
        else "it declares none: test=[NAME] of a trainable of yours does"
    )
    own = {name: paper.tested_on(name) for name in data}
    found = {metric for metric in own.values() if metric is not None}
    if len(found) == 1:
        return found.pop()
    if found:
        told = f"{told}; its own are {', '.join(f'{metric} on {name}' for name, metric in own.items() if metric)}"
    raise UserError(f"on is missing: on=NAME says which test metric of {paper.slug} is compared; {told}")


def check_one_task(entrants: Sequence[Entrant], tests: Sequence[str | None]) -> None:
    """UserError where papers of different tasks are tested on different examples of data that have one name.

    tests: a digest of the test part of each entrant, None where it cannot say. Papers of one task may well differ in
    it, by a split of their own, and trainables of one's own have no task: the answer then has a note.
    """
    first: dict[str, tuple[Entrant, str]] = {}
    for e, test in zip(entrants, tests, strict=True):
        if test is None or is_reference(e.method.trainable):
            continue
        one, other = first.setdefault(e.data.label, (e, test))
        if one.paper.task != e.paper.task and other != test:
            raise UserError(
                f"data={e.data.label}: {one.method.label} is of {one.paper.task} and {e.method.label} of"
                f" {e.paper.task}: they are tested on different examples, whose scores are no comparison"
            )
