from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from fairsweep.analysis.trade_offs import as_table, front

ACC, MS = "metric.acc", "metric.ms"


def table(*configs: list[tuple[float | None, float]], state: str = "complete") -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"config_id": k, "state": state, "value": acc, ACC: acc, MS: ms, "config_json": json.dumps({"k": k})}
        for k, seeds in enumerate(configs)
        for acc, ms in seeds
    ]
    return pa.Table.from_pylist(rows)


MODES = {"acc": "max", "ms": "min"}


def test_configurations_are_compared_by_their_means() -> None:
    found = front(
        table([(0.9, 10.0), (0.7, 12.0)], [(0.8, 11.0), (0.8, 11.0)], [(0.9, 20.0), (0.9, 20.0)]), MODES
    )
    assert [p.config_id for p in found.best] == [2, 0, 1], "equal means are on the front together"
    first = found.points[0].values["acc"]
    assert first.mean == pytest.approx(0.8) and first.n == 2 and first.ci95 is not None
    assert found.reference == {"acc": pytest.approx(0.8), "ms": 20.0} and found.volume == 0.0
    assert front(table([(0.9, 10.0)]), MODES, reference={"acc": 0.5, "ms": 20.0}).volume == pytest.approx(4.0)


def test_limits_come_before_everything() -> None:
    rows = table([(0.99, 50.0)], [(0.8, 10.0)], [(0.7, 20.0)], [(0.6, 5.0)])
    found = front(rows, MODES, {"ms": {"max": 20.0}, "acc": {"min": 0.65}})
    assert [p.config_id for p in found.best] == [1]
    assert [p.broken for p in found.points] == pytest.approx([30.0, 0.0, 0.0, 0.05])
    nothing = front(rows, MODES, {"ms": {"max": 1.0}})
    assert [p.config_id for p in nothing.best] == [3] and nothing.volume is None


def test_what_is_not_complete_is_no_point() -> None:
    assert front(table([(0.9, 10.0)], state="running"), MODES).points == ()
    assert front(table([(0.9, 10.0), (None, 10.0)]), MODES).points[0].seeds == 1
    assert as_table([]).num_rows == 0
