"""What fits on a cluster, and whether its nodes are alike and see the same store: without Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine import nodes
from fairsweep.cluster.engine.nodes import ENDLESS, Group, Growth, Room, fits, room, slots_of, starts_nodes
from fairsweep.cluster.errors import UnfitCluster, UserError
from fairsweep.cluster.jobs import provenance, readiness
from fairsweep.cluster.jobs.readiness import Answer, Asked, alike_and_shared, differences, look

CPU = {"cpus_per_trial": 1.0, "gpus_per_trial": 0}


@pytest.mark.parametrize(
    ("have", "need", "count"),
    [
        ({"CPU": 4.0}, {"CPU": 1}, 4),
        ({"CPU": 1.0}, {"CPU": 0.1}, 10),  # 1.0 // 0.1 is 9
        ({"CPU": 4.0}, {"CPU": 1.5}, 2),
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1, "GPU": 0.5}, 4),
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1, "GPU": 0.4}, 4),  # not 5: a part is of one GPU
        ({"CPU": 8.0, "GPU": 3.0}, {"CPU": 1, "GPU": 2}, 1),
        ({"CPU": 2.0, "GPU": 8.0}, {"CPU": 1, "GPU": 0.25}, 2),
        ({"CPU": 8.0}, {"CPU": 1, "GPU": 0.5}, 0),
    ],
)
def test_how_often_a_trial_fits_on_a_node(have: dict[str, float], need: dict[str, float], count: int) -> None:
    assert fits(have, need) == count


def test_a_trial_is_on_one_node() -> None:
    """2 CPUs here and 2 there are no 3 CPUs, and two times 2 CPUs on nodes of 3 are two trials, not three."""
    with pytest.raises(UserError) as error:
        room({**CPU, "cpus_per_trial": 3}, None, [{"CPU": 2.0}, {"CPU": 2.0}])
    assert str(error.value) == (
        "cluster.cpus_per_trial=3: the cluster's 2 nodes have 4 CPUs and 0 GPUs, but a trial runs on one of them, and "
        "the largest has 2 CPUs and 0 GPUs, so not one trial fits"
    )
    assert slots_of([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2}) == 2
    assert room(CPU, None, [{"CPU": 3.0}, {"CPU": 3.0}]) == Room(6)
    assert room(CPU, 4, [{"CPU": 3.0}, {"CPU": 3.0}]) == Room(4)


def test_gpus_that_there_are_none_of_are_refused_with_what_there_is() -> None:
    with pytest.raises(UserError) as error:
        room({**CPU, "gpus_per_trial": 0.5}, None, [{"CPU": 16.0}, {"CPU": 1.0}])
    assert str(error.value) == (
        "cluster.cpus_per_trial=1 cluster.gpus_per_trial=0.5: the cluster's 2 nodes have 17 CPUs and 0 GPUs, so not "
        "one trial fits"
    )


def test_a_cluster_that_can_grow_is_waited_for() -> None:
    gpu = {**CPU, "gpus_per_trial": 1}
    head = [{"CPU": 2.0}]
    found = room(gpu, None, head, Growth())
    assert (
        found.slots == 1 and "waits until it has grown, budget.concurrent=N asks for more" in found.notes[0]
    )
    assert room(gpu, 8, head, Growth()) == Room(
        8, ("0 of 8 trials at a time fit on the cluster as it is; the others wait until it has grown",)
    )
    assert room(gpu, 8, head, Growth((Group({"CPU": 8, "GPU": 2}, 3),))).slots == 6  # all that it can have
    assert room(gpu, 9999, head, Growth((Group({"CPU": 8, "GPU": 2}, ENDLESS),))).slots == 9999
    assert room(CPU, 2, head, Growth()) == Room(2)  # no reason to say anything
    with pytest.raises(UserError, match="the largest has 64 CPUs and 0 GPUs, so not one trial ever fits"):
        room(gpu, None, head, Growth((Group({"CPU": 64}, 10),)))


def test_an_autoscaler_that_only_looks_on_starts_nothing() -> None:
    """Ray 2.60: `ray start --head` without a configuration has one, too, to which nodes are node_<identifier>."""
    looks_on = {"autoscaler_report": {"active_nodes": {"node_" + "ab" * 28: 1}, "pending_nodes": []}}
    assert (
        not starts_nodes(looks_on) and not starts_nodes({}) and not starts_nodes({"autoscaler_report": None})
    )
    assert starts_nodes({"autoscaler_report": {"active_nodes": {"ray.head.default": 1}}})
    assert starts_nodes(
        {"autoscaler_report": {"active_nodes": {}, "pending_launches": {}, "pending_nodes": []}}
    )
    launching = {"active_nodes": {}, "pending_launches": {"ray.worker.default": 2}, "pending_nodes": []}
    assert starts_nodes({"autoscaler_report": launching})
    pending = {"active_nodes": {}, "pending_nodes": [["10.0.0.9", "worker", "setting-up"]]}
    assert starts_nodes({"autoscaler_report": pending})


RUN = ["run", "trainable=test_bowl", "budget.trials=1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster.gpus_per_trial=1.5"], "1.5: must be a part of one GPU, such as 0.5, or a whole number: 1 or 2"),
        (["cluster.gpus_per_trial=0.00001"], "cluster.gpus_per_trial=1e-05: must be at least 0.0001"),
        (["cluster.cpus_per_trial=0.00001"], "cluster.cpus_per_trial=1e-05: must be at least 0.0001"),
        (["cluster.cpus_per_trial=-0.5"], "cluster.cpus_per_trial=-0.5: must be a number above 0"),
        (["cluster.weight=0"], "cluster.weight=0: must be a number above 0"),
        (["cluster.priority=high"], "cluster.priority=high: must be a whole number"),
        (["cluster.cpus=2", "cluster.cpus_per_trial=4"], "per_trial=4: cluster.cpus=2 is less, so not one trial fits"),
        (["cluster.cpus_per_trial=4096"], "so not one trial fits"),
    ],
)  # fmt: skip
def test_amounts_that_cannot_be_are_refused_before_anything_starts(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", never)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert run_cli([*RUN, *words, f"storage={tmp_path / 'store'}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_parts_of_a_gpu_and_of_a_cpu_are_settings() -> None:
    settings = config.load([*RUN[1:], "cluster.cpus_per_trial=0.5", "cluster.gpus_per_trial=0.5"])
    assert nodes.needs(settings.cluster) == {"CPU": 0.5, "GPU": 0.5}
    assert room(settings.cluster, None, [{"CPU": 8.0, "GPU": 1.0}]) == Room(2)
    assert settings.cluster["weight"] == 1.0 and settings.cluster["priority"] == 0


# -- nodes that differ ------------------------------------------------------------------------------------

NAMED = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
Change = Callable[[str, Asked], Answer | str]


def asking(odd: Mapping[str, Change]) -> Callable[[Mapping[str, str], Asked], dict[str, Answer | str]]:
    """Nodes that are this machine, except those in `odd`."""

    def ask(named: Mapping[str, str], asked: Asked) -> dict[str, Answer | str]:
        return {node: odd.get(node, look)(node, asked) for node in named}

    return ask


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "SEEN_S", 0.0)


def test_nodes_that_are_alike_and_see_the_store_leave_it_as_it_was(tmp_path: Path) -> None:
    store = tmp_path / "not" / "yet"
    assert alike_and_shared(NAMED, str(store), None, asking({})) == ()
    assert not (tmp_path / "not").exists()
    store.mkdir(parents=True)
    (store / "mine").write_text("kept")
    assert alike_and_shared(NAMED, f"file://{store}", str(tmp_path), asking({})) == ()
    assert [p.name for p in store.iterdir()] == ["mine"]


def test_a_node_that_does_not_see_the_store_is_named(tmp_path: Path) -> None:
    def elsewhere(node: str, asked: Asked) -> Answer:
        return look(node, replace(asked, folder=asked.folder.replace("store", "of_its_own")))

    with pytest.raises(UserError) as error:
        alike_and_shared(NAMED, str(tmp_path / "store"), None, asking({"b": elsewhere}))
    said = str(error.value)
    assert said.startswith(
        f"storage={tmp_path}/store: node 10.0.0.2 does not see what is written there here ("
    )
    assert said.endswith("use a folder that all nodes share (NFS) or object storage such as s3://bucket/path")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"nodes 10.0.0.2 and 10.0.0.3 do not see"):
        alike_and_shared(NAMED, str(tmp_path / "store"), None, asking({"b": elsewhere, "c": elsewhere}))


def test_a_node_that_cannot_write_is_named_and_one_whose_files_are_not_seen(tmp_path: Path) -> None:
    def barred(node: str, asked: Asked) -> Answer:
        return replace(look(node, asked), unwritten="[Errno 30] Read-only file system")

    def astray(node: str, asked: Asked) -> Answer:
        answer = look(node, asked)
        (Path(asked.folder) / node).unlink()
        return answer

    with pytest.raises(
        UserError, match=r"store: node 10.0.0.3 cannot write there: \[Errno 30\] Read-only file"
    ):
        alike_and_shared(NAMED, str(tmp_path / "store"), None, asking({"c": barred}))
    with pytest.raises(UserError, match=r"store: node 10.0.0.1 writes there what is not seen here"):
        alike_and_shared(NAMED, str(tmp_path / "store"), None, asking({"a": astray}))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"storage=.*file/store: this machine cannot write there"):
        alike_and_shared(NAMED, str(tmp_path / "file" / "store"), None, asking({}))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_data_that_a_node_lacks_are_named(tmp_path: Path) -> None:
    def without(node: str, asked: Asked) -> Answer:
        return replace(look(node, asked), no_data=True)

    with pytest.raises(UserError) as error:
        alike_and_shared(NAMED, str(tmp_path / "s"), str(tmp_path), asking({"b": without}))
    assert str(error.value) == (
        f"data_dir={tmp_path}: node 10.0.0.2 has no such folder; data must lie at the same path on every node"
    )


def other(**versions: str | None) -> Change:
    def changed(node: str, asked: Asked) -> Answer:
        answer = look(node, asked)
        return replace(answer, versions={**answer.versions, **versions})

    return changed


def test_versions_that_break_a_sweep_are_refused_and_others_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_IGNORE_VERSION_MISMATCH", raising=False)
    here = readiness.installed()
    old = asking({"b": other(torch="1.0.0"), "c": other(torch="1.0.0")})
    with pytest.raises(UnfitCluster) as error:
        alike_and_shared(NAMED, str(tmp_path / "s"), None, old)
    assert f"nodes 10.0.0.2 and 10.0.0.3 have torch 1.0.0 (here {here['torch']})" in str(error.value)
    monkeypatch.setenv("RAY_IGNORE_VERSION_MISMATCH", "1")
    (note,) = alike_and_shared(NAMED, str(tmp_path / "s"), None, old)
    assert note.startswith("the nodes are not alike: nodes 10.0.0.2 and 10.0.0.3")
    monkeypatch.delenv("RAY_IGNORE_VERSION_MISMATCH")
    (note,) = alike_and_shared(NAMED, str(tmp_path / "s"), None, asking({"b": other(pyarrow="1.0")}))
    assert note == f"the nodes are not alike: node 10.0.0.2 has pyarrow 1.0 (here {here['pyarrow']})"


def test_another_revision_of_fairsweep_is_named(tmp_path: Path) -> None:
    def earlier(node: str, asked: Asked) -> Answer:
        return replace(look(node, asked), code="0", revision="0.1.0 (commit 1234567)")

    with pytest.raises(UnfitCluster) as error:
        alike_and_shared(NAMED, str(tmp_path / "s"), None, asking({"c": earlier}))
    here = provenance.revision()
    assert f"node 10.0.0.3 has another fairsweep, 0.1.0 (commit 1234567) (here {here})" in str(error.value)


def test_a_node_that_gives_no_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnfitCluster, match=r"node 10.0.0.2 has given no answer for 60 s"):
        alike_and_shared(
            NAMED, str(tmp_path / "s"), None, asking({"b": lambda *_: "has given no answer for 60 s"})
        )
    assert list(tmp_path.iterdir()) == []


def test_which_parts_of_a_version_must_be_the_same() -> None:
    mine = {"python": "3.11.4", "ray": "2.60.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "pyarrow": "26.0.1"}
    assert differences(mine, mine) == ([], [])
    breaks, notes = differences(mine, {**mine, "torch": "2.13.0+cu128", "python": "3.11.9", "numpy": "2.3.0"})
    assert breaks == [] and len(notes) == 3
    breaks, notes = differences(
        mine, {**mine, "ray": "2.60.1", "python": "3.12.0", "numpy": "1.26.4", "torch": None}
    )
    assert len(breaks) == 4 and notes == []
    assert "no torch" in breaks


def test_on_one_node_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*asked: Any) -> Any:
        raise AssertionError("a node was asked")

    node = {"Alive": True, "NodeID": "a", "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(nodes, "alive", lambda: [node])
    monkeypatch.setattr(nodes, "grows", never)
    monkeypatch.setattr(readiness, "ask_ray", never)
    assert readiness.room(CPU, None, str(tmp_path)) == Room(2)


def test_nodes_that_cannot_run_a_trial_are_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = [
        SimpleNamespace(id="a", cpus=0.0), SimpleNamespace(id="b", cpus=2.0), SimpleNamespace(id="c", cpus=2.0)
    ]  # fmt: skip
    found = [
        {
            "Alive": True, "NodeID": n.id, "Resources": {"CPU": n.cpus}, "NodeManagerAddress": f"10.0.0.{k}",
            "NodeManagerHostname": f"host-{n.id}",
        } for k, n in enumerate(there)
    ]  # fmt: skip
    monkeypatch.setattr(nodes, "alive", lambda: found)
    asked: list[Mapping[str, str]] = []

    def ask(named: Mapping[str, str], probe: Asked) -> dict[str, Answer | str]:
        asked.append(named)
        return {node: look(node, probe) for node in named}

    monkeypatch.setattr(readiness, "ask_ray", ask)
    assert readiness.room(CPU, None, str(tmp_path / "s")).slots == 4
    assert asked == [{"b": "10.0.0.1 (host-b)", "c": "10.0.0.2 (host-c)"}]


def test_the_code_has_one_digest_and_it_is_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = provenance.code_digest()
    assert len(first) == 64
    made = tmp_path / "cluster" / "jobs"
    made.mkdir(parents=True)
    (made / "provenance.py").write_text("text")
    monkeypatch.setattr(provenance, "__file__", str(made / "provenance.py"))
    digests = set()
    for text in ("a", "b"):
        (tmp_path / "cluster" / "x.py").write_text(text)
        provenance.code_digest.cache_clear()
        digests.add(provenance.code_digest())
    provenance.code_digest.cache_clear()
    assert len(digests) == 2 and first not in digests
