"""Optuna objectives as they are: what they ask for, report, return and raise, without Ray."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from fairsweep.cluster.errors import UserError
from fairsweep.trainables import catalog
from fairsweep.trainables.own import dry_runs, known
from fairsweep.trainables.own.dry_runs import dry_run
from fairsweep.trainables.own.optuna_objective import answer
from fairsweep.trainables.own.optuna_space import asked_choices, asked_of
from tests.cluster.test_conductor import Engine, engine, trials
from tests.trainables.own.here import Here

REPORTING = """
x = trial.suggest_float("x", 0, 1)
for k in range(4):
    trial.report(x + 1 / (k + 1), k)
    if trial.should_prune():
        raise optuna.TrialPruned()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; dry runs are made in this process, which is sooner."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_runs, "_Process", Here)
    return tmp_path


def write(body: str, more: str = "", before: str = "import optuna") -> None:
    text = f"{before}\n\ndef objective(trial):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n{more}\n"
    Path("own.py").write_text(text)


def run(*overrides: str, reference: str = "own.py:objective") -> Engine:
    made = engine(Path("store"), f"trainable={reference}", "search=random", "budget.trials=2", *overrides)
    made.run()
    return made


def told(made: Engine) -> list[str]:
    return [e["text"] for e in made.store.read("s").events if e["kind"] == "note"]


# -- the trial's answers, in this process ----------------------------------------------------------------


def test_a_configurations_value_is_given_and_what_it_lacks_is_drawn_the_same_each_time() -> None:
    config = {"x": 0.3, "hidden": "(64, 64)", "b_place": 0.5}
    assert answer(asked_of("x", "float", 0, 1, False, None), config, 0) == (0.3, "")
    assert answer(asked_choices("hidden", [(32,), (64, 64)]), config, 0) == ("(64, 64)", "")
    assert answer(asked_of("b", "int", 10, 20, False, None), config, 0) == (15, "")
    ask = asked_of("late", "float", 5, 6, False, None)
    first, note = answer(ask, config, 0)
    assert 5 <= first <= 6 and "late" in note and "drawn in the worker" in note
    assert answer(ask, config, 0)[0] == first
    others = [answer(ask, config, 1)[0], answer(ask, {**config, "x": 0.4}, 0)[0]]
    others.append(answer(asked_of("later", "float", 5, 6, False, None), config, 0)[0])
    assert len({first, *others}) == 4


def test_a_value_that_the_user_has_put_outside_of_the_range_is_used_and_said() -> None:
    value, note = answer(asked_of("x", "float", 0, 1, False, None), {"x": 7.0}, 0)
    assert value == 7.0 and note.startswith("x=7: outside of 0 to 1")
    with pytest.raises(ValueError, match=r"^a='z': the objective offers 'p', 'q'$"):
        answer(asked_choices("a", ["p", "q"]), {"a": "z"}, 0)


