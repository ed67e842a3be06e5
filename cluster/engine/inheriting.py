"""How a trial goes on from the checkpoint of one with another configuration.

A checkpoint holds what optimisers and learning-rate schedules were set to: loading it would undo what was changed.
So each checkpoint of a population says what these were right after `setup`, and what differs there between the two
configurations is carried over: a learning rate that a schedule has brought to a tenth stays at a tenth of the new one.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

DEPTH = 3  # of attributes below the paper in which an optimiser is looked for
Settings = list[dict[str, Any]]


class CannotInherit(ValueError):
    """The checkpoint of another trial is gone, or does not load under the new configuration."""


class Elsewhere(ABC):
    """What stands for a paper whose optimisers are in other processes: they are asked there."""

    @abstractmethod
    def settings(self) -> Settings:
        """See `settings_of`."""

    @abstractmethod
    def take_over(
        self, config: Mapping[str, Any], parent: str, state: Mapping[str, Any], fresh: Settings
    ) -> None:
        """See `take_over`."""


def settings_of(paper: Any) -> Settings:
    """What the optimisers and schedules of `paper` are set to: one dict a parameter group, one a schedule."""
    if isinstance(paper, Elsewhere):
        return paper.settings()
    found: Settings = []
    for part in _parts(paper):
        if hasattr(part, "param_groups"):
            found += [{k: v for k, v in group.items() if _is_setting(v)} for group in part.param_groups]
        else:
            found.append({f"base_lrs.{i}": float(lr) for i, lr in enumerate(part.base_lrs)})
    return found


def take_over(
    paper: Any, config: Mapping[str, Any], parent: str, state: Mapping[str, Any], fresh: Settings
) -> None:
    """Loads the checkpoint `state` of trial `parent` into `paper`, which was set up with `config`.

    fresh: `settings_of` it since then. CannotInherit names what differs if it does not load.
    """
    if isinstance(paper, Elsewhere):
        return paper.take_over(config, parent, state, fresh)
    changed = [k for k in config if k not in state["config"] or config[k] != state["config"][k]]
    try:
        paper.load_state_dict(state["paper"])
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CannotInherit(
            f"the checkpoint of trial {parent} does not load with another {', '.join(changed)} "
            f"(scheduler.perturb must leave out what changes the shape of the model): {first}"
        ) from error
    _carry_over(paper, state["settings"], fresh)


def _carry_over(paper: Any, old: Settings, new: Settings) -> None:
    """Applies what differs between the settings of two configurations to those that were loaded."""
    if [sorted(part) for part in old] != [sorted(part) for part in new]:
        return  # other optimisers altogether: they loaded, and are what they are
    settings = iter(zip(old, new, strict=True))
    for part in _parts(paper):
        if hasattr(part, "param_groups"):
            for group in part.param_groups:
                before, after = next(settings, ({}, {}))
                for key in after:
                    if after[key] != before[key] and key in group:
                        group[key] = _scaled(group[key], before[key], after[key])
        else:
            before, after = next(settings, ({}, {}))
            part.base_lrs = [
                _scaled(lr, before[f"base_lrs.{i}"], after[f"base_lrs.{i}"])
                for i, lr in enumerate(part.base_lrs)
            ]


def _scaled(loaded: Any, before: Any, after: Any) -> Any:
    """`after`, times what `loaded` had become of `before`."""
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (loaded, before, after))
    return loaded * (after / before) if numbers and before else after


def _is_setting(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_setting(v) for v in value)
    return isinstance(value, (bool, int, float)) or value is None


def _parts(paper: Any) -> Iterator[Any]:
    """The optimisers of `paper`, and its schedules, in the order of its attributes; each once."""
    if "torch" not in sys.modules:
        return
    from torch.nn import Module
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    seen: set[int] = set()

    def walk(node: Any, depth: int) -> Iterator[Any]:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, (Optimizer, LRScheduler)):
            yield node
        elif depth and not isinstance(node, (Module, type)):
            inside: Any = ()
            if isinstance(node, Mapping):
                inside = node.values()
            elif isinstance(node, (list, tuple)):
                inside = node if len(node) <= 100 else ()
            elif hasattr(node, "__dict__"):
                inside = vars(node).values()
            for value in list(inside):
                yield from walk(value, depth - 1)

    yield from walk(paper, DEPTH)
