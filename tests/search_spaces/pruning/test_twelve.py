"""The promised architectures: both forms of random sub-networks on several batches, and their recipes elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import fx

from fairsweep.search_spaces.pruning import SliceError, partition, recipe, slice_module
from tests.search_spaces.pruning.helpers import disturb, zeroed
from tests.search_spaces.pruning.twelve import TWELVE

SUBSETS, BATCHES, TOLERANCE = 20, (1, 2, 5), 1e-4

FRESH = """
import json, sys, torch
from pathlib import Path
from fairsweep.search_spaces.pruning import apply_recipe
from tests.search_spaces.pruning.twelve import TWELVE
torch.set_num_threads(1)
for path in sorted(Path(sys.argv[2]).iterdir()):
    made = torch.load(path)
    net = apply_recipe(TWELVE[sys.argv[1]][0](), json.loads(made["recipe"])).eval()
    net.load_state_dict(made["state"])
    with torch.no_grad():
        print(float((net(made["x"]) - made["y"]).abs().max() / made["y"].abs().max()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", TWELVE)
@torch.no_grad()
def test_both_forms_and_their_recipes_are_exact(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    make, example = TWELVE[name]
    x = example()
    net = disturb(make(), x)
    found = partition(net, x)
    more = torch.cat([x, x.flip(0), x[:1].roll(1, -1)])
    exact, refused, worst, kinds = {"auto": 0, "graph": 0}, [], 0.0, set()
    for seed in range(SUBSETS):
        full, kept = zeroed(net, found, seed)
        for form in exact:
            try:
                small = slice_module(full, found, form=form)
            except SliceError as error:
                refused.append(f"{form}: {error}")
                continue
            off = 0.0
            for batch in BATCHES:
                y = full(more[:batch])
                off = max(off, float((small(more[:batch]) - y).abs().max() / y.abs().max()))
            exact[form] += off <= TOLERANCE
            worst = max(worst, off)
            if form == "auto" or seed == 0:
                if form == "auto":
                    kinds.add("graph" if isinstance(small, fx.GraphModule) else "module")
                made = json.dumps(recipe(full, found, kept, small))
                saved = {"recipe": made, "state": small.state_dict(), "x": more, "y": full(more)}
                torch.save(saved, tmp_path / f"{form}{seed}")
    run = [sys.executable, "-c", FRESH, name, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = [float(line) for line in done.stdout.split()]
    with capsys.disabled():
        print(
            f"\n{name:14} {'/'.join(kinds):7} exact {exact} worst {worst:.1e} refused {len(refused)}"
            f" recipes {len(again)} worst {max(again, default=0.0):.1e}",
            flush=True,
        )
    assert exact == dict.fromkeys(exact, SUBSETS) and not refused and max(again) <= TOLERANCE
