"""Is there a winner? The rule of a comparison, fixed before any run.

A method wins if it is better than each other one, significantly at 5 % after Holm's correction over all pairs, in a
permutation test that turns the signs of differences within blocks (`paired_tests`). So in at most 5 % of comparisons a
winner is declared over a method that is as good, whichever others are in it.

A block is one *repeat* on one data set: a whole search and the training of what it chose. Several trainings of one
choice are no repeats: they share the choice, and with it its luck (Bouthillier et al., MLSys 2021, section 2).
Average them before they come here. The answer is about these data sets; whether it holds on others is for `ranks`
with a block a data set. Differences are divided by the standard deviation of all values on their data set, so that
none decides by its unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from fairsweep.analysis.comparing.blocks import ALPHA, blocks_of, differences, fewest, sign_of
from fairsweep.analysis.comparing.intervals import LEVEL
from fairsweep.analysis.comparing.paired_tests import holm, turned

DRAWS = 2000
POWER = 0.8  # how often a lead of the size seen is found with as many blocks as `likely` says


@dataclass(frozen=True)
class Gap:
    """a - b in the values' unit, the mean over data sets, with its interval over repeats; p alone and after Holm.

    `ci95` is None where a data set has one repeat. `effect`: in standard deviations, larger where a is better.
    """

    a: str
    b: str
    difference: float
    ci95: tuple[float, float] | None
    effect: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Decision:
    """`winner` is None where no method is better than each other one; `sentence` says the answer in words.

    `least`: blocks without which no difference can be significant. `likely`: where there are as many and nobody wins,
    blocks that would show the leader's lead in 4 of 5 comparisons, if it is as large as it looks; None where there is
    a winner, or no lead.
    """

    winner: str | None
    sentence: str
    gaps: tuple[Gap, ...]
    n: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    least: int = 0
    likely: int | None = None


def decide(
    scores: ArrayLike,
    mode: str = "max",
    methods: Sequence[str] | None = None,
    data_sets: Sequence[str] | None = None,
    alpha: float = ALPHA,
    draws: int = 19_999,
    seed: int = 0,
) -> Decision:
    """Judges `scores` (methods, data sets, repeats) by the rule above; the i-th repeats of all methods belong together.

    A repeat in which a method failed (NaN) is left out for all and named. ValueError for another shape and no repeat
    that is complete.
    """
    sign = sign_of(mode)
    x = np.asarray(scores, float)
    if x.ndim != 3:
        raise ValueError(f"scores of shape {x.shape}: must be (methods, data sets, repeats)")
    sets = tuple(str(i) for i in range(x.shape[1])) if data_sets is None else tuple(data_sets)
    if len(sets) != x.shape[1]:
        raise ValueError(f"data_sets={list(sets)}: must be {x.shape[1]} names")
    where = np.repeat(np.arange(x.shape[1]), x.shape[2])
    labels = [f"{sets[d]}, repeat {r}" for d in range(x.shape[1]) for r in range(x.shape[2])]
    found = blocks_of(x.reshape(len(x), -1).T, methods, labels)
    place = {label: int(d) for label, d in zip(labels, where, strict=True)}
    group = np.array([place[label] for label in found.blocks])
    # The spread of all values of a data set is the same whichever way signs are turned: the test stays exact.
    scale = {int(d): _spread(found.values[group == d]) for d in np.unique(group)}
    unit = np.array([scale[d] for d in group])
    share = np.array([1.0 / (group == d).sum() for d in group]) / len(scale)  # each data set weighs the same
    index = [(i, j) for i in range(x.shape[0]) for j in range(i + 1, x.shape[0])]
    raw = np.array([differences(found.values[:, i], found.values[:, j]) for i, j in index])
    scaled = sign * raw / unit * share
    moved = (raw != 0).any(0)
    p, _ = turned(scaled[:, moved], draws, seed)
    p_holm = holm(p)
    ends = _ends(raw, group, seed)
    gaps = [
        Gap(
            found.methods[i],
            found.methods[j],
            float(raw[at] @ share),
            None if ends is None else (float(ends[0][at]), float(ends[1][at])),
            float(scaled[at].sum()),
            float(p[at]),
            float(p_holm[at]),
        )
        for at, (i, j) in enumerate(index)
    ]
    over = {name: [_seen_from(name, gap) for gap in gaps if name in (gap.a, gap.b)] for name in found.methods}
    winner = next(
        (name for name, mine in over.items() if all(g.effect > 0 and g.p_holm <= alpha for g in mine)), None
    )
    n, least, likely = len(found.blocks), fewest(len(index), alpha), None
    notes = []
    if found.left_out:
        notes.append(
            f"{len(found.left_out)} of {n + len(found.left_out)} repeats are left out for all, since a method has no"
            " score there; a method that fails where it is hard gains by that"
        )
    gone = [sets[d] for d in range(len(sets)) if d not in scale]
    if gone:
        notes.append(f"no complete repeat on {', '.join(gone)}: nothing is said of it")
    if ends is None:
        notes.append("a data set has one repeat: how far the difference is off cannot be said")
    on = _where(n, len(scale))
    if winner is None:
        leader = max(over, key=lambda name: min(gap.effect for gap in over[name]))
        rival = max(over[leader], key=lambda gap: (gap.p_holm, -gap.effect))
        sentence = _open(leader, over[leader], rival, on, sign, alpha, least if n < least else 0)
        if n >= least:
            at = next(i for i, gap in enumerate(gaps) if {gap.a, gap.b} == {rival.a, rival.b})
            likely = _likely(scaled[at] / share, n, len(index), alpha)
    else:
        sentence = _won(winner, over[winner], on, sign)
    return Decision(winner, sentence, tuple(gaps), n, found.left_out, tuple(notes), least, likely)


def _spread(values: np.ndarray) -> float:
    """Standard deviation, without overflow of the squares of a diverged loss; 1 where nothing differs."""
    size = float(np.abs(values).max()) or 1.0
    return size * float((values / size).std()) or 1.0


def _seen_from(name: str, gap: Gap) -> Gap:
    """`gap` with `name` as its a."""
    if gap.a == name:
        return gap
    ends = None if gap.ci95 is None else (-gap.ci95[1], -gap.ci95[0])
    return replace(gap, a=gap.b, b=gap.a, difference=-gap.difference, ci95=ends, effect=-gap.effect)


def _ends(raw: np.ndarray, group: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Percentile interval of the mean over data sets of each row of `raw` (pairs, blocks), drawn within data sets."""
    sets, counts = np.unique(group, return_counts=True)
    if counts.min() < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = np.zeros((DRAWS, len(raw)))
    for d, n in zip(sets, counts, strict=True):
        weight = rng.multinomial(n, np.full(n, 1 / n), DRAWS) / n
        drawn += weight @ raw[:, group == d].T / len(sets)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def _likely(scaled: np.ndarray, n: int, pairs: int, alpha: float) -> int | None:
    """Blocks in all that would show the mean of `scaled` (n differences) in `POWER` of comparisons; normal theory."""
    from scipy.stats import norm

    lead, spread = abs(float(scaled.mean())), float(scaled.std(ddof=1)) if n > 1 else 0.0
    if lead <= 1e-12 * max(1.0, spread):
        return None
    need = ((norm.ppf(1 - alpha / pairs / 2) + norm.ppf(POWER)) * spread / lead) ** 2
    return max(n + 1, math.ceil(need)) if need < 1e9 else None


