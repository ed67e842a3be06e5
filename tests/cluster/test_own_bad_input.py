"""What can be wrong with a trainable of one's own: one clear line, before anything is trained where it can be known."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.trainables.own import known
from tests.cluster.test_bad_input import snapshot

HEAD = """import fairsweep


@fairsweep.trainable(space={"x": (0.0, 1.0)}, metric="val_loss"%s)
def train(config, trial):
"""
GOOD = HEAD % "" + "    return config['x']\n"


def marked(**how: str) -> str:
    told = ", ".join(
        f"{k}={v}" for k, v in {"space": "{'x': (0.0, 1.0)}", "metric": "'val_loss'", **how}.items()
    )
    return f"import fairsweep\n\n@fairsweep.trainable({told})\ndef train(config, trial):\n    return config['x']\n"


PAPER = """
import fairsweep
from fairsweep.trainables.base import Fidelity, Metric
class Mine(fairsweep.Paper):
    metrics = (Metric("loss", "min", "validation"),)
    objective = "loss"
    {more}
    @classmethod
    def fidelity(cls, config, steps=None): return Fidelity("epoch", 1, steps or 3)
    def setup(self, config, setting): self.x, self.done = config["x"], 0
    def step(self): self.done += 1; return {{"loss": self.x / self.done}}
    finished = property(lambda self: self.done >= 3)
    def test(self): return {{}}
    def state_dict(self): return {{"done": self.done}}
    def load_state_dict(self, state): self.done = state["done"]
