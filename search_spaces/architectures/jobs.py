"""What the jobs of an architecture search are called, and how a batch of architectures is written in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TRAIN, SCORE, CHILD, RETRAIN, FRONT = "train", "score", "child", "retrain", "front"
PHASES = (TRAIN, SCORE, CHILD, RETRAIN, FRONT)
SEPARATOR = " "  # no notation of an architecture has one


def batch(texts: Iterable[str]) -> str:
    """The texts of several architectures as one."""
    return SEPARATOR.join(texts)


def members(config: Mapping[str, Any]) -> Sequence[str]:
    """The texts of the architectures that a job is about."""
    if config["paths"]:
        return tuple(config["paths"].split(SEPARATOR))
    return (config["architecture"],) if config["architecture"] else ()
