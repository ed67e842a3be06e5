"""What a search leaves beside its trials: the table `architectures`, the best network as files, and a summary."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs
import yaml

from fairsweep.analysis import statistics
from fairsweep.analysis.drawing import draw_svg
from fairsweep.analysis.store import Store, filesystem
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace
from fairsweep.search_spaces.architectures.graphs import graph_of
from fairsweep.search_spaces.architectures.jobs import CHILD, FRONT, RETRAIN, SCORE, members
from fairsweep.trainables.base import Setting

if TYPE_CHECKING:
    from fairsweep.cluster.jobs.nas.run import Run


DRAWING = "architecture.svg"
MISSED = 0.01  # of a share that is to go; that of a few chains is rounded to a whole number of them


def completed(store: Store, name: str) -> list[dict[str, Any]]:
    """The trials of the run that are complete, in their order."""
    trials = store.table("trials", name).sort_by("number").to_pylist()
    return [trial for trial in trials if trial["state"] == "complete"]


def alone(trials: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The stand-alone trainings among `trials`, by architecture."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trial in trials:
        if trial["config.phase"] == RETRAIN:
            found[trial["config.architecture"]].append(trial)
    return found


def alone_columns(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns on the stand-alone trainings of an architecture."""
    found = statistics.summary([t["value"] for t in trials]).within(0.0, 1.0)  # accuracies
    low, high = found.ci95 or (None, None)
    test = statistics.summary([t["metric.test_accuracy"] for t in trials]).mean
    return {
        "alone": found.mean, "alone_ci_low": low, "alone_ci_high": high, "alone_seeds": len(trials), "test": test,
    }  # fmt: skip


def export_best(search: Run, store: Store, name: str, trials: list[dict[str, Any]]) -> str | None:
    """Saves the best of the stand-alone trainings of an architecture; where, or None if its checkpoint is gone."""
    from fairsweep.search_spaces.supernets.export import save_network

    settings = search.settings
    best = max(trials, key=lambda t: (t["value"], -t["number"]))
    state = search.checkpoints.load(best["trial"])
    if state is None:
        return None
    inner, repeat = state["paper"]["inner"], best["config.repeat"]
    paper: Any = settings.alone()
    setting = Setting(
        settings.seed + repeat, "cpu", settings.data, settings.data_folder, settings.retrain["steps"]
    )
    paper.setup(settings.alone_config(best["config.architecture"]), setting)
    paper.net.load_state_dict(inner["best"]["weights"] if inner["best"] else inner["parts"]["net"])
    supernet, path, interface = paper.supernet, paper.architecture, paper.data.interface()

    def save(folder: Path) -> str:
        about = about_trial(best, name)
        save_network(folder, supernet, path, paper.net, interface, reported=about, strict=False)
        return drawing(supernet.space, path)

    return export(store, name, best["trial"], save)


def about_trial(trial: Mapping[str, Any], run: str) -> dict[str, Any]:
    """What the tables say of the network that a trial ended with: its metrics of the test part, for the recipe."""
    measured = {
        column.removeprefix("metric."): value
        for column, value in trial.items()
        if column.startswith("metric.test_") and value is not None
    }
    return {"run": run, "trial": trial["trial"], **measured}


def export(store: Store, name: str, trial: str, save: Callable[[Path], str]) -> str:
    """Puts a network's files into the store, beside the run `name`, and says where.

    save: writes all files but the drawing into a folder, and gives that, as SVG.
    """
    with tempfile.TemporaryDirectory(prefix="fairsweep-export-") as folder:
        svg = save(Path(folder))
        Path(folder, DRAWING).write_text(svg)
        return put(store, name, trial, folder)


def drawing(space: ArchitectureSpace, path: Architecture) -> str:
    """SVG of an architecture."""
    graph = graph_of(space, path)
    return draw_svg(graph.nodes, graph.edges, space.format(path))


