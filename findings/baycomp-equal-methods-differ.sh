#!/usr/bin/env bash
# baycomp 1.0.3. Two methods with the same scores: the Bayesian signed-rank test without a region of practical equivalence
# gives the left one .77, in whichever order they are given. Expected: .5 and .5. In each draw both sides have the weight
# 1/2 up to the last bits of a sum, and the larger of the two, or the first, takes the draw whole.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check baycomp==1.0.3 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import baycomp, numpy as np

for scores in ([0.9, 0.8, 0.7], list(np.arange(20.0)), [1.0]):
    x, y = np.array(scores), np.array(scores)
    left, rope, right = baycomp.two_on_multiple(x, y)
    print(f"{len(scores)} equal scores: left {left:.3f}, right {right:.3f}")
    assert left > 0.6, "it behaves otherwise now"
PYTHON
