#!/usr/bin/env bash
# torch 2.13.0. torch.utils.flop_counter.FlopCounterMode on the CPU counts 0 for scaled_dot_product_attention (its CPU
# kernel has no formula), 0 for nn.LSTM, and in eval mode under no_grad 0 for the whole of nn.TransformerEncoderLayer (its
# fused path has none); in train mode the same layer has the FLOPs of its matrices. No warning. Expected: the arithmetic of
# the matrix products, or the name of what was not counted.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

def count(run):
    with warnings.catch_warnings(record=True) as said, torch.no_grad(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter("always")
        run()
    return counter.get_total_flops(), len(said)

q = torch.randn(2, 4, 16, 8)
layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
x = torch.randn(2, 16, 32)
lstm = nn.LSTM(32, 32, batch_first=True)
found = {
    "attention": count(lambda: F.scaled_dot_product_attention(q, q, q)),
    "LSTM": count(lambda: lstm(x)),
    "encoder layer, eval": count(lambda: layer.eval()(x)),
    "encoder layer, train": count(lambda: layer.train()(x)),
}
for name, (flops, said) in found.items():
    print(f"{name:21} {flops:8} FLOPs, {said} warnings")
assert found["attention"] == found["LSTM"] == found["encoder layer, eval"] == (0, 0), "it behaves otherwise now"
assert found["encoder layer, train"][0] > 0
PYTHON
