"""What Optuna's plots and optuna-dashboard make of an exported sweep: `pip install plotly matplotlib optuna-dashboard`.

Seen by running optuna-dashboard 0.21.0: it knows the constraints of Optuna before 5.0 only. What Optuna 5.0 keeps under
`constraints:NAME` is an empty list in its answer, and its front of several objectives takes no notice of constraints;
Optuna itself and `fairsweep best` do.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from fairsweep.cluster import api
from tests.cluster.test_conductor import engine, trials
from tests.cluster.test_studies import WANTED, same, written

pytestmark = pytest.mark.slow

ONE = (
    "contour", "edf", "intermediate_values", "optimization_history", "parallel_coordinate", "param_importances", "rank",
    "slice", "timeline",
)  # fmt: skip
SEVERAL = ("pareto_front", "hypervolume_history", "timeline")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    """With early stopping, failures, two seeds a configuration."""
    run = engine(
        tmp_path_factory.mktemp("one"), "trainable=test_faulty", "space.fault.choices=[none,raise]", "scheduler=asha",
        "budget.trials=12", "seeds=2",
    )  # fmt: skip
    run.run()
    return api.Sweep(run.store, "s").to_optuna()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    """Two objectives, of which one has limits."""
    run = engine(
        tmp_path_factory.mktemp("two"), "trainable=test_trade", "metric=[val_loss,size]", "budget.trials=12",
        "constraints={size: {max: 3, min: 1}}",
    )  # fmt: skip
    run.run()
    return api.Sweep(run.store, "s").to_optuna()


def draw(backend: Any, kind: str, study: optuna.Study) -> Any:
    more: dict[str, Any] = {"reference_point": [10.0, 10.0]} if kind == "hypervolume_history" else {}
    if len(study.directions) > 1 and kind not in SEVERAL:
        more = {"target": lambda t: t.values[0], "target_name": "val_loss"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(backend, f"plot_{kind}")(study, **more)


@pytest.mark.parametrize("kind", ONE)
def test_optunas_plots_of_one_objective(one: optuna.Study, several: optuna.Study, kind: str) -> None:
    pytest.importorskip("plotly")
    from optuna import visualization

    figure = draw(visualization, kind, one)
    assert len(figure.data) and figure.to_json()
    if kind == "optimization_history":
        done = [t for t in one.trials if t.state.name == "COMPLETE"]
        assert list(figure.data[0].x) == [t.number for t in done] and list(figure.data[0].y) == [
            t.value for t in done
        ]
    if kind == "intermediate_values":
        shown = {line.name: dict(zip(line.x, line.y, strict=True)) for line in figure.data}
        assert shown == {
            f"Trial{t.number}": t.intermediate_values for t in one.trials if t.state.name != "FAIL"
        }
    if kind not in ("intermediate_values", "timeline"):
        assert len(draw(visualization, kind, several).data)


@pytest.mark.parametrize("kind", SEVERAL)
def test_optunas_plots_of_several_objectives(several: optuna.Study, kind: str) -> None:
    pytest.importorskip("plotly")
    from optuna import visualization

    figure = draw(visualization, kind, several)
    if kind == "pareto_front":
        points = {p for part in figure.data for p in zip(part.x, part.y, strict=True)}
        assert points == {tuple(t.values) for t in several.trials}
        assert figure.layout.xaxis.title.text == "val_loss" and figure.layout.yaxis.title.text == "size"
        broken = [len(part.x) for part in figure.data if "Infeasible" in part.hovertemplate]
        assert broken == [sum(max(t.constraints.values()) > 0 for t in several.trials)] and broken[0] > 0


@pytest.mark.parametrize("kind", dict.fromkeys([*ONE, *SEVERAL]))
def test_optunas_plots_with_matplotlib(one: optuna.Study, several: optuna.Study, kind: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as backend

    assert draw(backend, kind, several if kind in SEVERAL else one) is not None
    pyplot.close("all")


def test_the_dashboards_answer_is_what_the_store_says(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    store = written(tmp_path / "store")
    api.Sweep(store, "s").to_optuna(tmp_path / "study.db")
    app = dashboard.wsgi(optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db"))
    (listed,) = _get(app, "/api/studies")["study_summaries"]
    assert (listed["study_name"], listed["directions"]) == ("s", ["minimize"])
    found = _get(app, f"/api/studies/{listed['study_id']}")
    assert found["objective_names"] == ["val_loss"]
    assert [t["state"].upper() for t in found["trials"]] == WANTED
    results = store.table("results", "s").to_pylist()
    for t, row in zip(found["trials"], trials(store), strict=True):
        assert t["number"] == row["number"]
        if row["value"] is not None and t["state"] in ("Complete", "Pruned"):
            assert float(t["values"][0]) == row["value"]
        told = {r["step"]: r["metric.val_loss"] for r in results if r["trial"] == row["trial"]}
        shown = {v["step"]: float(v["value"]) for v in t["intermediate_values"]}
        assert shown.keys() == told.keys() and all(same(shown[k], told[k]) for k in told)
        config = json.loads(row["config_json"])
        params = {p["name"]: p["param_external_value"] for p in t["params"]}
        assert params == {k: str(v) for k, v in config.items() if k in params} and len(params) >= 2
        attrs = {a["key"]: a["value"] for a in t["user_attrs"]}
        assert (attrs["trial"], attrs["state"], attrs["seed"]) == (
            row["trial"],
            row["state"],
            str(row["seed"]),
        )
        test = row["metric.test"]
        assert ("metric.test" in attrs) == (test is not None)
        assert test is None or same(float(attrs["metric.test"]), test) or math.isinf(test)


def _get(app: Any, path: str) -> Any:
    environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": "GET", "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environ)
    return json.loads(b"".join(app(environ, lambda *_: None)))
