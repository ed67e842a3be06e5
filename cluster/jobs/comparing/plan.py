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
from dataclasses import asdict, dataclass, replace
from dataclasses import field as member
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fairsweep.analysis.comparing.blocks import fewest
from fairsweep.cluster import choice, config
from fairsweep.cluster.config import Settings
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.comparing import field, sets, tested
from fairsweep.cluster.jobs.comparing.entrants import MINUTES, Entrant, check_used, entrant
from fairsweep.cluster.jobs.comparing.field import LeftOut
from fairsweep.cluster.jobs.comparing.methods import SETTINGS, Method, bare, read, several
from fairsweep.cluster.jobs.comparing.renaming import check_name
from fairsweep.cluster.jobs.comparing.sets import Data

FRESH = 1_000_000  # from the seeds of searches to those of the trainings of what they chose
APART = 1_000  # between the seeds of two repeats
SEEDS = 5  # at least, where nobody says how many
LONG = 50  # characters of a method's part of them, and of a data set's
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
    "budget.minutes": MINUTES,
    "search.configs": "each method is searched over its own space",
}


@dataclass(frozen=True)
class Spec:
    """A comparison as it is asked for; kept with each of its sweeps. words: settings that all searches share.

    seeds: repeats, from the first seed `seed` on. retrain: trainings of each choice. tuning_seeds: trials of each
    configuration in a search. on: the test metric that is compared. grown: seeds of the runs before, if it grew.
    task: the one whose papers take part; left_out: those of them that cannot; asked: the words that it was asked by.
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
    task: str = ""
    left_out: tuple[LeftOut, ...] = ()
    asked: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        raw = json.loads(text)
        raw["methods"] = tuple(Method(**m) for m in raw["methods"])
        raw["data"] = tuple(Data(**d) for d in raw["data"])
        raw["left_out"] = tuple(LeftOut(**each) for each in raw.get("left_out", ()))
        lists = {name: tuple(raw.get(name, ())) for name in ("words", "grown", "asked")}
        return cls(**{**raw, **lists})


@dataclass(frozen=True)
class Plan:
    """The entrants of a comparison, in the order of its data sets and methods.

    notes: what is to be said of it before it begins. counted: whether somebody has said how many repeats it has.
    """

    spec: Spec
    storage: str
    entrants: tuple[Entrant, ...] = member(repr=False)
    notes: tuple[str, ...] = ()
    counted: bool = True

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
    check_name(run)
    names, given, shared = _sorted(words)
    folder = given.pop("data_dir", None)
    numbers: dict[str, Any] = {key: _number(given, key, *ends) for key, ends in NUMBERS.items()}
    seeds = numbers.pop("seeds")
    names += several(given["trainables"]) if "trainables" in given else []
    said = choice.said(shared)
    spec = Spec(
        run, (), (), "", "", **{k: v for k, v in numbers.items() if v is not None}, words=tuple(shared)
    )  # fmt: skip
    if "task" in given:
        by_name = read(names, said) if names else []
        found = field.of_task(
            given["task"], by_name, _is_true(given, "baselines"),
            given.get("data"), folder, given.get("on"),
            lambda method, data: entrant(method, data, spec.words, spec.tuning_seeds, storage),
        )  # fmt: skip
        check_used(found.methods, spec.words)
        # Files and folders from the root: the same words mean others in another folder.
        asked_for = [
            *(word for method in by_name for word in method.words),
            *(f"{key}={given[key]}" for key in ("task", "baselines", "on") if key in given),
            *(word for each in found.data if "data" in given for word in each.words),
        ]
        spec = replace(
            spec, methods=found.methods, data=found.data, task=found.task, left_out=found.left_out,
            asked=tuple(asked_for),
        )  # fmt: skip
        plan, wanted, notes = Plan(spec, storage, found.entrants), found.on, found.notes
    else:
        methods = read(names, said)
        if _is_true(given, "baselines"):
            methods = field.labelled(field.with_baselines(methods))
        data = sets.read(given.get("data") or sets.shared(methods, said), folder)
        plan, wanted, notes = (
            made(replace(spec, methods=tuple(methods), data=data), storage),
            given.get("on"),
            (),
        )
    on, mode = tested.compared(plan.entrants, wanted)
    spec = plan.spec
    if len(spec.methods) < 2:
        raise UserError(
            f"compare: {spec.methods[0].label} is the only method; name another to compare it with"
        )
    pairs = len(spec.methods) * (len(spec.methods) - 1) // 2
    usual = max(SEEDS, -(-fewest(pairs) // len(spec.data)))  # so many that there can be a winner
    return replace(
        plan,
        spec=replace(spec, on=on, mode=mode, seeds=seeds or usual),
        notes=notes,
        counted=seeds is not None,
    )


def _is_true(given: Mapping[str, str], key: str) -> bool:
    text = given.get(key, "false").lower()
    if text not in ("true", "false"):
        raise UserError(f"{key}={given[key]}: must be true or false")
    return text == "true"


def made(spec: Spec, storage: str) -> Plan:
    """The plan of a comparison. UserError, UnknownPaper, SpaceError for what cannot run."""
    entrants = [
        entrant(method, data, spec.words, spec.tuning_seeds, storage)
        for data in spec.data
        for method in spec.methods
    ]
    check_used(spec.methods, spec.words)
    return Plan(spec, storage, tuple(entrants))


def _sorted(words: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Methods, the settings of a comparison, and those that its searches share."""
    names, given, shared = [], {}, []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or ":" in key or Path(word.partition(":")[0]).is_file():  # a path may have = in it
            names.append(word)
        elif (key in REFUSED and value != "null") or (key == "search" and value == "listed"):
            raise UserError(f"{word}: {REFUSED.get(key, REFUSED['search.configs'])}")
        elif key in (*SETTINGS, "data_dir"):
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


