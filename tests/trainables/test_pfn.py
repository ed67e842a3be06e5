"""PFN: what the paper's equations imply, its distributions, priors with exact answers, tables, and training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.datasets import load_breast_cancer
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import binary_tables
from fairsweep.trainables.tasks import in_context, priors
from fairsweep.trainables.tasks.in_context import Baseline, ContextTask
from fairsweep.trainables.tasks.priors import GaussianProcessPrior, Kernel, NeuralPrior, Sets
from fairsweep.trainables.theory import pfn
from fairsweep.trainables.theory.pfn import PFN, Bars, PriorFitting

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def few_sets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Held-out sets of processes so few that they are answered at once."""
    for part in in_context.GP_SETS:
        monkeypatch.setitem(in_context.GP_SETS, part, 16)
    in_context._held_out.cache_clear()
    yield
    in_context._held_out.cache_clear()


def config(data: str = "synthetic_gp", **overrides: Any) -> dict[str, Any]:
    space = Space.load("pfn")
    every = {
        n: p.value if p.fixed else p.paper.get(data, p.paper["default"]) for n, p in space.parameters.items()
    }
    return space.complete({**every, **overrides})


def trial(seed: int = 0, steps: int = 4, data: str = "synthetic_gp", **overrides: Any) -> PriorFitting:
    made = PriorFitting()
    values = {} if overrides.get("model", "pfn") != "pfn" else {"emsize": 32, "nlayers": 2, "seq_len": 10}
    made.setup(config(data, **{**values, **overrides}), Setting(seed=seed, data=data, steps=steps))
    return made


def network(features: int = 1, outputs: int = 7, trained: bool = True, **overrides: Any) -> PFN:
    made = PFN(features, outputs, config(**{"emsize": 32, "nlayers": 2, **overrides}))
    if trained:  # as after training: no weight is zero
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def points(n: int = 6, queries: int = 4, features: int = 1, batch: int = 3) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, n + queries, features), torch.randn(batch, n)


def bars(count: int = 20, full_support: bool = True) -> Bars:
    return Bars(pfn.equal_mass_borders(torch.randn(20_000), count), full_support)


# ---- the transformer ----


def test_labelled_points_are_a_set() -> None:
    made = network(features=2).double()
    x, y = (values.double() for values in points(features=2))
    order = torch.randperm(6)
    permuted = torch.cat([x[:, order], x[:, 6:]], 1)
    assert (made(permuted, y[:, order]) - made(x, y)).abs().max() < 1e-5
    placed = network(features=2, positional_encoding=True).double()
    assert (placed(permuted, y[:, order]) - placed(x, y)).abs().max() > 1e-3


