"""Settings that are not what they must be, in one line each: field, value and what would be right."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.algorithms import OUTSIDE, SCHEDULERS
from fairsweep.search_spaces.algorithms.population import checked
from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables import catalog
from fairsweep.trainables.base import ENDLESS, Paper

TOTALS = ("total_steps", "total_minutes")  # budgets of all trials of a sweep together
LEAST = 2  # examples of a batch for each of several trainers
MOST = 2**63 - 1  # what a column of whole numbers holds
WITH_MAXIMUM = ("median", "hyperband", "pbt")  # schedulers that divide the longest training
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PART = 1e-4  # of a CPU or GPU, the smallest that Ray knows


def hint(word: str, options: Sequence[str]) -> str:
    """Which of the options may have been meant by `word`, or all of them."""
    close = get_close_matches(word, options, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(options)}"


def get(raw: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; UserError if it is missing."""
    node: Any = raw
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            raise UserError(f"{path} is missing")
        node = node[key]
    return node


def one_of(raw: Mapping[str, Any], path: str, options: Sequence[str]) -> None:
    """UserError if the value at `path` is none of `options`."""
    value = get(raw, path)
    if value not in options:
        raise UserError(f"{path}={value}: {hint(str(value), options)}")


def number(
    raw: Mapping[str, Any], path: str, kind: type, low: float, optional: bool = False, open_low: bool = False
) -> None:
    """UserError if the value at `path` is no number of `kind` from `low` on (above it if `open_low`)."""
    value = get(raw, path)
    if value is None and optional:
        return
    wanted = "a whole number" if kind is int else "a number"
    bound = f"above {low:g}" if open_low else f"of at least {low:g}"
    right = isinstance(value, int) if kind is int else isinstance(value, (int, float))
    if isinstance(value, bool) or not right or not math.isfinite(value):
        raise UserError(f"{path}={value}: must be {wanted} {bound}")
    if value < low or (open_low and value <= low):
        raise UserError(f"{path}={value}: must be {wanted} {bound}")
    if kind is int and value > MOST:
        raise UserError(f"{path}={value}: must be at most {MOST} (2^63 - 1)")


def check_metrics(raw: Mapping[str, Any]) -> None:
    """The group `metrics`, which sweeps of older versions do not have."""
    if not isinstance(raw.get("metrics", {}), Mapping):
        raise UserError(f"metrics={raw['metrics']}: must be metrics.port=N")
    if raw.get("metrics"):
        number(raw, "metrics.port", int, low=0, optional=True)
        port = raw["metrics"]["port"]
        if port is not None and port > 65535:
            raise UserError(f"metrics.port={port}: must be a whole number from 0 to 65535")


def check_totals(raw: Mapping[str, Any]) -> None:
    """What a sweep may spend in all: configurations, or steps or minutes of all its trials together."""
    budget = raw["budget"]
    number(raw, "budget.total_steps", int, low=1, optional=True)
    number(raw, "budget.total_minutes", float, low=0, optional=True, open_low=True)
    outside = raw["search"]["name"] == OUTSIDE  # which says itself when there is nothing more
    if (
        not outside
        and budget["trials"] is None
        and all(budget[name] is None for name in ("minutes", *TOTALS))
    ):
        raise UserError(
            "budget.trials=None: must be a whole number of at least 1; null needs budget.total_steps,"
            " budget.total_minutes or budget.minutes"
        )
    number(raw, "budget.trials", int, low=1, optional=True)
    for name in TOTALS:
        if budget[name] is not None and raw["scheduler"]["name"] == "pbt":
            raise UserError(
                f"budget.{name}={budget[name]}: not with scheduler=pbt, whose population trains to the end;"
                " budget.trials says how many members it has"
            )


def check_cluster(raw: Mapping[str, Any]) -> None:
    """The group `cluster`: what a trial takes, and the part of a shared cluster."""
    number(raw, "cluster.cpus", int, low=1, optional=True)
    number(raw, "cluster.cpus_per_trial", float, low=0, open_low=True)
    number(raw, "cluster.gpus_per_trial", float, low=0)
    for name in ("cpus_per_trial", "gpus_per_trial"):
        value = raw["cluster"][name]
        if value and value < PART:
            raise UserError(
                f"cluster.{name}={value}: must be at least {PART:g}, the smallest part that Ray knows"
            )
    gpus = raw["cluster"]["gpus_per_trial"]
    if gpus > 1 and gpus % 1:
        raise UserError(
            f"cluster.gpus_per_trial={gpus}: must be a part of one GPU, such as 0.5, or a whole number: "
            f"{math.floor(gpus)} or {math.ceil(gpus)}"
        )
    if "weight" in raw["cluster"]:  # sweeps of older versions have none
        number(raw, "cluster.weight", float, low=0, open_low=True)
        number(raw, "cluster.priority", int, low=-MOST)


