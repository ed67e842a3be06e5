"""The loop that papers share: selection, exact resumption, streams of its own."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from fairsweep.trainables.base import Metric, Setting, Tiny, Unsuited
from fairsweep.trainables.tasks.training import Mean, NetworkPaper, cosine_factor


class Noisy(NetworkPaper):
    """Draws from every stream that a paper may draw from; its validation values follow a script."""

    slug, title, citation, task, datasets = "noisy", "Noisy", "none", "test", ("none",)
    metrics = (
        Metric("val", "max", "validation"),
        Metric("test", "max", "test"),
        Metric("noise", "max", "train"),
    )
    objective = "val"
    tiny = Tiny("none", 4)
    default_steps = 6
    carried = ("seen",)
    script = [9.0, 1.0, 3.0, 2.0, 3.0, 1.0]

    @classmethod
    def minimum(cls, config: Any, steps: int) -> int:
        return 2

    def prepare(self) -> None:
        self.net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.seen: list[float] = []

    def epoch(self) -> dict[str, float]:
        assert self.net.training
        loss = self.net(torch.randn(2, 3)).square().sum() + float(self.rng.numpy.random())
        self.descend(loss)
        self.seen = [*self.seen, loss.item()]
        return {"val": self.script[self.done], "noise": sum(self.seen)}

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        assert not net.training and net is not self.net
        return {"test": float(net(torch.randn(5, 3)).sum())}


def start(seed: int = 0, steps: int | None = None) -> Noisy:
    paper = Noisy()
    paper.setup({}, Setting(seed=seed, steps=steps))
    return paper


def test_the_best_weights_are_those_of_the_first_best_value_from_the_minimum_on() -> None:
    paper = start()
    weights = []
    while not paper.finished:
        paper.step()
        weights.append(paper.net[0].weight.detach().clone())
    assert paper.done == 6 and paper.best is not None
    assert (paper.best["value"], paper.best["step"]) == (3.0, 3), (
        "not the 9 of before the minimum, not the later 3"
    )
    assert torch.equal(paper.best["weights"]["0.weight"], weights[2])
    tested = paper.test()
    paper.net.load_state_dict(paper.best["weights"])
    paper.best = None
    assert paper.test() == tested
    assert not torch.equal(weights[2], weights[5])


def test_data_that_do_not_suit_a_configuration_are_refused_before_they_are_read() -> None:
    class Picky(Noisy):
        @classmethod
        def unsuited(cls, config: Any, data: str, data_dir: Any) -> str | None:
            return f"{config['size']} x {config['size']} similarities" if config else None

        def prepare(self) -> None:
            raise AssertionError("reads its data")

    with pytest.raises(Unsuited, match=r"^data=none: noisy: 9 x 9 similarities$"):
        Picky().setup({"size": 9}, Setting())
    with pytest.raises(AssertionError):
        Picky().setup({}, Setting())


def test_before_the_minimum_the_current_weights_are_tested() -> None:
    paper = start()
    paper.step()
    assert paper.best is None and math.isfinite(paper.test()["test"])


@pytest.mark.parametrize("cut", range(1, 6))
def test_resumed_at_any_step_it_goes_on_bit_for_bit(cut: int) -> None:
    whole = start()
    rows = [whole.step() for _ in range(6)]
    first, second = start(), start()
    for _ in range(cut):
        first.step()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    first.step()  # what was saved does not change with the live state
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert second.done == cut
    assert [second.step() for _ in range(6 - cut)] == rows[cut:]
    assert second.test() == whole.test()


def test_streams_are_its_own_and_a_test_draws_from_none_of_them() -> None:
    alone = start()
    rows = [alone.step() for _ in range(4)]
    paper, before = start(), torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), before)
    mixed = []
    for _ in range(4):
        torch.rand(3)
        mixed.append(paper.step())
        assert paper.test() == paper.test()
    assert mixed == rows
    assert [start(seed=1).step()] != rows[:1]


def test_budgets_below_the_minimum_are_allowed() -> None:
    assert Noisy.fidelity({}, 1).minimum == 1
    assert (Noisy.fidelity({}).minimum, Noisy.fidelity({}).maximum) == (2, 6)
    paper = start(steps=1)
    paper.step()
    assert paper.finished and paper.best is not None


def test_gradients_are_clipped_to_the_global_norm() -> None:
    paper = start()
    paper.optimiser = torch.optim.SGD(paper.net.parameters(), lr=1.0)
    for clip, length in ((0.5, 0.5), (None, 12.0)):
        before = [p.detach().clone() for p in paper.net.parameters()]
        loss = 12 * next(paper.net.parameters())[0, 0] + 0 * sum(p.sum() for p in paper.net.parameters())
        paper.descend(loss, clip)
        moved = [p.detach() - b for p, b in zip(paper.net.parameters(), before, strict=True)]
        assert float(torch.stack([m.square().sum() for m in moved]).sum().sqrt()) == pytest.approx(length)


def test_mean_is_weighted_and_refuses_to_be_of_nothing() -> None:
    mean = Mean()
    with pytest.raises(ValueError, match="no batch"):
        _ = mean.value
    parameter = torch.tensor(2.0, requires_grad=True)
    mean.add(parameter * 2, 3)
    mean.add(8.0)
    assert mean.value == 5.0
    assert not mean.total.requires_grad  # type: ignore[union-attr]


def test_cosine_with_and_without_warmup() -> None:
    assert [cosine_factor(e, 4) for e in range(4)] == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    warm = [cosine_factor(e, 300, 5) for e in range(300)]
    assert warm[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert warm[5] == pytest.approx(0.5 * (1 + math.cos(math.pi / 296)))
    assert all(b < a for a, b in itertools.pairwise(warm[4:]))
