"""MEOW and AdaMEOW: contrast of a coarse and a fine view of a heterogeneous graph, with weighted negatives.

Yu, Ge, Li and Zhou, Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative
Samples, TKDE 2024, arXiv:2212.13847 (MEOW: SDM 2023). The coarse view says which target nodes meta-paths join; the fine
view adds what lies between them. Clusters of the fine view (MEOW) or a small network (AdaMEOW) weigh the negatives.

As the authors' code (github.com/jianxiangyu/MEOW), but for: clusters by distance (theirs assigns by the inner product,
and has the similarity where the concentration needs a distance); embeddings of an evaluation pass with the weights of
the least training loss (theirs are the last training pass, dropout on); no labels or test parts choose anything.
Cost of an epoch: n^2 similarities, and with AdaMEOW 16 times as many activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.datasets import heterogeneous as sets
from fairsweep.trainables.tasks.clustering import clustering
from fairsweep.trainables.tasks.heterogeneous import (
    LOADERS,
    METRICS,
    HeteroTask,
    load,
    masked,
    masked_features,
    paths_need,
    plain_need,
    pruned,
    symmetric_scaled,
)
from fairsweep.trainables.tasks.negatives import hard_weights, prototypes, soft_contrast, weighted_contrast
from fairsweep.trainables.tasks.sparse import SparseMatrix, dropout, linear, on_device
from fairsweep.trainables.tasks.training import Mean, NetworkPaper

MODELS = ("meow", "adameow", "hard", "infonce", "dgi", "raw", "raw_context")
UNTRAINED = ("raw", "raw_context")
EPOCHS = 10  # of training in a step of the trial
MATRICES, MOST = 6, 16  # (n, n) matrices at a time; GB that they, paths or dense features may take
Features = Tensor | SparseMatrix


# ---- the encoder ----


class WholeNorm(nn.Module):
    """Layer norm over the whole matrix: one mean and one variance for all nodes and columns; no scale, no shift."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape, eps=1e-5)


class GCN(nn.Module):
    """LN(A PReLU(A h W1) W2): unlike `GCNLayer` without biases, dropout on h W, and one norm over the whole matrix."""

    def __init__(self, inputs: int, outputs: int, drop: float) -> None:
        super().__init__()
        # Uniform within 1 / sqrt(outputs).
        shapes = ((inputs, outputs), (outputs, outputs))
        self.weights = nn.ParameterList(
            torch.empty(s).uniform_(-(outputs**-0.5), outputs**-0.5) for s in shapes
        )
        self.activation, self.norm, self.drop = nn.PReLU(), WholeNorm(), drop

    def forward(self, h: Tensor, graph: SparseMatrix) -> Tensor:
        first, second = self.weights
        h = self.activation(graph.matmul(dropout(h @ first, self.drop, self.training)))
        return self.norm(graph.matmul(dropout(h @ second, self.drop, self.training)))


class Semantic(nn.Module):
    """sum_v beta_v z_v over views z_v (n, d), beta = softmax_v(a . mean over nodes of tanh(W z_v + b))."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.lin, self.drop = nn.Linear(width, width), drop
        self.query = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, width), gain=1.414))
        nn.init.xavier_normal_(self.lin.weight, gain=1.414)

    def weights(self, views: Tensor) -> Tensor:
        """beta (v,) of `views` (v, n, d)."""
        query = dropout(self.query, self.drop, self.training)
        return (torch.tanh(self.lin(views)).mean(1) @ query.T).squeeze(1).softmax(0)

    def forward(self, views: Tensor) -> Tensor:
        return torch.einsum("v,vnd->nd", self.weights(views), views)


class Graphs(NamedTuple):
    """What views see, fixed before training. Of each path its normalised matrix and a masked one; the mean of each of
    both; the target's features of each path, and masked ones (one entry where all paths have the same)."""

    paths: list[SparseMatrix]
    masked: list[SparseMatrix]
    mean: SparseMatrix
    masked_mean: SparseMatrix
    features: list[Features]
    masked_features: list[Features]


