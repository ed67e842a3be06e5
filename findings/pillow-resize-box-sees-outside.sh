#!/usr/bin/env bash
# Pillow 13.0.0. `Image.resize(size, BILINEAR, box=...)` averages over pixels outside of `box`, where `crop(box)` and then
# `resize(size, BILINEAR)` does not: a box that holds 255 alone comes out darker when its neighbours are 0. Data loaders
# that crop by `box` (random resized crops, patches) let a little of what was cut away into the example. The manual calls
# box the source region to be scaled. Expected: the same as cropping first.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pillow==13.0.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from PIL import Image

pixels = np.zeros((4, 8), np.uint8)
pixels[:, 2:6] = 255
image, box = Image.fromarray(pixels), (2, 0, 6, 4)
assert np.asarray(image.crop(box)).min() == 255
for name in ("BOX", "BILINEAR", "BICUBIC", "LANCZOS"):
    how = getattr(Image.Resampling, name)
    by_box = np.asarray(image.resize((2, 2), how, box=box))
    cropped = np.asarray(image.crop(box).resize((2, 2), how))
    print(f"{name:8} resize(box=...) {by_box.min()}, crop and resize {cropped.min()}")
    assert cropped.min() == 255
    if name == "BILINEAR":
        assert by_box.min() == 223, "it behaves otherwise now"
PYTHON