def dry(objective: Any, **given: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []
    order = {"given": given, "seed": None, "patience": 5.0}
    return dry_run(objective, ["min"], order, said.append), said


def test_a_dry_run_asks_answers_and_ends_at_the_first_report() -> None:
    def objective(trial: Any) -> float:
        a = trial.suggest_categorical("a", ["p", "q"])
        n = trial.suggest_int("n", 3, 9)
        assert (trial.params, trial.number, trial.suggest_int("n", 3, 9)) == ({"a": a, "n": n}, 0, n)
        assert trial.distributions["n"].high == 9
        trial.set_user_attr("k", [1])
        assert trial.user_attrs == {"k": [1]} and trial.study.direction.name == "MINIMIZE"
        trial.report(1.0, 0)
        raise AssertionError("it is over")

    end, said = dry(objective, a="q", n=100)
    assert end == {"end": "report", "error": "", "returned": 0}
    assert [(s["ask"]["name"], s["value"]) for s in said] == [("a", "q"), ("n", 3)]


def test_the_old_names_of_ranges_still_work() -> None:
    def objective(trial: Any) -> float:
        u = trial.suggest_uniform("u", 0, 2)
        v = trial.suggest_loguniform("v", 1, 100)
        w = trial.suggest_discrete_uniform("w", 0, 1, 0.25)
        return float(u + v + w + trial.suggest_int("i", 0, 10, 5) + trial.suggest_int("j", 1, 8, log=True))

    end, said = dry(objective)
    assert end["end"] == "return" and end["returned"] == 1
    asks = {s["ask"]["name"]: s["ask"] for s in said}
    assert asks["v"]["log"] and asks["w"]["step"] == 0.25 and asks["i"]["step"] == 5 and asks["j"]["log"]


@pytest.mark.parametrize(
    "use",
    [
        "trial.study.best_value",
        "trial.study.trials",
        "trial.study.ask()",
        "trial.storage",
        "trial.system_attrs",
        "trial.set_constraint('c', 1.0)",
        "trial._trial_id",
    ],
)
def test_what_is_not_carried_over_is_refused_by_its_name(use: str) -> None:
    end, _ = dry(lambda trial: eval(use))
    name = use.partition("(")[0]
    assert end["end"] == "refused" and end["error"].startswith(f"{name}: is not carried over; ")


# -- from the reference to the row ---------------------------------------------------------------------


def test_the_value_is_what_is_returned_though_a_report_was_better(folder: Path) -> None:
    write(REPORTING + "trial.set_user_attr('note', {'k': (1, 2)})\nreturn 5 + x")
    made = run()
    for row in trials(made.store):
        assert row["state"] == "complete"
        assert row["value"] == 5 + json.loads(row["config_json"])["x"]
        assert (row["steps"], row["best_step"]) == (5, 5)
        assert json.loads(row["attrs"]) == {"user_attrs": {"note": {"k": [1, 2]}}}


def test_a_reported_value_that_is_no_number_ends_nothing(folder: Path) -> None:
    """Optuna goes on after an intermediate NaN; only what is returned has to be a number."""
    write("""
        x = trial.suggest_float("x", 0, 1)
        for k in range(6):
            trial.report(float("nan") if k in (0, 3) else float("inf") if k == 4 else x + k, k)
        return x
    """)
    made = run("scheduler=asha", "budget.trials=4")
    rows = trials(made.store)
    assert {t["state"] for t in rows} == {"complete", "pruned"}
    assert all(t["value"] == t["config.x"] for t in rows if t["state"] == "complete")
    whole = next(t["trial"] for t in rows if t["state"] == "complete")
    values = [r["metric.value"] for r in engine_rows() if r["trial"] == whole]
    assert [v is None for v in values] == [True, False, False, True, True, False, False]
    assert any("reported nan at step 3: that row has no value" in note for note in made.store.notes("s"))


@pytest.mark.filterwarnings("ignore:trial.report")
def test_a_returned_value_that_was_reported_last_is_no_further_row_and_steps_may_have_gaps(
    folder: Path,
) -> None:
    write("""
        x = trial.suggest_float("x", 0, 1)
        for k in (0, 10, 10, 20):
            trial.report(x * k, k)
        return x * 20
    """)
    first = trials(run("budget.steps=3").store)[0]
    assert first["steps"] == 3 and first["value"] == pytest.approx(20 * first["config.x"])
    rows = engine_rows()
    assert [r.get("metric.reported_step") for r in rows if r["trial"] == first["trial"]] == [None, 10, 20]


def engine_rows() -> list[dict[str, Any]]:
    from fairsweep.analysis.store import Store

    return Store("store").table("results", "s").to_pylist()


def test_what_is_returned_after_the_last_step_of_the_budget_counts(folder: Path) -> None:
    write(REPORTING + "return 5 + x")
    for row in trials(run("budget.steps=4").store):
        assert row["value"] == 5 + row["config.x"] and row["state"] == "complete"


def test_the_scheduler_prunes_and_the_objective_too(folder: Path) -> None:
    write("""
        x = trial.suggest_float("x", 0, 1)
        if x > 0.5:
            raise optuna.TrialPruned("too large")
        for k in range(9):
            trial.report(x, k)
        return x
    """)
    rows = trials(run("scheduler=asha", "budget.steps=9", "budget.trials=12").store)
    reasons = {r["reason"] for r in rows if r["state"] == "pruned"}
    assert "pruned by the trainable: too large" in reasons and any("asha" in r for r in reasons)
    assert all((r["config.x"] > 0.5) == ("trainable" in r["reason"]) for r in rows)
    assert any(r["state"] == "complete" for r in rows)


def test_conditions_reach_the_rows_and_drawn_values_stand_in_attrs(folder: Path) -> None:
    write("""
        kind = trial.suggest_categorical("kind", ["svm", "tree"])
        if kind == "svm":
            c = trial.suggest_float("c c", 1e-3, 1e3, log=True)
        else:
            c = trial.suggest_int("depth", 2, 32, log=True)
        if trial.params.get("depth", 0) == 7:
            trial.suggest_float("never seen", 0, 1)
        return c
    """)
    made = run("budget.trials=6")
    rows = trials(made.store)
    for row in rows:
        config = json.loads(row["config_json"])
        assert ("depth" in config) == (config["kind"] == "tree")
    assert {json.loads(row["config_json"])["kind"] for row in rows} == {"svm", "tree"}


def test_attributes_of_any_kind_are_json_that_everybody_reads(folder: Path) -> None:
    write("""
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("nan", float("nan"))
        trial.set_user_attr("confusion", {(0, 1): 3})
        loop = []
        loop.append(loop)
        trial.set_user_attr("loop", loop)
        return x
    """)
    made = run("budget.trials=1")
    (row,) = trials(made.store)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert row["state"] == "complete"
    found = json.loads(row["attrs"], parse_constant=refuse)["user_attrs"]
    assert found == {"nan": "NaN", "confusion": "{(0, 1): 3}", "loop": "[[...]]"}


def test_several_values_and_constraints_are_a_sweep_of_several_objectives(folder: Path) -> None:
    write("""
        x = trial.suggest_float("x", 0, 5)
        y = trial.suggest_float("y", 0, 3)
        assert trial.study.directions[1].name == "MAXIMIZE"
        trial.set_constraint("circle", x**2 + y**2 - 9)
        assert trial.constraints == {"circle": x**2 + y**2 - 9}
        return x, y
    """)
    made = run(
        "metric=[a,b]", "mode=[min,max]", "constraints={circle: {max: 0}}", "search=tpe", "budget.trials=8"
    )
    rows = {row["trial"]: row for row in trials(made.store)}
    assert {row["state"] for row in rows.values()} == {"complete"}
    for row in engine_rows():
        x, y = rows[row["trial"]]["config.x"], rows[row["trial"]]["config.y"]
        assert (row["metric.a"], row["metric.b"], row["metric.circle"]) == (
            x,
            y,
            pytest.approx(x**2 + y**2 - 9),
        )
    again = made.store.read("s").sweep
    assert json.loads(again["source"])["found"]["objectives"] == [["a", "b"], ["min", "max"]]


def test_directions_in_the_file_are_asked_for(folder: Path) -> None:
    write(
        "return 1.0, 2.0",
        "study = optuna.create_study(directions=['minimize', optuna.study.StudyDirection.MAXIMIZE])",
    )
    with pytest.raises(catalog.UnknownPaper, match=r"say metric=\[value_0,value_1\] mode=\[min,max\]$"):
        run()


def test_a_script_that_runs_its_study_when_it_is_imported_is_read_up_to_there(folder: Path) -> None:
    more = "study = optuna.create_study(direction='maximize')\nstudy.optimize(objective, n_trials=3)\nstudy.best_value"
    write("return trial.suggest_float('x', 0, 1)", more)
    with pytest.raises(
        catalog.UnknownPaper, match=r"mode is missing: its file says .*'maximize'.*; say mode=max$"
    ):
        run()
    assert trials(run("mode=max").store)[0]["mode"] == "max"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1.0", "asks for no hyperparameter"),
        ("import nothing_there", "each of .* dry runs failed, the first with ModuleNotFoundError: No module"),
        ("return trial.study.best_value", "trial.study.best_value: is not carried over"),
        (
            "return trial.suggest_float('x', 0, 1), 2.0",
            r"it returns 2 values; say metric=\[value_0,value_1\] mode=\[min,min\]",
        ),
    ],
)
def test_what_cannot_be_searched_is_one_line_and_the_store_untouched(
    folder: Path, body: str, words: str
) -> None:
    write(body)
    with pytest.raises((UserError, catalog.UnknownPaper), match=words) as error:
        run()
    assert "\n" not in str(error.value) and "own.py:objective" in str(error.value)
    assert not Path("store").exists()


