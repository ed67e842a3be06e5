"""Two-stream graph LSTMs with spectral regularisation: where road agents go, and how they behave.

Chandra, Guan, Panuganti, Mittal, Bhattacharya, Bera and Manocha, Forecasting Trajectory and Behavior of Road-Agents
Using Spectral Clustering in Graph-LSTMs, IEEE RA-L 2020, arXiv:1912.01118. Built from the paper's formulas: the
released code takes the largest eigenvalues for the smallest, subtracts the regulariser and scales predictions by the
test targets. From it are the constants. Ours: zeros where it starts the decoder with noise; graphs made symmetric; the
streams run agent by agent, so that scenes may have any number of them; stream 2 predicts eigenvalues with the vectors,
without which no Laplacian can be rebuilt; what the deviations and correlations are drawn to (means of the cluster, as
predicted) is not said in the paper's public text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.datasets import tracks
from fairsweep.trainables.tasks import dynamic_graphs as dgg
from fairsweep.trainables.tasks.clustering import cluster_means, kmeans_of_each
from fairsweep.trainables.tasks.keeping import Kept
from fairsweep.trainables.tasks.training import Mean, NetworkPaper
from fairsweep.trainables.tasks.trajectories import (
    CLASSES,
    METRICS,
    TrajectoryTask,
    classes,
    gaussian,
    gaussian_nll,
    weighted_accuracy,
)

MODELS = ("two_stream", "one_stream", "enc_dec", "constant_velocity")
NEAREST = 7  # others whose places an agent's positions stream sees

# ---- streams ----


class EncoderDecoder(nn.Module):
    """An LSTM over what was observed, and one that goes on from its hidden state, fed with its own last output."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.LSTM(inputs, hidden, batch_first=True)
        self.decoder, self.head = nn.LSTMCell(outputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Outputs (m, frames, outputs) for sequences (m, t, inputs), and the encoder's last hidden state (m,
        hidden)."""
        known = self.encoder(x)[1][0][0]
        hidden, cell = known, torch.zeros_like(known)
        out = x.new_zeros(len(x), self.head.out_features)
        found = []
        for _ in range(frames):
            hidden, cell = self.decoder(out, (hidden, cell))
            out = self.head(hidden)
            found.append(out)
        return torch.stack(found, 1), known


class ConstantVelocity(nn.Module):
    """Every agent goes on as in its last frame; only the deviations of each frame are trained."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(frames, 2))

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        raw = x.new_zeros(len(x), frames, 5)
        raw[..., 2:4] = self.log_sigma
        return raw, x.new_zeros(len(x), 1)


class SpectralStream(nn.Module):
    """Stream 2: an encoder-decoder on what an agent's `inputs` in the dynamic graph were, and a head for its class."""

    def __init__(self, inputs: int, hidden: int, head: bool) -> None:
        super().__init__()
        self.sequence = EncoderDecoder(inputs, inputs, hidden)
        self.head = nn.Linear(hidden, CLASSES) if head else None

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, Tensor | None]:
        out, known = self.sequence(x, frames)
        return out, None if self.head is None else self.head(known)


class Streams(nn.Module):
    """Stream 1 on an agent's places, and stream 2, which stream 1 never sees: it says who belongs together."""

    def __init__(self, config: Mapping[str, Any], frames: int, inputs: int) -> None:
        super().__init__()
        model = config["model"]
        self.first: nn.Module
        if model == "constant_velocity":
            self.first = ConstantVelocity(frames)
        else:
            self.first = EncoderDecoder(2, 2 if model == "enc_dec" else 5, config["hidden"])
        self.second: SpectralStream | None = None
        if model == "two_stream":
            self.second = SpectralStream(inputs, config["hidden"], config.get("reading", "head") == "head")


# ---- training ----

_claim = partial(Claim, margin=0.0, origin="direction", data="synthetic_platoons", seeds=10, steps=100)
_lower = partial(_claim, kind="ratio", direction="at_most", margin=1.0, tunes=("lr",))
_SPECTRAL = {"model": "two_stream", "reg": "spectral", "decoder": "plain"}
_ONE = {"model": "one_stream", "decoder": "plain"}
_HEAD = {"model": "two_stream", "reg": "none", "reading": "head", "stream2_input": "degree"}


