"""The runtime of Single-Path NAS: exact where the table has an entry that it uses, and differentiable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fairsweep.search_spaces.architectures.mbconv import BLOCKS, MBConvSpace
from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.search_spaces.supernets.mbconv import MBConvSupernet
from fairsweep.search_spaces.supernets.runtime import RuntimeModel
from fairsweep.search_spaces.supernets.superkernels import BlockGates, option_gates

torch.set_num_threads(1)

SPACE = MBConvSpace((1, 1, 2))
# Milliseconds as measured on phones: not in proportion to kernel or expansion.
ROWS = [
    [4.4905, 9.2015, 5.9248, 11.5892],
    [3.4, 6.4, 4.9, 9.2],
    [2.0, 4.1, 2.4, 5.1],
    [1.2, 2.5, 1.4, 2.8],
]
LIKE = torch.zeros((), dtype=torch.float64)


def model(fixed: float = 19.5999) -> RuntimeModel:
    return RuntimeModel(SPACE, fixed, ROWS)


def forced(*options: str) -> list[BlockGates]:
    return [option_gates(option, LIKE) for option in options]


def test_gates_forced_to_an_option_give_its_entry() -> None:
    others = ("k5_e6", "k5_e6", "k5_e6")
    rest = 19.5999 + sum(row[3] for row in ROWS[:3])
    for option, index in (("k3_e6", 1), ("k5_e3", 2), ("k5_e6", 3)):
        found = model().of_gates(forced(*others, option)).item()
        assert found == pytest.approx(rest + ROWS[3][index], abs=1e-12)
    assert model().of_gates(forced(*others, "skip")).item() == pytest.approx(rest, abs=1e-12)
    in_proportion = ROWS[3][1] / ROWS[3][3] * ROWS[3][2]
    assert in_proportion != pytest.approx(ROWS[3][0], abs=0.01)
    assert model().of_gates(forced(*others, "k3_e3")).item() == pytest.approx(rest + in_proportion, abs=1e-12)


def test_a_skipped_block_costs_nothing_whatever_its_other_gates_say() -> None:
    one, zero = LIKE + 1, LIKE
    skipped = [BlockGates(k, zero, e) for k in (zero, one) for e in (zero, one)]
    for gate in skipped:
        gates = [*forced("k3_e6", "k3_e6", "k3_e6"), gate]
        expected = 19.5999 + sum(row[1] for row in ROWS[:3])
        assert model().of_gates(gates).item() == pytest.approx(expected, abs=1e-12)


def test_gradient_in_the_gates_is_that_of_the_formula() -> None:
    def total(k5: torch.Tensor, e3: torch.Tensor, e6: torch.Tensor) -> torch.Tensor:
        return model().of_gates([*forced("k5_e3", "k3_e6", "k5_e6"), BlockGates(k5, e3, e6)])

    for values in ((0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.3, 0.6, 0.9)):
        at = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
        assert torch.autograd.gradcheck(total, at)
    k5, e3, e6 = (torch.tensor(1.0, dtype=torch.float64, requires_grad=True) for _ in range(3))
    slopes = torch.autograd.grad(total(k5, e3, e6), (k5, e3, e6))
    _, p36, p53, p56 = ROWS[3]
    assert [s.item() for s in slopes] == pytest.approx([p56 - p36, p56, p56 - p53])


def test_expected_cost_of_probabilities() -> None:
    path = SPACE.parse("k3_e3/k5_e3/k3_e6-skip")
    one_hot = [torch.eye(len(c.options))[i] for c, i in zip(SPACE.choices, path.indices, strict=True)]
    assert model().of_path(path) == pytest.approx(19.5999 + ROWS[0][0] + ROWS[1][2] + ROWS[2][1])
    assert model().of_probabilities(one_hot).item() == pytest.approx(model().of_path(path))
    even = [torch.full((len(c.options),), 1 / len(c.options)) for c in SPACE.choices]
    expected = 19.5999 + sum(sum(row) / n for row, n in zip(ROWS, (4, 4, 4, 5), strict=True))
    assert model().of_probabilities(even).item() == pytest.approx(expected, rel=1e-6)


def test_flops_of_the_gates_are_those_of_the_network() -> None:
    """Flops are in proportion to the expansion, so that even k3_e3 is exact."""
    net = build_supernet("mbconv")
    assert isinstance(net, MBConvSupernet)
    found = RuntimeModel.from_table(net.space, net.cost_table("flops"))
    for seed in range(30):
        path = net.space.sample(seed)
        gates = [option_gates(option, LIKE) for option in net.space.options(path).values()]
        assert net.runtime(gates, found).item() == pytest.approx(net.cost(path, "flops"))
        assert found.of_path(path) == net.cost(path, "flops")
    # 8 x 8: expand, depthwise, project of the first block by hand
    assert found.layers[0].tolist() == [
        64 * 8 * e * 8 + 64 * k * k * 8 * e + 64 * 8 * e * 8 for k, e in ((3, 3), (3, 6), (5, 3), (5, 6))
    ]
    assert found.fixed == 64 * 9 * 8 + 16 * 10


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_file_in_the_layout_of_the_paper(tmp_path: Path) -> None:
    rows = {str(k): {str(o): cost for o, cost in enumerate(row)} for k, row in enumerate(ROWS)}
    found = RuntimeModel.from_json(SPACE, written(tmp_path / "t.json", {"fixed": 2.5, **rows}))
    assert found.layers.tolist() == ROWS and found.fixed == 2.5
    # The paper's own file also has the fixed blocks before and after, and "10" sorts after "9".
    around = {
        "9": rows["0"],
        "10": rows["1"],
        "11": rows["2"],
        "12": rows["3"],
        "8": rows["3"],
        "13": rows["0"],
    }
    found = RuntimeModel.from_json(SPACE, written(tmp_path / "t.json", {"fixed": 2.5, **around}))
    assert found.layers.tolist() == ROWS


def test_files_that_are_wrong_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cost=table: .*absent.json is missing"):
        RuntimeModel.from_json(SPACE, tmp_path / "absent.json")
    row = {str(o): 1.0 for o in range(4)}
    for content in ({"0": row}, {"fixed": 1, "a": row}, {"fixed": 1, "0": {"0": 1.0}}, [1, 2]):
        with pytest.raises(ValueError, match=r'must be \{"fixed": cost'):
            RuntimeModel.from_json(SPACE, written(tmp_path / "t.json", content))
    with pytest.raises(ValueError, match=r"4 costs .* for each of 4 blocks"):
        RuntimeModel.from_json(SPACE, written(tmp_path / "t.json", {"fixed": 1, "0": row}))


def test_costs_whose_logarithm_may_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"stage_1_block_0=k3_e6: cost 0.0 must be positive"):
        RuntimeModel(SPACE, 1.0, [ROWS[0], [1.0, 0.0, 1.0, 1.0], *ROWS[2:]])
    with pytest.raises(ValueError, match=r"fixed=-1.0: must be at least 0"):
        model(-1.0)
    smallest = RuntimeModel(SPACE, 0.0, ROWS).of_gates(forced("k3_e3", "k3_e3", "k3_e3", "skip"))
    assert smallest > 0 and set(BLOCKS) == {"k3_e3", "k3_e6", "k5_e3", "k5_e6"}
