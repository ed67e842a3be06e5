#!/usr/bin/env bash
# scikit-posthocs 0.17.0. One NaN (a method that failed on one data set) makes the Friedman post-hoc tests drop that data
# set for all methods, without a word: the p-values are those of the data without the row. Expected: an error, a warning,
# or a note of how many blocks were used. Nemenyi, Conover, Siegel and Miller alike.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check scikit-posthocs==0.17.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np, scikit_posthocs as posthocs

scores = np.random.default_rng(0).random((10, 4))  # data sets x methods
failed = scores.copy()
failed[3, 1] = np.nan
for name in ("nemenyi", "conover", "siegel", "miller"):
    test = getattr(posthocs, f"posthoc_{name}_friedman")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with_nan = test(failed).values
    without = test(np.delete(scores, 3, axis=0)).values
    whole = test(scores).values
    print(f"{name:8} with a NaN {with_nan[0, 3]:.4f}, without its row {without[0, 3]:.4f}, all rows {whole[0, 3]:.4f}, "
          f"{len(said)} warnings")
    assert np.allclose(with_nan, without) and not np.allclose(with_nan, whole) and not said, "it behaves otherwise now"
PYTHON
