"""A search over a shared supernet: what its jobs are told, and how the trained weights reach those who score."""

from __future__ import annotations

import json
import sys
from typing import Any

from fairsweep.analysis.fronts import front_within
from fairsweep.analysis.store import Store, SweepRecord
from fairsweep.cluster.config import data_at_hand
from fairsweep.cluster.engine.conductor import Conductor, Trial, trial_id
from fairsweep.cluster.engine.weights import Shelf, key_of
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import provenance
from fairsweep.cluster.jobs.nas import report as nas_report
from fairsweep.cluster.jobs.nas.config import SUPERNET_KIND, TABLE, NASSettings
from fairsweep.cluster.jobs.nas.run import Run, phases
from fairsweep.cluster.jobs.tables import UNTABULATED, TableScores, alike, open_named
from fairsweep.search_spaces.algorithms import ConstraintError, create_architecture_search
from fairsweep.search_spaces.algorithms.phases import PhasedSearch
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace
from fairsweep.search_spaces.architectures.jobs import CHILD, RETRAIN, SCORE, TRAIN, members
from fairsweep.trainables.base import Setting
from fairsweep.trainables.tasks.latency import kept_latency

TRAINED = {TRAIN: "train", CHILD: "retrain", RETRAIN: "retrain"}  # phase -> the settings that say how long


