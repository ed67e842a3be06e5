"""The words of a command line: made ready for Hydra, and explained in one line where Hydra does not take them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces._parameter import hydra_word

OPEN = (
    "space.",
    "train.config.",
    "retrain.config.",
    "algorithm.options.",
    "algorithm.config.",
)  # keys that may be new
# Settings whose value is text whatever it looks like: a sweep may be called 2026, a folder begin with ~.
TEXT = (
    "name", "storage", "data", "data_dir", "table",
    "tracking.dir", "tracking.project", "tracking.entity", "cluster.address",
)  # fmt: skip


def prepared(override: str) -> str:
    """`override` as Hydra is to read it. UserError if it is none of ours."""
    key, equals, value = override.partition("=")
    bare = override.lstrip("+")
    if bare.startswith(OPEN):
        # Space overrides may add a key (a fixed `value`), which Hydra's struct mode refuses; the space's own
        # reader then checks them, with better words than Hydra has.
        return f"++{bare}"
    if override[:1] in ("+", "~"):
        raise UserError(f"{override}: settings are changed, not added or removed; write key=value")
    quoted = value[:1] in ("'", '"') or "\\" in value
    if equals and key in TEXT and value and value.lower() != "null" and not quoted:
        return f"{key}={hydra_word(value)}"
    return override


def unreadable(override: str) -> str | None:
    """Why Hydra's grammar does not take this word for one value, and what would be right; None if it does."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override!r} is not an override: write key=value, for example budget.trials=50"
    try:
        found = OverridesParser.create().parse_override(prepared(override))
    except HydraException:
        whole = _in_shell(f"{key}={hydra_word(value)}")
        lists = " and lists in brackets" if value[:1] in "[{" else ""
        return f"{override}: the value does not read; text with signs in it stands in quotes{lists}: {whole}"
    if not found.is_sweep_override():
        return None
    if key.endswith(".choices"):
        return f"{override}: a list stands in brackets: {_in_shell(f'{key}=[{value}]')}"
    if key.startswith("space."):
        name = key.removeprefix("space.")
        values = value.split(",") if re.fullmatch(r"[\w.,+-]+", value) else ["1", "2"]
        listed = ",".join(f"{{{name}: {v}}}" for v in values)
        return (
            f"{override}: is several values, and this fixes a parameter at one; to run them all write search=listed "
            f"{_in_shell(f'search.configs=[{listed}]')}, or of a categorical parameter "
            f"{_in_shell(f'space.{name}.choices=[{value}]')}"
        )
    return f"{override}: is several values, and {key} takes one; give the command once for each"


def unknown(
    key: str, command: str, words: Sequence[str], settings: Sequence[str], own: str, parameters: Sequence[str]
) -> str:
    """What may have been meant by a setting that there is not with the other `words`.

    own, parameters: the key under which those of the chosen paper are set, and their names.
    """
    if key in settings:  # of another choice
        group = key.partition(".")[0]
        chosen = next((word for word in reversed(words) if word.startswith(f"{group}=")), f"this {group}")
        return f"{key}: {chosen} has no such setting"
    for name in (key, key.rpartition(".")[0], key.partition(".")[0]):
        if name and name in parameters:
            return f"{key}: no such setting; did you mean {own}.{key}?"
    close = get_close_matches(key, settings, n=3)
    if close:
        return f"{key}: no such setting; did you mean {' or '.join(close)}?"
    near = get_close_matches(key, parameters, n=1)
    if near:
        return f"{key}: no such setting; did you mean {own}.{near[0]}?"
    return f"{key}: no such setting; `fairsweep {command} --help` lists them, a paper's parameters are {own}.<name>"


def _in_shell(word: str) -> str:
    """`word` as a shell takes it, in the quotes that read best."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)
