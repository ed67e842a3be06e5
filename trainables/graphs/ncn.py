"""NCN and NCNC: neural common neighbours, and their completion.

Wang, Yang and Zhang, Neural Common Neighbor with Completion for Link Prediction, ICLR 2024, arXiv:2302.00890.
One MPNN runs on the whole graph; a candidate link pools its vectors over the common neighbours of both ends.
Completion adds the neighbours of one end only, weighted by the predicted probability of the link to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.link_prediction import (
    METRICS,
    SETS,
    Adjacency,
    Entries,
    LinkTask,
    hits,
    link_loss,
    pool,
    sampled,
)
from fairsweep.trainables.tasks.sparse import SparseMatrix, dropout, linear
from fairsweep.trainables.tasks.training import Mean, NetworkPaper

PREDICTORS = ("ncnc", "ncnc2", "ncn", "ncn2", "ncn_diff", "gae_cn", "gae", "cn_count")
COMPLETIONS = {"ncnc": 1, "ncnc2": 2}  # how often links are completed
POOLING = ("ncnc", "ncnc2", "ncn", "ncn2", "ncn_diff")  # those that pool vectors of neighbours


# ---- message passing ----


class MPNN(nn.Module):
    """h = MPNN(X, A): a linear layer, then D^-1/2 (A + I) D^-1/2 h per layer without weights or activation.

    jk: the sum over layers, each times a learned scalar, instead of the last one. residual: each layer adds its
    input. x_dropout on X, dropout behind the linear layer, tail_dropout behind the last layer.
    """

    def __init__(self, inputs: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.lin = nn.Linear(inputs, config["hidden"])
        self.layers, self.residual = config["mplayers"], config["residual"]
        # Standard normal, so of either sign: the authors' code.
        self.jk = nn.Parameter(torch.randn(self.layers)) if config["jk"] else None
        self.drops = config["x_dropout"], config["gnn_dropout"], config["tail_dropout"]

    def forward(self, x: Tensor | SparseMatrix, adjacency: Adjacency) -> Tensor:
        first, behind, tail = self.drops if self.training else (0.0, 0.0, 0.0)
        h = dropout(linear(self.lin, x, first), behind)
        outputs = []
        for layer in range(self.layers):
            new = adjacency.propagate(h)
            if layer == self.layers - 1:
                new = dropout(new, tail)
            h = new + h if self.residual else new
            outputs.append(h)
        return h if self.jk is None else torch.einsum("l,lnd->nd", self.jk, torch.stack(outputs))


# ---- the predictor ----


def layer(inputs: int, hidden: int, drop: float) -> list[nn.Module]:
    """Linear, LayerNorm, dropout, ReLU."""
    return [nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.Dropout(drop), nn.ReLU()]


def two_layers(inputs: int, hidden: int, drop: float) -> list[nn.Module]:
    """Linear, dropout, ReLU, then `layer`."""
    return [nn.Linear(inputs, hidden), nn.Dropout(drop), nn.ReLU(), *layer(hidden, hidden, drop)]


class Completion:
    """P of common neighbour completion: the calibrated probability of a link with logit l.

    p0 = sigmoid(scale (l - offset)), P = alpha pt p0 / (pt p0 + 1 - p0), in [0, alpha].
    most: neighbours of one end only that a pair keeps, by sampling, in training and in evaluation; None: all.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.scale, self.offset = config["probscale"], config["proboffset"]
        self.pt, self.alpha = config["pt"], config["alpha"]
        self.most = (config["trndeg"], config["tstdeg"]) if config["sampling"] else None

    def probability(self, logit: Tensor) -> Tensor:
        odds = self.scale * (logit - self.offset)
        p0, rest = torch.sigmoid(odds), torch.sigmoid(-odds)
        return self.alpha * self.pt * p0 / (self.pt * p0 + rest)


