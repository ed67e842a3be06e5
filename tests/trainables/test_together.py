"""Two processes that train one trial: with the same global batch they come to the same loss as one, step by step.

What is random for each example within the network (dropout, dropped paths and edges) is drawn otherwise by each, so it
is off here; everything else is as it is in one process, batch normalisation too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables import catalog
from fairsweep.trainables.base import Setting
from fairsweep.trainables.tasks.training import Mean, NetworkPaper
from fairsweep.trainables.tasks.workers import ProcessGroup, Workers, batch_moments, batch_sum, workers
from tests.trainables.configurations import paper_config
from tests.trainables.two_workers import in_two

EXAMPLES = 105  # of the training part: the last of its batches of 34 has three, too few to be shared
SIZE = {"batch_size": 34}
TOLERANCE = 1e-4  # of each metric of each step, relative: sums in another order, over three steps of training

FULL = {"weight_mode": "fp", "activations": "full"}
UNET = {
    "model": "unet",
    "optimiser": "sgd",
}  # AdamW makes steps of what is 0 but for rounding: biases before a norm
# name: paper, data set, settings
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "biper": ("biper", "digits", {**FULL, "augmentation": "crop_flip", "lr1": 0.001}),
    "dual_head_kd": ("dual_head_kd", "digits300", {"align": True, "student": "cnn", "teacher_epochs": 1}),
    "att_swin_unet": ("att_swin_unet", "synthetic_lesions_small", {**UNET, "dice_weight": 0.6}),
    "dual_hypergraph": ("dual_hypergraph", "digits_pixels", {"dropout": 0.0, "hidden": 16}),
    "edges": ("dual_hypergraph", "digits_pixels", {"model": "hypercluster", "hidden": 16}),
    "diffusion_gahb": ("diffusion_gahb", "digits", {"blocks": 1, "sampler_iterations": 1}),
    "oto_v2": ("oto_v2", "digits300", {"start_pruning_frac": 0.0, "augmentation": "crop"}),
    "oto_v3": ("oto_v3", "digits300", {"warmup_frac": 0.3}),
    "multi_output_deblur": ("multi_output_deblur", "digits_simulated_motion_small", {"augment": True}),
    "nasnet": ("nasnet", "digits", {"drop_path": "none", "filters": 4}),
    "standalone": ("standalone", "digits", {}),
    "swin": ("att_swin_unet", "synthetic_lesions_small", {"drop_path": 0.0, "batch_size": 17}),
    "binary": ("biper", "digits", {"weight_mode": "biper", "lr1": 0.001, "lr2": 0.001}),
}
# Steps that are compared. NASNet at its own step size: one process whose weights are changed by 1e-7 is .4 % of the
# loss away from itself after the second, too, as the two workers are; after the first one (four batches) it is 1e-7.
COMPARED = {"nasnet": 1}
QUICK = ("biper", "dual_head_kd", "edges")


def trial(case: str, steps: int = 3) -> NetworkPaper:
    slug, data, changes = CASES[case]
    paper = catalog.get(slug)()
    assert isinstance(paper, NetworkPaper)
    paper.setup(paper_config(slug, data, **SIZE | changes), Setting(seed=3, data=data, steps=steps))
    task: Any = getattr(paper, "data", None)
    train = task.parts["train"] if hasattr(task, "parts") else None
    if isinstance(train, tuple):
        task.parts = {**task.parts, "train": tuple(tensor[:EXAMPLES] for tensor in train)}
    elif isinstance(train, Tensor):
        task.parts = {**task.parts, "train": train[:EXAMPLES]}
    return paper


def trained(case: str) -> dict[str, Any]:
    """Metrics of three steps and the test, the state after them, and that of a trial that went on from the second."""
    paper = trial(case)
    rows = [paper.step(), paper.step()]
    states = [paper.state_dict()]
    if dist.is_initialized():
        dist.broadcast_object_list(states)  # the first one's is what a checkpoint holds
    rows.append(paper.step())
    again = trial(case)
    again.load_state_dict(states[0])
    again.step()
    return {"rows": [*rows, paper.test()], "state": paper.state_dict(), "again": again.state_dict()}


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints are the same to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_what_can_be_trained_together_is_tested_here() -> None:
    can = {slug for slug in catalog.own() if catalog.get(slug).together}
    supernets = {"pa_da", "single_path_nas"}  # whose workers have tests of their own
    assert can == {slug for slug, _, _ in CASES.values()} | supernets


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_two_workers_train_what_one_does(case: str, tmp_path: Path) -> None:
    first, second = in_two(tmp_path, trained, case)
    assert first["rows"] == second["rows"] and same(first["state"], second["state"])
    assert same(first["again"], first["state"]), "it goes on from a checkpoint as if nothing had been"
    alone = trained(case)
    compared = slice(COMPARED.get(case))
    for found, expected in zip(first["rows"][compared], alone["rows"][compared], strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=1e-5)
    assert alone["rows"][0]["train_loss"] != alone["rows"][2]["train_loss"]


# ---- what they exchange ----


class Net(nn.Module):
    """Batch normalisation between linear layers; dropout at the end."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.dropout = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.layers(x)).squeeze(1)