class MEOW(nn.Module):
    """Projections of each type, contexts of each path, the shared encoder, and the head that is contrasted."""

    def __init__(self, data: HeteroTask, targets: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, self.drop, self.config = config["hidden"], config["dropout"], config
        self.target = nn.ModuleList(nn.Linear(data.inputs[data.target], width) for _ in range(targets))
        between = {kind for path in data.contexts for kind, _ in path}
        self.others = nn.ModuleDict({kind: nn.Linear(data.inputs[kind], width) for kind in sorted(between)})
        self.mixes = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width, bias=False) for _ in path) for path in data.contexts
        )
        self.encoder, self.attention = GCN(width, width, self.drop), Semantic(width, self.drop)
        self.project = nn.Linear(width, width)
        self.weigh = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, 1))
        self.bilinear = nn.Linear(width, width, bias=False)

    def dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.drop, self.training)

    def projected(self, layer: nn.Linear, x: Features) -> Tensor:
        """ELU(dropout(linear)) (n, d)."""
        return F.elu(self.dropped(linear(layer, x, 0.0)))

    def targets(self, features: Sequence[Features]) -> list[Tensor]:
        """h_tar of each set of features of the target."""
        return [self.projected(layer, x) for layer, x in zip(self.target, features, strict=True)]

    def context(self, data: HeteroTask) -> list[Tensor]:
        """For each path the sum over the types between of dropout(W mean of their h), (n, d)."""
        h = {kind: self.projected(layer, data.features[kind]) for kind, layer in self.others.items()}
        return [
            sum(
                (
                    self.dropped(mix(mean.matmul(h[kind])))
                    for mix, (kind, mean) in zip(mixes, path, strict=True)
                ),
                torch.zeros((), device=self.project.weight.device),
            )
            for mixes, path in zip(self.mixes, data.contexts, strict=True)
        ]

    def coarse(self, data: HeteroTask, graphs: Graphs, shuffled: bool = False) -> Tensor:
        """z^c (n, d): the mean graph of all paths, no context. shuffled: of rows in another order, for DGI."""
        h = torch.stack(self.targets(graphs.features)).mean(0)
        return self.encoder(h[torch.randperm(len(h), device=h.device)] if shuffled else h, graphs.mean)

    def views(self, data: HeteroTask, graphs: Graphs) -> Tensor:
        """(v, n, d) views of the fine view, rows at length 1: of each path, and of each path masked."""
        found, masking = [], self.config["masking"]
        if self.config["views"] == "coarse":
            pairs = [(graphs.features, graphs.mean), (graphs.masked_features, graphs.masked_mean)][
                : 1 + masking
            ]
            found = [self.encoder(torch.stack(self.targets(x)).mean(0), graph) for x, graph in pairs]
            return F.normalize(torch.stack(found), dim=2)
        count = len(graphs.paths)
        contexts = self.context(data) if self.config["context"] else None
        sides = [(graphs.features, graphs.paths), (graphs.masked_features, graphs.masked)][: 1 + masking]
        for features, matrices in sides:
            h = self.targets(features)
            for number in range(count):
                own = h[number if len(h) > 1 else 0]
                mixed = F.elu(own) if contexts is None else F.elu(own + contexts[number])
                found.append(self.encoder(mixed, matrices[number]))
        return F.normalize(torch.stack(found), dim=2)

    def head(self, z: Tensor) -> Tensor:
        """z~ (n, d), rows at length 1."""
        return F.normalize(torch.tanh(self.project(z)), dim=1)

    def embed(self, data: HeteroTask, graphs: Graphs) -> Tensor:
        """(n, d), what is frozen and probed."""
        if self.config["model"] == "dgi":
            return self.coarse(data, graphs)
        return self.attention(self.views(data, graphs))

    def loss(self, data: HeteroTask, graphs: Graphs) -> Tensor:
        config = self.config
        if config["model"] == "dgi":
            real, other = self.coarse(data, graphs), self.coarse(data, graphs, shuffled=True)
            summary = self.bilinear(torch.sigmoid(real.mean(0)))
            return (F.softplus(-(real @ summary)).mean() + F.softplus(other @ summary).mean()) / 2
        coarse, fine = (
            self.head(self.coarse(data, graphs)),
            self.head(self.attention(self.views(data, graphs))),
        )
        tau = config["tau"]
        if config["model"] == "adameow":
            return soft_contrast(fine, coarse, tau, self.weigh)
        if config["model"] == "infonce":
            return weighted_contrast(coarse, fine, tau, None)
        found = [clustering(fine.detach(), config[f"clusters_{i}"], tau) for i in (1, 2)]
        loss = weighted_contrast(coarse, fine, tau, hard_weights([run.assigned for run in found]))
        return loss + (config["lam"] * prototypes(coarse, found) if config["model"] == "meow" else 0.0)


# ---- training ----

_claim: dict[str, Any] = {"margin": 0.0, "origin": "direction", "data": "synthetic_bibliography"}


