"""delete, rename, tag and completion by their words; and the store by either of its two."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster import api
from fairsweep.cluster.cli import _parser, _store_as_its_verb_says, run_cli
from fairsweep.cluster.commands import completion


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    for name in ("first", "second"):
        row = {"paper": "p", "data": "d", "objective": "val_loss", "mode": "min", "state": "running"}
        fields = [pa.field("config.lr", pa.float64())]
        store.create(name, row, config_fields=fields, metric_names=["val_loss"]).close(state="finished")
    return store


def answer(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert run_cli(words) == code
    out, err = capsys.readouterr()
    assert code or not err
    return err if code else out


def test_delete_says_what_would_go_before_it_does_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["delete", "first", "second", f"storage={store.uri}"]
    said = answer(words, capsys, code=2)
    assert "would drop first: " in said and "; second: " in said and "--yes does it" in said
    assert store.sweeps() == ["first", "second"]
    assert answer([*words[:2], *words[3:], "--yes"], capsys).startswith("deleted first: ")
    assert "did you mean second?" in answer(
        ["delete", "second", "secnd", *words[3:], "--yes"], capsys, code=2
    )
    assert store.sweeps() == ["second"], "all names are looked up before anything goes"


def test_rename_and_tags(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--storage", store.uri]
    assert answer(["rename", "first", "best-so-far", *where], capsys) == "first is best-so-far\n"
    assert "choose another" in answer(["rename", "second", "best-so-far", *where], capsys, code=2)
    assert answer(["tag", "second", *where], capsys) == "no tags\n"
    assert answer(["tag", "second", "paper", "table-2", *where], capsys) == "paper, table-2\n"
    assert answer(["tag", "second", "--drop", "paper", *where], capsys) == "table-2\n"
    listed = json.loads(answer(["ls", "--tag", "table-2", "--json", *where], capsys))
    assert [(row["sweep"], row["tags"]) for row in listed] == [("second", "table-2")]
    assert "has no sweeps tagged nothing" in answer(["ls", "--tag", "nothing", *where], capsys)


def test_the_same_from_python(store: Store) -> None:
    sweep = api.open("first", store.uri)
    assert sweep.tag("a", "b") == ["a", "b"] and sweep.tag(drop=["a"]) == sweep.tags == ["b"]
    sweep.rename("other")
    assert sweep.info()["tags"] == "b" and store.sweeps() == ["other", "second"]
    sweep.delete()
    assert store.sweeps() == ["second"]


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (
            ["run", "trainable=dagnn", "--storage", "my store"],
            ["run", "trainable=dagnn", "storage='my store'"],
        ),
        (["nas", "--storage=s3://b/p"], ["nas", "storage='s3://b/p'"]),
        (["run", "storage=x"], ["run", "storage=x"]),
        (["ls", "storage=x y"], ["ls", "--storage=x y"]),
        (["best", "s", "--storage", "x"], ["best", "s", "--storage", "x"]),
        (["delete", "--", "storage=x"], ["delete", "--", "storage=x"]),
        (["submit", "run", "storage='x y'"], ["submit", "run", "storage='x y'"]),  # Hydra's, of another verb
        (["manifest", "slurm", "run", "storage='x y'"], ["manifest", "slurm", "run", "storage='x y'"]),
    ],
)
def test_every_verb_takes_the_store_in_both_ways(words: list[str], read: list[str]) -> None:
    assert _store_as_its_verb_says(words) == read


def test_every_verb_with_a_store_takes_it_as_an_option() -> None:
    verbs = completion.verbs(_parser())
    assert {"ls", "show", "best", "export", "resume", "delete", "rename", "tag", "claims", "clean"} <= {
        name for name, p in verbs.items() if any(a.dest == "storage" for a in p._actions)
    }


def test_what_may_come_next(store: Store) -> None:
    def run(prefix: str, *words: str, command: str = "run") -> list[str]:
        return completion.settings(prefix, argparse.Namespace(command=command, words=list(words)))

    assert "trainable=dagnn" in run("trainable=da")
    assert run("scheduler=as") == ["scheduler=asha"]
    assert run("space.dr", "trainable=dagnn") == ["space.dropout="] and run("space.dr") == []
    assert "budget.trials=" in run("budget.t")
    assert "algorithm=evolution" in run("algorithm=e", command="nas")
    here = argparse.Namespace(storage=store.uri)
    assert completion.sweeps("f", here) == ["first"]
    assert completion.sweeps("f", argparse.Namespace(storage=f"{store.uri}/nowhere")) == []
    assert "biper" in completion.papers("bi")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_reads_its_script(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(answer(["completion", shell], capsys))
    assert "fairsweep" in script.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(script)], check=True)


def test_a_shell_that_asks_is_answered(store: Store) -> None:
    line = f"fairsweep show --storage {store.uri} sec"
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": "",
    }
    out = store.uri + ".answer"
    env = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": out, "_ARGCOMPLETE_IFS": "\n"}
    subprocess.run([sys.executable, "-m", "cluster"], env=env, check=False, timeout=60)
    assert Path(out).read_text().split() == ["second"]


def test_a_stopped_trial_that_was_better_than_the_best_is_named(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"paper": "p", "data": "d", "objective": "val_loss", "mode": "min", "state": "running"}
    fields = [pa.field("config.lr", pa.float64())]
    with store.create("s", row, config_fields=fields, metric_names=["val_loss"]) as writer:
        for number, (state, value) in enumerate([("complete", 0.5), ("pruned", 0.4), ("pruned", 0.9)]):
            writer.trial(
                f"0000{number}-0", number=number, config_id=number, seed=0, state=state, value=value, steps=3,
                objective="val_loss", mode="min", config_json='{"lr": 0.1}', **{"config.lr": 0.1},
            )  # fmt: skip
        writer.close(state="finished")
    assert api.open("s", store.uri).best()["stopped"] == {"trial": "00001-0", "value": 0.4, "steps": 3}
    said = answer(["best", "s", "--storage", store.uri], capsys)
    assert "val_loss 0.5" in said and "00001-0 had 0.4 when it was stopped at step 3" in said
