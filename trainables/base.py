"""The contract that every paper fulfils.

A paper's file holds the modules of its equations and one `Paper` subclass that trains them. The
subclass knows PyTorch and its own search space; it knows nothing of Ray, storage or tracking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from fairsweep.search_spaces.space import Space

Mode = Literal["min", "max"]
Split = Literal["train", "validation", "test"]
OWN = "own"  # the data set of the user's own
# Tasks that read such a folder: every paper of ours of one of them has it among its data sets.
OWN_TASKS = frozenset(
    {
        "architecture search",
        "click-through rate prediction",
        "forecasting",
        "graph classification",
        "graph pre-training",
        "heterogeneous node classification",
        "image classification",
        "image denoising",
        "image restoration",
        "image segmentation",
        "in-context learning",
        "link prediction",
        "node classification",
        "node representation learning",
        "recommendation",
        "trajectory forecasting",
    }
)
ENDLESS = 2**31 - 1  # `Fidelity.maximum` of what ends when it does
ORIGINS = ("paper", "direction", "indifference")  # of a claim's margin


class DataError(ValueError):
    """A data set that is unknown, missing on disk, damaged or not to be fetched; says what to do."""


class DataNotFound(DataError):
    """A folder that does not hold the files of a data set, or none given."""


class Unsuited(DataError):
    """Data that a paper's task can read and the paper, as it is configured, cannot be trained on; says why."""


class Pruned(Exception):
    """Raised by a trainable that ends its own trial early; what it is worth is what it has reported."""


class BadReport(ValueError):
    """What a trainable has reported is no metric; names it, its value, the step and what would be right."""


