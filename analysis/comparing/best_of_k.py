"""How good the best of k trials is to be expected: the answer to 'would it have won with a smaller budget?'.

Dodge et al., Show Your Work (EMNLP-IJCNLP 2019, section 3.1) put the empirical distribution in place of the true one,
as if trials were drawn with replacement. Tang et al. (ACL 2020, section 3) show that this is biased, for a maximum
downwards, and give the unbiased estimator: the mean over all subsets of k trials. Dodge et al. (Findings of EMNLP
2021) find it to have the larger variance. Used is the unbiased one, since methods with different numbers of trials
must not differ by an artefact of that; the other is there as `estimator='v'`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fairsweep.analysis.comparing.blocks import sign_of

ESTIMATORS = ("u", "v")


@dataclass(frozen=True)
class BestOfK:
    """For k = 1 to n: the expected best of k trials and the standard deviation of that best, in the values' unit.

    `sd` is the spread of one search of k trials, not the error of `mean`. `failed` trials count as the worst value.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    n: int
    failed: int
    notes: tuple[str, ...]


def best_of_k(values: ArrayLike, mode: str = "max", estimator: str = "u", most: int | None = None) -> BestOfK:
    """Expected best of 1, 2, ... trials (to `most`), from the final validation values of one search.

    The trials must be independent draws: of random search, or the part of a search that is. A failed trial (NaN) has
    cost its share of the budget and counts as the worst value seen. ValueError for no finite value, another `mode` or
    `estimator`, and `most` beyond the trials.
    """
    sign = sign_of(mode)
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator={estimator!r}: must be u (unbiased, Tang et al.) or v (Dodge et al.)")
    x = np.asarray(values, float)
    if x.ndim != 1 or not np.isfinite(x).any():
        raise ValueError(f"values of shape {x.shape}: must be a row with at least one finite value")
    n = len(x)
    most = n if most is None else most
    if not 1 <= most <= n:
        raise ValueError(f"most={most}: must be 1 to {n}, the number of trials")
    good = np.isfinite(x)
    failed = int(n - good.sum())
    x = np.sort(np.where(good, sign * x, (sign * x[good]).min()))
    centre = x.mean()  # squares of large values would swallow the spread
    i = np.arange(1, n + 1)
    below = np.ones(n)  # P(the best of k is at most x[i])
    mean, sd = [], []
    for k in range(1, most + 1):
        below = below * ((i - k + 1).clip(0) / (n - k + 1) if estimator == "u" else i / n)
        weight = np.diff(below, prepend=0.0)
        first = float(weight @ (x - centre))
        mean.append(sign * (centre + first))
        sd.append(float(np.sqrt(weight @ (x - centre - first) ** 2)))
    notes = [f"{failed} of {n} trials failed and count as the worst value"] if failed else []
    if n == 1:
        notes.append("n=1: one trial says nothing of how much another differs")
    return BestOfK(tuple(mean), tuple(sd), n, failed, tuple(notes))
