"""The job `rank`: how well a trained supernet ranks the architectures of a table, with what that must be held against.

Beside Kendall's tau of the inherited accuracies stand the taus of FLOPs and of parameters (the trivial rankings),
the tau of the truly best fifth (where a search decides), and the ceiling that the noise of the table sets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fairsweep.analysis import ranking
from fairsweep.analysis.ranking import Estimate
from fairsweep.cluster.config import data_at_hand
from fairsweep.cluster.engine.weights import Shelf
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.tables import alike, open_named
from fairsweep.cluster.storage import open_store
from fairsweep.search_spaces.architectures.tables import TableError
from fairsweep.trainables.tasks import shared_weights
from fairsweep.trainables.tasks.path_scoring import path_scores, supernet_with
from fairsweep.trainables.tasks.small_images import SmallImageTask

DEVICE = "cpu"


def find(shelf: Shelf, supernet: str) -> str:
    """The key that `supernet` begins, or is. UserError if none or several do."""
    keys = shelf.keys()
    found = [key for key in keys if key.startswith(supernet)]
    if len(found) != 1:
        known = ", ".join(keys) or "none; `fairsweep nas` trains one"
        raise UserError(
            f"supernet={supernet}: {'several' if found else 'no'} supernets of this name; known: {known}"
        )
    return found[0]


def rank(
    storage: str,
    supernet: str,
    table: str,
    data_dir: str | None = None,
    limit: int | None = None,
    draws: int = 1000,
    recalibrate: int | None = None,
    other_data: bool = False,
) -> dict[str, Any]:
    """Scores the table's architectures with the weights of `supernet` and compares the rankings.

    storage: of the store in which the supernet lies. table: see `open_table`. limit: score so many architectures,
    drawn once, in place of all. draws: of the bootstrap over architectures. recalibrate: training images from which
    each path takes its statistics, in place of the batch that is scored. other_data: compare although the table is of
    another data set than the supernet; without, UserError names both.
    """
    store = open_store(storage)
    shelf = Shelf(store.uri)
    key = find(shelf, supernet)
    recipe = shelf.recipe(key)
    truth = open_named(table, data_dir)
    if not (other_data or alike(recipe["data"], truth.data)):
        raise UserError(
            f"table={table}: is of {truth.data}, the supernet {key} of {recipe['data']}; must be of the same data set,"
            " or asked for with --other-data"
        )
    shared_weights.provide({key: shelf.load(key)}.get)
    net = supernet_with(key, recipe["kind"], json.dumps(recipe["sizes"]), DEVICE)
    try:
        truth = truth.over(net.space).drawn(limit)
    except TableError as error:
        raise UserError(str(error)) from None
    config = recipe["config"]
    with data_at_hand():
        folder = Path(data_dir) if data_dir else None
        data = SmallImageTask.of(config, recipe["data"], folder, DEVICE, "none")
    try:
        calibration = None if recalibrate is None else data.calibration(recalibrate)
    except ValueError as error:
        raise UserError(f"--recalibrate={error}") from None
    x, y = data.whole("validation")
    paths = sorted(truth.keys, key=lambda a: a.indices)
    found = path_scores(net, paths, x, y, 2000, calibration=calibration)
    scores = {path: score.accuracy for path, score in zip(paths, found, strict=True)}
    values = truth.values[truth.metric]
    sign = 1.0 if truth.metrics[truth.metric].mode == "max" else -1.0
    rankings = {
        f"{config['strategy']}, inherited": [scores[key] for key in truth.keys],
        "flops": [net.cost(key, "flops") for key in truth.keys],
        "params": [net.cost(key, "params") for key in truth.keys],
    }
    full = values[:, ~np.isnan(values).any(0)]
    ceiling = ranking.ceiling_of(full) if full.shape[1] > 1 else None
    return {
        "supernet": key,
        "recipe": recipe,
        "table": table,
        "data": {"supernet": recipe["data"], "table": truth.data},
        "space": net.space.id,
        "metric": truth.metric,
        "architectures": len(truth),
        "recalibrate": recalibrate,
        "ceiling": None
        if ceiling is None
        else {"tau": ceiling.tau, "ci95": ceiling.ci95, "seeds": ceiling.seeds},
        "rankings": [
            {"by": name, **_row(ranking.rank(given, sign * truth.means(), (5, 10, 50), draws))}
            for name, given in rankings.items()
        ],
    }


def _row(found: ranking.Ranking) -> dict[str, Any]:
    estimates: dict[str, Estimate] = {
        "kendall": found.kendall,
        "spearman": found.spearman,
        "top_fifth": found.top,
        **{f"precision@{k}": e for k, e in found.precision.items()},
    }
    return {name: {"value": e.value, "ci95": e.ci95} for name, e in estimates.items()}
