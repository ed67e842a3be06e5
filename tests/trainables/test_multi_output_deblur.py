"""Multi-outputs for deblurring: outputs, losses and metrics against the statements of the paper."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.base import Setting
from fairsweep.trainables.tasks.restoration import summary
from fairsweep.trainables.vision import multi_output_deblur as mod
from fairsweep.trainables.vision.multi_output_deblur import MultiOutputDeblur

torch.set_num_threads(1)
DATA = "digits_simulated_motion"
SMALL = "digits_simulated_motion_small"


def config(data: str = DATA, **changes: Any) -> dict[str, Any]:
    """The paper's configuration for `data` with `changes`, completed and validated by the space."""
    declared = Space.load("multi_output_deblur")
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.for_data(data).validate(space.paper_config(data))


def trial(steps: int | None = None, seed: int = 0, data: str = DATA, **changes: Any) -> MultiOutputDeblur:
    paper = MultiOutputDeblur()
    paper.setup(config(data, **changes), Setting(seed=seed, steps=steps, data=data))
    return paper


def network(channels: int = 1, side: int = 8, seed: int = 0, **changes: Any) -> mod.MultiOutput:
    torch.manual_seed(seed)
    return mod.build(channels, side, config(**({"width": 8} | changes)))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- one output is the ordinary network ----


@pytest.mark.parametrize("combine_heads", [False, True])
def test_one_head_has_the_ordinary_psnr_loss(combine_heads: bool) -> None:
    net = network(3, n_heads=1, combine_heads=combine_heads)
    x, y = noise(4, 3, 8, 8), noise(4, 3, 8, 8, seed=1)
    outputs = net(x)
    assert outputs.shape == (4, 1, 3, 8, 8)
    mse = (outputs[:, 0] - y).square().flatten(1).mean(1)
    expected = (10 * torch.log10(mse + 1e-8)).mean()
    for rule in ("min", "mean", "soft_min"):
        found = mod.over_heads(mod.psnr_loss(outputs, y), rule, 0.7).mean()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("trunk", ["plain", "nafnet"])