def put(store: Store, name: str, trial: str, folder: str) -> str:
    """Copies a folder with a network into the store, and says where it lies then."""
    fs, root = filesystem(store.uri)
    target = f"{root}/architectures/{name}/{trial}"
    fs.create_dir(target, recursive=True)
    pafs.copy_files(folder, target, destination_filesystem=fs)
    return target


SHOWN = (
    "architecture",
    "score",
    "alone",
    "alone_ci_low",
    "alone_ci_high",
    "test",
    "params",
    "flops",
    "latency_ms",
    "full_params",
    "full_flops",
    "full_latency_ms",
)


def front(rows: list[dict[str, Any]], cost: str) -> list[dict[str, Any]]:
    """The architectures on the front of score against `cost`, the cheapest first."""
    return sorted((row for row in rows if row["on_front"]), key=lambda row: row[cost])


def retrained(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The architectures that were trained alone, the best first."""
    return sorted((row for row in rows if row["alone"] is not None), key=lambda row: -row["alone"])


def where(front: list[dict[str, Any]], alone: list[dict[str, Any]]) -> list[str]:
    """Lines that say which network is best and where its files lie: of those that were trained alone, if any were."""
    saved = [row for row in alone or sorted(front, key=lambda row: -row["score"]) if row["folder"]]
    if not saved:
        return []
    best = saved[0]
    lines = [f"best     {best['architecture']}", f"model    {best['folder']}"]
    lines.append(f"drawing  {best['folder']}/{DRAWING}")
    others = dict.fromkeys(row["folder"] for row in saved[1:])
    return [*lines, *(f"also     {folder}" for folder in others if folder != best["folder"])]


def supernets(rows: list[dict[str, Any]]) -> list[str]:
    """Keys of the supernets that gave the scores, as `fairsweep rank` takes them."""
    return sorted({row["supernet"] for row in rows if row["supernet"] is not None})


def note(store: Store, name: str) -> str | None:
    """What else to say of a search that has ended; None if there is nothing to say."""
    return ended_early(store, name) or targets_missed(store.table("trials", name).to_pylist())


def targets_missed(trials: list[dict[str, Any]]) -> str | None:
    """Where less of a network went than was asked; None if that is nowhere."""
    share = "metric.test_group_sparsity"
    missed = [
        f"target={t['config.value']:g}: only {t[share]:.2f} ({t['trial']})"
        for t in trials
        if t["config.phase"] == FRONT and t.get(share) is not None and t[share] < t["config.value"] - MISSED
    ]
    if not missed:
        return None
    said = "; ".join(missed)
    return f"{said} of what can go is zero (chains go whole; more algorithm.steps may help)"


def ended_early(store: Store, name: str) -> str | None:
    """What to say of a search that proposed fewer architectures than it may; None if there is nothing to say."""
    sweep = store.read(name).sweep
    settings = yaml.safe_load(sweep["config"])
    if settings["algorithm"]["kind"] != "supernet" or sweep["state"] != "finished":
        return None
    trials = store.table("trials", name).to_pylist()
    jobs = ({"paths": t["config.paths"], "architecture": t["config.architecture"]} for t in trials
            if t["config.phase"] in (SCORE, CHILD))  # fmt: skip
    proposed, wanted = sum(len(members(job)) for job in jobs), settings["search"]["evaluations"]
    if proposed >= wanted:
        return None
    limits = ", ".join(f"{k}={v:g}" for k, v in settings["constraint"].items() if v is not None)
    where = f"within the limits ({limits})" if limits else "in the space"
    return (
        f"the search ended after {proposed} of search.evaluations={wanted} architectures: it found no other network"
        f" {where}; encodings of one network count once"
    )


def settings_of(store: Store, name: str) -> dict[str, Any]:
    """The configuration of a run."""
    return yaml.safe_load(store.read(name).sweep["config"])


def cost_of_front(store: Store, name: str) -> str:
    """The cost that the run's front is set against."""
    return settings_of(store, name)["front"]
