#!/usr/bin/env bash
# POT 0.9.7.post1. Entropic Gromov-Wasserstein of two graphs that differ, with a small epsilon: the plan that comes back is
# zero everywhere, moves no mass, and the distance in the log is 0, that of equal graphs; NumPy warns of a division, POT
# does not. The inner Sinkhorn is the one that underflows, and cannot be changed: parameters are said to be passed to
# `ot.sinkhorn`, whose `method` has one in logarithms, but `method=` is a TypeError, since it is given already. Expected:
# the plan of the Sinkhorn in logarithms, or an error.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check POT==0.9.7.post1 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import ot

rng = np.random.default_rng(0)
first, second = (np.triu(rng.random((8, 8)), 1) for _ in range(2))
first, second, mass = first + first.T, second + second.T, np.full(8, 1 / 8)
_, exact = ot.gromov.gromov_wasserstein(first, second, mass, mass, "square_loss", log=True)
print(f"exact: distance {exact['gw_dist']:.4f}")
found = {}
for epsilon in (1e-2, 1e-4):
    plan, log = ot.gromov.entropic_gromov_wasserstein(first, second, mass, mass, "square_loss", epsilon=epsilon, log=True)
    found[epsilon] = plan.sum(), log["gw_dist"]
    print(f"epsilon {epsilon:g}: distance {log['gw_dist']:.4f}, mass moved {plan.sum():.2f}")
try:
    ot.gromov.entropic_gromov_wasserstein(first, second, mass, mass, "square_loss", epsilon=1e-4, method="sinkhorn_log")
    said = "accepted"
except TypeError as error:
    said = f"TypeError: {error}"
print(f"method='sinkhorn_log': {said}")
assert exact["gw_dist"] > 0.01 and found[1e-2][0] > 0.99, "it behaves otherwise now"
assert found[1e-4] == (0, 0) and "multiple values" in said, "it behaves otherwise now"
PYTHON
