"""The point of least norm in a convex hull: by hand, by every face, and by a solver of quadratic programmes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize

from fairsweep.trainables.tasks.min_norm import frank_wolfe, min_norm

SOLVERS = (min_norm, frank_wolfe)


def by_faces(gram: np.ndarray) -> float:
    """The least square over all faces of the simplex, each by its normal equations."""
    n, best = len(gram), np.inf
    for size in range(1, n + 1):
        for face in combinations(range(n), size):
            part = gram[np.ix_(face, face)]
            w = np.linalg.pinv(part) @ np.ones(size)
            if abs(w.sum()) > 1e-12 and (w / w.sum() >= -1e-9).all():
                w = w / w.sum()
                best = min(best, w @ part @ w)
    return best


def vectors(seed: int, tasks: int, size: int, decades: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((tasks, size))
    return v / np.linalg.norm(v, axis=1, keepdims=True) * 10 ** rng.uniform(-decades, decades, (tasks, 1))


@pytest.mark.parametrize("seed", range(40))
def test_the_exact_point_is_that_of_every_other_way(seed: int) -> None:
    tasks, size = 2 + seed % 4, (3, 7, 40)[seed % 3]
    v = vectors(seed, tasks, size, decades=seed % 2)
    gram = v @ v.T
    w = min_norm(gram)
    assert (w >= 0).all() and w.sum() == pytest.approx(1, abs=1e-12)
    scale = np.diag(gram).max()
    square = w @ gram @ w
    # The card's invariants: no longer than the shortest; every gradient has at least the point's own product.
    assert square <= np.diag(gram).min() + 1e-12 * scale
    assert (gram @ w >= square - 1e-9 * scale).all()
    # More gradients than dimensions: the normal equations of a face are singular, and say too much.
    faces = by_faces(gram)
    assert square <= faces + 1e-10 * scale and (tasks > size or square >= faces - 1e-10 * scale)
    solved = minimize(
        lambda w: w @ gram @ w / scale,
        np.full(tasks, 1 / tasks),
        jac=lambda w: 2 * gram @ w / scale,
        method="SLSQP",
        bounds=[(0, 1)] * tasks,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert square <= solved.fun * scale + 1e-9 * scale
    assert square == pytest.approx(solved.fun * scale, abs=1e-6 * scale)


@pytest.mark.parametrize("tasks", [12, 30])
def test_many_tasks(tasks: int) -> None:
    v = vectors(tasks, tasks, 200) + 0.1
    gram = v @ v.T
    w = min_norm(gram)
    assert (gram @ w >= w @ gram @ w - 1e-10).all()
    assert frank_wolfe(gram) @ gram @ frank_wolfe(gram) == pytest.approx(w @ gram @ w, rel=1e-3)


@pytest.mark.parametrize("seed", range(10))
def test_frank_wolfe_comes_near(seed: int) -> None:
    v = vectors(seed, 5, 50)
    gram = v @ v.T
    w = frank_wolfe(gram)
    assert w.sum() == pytest.approx(1) and (w >= 0).all()
    assert (gram @ w >= w @ gram @ w - 1e-3).all()
    assert w @ gram @ w == pytest.approx(min_norm(gram) @ gram @ min_norm(gram), abs=1e-4)


@pytest.mark.parametrize("solve", SOLVERS)
def test_two_gradients_by_hand(solve: object) -> None:
    assert callable(solve)
    np.testing.assert_allclose(solve(np.eye(2)), [0.5, 0.5], atol=1e-9)
    opposite = solve(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    np.testing.assert_allclose(opposite, [0.5, 0.5], atol=1e-9)
    same = solve(np.ones((2, 2)))
    assert same.sum() == pytest.approx(1) and same @ np.ones((2, 2)) @ same == pytest.approx(1)
    # Of lengths 1 and 3 at right angles: 9/10 and 1/10.
    np.testing.assert_allclose(solve(np.diag([1.0, 9.0])), [0.9, 0.1], atol=1e-9)
    np.testing.assert_allclose(solve(np.array([[1.0, 2.0], [2.0, 9.0]]))[1], 0, atol=2e-3)


@pytest.mark.parametrize("solve", SOLVERS)
def test_degenerate_gradients(solve: object) -> None:
    assert callable(solve)
    np.testing.assert_array_equal(solve(np.array([[4.0]])), [1.0])
    for gram in (np.zeros((3, 3)), np.diag([1.0, 0.0, 2.0]), np.ones((4, 4)) * 1e-30):
        w = solve(gram)
        assert np.isfinite(w).all() and w.sum() == pytest.approx(1)
    # The origin lies inside of a triangle: no common descent.
    v = np.array([[1, 0], [-0.5, 0.8], [-0.5, -0.8], [3, 3.0]])
    assert solve(v @ v.T) @ v @ v.T @ solve(v @ v.T) == pytest.approx(0, abs=1e-4)