def _where(n: int, sets: int) -> str:
    repeats = f"{n} repeat{'s' if n != 1 else ''}"
    return f"in {repeats} on {sets} data sets" if sets > 1 else f"in {repeats} on one data set"


def _by(gap: Gap, sign: float) -> str:
    """How far a is ahead of b, in the values' unit where that says so, too."""
    if gap.difference * sign <= 0:  # data sets of very different scales
        return f"by {gap.effect:.2g} standard deviations"
    ends = ""
    if gap.ci95 is not None:
        low, high = sorted(sign * end for end in gap.ci95)
        ends = f" (95 % interval {low:.3g} to {high:.3g})"
    return f"by {sign * gap.difference:.3g}{ends}"


def _won(winner: str, gaps: Sequence[Gap], on: str, sign: float) -> str:
    near = min(gaps, key=lambda gap: gap.effect)
    worst = max(gap.p_holm for gap in gaps)
    lead = (
        f"{winner} is best: ahead of {near.b}{', the next,' if len(gaps) > 1 else ''} {_by(near, sign)} {on}"
    )
    often = f"{max(0.01, 100 * worst):.2g} %"
    return f"{lead}; chance alone gives as clear a lead in at most {often} of comparisons"


def _open(
    leader: str, gaps: Sequence[Gap], rival: Gap, on: str, sign: float, alpha: float, least: int
) -> str:
    """What is said where nobody wins. least: blocks that anything to be significant takes, if there are fewer."""
    if rival.effect <= 0:
        return f"no winner: {leader} and {rival.b} are equal {on}"
    lead = f"no winner: {leader} is ahead of {rival.b} {_by(rival, sign)} {on}"
    if least:
        return f"{lead}, too few for any difference of {_methods(len(gaps) + 1)} to count; {least} are needed"
    beaten = [gap.b for gap in gaps if gap.p_holm <= alpha]
    also = f"; {leader} is better than {', '.join(beaten)}" if beaten else ""
    return f"{lead}, which may be chance (p = {rival.p_holm:.2g}; {alpha:.2g} or less would count){also}"


def _methods(many: int) -> str:
    return "two methods" if many == 2 else f"{many} methods"
