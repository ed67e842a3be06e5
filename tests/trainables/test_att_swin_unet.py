"""Att-SwinU-Net: windows, reuse of attention and skip fusion, against the statements of the paper."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.base import Setting
from fairsweep.trainables.vision import _transformers as parts
from fairsweep.trainables.vision import att_swin_unet as paper_file
from fairsweep.trainables.vision.att_swin_unet import AttSwinUNet, AttSwinUNetPaper, SkipFusion, SwinBlock

torch.set_num_threads(1)
SMALL = "synthetic_lesions_small"
SKIPS = ("reuse_cross", "reuse", "cross", "xca", "concat")


def config(**changes: Any) -> dict[str, Any]:
    """The paper's configuration for the small lesions with `changes`, completed and validated by the space."""
    declared = Space.load("att_swin_unet")
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.validate(space.paper_config(SMALL))


def network(seed: int = 0, **changes: Any) -> AttSwinUNet:
    """A network for 3 x 32 x 32 in evaluation mode; weights larger than at the start, so that all parts speak."""
    torch.manual_seed(seed)
    net = paper_file.build(3, 32, config(**changes)).eval()
    assert isinstance(net, AttSwinUNet)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() == 2:
                weight.mul_(5)
    return net


def images(n: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trial(steps: int | None = None, seed: int = 0, **changes: Any) -> AttSwinUNetPaper:
    paper = AttSwinUNetPaper()
    paper.setup(config(**changes), Setting(seed=seed, steps=steps, data=SMALL))
    return paper


# ---- windows and shifts ----


def test_windows_are_squares_and_are_put_back() -> None:
    x = normal(3, 8, 8, 5)
    windows = parts.window_partition(x, 4)
    assert windows.shape == (12, 16, 5)
    assert torch.equal(windows[5], x[1, :4, 4:].reshape(16, 5))
    assert torch.equal(parts.window_reverse(windows, 4, 8), x)


@pytest.mark.parametrize(("side", "padded", "window"), [(8, 8, 4), (8, 14, 7), (16, 21, 7), (16, 16, 8)])
@pytest.mark.parametrize("shifted", [False, True])
def test_only_neighbours_of_the_map_may_attend(side: int, padded: int, window: int, shifted: bool) -> None:
    shift = window // 2 if shifted else 0
    place = torch.cartesian_prod(torch.arange(padded), torch.arange(padded)).view(1, padded, padded, 2)
    place = parts.window_partition(place.roll((-shift, -shift), (1, 2)), window)
    near = ((place[:, :, None] - place[:, None]).abs() < window).all(-1)
    filler = (place >= side).any(-1)
    forbidden = parts.forbidden_pairs(side, padded, window, shift)
    mixed = filler[:, :, None] != filler[:, None]
    real = ~filler[:, :, None] & ~filler[:, None]
    assert forbidden[mixed].all()
    assert torch.equal(forbidden[real], ~near[real])
    assert not forbidden.diagonal(dim1=1, dim2=2).any(), "a row without any key would have no weights"


@pytest.mark.parametrize(("side", "window", "shift"), [(8, 4, 2), (8, 7, 3), (4, 4, 0), (4, 7, 0), (1, 4, 0)])
def test_strangers_get_no_weight(side: int, window: int, shift: int) -> None:
    block = SwinBlock(24, side, 2, True, 0.0, config(window=window)).eval()
    assert (block.window, block.shift) == (min(side, window), shift)
    _, attention = block(5 * normal(2, side**2, 24))
    windows = (block.padded // block.window) ** 2
    assert attention.shape == (2 * windows, 2, block.window**2, block.window**2)
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    assert (block.mask is not None) == (side > window)
    if side > window:
        strangers = block.mask[:, None].repeat(2, 1, 1, 1).expand(attention.shape)
        assert attention[strangers].max() < 1e-6


def test_a_map_within_one_window_has_no_mask() -> None:
    assert SwinBlock(24, 4, 2, True, 0.0, config()).mask is None
    assert SwinBlock(24, 8, 2, False, 0.0, config()).mask is None


@pytest.mark.parametrize(("side", "window"), [(8, 4), (8, 7), (4, 4), (16, 7)])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_block_puts_every_token_back_to_its_place(side: int, window: int, shifted: bool) -> None:
    block = SwinBlock(24, side, 2, shifted, 0.0, config(window=window)).eval()
    nn.init.zeros_(block.mlp[2].weight)
    nn.init.zeros_(block.mlp[2].bias)
    block.attention.forward = lambda x, *rest: (x, None)
    x = normal(2, side**2, 24)
    torch.testing.assert_close(block(x)[0], x + block.norm1(x))


def reference(layer: paper_file.WindowAttention, x: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Attention and values of windows x (n, t, c) by loops over heads and offsets."""
    heads, c = layer.heads, x.shape[-1]
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in layer.qkv(x).chunk(3, -1))
    bias = torch.empty(heads, window**2, window**2)
    for i, j in itertools.product(range(window**2), repeat=2):
        rows, columns = i // window - j // window, i % window - j % window
        bias[:, i, j] = layer.bias[(rows + window - 1) * (2 * window - 1) + columns + window - 1]
    return (q @ k.transpose(-2, -1) / math.sqrt(c // heads) + bias).softmax(-1), v


def test_attention_is_scaled_and_biased_by_relative_position() -> None:
    layer = paper_file.WindowAttention(12, 3, 4, "add", False)
    nn.init.normal_(layer.bias)
    x = normal(5, 16, 12)
    attention, v = reference(layer, x, 4)
    out, found = layer(x, None)
    torch.testing.assert_close(found, attention)
    torch.testing.assert_close(out, layer.proj((attention @ v).transpose(1, 2).reshape(5, 16, 12)))


def test_merging_and_expanding_keep_count_of_tokens_and_channels() -> None:
    merge, expand = parts.PatchMerging(6), parts.PatchExpanding(12, 6, 2)
    x = normal(2, 64, 6)
    merged = merge(x)
    assert merged.shape == (2, 16, 12) and expand(merged).shape == (2, 64, 6)
    assert parts.PatchExpanding(6, 6, 4)(x).shape == (2, 1024, 6)
    changed = x.clone()
    changed[0, 8 * 3 + 5] += 1
    assert (merge(changed) - merged).abs().sum(-1).nonzero().tolist() == [[0, 4 * 1 + 2]]
    merged_change = merged.clone()
    merged_change[0, 4 * 1 + 2] += normal(12)
    moved = (expand(merged_change) - expand(merged)).abs().sum(-1).nonzero()[:, 1].tolist()
    assert moved == [8 * 2 + 4, 8 * 2 + 5, 8 * 3 + 4, 8 * 3 + 5]


def test_merging_normalises_four_neighbours_together() -> None:
    merge = parts.PatchMerging(2)
    x = normal(1, 16, 2)
    four = torch.cat([x[0, i] for i in (2, 3, 6, 7)])
    expected = merge.reduce.weight @ ((four - four.mean()) / (four.var(unbiased=False) + 1e-5).sqrt())
    torch.testing.assert_close(merge(x)[0, 1], expected)


def test_stochastic_depth_drops_whole_samples_in_training_only() -> None:
    drop = parts.DropPath(0.25)
    x = torch.ones(4000, 3, 2)
    torch.manual_seed(0)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out == out[:, :1, :1]).all() and out.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(x), x)
    rates = [block.drop_path.rate for stage in network(levels=2).down for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])


# ---- reuse of attention ----


def test_combination_of_two_attentions() -> None:
    a, prior = torch.tensor([[0.2, 0.8]]), torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(paper_file.combine(a, prior, "add", False), torch.tensor([[0.7, 1.3]]))
    torch.testing.assert_close(paper_file.combine(a, prior, "add", True), torch.tensor([[0.35, 0.65]]))
    torch.testing.assert_close(paper_file.combine(a, prior, "mul", False), torch.tensor([[0.1, 0.4]]))
    torch.testing.assert_close(paper_file.combine(a, prior, "mul", True), torch.tensor([[0.2, 0.8]]))


def test_a_key_without_prior_keeps_its_weight() -> None:
    a, prior = torch.tensor([[0.5, 0.1, 0.4]]), torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(paper_file.combine(a, prior, "add", False), torch.tensor([[0.5, 0.6, 0.9]]))
    torch.testing.assert_close(paper_file.combine(a, prior, "mul", False), torch.tensor([[0.5, 0.05, 0.2]]))


@pytest.mark.parametrize("op", ["add", "mul"])
@pytest.mark.parametrize("renormalise", [False, True])
def test_values_are_weighted_by_the_combined_attention(op: str, renormalise: bool) -> None:
    layer = paper_file.WindowAttention(12, 3, 4, op, renormalise)
    x, prior = normal(5, 16, 12), normal(5, 3, 16, 16, seed=1).softmax(-1)
    attention, v = reference(layer, x, 4)
    weights = attention + prior if op == "add" else attention * prior
    weights = weights / weights.sum(-1, keepdim=True) if renormalise else weights
    out, own = layer(x, None, prior)
    torch.testing.assert_close(out, layer.proj((weights @ v).transpose(1, 2).reshape(5, 16, 12)))
    torch.testing.assert_close(own, attention)


@pytest.mark.parametrize("skip", [s for s in SKIPS if s != "concat"])
def test_without_skip_levels_it_is_swin_unet(skip: str) -> None:
    plain, none = network(skip="concat"), network(skip=skip, skip_num=0)
    assert plain.state_dict().keys() == none.state_dict().keys()
    assert torch.equal(plain(images()), none(images()))
    assert not torch.allclose(plain(images()), network(skip=skip)(images()), atol=1e-6)


def test_reuse_adds_no_parameters_and_nothing_where_the_encoder_attends_nowhere() -> None:
    plain, reuse = network(skip="concat"), network(skip="reuse")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), reuse.parameters(), strict=True))
    x, skips, attentions = reuse.encode(images())
    expected = plain(images())
    nowhere = [[torch.zeros_like(a) for a in level] for level in attentions]
    assert torch.equal(reuse.decode(x, skips, nowhere), expected)
    assert (reuse.decode(x, skips, attentions) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("op", ["add", "mul"])
@pytest.mark.parametrize("skip", ["reuse", "reuse_cross"])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("block", [0, 1])
def test_the_decoder_depends_on_the_attention_of_every_encoder_block(
    op: str, skip: str, level: int, block: int
) -> None:
    net = network(skip=skip, op=op)
    x, skips, attentions = net.encode(images())
    before = net.decode(x, skips, attentions)
    attentions[level][block] = attentions[level][block].flip(-1)
    assert (net.decode(x, skips, attentions) - before).abs().max() > 1e-4


@pytest.mark.parametrize("skip", ["cross", "xca", "concat"])
def test_the_other_skip_paths_do_not_use_attention(skip: str) -> None:
    net = network(skip=skip)
    x, skips, attentions = net.encode(images())
    swapped = [[a.flip(-1) for a in level] for level in attentions]
    assert torch.equal(net.decode(x, skips, swapped), net.decode(x, skips, attentions))


def test_attention_is_handed_to_the_block_of_the_same_level_and_shift() -> None:
    net = network(skip="reuse", window=4)
    x, skips, attentions = net.encode(images())
    handed: dict[tuple[int, int], Tensor] = {}
    for i, j in itertools.product(range(2), range(2)):
        net.up[i].blocks[j].attention.register_forward_pre_hook(
            lambda _, args, key=(i, j): handed.__setitem__(key, args[2])
        )
        assert net.up[i].blocks[j].shift == net.down[i].blocks[j].shift == (2 if j == 1 else 0)
    net.decode(x, skips, attentions)
    assert all(handed[i, j] is attentions[i][j] for i, j in itertools.product(range(2), range(2)))
    strangers = net.up[0].blocks[1].mask[:, None].repeat(2, 1, 1, 1).expand(attentions[0][1].shape)
    assert attentions[0][1][strangers].max() == 0


@pytest.mark.parametrize(("skip_num", "used"), [(0, []), (1, [1]), (2, [0, 1]), (3, [0, 1])])
def test_the_deepest_skip_paths_are_used_first(skip_num: int, used: list[int]) -> None:
    net = network(skip="reuse_cross", skip_num=skip_num)
    assert [i for i in range(2) if net.reuse[i]] == used
    assert [i for i in range(2) if net.fuse[i].cross is not None] == used


def test_the_loss_reaches_the_encoders_attention_without_the_features() -> None:
    for skip, reached in (("reuse", True), ("concat", False)):
        net = network(skip=skip)
        x, skips, attentions = net.encode(images())
        net.decode(x.detach(), [s.detach() for s in skips], attentions).square().sum().backward()
        for level, block in itertools.product(range(2), range(2)):
            gradient = net.down[level].blocks[block].attention.qkv.weight.grad
            if reached:
                # Queries and keys, through the logits.
                width = gradient.shape[1]
                assert gradient[: 2 * width].abs().max() > 1e-5
            else:
                assert gradient is None


# ---- cross-contextual attention ----


def test_a_summary_attends_to_itself_and_all_tokens_of_the_other_side() -> None:
    layer = paper_file.SummaryAttention(12, 8, 64)
    summary, tokens = normal(3, 1, 12), normal(3, 20, 12, seed=1)
    change, attention = layer(summary, tokens)
    assert attention.shape == (3, 8, 21)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 8))
    own = F.layer_norm(summary, (12,))
    keys = torch.cat([own, tokens], 1)
    q = layer.query(own).view(3, 1, 8, 64).transpose(1, 2)
    k, v = (part.view(3, 21, 8, 64).transpose(1, 2) for part in layer.key_value(keys).chunk(2, -1))
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(3, 1, 512)
    torch.testing.assert_close(change, layer.out(expected))


def test_swapping_the_sides_swaps_the_summaries() -> None:
    cross = paper_file.CrossContextual(24, config())
    decoder, encoder = normal(2, 16, 24), normal(2, 16, 24, seed=1)
    d, e = cross(decoder, encoder)
    cross.decoder_side, cross.encoder_side = cross.encoder_side, cross.decoder_side
    swapped = cross(encoder, decoder)
    torch.testing.assert_close(swapped, (e, d))
    assert d.shape == e.shape == (2, 1, 24) and len(cross.decoder_side) == 2


def test_a_summary_is_the_mean_of_its_side_and_what_it_finds_on_the_other() -> None:
    cross = paper_file.CrossContextual(24, config(cross_layers=1))
    decoder, encoder = normal(2, 16, 24), normal(2, 16, 24, seed=1)
    d, e = cross(decoder, encoder)
    torch.testing.assert_close(
        d, decoder.mean(1, True) + cross.decoder_side[0](decoder.mean(1, True), encoder)[0]
    )
    torch.testing.assert_close(
        e, encoder.mean(1, True) + cross.encoder_side[0](encoder.mean(1, True), decoder)[0]
    )


def fusion(skip: str, inject: str | None = None) -> SkipFusion:
    torch.manual_seed(0)
    return SkipFusion(24, 2, skip, config(skip=skip, **({"inject": inject} if inject else {})))


def test_plain_fusion_is_concatenation_and_projection() -> None:
    decoder, encoder = normal(2, 16, 24), normal(2, 16, 24, seed=1)
    fuse = fusion("concat")
    tokens, context = fuse(decoder, encoder)
    expected = decoder @ fuse.project.weight[:, :24].T + encoder @ fuse.project.weight[:, 24:].T
    torch.testing.assert_close(tokens, expected + fuse.project.bias)
    assert context is None


@pytest.mark.parametrize("skip", ["cross", "reuse_cross"])
def test_where_the_summaries_go(skip: str) -> None:
    decoder, encoder = normal(2, 16, 24), normal(2, 16, 24, seed=1)
    fuse = fusion(skip, "replace")
    plain = fuse.project(torch.cat([decoder, encoder], -1))
    d, e = fuse.cross(decoder, encoder)
    both = fuse.project(torch.cat([d, e], -1))

    tokens, context = fuse(decoder, encoder)
    torch.testing.assert_close(tokens, torch.cat([both, plain[:, 1:]], 1))
    assert context is None

    tokens, context = fusion(skip, "add")(decoder, encoder)
    torch.testing.assert_close(tokens, plain + both - fuse.project.bias)
    assert context is None

    tokens, context = fusion(skip, "prepend")(decoder, encoder)
    torch.testing.assert_close(tokens, plain)
    torch.testing.assert_close(context, both)


def test_a_prepended_summary_is_one_more_key_of_every_window() -> None:
    block = SwinBlock(24, 8, 2, True, 0.0, config()).eval()
    x, context = normal(2, 64, 24), 3 * normal(2, 1, 24, seed=1)
    out, attention = block(x, None, context)
    assert attention.shape == (8, 2, 16, 17) and out.shape == x.shape
    torch.testing.assert_close(attention.sum(-1), torch.ones(8, 2, 16))
    layer = block.attention
    windows = parts.window_partition(block.norm1(x).view(2, 8, 8, 24).roll((-2, -2), (1, 2)), 4)
    keys = layer.qkv(torch.cat([block.norm1(context).repeat_interleave(4, 0), windows], 1))
    q, k, _ = (part.unflatten(-1, (2, 12)).transpose(1, 2) for part in keys.chunk(3, -1))
    logits = q[:, :, 1:] @ k.transpose(-2, -1) / math.sqrt(12)
    # Window 0 of either image has no strangers; the summary has no position and hence no bias.
    logits[:, :, :, 1:] += layer.bias[layer.offset].permute(2, 0, 1)
    torch.testing.assert_close(attention[[0, 4]], logits[[0, 4]].softmax(-1))
    assert (block(x, None, context.roll(1, 0))[0] - out).abs().amax((0, 2)).min() > 0, "every token sees it"
    prior = block(x)[1]
    assert (block(x, prior, context)[0] - out).abs().max() > 1e-4


# ---- channel attention ----


def test_channel_attention_is_between_normalised_channels() -> None:
    block = parts.ChannelAttention(12, 3)
    nn.init.uniform_(block.temperature, 0.5, 4)
    x = normal(2, 16, 12)
    out, attention = block.cross_covariance(x)
    assert attention.shape == (2, 3, 4, 4)
    q, k, v = block.qkv(x).chunk(3, -1)
    expected = torch.empty_like(v)
    for head in range(3):
        own = slice(4 * head, 4 * head + 4)
        a, b = (part[..., own] / part[..., own].norm(dim=1, keepdim=True) for part in (q, k))
        weights = (a.transpose(1, 2) @ b * block.temperature[head]).softmax(-1)
        torch.testing.assert_close(attention[:, head], weights)
        expected[..., own] = (weights @ v[..., own].transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(out, block.proj(expected))


def test_channel_block_starts_as_identity_and_interacts_locally() -> None:
    block = parts.ChannelAttention(12, 3).eval()
    x = normal(2, 64, 12)
    assert 0 < (block(x) - x).abs().max() < 1e-3
    with torch.no_grad():
        block.scales[1].fill_(1.0)
        block.scales[0].zero_()
        block.scales[2].zero_()
    changed = x.clone()
    changed[0, 8 * 4 + 4] += normal(12, seed=2)
    reached = (block(changed) - block(x)).abs().sum(-1)[0].view(8, 8).nonzero()
    assert (reached - 4).abs().max() == 2, "two 3x3 convolutions see two tokens far"
    assert [m.groups for m in block.local if isinstance(m, nn.Conv2d)] == [12, 12]
    fuse = fusion("xca")
    for scale in fuse.channel.scales:
        nn.init.ones_(scale)
    decoder, encoder = normal(2, 16, 24), normal(2, 16, 24, seed=1)
    expected = fuse.project(torch.cat([decoder, fuse.channel(encoder)], -1))
    torch.testing.assert_close(fuse(decoder, encoder)[0], expected)


# ---- the network ----


def test_swin_unet_has_the_published_number_of_parameters() -> None:
    sizes = {"patch": 4, "levels": 4, "embed_dim": 96, "heads": 3, "window": 7}
    net = paper_file.build(3, 224, config(skip="concat", **sizes))
    # Published: 27.17 million for nine classes; eight classes of 96 weights more than here.
    assert (sum(p.numel() for p in net.parameters()) + 8 * 96) / 1e6 == pytest.approx(27.17, abs=0.005)


@pytest.mark.parametrize(("patch", "levels"), itertools.product([2, 4], [2, 3, 4]))
@pytest.mark.parametrize("window", [4, 7, 8])
def test_every_size_of_the_space_gives_logits_of_the_image(patch: int, levels: int, window: int) -> None:
    for skip, inject, heads in (
        ("reuse_cross", "prepend", 3),
        ("reuse_cross", "replace", 6),
        ("xca", None, 2),
    ):
        changes = {"inject": inject} if inject else {}
        sizes = {"patch": patch, "levels": levels, "window": window, "heads": heads}
        net = paper_file.build(1, 32, config(skip=skip, **sizes, **changes)).eval()
        out = net(normal(2, 1, 32, 32))
        assert out.shape == (2, 32, 32) and out.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"op": "mul"},
        {"renormalise": True},
        {"op": "mul", "renormalise": True},
        {"inject": "add"},
        {"inject": "prepend"},
        {"inject": "prepend", "op": "mul", "renormalise": True},
        {"skip": "reuse"},
        {"skip": "cross"},
        {"skip": "xca"},
        {"skip": "concat"},
        {"model": "unet"},
        {"window": 7},
        {"optimiser": "sgd"},
    ],
    ids=str,
)
def test_every_variant_trains_all_its_weights(changes: dict[str, Any]) -> None:
    paper = trial(steps=1, **changes)
    before = {name: weight.clone() for name, weight in paper.net.named_parameters()}
    row = paper.step()
    assert all(math.isfinite(value) for value in row.values())
    for name, weight in paper.net.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        # A bias before batch normalisation has no effect; the keys' bias none on a softmax but through masks.
        assert "unet" in changes.values() or not torch.equal(weight, before[name]), name


def test_tokens_below_the_skip_path_see_only_the_deepest_map() -> None:
    net = network(skip="concat")
    x, skips, attentions = net.encode(images())
    assert [s.shape for s in skips] == [(2, 256, 24), (2, 64, 48)] and x.shape == (2, 16, 96)
    for i in range(2):
        moved = [s + (1.0 if j == i else 0.0) * normal(*s.shape) for j, s in enumerate(skips)]
        assert (net.decode(x, moved, attentions) - net.decode(x, skips, attentions)).abs().max() > 1e-3


def test_what_cannot_be_built_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"patch=4, levels=4: .* must divide the images' side, 48"):
        paper_file.build(3, 48, config(patch=4, levels=4))
    with pytest.raises(ValueError, match=r"patch=1, levels=3: .* side, 30"):
        paper_file.build(3, 30, config(model="unet"))
    with pytest.raises(ValueError, match="heads=5: must divide embed_dim=24"):
        paper_file.build(3, 32, config() | {"heads": 5})
    with pytest.raises(ValueError, match="model=fcn: known are att_swin_unet, unet"):
        paper_file.build(3, 32, config() | {"model": "fcn"})


# ---- space and trial ----


def test_space_holds_only_what_exists() -> None:
    assert {"skip", "op", "inject", "patch", "window", "drop_path"}.isdisjoint(config(model="unet"))
    assert {"op", "renormalise", "inject", "skip_num"}.isdisjoint(config(skip="concat"))
    assert "inject" not in config(skip="reuse") and "op" not in config(skip="cross")
    assert "sgd_lr" in config(optimiser="sgd") and "lr" not in config(optimiser="sgd")
    with pytest.raises(SpaceError, match="dice_weight"):
        Space.load("att_swin_unet").validate(config() | {"dice_weight": 1.5})


def test_paper_values_are_those_of_the_experiments() -> None:
    space = Space.load("att_swin_unet")
    isic, lesions = space.paper_config("isic2018"), space.paper_config("synthetic_lesions")
    assert (isic["lr"], isic["dice_weight"], isic["decay"], isic["batch_size"]) == (1e-4, 0.0, False, 24)
    assert (lesions["lr"], lesions["dice_weight"], lesions["weight_decay"]) == (1e-3, 0.6, 1e-2)
    assert {name: space.parameters[name].paper["default"] for name in ("patch", "embed_dim", "window")} == {
        "patch": 4,
        "embed_dim": 96,
        "window": 7,
    }


def test_optimiser_and_schedule_are_as_configured() -> None:
    paper = trial(steps=2, schedule="poly", model="unet")
    rates = []
    for _ in range(2):
        paper.step()
        rates.append(paper.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 1e-3 * 0.5**0.9])
    assert isinstance(paper.optimiser, torch.optim.AdamW)
    assert paper.optimiser.param_groups[0]["weight_decay"] == 1e-2
    sgd = trial(steps=1, optimiser="sgd", decay=False, model="unet").optimiser.param_groups[0]
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"]) == (0.01, 0.9, 0.0)


def test_constant_schedule_keeps_the_learning_rate() -> None:
    paper = trial(steps=2, model="unet")
    paper.step()
    paper.step()
    assert paper.optimiser.param_groups[0]["lr"] == 1e-3


def test_the_best_epoch_by_validation_dice_is_tested() -> None:
    paper = trial(steps=4, skip="reuse_cross")
    rows = [paper.step() for _ in range(4)]
    assert paper.best is not None and paper.best["value"] == max(row["val_dice"] for row in rows) > 0.65
    found = paper.test()
    paper.net.load_state_dict(paper.best["weights"])
    assert found["test_dice"] == paper.data.evaluate(paper.net, "test")["dice"] > 0.65