def test_only_the_last_convolution_grows_with_the_heads(trunk: str) -> None:
    one, four = (network(3, n_heads=n, combine_heads=False, trunk=trunk) for n in (1, 4))
    a, b = ({k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (one, four))
    assert {k for k in a if a[k] != b[k]} == {"head.weight", "head.bias"} and a.keys() == b.keys()
    assert a["head.weight"] == (3, 8, 3, 3) and b["head.weight"] == (12, 8, 3, 3)
    expected = one.head(one.trunk(x := noise(2, 3, 8, 8))) + x
    torch.testing.assert_close(one(x)[:, 0], expected)


# ---- parameter multiplexing ----


@pytest.mark.parametrize("n", [1, 2, 4, 10])
def test_pairs_are_all_averages_and_contain_the_maps(n: int) -> None:
    maps = noise(2, n, 3, 4, 5)
    found = mod.combine(maps)
    assert found.shape == (2, n * (n + 1) // 2, 3, 4, 5)
    expected = [
        (maps[:, i] + maps[:, j]) / 2 for i, j in itertools.combinations_with_replacement(range(n), 2)
    ]
    for one in expected:
        assert sum(torch.equal(one, found[:, k]) for k in range(found.shape[1])) == 1
    assert all(any(torch.equal(maps[:, i], f) for f in found.unbind(1)) for i in range(n))


def test_pairs_are_symmetric() -> None:
    maps = noise(2, 4, 1, 3, 3)
    rows = {tuple(f.flatten().tolist()) for f in mod.combine(maps).unbind(1)}
    assert {tuple(f.flatten().tolist()) for f in mod.combine(maps[:, [2, 0, 3, 1]]).unbind(1)} == rows


def test_pairs_cost_no_parameters() -> None:
    plain, paired = (network(n_heads=4, combine_heads=c) for c in (False, True))
    a, b = plain.state_dict(), paired.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    x = noise(2, 1, 8, 8)
    assert paired(x).shape[1] == 10 and plain(x).shape[1] == 4
    residuals = plain(x) - x[:, None]
    torch.testing.assert_close(paired(x), x[:, None] + mod.combine(residuals))


def test_zero_residual_returns_the_image() -> None:
    for combine_heads in (False, True):
        net = network(3, combine_heads=combine_heads)
        torch.nn.init.zeros_(net.head.weight)
        torch.nn.init.zeros_(net.head.bias)
        x = noise(2, 3, 7, 9)
        assert all(torch.equal(output, x) for output in net(x).unbind(1))


# ---- the loss of the best output ----


def test_losing_heads_get_no_gradient() -> None:
    net = network(n_heads=3, combine_heads=False)
    x, y = noise(6, 1, 8, 8), noise(6, 1, 8, 8, seed=1)
    with torch.no_grad():
        net.head.bias[2] += 5.0  # this head is far from every image
    losses = mod.psnr_loss(net(x), y)
    winners = set(losses.argmin(1).tolist())
    assert 2 not in winners
    mod.over_heads(losses, "min").mean().backward()
    for head in range(3):
        assert (net.head.weight.grad[head].abs().max() > 0) == (head in winners)
    assert all(p.grad.abs().max() > 0 for p in net.trunk.parameters())


def test_each_image_has_its_own_winner() -> None:
    y = torch.zeros(2, 1, 2, 2)
    # Head 0 is right about the first image and head 1 about the second; pixelwise each has a half of both.
    outputs = torch.full((2, 2, 1, 2, 2), 0.5).requires_grad_()
    scale = torch.tensor([[0.2, 1.0], [1.0, 0.4]])[..., None, None, None]
    losses = mod.psnr_loss(outputs * scale, y)
    loss = mod.over_heads(losses, "min")
    torch.testing.assert_close(loss, torch.tensor([0.1, 0.2]).square().log10() * 10, rtol=1e-4, atol=1e-4)
    loss.sum().backward()
    won = outputs.grad.abs().amax((2, 3, 4)) > 0
    assert won.tolist() == [[True, False], [False, True]]


def test_both_parents_of_a_winning_pair_get_half() -> None:
    maps = torch.tensor([1.0, -1.0, 9.0]).view(1, 3, 1, 1, 1).requires_grad_()
    losses = mod.psnr_loss(mod.combine(maps), torch.full((1, 1, 1, 1), 0.1))
    mod.over_heads(losses, "min").sum().backward()
    gradient = maps.grad.flatten()
    assert gradient[0] == gradient[1] != 0 and gradient[2] == 0
    alone = torch.tensor(0.0, requires_grad=True)
    (10 * torch.log10((alone - 0.1) ** 2 + 1e-8)).backward()
    torch.testing.assert_close(gradient[0], alone.grad / 2)


@pytest.mark.parametrize("criterion", list(mod.CRITERIA))
@pytest.mark.parametrize("rule", ["min", "mean", "soft_min"])
def test_loss_does_not_depend_on_the_order_of_heads(criterion: str, rule: str) -> None:
    outputs, y = noise(3, 4, 1, 6, 6), noise(3, 1, 6, 6, seed=1)
    a, b = (
        mod.over_heads(mod.CRITERIA[criterion](o, y), rule, 0.1) for o in (outputs, outputs[:, [3, 1, 0, 2]])
    )
    torch.testing.assert_close(a, b)


def test_soft_minimum_lies_between_minimum_and_mean() -> None:
    losses = torch.tensor([[1.0, 2.0, 4.0], [0.0, -3.0, 5.0]])
    low, high = mod.over_heads(losses, "min"), mod.over_heads(losses, "mean")
    assert low.tolist() == [1, -3] and torch.allclose(high, losses.mean(1))
    soft = [mod.over_heads(losses, "soft_min", t) for t in (1e-3, 1.0, 1e4)]
    torch.testing.assert_close(soft[0], low, rtol=0, atol=2e-3)
    assert ((low < soft[1]) & (soft[1] < high)).all()
    torch.testing.assert_close(soft[2], high, rtol=0, atol=1e-2)


def test_l1_is_the_mean_absolute_error() -> None:
    outputs, y = noise(2, 3, 1, 4, 4), noise(2, 1, 4, 4, seed=1)
    for h in range(3):
        expected = torch.stack([F.l1_loss(outputs[b, h], y[b]) for b in range(2)])
        torch.testing.assert_close(mod.l1_loss(outputs, y)[:, h], expected)


def test_edge_loss_is_zero_where_only_a_constant_is_wrong_and_not_where_an_edge_is() -> None:
    y = noise(2, 1, 12, 12)
    constant, step = torch.full((1, 1, 1, 12, 12), 0.5), torch.zeros(1, 1, 1, 12, 12)
    inner = mod.laplacian(constant)[..., 4:8, 4:8]
    assert inner.abs().max() < 1e-6
    step[..., 6:] = 0.5
    assert mod.laplacian(step)[..., 4:8, 4:8].abs().max() > 0.05
    pixels = math.sqrt(0.25 + 1e-6)
    found = mod.charbonnier_edge_loss(y[:, None] + 0.5, y)
    edges = torch.sqrt(mod.laplacian(constant).square() + 1e-6).mean().item()
    assert found.flatten().tolist() == pytest.approx([pixels + 0.05 * edges] * 2, rel=1e-4)


def test_unknown_rule_and_trunk_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="over_heads=max: known are min, mean, soft_min"):
        mod.over_heads(torch.zeros(1, 2), "max")
    with pytest.raises(ValueError, match="trunk=unet: known are plain, nafnet"):
        mod.build(1, 8, config() | {"trunk": "unet"})


# ---- NAFNet ----


def test_nafnet_of_the_paper_has_its_published_number_of_parameters() -> None:
    net = mod.build(3, 256, config("gopro", trunk="nafnet", width=32, nafnet_levels=4, nafnet_deepest=28))
    heads = 3 * 3 * (32 * 9 + 1)  # the three heads that NAFNet does not have
    total = sum(p.numel() for p in net.parameters()) - heads
    assert total / 1e6 == pytest.approx(17.11, abs=0.005)
    assert len(net.trunk.encoders[3]) == 28 and len(net.trunk.middle) == 1


def test_nafnet_starts_without_its_blocks_and_trains_them() -> None:
    net = network(trunk="nafnet", nafnet_levels=2, n_heads=1)
    block = net.trunk.middle[0]
    x = noise(2, 32, 2, 2)
    assert torch.equal(block(x), x)
    torch.nn.init.ones_(block.beta)
    assert not torch.equal(block(x), x)
    mod.psnr_loss(net(noise(2, 1, 8, 8)), noise(2, 1, 8, 8, seed=1)).mean().backward()
    assert all(b.beta.grad.abs().max() > 0 for b in net.modules() if isinstance(b, mod.NAFBlock))


def test_skips_carry_every_resolution_past_what_lies_below() -> None:
    trunk = network(trunk="nafnet", nafnet_levels=2).trunk
    x = noise(2, 1, 8, 8)
    before = trunk(x)
    torch.nn.init.zeros_(trunk.ups[0][0].weight)
    assert not torch.allclose(trunk(x), before) and not torch.allclose(trunk(x), trunk.intro(x))
    torch.nn.init.zeros_(trunk.ups[1][0].weight)
    torch.testing.assert_close(trunk(x), trunk.intro(x))


def test_simple_gate_and_channel_norm() -> None:
    x = noise(2, 4, 3, 3)
    assert torch.equal(mod.SimpleGate()(x), x[:, :2] * x[:, 2:])
    found = mod.ChannelNorm(4, eps=1e-6)(x)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    torch.testing.assert_close(found, (x - mean) / torch.sqrt(variance + 1e-6))


@pytest.mark.parametrize("trunk", ["plain", "nafnet"])
def test_images_of_any_size(trunk: str) -> None:
    net = network(3, trunk=trunk, nafnet_levels=2).eval() if trunk == "nafnet" else network(3)
    for h, w in ((8, 8), (7, 10), (1, 3)):
        assert net(noise(1, 3, h, w)).shape == (1, 10, 3, h, w)


def test_local_mean_is_the_mean_of_a_window() -> None:
    x = noise(2, 3, 6, 7)
    found = mod.local_mean(x, 3)
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], F.avg_pool2d(x, 3, stride=1))
    assert torch.equal(found[:, :, 0], found[:, :, 1]) and torch.equal(found[..., -1], found[..., -2])
    torch.testing.assert_close(mod.local_mean(x, 7), x.mean((2, 3), keepdim=True))
    assert mod.local_mean(x, 6).shape == x.shape, "narrower than the map, so not the global mean"


