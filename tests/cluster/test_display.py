"""What a person sees while a sweep runs."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairsweep.analysis import report
from fairsweep.cluster.commands.tables import print_best
from fairsweep.cluster.display import Display, Guarded, Leader, LineDisplay, LiveDisplay, clock, make_display
from tests.cluster.test_conductor import engine


def test_clock() -> None:
    assert [clock(s) for s in (0.4, 59.4, 60, 125, 3600, 3720)] == [
        "0 s", "59 s", "1:00 min", "2:05 min", "1:00 h", "1:02 h",
    ]  # fmt: skip


def test_the_live_view_has_best_states_and_time_left(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=6", "scheduler=asha")
    out = io.StringIO()
    display = LiveDisplay(report.console(file=out, force_terminal=True, width=140))
    display.begin("s", "store", run.settings, run.conductor, None)
    run.conductor.on_end = display.ended
    run.run()
    view = report.console(file=(text := io.StringIO()), width=140)
    view.print(display._view())
    display.end()
    seen = text.getvalue()
    best = min(t.best for t in run.conductor.trials.values() if t.best is not None)
    assert f"best val_loss {best:.5g}" in seen
    assert re.search(r"6/6 trials: \d complete.*about \d+ s left", seen)
    assert all(trial in seen for trial in run.conductor.trials)
    assert "kind=" in seen and "9/9" in seen


class Counted(dict[str, Any]):
    """Counts how often all of it is looked at."""

    looks = 0

    def values(self) -> Any:
        self.looks += 1
        return super().values()


@pytest.mark.parametrize("mode", ["min", "max"])
def test_who_leads_is_known_without_a_look_at_all_trials(tmp_path: Path, mode: str) -> None:
    words = ("trainable=test_bowl", "search=random", "budget.trials=60", "scheduler=asha")
    run = engine(tmp_path, *words)
    conductor = run.conductor
    conductor.rules = replace(conductor.rules, mode=mode)
    conductor.judge.mode = mode
    all_of_them = conductor.trials = Counted(conductor.trials)
    leader, said = Leader(conductor), []
    sign = 1.0 if mode == "min" else -1.0

    def check(trial: Any) -> None:
        leader.ended(trial)
        said.append(leader.best())
        done = [t for t in dict.values(all_of_them) if t.best is not None and t.state != "failed"]
        assert said[-1] is min(done, key=lambda t: (sign * t.best, t.number), default=None)

    conductor.on_end = check
    before = all_of_them.looks
    run.run_open()
    assert all_of_them.looks - before < 5 and len(said) > 60 and len({t.id for t in said if t}) > 1
    for k in range(3):  # one after the other, the one that leads fails, or turns out worse
        first = leader.best()
        assert first is not None
        if k < 2:
            first.state = "failed"
        else:
            first.best = sign * 1e6
        check(first)
        assert leader.best() is not first


def test_time_left_counts_how_far_running_trials_have_come(tmp_path: Path) -> None:
    import time

    from fairsweep.cluster.display import _time_left

    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1")
    leg = run.conductor.next_leg()
    assert leg is not None and _time_left(run.conductor) == "?"
    run.conductor.trials[leg.trial].steps = 3
    run.conductor.clock.began = time.monotonic() - 30
    assert _time_left(run.conductor) == "1:00 min"


def test_nothing_is_said_of_the_time_left_before_anything_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1")
    display = LineDisplay()
    display.begin("s", "store", run.settings, run.conductor, None)
    run.conductor.next_leg()
    display._last = -1000.0
    display.tick(run.conductor)
    assert capsys.readouterr().err.endswith("fairsweep: 1 running\n")


def test_a_best_configuration_of_which_a_seed_failed_is_not_said_to_be_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    best = {
        "objective": "loss", "value": 0.5, "ci95": None, "seeds": 1, "metrics": {}, "config": {"x": 1},
        "trials": ["00000-0", "00000-1", "00000-2"], "complete": False,
    }  # fmt: skip
    print_best({**best, "completed": 1})
    assert "of this one 1 of its 3 seeds" in capsys.readouterr().out
    print_best({**best, "completed": 0})
    assert "this one was stopped early" in capsys.readouterr().out


def test_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=2")
    display = LineDisplay()
    display.begin("s", "store", run.settings, run.conductor, None)
    run.conductor.on_end = display.ended
    run.run()
    err = capsys.readouterr().err
    assert "sweep s: test_bowl by tpe" in err and err.count(" complete ") >= 2
    assert all(line.startswith("fairsweep: ") for line in err.splitlines())
    assert type(make_display(quiet=True)).__name__ == "Display"
    shown = make_display()
    assert isinstance(shown, Guarded) and isinstance(shown.inner, LineDisplay)


BRACKETS = "[/data/imagenet] [columns] [bold]x[/bold] :smile: [3, 224, 224]"


def test_brackets_are_shown_as_they_are_while_a_sweep_runs(tmp_path: Path) -> None:
    """Rich raises on a closing tag that nothing opened, and swallows what reads as a style."""
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1")
    out = io.StringIO()
    display = LiveDisplay(report.console(file=out, force_terminal=True, width=200))
    display.begin("s", "store", run.settings, run.conductor, SimpleNamespace(message=f"recovered {BRACKETS}"))
    run.conductor.on_end = display.ended
    run.run()
    (trial,) = run.conductor.trials.values()
    trial.config["kind"] = BRACKETS
    display.note(f"noted {BRACKETS}")
    display.end()
    view = report.console(file=(text := io.StringIO()), width=200)
    view.print(display._view())
    assert f"recovered {BRACKETS}" in out.getvalue() and f"noted {BRACKETS}" in out.getvalue()
    assert text.getvalue().count(f"kind={BRACKETS}") == 2  # of the best trial, and in the table


def test_brackets_are_shown_as_they_are_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    report.show_rows([{BRACKETS: BRACKETS, "n": 1}], [BRACKETS, "n"], title=f"title {BRACKETS}")
    shown = capsys.readouterr().out
    assert shown.count(BRACKETS) == 3 and f"title {BRACKETS}" in shown


def test_every_console_is_made_where_markup_is_off() -> None:
    rooms = [
        Path(report.__file__).parents[1] / room
        for room in ("analysis", "cluster", "search_spaces", "trainables")
    ]
    made = [
        path for room in rooms for path in room.rglob("*.py") if re.search(r"\bConsole\(", path.read_text())
    ]
    assert [path.name for path in made] == ["report.py"]


def test_a_display_that_fails_is_given_up_and_not_the_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Display):
        ends = 0

        def tick(self, conductor: Any) -> None:
            raise OSError("the terminal is gone")

        def end(self) -> None:
            Broken.ends += 1

    display = Guarded(Broken())
    for _ in range(3):
        display.tick(None)  # type: ignore[arg-type]
    display.end()
    assert capsys.readouterr().err.count("the terminal is gone") == 1
    assert Broken.ends == 1
