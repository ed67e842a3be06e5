"""Comparisons of all papers of a task: who takes part, who cannot and why, and what is said of it everywhere."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml

from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.commands import completion
from fairsweep.cluster.errors import MissingData, UserError
from fairsweep.cluster.jobs import reporting
from fairsweep.cluster.jobs.comparing import field, job, plan
from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay
from fairsweep.cluster.jobs.comparing.field import LeftOut
from fairsweep.cluster.jobs.comparing.sets import most_shared
from fairsweep.trainables import catalog, index
from fairsweep.trainables.base import Metric
from tests.cluster import field_papers
from tests.cluster.test_compare import compared, rows

TASK = "task=test_field_of_bowls"
FEW = ("budget.trials=2", "seeds=2", "budget.report_seconds=0")
ABSENT = {
    "test_field_dense": "dense n x n similarities: 100,000 nodes need 40 GB",
    "test_field_elsewhere": "has no data=bowl; its own are moon",
    "test_field_extra": "needs the package no_such_package, which is not installed",
    "test_field_otherwise": "on=test_loss: has no such metric; known: test_fame",
}


def asked(*words: str, storage: str = "store") -> plan.Plan:
    return plan.asked([TASK, *words, *FEW], "c", storage)


def who(found: plan.Plan) -> list[str]:
    return [m.label for m in found.spec.methods]


def test_every_paper_of_a_task_takes_part_and_those_that_cannot_say_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for task in (TASK, "task=test field of bowls", "task=Test-Field_of bowls"):
        found = plan.asked([task, *FEW], "c", "store")
        assert who(found) == ["test_field_one", "test_field_two"]
        assert found.spec.task == "test_field_of_bowls"
        assert {x.method: x.why for x in found.spec.left_out} == ABSENT
        assert (found.spec.on, found.spec.mode) == ("test_loss", "min")
    assert [d.name for d in found.spec.data] == ["bowl"]
    assert found.notes == (
        "data=bowl: the first that most papers of the task have (5 of 6); data=NAME says another",
    )
    assert not asked("data=bowl2").notes
    sets = {"a": ("rare", "x", "y"), "b": ("x", "y"), "c": ("x", "y")}
    monkeypatch.setattr(index, "datasets_of", sets.__getitem__)
    assert most_shared("a task", list(sets), None)[0] == "x"
    sets["c"] = ("rare", "y", "z", "q", "x")
    assert most_shared("a task", list(sets), None)[0] == "y", "the foremost of what all three have"


def test_baselines_are_methods_of_their_own() -> None:
    found = asked("baselines=true")
    labels = [
        "test_field_one",
        "test_field_one:plain",
        "test_field_one:flat",
        "test_field_two",
        "test_field_two:plain",
    ]
    assert who(found) == [
        "test_field_dense:flat",
        *labels,
    ]  # what is left out is a matter of the configuration
    left = {x.method: x.why for x in found.spec.left_out}
    assert left["test_field_dense"] == left["test_field_dense:plain"] == ABSENT["test_field_dense"]
    assert [name for name in left if "dense" not in name] == list(ABSENT)[1:], (
        "a paper once, if for one reason"
    )
    assert found.entrants[2].settings.space.parameters["model"].value == "plain"
    named = plan.asked(["test_field_one", "test_field_two:model=flat", "baselines=true", *FEW], "c", "store")
    assert who(named) == [
        "test_field_one",
        "test_field_one:plain",
        "test_field_one:flat",
        "test_field_two:flat",
    ]
    assert (
        plan.asked([TASK, "baselines=true", "budget.trials=2"], "c", "store").spec.seeds == 10
    )  # of six methods


def test_a_method_that_is_named_twice_is_one_and_two_have_two_labels() -> None:
    own = "test_field_two:model=test_field_two"
    assert who(asked(own)) == ["test_field_one", "test_field_two", "test_field_two:test_field_two"]
    assert len(asked(own).entrants) == 3
    for words in (
        ["test_field_one", "test_field_one:model=plain"],
        ["test_field_one:model=plain", "test_field_one"],
    ):
        found = plan.asked([*words, "baselines=true", *FEW], "c", "store")
        assert sorted(who(found)) == ["flat", "plain", "test_field_one"]


def test_a_paper_has_one_vote_on_the_metric_with_any_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_papers.Extra, "setup", field_papers.One.setup)
    monkeypatch.setattr(field_papers.Extra, "contenders", {"model": ("plain",)})
    monkeypatch.setattr(field_papers.One, "metrics", field_papers.Otherwise.metrics)
    found = asked("baselines=true")  # five methods of three papers have test_loss, six of two have test_fame
    assert found.spec.on == "test_loss"
    assert {m.trainable.removeprefix("test_field_") for m in found.spec.methods} == {"dense", "extra", "two"}


def test_what_is_better_the_other_way_round_is_left_out_also_of_a_metric_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(field_papers.Extra, "setup", field_papers.One.setup)
    other = (*field_papers.One.metrics[:2], Metric("test_loss", "max", "test"))
    monkeypatch.setattr(field_papers.One, "metrics", other)
    for found in (asked(), asked("on=test_loss")):
        assert who(found) == ["test_field_extra", "test_field_two"] and found.spec.mode == "min"
        left = {x.method: x.why for x in found.spec.left_out}
        assert left["test_field_one"] == "on=test_loss: has a test_loss that is better the other way round"
    with pytest.raises(
        UserError, match="on=test_loss: is to be large for test_field_one and small for test_"
    ):
        asked("test_field_one", "on=test_loss")


def test_the_same_words_in_another_folder_are_another_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["data=own", "data_dir=there"], ["data=own@there"]):
        specs = []
        for name in ("a", "b"):
            (tmp_path / name / "there").mkdir(parents=True, exist_ok=True)
            monkeypatch.chdir(tmp_path / name)
            specs.append(asked(*words))
        with pytest.raises(UserError, match="has a comparison of this name with other data"):
            plan.check_same(plan.as_begun(specs[1], specs[0].spec).spec, specs[0].spec)
        monkeypatch.chdir(tmp_path)
        again = asked(*(word.replace("there", f"{tmp_path}/a/there") for word in words))
        assert again.spec.asked == specs[0].spec.asked


def test_a_task_of_one_paper_has_its_baselines() -> None:
    with pytest.raises(
        UserError, match="test_field_alone is the only method that can take data=bowl; baselines=true"
    ):
        plan.asked(["task=test_field_of_one", *FEW], "c", "store")
    found = plan.asked(["task=test_field_of_one", "baselines=true", *FEW], "c", "store")
    assert who(found) == ["test_field_alone", "plain", "flat"] and found.spec.on == "test_a"
    assert (
        plan.asked(["task=test_field_of_one", "baselines=true", "data=bowl2"], "c", "store").spec.on
        == "test_b"
    )
    with pytest.raises(UserError, match="its own are test_a on bowl, test_b on bowl2"):
        plan.asked(
            ["test_field_alone", "test_field_alone:model=flat", "data=[bowl,bowl2]", *FEW], "c", "store"
        )


def test_methods_of_ones_own_take_part_beside_them(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import fairsweep\n"
        "@fairsweep.trainable(space={'x': (0.0, 1.0)}, metric='val', mode='min', test=['test_loss'], steps=1)\n"
        "def mine(config, trial):\n    trial.report(val=config['x'], test_loss=config['x'])\n"
    )
    found = asked(f"{tmp_path}/m.py:mine", "data=own", f"data_dir={tmp_path}")
    assert who(found) == ["test_field_one", "test_field_two", "mine"]
    with pytest.raises(UserError, match="mine: data=bowl: mine has no such data set"):
        asked(f"{tmp_path}/m.py:mine")
    with pytest.raises(UserError, match="has no data=bowl; its own are moon"):
        asked("test_field_elsewhere")  # who asks for one by name hears what is wrong with it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=test_feild_of_bowls"], "task=test_feild_of_bowls: no paper is of such a task; did you mean test_"),
        (["task=knitting"], "task=knitting: no paper is of such a task; known: .*node_classification"),
        ([TASK, "data=mars"], "data=mars: no paper of the task test-field of bowls has such a data set"),
        ([TASK, "budget.tirals=3"], "budget.tirals: no such setting; did you mean budget.trials"),
        ([TASK, "space.width=3"], "space.width=3: no method has this parameter"),
        ([TASK, "data=moon"], "test_field_elsewhere is the only method that can take data=moon; test_field_dense: has"),
        ([TASK, "data_dir=there"], "data is missing: data_dir=there says where"),
        ([TASK, "data=own", "data_dir=a", "data_dir=b"], "data_dir=b: data_dir is given twice"),
        ([TASK, "baselines=maybe"], "baselines=maybe: must be true or false"),
        ([TASK, "on=fame"], "on=fame: has no such metric"),
    ],
)  # fmt: skip
def test_what_is_no_comparison_of_a_task_is_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        plan.asked([*words, *FEW], "c", str(tmp_path / "store"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()


def test_data_that_are_not_there_are_the_requests_fault(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no method can take data=mine; test_field_dense: dense.*: data=mine: None has no"
    ):
        asked("data=mine")
    (tmp_path / "rows").touch()
    with pytest.raises(UserError, match="test_field_two is the only method that can take data=mine"):
        asked("data=mine", f"data_dir={tmp_path}")
    for slug in ("dagnn", "dagnn:model=gcn"):
        assert isinstance(catalog.get(slug.partition(":")[0]), type)
    with pytest.raises(MissingData, match="data=cora: "):
        plan.asked(["task=node_classification", "baselines=true", "data=cora", *FEW], "c", "store")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    compared(folder, TASK, *FEW)
    return folder


def test_the_stored_comparison_says_who_could_not_take_part(
    done: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = [{"method": method, "why": why} for method, why in ABSENT.items()]
    assert all(json.loads(row["left_out"]) == told for row in rows(done))
    assert {row["method"] for row in rows(done)} == {"test_field_one", "test_field_two"}
    spec = job.stored(Store(str(done)), "c")
    assert spec is not None and spec.left_out == tuple(LeftOut(*pair) for pair in ABSENT.items())
    where = ["--storage", str(done)]
    assert run_cli(["show", "c", *where]) == 0
    shown = capsys.readouterr().out
    assert f"left out test_field_extra: {ABSENT['test_field_extra']}" in shown
    assert run_cli(["show", "c", *where, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["absent"] == found["answer"]["absent"] == told
    page = reporting.write(Store(str(done)), ["c"], tmp_path / "c.md").read_text()
    assert "could not take part" in page and ABSENT["test_field_dense"] in page


def test_before_the_first_repeat_has_ended_it_is_said_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = job.Run.of(asked(storage=str(tmp_path)), Store(str(tmp_path)), ComparisonDisplay(), 1)
    lane = run.next()
    assert lane is not None
    lane.close()
    assert run_cli(["show", "c", "--storage", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert (
        "no repeat has ended yet" in out and f"left out test_field_dense: {ABSENT['test_field_dense']}" in out
    )


def test_the_plan_has_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_cli(["compare", TASK, *FEW, "name=c", f"storage={tmp_path}/store", "--cfg", "job"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)["comparison"]
    assert {each["method"]: each["why"] for each in found["left_out"]} == ABSENT
    assert [m["label"] for m in found["methods"]] == ["test_field_one", "test_field_two"]


def test_the_same_words_go_on_with_the_papers_that_it_began_with(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package is installed meanwhile, and so one more could take part."""
    monkeypatch.setattr(field_papers.Extra, "setup", field_papers.One.setup)
    again = asked(storage=str(done))
    assert who(again) == ["test_field_extra", "test_field_one", "test_field_two"]
    taken_up: list[tuple[plan.Spec, tuple[str, ...]]] = []
    monkeypatch.setattr(
        job, "_taken_up", lambda store, storage, spec, display, notes: taken_up.append((spec, notes))
    )
    job.run(again, ComparisonDisplay())
    ((spec, notes),) = taken_up
    assert [m.label for m in spec.methods] == ["test_field_one", "test_field_two"] and spec.seeds == 2
    assert notes == (
        "test_field_extra could take part by now; a comparison keeps the methods that it began with",
    )
    with pytest.raises(UserError, match="has a comparison of this name with other"):
        job.run(asked("baselines=true", storage=str(done)), ComparisonDisplay())


