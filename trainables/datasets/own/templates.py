"""Small valid examples of every layout, which `fairsweep data template TASK` writes and OWN.md shows the beginnings of.

They are drawn at random from fixed seeds and large enough that every paper of the task runs on them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairsweep.trainables.base import DataError

PAGE = Path(__file__).parent.parent / "OWN.md"
README = "README.md"
LINES = 4  # of a file that are shown


@dataclass(frozen=True)
class Template:
    """write: makes the files in a folder. shown: those whose beginnings OWN.md shows; none: it lists the files."""

    write: Callable[[Path], None]
    shown: tuple[str, ...] = ()


def _csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


# ---- graphs ----


def _community(rng: np.random.Generator, nodes: int, groups: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Groups of nodes, and links of which most stay in a group; each node has one at least."""
    group = np.arange(nodes) % groups
    links = set()
    for i in range(nodes):
        for _ in range(2):
            same = rng.random() < 0.85
            others = np.flatnonzero((group == group[i]) == same)
            j = int(rng.choice(others[others != i]))
            links.add((min(i, j), max(i, j)))
    return group, sorted(links)


def _nodes(folder: Path, labelled: bool) -> None:
    rng = np.random.default_rng(0)
    group, links = _community(rng, 60, 3)
    people = [f"p{i + 1}" for i in range(60)]
    ages, active = rng.normal(30 + 10 * group, 4).round(2), rng.random(60) < 0.3 + 0.2 * group
    words = ("chess", "rowing", "choir")
    labels = [[words[g]] if labelled else [] for g in group]
    rows = [[p, *label, age, int(a)] for p, label, age, a in zip(people, labels, ages, active, strict=True)]
    _csv(folder / "nodes.csv", ["id", *(["label"] if labelled else []), "age", "active"], rows)
    _csv(folder / "edges.csv", ["source", "target"], [[people[i], people[j]] for i, j in links])


def _graphs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    graphs, nodes, edges = [], [], []
    for number in range(36):
        name, ring = f"g{number + 1}", number % 2 == 0
        size = int(rng.integers(5, 9))
        graphs.append([name, "ring" if ring else "star"])
        nodes += [[name, i + 1, *rng.normal(0, 1, 2).round(2)] for i in range(size)]
        pairs = [(i, (i + 1) % size) if ring else (0, i) for i in range(0 if ring else 1, size)]
        edges += [[name, i + 1, j + 1, "single" if rng.random() < 0.7 else "double"] for i, j in pairs]
    _csv(folder / "graphs.csv", ["id", "label"], graphs)
    _csv(folder / "nodes.csv", ["graph", "id", "x", "y"], nodes)
    _csv(folder / "edges.csv", ["graph", "source", "target", "type"], edges)


TEMPLATES: dict[str, Template] = {
    "graph classification": Template(_graphs, ("graphs.csv", "nodes.csv", "edges.csv")),
    "link prediction": Template(lambda folder: _nodes(folder, False), ("nodes.csv", "edges.csv")),
    "node classification": Template(lambda folder: _nodes(folder, True), ("nodes.csv", "edges.csv")),
}


# ---- what is shown of them ----


def example(task: str, folder: Path) -> str:
    """The beginnings of the files of a template in `folder`, or the files that are there, as OWN.md shows them."""
    template = TEMPLATES[task]
    lines = []
    for file in template.shown:
        rows = (folder / file).read_text(encoding="utf8").splitlines()
        lines += [
            f"{file}:",
            *(f"    {row}" for row in rows[:LINES]),
            *(["    ..."] if len(rows) > LINES else []),
        ]
    if not template.shown:
        files = sorted(
            str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != README
        )
        lines = [*files[:9], *(["..."] if len(files) > 9 else [])]
    return "\n".join(lines)


def section(task: str) -> str:
    """What OWN.md says of a task: from its heading to the next one."""
    text = PAGE.read_text(encoding="utf8")
    begin = text.index(f"\n## {task}\n") + 1
    end = text.find("\n## ", begin)
    return text[begin : None if end < 0 else end].strip() + "\n"


def write(task: str, folder: Path) -> list[str]:
    """Writes the template of a task and a README into `folder`, which must be new or empty; says which files there are.

    DataError if something is there already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"folder={folder}: is there already and not empty; name a new one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TEMPLATES[task].write(folder)
        (folder / README).write_text(f"# Data of your own\n\n{section(task)}", encoding="utf8")
    except OSError as error:
        raise DataError(f"folder={folder}: cannot be written ({error.strerror}); name another one") from None
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