@dataclass(frozen=True)
class Metric:
    """A declared number: its name in the tables, which way is better, and the split it is read on."""

    name: str
    mode: Mode
    split: Split
    unit: str = ""

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`."""
        return a < b if self.mode == "min" else a > b

    @property
    def range(self) -> tuple[float, float] | None:
        """Where its values can lie, if that is bounded: those of a fraction from 0 to 1."""
        return (0.0, 1.0) if self.unit == "fraction" else None


@dataclass(frozen=True)
class Fidelity:
    """How far a trial can be trained, in calls of `step`.

    `minimum` is the first step whose value says something about the final one: a scheduler never
    judges a trial earlier, and the best value of a trial is never taken from before it (a two-stage
    method has not begun its real work there).
    """

    unit: str
    minimum: int
    maximum: int

    @property
    def endless(self) -> bool:
        """Whether nobody knows how long it takes: it ends by itself."""
        return self.maximum >= ENDLESS

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(
                f"fidelity needs 1 <= minimum <= maximum, got minimum={self.minimum} maximum={self.maximum}"
            )


@dataclass(frozen=True)
class Claim:
    """A statement of the paper as data: run `treatment` and `baseline` on the same seeds and compare.

    The effect is treatment minus baseline (`kind="difference"`) or treatment over baseline (`kind="ratio"`), in the
    metric's own units. A claim about the method alone has no baseline (None, `kind="value"`): its effect is the
    metric itself. What is claimed is that the effect is at least `margin` (`direction="at_least"`) or at most
    (`"at_most"`); and, whatever the margin, that it is on that side of `null`, no effect.

    treatment, baseline: values of hyperparameters. An arm may carry its own, so that a baseline runs with its own
    published settings; what an arm does not name is the paper's own for the data.
    origin: where the margin comes from. "paper": a number that stands there; "direction": the paper says better, and
    the margin is `null`; "indifference": a smallest effect of interest. Never a pilot. reason: the number and where it
    stands, or why that effect is the smallest of interest; needed for both.
    reference: the `null` of a claim about a value, if it is not 0. Of a claim that two arms are as good as tied, it is
    the margin: "no effect" is not what such a claim says, and its direction is then its size.
    tunes: hyperparameters that `fairsweep claims --tuned` searches for both arms alike, on validation data, where an
    arm has them and does not differ by them from the other arm; empty where the arms are one method under two
    conditions.
    seeds: pairs that a verdict is given on, at least five; more where ten pairs of a pilot lay near the margin for
    their spread and are cheap. Fixed before the run that is judged.
    """

    name: str
    statement: str
    treatment: Mapping[str, Any]
    baseline: Mapping[str, Any] | None
    metric: str
    margin: float
    origin: Literal["paper", "direction", "indifference"]
    reason: str = ""
    direction: Literal["at_least", "at_most"] = "at_least"
    kind: Literal["difference", "ratio", "value"] = "difference"
    reference: float | None = None
    data: str | None = None
    seeds: int = 5
    steps: int | None = None
    tunes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.baseline is None) != (self.kind == "value"):
            raise ValueError(
                f"claim {self.name}: kind={self.kind!r} and baseline={self.baseline}: a claim without a baseline is"
                " about a value, and only such a one"
            )
        tie = self.origin == "indifference" and self.reference == self.margin
        if self.reference is not None and self.kind != "value" and not tie:
            raise ValueError(
                f"claim {self.name}: reference={self.reference}: belongs to kind='value', or is the margin of an"
                " indifference"
            )
        if self.origin not in ORIGINS:
            raise ValueError(f"claim {self.name}: origin={self.origin!r}: must be {' or '.join(ORIGINS)}")
        if self.origin == "direction" and self.margin != self.null:
            raise ValueError(
                f"claim {self.name}: margin={self.margin}: with origin='direction' it must be {self.null:g}, no effect"
            )
        if self.origin != "direction" and not self.reason:
            raise ValueError(
                f"claim {self.name}: reason is missing: origin={self.origin!r} needs the number and where it stands,"
                " or why it is the smallest effect of interest"
            )
        if self.tunes and self.baseline is None:
            raise ValueError(f"claim {self.name}: tunes={self.tunes}: there is no baseline to tune as well")

    @property
    def null(self) -> float:
        """The effect that is none: `reference` if there is one, else 1 for a ratio, and 0."""
        if self.reference is not None:
            return self.reference
        return 1.0 if self.kind == "ratio" else 0.0

    @property
    def arms(self) -> tuple[Mapping[str, Any], ...]:
        """The configurations that are run: treatment, and baseline if there is one."""
        return (self.treatment,) if self.baseline is None else (self.treatment, self.baseline)


@dataclass(frozen=True)
class Setting:
    """Where and on what a trial runs; everything that is not a hyperparameter.

    data: name of a data set out of `Paper.datasets`; `None` means the first.
    data_dir: folder with data in its public layout, for data sets that no package ships.
    steps: the budget of one trial in calls of `step`; `None` means the paper's own default.
    number: of the configuration within its sweep.
    split_seed: what the parts of the data are drawn by, where they are drawn; `None` means `seed`. With one, trials of
    different seeds have the same parts, and other weights, batches and all else that is random.
    test: whether what is measured on test data is wanted; else `Paper.test` is not called.
    """

    seed: int = 0
    device: str = "cpu"
    data: str | None = None
    data_dir: Path | None = None
    steps: int | None = None
    number: int = 0
    split_seed: int | None = None
    test: bool = True

    @property
    def parts_seed(self) -> int:
        """The seed that the parts of the data are drawn by."""
        return self.seed if self.split_seed is None else self.split_seed


@dataclass(frozen=True)
class Found:
    """A network that a trial has found by training: what an architecture search over such trials takes from it.

    text: what names it; of the notation of its space, if it is the member of one. module: an ordinary network of its
    own, in evaluation mode. input_shape: of one example. full: the network that it was cut out of, if there is one.
    recipe: how it is made of such a network, as JSON (`search_spaces.pruning.apply_recipe`). supernet: the one that it
    is a path of. interface: what it takes and gives, a `search_spaces.interface.Interface`; None: nobody has said.
    cost: what the method that found it says that it costs, in the unit of the method's table.
    """

    text: str
    module: Any
    input_shape: tuple[int, ...]
    interface: Any = None
    full: Any = None
    recipe: Mapping[str, Any] | None = None
    supernet: Any = None
    cost: float | None = None


@runtime_checkable
class FindsNetwork(Protocol):
    """A paper whose trial ends with another network than the one it trains. `found` may be called after any step."""

    def found(self) -> Found:
        """The network of now."""
        ...


@dataclass(frozen=True)
class Tiny:
    """What the contract tests run: a data set that needs no download, and a budget of seconds."""

    data: str
    steps: int
    config: Mapping[str, Any] = field(default_factory=dict)


class Paper(ABC):
    """One published method with its baselines, as something that can be trained step by step.

    paper_steps: data set -> calls of `step` of the paper's own experiment on it, where a sweep's budget does not say.

    Life of a trial: `setup`, then `step` until `finished` or the budget's end, then `test` once.
    `state_dict` / `load_state_dict` may be called between any two steps; a loaded paper continues
    exactly as if it had not been interrupted, so the state includes the optimiser, the learning-rate
    schedule, the best model so far, and every random generator (keep `torch.Generator`s of your own;
    do not draw from the global one).
    """

    slug: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str]
    task: ClassVar[str]
    baselines: ClassVar[str] = ""  # and ablations that the same trainable offers, in a few words
    # Of the parameter that chooses between the method and its baselines: name -> those of its values that do what the
    # task is. Empty: all values of `model`, or else of `method`, where the space fixes it.
    contenders: ClassVar[Mapping[str, Sequence[Any]]] = {}
    datasets: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[Metric, ...]]
    objective: ClassVar[str]
    tiny: ClassVar[Tiny]
    claims: ClassVar[tuple[Claim, ...]] = ()
    paper_steps: ClassVar[Mapping[str, int]] = {}
    attrs: Mapping[str, Any] = {}  # what the trial's row is to say beside numbers: JSON
    remarks: Sequence[str] = ()  # what a reader of the sweep should know
    open_metrics: ClassVar[bool] = False  # `step` may return metrics that are not declared; they are kept
    together: ClassVar[bool] = (
        False  # several processes may train it: its task gives each a part of every batch
    )

    @classmethod
    def space(cls) -> Space:
        """The paper's search space, from `search_spaces/parameters/<slug>.yaml`."""
        return Space.load(cls.slug)

    @classmethod
    def metric(cls, name: str) -> Metric:
        """The declared metric called `name`; KeyError if the paper does not declare it."""
        return {m.name: m for m in cls.metrics}[name]

    @classmethod
    def tested_on(cls, data: str) -> str | None:
        """The test metric that goes with the objective on `data`, where their names do not say so."""
        return None

    @classmethod
    @abstractmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        """The budget of a trial with `config`, for `steps` calls of `step` (None: the default)."""

    @abstractmethod
    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        """Builds data, model and optimiser for `config` (complete, active parameters only).

        Called again on the same object for the next trial; nothing of the last one may remain.
        Raises `DataError` or `ValueError` with the field, its value and what would be right.
        """

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Trains one unit of fidelity and returns the declared train and validation metrics."""

    @classmethod
    def undivided(cls, config: Mapping[str, Any], data: str) -> str | None:
        """Why `config` cannot be trained `together` on `data` though others can, to be read after the paper's name."""
        return None

    @classmethod
    def unsuited(cls, config: Mapping[str, Any], data: str, data_dir: Path | None) -> str | None:
        """Why no trial with `config` can be trained on `data`, which the task can read, to be read after the paper's
        name: "needs arcs, and the graph is undirected". None where one can. DataError where the data are not there.

        Asked before anything is trained; `NetworkPaper` asks for each trial, too. What grows faster than the data
        belongs here as well: "n x n similarities of 100,000 nodes take 40 GB".
        """
        return None

    @classmethod
    def suited(cls, config: Mapping[str, Any], data: str, data_dir: Path | None) -> None:
        """Raises `Unsuited` in one line if `unsuited` says why."""
        if why := cls.unsuited(config, data, data_dir):
            raise Unsuited(f"data={data}: {cls.slug}: {why}")

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the budget is used up or the method's own early stopping has ended training."""

    @abstractmethod
    def test(self) -> dict[str, float]:
        """The declared test metrics of the model with the best validation value. Called once, at the end."""

    def parts(self) -> Mapping[str, str] | None:
        """A digest of what is in each part of the data ("train", "validation", "test"), after `setup`: equal to another
        exactly where the same examples are in the part (`trainables.parts`). None: it does not know."""
        return None

    @property
    def kept_step(self) -> int | None:
        """The step that the model of `test` is of, and the trial's value with it; None: the step of the best objective
        from the fidelity's minimum on."""
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs: tensors, numbers, strings and containers of these."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`; `setup` with the same configuration and setting has been called."""

    # -- for code that reports by itself (`trainables.own`); what is trained step by step leaves these as they are

    @property
    def at(self) -> int | None:
        """The step that `step` has just made, where it is not the one after the last; None: it is."""
        return None

    @property
    def saved_at(self) -> int | None:
        """The step that `state_dict` goes on from, where it is an earlier one; None: that of now."""
        return None

    patience: float | None = None  # seconds that `step` may take before it answers {}; for it alone to say so

    def last_report(self) -> dict[str, float]:
        """What was reported after the last step of the budget, by `test`."""
        return {}

    def conclude(self) -> None:
        """Comes to its end where `test` is not called."""
        return None

    def close(self) -> str | None:
        """Ends what lives on without the object; what is to be said of it, if anything."""
        return None
