"""What a sweep has reported, in a form that is quick to replay: a million reports are some ten thousand stretches.

A *stretch* is the reports of a trial between two moments at which it matters where the trial stands: it comes to a
milestone, or something else is written of its configuration (an end, a promotion, a copy). What all of them come to
is what the first best of them, the first best below the trial's minimum, and the last come to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fairsweep.cluster.engine.trial import Trial

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Stretch:
    """seq: of its last report, which is of step `step`. told: steps and objectives that stand for all that were
    reported, in order (all of them where `whole`). wall_s: seconds of the trial up to its end."""

    trial: Trial
    seq: int
    step: int
    told: list[tuple[int, float]]
    wall_s: float


def stretches(
    reports: pa.Table,
    events: Sequence[Mapping[str, Any]],
    trials: Mapping[str, Trial],
    objective: str,
    mode: str,
    whole: bool = False,
) -> Iterator[Stretch]:
    """Those of `reports` (the table `results`), in the order in which they ended. KeyError for an unknown trial."""
    if reports.num_rows == 0:
        return
    coded = reports.column("trial").combine_chunks().dictionary_encode()
    order = np.argsort(coded.indices.to_numpy(), kind="stable")  # by trial, each in the order of its reports
    code = coded.indices.to_numpy()[order]
    named = [trials[name] for name in coded.dictionary.to_pylist()]
    seq, step = (_numbers(reports, name, np.int64)[order] for name in ("seq", "step"))
    wall, value = (_numbers(reports, name, np.float64)[order] for name in ("wall_s", f"metric.{objective}"))
    first = np.append(True, code[1:] != code[:-1])
    met, since = _met(code, step, named), _written(code, seq, named, events, trials)
    ends = met > np.where(first, _met(code, np.zeros_like(step), named), np.append(0, met[:-1]))
    ends[:-1] |= first[1:] | (since[1:] != since[:-1])
    ends[-1] = True

    starts = np.append(0, np.flatnonzero(ends)[:-1] + 1)
    stretch: Array = np.cumsum(ends) - ends
    known = np.isfinite(value)
    early = step < np.array([t.minimum for t in named])[code]
    loss = value if mode == "min" else -value
    standing = [_first_best(np.where(known & early, loss, np.inf), starts, stretch)]
    standing.append(_first_best(np.where(known & ~early, loss, np.inf), starts, stretch))
    standing.append(np.maximum.reduceat(np.where(known, np.arange(len(value)), -1), starts))
    longest = np.fmax.reduceat(np.nan_to_num(wall, nan=0.0), starts)
    last = np.flatnonzero(ends)
    for k in np.argsort(seq[last], kind="stable").tolist():
        end = int(last[k])
        if whole:
            rows = [i for i in range(int(starts[k]), end + 1) if known[i]]
        else:
            rows = sorted({int(found[k]) for found in standing} - {-1})
        told = [(int(step[i]), float(value[i])) for i in rows]
        yield Stretch(named[code[end]], int(seq[end]), int(step[end]), told, float(longest[k]))


def _numbers(table: pa.Table, name: str, kind: type) -> Array:
    """A column; NaN for what is absent."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return table.column(name).to_numpy().astype(kind, copy=False)


def _met(code: Array, step: Array, named: Sequence[Trial]) -> Array:
    """How many milestones of its trial lie up to each step; of trials with others the counts begin elsewhere."""
    kinds: dict[tuple[int, ...], int] = {}
    kind = np.array([kinds.setdefault(t.milestones, len(kinds)) for t in named], np.int64)
    most = int(step.max()) + 1
    keys = [n * (most + 1) + m for milestones, n in kinds.items() for m in milestones if m < most]
    return np.searchsorted(np.array(sorted(keys), np.int64), kind[code] * (most + 1) + step, side="right")


def _written(
    code: Array,
    seq: Array,
    named: Sequence[Trial],
    events: Sequence[Mapping[str, Any]],
    trials: Mapping[str, Trial],
) -> Array:
    """How many events on its configuration come before each report; the counts begin elsewhere for others."""
    most = max([int(seq.max()), *(event["seq"] for event in events)]) + 1
    about = {
        trials[name].config_id * most + event["seq"]
        for event in events
        for key in ("trial", "parent", "replaces")
        if (name := event.get(key, "")) in trials
    }
    config = np.array([t.config_id for t in named], np.int64)[code]
    return np.searchsorted(np.array(sorted(about), np.int64), config * most + seq)


def _first_best(loss: Array, starts: Array, stretch: Array) -> Array:
    """The first row with the least loss of each stretch; -1 where there is none."""
    least = np.minimum.reduceat(loss, starts)
    rows = np.flatnonzero((loss == least[stretch]) & (loss < np.inf))
    of, first = np.unique(stretch[rows], return_index=True)
    found = np.full(len(starts), -1)
    found[of] = rows[first]
    return found