@pytest.mark.parametrize(
    ("more", "name", "words"),
    [
        (
            "class Bound:\n    def __init__(self, k): pass\n    def __call__(self, trial): return 1",
            "Bound",
            "name an object",
        ),
        (
            "def two(trial, data): return 1",
            "two",
            r"takes data beside the trial; bind them, such as .*data=\.\.\.",
        ),
        ("def other(x): return 1", "other", "cannot be tuned"),
    ],
)
def test_what_is_nearly_an_objective_is_told_what_would_be_one(
    folder: Path, more: str, name: str, words: str
) -> None:
    write("return 1", more)
    with pytest.raises(catalog.UnknownPaper, match=words):
        catalog.get(f"own.py:{name}")


def test_objects_partials_and_annotated_functions_are_objectives(folder: Path) -> None:
    more = """
class Bound:
    def __init__(self, k=3): self.k = k
    def __call__(self, trial): return trial.suggest_float("x", 0, self.k)

bound = Bound(2)
import functools
def more(single_trial, data): return single_trial.suggest_float("x", 0, data)
part = functools.partial(more, data=4)
def noted(t: optuna.Trial) -> float: return t.suggest_float("x", 0, 5)
lam = lambda trial: trial.suggest_float("x", 0, 6)
"""
    write("return 1", more)
    found = {}
    for name in ("Bound", "bound", "part", "noted", "lam"):
        paper: Any = catalog.get(f"own.py:{name}")
        said: list[Any] = []
        dry_run(paper.call, ["min"], {"given": {}, "seed": None, "patience": 1.0}, said.append)
        found[name] = said[0]["ask"]["high"]
    assert found == {"Bound": 3, "bound": 2, "part": 4, "noted": 5, "lam": 6}


