"""What is compared: the words `dagnn`, `biper:weight_mode=fp,ste,biper`, `files.py:a,b`, and what they are called."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairsweep.cluster.errors import UserError
from fairsweep.trainables import catalog
from fairsweep.trainables.own.source import TrainableError, absolute, is_reference, slug_of

# The settings of a comparison; all others are of each of its searches.
SETTINGS = ("task", "baselines", "seeds", "seed", "retrain", "tuning_seeds", "on", "data", "trainables")
EXAMPLE = "such as dagnn, biper:weight_mode=fp,ste or train.py:a,b"


@dataclass(frozen=True)
class Method:
    """A trainable, and the parameters that are fixed for it: name -> value as it is written in a setting."""

    label: str
    trainable: str
    fixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """Its settings, as those of a sweep."""
        return [
            f"trainable={self.trainable}",
            *(f"space.{name}={value}" for name, value in self.fixed.items()),
        ]


def read(words: Sequence[str], said: Mapping[str, Any] | None = None) -> list[Method]:
    """The methods that `words` name, each with a label of its own. UserError for what is none.

    A word is a paper or a file with names of it, and after colons parameters with one value or several, of which each
    combination is a method: `dagnn:model=gcn,sgc`. said: `metric` and `mode`, for functions that have none.
    """
    found = [method for word in words for method in _read(word, said)]
    if not found:
        raise UserError(f"compare: names no method; say at least two, {EXAMPLE}")
    return named(found)


def several(text: str) -> list[str]:
    """The parts of a list between commas; brackets or quotes around a part are kept, brackets around all of it not."""
    text = text.strip()
    if text[:1] == "[" and text[-1:] == "]" and len(cut(text, ",")) == 1:
        text = text[1:-1]
    return [part.strip() for part in cut(text, ",")]


def cut(text: str, sign: str) -> list[str]:
    """`text` at each `sign` that stands in no brackets and no quotes. Quotes are those that begin a value."""
    parts, depth, start, quote, before = [], 0, 0, "", ""
    for at, letter in enumerate(text):
        if quote:
            if letter == quote and before != "\\":
                quote = ""
        elif letter in "'\"" and (not before or before in "[{(,:= "):
            quote = letter
        elif letter == sign and depth == 0:
            parts.append(text[start:at])
            start = at + 1
        else:
            depth += (letter in "[{(") - (letter in "]})")
        before = letter
    return [*parts, text[start:]]


def bare(text: str) -> str:
    """A value without the quotes around it."""
    quoted = len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]
    return text[1:-1].replace(f"\\{text[0]}", text[0]) if quoted else text


def _read(word: str, said: Mapping[str, Any] | None) -> list[Method]:
    head, *rest = cut(word, ":")
    names = []
    if rest and "=" not in rest[0] and head in catalog.slugs():
        raise UserError(f"{word}: say which values of {rest[0]} are compared, {head}:{rest[0]}=A,B")
    if rest and "=" not in rest[0]:
        names = [name.strip() for name in several(rest.pop(0))]
    references = [f"{head}:{name}" for name in names] or [head]
    choices: dict[str, list[str]] = {}
    for option in rest:
        name, equals, values = option.partition("=")
        if not equals or not name.strip() or "" in several(values):
            raise UserError(f"{word}: {option!r} is no PARAMETER=VALUE or PARAMETER=VALUE,VALUE; {EXAMPLE}")
        if name.strip() in choices:
            raise UserError(f"{word}: {name.strip()} is given twice")
        choices[name.strip()] = several(values)
    found = []
    for reference in references:
        if is_reference(reference):
            try:
                reference = absolute(reference)
            except TrainableError as error:
                raise UserError(str(error)) from None
        catalog.get(reference, said)  # says what is wrong with it
        for combination in itertools.product(*choices.values()):
            found.append(Method("", reference, dict(zip(choices, combination, strict=True))))
    return found


def tails(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as many parts of each as tell different ones apart."""
    found = []
    for path in paths:
        parts, n = path.split("/"), 1
        others = {other for other in paths if other != path}
        while n < len(parts) and any(o.split("/")[-n:] == parts[-n:] for o in others):
            n += 1
        found.append("/".join(parts[-n:]))
    return found


def named(methods: Sequence[Method]) -> list[Method]:
    """The methods with labels: what tells them apart, in few words."""
    names = [slug_of(m.trainable) if is_reference(m.trainable) else m.trainable for m in methods]
    values = [":".join(bare(v) for v in m.fixed.values()) for m in methods]
    same_paper = len(set(names)) == 1 and len({m.trainable for m in methods}) == 1
    if same_paper and all(values):
        labels = list(values)
    else:
        labels = [f"{name}:{value}" if value else name for name, value in zip(names, values, strict=True)]
    if len(set(labels)) < len(labels):  # values of different parameters, or functions of different files
        often = Counter(labels)
        places = dict(zip((m.trainable for m in methods), tails([m.trainable for m in methods]), strict=True))
        labels = [
            ":".join([places[m.trainable], *(f"{k}={v}" for k, v in m.fixed.items())])
            if often[label] > 1
            else label
            for m, label in zip(methods, labels, strict=True)
        ]
    seen: Counter[str] = Counter()
    found = []
    for method, label in zip(methods, labels, strict=True):
        seen[label] += 1
        numbered = label if seen[label] == 1 else f"{label} ({seen[label]})"
        found.append(Method(numbered, method.trainable, method.fixed))
    return found
