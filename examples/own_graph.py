"""A graph of one's own, as two tables in a folder, for every paper that reads graphs.

python examples/own_graph.py        # writes own-graph/nodes.csv and edges.csv, then tunes DAGNN and NCN on them
fairsweep data check dagnn own-graph
fairsweep run trainable=dagnn data=own data_dir=own-graph budget.trials=12 scheduler=asha
"""

from __future__ import annotations

import csv
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph

import fairsweep


def write(folder: Path, nodes: int = 400, neighbours: int = 6) -> Path:
    """Handwritten digits [nodes, 64]; a link joins two where one is among the other's nearest neighbours."""
    digits = load_digits()
    x, y = digits.data[:nodes], digits.target[:nodes]
    links = kneighbors_graph(x, neighbours).tocoo()
    folder.mkdir(exist_ok=True)
    with open(folder / "nodes.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "label", *(f"pixel{i}" for i in range(x.shape[1]))])
        out.writerows([f"d{i}", y[i], *x[i].astype(int)] for i in range(nodes))
    with open(folder / "edges.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["source", "target"])
        out.writerows([f"d{a}", f"d{b}"] for a, b in zip(links.row, links.col, strict=True))
    return folder


if __name__ == "__main__":
    folder = write(Path("own-graph"))
    for paper in ("dagnn", "ncn"):
        small = {"trials": 6, "steps": 30}
        sweep = fairsweep.run(
            paper, data="own", data_dir=folder, budget=small, scheduler="asha", name=f"own-{paper}"
        )
        print(paper, sweep.best())
