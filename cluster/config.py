"""From command-line overrides to a checked `Settings`: Hydra composes, this module checks.

The group `trainable` is made from the catalogue: choosing a paper brings its search space into the
configuration as `space`, so that `space.lr.high=0.1` is an override like any other.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairsweep.analysis.text import bounded, escaped, storable
from fairsweep.cluster import checks, choice, objectives, overrides
from fairsweep.cluster.checks import MOST, check_scheduler, check_trainers, get, hint, number, one_of
from fairsweep.cluster.errors import MissingData, UserError
from fairsweep.cluster.masking import masked_uri
from fairsweep.search_spaces import _yaml
from fairsweep.search_spaces.algorithms import OUTSIDE, SEARCHES
from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables import catalog
from fairsweep.trainables.base import DataError, Paper
from fairsweep.trainables.own.source import is_reference

CONF = Path(__file__).parent / "conf"
TRAINER = "pa_da"  # the paper that trains a supernet
GROUPS = ("trainable", "search", "scheduler", "budget", "cluster", "tracking", "experiment")


@dataclass(frozen=True)
class Settings:
    """A checked sweep configuration. `tree` is the composed configuration, `space` what is searched."""

    trainable: str
    space: Space
    tree: dict[str, Any]

    @cached_property
    def paper(self) -> type[Paper]:
        """What is tuned, on the objective that `metric` says."""
        return objectives.tuned(self.tree)

    def __getattr__(self, group: str) -> Any:
        tree = object.__getattribute__(self, "tree")
        if group.startswith("__") or group not in tree:
            raise AttributeError(group)
        return tree[group]

    @property
    def data_folder(self) -> Path | None:
        """The folder of `data_dir`."""
        return Path(self.data_dir) if self.data_dir else None

    @property
    def heading(self) -> str:
        """What runs, in a few words."""
        return f"{self.paper.slug} by {self.search['name']}, scheduler {self.scheduler['name']}"

    def to_yaml(self) -> str:
        shown = {
            key: masked_uri(str(value)) if key == "storage" else value for key, value in self.tree.items()
        }
        return OmegaConf.to_yaml(OmegaConf.create(shown))


def compose_tree(
    words: Sequence[str], root: str = "config", groups: Sequence[str] = GROUPS, pruned: str | None = None
) -> DictConfig:
    """The Hydra configuration `root` for the overrides `words`; UserError in one line if they do not compose.

    pruned: what a search is to make smaller, which is no word for Hydra, but for those that explain.
    """
    for word in words:
        if not storable(word):
            raise UserError(f"{bounded(word, 200)}: is not valid Unicode (UTF-8); rename what it names")
    _register_papers(words)
    _check_choices(words, groups)
    prepared = [
        overrides.prepared(choice.own_word(word, words) if root == "config" else word) for word in words
    ]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(root, overrides=prepared)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, words, root, pruned)) from None


def _check_choices(words: Sequence[str], groups: Sequence[str]) -> None:
    """UserError for an option that a group does not have, and for an experiment's file that has two readings."""
    for word in words:
        key, equals, name = word.partition("=")
        if (
            not equals
            or key not in groups
            or (key == "experiment" and (name in ("", "null") or name[0] == "["))
            or (key == "trainable" and is_reference(name))
        ):
            continue
        options = group_options(key)
        if name not in options:
            odd = overrides.unreadable(word)
            own = f"{name}.py" if key == "trainable" and Path(f"{name}.py").is_file() else ""
            known = f"the file {own} is meant by {own}:NAME" if own else hint(name, options)
            raise UserError(odd or f"{word}: no such {key}; {known}")
        if key == "experiment":
            try:
                _yaml.read_file(CONF / key / f"{name}.yaml")
            except SpaceError as error:
                raise UserError(str(error)) from None


