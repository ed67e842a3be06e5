#!/usr/bin/env bash
# pingouin 0.7.0. The effect size CLES that `wilcoxon`, a test of pairs, gives is not of the pairs, though its notes say
# that each value of x is paired to its y counterpart: it compares every x with every y. A method that is better by .01 on
# each of 20 data sets has RBC = 1 and CLES = .525, nearly a tie, and shuffling one side changes RBC and p, and not CLES.
# Expected: 1, the share of data sets where x is higher.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pingouin==0.7.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import pingouin as pg

said = " ".join(pg.wilcoxon.__doc__.replace("`", "").split())
assert "pairs each observation of x to its y counterpart" in said, "documented otherwise now"
y = np.linspace(0.60, 0.98, 20)  # scores of one method on 20 data sets
x = y + 0.01
row = pg.wilcoxon(x, y).iloc[0]
print(f"x above y on {np.mean(x > y):.0%} of the data sets: p = {row.p_val:.1e}, RBC = {row.RBC:.3f}, CLES = {row.CLES:.3f}")
shuffled = pg.wilcoxon(x, np.random.default_rng(0).permutation(y)).iloc[0]
print(f"the same scores, pairs torn apart: p = {shuffled.p_val:.2f}, RBC = {shuffled.RBC:.3f}, CLES = {shuffled.CLES:.3f}")
assert row.RBC == 1 and abs(row.CLES - 0.525) < 1e-9 and shuffled.CLES == row.CLES, "it behaves otherwise now"
PYTHON