def of_batches(sizes: list[int], drop: float = 0.0) -> dict[str, Any]:
    """Gradients and statistics after each batch of these sizes, their mean loss, and what was drawn between them."""
    torch.manual_seed(0)
    net, group = Net(drop), workers()
    group.begin(7, 0)
    batches = ((torch.randn(n, 3), torch.randn(n)) for n in sizes)  # drawn one by one
    mean, gradients, outputs = Mean(group), [], []
    with group.statistics():
        for x, y in group.shared(batches):
            net.zero_grad()
            found = net(x)
            loss = F.mse_loss(found, y)
            group.backward(loss, net.parameters())
            gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
            outputs.append(found.detach())
            mean.add(loss, len(y))
    return {
        "gradients": gradients,
        "outputs": outputs,
        "buffers": {name: b.clone() for name, b in net.named_buffers()},
        "mean": mean.value,
        "after": torch.rand(3),
    }


SIZES = [9, 2, 3, 8]  # two and three examples are too few for two workers


def test_gradients_statistics_and_means_are_those_of_whole_batches(tmp_path: Path) -> None:
    both, alone = in_two(tmp_path, of_batches, SIZES), of_batches(SIZES)
    assert [[len(o) for o in worker["outputs"]] for worker in both] == [[5, 2, 3, 4], [4, 2, 3, 4]]
    for worker in both:
        for found, expected in zip(worker["gradients"], alone["gradients"], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(worker["buffers"], alone["buffers"], atol=1e-6, rtol=1e-5)
        assert worker["mean"] == pytest.approx(alone["mean"], rel=1e-5)
    assert alone["buffers"]["layers.1.running_var"].sub(1).abs().max() > 0.05


def test_each_draws_its_own_dropout_and_nothing_else_depends_on_it(tmp_path: Path) -> None:
    first, second = in_two(tmp_path, of_batches, [48, 48, 48], 0.5)
    dropped = [[(o == 0).tolist() for o in worker["outputs"]] for worker in (first, second)]
    masks = {tuple(mask) for worker in dropped for mask in worker}
    assert len(masks) == 6, "of two workers and three batches no two are alike"
    without = of_batches([48, 48, 48])
    assert torch.equal(first["after"], without["after"]) and torch.equal(second["after"], without["after"])


def moments() -> dict[str, Any]:
    torch.manual_seed(1)
    whole, found = torch.randn(7, 2, 3) + 100, {}
    group = workers()
    for x in group.shared([whole]):
        x = x.clone().requires_grad_()
        mean, variance, count = batch_moments(x, (0, 2))
        total = batch_sum(x.square().sum())
        group.backward((mean * variance).sum() + total.sqrt(), [])
        found = {"mean": mean.detach(), "variance": variance.detach(), "count": count, "grad": x.grad}
    return found


def test_moments_of_a_batch_have_the_gradients_of_the_whole(tmp_path: Path) -> None:
    first, second = in_two(tmp_path, moments)
    alone = moments()
    for worker in (first, second):
        assert worker["count"] == alone["count"] == 21
        torch.testing.assert_close(worker["mean"], alone["mean"])
        torch.testing.assert_close(worker["variance"], alone["variance"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.cat([first["grad"], second["grad"]]), alone["grad"], rtol=1e-3, atol=1e-4
    )


def test_one_process_alone_exchanges_nothing_and_draws_as_it_did() -> None:
    group, batches = workers(), [torch.arange(5), torch.arange(1)]
    assert type(group) is Workers and not isinstance(group, ProcessGroup)
    before = torch.get_rng_state()
    assert [len(b) for b in group.shared(batches)] == [5, 1]
    assert torch.equal(before, torch.get_rng_state())
    paper = catalog.get("dual_hypergraph")
    assert paper.undivided({}, "cora") == "data=cora is one graph, which has no batches to share"
    assert paper.undivided({}, "digits_pixels") is None