def resumed(spec: Spec, seeds: int | None) -> Spec:
    """The comparison with more repeats. UserError for fewer."""
    if seeds is None or seeds == spec.seeds:
        return spec
    if seeds < spec.seeds:
        raise UserError(f"seeds={seeds}: it has {spec.seeds} already, and can only grow")
    _number({"seeds": str(seeds)}, "seeds", *NUMBERS["seeds"])
    return Spec(**{**spec.__dict__, "seeds": seeds, "grown": (*spec.grown, spec.seeds)})


def as_begun(plan: Plan, known: Spec) -> Plan:
    """The plan of the words that a comparison began with, as it began.

    Which papers of a task take part changes with what is installed, and with the papers that there are; and what is
    not said to have so many repeats has as many as it has.
    """
    spec = plan.spec if plan.counted else replace(plan.spec, seeds=known.seeds)
    if not spec.task or spec.asked != known.asked:
        return replace(plan, spec=spec)
    kept = {name: getattr(known, name) for name in ("methods", "data", "on", "mode", "left_out")}
    new = [m.label for m in spec.methods if m.label not in [k.label for k in known.methods]]
    said = f"{', '.join(new)} could take part by now; a comparison keeps the methods that it began with"
    return replace(plan, spec=replace(spec, **kept), notes=(said,) if new else ())


def check_same(asked: Spec, known: Spec | None) -> None:
    """UserError if the comparison of this name in the store is another than the one that is asked for."""
    if known is None:
        return
    for what in ("methods", "data", "on", "seed", "retrain", "tuning_seeds", "words"):
        was, wanted = (getattr(heard_at(spec, []), what) for spec in (known, asked))
        if was != wanted:
            raise UserError(
                f"name={asked.run}: the store has a comparison of this name with other {what}; choose another name"
            )
    if asked.seeds < known.seeds:
        raise UserError(f"seeds={asked.seeds}: {asked.run} has {known.seeds} already, and can only grow")


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
