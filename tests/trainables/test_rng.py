"""A trial's random streams: independent of other trials, invisible outside, exactly resumable."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F

from fairsweep.trainables.tasks.rng import TrialRNG


def draw(rng: TrialRNG) -> tuple[list[float], list[float]]:
    """What a training step draws: an initialiser, a dropout mask and a NumPy permutation."""
    with rng.scope():
        layer = torch.nn.Linear(3, 2)
        dropped = F.dropout(torch.ones(20), 0.5)
    return [*layer.weight.flatten().tolist(), *dropped.tolist()], rng.numpy.permutation(10).tolist()


def test_interleaved_trials_do_not_affect_each_other() -> None:
    alone = {seed: [draw(rng) for _ in range(4)] for seed in (0, 1) for rng in [TrialRNG(seed)]}
    a, b = TrialRNG(0), TrialRNG(1)
    mixed: dict[int, list] = {0: [], 1: []}
    for _ in range(4):
        mixed[0].append(draw(a))
        torch.rand(5)
        mixed[1].append(draw(b))
    assert mixed == alone
    assert alone[0] != alone[1]


def test_streams_move_on_from_scope_to_scope() -> None:
    rng = TrialRNG(0)
    first, second = draw(rng), draw(rng)
    assert first[0] != second[0] and first[1] != second[1]


def test_outer_state_is_untouched_even_by_an_exception() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rng = TrialRNG(0)
    draw(rng)
    with pytest.raises(ZeroDivisionError), rng.scope():
        torch.rand(9)
        raise ZeroDivisionError
    assert torch.equal(torch.rand(3), expected)
    # the nine numbers drawn before the exception count
    other = TrialRNG(0)
    draw(other)
    with other.scope():
        torch.rand(9)
    assert draw(rng) == draw(other)


def test_state_round_trip_continues_bit_identically() -> None:
    rng = TrialRNG(7)
    draw(rng)
    buffer = io.BytesIO()
    torch.save(rng.state_dict(), buffer)
    expected = [draw(rng) for _ in range(3)]
    buffer.seek(0)
    resumed = TrialRNG(8)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert [draw(resumed) for _ in range(3)] == expected


def test_a_saved_state_is_not_moved_by_later_draws() -> None:
    rng = TrialRNG(7)
    state = rng.state_dict()
    expected = draw(rng)
    rng.load_state_dict(state)
    assert draw(rng) == expected


def test_misuse_is_refused() -> None:
    rng = TrialRNG(0)
    with rng.scope():
        with pytest.raises(RuntimeError, match="already open"), rng.scope():
            pass
        with pytest.raises(RuntimeError, match="leave the scope"):
            rng.state_dict()
    with pytest.raises(ValueError, match="seed=-1"):
        TrialRNG(-1)
    with pytest.raises(ValueError, match="device=meta"):
        TrialRNG(0, "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_stream_is_the_trials_own() -> None:
    def on_device(rng: TrialRNG) -> list[float]:
        with rng.scope():
            return torch.rand(4, device="cuda").tolist()

    torch.cuda.manual_seed(3)
    expected = torch.rand(2, device="cuda").tolist()
    torch.cuda.manual_seed(3)
    rng = TrialRNG(0, "cuda")
    first = on_device(rng)
    state = rng.state_dict()
    second = on_device(rng)
    assert torch.rand(2, device="cuda").tolist() == expected
    assert first != second
    again = TrialRNG(1, "cuda")
    again.load_state_dict(state)
    assert on_device(again) == second
