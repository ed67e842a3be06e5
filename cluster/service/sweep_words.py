"""What a sweep of W&B's says of itself, in our words: the settings of its command, the configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairsweep.cluster.checks import flat
from fairsweep.search_spaces.space import Space

TRIAL = (
    "fairsweep.trial"  # beside the parameters of a run that our search has made: which of its trials it is
)
OURS = ("search", "scheduler", "budget.trials", "name", "storage", "tracking")  # that the agent sets itself


def settings_of(config: Mapping[str, Any]) -> list[str]:
    """The settings in the sweep's command, such as `trainable=dagnn budget.steps=20`, as `space --to wandb` writes it.

    Empty for a command of another program. Parameters (`${args_no_hyphens}`) and what the agent decides are left out.
    """
    words = [str(word) for word in config.get("command") or ()]
    if "run" not in words:
        return []
    given = words[words.index("run") + 1 :]
    return [w for w in given if "=" in w and not w.startswith(("$", "-")) and not _is(w, OURS)]


def _is(word: str, names: Sequence[str]) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    return any(key == name or key.startswith(f"{name}.") for name in names)


def of_run(words: Sequence[str]) -> list[str]:
    """Those of the settings `words` that whoever trains a run is to have, too."""
    return [
        word
        for word in words
        if not _is(word, (*OURS, "seeds", "seed", "cluster", "budget.concurrent", "experiment"))
    ]


def refused(words: Sequence[str]) -> str | None:
    """The first of `words` that says what the server decides."""
    return next(
        (word for word in words if _is(word, ("search", "scheduler", "budget.trials", "seeds"))), None
    )


def read(args: Mapping[str, Any], space: Space, data: str, prefix: str = "") -> dict[str, Any]:
    """The whole configuration of a run's `args` (name -> {value}). SpaceError, in one line, for what is wrong.

    prefix: before our names in theirs; text is a word of Hydra's then. What does not exist with these values is left
    out (W&B knows no conditions), what the sweep does not set is as the paper has it.
    """
    given: dict[str, Any] = {}
    for name, entry in args.items():
        if name in (TRIAL, "_wandb"):
            continue
        value = (
            entry.get("value") if isinstance(entry, Mapping) and set(entry) <= {"value", "desc"} else entry
        )
        value = _from_word(value) if prefix and isinstance(value, str) else value
        given[name.removeprefix(prefix)] = value
    given = flat(given)
    space.complete(given)
    whole = space.fill({}, data, defaults=given)
    return space.validate({**whole, **{name: value for name, value in given.items() if name in whole}})


def _from_word(word: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"x={word}").value()
    except HydraException:
        return word
