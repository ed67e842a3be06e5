#!/usr/bin/env bash
# torch 2.13.0. load_state_dict(assign=True) of a network with tied weights makes two parameters of one: both names then
# hold one storage, each with a gradient and an optimiser state of its own, so an optimiser steps twice on it and Adam
# reaches other weights than without assign. No warning, equal outputs before the step. Expected: what was tied stays tied.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn

def tied():
    torch.manual_seed(0)
    net = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
    net["head"].weight = net["embedding"].weight
    return net

torch.save(tied().state_dict(), "weights.pt")
after = {}
for assign in (False, True):
    net = tied()
    net.load_state_dict(torch.load("weights.pt", weights_only=True), assign=assign)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    net["head"](net["embedding"](torch.tensor([1, 2]))).square().sum().backward()
    optimiser.step()
    after[assign] = net["head"].weight.detach()
    print(f"assign={assign}: {len(list(net.parameters()))} parameters, weight[1] after a step {after[assign][1].tolist()}")
apart = float((after[False] - after[True]).abs().max())
print(f"they differ by {apart:.3f}")
assert len(list(tied().parameters())) == 1 and len(list(net.parameters())) == 2 and apart > 0.05, "it behaves otherwise now"
PYTHON
