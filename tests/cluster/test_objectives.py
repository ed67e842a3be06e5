"""Sweeps with several objectives, without Ray: points, fronts, limits, what searches are told, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.fronts import hypervolume, pareto
from fairsweep.analysis.trade_offs import front
from fairsweep.cluster import api, config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.trainables import catalog
from tests.cluster.test_conductor import Crash, configs, engine, trials

TRADE = ("trainable=test_trade", "metric=[val_loss,size]", "budget.trials=14")


def point(t: dict[str, Any]) -> tuple[float, float]:
    return t["metric.val_loss"], t["metric.size"]


@pytest.mark.parametrize("search", ["tpe", "nsga2", "random", "grid", "listed"])
def test_every_search_that_can_finds_a_front(tmp_path: Path, search: str) -> None:
    more = {"nsga2": ["search.population=4"], "listed": ["search.configs=[{y: 0}, {y: 3}, {y: 3, x: 1}]"]}
    run = engine(tmp_path, *TRADE, f"search={search}", *more.get(search, []))
    run.run()
    rows = trials(run.store)
    results = run.store.table("results", "s").to_pylist()
    for t in rows:  # the point is one model's: both at the step of the best loss
        own = [r for r in results if r["trial"] == t["trial"]]
        best = min(own, key=lambda r: r["metric.val_loss"])
        assert point(t) == (best["metric.val_loss"], best["metric.size"]) and t["value"] == point(t)[0]
    found = front(run.store.table("trials", "s"), {"val_loss": "min", "size": "min"})
    wanted = pareto([point(t) for t in rows], ("min", "min"))
    assert [p.on_front for p in found.points] == wanted and any(wanted)
    if search == "listed":
        assert [p.config_id for p in found.best] == [1, 0]


@pytest.mark.parametrize("search", ["tpe", "nsga2"])
@pytest.mark.parametrize("limits", ["", "constraints={size: {max: 3}}"])
def test_a_crash_leaves_the_same_sweep(tmp_path: Path, search: str, limits: str) -> None:
    what = [*TRADE[:2], "budget.trials=16", f"search={search}"] + ([limits] if limits else [])
    what += ["search.population=4"] if search == "nsga2" else []
    whole = engine(tmp_path / "whole", *what)
    whole.run()
    with pytest.raises(Crash):
        engine(tmp_path / "cut", *what).run(crash_after=29)
    cut = engine(tmp_path / "cut")
    cut.run()
    assert configs(cut.store) == configs(whole.store)
    assert [point(t) for t in trials(cut.store)] == [point(t) for t in trials(whole.store)]


def test_the_searches_are_told_both_objectives_and_what_breaks_a_limit(tmp_path: Path) -> None:
    run = engine(tmp_path, *TRADE, "seeds=2", "constraints={size: {max: 3, min: 1}}")
    algorithm: Any = run.run().algorithm
    rows = trials(run.store)
    for number, told in enumerate(algorithm.study.trials):
        own = [t for t in rows if t["config_id"] == number]
        assert told.values == pytest.approx([sum(v) / 2 for v in zip(*map(point, own), strict=True)])
        size = told.values[1]
        assert told.constraints == pytest.approx({"size.max": size - 3, "size.min": 1 - size})
    rebuilt: Any = engine(tmp_path).conductor.algorithm
    assert [t.constraints for t in rebuilt.study.trials] == [t.constraints for t in algorithm.study.trials]


def test_limits_come_first_and_the_front_is_said_with_intervals_and_volume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = [
        "trainable=test_trade",
        "metric=[val_loss,size]",
        "seeds=3",
        "search=listed",
        "constraints={size: {max: 3}}",
    ]
    run = engine(tmp_path, *what, "search.configs=[{y: 0}, {y: 2}, {y: 5}, {y: 2, x: 1}]")
    run.run()
    storage = ["--storage", str(tmp_path)]
    assert run_cli(["best", "s", *storage, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)
    assert [p["config_id"] for p in best["front"]] == [1, 0], "the third has the least loss, and is too large"
    assert best["objectives"] == {"val_loss": "min", "size": "min"}
    low, high = best["front"][0]["metrics"]["val_loss"]["ci95"]
    assert low < best["front"][0]["metrics"]["val_loss"]["mean"] < high
    kept = [(p["metrics"]["val_loss"]["mean"], p["metrics"]["size"]["mean"]) for p in best["front"]]
    reference = (best["reference"]["val_loss"], best["reference"]["size"])
    assert best["hypervolume"] == pytest.approx(hypervolume(kept, ("min", "min"), reference))
    assert run_cli(["best", "s", *storage]) == 0
    said = capsys.readouterr().out
    assert "front of 4 configurations (val_loss min, size min)" in said and "hypervolume" in said
    assert run_cli(["show", "s", *storage]) == 0
    assert "front: configurations 1, 0" in capsys.readouterr().out
    sweep = api.open("s", tmp_path)
    table = sweep.front(reference={"val_loss": 2.0, "size": 10.0})
    assert table["config_id"].to_pylist() == [1, 0] and table["size.low"][0].as_py() is not None
    assert float(table.schema.metadata[b"hypervolume"]) == pytest.approx(
        hypervolume(kept, ("min", "min"), (2, 10))
    )
    assert "front of val_loss, size: 2 configurations" in sweep._repr_html_()
    with pytest.raises(UserError, match="must say a value of val_loss, size each"):
        sweep.front(reference={"size": 1.0})


def test_where_nothing_keeps_the_limits_what_breaks_them_least_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = [
        "trainable=test_trade",
        "metric=[size,val_loss]",
        "search=listed",
        "constraints={size: {max: -1}}",
    ]
    engine(tmp_path, *what, "search.configs=[{y: 0}, {y: 2}]").run()
    assert run_cli(["best", "s", "--storage", str(tmp_path)]) == 0
    assert 'no configuration keeps {"size": {"max": -1.0}}' in capsys.readouterr().out


def test_the_first_objective_is_the_trainables_own_where_it_is_among_them(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_trade", "metric=[size,val_loss]", "budget.trials=2")
    run.run()
    (row,) = run.store.table("sweeps", "s").to_pylist()
    assert (row["objective"], row["mode"]) == ("val_loss", "min")
    assert json.loads(row["objectives"]) == {"size": "min", "val_loss": "min"}
    assert all(t["value"] == t["metric.val_loss"] and t["best_step"] == 3 for t in trials(run.store))


OWN = """
import fairsweep

