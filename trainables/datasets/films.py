"""Films of the knowledge graph Freebase, with actors, directors and writers between them."""

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
_KG = "200a0636fa07c218119a42e5bac7aa3e26e3665a6f919c1b22909bd412b14779"
GENRE = "film.film.genre"
CLASSES = ("m.02kdv5l", "m.05p553", "m.02822")  # genres as Freebase names them
BETWEEN = {"actor": "film.film.actor", "director": "film.film.directed_by", "writer": "film.film.written_by"}
# Nothing of genres, which are the classes.
DESCRIBING = ("language", "country", "rating", "subjects", "award_nomination", "production_companies")
RARE = 5  # films that a feature needs
SHARED = 2  # films that an actor, a director or a writer needs


def _triples() -> list[list[str]]:
    from fairsweep.trainables.datasets.fetch import wheel_member

    content = wheel_member("films", _RECBOLE, f"{_FOLDER}kg", _KG)
    return [line.split("\t") for line in content.decode("utf-8").splitlines()[1:]]


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
    relations: dict[str, list[tuple[str, str]]] = {}
    for head, relation, tail in _triples():
        relations.setdefault(relation, []).append((head, tail))
    entities = sorted({head for head, _ in relations[GENRE]})
    number = {entity: i for i, entity in enumerate(entities)}

    def matrix_of(name: str, least: int) -> sp.csr_matrix:
        pairs = ((number[head], tail) for head, tail in relations[name] if head in number)
        return _incidence(pairs, len(entities), least)

    genres = [set[int]() for _ in entities]
    for head, tail in relations[GENRE]:
        if tail in CLASSES:
            genres[number[head]].add(CLASSES.index(tail))
    labels = [min(found) if len(found) == 1 else -1 for found in genres]
    matrices = {kind: matrix_of(name, SHARED) for kind, name in BETWEEN.items()}
    told = [matrix_of(f"film.film.{name}", RARE) for name in DESCRIBING]
    matrices["film"] = sp.csr_matrix(sp.hstack(told))
    found = {"labels": np.array(labels, np.int64)}
    for kind, matrix in matrices.items():
        found |= {f"{kind}_ends": np.stack(matrix.nonzero()), f"{kind}_shape": np.array(matrix.shape)}
    return found


def films(data_dir: Path | None = None) -> HeteroGraph:
    """1596 films of three genres; 565 of them, of none or of several of these, have no class.

    Paths over actors, directors and writers of two films and more, which have no features; a film's are its languages,
    countries, ratings, subjects, nominations and companies. In place of IMDB.

    Source: PyPI recbole 1.2.1 (MIT), read from the package: triples of Freebase about films of MovieLens-100K (Zhao et
    al. 2019). Its file that joins them to items of MovieLens is not used: by that, films of one director are of one
    genre no more often than any two. 20 labels a class for training, 20 for validation.
    """
    from fairsweep.trainables.datasets.cache import cached_arrays

    a = cached_arrays(f"films-2-{_KG[:16]}", _arrays)
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
        per_class=(20, 20),
        names=CLASSES,
    )