def test_what_was_found_travels_and_is_not_searched_for_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("return trial.suggest_float('x', 0, 1)")
    made = run()
    source = known.source_of(made.settings.paper)
    assert source is not None and source.found["space"] == {"x": {"type": "float", "low": 0.0, "high": 1.0}}
    again = type(source).from_json(source.to_json())
    assert again.found == source.found and again.digest == source.digest

    def search(*args: Any, **more: Any) -> None:
        raise AssertionError("it is known")

    monkeypatch.setattr("fairsweep.trainables.own.dry_runs.discover", search)
    assert list(known.of(again).space().parameters) == ["x"]


# -- in a process of their own ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os._exit(3)", r"the end of its process \(exit code 3\)"),
        ("print('words'); input()", "EOFError: EOF when reading a line .own.py, line 4."),
    ],
)
def test_what_happens_in_a_dry_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(body)
    with pytest.raises(UserError, match=f"each of 3 dry runs failed, the first with {words}"):
        run()


@pytest.mark.slow
def test_an_objective_that_trains_or_hangs_is_ended_once_it_asks_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_runs, "GRACE_S", 0.5)
    monkeypatch.setattr(dry_runs, "RANDOM_RUNS", 2)
    write(
        """
        import time
        if trial.suggest_categorical("a", ["p", "q"]) == "q":
            trial.suggest_float("only with q", 0, 1)
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    """,
        before="import optuna, sys, os\nprint('words that are no answer')",
    )
    paper = catalog.get("own.py:objective")
    space = paper.space()
    assert [(name, dict(p.when)) for name, p in space.parameters.items()] == [
        ("a", {}),
        ("only_with_q_" + list(space.parameters)[1][-4:], {"a": ("q",)}),
    ]
