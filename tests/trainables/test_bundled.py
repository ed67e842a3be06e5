"""The digits are those of scikit-learn, read without it."""

from __future__ import annotations

import importlib.machinery

import numpy as np
import pytest
from sklearn import datasets

from fairsweep.trainables.datasets import bundled


def test_digits_are_those_that_scikit_learn_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = datasets.load_digits()
    elsewhere = importlib.machinery.ModuleSpec("sklearn", None, origin="/nowhere/sklearn/__init__.py")
    for ours in (bundled.load_digits(), _of(elsewhere, monkeypatch)):
        for part in ("data", "images", "target"):
            mine, known = getattr(ours, part), getattr(theirs, part)
            assert mine.dtype == known.dtype and np.array_equal(mine, known)


def _of(spec: importlib.machinery.ModuleSpec, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(bundled, "find_spec", lambda name: spec)
    return bundled.load_digits()