def test_a_query_does_not_see_the_others() -> None:
    x, y = points()
    changed = x.clone()
    changed[:, 7:] += 1
    made, leaking = network(), network(mask="full")
    torch.testing.assert_close(made(changed, y)[:, 0], made(x, y)[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(made(x[:, :7], y)[:, 0], made(x, y)[:, 0], rtol=0, atol=1e-5)
    assert (leaking(changed, y)[:, 0] - leaking(x, y)[:, 0]).abs().max() > 1e-2


def test_a_query_sees_every_label_and_itself() -> None:
    made, (x, y) = network(), points()
    for i in range(6):
        changed = y.clone()
        changed[:, i] += 1
        assert ((made(x, changed) - made(x, y)).abs().amax((0, 2)) > 1e-4).all()
    moved = x.clone()
    moved[:, 8] += 0.3
    difference = (made(moved, y) - made(x, y)).abs().amax((0, 2))
    assert difference[2] > 1e-3 and difference[[0, 1, 3]].max() < 1e-5


def test_mask_is_the_figure() -> None:
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert pfn.attention_mask(2, 4).int().tolist() == expected
    assert pfn.attention_mask(0, 2).int().tolist() == [[1, 0], [0, 1]]
    assert pfn.attention_mask(2, 4, "full").all()
    with pytest.raises(ValueError, match=r"^mask=causal: known are pfn, full"):
        pfn.attention_mask(2, 4, "causal")


def test_a_new_network_reads_only_the_query_itself() -> None:
    made, (x, y) = network(trained=False), points()
    changed = x.clone()
    changed[:, :6] += 1
    assert torch.equal(made(changed, y + 3), made(x, y))
    # A layer of zero branches is two normalisations, and the second finds nothing left to do.
    token = made.encode_x(x[:, 6:])
    normal = torch.nn.functional.layer_norm(token, (32,))
    torch.testing.assert_close(made(x, y), made.decoder(normal), rtol=1e-3, atol=1e-4)


def test_a_layer_is_its_formula() -> None:
    layer = pfn.EncoderLayer(8, 2, 16)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    h, allowed = torch.randn(1, 5, 8), pfn.attention_mask(3, 5)
    q, k, v = (h[0] @ layer.query_key_value.weight.T + layer.query_key_value.bias).split(8, 1)
    heads = []
    for a in (slice(0, 4), slice(4, 8)):
        scores = (q[:, a] @ k[:, a].T / 2).masked_fill(~allowed, -torch.inf)
        heads.append(scores.softmax(1) @ v[:, a])
    h1 = layer.norm1(h[0] + layer.output(torch.cat(heads, 1)))
    expected = layer.norm2(h1 + layer.linear2(torch.nn.functional.gelu(layer.linear1(h1))))
    torch.testing.assert_close(layer(h, allowed)[0], expected)


def test_a_labelled_token_is_the_sum_of_two_linear_maps() -> None:
    made, (x, y) = network(nlayers=2), points()
    seen = []
    made.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    made.centre, made.spread = 0.5, 0.25
    made(x, y)
    encoded = (x - 0.5) / 0.25 * made.encode_x.weight[:, 0] + made.encode_x.bias
    label = y[..., None] * made.encode_y.weight[:, 0] + made.encode_y.bias
    torch.testing.assert_close(seen[0][:, :6], encoded[:, :6] + label)
    torch.testing.assert_close(seen[0][:, 6:], encoded[:, 6:])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"^emsize=32: must be a multiple of nhead=5"):
        pfn.EncoderLayer(32, 5, 64)


# ---- predictive distributions ----


@pytest.mark.parametrize("full_support", [True, False])
def test_bar_density_integrates_to_one(full_support: bool) -> None:
    made = bars(full_support=full_support)
    logits = torch.randn(20)
    low, high = (-50.0, 50.0) if full_support else (made.borders[0].item(), made.borders[-1].item())
    y = torch.linspace(low, high, 2_000_001)[1:-1]
    density = torch.exp(-made.nll(logits.expand(len(y), -1), y)).double().numpy()
    assert abs(integrate.trapezoid(density, y.double().numpy()) - 1) < 1e-3
    mean = integrate.trapezoid(density * y.double().numpy(), y.double().numpy())
    assert abs(mean - made.mean(logits).item()) < 1e-3


def test_density_of_a_bar_is_its_mass_over_its_width() -> None:
    made, logits = bars(), torch.zeros(3, 20)
    y = (made.borders[[1, 9, 18]] + made.borders[[2, 10, 19]]) / 2
    width = made.borders[[2, 10, 19]] - made.borders[[1, 9, 18]]
    torch.testing.assert_close(made.nll(logits, y), -(math.log(1 / 20) - width.log()))
    skewed = torch.arange(20.0).expand(3, 20)
    expected = -(torch.log_softmax(skewed, -1)[0, [1, 9, 18]] - width.log())
    torch.testing.assert_close(made.nll(skewed, y), expected)


def test_tails_are_half_normals_with_half_of_their_mass_in_the_bar() -> None:
    made = Bars(torch.tensor([-3.0, -1.0, 0.0, 1.0, 5.0]))
    y = torch.tensor([-9.0, -2.0, 1.5, 4.0, 30.0])
    z = np.array([8.0, 1.0, 0.5, 3.0, 29.0])
    scale = np.array([2.0, 2.0, 4.0, 4.0, 4.0]) / stats.halfnorm.ppf(0.5)
    expected = math.log(4) - stats.halfnorm.logpdf(z, scale=scale)
    np.testing.assert_allclose(made.nll(torch.zeros(5, 4), y), expected, rtol=1e-5)
    np.testing.assert_allclose(stats.halfnorm.cdf([2, 4], scale=made.tails), 0.5, rtol=1e-6)
    flat = Bars(made.borders, full_support=False)
    np.testing.assert_allclose(flat.nll(torch.zeros(2, 4), y[[0, 4]]), np.log([4 * 2, 4 * 4]), rtol=1e-6)


def test_borders_have_equal_mass() -> None:
    y = torch.randn(100_000)
    borders = pfn.equal_mass_borders(y, 50)
    assert borders[0] == y.min() and borders[-1] == y.max()
    counts = torch.histogram(y, borders).hist
    assert (counts - 2000).abs().max() <= 2
    with pytest.raises(ValueError, match=r"^num_buckets=50: needs at least twice as many values, got 99"):
        pfn.equal_mass_borders(y[:99], 50)
    with pytest.raises(ValueError, match=r"^borders of shape \(3,\): must be at least three, ascending"):
        Bars(torch.tensor([0.0, 0.0, 1.0]))


def test_borders_of_a_trial_are_the_priors_quantiles() -> None:
    borders = trial(num_buckets=20).net.head.borders[1:-1]
    expected = stats.norm.ppf(np.arange(1, 20) / 20, scale=math.sqrt(1.01))
    np.testing.assert_allclose(borders, expected, atol=0.03)


def test_other_heads_are_their_formulas() -> None:
    y, logits = torch.randn(9), torch.randn(9, 2)
    variance = torch.nn.functional.softplus(logits[:, 1]).numpy()
    expected = -stats.norm.logpdf(y, logits[:, 0], np.sqrt(variance))
    np.testing.assert_allclose(pfn.Gaussian(False).nll(logits, y), expected, rtol=1e-4)
    squared = 0.5 * (y - logits[:, 0]).square() + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(pfn.Gaussian(True).nll(logits[:, :1], y), squared)
    label = (y > 0).float()
    probability = pfn.Bernoulli().mean(logits[:, :1])
    torch.testing.assert_close(
        pfn.Bernoulli().nll(logits[:, :1], label), -torch.where(y > 0, probability, 1 - probability).log()
    )
    with pytest.raises(ValueError, match=r"^head=student: known are bar_full_support, bar, gaussian, mse"):
        pfn.make_head(ContextTask("synthetic_gp", None, "cpu"), {"head": "student"})


def test_loss_is_of_the_queries_and_reads_no_label_of_theirs() -> None:
    made = trial()
    sets = made.data.draw(4, 10)
    changed = Sets(sets.x, sets.y.clone())
    changed.y[:, 6] += 0.5
    before, after = made.net.nll(sets, 6), made.net.nll(changed, 6)
    assert before.shape == (4, 4)
    assert torch.equal(before[:, 1:], after[:, 1:]) and not torch.equal(before[:, 0], after[:, 0])
    assert torch.equal(made.net.predict(sets, 6)[1], made.net.predict(changed, 6)[1])


def test_split_weights() -> None:
    assert pfn.split_weights("uniform", 4) == [0.25] * 4
    np.testing.assert_allclose(pfn.split_weights("weighted", 3), np.array([1 / 3, 1 / 2, 1]) / (11 / 6))
    with pytest.raises(ValueError, match=r"^n_sampler=most: known are uniform, weighted"):
        pfn.split_weights("most", 4)


# ---- priors and exact answers ----


def test_gp_prior_has_the_covariance_of_its_kernel() -> None:
    sets = GaussianProcessPrior().draw(20_000, 2)
    assert sets.x.min() >= 0 and sets.x.max() <= 1
    assert abs(sets.y.var().item() - 1.01) < 0.03
    distance = (sets.x[:, 0] - sets.x[:, 1])[:, 0]
    near, far = distance.abs() < 0.05, distance.abs() > 0.6
    product = sets.y.prod(1)
    expected = torch.exp(-distance.square() / 0.18)
    for chosen in (near, far):
        assert abs((product[chosen] - expected[chosen]).mean().item()) < 0.06


def test_a_set_is_one_function_and_sets_are_not() -> None:
    sets = GaussianProcessPrior().draw(200, 60)
    mean, _ = priors.posterior(sets.kernel, sets.x[:, :50], sets.y[:, :50], sets.x[:, 50:])
    assert (mean - sets.y[:, 50:]).square().mean() < 0.03
    assert (mean.roll(1, 0) - sets.y[:, 50:]).square().mean() > 1


def test_mixture_draws_hyperparameters_for_each_set() -> None:
    kernel = GaussianProcessPrior(mixed=True).kernels(20_000)
    for values, (shape, rate) in zip(kernel, priors.HYPERPRIOR, strict=True):
        np.testing.assert_allclose(values.mean(), shape / rate, rtol=0.03)
    log_density = GaussianProcessPrior(mixed=True).log_prior(Kernel(*(v[:5] for v in kernel)))
    parts = [
        stats.gamma.logpdf(v[:5], a, scale=1 / b) for v, (a, b) in zip(kernel, priors.HYPERPRIOR, strict=True)
    ]
    np.testing.assert_allclose(log_density, np.sum(parts, 0), rtol=1e-6)
    assert GaussianProcessPrior().log_prior(kernel) == 0


def test_posterior_is_scikit_learns() -> None:
    sets = GaussianProcessPrior(mixed=True).draw(3, 12)
    mean, variance = priors.posterior(sets.kernel, sets.x[:, :8], sets.y[:, :8], sets.x[:, 8:])
    likelihood = priors.log_marginal_likelihood(sets.kernel, sets.x[:, :8], sets.y[:, :8])
    for i in range(3):
        length, scale, noise = (values[i].item() for values in sets.kernel)
        kernel = kernels.ConstantKernel(scale) * kernels.RBF(length)
        made = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None)
        made.fit(sets.x[i, :8].double(), sets.y[i, :8].double())
        expected, deviation = made.predict(sets.x[i, 8:].double(), return_std=True)
        np.testing.assert_allclose(mean[i], expected, rtol=1e-5, atol=1e-6)
        # Of the noisy value, not of the function: the noise comes on top.
        np.testing.assert_allclose(variance[i], deviation**2 + noise, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(likelihood[i], made.log_marginal_likelihood_value_, rtol=1e-6)


def test_posterior_without_data_is_the_prior() -> None:
    sets = GaussianProcessPrior().draw(2, 4)
    mean, variance = priors.posterior(sets.kernel, sets.x[:, :0], sets.y[:, :0], sets.x)
    assert (mean == 0).all() and torch.allclose(variance, torch.tensor(1.01).double())


def test_fitted_kernel_is_more_likely_than_the_start_and_than_the_truth() -> None:
    sets = GaussianProcessPrior().draw(20, 15)
    found = in_context.fit_kernel(GaussianProcessPrior(), sets.x, sets.y, 100)
    ones = torch.ones(20, dtype=torch.float64)
    fitted, start, truth = (
        priors.log_marginal_likelihood(kernel, sets.x, sets.y)
        for kernel in (found, Kernel(0.3 * ones, ones, 0.1 * ones), sets.kernel)
    )
    assert (fitted > start).all() and (fitted > truth).float().mean() > 0.9


@pytest.mark.parametrize("causal", [False, True])
def test_neural_prior(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = priors._between
    monkeypatch.setattr(priors, "_between", lambda a, b: int(causal) if (a, b) == (0, 1) else draws(a, b))
    sets = NeuralPrior(6).draw(96, 50)
    assert sets.x.shape == (96, 50, 6) and sets.kernel is None
    assert torch.equal(sets.y.unique(), torch.tensor([0.0, 1.0]))
    assert (sets.y.sum(1) == 25).all(), "the threshold is the median"
    deviation = sets.x.std(1)
    live = deviation > 0.5  # a ReLU that no point of the set excites is constant
    used = (6 / deviation).where(live, 0).amax(1)
    assert ((used - used.round()).abs() < 0.05).all(), "scaled up by the share of the features in use"
    assert (live.sum(1) <= used.round()).all() and len(used.round().unique()) > 1
    if not causal:
        assert torch.equal(live.sum(1), used.round().long())
    pairs = sets.x[live[:, :2].all(1), :, :2]
    correlation = torch.stack([torch.corrcoef(x.T)[0, 1].abs() for x in pairs]).mean()
    assert (correlation > 0.25) == causal


def test_neural_prior_can_be_learnt_and_sets_differ() -> None:
    sets = NeuralPrior(4).draw(64, 200)

    found = in_context.fit_logistic(sets.x[:, :100], sets.y[:, :100], sets.x[:, 100:]) > 0.5
    assert (found == (sets.y[:, 100:] > 0.5)).double().mean() > 0.7
    other = (
        in_context.fit_logistic(sets.x[:, :100].roll(1, 0), sets.y[:, :100].roll(1, 0), sets.x[:, 100:]) > 0.5
    )
    assert abs((other == (sets.y[:, 100:] > 0.5)).double().mean() - 0.5) < 0.1


# ---- held-out sets and baselines ----


def test_held_out_sets_are_the_same_for_all_and_differ_between_parts() -> None:
    task = ContextTask("synthetic_gp", None, "cpu")
    first = task.held_out("test", 10)
    in_context._held_out.cache_clear()
    assert torch.equal(ContextTask("synthetic_gp", None, "cpu").held_out("test", 10).x, first.x)
    assert first.x.shape == (500, 20, 1) and task.held_out("validation", 5).x.shape == (128, 15, 1)
    firsts = {tuple(x[:3, 0].tolist()) for part in ("validation", "test") for x in task.held_out(part, 10).x}
    assert len(firsts) == 628, "no set is in both parts"
    fewer = task.held_out("test", 5)
    assert torch.equal(fewer.x[:, 5:], first.x[:, 10:]) and torch.equal(fewer.x[:, :5], first.x[:, :5])
    assert task.larger(20) == 40 and task.held_out("test", 40).x.shape == (500, 50, 1)


def test_table_halves_share_no_row_and_splits_standardise_by_labelled_rows() -> None:
    halves = in_context._halves("breast_cancer", None)
    validation, test = halves["validation"], halves["test"]
    assert len(validation[1]) + len(test[1]) == 569
    together = np.concatenate([validation[0], test[0]])
    assert len(np.unique(together, axis=0)) == len(np.unique(load_breast_cancer().data[:, :10], axis=0))
    assert abs(validation[1].mean() - test[1].mean()) < 0.01
    sets = ContextTask("breast_cancer", None, "cpu").held_out("test", 30)
    assert sets.x.shape == (20, 285, 10)
    np.testing.assert_allclose(sets.x[:, :30].mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(sets.x[:, :30].std(1, correction=0), 1, atol=1e-4)
    assert (sets.x[:, 30:].mean(1).abs() > 1e-3).any()
    share = sets.y[:, :30].mean(1)
    assert (share - test[1].mean()).abs().max() < 1.5 / 30, "labelled rows have the classes in their shares"
    assert not torch.equal(sets.y[0], sets.y[1])


def test_exact_process_is_the_best_and_knows_the_noise() -> None:
    task = ContextTask("synthetic_gp", None, "cpu")
    scores = {m: task.evaluate(Baseline(m, task), "test") for m in ("gp", "knn", "prior")}
    assert all(a < b for a, b in zip(scores["gp"][0], scores["knn"][0], strict=True))
    for labelled in (task.labelled, task.few):
        assert task.gap_closed(Baseline("gp", task), labelled) == 1
        assert task.gap_closed(Baseline("prior", task), labelled) == 0
    # The mean of -log N(y; 0, 1.01) is the entropy of N(0, 1.01) up to the draw.
    np.testing.assert_allclose(scores["prior"][0], 0.5 * math.log(2 * math.pi * math.e * 1.01), atol=0.05)
    assert scores["gp"][1] > 0.9 and abs(scores["prior"][1]) < 0.01


class Between:
    """Densities a share of the way from the prior predictive to the exact process, by the number of labelled points."""

    def __init__(self, task: ContextTask, shares: dict[int, float]) -> None:
        self.ends, self.shares = (Baseline("prior", task), Baseline("gp", task)), shares

    def predict(self, sets, n: int):
        (prior, mean), (exact, _) = (end.predict(sets, n) for end in self.ends)
        return prior + self.shares[n] * (exact - prior), mean


def test_gap_closed_is_the_least_over_the_numbers_of_labelled_points() -> None:
    task = ContextTask("synthetic_gp", None, "cpu")
    mixed = Between(task, {1: 0.5, 2: 0.6, 3: 0.95, 5: 0.9, 10: 0.7, 15: 0.8})
    assert task.gap_closed(mixed, task.labelled) == pytest.approx(0.7, abs=1e-5)
    assert task.gap_closed(mixed, task.few) == pytest.approx(0.5, abs=1e-5), "one point is where it is widest"


def test_marginal_of_the_mixture_is_a_density() -> None:
    task = ContextTask("synthetic_gp_mix", None, "cpu")
    y = torch.linspace(-60, 60, 20_001, dtype=torch.float64)
    density = torch.exp(-Baseline("prior", task)._marginal(y))
    assert abs(torch.trapezoid(density, y).item() - 1) < 1e-3


def test_baselines_of_a_table() -> None:
    task = ContextTask("breast_cancer", None, "cpu")
    sets = task.held_out("test", 30)
    found = {m: Baseline(m, task, {"k": 3}).predict(sets, 30)[1] for m in in_context.BASELINES}
    known, labels = sets.x[0, :30].double(), sets.y[0, :30].double()
    near = labels[torch.cdist(sets.x[0, 30:31].double(), known)[0].argsort()[:3]]
    assert found["knn"][0, 0] == (near.sum() + 1) / 5
    logistic = (
        LogisticRegression(tol=1e-9, max_iter=9999)
        .fit(known, labels)
        .predict_proba(sets.x[0, 30:].double())[:, 1]
    )
    np.testing.assert_allclose(found["fitted"][0], logistic, atol=1e-5)
    assert (found["prior"] == 0.5).all()
    gp = GaussianProcessRegressor(kernels.RBF(math.sqrt(10)), alpha=0.1, optimizer=None)
    mean, deviation = gp.fit(known, 2 * labels - 1).predict(sets.x[0, 30:].double(), return_std=True)
    expected = stats.norm.cdf(mean / np.sqrt(deviation**2 + 0.1))
    np.testing.assert_allclose(found["gp"][0], expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"^model=svm: known are pfn, gp, fitted, knn, prior"):
        Baseline("svm", task)


def test_baselines_read_no_label_of_a_query() -> None:
    for data in ("synthetic_gp_mix", "breast_cancer"):
        task = ContextTask(data, None, "cpu")
        sets = task.held_out("validation", task.labelled[0])
        sets = Sets(sets.x[:4], sets.y[:4], sets.kernel and Kernel(*(v[:4] for v in sets.kernel)))
        n = task.labelled[0]
        other = sets._replace(y=torch.cat([sets.y[:, :n], 1 - sets.y[:, n:]], 1))
        for model in in_context.BASELINES:
            made = Baseline(model, task)
            assert torch.equal(made.predict(sets, n)[1], made.predict(other, n)[1])


# ---- tables ----


def test_breast_cancer_is_the_public_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = binary_tables.load("breast_cancer")
    assert table.features.shape == (569, 10) and table.labels.sum() == 357
    assert table.features[0, 0] == 17.99
    damaged = load_breast_cancer(return_X_y=True)
    damaged[0][0, 0] += 1
    monkeypatch.setattr(binary_tables, "load_breast_cancer", lambda return_X_y: damaged)
    with pytest.raises(DataError, match=r"^data=breast_cancer: scikit-learn's copy is not the one"):
        binary_tables.load("breast_cancer")


def write_table(
    folder: Path, rows: int = 200, labels: tuple[str, ...] = ("no", "yes"), cell: str = ""
) -> Path:
    rng = np.random.default_rng(0)
    label = rng.integers(len(labels), size=rows)
    lines = [
        f"{v + 2 * k:.3f},{w:.3f},{labels[k]}"
        for v, w, k in zip(*rng.normal(size=(2, rows)), label, strict=True)
    ]
    if cell:
        lines[3] = cell
    (folder / "table.csv").write_text("a,b,label\n" + "\n".join(lines) + "\n")
    return folder


def test_a_table_of_ones_own_trains_and_is_answered(tmp_path: Path) -> None:
    folder = write_table(tmp_path)
    table = binary_tables.load("table", folder)
    assert table.features.shape == (200, 2)
    assert table.features[table.labels == 1, 0].mean() > 1.5, "yes sorts after no"
    made = PriorFitting()
    small = config("table", seq_len=20, emsize=32, nlayers=2)
    made.setup(small, Setting(data="table", data_dir=folder, steps=1))
    assert set(made.step()) == {"val_nll", "train_nll"}
    assert math.isfinite(made.test()["test_nll_larger"])
    assert made.data.larger(60) == 50, "half of the half of 200 rows"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": 20}, r"table\.csv has 20 rows, needs at least 160"),
        ({"labels": ("a", "b", "c")}, r"the last column of table\.csv has 3 values, must be a label of two"),
        ({"labels": ("a",) * 30 + ("b",)}, r"the rarer label of table\.csv has .*%, needs at least 10%"),
        ({"cell": "1.0,x,no"}, r"table\.csv, line 5: column 'b' has 'x', must be a finite number"),
        ({"cell": "1.0,inf,no"}, r"table\.csv, line 5: column 'b' has 'inf', must be a finite number"),
        ({"cell": "1.0,no"}, r"table\.csv is not a CSV file \(.* Expected 3 columns, got 2"),
    ],
)
def test_bad_tables_are_refused_in_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="^data=table: " + message.replace("%, needs", "% of the rows, needs")
    ):
        binary_tables.load("table", write_table(tmp_path, **change))


