#!/usr/bin/env bash
# Torch-Pruning 1.6.1, torch 2.13.0. BasePruner cuts a layer to int(channels * (1 - ratio)) in floating point, and a layer
# that would be left with none stays whole: of 10 channels a ratio of .8 leaves 1 (10 * (1 - .8) is 1.9999...), and .9
# leaves all 10 (.9999... becomes 0, and nothing is cut). Expected: 2 and 1.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torch-pruning==1.6.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch, torch_pruning
from torch import nn

left = {}
for ratio in (0.5, 0.7, 0.8, 0.9):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    pruner = torch_pruning.pruner.BasePruner(
        net, torch.randn(2, 4), importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=ratio, ignored_layers=[net[2]],
    )
    pruner.step()
    left[ratio] = net[0].out_features
    print(f"ratio {ratio}: {left[ratio]} of 10 channels are left")
assert left == {0.5: 5, 0.7: 3, 0.8: 1, 0.9: 10}, "it behaves otherwise now"
PYTHON