class Predictor(nn.Module):
    """Logits of pairs (i, j) from node vectors h (n, d): out(beta xcn(pooled) + xij(h_i * h_j)).

    What is pooled depends on `kind`. ncn: z = h + xlin(h) summed over N(i) and N(j) in common. ncnc, ncnc2: also
    over the nodes of only one of them, times P. ncn2: a second term for N(i) with the two-hop N2(j), and N2(i)
    with N(j); ncn_diff: a second term for the nodes of only one. gae_cn: the number of common neighbours.
    gae: nothing, only xij.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.kind, hidden, drop = config["predictor"], config["hidden"], config["pre_dropout"]
        self.edge_dropout = config.get("edge_dropout", 0.0)

        def tailed(layers: list[nn.Module]) -> nn.Sequential:
            return nn.Sequential(*layers, *([] if config["tailact"] else [nn.Linear(hidden, hidden)]))

        self.xij = tailed(layer(hidden, hidden, drop))
        self.out = nn.Sequential(*layer(hidden, hidden, drop), nn.Linear(hidden, 1))
        if self.kind != "gae":
            self.beta = nn.Parameter(torch.ones(()))
            self.xcn = tailed(two_layers(1 if self.kind == "gae_cn" else hidden, hidden, drop))
        if self.kind in POOLING:
            self.xlin = nn.Sequential(*two_layers(hidden, hidden, drop))
        if self.kind in ("ncn2", "ncn_diff"):
            self.xcn2 = tailed(two_layers(hidden, hidden, drop))
        self.depth = COMPLETIONS.get(self.kind, 0)
        self.completion = Completion(config) if self.depth else None

    def forward(self, h: Tensor, adjacency: Adjacency, pairs: Tensor) -> Tensor:
        """Logits (e,) of `pairs` (2, e); `adjacency` without loops, so that no node is its own neighbour."""
        if self.training:
            adjacency = adjacency.dropped(self.edge_dropout)
        # Once for all depths of completion: the authors' code applies xlin again in each, to its own output.
        z = h + self.xlin(h) if self.kind in POOLING else h.new_ones(len(h), 1)
        return self.score(h, z, adjacency, pairs, self.depth)

    def score(self, h: Tensor, z: Tensor, adjacency: Adjacency, pairs: Tensor, depth: int) -> Tensor:
        """The logits with common neighbours completed `depth` times."""
        i, j = pairs
        total = self.xij(h[i] * h[j])
        if self.kind != "gae":
            common, only_i = adjacency.overlap(adjacency, i, j)
            only_j = adjacency.overlap(adjacency, j, i)[1] if depth or self.kind == "ncn_diff" else only_i
            pooled = pool(z, common, len(i))
            if self.kind == "ncn_diff":
                total = total + self.xcn2(pool(z, only_i, len(i)) + pool(z, only_j, len(i)))
            if self.kind == "ncn2":
                far = adjacency.two_hops()
                ends = adjacency.overlap(far, i, j)[0], adjacency.overlap(far, j, i)[0]
                total = total + self.xcn2(pool(z, ends[0], len(i)) + pool(z, ends[1], len(i)))
            if depth:
                of_i = self.completed(h, z, adjacency, only_i, j, depth)
                of_j = self.completed(h, z, adjacency, only_j, i, depth)
                pooled = pooled + (of_i + of_j)
            total = total + self.beta * self.xcn(pooled)
        return self.out(total).squeeze(1)

    def completed(
        self, h: Tensor, z: Tensor, adjacency: Adjacency, entries: Entries, other: Tensor, depth: int
    ) -> Tensor:
        """(e, d): the sum of P(other end, u) z_u over the neighbours u in `entries`, of one end only.

        P comes from this predictor with one completion less, and no gradient flows through it.
        """
        completion = self.completion
        assert completion is not None
        if completion.most is not None:
            entries = sampled(entries, len(other), completion.most[0 if self.training else 1])
        with torch.no_grad():
            candidates = torch.stack([other[entries.pair], entries.node])
            p = completion.probability(self.score(h, z, adjacency, candidates, depth - 1))
        return pool(z, entries._replace(weight=entries.weight * p), len(other))


class LinkPredictor(nn.Module):
    """MPNN and predictor."""

    def __init__(self, inputs: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.mpnn = MPNN(inputs, config)
        self.predictor = Predictor(config)

    def encode(self, x: Tensor | SparseMatrix, adjacency: Adjacency) -> Tensor:
        """h (n, d) of features x (n, p)."""
        return self.mpnn(x, adjacency)

    def forward(self, h: Tensor, adjacency: Adjacency, pairs: Tensor) -> Tensor:
        return self.predictor(h, adjacency, pairs)


class CommonNeighbourCount(nn.Module):
    """The heuristic: pairs ranked by how many neighbours they share.

    Slope and intercept of the logit are trained; the slope is positive, so that they leave the ranking alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.zeros(()))
        self.intercept = nn.Parameter(torch.zeros(()))

    def encode(self, x: Tensor | SparseMatrix, adjacency: Adjacency) -> Tensor:
        """(n, 1) ones: every neighbour counts alike."""
        return torch.ones(adjacency.nodes, 1, device=self.intercept.device)

    def forward(self, h: Tensor, adjacency: Adjacency, pairs: Tensor) -> Tensor:
        common = adjacency.overlap(adjacency, *pairs)[0]
        return self.log_slope.exp() * pool(h, common, pairs.shape[1]).squeeze(1) + self.intercept