def test_missing_tables_and_unknown_data(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^data=table: data_dir is None; give the folder that holds table\.csv"
    ):
        binary_tables.load("table")
    with pytest.raises(DataError, match=r"^data=table: no table\.csv in data_dir="):
        binary_tables.load("table", tmp_path)
    with pytest.raises(DataError, match=r"^data=wine: unknown table; known: breast_cancer, table"):
        binary_tables.load("wine")
    with pytest.raises(DataError, match=r"^data=wine: unknown data set; known: synthetic_gp, "):
        ContextTask("wine", None, "cpu")
    (tmp_path / "table.csv").write_text("label\n" + "1\n" * 200)
    with pytest.raises(DataError, match=r"has 0 columns beside the label, must be 1 to 100"):
        binary_tables.load("table", tmp_path)


def test_numbers_as_labels_sort_as_numbers(tmp_path: Path) -> None:
    table = binary_tables.load("table", write_table(tmp_path, labels=("9", "10")))
    assert table.features[table.labels == 1, 0].mean() > 1.5


# ---- the space ----


def test_parameters_exist_only_where_they_mean_something() -> None:
    assert set(config(model="gp")) == {"model", "seq_len", "warmup", "clip"}
    assert "num_buckets" not in config(head="gaussian") and "k" in config(model="knn")
    with pytest.raises(SpaceError, match="fit_steps=100: exists only when model=fitted"):
        Space.load("pfn").validate({**config(model="pfn"), "fit_steps": 100})
    c = Space.load("pfn").paper_config("synthetic_gp")
    assert (c["lr"], c["nhead"], c["nhid_factor"], c["num_buckets"], c["seq_len"]) == (1e-3, 4, 2, 100, 20)
    assert Space.load("pfn").paper_config("breast_cancer")["seq_len"] == 60