@register
class MEOWPaper(NetworkPaper):
    """Full-batch Adam. The weights of the least training loss are kept; MEOW stops when it has not fallen for long.

    Labels and test parts are for probes: logistic regression and k-means on frozen embeddings.
    """

    slug = "meow"
    title = "Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative Samples"
    citation = "Yu, Ge, Li, Zhou. TKDE 2024. arXiv:2212.13847"
    task = "heterogeneous node classification"
    baselines = "AdaMEOW, InfoNCE, hard negatives, DGI, raw features, no context"
    datasets = tuple(LOADERS)
    metrics = METRICS
    objective = "val_macro_f1"
    selection = "train_loss"
    carried = ("least", "waited")
    tiny = Tiny("synthetic_bibliography", 3, {"hidden": 16, "clusters_1": 8, "clusters_2": 16})
    claims = (
        Claim(
            name="beats_raw_features",
            statement="MEOW's embeddings have a higher test accuracy under a linear probe than the nodes' own features",
            treatment={"model": "meow"},
            baseline={"model": "raw"},
            metric="test_accuracy",
            **_claim,
        ),
        Claim(
            name="beats_raw_context",
            statement="MEOW's embeddings have a higher test accuracy than features with means of neighbours' features",
            treatment={"model": "meow"},
            baseline={"model": "raw_context"},
            metric="test_accuracy",
            seeds=10,
            **_claim,
        ),
        Claim(
            name="context_groups",
            statement="With meta-path contexts clusters of MEOW's embeddings agree better with the classes (NMI)",
            treatment={"model": "meow", "context": True},
            baseline={"model": "meow", "context": False},
            metric="test_nmi",
            seeds=10,
            **_claim,
        ),
    )
    paper_steps = dict.fromkeys(sets.HECO, 1000)
    default_steps = 12
    unit = "ten epochs"

    @classmethod
    def unsuited(cls, config: Mapping[str, Any], data: str, data_dir: Path | None) -> str | None:
        """Dense features where they are probed as they are; else the pruning of the paths, and similarities of all
        pairs of target nodes, some of them at a time, where a model contrasts them."""
        model, graph = config["model"], load(data, data_dir)
        if model in UNTRAINED:
            needs = [plain_need(graph, model == "raw_context")]
        else:
            pairs = 0.0 if model == "dgi" else MATRICES * 4e-9 * graph.nodes**2
            keep = [config[f"keep_{min(number, 2) + 1}"] for number in range(len(graph.paths))]
            needs = [(f"similarities of all pairs of {graph.nodes} nodes", pairs), paths_need(graph, keep)]
        return next((f"{what} need {size:.0f} GB" for what, size in needs if size > MOST), None)

    def prepare(self) -> None:
        config, where = self.config, (self.setting.data_dir, self.device)
        if config["model"] not in MODELS:
            raise ValueError(f"model={config['model']}: known are {', '.join(MODELS)}")
        self.data = HeteroTask(self.data_name, *where, self.split_rng, config["labelled"])
        self.untrained = config["model"] in UNTRAINED
        if self.untrained:
            self.fixed = self.data.plain(config["model"] == "raw_context")
            # Nothing is trained: the one parameter is there for the optimiser.
            self.net: nn.Module = nn.ParameterList([nn.Parameter(torch.zeros(()))])
        else:
            self.views = self.graphs()
            self.net = MEOW(self.data, len(self.views.features), config).to(self.device)
        self.optimiser = torch.optim.Adam(
            self.net.parameters(), lr=config.get("lr", 0.0), weight_decay=config.get("weight_decay", 0.0)
        )
        self.least, self.waited = float("inf"), 0

    def graphs(self) -> Graphs:
        """The pruned paths, and masks that stay the same through training, drawn by the trial's own generator."""
        config, graph, device, rng = self.config, self.data.graph, self.device, self.rng.numpy
        turned, paths, hidden = config["receive"] == "chosen_by", [], []
        for number, path in enumerate(graph.paths):
            which = min(number, 2) + 1
            kept = pruned(path.counts, config[f"keep_{which}"])
            share = config.get(f"adj_mask_{which}", 0.0)
            paths.append(symmetric_scaled(kept, turned))
            hidden.append(symmetric_scaled(masked(kept, share, rng), turned))
        own = [path.features for path in graph.paths if path.features is not None]
        features = own if len(own) == len(paths) else [graph.features[graph.target]]
        covered = [masked_features(x, config.get("feat_mask", 0.0), rng) for x in features]

        def mean(matrices: list[sp.csr_matrix]) -> SparseMatrix:
            return SparseMatrix(sp.csr_matrix(sum(matrices[1:], matrices[0]) / len(matrices)), device)

        return Graphs(
            [SparseMatrix(matrix, device) for matrix in paths],
            [SparseMatrix(matrix, device) for matrix in hidden],
            mean(paths),
            mean(hidden),
            [on_device(x, device) for x in features],
            [on_device(x, device) for x in covered],
        )

    def embedding(self, net: nn.Module) -> np.ndarray:
        """(n, d) in evaluation mode."""
        if self.untrained:
            return self.fixed
        with torch.no_grad():
            return net.eval().embed(self.data, self.views).cpu().numpy()

    def epoch(self) -> dict[str, float]:
        loss = Mean()
        for _ in range(0 if self.untrained else EPOCHS):
            now = self.net.loss(self.data, self.views)
            self.descend(now)
            loss.add(now)
            self.waited = 0 if now.item() < self.least else self.waited + 1
            self.least = min(self.least, now.item())
            if self.waited >= self.config.get("patience", float("inf")):
                self.stopped = True
                break
        found = self.data.probe(self.embedding(self.net), "validation")
        return {
            "val_accuracy": found.accuracy,
            "val_macro_f1": found.macro_f1,
            "train_loss": 0.0 if self.untrained else loss.value,
        }

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        z = self.embedding(net)
        found, (nmi, ari) = self.data.probe(z, "test"), self.data.clustered(z)
        scores = {"test_accuracy": found.accuracy, "test_macro_f1": found.macro_f1, "test_auc": found.auc}
        return {**scores, "test_nmi": nmi, "test_ari": ari}
