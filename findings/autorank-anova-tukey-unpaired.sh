#!/usr/bin/env bash
# autorank 1.3.0. For more than two methods with normal scores of one spread it runs a repeated-measures ANOVA, which
# knows that scores of one data set belong together, and then Tukey's HSD of independent groups, which does not: four
# methods on 20 data sets, each better than the one before by 1 of 100, p = 4e-26, and the report says that no two of them
# differ, while paired t-tests of all six pairs, Holm-corrected, have p < .0001 and its own Friedman and Nemenyi tell the
# ends apart. The intervals are those of alpha = .05 whatever `alpha` is. Expected: a post-hoc test of pairs, at `alpha`.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check autorank==1.3.0 scipy==1.17.1 statsmodels==0.15.0
cd "$folder"
MPLBACKEND=agg "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib, io
from itertools import combinations

import numpy as np, pandas as pd
from autorank import autorank, create_report
from scipy import stats
from statsmodels.stats.multitest import multipletests

rng = np.random.default_rng(0)
difficulty = rng.normal(75, 10, size=(20, 1))  # data sets differ by far more than methods
scores = pd.DataFrame(difficulty + [0, 1, 2, 3] + rng.normal(scale=0.5, size=(20, 4)), columns=list("abcd"))


def ranked(**how):
    report = io.StringIO()
    with contextlib.redirect_stdout(report):  # they print tables and texts
        found = autorank(scores, **how)
        create_report(found)
    return found, report.getvalue()


found, report = ranked(alpha=0.05)
low, high = found.rankdf.ci_lower.astype(float), found.rankdf.ci_upper.astype(float)
print(f"autorank: {found.omnibus} p = {found.pvalue:.0e}, {found.posthoc}; intervals that all overlap: {low.max() < high.min()}")
print("  it reports:", next(line for line in report.splitlines() if "no significant differences within" in line))
pairs = list(combinations("abcd", 2))
holm = multipletests([stats.ttest_rel(scores[a], scores[b]).pvalue for a, b in pairs], method="holm")[1]
print(f"paired t-tests, Holm: largest p of {len(pairs)} is {holm.max():.1e}")
strict, _ = ranked(alpha=0.001)
width, strict_width = (high - low).iloc[0], float((strict.rankdf.ci_upper - strict.rankdf.ci_lower).iloc[0])
print(f"width of an interval at alpha = .05: {width:.3f}, at .001: {strict_width:.3f}")
ranks, _ = ranked(alpha=0.05, force_mode="nonparametric")
apart = float(ranks.rankdf.meanrank.max() - ranks.rankdf.meanrank.min())
print(f"its own {ranks.omnibus} and {ranks.posthoc}: ranks of the ends {apart:.2f} apart, critical {ranks.cd:.2f}")
assert (found.omnibus, found.posthoc) == ("anova", "tukeyhsd") and found.pvalue < 1e-20
assert low.max() < high.min() and "within the following groups: a, b, c, and d." in report, "it behaves otherwise now"
assert holm.max() < 1e-4 and apart > ranks.cd and abs(width - strict_width) < 1e-9, "it behaves otherwise now"
PYTHON