# ---- training ----


def test_schedule_warms_up_and_falls_update_by_update() -> None:
    made, rates = trial(steps=2), []
    original = made.descend

    def recorded(loss: torch.Tensor, clip_norm: float | None = None) -> None:
        rates.append(made.optimiser.param_groups[0]["lr"])
        original(loss, clip_norm)

    made.descend = recorded  # type: ignore[method-assign]
    while not made.finished:
        made.step()
    assert len(rates) == 50 and np.argmax(rates) == 11 and rates[11] == pytest.approx(1e-3)
    np.testing.assert_allclose(rates[:12], 1e-3 * np.arange(1, 13) / 12)
    assert (np.diff(rates[11:]) < 0).all() and rates[-1] < 1e-5
    assert PriorFitting.fidelity(config(), 40).minimum == 11
    assert PriorFitting.fidelity(config(model="gp"), 40).minimum == 1


def test_gradients_are_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    made, norms = trial(), []
    loss, step = made.net.nll, made.optimiser.step

    def recorded() -> None:
        norms.append(
            torch.cat([p.grad.flatten() for p in made.net.parameters() if p.grad is not None]).norm().item()
        )
        step()

    monkeypatch.setattr(made.net, "nll", lambda sets, n: 1000 * loss(sets, n))
    monkeypatch.setattr(made.optimiser, "step", recorded)
    made.step()
    assert len(norms) == 25
    assert max(norms) == pytest.approx(1.0, abs=1e-3)


