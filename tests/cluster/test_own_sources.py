"""Where a trainable comes from: its text travels, is kept, and is taken up again."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fairsweep
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sources
from fairsweep.trainables.catalog import UnknownPaper
from fairsweep.trainables.own import known, loading, source
from fairsweep.trainables.own.source import Source
from tests.cluster.test_conductor import Engine, engine, trials
from tests.cluster.test_own import folder, own, write

__all__ = ["folder"]


@pytest.fixture(autouse=True)
def leave() -> Iterator[None]:
    loading.enter(None)
    yield
    loading.enter(None)


def go_on(folder: Path, *changes: str) -> Engine:
    run = engine(folder.parent / "store", changes=list(changes))
    run.run()
    return run


def values(run: Engine) -> list[float]:
    return [t["value"] for t in trials(run.store)]


# -- travelling -------------------------------------------------------------------------------------------------


def test_files_of_its_folder_travel_and_are_loaded_where_they_are_not(folder: Path) -> None:
    (folder / "model.py").write_text("from parts.sizes import SIZE\n\ndef loss(x): return x * SIZE\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "sizes.py").write_text("SIZE = 0.0\n")
    (folder / "late.py").write_text("VALUE = 0.5\n")
    (folder / "unused.py").write_text("raise RuntimeError\n")
    write(folder, "from late import VALUE\nreturn model.loss(config['lr']) + VALUE")
    text = (folder / "train.py").read_text()
    (folder / "train.py").write_text("import json, numpy, model\n" + text)
    run = own(folder)
    found = Source.from_json(run.post.source)
    assert sorted(found.files) == ["late.py", "model.py", "parts/__init__.py", "parts/sizes.py", "train.py"]
    before = dict(sys.modules)
    shutil.rmtree(folder)  # as on another machine
    folder.mkdir()
    os.chdir(folder)
    known._classes.clear()
    run.run()
    assert values(run) == [0.5]
    place = sys.modules["model"].__file__ or ""
    assert "fairsweep-own-" in place and not Path(place).stat().st_mode & 0o022
    loading.enter(None)
    assert "model" not in sys.modules and set(sys.modules) >= set(before)


def test_what_lies_in_the_place_of_the_copy_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    given = Source("/no/such/train.py:train", "/no/such", {"train.py": "train = 1\n"})
    copy = Path(loading._root(given))
    assert loading._root(given) == str(copy)
    (copy / "train.py").write_text("train = 2\n")
    other = Path(loading._root(given))
    assert other != copy and (other / "train.py").read_text() == "train = 1\n"
    shutil.rmtree(copy)
    shutil.rmtree(other)


def test_two_folders_with_files_of_one_name_in_one_process(folder: Path) -> None:
    made = []
    for name in ("a", "b"):
        place = folder / name
        place.mkdir()
        (place / "model.py").write_text(f"VALUE = {ord(name)}\n")
        write(place, "import model\nfrom late import VALUE\nreturn float(model.VALUE + VALUE)")
        (place / "late.py").write_text(f"VALUE = {ord(name)}000\n")
        made.append(engine(place / "store", f"trainable={place}/train.py:train", "budget.trials=1"))
    for run in (*made, *made):
        runner = LegRunner(run.post)
        leg = run.conductor.next_leg()
        if leg is None:
            continue
        runner.take(leg)
        report = runner.step()
        assert report["rows"][0]["metrics"] == {"val_loss": 97097.0 if run is made[0] else 98098.0}


def test_a_package_and_a_file_with_relative_imports(folder: Path) -> None:
    package = folder / "mine_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "loss.py").write_text("VALUE = 0.25\n")
    write(package, "from .loss import VALUE\nreturn VALUE")
    for k, reference in enumerate(("mine_pkg.train:train", "mine_pkg/train.py:train")):
        run = engine(folder / f"store{k}", f"trainable={reference}", "budget.trials=1")
        assert sorted(Source.from_json(run.post.source).files) == [
            "mine_pkg/__init__.py",
            "mine_pkg/loss.py",
            "mine_pkg/train.py",
        ]
        run.run()
        assert values(run) == [0.25]


def test_a_file_that_is_named_like_a_module_takes_nobodys_place(folder: Path) -> None:
    import random

    write(folder, "import random; return float(random.randint(0, 0))", name="random.py")
    run = engine(folder.parent / "store", "trainable=random.py:train", "budget.trials=1")
    run.run()
    assert values(run) == [0.0] and sys.modules["random"] is random


def test_a_paper_of_the_catalogue_by_its_file_is_itself(folder: Path) -> None:
    from fairsweep.trainables.graphs.dagnn import DAGNNPaper

    file = sys.modules[DAGNNPaper.__module__].__file__
    made = known.get(f"{file}:DAGNNPaper")
    assert issubclass(made, DAGNNPaper) and made.slug == "dagnn" and made.space() == DAGNNPaper.space()


# -- taken up again ----------------------------------------------------------------------------------------------


def test_a_file_that_has_changed_is_said_and_run(folder: Path) -> None:
    write(folder, "return 1.0")
    own(folder).run()
    before = known.get("train.py:train").source  # type: ignore[attr-defined]
    write(folder, "return 2.0")
    run = go_on(folder, "budget.trials=2")
    assert values(run) == [1.0, 2.0]
    (note,) = run.store.notes("s")
    assert "train.py has changed since the sweep began" in note and "from 00001 on" in note
    assert "source=stored" in note and before.digest[:8] in note
    row = run.store.table("sweeps", "s").to_pylist()[0]
    assert row["source_digest"] != before.digest and "2.0" in row["source"]
    events = [e for e in run.store.table("events", "s").to_pylist() if e["kind"] == "source"]
    assert json.loads(events[0]["row"])["source_digest"] == before.digest  # nothing is lost
    assert len(go_on(folder, "budget.trials=3").store.notes("s")) == 1


def test_the_stored_text_is_run_where_it_is_asked_for_or_the_file_is_gone(folder: Path) -> None:
    write(folder, "return 1.0")
    own(folder).run()
    write(folder, "return 2.0")
    run = go_on(folder, "budget.trials=2", "source=stored")
    assert values(run) == [1.0, 1.0] and run.store.notes("s") == []
    (folder / "train.py").unlink()
    run = go_on(folder, "budget.trials=3")
    assert values(run) == [1.0, 1.0, 1.0]
    assert run.store.notes("s") == [f"{folder}/train.py is gone; the text in the store is run"]
    write(folder, "return 4.0", name="moved.py")
    run = go_on(folder, "budget.trials=4", "trainable=moved.py:train")
    assert values(run) == [1.0, 1.0, 1.0, 4.0]


def test_a_file_that_has_moved_as_it_was_is_known_by_its_new_place(folder: Path) -> None:
    write(folder, "return 1.0")
    own(folder).run()
    (folder / "sub").mkdir()
    (folder / "train.py").rename(folder / "sub" / "train.py")
    go_on(folder, "budget.trials=2", "trainable=sub/train.py:train")
    run = go_on(folder, "budget.trials=3")
    assert run.store.notes("s") == [] and values(run) == [1.0, 1.0, 1.0]
    assert run.store.table("sweeps", "s").to_pylist()[0]["reference"] == f"{folder}/sub/train.py:train"


def test_a_resume_that_cannot_be_is_one_line(folder: Path) -> None:
    write(folder, "return 1.0")
    own(folder).run()
    store = folder.parent / "store"
    for change, word in (("source=old", "source=stored"), ("trainable=no.py:train", "no such file")):
        with pytest.raises(UserError, match=word):
            engine(store, changes=[change])
    (folder / "train.py").write_text("def train(:\n")
    with pytest.raises(UnknownPaper, match=r"SyntaxError.*source=stored"):
        engine(store, changes=["budget.trials=2"])
    text = '@fairsweep.trainable(space={"lr": (1, 9)}, metric="val_loss")\ndef train(config): return 1.0\n'
    (folder / "train.py").write_text(f"import fairsweep\n{text}")
    with pytest.raises(UserError, match=r"lr.*declared as int.*source=stored"):
        engine(store, changes=["budget.trials=2"])
    bowl = engine(folder / "bowl", "trainable=test_bowl", "budget.trials=1")
    bowl.run()
    with pytest.raises(UserError, match="source=stored: this sweep tunes test_bowl of the catalogue"):
        engine(folder / "bowl", changes=["source=stored"])


# -- from Python --------------------------------------------------------------------------------------------------


def notebook(factor: float) -> Any:
    @fairsweep.trainable(space={"x": (0.0, 1.0)}, metric="loss")
    def fit(config: dict[str, Any]) -> float:
        """Not in a file's top level."""
        return factor

    return fit


