"""Tracing of modules: what it leaves behind."""

import pytest
import torch
from torch import nn
from torch.fx import config as fx_config

from fairsweep.search_spaces.pruning.trace import STACK_TRACES, TraceError, trace


@pytest.mark.parametrize("known", [True, False], ids=["as it was", "unknown to this version"])
def test_the_setting_of_stack_traces_is_left_as_it_was(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if known:
        monkeypatch.setattr(fx_config, STACK_TRACES, False, raising=False)
    else:
        monkeypatch.delattr(fx_config, STACK_TRACES, raising=False)
    trace(nn.Linear(2, 2), torch.zeros(1, 2))
    assert getattr(fx_config, STACK_TRACES, None) is (False if known else None)


def test_the_setting_is_left_as_it_was_after_a_module_that_cannot_be_traced() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    before = getattr(fx_config, STACK_TRACES, None)
    with pytest.raises(TraceError, match=r"Branching: torch\.export cannot trace it"):
        trace(Branching(), torch.zeros(1, 2))
    assert getattr(fx_config, STACK_TRACES, None) == before
