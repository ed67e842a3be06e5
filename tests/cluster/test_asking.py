"""A search that is asked ahead: in one slot it suggests the same in bundles of any size and after any interruption."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.engine import asking
from fairsweep.search_spaces.algorithms import OptunaSearch
from tests.cluster.test_bundles import bundled, close, same, slow
from tests.cluster.test_conductor import Crash, Engine, engine, trials

TPE = ("trainable=test_trivial", "search=tpe", "keep_checkpoints=none", "seed=3")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is asked for ahead for each three that are known, so that tests of some twenty trials see it."""
    monkeypatch.setattr(asking, "EVERY", 3)


def prunes(count: int, message: dict[str, Any]) -> None:
    """Each fifth configuration says that it is pruned."""
    for report in message["reports"]:
        if int(report["trial"][:5]) % 5 == 3 and report["status"] == "complete":
            report.update(status="pruned", reason="pruned by the trainable: enough")


def plain(count: int, message: dict[str, Any]) -> None:
    pass


def logged(run: Engine, most: int, at_message: Callable[[int, dict[str, Any]], None] = plain) -> list[int]:
    """Runs what there is, closes nothing; the length of the log after each append."""
    (log,) = (Path(run.store.uri.removeprefix("file://")) / "log" / run.name).glob("*.log")
    appender, lengths = run.writer._appender, [log.stat().st_size]
    assert appender is not None
    append = appender.append

    def measured(frame: bytes) -> None:
        append(frame)
        lengths.append(log.stat().st_size)

    appender.append = measured  # type: ignore[method-assign]
    bundled(run, most, at_message)
    run.writer.__exit__(None, None, None)
    return lengths


CASES: dict[str, tuple[tuple[str, ...], Callable[[int, dict[str, Any]], None]]] = {
    "plain": ((), plain),
    "seeds": (("seeds=2", "budget.trials=18"), plain),
    "some fail": (("trainable=test_faulty", "space.fault.choices=[none,raise]"), plain),
    "some cannot begin": (("trainable=test_unfathomed",), plain),
    "some are pruned": ((), prunes),
    "not ahead": (("search.ahead=0",), plain),
    "asha": (("trainable=test_bowl", "scheduler=asha", "budget.trials=16"), plain),
    "hyperband": (("trainable=test_bowl", "scheduler=hyperband", "budget.trials=16"), plain),
    "steps": (("trainable=test_bowl", "budget.total_steps=120"), plain),
    "several": (("trainable=test_trade", "metric=[val_loss,size]", "budget.trials=14"), plain),
}


def cut_everywhere(tmp_path: Path, case: str, every: int) -> None:
    words, at_message = CASES[case]
    words = (*TPE, "budget.trials=24", *words)
    alone = engine(tmp_path / "alone", *words)
    bundled(alone, 1, at_message)
    whole = same(close(alone))
    assert len(whole) >= 12
    for most in (3, 17):
        run = engine(tmp_path / str(most), *words)
        slow(run)
        lengths = logged(run, most, at_message)
        for k, length in enumerate(lengths[:-1]):
            if k % every:
                continue
            where = tmp_path / f"{most}-{k}"
            shutil.copytree(tmp_path / str(most), where)
            (log,) = (where / "log" / "s").glob("*.log")
            os.truncate(log, length)
            again = engine(where)
            slow(again)
            bundled(again, most, at_message)
            assert same(close(again)) == whole, f"bundles of {most}, cut after {k} of {len(lengths)} appends"
            shutil.rmtree(where)
        again = engine(tmp_path / str(most))
        assert same(close(again)) == whole


@pytest.mark.parametrize("case", CASES)
def test_suggests_the_same_in_any_bundles_and_cut_at_some_moments(tmp_path: Path, case: str) -> None:
    cut_everywhere(tmp_path, case, 17 if case in ("asha", "hyperband", "steps") else 5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_suggests_the_same_cut_at_every_moment(tmp_path: Path, case: str) -> None:
    cut_everywhere(tmp_path, case, 1)