def as_mapping(tree: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A composed configuration as plain dicts and lists."""
    try:
        found: Any = OmegaConf.to_container(tree, resolve=True) if isinstance(tree, DictConfig) else tree
    except OmegaConfBaseException as error:  # of ${...} that names nothing
        where = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise UserError(f"{where}{str(error).splitlines()[0]}; text with ${{ in it is looked up") from None
    return dict(found)


def load(words: Sequence[str]) -> Settings:
    """Composes and checks. Raises UserError, naming the field, its value and what would be right."""
    return check(compose_tree(words))


def check(tree: DictConfig | Mapping[str, Any]) -> Settings:
    """Checks a composed (or stored) configuration. UnknownPaper where its plug-in is not at hand."""
    raw = {
        "split_seed": None,
        "test": True,
        "trainers": 1,
        **as_mapping(tree),
    }  # sweeps of older versions do not say
    raw["budget"] = {"total_steps": None, "total_minutes": None, **raw["budget"]}
    slug = raw["trainable"]
    paper = objectives.tuned(raw)
    try:
        space = Space.from_mapping(
            raw["space"], f"trainable={slug}", declared=paper.space(), papers=not is_reference(slug)
        )
        space = space.for_data(raw["data"] or paper.datasets[0])
    except SpaceError as error:
        raise UserError(str(error)) from None
    data = raw["data"] or paper.datasets[0]
    if get(raw, "budget.steps") is None and data in paper.paper_steps:
        raw = {**raw, "budget": {**raw["budget"], "steps": paper.paper_steps[data]}}
    one_of(raw, "search.name", (*SEARCHES, OUTSIDE))
    one_of(raw, "tracking.name", tuple(group_options("tracking")))
    one_of(raw, "keep_checkpoints", ("best", "all", "none"))
    checks.check_totals(raw)
    number(raw, "budget.steps", int, low=1, optional=True)
    number(raw, "seeds", int, low=1)
    number(raw, "seed", int, low=0)
    if raw["seed"] + raw["seeds"] - 1 > MOST:
        raise UserError(
            f"seed={raw['seed']}: with seeds={raw['seeds']} the last one is above {MOST} (2^63 - 1)"
        )
    number(raw, "split_seed", int, low=0, optional=True)
    if not isinstance(raw["test"], bool):
        raise UserError(f"test={raw['test']}: must be true or false")
    check_budget(raw)
    if raw["search"]["name"] == "listed":
        configs = checks.listed(raw, space, paper)
        # More than are listed would be waited for: the time left would be theirs too.
        trials = min(raw["budget"]["trials"] or len(configs), len(configs))
        raw = {
            **raw,
            "search": {**raw["search"], "configs": configs},
            "budget": {**raw["budget"], "trials": trials},
        }
    if "points" in raw["search"]:
        number(raw, "search.points", int, low=1)
    if raw["search"].get("ahead") is not None:
        number(raw, "search.ahead", int, low=0)
    if "population" in raw["search"]:
        number(raw, "search.population", int, low=2)
    check_scheduler(raw, space)
    check_trainers(raw, paper, space)
    objectives.check(raw, paper)
    check_common(raw, paper)
    fixed = all(p.fixed for p in space.parameters.values())
    if fixed and raw["budget"]["trials"] != 1 and raw["search"]["name"] not in ("listed", OUTSIDE):
        raise UserError(
            f"budget.trials={raw['budget']['trials']}: every parameter of the space is fixed, so there is one "
            "configuration; use budget.trials=1 (and seeds=N to repeat it), or free a parameter"
        )
    checks.check_fidelity(raw, paper, space)
    return Settings(slug, space, raw)


def group_options(group: str) -> list[str]:
    """What can be chosen for a Hydra group."""
    if group == "trainable":
        return catalog.slugs()
    folder = CONF / group
    return sorted(p.stem for p in folder.glob("*.yaml"))


# -- composition --------------------------------------------------------------------------------------


def _register_papers(words: Sequence[str]) -> None:
    """Gives Hydra the papers that `words` may choose: it copies all that it has been given each time it composes."""
    store = ConfigStore.instance()
    named = {key: value for key, _, value in (word.partition("=") for word in words)}
    chosen = catalog.slugs() if named.get("experiment") else [named.get("trainable", "")]
    store.repo.pop("trainable", None)
    for slug in chosen:
        if slug not in catalog.slugs():
            continue
        try:
            space = catalog.space_of(slug)
        except (SpaceError, OSError) as error:
            raise UserError(f"trainable={slug}: {error}") from None
        node = {"trainable": slug, "space": space.to_mapping()}
        store.store(group="trainable", name=slug, package="_global_", node=node)


def _explain(error: Exception, words: Sequence[str], root: str, pruned: str | None) -> str:
    text = " ".join(str(error).split())
    for override in words:
        odd = overrides.unreadable(override)
        if odd is not None:
            return odd
    match = re.search(r"Could not override '([^']+)'", text)
    if match:
        command, known = "run" if root == "config" else root, all_keys(root)
        return overrides.unknown(match.group(1), command, words, known, *_parameters(words, root, pruned))
    if "trainable" in text and ("must specify" in text.lower() or "???" in text):
        return (
            f"trainable is missing: say what to tune, a paper by trainable=<slug> or your own by"
            f" trainable=file.py:name; {hint('', catalog.slugs())}"
        )
    return text


_CHOOSE = ("trainable", "experiment", "algorithm", "metric", "mode")  # words by which a space is known


def _parameters(words: Sequence[str], root: str, pruned: str | None) -> tuple[str, list[str]]:
    """Under which key the chosen paper's parameters are set, and their names, as far as one is chosen."""
    key = "space" if root == "config" else "train.config"
    chosen = [word for word in words if word.partition("=")[0] in _CHOOSE]
    try:
        tree: Any = compose_tree(chosen, root, [*GROUPS, "algorithm"])
        if root == "config":
            slug = tree.trainable
        elif pruned is not None and ":" not in pruned:
            slug = pruned
        else:
            slug = tree.algorithm.get("trainer", TRAINER)
            key = "algorithm.config" if "trainer" in tree.algorithm else key
        return key, list(catalog.space_of(slug).parameters)
    except (
        UserError,
        catalog.UnknownPaper,
        SpaceError,
        OmegaConfBaseException,
    ):  # what else is wrong is not the question here
        return key, []


def all_keys(root: str) -> list[str]:
    """The settings of a configuration, `budget.trials` and so on, without those of a space."""
    keys: list[str] = []
    needed = ["trainable=" + catalog.slugs()[0]] if root == "config" else []
    base = OmegaConf.to_container(compose_tree(needed, root))

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if prefix == "" and key == "space":
                continue
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                keys.append(f"{prefix}{key}")

    walk(base, "")
    return keys


@contextlib.contextmanager
def data_at_hand() -> Iterator[None]:
    """What is done within needs data: MissingData where a loader says that they are not there."""
    try:
        yield
    except DataError as error:
        raise MissingData(str(error)) from None


# -- checks -------------------------------------------------------------------------------------------


def check_budget(raw: Mapping[str, Any]) -> None:
    """What sweeps and searches may spend: the groups `budget` and `cluster`."""
    number(raw, "budget.minutes", float, low=0, optional=True, open_low=True)
    number(raw, "budget.concurrent", int, low=1, optional=True)
    number(raw, "budget.trial_timeout", float, low=0, optional=True, open_low=True)
    number(raw, "budget.retries", int, low=0)
    number(raw, "budget.report_seconds", float, low=0)
    number(raw, "budget.checkpoint_seconds", float, low=0)
    checks.check_cluster(raw)


def check_common(raw: dict[str, Any], paper: Any) -> None:
    """Name, data, store, tracking and metrics, which sweeps and searches share; folders become absolute in `raw`."""
    checks.check_metrics(raw)
    if "finish_timeout_s" in raw["tracking"]:
        number(raw, "tracking.finish_timeout_s", float, low=0, open_low=True)
    if "mode" in raw["tracking"]:
        one_of(raw, "tracking.mode", ("offline", "online"))
        if not isinstance(raw["tracking"].get("sweep", False), bool):
            raise UserError(f"tracking.sweep={raw['tracking']['sweep']}: must be true or false")
    if raw["tracking"].get("dir"):
        raw["tracking"] = {**raw["tracking"], "dir": absolute(raw["tracking"]["dir"])}
    checks.check_name(raw.get("name"))
    _check_data(raw, paper)
    if not isinstance(raw["storage"], str) or not raw["storage"].strip():
        raise UserError(f"storage={raw['storage']!r}: must be a folder or a URI such as s3://bucket/path")


def absolute(folder: Any) -> str:
    """`folder` with ~ for the home folder, from the root: a sweep is resumed from other folders too."""
    return os.path.abspath(os.path.expanduser(str(folder)))


def _check_data(raw: dict[str, Any], paper: Any) -> None:
    if raw["data"] is not None and raw["data"] not in paper.datasets:
        raise UserError(
            f"data={raw['data']}: {paper.slug} has no such data set; {hint(str(raw['data']), paper.datasets)}"
        )
    if raw["data_dir"] is not None:
        raw["data_dir"] = absolute(raw["data_dir"])
        if not storable(raw["data_dir"]):
            raise UserError(
                f"data_dir={escaped(raw['data_dir'])}: is not valid Unicode (UTF-8); rename the folder"
            )
        if not Path(raw["data_dir"]).is_dir():
            raise UserError(f"data_dir={raw['data_dir']}: no such folder on this machine")
