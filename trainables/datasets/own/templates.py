"""Small valid examples of every layout, which `fairsweep data template TASK` writes and OWN.md shows the beginnings of.

They are drawn at random from fixed seeds and large enough that every paper of the task runs on them.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.kinds import pillow
from fairsweep.trainables.datasets.own.tables import NAME

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


def _typed(folder: Path) -> None:
    """Articles in three groups, each with two writers and a journal that are mostly of its group."""
    rng = np.random.default_rng(0)
    sizes, group = {"article": 60, "writer": 24, "journal": 9}, np.arange(60) % 3
    topics = ("birds", "ships", "wine")
    rows = [[f"a{i + 1}", "article", topics[g]] for i, g in enumerate(group)]
    links = []
    for kind, letter, each in (("writer", "w", 2), ("journal", "j", 1)):
        rows += [[f"{letter}{i + 1}", kind, ""] for i in range(sizes[kind])]
        for i, g in enumerate(group):
            among = np.arange(g if rng.random() < 0.85 else 0, sizes[kind], 3)
            links += [[f"a{i + 1}", f"{letter}{j + 1}"] for j in rng.choice(among, each, replace=False)]
    _csv(folder / "nodes.csv", ["id", "type", "label"], rows)
    _csv(folder / "edges.csv", ["source", "target"], links)
    words = rng.poisson(2 + 3 * (group[:, None] == np.arange(3)))
    _csv(
        folder / "features_article.csv",
        ["id", "feather", "harbour", "grape"],
        [[f"a{i + 1}", *count] for i, count in enumerate(words)],
    )
    _csv(folder / "paths.csv", ["path"], [["article-writer-article"], ["article-journal-article"]])


def _domains(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for place, blocks, graphs in (
        ("sources/teams.csv", 3, 12),
        ("sources/villages.csv", 1, 1),
        ("downstream/offices.csv", 3, 12),
    ):
        rows: list[list[Any]] = []
        for number in range(graphs):
            _, links = _community(rng, 18 if graphs > 1 else 80, blocks + 1)
            head = [f"g{number + 1}"] if graphs > 1 else []
            rows += [[*head, f"n{i + 1}", f"n{j + 1}"] for i, j in links]
        _csv(folder / place, [*(["graph"] if graphs > 1 else []), "source", "target"], rows)


# ---- tables and series ----


def _hours(n: int) -> list[str]:
    times = np.datetime64("2024-01-01", "m") + np.arange(n) * np.timedelta64(1, "h")
    return [str(time).replace("T", " ") for time in times]


def _daily(rng: np.random.Generator, n: int, phase: float) -> np.ndarray:
    """A day's course with noise, two decimals (n,)."""
    noise = rng.normal(0, 0.3, n)
    return (10 + 3 * np.sin(2 * np.pi * (np.arange(n) / 24 + phase)) + noise).round(2)