def check_affordable(raw: Mapping[str, Any], maximum: int) -> None:
    """Whether `budget.total_steps` is enough for one configuration, whose trials may take `maximum` steps each."""
    steps, need = raw["budget"]["total_steps"], maximum * raw["seeds"]
    if steps is None:
        return
    if maximum == ENDLESS:
        raise UserError(
            f"budget.total_steps={steps}: needs to know how many reports a trial makes; say budget.steps=N, or steps=N"
            " in @fairsweep.trainable"
        )
    if steps < need:
        raise UserError(
            f"budget.total_steps={steps}: must be at least {need}, what one configuration may need: {maximum} x"
            f" {raw['seeds']} seed(s)"
        )


def check_scheduler(raw: Mapping[str, Any], space: Space) -> None:
    """The group `scheduler`."""
    one_of(raw, "scheduler.name", SCHEDULERS)
    options = raw["scheduler"]
    if "eta" in options:
        number(raw, "scheduler.eta", int, low=2)
    if "min_trials" in options:
        number(raw, "scheduler.min_trials", int, low=1)
        number(raw, "scheduler.checks", int, low=1)
    if options["name"] != "pbt":
        return
    number(raw, "scheduler.interval", int, low=1, optional=True)
    for share, most in (("quantile", 0.5), ("resample", 1)):
        number(raw, f"scheduler.{share}", float, low=0, open_low=share == "quantile")
        if options[share] > most:
            raise UserError(f"scheduler.{share}={options[share]}: must be at most {most}")
    if raw["budget"]["trials"] is None or raw["budget"]["trials"] < 2:
        raise UserError(
            f"budget.trials={raw['budget']['trials']}: scheduler=pbt needs a population, of at least 2"
        )
    if options["perturb"] is not None:
        try:
            checked(space, options["perturb"])
        except ValueError as error:
            raise UserError(str(error)) from None


def check_trainers(raw: Mapping[str, Any], paper: type[Paper], space: Space) -> None:
    """The setting `trainers`: whether so many processes can share the batches of every trial of the sweep."""
    number(raw, "trainers", int, low=1)
    count, name = raw["trainers"], raw["trainable"]
    if count == 1:
        return
    if not paper.together:
        can = ", ".join(slug for slug in catalog.own() if catalog.get(slug).together)
        raise UserError(
            f"trainers={count}: must be 1 with trainable={name}, whose training cannot be shared; that of {can} can"
        )
    for config in raw["search"].get("configs") or [space.first(raw["data"] or paper.datasets[0])]:
        why = paper.undivided(config, raw["data"] or paper.datasets[0])
        if why is not None:
            raise UserError(f"trainers={count}: must be 1 here: {why}")
    sizes = _batch_sizes(raw, space)
    if sizes and min(sizes) < LEAST * count:
        raise UserError(
            f"trainers={count}: batch_size={min(sizes):g} can be drawn, and must be at least {LEAST * count}: each"
            f" trains on {LEAST} examples of a batch or more"
        )


def _batch_sizes(raw: Mapping[str, Any], space: Space) -> list[float]:
    """Sizes of batches that trials of a sweep may have, the smallest among them; none where nothing is called so."""
    if raw["search"]["name"] == "listed":
        return [config["batch_size"] for config in raw["search"]["configs"] if "batch_size" in config]
    parameter = space.parameters.get("batch_size")
    if parameter is None:
        return []
    return [parameter.value] if parameter.fixed else list(parameter.span or ())


def check_name(name: Any) -> None:
    """The name of a sweep, if it is given one."""
    if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
        raise UserError(
            f"name={name}: must be 1-100 letters, digits, dots, dashes and underscores, and not begin with a dot"
        )


def listed(raw: Mapping[str, Any], space: Space, paper: Any) -> list[dict[str, Any]]:
    """The configurations of `search=listed`, whole."""
    configs = raw["search"].get("configs")
    if not isinstance(configs, list) or not configs:
        raise UserError(
            f"search.configs={configs}: must list at least one configuration, such as [{{lr: 0.01}}]"
        )
    found = []
    for i, config in enumerate(configs):
        if not isinstance(config, Mapping):
            raise UserError(f"search.configs[{i}]={config}: must map parameters to values")
        try:
            found.append(space.fill(flat(config), raw["data"] or paper.datasets[0]))
        except SpaceError as error:
            raise UserError(f"search.configs[{i}]: {error}") from None
    return found


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as dotted names."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def check_fidelity(raw: Mapping[str, Any], paper: Any, space: Space) -> None:
    """How long trials may train."""
    try:
        found = paper.fidelity(space.first(raw["data"] or paper.datasets[0]), raw["budget"]["steps"])
    except ValueError as error:
        raise UserError(f"budget.steps={raw['budget']['steps']}: {error}") from None
    except (
        Exception
    ) as error:  # a plug-in's own fault, which would else come up once the sweep is in the store
        raise UserError(
            f"trainable={raw['trainable']}: its fidelity() raises {type(error).__name__}: {error}; see the trainable"
        ) from None
    if found.maximum == ENDLESS and raw["scheduler"]["name"] in WITH_MAXIMUM:
        raise UserError(
            f"budget.steps is missing: scheduler={raw['scheduler']['name']} needs to know how many reports a"
            " trial makes; say budget.steps=N, or steps=N in @fairsweep.trainable; asha does without"
        )
    check_affordable(raw, found.maximum)
