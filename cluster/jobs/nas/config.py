"""The configuration of `fairsweep nas`: composed by Hydra, checked here, every field by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omegaconf import DictConfig

from fairsweep.cluster import config
from fairsweep.cluster.config import Settings
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.nas.budget import Budget, applied, budget_of, check_agreement, refuse_decided
from fairsweep.search_spaces.algorithms import ARCHITECTURE_SEARCHES
from fairsweep.search_spaces.algorithms.phases import Plan
from fairsweep.search_spaces.architectures import kinds, read_size, sizes
from fairsweep.search_spaces.architectures.jobs import CHILD, PHASES
from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.search_spaces.supernets.nasnet_costs import MOST_BLOCKS
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Paper

GROUPS = ("algorithm", "supernet", "cluster", "tracking")
SUPERNET_KIND, FRONT_KIND = "supernet", "front"  # of algorithms
TABLE = "table"
SCORINGS = (SUPERNET_KIND, CHILD, TABLE)
PRUNED = "pruned"  # the paper that prunes a trainable
TRAINER, ALONE = (
    config.TRAINER,
    "standalone",
)  # the papers that train a supernet, and a network of it stand-alone
SHARED = ("single_path_nas",)  # the papers of fronts whose batches several workers can share
BY_BASE = ("lmbda_amplify", "hat_lmbda_coeff")
COSTS = ("params", "flops", "latency_ms")
AS_SWEEP = {"keep_checkpoints": "all", "seeds": 1}  # what a sweep may have otherwise and a search may not
_WORD: dict[str, Any] = {"type": "categorical", "choices": [""], "paper": ""}
# What the tables know of a job: the first five say what it is, the others what it is done with.
JOB_SPACE = Space.from_mapping(
    {
        "phase": {"type": "categorical", "choices": list(PHASES), "paper": PHASES[0]},
        "architecture": _WORD,
        "paths": {**_WORD, "value": ""},
        "repeat": {"type": "int", "low": 0, "high": 10_000, "paper": 0},
        "value": {"type": "float", "low": -1e300, "high": 1e300, "paper": 0.0},
        **{name: {**_WORD, "value": ""} for name in ("supernet", "kind", "sizes", "trainer", "settings")},
    },
    source="nas",
)


@dataclass(frozen=True)
class NASSettings(Settings):
    """A checked configuration of a search. `space` is that of its jobs."""

    @property
    def heading(self) -> str:
        if self.algorithm["kind"] == FRONT_KIND:
            what = f" on {self.pruned}" if self.pruned is not None else ""
            to = "" if self.cost_target is None else f" to {self.cost_target.word}={self.cost_target.value:g}"
            return f"{self.algorithm['name']}{what} over {self.algorithm['knob']}{to}"
        return f"{self.algorithm['name']} over {self.supernet['kind']}, scored by {self.scored_by}"

    @property
    def scored_by(self) -> str:
        """What gives the scores, in a few words."""
        return f"table {self.table}" if self.scoring == TABLE else self.scoring

    @property
    def pruned(self) -> str | None:
        """The `trainable` that is to be made smaller, by name; None if there is none."""
        return self.tree.get("trainable")

    @property
    def plugin(self) -> str | None:
        """The module from outside this package that the paper is in which is made smaller, if it is."""
        from fairsweep.trainables.tasks.subjects import is_paper

        outside = self.pruned is not None and is_paper(self.pruned)
        return catalog.plugin_of(catalog.get(str(self.pruned))) if outside else None

    @property
    def trainer(self) -> type[Paper]:
        """The paper that trains a supernet, or that finds a network by training."""
        return catalog.get(PRUNED if self.pruned is not None else self.algorithm.get("trainer", TRAINER))

    @property
    def alone(self) -> type[Paper]:
        return catalog.get(ALONE)

    @property
    def data_name(self) -> str:
        """The data set by name."""
        return self.tree["data"] or _with_data(self.tree, self.trainer).datasets[0]

    @cached_property
    def train_config(self) -> dict[str, Any]:
        """The whole configuration of the paper that trains the supernet."""
        chosen = {"strategy": self.algorithm["strategy"], **self._sizes, **self.train["config"]}
        return _filled(self.trainer, chosen, self.data_name, "train.config")

    def front_config(self, value: float) -> dict[str, Any]:
        """The whole configuration of a run of the front's paper at `value` of its setting."""
        by = catalog.get(self.algorithm["trainer"])
        chosen = {**self.algorithm["config"], self.algorithm["knob"]: value}
        found = _filled(by, chosen, self.data_name, "algorithm.config")
        if self.pruned is None:
            return found
        return {"by": by.slug, "trainable": self.pruned, **self._of_trainable(found)}

    def _of_trainable(self, oto: dict[str, Any]) -> dict[str, Any]:
        """The settings of a trainable, and those of OTO on it."""
        from fairsweep.trainables.nas._pruned import check_settings
        from fairsweep.trainables.tasks.subjects import is_paper

        name, train = self.tree["trainable"], self.train["config"]
        try:
            check_settings(name, train, self.algorithm["config"])
        except ValueError as error:
            raise UserError(str(error)) from None
        if not is_paper(name):
            return {"oto": oto, "train": dict(train)}
        paper: Any = catalog.get(name)
        # These two depend on the base optimiser, which is the paper's.
        left = {k: v for k, v in oto.items() if k in self.algorithm["config"] or k not in BY_BASE}
        return {
            "oto": left,
            "train": _filled(paper, {**train, **paper.prunable}, self.data_name, "train.config"),
        }

    def alone_config(self, architecture: str) -> dict[str, Any]:
        """The whole configuration of the paper that trains one network."""
        chosen = {"architecture": architecture, **self._sizes, **self.retrain["config"]}
        return _filled(self.alone, chosen, self.data_name, "retrain.config")

    @property
    def _sizes(self) -> dict[str, Any]:
        if self.algorithm["kind"] == FRONT_KIND:
            return {"supernet": self.algorithm["space"], "size": self.space_size}
        return {"supernet": self.supernet["kind"], "size": self.supernet["size"]}

    @property
    def space_size(self) -> str:
        """The named size of the space whose members the runs of a front find."""
        return self.front_config(self.algorithm["values"][0])["size"]

    @property
    def cost_target(self) -> Budget | None:
        """What the networks that are found are to cost, if anything."""
        return budget_of(self.tree)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by the name of the cost."""
        return {name: value for name, value in self.constraint.items() if value is not None}

    @property
    def costs(self) -> set[str]:
        """What is to be known of each architecture: what is counted, and latency only where it is asked for."""
        budget = set() if self.cost_target is None else {self.cost_target.column}
        return {"params", "flops", self.front, *self.limits, *budget}

    def plan(self, train: bool) -> Plan:
        """How much of each phase there is. train: whether the supernet is still to be trained."""
        return Plan(
            train=train and self.scoring == SUPERNET_KIND,
            evaluations=self.search["evaluations"],
            batch=0 if self.scoring == CHILD else self.search["batch"],
            top=self.retrain["top"],
            repeats=self.retrain["seeds"],
        )


def load(overrides: Sequence[str]) -> NASSettings:
    """Composes and checks. UserError names the field, its value and what would be right."""
    refuse_decided(list(overrides))
    # Hydra would take the one for a choice of its group of papers, and a list without brackets for several runs.
    words = {name: [o for o in overrides if o.startswith(f"{name}=")] for name in ("trainable", "target")}
    rest = [o for o in overrides if not any(o in found for found in words.values())]
    name = words["trainable"][-1].partition("=")[2] if words["trainable"] else ""
    pruned = None if name in ("", "null") else name
    tree = config.as_mapping(config.compose_tree(rest, root="nas", groups=GROUPS, pruned=pruned))
    tree["trainable"] = pruned
    if words["target"]:
        tree["target"] = _numbers(words["target"][-1].partition("=")[2])
    made = check(tree)
    _refuse_unused(made)
    return made


def _refuse_unused(settings: NASSettings) -> None:
    """UserError for settings that a front would not read. Not of a stored configuration, which may have them."""
    chosen = settings.algorithm
    if chosen["kind"] != FRONT_KIND:
        return
    name, knob = chosen["name"], chosen["knob"]
    if knob in chosen["config"]:
        to = settings.cost_target
        right = (
            f"{to.word} bisects it; leave it out" if to is not None else "must be given as algorithm.values"
        )
        raise UserError(
            f"algorithm.config.{knob}={chosen['config'][knob]}: {name} is run at several; {right}"
        )
    if settings.pruned is None and settings.train["steps"] is not None:
        raise UserError(
            f"train.steps={settings.train['steps']}: is of a supernet; the epochs of {name} are algorithm.steps"
        )
    if settings.pruned is None and settings.train["config"]:
        word, value = next(iter(settings.train["config"].items()))
        raise UserError(
            f"train.config.{word}={value}: is of a supernet or a trainable; the settings of {name} are algorithm.config"
        )


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.strip().removeprefix("[").removesuffix("]").split(",")]
    except ValueError:
        raise UserError(f"target={text}: must be numbers, such as target=0.3,0.5,0.7") from None


def check(tree: DictConfig | Mapping[str, Any]) -> NASSettings:
    """Checks a composed (or stored) configuration."""
    raw = config.as_mapping(tree)
    config.one_of(raw, "algorithm.kind", (SUPERNET_KIND, FRONT_KIND))
    front = raw["algorithm"]["kind"] == FRONT_KIND
    for name in ("trainable", "target"):
        if raw.get(name) is not None and not front:
            raise UserError(
                f"{name}={raw[name]}: algorithm={raw['algorithm']['name']} has none; oto_v2 and oto_v3 do"
            )
    if raw.get("trainable") is not None and raw["train"]["steps"] is not None:
        raise UserError(f"train.steps={raw['train']['steps']}: the epochs of a trainable are algorithm.steps")
    if raw.get("target") is not None:
        raw = {**raw, "algorithm": {**raw["algorithm"], "values": raw["target"]}}
    trainer = _check_front(raw) if front else _check_supernet(raw)
    raw = applied(raw, trainer if front else None)
    _check_scoring(raw, front)
    config.one_of(raw, "front", COSTS)
    config.one_of(raw, "tracking.name", tuple(config.group_options("tracking")))
    for name in raw["constraint"]:
        config.number(raw, f"constraint.{name}", float, low=0, optional=True, open_low=True)
    check_agreement(raw)
    for path in ("search.evaluations", "search.batch", "search.batch_size", "retrain.seeds"):
        config.number(raw, path, int, low=1)
    config.number(raw, "search.recalibrate", int, low=2, optional=True)
    config.number(raw, "retrain.top", int, low=0)
    config.number(raw, "train.steps", int, low=1, optional=True)
    config.number(raw, "train.workers", int, low=1)
    workers = raw["train"]["workers"]
    if front and workers > 1 and raw["algorithm"]["trainer"] not in SHARED:
        raise UserError(
            f"train.workers={workers}: must be 1 with algorithm={raw['algorithm']['name']}; single_path and the"
            " algorithms over a supernet take more"
        )
    config.number(raw, "retrain.steps", int, low=1, optional=True)
    config.number(raw, "seed", int, low=0)
    if not isinstance(raw["search"]["share"], bool):
        raise UserError(f"search.share={raw['search']['share']}: must be true or false")
    config.check_budget(raw)
    config.check_common(raw, _with_data(raw, trainer))
    made = NASSettings("nas", JOB_SPACE, {**raw, **AS_SWEEP})
    if front:
        for value in raw["algorithm"]["values"]:
            found = made.front_config(value)
            if workers > 1 and found["batch_size"] < 2 * workers:
                raise UserError(
                    f"train.workers={workers}: must be at most {found['batch_size'] // 2} with"
                    f" algorithm.config.batch_size={found['batch_size']}; each needs two images of a batch"
                )
    else:
        _ = made.train_config
    return made


def _check_supernet(raw: Mapping[str, Any]) -> type[Paper]:
    trainer = catalog.get(TRAINER)
    config.one_of(raw, "algorithm.name", ARCHITECTURE_SEARCHES)
    config.one_of(raw, "algorithm.strategy", _choices(trainer, "strategy"))
    config.one_of(raw, "supernet.kind", [k for k in kinds() if k in _choices(trainer, "supernet")])
    kind, size = raw["supernet"]["kind"], raw["supernet"]["size"]
    config.one_of(raw, "supernet.size", sizes(kind))
    blocks = read_size(kind, size)["space"].get("blocks", 0)
    if blocks > MOST_BLOCKS:
        raise UserError(
            f"supernet.size={size}: has cells of {blocks} blocks; must be of at most {MOST_BLOCKS}, "
            "of more there are no tables of costs"
        )
    return trainer


def _check_scoring(raw: dict[str, Any], front: bool) -> None:
    config.one_of(raw, "scoring", SCORINGS)
    table = raw["table"]
    if isinstance(table, str) and table.endswith(".parquet"):
        table = raw["table"] = config.absolute(table)
    if raw["scoring"] != TABLE:
        if table is not None:
            raise UserError(f"table={table}: is read with scoring={TABLE} only, not with {raw['scoring']}")
    elif front:
        raise UserError(f"scoring={TABLE}: algorithm={raw['algorithm']['name']} trains what it finds")
    elif not isinstance(table, str) or not table:
        raise UserError(f"table={table}: scoring={TABLE} needs one, by name or the path of a .parquet file")


def _check_front(raw: Mapping[str, Any]) -> type[Paper]:
    chosen = raw["algorithm"]
    trainer = catalog.get(chosen["trainer"])
    if not hasattr(trainer, "found"):
        raise UserError(f"algorithm.trainer={chosen['trainer']}: it trains, but does not find networks")
    if raw.get("trainable") is not None and chosen["trainer"] not in ("oto_v2", "oto_v3"):
        raise UserError(
            f"trainable={raw['trainable']}: algorithm={chosen['name']} has a network of its own; oto_v2 and oto_v3"
            " take any"
        )
    values = chosen["values"]
    numbers = isinstance(values, list) and values and all(type(v) in (int, float) for v in values)
    if not numbers or len(set(values)) < len(values):
        raise UserError(f"algorithm.values={values}: must be a list of different numbers, at least one")
    config.one_of(raw, "algorithm.knob", list(trainer.space().parameters))
    config.number(raw, "algorithm.seeds", int, low=1)
    config.number(raw, "algorithm.steps", int, low=1, optional=True)
    if chosen["space"] is not None:
        config.one_of(raw, "algorithm.space", kinds())
    return trainer


def _with_data(raw: Mapping[str, Any], trainer: type[Paper]) -> type[Paper]:
    """The paper whose data sets are used: of a trainable that is a paper that paper, else the one that trains."""
    name = raw.get("trainable")
    if name is None:
        return trainer
    from fairsweep.trainables.tasks.subjects import is_paper, prunable_paper

    if not is_paper(name):
        return catalog.get(raw["algorithm"]["trainer"])
    try:
        return prunable_paper(name)
    except ValueError as error:
        raise UserError(str(error)) from None


def _choices(paper: type[Paper], name: str) -> tuple[Any, ...]:
    return tuple(paper.space().parameters[name].choices)


def _filled(paper: type[Paper], chosen: Mapping[str, Any], data: str, where: str) -> dict[str, Any]:
    space = paper.space()
    unknown = [name for name in chosen if name not in space.parameters]
    if unknown:
        raise UserError(
            f"{where}.{unknown[0]}={chosen[unknown[0]]}: {config.hint(unknown[0], list(space.parameters))}"
        )
    fixed = {n: p.value_for(data) for n, p in space.parameters.items() if p.fixed}
    try:
        return space.freed(chosen).fill(chosen, data, fixed)
    except SpaceError as error:
        raise UserError(f"{where}: {error}") from None