def test_without_seeds_the_same_words_go_on_with_as_many_as_there_are(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = job.stored(Store(str(done)), "c")
    assert known is not None
    grown = plan.resumed(known, 9)
    monkeypatch.setattr(job, "stored", lambda store, name: grown)
    taken_up: list[int] = []
    monkeypatch.setattr(
        job, "_taken_up", lambda store, storage, spec, display, notes: taken_up.append(spec.seeds)
    )
    again = plan.asked([TASK, "budget.trials=2", "budget.report_seconds=0"], "c", str(done))
    job.run(again, ComparisonDisplay())
    assert taken_up == [9] and again.spec.seeds == 6


def test_papers_of_two_tasks_on_other_test_examples_are_refused(tmp_path: Path) -> None:
    words = ["test_splits", "test_field_stranger", "data=bowl", "on=test_loss", *FEW]
    with pytest.raises(
        UserError, match="test_splits is of test and test_field_stranger of test field of strangers: they"
    ):
        job.run(plan.asked(words, "c", str(tmp_path / "store")), ComparisonDisplay())
    assert not Store(str(tmp_path / "store")).sweeps()


def test_every_paper_that_has_baselines_says_by_which_parameter() -> None:
    """The method comes first, and what is declared is in the space."""
    without = []
    for slug in catalog.own():
        paper = catalog.get(slug)
        found, space = field.contenders(paper), paper.space().parameters
        if found is None:
            without.append(slug)
            continue
        name, values = found
        assert values[0] == space[name].value and set(values) <= set(space[name].choices), slug
        assert len(values) > 1 and len(set(values)) == len(values), slug
        assert set(paper.contenders) <= {name}, slug
    assert set(without) <= {"information_plane", "multi_output_deblur", "nasnet", "standalone"}


def test_what_may_come_next() -> None:
    def compare(prefix: str, *words: str) -> list[str]:
        return completion.of_a_comparison(prefix, argparse.Namespace(command="compare", words=list(words)))

    assert compare("task=node_cl") == ["task=node_classification"]
    assert "dagnn" in compare("da") and "data=" in compare("da")
    assert compare("data=bo", TASK) == ["data=bowl", "data=bowl2"]
    assert compare("baselines=t") == ["baselines=true"] and compare("scheduler=as") == ["scheduler=asha"]
    assert "click_through_rate_prediction" in index.tasks()
