"""Architecture searches with real workers' code and a real store but without Ray."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch

from fairsweep.analysis.store import Store, SweepRecord, SweepWriter
from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.commands import runs
from fairsweep.cluster.engine.checkpoints import Checkpoints
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.weights import Shelf
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.nas import budget as nas_budget
from fairsweep.cluster.jobs.nas import config as nas_config
from fairsweep.cluster.jobs.nas import report as nas_report
from fairsweep.cluster.jobs.nas import search as nas
from fairsweep.search_spaces.algorithms import Outcome, create_architecture_search
from fairsweep.search_spaces.architectures import create_space
from fairsweep.search_spaces.architectures.chain import ChainSpace
from fairsweep.search_spaces.supernets.export import load_network, load_program
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Found, Metric
from fairsweep.trainables.datasets import images
from fairsweep.trainables.tasks import shared_weights
from fairsweep.trainables.tasks.small_images import Reduction, SmallImageTask
from tests.torch_alone import accuracies

COMMON = {"space", "mode", "seed", "costs", "constraints", "unique", "make", "repair"}  # of all searches
SMALL = (
    "supernet=chain", "train.steps=1", "search.evaluations=6", "search.batch=3", "retrain.top=1", "retrain.seeds=2",
    "retrain.steps=1", "train.config.measured_paths=2", "train.config.train_images=100",
    "train.config.validation_images=60", "retrain.config.train_images=100", "retrain.config.validation_images=60",
    "budget.report_seconds=0", "data=digits",
)  # fmt: skip


# Reports after which a driver dies, of so many: one in the middle, a few that stand for all, and (slow) all.
MOMENT = {
    "one": lambda reports: [reports // 2],
    "few": lambda reports: sorted({0, reports // 2, reports - 1}),
    "all": range,
}
MOMENTS = pytest.mark.parametrize("moments", ["few", pytest.param("all", marks=pytest.mark.slow)])
MOMENTS_OF_LONG_ONES = pytest.mark.parametrize(
    "moments", ["one", pytest.param("all", marks=pytest.mark.slow)]
)


class Crash(Exception):
    pass


def opened(
    store: Store, name: str, row: dict[str, Any], settings: config.Settings, metrics: Sequence[Metric]
) -> tuple[SweepWriter, SweepRecord | None]:
    """The writer of a run, begun or to be gone on with, and what the store knows of it."""
    if store.has(name):
        writer = store.open(name)
        return writer, writer.record
    fields, names = settings.space.arrow_fields(), [m.name for m in metrics]
    return store.create(name, row, config_fields=fields, metric_names=names), None


class Engine:
    """One place that takes legs in turn, in this process."""

    def __init__(self, storage: Path, *overrides: str, name: str = "s") -> None:
        self.store, self.name = Store(storage), name
        front = any(o.startswith(("algorithm=single_path", "algorithm=oto")) for o in overrides)
        small = ("budget.report_seconds=0",) if front else SMALL
        self.settings = nas_config.load([*small, *overrides, f"storage={storage}", f"name={name}"])
        self.search: Any = nas.make_run(self.settings, self.store)
        self.search.attach(Checkpoints(self.store.checkpoint_dir(name)), self.share)
        self.shared: list[str] = []

    def share(self, key: str, arrays: Any) -> None:
        self.shared.append(key)
        shared_weights.provide({key: arrays}.get)

    def run(self, crash_after: int | None = None) -> Conductor:
        """Runs to the end, or 'crashes' (nothing is closed) after so many reports."""
        row, metrics = nas.row(self.search), self.search.metrics
        writer, record = opened(self.store, self.name, row, self.settings, metrics)
        self.search.begin(record)
        conductor = nas.make_conductor(self.search, writer, 1, record, self.search.ended)
        post = replace(sweep.make_post(self.settings, self.store, self.name), board="")
        reports = 0
        while (leg := conductor.next_leg()) is not None:
            place = LegRunner(post)
            place.take(leg)
            while True:
                payload = json.loads(json.dumps(place.step()))
                if crash_after is not None and reports >= crash_after:
                    writer.__exit__(None, None, None)
                    raise Crash
                reports += 1
                if not conductor.report(payload["trial"], payload):
                    break
            place.stash()
        assert conductor.finished
        self.reports = reports
        writer.close(state=conductor.close())
        self.search.report(self.store, self.name, conductor)
        return conductor

    def trials(self) -> list[dict[str, Any]]:
        return self.store.table("trials", self.name).sort_by("number").to_pylist()

    def architectures(self) -> list[dict[str, Any]]:
        return self.store.table("architectures", self.name).to_pylist()


def test_the_time_of_earlier_runs_counts_in_a_search_too(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "algorithm=evolution", "budget.minutes=1")
    row, metrics = nas.row(engine.search), engine.search.metrics
    writer, _ = opened(engine.store, "s", row, engine.settings, metrics)
    writer.sweep(elapsed_s=61.0)
    writer.__exit__(None, None, None)  # killed
    writer, record = opened(engine.store, "s", row, engine.settings, metrics)
    engine.search.begin(record)
    conductor = nas.make_conductor(engine.search, writer, 1, record)
    assert conductor.out_of_time and conductor.next_leg() is None
    writer.close(state=conductor.close())


@pytest.mark.usefixtures("files")
def test_a_search_trains_scores_and_retrains_and_says_so_in_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(tmp_path, "algorithm=evolution")
    engine.run()
    trials = engine.trials()
    assert [t["config.phase"] for t in trials] == ["train", "score", "score", "retrain", "retrain"]
    assert all(t["state"] == "complete" and t["reason"] == "complete" for t in trials)
    assert [t["steps"] for t in trials] == [1, 3, 3, 1, 1]
    rows = engine.architectures()
    assert [row["number"] for row in rows] == list(range(6))
    reports = engine.store.table("results", "s").to_pylist()
    for row in rows:
        trial = next(t for t in trials if t["trial"] == row["trial"])
        step = trial["config.paths"].split(" ").index(row["architecture"]) + 1
        (report,) = (r for r in reports if r["trial"] == row["trial"] and r["step"] == step)
        assert row["score"] == report["metric.val_accuracy"]
        path = engine.search.space.parse(row["architecture"])
        assert row["flops"] == engine.search.supernet.cost(path, "flops") and row["params"] > 0
    best = max(rows, key=lambda row: row["score"])
    (alone,) = (row for row in rows if row["alone"] is not None)
    assert alone["score"] == best["score"] and alone["alone_seeds"] == 2
    values = [t["value"] for t in trials[3:]]
    assert alone["alone"] == pytest.approx(sum(values) / 2) and trials[3]["value"] != trials[4]["value"]
    assert best["on_front"] and not all(row["on_front"] for row in rows)
    assert alone["phase"] == "retrain" and Path(alone["folder"], "architecture.svg").is_file()
    assert runs._searched(sweep.Result("s", engine.store.uri, "finished"), False) == 0
    said = capsys.readouterr()
    assert (
        f"supernet {engine.search.key}  (fairsweep rank {engine.search.key}" in said.out
        and "note" not in said.err
    )


def test_intervals_of_accuracies_stay_within_0_and_1() -> None:
    trials = [{"value": v, "metric.test_accuracy": v} for v in (0.94, 0.99)]
    found = nas_report.alone_columns(trials)
    assert (
        found["alone"] == pytest.approx(0.965)
        and found["alone_ci_high"] == 1.0
        and 0 < found["alone_ci_low"] < 0.9
    )


@pytest.mark.usefixtures("files")
def test_the_exported_network_is_the_one_that_was_retrained(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.run()
    (row,) = (row for row in engine.architectures() if row["alone"] is not None)
    network = load_network(Path(row["folder"])).eval()
    data = SmallImageTask("digits", None, "cpu", "none", Reduction(0, 100, 60))
    x, y = data.parts["validation"]
    found = (network(x).argmax(1) == y).float().mean().item()
    retrained = [t for t in engine.trials() if t["config.phase"] == "retrain"]
    best = max(retrained, key=lambda t: t["value"])
    assert found == pytest.approx(best["value"])
    # Of raw pixels: the program standardises them itself.
    assert sorted(p.name for p in Path(row["folder"]).iterdir()) == FILES
    assert accuracy(load_program(row["folder"])) == pytest.approx(best["metric.test_accuracy"])
    assert not any(isinstance(p, torch.nn.parameter.UninitializedParameter) for p in network.parameters())


@MOMENTS
def test_a_search_that_is_killed_anywhere_ends_as_the_uninterrupted_one(tmp_path: Path, moments: str) -> None:
    whole = Engine(tmp_path / "whole", "algorithm=evolution")
    whole.run()
    columns = ["trial", "config_json", "state", "value", "steps", "metric.test_accuracy"]
    for crash_after in MOMENT[moments](whole.reports):
        storage = tmp_path / str(crash_after)
        with pytest.raises(Crash):
            Engine(storage, "algorithm=evolution").run(crash_after)
        again = Engine(storage, "algorithm=evolution")
        again.run()
        assert [[t[c] for c in columns] for t in again.trials()] == [
            [t[c] for c in columns] for t in whole.trials()
        ]
        left_out = {"folder"}
        assert [{k: v for k, v in row.items() if k not in left_out} for row in again.architectures()] == [
            {k: v for k, v in row.items() if k not in left_out} for row in whole.architectures()
        ]


def test_a_supernet_is_trained_once_for_all_algorithms_of_a_store(tmp_path: Path) -> None:
    first = Engine(tmp_path, "algorithm=evolution")
    first.run()
    second = Engine(tmp_path, "algorithm=local_search", name="t")
    second.run()
    assert second.search.key == first.search.key and second.shared == [first.search.key]
    assert "train" not in {t["config.phase"] for t in second.trials()}
    scores = {row["architecture"]: row["score"] for row in first.architectures()}
    both = [row for row in second.architectures() if row["architecture"] in scores]
    assert all(row["score"] == scores[row["architecture"]] for row in both)
    for change in ("seed=1", "train.steps=2", "algorithm.strategy=fairnas", "train.config.lr=0.01"):
        assert Engine(tmp_path, change, name="u").search.key != first.search.key
    recipe = Shelf(first.store.uri).recipe(first.search.key)
    assert recipe["space"] == first.search.space.id and recipe["config"]["strategy"] == "uniform"


def test_limits_hold_for_all_that_is_scored(tmp_path: Path) -> None:
    free = Engine(tmp_path, name="free")
    limit = sorted(free.search.supernet.cost(a, "flops") for a in free.search.space.enumerate())[40]
    engine = Engine(tmp_path, f"constraint.flops={limit}")
    engine.run()
    assert all(row["flops"] <= limit for row in engine.architectures())
    with pytest.raises(UserError, match=r"flops=\d+ is not within"):
        Engine(tmp_path, "constraint.flops=10", name="never").search.check()


def test_children_can_be_trained_instead(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "scoring=child", "search.evaluations=2")
    engine.run()
    assert [t["config.phase"] for t in engine.trials()] == ["child", "child", "retrain", "retrain"]
    assert all(row["supernet"] is None and row["score"] > 0 for row in engine.architectures())


def test_paths_that_share_their_beginnings_have_the_same_scores(tmp_path: Path) -> None:
    apart = Engine(tmp_path / "a", "search.share=false")
    apart.run()
    together = Engine(tmp_path / "b")
    together.run()
    assert [r["score"] for r in apart.architectures()] == [r["score"] for r in together.architectures()]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("algorithm=evolutoin", "evolution"),
        ("supernet=sell", "cell"),
        ("scoring=guess", "supernet"),
        ("front=weight", "flops"),
        ("search.evaluations=0", "search.evaluations=0"),
        ("search.batch=-1", "search.batch=-1"),
        ("search.share=maybe", "search.share=maybe"),
        ("retrain.seeds=0", "retrain.seeds=0"),
        ("constraint.flops=-3", "constraint.flops=-3"),
        ("constraint.energy=3", "constraint.energy"),
        ("algorithm.strategy=unfair", "fairnas"),
        ("train.config.learning_rate=0.1", "train.config.learning_rate"),
        ("train.config.lr=-1", "lr"),
        ("algorithm.options.tournament=3", "algorithm.options"),
        ("data=imagenet", "digits"),
        ("budget.trials=3", "budget.trials"),
        ("seeds=3", "seed"),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_store_alone(
    word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["nas", *SMALL, word, f"storage={tmp_path / 'store'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_the_configuration_can_be_seen_and_helped_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["nas", "--help"]) == 0 and "constraint:" in capsys.readouterr().out
    assert run_cli(["nas", "--help", "algorithm"]) == 0 and "pada" in capsys.readouterr().out
    assert run_cli(["nas", "algorithm=pa_da", "--cfg", "job"]) == 0
    assert "strategy: pada" in capsys.readouterr().out


@pytest.mark.parametrize("group", nas_config.GROUPS)
def test_every_option_of_every_group_composes(group: str) -> None:
    from fairsweep.cluster.config import group_options

    for option in group_options(group):
        settings = nas_config.load([f"{group}={option}"])
        assert nas_config.check(settings.tree).tree == settings.tree


SEARCHES_IN_HELP = ("evolution", "local_search", "nasnet", "nsga2", "pa_da", "random", "tpe")


@pytest.mark.parametrize("name", SEARCHES_IN_HELP)
def test_help_says_every_strategy_and_exactly_the_options_that_there_are(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["nas", "--help", "algorithm"]) == 0
    text = capsys.readouterr().out.partition(f"== algorithm={name}\n")[2].partition("== ")[0]
    said = next(line for line in text.splitlines() if line.startswith("strategy"))
    strategies = catalog.get("pa_da").space().parameters["strategy"].choices
    assert set(said.partition(":")[2].partition(": ")[2].split(" | ")) == set(strategies)
    documented = text.partition("options: {}")[2].partition("of the search")[2]
    for word in re.findall(r"algorithm\.options\.(\w+=\w+)", documented):
        nas_config.load([f"algorithm={name}", f"algorithm.options.{word}"])
    documented = re.sub(r"such as algorithm\.options\.\S+:", "", documented)
    names = set(re.findall(r"(?:^|[ :#])(\w+)(?==|,| \()", documented, re.M))
    space = ChainSpace(2)
    search = create_architecture_search("evolution" if name == "pa_da" else name, space, "max")
    known = set(signature(type(search)).parameters) - COMMON
    assert names == known


FRONT = (
    "algorithm=single_path", "algorithm.values=[0.1,30.0]", "algorithm.seeds=1", "algorithm.steps=3", "retrain.seeds=1",
    "retrain.steps=1", "budget.report_seconds=0",
)  # fmt: skip


FILES = ["architecture.svg", "network.onnx", "program.pt2", "recipe.json", "weights.pt"]


def accuracy(program: Any) -> float:
    """Of raw test digits."""
    data = images.digits()
    logits = program(torch.from_numpy(data.test_images))
    return float((logits.argmax(1).numpy() == data.test_labels).mean())


@pytest.mark.usefixtures("files")
def test_a_front_over_lambda_finds_networks_measures_them_and_trains_them_alone(tmp_path: Path) -> None:
    engine = Engine(tmp_path, *FRONT, "algorithm.values=[30.0]")
    engine.run()
    trials, rows = engine.trials(), engine.architectures()
    assert trials[0]["config.value"] == 30.0
    assert {t["config.phase"] for t in trials[1:]} == {"retrain"}
    assert {t["config.architecture"] for t in trials[1:]} == {row["architecture"] for row in rows}
    assert json.loads(rows[0]["options"])["lmbda"] == 30.0
    for row in rows:
        folder = Path(row["folder"])
        assert (folder / "architecture.svg").is_file()
        assert sorted(p.name for p in folder.iterdir()) == FILES
        recipe = json.loads((folder / "recipe.json").read_text())
        assert recipe["architecture"] == row["architecture"] and not recipe["missing"]
        weights = torch.load(folder / "weights.pt", weights_only=True)
        counted = sum(w.numel() for n, w in weights.items() if not n.endswith(("mean", "var", "tracked")))
        assert row["params"] == counted and row["flops"] > 0 and row["alone_seeds"] == 1
        # These are the weights of the training alone, which the row's test is of, and not the inherited ones.
        (again,) = (t for t in trials[1:] if t["config.architecture"] == row["architecture"])
        assert recipe["reported"]["trial"] == again["trial"] and row["test"] == again["metric.test_accuracy"]
        inherited = folder.parent / row["trial"]
        (first,) = (t for t in trials[:1] if t["trial"] == row["trial"])
        assert sorted(p.name for p in inherited.iterdir()) == FILES
        # The reported test accuracies, in a process that has PyTorch alone, and from recipe and weights.
        wanted = [row["test"], first["metric.test_accuracy"]]
        data = images.digits()
        pixels, labels = torch.from_numpy(data.test_images), torch.from_numpy(data.test_labels)
        assert accuracies([folder, inherited], pixels, labels, tmp_path) == pytest.approx(wanted)
        assert [accuracy(load_network(f)) for f in (folder, inherited)] == pytest.approx(wanted)
    assert any(row["on_front"] for row in rows)


def test_what_a_front_finds_beyond_a_limit_is_not_trained_alone(tmp_path: Path) -> None:
    from torch import nn

    engine = Engine(tmp_path, *FRONT, "constraint.params=100")
    sizes = {0.1: 50, 30.0: 3}
    engine.search.found = lambda trial, value, repeat: Found(
        str(value), nn.Linear(sizes[value], 2), (sizes[value],)
    )
    jobs = engine.search.algorithm().ask(2)
    assert [engine.search.architecture(job) for job in jobs] == [None, "30.0"]


@MOMENTS_OF_LONG_ONES
def test_a_front_that_is_killed_anywhere_ends_as_the_uninterrupted_one(tmp_path: Path, moments: str) -> None:
    whole = Engine(tmp_path / "whole", *FRONT, "data=digits300")
    whole.run()
    for crash_after in MOMENT[moments](whole.reports):
        storage = tmp_path / str(crash_after)
        with pytest.raises(Crash):
            Engine(storage, *FRONT, "data=digits300").run(crash_after)
        again = Engine(storage, *FRONT, "data=digits300")
        again.run()
        assert [{k: v for k, v in row.items() if k != "folder"} for row in again.architectures()] == [
            {k: v for k, v in row.items() if k != "folder"} for row in whole.architectures()
        ]


BUDGET = (
    "algorithm=single_path",
    "algorithm.steps=6",
    "data=digits300",
    "retrain.seeds=1",
    "retrain.steps=1",
)


@pytest.mark.parametrize(
    ("word", "column", "cost"), [("target_flops", "flops", "flops"), ("target_ms", "latency_ms", "latency")]
)
def test_lambda_is_bisected_on_what_the_networks_that_are_found_cost(
    word: str, column: str, cost: str, tmp_path: Path
) -> None:
    """Searches are stood in for: they find 8 lambda^-1/2 thousand multiply-accumulates, or as many milliseconds."""
    from torch import nn

    engine = Engine(tmp_path, *BUDGET, f"{word}=4000")
    run = engine.search
    assert run.settings.front_config(1.0)["cost"] == cost and "over lmbda to " + word in run.title

    def found(trial: str, value: float, repeat: int) -> Found:
        width = round(8000 / value**0.5)
        return Found(f"w{width}", nn.Linear(width, 1, bias=False), (width,), cost=float(width))

    run.found = found
    algorithm, seen = run.algorithm(), []
    while not algorithm.finished:
        (job,) = algorithm.ask(1)
        if job.config["phase"] == "front":
            settings = json.loads(job.config["settings"])["config"]
            assert settings["lmbda"] == job.config["value"] and settings["cost"] == cost
        seen.append((job.config["phase"], job.config["value"], job.config["architecture"]))
        algorithm.tell(job, Outcome(0.5, 1, "complete"))
    # The cost is 4000 at lambda = 4: 1 and then 10 are beside it, 10 ** 0.5 too, and 10 ** 0.625 (3895) is within 5 %.
    fronts = [value for phase, value, _ in seen if phase == "front"]
    assert fronts == [1.0, 10.0, 3.16228, 5.62342, 4.21697]
    assert [text for phase, _, text in seen if phase == "retrain"] == ["w3896"]
    rows = [
        {"number": k, column: 8000 / v**0.5, "architecture": "a", "options": "{}"}
        for k, v in enumerate(fronts)
    ]
    answer = nas_budget.answer(run.settings.tree, rows)
    assert answer is not None and answer["within"] and answer["number"] == 4
    assert nas_budget.in_words(answer).startswith(
        f"{word}=4,000: 3,895.74 (-2.6%) after 5 of at most 6 searches; a"
    )
    far = nas_budget.answer(run.settings.tree, rows[:2])
    assert (
        far is not None and not far["within"] and "the nearest: none is within 5%" in nas_budget.in_words(far)
    )
    assert nas_config.check(run.settings.tree).tree == run.settings.tree


def test_what_is_near_a_budget_but_breaks_a_limit_is_not_what_was_found(tmp_path: Path) -> None:
    """Networks of 40 or 90 parameters cost about as much; one may have 50 at most."""
    from torch import nn

    engine = Engine(tmp_path, *BUDGET, "target_flops=4000", "constraint.params=50")
    run = engine.search

    def found(trial: str, value: float, repeat: int) -> Found:
        length = round(100 / value**0.5)
        net = nn.Conv1d(1, 1, 40 if value > 4.5 else 90, padding="same", bias=False)
        return Found(f"v{value:g}", net, (1, length), cost=1.0)

    run.found = found
    algorithm, seen = run.algorithm(), []
    while not algorithm.finished:
        (job,) = algorithm.ask(1)
        seen.append(job)
        algorithm.tell(job, Outcome(0.5, 1, "complete"))
    values = {job.config["value"]: run.cost(job) for job in seen if job.config["phase"] == "front"}
    (alone,) = (job.config["architecture"] for job in seen if job.config["phase"] == "retrain")
    kept = {value: cost for value, cost in values.items() if value > 4.5}
    assert kept and len(kept) < len(values)
    assert alone == f"v{min(kept, key=lambda v: abs(kept[v] - 4000)):g}"
    rows = [
        {
            "number": k,
            "flops": cost,
            "params": 40 if value > 4.5 else 90,
            "architecture": "a",
            "options": "{}",
        }
        for k, (value, cost) in enumerate(values.items())
    ]
    answer = nas_budget.answer(run.settings.tree, rows)
    assert answer is not None and answer["kept"] and rows[answer["number"]]["params"] == 40
    broken = nas_budget.answer(run.settings.tree, [row for row in rows if row["params"] == 90])
    assert broken is not None and not broken["within"]
    assert "the nearest; but none keeps the limits" in nas_budget.in_words(broken)


@pytest.mark.slow
def test_a_search_to_a_budget_is_resumed_anywhere_and_says_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*BUDGET, "target_flops=200000")
    whole = Engine(tmp_path / "whole", *words)
    whole.search.check()
    whole.run()
    rows = whole.architectures()
    fronts = [t for t in whole.trials() if t["config.phase"] == "front"]
    assert 1 <= len(fronts) == len(rows) <= 6
    for row in rows:  # what was bisected on is what the network costs
        assert row["flops"] == whole.search._paper(1.0, 0).runtime.of_path(
            create_space("mbconv", "laptop").parse(row["architecture"])
        )
    nearest = min(rows, key=lambda row: abs(row["flops"] / 200_000 - 1))
    assert len(fronts) == 6 or abs(nearest["flops"] / 200_000 - 1) <= 0.05
    (alone,) = (t for t in whole.trials() if t["config.phase"] == "retrain")
    assert alone["config.architecture"] == nearest["architecture"]
    assert runs._searched(sweep.Result("s", whole.store.uri, "finished"), False) == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith("target "))
    assert line.startswith(f"target   target_flops=200,000: {nearest['flops']:,}")
    assert nearest["architecture"] in line
    for crash_after in (3, whole.reports - 2):
        with pytest.raises(Crash):
            Engine(tmp_path / str(crash_after), *words).run(crash_after)
        again = Engine(tmp_path / str(crash_after), *words)
        again.run()
        assert [t["config.value"] for t in again.trials()] == [t["config.value"] for t in whole.trials()]
        assert [r["architecture"] for r in again.architectures()] == [r["architecture"] for r in rows]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["target_flops=10"], "target_flops=10: must be from 65,056 to 361,888"),
        (["target_flops=-1"], "target_flops=-1"),
        (["target_flops=many"], "target_flops=many"),
        (["target_flops=100000", "target_ms=1"], "leave one out"),
        (
            ["target_flops=100000", "algorithm.values=[1]"],
            "algorithm.values=[1]: has no meaning with target_flops=100000",
        ),
        (["target_flops=100000", "algorithm.seeds=2"], "algorithm.seeds=2: has no meaning"),
        (
            ["target_flops=100000", "algorithm.config.cost=params"],
            "algorithm.config.cost=params: must be flops",
        ),
        (
            ["++target_flops=100000", "algorithm.values=[1]"],
            "algorithm.values=[1]: has no meaning with target_",
        ),
        (
            ["target_flops=100000", "constraint.flops=50000"],
            "constraint.flops=50,000: must be at least 95,000 with target_flops=100,000",
        ),
        (
            ["target_flops=100000", "constraint.params=1889"],
            "constraint.params=1,889: must be at least 1,890, what the cheapest network",
        ),
        (["constraint.flops=65055"], "constraint.flops=65,055: must be at least 65,056"),
        (
            ["algorithm.config.lmbda=3"],
            "algorithm.config.lmbda=3: single_path is run at several; must be given",
        ),
        (["target_flops=100000", "algorithm.config.lmbda=3"], "target_flops bisects it; leave it out"),
        (["train.steps=3"], "train.steps=3: is of a supernet; the epochs of single_path are algorithm.steps"),
        (["train.config.lr=0.1"], "train.config.lr=0.1: is of a supernet or a trainable"),
        (["target_ms=1", "algorithm.config.cost=flops"], "algorithm.config.cost=flops: must be latency"),
        (
            ["target_ms=1", "algorithm=evolution"],
            "target_ms=1: algorithm=evolution has none; single_path does",
        ),
        (["target_ms=1", "algorithm=oto_v2"], "target_ms=1: algorithm=oto_v2 has none; single_path does"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["nas", "algorithm=single_path", *words, f"storage={tmp_path / 'store'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1 and not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("algorithm.values=[]", "algorithm.values"),
        ("algorithm.values=[1,1]", "different"),
        ("algorithm.knob=lamda", "lmbda"),
        ("algorithm.trainer=biper", "does not find networks"),
        ("algorithm.values=[-1]", "lmbda"),
        ("algorithm.config.cots=flops", "cost"),
        ("algorithm.seeds=0", "algorithm.seeds=0"),
    ],
)
def test_a_front_that_cannot_be_is_refused_in_one_line(
    word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["nas", "algorithm=single_path", word, f"storage={tmp_path / 'store'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_less_than_was_asked_is_said() -> None:
    """At the end of a short training, or of a gentle one, not all that is to go is zero."""
    share = "metric.test_group_sparsity"
    trials = [
        {"config.phase": "front", "config.value": 0.5, "trial": trial, share: found}
        for trial, found in (("a", 0.25), ("b", 0.5), ("c", 0.53), ("d", None))
    ]
    said = "target=0.5: only 0.25 (a) of what can go is zero (chains go whole; more algorithm.steps may help)"
    assert nas_report.targets_missed(trials) == said
    assert nas_report.targets_missed(trials[1:]) is None
    assert nas_report.targets_missed([{"config.phase": "front", "config.value": 30.0, "trial": "a"}]) is None


def test_where_the_networks_lie_is_said() -> None:
    rows: list[dict[str, Any]] = [
        {"architecture": name, "score": score, "folder": folder}
        for name, score, folder in (("a", 0.1, "/a"), ("b", 0.3, "/b"), ("c", 0.2, None))
    ]
    words = ["best     b", "model    /b", "drawing  /b/architecture.svg", "also     /a"]
    assert nas_report.where(rows, []) == words  # of a front without a retraining too
    assert nas_report.where(rows, [rows[0]]) == ["best     a", "model    /a", "drawing  /a/architecture.svg"]
    assert nas_report.where([rows[2]], []) == []