def test_channel_attention_is_global_in_training_and_local_in_evaluation() -> None:
    attention = mod.ChannelAttention(2, window=3)
    small, large = noise(1, 2, 3, 3), noise(1, 2, 9, 9)
    torch.testing.assert_close(attention(small), attention.eval()(small))
    assert not torch.allclose(attention.train()(large), attention.eval()(large))
    net = network(3, side=8, trunk="nafnet", nafnet_levels=2)
    windows = [m.window for m in net.modules() if isinstance(m, mod.ChannelAttention)]
    assert windows == [12, 6, 3, 6, 12], "1.5 times the training square, halved with every level"


# ---- training ----


def test_learning_rate_falls_by_a_cosine_to_its_end_in_every_gradient_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paper = trial(steps=2, data=SMALL, batch_size=32, width=8)
    assert paper.optimiser.defaults["betas"] == (0.9, 0.9)
    seen, norms = [], []

    def record(loss: torch.Tensor, clip_norm: float | None = None) -> None:
        seen.append(paper.optimiser.param_groups[0]["lr"])
        MultiOutputDeblur.descend(paper, loss, clip_norm)
        norms.append(math.sqrt(sum(p.grad.square().sum().item() for p in paper.net.parameters())))

    monkeypatch.setattr(paper, "descend", record)
    paper.step()
    paper.step()
    n = 2 * math.ceil(240 / 32)
    expected = [1e-7 + (2e-3 - 1e-7) * 0.5 * (1 + math.cos(math.pi * i / n)) for i in range(n)]
    assert seen == pytest.approx(expected)
    assert max(norms) <= 0.01 * (1 + 1e-4) and min(norms) > 0.009


