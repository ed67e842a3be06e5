"""Claims as paired sweeps: what runs, what is shared, what is taken up again, what is said."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fairsweep.analysis import _layout
from fairsweep.analysis.store import Store, SweepLocked
from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.fleet import Fleet
from fairsweep.cluster.engine.nodes import Room
from fairsweep.cluster.errors import MissingData, UserError
from fairsweep.cluster.jobs import claims, claims_running
from fairsweep.trainables import catalog
from tests.cluster.test_compare import here


def plan(tmp_path: Path, *slugs: str, **options):
    return claims.plan(slugs, "r", str(tmp_path / "store"), **options)


@pytest.mark.parametrize("slug", [s for s in catalog.slugs() if not s.startswith("test_")])
def test_every_claim_of_every_paper_can_be_planned(slug: str, tmp_path: Path) -> None:
    """Its arms lie in the paper's space, and differ in what the claim says and nothing else."""
    declared = catalog.get(slug).claims
    if not declared:
        pytest.skip("declares no claims")
    planned = [(c, arms) for g in plan(tmp_path, slug) for c, arms in zip(g.claims, g.arms, strict=True)]
    assert {c.name for c, _ in planned} == {c.name for c in declared}
    for claim, arms in planned:
        for arm, whole in zip(claim.arms, arms, strict=True):
            assert {n: whole[n] for n in arm} == dict(arm)
        assert set(claim.tunes) <= set(catalog.get(slug).space().parameters)
        if claim.baseline is None:
            continue
        treatment, baseline = arms
        assert treatment != baseline
        shared = set(treatment) & set(baseline) - set(claim.treatment) - set(claim.baseline)
        assert {n: treatment[n] for n in shared} == {n: baseline[n] for n in shared}


def test_an_arm_that_two_claims_name_runs_once(tmp_path: Path) -> None:
    (group,) = plan(tmp_path, "dagnn", seed=7)
    assert [c.name for c in group.claims] == ["depth_beats_deep_gcn", "gate_pays_when_deep"]
    configs = group.settings.search["configs"]
    assert [c["model"] for c in configs] == ["dagnn", "gcn", "decoupled_last"]
    assert group.settings.budget["trials"] == 3 and group.settings.budget["steps"] == 100
    assert (group.settings.seed, group.settings.seeds, group.data) == (7, 5, "csbm")
    assert [p.fixed for n, p in group.settings.space.parameters.items() if n in ("model", "patience")] == [
        False,
        True,
    ], "what the claims name is freed, the rest stays as declared"


def test_claims_that_differ_in_data_budget_or_seeds_run_apart(tmp_path: Path) -> None:
    groups = plan(tmp_path, "biper", "pgn", seeds=2)
    names = [g.settings.name for g in groups]
    assert len(set(names)) == len(names) and all(g.settings.seeds == 2 for g in groups)
    only = plan(tmp_path, "pgn", only=["short_branch_helps"])
    assert [c.name for g in only for c in g.claims] == ["short_branch_helps"]


def test_what_cannot_be_asked_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--only=nonesuch"):
        plan(tmp_path, "dagnn", only=["nonesuch"])
    for words, expected in (
        (["--seeds", "1"], "--seeds=1: must be at least 2"),
        (["--seed", "-1"], "--seed=-1"),
        (["space.K=3"], "does not know space.K=3"),
        (["nopaper"], "trainable=nopaper"),
        (["--tuned", "--tuning-trials", "1"], "--tuning-trials=1: must be at least 2"),
        (["--tuning-trials", "4"], "--tuning-trials=4: goes with --tuned"),
        (["name=a", "--name", "b"], "name=a: the run is named twice"),
    ):
        assert run_cli(["claims", "dagnn", *words, "--storage", str(tmp_path / "store")]) == 2
        assert expected in capsys.readouterr().err
    assert run_cli(["claims", "--storage", str(tmp_path / "store")]) == 2
    assert "say of which papers" in capsys.readouterr().err, "hours of work are not begun unasked"
    assert run_cli(["claims", "--report", "r", "--storage", str(tmp_path / "store")]) == 2
    assert "--report=r: " in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_arms_are_chosen_among_equally_many_configurations_under_seeds_that_the_pairs_do_not_use(
    tmp_path: Path,
) -> None:
    (group,) = plan(tmp_path, "dagnn", seed=7, tuned=4)
    tuning = group.tuning
    assert tuning is not None and tuning.settings.name == f"{group.settings.name}-tuning"
    assert set(group.claims[0].tunes) == {"hidden", "lr", "decay", "weight_decay", "dropout"}
    for arms, own in zip(tuning.candidates, group.arms, strict=True):
        assert [len(arm) for arm in arms] == [4, 4] and tuple(arm[0] for arm in arms) == own
        treatment, baseline = arms
        for a, b in zip(treatment[1:], baseline[1:], strict=True):
            assert a["model"] != b["model"] and a["K"] == b["K"] == 16, "what the claim is about stays"
            assert (a["lr"], a["decay"], a["hidden"]) == (b["lr"], b["decay"], b["hidden"]), "the same draws"
    of_tuning = range(tuning.settings.seed, tuning.settings.seed + tuning.settings.seeds)
    assert not set(of_tuning) & set(range(7, 7 + group.settings.seeds))
    assert tuning.settings.budget["trials"] == 12 and tuning.settings.budget["steps"] == 100
    assert plan(tmp_path, "dagnn", seed=7, tuned=4)[0].tuning == tuning, (
        "a run that is taken up draws the same"
    )
    assert plan(tmp_path, "diffusion_gahb", tuned=4)[0].tuning is None, "one method under two conditions"

    def trial(config: dict, value: float | None, state: str = "complete") -> dict:
        return {"config_json": json.dumps(config), "state": state, "value": value}

    rows = [trial(c, 0.5) for arms in tuning.candidates for arm in arms for c in arm for _ in (0, 1)]
    rows += [trial(tuning.candidates[0][1][2], 0.9)] * 2
    rows += [trial(tuning.candidates[1][1][3], None, "failed"), trial(tuning.candidates[1][1][3], 0.99)]
    chosen = tuning.choose(pa.Table.from_pylist(rows))
    assert chosen[0] == (tuning.candidates[0][0][0], tuning.candidates[0][1][2]), "of equals, the arm's own"
    final = group.with_arms(chosen)
    assert final.settings.search["configs"][1] == tuning.candidates[0][1][2]
    assert (final.settings.name, final.settings.seed) == (group.settings.name, 7)