def _series(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = zip(_hours(1800), _daily(rng, 1800, 0.2), _daily(rng, 1800, 0.0), strict=True)
    _csv(folder / "series.csv", ["time", "temperature", "demand"], rows)


def _spatial(folder: Path) -> None:
    rng = np.random.default_rng(0)
    places = ["north", "centre", "south"]
    rows = zip(_hours(240), *(_daily(rng, 240, i / 12) for i in range(3)), strict=True)
    _csv(folder / "series.csv", ["time", *places], rows)
    links = [["north", "centre", 0.8], ["centre", "north", 0.5], ["centre", "south", 0.6]]
    _csv(folder / "adjacency.csv", ["source", "target", "weight"], links)


def _shop(rng: np.random.Generator, n: int) -> tuple[list[list[Any]], np.ndarray]:
    """Rows of user, item, weekday and price, and how much each is wanted, from 0 to 1."""
    user, item, day = rng.integers(30, size=n), rng.integers(12, size=n), rng.integers(7, size=n)
    price = rng.gamma(4, 5, n).round(2)
    wanted = 1 / (1 + np.exp(0.08 * (price - 20) - (user % 3 == item % 3)))
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    rows = [[f"u{u}", f"i{i}", days[d], p] for u, i, d, p in zip(user, item, day, price, strict=True)]
    return rows, wanted


def _clicks(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows, wanted = _shop(rng, 400)
    clicks = (rng.random(400) < wanted).astype(int)
    header = ["label", "user", "item", "weekday", "price"]
    _csv(folder / "data.csv", header, [[c, *row] for c, row in zip(clicks, rows, strict=True)])


def _several(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows, wanted = _shop(rng, 300)
    clicks = rng.random(300) < wanted
    stars = (1 + 4 * wanted + rng.normal(0, 0.3, 300)).round(2)
    header = ["label_click", "label_rating", "user", "item", "weekday", "price"]
    labels = [[int(c), s if c else ""] for c, s in zip(clicks, stars, strict=True)]
    _csv(folder / "data.csv", header, [[*label, *row] for label, row in zip(labels, rows, strict=True)])


def _interactions(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for user in range(25):
        items = rng.choice(20, size=int(rng.integers(4, 9)), replace=False)
        days = np.sort(rng.choice(300, size=len(items), replace=False))
        dates = [str(np.datetime64("2024-01-01") + int(day)) for day in days]
        rows += [
            [f"u{user}", f"film{i}", int(rng.integers(1, 6)), d] for i, d in zip(items, dates, strict=True)
        ]
    _csv(folder / "interactions.csv", ["user", "item", "rating", "time"], rows)


def _tracks(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for scene in range(12):
        speed = rng.uniform(6, 14)
        for car in range(4):
            x = 8 * car + speed * np.arange(60) * 0.2 + np.cumsum(rng.normal(0, 0.05, 60))
            places = zip(x.round(2), rng.normal(3.5 * (car % 2), 0.05, 60).round(2), strict=True)
            rows += [[f"crossing{scene}", f"car{car}", t, *place] for t, place in enumerate(places)]
    _csv(folder / "tracks.csv", ["recording", "agent", "frame", "x", "y"], rows)


def _flowers(rng: np.random.Generator, n: int) -> tuple[list[list[float]], list[str]]:
    """n times three lengths in centimetres, and which of two kinds they are of."""
    kind = np.arange(n) % 2
    sizes = rng.normal(0, 0.4, (n, 3)) + np.array([5, 3, 2]) + kind[:, None] * np.array([0.5, -0.3, 0.7])
    return sizes.round(2).tolist(), [("lily", "rose")[k] for k in kind]


def _two_classes(folder: Path) -> None:
    rows = zip(*_flowers(np.random.default_rng(0), 200), strict=True)
    _csv(folder / "table.csv", ["length", "width", "leaf", "label"], [[*row, kind] for row, kind in rows])


def _tabular(folder: Path) -> None:
    rng = np.random.default_rng(0)
    sizes, kinds = _flowers(rng, 120)
    colours = np.array(["red", "white", "pink"])[rng.integers(3, size=120)]
    rows = [[*row, c, kind] for row, c, kind in zip(sizes, colours, kinds, strict=True)]
    _csv(folder / "table.csv", ["length", "width", "leaf", "colour", "label"], rows)


# ---- images ----


def _save(path: Path, image: np.ndarray) -> None:
    """An image of values from 0 to 1, (h, w) or (h, w, 3), as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow(NAME).fromarray((255 * image.clip(0, 1)).round().astype(np.uint8)).save(path)


def _shape(rng: np.random.Generator, round_: bool, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A disc or a square on noise: the image (side, side), and where it is, bool (side, side)."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    y, x = rng.uniform(side * 0.35, side * 0.65, 2)
    radius = rng.uniform(side * 0.2, side * 0.3)
    far = np.hypot(rows - y, columns - x) if round_ else np.maximum(abs(rows - y), abs(columns - x))
    inside = far < radius
    return 0.3 + 0.4 * inside + rng.normal(0, 0.05, inside.shape), inside


def _classes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(60):
        name = ("disc", "square")[i % 2]
        _save(folder / name / f"{i + 1:02d}.png", _shape(rng, name == "disc")[0])


def _alone(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        _save(folder / f"{i + 1:02d}.png", _shape(rng, bool(i % 2))[0])


def _masked(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        image, inside = _shape(rng, True, 32)
        _save(folder / "images" / f"{i + 1:02d}.png", np.stack([image, image * 0.8, image * 0.6], -1))
        _save(folder / "masks" / f"{i + 1:02d}.png", inside.astype(float))


def _degraded(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        image = _shape(rng, bool(i % 2), 24)[0]
        blurred = np.mean([np.roll(image, shift, 1) for shift in (-2, -1, 0, 1, 2)], 0)
        for kind, picture in (("clean", image), ("degraded", blurred)):
            _save(folder / kind / f"{i + 1:02d}.png", np.stack([picture] * 3, -1))


def _counted(folder: Path) -> None:
    rng = np.random.default_rng(0)
    points = []
    for i in range(24):
        places = rng.integers(3, 29, size=(int(rng.integers(0, 8)), 2))
        rows, columns = np.mgrid[:32, :32]
        near = [np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4) for x, y in places]
        name = f"{i + 1:02d}.png"
        _save(folder / "images" / name, sum(near, rng.uniform(0, 0.1, (32, 32))))
        points += [[name, x, y] for x, y in places]
    _csv(folder / "points.csv", ["image", "x", "y"], points)


# ---- sounds and texts ----


def _sounds(folder: Path) -> None:
    rng = np.random.default_rng(0)
    time = np.arange(2000) / 8000
    for i in range(24):
        name, tone = (("high", 880), ("low", 220))[i % 2]
        sound = 0.5 * np.sin(2 * np.pi * tone * rng.uniform(0.9, 1.1) * time) + rng.normal(0, 0.02, len(time))
        (folder / name).mkdir(parents=True, exist_ok=True)
        wavfile.write(folder / name / f"{i + 1:02d}.wav", 8000, (32767 * sound.clip(-1, 1)).astype(np.int16))


_WHO, _DOES = ("the cat", "a sparrow", "my brother", "the old clock"), ("sleeps", "sings", "waits", "is late")
_WHERE = ("on the roof", "in the garden", "near the station", "by the sea")


def _sentences(rng: np.random.Generator, n: int) -> list[str]:
    return [" ".join((_WHO[a], _DOES[b], _WHERE[c])) + "." for a, b, c in rng.integers(4, size=(n, 3))]


def _running(folder: Path) -> None:
    (folder / "book.txt").write_text(
        "\n".join(_sentences(np.random.default_rng(0), 200)) + "\n", encoding="utf8"
    )


def _texts(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i, sentence in enumerate(_sentences(rng, 60)):
        mood = ("glad", "sad")[i % 2]
        rows.append([f"{('What a day', 'What a pity')[i % 2]}: {sentence}", mood])
    _csv(folder / "texts.csv", ["text", "label"], rows)


TEMPLATES: dict[str, Template] = {
    "audio classification": Template(_sounds),
    "counting": Template(_counted, ("points.csv",)),
    "language modelling": Template(_running, ("book.txt",)),
    "text classification": Template(_texts, ("texts.csv",)),
    "click-through rate prediction": Template(_clicks, ("data.csv",)),
    "forecasting": Template(_series, ("series.csv",)),
    "architecture search": Template(_classes),
    "image classification": Template(_classes),
    "image denoising": Template(_alone),
    "image restoration": Template(_degraded),
    "image segmentation": Template(_masked),
    "in-context learning": Template(_two_classes, ("table.csv",)),
    "multi-task learning": Template(_several, ("data.csv",)),
    "recommendation": Template(_interactions, ("interactions.csv",)),
    "spatio-temporal forecasting": Template(_spatial, ("series.csv", "adjacency.csv")),
    "tabular learning": Template(_tabular, ("table.csv",)),
    "heterogeneous node classification": Template(_typed, ("nodes.csv", "edges.csv", "features_article.csv")),
    "trajectory forecasting": Template(_tracks, ("tracks.csv",)),
    "graph classification": Template(_graphs, ("graphs.csv", "nodes.csv", "edges.csv")),
    "graph pre-training": Template(_domains, ("sources/villages.csv", "downstream/offices.csv")),
    "link prediction": Template(lambda folder: _nodes(folder, False), ("nodes.csv", "edges.csv")),
    "node classification": Template(lambda folder: _nodes(folder, True), ("nodes.csv", "edges.csv")),
    "node representation learning": Template(lambda folder: _nodes(folder, True), ("nodes.csv", "edges.csv")),
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
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            TEMPLATES[task].write(folder)
        except (
            DataError
        ):  # a library is missing: nothing half-written is left, which would be in the way afterwards
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if new:
                folder.rmdir()
            raise
        (folder / README).write_text(f"# Data of your own\n\n{section(task)}", encoding="utf8")
    except OSError as error:
        raise DataError(f"folder={folder}: cannot be written ({error.strerror}); name another one") from None
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
