"""What lies in a folder, or ships with a package, as the tasks would read it: before anything is trained.

A task reads its data through `Source`s. A new loader is found here once its source lists it; what is said of the data
comes from `trainables.datasets.describe`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairsweep.trainables import catalog
from fairsweep.trainables.base import OWN, DataError, DataNotFound
from fairsweep.trainables.datasets import (
    binary_tables,
    counting,
    ctr,
    deblurring,
    directed_graphs,
    examples,
    graph_domains,
    graph_sets,
    graphs,
    images,
    interactions,
    patterns,
    planetoid,
    recordings,
    segmentation,
    series,
    spatial,
    synthetic_strings,
    texts,
    tracks,
    tudataset,
)
from fairsweep.trainables.datasets.describe import Description, describe
from fairsweep.trainables.datasets.own import templates
from fairsweep.trainables.tasks import denoising, link_prediction, node_classification
from fairsweep.trainables.tasks import heterogeneous as hetero


@dataclass(frozen=True)
class Source:
    """Data sets by name, and those of them that are read from a folder of the user's.

    split: how this task splits them, where it does so in another way than most that read them.
    """

    loaders: Mapping[str, Callable[[Path | None], Any]]
    from_folder: Collection[str]
    split: str = ""


def _own(loader: Callable[[Path | None], Any]) -> Source:
    """Of a task that reads nothing but the user's own so far."""
    return Source({OWN: loader}, (OWN,))


IMAGES = Source(images.LOADERS, ("cifar10", "cifar100", "fashion_mnist", "mnist", OWN))
NODES = Source(
    node_classification.LOADERS, (*planetoid.SIZES, *graphs.GNN_BENCHMARK, *directed_graphs.PUBLIC, OWN)
)
SOURCES: dict[str, tuple[Source, ...]] = {
    "architecture search": (IMAGES,),
    "audio classification": (_own(recordings.own),),
    "click-through rate prediction": (Source(ctr.LOADERS, ("csv", *ctr.PUBLIC, OWN)),),
    "counting": (_own(counting.own),),
    "forecasting": (Source(series.LOADERS, (*series.FILES, OWN)),),
    "heterogeneous node classification": (Source(hetero.LOADERS, hetero.FROM_FOLDER),),
    "graph classification": (Source(graph_sets.LOADERS, (*tudataset.TU, OWN)), NODES),
    "graph pre-training": (
        Source(
            graph_domains.LOADERS,
            (OWN,),
            split="half of the graphs of each downstream set to fit, a quarter each to validate and to test; large"
            " graphs are cut into neighbourhoods of random roots first; all drawn anew for each seed",
        ),
    ),
    "image classification": (IMAGES,),
    "image denoising": (
        Source(denoising.ALONE, tuple(denoising.ALONE)),
        replace(
            IMAGES,
            loaders={name: loader for name, loader in images.LOADERS.items() if name != OWN},
            from_folder=tuple(name for name in IMAGES.from_folder if name != OWN),
            split="two training sets, drawn anew for each seed; the images held out are the same",
        ),
    ),
    "image restoration": (Source(deblurring.LOADERS, ("gopro", OWN)),),
    "image segmentation": (Source(segmentation.LOADERS, (*segmentation.LAYOUTS, OWN)),),
    "in-context learning": (Source(binary_tables.LOADERS, ("table", OWN)),),
    "information plane": (Source(patterns.LOADERS, ("var_u",)),),
    "language modelling": (_own(texts.running),),
    "link prediction": (
        Source(
            {name: found.loader for name, found in link_prediction.SETS.items()},
            (*planetoid.SIZES, OWN),
            split="links to train, to validate and to test, drawn anew for each seed",
        ),
    ),
    "multi-task learning": (_own(examples.multi_task),),
    "node classification": (NODES,),
    "node representation learning": (NODES,),
    "recommendation": (Source(interactions.LOADERS, ("movielens_1m", OWN)),),
    "retrosynthesis": (Source(synthetic_strings.LOADERS, ()),),
    "spatio-temporal forecasting": (_own(spatial.own),),
    "tabular learning": (_own(examples.tabular),),
    "text classification": (_own(texts.classified),),
    "trajectory forecasting": (Source(tracks.LOADERS, (OWN,)),),
}