@register
class GraphLSTM(NetworkPaper):
    """Both streams side by side with one optimiser; no gradient goes from one to the other."""

    slug = "graph_lstm_traffic"
    title = "Forecasting Trajectory and Behavior of Road-Agents Using Spectral Clustering in Graph-LSTMs"
    citation = (
        "Chandra, Guan, Panuganti, Mittal, Bhattacharya, Bera, Manocha. IEEE RA-L 2020. arXiv:1912.01118"
    )
    task = "trajectory forecasting"
    baselines = "one stream, encoder-decoder, constant velocity, own truth or places as cluster centres"
    datasets = tuple(tracks.LOADERS)
    metrics = METRICS
    objective = "val_ade"
    tiny = Tiny("synthetic_platoons", 6, {"hidden": 8, "lr": 0.01})
    claims = (
        _lower(
            "spectral_regularisation_helps",
            "Spectral regularisation lowers the mean error on test scenes",
            _SPECTRAL,
            _ONE,
            "test_ade",
        ),
        _lower(
            "long_horizons_gain",
            "Spectral regularisation lowers the error in the last frame on test scenes",
            _SPECTRAL,
            _ONE,
            "test_fde",
        ),
        _lower(
            "clusters_beat_own_truth",
            "Centres of clusters lower the mean error more than each agent's own future in their place",
            _SPECTRAL,
            {**_SPECTRAL, "reg": "own_truth"},
            "test_ade",
        ),
        _lower(
            "two_streams_beat_constant_velocity",
            "Two streams have a lower mean error on test scenes than constant velocity",
            _SPECTRAL,
            {"model": "constant_velocity"},
            "test_ade",
        ),
        _claim(
            "degrees_tell_behaviour",
            "From degrees the class of future behaviour is right more often than any constant answer",
            _HEAD,
            None,
            "test_behaviour_gain",
            kind="value",
        ),
        _claim(
            "degrees_tell_more_than_places",
            "From degrees the class of future behaviour is right more often than from everybody's places, with the same"
            " step size and width",
            _HEAD,
            {"model": "two_stream", "reg": "none", "stream2_input": "positions"},
            "test_behaviour",
        ),
        _claim(
            "spectra_tell_behaviour",
            "The Laplacian of the predicted spectrum gives the class more often than any constant answer",
            {"model": "two_stream", "reg": "none", "stream2_input": "eigenvectors", "reading": "rate"},
            None,
            "test_behaviour_gain",
            kind="value",
        ),
    )
    default_steps = 20  # the authors train for 100 epochs

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        return 3

    def prepare(self) -> None:
        config = self.config
        names = ("observed", "predicted", "stride", "most_agents", "radius", "scale")
        where = self.data_name, self.setting.data_dir, self.device, self.split_rng
        self.data = TrajectoryTask(*where, *(config[name] for name in names))
        self.cuts = self.data.cuts(config["threshold"] if config["classes"] == "threshold" else None)
        self.sequences = self.spectral() if config["model"] == "two_stream" else None
        inputs = 0 if self.sequences is None else self.sequences.shape[-1]
        self.net = Streams(config, config["predicted"], inputs).to(self.device)
        # Of constant velocity only deviations are trained, which no error sees: it has neither of these.
        kind = {"rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}[config.get("optimiser", "adam")]
        self.optimiser = kind(self.net.parameters(), lr=config.get("lr", 5e-3))
        self.kept = Kept()  # stream 2 is selected by its own loss: its best epoch is not that of stream 1

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), "kept": self.kept}

    def spectral(self) -> Tensor:
        """What stream 2 sees of each agent, (S, frames, N, inputs): degrees; the entries of the k first eigenvectors
        and the eigenvalues; or its places and those of the others, the nearest first."""
        data, kind = self.data, self.config["stream2_input"]
        if kind == "degree":
            return data.degree.unsqueeze(-1).float()
        if kind == "eigenvectors":
            return data.spectra(self.config["eigenvectors"])
        return data.surroundings(NEAREST)

    # -- what the streams say of scenes

    def forecast(self, net: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means (s, predicted, N, 2), logarithms of deviations and correlations of the agents of scenes, over the
        spread."""
        past, _ = self.data.relative(rows)
        here = self.data.present[rows]
        x = past.transpose(1, 2)[here]
        raw = net.first(x, self.data.predicted)[0]
        if raw.shape[-1] == 2:  # enc_dec: unit deviations, so that the loss is the squared error
            raw = F.pad(raw, (0, 3))
        if self.config["model"] == "constant_velocity" or self.config.get("decoder") == "velocity":
            frames = torch.arange(1, self.data.predicted + 1, device=x.device)
            going = (x[:, -1] - x[:, -2])[:, None] * frames[:, None]
            raw = torch.cat([raw[..., :2] + going, raw[..., 2:]], -1)
        whole = raw.new_zeros(*here.shape, *raw.shape[1:])
        whole[here] = raw
        return gaussian(whole.transpose(1, 2))

    def foresee(self, net: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Stream 2: its predicted sequences (s, predicted, N, inputs), and the logits (agents, 3) of its head."""
        here = self.data.present[rows]
        x = self.sequences[rows, : self.data.observed].transpose(1, 2)[here]
        out, logits = net.second(x, self.data.predicted)
        whole = out.new_zeros(*here.shape, *out.shape[1:])
        whole[here] = out
        return whole.transpose(1, 2), logits

    def loss1(self, rows: Tensor, foreseen: Tensor | None) -> tuple[Tensor, Tensor]:
        """NLL a frame and agent (nats), and the regulariser: distances of mean, deviation and correlation to those of
        the agent's cluster, each times its weight."""
        config, here = self.config, self.data.present[rows]
        mean, log_sigma, rho = self.forecast(self.net, rows)
        _, future = self.data.relative(rows)
        there = here[:, None].expand(rho.shape)
        nll = gaussian_nll(future, mean, log_sigma, rho)[there].mean()
        kind, weights = config.get("reg", "none"), [config.get(f"b{i}", 0.0) for i in (1, 2, 3)]
        if kind == "none" or not any(weights):
            return nll, nll.new_zeros(())
        if kind == "own_truth":
            return nll, weights[0] * torch.linalg.vector_norm(mean - future, dim=-1)[there].mean()
        flat = there.flatten(0, 1)
        if kind == "kmeans_xy":
            points = self.data.absolute(rows, mean.detach()).float()
        else:  # of eigenvectors the second one, beside the constant; of the other inputs all
            points = foreseen[..., 1:2] if config["stream2_input"] == "eigenvectors" else foreseen
        k = config["clusters"]
        cluster = kmeans_of_each(points.flatten(0, 1), flat, k)
        # In metres: centres are of places, not of ways from each agent's own last place.
        truth = self.data.places[rows, self.data.observed :].flatten(0, 1)
        centre = cluster_means(truth, cluster, flat, k).view_as(future)
        last = self.data.places[rows, self.data.observed - 1, None]
        target = ((centre - last) / self.data.spread).float()
        total = weights[0] * torch.linalg.vector_norm(mean - target, dim=-1)[there].mean()
        for weight, value in ((weights[1], log_sigma.exp()), (weights[2], rho.unsqueeze(-1))):
            if weight:
                drawn = cluster_means(value.detach().flatten(0, 1), cluster, flat, k).view_as(value)
                total = total + weight * torch.linalg.vector_norm(value - drawn, dim=-1)[there].mean()
        return nll, total

    def loss2(self, net: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of stream 2, the squared error of its sequences and, with a head, the cross-entropy of the classes; its
        sequences; and what it is selected by, with a head the latter alone: squares of places would drown it."""
        foreseen, logits = self.foresee(net, rows)
        there = self.data.present[rows][:, None].expand(foreseen.shape[:-1])
        true = self.sequences[rows, self.data.observed :]
        loss = (foreseen - true)[there].square().mean()
        if logits is None:
            return loss, foreseen, loss
        entropy = F.cross_entropy(logits, classes(self.data.rates(rows), self.cuts))
        return loss + entropy, foreseen, entropy

    def behaviour(self, net: nn.Module, rows: Tensor) -> Tensor:
        """Predicted classes (agents,) of scenes: by stream 2's head, by the rate of the degrees of its spectrum, or, of
        one stream, by that of the degrees of the predicted places."""
        if net.second is None:
            places = self.data.absolute(rows, self.forecast(net, rows)[0])
            return classes(self.data.rates(rows, self.data.degrees(places, rows)), self.cuts)
        foreseen, logits = self.foresee(net, rows)
        if logits is not None:
            return logits.argmax(-1)
        if self.config["stream2_input"] == "degree":
            return classes(self.data.rates(rows, foreseen[..., 0].double()), self.cuts)
        vectors, values = foreseen.double().chunk(2, -1)
        # Each agent predicts the eigenvalues of its scene: their mean counts.
        here = self.data.present[rows][:, None, :, None]
        values = (values * here).sum(2) / here.sum(2)
        return classes(self.data.rates(rows, dgg.degrees(values.clamp_min(0), vectors)), self.cuts)

    def epoch(self) -> dict[str, float]:
        train_loss = Mean()
        for rows in self.data.batches(self.config.get("batch_size", 32), self.rng.numpy):
            foreseen, second = None, 0.0
            if self.net.second is not None:
                second, foreseen, _ = self.loss2(self.net, rows)
                foreseen = foreseen.detach()
            nll, regulariser = self.loss1(rows, foreseen)
            self.descend(nll + regulariser + second)
            train_loss.add(nll, len(rows))
        self.net.eval()
        rows = self.data.parts["validation"]
        with torch.no_grad():
            if self.net.second is not None:
                self.kept.offer(self.loss2(self.net, rows)[2].item(), self.net.second)
            return {**self.measure(self.net, "validation"), "train_loss": train_loss.value}

    def measure(self, net: nn.Module, part: str) -> dict[str, float]:
        """Mean and last errors, and the weighted accuracy of the agents' classes."""
        rows, name = self.data.parts[part], {"validation": "val", "test": "test"}[part]
        errors = self.data.errors(rows, self.forecast(net, rows)[0])
        true = classes(self.data.rates(rows), self.cuts)
        return {
            f"{name}_ade": errors.mean().item(),
            f"{name}_fde": errors[:, -1].mean().item(),
            f"{name}_behaviour": weighted_accuracy(self.behaviour(net, rows), true),
        }

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        if net.second is not None and self.kept.weights is not None:
            net.second.load_state_dict(self.kept.weights)
        found, rows = self.measure(net, "test"), self.data.parts["test"]
        errors = self.data.errors(rows, self.forecast(net, rows)[0])
        occurring = len(classes(self.data.rates(rows), self.cuts).unique())
        return {
            **found,
            "test_fde_half": errors[:, (self.data.predicted - 1) // 2].mean().item(),
            "test_behaviour_gain": found["test_behaviour"] - 1 / occurring,
        }
