"""What a comparison consists of: its methods, data sets and repeats, and the settings of each search.

A *repeat* of a method on a data set is a whole search under seeds of its own, and the training of what it chose under
fresh seeds. The i-th repeats of all methods share their seeds and their split of the data. A search sees no test
metric (`test=false`), and its choice is by the validation objective.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fairsweep.analysis.comparing.blocks import fewest
from fairsweep.analysis.schema import is_name
from fairsweep.cluster import choice, config, objectives
from fairsweep.cluster.checks import hint
from fairsweep.cluster.config import Settings
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.comparing.methods import Method, bare, read, several, tails
from fairsweep.search_spaces._parameter import hydra_word
from fairsweep.trainables import catalog
from fairsweep.trainables.base import OWN as OWN_DATA
from fairsweep.trainables.base import Paper

FRESH = 1_000_000  # from the seeds of searches to those of the trainings of what they chose
APART = 1_000  # between the seeds of two repeats
SEEDS = 5  # at least, where nobody says how many
LONGEST = 60  # characters of a name: those of its sweeps begin with it
LONG = 50  # characters of a method's part of them, and of a data set's
OWN = ("seeds", "seed", "retrain", "tuning_seeds", "on", "data", "trainables")
# The least and the most that each may be, so that no two trainings of a comparison share a seed.
NUMBERS = {
    "seeds": (1, FRESH // APART),
    "seed": (0, 10**15),
    "retrain": (1, APART),
    "tuning_seeds": (1, APART),
}
REFUSED = {
    "trainable": "the methods are named first, as words of their own",
    "test": "a search is never tested, and what it chose always is",
    "split_seed": "each repeat has a split of its own; seed=N begins at others",
    "budget.minutes": "searches run side by side; budget.total_minutes=N is the time that each may train",
    "search.configs": "each method is searched over its own space",
}


@dataclass(frozen=True)
class Data:
    """A data set of the methods. folder: where it lies, if no package has it; label: what the table calls it."""

    label: str
    name: str
    folder: str | None = None

    @property
    def words(self) -> list[str]:
        found = [f"data={self.name}"]
        return found if self.folder is None else [*found, f"data_dir={hydra_word(self.folder)}"]


@dataclass(frozen=True)
class Spec:
    """A comparison as it is asked for; kept with each of its sweeps. words: settings that all searches share.

    seeds: repeats, from the first seed `seed` on. retrain: trainings of each choice. tuning_seeds: trials of each
    configuration in a search. on: the test metric that is compared. grown: seeds of the runs before, if it grew.
    """

    run: str
    methods: tuple[Method, ...]
    data: tuple[Data, ...]
    on: str
    mode: str
    seeds: int = SEEDS
    seed: int = 0
    retrain: int = 1
    tuning_seeds: int = 1
    words: tuple[str, ...] = ()
    grown: tuple[int, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        raw = json.loads(text)
        raw["methods"] = tuple(Method(**m) for m in raw["methods"])
        raw["data"] = tuple(Data(**d) for d in raw["data"])
        return cls(**{**raw, "words": tuple(raw["words"]), "grown": tuple(raw["grown"])})


@dataclass(frozen=True)
class Entrant:
    """A method on a data set, with what its searches have in common. budget: of each, see `budget_of`."""

    method: Method
    data: Data
    settings: Settings
    budget: tuple[str, float]

    @property
    def paper(self) -> type[Paper]:
        return self.settings.paper


@dataclass(frozen=True)
class Plan:
    """The entrants of a comparison, in the order of its data sets and methods."""

    spec: Spec
    storage: str
    entrants: tuple[Entrant, ...] = field(repr=False)

    def search(self, entrant: Entrant, repeat: int) -> Settings:
        """The settings of a search."""
        spec = self.spec
        return self._with(
            entrant, {"seed": spec.seed + APART * repeat, "seeds": spec.tuning_seeds, "test": False}, repeat
        )

    def final(self, entrant: Entrant, repeat: int, chosen: Mapping[str, Any]) -> Settings:
        """The settings of the training of what a search chose, under fresh seeds, to the end and tested."""
        raw = entrant.settings.tree
        budget = {k: v for k, v in raw["budget"].items() if not k.startswith("total_")}
        about = {
            "seed": FRESH + self.spec.seed + APART * repeat,
            "seeds": self.spec.retrain,
            "search": {"name": "listed", "configs": [dict(chosen)]},
            "scheduler": {"name": "none"},
            "budget": {**budget, "trials": 1, "concurrent": None},
            "test": True,
        }
        return self._with(entrant, about, repeat)

    def _with(self, entrant: Entrant, about: Mapping[str, Any], repeat: int) -> Settings:
        return config.check({**entrant.settings.tree, **about, "split_seed": self.spec.seed + repeat})

    def name(self, entrant: Entrant, repeat: int, part: str = "search") -> str:
        """What a sweep is called: run, method, data and repeat."""
        spec = self.spec
        method = plain([m.label for m in spec.methods])[entrant.method.label]
        data = plain([d.label for d in spec.data])[entrant.data.label]
        words = [spec.run, method, data, str(repeat)]
        return ".".join([*words, "final"] if part == "final" else words)


def plain(labels: Sequence[str]) -> dict[str, str]:
    """Each label in letters that a sweep's name may have: none equal to another, also where names ignore case."""
    words = [re.sub("[^A-Za-z0-9]", "-", label).strip("-") for label in labels]
    often = Counter(word.lower() for word in words)
    found = {}
    for label, word in zip(labels, words, strict=True):
        if often[word.lower()] > 1 or not 0 < len(word) <= LONG:
            mark = hashlib.sha256(label.encode()).hexdigest()[:8]
            word = f"{word[: LONG - 9]}-{mark}".strip("-")
        found[label] = word
    return found


