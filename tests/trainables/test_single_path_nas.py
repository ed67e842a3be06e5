"""Single-Path NAS: what the search descends, when, and what it hands over at the end."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from torch import nn

from fairsweep.search_spaces.normalisation import keep_running_statistics
from fairsweep.search_spaces.space import Space
from fairsweep.search_spaces.supernets.mbconv import MBConvSupernet
from fairsweep.search_spaces.supernets.runtime import RuntimeModel
from fairsweep.trainables import catalog
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.nas.single_path_nas import SinglePathNAS
from fairsweep.trainables.tasks.workers import ProcessGroup, Workers, workers

torch.set_num_threads(1)


def config(data: str = "digits", **changes: Any) -> dict[str, Any]:
    """The paper's configuration for `data` with `changes`, completed and validated by the space."""
    declared = Space.load("single_path_nas")
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.for_data(data).validate(space.paper_config(data))


def trial(steps: int = 4, seed: int = 0, data_dir: Path | None = None, **changes: Any) -> SinglePathNAS:
    """Set up on the smallest data: 300 training images."""
    paper = SinglePathNAS()
    setting = Setting(seed=seed, steps=steps, data="digits300", data_dir=data_dir)
    paper.setup(config("digits300", **changes), setting)
    return paper


def batch(paper: SinglePathNAS, n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = paper.data.parts["train"]
    return paper.data.standardise(x[:n]), y[:n]


def gradients(paper: SinglePathNAS) -> list[torch.Tensor]:
    """Of the loss of the first batch, in all parameters; the same dropout every time."""
    torch.manual_seed(0)
    paper.net.zero_grad()
    paper.losses(*batch(paper))[0].backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in paper.net.parameters()]


def difference(first: SinglePathNAS, second: SinglePathNAS) -> float:
    return max((a - b).abs().max().item() for a, b in zip(gradients(first), gradients(second), strict=True))


# ---- the loss ----


def test_the_catalogue_finds_it() -> None:
    assert catalog.get("single_path_nas") is SinglePathNAS


def test_runtime_has_no_part_in_the_warm_up() -> None:
    with_term, without = trial(lmbda=100.0), trial(runtime_term=False)
    assert with_term.warming_up and difference(with_term, without) == 0
    with_term.done = without.done = 2
    assert not with_term.warming_up and difference(with_term, without) > 1e-3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"warmup_frac": 0.5}, 8),  # 3 epochs of 5 batches: 7.5
        ({"warmup_frac": 0.2}, 3),
        ({"warmup_frac": 0.8}, 10),  # the last epoch is a search
        ({"warmup_frac": 0.5, "threshold_data": "held_out"}, 4),  # of 3 batches
    ],
)
def test_the_warm_up_ends_within_an_epoch(changes: dict[str, Any], expected: int) -> None:
    paper = trial(steps=3, **changes)
    seen: list[bool] = []
    inner = paper.losses

    def losses(x: torch.Tensor, y: torch.Tensor) -> Any:
        seen.append(paper.warming_up)
        return inner(x, y)

    paper.losses = losses  # type: ignore[method-assign]
    while not paper.finished:
        paper.step()
    if paper.halves is not None:
        seen = seen[::2]
    assert len(seen) == 3 * paper.batches and seen == sorted(seen, reverse=True)
    assert sum(seen) == expected
    assert SinglePathNAS.minimum(config("digits300", **changes), 3) == expected // paper.batches + 1


def test_after_the_warm_up_the_loss_is_cross_entropy_and_lambda_log_r() -> None:
    paper = trial(lmbda=3.0)
    paper.done = 2
    loss, ce = paper.losses(*batch(paper))
    largest = 361888  # multiply-accumulates of k5_e6 everywhere
    assert (loss - ce).item() == pytest.approx(3 * torch.tensor(float(largest)).log().item(), rel=1e-6)
    paper.config["runtime_term"] = False
    loss, ce = paper.losses(*batch(paper))
    assert loss is ce


