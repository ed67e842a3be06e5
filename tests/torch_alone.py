"""What a program answers in a process that has PyTorch and none of this project, nor what it reads data with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SCRIPT = """
import json, sys

for name in ("search_spaces", "trainables", "cluster", "analysis", "fairsweep", "sklearn"):
    sys.modules[name] = None  # importing it raises
import torch

torch.set_num_threads(1)
pixels, labels = torch.load(sys.argv[1])
answers = []
for folder in sys.argv[2:]:
    with open(folder + "/recipe.json") as file:
        recipe = json.load(file)
    program = torch.export.load(folder + "/program.pt2").module()
    most, where, right = recipe["batch"]["most"] or 250, recipe["gives"]["logits"], 0
    for x, y in zip(pixels.split(most), labels.split(most)):
        logits = program(x)
        logits = logits if where is None else logits[where]
        right += int((logits.argmax(1) == y).sum())
    answers.append(right / len(labels))
print(json.dumps(answers))
"""


def accuracies(folders: Sequence[str | Path], pixels: Tensor, labels: Tensor, scratch: Path) -> list[Any]:
    """Accuracy of the program in each of `folders` on raw examples, in one fresh process."""
    torch.save((pixels, labels), scratch / "examples.pt")
    words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(scratch / "examples.pt"), *map(str, folders)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = subprocess.run(words, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)
