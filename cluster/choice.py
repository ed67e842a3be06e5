"""What `trainable=` chooses, where it may be the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore

from fairsweep.cluster import objectives
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.tune.adapter import register as register_tune
from fairsweep.search_spaces import _yaml
from fairsweep.search_spaces.space import SpaceError
from fairsweep.trainables import catalog
from fairsweep.trainables.own.source import TrainableError, absolute, is_reference

register_tune()
OWN = "own-trainable"  # what Hydra knows a trainable of the user's by


def own_word(word: str, words: Sequence[str]) -> str:
    """A choice of a trainable of the user's as that of a node of its own, which holds its space; UserError.

    words: all of them; what is tuned on may decide whether there is a space.
    """
    key, _, value = word.partition("=")
    if value[:1] in ("'", '"') and value[-1:] == value[:1]:
        value = value[1:-1].replace(f"\\{value[0]}", value[0])
    if key != "trainable" or not is_reference(value):
        return word
    try:
        reference = absolute(value)
        space = catalog.get(reference, said(words)).space()
    except (TrainableError, SpaceError) as error:
        raise UserError(str(error)) from None
    node = {"trainable": reference, "space": space.to_mapping()}
    ConfigStore.instance().store(group="trainable", name=OWN, package="_global_", node=node)
    return f"trainable={OWN}"


def said(words: Sequence[str]) -> dict[str, Any]:
    """Metric and mode as the words say them."""
    given = dict(word.split("=", 1) for word in words if word.startswith(("metric=", "mode=")))
    return objectives.said({key: _yaml.read(value, key) for key, value in given.items()})