def test_runtime_part_of_the_gradient_is_that_of_log_r_alone() -> None:
    """d(lambda log R)/dt = -lambda / R * sigmoid'(norm - t) * dR/dd, for a gate with nothing behind it."""
    paper, without = trial(lmbda=2.0), trial(runtime_term=False)
    paper.done = without.done = 2
    gradients(paper), gradients(without)
    for k, (block, plain) in enumerate(zip(paper.net.blocks, without.net.blocks, strict=True)):
        margin = block.decide()[1]["e6"].item()
        s = torch.sigmoid(torch.tensor(margin, dtype=torch.float64)).item()
        _, _, p53, p56 = paper.runtime.layers[k].tolist()
        expected = -2.0 / 361888 * s * (1 - s) * (p56 - p53)
        found = (block.thresholds.grad - plain.thresholds.grad)[2].item()
        assert found == pytest.approx(expected, rel=1e-3)


def test_dropout_on_gates_is_of_the_warm_up_only() -> None:
    paper = trial()
    seen: list[float] = []
    inner = paper.net.gates

    def gates(keep: float = 1.0) -> Any:
        seen.append(keep)
        return inner(keep)

    paper.net.gates = gates  # type: ignore[method-assign]
    paper.losses(*batch(paper))
    paper.done = 2
    paper.losses(*batch(paper))
    assert seen == [0.6, 1.0]


def test_a_large_lambda_shrinks_the_network_and_none_does_not() -> None:
    big = trial(steps=4, lmbda=30.0, warmup_frac=0.2, threshold_lr_mult=3.0)
    none = trial(steps=4, runtime_term=False)
    while not big.finished:
        row, other = big.step(), none.step()
    assert row["cost"] < 0.5 * other["cost"] == 0.5 * 361888
    assert other["dead_gates"] == 0


def test_thresholds_of_l2_norms_do_not_move() -> None:
    """The norm's square lies where the sigmoid is flat: the reason why rms is the default here."""
    paper = trial(steps=2, norm="l2sq", lmbda=10.0, warmup_frac=0.2)
    while not paper.finished:
        row = paper.step()
    assert row["dead_gates"] > 0.9 and row["cost"] == 361888
    assert max(t.abs().max().item() for t in paper.net.structure_parameters()) < 1e-2


# ---- optimiser ----


def test_groups_of_the_optimiser() -> None:
    paper = trial(threshold_lr_mult=4.0, weight_decay=1e-4)
    weights, norms, thresholds = paper.optimiser.param_groups
    paper.set_learning_rate(paper.rate())
    assert [g["lr"] for g in paper.optimiser.param_groups] == pytest.approx([0.05, 0.05, 0.2])
    assert [g["weight_decay"] for g in (weights, norms, thresholds)] == [1e-4, 0.0, 1e-4]
    assert [p.shape for p in thresholds["params"]] == [(3,)] * 4
    assert sum(len(g["params"]) for g in paper.optimiser.param_groups) == len(list(paper.net.parameters()))
    paper = trial(optimiser="rmsprop")
    assert isinstance(paper.optimiser, torch.optim.RMSprop)
    assert paper.optimiser.param_groups[0]["momentum"] == paper.optimiser.param_groups[0]["alpha"] == 0.9


def test_schedules() -> None:
    rates = {}
    for schedule in ("exponential", "cosine", "constant"):
        paper = trial(steps=8, schedule=schedule)
        rates[schedule] = []
        for paper.done in range(8):
            rates[schedule].append(paper.rate() / 0.05)
    assert rates["exponential"] == pytest.approx([0.97**k for k in (0, 0, 0, 1, 1, 2, 2, 2)])
    assert rates["constant"] == [1] * 8 and rates["cosine"][0] == 1 and rates["cosine"][7] < 0.05