"""

MINE = PAPER.format(more="space = {'x': (0.1, 1.0)}")
CLASS = ["trainable=train.py:Mine"]

# (text of train.py, words after `run`, words that the line must contain)
BEFORE: dict[str, tuple[str, list[str], list[str]]] = {
    "no file": (
        GOOD,
        ["trainable=trian.py:train"],
        ["trian.py:train", "no such file", "did you mean", "train.py:train"],
    ),
    "no folder": (GOOD, ["trainable=src/train.py:train"], ["src/train.py:train", "no such file"]),
    "a stem alone": (GOOD, ["trainable=train"], ["no such trainable", "train.py is meant by train.py:NAME"]),
    "a file alone": (GOOD, ["trainable=train.py"], ["trainable=train.py:NAME", "it has train"]),
    "no name": (GOOD, ["trainable=train.py:"], ["trainable=train.py:", "path/file.py:name"]),
    "no function": (GOOD, ["trainable=train.py:trian"], ["has no trian", "did you mean train"]),
    "not a python file": (GOOD, ["trainable=train.txt:train"], ["train.txt", "must be a Python file"]),
    "a notebook": (GOOD, ["trainable=train.ipynb:train"], ["must be a Python file", "fairsweep.run("]),
    "no module": (
        GOOD,
        ["trainable=no.such:train"],
        ["no.such:train", "no module no.such", "no/such.py:train"],
    ),
    "a file as a module": (GOOD, ["trainable=train.train:train"], ["train.train"]),
    "syntax": ("def train(:\n", [], ["raises SyntaxError", "line 1"]),
    "not utf-8": ("\udce9", [], ["not UTF-8"]),
    "import raises": (
        "import fairsweep\nraise OSError('no disk')\n",
        [],
        ["raises OSError", "no disk", "train.py, line 2"],
    ),
    "import of what is not there": ("import no_such_package\n", [], ["no_such_package", "train.py, line 1"]),
    "import exits": ("import sys\nsys.exit(3)\n", [], ["calls sys.exit(3)", "__main__", "line 2"]),
    "sweep at import": (
        "import fairsweep\nfairsweep.run('train.py:train')\n",
        [],
        ["is called while", "__main__"],
    ),
    "not marked": (
        "def train(config):\n    return 1.0\n",
        [],
        ["train.py:train: train is a function that cannot be tuned", "@fairsweep.trainable"],
    ),
    "no function at all": ("train = {'lr': 1}\n", [], ["a dict that cannot be tuned"]),
    "another class": ("class train:\n    pass\n", [], ["a class that cannot be tuned", "fairsweep.Paper"]),
    "too many arguments": (
        marked().replace("(config, trial)", "(config, trial, data)"),
        [],
        ["must take (config) or (config, trial)"],
    ),
    "no space": (marked(space="None"), [], ["space is missing", "train.yaml"]),
    "no yaml": (marked(space="'space.yml'"), [], ["space is missing", "space.yml"]),
    "empty space": (marked(space="{}"), [], ["space={}", "at least one parameter"]),
    "space of another kind": (marked(space="[1, 2]"), [], ["space=[1, 2]", "must map"]),
    "reversed range": (marked(space="{'x': (1.0, 0.0)}"), [], ["x.low=1.0", "reversed"]),
    "range of text": (marked(space="{'x': ('a', 'b')}"), [], ["x=('a', 'b')", "choices stand in a list"]),
    "log from zero": (marked(space="{'x': (0.0, 1.0, 'log')}"), [], ["x.low=0.0", "log scale"]),
    "unknown scale": (marked(space="{'x': (0.1, 1.0, 'ln')}"), [], ["'ln'", "(low, high, 'log')"]),
    "object as a range": (marked(space="{'x': len}"), [], ["x=", "must be (low, high)"]),
    "reserved name": (marked(space="{'opt': {'low': 1, 'lr': (0.1, 1.0)}}"), [], ["opt"]),
    "name with a space": (marked(space="{'learning rate': (0.1, 1.0)}"), [], ["learning rate", "letters"]),
    "no metric": (marked(metric="None"), [], ["metric is missing", "metric=NAME"]),
    "wrong mode": (marked(mode="'lower'"), [], ["mode='lower'", "min or max"]),
    "wrong steps": (marked(steps="0"), [], ["steps=0", "at least 1"]),
    "tests are a word": (marked(test="'acc'"), [], ["test", "lists of names"]),
    "tuned on test": (marked(test="['val_loss']"), [], ["val_loss is tuned on"]),
    "metric without a mode": (GOOD, ["metric=acc"], ["mode is missing", "acc"]),
    "metric of test data": (marked(test="['acc']"), ["metric=acc", "mode=max"], ["metric=acc", "test data"]),
    "median without steps": (GOOD, ["scheduler=median"], ["budget.steps", "scheduler=median"]),
    "no such parameter": (GOOD, ["space.y=1"], ["y=1", "no such parameter"]),
    "outside": (GOOD, ["space.x.low=3"], ["x.low=3", "reversed"]),
    "own data": (GOOD, ["data=cora"], ["data=cora", "own"]),
    "class without metrics": (
        MINE.replace("metrics = (M", "m = (M"),
        CLASS,
        ["Mine does not declare metrics"],
    ),
    "class without a space": (PAPER.format(more=""), CLASS, ["space is missing", "Mine.yaml"]),
    "class with a wrong objective": (
        MINE.replace('objective = "loss"', 'objective = "acc"'),
        CLASS,
        ["objective='acc'", "validation metric"],
    ),
    "class that lacks methods": (MINE.replace("def test(", "def tset("), CLASS, ["does not define test"]),
    "async": (GOOD.replace("def train", "async def train"), [], ["train is async", "asyncio.run"]),
    "a method": (
        "import fairsweep\nclass A:\n    @fairsweep.trainable(space={'x': (0.0, 1.0)}, metric='v')\n"
        "    def train(self, config): return 1.0\n",
        ["trainable=train.py:A.train"],
        ["train.py:A.train", "a method without its object"],
    ),
    "unknown setting of one that is told its metric": (
        marked(metric="None"),
        ["metric=a", "mode=min", "constraints.a.max=3"],
        ["constraints.a.max: no such setting"],
    ),
    "metric of a class": (
        MINE,
        ["trainable=train.py:Mine", "metric=los"],
        ["metric=los", "did you mean loss"],
    ),
}


@pytest.mark.parametrize("case", BEFORE)
def test_before_anything_is_trained(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, words, expected = BEFORE[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_bytes(text.encode(errors="surrogateescape"))
    before = snapshot(tmp_path)
    if not any(w.startswith("trainable=") for w in words):
        words = ["trainable=train.py:train", *words]
    code = run_cli(["run", *words, f"storage={tmp_path / 'store'}", "cluster.cpus=1"])
    said = capsys.readouterr()
    err = said.err.strip()
    assert code == 2, err
    assert len(err.splitlines()) == 1 and err.startswith("fairsweep: error: "), err
    for word in expected:
        assert word in err, err
    assert said.out == "" and snapshot(tmp_path) == before


# (body of the function, words that the reason of the failed trial must contain)
WHILE: dict[str, tuple[str, list[str]]] = {
    "text": (
        "trial.report(val_loss='low')",
        ["report 1: val_loss='low' (str): must be a number", "train.py, line 6"],
    ),
    "none": ("trial.report(val_loss=None)", ["val_loss=None (NoneType): must be a number"]),
    "bool": ("trial.report(val_loss=True)", ["val_loss=True (bool)"]),
    "nan": ("trial.report(val_loss=float('nan'))", ["not finite: val_loss=nan at step 1"]),
    "infinity": (
        "trial.report(val_loss=0.5); trial.report(val_loss=float('inf'))",
        ["not finite: val_loss=inf at step 2"],
    ),
    "array": (
        "import numpy; trial.report(val_loss=numpy.ones(3))",
        ["val_loss=array([1., 1., 1.]) (shape (3,))", "val_loss.mean()"],
    ),
    "beyond double precision": (
        "trial.report(val_loss=0.5); trial.report(val_loss=10**400)",
        ["report 2: val_loss: is beyond the numbers of double precision", "train.py, line 6"],
    ),
    "truth value of NumPy": (
        "import numpy; trial.report(val_loss=numpy.bool_(True))",
        ["val_loss=True (bool): must be a number ("],
    ),
    "dict in a dict": ("trial.report(val_loss=0.1, more={'a': 1})", ["more={'a': 1} (dict)"]),
    "complex": ("trial.report(val_loss=1j)", ["val_loss=1j (complex)"]),
    "later": ("trial.report(val_loss=0.1); trial.report(val_loss=0.2, acc='high')", ["report 2: acc='high'"]),
    "a list": ("trial.report([0.1, 0.2])", ["report 1: [0.1, 0.2] (list): must be a dict"]),
    "nothing in it": ("trial.report()", ["report 1: is empty", "val_loss"]),
    "name that is none": ("trial.report({3: 0.1})", ["3: a metric's name must be text"]),
    "never": ("pass", ["ended without a report", "trial.report(val_loss=...)"]),
    "never yields": ("if 0:\n    yield", ["ended without a report"]),
    "not the objective": ("trial.report(valloss=0.1)", ["no report had val_loss", "reported: valloss"]),
    "yields no dict": ("yield 'a'", ["report 1: 'a' (str): must be a dict"]),
    "returns text": ("return 'done'", ["'done' (str): must be a dict"]),
    "raises": ("raise KeyError('gone')", ["raised KeyError: 'gone'"]),
    "exits": ("import sys; sys.exit('enough')", ["raised SystemExit: enough"]),
    "interrupts": ("raise KeyboardInterrupt", ["raised KeyboardInterrupt"]),
    "too many names": ("for k in range(600): trial.report({f'loss_{k}': 0.1})", ["more than 500 names"]),
    "unpicklable state": ("trial.checkpoint(lambda: 1)", ["pickle"]),
    "state of a later step": ("trial.checkpoint(1, step=7)", ["step=7", "from 0 to 1"]),
    "restore too late": ("trial.report(val_loss=0.1); trial.restore()", ["before the first report"]),
}


def run_once(folder: Path, body: str, more: str = "", config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The last report of one trial of a function with this body, and all its rows."""
    (folder / "train.py").write_text(HEAD % more + textwrap.indent(body, "    ") + "\n")
    paper = known.get(str(folder / "train.py") + ":train")
    runner = LegRunner(
        Post("s", "x", str(folder / "ckpt"), source=paper.source.to_json(), folder=str(folder))
    )  # type: ignore[attr-defined]
    maximum = paper.fidelity({}).maximum
    runner.take(Leg("00000-0", config or {"x": 0.5}, 0, 0, maximum, ()))
    rows: list[dict[str, Any]] = []
    while True:
        report = runner.step()
        rows += report["rows"]
        if report["status"] != "running":
            return {**report, "rows": rows}


@pytest.mark.parametrize("case", WHILE)
def test_while_it_runs(case: str, tmp_path: Path) -> None:
    body, expected = WHILE[case]
    report = run_once(tmp_path, body)
    assert report["status"] == "failed"
    reason = report["failure"]["reason"]
    assert len(reason.splitlines()) == 1
    for word in expected:
        assert word in reason, reason
    assert "worker.py" not in reason  # lines are those of the user's
    steps = [row["step"] for row in report["rows"]]
    assert steps == list(range(1, len(steps) + 1))  # what was reported before is there


def test_there_are_enough_kinds() -> None:
    assert len(BEFORE) + len(WHILE) >= 40


def test_a_space_in_a_file_that_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(marked(space="'space.yaml'"))
    (tmp_path / "space.yaml").write_bytes(b"\xff\xfe")
    assert run_cli(["run", "trainable=train.py:train", f"storage={tmp_path / 'store'}"]) == 2
    err = capsys.readouterr().err
    assert "space.yaml: is not UTF-8 text" in err and err.count("\n") == 1
