"""Which parameters population based training may change in mid-training, found out before anything is trained."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fairsweep.cluster.config import Settings, data_at_hand
from fairsweep.cluster.engine.inheriting import settings_of, take_over
from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.algorithms.population import neighbour, perturbable
from fairsweep.trainables.base import Paper, Setting
from fairsweep.trainables.own.running import OwnPaper


def settled(
    settings: Settings, paper: type[Paper], config: Mapping[str, Any], setting: Setting
) -> tuple[Settings, tuple[str, ...]]:
    """`settings` with `scheduler.perturb` said, and what is to be said of it; as it is without scheduler=pbt.

    A parameter of which another value does not take the checkpoint of `config` is left out; UserError if it was named,
    or if none is left.
    """
    if settings.scheduler["name"] != "pbt":
        return settings, ()
    if issubclass(paper, OwnPaper) and not paper.keeps_checkpoints():
        raise UserError(
            f"scheduler=pbt: {paper.slug} keeps no checkpoints that a copy could go on from: call "
            "trial.checkpoint(state) just before trial.report(...), and trial.restore() at the start"
        )
    named = settings.scheduler["perturb"]
    try:
        wanted = [name for name in (perturbable(settings.space) if named is None else named)]
    except ValueError as error:
        raise UserError(str(error)) from None
    state = _checkpoint(paper, config, setting)
    refused = {} if state is None else _refused(paper, config, setting, settings, wanted, state)
    for name, why in refused.items():
        if named is not None:
            raise UserError(
                f"scheduler.perturb: {name}: a checkpoint does not load with another value; leave it out ({why})"
            )
    kept = [name for name in wanted if name not in refused]
    if not kept:
        raise UserError(
            f"scheduler=pbt: no checkpoint loads with another {' or '.join(refused)}: nothing can be perturbed"
        )
    notes = (
        f"scheduler=pbt: not perturbed, for no checkpoint loads with another value: {', '.join(refused)}",
    )
    early = {**settings.scheduler, "perturb": kept}
    return replace(settings, tree={**settings.tree, "scheduler": early}), notes if refused else ()


def _checkpoint(paper: type[Paper], config: Mapping[str, Any], setting: Setting) -> dict[str, Any] | None:
    """What a checkpoint of `config` holds at its start; None if it cannot be built, which its trials will say.

    UserError if it has no checkpoints.
    """
    import torch

    trained = paper()
    try:
        with data_at_hand():
            trained.setup(config, setting)
        found = {"paper": trained.state_dict(), "config": dict(config), "settings": settings_of(trained)}
    except Exception:
        return None
    buffer = io.BytesIO()
    try:
        torch.save(found, buffer)
        buffer.seek(0)
        loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"scheduler=pbt: the checkpoints of {paper.slug} cannot be written and read: {first}"
        ) from None
    return loaded


def _refused(
    paper: type[Paper],
    config: Mapping[str, Any],
    setting: Setting,
    settings: Settings,
    names: list[str],
    state: Mapping[str, Any],
) -> dict[str, str]:
    """The parameters of which another value does not take the checkpoint `state` of `config`, and why."""
    parameters = settings.space.parameters
    others = {name: neighbour(parameters[name], config[name]) for name in names if name in config}

    def fault(changed: Mapping[str, Any]) -> str:
        heir = paper()
        try:
            heir.setup({**config, **changed}, setting)
            take_over(heir, {**config, **changed}, "of its parent", state, settings_of(heir))
        except Exception as error:
            return (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        return ""

    if not fault(others):
        return {}
    found = {name: fault({name: value}) for name, value in others.items()}
    return {name: why for name, why in found.items() if why}