def test_a_sweep_of_another_run_is_not_taken_for_this_one(tmp_path: Path) -> None:
    (group,) = plan(tmp_path, "dagnn", seed=7)
    stored = plan(tmp_path, "dagnn", seed=8)[0].settings.tree
    with pytest.raises(UserError, match="ran with seed=8, and now it would be 7"):
        claims._check_same(group.settings, stored)
    claims._check_same(
        plan(tmp_path, "dagnn", seed=7, only=["gate_pays_when_deep"])[0].settings, group.settings.tree
    )
    with pytest.raises(UserError, match="other configurations"):
        claims._check_same(
            group.with_arms([({**a[0], "lr": 0.002}, a[1]) for a in group.arms]).settings, group.settings.tree
        )


def test_listed_configurations_are_made_whole_or_refused() -> None:
    settings = config.load(["trainable=dagnn", "search=listed", "search.configs=[{K: 4}, {K: 9, lr: 0.02}]"])
    assert settings.budget["trials"] == 2
    first = config.load(
        ["trainable=dagnn", "search=listed", "search.configs=[{K: 4}, {K: 9}]", "budget.trials=1"]
    )
    assert first.budget["trials"] == 1
    assert [(c["K"], c["lr"], c["hidden"]) for c in settings.search["configs"]] == [
        (4, 0.01, 64),
        (9, 0.02, 64),
    ]
    assert config.check(settings.tree).search == settings.search
    for configs, words in (
        ("[]", "search.configs=[]"),
        ("[3]", "search.configs[0]=3"),
        ("[{K: 4}, {k: 4}]", "search.configs[1]"),
        ("[{K: 400}]", "K=400"),
        ("[{model: gcn}]", "model='gcn'"),
        ("[{decay: false, weight_decay: 0.1}]", "exists only when"),
    ):
        with pytest.raises(UserError) as error:
            config.load(["trainable=dagnn", "search=listed", f"search.configs={configs}"])
        assert words in str(error.value)


def test_what_is_listed_is_what_is_tried_before_the_sweep(tmp_path: Path) -> None:
    """The paper's own configuration need not fit the data that a claim is about."""
    from fairsweep.cluster.jobs.sweep import _first_config

    settings = config.load(["trainable=dagnn", "search=listed", "search.configs=[{K: 3}]"])
    assert _first_config(settings, "cora")["K"] == 3
    assert _first_config(config.load(["trainable=dagnn"]), "cora")["K"] == 10
    assert _first_config(config.load(["trainable=dagnn", "space.K.high=4"]), "cora")["K"] <= 4


