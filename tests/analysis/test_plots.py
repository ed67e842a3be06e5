"""Figures: what they show follows from the rows, by hand; every one can be drawn; text from outside stays text."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fairsweep.analysis.comparing.answering import answer
from fairsweep.analysis.comparing.ranks import nemenyi, wilcoxon_holm
from fairsweep.analysis.plots import claims, comparing, search, slices, space, theme, trade_offs
from fairsweep.analysis.plots.dimensions import Dimension, dimensions
from fairsweep.analysis.plots.figure import Figure, NoDrawing
from fairsweep.analysis.plots.moments import best_so_far
from fairsweep.analysis.plots.parts import sample, scale
from tests import report_stores as made

NASTY = "a.b[0]'\"</script><b>\\"  # a name that breaks fields, expressions, markup


def trials(rows: list[tuple[int, int, str, float | None, float]]) -> pa.Table:
    """Trials from (configuration, seed, state, value, seconds), which ended in this order."""
    return pa.Table.from_pylist(
        [
            {"trial": f"{c}-{s}", "number": k, "config_id": c, "seed": s, "state": state, "value": v, "cost_s": cost,
             "ended": k, "steps": 3, "config.lr": 10.0 ** -(c + 1), "config.kind": (NASTY, "b")[c % 2]}
            for k, (c, s, state, v, cost) in enumerate(rows)
        ]
    )  # fmt: skip


SEEDED = trials(
    [
        (0, 0, "complete", 5.0, 60),
        (1, 0, "complete", 1.0, 60),  # its other seed is worse: it counts when both are known
        (0, 1, "complete", 7.0, 60),
        (2, 0, "pruned", 0.5, 30),
        (3, 0, "failed", None, 30),
        (1, 1, "complete", 4.0, 60),
        (2, 1, "pruned", 0.7, 30),
    ]
)


def test_the_best_so_far_is_what_best_would_have_answered() -> None:
    moments, ended, cost = best_so_far(SEEDED, "min")
    found = [(m.trials, m.cost_s, m.config_id, m.mean, m.low, m.high) for m in moments]
    assert found == [(3, 180.0, 0, 6.0, 5.0, 7.0), (6, 300.0, 1, 2.5, 1.0, 4.0)]
    assert (ended, cost) == (7, 330.0)
    assert [m.mean for m in best_so_far(SEEDED, "min", stopped=True)[0]] == [6.0, 2.5, pytest.approx(0.6)]
    only = trials([(0, 0, "complete", 2.0, 1), (0, 1, "failed", None, 1), (1, 0, "pruned", 9.0, 1)])
    assert [m.mean for m in best_so_far(only, "min")[0]] == [2.0]  # none is whole: each complete one counts


def test_anytime_says_in_words_what_it_draws() -> None:
    figure = search.anytime({"s": SEEDED}, "loss", "min", "cost")
    rows = [r for r in figure.rows() if r["series"] == search.COMPLETE]
    assert [(r["at"], r["best"]) for r in rows] == [(3.0, 6.0), (5.0, 2.5), (5.5, 2.5)]
    assert "6 first, 2.5 in the end, which was found after 5 minutes of training" in figure.alt
    assert "range of its seeds (up to 2)" in figure.caption
    with pytest.raises(ValueError, match="by='days'"):
        search.anytime({"s": SEEDED}, "loss", "min", "days")


def test_samples_and_outliers_are_said() -> None:
    kept, said = sample(range(5000), 100, 10)
    assert kept[:10] == list(range(10)) and len(kept) == 100 == len(set(kept)) and kept == sorted(kept)
    assert said == " Drawn are 100 of 5,000: the best 10 and others at random."
    made_scale, out = scale([1.0, 1.1, 1.2, 1.3, 40.0, math.nan], "min")
    assert out == 1 and made_scale["domain"][1] < 2 and made_scale["domain"][0] < 1
    assert scale([0.9, 0.8, 0.0, 0.85, 0.87], "max")[1] == 1  # the worse side is cut, never the better
    assert scale([1e-3, 1.0, 5.0], "min")[0]["type"] == "log" and scale([], "min")[1] == 0
    rows = [(k, 0, "complete", 1.0 + k / 3000, 1) for k in range(3000)]
    figure = search.history(trials(rows).drop_columns(["config.lr"]), "loss", "min")
    assert figure.data.num_rows == search.DOTS and "1,500 of 3,000" in figure.caption


def test_parameters_as_axes() -> None:
    lr, kind = dimensions(SEEDED)
    assert (
        lr.log
        and lr.place(1e-1) == 1.0
        and lr.place(1e-4) == 0.0
        and lr.place(10**-2.5) == pytest.approx(0.5)
    )
    assert (
        kind.choices == tuple(sorted((NASTY, "b")))
        and kind.place("b") in (0.0, 1.0)
        and kind.place(None) is None
    )
    assert not dimensions(SEEDED, ["lr"], [])[0].log
    assert Dimension("n", 1, 3, whole=(1, 2, 3)).cells.choices == ("1", "2", "3")
    grid = space.contour(SEEDED, lr, kind, "loss", "min").rows()
    assert sum(r["trials"] for r in grid) == 6 and min(r["median"] for r in grid) == pytest.approx(0.6)
    flat = slices.slices(SEEDED, [kind], "loss", "min")[0]
    assert "Best loss 0.5" in flat.alt and f"{NASTY}: " in flat.alt


def test_the_claim_as_a_share_of_what_was_claimed() -> None:
    row = {
        "paper": "p", "claim": "c", "kind": "ratio", "direction": "at_most", "margin": 0.25, "null": 1.0, "effect": 0.5,
        "ci_low": 0.25, "ci_high": 1.0, "direction_verdict": "holds", "size_verdict": "fails",
    }  # fmt: skip
    (found,) = claims.claims([row]).rows()
    assert (found["share"], found["low"], found["high"]) == pytest.approx((0.5, 0.0, 1.0))
    alone = {**row, "kind": "difference", "margin": 0.0, "null": 0.0, "direction": "at_least", "ci_low": -1.0}
    (found,) = claims.claims([alone]).rows()  # no size: the far end of the interval is 1
    assert (found["share"], found["low"], found["high"]) == (0.5, -1.0, 1.0) and found["only"] == "direction"
    nothing = claims.claims([{**row, "effect": None, "ci_low": None, "ci_high": None}])
    assert nothing.data.num_rows == 0 and "Without an effect" in nothing.caption


def test_the_comparison_by_hand() -> None:
    rows = made.comparison_rows()
    found = answer(rows)
    assert found.decision is not None
    figure = comparing.gaps(found.decision, found.metric, found.mode)
    assert all(r["difference"] > 0 and r["low"] < r["difference"] < r["high"] for r in figure.rows())
    once = answer(made.comparison_rows(repeats=1, data=("cora",))[:2])
    assert once.decision is not None and "isValid" not in json.dumps(
        comparing.gaps(once.decision, "m", "max").spec
    )
    dots = comparing.scores(rows, "cora")
    assert (
        len([r for r in dots.rows() if r["kind"] == "repeat"]) == 17
        and "1 repeat failed and is not" in dots.caption
    )
    scores = np.array([[3.0, 2.0, 1.0]] * 7)
    ranked = comparing.critical_difference(wilcoxon_holm(scores, "max", ["a", "b", "c"]), "data set")
    assert ranked.alt == "Mean ranks: a 1.00, b 2.00, c 3.00. All pairs are told apart."
    few = comparing.critical_difference(nemenyi(scores[:2], "max", ["a", "b", "c"]))
    assert "Not told apart: a, b, c" in few.alt and any(r["row"] == "critical difference" for r in few.rows())
    runs = {
        "m": [trials([(0, 0, "complete", 3.0, 60), (1, 0, "complete", v, 60)]) for v in (1.0, 2.0)],
        "none": [SEEDED.slice(3, 2)],
    }
    line = [
        (r["at"], r["mean"], r["low"], r["high"])
        for r in comparing.searches(runs, "loss", "min", "d").rows()
        if r["method"] == "m"
    ]
    assert line[0] == (1.0, 3.0, 3.0, 3.0) and line[-1] == (2.0, 1.5, 1.0, 2.0)
    short = trials([(0, 0, "complete", 5.0, 1)])  # it has ended before the others have begun to have a value
    late = comparing.searches({"m": [short, runs["m"][0]]}, "loss", "min", "d", by="cost").rows()
    assert [(r["at"], r["mean"]) for r in late] == [(1.0, 4.0), (2.0, 3.0)]


def every_figure() -> list[Figure]:
    rng = np.random.default_rng(0)
    rows = [
        (k, 0, ("complete", "pruned", "failed")[k % 3], float(rng.random()) + 0.1, 5.0) for k in range(30)
    ]
    table = trials(rows).append_column("config.n", pa.array([k % 4 for k in range(30)]))
    results = pa.table(
        {"trial": ["0-0", "0-0", "1-0"], "step": [1, 2, 1], "metric.loss": [3.0, 1.0, math.nan]}
    )
    dims = dimensions(table)
    found = answer(made.comparison_rows())
    assert found.decision is not None
    points = [
        {
            "label": NASTY,
            "x": 1.0 + k,
            "y": 1.0 + (k - 2) ** 2,
            "on_front": k < 3,
            "y_low": 0.5,
            "y_high": 30.0,
        }
        for k in range(6)
    ]
    known = {"parameter": NASTY, "importance": 0.7, "low": 0.5, "high": 0.8, "reason": None}
    silent = {"parameter": "kind", "importance": None, "low": None, "high": None, "reason": "too few"}
    shares = [{**r, "configurations": 30, "method": "fanova"} for r in (known, silent)]
    claimed = {
        "paper": NASTY, "claim": "c", "kind": "difference", "direction": "at_least", "margin": 1.0, "null": 0.0,
        "effect": 0.5, "ci_low": 0.25, "ci_high": 1.0, "direction_verdict": "holds", "size_verdict": "fails",
    }  # fmt: skip
    return [
        search.anytime({"s": table}, NASTY, "min"), search.anytime({NASTY: SEEDED, "b": table}, "loss", "min", "cost"),
        search.history(table, NASTY, "max"), search.learning_curves(results, table, "loss", "min", ["0-0"]),
        space.parallel(table, dims, NASTY, "min"), *slices.slices(table, dims, NASTY, "min"),
        space.contour(table, dims[0], dims[1], NASTY, "min"), space.contour(table, dims[2], dims[0], "loss", "max"),
        slices.importance(shares, "told", "Notes.", NASTY),
        trade_offs.front(points, (NASTY, "b"), ("min", "min")),
        trade_offs.front(points, ("x", "y"), ("max", "min"), whole=False),
        trade_offs.architecture({"a": "in", "b": NASTY}, [("a", "b", NASTY)], {
            "number": 3, "architecture": NASTY, "score": 0.5, "alone": None, "test": None, "params": 10, "flops": None,
            "latency_ms": None}, 0),
        comparing.gaps(found.decision, NASTY, "max"), comparing.scores(made.comparison_rows(), "cora"),
        comparing.critical_difference(wilcoxon_holm(np.arange(9).reshape(3, 3), "max", [NASTY, "b", "c"])),
        comparing.critical_difference(nemenyi(np.arange(9).reshape(3, 3), "max", [NASTY, "b", "c"])),
        comparing.searches({NASTY: [table, SEEDED]}, NASTY, "min", NASTY), claims.claims([claimed]),
    ]  # fmt: skip


def test_names_from_outside_are_no_fields_and_no_code() -> None:
    def strings(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            for k, v in value.items():
                yield from strings(v, k)
        elif isinstance(value, (list, tuple)):
            for v in value:
                yield from strings(v, key)
        elif isinstance(value, str):
            yield key, value

    for figure in every_figure():
        code = [
            v
            for k, v in strings(dict(figure.spec))
            if k in ("field", "calculate", "filter", "expr", "labelExpr", "as")
        ]
        assert not [c for c in code if "</script>" in c or '"' in c], figure.name
        fields = {v for k, v in strings(dict(figure.spec)) if k == "field"}
        assert all(re.fullmatch("[a-z_0-9]+", f) for f in fields)
        assert re.fullmatch(r"[A-Za-z0-9_]+", figure.name) and "<b>" not in (figure.svg or "")
        assert figure.alt and figure.caption.endswith(".")
        table = list(csv.reader(io.StringIO(figure.csv())))
        assert table[0] == figure.header() and len(table) == figure.data.num_rows + 1
        json.dumps(figure.vega_lite(), allow_nan=False)


def test_a_figure_of_nothing_says_so() -> None:
    none = SEEDED.slice(0, 0)
    lr = Dimension("lr", 0.0, 1.0)
    for figure in (
        search.history(none, "loss", "min"),
        search.anytime({"s": none}, "loss", "min"),
        space.parallel(none, [lr], "loss", "min"),
        space.contour(none, lr, Dimension("kind", choices=("a", "b")), "loss", "min"),
        *slices.slices(none, [lr], "loss", "min"),
        trade_offs.front([], ("a", "b"), ("min", "min")),
        claims.claims([]),
    ):
        assert figure.alt and figure.data.num_rows <= 4
        json.dumps(figure.vega_lite(), allow_nan=False)


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="pictures need vl-convert-python")
    figure = every_figure()[0]
    assert (
        figure.save(tmp_path / "a.svg").read_text().startswith("<svg")
        and "var(--" not in figure.image().decode()
    )
    assert figure.image("png").startswith(b"\x89PNG") and figure.image("pdf").startswith(b"%PDF")
    with pytest.raises(ValueError, match=r"must end in .svg, .png, .pdf, .csv"):
        figure.save(tmp_path / "a.gif")


@pytest.mark.slow
def test_every_figure_can_be_drawn() -> None:
    pytest.importorskip("vl_convert", reason="pictures need vl-convert-python")
    for figure in every_figure():
        assert b"<svg" in figure.image("svg"), figure.name


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    with pytest.raises(NoDrawing, match=r"pip install 'fairsweep\[report\]' \(vl-convert-python\)"):
        every_figure()[0].image()


def contrast(a: str, b: str) -> float:
    """Of two colours, as WCAG 2.2 defines it (1.4.3)."""

    def light(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("which", [0, 1])
def test_colours_can_be_read(which: int) -> None:
    surface = theme.COLOURS["surface"][which]
    for name, pair in theme.COLOURS.items():
        least = {"ink": 7.0, "muted": 4.5, "faint": 2.0, "grid": 1.0, "surface": 1.0}.get(name, 3.0)
        assert contrast(pair[which], surface) >= least, name