def test_every_number_of_labelled_points_is_trained() -> None:
    made, seen = trial(), []
    original = made.net.nll
    made.net.nll = lambda sets, n: (seen.append((n, tuple(sets.y.shape))), original(sets, n))[1]
    made.step()
    made.step()
    assert {n for n, _ in seen} == set(range(10)) and {shape for _, shape in seen} == {(64, 10)}


def test_it_learns_the_posterior_and_without_data_the_prior_predictive() -> None:
    """Better the longer it trains, in log density and in its mean; at n = 0 it says N(0, 1.01)."""
    made = trial(steps=12, seq_len=12, lr=3e-3, num_buckets=300)
    values = []
    while not made.finished:
        values.append(made.step()["val_nll"])
    assert values[-1] < values[5] - 0.1 < values[0] - 0.3
    found = made.test()
    assert found["test_gap_closed"] > 0.4 and found["test_score"] > 0.75
    made.net.eval()
    y = torch.linspace(-8, 8, 4001)
    x = torch.linspace(0.1, 0.9, 9).view(9, 1, 1)
    with torch.no_grad():
        logits = made.net.pfn(x, torch.zeros(9, 0))[:, 0]
        density = torch.exp(-made.net.head.nll(logits[:, None].expand(-1, 4001, -1), y.expand(9, -1)))
    mean = torch.trapezoid(density * y, y)
    deviation = (torch.trapezoid(density * y.square(), y) - mean.square()).sqrt()
    assert mean.mean().abs() < 0.1
    assert abs(deviation.mean().item() / math.sqrt(1.01) - 1) < 0.15


