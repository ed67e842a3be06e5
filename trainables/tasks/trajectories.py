"""Trajectory forecasting: scenes of several agents cut out of tracks, parts, errors in metres, behaviour of agents.

A scene is `observed` + `predicted` frames of one recording with the agents that are there in all of them. An example is
a scene; within it agents see each other. Scenes of different parts share no frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import tracks
from fairsweep.trainables.datasets.tracks import Tracks
from fairsweep.trainables.parts import Members, identity
from fairsweep.trainables.tasks.dynamic_graphs import adjacency, laplacian, rate, spectrum

METRICS = (
    Metric("val_ade", "min", "validation", "m"),
    Metric("val_fde", "min", "validation", "m"),
    Metric("val_behaviour", "max", "validation", "fraction"),
    Metric("train_loss", "min", "train", "nats"),
    Metric("test_ade", "min", "test", "m"),
    Metric("test_fde", "min", "test", "m"),
    Metric("test_fde_half", "min", "test", "m"),
    Metric("test_behaviour", "max", "test", "fraction"),
    Metric("test_behaviour_gain", "max", "test"),
)
CLASSES = 3  # of behaviour: under-speeding, neutral, over-speeding
WEIGHTS = 2**21  # entries of dynamic graphs held at once, scenes times frames times agents squared


def scenes(
    data: Tracks, observed: int, predicted: int, stride: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All scenes of `data`: positions (S, frames, N, 2), NaN where there is no such agent; recording (S,); first frame
    (S,). One scene begins every `stride` frames of a recording and needs two agents; of more than `most` those nearest
    to the middle of all, when the observation ends, are kept."""
    length, kept, of, first = observed + predicted, [], [], []
    last = data.last
    for recording in range(data.recordings):
        here = np.flatnonzero(data.recording == recording)
        # Only what tracks cover is gone through: between them there may be years.
        spans = zip(-(-data.first[here] // stride), (last[here] - length) // stride + 1, strict=True)
        covered = [np.arange(low, high) for low, high in spans]
        begins, count = np.unique(np.concatenate(covered or [here]), return_counts=True)
        for begin in stride * begins[count >= 2]:
            there = here[(data.first[here] <= begin) & (last[here] >= begin + length)]
            places = np.stack([data.points[i][begin - data.first[i] :][:length] for i in there], 1)
            if len(there) > most:
                now = places[observed - 1]
                far = np.linalg.norm(now - np.median(now, 0), axis=1)
                places = places[:, np.sort(np.argsort(far, kind="stable")[:most])]
            kept.append(places)
            of.append(recording)
            first.append(begin)
    if not kept:
        raise DataError(
            f"data={data.name}: no {length} frames (observed={observed}, predicted={predicted}) in which two agents are"
            " there throughout; take fewer frames"
        )
    found = np.full((len(kept), length, max(x.shape[1] for x in kept), 2), np.nan)
    for i, places in enumerate(kept):
        found[i, :, : places.shape[1]] = places
    return found, np.array(of), np.array(first)


def _parts(data: Tracks, of: np.ndarray, first: np.ndarray, length: int, rng: np.random.Generator) -> dict:
    """Numbers of the scenes of each part."""
    names = ("validation", "test", "train")
    if not data.in_time:
        if data.split is not None:
            given = data.split
        else:
            known = rng.permutation(np.unique(of))
            cuts = np.cumsum([max(1, round(share * len(known))) for share in data.shares])
            given = dict(zip(names, np.split(known, cuts), strict=True))
        return {part: np.flatnonzero(np.isin(of, recordings)) for part, recordings in given.items()}
    # The later, the later the part; a scene that reaches into the next part is in none.
    validation, test = data.shares
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for recording in np.unique(of):
        rows = np.flatnonzero(of == recording)
        begin, end = first[rows].min(), first[rows].max() + length
        edges = begin + (end - begin) * np.array([1 - validation - test, 1 - test])
        bounds = zip(("train", "validation", "test"), [begin, *edges], [*edges, end], strict=True)
        for part, low, high in bounds:
            parts[part].append(rows[(first[rows] >= low) & (first[rows] + length <= high)])
    return {part: np.concatenate(rows) for part, rows in parts.items()}


@lru_cache(maxsize=2)
def _scenes(
    name: str, data_dir: Path | None, observed: int, predicted: int, stride: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    found = scenes(tracks.load(name, data_dir), observed, predicted, stride, most)
    return *found, identity(found[0])


class TrajectoryTask:
    """Scenes on a device, split as given or drawn by `rng`; of one recording or few, in order of time.

    places: (S, frames, N, 2), metres from the middle of a scene's agents at the last observed frame, 0 where there is
    no such agent; present: (S, N). degree: (S, frames, N) in the dynamic graph. spread: metres, the root of the mean
    square of the training agents' observed places, from their last ones. parts: numbers of scenes; every: all of them.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        rng: np.random.Generator,
        observed: int,
        predicted: int,
        stride: int,
        most: int,
        radius: float,
        scale: float,
    ) -> None:
        data = tracks.load(name, data_dir)
        folder = None if data_dir is None else Path(data_dir)
        found, of, first, self._known_by = _scenes(name, folder, observed, predicted, stride, most)
        parts = _parts(data, of, first, observed + predicted, rng)
        for part, rows in parts.items():
            if not len(rows):
                raise DataError(
                    f"data={name}: the {part} part has no scene of {observed + predicted} frames; needs some in each"
                )
        self.observed, self.predicted, self.radius, self.scale = observed, predicted, radius, scale
        self.parts = {part: torch.tensor(rows, device=device) for part, rows in parts.items()}
        self.present = torch.tensor(~np.isnan(found[:, 0, :, 0]), device=device)
        places = torch.tensor(np.nan_to_num(found), device=device)
        last = places[:, observed - 1]
        count = self.present.sum(1)[:, None, None]
        middle = last.sum(1, keepdim=True) / count  # absent agents are zeros
        self.places = torch.where(self.present[:, None, :, None], places - middle[:, None], 0.0)
        self.every = torch.arange(len(self.places), device=device)
        self.degree = self.degrees(self.places, self.every)
        train = self.parts["train"]
        moved = self.places[train, :observed] - self.places[train, observed - 1, None]
        self.spread = float(moved.square().sum() / (2 * observed * self.present[train].sum())) ** 0.5 or 1.0

    def members(self) -> Members:
        """Scenes of each part."""
        return Members(self._known_by, {part: rows.cpu().numpy() for part, rows in self.parts.items()})

    def graph(self, places: Tensor, rows: Tensor) -> Tensor:
        """The dynamic graph (s, t, N, N) of the scenes `rows` with their agents at `places` (s, t, N, 2), metres."""
        return adjacency(places, self.present[rows][:, None], self.radius, self.scale)

    def blocks(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Scenes in blocks whose dynamic graphs are not too many to be held at once."""
        each = (self.observed + self.predicted) * self.present.shape[1] ** 2
        return rows.split(max(1, WEIGHTS // each))

    def degrees(self, places: Tensor, rows: Tensor) -> Tensor:
        """Degrees (s, t, N) in that graph; its weights are not kept."""
        blocks = self.blocks(rows)
        parts = places.split(len(blocks[0]))
        return torch.cat([self.graph(x, block).sum(-1) for x, block in zip(parts, blocks, strict=True)])

    def spectra(self, k: int) -> Tensor:
        """Of each agent in each frame its entries of the k first eigenvectors, and the eigenvalues: (S, frames, N,
        2 k), single precision."""
        found = []
        for rows in self.blocks(self.every):
            weights = self.graph(self.places[rows], rows)
            present = self.present[rows, None].expand(weights.shape[:-1])
            values, vectors = spectrum(laplacian(weights), present, k)
            found.append(torch.cat([vectors, values.unsqueeze(-2).expand_as(vectors)], -1).float())
        return torch.cat(found)

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
        """One epoch of shuffled training scenes."""
        order = torch.tensor(rng.permutation(len(self.parts["train"])), device=self.places.device)
        yield from self.parts["train"][order].split(size)

    def relative(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Places (s, observed, N, 2) and (s, predicted, N, 2) of scenes, each agent's from its last observed one, over
        the spread."""
        whole = (self.places[rows] - self.places[rows, self.observed - 1, None]) / self.spread
        return whole[:, : self.observed].float(), whole[:, self.observed :].float()

    def absolute(self, rows: Tensor, relative: Tensor) -> Tensor:
        """Places in metres (s, predicted, N, 2) of such `relative` ones."""
        return self.places[rows, self.observed - 1, None] + self.spread * relative.double()

    def errors(self, rows: Tensor, relative: Tensor) -> Tensor:
        """Distances in metres (agents, predicted) between predicted and true places of the agents of scenes."""
        far = self.absolute(rows, relative) - self.places[rows, self.observed :]
        return torch.linalg.vector_norm(far, dim=-1).mT[self.present[rows]]

    def surroundings(self, count: int) -> Tensor:
        """(S, frames, N, 2 + 2 count): places of each agent from its last observed one, and from itself those of the
        others, at most `count`, who are nearest when the observation ends, 0 where there are fewer; over the spread."""
        now = self.places[:, self.observed - 1]
        n = now.shape[1]
        alone = ~(self.present[:, None] & self.present[:, :, None])
        alone = alone | torch.eye(n, dtype=torch.bool, device=now.device)
        far = torch.cdist(now, now).masked_fill(alone, torch.inf)
        near = far.argsort(-1)[..., :count]  # (S, N, count)
        known = far.gather(-1, near).isfinite()
        own = self.places.unsqueeze(-2)  # (S, T, N, 1, 2)
        index = near[:, None, :, :, None].expand(-1, own.shape[1], -1, -1, 2)
        others = self.places.unsqueeze(2).expand(-1, -1, n, -1, -1).gather(3, index) - own
        others = torch.where(known[:, None, :, :, None], others, 0.0)
        moved = self.places - now[:, None]
        return (torch.cat([moved, others.flatten(-2)], -1) / self.spread).float()

    # -- behaviour: how fast an agent's degree changes over the predicted frames

    def rates(self, rows: Tensor, degree: Tensor | None = None) -> Tensor:
        """Rates (agents,) of the agents of scenes, true or of predicted degrees (s, predicted, N)."""
        if degree is None:
            degree = self.degree[rows, self.observed :]
        return rate(degree)[self.present[rows]]

    def cuts(self, threshold: float | None) -> Tensor:
        """The two rates between the three classes: -threshold and threshold, or the terciles of training agents."""
        if threshold is not None:
            return torch.tensor([-threshold, threshold], dtype=torch.float64, device=self.places.device)
        known = self.rates(self.parts["train"])
        return torch.quantile(known, torch.tensor([1 / 3, 2 / 3], dtype=known.dtype, device=known.device))


def classes(rates: Tensor, cuts: Tensor) -> Tensor:
    """Classes 0, 1, 2 of rates (n,): at or below the first cut, between, at or above the second one."""
    return 1 - (rates <= cuts[0]).long() + (rates >= cuts[1]).long()


def weighted_accuracy(found: Tensor, true: Tensor) -> float:
    """The mean over the classes that occur in `true` (n,) of the share that `found` has right: each class weighs alike,
    so that a constant answer has one over their number."""
    member = torch.nn.functional.one_hot(true, CLASSES).double()
    size = member.sum(0)
    right = (member * (found == true).double().unsqueeze(1)).sum(0)
    return (right / size)[size > 0].mean().item()


# ---- bivariate Gaussians ----


def gaussian_nll(places: Tensor, mean: Tensor, log_sigma: Tensor, rho: Tensor) -> Tensor:
    """-ln N(places | mean, sigma, rho) in nats (...,), of places, means and logarithms of deviations (..., 2)."""
    z = (places - mean) * torch.exp(-log_sigma)
    rest = 1 - rho.square()
    quadratic = (z.square().sum(-1) - 2 * rho * z[..., 0] * z[..., 1]) / rest
    return math.log(2 * math.pi) + log_sigma.sum(-1) + 0.5 * torch.log(rest) + 0.5 * quadratic


def gaussian(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means (..., 2), logarithms of deviations (..., 2) and correlations (...,) of a decoder's five numbers.

    Deviations are kept above e^-4 of the spread, correlations below .99: a likelihood has no end else.
    """
    return raw[..., :2], raw[..., 2:4].clamp(-4, 4), 0.99 * torch.tanh(raw[..., 4])
