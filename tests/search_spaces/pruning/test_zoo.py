"""Small networks in the manner of users' reports: none of them may be cut or erased into a wrong one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.search_spaces.pruning.zoo.verdicts import ZOO, again, channels, operators, verdict

torch.set_num_threads(1)

QUICK = {  # a few of each kind; what comes of channels, and of operators
    "concat_with_itself": ("exact", "whole"),
    "Rotary": ("exact", "exact"),
    "TemporalShift": ("exact", "exact"),
    "Mappings": ("exact", "exact"),
    "NotesItsInput": ("exact", "whole"),
    "half_overwritten": ("exact", "whole"),
    "old_weight_norm": ("whole", "whole"),
    "dropout_left_on": ("whole", "whole"),
    "triangle_of_channels": ("whole", "whole"),
    "DynamicKernel": ("exact", "whole"),
}


@pytest.mark.parametrize("name", QUICK)
def test_a_few_of_the_zoo(name: str, tmp_path: Path) -> None:
    found = [verdict(name, how, 1, tmp_path) for how in (channels, operators)]
    assert tuple(v.kind for v in found) == QUICK[name], found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_in_the_zoo_becomes_a_wrong_network(tmp_path: Path) -> None:
    """Eight subsets of each, in both forms, on batches of 2, 1 and 5; recipes applied in a process of its own."""
    found = {
        (name, how.__name__): verdict(name, how, 8, tmp_path) for name in ZOO for how in (channels, operators)
    }
    for how in (channels, operators):
        counts = Counter(v.kind for (_, what), v in found.items() if what == how.__name__)
        compared = sum(v.compared for (_, what), v in found.items() if what == how.__name__)
        print(f"{how.__name__} of {len(ZOO)} networks: {dict(counts)}; {compared} outputs compared")
    applied = again(tmp_path)
    print(f"{len(applied)} recipes applied to fresh networks")
    wrong = {k: v.text for k, v in found.items() if v.kind == "wrong"} | {
        k: t for k, t in applied.items() if t
    }
    assert not wrong
    assert len(ZOO) >= 139 and len(applied) >= 420
    assert sum(v.kind == "exact" for v in found.values()) >= 135
    assert all(v.text for v in found.values() if v.kind in ("whole", "refused"))