@fairsweep.trainable(space={"depth": (1, 8)}, metric="acc", mode="max")
def train(config):
    for step in range(3):
        yield {"acc": 1 - 1 / config["depth"] + step / 100, **%s}
"""


def own(folder: Path, report: str, *words: str) -> Any:
    (folder / "train.py").write_text(OWN % report)
    what = ["trainable=train.py:train", "search=random", "budget.trials=4", *words]
    return engine(folder / "store", *what)


def test_an_own_function_has_objectives_that_it_never_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    what = ["metric=[acc,ms]", "mode=[max,min]", "constraints={mb: {max: 4}}"]
    run = own(tmp_path, "{'ms': float(config['depth']), 'mb': config['depth'] / 2}", *what)
    run.run()
    rows = trials(run.store)
    assert all((t["metric.ms"], t["metric.mb"]) == (t["config.depth"], t["config.depth"] / 2) for t in rows)
    assert run.conductor.algorithm is not None and len(api.open("s", tmp_path / "store").front()) == 4


def test_a_trial_that_never_reports_an_objective_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = own(
        tmp_path,
        "({'ms': 1.0} if config['depth'] > 4 else {})",
        "metric=[acc,ms]",
        "mode=[max,min]",
        "seed=1",
    )
    run.run()
    rows = trials(run.store)
    assert {t["state"] for t in rows} == {"complete", "failed"}
    assert {t["reason"] for t in rows if t["state"] == "failed"} == {"never reported ms"}


def test_papers_take_any_of_their_validation_metrics() -> None:
    settings = config.load(["trainable=dagnn", "metric=[val_accuracy,val_loss]"])
    assert settings.paper.objective == catalog.get("dagnn").objective
    with pytest.raises(UserError, match="metric=params: dagnn has no such validation metric"):
        config.load(["trainable=dagnn", "metric=[val_accuracy,params]"])


RUN = ["trainable=test_trade", "metric=[val_loss,size]"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([*RUN, "search=gp"], ["search=gp: tunes on one metric", "tpe or nsga2"]),
        ([*RUN, "search=cmaes"], ["search=cmaes: tunes on one metric"]),
        ([*RUN, "scheduler=asha"], ["scheduler=asha", "must be none"]),
        ([*RUN, "scheduler=pbt"], ["scheduler=pbt", "must be none"]),
        (["trainable=test_trade", "metric=[val_loss,size,size]"], ["size is named twice"]),
        (["trainable=test_trade", "metric=[]"], ["metric=[]", "such as [a,b]"]),
        (["trainable=test_trade", "metric=[val_loss,3]"], ["must be the name of a metric"]),
        ([*RUN, "mode=[min,min,max]"], ["mode=['min', 'min', 'max']", "2 of them"]),
        ([*RUN, "mode=[min,up]"], ["mode=up", "min or max"]),
        ([*RUN, "mode=[min,max]"], ["mode=max", "size"]),
        (["trainable=test_trade", "mode=[min,max]"], ["metric names none"]),
        (["trainable=test_trade", "metric=size", "mode=[min,max]"], ["metric=size is one"]),
        ([*RUN[:1], "metric=[val_loss,test_loss]"], ["metric=test_loss", "test data"]),
        (["trainable=test_trade", "constraints={size: {max: 3}}"], ["constraints", "metric=[a,b]"]),
        ([*RUN, "constraints={size: 3}"], ["constraints.size=3", "must say max, min or both"]),
        ([*RUN, "constraints={size: {most: 3}}"], ["constraints.size", "must say max, min or both"]),
        ([*RUN, "constraints={size: {max: much}}"], ["constraints.size.max=much", "number"]),
        ([*RUN, "constraints={size: {max: 1, min: 2}}"], ["constraints.size", "min is above max"]),
        ([*RUN, "constraints={sise: {max: 1}}"], ["constraints.sise", "did you mean size?"]),
        ([*RUN, "constraints={test_loss: {max: 1}}"], ["constraints.test_loss", "test data"]),
        (["trainable=test_trade", "search=nsga2"], ["search=nsga2", "several objectives"]),
        ([*RUN, "search=nsga2", "search.population=1"], ["search.population=1", "at least 2"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        config.load(words)
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in parts), line