@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(200)
def test_claims_run_judge_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "store")
    words = ["claims", "dagnn", "--name", "r", "--storage", store, "--json", "--seeds", "2"]
    assert run_cli(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["claim"] for row in answer["claims"]] == ["depth_beats_deep_gcn", "gate_pays_when_deep"]
    trials = Store(store).table("trials", "r-dagnn").to_pylist()
    assert len(trials) == 6 and {t["seed"] for t in trials} == {0, 1}
    for row in answer["claims"]:
        arms = [
            {t["seed"]: t["metric.test_accuracy"] for t in trials if t["config_json"] == row[arm]}
            for arm in ("treatment", "baseline")
        ]
        assert row["effect"] == pytest.approx(sum(arms[0][s] - arms[1][s] for s in (0, 1)) / 2)
        assert row["ci_low"] <= row["effect"] <= row["ci_high"] and row["pairs"] == 2
    assert len(Store(store).table("claims").to_pylist()) == 2
    assert run_cli(["claims", "--report", "r", "--storage", store]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 4
        and lines[2].startswith("| `dagnn` | At depth 16")
        and lines[2].endswith("1 of 1 / 1 of 1 |")
    )
    before = Store(store).table("trials", "r-dagnn")
    assert run_cli(words) == 0, "a finished run is judged again, not run again"
    assert Store(store).table("trials", "r-dagnn").equals(before)
    assert json.loads(capsys.readouterr().out)["claims"][0]["effect"] == answer["claims"][0]["effect"]
    assert run_cli([*words, "--only", "gate_pays_when_deep"]) == 0
    assert len(json.loads(capsys.readouterr().out)["claims"]) == 1
    kept = Store(store).table("claims").to_pylist()
    assert {r["claim"] for r in kept} == {"depth_beats_deep_gcn", "gate_pays_when_deep"}, "none is lost"


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Runs are driven in this process, on three slots; gives which sweeps were open at each report."""
    together: list[set[str]] = []

    def driven(settings: Any, fleet: Fleet, display: Any, resume: str, name: str) -> str:
        reports = fleet.reports

        def noted(*told: Any) -> str | None:
            together.append(set(fleet.lanes))
            return reports(*told)

        monkeypatch.setattr(fleet, "reports", noted)
        here(fleet)
        return fleet.close()

    monkeypatch.setattr(claims, "connected", lambda options: nullcontext())
    monkeypatch.setattr(claims_running.readiness, "room", lambda *asked: Room(3))
    monkeypatch.setattr(claims_running, "drive_fleet", driven)
    return together


def test_sweeps_of_a_run_share_the_workers(tmp_path: Path, without_ray: list[set[str]]) -> None:
    groups = plan(tmp_path, "test_claiming")
    rows, state = claims.run(groups, "r", str(tmp_path / "store"), quiet=True)
    assert state == "finished"
    assert [(r["claim"], r["pairs"], r["sweep"]) for r in rows] == [
        ("kind_matters_not_bowl", 5, "r-test_claiming-1"),
        ("kind_matters_not_bowl2", 5, "r-test_claiming-2"),
    ]
    assert {"r-test_claiming-1", "r-test_claiming-2"} in without_ray, (
        "the second waited for the first's last trial"
    )
    store = Store(tmp_path / "store")
    assert store.table("claims").num_rows == 2
    told = len(without_ray)
    again, _ = claims.run(plan(tmp_path, "test_claiming"), "r", str(tmp_path / "store"), quiet=True)
    assert [{**row, "judged": None} for row in again] == [{**row, "judged": None} for row in rows]
    assert len(without_ray) == told, "nothing is run again"


def test_arms_are_tuned_before_they_meet(tmp_path: Path, without_ray: list[set[str]]) -> None:
    groups = plan(tmp_path, "test_claiming", tuned=8)
    rows, _ = claims.run(groups, "r", str(tmp_path / "store"), quiet=True)
    assert [r["tuning"] for r in rows] == ["r-test_claiming-1-tuning", "r-test_claiming-2-tuning"]
    store = Store(tmp_path / "store")
    for row in rows:
        tried = store.table("trials", row["tuning"]).to_pylist()
        best = min(tried, key=lambda t: t["value"])
        assert json.loads(row["treatment"])["x"] == json.loads(best["config_json"])["x"] != 0.5
        assert not any(row["sweep"] in open_ and row["tuning"] in open_ for open_ in without_ray)


def test_claims_whose_data_are_missing_are_left_open_and_the_others_go_on(
    tmp_path: Path, without_ray: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def preflight(settings: config.Settings, paper: Any) -> None:
        if settings.data == "bowl":
            raise MissingData("data=bowl: nowhere to be found")

    monkeypatch.setattr(claims_running.sweep, "preflight", preflight)
    rows, state = claims.run(plan(tmp_path, "test_claiming"), "r", str(tmp_path / "store"), quiet=True)
    assert state == "finished"
    assert [(r["size_verdict"], r["pairs"]) for r in rows[:1]] == [("inconclusive", 0)]
    assert rows[0]["reason"] == "data=bowl: nowhere to be found"
    assert rows[1]["pairs"] == 5
    assert Store(tmp_path / "store").sweeps() == ["r-test_claiming-2"]
    assert Store(tmp_path / "store").derived("claims", "r").num_rows == 2


def test_a_sweep_that_another_driver_writes_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "connected", lambda options: pytest.fail("Ray was started"))
    groups, store = plan(tmp_path, "test_claiming"), Store(tmp_path / "store")
    log = _layout.Paths(str(groups[-1].settings.name)).log
    store.folder.make(log)
    held = _layout.claim(store.folder, log)
    held.acquire("it")
    with pytest.raises(SweepLocked, match=f"sweep {groups[-1].settings.name} is being written by process"):
        claims.run(groups, "r", store.uri, quiet=True)
    held.release()