def test_a_function_without_a_file_travels_itself(folder: Path) -> None:
    reference = sources.reference_of(notebook(0.5))
    assert reference == "notebook:fit"
    run = engine(folder / "store", f"trainable={reference}", "budget.trials=1")
    assert "return factor" in json.loads(run.post.source)["files"]["fit.py"]
    known.unpin(reference)  # as in a worker
    known._classes.clear()
    run.run()
    assert values(run) == [0.5] and trials(run.store)[0]["paper"] == "fit"
    with pytest.raises(UserError, match=r"fairsweep.resume\(name, trainable=fit\)"):
        engine(folder / "store", changes=["budget.trials=2"])
    sources.reference_of(notebook(0.75))
    run = engine(folder / "store", changes=["budget.trials=2", f"trainable={reference}"])
    run.run()
    assert values(run) == [0.5, 0.75]
    known.unpin(reference)
    run = engine(folder / "store", changes=["budget.trials=3", "source=stored"])
    run.run()
    assert values(run)[2] in (0.5, 0.75)


def test_a_function_of_a_file_is_not_run_again_for_its_object(folder: Path) -> None:
    (folder / "count.txt").write_text("")
    write(folder, "return 1.0", name="script.py")
    with open(folder / "script.py", "a") as f:
        f.write("\nopen('count.txt', 'a').write('x')\n")
    spec = importlib.util.spec_from_file_location("script", folder / "script.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["script"] = module
    spec.loader.exec_module(module)
    try:
        reference = sources.reference_of(module.train)
        assert reference == f"{folder}/script.py:train"
        engine(folder / "store", f"trainable={reference}", "budget.trials=1")
        assert (folder / "count.txt").read_text() == "x"
    finally:
        del sys.modules["script"]
        known.unpin(reference)


def test_lambdas_and_what_cannot_be_carried(folder: Path) -> None:
    mark = fairsweep.trainable(space={"x": (0.0, 1.0)}, metric="loss")
    assert sources.reference_of(mark(lambda config: config["x"])).startswith("notebook:")
    lock = __import__("threading").Lock()
    with pytest.raises(UserError, match=r"cannot be sent to workers \(TypeError.*into a file"):
        sources.reference_of(mark(lambda config: lock))
    big = b"x" * (source.LARGEST + 1)
    with pytest.raises(UserError, match="has 20 MiB with what it refers to"):
        sources.reference_of(mark(lambda config: len(big)))


def test_called_by_hand_it_is_a_plain_function(capsys: pytest.CaptureFixture[str]) -> None:
    @fairsweep.trainable(space={"lr": (0.1, 1.0)}, metric="loss")
    def train(config: dict[str, Any], trial: Any) -> str:
        state = trial.restore() or 3
        trial.report(loss=config["lr"] * state, acc=1)
        trial.checkpoint({"state": state})
        return "done"

    assert train({"lr": 0.5}) == "done" and train.__name__ == "train"
    assert capsys.readouterr().out == "report 1: loss=1.5, acc=1\n"


@pytest.mark.slow
def test_a_script_that_sweeps_its_own_function(folder: Path) -> None:
    write(folder, "import os; trial.report(val_loss=1.0, pid=os.getpid())", name="script.py")
    with open(folder / "script.py", "a") as f:
        f.write(
            '\nif __name__ == "__main__":\n'
            '    sweep = fairsweep.run(train, quiet=True, storage="store", budget={"trials": 2}, cluster={"cpus": 1})\n'
            "    print(sweep.state, sweep.best()['value'], sweep.info()['reference'])\n"
        )
    env = {**os.environ, "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp")}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=env, capture_output=True, text=True, timeout=200
    )
    assert done.stdout.split() == ["finished", "1.0", f"{folder}/script.py:train"], done.stderr


def test_a_file_with_a_mark_of_utf_8_in_front(folder: Path) -> None:
    write(folder, "return 0.25")
    (folder / "train.py").write_bytes(b"\xef\xbb\xbf" + (folder / "train.py").read_bytes())
    run = engine(folder / "store", "trainable=train.py:train", "budget.trials=1")
    run.run()
    assert values(run) == [0.25]


def test_a_file_that_goes_elsewhere_when_it_is_imported(folder: Path) -> None:
    """Relative words of the command stay those of its folder; the code runs where it has gone to."""
    (folder / "inside").mkdir()
    (folder / "inside" / "value.txt").write_text("0.25")
    write(folder, "return float(open('value.txt').read())")
    text = (folder / "train.py").read_text()
    (folder / "train.py").write_text(
        "import os\nos.chdir(os.path.join(os.path.dirname(__file__), 'inside'))\n" + text
    )
    run = engine(folder / "store", "trainable=train.py:train", "budget.trials=2")
    assert os.getcwd() == str(folder) == run.post.folder
    run.run()
    assert values(run) == [0.25, 0.25]
