"""Trials that several processes train together: `trainers=N`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster import config
from fairsweep.cluster.engine import group
from fairsweep.cluster.engine.nodes import check_own, cluster_of, needs_of_place, room
from fairsweep.cluster.engine.place import Place
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import growth, sweep
from fairsweep.cluster.jobs.comparing import plan
from fairsweep.cluster.jobs.driving import resources_of_place
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Setting
from tests.cluster.test_conductor import engine, trials

CAN = "att_swin_unet, biper, diffusion_gahb, dual_head_kd, dual_hypergraph, multi_output_deblur, nasnet, oto_v2,"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainable=biper", "trainers=0"], "trainers=0: must be a whole number of at least 1"),
        (["trainable=biper", "trainers=1.5"], "trainers=1.5: must be a whole number"),
        (
            ["trainable=dagnn", "trainers=2"],
            f"trainers=2: must be 1 with trainable=dagnn, whose training cannot be shared; that of {CAN} oto_v3,",
        ),
        (
            ["trainable=biper", "trainers=17"],
            "trainers=17: batch_size=32 can be drawn, and must be at least 34: each trains on 2 examples of a batch",
        ),
        (
            ["trainable=biper", "trainers=33", "space.batch_size=64"],
            "trainers=33: batch_size=64 can be drawn, and must be at least 66",
        ),
        (
            ["trainable=biper", "trainers=20", "search=listed", "search.configs=[{batch_size: 36}]"],
            "trainers=20: batch_size=36 can be drawn, and must be at least 40",
        ),
        (
            ["trainable=dual_hypergraph", "data=cora", "trainers=2"],
            "trainers=2: must be 1 here: data=cora is one graph, which has no batches to share",
        ),
    ],
)
def test_what_cannot_be_trained_together_is_said(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        config.load(words)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_functions_of_ones_own_are_trained_by_one_process(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(
        "import fairsweep\n\n@fairsweep.trainable(space={'lr': (0.0, 1.0)}, metric='loss', mode='min')\n"
        "def train(trial, lr):\n    trial.report(loss=lr)\n"
    )
    with pytest.raises(
        UserError, match=r"trainers=2: must be 1 with trainable=.*train.py:train, whose training"
    ):
        config.load([f"trainable={file}:train", "trainers=2"])


def test_settings_of_older_sweeps_have_one_trainer_and_no_sweep_changes_how_many(tmp_path: Path) -> None:
    tree = config.load(["trainable=biper", "trainers=2"]).tree
    assert tree["trainers"] == 2
    assert config.check({k: v for k, v in tree.items() if k != "trainers"}).trainers == 1
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1")
    run.run()
    assert trials(run.store)[0]["trainers"] == 1
    with pytest.raises(UserError, match="trainers=2: it can be resumed with other values of"):
        growth.regrown(run.store.read("s"), ["trainers=2"], config.check)


def test_methods_of_a_comparison_that_cannot_share_are_named(tmp_path: Path) -> None:
    words = ["biper:weight_mode=fp,ste", "budget.trials=2", "trainers=2"]
    made = plan.asked(words, "c", str(tmp_path))
    assert {made.search(e, 0).trainers for e in made.entrants} == {2}
    assert {made.final(e, 0, e.settings.space.first("digits")).trainers for e in made.entrants} == {2}
    with pytest.raises(UserError, match="gcn: trainers=2: must be 1 with trainable=dagnn"):
        plan.asked(["dagnn:model=gcn,appnp", "budget.trials=2", "trainers=2"], "d", str(tmp_path))


def test_each_of_the_trainers_takes_what_a_trial_does(tmp_path: Path) -> None:
    nodes = [{"CPU": 3.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]  # a trial may be on both
    assert room({"cpus_per_trial": 1, "trainers": 3}, None, nodes).slots == 2
    assert room({"cpus_per_trial": 2, "trainers": 3}, None, nodes).slots == 1
    half = {"cpus_per_trial": 1, "gpus_per_trial": 0.5, "trainers": 2}
    assert room(half, None, nodes).slots == 2 and needs_of_place(half) == {"CPU": 2, "GPU": 1.0}
    with pytest.raises(
        UserError, match=r"trainers=4 times cluster.cpus_per_trial=2: the cluster's 2 nodes have 7 CPU"
    ):
        room({"cpus_per_trial": 2, "trainers": 4}, None, nodes)
    with pytest.raises(UserError, match=r"trainers=3 times cluster.cpus_per_trial=1: cluster.cpus=2 is less"):
        check_own({"cpus": 2, "cpus_per_trial": 1, "trainers": 3})
    settings = config.load(["trainable=biper", "trainers=2", "cluster.cpus_per_trial=3"])
    post = sweep.make_post(settings, Store(tmp_path), "s")
    assert (post.trainers, post.each) == (2, {"CPU": 3, "GPU": 0})
    assert cluster_of(settings)["trainers"] == 2
    assert resources_of_place(settings) == {"memory": 1}, "the place itself computes nothing"
    assert resources_of_place(config.load(["trainable=biper"])) == {"cpu": 1}


# ---- a place with a group ----


class Near(catalog.get("test_bowl")):  # type: ignore[misc]
    """A group in this process. It loses a worker in its `fatal`-th step from now."""

    fatal = 0
    made: list[tuple[int, Mapping[str, float]]] = []
    peak_memory_mb, closed = 321.0, 0

    def __init__(self, post: Post, size: int, resources: Mapping[str, float], scratch: str) -> None:
        self.made.append((size, resources))

    def step(self) -> dict[str, float]:
        Near.fatal -= 1
        if Near.fatal == 0:
            raise group.GroupLost("a worker of the group has gone: killed")
        return super().step()

    def begin(self) -> None: ...

    def close(self) -> None:
        Near.closed += 1


def leg(number: int) -> dict[str, Any]:
    return asdict(Leg(f"{number:04d}-0", {"x": 0.5, "y": 0, "kind": "a"}, 0, 0, 9, ()))


def test_a_place_keeps_its_group_and_hands_nothing_out_in_bundles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "Group", Near)
    monkeypatch.setattr("ray.nodes", lambda: [])
    monkeypatch.setattr(Near, "made", [])
    monkeypatch.chdir(tmp_path)
    post = Post("s", "test_bowl", str(tmp_path / "checkpoints"), trainers=2, each={"CPU": 1.0}, report_s=5.0)
    told = json.dumps(asdict(post))
    place = Place({"post": told, "legs": json.dumps([leg(0)])}, str(tmp_path))
    messages = [json.loads(place.work())]
    messages += [json.loads(place.work(json.dumps([leg(k)]))) for k in (1, 2)]
    assert [m["reports"][-1]["status"] for m in messages] == ["complete"] * 3
    assert [m["most"] for m in messages] == [1] * 3, "what takes milliseconds would else come in bundles"
    assert {m["reports"][-1]["peak_memory_mb"] for m in messages} == {321.0}
    monkeypatch.setattr(Near, "fatal", 3)
    (lost,) = json.loads(place.work(json.dumps([leg(3)])))["reports"]
    assert (lost["status"], len(lost["rows"])) == ("lost", 2)
    assert lost["failure"]["reason"] == "a worker of the group has gone: killed"
    (again,) = json.loads(place.work(json.dumps([leg(3)]), told))["reports"]
    assert again["status"] == "complete"
    assert Near.made == [(2, {"CPU": 1.0})], "one group for all of them"
    place.stop()
    assert Near.closed >= 1


def test_a_worker_takes_over_another_trials_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda held: held)
    slug, setting = "biper", Setting(data="digits", steps=2)
    config = {**catalog.get(slug).space().paper_config("digits"), "stages": "one"}
    parent, child = group.Worker("cpu", first=True), group.Worker("cpu", first=True)
    parent.obey(group.SETUP, (slug, config, setting))
    state = {"paper": parent.obey(group.STATE, None), "config": config}
    state["settings"] = parent.obey(group.SETTINGS, None)
    changed = {**config, "lr1": 3 * config["lr1"]}
    child.obey(group.SETUP, (slug, changed, setting))
    fresh = child.obey(group.SETTINGS, None)
    child.obey(group.INHERIT, [state, changed, "0000-0", fresh])
    assert child.paper.optimiser.param_groups[0]["lr"] == pytest.approx(3 * config["lr1"])  # type: ignore[union-attr]
    facts = child.facts()
    assert facts["peak_memory_mb"] > 1 and facts["finished"] is False
    assert facts["told_parts"] == parent.paper.parts()  # type: ignore[union-attr]


# ---- on Ray ----


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(400)
def test_a_sweep_of_groups_pauses_promotes_and_survives_a_worker_that_dies(tmp_path: Path) -> None:
    words = (
        "trainable=test_together", "trainers=2", "search=listed", "scheduler=asha", f"data_dir={tmp_path}",
        "search.configs=[{x: 0.9}, {x: 0.3, fault: exit_once}, {x: 0.8}, {x: 0.7, fault: raise}]",
        "budget.checkpoint_seconds=0", "keep_checkpoints=all",
    )  # fmt: skip
    result = sweep.run(config.load([*words, f"storage={tmp_path / 'store'}", "name=s"]))
    store = Store(result.storage)
    rows = trials(store)
    assert result.state == "finished"
    assert {t["trainers"] for t in rows} == {2}
    by_x = {(t["config.x"], t["config.fault"]): t for t in rows}
    kept = by_x[0.3, "exit_once"]
    assert (kept["state"], kept["retries"], kept["steps"]) == ("complete", 1, 5)
    assert kept["peak_memory_mb"] > 200, "of both workers"
    steps = store.table("results", "s").to_pylist()
    mine = sorted((r["step"], r["metric.train_loss"]) for r in steps if r["trial"] == kept["trial"])
    assert mine == [(step, 3.0 * step) for step in range(1, 6)], "what two workers add up, each step once"
    assert {t["state"] for t in rows} >= {"complete"} and all(t["state"] != "running" for t in rows)
    assert by_x[0.7, "raise"]["state"] == "pruned", "it was stopped before its fault"
