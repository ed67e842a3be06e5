"""What `trainable=`, `metric=` and `mode=` choose, where the trainable may be the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.config_store import ConfigStore

from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.space import SpaceError
from fairsweep.trainables import catalog, objective
from fairsweep.trainables.base import Paper
from fairsweep.trainables.own.source import TrainableError, absolute, is_reference

OWN = "own-trainable"  # what Hydra knows a trainable of the user's by


def tuned(raw: Mapping[str, Any]) -> type[Paper]:
    """The class that a configuration tunes, on the objective that it says. UserError, UnknownPaper."""
    choice = {"metric": raw.get("metric"), "mode": raw.get("mode")}
    try:
        return objective.chosen(catalog.get(raw["trainable"], choice), **choice)
    except (SpaceError, ValueError) as error:
        raise UserError(str(error)) from None


def own_word(word: str) -> str:
    """A choice of a trainable of the user's as that of a node of its own, which holds its space; UserError."""
    key, _, value = word.partition("=")
    if value[:1] in ("'", '"') and value[-1:] == value[:1]:
        value = value[1:-1].replace(f"\\{value[0]}", value[0])
    if key != "trainable" or not is_reference(value):
        return word
    try:
        reference = absolute(value)
        space = catalog.get(reference).space()
    except (TrainableError, SpaceError) as error:
        raise UserError(str(error)) from None
    node = {"trainable": reference, "space": space.to_mapping()}
    ConfigStore.instance().store(group="trainable", name=OWN, package="_global_", node=node)
    return f"trainable={OWN}"