@pytest.mark.parametrize(
    "changes",
    [
        {"n_heads": 1, "combine_heads": False},
        {"n_heads": 2},
        {"n_heads": 10},
        {"combine_heads": False},
        {"over_heads": "mean"},
        {"over_heads": "soft_min"},
        {"criterion": "l1"},
        {"criterion": "charbonnier_edge"},
        {"augment": True},
        {"trunk": "nafnet"},
        {"crop": 12},
    ],
)
def test_every_baseline_and_ablation_trains(changes: dict[str, Any]) -> None:
    paper = trial(steps=1, data=SMALL, batch_size=8, width=8, **changes)
    before = paper.data.evaluate(paper.net, "validation").mean(0).max().item()
    found = paper.step()
    assert found["val_psnr_best_overall"] > before
    assert all(math.isfinite(v) for v in paper.test().values())


def test_mean_over_heads_leaves_the_outputs_alike_and_the_minimum_does_not() -> None:
    apart = [trial(steps=2, width=8, over_heads=rule) for rule in ("min", "mean")]
    spread = []
    for paper in apart:
        rows = [paper.step() for _ in range(2)]
        spread.append(rows[-1]["val_psnr_best_overall"] - rows[-1]["val_psnr_best_single"])
    assert spread[0] > 1.0 > spread[1]


def test_best_overall_is_at_least_best_single_is_at_least_the_mean() -> None:
    paper = trial(steps=2, width=8)
    paper.step()
    found = paper.step()
    test = paper.test()
    names = [f"test_psnr_{name}" for name in ("best_overall", "best_single", "mean", "worst")]
    values = [test[name] for name in names]
    assert values == sorted(values, reverse=True) and len(set(values)) == 4
    assert test["test_psnr_worst"] < test["test_psnr_selected"] <= test["test_psnr_best_single"] + 1e-9
    assert 1 <= found["val_effective_outputs"] <= 10


def test_selected_output_is_chosen_on_the_validation_part(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = trial(steps=1, data=SMALL)
    tables = {"validation": torch.tensor([[1.0, 9.0, 2.0]]), "test": torch.tensor([[7.0, 5.0, 6.0]] * 2)}
    monkeypatch.setattr(paper.data, "evaluate", lambda net, part: tables[part])
    assert paper.measure_test(paper.net) == {
        "test_psnr_best_overall": 7.0,
        "test_psnr_best_single": 7.0,
        "test_psnr_mean": 6.0,
        "test_psnr_worst": 5.0,
        "test_effective_outputs": 1.0,
        "test_psnr_selected": 5.0,
    }


def test_summary_keeps_images_and_outputs_apart() -> None:
    values = torch.tensor([[30.0, 10.0], [10.0, 24.0]])
    found = summary(values)
    assert found["psnr_best_overall"] == 27 and found["psnr_best_single"] == 20
    assert found["psnr_mean"] == 18.5 and found["psnr_worst"] == 10
    assert found["effective_outputs"] == pytest.approx(2)


# ---- space and trial ----


def test_space_holds_only_what_exists() -> None:
    assert {"nafnet_levels", "nafnet_deepest", "temperature"}.isdisjoint(config())
    assert {"nafnet_levels", "nafnet_deepest"} <= config(trunk="nafnet").keys()
    assert "temperature" in config(over_heads="soft_min")
    with pytest.raises(SpaceError, match="lr=1"):
        Space.load("multi_output_deblur").validate(config() | {"lr": 1.0})


def test_paper_values_are_those_of_the_experiment() -> None:
    space = Space.load("multi_output_deblur")
    gopro, digits = space.paper_config("gopro"), space.paper_config(DATA)
    assert (gopro["lr"], gopro["weight_decay"], gopro["batch_size"], gopro["augment"]) == (
        1e-3,
        1e-3,
        32,
        True,
    )
    assert (digits["lr"], digits["augment"], digits["trunk"], digits["width"]) == (2e-3, False, "plain", 16)
    assert gopro["n_heads"] == 4 and gopro["combine_heads"] is True and gopro["over_heads"] == "min"
    fidelity = MultiOutputDeblur.fidelity(digits)
    assert (fidelity.unit, fidelity.minimum, fidelity.maximum) == ("epoch", 2, 7)


def test_training_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    trial(steps=2, data=SMALL, width=8, augment=True).step()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "name", ["n_heads", "width", "batch_size", "crop", "nafnet_levels", "nafnet_deepest"]
)
def test_impossible_sizes_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0: must be at least 1"):
        MultiOutputDeblur().setup(config(trunk="nafnet") | {name: 0}, Setting(data=DATA))