class SupernetRun(Run):
    """Trains a supernet, searches over its paths and trains the best stand-alone.

    Scored by a table, the supernet only says what networks cost and which data they are trained on. `space` is the
    one that is searched: that of the supernet, or a part of it that a table is about, in the same notation.
    """

    def __init__(self, settings: NASSettings, store: Store) -> None:
        self.settings, self.shelf = settings, Shelf(store.uri)
        paper = _trainer(settings)
        self.supernet, self.images = paper.supernet, paper.data.images
        if "latency_ms" in settings.costs:
            self.supernet.adopt_cost_table(kept_latency(self.supernet))
        self.table = _table(settings, self.supernet.space) if settings.scoring == TABLE else None
        self.space = self.table.space if self.table else self.supernet.space
        self.recipe = {
            "space": self.supernet.space.id,
            "kind": self.supernet.kind,
            "sizes": dict(self.supernet.config()),
            "trainer": settings.trainer.slug,
            "config": settings.train_config,
            "steps": settings.trainer.fidelity(settings.train_config, settings.train["steps"]).maximum,
            "data": settings.data_name,
            "seed": settings.seed,
            "code": provenance.code_name(),
        }
        if settings.train["workers"] > 1:  # they share each batch, and normalise their parts of it apart
            self.recipe["workers"] = settings.train["workers"]
        self.key = key_of(self.recipe)
        self._shared = False

    @property
    def title(self) -> str:
        settings, chosen = self.settings, self.settings.algorithm
        trained = settings.scoring == SUPERNET_KIND
        scored = f"supernet trained by {chosen['strategy']}" if trained else f"scored by {settings.scored_by}"
        return f"{chosen['name']} over {self.space.id}, {scored}"

    @property
    def scored_by(self) -> str:
        """Where the scores come from, for the table of architectures."""
        found = self.settings.scored_by
        if self.table is not None:
            return f"{found}, {self.table.metric}"
        strategy = self.settings.algorithm["strategy"]
        return f"{found}, {strategy}" if self.settings.scoring == SUPERNET_KIND else found

    def algorithm(self, record: SweepRecord | None = None) -> PhasedSearch:
        return self._phases(train=TRAIN in phases(record) or not self.shelf.has(self.key))

    def _phases(self, train: bool) -> PhasedSearch:
        chosen = self.settings.algorithm
        try:
            inner = create_architecture_search(
                chosen["name"], self.space, "max", self.settings.seed,
                costs=self._known, constraints=self._limits, **chosen["options"],
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise UserError(f"algorithm.options: {error}") from None
        plan = self.settings.plan(train)
        return PhasedSearch(self.space, inner, plan, "max", self.dress, inner.budget.keeps)

    def check(self) -> None:
        count = self.settings.search["recalibrate"]
        if count is not None and count > self.images:
            raise UserError(
                f"search.recalibrate={count}: must be at most {self.images}, the training images that are there"
            )
        data = self.table.table.data if self.table is not None else None
        if not alike(self.settings.data_name, data):
            print(
                f"fairsweep: warning: table={self.settings.table}: its scores are of {data}, costs and trainings of"
                f" {self.settings.data_name} (data=...)",
                file=sys.stderr,
            )
        try:
            self._phases(train=False).inner.ask(1)
        except ConstraintError as error:
            raise UserError(str(error)) from None

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """What an architecture costs, of the kinds that are asked for."""
        path = self.path(architecture)
        return {kind: self.supernet.cost(path, kind) for kind in sorted(self.settings.costs)}

    def path(self, architecture: Architecture) -> Architecture:
        """The path of the supernet that a member of `space` is."""
        return self.supernet.space.parse(self.space.format(architecture))

    def _known(self, architecture: Architecture) -> dict[str, float]:
        """What the search may look at before an architecture is scored: costs, and whether there will be a score."""
        known = self.costs(architecture)
        if self.table is not None:
            known[UNTABULATED] = float(architecture not in self.table)
        return known

    @property
    def _limits(self) -> dict[str, float]:
        lacking = self.table is not None and not self.table.complete
        return {**self.settings.limits, **({UNTABULATED: 0.0} if lacking else {})}

    def dress(self, config: dict[str, Any]) -> dict[str, Any]:
        """The whole configuration of a job of `PhasedSearch`."""
        settings = self.settings
        shared = {
            "supernet": self.key,
            "kind": self.supernet.kind,
            "sizes": json.dumps(dict(self.supernet.config())),
        }
        if config["phase"] == SCORE and self.table is not None:
            # The values travel with the job: workers need neither the table's package nor its file.
            values = json.dumps({"values": self.table.values(members(config))})
            return {**config, **shared, "supernet": "", "trainer": "", "settings": values}
        if config["phase"] == SCORE:
            scoring = {name: settings.search[name] for name in ("batch_size", "share", "recalibrate")}
            about = {"config": settings.train_config, **scoring}
            return {**config, **shared, "trainer": "", "settings": json.dumps(about)}
        if config["phase"] == TRAIN:
            trainer, own = settings.trainer.slug, settings.train_config
        else:
            trainer, own = settings.alone.slug, settings.alone_config(config["architecture"])
        steps = getattr(settings, TRAINED[config["phase"]])["steps"]
        return {
            **config, **shared, "trainer": trainer, "settings": json.dumps({"config": own, "steps": steps})
        }  # fmt: skip

    # -- the weights ----------------------------------------------------------------------------------

    def trained(self, conductor: Conductor) -> bool:
        return self.settings.scoring != SUPERNET_KIND or self.shelf.has(self.key)

    def begin(self, record: SweepRecord | None) -> None:
        """Publishes a supernet that is there already, or that an earlier run had trained when it was killed."""
        if self.settings.scoring == SUPERNET_KIND:
            self.publish(trained(record))

    def ended(self, trial: Trial) -> None:
        phase = trial.config["phase"]
        if phase == TRAIN and trial.state == "complete":
            self.publish(trial.id)
        elif trial.state in ("complete", "failed") and phase in (SCORE, CHILD):
            self.checkpoints.delete(trial.id)

    def publish(self, trial: str | None) -> None:
        """Brings the supernet from its trial's checkpoint to the shelf, and from there to the workers."""
        if not self.shelf.has(self.key):
            state = self.checkpoints.load(trial) if trial is not None else None
            if state is None:
                return
            weights = state["paper"]["inner"]["parts"]["net"]
            arrays = {n: w.cpu().numpy() for n, w in weights.items()}
            self.shelf.save(self.key, arrays, self.recipe)
        elif self._shared:
            return
        else:
            arrays = self.shelf.load(self.key)
        self.share(self.key, arrays)
        self._shared = True

    def report(self, store: Store, name: str, conductor: Conductor) -> None:
        _write(self, store, name, conductor)


def trained(record: SweepRecord | None) -> str | None:
    """The trial that has trained the supernet, if one has."""
    for trial in record.trials.values() if record else ():
        if trial["state"] == "complete" and json.loads(trial["config_json"])["phase"] == TRAIN:
            return trial["trial"]
    return None


def _table(settings: NASSettings, space: ArchitectureSpace) -> TableScores:
    return TableScores(settings.table, open_named(settings.table, settings.data_dir), space)


def _trainer(settings: NASSettings) -> Any:
    """The paper that trains the supernet, set up on the data: its `supernet` is as it is before training."""
    paper = settings.trainer()
    setting = Setting(settings.seed, "cpu", settings.data, settings.data_folder, settings.train["steps"])
    try:
        with data_at_hand():
            paper.setup(settings.train_config, setting)
    except UserError:
        raise
    except ValueError as error:  # such as a strategy that makes no sense in the space
        raise UserError(str(error)) from None
    return paper


def _write(search: SupernetRun, store: Store, name: str, conductor: Conductor) -> list[dict[str, Any]]:
    """Writes the rows of the run into the table `architectures`, and the networks that were retrained as files."""
    algorithm = conductor.algorithm
    assert isinstance(algorithm, PhasedSearch)
    rows = _scored(search, algorithm)
    by_text = {row["architecture"]: row for row in rows}
    for text, trials in nas_report.alone(nas_report.completed(store, name)).items():
        row = by_text[text]
        row.update(phase=RETRAIN, **nas_report.alone_columns(trials))
        row["folder"] = nas_report.export_best(search, store, name, trials)
    front = front_within(rows, search.settings.front, search.settings.limits)
    for row, on in zip(rows, front, strict=True):
        row["on_front"] = on
    store.write_derived("architectures", name, rows)
    return rows


def _scored(search: SupernetRun, algorithm: PhasedSearch) -> list[dict[str, Any]]:
    """One row for each architecture that has a score, in the order in which they were proposed."""
    settings, space = search.settings, search.space
    rows: dict[str, dict[str, Any]] = {}
    for job in sorted(algorithm.jobs.values(), key=lambda job: job.number):
        if job.config["phase"] == RETRAIN:
            continue
        about = job.attrs.get("jobs", [])
        for text, inner in zip(members(job.config), about, strict=True):
            architecture = space.parse(text)
            if architecture not in algorithm.scores or text in rows:
                continue
            rows[text] = {
                "number": inner["number"],
                "architecture": text,
                "space": space.id,
                "options": json.dumps(space.options(architecture)),
                "algorithm": settings.algorithm["name"],
                "supernet": search.key if settings.scoring == "supernet" else None,
                "phase": job.config["phase"],
                "parent": _parent(inner["attrs"]),
                "score": algorithm.scores[architecture],
                "scored_by": search.scored_by,
                "trial": trial_id(job.number, settings.seed),
                **_costs(search, architecture),
            }
    return sorted(rows.values(), key=lambda row: row["number"])


def _costs(search: SupernetRun, architecture: Architecture) -> dict[str, Any]:
    costs = search.costs(architecture)
    return {k: int(v) if k in ("params", "flops") else float(v) for k, v in costs.items()}


def _parent(attrs: dict[str, Any]) -> str | None:
    parent = attrs.get("parent")
    return None if parent is None else str(parent)
