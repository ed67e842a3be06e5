"""Sweeps are deleted, renamed and tagged; nothing else is touched."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fairsweep.analysis import upkeep
from fairsweep.analysis.store import Store, StoreError, SweepLocked, SweepWriter, UnknownSweep


def begin(where: Path, name: str) -> SweepWriter:
    fields = [pa.field("config.lr", pa.float64())]
    writer = Store(where).create(name, {"paper": "p"}, config_fields=fields, metric_names=["loss"])
    writer.trial("t0", number=0, state="complete", **{"config.lr": 0.1})
    writer.results([{"trial": "t0", "step": 1, "metric.loss": 0.5}])
    writer.event("note", text="said")
    return writer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    for name in ("a", "b"):
        writer = begin(tmp_path, name)
        writer.close(state="finished")
        checkpoint = tmp_path / "checkpoints" / name / "t0"
        checkpoint.mkdir(parents=True)
        (checkpoint / "1.ckpt").write_bytes(b"weights")
    return Store(tmp_path)


def files(where: Path, but: str) -> dict[str, bytes]:
    return {
        str(f): f.read_bytes()
        for f in sorted(where.rglob("*"))
        if f.is_file() and but not in f.relative_to(where).parts
    }


def test_a_deleted_sweep_leaves_nothing_and_others_as_they_were(store: Store, tmp_path: Path) -> None:
    others = files(tmp_path, but="a")
    upkeep.tag(store, "a", ["x"])
    held = upkeep.holdings(store, "a")
    assert "checkpoints/a" in held.folders and held.bytes > 7
    assert upkeep.delete(store, "a") == held
    assert files(tmp_path, but="nothing") == others
    assert store.sweeps() == ["b"] and not list(tmp_path.glob("*/a"))
    with pytest.raises(UnknownSweep, match="it has b"):
        upkeep.delete(store, "a")


def test_a_damaged_sweep_can_be_deleted(store: Store, tmp_path: Path) -> None:
    (tmp_path / "sweeps" / "a" / "sweep.parquet").write_bytes(b"torn")
    upkeep.delete(store, "a")
    assert store.sweeps() == ["b"]


def test_a_sweep_that_is_written_is_neither_deleted_nor_renamed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with begin(tmp_path, "live"):
        for change in (lambda: upkeep.delete(store, "live"), lambda: upkeep.rename(store, "live", "other")):
            with pytest.raises(SweepLocked, match="is being written by process"):
                change()
        assert upkeep.tag(store, "live", ["also-while-it-runs"]) == ["also-while-it-runs"]
    with pytest.raises(StoreError, match="was not closed; `fairsweep resume live`"):
        upkeep.rename(store, "live", "other")
    assert store.sweeps() == ["live"] and store.table("results", "live").num_rows == 1


def test_a_renamed_sweep_is_the_same_under_another_name(store: Store, tmp_path: Path) -> None:
    upkeep.tag(store, "a", ["x"])
    verdict = {"paper": "p", "claim": "c", "sweep": "a", "effect": 1.0}
    store.write_derived("claims", "r", [verdict, {**verdict, "sweep": "b"}])
    store.write_derived("architectures", "a", [{"number": 0, "folder": f"{store.uri}/architectures/a/t0"}])
    before = {t: store.table(t, "a").drop_columns(["sweep"]) for t in ("sweeps", "trials", "results")}
    (tmp_path / "wandb" / "a" / "run").mkdir(parents=True)
    upkeep.rename(store, "a", "new")
    after = {t: store.table(t, "new") for t in ("sweeps", "trials", "results")}
    for table, rows in before.items():
        assert after[table].drop_columns(["sweep"]) == rows
        assert after[table].column("sweep").to_pylist() == ["new"]
    assert store.notes("new") == ["said"] and store.tags("new") == ["x"]
    assert sorted(store.sweeps()) == ["b", "new"] and not list(tmp_path.glob("*/a"))
    assert (tmp_path / "checkpoints" / "new" / "t0" / "1.ckpt").read_bytes() == b"weights"
    assert (tmp_path / "wandb" / "new" / "run").is_dir()  # else nobody could give the old name again
    assert store.derived("claims").column("sweep").to_pylist() == ["new", "b"]
    (row,) = store.derived("architectures").to_pylist()
    assert row["run"] == "new" and row["folder"] == f"{store.uri}/architectures/new/t0"
    with store.open("new") as writer:  # and it goes on
        writer.results([{"trial": "t0", "step": 2, "metric.loss": 0.4}])
        writer.close(state="finished")
    assert store.table("results", "new").column("sweep").to_pylist() == ["new", "new"]


@pytest.mark.parametrize("after", range(10))
@pytest.mark.parametrize("then", ["rename", "delete"])
def test_a_renaming_that_is_cut_off_loses_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, then: str
) -> None:
    """Killed before any of its writes: what has moved is moved back by who takes the name up again."""
    upkeep.tag(store, "a", ["x"])
    before = store.table("results", "a").drop_columns(["sweep"])
    store.write_derived("claims", "r", [{"paper": "p", "claim": "c", "sweep": "a", "effect": 1.0}])
    left = after

    def cut(real: Any) -> Any:
        def do(*given: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return real(*given)

        return do

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        for name in ("_copy", "_move", "_drop"):
            patched.setattr(upkeep, name, cut(getattr(upkeep, name)))
        upkeep.rename(store, "a", "new")
    done = store.has("new") and (tmp_path / "sweeps" / "new" / "sweep.parquet").is_file()
    assert done or store.has("a")
    if not done and then == "rename":
        upkeep.rename(store, "a", "new")
    elif not done:
        upkeep.delete(store, "new")
        assert store.sweeps() == ["a", "b"]
    name = "a" if not done and then == "delete" else "new"
    assert store.table("results", name).drop_columns(["sweep"]) == before and store.tags(name) == ["x"]
    assert (tmp_path / "checkpoints" / name / "t0" / "1.ckpt").read_bytes() == b"weights"
    upkeep.rename(store, name, "later")  # whoever had it before
    assert store.derived("claims").column("sweep").to_pylist() == ["later"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("a", "b", "has a sweep of this name"), ("a", "a", "has a sweep of this name"), ("c", "d", "no such sweep"),
     ("a", "../d", "must be up to 200 letters"), ("a", "", "must be up"), ("a", "x" * 201, "must be up to 200")],
)  # fmt: skip
def test_names_that_are_refused(store: Store, old: str, new: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        upkeep.rename(store, old, new)
    assert store.sweeps() == ["a", "b"]


def test_names_do_not_lead_out_of_the_store(store: Store, tmp_path: Path) -> None:
    (tmp_path.parent / "mine").mkdir(exist_ok=True)
    for name in ("../../mine", "..", ".", "", "a/../b"):
        with pytest.raises(UnknownSweep):
            upkeep.delete(store, name)
    assert (tmp_path.parent / "mine").is_dir() and store.sweeps() == ["a", "b"]


def test_tags_are_added_dropped_and_stand_in_the_table(store: Store) -> None:
    assert upkeep.tag(store, "a", ["good", "paper/fig:2"]) == ["good", "paper/fig:2"]
    assert upkeep.tag(store, "a", ["good", "late"], ["paper/fig:2"]) == ["good", "late"]
    rows = store.table("sweeps").to_pylist()
    assert {r["sweep"]: r["tags"] for r in rows} == {"a": "good, late", "b": ""}
    with pytest.raises(StoreError, match="tag=fast: sweep a has good, late"):
        upkeep.tag(store, "a", drop=["fast"])
    with pytest.raises(StoreError, match="tag='two words': must be"):
        upkeep.tag(store, "a", ["two words"])
    with pytest.raises(UnknownSweep):
        upkeep.tag(store, "nobody", ["x"])


def test_a_sweep_on_an_object_store_is_deleted_once_nobody_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr("fairsweep.analysis._lease.SETTLE_S", 0.02)
    uri = f"memory://{tmp_path.name}"
    store = Store(uri)
    fields = [pa.field("config.lr", pa.float64())]
    with store.create("s", {"paper": "p"}, config_fields=fields, metric_names=["loss"]):
        assert store.written("s") is True
        with pytest.raises(SweepLocked, match=f"is being written by process {os.getpid()}"):
            upkeep.delete(Store(uri), "s")
    assert store.written("s") is False
    with upkeep.alone(store, "comparisons", "c", "comparison"):
        assert upkeep.held(store, "comparisons", "c")
        with pytest.raises(SweepLocked), upkeep.alone(Store(uri), "comparisons", "c", "comparison"):
            pass
    assert not upkeep.held(store, "comparisons", "c")
    upkeep.delete(store, "s")
    assert store.sweeps() == []
