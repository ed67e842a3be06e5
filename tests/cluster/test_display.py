"""What a person sees while a sweep runs."""

from __future__ import annotations

import io
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairsweep.analysis import report
from fairsweep.cluster import display as display_module
from fairsweep.cluster.commands.help import show_help
from fairsweep.cluster.commands.runs import finished
from fairsweep.cluster.commands.tables import print_best
from fairsweep.cluster.display import (
    Display,
    Forecast,
    Guarded,
    Leader,
    LineDisplay,
    LiveDisplay,
    clock,
    make_display,
)
from fairsweep.cluster.jobs.comparing.display import Lines
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
    forecast = Forecast()
    assert leg is not None and _time_left(run.conductor, forecast) == "?"
    forecast._first = time.monotonic() - 30, 1 / 9
    run.conductor.trials[leg.trial].steps = 4
    assert _time_left(run.conductor, forecast) == "50 s"


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


def test_a_trial_that_was_promoted_before_its_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1")
    run.run()
    display = LineDisplay()
    display.begin("s", "store", run.settings, run.conductor, None)
    (trial,) = run.conductor.trials.values()
    trial.reason = ""
    display.ended(trial)
    assert f"trial {trial.id} goes on from step {trial.steps} val_loss=" in capsys.readouterr().err


def test_trials_that_end_faster_than_anybody_reads_share_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a line each: 3,000 trials of a millisecond were 3,000 lines."""
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1")
    run.run()
    (trial,) = run.conductor.trials.values()
    now = [0.0]
    monkeypatch.setattr("fairsweep.cluster.display.time", SimpleNamespace(monotonic=lambda: now[0]))
    display = LineDisplay()
    display.begin("s", "store", run.settings, run.conductor, None)
    begun = capsys.readouterr().err
    assert f"goes on: 1 complete; best {trial.best:.5g} (00000-0)" in begun
    for k in range(3000):
        now[0] += 0.005
        display.ended(replace(trial, state="failed", reason="raised Boom") if k % 50 == 7 else trial)
        display.tick(run.conductor)
    display.end()
    lines = capsys.readouterr().err.splitlines()
    own = [line for line in lines if line.startswith("fairsweep: trial ")]
    assert all(" complete " in line for line in own[:7]) and 30 <= len(own) <= 80
    assert 30 <= sum("raised Boom" in line for line in lines) <= 60, "a failure does not wait for room"
    summed = [line for line in lines if "ended without a line" in line]
    assert 6 <= len(summed) <= 9 and all(f"; best {trial.best:.5g} (00000-0)" in line for line in summed)
    unsaid = sum(int(re.findall(r"\((\d+) ended", line)[0]) for line in summed)
    assert unsaid + len(own) > 2500 and lines[-1].startswith("fairsweep: 1 complete; best ")
    now[0] += 60
    display.ended(replace(trial, steps=1, cost_s=0.00071234))
    assert "(1 step, 0.00071 s)" in capsys.readouterr().err


def test_the_end_of_a_long_run_shows_its_best_trials_and_the_first_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was all of them: 3,000 rows, above the answer."""
    words = ("budget.trials=60", "search=random", "space.fault.choices=[none,raise]")
    run = engine(tmp_path, "trainable=test_faulty", *words)
    run.run()
    assert finished(SimpleNamespace(sweep="s", storage=str(tmp_path), state="finished"), False) == 0
    out, trials = capsys.readouterr().out, list(run.conductor.trials.values())
    done = [t for t in trials if t.state == "complete"]
    failed = [t for t in trials if t.state == "failed"]
    assert len(done) > 10 and len(done) + len(failed) == 60
    best = sorted(done, key=lambda t: (t.best or 0.0, t.number))[:10]
    assert re.findall(r"^ (\d{5}-0) ", out, re.M) == [t.id for t in best]
    assert f"The 10 best of 60 trials. All: fairsweep show s --storage {run.store.uri}" in out
    assert f"failed   {len(failed)} of the trials" in out and f"the first is {failed[0].id}: raised " in out