def test_held_out_thresholds_learn_on_images_that_the_weights_do_not_see() -> None:
    paper = trial(threshold_data="held_out")
    assert paper.halves is not None
    one, two = (half.parts["train"] for half in paper.halves)
    together = {x.numpy().tobytes() for x in paper.data.parts["train"][0]}
    first, second = ({x.numpy().tobytes() for x in part[0]} for part in (one, two))
    assert len(one[1]) == len(two[1]) == 150 and first | second == together and not first & second
    assert (one[1].bincount() - two[1].bincount()).abs().max() <= 1

    x, y = batch(paper)
    before = [p.detach().clone() for p in paper.net.parameters()]
    structure = {id(p) for p in paper.net.structure_parameters()}

    def changed() -> list[bool]:
        found = []
        for p, old in zip(paper.net.parameters(), before, strict=True):
            found.append((id(p) in structure, not torch.equal(p, old)))
            old.copy_(p.detach())
        return [s for s, moved in found if moved]

    paper.set_learning_rate(0.05)
    paper._update(paper.losses(x, y)[0], "weights")
    assert not any(moved := changed()) and moved
    paper._update(paper.losses(x, y)[0], "thresholds")
    assert all(moved := changed()) and moved
    paper._update(paper.losses(x, y)[0])
    assert {True, False} == set(changed())


# ---- what is found ----


def test_accuracy_is_of_the_derived_network_with_statistics_of_its_own() -> None:
    paper = trial(steps=3)
    row = [paper.step() for _ in range(3)][-1]
    module = paper.inherited(paper.net)
    assert not module.training and not any(isinstance(m, MBConvSupernet) for m in module.modules())
    assert paper.data.evaluate(module, "validation")[1] == row["val_accuracy"]
    norm = module.get_submodule("stem.norm")
    with torch.no_grad():
        x, _ = paper.data.parts["train"]
        means = [
            module.get_submodule("stem.conv")(paper.data.standardise(part)).mean((0, 2, 3))
            for part in x.split(64)[:-1]
        ]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), atol=1e-5, rtol=1e-4)
    tests = paper.test()
    assert tests["test_cost"] == row["cost"] == paper.runtime.of_path(paper.architecture())


def test_the_last_epoch_decides_and_not_the_most_accurate() -> None:
    paper = trial(steps=3, warmup_frac=0.2)
    for _ in range(2):
        paper.step()
        assert paper.best is None
    paper.step()
    assert paper.best is not None and paper.best["step"] == paper.kept_step == 3
    assert SinglePathNAS.fidelity(config(), 16).minimum == 9
    assert SinglePathNAS.fidelity(config("cifar10"), 8).minimum == 6


def test_architecture_has_a_text() -> None:
    paper = trial(steps=2)
    paper.net.structure_parameters()[2].data[1] = 10.0
    assert paper.net.space.format(paper.architecture()) == "k5_e6/k5_e6-skip-k5_e6"


@pytest.mark.parametrize(
    "changes",
    [
        {"relaxation": "branches"},
        {"threshold_data": "held_out"},
        {"gate_site": "kernel", "norm": "l2"},
        {"indicator_keep": 1.0, "cost": "params"},
        {"optimiser": "rmsprop", "schedule": "cosine"},
    ],
)
def test_baselines_and_ablations_train(changes: dict[str, Any]) -> None:
    paper = trial(steps=2, **changes)
    rows = [paper.step() for _ in range(2)]
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert paper.test()["test_cost"] > 0


def test_branches_follow_the_expected_cost() -> None:
    paper = trial(relaxation="branches", lmbda=100.0, threshold_lr_mult=10.0, warmup_frac=0.2, steps=3)
    while not paper.finished:
        row = paper.step()
    assert paper.net.space.format(paper.architecture()) == "k3_e3/k3_e3-skip-skip"
    assert row["cost"] == 4768 + 38400 + 21888


# ---- costs ----


