"""DHSPG: its formulas with values, and what must hold of every step whatever the network."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fairsweep.search_spaces.pruning.dhspg import DHSPG, adjusted_lambda, half_space, lambda_bounds
from fairsweep.search_spaces.pruning.directions import direction
from fairsweep.search_spaces.pruning.groups import Component, Member, Partition
from fairsweep.search_spaces.pruning.salience import Moments, most
from tests.search_spaces.pruning.digits_cnn import Net, batch, made, partition, train

torch.set_num_threads(1)

BASES: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.05),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "dampening": lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.3, weight_decay=1e-2),
    "nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: Adam(p, lr=0.01, weight_decay=1e-2),
    "amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
}


def optimiser(net: nn.Module, base: str = "momentum", **options: Any) -> DHSPG:
    options = {"target": 0.5, "start": 5} | options
    return DHSPG(BASES[base](net.parameters()), net.named_parameters(), partition(net), **options)


def rows(net: nn.Module, made_by: DHSPG, mask: Tensor) -> list[Tensor]:
    """The vectors of the groups in `mask`, component by component."""
    values = dict(net.named_parameters())
    parts = zip(made_by.components, mask.split(made_by.sizes), strict=True)
    return [made_by.partition.vectors(c, values)[m].detach().clone() for c, m in parts]


def foreign_gradients(net: nn.Module, step: int) -> None:
    """Gradients that depend on the step alone, so that two networks get the same ones."""
    generator = torch.Generator().manual_seed(step)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p)


def single(x: list[list[float]], lr: float = 0.1, **options: Any) -> tuple[nn.Parameter, DHSPG]:
    """One parameter whose rows are the groups, penalised from the first step."""
    w = nn.Parameter(torch.tensor(x))
    member = Member("w", 0, torch.arange(len(x))[:, None])
    groups = Partition((Component("c", len(x), (member,)),))
    options = {"target": 0.5, "start": 0, "tolerance": 0.0} | options
    return w, DHSPG(SGD([w], lr=lr), [("w", w)], groups, **options)


# ---- the direction v ----


@pytest.mark.parametrize("base", BASES)
def test_direction_is_what_the_base_optimiser_subtracts(base: str) -> None:
    net = made().double()
    plain = BASES[base](net.parameters())
    group = plain.param_groups[0]
    for step in range(4):
        foreign_gradients(net, step)
        before = [p.detach().clone() for p in net.parameters()]
        plain.step()
        decay = 1 - group["lr"] * group["weight_decay"] if base == "adamw" else 1.0
        for p, x in zip(net.parameters(), before, strict=True):
            v = direction(plain, group, p, x, lambda value: value)
            torch.testing.assert_close(decay * x - group["lr"] * v, p.detach(), atol=1e-12, rtol=1e-10)


def test_direction_without_a_gradient_is_zero() -> None:
    w = nn.Parameter(torch.ones(3))
    plain = SGD([w], lr=0.1, momentum=0.9)
    assert direction(plain, plain.param_groups[0], w, w.detach(), lambda x: x).tolist() == [0, 0, 0]


# ---- lambda ----

numbers = st.floats(-3, 3).map(lambda x: round(x, 3))


@settings(max_examples=300, deadline=None)
@given(
    x=st.lists(numbers, min_size=3, max_size=3),
    v=st.lists(numbers, min_size=3, max_size=3),
    between=st.floats(0.001, 0.999),
)
def test_between_the_bounds_the_step_shortens_x_and_lowers_the_loss(
    x: list[float], v: list[float], between: float
) -> None:
    xs, vs = torch.tensor([x], dtype=torch.float64), torch.tensor([v], dtype=torch.float64)
    m = Moments.of(xs, vs)
    lower, upper = lambda_bounds(m.norm, m.speed, m.inner)
    if m.inner.item() >= 0:
        assert lower.item() == 0 and upper.item() == math.inf
        return
    torch.testing.assert_close(upper / lower, 1 / m.cosine.square())
    lmbda = lower + between * (upper - lower)
    d = -(vs + lmbda * xs / m.norm)
    slack = 1e-9
    assert (d * xs).sum() <= slack and (d * vs).sum() <= slack
    for outside, product in ((0.9 * lower, xs), (1.1 * upper, vs)):
        d = -(vs + outside * xs / m.norm)
        assert (d * product).sum() > 0


def test_adjusted_lambda_by_hand() -> None:
    # x = (2, 0); v = (-1, 1): <x, v> = -2, lower 1, upper 2 * 2 / 2 = 2.
    m = Moments.of(torch.tensor([[2.0, 0.0]] * 5), torch.tensor([[-1.0, 1.0]] * 4 + [[1.0, 1.0]]))
    norm, speed, inner = m.norm, m.speed, m.inner

    def found(lmbda: float, amplify: float, hat: float) -> list[float]:
        return adjusted_lambda(norm, speed, inner, lmbda, amplify, hat).tolist()

    assert found(0.5, 1.5, 10) == [1.5] * 4 + [0.5]  # inside; the last group shrinks by itself
    assert found(0.5, 1.5, 2) == [1.0] * 4 + [0.5]  # clipped at lmbda * hat
    assert found(1.75, 1.5, 2) == [1.75] * 4 + [1.75]  # clipped from below at lmbda
    assert found(0.5, 2.0, 10) == [1.5] * 4 + [0.5]  # at the upper bound: the middle of the interval
    assert found(5.0, 2.0, 10) == [1.5] * 4 + [5.0]


# ---- half-space projection ----


@settings(max_examples=200, deadline=None)
@given(
    x=st.lists(numbers, min_size=4, max_size=4),
    z=st.lists(numbers, min_size=4, max_size=4),
)
def test_with_epsilon_zero_projected_iff_the_hyperplane_is_crossed(x: list[float], z: list[float]) -> None:
    xs, zs = torch.tensor([x], dtype=torch.float64), torch.tensor([z], dtype=torch.float64)
    new = half_space(xs, zs, 0.0)
    crossed = bool((xs * zs).sum() < 0)
    if not xs.any() or crossed:
        assert not new.any()
    else:
        assert torch.equal(new, zs)


def test_epsilon_is_how_much_a_step_may_shorten() -> None:
    x = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    z = torch.tensor([[1.92, 5.0], [1.88, 5.0], [3.0, 3.0]])
    assert half_space(x, z, 0.95).tolist() == [pytest.approx([1.92, 5.0]), [0, 0], [0, 0]]


# ---- one step ----


def test_trial_point_by_hand() -> None:
    w, optim = single([[3.0, 4.0], [30.0, 40.0]], lmbda=0.5, salience="magnitude")
    w.grad = torch.tensor([[1.0, -0.5], [1.0, 2.0]])
    optim.step()
    # Salience takes the first group. z = x - .1 (g + .5 x/5); the other one takes the plain step.
    assert optim.redundant is not None and optim.redundant.tolist() == [True, False]
    torch.testing.assert_close(
        w.detach(), torch.tensor([[3.0 - 0.1 - 0.03, 4.0 + 0.05 - 0.04], [29.9, 39.8]])
    )
    assert not optim.zero.any()


def test_lambda_grows_where_the_step_would_lengthen_x() -> None:
    start = [[1.0, 0.0], [50.0, 0.0]]
    gradient = torch.tensor([[-2.0, 1.0], [-100.0, 0.0]])
    results = {}
    for adjust in (True, False):
        w, optim = single(start, lr=0.01, lmbda=0.5, lambda_adjust=adjust, salience="magnitude")
        w.grad = gradient.clone()
        optim.step()
        results[adjust] = w[0].tolist()
    # lower 2, upper 5 / 2 = 2.5; amplify 2: 4 is above it, so 2.25.
    assert results[True] == pytest.approx([1 - 0.01 * (-2 + 2.25), -0.01])
    assert results[False] == pytest.approx([1 - 0.01 * (-2 + 0.5), -0.01])


def test_decoupled_weight_decay_is_no_part_of_the_penalty() -> None:
    w = nn.Parameter(torch.tensor([[1.0, 0.0], [100.0, 0.0]]))
    groups = Partition((Component("c", 2, (Member("w", 0, torch.tensor([[0], [1]])),)),))
    optim = DHSPG(
        AdamW([w], lr=0.01, weight_decay=0.5), [("w", w)], groups, 0.5, 0, tolerance=0.0, lmbda=0.25
    )
    w.grad = torch.zeros_like(w)
    optim.step()
    torch.testing.assert_close(
        w.detach(), torch.tensor([[1 - 0.01 * 0.5 - 0.01 * 0.25, 0.0], [100 * (1 - 0.005), 0.0]])
    )


def test_each_parameter_keeps_its_own_learning_rate() -> None:
    a, b = nn.Parameter(torch.tensor([[3.0], [90.0]])), nn.Parameter(torch.tensor([4.0, 90.0]))
    index = torch.tensor([[0], [1]])
    groups = Partition((Component("c", 2, (Member("a", 0, index), Member("b", 0, index))),))
    base = SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}], lr=1.0)
    optim = DHSPG(base, [("a", a), ("b", b)], groups, 0.5, 0, tolerance=0.0, lmbda=1.0)
    a.grad, b.grad = torch.zeros(2, 1), torch.zeros(2)
    optim.step()
    assert a[0].item() == pytest.approx(3 - 0.1 * 0.6) and b[0].item() == pytest.approx(4 - 0.01 * 0.8)


def test_without_half_space_groups_shrink_but_nothing_becomes_zero() -> None:
    net = made()
    optim = optimiser(net, half_space=False, start=3)
    train(net, optim, range(4))
    assert optim.redundant is not None
    before = torch.cat([x.norm(dim=1) for x in rows(net, optim, optim.redundant)])
    train(net, optim, range(4, 40))
    after = torch.cat([x.norm(dim=1) for x in rows(net, optim, optim.redundant)])
    assert (after < 0.5 * before).all() and (after > 0).all()
    assert optim.sparsity == 0


def test_projection_starts_when_told() -> None:
    net = made()
    optim = optimiser(net, start=3, half_space_start=8, lmbda=5.0)
    for step in range(9):
        train(net, optim, range(step, step + 1))
        assert (optim.sparsity > 0) == (step >= 8)


# ---- a whole run ----


@pytest.mark.parametrize("base", BASES)
def test_before_the_start_it_is_the_base_optimiser(base: str) -> None:
    ours, theirs = made(), made()
    optim, plain = optimiser(ours, base, start=100), BASES[base](theirs.parameters())
    train(ours, optim, range(6))
    train(theirs, plain, range(6))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("base", BASES)
def test_what_is_not_penalised_follows_the_base_optimiser_bit_for_bit(base: str) -> None:
    ours, theirs = made(), made()
    optim, plain = optimiser(ours, base, start=3), BASES[base](theirs.parameters())
    for step in range(30):
        for net in (ours, theirs):
            foreign_gradients(net, step)
        optim.step()
        plain.step()
    assert optim.redundant is not None and 0 < int(optim.redundant.sum()) < optim.numbers
    for a, b in zip(rows(ours, optim, ~optim.redundant), rows(theirs, optim, ~optim.redundant), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(ours.head.weight, theirs.head.weight)
    assert torch.equal(ours.head.bias, theirs.head.bias)
    changed = zip(rows(ours, optim, optim.redundant), rows(theirs, optim, optim.redundant), strict=True)
    assert not all(torch.equal(a, b) for a, b in changed)


@pytest.mark.parametrize("base", ["dampening", "nesterov", "adam", "adamw"])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
@pytest.mark.filterwarnings("ignore:target=0.7")
def test_sparsity_ends_between_the_target_and_the_limit(base: str, target: float) -> None:
    net = made()
    optim = optimiser(net, base, target=target)
    train(net, optim, range(40))
    assert optim.redundant is not None
    limit = int(optim.redundant.sum())
    assert limit <= most(optim.numbers, target + 0.05)
    # Where whole components were candidates each keeps one, and nothing goes in its place.
    assert min(target, limit / optim.numbers) <= optim.sparsity <= limit / optim.numbers
    assert limit >= optim.numbers * target - 1
    assert all(optim.kept().values())
    gone = torch.cat([x.norm(dim=1) == 0 for x in rows(net, optim, torch.ones_like(optim.zero))])
    assert torch.equal(gone, optim.zero)


@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_zero_groups_stay_zero_through_momentum_decay_saving_and_resuming(base: str) -> None:
    net = made()
    optim = optimiser(net, base)
    train(net, optim, range(20))
    zero = optim.zero.clone()
    assert optim.reached and zero.any()
    buffer = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimiser": optim.state_dict()}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    again = made(seed=9)
    resumed = optimiser(again, base)
    again.load_state_dict(state["net"])
    resumed.load_state_dict(state["optimiser"])
    assert torch.equal(resumed.zero, zero) and resumed.reached and resumed.kept() == optim.kept()
    for step in range(20, 32):
        # Gradients of the loss, and then some that push every group away from zero.
        for n, o in ((net, optim), (again, resumed)):
            if step < 26:
                train(n, o, range(step, step + 1))
            else:
                foreign_gradients(n, step)
                o.step()
        assert all(not x.any() for x in rows(again, resumed, zero))
        assert torch.equal(resumed.zero, zero)
    for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cut", [3, 5, 6, 7])
def test_resumed_before_at_and_after_the_choice_it_goes_on_as_if_uninterrupted(cut: int) -> None:
    whole = made()
    optim = optimiser(whole, lmbda=0.3)
    train(whole, optim, range(14))
    first = made()
    begun = optimiser(first, lmbda=0.3)
    train(first, begun, range(cut))
    second = made(seed=4)
    resumed = optimiser(second, lmbda=0.3)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(begun.state_dict())
    train(second, resumed, range(cut, 14))
    assert resumed.steps == optim.steps == 14
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_learning_rate_schedulers_work_and_leave_lambda_alone() -> None:
    net = made()
    optim = optimiser(net, "sgd", half_space=False, start=2)
    scheduler = torch.optim.lr_scheduler.StepLR(optim, step_size=3, gamma=0.1)
    seen = []
    for step in range(9):
        train(net, optim, range(step, step + 1))
        scheduler.step()
        seen.append((optim.base.param_groups[0]["lr"], optim.weight))
    assert [lr for lr, _ in seen] == pytest.approx([0.05] * 2 + [0.005] * 3 + [5e-4] * 3 + [5e-5])
    assert [w for _, w in seen[:2]] == [None, None] and len({w for _, w in seen[2:]}) == 1


def test_automatic_lambda_is_a_share_of_the_median_norm() -> None:
    w, optim = single([[4.0], [2.0], [800.0], [7.0], [100.0], [200.0]], lr=0.5, salience="magnitude")
    w.grad = torch.zeros_like(w)
    optim.step()
    assert optim.redundant is not None
    assert optim.redundant.tolist() == [True, True, False, True, False, False]
    assert optim.weight == pytest.approx(0.075 * 4.0 / 0.5)
    assert optim.zero.tolist() == [True, True, False, False, False, False]  # 4 and 2 lose more than 5 %


def test_zero_groups_make_their_channels_zero() -> None:
    net = made()
    optim = optimiser(net)
    train(net, optim, range(30))
    net.eval()
    seen: dict[str, Tensor] = {}
    net.norm1.register_forward_hook(lambda m, i, o: seen.__setitem__("inner", o))
    net.conv3.register_forward_pre_hook(lambda m, i: seen.__setitem__("trunk", i[0]))
    net.norm4.register_forward_hook(lambda m, i, o: seen.__setitem__("fourth", o))
    net(batch(99)[0])
    kept = optim.kept()
    for name, out in seen.items():
        alive = out.abs().amax((0, 2, 3)) > 0
        gone = [g for g in range(out.shape[1]) if g not in kept[name]]
        assert not alive[gone].any()
    assert sum(len(k) for k in kept.values()) < optim.numbers


def test_closure_is_evaluated_with_gradients() -> None:
    net = made()
    optim = optimiser(net)
    x, y = batch(0)

    def closure() -> Tensor:
        optim.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    first = optim.step(closure)
    assert optim.step(closure) < first


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0.0}, "target=0.0: must be between 0 and 1"),
        ({"target": 1.0}, "target=1.0: must be between 0 and 1"),
        ({"start": -1}, "start=-1: must be a number of steps"),
        ({"epsilon": 1.0}, "epsilon=1.0: must be at least 0 and below 1"),
        ({"tolerance": -0.1}, "tolerance=-0.1: must be at least 0"),
        ({"group_divisible": 0}, "group_divisible=0: must be an integer"),
        ({"salience": "l2"}, "salience=l2: known are"),
        ({"lmbda": 0.0}, "lmbda=0.0: must be a positive number or auto"),
        ({"lmbda": "big"}, "lmbda=big: must be a positive number or auto"),
        ({"lmbda_amplify": 0.5}, "lmbda_amplify=0.5"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimiser(made(), **options)


def test_bad_optimisers_and_partitions_are_refused_by_name() -> None:
    net = made()
    named = list(net.named_parameters())
    with pytest.raises(ValueError, match=r"base=RMSprop: must be torch\.optim\.SGD, Adam or AdamW"):
        DHSPG(torch.optim.RMSprop(net.parameters()), named, partition(net), 0.5, 1)
    with pytest.raises(ValueError, match="maximize=True"):
        DHSPG(SGD(net.parameters(), lr=0.1, maximize=True), named, partition(net), 0.5, 1)
    with pytest.raises(ValueError, match=r"base: does not optimise .*norm"):
        convs = [p for n, p in named if "norm" not in n]
        DHSPG(SGD(convs, lr=0.1), named, partition(net), 0.5, 1)
    with pytest.raises(ValueError, match=r"named_parameters: no stem\.weight, which component trunk holds"):
        DHSPG(SGD(net.parameters(), lr=0.1), named[1:], partition(net), 0.5, 1)
    whole = Partition((Component("output", 3, (), prunable=False, reason="emits the output"),))
    with pytest.raises(ValueError, match=r"no component can be pruned \(output: emits the output\)"):
        DHSPG(SGD(net.parameters(), lr=0.1), named, whole, 0.5, 1)
    trunk = partition(net).components[0]
    with pytest.raises(ValueError, match=r"entries of stem\.weight.* belong to two groups"):
        DHSPG(SGD(net.parameters(), lr=0.1), named, Partition((trunk, trunk)), 0.5, 1)


def test_states_of_others_are_refused() -> None:
    net = made()
    optim = optimiser(net)
    with pytest.raises(ValueError, match="no entry groups; it is not of DHSPG"):
        optim.load_state_dict(SGD(net.parameters(), lr=0.1).state_dict())
    wide = Net((8, 5, 8, 7))
    with pytest.raises(ValueError, match="of 28 groups, the partition has 26"):
        optim.load_state_dict(optimiser(wide).state_dict())


def test_automatic_lambda_needs_a_learning_rate() -> None:
    w, optim = single([[1.0], [2.0]], lr=0.0)
    w.grad = torch.zeros_like(w)
    with pytest.raises(
        ValueError, match=r"lmbda=auto: the learning rate is 0\.0 in step 0, must be positive"
    ):
        optim.step()


def test_a_target_out_of_reach_is_said() -> None:
    net = made()
    optim = optimiser(net, target=0.9, start=0, group_divisible=4)
    with pytest.warns(UserWarning, match=r"target=0\.9: only \d+ of 26 groups can go"):
        train(net, optim, range(1))
