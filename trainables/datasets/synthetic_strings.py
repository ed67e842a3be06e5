"""Synthetic retrosynthesis: strings over three letters in the place of molecules.

Source: generated here, the same for every trial; no licence applies. A template cuts a string in two or
replaces a letter; stock are twelve short strings; a target is to be taken apart until only stock is left.
Cuts alone rarely end in stock, so that the order of replacements and cuts has to be learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError

LETTERS = "ABC"
# ("cut", x, y): after the first letter of the first xy; ("replace", x, y): the first x becomes y.
TEMPLATES = tuple(("cut", x, y) for x, y in product(LETTERS, repeat=2)) + tuple(
    ("replace", x, y) for x, y in product(LETTERS, repeat=2) if x != y
)
_GRAMS = tuple("".join(letters) for n in (1, 2, 3) for letters in product(LETTERS, repeat=n))
_TRIGRAMS = {gram: i for i, gram in enumerate(g for g in _GRAMS if len(g) == 3)}
INPUTS = len(_GRAMS) + 2 * len(_TRIGRAMS) + 1


@dataclass(frozen=True)
class Strings:
    """One world of strings.

    stock: the strings that need no synthesis. lengths: least and greatest length of a target.
    calls: how many model calls a planner may spend on a target when it is evaluated.
    """

    name: str
    stock: frozenset[str]
    lengths: tuple[int, int]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    calls: int


def draw_string(rng: np.random.Generator, shortest: int, longest: int) -> str:
    """A string of uniformly random length and letters."""
    length = int(rng.integers(shortest, longest + 1))
    return "".join(LETTERS[i] for i in rng.integers(0, len(LETTERS), size=length))


def draw_distinct(
    rng: np.random.Generator, count: int, lengths: tuple[int, int], without: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """`count` different strings, none of them in `without`."""
    found: dict[str, None] = {}
    while len(found) < count:
        string = draw_string(rng, *lengths)
        if string not in without:
            found[string] = None
    return tuple(found)


def reactants(template: int, string: str) -> tuple[str, ...] | None:
    """The different strings that template 0..14 turns `string` into; None if it does not apply."""
    kind, x, y = TEMPLATES[template]
    at = string.find(x + y if kind == "cut" else x)
    if at < 0:
        return None
    if kind == "replace":
        return (string[:at] + y + string[at + 1 :],)
    return tuple(dict.fromkeys((string[: at + 1], string[at + 1 :])))


@lru_cache(maxsize=200_000)
def fingerprint(string: str) -> np.ndarray:
    """Counts of 1-, 2- and 3-grams, one-hot first and last trigram (zeros below 3 letters), length / 10.

    float32 (INPUTS,); shared between calls, not to be written to.
    """
    found = np.zeros(INPUTS, np.float32)
    for n in (1, 2, 3):
        for i in range(len(string) - n + 1):
            found[_GRAM_INDEX[string[i : i + n]]] += 1
    if len(string) >= 3:
        found[len(_GRAMS) + _TRIGRAMS[string[:3]]] = 1
        found[len(_GRAMS) + len(_TRIGRAMS) + _TRIGRAMS[string[-3:]]] = 1
    found[-1] = len(string) / 10
    found.flags.writeable = False
    return found


_GRAM_INDEX = {gram: i for i, gram in enumerate(_GRAMS)}


def _world(name: str, lengths: tuple[int, int], validation: int, test: int, calls: int) -> Strings:
    rng = np.random.default_rng(0)
    # As many of each length as 12 of the 39 strings of at most three letters have on average, so that the
    # world does not hang on whether all single letters are in stock, where cuts alone would do.
    sizes = ((1, 1), (2, 3), (3, 8))
    stock = frozenset(s for length, count in sizes for s in draw_distinct(rng, count, (length, length)))
    targets = draw_distinct(rng, validation + test, lengths, stock)
    return Strings(name, stock, lengths, targets[:validation], targets[validation:], calls)


def synthetic_strings(data_dir: Path | None = None) -> Strings:
    """Targets of 6 to 10 letters: 100 for validation, 150 for the test, 50 calls on each."""
    return _world("synthetic_strings", (6, 10), 100, 150, 50)


def synthetic_strings_short(data_dir: Path | None = None) -> Strings:
    """Targets of 4 to 7 letters with the same stock: 60 for validation, 60 for the test, 10 calls on each."""
    return _world("synthetic_strings_short", (4, 7), 60, 60, 10)


LOADERS = {
    "synthetic_strings": synthetic_strings,
    "synthetic_strings_short": synthetic_strings_short,
}


def load(name: str, data_dir: Path | None = None) -> Strings:
    """The world called `name`; DataError if there is none."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown world of strings; known: {', '.join(LOADERS)}")
    return LOADERS[name](data_dir)