@dataclass
class Checked:
    """One data set as it was read."""

    data: str
    task: str
    folder: Path | None
    description: Description

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        folder = None if self.folder is None else str(self.folder)
        head = {"data": self.data, "task": self.task, "folder": folder}
        return {**head, **self.description.to_dict()}


def _resolve(what: str) -> tuple[str, list[str]]:
    """The task called `what`, or of the paper called so, and the names of its data sets that can be checked."""
    task = re.sub(r"[-_ ]+", " ", what.lower())
    by_words = {re.sub(r"[-_ ]+", " ", name): name for name in SOURCES}
    if task in by_words:
        name = by_words[task]
        return name, [data for source in SOURCES[name] for data in source.loaders]
    try:
        paper = catalog.get(what)
    except catalog.UnknownPaper as error:
        raise catalog.UnknownPaper(
            f"{what}: neither a task ({', '.join(SOURCES)}) nor a paper ({str(error).split('; ')[-1]})"
        ) from None
    if paper.task not in SOURCES:
        raise DataError(f"{what}: its task, {paper.task}, reads no data that could be checked")
    known = {data for source in SOURCES[paper.task] for data in source.loaders}
    # fashion_mnist_7x7 is made of fashion_mnist.
    wanted = dict.fromkeys(re.sub(r"_\d+x\d+$", "", data) for data in paper.datasets)
    return paper.task, [data for data in wanted if data in known]


def template(what: str, folder: Path | None = None) -> tuple[str, Path, list[str]]:
    """Writes a small example of the layout of data=own for a task or a paper: the task, the folder and its files.

    folder: None: one named after the task. UnknownPaper and DataError as `check`; DataError if something is in it."""
    task, _ = _resolve(what)
    if task not in templates.TEMPLATES:
        raise DataError(f"{what}: its task, {task}, reads no data of one's own")
    folder = folder or Path(re.sub(r"\W+", "_", task))
    return task, folder, templates.write(task, folder)


def _source(task: str, data: str) -> Source:
    return next(source for source in SOURCES[task] if data in source.loaders)


def _read(task: str, data: str, folder: Path | None) -> Checked:
    source = _source(task, data)
    found = describe(source.loaders[data](folder))
    if source.split and not (data == OWN and found.parts):
        found = replace(found, parts={}, classes={}, leaks=None, drawn=source.split)
    return Checked(data, task, folder, found)


def check(what: str, folder: Path | None = None, data: str | None = None) -> list[Checked]:
    """Reads and describes data sets of a task or of a paper.

    data: which; None: without a folder the first that needs none, with one all that lie there. UnknownPaper if `what`
    is neither; DataError if the data are unknown, missing or damaged.
    """
    task, names = _resolve(what)
    if folder is not None and not folder.is_dir():
        raise DataError(f"folder={folder}: there is no such folder")
    if data is not None:
        if data not in names:
            raise DataError(f"data={data}: not a data set of {what}; known: {', '.join(names)}")
        return [_read(task, data, folder)]
    local = [name for name in names if name in _source(task, name).from_folder]
    if folder is None:
        shipped = [name for name in names if name not in local]
        if not shipped:
            raise DataError(f"{what}: needs a folder with one of {', '.join(local)}")
        return [_read(task, shipped[0], None)]
    if not local:
        raise DataError(f"{what}: reads nothing from a folder; its data sets are {', '.join(names)}")
    found = []
    public = [name for name in local if name != OWN]
    for name in public:
        with suppress(DataNotFound):
            found.append(_read(task, name, folder))
    if not found and OWN in local:
        try:
            return [_read(task, OWN, folder)]
        except DataNotFound as error:
            others = f"; holds none of {', '.join(public)} either" if public else ""
            raise DataNotFound(f"{error}{others}") from None
    if not found:
        raise DataNotFound(
            f"folder={folder}: holds none of {', '.join(local)}; --data NAME says what is looked for"
        )
    return found