def test_cost_from_a_file(tmp_path: Path) -> None:
    table = {str(k): {"0": 1.0, "1": 2.0, "2": 1.5, "3": 3.0} for k in range(4)}
    (tmp_path / "runtime.json").write_text(json.dumps({"fixed": 5.0, **table}))
    paper = trial(cost="table", data_dir=tmp_path)
    assert paper.runtime.of_path(paper.architecture()) == 5 + 4 * 3
    with pytest.raises(DataError, match=r"cost=table: data_dir is None; give a folder with runtime.json"):
        trial(cost="table")
    with pytest.raises(ValueError, match=r"cost=table: .*runtime.json is missing"):
        trial(cost="table", data_dir=tmp_path / "elsewhere")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the latency table is kept; workers inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRSWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_searches_of_a_machine_share_a_latency_table_that_goes_with_the_checkpoint() -> None:
    first, second = trial(cost="latency"), trial(seed=1, cost="latency", lmbda=1.0)
    assert isinstance(first.runtime, RuntimeModel) and (first.runtime.layers > 0).all()
    assert torch.equal(first.runtime.layers, second.runtime.layers)
    assert torch.equal(first.runtime.fixed, second.runtime.fixed)
    second.runtime.layers *= 2
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.runtime.layers, second.runtime.layers)


def test_larger_images_are_halved_by_the_stem() -> None:
    from fairsweep.trainables.nas.single_path_nas import search_network

    assert search_network("superkernel", "laptop", 0, stem_stride=2).config()["stem_stride"] == 2
    assert trial().net.config()["stem_stride"] == 1


# ---- workers ----

BASELINES: dict[str, dict[str, Any]] = {
    "joint": {},
    "held_out": {"threshold_data": "held_out"},
    "branches": {"relaxation": "branches"},
}


class Blank(nn.Module):
    """Dropout that draws a number for each feature of each image, so that larger batches draw more."""

    fewest = 10_000  # images that came at a time

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Blank.fewest = min(Blank.fewest, len(x))
        return x * (torch.rand_like(x) < 0.9) if self.training else x


class Alone(Workers):
    """One process that draws as several do."""

    @contextmanager
    def own_draws(self, device: Any) -> Iterator[None]:
        torch.randint(2**62, ())
        yield


def short(batch_size: int, **changes: Any) -> SinglePathNAS:
    """A trial of two epochs of 102 images, of each half where there are halves."""
    paper = trial(steps=2, batch_size=batch_size, augmentation="crop_flip", **changes)
    for task in (paper.data, *(paper.halves or ())):
        x, y = task.parts["train"]
        task.parts = {**task.parts, "train": (x[:102], y[:102])}
    return paper


def without_statistics(**changes: Any) -> SinglePathNAS:
    """A trial whose network never looks at statistics of the batch."""
    paper = short(batch_size=35, lmbda=3.0, lr=0.005, **changes)
    if paper.workers.size == 1:
        paper.workers = Alone()
    keep_running_statistics(paper.net)
    paper.net.eval()
    paper.net.train = lambda mode=True: paper.net  # type: ignore[method-assign, assignment]
    return paper


def of_one_batch(only: str | None, **changes: Any) -> dict[str, Any]:
    """Loss, cross-entropy and the gradients that a step takes, of 33 images, which two workers share unequally."""
    paper = without_statistics(**changes)
    paper.done = 2
    paper.set_learning_rate(0.0)
    loss, ce = paper.losses(*batch(paper, 33))
    paper._update(loss, only)
    gradients = [None if p.grad is None else p.grad.clone() for p in paper.net.parameters()]
    return {"loss": loss.item(), "ce": ce.item(), "gradients": gradients}


def of_two_epochs(**changes: Any) -> dict[str, Any]:
    """Metrics and weights after a warm-up with dropout on the gates, and a search."""
    paper = without_statistics(**changes)
    rows = [paper.step() for _ in range(2)]
    return {"rows": rows, "weights": [p.detach().clone() for p in paper.net.parameters()]}


def as_usual(**changes: Any) -> dict[str, Any]:
    """Metrics and state of two epochs, and state where the second goes on from the first worker's checkpoint."""

    def made() -> SinglePathNAS:
        paper = short(batch_size=33, **changes)  # the last three images are too few for two
        head: Any = paper.net.head
        head.classifier = nn.Sequential(Blank(), head.classifier)
        return paper

    whole, again = made(), made()
    rows = [whole.step()]
    states = [whole.state_dict()]
    if dist.is_initialized():
        dist.broadcast_object_list(states)
    again.load_state_dict(states[0])
    again.step()
    rows.append(whole.step())
    return {"rows": [*rows, whole.test()], "state": whole.state_dict(), "again": again.state_dict()}