def build(inputs: int, config: Mapping[str, Any]) -> LinkPredictor | CommonNeighbourCount:
    """The model `config["predictor"]` for features of width `inputs`. ValueError if there is no such predictor."""
    if config["predictor"] not in PREDICTORS:
        raise ValueError(f"predictor={config['predictor']}: known are {', '.join(PREDICTORS)}")
    return CommonNeighbourCount() if config["predictor"] == "cn_count" else LinkPredictor(inputs, config)


# ---- training ----

_claim = partial(
    Claim,
    metric="test_hits20",
    margin=0.0,
    origin="direction",
    data="digits_500",
    seeds=30,
    steps=20,
    tunes=("gnn_lr", "pre_lr"),
)


@register
class NCNPaper(NetworkPaper):
    """Adam on batches of links; with target link removal (`tlr`) each batch is cut out of the graph.

    Only the batch's own links are removed, in both directions, before node vectors and neighbourhoods are
    computed; links that are validated and tested are never in the graph.
    """

    slug = "ncn"
    title = "Neural Common Neighbor with Completion for Link Prediction"
    citation = "Wang, Yang, Zhang. ICLR 2024. arXiv:2302.00890"
    task = "link prediction"
    baselines = "GAE, common-neighbour count, NCN, no link removal"
    contenders = {"predictor": PREDICTORS}
    datasets = tuple(SETS)
    metrics = METRICS
    objective = "val_hits"
    tiny = Tiny("synthetic_geometric", 6)
    claims = (
        _claim(
            "ncn_beats_gae",
            "Where features say nothing, NCN has a higher test Hits@20 than GAE",
            {"predictor": "ncn"},
            {"predictor": "gae"},
        ),
        _claim(
            "ncn_beats_counting",
            "On a geometric graph, NCN has a higher test Hits@20 than the count of common neighbours",
            {"predictor": "ncn"},
            {"predictor": "cn_count"},
            data="synthetic_geometric",
        ),
        _claim(
            "target_link_removal_helps",
            "NCN has a higher test Hits@20 with target link removal than without",
            {"predictor": "ncn", "tlr": True},
            {"predictor": "ncn", "tlr": False},
            seeds=60,
        ),
        _claim(
            "completion_helps",
            "NCNC has a higher test Hits@20 than NCN",
            {"predictor": "ncnc"},
            {"predictor": "ncn"},
        ),
    )

    paper_steps = dict.fromkeys(("cora", "citeseer", "pubmed"), 100)
    default_steps = 20  # the paper's own is 100

    @classmethod
    def tested_on(cls, data: str) -> str:
        """Hits@K of the K of `val_hits`."""
        return f"test_hits{SETS[data].hits}"

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        return 3

    def prepare(self) -> None:
        config = self.config
        # Before the model: the same seed gives every predictor the same split and negatives.
        self.data = LinkTask(self.data_name, self.setting.data_dir, self.device, self.split_rng)
        self.net = net = build(self.data.inputs, config).to(self.device)
        groups: list[dict[str, Any]]
        if isinstance(net, LinkPredictor):
            groups = [
                {"params": list(net.mpnn.parameters()), "lr": config["gnn_lr"]},
                {"params": list(net.predictor.parameters()), "lr": config["pre_lr"]},
            ]
        else:
            groups = [{"params": list(net.parameters()), "lr": config["pre_lr"]}]
        self.optimiser = torch.optim.Adam(groups)

    def scores(self, net: nn.Module, adjacency: Adjacency, part: str) -> tuple[Tensor, Tensor]:
        """Logits of the links and of the negatives of `part`, given the links of `adjacency`."""
        with torch.no_grad():
            h = net.eval().encode(self.data.features, adjacency)
            return self.data.scores(lambda pairs: net(h, adjacency, pairs), part)

    def train_scores(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a batch of training links (2, e) and of its negatives (2, e)."""
        adjacency = self.data.adjacency
        if self.config.get("tlr", False):
            adjacency = adjacency.without(positive)
        h = self.net.encode(self.data.features, adjacency)
        logits = self.net(h, adjacency, torch.cat([positive, negative], 1))
        return logits[: positive.shape[1]], logits[positive.shape[1] :]

    def epoch(self) -> dict[str, float]:
        train_loss = Mean()
        for positive, negative in self.data.batches(self.config["batch_size"]):
            loss = link_loss(*self.train_scores(positive, negative))
            self.descend(loss)
            train_loss.add(loss, positive.shape[1])
        positive, negative = self.scores(self.net, self.data.adjacency, "validation")
        return {
            "val_hits": hits(positive, negative, self.data.kind.hits),
            "val_loss": link_loss(positive, negative).item(),
            "train_loss": train_loss.value,
        }

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        known = self.config["validation_links_at_test"]
        adjacency = self.data.with_validation_links() if known else self.data.adjacency
        positive, negative = self.scores(net, adjacency, "test")
        return {f"test_hits{K}": hits(positive, negative, K) for K in (20, 50, 100)}
