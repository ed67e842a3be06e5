"""By what the parts of the data are drawn, each trial's own seed or one split_seed for all, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from fairsweep.trainables import catalog
from fairsweep.trainables.base import Setting
from fairsweep.trainables.parts import PARTS, Members, identity, said
from fairsweep.trainables.tasks.rng import TrialRNG
from fairsweep.trainables.tasks.training import NetworkPaper

# Papers that draw parts by chance, each with a set of its own that it draws them of.
DRAWN = {
    "dagnn": "csbm",
    "forward_gnn": "csbm",
    "dgmlp": "csbm",
    "mowst": "synthetic_two_populations",
    "dual_hypergraph": "digits_pixels",
    "ncn": "synthetic_geometric",
    "diffusion_gahb": "digits",
    "information_plane": "synthetic_icosahedron",
    "final_mlp": "synthetic_multiplicative",
    "sheaf_rec": "digits_ink",
    "graph_lstm_traffic": "synthetic_platoons",
}

torch.set_num_threads(1)


def start(
    slug: str, seed: int, split_seed: int | None = None, data: str | None = None, **changes: Any
) -> NetworkPaper:
    paper = catalog.get(slug)
    data = data or DRAWN.get(slug) or paper.tiny.data
    made = paper()
    config = paper.space().complete({**paper.space().paper_config(data), **paper.tiny.config, **changes})
    made.setup(config, Setting(seed, data=data, steps=paper.tiny.steps, split_seed=split_seed))
    assert isinstance(made, NetworkPaper)
    return made


def held(paper: NetworkPaper) -> list[np.ndarray]:
    """The arrays in which a task says what is in which part."""

    def arrays(value: Any) -> Iterator[np.ndarray]:
        if isinstance(value, torch.Tensor | np.ndarray):
            yield np.asarray(value)
        elif isinstance(value, dict):
            for name in sorted(value):
                yield from arrays(value[name])
        elif isinstance(value, list | tuple):
            for one in value:
                yield from arrays(one)

    data: Any = paper.data  # type: ignore[attr-defined]
    names = ("links", "negatives", "subsets", "parts")
    return [found for name in names for found in arrays(getattr(data, name, ()))]


def alike(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return len(one) == len(two) and all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def weights(paper: NetworkPaper) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in paper.net.parameters()])


@pytest.mark.parametrize("slug", DRAWN)
def test_one_split_seed_gives_all_trials_the_same_parts_and_other_weights(slug: str) -> None:
    one, two, other = start(slug, 3, split_seed=5), start(slug, 4, split_seed=5), start(slug, 3, split_seed=6)
    assert held(one) and alike(held(one), held(two)) and not alike(held(one), held(other))
    assert not torch.equal(weights(one), weights(two))
    assert one.step() != two.step()


@pytest.mark.parametrize("slug", DRAWN)
def test_without_one_the_trials_seed_draws_parts_and_all_else(slug: str) -> None:
    one, two = start(slug, 3), start(slug, 4)
    assert not alike(held(one), held(two))
    assert one.split_rng is one.rng.numpy, (
        "one stream, as ever: what is drawn after the parts has gone on from it"
    )
    assert alike(held(one), held(start(slug, 9, split_seed=3))), "those of a trial of that seed"


def test_the_numbers_of_sweeps_without_a_split_seed_are_those_of_ever() -> None:
    made = start("ncn", 3)
    from fairsweep.trainables.tasks.link_prediction import LinkTask

    stream = TrialRNG(3).numpy
    task = LinkTask("synthetic_geometric", None, "cpu", stream)
    assert all(torch.equal(task.links[part], made.data.links[part]) for part in task.links)  # type: ignore[attr-defined]
    assert made.rng.numpy.bit_generator.state == stream.bit_generator.state


# -- what is in a part ------------------------------------------------------------------------------------

PAPERS = [slug for slug in catalog.slugs() if not slug.startswith("test_")]
WITHOUT_END = {"pdvn", "pfn"}  # whose examples to train on are drawn anew all along


@pytest.mark.parametrize("slug", PAPERS)
def test_every_paper_of_the_catalogue_says_what_is_in_its_parts(slug: str) -> None:
    one, two = (start(slug, seed, split_seed=5, data=catalog.get(slug).tiny.data) for seed in (3, 4))
    found = one.parts()
    assert found is not None and found == two.parts()
    assert set(found) == ({"validation", "test"} if slug in WITHOUT_END else set(PARTS))
    assert len(set(found.values())) == len(found)
    members = one.members()
    assert members is not None and members.shared() is None, "a test example is in another part"
    assert all(len(ids) == len(np.unique(ids)) > 0 for ids in members.examples.values())


@pytest.mark.parametrize("slug", DRAWN)
def test_other_parts_have_other_digests(slug: str) -> None:
    # Of 800 images each the two training sets of denoisers are all that there are; they are tested on the same ones.
    denoises = slug == "diffusion_gahb"
    few = {"n_train": 100} if denoises else {}
    one, two = (start(slug, seed, **few).parts() for seed in (3, 4))
    assert one is not None and two is not None
    drawn = ["train"] if denoises else PARTS
    assert [part for part in PARTS if one[part] != two[part]] == list(drawn)


def test_what_a_configuration_does_to_the_examples_leaves_them_the_same() -> None:
    def parts(slug: str, data: str, **changes: Any) -> dict[str, str]:
        found = start(slug, 0, data=data, **changes).parts()
        assert found is not None
        return found

    whole, small = parts("standalone", "digits"), parts("standalone", "digits", side=4, train_images=200)
    assert small["test"] == whole["test"] and small["train"] != whole["train"]
    assert parts("biper", "digits")["test"] == whole["test"], "papers of one task tell the same of one set"
    near, far = (parts("pgn", "sines", seq_len=n) for n in (48, 96))
    assert near["test"] == far["test"] and near["train"] != far["train"]
    assert parts("pgn", "sines", seq_len=48, horizon=12)["test"] != near["test"]


def test_the_order_of_examples_does_not_matter_and_what_they_are_of_does() -> None:
    def of(data: str, ids: Any) -> str:
        return Members(data, {"test": np.array(ids)}).digests()["test"]

    assert of("a", [3, 1, 2]) == of("a", [1, 2, 3]) != of("a", [1, 2, 4])
    assert of("a", [1, 2]) != of("b", [1, 2])
    assert of("a", ["x", "y"]) == of("a", ["y", "x"]) != of("a", ["xy"])
    assert identity(np.zeros(2), None) != identity(np.zeros((2, 1)), None) != identity(np.zeros((2, 1)), "")


@pytest.mark.parametrize(
    "given, words",
    [
        (
            {"train": range(9), "test": np.array([8, 20, 4])},
            "2 examples of test are in train, too, such as 4",
        ),
        ({"validation": ["a"], "test": {"a", "b"}}, "1 examples of test are in validation, too, such as a"),
        ({"test": [1.5]}, "test holds 1.5; must hold whole numbers or texts"),
        ({"test": "rows"}, "test='rows': must hold whole numbers or texts"),
        ({"train": 7}, "train=7: must hold whole numbers or texts"),
        ({"train": [True]}, "train holds True"),
        ({"train": [1], "test": ["a"]}, "train has whole numbers and test texts"),
        ({}, "says nothing"),
    ],
)
def test_what_is_no_part_is_refused_in_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"^trial\.parts: ") as caught:
        said(given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_examples_may_be_named_in_any_container() -> None:
    import pandas as pd

    ways: list[Any] = [[1, 2], (2, 1), {1, 2}, range(1, 3), np.array([1, 2]), torch.tensor([2, 1])]
    ways += [pd.Index([1, 2]), pd.Series([2, 1]), np.array([1, 2], np.uint8), {1: "", 2: ""}]
    assert len({said({"test": way, "train": None}).digests()["test"] for way in ways}) == 1
    assert said({"test": [2**70]}).digests() != said({"test": [2**71]}).digests()


def test_a_sparse_matrix_is_known_by_what_it_holds_not_by_how_it_is_stored() -> None:
    """SciPy 1.17 sorts the indices of a matrix in place, say where it is added to another."""
    dense = np.array([[0, 2.0, 3.0], [1.0, 0, 0]])
    known = identity(sp.csr_matrix(dense))
    unsorted = sp.csr_matrix(
        (np.array([3.0, 2.0, 1.0]), np.array([2, 1, 0]), np.array([0, 2, 3])), shape=(2, 3)
    )
    wide = sp.csr_matrix(
        (unsorted.data, unsorted.indices.astype(np.int64), unsorted.indptr.astype(np.int64)), (2, 3)
    )
    zeros = sp.csr_matrix(
        (np.array([2.0, 3.0, 1.0, 0.0]), np.array([1, 2, 0, 2]), np.array([0, 2, 4])), shape=(2, 3)
    )
    for same in (unsorted, wide, zeros, sp.csc_matrix(dense), sp.coo_matrix(dense).tocsr()):
        assert identity(same) == known
    assert not unsorted.has_sorted_indices
    dense[0, 1] = 2.5
    assert identity(sp.csr_matrix(dense)) != known
