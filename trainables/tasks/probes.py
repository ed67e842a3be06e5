"""What frozen embeddings are worth: linear classification, clusters, links. The encoder is not touched.

Everything here is deterministic: what is drawn, is drawn from fixed seeds, so that two embeddings that are equal are
worth the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import scipy.stats
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score

# Inverse strengths of the L2 penalty among which the validation part chooses.
STRENGTHS = (2.0**-5, 1.0, 2.0**5, 2.0**10)
PROBED = ("validation", "test")


class Scores(NamedTuple):
    """accuracy: equal to micro-averaged F1 where a node has one class. macro_f1, auc: means over the classes; auc over
    those that some examples are of and some are not."""

    accuracy: float
    macro_f1: float
    auc: float


def unit_rows(z: np.ndarray) -> np.ndarray:
    """Each row of z (n, d) at length 1; rows of zeros stay. float64."""
    z = np.asarray(z, np.float64)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1)


def _logistic(z: np.ndarray, labels: np.ndarray, strength: float) -> LogisticRegression:
    model = LogisticRegression(C=strength, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one of several penalties may be slow
        return model.fit(z, labels)


def _auc(true: np.ndarray, score: np.ndarray) -> float:
    """The share of pairs of a true and another example (n,) that `score` puts in order, ties half."""
    count = int(true.sum())
    ranks = scipy.stats.rankdata(score)[true].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(true) - count)))


def _scores(labels: np.ndarray, probability: np.ndarray) -> Scores:
    classes = probability.shape[1]
    found = probability.argmax(1)
    mixed = [k for k in range(classes) if 0 < (labels == k).sum() < len(labels)]
    aucs = [_auc(labels == k, probability[:, k]) for k in mixed]
    macro = f1_score(labels, found, labels=np.unique(labels), average="macro", zero_division=0)
    return Scores(float((labels == found).mean()), float(macro), float(np.mean(aucs)) if aucs else 0.5)


def linear_probe(
    z: np.ndarray,
    labels: np.ndarray,
    parts: Mapping[str, np.ndarray],
    strengths: Sequence[float] = STRENGTHS,
    probed: Sequence[str] = PROBED,
) -> dict[str, Scores]:
    """Logistic regression on the rows z (n, d) of the training part: what it is worth on those `probed`.

    labels: (n,) int from 0. Of `strengths` the one with the best validation accuracy is taken, among equals the first.
    """
    classes, train = int(labels.max()) + 1, parts["train"]
    known = np.unique(labels[train])
    best, model, held = -1.0, None, parts["validation"]
    for strength in strengths if len(known) > 1 else ():
        tried = _logistic(z[train], labels[train], strength)
        accuracy = tried.score(z[held], labels[held])
        if accuracy > best:
            best, model = accuracy, tried
    found = {}
    for part in probed:
        rows = parts[part]
        probability = np.zeros((len(rows), classes))
        probability[:, known] = 1.0 if model is None else model.predict_proba(z[rows])
        found[part] = _scores(labels[rows], probability)
    return found


def clusters(z: np.ndarray, count: int, starts: int = 5) -> np.ndarray:
    """k-means of z (n, d) from `starts` starts: the cluster of each row, (n,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters
        return KMeans(min(count, len(z)), n_init=starts, random_state=0).fit_predict(z)


def agreement(labels: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Normalised mutual information (arithmetic mean, in [0, 1]) and adjusted Rand index of two groupings (n,)."""
    return float(normalized_mutual_info_score(labels, found)), float(adjusted_rand_score(labels, found))


def link_auc(
    z: np.ndarray,
    links: Mapping[str, np.ndarray],
    negatives: Mapping[str, np.ndarray],
    strength: float = 1.0,
    probed: Sequence[str] = PROBED,
) -> dict[str, float]:
    """AUC of a linear classifier on the products z_i * z_j of the ends of pairs, trained on the training part.

    links, negatives: part -> pairs (2, e) with and without a link.
    """

    def products(part: str) -> tuple[np.ndarray, np.ndarray]:
        pairs = np.concatenate([links[part], negatives[part]], axis=1)
        return z[pairs[0]] * z[pairs[1]], np.arange(pairs.shape[1]) < links[part].shape[1]

    model = _logistic(*products("train"), strength)
    found = {}
    for part in probed:
        x, linked = products(part)
        found[part] = _auc(linked, model.decision_function(x))
    return found


def partition(adjacency: sp.csr_matrix, count: int = 10) -> np.ndarray:
    """(n,) parts of an undirected graph by regularised spectral clustering (Qin and Rohe 2013).

    The leading eigenvectors of D^-1/2 A D^-1/2, D the degrees plus their mean, rows at length 1, then k-means. The
    added mean keeps small components and hanging trees from becoming parts of their own.
    """
    n = adjacency.shape[0]
    count = min(count, n)
    degree = np.asarray(adjacency.sum(1), np.float64).ravel()
    scale = sp.diags(1 / np.sqrt(degree + max(degree.mean(), 1e-12)))
    matrix = (scale @ adjacency @ scale).astype(np.float64)
    if count < n - 1 and n > 50:
        # A fixed start of no symmetry: that of ARPACK is drawn from a state of the process.
        start = np.random.default_rng(0).standard_normal(n)
        values, vectors = sp.linalg.eigsh(matrix, k=count, which="LA", v0=start)
    else:
        values, vectors = np.linalg.eigh(matrix.toarray())
    leading = vectors[:, np.argsort(-values)[:count]]
    return clusters(unit_rows(leading), count)


def average_ranks(values: np.ndarray) -> np.ndarray:
    """(arms,) mean over the metrics of the rank of each arm, 1 the best; values (arms, metrics), larger is better."""
    return scipy.stats.rankdata(-np.asarray(values), axis=0).mean(1)
