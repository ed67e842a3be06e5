from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairsweep.cluster.engine.weights import Board, Shelf, key_of


def test_a_key_depends_on_everything_in_the_recipe_and_not_on_its_order() -> None:
    recipe = {"space": "chain/1", "seed": 0, "config": {"lr": 0.1}}
    assert key_of(recipe) == key_of(dict(reversed(recipe.items())))
    others = [{**recipe, "seed": 1}, {**recipe, "config": {"lr": 0.2}}, {**recipe, "code": "x"}]
    assert len({key_of(r) for r in [recipe, *others]}) == 4


def test_a_shelf_gives_back_what_was_put_on_it(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path))
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "allow.pickle": np.ones(1, np.int64)}
    assert shelf.keys() == [] and not shelf.has("k")
    with pytest.raises(FileNotFoundError):
        shelf.load("k")
    shelf.save("k", arrays, {"seed": 3})
    found = shelf.load("k")
    assert shelf.keys() == ["k"] and shelf.recipe("k") == {"seed": 3}
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


def test_weights_that_were_not_written_whole_are_not_there(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path))
    shelf.save("k", {"w": np.ones(3)}, {})
    (tmp_path / "supernets/k/weights.npz").rename(tmp_path / "supernets/k/.weights.npz")
    assert not shelf.has("k") and shelf.keys() == []


def test_a_board_says_where_weights_lie() -> None:
    board = Board()
    board.put("k", ["ref"])
    assert board.get("k") == ["ref"] and board.get("other") == []
