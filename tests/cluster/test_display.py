"""What a person sees while a sweep runs."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from cluster.display import LineDisplay, LiveDisplay, clock, make_display
from tests.cluster.test_conductor import engine


def test_clock() -> None:
    assert [clock(s) for s in (0.4, 59.4, 60, 125, 3600, 3720)] == [
        "0 s", "59 s", "1:00 min", "2:05 min", "1:00 h", "1:02 h",
    ]  # fmt: skip


def test_the_live_view_has_best_states_and_time_left(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=6", "scheduler=asha")
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True, width=140))
    display.begin("s", "store", run.settings, run.conductor, None)
    run.run()
    view = Console(file=(text := io.StringIO()), width=140)
    view.print(display._view())
    display.end()
    seen = text.getvalue()
    best = min(t.best for t in run.conductor.trials.values() if t.best is not None)
    assert f"best val_loss {best:.5g}" in seen
    assert re.search(r"6/6 trials: \d complete.*about \d+ s left", seen)
    assert all(trial in seen for trial in run.conductor.trials)
    assert "kind=" in seen and "9/9" in seen


def test_time_left_counts_how_far_running_trials_have_come(tmp_path: Path) -> None:
    import time

    from cluster.display import _time_left

    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1")
    leg = run.conductor.next_leg()
    assert leg is not None and _time_left(run.conductor) == "?"
    run.conductor.trials[leg.trial].steps = 3
    run.conductor.began = time.monotonic() - 30
    assert _time_left(run.conductor) == "1:00 min"


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
    assert isinstance(make_display(), LineDisplay)