def test_the_time_left_of_a_sweep_that_only_time_ends_is_what_is_left_of_it(tmp_path: Path) -> None:
    """It was said to be over: all trials that were known had ended."""
    from fairsweep.cluster.display import _counts, _time_left

    run = engine(tmp_path, "trainable=test_bowl", "search=random", "budget.trials=null", "budget.minutes=2")
    leg = run.conductor.next_leg()
    assert leg is not None
    run.conductor.trials[leg.trial].steps = 8
    assert _time_left(run.conductor, Forecast()) == "2:00 min"
    (trial,) = run.conductor.trials.values()
    run.conductor.trials |= {f"0000{k}-0": trial for k in range(1, 4)}  # a bundle of four at the one place
    assert run.conductor.rules.concurrent == 1 and _counts(run.conductor) == "1 running, 3 in hand"


def test_a_first_ctrl_c_tells_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second one may come when the driver can say nothing more: it ended without the command."""
    from fairsweep.cluster.jobs.driving import Books

    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=2")
    display = LineDisplay()
    display.begin("s", "store", run.settings, run.conductor, None)
    with Books(run.conductor, run.writer, display).interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    assert run.conductor.interrupted
    assert f"`fairsweep resume s --storage {run.store.uri}` goes on" in capsys.readouterr().err


def test_help_says_which_options_hold_unless_others_are_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """`scheduler.name: asha` stood among the defaults."""
    assert show_help("", "run") == 0
    said = capsys.readouterr().out
    assert re.search(r"^  scheduler: none +# what scheduler=asha would set:$", said, re.M)
    assert "scheduler.name" not in said and re.search(r"^  search.name: tpe$", said, re.M)


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


def test_the_time_left_does_not_count_the_start_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute for workers to start, then a tenth a second: nine seconds are left after the first, not minutes."""
    clock_s = [100.0]
    monkeypatch.setattr(display_module.time, "monotonic", lambda: clock_s[0])
    forecast, done = Forecast(), [0.0]
    for _ in range(30):
        forecast.seen(False, lambda: done[0])
        clock_s[0] += 1
    assert forecast.left(0.0, 10.0) is None
    done[0] = 0.1
    forecast.seen(True, lambda: done[0])
    assert forecast.left(0.1, 10.0) is None
    clock_s[0] += 9
    assert forecast.left(1.0, 10.0) == pytest.approx(90)
    later = Forecast(before=5.0)  # taken up with five trials done: they say nothing of the pace
    later.seen(True, lambda: 5.0)
    clock_s[0] += 10
    assert later.left(6.0, 10.0) == pytest.approx(40)


def test_the_first_repeat_of_a_comparison_counts_what_others_have_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two searches at a time: when the first is done, the other nearly is. Twelve repeats take six times one."""
    clock_s = [0.0]
    monkeypatch.setattr(display_module.time, "monotonic", lambda: clock_s[0])

    def lane(done: float) -> SimpleNamespace:
        trials = {
            str(k): SimpleNamespace(steps=4, maximum=4, state="complete") for k in range(round(done * 10))
        }
        trials["now"] = SimpleNamespace(steps=0, maximum=4, state="running")
        return SimpleNamespace(
            conductor=SimpleNamespace(trials=trials, expected=10, purse=SimpleNamespace(share=0.0))
        )

    fleet = SimpleNamespace(lanes={"c.a.d.0": lane(0), "c.b.d.0": lane(0)}, active=[], trials={})
    spec = SimpleNamespace(run="c", methods="ab", data="d", seeds=6)
    lines = Lines()
    lines.started(SimpleNamespace(spec=spec), "store", 0, 2)  # type: ignore[arg-type]
    lines.tick(fleet)
    clock_s[0] = 30.0  # workers have started
    fleet.lanes = {"c.a.d.0": lane(0.1), "c.b.d.0": lane(0.1)}
    fleet.active, fleet.trials = ["x"], {"x": SimpleNamespace(steps=1)}
    lines.tick(fleet)
    clock_s[0] = 120.0
    fleet.lanes = {"c.b.d.0.final": lane(0)}
    row = {
        "method": "a",
        "data": "d",
        "repeat": 0,
        "trials": 10,
        "cost_s": 1.0,
        "final_cost_s": 0.1,
        "score": None,
        "reason": "x",
    }
    capsys.readouterr()
    lines.compared(row, 1, 12)
    said = capsys.readouterr().err
    # 1.9 repeats but for 0.18 of them took 90 s: the 10.1 that are left take 529.
    assert "1 of 12, about 8:48 min left" in said
    lines.compared(row, 12, 12)
    assert capsys.readouterr().err.strip().endswith("12 of 12")