def measured() -> dict[str, Any]:
    """What is compared between two workers and one, by name."""
    found: dict[str, Any] = {}
    for name, changes in BASELINES.items():
        found[f"batch {name}"] = of_one_batch("weights" if name == "held_out" else None, **changes)
        found[f"epochs {name}"] = of_two_epochs(**changes)
    return found


def _worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    usual = {name: as_usual(**changes) for name, changes in BASELINES.items()}
    usual["latency"] = as_usual(cost="latency")
    draws = []
    for _ in range(2):
        with workers().own_draws("cpu"):
            own = torch.rand(3 + rank)
        draws.append((own, torch.rand(2)))
    torch.save({"usual": usual, "draws": draws, "fewest": Blank.fewest, **measured()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two workers have found."""
    folder = tmp_path_factory.mktemp("workers")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_worker, args=(rank, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints are the same to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", [*BASELINES, "latency"])
def test_workers_stay_the_same_and_go_on_from_the_first_ones_checkpoint(
    name: str, both: list[dict[str, Any]]
) -> None:
    first, second = (found["usual"][name] for found in both)
    assert first["rows"] == second["rows"]
    for part in first["state"]["parts"]:
        assert same(first["state"]["parts"][part], second["state"]["parts"][part]), part
    assert same(first["state"], second["state"])
    assert same(first["again"], first["state"]) and same(second["again"], first["state"])
    assert not any("running" in weight for weight in first["state"]["parts"]["net"])


@pytest.mark.parametrize("name", BASELINES)
def test_gradients_of_two_workers_add_up_to_those_of_the_batch(name: str, both: list[dict[str, Any]]) -> None:
    alone = of_one_batch("weights" if name == "held_out" else None, **BASELINES[name])
    first, second = (found[f"batch {name}"] for found in both)
    assert first["ce"] + second["ce"] == pytest.approx(alone["ce"], rel=1e-5)
    assert first["loss"] + second["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert first["loss"] - first["ce"] == pytest.approx((alone["loss"] - alone["ce"]) * 17 / 33, rel=1e-5)
    assert alone["loss"] - alone["ce"] > 10  # lambda log R
    for one, two, whole in zip(first["gradients"], second["gradients"], alone["gradients"], strict=True):
        assert (one is None) == (two is None) == (whole is None)
        if whole is not None:
            assert torch.equal(one, two)
            torch.testing.assert_close(one, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_two_workers_train_what_one_does_but_for_statistics(name: str, both: list[dict[str, Any]]) -> None:
    alone = of_two_epochs(**BASELINES[name])
    for found in (worker[f"epochs {name}"] for worker in both):
        for row, expected in zip(found["rows"], alone["rows"], strict=True):
            assert row == pytest.approx(expected, rel=1e-3)
        for one, whole in zip(found["weights"], alone["weights"], strict=True):
            torch.testing.assert_close(one, whole, atol=1e-4, rtol=1e-3)


def test_workers_draw_apart_within_and_alike_afterwards(both: list[dict[str, Any]]) -> None:
    (own, alike), (later, _) = both[0]["draws"]
    (other, also), _ = both[1]["draws"]
    assert torch.equal(alike, also) and not torch.equal(own, other[:3]) and not torch.equal(own, later)
    assert [found["fewest"] for found in both] == [17, 16], "of 33 images; three are too few for two"


def test_each_worker_needs_two_images_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def group(self: ProcessGroup, device: str) -> None:
        self.rank, self.size = 0, 17

    monkeypatch.setattr(ProcessGroup, "__init__", group)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    with pytest.raises(
        ValueError, match=r"batch_size=32: must be at least 34, two images for each of 17 workers"
    ):
        trial(batch_size=32)