def asked(words: Sequence[str], run: str, storage: str) -> Plan:
    """The comparison that `words` ask for: methods, and settings as key=value. UserError, UnknownPaper, SpaceError."""
    if not is_name(run) or len(run) > LONGEST:
        raise UserError(
            f"name={run}: must be up to {LONGEST} letters, digits and . _ = + - only, a letter or digit first"
        )
    names, given, shared = _sorted(words)
    data_dir = next((w.partition("=")[2] for w in shared if w.startswith("data_dir=")), None)
    shared = [w for w in shared if not w.startswith("data_dir=")]
    numbers: dict[str, Any] = {key: _number(given, key, *ends) for key, ends in NUMBERS.items()}
    listed = several(given["trainables"]) if "trainables" in given else []
    methods = read([*names, *listed], choice.said(shared))
    data = _data(given.get("data") or _shared(methods, choice.said(shared)), data_dir)
    if numbers["seeds"] is None:  # so many that there can be a winner
        pairs = len(methods) * (len(methods) - 1) // 2
        numbers["seeds"] = max(SEEDS, -(-fewest(max(1, pairs)) // len(data)))
    spec = Spec(
        run, tuple(methods), data, "", "", **{k: v for k, v in numbers.items() if v is not None},
        words=tuple(shared),
    )  # fmt: skip
    plan = made(spec, storage)
    on, mode = _compared(plan.entrants, given.get("on"))
    if len(methods) < 2:
        raise UserError(f"compare: {methods[0].label} is the only method; name another to compare it with")
    return Plan(replace(spec, on=on, mode=mode), storage, plan.entrants)


def made(spec: Spec, storage: str) -> Plan:
    """The plan of a comparison. UserError, UnknownPaper, SpaceError for what cannot run."""
    unused = {w for w in spec.words if _parameter(w)}
    entrants = []
    for data in spec.data:
        for method in spec.methods:
            words = [*method.words, *data.words, f"storage={hydra_word(storage)}", "keep_checkpoints=none"]
            mine = _words_of(method, spec.words)
            unused -= set(mine)
            tree: Any = config.compose_tree([*words, *mine])
            raw = config.as_mapping(tree)
            limited = any(raw["budget"].get(f"total_{kind}") is not None for kind in ("steps", "minutes"))
            if limited and not any(w.startswith("budget.trials=") for w in mine):
                raw["budget"]["trials"] = None
            if raw["budget"]["concurrent"] is None:
                raw["budget"]["concurrent"] = 1  # a search is the same on any number of machines
            if raw["budget"]["minutes"] is not None:
                said = f"budget.minutes={raw['budget']['minutes']}: {REFUSED['budget.minutes']}"
                raise UserError(f"{said}; budget.minutes=null drops that of a group")
            budget = budget_of(raw["budget"])
            if _tuned_nowhere(method, mine):
                raw["budget"]["trials"] = 1
            try:
                settings = config.check({**raw, "seeds": spec.tuning_seeds})
            except UserError as error:
                raise UserError(f"{method.label}: {error}") from None
            if len(objectives.aims(settings.tree, settings.paper)[0]) > 1:
                raise UserError(f"metric={raw['metric']}: a method is chosen by one metric; name one")
            entrants.append(Entrant(method, data, settings, budget))
    if unused:
        word = min(unused)
        fixed = [m.label for m in spec.methods if any(_is_of(_parameter(word), name) for name in m.fixed)]
        why = (
            f"fixed by {', '.join(fixed)}, and no other method has it"
            if fixed
            else "no method has this parameter"
        )
        raise UserError(f"{word}: {why}")
    return Plan(spec, storage, tuple(entrants))


def _parameter(word: str) -> str:
    """What of a space a setting is about, `lr.high` of `space.lr.high=1`; "" for other settings."""
    key = word.partition("=")[0].lstrip("+")
    return key.removeprefix("space.") if key.startswith("space.") else ""


def _is_of(path: str, parameter: str) -> bool:
    return path == parameter or path.startswith(f"{parameter}.")


def _words_of(method: Method, words: Sequence[str]) -> list[str]:
    """The settings that a method takes: all but those of parameters that it has not, or that it is defined by."""
    own = set(catalog.get(method.trainable, choice.said(words)).space().parameters) - set(method.fixed)
    return [w for w in words if not _parameter(w) or any(_is_of(_parameter(w), name) for name in own)]


def _tuned_nowhere(method: Method, words: Sequence[str]) -> bool:
    """Whether every parameter of a method is fixed, so that it has one configuration: a baseline as it is."""
    own = set(catalog.get(method.trainable, choice.said(words)).space().parameters)
    said = {_parameter(word) for word in words if word.partition("=")[2][:1] not in "[{"}
    return own <= said | set(method.fixed)


def budget_of(budget: Mapping[str, Any]) -> tuple[str, float]:
    """What bounds a search: trials, steps or minutes, and how many."""
    for kind in ("steps", "minutes"):
        found = budget.get(f"total_{kind}")
        if found is not None:
            return kind, float(found)
    return "trials", float(budget["trials"] or 0)


def _sorted(words: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Methods, the settings of a comparison, and those that its searches share."""
    names, given, shared = [], {}, []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or ":" in key or Path(word.partition(":")[0]).is_file():  # a path may have = in it
            names.append(word)
        elif (key in REFUSED and value != "null") or (key == "search" and value == "listed"):
            raise UserError(f"{word}: {REFUSED.get(key, REFUSED['search.configs'])}")
        elif key in OWN:
            if key in given:
                raise UserError(f"{word}: {key} is given twice")
            given[key] = bare(value)
        else:
            shared.append(word)
    return names, given, shared


def _number(given: Mapping[str, str], key: str, low: int, high: int) -> int | None:
    text = given.get(key)
    if text is None:
        return None
    if not re.fullmatch("[0-9]+", text) or not low <= int(text) <= high:
        raise UserError(f"{key}={text}: must be a whole number of at least {low} and at most {high}")
    return int(text)


def _shared(methods: Sequence[Method], said: Mapping[str, Any]) -> str:
    """The first data set that all methods have. UserError if there is none."""
    known = [catalog.get(m.trainable, said).datasets for m in methods]
    found = next((name for name in known[0] if all(name in names for names in known)), None)
    if found is None:
        told = "; ".join(f"{m.label}: {', '.join(d)}" for m, d in zip(methods, known, strict=True))
        raise UserError(f"data is missing: the methods have no data set in common ({told})")
    return found


def _data(text: str, folder: str | None) -> tuple[Data, ...]:
    """The data sets: `a`, `[a,b]`, `[a,own@FOLDER]`. folder: of those that say none."""
    found: list[tuple[str, str | None]] = []
    for part in map(bare, several(text)):
        name, at, own = part.partition("@")
        if not name or (at and not own):
            raise UserError(f"data={text}: must name data sets, such as data=[cora,own@FOLDER]")
        where = bare(own if at else folder or "")
        found.append((name, config.absolute(where) if where else None))
    twice = next((pair for k, pair in enumerate(found) if pair in found[:k]), None)
    if twice is not None:
        raise UserError(f"data={text}: {twice[0]}{f'@{twice[1]}' if twice[1] else ''} is named twice")
    ends = tails([(where or name) if name == OWN_DATA else name for name, where in found])
    often = Counter(ends)
    labels = [
        f"{end}@{where}" if often[end] > 1 else end for end, (_, where) in zip(ends, found, strict=True)
    ]
    return tuple(Data(label, *pair) for label, pair in zip(labels, found, strict=True))


def _compared(entrants: Sequence[Entrant], wanted: str | None) -> tuple[str, str]:
    """The test metric that all methods have, and its mode. UserError where there is none, or which is not clear."""
    for e in entrants:
        if e.paper.metric(e.paper.objective).split == "test":
            raise UserError(
                f"metric={e.paper.objective}: is measured on test data; a method is chosen by a validation metric"
            )
    wanted = wanted or _counterpart(entrants[0].paper)
    modes: dict[str, str] = {}
    for e in entrants:
        known = {m.name: m for m in e.paper.metrics}
        tests = [m.name for m in e.paper.metrics if m.split == "test"]
        if wanted not in known:
            said = hint(wanted, tests) if tests else "it has none on test data"
            raise UserError(f"on={wanted}: {e.method.label} has no such metric; {said}")
        if wanted not in tests:
            split = known[wanted].split
            raise UserError(
                f"on={wanted}: {e.method.label} measures it on {split} data; a test metric is compared"
            )
        modes.setdefault(known[wanted].mode, e.method.label)
    if len(modes) > 1:
        raise UserError(
            f"on={wanted}: is to be large for {modes['max']} and small for {modes['min']}; compare a metric that means"
            " the same for all"
        )
    return wanted, next(iter(modes))


def _counterpart(paper: type[Paper]) -> str:
    """The test metric that goes with the objective, or the only one. UserError if there is none such."""
    tests = [m.name for m in paper.metrics if m.split == "test"]
    for word in ("validation_", "valid_", "val_", "dev_"):
        stem = paper.objective.removeprefix(word)
        if stem != paper.objective and f"test_{stem}" in tests:
            return f"test_{stem}"
    if len(tests) == 1:
        return tests[0]
    told = (
        f"it has {', '.join(tests)}"
        if tests
        else "it declares none: test=[NAME] of a trainable of yours does"
    )
    raise UserError(f"on is missing: on=NAME says which test metric of {paper.slug} is compared; {told}")


def resumed(spec: Spec, seeds: int | None) -> Spec:
    """The comparison with more repeats. UserError for fewer."""
    if seeds is None or seeds == spec.seeds:
        return spec
    if seeds < spec.seeds:
        raise UserError(f"seeds={seeds}: it has {spec.seeds} already, and can only grow")
    _number({"seeds": str(seeds)}, "seeds", *NUMBERS["seeds"])
    return Spec(**{**spec.__dict__, "seeds": seeds, "grown": (*spec.grown, spec.seeds)})


def is_port(word: str) -> bool:
    """Whether a word says where the driver answers Prometheus: it is of a driver, not of what is compared."""
    return word.startswith("metrics.port=")


def heard_at(spec: Spec, words: Sequence[str]) -> Spec:
    """The comparison with `words` in the place of its own `metrics.port`."""
    return replace(spec, words=(*(word for word in spec.words if not is_port(word)), *words))


def yaml_of(plan: Plan) -> str:
    """The whole comparison as YAML: its own settings, and those of each search."""
    searches = {f"{e.method.label} on {e.data.label}": plan.search(e, 0).tree for e in plan.entrants}
    return OmegaConf.to_yaml(OmegaConf.create({"comparison": asdict(plan.spec), "searches": searches}))
