"""Importance of examples: the indicator against autograd, the running mean of visits, the theorem on variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fairsweep.trainables.tasks.data_sampling import ImportanceData, UniformData, logit_gradient_norm
from fairsweep.trainables.tasks.workers import Workers
from tests.trainables.toy_supernet import ToySupernet, batch_for

torch.set_num_threads(1)
ALONE = Workers()


def recorded(rule: ImportanceData, visits: list[tuple[int, float]], batch: int = 3) -> ImportanceData:
    """Records (example, norm) in this order, in batches."""
    for start in range(0, len(visits), batch):
        part = visits[start : start + batch]
        rule.record(
            torch.arange(start, start + len(part)),
            torch.tensor([i for i, _ in part]),
            torch.tensor([d for _, d in part]),
        )
    return rule


# ---- the indicator ----


def test_indicator_is_the_norm_of_the_loss_gradient_at_the_logits() -> None:
    z = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    y = torch.arange(50) % 7
    (gradient,) = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), z)
    found = logit_gradient_norm(z, y)
    torch.testing.assert_close(found, gradient.norm(dim=1))
    assert ((found > 0) & (found < math.sqrt(2))).all()


def test_indicator_at_its_ends() -> None:
    sure = torch.tensor([[1e4, 0.0, 0.0]])
    assert logit_gradient_norm(sure, torch.tensor([0])).item() == 0
    assert logit_gradient_norm(sure, torch.tensor([1])).item() == pytest.approx(math.sqrt(2))
    assert logit_gradient_norm(torch.zeros(1, 2), torch.tensor([1])).item() == pytest.approx(math.sqrt(0.5))


# ---- probabilities ----


def test_visits_of_an_epoch_are_halved_into_one_another_in_their_order() -> None:
    rule = recorded(ImportanceData(5), [(3, 0.8), (1, 0.4), (3, 0.2), (0, 1.0), (3, 1.0)])
    # 3: 0.8 -> (0.8 + 0.2)/2 -> (0.5 + 1.0)/2
    assert rule.importance(ALONE) == pytest.approx([1.0, 0.4, 0.0, 0.75, 0.0])


def test_running_mean_weighs_as_told() -> None:
    rule = recorded(ImportanceData(2, ema=0.25), [(0, 0.8), (0, 0.4)])
    assert rule.importance(ALONE)[0] == pytest.approx(0.75 * 0.8 + 0.25 * 0.4)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.975])
def test_probabilities_sum_to_one_and_are_bounded(share: float) -> None:
    rule = recorded(ImportanceData(4), [(0, 0.1), (1, 0.3), (2, 0.6)])
    rule.end_epoch(share, ALONE)
    assert rule.probabilities.sum() == pytest.approx(1)
    assert rule.probabilities == pytest.approx(share * np.array([0.1, 0.3, 0.6, 0]) + (1 - share) / 4)
    assert rule.probabilities.min() == pytest.approx((1 - share) / 4)


def test_share_of_zero_is_exactly_uniform() -> None:
    rule = recorded(ImportanceData(3), [(0, 0.1), (1, 0.3)])
    rule.end_epoch(0.0, ALONE)
    assert set(rule.probabilities.tolist()) == {1 / 3}


def test_first_epoch_sees_each_example_once_and_later_ones_draw_with_replacement() -> None:
    torch.manual_seed(0)
    rule = ImportanceData(1000)
    assert sorted(rule.order().tolist()) == list(range(1000))
    recorded(rule, [(i, 1.0 if i < 100 else 0.0) for i in range(1000)], batch=64)
    rule.end_epoch(1.0, ALONE)
    order = rule.order()
    assert len(order) == 1000 and set(order.tolist()) <= set(range(100))
    counts = np.bincount(order.numpy(), minlength=100)[:100]
    assert counts.max() > 10 and counts.mean() == 10


def test_importance_and_uniform_draw_the_same_first_epoch() -> None:
    torch.manual_seed(5)
    a = UniformData(100).order()
    torch.manual_seed(5)
    assert torch.equal(ImportanceData(100).order(), a)


def test_epochs_do_not_mix() -> None:
    rule = recorded(ImportanceData(2), [(0, 0.5)])
    rule.end_epoch(1.0, ALONE)
    recorded(rule, [(1, 0.5)])
    rule.end_epoch(1.0, ALONE)
    assert rule.probabilities.tolist() == [0, 1]


def test_state_goes_on() -> None:
    rule, again = ImportanceData(50), ImportanceData(50)
    recorded(rule, [(i, i / 50) for i in range(50)]).end_epoch(0.9, ALONE)
    again.load_state_dict(rule.state_dict())
    orders = []
    for r in (rule, again):
        torch.manual_seed(2)
        orders.append(r.order())
    assert torch.equal(*orders)
    assert UniformData(3).state_dict() == {}


# ---- theory ----


def gradients(net: ToySupernet) -> torch.Tensor:
    """The gradient of every example of a fixed path at all weights: (examples, weights)."""
    x, y = batch_for(net, 40)
    path = net.space.architecture((3, 2, 3))
    rows = []
    for i in range(len(y)):
        net.zero_grad(set_to_none=True)
        F.cross_entropy(net(x[i : i + 1], path), y[i : i + 1]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    return torch.stack(rows).double()


def test_second_moment_of_the_reweighted_gradient_is_least_under_importance() -> None:
    g = gradients(ToySupernet())
    norms = g.norm(dim=1).numpy()
    n = len(norms)

    def second_moment(q: np.ndarray) -> float:
        return float((q * (norms / (n * q)) ** 2).sum())

    best, uniform = norms / norms.sum(), np.full(n, 1 / n)
    assert second_moment(best) == pytest.approx(norms.mean() ** 2)
    assert second_moment(uniform) == pytest.approx((norms**2).mean())
    assert second_moment(best) < 0.98 * second_moment(uniform)
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert second_moment(rng.dirichlet(np.ones(n))) > second_moment(best)
    # The rule's own distribution, half of it importance, lies between; and its weights keep the mean.
    rule = recorded(ImportanceData(n), list(enumerate(norms.tolist())))
    rule.end_epoch(0.5, ALONE)
    assert second_moment(best) < second_moment(rule.probabilities) < second_moment(uniform)
    weights = rule.weights(torch.arange(n)).double().numpy()
    mean = (rule.probabilities[:, None] * weights[:, None] * g.numpy()).sum(0)
    assert mean == pytest.approx(g.mean(0).numpy(), abs=1e-6)


def test_uniform_data_has_no_weights() -> None:
    assert UniformData(5).weights(torch.arange(5)) is None