def test_it_learns_to_classify_a_table_it_has_never_seen() -> None:
    made = trial(steps=6, data="breast_cancer", seq_len=30, lr=3e-3)
    values = []
    while not made.finished:
        values.append(made.step()["val_nll"])
    assert values[-1] < min(values[0], 0.6)
    assert made.test()["test_score"] > 0.9


@pytest.mark.parametrize(
    "change",
    [
        {"head": "bar"},
        {"head": "gaussian"},
        {"head": "mse"},
        {"mask": "full"},
        {"positional_encoding": True},
        {"n_sampler": "weighted"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("few_sets")
def test_ablations_train(change: dict[str, Any]) -> None:
    made = trial(steps=2, lr=3e-3, **change)
    rows = [made.step() for _ in range(2)]
    assert rows[-1]["train_nll"] < rows[0]["train_nll"]
    assert all(math.isfinite(value) for value in made.test().values())


@pytest.mark.parametrize("data", ["synthetic_gp", "synthetic_gp_mix", "breast_cancer"])
@pytest.mark.parametrize("model", in_context.BASELINES)
@pytest.mark.usefixtures("few_sets")
def test_baselines_answer_every_data_set_in_one_step(model: str, data: str) -> None:
    quick = {"fit_steps": 10} if model == "fitted" else {}
    made = trial(data=data, model=model, **quick)
    rows = [made.step()]
    assert made.finished
    assert all(math.isfinite(value) for value in (*rows[0].values(), *made.test().values()))
    again = trial(data=data, model=model, **quick)
    again.load_state_dict(made.state_dict())
    assert again.finished and again.test() == made.test()


# ---- the paper's claims at laptop scale ----
